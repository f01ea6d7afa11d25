"""Trackers that people already use: Ray's own callbacks for them, on request.

TensorBoard needs none of this: Tune writes its scalars below OUT_DIR/ray whenever tensorboardX is
there, which comes with Ray. Weights & Biases and MLflow are extras. Each trial is a run of theirs,
each finished cell a step.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.checks import require
from orchestrator.config import Tracker

if TYPE_CHECKING:
    from ray.tune import Callback

PROJECT = "prune-sweep"
"""Project or experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""


def require_usable(names: Iterable[Tracker]) -> None:
    """Refuses a tracker that is not installed, or cannot be set up, before anything runs."""
    for name in names:
        remedy = f"is not installed; pip install -e '.[{name}]'"
        require(importlib.util.find_spec(name) is not None, "trackers", name, remedy)
    if "mlflow" in names:
        try:
            import mlflow  # pyright: ignore[reportMissingImports]

            mlflow.MlflowClient()
        except Exception as error:
            uri = os.environ.get("MLFLOW_TRACKING_URI", "its default, a database")
            reason = str(error).splitlines()[0]
            remedy = f"cannot write to {uri}; set MLFLOW_TRACKING_URI to a server's ({reason})"
            raise ValueError(f"--trackers mlflow: {remedy}") from None


def callbacks_of(names: Iterable[Tracker]) -> list[Callback]:
    """Ray's callbacks; servers and keys are those of the trackers' own variables."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.air.integrations.wandb import WandbLoggerCallback

    found: list[Callback] = []
    for name in names:
        if name == "wandb":
            found.append(WandbLoggerCallback(project=os.environ.get("WANDB_PROJECT", PROJECT)))
        else:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found.append(MLflowLoggerCallback(experiment_name=experiment))
    return found
