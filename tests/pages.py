"""The Markdown pages of the project, and what they show: code, commands, paths, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = "core|orchestrator|experiments|tests"


def page_names() -> list[str]:
    """Return the paths of all tracked pages, below the root."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        found = [path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.md")]
        return sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *found])
    return sorted(done.stdout.split())


def read(name: str) -> str:
    """Return the text of a page."""
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    """Return the Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def commands(text: str, script: str) -> list[str]:
    """Return the flags of each shown command line that runs a script or module."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    pattern = re.escape(script) + r"""(?![\w/.])([^\n'"#`]*)"""
    return [found for line in lines for found in re.findall(pattern, line)]


def paths(text: str) -> set[str]:
    """Return every path below a folder of the project that a page names."""
    pattern = rf"(?<![\w/.~-])((?:{FOLDERS})/[\w./-]*)"
    found = re.findall(pattern, text)
    return {path.rstrip(".-") for path in found}


def links(text: str) -> list[str]:
    """Return the targets of links and pictures that are no addresses."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in link]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is this, without markup."""
    match = re.search(rf"(?m)^\| {heading} \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", text)
    assert match is not None, heading
    rows = match[1].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
