"""Kernels of our own, each an op with a reference made of ATen ops."""
