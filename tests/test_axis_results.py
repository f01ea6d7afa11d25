"""Rows of a sweep with axes: columns, curves, tables and the page tell them apart by these."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pyarrow as pa
import pytest

from core.checks import BadInputError
from core.texts.protocols import PROTOCOLS
from orchestrator.blocks import science_of
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.dry_run import describe_plan
from orchestrator.inputs import models
from orchestrator.jobs import trial_job
from orchestrator.page.contents import page_contents
from orchestrator.plan.kinds import Finetune
from orchestrator.preparation import prepare, read_texts, trials_of, write_record
from orchestrator.publish.recompute_command import recompute_command
from orchestrator.results.curves import curves_from_rows, label_of
from orchestrator.results.gathering import gather
from orchestrator.results.names import CellName
from orchestrator.results.parquet import to_table
from orchestrator.results.record import grid_columns, labels_of, read_record
from orchestrator.results.rows import cell_columns
from orchestrator.results.schema import key_of
from orchestrator.results.summary import summary_table

make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]
NUM, DAMP, TOKENS = (
    f"axis:{name}"
    for name in ("calibration.num_samples", "prune.dampening_frac", "finetune.tokens")
)


def sparsegpt(windows: int, damp: float, perplexity: float, **known):
    """Return a row of a sweep over windows and damping."""
    settings = {"method_settings": json.dumps({"dampening_frac": damp}), NUM: windows, DAMP: damp}
    known = {"calibration_tokens": 16 * windows} | known
    return make_row(method="sparsegpt", perplexity=perplexity, **settings, **known)


ROWS = [sparsegpt(n, damp, 30.0 + n + damp) for n in (128, 16) for damp in (0.1, 0.01)]
ROWS.append(make_row(method="magnitude", perplexity=90.0))


def test_curves_are_named_by_the_axes_alone():
    curves = curves_from_rows(ROWS)
    told = [label_of(curve, curves) for curve in curves if curve.method == "sparsegpt"]
    assert told == [
        f"oneshot · calibration.num-samples {n} · prune.dampening-frac {damp}"
        for n in (16, 128)
        for damp in (0.01, 0.1)
    ]
    plain = next(curve for curve in curves if curve.method == "magnitude")
    assert label_of(plain, curves) == "oneshot" and plain.settings.axes == ()


def test_an_axis_that_lines_share_is_not_named():
    curves = curves_from_rows([sparsegpt(n, 0.1, 30.0) for n in (16, 128)])
    assert label_of(curves[0], curves) == "oneshot · calibration.num-samples 16"


def test_the_table_stays_within_80_columns_and_names_what_differs():
    table = summary_table(ROWS)
    assert "[1] calibration.num-samples 16, prune.dampening-frac 0.01" in table
    assert "[4] calibration.num-samples 128, prune.dampening-frac 0.1" in table
    assert max(map(len, table.splitlines())) < 80
    assert table.index("[1] cal") < table.index("[4] cal")


def test_controls_of_two_trainings_are_neither_averaged_nor_mixed():
    def trained(tokens: int, perplexity: float, **known):
        return make_row(
            perplexity=perplexity, num_finetune_tokens=tokens, **{TOKENS: tokens}, **known
        )

    rows = []
    for tokens, level in ((1000, 20.0), (4000, 19.0)):
        rows.append(trained(tokens, level, method="dense", regime="finetune", sparsity=0.0))
        rows.append(trained(tokens, level + 5, regime="finetune"))
    controls = [curve for curve in curves_from_rows(rows) if curve.is_control]
    assert [[point.perplexity for point in curve.points] for curve in controls] == [[20.0], [19.0]]
    table = summary_table(rows)
    assert "trained alike (finetune.tokens 1000): 20.00 (round 1)" in table
    assert "trained alike (finetune.tokens 4000): 19.00 (round 1)" in table


def test_the_table_of_rows_has_a_column_for_each_axis_with_its_type():
    table = to_table(ROWS)
    assert table.schema.field(NUM).type == pa.int64()
    assert table.schema.field(DAMP).type == pa.float64()
    assert table.column(DAMP).null_count == 1
    words = to_table([make_row(**{"axis:prune.refine": word}) for word in ("None", "swaps")])
    assert words.schema.field("axis:prune.refine").type == pa.string()


def test_the_page_has_the_axes_as_dimensions_and_nothing_twice():
    names = [each["name"] for each in page_contents(ROWS)["dimensions"]]
    assert names[5:] == ["calibration.num-samples", "prune.dampening-frac"]
    (windows,) = [each for each in page_contents(ROWS)["dimensions"] if each["name"] == names[5]]
    assert [value["value"] for value in windows["values"]] == ["16", "128", ""]


# A sweep ------------------------------------------------------------------------------------------


@pytest.fixture
def flags(tiny_opt_dir, write_texts, tmp_path, monkeypatch):
    """A grid of two axes over a tiny model, with texts of its own."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = f"--models {tiny_opt_dir} --methods magnitude sparsegpt --regimes oneshot finetune"
    words += " --sparsities 0.5 --eval.texts test.txt --eval.seq-len 32 --calibration.seq-len 32"
    words += " --calibration.text calibration.txt --calibration.num-samples 2 4"
    words += " --finetune.text train.txt --finetune.seq-len 32 --finetune.tokens 64 128"
    return f"{words} --finetune.batch-tokens 32 --out-dir out".split()


