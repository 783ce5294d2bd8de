"""Tiny notebooks for the tests of the runner and of the pages."""

from pathlib import Path

import nbformat
import yaml
from nbformat import v4

CELLS = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))


def write_notebook(path: Path, *cells, parameters=CELLS["parameters"], check=CELLS["check"]) -> Path:
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
