# shoal: `make` builds bin/shoal, `make demo` shows it, `make test` tests it.
# Needs Go, gcc, g++ and make; modules come from Go's module proxy.

GO ?= go

# The engine (ggml, C and C++) is 5 to 10 times slower without these flags. On
# machines without AVX2, and on other processors, it is built for the machine
# itself. -w: the warnings are other people's. x86-64-v3 rather than native: with AVX-512, sums differ in their last
# bits between machines, and with them, now and then, the words of an answer.
ifeq ($(shell uname -m),x86_64)
  MARCH := $(shell grep -qw avx2 /proc/cpuinfo 2>/dev/null && echo x86-64-v3 || echo native)
else
  MARCH := native
endif
ifeq ($(shell uname -s),Linux)
  OPENMP := -fopenmp
  OPENMP_DEF := -DGGML_USE_OPENMP
endif
SHOAL_CFLAGS := $(strip -O3 -march=$(MARCH) -w $(OPENMP) $(OPENMP_DEF))
export CGO_ENABLED := 1
export CGO_CFLAGS := $(SHOAL_CFLAGS)
export CGO_CXXFLAGS := $(SHOAL_CFLAGS)
export CGO_LDFLAGS := $(OPENMP)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
DATE ?= $(shell git log -1 --format=%cs 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.date=$(DATE)

# Packages whose goroutines meet; the race detector slows the others for nothing.
RACE := ./node ./node/ahead ./node/api ./node/door ./node/draft ./node/exchange/... ./node/generate ./node/keys ./node/lend ./node/library ./node/metrics ./node/network/... ./node/report ./node/serve ./node/session ./node/stage ./node/store ./node/survey ./node/swarm ./node/swarms ./testnet/...
FUZZTIME ?= 20s
# Executions spent on making one new input short. Go's own measure is a minute an
# input, and n bytes take n² executions: targets of longer inputs saw three, and
# set a measure of their own now.
FUZZMIN ?= 100x
PROMTOOL := $(shell command -v promtool || echo "env CGO_ENABLED=0 $(GO) run -tags remove_all_sd github.com/prometheus/prometheus/cmd/promtool@v0.316.0")
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB ?= https://vuln.go.dev
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# RERUN=1, as in CI: tests that fail run once more, alone, since machines that others use
# meanwhile are slow at odd moments. Not after a data race, or when more than six failed (a
# test and its part count for two).
# Each test that needed it is named at the end; it is a fault to be mended all the same.
RERUN ?=
GOTESTSUM := gotest.tools/gotestsum@v1.13.0
ifeq ($(RERUN),1)
gotest = CGO_ENABLED=0 GOBIN=$(CURDIR)/bin $(GO) install $(GOTESTSUM) && rm -f bin/rerun.txt && \
	bin/gotestsum --format standard-quiet --hide-summary skipped --rerun-fails=1 --rerun-fails-max-failures=6 --rerun-fails-abort-on-data-race --rerun-fails-report bin/rerun.txt --packages "$(2)" -- $(1) && \
	{ ! test -s bin/rerun.txt || { echo "failed once, and passed alone:"; cat bin/rerun.txt; }; }
else
gotest = $(GO) test $(1) $(2)
endif

# Where `make install` puts things; DESTDIR goes before it, for packages.
PREFIX ?= /usr/local
DESTDIR ?=
SHARE := $(DESTDIR)$(PREFIX)/share
BACKENDS := $(DESTDIR)$(PREFIX)/lib/shoal/lib/ollama

.PHONY: help build install install-files install-service release uninstall demo firsthour clients architectures quick test llama test-device race reach scale lint lint-metrics vuln bench bench-save bench-compare fuzz proto clean FORCE
build: bin/shoal ## the program, into bin/shoal

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'

bin/shoal: FORCE
	@mkdir -p bin
	@[ -d "$$($(GO) env GOCACHE)/00" ] || echo "building; the first time this takes some minutes, most of it for the engine" >&2
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./cmd/shoal

# The binary, GPU backends if contrib/accel has built some, the manual page,
# completion for three shells, and how the system's service manager runs a node.
install: build install-files ## into PREFIX (/usr/local): the program, completion, manual page, service

BIN := bin/shoal
RUN = $(BIN)
install-files:
	install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)/man/man1 $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/shoal
	@for f in $(wildcard $(dir $(BIN))lib/ollama/*); do \
		install -d $(BACKENDS) && cp -P "$$f" $(BACKENDS)/ || exit 1; \
	done
	$(RUN) man > $(SHARE)/man/man1/shoal.1
	$(RUN) completion bash > $(SHARE)/bash-completion/completions/shoal
	$(RUN) completion zsh > $(SHARE)/zsh/site-functions/_shoal
	$(RUN) completion fish > $(SHARE)/fish/vendor_completions.d/shoal.fish
	$(MAKE) --no-print-directory install-service

ifeq ($(shell uname -s),Darwin)
SERVICE_FILES := $(SHARE)/shoal/net.shoal.node.plist
install-service:
	install -d $(SHARE)/shoal
	sed 's|/usr/local/bin|$(PREFIX)/bin|' contrib/launchd/net.shoal.node.plist > $(SERVICE_FILES)
else
LIB := $(DESTDIR)$(PREFIX)/lib
SERVICE_FILES := $(LIB)/systemd/system/shoal.service $(LIB)/systemd/user/shoal.service $(LIB)/sysusers.d/shoal.conf $(LIB)/tmpfiles.d/shoal.conf $(LIB)/sysctl.d/50-shoal.conf
# Settings that are there stay.
install-service:
	install -d $(sort $(dir $(SERVICE_FILES))) $(DESTDIR)/etc/shoal
	sed 's|/usr/local/bin|$(PREFIX)/bin|' contrib/systemd/shoal.service > $(LIB)/systemd/system/shoal.service
	sed 's|/usr/local/bin|$(PREFIX)/bin|' contrib/systemd/user/shoal.service > $(LIB)/systemd/user/shoal.service
	install -m 644 contrib/systemd/sysusers.conf $(LIB)/sysusers.d/shoal.conf
	install -m 644 contrib/systemd/tmpfiles.conf $(LIB)/tmpfiles.d/shoal.conf
	install -m 644 contrib/systemd/sysctl.conf $(LIB)/sysctl.d/50-shoal.conf
	test -e $(DESTDIR)/etc/shoal/node.toml || install -m 640 contrib/config/node.toml $(DESTDIR)/etc/shoal/node.toml
endif

uninstall: ## what install has put there
	rm -f $(DESTDIR)$(PREFIX)/bin/shoal $(SHARE)/man/man1/shoal.1 $(SHARE)/bash-completion/completions/shoal $(SHARE)/zsh/site-functions/_shoal $(SHARE)/fish/vendor_completions.d/shoal.fish $(SERVICE_FILES)
	rm -rf $(DESTDIR)$(PREFIX)/lib/shoal

demo: build ## a network of nodes on this machine, and an answer by it
	@bin/shoal demo

firsthour: build ## what a newcomer types in the first hour, with the output
	@contrib/firsthour.sh

# Installs some dozens of clients from the registries of five languages, into
# CLIENTS_CACHE; the first time takes half an hour. ONLY names some of them.
ONLY ?=
clients: build ## clients against a network, and README's table of them; ONLY=openai-python,codex for some
	CGO_ENABLED=0 $(GO) run ./contrib/clients --write --only '$(ONLY)' $(if $(CLIENTS_CACHE),--cache '$(CLIENTS_CACHE)')

# Without C nothing has to be compiled for minutes, and -short leaves out what
# takes over a second. What is left out is named.
quick: export CGO_ENABLED := 0
quick: ## vet and the short tests of every package that needs no C: half a minute
	@packages=$$($(GO) run ./contrib/nocgo) && $(GO) vet $$packages && $(call gotest,-short -parallel 8 -timeout 2m,$$packages)

# Tests of networks wait more than they compute, so more of them run at once than
# there are cores. SHOAL_SEEDS has tests of random networks try more of them.
test: ## vet and all tests
	$(GO) vet ./...
	$(call gotest,-timeout 15m -parallel 4,./...)
	cd contrib/prometheus && $(GO) vet ./... && $(GO) test ./...

# A GPU gives the processor's tokens; after contrib/accel has built its back end.
DEVICE ?= Vulkan0
test-device: ## the same tokens by DEVICE (Vulkan0) as by the processor
	SHOAL_TEST_DEVICE=$(DEVICE) OLLAMA_LIBRARY_PATH=$(CURDIR)/bin/lib/ollama $(GO) test -count=1 -timeout 30m -v -run 'TestDevice$$' ./node/engine/ggml

# The tests of the second engine, with llama.cpp's library in the folder SHOAL_LIBLLAMA;
# without one, the pinned build is installed into LLAMA_CACHE first. Where it cannot be
# had, that is said, and nothing is tested: `make test` skips these tests likewise.
LLAMA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/shoal-llama
LLAMA_TESTS := ./node/engine/llama/... ./node/engine/cut/... ./node/serve ./cmd/shoal/install
llama: build ## tests of the engine that opens llama.cpp's library; installs one for them
	@dir="$(SHOAL_LIBLLAMA)"; if [ -z "$$dir" ]; then \
		dir=$$(bin/shoal engine install --home $(LLAMA_CACHE) --accel cpu --json | sed -n 's/.*"dir":"\([^"]*\)".*/\1/p'); \
	fi; \
	if [ -z "$$dir" ]; then \
		echo "NOT TESTED with llama.cpp's library: it could not be installed, and SHOAL_LIBLLAMA names none" >&2; exit 0; \
	fi; \
	bin/shoal engine test --home $(LLAMA_CACHE) --llama "$$dir" && \
	SHOAL_LIBLLAMA="$$dir" $(GO) test -timeout 10m $(LLAMA_TESTS)

# go-libp2p 0.51.0's AutoRelay reads how many relays it has under another lock than it
# writes them under, which does no harm, and is reported whenever a relay breaks off at an
# odd moment: that package alone is not watched.
race: ## tests of the packages whose goroutines meet, with the race detector
	$(call gotest,-race -gcflags=github.com/libp2p/go-libp2p/p2p/host/autorelay=-race=false -timeout 15m,$(RACE))

# REACH has flags, as in REACH='-pairs port:symmetric -scenarios none'.
REACH ?=
reach: ## three homes behind every pair of NATs, with real daemons; needs root and Linux
	@[ "$$(id -u)" = 0 ] || { echo "NOT TESTED behind NATs: that needs root" >&2; exit 1; }
	@$(MAKE) --no-print-directory build
	CGO_ENABLED=0 $(GO) run ./testnet/natlab/reach $(REACH)

# Sizes that take too long for each time: 1,000 DHTs, and an hour of 12 nodes.
scale: ## lookups among a thousand nodes, and what an idle one costs, in virtual time
	SHOAL_TEST_DHT_NODES=1000 SHOAL_TEST_IDLE_NODES=12 CGO_ENABLED=0 $(GO) test -count=1 -timeout 30m -v -run 'TestManyDHTNodes|TestIdleHome|TestListLength' ./node/network

lint: lint-metrics ## gofmt, golangci-lint, and the alerts
	@test -z "$$(gofmt -l cmd contrib node protocol testnet | tee /dev/stderr)" || { echo "run gofmt -w on these" >&2; exit 1; }
	$(GO) run $(GOLANGCI) run ./...
	cd contrib/prometheus && $(GO) run $(GOLANGCI) run --config ../../.golangci.yml ./...

# Prometheus's own tool, on the alerts; the dashboard's lint is a test beside them, in a
# module of its own: nothing else needs what it needs.
lint-metrics: ## the alerts and the dashboard alone
	cd contrib/prometheus && $(GO) test ./...
	cd contrib/prometheus && $(PROMTOOL) check rules alerts.yml && $(PROMTOOL) test rules alerts_test.yml

# Known vulnerabilities that the program can reach. Where their database cannot be
# reached nothing is checked, and that is said.
vuln: ## known vulnerabilities that the program can reach
	@GOBIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) install $(GOVULNCHECK) && bin/govulncheck -db $(VULNDB) -version | grep -q 'DB updated' || { \
		echo "NOT CHECKED for known vulnerabilities: govulncheck or $(VULNDB) cannot be reached" >&2; exit 0; }; \
	bin/govulncheck -db $(VULNDB) ./cmd/shoal

