"""Checkpoints of quantized transformers models in the GPTQ format, read and written without further packages."""
