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
GOSEC       := github.com/securego/gosec/v2/cmd/gosec@v2.30.0
CYCLONEDX   := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

.PHONY: help run sandbox aws-sandbox invoke-local doctor examples build-local test check test-go conformance \
	simulate fuzz canary bench build package notice sbom reproducible deploy invoke status logs destroy clean

help: ## say what there is to do
	@echo 'iam-token-rotator: keeps a valid IBM Cloud IAM access token in a secret'
	@echo
	@awk -F ':.*## ' '/^## / { printf "\n%s\n", substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

## Run and try

run: build-local ## rotate a token in the sandbox of IBM Cloud and use it
	@build/local/demo -bin build/local

sandbox: build-local ## serve the sandbox on 127.0.0.1:8480 until Ctrl-C
	@echo 'To use it, in another terminal:'
	@echo '  set -a; . build/sandbox.env; set +a'
	@echo '  build/local/bootstrap -mode check     # or: make invoke-local'
	@echo '  curl -s $$IAM_URL/_sandbox/requests    # what was asked of it'
	@build/local/sandbox -env build/sandbox.env & pid=$$!; trap 'kill $$pid' INT TERM; wait $$pid; status=$$?; \
	if kill -0 $$pid 2>/dev/null; then wait $$pid; status=$$?; fi; [ $$status != 0 ] || rm -f build/sandbox.env; exit $$status

aws-sandbox: build-local ## serve a sandbox of AWS beside it on 127.0.0.1:8481, to deploy without an account
	@echo 'To deploy there, beside `make sandbox`, in a third terminal:'
	@echo '  set -a; . build/sandbox.env && . build/aws.env && set +a'
	@echo '  export BOOTSTRAP_SECRET_ARN="$$(printenv SECRETS_MANAGER_APIKEY | scripts/put-bootstrap-key)"'
	@echo '  make deploy                           # then: make status, invoke MODE=check, logs, destroy'
	@exec build/local/awssandbox -env build/aws.env

EVENT ?= functions/rotate/event.json
invoke-local: build-local ## deliver EVENT=file to the function, against a running make sandbox
	@test -f build/sandbox.env || { echo 'build/sandbox.env is missing: start `make sandbox` in another terminal first' >&2; exit 2; }
	@set -a; . build/sandbox.env; set +a; build/local/invoke -event '$(EVENT)' -- build/local/bootstrap

doctor: build-local ## check all that the rotations of your environment rely on, and say what to do; writes nothing
	@if [ -z "$$SECRETS_MANAGER_URL" ] && [ -f build/sandbox.env ]; then \
		echo 'SECRETS_MANAGER_URL is not set: this is about the sandbox of build/sandbox.env'; set -a; . build/sandbox.env; set +a; \
	fi; build/local/bootstrap doctor

examples: build-local ## run jobs in shell and Go through a rotation, and with an expired token
	@$(BUILD) -o build/local/ ./scripts/examples/go-job
	@scripts/examples/run build/local

build-local: # the programs for this machine
	@$(BUILD) -o build/local/bootstrap ./functions/rotate
	@$(BUILD) -o build/local/ ./scripts/sandbox ./scripts/awssandbox ./scripts/invoke ./scripts/demo

## Test

test: check test-go ## format, vet, staticcheck, and every test with the race detector

check:
	@echo 'gofmt'; unformatted=$$(gofmt -l functions infra scripts); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	@echo 'gosec'
	@$(GO) run $(GOSEC) -quiet -terse -nosec-require-rules -nosec-require-justification ./functions/...
	@# The scripts are for a person at a terminal: to start programs and read files that this person names is their work,
	@# their servers listen on loopback, and what they write is no secret. What looks like one to G101 names one.
	@$(GO) run $(GOSEC) -quiet -terse -nosec-require-rules -nosec-require-justification -exclude=G101,G104,G112,G122,G204,G301,G304,G306,G702,G703,G704 ./scripts/...
	@echo 'the shipped binary imports no sandbox and no test framework'
	@bad=$$($(GO) list -deps -tags lambda.norpc ./functions/rotate | grep -E 'ibmcloudtest|awstest|^testing$$|/scripts/' || true); \
		test -z "$$bad" || { echo "functions/rotate imports $$bad" >&2; exit 1; }

# The race detector needs cgo and a C compiler. CI requires it.
test-go:
	@if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null; then \
		echo '$(GO) test -race ./...'; $(GO) test -race ./... && \
		echo 'a simulated month, without -race' && $(GO) test ./functions/internal/simulation; \
	elif [ "$$CI" = true ]; then \
		echo 'the race detector needs cgo and a C compiler: install gcc' >&2; exit 1; \
	else \
		echo '$(GO) test ./... (without -race: that needs cgo and a C compiler)'; $(GO) test ./...; \
	fi

