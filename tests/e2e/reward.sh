#!/bin/bash
# Reward models and verifiers, from training to scores: what is written scores as what was trained, whatever the cut, with
# LoRA or without; answers, pairs and lists are scored; errors say what is wrong. TRL's curves are parity.sh's.
. "$(dirname "$0")/lib.sh"
one=(--threads 1 --bf16 false)
rows=(--data pairs/train.jsonl --eval_data pairs/test.jsonl --per_device_train_batch_size 4 "${one[@]}")
pairs=("${rows[@]}" --learning_rate 1e-3)

says() { # FILE PATTERN
  grep -qE -- "$2" "$work/$1" || fail "$1: no \"$2\" in: $(head -n 3 "$work/$1")"
}
value() { # FILE KEY: its last value
  grep -oE "\"$2\": ?[-0-9.e]+" "$1" | tail -n 1 | sed 's/.*: *//'
}
near() { # A B TOLERANCE WHAT
  awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && b != "" && d <= t) }' || fail "$4: $1 and $2"
}
# every number of two files of scores within a bound
same_scores() { # A B TOLERANCE
  paste -d' ' <(grep -oE '"[a-z]*_?score": [-0-9.e]+' "$1" | sed 's/.*: //') <(grep -oE '"[a-z]*_?score": [-0-9.e]+' "$2" | sed 's/.*: //') |
    awk -v t="$3" '{ d = $1 - $2; if (d < 0) d = -d; if (!(NF == 2 && d <= t)) bad = 1; n++ } END { exit bad || n == 0 }' ||
    fail "$1 and $2: other scores"
}

# a new head over a causal model: full and LoRA; the directory is a sequence classifier's
run full reward --model llama --out "$work/full" --max_steps 12 "${pairs[@]}"
final=$work/full/full-reward_final
says full.stderr 'score head: new, drawn from the seed'
says full.stderr 'no token to pad with but eos'
for want in 'LlamaForSequenceClassification' '"id2label": \{' '"pad_token_id": null'; do
  tr '\n' ' ' <"$final/config.json" | grep -qE "$want" || fail "config.json has no $want"
done
[ -e "$final/generation_config.json" ] && fail "a reward model has a generation_config.json"
says full/report.json '"kind":"pairs","pairs":8,"accuracy":'
run scored score --model "$final" --data pairs/test.jsonl --out "$work/scored.jsonl" --json "${one[@]}"
says scored.jsonl '^\{"prompt": "Q: .*, "chosen_score": -?[0-9.]+, "rejected_score": -?[0-9.]+\}$'
near "$(value "$work/full/metrics.jsonl" eval_accuracy)" "$(value "$work/scored.stdout" accuracy)" 0 "accuracy of plumb score"
near "$(value "$work/full/metrics.jsonl" eval_loss)" "$(value "$work/scored.stdout" loss)" 1e-6 "loss of plumb score"
run eval eval --model "$final" --data pairs/test.jsonl --json "${one[@]}"
near "$(value "$work/full/metrics.jsonl" eval_ece)" "$(value "$work/eval.stdout" ece)" 1e-5 "ece of plumb eval"
run stdout score --model "$final" --data pairs/test.jsonl "${one[@]}" && same_file "$work/stdout.stdout" "$work/scored.jsonl"

run lora reward --model llama --use_peft --out "$work/lora" --max_steps 12 "${rows[@]}" --learning_rate 1e-2
says lora/lora-reward_final/adapter/adapter_config.json '"task_type": "SEQ_CLS"'
run merged score --model "$work/lora/lora-reward_final" --data pairs/test.jsonl --out "$work/merged.jsonl" "${one[@]}"
run on_top score --model llama --adapter "$work/lora/lora-reward_final/adapter" --data pairs/test.jsonl --out "$work/on_top.jsonl" "${one[@]}"
same_scores "$work/merged.jsonl" "$work/on_top.jsonl" 1e-5

# it goes on from its own directory, whose head it keeps, and from its adapter
run further reward --model "$final" --out "$work/further" --max_steps 2 "${pairs[@]}"
says further.stderr "score head: the model's"
run adapter reward --model llama --adapter "$work/lora/lora-reward_final/adapter" --out "$work/adapter" --max_steps 2 "${pairs[@]}"
says adapter.stderr "score head: the adapter's"
near "$(value <(head -n 1 "$work/further/metrics.jsonl") accuracy)" 1 0.3 "accuracy of the first step that goes on"

# the cut of a step changes nothing; resuming gives the same bytes
run cut reward --model llama --out "$work/cut" --max_steps 12 --micro_batch_tokens 1 "${pairs[@]}"
"$compare_log" near 1e-5 "$work/full/metrics.jsonl" "$work/cut/metrics.jsonl" >"$work/cut.near" || fail "cut: $(cat "$work/cut.near")"
run single reward --model llama --out "$work/single" --max_steps 12 --per_device_train_batch_size 1 --gradient_accumulation_steps 4 \
  --data pairs/train.jsonl --learning_rate 1e-3 "${one[@]}"
