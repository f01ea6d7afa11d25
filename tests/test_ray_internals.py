"""Private names of Ray that the project needs, and what breaks when Ray moves one of them."""

import ast
import inspect
import pkgutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "orchestrator" / "cluster"
ALLOWED = {CLUSTER / "ray_internals.py", CLUSTER / "train_internals.py"}

EXECUTION = "ray.train.v2._internal.execution"
HOOKS = f"{EXECUTION}.callback:WorkerGroupCallback"
END = f"{EXECUTION}.callback:ControllerCallback.before_controller_shutdown"
STATE = f"{EXECUTION}.worker_group.state:WorkerGroupState"
SHOW = "ray._private.worker:print_to_stdstream"
HANGS = "a worker that hangs while its group starts is never killed and holds up its trial for ever"
LEAKS = "a group that is lost while it starts keeps its cores, and every later group waits for them"
PLACES = f"{EXECUTION}.worker_group.placement_group_handle:DefaultPlacementGroupHandle"
FAILS = "a trial that waits for room that others hold fails after half a minute"
PAGES = "a lost node prints pages of Ray's internals on the terminal"
NAMELESS = "the row of a group that hung in nccl does not name the rank that the others wait for"
WAITS = "a sweep waits for ever for a cluster that was killed on this machine"
TWO_MORE = "each worker group starts two processes that it does not need, four seconds of a core"
TRAINER = "ray.train.torch:TorchTrainer"
POLICY = f"{EXECUTION}.scaling_policy:FixedScalingPolicy"
NEEDED = {
    f"{TRAINER}._create_default_callbacks": TWO_MORE,
    f"{TRAINER}._initialize_and_run_controller": TWO_MORE,
    "ray.train.v2._internal.callbacks:DatasetsCallback": TWO_MORE,
    f"{POLICY}.after_controller_start": TWO_MORE,
    f"{POLICY}._maybe_send_resource_request": TWO_MORE,
    "ray._private.utils:read_ray_address": WAITS,
    "ray._private.state:actors": HANGS,
    "ray._private.worker:global_worker": HANGS,
    "ray._raylet:CoreWorker.kill_actor": HANGS,
    f"{EXECUTION}.worker_group.worker:RayTrainWorker": HANGS,
    f"{HOOKS}.before_worker_group_start": HANGS,
    f"{HOOKS}.after_worker_group_training_start": HANGS,
    f"{HOOKS}.after_worker_group_start": LEAKS,
    f"{HOOKS}.before_worker_group_shutdown": LEAKS,
    END: LEAKS,
    f"{EXECUTION}.worker_group:WorkerGroup.get_worker_group_state": LEAKS,
    STATE: LEAKS,
    f"{EXECUTION}.worker_group.placement_group_handle:PlacementGroupHandle.shutdown": LEAKS,
    f"{PLACES}.wait": FAILS,
    SHOW: PAGES,
    "ray.train.v2._internal.callbacks.nccl_ras:parse_ras_schema": NAMELESS,
    "ray.train:NCCLHangError": NAMELESS,
}
"""Name, written `module:attribute`, and what breaks without it."""

ERRORS = "ray.train.v2._internal.exceptions"
RESTARTS = "a lost or stuck worker is taken for an error of the work, and its row says `failed`"
ERRORS_TOLD_BY_TYPE = {
    f"{ERRORS}:WorkerGroupStartupFailedError": RESTARTS,
    f"{ERRORS}:WorkerHealthCheckTimeoutError": RESTARTS,
    f"{ERRORS}:WorkerHealthCheckFailedError": RESTARTS,
    f"{ERRORS}:CollectiveTimeoutError": RESTARTS,
    f"{ERRORS}:InsufficientClusterResourcesError": RESTARTS,
    "ray.exceptions:RayActorError.preempted": RESTARTS,
    "ray.train:PreemptionError": RESTARTS,
}

VARIABLES = "ray.train.v2._internal.constants"
LIMITS = "Ray waits by its own limits, not by --timeout-seconds"
TEXTS = {
    f"{VARIABLES}:COLLECTIVE_TIMEOUT_S_ENV_VAR": ("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", LIMITS),
    f"{VARIABLES}:WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR": (
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S",
        LIMITS,
    ),
    f"{VARIABLES}:HEALTH_CHECK_INTERVAL_S_ENV_VAR": (
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
        "each cell takes two seconds longer",
    ),
    f"{VARIABLES}:ENABLE_NCCL_HANG_DETECTOR_ENV_VAR": (
        "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR",
        NAMELESS,
    ),
    f"{VARIABLES}:NCCL_RAS_ACTION_ENV_VAR": ("RAY_TRAIN_NCCL_RAS_ACTION", NAMELESS),
    f"{VARIABLES}:NCCL_RAS_CONFIRM_DURATION_S_ENV_VAR": (
        "RAY_TRAIN_NCCL_RAS_CONFIRM_DURATION_S",
        NAMELESS,
    ),
    f"{VARIABLES}:NCCL_RAS_ADDR_ENV_VAR": ("NCCL_RAS_ADDR", NAMELESS),
    "ray._private.ray_constants:RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE": (
        "RAY_API_SERVER_ADDRESS",
        "a killed trial does not give its resources back where a machine runs several Rays",
    ),
    "ray._common.constants:HEAD_NODE_RESOURCE_NAME": (
        "node:__internal_head__",
        "trial drivers find no place in the cluster",
    ),
}
"""Texts that the project writes and Ray reads, and what breaks when Ray changes one."""


def found(name, breaks):
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pytest.fail(f"Ray has no {name} any more. Without it, {breaks}.")


@pytest.mark.parametrize(("name", "breaks"), (NEEDED | ERRORS_TOLD_BY_TYPE).items())
def test_ray_has_each_private_name_that_is_needed(name, breaks):
    found(name, breaks)


@pytest.mark.parametrize(("name", "text", "breaks"), [(k, *v) for k, v in TEXTS.items()])
def test_ray_reads_the_texts_that_are_written_for_it(name, text, breaks):
    assert found(name, breaks) == text, f"{name} has changed, so {breaks}"


def test_ray_calls_what_is_needed_as_it_did():
    assert inspect.iscoroutinefunction(found(END, LEAKS)), LEAKS
    assert "placement_group_handle" in found(STATE, LEAKS).__dataclass_fields__, LEAKS
    assert [*inspect.signature(found(f"{PLACES}.wait", FAILS)).parameters] == [
        "self",
        "timeout_seconds",
    ], FAILS
    assert [*inspect.signature(found(SHOW, PAGES)).parameters] == ["data", "ignore_prefix"], PAGES


def test_a_name_that_has_moved_is_reported_with_what_breaks():
    with pytest.raises(pytest.fail.Exception, match="no ray._private.moved:name .* pages of Ray"):
        found("ray._private.moved:name", PAGES)


def imported(path):
    """Modules that a file imports, `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_private(module):
    first, *others = module.split(".")
    return first == "ray" and any(part.startswith("_") or part == "v2" for part in others)


def test_two_files_import_private_modules_of_ray():
    files = [
        f
        for folder in ("core", "orchestrator", "experiments")
        for f in (ROOT / folder).rglob("*.py")
    ]
    guilty = {file for file in files if any(map(is_private, imported(file)))}
    assert guilty == ALLOWED
