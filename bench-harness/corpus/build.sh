#!/bin/bash
# Builds desktop VMs and captures their memory, in one command, as root on Debian bookworm.
#
#   build.sh OUT [NAME...]      # gamma (512 MiB, a quarter of an hour) unless said; alpha (2 GiB, an hour)
#
# OUT needs 6 GiB for gamma and 24 GiB for alpha. README.md tells what comes out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=${1:?usage: build.sh OUT [NAME...]}
shift
[ $# -gt 0 ] || set -- gamma
for name; do
  ./build-image.sh "$name" "$out"
  ./capture.py "$name" "$out"
done
echo "measure it:  mig-bench run links $out/$1/$1-work1.raw --reference $out/$1/$1-work1.disk"
