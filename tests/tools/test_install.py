"""The installer: one clear sentence for everything that stops it, nothing twice, and no mark before success.

Environments are stood in for by folders with a small script as their Python, which answers as a real
one would and notes what pip was asked to do. The real install is what every fresh `make run` does.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = sys._base_executable  # the Python outside of any virtual environment: the tests' own is none of theirs
HIDDEN = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")
PYTHON = """#!/bin/sh
case "$*" in
  *find_spec*) echo "{version} {venv}" ;;
  *"-m pip --version"*) exit {pip} ;;
  *"-m pip install"*) echo "$*" >> "{calls}"; printf '%b\\n' '{output}'; sleep {sleep}; exit {rc} ;;
  *"-m venv"*) exit 1 ;;
  *) echo "ran: $*" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A copy of what the installer needs, in a folder with a space in its name."""
    folder = tmp_path / "my clone"
    (folder / "helpers").mkdir(parents=True)
    for name in ("requirements.txt", "pyproject.toml", "Makefile", "install.py"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def fake_python(path: Path, version="3 12", venv=1, pip=0, rc=0, output="Collecting numpy==2.4.6", sleep=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    calls = path.parent / "pip-calls"
    path.write_text(PYTHON.format(version=version, venv=venv, pip=pip, rc=rc, output=output, sleep=sleep, calls=calls))
    path.chmod(0o755)
    return path


def environment(clone, **answers) -> Path:
    """A fake environment."""
    folder = clone.parent / "environment"
    fake_python(folder / "bin" / "python", **answers)
    return folder


def start(clone, *arguments, **variables) -> subprocess.Popen:
    """Start the installer outside of any environment but the one named in `variables`."""
    prefixes = [BASE, "-c", "import sys; print(sys.prefix == sys.base_prefix)"]
    assert subprocess.run(prefixes, capture_output=True, text=True).stdout == "True\n" and set(variables) & set(HIDDEN)
    settings = {k: v for k, v in os.environ.items() if k not in HIDDEN} | {k: str(v) for k, v in variables.items()}
    command = [BASE, "-E", "-s", clone / "install.py", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=settings, cwd=clone.parent, start_new_session=True, **pipes)


def install(clone, *arguments, **variables) -> subprocess.CompletedProcess:
    """Run the installer to its end."""
    process = start(clone, *arguments, **variables)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def pip_calls(folder: Path) -> list[str]:
    file = folder / "bin" / "pip-calls"
    return file.read_text().splitlines() if file.exists() else []


def test_installs_once_then_runs_the_command(clone):
    folder = environment(clone)
    first = install(clone, "-m", "helpers.batch", "--html-only", VIRTUAL_ENV=folder)
    assert first.returncode == 0 and first.stdout.splitlines()[-1] == "ran: -m helpers.batch --html-only"
    locked, own = pip_calls(folder)
    assert "--require-hashes --only-binary :all: -r requirements.txt" in locked
    assert "--no-deps --no-build-isolation -e ." in own
    begun = time.monotonic()
    second = install(clone, "-m", "helpers.batch", VIRTUAL_ENV=folder)
    assert second.stdout == "ran: -m helpers.batch\n" and len(pip_calls(folder)) == 2
    assert time.monotonic() - begun < 1  # measured: below 0.1 s


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_a_changed_lock_is_installed(clone, name):
    folder = environment(clone)
    install(clone, VIRTUAL_ENV=folder)
    with open(clone / name, "a") as file:
        file.write("\n# changed\n")
    assert install(clone, VIRTUAL_ENV=folder).returncode == 0 and len(pip_calls(folder)) == 4


def test_another_clone_takes_the_environment_over(clone):
    """The package is installed from this folder: a mark made by another one does not count."""
    folder = environment(clone)
    install(clone, VIRTUAL_ENV=folder)
    other = clone.rename(clone.parent / "other clone")
    assert install(other, VIRTUAL_ENV=folder).returncode == 0 and len(pip_calls(folder)) == 4


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\\n numpy", "pip cache purge"),
        ("WARNING: Retrying after connection broken by NewConnectionError\\nERROR: No matching distribution found",
         "Check the network"),
        ("ERROR: Could not install packages due to OSError: [Errno 13] Permission denied: x", "cannot be written"),
        ("ERROR: something new", "pip's last lines above say why"),
    ],
)  # fmt: skip
def test_a_failed_install_shows_pips_lines_and_a_remedy(clone, output, sentence):
    folder = environment(clone, rc=1, output=output)
    for _ in range(2):  # and is tried again next time
        result = install(clone, "-m", "helpers.batch", VIRTUAL_ENV=folder)
        assert result.returncode == 1 and "ran:" not in result.stdout
        assert output.split("\\n")[-1].strip() in result.stdout
        last = result.stderr.strip()
        assert last.startswith("The install failed. ") and sentence in last and "\n" not in last
        assert last.endswith("then call make again: it goes on where it stopped.")
    assert len(pip_calls(folder)) == 2


def test_an_interrupted_install_is_taken_up_again(clone):
    """Killed in the middle of pip: there is no mark, and the next call installs."""
    folder = environment(clone, sleep=30)
    process = start(clone, VIRTUAL_ENV=folder)
    deadline = time.monotonic() + 30
    while not pip_calls(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.communicate()
    assert not (folder / ".helpers-installed").exists()
    fake_python(folder / "bin" / "python")
    assert install(clone, VIRTUAL_ENV=folder).returncode == 0 and len(pip_calls(folder)) == 3


def test_two_calls_at_once_install_once(clone):
    folder = environment(clone, sleep=1)
    both = [start(clone, "-m", "x", VIRTUAL_ENV=folder) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and len(pip_calls(folder)) == 2
    assert all(output.endswith("ran: -m x\n") for output in outputs)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"version": "3 9"}, "has Python 3.9: activate one with Python 3.11, 3.12 or 3.13, or deactivate it."),
        ({"version": "3 14"}, "has Python 3.14: activate one with"),
        ({"version": ""}, "has no working Python of a supported version: activate one with"),
        ({"pip": 1}, "has no pip: run `python -m ensurepip`, then call make again."),
    ],
)
def test_an_unsuitable_active_environment_gets_a_sentence(clone, answers, sentence):
    folder = environment(clone, **answers)
    result = install(clone, VIRTUAL_ENV=folder)
    assert result.returncode == 1 and pip_calls(folder) == []
    assert result.stderr.strip().startswith(f"The active environment {folder} ") and sentence in result.stderr


def test_conda_environments_count_but_base_does_not(clone):
    folder = environment(clone)
    assert install(clone, CONDA_PREFIX=folder, CONDA_DEFAULT_ENV="lessons").returncode == 0
    assert len(pip_calls(folder)) == 2
    for settings in ({"CONDA_DEFAULT_ENV": "base"}, {"CONDA_DEFAULT_ENV": str(folder)}):
        (folder / "condabin").mkdir(exist_ok=True)
        script = f"import sys; sys.path.insert(0, {str(clone)!r}); import install; "
        script += "print(install.active_environment())"
        asked = subprocess.run([BASE, "-c", script], text=True,
                               env={"PATH": os.environ["PATH"], "CONDA_PREFIX": str(folder)} | settings,
                               capture_output=True)  # fmt: skip
        assert asked.stdout == "None\n"


@pytest.fixture
def module(clone, monkeypatch):
    """install.py as a module."""
    monkeypatch.syspath_prepend(clone / "helpers")
    sys.modules.pop("install", None)
    import install

    yield install
    sys.modules.pop("install")


def test_a_suitable_interpreter_is_looked_for(module, tmp_path):
    """Missing ones, and ones that cannot run (as pyenv's shims do), are passed over."""
    broken = fake_python(tmp_path / "shim" / "python3.13")
    broken.write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    old, new = fake_python(tmp_path / "a" / "old", "3 8"), fake_python(tmp_path / "b" / "new", "3 14")
    right = fake_python(tmp_path / "c" / "right", "3 13")
    assert module.choose_python(["no-such-python", str(broken), str(old), str(new), str(right)]) == str(right)


def test_a_missing_venv_module_gets_a_sentence(module, tmp_path):
    python = fake_python(tmp_path / "a" / "python", "3 11", venv=0)
    with pytest.raises(SystemExit) as error:
        module.choose_python([str(python)])
    assert "Python 3.11 lacks its venv module" in str(error.value)
    assert "sudo apt install python3.11-venv" in str(error.value)


@pytest.mark.parametrize(("version", "age"), [((2, 7), "2.7 is too old"), ((3, 10), "3.10 is too old"),
                                              ((3, 14), "3.14 is too new")])  # fmt: skip
def test_no_suitable_interpreter_gets_a_sentence(module, monkeypatch, version, age):
    monkeypatch.setattr(module.sys, "version_info", (*version, 0))
    with pytest.raises(SystemExit) as error:
        module.choose_python(["no-such-python"])
    assert f"Python {age}" in str(error.value) and "install Python 3.11, 3.12 or 3.13" in str(error.value)


def test_the_environment_that_cannot_be_made(module, monkeypatch, tmp_path):
    """A full disk or a read-only folder: venv itself fails."""
    python = fake_python(tmp_path / "a" / "python")
    monkeypatch.setattr(module, "choose_python", lambda _: str(python))
    with pytest.raises(SystemExit, match="could not be made .see above.: is there room, and may you write here"):
        module.ensure_environment(str(tmp_path / ".venv"), active=False)


def old_interpreters() -> list[Path]:
    versions = Path.home() / ".pyenv" / "versions"
    found = [p for v in ("2.7", "3.6", "3.8", "3.10") for p in sorted(versions.glob(f"{v}.*/bin/python"))]
    return found + [Path(p) for name in ("python2.7", "python2") if (p := shutil.which(name))]


def test_the_syntax_is_old():
    """No f-string, annotation, walrus or keyword-only marker may keep an old Python from giving its sentence."""
    import ast

    tree = ast.parse((REPOSITORY / "install.py").read_text(), feature_version=(3, 4))
    modern = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.Starred)
    for node in ast.walk(tree):
        starred_call = isinstance(node, ast.Starred) and isinstance(node.ctx, ast.Load)  # f(*x) is old
        assert not isinstance(node, modern) or starred_call, f"line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            assert not node.args.kwonlyargs and not node.returns and not any(a.annotation for a in node.args.args)


