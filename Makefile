# iam-token-rotator. `make` alone says what there is to do.

SHELL := /bin/sh
.DEFAULT_GOAL := help

GO   ?= go
ARCH ?= arm64
override ARCH := $(value ARCH)
export GO ARCH
# ARCH as Go calls it, empty if it is not known.
goarch := $(if $(word 2,$(ARCH)),,$(patsubst aarch64,arm64,$(patsubst x86_64,amd64,$(filter arm64 aarch64 amd64 x86_64,$(ARCH)))))

# A tag may hold what a shell would run, and a version what the linker takes for options.
ifndef VERSION
VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null | LC_ALL=C tr -c 'A-Za-z0-9._+\n-' _),dev)
else
override VERSION := $(value VERSION)
odd := $(VERSION)
$(foreach c,a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z 0 1 2 3 4 5 6 7 8 9 . _ + -,$(eval odd := $$(subst $c,,$$(odd))))
ifneq ($(odd),)
$(error VERSION may have letters, digits, and . _ + - alone)
endif
endif
export VERSION

# lambda.norpc leaves out the RPC mode of the retired go1.x runtime; awslambda, for the zip alone, all sources of AWS
# credentials but those that Lambda uses.
# -trimpath and -buildvcs=false make two builds of one commit the same bytes.
BUILD := CGO_ENABLED=0 $(GO) build -buildvcs=false -ldflags "-s -w -X main.version=$$VERSION" -tags lambda.norpc
RELEASE := $(BUILD),awslambda -trimpath

# The tools' versions and sums are in .ci/tools.mod and .ci/tools.sum.
TOOL := CGO_ENABLED=0 $(GO) tool -modfile=.ci/tools.mod

# first FILE says, before the first build, how long it takes, or that there is no Go.
first = command -v $(firstword $(GO)) >/dev/null || { echo 'Go is not installed, or not in PATH: https://go.dev/dl' >&2; exit 2; }; [ -e $(1) ] || echo 'Building; with an empty build cache this takes a minute or two.' >&2

.PHONY: help run sandbox aws-sandbox invoke-local doctor examples build-local test check test-go vulncheck conformance \
	simulate fuzz canary bench build package notice sbom reproducible build-rotatorctl deploy deploy-build invoke status logs rollback destroy clean

help: ## say what there is to do
	@echo 'iam-token-rotator: keeps a valid IBM Cloud IAM access token in a secret'
	@echo
	@awk -F ':.*## ' '/^## / { printf "\n%s\n", substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

## Run and try

run: build-local ## rotate a token in the sandbox of IBM Cloud and use it
	@build/local/demo -bin build/local

sandbox: build-local ## serve the sandbox on ADDR=127.0.0.1:8480 until Ctrl-C
	@exec build/local/sandbox -addr "$${ADDR:-127.0.0.1:8480}" -env build/sandbox.env

aws-sandbox: build-local ## serve a sandbox of AWS, too, on ADDR=127.0.0.1:8481, to deploy without an account
	@exec build/local/awssandbox -addr "$${ADDR:-127.0.0.1:8481}" -env build/aws.env

EVENT ?= functions/rotate/event.json
export EVENT
invoke-local: build-local ## deliver EVENT=file to the function, against a running make sandbox
	@test -f build/sandbox.env || { echo 'build/sandbox.env is missing: start `make sandbox` in another terminal first' >&2; exit 2; }
	@set -a; . build/sandbox.env; set +a; build/local/invoke -event "$$EVENT" -- build/local/iam-token-rotator

