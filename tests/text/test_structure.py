"""Every notebook follows the template. Each rule is a function of a notebook that returns its faults.

For each rule a sound notebook is broken once, so that a rule that sees nothing is seen itself.
"""

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((REPOSITORY / "notebooks" / "solutions").glob("*.ipynb"))
SECTIONS = ["You will learn", "What you can now say", "Exercises", "Where to go next", "Sources and licences"]
TYPES = {"int", "float", "bool", "str", "list"}
LONGEST_CELL = 16
UNWANTED_WORDS = r"\b(TODO|FIXME|XXX|lorem|ipsum|placeholder)\b"
UNWANTED_OUTPUT = {
    "a path": r"(?<![\w.:/])/(?:home|Users|root|tmp|usr|opt|var|work|private|mnt|workspace)/|\b[A-Z]:\\|site-packages",
    "a warning": r"\w*Warning\b|^WARNING|^[WIE]\d{4} |absl::",
    "a traceback": r"Traceback \(most recent call last\)",
    "an object's address": r"\b0x[0-9a-f]{6,}",
    "a progress bar": r"\d+%\|.*\||\[=+>?\.*\]|\d ━{3,}|\bit/s\b|ms/step",
}


# ---- reading notebooks --------------------------------------------------------------------------


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook) -> list:
    return [c for c in notebook.cells if c.cell_type == "code"]


def tagged(notebook, tag: str) -> list:
    return [c for c in notebook.cells if tag in tags(c)]


