"""Which architectures each target takes: lowered, run by what the target has here, compared with the model."""
