/* tu_b.c - a unit that includes the header only; with -DPRIVATE one with a private copy of everything.
   System headers come first here, the other way round than in tu_a.c. */
#include <stdio.h>
#include <string.h>
#ifdef PRIVATE
#define DPO_IMPLEMENTATION
#define DPO_STATIC
#endif
#include "../dpo.h"
#include "../dpo.h" /* twice does no harm */

int tu_b(void);

int tu_b(void) {
    dpo_context *c = dpo_open(NULL);
    const dpo_tokenizer *t = dpo_tokenizer_bytes(c);
    char text[8];
    int32_t ids[8];
    int bad = !c || dpo_encode(t, "abc", 3, ids, 8) != 3 || dpo_decode(t, ids, 3, text, 8) != 3;
    if (!bad) bad = memcmp(text, "abc", 3) != 0 || dpo_version() < 1;
    dpo_close(c);
    return bad;
}
