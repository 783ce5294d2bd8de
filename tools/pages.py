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
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    coded = [base64.b64decode(formats["image/png"]) for formats in data if "image/png" in formats]
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


def stage(source: Path, out: Path, folder: Path) -> dict:
    """Write the notebook at `source`, as it was last run, to `folder`; what the index says of it, or nothing."""
    last, place = out / source.name, folder / source.name
    executed = last.exists() and last.stat().st_mtime >= source.stat().st_mtime and read_notebook(last)
    if not (notebook := executed or read_notebook(source)):
        return {}
    nbformat.write(notebook, place)
    for picture in figures(notebook)[:1]:
        picture.thumbnail((800, 800))
        picture.save(place.with_suffix(".png"))
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    paragraph = re.search(r"^# .+\n+((?:[^#\n].*\n?)*)", text, re.MULTILINE)
    about = {"name": source.stem, "executed": bool(executed), "picture": place.with_suffix(".png").exists()}
    return about | {"paragraph": paragraph[1].strip() if paragraph else ""}


def make_pages(series: Path, out: Path, results: dict) -> int:
    """Make out/html whole, or leave it as it was; returns Sphinx's exit code. results: of the last runs, by name."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".pages-") as temporary:
        folder, made = Path(temporary, "source"), Path(temporary, "html")
        for name in ("notebooks", "experiments", "helpers"):  # what lessons link to
            if (series.parent / name).exists():
                shutil.copytree(series.parent / name, folder / name, ignore=shutil.ignore_patterns("*.ipynb", "[._]*"))
        (folder / "notebooks/solutions").mkdir(parents=True, exist_ok=True)
        own = [path for run in results.values() if series not in (path := Path(run.path)).parents and path.is_file()]
        lessons = [stage(path, out, folder / "notebooks") for path in [*sorted(series.glob("[0-9]*.ipynb")), *own]]
        answers = [stage(path, out, folder / "notebooks/solutions") for path in series.glob("solutions/*.ipynb")]
        index = Template((SITE / "index.md.j2").read_text(encoding="utf-8"), trim_blocks=True)
        text = index.render(lessons=lessons, solutions=answers, results=results)
        (folder / "index.md").write_text(text, encoding="utf-8")
        options = ["-q", "-E", "-c", SITE, "-d", Path(temporary, "doctrees")]
        if code := subprocess.run([sys.executable, "-m", "sphinx", *options, folder, made]).returncode:
            return code
        if (out / "html").exists():
            (out / "html").rename(Path(temporary, "old"))
        made.rename(out / "html")
    print(f"\nTo read them, open {out / 'html' / 'index.html'}", flush=True)
    return 0
