# Everything runs in .venv, which `make install` fills. Needs Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
PROTOS := $(wildcard proto/pollcast/v1/*.proto)

.PHONY: install up test check bench proto proto-check fmt

install: .venv/installed

.venv/installed: pyproject.toml clients/python/pyproject.toml
	@echo "Installing Pollcast and what it needs into .venv (about a minute the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on --editable '.[dev]' --editable clients/python
	@touch $@

up: install
	@exec $(BIN)/pollcast up $(ARGS)

test: install tests/js/node_modules/.package-lock.json
	$(BIN)/pytest $(ARGS)

# The real phoenix.js, for Node.js, which comes into .venv as a wheel.
tests/js/node_modules/.package-lock.json: tests/js/package-lock.json | install
	@cd tests/js && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent --no-audit --no-fund

check: install proto-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

bench: install
	$(BIN)/python -m bench $(ARGS)

proto: install
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

# Generated code is committed; this fails when it differs from what the .proto files give.
proto-check: proto
	@git diff --exit-code --stat -- proto || { echo "proto/ is not up to date: run 'make proto' and commit"; exit 1; }

fmt: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
