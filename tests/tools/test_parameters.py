"""The parameter contract: profiles fit their notebooks, and nothing wrong is ever run."""

import re
from typing import get_origin

import pytest
from bad_input import rows
from tiny import write_notebook

import run

SERIES = run.REPOSITORY / "notebooks"
NOTEBOOKS = sorted(SERIES.glob("[0-9]*.ipynb"))


@pytest.fixture
def folder(tmp_path):
    """A series of two notebooks; the second takes other parameters."""
    write_notebook(tmp_path / "01_one.ipynb")
    others = "SIZE: int = 32  # pixels\nEPOCHS: int = 1  # passes"
    write_notebook(tmp_path / "02_two.ipynb", parameters=others, check="")
    return tmp_path


def values(folder, *given, names=("01",)):
    return run.plan(run.find_notebooks(folder, list(names)), list(given))[0].parameters


# ---- the notebooks of the series ----------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_full_profile_fits_its_notebook(path):
    """Every key exists with the right type, the check cell lets the values pass, and some are not the default's."""
    (full,) = run.plan([path], [], "full")
    defaults = run.run_cell(path, "parameters", {})
    assert any(defaults[name] != value for name, value in full.parameters.items())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_defaults_pass_and_wrong_values_do_not(path):
    defaults = run.run_cell(path, "parameters", {})
    known = defaults["__annotations__"]
    assert run.plan([path], [])[0].parameters == {} and run.checked("", {name: defaults[name] for name in known}, known)
    numbers = [name for name, type_ in known.items() if type_ in (int, float)]
    wrong = [f"{name}=abc" for name in numbers] + [f"{name}=-987654" for name in numbers]
    wrong += [f"{name}=" for name, type_ in known.items() if get_origin(type_) is list]
    for text in [*wrong, "NO_SUCH=1"]:
        with pytest.raises(run.RunError, match=text.partition("=")[0]):
            run.plan([path], [text])
    assert wrong, "no parameter with a range"


@pytest.mark.parametrize(("given", "sentence"), rows("limits of parameters"))
def test_the_least_and_the_most_of_a_parameter(given, sentence):
    with pytest.raises(run.RunError, match=sentence):
        run.plan(run.find_notebooks(SERIES, [given["notebook"]]), [given["value"]])


# ---- what the runner accepts and refuses --------------------------------------------------------


def test_values_take_the_declared_type(folder):
    given = ["EPOCHS=3", "RATE=1e-2", "AUGMENT=TRUE", "IMAGE=7", "SEEDS=[1, 2]", "NAMES='x', z"]
    expected = {"EPOCHS": 3, "RATE": 0.01, "AUGMENT": True, "IMAGE": "7", "SEEDS": [1, 2], "NAMES": ["x", "z"]}
    assert values(folder, *given) == expected
    write_notebook(folder / "01_one.ipynb", check="")
    assert repr(values(folder, "RATE=1")["RATE"]) == "1.0"


@pytest.mark.parametrize(("given", "sentence"), rows("parameters"))
def test_wrong_types_values_and_names_are_refused(folder, given, sentence):
    with pytest.raises(run.RunError, match=sentence):
        values(folder, given)


def test_a_parameter_goes_to_the_notebooks_that_take_it(folder):
    one, two = run.plan(run.find_notebooks(folder, []), ["EPOCHS=3", "SIZE=48"])
    assert (one.parameters, two.parameters) == ({"EPOCHS": 3}, {"EPOCHS": 3, "SIZE": 48})


def test_the_names_of_files_become_absolute(folder, tmp_path, monkeypatch):
    """Notebooks run in their own folder: a file is looked for where the caller is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my cat.jpg").touch()
    assert values(folder, "IMAGE=my cat.jpg")["IMAGE"] == str(tmp_path / "my cat.jpg")
    for text in ("", "no cat.jpg", "http://example.org/cat.jpg", "~nobody-here/cat.jpg", "x" * 5000):
        assert values(folder, f"IMAGE={text}")["IMAGE"] == text


def full(folder, text, *given):
    """The parameters for a run with this text as the full profile."""
    profile = folder / "profiles" / "full" / "01_one.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text(text)
    return run.plan([folder / "01_one.ipynb"], list(given), "full")[0].parameters


def test_a_profile_sets_what_is_not_given(folder):
    with pytest.raises(run.RunError, match=r"01_one\.yaml cannot be read"):
        run.plan([folder / "01_one.ipynb"], [], "full")
    assert full(folder, "EPOCHS: 50\nRATE: 1.0e-2\n", "EPOCHS=3") == {"EPOCHS": 3, "RATE": 0.01}


@pytest.mark.parametrize(("text", "sentence"), rows("profiles"))
def test_profiles_are_checked_as_strictly(folder, text, sentence):
    with pytest.raises(run.RunError, match=sentence):
        full(folder, text)


def test_which_notebooks(folder):
    one, two, other = folder / "01_one.ipynb", folder / "02_two.ipynb", write_notebook(folder / "other" / "mine.ipynb")
    assert run.find_notebooks(folder, []) == [one, two]
    assert run.find_notebooks(folder, ["02", "1", "01_one", "01_one.ipynb", str(other)]) == [two, one, other]
    with pytest.raises(run.RunError, match=r"no notebook 07\. There are: 01_one, 02_two"):
        run.find_notebooks(folder, ["07"])


@pytest.mark.parametrize(("content", "sentence"), rows("notebook files"))
def test_nothing_is_run_or_written_when_one_of_many_is_wrong(folder, capsys, content, sentence):
    arguments = ["--series", str(folder), "--out", str(folder / "out")]
    assert run.main([*arguments, "-p", "EPOCHS=0"]) == 2
    (folder / "02_two.ipynb").write_text(content)
    assert run.main(arguments) == 2
    assert not (folder / "out").exists()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: 01_one: EPOCHS = 0: 1 to 100 passes"
    assert second.startswith("error: 02_two: ") and re.search(sentence, second)
