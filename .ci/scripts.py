"""Check the page's scripts with TypeScript's compiler; say why where npm cannot be had.

The compiler and axe-core, which the page's tests use, come from npm into the virtual environment.
"""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parent / "orchestrator" / "page" / "assets"
TOOLS = Path(sys.prefix) / "npm"
FLAGS = ["--allowJs", "--checkJs", "--noEmit", "--target", "es2022"]
FLAGS += ["--lib", "es2023,dom,dom.iterable"]
PLOTLY = "declare const Plotly: any;\n"


def install() -> str | None:
    """Install the tools that package.json names; return why not if they cannot be had."""
    wanted, mine = HERE / "package.json", TOOLS / "package.json"
    if mine.exists() and mine.read_bytes() == wanted.read_bytes():
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    TOOLS.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    shutil.copyfile(wanted, mine)
    done = subprocess.run([npm, "install", *quiet], cwd=TOOLS, capture_output=True, text=True)
    if done.returncode != 0:
        mine.unlink()
        return f"npm failed: {(done.stderr.strip() or '?').splitlines()[0]}"
    return None


def main() -> int:
    """Check; return the exit code."""
    reason = install()
    if reason is not None:
        print(f"scripts of the page are not checked: {reason}")
        return 0
    known = TOOLS / "plotly.d.ts"
    known.write_text(PLOTLY, encoding="utf-8")
    scripts = [path for path in sorted(ASSETS.glob("*.js")) if not path.name.endswith(".min.js")]
    compiler = TOOLS / "node_modules" / ".bin" / "tsc"
    return subprocess.run([compiler, *FLAGS, known, *scripts]).returncode


if __name__ == "__main__":
    sys.exit(main())
