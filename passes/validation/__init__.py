"""Translation validation: a rewrite's region before and after, run on the same inputs."""
