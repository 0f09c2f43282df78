#!/bin/bash
# Every instruction set level that the machine has gives the same log-probs and the same first steps, within rounding.
. "$(dirname "$0")/lib.sh"
levels=(generic avx2 avx512 avx512bf16)
dpo=(--model llama --data pairs --bf16 false --learning_rate 3e-4 --save_strategy no --max_steps 5 --max_length 128
  --use_peft --lora_target_modules all-linear --threads 1 --run_name r)
for level in "${levels[@]}"; do
  export PLUMB_CPU=$level
  run "logps_$level" logps --model llama --data pairs --threads 1
  run "train_$level" dpo "${dpo[@]}" --out "$work/$level"
  # losses: sums of up to 40 log-probs, each within 1e-6 of each other
  "$compare_log" near 5e-6 "$work/generic/metrics.jsonl" "$work/$level/metrics.jsonl" >"$work/near" ||
    fail "$level: $(cat "$work/near")"
  "$compare_tensors" 1e-5 "$work/generic/r-dpo_final/model.safetensors" "$work/$level/r-dpo_final/model.safetensors" \
    >"$work/tensors" || fail "$level: $(cat "$work/tensors")"
  paste <(grep -oE '"logp":[-0-9.e]+' "$work/logps_generic.stdout") <(grep -oE '"logp":[-0-9.e]+' "$work/logps_$level.stdout") |
    sed 's/"logp"://g' | awk -v level="$level" '
      { d = $1 - $2; if (d < 0) d = -d; if (!(d <= 1e-4 + 1e-6 * -$1)) bad++; if (d > worst) worst = d; n++ }
      END { printf "%s: %d log-probs, largest difference %g\n", level, n, worst; exit bad > 0 || n < 16 }' ||
    fail "$level: log-probs differ"
done
export PLUMB_CPU=nothing
refuse 2 'PLUMB_CPU.*generic' doctor
unset PLUMB_CPU
finish
