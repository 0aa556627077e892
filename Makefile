# What a person needs on a fresh Debian 12: git, make, Go 1.26 or newer, and this file. Everything else is fetched by `make deps`
# (Debian packages) and `make tools` (programs that the tests run beside Narfold, pinned by tools/go.sum).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Each target runs its parts in the order written, also under -j: nothing is built before its compiler is installed.
.NOTPARALLEL:
.DEFAULT_GOAL := help

BIN := .cache/bin
GO := go

# The stamp that `narfold version` prints. A source archive has no git history and says "unknown" by itself.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := $(if $(VERSION),-X main.version=$(VERSION))

# How long one package's tests may take with the race detector on the slowest machine we care about (two shared cores).
TEST_TIMEOUT ?= 20m
# What `make test` tests and `make fuzz` fuzzes.
PKG ?= ./...
# How long each fuzz test runs under `make fuzz`.
FUZZTIME ?= 30s

.PHONY: help
help: ## list the targets
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: goversion ## the static binary ./narfold
	@echo "build: ./narfold $(VERSION)"
# -buildvcs=false: VERSION says it already, and Go's own stamping fails where git distrusts the owner of the checkout.
	@CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o narfold ./cmd/narfold

.PHONY: deps
deps: ## the Debian packages that the tests run (installs them when root, else says how)
	@scripts/deps.sh

.PHONY: tools
tools: goversion $(BIN)/versitygw $(BIN)/staticcheck ## the S3 server and the checker of the tests, in .cache/bin

.PHONY: test
test: deps tools ## everything a change must pass: gofmt, vet, staticcheck, all tests with the race detector
	@GO=$(GO) BIN=$(BIN) TEST_TIMEOUT=$(TEST_TIMEOUT) scripts/test.sh $(PKG)

.PHONY: demo
demo: deps $(BIN)/versitygw build ## a herder with real clients on this machine, step by step
	@scripts/demo.sh

.PHONY: bench
bench: deps tools build ## the measurements of docs/benchmarks
	@scripts/bench.sh

.PHONY: fuzz
fuzz: goversion ## every fuzz test for FUZZTIME (default 30s); PKG=./internal/nar for one package
	@GO=$(GO) FUZZTIME=$(FUZZTIME) scripts/fuzz.sh $(PKG)

.PHONY: clean
clean: ## remove what build and tests leave; the tools in .cache stay
	@rm -f narfold
	@find . -path ./.cache -prune -o -path ./.git -prune -o -type f \( -name '*.test' -o -name '*.prof' \) -exec rm -f {} +

.PHONY: goversion
goversion:
	@GO=$(GO) scripts/go-version.sh

# A tool is built again when its pinned version changes. It is built beside its place and moved there, so that an interrupted
# build leaves no half tool behind. Without -s -w the S3 server is half as large again.
$(BIN)/versitygw $(BIN)/staticcheck: tools/go.mod tools/go.sum | goversion
	@mkdir -p $(BIN)
	@echo "tools: building $(@F) (some minutes the first time)"
	@cd tools && CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o ../$@.new $(tool_$(@F))
	@mv $@.new $@

tool_versitygw := github.com/versity/versitygw/cmd/versitygw
tool_staticcheck := honnef.co/go/tools/cmd/staticcheck

# A staticcheck built by an older Go refuses the sources of a newer one.
$(BIN)/staticcheck: .cache/go-version
.cache/go-version: FORCE | goversion
	@mkdir -p .cache
	@v=$$($(GO) env GOVERSION); [ "$$(cat $@ 2>/dev/null)" = "$$v" ] || echo "$$v" > $@
.PHONY: FORCE
FORCE:
