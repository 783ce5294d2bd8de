"""All tests, and the kernels in which nbval runs the notebooks, run in the reference environment."""

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import nbformat
import notebook_regression
import pytest
import reference
from reference import REPOSITORY

reference.enter()

import helpers  # noqa: E402, F401  after the environment is set, and before any test imports Keras


@pytest.fixture(scope="session")
def recorded_program():
    """Loads the program NAME.py of experiments/ as a module; its main() is not run."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(f"recorded_{name}", REPOSITORY / f"experiments/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def lesson():
    """lesson("02", "grad_cam"): what a notebook defines under these names, with its imports and nothing else run."""

    def load(number: str, *names: str) -> SimpleNamespace:
        (path,) = (REPOSITORY / "notebooks").glob(f"{number}_*.ipynb")
        imports = [node for node, _ in statements(path) if isinstance(node, ast.Import | ast.ImportFrom)]
        namespace: dict = {}
        for node in imports + [node for node, _ in definitions(path, names).values()]:
            exec(compile(ast.Module([node], []), path.name, "exec"), namespace)
        return SimpleNamespace(**namespace)

    return load


@pytest.fixture(scope="session")
def lesson_and_solution():
    """lesson_and_solution("02", "grad_cam"): the cells with these definitions in a notebook, and in its solutions."""

    def load(number: str, *names: str) -> tuple[dict[str, str], dict[str, str]]:
        folder = REPOSITORY / "notebooks"
        paths = folder.glob(f"{number}_*.ipynb"), (folder / "solutions").glob(f"{number}_*.ipynb")
        both = (definitions(*path, names) for path in paths)
        return tuple({name: cell for name, (_, cell) in found.items()} for found in both)

    return load


def statements(path: Path) -> list[tuple[ast.stmt, str]]:
    """The statements of a notebook's code cells, each with the source of its cell."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [(node, source) for source in sources for node in ast.parse(source).body]


def definitions(path: Path, names: tuple[str, ...]) -> dict[str, tuple[ast.stmt, str]]:
    """What a notebook defines under `names`, as of `statements`, in its order. Raises LookupError if one is missing."""
    found = {name: (node, cell) for node, cell in statements(path) for name in defined(node) if name in names}
    if missing := set(names) - set(found):
        raise LookupError(f"{path.name} does not define {', '.join(missing)}")
    return found


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a notebook defines: a function, a class, or constants."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]


def pytest_configure(config):
    notebook_regression.compare_figures_too()
