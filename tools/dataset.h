/* dataset.h: data files to token sets, for dpo-train, dpo-tokenize and dpo-eval: options, what a file is by its
 * content, reading, and the data report.
 *
 *     dataset d = dataset_start(context, tokenizer, sft);
 *     d.o = options;                                       of dataset_defaults and DATASET_OPTIONS
 *     if (dataset_read(&d, "hh.jsonl.gz", 0)) return 1;    a part is held out for d.eval by a hash of the prompt
 *     if (eval && dataset_read(&d, "test.jsonl", 1)) return 1;   or evaluation has a file of its own
 *     dataset_print(&d);
 *     dataset_free(&d);
 *
 * Every row that is not used is counted by reason, with the first line it happened in; nothing is dropped silently. An
 * error has been printed when 1 comes back. */
#ifndef TOOLS_DATASET_H
#define TOOLS_DATASET_H

#include "cli.h"
#include "../dpo.h"
#include "formats/alpaca.h"
#include "formats/hh.h"
#include "formats/sharegpt.h"
#include "formats/shp.h"
#include "formats/text.h"
#include "tokens.h"
#include <math.h>

/* ---- options ---------------------------------------------------------------------------------------------------- */

enum {
    DATASET_AUTO,
    DATASET_PAIRS,
    DATASET_HH,
    DATASET_SHP,
    DATASET_ALPACA,
    DATASET_PREFERENCE,
    DATASET_SHAREGPT,
    DATASET_MESSAGES,
    DATASET_TEXT,
    DATASET_TOKENS
};
enum { DATASET_GROUP_AUTO, DATASET_GROUP_NO, DATASET_GROUP_YES };

typedef struct dataset_options {
    int format;
    int chat;  /* 0: by the data and the model; else CHAT_* + 1 */
    int group; /* DATASET_GROUP_* */
    int max_rows;
    double eval_fraction;
    const char *eos; /* the piece that ends a text, if the tokenizer names none */
    row_options row;
    dpo_data_options data;
} dataset_options;

static inline dataset_options dataset_defaults(void) {
    dataset_options o;
    memset(&o, 0, sizeof o);
    o.data = dpo_data_defaults();
    o.data.max_prompt_length = 0; /* see dataset_make */
    o.row.prompt = "prompt";
    o.row.chosen = "chosen";
    o.row.rejected = "rejected";
    o.row.messages = "messages";
    o.row.text = "text";
    o.row.score_ratio = 2;
    return o;
}

/* The rows of an option table, for a dataset_options at p. */
#define DATASET_OPTIONS(p)                                                                                             \
    CLI_WORD(                                                                                                          \
        "format", &(p)->format, "auto|pairs|hh|shp|alpaca|preference|sharegpt|messages|text|tokens", "",               \
        "of the data, JSON lines or an array. pairs: prompt, chosen, rejected (or completion); hh: two dialogues; "    \
        "alpaca, preference: instruction and input with output, or with chosen and rejected; sharegpt: "               \
        "conversations; messages: lists of role and content; text: plain, or JSON lines of it. sft takes a "           \
        "dialogue's last answer as the response and what is before it as the prompt"),                                 \
        CLI_WORD("chat-format", &(p)->chat, "auto|" CHAT_WORDS, "",                                                    \
                 "how turns are written. auto: hh and shp data as hh, instructions as alpaca, dialogues as the model " \
                 "wants them, else as hh, strings as they are"),                                                       \
        CLI_STRING("prompt-field", &(p)->row.prompt, "NAME", "", "its name in pairs"),                                 \
        CLI_STRING("chosen-field", &(p)->row.chosen, "NAME", "", "the better answer's name"),                          \
        CLI_STRING("rejected-field", &(p)->row.rejected, "NAME", "", "the other's"),                                   \
        CLI_STRING("completion-field", &(p)->row.completion, "NAME", "",                                               \
                   "sft: the answer's name; without it chosen, completion, response or output"),                       \
        CLI_STRING("messages-field", &(p)->row.messages, "NAME", "", "a whole dialogue's name"),                       \
        CLI_STRING("text-field", &(p)->row.text, "NAME", "dataset_text_field", "plain text's name"),                   \
        CLI_FLAG("implicit-prompt", &(p)->row.implicit_prompt, "",                                                     \
                 "pairs without prompt: what both texts begin with, as TRL finds it"),                                 \
        CLI_FLAG("hh-keep-diverging", &(p)->row.hh_keep_diverging, "",                                                 \
                 "hh: keep rows whose answers do not share the prompt, as the reference code does"),                   \
        CLI_DOUBLE("score-ratio", &(p)->row.score_ratio, 0, 1e9, "",                                                   \
                   "shp: the better score is at least so many times "                                                  \
                   "the other"),                                                                                       \
        CLI_INT("max-pairs", &(p)->row.max_pairs, 0, 1000000000, "max_pairs_per_prompt",                               \
                "shp: pairs of one prompt; 0: all"),                                                                   \
        CLI_WORD("group-prompts", &(p)->group, "auto|no|yes", "",                                                      \
                 "sft: rows with one prompt become one, the last answer counts; auto: for hh and shp, as the "         \
                 "reference code"),                                                                                    \
        CLI_INT("max-length", &(p)->data.max_length, 2, TOKENS_LONGEST, "max_seq_length",                              \
                "tokens of prompt + response"),                                                                        \
        CLI_INT("max-prompt-length", &(p)->data.max_prompt_length, 0, TOKENS_LONGEST, "",                              \
                "what --truncation ref leaves of a prompt; 0: 256, or half of --max-length where that is less"),       \
        CLI_WORD("truncation", &(p)->data.truncation, "ref|keep_start|keep_end", "truncation_mode",                    \
                 "of long rows: as the DPO reference code (a prompt keeps its end, in shp data its beginning), the "   \
                 "end cut off, or the prompt's beginning"),                                                            \
        CLI_WORD("boundary", &(p)->data.boundary, "separate|joint", "",                                                \
                 "prompt and response are tokenized apart, or as one text (TRL)"),                                     \
        CLI_WORD("bos", &(p)->data.bos, "habit|never|always", "",                                                      \
                 "the id that begins a text stands before a prompt: if the tokenizer does so, or not, or yes"),        \
        CLI_STRING("eos", &(p)->eos, "PIECE", "", "what ends a text, if the tokenizer's files do not name it"),        \
        CLI_INT("max-rows", &(p)->max_rows, 0, 1000000000, "max_samples", "read no more rows of --train; 0: all")

