#!/bin/bash
# The bundled model: the first steps of its DPO run are TRL's; the demo's scoring, and the demo itself refusing a model that
# did not improve. (A whole run of the demo is ./dev demo, which fails if the shares are not what it promises.)
. "$(dirname "$0")/lib.sh"
cd "$here/../.." || exit 1

# --- golden run ----------------------------------------------------------------------------------------------------------
# logits/* are left out: where the model is sure of a token, its row of the head has the gradient c(1 - p), and what the last
# bits of p leave of 1 - p is near AdamW's epsilon, which makes whole steps of it. So rounding moves single rows, and
# logits/rejected, by up to 2e-4; nothing else here moves by more than 1e-5. parity.sh holds logits/* to 1e-6 on other models.
golden_run() {
  local name=$1
  shift
  run "$name" dpo --config demo/dpo.yaml --bf16 false --threads 1 --max_steps 12 --out "$work/$name" "$@" || return
  "$compare_log" trl "$work/$name/metrics.jsonl" tests/golden/demo/log.jsonl logits/chosen logits/rejected \
    >"$work/$name.compared"
}
golden_run right || fail "the demo's first steps: $(cat "$work/right.compared")"
echo "golden run: $(tail -n 1 "$work/right.compared")"
golden_run seed --seed 2 && fail "a wrong seed passes for the right one"
golden_run rate --learning_rate 1.52e-4 && fail "a wrong learning rate passes for the right one"
for name in seed rate; do echo "$name: $(tail -n 1 "$work/$name.compared")"; done

# --- scoring ---------------------------------------------------------------------------------------------------------------
score() { LC_ALL=C awk "$@"; }
cat >"$work/heldout.jsonl" <<'END'
{"prompt": "Human: Say \"no\".\n\nAssistant:", "chosen": " 12.", "rejected": " Well, 12.", "answer": "12"}
{"prompt": "Human: Name two.\n\nAssistant:", "chosen": " cat, dog.", "rejected": " Well, cat, dog.", "answer": "cat, dog"}
END
# reply N ROW TEXT WANT: TEXT as it stands in JSON; WANT is "direct right"
: >"$work/replies.jsonl"
: >"$work/want"
reply() {
  local prompts=('Human: Say \"no\".\n\nAssistant:' 'Human: Name two.\n\nAssistant:')
  printf '{"row":%d,"sample":0,"prompt":"%s","completion":"%s","tokens":1,"finish":"stop"}\n' "$1" "${prompts[$1]}" "$2" \
    >>"$work/replies.jsonl"
  echo "$1 $3" >>"$work/want"
}
reply 0 ' 12.' '1 1'
reply 0 '12' '1 1'
reply 0 ' 112.' '1 0'
reply 0 ' 120.' '1 0'
reply 0 ' 12a or a12 or 112, so 12' '1 1'
reply 0 ' a12 and 12b and nothing' '1 0'
reply 0 ' (12)' '1 1'
reply 0 ' \"12\"' '1 1'
reply 0 ' \u006112' '1 0'
reply 0 ' \u00e912' '1 1'
reply 0 '' '0 0'
reply 0 ' \n\t ' '0 0'
reply 0 ' one two three four five six seven 12' '1 1'
reply 0 ' one two three four five six seven eight 12' '0 1'
reply 0 '\none\ttwo three\r\nfour five six seven 12\n' '1 1'
reply 1 ' cat, dog.' '1 1'
reply 1 ' Cat, dog.' '1 0'
reply 1 ' cat,dog.' '1 0'
reply 1 ' dog, cat.' '1 0'
reply 1 ' \"completion\":\"x\" cat, dog' '1 1'
for i in 1 2 3 4 5 6 7 8 9 10; do reply 1 ' After some thought, perhaps the answer might be cat, dog, or not.' '0 1'; done
score -v each=1 -f tools/demo-score.awk "$work/heldout.jsonl" "$work/replies.jsonl" >"$work/got" || fail "the scoring fails"
diff "$work/want" "$work/got" >"$work/diff" || fail "replies are scored otherwise than by the rules: $(cat "$work/diff")"
totals=$(score -f tools/demo-score.awk "$work/heldout.jsonl" "$work/replies.jsonl")
want=$(awk '{ d += $2; r += $3 } END { print NR, d, r }' "$work/want")
[ "${totals% *}" = "$want" ] || fail "the totals are $totals, want $want"
# files that do not belong together: a reply too few, another prompt, not JSON
spoilt() { score -f tools/demo-score.awk "$work/heldout.jsonl" "$work/spoilt.jsonl" >/dev/null 2>&1; }
head -n -1 "$work/replies.jsonl" >"$work/spoilt.jsonl"
spoilt && fail "a missing reply passes"
sed '1s/Human/Woman/' "$work/replies.jsonl" >"$work/spoilt.jsonl"
spoilt && fail "a reply to another prompt passes"
sed '1s/","tokens.*//' "$work/replies.jsonl" >"$work/spoilt.jsonl"
spoilt && fail "a cut line passes"
: >"$work/spoilt.jsonl"
spoilt && fail "no replies pass"

# --- the demo fails when the model has not improved --------------------------------------------------------------------------
PLUMB=$plumb PLUMB_DEMO_OUT=$work/short tools/demo --max_steps 1 --threads 1 >"$work/demo.stdout" 2>"$work/demo.stderr"
[ $? = 1 ] || fail "the demo is content with a model that was not trained"
grep -q 'of the replies are direct, less than 95 %' "$work/demo.stderr" || fail "the demo does not say what is missing"
grep -qE '^  direct replies .* [345][0-9]\.[0-9] % +[345][0-9]\.[0-9] %$' "$work/demo.stdout" || fail "no table of shares"
finish
