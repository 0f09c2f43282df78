/* fixture.h: golden JSON and a collector of completions for the tests of generation. */
#ifndef GEN_FIXTURE_H
#define GEN_FIXTURE_H

#include "plumb/generate.h"
#include "unit/shared.h"

pl_json *golden_json(const char *name);
/* Ids of a JSON list into out; their number. */
int64_t read_ids(int32_t *out, int64_t most, const pl_json *list);

#define MAX_KEPT 64
#define MAX_KEPT_IDS 512
typedef struct kept {
    int64_t prompt, sample, row, tokens, prompt_tokens;
    int32_t ids[MAX_KEPT_IDS];
    float logps[MAX_KEPT_IDS];
    char text[4096];
    size_t text_len;
    pl_finish finish;
} kept;
typedef struct collector {
    int64_t n;
    kept items[MAX_KEPT];
    char pieces[MAX_KEPT][4096]; /* by prompt * samples + sample */
    int64_t samples;
} collector;
/* Hooks that fill c. */
pl_generate_hooks hooks_of(collector *c);

#endif
