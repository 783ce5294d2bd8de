"""The reference environment: what the committed outputs were made with, and all tests run with.

Set here, before anything imports TensorFlow, it holds for the tests themselves and for the kernels
in which nbval runs the notebooks. Nothing of the reader's own caches or settings is used.
"""

import ast
import atexit
import base64
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
SOLUTIONS = REPOSITORY / "notebooks" / "solutions"


def reference_env() -> dict[str, str]:
    """helpers.REFERENCE_ENV, read without importing helpers: the import already starts TensorFlow."""
    tree = ast.parse((REPOSITORY / "helpers" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REFERENCE_ENV":
            return ast.literal_eval(node.value)
    raise LookupError("helpers/__init__.py defines no REFERENCE_ENV")


def enter_reference_env() -> None:
    own = Path(tempfile.mkdtemp(prefix="reference-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ.update(reference_env())
    for variable in ("KERAS_HOME", "HELPERS_CACHE", "IPYTHONDIR"):
        (own / variable).mkdir()
        os.environ[variable] = str(own / variable)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one of the user's


enter_reference_env()
import helpers  # noqa: E402, F401  after the environment is set, and before any test imports Keras


@pytest.fixture(scope="session")
def recorded_program():
    """Loads the program NAME.py of notebooks/recorded as a module; its main() is not run."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(f"recorded_{name}", REPOSITORY / f"notebooks/recorded/{name}.py")
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
        paths = (REPOSITORY / "notebooks").glob(f"{number}_*.ipynb"), SOLUTIONS.glob(f"{number}_*.ipynb")
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


# nbval never compares pictures. A figure that became another one (a lost curve, another photograph,
# an empty axis) is seen at 64 x 64 grey pixels; fonts and antialiasing are not.
LARGEST_DIFFERENCE = 6.0  # mean over the pixels, of 255


def pictures(outputs) -> list[np.ndarray]:
    """The PNG pictures of a cell's outputs, each as 64 x 64 grey values."""
    coded = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    opened = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA") for text in coded]
    on_white = [Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("L") for p in opened]
    return [np.asarray(p.resize((64, 64), Image.Resampling.BOX), np.float32) for p in on_white]


def picture_fault(new_outputs, committed_outputs) -> str:
    """What is wrong with the pictures of a cell, or an empty string."""
    new, committed = pictures(new_outputs), pictures(committed_outputs)
    if len(new) != len(committed):
        return f"{len(new)} pictures, but the committed notebook has {len(committed)}"
    for number, (a, b) in enumerate(zip(new, committed, strict=True), 1):
        if (difference := float(np.abs(a - b).mean())) > LARGEST_DIFFERENCE:
            return f"picture {number} differs from the committed one by {difference:.1f} grey values on average"
    return ""


def pytest_configure(config):
    """Let nbval compare pictures too."""
    from nbval.plugin import IPyNbCell

    compare_text = IPyNbCell.compare_outputs
    if getattr(compare_text, "with_pictures", False):
        return

    def compare_outputs(self, test, ref, skip_compare=None):
        same = compare_text(self, test, ref, skip_compare)
        if same and (fault := picture_fault(test, ref)):
            self.comparison_traceback.append(fault)
            return False
        return same

    compare_outputs.with_pictures = True
    IPyNbCell.compare_outputs = compare_outputs
