/* postprocessor.c: the special tokens around a single text. Every supported processor comes down to two lists of ids.
 */
#include <string.h>

#include "text/tok.h"

static const char what[] = "tokenizer.json: post_processor";

typedef struct side {
    int32_t **ids;
    int64_t *n;
} side;

static int add_ids(side to, const pl_json *ids, pl_error *err) {
    int64_t more = pl_json_len(ids);
    if (pl_json_kind_of(ids) != PL_J_ARRAY || more > 1024)
        return PL_FAIL(err, PL_E_FORMAT, "%s: \"ids\" wants an array of at most 1024 ids", what);
    size_t old = (size_t)*to.n * sizeof **to.ids;
    int rc = pl_realloc((void **)to.ids, old, old + (size_t)more * sizeof **to.ids, err);
    if (rc) return rc;
    for (int64_t i = 0; i < more; i++) {
        int64_t id = pl_json_int(pl_json_at(ids, i));
        if (pl_json_kind_of(pl_json_at(ids, i)) != PL_J_INT || id < 0 || id >= PL_VOCAB_MAX_ID)
            return PL_FAIL(err, PL_E_FORMAT, "%s: an id of a special token is none", what);
        (*to.ids)[(*to.n)++] = (int32_t)id;
    }
    return 0;
}

/* One item of a template: {"SpecialToken": {"id", "type_id"}} or {"Sequence": {"id": "A", "type_id"}}. */
static int add_item(pl_postprocessor *p, const pl_json *item, const pl_json *tokens, bool *seen, pl_error *err) {
    pl_json *special = pl_json_get(item, "SpecialToken"), *sequence = pl_json_get(item, "Sequence");
    const char *id = NULL;
    size_t n;
    int rc = pl_json_member_string(special ? special : sequence, "id", true, &id, &n, what, err);
    if (rc) return rc;
    if (!special) {
        if (strcmp(id, "A") != 0 || *seen)
            return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: a template for one text with sequence \"%.10s\"", what, id);
        *seen = true;
        return 0;
    }
    pl_json *entry = pl_json_get(tokens, id);
    if (!entry) return PL_FAIL(err, PL_E_FORMAT, "%s: \"%.60s\" is not in special_tokens", what, id);
    side to = *seen ? (side){&p->after, &p->n_after} : (side){&p->before, &p->n_before};
    return add_ids(to, pl_json_get(entry, "ids"), err);
}

static int parse_template(pl_postprocessor *p, const pl_json *o, pl_error *err) {
    pl_json *single = pl_json_get(o, "single");
    bool seen = false;
    int rc = pl_tok_keys(o, "single pair special_tokens", what, err);
    if (rc == 0 && pl_json_kind_of(single) != PL_J_ARRAY)
        rc = PL_FAIL(err, PL_E_FORMAT, "%s: \"single\" wants an array", what);
    for (int64_t i = 0; rc == 0 && i < pl_json_len(single); i++)
        rc = add_item(p, pl_json_at(single, i), pl_json_get(o, "special_tokens"), &seen, err);
    if (rc == 0 && !seen) rc = PL_FAIL(err, PL_E_UNSUPPORTED, "%s: a template without the text", what);
    return rc;
}

/* ["</s>", 2] */
static int add_pair(side to, const pl_json *o, const char *key, pl_error *err) {
    pl_json *pair = pl_json_get(o, key), *v = pl_json_at(pair, 1);
    int64_t id = pl_json_int(v);
    if (pl_json_len(pair) != 2 || pl_json_kind_of(v) != PL_J_INT || id < 0 || id >= PL_VOCAB_MAX_ID)
        return PL_FAIL(err, PL_E_FORMAT, "%s: \"%s\" wants [token, id]", what, key);
    int rc = PL_NEW(to.ids, 1, err);
    if (rc == 0) (*to.ids)[(*to.n)++] = (int32_t)id;
    return rc;
}

static int parse_bert(pl_postprocessor *p, const pl_json *o, pl_error *err) {
    int rc = pl_tok_keys(o, "sep cls trim_offsets add_prefix_space", what, err); /* the last two concern offsets */
    if (rc == 0) rc = add_pair((side){&p->before, &p->n_before}, o, "cls", err);
    return rc ? rc : add_pair((side){&p->after, &p->n_after}, o, "sep", err);
}

static int parse(pl_postprocessor *p, const pl_json *o, int depth, bool *adds, pl_error *err) {
    const char *type;
    int rc = pl_tok_type(&type, o, what, err);
    if (rc) return rc;
    if (strcmp(type, "ByteLevel") == 0) /* concerns offsets */
        return pl_tok_keys(o, "add_prefix_space trim_offsets use_regex", what, err);
    if (strcmp(type, "Sequence") == 0) {
        pl_json *list = pl_json_get(o, "processors");
        if (depth > 8) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: Sequences nested too deep", what);
        if (pl_json_kind_of(list) != PL_J_ARRAY)
            return PL_FAIL(err, PL_E_FORMAT, "%s: a Sequence without \"processors\"", what);
        rc = pl_tok_keys(o, "processors", what, err);
        for (int64_t i = 0; rc == 0 && i < pl_json_len(list); i++)
            rc = parse(p, pl_json_at(list, i), depth + 1, adds, err);
        return rc;
    }
    bool template = strcmp(type, "TemplateProcessing") == 0;
    if (!template && strcmp(type, "BertProcessing") != 0 && strcmp(type, "RobertaProcessing") != 0)
        return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: type \"%.60s\"", what, type);
    if (*adds) return PL_FAIL(err, PL_E_UNSUPPORTED, "%s: two processors that add tokens", what);
    *adds = true;
    return template ? parse_template(p, o, err) : parse_bert(p, o, err);
}

int pl_postprocessor_parse(pl_postprocessor *p, const pl_json *o, pl_error *err) {
    bool adds = false;
    return o ? parse(p, o, 0, &adds, err) : 0;
}

void pl_postprocessor_release(pl_postprocessor *p) {
    pl_free(p->before);
    pl_free(p->after);
    *p = (pl_postprocessor){0};
}
