/* rater.c: scores a file of answers with a model that has a score head. */
#include <math.h>
#include <string.h>

#include "adapt/peft.h"
#include "base/json_edit.h"
#include "data/answers.h"
#include "data/dataset.h"
#include "data/forest.h"
#include "data/option_rows.h"
#include "eval/quality.h"
#include "gen/session.h"
#include "model/machine.h"
#include "model/worker.h"
#include "plumb/log.h"

#define AT(field) .offset = offsetof(pl_rate_options, data.field)

const pl_option pl_rate_option_rows[] = {
    PL_ROWS_MODEL(AT, "Hugging Face model directory"),
    PL_ROW_ADAPTER(AT, "PEFT adapter on top of the model"),

    PL_ROWS_DATASET(AT, "answers: JSON lines (plain or .gz), or a directory with test* files"),
    PL_ROW_TEST_SPLIT(AT, "split of a data directory"),
    {.name = "max_length",
     .type = PL_OPT_I64,
     AT(max_length),
     .min = 1,
     .max = 1e9,
     .help = "longer ones (prompt and answer, in tokens) get no score (default: the model's positions)"},
    PL_ROW_MAX_PROMPT_LENGTH(AT),
    PL_ROW_SEAM(AT),
    PL_ROW_DROP_EMPTY(AT, "give empty answers no score"),
    PL_ROW_MAX_ROWS(AT),

    PL_ROW_BF16_OFF(AT),
    PL_ROW_MICRO_BATCH_TOKENS(AT, "tokens computed at a time; a longer row goes alone"),
    {.name = "best_of",
     .type = PL_OPT_BOOL,
     .offset = offsetof(pl_rate_options, best_of),
     .fallback = "false",
     .group = "Output",
     .help = "only the best answer to each prompt; with labels, how often it is right"},
    {0}};

struct pl_rater {
    pl_backend backend;
    pl_session session;
    pl_answers answers;
    pl_dataset *data; /* the answers that are short enough, a row for each prompt; owned */
    int64_t *rows;    /* [data->n] 0, 1, 2, ... */
    int64_t n;        /* the dataset's answers */
    int64_t *sources; /* [n] which of `answers` they are */
    double *score;    /* [answers.n] NaN: not scored */
    double *tokens;   /* [answers.n] */
    int64_t budget_tok;
    bool best_of, ran;
    pl_arena arena;
    pl_worker worker;
};

int pl_is_reward_model(bool *is, const char *dir, const char *adapter, pl_error *err) {
    pl_peft_config c = {0};
    pl_arch a;
    int rc = adapter ? pl_peft_config_load(&c, adapter, err) : pl_arch_load(&a, dir, err);
    if (rc == 0) *is = adapter ? c.score : a.head == PL_ARCH_SCORE;
    pl_peft_config_release(&c);
    return rc;
}

/* --- opening --- */

static int64_t limit_of(int64_t option) { return option == PL_OPT_NO_I64 ? 0 : option; }

static int open_data(pl_rater *r, const pl_score_options *o, pl_error *err) {
    const pl_arch *a = &r->session.model.arch;
    int64_t most = limit_of(o->max_length);
    if (a->rope.kind != PL_ROPE_DYNAMIC && (most == 0 || most > a->max_position)) most = a->max_position;
    pl_data_options options = {.seam = (pl_seam)o->seam,
                               .max_length = most,
                               .max_prompt_length = limit_of(o->max_prompt_length),
                               .drop_long = true,
                               .drop_empty = o->drop_empty,
                               .completion_only_loss = true};
    char *path = NULL;
    int rc;
    PL_GO(rc, pl_dataset_resolve(&path, o->dataset_name, o->dataset_test_split ? o->dataset_test_split : "test", err));
    PL_GO(rc, pl_answers_load(&r->answers, path, limit_of(o->max_rows), err));
    const pl_buf *text = &r->answers.rows;
    PL_GO(rc, pl_dataset_load_text(&r->data, path, text->data, text->len, &options, r->session.tokenizer, a->V, err));
    if (r->data->n < r->answers.n)
        pl_log(PL_LOG_WARN, "%s: %" PRId64 " of %" PRId64 " answers get no score: %s %" PRId64 " tokens", path,
               r->answers.n - r->data->n, r->answers.n, o->drop_empty ? "empty, or longer than" : "longer than", most);
    r->n = r->data->n;
    PL_GO(rc, pl_dataset_share(r->data, &r->sources, r->budget_tok, err));
    PL_GO(rc, PL_NEW(&r->rows, r->data->n, err));
    PL_GO(rc, PL_NEW(&r->score, r->answers.n, err));
    PL_GO(rc, PL_NEW(&r->tokens, r->answers.n, err));
    for (int64_t i = 0; i < r->data->n; i++) r->rows[i] = i;
    for (int64_t i = 0; i < r->answers.n; i++) r->score[i] = NAN;
out:
    pl_free(path);
    return rc;
}

