"""Numbers in the prose are numbers that were measured or published.

Every percentage, decimal number, number with thousands separators and integer of 100 or more in a
notebook's markdown must occur, digit for digit, in the outputs of the same notebook, in its code, in
notebooks/recorded/*.json (rounded as the prose prints it, fractions also as percentages) or in
notebooks/facts.yml, which names the source. So must the pair in "19 of 20" or "19/20". Not counted:
years, versions of software and licences, digits inside names (VGG16), addresses, and outputs of cells
tagged nbval-ignore-output, because timings change from run to run.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import v4

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((REPOSITORY / "notebooks" / "solutions").glob("*.ipynb"))
RECORDED = sorted((REPOSITORY / "notebooks" / "recorded").glob("*.json"))
FACTS = REPOSITORY / "notebooks" / "facts.yml"
UNITS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "M": 1e6, "k": 1e3, "G": 1e9}

NOT_PROSE = re.compile(
    r"https?://[^\s)>\"]+|\]\([^)]*\)|<[^>]+>"  # addresses, link targets, tags
    r"|\barXiv:\s?\d{4}\.\d{4,5}|\bdoi:\s?\S+"
    r"|\b(?:BY|BY-SA|BY-NC|Apache|GPL|BSD|MIT|[Vv]ersion|Python|Keras|TensorFlow|NumPy|papermill|ImageNet"
    r"|ILSVRC)(?: License| Licence|,)?[ -]?v?\d[\d.]*\d(?:[–-]\d[\d.]*\d)?"
    r"|\bpp?\. ?\d+(?:[–-]\d+)?|\b\d+\(\d+\)"  # pages and volumes
)
NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?![\d]|\.\d)")


def numbers(text: str) -> set[str]:
    """All numbers of a text as plain digits: 33,638,218 and 60_000 become 33638218 and 60000."""
    text = re.sub(r"(?<=\d)_(?=\d)", "", text)
    text = re.sub(r"(?<=\d)\s?[x×](?=\s?\d)", " ", text)
    return {n.replace(",", "") for n in NUMBER.findall(text)} | {
        n for run in re.findall(r"\d+(?:, ?\d+)+", text) for n in re.split(r", ?", run)
    }


def pairs(text: str) -> set[tuple[str, str]]:
    """("19", "20") of every "19 of 20" and "19/20"; small denominators are fractions, not counts."""
    found = re.findall(r"(?<![\w.,/])(\d+)(?: ?/ ?| out of | of (?:the |all )?)(\d+)(?![\w/]|[.,]\d)", text)
    return {(a, b) for a, b in found if int(b) >= 10}


def claims(markdown: str) -> list[tuple[str, str]]:
    """(number as written, unit) of everything in a text that needs a source; unit may be "%" or "million"."""
    text = NOT_PROSE.sub(" ", markdown)
    text = re.sub(r"(?<=\d)\s?[x×](?=\s?\d)", " ", text)
    found = []
    for match in NUMBER.finditer(text):
        written = match[1]
        after = re.match(r"[ \u00a0\u202f]?(%|percent\b|thousand\b|million\b|billion\b|[MGk]\b)", text[match.end() :])
        unit = "%" if after and after[1] == "percent" else after[1] if after else ""
        plain = written.replace(",", "")
        is_year = re.fullmatch(r"(?:19[4-9]|20[0-3])\d", written)
        if unit or "," in written or "." in written or (int(plain) >= 100 and not is_year):
            found.append((written, unit))
    return found


class Sources:
    """Where the numbers of a text may come from."""

    def __init__(self, texts=(), recorded=(), facts=()):
        text = "\n".join(list(texts) + [str(f["value"]) for f in facts])
        self.digits = numbers(text)
        self.pairs = pairs(text)
        self.recorded = [v for data in recorded for v in leaves(data)]
        self.recorded_digits = {str(v) for v in self.recorded}

    def has(self, written: str, unit: str) -> bool:
        plain = written.replace(",", "")
        decimals = len(plain.partition(".")[2])
        if plain in self.digits or plain in self.recorded_digits:
            return True
        measured = self.recorded + [float(d) for d in self.digits] if unit in UNITS else self.recorded
        factors = {1.0, 1 / UNITS.get(unit, 1.0)} | ({100.0} if unit == "%" else set())
        return any(f"{value * factor:.{decimals}f}" == plain for value in measured for factor in factors)


def leaves(data) -> list[float]:
    """All numbers in a JSON value, and those in its texts."""
    if isinstance(data, dict):
        return [v for child in data.values() for v in leaves(child)]
    if isinstance(data, list):
        return [v for child in data for v in leaves(child)]
    return [data] if isinstance(data, int | float) and not isinstance(data, bool) else []


def unsupported(markdown: str, sources: Sources) -> list[str]:
    """The numbers of a text that occur in none of the sources."""
    faults = [f"{written} {unit}".strip() for written, unit in claims(markdown) if not sources.has(written, unit)]
    text = NOT_PROSE.sub(" ", markdown)
    faults += [f"{a} of {b}" for a, b in sorted(pairs(text) - sources.pairs)]
    return list(dict.fromkeys(faults))


def notebook_texts(notebook) -> list[str]:
    """Code and comparable outputs of a notebook."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts.append(cell.source)
            if "nbval-ignore-output" not in cell.metadata.get("tags", []):
                for output in cell.outputs:
                    texts.append("".join(output.get("text", "")))
                    texts += ["".join(v) for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return texts


def prose_of(notebook) -> str:
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def read_facts() -> list[dict]:
    return (yaml.safe_load(FACTS.read_text(encoding="utf-8")) or []) if FACTS.exists() else []


def recorded_for(notebook) -> list:
    """Recorded results that a notebook reads (it names the file), and the costs of whole runs (*_run.json)."""
    code = "\n".join(notebook_texts(notebook)) + prose_of(notebook)
    return [json.loads(p.read_text()) for p in RECORDED if p.stem in code or p.stem.endswith("_run")]


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda p: p.stem)
def test_numbers_of_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    texts = notebook_texts(notebook)
    if path in SOLUTIONS:  # they may quote the notebook that they belong to
        texts += notebook_texts(nbformat.read(path.parent.parent / path.name.replace("_solutions", ""), as_version=4))
    faults = unsupported(prose_of(notebook), Sources(texts, recorded_for(notebook), read_facts()))
    assert not faults, f"numbers without a source in the prose of {path.name}: {', '.join(faults)}"


