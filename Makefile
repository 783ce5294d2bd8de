# Every target prepares the environment first (install.py): the active virtual or conda
# environment, else .venv. Nothing is installed twice.

SHELL = /bin/sh
PYTHON := $(shell for p in python3 python python3.12 python3.13 python3.11; do \
	$$p -E -S -c "" >/dev/null 2>&1 && echo $$p && break; done)
ENV = $(if $(PYTHON),$(PYTHON) -E -s install.py,$(error No Python was found: \
	install Python 3.11, 3.12 or 3.13 from python.org, then call make again))

.PHONY: help run full bench weights html test outputs lint lab clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@echo "usage: make TARGET [NB=\"01 04\"] [PARAMS=\"EPOCHS=3\"]"
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | while IFS='	' read -r t d; do printf '  %-9s %s\n' "$$t" "$$d"; done

run:  ## run the notebooks; results and pages in build/ (NB: which, PARAMS: values of their parameters)
	@$(ENV) -m helpers.batch --notebooks "$$NB" --params "$$PARAMS"

full:  ## the same at full size, and what the recorded results lack: hours; goes on where it was interrupted
	@for nb in $(or $(NB),03 04); do for f in notebooks/recorded/$$nb*.py; do \
	  [ -f "$$f" ] || continue; set -- --mnist "$$MNIST"; \
	  case "$$f" in */03_*) set -- "$$@" --cifar "$$CIFAR";; esac; \
	  $(ENV) "$$f" "$$@" || exit 1; done; done
	@$(ENV) -m helpers.batch --profile full --notebooks "$$NB" --params "$$PARAMS"

bench:  ## measure speed and memory, each as a comparison within one run (MNIST: path of an mnist.npz)
	@$(ENV) notebooks/recorded/bench.py --mnist "$$MNIST"

weights:  ## fetch ResNet50's weights (98 MB), check them, and compare its answers with published ones
	@$(ENV) -m helpers.models

html:  ## only make the pages again, from what was run last
	@$(ENV) -m helpers.batch --html-only

test:  ## all tests, with the network cut off
	@$(ENV) tests/offline.py -m pytest --nbval

lint:  ## check the style of code and notebooks
	@$(ENV) -m ruff check .
	@$(ENV) -m ruff format --check .

outputs:  ## refresh the committed outputs (NB: which)
	@$(ENV) tests/refresh_outputs.py $(NB)

lab:  ## open JupyterLab on the notebooks
	@$(ENV) -m jupyterlab notebooks

clean:  ## remove build/ and caches, not the environment
	rm -rf build .pytest_cache .ruff_cache helpers.egg-info
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print | xargs rm -rf
