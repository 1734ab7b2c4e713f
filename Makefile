# SPDX-License-Identifier: GPL-2.0
#
# netback: a Xen network backend for Linux, in Rust. `make help` says what there is.

KVER ?= $(shell uname -r)
PREFIX_SBIN ?= /usr/local/sbin
PREFIX_MAN ?= /usr/local/share/man
STRIP ?= strip
# Empty for a module that has been signed, which would lose its signature.
INSTALL_MOD_STRIP ?= 1
LAB := tools/lab.sh

# The tree to build against: what the user says, the running kernel's if Rust modules can be built
# with it, and otherwise (empty) the lab's.
KDIR ?= $(shell tools/kernel-tree.sh default $(KVER))

# Release of the kernel that the module was built for.
RELEASE = $(shell modinfo -F vermagic netback.ko 2>/dev/null | cut -d' ' -f1)
MODULE_DIR = $(DESTDIR)/lib/modules/$(RELEASE)/updates

.PHONY: all modules install modules_install vifctl vifctl_install uninstall clean help \
	fmt rustfmt fmt-check clippy unsafe-check \
	demo test test-debug check lifecycle soak hostile fuzz bench bench-quick \
	lab-setup lab-shell lab-info lab-clean

all: modules

modules:
ifeq ($(strip $(KDIR)),)
	@$(LAB) build
else
	@tools/kernel-tree.sh check '$(KDIR)'
	$(MAKE) -C '$(KDIR)' M='$(CURDIR)' modules
endif

netback.ko:
	@$(MAKE) --no-print-directory modules

modules_install: netback.ko
	@test -n '$(RELEASE)' || { echo 'netback: modinfo cannot read netback.ko; install kmod and build again.' >&2; exit 1; }
	install -D -m 644 netback.ko '$(MODULE_DIR)/netback.ko.new'
	$(if $(INSTALL_MOD_STRIP),$(STRIP) --strip-debug '$(MODULE_DIR)/netback.ko.new')
	mv '$(MODULE_DIR)/netback.ko.new' '$(MODULE_DIR)/netback.ko'

install: modules_install
	depmod $(if $(DESTDIR),-b '$(DESTDIR)') '$(RELEASE)'
	install -D -m 644 tools/netback.conf '$(DESTDIR)/etc/modprobe.d/netback.conf'
	install -D -m 755 tools/netback-reload.sh '$(DESTDIR)$(PREFIX_SBIN)/netback-reload'
	install -D -m 755 tools/netback-hotplug.sh '$(DESTDIR)$(PREFIX_SBIN)/netback-hotplug'
	install -d '$(DESTDIR)/etc/udev/rules.d'
	sed 's|/usr/local/sbin|$(PREFIX_SBIN)|' tools/90-netback.rules \
		> '$(DESTDIR)/etc/udev/rules.d/90-netback.rules'
	@echo 'netback is installed for $(RELEASE). "netback-reload" moves running guests to it;'
	@echo '"make uninstall" and "tools/netback-reload.sh --load \"modprobe xen-netback\"" go back.'

# vifctl shows vifs; it wants cargo, and is not part of "install".
vifctl:
	CARGO=$$(tools/bootstrap.sh) && PATH=$$(dirname "$$CARGO"):$$PATH && \
		"$$CARGO" build --release --locked --manifest-path tools/Cargo.toml -p vifctl

vifctl_install: vifctl
	install -D -m 755 tools/target/release/vifctl '$(DESTDIR)$(PREFIX_SBIN)/vifctl'
	install -D -m 644 tools/vifctl/vifctl.8 '$(DESTDIR)$(PREFIX_MAN)/man8/vifctl.8'

uninstall:
	rm -f '$(DESTDIR)'/lib/modules/*/updates/netback.ko
	rm -f '$(DESTDIR)/etc/modprobe.d/netback.conf' '$(DESTDIR)/etc/udev/rules.d/90-netback.rules'
	rm -f '$(DESTDIR)$(PREFIX_SBIN)/vifctl' '$(DESTDIR)$(PREFIX_MAN)/man8/vifctl.8'
	rm -f '$(DESTDIR)$(PREFIX_SBIN)/netback-reload' '$(DESTDIR)$(PREFIX_SBIN)/netback-hotplug'
	for dir in '$(DESTDIR)'/lib/modules/*/modules.dep; do \
		if [ -f "$$dir" ] && grep -q netback.ko "$$dir"; then \
			depmod $(if $(DESTDIR),-b '$(DESTDIR)') "$$(basename "$$(dirname "$$dir")")"; \
		fi; done

