"""Install packages into the virtual environment of this Python: `install.py REQUIREMENT...`.

uv does it in a fraction of pip's time. It reads none of pip's settings, so it gets those that
choose packages. If uv cannot be had or fails, pip installs. Neither compiles, since that takes a
minute for files of which a fifth is ever imported. So packages that processes of Ray import are
compiled here: where nothing may be written, each process would compile them again.
"""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PIP = [sys.executable, "-m", "pip"]
GIVEN = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}
"""Settings of pip, and the variables in which uv takes them."""


LARGE = r"packages.(torch|transformers|sympy|plotly|moto|cfnlint|lm_eval|ray.(rllib|serve|llm))\b"
"""Folders of which a sweep imports a small part, or nothing; the first import compiles that."""


def settings_of_pip() -> dict[str, str]:
    """Return pip's settings by name; a variable of the environment counts more than a file."""
    told = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for line in told.splitlines():
        name, equals, value = line.partition("=")
        place, _, name = name.rpartition(".")
        if equals and (place == ":env:" or name not in found):
            found[name] = " ".join(str(ast.literal_eval(value)).split())
    return found


def environment() -> dict[str, str]:
    """Return the environment for uv; what the user has set for uv stays."""
    pip = settings_of_pip()
    given = {variable: pip[name] for name, variable in GIVEN.items() if name in pip}
    if "UV_FIND_LINKS" in given:
        given["UV_FIND_LINKS"] = given["UV_FIND_LINKS"].replace(" ", ",")
    # As pip does, take the best version of all indexes, not that of the first with the package.
    return {"UV_INDEX_STRATEGY": "unsafe-best-match"} | given | os.environ


def uv() -> str | None:
    """Return the path of uv, installed here if the machine has none; None if it cannot be had."""
    own = Path(sys.executable).parent
    found = shutil.which("uv") or shutil.which("uv", path=str(own))
    if found is None:
        subprocess.run([*PIP, "install", "-q", "uv>=0.13,<0.14"], stderr=subprocess.DEVNULL)
    return found or shutil.which("uv", path=str(own))


def main(wanted: list[str]) -> int:
    """Install; return the exit code."""
    wanted = ["-q", "-c", "constraints.txt", *wanted]
    installer, code = uv(), 1
    if installer is not None:
        command = [installer, "pip", "install", "--python", sys.executable, *wanted]
        code = subprocess.run(command, env=environment()).returncode
    if code != 0:
        code = subprocess.run([*PIP, "install", "--no-compile", *wanted]).returncode
    if code == 0:
        compile_files()
    return code


def compile_files() -> None:
    """Compile the packages here, with as many processes as there are cores."""
    packages = sysconfig.get_path("purelib")
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-x", LARGE, packages]
    subprocess.run(command, stdout=subprocess.DEVNULL)  # Files for other Pythons do not compile.


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
