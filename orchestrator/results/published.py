"""Perplexities that papers report, and the names under which they report on a model.

`assets/published.csv` is the whole table. The page draws its values as hollow marks, and presets of
published tables compare with it (`publish/comparison.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.checks import BadInputError
from core.paths import local_path
from core.targets import Target
from orchestrator.results.board import Board
from orchestrator.results.names import in_words

if TYPE_CHECKING:
    from core.models.facts import ModelFacts
    from core.models.sources import ModelSource

TABLE = Path(__file__).parent / "assets" / "published.csv"
PUBLISHED_WINDOW = 2048
"""Tokens in each window behind every value of the table."""
LOADERS = {"sparsegpt": "sparsegpt", "wanda": "sparsegpt", "alps": "alps"}
"""The code whose reading of PTB and C4 a protocol has, as core/texts/protocols.py says.

All of these read WikiText-2's test text alike. Wanda's longer windows for other models show in the
window length.
"""
OPT_SIZES = {
    (12, 768): "facebook/opt-125m",
    (24, 1024): "facebook/opt-350m",
    (24, 2048): "facebook/opt-1.3b",
    (32, 2560): "facebook/opt-2.7b",
    (32, 4096): "facebook/opt-6.7b",
}
"""Published models by number of blocks and hidden size."""
OPT_VOCABULARY = 50_272


@dataclass(frozen=True)
class Published:
    """A perplexity that somebody else reported."""

    model: str
    method: str
    mask_structure: str | None
    sparsity: float
    eval_text: str
    perplexity: float
    source: str
    protocol: str = "sparsegpt"
    """Protocol that reads the text like the paper's code."""
    std: float | None = None
    """Standard deviation over seeds, where the paper gives one."""
    num_seeds: int = 1

    def __post_init__(self) -> None:
        assert self.target  # A sparsity that is no fraction is refused here, not when it is drawn.

    def read_as(self, eval_text: str, protocol: str) -> bool:
        """Return True if an evaluation reads the same text the same way."""
        return self.eval_text == eval_text and reading(eval_text, protocol) == self.reading

    def compares(self, model: str, evaluation: Any) -> bool:
        """Return True if a curve is of the same model (hub name or folder), text and windows."""
        same_model = _base(self.model) == _base(model)
        same_text = self.read_as(evaluation.text, evaluation.protocol)
        return same_model and same_text and evaluation.seq_len in (None, PUBLISHED_WINDOW)

    def story(self) -> list[str]:
        """Return the lines that hovering over the mark shows."""
        spread = "" if self.std is None else f" ± {self.std:g} over {self.num_seeds} seeds"
        return [
            f"published: {self.method} · {in_words(self.target)}",
            f"perplexity {self.perplexity:g}{spread}",
            f"{self.source}; whole {self.eval_text} test text, windows of {PUBLISHED_WINDOW}",
        ]

    @property
    def reading(self) -> str:
        """The code whose reading of the text the paper has; equal where two codes read it alike."""
        return reading(self.eval_text, self.protocol)

    @property
    def setting(self) -> tuple[str, str, str | None, float]:
        """Model, method, mask structure and sparsity."""
        return (self.model, self.method, self.mask_structure, self.sparsity)

    @property
    def target(self) -> Target:
        """Sparsity or mask structure."""
        return Target(self.sparsity, self.mask_structure)


def reading(eval_text: str, protocol: str) -> str:
    """Return the code whose reading of a text a protocol has; others read in their own way."""
    loader = LOADERS.get(protocol, protocol)
    return "sparsegpt" if eval_text == "wikitext2" and protocol in LOADERS else loader


def _base(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()


def load_published(path: Path = TABLE) -> list[Published]:
    """Read a table of published values; lines that begin with # are comments."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [
            Published(
                model=row["model"],
                method=row["method"],
                mask_structure=row["mask_structure"] or None,
                sparsity=float(row["sparsity"]),
                eval_text=row["eval_text"],
                perplexity=float(row["perplexity"]),
                source=row["source"],
                protocol=row["protocol"],
                std=float(row["std"]) if row["std"] else None,
                num_seeds=int(row["num_seeds"]),
            )
            for row in rows
        ]


def known_values(path: str | None) -> list[Published]:
    """Return the values to compare with: a user's table, if there is one, then the project's.

    Raises:
        ValueError: the table cannot be read; in one line.
    """
    own: list[Published] = []
    if path is not None:
        try:
            own = load_published(Path(local_path("published", path)))
        except OSError as error:
            raise BadInputError(f"--published {path}: cannot be read ({error.strerror})") from None
        except (KeyError, TypeError, ValueError) as error:
            remedy = f"use the columns of {TABLE.parent.name}/{TABLE.name}"
            raise BadInputError(f"--published {path}: {remedy} ({error!r})") from None
        if not own:
            raise BadInputError(f"--published {path}: has no values; write one a line")
    return first_of_each([*own, *load_published()])


def first_of_each(values: Iterable[Published]) -> list[Published]:
    """Return one value for each setting and reading of a text: the first in the table's order."""
    found: dict[tuple[object, ...], Published] = {}
    for value in values:
        found.setdefault((*value.setting, value.eval_text, value.reading), value)
    return list(found.values())


def published_beside(board: Board, values: Iterable[Published]) -> list[Published]:
    """Return the values of papers on a board's model, text, targets, and methods that were run."""
    methods = {line.method for line in board.lines if not line.is_control}
    return [
        value
        for value in values
        if value.method in methods
        and value.target in board.targets
        and value.compares(board.model, board.evaluation)
    ]


def published_model(source: ModelSource, facts: ModelFacts) -> str | None:
    """Return the name under which papers report on a model; None if they do not.

    A model of the hub goes by its own name. A local directory is recognised by the sizes in its
    config alone, whatever its name is.
    """
    if source.revision is not None:
        return source.path_or_repo
    if facts.model_type != "opt" or facts.vocab_size != OPT_VOCABULARY:
        return None
    return OPT_SIZES.get((facts.num_blocks, facts.hidden_size))
