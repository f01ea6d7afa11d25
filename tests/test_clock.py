"""Seconds and peak memory of one stage."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from core.ranks import Ranks
from orchestrator.plan.stages import Stage
from orchestrator.plan.work import Work
from orchestrator.trial import runners
from orchestrator.trial.clock import peak_memory, restart_peak, timed
from orchestrator.trial.walk import Walk

CPU = torch.device("cpu")
SIZE = 400 * 2**20
resettable = pytest.mark.skipif(
    sys.platform != "linux" or not os.access("/proc/self/clear_refs", os.W_OK),
    reason="only Linux forgets a peak",
)


def use_memory():
    """Touches so much memory and gives it back."""
    torch.ones(SIZE // 4)


@resettable
def test_a_stage_does_not_inherit_the_peak_of_an_earlier_one():
    use_memory()
    high = peak_memory(CPU)
    restart_peak(CPU)
    with timed(Ranks.current()) as clock:
        pass
    assert clock["peak_memory_bytes"] < high - SIZE / 2
    with timed(Ranks.current()) as clock:
        use_memory()
    assert clock["peak_memory_bytes"] > high - SIZE / 2


@resettable
def test_the_walk_forgets_the_peak_before_every_stage(monkeypatch):
    found = []
    monkeypatch.setitem(runners.RUNNERS, Work, lambda *_: found.append(peak_memory(CPU)))
    walk = object.__new__(Walk)
    walk.ranks, walk.space = Ranks.current(), None
    use_memory()
    high = peak_memory(CPU)
    walk.run_stage(Stage("s", Work(), "m", "wanda", None))
    assert found[0] < high - SIZE / 2


def test_where_nothing_can_be_forgotten_the_peak_is_that_of_the_process(monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "write_text", refuse)
    restart_peak(CPU)
    assert peak_memory(CPU) > 0


def test_without_proc_the_peak_is_what_the_system_says(monkeypatch):
    high = peak_memory(CPU)
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert peak_memory(CPU) >= high / 2, "getrusage"
    on_windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5))
    monkeypatch.setattr(psutil, "Process", lambda: on_windows)
    assert peak_memory(CPU) == 5.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_forgets_too():
    device = torch.device("cuda", 0)
    torch.ones(SIZE // 4, device=device)
    assert peak_memory(device) >= SIZE
    restart_peak(device)
    assert peak_memory(device) < SIZE
