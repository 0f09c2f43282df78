#!/bin/bash
# Every objective is the same whatever the machinery around it does: cuts of the step into accumulation and micro-batches,
# a live or a cached reference, the order of rows within a step, a run that is broken off and goes on, LoRA at its start.
. "$(dirname "$0")/lib.sh"

b() { echo "--per_device_train_batch_size $1 --gradient_accumulation_steps $2"; }
base=(--model llama --bf16 false --learning_rate 3e-4 --max_steps 6 --drop_empty --max_length 128 --threads 1 --run_name r
  --train_sampling_strategy sequential)

# like NAME REFERENCE COMMAND OPTION...: losses within 1e-6 of the reference run, weights close by
like() {
  local name=$1 reference=$2 command=$3
  shift 3
  run "$name" "$command" "$@" --out "$work/$name" || return
  "$compare_log" near 1e-6 "$work/$reference/metrics.jsonl" "$work/$name/metrics.jsonl" >"$work/$name.near" ||
    fail "$name: $(cat "$work/$name.near")"
  "$compare_tensors" 1e-5 "$work/$reference/r-${command}_final/model.safetensors" \
    "$work/$name/r-${command}_final/model.safetensors" >"$work/$name.tensors" || fail "$name: $(cat "$work/$name.tensors")"
}

first_loss() { grep -oE '"loss": [-0-9.e]+' "$work/$1/metrics.jsonl" | head -n 1 | cut -d' ' -f2; }

# Rows 0 to 7 of a file the other way round: the same step in another order.
reversed() { head -n 8 "$1" | tac; }
reversed pairs/train.jsonl >"$work/pairs.jsonl"
reversed unpaired/train.jsonl >"$work/rows.jsonl"
head -n 8 pairs/train.jsonl >"$work/pairs8.jsonl"
head -n 8 unpaired/train.jsonl >"$work/rows8.jsonl"

