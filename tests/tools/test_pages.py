"""The pages: whole without a network, every link leads somewhere, everything can be found."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from PIL import Image
from tiny import write_notebook

import run
from pages import make_pages

pytestmark = pytest.mark.slow
OUTSIDE = re.compile(r"(?:\b(?:import|from)\s*\(?\s*|url\(\s*|@import\s+)['\"]?(?:\w+:)?//[^)'\"]+")


def links(page: BeautifulSoup) -> set[str]:
    return {tag["href"].partition("#")[0] for tag in page.select("a[href]")}


def check_site(site: Path) -> dict[str, BeautifulSoup]:
    """The pages of a site by name, after a look at each: nothing from the network, no link into nowhere."""
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in files}
    for path, page in pages.items():
        loaded = [tag["src"] for tag in page.select("[src]")] + [tag["href"] for tag in page.select("link[href]")]
        local = [tag["href"] for tag in page.select("a[href]") if not re.match(r"\w+:", tag["href"])]
        for link in [link for link in loaded + local if not link.startswith("data:")]:
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            assert not re.match(r"\w+:|//", link) and target.exists(), (path.name, link)
            assert not anchor or target not in pages or pages[target].find(id=unquote(anchor)), (path.name, link)
    for path in [*files, *site.rglob("*.css")]:
        assert not OUTSIDE.search(re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)), path
    assert "Search.setIndex(" in (site / "searchindex.js").read_text(encoding="utf-8")
    return {path.relative_to(site).as_posix(): page for path, page in pages.items()}


@pytest.mark.parametrize("tag", ['script src="', 'link href="', 'script>import m from "', "style>a{background:url("])
def test_what_a_page_loads_from_the_network_is_found(tmp_path, tag):
    (tmp_path / "page.html").write_text(f'<{tag}https://x.org/a">')
    with pytest.raises(AssertionError, match="page.html"):
        check_site(tmp_path)


def test_pages_of_the_series(tmp_path, capfd):
    """As committed: every lesson has its page, which leads to its solutions, the next and the previous lesson."""
    notebooks = run.REPOSITORY / "notebooks"
    assert make_pages(notebooks, tmp_path, {}) == 0
    assert capfd.readouterr().err == "", "warnings of Sphinx"
    pages = check_site(tmp_path / "html")
    names = [path.stem for path in sorted(notebooks.glob("[0-9]*.ipynb"))]
    for name in names:
        assert f"solutions/{name}_solutions.html" in links(pages[f"notebooks/{name}.html"].article)
    for one, two in zip(names, names[1:], strict=False):
        assert pages[f"notebooks/{one}.html"].find("a", class_="right-next")["href"] == f"{two}.html"
        assert pages[f"notebooks/{two}.html"].find("a", class_="left-prev")["href"] == f"{one}.html"


def test_pages_of_runs(tmp_path, capfd):
    """Formulas, folded cells, pictures and files that are linked to; a damaged notebook leaves the others alone."""
    series, out = tmp_path / "notebooks", tmp_path / "build"
    text = "## Part two\n\n[home](../README.md) [data](recorded/x.json) $\\nonsense$\n\n$$\\frac{1}{n}$$"
    figure = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"
    one = write_notebook(series / "01_one.ipynb", v4.new_markdown_cell(text), figure)
    write_notebook(series / "02_two.ipynb", "1 / 0")
    bad = v4.new_output("display_data", {"image/png": "AAAA"})
    write_notebook(series / "03_bad.ipynb", v4.new_code_cell("1", outputs=[bad]))
    write_notebook(series / "solutions" / "01_one_solutions.ipynb", v4.new_markdown_cell("[back](../01_one.ipynb)"))
    (series / "recorded").mkdir()
    (series / "recorded" / "x.json").write_text("{}")
    arguments = ["--series", str(series), "--out", str(out)]
    assert run.main([*arguments, "01", "02", "-p", "EPOCHS=3"]) == 1
    assert "03_bad.ipynb is left out of the pages" in capfd.readouterr().out
    pages = check_site(out / "html")
    assert "notebooks/solutions/01_one_solutions.html" in pages and "notebooks/03_bad.html" not in pages
    page, index = pages["notebooks/01_one.html"], pages["index.html"]
    assert page.select("math mfrac") and page.find("code", string="\\nonsense")
    assert "../index.html" in links(page.article)
    assert page.select(".tag_hide-input details") and "Part two" in page.select_one(".bd-sidebar-secondary").text
    assert [cell.text for cell in index.select("td strong")] == ["ok", "failed"]
    assert "EPOCHS=3" in index.table.text and "division by zero" in index.table.text
    assert Image.open(out / "html" / index.select_one(".sd-card img")["src"]).convert("L").getextrema()[0] < 200
    write_notebook(one)  # changed since it was run
    assert run.main([*arguments, "--html-only"]) == 0
    index = check_site(out / "html")["index.html"]
    assert "published, not run here" in index.table.text and [s.text for s in index.select("td strong")] == ["failed"]
