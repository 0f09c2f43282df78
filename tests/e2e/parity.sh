#!/bin/bash
# Each golden run of TRL: the same YAML through plumb gives TRL's curves; and the comparison notices what it must.
. "$(dirname "$0")/lib.sh"

# train RUN OUT_NAME OPTION...
train() {
  local name=$1 out=$2 adapter=()
  shift 2
  [ -d "runs/$name/adapter_init" ] && adapter=(--adapter "runs/$name/adapter_init")
  # TRL pairs KTO's mismatched answers within a micro-batch, and takes the rows of KTO and BCO in the file's order
  case $name in
  kto_apo) ;;
  kto_*) adapter+=(--kl_pairing batch --train_sampling_strategy sequential) ;;
  bco_*) adapter+=(--train_sampling_strategy sequential) ;;
  esac
  run "$out" "${name%%_*}" --config "runs/$name/config.yaml" "${adapter[@]}" --threads 1 --out "$work/$out" "$@"
}

# weights OUT_NAME RUN: what was trained ends where TRL's run ended
weights() {
  local file
  for file in "$work/$1"/*_final/adapter/adapter_model.safetensors "$work/$1"/*_final/model.safetensors; do
    [ -e "$file" ] && break
  done
  "$compare_tensors" 1e-5 sums "runs/$2/final.json" "$file" >"$work/$1.sums"
}

for dir in runs/*/; do
  name=$(basename "$dir")
  skip=()
  # TRL's unweighted means over the micro-batches of a step (tests/golden/README.md)
  case $name in *_accum) skip=(entropy mean_token_accuracy logits/chosen logits/rejected) ;; esac
  # TRL's mean over padding too
  case $name in cpo_* | orpo_*) skip=(logits/chosen logits/rejected eval_logits/chosen eval_logits/rejected) ;; esac
  # squares of log-ratios: the noise of its loss is ten times as large; compared below
  case $name in dpo_sppo) skip=(loss) ;; esac
  # TRL 1.13's sums over the vocabulary
  case $name in bco_*) skip=(logits/chosen logits/rejected) ;; esac
  train "$name" "$name" || continue
  "$compare_log" trl "$work/$name/metrics.jsonl" "$dir/log.jsonl" "${skip[@]}" >"$work/$name.compared" ||
    fail "$name: $(cat "$work/$name.compared")"
  echo "$name: $(tail -n 1 "$work/$name.compared")"
  "$compare_log" near 1e-4 "$work/$name/metrics.jsonl" "$dir/log.jsonl" >"$work/$name.near" ||
    fail "$name: $(cat "$work/$name.near")"
  weights "$name" "$name" || fail "$name: $(cat "$work/$name.sums")"
  echo "$name: $(tail -n 1 "$work/$name.sums")"
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
weights beta2 dpo_full && fail "other weights pass for TRL's"
must_differ epsilon dpo_full --adam_epsilon 1e-6
must_differ schedule dpo_full --lr_scheduler_type cosine
must_differ seed dpo_full --seed 43
must_differ beta dpo_full --beta 0.11
must_differ decay dpo_cosine --weight_decay 0
must_differ sft_beta2 sft_full --adam_beta2 0.99
must_differ sft_strategy sft_pack_cut --packing_strategy bfd_split
must_differ sft_window sft_pack --max_length 62
must_differ sft_loss sft_dft --loss_type nll
must_differ sft_noise sft_full --neftune_noise_alpha 0.01


