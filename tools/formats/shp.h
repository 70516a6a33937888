/* shp.h: rows of the Stanford Human Preferences data, {"history", "human_ref_A", "human_ref_B", "labels", "score_A",
 * "score_B"}, by the rule of the reference DPO code.
 *
 * The prompt is "\n\nHuman: " history "\n\nAssistant:", the answers follow a space. A row is kept if the better score
 * is at least score_ratio (2) times the other; A is preferred where labels is 1. For SFT a prompt's answer is the one
 * with the highest score of all its kept rows, the first among equals: a row with none better than before is passed
 * over, and the data set's grouping lets the last row of a prompt stand. At most max_pairs rows of a prompt are kept
 * (0: all). */
#ifndef TOOLS_SHP_H
#define TOOLS_SHP_H

#include "row.h"

typedef struct shp_prompt {
    uint64_t hash; /* 0: free */
    double best;
    int64_t pairs;
} shp_prompt;

typedef struct shp_seen { /* prompts so far, zero at the start: open addressing, at most half full */
    shp_prompt *prompt;
    size_t cap, n;
} shp_seen;

static inline void shp_free(shp_seen *s) {
    free(s->prompt);
    s->prompt = NULL;
    s->cap = s->n = 0;
}

static inline size_t shp_slot(const shp_seen *s, uint64_t hash) {
    size_t i = (size_t)(hash ^ hash >> 32) & (s->cap - 1);
    while (s->prompt[i].hash && s->prompt[i].hash != hash) i = (i + 1) & (s->cap - 1);
    return i;
}

/* The prompt's entry, made when it is new; NULL without memory. */
static inline shp_prompt *shp_find(shp_seen *s, const char *text, size_t bytes) {
    uint64_t h = 1469598103934665603u;
    size_t i;
    for (i = 0; i < bytes; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    h |= 1;
    if (2 * (s->n + 1) > s->cap) {
        shp_seen to;
        to.cap = s->cap ? 2 * s->cap : 4096;
        to.n = s->n;
        to.prompt = (shp_prompt *)calloc(to.cap, sizeof *to.prompt);
        if (!to.prompt) return NULL;
        for (i = 0; i < s->cap; i++)
            if (s->prompt[i].hash) to.prompt[shp_slot(&to, s->prompt[i].hash)] = s->prompt[i];
        free(s->prompt);
        *s = to;
    }
    i = shp_slot(s, h);
    if (!s->prompt[i].hash) {
        s->prompt[i].hash = h;
        s->n++;
    }
    return &s->prompt[i];
}

static inline int shp_number(row_data *r, const char *name, double *out) {
    if (dpo_json_number(r->json, row_field(r, name), out)) return 0;
    return row_bad(r, row_field(r, name) < 0 ? "%s is missing" : "%s is not a number", name);
}

static inline int shp_row(row_data *r, const row_options *o, shp_seen *seen) {
    const char *history, *text[2];
    size_t n_history, n[2];
    double score[2], label;
    shp_prompt *prompt;
    chat_message m;
    int better;
    history = row_text(r, "history", &n_history);
    text[0] = history ? row_text(r, "human_ref_A", &n[0]) : NULL;
    text[1] = text[0] ? row_text(r, "human_ref_B", &n[1]) : NULL;
    if (!text[1] || shp_number(r, "score_A", &score[0]) || shp_number(r, "score_B", &score[1]) ||
        shp_number(r, "labels", &label))
        return 1;
    better = score[1] > score[0];
    if (score[better] < o->score_ratio * score[!better])
        return row_bad(r, "the scores are closer than --score-ratio %g", o->score_ratio);
    prompt = shp_find(seen, history, n_history);
    if (!prompt) return row_memory(r);
    if (o->max_pairs && prompt->pairs >= o->max_pairs)
        return row_bad(r, "the prompt has --max-pairs %d pairs already", o->max_pairs);
    if (o->sft && prompt->pairs && score[better] <= prompt->best) {
        prompt->pairs++;
        return row_bad(r, "the prompt has an answer that is as good already");
    }
    prompt->pairs++;
    prompt->best = score[better];
    if (!o->sft) better = label != 1; /* for pairs the label says it, as in the reference */
    m.role = "user";
    m.text = history;
    m.bytes = n_history;
    r->pair = !o->sft;
    if (chat_prompt(&r->prompt, o->chat, &m, 1)) return row_memory(r);
    return row_answer(r, o->chat, &r->chosen, text[better], n[better]) ||
           (r->pair && row_answer(r, o->chat, &r->rejected, text[!better], n[!better]));
}

#endif /* TOOLS_SHP_H */
