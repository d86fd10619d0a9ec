"""From a program to something that runs: targets, what they support, and artifacts."""