/* ---- what is known of a file and of the sets -------------------------------------------------------------------- */

enum { DATASET_REASONS = 32 };

typedef struct dataset_file {
    const char *path;
    int format, chat;
    int64_t rows, bad;     /* read; not used, whatever the reason */
    int array;             /* of JSON: its rows are counted, not its lines */
    uint64_t hash, bytes;  /* of the text, unpacked */
    char rules[512];       /* by which rows became tokens; a tokenized file has its own, and keeps them */
    const dpo_data *whole; /* the set that has all of a tokenized file, whose report is */
    dpo_data_report report;
    struct {
        char why[160];
        int64_t count, first; /* rows, and where the first one is */
        int64_t shared;       /* of them, counted for another reason too */
    } reason[DATASET_REASONS];
    int reasons;
} dataset_file;

typedef struct dataset {
    dpo_context *c;
    const dpo_tokenizer *t;
    dataset_options o;
    int sft, quiet;
    int model_chat; /* what the model's files ask for, -1: nothing known */
    dpo_data *train, *eval;
    dataset_file file[2]; /* of training, of evaluation */
    int held_out;         /* eval comes from the training file */
} dataset;

static inline dataset dataset_start(dpo_context *c, const dpo_tokenizer *t, int sft) {
    dataset d;
    memset(&d, 0, sizeof d);
    d.c = c;
    d.t = t;
    d.sft = sft;
    d.model_chat = -1;
    d.o = dataset_defaults();
    return d;
}

static inline void dataset_free(dataset *d) {
    dpo_data_free(d->train);
    dpo_data_free(d->eval);
    d->train = d->eval = NULL;
}

static inline const char *dataset_format_name(int format) {
    static const char *const name[] = {"",           "pairs",    "hh",       "shp",  "alpaca",
                                       "preference", "sharegpt", "messages", "text", "tokens"};
    return format >= 0 && format <= DATASET_TOKENS ? name[format] : "";
}

static inline const char *dataset_format_words(int format) {
    static const char *const words[] = {"",
                                        "pairs",
                                        "HH dialogues",
                                        "SHP posts",
                                        "instructions",
                                        "instructions with two answers",
                                        "ShareGPT conversations",
                                        "messages",
                                        "text",
                                        "tokens"};
    return format >= 0 && format <= DATASET_TOKENS ? words[format] : "";
}

static inline int dataset_fail(const dataset *d) { return cli_die("%s", dpo_error(d->c)); }

/* A reason for which a row is not used; `shared`: its second. Reasons beyond the table are counted with the last. */
static inline void dataset_reason(dataset_file *f, const char *why, int64_t line, int shared) {
    int i;
    for (i = 0; i < f->reasons && strcmp(f->reason[i].why, why); i++) {
    }
    if (i == DATASET_REASONS) i--;
    if (i == f->reasons) {
        snprintf(f->reason[i].why, sizeof f->reason[i].why, "%s", i == DATASET_REASONS - 1 ? "other reasons" : why);
        f->reason[i].count = f->reason[i].shared = 0;
        f->reason[i].first = line;
        f->reasons++;
    }
    f->reason[i].count++;
    f->reason[i].shared += shared;
}
static inline void dataset_drop(dataset_file *f, const char *why, const char *also, int64_t line) {
    f->bad++;
    dataset_reason(f, why, line, 0);
    if (also) dataset_reason(f, also, line, 1);
}

/* ---- tokenizer -------------------------------------------------------------------------------------------------- */

/* A directory, a file, or "bytes". `eos` NULL, or the piece that ends a text. NULL after a message. */
static inline dpo_tokenizer *dataset_tokenizer(dpo_context *c, const char *path, const char *eos) {
    dpo_tokenizer *t = strcmp(path, "bytes") ? dpo_tokenizer_load(c, path) : dpo_tokenizer_bytes(c);
    int32_t id = eos && t ? dpo_tokenizer_id(t, eos, strlen(eos)) : -1;
    if (!t) cli_die("%s", dpo_error(c));
    else if (eos && id < 0) {
        cli_die("--eos '%s' is no piece of the tokenizer %s (%s)", eos, path, dpo_tokenizer_info(t));
        t = NULL;
    } else if (eos && dpo_tokenizer_set_ends(t, dpo_tokenizer_bos(t), id)) {
        cli_die("%s", dpo_error(c));
        t = NULL;
    }
    return t;
}

