# Everything a newcomer or a contributor needs. `make lab` and `make test` are the two that the README names.
# All of it needs Go; the modules are fetched once, then everything works offline.

GO       ?= go
BIN      := bin/nslab
PREFIX   ?= /usr/local
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
SOURCES  := $(shell find . -name '*.go' -not -path './.cache/*') $(wildcard labs/*/*.md) go.mod go.sum

# The binary is static: it runs inside other root file systems.
export CGO_ENABLED = 0
LDFLAGS := -s -w -X main.version=$(VERSION)

# What else is released, and is built by make check: see .goreleaser.yaml.
OTHER := $(if $(filter arm64,$(shell $(GO) env GOARCH 2>/dev/null)),amd64,arm64)

# What the test suite runs besides Go: the system tools that claims are checked with, from outside nslab.
TEST_TOOLS := strace unshare nsenter setpriv ruby busybox curl ip nft

.DEFAULT_GOAL := help
.PHONY: help build lab test test-vm test-vm-some test-vm-full check fmt vet lint cross install uninstall tools go clean

help: ## show what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

go:
	@command -v $(GO) >/dev/null || { echo "make: Go is missing: install Go 1.26 or later, see https://go.dev/dl" >&2; exit 1; }

# The linker writes the file through a mapping, and leaves it in the page cache page by page. Of a copy the kernel keeps larger
# pieces (folios), and maps the pages of one together: every start takes a tenth less, until the file is read from the disk again.
build: $(BIN) ## build bin/nslab
$(BIN): $(SOURCES) | go
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@.linked ./cmd/nslab
	@rm -f $@; cp $@.linked $@; rm $@.linked

lab: build ## build nslab, check this machine, run every lab straight through
	@echo; $(BIN) doctor
	@echo; $(BIN) run all --auto

test: go tools ## run everything, as root; what is missing is a failure; JUNIT=FILE keeps the results
	@test "$$(id -u)" = 0 || { echo "make: the suite needs root: sudo make test (or 'make check', which skips what needs it)" >&2; exit 1; }
ifdef JUNIT
	NSLAB_STRICT=1 $(GO) test -count=1 -timeout 45m -v ./... 2>&1 | $(GO) tool go-junit-report -iocopy -set-exit-code -out $(JUNIT)
else
	NSLAB_STRICT=1 $(GO) test -count=1 -timeout 45m ./...
endif

# Another kernel, and each kind of control groups: v2, v1, both. VM_FLAGS may have --mode and more: bin/vm --help
VM_KERNELS ?= all
test-vm test-vm-some test-vm-full: TEST_TOOLS += qemu-system-x86_64 mkfs.ext4 xz
bin/vm: $(SOURCES) | go
	$(GO) build -trimpath -o $@ ./vm

test-vm: build bin/vm tools ## run part of the suite in virtual machines, with each kind of control groups
	nice bin/vm $(VM_FLAGS) '*_steps' '*_evidence'

test-vm-some: go tools # less of it, and what becomes of machines that misbehave: for continuous integration
	NSLAB_STRICT=1 NSLAB_VM=1 nice $(GO) test -count=1 -timeout 60m -parallel 2 -v -run '^TestMachine' ./vm

test-vm-full: build bin/vm tools ## run all of the suite in virtual machines, on each kernel that Debian has here
	nice bin/vm --kernel "$(VM_KERNELS)" $(VM_FLAGS)

check: go fmt vet lint cross ## what a commit needs: format, vet, lint, the other processor, tests (as far as this user may)
	$(GO) test -timeout 45m ./...

fmt:
	@out="$$(gofmt -l .)"; test -z "$$out" || { echo "gofmt is needed on:" >&2; echo "$$out" >&2; exit 1; }

vet:
	$(GO) vet ./...

lint: # its configuration, with reasons: staticcheck.conf
	$(GO) tool staticcheck ./...

cross: # for the other processor: the program, and that all else, tests too, compiles there
	GOARCH=$(OTHER) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/nslab-$(OTHER) ./cmd/nslab
	GOARCH=$(OTHER) $(GO) vet ./...

tools: # install what the suite needs and this machine lacks, or name it
	@missing=""; for t in $(TEST_TOOLS); do command -v $$t >/dev/null || missing="$$missing $$t"; done; \
	test -z "$$missing" && exit 0; \
	packages="$$(echo $$missing | sed 's/unshare\|nsenter\|setpriv/util-linux/g; s/qemu-system-x86_64/qemu-system-x86/; s/mkfs.ext4/e2fsprogs/; s/\<xz\>/xz-utils/; s/\<ip\>/iproute2/; s/\<nft\>/nftables/')"; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$packages; \
	elif test "$$(id -u)" = 0 && command -v dnf >/dev/null; then dnf install -qy $$packages; \
	else echo "make: the suite needs$$missing: install the packages $$packages" >&2; exit 1; fi

install: build ## install to $(PREFIX)/bin, with completion for bash
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/nslab
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BIN) completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/nslab

uninstall: ## remove what install installed
	rm -f $(DESTDIR)$(PREFIX)/bin/nslab $(DESTDIR)$(PREFIX)/share/bash-completion/completions/nslab

clean: ## remove what was built
	rm -rf bin
