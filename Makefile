# Plasmid. `make help` lists what can be made.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
VERSION := $(shell git describe --tags --abbrev=0 2>/dev/null || echo 0.1.0)
LDFLAGS := -s -w -X plasmid/internal/version.Version=$(VERSION)
export CGO_ENABLED ?= 0

# What the build machine needs beside Go, git and make. `make deps` installs
# what is missing of it.
PACKAGES := mmdebstrap systemd-container iproute2 nftables util-linux \
	ansible-core ansible buildah qemu-utils qemu-system-x86 \
	ovmf fdisk e2fsprogs dosfstools mtools openssh-client ca-certificates

PLASMID := bin/plasmid

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-21s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## install the Debian packages that are missing, and nothing else
	@missing=""; for p in $(PACKAGES); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
	done; \
	if [ -z "$$missing" ]; then echo "deps: nothing is missing"; exit 0; fi; \
	echo "deps: installing$$missing"; \
	[ $$(id -u) = 0 ] || { echo "deps: run as root, or: apt-get install$$missing" >&2; exit 1; }; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update && apt-get -qq install -y --no-install-recommends $$missing >/dev/null

.PHONY: build
build: ## build plasmid, plasmidd, confd and the apps' own programs into bin/
	@mkdir -p bin
	$(GO) build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)" -o bin/ ./cmd/plasmid ./cmd/plasmidd ./cmd/confd ./apps/galera ./apps/elk/cmd/elk

.PHONY: image
image: deps build ## build the node image: the tree for local machines and the qcow2
	$(PLASMID) image build

# With CLOUD, an entry of clouds.yaml, the machines are servers there. Other
# variables of openstack.hcl come from the environment: PLASMID_VAR_flavor, say.
ifneq ($(CLOUD),)
demo demo-plan demo-down: export PLASMID_FILE := openstack.hcl
demo demo-plan demo-down: export PLASMID_VAR_cloud := $(CLOUD)
DEMO_IMAGE = [ -n "$$PLASMID_VAR_image" ] || { $(PLASMID) image build && $(PLASMID) image push; }
else
DEMO_IMAGE = $(PLASMID) image build --tree-only
endif

.PHONY: demo
demo: deps build ## everything: image, five machines, cluster, app; ends with the URL that answers (CLOUD=mycloud)
	$(DEMO_IMAGE)
	$(PLASMID) up --yes

.PHONY: demo-plan
demo-plan: deps build ## what make demo would make, and what it takes of the quota; nothing is changed
	$(DEMO_IMAGE)
	@$(PLASMID) plan || [ $$? = 2 ]

.PHONY: demo-down
demo-down: build ## take the demo down; nothing is left
	$(PLASMID) down --yes

.PHONY: test
test: PACKAGES += gcc libc6-dev
test: deps build ## everything the tests need, and the tests
	test/run

# Which ones: SUITE=TestFleet, say; see test/e2e.
.PHONY: test-e2e
test-e2e: PACKAGES += chromium
test-e2e: deps build ## the longer suites of behaviours and faults on real clusters
	test/run e2e '$(SUITE)'

.PHONY: test-chaos
test-chaos: deps build ## ten minutes of random faults on a cluster; nothing may move (PLASMID_CHAOS=10m)
	PLASMID_CHAOS=$${PLASMID_CHAOS:-10m} test/run e2e '^TestChaos$$'

.PHONY: test-openstack
test-openstack: deps ## the OpenStack provider against a real OpenStack, made on this machine
	test/openstack/run

.PHONY: test-openstack-full
test-openstack-full: deps build ## the qcow2 on an emulated server, and an image that is built in the cloud; slow
	test/openstack/full

# Which ones: BENCH=Placement, ControlPlane or Cluster. They run alone: what else
# the host does shows in the figures.
BENCH ?= .
.PHONY: bench
bench: deps build ## measure, and print one table with baselines and ratios
	test/run bench '$(BENCH)'

TIER ?= fake

.PHONY: openstack-lab
openstack-lab: deps ## bring up a real OpenStack on this machine (TIER=fake, lxc or qemu; docs/openstack-lab.md)
	$(GO) build -trimpath -buildvcs=false -o bin/openstack-lab ./test/lab/openstack
	bin/openstack-lab up --tier $(TIER)

.PHONY: openstack-lab-down
openstack-lab-down: ## take that OpenStack down; nothing is left but its cache
	$(GO) build -trimpath -buildvcs=false -o bin/openstack-lab ./test/lab/openstack
	bin/openstack-lab down

.PHONY: lint
lint: ## gofmt, go vet, shellcheck, and golangci-lint if it is there
	@unformatted=$$(gofmt -l apps bench cmd image internal provision runtime test); \
		[ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e ./test/...
	$(GO) vet -tags systemd,docker ./runtime/systemd ./runtime/container
	$(GO) vet -tags openstack ./test/openstack/... ./test/lab/openstack ./provision/openstack
	$(GO) vet -tags openstack,openstack_full ./test/openstack
	$(GO) vet -tags bench ./bench
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run test/run test/openstack/run test/openstack/lxc/run test/openstack/full; fi
	@if command -v golangci-lint >/dev/null; then golangci-lint run; fi

.PHONY: clean
clean: ## remove what build made; images and machines stay
	rm -rf bin build
