#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Fuzzes the protocol core and reports executions and coverage.
#
#   run.sh [SECONDS [TARGET...]]
#
# Each target runs for SECONDS of one processor (default 60), starting from the seed corpus and from
# what earlier runs found, which is kept in target/corpus. A finding ends the run with status 1;
# the input is kept in target/findings. A stable toolchain and a C++ compiler will do. Coverage of
# netback/netif/, over the whole corpus, needs the toolchain's own llvm-profdata and llvm-cov (rustup
# component llvm-tools); without them it is left out.

set -euo pipefail
cd "$(dirname "$0")"

command -v c++ >/dev/null || {
    echo 'fuzz: libFuzzer is written in C++; install g++' >&2
    exit 1
}

seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

out=${CARGO_TARGET_DIR:-$PWD/target}
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$out/findings"

# build DIR FLAGS...: builds all targets with these flags into a directory of their own.
build() {
    local dir=$1
    shift
    CARGO_TARGET_DIR=$dir RUSTFLAGS="$*" RUSTC_BOOTSTRAP=1 \
        cargo build --quiet --release --target "$host" </dev/null
}

build "$out/fuzz" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Clink-dead-code --cfg fuzzing

status=0
printf '%-12s %12s %10s %10s %8s %8s\n' target executions per-second cpu-seconds corpus findings
for target in "${targets[@]}"; do
    corpus=$out/corpus/$target
    log=$out/$target.log
    mkdir -p "$corpus"
    ended=0
    touch "$out/started"
    # A machine that is busy with other things gives it less than the time that passes.
    cpu=$(TIMEFORMAT='%U'
        { time "$out/fuzz/$host/release/$target" "$corpus" "corpus/$target" \
            -max_total_time="$seconds" -max_len=4096 -timeout=10 -print_final_stats=1 \
            -artifact_prefix="$out/findings/$target-" >"$log" 2>&1; } 2>&1) || ended=$?
    found=$(find "$out/findings" -name "$target-*" -newer "$out/started" | wc -l)
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    printf '%-12s %12s %10s %10s %8s %8s\n' "$target" "$(stat number_of_executed_units)" \
        "$(stat average_exec_per_sec)" "${cpu%.*}" "$(find "$corpus" -type f | wc -l)" "$found"
    if [ "$ended" -ne 0 ]; then
        echo "$target: ended before its time, with status $ended"
        tail -n 20 "$log"
        status=1
    fi
done

tools=$(rustc --print sysroot)/lib/rustlib/$host/bin
if [ ! -x "$tools/llvm-profdata" ] || [ ! -x "$tools/llvm-cov" ]; then
    echo "coverage: left out, the toolchain has no llvm-tools"
    exit $status
fi

build "$out/coverage" -Cinstrument-coverage -Zcoverage-options=branch --cfg fuzzing
rm -f "$out"/coverage/*.profraw
objects=()
for target in "${targets[@]}"; do
    binary=$out/coverage/$host/release/$target
    LLVM_PROFILE_FILE=$out/coverage/$target-%p.profraw "$binary" -runs=0 \
        "corpus/$target" "$out/corpus/$target" >/dev/null 2>&1 || true
    objects+=(-object "$binary")
done
"$tools/llvm-profdata" merge -sparse "$out"/coverage/*.profraw -o "$out/coverage/all.profdata"
show() {
    local what=$1
    shift
    "$tools/llvm-cov" "$what" "${objects[@]}" -instr-profile="$out/coverage/all.profdata" \
        -ignore-filename-regex='(\.cargo|rustc|netif/src/[a-z_/]+\.rs|fuzz_targets)' "$@"
}
show report -show-functions=false
show show -show-branches=count >"$out/coverage.txt"
echo "coverage line by line: $out/coverage.txt"
exit $status
