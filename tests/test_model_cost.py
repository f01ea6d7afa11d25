"""Counts of a model whose blocks differ, and whose matrices share the last part of their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.calibration_config import ExpertTokens
from core.config import PruneConfig
from core.models.facts import Linear, ModelFacts
from orchestrator.estimate import experts, memory
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.plan.inputs import CalibrationText

NO_INPUTS: Any = None


def cost_of(*blocks: dict[str, tuple[int, int, str]]) -> ModelCost:
    linears = tuple(
        Linear(f"h.{index}.{name}", rows, cols, index, f"h.{index}.{reads}")
        for index, block in enumerate(blocks)
        for name, (rows, cols, reads) in block.items()
    )
    facts = ModelFacts("m", "any", len(blocks), 8, 16, 32, "float32", 512, linears, {})
    return ModelCost(facts, NO_INPUTS, "cpu")


def test_two_matrices_with_one_last_name_are_two_groups():
    block = {"attn.c_proj": (8, 8, "attn.c_proj"), "mlp.c_proj": (8, 32, "mlp.c_proj")}
    assert [[one.cols for one in group] for group in cost_of(block).groups] == [[8], [32]]


def test_blocks_that_differ_are_counted_apart():
    shared = {"q_proj": (8, 8, "q_proj"), "k_proj": (4, 8, "q_proj")}
    mixer = {"in_proj": (64, 8, "in_proj")}
    cost = cost_of(shared, mixer, shared)
    assert [(count, len(groups)) for count, groups in cost.blocks] == [(2, 1), (1, 1)]
    assert cost.groups == cost.blocks[1][1]  # The largest block needs the most memory.


def test_an_expert_costs_as_many_operations_as_it_has_tokens():
    def experts(share):
        block = {f"{e}.up": (8, 4, f"{e}.up") for e in range(8)}
        facts = cost_of(block).facts
        linears = tuple(replace(one, share=share) for one in facts.linears)
        return ModelCost(replace(facts, linears=linears), NO_INPUTS, "cpu")

    some, every = experts(0.25), experts(1.0)
    assert some.block_parameters == every.block_parameters == 8 * 32
    head, attention = 16 * 8, 8 * 32
    assert some.forward_operations(10, 32) == 2 * 10 * (64 + head + attention)
    assert every.forward_operations(10, 32) == 2 * 10 * (256 + head + attention)
    text = CalibrationText("t", "t", 10, 100, "stream")
    solved = [cost.solve_operations("sparsegpt", PruneConfig(), text) for cost in (some, every)]
    assert solved[1] - solved[0] == 8 * 4**2 * 750


# Two blocks with 8 experts of which a token has 2: 8 inputs, 4 in the middle.
EXPERTS = {"attn": (8, 8, "attn")} | {
    f"experts.{e}.{name}": (rows, cols, f"experts.{e}.{reads}")
    for e in range(8)
    for name, rows, cols, reads in (
        ("gate_proj", 4, 8, "gate_proj"),
        ("up_proj", 4, 8, "gate_proj"),
        ("down_proj", 8, 4, "down_proj"),
    )
}
ROUTED = ExpertTokens(pseudo_tokens=0.0)


def mixture(seen: ExpertTokens | None) -> tuple[ModelCost, CalibrationText]:
    """Counts of two such blocks, and 20 windows of 50 tokens."""
    facts = cost_of(EXPERTS, EXPERTS).facts
    linears = [replace(o, share=0.25) if "experts" in o.name else o for o in facts.linears]
    text = CalibrationText("t", "t", 20, 50, "stream", experts=seen)
    return ModelCost(replace(facts, linears=tuple(linears)), NO_INPUTS, "cpu"), text


def test_what_last_matrices_read_is_computed_again_for_routed_sampled_or_all_tokens():
    def beside(seen, method="wanda"):
        cost, text = mixture(seen)
        found = cost.prune_operations(method, PruneConfig(), text)
        return found - 2 * cost.forward_operations(1000, 50, head=False)

    of_a_token = 2 * 2 * 8 * 4 * 8 * 2  # Two matrices [4, 8], eight experts, two blocks.
    assert beside(ROUTED) == beside(ROUTED, "sparsegpt") == 250 * of_a_token
    # Eight tokens for each of 4 inputs: every 31st place of a window, 2 of 50.
    assert beside(ExpertTokens()) == (250 + 2 * 20) * of_a_token
    assert beside(ExpertTokens(True, 0.0)) == 1000 * of_a_token


def test_statistics_of_experts_are_counted_by_the_tokens_that_they_see():
    def solving(seen):
        cost, text = mixture(seen)
        return cost.solve_operations("sparsegpt", PruneConfig(), text)

    of_last, of_first, layers = 8 * 4**2, 8 * 8**2, 2
    sampled = solving(ExpertTokens()) - solving(ROUTED)
    assert sampled == layers * of_last * 40
    # All tokens: the last matrices see 1000 instead of 250; the first ones share one input, whose
    # statistic the mean was made of, and one factor instead of eight.
    less = of_first * 250 + 7 * 8**3 / 3
    assert solving(ExpertTokens(True, 0.0)) - solving(ROUTED) == pytest.approx(
        layers * (of_last * 750 - less)
    )


def test_experts_that_are_solved_at_once_need_memory_on_a_gpu():
    def stack(device):
        return memory.Sizes(replace(mixture(ROUTED)[0], device=device), True, 1, 64).stack()

    assert stack("cpu") == 0
    assert stack("cuda") == 8 * 5 * 4 * (8 * (8 + 8) + 4 * (4 + 8))


def test_experts_that_do_not_fit_at_once_are_observed_in_more_passes(monkeypatch):
    cost, text = mixture(ROUTED)
    once = cost.forward_operations(1000, 50, head=False)
    before = cost.prune_operations("sparsegpt", PruneConfig(), text)
    size = 8 * 4 * (2 * 8 * (8 + 4) + 4 * (4 + 8))
    monkeypatch.setattr(experts, "EXPERT_BYTES", size // 3 + 1)
    assert cost.prune_operations("sparsegpt", PruneConfig(), text) == before + 2 * once
    assert cost.prune_operations("wanda", PruneConfig(), text) == before
