# Everything a newcomer needs. A fresh machine has Python >= 3.11, pip and a C compiler; nothing else is assumed.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 3  # many tests wait for processes
unexport PYTHONDONTWRITEBYTECODE  # a hundred processes would compile all of it anew
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check docs format slow clean

demo: $(INSTALLED)  ## the best of the small networks in two minutes, random search beside it, and what it sees
	$(BIN)/nastool search --strategy bo --data shapes --limit 'params<=45k' --time 4m --workers 2 --with-baseline --out runs/demo
	$(BIN)/nastool show runs/demo --text
	$(BIN)/nastool predict runs/demo --examples 5 --text
	$(BIN)/python runs/demo/model.py runs/demo/examples/*/0.png

test: $(INSTALLED)  ## all tests but the slow ones; those of the GPU path on fake devices
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal
	# the longest test first, so that nobody waits for it alone
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m gpu --fake-cuda 2 tests/system/test_gpu_kit.py \
		$$(grep -rl 'mark\.gpu' tests --include='*.py')

slow: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --slow

check: $(INSTALLED)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## docs/cli.md from --help, docs/plugins.md from `nastool list`
	$(BIN)/python -m tests.helpers.docs

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The entry points and dependencies stand in setup.cfg, so a change there installs again.
$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nastool needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
