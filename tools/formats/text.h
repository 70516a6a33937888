/* text.h: rows of plain text, {"text": "..."}, for pretraining or as an evaluation of what a model still knows. */
#ifndef TOOLS_TEXT_H
#define TOOLS_TEXT_H

#include "row.h"

static inline int text_row(row_data *r, const row_options *o) {
    r->text = row_text(r, o->text, &r->text_bytes);
    return r->text == NULL;
}

/* Where a plain text file is cut into a part to learn and one held out at its end: the beginning of a line. */
static inline size_t text_cut(const char *text, size_t bytes, double held_out) {
    size_t cut = bytes - (size_t)((double)bytes * held_out);
    const char *end = cut < bytes ? (const char *)memchr(text + cut, '\n', bytes - cut) : NULL;
    return end ? (size_t)(end - text) + 1 : bytes;
}

#endif /* TOOLS_TEXT_H */
