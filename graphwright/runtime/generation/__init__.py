"""Generation: decode steps on a static key/value cache, under the unchanged `generate`."""
