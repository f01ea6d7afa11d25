"""Steps at which all ranks ask a question together, rarely enough to cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from core.ranks import Ranks

ASK_EVERY_SECONDS = 5.0
"""Time between two questions, about."""
GROWTH = 4
"""Largest growth of the steps between two questions, because some steps are slow."""


class Pace:
    """Asks rank 0 about every five seconds, at steps that all ranks know beforehand.

    Ranks talk at these steps only: with the answer rank 0 sends the number of steps until the next
    question, from the time that a step took.
    """

    def __init__(self, ranks: Ranks, seconds: float = ASK_EVERY_SECONDS) -> None:
        self.ranks, self.seconds = ranks, seconds
        self.gap = 1
        self.asked_at = time.monotonic()
        self.steps = 0
        """Steps since the last question."""

    def asks(self, question: Callable[[], bool], steps: int = 1) -> bool:
        """Return rank 0's answer if it is time to ask, else False (collective).

        Args:
            question: is put on every rank when it is time; only rank 0's answer counts.
            steps: how many steps were done since the last call.
        """
        self.steps += steps
        if self.steps < self.gap:
            return False
        answer = torch.zeros(2)
        yes = question()
        if self.ranks.rank == 0:
            a_step = max((time.monotonic() - self.asked_at) / self.steps, 1e-6)
            gap = min(self.seconds / a_step, GROWTH * self.gap)
            answer = torch.tensor([float(yes), max(1.0, gap // 1)])
        told, gap = self.ranks.sum_(answer).tolist()
        self.gap, self.steps, self.asked_at = int(gap), 0, time.monotonic()
        return bool(told)
