"""Experiment trackers that people already use, on request: Weights & Biases and MLflow.

They are Ray's own callbacks: each trial is a run of the tracker, each finished cell a step. Both
are extras of the installation. TensorBoard needs nothing here: Tune writes its scalars below
OUT_DIR/ray whenever tensorboardX is installed, and Ray brings it along.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.checks import BadInputError, require
from orchestrator.config import Tracker

if TYPE_CHECKING:
    from ray.tune import Callback

PROJECT = "prune-sweep"
"""Project or experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""


def require_usable(names: Iterable[Tracker]) -> None:
    """Refuse trackers that are not installed or cannot be set up, before anything runs.

    Raises:
        BadInputError: one of them cannot be used; the message says what to do.
    """
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
            raise BadInputError(f"--trackers mlflow: {remedy}") from None


def callbacks_of(names: Iterable[Tracker]) -> list[Callback]:
    """Return Ray's callbacks; each tracker's own variables name its server and key."""
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
