"""Counts the tokens of each piece of the embedded training text, for sweeps that train on it.

    python experiments/embedded/count_pieces.py

Writes `core/assets/text/train.pieces.json`. By these numbers a sweep tokenises only the pieces that
it trains on. Run this after a change of the text, of the tokenizer, or of the places where texts
are cut. Takes some seconds.
"""

from __future__ import annotations

import json

from core.models.sources import EMBEDDED_DIR
from core.models.tokenizers import load_tokenizer
from core.texts.known_pieces import COUNTS, count_pieces
from core.texts.sources import resolve_text


def main() -> None:
    """Write the file."""
    known = count_pieces(resolve_text("embedded", "finetune"), load_tokenizer(EMBEDDED_DIR))
    COUNTS.write_text(json.dumps(known, separators=(",", ":")) + "\n")
    print(f"{COUNTS}: {len(known['counts'])} pieces, {sum(known['counts']):,} tokens")


if __name__ == "__main__":
    main()
