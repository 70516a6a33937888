/* chat.h: turns of a conversation to the text that a model was trained on, for the programs in tools/.
 *
 *     chat_message m[] = {{"system", "Be brief.", 9}, {"user", "Hello", 5}};
 *     chat_parts parts = {NULL, 0, 0};
 *     if (chat_prompt(&parts, CHAT_CHATML, m, 2)) return cli_die("out of memory");
 *     n = dpo_encode_parts(tokenizer, parts.part, parts.n, DPO_ENCODE_ADD_BOS, ids, cap);
 *     chat_parts_free(&parts);
 *
 * What the format writes itself is a part with special = 1, so that "<|im_end|>" becomes its id; what people wrote has
 * special = 0, so that the same letters in a question stay letters. Parts point into the messages and into constant
 * strings: both must stay.
 *
 *     hh      "\n\nHuman: {user}\n\nAssistant:" and " {answer}"; a system text stands before the first turn
 *     alpaca  stanford_alpaca's two templates (with and without input), the answer directly after "### Response:";
 *             a system text takes the place of the first paragraph; further turns follow after an empty line
 *     chatml  "<|im_start|>{role}\n{text}<|im_end|>\n"
 *     llama3  "<|begin_of_text|>" once, "<|start_header_id|>{role}<|end_header_id|>\n\n{trimmed text}<|eot_id|>"
 *     zephyr  "<|{role}|>\n{text}</s>\n"
 *     none    the texts as they are, end to end */
#ifndef TOOLS_CHAT_H
#define TOOLS_CHAT_H

#include "../../dpo.h"
#include "gzip.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHAT_NONE, CHAT_HH, CHAT_ALPACA, CHAT_CHATML, CHAT_LLAMA3, CHAT_ZEPHYR, CHAT_FORMATS };
#define CHAT_WORDS "none|hh|alpaca|chatml|llama3|zephyr"

typedef struct chat_message {
    const char *role, *text; /* "system", "user" or "assistant" */
    size_t bytes;
} chat_message;

typedef struct chat_parts { /* zero at the start; n = 0 uses the memory again */
    dpo_text *part;
    int64_t n, cap;
} chat_parts;

static inline void chat_parts_free(chat_parts *p) {
    free(p->part);
    p->part = NULL;
    p->n = p->cap = 0;
}

/* Adds a part; empty ones leave no trace. 0, or 1 without memory. */
static inline int chat_add(chat_parts *p, const char *text, size_t bytes, int special) {
    if (!bytes) return 0;
    if (p->n == p->cap) {
        int64_t cap = p->cap ? 2 * p->cap : 16;
        dpo_text *part = (dpo_text *)realloc(p->part, (size_t)cap * sizeof *part);
        if (!part) return 1;
        p->part = part;
        p->cap = cap;
    }
    p->part[p->n].text = text;
    p->part[p->n].bytes = bytes;
    p->part[p->n++].special = special;
    return 0;
}

static inline int chat_own(chat_parts *p, const char *text) { return chat_add(p, text, strlen(text), 1); }

static inline const char *chat_name(int format) {
    static const char *const name[] = {"none", "hh", "alpaca", "chatml", "llama3", "zephyr"};
    return format >= 0 && format < CHAT_FORMATS ? name[format] : "unknown";
}

/* The format of that name, n bytes long, or -1. */
static inline int chat_by_name(const char *name, size_t n) {
    int i;
    for (i = 0; i < CHAT_FORMATS; i++)
        if (strlen(chat_name(i)) == n && !memcmp(chat_name(i), name, n)) return i;
    return -1;
}

/* What ends a turn, one token where the tokenizer knows it; NULL if it is the end of text alone. */
static inline const char *chat_end_of_turn(int format) {
    switch (format) {
    case CHAT_CHATML: return "<|im_end|>";
    case CHAT_LLAMA3: return "<|eot_id|>";
    case CHAT_ZEPHYR: return "</s>";
    default: return NULL;
    }
}

/* Where an answer is over although no end of text came: the next turn begins, or a tokenizer that does not know the end
 * of turn spells it. */
static inline int64_t chat_stops(int format, const char *const **stops) {
    static const char *const hh[] = {"\n\nHuman:"}, *const alpaca[] = {"\n\n### Instruction:"};
    static const char *const chatml[] = {"<|im_end|>"}, *const llama3[] = {"<|eot_id|>"}, *const zephyr[] = {"</s>"};
    static const char *const *const of[] = {NULL, hh, alpaca, chatml, llama3, zephyr};
    *stops = format > CHAT_NONE && format < CHAT_FORMATS ? of[format] : NULL;
    return *stops != NULL;
}

