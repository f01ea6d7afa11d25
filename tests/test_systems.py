"""Other systems than Linux: the project needs nothing that Windows or macOS lacks."""

import ast
import errno
import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from core.checks import BadInputError
from core.paths import look_up, require_writable
from core.ranks import default_group
from orchestrator import terminal
from orchestrator.cluster import temp_folder
from orchestrator.results import versions
from orchestrator.store import local_files
from orchestrator.store.files import slashes

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests"
FILES = sorted(path for top in ("core", "orchestrator") for path in (ROOT / top).rglob("*.py"))
FILES += sorted((ROOT / "experiments").glob("*.py"))

SCRIPT = """
import runpy, sys

sys.path.insert(0, "")
tests, folder, model = sys.argv[1:]
hide = runpy.run_path(f"{tests}/without_posix.py")["hide"]
hide()

from orchestrator.browse import main as browse
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.interruption import handled
from orchestrator.page.contents import contents_of
from orchestrator.page.watched import Watched
from orchestrator.preparation import write_record
from orchestrator.report import collect
from orchestrator.terminal import use_any_terminal

use_any_terminal()
flags = ["--models", model, "--out-dir", f"{folder}/out", "--methods", "sparsegpt"]
flags += ["--regimes", "iterative", "--sparsities", "0.5"]
flags += ["--calibration.text", f"{folder}/calibration.txt", "--calibration.num-samples", "8"]
flags += ["--calibration.seq-len", "32", "--finetune.text", f"{folder}/train.txt"]
flags += ["--finetune.tokens", "512", "--finetune.batch-tokens", "128", "--finetune.seq-len", "32"]
flags += ["--eval.texts", f"{folder}/test.txt", "--eval.seq-len", "32", "--eval.max-windows", "4"]
config = parse(SweepConfig(), flags, "")
with handled():
    sweep = runpy.run_path(f"{tests}/walked.py")["walk"](config)
write_record(sweep)
assert collect(sweep) == 0
(watched,) = [Watched(f"{folder}/out")]
assert contents_of([watched.part()])["rows"]["count"] >= 2
assert browse([f"{folder}/out", "--export", "--figures", "svg"]) in (0, 2)
(cell,) = [row["cell_id"] for row in watched.rows() if row["method"] == "sparsegpt"]
assert browse([f"{folder}/out", "--get", cell, f"{folder}/pruned"]) == 0
print("walked", {row["peak_memory_bytes"] > 0 for row in watched.rows()})
"""