doctor: build-local ## check all that the rotations of your environment rely on, and say what to do; writes nothing
	@if [ -n "$$SECRETS_MANAGER_URL" ]; then echo 'This is about your environment: SECRETS_MANAGER_URL is set.'; \
		[ -z "$$SECRETS_MANAGER_APIKEY" ] || [ -z "$$BOOTSTRAP_SECRET_ARN" ] || \
			echo 'The bootstrap key is that of SECRETS_MANAGER_APIKEY; unset it to check the deployed one, of BOOTSTRAP_SECRET_ARN.'; \
	elif [ -f build/sandbox.env ]; then \
		echo 'This is about the sandbox of build/sandbox.env: SECRETS_MANAGER_URL is not set.'; set -a; . build/sandbox.env; set +a; \
	else echo 'This is about your environment, which has no SECRETS_MANAGER_URL: load build/ibm.env, or start `make sandbox`.'; \
	fi; \
	if [ -n "$$BOOTSTRAP_SECRET_ARN" ] && [ -z "$$SECRETS_MANAGER_APIKEY$$SECRETS_MANAGER_APIKEY_ARN$$IAM_PROFILE_NAME$$IAM_PROFILE_ID" ]; then \
		echo 'The bootstrap key is that of BOOTSTRAP_SECRET_ARN.'; export SECRETS_MANAGER_APIKEY_ARN="$$BOOTSTRAP_SECRET_ARN"; \
	fi; build/local/iam-token-rotator doctor

examples: ## run jobs in shell, Go, Python, Node.js and Java, of Lambda and GitLab, with a new, a replaced and an expired token
	@$(call first,build/local/examples)
	@$(BUILD) -o build/local/ ./scripts/examples ./scripts/examples/go-job
	@build/local/examples

build-local: # the programs for this machine
	@$(call first,build/local/iam-token-rotator)
	@$(BUILD) -o build/local/iam-token-rotator ./functions/rotate
	@$(BUILD) -o build/local/ ./scripts/sandbox ./scripts/awssandbox ./scripts/invoke ./scripts/demo ./scripts/rotatorctl

## Test

# The race detector checks the packages with concurrent code, but for what plays hours and months: it takes five times as long.
# The groups run at once; of the raced one, which takes less time in all, a package at a time.
RACED   = -p=1 -skip ^TestHours $$($(GO) list ./functions/... | grep -v /simulation$$)
UNRACED = ./scripts/readmetest ./scripts/canary ./scripts/rotatorctl ./scripts/iamtokentest ./functions/internal/simulation ./infra/... ./scripts/... # the longest first
test: check test-go ## format, vet, staticcheck, gosec, and every test; the last line says what was skipped

check: # what needs no test to run
	@echo 'The checks and tools are built first; with an empty build cache that takes two minutes.' >&2
	@echo 'gofmt'; unformatted=$$(gofmt -l functions infra scripts); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted" >&2; exit 1; }
	@echo 'shfmt'; $(TOOL) shfmt -d $$($(TOOL) shfmt -f .ci scripts)
	$(GO) mod verify
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(GO) vet -tags awslambda ./functions/...
	@echo 'staticcheck'; $(TOOL) staticcheck ./...
	@echo 'gosec'; $(TOOL) gosec -quiet -terse -nosec-require-rules -nosec-require-justification ./functions/...
	@# The scripts are for a person at a terminal: to start programs and read files that this person names is their work,
	@# their servers listen on loopback, and what they write is no secret. What looks like one to G101 names one.
	@$(TOOL) gosec -quiet -terse -nosec-require-rules -nosec-require-justification -exclude=G101,G104,G112,G122,G204,G301,G304,G306,G702,G703,G704 ./scripts/...
	@echo 'the shipped binary imports no sandbox, no test framework and no further source of AWS credentials'
	@bad=$$($(GO) list -deps -tags lambda.norpc,awslambda ./functions/rotate | grep -E 'ibmcloudtest|awstest|^testing$$|/scripts/|aws-sdk-go-v2/(config|service/(sts|sso|signin))' || true); \
		test -z "$$bad" || { echo "functions/rotate imports $$bad" >&2; exit 1; }

# The race detector needs cgo and a C compiler. CI requires it.
test-go:
	@if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null; then \
		race=-race; echo 'The tests of ./functions/... run with -race, but for the simulation.'; \
	elif [ "$$CI" = true ]; then \
		echo 'the race detector needs cgo and a C compiler: install gcc' >&2; exit 1; \
	else \
		race=; echo 'The tests run without -race: it needs cgo and a C compiler.'; \
	fi; \
	GO='$(GO)' $(GO) run ./scripts/gotest -vet=off $$race $(RACED) -- -vet=off $(UNRACED) -- -vet=off -run ^TestHours ./functions/internal/rotation

