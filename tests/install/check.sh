#!/bin/bash
# check.sh CMAKE BUILD_DIR CC LIBDIR: installs into a temporary prefix and uses what is there.
set -euo pipefail
cmake=$1 build=$2 cc=$3 libdir=$4
here=$(cd "$(dirname "$0")" && pwd)
prefix=$(mktemp -d "${TMPDIR:-/tmp}/plumb-install-XXXXXX")
trap 'rm -rf "$prefix"' EXIT
die() { echo "check.sh: $*" >&2; exit 1; }

"$cmake" --install "$build" --prefix "$prefix" >"$prefix/log" || { cat "$prefix/log"; die "cmake --install failed"; }
export PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig LD_LIBRARY_PATH=$prefix/$libdir
read -ra cflags < <(pkg-config --cflags plumb)
read -ra libs < <(pkg-config --libs plumb)
read -ra static_libs < <(pkg-config --static --libs plumb)

# Each header stands alone.
for header in "$prefix"/include/plumb/*.h; do
  echo "#include <plumb/$(basename "$header")>" | "$cc" -std=c17 -Wall -Wextra -Werror -fsyntax-only "${cflags[@]}" -x c - ||
    die "$(basename "$header") does not compile alone"
done

# What the headers declare is what the library exports.
for header in "$prefix"/include/plumb/*.h; do
  "$cc" -w -fpreprocessed -dD -E -P "$header"
done | grep -v '^#' | tr '\n' ' ' | grep -oE '\bpl_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$prefix/declared"
nm -D --defined-only "$prefix/$libdir/libplumb.so" | sed -nE 's/.* [TDRB] (pl_[a-z0-9_]+)$/\1/p' | sort -u >"$prefix/exported"
for header in "$prefix"/include/plumb/*.h; do
  sed -nE 's/.*static inline .*\b(pl_[a-z0-9_]+)\(.*/\1/p; s/^typedef .*\b(pl_[a-z0-9_]+)\(.*/\1/p' "$header"
done | sort -u >"$prefix/inline"
missing=$(comm -23 "$prefix/declared" "$prefix/exported" | comm -23 - "$prefix/inline")
[ -z "$missing" ] || die "declared in a public header, but not exported (visibility push(default)?): $missing"

"$cc" -std=c17 "${cflags[@]}" "$here/user.c" -o "$prefix/user-shared" "${libs[@]}"
"$prefix/user-shared" || die "the program with the shared library failed: $?"
"$cc" -std=c17 "${cflags[@]}" "$here/user.c" -o "$prefix/user-static" "${static_libs[@]/#-lplumb/-l:libplumb.a}"
"$prefix/user-static" || die "the program with the static library failed: $?"
ldd "$prefix/user-static" | grep -q libplumb && die "the static program uses the shared library"

# The example fine-tunes and generates: 40 steps teach a tiny model its 13 rows by heart, so it answers one of them.
golden=$here/../golden/trl
"$cc" -std=c17 -Wall -Wextra -Werror "${cflags[@]}" "$here/../../examples/finetune.c" -o "$prefix/finetune" "${libs[@]}"
"$prefix/finetune" "$golden/llama" "$golden/completions/train.jsonl" "$prefix/run" $'Q: What is 25 + 7?\nA:' \
  --max_length 128 --max_steps 40 --learning_rate 0.02 --lora_target_modules all-linear --lora_dropout 0 --bf16 false \
  >"$prefix/finetune.out" 2>"$prefix/finetune.err" || { tail -n 5 "$prefix/finetune.err"; die "the example failed"; }
[ "$(grep -c '^step [0-9]* of 40  loss [0-9.]*' "$prefix/finetune.out")" = 40 ] || die "the example shows no progress"
grep -qx 'A: 32.' "$prefix/finetune.out" || die "the example's model says: $(tail -n 2 "$prefix/finetune.out")"
"$prefix/finetune" "$golden/llama" "$golden/nothing" "$prefix/run2" a 2>"$prefix/finetune.err" >&2 && die "the example ignores errors"
grep -q 'nothing' "$prefix/finetune.err" || die "the example's error: $(cat "$prefix/finetune.err")"

[ -e "$prefix/share/doc/plumb/LICENSE" ] || die "no LICENSE"
if [ -e "$build/plumb" ]; then
  "$prefix/bin/plumb" --version >/dev/null || die "the installed program does not run"
  [ -s "$prefix/share/man/man1/plumb.1" ] || die "no man page"
  bash -n "$prefix/share/bash-completion/completions/plumb" || die "no completion, or a broken one"
fi
echo "installed: $(find "$prefix" -type f -o -type l | wc -l) files"
