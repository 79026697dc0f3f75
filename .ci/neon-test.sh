#!/usr/bin/env bash
# Runs the NEON level's tests for real: builds the simd crate for 64-bit ARM and runs its tests under
# QEMU's user emulation. Works from a clean Debian machine, as root (it installs what it needs), and
# fails where anything is missing: it never skips. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

# The toolchain that builds the rest has no ARM standard library, so this uses Debian's compiler; cargo
# refuses it where it is older than the workspace asks for.
packages=(
    rustc-web libstd-rust-web-dev:arm64
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    libc6:arm64 libgcc-s1:arm64 qemu-user-static
)
present() {
    dpkg-query --show --showformat '${db:Status-Status}\n' "${packages[@]}" 2>/dev/null \
        | grep -cx installed || true
}
if [ "$(present)" -ne "${#packages[@]}" ]; then
    dpkg --add-architecture arm64
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

export RUSTC=/usr/bin/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# No `-L /usr/aarch64-linux-gnu`: that finds the cross loader but the arm64 package's libc, and where
# the two are of different versions the first thread never starts.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/neon"
# A build without the level, or an emulator without the feature, fails instead of passing by.
export MIG_REQUIRE=neon
unset RUSTC_WRAPPER RUSTFLAGS RUSTDOC

"$RUSTC" --version
cargo test --package mig-simd --lib --target aarch64-unknown-linux-gnu "$@"
