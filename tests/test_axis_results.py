"""Rows of a sweep with axes: columns, curves, tables and the page tell them apart by these."""

from __future__ import annotations

import json
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
from orchestrator.preparation import prepare, read_texts, trials_of, write_record
from orchestrator.publish.recompute_command import recompute_command
from orchestrator.results.curves import curves_from_rows, label_of
from orchestrator.results.gathering import gather
from orchestrator.results.names import CellName
from orchestrator.results.parquet import to_table
from orchestrator.results.record import grid_columns, labels_of, read_record
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
    assert {*axes} == {c.id for c in sweep.plan.cells.values() if sweep.plan.axes_of(c)}
    found = {tuple(sorted(each.items())) for each in axes.values()}
    assert ((NUM, 4), (TOKENS, 128)) in {tuple(sorted(each)) for each in found}
    (trial,) = trials_of(sweep, dict.fromkeys(sweep.plan.stages, 1.0), 1)
    job = trial_job(sweep, trial, frozenset())
    for cell in job.cells:
        recorded = json.loads(job.run.configs[cell.block])
        told = {name.removeprefix("axis:"): value for name, value in axes.get(cell.id, {}).items()}
        for name, value in told.items():
            group, _, field = name.partition(".")
            assert recorded[group][field] == value
    stored = {
        key: make_row(cell_id=cell["id"], protocol="sparsegpt", eval_text=text)
        | {"stage_id": "s", "_evaluation": "e"}
        for cell in record["cells"]
        for key, text in cell["rows"].items()
    }
    rows = gather(stored, labels_of(record), {}, axes)
    assert {row.get(NUM) for row in rows} == {None, 2, 4}
    assert any(CellName.of_row(row).full.endswith("calibration.num-samples 4") for row in rows)


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
