"""Every causal model type that is known to pass: found, run block by block, pruned and saved.

`recorded/model_types.txt` has these types, as they were found with the version of transformers that
its first line names. With another version, types that it does not know are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.activations import Calibration
from core.config import PruneConfig
from core.measures.sparsity import measure
from core.models.blocks import decoder_blocks, prunable_blocks
from core.models.calls import Calls, logits_after
from core.models.loading import load_model
from core.models.saving import save_model
from core.pruners import make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from tests.tiny_types import config_of, model_of

RANKS = Ranks.current()
VERSION, *TYPES = (Path(__file__).parent / "recorded" / "model_types.txt").read_text().split()
GENERATOR = torch.Generator().manual_seed(3)
BATCHES = [torch.randint(3, 100, size, generator=GENERATOR) for size in ((2, 16), (2, 16), (1, 16))]
pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def check(model, folder: Path) -> None:
    """Run block by block; prune by two methods, the second on the zeros of the first; save."""
    calls = Calls(model, RANKS.device)
    hidden = [calls.add(batch) for batch in BATCHES]
    for index, block in enumerate(decoder_blocks(model)):
        hidden = [calls.run(block, index, i, states) for i, states in enumerate(hidden)]
    for batch, states in zip(BATCHES, hidden):
        wanted = model(input_ids=batch, use_cache=False).logits
        assert torch.equal(logits_after(model, batch, states), wanted)
    masks = {}
    for method, sparsity in (("wanda", 0.25), ("sparsegpt", 0.5)):
        calibration = Calibration(BATCHES[0], micro_batch=2)
        pruner = make_pruner(method, PruneConfig())
        masks = prune_(model, pruner, Target(sparsity), RANKS, calibration, masks or None).masks
    assert measure(model, masks).sparsity == pytest.approx(0.5, abs=0.01)
    wanted = {name for block in prunable_blocks(model) for name in block.matrices}
    assert set(masks) == wanted and wanted
    save_model(folder, model, masks, RANKS)
    again = load_model(folder, torch.float32)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_runs_block_by_block_is_pruned_and_saved(model_type, tmp_path):
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know it")
    check(model_of(config_of(model_type)), tmp_path)


def test_at_least_140_types_pass():
    assert sum(model_type in CONFIG_MAPPING for model_type in TYPES) >= 140
