# Every target sets up what it needs; a second run starts in seconds. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo up check test test-vllm test-gpu bench model clean
# One recipe at a time: they share var/, two cores and the terminal.
.NOTPARALLEL:

SETUP := @deploy/setup/setup.sh
RUN := @deploy/setup/run
STEP := @deploy/setup/step
# A test that hangs ends the run instead of the patience; its stack is printed before (pyproject.toml).
PYTEST := timeout --foreground --kill-after=10 1200 python -m pytest
UNIT := unit and not slow
# Units need no backend: `make check` has run them.
FAST := not unit and not slow and not browser and not model
# Of two cores each leaves a part idle while its test waits for a server or a child.
THREE := -n 3 --dist worksteal
# Folders without a fast test (tests/conftest.py sees to it): to read them is to load torch.
HEAVY := $(addprefix --ignore tests/,browser conformance inference/engine training/recipes)

export MODEL ?= default

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18
	@echo '  MODEL=hf:org/name or MODEL=/a/folder takes another base model; PORT=8010 another port.'

demo: ## turn the whole loop once on a real model, in var/demo (TASTE=short, ONCE=1 to end)
	$(SETUP) demo
	$(RUN) python -m demo

up: ## run everything, and keep it in var/
	$(SETUP) up
	$(RUN) deploy/setup/up.sh

check: ## format, lint, types, import rules, unit tests: under a minute
	$(SETUP) check
	$(STEP) "format" ruff format --check .
	$(STEP) "lint" ruff check .
	$(STEP) "import rules" lint-imports
	# Side by side: each alone leaves a core idle for a part of its time.
	$(STEP) "unit tests and types" bash -c 'mypy . & types=$$!; \
		RATCHET_TEST_BACKEND=embedded $(PYTEST) -n 2 -m "$(UNIT)"; units=$$?; wait $$types && exit $$units'

test: ## all tests: PostgreSQL and Redis, then embedded, then models and browser
	$(SETUP) test
	@$(MAKE) --no-print-directory check
	$(STEP) "fast suite on PostgreSQL and Redis" env RATCHET_TEST_BACKEND=services $(PYTEST) $(THREE) -m "$(FAST)" $(HEAVY)
	$(STEP) "fast suite on SQLite and files" env RATCHET_TEST_BACKEND=embedded $(PYTEST) $(THREE) -m "$(FAST)" $(HEAVY)
	$(STEP) "models and slow tests" env RATCHET_TEST_BACKEND=services $(PYTEST) $(THREE) -m "(slow or model) and not browser" --ignore tests/browser --durations 10
	# By themselves: Playwright keeps an event loop running in the process that it drives the browser from.
	$(STEP) "browser tests" env RATCHET_TEST_BACKEND=services $(PYTEST) -n 2 tests/browser

test-vllm: ## the engine's dialect, and Django on it, on a real vLLM: its CPU build, installed into var/vllm
	$(SETUP) check
	@deploy/setup/vllm.sh
	$(STEP) "the dialect, and Django, on vLLM" env RATCHET_TEST_ENGINE=vllm RATCHET_TEST_BACKEND=embedded $(PYTEST) \
		tests/conformance tests/inference/test_deployments.py::test_traffic_feels_no_swap

test-gpu: ## the engine's dialect, and every method's recipe, on this machine's GPU
	$(SETUP) check
	$(STEP) "torch sees a GPU" python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch sees no GPU: docs/gpus.md")'
	$(STEP) "the dialect and the recipes on a GPU" env RATCHET_TEST_DEVICE=cuda RATCHET_TEST_BACKEND=embedded $(PYTEST) -n 2 \
		tests/conformance tests/training/recipes

bench: ## measure a claim: make bench NAME=swap; all of them without NAME
	$(SETUP) bench
	$(RUN) bash -c 'for file in bench/$(or $(NAME),*).py; do \
		name=$$(basename "$$file" .py); [[ $$name == _* ]] || python -m "bench.$$name" || exit 1; done; \
		python -m bench._report'

model: ## obtain and convert the base model, nothing else
	$(SETUP) model

clean: ## remove what can be made again; models, secrets and what `make up` keeps stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache ratchet.egg-info
	rm -rf var/demo var/bench var/vllm var/vllm.log var/setup.log var/setup.json
