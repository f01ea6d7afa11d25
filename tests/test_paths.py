"""Paths that users name: `~`, `$VAR`, URIs of files, odd names, and places that refuse."""

import os
import runpy
import shutil
import stat
from pathlib import Path

import pytest

from core.checks import BadInputError
from core.models.sources import resolve_model
from core.paths import local_path, look_up, require_writable
from core.texts.sources import resolve_text
from orchestrator import browse
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.inputs.task_names import resolve_tasks
from orchestrator.out_dir import require_out_dir
from orchestrator.publish.model_directory import copy_files, require_new
from orchestrator.store.store import MARKER, Store

StoredSweep = runpy.run_path(str(Path(__file__).with_name("stored_sweep.py")))["StoredSweep"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder that is also the working folder, with a variable that names it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["~/x y", "$PLACE/x y", "${PLACE}/x y", "file:~/x y"[5:]])
def test_home_and_variables_are_expanded(home, name):
    assert local_path("out-dir", name) == str(home / "x y")


@pytest.mark.parametrize(
    "uri", ["file:///tmp/a%20b", "file://localhost/tmp/a%20b", "file:/tmp/a b"]
)
def test_a_file_uri_is_a_path(uri):
    assert local_path("out-dir", uri) == "/tmp/a b"


def test_other_names_stay(home):
    for name in ("s3://bucket/a b", "facebook/opt-125m", "a%20b#c?d ä", "embedded", "a@b"):
        assert local_path("out-dir", name) == name
    assert local_path("out-dir", "s3://$PLACE/x") == f"s3://{home}/x"


def test_an_existing_path_with_a_dollar_sign_is_taken_as_it_is(home):
    (home / "$PLACE").mkdir()
    assert local_path("models", "$PLACE") == "$PLACE"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("$NO_SUCH/x", r"the variable \$NO_SUCH is not set"),
        ("~nobody-here/x", "no such home folder"),
        ("file://elsewhere/x", "names no file of this machine"),
        ("file:x", "names no file of this machine"),
        ("file:///tmp/a#b", "ends at its # or ?"),
        ("s3://bucket/a#b", "write %23"),
        ("a\udcffb", "is not a name in UTF-8"),
        ("a\0b", "is not a name in UTF-8"),
    ],
)
def test_a_name_that_stands_for_no_path_is_refused(name, message):
    with pytest.raises(BadInputError, match=rf"^--out-dir [^\n]*{message}[^\n]*$"):
        local_path("out-dir", name)


def test_flags_after_an_equals_sign_are_expanded(home):
    config = parse(SweepConfig(), ["--out-dir=~/x", "--published=$PLACE/p.csv"], "")
    assert config.output.out_dir == str(home / "x")
    assert config.output.published == str(home / "p.csv")


def test_a_relative_table_is_recorded_so_that_another_folder_finds_it(home):
    config = parse(SweepConfig(), ["--published", "p.csv"], "")
    assert config.output.published == str(home / "p.csv")


# Models, texts and tasks --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["~/m", "$PLACE/m", "dir@v2", "facebook/opt-125m", "a b/ä%20#?"])
def test_an_existing_folder_is_the_model(home, tiny_opt_dir, name):
    folder = Path(local_path("models", name))
    shutil.copytree(tiny_opt_dir, folder)
    source = resolve_model(name)
    assert (source.name, source.revision) == (name, None)
    assert source.path_or_repo == str(folder.absolute())


def test_a_file_uri_and_a_link_are_models(home, tiny_opt_dir):
    (home / "a link").symlink_to(tiny_opt_dir)
    assert resolve_model(f"file://{home}/a%20link/").path_or_repo == str(home / "a link")


def test_the_revision_of_a_hub_name_is_behind_the_at(home, monkeypatch):
    asked = []

    def hub_commit(repo, file, revision, kind):
        asked.append((repo, revision))
        raise ConnectionError("no network")

    monkeypatch.setattr("core.models.sources.hub_commit", hub_commit)
    with pytest.raises(BadInputError, match="hf download facebook/opt-125m --revision v2 "):
        resolve_model("facebook/opt-125m@v2")
    assert asked == [("facebook/opt-125m", "v2")]


def test_the_revision_of_a_folder_is_refused(home, tiny_opt_dir):
    shutil.copytree(tiny_opt_dir, home / "m")
    with pytest.raises(BadInputError, match="revision v2 has no effect on a local directory"):
        resolve_model("m@v2")


