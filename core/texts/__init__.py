"""Texts: names and files become text, and text becomes token windows."""