def test_a_sweep_with_axes_plans_each_cell_once_and_records_its_own_settings(flags):
    sweep = prepare(parse(SweepConfig(), flags, ""))
    numbers = [cell.block for cell in sweep.plan.cells.values() if cell.method == "sparsegpt"]
    assert sorted(numbers) == [0, 0, 1, 2, 2, 3]
    write_record(sweep)
    record = read_record(sweep.store, sweep.id)
    assert len(record["blocks"]) == 4
    axes = grid_columns(record)
    trained = {c.id for c in sweep.plan.cells.values() if c.regime == "finetune"}
    assert {*axes} == {c.id for c in sweep.plan.cells.values() if sweep.plan.axes_of(c)} | trained
    assert {NUM: 4, TOKENS: 128, "budget": "round"} in axes.values()
    (trial,) = trials_of(sweep, dict.fromkeys(sweep.plan.stages, 1.0), 1)
    job = trial_job(sweep, trial, frozenset())
    for cell in job.cells:
        recorded = json.loads(job.run.configs[cell.block])
        for name, value in axes.get(cell.id, {}).items():
            group, _, field = name.removeprefix("axis:").rpartition(".")
            assert recorded[group or "finetune"][field] == value
    rows = rows_of(sweep)
    assert {row.get(NUM) for row in rows} == {None, 2, 4}
    assert any(CellName.of_row(row).full.endswith("calibration.num-samples 4") for row in rows)


def rows_of(sweep):
    """Return the rows that a sweep would leave, all with one perplexity."""
    write_record(sweep)
    record, stored = read_record(sweep.store, sweep.id), {}
    for cell in sweep.plan.cells.values():
        works = [sweep.plan.stages[stage].work for stage in cell.stages]
        tokens = sum(work.tokens for work in works if isinstance(work, Finetune))
        known = cell_columns(cell) | {"num_finetune_tokens": tokens, "stage_id": cell.stages[-1]}
        row = make_row(eval_text=record["config"]["eval"]["texts"][0], **known)
        stored |= {key: row | {"_evaluation": key} for key in cell.row_keys()}
    return gather(stored, labels_of(record), {}, grid_columns(record))


def changed(flags, **values):
    """Return flags with other values."""
    words = " ".join(flags)
    for name, value in values.items():
        flag = name.replace("__", ".").replace("_", "-")
        words = re.sub(rf" --{flag}( (?!--)\S+)*", "", words) + f" --{flag} {value}"
    return words.split()


def points_of(rows, control=False):
    """Return the sparsities and rounds of each curve of rows by the curve's label."""
    curves = [c for c in curves_from_rows(rows) if c.is_control == control and c.regime != "dense"]
    turn = {key_of(row): row["round"] for row in rows}
    return {
        label_of(curve, curves): {p.sparsity: turn[p.rows[0]] for p in curve.points}
        for curve in curves
    }


def test_a_cell_that_two_settings_share_is_on_the_lines_of_both(flags):
    """The first round of an iterative cell is the same, whatever a budget gives to the others."""
    words = changed(flags, calibration__num_samples=4, finetune__tokens=64, sparsities="0.5 0.7")
    words = changed(words, methods="sparsegpt", regimes="iterative", finetune__budget="round total")
    rows = rows_of(prepare(parse(SweepConfig(), words, "")))
    assert len(rows) == 1 + 2 + 3
    assert points_of(rows) == {
        f"iterative · finetune.budget {each}": {0.5: 1, 0.7: 2} for each in ("round", "total")
    }
    assert points_of(rows, control=True) == {
        "trained alike · finetune.budget round": {0.5: 1, 0.7: 2},
        "trained alike · finetune.budget total": {0.5: 1, 0.7: 1},
    }
    assert to_table(rows).column("also").null_count == 1 + 1 + 2
    table = summary_table(rows)
    assert all(line.count("40.0") == 2 for line in table.splitlines() if " [" in line)


def test_a_cell_of_an_earlier_sweep_has_the_settings_that_this_one_calls_it(flags):
    words = changed(flags, calibration__num_samples=4, finetune__tokens=64, sparsities="0.5 0.7")
    words = changed(words, methods="sparsegpt", regimes="iterative", finetune__budget="total")
    sweep = prepare(parse(SweepConfig(), words, ""))
    assert {row["budget"] for row in rows_of(sweep)} == {None, "total"}
    record = read_record(sweep.store, sweep.id)
    (first, _) = (c for c in sweep.plan.cells.values() if c.regime == "iterative")
    stored = make_row(**cell_columns(first) | {"budget": "round", "eval_text": "test.txt"})
    (row,) = gather({first.row_keys()[0]: stored}, labels_of(record), {}, grid_columns(record))
    assert row["in_current_grid"] and row["budget"] == "total"


