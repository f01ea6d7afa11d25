"""The help of both commands: complete, readable at 80 columns, the most needed flags first."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest

from core.methods import METHODS
from orchestrator import browse, cli
from orchestrator.browse import BrowseConfig
from orchestrator.config import GridConfig, SweepConfig
from orchestrator.help import FIRST, field_texts, help_text, values_of

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {"prune-sweep": cli.prune_sweep, "prune-browse": browse.main}


@pytest.fixture
def help_of(monkeypatch, capsys):
    """Returns the help of a command at 80 columns."""

    def call(command):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr("sys.argv", [f"/somewhere/bin/{command}", "--help"])
        with pytest.raises(SystemExit) as stop:
            COMMANDS[command]()
        assert stop.value.code == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_longer_than_the_terminal(help_of, command):
    said = help_of(command)
    assert said.startswith(f"usage: {command} ")
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_each_flag_stands_there_once(help_of, command):
    flags = re.findall(r"^  (--[a-z.-]+)", help_of(command), re.MULTILINE)
    assert len(flags) == len(set(flags)) > 5


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_come_before_the_flags(help_of, command):
    above = help_of(command).split("\n  --")[0]
    assert above.count(f"    {command} ") >= 3


def test_every_method_has_its_line(help_of):
    said = help_of("prune-sweep")
    for method in METHODS.values():
        assert re.search(rf"^    {method.name} +{re.escape(method.summary)}$", said, re.MULTILINE)


def test_the_most_needed_flags_come_first(help_of):
    said = help_of("prune-sweep")
    flags = re.findall(r"^  --([a-z.-]+)", said[said.index(FIRST) :], re.MULTILINE)
    assert set(flags[: len(cli.FIRST)]) == set(cli.FIRST)


def test_defaults_are_those_of_the_preset_and_none_is_not_shown():
    preset = SweepConfig(grid=GridConfig(sparsities=(0.25, 0.75), num_rounds=None))
    said = help_text(SweepConfig, preset, "")
    assert "[0.25 0.75]" in said and "[0]" in said
    assert "None" not in said and "False" not in said


@pytest.mark.parametrize("settings", [SweepConfig, BrowseConfig])
def test_every_flag_says_in_plain_words_what_it_does(settings):
    defaults = settings() if settings is SweepConfig else None
    groups = [settings]
    if defaults is not None:
        groups = [type(getattr(defaults, field.name)) for field in dataclasses.fields(settings)]
    for group in groups:
        texts = field_texts(group)
        assert set(texts) >= {field.name for field in dataclasses.fields(group)}
        for name, text in texts.items():
            assert text.endswith("."), name
            assert not re.match(r"(What|Whether|How|Where|Which|Of|As)\b", text), name


def test_the_kind_of_values_is_read_from_the_type():
    assert values_of(int | None) == "INT"
    assert values_of(tuple[float, ...]) == "FLOAT ..."
    assert values_of(float | tuple[float, ...]) == "FLOAT ..."
    assert values_of(tuple[str, str] | None) == "STR STR"
    assert values_of(bool) == ""


def test_the_console_command_has_the_defaults_of_the_script():
    script = runpy.run_path(str(ROOT / "experiments" / "sweep_opt.py"))
    assert script["PRESET"] == SweepConfig()
