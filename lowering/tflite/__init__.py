"""TFLite (LiteRT) target: flatbuffers written operator by operator."""
