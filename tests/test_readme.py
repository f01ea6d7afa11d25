"""What the README shows works: its library example runs, its commands parse, its files exist."""

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orchestrator.browse import BrowseConfig
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.flags import parse_flags
from orchestrator.results.parquet import write_parquet

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_example(code: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_example_prunes_half_of_the_embedded_model(tmp_path):
    (example,) = [block for block in BLOCKS if "from core" in block]
    assert run_example(example, tmp_path).split()[-1] == "0.5"


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_rows_open_in_the_tools_that_people_use(library, tmp_path):
    (example,) = [block for block in BLOCKS if block.startswith(f"import {library}\n")]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}: pip install {library}")
    make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]
    rows = [make_row(seed=seed, perplexity=40.0 + seed) for seed in (0, 1, 2)]
    rows.append(make_row(status="failed", sparsity=0.7))
    # Each of these has the sparsity 0.5 as well, and nothing to be averaged with.
    rows += [
        make_row(mask_structure="2:4", perplexity=80.25),
        make_row(model="facebook/opt-1.3b", perplexity=20.25),
        make_row(eval_text="c4", perplexity=60.25),
    ]
    control = {"method": "dense", "regime": "finetune", "sparsity": 0.0}
    rows += [make_row(**control, round=turn, perplexity=25.25 + turn) for turn in (1, 2)]
    write_parquet(rows, tmp_path / "results" / "sweep_opt" / "results.parquet")
    said = run_example(example, tmp_path)
    assert "wanda" in said and "oneshot" in said and "41.0" in said and "0.7" not in said
    alone = ("80.25", "20.25", "60.25", "26.25", "27.25")
    assert not [value for value in alone if value not in said], said


def test_every_browse_command_parses():
    commands = re.findall(r"orchestrator\.browse([^\n#`]*)", README)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.replace("CELL_ID DEST", "cell dest"))
        assert parse_flags(BrowseConfig, words).out_dirs


def test_every_sweep_command_parses():
    text = README.replace("\\\n", " ")
    commands = re.findall(r"""sweep_opt\.py([^\n'"#`]*)""", text)
    assert len(commands) >= 4
    for command in commands:
        assert isinstance(parse(SweepConfig(), shlex.split(command), ""), SweepConfig)


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FLOWS = {
    "README": README[README.index("    text -> token windows") : README.index("Core alone")],
    "CONTRIBUTING": CONTRIBUTING[CONTRIBUTING.index("## Where things are") :].split("\n## ")[0],
}


@pytest.mark.parametrize("name", FLOWS)
def test_every_file_of_the_data_flow_exists(name):
    flow, folder = FLOWS[name], "core"
    for path in re.findall(r"(?:core|orchestrator)/[\w/.]*|\b\w+\.py\b", flow):
        if "/" in path:
            folder = path.split("/")[0]
            assert (ROOT / path).exists(), path
        else:
            assert list((ROOT / folder).rglob(path)), path


def test_the_data_flow_has_the_words_of_core():
    flow = re.compile(r"(?m)^    (text -> .*?|-> .*?)(?:   |$)")
    core = (ROOT / "core" / "__init__.py").read_text(encoding="utf-8")
    steps, told = flow.findall(FLOWS["README"]), flow.findall(core)
    assert steps[:6] == told[:6] and len(steps) == 9


def test_pictures_and_links_exist():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        assert (ROOT / target).exists(), target


def test_make_targets_of_the_first_lines_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("sweep", "test"):
        assert f"make {target}" in README and f"\n{target}:" in makefile


def test_make_clean_leaves_results_alone():
    # Within `make test` a make says which directory it enters.
    command = ["make", "-n", "--no-print-directory", "clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["rm", "-rf", ".venv"], done.stderr


def test_every_folder_of_the_packages_is_installed():
    # setuptools warns at length of folders that it takes for packages and that are not named.
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = [path for root in ("core", "orchestrator") for path in (ROOT / root).rglob("*.*")]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    folders = {name for name in folders if "__pycache__" not in name}
    assert folders == set(settings["tool"]["setuptools"]["packages"])
