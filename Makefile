# make quickstart   the whole method on a small world, five to ten minutes on two cores after the installation
# make test         lint, types and the fast test suite
# make bench        the speed benchmarks: one table, and docs/results/speed.md; TRL_PYTHON=... compares with TRL
# make claims-small the studies of the paper's claims in small, half an hour on two cores; needs the quickstart
# make docs         the documentation site, into build/site
# make cuda         compile the CUDA kernel for every architecture that nvcc knows, without installing it
PYTHON ?= python3
VENV ?= .venv
# Processes of the test suite; each test uses one thread.
WORKERS ?= 2
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow bench claims-small lint docs cuda clean

# One stamp for the environment: made again when what it depends on changes, the kernels' sources included. torch is
# installed first and alone, so that no other package's wish for "torch" decides which build comes, and so that the
# kernels find its headers; TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the small build without CUDA from
# PyTorch's own index.
$(VENV)/.installed: requirements.txt pyproject.toml setup.py $(wildcard prl/csrc/*)
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
	$(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "slow" -n $(WORKERS) --dist loadfile

bench: $(VENV)/.installed
	TRL_PYTHON=$(TRL_PYTHON) $(BIN)/python benchmarks/speed.py $(ARGS)

claims-small: $(VENV)/.installed
	$(BIN)/python -m experiments.small

# Docstrings are read, not imported, so this needs nothing of the environment but what it installs itself.
$(VENV)/.docs: requirements-docs.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

cuda: $(VENV)/.installed
	PRL_BUILD=cuda $(BIN)/python setup.py --quiet build_ext --build-lib build/cuda

clean:
	rm -rf $(VENV) build *.egg-info prl/ops/*.so prl/ops/built.json
