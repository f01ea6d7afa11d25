"""Models: which model a name means, its blocks and prunable matrices, its files."""
