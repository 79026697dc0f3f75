#!/bin/sh
# Builds all fuzz targets once, then runs each for some seconds; fails if any of them finds something.
#
#   fuzz/run.sh SECONDS [TARGET...]
#
# Needs a nightly Rust and cargo-fuzz (`cargo install cargo-fuzz --locked`). What is found lies in fuzz/artifacts/;
# run a target with that file as its argument to see it again. fuzz/corpus/ grows from run to run and is not kept
# in the repository; fuzz/seeds/ is.
#
#   MIG_FUZZ_TOOLCHAIN  the toolchain, `nightly` if unset
#   MIG_FUZZ_SKIP_BUILD set: the binaries are there already
set -eu

seconds=${1:?seconds for each target}
shift
cd "$(dirname "$0")"
toolchain=${MIG_FUZZ_TOOLCHAIN:-nightly}
targets=${*:-decode decode_sealed decode_blocks session agree qemu image index disk reader guest roundtrip words kernels}

if [ -z "${MIG_FUZZ_SKIP_BUILD:-}" ]; then
    cargo "+$toolchain" fuzz build --fuzz-dir .
fi
triple=$(rustc "+$toolchain" -vV | sed -n 's/^host: //p')
binaries=${CARGO_TARGET_DIR:-target}/$triple/release

failed=
for target in $targets; do
    # The longest input. Longer ones are slow, and hold nothing that shorter ones can't.
    case $target in
        decode | decode_sealed | decode_blocks | session | qemu | reader | image | disk) max_len=32768 ;;
        *) max_len=8192 ;;
    esac
    mkdir -p "corpus/$target" "artifacts/$target" "seeds/$target"
    log=artifacts/$target/log
    # An input may take 10 seconds (on a busy machine, under a sanitizer) and 1 GiB, and allocate 512 MiB at once: the
    # targets decode with limits far below that.
    if ASAN_OPTIONS=detect_odr_violation=0:detect_leaks=0 "$binaries/$target" \
        -max_total_time="$seconds" -max_len=$max_len -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 \
        -artifact_prefix="artifacts/$target/" -detect_leaks=0 -print_final_stats=1 \
        "corpus/$target" "seeds/$target" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
        peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
        echo "$target: $runs runs in $seconds s, $coverage branches, $peak MiB"
    else
        echo "$target: FAILED, see fuzz/$log"
        grep -a -A 3 "panicked at\|^==.*ERROR\|^SUMMARY\|written to" "$log"
        failed="$failed $target"
    fi
done
if [ -n "$failed" ]; then
    echo "failed:$failed"
    exit 1
fi
