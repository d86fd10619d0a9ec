"""Sizes the project promises, each measured as a ratio inside one run."""
