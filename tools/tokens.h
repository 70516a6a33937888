/* tokens.h: tokenized data sets as files, for dpo-tokenize, dpo-train and dpo-eval: one safetensors file with "tokens"
 * I32 [ids], "segments" I32 [examples,3] (how many ids of prompt, chosen, rejected) and in its metadata the tokenizer's
 * hash, the rules and the report of the set as JSON, and what the program adds of where the data come from.
 *
 *     tokens_file f;
 *     if (tokens_open(&f, context, "tokens.safetensors", tokenizer)) return 1;      tokenizer NULL: whichever it was
 *     for (i = 0; i < f.n; i++) tokens_add(&f, i, set);
 *     tokens_close(&f);
 *
 * An error has been printed when 1 comes back. */
#ifndef TOOLS_TOKENS_H
#define TOOLS_TOKENS_H

#include "cli.h"
#include "../dpo.h"

#define TOKENS_FORMAT  "dpo.h tokens 1"
#define TOKENS_LONGEST 16000000                /* ids that an example may have */
enum { TOKENS_OWN = 5, TOKENS_METADATA = 32 }; /* pairs of the metadata: the file's own, all */

/* All numbers of the rules and of the report. */
/* clang-format off */
#define TOKENS_RULES(X)                                                                                                \
    X(max_length) X(max_prompt_length) X(truncation) X(prompt_keep_start) X(boundary) X(bos) X(end_of_turn)            \
    X(group_prompts)
#define TOKENS_REPORT(X)                                                                                               \
    X(rows) X(kept) X(bad_json) X(missing_field) X(empty_response) X(identical) X(too_long) X(grouped)                 \
    X(truncated_prompts) X(truncated_responses) X(lost_eos) X(invalid_utf8) X(boundary_merges) X(first_bad_line)       \
    X(prompt_tokens) X(chosen_tokens) X(rejected_tokens) X(pairs) X(chosen_longer) X(same_length)
/* clang-format on */

static inline void tokens_number(char *out, size_t cap, const char *name, int64_t value) {
    size_t n = strlen(out);
    snprintf(out + n, cap - n, "%s\"%s\": %lld", n ? ", " : "{", name, (long long)value);
}
static inline void tokens_rules(char *out, size_t cap, const dpo_data_options *o) {
    out[0] = 0;
#define TOKENS_PUT(name) tokens_number(out, cap - 1, #name, o->name);
    TOKENS_RULES(TOKENS_PUT)
#undef TOKENS_PUT
    strcat(out, "}");
}
static inline void tokens_report(char *out, size_t cap, const dpo_data_report *r) {
    out[0] = 0;
#define TOKENS_PUT(name) tokens_number(out, cap - 1, #name, r->name);
    TOKENS_REPORT(TOKENS_PUT)
#undef TOKENS_PUT
    strcat(out, "}");
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* The examples' ids end to end, then their counts. */
static inline int32_t *tokens_gather(const dpo_data *d, int64_t *n_ids) {
    int64_t i, n = dpo_data_count(d), np, nc, nr, at = 0;
    const int32_t *p, *c, *r;
    int32_t *ids, *counts;
    for (i = 0, *n_ids = 0; i < n; i++) {
        dpo_data_item(d, i, NULL, &np, NULL, &nc, NULL, &nr);
        *n_ids += np + nc + nr;
    }
    ids = (int32_t *)malloc((size_t)(*n_ids + 3 * n + 1) * sizeof *ids);
    if (!ids) return NULL;
    counts = ids + *n_ids;
    for (i = 0; i < n; i++) {
        dpo_data_item(d, i, &p, &np, &c, &nc, &r, &nr);
        memcpy(ids + at, p, (size_t)(np + nc + nr) * sizeof *ids); /* an item's parts stand end to end */
        at += np + nc + nr;
        counts[3 * i] = (int32_t)np;
        counts[3 * i + 1] = (int32_t)nc;
        counts[3 * i + 2] = (int32_t)nr;
    }
    return ids;
}

/* tokens_save - d as a file. rules: as tokens_rules has them. metadata: NULL, or key, value, ..., NULL: provenance. */
static inline int tokens_save(dpo_context *c, const char *path, const dpo_data *d, const dpo_tokenizer *t,
                              const char *rules, const dpo_data_report *report, const char *const *metadata) {
    static const char *const own[TOKENS_OWN] = {"format", "tokenizer", "tokenizer_hash", "rules", "report"};
    const char *value[TOKENS_OWN], *all[2 * TOKENS_METADATA + 1];
    char hash[24], reported[1024];
    dpo_tensor x[2];
    int64_t n_ids;
    int32_t *ids;
    int i, n = 0, failed;
    if (!dpo_data_count(d)) return cli_die("%s: there is no example to be written", path);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)dpo_tokenizer_hash(t));
    tokens_report(reported, sizeof reported, report);
    value[0] = TOKENS_FORMAT;
    value[1] = dpo_tokenizer_info(t);
    value[2] = hash;
    value[3] = rules;
    value[4] = reported;
    for (i = 0; i < TOKENS_OWN; i++) {
        all[n++] = own[i];
        all[n++] = value[i];
    }
    for (i = 0; metadata && metadata[i] && n < 2 * TOKENS_METADATA; i++) all[n++] = metadata[i];
    all[n] = NULL;
    ids = tokens_gather(d, &n_ids);
    if (!ids) return cli_die("%s: no memory for its ids", path);
    memset(x, 0, sizeof x);
    x[0].dtype = x[1].dtype = DPO_I32;
    x[0].name = "tokens";
    x[0].data = ids;
    x[0].ndim = 1;
    x[0].shape[0] = n_ids;
    x[1].name = "segments";
    x[1].data = ids + n_ids;
    x[1].ndim = 2;
    x[1].shape[0] = dpo_data_count(d);
    x[1].shape[1] = 3;
    failed = dpo_tensors_save(c, path, x, 2, all) ? cli_die("%s", dpo_error(c)) : 0;
    free(ids);
    return failed;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct tokens_file {
    dpo_context *c;
    const char *path;
    dpo_tensors_file *st;
    int32_t *ids;
    struct tokens_example {
        int64_t first;
        int32_t prompt, chosen, rejected; /* counts; rejected 0: none */
    } * examples;
    int64_t n, n_ids;
    int32_t longest; /* ids of a prompt and an answer to it, at most; or 2 */
    dpo_data_report report;
} tokens_file;

