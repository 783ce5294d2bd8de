"""`make weights`: ResNet50's file is told from another one by published answers."""

import os
from importlib import import_module
from pathlib import Path

import pytest
import random_resnet50

from helpers import weights

OFFICIAL = Path(os.environ.get("RESNET50_WEIGHTS", weights.keras_cache("models", weights._RESNET50)))


@pytest.mark.slow
def test_random_weights_are_not_the_published_network(tmp_path, monkeypatch, capsys):
    """Random weights under the official name and a declared digest: a whole file, but not ResNet50's answers."""
    program = import_module("published_answers")
    monkeypatch.setattr("sys.argv", ["published_answers.py"])
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    file = weights.keras_cache("models", weights._RESNET50)
    file.parent.mkdir()
    monkeypatch.setattr(weights, "_RESNET50_DIGEST", random_resnet50.write(file)[1])
    with pytest.raises(SystemExit, match="more than 1 point"):
        program.main()
    assert "china   palace     published 54.69 %, here " in capsys.readouterr().out
    published = program.PAGE.PUBLISHED
    rows = [(image, name, p, p + 0.5) for image in published for name, p in published[image].items()]
    monkeypatch.setattr(program.PAGE, "beside_published", lambda classify: rows)
    program.main()
    assert "largest difference from the published answers: 0.50" in capsys.readouterr().out


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="ResNet50's official weights are not on this machine")
def test_resnet50_gives_the_published_answers(monkeypatch):
    monkeypatch.setattr("sys.argv", ["published_answers.py"])
    import_module("published_answers").main()
