/* data/seam.h: where the prompt ends and the answer begins, in tokens (DECISIONS 26). */
#ifndef PL_SEAM_H
#define PL_SEAM_H

#include "base/buf.h"
#include "data/reader.h"
#include "plumb/tokenizer.h"

/* What is the same for all rows of a run. */
typedef struct pl_seam_rule {
    const pl_tokenizer *tok;
    pl_seam seam;
    const char *eos; /* string that ends every answer, borrowed from tok */
    size_t eos_len;
} pl_seam_rule;

/* Ids of one row; zero-initialise, reuse, release. Prompt: prompt.ids[0 .. prompt_count). Answer a:
 * answer[a].ids[start[a] .. n). */
typedef struct pl_seam_ids {
    pl_ids prompt, answer[2];
    int64_t prompt_count, start[2];
    int64_t prefix, continued, cut; /* answers, as in pl_data_report */
    pl_buf text;                    /* scratch */
} pl_seam_ids;

/* PL_E_UNSUPPORTED when the tokenizer has no EOS token. */
int pl_seam_rule_init(pl_seam_rule *rule, const pl_tokenizer *tok, pl_seam seam, pl_error *err);
/* `where` begins every error. PL_E_MISMATCH at the first seam that is none when the rule is PL_SEAM_REFUSE. */
int pl_seam_encode(pl_seam_ids *out, const pl_seam_rule *rule, const pl_row_text *row, pl_data_kind kind,
                   const char *where, pl_error *err);
void pl_seam_ids_release(pl_seam_ids *ids);

#endif
