"""What crosses a network: a noisy channel, how often it may be used, and what to send over it in training."""

from dynlib.edge.channel import AWGNChannel, RayleighChannel, unit_power
from dynlib.edge.clusters import k_means
from dynlib.edge.compression import (
    Dense,
    DoublyCompressed,
    Quantised,
    Sparse,
    double_compress,
    quantise,
    random_top_k,
    send_all,
    share_of_each,
    top_k,
)
from dynlib.edge.controller import LyapunovController

__all__ = [
    "AWGNChannel",
    "Dense",
    "DoublyCompressed",
    "LyapunovController",
    "Quantised",
    "RayleighChannel",
    "Sparse",
    "double_compress",
    "k_means",
    "quantise",
    "random_top_k",
    "send_all",
    "share_of_each",
    "top_k",
    "unit_power",
]
