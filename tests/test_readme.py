"""All pages tell the truth: examples run, commands parse, paths and links exist, tables agree."""

import importlib
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from core.methods import METHODS
from core.models.families import FAMILIES
from core.texts.protocols import PROTOCOLS
from orchestrator.browse import BrowseConfig
from orchestrator.cli import parse
from orchestrator.config import REGIMES, SweepConfig
from orchestrator.flags import parse_flags
from orchestrator.results.parquet import write_parquet

PAGES = runpy.run_path(str(Path(__file__).with_name("pages.py")))
ROOT, read, commands = PAGES["ROOT"], PAGES["read"], PAGES["commands"]
NAMES = PAGES["page_names"]()
README = read("README.md")
BLOCKS = [block for name in NAMES for block in PAGES["code_blocks"](read(name))]
every_page = pytest.mark.parametrize("name", NAMES)


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
    found = [flags for name in NAMES for flags in commands(read(name), "orchestrator.browse")]
    assert len(found) >= 6
    for flags in found:
        words = shlex.split(flags.replace("CELL_ID DEST", "cell dest"))
        assert parse_flags(BrowseConfig, words).out_dirs


def test_every_sweep_command_parses(monkeypatch):
    for name in ("OUT", "refine"):  # Variables that the pages' shell lines set.
        monkeypatch.setenv(name, "swaps")
    found = [flags for name in NAMES for flags in commands(read(name), "experiments/sweep_opt.py")]
    assert len(found) >= 8
    for flags in found:
        words = shlex.split(flags.replace("$refine", "swaps"))
        assert isinstance(parse(SweepConfig(), words, ""), SweepConfig)


@every_page
def test_every_path_that_a_page_names_exists(name):
    named = [path for path in PAGES["paths"](read(name)) if "NAME" not in path]
    absent = [path for path in named if not (ROOT / path).exists()]
    assert not absent


@every_page
def test_every_link_leads_to_a_file_and_a_heading(name):
    for link in PAGES["links"](read(name)):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in PAGES["anchors"](target.read_text(encoding="utf-8")), link


def test_the_readme_is_for_newcomers():
    assert len(README.split()) < 1100


def test_the_tables_of_the_readme_are_complete():
    columns = {}
    for heading in ("method", "regime", "protocol"):
        rows = PAGES["table"](README, heading)
        columns[heading] = [row[0].strip("`") for row in rows]
    families = " ".join(row[1] for row in PAGES["table"](README, "family"))
    assert columns["method"] == list(METHODS)
    assert columns["regime"] == list(REGIMES)
    assert columns["protocol"] == list(PROTOCOLS)
    assert set(FAMILIES) <= set(re.findall(r"`(\w+)`", families))


def test_every_experiment_is_in_the_index():
    folder = ROOT / "experiments"
    index = read("experiments/README.md")
    packages = [path.parent for path in folder.rglob("__init__.py")]
    for package in packages:  # Its docstring is its index.
        told = (package / "__init__.py").read_text(encoding="utf-8")
        assert not [path.name for path in package.glob("[!_]*.py") if path.name not in told]
    files = (path for path in folder.rglob("*.py") if path.parent not in packages)
    scripts = [path.relative_to(folder) for path in files]
    unlisted = [str(path) for path in scripts if f"`{path}`" not in index]
    # Shared by benches and studies; they run nothing by themselves.
    shared = ["benches/original_alps.py", "benches/original_sparsegpt.py", "line_figure.py"]
    assert sorted(unlisted) == shared
    for page in (folder / "studies").glob("*.md"):
        assert f"(studies/{page.name})" in index, page.name


def test_the_flow_of_core_is_told_in_the_same_words():
    flow = re.compile(r"(?m)^    (\S.*?)   +\S")
    steps = flow.findall(read("core/README.md").split("## The flow")[1].split("\n## ")[0])
    assert steps == flow.findall(read("core/__init__.py")) and len(steps) >= 6


@pytest.mark.parametrize("package", ["core", "orchestrator"])
def test_the_docstring_of_a_package_names_its_parts(package):
    told = read(f"{package}/__init__.py")
    parts = [path.parent.name for path in (ROOT / package).glob("*/__init__.py")]
    assert not [part for part in parts if part not in told]
    for named in re.findall(r"[\w/]+\.py\b", told):
        assert (ROOT / package / named).exists(), named


def test_make_targets_of_the_first_lines_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("sweep", "test"):
        assert f"make {target}" in README and f"\n{target}:" in makefile


def test_make_clean_leaves_results_alone():
    # Within `make test` a make says which directory it enters.
    command = ["make", "-n", "--no-print-directory", "clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["rm", "-rf", ".venv"], done.stderr


def test_commits_and_continuous_integration_check_what_make_checks():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checks = makefile.split("\ncheck:")[1].split("\n\n")[0].replace("$(BIN)", ".venv/bin")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [line.strip() for line in checks.splitlines()[1:]]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert "make test" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["version"] and citation["title"] == project["name"]
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]


def test_console_commands_lead_to_functions():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "scripts"
    ]
    assert set(scripts) == {"prune-sweep", "prune-browse"}
    for place in scripts.values():
        module, function = place.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_every_folder_of_the_packages_is_installed():
    # setuptools warns at length of folders that it takes for packages and that are not named.
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = [path for root in ("core", "orchestrator") for path in (ROOT / root).rglob("*.*")]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    folders = {name for name in folders if "__pycache__" not in name}
    assert folders == set(settings["tool"]["setuptools"]["packages"])
