"""Batch norms in evaluation mode become part of their neighbours' weights."""
