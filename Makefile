.DEFAULT_GOAL := help
.PHONY: help run cluster check test soak mutants chaos swarm fmt rust

TARGET ?= $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

help: ## Says what there is to make.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: rust ## Builds Troupe and starts it with a demonstration on this machine; Ctrl-C stops it.
	@echo "Building troupe in release mode; the first time takes some minutes."
	cargo build --locked --release -p troupe
	@echo "Starting the whole product in one process: embedded store, loopback only, with the examples."
	$(TARGET)/release/troupe dev --demo

cluster: rust ## Three replicas on this machine, with a Redis and a PostgreSQL of their own; Ctrl-C stops them.
	cargo build --locked --release -p troupe
	@TROUPE=$(TARGET)/release/troupe deploy/cluster

check: ## Formatting, lints and the fast tests: run it before a commit.
	@.ci/stages check

test: ## Everything continuous integration runs, with the time of each stage.
	@.ci/stages test

HOURS ?= 1
# Behind the seeds that `make test` plays.
FROM ?= 10000
CASES ?= 20000
SIMULATE = cargo run --locked --quiet --profile sim -p troupe-chaos --bin troupe-simulate --

soak: rust ## New cases for the property tests, then simulated worlds for HOURS (default 1), each twice, until one fails.
	PROPTEST_CASES=$(CASES) cargo test --locked --profile sim -p troupe-core --test execution properties
	PROPTEST_CASES=$(CASES) cargo test --locked --profile sim -p troupe-verify --test properties
	$(SIMULATE) soak $(HOURS) $(FROM)

# The harness finds the product beside itself.
CHAOS = $(TARGET)/debug/troupe-chaos

chaos: rust ## Every planted fault, every fault in every state, pairs, over servers of its own: hours.
	cargo build --locked --workspace --bins
	$(CHAOS) mutants
	$(CHAOS) single
	$(CHAOS) pairs

MINUTES ?= 60
# Where the recorded hour began.
SEED ?= 20261400

swarm: rust ## Deployments and faults drawn from SEED, SEED + 1, … over servers of its own, for MINUTES (default 60).
	cargo build --locked --workspace --bins
	$(CHAOS) swarm --seed $(SEED) --minutes $(MINUTES) --lanes 1

mutants: rust ## Every fault that can be planted in the engine, with the seed that catches it.
	$(SIMULATE) mutants

fmt: rust ## Formats the sources.
	cargo fmt --all

rust:
	@command -v cargo >/dev/null || { \
	  echo "cargo is missing: install Rust with rustup, see https://rustup.rs, then open a new shell."; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || { \
	  echo "a C compiler is missing: install gcc or clang (Debian: apt-get install build-essential)."; exit 1; }
