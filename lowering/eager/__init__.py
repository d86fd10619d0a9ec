"""The eager target: programs that run on PyTorch itself."""
