"""How programs are transformed: passes, pipelines, patterns, instruments."""
