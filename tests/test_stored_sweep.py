"""A sweep that an earlier version stored: all of it is found done, and made anew it is the same.

The archive and the flags of the sweep are those of record_stored_sweep.py, which ran it on Ray.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
import tarfile
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from pyarrow import parquet
from without_ray import without_ray

from orchestrator import cli
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.dry_run import describe_plan
from orchestrator.preparation import prepare, read_texts, trials_of
from orchestrator.report import collect
from orchestrator.results.parquet import read_rows
from orchestrator.store.store import Store

HERE = Path(__file__).resolve().parent
MADE = runpy.run_path(str(HERE / "record_stored_sweep.py"))
TIMES = {"finished_at", "published_at", "prune_seconds", "finetune_seconds", "evaluate_seconds"}
VERSIONS = {"code_version", "torch_version", "transformers_version", "ray_version"}
RUN = {"config", "facts", "seconds", "peak_memory_bytes", "environment", "machine"}
RUN |= {"upload", "_attempt"}
LATER = {"mask_bytes", "num_parameters", "dense_bytes", "sparse_bytes"}
"""Facts that stages and rows tell since the archive was made."""
CHANGING = TIMES | VERSIONS | RUN | LATER
"""Names whose values differ from run to run or from version to version."""
CLOSE, ELSEWHERE, NARROW = 1e-4, 0.12, 0.15
"""Parts of their size by which numbers may differ: on a processor like that of the archive, on
others, and on those without AVX-512. There sums come in another order, and by it SparseGPT's masks
of this small sweep differ: layer errors by up to 10 % between an AMD EPYC and an Intel Xeon, and by
up to 14 % (one matrix by more than 12 %) on an EPYC without AVX-512; perplexities by 0.9 %."""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with the unpacked archive, and with the task that the sweep ran."""
    with tarfile.open(MADE["ARCHIVE"]) as archive:
        archive.extractall(tmp_path, filter="data")
    for name in MADE["TASK_FILES"]:
        (tmp_path / name).write_bytes((HERE / "recorded" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*further: str):
    """The recorded sweep, planned from its command line, over the store below this directory."""
    return prepare(parse(SweepConfig(), [*MADE["FLAGS"], *further], ""))


def stored_record(place: Path) -> dict[str, Any]:
    """The only record of a sweep in the store."""
    (path,) = (place / "out" / "sweeps").iterdir()
    return json.loads(path.read_text(encoding="utf-8"))


def differences(old: Any, new: Any, place: str = "", close: float = CLOSE) -> list[str]:
    """Return a line for each value that differs, numbers by more than a part of their size."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = [f"{place}/{name} is only in one" for name in sorted(({*old} ^ {*new}) - CHANGING)]
        for name in sorted({*old} & {*new} - CHANGING):
            lines += differences(old[name], new[name], f"{place}/{name}", close)
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new))
        return [line for i, each in pairs for line in differences(*each, f"{place}/{i}", close)]
    if isinstance(old, float) and isinstance(new, float):
        return [] if math.isclose(old, new, rel_tol=close) else [f"{place}: {old} is now {new}"]
    return [] if old == new else [f"{place}: {old!r} is now {new!r}"]


def test_every_cell_is_found_done_and_no_stage_is_needed(place):
    sweep = planned("--keep", "none")
    assert sweep.id == stored_record(place)["sweep_id"]
    assert (sweep.cells, sweep.needed, sweep.found.damaged) == ((), set(), {})
    stages = {s.id for s in sweep.plan.stages.values() if s.work.runs_in == "trial"}
    assert stages <= set(sweep.found.manifests)
    texts = read_texts(sweep)
    said = describe_plan(sweep, texts, trials_of(sweep, texts.seconds, 1), 1)
    assert said.startswith("10 cells, 10 already done; 0 stages to run")


def test_every_task_evaluation_is_found_done(place):
    sweep = planned(
        "--keep",
        "final",
        "--eval.tasks",
        MADE["TASK_FILES"][0],
    )
    assert len(sweep.plan.task_stages()) == 10 and not sweep.missing_tasks()


def test_manifests_name_the_stages_of_the_plan(place):
    sweep = planned("--keep", "none")
    for stage in sweep.plan.stages.values():
        if stage.id in sweep.found.manifests:
            manifest = sweep.found.manifests[stage.id]
            head = {name: manifest[name] for name in ("id", "kind", "parent", "model", "method")}
            assert head == {name: getattr(stage, name) for name in head}


def test_rows_are_read_as_they_were(place):
    recorded = json.loads((place / "rows.json").read_text(encoding="utf-8"))
    sweep = planned("--keep", "none")
    assert sweep.found.rows == recorded
    keys = {key for cell in stored_record(place)["cells"] for key in cell["rows"]}
    assert keys == {*recorded}


def test_the_recorded_settings_can_be_read(place):
    config = SweepConfig.from_dict(stored_record(place)["config"])
    assert config == parse(SweepConfig(), [*MADE["FLAGS"], *MADE["TASK_FLAGS"]], "")


def test_the_table_is_written_anew_as_it_was(place, capsys):
    path = place / "out" / "results.parquet"
    schema, before = parquet.read_schema(path), read_rows(str(path))
    path.unlink()
    assert collect(planned("--keep", "none")) == 0
    assert parquet.read_schema(path).equals(schema)
    after = read_rows(str(path))
    for row in (*before, *after):
        row["config"] = None
    assert after == before
    assert "task:tiny_choice:acc" in before[0]
    assert "magnitude oneshot" in capsys.readouterr().out


def test_the_archive_holds_the_listed_files_but_weights_and_the_page(place):
    names = (place / "names.txt").read_text(encoding="utf-8").splitlines()
    kept = json.loads((place / "kept.json").read_text(encoding="utf-8"))
    weights = {f"stages/{stage}/{name}" for stage, files in kept.items() for name in files}
    assert weights and weights < {*names}
    assert {*MADE["file_names"](place / "out")} == {*names} - weights - {"curves.html"}


def test_the_archive_names_no_place_of_the_machine_that_made_it(place):
    for name in MADE["file_names"](place / "out"):
        if name.endswith(".json"):
            data = (place / "out" / name).read_text(encoding="utf-8")
            assert '"/' not in data and "= /" not in data, name


def test_the_same_sweep_run_anew_leaves_the_same_store(
    place, tmp_path_factory, monkeypatch, one_thread
):
    fresh = tmp_path_factory.mktemp("fresh")
    for name in MADE["TASK_FILES"]:
        (fresh / name).write_bytes((place / name).read_bytes())
    monkeypatch.chdir(fresh)
    monkeypatch.setattr(sys, "argv", ["sweep_opt.py", *MADE["FLAGS"], *MADE["TASK_FLAGS"]])
    without_ray(monkeypatch)
    # The archive was made with HF_HUB_OFFLINE=1, and transformers saves that with a tokenizer.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert cli.main(SweepConfig(), "") == 0
    recorded, store = Store(str(place / "out")), Store(str(fresh / "out"))
    names = (place / "names.txt").read_text(encoding="utf-8").splitlines()
    # Only a sweep on Ray tells how far it is.
    assert MADE["file_names"](fresh / "out") == [n for n in names if not n.startswith("pulse/")]
    old, new = recorded.stages.manifests(), store.stages.manifests()
    # The archive has no weights; the new store has.
    files = {stage: manifest.pop("files") for stage, manifest in new.items()}
    for manifest in old.values():
        assert manifest.pop("files") == {}
        manifest.pop("dropped", None)
    # The name of a processor does not tell its instructions.
    is_narrow = torch.backends.cpu.get_cpu_capability() == "AVX2"
    is_alike = are_alike(old, new, "machine") and not is_narrow
    close = CLOSE if is_alike else NARROW if is_narrow else ELSEWHERE
    assert not differences(old, new, "stages", close)
    kept = json.loads((place / "kept.json").read_text(encoding="utf-8"))
    found = MADE["kept_files"](store)
    assert {stage: {*each} for stage, each in found.items()} == {s: {*f} for s, f in kept.items()}
    assert {stage for stage, each in files.items() if each} == {*kept}
    assert not differences(recorded.rows.read(), store.rows.read(), "rows", close)
    if is_alike and are_alike(old, new, "threads", "torch_version", "transformers_version"):
        assert found == kept, "masks and weights, bit by bit"


def are_alike(old: dict[str, Any], new: dict[str, Any], *keys: str) -> bool:
    """Return True if both sweeps ran on a like processor, or with the same libraries, by `keys`."""
    (stage, *_) = sorted(old)
    mine, others = (each[stage]["environment"] for each in (old, new))
    return all(mine[key] == others[key] for key in keys)
