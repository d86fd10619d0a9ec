"""Pictures of a trace: one HTML page, Google Model Explorer's JSON, and Graphviz."""
