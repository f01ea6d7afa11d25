"""Verdicts over seeds: one rule, and the sentences that the page and the terminal make of it."""

import math
import runpy
from pathlib import Path

import pytest

from orchestrator.publish.tables import tables_from_rows
from orchestrator.publish.typesetting import csv_text, markdown
from orchestrator.results.answer import answer, answer_lines, finding
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.student import t_quantile
from orchestrator.results.summary import answers
from orchestrator.results.verdict import compare

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, control = _synthetic["make_row"], _synthetic["control"]
DENSE, cells = _synthetic["DENSE"], _synthetic["seeds"]


def board(*rows):
    (one,) = boards_of(curves_from_rows([DENSE, *rows]))
    return one


def by_seed(*values, first=0):
    return {first + i: value for i, value in enumerate(values)}


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 3.7, 9, 30, 200])
def test_quantiles_of_students_t_are_scipys(freedom):
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)


def test_common_seeds_are_compared_in_pairs():
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    # Both vary far more over seeds than they differ on any seed.
    first, second = by_seed(40.0, 50.0, 60.0), by_seed(40.9, 51.0, 61.5)
    lead = compare(first, second)
    logs = [math.log(first[i] / second[i]) for i in range(3)]
    low, high = stats.t.interval(0.95, 2, sum(logs) / 3, stats.sem(logs))
    assert (lead.word, lead.basis, lead.seeds) == ("leads", "paired", 3)
    assert (math.log(lead.low), math.log(lead.high)) == pytest.approx((low, high))
    assert compare(second, first).word == "trails"


def test_other_seeds_are_compared_by_welchs_test():
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    first, second = by_seed(40.0, 40.4, 40.1), by_seed(44.0, 45.0, first=7)
    lead = compare(first, second)
    logs = [[math.log(v) for v in seeds.values()] for seeds in (first, second)]
    known = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    assert lead.basis == "welch"
    assert (math.log(lead.low), math.log(lead.high)) == pytest.approx(tuple(known))


def test_one_seed_supports_no_claim_and_no_seed_at_all_is_exact():
    assert compare({0: 40.0}, {0: 90.0}).word == "unknown"
    assert compare({0: 40.0}, {1: 90.0, 2: 91.0}).word == "unknown"
    assert compare({None: 40.0}, {None: 40.1}).word == "leads"
    assert compare({None: 40.0}, {None: 40.0}).word == "same"
    assert compare(by_seed(40.0, 41.0, 40.5), {None: 90.0}).word == "leads"


def test_two_seeds_need_a_lead_that_a_t_of_12_7_allows():
    assert compare(by_seed(40.0, 41.0), by_seed(44.0, 44.0)).word == "level"
    assert compare(by_seed(40.0, 40.1), by_seed(44.0, 44.1)).word == "leads"


def test_a_survivor_is_never_the_best_and_nobody_advises_seeds_that_were_run():
    rows = [*cells("sparsegpt", 49.0, "failed", "failed"), *cells("wanda", 60.1, 60.0, 60.2)]
    one = board(*rows)
    assert one.lines[one.standings[0].best].method == "wanda"
    told = finding(one, 0)
    assert told.best == "At sparsity 0.5: wanda · oneshot with 60.1±0.1 (3 seeds), 2.17× dense."
    assert "--seeds" not in told.certainty
    assert told.lost == "Not counted: sparsegpt · oneshot (49.00 on 1 of 3 seeds, failed)."
    (table,) = tables_from_rows([DENSE, *rows])
    assert "| sparsegpt oneshot | 49.00! |" in markdown(table)
    assert "| wanda oneshot | **60.1±0.1** |" in markdown(table)
    assert "wanda oneshot with 60.1±0.1" in answers([DENSE, *rows])


def test_a_cell_whose_seeds_are_not_there_yet_is_not_whole():
    rows = [*cells("sparsegpt", 49.0), *cells("wanda", 60.1, 60.0, 60.2)]
    one = board(*rows)
    assert one.lines[one.standings[0].best].method == "wanda"
    assert "49.00 on 1 of 3 seeds, the others not there yet" in finding(one, 0).lost


def test_cells_that_seeds_cannot_tell_from_the_best_are_named_with_it():
    rows = [*cells("sparsegpt", 39.0, 41.0, 40.0), *cells("wanda", 40.5, 40.8, 41.7)]
    one = board(*rows, *cells("magnitude", 90.0, 91.0, 92.0))
    told = finding(one, 0).certainty
    assert told.startswith("Not sure: seeds cannot tell it from wanda · oneshot (95 %: −")
    best = [line.method for i, line in enumerate(one.lines) if one.is_best(i, 0)]
    assert best == ["sparsegpt", "wanda"]
    (table,) = tables_from_rows([DENSE, *rows])
    assert "with all that seeds cannot tell from it" in table.caption
    assert markdown(table).count("**") == 4


