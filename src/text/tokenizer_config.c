/* tokenizer_config.c: which token is BOS, EOS, padding, unknown; and where tokenizer_config.json disagrees with
 * tokenizer.json, which alone decides how text is encoded. */
#include <stdio.h>
#include <string.h>

#include "text/tok.h"

static const char what[] = "tokenizer_config.json";

/* The string of a role: "x", {"content": "x"}, or null. */
static const char *content_of(const pl_json *v, size_t *n) {
    return pl_json_string(pl_json_kind_of(v) == PL_J_OBJECT ? pl_json_get(v, "content") : v, n);
}

static int read_role(int32_t *id, const pl_tokenizer *t, const char *key, const pl_json *config, const pl_json *map,
                     pl_error *err) {
    const pl_json *v = pl_json_get(pl_json_has(config, key) ? config : map, key);
    size_t n = 0;
    *id = -1;
    if (!v) return 0;
    const char *s = content_of(v, &n);
    if (!s) return PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" wants a string or an object with \"content\"", what, key);
    *id = pl_tokenizer_id(t, s, n);
    if (*id < 0) pl_log(PL_LOG_WARN, "%s: %s \"%.60s\" is not in tokenizer.json: taken as absent", what, key, s);
    return 0;
}

static bool holds(const int32_t *ids, int64_t n, int32_t id) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

static int compare_flag(const pl_json *config, const char *key, bool adds, pl_error *err) {
    bool flag = adds;
    int rc = pl_json_member_bool(config, key, false, &flag, what, err);
    if (rc == 0 && flag != adds)
        pl_log(PL_LOG_WARN, "%s says %s: %s, but tokenizer.json's post_processor does %s; tokenizer.json decides", what,
               key, flag ? "true" : "false", adds ? "so" : "not");
    return rc;
}

/* transformers adds what added_tokens_decoder has beyond tokenizer.json; a text that holds such a token is cut
 * differently there. */
static void compare_added(const pl_tokenizer *t, const pl_json *list) {
    int64_t differ = 0;
    const char *first = NULL;
    for (pl_json_iter it = pl_json_first(list); it.entry; it = pl_json_next(it)) {
        size_t n;
        const char *s = content_of(it.value, &n);
        if (!s) continue;
        int32_t id = pl_tokenizer_id(t, s, n);
        char text[16];
        snprintf(text, sizeof text, "%d", id);
        if (id >= 0 && t->added_of[id] >= 0 && strcmp(text, it.key) == 0) continue;
        if (!first) first = s;
        differ++;
    }
    if (differ)
        pl_log(PL_LOG_WARN,
               "%s: %" PRId64 " added tokens (\"%.60s\" ...) are not tokenizer.json's; tokenizer.json decides", what,
               differ, first);
}

int pl_tokenizer_read_config(pl_tokenizer *t, const pl_json *config, const pl_json *map, pl_error *err) {
    int rc;
    PL_GO(rc, read_role(&t->bos, t, "bos_token", config, map, err));
    PL_GO(rc, read_role(&t->eos, t, "eos_token", config, map, err));
    PL_GO(rc, read_role(&t->pad, t, "pad_token", config, map, err));
    PL_GO(rc, read_role(&t->unk, t, "unk_token", config, map, err));
    if (t->bos >= 0)
        PL_GO(rc, compare_flag(config, "add_bos_token", holds(t->post.before, t->post.n_before, t->bos), err));
    if (t->eos >= 0)
        PL_GO(rc, compare_flag(config, "add_eos_token", holds(t->post.after, t->post.n_after, t->eos), err));
    compare_added(t, pl_json_get(config, "added_tokens_decoder"));
out:
    return rc;
}
