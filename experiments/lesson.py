"""What a lesson shows, as functions for the programs that record it: the notebook's cells, found by their tags."""

from __future__ import annotations

import json
import linecache
from pathlib import Path
from types import ModuleType

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TAGS = {"parameters", "imports", "lesson"}


def load(notebook: str, **parameters) -> ModuleType:
    """The names that the cells tagged `parameters`, `imports` and `lesson` define, run in the notebook's order.

    notebook: how its path below notebooks/ begins, such as "04" or "solutions/04". parameters: other values for what
    its parameters cell sets. The cells run in one namespace, as in a kernel: what is set in it, its functions see.
    Raises LookupError where no notebook or several begin so, or where one has no such cells or no such parameter.
    """
    paths = list(NOTEBOOKS.glob(f"{notebook}*.ipynb"))
    if len(paths) != 1:
        raise LookupError(f"{len(paths)} notebooks in {NOTEBOOKS} begin with {notebook!r}: name one of them")
    module = ModuleType(f"lesson_{paths[0].stem}", f"The tagged cells of {paths[0].name}.")
    found = set()
    for number, cell in enumerate(json.loads(paths[0].read_text(encoding="utf-8"))["cells"]):
        tags = TAGS & set(cell["metadata"].get("tags", []))
        found |= tags
        if tags:
            _execute("".join(cell["source"]), f"{paths[0].name}, cell {number}", module)
        if "parameters" in tags:
            _set(module, parameters)
            parameters = {}
    if "lesson" not in found or parameters:
        missing = "lesson" if "lesson" not in found else "parameters"
        raise LookupError(f"{paths[0].name} has no cell with the tag {missing!r}")
    return module


def _execute(source: str, name: str, module: ModuleType) -> None:
    """Run one cell; tracebacks and `inspect` show its lines."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)


def _set(module: ModuleType, parameters: dict) -> None:
    unknown = sorted(set(parameters) - set(vars(module)))
    if unknown:
        raise LookupError(f"the lesson has no parameter {', '.join(unknown)}")
    vars(module).update(parameters)