vulncheck: ## find known vulnerabilities in what is used; says so if their database is out of reach
	@mkdir -p build; $(TOOL) govulncheck ./... >build/vulncheck.txt 2>&1; status=$$?; cat build/vulncheck.txt; \
	if [ $$status != 0 ] && grep -q '^govulncheck: fetching vulnerabilities' build/vulncheck.txt; then \
		echo 'vulncheck: the database is out of reach: nothing was checked'; else exit $$status; fi

conformance: ## run IBM's own tests of its SDKs, and the provider of External Secrets, against the sandbox
	@$(call first,build/local/conformance)
	@$(BUILD) -o build/local/ ./scripts/conformance
	@build/local/conformance

## Find faults

# A year of the deployed system in virtual time. The report is written to a file,
# so that its last line is the last of all.
SEED    ?= 1
DAYS    ?= 365
BETWEEN ?= 24h
SVG     ?= build/simulation.svg
export SEED DAYS BETWEEN SVG
simulate: export MIN_REMAINING ?= 8m
simulate: export LIFETIME ?= 60m
simulate: ## play a year under faults in virtual time and check that the promises are kept (SEED=1 DAYS=365 MIN_REMAINING=8m LIFETIME=60m SVG=file)
	@mkdir -p build; rm -f build/simulation.txt
	@case "$$SEED/$$DAYS" in */*[!0-9]* | *[!0-9]*/* | /* | */ | */0) echo 'SEED and DAYS take whole numbers, DAYS 1 at least' >&2; exit 2 ;; esac
	@echo "Playing $$DAYS days of seed $$SEED; a year takes about two minutes." >&2
	@svg=$$SVG; case $$svg in /*) ;; *) svg="$$PWD/$$svg" ;; esac; \
	(: >>"$$svg") || { echo "simulate: SVG=$$SVG cannot be written" >&2; exit 2; }; \
	$(GO) test ./functions/internal/simulation -run '^TestSimulation$$' -count=1 -timeout=120m -args -story -seed="$$SEED" -days="$$DAYS" \
		-between="$$BETWEEN" -min-remaining="$$MIN_REMAINING" -lifetime="$$LIFETIME" -report="$$PWD/build/simulation.txt" -svg="$$svg" >build/simulation.log 2>&1; failed=$$?; \
	if [ "$$failed" != 0 ]; then cat build/simulation.log >&2; fi; [ ! -f build/simulation.txt ] || cat build/simulation.txt; exit $$failed

FUZZTIME ?= 1m
export FUZZTIME
fuzz: ## throw generated input at every decoder, FUZZTIME=1m at each
	@for package in $$(grep -rl '^func Fuzz' functions --include='*_test.go' | xargs -n1 dirname | sort -u); do \
		for target in $$($(GO) test -list '^Fuzz' ./$$package | grep '^Fuzz'); do \
			echo "$$package $$target"; $(GO) test ./$$package -run '^$$' -fuzz "^$$target\$$" -fuzztime "$$FUZZTIME" || exit 1; \
		done; \
	done

canary: ## run everything through every fault and every planted leak, and search what comes out for keys and tokens
	@mkdir -p build; echo 'The canary takes about ten minutes.' >&2
	@$(GO) test ./scripts/canary -count=1 -timeout=60m -v -args -all >build/canary.log 2>&1; failed=$$?; \
	grep -E '^ +[a-z]+_test.go:[0-9]+: |^panic|^FAIL|^ok' build/canary.log; exit $$failed

bench: build-local package ## measure round trips, cold start and many rotations against the floor and other ways
	@$(RELEASE) -o build/local/bootstrap ./functions/rotate
	@$(BUILD) -o build/local/ ./scripts/bench ./scripts/bench/hello ./scripts/bench/hellosdks ./scripts/bench/plainsdk
	@build/local/bench -bin build/local

## Release

build: ## build the Lambda binary, build/rotate/bootstrap (ARCH=arm64 or amd64)
	@[ '$(goarch)' ] || { echo "ARCH=$$ARCH is not known: use arm64 or amd64" >&2; exit 2; }
	@$(call first,build/rotate/bootstrap)
	GOOS=linux GOARCH=$(goarch) $(RELEASE) -o build/rotate/bootstrap ./functions/rotate

package: notice ## pack it into build/rotate.zip, the same bytes every time
	$(GO) run ./scripts/package -o build/rotate.zip build/rotate/bootstrap build/THIRD-PARTY.txt

notice: build ## write the licences of what is in the binary to build/THIRD-PARTY.txt
	$(GO) run ./scripts/package -notice build/THIRD-PARTY.txt build/rotate/bootstrap

sbom: build ## write what is in the binary to build/sbom.json (CycloneDX)
	@GOOS=linux GOARCH=$(goarch) "$$($(TOOL) -n cyclonedx-gomod)" bin -json -licenses -std -noserial -notimestamp -version "$$VERSION" -output build/sbom.json build/rotate/bootstrap
	@echo 'build/sbom.json: written'

# Two copies of this tree in folders of different names; whoever has the commit can make the very zip that runs.
# MAKEFLAGS would hand this make's targets and options to those that pack.
reproducible: ## pack the zip in two folders and compare the bytes
	@work=$$(mktemp -d) || exit 1; trap 'rm -rf "$$work"' EXIT; trap 'exit 130' INT TERM; \
	echo 'Packing twice; with an empty build cache this takes two minutes.' >&2; \
	for folder in "$$work/one" "$$work/another folder"; do \
		mkdir "$$folder" && tar -cf "$$work/tree.tar" --exclude=./build --exclude=./.git . && tar -xf "$$work/tree.tar" -C "$$folder" && \
		env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -C "$$folder" --silent package VERSION=reproducible ARCH="$$ARCH" GO="$$GO" first=: >/dev/null || exit 1; \
	done; \
	cmp "$$work/one/build/rotate.zip" "$$work/another folder/build/rotate.zip" || { echo 'reproducible: two builds of the same source differ' >&2; exit 1; }; \
	size=$$(wc -c <"$$work/one/build/rotate.zip"); \
	most=$(if $(filter amd64,$(goarch)),6000000,5500000); \
	[ "$$size" -le "$$most" ] || { echo "reproducible: the zip has $$size bytes, more than $$most" >&2; exit 1; }; \
	sum=$$({ sha256sum || shasum -a 256; } 2>/dev/null <"$$work/one/build/rotate.zip"); \
	echo "reproducible: two builds gave the same $$((size)) bytes, sha256 $${sum%% *}"

## AWS

# scripts/rotatorctl has the logic; its commands say with -h what each variable means. They read them in the environment.
STACK ?= iam-token-rotator
export STACK
rotatorctl = build/local/rotatorctl

build-rotatorctl:
	@$(call first,$(rotatorctl))
	@$(BUILD) -o $(rotatorctl) ./scripts/rotatorctl

deploy: build-rotatorctl ## deploy to AWS and rotate once (build/local/rotatorctl deploy -h explains the variables)
	@$(rotatorctl) deploy

deploy-build: # what rotatorctl deploy uploads
	@GOOS=linux GOARCH=$(goarch) $(RELEASE) -o "$$DEPLOY_BINARY" ./functions/rotate

invoke: build-rotatorctl ## run the deployed function (MODE=rotate, ensure, check or doctor)
	@$(rotatorctl) invoke

status: build-rotatorctl ## show when each deployed token expires and how its last run went
	@$(rotatorctl) status

MINUTES ?= 60
export MINUTES
logs: build-rotatorctl ## print what the deployed function's log says (MINUTES=60)
	@case $$MINUTES in *[!0-9]* | ???????*) ;; *[1-9]*) exit ;; esac; echo 'MINUTES must be a whole number from 1 to 999999' >&2; exit 2
	@$(rotatorctl) logs --since="$${MINUTES}m"

rollback: build-rotatorctl ## return to the version that was deployed before
	@$(rotatorctl) rollback

destroy: build-rotatorctl ## remove from AWS all that deploy made (YES=1: without asking)
	@$(rotatorctl) destroy$(if $(filter 1,$(YES)), --yes)

## Tidy up

clean: ## remove what was built; what setup or you wrote to build/ stays, since IAM shows a key only once
	[ ! -d build ] || { cd ./build && rm -rf local tests rotate deploy guard rotate.zip THIRD-PARTY.txt sbom.json vulncheck.txt canary.log simulation.log simulation.svg simulation.txt; }
	@rmdir build 2>/dev/null || [ ! -d build ] || { echo 'Not built, so these stay in build/:'; ls -A build; }
