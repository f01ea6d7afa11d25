"""Names become facts before anything runs: models and texts, checked and identified.

Everything a user can get wrong about models and texts is refused here, with one line, before Ray
starts and before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch

from core.checks import require
from core.hub.downloads import NotFetchedError
from core.models.facts import ModelFacts, describe_model
from core.models.sources import EMBEDDED, ModelSource, resolve_model
from core.precision import inference_dtype, training_dtype
from core.texts import sources
from core.texts import windows as data
from core.texts.protocols import PROTOCOLS, Protocol
from orchestrator.config import SweepConfig
from orchestrator.inputs.text_names import text_names
from orchestrator.plan.inputs import ModelInputs, TextInput

EMBEDDED_TOKENS, EMBEDDED_BATCH_TOKENS = 32_768, 2_048
VALIDATION_TOKENS = 65_536
"""At most: the choice of a learning rate needs no more, and is made in every round."""
HUB_TOKENS, HUB_BATCH_WINDOWS = 1_048_576, 8


@dataclass
class ResolvedModel:
    """A model with its texts: what planning needs, and what loading needs."""

    source: ModelSource
    facts: ModelFacts
    inputs: ModelInputs
    texts: dict[str, sources.Text] = field(default_factory=dict)
    """Texts by identity."""


def resolve_inputs(config: SweepConfig) -> list[ResolvedModel]:
    """Resolves and checks all models and texts of a sweep; reads no weights.

    Raises:
        ValueError: one line naming flag, value and remedy.
    """
    device = torch.device("cuda" if config.resources.use_gpu else "cpu")
    try:
        models = [resolve_one(config, name, device) for name in config.grid.models]
    except NotFetchedError as error:
        raise NotFetchedError.together(all_missing(config) or [error]) from error
    seen: dict[str, str] = {}
    for model in models:
        name, twin = model.inputs.name, seen.setdefault(model.source.identity, model.inputs.name)
        require(twin == name, "models", name, f"is the same model as {twin}; name each once")
    return models


def all_missing(config: SweepConfig) -> list[NotFetchedError]:
    """Every model and text that neither the hub's cache nor the hub gives, in the grid's order."""
    resolve_text = PROTOCOLS[config.grid.protocol].resolve
    asks: dict[tuple[str, str], Callable[[], object]] = {}
    for name in config.grid.models:
        asks["models", name] = partial(named_source, name)
    for name in config.grid.models:
        for text, role in text_names(config, is_embedded=name == EMBEDDED).roles():
            asks[role, text] = partial(resolve_text, text, role)

    def missing(ask: Callable[[], object]) -> NotFetchedError | None:
        try:
            ask()
        except NotFetchedError as error:
            return error
        except ValueError:
            pass  # Another fault: said once everything is fetched.
        return None

    # A network that answers nothing costs a time limit for each: side by side.
    with ThreadPoolExecutor(len(asks)) as threads:
        return [error for error in threads.map(missing, asks.values()) if error is not None]


def named_source(name: str) -> ModelSource:
    """The model that NAME or NAME@REVISION stands for."""
    bare, _, revision = name.partition("@")
    return resolve_model(bare, revision or None)


def resolve_one(config: SweepConfig, name: str, device: torch.device) -> ResolvedModel:
    """One model with its calibration, training and evaluation texts."""
    source = named_source(name)
    facts = describe_model(source)
    for structure in filter(None, (target.structure for target in config.grid.targets())):
        for linear in facts.linears:
            remedy = f"{linear.name} has {linear.cols} inputs, not a multiple of {structure.group}"
            fits = linear.cols % structure.group == 0
            require(fits, "mask-structures", str(structure), remedy)
    is_embedded = name == EMBEDDED
    names = text_names(config, is_embedded)
    texts: dict[str, sources.Text] = {}
    calibration = finetune = validation = None
    if names.calibration is not None:
        calibration = calibration_input(config, facts, names.calibration, texts)
    if names.finetune is not None:
        finetune = finetune_input(config, facts, names.finetune, texts)
        if names.validation is not None:
            validation = validation_input(config, finetune, names.validation, texts)
    evaluations = evaluation_inputs(config, facts, names.evaluations, texts)
    require_disjoint(texts)
    seq_len = finetune.fields["seq_len"] if finetune else 0
    inputs = ModelInputs(
        name=name,
        identity=source.identity,
        dtype=inference_dtype(config.grid.dtype, facts.dtype, device),
        training_dtype=training_dtype(config.grid.dtype, device),
        calibration=calibration,
        finetune=finetune,
        finetune_tokens=config.finetune.tokens or (EMBEDDED_TOKENS if is_embedded else HUB_TOKENS),
        batch_tokens=config.finetune.batch_tokens
        or (EMBEDDED_BATCH_TOKENS if is_embedded else HUB_BATCH_WINDOWS * seq_len),
        evaluations=evaluations,
        validation=validation,
    )
    if finetune is not None:
        check_training_tokens(config, inputs, seq_len)
    return ResolvedModel(source, facts, inputs, {t.identity: t for t in texts.values()})


def window_length(
    flag: str, wanted: int | None, facts: ModelFacts, longest: int | None = Protocol.max_seq_len
) -> int:
    """The length asked for, or the model's maximum up to `longest`."""
    if wanted is None:
        return min(longest or facts.max_seq_len, facts.max_seq_len)
    require(
        wanted <= facts.max_seq_len,
        flag,
        wanted,
        f"{facts.name} reads at most {facts.max_seq_len} tokens",
    )
    return wanted


