.DEFAULT_GOAL := help
SHELL := bash

# Real images wherever they lie beside the checkout; otherwise the hub or the offline sample. `CIFAKE_DATA=` forces those.
ifneq ($(wildcard ../shared/data/cifake),)
export CIFAKE_DATA ?= $(abspath ../shared/data/cifake)
endif
export CIFAKE_HOME ?= $(CURDIR)/.cifake

python := .venv/bin/python
WORKERS ?= 4

help: ## List what can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: up ## Run the whole pipeline on real images, classify two, write a report
	@$(python) scripts/demo.py

up: setup ## Start Airflow, MLflow and the detector on this machine
	@$(python) scripts/stack.py up

up-monitoring: setup ## The same, with Prometheus, Alertmanager and the push gateway
	@CIFAKE_MONITORING=true $(python) scripts/stack.py up

down: ## Stop what `make up` started
	@! [ -x $(python) ] || $(python) scripts/stack.py down

status: setup-ml ## Show which programs run, and where
	@$(python) scripts/stack.py status

test: setup-all ## Run the tests
	$(python) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/integration

test-stack: setup-all ## Run the tests of the whole stack: DAGs that run, extras that install, dashboards and alerts
	$(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/integration

check: setup-ml ## Lint, format, types and the import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

setup: ## Make the virtual environments
	@scripts/setup ml airflow serve

setup-ml:
	@scripts/setup ml

setup-all:
	@scripts/setup ml airflow serve generate

setup-generate: ## Make the environment with torch, for Stable Diffusion and for training generators
	@scripts/setup generate

lock: setup-ml ## Compile the lock of each environment anew
	scripts/lock

clean: down ## Remove the environments and tool caches; data and models in CIFAKE_HOME stay
	rm -rf .venv .venv-* .venv.lock .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: help demo up up-monitoring down status test test-stack check setup setup-ml setup-all setup-generate lock clean

include $(wildcard deploy/*.mk)
