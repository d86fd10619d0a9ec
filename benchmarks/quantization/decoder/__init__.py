"""A decoder that is trained here, so that quality is not measured on one model alone."""