def test_an_absent_two_part_path_is_said_to_be_no_folder(home, monkeypatch):
    def hub_commit(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr("core.models.sources.hub_commit", hub_commit)
    (home / "models" / "mine-2").mkdir(parents=True)
    start = (
        r"^--models models/mine-1 \(did you mean models/mine-2\?\) \(no such directory\): not in"
    )
    with pytest.raises(BadInputError, match=start):
        resolve_model("models/mine-1")


@pytest.mark.parametrize("name", ["models/my--own", "a/" + "x" * 300, "m/.x", "a..b", "x.git"])
def test_a_name_that_no_folder_and_no_hub_model_can_have_is_refused_in_one_line(home, name):
    with pytest.raises(BadInputError, match=r"^--models [^\n]*no such directory; give[^\n]*$"):
        resolve_model(name)


def test_a_name_that_no_file_can_have_is_refused_in_one_line(home):
    name = "x" * 300
    for resolve in (resolve_model, lambda name: resolve_text(name + ".txt", "evaluation")):
        with pytest.raises(BadInputError, match=r"^--[^\n]* \(File name too long\)$"):
            resolve(name)


@pytest.mark.parametrize("name", ["~/t ä#?.txt", "$PLACE/t.txt", "a@b.txt"])
def test_texts_are_found_by_path(home, name):
    path = Path(local_path("eval.texts", name))
    path.write_text("some text", encoding="utf-8")
    assert resolve_text(name, "evaluation").path == str(path)


def test_a_folder_is_no_text(home):
    (home / "t.txt").mkdir()
    with pytest.raises(BadInputError, match="is a folder; give a text file"):
        resolve_text("t.txt", "evaluation")


def test_workers_read_a_task_by_its_absolute_path(home, monkeypatch):
    monkeypatch.setattr("orchestrator.inputs.task_names.require_tasks", lambda names: None)
    (home / "mine.yaml").write_text("task: mine")
    config = parse(SweepConfig(), ["--eval.tasks", "mine.yaml", "boolq"], "")
    assert [task.name for task in resolve_tasks(config.eval)] == [str(home / "mine.yaml"), "boolq"]


# Places that refuse -------------------------------------------------------------------------------


@pytest.fixture
def locked(monkeypatch):
    """Makes folders that this user may not write, also where the tests run as root."""
    folders = set()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: os.fspath(path) not in folders and access(path, mode)
    )
    return lambda *paths: folders.update(map(str, paths))


def test_a_place_that_refuses_is_named(tmp_path, locked):
    locked(tmp_path / "theirs")
    (tmp_path / "theirs").mkdir()
    require_writable("get", "x", str(tmp_path / "mine" / "below"))
    message = rf"^--get x: cannot be written \(Permission denied: {tmp_path}/theirs\); name another"
    with pytest.raises(BadInputError, match=message):
        require_writable("get", "x", str(tmp_path / "theirs" / "below" / "it"))
    assert list(tmp_path.iterdir()) == [tmp_path / "theirs"], "nothing was tried out"


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_place_below_something_that_is_no_folder_is_refused(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(BadInputError, match=r"(is no folder; name another place|cannot be)"):
        require_writable("export-dir", "x", str(tmp_path / "x" / "below"))


@pytest.mark.parametrize("folder", ["", "rows", "sweeps"])
def test_an_out_dir_of_somebody_else_is_refused_to_a_sweep_and_not_to_a_dry_run(
    tmp_path, locked, folder
):
    store = Store(str(tmp_path / "out"))
    for name in (MARKER, "rows/a.json", "sweeps/b.json"):
        store.files.write_bytes(b"{}", *name.split("/"))
    require_out_dir(store, writes=True)
    locked((tmp_path / "out" / folder).absolute())
    require_out_dir(store, writes=False)
    with pytest.raises(BadInputError, match=r"^--out-dir [^\n]*cannot be written \(Permission den"):
        require_out_dir(store, writes=True)


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 20)])
def test_an_out_dir_with_a_name_too_long_is_refused_before_any_work(home, name):
    with pytest.raises(BadInputError, match=r"^--out-dir [^\n]*\(File name too long\)$"):
        require_out_dir(Store(name), writes=True)


def test_a_store_of_somebody_else_is_exported_to_another_place(
    tmp_path, locked, capsys, monkeypatch
):
    monkeypatch.setattr("orchestrator.publish.export.browser", lambda: None)
    sweep = StoredSweep(tmp_path / "out", [{"sparsity": 0.5, "perplexity": 30.0}])
    sweep.finish(0)
    locked(tmp_path / "out")
    out = str(tmp_path / "out")
    assert browse.main([out, "--export"]) == 2
    assert capsys.readouterr().err == (
        f"error: --export {out}: cannot be written (Permission denied: {out}); name another place "
        "with --export-dir\n"
    )
    assert browse.main([out, "--export", "--export-dir", str(tmp_path / "a b" / "mine")]) == 0
    assert (tmp_path / "a b" / "mine" / "rows.csv").is_file()
    assert browse.main([out, "--export", "--export-dir", "s3://bucket/x"]) == 2
    assert "is a URI; name a local folder" in capsys.readouterr().err


def test_the_copy_of_a_read_only_stage_can_be_written(tmp_path):
    stage = tmp_path / "stage"
    (stage / "below").mkdir(parents=True)
    for file in (stage / "a.json", stage / "manifest.json", stage / "below" / "b.json"):
        file.write_text("{}")
        file.chmod(0o444)
    stage.chmod(0o555)
    copy_files(stage, tmp_path / "copy")
    copied = [path for path in (tmp_path / "copy").rglob("*")]
    assert sorted(path.name for path in copied) == ["a.json", "b.json", "below"]
    assert all(path.stat().st_mode & stat.S_IWUSR for path in [tmp_path / "copy", *copied])


def test_a_model_goes_to_no_place_that_refuses(tmp_path, locked):
    locked(tmp_path)
    with pytest.raises(BadInputError, match=r"--get [^\n]*cannot be written \(Permission denied"):
        require_new(tmp_path / "model")


def test_links_in_a_circle_are_refused_in_one_line(home):
    (home / "a").symlink_to("b")
    (home / "b").symlink_to("a")
    with pytest.raises(BadInputError, match=r"--models a: cannot be read \(Too many levels"):
        look_up("models", "a", "a")
