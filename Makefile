# Everything is set up by the first target that needs it: no root, no GPU.
# The second time, what is already there is left alone.
.DEFAULT_GOAL := help
.PHONY: help environment javascript book test test-long test-gpu test-site \
	clean clean-book clean-all
.NOTPARALLEL:

VENV := .venv/bin/python
PYTEST := $(VENV) -m pytest
# Two workers, each with its own ranks and its own Slurm cluster.
WORKERS := -n 2 --dist loadfile
export PYTHON TORCH_INDEX
# A path may be of letters that the locale does not know.
export PYTHONUTF8 := 1
# A rank is a process, and there are more of them than cores.
export OMP_NUM_THREADS ?= 1
# Else every process, and a test starts many, compiles anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@echo "make TARGET, where TARGET is"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile \
		| while IFS='|' read -r name what; do \
			printf '  %-12s %s\n' $$name "$$what"; done

environment: ## create or refresh .venv from the pinned requirements
	@python=$$(sh tools/find_python.sh) && "$$python" tools/environment.py

javascript: environment
	@$(VENV) tools/javascript.py

book: javascript ## execute and build the book into _build/html
	@$(VENV) tools/build_book.py

test: javascript ## run the tests (ARGS="-k name" chooses some)
	@$(PYTEST) $(WORKERS) -m "not long and not gpu" $(ARGS)

test-long: javascript ## run the slower tests
	@$(PYTEST) $(WORKERS) -m "long and not gpu" $(ARGS)

test-gpu: environment ## run the tests that need a GPU, on a node that has some
	@$(PYTEST) -n 4 --dist load tests/gpu $(ARGS)

test-site: book ## open every page of the built book in a real browser
	@WORKSHOP_SITE=built $(PYTEST) tests/book/test_site.py \
		tests/book/test_links.py $(ARGS)

clean: clean-book ## remove what was built, keep the environment
	@rm -rf .pytest_cache .ruff_cache
	@find code tests book tools -name __pycache__ -prune \
		-exec rm -rf {} +

clean-book: ## remove the built book and its cache
	@rm -rf _build

clean-all: clean ## remove the environment and the downloads as well
	@rm -rf .venv node_modules .cache
