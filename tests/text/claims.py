"""Numbers in prose, and where they may come from.

A claim is a number with its form: what it counts in (%, million, ...), or the pair that it belongs to
("18 of 20", "3×3", "3.0 ± 2.1"). A claim is supported if a text output of the same notebook prints it, or a
number of its code says it, in the same form: digit for digit, decimals and per cent sign included. Only "33.6
million" may be the rounding of a printed count. Long numbers are looked for in the whole notebook; integers below 100
and decimals with one digit (0.05), which stand in any table by chance, only in the parameters and in the code
cells right before and after the paragraph. Before the first code cell and after "What you can now say", where no code
stands, they must be repeated from the body with a neighbouring word ("48 pixels"); exercises may use
those of their solutions. facts.yml supports whole phrases, each with its source.
"""

import io
import re
import tokenize
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import yaml

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
PATTERN = re.compile(
    rf"(?<![\w.,]){NUMBER}(?: ?[×x] ?{NUMBER})+(?!\d)"
    rf"|(?<![\w.]){NUMBER}(?:(?: ?/ ?| (?:out )?of (?:the |all |its )?| ?(?:±|\+/?-) ?){NUMBER})?(?!\d|\.\d)"
)
UNIT = re.compile(r"[ \u00a0\u202f]?(%|percent\b|points?\b|thousand\b|million\b|billion\b|[MGk]\b)")
UNIT_NAMES = {"percent": "%", "point": "points"}
JOINT = re.compile(r",? (?:to|and|or|against) |, |[–-]")  # "96 to 97 %": the unit belongs to both
SCALE = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "M": 1e6, "k": 1e3, "G": 1e9}

NO_CLAIMS = yaml.safe_load(Path(__file__).with_name("no_claims.yml").read_text(encoding="utf-8"))
EXEMPT = re.compile("|".join(row["pattern"] for row in NO_CLAIMS), re.MULTILINE)


class Claim(NamedTuple):
    kind: str  # "" a number, "×" a shape, "/" a ratio, "±"
    numbers: tuple[str, ...]  # as written, without thousands separators
    unit: str

    @property
    def short(self) -> bool:
        """Whether it stands in any table by chance: an integer below 100, or a single digit after zeros (0.05)."""
        return not self.kind and len(self.numbers[0].lstrip("0.")) < (3 if self.numbers[0].isdigit() else 2)


def find(text: str) -> list[tuple[int, int, Claim]]:
    """The numbers of a text: begin, end, claim."""
    found = []
    for match in PATTERN.finditer(text):
        numbers = tuple(n.replace(",", "") for n in re.findall(NUMBER, match[0]))
        mark = re.search("[×x±+]|$", match[0])[0]
        kind = {"x": "×", "+": "±"}.get(mark, mark or "/") if len(numbers) > 1 else ""
        unit = (UNIT.match(text, match.end()) or {1: ""})[1]
        found.append((match.start(), match.end(), Claim(kind, numbers, UNIT_NAMES.get(unit, unit))))
    for i in range(len(found) - 2, -1, -1):
        (begin, end, claim), (after, _, next_) = found[i : i + 2]
        if not claim.unit and next_.unit in {"%", "points", *SCALE} and JOINT.fullmatch(text[end:after]):
            found[i] = (begin, end, claim._replace(unit=next_.unit))
    return found


def claims(markdown: str) -> list[tuple[int, int, Claim]]:
    """The numbers of a text that need a source."""
    return find(EXEMPT.sub(lambda match: " " * len(match[0]), markdown))


def tuples(text: str) -> set[Claim]:
    """The shapes within "(500, 224, 224, 3)"."""
    runs = [re.split(r", ?", run) for run in re.findall(r"(?<!axis=)\((\d+(?:, ?\d+)+),?\)", text)]
    return {Claim("×", tuple(r[i : i + n]), "") for r in runs for n in (2, 3) for i in range(len(r) - n + 1)}


def printed(text: str) -> set[Claim]:
    """What a printed text supports; a % in its first line, the header of a table, is meant for all of it."""
    plain = re.sub(r"(?<=\d),(?=\d{1,2}\b|\d{4})", ", ", text)
    found = {claim._replace(unit=claim.unit.replace("points", "")) for _, _, claim in find(plain)}
    if "%" in plain.lstrip("\n").partition("\n")[0]:
        found |= {claim._replace(unit="%") for claim in found if not claim.unit}
    return found | {Claim("", (n,), c.unit) for c in found if c.kind for n in c.numbers} | tuples(plain)