clean:
	rm -f netback.ko netback.o netback.mod netback.mod.c netback.mod.o \
		.netback.* .module-common.o .*.cmd modules.order Module.symvers
	find netback -name '*.o' -o -name '*.rmeta' -o -name '.*.cmd' -o -name '.*.d' \
		-o -name '*_generated.rs' | xargs rm -f

# --- the code -----------------------------------------------------------------------------------

fmt rustfmt:
	@$(LAB) fmt

fmt-check:
	@$(LAB) fmt --check

clippy:
	@tools/test.sh clippy

unsafe-check:
	@$(LAB) check-unsafe

# --- the lab ------------------------------------------------------------------------------------

demo:
	@$(LAB) demo

test:
	@tools/test.sh test

check:
	@tools/test.sh all

# On kernels with KASAN, with lockdep and with KCSAN, which are built the first time.
test-debug:
	@$(LAB) test-debug

bench:
	@$(LAB) bench --erms both

bench-quick:
	@$(LAB) bench --quick

# All of the life cycle, also what takes long; the results are in build/lifecycle/result.json.
lifecycle:
	@$(LAB) lifecycle

# EVENTS of the life cycle at random from SEED, on two guests with traffic; TRAVEL=1: also save,
# restore and migrate.
soak:
	@$(LAB) soak --events $(or $(EVENTS),100) --seed $(or $(SEED),1) $(if $(TRAVEL),--travel)

hostile:
	@$(LAB) hostile

# SECONDS of one processor for each target; TARGETS: some instead of all.
fuzz:
	@CARGO=$$(tools/bootstrap.sh) && PATH=$$(dirname "$$CARGO"):$$PATH \
		tools/netif/fuzz/run.sh $(or $(SECONDS),60) $(TARGETS)

lab-setup:
	@$(LAB) setup

lab-shell:
	@$(LAB) shell

lab-info:
	@$(LAB) info

lab-clean:
	@$(LAB) clean

help:
	@echo 'The module:'
	@echo '  make                  build netback.ko (KDIR=/path selects a kernel build tree with'
	@echo '                        CONFIG_RUST=y; default: the running kernel'"'"'s, else the lab'"'"'s)'
	@echo '  make install          install it, and load it in place of xen-netback from now on'
	@echo '  make vifctl_install   build and install vifctl, which shows vifs and how they are'
	@echo '  make uninstall        go back to xen-netback'
	@echo '  make clean            remove what building left here'
	@echo 'To see it work (needs root on Debian 12 or 13, and a network the first time):'
	@echo '  make demo             Xen, a stock dom0 kernel, netback.ko and two guests, in an emulator'
	@echo '  make test             tests on the host, then in the lab'
	@echo '  make test-debug       tests on kernels with KASAN, lockdep and KCSAN, which are built first'
	@echo '  make bench            this module and xen-netback side by side, in time that counts'
	@echo '                        instructions; build/bench/report.html shows the figures'
	@echo '  make bench-quick      key figures, held against the record in Documentation/bench'
	@echo '  make lifecycle        guests and their backend stop, go, move and come back, with traffic'
	@echo '  make soak EVENTS=n SEED=n TRAVEL=1'
	@echo '                        the same at random, n events (100) from a seed (1); with TRAVEL'
	@echo '                        guests are also saved, restored and migrated'
	@echo '  make hostile          a guest attacks this backend and the kernel'"'"'s with all it has'
	@echo '  make lab-shell        an interactive dom0 with the module loaded and a guest running'
	@echo '  make lab-setup, lab-info, lab-clean'
	@echo '                        prepare, describe, empty the cache ($$NETBACK_CACHE or ~/.cache/netback)'
	@echo 'To work on it:'
	@echo '  make fmt, fmt-check   format the code, or say what is not formatted'
	@echo '  make clippy           lints, for the module and for the tools'
	@echo '  make unsafe-check     unsafe code only where it may be, and with its reasons'
	@echo '  make check            all of it, as CI does'
	@echo '  make fuzz SECONDS=n   fuzz the protocol core, n seconds (60) for each target'
	@echo 'tools/README.md tells about the lab; tools/lab.sh --help about its commands.'
