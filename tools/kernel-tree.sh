#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Which kernel trees Rust modules can be built against.
#
#	kernel-tree.sh default RELEASE	prints the tree of the kernel RELEASE, if it is one
#	kernel-tree.sh check DIR	says in one sentence why DIR is none, and fails
set -u

rustc=${RUSTC:-rustc}

# Prints why "$1" is no tree to build against; nothing if it is one.
reason() {
	config=$1/include/config/auto.conf
	if [ ! -f "$1/Makefile" ]; then
		echo "$1 is no kernel build tree: give KDIR the directory of a configured and prepared kernel, or leave it out to build in the lab."
	elif [ ! -f "$config" ]; then
		echo "$1 is not prepared: run \"make modules_prepare\" in it first, or leave KDIR out to build in the lab."
	elif ! grep -q '^CONFIG_RUST=y' "$config"; then
		echo "The kernel in $1 was configured without CONFIG_RUST: choose one that has CONFIG_RUST=y (Debian's 7.2 does), or leave KDIR out to build in the lab."
	elif [ ! -f "$1/rust/libkernel.rmeta" ]; then
		echo "$1 has no Rust metadata (rust/libkernel.rmeta), which Debian's headers packages leave out: prepare the kernel's source with \"make prepare\", or leave KDIR out to build in the lab."
	else
		wanted=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT=//p' "$config" | tr -d '"')
		found=$("$rustc" --version 2>/dev/null) || found="none"
		if [ -n "$wanted" ] && [ "$wanted" != "$found" ]; then
			echo "$1 was prepared with \"$wanted\" and the compiler here is \"$found\": set RUSTC to the former, or leave KDIR out to build in the lab."
		elif ! command -v "${BINDGEN:-bindgen}" >/dev/null 2>&1; then
			echo "bindgen is not installed, and the module's bindings are made with it: install it (Debian: apt-get install bindgen), or leave KDIR out to build in the lab."
		fi
	fi
}

case "${1:-}" in
default)
	dir=/lib/modules/${2:-$(uname -r)}/build
	[ -n "$(reason "$dir")" ] || echo "$dir"
	;;
check)
	why=$(reason "${2:?}")
	if [ -n "$why" ]; then
		echo "netback: $why" >&2
		exit 1
	fi
	;;
*)
	echo "usage: kernel-tree.sh default RELEASE | check DIR" >&2
	exit 2
	;;
esac
