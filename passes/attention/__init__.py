"""Attention: recognised by proving what the region between two matrix products computes."""
