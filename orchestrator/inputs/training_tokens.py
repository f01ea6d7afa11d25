"""Token files of training texts, which are long: checked before Ray starts, made while trials run.

A training stage waits for its file (`token_reader.py`). If the file cannot be made, a note beside
it says why, and the stage fails with that line before it does anything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.checks import require
from core.texts.content import joined
from core.texts.known_pieces import KnownPieces
from core.texts.tokenization import WithoutBos, tokenize
from core.texts.windows import begun, training_starts, windows_at
from orchestrator.failure import last_line
from orchestrator.inputs.models import ResolvedModel
from orchestrator.inputs.token_files import note_failure, stored_names, write_tokens
from orchestrator.inputs.tokenizer_checks import fitting_tokenizer, require_known_ids
from orchestrator.inputs.tokens import is_whole, tokens_id
from orchestrator.plan.inputs import TrainingDraw, TrainingText
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store

logger = logging.getLogger(__name__)

CHECKED_CHARS = 16_384
"""Characters that are tokenised before Ray starts, at least; more if windows are long."""


@dataclass(frozen=True)
class KnownWindows:
    """Windows of rounds whose pieces alone are tokenised; each round has a file."""

    draws: dict[str, TrainingDraw]
    """Rounds by the name of their file."""
    pieces: KnownPieces

    @property
    def names(self) -> frozenset[str]:
        """Names of the files."""
        return frozenset(self.draws)

    def make(self) -> dict[str, Tensor]:
        """Return the tensor of each file."""
        draws, num_tokens = [*self.draws.values()], self.pieces.num_tokens
        seq_len = draws[0].text.seq_len
        drawn = [
            training_starts(num_tokens, each.num_windows, seq_len, each.seed, each.round)
            for each in draws
        ]
        starts = torch.cat(drawn)
        windows = self.pieces.windows(starts, seq_len)
        if windows is None:
            windows = windows_at(self.pieces.all_tokens(), starts, seq_len)
        return dict(zip(self.draws, windows.split([len(each) for each in drawn])))


@dataclass(frozen=True)
class WholeStream:
    """All tokens of a text, in one file."""

    name: str
    model: ResolvedModel
    content: str
    tokenizer: Any
    bos: bool = False
    """True if the tokens have one BOS in front, for windows that begin with it."""

    @property
    def names(self) -> frozenset[str]:
        """Name of the file."""
        return frozenset([self.name])

    def make(self) -> dict[str, Tensor]:
        """Return the tensor of the file."""
        tokens = self.encode(self.content)
        require_known_ids(self.model.facts, tokens, self.tokenizer)
        return {self.name: tokens}

    def encode(self, content: str) -> Tensor:
        """Return the tokens of a text."""
        if not self.bos:
            return tokenize(content, self.tokenizer)
        reader = WithoutBos(self.tokenizer)
        return begun(tokenize(content, reader), reader.bos)

    def check(self, text: TrainingText) -> None:
        """Refuse a text that is too short, and tokens that the model has no embedding for."""
        tokens, size = torch.empty(0), max(CHECKED_CHARS, 8 * text.seq_len)
        # At its end, a part of a text may have more tokens than the text itself has there.
        while len(tokens) < 2 * text.seq_len and size // 4 < len(self.content):
            tokens = self.encode(self.content[:size])
            size *= 4
        found = self.model.texts[text.text]
        remedy = f"has {len(tokens)} tokens, 0 windows of {text.seq_len}; give a longer text"
        require(len(tokens) >= text.seq_len, found.flag, found.name, remedy)
        added, rows = self.tokenizer.get_added_vocab(), self.model.facts.vocab_size
        if any(index >= rows and token in self.content for token, index in added.items()):
            tokens = self.encode(self.content)
        require_known_ids(self.model.facts, tokens, self.tokenizer)


@dataclass(frozen=True)
class TrainingTokens:
    """Token files of training texts that a sweep needs and its store does not hold."""

    store: Store | None = None
    attempt: str = ""
    """Name of the run, which notes on failures carry."""
    lacking: tuple[KnownWindows | WholeStream, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names of the files, which training stages wait for."""
        return frozenset().union(*(each.names for each in self.lacking))

    def start(self) -> None:
        """Make the files in a thread; what fails is told in the log and in notes for workers."""
        if self.lacking:
            threading.Thread(target=self.write_or_note, name="training tokens", daemon=True).start()

    def write(self) -> None:
        """Make the files; each is written whole."""
        for each in self.lacking:
            self.write_one(each)

    def write_or_note(self) -> None:
        """Make the files, and a note for each that fails."""
        for each in self.lacking:
            try:
                self.write_one(each)
            except Exception as error:  # A full disk, no memory, a lost store: workers must know.
                logger.error("training text: %s", last_line(error))
                for name in each.names:
                    note_failure(self.written_to, name, self.attempt, last_line(error))

    def write_one(self, lacking: KnownWindows | WholeStream) -> None:
        """Make and write the files of one text."""
        for name, tokens in lacking.make().items():
            write_tokens(self.written_to, name, tokens)

    @property
    def written_to(self) -> Store:
        """The store."""
        assert self.store is not None
        return self.store


def training_tokens(
    models: Iterable[ResolvedModel], stages: Iterable[Stage], store: Store, attempt: str
) -> TrainingTokens:
    """Return the files that training stages need and the store does not hold; check their texts.

    Raises:
        ValueError: a text cannot be read, is too short, or has tokens that the model does not know.
    """
    stages = [stage for stage in stages if stage.work.trains]
    if not stages:
        return TrainingTokens()
    stored, lacking = stored_names(store), []
    for model in models:
        draws: dict[TrainingText, dict[str, TrainingDraw]] = {}
        for stage in stages:
            draw = stage.work.training_draw() if stage.model == model.inputs.name else None
            if draw is not None:
                name = tokens_id(draw, model.source.identity)
                draws.setdefault(draw.text, {})[name] = draw
        for text, mine in draws.items():
            stream = tokens_id(text, model.source.identity)
            if stream in stored and is_whole(store, stream):
                continue
            absent = {n: d for n, d in mine.items() if not (n in stored and is_whole(store, n))}
            if absent:
                lacking.append(checked(model, text, stream, absent))
    return TrainingTokens(store, attempt, tuple(lacking))


def checked(
    model: ResolvedModel, text: TrainingText, stream: str, draws: dict[str, TrainingDraw]
) -> KnownWindows | WholeStream:
    """Return the way to make the files of a text; refuse a text that cannot be trained on."""
    tokenizer = fitting_tokenizer(model.source, model.facts)
    found = model.texts[text.text]
    pieces = None if text.bos else KnownPieces.of(found, tokenizer)
    if pieces is not None and text.seq_len <= pieces.num_tokens:
        return KnownWindows(draws, pieces)
    whole = WholeStream(stream, model, joined(found), tokenizer, text.bos)
    whole.check(text)
    return whole
