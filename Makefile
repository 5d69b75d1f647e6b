# Two commands do everything on a fresh machine: `make demo` and `make test`. A second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
STAMP := $(VENV)/installed

.PHONY: demo test slow evidence check format clean

demo: $(STAMP)
	$(BIN)/earwitness demo --root runs

test: $(STAMP)
	$(BIN)/python -m pytest

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Every experiment on the embedded world: hours. A stopped one goes on, what is finished is not done again.
evidence: $(STAMP)
	$(BIN)/python tools/evidence.py --root runs

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# PyTorch's CPU index spares machines without a GPU gigabytes of CUDA; where it does not answer, the configured one does.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "earwitness needs Python 3.11 to 3.13; set PYTHON="'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if [ ! -e /proc/driver/nvidia/version ] && $(BIN)/python tools/answers.py $(CPU_INDEX)/torch/; then \
		$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH) --index-url $(CPU_INDEX); \
	else \
		$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH); \
	fi
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[train]'
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $$($(BIN)/python tools/dev_requirements.py)
	@$(BIN)/python -c 'import torch; print("installed torch", torch.__version__)'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
