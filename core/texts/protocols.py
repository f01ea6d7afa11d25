"""Named protocols: which windows of which text each paper's code prunes and evaluates on.

A protocol only sets what flags leave open, and expands to fields of texts and windows, which alone
enter identities. All of them evaluate as `perplexity.py` says, and join WikiText-2 test by empty
lines. What the codes differ in was read from them, at the commits named below:

- `sparsegpt`: github.com/IST-DASLab/sparsegpt, `datautils.py` and `opt.py` at 147d2159. WikiText-2
  train is joined by spaces to sample from; of C4 the first 256 windows are evaluated.
- `wanda`: github.com/locuslab/wanda, `lib/data.py`, `lib/eval.py` and `main_opt.py` at 8e8fc87b.
  SparseGPT's loaders (none for PTB, which is read as SparseGPT's reads it), but windows are as long
  as the model reads (4096 for LLaMA-2). It loads weights as float16, here `--dtype float16`.
- `alps`: github.com/mazumder-lab/ALPS, `datautils.py` and `opt.py` at 8af9e6b5. WikiText-2
  train and PTB train are joined by empty lines; PTB is evaluated on the validation part, joined
  alike; C4 is 256 random windows of validation documents, drawn with seed 0. That code also
  calibrates on the C4 file it evaluates on; here calibration stays on the first training shard,
  since texts must be disjoint.
- `prune-and-tune`: the work this project grew out of, with SparseGPT's calibration. Windows of 1024
  every 512 tokens, of which only tokens not scored before count (the Hugging Face guide to
  perplexity), and training on WikiText-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from core.texts.named_texts import Role, TextName

if TYPE_CHECKING:
    from core.texts.sources import Text

ProtocolName = Literal["sparsegpt", "wanda", "alps", "prune-and-tune"]


@dataclass(frozen=True)
class Reading:
    """How a protocol reads a named text in one role, where that is not the text's own way."""

    part: str | None = None
    """Part of the text where the name gives none."""
    joiner: str | None = None
    """What stands between rows."""
    max_windows: int | None = None
    """Only the first windows are evaluated."""
    num_samples: int | None = None
    """Evaluate on this many random windows of random documents instead of the stream."""


@dataclass(frozen=True)
class Protocol:
    """What a protocol sets where no flag does."""

    max_seq_len: int | None = 2048
    """Longest window of calibration and evaluation; None for the model's own maximum."""
    eval_seq_len: int | None = None
    """Tokens an evaluation window; by default as long as `max_seq_len` and the model allow."""
    eval_stride: int | None = None
    """Step between evaluation windows; by default the window."""
    finetune_text: str = "c4"
    """Training text of models other than the embedded one."""
    readings: Mapping[tuple[str, Role], Reading] = field(default_factory=dict)
    """Readings by short name and role."""

    def reading(self, name: str, role: Role) -> Reading:
        """How a text of this name is read in this role."""
        return self.readings.get((TextName.parse(name).short or name, role), Reading())

    def resolve(self, name: str, role: Role) -> Text:
        """The text as this protocol reads it; errors are those of `resolve_text`."""
        from core.texts.sources import resolve_text  # Its libraries take a second to import.

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
