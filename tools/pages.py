"""Make the pages of the series, in build/html, from the notebooks as they were last run.

A notebook that was not run since it changed is shown as committed. How the pages look is in tools/site.
"""

import base64
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from jinja2 import Template
from PIL import Image

SITE = Path(__file__).resolve().with_name("site")


def first_line(text) -> str:
    return str(text).strip().partition("\n")[0][:300]


def figures(notebook) -> list[Image.Image]:
    """The PNG pictures among its outputs; those of cells tagged `cover` first."""
    cells = sorted(notebook.cells, key=lambda cell: "cover" not in cell.metadata.get("tags", []))
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    coded = [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]
    return [Image.open(io.BytesIO(picture)).convert("RGB") for picture in coded]


def read_notebook(path: Path):
    """A whole notebook, its links to the README leading to the index; or None, and a line, if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8").replace("../README.md", "../index.md")
        nbformat.validate(notebook := nbformat.reads(text, as_version=4))
        figures(notebook)
        return notebook
    except Exception as error:
        print(f"{path} is left out of the pages: {first_line(error)}", flush=True)


def stage(source: Path, out: Path, place: Path, records: dict[str, dict]) -> dict:
    """Write the notebook at `source`, as it was last run, to `place`; returns what the index says of it, or nothing."""
    last = out / source.name
    fresh = last.exists() and last.stat().st_mtime >= source.stat().st_mtime
    executed = read_notebook(last) if fresh else None
    if not (notebook := executed or read_notebook(source)):
        return {}
    nbformat.write(notebook, place)
    for picture in figures(notebook)[:1]:
        picture.thumbnail((800, 800))
        picture.save(place.with_suffix(".png"))
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    paragraph = re.search(r"^# .+\n+((?:[^#\n].*\n?)*)", text, re.MULTILINE)
    about = {"name": source.stem, "paragraph": paragraph[1].strip() if paragraph else ""}
    return about | {"run": executed and records.get(source.stem), "picture": place.with_suffix(".png").exists()}


def make_pages(series: Path, others: list[Path], out: Path, records: dict[str, dict]) -> int:
    """Make out/html whole, or leave it as it was; returns Sphinx's exit code."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".pages-") as temporary:
        folder, made = Path(temporary, "source"), Path(temporary, "html")
        for name in ("notebooks", "experiments", "helpers"):  # what lessons link to
            origin = series if name == "notebooks" else series.parent / name
            if origin.exists():
                shutil.copytree(origin, folder / name, ignore=shutil.ignore_patterns("*.ipynb", "[._]*"))
        (folder / "notebooks" / "solutions").mkdir(exist_ok=True)
        lessons, answers = (
            [*sorted(series.glob("[0-9][0-9]_*.ipynb")), *others],
            sorted(series.glob("solutions/*.ipynb")),
        )
        shown = [stage(path, out, folder / "notebooks" / path.name, records) for path in lessons]
        solutions = [stage(path, out, folder / "notebooks" / "solutions" / path.name, records) for path in answers]
        index = Template((SITE / "index.md.j2").read_text(encoding="utf-8"), trim_blocks=True)
        text = index.render(lessons=filter(None, shown), solutions=filter(None, solutions))
        (folder / "index.md").write_text(text, encoding="utf-8")
        options = ["-q", "-E", "-c", SITE, "-d", Path(temporary, "doctrees")]
        if code := subprocess.run([sys.executable, "-m", "sphinx", *options, folder, made]).returncode:
            return code
        if (out / "html").exists():
            (out / "html").rename(Path(temporary, "old"))
        made.rename(out / "html")
    print(f"\nTo read them, open {out / 'html' / 'index.html'}", flush=True)
    return 0
