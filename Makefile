# Two commands need no preparation: `make demo` and `make test`. Both install what they need the
# first time (Debian packages as root, Python packages into .venv) and are quick the second time.

# The system's own Python where there is one: after the drop to an unprivileged user, Softnet has to be
# able to read its interpreter, which a version manager may keep in root's home.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -name '*.py' -o -name '*.pxd' -o -name '*.pyx') pyproject.toml setup.py

.PHONY: demo test test-fast lint format bench launcher install uninstall clean
.DELETE_ON_ERROR:

demo: $(VENV)/.packages-demo $(VENV)/.softnet
	$(BIN)/python -m lab.demo

# The interpreted build runs the tests that need no root; the compiled one runs them all. Some wait for
# real servers, kernels and clocks: what fails is run again, and said to have been, before it counts. Those
# mostly wait, so that JOBS processes share them; tests/conftest.py says what must not run side by side. Emulated
# VMs have the machine to themselves: one whose processor is taken away for long enough hangs.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --timeout 300 --reruns 2 --reruns-delay 1

test: $(VENV)/.packages-test $(VENV)/.softnet $(VENV)/.headers lint
	PYTHONPATH=src $(PYTEST) tests/unit tests/property
	$(PYTEST) -n $(JOBS) --dist loadgroup -m "not vm"
	$(PYTEST) -m vm

test-fast: $(VENV)/.tools
	PYTHONPATH=src $(BIN)/python -m pytest tests/unit

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.packages-bench $(VENV)/.softnet
	$(BIN)/python -m bench.run

launcher:
	launcher/build.sh

install:
	scripts/install.sh

uninstall:
	scripts/uninstall.sh

clean:
	rm -rf build dist .cache $(VENV) src/*.egg-info

# What apt installs, by purpose; `scripts/setup.sh` looks first, and installs only what is missing.
$(VENV)/.packages-%: scripts/setup.sh | $(VENV)/.python
	scripts/setup.sh $*
	@touch $@

$(VENV)/.python:
	scripts/setup.sh python
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.tools: requirements-test.txt $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

# What the vmnet binding's declarations are compared with. Where npm is missing, those tests say so and skip.
$(VENV)/.headers: tests/twin/fetch.sh $(VENV)/.tools
	PYTHON=$(abspath $(BIN))/python timeout 180 tests/twin/fetch.sh || echo "make: tests of Apple's headers will skip"
	@touch $@

# The tests run against the installed program, as a user would have it.
$(VENV)/.softnet: $(SOURCES) $(VENV)/.tools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
	    --force-reinstall --no-deps .
	@$(BIN)/softnet --version
	@touch $@
