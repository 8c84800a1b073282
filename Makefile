# Everything a person does with this repository. `make help` lists it.
#
# Needs: Rust 1.95, a C compiler, python3, node 20. What else the tests need, `make test` installs
# into `target/`, never into your system (Debian packages only when you are root).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TOOLS := $(CURDIR)/target/tools
NEXTEST_VERSION := 0.9.143
DENY_VERSION := 0.20.2

# How each test ended: nextest writes it, the table of guarantees in the README is held against it.
RESULTS := target/nextest/default/results.xml

export PATH := $(TOOLS)/bin:$(PATH)

.PHONY: help run test fuzz nights bench lint deb deb-test advisories

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## Build and start a ready-to-use server on loopback; state in ./wardstone-data
	@$(CARGO) build --locked --release --bin wardstone
	@exec target/release/wardstone quickstart

test: ## Install what the tests need and run all of them
	@if [ -x appliance/acceptance/prepare ]; then appliance/acceptance/prepare; fi
	@command -v cargo-nextest >/dev/null \
	  || $(CARGO) install --locked --root $(TOOLS) cargo-nextest@$(NEXTEST_VERSION) \
	  || echo "cargo-nextest could not be installed: the tests run under cargo test"
	@# The acceptance tests start the binary itself; with the tests in one build, its dependencies are
	@# compiled once.
	$(CARGO) build --locked --workspace --bins --tests
	$(CARGO) test --locked --workspace --doc --quiet
	@if command -v cargo-nextest >/dev/null; then \
	  rm -f $(RESULTS); \
	  $(CARGO) nextest run --locked --workspace --no-fail-fast --config-file appliance/nextest.toml; \
	  target/debug/guarantees $(RESULTS); \
	else $(CARGO) test --locked --workspace --no-fail-fast --all-targets; \
	  echo "the table of guarantees was not held against this run: it needs cargo-nextest"; fi

fuzz: ## Feed strange input to every parser of strangers' input. SECONDS=60 each, ONLY=multipart
	@FUZZ_SECONDS=$(or $(SECONDS),60) $(CARGO) nextest run --locked --workspace --no-fail-fast \
	  --config-file appliance/nextest.toml --success-output final --status-level none \
	  -E 'test(/\bfuzz_.*$(ONLY)/)'

nights: ## Play nights of several hospitals beyond those of `make test`. SEEDS=2000 of each mood, FIRST=500
	@SIM_SEEDS=$(or $(SEEDS),2000) SIM_FIRST=$(or $(FIRST),500) $(CARGO) nextest run --locked \
	  --workspace --no-fail-fast --config-file appliance/nextest.toml --success-output final \
	  -E 'package(appliance-sim) and test(/after_.*nights/)'

bench: ## Measure the server and Synapse beside it. QUICK=1 for small sizes, ONLY=send,sync
	@$(CARGO) build --locked --release --bin wardstone --bin wardstone-bench
	@target/release/wardstone-bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

lint: ## Formatting, clippy, shell scripts (what comes from outside is judged by `make test`)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if command -v shellcheck >/dev/null; then \
	  grep -rlE '^#!(/usr)?/bin/(env )?(ba)?sh' --exclude-dir={.git,target,node_modules,.venv} . \
	    | xargs shellcheck; \
	else echo "shellcheck is not installed: shell scripts were not checked"; fi

deb: ## Build the Debian package into target/
	@packaging/build-deb

deb-test: deb ## Install the package in a clean Debian 12 and see it answer (root; two minutes and more)
	@packaging/test-deb

advisories: ## Ask the RustSec database about every dependency (needs a network)
	@command -v cargo-deny >/dev/null \
	  || $(CARGO) install --locked --root $(TOOLS) cargo-deny@$(DENY_VERSION)
	$(CARGO) deny --config appliance/deny.toml check
