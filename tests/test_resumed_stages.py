"""A walk that is killed while it prunes goes on after the last block that it saved.

The blocks lie in the store as checkpoints, each with those that are new since the one before.
"""

import runpy
from pathlib import Path

import pyarrow.fs as fs
import pytest

from core.config import CalibrationConfig, EvalConfig, PruneConfig
from core.finished_blocks import block_file
from core.ranks import Ranks
from orchestrator.cluster import worker
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.store.store import Store
from orchestrator.trial import blocks as trial_blocks
from orchestrator.trial.blocks import Blocks
from orchestrator.trial.checkpoints import add_checkpoint, opened_checkpoint
from orchestrator.trial.notice import Notice
from orchestrator.trial.walk import Walk

_walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))
_conftest = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
walk, rows_of = _walked["walk"], _walked["rows_of"]
RANKS, NUM_BLOCKS = Ranks.current(), 4

pytestmark = pytest.mark.usefixtures("one_thread")


class KilledError(BaseException):
    """Stands for a process that is killed."""


@pytest.fixture(scope="module")
def make_config(tmp_path_factory, make_model_dir, write_texts):
    """`make_config(out_dir, seconds=0)`: one pruned model of four blocks, OWL and ALPS."""
    texts = tmp_path_factory.mktemp("texts")
    write_texts(texts)
    model = make_model_dir(_conftest["tiny_llama_config"](num_hidden_layers=NUM_BLOCKS))

    def make(out_dir, seconds=0.0):
        return SweepConfig(
            grid=GridConfig(
                models=(str(model),), methods=("alps",), sparsities=(0.5,), regimes=("oneshot",)
            ),
            calibration=CalibrationConfig(
                text=str(texts / "calibration.txt"), num_samples=4, seq_len=32
            ),
            prune=PruneConfig(allocation="owl"),
            eval=EvalConfig(texts=(str(texts / "test.txt"),), seq_len=32, max_windows=4),
            resources=ResourceConfig(cpus_per_worker=1),
            output=OutputConfig(out_dir=str(out_dir), checkpoint_seconds=seconds),
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(make_config, tmp_path_factory):
    """The out-dir of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    walk(make_config(out))
    return out


def pruned_stage(out):
    """Return the manifest of the pruned stage of a sweep."""
    manifests = Store(str(out)).stages.manifests().values()
    (found,) = [m for m in manifests if m["kind"] == "prune"]
    return found


def kill_after(monkeypatch, index):
    """Let the next walk die once this block is pruned, and saved where it is time to."""
    keep = Blocks.keep

    def keep_and_die(self, block):
        keep(self, block)
        if block.index == index:
            raise KilledError

    monkeypatch.setattr(Blocks, "keep", keep_and_die)


def killed(config, monkeypatch, index):
    """Walk until a block is pruned; return the store and the stage that was being pruned."""
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_after(patch, index)
        walk(config)
    store = Store(config.output.out_dir)
    (stage,) = store.files.names("checkpoints")
    return store, stage


def assert_as_undisturbed(out, undisturbed, resumed):
    """Files, record and rows of both are equal, and this many blocks were taken up."""
    expected, found = pruned_stage(undisturbed), pruned_stage(out)
    assert found["metrics"].pop("blocks_resumed", 0) == resumed
    assert found["files"] == expected["files"]
    measured = _walked["MEASURED"]
    for name, value in expected["metrics"].items():
        assert any(part in name for part in measured) or found["metrics"][name] == value, name
    assert rows_of(out) == rows_of(undisturbed)
    assert not Store(str(out)).files.names("checkpoints"), "checkpoints of a stored stage"


def test_a_killed_prune_stage_goes_on_after_its_last_block(
    make_config, undisturbed, tmp_path, monkeypatch
):
    config = make_config(tmp_path)
    store, stage = killed(config, monkeypatch, 0)
    assert store.checkpoints.steps(stage) == {"1"}
    # Outlier ratios were taken up: the dense model is not measured again.
    monkeypatch.setattr("orchestrator.trial.runners.outlier_ratios", None)
    killed(config, monkeypatch, 2)
    sizes = {
        step: [*store.checkpoints.at(stage, step).manifest()["files"]]
        for step in sorted(store.checkpoints.steps(stage))
    }
    assert sizes == {str(i + 1): [block_file(Path(), i).name] for i in range(3)}
    walk(config)
    assert_as_undisturbed(tmp_path, undisturbed, 3)


def test_a_damaged_block_is_pruned_again_and_all_after_it(
    make_config, undisturbed, tmp_path, monkeypatch, caplog
):
    config = make_config(tmp_path)
    store, stage = killed(config, monkeypatch, 2)
    folder = Path(store.files.join("checkpoints", stage, "2"))
    file = next(folder.rglob(block_file(Path(), 1).name))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    walk(config)
    assert "is damaged" in caplog.text
    assert_as_undisturbed(tmp_path, undisturbed, 1)


def test_blocks_are_saved_by_time_and_a_notice_saves_at_once(
    make_config, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(trial_blocks, "ASK_EVERY_SECONDS", 0.0)
    asked = []

    def notice():
        asked.append(1)
        return len(asked) == 2

    monkeypatch.setitem(walk.__globals__, "Walk", lambda *job: Walk(*job, notice))
    config = make_config(tmp_path, seconds=3600)
    store, stage = killed(config, monkeypatch, 2)
    assert store.checkpoints.steps(stage) == {"2"} and len(asked) == 2
    assert len(store.checkpoints.at(stage, 2).manifest()["files"]) == 2
    walk(config)
    assert_as_undisturbed(tmp_path, undisturbed, 2)


def test_a_notice_saves_once():
    answers = iter([False, True])
    notice = Notice(lambda: next(answers))
    assert [notice.save_now() for _ in range(4)] == [False, True, False, False]


def test_each_worker_asks_ray_for_the_notice(monkeypatch):
    for info, goes in ((None, False), (object(), True)):
        monkeypatch.setattr(worker.ray.train, "get_preemption_info", lambda info=info: info)
        assert worker.machine_goes() is goes


@pytest.fixture(params=["local", "remote"])
def store(request, tmp_path):
    """A store on this disk, and one that is treated as if it were elsewhere."""
    store = Store(str(tmp_path))
    if request.param == "remote":
        store.files.filesystem = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
        store.files.is_local = False
    return store


def add(store, step, after, facts=None, text="x"):
    """Save a checkpoint with one file."""
    record = {"step": step, "after": after, "facts": facts or {}}
    return add_checkpoint(
        store, RANKS, "s", record, lambda folder: write_text(folder / f"file-{step}", text)
    )


def write_text(path, text):
    path.write_text(text)


def read(store):
    """Return the step and the files of the newest whole checkpoint."""
    with opened_checkpoint(store, RANKS, "s") as opened:
        if opened is None:
            return None
        files = {f.name: f.read_text() for f in opened.directory.glob("file-*")}
        return opened.record["step"], files


def test_a_checkpoint_is_read_with_all_that_it_adds_to(store):
    assert read(store) is None
    add(store, 5, add(store, 3, None, text="a"), text="b")
    assert read(store) == (5, {"file-3": "a", "file-5": "b"})
    store.checkpoints.delete("s")
    assert read(store) is None


def test_a_checkpoint_whose_first_part_is_gone_is_removed(store):
    add(store, 5, add(store, 3, None))
    store.files.delete_folder("checkpoints/s/3")
    assert read(store) is None and store.checkpoints.steps("s") == set()


def test_two_sweeps_share_equal_checkpoints_and_never_mix_different_ones(store):
    first = add(store, 3, None, {"ratios": [0.1]}, "a")
    assert add(store, 3, None, {"ratios": [0.1]}, "a") == first
    assert add(store, 3, None, {"ratios": [0.2]}, "b") is None
    assert read(store) == (3, {"file-3": "a"})
