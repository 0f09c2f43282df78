#!/bin/bash
# What is wrong is refused, by name, with the right status, and leaves nothing behind.
. "$(dirname "$0")/lib.sh"
ok=(--model llama --data pairs/train.jsonl --out "$work/run" --threads 1)

# usage and options: 2
refuse 2 'Usage: plumb COMMAND'
refuse 2 'no command `dop`; did you mean `dpo`' dop
refuse 2 'a command is expected' --model llama
refuse 2 'learning_rat: .*did you mean `learning_rate`' dpo "${ok[@]}" --learning_rat 1
refuse 2 'beta: plumb sft does not use it \(it belongs to plumb dpo' sft "${ok[@]}" --beta 1
refuse 2 'beta.*`much`' dpo "${ok[@]}" --beta much
refuse 2 'beta' dpo "${ok[@]}" --beta -1
refuse 2 'lr_scheduler_type.*linear' dpo "${ok[@]}" --lr_scheduler_type wavy
refuse 2 '--model is missing' dpo --data pairs --out "$work/run"
refuse 2 '--out is missing' dpo --model llama --data pairs
refuse 2 'lora_r.*use_peft' dpo "${ok[@]}" --lora_r 4
refuse 2 'packing: plumb dpo does not use it \(it belongs to plumb sft\); the nearest here is `[a-z_]+`$' dpo "${ok[@]}" --packing true
refuse 2 'optim' dpo "${ok[@]}" --optim sgd
refuse 2 'threads' dpo "${ok[@]}" --threads 0
refuse 2 'give --prompt TEXT or --data FILE' generate --model llama
refuse 2 'give one of' tokenize --model llama
refuse 2 'no token id' tokenize --model llama --decode --ids 1 x
refuse 2 'temperature 0' generate --model llama --prompt a --temperature 0 --top_k 3
refuse 2 'an option is expected' dpo llama

# YAML
yaml() { printf '%b' "$1" >"$work/c.yaml"; }
yaml 'model_name_or_path: llama\nlearning_rte: 1\n'
refuse 2 'c.yaml:2: learning_rte.*learning_rate' dpo "${ok[@]:2}" --config "$work/c.yaml"
yaml 'beta: [1, 2]\n'
refuse 2 'c.yaml:1: beta' dpo "${ok[@]}" --config "$work/c.yaml"
yaml 'beta: 0.1\nbeta: 0.2\n'
refuse 1 'c.yaml.*beta|beta.*twice' dpo "${ok[@]}" --config "$work/c.yaml"
yaml 'beta: {\n'
refuse 1 'c.yaml' dpo "${ok[@]}" --config "$work/c.yaml"
refuse 1 'nothere.yaml' dpo "${ok[@]}" --config nothere.yaml
yaml 'evaluation_strategy: "no"\nreport_to: wandb\npreprocessing_num_workers: 12\nhub_model_id: me/mine\npush_to_hub: false\nbeta: 0.2\nlabel_smoothing: 0.0\nmax_steps: 1\n'
run taken dpo "${ok[@]}" --config "$work/c.yaml" --beta 0.3 --overwrite_output_dir
grep -q 'evaluation_strategy is an older name of eval_strategy' "$work/taken.stderr" || fail "no note about an old name"
grep -q 'report_to has no effect' "$work/taken.stderr" || fail "no note about report_to"
grep -qE '^beta: 0.3$' "$work/run/config.yaml" || fail "the command line does not override the file"
yaml 'label_smoothing: 0.1\n'
refuse 2 'label_smoothing' dpo "${ok[@]}" --config "$work/c.yaml"
yaml 'dataloader_drop_last: true\n'
refuse 2 'dataloader_drop_last' dpo "${ok[@]}" --config "$work/c.yaml"
yaml 'push_to_hub: true\n'
refuse 2 'push_to_hub' dpo "${ok[@]}" --config "$work/c.yaml"
rm -rf "$work/run"

# files
refuse 1 'nothere' dpo "${ok[@]:2}" --model nothere
refuse 1 'plumb never downloads' dpo --model llama --data Anthropic/hh-rlhf --out "$work/run"
hub='no such directory here. plumb never downloads: get it first \(from the Hugging Face Hub: `hf download'
get="meta-llama/Llama-3.2-1B: $hub meta-llama/Llama-3.2-1B --local-dir DIR"
refuse 1 "plumb dpo: $get" dpo --model meta-llama/Llama-3.2-1B --data pairs --out "$work/run"
refuse 1 "ref_model: $get" dpo --model llama --ref_model meta-llama/Llama-3.2-1B --data pairs --out "$work/run"
refuse 1 "adapter me/mine: me/mine: $hub me/mine " dpo --model llama --adapter me/mine --data pairs --out "$work/run"
for command in 'logps --data pairs' 'generate --prompt a' 'tokenize --text a'; do
  # shellcheck disable=SC2086
  refuse 1 "$get" $command --model meta-llama/Llama-3.2-1B
