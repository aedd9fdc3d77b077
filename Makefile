# Everything runs in .venv, which the first target makes: Python 3.10 or newer and make are all it takes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := $(VENV)/.demo
# where it is set, each process of each test would compile the whole of PyTorch anew
unexport PYTHONDONTWRITEBYTECODE
# Each environment gets what pip of $(PYTHON) installs, if it can install elsewhere (since 22.3): a pip of its own takes as
# long to unpack as all the rest.
new_environment = if $(PYTHON) -c 'import pip; exit([*map(int, pip.__version__.split(".")[:2])] < [22, 3])' 2>/dev/null; \
	then $(PYTHON) -m venv --without-pip $(1); else $(PYTHON) -m venv $(1); fi
# nothing is compiled that is not imported
install = if test -x $(1)/bin/pip; then set -- $(1)/bin/python -m pip; else set -- $(PYTHON) -m pip --python $(1)/bin/python; fi; \
	"$$@" install --quiet --disable-pip-version-check --no-compile

# prints the folder that an environment has its packages in
packages = $(1)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

FRAMEWORKS := .venv-frameworks
EXPORTS := .venv-exports
DOCS := .venv-docs
SWEEPS := .venv-sweeps

.PHONY: demo test nightly floors frameworks exports browser slurm soak chaos wild screenshots docs reference check lint coverage mutation bench sweeps clean

demo: $(DEMO)  ## run the example under Backprop, on real data
	$(BIN)/backprop run --python $(BIN)/python examples/digits.py

CORE := $(addprefix --ignore tests/,agents frameworks exports browser slurm)

# those that bring the machine to its limits run alone; the others mostly wait, so that several share a core
test: $(INSTALLED)  ## all tests but those that need a framework, a library, a browser or Slurm
	$(BIN)/python -m pytest -m alone $(CORE); alone=$$?; \
	$(BIN)/python -m pytest -m "not alone" -n 6 --maxschedchunk 1 $(CORE) && exit $$alone

nightly: $(INSTALLED)  ## these, `frameworks` and `exports` at full depth: every property ten times as often, every kill; `floors`
	TEST_DEPTH=full $(MAKE) test frameworks exports
	$(MAKE) floors

FLOORS := .venv-floors

floors: $(FLOORS)/.installed  ## tests with the oldest dependencies that pyproject.toml allows
	$(FLOORS)/bin/python -m pytest -n 2 tests/unit/test_config.py tests/unit/store/test_journal.py tests/unit/test_records.py tests/web tests/unit/views/test_watch.py tests/cli/test_look.py tests/cli/test_plot.py tests/cli/test_compare.py

# what an environment has for nightly tests only: frameworks import whatever they find
nightly_of = $(1)/.$(if $(filter full,$(TEST_DEPTH)),nightly,installed)

frameworks: $(INSTALLED) $(call nightly_of,$(FRAMEWORKS))  ## tests with real PyTorch, Trainers, boosters (a large download)
	FRAMEWORKS_PYTHON=$(CURDIR)/$(FRAMEWORKS)/bin/python $(BIN)/python -m pytest -n 3 --maxschedchunk 1 tests/frameworks

exports: $(call nightly_of,$(EXPORTS))  ## tests with optional libraries: TensorBoard, MLflow, W&B, pyarrow, pandas, polars, and the MCP SDK
	$(EXPORTS)/bin/python -m pytest -n 2 tests/exports tests/agents

browser: $(INSTALLED) $(VENV)/.browser  ## tests of the page in a real Chromium (Debian: chromium, chromium-driver)
	$(BIN)/python -m pytest -n 2 tests/browser

screenshots: $(INSTALLED) $(VENV)/.browser  ## the pictures in docs/images, of real runs
	$(BIN)/python -m docs.screenshots

docs: $(DOCS)/.installed  ## build the documentation site into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

reference: $(INSTALLED)  ## write the pages of docs/reference that are made from the code
	$(BIN)/python -m docs.generate

# a worker is a cluster of its own, and mostly waits
slurm: $(INSTALLED)  ## tests with a real Slurm of two nodes, thrown away afterwards (see tests/slurm/install.sh)
	$(BIN)/python -m pytest -n 6 --maxschedchunk 1 tests/slurm

MINUTES ?= 60

chaos: $(INSTALLED)  ## random faults at random instants, every record compared (MINUTES=60; CHAOS="--seed 7": the same choices again)
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(CHAOS)

