"""Makes the embedded text: the documentation of three Python projects, in parts without overlap.

    apt-get install python3.11-doc python-sqlalchemy-doc
    pip download --no-deps --no-binary :all: Django==5.2.8 && tar xf django-5.2.8.tar.gz
    python experiments/embedded/build_embedded_text.py [--python DIR] [--django DIR] ...

Each file is cut at its section headings into documents of at least 2 KB. Of every hundred
documents in order, 2 go to calibration, 2 to validation, 1 to test and the rest to train. So all
parts cover the whole text alike, and none shares a passage with another. Each part is written to
`core/assets/text/PART.jsonl.xz`, one `{"source": file, "text": document}` in each line. Takes about
a minute.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "core" / "assets" / "text"
DEBIAN_DOCS = Path("/usr/share/doc")
# Project -> folder and file ending of its sources, in the order of the text.
SOURCES = {
    "python": (DEBIAN_DOCS / "python3.11/html/_sources", ".rst.txt"),
    "django": (Path("django-5.2.8/docs"), ".txt"),
    "sqlalchemy": (DEBIAN_DOCS / "python-sqlalchemy-doc/rst", ".rst"),
}
MIN_CHARS = 2048
# Position of a document in its hundred -> the held-out part that takes it.
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
    """Cut one file at section headings into pieces of at least MIN_CHARS characters."""
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


def sources(folders: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield name and text of every source file: project by project, in sorted order."""
    for project, folder in folders.items():
        ending = SOURCES[project][1]
        files = sorted(folder.rglob(f"*{ending}"))
        if not files:
            sys.exit(
                f"--{project} {folder}: has no files *{ending}; the first lines of this script say "
                "how to get them"
            )
        for file in files:
            name = file.relative_to(folder).as_posix().removesuffix(ending)
            yield f"{project}/{name}.rst", file.read_text(encoding="utf-8")


def main() -> None:
    """Cut every source file into documents and write the four parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for project, (folder, _) in SOURCES.items():
        parser.add_argument(f"--{project}", type=Path, default=folder, metavar="DIR")
    rows: dict[str, list[str]] = {part: [] for part in PARTS}
    index = 0
    for name, text in sources(vars(parser.parse_args())):
        for document in documents(text):
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
