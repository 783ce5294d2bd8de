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


def page_of(notebook, home: Path, target: Path, pages: dict[Path, Path], title: str) -> str:
    """HTML of a notebook that lies in folder `home`; links to notebooks in `pages` lead to their pages."""
    exporter = HTMLExporter(
        raw_template=(TEMPLATES / "notebook.html.j2").read_text(encoding="utf-8"), embed_images=True
    )
    notebook = nbformat.from_dict(notebook)
    notebook.metadata["title"] = title
    source_folder = {"metadata": {"path": str(home), "name": title}}
    text, _ = exporter.from_notebook_node(notebook, source_folder)

    def new_link(match):
        link, hash_, anchor = html.unescape(match[2]).partition("#")
        if not link or re.match(r"[a-z]+:", link):
            return match[0]
        aim = (home / link).resolve()
        aim = pages.get(aim, target.parent / "index.html" if aim.name == "README.md" else aim)
        return f'{match[1]}"{html.escape(os.path.relpath(aim, target.parent) + hash_ + anchor)}"'

    text = re.sub(r'(<a\b[^>]*?\bhref=)"([^"]*)"', new_link, text)
    index = os.path.relpath(sorted(pages.values(), key=lambda p: len(p.parts))[0].parent / "index.html", target.parent)
    bar = f'<nav class="series"><a href="{index}">All notebooks</a>'
    return re.sub(r"(<body[^>]*>)", lambda m: m[1] + bar + f"{html.escape(title)}</nav>", text, count=1)


def opening(notebook) -> tuple[str, str]:
    """Title and first paragraph of a notebook, as plain text."""
    source = next((c.source for c in notebook.cells if c.cell_type == "markdown" and c.source.startswith("# ")), "")
    page = BeautifulSoup(markdown2html(source), "html.parser")
    title, paragraph = (found.get_text() if found else "" for found in (page.h1, page.p))
    return title.rstrip("¶").strip() or "Untitled", " ".join(paragraph.split())


def thumbnail(notebook, width: int = 640) -> str:
    """The first figure of a notebook, made small: a PNG in base64, or an empty string."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB")
                picture.thumbnail((width, width))
                picture.save(small := io.BytesIO(), "PNG", optimize=True)
                return base64.b64encode(small.getvalue()).decode()
    return ""


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
    cards = []
    for source in sources + solutions:
        notebook = nbformat.read(executed.get(source, source), as_version=4)
        target = pages[source.resolve()]
        write(target, page_of(notebook, source.parent, target, pages, opening(notebook)[0]))
        if source in sources:
            title, paragraph = opening(notebook)
            record = records.get(source.stem) if source in executed else None
            cards.append({"page": target.name, "title": title, "paragraph": paragraph, "record": record})
            cards[-1]["picture"] = thumbnail(notebook)
    index = Template((TEMPLATES / "index.html.j2").read_text(encoding="utf-8"), autoescape=True)
    write(folder / "index.html", index.render(cards=cards) + "\n")
    return folder / "index.html"
