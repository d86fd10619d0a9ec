"""The runtime: a drop-in model whose forward runs captured, verified graphs."""
