#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Builds the lab's command, if need be, and runs it.
set -eu
tools=$(dirname "$(readlink -f "$0")")
CARGO=$("$tools/bootstrap.sh")
export CARGO
# Debian's side-by-side toolchains find their rustc beside them.
PATH=$(dirname "$CARGO"):$PATH
export PATH
"$tools/built-crates.sh" restore || echo "nothing that was built earlier can be used" >&2
[ -x "$tools/target/release/lab" ] || echo "building the lab's command ..." >&2
"$CARGO" build --quiet --release --locked --manifest-path "$tools/Cargo.toml" -p netback-lab
exec "$tools/target/release/lab" "$@"
