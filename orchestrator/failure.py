"""Errors told apart: no memory, no disk space, damage, or the work itself; one line for a row.

The walk uses this on a rank, the trial driver on what Ray says about its workers, and the command
line on itself. So nothing here knows Ray, and torch is imported only where it is running anyway.
Types decide. Texts count only where a library has no type, and only as that library writes them:
a sentence that a user's file contains is no error of ours.
"""

from __future__ import annotations

import errno
import pickle
import re
import socket
from collections.abc import Iterator, Mapping

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk full, quota used up, file too large."""
RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""The number of an error of the system in a text of safetensors, whose errors have no `errno`."""
ALLOCATORS = re.compile(
    r"""\[enforce\ fail[^\]]*\].*?(?:can't\ allocate\ memory|not\ enough\ memory)
    |(?:CUDA|HIP|MPS)[\w ]*:?\ out\ of\ memory
    |Triton\ Error\ \[\w+\]:\ out\ of\ memory
    |NCCL\ error.*?Cuda\ failure\ \d+\ 'out\ of\ memory'
    |\w+\ error:\ \w+_STATUS_ALLOC_FAILED
    |\w+\ error:\ [^`]*`cu(?:blas|solverDn)Create\(handle\)`""",
    re.DOTALL | re.VERBOSE,
)
"""Beginning of a RuntimeError that means the same as MemoryError: of torch on CPUs and GPUs, of
Triton, of nccl, of cuBLAS, cuSOLVER and cuDNN. Making a handle of these fails for want of memory,
though the error has another name (not initialized, internal)."""
BROKEN_NETWORK = (
    ConnectionAbortedError,
    ConnectionRefusedError,
    ConnectionResetError,
    TimeoutError,
    socket.gaierror,
)
NETWORK_LIBRARIES = {
    "requests": ("ConnectionError", "Timeout"),
    "urllib3": ("TimeoutError", "ProtocolError", "MaxRetryError"),
    "httpx": ("TransportError",),
    "httpcore": ("TimeoutException", "NetworkError", "ProtocolError"),
    "aiohttp": ("ClientConnectionError", "ServerTimeoutError"),
    "botocore": ("ConnectionError", "HTTPClientError"),
}
"""Classes, of libraries that may be missing, whose errors are those of a network."""
OBJECT_STORE = re.compile(
    r"When [^\n]*: AWS Error "
    r"(?:NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE)"
)
"""Beginning of an OSError of pyarrow for a store that does not answer; it has no `errno`."""
WRAPPED = ("cause", "worker_failures", "controller_failure", "health_check_failure", "exceptions")
"""Attributes in which Ray's errors, and groups of errors, hold the errors behind them."""
CARRIED = "_carried_causes"
"""Attribute that takes an error's causes from one process to another: pickle drops `__cause__`."""


class DamagedStageError(Exception):
    """The files of a stored stage differ from its manifest; the stage has been set aside."""

    def __init__(self, stage_id: str, why: str) -> None:
        super().__init__(f"stage {stage_id} is damaged: {why}")
        self.stage_id = stage_id


MISSING = "missing"
"""Damage of a file that is not there."""


class DamagedTokensError(Exception):
    """A token file differs from what was written, or is not there."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, why

    def __str__(self) -> str:
        return f"tokens/{self.name} is {self.why}"

    @property
    def is_missing(self) -> bool:
        """True if there is no such file."""
        return self.why == MISSING


class OtherSourcesError(Exception):
    """A worker runs other sources of this project than the command."""


class StuckError(Exception):
    """A wait took longer than --timeout-seconds."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all errors behind it: its causes, and what it wraps."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += behind(each)


def behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors directly behind one."""
    held: list[object] = [error.__cause__]
    if error.__cause__ is None and not error.__suppress_context__:
        held.append(error.__context__)
    for name in (*WRAPPED, CARRIED):
        value = getattr(error, name, None)
        held += value.values() if isinstance(value, Mapping) else [value]
    for each in held:
        many = each if isinstance(each, list | tuple) else [each]
        yield from (one for one in many if isinstance(one, BaseException))


def carry_causes(error: BaseException) -> None:
    """Attach an error's causes to it so that they cross to another process with it."""
    causes = []
    for cause in [*chain(error)][1:]:
        try:
            causes.append(pickle.loads(pickle.dumps(cause)))
        except Exception:  # An error may hold anything, a lock or a socket.
            continue
    error.__dict__[CARRIED] = causes


def is_no_space(error: BaseException) -> bool:
    """Return True if a write found no space, here or behind the error."""
    return lack_of_space(error) is not None


def lack_of_space(error: BaseException) -> BaseException | None:
    """Return the error of the write that found no space; None if that is not the reason."""
    return next((each for each in chain(error) if code_of(each) in NO_SPACE), None)


def code_of(error: BaseException) -> int | None:
    """Return the number of an error of the system; None for other errors."""
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ == "SafetensorError":
        found = RUST_ERROR.search(str(error))
        return int(found.group(1)) if found else None
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if a CPU or a GPU had no memory left, here or behind the error."""
    import torch  # It takes a second, which the command line does not have.

    kinds = MemoryError, torch.OutOfMemoryError
    return any(
        isinstance(each, kinds)
        or (isinstance(each, RuntimeError) and ALLOCATORS.match(str(each)) is not None)
        for each in chain(error)
    )


def is_network(error: BaseException) -> bool:
    """Return True for an error of a network, as of an object store or a hub."""
    if isinstance(error, BROKEN_NETWORK):
        return True
    if type(error) is OSError:
        return OBJECT_STORE.match(str(error)) is not None
    return any(
        kind.__name__ in NETWORK_LIBRARIES.get(kind.__module__.partition(".")[0], ())
        for kind in type(error).__mro__
    )


def out_of_memory(memory_bytes: float) -> str:
    """Return the error of a cell that ran out of memory, with the estimated bytes of a worker."""
    return (
        f"out of memory; estimated {memory_bytes / 2**30:.1f} GiB a worker: use more "
        "--num-workers, a smaller --micro-batch-tokens, or a larger machine"
    )


def no_space(place: str, error: BaseException) -> str:
    """Return the error of a sweep whose disk is full."""
    why = last_line(lack_of_space(error) or error)
    return f"--out-dir {place}: no space left ({why}); free some and run the same command again"


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, which usually says most."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
