#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the project's checks and closes with one line: "N passed, N failed". Checks that
# were not made are counted in a line before that.
#
#	test.sh test	tests on the host, then tests in the lab
#	test.sh clippy	lints of the module and of the tools
#	test.sh all	those, formatting, the check of unsafe code, and a few tests on a
#			kernel with lockdep if there is one
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

passed=0
failed=0
skipped=0
# Runs of lab tests that were made anew, because the emulator had spoilt the first.
again=0
what=${1:-test}
mkdir -p build
log=build/check.log

say() {
	echo "== $*"
}

# One check that passes or fails as a whole: name, command.
check() {
	local name=$1
	shift
	say "$name"
	if "$@" > "$log" 2>&1 < /dev/null; then
		passed=$((passed + 1))
		echo "ok      $name"
	else
		failed=$((failed + 1))
		tail -n 60 "$log"
		echo "FAILED  $name"
	fi
}

# Tests by cargo, each of which counts.
host_tests() {
	say "host tests"
	local status p f
	"$CARGO" test --release --locked --manifest-path tools/Cargo.toml --workspace "$@" 2>&1 < /dev/null |
		tee build/host-tests.log | grep -E '^(test |running |error|warning: unused|failures:|---- |thread )' |
		grep -v '\.\.\. ok$'
	status=${PIPESTATUS[0]}
	read -r p f < <(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' build/host-tests.log)
	passed=$((passed + p))
	failed=$((failed + f))
	if [ "$status" != 0 ]; then
		[ "$f" -gt 0 ] || failed=$((failed + 1))
		tail -n 60 build/host-tests.log
	fi
	echo "host tests: $p passed, $f failed (exit status $status)"
}

# What was not checked, and why.
skip() {
	skipped=$((skipped + 1))
	echo "SKIPPED $1"
}

# Tests in the lab, each of which counts: the lab's command for them.
lab_tests() {
	say "lab tests: $*"
	local tally=build/lab-tally status p f a
	rm -f "$tally"
	NETBACK_TALLY=$tally tools/lab.sh "$@" < /dev/null
	status=$?
	p=0
	f=0
	a=0
	[ ! -f "$tally" ] || read -r p f a < "$tally"
	passed=$((passed + p))
	failed=$((failed + f))
	again=$((again + a))
	if [ "$status" != 0 ] && [ "$f" = 0 ] || [ "$((p + f))" = 0 ]; then
		failed=$((failed + 1))
		echo "FAILED  the lab tests ended with status $status and $((p + f)) results"
	fi
}

# A few tests on a kernel that watches itself. It takes 15 minutes to build, which is for "make
# test-debug" to do. They take a few minutes, or many where the others have taken long.
watched_tests() {
	if [ "$SECONDS" -gt 2400 ]; then
		skip "tests on a kernel with lockdep, for the others have taken $((SECONDS / 60)) minutes (make test-debug)"
	elif tools/lab.sh test-debug --kernel lockdep --built; then
		lab_tests test-debug --kernel lockdep --quick
	else
		skip "tests on a kernel with lockdep, which was never built here (make test-debug)"
	fi
}

clippy() {
	check "clippy, module" tools/lab.sh build CLIPPY=1 --deny-warnings
	# Debian has it in a package of its own.
	if tools/bootstrap.sh clippy > "$log" 2>&1; then
		check "clippy, tools" "$CARGO" clippy --release --locked --manifest-path tools/Cargo.toml \
			--workspace --all-targets -- -D warnings
	else
		tail -n 3 "$log"
		skip "clippy of the tools, because this cargo has none"
	fi
}

if CARGO=$(tools/bootstrap.sh); then
	export CARGO
	PATH=$(dirname "$CARGO"):$PATH
	tools/built-crates.sh restore || echo "nothing that was built earlier can be used"
	case $what in
	test)
		host_tests
		lab_tests test
		;;
	clippy)
		clippy
		;;
	all)
		host_tests
		check "formatting" tools/lab.sh fmt --check
		check "unsafe code" tools/lab.sh check-unsafe
		clippy
		lab_tests test
		watched_tests
		tools/built-crates.sh save || echo "what was built is not kept for other checkouts"
		;;
	*)
		echo "usage: test.sh test | clippy | all" >&2
		exit 2
		;;
	esac
else
	failed=$((failed + 1))
fi

[ "$skipped" = 0 ] || echo "$skipped skipped"
[ "$again" = 0 ] || echo "$again run again"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