static inline const char *tokens_metadata(const tokens_file *f, const char *key) {
    return dpo_tensors_metadata(f->st, key);
}
static inline void tokens_close(tokens_file *f) {
    dpo_tensors_close(f->st);
    free(f->ids);
    free(f->examples);
    memset(f, 0, sizeof *f);
}

/* The report as the file tells it, if it does. */
static inline int tokens_read_report(tokens_file *f) {
    const char *text = tokens_metadata(f, "report"), *bad = NULL;
    dpo_json *j = text ? dpo_json_create(f->c) : NULL;
    double x;
    if (!text) return 0;
    if (!j) return cli_die("%s", dpo_error(f->c));
    if (dpo_json_parse(j, text, strlen(text), NULL, NULL) || dpo_json_type(j, 0) != '{') bad = "no JSON object";
#define TOKENS_TAKE(name)                                                                                              \
    if (!bad && dpo_json_number(j, dpo_json_find(j, 0, #name), &x)) {                                                  \
        if (!(x >= 0 && x <= 9007199254740992.0)) bad = #name " is out of range";                                      \
        else f->report.name = (int64_t)x;                                                                              \
    }
    TOKENS_REPORT(TOKENS_TAKE)
#undef TOKENS_TAKE
    dpo_json_free(j);
    return bad ? cli_die("%s: its report: %s; the file is damaged: make it again with dpo-tokenize", f->path, bad) : 0;
}

/* Places of the examples, from their counts, which the whole of the ids must make up. */
static inline int tokens_read_examples(tokens_file *f, const int32_t *counts) {
    static const char again[] = "the file is damaged: make it again with dpo-tokenize";
    int64_t i, at = 0;
    f->longest = 2;
    for (i = 0; i < f->n; i++) {
        const int32_t *n = counts + 3 * i;
        int64_t whole = (int64_t)n[0] + n[1] + n[2];
        if (n[0] < 0 || n[1] < 1 || n[2] < 0 || (int64_t)n[0] + n[1] < 2 || (n[2] && (int64_t)n[0] + n[2] < 2) ||
            whole > f->n_ids - at || whole > TOKENS_LONGEST)
            return cli_die("%s: example %lld has lengths %ld, %ld, %ld with %lld ids left; %s", f->path, (long long)i,
                           (long)n[0], (long)n[1], (long)n[2], (long long)(f->n_ids - at), again);
        if (n[1] == n[2] && !memcmp(f->ids + at + n[0], f->ids + at + n[0] + n[1], (size_t)n[1] * sizeof *f->ids))
            return cli_die("%s: example %lld has the same answer twice; %s", f->path, (long long)i, again);
        if (n[0] + (n[1] > n[2] ? n[1] : n[2]) > f->longest) f->longest = n[0] + (n[1] > n[2] ? n[1] : n[2]);
        f->examples[i].first = at;
        f->examples[i].prompt = n[0];
        f->examples[i].chosen = n[1];
        f->examples[i].rejected = n[2];
        at += whole;
    }
    if (at == f->n_ids) return 0;
    return cli_die("%s: its examples have %lld ids, it holds %lld; %s", f->path, (long long)at, (long long)f->n_ids,
                   again);
}

/* Ids and counts, checked before they are believed. */
static inline int tokens_read(tokens_file *f, int vocab) {
    dpo_tensor x[2];
    int64_t i, ids = -1, counts = -1, n = dpo_tensors_list(f->st, x, 2);
    int32_t *count;
    int failed;
    for (i = 0; i < n && i < 2; i++) {
        if (x[i].dtype == DPO_I32 && x[i].ndim == 1 && !strcmp(x[i].name, "tokens")) ids = i;
        if (x[i].dtype == DPO_I32 && x[i].ndim == 2 && !strcmp(x[i].name, "segments")) counts = i;
    }
    if (n != 2 || ids < 0 || counts < 0 || x[counts].shape[1] != 3 || x[counts].shape[0] < 1)
        return cli_die("%s: expected tensors tokens I32 [ids] and segments I32 [examples,3]", f->path);
    f->n_ids = x[ids].shape[0];
    f->n = x[counts].shape[0];
    f->ids = (int32_t *)malloc((size_t)f->n_ids * sizeof *f->ids + 1);
    f->examples = (struct tokens_example *)malloc((size_t)f->n * sizeof *f->examples);
    count = (int32_t *)malloc((size_t)f->n * 3 * sizeof *count);
    failed = !f->ids || !f->examples || !count ? cli_die("%s: no memory for its ids", f->path) : 0;
    if (!failed && (dpo_tensors_read(f->st, ids, f->ids, (size_t)f->n_ids * sizeof *f->ids) ||
                    dpo_tensors_read(f->st, counts, count, (size_t)f->n * 3 * sizeof *count)))
        failed = cli_die("%s", dpo_error(f->c));
    for (i = 0; !failed && i < f->n_ids; i++)
        if (f->ids[i] < 0 || f->ids[i] >= vocab)
            failed = cli_die("%s: token %lld is %ld, expected 0 to %ld", f->path, (long long)i, (long)f->ids[i],
                             (long)vocab - 1);
    if (!failed) failed = tokens_read_examples(f, count);
    free(count);
    return failed;
}

/* tokens_open - a file that any bytes may be in. t: the tokenizer that it must have been made with, NULL: any. */
static inline int tokens_open(tokens_file *f, dpo_context *c, const char *path, const dpo_tokenizer *t) {
    const char *format, *hash;
    char want[24];
    int failed = 0;
    memset(f, 0, sizeof *f);
    f->c = c;
    f->path = path;
    f->st = dpo_tensors_open(c, path);
    if (!f->st) return cli_die("%s", dpo_error(c));
    format = tokens_metadata(f, "format");
    hash = tokens_metadata(f, "tokenizer_hash");
    snprintf(want, sizeof want, "%016llx", (unsigned long long)dpo_tokenizer_hash(t));
    if (!format || strcmp(format, TOKENS_FORMAT))
        failed = cli_die("%s: its format is \"%.40s\", expected \"" TOKENS_FORMAT "\" (dpo-tokenize)", path,
                         format ? format : "");
    else if (t && (!hash || strcmp(hash, want)))
        failed = cli_die("%s: was made with another tokenizer (hash %.20s, this one's is %s: %s); tokenize the text "
                         "again",
                         path, hash ? hash : "missing", want, dpo_tokenizer_info(t));
    if (!failed) failed = tokens_read_report(f) || tokens_read(f, t ? dpo_tokenizer_vocab(t) : INT32_MAX);
    if (failed) tokens_close(f);
    return failed;
}

/* A set that takes a file's examples as they are. */
static inline dpo_data *tokens_set(const tokens_file *f, dpo_context *c, const dpo_tokenizer *t) {
    dpo_data_options o = dpo_data_defaults();
    o.max_length = f->longest;
    o.truncation = DPO_TRUNCATE_KEEP_START;
    return dpo_data_create(c, t, &o);
}
static inline dpo_result tokens_add(const tokens_file *f, int64_t i, dpo_data *to) {
    const struct tokens_example *e = &f->examples[i];
    const int32_t *p = f->ids + e->first, *c = p + e->prompt, *r = e->rejected ? c + e->chosen : NULL;
    return dpo_data_add_tokens(to, p, e->prompt, c, e->chosen, r, e->rejected);
}

#endif /* TOOLS_TOKENS_H */
