"""Questions that all ranks ask together: rarely, and never when nobody knows of it."""

from core import pace
from core.pace import Pace
from core.ranks import Ranks


def questions(monkeypatch, seconds_a_step: list[float], every: float = 5.0) -> list[int]:
    """Steps at which a run with steps of these lengths asks."""
    now, asked = [0.0], []
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    clock = Pace(Ranks.current(), every)
    for step, seconds in enumerate(seconds_a_step, 1):
        now[0] += seconds
        clock.asks(lambda step=step: bool(asked.append(step)))
    return asked


def test_quick_steps_ask_about_every_five_seconds(monkeypatch):
    asked = questions(monkeypatch, [0.1] * 1000)
    assert asked[:3] == [1, 5, 21] and len(asked) <= 3 + 1000 / 49


def test_slow_steps_ask_after_each(monkeypatch):
    assert questions(monkeypatch, [7.0] * 5) == [1, 2, 3, 4, 5]


def test_no_time_between_questions_means_after_each_step(monkeypatch):
    assert questions(monkeypatch, [0.01] * 5, every=0.0) == [1, 2, 3, 4, 5]


def test_the_answer_is_the_questions_and_no_without_one(monkeypatch):
    clock = Pace(Ranks.current(), 0.0)
    assert clock.asks(lambda: True) and not clock.asks(lambda: False)
    clock.gap = 3
    assert not clock.asks(lambda: True)