# equivalent NAME COUPLING COMMAND DATA OPTION...: COUPLING is none, step or group (which accumulation changes)
equivalent() {
  local name=$1 coupling=$2 command=$3 data=$4
  shift 4
  local all=("${base[@]}" --data "$data" "$@")
  # shellcheck disable=SC2046
  {
    run "$name" "$command" "${all[@]}" $(b 8 1) --save_strategy no --out "$work/$name" || return
    like "$name-budget" "$name" "$command" "${all[@]}" $(b 8 1) --save_strategy no --micro_batch_tokens 1
    if [ "$coupling" != group ]; then
      like "$name-4x2" "$name" "$command" "${all[@]}" $(b 4 2) --save_strategy no
      like "$name-1x8" "$name" "$command" "${all[@]}" $(b 1 8) --save_strategy no
    fi
    # broken off after a checkpoint: the same bytes
    run "$name-saves" "$command" "${all[@]}" $(b 8 1) --save_steps 3 --out "$work/$name-saves" || return
    rm -rf "$work/$name-saves"/*_final "$work/$name-saves"/*_step6
    run "$name-resumed" "$command" "${all[@]}" $(b 8 1) --save_steps 3 --out "$work/$name-saves" --resume || return
  }
  "$compare_log" same "$work/$name/metrics.jsonl" "$work/$name-saves/metrics.jsonl" || fail "$name: resumed, other metrics"
  same_file "$work/$name/r-${command}_final/model.safetensors" "$work/$name-saves/r-${command}_final/model.safetensors"
  echo "$name: $(tail -n 1 "$work/$name-budget.near"); $(tail -n 1 "$work/$name-budget.tensors")"
}

# with a reference: cached for the epochs, or computed in each step
cached() { # NAME COMMAND DATA OPTION...
  local name=$1 command=$2 data=$3
  shift 3
  # shellcheck disable=SC2046
  like "$name-cached" "$name" "$command" "${base[@]}" --data "$data" "$@" $(b 8 1) --save_strategy no --precompute_ref_log_probs
}

# a step of eight rows and the same step the other way round
ordered() { # NAME COMMAND ROWS REVERSED OPTION...
  local name=$1 command=$2 rows=$3 reversed=$4
  shift 4
  # shellcheck disable=SC2046
  {
    run "$name-order" "$command" "${base[@]}" --data "$rows" "$@" $(b 8 1) --save_strategy no --out "$work/$name-order" || return
    like "$name-reversed" "$name-order" "$command" "${base[@]}" --data "$reversed" "$@" $(b 8 1) --save_strategy no
  }
}

# LoRA of full rank, B = 0: the first step is that of all weights
lora() { # NAME COMMAND DATA OPTION...
  local name=$1 command=$2 data=$3
  shift 3
  # shellcheck disable=SC2046
  run "$name-lora" "$command" "${base[@]}" --data "$data" "$@" $(b 8 1) --save_strategy no --use_peft --lora_r 32 \
    --lora_target_modules all-linear --out "$work/$name-lora" || return
  awk -v a="$(first_loss "$name")" -v b="$(first_loss "$name-lora")" \
    'BEGIN { d = a - b; if (d < 0) d = -d; m = a < 0 ? -a : a; exit !(a != "" && b != "" && d <= 1e-6 * (1 + m)) }' ||
    fail "$name: the first loss is $(first_loss "$name"), with LoRA $(first_loss "$name-lora")"
}

pairs() { # NAME COUPLING OPTION...
  local name=$1 coupling=$2
  shift 2
  equivalent "$name" "$coupling" dpo pairs "$@"
  cached "$name" dpo pairs "$@"
  lora "$name" dpo pairs "$@"
  [ "$coupling" = group ] || ordered "$name" dpo "$work/pairs8.jsonl" "$work/pairs.jsonl" "$@"
}

pairs sigmoid none
for loss in hinge ipo sigmoid_norm nca_pair bco_pair sppo_hard apo_zero apo_down sft; do pairs $loss none --loss_type $loss; done
pairs discopop none --loss_type discopop --discopop_tau 0.5
for loss in cdpo robust exo_pair; do pairs $loss none --loss_type $loss --label_smoothing 0.1; done
for loss in aot aot_unpaired kto_pair; do pairs $loss group --loss_type $loss; done
pairs mpo none --loss_type sigmoid bco_pair sft --loss_weights 0.8 0.2 1
pairs ld none --ld_alpha 0.3
pairs wpo none --use_weighting
pairs forward_kl none --f_divergence_type forward_kl
pairs js none --f_divergence_type js_divergence
pairs alpha none --f_divergence_type alpha_divergence

for pairing in random fixed; do
  equivalent "kto_$pairing" step kto unpaired --kl_pairing $pairing
  cached "kto_$pairing" kto unpaired --kl_pairing $pairing
  lora "kto_$pairing" kto unpaired --kl_pairing $pairing
done
equivalent kto_batch group kto unpaired --kl_pairing batch
equivalent apo_zero_unpaired none kto unpaired --loss_type apo_zero_unpaired
cached apo_zero_unpaired kto unpaired --loss_type apo_zero_unpaired
ordered apo_zero_unpaired kto "$work/rows8.jsonl" "$work/rows.jsonl" --loss_type apo_zero_unpaired
equivalent bco group bco unpaired
cached bco bco unpaired
equivalent orpo none orpo pairs
ordered orpo orpo "$work/pairs8.jsonl" "$work/pairs.jsonl"
for loss in sigmoid hinge ipo simpo alphapo; do
  equivalent "cpo_$loss" none cpo pairs --loss_type $loss
  ordered "cpo_$loss" cpo "$work/pairs8.jsonl" "$work/pairs.jsonl" --loss_type $loss
done

equivalent reward none reward pairs --center_rewards_coefficient 0.01
ordered reward reward "$work/pairs8.jsonl" "$work/pairs.jsonl"
equivalent reward_lora none reward pairs --use_peft --lora_target_modules all-linear
equivalent verifier none verifier unpaired
lora reward reward pairs --center_rewards_coefficient 0.01
lora verifier verifier unpaired
ordered verifier verifier "$work/rows8.jsonl" "$work/rows.jsonl"

# References: one that moves (kept in checkpoints), with all weights and with LoRA; none; the policy itself; an adapter.
sync=(--sync_ref_model --ref_model_sync_steps 2 --ref_model_mixup_alpha 0.6)
equivalent moving none dpo pairs "${sync[@]}"
equivalent moving_lora none dpo pairs "${sync[@]}" --use_peft --lora_target_modules all-linear
equivalent none none dpo pairs --reference none
equivalent given none dpo pairs --ref_adapter runs/dpo_lora/adapter_init
cached given dpo pairs --ref_adapter runs/dpo_lora/adapter_init
equivalent current none dpo pairs --reference current
# ... which keeps the loss at ln 2 and begins with DPO's gradient
[ "$(grep -c '"loss": 0.69314718055994' "$work/current/metrics.jsonl")" = 6 ] || fail "reference current: a loss that is not ln 2"
[ "$(head -n 1 "$work/current/metrics.jsonl" | grep -o '"grad_norm": [^,]*')" = \
  "$(head -n 1 "$work/sigmoid/metrics.jsonl" | grep -o '"grad_norm": [^,]*')" ] || fail "reference current: not DPO's first gradient"
"$compare_log" near 1e-6 "$work/moving/metrics.jsonl" "$work/sigmoid/metrics.jsonl" >/dev/null && fail "the reference never moves"

# A run of so many steps that their micro-batches are bounded, not looked at in advance: its first steps are those of a
# short one. It is stopped as soon as it has shown them.
endless() { # NAME COMMAND DATA OPTION...
  local name=$1 command=$2 data=$3 pid
  shift 3
  local all=(--model llama --bf16 false --learning_rate 3e-4 --data "$data" --drop_empty --max_length 128 --threads 1 --run_name r --lr_scheduler_type constant
    --per_device_train_batch_size 8 --save_strategy no --micro_batch_tokens 1 "$@")
  run "$name-short" "$command" "${all[@]}" --max_steps 4 --out "$work/$name-short" || return
  "$plumb" "$command" "${all[@]}" --max_steps 100000000 --out "$work/$name-endless" >"$work/$name-endless.log" 2>&1 &
  pid=$!
  for _ in $(seq 300); do
    [ "$(cat "$work/$name-endless/metrics.jsonl" 2>/dev/null | wc -l)" -ge 5 ] && break
    sleep 0.1
  done
  kill -TERM $pid
  wait $pid
  head -n 4 "$work/$name-endless/metrics.jsonl" >"$work/$name-first.jsonl"
  "$compare_log" near 1e-6 "$work/$name-short/metrics.jsonl" "$work/$name-first.jsonl" >"$work/$name.near" ||
    fail "$name: in a very long run $(cat "$work/$name.near") $(tail -n 1 "$work/$name-endless.log")"
}
endless aot dpo pairs --loss_type aot
endless kto kto unpaired
endless orpo orpo pairs

# what would be ignored, or cannot be, is refused
two=(--model llama --max_steps 1 --out "$work/refused")
refuse 2 'kl_pairing has no effect' kto "${two[@]}" --data unpaired --loss_type apo_zero_unpaired --kl_pairing fixed
refuse 2 'label_smoothing has no effect with loss_type sigmoid.*cdpo' dpo "${two[@]}" --data pairs --label_smoothing 0.1
refuse 2 'loss_weights has 1 numbers for 2' dpo "${two[@]}" --data pairs --loss_type sigmoid ipo --loss_weights 1
refuse 2 'raw log-ratios' dpo "${two[@]}" --data pairs --loss_type sigmoid nca_pair --f_divergence_type js_divergence
refuse 2 'loss_type has sigmoid twice' dpo "${two[@]}" --data pairs --loss_type sigmoid sigmoid
refuse 2 'exo_pair needs label_smoothing' dpo "${two[@]}" --data pairs --loss_type exo_pair
refuse 2 'train_sampling_strategy sequential' kto "${two[@]}" --data unpaired --kl_pairing batch
refuse 2 'both say what the reference is' dpo "${two[@]}" --data pairs --ref_model llama --sync_ref_model
refuse 2 'no effect without sync_ref_model' dpo "${two[@]}" --data pairs --ref_model_sync_steps 3
refuse 2 'stays as it is' dpo "${two[@]}" --data pairs --reference current --precompute_ref_log_probs
refuse 1 'need two rows' kto "${two[@]}" --data <(head -n 1 unpaired/train.jsonl)

# the comparisons can fail
"$compare_log" near 1e-6 "$work/hinge/metrics.jsonl" "$work/sigmoid/metrics.jsonl" >/dev/null && fail "other losses pass"
"$compare_log" same "$work/kto_random/metrics.jsonl" "$work/kto_fixed/metrics.jsonl" >/dev/null &&
  fail "a new pairing in each epoch changes nothing"
finish