def calibration_input(
    config: SweepConfig, facts: ModelFacts, name: str, texts: dict[str, sources.Text]
) -> TextInput:
    """Calibration text and windows."""
    protocol = PROTOCOLS[config.grid.protocol]
    text = texts["calibration.text"] = protocol.resolve(name, "calibration")
    require(
        config.calibration.num_samples >= config.resources.num_workers,
        "calibration.num-samples",
        config.calibration.num_samples,
        f"needs a window for each of {config.resources.num_workers} workers",
    )
    fields = {
        "text": text.identity,
        "num_samples": config.calibration.num_samples,
        "seq_len": window_length(
            "calibration.seq-len", config.calibration.seq_len, facts, protocol.max_seq_len
        ),
        "sampling": config.calibration.sampling or data.default_sampling(text),
    }
    return TextInput(text.label, fields)


def finetune_input(
    config: SweepConfig, facts: ModelFacts, name: str, texts: dict[str, sources.Text]
) -> TextInput:
    """Training text and window length."""
    protocol = PROTOCOLS[config.grid.protocol]
    text = texts["finetune.text"] = protocol.resolve(name, "finetune")
    seq_len = window_length("finetune.seq-len", config.finetune.seq_len, facts)
    return TextInput(text.label, {"text": text.identity, "seq_len": seq_len})


def validation_input(
    config: SweepConfig, finetune: TextInput, name: str, texts: dict[str, sources.Text]
) -> TextInput:
    """The text that a learning rate is chosen on."""
    protocol = PROTOCOLS[config.grid.protocol]
    text = texts["finetune.validation"] = protocol.resolve(name, "validation")
    seq_len = finetune.fields["seq_len"]
    return TextInput(
        text.label,
        {"text": text.identity, "seq_len": seq_len, "max_windows": VALIDATION_TOKENS // seq_len},
    )


def evaluation_inputs(
    config: SweepConfig,
    facts: ModelFacts,
    names: tuple[str, ...],
    texts: dict[str, sources.Text],
) -> tuple[TextInput, ...]:
    """Evaluation texts, window and stride."""
    protocol = PROTOCOLS[config.grid.protocol]
    wanted = config.eval.seq_len or protocol.eval_seq_len
    seq_len = window_length("eval.seq-len", wanted, facts, protocol.max_seq_len)
    stride = config.eval.stride or protocol.eval_stride or seq_len
    require(stride <= seq_len, "eval.stride", stride, f"at most the window, {seq_len} tokens")
    inputs: list[TextInput] = []
    for name in names:
        text = texts[f"eval.texts {name}"] = protocol.resolve(name, "evaluation")
        known = [each.name for each in inputs]
        remedy = f"{text.label} is evaluated already; name each text once"
        require(text.label not in known, "eval.texts", name, remedy)
        reading = protocol.reading(name, "evaluation")
        fields = {
            "text": text.identity,
            "seq_len": seq_len,
            "stride": stride,
            "max_windows": config.eval.max_windows or reading.max_windows,
        }
        sampled = {} if reading.num_samples is None else {"num_samples": reading.num_samples}
        inputs.append(TextInput(text.label, {**fields, **sampled}))
    return tuple(inputs)


def require_disjoint(texts: dict[str, sources.Text]) -> None:
    """Refuses one text in two roles: measured recovery would be memory."""
    seen: list[tuple[str, sources.Text]] = []
    for flag, text in texts.items():
        for other_flag, other in seen:
            same = sources.same_text(text, other)
            require(
                not same,
                flag.split()[0],
                text.name,
                f"is the same text as --{other_flag.split()[0]}; calibration, training and "
                "evaluation need disjoint texts",
            )
        seen.append((flag, text))


def check_training_tokens(config: SweepConfig, inputs: ModelInputs, seq_len: int) -> None:
    """Every round needs at least one window."""
    smallest = inputs.finetune_tokens
    if config.finetune.budget == "total":
        smallest //= config.grid.most_rounds()
    require(
        smallest >= seq_len,
        "finetune.tokens",
        inputs.finetune_tokens,
        f"a round would have {smallest} tokens, less than one window of {seq_len}",
    )
    require(
        inputs.batch_tokens >= seq_len,
        "finetune.batch-tokens",
        inputs.batch_tokens,
        f"a batch holds at least one window of {seq_len} tokens",
    )