/* A format that writes the id that begins a text itself: the tokenizer must not add it once more. */
static inline int chat_writes_bos(int format) { return format == CHAT_LLAMA3; }

static inline int chat_is_role(const chat_message *m, const char *role) { return !strcmp(m->role, role); }

/* The text without blanks at either end, as the Llama-3 template has it. */
static inline const char *chat_trim(const char *text, size_t *bytes) {
    size_t from = 0, to = *bytes;
    while (from < to && (text[from] == ' ' || (text[from] >= '\t' && text[from] <= '\r'))) from++;
    while (to > from && (text[to - 1] == ' ' || (text[to - 1] >= '\t' && text[to - 1] <= '\r'))) to--;
    *bytes = to - from;
    return text + from;
}

/* ---- Alpaca ----------------------------------------------------------------------------------------------------- */

#define CHAT_ALPACA_INPUT                                                                                              \
    "Below is an instruction that describes a task, paired with an input that provides further context. "              \
    "Write a response that appropriately completes the request.\n\n"
#define CHAT_ALPACA_NO_INPUT                                                                                           \
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"

/* The prompt of one task; without input (no bytes) the shorter template. */
static inline int chat_alpaca(chat_parts *out, const char *instruction, size_t instruction_bytes, const char *input,
                              size_t input_bytes) {
    int bad = chat_own(out, input_bytes ? CHAT_ALPACA_INPUT : CHAT_ALPACA_NO_INPUT);
    bad |= chat_own(out, "### Instruction:\n") || chat_add(out, instruction, instruction_bytes, 0);
    if (input_bytes) bad |= chat_own(out, "\n\n### Input:\n") || chat_add(out, input, input_bytes, 0);
    return bad || chat_own(out, "\n\n### Response:");
}

static inline int chat_alpaca_turns(chat_parts *out, const chat_message *m, int64_t n) {
    int64_t i;
    int bad = n > 0 && chat_is_role(m, "system") ? 0 : chat_own(out, CHAT_ALPACA_NO_INPUT);
    for (i = 0; i < n && !bad; i++) {
        int user = chat_is_role(m + i, "user");
        if (user) bad |= chat_own(out, "### Instruction:\n");
        bad |= chat_add(out, m[i].text, m[i].bytes, 0);
        bad |= chat_own(out, user ? "\n\n### Response:" : "\n\n");
    }
    return bad;
}

/* ---- turns ------------------------------------------------------------------------------------------------------ */

static inline int chat_turn(chat_parts *out, int format, const chat_message *m) {
    const char *text = m->text;
    size_t bytes = m->bytes;
    switch (format) {
    case CHAT_HH:
        if (chat_is_role(m, "user")) return chat_own(out, "\n\nHuman: ") || chat_add(out, text, bytes, 0);
        if (chat_is_role(m, "assistant")) return chat_own(out, "\n\nAssistant: ") || chat_add(out, text, bytes, 0);
        return chat_add(out, text, bytes, 0);
    case CHAT_CHATML:
        return chat_own(out, "<|im_start|>") || chat_add(out, m->role, strlen(m->role), 0) || chat_own(out, "\n") ||
               chat_add(out, text, bytes, 0) || chat_own(out, "<|im_end|>\n");
    case CHAT_LLAMA3:
        text = chat_trim(text, &bytes);
        return chat_own(out, "<|start_header_id|>") || chat_add(out, m->role, strlen(m->role), 0) ||
               chat_own(out, "<|end_header_id|>\n\n") || chat_add(out, text, bytes, 0) || chat_own(out, "<|eot_id|>");
    case CHAT_ZEPHYR: /* whole words: some tokenizers have an id for each */
        return chat_own(out, chat_is_role(m, "system") ? "<|system|>\n"
                             : chat_is_role(m, "user") ? "<|user|>\n"
                                                       : "<|assistant|>\n") ||
               chat_add(out, text, bytes, 0) || chat_own(out, "</s>\n");
    default: return chat_add(out, text, bytes, 0);
    }
}

