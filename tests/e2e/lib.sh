# lib.sh: what the end-to-end tests share. Sourced with the paths of the programs as arguments.
set -u
plumb=$1 compare_log=$2 compare_tensors=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
golden=$here/../golden
work=$(mktemp -d "${TMPDIR:-/tmp}/plumb-e2e-XXXXXX")
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
cd "$golden/trl" || exit 1
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# run LOG_NAME ARGUMENT...: the program must succeed
run() {
  local name=$1
  shift
  "$plumb" "$@" >"$work/$name.stdout" 2>"$work/$name.stderr" && return 0
  fail "$name: plumb $* ended with $?: $(tail -n 3 "$work/$name.stderr")"
  return 1
}

# refuse CODE PATTERN ARGUMENT...: the program must end with this status and say this
refuse() {
  local want=$1 pattern=$2 got
  shift 2
  "$plumb" "$@" >"$work/refused.stdout" 2>"$work/refused.stderr"
  got=$?
  [ "$got" = "$want" ] || fail "plumb $*: status $got, want $want: $(tail -n 2 "$work/refused.stderr")"
  grep -qE -- "$pattern" "$work/refused.stderr" || fail "plumb $*: no \"$pattern\" in: $(tail -n 2 "$work/refused.stderr")"
}

same_file() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; }

finish() {
  if [ "$failures" -gt 0 ]; then
    echo "$failures failures"
    exit 1
  fi
  echo "ok"
}
