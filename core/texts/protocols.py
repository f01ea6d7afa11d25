"""Named protocols: the texts and windows that the code of each paper prunes and evaluates on.

A protocol only sets what the flags leave open. It expands to fields of texts and windows, and only
these enter identities. Every protocol evaluates as `measures/perplexity.py` says, and joins
WikiText-2 test by empty lines. The differences were read from each code at the commit named here:

- `sparsegpt`: github.com/IST-DASLab/sparsegpt, `datautils.py` and `opt.py` at 147d2159. WikiText-2
  train is joined by spaces for sampling. C4 is evaluated on its first 256 windows.
- `wanda`: github.com/locuslab/wanda, `lib/data.py`, `lib/eval.py` and `main_opt.py` at 8e8fc87b.
  SparseGPT's loaders (none for PTB, which is read here as SparseGPT does), but the windows are as
  long as the model allows (4096 for LLaMA-2). It loads weights as float16, here `--dtype float16`.
- `alps`: github.com/mazumder-lab/ALPS, `datautils.py` and `opt.py` at 8af9e6b5. WikiText-2
  train and PTB train are joined by empty lines. PTB is evaluated on the validation part, joined in
  the same way. C4 is evaluated on 256 random windows of validation documents, drawn with seed 0.
  That code also calibrates on the C4 file that it evaluates on. Here calibration stays on the first
  training shard, because texts must be disjoint.
- `prune-and-tune`: the work that this project grew out of, with SparseGPT's calibration. It
  evaluates on windows of 1024 tokens every 512 tokens, and only tokens not scored before count (the
  Hugging Face guide to perplexity). It trains on WikiText-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from core.texts.named_texts import Role, TextName
from core.texts.sources import Text, resolve_text

ProtocolName = Literal["sparsegpt", "wanda", "alps", "prune-and-tune"]


@dataclass(frozen=True)
class Reading:
    """Differences between a protocol's reading of a named text in one role and the usual one."""

    part: str | None = None
    """Part of the text if the name gives none."""
    joiner: str | None = None
    """Text between two rows."""
    max_windows: int | None = None
    """Evaluate on this many first windows only."""
    num_samples: int | None = None
    """Evaluate on this many random windows of random documents instead of the stream."""


@dataclass(frozen=True)
class Protocol:
    """Settings of a protocol for the flags that are not given."""

    max_seq_len: int | None = 2048
    """Longest window of calibration and evaluation; None for the model's own maximum."""
    eval_seq_len: int | None = None
    """Tokens in an evaluation window; by default as many as `max_seq_len` and the model allow."""
    eval_stride: int | None = None
    """Tokens between the starts of two evaluation windows; by default the window's length."""
    finetune_text: str = "c4"
    """Training text of models other than the embedded one."""
    readings: Mapping[tuple[str, Role], Reading] = field(default_factory=dict)
    """Readings by short name and role."""

    def reading(self, name: str, role: Role) -> Reading:
        """Return the reading of a text of this name in this role."""
        return self.readings.get((TextName.parse(name).short or name, role), Reading())

    def resolve(self, name: str, role: Role) -> Text:
        """Return the text as this protocol reads it; errors are those of `resolve_text`."""
        reading = self.reading(name, role)
        text = resolve_text(name, role, reading.part)
        if reading.joiner is None:
            return text
        return replace(text, rule=replace(text.rule, joiner=reading.joiner))


_CALIBRATION: dict[tuple[str, Role], Reading] = {("wikitext2", "calibration"): Reading(joiner=" ")}
_SPARSEGPT = {**_CALIBRATION, ("c4", "evaluation"): Reading(max_windows=256)}

PROTOCOLS: dict[ProtocolName, Protocol] = {
    "sparsegpt": Protocol(readings=_SPARSEGPT),
    "wanda": Protocol(max_seq_len=None, readings=_SPARSEGPT),
    "alps": Protocol(
        readings={
            ("ptb", "calibration"): Reading(joiner="\n\n"),
            ("ptb", "evaluation"): Reading(part="validation", joiner="\n\n"),
            ("c4", "evaluation"): Reading(num_samples=256),
        },
    ),
    "prune-and-tune": Protocol(
        eval_seq_len=1024, eval_stride=512, finetune_text="wikitext2", readings=_CALIBRATION
    ),
}
