#!/bin/bash
# Packed runs: what a bin changes and what it does not; repeated, killed, resumed and cut; noise on embeddings likewise.
. "$(dirname "$0")/lib.sh"
common=(--model llama --bf16 false --threads 1 --run_name r --logging_steps 100)

value() { # FILE LINE KEY
  sed -n "$2p" "$1" | grep -oE "\"$3\": [-+0-9.eE]+" | cut -d' ' -f2
}
close() { # WHAT A B: within 1e-6 of each other, relative
  awk -v a="$2" -v b="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; s = b < 0 ? -b : b; exit !(a != "" && b != "" && d <= 1e-6 * (1 + s)) }' ||
    fail "$1: $2 and $3"
}

# Documents of a bin do not see each other: all bins in one step are all rows in one step.
one=(--data completions --per_device_train_batch_size 100 --max_steps 1 --save_strategy no)
run rows sft "${common[@]}" "${one[@]}" --max_length 64 --out "$work/rows"
for strategy in bfd bfd_split; do
  run $strategy sft "${common[@]}" "${one[@]}" --max_length 64 --packing true --packing_strategy $strategy --out "$work/$strategy"
  for key in loss grad_norm entropy num_tokens; do
    close "$strategy $key" "$(value "$work/$strategy/metrics.jsonl" 1 $key)" "$(value "$work/rows/metrics.jsonl" 1 $key)"
  done
  grep -q "packed ($strategy): 13 rows in 6 bins of at most 64 tokens" "$work/$strategy.stderr" || fail "$strategy says: $(cat "$work/$strategy.stderr")"
done
# wrapped keeps every token, and where a document is cut its second part begins anew: one label less for each cut
run wrapped sft "${common[@]}" "${one[@]}" --max_length 50 --packing true --packing_strategy wrapped --completion_only_loss false \
  --out "$work/wrapped"
run whole sft "${common[@]}" "${one[@]}" --max_length 50 --completion_only_loss false --out "$work/whole"
[ "$(value "$work/wrapped/metrics.jsonl" 1 num_tokens)" = "$(value "$work/whole/metrics.jsonl" 1 num_tokens)" ] ||
  fail "wrapped: $(value "$work/wrapped/metrics.jsonl" 1 num_tokens) tokens"
grep -q 'packed (wrapped): 13 rows in 7 bins' "$work/wrapped.stderr" || fail "wrapped says: $(cat "$work/wrapped.stderr")"

# A bin without a token to train on: a step of loss 0 that moves nothing, not NaN.
run masked sft "${common[@]}" --data completions --per_device_train_batch_size 1 --max_length 26 --packing true --num_train_epochs 1 \
  --save_strategy no --out "$work/masked"
[ "$(grep -c '"loss": 0.0, "grad_norm": 0.0,' "$work/masked/metrics.jsonl")" = 2 ] ||
  fail "two steps without a label: $(cat "$work/masked/metrics.jsonl")"
grep -qi 'nan' "$work/masked/metrics.jsonl" && fail "NaN in a step without a label"
[ "$(wc -l <"$work/masked/metrics.jsonl")" = 13 ] || fail "13 bins, other steps"

# Every cut of a step is the step, also with noise and dropout, and recomputation changes no bit.
lora=(--use_peft --lora_target_modules all-linear --lora_dropout 0.1)
packed=(--data completions --max_length 30 --packing true --packing_strategy bfd_split --learning_rate 5e-3 --max_steps 10
  --neftune_noise_alpha 5 --save_strategy no)
for kind in full lora; do
  more=()
  [ $kind = lora ] && more=("${lora[@]}")
  run $kind sft "${common[@]}" "${packed[@]}" "${more[@]}" --per_device_train_batch_size 4 --out "$work/$kind"
  for cut in "4 1" "2 2" "1 4"; do
    for tokens in 1 50; do
      name=${kind}_${cut/ /x}_$tokens
      run "$name" sft "${common[@]}" "${packed[@]}" "${more[@]}" --per_device_train_batch_size "${cut% *}" \
        --gradient_accumulation_steps "${cut#* }" --micro_batch_tokens $tokens --out "$work/$name"
      "$compare_log" near 1e-6 "$work/$kind/metrics.jsonl" "$work/$name/metrics.jsonl" >"$work/$name.near" ||
        fail "$name: $(cat "$work/$name.near")"
      "$compare_tensors" 1e-5 "$work/$kind/r-sft_final/model.safetensors" "$work/$name/r-sft_final/model.safetensors" \
        >"$work/$name.tensors" || fail "$name: $(cat "$work/$name.tensors")"
    done
  done
  for on in true false; do
    run ${kind}_$on sft "${common[@]}" "${packed[@]}" "${more[@]}" --per_device_train_batch_size 4 --gradient_checkpointing $on \
      --out "$work/${kind}_$on"
    "$compare_log" same "$work/$kind/metrics.jsonl" "$work/${kind}_$on/metrics.jsonl" || fail "$kind: recomputation changes the metrics"
    same_file "$work/$kind/r-sft_final/model.safetensors" "$work/${kind}_$on/r-sft_final/model.safetensors"
  done
