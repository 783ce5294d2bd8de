"""Every number in the prose is printed by its page, stands in its code, or has a source in facts.yml; a number in
README comes from one named key of README_NUMBERS. The rule itself is in claims.py; changing any number by one in
its last digit shows whether it would be noticed.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from claims import NO_CLAIMS, Page, claims, find, mutants, phrase, without
from nbformat import v4
from reference import NOTEBOOKS, REPOSITORY, SOLUTIONS

README_NUMBERS = Path(__file__).with_name("readme_numbers.yml")
LONGEST_QUOTE = 120


def read_yaml(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def key_of(path: Path) -> str:
    """The key of a page in facts.yml: "01", or "01 solutions"."""
    return path.name[:2] + (" solutions" if path in SOLUTIONS else "")


@cache
def page(path: Path) -> Page:
    facts = read_yaml(REPOSITORY / "notebooks" / "facts.yml").get(key_of(path), [])
    if path in SOLUTIONS:
        other = {"lesson": path.parent.parent / path.name.replace("_solutions", "")}
    else:
        other = {"solutions": path.parent / "solutions" / f"{path.stem}_solutions.ipynb"}
    others = {role: nbformat.read(p, as_version=4) for role, p in other.items() if p.exists()}
    return Page(nbformat.read(path, as_version=4), [fact["quote"] for fact in facts], **others)


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda p: p.stem)
def test_numbers_have_a_source(path):
    faults = {i: page(path).faults(i, text) for i, text in page(path).prose.items()}
    said = [f"cell {i}: {', '.join(found)}" for i, found in faults.items() if found]
    assert not said, f"numbers without a source in the prose of {path.name}\n" + "\n".join(said)


def most_are_noticed(name: str, noticed: list[bool], capsys) -> bool:
    with capsys.disabled():
        print(f"\n{name}: {sum(noticed)} of {len(noticed)} changed numbers are noticed", end="", file=sys.stderr)
    return sum(noticed) >= 0.9 * len(noticed) or (len(noticed) < 20 and sum(noticed) >= len(noticed) - 2)


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda p: p.stem)
def test_a_changed_number_is_noticed(path, capsys):
    faults, texts = page(path).faults, page(path).prose.items()
    noticed = [faults(i, mutant) != faults(i, text) for i, text in texts for mutant in mutants(text)]
    assert most_are_noticed(path.stem, noticed, capsys)


def test_facts_have_a_source_and_are_quoted():
    facts = read_yaml(REPOSITORY / "notebooks" / "facts.yml")
    paths = {key_of(path): path for path in NOTEBOOKS + SOLUTIONS}
    assert set(facts) <= set(paths)
    for key, entries in facts.items():
        prose = "\n\n".join(page(paths[key]).prose.values())
        for fact in entries:
            assert set(fact) == {"quote", "source"} and len(fact["source"]) > 10, fact
            words, numbers = re.findall(r"[^\W\d]{3,}", fact["quote"]), claims(fact["quote"])
            assert words and numbers and len(fact["quote"]) < LONGEST_QUOTE, f"no phrase with a number: {fact}"
            assert phrase(fact["quote"]).search(prose), f"notebook {key} does not say {fact['quote']!r}"


# ---- README -------------------------------------------------------------------------------------


README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ENTRIES = read_yaml(README_NUMBERS) or []


def value_at(data, key: str):
    """The value at "runs[seed=0,what=frozen].test.accuracy": exactly one entry must match."""
    for name, conditions in re.findall(r"([^.\[\]]+)(?:\[([^\]]*)\])?\.?", key):
        data = data[name]
        if conditions.isdigit():
            data = data[int(conditions)]
        elif conditions:
            wanted = dict(c.split("=") for c in conditions.split(","))
            (data,) = [entry for entry in data if all(str(entry.get(k)) == v for k, v in wanted.items())]
    return data


def fault_of(entry: dict) -> str:
    """What is wrong with an entry of README_NUMBERS, or an empty string.

    {quote, source}; or {quote, file, key, format}, key and times possibly lists; or {quote, notebook, line}.
    """
    quote = entry["quote"]
    if "source" in entry:
        return "" if len(entry["source"]) > 10 else "no source"
    if "notebook" in entry:
        (path,) = (p for p in NOTEBOOKS if p.name.startswith(entry["notebook"]))
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
        printed = " ".join("".join(o.get("text", "") or o.get("data", {}).get("text/plain", "")) for o in outputs)
        if " ".join(entry["line"].split()) not in " ".join(printed.split()):
            return f"notebook {entry['notebook']} does not print {entry['line']!r}"
        shown = entry["line"]
    else:
        keys = entry["key"] if isinstance(entry["key"], list) else [entry["key"]]
        data = json.loads((REPOSITORY / entry["file"]).read_text(encoding="utf-8"))
        shown = entry["format"].format(*(value_at(data, key) * entry.get("times", 1) for key in keys))
    missing = {c for *_, c in claims(quote)} - {c for *_, c in find(shown)}
    return f"the source gives {shown!r}" if missing else ""


def faults_of_readme(text: str, entries: list[dict]) -> list[str]:
    faults = [f"{e['quote']!r} is not in README" for e in entries if not phrase(e["quote"]).search(text)]
    rest = without(text, [e["quote"] for e in entries])
    return faults + [f"{text[begin:end]} has no entry" for begin, end, _ in claims(rest)]


def test_numbers_of_readme_have_a_key():
    faults = faults_of_readme(README, ENTRIES) + [f"{e['quote']!r}: {f}" for e in ENTRIES if (f := fault_of(e))]
    assert not faults, "\n".join(faults)


def test_a_changed_number_of_readme_is_noticed(capsys):
    faults = faults_of_readme(README, ENTRIES)
    noticed = [faults_of_readme(mutant, ENTRIES) != faults for mutant in mutants(README)]
    assert most_are_noticed("README", noticed, capsys)


# ---- the rule itself ----------------------------------------------------------------------------

CASES = read_yaml(Path(__file__).with_name("claims_cases.yml"))


def small_page(tags: tuple = ()) -> Page:
    """The page of CASES; its first cell may have tags."""
    cells = [v4.new_code_cell(c["code"]) if "code" in c else v4.new_markdown_cell(c["prose"]) for c in CASES["page"]]
    for cell, given in zip(cells, CASES["page"], strict=True):
        if "prints" in given:
            cell.outputs = [v4.new_output("stream", text=given["prints"])]
    cells[0].metadata["tags"] = list(tags)
    solutions = v4.new_notebook(cells=[v4.new_code_cell("images = 33")])
    return Page(v4.new_notebook(cells=cells), CASES["quotes"], solutions=solutions)


@pytest.mark.parametrize(("text", "faults"), CASES["texts"])
def test_unsupported_numbers_are_named(text, faults):
    assert small_page().faults(1, text) == faults


@pytest.mark.parametrize("row", NO_CLAIMS, ids=lambda row: row["what"])
def test_numbers_that_claim_nothing_need_no_source(row):
    assert find(row["example"]) and not claims(row["example"])


def test_timings_are_no_source():
    assert small_page(tags=["nbval-ignore-output"]).faults(1, "98.5 %, rate=0.005") == ["98.5 %"]


def test_the_end_of_a_page_repeats_its_body():
    end = CASES["page"][-1]["prose"]
    assert small_page().faults(5, end) == []
    assert small_page().faults(5, end.replace("7", "5").replace("33", "34")) == ["5", "34"]


@pytest.mark.parametrize(("entry", "is_right"), CASES["entries"])
def test_entries_for_readme(tmp_path, entry, is_right):
    (tmp_path / "runs.json").write_text(json.dumps(CASES["record"]))
    fault = fault_of({"quote": "reaches 91.3 % of them", "file": tmp_path / "runs.json", **entry})
    assert (fault == "") is is_right


def test_numbers_of_a_readme_need_an_entry():
    entries = [{"quote": "reaches 91.3 % of"}]
    assert faults_of_readme("It\nreaches\n91.3 % of them, with VGG16.", entries) == []
    assert len(faults_of_readme("It reaches 91.4 % of them.", entries)) == 2
