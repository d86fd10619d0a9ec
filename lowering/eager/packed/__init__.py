"""Packed linears in the eager target: kernels on CPUs and GPUs, and what chooses between them."""
