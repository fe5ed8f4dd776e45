# The few verbs a person types. `make up` and `make test` are the two that a newcomer needs.
SHELL := /bin/bash
TARGET := $(shell echo $${CARGO_TARGET_DIR:-target})
CARAVEL := $(TARGET)/release/caravel
LAB := /var/lib/caravel-lab/default
IMAGES := /var/lib/caravel-lab/images
export CARAVEL LAB IMAGES

.PHONY: help build up down test sim lint bench chaos vm deps images

help:
	@echo "make up     build, start a cluster on this machine, run nginx on it, show its answer"
	@echo "make down   stop that cluster and remove every trace of it"
	@echo "make test   everything that is tested"
	@echo "make sim    the quorum on simulated time, SEEDS=500 seeds of faults (minutes)"
	@echo "make lint   formatting, lints, licences"
	@echo "make bench  speed beside a peer measured in the same run"
	@echo "make chaos  every fault under load, at length; ARGS='--kills 1000' for more"
	@echo "make vm     a pod under systemd and cgroup v2, in an emulated machine (minutes)"
	@echo "make build  the release program: $(CARAVEL)"

deps:
	@deploy/setup/install-packages build lab

build: deps
	@echo "==> building caravel (several minutes the first time)"
	cargo build --release --locked -p caravel
	@ls -lh $(CARAVEL)

images: deps
	@echo "==> images made from Debian packages, in $(IMAGES)"
	@deploy/images/make-images $(IMAGES)

up: build images
	@deploy/setup/up

down:
	@$(CARAVEL) lab down --dir $(LAB)

test: build images
	@deploy/setup/install-packages test
	@tests/run-all

SEEDS ?= 500
sim: deps
	cargo run --profile sim --locked -p caravel-sim -- --seeds $(SEEDS) --twice 20 --jobs $(shell nproc)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny > /dev/null; then cargo deny check; else echo "cargo-deny is not installed: cargo install cargo-deny --locked"; fi

bench: build images
	@tests/bench/run

chaos: build images
	cargo build --locked -p caravel-chaos
	@tests/chaos/long $(ARGS)

vm: build images
	@deploy/vm/run
