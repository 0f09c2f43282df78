#!/bin/bash
# Every configuration under examples/ runs: a few steps of each on the bundled model, with finite numbers; every objective
# of the program has one.
. "$(dirname "$0")/lib.sh"
cd "$here/../.." || exit 1

for file in examples/*.yaml; do
  name=$(basename "$file" .yaml)
  command=$(sed -n '1s/^# plumb \([a-z]*\) --config .*/\1/p' "$file")
  [ -n "$command" ] || { fail "$file: its first line does not say how to run it"; continue; }
  run "$name" "$command" --config "$file" --threads 1 --max_steps 3 --per_device_train_batch_size 8 --out "$work/$name" || continue
  lines=$(grep -c '"loss": -\{0,1\}[0-9]' "$work/$name/metrics.jsonl")
  [ "$lines" = 3 ] || fail "$name: $lines of 3 steps have a loss"
  grep -qiE 'nan|inf' "$work/$name/metrics.jsonl" && fail "$name: $(grep -iE 'nan|inf' "$work/$name/metrics.jsonl" | head -n 1)"
  ls "$work/$name"/*_final/model.safetensors >/dev/null || fail "$name: no final model"
  # "objective = 0.8 x sigmoid (...) + 0.2 x bco_pair (...)"
  sed -n 's/^objective = //p' "$work/$name.stdout" "$work/$name.stderr" | sed -E 's/, [a-z_]+ .*//; s/\([^)]*\)//g' |
    tr -c 'a-z_' '\n' | sed "s/^/$command /" >>"$work/objectives"
done

# every loss_type that a command offers is in one of them; a command without the option has one objective, of its name
for command in sft dpo kto orpo cpo bco reward verifier; do
  choices=$("$plumb" "$command" --help | tr -d ' \n' | grep -oE 'someof[a-z_|]+;default' | sed 's/^someof//; s/;.*//' | tr '|' ' ')
  for name in ${choices:-$command}; do
    grep -qx "$command $name" "$work/objectives" || fail "no example has the objective $name of plumb $command"
  done
done
finish
