# Everything is built and tested from here; `make help` lists the targets.
GO      ?= $(shell command -v go || echo /usr/local/go/bin/go)
TOOLS   := .cache/bin
GUEST   := .cache/guest
PROGRAMS := containerd-shim-kata-cc-v2 kata-runtime tardev tardev-snapshotter kata-overlay clh-qemu
PACKAGES := busybox-static ca-certificates cryptsetup-bin curl fuse3 iproute2 iptables jq qemu-system-x86 xfsprogs

export CGO_ENABLED := 0
export PATH := $(CURDIR)/bin:$(CURDIR)/$(TOOLS):$(dir $(GO)):$(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help build test lint race fuzz golden generate conformance e2e critest soak soak-memory bench bench-shim demo guest tools containerds linters deps clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build our programs into bin/
	$(GO) build -trimpath -ldflags '-s -w' -o bin/ $(PROGRAMS:%=./cmd/%)

demo: deps build guest tools ## run the example pod in a virtual machine and show its life (KEEP=1, VMM=...)
	$(GO) run ./test/demo

test: deps build guest tools containerds ## every test, the end-to-end pod included; says what it skipped and why
	$(GO) run ./test/report -timeout 12m $$($(GO) list ./... | grep -v /test/e2e) -- -timeout 18m ./test/e2e

conformance: build ## the shim binary over ttrpc, without containerd
	$(GO) run ./test/report -count 1 -timeout 10m ./test/conformance/...

e2e: deps build guest tools containerds ## real containerd, real virtual machines
	$(GO) run ./test/report -count 1 -timeout 18m ./test/e2e

critest: deps build guest tools ## the conformance suite of the CRI, in virtual machines, into docs/conformance.md (HANDLER=kata-cc-sandbox; or FOCUS=regexp)
	cd test/tools && $(GO) test -c -o ../../$(TOOLS)/critest sigs.k8s.io/cri-tools/cmd/critest
	$(GO) build -trimpath -ldflags '-s -w' -o $(TOOLS)/ ./test/critest/standin
	@[ -x $(TOOLS)/busybox-shared/busybox ] || { set -ex; mkdir -p $(TOOLS)/busybox-shared; cd $(TOOLS)/busybox-shared; \
	apt-get download busybox; dpkg-deb -x busybox_*.deb package; mv package/bin/busybox .; rm -r package busybox_*.deb; }
	$(GO) run ./test/critest -handler '$(HANDLER)' $(if $(FOCUS),-focus '$(FOCUS)',-o docs/conformance.md)

soak: deps build guest tools ## pods one after another for SOAK (default 30m), counting what they leave
	KATA_CC_SOAK=$(or $(SOAK),30m) $(GO) test -count 1 -timeout 24h -run TestSoak -v ./test/e2e

soak-memory: ## CYCLES pods (default 1000) without virtual machines, and as many containers in one; they must not grow
	KATA_CC_SOAK_CYCLES=$(or $(CYCLES),1000) $(GO) test -count 1 -timeout 2h -run TestSoak -v ./test/conformance | grep -v '^time='

race: ## unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /test/e2e)

fuzz: ## each fuzz target for FUZZTIME (default 10s)
	$(GO) run ./test/fuzz -time $(or $(FUZZTIME),10s)

bench: deps build guest tools ## benchmarks and the phases of a pod's start, into docs/performance.md
	$(GO) run ./test/bench -o docs/performance.md

bench-shim: ## the conformance benchmarks, of any shim (SHIM=path) on any VMM like ours (CONFORMANCE_VMM=path)
	$(GO) test -run '^$$' -bench . -benchtime 0.3s -count $(or $(COUNT),3) ./test/conformance

golden: ## rewrite the golden files; review the change as one of the wire
	$(GO) test $$(grep -rl --include=*_test.go 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update

lint: linters ## gofmt, vet, shadow, staticcheck, errcheck, import rule
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags debug_console ./cmd/kata-agent
	shadow -test=false ./...
	staticcheck ./...
	errcheck -ignoretests -ignoregenerated -exclude tools/errcheck.txt ./...
	$(GO) test ./test/layering

generate: linters ## regenerate the checked-in generated code
	protogen -I agentclient/agentpb -out agentclient/agentpb -plugin $(TOOLS)/protoc-gen-go -plugin $(TOOLS)/protoc-gen-go-ttrpc $(notdir $(wildcard agentclient/agentpb/*.proto))
	protogen -I shim/sandboxpb -out shim/sandboxpb -plugin $(TOOLS)/protoc-gen-go -plugin $(TOOLS)/protoc-gen-go-ttrpc sandbox.proto
	cd hypervisor/clh/api && oapi-codegen -config oapi-codegen.yaml ../openapi.yaml

linters:
	@cd tools && $(GO) build -o ../$(TOOLS)/ tool ./protogen

tools: ## build containerd, crictl and CNI plugins for the tests
	cd test/tools && $(GO) build -o ../../$(TOOLS)/ tool
	$(GO) build -trimpath -ldflags '-s -w' -o $(TOOLS)/ ./test/cluster/pause

containerds: ## build containerd 1.7 and 2.2 and fetch Debian 12's 1.6, for the tests that run on them
	cd test/tools17 && $(GO) build -trimpath -ldflags '-s -w' -o ../../$(TOOLS)/containerd-1.7/ tool
	cd test/tools22 && $(GO) build -trimpath -ldflags '-s -w' -o ../../$(TOOLS)/containerd-2.2/ tool
	@[ -x $(TOOLS)/containerd-1.6/ctr ] || { set -ex; mkdir -p $(TOOLS)/containerd-1.6; cd $(TOOLS)/containerd-1.6; \
	apt-get download containerd/bookworm; dpkg-deb -x containerd_*.deb package; \
	mv package/usr/bin/containerd package/usr/bin/ctr .; rm -r package containerd_*.deb; }

guest: ## fetch the kernel and build the guest images, production and debug
	$(GO) run ./cmd/guest-image build -o $(GUEST)

deps: ## install the Debian packages that are missing
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	[ -z "$$missing" ] || { set -x; apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; }

clean: ## remove what was built; downloads stay in .cache
	rm -rf bin $(GUEST)
