"""Canonicalization: many spellings of a computation become one, and what computes nothing goes."""
