/* data/gsm8k.h: grade-school mathematics problems (GSM8K, arXiv:2110.14168) as labelled rows for a verifier: the given
 * solution is right; wrong ones are made from it, or come from models. */
#ifndef PL_GSM8K_H
#define PL_GSM8K_H

#include "base/buf.h"
#include "base/json.h"

/* {"question", "answer"} whose answer ends in "#### 72"; or model solutions: {"question", and objects with "solution"
 * and "is_correct"}. */
bool pl_gsm8k_is_problem(const pl_json *row);
bool pl_gsm8k_is_solutions(const pl_json *row);

/* "Question: ...\nAnswer:\n" */
int pl_gsm8k_prompt(pl_buf *out, const char *question, size_t n, pl_error *err);
/* The solution without calculator annotations (<<48/2=24>>), its last line "#### 72" whichever way it was written
 * ("A: 72"), so that nothing but the mathematics tells models' solutions from given ones. */
int pl_gsm8k_solution(pl_buf *out, const char *text, size_t n, pl_error *err);

typedef struct pl_gsm8k_options {
    int64_t wrong;         /* wrong answers made for each problem: by turns another problem's, and perturbed numbers */
    const char *solutions; /* file of model solutions, all of which become rows; NULL: none */
    uint64_t seed;
} pl_gsm8k_options;

typedef struct pl_gsm8k_report {
    int64_t problems, right, foreign, perturbed, solutions_right, solutions_wrong;
} pl_gsm8k_report;

/* JSON lines {"prompt", "completion", "label", "kind"} of a file of problems (or of solutions). A function of file and
 * options. *is false: its first row is neither, and nothing is done. PL_E_FORMAT names the line. */
int pl_gsm8k_rows(pl_buf *out, pl_gsm8k_report *report, bool *is, const char *path, const pl_gsm8k_options *options,
                  pl_error *err);

#endif
