/* hh.h: rows of Anthropic's HH-RLHF, {"chosen": "...", "rejected": "..."}, split into prompt and two responses.
 *
 * Both texts are whole dialogues, "\n\nHuman: ...\n\nAssistant: ...\n\nHuman: ... \n\nAssistant: ...". The rule is that of
 * the reference DPO code: the prompt is `chosen` up to and including its last "\n\nAssistant:"; what follows is the
 * chosen response, and what follows that many characters of `rejected` is the rejected one. Responses keep the space
 * they begin with. The reference assumes that both share the prompt; here it is checked: where they do not, its rejected
 * response is cut out of the middle of something.
 *
 *     hh_report report = hh_report_start();
 *     hh_pair pair;
 *     for each line:
 *         int status = JSON can be read and has both strings ? hh_split(chosen, nc, rejected, nr, &pair) : HH_BAD_JSON...;
 *         if (hh_count(&report, status, line_number) == HH_OK) ... use pair, which points into the two texts ...
 *     hh_report_print(&report, stdout, "harmless-base.jsonl.gz");
 *
 * Reading JSON is the caller's; texts are its decoded UTF-8, any bytes are safe. */
#ifndef TOOLS_HH_H
#define TOOLS_HH_H

#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef enum hh_status {
    HH_OK = 0,
    HH_BAD_JSON, /* these three are the caller's to find */
    HH_MISSING_FIELD,
    HH_NOT_STRING,
    HH_NO_ASSISTANT, /* these four hh_split finds, the first that applies */
    HH_OTHER_PROMPT,
    HH_EMPTY,
    HH_IDENTICAL,
    HH_STATUSES
} hh_status;

typedef struct hh_pair { /* views into the texts given to hh_split */
    const char *prompt, *chosen, *rejected;
    size_t prompt_len, chosen_len, rejected_len;
} hh_pair;

typedef struct hh_report {
    unsigned long long rows, count[HH_STATUSES], first_line[HH_STATUSES]; /* lines from 1, 0: none */
} hh_report;

static inline const char *hh_status_text(int status) {
    switch (status) {
    case HH_OK: return "kept";
    case HH_BAD_JSON: return "not a JSON object";
    case HH_MISSING_FIELD: return "chosen or rejected is missing";
    case HH_NOT_STRING: return "chosen or rejected is not a string";
    case HH_NO_ASSISTANT: return "no \"\\n\\nAssistant:\" in chosen";
    case HH_OTHER_PROMPT: return "rejected does not begin with chosen's prompt";
    case HH_EMPTY: return "a response is empty";
    case HH_IDENTICAL: return "both responses are the same";
    default: return "unknown";
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
 * keep it: with HH_NO_ASSISTANT by an empty prompt and both texts whole, with HH_OTHER_PROMPT by the reference's cut. */
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

static inline hh_report hh_report_start(void) {
    hh_report r;
    memset(&r, 0, sizeof r);
    return r;
}

/* Counts a row and gives its status back. */
static inline int hh_count(hh_report *r, int status, unsigned long long line) {
    if (status < 0 || status >= HH_STATUSES) status = HH_BAD_JSON;
    r->rows++;
    if (!r->count[status]++) r->first_line[status] = line;
    return status;
}

/* One line with the totals, one for each reason that occurred. */
static inline void hh_report_print(const hh_report *r, FILE *f, const char *name) {
    int s;
    fprintf(f, "%s: %llu rows, %llu kept, %llu dropped\n", name, r->rows, r->count[HH_OK], r->rows - r->count[HH_OK]);
    for (s = HH_OK + 1; s < HH_STATUSES; s++)
        if (r->count[s])
            fprintf(f, "    %6llu  %s (first in line %llu)\n", r->count[s], hh_status_text(s), r->first_line[s]);
}

#endif /* TOOLS_HH_H */