def test_a_clear_lead_says_how_large_it_is_at_least():
    one = board(*cells("sparsegpt", 39.0, 39.1, 39.2), *cells("wanda", 42.0, 42.3, 42.2))
    assert finding(one, 0).certainty == (
        "Clear: wanda · oneshot is next, 7.8 % higher (95 %: +7.1 % to +8.6 %, 3 common seeds)."
    )


def test_what_one_seed_or_one_cell_tells_is_said():
    assert finding(board(*cells("wanda", 40.0)), 0).certainty == (
        "No other whole cell to compare it with."
    )
    assert finding(board(*cells("sparsegpt", 40.0), *cells("wanda", 44.0)), 0).certainty == (
        "No claim: wanda · oneshot is next, 10 % higher, but one seed tells no spread; "
        "add --seeds 0 1 2."
    )


def test_what_a_lead_owes_to_training_is_said():
    tuned = cells("wanda", 38.0, regime="finetune", num_finetune_tokens=1024)
    notes = finding(board(*tuned, *cells("wanda", 40.0)), 0).notes
    assert "It trained on more than wanda · oneshot: 1,024 against 0 tokens." in notes
    assert "Best without training: wanda · oneshot with 40.00." in notes


def test_the_answer_names_the_highest_target_within_a_tolerance_and_its_certainty():
    rows = cells("sparsegpt", 29.0, sparsity=0.3) + cells("sparsegpt", 30.0, sparsity=0.5)
    rows += cells("sparsegpt", 50.0, sparsity=0.7) + cells("wanda", 31.0, sparsity=0.5)
    assert answer_lines(board(*rows)) == [
        "Within 10 % of dense: 50 % sparsity (sparsegpt · oneshot, one seed).",
        "Within 2×: 70 % sparsity (sparsegpt · oneshot, one seed).",
    ]
    assert answer(board(*rows), 1.02) == (
        "Within 2 % of dense: no target of this sweep; 30 % sparsity costs 4.8 %."
    )
    doubtful = board(*cells("wanda", 28.0, 31.0, 30.0))
    assert "3 seeds, not sure: 95 % reach 1.22×" in answer(doubtful, 1.1)
    assert "(wanda · oneshot, 3 seeds)" in answer(doubtful, 1.5)


def test_structures_within_the_tolerance_are_named_beside_the_sparsity():
    rows = cells("wanda", 29.0) + cells("wanda", 30.0, mask_structure="2:4")
    assert answer(board(*rows), 1.1).endswith("50 % sparsity (wanda · oneshot, one seed); 2:4 too.")


def test_a_method_without_seeds_has_none_in_common_with_another():
    bare = [r | {"seed": None, "cell_id": "bare"} for r in cells("magnitude", 90.0)]
    told = finding(board(*cells("wanda", 40.0, 41.0, 40.5), *bare), 0).certainty
    assert "3 seeds against a value that no seed changes" in told and "common" not in told


def test_that_a_leader_failed_at_the_next_target_is_said():
    rows = cells("alps", 30.0) + cells("alps", "failed", sparsity=0.7) + cells("wanda", 31.0)
    assert "alps · oneshot failed at sparsity 0.7." in finding(board(*rows), 0).notes


def test_adaptation_to_the_text_rests_on_the_seeds_of_the_control():
    trained = {"regime": "finetune", "num_finetune_tokens": 1024}
    rows = cells("wanda", 31.0, 31.1, 31.2, **trained)
    for values, said in (
        ((27.6,), "one seed cannot tell if any of it"),
        ((27.0, 27.01, 27.02), "part of what training wins back is adaptation"),
        ((28.0, 28.01, 28.02), "none of what training wins back is adaptation"),
        ((27.0, 28.5, 27.5), "seeds cannot tell if any of it"),
    ):
        tuned = [control(1, v, num_finetune_tokens=1024, seed=i) for i, v in enumerate(values)]
        assert said in " ".join(finding(board(*rows, *tuned), 0).notes)


def test_regimes_that_meet_at_one_number_are_one_entry():
    rows = cells("wanda", 30.0, 30.5, regime="finetune", num_finetune_tokens=1024)
    rows += [r | {"regime": "iterative", "cell_id": f"i{r['seed']}"} for r in rows]
    assert (
        "At sparsity 0.5: wanda · finetune = wanda · iterative with"
        in finding(board(*rows), 0).best
    )


def test_no_cell_of_a_csv_is_a_formula():
    text = csv_text(["a", "b"], [["=1+1", -1.5], ["@x", "plain"]])
    assert text.splitlines()[1:] == ["'=1+1,-1.5", "'@x,plain"]
