"""Frontend for ONNX files: an ONNX graph is executed with torch operators, and that execution is captured."""