static int take_worker(pl_rater *r, pl_arena *arena, pl_error *err) {
    const pl_lora *lora = pl_session_lora(&r->session);
    pl_worker_spec spec = {.budget_tok = r->budget_tok, .pass_tok = r->budget_tok, .max_rank = lora ? lora->max_r : 0};
    pl_forest_caps_add(&spec.caps, r->data, r->rows, r->data->n, r->budget_tok, false);
    return pl_worker_take(&r->worker, &r->session.model.arch, &r->backend, &spec, arena, err);
}

static int take_memory(pl_rater *r, pl_error *err) {
    pl_arena plan;
    pl_arena_init_measuring(&plan, "scoring");
    int rc = take_worker(r, &plan, err);
    double need = (double)plan.peak, available = (double)pl_machine_free_bytes();
    if (rc == 0 && need > available)
        rc = PL_FAIL(
            err, PL_E_NOMEM,
            "scoring needs %.1f MiB, %.1f MiB are free (lower micro_batch_tokens or max_length: the longest row "
            "takes %" PRId64 " tokens)",
            need / 0x1p20, available / 0x1p20, r->data->longest_tree);
    if (rc == 0) rc = pl_arena_init(&r->arena, "scoring", plan.peak, err);
    if (rc == 0) rc = take_worker(r, &r->arena, err);
    if (rc) return rc;
    return pl_worker_prepare(&r->worker, &r->session.model.stored, pl_session_lora(&r->session), NULL, err);
}

int pl_rater_open(pl_rater **out, pl_machine *machine, const pl_rate_options *options, pl_error *err) {
    const pl_score_options *o = &options->data;
    pl_rater *r = NULL;
    int rc;
    if (!o->model_name_or_path || !o->dataset_name || o->micro_batch_tokens < 1)
        return PL_FAIL(err, PL_E_OPTION, "model_name_or_path, dataset_name or micro_batch_tokens is missing");
    PL_GO(rc, PL_NEW(&r, 1, err));
    r->backend = pl_machine_backend(machine, o->bf16);
    r->budget_tok = o->micro_batch_tokens;
    r->best_of = options->best_of;
    PL_GO(rc, pl_session_open_scored(&r->session, o->model_name_or_path, o->adapter, r->backend.ops, err));
    PL_GO(rc, open_data(r, o, err));
    PL_GO(rc, take_memory(r, err));
    *out = r;
    r = NULL;
out:
    pl_rater_free(r);
    return rc;
}

void pl_rater_free(pl_rater *r) {
    if (!r) return;
    pl_arena_release(&r->arena);
    pl_free(r->rows);
    pl_free(r->sources);
    pl_free(r->score);
    pl_free(r->tokens);
    pl_dataset_free(r->data);
    pl_answers_release(&r->answers);
    pl_session_close(&r->session);
    pl_free(r);
}

/* --- scoring --- */

static int non_finite(pl_rater *r, int64_t answer, pl_error *err) {
    char where[PL_LOCATION_BYTES];
    int rc = pl_worker_locate_nonfinite(where, &r->worker, &r->session.model.stored, pl_session_lora(&r->session), err);
    return rc ? rc
              : PL_FAIL(err, PL_E_NUMERIC, "row %" PRId64 ": a score is not finite; %s", r->answers.answer[answer].row,
                        where);
}

static int run_batch(pl_rater *r, int64_t at, int64_t n, pl_error *err) {
    int rc = pl_worker_forward(&r->worker, &r->session.model.stored, pl_session_lora(&r->session), r->data,
                               r->rows + at, n, 0, false, PL_FOR_SCORES, err);
    for (int64_t s = 0; rc == 0 && s < r->worker.forest.nsequences; s++) {
        const pl_sequence *q = &r->worker.forest.sequences[s];
        int64_t answer = r->sources[r->data->rows[q->row].first_answer + q->answer];
        double score = r->worker.score.score[s];
        if (!isfinite(score)) return non_finite(r, answer, err);
        r->score[answer] = score;
        r->tokens[answer] = (double)q->length;
    }
    return rc;
}

