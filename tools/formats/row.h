/* row.h: what all readers of data formats stand on: a file's text cut into rows, a row's fields, its conversation.
 *
 *     row_source s = row_source_start(text, size);
 *     while (row_next(&s, &json, &bytes)) ... s.line is where it begins ...
 *
 * A file of rows is JSON lines, or one JSON array of objects; which one, its first byte says. An array is cut into its
 * elements by brackets and strings alone, so that a bad row costs itself and not the file, and no more than one row is
 * parsed at a time.
 *
 *     row_start(&r, json, bytes) parses; a reader (trl_row, hh_row, ...) then fills r.prompt, r.chosen, r.rejected or
 *     r.text and gives 0, or gives 1 with r.why. Parts point into the row's memory, which the next row_start takes. */
#ifndef TOOLS_ROW_H
#define TOOLS_ROW_H

#include "chat.h"
#include <stdarg.h>

enum { ROW_LIMIT = 64 << 20 }; /* bytes of a row's JSON */

/* What readers need to know; strings are field names. */
typedef struct row_options {
    int sft;                                             /* the answer alone is wanted, there need be no rejected one */
    int chat;                                            /* CHAT_* */
    const char *prompt, *chosen, *rejected, *completion; /* completion NULL: "completion", "response" or "output" */
    const char *messages, *text;
    int implicit_prompt;   /* without a prompt: what chosen and rejected have in common, TRL's rule */
    int hh_keep_diverging; /* the reference keeps rows whose answers do not share the prompt */
    double score_ratio;    /* SHP: the better answer has at least so many times the other's score */
    int max_pairs;         /* SHP: of one prompt; 0: all */
} row_options;

/* ---- a file's rows ---------------------------------------------------------------------------------------------- */

typedef struct row_source {
    const char *text;
    size_t size, at;
    size_t counted; /* lines are counted up to here */
    int64_t lines;
    int64_t line; /* of the last row given, from 1; of an array, which element */
    int array;
} row_source;

static inline int row_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Is the text an array of objects? Plain text may begin with a bracket, too. */
static inline int row_is_array(const char *text, size_t size) {
    size_t i = 0;
    while (i < size && row_blank(text[i])) i++;
    if (i == size || text[i++] != '[') return 0;
    while (i < size && row_blank(text[i])) i++;
    return i < size && (text[i] == '{' || text[i] == ']');
}

static inline row_source row_source_start(const char *text, size_t size) {
    row_source s;
    memset(&s, 0, sizeof s);
    s.text = text;
    s.size = size;
    s.array = row_is_array(text, size);
    s.lines = 1;
    if (s.array) s.at = (size_t)((const char *)memchr(text, '[', size) - text) + 1;
    return s;
}

static inline void row_count_lines(row_source *s, size_t to) {
    while (s->counted < to) {
        const char *p = (const char *)memchr(s->text + s->counted, '\n', to - s->counted);
        if (!p) break;
        s->lines++;
        s->counted = (size_t)(p - s->text) + 1;
    }
    s->counted = to;
}

/* The end of the array's element that begins at `at`: the first comma or bracket outside of strings and brackets. */
static inline size_t row_element_end(const row_source *s, size_t at) {
    int64_t depth = 0;
    for (; at < s->size; at++) {
        char c = s->text[at];
        if (c == '"') {
            for (at++; at < s->size && s->text[at] != '"'; at++)
                if (s->text[at] == '\\') at++;
        } else if (c == '{' || c == '[') depth++;
        else if (c == '}' || c == ']') {
            if (depth-- == 0) break;
        } else if (c == ',' && depth == 0) break;
    }
    return at < s->size ? at : s->size;
}

