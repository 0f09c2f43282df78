/* base/json_edit.h: values at the top level of a JSON object's text set, every other byte as it was. */
#ifndef PL_JSON_EDIT_H
#define PL_JSON_EDIT_H

#include "base/buf.h"

typedef struct pl_json_edit {
    const char *key;   /* as it stands in the file: no escapes */
    const char *value; /* JSON text, borrowed */
    bool add;          /* where the key is missing: put behind the last one; else nothing */
} pl_json_edit;

/* Appends the edited text to *out. PL_E_FORMAT: text is no JSON object (`what` names it). */
int pl_json_text_edit(pl_buf *out, const char *text, size_t n, const pl_json_edit *edits, int64_t nedits,
                      const char *what, pl_error *err);

#endif
