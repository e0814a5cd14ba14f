# Everything that a fresh clone needs: Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test lint docs install clean

demo: $(VENV)/.installed  ## generate clips, train, evaluate, predict, and write demo/report.html
	$(BIN)/actionfusion demo --out $(DEMO)

# A file runs in one worker, so that what its tests share is made once; more threads than cores only wait for each other.
test: $(VENV)/.installed  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.installed  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed  ## the site of docs/, into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with --quiet it would count no warning

install: $(VENV)/.installed  ## .venv with the exact versions of constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) site .mypy_cache .ruff_cache
