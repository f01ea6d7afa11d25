"""Counts of a model whose blocks differ, and whose matrices share the last part of their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from core.config import PruneConfig
from core.models.facts import Linear, ModelFacts
from orchestrator.estimate.model_cost import ModelCost

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
    solved = [cost.solve_operations("sparsegpt", PruneConfig(), 1000) for cost in (some, every)]
    assert solved[1] - solved[0] == 8 * 4**2 * 750
