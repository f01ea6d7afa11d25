"""Token files as workers read them: a damaged one is made again where its text is at hand.

Files of training texts are made while trials run, so a training stage may wait for its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.hub.identity import file_hash
from core.models.sources import ModelSource
from core.models.tokenizers import load_tokenizer
from core.texts.sources import Text
from core.texts.windows import begun, training_windows
from orchestrator.failure import MISSING, DamagedTokensError
from orchestrator.inputs.token_files import has_tokens, noted_failure, read_tokens, write_tokens
from orchestrator.inputs.tokens import COUNTS, count_units, tokenise, tokens_id
from orchestrator.plan.inputs import Draw, Reading, TrainingDraw
from orchestrator.store.store import Store

logger = logging.getLogger(__name__)

Make = Callable[[Reading, Mapping[str, Text], Any], Tensor | None]
"""Makes the tensor of a token file from a text and a tokenizer."""


WAIT_SECONDS = 0.5
"""Pause between two looks for a file."""


@dataclass(frozen=True)
class Awaited:
    """Token files that the command makes while trials run."""

    names: frozenset[str] = frozenset()
    attempt: str = ""
    """Name of the run, which notes on failures carry."""
    seconds: float = 0.0
    """Longest wait for one."""


@dataclass(frozen=True)
class TokenReader:
    """Reads the token files of one model."""

    store: Store
    source: ModelSource
    texts: Mapping[str, Text]
    """The texts of the model by their identity."""
    awaited: Awaited = Awaited()

    def training_windows(self, draw: TrainingDraw) -> Tensor:
        """Return the windows of a round of training, once the command has made its file.

        Raises:
            DamagedTokensError: the command could not make it, or as `tokens` does.
        """
        name, stream = (tokens_id(each, self.source.identity) for each in (draw, draw.text))
        self.wait_for({name, stream} & self.awaited.names)
        try:
            return read_tokens(self.store, name)
        except DamagedTokensError as damage:
            if not damage.is_missing:
                logger.warning("%s; drawn again", damage)
        stream, text = self.tokens(draw.text), draw.text
        if not text.bos:
            return training_windows(stream, draw.num_windows, text.seq_len, draw.seed, draw.round)
        size = (draw.num_windows, text.seq_len - 1)
        return begun(training_windows(stream[1:], *size, draw.seed, draw.round), int(stream[0]))

    def wait_for(self, names: set[str]) -> None:
        """Wait until the command has made the files of these names.

        Raises:
            DamagedTokensError: it could not, or it took too long.
        """
        end = time.monotonic() + self.awaited.seconds
        for name in names:
            while not has_tokens(self.store, name):
                why = noted_failure(self.store, name, self.awaited.attempt)
                if why is not None:
                    raise DamagedTokensError(name, f"not made: {why}")
                if time.monotonic() > end:
                    raise DamagedTokensError(name, f"{MISSING} for {self.awaited.seconds:g} s")
                time.sleep(WAIT_SECONDS)

    def tokens(self, reading: Reading) -> Tensor:
        """Return the tokens that a stage reads.

        Raises:
            DamagedTokensError: the file is damaged, and its text is not on this machine.
        """
        name = tokens_id(reading, self.source.identity)
        try:
            return read_tokens(self.store, name)
        except DamagedTokensError as damage:
            made = self.make(reading, damage, tokenise)
        assert made is not None
        return made

    def counts(self, reading: Reading) -> Tensor | None:
        """Return words and bytes of each token of an evaluation; None where nothing counted."""
        name = tokens_id(reading, self.source.identity) + COUNTS
        try:
            return read_tokens(self.store, name)
        except DamagedTokensError as damage:
            return None if damage.is_missing else self.make(reading, damage, count_units)

    def make(self, reading: Reading, damage: DamagedTokensError, how: Make) -> Tensor | None:
        """Make a file again, write it, and return its tensor; None if there is nothing to count."""
        identity = reading.text.text if isinstance(reading, Draw) else reading.text
        text = self.texts.get(identity)
        if text is None or not is_at_hand(text):
            why = f"{damage.why}, and its text is not on this machine; run the same command again"
            raise DamagedTokensError(damage.name, why) from damage
        logger.warning("%s; made again", damage)
        made = how(reading, self.texts, load_tokenizer(self.source))
        if made is not None:
            write_tokens(self.store, damage.name, made)
        return made


def is_at_hand(text: Text) -> bool:
    """Return True if a text can be read here: a file of the hub, or a local one of equal content.

    A file of the same path on another machine may be another text.
    """
    if text.path is None:
        return True
    path = Path(text.path)
    return path.is_file() and text.content == f"sha256:{file_hash(path)}"