int pl_rater_run(pl_rater *r, const pl_score_hooks *hooks, pl_error *err) {
    const pl_dataset *d = r->data;
    pl_fp_state fp;
    int64_t done = 0;
    int rc = 0;
    pl_fp_enter(&fp);
    for (int64_t at = 0; at < d->n;) {
        int64_t n = pl_forest_cut(d, r->rows + at, d->n - at, r->budget_tok, 0);
        PL_GO(rc, pl_model_check(&r->session.model, err));
        PL_GO(rc, run_batch(r, at, n, err));
        at += n;
        done += r->worker.forest.nsequences;
        if (hooks && hooks->progress) hooks->progress(hooks->user, done, r->n);
        if (hooks && hooks->stop && hooks->stop(hooks->user))
            PL_GO(rc, PL_FAIL(err, PL_E_INTERRUPTED, "stopped after %" PRId64 " answers", done));
    }
    r->ran = true;
out:
    pl_fp_leave(&fp);
    return rc;
}

/* --- the best answers --- */

/* best[p]: the answer to prompt p with the highest score, the first of equal ones; -1 when none has one. */
static int find_best(int64_t **best, const pl_rater *r, pl_error *err) {
    const pl_answers *a = &r->answers;
    int rc = PL_NEW(best, a->nprompts, err);
    if (rc) return rc;
    for (int64_t p = 0; p < a->nprompts; p++) (*best)[p] = -1;
    for (int64_t i = 0; i < a->n; i++) {
        int64_t *at = &(*best)[a->answer[i].prompt];
        if (!isnan(r->score[i]) && (*at < 0 || r->score[i] > r->score[*at])) *at = i;
    }
    return 0;
}

typedef struct tally {
    int64_t answers, labelled, right;
} tally;

static int count_prompts(tally **out, const pl_answers *a, pl_error *err) {
    int rc = PL_NEW(out, a->nprompts, err);
    for (int64_t i = 0; rc == 0 && i < a->n; i++) {
        tally *t = &(*out)[a->answer[i].prompt];
        t->answers++;
        t->labelled += a->answer[i].label >= 0;
        t->right += a->answer[i].label > 0;
    }
    return rc;
}

static int best_result(pl_best_result *out, const pl_rater *r, pl_error *err) {
    const pl_answers *a = &r->answers;
    int64_t *best = NULL;
    tally *t = NULL;
    pl_best_result b = {.prompts = a->nprompts, .answers = (double)a->n / (double)a->nprompts};
    int rc;
    PL_GO(rc, find_best(&best, r, err));
    PL_GO(rc, count_prompts(&t, a, err));
    for (int64_t p = 0; p < a->nprompts; p++) {
        if (t[p].labelled < t[p].answers) continue;
        b.labelled++;
        b.best += best[p] >= 0 && a->answer[best[p]].label > 0;
        b.random += (double)t[p].right / (double)t[p].answers;
        b.any += t[p].right > 0;
    }
    b.best = b.labelled ? b.best / (double)b.labelled : NAN;
    b.random = b.labelled ? b.random / (double)b.labelled : NAN;
    b.any = b.labelled ? b.any / (double)b.labelled : NAN;
    *out = b;
out:
    pl_free(best);
    pl_free(t);
    return rc;
}

/* --- results --- */

/* The quality of what has a score: of pairs, or where all answers have labels. */
static int quality_of(pl_rate_result *out, const pl_rater *r, pl_error *err) {
    const pl_answers *a = &r->answers;
    bool pairs = a->form == PL_ANSWERS_PAIR, labelled = true, *label = NULL;
    double *score = NULL, *tokens = NULL;
    int64_t n = 0;
    int rc;
    for (int64_t i = 0; i < a->n; i++) labelled &= a->answer[i].label >= 0;
    if (!pairs && !labelled) return 0;
    PL_GO(rc, PL_NEW(&label, a->n, err));
    PL_GO(rc, PL_NEW(&score, a->n, err));
    PL_GO(rc, PL_NEW(&tokens, a->n, err));
    for (int64_t i = 0; i < a->n; i++) {
        if (isnan(r->score[i]) || (pairs && isnan(r->score[i ^ 1]))) continue;
        label[n] = a->answer[i].label > 0;
        score[n] = r->score[i];
        tokens[n++] = r->tokens[i];
    }
    out->has_quality = n > 0;
    PL_GO(rc, pairs ? pl_quality_of_pairs(&out->quality, score, tokens, n / 2, err)
                    : pl_quality_of_labels(&out->quality, score, tokens, label, n, err));
out:
    pl_free(label);
    pl_free(score);
    pl_free(tokens);
    return rc;
}

int pl_rater_result(const pl_rater *r, pl_rate_result *out, pl_error *err) {
    if (!r->ran) return PL_FAIL(err, PL_E_STATE, "nothing was scored yet");
    pl_rate_result x = {.rows = r->answers.nrows, .answers = r->answers.n, .least = INFINITY, .most = -INFINITY};
    int64_t n = 0;
    for (int64_t i = 0; i < r->answers.n; i++) {
        if (isnan(r->score[i])) continue;
        n++;
        x.mean += r->score[i];
        x.least = PL_MIN(x.least, r->score[i]);
        x.most = PL_MAX(x.most, r->score[i]);
    }
    x.unscored = x.answers - n;
    x.mean /= (double)n;
    int rc = quality_of(&x, r, err);
    x.has_best = r->best_of;
    if (rc == 0 && r->best_of) rc = best_result(&x.best, r, err);
    if (rc == 0) *out = x;
    return rc;
}

