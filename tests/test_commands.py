"""Sequences of commands on one store: nothing that is done is lost or computed twice."""

import runpy
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.browse import main as browse
from orchestrator.results.collection import refresh_results
from orchestrator.results.keeping import TEMPORARY
from orchestrator.results.parquet import read_rows
from orchestrator.store.store import Store

_commands = runpy.run_path(str(Path(__file__).with_name("commands.py")))
Bench, Command, kept_in, rows_of = (
    _commands[name] for name in ("Bench", "Command", "kept_in", "rows_of")
)


@pytest.fixture(scope="module")
def bench(tiny_opt_dir, tiny_text_file, tmp_path_factory):
    """Commands in this process, on a tiny model and four texts."""
    texts = tmp_path_factory.mktemp("texts")
    lines = tiny_text_file.read_text(encoding="utf-8").splitlines()
    for i, name in enumerate(("calibration", "train", "one", "two")):
        (texts / f"{name}.txt").write_text("\n".join(lines[10 * i : 10 * i + 10]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        yield Bench(tiny_opt_dir, texts, patch)


@pytest.fixture
def run(bench, tmp_path):
    """`run(killed_at=..., ...)`: run a command on one store; return its sweep and exit code."""
    return lambda **words: bench.run(tmp_path / "out", Command(**words))


def stored(sweep):
    """Return status and perplexity of every row in the store, and of every one in the table."""
    refresh_results(sweep.store)
    table = read_rows(sweep.store.files.join("results.parquet"))
    found = [
        [(r["status"], r["perplexity"]) for r in rows]
        for rows in (sweep.store.rows.read().values(), table)
    ]
    return sorted(found[0], key=str), sorted(found[1], key=str)


AT_ONCE = 12
"""Event that comes after the record is written and before the first stage runs."""
MORE = {"texts": ("one", "two")}, {"keep": "none"}, {"protocol": "alps"}, {"regimes": ("finetune",)}


@pytest.mark.parametrize("change", MORE)
def test_a_changed_command_stopped_at_once_leaves_all_rows(run, change):
    grid = {"methods": ("magnitude",), "sparsities": (0.5, 0.7), "keep": "final"}
    sweep, _ = run(**grid)
    before = stored(sweep)
    assert len(before[0]) == len(before[1]) == 3
    for killed_at in range(0, AT_ONCE, 3):
        run(**{**grid, **change}, killed_at=killed_at)
        assert all({*now} >= {*old} for now, old in zip(stored(sweep), before))
    later, code = run(**{**grid, **change})
    assert code == 0 and all(row in stored(later)[1] for row in before[1])


def test_a_failed_cell_that_is_tried_again_is_failed_until_it_is_done(run):
    sweep, code = run(fails_at=1)
    failed = stored(sweep)
    assert code == 1 and [status for status, _ in failed[1]] == ["done", "failed"]
    for killed_at in range(0, AT_ONCE, 3):
        assert run(retry=True, killed_at=killed_at)[1] is None
        assert stored(sweep) == failed
    assert run()[1] == 1, "only --retry-failed tries it again"
    assert run(retry=True)[1] == 0
    assert {status for status, _ in stored(sweep)[1]} == {"done"}


def test_a_failed_row_that_came_after_another_sweeps_done_one_is_written_again(run):
    sweep, _ = run(sparsities=(0.5,))
    rows = sweep.store.rows
    (key, row), *_ = ((k, r) for k, r in rows.read().items() if r["regime"] != "dense")
    rows.put(key, {**row, "status": "failed", "perplexity": None, "error": "lost the race"})
    _, code = run(sparsities=(0.5,))
    assert code == 0 and rows.get(key)["perplexity"] == row["perplexity"]


@pytest.mark.parametrize("lost", [False, True])
def test_numbers_outlive_a_failed_attempt_to_have_the_model_again(run, capsys, lost):
    sweep, _ = run(keep="none")
    before = stored(sweep)
    assert not kept_in(sweep.store)
    assert run(keep="final", fails_at=0, lost=lost)[1] == 1
    assert stored(sweep) == before
    assert run(keep="final")[1] == 0
    assert stored(sweep) == before and len(kept_in(sweep.store)) == 1


@pytest.mark.parametrize("later", [{"keep": "none"}, {"large": True}])
def test_a_later_sweep_keeps_the_models_that_an_earlier_one_asks_for(run, later):
    sweep, _ = run(keep="all", regimes=("oneshot", "iterative"), sparsities=(0.5, 0.7))
    kept = kept_in(sweep.store)
    assert len(kept) == 7
    run(regimes=("finetune",), sparsities=(0.5, 0.7), **later)
    assert kept_in(sweep.store).items() >= kept.items()


def test_a_sweep_drops_what_it_made_itself_also_after_it_was_stopped(run):
    plain = {"keep": "none", "regimes": ("iterative",), "sparsities": (0.5, 0.7)}
    killed_at, code = 0, None
    while code is None:
        sweep, code = run(**plain, killed_at=killed_at)
        killed_at += 25
    assert code == 0 and not kept_in(sweep.store)


def test_models_that_another_sweep_asks_for_meanwhile_stay(run):
    grid = {"regimes": ("iterative",), "sparsities": (0.5, 0.7)}
    sweep, _ = run(**grid, keep="none", killed_at=70)
    left = kept_in(sweep.store)
    assert left, "the first model is there, and would be dropped"
    run(**grid, keep="all", killed_at=AT_ONCE, texts=("two",))
    run(**grid, keep="none")
    assert left.keys() <= kept_in(sweep.store).keys()


# Sequences ----------------------------------------------------------------------------------------


def some_of(*values):
    """Non-empty tuples of these values, each at most once."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True).map(tuple)


COMMANDS = st.builds(
    Command,
    methods=some_of("magnitude", "wanda"),
    regimes=some_of("oneshot", "finetune", "iterative"),
    sparsities=some_of(0.5, 0.7),
    texts=some_of("one", "two"),
    protocol=st.sampled_from(["sparsegpt", "alps"]),
    keep=st.sampled_from([None, "none", "final", "all"]),
    retry=st.booleans(),
    large=st.booleans(),
    slots=st.sampled_from([1, 3]),
    fails_at=st.none() | st.integers(0, 12),
    lost=st.booleans(),
    killed_at=st.none() | st.integers(0, 250),
)


class Watcher:
    """Rules that hold between any two commands on a store."""

    def __init__(self, bench, out):
        self.bench, self.store = bench, Store(str(out))
        self.rows, self.kept, self.asked, self.policies = {}, {}, set(), {}
        self.shown = set()

    def run(self, command):
        seen = len(self.bench.computed)
        sweep, code = self.bench.run(self.store.root, command)
        again = [stage for stage, again in self.bench.computed[seen:] if again]
        assert not again, "computed although it was there"
        if sweep is not None:
            self.look(sweep, command)
        return sweep, code

    def look(self, sweep, command):
        """Compare the store with what it was, and remember what it is."""
        rows, kept = self.store.rows.read(), kept_in(self.store)
        for key, old in self.rows.items():
            new = rows.get(key)
            assert new is not None, "a row is gone"
            if old["status"] == "done":
                assert new["status"] == "done" and new["perplexity"] == old["perplexity"]
        gone = self.kept.keys() - kept
        assert not gone & self.asked, "models are gone that a recorded sweep asks for"
        assert all(self.kept[s].get(TEMPORARY) == sweep.id for s in gone), "models of other sweeps"
        if self.store.files.exists("sweeps", f"{sweep.id}.json"):
            self.policies[sweep.id] = asked_by(sweep.plan, command)
        # Once it is there and asked for, a model is asked for until it is removed explicitly.
        self.asked |= kept.keys() & set().union(*self.policies.values())
        self.rows, self.kept = rows, kept
        self.look_at_table(rows)

    def look_at_table(self, rows):
        """After an interruption `results.parquet` is made again, and has every row."""
        refresh_results(self.store)
        if not rows:
            return
        table = read_rows(self.store.files.join("results.parquet"))
        named = {(row["cell_id"], row["eval_text"], row["protocol"]): row for row in table}
        assert len(named) == len(table) and named.keys() >= self.shown
        assert {(r["cell_id"], r["eval_text"], r["protocol"]) for r in rows.values()} == {*named}
        self.shown = {*named}
        for row in rows.values():
            shown = named[row["cell_id"], row["eval_text"], row["protocol"]]
            source = rows.get(row.get("_copy_of"), row)
            assert (shown["status"], shown["perplexity"]) == (
                source["status"],
                source["perplexity"],
            )


def asked_by(plan, command):
    """Return the stages whose weights a command keeps, from its words."""
    keep = command.keep or ("final" if command.large else "all")
    if keep == "all":
        return {stage.id for stage in plan.stages.values() if stage.work.stores_weights}
    return {cell.stages[-1] for cell in plan.cells.values()} if keep == "final" else set()


@settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(commands=st.lists(COMMANDS, min_size=2, max_size=5))
def test_nothing_done_is_lost_or_computed_twice(bench, commands):
    with tempfile.TemporaryDirectory() as directory:
        watcher = Watcher(bench, Path(directory) / "out")
        for command in commands:
            watcher.run(command)
        calm = replace(commands[-1], retry=True, fails_at=None, killed_at=None)
        sweep, code = watcher.run(calm)
        fresh, fresh_code = bench.run(Path(directory) / "fresh", calm)
        assert (code, fresh_code) == (0, 0)
        for row, expected in zip(rows_of(sweep), rows_of(fresh), strict=True):
            assert {n: v for n, v in row.items() if v != expected[n]} == {}
        _, code = watcher.run(calm)
        assert code == 0


# The explicit command -----------------------------------------------------------------------------


def test_prune_models_lists_models_asks_and_keeps_every_row(run, capsys, monkeypatch):
    sweep, _ = run(keep="all", sparsities=(0.5, 0.7))
    before, command = stored(sweep), [sweep.store.root, "--prune-models"]
    for answer, left in (("", 2), ("n", 2), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert browse(command) == 0
        said = capsys.readouterr().out
        assert said.count(f"kept by {sweep.id}") == 2 and "magnitude oneshot 0.7" in said
        assert len(kept_in(sweep.store)) == left
    assert stored(sweep) == before
    assert run(keep="all", sparsities=(0.5, 0.7))[1] == 0
    assert browse([*command, "--yes"]) == 0
    assert not kept_in(sweep.store) and stored(sweep) == before


def test_prune_models_needs_an_answer(run, capsys, monkeypatch):
    def nobody(_):
        raise EOFError

    sweep, _ = run(keep="all")
    monkeypatch.setattr("builtins.input", nobody)
    assert browse([sweep.store.root, "--prune-models"]) == 2
    assert "add --yes" in capsys.readouterr().err and len(kept_in(sweep.store)) == 1


def test_prune_models_of_a_store_that_cannot_be_written_says_so(run, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    sweep, _ = run(keep="all")
    monkeypatch.setattr(sweep.store.files.__class__, "write_bytes", refuse)
    assert browse([sweep.store.root, "--prune-models", "--yes"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --prune-models ") and "Read-only file system" in said
    assert said.count("\n") == 1