@pytest.fixture(scope="module")
def elsewhere(tiny_opt_dir, write_texts, tmp_path_factory):
    """A sweep of one pruned cell without Ray, on a system that has no more than all have."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_texts(folder)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(HERE), str(folder), str(tiny_opt_dir)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return folder, done


def test_a_sweep_without_ray_needs_nothing_of_posix(elsewhere):
    folder, done = elsewhere
    assert done.returncode == 0, done.stdout + done.stderr
    assert "walked {True}" in done.stdout


def is_text_without_encoding(node: ast.AST) -> bool:
    """True for a call that reads or writes text in the encoding of the system."""
    if not isinstance(node, ast.Call) or any(each.arg == "encoding" for each in node.keywords):
        return False
    match node.func:
        case ast.Name("open"):
            modes = [each.value for each in node.args[1:] if isinstance(each, ast.Constant)]
            return not any("b" in mode for mode in modes)
        case ast.Attribute(attr="read_text"):
            return not node.args
        case ast.Attribute(attr="write_text"):
            return len(node.args) < 2
    return False


def test_text_files_name_their_encoding():
    found = []
    for path in FILES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path}:{n.lineno}" for n in nodes if is_text_without_encoding(n)]  # pyright: ignore
    assert not found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_a_checkout_on_windows_has_the_same_bytes(tmp_path):
    clone = tmp_path / "clone"
    settings = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    command = ["git", *settings, "clone", "-q", "--depth", "1", f"file://{ROOT}", str(clone)]
    subprocess.run(command, check=True, timeout=120)
    files = [path for path in (clone / "core" / "assets").rglob("*") if path.is_file()]
    files += (clone / "tests" / "recorded").iterdir()
    assert len(files) > 10
    for path in files:
        assert path.read_bytes() == (ROOT / path.relative_to(clone)).read_bytes(), path


# What Windows and macOS do in another way ---------------------------------------------------------


def test_a_file_is_replaced_once_nobody_reads_it(tmp_path, monkeypatch):
    replace, refused = os.replace, [PermissionError(13, "in use") for _ in range(3)]

    def windows(source, target):
        if refused:
            raise refused.pop()
        replace(source, target)

    (tmp_path / "new").write_text("new")
    monkeypatch.setattr(local_files.os, "replace", windows)
    with pytest.raises(PermissionError):
        local_files.place(tmp_path / "new", tmp_path / "old")
    monkeypatch.setattr(local_files, "IS_WINDOWS", True)
    local_files.place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new" and not refused


def test_files_are_synced_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    opened, open_ = [], os.open

    def windows(path, flags, *rest):
        assert not os.path.isdir(path) and flags & os.O_RDWR
        opened.append(Path(path).name)
        return open_(path, flags, *rest)

    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    monkeypatch.setattr(local_files, "IS_WINDOWS", True)
    monkeypatch.setattr(local_files.os, "open", windows)
    local_files.sync_tree(tmp_path)
    assert opened == ["file"]


def test_paths_of_a_store_have_slashes_as_arrow_writes_them(monkeypatch):
    monkeypatch.setattr(os, "sep", "\\")
    assert slashes(r"C:\sweeps\out") == "C:/sweeps/out"


def test_a_process_alone_trains_without_a_store_in_memory_and_without_nccl(monkeypatch):
    monkeypatch.delattr(dist, "HashStore")
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with default_group():
        value = torch.ones(1)
        dist.all_reduce(value)
        assert dist.get_backend() == "gloo" and value.item() == 1
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", "/long"), ("darwin", "/tmp"), ("win32", tempfile.gettempdir())],
)
def test_ray_has_its_files_where_it_puts_them_on_each_system(platform, folder, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    monkeypatch.setenv("TMPDIR", "/long")
    assert temp_folder.ray_folder() == os.path.join(folder, "ray")


def test_a_system_without_user_numbers_has_no_other_folder_for_ray(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 200)))
    with pytest.raises(BadInputError, match="too long; set RAY_TMPDIR"):
        temp_folder.temp_folder()


def test_an_absent_drive_is_no_place_to_write(monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    monkeypatch.setattr(os.path, "isdir", lambda _: False)
    with pytest.raises(BadInputError, match="is no folder; name another place"):
        require_writable("out-dir", "Q:/out", "Q:/out")


def test_a_name_that_windows_cannot_look_up_is_no_file(monkeypatch):
    def windows(_):
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label is incorrect")

    monkeypatch.setattr(os, "stat", windows)
    assert look_up("models", "org/model?", "org/model?") is None


def test_a_checkout_without_git_has_the_version_of_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert versions.code_version() == metadata.version("prune-sweep")


def test_a_console_of_windows_keeps_the_stream_that_can_write_to_it(monkeypatch):
    class Console(io.TextIOWrapper):
        def isatty(self):
            return True

    console = Console(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(terminal, "IS_WINDOWS", True)
    for name in ("stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, console)
    terminal.use_any_terminal()
    assert sys.stdout is console
    console.write("±")


# Installation -------------------------------------------------------------------------------------


def install(monkeypatch, pip_config, uv_code):
    """Run `.ci/install.py` with a pip that tells these settings, and a uv that ends so."""
    module, calls = runpy.run_path(str(ROOT / ".ci" / "install.py")), []

    def run(command, env=None, **_):
        calls.append((command, env))
        return subprocess.CompletedProcess(
            command, uv_code if "uv" in command[0] else 0, pip_config
        )

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/bin/{name}")
    assert module["main"](["torch"]) == 0
    return calls


def test_uv_installs_with_the_indexes_of_pip(monkeypatch):
    monkeypatch.delenv("UV_INDEX", raising=False)
    monkeypatch.setenv("UV_FIND_LINKS", "/mine")
    told = (
        "global.index-url='https://a/simple'\nglobal.extra-index-url='b c'\n:env:.find-links='d'\n"
    )
    *_, (command, env), compiling = install(monkeypatch, told, uv_code=0)
    assert "compileall" in compiling[0]
    assert command[:3] == ["/bin/uv", "pip", "install"] and command[-1] == "torch"
    assert (env["UV_DEFAULT_INDEX"], env["UV_INDEX"]) == ("https://a/simple", "b c")
    assert env["UV_FIND_LINKS"] == "/mine", "what the user has set stays"


def test_pip_installs_where_uv_fails(monkeypatch):
    *_, (command, _), _ = install(monkeypatch, "", uv_code=1)
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == "torch"
