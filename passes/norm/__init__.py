"""Normalisation written out becomes `aten.rms_norm` and `aten.layer_norm`."""