/* The next row; 0 at the end. Empty lines are passed over. */
static inline int row_next(row_source *s, const char **row, size_t *bytes) {
    while (s->at < s->size) {
        size_t from = s->at, to;
        while (from < s->size && row_blank(s->text[from])) from++;
        if (from == s->size) break;
        if (s->array) {
            if (s->text[from] == ']') break; /* what follows the array is no row */
            to = row_element_end(s, from);
            while (to < s->size && s->text[to] == '}') to = row_element_end(s, to + 1); /* one too many: a bad row */
            s->at = to < s->size && s->text[to] == ',' ? to + 1 : to;
        } else {
            const char *stop = (const char *)memchr(s->text + from, '\n', s->size - from);
            to = stop ? (size_t)(stop - s->text) : s->size;
            s->at = stop ? to + 1 : to;
        }
        if (!s->array) row_count_lines(s, from);
        s->line = s->array ? s->line + 1 : s->lines;
        *row = s->text + from;
        *bytes = to - from;
        while (*bytes && row_blank((*row)[*bytes - 1])) --*bytes;
        return 1;
    }
    return 0;
}

/* ---- one row ---------------------------------------------------------------------------------------------------- */

typedef struct row_data {
    dpo_json *json;
    char *memory; /* strings of the row, unescaped; they are never longer than the row */
    size_t used, room;
    chat_message *message;
    int64_t messages, message_cap;
    const char *system; /* stands before the conversation */
    size_t system_bytes;
    chat_parts prompt, chosen, rejected; /* what a reader makes of it; no rejected parts and !pair: SFT only */
    int pair;
    const char *text; /* plain text instead */
    size_t text_bytes;
    int no_memory;
    char why[160];    /* the row cannot be used */
    const char *also; /* and a second reason why, or NULL */
} row_data;

static inline void row_free(row_data *r) {
    dpo_json_free(r->json);
    free(r->memory);
    free(r->message);
    chat_parts_free(&r->prompt);
    chat_parts_free(&r->chosen);
    chat_parts_free(&r->rejected);
}

static inline int row_bad(row_data *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(r->why, sizeof r->why, format, args);
    va_end(args);
    return 1;
}

static inline int row_memory(row_data *r) {
    r->no_memory = 1;
    return row_bad(r, "out of memory");
}

/* Parses; 1 if it is no JSON object. r->json must have been made by dpo_json_create. */
static inline int row_start(row_data *r, const char *text, size_t bytes) {
    const char *why = "no JSON";
    size_t want = 2 * bytes + 64; /* once for every string, once more for two that are joined */
    dpo_result code;
    r->used = 0;
    r->also = NULL;
    r->messages = 0;
    r->prompt.n = r->chosen.n = r->rejected.n = 0;
    r->pair = 0;
    r->text = r->system = NULL;
    r->system_bytes = 0;
    r->why[0] = 0;
    if (bytes > ROW_LIMIT) return row_bad(r, "longer than 64 MiB");
    code = dpo_json_parse(r->json, text, bytes, &why, NULL);
    if (code == DPO_E_MEMORY) return row_memory(r);
    if (code) return row_bad(r, "bad JSON: %s", why);
    if (dpo_json_type(r->json, 0) != '{') return row_bad(r, "bad JSON: not an object");
    if (want > r->room) {
        char *p;
        if (want < 65536) want = 65536;
        p = (char *)malloc(want);
        if (!p) return row_memory(r);
        free(r->memory);
        r->memory = p;
        r->room = want;
    }
    return 0;
}

/* A string in the row's memory, with a zero behind it; NULL and r->why if it is not to be had. */
static inline const char *row_string(row_data *r, int64_t node, const char *name, size_t *bytes) {
    int64_t n = dpo_json_string(r->json, node, NULL, 0);
    char *s = r->memory + r->used;
    *bytes = 0;
    if (n < 0) {
        row_bad(r, node < 0 || dpo_json_type(r->json, node) == 'n' ? "%.60s is missing" : "%.60s is not a string",
                name);
        return NULL;
    }
    if ((size_t)n + 1 > r->room - r->used) {
        row_memory(r);
        return NULL;
    }
    dpo_json_string(r->json, node, s, (size_t)n + 1);
    r->used += (size_t)n + 1;
    *bytes = (size_t)n;
    return s;
}

static inline int64_t row_field(const row_data *r, const char *name) { return dpo_json_find(r->json, 0, name); }

static inline int row_has(const row_data *r, const char *name, int type) {
    return dpo_json_type(r->json, row_field(r, name)) == type;
}