/* The messages up to a user's turn, then the opening of the assistant's: adds to `out`. 0, or 1 without memory. */
static inline int chat_prompt(chat_parts *out, int format, const chat_message *m, int64_t n) {
    static const char *const opening[] = {"",
                                          "\n\nAssistant:",
                                          "",
                                          "<|im_start|>assistant\n",
                                          "<|start_header_id|>assistant<|end_header_id|>\n\n",
                                          "<|assistant|>\n"};
    int64_t i;
    if (format == CHAT_ALPACA) return chat_alpaca_turns(out, m, n);
    if (format == CHAT_LLAMA3 && chat_own(out, "<|begin_of_text|>")) return 1;
    for (i = 0; i < n; i++)
        if (chat_turn(out, format, m + i)) return 1;
    return chat_own(out, format >= 0 && format < CHAT_FORMATS ? opening[format] : "");
}

/* The answer with the format's end of turn (the end of text is the data set's business). 0, or 1 without memory. */
static inline int chat_response(chat_parts *out, int format, const char *text, size_t bytes) {
    const char *end = chat_end_of_turn(format);
    if (format == CHAT_HH && chat_own(out, " ")) return 1;
    if (format == CHAT_LLAMA3) text = chat_trim(text, &bytes);
    return chat_add(out, text, bytes, 0) || (end && chat_own(out, end));
}

/* ---- which format a model wants --------------------------------------------------------------------------------- */

/* By what only this format's Jinja template writes; -1 for one that is not known here. */
static inline int chat_by_template(const char *text) {
    if (strstr(text, "<|im_start|>")) return CHAT_CHATML;
    if (strstr(text, "<|start_header_id|>")) return CHAT_LLAMA3;
    if (strstr(text, "<|user|>") && !strstr(text, "<|end|>") && (strstr(text, "eos_token") || strstr(text, "</s>")))
        return CHAT_ZEPHYR;
    if (strstr(text, "### Response:")) return CHAT_ALPACA;
    if (strstr(text, "\n\nHuman:") || strstr(text, "\\n\\nHuman:")) return CHAT_HH;
    return -1;
}

/* The string as zero-terminated memory that the caller frees; NULL if it is none. */
static inline char *chat_json_text(const dpo_json *j, int64_t node) {
    int64_t n = dpo_json_string(j, node, NULL, 0);
    char *s = n < 0 ? NULL : (char *)malloc((size_t)n + 1);
    if (!s) return NULL;
    dpo_json_string(j, node, s, (size_t)n + 1);
    s[n] = 0;
    return s;
}

/* chat_template is a string, or a list of {"name", "template"}: then the one named "default", else the first. */
static inline int64_t chat_template_node(const dpo_json *j) {
    int64_t node = dpo_json_find(j, 0, "chat_template"), i, n = dpo_json_count(j, node), v, found = -1;
    if (dpo_json_type(j, node) != '[') return node;
    for (i = 0, v = dpo_json_first(j, node); i < n; i++, v = dpo_json_next(j, v)) {
        char name[16] = "";
        int64_t length = dpo_json_string(j, dpo_json_find(j, v, "name"), name, sizeof name);
        if (found < 0 || (length == 7 && !memcmp(name, "default", 7))) found = dpo_json_find(j, v, "template");
    }
    return found;
}

/* Reads one of the model's files and gives its format, or -1. `key` NULL: the file itself is the template. */
static inline int chat_format_of_file(dpo_context *c, const char *dir, const char *file, const char *key) {
    char path[4096], *text, *value = NULL;
    size_t size;
    int format = -1, n = snprintf(path, sizeof path, "%s/%s", dir, file);
    dpo_json *j;
    if (n < 0 || (size_t)n >= sizeof path) return -1;
    if (gzip_read_file(path, (size_t)1 << 26, &text, &size, NULL, 0)) return -1;
    j = key ? dpo_json_create(c) : NULL;
    if (!key) format = chat_by_template(text);
    else if (j && dpo_json_parse(j, text, size, NULL, NULL) == DPO_OK) {
        value = chat_json_text(j, strcmp(key, "chat_template") ? dpo_json_find(j, 0, key) : chat_template_node(j));
        if (value) format = strcmp(key, "chat_template") ? chat_by_name(value, strlen(value)) : chat_by_template(value);
    }
    free(value);
    dpo_json_free(j);
    free(text);
    return format;
}

/* The format a model directory asks for: dpo_chat.json, which dpo-train writes, else the template of its tokenizer.
 * -1: it says nothing, or something that is not known here. */
static inline int chat_format_of_model(dpo_context *c, const char *dir) {
    int format = chat_format_of_file(c, dir, "dpo_chat.json", "chat_format");
    if (format < 0) format = chat_format_of_file(c, dir, "chat_template.jinja", NULL);
    if (format < 0) format = chat_format_of_file(c, dir, "tokenizer_config.json", "chat_template");
    return format;
}

#endif /* TOOLS_CHAT_H */
