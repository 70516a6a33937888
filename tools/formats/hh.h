/* hh.h: rows of Anthropic's HH-RLHF, {"chosen": "...", "rejected": "..."}, split into prompt and two responses.
 *
 * Both texts are whole dialogues, "\n\nHuman: ...\n\nAssistant: ...\n\nHuman: ... \n\nAssistant: ...". The rule is that
 * of the reference DPO code: the prompt is `chosen` up to and including its last "\n\nAssistant:"; what follows is the
 * chosen response, and what follows that many characters of `rejected` is the rejected one. Responses keep the space
 * they begin with. The reference assumes that both share the prompt; here it is checked: where they do not, its
 * rejected response is cut out of the middle of something, and the row is dropped unless hh_keep_diverging is set.
 *
 * Texts are taken as they are; in a chat format other than hh the prompt is cut into its turns, blanks at their ends
 * left out, and written in that format. */
#ifndef TOOLS_HH_H
#define TOOLS_HH_H

#include "row.h"

typedef enum hh_status { HH_OK, HH_NO_ASSISTANT, HH_OTHER_PROMPT, HH_EMPTY, HH_IDENTICAL } hh_status;

typedef struct hh_pair { /* views into the texts given to hh_split */
    const char *prompt, *chosen, *rejected;
    size_t prompt_len, chosen_len, rejected_len;
} hh_pair;

static inline const char *hh_status_text(int status) {
    switch (status) {
    case HH_NO_ASSISTANT: return "no \"\\n\\nAssistant:\" in chosen";
    case HH_OTHER_PROMPT: return "rejected does not begin with chosen's prompt";
    case HH_EMPTY: return "a response is empty";
    case HH_IDENTICAL: return "both responses are the same";
    default: return "kept";
    }
}

/* Length of text up to and including the last "\n\nAssistant:", 0 if there is none. */
static inline size_t hh_prompt_length(const char *text, size_t n) {
    static const char mark[] = "\n\nAssistant:";
    size_t m = sizeof mark - 1, i;
    for (i = n; i >= m; i--)
        if (text[i - 1] == ':' && !memcmp(text + i - m, mark, m)) return i;
    return 0;
}

/* The bytes of b that make as many characters as the first n bytes of a: the reference cuts by characters. */
static inline size_t hh_same_characters(const char *a, size_t n, const char *b, size_t b_len) {
    size_t i, characters = 0;
    for (i = 0; i < n; i++) characters += ((unsigned char)a[i] & 0xC0u) != 0x80u;
    for (i = 0; i < b_len; i++)
        if (((unsigned char)b[i] & 0xC0u) != 0x80u && characters-- == 0) break;
    return i;
}

static inline int hh_blank(const char *s, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        if (s[i] != ' ' && (s[i] < '\t' || s[i] > '\r')) return 0;
    return 1;
}

/* Splits one row. `out` is filled whatever comes back, so that a caller who wants the reference's row and not ours can
 * keep it: with HH_NO_ASSISTANT by an empty prompt and both texts whole, with HH_OTHER_PROMPT by its cut. */
static inline hh_status hh_split(const char *chosen, size_t chosen_len, const char *rejected, size_t rejected_len,
                                 hh_pair *out) {
    size_t p = hh_prompt_length(chosen, chosen_len), q = p;
    int same = p <= rejected_len && (p == 0 || !memcmp(chosen, rejected, p));
    if (!same) q = hh_same_characters(chosen, p, rejected, rejected_len);
    out->prompt = chosen;
    out->prompt_len = p;
    out->chosen = chosen + p;
    out->chosen_len = chosen_len - p;
    out->rejected = rejected + q;
    out->rejected_len = rejected_len - q;
    if (!p) return HH_NO_ASSISTANT;
    if (!same) return HH_OTHER_PROMPT;
    if (hh_blank(out->chosen, out->chosen_len) || hh_blank(out->rejected, out->rejected_len)) return HH_EMPTY;
    if (out->chosen_len == out->rejected_len && !memcmp(out->chosen, out->rejected, out->chosen_len))
        return HH_IDENTICAL;
    return HH_OK;
}

/* The prompt's turns as messages: each begins at "\n\nHuman:" or "\n\nAssistant:"; the last is open
 * and left out. */
static inline int hh_turns(row_data *r, const char *text, size_t n) {
    static const char human[] = "\n\nHuman:", assistant[] = "\n\nAssistant:";
    const char *role = "system";
    size_t from = 0, i;
    for (i = 0; i < n; i++) {
        int u = n - i >= sizeof human - 1 && !memcmp(text + i, human, sizeof human - 1);
        int a = !u && n - i >= sizeof assistant - 1 && !memcmp(text + i, assistant, sizeof assistant - 1);
        if (!u && !a) continue;
        if (i > from || strcmp(role, "system")) {
            size_t bytes = i - from;
            const char *turn = chat_trim(text + from, &bytes);
            if (row_message_add(r, role, turn, bytes)) return 1;
        }
        role = u ? "user" : "assistant";
        from = i + (u ? sizeof human : sizeof assistant) - 1;
        i = from - 1;
    }
    return 0;
}

static inline int hh_answer(row_data *r, int chat, chat_parts *to, const char *text, size_t n) {
    if (chat == CHAT_HH) return row_parts(r, to, text, n);
    text = chat_trim(text, &n);
    return row_answer(r, chat, to, text, n);
}

static inline int hh_row(row_data *r, const row_options *o) {
    const char *c, *j;
    size_t nc, nj;
    hh_pair pair;
    int status, empty;
    c = row_text(r, o->chosen, &nc);
    j = c ? row_text(r, o->rejected, &nj) : NULL;
    if (!j) return 1;
    status = (int)hh_split(c, nc, j, nj, &pair);
    empty = hh_blank(pair.chosen, pair.chosen_len) || hh_blank(pair.rejected, pair.rejected_len);
    if (status == HH_OTHER_PROMPT && o->hh_keep_diverging) status = empty ? HH_EMPTY : HH_OK;
    if (status == HH_OTHER_PROMPT && empty) r->also = hh_status_text(HH_EMPTY); /* by the reference's cut */
    if (status != HH_OK) return row_bad(r, "%s", hh_status_text(status));
    r->pair = !o->sft;
    if (o->chat == CHAT_HH) {
        if (row_parts(r, &r->prompt, pair.prompt, pair.prompt_len)) return 1;
    } else if (hh_turns(r, pair.prompt, pair.prompt_len) || row_prompt(r, o->chat, 0, r->messages)) return 1;
    return hh_answer(r, o->chat, &r->chosen, pair.chosen, pair.chosen_len) ||
           (r->pair && hh_answer(r, o->chat, &r->rejected, pair.rejected, pair.rejected_len));
}

#endif /* TOOLS_HH_H */
