#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Prints the path of a cargo that can build the tools, installing one if need be.
#
#	bootstrap.sh clippy	the same, of one that has clippy
set -eu

minimum=85

fail() {
	echo "bootstrap: $*" >&2
	exit 1
}

# Whether "$1" runs and is new enough.
usable() {
	version=$("$1" --version 2>/dev/null) || return 1
	minor=$(echo "$version" | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
	[ -n "$minor" ] && [ "$minor" -ge "$minimum" ]
}

find_cargo() {
	for candidate in ${CARGO:-} cargo "$HOME/.cargo/bin/cargo" /usr/lib/rust-web/bin/cargo \
		/usr/bin/cargo-web; do
		path=$(command -v "$candidate" 2>/dev/null) || continue
		if usable "$path"; then
			echo "$path"
			return 0
		fi
	done
	return 1
}

install() {
	[ "$(id -u)" = 0 ] || fail "$* must be installed, which takes root: run this as root, or install them yourself"
	echo "bootstrap: installing $*" >&2
	DEBIAN_FRONTEND=noninteractive
	export DEBIAN_FRONTEND
	apt-get install -y --no-install-recommends "$@" >&2 ||
		{ apt-get update >&2 && apt-get install -y --no-install-recommends "$@" >&2; } ||
		fail "apt-get cannot install $*; is there a network?"
}

if [ "${1:-}" = clippy ]; then
	cargo=$(find_cargo) || fail "there is no cargo yet"
	PATH=$(dirname "$cargo"):$PATH
	if ! "$cargo" clippy --version >/dev/null 2>&1; then
		# Of another version than the compiler it would not run, so all are brought to the same.
		case "$(dpkg -S "$(readlink -f "$cargo")" 2>/dev/null)" in
		cargo-web:*) install cargo-web rustc-web rust-web-clippy ;;
		cargo:*) install cargo rustc rust-clippy ;;
		*) fail "$cargo has no clippy, and is not Debian's; rustup component add clippy" ;;
		esac
		"$cargo" clippy --version >/dev/null || fail "$cargo has no clippy even now"
	fi
	echo "$cargo"
	exit 0
fi

if cargo=$(find_cargo) && command -v cc >/dev/null && [ -e /usr/lib/x86_64-linux-gnu/libc.a ]; then
	echo "$cargo"
	exit 0
fi

# shellcheck disable=SC1091
. /etc/os-release 2>/dev/null || fail "this is no Debian; install cargo 1.$minimum or newer, gcc and make"
case "${ID:-}-${VERSION_ID:-}" in
debian-12) rust="cargo-web rustc-web" ;;
debian-13) rust="cargo rustc" ;;
*) rust= ;;
esac
find_cargo >/dev/null && rust=
if [ -z "$rust" ] && ! find_cargo >/dev/null; then
	fail "this is ${PRETTY_NAME:-unknown}, not Debian 12 or 13; install cargo 1.$minimum or newer, gcc and make"
fi
# shellcheck disable=SC2086
install $rust gcc libc6-dev make
find_cargo || fail "cargo 1.$minimum or newer is not there even now; see https://rustup.rs for another way"
