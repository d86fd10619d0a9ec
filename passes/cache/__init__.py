"""Passes on key/value caches."""
