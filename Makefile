# make quickstart   the whole method on a small world, less than eight minutes on two cores after the installation
# make test         lint, types and the fast test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint clean

# One stamp for the environment: made again when what it depends on changes. torch is installed first and alone, so
# that no other package's wish for "torch" decides which build comes; TORCH_INDEX=https://download.pytorch.org/whl/cpu
# takes the small build without CUDA from PyTorch's own index.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' requirements.txt) $(addprefix --index-url ,$(TORCH_INDEX))
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
