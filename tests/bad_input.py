"""Bad input of every kind, with the sentence that it must give: bad_input.yml, one section for each test.

A test takes a section as `@pytest.mark.parametrize(("given", "sentence"), rows("folders"))`; the kind of the input
becomes the name of the case. Sentences are regular expressions. `damage` does to a file what a row says of it.
"""

from pathlib import Path

import pytest
import yaml

TABLE = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))


def rows(section: str) -> list:
    """The rows of a section as cases of a test: what is given, and the sentence that must follow."""
    return [pytest.param(row["given"], row["sentence"], id=row["kind"]) for row in TABLE[section]]


def damage(file: Path, given: dict) -> None:
    """Keep only the first bytes of a file, write some text at its end, or remove it; or leave it as it is."""
    file.write_bytes(file.read_bytes()[: given.get("keep")] + given.get("add", "").encode())
    if "remove" in given:
        file.unlink()
