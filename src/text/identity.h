/* text/identity.h: what decides the ids that a tokenizer gives, for the keys of caches. */
#ifndef PL_IDENTITY_H
#define PL_IDENTITY_H

#include "base/hash.h"
#include "plumb/tokenizer.h"

/* Adds every byte of tokenizer.json, the ids of the special tokens' roles (all that the other files decide), and the
 * versions of the libraries that know Unicode and regular expressions. */
void pl_tokenizer_add_identity(pl_hasher *h, const pl_tokenizer *t);

#endif
