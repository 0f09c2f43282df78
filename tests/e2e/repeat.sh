#!/bin/bash
# A run repeated, killed and resumed gives the same bytes; what must not be resumed or overwritten is refused.
. "$(dirname "$0")/lib.sh"
common=(--threads 1 --logging_steps 10 --run_name r)
saves=(--save_strategy steps --save_steps 4 --save_total_limit 3)

same_run() { # NAME A B: metrics and final model
  "$compare_log" same "$2/metrics.jsonl" "$3/metrics.jsonl" || fail "$1: metrics differ"
  same_file "$2"/r-dpo_final/model.safetensors "$3"/r-dpo_final/model.safetensors
  if [ -d "$2/r-dpo_final/adapter" ]; then
    same_file "$2"/r-dpo_final/adapter/adapter_model.safetensors "$3"/r-dpo_final/adapter/adapter_model.safetensors
  fi
}

# kill_and_resume NAME UNBROKEN OPTION...: SIGKILL at random moments until the run ends by itself
kill_and_resume() {
  local name=$1 unbroken=$2 out=$work/$1 tries=0
  shift 2
  until "$plumb" dpo "$@" --out "$out" --resume >"$work/$name.log" 2>&1 &
    pid=$!
    # the first moments are early ones, then the run gets ever more time, so that it ends at last
    sleep "0.$(printf '%03d' $((20 + RANDOM % 120 + tries * 40 > 999 ? 999 : 20 + RANDOM % 120 + tries * 40)))"
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
  do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { fail "$name never ends: $(tail -n 2 "$work/$name.log")"; return; }
    # a failure that is not ours is not retried
    grep -q '^plumb dpo:' "$work/$name.log" && { fail "$name: $(tail -n 2 "$work/$name.log")"; return; }
  done
  echo "$name: killed $tries times (seed $seed)"
  same_run "$name" "$unbroken" "$out"
}

seed=${PLUMB_TEST_SEED:-$$}
RANDOM=$seed
base=(--config runs/dpo_full/config.yaml "${common[@]}")
full=("${base[@]}" "${saves[@]}")
lora=(--config runs/dpo_lora/config.yaml "${common[@]}" "${saves[@]}" --disable_dropout false --lora_dropout 0.1)
run full dpo "${full[@]}" --out "$work/full"
run again dpo "${full[@]}" --out "$work/again"
same_run repeat "$work/full" "$work/again"
run lora dpo "${lora[@]}" --out "$work/lora"
kill_and_resume full_killed "$work/full" "${full[@]}"
kill_and_resume lora_killed "$work/lora" "${lora[@]}"

# SIGTERM: the step ends, a checkpoint is written, the status says so, and the rest follows
"$plumb" dpo "${base[@]}" --micro_batch_tokens 1 --out "$work/term" 2>"$work/term.log" &
pid=$!
for _ in $(seq 200); do
  [ -s "$work/term/metrics.jsonl" ] && break
  sleep 0.01
done
kill -TERM $pid 2>/dev/null # it may have ended already
wait $pid
status=$?
if [ "$status" = 130 ]; then
  grep -q 'stopped after step [0-9]*, which is saved' "$work/term.log" || fail "SIGTERM: $(tail -n 2 "$work/term.log")"
else
  [ "$status" = 0 ] || fail "SIGTERM: status $status: $(tail -n 2 "$work/term.log")"
  echo "SIGTERM: the run had ended already"
fi
run slow dpo "${base[@]}" --micro_batch_tokens 1 --out "$work/slow"
run term2 dpo "${base[@]}" --micro_batch_tokens 1 --out "$work/term" --resume
same_run SIGTERM "$work/slow" "$work/term"

