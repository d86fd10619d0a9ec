"""The ONNX target: emitters by family, models that run on ONNX Runtime."""
