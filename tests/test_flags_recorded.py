"""The flags of both commands have the recorded names, types, defaults and choices."""

from __future__ import annotations

import io
import json
import re
import runpy
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from orchestrator.flags import parse_flags

HERE = Path(__file__).resolve().parent
MADE = runpy.run_path(str(HERE / "record_flags.py"))
FLAGS = json.loads((HERE / "recorded" / "flags.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_the_recorded_ones(command):
    found = json.loads(json.dumps(MADE["flags_of"](MADE["COMMANDS"][command])))
    assert sorted(found) == sorted(FLAGS[command]), "names"
    for flag, entry in FLAGS[command].items():
        assert found[flag] == entry, flag


@pytest.mark.parametrize("command", FLAGS)
def test_the_help_names_every_recorded_flag(command):
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit):
        parse_flags(MADE["COMMANDS"][command], ["--help"])
    named = set(re.findall(r"--[a-z][a-z.-]*[a-z]", said.getvalue()))
    assert {flag for flag in FLAGS[command] if flag.startswith("--")} <= named
