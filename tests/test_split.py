"""Two and three gloo ranks that share a solve by rows equal one rank; all hold the same bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import two_ranks
from torch import Tensor

import core.accelerator
import core.pruners.hessian
from core.config import PruneConfig
from core.pruners import make_pruner
from core.pruners.hessian import factorise
from core.pruners.masks import lowest, num_pruned
from core.pruners.pruner import PruningError
from core.ranks import Ranks
from core.split import selection
from core.split.costs import Machine, Work
from core.split.factor import FACTOR_BLOCK, reversed_cholesky
from core.split.plan import make_plan, plan_seconds, rows_of
from core.split.selection import lowest_of_all
from core.targets import Target

pytestmark = pytest.mark.usefixtures("one_thread")
WORLDS = (2, 3)
SHAPE = {"vocab_size": 321, "hidden_size": 48, "intermediate_size": 160, "num_hidden_layers": 2}
# Rows that no number of ranks divides; the width holds several blocks of columns.
ROWS, COLS, BLOCK = (61, 31), 140, 64
# Columns of a factor: three blocks and a narrow one.
WIDTH = 3 * FACTOR_BLOCK + 20
SPARSITY = 0.6
"""Sparsity of the models that ranks prune."""
HALF, TWO_OF_FOUR = Target(0.5), Target.structured("2:4")
SOLVES = {
    "magnitude": ("magnitude", PruneConfig(), HALF),
    "wanda": ("wanda", PruneConfig(), HALF),
    "wanda of a whole matrix": ("wanda", PruneConfig(allocation="owl"), Target(0.503)),
    "sparsegpt": ("sparsegpt", PruneConfig(block_size=BLOCK), HALF),
    "sparsegpt 2:4": ("sparsegpt", PruneConfig(), TWO_OF_FOUR),
    "sparsegpt 4 bits": ("sparsegpt", PruneConfig(weight_bits=4, quant_group_size=64), HALF),
    "alps": ("alps", PruneConfig(), Target(0.7)),
    "alps 2:4": ("alps", PruneConfig(), TWO_OF_FOUR),
    "swaps": ("wanda", PruneConfig(refine="swaps"), HALF),
}
# Ties, both zeros, infinities and the lowest and highest scores.
SCORES = torch.randint(-3, 4, (6, 17), generator=torch.Generator().manual_seed(0)).float()
SCORES[0, :6] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3e38, -3e38])
COUNTS = (0, 1, 7, 50, 51, 83, 101, 102)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# What every rank does ----------------------------------------------------------------------------


def selections(ranks: Ranks) -> dict[str, Any]:
    """Scores whose columns lie on several ranks: all counts together, as of several matrices."""
    part = SCORES[:, rows_of(17, ranks.rank, ranks.size)]
    marks = lowest_of_all([part] * len(COUNTS), COUNTS, ranks)
    return {"marks": [torch.cat(ranks.gather(mark), dim=1) for mark in marks]}


def factors(ranks: Ranks) -> dict[str, Any]:
    """A factor whose columns are dealt out, and damping of matrices that are not definite."""
    inputs = random(700, WIDTH, seed=4).double()
    hessian = (inputs.T @ inputs / 700).float()
    lower, definite = reversed_cholesky(hessian, hessian.diagonal() + 0.01, ranks)
    found = {"hessian": hessian, "lower": lower, "definite": definite}
    # The first column is factored last and the last one first, by different ranks.
    for place in (0, WIDTH - 1):
        diagonal = hessian.diagonal().clone()
        diagonal[place] = -1.0
        found[place] = reversed_cholesky(hessian, diagonal, ranks)[1]
    if ranks.size > 1:
        core.pruners.hessian.shares_factor = lambda *_: True
    weak = hessian.clone()
    weak[3, 3] *= -0.2
    found["damping"] = factorise(weak, 0.01, ranks).dampening_frac
    try:
        factorise(-hessian, 0.01, ranks)
    except PruningError as error:
        found["refused"] = str(error)
    return found


def solves(ranks: Ranks) -> dict[str, Any]:
    """Every method on two matrices of one input, each rank with some rows; masks grow once."""
    inputs = random(600, COLS, seed=1) @ random(COLS, COLS, seed=2)
    inputs[:, 7] = 0
    found = {}
    for name, (method, config, target) in SOLVES.items():
        pruner = make_pruner(method, config)
        statistic = None
        if pruner.statistic is not None:
            statistic = pruner.statistic(COLS, torch.device("cpu"))
            statistic.update(inputs)
        weights = [random(rows, COLS, seed=rows) for rows in ROWS]
        at = [rows_of(rows, ranks.rank, ranks.size) for rows in ROWS]
        mine = [weight[rows] for weight, rows in zip(weights, at)]
        earlier = [weight.abs() > 0.1 for weight in mine] if target == HALF else None
        parts = pruner.prune(mine, statistic, target, earlier, ranks).matrices
        masks, new = (
            [torch.cat(ranks.gather(getattr(part, what))) for part in parts]
            for what in ("mask", "weight")
        )
        found[name] = {"masks": masks, "weights": new, "before": weights, "inputs": inputs}
    return found


@torch.no_grad()
def separate_(weights: list[Tensor]) -> None:
    """Make the smaller weights a tenth as large, so that rounding decides on none of them.

    ALPS thresholds 36 times. Where two weights are alike, ranks part by rounding, and so do all
    layers that follow.
    """
    for weight in weights:
        small = lowest(weight.abs().flatten(), num_pruned(SPARSITY, weight.numel()))
        weight[small.view_as(weight)] *= 0.1


def models(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """A model whose blocks are planned as if products were slow, so that teams share inputs."""
    # Only these need transformers, whose import takes seconds.
    import core.solving
    from core.activations import Calibration
    from core.models.blocks import prunable_matrices
    from core.models.loading import load_model
    from core.models.sharding import shard_
    from core.sequential import prune_

    found, sizes = {}, []

    def noted(*args):
        plan = make_plan(*args)
        sizes.extend(len(team.members) for team in plan)
        return plan

    if ranks.size > 1:
        slow = Machine(operations=1e5, column=0, corner=0, bandwidth=1e12, latency=0)
        core.solving.Machine = SimpleNamespace(of=lambda _: slow)  # pyright: ignore
        core.solving.make_plan = noted
    for method, bits in (("magnitude", None), ("sparsegpt", 4), ("alps", None)):
        model = load_model(folder / "llama", torch.float32)
        if method == "alps":
            separate_([matrix.part() for matrix in prunable_matrices(model, False).values()])
        shard_(model, ranks)
        windows = torch.randint(320, (7, 32), generator=torch.Generator().manual_seed(3))
        calibration = Calibration(None if method == "magnitude" else windows)
        pruner = make_pruner(method, PruneConfig(weight_bits=bits))
        report = prune_(model, pruner, Target(SPARSITY), ranks, calibration)
        grids = {name: grid.scale for name, grid in report.grids.items()}
        found[method, bits] = {"masks": dict(report.masks), "errors": report.errors, "grids": grids}
    return {"cases": found, "team sizes": sizes}


def scenario(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Everything."""
    found = {"selections": selections(ranks), "factors": factors(ranks), "solves": solves(ranks)}
    if ranks.size < 3:
        found["models"] = models(out.parent, ranks)
    return found


