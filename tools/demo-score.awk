# demo-score.awk: scores replies to the held-out prompts of the demo. The rules are in demo/README.md.
#
#   awk -f demo-score.awk HELDOUT REPLIES...             a line per file: replies, direct, right, words of all replies
#   awk -v each=1 -f demo-score.awk HELDOUT REPLIES      a line per reply: row, direct, right (1 or 0)
#   awk -v samples=N -f demo-score.awk HELDOUT BEFORE AFTER   the first replies to the first N prompts, side by side
#
# HELDOUT has "prompt" and "answer", REPLIES is what `plumb generate --data HELDOUT` writes. Exits with 2 if the files do
# not belong together: each prompt must have a reply, and as many as the others. Plain awk; run it with LC_ALL=C.

function fail(text) { print "demo-score: " text > "/dev/stderr"; failed = 1; exit 2 }

# The text of a top-level key of a JSON line. What is not ASCII and written as \uXXXX becomes one byte 0xFF.
function text_of(line, key,    at, out, c) {
    at = index(line, "\"" key "\":")
    if (!at) fail(FILENAME ":" FNR ": no \"" key "\"")
    line = substr(line, at + length(key) + 3)
    if (!match(line, /^[ \t]*"/)) fail(FILENAME ":" FNR ": \"" key "\" is not a text")
    at = RLENGTH + 1
    out = ""
    while ((c = substr(line, at, 1)) != "\"") {
        if (c == "") fail(FILENAME ":" FNR ": a text without an end")
        if (c == "\\") {
            c = substr(line, ++at, 1)
            if (c == "u") {
                c = plain_of(tolower(substr(line, at + 1, 4)))
                at += 4
            } else if (c == "n") c = "\n"
            else if (c == "t") c = "\t"
            else if (c == "r") c = "\r"
            else if (c == "b") c = "\b"
            else if (c == "f") c = "\f"
        }
        out = out c
        at++
    }
    return out
}

function plain_of(hex,    code, i) {
    code = 0
    for (i = 1; i <= 4; i++) code = 16 * code + index("0123456789abcdef", substr(hex, i, 1)) - 1
    return code > 0 && code < 128 ? sprintf("%c", code) : "\377"
}

function number_of(line, key) {
    if (!match(line, "\"" key "\":[ ]*[0-9]+")) fail(FILENAME ":" FNR ": no \"" key "\"")
    line = substr(line, RSTART, RLENGTH)
    sub(/.*:/, "", line)
    return line + 0
}

function count_words(text,    parts) {
    gsub(/[\r\f\v]/, " ", text)
    return split(text, parts, " ")
}

function is_direct(words) { return words >= 1 && words <= 8 }

function is_right(reply, answer,    at, skipped, before, after) {
    skipped = 0
    while ((at = index(substr(reply, skipped + 1), answer)) > 0) {
        before = skipped + at > 1 ? substr(reply, skipped + at - 1, 1) : " "
        after = substr(reply, skipped + at + length(answer), 1)
        if (before !~ /[A-Za-z0-9]/ && after !~ /[A-Za-z0-9]/) return 1
        skipped += at
    }
    return 0
}

# Cuts text into lines[1..] of at most width bytes, at spaces.
function wrap(text, width, lines,    words, n, i, k) {
    n = split(text, words, " ")
    k = 1
    lines[1] = ""
    for (i = 1; i <= n; i++) {
        if (lines[k] != "" && length(lines[k]) + 1 + length(words[i]) > width) lines[++k] = ""
        lines[k] = lines[k] (lines[k] == "" ? "" : " ") words[i]
    }
    return k
}

function print_sample(question, before, after,    q, b, a, nq, nb, na, i) {
    nq = wrap(question, 26, q)
    nb = wrap(before, 52, b)
    na = wrap(after, 26, a)
    for (i = 1; i <= nq || i <= nb || i <= na; i++)
        printf "  %-26s  %-52s  %s\n", i <= nq ? q[i] : "", i <= nb ? b[i] : "", i <= na ? a[i] : ""
}

BEGIN { rows = file = 0 }
FNR == 1 { names[++file] = FILENAME }

file == 1 {
    prompts[rows] = text_of($0, "prompt")
    answers[rows++] = text_of($0, "answer")
    next
}

{
    row = number_of($0, "row")
    if (row >= rows || text_of($0, "prompt") != prompts[row])
        fail(FILENAME ":" FNR ": not a reply to row " row " of " names[1])
    reply = text_of($0, "completion")
    words = count_words(reply)
    direct = is_direct(words)
    right = is_right(reply, answers[row])
    if (!((file, row) in count)) first[file, row] = reply
    count[file, row]++
    total[file]++
    total_direct[file] += direct
    total_right[file] += right
    total_words[file] += words
    if (each) print row, direct, right
}

END {
    if (failed) exit 2
    if (file < 2) fail("no replies")
    for (f = 2; f <= file; f++)
        for (i = 0; i < rows; i++)
            if (count[f, i] == 0 || count[f, i] != count[f, 0]) fail(names[f] ": " count[f, i] + 0 " replies to row " i)
    if (samples) {
        print_sample("question", "before", "after")
        print_sample("--------", "------", "-----")
        for (i = 0; i < samples && i < rows; i++) {
            question = prompts[i]
            sub(/^Human: /, "", question)
            sub(/\n\nAssistant:$/, "", question)
            print_sample(question, first[2, i], first[3, i])
        }
    } else if (!each)
        for (f = 2; f <= file; f++) print total[f], total_direct[f], total_right[f], total_words[f]
}
