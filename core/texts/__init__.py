"""Texts: names and files become text, and text becomes token windows.

- `named_texts.py`: the texts with a short name, their parts and files
- `protocols.py`: the texts and windows of each paper's code
- `sources.py`: name and role -> the text they stand for
- `unpacking.py`: bytes of a file -> unpacked, decoded
- `forms.py`: prose, JSON, a table or markup, by content
- `content.py`: text -> its documents, or one string
- `rows.py`, `tables.py`, `columns.py`: rows of JSON and separated values, of Parquet and Arrow
- `tokenization.py`: string -> token ids
- `windows.py`: token ids -> windows for calibration, training and evaluation
- `known_pieces.py`: training windows of the embedded text, without the tokens of all of it
"""
