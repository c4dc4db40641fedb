# JoLA Workbench. `make app` and `make test` need only Python 3.11 or newer and make. Each has its own environment, so
# both can run at the same time.

# python3 if it is new enough and can create environments, else the first other interpreter that is and can.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
  if $$python -c '$(SUITABLE)' 2>/dev/null; then echo $$python; break; fi; done)
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

ARGS ?=
WORKERS ?= 2
# A PyTorch wheel, file or requirement to install before everything else (CONTRIBUTING.md says when).
TORCH ?=

APP := .venv
DEV := .venv-test
LOWEST := .venv-lowest

# One thread for each test worker, because more would only compete for the cores. A worker that dies, or hangs until
# pytest's faulthandler ends it, fails the run: if it were replaced, `--dist loadgroup` would wait forever.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(DEV)/bin/python -m pytest \
  -n $(WORKERS) --dist loadgroup --max-worker-restart 0

# Without progress bars and warnings.
QUIET = HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help app test test-fast test-lowest soak lint format bench notebooks docs screenshots clean FORCE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' Makefile
	@echo 'Arguments go through ARGS: make app ARGS="--port 8000", make test-fast ARGS="-k gates".'

app: $(APP)/.installed ## Start the workbench on this machine and print its address
	@echo "==> Starting the workbench"
	@$(APP)/bin/python app.py $(ARGS)

test: $(DEV)/.installed ## Run all tests; downloads the default model once and opens the app in a browser
	@echo "==> Looking for a Chromium"
	@chromium="$$($(DEV)/bin/python tools/browser.py)" && echo "==> Testing with $$chromium" && \
	  JOLA_CHROMIUM="$$chromium" $(PYTEST) $(ARGS)

test-fast: $(DEV)/.installed ## Run the tests that need neither the default model nor a browser
	@$(PYTEST) -m "not browser and not default_model" $(ARGS)

test-lowest: $(LOWEST)/.installed ## Run the tests of test-fast with the lowest versions that pyproject.toml allows
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadgroup \
	  --max-worker-restart 0 -p no:cacheprovider -m "not browser and not default_model" $(ARGS)

soak: $(DEV)/.installed ## Test app and library with random damage; ARGS="--examples 400 --hypothesis-seed 1" for more or others
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(DEV)/bin/python -m pytest tests/soak --examples 200 -s $(ARGS)

lint: $(DEV)/.installed-dev ## Check style, formatting, types and the direction of imports
	$(DEV)/bin/python -m ruff check .
	$(DEV)/bin/python -m ruff format --check .
	$(DEV)/bin/python -m pyright --pythonpath $(DEV)/bin/python
	$(DEV)/bin/lint-imports --no-logo --no-cache

format: $(DEV)/.installed-dev ## Fix style and formatting
	$(DEV)/bin/python -m ruff check --fix .
	$(DEV)/bin/python -m ruff format .

bench: $(DEV)/.installed ## Time a training step against its peers, and a test against its training
	$(QUIET) $(DEV)/bin/python -m benchmarks.train_step --dtype float32 $(ARGS)
	$(QUIET) $(DEV)/bin/python -m benchmarks.train_step --dtype bfloat16 $(ARGS)
	$(QUIET) $(DEV)/bin/python -m benchmarks.testing $(filter --json,$(ARGS))

notebooks: $(DEV)/.installed-notebooks ## Execute the notebooks; ARGS=--store also stores their outputs
	@$(DEV)/bin/python -m tools.notebooks $(ARGS)

docs: $(DEV)/.installed ## Build the documentation as a site into the folder site
	@NO_MKDOCS_2_WARNING=1 $(DEV)/bin/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "==> site/index.html; to search in it, serve it: python3 -m http.server --directory site"

screenshots: $(DEV)/.installed ## Renew docs/images: screenshots of every tab, light and dark
	@$(DEV)/bin/python -m tools.screenshots $(ARGS)

clean: ## Remove environments and build files; runs and downloads are kept
	rm -rf $(APP) $(DEV) $(LOWEST) .venv-reference build dist site htmlcov .coverage .hypothesis .pytest_cache .ruff_cache
	@find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# Create the environment $(1) if it is missing or broken, then install this project and its extras $(2) into it.
define install
  @$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
    python="$(PYTHON)"; \
    if [ -z "$$python" ] || ! "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
      echo "JoLA Workbench needs Python 3.11 or newer with its venv module (on Debian: apt install python3-venv);" \
        "where it has another name, run make with PYTHON=/path/to/python." >&2; exit 1; fi; \
    echo "==> Creating $(1) with $$("$$python" --version)"; \
    "$$python" -m venv $$($(1)/bin/python -c '' 2>/dev/null || echo --clear) $(1); }
  @echo "==> Installing JoLA Workbench$(2) into $(1); the first time, this downloads PyTorch and takes minutes"
  $(if $(TORCH),$(1)/bin/python -m pip install --disable-pip-version-check "$(TORCH)")
  $(1)/bin/python -m pip install --disable-pip-version-check --editable ".$(2)"
  @touch $@
endef

# An environment is updated if pyproject.toml is newer than its stamp, or if its Python no longer exists.
stale = $(if $(shell $(1)/bin/python -c '' 2>/dev/null && echo fine),,FORCE)

$(APP)/.installed: pyproject.toml $(call stale,$(APP))
	$(call install,$(APP),)

$(DEV)/.installed: pyproject.toml $(call stale,$(DEV))
	$(call install,$(DEV),[test])

# Install the lowest version of every package in pyproject.toml; PyTorch is then the large build of the index.
$(LOWEST)/.installed: export PIP_CONSTRAINT = build/lowest.txt
$(LOWEST)/.installed: pyproject.toml tools/lowest.py $(call stale,$(LOWEST))
	@mkdir -p build && $(PYTHON) tools/lowest.py > build/lowest.txt
	$(call install,$(LOWEST),[test])

$(DEV)/.installed-dev: $(DEV)/.installed
	$(call install,$(DEV),[dev])

$(DEV)/.installed-notebooks: $(DEV)/.installed
	$(call install,$(DEV),[notebooks])
