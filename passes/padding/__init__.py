"""Padding: recognised in masks, and left out of what an encoder computes."""
