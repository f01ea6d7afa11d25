"""OWL: exact over the model, denser where outliers are, growing with sparsity, refused with N:M."""

import dataclasses

import pytest
import torch

from core.activations import Calibration
from core.allocation import (
    HALF_SPAN,
    allocate,
    bonuses,
    outlier_ratio,
    outlier_ratios,
)
from core.config import PruneConfig
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.matrices import Matrix
from core.pruners import PRUNERS, make_pruner, sparsegpt
from core.pruners.hessian import factorise
from core.pruners.masks import row_mask
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from orchestrator.config import GridConfig, SweepConfig
from orchestrator.plan.inputs import CalibrationText, EvaluationText, ModelInputs
from orchestrator.plan.planner import Planner
from orchestrator.unread_flags import require_read

FOUND = [
    Matrix(f"{block}.{i}", block, torch.nn.Linear(numel, 1, device="meta"))
    for block in range(4)
    for i, numel in enumerate((361, 361, 361, 1000))
]
BY_NAME = {one.name: one for one in FOUND}
RATIOS = [0.05, 0.02, 0.01, 0.03]
TOTAL = sum(one.numel for one in FOUND)


def counts(sparsity: float, ratios=RATIOS) -> list[int]:
    targets = allocate(BY_NAME, ratios, Target(sparsity))
    return [round(targets[one.name].sparsity * one.numel) for one in FOUND]


@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.123, 1 / 3, 0.5, 0.7, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("ratios", [RATIOS, [0.1] * 4, [0.0, 0.0, 0.0, 1.0]])
def test_the_whole_count_is_exact(sparsity, ratios):
    assert sum(counts(sparsity, ratios)) == round(sparsity * TOTAL)


def test_every_count_only_grows():
    before = counts(0.0)
    for step in range(1, 1001):
        after = counts(step / 1000)
        assert all(a <= b for a, b in zip(before, after))
        before = after
    assert before == [one.numel for one in FOUND]


def test_the_papers_rule_holds_away_from_the_ends():
    # Density = 1 - s + (ratio - min) / (max - min) * 2 lambda, its mean over blocks taken out.
    density = torch.tensor(RATIOS, dtype=torch.float64)
    density = (density - density.min()) / (density.max() - density.min()) * 2 * HALF_SPAN
    wanted = 0.7 - (density - density.mean())
    found = torch.tensor(counts(0.7), dtype=torch.float64).view(4, 4) / torch.tensor(
        [one.numel for one in FOUND[:4]]
    )
    # One weight of 361 is 0.0028.
    torch.testing.assert_close(found, wanted[:, None].expand(4, 4), rtol=0, atol=0.003)


def test_equal_blocks_share_equally():
    assert bonuses([0.02, 0.02]) == [0.0, 0.0]
    spread = {c / m.numel for c, m in zip(counts(0.5, [0.1] * 4), FOUND)}
    assert max(spread) - min(spread) < 0.003


def test_an_outlier_is_five_times_the_mean():
    # Mean (46 + 40 + 48 + 14) / 98 = 1.51, limit 7.55: two of the 98 are above.
    scores = [torch.ones(48), torch.ones(50)]
    scores[0][:2], scores[1][:2] = 20.0, 7.0
    assert outlier_ratio(scores) == pytest.approx(2 / 98)


def test_structures_are_refused():
    with pytest.raises(ValueError, match="--prune.allocation owl.*--mask-structures 2:4"):
        allocate(BY_NAME, RATIOS, Target.structured("2:4"))
    with pytest.raises(ValueError, match="--prune.allocation owl.*--mask-structures 2:4"):
        SweepConfig(GridConfig(mask_structures=("2:4",)), prune=PruneConfig(allocation="owl"))


def test_rows_may_differ_by_one_to_fill_a_matrix():
    scores = torch.rand(7, 40, generator=torch.Generator().manual_seed(0))
    earlier = None
    for count in (0, 3, 80, 81, 90, 279, 280):
        mask = row_mask(scores, count / 280, earlier, whole=True)
        by_row = (~mask).sum(1)
        assert by_row.sum() == count and by_row.max() - by_row.min() <= 1
        assert earlier is None or not (mask & ~earlier).any()
        earlier = mask


