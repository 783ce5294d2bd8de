# Every target prepares the environment first: the active virtual or conda environment, else .venv.
# It is installed again only when the lock, pyproject.toml or the place of this folder has changed.

SHELL = /bin/sh
ENV := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)),.venv)
PY = "$(ENV)/bin/python"
STAMP := $(subst $() ,\ ,$(ENV))/.installed
CHANGED := $(shell [ -x $(PY) ] && [ "`cat "$(ENV)/.installed" 2>/dev/null`" = "$(CURDIR)" ] || echo changed)
FITS = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: help run model predict check test full bench weights html lab outputs lint clean changed
.DEFAULT_GOAL := help

help:  ## list the targets
	@echo "usage: make TARGET [NB=\"01 04\"] [PARAMS=\"EPOCHS=3\"] [ARGS=\"options of pytest\"]"
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | while IFS='	' read -r t d; do printf '  %-9s %s\n' "$$t" "$$d"; done

run: $(STAMP)  ## run the notebooks; results and pages in build/ (NB: which, PARAMS: values of their parameters)
	@$(PY) tools/run.py $(NB) -p $(PARAMS)

model: $(STAMP)  ## a model for your own images: IMAGES=folder OUT=folder (a folder of images per class in it; see PARAMS)
	@[ -n "$$OUT" ] && [ -d "$$IMAGES" ] || { echo "make model IMAGES=folder OUT=folder: IMAGES '$$IMAGES' is no folder," \
	  "or OUT is not named. IMAGES holds one folder of images per class."; exit 2; }
	@mkdir -p "$$OUT" && [ -w "$$OUT" ] || { echo "OUT '$$OUT' cannot be written: name another folder."; exit 2; }
	@$(PY) tools/run.py 05 --out "$$OUT/report" -p IMAGES="$$IMAGES" OUT="$$OUT" $(PARAMS)

predict: $(STAMP)  ## classify images: MODEL=folder of make model, IMAGES=folder; the table goes to CSV (predictions.csv)
	@[ -n "$$MODEL" ] && [ -n "$$IMAGES" ] || { echo "make predict MODEL=folder IMAGES=folder [CSV=table.csv]"; exit 2; }
	@$(PY) deploy/predict.py "$$MODEL" "$$IMAGES" "$${CSV:-predictions.csv}"

check: lint  ## what to do before every commit: style, text, and the tests that are quick
	@$(PY) -m pytest -m "not slow" tests $(ARGS)

test: $(STAMP)  ## all tests, every notebook run again and compared, with the network cut off
	@$(PY) tests/offline.py -m pytest --nbval -n 2 --dist loadscope --durations=15 $(ARGS)

full: $(STAMP)  ## the notebooks at full size, and what the recorded results lack: hours; goes on where it was interrupted
	@for f in `grep -l __main__ experiments/*.py`; do \
	  [ "$$f" = experiments/bench.py ] || ! grep -qE "($(or $(subst $() ,|,$(strip $(NB))),[0-9]))_" "$$f" && continue; \
	  set --; ! grep -q -- --mnist "$$f" || set -- --mnist "$$MNIST"; \
	  ! grep -q -- --cifar "$$f" || set -- "$$@" --cifar "$$CIFAR"; \
	  $(PY) "$$f" "$$@" || exit 1; done
	@$(PY) tools/run.py --profile full $(NB) -p $(PARAMS)

bench: $(STAMP)  ## measure speed and memory, each as a comparison within one run (MNIST: path of an mnist.npz)
	@$(PY) experiments/bench.py --mnist "$$MNIST"

weights: $(STAMP)  ## fetch ResNet50's weights (98 MB), check them, and compare its answers with published ones
	@$(PY) experiments/published_answers.py

html: $(STAMP)  ## only make the pages again, from what was run last
	@$(PY) tools/run.py --html-only

lab: $(STAMP)  ## open JupyterLab on the notebooks
	@$(PY) -m jupyterlab notebooks

outputs: $(STAMP)  ## refresh the committed outputs (NB: which)
	@$(PY) tests/refresh_outputs.py $(NB)

lint: $(STAMP)  ## check the style of code and notebooks
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

clean:  ## remove build/ and caches, not the environment
	rm -rf build .pytest_cache .ruff_cache helpers.egg-info
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print | xargs rm -rf

# uv comes from the lock by pip, and takes the package index and the certificates that pip is told to use.
$(STAMP): requirements.txt pyproject.toml $(CHANGED)
	@if ! $(PY) -c "$(FITS)" 2>/dev/null; then lacking=; \
	  [ "$(ENV)" = .venv ] || { echo "The active environment $(ENV) has no Python 3.11, 3.12 or 3.13:" \
	    "activate one that has, or none, then call make again."; exit 1; }; \
	  for p in $(PYTHON) python3 python3.12 python3.13 python3.11 python ""; do \
	    $${p:-false} -c "$(FITS)" 2>/dev/null || continue; \
	    $$p -c "import venv, ensurepip" 2>/dev/null && break || lacking=$$p; done; \
	  [ -n "$$p" ] || [ -z "$$lacking" ] || { echo "$$lacking lacks its venv module: install it" \
	    "(Debian, Ubuntu: sudo apt install python3-venv), then call make again."; exit 1; }; \
	  [ -n "$$p" ] || { echo "Python 3.11, 3.12 or 3.13 is needed, and python3 is `python3 -V 2>&1 | head -n 1`:" \
	    "install one from python.org, or name it: make PYTHON=/path/to/python ..."; exit 1; }; \
	  $$p -m venv --clear .venv || exit 1; fi
	@sed '/^uv==/,/# via/!d' requirements.txt | $(PY) -m pip install --quiet --require-hashes -r /dev/stdin
	@index=$${PIP_INDEX_URL:-`$(PY) -m pip config get global.index-url 2>/dev/null`}; \
	[ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$$index}}"; \
	[ -z "$$PIP_CERT" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$PIP_CERT}"; \
	uv() { $(PY) -m uv pip install --python $(PY) "$$@"; }; \
	uv --no-build --require-hashes -r requirements.txt && uv --no-deps --no-build-isolation --quiet -e . && echo "$(CURDIR)" >"$(ENV)/.installed"