/* Each text for itself: text i's ids are (*ids)[(*first)[i]] .. (*ids)[(*first)[i + 1] - 1]. Both are freed by free. */
static inline int dataset_encode(const dpo_tokenizer *t, const dpo_text *texts, int64_t n, unsigned flags,
                                 int32_t **ids, int64_t **first) {
    int64_t i, k, at = 0, room = 0;
    int32_t *more;
    *ids = NULL;
    *first = (int64_t *)malloc(((size_t)n + 1) * sizeof **first);
    if (!*first) return cli_die("no memory for the ids of %s texts", cli_count((uint64_t)n));
    for (i = 0; i < n; i++, at += k) {
        (*first)[i] = at;
        if (texts[i].bytes > INT32_MAX)
            return cli_die("a text of %s bytes; at most 2 GB can be encoded at a time", cli_count(texts[i].bytes));
        k = dpo_encode_parts(t, texts + i, 1, flags, *ids ? *ids + at : NULL, room - at);
        if (k > room - at) { /* so many more are needed; and some to spare for what follows */
            room = at + k + room / 2;
            more = (int32_t *)realloc(*ids, (size_t)room * sizeof **ids);
            if (!more) return cli_die("no memory for %s ids", cli_count((uint64_t)room));
            *ids = more;
            k = dpo_encode_parts(t, texts + i, 1, flags, *ids + at, room - at);
        }
        if (k < 0)
            return cli_die("a text of %s bytes cannot be encoded: %s", cli_count(texts[i].bytes),
                           dpo_result_name((dpo_result)k));
    }
    (*first)[n] = at;
    return 0;
}

/* ---- what a file is --------------------------------------------------------------------------------------------- */

/* A safetensors file: a small number of 8 bytes, then '{'. Text is never like that. */
static inline int dataset_is_tokens(const char *path) {
    unsigned char head[9];
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    return n == sizeof head && head[8] == '{' && !head[7] && !head[6] && !head[5] && !head[4];
}

/* The name of an encoding that is not UTF-8, or NULL. */
static inline const char *dataset_encoding(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    if (n >= 4 && !s[0] && !s[1] && s[2] == 0xFE && s[3] == 0xFF) return "UTF-32";
    if (n >= 4 && s[0] == 0xFF && s[1] == 0xFE && !s[2] && !s[3]) return "UTF-32";
    if (n >= 2 && ((s[0] == 0xFF && s[1] == 0xFE) || (s[0] == 0xFE && s[1] == 0xFF))) return "UTF-16";
    if (n >= 2 && !s[0] && (s[1] == '{' || s[1] == '[')) return "UTF-16BE";
    if (n >= 4 && (s[0] == '{' || s[0] == '[') && !s[1]) return s[2] ? "UTF-16LE" : "UTF-32LE";
    return NULL;
}

static inline int dataset_detect_dialogues(row_data *r, const row_options *o) {
    size_t n;
    const char *text;
    if (!row_has(r, o->chosen, '"') || !row_has(r, o->rejected, '"')) return 0;
    text = row_text(r, o->chosen, &n);
    if (text && hh_prompt_length(text, n)) return DATASET_HH;
    return o->implicit_prompt ? DATASET_PAIRS : 0;
}

/* By a row's fields; 0: they say nothing. */
static inline int dataset_detect_row(row_data *r, const row_options *o) {
    int prompt = dpo_json_type(r->json, row_field(r, o->prompt)), answers;
    int chosen = dpo_json_type(r->json, row_field(r, o->chosen));
    int rejected = dpo_json_type(r->json, row_field(r, o->rejected));
    if (row_has(r, "conversations", '[')) return DATASET_SHAREGPT;
    if (row_has(r, "human_ref_A", '"') && row_has(r, "human_ref_B", '"')) return DATASET_SHP;
    if (row_has(r, "instruction", '"') && chosen == '"') return DATASET_PREFERENCE;
    if (row_has(r, "instruction", '"') && row_has(r, o->completion ? o->completion : "output", '"'))
        return DATASET_ALPACA;
    if (chosen == '[' || chosen == '{' || row_has(r, o->messages, '[')) return DATASET_MESSAGES;
    answers = chosen || rejected || row_field(r, "completion") >= 0 || row_field(r, "response") >= 0 ||
              (o->completion && row_field(r, o->completion) >= 0);
    if (prompt && answers) return prompt == '[' ? DATASET_MESSAGES : DATASET_PAIRS;
    if (chosen && rejected) return dataset_detect_dialogues(r, o);
    return row_has(r, o->text, '"') ? DATASET_TEXT : 0;
}

/* "its fields are question, answer": of a row in no known format. */
static inline void dataset_fields(const row_data *r, char *why, size_t cap) {
    int64_t i, n = dpo_json_count(r->json, 0), v;
    size_t used = (size_t)snprintf(why, cap, n ? "its fields are" : "it has no fields");
    for (i = 0, v = dpo_json_first(r->json, 0); i < n && used < cap; i++, v = dpo_json_next(r->json, v + 1)) {
        char name[40] = "?";
        if (dpo_json_string(r->json, v, name, sizeof name) >= (int64_t)sizeof name)
            memcpy(name + sizeof name - 4, "...", 4);
        used += (size_t)snprintf(why + used, cap - used, "%s%s", i ? ", " : " ", name);
    }
}

/* By the first hundred rows; -1 after an error. */
static inline int dataset_detect(const dataset *d, row_data *r, const char *path, const char *text, size_t size) {
    row_source s = row_source_start(text, size);
    const char *json;
    char why[160] = "";
    size_t bytes;
    int found = 0, rows = 0, bad = 0;
    int64_t line = 0;
    while (!found && rows++ < 100 && row_next(&s, &json, &bytes)) {
        if (!row_start(r, json, bytes)) found = dataset_detect_row(r, &d->o.row);
        if (found || why[0]) continue;
        line = s.line;
        if (r->why[0]) snprintf(why, sizeof why, "%s", r->why);
        else dataset_fields(r, why, sizeof why);
        bad = r->why[0] != 0;
    }
    if (found) return found;
    if (!line) return -cli_die("%s holds no rows", path);
    cli_die(bad ? "%s, %s %lld: %s; expected a JSON object on each line, or one array of objects"
                : "%s: no row has the fields of a known format (%s %lld: %s); --format says what it is, --prompt-field "
                  "and others name fields, --implicit-prompt is for chosen and rejected alone",
            path, s.array ? "row" : "line", (long long)line, why);
    return -1;
}

