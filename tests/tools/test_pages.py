"""The pages: whole without a network, every link leads somewhere, everything can be found."""

import html.parser
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from nbformat import v4
from PIL import Image
from tiny import write_notebook

import run
from pages import make_pages

pytestmark = pytest.mark.slow


class Loaded(html.parser.HTMLParser):
    """What a page loads, where its links lead, and which anchors it has."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], set()
        self.loads += re.findall(r"(?:import|from)\s*\(?\s*['\"](\w+://[^'\"]+|//[^'\"]+)['\"]", text)
        self.loads += [u for u in re.findall(r"url\(\s*['\"]?([^)'\"]+)", text) if not u.startswith(("data:", "#"))]
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.add(given.get("id"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        is_loaded = tag == "link" and given.get("rel") not in ("next", "prev", "index", "search", "canonical")
        sources = [given.get("src"), given.get("srcset"), given.get("href") if is_loaded else None]
        self.loads += [source for source in sources if source and not source.startswith("data:")]


def check_site(site: Path) -> dict[str, Loaded]:
    """The pages of a site by name, after a look at each: nothing from the network, no link into nowhere."""
    pages = {path: Loaded(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        local = [link for link in page.links if not re.match(r"\w+:", link)]
        for link in page.loads + local:
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            assert not re.match(r"\w+:|//", link) and target.exists(), (path.name, link)
            assert not anchor or target not in pages or unquote(anchor) in pages[target].anchors, (path.name, link)
    for path in site.rglob("*.css"):
        style = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", style), path.name
    assert "Search.setIndex(" in (site / "searchindex.js").read_text(encoding="utf-8")
    return {path.relative_to(site).as_posix(): page for path, page in pages.items()}


@pytest.mark.parametrize(
    "text",
    ['<script src="https://x.org/a.js"></script>', '<link rel="stylesheet" href="//x.org/a.css">', '<img src="http://x/y">',
     '<script>import m from "https://x.org/m.mjs"</script>', "<style>body{background:url(https://x.org/a.png)}</style>"],
)  # fmt: skip
def test_what_a_page_loads_from_the_network_is_found(tmp_path, text):
    (tmp_path / "page.html").write_text(text)
    with pytest.raises(AssertionError):
        check_site(tmp_path)


def test_pages_of_the_series(tmp_path, capfd):
    """As committed: every lesson has its page, which leads to its solutions, the next and the previous lesson."""
    notebooks = run.REPOSITORY / "notebooks"
    assert make_pages(notebooks, tmp_path, {}) == 0
    assert capfd.readouterr().err == "", "warnings of Sphinx"
    pages = check_site(tmp_path / "html")
    names = [path.stem for path in sorted(notebooks.glob("[0-9]*.ipynb"))]
    for name in names:
        assert f"solutions/{name}_solutions.html" in {
            link.partition("#")[0] for link in pages[f"notebooks/{name}.html"].links
        }
    for one, two in zip(names, names[1:], strict=False):
        assert f"{two}.html" in pages[f"notebooks/{one}.html"].links
        assert f"{one}.html" in pages[f"notebooks/{two}.html"].links


def test_pages_of_runs(tmp_path, capfd):
    """Formulas, folded cells, pictures and files that are linked to; a damaged notebook leaves the others alone."""
    series = tmp_path / "notebooks"
    figure = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"
    text = "## Part two\n\n[home](../README.md) [data](recorded/x.json) [on](02_two.ipynb) $\\nonsense$\n\n$$\\frac{1}{n}$$"
    one = write_notebook(series / "01_one.ipynb", v4.new_markdown_cell(text), figure)
    write_notebook(series / "02_two.ipynb", "1 / 0")
    bad = v4.new_output("display_data", {"image/png": "AAAA"})
    write_notebook(series / "03_bad.ipynb", v4.new_code_cell("1", outputs=[bad]))
    write_notebook(series / "solutions" / "01_one_solutions.ipynb", v4.new_markdown_cell("[back](../01_one.ipynb)"))
    (series / "recorded").mkdir()
    (series / "recorded" / "x.json").write_text(json.dumps({"x": 1}))
    out = tmp_path / "build"
    arguments = ["--series", str(series), "--out", str(out)]
    assert run.main([*arguments, "01", "02", "-p", "EPOCHS=3"]) == 1
    assert "03_bad.ipynb is left out of the pages" in capfd.readouterr().out
    pages = check_site(out / "html")
    assert "notebooks/solutions/01_one_solutions.html" in pages and "notebooks/03_bad.html" not in pages
    page, index = (
        (out / "html" / name).read_text(encoding="utf-8") for name in ("notebooks/01_one.html", "index.html")
    )
    for part in ("<mfrac>", "<code>\\nonsense</code>", 'href="../index.html"', "tag_hide-input", "Part two"):
        assert part in page, part
    for part in (
        "<strong>ok</strong>",
        "<strong>failed</strong>",
        "EPOCHS=3",
        "division by zero",
        "first</em> paragraph",
    ):
        assert part in index, part
    (picture,) = re.findall(r'src="(_images/01_one[^"]*png)"', index)
    assert Image.open(out / "html" / picture).getextrema() != ((255, 255),) * 3
    write_notebook(one)  # changed since it was run
    assert run.main([*arguments, "--html-only"]) == 0
    index = (out / "html" / "index.html").read_text(encoding="utf-8")
    assert "<strong>ok</strong>" not in index and "published, not run here" in index
