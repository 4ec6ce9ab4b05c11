# make quickstart   the whole method on a small world, about six minutes on two cores after the installation
# make test         lint, types and the fast test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint clean

# One stamp for the environment: made again when what it depends on changes. torch is installed first and alone, so
# that no other package's wish for "torch" brings a build with gigabytes of CUDA libraries to a machine without a GPU.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

quickstart: $(VENV)/.installed
	$(BIN)/prl quickstart $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy prl lightning_modules datamodules

test: lint
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "slow"

clean:
	rm -rf $(VENV) build *.egg-info
