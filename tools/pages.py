"""Make HTML pages of executed notebooks, with an index. The pages load nothing from the network."""

import base64
import html
import io
import os
import re
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from jinja2 import Template
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image

TEMPLATES = Path(__file__).with_name("templates")


def page_of(notebook, source: Path, pages: dict[Path, Path], index: Path) -> str:
    """HTML of the notebook at `source`; links to notebooks in `pages` lead to their pages, to a README to `index`."""
    template = (TEMPLATES / "notebook.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(raw_template=template, embed_images=True)
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(source.parent)}})

    def new_link(match):
        link, hash_, anchor = html.unescape(match[2]).partition("#")
        if not link or re.match(r"[a-z]+:", link):
            return match[0]
        aim = (source.parent / link).resolve()
        aim = index if aim.name == "README.md" else pages.get(aim, aim)
        return f'{match[1]}"{html.escape(os.path.relpath(aim, pages[source.resolve()].parent) + hash_ + anchor)}"'

    return re.sub(r'(<a\b[^>]*?\bhref=)"([^"]*)"', new_link, text)


def opening(notebook) -> tuple[str, str]:
    """Title and first paragraph of a notebook, as plain text."""
    source = next((c.source for c in notebook.cells if c.cell_type == "markdown" and c.source.startswith("# ")), "")
    page = BeautifulSoup(markdown2html(source), "html.parser")
    title, paragraph = (found.get_text() if found else "" for found in (page.h1, page.p))
    return title.rstrip("¶").strip() or "Untitled", " ".join(paragraph.split())


def thumbnail(notebook, width: int = 640) -> str:
    """The first figure of a notebook, made small: a PNG in base64, or an empty string."""
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    if not (figures := [data["image/png"] for data in outputs if "image/png" in data]):
        return ""
    picture = Image.open(io.BytesIO(base64.b64decode(figures[0]))).convert("RGB")
    picture.thumbnail((width, width))
    picture.save(small := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def write(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def make_pages(sources: list[Path], folder: Path, executed: dict[Path, Path], records: dict[str, dict]) -> Path:
    """Pages of the notebooks and of their solutions, and the index that leads to them.

    sources: the notebooks. executed: their executed copies, where there are any. records: by notebook
    name, what `batch` noted of its run. Returns the path of the index.
    """
    solutions = [p for s in sources if (p := s.parent / "solutions" / f"{s.stem}_solutions.ipynb").exists()]
    pages = {s.resolve(): folder / f"{s.stem}.html" for s in sources}
    pages |= {s.resolve(): folder / "solutions" / f"{s.stem}.html" for s in solutions}
    index, cards = folder / "index.html", []
    for source in sources + solutions:
        notebook = nbformat.read(executed.get(source, source), as_version=4)
        notebook.metadata["title"], paragraph = opening(notebook)
        page = pages[source.resolve()]
        write(page, page_of(notebook, source, pages, index))
        if source in sources:
            record = records.get(source.stem) if source in executed else None
            card = {"page": page.name, "title": notebook.metadata["title"], "paragraph": paragraph, "record": record}
            cards.append(card | {"picture": thumbnail(notebook)})
    template = Template((TEMPLATES / "index.html.j2").read_text(encoding="utf-8"), autoescape=True)
    write(index, template.render(cards=cards) + "\n")
    return index
