# Every way to build, test and try Shoal. CI calls these targets and nothing else.

NODES   ?= 3
NODE    ?= 1
DURATION ?= 1h
FIRST   ?= 1000
VERSION ?= 0.1.0-dev+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

# The checkers are Go modules at fixed versions: whoever builds Shoal can build them.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

# What is needed beside Go: the command that tells whether it is there, and Debian's package that brings it.
PREREQS = runc:runc nft:nftables ip:iproute2 busybox:busybox-static curl:curl docker-compose:docker-compose /usr/lib/python3/dist-packages/docker/__init__.py:python3-docker prometheus:prometheus iptables-nft:iptables

GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false
LDFLAGS = -s -w -X main.version=$(VERSION)
LAB     = bin/lab

# Debian's tools for the network are where a user's PATH may not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

DESTDIR ?=
PREFIX  ?= /usr/local

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help prereqs build images clients lab lab-kill lab-start lab-cut lab-heal lab-status shell down quickstart check test soak chaos bench install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

prereqs: ## install what is missing of runc, nft, ip, busybox, curl and the tests' clients from Debian
	@missing=; \
	for p in $(PREREQS); do command -v $${p%%:*} >/dev/null 2>&1 || [ -e $${p%%:*} ] || missing="$$missing $${p##*:}"; done; \
	[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || case "$$missing" in *busybox-static*) ;; *) missing="$$missing busybox-static";; esac; \
	[ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "Missing:$$missing. This is no Debian: please install them with your own package manager." >&2; exit 1; fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "Missing:$$missing. Please run: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; fi; \
	echo "Installing$$missing"; \
	install="env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends"; \
	$$install $$missing >/dev/null 2>&1 || { apt-get update -qq && $$install $$missing >/dev/null; }

build: ## the four binaries and the lab's, into bin/
	@mkdir -p bin
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/shoal ./cmd/shoald ./cmd/containerd-shim-shoal-v1 ./cmd/shoal-init ./lab/cmd/lab

# The lab alone, where nothing was built yet: make down must work even if the rest does not build.
$(LAB):
	@mkdir -p bin
	$(GOBUILD) -o $@ ./lab/cmd/lab

images: bin/images/.made ## hello:1, hello:2 and busybox as OCI layouts, into bin/images

bin/images/.made: $(wildcard lab/images/*.go lab/images/hello/*.go) /bin/busybox
	@mkdir -p bin
	$(GOBUILD) -ldflags '-s -w -X main.version=1' -o bin/hello-1 ./lab/images/hello
	$(GOBUILD) -ldflags '-s -w -X main.version=2' -o bin/hello-2 ./lab/images/hello
	go run -buildvcs=false ./lab/cmd/lab images
	@touch $@

lab: prereqs build images ## hosts with a shoald each and no swarm: make lab NODES=5
	@$(LAB) up -nodes $(NODES)

lab-kill: $(LAB) ## take the power from a host: make lab-kill NODE=2
	@$(LAB) kill -node $(NODE)

lab-start: $(LAB) ## boot it again with its data
	@$(LAB) start -node $(NODE)

lab-cut: $(LAB) ## cut a host's link
	@$(LAB) cut -node $(NODE)

lab-heal: $(LAB) ## mend it
	@$(LAB) heal -node $(NODE)

lab-status: $(LAB) ## the hosts and their state
	@$(LAB) status

shell: $(LAB) ## a shell on a host, or with NODE=0 on the client outside
	@$(LAB) shell -node $(NODE)

down: $(LAB) ## remove everything of the lab
	@$(LAB) down

quickstart: prereqs build images ## the first session of the README, on a lab of three hosts
	@$(LAB) quickstart

check: ## format, vet, lint, layers and unit tests, without a lab
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	[ -z "$$unformatted" ] || { echo "Not formatted by gofmt:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	@echo "govulncheck ./..."; \
	out=$$(go run $(GOVULNCHECK) ./... 2>&1) || case "$$out" in \
		*"no such host"*|*"fetching vulnerabilities"*|*"connection refused"*|*"i/o timeout"*) \
			echo "skipped: the database of vulnerabilities is not reachable from here";; \
		*) echo "$$out"; exit 1;; esac
	go run ./lab/cmd/testrun -short -skip ./lab

# Other people's clients, at the versions that go.mod and compat/compose/go.mod name. docker/cli has no go.mod, so that
# go takes it for older than it is. Compose takes a minute or two, the first time.
clients: ## the stock docker client and Compose, into bin/clients
	@mkdir -p bin/clients
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -gcflags=github.com/docker/cli/cmd/docker=-lang=go1.26 -o bin/clients/docker github.com/docker/cli/cmd/docker
	CGO_ENABLED=0 go build -C compat/compose -trimpath -buildvcs=false -o $(CURDIR)/bin/clients/compose github.com/docker/compose/v2/cmd

test: prereqs build images clients ## every test, the lab's among them (they need root)
	go test ./internal/sim/swarm
	go run ./lab/cmd/testrun -race

SEED ?=

chaos: prereqs build images ## trouble for a swarm under load: make chaos DURATION=1h, again with SEED=number
	SHOAL_REQUIRE_LAB=1 SHOAL_CHAOS=$(DURATION) SHOAL_CHAOS_SEED=$(SEED) go test ./lab -run 'TestChaos$$' -count=1 -timeout 0

soak: ## more seeds of the simulated swarm than the tests run: make soak DURATION=1h FIRST=1000
	go test ./internal/sim/swarm -run 'TestSwarm$$' -timeout 0 -swarm.soak=$(DURATION) -swarm.first=$(FIRST)

bench: prereqs build images ## the figures of bench/README.md, on the lab
	go run ./bench/cmd/bench

install: ## binaries, systemd unit and a first configuration onto this machine
	@[ -x bin/shoald ] || { echo "Nothing to install yet: run make build first (as yourself, not as root)." >&2; exit 1; }
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin bin/shoal bin/shoald bin/containerd-shim-shoal-v1 bin/shoal-init
	sed 's|@PREFIX@|$(PREFIX)|g' dist/shoal.service | install -D -m 0644 /dev/stdin $(DESTDIR)/etc/systemd/system/shoal.service
	[ -e $(DESTDIR)/etc/shoal/daemon.json ] || install -D -m 0644 dist/daemon.json $(DESTDIR)/etc/shoal/daemon.json
	[ -n "$(DESTDIR)" ] || getent group shoal >/dev/null || groupadd --system shoal
	@echo "Now: systemctl daemon-reload && systemctl enable --now shoal"

clean: ## remove what was built
	rm -rf bin dist/out
