"""How the environment is made: the lock, conda's file, and the sentences of `make` where no Python fits."""

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from bad_input import rows
from packaging.requirements import Requirement

import run

PROJECT = tomllib.loads((run.REPOSITORY / "pyproject.toml").read_text())["project"]


def test_the_lock_and_conda_fit_the_project():
    lock = (run.REPOSITORY / "requirements.txt").read_text()
    for need in map(Requirement, PROJECT["dependencies"]):
        versions = re.findall(rf"^{need.name}==([^ ]+)", lock, re.MULTILINE)
        assert versions and all(map(need.specifier.contains, versions)), need
    python, *others = yaml.safe_load((run.REPOSITORY / "environment.yml").read_text())["dependencies"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.removeprefix("python="))
    assert others == ["pip", {"pip": ["-r requirements.txt"]}]


@pytest.mark.parametrize(("python", "sentence"), rows("pythons"))
def test_one_sentence_where_no_python_fits(tmp_path, python, sentence):
    for tool in ("make", "sh", "sed", "head"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "python3").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "python3").chmod(0o755)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(run.REPOSITORY / name, tmp_path)
    result = subprocess.run(["make", "run"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 2 and re.match(sentence, result.stdout) and result.stdout.count("\n") == 1
