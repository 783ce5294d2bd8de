"""The house: how much code there is, and who imports whom."""

import ast
import io
import tokenize
from pathlib import Path

import pytest
from reference import REPOSITORY

LIMITS = {"helpers": 800, "tools": 250, "tests": 3000}
ORDER = ["assets", "images", "data", "weights", "models", "features", "plots", "advice"]  # each imports earlier ones
OURS = {"helpers", "experiments", "tools"}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def sources(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def code_lines(source: str) -> int:
    """Lines without blank ones, comments and docstrings."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    texts = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    without = {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in NO_CODE]
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - without)


def imported(path: Path) -> set[str]:
    """The modules that a file imports: "keras", "helpers.data" (also of `from helpers import data`)."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{a.name}" for a in node.names} if node.module in OURS else {node.module}
    return names


def test_lines_are_counted_without_docstrings_and_comments():
    source = '"""Two\nlines."""\n\n# one\nx = [\n    1,  # two\n]\n\n\ndef f():\n    """Said."""\n    return 1\n'
    assert code_lines(source) == 5


@pytest.mark.parametrize("folder", LIMITS)
def test_code_is_short(folder):
    lines = sum(code_lines(path.read_text(encoding="utf-8")) for path in sources(folder))
    assert lines <= LIMITS[folder], f"{folder} has {lines} lines of code"


def test_imports_run_one_way():
    for path in sources("helpers"):
        ours = {name for name in imported(path) if name.split(".")[0] in OURS}
        allowed = {f"helpers.{name}" for name in ORDER[: ORDER.index(path.stem)]} if path.stem in ORDER else set()
        assert ours <= allowed, f"{path.name} imports {ours - allowed}"
    for path in sources("experiments"):
        assert "tools" not in {name.split(".")[0] for name in imported(path)}, path.name
    for path in sources("tools"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"helpers", "experiments", "tensorflow", "keras"}, path.name
