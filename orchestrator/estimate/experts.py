"""Work that the statistics of experts take beside the forward passes, as `core` gathers them.

An expert is observed on its routed tokens and on the mean of all. What its last matrix reads has to
be computed again: of its own tokens, and of the sample that stands for all tokens. With
`--calibration.all-experts` every expert sees all tokens, which costs as many times the products of
experts as there are experts for each chosen one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.calibration_config import ExpertTokens
from core.expert_windows import SAMPLED, Windows
from core.models.facts import DOWN, Linear
from core.pruners.hessian import Hessian
from core.pruners.pruner import Pruner
from core.split.costs import EXPERT_BYTES, WIDTH
from orchestrator.plan.inputs import CalibrationText

Groups = Sequence[Sequence[Linear]]
"""Matrices of one block by the input that they read."""


def solved_groups(groups: Groups, experts: ExpertTokens | None) -> Groups:
    """Return the groups as they are solved.

    Where every expert sees all tokens, the first matrices of all experts of a layer read one input.
    """
    if experts is None or not experts.all_experts:
        return groups
    found: dict[str, list[Linear]] = {}
    for group in groups:
        key = layer_of(group) if is_first(group) else group[0].name
        found.setdefault(key, []).extend(group)
    return list(found.values())


def observed_products(groups: Groups, text: CalibrationText) -> float:
    """Return half of X XT of all inputs of a block: of the tokens that each statistic sees."""
    found = sum(group[0].cols ** 2 * seen_tokens(group, text) for group in groups)
    if text.experts is None or text.experts.all_experts:
        return found
    # The mean of all tokens of each layer.
    layers = {layer_of(group): group[0].cols for group in groups if is_first(group)}
    return found + sum(cols**2 * text.num_tokens for cols in layers.values())


def shown_products(groups: Groups, text: CalibrationText) -> float:
    """Return the products of the first matrices of experts that show what their last ones read."""
    first = {expert_of(group): group for group in groups if is_first(group)}
    return sum(
        2.0 * seen_tokens(last, text) * sum(o.rows * o.cols for o in first[expert_of(last)])
        for last in groups
        if is_last(last)
    )


def seen_tokens(group: Sequence[Linear], text: CalibrationText) -> float:
    """Return the tokens of the statistic of an input; those of the mean only where it is its own.

    They are those that the router sends there on average, or all.
    """
    experts, one, every = text.experts, group[0], text.num_tokens
    if experts is None or one.share == 1:
        return every * one.share
    if experts.all_experts:
        return every
    sample = 0
    if is_last(group) and experts.pseudo_tokens:
        windows = Windows(text.num_samples, text.seq_len)
        sample = windows.num_tokens(windows.spacing(SAMPLED * one.cols))
    return every * one.share + sample


def num_parts(groups: Groups, pruner: Pruner) -> int:
    """Return in how many forward passes a block is observed: experts' Hessians must fit."""
    if pruner.statistic is not Hessian:
        return 1
    routed = [one for group in groups for one in group if one.share < 1]
    size = sum(WIDTH * one.cols * (one.cols + one.rows) for one in routed)
    return max(1, math.ceil(size / EXPERT_BYTES))


def is_last(group: Sequence[Linear]) -> bool:
    """Return True for what an expert reads from its own first matrices."""
    return group[0].share < 1 and group[0].name.endswith(f".{DOWN}")


def is_first(group: Sequence[Linear]) -> bool:
    """Return True for what experts read from their layer's input."""
    return group[0].share < 1 and not is_last(group)


def expert_of(group: Sequence[Linear]) -> str:
    """Return the path of an expert."""
    return group[0].name.rpartition(".")[0]


def layer_of(group: Sequence[Linear]) -> str:
    """Return the path of all experts of a layer."""
    return expert_of(group).rpartition(".")[0]
