#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Keeps what cargo makes of other people's crates in the cache, so that a fresh checkout builds the
# tools' own only.
#
#	built-crates.sh restore		into a checkout in which nothing was built yet
#	built-crates.sh save		from this checkout, if they are not kept yet
#
# CARGO is the cargo that builds. Whoever calls this may ignore its failure: cargo makes anew what is
# not there.
set -eu
cd "$(dirname "$(readlink -f "$0")")"

cache=${NETBACK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netback}
cargo=${CARGO:-cargo}
# The target of the programs for emulated machines, which have no libraries.
static=x86_64-unknown-linux-gnu
key=$({ "$cargo" -vV; cat Cargo.lock Cargo.toml; } | sha256sum | cut -c1-10)
kept=$cache/crates-$key

restore() {
	[ ! -e target ] && [ -d "$kept" ] || return 0
	rm -rf target.partial
	cp -a "$kept" target.partial
	mv target.partial target
	touch "$kept"
}

save() {
	local own
	[ ! -e "$kept" ] || return 0
	mkdir -p "$cache"
	partial=$cache/partial-crates-$key-$$
	trap 'rm -rf "$partial"' EXIT
	cp -a target "$partial"
	# What changes with the checkout is no use to another.
	mapfile -t own < <("$cargo" tree --locked --offline --workspace --depth 0 --prefix none |
		sed -n 's/^\([^ ]\{1,\}\) v.*/-p\n\1/p')
	for where in "" "--target=$static"; do
		"$cargo" clean --quiet --locked --offline --release --target-dir "$partial" \
			${where:+"$where"} "${own[@]}"
	done
	rm -rf "$partial"/release/examples "$partial"/release/incremental "$partial"/tmp
	mv -T "$partial" "$kept"
}

case ${1:-} in
restore | save) "$1" ;;
*)
	echo "usage: built-crates.sh restore | save" >&2
	exit 2
	;;
esac
