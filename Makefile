# Needs cargo and a C linker; finds PostgreSQL itself, and as root installs it if it is missing.
# How many compile jobs run at once stands in .cargo/config.toml.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run dev build test seeds chaos chaos-full soak mutants lint proto bench clean

TARGET := $(or $(CARGO_TARGET_DIR),target)

help: ## Tells what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Shows the main job: everything on this machine, work, a failure in the middle, the account of it
	@$(TARGET)/debug/main-job

dev: build ## Everything on this machine, to play with, until Ctrl-C
	@$(TARGET)/debug/watchwork dev

build: ## All binaries
	@cargo build --workspace --bins

test: ## All tests, against a private PostgreSQL
	@.ci/timed "test: build" 900 cargo build --workspace --all-targets
	@.ci/timed "test: run" 900 .ci/suites $(TARGET)/debug/with-postgres \
		cargo test --workspace --no-fail-fast

seeds: ## Simulates 20 000 worlds, or SEEDS=n from SEED_FROM=m on, on one core at most
	@SEEDS=$${SEEDS:-20000} THREADS=1 .ci/timed "seeds" 900 nice -n 19 \
		cargo test --quiet --workspace --lib simulation::nothing

chaos: build ## Kills, stops and cuts off real processes under load, and checks all promises; a minute
	@.ci/timed "chaos" 90 $(TARGET)/debug/chaos

chaos-full: build ## The same with 20 000 executions and five kill -9 of each service; five minutes
	@$(TARGET)/debug/chaos --executions 20000 --load 255s --seed $${SEED:-20} \
		--kills 5 --pauses 5 --terminations 2 --network 4

soak: build ## The same with 200 000 executions and ten times the faults; 45 minutes
	@$(TARGET)/debug/chaos --executions 200000 --load 2500s --seed $${SEED:-200} \
		--kills 50 --pauses 50 --terminations 20 --restarts 20 --network 40

mutants: ## Breaks one rule after the other, and sees that a test fails each time; half an hour
	@.ci/mutants

lint: ## Format, clippy, rules on dependencies
	@.ci/timed "lint: format" 10 cargo fmt --all --check
	@.ci/timed "lint: clippy" 420 cargo clippy --workspace --all-targets -- -D warnings
	@.ci/timed "lint: dependencies" 10 .ci/dependencies

proto: ## Writes the code generated from proto/
	@WATCHWORK_WRITE_PROTO=1 cargo test --package proto --test generated

bench: ## Measures throughput and latency, with optimised binaries
	@cargo build --release --workspace --bins
	@$(TARGET)/release/bench

clean: ## Removes target/, the data of the tests' PostgreSQL included
	@cargo clean