done

# The same bytes again, and when a run ends early and goes on, three times.
cat >"$work/saves.yaml" <<YAML
model_name_or_path: llama
dataset_name: completions
bf16: false
max_length: 30
packing: true
packing_strategy: bfd_split
neftune_noise_alpha: 5.0
learning_rate: 5.0e-3
lr_scheduler_type: constant
max_steps: 20
per_device_train_batch_size: 2
save_strategy: steps
save_steps: 3
YAML
saves=(--config "$work/saves.yaml" --threads 1 --run_name r)
run unbroken sft "${saves[@]}" --out "$work/unbroken"
run again sft "${saves[@]}" --out "$work/again"
"$compare_log" same "$work/unbroken/metrics.jsonl" "$work/again/metrics.jsonl" || fail "a packed run repeated differs"
for steps in 4 7 12 20; do
  run broken$steps sft "${saves[@]}" --max_steps $steps --out "$work/broken" --resume
done
"$compare_log" same "$work/unbroken/metrics.jsonl" "$work/broken/metrics.jsonl" || fail "a packed run resumed differs"
same_file "$work/unbroken/r-sft_final/model.safetensors" "$work/broken/r-sft_final/model.safetensors"
refuse 1 'packing was true, is false' sft "${saves[@]}" --packing false --packing_strategy bfd --out "$work/broken" --resume
refuse 1 'packing_strategy was bfd_split, is bfd' sft "${saves[@]}" --packing_strategy bfd --out "$work/broken" --resume
refuse 1 'neftune_noise_alpha was 5.*, is 6' sft "${saves[@]}" --neftune_noise_alpha 6 --out "$work/broken" --resume

# Noise is in training alone: at rate 0 an evaluation is the same with it and without, the steps are not.
still=("${common[@]}" --data completions --learning_rate 0 --max_steps 2 --per_device_train_batch_size 4 --eval_strategy steps
  --eval_steps 1 --save_strategy no --max_length 64)
run quiet sft "${still[@]}" --out "$work/quiet"
run noisy sft "${still[@]}" --neftune_noise_alpha 10 --out "$work/noisy"
run zero sft "${still[@]}" --neftune_noise_alpha 0 --out "$work/zero"
evals() { grep eval_loss "$1/metrics.jsonl" | grep -oE '"eval_(loss|entropy)": [^,]*'; }
[ -n "$(evals "$work/quiet")" ] && [ "$(evals "$work/quiet")" = "$(evals "$work/noisy")" ] || fail "noise in an evaluation: $(evals "$work/noisy")"
[ "$(value "$work/quiet/metrics.jsonl" 1 loss)" != "$(value "$work/noisy/metrics.jsonl" 1 loss)" ] || fail "no noise in training"
"$compare_log" same "$work/quiet/metrics.jsonl" "$work/zero/metrics.jsonl" || fail "neftune_noise_alpha 0 is not none"

# contradictions
refuse 2 'packing_strategy has no effect without packing' sft "${common[@]}" --data completions --packing_strategy wrapped --out "$work/no"
refuse 2 'max_length cannot be none' sft "${common[@]}" --data completions --packing true --max_length none --out "$work/no"
refuse 2 'eval_split' sft "${common[@]}" --data completions --packing true --eval_packing false --eval_split 0.2 --out "$work/no"
refuse 2 'packing_strategy' sft "${common[@]}" --data completions --packing true --packing_strategy ffd --out "$work/no"
refuse 1 'no token to train on' sft "${common[@]}" --data completions --packing true --max_length 5 --out "$work/no"
refuse 2 'neftune_noise_alpha.*does not have this yet' dpo "${common[@]}" --data pairs --neftune_noise_alpha 5 --out "$work/no"
finish
