"""The parameter contract: profiles fit their notebooks, and nothing wrong is ever run."""

from pathlib import Path
from typing import get_origin

import nbformat
import pytest
from nbformat import v4

from helpers import batch

PROFILES = sorted((batch.NOTEBOOKS / "profiles" / "full").glob("*.yaml"))
NOTEBOOKS = sorted(batch.NOTEBOOKS.glob("[0-9]*.ipynb"))

PARAMETERS = """EPOCHS: int = 2  # passes over the training data
RATE: float = 0.1  # learning rate
AUGMENT: bool = False  # whether to shift the images
IMAGE: str = ""  # a picture of your own
SEEDS: list[int] = [0]  # one run for each
NAMES: list[str] = ["a"]  # labels"""
CHECK = """if not 1 <= EPOCHS <= 100:
    raise ValueError(f"EPOCHS = {EPOCHS}: 1 to 100 passes")
if not 0 < RATE < 1:
    raise ValueError(f"RATE = {RATE}: between 0 and 1")"""


def write_notebook(path: Path, parameters: str = PARAMETERS, check: str = CHECK, body: str = "print(EPOCHS)") -> Path:
    cells = [
        v4.new_markdown_cell(f"# {path.stem[:2]} · A notebook\n\nIts *first* paragraph."),
        v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(check, metadata={"tags": ["check"]}),
        v4.new_code_cell(body),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two notebooks in the place of the series; the second takes other parameters."""
    write_notebook(tmp_path / "01_one.ipynb")
    write_notebook(tmp_path / "02_two.ipynb", "SIZE: int = 32  # pixels\nEPOCHS: int = 1  # passes", "", "print(SIZE)")
    monkeypatch.setattr(batch, "NOTEBOOKS", tmp_path)
    return tmp_path


def values(folder, *given, names=("01",)):
    return batch.plan(batch.find_notebooks(list(names)), list(given))[0].parameters


# ---- the notebooks of the series ----------------------------------------------------------------


def test_every_notebook_has_a_full_profile():
    assert [p.stem for p in PROFILES] == [p.stem for p in NOTEBOOKS]


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_profile_fits_its_notebook(path):
    """Every key exists with the right type, and the check cell lets the values pass."""
    notebook = batch.NOTEBOOKS / f"{path.stem}.ipynb"
    (run,) = batch.plan([notebook], [], "full")
    defaults = batch.parameters_of(notebook)
    assert run.parameters and set(run.parameters) <= set(defaults)
    assert any(run.parameters[name] != defaults[name].default for name in run.parameters), "full is the default"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_defaults_pass_and_wrong_values_do_not(path):
    parameters = batch.parameters_of(path)
    assert parameters and batch.plan([path], [])[0].parameters == {}
    with pytest.raises(batch.BatchError, match=rf"Unknown parameter NO_SUCH\. {path.stem} takes "):
        batch.plan([path], ["NO_SUCH=1"])
    refused = 0
    for name, parameter in parameters.items():
        if parameter.type in (int, float, bool):
            with pytest.raises(batch.BatchError, match=rf"{name}=abc: not of type {parameter.type.__name__}"):
                batch.plan([path], [f"{name}=abc"])
        if parameter.type in (int, float):
            with pytest.raises(batch.BatchError, match=name):
                batch.plan([path], [f"{name}=-987654"])
            refused += 1
        if get_origin(parameter.type) is list:
            with pytest.raises(batch.BatchError, match=name):
                batch.plan([path], [f"{name}=[]"])
            refused += 1
    assert refused, "no parameter with a range"


# ---- what batch accepts and refuses -------------------------------------------------------------


def test_values_take_the_declared_type(folder):
    given = ["EPOCHS=3", "RATE=1e-2", "AUGMENT=TRUE", "IMAGE=7", "SEEDS=1,2", "NAMES=['x, y', 'z']"]
    assert values(folder, *given) == {
        "EPOCHS": 3,
        "RATE": 0.01,
        "AUGMENT": True,
        "IMAGE": "7",
        "SEEDS": [1, 2],
        "NAMES": ["x, y", "z"],
    }


def test_an_integer_is_a_float_too(folder):
    write_notebook(folder / "01_one.ipynb", check="")
    assert repr(values(folder, "RATE=1")["RATE"]) == "1.0"


@pytest.mark.parametrize(
    "given",
    ["EPOCHS=abc", "EPOCHS=1.5", "EPOCHS=", "EPOCHS=True", "RATE=fast", "RATE=nan", "RATE=inf", "AUGMENT=yes",
     "AUGMENT=1", "SEEDS=a", "SEEDS=[1", "SEEDS=[1, [2]]", "SEEDS=1.5"],
)  # fmt: skip
def test_wrong_types_are_refused(folder, given):
    name, _, value = given.partition("=")
    with pytest.raises(batch.BatchError) as error:
        values(folder, given)
    assert str(error.value).startswith(f"01_one: {name}={value}: not of type ")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("EPOCHS=0", "01_one: EPOCHS = 0: 1 to 100 passes"),
        ("RATE=1", "01_one: RATE = 1.0: between 0 and 1"),
        ("EPOCH=3", "Unknown parameter EPOCH. 01_one takes EPOCHS, RATE, AUGMENT, IMAGE, SEEDS, NAMES."),
        ("EPOCHS", "Parameter 'EPOCHS': write NAME=VALUE."),
        ("=3", "Parameter '=3': write NAME=VALUE."),
    ],
)
def test_wrong_values_and_names_get_a_sentence(folder, given, sentence):
    with pytest.raises(batch.BatchError) as error:
        values(folder, given)
    assert str(error.value) == sentence


def test_a_parameter_goes_to_the_notebooks_that_take_it(folder):
    one, two = batch.plan(batch.find_notebooks([]), ["EPOCHS=3", "SIZE=48"])
    assert (one.parameters, two.parameters) == ({"EPOCHS": 3}, {"EPOCHS": 3, "SIZE": 48})
    with pytest.raises(batch.BatchError, match="02_two takes SIZE, EPOCHS"):
        batch.plan(batch.find_notebooks([]), ["SEED=3"])


def test_the_names_of_files_become_absolute(folder, tmp_path, monkeypatch):
    """Notebooks run in their own folder: a file is looked for where the caller is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my cat.jpg").touch()
    assert values(folder, "IMAGE=my cat.jpg")["IMAGE"] == str(tmp_path / "my cat.jpg")
    assert values(folder, "IMAGE=no cat.jpg")["IMAGE"] == "no cat.jpg"
    for text in ("", "http://example.org/cat.jpg", "~nobody-here/cat.jpg", "x" * 5000):
        assert values(folder, f"IMAGE={text}")["IMAGE"] == text


def test_profiles_are_checked_as_strictly(folder):
    profile = folder / "profiles" / "full" / "01_one.yaml"
    profile.parent.mkdir(parents=True)
    (profile.parent / "02_two.yaml").write_text("SIZE: 64\n")

    def full(text, *given):
        profile.write_text(text)
        return batch.plan(batch.find_notebooks([]), list(given), "full")[0].parameters

    assert full("EPOCHS: 50\nRATE: 1.0e-2\n", "EPOCHS=3") == {"EPOCHS": 3, "RATE": 0.01}
    for text, sentence in [
        ("EPOCH: 3", "01_one.yaml: 01_one has no parameter EPOCH"),
        ("EPOCHS: '3'", "01_one.yaml: EPOCHS=3: not of type int"),
        ("EPOCHS: true", "01_one.yaml: EPOCHS=True: not of type int"),
        ("RATE: 1e-2", "write 1.0e-2"),
        ("EPOCHS: 1000", "EPOCHS = 1000: 1 to 100 passes"),
        ("- EPOCHS", "must be lines of NAME: value"),
        ("EPOCHS: [", "cannot be read"),
    ]:
        with pytest.raises(batch.BatchError, match=sentence):
            full(text)
    profile.unlink()
    with pytest.raises(batch.BatchError, match="01_one.yaml cannot be read"):
        batch.plan(batch.find_notebooks([]), [], "full")


def test_nothing_is_run_or_written_when_one_of_many_is_wrong(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert batch.main(["--out", str(tmp_path / "out"), "-p", "EPOCHS=0"]) == 2
    assert list((tmp_path / "out").iterdir()) == []
    assert capsys.readouterr().err == "error: 01_one: EPOCHS = 0: 1 to 100 passes\n"
