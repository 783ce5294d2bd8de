"""Prepare the environment, then run a Python command in it.

    python install.py [-m MODULE ... | SCRIPT ...]

Installs requirements.txt (every file checked against its hash) and this repository's package into
the active virtual or conda environment, or else into .venv, which it makes. Does nothing when that
was done before. Keep the syntax old: any Python, even 2.7, must be able to say that it is too old.
"""

from __future__ import print_function

import collections
import hashlib
import os
import re
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
REPOSITORY = os.path.dirname(os.path.abspath(__file__))
SUPPORTED = "Python 3.11, 3.12 or 3.13"
PROBE = "import sys, importlib.util as u; print(sys.version_info[0], sys.version_info[1], int(all(map(u.find_spec, ('venv', 'ensurepip')))))"  # noqa: E501
# What pip says, and what to do about it.
REMEDIES = (
    ("No space left|Disk quota", "The disk is full: about 4 GB are needed. Make room"),
    ("MATCH THE HASHES", "A downloaded file is not the one that requirements.txt names. Run `pip cache purge`"),
    ("Permission denied|Read-only", "The environment cannot be written. Use one that you own, or deactivate it"),
    (
        "onnection|timed out|resolve|Max retries|SSL|No matching distribution",
        "The package index cannot be reached, or lacks a package. Check the network (and proxy)",
    ),
    ("", "pip's last lines above say why. Remove the cause"),
)


def stop(sentence):
    """End with one sentence."""
    sys.exit("\n" + sentence)


def ask(python):
    """(version, has venv and ensurepip) of an interpreter, or None if it does not run."""
    try:
        with open(os.devnull, "w") as null:
            answer = subprocess.check_output([python, "-E", "-s", "-c", PROBE], stderr=null)
        major, minor, venv = answer.decode().split()
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return (int(major), int(minor)), venv == "1"


def choose_python(candidates):
    """The first of the interpreters that can make an environment for this series."""
    lacking = None
    for python in candidates:
        found = ask(python)
        if found and OLDEST <= found[0] <= NEWEST:
            if found[1]:
                return python
            lacking = lacking or found[0]
    if lacking:
        stop(
            "Python %d.%d lacks its venv module: install it (Debian and Ubuntu: `sudo apt install python%d.%d-venv`), "
            "or activate an environment of your own, then call make again." % (lacking + lacking)
        )
    age = "too old" if sys.version_info[:2] < OLDEST else "too new"
    stop(
        "Python %d.%d is %s, and no other was found: install %s, then call make again (`make PYTHON=/path/to/python "
        "...` names one that is not on the PATH)." % (sys.version_info[0], sys.version_info[1], age, SUPPORTED)
    )


def active_environment():
    """Folder of the active virtual or conda environment (conda's shared `base` does not count), or None."""
    base = getattr(sys, "real_prefix", getattr(sys, "base_prefix", sys.prefix))
    if base != sys.prefix:
        return sys.prefix
    if os.environ.get("VIRTUAL_ENV"):
        return os.environ["VIRTUAL_ENV"]
    conda = os.environ.get("CONDA_PREFIX")
    if conda and os.environ.get("CONDA_DEFAULT_ENV") != "base" and not os.path.isdir(os.path.join(conda, "condabin")):
        return conda
    return None


