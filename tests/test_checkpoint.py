"""Files of models, masks and half-done training, read back as they were written."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.models.loading import load_model
from core.models.mask_files import MASKS_FILE, PackedMasks, load_masks, save_masks
from core.models.saving import save_model
from core.models.sources import WEIGHTS
from core.ranks import Ranks
from core.training.checkpoints import MOMENTS, copy_rows_, load_training_, save_training

RANKS = Ranks.current()


pytestmark = pytest.mark.usefixtures("one_thread")


def random_mask(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) > 0.5


@pytest.fixture(params=["opt", "llama"])
def model(request, tiny_opt_dir, tiny_llama_dir):
    directory = {"opt": tiny_opt_dir, "llama": tiny_llama_dir}[request.param]
    return load_model(directory, torch.float32)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (7, 64)])
def test_masks_come_back_bit_for_bit(tmp_path, shape):
    masks = {"a.b": random_mask(*shape), "c": torch.zeros(shape, dtype=torch.bool)}
    save_masks(tmp_path / "masks", masks)
    loaded = load_masks(tmp_path / "masks")
    assert loaded.keys() == masks.keys()
    for name, mask in masks.items():
        assert loaded[name].dtype == torch.bool and torch.equal(loaded[name], mask)


def test_masks_take_a_bit_a_weight(tmp_path):
    save_masks(tmp_path / "masks", {"a": random_mask(512, 512)})
    assert (tmp_path / "masks").stat().st_size < 512 * 512 / 8 + 500


def test_masks_in_memory_take_a_bit_a_weight_too(tmp_path):
    save_masks(tmp_path / "masks", {"a": random_mask(512, 512)})
    loaded = load_masks(tmp_path / "masks")
    assert isinstance(loaded, PackedMasks)
    assert [bits.nbytes for bits, _ in loaded.bits.values()] == [512 * 512 // 8]


def test_a_mask_seen_through_a_transpose_comes_back(tmp_path):
    mask = random_mask(6, 9).T
    save_masks(tmp_path / "masks", {"a": mask})
    assert torch.equal(load_masks(tmp_path / "masks")["a"], mask)


def test_a_saved_model_loads_as_an_ordinary_checkpoint(tmp_path, model):
    save_model(tmp_path / "model", model, {}, RANKS)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(40)[None]
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path, model):
    save_model(tmp_path, model, {}, RANKS)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_model_loads_in_its_own_dtype(tmp_path, tiny_opt_dir, dtype):
    model = load_model(tiny_opt_dir, dtype)
    save_model(tmp_path, model, {}, RANKS)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] in str(dtype)


def test_a_model_without_masks_has_no_mask_file(tmp_path, model):
    save_model(tmp_path, model, {}, RANKS)
    assert not (tmp_path / MASKS_FILE).exists()


def test_masks_are_stored_beside_the_model(tmp_path, model):
    masks = {"x": random_mask(4, 4)}
    save_model(tmp_path, model, masks, RANKS)
    assert torch.equal(load_masks(tmp_path / MASKS_FILE)["x"], masks["x"])


def trained(model, steps: int = 2) -> torch.optim.Optimizer:
    """An optimizer that has taken steps on some loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        ids = torch.arange(step, step + 30)[None]
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def test_training_comes_back_bit_for_bit(tmp_path, model, tiny_opt_dir, tiny_llama_dir):
    optimizer = trained(model)
    save_training(tmp_path, model, optimizer, 2, RANKS)
    directory = tiny_opt_dir if model.config.model_type == "opt" else tiny_llama_dir
    other = load_model(directory, torch.float32)
    restored = torch.optim.AdamW(other.parameters(), lr=1e-3)
    assert load_training_(tmp_path, other, restored) == 2
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        for moment in (*MOMENTS, "step"):
            assert torch.equal(optimizer.state[a][moment], restored.state[b][moment]), name


def test_training_files_hold_tensors_only(tmp_path, model):
    save_training(tmp_path, model, trained(model, 1), 1, RANKS)
    (path,) = tmp_path.iterdir()
    assert path.name == "rank-00000-of-00001.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["step"] == "1"


class Rows:
    """Rows of a tensor, read by slices as from a file."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.tensor[rows]


@pytest.mark.parametrize("cuts", [[10], [5, 5], [4, 4, 2], [3, 3, 3, 1], [10, 0, 0], [1] * 10])
@pytest.mark.parametrize("wanted", [(0, 10), (0, 4), (4, 10), (3, 5), (9, 10), (10, 10)])
def test_rows_come_from_whichever_pieces_hold_them(cuts, wanted):
    full = torch.arange(30.0).view(10, 3)
    starts = [sum(cuts[:i]) for i in range(len(cuts))]
    pieces = [(s, Rows(part)) for s, part in zip(starts, full.split(cuts), strict=True)]
    target = torch.full((wanted[1] - wanted[0], 3), -1.0)
    copy_rows_(target, wanted[0], pieces)  # type: ignore[arg-type]
    assert torch.equal(target, full[wanted[0] : wanted[1]])


def test_rows_that_no_piece_holds_are_refused():
    # A checkpoint that lost the file of a rank.
    with pytest.raises(AssertionError, match="rows are missing"):
        copy_rows_(torch.zeros(4, 2), 0, [(0, Rows(torch.ones(3, 2)))])  # type: ignore[arg-type]


def test_a_directory_without_a_checkpoint_is_refused(tmp_path, model):
    with pytest.raises(AssertionError, match="no checkpoint"):
        load_training_(tmp_path, model, torch.optim.AdamW(model.parameters()))


def test_a_resumed_optimizer_counts_its_steps_on_its_parameters_device(tmp_path, model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model(torch.arange(40)[None]).logits.sum().backward()
    optimizer.step()
    save_training(tmp_path, model, optimizer, 1, RANKS)
    # A stand-in for a GPU: a device that is not the CPU.
    elsewhere = copy.deepcopy(model).to("meta")
    elsewhere.tie_weights()
    resumed = torch.optim.AdamW(elsewhere.parameters(), lr=1e-4)
    assert load_training_(tmp_path, elsewhere, resumed) == 1
    devices = {tensor.device.type for state in resumed.state.values() for tensor in state.values()}
    assert devices == {"meta"}
