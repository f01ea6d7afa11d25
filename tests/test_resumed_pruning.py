"""Pruning that goes on after its last finished block equals an undisturbed one bit for bit.

`scenario` runs as `two_ranks.py` says: one rank and two prune and are interrupted, and each takes
up its own finished blocks and those of the other.
"""

import pytest
import torch
import two_ranks
from transformers import LlamaConfig, OPTConfig

from core.activations import Calibration
from core.config import PruneConfig
from core.finished_blocks import Resumption, block_file, load_block, save_blocks
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.sharding import shard_
from core.parallel import whole
from core.pruners import make_pruner
from core.sequential import prune_
from core.targets import Target

SHAPE = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "opt": OPTConfig(**SHAPE, ffn_dim=29, word_embed_proj_dim=16, init_std=0.2),
    "llama": LlamaConfig(
        **SHAPE, intermediate_size=28, num_key_value_heads=2, initializer_range=0.2
    ),
}
WINDOWS = torch.randint(320, (5, 24), generator=torch.Generator().manual_seed(0))
CASES = {
    "magnitude": ("opt", "magnitude", {}, Target(0.5), False),
    "sparsegpt": ("llama", "sparsegpt", {}, Target(0.5), True),
    "alps": ("opt", "alps", {}, Target(0.7), True),
    "2:4": ("llama", "alps", {}, Target.structured("2:4"), False),
    "bits": ("opt", "sparsegpt", {"weight_bits": 4, "quant_group_size": 8}, Target(0.5), False),
    "swaps": ("llama", "wanda", {"refine": "swaps"}, Target(0.5), True),
}
"""Family, method, its settings, target, and whether masks of an earlier round grow."""
DONE = 2
"""Blocks that are finished when the pruning is interrupted."""


class KilledError(Exception):
    """Stands for a process that is killed."""


def prune(folder, case, ranks, resumption):
    """Prune a fresh model; return its report and all of its weights."""
    family, method, settings, target, grows = CASES[case]
    model = load_model(folder / family, torch.float32)
    masks = sparse_(model) if grows else None
    shard_(model, ranks)
    pruner = make_pruner(method, PruneConfig(block_size=8, **settings))
    windows = None if pruner.statistic is None else WINDOWS
    calibration = Calibration(windows, 2, resumption=resumption)
    report = prune_(model, pruner, target, ranks, calibration, masks)
    return {
        "weights": {n: whole(p.detach()).clone() for n, p in model.named_parameters()},
        "masks": report.masks,
        "grids": report.grids,
        "record": (report.dampening_frac, report.errors, report.fell_back),
    }


def sparse_(model):
    """Prune every fifth input, as an earlier round; return the masks."""
    masks = {}
    for name, one in prunable_matrices(model).items():
        masks[name] = torch.arange(one.cols).remainder(5).gt(0).repeat(one.rows, 1)
        one.write_(one.read() * masks[name])
    return masks


def interrupt(folder, case, ranks, out):
    """Prune until `DONE` blocks are saved."""
    out.mkdir(exist_ok=True)
    blocks = []

    def keep(block):
        blocks.append(block)
        if len(blocks) == DONE:
            # Blocks that wait for a save are read from the model.
            save_blocks(out, blocks, ranks)
            ranks.barrier()
            raise KilledError

    with pytest.raises(KilledError):
        prune(folder, case, ranks, Resumption(keep=keep))


def resume(folder, case, ranks, out):
    """Prune on after the blocks in `out`."""
    pruned = []

    def earlier(index):
        return load_block(block_file(out, index)) if index < DONE else None

    found = prune(folder, case, ranks, Resumption(earlier, lambda b: pruned.append(b.index)))
    assert pruned == [DONE], "a finished block was pruned again"
    return found


def scenario(ranks, out):
    """Every case: undisturbed, resumed by as many ranks, and by another number."""
    folder, found = out.parent, {}
    for case in CASES:
        blocks = out / f"blocks-{case.replace(':', '-')}"
        interrupt(folder, case, ranks, blocks)
        found[case, "through"] = prune(folder, case, ranks, Resumption())
        found[case, "resumed"] = resume(folder, case, ranks, blocks)
        if ranks.size > 1:
            other = two_ranks.earlier(ranks, out) / blocks.name
            found[case, "other"] = resume(folder, case, ranks, other)
    return found


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(one_thread, tmp_path_factory):
    return two_ranks.compare(__file__, tmp_path_factory.mktemp("resumed"), CONFIGS, scenario)


def assert_equal(found, expected):
    assert found["record"] == expected["record"]
    for kind in ("weights", "masks"):
        assert found[kind].keys() == expected[kind].keys()
        for name, tensor in expected[kind].items():
            assert torch.equal(found[kind][name], tensor), name
    assert found["grids"].keys() == expected["grids"].keys()
    for name, grid in expected["grids"].items():
        other = found["grids"][name]
        assert torch.equal(other.scale, grid.scale) and torch.equal(other.zero, grid.zero)
        assert (other.bits, other.group_size) == (grid.bits, grid.group_size)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [1, 2])
def test_resumed_pruning_equals_an_undisturbed_one(folder, case, world):
    for found in two_ranks.found(folder, world):
        assert_equal(found[case, "resumed"], found[case, "through"])


@pytest.mark.parametrize("case", CASES)
def test_another_number_of_ranks_takes_up_the_same_blocks(folder, case):
    # Finished blocks are the first process's, bit for bit; sums of the last have another order.
    (one,), two = two_ranks.found(folder, 1), two_ranks.found(folder, 2)
    before, after = one[case, "through"], two[0][case, "other"]
    for name, mask in before["masks"].items():
        if f".{DONE}." not in name:
            weight = f"{name}.weight"
            assert torch.equal(after["masks"][name], mask)
            assert torch.equal(after["weights"][weight], before["weights"][weight])
            assert after["record"][1][name] == before["record"][1][name]
    total = sum(mask.numel() for mask in before["masks"].values())
    differing = sum(int((m != after["masks"][n]).sum()) for n, m in before["masks"].items())
    assert differing <= (0 if case == "magnitude" else 1e-3 * total)
    assert_equal(two[1][case, "other"], after)
