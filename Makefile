# make nightly  install what is needed and run the main job      make test  install and pass the tests
# make site     draw examples/h200/ (real H200 numbers)          make lint  style, types, import contracts
# make install  install what is needed, and nothing else         make drawing  draw the nightly in README and docs anew

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
GPU := $(shell nvidia-smi --list-gpus 2>/dev/null | head -n 1)
comma := ,
EXTRAS := dev$(if $(GPU),$(comma)vllm)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: nightly test lint site install drawing gpu-test clean

nightly: $(INSTALLED)
	$(BIN)/kernel-nightly run $(ARGS)

test: $(INSTALLED)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: $(INSTALLED)
	$(BIN)/kernel-nightly site --from examples/h200 --out site $(ARGS)

install: $(INSTALLED)

drawing: $(INSTALLED)
	$(BIN)/python -m flows.drawing README.md docs/operations.md

gpu-test: $(INSTALLED)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu $(ARGS)

clean:
	rm -rf $(VENV) build site *.egg-info

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed; install it or give PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "installing into $(VENV): torch and its company are 2 GB and more, which takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --constraint $(CONSTRAINTS) --upgrade pip  # Python's own takes twice as long for what follows
	$(BIN)/python -m pip install -qq --no-compile --constraint $(CONSTRAINTS) --editable ".[$(EXTRAS)]"
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/transformers/models/' $(VENV)/lib || true  # on all cores, where pip uses one; some files are no Python 3
	@touch $@
