#!/bin/bash
# Real rows on a real model, where they are beside the checkout; skipped otherwise.
. "$(dirname "$0")/lib.sh"
shared=$here/../../../shared
data=$(ls "$shared"/data/hh-rlhf/*.jsonl.gz 2>/dev/null | head -n 1)
model=$shared/models/stories260K-hf
if [ ! -e "$data" ] || [ ! -e "$model/config.json" ]; then
  echo "skipped: no hh-rlhf and stories260K-hf beside the checkout"
  exit 77
fi
run hh dpo --model "$model" --data "$data" --use_peft --lora_target_modules all-linear --bf16 false --max_steps 2 \
  --per_device_train_batch_size 4 --save_strategy no --threads 1 --out "$work/hh"
grep -q '4 rows with an empty answer' "$work/hh.stderr" || fail "the four empty answers are not counted"
grep -q '5 rows with differing prompts' "$work/hh.stderr" || fail "the five differing prompts are not counted"
head -n 1 "$work/hh/metrics.jsonl" | grep -q '"loss": 0.693147' || fail "the start: $(head -n 1 "$work/hh/metrics.jsonl")"
finish