def prose(notebook) -> str:
    """All markdown, without code spans and blocks."""
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def section(notebook, heading: str) -> str:
    """Text below a heading up to the next heading of the same or a higher level."""
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(rf"^(#+|\*\*) *{re.escape(heading)}.*?$(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[2] if found else ""


def output_text(cell) -> str:
    """What a reader of the outputs sees as text."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return "\n".join("".join(t) for t in texts)


def links(notebook) -> list[tuple[str, str, str]]:
    """("!" for pictures, text, target) of every markdown link and picture, and of HTML pictures."""
    text = prose(notebook)
    found = re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)", text)
    for img in re.findall(r"<img\b[^>]*>", text):
        alt, src = re.search(r'alt="([^"]*)"', img), re.search(r'src="([^"]*)"', img)
        found.append(("!", alt[1] if alt else "", src[1] if src else ""))
    return found


# ---- the rules for every notebook, solutions included -------------------------------------------


def executed_in_order(notebook, path):
    counts = [c.execution_count for c in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, not 1 to {len(counts)}"


def cells_are_short(notebook, path):
    for cell in code_cells(notebook):
        if (lines := len(cell.source.splitlines())) > LONGEST_CELL:
            yield f"cell [{cell.execution_count}] has {lines} lines, more than {LONGEST_CELL}"
        if not cell.source.strip():
            yield f"cell [{cell.execution_count}] is empty"


def outputs_are_clean(notebook, path):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell [{cell.execution_count}] has {output.get('ename', 'stderr')} in its outputs"
            if any("widget" in kind or "svg" in kind for kind in output.get("data", {})):
                yield f"cell [{cell.execution_count}] has a widget or SVG output"
        for what, pattern in UNWANTED_OUTPUT.items():
            if found := re.search(pattern, output_text(cell), re.MULTILINE):
                yield f"cell [{cell.execution_count}] shows {what}: {found[0]!r}"


def few_outputs_ignored(notebook, path):
    cells = code_cells(notebook)
    ignored = [c for c in cells if "nbval-ignore-output" in tags(c) or "NBVAL_IGNORE_OUTPUT" in c.source]
    if len(ignored) * 10 > len(cells):
        yield f"{len(ignored)} of {len(cells)} code cells carry nbval-ignore-output, more than 10 %"
    for cell in cells:
        escapes = {"nbval-skip", "raises-exception"} & set(tags(cell)) or re.search(r"NBVAL_(SKIP|RAISES)", cell.source)
        if escapes:
            yield f"cell [{cell.execution_count}] is kept from the comparison by {escapes}"


def code_is_plain(notebook, path):
    for cell in code_cells(notebook):
        name = f"cell [{cell.execution_count}]"
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"{name} is not plain Python: {error.msg}"
        if any(line.rstrip().endswith(";") for line in cell.source.splitlines()):
            yield f"{name} has a line that ends with ;"
        if found := re.search(r"sys\.path|^\s*[!%]|os\.system|get_ipython", cell.source, re.MULTILINE):
            yield f"{name} contains {found[0].strip()!r}"
        if any("image/png" in o.get("data", {}) for o in cell.outputs) and "plt.show()" not in cell.source:
            yield f"{name} shows a figure without plt.show()"


def no_latex(notebook, path):
    if found := re.search(r"\$[^$\n]+\$|\$\$|\\\(|\\\[|\\begin\{", prose(notebook)):
        yield f"LaTeX, which the offline pages cannot show: {found[0]!r}"


def metadata_is_clean(notebook, path):
    if extra := set(notebook.metadata) - {"kernelspec", "language_info"}:
        yield f"notebook metadata holds {sorted(extra)}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    if set(notebook.metadata.get("language_info", {})) - {"name"}:
        yield "language_info holds more than the name, which changes with every Python version"
    for number, cell in enumerate(notebook.cells):
        if extra := set(cell.metadata) - {"tags"}:
            yield f"metadata of cell {number} holds {sorted(extra)}"
        if known := set(tags(cell)) - {"parameters", "check", "nbval-ignore-output"}:
            yield f"cell {number} has the unknown tag {sorted(known)}"
    if len({c.get("id") for c in notebook.cells}) < len(notebook.cells):
        yield "cell ids are missing or double"


def no_unwanted_words(notebook, path):
    text = "\n".join(c.source for c in notebook.cells)
    if found := re.search(UNWANTED_WORDS, text, re.IGNORECASE):
        yield f"the word {found[0]}"


def links_resolve(notebook, path):
    for _, _, target in links(notebook):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        if file and not (path.parent / file).exists():
            yield f"the link to {target} leads nowhere"
        if not file and anchor.lower() not in anchors(notebook):
            yield f"the link to #{anchor} leads to no heading"


def anchors(notebook) -> set[str]:
    headings = re.findall(r"^#+ +(.+?)\s*$", "\n".join(c.source for c in notebook.cells), re.MULTILINE)
    return {h.replace(" ", "-").replace("`", "").lower() for h in headings}


def pictures_have_alt_text(notebook, path):
    for mark, text, target in links(notebook):
        if mark and len(text.strip()) < 5:
            yield f"the picture {target} has no alternative text"


def prose_between_code(notebook, path):
    """Prose before every code cell (parameters, check and imports may follow each other) and after every figure."""
    if notebook.cells and notebook.cells[0].cell_type == "code":
        yield "the notebook begins with code"
    following = [*notebook.cells[1:], None]
    for cell, after in zip(notebook.cells, following, strict=True):
        if cell.cell_type != "code" or (after and after.cell_type != "code"):
            continue
        if after and "check" not in tags(cell) + tags(after):
            yield f"no prose between cells [{cell.execution_count}] and [{after.execution_count}]"
        if any("image/png" in o.get("data", {}) for o in cell.outputs):
            yield f"no prose after the figure of cell [{cell.execution_count}]"


EVERYWHERE = [
    executed_in_order, cells_are_short, outputs_are_clean, few_outputs_ignored, code_is_plain, no_latex,
    metadata_is_clean, no_unwanted_words, links_resolve, pictures_have_alt_text, prose_between_code,
]  # fmt: skip


# ---- the rules for the notebooks of the series --------------------------------------------------


def title_and_opening(notebook, path):
    first = notebook.cells[0]
    number = path.name[:2]
    if first.cell_type != "markdown" or not re.match(rf"# {number} · \S.+\n\n\w", first.source):
        yield f"the first cell is not '# {number} · Title' and a paragraph"
    bullets = len(re.findall(r"^[-*] ", section(notebook, "You will learn"), re.MULTILINE))
    if not 3 <= bullets <= 5:
        yield f"'You will learn' has {bullets} bullets, not 3 to 5"
    said = len(re.findall(r"^[-*] ", section(notebook, "What you can now say"), re.MULTILINE))
    if said < 3:
        yield f"'What you can now say' has {said} bullets, fewer than 3"


def cost_card(notebook, path):
    text = first_prose(notebook)
    header = next((line for line in text.splitlines() if line.startswith("|")), "").lower()
    for word in ("profile", "minutes", "memory", "download"):
        if word not in header:
            yield f"the cost card (a table before the first code) has no column {word}"
    for profile in ("default", "full"):
        if not re.search(rf"^\|\W*{profile}\b", text, re.MULTILINE):
            yield f"the cost card has no line for the {profile} profile"


def first_prose(notebook) -> str:
    """All markdown before the first code cell."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            break
        texts.append(cell.source)
    return "\n".join(texts)


def parameters_are_literals(notebook, path):
    cells = tagged(notebook, "parameters")
    if len(cells) != 1 or not code_cells(notebook) or code_cells(notebook)[0] is not cells[0]:
        yield "the first code cell, and only this one, must be tagged parameters"
        return
    for line in cells[0].source.splitlines():
        found = re.fullmatch(r"([A-Z][A-Z0-9_]*): (\w+)(\[\w+\])? = ([^=]+?)  # \S[^=]*", line)
        if not found or found[2] not in TYPES:
            yield f"the parameter line {line!r} is not 'NAME: type = literal  # comment'"
            continue
        try:
            value = ast.literal_eval(found[4])
        except (ValueError, SyntaxError):
            yield f"the parameter {found[1]} is not a literal"
            continue
        if type(value).__name__ != found[2]:
            yield f"the parameter {found[1]} is declared {found[2]} but is {value!r}"


def check_follows(notebook, path):
    cells = notebook.cells
    at = [i for i, c in enumerate(cells) if "check" in tags(c)]
    if len(at) != 1 or "parameters" not in tags(cells[at[0] - 1]):
        yield "the cell tagged check must follow the parameters cell"
        return
    source = cells[at[0]].source
    if re.search(r"^\s*(import|from) ", source, re.MULTILINE):
        yield "the check cell imports something"
    if "raise ValueError(" not in source:
        yield "the check cell raises no ValueError"


def helpers_first(notebook, path):
    imports = [
        line for c in code_cells(notebook) for line in c.source.splitlines() if re.match(r"(import|from) ", line)
    ]
    if not imports or imports[0] != "import helpers":
        yield "the first import is not `import helpers`"
    third = code_cells(notebook)[2].source if len(code_cells(notebook)) > 2 else ""
    if "import helpers" not in third:
        yield "the imports do not come right after the parameters and their check"


def sections_in_order(notebook, path):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    at = [re.search(rf"^(#+|\*\*) *{re.escape(s)}", text, re.MULTILINE) for s in SECTIONS]
    if missing := [s for s, found in zip(SECTIONS, at, strict=True) if not found]:
        yield f"missing sections: {missing}"
    elif [f.start() for f in at] != sorted(f.start() for f in at):
        yield f"the sections do not come in the order {SECTIONS}"


def exercises_with_solutions(notebook, path):
    text = section(notebook, "Exercises")
    exercises = re.findall(r"^(?:\d+\.|\*\*\d+|#+ *\d+|\*\*Exercise \d+|#+ *Exercise \d+)", text, re.MULTILINE)
    if len(exercises) < 3:
        yield f"{len(exercises)} exercises (numbered), fewer than 3"
    solutions = f"solutions/{path.stem}_solutions.ipynb"
    if solutions not in text:
        yield f"the exercises do not link to {solutions}"
    elif not (path.parent / solutions).exists():
        yield f"{solutions} does not exist"


def neighbours_linked(notebook, path):
    series = sorted(path.parent.glob("[0-9][0-9]_*.ipynb"))
    here = [p.name for p in series].index(path.name)
    text = section(notebook, "Where to go next")
    for neighbour in series[max(here - 1, 0) : here] + series[here + 1 : here + 2]:
        if f"({neighbour.name})" not in text:
            yield f"'Where to go next' does not link to {neighbour.name}"


SERIES = [
    title_and_opening, cost_card, parameters_are_literals, check_follows, helpers_first, sections_in_order,
    exercises_with_solutions, neighbours_linked,
]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    faults = [f"{rule.__name__}: {fault}" for rule in EVERYWHERE + SERIES for fault in rule(notebook, path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_solutions(path):
    notebook = nbformat.read(path, as_version=4)
    faults = [f"{rule.__name__}: {fault}" for rule in EVERYWHERE for fault in rule(notebook, path)]
    assert not faults, "\n".join(faults)
    assert path.stem.removesuffix("_solutions") in [p.stem for p in NOTEBOOKS]


def test_four_notebooks_with_solutions():
    assert [p.name[:2] for p in NOTEBOOKS] == ["01", "02", "03", "04"]
    assert [p.stem for p in SOLUTIONS] == [f"{p.stem}_solutions" for p in NOTEBOOKS]


# ---- the rules themselves -----------------------------------------------------------------------

OPENING = """# 01 · Something

A paragraph.

## You will learn
- to do this
- to do that
- to do more

| profile | minutes | peak memory | download |
|---|---|---|---|
| default | 1 | 500 MB | none |
| full | 2 | 500 MB | 11 MB |
"""
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CLOSING = """## What you can now say
- this
- that
- more

## Exercises
1. one
2. two
3. three

Solutions: [here](solutions/01_something_solutions.ipynb).

## Where to go next
[Next](02_more.ipynb)

## Sources and licences
None.
"""


@pytest.fixture
def sound(tmp_path):
    """A small notebook without fault, and its path."""
    sources = [
        ("markdown", OPENING, []),
        ("code", "EPOCHS: int = 2  # passes over the data", ["parameters"]),
        ("code", 'if EPOCHS < 1:\n    raise ValueError(f"EPOCHS = {EPOCHS}: at least 1")', ["check"]),
        ("code", "import helpers\nimport numpy as np", []),
        ("markdown", "See ![a picture](picture.png) of it.", []),
        ("code", "plt.plot(range(EPOCHS))\nplt.show()", []),
        ("markdown", CLOSING, []),
    ]
    notebook = v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, (kind, source, tags_) in enumerate(sources):
        cell = v4.new_markdown_cell(source) if kind == "markdown" else v4.new_code_cell(source)
        cell["id"] = f"cell-{number:03d}"
        cell.metadata = nbformat.from_dict({"tags": tags_} if tags_ else {})
        notebook.cells.append(cell)
    for count, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = count
    notebook.cells[5].outputs = [v4.new_output("display_data", {"image/png": "iVBORw0K", "text/plain": "<Figure>"})]
    (tmp_path / "solutions").mkdir()
    for name in ("01_something.ipynb", "02_more.ipynb", "solutions/01_something_solutions.ipynb", "picture.png"):
        (tmp_path / name).touch()
    return notebook, tmp_path / "01_something.ipynb"


def test_a_sound_notebook_passes(sound):
    notebook, path = sound
    assert not [fault for rule in EVERYWHERE + SERIES for fault in rule(notebook, path)]


def source(cell, old, new):
    """A change of a notebook: in the source of a cell, replace `old`."""

    def change(notebook):
        assert old in notebook.cells[cell].source
        notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)

    return change


def shown(kind, **content):
    return lambda nb: nb.cells[5].outputs.append(v4.new_output(kind, **content))


def printed(text, name="stdout"):
    return shown("stream", text=text, name=name)


def tag(cell, *names):
    return lambda nb: nb.cells[cell].metadata.update(tags=list(names))


def drop(cell):
    return lambda nb: nb.cells.pop(cell)


def setting(cell, **values):
    return lambda nb: nb.cells[cell].update(values)


BROKEN = [
    (executed_in_order, setting(3, execution_count=5)),
    (executed_in_order, setting(5, execution_count=None)),
    (cells_are_short, source(5, "plt.show()", "x = 1\n" * 16)),
    (cells_are_short, setting(5, source=" ")),
    (outputs_are_clean, printed("saved in /home/jane/x.png")),
    (outputs_are_clean, printed("/usr/lib/python3")),
    (outputs_are_clean, printed("C:\\data")),
    (outputs_are_clean, printed("note", name="stderr")),
    (outputs_are_clean, printed("UserWarning: careful")),
    (outputs_are_clean, printed("<object object at 0x7f3a5c0b12f0>")),
    (outputs_are_clean, printed(" 45%|####      | 9/20")),
    (outputs_are_clean, printed("5/5 ━━━━━━━━━━ 1s 12ms/step")),
    (outputs_are_clean, shown("error", ename="ValueError", evalue="", traceback=[])),
    (outputs_are_clean, shown("display_data", data={"image/svg+xml": "x"})),
    (few_outputs_ignored, tag(5, "nbval-ignore-output")),
    (few_outputs_ignored, source(5, "plt.plot", "# NBVAL_IGNORE_OUTPUT\nplt.plot")),
    (few_outputs_ignored, tag(5, "nbval-skip")),
    (code_is_plain, source(5, "plt.plot(range(EPOCHS))", "plt.plot(range(EPOCHS));")),
    (code_is_plain, source(3, "import numpy as np", "sys.path.append('..')")),
    (code_is_plain, source(3, "import numpy as np", "!pip install numpy")),
    (code_is_plain, source(3, "import numpy as np", "%matplotlib inline")),
    (code_is_plain, source(5, "plt.show()", "x = 1")),
    (no_latex, source(4, "of it", "of $x^2$")),
    (no_latex, source(4, "of it", "of \\(x\\)")),
    (metadata_is_clean, lambda nb: nb.metadata.update(papermill={})),
    (metadata_is_clean, lambda nb: nb.metadata.kernelspec.update(name="venv")),
    (metadata_is_clean, lambda nb: nb.metadata.language_info.update(version="3.11.7")),
    (metadata_is_clean, lambda nb: nb.cells[5].metadata.update(execution={"iopub.execute_input": "2026"})),
    (metadata_is_clean, tag(5, "injected-parameters")),
    (metadata_is_clean, setting(5, id="cell-003")),
    (no_unwanted_words, source(4, "of it", "TODO")),
    (links_resolve, source(4, "picture.png", "missing.png")),
    (links_resolve, source(4, "of it", "of [it](#no-such-heading)")),
    (pictures_have_alt_text, source(4, "a picture", "")),
    (pictures_have_alt_text, source(4, "of it", '<img src="picture.png">')),
    (prose_between_code, drop(4)),
    (prose_between_code, drop(6)),
    (prose_between_code, drop(0)),
    (title_and_opening, source(0, "# 01 · Something", "# Something")),
    (title_and_opening, source(0, "# 01", "# 02")),
    (title_and_opening, source(0, "- to do more\n", "")),
    (title_and_opening, source(6, "- more\n", "")),
    (cost_card, source(0, "peak memory", "room")),
    (cost_card, source(0, "| full", "| more")),
    (parameters_are_literals, tag(1)),
    (parameters_are_literals, source(1, "2 ", "int(2) ")),
    (parameters_are_literals, source(1, "  # passes over the data", "")),
    (parameters_are_literals, source(1, ": int", "")),
    (parameters_are_literals, source(1, ": int", ": float")),
    (parameters_are_literals, source(1, "over", "= all")),
    (check_follows, drop(2)),
    (check_follows, source(2, "if EPOCHS", "import math\nif EPOCHS")),
    (check_follows, source(2, "raise ValueError(", "print(")),
    (helpers_first, source(3, "import helpers\nimport numpy as np", "import numpy as np\nimport helpers")),
    (helpers_first, source(3, "import helpers\n", "")),
    (sections_in_order, source(6, "## Sources and licences", "## Sources")),
    (sections_in_order, source(6, "## Exercises", "## Sources and licences\n## Exercises")),
    (exercises_with_solutions, source(6, "3. three", "")),
    (exercises_with_solutions, source(6, "solutions/01_something", "solutions/09_something")),
    (neighbours_linked, source(6, "02_more.ipynb", "03_more.ipynb")),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=lambda i: f"{BROKEN[i][0].__name__}-{i}")
def test_the_rule_sees_its_fault(sound, number):
    rule, damage = BROKEN[number]
    notebook, path = copy.deepcopy(sound[0]), sound[1]
    damage(notebook)
    assert list(rule(notebook, path))


def test_every_rule_was_broken_once():
    assert {rule for rule, _ in BROKEN} == set(EVERYWHERE + SERIES)


def test_a_missing_solution_is_seen(sound):
    notebook, path = sound
    (path.parent / "solutions" / "01_something_solutions.ipynb").unlink()
    assert list(exercises_with_solutions(notebook, path)) and list(links_resolve(notebook, path))
