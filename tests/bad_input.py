"""Bad input of every kind, with the sentence that it must give: bad_input.yml, one section for each test.

A test takes a section as `@pytest.mark.parametrize(("given", "sentence"), rows("folders"))`; the kind of the input
becomes the name of the case. Sentences are regular expressions.
"""

from pathlib import Path

import pytest
import yaml

TABLE = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))


def rows(section: str) -> list:
    """The rows of a section as cases of a test: what is given, and the sentence that must follow."""
    return [pytest.param(row["given"], row["sentence"], id=row["kind"]) for row in TABLE[section]]
