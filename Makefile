# Two commands do everything on a fresh Debian or Ubuntu machine with Rust and Python 3: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# One profile and one target folder for everything, so that nothing is compiled twice.
CARGO ?= cargo
VERDIGRIS := $(or $(CARGO_TARGET_DIR),target)/debug/verdigris
# A cmake that set-up had to fetch, where the system's is too old for FAISS.
export PATH := $(CURDIR)/.cache/tools/bin:$(PATH)
export VERDIGRIS_CACHE ?= $(CURDIR)/.cache

.PHONY: help setup servers build model demo test simulate mutants lint bench proto image check-deploy cluster test-cluster prove-cluster audit format clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: ## Install what the build needs (apt packages); says what it does
	@scripts/setup

servers: setup ## Install the servers that tests start on loopback (S3, NATS), each in an environment of its own
	@scripts/servers

build: setup ## Build the executable
	@$(CARGO) build --locked --workspace --bins

model: build ## Fetch the embedding model into the cache folder, checked by sha256
	@$(VERDIGRIS) model fetch

demo: model ## Run the main job: events in, FAISS releases out, gRPC search, live changes
	@examples/demo.sh $(VERDIGRIS)

# Examples are benchmarks and the load of the cluster: linting checks them, and who runs one builds it.
test: model servers ## Run all tests
	@status=0; \
	$(CARGO) test --locked --workspace --lib --bins --tests --no-fail-fast || status=$$?; \
	$(CARGO) test --locked --workspace --doc --no-fail-fast || status=$$?; \
	exit $$status

# The allocator keeps what it got: stories are short, and each would ask the system for the same again.
simulate mutants: export MALLOC_MMAP_THRESHOLD_ = 1073741824
simulate mutants: export MALLOC_TRIM_THRESHOLD_ = 2147483648
simulate mutants: export MALLOC_TOP_PAD_ = 67108864

simulate: setup ## Tell 10,000 stories of the simulation (SEEDS=n; SIMULATION_SEED=n tells one, with all that happens)
	@SEEDS=$(or $(SEEDS),10000) $(CARGO) test --locked --workspace --test simulation -- --nocapture whatever

mutants: setup ## Plant each bug of tests/mutants and count the stories until the simulation finds it
	@scripts/mutants

lint: setup ## Check formatting and lints; warnings are errors
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

bench: model ## Run the benchmarks that docs/benchmarks.md keeps (one alone: scripts/bench SECTION)
	@scripts/bench

proto: setup ## Generate crates/proto from proto/ again
	@UPDATE_PROTO=1 $(CARGO) test --locked -p verdigris-proto

image: model ## Pack the executable, its libraries and the model as an OCI image, and try it under a read-only root
	@scripts/image
	@scripts/check-image

check-deploy: ## Check chart, plain manifests, alerts, runbooks and Dockerfile; what cannot be had is skipped by name
	@tests/cluster/tools helm promtool
	@scripts/check-deploy

# Go tools are built one at a time, and never beside cargo.
cluster: image
	@$(CARGO) build --locked --workspace --example cluster_load
	@scripts/servers nats
	@tests/cluster/build
	@tests/cluster/tools versitygw helm kubeconform

test-cluster: cluster ## Go the whole way on a real one-node Kubernetes, short (needs root, Go; KUBECONFIG takes another cluster)
	@tests/cluster/test

prove-cluster: cluster ## Measure swaps, kills, outages, ways back and refusals on that Kubernetes
	@$(CARGO) build --locked --workspace --example cluster_bad_release
	@tests/cluster/prove

audit: ## Check licences, sources and advisories of dependencies (needs cargo-deny)
	@$(CARGO) deny check

format: ## Format the code
	@$(CARGO) fmt --all

clean: ## Remove what was built; the model stays
	@$(CARGO) clean
