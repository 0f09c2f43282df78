/* gen/generator.h: the inside of pl_generator, and of one call of pl_generate. */
#ifndef PL_GENERATOR_H
#define PL_GENERATOR_H

#include "gen/engine.h"
#include "gen/hot.h"
#include "gen/sampler.h"
#include "gen/session.h"
#include "model/machine.h"
#include "plumb/generate.h"

#define PL_DEFAULT_NEW_TOKENS 256
#define PL_GEN_SAMPLERS 16

struct pl_generator {
    pl_machine *machine; /* borrowed */
    pl_backend backend;
    pl_generate_options options; /* strings borrowed */
    pl_session session;
    pl_sampling sampling;
    pl_hot hot;
    int64_t eos[PL_MAX_EOS + 1];
    int neos;
    char words[160];
};

/* gen/options.c: options into sampling rules; PL_E_OPTION. */
int pl_sampling_of(pl_sampling *out, const pl_generate_options *o, pl_error *err);
void pl_sampling_words(char *out, size_t size, const pl_sampling *s);

/* One sequence as it is handed to the caller. */
typedef struct pl_gen_result {
    bool done;
    int32_t *ids; /* [limit] owned */
    float *logps; /* [limit] owned */
    int64_t tokens;
    pl_text text;
    pl_finish finish;
} pl_gen_result;

/* One prompt of a call. */
typedef struct pl_gen_prompt {
    int64_t first, n; /* into pl_gen_job.ids */
    int64_t limit;    /* new tokens at most */
} pl_gen_prompt;

/* A sequence that is being generated. */
typedef struct pl_gen_sequence {
    bool active;
    int64_t prompt, sample;
    int64_t slot;    /* of its prompt */
    int64_t row;     /* of logits in the current step */
    int32_t pending; /* the token that runs next */
    int32_t drawn;   /* the token that the current step gives */
    pl_detok *detok; /* owned */
    size_t skip;     /* bytes of the decoder's output that still belong to the prompt */
    pl_gen_result *result;
} pl_gen_sequence;

/* A prompt whose keys and values are in the cache: all of its tokens but the last, which every sample runs itself, so
 * that each sample's first logits come from its own row. */
typedef struct pl_gen_slot {
    int64_t prompt; /* -1: free */
    int64_t filled; /* tokens */
    int64_t started, live;
} pl_gen_slot;

typedef struct pl_gen_job {
    pl_generator *g;
    const pl_generate_hooks *hooks;
    const pl_prompt *given; /* [n] */
    pl_gen_prompt *prompts; /* [n] owned */
    int64_t n, samples;
    pl_ids ids;             /* of all prompts */
    int64_t longest, limit; /* most prompt tokens, most new tokens of a prompt */
    pl_gen_result *results; /* [n * samples] owned */
    int64_t delivered, next_prompt;
    int64_t width; /* sequences at a time */
    pl_arena arena;
    pl_engine engine;
    pl_sampler samplers[PL_GEN_SAMPLERS]; /* [nsamplers]: one for each thread that draws */
    int nsamplers;
    pl_gen_sequence *sequences; /* [width] owned */
    pl_gen_slot *slots;         /* [width] owned */
    pl_text piece;
    pl_generate_stats stats;
} pl_gen_job;

/* gen/job.c: prompts into ids, memory, and their release (safe on zeroed storage). */
int pl_gen_job_open(pl_gen_job *j, pl_generator *g, const pl_prompt *prompts, int64_t n, const pl_generate_hooks *hooks,
                    pl_error *err);
void pl_gen_job_close(pl_gen_job *j);
/* gen/stream.c: a sequence's life: begin, one token more (which may end it), and handing over what is finished. */
int pl_gen_sequence_begin(pl_gen_job *j, pl_gen_sequence *s, int64_t prompt, int64_t sample, int64_t slot,
                          pl_error *err);
int pl_gen_sequence_take(pl_gen_job *j, pl_gen_sequence *s, int32_t id, double logp, pl_error *err);
void pl_gen_sequence_release(pl_gen_sequence *s);
int pl_gen_deliver(pl_gen_job *j, pl_error *err);
/* gen/schedule.c: steps until everything is delivered. */
int pl_gen_job_run(pl_gen_job *j, pl_error *err);

#endif
