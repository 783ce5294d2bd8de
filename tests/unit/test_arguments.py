"""Wrong arguments of the functions of helpers: each gives a sentence that says what was wanted."""

from importlib import import_module

import numpy as np
import pytest
from bad_input import rows


@pytest.mark.parametrize(("given", "sentence"), rows("arguments"))
def test_a_wrong_argument_gives_a_sentence(given, sentence):
    """given: the function to call, and its arguments by name; {zeros: shape, dtype: ...} stands for an array."""
    module, name = given["call"].split(".")
    arguments = {key: value for key, value in given.items() if key != "call"}
    arrays = {key: np.zeros(v["zeros"], v["dtype"]) for key, v in arguments.items() if isinstance(v, dict)}
    with pytest.raises(ValueError, match=sentence):
        getattr(import_module(f"helpers.{module}"), name)(**(arguments | arrays))