done
refuse 1 "runs/nothere: $hub NAME " logps --data pairs --model runs/nothere # a path of this machine, by its look
: >"$work/empty.jsonl"
refuse 1 'empty.jsonl' dpo --model llama --data "$work/empty.jsonl" --out "$work/run"
echo '{"prompt": "a", "chosen": 3, "rejected": "c"}' >"$work/types.jsonl"
refuse 1 'types.jsonl:1.*chosen' dpo --model llama --data "$work/types.jsonl" --out "$work/run"
printf '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": \n' >"$work/broken.jsonl"
refuse 1 'broken.jsonl:2' dpo --model llama --data "$work/broken.jsonl" --out "$work/run"
refuse 1 'rejected|prompt' dpo --model llama --data texts/train.jsonl --out "$work/run"
echo '{"ids": [1, -2]}' >"$work/ids.jsonl"
refuse 1 'ids.jsonl:1.*\[1\] is no token id' tokenize --model llama --decode --data "$work/ids.jsonl"
echo '{"ids": [1, 100000]}' >"$work/ids.jsonl"
refuse 1 'ids.jsonl' tokenize --model llama --decode --data "$work/ids.jsonl"
echo '{"txt": "a"}' >"$work/t.jsonl"
refuse 1 't.jsonl:1.*no "text"' tokenize --model llama --data "$work/t.jsonl"
[ -e "$work/run" ] && fail "a refused run left its directory behind"

