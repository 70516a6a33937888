/* alpaca.h: rows of instruction and input, with an answer or with two.
 *
 *     {"instruction": "...", "input": "...", "output": "..."}                       Stanford's Alpaca, for SFT
 *     {"instruction": "...", "input": "...", "chosen": "...", "rejected": "..."}    pairs (SFT takes the chosen one)
 *
 * In the format alpaca the prompt is one of stanford_alpaca's two templates, the shorter where input is empty or not
 * there, and the answer follows "### Response:" directly. In any other, instruction and input make the user's turn, a
 * line break between them (LLaMA-Factory's rule). */
#ifndef TOOLS_ALPACA_H
#define TOOLS_ALPACA_H

#include "row.h"

/* instruction, a line break, input: in the row's memory. */
static inline const char *alpaca_join(row_data *r, const char *a, size_t na, const char *b, size_t nb) {
    char *s = r->memory + r->used;
    if (na + nb + 1 > r->room - r->used) {
        row_memory(r);
        return NULL;
    }
    memcpy(s, a, na);
    s[na] = '\n';
    memcpy(s + na + 1, b, nb);
    r->used += na + nb + 1;
    return s;
}

static inline int alpaca_prompt(row_data *r, const row_options *o) {
    const char *instruction, *input = "";
    size_t n, n_input = 0;
    chat_message m;
    int bad;
    instruction = row_text(r, "instruction", &n);
    if (!instruction) return 1;
    if (row_has(r, "input", '"')) input = row_text(r, "input", &n_input);
    if (!input) return 1;
    if (!n && !n_input) return row_bad(r, "instruction is empty");
    if (o->chat == CHAT_ALPACA) bad = chat_alpaca(&r->prompt, instruction, n, input, n_input);
    else {
        m.role = "user";
        m.text = n_input ? alpaca_join(r, instruction, n, input, n_input) : instruction;
        m.bytes = n_input ? n + 1 + n_input : n;
        if (!m.text) return 1;
        bad = chat_prompt(&r->prompt, o->chat, &m, 1);
    }
    return bad ? row_memory(r) : 0;
}

static inline int alpaca_row(row_data *r, const row_options *o) {
    const char *field = o->completion ? o->completion : row_field(r, o->chosen) >= 0 || !o->sft ? o->chosen : "output";
    const char *c, *j = NULL;
    size_t nc, nj = 0;
    if (alpaca_prompt(r, o)) return 1;
    c = row_text(r, field, &nc);
    if (c && !o->sft) j = row_text(r, o->rejected, &nj);
    if (!c || (!o->sft && !j)) return 1;
    r->pair = !o->sft;
    return row_answer(r, o->chat, &r->chosen, c, nc) || (r->pair && row_answer(r, o->chat, &r->rejected, j, nj));
}

#endif /* TOOLS_ALPACA_H */
