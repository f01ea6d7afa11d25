"""Names of the texts that a model's cells read, by role: those of flags, else the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from core.checks import require
from core.methods import needs_calibration
from core.models.sources import EMBEDDED
from core.texts.named_texts import Role, TextName
from core.texts.protocols import PROTOCOLS
from orchestrator.config import SweepConfig


@dataclass(frozen=True)
class TextNames:
    """The texts of one model's cells by name; None for a role without one."""

    calibration: str | None
    finetune: str | None
    validation: str | None
    evaluations: tuple[str, ...]

    def roles(self) -> list[tuple[str, Role]]:
        """Return each text with its role."""
        single: list[tuple[str | None, Role]] = [
            (self.calibration, "calibration"),
            (self.finetune, "finetune"),
            (self.validation, "validation"),
        ]
        named: list[tuple[str, Role]] = [(n, role) for n, role in single if n is not None]
        return [*named, *((name, "evaluation") for name in self.evaluations)]


def text_names(config: SweepConfig, is_embedded: bool) -> TextNames:
    """Return the texts that a model needs: those of the flags, else the defaults."""
    calibration = finetune = validation = None
    if any(needs_calibration(method, config.prune) for method in config.pruning_methods()):
        calibration = config.calibration.text or (EMBEDDED if is_embedded else "c4")
    if config.grid.trains:
        default = EMBEDDED if is_embedded else PROTOCOLS[config.grid.protocol].finetune_text
        finetune = config.finetune.text or default
        rates = {"finetune.lr": config.finetune.lrs} if config.grid.finetunes else {}
        rates |= {"joint.lr": config.joint.lrs()} if config.grid.joins else {}
        for flag, lrs in rates.items():
            if len(lrs) <= 1:
                continue
            # By default the training text's own part for it.
            own = TextName.parse(finetune).short
            validation = config.finetune.validation or own
            remedy = f"several need --finetune.validation, since {finetune} has no part for it"
            require(validation is not None, flag, " ".join(map(str, lrs)), remedy)
    evaluations = config.eval.texts or ((EMBEDDED,) if is_embedded else ("wikitext2",))
    return TextNames(calibration, finetune, validation, evaluations)
