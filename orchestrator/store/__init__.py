"""The store: files, manifests, stage outputs and rows, whole or not at all."""
