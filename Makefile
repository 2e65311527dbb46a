# make demo   sets up .venv, then trains, evaluates and draws on drawn scenes (minutes, two CPU cores)
# make test   sets up .venv, then runs the linter and the tests
# make test-oldest   some tests, with the oldest releases of the packages that pyproject.toml allows, on Python 3.10
# make sanitize   on a machine with an NVIDIA GPU: the kernels' tests there, and under compute-sanitizer
# make PYTHON=python3.12 demo   with another version (Python 3.10 to 3.14)

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check
OLDEST = $(VENV)-oldest
OLDEST_PYTHON ?= python3.10

.PHONY: demo test test-oldest sanitize clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(VENV)/bin/python -m minimask demo

test: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile

# The kernels of an old Numba go into a cache of their own.
test-oldest: $(OLDEST)/installed
	NUMBA_CACHE_DIR=$(CURDIR)/$(OLDEST)/kernels $(OLDEST)/bin/python -m pytest -k "not training_lowers" \
	  tests/test_front_door.py tests/test_draw.py tests/test_coco.py tests/test_weights.py \
	  tests/test_average_precision.py tests/test_process.py tests/test_systems_regions.py

sanitize: $(VENV)/installed-test
	@echo "installing CuPy and compute-sanitizer in $(VENV) ..."
	$(PIP) --editable '.[gpu]' nvidia-cuda-sanitizer-api-cu12
	$(VENV)/bin/python -m pytest tests/cuda_on_cpu
	$(VENV)/bin/python -m tests.cuda_on_cpu.sanitize

# The stamp files record when the packages were installed: a newer pyproject.toml installs them again.
$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing minimask and its requirements in $(VENV) (about 400 MB, once) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	@echo "installing minimask, its requirements and the test tools in $(VENV) (about 1.2 GB, once) ..."
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/installed

$(OLDEST)/installed: requirements.txt
	@echo "installing the oldest releases of what minimask and these tests need in $(OLDEST) (about 600 MB, once) ..."
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	sed '/^# Notebooks/,$$d; /^ruff\|^playwright\|^nvidia\|^mpi/d; s/>=/==/' requirements.txt > $(OLDEST)/releases.txt
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: -r $(OLDEST)/releases.txt
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || \
	  { echo "minimask needs Python 3.10 to 3.14; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(OLDEST)
