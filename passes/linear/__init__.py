"""Linear layers: merged and split again."""