/* Does the first row hold text as JSON? If not, a file of the format text is taken as it is. */
static inline int dataset_text_rows(const dataset *d, row_data *r, const char *text, size_t size) {
    row_source s = row_source_start(text, size);
    const char *json;
    size_t bytes;
    return row_next(&s, &json, &bytes) && !row_start(r, json, bytes) && row_field(r, d->o.row.text) >= 0;
}

/* ---- sets ------------------------------------------------------------------------------------------------------- */

static inline int dataset_chat(const dataset *d, int format) {
    if (d->o.chat) return d->o.chat - 1;
    switch (format) {
    case DATASET_HH:
    case DATASET_SHP: return CHAT_HH;
    case DATASET_ALPACA:
    case DATASET_PREFERENCE: return CHAT_ALPACA;
    case DATASET_SHAREGPT:
    case DATASET_MESSAGES: return d->model_chat >= 0 ? d->model_chat : CHAT_HH;
    default: return CHAT_NONE;
    }
}

/* The rules that this format and chat format have. */
static inline dpo_data_options dataset_rules_of(const dataset *d, int format, int chat) {
    dpo_data_options o = d->o.data;
    const char *end = chat_end_of_turn(chat);
    int most = dpo_data_defaults().max_prompt_length;
    int reference = format == DATASET_HH || format == DATASET_SHP;
    o.end_of_turn = end ? dpo_tokenizer_id(d->t, end, strlen(end)) : -1;
    if (chat_writes_bos(chat) && o.bos == DPO_BOS_HABIT) o.bos = DPO_BOS_NEVER;
    o.group_prompts = d->sft && (d->o.group == DATASET_GROUP_YES || (d->o.group == DATASET_GROUP_AUTO && reference));
    o.prompt_keep_start = format == DATASET_SHP;
    if (!o.max_prompt_length) o.max_prompt_length = most < o.max_length / 2 ? most : o.max_length / 2;
    return o;
}

/* Which side a hash is on: FNV's bits are mixed, since its high ones alone are poor. */
static inline int dataset_is_held(const dataset *d, uint64_t h) {
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
    h ^= h >> 31;
    return (double)(h >> 11) / 9007199254740992.0 < d->o.eval_fraction;
}

static inline uint64_t dataset_fnv(uint64_t h, const char *text, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    return h;
}

/* The set a row goes to. The prompt alone decides, so that all rows of a prompt stand on one side, whatever the file,
 * the order and the seed. */
