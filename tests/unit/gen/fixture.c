#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "unit/gen/fixture.h"

pl_json *golden_json(const char *name) {
    pl_json *json = NULL;
    MUST(pl_json_load(&json, golden(name), (size_t)8 << 20, err));
    return json;
}

int64_t read_ids(int32_t *out, int64_t most, const pl_json *list) {
    int64_t n = pl_json_len(list);
    assert_true(n <= most);
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)pl_json_int(pl_json_at(list, i));
    return n;
}

static int on_piece(void *user, int64_t prompt, int64_t sample, const char *text, size_t len) {
    collector *c = user;
    int64_t at = prompt * c->samples + sample;
    assert_in_range(at, 0, MAX_KEPT - 1);
    size_t have = strlen(c->pieces[at]);
    assert_true(have + len < sizeof c->pieces[at]);
    memcpy(c->pieces[at] + have, text, len);
    return 0;
}

static int on_done(void *user, const pl_completion *c, pl_error *err) {
    collector *to = user;
    (void)err;
    assert_true(to->n < MAX_KEPT && c->tokens <= MAX_KEPT_IDS && c->text_len < sizeof to->items[0].text);
    kept *k = &to->items[to->n++];
    k->prompt = c->prompt;
    k->sample = c->sample;
    k->row = c->row;
    k->tokens = c->tokens;
    k->prompt_tokens = c->prompt_tokens;
    k->finish = c->finish;
    memcpy(k->ids, c->ids, (size_t)c->tokens * sizeof *c->ids);
    memcpy(k->logps, c->logps, (size_t)c->tokens * sizeof *c->logps);
    memcpy(k->text, c->text, c->text_len + 1);
    k->text_len = c->text_len;
    return 0;
}

pl_generate_hooks hooks_of(collector *c) {
    memset(c, 0, sizeof *c);
    c->samples = 1;
    return (pl_generate_hooks){.user = c, .piece = on_piece, .done = on_done};
}
