#!/usr/bin/env bash
# Builds every fuzz target and runs each for a while.
#
#   tests/fuzz/run.sh [SECONDS [TARGET...]]     10 seconds and every target unless said otherwise
#   tests/fuzz/run.sh 0                         builds them only
#
# Works with the stable toolchain: the sanitizer and coverage flags are unlocked for this build
# alone. What is found stays in tests/fuzz/artifacts; what is learnt is dropped unless FUZZ_CORPUS
# names a folder for it. A run is repeatable as far as time allows: FUZZ_SEED is 1 by default.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-10}
shift || true

if ! command -v g++ >/dev/null 2>&1; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get -qq update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends g++
fi

triple=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/target}
# A short quarantine, so that the memory reported is the target's own.
export ASAN_OPTIONS=quarantine_size_mb=16:${ASAN_OPTIONS:-}
export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0
coverage=-Cllvm-args=-sanitizer-coverage
export RUSTFLAGS="-Zsanitizer=address -Cpasses=sancov-module $coverage-level=4 \
$coverage-inline-8bit-counters $coverage-pc-table $coverage-trace-compares"
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
cargo build --quiet --locked --release --target "$triple" "${targets[@]/#/--bin=}"
[ "$seconds" != 0 ] || exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fuzz() { # target
    local name=$1 log=$scratch/$1.log artifacts=$PWD/artifacts/$1 learnt=${FUZZ_CORPUS:-$scratch}/$1
    local program=$CARGO_TARGET_DIR/$triple/release/$1
    mkdir -p "$artifacts" "$learnt" "$scratch/findings"
    local status=0 longest=4096
    # Long configurations are mostly repetition, and each error in them is looked up word by word.
    [ "$name" != sshd_config ] || longest=1024
    "$program" -seed="${FUZZ_SEED:-1}" -max_total_time="$seconds" -max_len=$longest -timeout=10 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -report_slow_units=2 -print_final_stats=1 \
        -dict=ssh.dict -artifact_prefix="$artifacts/" "$learnt" "../corpus/$name" \
        >"$log" 2>&1 || status=$?
    local runs cover memory
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    cover=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    if [ $status = 0 ]; then
        printf '%-20s %10s executions, %7s edges, %5s MiB\n' "$name" "$runs" "$cover" "$memory"
        return
    fi
    echo "$name" >"$scratch/findings/$name"
    printf '%-20s FAILED\n' "$name"
    grep -aE -A 12 'panicked at|ERROR: |SUMMARY: ' "$log" | grep -avE '^#|^ +[0-9]+: (std|core|__rust)' |
        head -60 || tail -40 "$log"
    local input
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    echo "reproduce with: $program ${input:-(no input was written)}"
    echo "keep it with:   cp ${input:-INPUT} tests/corpus/$name/   # then: cargo test --test corpus"
}

jobs=${FUZZ_JOBS:-$(nproc)}
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    fuzz "$target" &
done
wait
[ ! -e "$scratch/findings" ] || [ -z "$(ls "$scratch/findings")" ] || {
    echo "failed: $(ls "$scratch/findings" | tr '\n' ' ')"
    exit 1
}
