"""Accuracy on tasks, by lm-evaluation-harness (Gao et al., the extra `tasks`), with no examples.

Beside perplexity, on a pruned model whole in one process: the harness has its own idea of process
groups, so none of ours may be around.
"""

from __future__ import annotations

import contextlib
import io
import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.checks import require, require_known
from core.hub.identity import file_hash, first_line

TASKS_VERSION = 1
"""Raised whenever the numbers of tasks would change."""
MODULES = ("lm_eval", "accelerate")
DEFINITIONS = (".yaml", ".yml")


def require_tasks(names: tuple[str, ...]) -> None:
    """Refuses tasks that cannot be run: no harness, no such task, no such definition.

    Raises:
        ValueError: one line naming the flag, the task and the remedy.
    """
    missing = [name for name in MODULES if find_spec(name) is None]
    remedy = f"needs {' and '.join(missing)}; pip install 'prune-sweep[tasks]'"
    require(not missing, "eval.tasks", " ".join(names), remedy)
    known: list[str] | None = None
    for name in names:
        if is_definition(name):
            require(Path(name).is_file(), "eval.tasks", name, "no such file")
        else:
            known = known or known_tasks()
            require_known("eval.tasks", name, [*known, "or the path of a task's .yaml file"])


def is_definition(name: str) -> bool:
    """Whether a task is named by the file that defines it."""
    return name.endswith(DEFINITIONS)


def known_tasks() -> list[str]:
    """Names of the harness's own tasks and groups."""
    return sorted(import_module("lm_eval.tasks").TaskManager().all_tasks)


def task_identity(name: str) -> str:
    """What a task is: its name in the harness, or the content of its definition."""
    return f"sha256:{file_hash(Path(name))}" if is_definition(name) else name


def task_label(name: str) -> str:
    """The name of a task in columns and tables."""
    return Path(name).stem if is_definition(name) else name


def run_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    limit: int | None,
    batch_size: int,
    max_length: int,
) -> dict[str, float]:
    """Metrics of one task or group of tasks by name; with its standard errors.

    Args:
        model: whole, on its device.
        tokenizer: its own.
        name: of the harness, or the path of a definition.
        limit: only so many examples of each task.
        batch_size: requests a forward pass.
        max_length: tokens that the model reads at most.

    Raises:
        RuntimeError: the harness failed, in one line; most often its data cannot be fetched.
    """
    # By name: the harness is an extra, and its own types do not describe these calls.
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
                # Its index of its own tasks takes seconds, and a definition needs none.
                task_manager=tasks.TaskManager(include_defaults=not is_definition(name)),
            )
    except Exception as error:
        # The harness, its tasks and the data sets' readers raise errors of their own.
        raise RuntimeError(f"{type(error).__name__}: {first_line(error)}") from error
    return metrics_of(found["results"], task_label(name))


def metrics_of(results: dict[str, dict[str, Any]], label: str) -> dict[str, float]:
    """`metric` or `subtask:metric` -> value, from the harness's results; its filters are kept."""
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
