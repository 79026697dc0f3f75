#!/usr/bin/env bash
# Measures the GPU worker on this machine: gpu-run.sh MIG-BENCH [OUT.json]
#
# MIG-BENCH is a release binary of mig-bench; nothing is built here. Prints the report and writes it as JSON. The memory is
# the built-in real sample, tiled and changed. Variables: MIG_GPU_ADAPTER (part of the adapter's name; software adapters
# are only used if named), MIG_GPU_MIB (4096), MIG_GPU_SECONDS (3, for each figure), MIG_GPU_REPEATS (5, of pipelines).
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
bench=$1
out=${2:-gpu-$(date -u +%Y-%m-%d).json}
adapter=()
if [ -n "${MIG_GPU_ADAPTER:-}" ]; then
    adapter=(--gpu-adapter "$MIG_GPU_ADAPTER")
fi
# Mesa's choice of a device for screens has nothing to say here.
export NODEVICE_SELECT=1
"$bench" gpu --gpu require "${adapter[@]}" --mib "${MIG_GPU_MIB:-4096}" --seconds "${MIG_GPU_SECONDS:-3}" \
    --repeats "${MIG_GPU_REPEATS:-5}" --json "$out"
echo "written to $out"
