# Everything a bare clone needs is Python >= 3.11, make, and a package index. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV ?= $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
# Processes of the test run.
JOBS ?= 2

INSTALLED := $(VENV)/.installed
CATALOGS := $(VENV)/.catalogs
PO_FILES := $(wildcard locale/*/LC_MESSAGES/*.po)

.DEFAULT_GOAL := help
.PHONY: help install demo run test crash-sweep kill-storm hosts upgrade sabotage evidence lint format lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) $(CATALOGS)  ## the virtual environment and its hash-locked packages; nothing to do when they stand
	@:

$(INSTALLED): requirements/dev.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) is not there. Install Python 3.11 or newer, or name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@[ -x $(BIN)/pip ] || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing $$(grep -c '^[a-z]' requirements/dev.txt) packages into $(VENV)"
	@# The lock names every package, so nothing is resolved: an old pip would look for newer ones, which have no hash.
	@$(BIN)/pip install --quiet --no-input --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/pip check --quiet --disable-pip-version-check
	@touch $@

$(CATALOGS): $(PO_FILES) $(INSTALLED)
	@$(BIN)/python manage.py compile_catalogs
	@touch $@

demo: install  ## a sample month closed before your eyes, on real workers; ends with the books checked
	@$(BIN)/python manage.py demo

run: install  ## the site and its workers on http://127.0.0.1:8000, until Ctrl-C
	@$(BIN)/python manage.py run

# Each check says one line; one that fails says everything, and the others run all the same.
define CHECKS
failed=""; \
check() { \
  name=$$1; shift; \
  if said=$$("$$@" 2>&1); then echo "ok      $$name"; \
  else echo "FAILED  $$name"; echo "$$said" | sed 's/^/        /'; failed=yes; fi; \
}; \
check "ruff format" $(BIN)/ruff format --check --output-format concise . ; \
check "ruff check" $(BIN)/ruff check --output-format concise . ; \
check "mypy" $(BIN)/mypy ; \
check "import layers" $(BIN)/lint-imports ; \
check "templates" $(BIN)/djlint templates --lint --quiet ; \
check "migrations are complete" env DJANGO_SETTINGS_MODULE=config.settings.test $(BIN)/python manage.py makemigrations --check --dry-run ; \
check "production settings" env DJANGO_SETTINGS_MODULE=tests.config.production_settings $(BIN)/python manage.py check --deploy --fail-level WARNING
endef

test: install  ## every check and the whole suite, with branch coverage
	@$(CHECKS); \
	[ -z "$$failed" ] || echo "A check has failed, see above; the tests run all the same."; \
	$(BIN)/pytest -q -n $(JOBS) --cov || failed=yes; \
	[ -z "$$failed" ]

crash-sweep: install  ## a close killed at every boundary, three ways, and PAIRS=200 double crashes; UPDATE=1 lists new boundaries
	@$(BIN)/python -m tests.crashes.sweep $(if $(UPDATE),--update) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(SEED),--seed $(SEED))

kill-storm: install  ## the whole product under a monkey that kills it, for SECONDS=150, by SEED
	@env -u DATABASE_URL $(BIN)/python -m tests.storm $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

hosts: install  ## as root: a close on hosts that die, vanish and come, then behind pgbouncer; ACCOUNTS=400, by SEED
	@$(BIN)/python -m tests.hosts $(if $(ACCOUNTS),--accounts $(ACCOUNTS)) $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.hosts.behind_pgbouncer $(if $(ACCOUNTS),--accounts $(ACCOUNTS)) $(if $(SEED),--seed $(SEED))

upgrade: install  ## an installation of OLD=rev, by default the release before, upgraded in the middle of a close, by SEED
	@$(BIN)/python -m tests.upgrade $(if $(OLD),--old $(OLD)) $(if $(ACCOUNTS),--accounts $(ACCOUNTS)) $(if $(SEED),--seed $(SEED))

sabotage: install  ## changes that break a promise, each made to a copy and caught by the tests named for it
	@$(BIN)/python -m tests.sabotage

evidence: install  ## the long versions of all these, into docs/evidence; ONLY=sabotage is one part, SHORT=1 the short size
	@$(BIN)/python -m tests.evidence $(if $(ONLY),--only $(ONLY)) $(if $(SHORT),--short)

lint: install  ## the checks alone
	@$(CHECKS); [ -z "$$failed" ]

format: install  ## format the code, and mend what can be mended
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

LOCK = $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
       --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock:  ## write requirements/*.txt anew from pyproject.toml (needs uv); UPGRADE=--upgrade takes newer versions
	@$(LOCK) $(UPGRADE) -o requirements/runtime.txt
	@$(LOCK) $(UPGRADE) --group dev --constraint requirements/runtime.txt -o requirements/dev.txt

clean:  ## remove what can be made again; .data, with its database, stays
	@rm -rf $(VENV) staticfiles htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find locale -name '*.mo' -delete
