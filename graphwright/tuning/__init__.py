"""Accuracy-driven tuning: the smallest or fastest precision per group of layers that a metric allows."""
