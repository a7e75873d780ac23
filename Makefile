# iam-token-rotator. `make` alone says what there is to do.

SHELL := /bin/sh
.DEFAULT_GOAL := help

GO      ?= go
ARCH    ?= arm64
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# lambda.norpc leaves out the RPC mode of the retired go1.x runtime.
# -trimpath and -buildvcs=false make two builds of one commit the same bytes.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w -X main.version=$(VERSION)'

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help build package build-local run sandbox invoke-local test check test-go conformance clean

help: ## say what there is to do
	@echo 'iam-token-rotator: keeps a valid IBM Cloud IAM access token in a secret'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build the Lambda binary, build/rotate/bootstrap (ARCH=arm64 or amd64)
	@case '$(ARCH)' in arm64|amd64) ;; *) echo "ARCH=$(ARCH) is not known: use arm64 or amd64" >&2; exit 2;; esac
	GOOS=linux GOARCH=$(ARCH) $(BUILD) -o build/rotate/bootstrap ./functions/rotate

package: build ## pack it into build/rotate.zip, the same bytes every time
	$(GO) run ./scripts/package -o build/rotate.zip build/rotate/bootstrap

build-local: # the programs for this machine
	@$(BUILD) -o build/local/bootstrap ./functions/rotate
	@$(BUILD) -o build/local/ ./scripts/sandbox ./scripts/invoke ./scripts/demo

run: build-local ## rotate a token in the sandbox of IBM Cloud and use it
	@build/local/demo -bin build/local

sandbox: build-local ## serve the sandbox on 127.0.0.1:8480 until Ctrl-C
	@echo 'To use it, in another terminal:'
	@echo '  set -a; . build/sandbox.env; set +a'
	@echo '  build/local/bootstrap -mode check     # or: make invoke-local'
	@echo '  curl -s $$IAM_URL/_sandbox/requests    # what was asked of it'
	@exec build/local/sandbox -env build/sandbox.env

EVENT ?= functions/rotate/event.json
invoke-local: build-local ## deliver EVENT=file to the function, against a running make sandbox
	@test -f build/sandbox.env || { echo 'build/sandbox.env is missing: start `make sandbox` in another terminal first' >&2; exit 2; }
	@set -a; . build/sandbox.env; set +a; build/local/invoke -event '$(EVENT)' -- build/local/bootstrap

test: check test-go ## format, vet, staticcheck, and every test with the race detector

check:
	@echo 'gofmt'; unformatted=$$(gofmt -l functions scripts); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	@echo 'the shipped binary imports no sandbox and no test framework'
	@bad=$$($(GO) list -deps -tags lambda.norpc ./functions/rotate | grep -E 'ibmcloudtest|^testing$$|/scripts/' || true); \
		test -z "$$bad" || { echo "functions/rotate imports $$bad" >&2; exit 1; }

# The race detector needs cgo and a C compiler. CI requires it.
test-go:
	@if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null; then \
		echo '$(GO) test -race ./...'; $(GO) test -race ./...; \
	elif [ "$$CI" = true ]; then \
		echo 'the race detector needs cgo and a C compiler: install gcc' >&2; exit 1; \
	else \
		echo '$(GO) test ./... (without -race: that needs cgo and a C compiler)'; $(GO) test ./...; \
	fi

conformance: ## run IBM's own SDK integration test against the sandbox
	scripts/conformance

clean: ## remove what was built
	rm -rf build
