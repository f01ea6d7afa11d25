"""Rules of the house for product code: sizes, circles, and the first words of docstrings."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for top in ("core", "orchestrator") for path in (ROOT / top).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
SCRIPTS = {
    path: ast.parse(path.read_text("utf-8")) for path in (ROOT / "experiments").rglob("*.py")
}
RIDDLES = re.compile(r"(What|Whether|How|Where|Which|Of|As|When|Why|Who|Whose)\b")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [each.arg for each in every if each.arg not in ("self", "cls")]


def test_a_file_has_300_lines_at_most():
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {file: count for file, count in lines.items() if count > 300} == {}


def test_a_script_of_the_page_has_200_lines_of_120_characters_at_most():
    for path in (ROOT / "orchestrator/page/assets").glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        if not path.name.endswith(".min.js"):
            assert len(lines) <= 200 and max(map(len, lines)) <= 120, name(path)


def test_a_function_has_60_lines_and_six_parameters_at_most():
    for path, tree in TREES.items():
        for function in functions(tree):
            place = f"{name(path)}:{function.lineno} {function.name}"
            assert (function.end_lineno or 0) - function.lineno < 60, place
            assert len(parameters(function)) <= 6, place


def test_docstrings_begin_with_a_verb_or_a_noun():
    for path, tree in (TREES | SCRIPTS).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                text = node.value.value
                place = f"{name(path)}:{node.lineno}"
                assert not (isinstance(text, str) and RIDDLES.match(text)), place


def imports() -> dict[str, set[str]]:
    """Imports of product modules by product modules, those within functions too."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = (f"{node.module}.{each.name}" for each in node.names)
                targets = {each if each in MODULES else node.module for each in names}
                found[module] |= targets & MODULES.keys() - {module}
    return found


def test_no_file_imports_itself_through_others():
    below, left = imports(), set(MODULES)
    while free := {module for module in left if not below[module] & left}:
        left -= free
    assert not left, "files on a circle, or above one"


def test_only_the_cluster_package_imports_ray_and_only_the_page_imports_plotly():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {each.partition(".")[0] for each in names}
            assert "ray" not in tops or "cluster" in path.parts, name(path)
            assert "plotly" not in tops or "page" in path.parts, name(path)


def test_nothing_outside_of_models_knows_torchs_linear_layers():
    for path in (ROOT / "core").rglob("*.py"):
        if "models" not in path.parts:
            assert "nn.Linear" not in path.read_text(encoding="utf-8"), name(path)
