"""The Intel HPU (Gaudi) target: FX programs and Python modules that call the vendor's operators."""