conformance: ## run IBM's own SDK integration test against the sandbox
	scripts/conformance

## Look for faults

# A year of the deployed system in virtual time. The report is written to a file,
# so that its last line is the last of all.
SEED    ?= 1
DAYS    ?= 365
BETWEEN ?= 24h
SVG     ?= build/simulation.svg
simulate: ## play a year under faults in virtual time and hold it against the promises (SEED=1 DAYS=365)
	@mkdir -p build; rm -f build/simulation.txt
	@case '$(SEED)/$(DAYS)' in */*[!0-9]* | *[!0-9]*/* | /* | */ | */0) echo 'SEED and DAYS take whole numbers, DAYS 1 at least' >&2; exit 2 ;; esac
	@echo 'Playing $(DAYS) days of seed $(SEED); a year takes about two minutes.' >&2
	@$(GO) test ./functions/internal/simulation -run '^TestSimulation$$' -count=1 -timeout=120m -args -story -seed='$(SEED)' -days='$(DAYS)' \
		-between='$(BETWEEN)' -report="$$PWD/build/simulation.txt" -svg="$$PWD/$(SVG)" >build/simulation.log 2>&1; failed=$$?; \
	if [ -s build/simulation.txt ]; then cat build/simulation.txt; else cat build/simulation.log >&2; fi; test "$$failed" = 0

FUZZTIME ?= 1m
fuzz: ## throw generated input at every decoder, FUZZTIME=1m at each
	@for package in $$(grep -rl '^func Fuzz' functions --include='*_test.go' | xargs -n1 dirname | sort -u); do \
		for target in $$($(GO) test -list '^Fuzz' ./$$package | grep '^Fuzz'); do \
			echo "$$package $$target"; $(GO) test ./$$package -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(FUZZTIME)' || exit 1; \
		done; \
	done

canary: build-local ## run everything through every fault and search what comes out for keys and tokens
	@$(GO) run ./scripts/canary -bin build/local -scripts scripts

bench: build-local package ## measure round trips, cold start and many rotations against the floor and other ways
	@$(BUILD) -o build/local/ ./scripts/bench ./scripts/bench/hello ./scripts/bench/hellosdks ./scripts/bench/plainsdk
	@build/local/bench -bin build/local

## Release

build: ## build the Lambda binary, build/rotate/bootstrap (ARCH=arm64 or amd64)
	@case '$(ARCH)' in arm64|amd64) ;; *) echo "ARCH=$(ARCH) is not known: use arm64 or amd64" >&2; exit 2;; esac
	GOOS=linux GOARCH=$(ARCH) $(BUILD) -o build/rotate/bootstrap ./functions/rotate

package: notice ## pack it into build/rotate.zip, the same bytes every time
	$(GO) run ./scripts/package -o build/rotate.zip build/rotate/bootstrap build/THIRD-PARTY.txt

notice: build ## write the licences of what is in the binary to build/THIRD-PARTY.txt
	$(GO) run ./scripts/notice -o build/THIRD-PARTY.txt build/rotate/bootstrap

sbom: build ## write what is in the binary to build/sbom.json (CycloneDX)
	$(GO) run -exec 'env GOOS=linux GOARCH=$(ARCH)' $(CYCLONEDX) bin -json -licenses -std -noserial -notimestamp -version '$(VERSION)' -output build/sbom.json build/rotate/bootstrap
	@echo 'build/sbom.json: written'

reproducible: ## pack the zip in two folders and compare the bytes
	@scripts/reproducible

## AWS

# AWS: scripts/stack has the logic, and says with -h what each variable means.
STACK      ?= iam-token-rotator
DEPLOY_DIR ?= build/deploy
stack       = STACK='$(STACK)' ARCH='$(ARCH)' GO='$(GO)' BUILD_DIR='$(DEPLOY_DIR)' scripts/stack

deploy: ## deploy to AWS and rotate once (scripts/stack -h tells the variables)
	@$(stack) check
	@GOOS=linux GOARCH=$(ARCH) $(BUILD) -o '$(DEPLOY_DIR)/bootstrap' ./functions/rotate
	@$(stack) deploy

invoke: ## run the deployed function (MODE=rotate, ensure, check or doctor)
	@$(stack) invoke

status: ## say when each deployed token expires and how its last run went
	@$(stack) status

logs: ## print the deployed function's log (MINUTES=60)
	@$(stack) logs

destroy: ## remove from AWS all that deploy made
	@$(stack) destroy

## Tidy up

clean: ## remove what was built
	rm -rf build
