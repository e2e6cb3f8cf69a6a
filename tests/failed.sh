#!/usr/bin/env bash
# Prints what failed in the output of `cargo test`, one a line: the target's flag and the test's name, or the
# flag alone of a target that failed otherwise.
#
#   tests/failed.sh LOG
set -euo pipefail
awk '
    $1 == "Running" && $2 == "unittests" { target = $3 == "src/lib.rs" ? "--lib" : "--bins" }
    $1 == "Running" && $2 != "unittests" {
        target = $2
        gsub(/.*\/|\.rs$/, "", target)
        target = "--test=" target
    }
    $1 == "Doc-tests" { target = "--doc" }
    $1 == "test" && $NF == "FAILED" { print target, $2; told[target] = 1 }
    /^ +`--.*`$/ {
        gsub(/^ +`|`$/, "")
        sub(/^--test /, "--test=")
        sub(/^--bin .*/, "--bins")
        if (!($0 in told)) print
    }
' "$1" | sort -u
