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
RACE := ./node ./node/api ./node/exchange ./node/metrics ./node/network ./node/stage ./node/session ./node/store ./testnet/...
FUZZTIME ?= 20s
# Executions spent on making one new input short. Go's own measure is a minute an
# input, and n bytes take n² executions: targets of longer inputs saw three, and
# set a measure of their own now.
FUZZMIN ?= 100x
PROMTOOL := $(shell command -v promtool || echo "env CGO_ENABLED=0 $(GO) run -tags remove_all_sd github.com/prometheus/prometheus/cmd/promtool@v0.316.0")
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB ?= https://vuln.go.dev
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Where `make install` puts things; DESTDIR goes before it, for packages.
PREFIX ?= /usr/local
DESTDIR ?=
SHARE := $(DESTDIR)$(PREFIX)/share
BACKENDS := $(DESTDIR)$(PREFIX)/lib/shoal/lib/ollama

.PHONY: build install install-files install-service release uninstall demo test test-device race lint lint-metrics vuln bench fuzz proto clean FORCE
build: bin/shoal

bin/shoal: FORCE
	@mkdir -p bin
	@[ -d "$$($(GO) env GOCACHE)/00" ] || echo "building; the first time this takes some minutes, most of it for the engine" >&2
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./cmd/shoal

# The binary, GPU backends if contrib/accel has built some, the manual page,
# completion for three shells, and how the system's service manager runs a node.
install: build install-files

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

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/shoal $(SHARE)/man/man1/shoal.1 $(SHARE)/bash-completion/completions/shoal $(SHARE)/zsh/site-functions/_shoal $(SHARE)/fish/vendor_completions.d/shoal.fish $(SERVICE_FILES)
	rm -rf $(DESTDIR)$(PREFIX)/lib/shoal

demo: build
	@bin/shoal demo

test:
	$(GO) vet ./...
	$(GO) test -timeout 15m ./...

# A GPU gives the processor's tokens; after contrib/accel has built its back end.
DEVICE ?= Vulkan0
test-device:
	SHOAL_TEST_DEVICE=$(DEVICE) OLLAMA_LIBRARY_PATH=$(CURDIR)/bin/lib/ollama $(GO) test -count=1 -timeout 30m -v -run 'TestDevice$$' ./node/engine/ggml

race:
	$(GO) test -race -timeout 15m $(RACE)

lint: lint-metrics
	@test -z "$$(gofmt -l cmd contrib node protocol testnet | tee /dev/stderr)" || { echo "run gofmt -w on these" >&2; exit 1; }
	$(GO) run $(GOLANGCI) run ./...

# Prometheus's own tool, on the alerts; the dashboard's lint is a test beside them.
lint-metrics:
	cd contrib/prometheus && $(PROMTOOL) check rules alerts.yml && $(PROMTOOL) test rules alerts_test.yml

# Known vulnerabilities that the program can reach. Where their database cannot be
# reached nothing is checked, and that is said.
vuln:
	@GOBIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) install $(GOVULNCHECK) && bin/govulncheck -db $(VULNDB) -version | grep -q 'DB updated' || { \
		echo "NOT CHECKED for known vulnerabilities: govulncheck or $(VULNDB) cannot be reached" >&2; exit 0; }; \
	bin/govulncheck -db $(VULNDB) ./cmd/shoal

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# Every fuzz test for FUZZTIME each. An input that is new is made smaller for a
# minute, unless told otherwise, and nothing else is tried meanwhile.
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime $(FUZZMIN) $$pkg || exit 1; \
		done; \
	done

# After a change of protocol/wire.proto; needs protoc and protoc-gen-go.
proto:
	protoc --go_out=. --go_opt=module=github.com/shoalnet/shoal protocol/wire.proto

# Archives, checksums and bills of materials in dist/; --help tells the rest, such as
# the key that SIGN_KEY must name, or RELEASE=--unsigned.
RELEASE ?=
release:
	contrib/release/release.sh $(RELEASE)

clean:
	rm -rf bin dist