def written(code: str) -> set[Claim]:
    """What the numbers in a piece of code support; 0.95 also supports 95 %."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    numbers = {t.string.replace("_", "") for t in tokens if t.type == tokenize.NUMBER}
    found = {Claim("", (n,), "") for n in numbers}
    found |= {Claim("", (f"{float(n) * 100:g}",), "%") for n in numbers if re.fullmatch(r"0?\.\d+", n)}
    return found | {Claim("/", pair, "") for pair in re.findall(r"(\d+) / (\d+)", code)} | tuples(code)


def cell_claims(cell) -> set[Claim]:
    """What a code cell and its text outputs support; timings (nbval-ignore-output) support nothing."""
    found = written(cell.source)
    if "nbval-ignore-output" not in cell.metadata.get("tags", []):
        for output in cell.outputs:
            data = output.get("data", {})
            found |= printed(output.get("text", "") or data.get("text/plain", "") + data.get("text/markdown", ""))
    return found


def all_claims(notebook) -> set[Claim]:
    """What all code cells of a notebook support; nothing where there is none."""
    return set().union(*(cell_claims(c) for c in notebook.cells if c.cell_type == "code")) if notebook else set()


def phrase(quote: str) -> re.Pattern:
    """A phrase as it stands in a text, whatever its line breaks; its numbers are whole."""
    return re.compile(r"(?<![\d.,])" + r"\s+".join(map(re.escape, quote.split())) + r"(?!\d|[.,]\d)")


def without(markdown: str, quotes: list[str]) -> str:
    """The text with the phrases blanked that facts.yml supports."""
    for quote in quotes:
        markdown = phrase(quote).sub(lambda match: re.sub(r"\d", " ", match[0]), markdown)
    return markdown


class Page:
    """A notebook with its facts and, for solutions, its lesson (or, for a lesson, its solutions)."""

    def __init__(self, notebook, quotes: list[str] = (), lesson=None, solutions=None):
        self.quotes, self.of_solutions = list(quotes), all_claims(solutions)
        self.prose = {i: c.source for i, c in enumerate(notebook.cells) if c.cell_type == "markdown"}
        self.supports = {i: cell_claims(c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"}
        self.whole = all_claims(notebook) | all_claims(lesson)
        tagged = [i for i in self.supports if "parameters" in notebook.cells[i].metadata.get("tags", [])]
        self.parameters = set().union(*(self.supports[i] for i in tagged))
        self.first = 0 if lesson else min(self.supports, default=0)
        said = [i for i, text in self.prose.items() if "# What you can now say" in text]
        self.last = min(said, default=len(notebook.cells))

    def near(self, at: int) -> set[Claim]:
        """What the parameters and the code right before and after a paragraph support."""
        found = set(self.parameters)
        for step in (-1, 1):
            i = at + step
            while i in self.prose:
                i += step
            while i in self.supports:
                found |= self.supports[i]
                i += step
        return found

    @cached_property
    def repeated(self) -> set[tuple[Claim, str]]:
        """The numbers of the body, each with the words beside it."""
        body = [text for i, text in self.prose.items() if self.first <= i < self.last]
        return set().union(*(beside(text, *found) for text in body for found in claims(text)))

    def faults(self, at: int, markdown: str) -> list[str]:
        """The unsupported numbers of a text that stands in place of the prose of cell `at`."""
        text = without(markdown, self.quotes)
        body = self.first <= at < self.last
        near = self.near(at) if body else self.parameters
        exercises = text.find("## Exercises") if at >= self.last else -1
        ending = text.find("## Where to go next", exercises)
        found = []
        for begin, end, claim in claims(text):
            local = near | self.of_solutions if 0 <= exercises < begin < ending else near
            if supported(claim, local, self.whole):
                continue
            if body or not beside(text, begin, end, claim) & self.repeated:
                found.append(" ".join(text[begin:end].split()) + f" {claim.unit}".rstrip())
        return found


def beside(text: str, begin: int, end: int, claim: Claim) -> set[tuple[Claim, str]]:
    """A claim with the word before it and with the word after it."""
    before, after = re.search(r"(\w{3,})\W*$", text[:begin]), re.match(r"\W*(\w{3,})", text[end:])
    return {(claim, found[1].lower()) for found in (before, after) if found}


def supported(claim: Claim, near: set[Claim], whole: set[Claim]) -> bool:
    kind, numbers, unit = claim
    if unit == "points":  # percentage points
        return any(supported(claim._replace(unit=u), near, whole) for u in ("", "%"))
    if claim in near or (claim in whole and not claim.short):
        return True
    if kind == "×" and len(set(numbers)) == 1:  # 3×3: one number of the code says it
        return supported(Claim("", numbers[:1], unit), near, whole)
    if unit in SCALE and not kind:
        decimals = len(numbers[0].partition(".")[2])
        counts = [float(c.numbers[0]) / SCALE[unit] for c in whole if not c.kind and not c.unit]
        return any(f"{count:.{decimals}f}" == numbers[0] for count in counts if count > 0.1)
    return False


def mutants(markdown: str) -> list[str]:
    """The text, each time with one claim's number changed by one in its last digit."""
    changed = []
    for begin, end, _ in claims(markdown):
        for number in re.finditer(NUMBER, markdown[begin:end]):
            at = begin + number.end() - 1
            digit = int(markdown[at])
            changed.append(markdown[:at] + str(digit + 1 if digit < 9 else 8) + markdown[at + 1 :])
    return changed
