"""Inputs: names become models, texts and tokens, checked before anything runs."""
