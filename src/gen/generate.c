/* generate.c: the generator: what it opens, and the call that generates. */
#include <time.h>

#include "gen/generator.h"

const char *pl_finish_name(pl_finish f) { return f == PL_FINISH_STOP ? "stop" : "length"; }

static void add_eos(pl_generator *g, int64_t id) {
    for (int i = 0; i < g->neos; i++)
        if (g->eos[i] == id) return;
    g->eos[g->neos++] = id;
}

/* Every id that any of the three files calls an end. */
static void collect_eos(pl_generator *g) {
    const pl_arch *a = &g->session.model.arch;
    for (int i = 0; i < a->neos; i++) add_eos(g, a->eos[i]);
    if (g->session.tokenizer && pl_tokenizer_eos(g->session.tokenizer) >= 0)
        add_eos(g, pl_tokenizer_eos(g->session.tokenizer));
}

int pl_generator_open(pl_generator **out, pl_machine *machine, const pl_generate_options *options, pl_error *err) {
    pl_generator *g = NULL;
    int rc;
    PL_GO(rc, PL_NEW(&g, 1, err));
    g->machine = machine;
    g->options = *options;
    g->backend = pl_machine_backend(machine, options->bf16);
    PL_GO(rc, pl_sampling_of(&g->sampling, options, err));
    pl_sampling_words(g->words, sizeof g->words, &g->sampling);
    PL_GO(rc, pl_session_open(&g->session, options->model_name_or_path, options->adapter, false, g->backend.ops, err));
    if (!options->ignore_eos) collect_eos(g);
    *out = g;
    g = NULL;
out:
    pl_generator_free(g);
    return rc;
}

void pl_generator_free(pl_generator *g) {
    if (!g) return;
    pl_hot_release(&g->hot);
    pl_session_close(&g->session);
    pl_free(g);
}

const char *pl_generator_describe(const pl_generator *g) { return g->words; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int pl_generate(pl_generator *g, const pl_prompt *prompts, int64_t n, const pl_generate_hooks *hooks,
                pl_generate_stats *stats, pl_error *err) {
    static const pl_generate_hooks none = {0};
    pl_gen_job job = {0};
    pl_fp_state fp;
    double start = now();
    pl_fp_enter(&fp);
    int rc = pl_gen_job_open(&job, g, prompts, n, hooks ? hooks : &none, err);
    if (rc == 0) rc = pl_gen_job_run(&job, err);
    pl_fp_leave(&fp);
    job.stats.seconds = now() - start;
    if (rc == 0 && stats) *stats = job.stats;
    pl_gen_job_close(&job);
    return rc;
}
