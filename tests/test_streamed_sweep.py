"""A sweep of a model that does not fit into memory: rows, weights and masks of one that does."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.config import CalibrationConfig, EvalConfig, PruneConfig
from core.models.mask_files import load_masks
from core.models.residence import Streamed
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.store.store import Store

_walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))
walk, rows_of = _walked["walk"], _walked["rows_of"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def make_config(tmp_path_factory, tiny_llama_dir, write_texts):
    """`make_config(out_dir)`: two methods at one sparsity, allocated by OWL, 4 bits."""
    directory = tmp_path_factory.mktemp("texts")
    write_texts(directory)

    def make(out_dir):
        return SweepConfig(
            grid=GridConfig(
                models=(str(tiny_llama_dir),),
                methods=("wanda", "sparsegpt"),
                regimes=("oneshot",),
                sparsities=(0.5,),
            ),
            prune=PruneConfig(allocation="owl", weight_bits=4, quant_group_size=16),
            calibration=CalibrationConfig(
                text=str(directory / "calibration.txt"), num_samples=8, seq_len=32
            ),
            eval=EvalConfig(texts=(str(directory / "test.txt"),), seq_len=32, max_windows=8),
            resources=ResourceConfig(cpus_per_worker=1),
            output=OutputConfig(out_dir=str(out_dir)),
        )

    return make


@pytest.fixture
def small_memory(monkeypatch):
    """No model fits here."""
    monkeypatch.setattr("orchestrator.trial.weights.usable_bytes", lambda *_: 1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_config):
    """The out-dir of the sweep with the model in memory."""
    out = tmp_path_factory.mktemp("whole")
    walk(make_config(out))
    return out


def weights_of(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of every stage that has some, by stage and name."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in out.glob("stages/*/*/model*.safetensors"):
        found.setdefault(path.parents[1].name, {}).update(load_file(path))
    return found


def manifests_of(out: Path):
    return Store(str(out)).stages.manifests()


def require_equal(out: Path, whole: Path) -> None:
    """Compare rows, weights, masks, grids and configs of two out-dirs."""
    assert rows_of(out) == rows_of(whole)
    assert all(row["status"] == "done" for row in rows_of(out).values())
    mine, theirs = weights_of(out), weights_of(whole)
    assert mine.keys() == theirs.keys() and len(mine) == 2
    for stage in mine:
        assert mine[stage].keys() == theirs[stage].keys()
        assert all(torch.equal(mine[stage][name], theirs[stage][name]) for name in mine[stage])
        files = [next((folder / "stages" / stage).glob("*/")) for folder in (out, whole)]
        masks, wanted = (load_masks(folder / "masks.safetensors") for folder in files)
        assert masks.keys() == wanted.keys()
        assert all(torch.equal(masks[name], wanted[name]) for name in masks)
        named, others = ({path.name for path in folder.iterdir()} for folder in files)
        assert others - named == {"model.safetensors"}
        if "scales.safetensors" in others:
            mine_too, wanted = (load_file(folder / "scales.safetensors") for folder in files)
            assert all(torch.equal(mine_too[name], wanted[name]) for name in wanted)
        for name in others - {"manifest.json"}:
            if name.endswith(".json"):
                assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes(), name


def test_a_streamed_sweep_equals_one_in_memory(tmp_path, make_config, whole, small_memory):
    walk(make_config(tmp_path))
    require_equal(tmp_path, whole)
    said = [manifest["environment"].get("streamed") for manifest in manifests_of(tmp_path).values()]
    assert said and set(said) == {True}
    assert not any("streamed" in one["environment"] for one in manifests_of(whole).values())
    assert not [*(tmp_path / ".scratch").iterdir()]


class KilledError(Exception):
    """Stands for a process that is killed."""


def test_a_streamed_stage_goes_on_after_its_last_finished_block(
    tmp_path, make_config, whole, small_memory, monkeypatch
):
    keep, kept = Streamed.keep, []

    def killed(self, part, masks):
        kept.append(part)
        if len(kept) == 2:
            raise KilledError
        keep(self, part, masks)

    monkeypatch.setattr(Streamed, "keep", killed)
    with pytest.raises(KilledError):
        walk(make_config(tmp_path))
    walk(make_config(tmp_path))
    require_equal(tmp_path, whole)
    resumed = [m["metrics"].get("blocks_resumed", 0) for m in manifests_of(tmp_path).values()]
    assert max(resumed) == 2
