# `make demo` and `make test` set up what they need; everything else is for people who work on the package.
# `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SPACE ?= build/space

.PHONY: help demo notebook test check docs lowest common-tests space clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed-demo  ## encrypt a model and an image, segment the ciphertext in a process without the key
	$(BIN)/privseg demo --force $(if $(IMAGE),--image "$(IMAGE)") $(if $(FAMILY),--family "$(FAMILY)")

notebook: $(VENV)/.installed-dev  ## run the notebook and keep its outputs
	PYTHONPATH=tests $(BIN)/python tests/helpers/notebook.py examples/quickstart.ipynb

# Bytecode is kept, so that workers need not compile every test anew.
test: $(VENV)/.installed-dev  ## the test suite; SLOW=1 adds the tests that start browsers, servers and trainings
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal \
	  $(if $(SLOW),,-m "not slow") $(PYTEST_ARGS)

check: $(VENV)/.installed-dev  ## format, lint, types, all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test SLOW=1

docs: $(VENV)/.installed-docs  ## the documentation site, in build/docs; a broken link stops it
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

lowest:  ## the unit tests with the lowest version of each dependency that pyproject.toml admits, in an environment of its own
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[lowest]"
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest --numprocesses 2 --dist worksteal \
	  tests/setr tests/inference tests/storage tests/attacks tests/convert

common-tests: $(VENV)/.installed-dev  ## transformers' own common tests, unmodified, for all three decoders (downloads its sdist)
	$(BIN)/python tests/run_common_tests.py

space: $(VENV)/bin/python  ## a folder that is a complete Gradio Space: front matter, app, pinned requirements, the package as a wheel
	rm -rf "$(SPACE)" build/lib && mkdir -p "$(SPACE)"
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$(SPACE)" .
	cp space/README.md space/app.py space/requirements.txt "$(SPACE)"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A CPU build of torch is enough; where torch is installed already, it is kept.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:  ## remove the environment and what runs wrote
	rm -rf $(VENV) demo_output outputs build dist *.egg-info
