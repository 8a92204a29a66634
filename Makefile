# make demo       search a front on built-in phantoms and open nothing but a report file
# make test       everything CI holds: format, lint, types, tests
# make test-full  the long studies too
# make docs       the documentation, in site/

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-full docs format lint clean

demo: $(INSTALLED)
	$(BIN)/paretoprune demo --out demo

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-full: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "full or not full"

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ParetoPrune needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# nnU-Net's own networks, for tests. Without its needs: timm would bring a torchvision that this torch cannot load.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps dynamic-network-architectures
	touch $@ $(INSTALLED)

clean:
	rm -rf $(VENV) build demo site *.egg-info
