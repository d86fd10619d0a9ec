"""Activations written out become ATen's own."""
