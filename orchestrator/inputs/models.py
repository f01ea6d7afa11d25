"""Models of a sweep with their texts: names become facts, checked and identified.

Everything that a user can get wrong about models and texts is refused here in one line, before Ray
starts and before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from core.checks import require
from core.hub.downloads import NotFetchedError
from core.methods import require_matrices
from core.models.config_checks import require_dtype
from core.models.facts import ModelFacts
from core.models.sources import EMBEDDED, ModelSource, resolve_model
from core.precision import inference_dtype, training_dtype
from core.texts.protocols import PROTOCOLS
from core.texts.sources import Text
from orchestrator.config import SweepConfig
from orchestrator.inputs.known_models import (
    Recorded,
    as_known,
    name_in_results,
    recorded_facts,
)
from orchestrator.inputs.text_names import text_names
from orchestrator.inputs.texts import ModelTexts, resolve_texts
from orchestrator.plan.inputs import MOST_WINDOWS, ModelInputs

EMBEDDED_TOKENS, EMBEDDED_BATCH_TOKENS = 32_768, 2_048
HUB_TOKENS = 1_048_576


@dataclass
class ResolvedModel:
    """A model with its texts: all that planning and loading need."""

    source: ModelSource
    facts: ModelFacts
    inputs: ModelInputs
    texts: dict[str, Text] = field(default_factory=dict)
    """Texts by identity."""
    is_checked: bool = True
    """False if facts come from a store's record, and the weights were not compared with them."""


@dataclass(frozen=True)
class Resolver:
    """Resolves the models and texts of one block after another; each file is read once."""

    recorded: Sequence[Recorded] = ()
    """The models of earlier sweeps of the store, whose names and identities stay."""
    sources: dict[tuple[str, bool], tuple[ModelSource, ModelFacts, bool]] = field(
        default_factory=dict
    )
    """For each name, with or without zeros to keep: source, facts, and True if it is recorded."""
    texts: dict[tuple[str, str, str], Text] = field(default_factory=dict)
    """Texts by protocol, name and role."""

    def source(self, config: SweepConfig, name: str) -> tuple[ModelSource, ModelFacts, bool]:
        """Return the source and the facts of a model, and True if its facts are recorded ones."""
        key = (name, config.prune.keep_zeros)
        if key not in self.sources:
            source = resolve_model(name, needs_weights=not config.output.dry_run)
            known = recorded_facts(source, self.recorded)
            facts = known or checked_facts(config, source)
            self.sources[key] = (source, facts, known is not None)
        return self.sources[key]


def resolve_inputs(config: SweepConfig, recorded: Sequence[Recorded] = ()) -> list[ResolvedModel]:
    """Resolve and check all models and texts of one block; read no weights.

    Args:
        config: the settings.
        recorded: the models of earlier sweeps of the store, whose names and identities stay.

    Raises:
        ValueError: one line naming flag, value and remedy.
    """
    return resolve_blocks([config], recorded)[0]


def resolve_blocks(
    blocks: Sequence[SweepConfig], recorded: Sequence[Recorded] = ()
) -> list[list[ResolvedModel]]:
    """Resolve and check the models and texts of all blocks of a sweep; see `resolve_inputs`."""
    resolver = Resolver(recorded)
    try:
        found = [[resolve_one(b, name, resolver) for name in b.grid.models] for b in blocks]
    except NotFetchedError as error:
        raise NotFetchedError.together(all_missing(blocks) or [error]) from error
    seen: dict[str, str] = {}
    for model in (model for models in found for model in models):
        name, twin = model.source.name, seen.setdefault(model.source.identity, model.source.name)
        require(twin == name, "models", name, f"is the same model as {twin}; name each once")
    for config, models in zip(blocks, found, strict=True):
        require_experts(config, [model.facts for model in models])
    return [[known_one(model, recorded) for model in models] for models in found]


def together(resolved: Iterable[Iterable[ResolvedModel]]) -> list[ResolvedModel]:
    """Return each model of all blocks once, with the inputs of its first block and all texts."""
    found: dict[str, ResolvedModel] = {}
    for model in (model for models in resolved for model in models):
        first = found.setdefault(model.inputs.name, model)
        found[model.inputs.name] = replace(first, texts=first.texts | model.texts)
    return [*found.values()]


def known_one(model: ResolvedModel, recorded: Sequence[Recorded]) -> ResolvedModel:
    """Return a model under the name and the identity that the store knows it by."""
    name, source = as_known(model.inputs.name, model.source, recorded)
    inputs = replace(model.inputs, name=name, identity=source.identity)
    return replace(model, source=source, inputs=inputs)


