"""The answers of a search, from rows to the terminal's text."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest

from orchestrator.page.answers import answers, searched
from orchestrator.page.picture import picture
from orchestrator.page.scale import CAP
from orchestrator.plan.crossing import follow
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.found import (
    found_lines,
    found_notes,
    found_on,
    found_table,
    found_text,
    found_within,
)
from orchestrator.results.summary import PLAIN

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row = _synthetic["make_row"]
COARSE = (0.3, 0.5, 0.7, 0.9)
DENSE = 20.0


def perplexity(sparsity: float, factor: float = 1.0) -> float:
    """Return a perplexity that rises with the sparsity."""
    return DENSE * math.exp(factor * sparsity**4 / (1 - sparsity) ** 0.7)


def searched_rows(within=(1.5,), regime="iterative", seeds=(0,), shape=perplexity, **known):
    """Return the rows that a sweep with a search of this curve leaves."""
    factors = {seed: 1 + 0.02 * i for i, seed in enumerate(seeds)}
    curve = {s: {seed: shape(s) * f / DENSE for seed, f in factors.items()} for s in COARSE}
    for ratio in within:
        while (asked := follow(curve, COARSE, ratio).next) is not None:
            curve[asked] = {seed: shape(asked) * f / DENSE for seed, f in factors.items()}
    rows = [make_row(method="dense", regime="dense", sparsity=0.0, seed=None, perplexity=DENSE)]
    for sparsity in curve:
        path = [s for s in COARSE if s < sparsity] + [sparsity]
        facts = {"searched": sparsity not in COARSE, "path": path, "round": len(path), **known}
        facts |= {"regime": regime, "sparsity": sparsity}
        if regime == "iterative":
            facts |= {"schedule": "grid", "budget": "round"}
        for seed, factor in factors.items():
            value = shape(sparsity) * factor
            name = f"{regime} {known.get('method')} {sparsity} {seed}"
            rows.append(make_row(seed=seed, perplexity=value, cell_id=name, **facts))
    return [row | {"within": list(within)} for row in rows]


def board_of(rows):
    """Return the one board of some rows."""
    (board,) = boards_of(curves_from_rows(rows))
    return board


def test_a_search_is_answered_from_its_rows_alone():
    board = board_of(searched_rows(within=(1.1, 1.5)))
    answers = {each.ratio: each for each in found_on(board)}
    for ratio, each in answers.items():
        crossing = each.crossing
        assert crossing.next is None and crossing.value is not None and crossing.high is not None
        assert perplexity(crossing.low) <= ratio * DENSE < perplexity(crossing.high)
    assert found_table(board)[0][1:] == ["1.1×", "1.5×"]


def test_searched_points_are_on_the_curve_but_no_columns():
    """Iterative cells that leave the branch in their last step stay on its curve."""
    rows = searched_rows(within=(1.1, 1.5, 3.0))
    board = board_of(rows)
    assert [target.sparsity for target in board.targets] == list(COARSE)
    (line,) = board.lines
    assert len(line.curve.points) == len(rows) - 1 > len(COARSE)
    assert {p.sparsity for p in line.others} == {p.sparsity for p in line.curve.points} - {*COARSE}


def test_the_picture_draws_what_a_search_has_added():
    board = board_of(searched_rows(within=(1.1, 1.5)))
    (line,) = board.lines
    inside = [point for point in line.points if point.perplexity <= CAP * DENSE]
    assert line.others and picture(board).count("<circle") == len(inside)


def test_the_page_tells_a_tolerance_once_by_the_search_where_one_has_looked():
    board = board_of(searched_rows(within=(1.1, 1.5)))
    lines = dict(zip((1.1, 1.5), found_lines(board)))
    assert lines[1.5] in searched(board) and lines[1.1] not in searched(board)
    told = answers(board)
    assert found_within(board, 1.1) in told and found_within(board, 1.5) in told
    assert "% sparsity" in told, "other tolerances are told by the columns"


def test_the_spread_over_seeds_is_part_of_the_answer():
    (each,) = found_on(board_of(searched_rows(seeds=(0, 1, 2))))
    assert len(each.crossing.seeds) == 3
    assert each.error == max(each.crossing.half_width or 0, each.crossing.spread or 0) > 0
    assert each.text == f"{each.crossing.value:.3f} ± {each.error:.3f}"


@pytest.mark.parametrize(
    ("shape", "text", "note"),
    [
        (lambda s: DENSE * 1.01, "≥ 0.9", "does not cross up to 0.9"),
        (lambda s: DENSE * 9, "< 0.0", ""),
        (lambda s: perplexity(s) if s < 0.61 else math.inf, "0.6", "failed or is not finite"),
        (lambda s: DENSE * 2 if s == 0.3 else perplexity(s), "0.", "not monotone"),
    ],
)
def test_answers_that_are_no_plain_crossing_say_so(shape, text, note):
    board = board_of(searched_rows(shape=shape))
    (each,) = found_on(board)
    assert each.text.startswith(text)
    assert note in " ".join(found_notes(board))


def test_a_cell_that_lacks_leaves_the_answer_open():
    rows = [row for row in searched_rows() if not row.get("searched")]
    board = board_of(rows)
    assert found_on(board)[0].text == "not known"
    assert found_lines(board) == ["Within 1.5× of dense: not known yet."]


def test_the_terminal_names_the_best_and_gives_the_table():
    rows = searched_rows(method="wanda")
    rows += searched_rows(
        method="alps", shape=lambda s: perplexity(s, 0.3), regime="oneshot", schedule=None
    )
    board = board_of(rows)
    (line,) = found_lines(board)
    best = max(found_on(board), key=lambda each: each.reach)
    assert line == f"Within 1.5× of dense: sparsity {best.text} (alps · oneshot)."
    said = found_text(rows)
    assert "alps oneshot" in said and best.text.replace(" ", "") in said
    assert said.replace("±", "").isascii() and max(map(len, said.splitlines())) <= 79


def test_a_sweep_without_a_search_has_no_answers():
    rows = [row | {"within": None} for row in searched_rows()]
    assert found_on(board_of(rows)) == [] and found_text(rows) == ""


def test_the_terminal_says_at_least_in_ascii():
    said = "Within 3× of dense: sparsity ≥ 0.9 (a · b).".translate(PLAIN)
    assert said.isascii() and ">= 0.9" in said