bench: ## all benchmarks once
	$(GO) test -run '^$$' -bench . -benchmem ./...

# Figures to compare with, one file per class of machine: CLASS names it. Saved is
# what this machine does now; compared with is what the file says. benchstat tells
# noise from change, for which it needs each benchmark BENCHCOUNT times.
CLASS ?= $(shell uname -sm | tr 'A-Z ' 'a-z-')-$(shell getconf _NPROCESSORS_ONLN)cpu
BENCHCOUNT ?= 6
BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
BENCHMARKS = $(GO) test -run '^$$' -bench . -benchmem -benchtime 0.3s -count $(BENCHCOUNT) $(BENCHPKG)
BENCHPKG ?= ./...
bench-save: ## all benchmarks, into contrib/bench/CLASS.txt
	@mkdir -p bin && $(BENCHMARKS) > bin/bench.txt || { cat bin/bench.txt >&2; exit 1; }
	@grep -E '^(goos|goarch|pkg|cpu|Benchmark)' bin/bench.txt > contrib/bench/$(CLASS).txt
	@echo "saved as contrib/bench/$(CLASS).txt"

bench-compare: ## all benchmarks, beside contrib/bench/CLASS.txt
	@test -e contrib/bench/$(CLASS).txt || { echo "there is no contrib/bench/$(CLASS).txt: make bench-save on the commit to compare with, or name a CLASS" >&2; exit 1; }
	@mkdir -p bin && $(BENCHMARKS) > bin/bench.txt || { cat bin/bench.txt >&2; exit 1; }
	@CGO_ENABLED=0 $(GO) run $(BENCHSTAT) contrib/bench/$(CLASS).txt bin/bench.txt

# Every fuzz test for FUZZTIME each. An input that is new is made smaller for a
# minute, unless told otherwise, and nothing else is tried meanwhile.
fuzz: ## every fuzz test for FUZZTIME (20s) each
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime $(FUZZMIN) $$pkg || exit 1; \
		done; \
	done

# After a change of protocol/wire.proto; needs protoc and protoc-gen-go.
proto: ## protocol/wire.pb.go, after a change of wire.proto
	protoc --go_out=. --go_opt=module=github.com/shoalnet/shoal protocol/wire.proto

# --help tells the rest, such as the key that SIGN_KEY must name, or RELEASE=--unsigned.
RELEASE ?=
release: ## archives, .deb, .rpm, formula, installer, checksums and bills of materials in dist/
	contrib/release/release.sh $(RELEASE)

clean: ## remove bin/ and dist/
	rm -rf bin dist

architectures: ## the table of architectures that llama.cpp's library computes here; needs SHOAL_LIBLLAMA
	SHOAL_ARCHITECTURES_UPDATE=1 $(GO) test ./node/engine/llama -run '^TestTable$$' -count=1 -timeout 30m