wild: $(INSTALLED)  ## other people's libraries, cut, killed and resumed; prints a table (downloads them; NAMES="trl_sft peft_lora": some)
	$(BIN)/python -m tests.wild $(NAMES)

# N=10: so many rounds; ORDER=random: the tests in another order each round
soak:  ## all of .ci/run, again and again in fresh clones, beside processes that keep every core busy
	$(PYTHON) tests/soak.py --rounds $(or $(N),1) --order $(or $(ORDER),sorted)

coverage: $(INSTALLED) $(VENV)/.coverage  ## branch coverage of the core, processes that tests start included
	rm -rf build/coverage
	-$(BIN)/python -m coverage run -m pytest -m "not alone" -n 6 --maxschedchunk 1 $(CORE)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

mutation: $(INSTALLED)  ## put one small fault after the other into the pure decisions: do their tests notice? (half an hour)
	$(BIN)/python -m tests.mutation

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## what CI runs: format, lint, types, tests

bench: $(INSTALLED)  ## measure and print the table of numbers (twenty minutes; BENCH=--quick: one)
	$(BIN)/python -m bench $(BENCH)

# two hours; what is in bench/sweeps/results.jsonl is not done again
sweeps: $(SWEEPS)/.installed  ## compare `backprop sweep` with random search, Optuna and Ray Tune (a large download; SEEDS=10)
	$(SWEEPS)/bin/python -m bench.sweeps --seeds $(or $(SEEDS),10) --parallel $(or $(PARALLEL),12)

clean:
	rm -rf $(VENV) $(FRAMEWORKS) $(EXPORTS) $(DOCS) $(FLOORS) $(SWEEPS)* .venv-wild* digits-checkpoints

# what the example needs
$(DEMO): pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Backprop needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(call new_environment,$(VENV))
	$(call install,$(VENV)) pip -e '.[examples]'  # pip: for what Backprop says is missing
	touch $@

$(INSTALLED): $(DEMO)
	$(call install,$(VENV)) -e '.[examples,test]'
	touch $@

$(VENV)/.coverage: pyproject.toml $(INSTALLED)
	$(call install,$(VENV)) 'coverage>=7.10'
	touch $@

$(FLOORS)/.installed: pyproject.toml tests/floors.py $(INSTALLED)
	$(call new_environment,$(FLOORS))
	$(BIN)/python -m tests.floors > $(FLOORS)/floors.txt
	$(call install,$(FLOORS)) -c $(FLOORS)/floors.txt -e '.[test]'
	touch $@

$(VENV)/.browser: pyproject.toml $(INSTALLED)
	$(call install,$(VENV)) -e '.[browser]'
	touch $@

# an environment in which Backprop is not installed: its hooks come from another one, as with `uv tool install`
$(FRAMEWORKS)/.installed: tests/frameworks/requirements.txt
	$(call new_environment,$(FRAMEWORKS))
	$(call install,$(FRAMEWORKS)) -r tests/frameworks/requirements.txt
	touch $@

# what is in .venv is used from there, and not installed again
$(EXPORTS)/.installed: tests/exports/requirements.txt $(INSTALLED)
	$(call new_environment,$(EXPORTS))
	$(call packages,$(BIN)) > "$$($(call packages,$(EXPORTS)/bin))/core.pth"
	$(call install,$(EXPORTS)) -e '.[export,mcp,sweep]' -r tests/exports/requirements.txt
	touch $@

$(FRAMEWORKS)/.nightly: tests/frameworks/nightly-requirements.txt $(FRAMEWORKS)/.installed
	$(call install,$(FRAMEWORKS)) -r $<
	touch $@

$(EXPORTS)/.nightly: tests/exports/nightly-requirements.txt $(EXPORTS)/.installed
	$(call install,$(EXPORTS)) -r $<
	touch $@

$(SWEEPS)/.installed: pyproject.toml
	$(call new_environment,$(SWEEPS))
	$(call install,$(SWEEPS)) torch==2.13.0
	$(call install,$(SWEEPS)) -e '.[sweep]' lightgbm
	$(call new_environment,$(SWEEPS)-ray)
	$(call install,$(SWEEPS)-ray) torch==2.13.0
	$(call install,$(SWEEPS)-ray) lightgbm 'ray[tune]'
	touch $@

# Backprop itself is not in it: what is made from its code is committed
$(DOCS)/.installed: docs/requirements.txt
	$(call new_environment,$(DOCS))
	$(call install,$(DOCS)) -r docs/requirements.txt
	touch $@