def test_schedules_are_axes_and_share_all_that_does_not_iterate(flags):
    words = changed(flags, calibration__num_samples=4, finetune__tokens=64, sparsities="0.3 0.6")
    words = changed(words, methods="sparsegpt", regimes="oneshot iterative")
    alone = [
        prepare(parse(SweepConfig(), [*words, *more], "")).plan
        for more in ([], ["--schedule", "linear", "--num-rounds", "2"])
    ]
    words = [*words, "--schedule", "grid", "linear", "--num-rounds", "1", "2"]
    sweep = prepare(parse(SweepConfig(), words, ""))
    for plan in alone:
        assert {*plan.cells} < {*sweep.plan.cells} and {*plan.stages} < {*sweep.plan.stages}
    rows = rows_of(sweep)
    assert sum(row["regime"] == "oneshot" for row in rows) == 2
    points = points_of(rows)
    # 0.6 in two equal rounds goes through 0.3, as the grid does; 0.3 in one round is the grid's.
    assert points == {
        "oneshot": {0.3: 1, 0.6: 1},
        "iterative · schedule grid": {0.3: 1, 0.6: 2},
        "iterative · num-rounds 1 · schedule linear": {0.3: 1, 0.6: 1},
        "iterative · num-rounds 2 · schedule linear": {0.3: 2, 0.6: 2},
    }
    assert sum(row["regime"] == "iterative" for row in rows) == 4
    assert {row.get("axis:schedule") for row in rows} == {None, "grid", "linear"}
    said = summary_table(rows)
    assert "schedule grid" in said and "num-rounds 2, schedule linear" in said


def test_the_record_of_a_sweep_gives_the_same_sweep(flags):
    sweep = prepare(parse(SweepConfig(), flags, ""))
    write_record(sweep)
    again = ["--grid", f"out/sweeps/{sweep.id}.json", "--out-dir", "other"]
    other = prepare(parse(SweepConfig(), again, ""))
    assert other.id == sweep.id and other.plan.cells == sweep.plan.cells


def test_the_command_of_a_cell_asks_for_its_own_block_alone(flags):
    words = [*flags, "--finetune.each-lr", "1e-4", "3e-4"]
    sweep = prepare(parse(SweepConfig(), words, ""))
    record = {"command": shlex.join(["python", "x.py", *words])}
    record |= {"blocks": [dict(science_of(block)) for block in sweep.blocks]}
    cell = [c for c in sweep.plan.cells.values() if c.regime == "finetune"][-1]
    row = make_row(
        model=words[1], method=cell.method, regime=cell.regime, calibration_text="x", seed=0
    )
    row["config"] = sweep.settings[cell.block]
    for command in (record, record | {"command": "python x.py --grid file.yaml --out-dir out"}):
        said = shlex.split(recompute_command(command, row))
        narrow = prepare(parse(SweepConfig(), [*said[2:], "--dry-run"], ""))
        assert cell.id in narrow.plan.cells and len(narrow.blocks) == 1


def test_files_of_models_and_texts_are_read_once_for_all_blocks(flags, monkeypatch):
    seen = []
    resolve = models.resolve_model
    monkeypatch.setattr(
        models, "resolve_model", lambda name, **more: seen.append(name) or resolve(name, **more)
    )
    texts = []
    protocol = type(PROTOCOLS["sparsegpt"])
    read = protocol.resolve
    monkeypatch.setattr(
        protocol, "resolve", lambda self, *text: texts.append(text) or read(self, *text)
    )
    prepare(parse(SweepConfig(), flags, ""))
    assert len(seen) == 1 and len(texts) == 3


def test_a_dry_run_tells_what_each_value_costs(flags):
    sweep = prepare(parse(SweepConfig(), [*flags, "--dry-run"], ""))
    texts = read_texts(sweep)
    said = describe_plan(sweep, texts, trials_of(sweep, texts.seconds, 1), 1)
    assert "with calibration.num-samples 4, finetune.tokens 128:" in said
    lines = [line for line in said.splitlines() if line.endswith("for them alone")]
    assert [line.split(",")[0].strip() for line in lines] == [
        "calibration.num-samples 2: 3 cells",
        "calibration.num-samples 4: 3 cells",
        "finetune.tokens 64: 4 cells",
        "finetune.tokens 128: 4 cells",
    ]
    assert max(map(len, lines)) < 80


def test_a_value_that_the_model_cannot_have_is_refused_before_anything_is_written(flags):
    place = flags.index("--calibration.seq-len") + 1
    with pytest.raises(BadInputError, match="--calibration.seq-len 9999: .* reads at most"):
        prepare(parse(SweepConfig(), [*flags[:place], "32", "9999", *flags[place + 1 :]], ""))
    assert not Path("out").exists()