def test_numbers_of_readme():
    texts = [t for p in NOTEBOOKS for t in notebook_texts(nbformat.read(p, as_version=4))]
    texts += [(REPOSITORY / name).read_text() for name in ("pyproject.toml", "Makefile", "install.py")]
    recorded = [json.loads(p.read_text()) for p in RECORDED]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    faults = unsupported(readme, Sources(texts, recorded, read_facts()))
    assert not faults, f"numbers without a source in README.md: {', '.join(faults)}"


def test_facts_have_sources_and_are_used():
    text = "\n".join(prose_of(nbformat.read(p, as_version=4)) for p in NOTEBOOKS + SOLUTIONS)
    text += (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for fact in read_facts():
        assert {"value", "source"} <= set(fact) <= {"value", "source", "notebooks"}, fact
        assert len(str(fact["source"]).strip()) > 5, fact
        assert str(fact["value"]) in text, f"facts.yml: {fact['value']} is quoted nowhere"


# ---- the rule itself ----------------------------------------------------------------------------

MEASURED = Sources(
    ["accuracy 98.5 %, 19 of 20 right", "Total params: 33,638,218", "model.fit(x, epochs=10, batch_size=128)  # 60_000",
     "(500, 224, 224, 3)", "shape (64, 64, 100)", "Rescaling(1 / 255)"],
    [{"test": {"accuracy": 0.99534, "std": 0.0004, "seconds": 251.37}, "runs": [0.961, 0.9623]}],
    [{"value": "25,636,712", "source": "Keras documentation"}, {"value": "76.13 %", "source": "a paper"}],
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "98.5 % of them, 19 of 20 (19/20)",
        "98.5% or 98.5 percent",
        "33,638,218 parameters, that is 33.6 million, or 34 M",
        "batches of 128 from 60,000 images of 224×224 or 224x224x3, 64×64×100",
        "99.5 % or 99.53 %, in 251 s or 251.4 s; 96.1 %",
        "ResNet50 has 25,636,712 and reaches 76.13 %",
        "1/255",
        "in 2015, on 2 cores, VGG16 and ResNet152, 3×3, [page](https://example.org/12345), CC BY-SA 3.0, Python 3.11",
        "arXiv:1512.03385, Keras 3.15, Nature 521(7553), pp. 436–444",
    ],
)
def test_supported_numbers_pass(text):
    assert unsupported(text, MEASURED) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("98.6 % of them", "98.6 %"),
        ("98.50 % of them", "98.50 %"),
        ("99 of them in 2 s, but 97 % there", "97 %"),
        ("33,638,219 parameters", "33,638,219"),
        ("about 33.7 million", "33.7 million"),
        ("99.52 %", "99.52 %"),
        ("0.97", "0.97"),
        ("batches of 256", "256"),
        ("images of 225×224", "225"),
        ("it took `252` seconds", "252"),
        ("18 of 20 right", "18 of 20"),
        ("18/20 right", "18 of 20"),
        ("reaches 76.14 %", "76.14 %"),
        ("**1,000** images", "1,000"),
        ("a table | 0.123 |", "0.123"),
    ],
)
def test_unsupported_numbers_are_named(text, number):
    assert unsupported(text, MEASURED) == [number]


def test_timings_are_no_source():
    timed = v4.new_code_cell("t()", outputs=[v4.new_output("stream", text="12.34 s")], metadata={"tags": []})
    notebook = v4.new_notebook(cells=[timed, v4.new_markdown_cell("It takes 12.34 s.")])
    assert not unsupported(prose_of(notebook), Sources(notebook_texts(notebook)))
    timed.metadata["tags"] = ["nbval-ignore-output"]
    assert unsupported(prose_of(notebook), Sources(notebook_texts(notebook))) == ["12.34"]


def test_a_changed_output_is_seen():
    cell = v4.new_code_cell("accuracy", outputs=[v4.new_output("stream", text="held-out accuracy: 0.943")])
    notebook = v4.new_notebook(cells=[cell, v4.new_markdown_cell("The accuracy is 0.943.")])
    assert not unsupported(prose_of(notebook), Sources(notebook_texts(notebook)))
    cell.outputs[0].text = "held-out accuracy: 0.934"
    assert unsupported(prose_of(notebook), Sources(notebook_texts(notebook))) == ["0.943"]
