#!/bin/bash
# Disks that fill up and files that are cut: a clear error, and a run directory from which the run goes on to the same end.
. "$(dirname "$0")/lib.sh"
same_end() { # NAME A B
  "$compare_log" same "$2/metrics.jsonl" "$3/metrics.jsonl" || fail "$1: metrics differ"
  same_file "$2"/r-dpo_final/model.safetensors "$3"/r-dpo_final/model.safetensors
}
base=(--data pairs --bf16 false --learning_rate 3e-4 --lr_scheduler_type constant --max_length 128 --threads 1
  --run_name r --save_steps 2)
dpo=(dpo --model llama "${base[@]}")
run unbroken "${dpo[@]}" --max_steps 4 --out "$work/unbroken"
# nothing_half NAME DIR CHECKPOINT...: only these checkpoints are there, and no temporary directory holds space
nothing_half() {
  local name=$1 dir=$2 found
  shift 2
  found=$(cd "$dir" && ls -d r-dpo_* 2>/dev/null | tr '\n' ' ')
  [ "$found" = "${*:+$* }" ] || fail "$name: the run directory holds: $found"
}

# --- no room for a checkpoint. A limit on the size of files stands for a full disk: it needs no rights, and `trap ''` makes
# write() fail instead of sending a signal.
limited() { ( trap '' XFSZ; ulimit -f 120; exec "$plumb" "$@" ) >"$work/limited.stdout" 2>"$work/limited.stderr"; }
limited "${dpo[@]}" --max_steps 4 --out "$work/first"
[ $? = 1 ] || fail "a checkpoint that cannot be written is no error"
grep -qE 'checkpoint of step 2: .*model.safetensors.*: File too large' "$work/limited.stderr" || fail "the first checkpoint: $(cat "$work/limited.stderr")"
grep -q 'free space' "$work/limited.stderr" || fail "no hint: $(cat "$work/limited.stderr")"
nothing_half 'no first checkpoint' "$work/first"
run first "${dpo[@]}" --max_steps 4 --out "$work/first" --resume && same_end first "$work/unbroken" "$work/first"

run begun "${dpo[@]}" --max_steps 2 --out "$work/second" && rm -r "$work/second/r-dpo_final"
limited "${dpo[@]}" --max_steps 4 --out "$work/second" --resume
[ $? = 1 ] || fail "a second checkpoint that cannot be written is no error"
grep -q 'checkpoint of step 4: ' "$work/limited.stderr" || fail "the second checkpoint: $(cat "$work/limited.stderr")"
nothing_half 'no second checkpoint' "$work/second" r-dpo_step2
run second "${dpo[@]}" --max_steps 4 --out "$work/second" --resume && same_end second "$work/unbroken" "$work/second"

# the final model alone
limited "${dpo[@]}" --max_steps 4 --save_strategy no --out "$work/last"
[ $? = 1 ] || fail "a final model that cannot be written is no error"
grep -q 'final model: ' "$work/limited.stderr" || fail "the final model: $(cat "$work/limited.stderr")"
nothing_half 'no final model' "$work/last"
limited init --config llama --out "$work/init"
[ $? = 1 ] || fail "init: a full disk goes unnoticed"
[ -e "$work/init/model.safetensors" ] && fail "init: half a model is left"

# --- a disk that is full indeed, where this user may mount one
small() { # SCRIPT: runs on a disk of 8 MB, its folder being $2
  mkdir -p "$work/disk"
  unshare -rm bash -c 'mount -t tmpfs -o size=8m none "$1" && cd "$2" && shift 2 && . "$0" "$@"' "$1" "$work/disk" "$PWD" "$plumb" \
    "$work/disk" "${dpo[@]}"
}
cat >"$work/full.sh" <<'SCRIPT'
plumb=$1 disk=$2
shift 2
head -c 8100000 /dev/zero >"$disk/ballast" # 0.3 MB are left, a checkpoint needs more
"$plumb" "$@" --max_steps 4 --out "$disk/run" 2>"$disk/../full.stderr"
echo "status $?"
ls -d "$disk"/run/r-dpo_* 2>/dev/null
rm "$disk/ballast" && "$plumb" "$@" --max_steps 4 --out "$disk/run" --resume 2>>"$disk/../full.stderr" && cp -r "$disk/run" "$disk/../full"
SCRIPT
if unshare -rm bash -c 'mount -t tmpfs none /mnt' 2>/dev/null; then
  small "$work/full.sh" >"$work/full.stdout" 2>&1
  grep -q '^status 1$' "$work/full.stdout" || fail "a full disk: $(cat "$work/full.stdout")"
  grep -q 'No space left on device' "$work/full.stderr" || fail "a full disk: $(cat "$work/full.stderr")"
  grep -q '/r-dpo_' "$work/full.stdout" && fail "a full disk leaves half a checkpoint: $(cat "$work/full.stdout")"
  same_end 'full disk' "$work/unbroken" "$work/full"
else
  echo "skipped: no small file system can be mounted here"
fi

# --- weights that are cut while they are in use: LoRA reads them in every step
cp -r llama "$work/model"
lora=(dpo --model "$work/model" "${base[@]}" --use_peft --lora_target_modules all-linear --micro_batch_tokens 1 --max_steps 2000)
"$plumb" "${lora[@]}" --out "$work/cut" >"$work/cut.log" 2>&1 &
pid=$!
for _ in $(seq 500); do
  ls -d "$work"/cut/r-dpo_step* >/dev/null 2>&1 && break
  sleep 0.01
done
truncate -s 65536 "$work/model/model.safetensors"
wait $pid
status=$?
[ $status = 1 ] || fail "weights that are cut: status $status: $(tail -n 2 "$work/cut.log")"
grep -qE 'model.safetensors was cut to 65536 bytes while it is in use; it had [0-9]+|in use was cut.*SIGBUS' "$work/cut.log" ||
  fail "weights that are cut: $(tail -n 2 "$work/cut.log")"
tail -n 2 "$work/cut.log" | head -n 1
refuse 1 'model.safetensors' "${lora[@]}" --out "$work/cut" --resume
cp llama/model.safetensors "$work/model/model.safetensors"
step=$(cd "$work/cut" && ls -d r-dpo_step* | sed 's/.*step//' | sort -n | tail -n 1)
run healed "${lora[@]/#2000/$((step + 2))}" --out "$work/cut" --resume && grep -q "continuing from .*step$step" "$work/healed.stderr" ||
  fail "a run whose model came back does not go on"
# the program's last words when the check comes too late
"$plumb" "${lora[@]}" --out "$work/bus" >"$work/bus.log" 2>&1 &
pid=$!
for _ in $(seq 500); do
  [ -s "$work/bus/metrics.jsonl" ] && break
  sleep 0.01
done
kill -BUS $pid
wait $pid
status=$?
[ $status = 1 ] || fail "SIGBUS: status $status"
grep -q 'a file that is in use was cut, or its disk fails' "$work/bus.log" || fail "SIGBUS: $(tail -n 2 "$work/bus.log")"
finish
