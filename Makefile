# sallyport: `make` lists the targets. On Linux `make run` and `make test` need Go and nothing else.

GO      ?= go
BIN     := bin
# Tools by pinned version: built into bin/ once, never into the module.
OPA         := $(BIN)/opa-v1.22.2
STATICCHECK := $(BIN)/staticcheck-v0.8.2
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -X main.version=$(VERSION)
FUZZTIME ?= 20s
BENCH_ROUNDS ?= 3
BENCH_DURATION ?= 1s

.DEFAULT_GOAL := help
.PHONY: help build run test lint rego golden cover fuzz bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/sallyport
	@mkdir -p $(BIN)
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/sallyport ./cmd/sallyport

run: build ## run the proxy on 127.0.0.1:1080 with the default policy (ARGS='--policy DIR' for yours)
	$(BIN)/sallyport run $(ARGS)

test: lint rego ## everything that must pass before a change lands: lint, Rego, Go tests with -race
	$(GO) test -race -parallel 4 -timeout 25m ./...

lint: $(STATICCHECK) ## gofmt, go vet, staticcheck, go mod tidy
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(GO) mod tidy -diff

rego: $(OPA) ## OPA's own fmt, check, test with full coverage, and build on the policies that we ship; regal, if it is installed
	@OPA=$(abspath $(OPA)) testdata/rego.sh

golden: ## write the golden files anew: JSON Schemas, and the reference pages in docs/
	$(GO) test ./policy -run TestSchemas -update
	$(GO) test ./cmd/sallyport -run TestReference -update

cover: ## coverage of the Go tests, by function
	@mkdir -p $(BIN)
	$(GO) test -coverpkg=./... -coverprofile=$(BIN)/cover.out ./...
	$(GO) tool cover -func=$(BIN)/cover.out | tail -1

fuzz: ## fuzz every parser, FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

bench: build ## all Go benchmarks, decisions beside OPA's SDK among them; then whole connections beside the peers that are installed (BENCH_ROUNDS, BENCH_DURATION, BENCH_ARGS)
	$(GO) test -run '^$$' -bench . $$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n 1 dirname | sort -u)
	$(GO) run ./cmd/bench --sallyport $(BIN)/sallyport --rounds $(BENCH_ROUNDS) --duration $(BENCH_DURATION) $(BENCH_ARGS)

clean: ## remove what was built
	rm -rf $(BIN)

$(OPA):
	@mkdir -p $(BIN)
	GOBIN=$(abspath $(BIN)) $(GO) install github.com/open-policy-agent/opa@v1.22.2
	mv $(BIN)/opa $@

$(STATICCHECK):
	@mkdir -p $(BIN)
	GOBIN=$(abspath $(BIN)) $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	mv $(BIN)/staticcheck $@
