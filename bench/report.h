/* bench/report.h: what the benchmarks found, as JSON lines: {"bench": "step", "what": "...", ...}.
 *
 * bench/page.c makes one document and a page of tables of them. A number that is not finite becomes null. Shares are
 * fractions of one; units are in the names. One file per process; nothing is kept without one. */
#ifndef PL_BENCH_REPORT_H
#define PL_BENCH_REPORT_H

#include <stdint.h>

/* NULL: nothing is kept. Lines are added to what the file has. Ends the program when it cannot be written. */
void report_open(const char *path);
void report_begin(const char *bench, const char *what); /* `what` names the row among those of the bench */
void report_text(const char *key, const char *value);
void report_number(const char *key, double value);
void report_count(const char *key, int64_t value);
void report_end(void); /* writes the line at once */

/* argv's value of --json, or NULL. */
const char *report_path(int argc, char **argv);

#endif