/* --- printing --- */

static int add_score(pl_buf *b, double score, pl_error *err) {
    return isnan(score) ? pl_buf_puts(b, "null", err) : pl_buf_json_double(b, score, err);
}

/* The members of row i, as JSON values into two buffers. */
static int add_row(pl_buf *out, const pl_rater *r, int64_t i, pl_error *err) {
    const pl_answers *a = &r->answers;
    const char *line = a->lines.data + a->line[i];
    pl_buf first = {0}, second = {0};
    bool pair = a->form == PL_ANSWERS_PAIR, one = a->form == PL_ANSWERS_ONE;
    int rc = 0;
    if (!pair && !one) rc = pl_buf_puts(&first, "[", err);
    for (int64_t k = a->first[i]; k < a->first[i + 1] && rc == 0; k++) {
        pl_buf *to = pair && k > a->first[i] ? &second : &first;
        if (!pair && k > a->first[i]) PL_GO(rc, pl_buf_puts(to, ", ", err));
        rc = add_score(to, r->score[k], err);
    }
    if (!pair && !one && rc == 0) rc = pl_buf_puts(&first, "]", err);
    if (rc) goto out;
    pl_json_edit edits[2] = {{pair  ? "chosen_score"
                              : one ? "score"
                                    : "scores",
                              first.data, true},
                             {"rejected_score", second.data, true}};
    PL_GO(rc, pl_json_text_edit(out, line, a->line[i + 1] - a->line[i], edits, pair ? 2 : 1, "row", err));
    rc = pl_buf_puts(out, "\n", err);
out:
    pl_buf_release(&first);
    pl_buf_release(&second);
    return rc;
}

static int add_best(pl_buf *b, const pl_rater *r, int64_t best, int64_t answers, pl_error *err) {
    const pl_answer *x = &r->answers.answer[best];
    const char *texts = r->answers.texts.data;
    int rc;
    PL_GO(rc, pl_buf_printf(b, err, "{\"row\":%" PRId64 ",\"prompt\":", x->row));
    PL_GO(rc, pl_buf_json_string(b, texts + x->prompt_at, x->prompt_n, err));
    PL_GO(rc, pl_buf_puts(b, ",\"completion\":", err));
    PL_GO(rc, pl_buf_json_string(b, texts + x->text_at, x->text_n, err));
    PL_GO(rc, pl_buf_puts(b, ",\"score\":", err));
    PL_GO(rc, add_score(b, r->score[best], err));
    PL_GO(rc, pl_buf_printf(b, err, ",\"answers\":%" PRId64, answers));
    if (x->label >= 0) PL_GO(rc, pl_buf_printf(b, err, ",\"label\":%s", x->label ? "true" : "false"));
    rc = pl_buf_puts(b, "}\n", err);
out:
    return rc;
}

static int write_out(FILE *f, pl_buf *b, int rc, pl_error *err) {
    if (rc == 0 && b->len > 0 && fwrite(b->data, 1, b->len, f) != b->len)
        rc = PL_FAIL(err, PL_E_IO, "cannot write the scores");
    pl_buf_clear(b);
    return rc;
}

static int print_best(const pl_rater *r, FILE *f, pl_buf *b, pl_error *err) {
    int64_t *best = NULL;
    tally *t = NULL;
    int rc;
    PL_GO(rc, find_best(&best, r, err));
    PL_GO(rc, count_prompts(&t, &r->answers, err));
    for (int64_t p = 0; p < r->answers.nprompts && rc == 0; p++) {
        if (best[p] < 0) continue;
        rc = add_best(b, r, best[p], t[p].answers, err);
        rc = write_out(f, b, rc, err);
    }
out:
    pl_free(best);
    pl_free(t);
    return rc;
}

int pl_rater_print(const pl_rater *r, FILE *f, pl_error *err) {
    pl_buf b = {0};
    int rc = r->ran ? 0 : PL_FAIL(err, PL_E_STATE, "nothing was scored yet");
    if (rc == 0 && r->best_of) rc = print_best(r, f, &b, err);
    for (int64_t i = 0; !r->best_of && i < r->answers.nrows && rc == 0; i++) {
        rc = add_row(&b, r, i, err);
        rc = write_out(f, &b, rc, err);
    }
    pl_buf_release(&b);
    return rc;
}
