"""What the README shows works: its library example runs, its commands parse, its files exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from orchestrator.cli import parse
from orchestrator.config import SweepConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_prunes_half_of_the_embedded_model(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "0.5"


def test_every_sweep_command_parses():
    text = README.replace("\\\n", " ")
    commands = re.findall(r"""sweep_opt\.py([^\n'"#`]*)""", text)
    assert len(commands) >= 4
    for command in commands:
        assert isinstance(parse(SweepConfig(), shlex.split(command), ""), SweepConfig)


def test_every_file_of_the_data_flow_exists():
    flow = README[README.index("text -> token windows") : README.index("Core alone")]
    folder = "core"
    for path in re.findall(r"(?:core|orchestrator)/\S*|\b\w+\.py\b", flow):
        if "/" in path:
            folder = path.split("/")[0]
            assert (ROOT / path).exists(), path
        else:
            assert list((ROOT / folder).rglob(path)), path


def test_pictures_and_links_exist():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        assert (ROOT / target).exists(), target


def test_make_targets_of_the_first_lines_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("sweep", "test"):
        assert f"make {target}" in README and f"\n{target}:" in makefile
