"""What crosses a network: noisy channels, how often to use them, and training with one half on each side."""

from dynlib.edge.channel import AWGNChannel, RayleighChannel, unit_power
from dynlib.edge.clusters import k_means
from dynlib.edge.communication import Sent, TokensSent, TokenTransmitter
from dynlib.edge.communication_cost import side_bits, symbols_sent
from dynlib.edge.communication_start import start_code
from dynlib.edge.communication_training import TransmissionLoss, draw_budgets, transmission_loss
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
from dynlib.edge.halves import class_attention, halves
from dynlib.edge.hours import Slot, bad_hour, between, send_through
from dynlib.edge.link import Link, LinkError
from dynlib.edge.messages import Compression
from dynlib.edge.split import SplitClient, SplitServer

__all__ = [
    "AWGNChannel",
    "Compression",
    "Dense",
    "DoublyCompressed",
    "Link",
    "LinkError",
    "LyapunovController",
    "Quantised",
    "RayleighChannel",
    "Sent",
    "Slot",
    "Sparse",
    "SplitClient",
    "SplitServer",
    "TokenTransmitter",
    "TokensSent",
    "TransmissionLoss",
    "bad_hour",
    "between",
    "class_attention",
    "double_compress",
    "draw_budgets",
    "halves",
    "k_means",
    "quantise",
    "random_top_k",
    "send_all",
    "send_through",
    "share_of_each",
    "side_bits",
    "start_code",
    "symbols_sent",
    "top_k",
    "transmission_loss",
    "unit_power",
]
