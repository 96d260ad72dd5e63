# make demo · make test · make test-all · make lint — each makes the virtual environment it needs on its first call.
#
#   make demo PYTHON=python3.13     another interpreter
#   make test ARGS="-k depths -x"   part of the tests

VENV ?= .venv
ARGS ?=
# the first Python of at least 3.11 on the PATH
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
# What tests compare maps with; alone, because its own requirements bring an OpenCV that overwrites ours.
PEERS = $(BIN)/python -m pip install --quiet --no-deps grad-cam ttach -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all soak lint docs doctor build constraints clean

help:
	@echo "make demo         the whole story on the data that comes with it"
	@echo "make test         the tests, in under ten minutes (ARGS='-k depths' for some)"
	@echo "make test-all     the slow ones too: every full-size architecture, the studies"
	@echo "make soak         by hand: 20,000 broken inputs, bombs, coverage-guided fuzzing, the fault matrix, a million images"
	@echo "make lint         ruff, formatting, types"
	@echo "make docs         the documentation, into build/site; makes its pictures by following its pages"
	@echo "make doctor       is this installation sound?"
	@echo "make build        wheel and source archive into dist/"
	@echo "make constraints  pin the newest versions that fit together"
	@echo "make clean        remove $(VENV) and build products"

demo: $(VENV)/.installed
	$(BIN)/gradlens demo $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

soak: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -e ".[soak]" -c constraints.txt
	$(BIN)/python benchmarks/fuzz.py --inputs 20000 --out build/fuzz.json
	$(BIN)/python benchmarks/fuzz_guided.py --seconds 30 --out build/fuzz-guided.json
	$(BIN)/python benchmarks/faults.py --out build/faults.json
	$(BIN)/python -m pytest tests/fuzz tests/test_hostile.py $(ARGS)
	$(BIN)/python benchmarks/stream.py --images 1000000 --out build/stream

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/run.py build/pages docs/depths.md docs/extending.md docs/gallery.md docs/tutorial.md --keep
	$(BIN)/mkdocs build --strict

doctor: $(VENV)/.installed
	$(BIN)/gradlens doctor

build: $(VENV)/.installed-test
	$(BIN)/python -m build

# A stamp is older than pyproject.toml or constraints.txt exactly when something has to be installed again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e . -c constraints.txt
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test]" -c constraints.txt
	$(PEERS)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	$(PEERS)
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "gradlens needs Python 3.11 or newer; none was found on the PATH" >&2; exit 1; }
	@echo "making $(VENV); the first installation downloads a few gigabytes of PyTorch"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# PIP_FIND_LINKS and UV_FIND_LINKS are dropped: a stray local torch wheel must not end up as everybody's version.
constraints: $(VENV)/.installed-dev
	env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --all-extras \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
