"""Exported models as objects that behave like the transformers models they came from."""
