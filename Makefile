# make install | demo | test | test-all | lint | docs | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share out the files of tests.
WORKERS ?= 2

# Threads that wait must sleep: spinning ones cost an order of magnitude on a shared machine.
export OMP_WAIT_POLICY := passive

.PHONY: install demo test test-all lint docs clean

install: $(STAMP)

# torch first and pinned: left to the resolver, it would bring gigabytes of CUDA libraries with it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: install
	$(BIN)/mmtk run bundle=metamorph_brats --out demo --overwrite
	@echo "The report: $(CURDIR)/demo/report.html"

test: install
	$(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(WORKERS) --dist loadfile

test-all: install
	$(BIN)/python -m pytest -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings are errors: mkdocs.yml says strict. (With --quiet they would not even be counted.)
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "The documentation: $(CURDIR)/site/index.html"

clean:
	rm -rf build dist demo site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
