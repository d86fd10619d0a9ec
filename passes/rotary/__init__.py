"""Rotary position embeddings written out become `graphwright::rotary_embedding`."""