def require_experts(config: SweepConfig, facts: Sequence[ModelFacts]) -> None:
    """Refuse flags that no model reads, and training that a mixture of experts cannot have."""
    remedy = "no model of --models has a router or gate that can be pruned; leave it out"
    some = any(one.routers for one in facts)
    require(some or not config.prune.routers, "prune.routers", True, remedy)
    mixture = any(one.has_experts for one in facts)
    remedy = "no model of --models has experts; leave it out"
    for flag, value in (
        ("all-experts", config.calibration.all_experts),
        ("pseudo-tokens", config.calibration.pseudo_tokens),
    ):
        given = value is not None and value is not False
        require(mixture or not given, f"calibration.{flag}", value, remedy)
    trainable = config.finetune.trainable
    fits = trainable != "masklora" or not mixture
    require(fits, "finetune.trainable", trainable, "cannot train experts; use all or bias_norm")


def all_missing(blocks: Iterable[SweepConfig]) -> list[NotFetchedError]:
    """Return every model and text that neither the hub's cache nor the hub gives, in order."""
    asks: dict[tuple[str, str], Callable[[], object]] = {}
    for config in blocks:
        for name in config.grid.models:
            needs_weights = not config.output.dry_run
            asks["models", name] = partial(resolve_model, name, needs_weights=needs_weights)
    for config in blocks:
        resolve_text = PROTOCOLS[config.grid.protocol].resolve
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


def resolve_one(config: SweepConfig, name: str, resolver: Resolver) -> ResolvedModel:
    """Return one model with its calibration, training and evaluation texts."""
    device = torch.device("cuda" if config.resources.use_gpu else "cpu")
    source, facts, is_recorded = resolver.source(config, name)
    require_dtype(name, config.grid.dtype, facts.dtype)
    pruned = facts.pruned(config.prune.routers)
    require_widths(config, pruned)
    require_matrices(config.prune, [linear.name for linear in pruned.linears])
    is_embedded = name == EMBEDDED
    texts = ModelTexts(config, facts, resolver.texts)
    found = resolve_texts(texts, text_names(config, is_embedded))
    seq_len = found.training.seq_len if found.training else 0
    tokens, batch = config.finetune.tokens, config.finetune.batch_tokens
    tokens = tokens or (EMBEDDED_TOKENS if is_embedded else HUB_TOKENS)
    inputs = ModelInputs(
        name=name_in_results(source),
        identity=source.identity,
        dtype=inference_dtype(config.grid.dtype, facts.dtype, device),
        training_dtype=training_dtype(config.grid.dtype, device),
        calibration=found.calibration,
        finetune=found.training,
        finetune_tokens=tokens,
        batch_tokens=batch or (EMBEDDED_BATCH_TOKENS if is_embedded else MOST_WINDOWS * seq_len),
        evaluations=found.evaluations,
        validation=found.validation,
        batch_is_given=batch is not None,
    )
    if found.training is not None:
        require_whole_windows(config, inputs, seq_len)
    return ResolvedModel(source, facts, inputs, texts.by_identity(), is_checked=not is_recorded)


def checked_facts(config: SweepConfig, source: ModelSource) -> ModelFacts:
    """Return the facts of a model; refuse weights that do not fit its config."""
    # These import transformers' models: three seconds that a finished sweep does without.
    from core.models.description import describe_model
    from orchestrator.inputs.checkpoint_checks import require_fitting_weights

    facts = describe_model(source)
    require_fitting_weights(source, keeps_zeros=config.prune.keep_zeros)
    return facts


def require_checked(config: SweepConfig, models: Sequence[ResolvedModel]) -> None:
    """Check the models, before any work, whose facts come from a record."""
    for model in models:
        if not model.is_checked:
            checked_facts(config, model.source)


def require_widths(config: SweepConfig, facts: ModelFacts) -> None:
    """Refuse N:M where a matrix has inputs that M does not divide."""
    for structure in filter(None, (target.structure for target in config.grid.targets())):
        for linear in facts.linears:
            remedy = f"{linear.name} has {linear.cols} inputs, not a multiple of {structure.group}"
            fits = linear.cols % structure.group == 0
            require(fits, "mask-structures", str(structure), remedy)


def require_whole_windows(config: SweepConfig, inputs: ModelInputs, seq_len: int) -> None:
    """Refuse a round or an optimizer step of less than one window."""
    smallest = inputs.finetune_tokens
    if config.finetune.budget == "total":
        smallest //= config.grid.most_rounds()
    remedy = f"a round would have {smallest} tokens, less than one window of {seq_len}"
    require(smallest >= seq_len, "finetune.tokens", inputs.finetune_tokens, remedy)
    remedy = f"a batch holds at least one window of {seq_len} tokens"
    batch = inputs.batch_tokens
    require(batch >= seq_len, "finetune.batch-tokens", batch, remedy)
