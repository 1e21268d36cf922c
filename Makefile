.DEFAULT_GOAL := help
SHELL := bash

# Real images wherever a mirror lies beside the checkout; otherwise hub or offline sample.
ifneq ($(wildcard ../shared/data/cifake),)
export CIFAKE_DATA ?= $(abspath ../shared/data/cifake)
endif

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Make the ML environment (.venv)
	@scripts/setup ml

test: setup ## Run the tests
	.venv/bin/python -m pytest -n 2 --dist loadfile

check: setup ## Lint and type-check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

lock: setup ## Compile the lock of each environment anew
	@for each in ml:train,serve,dev airflow:orchestrate serve:serve generate:generate; do \
	  extras=$${each#*:}; name=$${each%%:*}; \
	  .venv-tools/bin/uv pip compile pyproject.toml $${extras:+--extra $${extras//,/ --extra }} \
	    $$([ $$name = generate ] && echo --excludes locks/generate.excludes) \
	    --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q -o locks/$$name.txt; \
	done

.PHONY: help setup test check lock
