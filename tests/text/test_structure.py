"""Every notebook follows the template. Each rule is a function of a notebook that yields its faults; for each, a
sound notebook is broken (sound_notebook.yml), so that a rule that sees nothing is seen itself.
"""

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from reference import NOTEBOOKS, SOLUTIONS
from refresh_outputs import cleaned

SECTIONS = ["You will learn", "What you can now say", "Exercises", "Where to go next", "Sources and licences"]
TAGS = {"parameters", "check", "imports", "lesson", "hide-input", "nbval-ignore-output"}
LONGEST_CELL, LONGEST_FOLDED_CELL = 16, 30
TEMPLATE = yaml.safe_load(Path(__file__).with_name("template.yml").read_text(encoding="utf-8"))
UNWANTED_WORDS, UNWANTED_OUTPUT = ("|".join(TEMPLATE[f"unwanted {what}"]) for what in ("words", "output"))


# ---- reading notebooks --------------------------------------------------------------------------


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook) -> list:
    return [c for c in notebook.cells if c.cell_type == "code"]


def markdown(cells) -> str:
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def prose(notebook) -> str:
    """All markdown, without code spans and blocks."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", markdown(notebook.cells), flags=re.DOTALL)


def section(notebook, heading: str) -> str:
    """Text below a heading up to the next heading of the same or a higher level."""
    pattern = rf"^(#+|\*\*) *{re.escape(heading)}.*?$(.*?)(?=^#{{1,2}} |\Z)"
    found = re.search(pattern, markdown(notebook.cells), re.MULTILINE | re.DOTALL)
    return found[2] if found else ""


def bullets(text: str, mark: str = "[-*]") -> int:
    return len(re.findall(rf"^(?:{mark}) ", text, re.MULTILINE))


def has_figure(cell) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def output_text(output) -> str:
    """What a reader of an output sees as text."""
    texts = [output.get("text", "")] + [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return "\n".join("".join(t) for t in texts)


# ---- the rules for every notebook, solutions included -------------------------------------------


def executed_in_order(notebook, path):
    counts = [c.execution_count for c in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}"


def cells_are_short(notebook, path):
    for cell in code_cells(notebook):
        longest = LONGEST_FOLDED_CELL if {"hide-input", "imports"} & set(tags(cell)) else LONGEST_CELL
        if not cell.source.strip() or len(cell.source.splitlines()) > longest:
            yield f"cell [{cell.execution_count}] has {len(cell.source.splitlines())} lines, not 1 to {longest}"


def outputs_are_clean(notebook, path):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell [{cell.execution_count}] has {output.get('ename', 'stderr')} in its outputs"
            if any("widget" in kind or "svg" in kind for kind in output.get("data", {})):
                yield f"cell [{cell.execution_count}] has a widget or SVG output"
            if found := re.search(UNWANTED_OUTPUT, output_text(output), re.MULTILINE):
                yield f"cell [{cell.execution_count}] shows {found[0]!r}"


def few_outputs_ignored(notebook, path):
    cells = code_cells(notebook)
    ignored = [c for c in cells if "nbval-ignore-output" in tags(c)]
    if len(ignored) * 10 > len(cells):
        yield f"{len(ignored)} of {len(cells)} code cells carry nbval-ignore-output, more than 10 %"
    if any({"nbval-skip", "raises-exception"} & set(tags(c)) or "NBVAL_" in c.source for c in cells):
        yield "a cell is kept from the comparison"


def code_is_plain(notebook, path):
    for cell in code_cells(notebook):
        name = f"cell [{cell.execution_count}]"
        if found := re.search(r"sys\.path|^\s*[!%]|os\.system|get_ipython|:=|;$", cell.source, re.MULTILINE):
            yield f"{name} contains {found[0].strip()!r}"
        if has_figure(cell) and "plt.show()" not in cell.source:
            yield f"{name} shows a figure without plt.show()"


def metadata_is_clean(notebook, path):
    if notebook != cleaned(copy.deepcopy(notebook)):
        yield "metadata are not those that `make outputs` writes"
    for number, cell in enumerate(notebook.cells):
        hidden = {"source_hidden": True} if "hide-input" in tags(cell) else {}
        if cell.metadata.get("jupyter", {}) != hidden or set(tags(cell)) - TAGS:
            yield f"cell {number} has an unknown tag, or not jupyter.source_hidden and hide-input together"


def prose_is_clean(notebook, path):
    if found := re.search(UNWANTED_WORDS, prose(notebook), re.IGNORECASE):
        yield f"the words {found[0]!r}"
    if found := re.search(r"!\[.{0,4}\]\(\S+|<img(?![^>]*alt=)", prose(notebook)):
        yield f"the image {found[0]} has no alternative text"


def prose_between_code(notebook, path):
    """Prose before every code cell (but parameters, check and imports), and after every figure."""
    if notebook.cells[0].cell_type == "code":
        yield "the notebook begins with code"
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "code" and (after is None or after.cell_type == "code"):
            if after and "check" not in tags(cell) + tags(after):
                yield f"no prose between cells [{cell.execution_count}] and [{after.execution_count}]"
            if has_figure(cell):
                yield f"no prose after the figure of cell [{cell.execution_count}]"


def lesson_cells_define(notebook, path):
    for cell in code_cells(notebook):
        definitions = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
        if "lesson" in tags(cell) and not all(isinstance(n, definitions) for n in ast.parse(cell.source).body):
            yield f"cell [{cell.execution_count}], tagged lesson, does more than define"


EVERYWHERE = [
    executed_in_order, cells_are_short, outputs_are_clean, few_outputs_ignored, code_is_plain, metadata_is_clean,
    prose_is_clean, prose_between_code, lesson_cells_define,
]  # fmt: skip


# ---- the rules for the notebooks of the series --------------------------------------------------


def opening(notebook, path):
    if not re.match(rf"# {path.name[:2]} · \S.+\n\n\w", markdown(notebook.cells[:1])):
        yield f"the first cell is not '# {path.name[:2]} · Title' and a paragraph"
    if not 3 <= bullets(section(notebook, "You will learn")) <= 5 or bullets(section(notebook, SECTIONS[1])) < 3:
        yield f"not 3 to 5 bullets in {SECTIONS[0]!r}, or not 3 or more in {SECTIONS[1]!r}"
    first = next((i for i, c in enumerate(notebook.cells) if c.cell_type == "code"), 0)
    card = "\n".join(line for line in markdown(notebook.cells[:first]).lower().splitlines() if line.startswith("|"))
    if missing := [w for w in ("profile", "minutes", "memory", "download", "| default", "| full") if w not in card]:
        yield f"the cost card (a table before the first code) lacks {missing}"


def plumbing(notebook, path):
    """Parameters, their check, imports: the first three code cells."""
    cells = code_cells(notebook)[:3]
    found = [set(tags(c)) - {"nbval-ignore-output"} for c in cells]
    if found != [{"parameters"}, {"check", "hide-input"}, {"imports"}]:
        yield "the first code cells are not tagged parameters; check and hide-input; imports"
        return
    for line in cells[0].source.splitlines():
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*: (int|float|bool|str|list\[\w+\]) = [^=()]+  # \S[^=]*", line):
            yield f"the parameter line {line!r} is not 'NAME: type = literal of this type  # comment'"
    if re.search(r"^\s*(import|from) ", cells[1].source, re.MULTILINE) or "raise ValueError(" not in cells[1].source:
        yield "the check cell imports something, or raises no ValueError"
    if not re.match(r"import helpers\b(?!\.)", cells[2].source):
        yield "the first import is not `import helpers`"


def sections_in_order(notebook, path):
    at = [re.search(rf"^(#+|\*\*) *{re.escape(s)}", markdown(notebook.cells), re.MULTILINE) for s in SECTIONS]
    if not all(at) or [f.start() for f in at] != sorted(f.start() for f in at):
        yield f"the sections are not {SECTIONS}, in this order"
    exercises, solutions = section(notebook, "Exercises"), f"solutions/{path.stem}_solutions.ipynb"
    if bullets(exercises, r"\d+\.|\*\*\d+.*|#+ *\d+.*|\*\*Exercise \d+.*") < 3 or solutions not in exercises:
        yield f"fewer than 3 numbered exercises, or no link to {solutions}"
    series = sorted(p.name for p in path.parent.glob("[0-9][0-9]_*.ipynb"))
    here = series.index(path.name)
    for neighbour in series[max(here - 1, 0) : here] + series[here + 1 : here + 2]:
        if f"({neighbour})" not in section(notebook, "Where to go next"):
            yield f"'Where to go next' does not link to {neighbour}"


def licences_are_named(notebook, path):
    code = "\n".join(c.source for c in code_cells(notebook))
    for used, said in TEMPLATE["licences"].items():
        if re.search(used, code) and said not in section(notebook, SECTIONS[-1]):
            yield f"{SECTIONS[-1]!r} does not say {said!r}, although the code uses {used}"


SERIES = [opening, plumbing, sections_in_order, licences_are_named]


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda p: p.stem)
def test_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    rules = EVERYWHERE + (SERIES if path in NOTEBOOKS else [])
    faults = [f"{rule.__name__}: {fault}" for rule in rules for fault in rule(notebook, path)]
    assert not faults, "\n".join(faults)


def defined(path: Path) -> dict[str, str]:
    """The functions of a notebook with their arguments, and its constants: what they are."""
    nodes = [n for c in code_cells(nbformat.read(path, as_version=4)) for n in ast.parse(c.source).body]
    found = {f"{n.name}({ast.unparse(n.args)})": ast.unparse(n) for n in nodes if isinstance(n, ast.FunctionDef)}
    constants = {ast.unparse(n.targets[0]): ast.unparse(n) for n in nodes if isinstance(n, ast.Assign)}
    return found | {name: value for name, value in constants.items() if name.isupper()}


def test_solutions_take_over_what_the_lesson_defines():
    assert NOTEBOOKS and [p.stem for p in SOLUTIONS] == [f"{p.stem}_solutions" for p in NOTEBOOKS]
    taken = set()
    for lesson, solutions in zip(map(defined, NOTEBOOKS), map(defined, SOLUTIONS), strict=True):
        assert not [name for name in set(lesson) & set(solutions) if lesson[name] != solutions[name]]
        taken |= set(lesson) & set(solutions)
    assert len(taken) > 5


# ---- the rules themselves -----------------------------------------------------------------------

DATA = yaml.safe_load(Path(__file__).with_name("sound_notebook.yml").read_text(encoding="utf-8"))


@pytest.fixture
def sound(tmp_path):
    """A small notebook without fault, and its path."""
    (tmp_path / "solutions").mkdir()
    for name in ("01_something.ipynb", "02_more.ipynb", "solutions/01_something_solutions.ipynb", "image.png"):
        (tmp_path / name).touch()
    return nbformat.from_dict(copy.deepcopy(DATA["notebook"])), tmp_path / "01_something.ipynb"


def test_a_sound_notebook_passes(sound):
    assert not [fault for rule in EVERYWHERE + SERIES for fault in rule(*sound)]


@pytest.mark.parametrize("number", range(len(DATA["broken"])), ids=lambda i: f"{DATA['broken'][i]['rule']}-{i}")
def test_the_rule_sees_its_fault(sound, number):
    change = dict(DATA["broken"][number])
    rule, at, replace = change.pop("rule"), change.pop("cell"), change.pop("replace", "")
    cell = sound[0].cells[at]
    assert replace in cell.source
    cell.source = cell.source.replace(replace, change.pop("by", replace)) if replace else cell.source
    cell.update(nbformat.from_dict(change))
    if "drop" in change:
        sound[0].cells.pop(at)
    assert list(globals()[rule](*sound))


def test_every_rule_was_broken_once():
    assert {entry["rule"] for entry in DATA["broken"]} == {rule.__name__ for rule in EVERYWHERE + SERIES}
