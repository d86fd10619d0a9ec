"""Coverage: every architecture of transformers, made tiny, captured, optimised and compared with the original."""
