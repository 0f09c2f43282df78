/* plumb/error.h: the error that every fallible call of libplumb fills in.
 *
 * A fallible function returns int, 0 or a PL_E_* code, and takes `pl_error *err` last. The caller owns the pl_error; it
 * needs no initialisation and no release, and NULL is allowed where only the code matters. The text grows leftwards on
 * the way up: "model.safetensors: layer 3: q_proj: 512 rows, want 576". Library code never prints, exits or aborts. */
#ifndef PLUMB_ERROR_H
#define PLUMB_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* code, number, what it is, what to do */
#define PL_ERRORS(X)                                                                                                   \
    X(PL_E_NOMEM, 1, "out of memory", "use a smaller micro_batch_tokens, max_length or model, or free memory")         \
    X(PL_E_IO, 2, "input or output failed", "check the path, its permissions and the free space")                      \
    X(PL_E_FORMAT, 3, "malformed input", "check the file named in the message")                                        \
    X(PL_E_SHAPE, 4, "shape mismatch", "check that the files belong together")                                         \
    X(PL_E_RANGE, 5, "value out of range", "see the range in the message or in --help")                                \
    X(PL_E_OPTION, 6, "bad option", "see --help for the options of this command")                                      \
    X(PL_E_UNSUPPORTED, 7, "not supported", "see the limits in the README")                                            \
    X(PL_E_MISMATCH, 8, "things that must agree differ", "the message says what differs")                              \
    X(PL_E_NUMERIC, 9, "a number is not finite", "lower the learning rate, or look at the rows named")                 \
    X(PL_E_STATE, 10, "not possible in this state", "something that was done before is in the way")                    \
    X(PL_E_INTERRUPTED, 11, "interrupted", "run again with --resume")                                                  \
    X(PL_E_INTERNAL, 12, "a defect in plumb", "please report it with the message")

enum {
    PL_OK = 0,
#define PL_ERROR_ENUM(code, number, text, hint) code = number,
    PL_ERRORS(PL_ERROR_ENUM)
#undef PL_ERROR_ENUM
};

typedef struct pl_error {
    int code;         /* PL_E_*, 0 when nothing failed */
    int line;         /* where in plumb's source it was first raised */
    const char *file; /* borrowed, static */
    char text[1400];  /* complete sentence part, UTF-8, no newline at the end */
} pl_error;

/* Sets *err (NULL allowed) and returns code. Use through PL_FAIL. */
int pl_error_set(pl_error *err, int code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* Puts "format: " in front of the text that is there; returns err's code, or rc when err is NULL. */
int pl_error_context(pl_error *err, int rc, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Static texts of a code: never NULL. */
const char *pl_error_name(int code);
const char *pl_error_hint(int code);

/* Sets the error and has the value of `code`, visibly to the compiler: what a callee leaves unset on failure then
 * raises no false alarm in its caller. */
#define PL_FAIL(err, code, ...)                                                                                        \
    __extension__({                                                                                                    \
        pl_error_set((err), (code), __FILE__, __LINE__, __VA_ARGS__);                                                  \
        (code);                                                                                                        \
    })

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