# what differs is named
steps=("$work"/full/r-dpo_step*)
[ ${#steps[@]} = 3 ] || fail "save_total_limit 3 left ${#steps[@]} checkpoints"
ls -d "$work"/full/*.tmp* 2>/dev/null && fail "temporary names are left"
refuse 1 'learning_rate was 0.0003, is 0.001' dpo "${full[@]}" --learning_rate 1e-3 --out "$work/full" --resume
refuse 1 'beta was 0.1, is 0.2' dpo "${full[@]}" --beta 0.2 --out "$work/full" --resume
refuse 1 'the training data' dpo "${full[@]}" --data pairs/test.jsonl --out "$work/full" --resume
refuse 1 'the model \(content' dpo "${full[@]}" --model qwen2 --out "$work/full" --resume
refuse 1 'precision differs' dpo "${full[@]}" --bf16 true --out "$work/full" --resume
refuse 1 'is not empty .*--resume' dpo "${full[@]}" --out "$work/full"
refuse 2 'overwrite_output_dir' dpo "${full[@]}" --out "$work/full" --resume --overwrite_output_dir
same_run untouched "$work/full" "$work/again"
run over dpo "${full[@]}" --out "$work/full" --overwrite_output_dir
same_run overwritten "$work/full" "$work/again"

# the last step is saved whatever save_steps is; a finished run says so and stays; a longer one goes on from there
few=("${base[@]}" --lr_scheduler_type constant --save_strategy steps)
run short dpo "${few[@]}" --max_steps 3 --out "$work/short"
[ "$(cd "$work/short" && echo r-dpo_step*)" = r-dpo_step3 ] || fail "a run shorter than save_steps leaves: $(ls "$work/short")"
cp -r "$work/short" "$work/kept"
run finished dpo "${few[@]}" --max_steps 3 --out "$work/short" --resume
grep -q 'r-dpo_step3: all 3 steps of this run are done' "$work/finished.stderr" || fail "finished: $(tail -n 2 "$work/finished.stderr")"
diff -r "$work/short" "$work/kept" || fail "--resume changed a finished run"
run longer dpo "${few[@]}" --max_steps 5 --out "$work/short" --resume
run five dpo "${few[@]}" --max_steps 5 --out "$work/five"
same_run longer "$work/five" "$work/short"
# the last one counts for save_total_limit
run one dpo "${few[@]}" --max_steps 3 --save_steps 2 --save_total_limit 1 --out "$work/one"
[ "$(cd "$work/one" && echo r-dpo_step*)" = r-dpo_step3 ] || fail "save_total_limit 1 leaves: $(ls "$work/one")"
# without checkpoints the final model tells that a run is over
no=("${base[@]}" --lr_scheduler_type constant --save_strategy no --out "$work/no")
run no dpo "${no[@]}" --max_steps 3
ls -d "$work"/no/r-dpo_step* >/dev/null 2>&1 && fail "save_strategy no saves a step"
rm -r "$work/kept" && cp -r "$work/no" "$work/kept"
run no_again dpo "${no[@]}" --max_steps 3 --resume
grep -q 'this run is finished, all 3 steps of it: .*/no/r-dpo_final stays as it is' "$work/no_again.stderr" ||
  fail "finished without checkpoints: $(tail -n 2 "$work/no_again.stderr")"
refuse 1 'no/r-dpo_final is the end of a run of 3 steps that left no checkpoint.*--overwrite_output_dir' dpo "${no[@]}" --max_steps 5 --resume
refuse 1 'no/r-dpo_final is the end of another run.*: the configuration differs: learning_rate was [0-9.e-]+, is 0.0?123' dpo "${no[@]}" \
  --max_steps 3 --learning_rate 0.0123 --resume
run no_limit dpo "${no[@]}" --max_steps 3 --save_total_limit 3 --resume # what may change in a run may differ here
grep -q 'this run is finished' "$work/no_limit.stderr" || fail "finished, another limit: $(tail -n 2 "$work/no_limit.stderr")"
diff -r "$work/no" "$work/kept" || fail "--resume changed a finished run that has no checkpoints"
# one that was cut short and left neither begins anew
rm -r "$work/no/r-dpo_final"
run no_anew dpo "${no[@]}" --max_steps 3 --resume && grep -q 'starting anew' "$work/no_anew.stderr" || fail "no checkpoint, no final model"
same_run anew "$work/kept" "$work/no"

# tokenized rows: found the second time, never believed when damaged, tokenized anew when asked; always the same run
cached=("${base[@]}" --lr_scheduler_type constant --save_strategy no --max_steps 3)
said() { grep -qF -- "$2" "$work/$1.stderr" || fail "$1 does not say \"$2\""; }
same_lines() { diff <(grep -F 'train.jsonl: ' "$work/miss.stderr") <(grep -F 'train.jsonl: ' "$work/$1.stderr" | grep -vE 'tokenized (rows|anew)') || fail "$1: other lines about the data"; }
for name in miss hit damaged rebuilt overwrite; do
  more=()
  [ $name = damaged ] && printf x | dd of="$(echo "$work"/rows/rows-*.bin)" bs=1 seek=700 conv=notrunc 2>/dev/null
  [ $name = overwrite ] && more=(--overwrite_cache)
  run $name dpo "${cached[@]}" --cache_dir "$work/rows" "${more[@]}" --out "$work/$name"
  same_run "cache: $name" "$work/miss" "$work/$name"
  same_lines $name
done
said hit 'train.jsonl: tokenized rows: from '
said damaged 'is damaged (the content was changed): tokenized anew'
said rebuilt 'train.jsonl: tokenized rows: from '
grep -q 'tokenized rows: from' "$work/miss.stderr" "$work/overwrite.stderr" && fail "a hit where there is none"
[ "$(echo "$work"/rows/rows-*.bin | wc -w)" = 1 ] || fail "one data file has several caches: $(ls "$work/rows")"
run unwritable dpo "${cached[@]}" --cache_dir "$work/miss/config.yaml/x" --out "$work/unwritable"
said unwritable 'the tokenized rows are not kept'
same_run "cache: unwritable" "$work/miss" "$work/unwritable"
for name in logps1 logps2; do run $name logps --model llama --data pairs/test.jsonl --cache_dir "$work/rows"; done
said logps2 'test.jsonl: tokenized rows: from '
same_file "$work/logps1.stdout" "$work/logps2.stdout"

# one run at a time in a directory
if command -v flock >/dev/null; then
  exec 9>"$work/again/.lock"
  flock -n 9 || fail "the lock is still held after the run"
  refuse 1 'in use by another run' dpo "${full[@]}" --out "$work/again" --resume
  exec 9>&-
fi
finish
