#!/bin/bash
# check.sh CMAKE SOURCE CC COMPARE_LOG: configures without the x86 kernels, and with unsigned char, as on ARM, builds and trains.
set -euo pipefail
cmake=$1 source=$2 cc=$3 compare_log=$4
work=$(mktemp -d "${TMPDIR:-/tmp}/plumb-portable-XXXXXX")
trap 'rm -rf "$work"' EXIT
die() { echo "check.sh: $*" >&2; exit 1; }

CC=$cc "$cmake" -S "$source" -B "$work/build" -DPLUMB_X86=OFF -DPLUMB_TESTS=OFF -DPLUMB_OPENMP=OFF -DPLUMB_WERROR=ON \
  -DCMAKE_BUILD_TYPE=None "-DCMAKE_C_FLAGS=-O0 -funsigned-char" >"$work/log" 2>&1 || { tail -n 20 "$work/log"; die "cmake failed"; }
grep -q 'reference kernels only' "$work/log" || die "cmake does not say that there are only the reference kernels"
make -C "$work/build" plumb >"$work/log" 2>&1 || { grep -E 'error|undefined' "$work/log" | head -n 20; die "it does not build"; }
"$work/build/plumb" doctor >"$work/doctor"
grep -qx 'level        generic' "$work/doctor" && grep -qx 'products     reference' "$work/doctor" || die "$(cat "$work/doctor")"
cd "$source/tests/golden/trl"
"$work/build/plumb" dpo --config runs/dpo_full/config.yaml --out "$work/run" 2>"$work/log" || { tail -n 3 "$work/log"; die "dpo failed"; }
"$compare_log" trl "$work/run/metrics.jsonl" runs/dpo_full/log.jsonl || die "the curve is not TRL's"
