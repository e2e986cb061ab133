"""What Triton does in one kernel: adaptive computation modules. Without Triton or a GPU, what it stands for runs."""

from dynlib.kernels.acm import acm_forward, fuse

__all__ = ["acm_forward", "fuse"]