run four reward --model llama --out "$work/four" --max_steps 12 --per_device_train_batch_size 4 --data pairs/train.jsonl --learning_rate 1e-3 "${one[@]}"
"$compare_log" near 1e-5 "$work/four/metrics.jsonl" "$work/single/metrics.jsonl" >"$work/single.near" || fail "accumulation: $(cat "$work/single.near")"
run checkpointed reward --model llama --use_peft --out "$work/checkpointed" --run_name lora --max_steps 12 --save_steps 5 --gradient_checkpointing true \
  "${rows[@]}" --learning_rate 1e-2
rm -r "$work/checkpointed"/lora-reward_{final,step10,step12}
run checkpointed reward --model llama --use_peft --out "$work/checkpointed" --run_name lora --max_steps 12 --save_steps 5 --resume "${rows[@]}" --learning_rate 1e-2
same_file "$work/checkpointed/lora-reward_final/adapter/adapter_model.safetensors" "$work/lora/lora-reward_final/adapter/adapter_model.safetensors"
run half reward --model llama --out "$work/half" --run_name full --max_steps 12 --save_steps 5 "${pairs[@]}"
cp -r "$work/half" "$work/resumed" && rm -r "$work/resumed"/full-reward_{final,step10,step12}
run resumed reward --model llama --out "$work/resumed" --run_name full --max_steps 12 --save_steps 5 --resume "${pairs[@]}"
for name in half resumed; do sed -E 's/, "(step_time|eval_runtime)".*//' "$work/$name/metrics.jsonl" >"$work/$name.lines"; done
same_file "$work/half.lines" "$work/resumed.lines"
same_file "$work/half/full-reward_final/model.safetensors" "$work/resumed/full-reward_final/model.safetensors"

# margins count, rows beyond max_length are left out, centring moves the mean
run margin reward --model reward --data margins/train.jsonl --out "$work/margin" --max_steps 1 "${one[@]}"
sed -E 's/, "margin": [-0-9.]+//' margins/train.jsonl >"$work/plain.jsonl"
run plain reward --model reward --data "$work/plain.jsonl" --out "$work/plain" --max_steps 1 "${one[@]}"
[ "$(value "$work/margin/metrics.jsonl" loss)" = "$(value "$work/plain/metrics.jsonl" loss)" ] && fail "the margin column changes nothing"
run short reward --model llama --out "$work/short" --max_steps 1 --max_length 60 "${pairs[@]}"
says short.stderr 'train.jsonl: [0-9]+ rows? dropped: longer than max_length'
grep -q truncated "$work/short.stderr" && fail "rows were cut"
run centred reward --model reward --out "$work/centred" --max_steps 12 --center_rewards_coefficient 1 "${pairs[@]}"
run uncentred reward --model reward --out "$work/uncentred" --max_steps 12 "${pairs[@]}"
awk -v a="$(value "$work/centred/metrics.jsonl" eval_mean_reward)" -v b="$(value "$work/uncentred/metrics.jsonl" eval_mean_reward)" \
  'BEGIN { exit !(a * a < b * b) }' || fail "centring leaves the mean reward where it was"

# verifier: labelled rows; a file of problems
run verifier verifier --model llama --data unpaired/train.jsonl --eval_data unpaired/test.jsonl --out "$work/verifier" --max_steps 12 \
  --learning_rate 1e-3 "${one[@]}"
says verifier/report.json '"kind":"labels"'
says verifier/metrics.jsonl '"eval_accuracy": .*"eval_auc": '
problem() { printf '{"question": "How much is %s and %s?", "answer": "It is %s+%s=<<%s+%s=%s>>%s.\\n#### %s"}\n' "$1" "$2" "$1" "$2" "$1" "$2" "$3" "$3" "$3"; }
for i in 1 2 3 4 5 6 7 8; do problem $i $((i + 3)) $((2 * i + 3)); done >"$work/problems.jsonl"
for i in 11 12 13; do problem $i 1 $((i + 1)); done >"$work/held.jsonl"
solutions() { printf '{"question": "How much is %s and 1?", "small": {"is_correct": false, "solution": "It is 0.\\nA: 0"}, "large": {"is_correct": true, "solution": "It is %s.\\nA: %s"}}\n' "$1" "$2" "$2"; }
for i in 21 22; do solutions $i $((i + 1)); done >"$work/solutions.jsonl"
run gsm8k verifier --model llama --gsm8k "$work/problems.jsonl" --gsm8k_solutions "$work/solutions.jsonl" --eval_data "$work/held.jsonl" \
  --out "$work/gsm8k" --max_steps 8 --learning_rate 1e-3 "${one[@]}"
