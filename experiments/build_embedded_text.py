"""Builds the embedded text: the Python 3.11 documentation sources, split into disjoint parts.

    apt-get install python3.11-doc
    python experiments/build_embedded_text.py [SOURCE_DIR]

Every file is cut at its section headings into documents of at least 2 KB; every hundred
consecutive documents give 2 to calibration, 2 to validation and 1 to test, the rest to train, so
that all parts cover the whole text alike and share no passage. Written as
`core/assets/text/PART.jsonl.xz`, one `{"source": file, "text": document}` a line.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "core" / "assets" / "text"
SOURCE_DIR = Path("/usr/share/doc/python3.11/html/_sources")
MIN_CHARS = 2048
# Position of a document among a hundred -> the held-out part that takes it.
HELD_OUT = {
    12: "calibration",
    62: "calibration",
    25: "validation",
    75: "validation",
    50: "test",
}
PARTS = ("train", "calibration", "validation", "test")
HEADING = re.compile(r"^(?=\S[^\n]*\n(?:={4,}|-{4,}|\^{4,}|~{4,}|\*{4,}|\"{4,})\n)", re.MULTILINE)


def documents(text: str) -> list[str]:
    """Cuts one file at section headings into pieces of at least MIN_CHARS characters."""
    pieces, current = [], ""
    for section in HEADING.split(text):
        if len(current) >= MIN_CHARS:
            pieces.append(current)
            current = ""
        current += section
    if pieces and len(current) < MIN_CHARS:
        pieces[-1] += current
    elif current.strip():
        pieces.append(current)
    return [piece.strip() + "\n" for piece in pieces]


def main() -> None:
    """Reads every source file in sorted order and writes the four parts."""
    source_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE_DIR
    files = sorted(source_dir.rglob("*.rst.txt"))
    if not files:
        sys.exit(f"no *.rst.txt below {source_dir}: install Debian's python3.11-doc")
    rows: dict[str, list[str]] = {part: [] for part in PARTS}
    index = 0
    for file in files:
        name = str(file.relative_to(source_dir)).removesuffix(".txt")
        for document in documents(file.read_text(encoding="utf-8")):
            part = HELD_OUT.get(index % 100, "train")
            rows[part].append(json.dumps({"source": name, "text": document}, ensure_ascii=False))
            index += 1
    ASSETS.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        data = ("\n".join(rows[part]) + "\n").encode("utf-8")
        path = ASSETS / f"{part}.jsonl.xz"
        path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        size = path.stat().st_size
        print(f"{part:12} {len(rows[part]):5} documents {len(data):9} bytes, {size} compressed")


if __name__ == "__main__":
    main()