# What comes out ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(one_thread, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    from transformers import LlamaConfig

    config = LlamaConfig(**SHAPE, num_attention_heads=4, initializer_range=0.2)
    two_ranks.compare(__file__, folder, {"llama": config}, scenario)
    two_ranks.start(__file__, folder, 3)
    return folder


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, Any]:
    return two_ranks.found(folder, 1)[0]


@pytest.fixture(scope="module", params=WORLDS)
def several(folder, request) -> list[dict[str, Any]]:
    return two_ranks.found(folder, request.param)


def assert_same(found: Any, other: Any) -> None:
    """Asserts that two ranks found the same bits."""
    if isinstance(found, Tensor):
        assert torch.equal(found, other)
    elif isinstance(found, dict | list):
        assert len(found) == len(other)
        for key in found if isinstance(found, dict) else range(len(found)):
            assert_same(found[key], other[key])
    else:
        assert found == other


def squared_error(found: dict[str, Any], i: int) -> float:
    """The squared change of the outputs of the i-th matrix, in float64."""
    delta = (found["before"][i] - found["weights"][i]).double()
    return float((found["inputs"].double() @ delta.T).square().sum())


def test_ranks_hold_the_same_bits(several):
    for other in several[1:]:
        assert_same(several[0], other)


def test_the_lowest_of_all_ranks_are_those_of_one(several):
    # One rank's own choice has tests of its own, in test_masks.py.
    for count, mark in zip(COUNTS, several[0]["selections"]["marks"], strict=True):
        assert torch.equal(mark.flatten(), lowest(SCORES.flatten(), count)), count
        assert int(mark.sum()) == count


