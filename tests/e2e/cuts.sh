#!/bin/bash
# However a step is cut, it is the same step; recomputation changes no bit.
. "$(dirname "$0")/lib.sh"

# cut NAME REFERENCE COMMAND OPTION...: losses within 1e-6 of those of the reference run, final weights close by
cut() {
  local name=$1 reference=$2 command=$3
  shift 3
  run "$name" "$command" "$@" --threads 1 --run_name r --out "$work/$name" || return
  "$compare_log" near 1e-6 "$work/$reference/metrics.jsonl" "$work/$name/metrics.jsonl" >"$work/$name.near" ||
    fail "$name: $(cat "$work/$name.near")"
  # measured 2e-7 after ten steps of AdamW
  "$compare_tensors" 1e-5 "$work/$reference/r-${command}_final/model.safetensors" \
    "$work/$name/r-${command}_final/model.safetensors" >"$work/$name.tensors" || fail "$name: $(cat "$work/$name.tensors")"
  echo "$name: $(tail -n 1 "$work/$name.near"); $(tail -n 1 "$work/$name.tensors")"
}

# fewer threads than were asked for: as if that many had been asked for
limited() {
  run limited_one "$@" --threads 1 --run_name r --out "$work/limited_one"
  OMP_THREAD_LIMIT=1 run limited "$@" --threads 2 --run_name r --out "$work/limited"
  "$compare_log" same "$work/limited_one/metrics.jsonl" "$work/limited/metrics.jsonl" ||
    fail "OMP_THREAD_LIMIT=1 with --threads 2 is not one thread"
}

dpo=(--model llama --data pairs --bf16 false --learning_rate 3e-4 --logging_steps 5 --save_strategy no --max_steps 10
  --drop_empty --max_length 128)
dropout=(--use_peft --lora_target_modules all-linear --lora_dropout 0.1 --disable_dropout false)
b() { echo "--per_device_train_batch_size $1 --gradient_accumulation_steps $2"; }
for kind in full lora; do
  more=()
  [ $kind = lora ] && more=("${dropout[@]}")
  # shellcheck disable=SC2046
  {
    run $kind dpo "${dpo[@]}" "${more[@]}" $(b 8 1) --threads 1 --run_name r --out "$work/$kind"
    cut ${kind}_4x2 $kind dpo "${dpo[@]}" "${more[@]}" $(b 4 2)
    cut ${kind}_1x8 $kind dpo "${dpo[@]}" "${more[@]}" $(b 1 8)
    for tokens in 1 64 100000; do
      cut ${kind}_budget$tokens $kind dpo "${dpo[@]}" "${more[@]}" $(b 8 1) --micro_batch_tokens $tokens
    done
    for on in true false; do
      run ${kind}_recompute_$on dpo "${dpo[@]}" "${more[@]}" $(b 8 1) --gradient_checkpointing $on --threads 1 \
        --run_name r --out "$work/${kind}_recompute_$on"
    done
  }
  "$compare_log" same "$work/${kind}_recompute_true/metrics.jsonl" "$work/${kind}_recompute_false/metrics.jsonl" ||
    fail "$kind: gradient_checkpointing changes the metrics"
  same_file "$work/${kind}_recompute_true/r-dpo_final/model.safetensors" \
    "$work/${kind}_recompute_false/r-dpo_final/model.safetensors"
done

sft=(--model llama --data completions --bf16 false --learning_rate 5e-3 --save_strategy no --max_steps 10 --max_length 128)
# shellcheck disable=SC2046
{
  run sft sft "${sft[@]}" $(b 8 1) --threads 1 --run_name r --out "$work/sft"
  cut sft_1x8 sft sft "${sft[@]}" $(b 1 8)
  cut sft_budget1 sft sft "${sft[@]}" $(b 8 1) --micro_batch_tokens 1
}
# rows enough for two threads to have their own
# shellcheck disable=SC2046
limited dpo "${dpo[@]}" --use_peft --lora_target_modules all-linear $(b 16 1)
# the comparison can fail
"$compare_log" near 1e-6 "$work/full/metrics.jsonl" "$work/lora/metrics.jsonl" >/dev/null && fail "other losses pass"
"$compare_tensors" 1e-5 "$work/full/r-dpo_final/model.safetensors" "$work/lora/r-dpo_final/model.safetensors" >/dev/null &&
  fail "other weights pass"
finish