static inline const char *row_text(row_data *r, const char *name, size_t *bytes) {
    return row_string(r, row_field(r, name), name, bytes);
}

static inline int row_parts(row_data *r, chat_parts *p, const char *text, size_t bytes) {
    return chat_add(p, text, bytes, 0) ? row_memory(r) : 0;
}

/* ---- conversations ---------------------------------------------------------------------------------------------- */

static inline const char *row_role(const char *name, size_t n) {
    static const char *const names[] = {"system", "user", "human", "assistant", "gpt", "chatgpt", "model"};
    static const char *const roles[] = {"system", "user", "user", "assistant", "assistant", "assistant", "assistant"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && !memcmp(names[i], name, n)) return roles[i];
    return NULL;
}

static inline int row_message_add(row_data *r, const char *role, const char *text, size_t bytes) {
    if (r->messages == r->message_cap) {
        int64_t cap = r->message_cap ? 2 * r->message_cap : 32;
        chat_message *m = (chat_message *)realloc(r->message, (size_t)cap * sizeof *m);
        if (!m) return row_memory(r);
        r->message = m;
        r->message_cap = cap;
    }
    r->message[r->messages].role = role;
    r->message[r->messages].text = text;
    r->message[r->messages++].bytes = bytes;
    return 0;
}

/* One {"role", "content"} or {"from", "value"} more in r->message. */
static inline int row_message(row_data *r, int64_t node, const char *field) {
    int64_t role = dpo_json_find(r->json, node, "role"), content = dpo_json_find(r->json, node, "content");
    const char *name, *text, *known;
    size_t n, bytes;
    if (dpo_json_type(r->json, node) != '{') return row_bad(r, "%.60s: a message is not an object", field);
    if (role < 0) {
        role = dpo_json_find(r->json, node, "from");
        content = dpo_json_find(r->json, node, "value");
    }
    name = row_string(r, role, "a message's role", &n);
    text = name ? row_string(r, content, "a message's content", &bytes) : NULL;
    if (!text) return 1;
    known = row_role(name, n);
    if (!known) return row_bad(r, "%.60s: a message has a role other than system, user and assistant", field);
    return row_message_add(r, known, text, bytes);
}

/* The list's messages, at the end of r->message. */
static inline int row_conversation(row_data *r, int64_t list, const char *field) {
    int64_t i, n = dpo_json_count(r->json, list), v;
    if (dpo_json_type(r->json, list) != '[') return row_bad(r, "%.60s is not a list of messages", field);
    for (i = 0, v = dpo_json_first(r->json, list); i < n; i++, v = dpo_json_next(r->json, v))
        if (row_message(r, v, field)) return 1;
    return 0;
}

/* r->message[first .. first + n) up to a user's turn as the prompt, in the chat format. */
static inline int row_prompt(row_data *r, int chat, int64_t first, int64_t n) {
    if (n < 1) return row_bad(r, "no turn before the answer");
    return chat_prompt(&r->prompt, chat, r->message + first, n) ? row_memory(r) : 0;
}

static inline int row_answer(row_data *r, int chat, chat_parts *to, const char *text, size_t bytes) {
    size_t i = 0;
    while (i < bytes && row_blank(text[i])) i++;
    if (i == bytes) return row_bad(r, "a response is empty");
    return chat_response(to, chat, text, bytes) ? row_memory(r) : 0;
}

static inline int row_is_assistant(const row_data *r, int64_t i) { return chat_is_role(r->message + i, "assistant"); }

/* Of r->message[first .. first + n): the last assistant turn is the response, what is before it the prompt. */
static inline int row_dialogue(row_data *r, int chat, int64_t first, int64_t n) {
    int64_t last = n - 1;
    while (last >= 0 && !row_is_assistant(r, first + last)) last--;
    if (last < 0) return row_bad(r, "no assistant's turn");
    return row_prompt(r, chat, first, last) ||
           row_answer(r, chat, &r->chosen, r->message[first + last].text, r->message[first + last].bytes);
}

#endif /* TOOLS_ROW_H */
