# Everything a person or CI does with this project. Works on a fresh machine with Rust, gcc, make and root with apt.

INSTALL := .ci/install-rabbitmq
# A RabbitMQ of one's own needs none installed.
BROKER = $(if $(AMQP_URL),true,$(INSTALL) rabbitmq-server)
# RABBITMQ=trixie takes RabbitMQ from that Debian release instead of the system's own (as root, see the script).
ON = $(if $(RABBITMQ),bin=$$(.ci/rabbitmq-of $(RABBITMQ)) && RABBITMQ_HOME_BIN=$$bin )
DEMO := target/release/examples/demo

.DEFAULT_GOAL := help
# Checks that lint makes where they are installed: `make tools` brings them.
MACHETE := 0.9.2
TYPOS := 1.52.0
# Installed by `make mutants`.
MUTANTS := 27.1.0
# What a release is made with: `make release-tools` brings them.
AUDITABLE := 0.7.7
CARGO_DEB := 3.8.0
CYCLONEDX := 0.5.9

.PHONY: help demo run check test chaos bench fuzz mutants lint tools deny release release-tools release-dry-run deb deb-test image image-test

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1  /p' $(MAKEFILE_LIST) | column -t -l 2 2>/dev/null || grep '## ' $(MAKEFILE_LIST)

demo: ## 2,000 events through a real RabbitMQ and a sandbox of the API; says what became of each (KEEP=1, AMQP_URL=…)
	@$(BROKER)
	@cargo build --release --locked --workspace --bins --example demo
	@$(DEMO)

run: ## the daemon in the foreground, with a local broker and sandbox (AMQP_URL=…)
	@$(BROKER)
	@cargo build --release --locked --workspace --bins --example demo
	@$(DEMO) run

check: ## the inner loop: formatting, clippy, unit and doc tests; no broker (one to two minutes after a change)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --lib --bins
	cargo test --locked --workspace --doc

test: ## every test, those on a real RabbitMQ included; installs what it lacks (RABBITMQ=trixie: on version 4)
	@$(INSTALL) rabbitmq-server amqp-tools prometheus
	$(ON)cargo test --locked --workspace

bench: ## speed, cost and pace against a bare loop; prints tables and writes docs/benchmarks.md (about 20 minutes)
	@$(INSTALL) rabbitmq-server
	cargo build --release --locked --workspace --bins
	cargo bench --locked --bench bench

chaos: ## 20,000 events while API, daemon and broker fail at random; several minutes (CHAOS_SEED=… repeats a run)
	@$(INSTALL) rabbitmq-server
	$(ON)CHAOS=long cargo test --locked --test it -- --nocapture chaos::

# How long each target runs, how many at a time, and which (all of fuzz/fuzz_targets).
fuzz: SECONDS = 60
fuzz: JOBS = 1
fuzz: ## what others write, made up by libFuzzer, a minute for each reader (SECONDS=600, JOBS=2, TARGETS="event reply")
	fuzz/run $(SECONDS) $(JOBS) $(TARGETS)

# Few made-up inputs for each property and no search for the smallest one, so that a thousand runs come to an end. The tool leaves with 3
# where a break was noticed because a test never came to its end.
mutants: ## breaks crates/domain on purpose, a thousand times: a test has to notice each (an hour on two cores)
	@command -v cargo-mutants >/dev/null || cargo install --locked --version $(MUTANTS) cargo-mutants
	CARGO_PROFILE_TEST_DEBUG=none PROPTEST_CASES=16 PROPTEST_MAX_SHRINK_ITERS=0 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 \
		cargo mutants --package convgroup-domain --jobs 2 --timeout 20 --output target || [ $$? -eq 3 ]

deny: ## licences, sources and advisories of the dependencies; needs cargo-deny
	cargo deny check

lint: ## formatting, lints and docs, warnings are errors; spelling and unused dependencies where the tools are there
	@rust=$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml) && grep -q "^FROM rust:$$rust-" Dockerfile || \
		{ echo "Dockerfile builds with another Rust than rust-toolchain.toml names: change both"; exit 1; }
	@rust=$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml) && \
		for file in ci release; do grep -q "image: \"rust:$$rust-" .github/workflows/$$file.yml || \
		{ echo "$$file.yml builds with another Rust than rust-toolchain.toml names: change both"; exit 1; }; done
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	@if command -v cargo-machete >/dev/null; then cargo machete; else echo "unused dependencies are not looked for: make tools"; fi
	@if command -v typos >/dev/null; then typos; else echo "spelling is not checked: make tools"; fi

tools: ## cargo-machete and typos, which lint uses where they are installed (minutes: both are compiled)
	cargo install --locked --version $(MACHETE) cargo-machete
	cargo install --locked --version $(TYPOS) typos-cli

release: ## the two binaries in target/release, with the list of their crates inside where cargo-auditable is installed
	@if command -v cargo-auditable >/dev/null; then set -x; cargo auditable build --release --locked --workspace --bins; \
		else set -x; cargo build --release --locked --workspace --bins; fi

release-tools: ## cargo-auditable, cargo-deb and cargo-cyclonedx, which a release is made with (minutes: all are compiled)
	cargo install --locked cargo-auditable@$(AUDITABLE) cargo-deb@$(CARGO_DEB) cargo-cyclonedx@$(CYCLONEDX)

# These take the binaries of `make release` as they are.
deb: ## two Debian packages in target/debian, of the binaries in target/release; lintian where it is installed
	packaging/deb

deb-test: ## the packages of `make deb` in a chroot: install, run, upgrade, remove, purge (as root; a minute)
	packaging/deb-test

image: ## the image without a distribution, of the binaries in target/release, with buildah (as root)
	packaging/image

image-test: ## runs what is in the image of `make image`: read-only, without rights, names from DNS (as root)
	packaging/image-test

release-dry-run: ## all that a release consists of, of the binaries in target/release, into target/dist, and checks it; no network
	packaging/release --dry-run
