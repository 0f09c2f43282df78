#!/bin/bash
# smoke.sh BENCH_DIR PLUMB SCRATCH: every benchmark on a tiny model, and the document and page that are made of their lines.
set -euo pipefail
bench=$1 plumb=$2 scratch=$3
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$scratch"

die() { echo "smoke: $*" >&2; exit 1; }
run() {
  local name=$1
  shift
  "$bench/bench_$name" --json lines.jsonl "$@" || die "bench_$name $* ended with $?"
}
steps() { run step --shape tiny --lengths t --pairs 6 --batch 2 --threads 1 --bf16 0 --dir models "$@"; }

run gemm --tiny
run ops --level best --rows 16 --samples 5
steps
steps --cached --weights float32
steps --sft
steps --full --lengths B --pairs 2 --batch 1
steps --lengths A
steps --lengths C
steps --ablation
steps --scaling
run long --shape tiny --bf16 0 --first 64 --most 128 --dir models
run start --plumb "$plumb" --shape tiny --rounds 1 --dir models
run decode --shape tiny --context 8 --new 4 --prompt 16 --dir models

page() { "$bench/bench_page" "$@" --commit smoke; }
benches=machine,gemm,gemv,ops,step,ablation,threads,long,start,decode,prefill
page lines.jsonl results.json results.md --require $benches || die "the results are not whole"

# Every number is there: no benchmark measured a nothing.
! grep -n '": null' lines.jsonl || die "a value is no number"
for key in rows_per_s of_gemm peak_gb linear lora head attention pointwise optimizer batches rest idle head_of_gemm; do
  grep -q "\"bench\": \"step\".*\"$key\": " lines.jsonl || die "no $key of a step"
done
for title in "The machine" "Matrix products" Operations "The step" "Its parts" "What each idea gives" Threads \
  "Long sequences" Start-up Decoding Prefill; do
  grep -qx "## $title" results.md || die "no table: $title"
done
for key in cpu compiler libraries commit date; do grep -q "\"$key\": \"..*\"" results.json || die "no $key"; done

# What must be noticed is noticed: a line that is cut, a bench that is missing, a failure.
head -c -20 lines.jsonl >cut.jsonl
! page cut.jsonl x.json x.md 2>/dev/null || die "a cut line passed"
! page lines.jsonl x.json x.md --require step,nothing 2>/dev/null || die "a missing bench passed"
echo '{"bench": "step", "what": "x", "error": "it failed"}' | cat lines.jsonl - >failed.jsonl
! page failed.jsonl x.json x.md 2>/dev/null || die "a failure passed"
grep -q 'failed: it failed' x.md || die "a failure is not on the page"
! "$bench/bench_step" --pairs 1 --shape tiny --lengths t --batch 1 --dir models >/dev/null || die "no timed step passed"
echo "smoke: $(wc -l <lines.jsonl) lines of results"
