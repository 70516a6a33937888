/* trl.h: rows as TRL's trainers take them.
 *
 *     {"prompt": "...", "chosen": "...", "rejected": "..."}             strings, taken as they are (no chat format) or
 *                                                                       as one user's turn and its answers (with one)
 *     {"prompt": [turns], "chosen": [turn], "rejected": [turn]}         lists of {"role", "content"}
 *     {"chosen": [turns], "rejected": [turns]}                          whole conversations, with or without "prompt"
 *     {"prompt", "completion"} or {"prompt", "response"}                SFT
 *     {"messages": [turns]}                                             SFT
 *
 * A conversation's last assistant turn is the response, what is before it the prompt, which both conversations must
 * share. Without a prompt, strings are refused, unless an implicit one was asked for: what both texts have in common,
 * less a space at its end (TRL's extract_prompt; where one text begins the other, TRL cuts a character too early, and
 * here the row is dropped as an empty response). */
#ifndef TOOLS_TRL_H
#define TOOLS_TRL_H

#include "row.h"

/* Where two texts part, at a whole character, before the space that may stand there. */
static inline size_t trl_common(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    size_t i = 0;
    while (i < a_bytes && i < b_bytes && a[i] == b[i]) i++;
    while (i > 0 && i < a_bytes && ((unsigned char)a[i] & 0xC0u) == 0x80u) i--;
    return i > 0 && a[i - 1] == ' ' ? i - 1 : i;
}

static inline int trl_implicit(row_data *r, const row_options *o) {
    const char *c, *j;
    size_t n, nc, nj;
    c = row_text(r, o->chosen, &nc);
    j = c ? row_text(r, o->rejected, &nj) : NULL;
    if (!j) return 1;
    n = trl_common(c, nc, j, nj);
    r->pair = !o->sft;
    return row_parts(r, &r->prompt, c, n) || row_answer(r, CHAT_NONE, &r->chosen, c + n, nc - n) ||
           (r->pair && row_answer(r, CHAT_NONE, &r->rejected, j + n, nj - n));
}

/* The prompt as messages, after the system text: a list, or a string as one user's turn; nothing if it is not there. */
static inline int trl_prompt_messages(row_data *r, int64_t prompt, const char *name) {
    const char *text;
    size_t bytes;
    if (r->system_bytes && row_message_add(r, "system", r->system, r->system_bytes)) return 1;
    if (dpo_json_type(r->json, prompt) == '[') return row_conversation(r, prompt, name);
    if (prompt < 0) return 0;
    text = row_string(r, prompt, name, &bytes);
    return !text || row_message_add(r, "user", text, bytes);
}

/* One answer as a conversation of its own, at the end of r->message: `prompt` stands before it unless the answer's list
 * begins with a turn that is not the assistant's, and so is the whole. An object is a list of one. */
static inline int trl_side(row_data *r, int64_t prompt, const char *prompt_name, int64_t answer, const char *name) {
    int64_t first = r->messages, from, i;
    const char *text;
    size_t bytes;
    if (trl_prompt_messages(r, prompt, prompt_name)) return 1;
    from = r->messages;
    if (dpo_json_type(r->json, answer) == '[') {
        if (row_conversation(r, answer, name)) return 1;
    } else if (dpo_json_type(r->json, answer) == '{') {
        if (row_message(r, answer, name)) return 1;
    } else {
        text = row_string(r, answer, name, &bytes);
        if (!text || row_message_add(r, "assistant", text, bytes)) return 1;
    }
    if (r->messages == from) return row_bad(r, "%.60s is an empty list", name);
    if (row_is_assistant(r, from)) return 0;
    for (i = from; i < r->messages; i++) r->message[first + i - from] = r->message[i];
    r->messages -= from - first;
    return 0;
}

static inline int trl_same(const chat_message *a, const chat_message *b) {
    return !strcmp(a->role, b->role) && a->bytes == b->bytes && !memcmp(a->text, b->text, a->bytes);
}

/* Two conversations that differ in their last turn alone. */
static inline int trl_two(row_data *r, const row_options *o, int64_t prompt, const char *prompt_name) {
    int64_t a, b, i;
    if (trl_side(r, prompt, prompt_name, row_field(r, o->chosen), o->chosen)) return 1;
    a = r->messages;
    if (o->sft) return row_dialogue(r, o->chat, 0, a);
    if (trl_side(r, prompt, prompt_name, row_field(r, o->rejected), o->rejected)) return 1;
    b = r->messages - a;
    if (!row_is_assistant(r, a - 1) || !row_is_assistant(r, a + b - 1))
        return row_bad(r, "the last turn of a conversation is not the assistant's");
    if (a != b) return row_bad(r, "the prompts of %.60s and %.60s differ", o->chosen, o->rejected);
    for (i = 0; i < a - 1; i++)
        if (!trl_same(r->message + i, r->message + a + i))
            return row_bad(r, "the prompts of %.60s and %.60s differ", o->chosen, o->rejected);
    r->pair = 1;
    return row_prompt(r, o->chat, 0, a - 1) ||
           row_answer(r, o->chat, &r->chosen, r->message[a - 1].text, r->message[a - 1].bytes) ||
           row_answer(r, o->chat, &r->rejected, r->message[a + b - 1].text, r->message[a + b - 1].bytes);
}

/* The field that holds the answer for SFT. */
static inline const char *trl_completion(const row_data *r, const row_options *o) {
    static const char *const names[] = {"completion", "response"};
    size_t i;
    if (o->completion) return o->completion;
    if (row_field(r, o->chosen) >= 0) return o->chosen;
    for (i = 0; i < 2; i++)
        if (row_field(r, names[i]) >= 0) return names[i];
    return o->chosen;
}

/* Strings. */
static inline int trl_strings(row_data *r, const row_options *o, const char *answer) {
    const char *p, *c, *j = NULL;
    size_t np, nc, nj = 0;
    chat_message m;
    p = row_text(r, o->prompt, &np);
    c = p ? row_text(r, answer, &nc) : NULL;
    if (c && !o->sft) j = row_text(r, o->rejected, &nj);
    if (!c || (!o->sft && !j)) return 1;
    m.role = "user";
    m.text = p;
    m.bytes = np;
    r->pair = !o->sft;
    if (chat_prompt(&r->prompt, o->chat, &m, 1)) return row_memory(r);
    return row_answer(r, o->chat, &r->chosen, c, nc) || (r->pair && row_answer(r, o->chat, &r->rejected, j, nj));
}

static inline int trl_row(row_data *r, const row_options *o) {
    const char *answer = o->sft ? trl_completion(r, o) : o->chosen;
    int64_t prompt = row_field(r, o->prompt), chosen = row_field(r, answer);
    int list = dpo_json_type(r->json, chosen) == '[' || dpo_json_type(r->json, chosen) == '{' ||
               dpo_json_type(r->json, prompt) == '[';
    row_options named = *o;
    named.chosen = answer;
    if (chosen < 0 && row_field(r, o->messages) >= 0) {
        if (!o->sft) return row_bad(r, "%.60s alone, without two answers", o->messages);
        return row_conversation(r, row_field(r, o->messages), o->messages) || row_dialogue(r, o->chat, 0, r->messages);
    }
    if (list) return trl_two(r, &named, prompt, o->prompt);
    if (prompt < 0 && o->implicit_prompt) return trl_implicit(r, o);
    return trl_strings(r, o, answer);
}

#endif /* TOOLS_TRL_H */
