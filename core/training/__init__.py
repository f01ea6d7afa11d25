"""Masked training: objectives, parameters that train, checkpoints."""
