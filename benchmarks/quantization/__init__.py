"""Quantization: quality and speed beside other libraries. `python -m benchmarks.quantization`."""
