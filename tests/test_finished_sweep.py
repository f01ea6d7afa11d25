"""A finished sweep, run again: facts of its models come from its record, and little is imported."""

import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from core.checks import BadInputError
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.inputs import models
from orchestrator.preparation import prepare, write_record
from orchestrator.report import collect
from orchestrator.results import record

HERE = Path(__file__).resolve().parent
MADE = runpy.run_path(str(HERE / "record_stored_sweep.py"))
FLAGS = [*MADE["FLAGS"], "--keep", "none"]
SLOW = {"ray.tune", "ray.train", "ray.data", "pandas", "datasets", "lm_eval"}
SLOW |= {"transformers.modeling_utils", "torch.distributed.tensor", "sympy"}
ENDING = """
import json, runpy, sys
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with a finished sweep, whose record and results this code has written."""
    with tarfile.open(MADE["ARCHIVE"]) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    write_record(planned())
    collect(planned())
    return tmp_path


def planned(*further: str):
    """The sweep of the archive, planned with further flags."""
    return prepare(parse(SweepConfig(), [*FLAGS, *further], ""))


def refuse(*_):
    """Stand in for the checks of a model."""
    raise BadInputError("checked")


@pytest.mark.parametrize("further", [[], ["--dry-run"]])
def test_it_imports_neither_models_nor_tune(place, further):
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(script=str(MADE["SCRIPT"])), *FLAGS, *further],
        env=os.environ | {"HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and "10 already done" in done.stdout.replace("all 10 cells", "10")
    assert SLOW & {*modules} == set()


def test_facts_of_the_record_are_those_of_the_model(place, monkeypatch):
    (model,) = planned().models
    assert not model.is_checked
    monkeypatch.setattr(models, "recorded_facts", lambda *_: None)
    (again,) = planned().models
    assert again.is_checked and again.facts == model.facts


def test_a_model_is_checked_before_it_runs(place, monkeypatch):
    monkeypatch.setattr(models, "checked_facts", refuse)
    assert not planned().cells
    with pytest.raises(BadInputError, match="checked"):
        planned("--seeds", "0", "1")


@pytest.mark.parametrize("differs", ["code", "config"])
def test_facts_that_others_found_are_found_again(place, monkeypatch, differs):
    if differs == "code":
        monkeypatch.setattr(record.versions, "source_hash", lambda: "other")
    else:
        monkeypatch.setattr("orchestrator.inputs.known_models.config_hash", lambda _: "other")
    monkeypatch.setattr(models, "checked_facts", refuse)
    with pytest.raises(BadInputError, match="checked"):
        planned()
