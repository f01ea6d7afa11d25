"""The notice that a machine of this trial will soon be taken away, as clouds give for spot ones."""

from __future__ import annotations

from collections.abc import Callable


class Notice:
    """Asks if a notice has come until it has; then the half-done stage is saved once."""

    def __init__(self, ask: Callable[[], bool] = lambda: False) -> None:
        self.ask = ask
        """Returns the same on all ranks, which all call it (collective)."""
        self.came = False

    def save_now(self) -> bool:
        """Return True on all ranks the first time that a notice is found (collective).

        All ranks must call it equally often, and only where a half-done stage can be saved. Every
        five seconds is enough: clouds give half a minute to two minutes of notice.
        """
        if self.came:
            return False
        self.came = self.ask()
        return self.came
