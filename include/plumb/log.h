/* plumb/log.h: where libplumb's messages go. The sink is the one writable global of the library (set it before threads
 * start). Without a sink nothing is printed. */
#ifndef PLUMB_LOG_H
#define PLUMB_LOG_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef enum pl_log_level { PL_LOG_DEBUG, PL_LOG_INFO, PL_LOG_WARN, PL_LOG_ERROR } pl_log_level;
/* text: one line, UTF-8, without newline; borrowed for the call. */
typedef void pl_log_sink(void *user, pl_log_level level, const char *text);
void pl_log_set(pl_log_sink *sink, void *user);
void pl_log(pl_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *pl_log_level_name(pl_log_level level);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
