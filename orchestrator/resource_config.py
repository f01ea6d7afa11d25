"""Settings of the resources that a sweep runs on. Each field is a flag, its docstring the help."""

from __future__ import annotations

from dataclasses import dataclass

from core.checks import require, require_positive, require_used
from core.typed_values import give_types_


@dataclass(frozen=True)
class ResourceConfig:
    """Resources: they change numbers only by the order of floating-point sums."""

    num_workers: int = 1
    """Number of worker processes of each trial. They share one model (FSDP2)."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: int | None = None
    """CPU cores and torch threads of each worker. By default a sweep on one machine without GPUs
    takes the number with which it ends first, as far as memory allows. On a cluster the workers of
    a trial share the cores of a node; with GPUs, each takes its GPU's part of them."""
    gpus_per_worker: float | None = None
    """GPUs of each worker. By default 1. With a fraction, several trials of one worker each share a
    GPU."""
    max_concurrent_trials: int | None = None
    """Most trials at the same time. By default as many as the resources allow."""
    micro_batch_tokens: int | None = None
    """Tokens in one forward pass. By default 2,048 on a CPU and 16,384 on a GPU."""
    price_per_gpu_hour: float | None = None
    """Price of one GPU for one hour, in any currency. --dry-run prints the cost."""
    activation_checkpointing: bool = False
    """Train in less memory: compute each block twice, which is about a third more work."""
    cpu_offload: bool = False
    """Train in less GPU memory: keep weights, gradients and moments in host memory, and bring one
    block at a time to the GPU."""
    timeout_seconds: float = 1800.0
    """Longest wait in seconds, of workers for each other or for a sign of life. After that the
    trial ends with an error. A trial waits without limit for room that others hold."""
    stop_perplexity: float | None = None
    """Stop a branch when its perplexity on any text is above this number. Nothing is computed from
    such weights, and the cells that need it become `stopped`."""

    def __post_init__(self) -> None:
        give_types_(self)
        for name in ("num_workers", "cpus_per_worker", "max_concurrent_trials"):
            require_positive(name.replace("_", "-"), getattr(self, name), "use 1 or more")
        remedy = "use a positive number of tokens"
        require_positive("micro-batch-tokens", self.micro_batch_tokens, remedy)
        require_positive("price-per-gpu-hour", self.price_per_gpu_hour, "use a positive number")
        timeout, limit = self.timeout_seconds, self.stop_perplexity
        remedy = "use a positive number of seconds, at most a year"
        require(0 < timeout <= 366 * 86400, "timeout-seconds", timeout, remedy)
        require(limit is None or limit > 1, "stop-perplexity", limit, "use a number above 1")
        require_used("cpu-offload", self.cpu_offload or None, self.use_gpu, "--use-gpu")
        gpus = self.gpus_per_worker
        require(gpus is None or self.use_gpu, "gpus-per-worker", gpus, "needs --use-gpu")
        require_positive("gpus-per-worker", gpus, "use a positive number")
        whole = self.num_workers == 1 or gpus is None or gpus >= 1
        remedy = "several workers cannot share a card; use --num-workers 1 or whole GPUs"
        require(whole, "gpus-per-worker", gpus, remedy)
