#!/usr/bin/env bash
# Runs every check. Installs what the tests need, by package name, when it is missing.
#
#   tests/run.sh            everything
#   tests/run.sh --quick    without the newer OpenSSH, without fuzzing, and with those other clients
#                           only that are installed
set -euo pipefail
cd "$(dirname "$0")/.."
quick=${1:-}
say() { printf '\n== %s (after %d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

# Runs a command in the background, with its output in a file; it does not outlive this script.
beside() { # log command...
    local log=$1
    shift
    set -m
    "$@" >"$log" 2>&1 &
    set +m
    background+=("$!")
}
background=()
trap 'for job in "${background[@]}"; do kill -- "-$job" 2>/dev/null || :; done' EXIT

need() { # program package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing+=("$2")
}
missing=()
need ssh openssh-client
need sshd openssh-server
need rsync rsync
need git git
need curl curl
need haproxy haproxy
need xauth xauth
need gcc gcc
need g++ g++
need pgrep procps
need python3 python3
[ -e /usr/include/openssl/evp.h ] || missing+=(libssl-dev)
# Every client that people come with.
module() { # module package
    /usr/bin/python3 -W ignore -c "import $1" >/dev/null 2>&1 || missing+=("$2")
}
if [ "$quick" != --quick ]; then
    need dbclient dropbear-bin
    need plink putty-tools
    need lftp lftp
    need rclone rclone
    need ansible ansible-core
    need fail2ban-regex fail2ban
    need ssh-audit ssh-audit
    need Xvfb xvfb
    need xdpyinfo x11-utils
    [ -e /usr/include/libssh/sftp.h ] || missing+=(libssh-dev)
    module paramiko python3-paramiko
    module asyncssh python3-asyncssh
    export TIDEGATE_ALL_CLIENTS=1
fi
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    run=$([ "$(id -u)" = 0 ] || echo sudo)
    $run apt-get -qq update
    $run env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"
fi

target=${CARGO_TARGET_DIR:-target}
if [ "$quick" != --quick ]; then
    say "a newer OpenSSH client"
    tests/clients/newer-openssh.sh "$target/newer-openssh"
    TIDEGATE_NEWER_OPENSSH=$(cd "$target/newer-openssh" && pwd)
    export TIDEGATE_NEWER_OPENSSH
fi

say "format"
cargo fmt --check
# A dependency that the fuzzing crate's lock file does not know stops its build much later.
cargo metadata --quiet --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
if [ "$quick" != --quick ]; then
    # Into a folder of its own, of what the rest leaves of the processors.
    beside "$target/fuzz-build.log" nice -n 19 tests/fuzz/run.sh 0
    fuzz_build=$!
fi
say "lints"
cargo clippy --all-targets -- -D warnings
# Most tests wait for others more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 2))}
say "tests"
cargo test --no-run
# Whatever starts a gateway or our client, and what moves a program's bytes. Who gets in, and what is agreed
# on, has nothing to do with the driver.
mapfile -t network < <(
    grep -lrE '\b(Gateway|Site)\b' tests --include='*.rs' |
        sed -nE '/^tests\/(support|fuzz)/d; s|^tests/([a-z_]+)(\.rs)?(/.*)?$|--test=\1|p' | sort -u |
        grep -vxE -- '--test=(certificates|methods|steering)'
)
second_driver() {
    export TIDEGATE_TEST_DRIVER=mio
    local status=0
    cargo test --no-fail-fast "${network[@]}" || status=1
    cargo test --lib services::process || status=1
    return $status
}
# A test that failed where everything else ran beside it is run once more by itself; passing there is told at
# the end and does not fail the run. More than three are not bad luck.
once=()
again() { # what log [VARIABLE=value]
    local what=$1 log=$2 one
    local -a found=()
    mapfile -t found < <(tests/failed.sh "$log")
    if [ ${#found[@]} -eq 0 ] || [ ${#found[@]} -gt 3 ]; then
        failed+=("$what: ${found[*]:-not by a test}")
        return
    fi
    for one in "${found[@]}"; do
        say "once more, by itself: $one"
        if env "${@:3}" cargo test "${one%% *}" -- --exact "${one#* }" 2>&1 | tee "$target/again.log" &&
            grep -q '^test result: ok. 1 passed' "$target/again.log"; then
            once+=("$one ($what)")
        else
            failed+=("$what: $one")
        fi
    done
}
# Beside each other: whoever waits leaves the processors to the other.
failed=()
first=passed
beside "$target/second-driver.log" second_driver
second=$!
cargo test --no-fail-fast 2>&1 | tee "$target/tests.log" || first=failed
say "the network tests again, on the second driver"
wait "$second" && second=passed || second=failed
cat "$target/second-driver.log"
[ $first = passed ] || again "tests" "$target/tests.log"
[ $second = passed ] || again "on the second driver" "$target/second-driver.log" TIDEGATE_TEST_DRIVER=mio
if [ ${#failed[@]} -gt 0 ]; then
    printf '\n== failed: %s\n' "${failed[@]}"
    exit 1
fi
document() {
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
        cargo doc --no-deps --document-private-items
}
if [ "$quick" = --quick ]; then
    say "documentation"
    document
else
    say "fuzzing, and documentation beside it"
    beside "$target/documentation.log" document
    documentation=$!
    wait "$fuzz_build" || { cat "$target/fuzz-build.log"; exit 1; }
    tests/fuzz/run.sh 6
    wait "$documentation" || { cat "$target/documentation.log"; exit 1; }
fi
[ ${#once[@]} -eq 0 ] || printf '\n== failed beside others, passed alone: %s\n' "${once[@]}"
say "all checks passed"
