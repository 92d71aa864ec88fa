PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE := 1

.PHONY: help ready demo test lint workflows clean

help:  ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

ready: $(READY)  ## set up the environment, and nothing else

demo: $(READY)  ## run the example suite on random-weight models; nothing is downloaded
	$(RUN)/pytest examples $(ARGS)

test: $(READY)  ## run the tests
	$(RUN)/pytest $(ARGS)

lint: $(READY)  ## style, types and layers
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

workflows: $(READY)  ## what GitHub Actions is to run, as zizmor and actionlint see it
	.ci/workflows

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .ci/node_modules

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
