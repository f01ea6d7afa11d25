"""Accuracy on tasks without examples, by lm-evaluation-harness (Gao et al., the extra `tasks`).

The model must be whole in one process. The harness starts process groups of its own, so there may
be no other one.
"""

from __future__ import annotations

import contextlib
import io
import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers

from core.checks import require, require_known
from core.hub.identity import file_hash, first_line
from core.paths import local_path, look_up

MODULES = ("lm_eval", "accelerate")
DEFINITIONS = (".yaml", ".yml")


def require_tasks(names: tuple[str, ...]) -> None:
    """Refuse tasks that cannot run: no harness, no such task, no such definition.

    Raises:
        BadInputError: one line naming the flag, the task and the remedy.
    """
    missing = [name for name in MODULES if find_spec(name) is None]
    remedy = f"needs {' and '.join(missing)}; pip install 'prune-sweep[tasks]'"
    require(not missing, "eval.tasks", " ".join(names), remedy)
    known: list[str] | None = None
    for name in names:
        if is_definition(name):
            found = look_up("eval.tasks", name, local_path("eval.tasks", name))
            require(found is not None, "eval.tasks", name, "no such file")
        else:
            known = known or known_tasks()
            require_known("eval.tasks", name, [*known, "or the path of a task's .yaml file"])


def is_definition(name: str) -> bool:
    """Return True if the name of a task is the file that defines it."""
    return name.endswith(DEFINITIONS)


def known_tasks() -> list[str]:
    """Return the names of the harness's own tasks and groups."""
    return sorted(import_module("lm_eval.tasks").TaskManager().all_tasks)


def task_identity(name: str) -> str:
    """Return the identity of a task: its name in the harness, or the hash of its definition."""
    return f"sha256:{file_hash(Path(name))}" if is_definition(name) else name


def task_label(name: str) -> str:
    """Return the name of a task in columns and tables."""
    return Path(name).stem if is_definition(name) else name


def run_task(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    name: str,
    limit: int | None,
    batch_size: int,
    max_length: int,
) -> dict[str, float]:
    """Return the metrics of one task or group of tasks by name, with standard errors.

    Args:
        model: the whole model, on its device.
        tokenizer: the model's.
        name: a name in the harness, or the path of a definition.
        limit: largest number of examples of each task; None for all.
        batch_size: requests in a forward pass.
        max_length: largest number of tokens that the model reads.

    Raises:
        RuntimeError: the harness failed; one line. Most often its data cannot be fetched.
    """
    # Imported by name, because the harness is an extra and its types do not describe these calls.
    evaluator = import_module("lm_eval.evaluator")
    models, tasks = import_module("lm_eval.models.huggingface"), import_module("lm_eval.tasks")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            harness = models.HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                max_length=max_length,
            )
            found = evaluator.simple_evaluate(
                harness,
                tasks=[name],
                num_fewshot=0,
                limit=limit,
                log_samples=False,
                # The index of the harness's own tasks takes seconds; a definition needs none.
                task_manager=tasks.TaskManager(include_defaults=not is_definition(name)),
            )
    except Exception as error:
        # The harness, its tasks and the readers of data sets raise many kinds of errors.
        raise RuntimeError(f"{type(error).__name__}: {first_line(error)}") from error
    return metrics_of(found["results"], task_label(name))


def metrics_of(results: dict[str, dict[str, Any]], label: str) -> dict[str, float]:
    """Return `metric` or `subtask:metric` -> value from the harness's results; filters are kept."""
    metrics = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not kind or not number:
                continue
            name = metric if kind == "none" else f"{metric},{kind}"
            metrics[name if len(results) == 1 or task == label else f"{task}:{name}"] = float(value)
    return metrics
