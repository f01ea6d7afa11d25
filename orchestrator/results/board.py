"""The board of a model on an evaluation: lines of methods and regimes, columns of targets.

Place in the flow: curves -> **board** -> the page's heat table, the terminal's table, tables for
papers. `verdict.py` says which cells are the best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from core.targets import Target
from orchestrator.results.curves import Curve, Evaluation
from orchestrator.results.names import CONTROL
from orchestrator.results.points import Point
from orchestrator.results.verdict import Standing, standing


@dataclass(frozen=True)
class Line:
    """One method and regime over all targets."""

    method: str
    regime: str
    settings: str
    """Settings that lines of the same method and regime do not share; empty if they share all."""
    cells: tuple[Point | None, ...]
    """A point for each target of the board."""
    curve: Curve
    """The curve that the line was made of; structures may have curves of their own."""
    others: tuple[Point, ...] = ()
    """Points of the curve that have no column, because only a search has asked for them."""

    @property
    def points(self) -> list[Point]:
        """All points of the line in the order of their targets, those without a column too."""
        present = [point for point in (*self.cells, *self.others) if point is not None]
        return sorted(present, key=lambda point: point.target.order)

    @property
    def is_control(self) -> bool:
        """True for the dense model that was trained like the pruned ones."""
        return self.curve.is_control

    @property
    def name(self) -> str:
        """Method, regime and settings, with points between them."""
        regime = CONTROL if self.is_control else self.regime
        return " · ".join(filter(None, (self.method, regime, self.settings)))


@dataclass(frozen=True)
class Board:
    """All cells of a model on an evaluation."""

    model: str
    evaluation: Evaluation
    dense: Point | None
    targets: tuple[Target, ...]
    lines: tuple[Line, ...]
    """The trained dense model first, if there is one; it is a reference and never the best."""
    standings: tuple[Standing, ...]
    """For each target the order of its cells, as indices into `lines`."""

    @property
    def dense_perplexity(self) -> float | None:
        """Perplexity of the model before pruning; None if it is not known."""
        return self.dense.perplexity if self.dense else None

    def is_best(self, line: int, column: int) -> bool:
        """Return True if a cell is the best of its target, or cannot be told from it."""
        place = self.standings[column]
        return line == place.best or line in place.equals

    def column(self, column: int) -> list[Point | None]:
        """Return the cells of a target, one for each line."""
        return [line.cells[column] for line in self.lines]


def boards_of(curves: Iterable[Curve]) -> list[Board]:
    """Return one board for each model and evaluation."""
    facets = groupby(curves, lambda curve: curve.facet)
    return [make_board(list(members)) for _, members in facets]


def make_board(curves: Sequence[Curve]) -> Board:
    """Return the board of the curves of one model and evaluation."""
    pruned = [curve for curve in curves if curve.regime != "dense"]
    targets = {p.target for c in pruned for p in c.points if not (c.is_control or p.searched)}
    ordered = tuple(sorted(targets, key=lambda target: target.order))
    groups: dict[tuple[str, str, str], dict[Target, Point]] = defaultdict(dict)
    first: dict[tuple[str, str, str], Curve] = {}
    for curve in pruned:
        name = (curve.method, curve.regime, settings_apart(curve, pruned))
        groups[name] |= {point.target: point for point in curve.points}
        first.setdefault(name, curve)
    lines = tuple(
        Line(
            *name,
            tuple(points.get(target) for target in ordered),
            first[name],
            tuple(point for target, point in points.items() if target not in targets),
        )
        for name, points in sorted(groups.items(), key=lambda item: item[0][0] != "dense")
    )
    rivals = [
        [None if line.is_control else line.cells[i] for line in lines] for i in range(len(ordered))
    ]
    return Board(
        curves[0].model,
        curves[0].evaluation,
        next((p for c in curves if c.regime == "dense" for p in c.points), None),
        ordered,
        lines,
        tuple(map(standing, rivals)),
    )


def settings_apart(curve: Curve, curves: Iterable[Curve]) -> str:
    """Return the settings that curves of the same method, regime and structure do not share."""
    kind = (curve.method, curve.regime, curve.structure)
    alike = [c.settings for c in curves if (c.method, c.regime, c.structure) == kind]
    return " ".join(curve.settings.apart_from(alike))
