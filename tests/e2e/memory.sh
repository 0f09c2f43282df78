#!/bin/bash
# What a run says it will hold is what it holds: the peak of the process against the line "memory: ... GB = ...".
peak=$4
. "$(dirname "$0")/lib.sh"
if grep -qE '__(asan|tsan|msan)_init' "$plumb"; then
  echo "skipped: a sanitizer's own memory is in no plan"
  exit 77
fi
demo=$here/../../demo
slack=4000000 # bytes: the line has whole megabytes, and a process of 20 MB holds pages that no plan of ours knows

# within HELD GB: bytes held against a plan
within() {
  LC_ALL=C awk -v held="$1" -v plan="$2" -v slack=$slack 'BEGIN {
    plan *= 1e9; off = held - plan
    printf "held %.1f MB, planned %.1f MB (%+.1f %%)\n", held / 1e6, plan / 1e6, 100 * off / plan
    exit !(plan > 0 && off <= 0.1 * plan + slack && -off <= 0.1 * plan + slack) }'
}

# planned NAME ARGUMENT...: the peak is the plan's within 10 %
planned() {
  local name=$1 held plan words
  shift
  held=$("$peak" "$plumb" "$@" --threads 1 --out "$work/$name" 2>"$work/$name.stderr") || {
    fail "$name: $(tail -n 2 "$work/$name.stderr")"
    return
  }
  plan=$(sed -n 's/^memory: \([0-9.]*\) GB = .*/\1/p' "$work/$name.stderr")
  words=$(within "$held" "${plan:-0}") || fail "$name is not what was planned"
  echo "$name: $words"
}

# full micro-batches of the demo's pairs, and everything that a run does beside its steps
pairs=(--data "$demo/pairs.jsonl" --max_steps 3 --save_steps 2 --eval_split 0.05 --eval_strategy steps --eval_steps 2)
planned lora dpo --model "$demo/model" "${pairs[@]}" --per_device_train_batch_size 64 --use_peft --lora_target_modules all-linear
planned full dpo --model "$demo/model" "${pairs[@]}" --per_device_train_batch_size 64
planned once dpo --model "$demo/model" "${pairs[@]}" --per_device_train_batch_size 64 --precompute_ref_log_probs
planned recompute dpo --model "$demo/model" "${pairs[@]}" --per_device_train_batch_size 64 --gradient_checkpointing true
planned other dpo --model "$demo/model" "${pairs[@]}" --per_device_train_batch_size 8 --ref_model "$demo/model" --use_peft
planned f32 dpo --model "$demo/model" "${pairs[@]}" --per_device_train_batch_size 8 --dtype float32 --use_peft
planned tiny dpo --model llama --data pairs --max_steps 3 --max_length 128
planned sft sft --model llama --data texts/train.jsonl --max_steps 3 --max_length 128
# the comparison can fail
within 181000000 0.160 >/dev/null && fail "12 % more than planned pass"
within 139000000 0.160 >/dev/null && fail "12 % less than planned pass"
within 160000000 0 >/dev/null 2>&1 && fail "no plan passes"
finish