static inline dpo_data *dataset_side(const dataset *d, const row_data *r) {
    uint64_t h = 1469598103934665603u;
    int64_t i;
    if (!d->held_out) return d->train;
    if (r->text) h = dataset_fnv(h, r->text, r->text_bytes);
    for (i = 0; !r->text && i < r->prompt.n; i++) h = dataset_fnv(h, r->prompt.part[i].text, r->prompt.part[i].bytes);
    return dataset_is_held(d, h) ? d->eval : d->train;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct dataset_reader {
    dataset *d;
    dataset_file *f;
    row_data r;
    row_options o;
    shp_seen seen;
    int second; /* the evaluation's own file; else training and what is held out of it */
} dataset_reader;

static inline int dataset_row(dataset_reader *k, const char *json, size_t bytes) {
    row_data *r = &k->r;
    if (row_start(r, json, bytes)) return 1;
    switch (k->f->format) {
    case DATASET_HH: return hh_row(r, &k->o);
    case DATASET_SHP: return shp_row(r, &k->o, &k->seen);
    case DATASET_ALPACA:
    case DATASET_PREFERENCE: return alpaca_row(r, &k->o);
    case DATASET_SHAREGPT: return sharegpt_row(r, &k->o);
    case DATASET_TEXT: return text_row(r, &k->o);
    default: return trl_row(r, &k->o);
    }
}

static inline int dataset_same_parts(const chat_parts *a, const chat_parts *b) { /* both came by the same rule */
    int64_t i;
    if (a->n != b->n) return 0;
    for (i = 0; i < a->n; i++)
        if (a->part[i].bytes != b->part[i].bytes || memcmp(a->part[i].text, b->part[i].text, a->part[i].bytes))
            return 0;
    return 1;
}

/* Adds a row that could be read; what the set itself refuses is counted by its report. */
static inline void dataset_add(dataset_reader *k, int64_t line) {
    row_data *r = &k->r;
    dpo_data *to = k->second ? k->d->eval : dataset_side(k->d, r);
    dpo_data_report a = dpo_data_report_of(to), b;
    const char *why = NULL;
    if (r->text) dpo_data_add_text(to, r->text, r->text_bytes);
    else
        dpo_data_add_parts(to, r->prompt.part, r->prompt.n, r->chosen.part, r->chosen.n, r->rejected.part,
                           r->pair ? r->rejected.n : 0);
    b = dpo_data_report_of(to);
    if (b.empty_response > a.empty_response) why = r->text ? "the text is empty" : "a response is empty";
    if (b.too_long > a.too_long) why = "too long: no room is left for a response";
    if (b.identical > a.identical)
        why = dataset_same_parts(&r->chosen, &r->rejected) ? hh_status_text(HH_IDENTICAL)
                                                           : "both responses are the same once cut";
    if (why) dataset_drop(k->f, why, NULL, line);
}

static inline int dataset_rows(dataset_reader *k, const char *text, size_t size) {
    row_source s = row_source_start(text, size);
    dataset_file *f = k->f;
    const char *json;
    char live[160];
    size_t bytes;
    double began = cli_clock();
    int64_t most = k->second ? 0 : k->d->o.max_rows;
    f->array = s.array;
    while (!dpo_status(k->d->c) && !cli_stopped() && row_next(&s, &json, &bytes)) {
        if (most && f->rows == most) break;
        f->rows++;
        if (!dataset_row(k, json, bytes)) dataset_add(k, s.line);
        else if (k->r.no_memory)
            return cli_die("%s, %s %lld: no memory for a row of %s bytes; split the file", f->path,
                           s.array ? "row" : "line", (long long)s.line, cli_count(bytes));
        else dataset_drop(f, k->r.why, k->r.also, s.line);
        if (f->rows % 256 || k->d->quiet || cli_clock() - began < 1) continue;
        snprintf(live, sizeof live, "reading %.80s: %s rows, %s of %s", f->path, cli_count((uint64_t)f->rows),
                 cli_bytes(s.at), cli_bytes(size));
        cli_live(live);
    }
    cli_live_clear();
    return dpo_status(k->d->c) ? dataset_fail(k->d) : 0;
}

/* A file of plain text is one text; what is held out is its end. */
static inline int dataset_plain(dataset_reader *k, const char *text, size_t size) {
    dataset *d = k->d;
    size_t cut = !k->second && d->held_out ? text_cut(text, size, d->o.eval_fraction) : size;
    k->f->rows = 1;
    if (cut && dpo_data_add_text(k->second ? d->eval : d->train, text, cut)) return dataset_fail(d);
    if (cut < size && dpo_data_add_text(d->eval, text + cut, size - cut)) return dataset_fail(d);
    return 0;
}

/* What the text is, the sets for it, its rows. */
static inline int dataset_text(dataset_reader *k, const char *text, size_t size) {
    dataset *d = k->d;
    dataset_file *f = k->f;
    dpo_data_options o;
    const char *end;
    size_t i = 0;
    int plain;
    while (i < size && row_blank(text[i])) i++;
    if (i == size) return cli_die("%s holds no rows", f->path);
    plain = text[i] != '{' && !row_is_array(text, size);
    if (f->format == DATASET_AUTO) f->format = plain ? DATASET_TEXT : dataset_detect(d, &k->r, f->path, text, size);
    if (f->format < 0) return 1;
    if (f->format == DATASET_TEXT && !d->sft)
        return cli_die("%s is plain text, and dpo needs pairs: JSON lines of prompt, chosen and rejected", f->path);
    if (f->format == DATASET_ALPACA && !d->sft)
        return cli_die("%s has one answer a row, and dpo needs pairs: rows with chosen and rejected", f->path);
    if (f->format == DATASET_TEXT && !plain) plain = !dataset_text_rows(d, &k->r, text, size);
    f->chat = dataset_chat(d, f->format);
    k->o.chat = f->chat;
    o = dataset_rules_of(d, f->format, f->chat);
    tokens_rules(f->rules, sizeof f->rules, &o);
    if (!k->second) d->train = dpo_data_create(d->c, d->t, &o);
    if (k->second || d->held_out) d->eval = dpo_data_create(d->c, d->t, &o);
    if (dpo_status(d->c)) return dataset_fail(d);
    end = chat_end_of_turn(f->chat);
    if (end && !d->quiet && dpo_tokenizer_id(d->t, end, strlen(end)) < 0)
        cli_note("the tokenizer has no id for %s, which ends a turn in the chat format %s: it is spelled", end,
                 chat_name(f->chat));
    return f->format == DATASET_TEXT && plain ? dataset_plain(k, text, size) : dataset_rows(k, text, size);
}

/* Whether an example is held out goes by the prompt's pieces: the same rows as of the text, unless prompts were cut. */
static inline uint64_t dataset_tokens_hash(const dataset *d, const tokens_file *f, int64_t i) {
    const struct tokens_example *e = &f->examples[i];
    const int32_t *ids = f->ids + e->first;
    uint64_t h = 1469598103934665603u;
    int64_t k;
    for (k = 0; k < (e->prompt ? e->prompt : e->chosen); k++) {
        size_t bytes = 0;
        const char *piece = dpo_tokenizer_piece(d->t, ids[k], &bytes, NULL);
        h = dataset_fnv(h, piece, piece ? bytes : 0);
    }
    return h;
}
/* A tokenized file keeps its rules. */
static inline int dataset_tokens(dataset_reader *k) {
    dataset *d = k->d;
    dataset_file *f = k->f;
    tokens_file t;
    const char *chat, *hash, *bytes, *rules;
    int64_t i, n;
    int held = !k->second && d->held_out;
    f->format = DATASET_TOKENS;
    if (tokens_open(&t, d->c, f->path, d->t)) return 1;
    chat = tokens_metadata(&t, "chat_format");
    hash = tokens_metadata(&t, "source_hash");
    bytes = tokens_metadata(&t, "source_bytes");
    rules = tokens_metadata(&t, "rules");
    f->chat = chat ? chat_by_name(chat, strlen(chat)) : CHAT_NONE;
    if (f->chat < 0) f->chat = CHAT_NONE;
    f->hash = hash ? strtoull(hash, NULL, 16) : 0;
    f->bytes = bytes ? strtoull(bytes, NULL, 10) : 0;
    snprintf(f->rules, sizeof f->rules, "%s", rules ? rules : "");
    f->rows = t.n;
    f->report = t.report;
    n = !k->second && d->o.max_rows && d->o.max_rows < t.n ? d->o.max_rows : t.n;
    if (!k->second) d->train = tokens_set(&t, d->c, d->t);
    if (k->second || held) d->eval = tokens_set(&t, d->c, d->t);
    for (i = 0; i < n && !dpo_status(d->c); i++)
        tokens_add(&t, i,
                   k->second || (held && dataset_is_held(d, dataset_tokens_hash(d, &t, i))) ? d->eval : d->train);
    if (!held && n == t.n) f->whole = k->second ? d->eval : d->train;
    tokens_close(&t);
    return dpo_status(d->c) ? dataset_fail(d) : 0;
}

static inline int dataset_file_read(dataset_reader *k) {
    static const char bom[] = "\xEF\xBB\xBF";
    dataset_file *f = k->f;
    uint64_t limit = (uint64_t)1 << 34; /* a .gz that unfolds into more is no data set for a CPU */
    char *text, err[512];
    const char *encoding;
    size_t size, skip;
    int failed;
    if (f->format == DATASET_TOKENS || (f->format == DATASET_AUTO && dataset_is_tokens(f->path)))
        return dataset_tokens(k);
    if (gzip_read_file(f->path, limit < (size_t)-1 ? (size_t)limit : (size_t)-1, &text, &size, err, sizeof err))
        return cli_die("%s", err);
    f->bytes = size;
    f->hash = dataset_fnv(1469598103934665603u, text, size);
    encoding = dataset_encoding(text, size);
    skip = size >= 3 && !memcmp(text, bom, 3) ? 3 : 0;
    if (encoding)
        failed = cli_die("%s is %s, expected UTF-8; convert it: iconv -f %s -t UTF-8 %s > NEW", f->path, encoding,
                         encoding, f->path);
    else failed = dataset_text(k, text + skip, size - skip);
    free(text);
    return failed;
}

/* Reads a file into d->train and, with o.eval_fraction above 0, what is held out into d->eval; or, second, into
 * d->eval. A wish to stop leaves what was read so far. */
static inline int dataset_read(dataset *d, const char *path, int second) {
    dataset_reader k;
    dataset_file *f = &d->file[second];
    dpo_data **set = second ? &d->eval : &d->train;
    int failed;
    memset(&k, 0, sizeof k);
    memset(f, 0, sizeof *f);
    k.d = d;
    k.f = f;
    k.second = second;
    k.o = d->o.row;
    k.o.sft = d->sft;
    f->path = path;
    f->format = d->o.format;
    if (d->o.data.truncation == DPO_TRUNCATE_REF && d->o.data.max_prompt_length >= d->o.data.max_length)
        return cli_die("--max-prompt-length %d leaves no room for an answer; expected less than --max-length, %d",
                       d->o.data.max_prompt_length, d->o.data.max_length);
    if (!second) d->held_out = d->o.eval_fraction > 0;
    k.r.json = dpo_json_create(d->c);
    failed = k.r.json ? dataset_file_read(&k) : dataset_fail(d);
    row_free(&k.r);
    shp_free(&k.seen);
    if (failed || cli_stopped()) return failed;
    if (!second && d->held_out && !dpo_data_count(d->train) && dpo_data_count(d->eval)) { /* one prompt in all */
        dpo_data_free(d->train);
        d->train = d->eval;
        d->eval = NULL;
    }
    if (!dpo_data_count(*set) && f->reasons)
        return cli_die("%s: none of %s rows can be used; the first (%s %s): %s", path, cli_count((uint64_t)f->rows),
                       f->array ? "row" : "line", cli_count((uint64_t)f->reason[0].first), f->reason[0].why);
    if (!dpo_data_count(*set)) return cli_die("%s holds no rows", path);
    if (!second && d->eval && !dpo_data_count(d->eval)) {
        dpo_data_free(d->eval);
        d->eval = NULL;
    }
    return 0;
}

/* ---- the report ------------------------------------------------------------------------------------------------- */

typedef struct dataset_length {
    int64_t total, most;
} dataset_length;

/* Ids by part, as kept. */
typedef struct dataset_lengths {
    int64_t examples;
    dataset_length prompt, chosen, rejected, whole; /* whole: of prompt and longer answer */
} dataset_lengths;

static inline void dataset_length_add(dataset_length *l, int64_t n) {
    l->total += n;
    if (n > l->most) l->most = n;
}

static inline dataset_lengths dataset_measure(const dpo_data *d) {
    dataset_lengths l;
    int64_t i, n = dpo_data_count(d);
    memset(&l, 0, sizeof l);
    l.examples = n;
    for (i = 0; i < n; i++) {
        int64_t p, c, r;
        dpo_data_item(d, i, NULL, &p, NULL, &c, NULL, &r);
        dataset_length_add(&l.prompt, p);
        dataset_length_add(&l.chosen, c);
        dataset_length_add(&l.rejected, r);
        dataset_length_add(&l.whole, p + (c > r ? c : r));
    }
    return l;
}

static inline double dataset_share(int64_t k, int64_t n) { return n > 0 ? (double)k / (double)n : 0; }

static inline void dataset_print_length(const char *what, dataset_length l, int64_t n) {
    printf(", %s %s (mean %.1f, longest %s)", what, cli_count((uint64_t)l.total), dataset_share(l.total, n),
           cli_count((uint64_t)l.most));
}

static inline void dataset_print_cut(const dpo_data_report *r, int64_t n) {
    if (r->truncated_prompts || r->truncated_responses)
        printf("    cut to fit: %s prompts (%.1f %%), answers in %s rows (%.1f %%), %s rows lost an end of text\n",
               cli_count((uint64_t)r->truncated_prompts), 100 * dataset_share(r->truncated_prompts, n),
               cli_count((uint64_t)r->truncated_responses), 100 * dataset_share(r->truncated_responses, n),
               cli_count((uint64_t)r->lost_eos));
    if (r->grouped)
        printf("    %s rows took the place of an earlier row with their prompt\n", cli_count((uint64_t)r->grouped));
    if (r->invalid_utf8)
        printf("    %s rows with bytes that are no UTF-8, kept\n", cli_count((uint64_t)r->invalid_utf8));
    if (r->boundary_merges)
        printf("    in %s rows a token reaches over the border of prompt and response\n",
               cli_count((uint64_t)r->boundary_merges));
}

/* Of a set: its own report, or that of the file which it is. */
static inline dpo_data_report dataset_report(const dataset *d, const dpo_data *set) {
    int i;
    for (i = 0; i < 2; i++)
        if (set && d->file[i].whole == set) return d->file[i].report;
    return dpo_data_report_of(set);
}

static inline void dataset_print_set(const char *name, const dpo_data *d, dpo_data_report r) {
    dataset_lengths l = dataset_measure(d);
    double low, high;
    printf("  %s: %s examples; tokens: all %s", name, cli_count((uint64_t)l.examples),
           cli_count((uint64_t)(l.prompt.total + l.chosen.total + l.rejected.total)));
    if (l.prompt.total) dataset_print_length("prompts", l.prompt, l.examples);
    dataset_print_length(l.rejected.total ? "chosen" : l.prompt.total ? "answers" : "text", l.chosen, l.examples);
    if (l.rejected.total) dataset_print_length("rejected", l.rejected, l.examples);
    printf("\n");
    dataset_print_cut(&r, r.kept);
    if (!r.pairs) return;
    dpo_wilson((double)r.chosen_longer + 0.5 * (double)r.same_length, (double)r.pairs, &low, &high);
    printf("    \"the longer answer wins\" is right in %.3f of %s pairs (95 %%: %.3f to %.3f; %s of one length count "
           "half)\n",
           dataset_share(2 * r.chosen_longer + r.same_length, 2 * r.pairs), cli_count((uint64_t)r.pairs), low, high,
           cli_count((uint64_t)r.same_length));
}

/* A number for example i, or for its prompt alone (0 if it has none). */
static inline uint64_t dataset_key(const dpo_data *d, int64_t i, int prompts_only) {
    const int32_t *p, *c, *r;
    int64_t n[3], parts = prompts_only ? 1 : 3, k;
    uint64_t h = 1469598103934665603u;
    dpo_data_item(d, i, &p, &n[0], &c, &n[1], &r, &n[2]);
    if (prompts_only && !n[0]) return 0;
    for (k = 0; k < parts; k++) {
        h = dataset_fnv(h, (const char *)&n[k], sizeof n[k]); /* the same ids cut elsewhere are another example */
        h = dataset_fnv(h, (const char *)(k == 0 ? p : k == 1 ? c : r), (size_t)n[k] * sizeof *p);
    }
    return h | 1;
}
static inline int dataset_key_order(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
/* dataset_repeats - examples of d that occur earlier in d (other NULL), or anywhere in `other`. prompts_only: compares
 * prompts alone and leaves examples without one out. -1 without memory. */
static inline int64_t dataset_repeats(const dpo_data *d, const dpo_data *other, int prompts_only) {
    const dpo_data *from = other ? other : d;
    int64_t i, n = 0, found = 0, count = dpo_data_count(from);
    uint64_t *key = (uint64_t *)malloc((size_t)count * sizeof *key + 1), one;
    if (!key) return -1;
    for (i = 0; i < count; i++)
        if ((one = dataset_key(from, i, prompts_only)) != 0) key[n++] = one;
    qsort(key, (size_t)n, sizeof *key, dataset_key_order);
    for (i = 1; !other && i < n; i++) found += key[i] == key[i - 1];
    for (i = 0; other && i < dpo_data_count(d); i++)
        if ((one = dataset_key(d, i, prompts_only)) != 0)
            found += bsearch(&one, key, (size_t)n, sizeof *key, dataset_key_order) != NULL;
    free(key);
    return found;
}

/* Rows and prompts that occur twice: within d, or in `other`. */
static inline void dataset_print_repeats(const char *where, const dpo_data *d, const dpo_data *other) {
    int64_t rows = dataset_repeats(d, other, 0), prompts = dataset_repeats(d, other, 1);
    if (rows > 0 || prompts > 0)
        printf("    %s: %s rows, %s prompts\n", where, cli_count((uint64_t)(rows > 0 ? rows : 0)),
               cli_count((uint64_t)(prompts > 0 ? prompts : 0)));
}

static inline const char *dataset_place(const dataset_file *f) { return f->array ? "row" : "line"; }

static inline void dataset_print_file(const dataset_file *f) {
    int i;
    printf("%s: %s, %s rows, %s kept%s%s\n", f->path, dataset_format_words(f->format), cli_count((uint64_t)f->rows),
           cli_count((uint64_t)(f->rows - f->bad)), f->chat ? ", chat format " : "", f->chat ? chat_name(f->chat) : "");
    if (f->format == DATASET_TOKENS && f->rules[0]) printf("    tokenized before, by rules of its own: %s\n", f->rules);
    for (i = 0; i < f->reasons; i++) {
        printf("    %7s  %s (first in %s %s", cli_count((uint64_t)f->reason[i].count), f->reason[i].why,
               dataset_place(f), cli_count((uint64_t)f->reason[i].first));
        if (f->reason[i].shared)
            printf("; %s of them counted for another reason, too", cli_count((uint64_t)f->reason[i].shared));
        printf(")\n");
    }
}

/* The data report, for people. */
static inline void dataset_print(const dataset *d) {
    dataset_print_file(&d->file[0]);
    if (d->eval && !d->held_out) dataset_print_file(&d->file[1]);
    dataset_print_set("training", d->train, dataset_report(d, d->train));
    dataset_print_repeats("again in training", d->train, NULL);
    if (d->eval) {
        dataset_print_set(d->held_out ? "held out for evaluation" : "evaluation", d->eval, dataset_report(d, d->eval));
        dataset_print_repeats("again in evaluation", d->eval, NULL);
        dataset_print_repeats("of evaluation also in training", d->eval, d->train);
    } else if (d->held_out) printf("  too few rows to hold any out: no evaluation\n");
    fflush(stdout);
}

/* ---- the report as JSON ----------------------------------------------------------------------------------------- */

static inline void dataset_json_count(FILE *o, const char *name, int64_t v) {
    fprintf(o, ", \"%s\": %lld", name, (long long)v);
}

static inline void dataset_json_length(FILE *o, const char *name, dataset_length l, int64_t n) {
    fprintf(o, ", \"%s\": {\"total\": %lld, \"mean\": ", name, (long long)l.total);
    cli_json_number(o, dataset_share(l.total, n));
    fprintf(o, ", \"longest\": %lld}", (long long)l.most);
}

static inline void dataset_json_set(FILE *o, const char *name, const dpo_data *d, dpo_data_report r,
                                    const dpo_data *other) {
    dataset_lengths l = dataset_measure(d);
    double low = 0, high = 0;
    fprintf(o, ",\n  \"%s\": {\"examples\": %lld", name, (long long)l.examples);
    dataset_json_length(o, "prompt_tokens", l.prompt, l.examples);
    dataset_json_length(o, "chosen_tokens", l.chosen, l.examples);
    dataset_json_length(o, "rejected_tokens", l.rejected, l.examples);
    dataset_json_length(o, "row_tokens", l.whole, l.examples);
    dataset_json_count(o, "grouped", r.grouped);
    dataset_json_count(o, "truncated_prompts", r.truncated_prompts);
    dataset_json_count(o, "truncated_responses", r.truncated_responses);
    dataset_json_count(o, "lost_eos", r.lost_eos);
    dataset_json_count(o, "invalid_utf8", r.invalid_utf8);
    dataset_json_count(o, "boundary_merges", r.boundary_merges);
    dataset_json_count(o, "repeated_rows", dataset_repeats(d, NULL, 0));
    dataset_json_count(o, "repeated_prompts", dataset_repeats(d, NULL, 1));
    if (other) {
        dataset_json_count(o, "rows_in_training", dataset_repeats(d, other, 0));
        dataset_json_count(o, "prompts_in_training", dataset_repeats(d, other, 1));
    }
    if (r.pairs) {
        dpo_wilson((double)r.chosen_longer + 0.5 * (double)r.same_length, (double)r.pairs, &low, &high);
        fprintf(o,
                ", \"longer_wins\": {\"pairs\": %lld, \"chosen_longer\": %lld, \"same_length\": %lld, \"accuracy\": ",
                (long long)r.pairs, (long long)r.chosen_longer, (long long)r.same_length);
        cli_json_number(o, dataset_share(2 * r.chosen_longer + r.same_length, 2 * r.pairs));
        fputs(", \"low\": ", o);
        cli_json_number(o, low);
        fputs(", \"high\": ", o);
        cli_json_number(o, high);
        fputc('}', o);
    }
    fputc('}', o);
}

static inline void dataset_json_file(FILE *o, const dataset_file *f) {
    int i;
    fputs("{\"file\": ", o);
    cli_json_string(o, f->path, strlen(f->path));
    fprintf(o, ", \"bytes\": %llu, \"hash\": \"%016llx\", \"format\": \"%s\", \"chat_format\": \"%s\"",
            (unsigned long long)f->bytes, (unsigned long long)f->hash, dataset_format_name(f->format),
            chat_name(f->chat));
    dataset_json_count(o, "rows", f->rows);
    dataset_json_count(o, "kept", f->rows - f->bad);
    fputs(", \"dropped\": [", o);
    for (i = 0; i < f->reasons; i++) {
        fputs(i ? ", {\"reason\": " : "{\"reason\": ", o);
        cli_json_string(o, f->reason[i].why, strlen(f->reason[i].why));
        dataset_json_count(o, "rows", f->reason[i].count);
        if (f->reason[i].shared) dataset_json_count(o, "counted_elsewhere_too", f->reason[i].shared);
        dataset_json_count(o, f->array ? "first_row" : "first_line", f->reason[i].first);
        fputc('}', o);
    }
    fputs("]}", o);
}

/* The same report for programs, one object. */
static inline void dataset_json(FILE *o, const dataset *d) {
    fputs("{\"train_file\": ", o);
    dataset_json_file(o, &d->file[0]);
    if (d->eval && !d->held_out) {
        fputs(",\n  \"eval_file\": ", o);
        dataset_json_file(o, &d->file[1]);
    }
    fputs(",\n  \"tokenizer\": ", o);
    cli_json_string(o, dpo_tokenizer_info(d->t), strlen(dpo_tokenizer_info(d->t)));
    fprintf(o, ", \"tokenizer_hash\": \"%016llx\"", (unsigned long long)dpo_tokenizer_hash(d->t));
    dataset_json_set(o, "train", d->train, dataset_report(d, d->train), NULL);
    if (d->eval) dataset_json_set(o, d->held_out ? "held_out" : "eval", d->eval, dataset_report(d, d->eval), d->train);
    fputs("}\n", o);
}

#endif /* TOOLS_DATASET_H */
