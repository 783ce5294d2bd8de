"""Tiny notebooks for the tests of the runner and of the pages."""

from pathlib import Path

import nbformat
from nbformat import v4

PARAMETERS = """EPOCHS: int = 2  # passes over the training data
RATE: float = 0.1  # learning rate
AUGMENT: bool = False  # whether to shift the images
IMAGE: str = ""  # an image of your own
SEEDS: list[int] = [0]; SHIFT: float = 0.0
NAMES: list[str] = ["a"]  # labels"""
CHECK = """if not 1 <= EPOCHS <= 100:
    raise ValueError(f"EPOCHS = {EPOCHS}: 1 to 100 passes")
if not 0 < RATE < 1:
    raise ValueError(f"RATE = {RATE}: between 0 and 1")"""


def write_notebook(path: Path, *cells, parameters: str = PARAMETERS, check: str = CHECK) -> Path:
    """A notebook with title, parameters and check, and then `cells`: code as text, or cells of their own kind."""
    opening = [
        v4.new_markdown_cell(f"# {path.stem[:2]} · A notebook\n\nIts *first* paragraph."),
        v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(check, metadata={"tags": ["check", "hide-input"]}),
    ]
    others = [v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=opening + others, metadata={"kernelspec": kernel}), path)
    return path


def printed_by(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