@pytest.mark.skipif(not old_interpreters(), reason="no old Python on this machine")
def test_old_interpreters_say_that_they_are_too_old(clone):
    for python in old_interpreters():
        code = "import sys; sys.path.insert(0, '.'); sys.dont_write_bytecode = True; import install; "
        code += "install.choose_python([sys.executable])"
        result = subprocess.run([python, "-E", "-s", "-c", code], cwd=clone, capture_output=True, text=True)
        if result.returncode == 127 or "not found" in result.stderr:  # a shim without its interpreter
            continue
        assert "is too old" in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_make_without_any_python(clone):
    """A sentence, not `python3: not found`."""
    tools = clone.parent / "tools"
    tools.mkdir()
    for name in ("make", "sh", "sed", "printf"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    environment = {"PATH": str(tools)}
    result = subprocess.run([tools / "make", "run"], cwd=clone, env=environment, capture_output=True, text=True)
    assert result.returncode != 0 and "No Python was found" in result.stderr


def test_make_help_names_every_target(clone):
    result = subprocess.run(["make"], cwd=clone, capture_output=True, text=True)
    targets = next(line for line in (clone / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    for target in targets.split()[1:]:
        assert any(line.split()[:1] == [target] and len(line.split()) > 2 for line in result.stdout.splitlines()), (
            target
        )


def test_make_full_passes_on_where_the_data_are(clone):
    """Recorded programs get the MNIST file, that of notebook 03 also the CIFAR-10 folder; the notebook runs last."""
    (clone / "notebooks" / "recorded").mkdir(parents=True)
    for name in ("03_matrix.py", "04_full_mnist.py", "04_one_change.py"):
        (clone / "notebooks" / "recorded" / name).touch()
    settings = {k: v for k, v in os.environ.items() if k not in HIDDEN} | {"VIRTUAL_ENV": str(environment(clone))}
    for number, programs in (("03", ["03_matrix"]), ("04", ["04_full_mnist", "04_one_change"]), ("01", [])):
        given = [f"NB={number}", "MNIST=/my  data/mnist.npz", "CIFAR=/my  data/cifar"]
        result = subprocess.run(["make", "full", *given], cwd=clone, env=settings, capture_output=True, text=True)
        ran = [line for line in result.stdout.splitlines() if line.startswith("ran: ")]
        expected = [f"ran: notebooks/recorded/{program}.py --mnist /my  data/mnist.npz" for program in programs]
        if number == "03":
            expected[0] += " --cifar /my  data/cifar"
        expected.append(f"ran: -m helpers.batch --profile full --notebooks {number} --params ")
        assert (result.returncode, ran) == (0, expected), result.stderr
