"""Encoder layers: recognised by structure, and brought into their fastest form."""