# Wrong rows are noticed, and where LOSS is a number by the loss alone, which must be off by more than that.
wrong_rows() { # OUT_NAME RUN TOKENS LOSS OPTION...: TOKENS fewer in the first step than the right run has
  local out=$1 name=$2 fewer=$3 loss=$4 right wrong
  shift 4
  train "$name" "$out" "$@" || return
  right=$(head -n 1 "$work/$name/metrics.jsonl" | grep -oE '"num_tokens": [0-9]+' | cut -d' ' -f2)
  wrong=$(head -n 1 "$work/$out/metrics.jsonl" | grep -oE '"num_tokens": [0-9]+' | cut -d' ' -f2)
  [ "$wrong" = $((right - fewer)) ] || fail "$out: $wrong tokens in step 1, want $right - $fewer: the test itself is wrong"
  "$compare_log" trl "$work/$out/metrics.jsonl" "runs/$name/log.jsonl" num_tokens >"$work/$out.compared"
  [ $? = 1 ] || fail "$out: a wrong run passes for the right one"
  echo "$out: $(tail -n 1 "$work/$out.compared")"
  [ "$loss" = none ] && return
  "$compare_log" near "$loss" "$work/$name/metrics.jsonl" "$work/$out/metrics.jsonl" >"$work/$out.near" &&
    fail "$out: the losses stay within $loss"
  echo "$out: $(tail -n 1 "$work/$out.near")"
}
# The boundary one token too early: the last token of each prompt (a colon, a space, a line feed) goes to the answers; all
# ids of a row stay as they are. Both answers of a pair get the same token behind the same prompt, so its log-prob drops
# out of DPO's loss: there it is the other metrics that show it.
shift_boundary() {
  sed -E -e 's/^(.*)\\n", "(chosen|completion)": "(.*)", "rejected": "/\1", "\2": "\\n\3", "rejected": "\\n/;t' \
    -e 's/^(.*)\\n", "completion": "/\1", "completion": "\\n/;t' \
    -e 's/^(.*)([ :])", "chosen": "(.*)", "rejected": "/\1", "chosen": "\2\3", "rejected": "\2/;t' \
    -e 's/^(.*)([ :])", "completion": "/\1", "completion": "\2/'
}
shift_boundary <pairs/train.jsonl >"$work/shifted_pairs.jsonl"
shift_boundary <completions/train.jsonl >"$work/shifted_completions.jsonl"
wrong_rows dpo_boundary dpo_full 0 none --data "$work/shifted_pairs.jsonl" --seam joint
wrong_rows sft_boundary sft_full 0 1e-2 --data "$work/shifted_completions.jsonl" --seam joint
# No EOS: a tokenizer that drops it from the text of an answer.
cp -r llama "$work/no_eos"
sed -E -e '/"added_tokens": \[/,/^  \],/c\  "added_tokens": [],' \
  -e 's/"normalizer": null/"normalizer": {"type": "Replace", "pattern": {"String": "<|endoftext|>"}, "content": ""}/' \
  llama/tokenizer.json >"$work/no_eos/tokenizer.json"
wrong_rows dpo_eos dpo_full 8 1e-2 --model "$work/no_eos"
wrong_rows sft_eos sft_full 4 1e-2 --model "$work/no_eos"
# the same rows and tokenizer without the mistake pass
cp pairs/train.jsonl "$work/same_pairs.jsonl"
train dpo_full same --data "$work/same_pairs.jsonl" --seam joint &&
  { "$compare_log" same "$work/dpo_full/metrics.jsonl" "$work/same/metrics.jsonl" || fail "the same rows from another file differ"; }
# a missing line is noticed, and so is NaN
head -n 49 "$work/dpo_full/metrics.jsonl" >"$work/short.jsonl"
"$compare_log" trl "$work/short.jsonl" runs/dpo_full/log.jsonl >/dev/null && fail "a missing line passes"
sed '20s/"loss": [0-9.e-]*/"loss": NaN/' "$work/dpo_full/metrics.jsonl" >"$work/nan.jsonl"
"$compare_log" trl "$work/nan.jsonl" runs/dpo_full/log.jsonl >/dev/null && fail "NaN passes"
grep -q 'lora_dropout 0.05 is off, because disable_dropout' "$work/dpo_lora.stderr" ||
  fail "dpo_lora does not say that lora_dropout is off"
finish