# models
model() { rm -rf "$work/m" && cp -r llama "$work/m"; }
model
sed -i 's/"model_type": *"llama"/"model_type": "mamba"/' "$work/m/config.json"
refuse 1 'mamba' dpo --model "$work/m" --data pairs --out "$work/run"
model
truncate -s -100 "$work/m/model.safetensors"
refuse 1 'model.safetensors' dpo --model "$work/m" --data pairs --out "$work/run"
model
printf '\377\377\377\377\377\377\377\177' | dd of="$work/m/model.safetensors" conv=notrunc 2>/dev/null
refuse 1 'model.safetensors' logps --model "$work/m" --data pairs
model
rm "$work/m/tokenizer.json"
refuse 1 'tokenizer.json' dpo --model "$work/m" --data pairs --out "$work/run"
model
sed -i 's/"hidden_size": *32/"hidden_size": 48/' "$work/m/config.json"
refuse 1 'model.safetensors|hidden_size|rows|cols' dpo --model "$work/m" --data pairs --out "$work/run"
model
# A NaN in one tensor: every command says where it comes from and leaves nothing behind.
poison() { # DIR TENSOR [BYTES]: NaN, or these bytes, into its first elements
  local file=$1/model.safetensors head at
  head=$(od -An -tu8 -N8 "$file" | tr -d ' ')
  at=$(head -c $((8 + head)) "$file" | tail -c "$head" | grep -oE "\"$2\": *\{[^}]*\"data_offsets\": *\[[0-9]+" | grep -oE '[0-9]+$')
  [ -n "$at" ] || fail "no tensor $2 in $file"
  printf "${3:-\\000\\000\\300\\177}" | dd of="$file" bs=1 seek=$((8 + head + at)) conv=notrunc 2>/dev/null
}
nan() { # PLACE TENSOR
  local place=$1 tensor=$2 named="the first such value comes out of $1, and $2 holds one" run
  model
  poison "$work/m" "$tensor"
  run=(--max_length 128 --threads 1 --out "$work/run" --overwrite_output_dir)
  # the reference has the same weights, and is first
  refuse 1 "step 1: rows? 0 .line 1.*a log-prob of the reference is not finite; $named" \
    dpo --model "$work/m" --data pairs/train.jsonl "${run[@]}" --train_sampling_strategy sequential
  refuse 1 "step 1: .*a log-prob of the reference is not finite; $named" \
    dpo --model "$work/m" --data pairs/train.jsonl "${run[@]}" --use_peft
  refuse 1 "step 1: .*a log-prob is not finite; $named" \
    dpo --model "$work/m" --ref_model llama --data pairs/train.jsonl "${run[@]}" --use_peft
  refuse 1 "step 1: .*a log-prob is not finite; $named" sft --model "$work/m" --data completions/train.jsonl "${run[@]}"
  refuse 1 "step 1: .*a log-prob of the reference is not finite; $named" \
    dpo --model llama --ref_model "$work/m" --data pairs/train.jsonl "${run[@]}"
  refuse 1 "reference pass: row 0: a log-prob is not finite; $named" \
    dpo --model "$work/m" --data pairs/train.jsonl "${run[@]}" --precompute_ref_log_probs --cache_dir "$work/nan_cache"
  [ -z "$(find "$work/nan_cache" -name "reference-*")" ] || fail "log-probs that are not finite were cached"
  refuse 1 "row 0 .line 1.: a log-prob is not finite; $named" logps --model "$work/m" --data pairs/train.jsonl
  refuse 1 "row 0 .line 1.: a log-prob is not finite; $named" eval --model "$work/m" --data pairs/train.jsonl
  refuse 1 "a logit is not finite: $tensor holds such a number" generate --model "$work/m" --prompt a
  ls -d "$work"/run/*_final >/dev/null 2>&1 && fail "a model that is not finite was saved"
  rm -rf "$work/run" "$work/nan_cache"
}
nan 'layer 0' model.layers.0.mlp.gate_proj.weight
nan 'layer 1' model.layers.1.self_attn.v_proj.weight
nan 'layer 1' model.layers.1.post_attention_layernorm.weight
nan 'the head' model.norm.weight
tail -n 2 "$work/refused.stderr"
# in an adapter
cp -r runs/dpo_lora/adapter_init "$work/a" && mv "$work/a/adapter_model.safetensors" "$work/a/model.safetensors" &&
  poison "$work/a" base_model.model.model.layers.1.mlp.down_proj.lora_B.weight && mv "$work/a/model.safetensors" "$work/a/adapter_model.safetensors"
refuse 1 'out of layer 1, and base_model.model.model.layers.1.mlp.down_proj.lora_B.weight holds one' \
  logps --model llama --adapter "$work/a" --data pairs/train.jsonl
# a gradient that overflows while every log-prob is finite: a column of B is huge, and what comes to it through A is zero. The
# step is narrowed down to the rows whose gradient it is, and to the tensor that the backward pass came to first.
rm -r "$work/a" && cp -r runs/dpo_lora/adapter_init "$work/a" && mv "$work/a/adapter_model.safetensors" "$work/a/model.safetensors"
module=base_model.model.model.layers.1.mlp.up_proj
poison "$work/a" $module.lora_A.weight "$(printf '\\000%.0s' $(seq 128))" && poison "$work/a" $module.lora_B.weight '\377\377\177\177'
mv "$work/a/model.safetensors" "$work/a/adapter_model.safetensors"
cp -r "$work/a" "$work/a1" && mv "$work/a1/adapter_model.safetensors" "$work/a1/model.safetensors" &&
  poison "$work/a1" $module.lora_B.weight '\316\227\100\173' && mv "$work/a1/model.safetensors" "$work/a1/adapter_model.safetensors" # 1e36
huge=(dpo "${ok[@]}" --max_length 128 --bf16 false --beta 1000 --train_sampling_strategy sequential --overwrite_output_dir)
refuse 1 "step 1: row 0 .line 1.: layer 1: the gradient of $module.lora_A.weight is not finite" "${huge[@]}" --adapter "$work/a" --micro_batch_tokens 1
refuse 1 "step 1: row 1 .line 2.: layer 1: the gradient of $module.lora_A" "${huge[@]}" --adapter "$work/a1" --micro_batch_tokens 1
refuse 1 "step 1: rows 0 .line 1., 1 .line 2..*, 7 .line 8.: layer 1: the gradient of $module.lora_A" "${huge[@]}" --adapter "$work/a"
# numbers that overflow although all weights are finite: one of them is the largest there is
model && poison "$work/m" model.layers.1.post_attention_layernorm.weight '\377\377\177\177'
refuse 1 'step 1: .*all weights are finite' dpo --model "$work/m" "${ok[@]:2}" --max_length 128 --bf16 false --overwrite_output_dir

# messages as JSON
"$plumb" dpo "${ok[@]}" --beta much --log_format json 2>"$work/json.stderr"
grep -qE '^\{"level":"error","text":".*much.*","hint":".*"\}?' "$work/json.stderr" || fail "no JSON error: $(cat "$work/json.stderr")"
# output that cannot be written
if [ -e /dev/full ]; then
  "$plumb" logps --model llama --data pairs --threads 1 >/dev/full 2>/dev/null && fail "a full disk goes unnoticed (logps)"
  "$plumb" doctor >/dev/full 2>/dev/null && fail "a full disk goes unnoticed (doctor)"
fi
finish
