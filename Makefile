# Each target sets up what it needs: Debian packages when root, and a virtual environment in .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(PATH):/usr/sbin:/sbin

VENV := .venv
# Exact versions with hashes, of one resolution; NEWEST=1 takes what is newest in the ranges of pyproject.toml.
LOCKS := deploy/requirements-build.txt deploy/requirements-dev.txt
NEWEST ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# Six at a time, also on two cores: half of the time a test waits, for an agent, a packet or a server.
WORKERS ?= 6
ARGS ?=
# What a target needs of Debian, as .ci/packages names it; prerequisites know it too, so that it is installed at once.
NEEDS :=
IMAGE ?= netpol-agent:$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' agent/__init__.py)
BASE ?=
PREFIX ?= /opt/netpol-agent
PIP := --quiet --disable-pip-version-check --use-pep517
# What one package builds with is locked too, so that pip must not fetch it by itself.
INSTALL = $(1) -m pip install $(PIP) --require-hashes -r deploy/requirements-build.txt \
	&& $(1) -m pip install $(PIP) --require-hashes --no-build-isolation -r $(2)
# From nothing, for every platform, from the oldest Python that is supported on.
LOCKING := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock'

.PHONY: help demo test test-newest chaos bench install image release cluster-test kind-test lint fmt lock audit clean root python

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target what; do \
		printf 'make %-12s %s\n' "$$target" "$$what"; done

demo: NEEDS := kernel
demo: root $(STAMP) ## See real packets allowed and denied by the policies of examples/ (root)
	@.ci/packages $(PYTHON) $(NEEDS)
	@$(BIN)/python -m tests.demo $(ARGS)

test: NEEDS := kernel cni cluster image machines page monitoring
test: $(STAMP) ## Run every test; those with real packets need root
	@.ci/packages $(PYTHON) $(NEEDS)
	@[ "$$(id -u)" != 0 ] || $(BIN)/python -m tests.lab.kube_build >/dev/null
	@$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(ARGS)

test-newest: ## Run style, types and every test with the newest packages that pyproject.toml allows; before each release
	@$(MAKE) lint test VENV=.venv-newest NEWEST=1

chaos: NEEDS := kernel cni cluster
chaos: root $(STAMP) ## Try every promise of docs/guarantees.md, with faults while packets flow, in under 15 minutes (root)
	@.ci/packages $(PYTHON) $(NEEDS)
	@$(BIN)/python -m tests.lab.kube_build >/dev/null
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: NEEDS := kernel cluster bench
bench: root $(STAMP) ## Measure the agent on generated clusters of up to 100,000 pods, with a real API server (root)
	@.ci/packages $(PYTHON) $(NEEDS)
	@$(BIN)/python -m tests.lab.kube_build >/dev/null
	@$(BIN)/python -m tests.bench $(ARGS)

install: NEEDS := kernel
install: python ## Install the command with its own Python packages (PREFIX=/opt/netpol-agent)
	@.ci/packages $(PYTHON) venv $(NEEDS)
	@$(PYTHON) -m venv $(PREFIX)
	@$(call INSTALL,$(PREFIX)/bin/python,deploy/requirements.txt)
	@$(PREFIX)/bin/python -m pip install $(PIP) --no-deps --no-build-isolation --force-reinstall .
	@echo "installed $$($(PREFIX)/bin/netpol-agent --version): $(PREFIX)/bin/netpol-agent"

image: ## Build the container image with docker, podman or buildah (IMAGE=... names it, BASE=... is the Debian below)
	@for builder in docker podman buildah; do \
		! command -v $$builder >/dev/null || DOCKER_BUILDKIT=1 exec $$builder build -f deploy/Dockerfile \
			-t "$(IMAGE)" $(if $(BASE),--build-arg "BASE=$(BASE)") $(ARGS) .; done; \
	echo "None of docker, podman and buildah is here: apt-get install buildah" >&2; exit 1

release: $(STAMP) ## Make all files of a release into dist/, with buildah and kubectl (NAME=REGISTRY/netpol-agent, BASE=...)
	@$(BIN)/python -m release $(if $(NAME),--name "$(NAME)") $(if $(BASE),--base "$(BASE)") $(ARGS)

cluster-test: $(STAMP) ## Run the tests of every feature on a cluster that runs the agent (KUBECTL="kubectl --context=NAME")
	@[ -n "$(KUBECTL)" ] || { echo 'Say which cluster: make cluster-test KUBECTL="kubectl --context=NAME"' >&2; exit 2; }
	@TEST_KUBECTL="$(KUBECTL)" TEST_IMAGE="$(TEST_IMAGE)" $(BIN)/pytest tests/conformance/test_features.py $(ARGS)

kind-test: $(STAMP) ## Make a cluster with kind, install the agent, run the tests of every feature, delete it (KEEP=1 keeps it)
	@kind/test $(ARGS)

lint: $(STAMP) ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fmt: $(STAMP) ## Put code and documents into their format, and settings into their page
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python -m tests.docs

lock: $(STAMP) ## Move every locked Python package to the newest version that pyproject.toml allows
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(BIN)/uv pip compile $(LOCKING) - --output-file deploy/requirements-build.txt
	@$(BIN)/uv pip compile $(LOCKING) pyproject.toml --extra dev --output-file deploy/requirements-dev.txt
	@$(BIN)/uv pip compile $(LOCKING) pyproject.toml --constraint deploy/requirements-dev.txt --output-file deploy/requirements.txt
	@$(BIN)/uv pip compile $(LOCKING) tests/lab/go.in --output-file tests/lab/go.txt

audit: python ## Look up known vulnerabilities of the locked Python packages; fails where the index has none to say
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@.venv-audit/bin/pip-audit --strict --disable-pip --progress-spinner off -r deploy/requirements.txt $(ARGS)

clean: ## Remove what make has made here
	@rm -rf $(VENV) .venv-newest .venv-audit build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find agent tests -name __pycache__ -type d -prune -exec rm -rf {} +

root:
	@[ "$$(id -u)" = 0 ] || { echo "This makes network namespaces, so it needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

python:
	@command -v python3 >/dev/null || [ -n "$(PYTHON)" ] || .ci/packages - python venv $(NEEDS)
	@[ -n "$(PYTHON)" ] || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; $$(command -v python3) is $$(python3 -V 2>&1)." >&2; \
		echo "PYTHON=/path/to/python3.11 make ... uses another." >&2; exit 1; }

$(STAMP): pyproject.toml $(LOCKS) | python
	@.ci/packages $(PYTHON) venv $(NEEDS)
	@$(BIN)/python -c '' 2>/dev/null || { rm -rf $(VENV); echo "making $(VENV)" >&2; $(PYTHON) -m venv $(VENV); }
	@echo "installing Python packages into $(VENV)" >&2
ifeq ($(NEWEST),)
	@$(call INSTALL,$(BIN)/python,deploy/requirements-dev.txt)
	@$(BIN)/python -m pip install $(PIP) --no-deps --no-build-isolation --editable .
else
	@$(BIN)/python -m pip install $(PIP) --upgrade --upgrade-strategy eager --editable '.[dev]'
endif
	@touch $@
