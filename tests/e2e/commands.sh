#!/bin/bash
# Every command does what it says; numbers of logps and tokenize against the golden files.
. "$(dirname "$0")/lib.sh"

says() { # NAME PATTERN
  grep -qE -- "$2" "$work/$1.stdout" || fail "$1: no \"$2\" in: $(head -n 3 "$work/$1.stdout")"
}

# help
run version --version && says version '^plumb [0-9]+\.[0-9]+'
run usage --help && says usage '^  dpo '
run help help && same_file "$work/help.stdout" "$work/usage.stdout"
for command in dpo sft reward verifier logps eval score generate tokenize init doctor help; do
  run "help_$command" $command --help && says "help_$command" "^Usage: plumb $command"
  run "help2_$command" help $command && same_file "$work/help_$command.stdout" "$work/help2_$command.stdout"
  says usage "^  $command "
done
# a default is told once
for command in dpo sft reward verifier logps eval score generate; do
  tr -s ' \n' '  ' <"$work/help_$command.stdout" | sed 's/ --/\n--/g' | grep -q '(default.*default: unset' &&
    fail "$command --help tells a default twice"
done
says help_dpo 'seed of the row order \(default: seed\) \[a whole number'
run man help --man && says man '^\.TH plumb 1'
run completion help --completion && bash -n "$work/completion.stdout" || fail "the completion script is broken"

# doctor
run doctor doctor --threads 2 && says doctor '^threads +2 of' && says doctor '^level +(generic|avx)'
for library in json-c PCRE2 utf8proc libyaml zlib xxHash; do says doctor "^libraries .*\\b$library [0-9]+\\.[0-9]+"; done
! grep -q '^products *oneDNN' "$work/doctor.stdout" || says doctor '^libraries +oneDNN [0-9]+\.[0-9]+\.[0-9]+, '
run doctor_json doctor --json && says doctor_json '^\{"version": .*"native_bf16": (true|false), .*\}$'

