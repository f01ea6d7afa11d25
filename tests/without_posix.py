"""A Python in which the project finds no more of the system than Windows and macOS both have."""

from __future__ import annotations

import builtins
import os
import sys
from types import ModuleType

ABSENT_MODULES = {"crypt", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd"}
ABSENT_MODULES |= {"readline", "resource", "spwd", "syslog", "termios", "tty"}
"""Modules that CPython has on POSIX systems only."""
ABSENT = {
    "os": """chown chroot confstr copy_file_range ctermid eventfd fchdir fchmod fchown fdatasync
        fork forkpty fpathconf fstatvfs fwalk get_blocking getegid geteuid getgid
        getgrouplist getgroups getloadavg getpgid getpgrp getpriority getrandom
        getresgid getresuid getsid getuid getxattr initgroups killpg lchown listxattr
        lockf login_tty major makedev memfd_create minor mkfifo mknod nice openpty
        pathconf pidfd_open pipe2 posix_fadvise posix_fallocate posix_spawn posix_spawnp
        pread preadv pwrite pwritev readv register_at_fork removexattr sched_getaffinity
        sched_setaffinity sched_yield sendfile set_blocking setegid seteuid setgid
        setgroups setpgid setpgrp setpriority setsid setuid setxattr statvfs sync
        sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid writev WNOHANG WIFEXITED
        WIFSIGNALED WEXITSTATUS WTERMSIG O_CLOEXEC O_DIRECT O_DIRECTORY O_NOFOLLOW
        O_NONBLOCK O_SYNC O_TMPFILE ST_RDONLY EX_OK SEEK_DATA SEEK_HOLE RTLD_GLOBAL""",
    "select": "epoll poll kqueue PIPE_BUF",
    "signal": """SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP
        SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU
        SIGXFSZ alarm pause pthread_kill pthread_sigmask setitimer siginterrupt
        sigpending sigtimedwait sigwait""",
    "socket": "AF_UNIX SO_REUSEPORT recv_fds send_fds",
    "time": "clock_gettime tzset",
}
"""Names that CPython's modules lack on Windows."""
OURS = ("core", "orchestrator")
UNSEEN = ("/proc", "/sys")
"""Folders that only Linux has."""
PASSED_ON = {"pathlib", "posixpath", "genericpath", "io", "shutil", "os"}
"""Modules of Python that open or look at a file for somebody else."""


class Lacking(ModuleType):
    """A module without some of its names."""

    def __init__(self, whole: ModuleType, absent: set[str]) -> None:
        super().__init__(whole.__name__)
        self.__dict__["__wrapped__"] = whole
        self.__dict__["__absent__"] = absent

    def __getattr__(self, name: str):
        if name in self.__dict__["__absent__"]:
            raise AttributeError(f"{self.__name__}.{name} is hidden", name=name)
        return getattr(self.__dict__["__wrapped__"], name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.__dict__["__wrapped__"], name, value)


def is_ours(name: str) -> bool:
    """Return True for a module of this project."""
    return name.partition(".")[0] in OURS


def hide() -> None:
    """Hide all this from the modules of the project that are imported from now on.

    Libraries go on seeing the system that they run on.
    """
    import_ = builtins.__import__
    lacking = {name: Lacking(import_(name), set(names.split())) for name, names in ABSENT.items()}

    def limited(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0 and globals and is_ours(globals.get("__name__", "")):
            if name.partition(".")[0] in ABSENT_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in lacking:
                return lacking[name]
        return import_(name, globals, locals, fromlist, level)

    builtins.__import__ = limited
    sys.addaudithook(refuse_open)
    for name in ("stat", "lstat", "readlink"):
        setattr(os, name, refusing(getattr(os, name)))


def is_refused(path: object) -> bool:
    """Return True for a path below `UNSEEN` that the project, and no library, asks for."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(UNSEEN):
        return False
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and name.partition(".")[0] not in PASSED_ON:
            return is_ours(name)
        frame = frame.f_back
    return False


def refuse_open(event: str, arguments: tuple) -> None:
    """Refuse to open a file or to list a folder."""
    if event in ("open", "os.listdir", "os.scandir") and is_refused(arguments[0]):
        raise FileNotFoundError(2, "hidden", str(arguments[0]))


def refusing(function):
    """Return a function on paths that refuses those that are hidden."""

    def wrapped(path, *rest, **more):
        if is_refused(path):
            raise FileNotFoundError(2, "hidden", str(path))
        return function(path, *rest, **more)

    return wrapped
