# make demo   sets up .venv, then trains, evaluates and draws on drawn scenes (minutes, two CPU cores)
# make test   sets up .venv, then runs the linter and the tests
# make sanitize   on a machine with an NVIDIA GPU: the kernels' tests there, and under compute-sanitizer
# make PYTHON=python3.12 demo   with another Python (3.10 to 3.13)

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet

.PHONY: demo test sanitize clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(VENV)/bin/python -m minimask demo

test: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest --numprocesses auto --dist loadgroup

sanitize: $(VENV)/installed-test
	@echo "installing CuPy and compute-sanitizer in $(VENV) ..."
	$(PIP) --editable '.[gpu]' nvidia-cuda-sanitizer-api-cu12
	$(VENV)/bin/python -m pytest tests/cuda_on_cpu
	$(VENV)/bin/python -m tests.cuda_on_cpu.sanitize

# The stamps are younger than pyproject.toml as long as what is installed is what it asks for.
$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing minimask and its requirements in $(VENV) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	@echo "installing minimask, its requirements and the test tools in $(VENV) ..."
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "minimask needs Python 3.10 to 3.13; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV)