# logps: the ids are TRL's, and the sums are those of the tokens
run logps logps --model llama --data pairs/train.jsonl --threads 1
[ "$(wc -l <"$work/logps.stdout")" = 14 ] || fail "logps: not a line per row"
says logps '^\{"row":0,"prompt_tokens":[0-9]+,"chosen":\{"tokens":[0-9]+,"logp":-[0-9.]+\},"rejected":\{"tokens":[0-9]+,"logp":-[0-9.]+\}\}$'
run tokens logps --model llama --data pairs/train.jsonl --tokens --threads 1
ids_of() { tr -d ' ' <"$1" | grep -oE '"prompt_ids":\[[0-9,]*\]'; }
diff <(ids_of "$work/tokens.stdout") <(ids_of tokens/pairs_train.jsonl) >/dev/null || fail "logps --tokens: other prompt ids than TRL's"
# and the log-probs are those of transformers, from text to the last digit
for golden in llama_pairs_train llama_pairs_test llama_seam_joint qwen2_pairs_train; do
  model=${golden%%_*} data=${golden#*_}
  file=$(tr _ / <<<"${data/seam_joint/seam_train}").jsonl
  run "golden_$golden" logps --model "$model" --data "$file" --tokens --threads 1 --seam joint
  "$compare_log" logps "$work/golden_$golden.stdout" "logps/$golden.jsonl" >"$work/compared" || fail "logps $golden: $(cat "$work/compared")"
  echo "logps $golden: $(tail -n 1 "$work/compared")"
done
"$compare_log" logps "$work/golden_qwen2_pairs_train.stdout" logps/llama_pairs_train.jsonl >/dev/null && fail "another model's log-probs pass"
run logps_file logps --model llama --data pairs/train.jsonl --out "$work/file.jsonl" --threads 1
same_file "$work/file.jsonl" "$work/logps.stdout"
[ -s "$work/logps_file.stdout" ] && fail "logps --out prints to standard output too"

# eval: step 0 of an adapter is the base
run eval eval --model llama --data pairs --adapter runs/dpo_lora/adapter_init --json --threads 1
says eval '"loss":0.693147180559945'
run eval_text eval --model llama --data pairs --no_reference --threads 1 && says eval_text 'logps/accuracies'

# generate: greedy repeats itself, a seed too; a file gives a line per prompt
greedy=(--model llama --prompt 'Q: What is 1 + 1?' --max_new_tokens 8 --bf16 false --threads 1)
run greedy generate "${greedy[@]}" && run greedy2 generate "${greedy[@]}" && same_file "$work/greedy.stdout" "$work/greedy2.stdout"
run sampled generate "${greedy[@]}" --temperature 1.5 --seed 1
run sampled2 generate "${greedy[@]}" --temperature 1.5 --seed 1 && same_file "$work/sampled.stdout" "$work/sampled2.stdout"
run sampled3 generate "${greedy[@]}" --temperature 1.5 --seed 2
cmp -s "$work/sampled.stdout" "$work/sampled3.stdout" && fail "generate: another seed gives the same text"
iconv -f utf-8 -t utf-8 "$work/sampled.stdout" >/dev/null 2>&1 || fail "generate: not UTF-8"
run lines generate --model llama --data pairs --max_new_tokens 4 --bf16 false --threads 1 --out "$work/lines.jsonl"
[ "$(grep -cE '^\{"row":[0-9]+,"sample":0,"prompt":' "$work/lines.jsonl")" = 8 ] || fail "generate --data: not a line per row"

# tokenize there and back
text='Räume für Finn: 36 €. 你好? 🙂'
run tokenize tokenize --model llama --text "$text" && says tokenize '^\{"ids":\[[0-9,]+\]\}$'
run decoded tokenize --model llama --decode --data "$work/tokenize.stdout"
[ "$(cat "$work/decoded.stdout")" = "{\"text\":\"$text\"}" ] || fail "tokenize: $(cat "$work/decoded.stdout")"
run ids tokenize --model llama --decode --ids "72 101" && run ids2 tokenize --model llama --decode --ids 72 101 &&
  same_file "$work/ids.stdout" "$work/ids2.stdout"
run rows tokenize --model llama --data texts/train.jsonl --add_special_tokens false
[ "$(wc -l <"$work/rows.stdout")" = 12 ] || fail "tokenize --data: not a line per row"

# init: the same seed gives the same bytes; what was made trains
run init init --config llama --out "$work/init" && run init2 init --config llama --out "$work/init2"
same_file "$work/init/model.safetensors" "$work/init2/model.safetensors"
run init3 init --config llama --out "$work/init3" --seed 1
cmp -s "$work/init/model.safetensors" "$work/init3/model.safetensors" && fail "init: another seed gives the same weights"
run sft sft --model "$work/init" --data texts/train.jsonl --max_steps 2 --max_length 128 --threads 1 --out "$work/sft"
# what was trained is a model again, and its adapter an adapter
run lora dpo --model llama --data pairs --use_peft --max_steps 2 --max_length 128 --threads 1 --run_name r --out "$work/lora" \
  --eval_strategy steps --eval_steps 1 --precompute_ref_log_probs --learning_rate 1e-3 --bf16 false
run merged logps --model "$work/lora/r-dpo_final" --data pairs --threads 1
run adapted logps --model llama --adapter "$work/lora/r-dpo_final/adapter" --data pairs --threads 1
paste <(grep -oE '"logp":[-0-9.e]+' "$work/merged.stdout") <(grep -oE '"logp":[-0-9.e]+' "$work/adapted.stdout") |
  sed 's/"logp"://g' | awk '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= 2e-4)) bad++; n++ } END { exit bad > 0 || n < 16 }' ||
  fail "the merged model and the adapter on its base disagree"
run json sft --model "$work/init" --data completions --max_steps 1 --max_length 128 --threads 1 --out "$work/json" --log_format json
grep -qvE '^\{"level":"(info|warning)","text":".*"\}$' "$work/json.stderr" && fail "a line that is not JSON: $(grep -vE '^\{' "$work/json.stderr" | head -n 1)"
# the reference is said in words, all five of them
reference() { # NAME SENTENCE
  grep -qF -- "reference = $2" "$work/$1.stderr" || fail "$1: no \"$2\" in: $(grep reference "$work/$1.stderr" | head -n 1)"
}
one=(--data pairs --max_length 128 --max_steps 1 --threads 1 --bf16 false --save_strategy no --run_name r)
live='its log-probs are computed in every step' once='its log-probs are computed once, before training'
reference lora "the base model llama, with the adapter off; $once"
run ref_base dpo --model llama "${one[@]}" --out "$work/ref_base" && reference ref_base "the initial model llama; $live"
run ref_adapter dpo --model llama "${one[@]}" --out "$work/ref_adapter" --adapter runs/dpo_lora/adapter_init &&
  reference ref_adapter "the base model llama with the starting adapter runs/dpo_lora/adapter_init, frozen; $live"
run ref_model dpo --model llama "${one[@]}" --out "$work/ref_model" --ref_model llama --precompute_ref_log_probs &&
  reference ref_model "the model in llama; $once"
run ref_off dpo --model llama "${one[@]}" --out "$work/ref_off" --use_peft && reference ref_off "the base model llama, with the adapter off; $live"

# a new adapter names its targets one by one, for readers that know no "all-linear" and no default
targets() { # RUN NAME...
  local file=$work/$1/r-dpo_final/adapter/adapter_config.json want
  shift
  want=$(printf '"%s",' "$@")
  [ "$(tr -d ' \n' <"$file" | grep -oE '"target_modules":\[[^]]*\]')" = "\"target_modules\":[${want%,}]" ] ||
    fail "target_modules: $(grep -A 9 target_modules "$file")"
}
run lora_all dpo --model llama "${one[@]}" --out "$work/lora_all" --use_peft --lora_target_modules all-linear
targets lora_all down_proj gate_proj k_proj o_proj q_proj up_proj v_proj
targets ref_off q_proj v_proj
run lora_named dpo --model llama "${one[@]}" --out "$work/lora_named" --use_peft --lora_target_modules up_proj o_proj
targets lora_named up_proj o_proj
# one that was read keeps what it said
targets ref_adapter $(tr -d ' \n' <runs/dpo_lora/adapter_init/adapter_config.json | grep -oE '"target_modules":\[[^]]*\]' |
  cut -d[ -f2 | tr -d ']"' | tr , ' ')
finish
