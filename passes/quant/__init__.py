"""Weight-only quantization of linears: calibration, solvers, and the codes that they choose."""
