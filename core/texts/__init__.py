"""Texts: names and files become text, and text becomes token windows.

- `named_texts.py`: the texts with a short name, their parts and files
- `protocols.py`: the texts and windows of each paper's code
- `sources.py`: name and role -> the text they stand for
- `content.py`: text -> its documents, or one string
- `tokenization.py`: string -> token ids
- `windows.py`: token ids -> windows for calibration, training and evaluation
"""