says gsm8k.stderr "8 GSM8K problems: 8 given solutions, 8 of another problem, 8 with perturbed numbers, 2 right and 2 wrong ones of models"
[ "$(wc -l <"$work/gsm8k/train_rows.jsonl")" = 28 ] || fail "the rows that were made are not in the run directory"
[ "$(grep -c '"label":true' "$work/gsm8k/train_rows.jsonl")" = 10 ] || fail "not 10 right answers"
grep -q '<<' "$work/gsm8k/train_rows.jsonl" && fail "calculator annotations are left"

# score: single answers, lists, the best of several
best=$work/gsm8k/gsm8k-verifier_final
run best score --model "$best" --data "$work/solutions.jsonl" --best_of --out "$work/best.jsonl" --json "${one[@]}"
[ "$(wc -l <"$work/best.jsonl")" = 2 ] || fail "not one best answer per prompt"
says best.stdout '"best_of":\{"prompts":2,"labelled":2,"answers":2.0,"accuracy/best":[0-9.]+,"accuracy/random":0.5,"accuracy/any":1.0\}'
printf '%s\n' '{"prompt": "Q:", "completions": [" a", " b", " a b"], "labels": [true, false, 0], "id": 7}' >"$work/list.jsonl"
run list score --model "$best" --data "$work/list.jsonl" "${one[@]}"
says list.stdout '^\{"prompt": "Q:".*"id": 7, "scores": \[-?[0-9.]+, -?[0-9.]+, -?[0-9.]+\]\}$'
printf '%s\n' '{"prompt": "Q:", "completion": " b"}' '{"prompt": "P:", "completion": " c"}' '{"prompt": "Q:", "completion": " a b"}' >"$work/one.jsonl"
run one score --model "$best" --data "$work/one.jsonl" "${one[@]}"
[ "$(grep -oE 'score": .*' "$work/one.stdout" | head -n 1 | tr -d '}' | cut -d' ' -f2)" = "$(grep -oE 'scores": .*' "$work/list.stdout" | cut -d' ' -f3 | tr -d ,)" ] ||
  fail "an answer in a list scores otherwise than alone"
run grouped score --model "$best" --data "$work/one.jsonl" --best_of "${one[@]}"
[ "$(wc -l <"$work/grouped.stdout")" = 2 ] || fail "equal prompts are not one"
run unscored score --model "$best" --data pairs/test.jsonl --max_length 40 "${one[@]}"
says unscored.stderr 'get no score: longer than 40 tokens'
says unscored.stdout 'score": null'

# refused
refuse 1 'is a causal language model, which gives no scores' score --model llama --data pairs/test.jsonl
refuse 1 'is a reward model .* want a causal' generate --model "$final" --prompt a
refuse 1 'is a reward model .* want a causal' dpo --model "$final" --data pairs/train.jsonl --out "$work/no"
refuse 1 'task_type CAUSAL_LM' reward --model llama --adapter runs/dpo_lora/adapter_init --data pairs/train.jsonl --out "$work/no"
refuse 1 'task_type SEQ_CLS' dpo --model llama --adapter "$work/lora/lora-reward_final/adapter" --data pairs/train.jsonl --out "$work/no"
refuse 1 'no pairs and have no labels' eval --model "$final" --data completions/test.jsonl
refuse 2 'ref_model: a reward model' eval --model "$final" --data pairs/test.jsonl --ref_model llama
refuse 1 'one.jsonl:1: .*prompt, completion and label, or preference rows' verifier --model llama --data "$work/one.jsonl" --out "$work/no"
refuse 2 'eval_split would put answers to one problem on both sides' verifier --model llama --gsm8k "$work/problems.jsonl" --eval_split 0.5 --out "$work/no"
refuse 2 'gsm8k_solutions goes with GSM8K problems' verifier --model llama --data unpaired/train.jsonl --gsm8k_solutions "$work/solutions.jsonl" --out "$work/no"
printf '%s\n' '{"prompt": "Q:", "completion": " b", "label": "yes"}' >"$work/bad.jsonl"
refuse 1 'bad.jsonl:1: .*label' score --model "$final" --data "$work/bad.jsonl"
printf '%s\n' '{"text": "Q:"}' >"$work/bad.jsonl"
refuse 1 'bad.jsonl:1: rows have prompt and completion, ' score --model "$final" --data "$work/bad.jsonl"
refuse 1 'no row is left of 14: 14 are longer than max_length' reward --model llama --data pairs/train.jsonl --max_length 3 --out "$work/no"
[ -e "$work/no" ] && fail "a refused run left its directory"
finish
