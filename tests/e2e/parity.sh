#!/bin/bash
# Each golden run of TRL: the same YAML through plumb gives TRL's curves; and the comparison notices what it must.
. "$(dirname "$0")/lib.sh"

# train RUN OUT_NAME OPTION...
train() {
  local name=$1 out=$2 adapter=()
  shift 2
  [ -d "runs/$name/adapter_init" ] && adapter=(--adapter "runs/$name/adapter_init")
  run "$out" "${name%%_*}" --config "runs/$name/config.yaml" "${adapter[@]}" --threads 1 --out "$work/$out" "$@"
}

for dir in runs/*/; do
  name=$(basename "$dir")
  skip=()
  # TRL's unweighted means over the micro-batches of a step (tests/golden/README.md)
  case $name in *_accum) skip=(entropy mean_token_accuracy logits/chosen logits/rejected) ;; esac
  train "$name" "$name" || continue
  "$compare_log" trl "$work/$name/metrics.jsonl" "$dir/log.jsonl" "${skip[@]}" >"$work/$name.compared" ||
    fail "$name: $(cat "$work/$name.compared")"
  echo "$name: $(tail -n 1 "$work/$name.compared")"
done

# must_differ OUT_NAME RUN OPTION...: the comparison fails for this change
must_differ() {
  local out=$1 name=$2
  shift 2
  train "$name" "$out" "$@" || return
  "$compare_log" trl "$work/$out/metrics.jsonl" "runs/$name/log.jsonl" >"$work/$out.compared"
  [ $? = 1 ] || fail "$out: a wrong run ($*) passes for the right one"
}
must_differ beta2 dpo_full --adam_beta2 0.99
must_differ epsilon dpo_full --adam_epsilon 1e-6
must_differ schedule dpo_full --lr_scheduler_type cosine
must_differ seed dpo_full --seed 43
must_differ beta dpo_full --beta 0.11
must_differ decay dpo_cosine --weight_decay 0
must_differ sft_beta2 sft_full --adam_beta2 0.99
# a missing line is noticed, and so is NaN
head -n 49 "$work/dpo_full/metrics.jsonl" >"$work/short.jsonl"
"$compare_log" trl "$work/short.jsonl" runs/dpo_full/log.jsonl >/dev/null && fail "a missing line passes"
sed '20s/"loss": [0-9.e-]*/"loss": NaN/' "$work/dpo_full/metrics.jsonl" >"$work/nan.jsonl"
"$compare_log" trl "$work/nan.jsonl" runs/dpo_full/log.jsonl >/dev/null && fail "NaN passes"
grep -q 'lora_dropout 0.05 is off, because disable_dropout' "$work/dpo_lora.stderr" ||
  fail "dpo_lora does not say that lora_dropout is off"
finish