def python_of(environment):
    return os.path.join(environment, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def fingerprint():
    """Changes when the lock, the package's settings or the place of this repository change."""
    digest = hashlib.sha256(REPOSITORY.encode("utf-8") if sys.version_info[0] > 2 else REPOSITORY)
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(REPOSITORY, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_installed(environment):
    try:
        with open(os.path.join(environment, ".helpers-installed")) as file:
            return file.read() == fingerprint() and os.path.exists(python_of(environment))
    except (IOError, OSError):
        return False


def ensure_environment(environment, active):
    """Check the active environment, or make .venv (again, if what lies there is of no use)."""
    found = ask(python_of(environment))
    if active and not (found and OLDEST <= found[0] <= NEWEST):
        has = "Python %d.%d" % found[0] if found else "no working Python of a supported version"
        stop(
            "The active environment %s has %s: activate one with %s, or deactivate it." % (environment, has, SUPPORTED)
        )
    pip = (
        subprocess.call([python_of(environment), "-I", "-m", "pip", "--version"], stdout=subprocess.PIPE)
        if found
        else 1
    )
    if active and pip:
        stop("The active environment %s has no pip: run `python -m ensurepip`, then call make again." % environment)
    if pip or not OLDEST <= found[0] <= NEWEST:
        names = ["python3.12", "python3.13", "python3.11", "python3", "python"]
        python = choose_python([sys.executable] + names)
        print("Making the environment .venv with " + python)
        made = subprocess.call([python, "-E", "-s", "-m", "venv", "--clear", environment])
        if made:
            stop("The environment .venv could not be made (see above): is there room, and may you write here?")


def pip_install(python, arguments, total):
    """Run pip, show how far it is, and stop with its last lines and a remedy if it fails."""
    command = [python, "-I", "-m", "pip", "install", "--no-user", "--progress-bar", "off", "--no-input"]
    settings = {k: v for k, v in os.environ.items() if k not in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONHOME")}
    settings.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUNBUFFERED="1")
    pip = subprocess.Popen(
        command + arguments, cwd=REPOSITORY, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    tail, seen = collections.deque(maxlen=12), set()
    for raw in iter(pip.stdout.readline, b""):
        line = raw.decode("utf-8", "replace").rstrip()
        if not line.strip().startswith(
            ("Using cached", "Downloading", "Collecting", "Processing", "Requirement already")
        ):
            tail.append(line)
        named = re.match("(?:Collecting|Processing|Requirement already satisfied:) (?:.*/)?([^ =]+)", line)
        if named and total and named.group(1) not in seen:
            seen.add(named.group(1))
            if sys.stdout.isatty():
                print("\r  %d of about %d packages: %s" % (len(seen), total, named.group(1).ljust(40)), end="")
            elif len(seen) % 25 == 0:
                print("  %d of about %d packages" % (len(seen), total))
        elif total and line.startswith("Installing collected"):
            print("%s  downloaded and checked; unpacking takes a minute or two" % ("\r" if sys.stdout.isatty() else ""))
        sys.stdout.flush()
    if pip.wait():
        print("\n" + "\n".join(tail))
        remedy = next(text for pattern, text in REMEDIES if re.search(pattern, "\n".join(tail)))
        stop("The install failed. %s, then call make again: it goes on where it stopped." % remedy)


def install(environment, active):
    """Bring the environment to the state of the lock; the mark is written only after success."""
    try:
        import fcntl  # a second call waits for the first

        with open(os.path.join(REPOSITORY, "requirements.txt")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install_locked(environment, active)
    except ImportError:
        install_locked(environment, active)


def install_locked(environment, active):
    if is_installed(environment):
        return
    ensure_environment(environment, active)
    python = python_of(environment)
    with open(os.path.join(REPOSITORY, "requirements.txt")) as file:
        total = len(re.findall("^[^ #]+==", file.read(), re.MULTILINE))
    print("Installing requirements.txt into %s (once; some minutes, about 3 GB)" % environment)
    pip_install(python, ["--require-hashes", "--only-binary", ":all:", "-r", "requirements.txt"], total)
    pip_install(python, ["--no-deps", "--no-build-isolation", "-e", "."], 0)
    mark = os.path.join(environment, ".helpers-installed")
    with open(mark + ".new", "w") as file:
        file.write(fingerprint())
    shutil.move(mark + ".new", mark)
    print("Installed.")


def main(arguments):
    active = active_environment()
    environment = active or os.path.join(REPOSITORY, ".venv")
    try:
        if not is_installed(environment):
            install(environment, bool(active))
    except KeyboardInterrupt:
        stop("Interrupted: call make again, it goes on where it stopped.")
    except (IOError, OSError) as error:
        stop("The install failed: %s. Remove the cause, then call make again." % error)
    if arguments:
        sys.stdout.flush()
        python = python_of(environment)
        if os.name == "nt":
            sys.exit(subprocess.call([python] + arguments))
        os.execv(python, [python] + arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