@pytest.mark.parametrize("method", sorted(PRUNERS))
def test_a_pruned_model_has_the_exact_count_and_grows(tiny_opt_dir, method):
    model, ranks = load_model(tiny_opt_dir, torch.float32), Ranks.current()
    windows = torch.randint(4, 320, (6, 64), generator=torch.Generator().manual_seed(0))
    calibration, found = Calibration(windows), prunable_matrices(model)
    ratios = outlier_ratios(model, calibration, ranks)
    assert len(ratios) == 2 and all(0 <= ratio < 1 for ratio in ratios)
    ratios = [0.01, 0.02]
    pruner, masks = make_pruner(method, PruneConfig(allocation="owl")), None
    for sparsity in (0.3, 0.31, 0.7):
        targets = allocate(found, ratios, Target(sparsity))
        done = prune_(model, pruner, targets, ranks, calibration, masks)
        pruned = sum(int((~mask).sum()) for mask in done.masks.values())
        assert pruned == round(sparsity * sum(one.numel for one in found.values()))
        for name, mask in (masks or {}).items():
            assert not (done.masks[name] & ~mask).any()
        masks = done.masks
    sparsity = {one.block: 1 - done.masks[one.name].float().mean() for one in found.values()}
    assert sparsity[0] - sparsity[1] == pytest.approx(2 * HALF_SPAN, abs=0.01)


def test_matrices_of_one_input_share_a_solve_whatever_their_sparsity(tiny_opt_dir, monkeypatch):
    model, ranks = load_model(tiny_opt_dir, torch.float32), Ranks.current()
    windows = torch.randint(4, 320, (6, 64), generator=torch.Generator().manual_seed(0))
    found, factored = prunable_matrices(model), []

    def counted(hessian, *rest):
        factored.append(len(hessian))
        return factorise(hessian, *rest)

    monkeypatch.setattr(sparsegpt, "factorise", counted)
    targets = allocate(found, [0.01, 0.02], Target(0.5062344139650873))
    assert len({targets[name] for name in found if name.endswith(("q_proj", "k_proj"))}) > 2
    done = prune_(
        model, make_pruner("sparsegpt", PruneConfig()), targets, ranks, Calibration(windows)
    )
    # Queries, keys and values; the output; two layers of the MLP.
    assert len(factored) == 2 * 4
    for name, target in targets.items():
        assert int((~done.masks[name]).sum()) == round(target.sparsity * found[name].numel)


def plan_of(**prune):
    inputs = ModelInputs(
        name="tiny",
        identity="sha256:tiny",
        dtype="float32",
        training_dtype="float32",
        calibration=CalibrationText("cal", "c", 8, 16, "stream"),
        finetune=None,
        finetune_tokens=0,
        batch_tokens=0,
        evaluations=(EvaluationText("test", "e", 16, 16),),
    )
    grid = GridConfig(regimes=("oneshot",), sparsities=(0.5,))
    return Planner(grid, PruneConfig(**prune), SweepConfig().finetune).build([inputs])


def prune_stages(**prune):
    return {s.method: s for s in plan_of(**prune).stages.values() if s.work.changes_masks}


@pytest.mark.parametrize(
    "option",
    [
        {"refine": "swaps"},
        {"allocation": "owl"},
        {"weight_bits": 4},
        {"keep_zeros": True},
        {"routers": True},
    ],
)
def test_an_option_enters_identities_only_where_it_is_on(option):
    off, on = prune_stages(), prune_stages(**option)
    (name,) = option
    for method, stage in on.items():
        reads = name in PRUNERS[method].facts.fields_read
        assert (stage.id != off[method].id) == reads
        assert stage.fields["settings"].get(name) == (option[name] if reads else None)
        assert name not in off[method].fields["settings"]
    assert "calibration" not in off["magnitude"].fields
    assert ("calibration" in on["magnitude"].fields) == (name in ("refine", "allocation"))


def test_flags_that_nothing_reads_are_refused():
    config = SweepConfig(GridConfig(methods=("magnitude",), regimes=("oneshot",)))
    config = dataclasses.replace(config, prune=PruneConfig(weight_bits=4))
    with pytest.raises(ValueError, match="prune.weight-bits.*no chosen method reads it"):
        require_read(dict.fromkeys({"prune.weight-bits"}, [config]))
    require_read(
        dict.fromkeys(
            {"prune.refine"}, [dataclasses.replace(config, prune=PruneConfig(refine="swaps"))]
        )
    )


def test_rounded_weights_are_not_trained():
    with pytest.raises(ValueError, match="--prune.weight-bits 4.*--regimes oneshot"):
        SweepConfig(prune=PruneConfig(weight_bits=4))