def test_a_shared_factor_equals_that_of_one_rank(alone, several):
    one, other = alone["factors"], several[0]["factors"]
    damped = one["hessian"].double() + 0.01 * torch.eye(WIDTH, dtype=torch.float64)
    for found in (one, other):
        assert found["definite"] and torch.equal(found["lower"], found["lower"].tril())
        product = found["lower"].double().T @ found["lower"].double()
        # float32 rounding of sums of some hundred products.
        assert (product - damped).abs().max() < 1e-5 * damped.abs().max()
    torch.testing.assert_close(other["lower"], one["lower"], rtol=1e-3, atol=1e-4)


def test_a_pivot_that_is_not_positive_is_known_to_all_ranks(several):
    for found in several:
        assert not found["factors"][0] and not found["factors"][WIDTH - 1]


def test_damping_rises_on_all_ranks_alike(alone, several):
    for found in several:
        assert found["factors"]["damping"] == alone["factors"]["damping"] == 1.0
        assert "not positive definite with damping 1" in found["factors"]["refused"]


@pytest.mark.parametrize("name", SOLVES)
def test_rows_solved_by_several_ranks_equal_one_rank(alone, several, name):
    one, other = alone["solves"][name], several[0]["solves"][name]
    counts = [[int(mask.sum()) for mask in found["masks"]] for found in (one, other)]
    assert counts[0] == counts[1]
    differing = sum(int((a != b).sum()) for a, b in zip(one["masks"], other["masks"]))
    assert differing <= 1e-3 * sum(ROWS) * COLS
    for i in range(len(ROWS)):
        assert squared_error(other, i) == pytest.approx(squared_error(one, i), rel=1e-3)


def test_a_model_pruned_by_teams_equals_one_rank(alone, folder):
    both = two_ranks.found(folder, 2)
    assert max(both[0]["models"]["team sizes"]) == 2
    for case, one in alone["models"]["cases"].items():
        other = both[0]["models"]["cases"][case]
        pairs = [(mask, other["masks"][name]) for name, mask in one["masks"].items()]
        assert all(int(a.sum()) == int(b.sum()) for a, b in pairs), case
        differing = sum(int((a != b).sum()) for a, b in pairs)
        assert differing <= 1e-3 * sum(a.numel() for a, _ in pairs), case
        for name, error in one["errors"].items():
            assert error is None or other["errors"][name] == pytest.approx(error, rel=1e-3), name
        assert all(torch.equal(scale, other["grids"][name]) for name, scale in one["grids"].items())


# Plans -------------------------------------------------------------------------------------------


def test_a_plan_gives_every_input_to_one_team_and_ends_first():
    # One input of nine tenths of the work goes to most ranks; latency keeps a small one on one.
    costs = (90.0, 5.0, 4.0, 0.5)
    works = tuple(Work((100,), 10, by_row, selections=1) for by_row in costs)
    machine = Machine(operations=1, column=0, corner=0, bandwidth=1, latency=0.1)
    plan = make_plan(works, 8, machine)
    assert sorted(i for team in plan for i in team.inputs) == [0, 1, 2, 3]
    members = [rank for team in plan for rank in team.members]
    assert members == sorted(set(members)) and set(members) <= set(range(8))
    assert plan_seconds(plan, works, machine) < 1.15 * 99.5 / 8


def test_a_plan_of_costly_messages_has_single_ranks_only():
    works = (Work((100,), 10, 1.0, selections=1),) * 3
    machine = Machine(operations=1, column=0, corner=0, bandwidth=1, latency=25)
    plan = make_plan(works, 2, machine)
    assert [len(team.members) for team in plan] == [1, 1]
    assert plan_seconds(plan, works, machine) == 2.0


def test_a_gpu_counts_no_more_numbers_at_once_than_float32_can(monkeypatch):
    monkeypatch.setattr(core.accelerator, "HOSTS", frozenset())
    monkeypatch.setattr(selection, "MOST_COUNTED", 5)
    sizes, count = [], torch.histc

    def histc(part: Tensor, *args: Any) -> Tensor:
        sizes.append(part.numel())
        return count(part, *args)

    monkeypatch.setattr(torch, "histc", histc)
    digits = torch.tensor([[0, 0, 7, -1, 8, 0], [3, 3, 3, 3, 3, 7]], dtype=torch.int32)
    assert selection.histogram(digits, 3).tolist() == [3, 0, 0, 5, 0, 0, 0, 2]
    assert max(sizes) <= 5
