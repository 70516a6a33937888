/* judge.h: what is asked of a judge and how its words are read, for dpo-judge: the styles of question, a verdict in a
 * text, the lines of OpenAI's Batch files and of a local judge.
 *
 *     judge_ask(&text, JUDGE_DPO_HH, NULL, query, answer_a, answer_b);    the user's message
 *     judge_write_request(f, &request, batch);                            a line
 *     judge_read_request(&row, &request);  judge_read_reply(&row, &reply);   a row, after row_start
 *     judge_read_verdict(JUDGE_DPO_HH, 0, content, bytes);                JUDGE_SAYS_A, ...
 *
 * dpo-hh   The question of [DPO], appendix C.2, which the study asked, too: one sentence of comparison, then "More
 *          helpful:" and a letter. There are no ties.
 * pair-v2  The form of MT-bench's question of that name, in words of its own: an impartial judge, the explanation first,
 *          then [[A]], [[B]] or, for a tie, [[C]]. Who wants the original's words gives them as a template.
 *
 * How a verdict is read. Strictly: dpo-hh takes the last line that is not empty after the last "More helpful:", without
 * blanks, quotes, asterisks, brackets and full stops at its ends, and it must be exactly A or B; pair-v2 takes the text
 * if it holds one kind of verdict and no other. As others did (compat): dpo-hh as the study's code, the very last
 * character of the text, which must be A or B, if "More helpful" occurs at all; pair-v2 as FastChat, which looks for
 * [[A]] first, then [[B]], then [[C]]. */
#ifndef TOOLS_JUDGE_H
#define TOOLS_JUDGE_H

#include "row.h"

enum { JUDGE_DPO_HH, JUDGE_PAIR_V2, JUDGE_STYLES };
#define JUDGE_STYLE_WORDS "dpo-hh|pair-v2"
enum { JUDGE_SAYS_NOTHING, JUDGE_SAYS_A, JUDGE_SAYS_B, JUDGE_SAYS_TIE };
enum { JUDGE_ID_MOST = 64 }; /* bytes of a custom_id, the least that a batch service takes */

static inline const char *judge_style_name(int style) { return style == JUDGE_PAIR_V2 ? "pair-v2" : "dpo-hh"; }

/* ---- text ------------------------------------------------------------------------------------------------------- */

typedef struct judge_text { /* zero at the start */
    char *text;             /* zero-terminated once something was added */
    size_t n, room;
    int no_memory; /* something could not be added */
} judge_text;

static inline void judge_put(judge_text *b, const char *text, size_t n) {
    if (b->no_memory) return;
    if (n >= b->room - b->n) {
        size_t room = 2 * (b->n + n) + 256;
        char *p = (char *)realloc(b->text, room);
        if (!p) {
            b->no_memory = 1;
            return;
        }
        b->text = p;
        b->room = room;
    }
    if (n) memcpy(b->text + b->n, text, n);
    b->n += n;
    b->text[b->n] = 0;
}
static inline void judge_say(judge_text *b, const char *text) { judge_put(b, text, strlen(text)); }

/* ---- the question ----------------------------------------------------------------------------------------------- */

#define JUDGE_DPO_HH_QUESTION                                                                                          \
    "For the following query to a chatbot, which response is more helpful?\n\n"                                        \
    "Query: {query}\n\n"                                                                                               \
    "Response A:\n{a}\n\n"                                                                                             \
    "Response B:\n{b}\n\n"                                                                                             \
    "FIRST provide a one-sentence comparison of the two responses and explain which you feel is more helpful. "        \
    "SECOND, "                                                                                                         \
    "on a new line, state only \"A\" or \"B\" to indicate which response is more helpful. Your response should use "   \
    "the format:\n"                                                                                                    \
    "Comparison: <one-sentence comparison and explanation>\n"                                                          \
    "More helpful: <\"A\" or \"B\">"
#define JUDGE_PAIR_V2_SYSTEM                                                                                           \
    "You are an impartial judge. Two assistants, A and B, answered the user's question below. Decide which of them "   \
    "follows the instructions and answers the question better: how helpful, relevant, accurate, thorough and well "    \
    "written each answer is. Neither the order of the answers, nor their length, nor the assistants' names may "       \
    "matter. First compare the two answers and explain in a few sentences. Then give the verdict in exactly this "     \
    "form: \"[[A]]\" if A is better, \"[[B]]\" if B is better, \"[[C]]\" if they are equally good."
#define JUDGE_PAIR_V2_QUESTION                                                                                         \
    "[User Question]\n{query}\n\n"                                                                                     \
    "[The Start of Assistant A's Answer]\n{a}\n[The End of Assistant A's Answer]\n\n"                                  \
    "[The Start of Assistant B's Answer]\n{b}\n[The End of Assistant B's Answer]"

static inline const char *judge_system(int style) { return style == JUDGE_PAIR_V2 ? JUDGE_PAIR_V2_SYSTEM : NULL; }

/* The user's message: the template (NULL: the style's own) with texts in the places of {query}, {a} and {b}. What the
 * texts themselves hold is not looked at. */
static inline void judge_ask(judge_text *out, int style, const char *form, const char *query, const char *a,
                             const char *b) {
    static const char *const names[] = {"{query}", "{a}", "{b}"};
    const char *text[3];
    int i;
    text[0] = query;
    text[1] = a;
    text[2] = b;
    if (!form) form = style == JUDGE_PAIR_V2 ? JUDGE_PAIR_V2_QUESTION : JUDGE_DPO_HH_QUESTION;
    while (*form) {
        size_t plain = strcspn(form, "{");
        judge_put(out, form, plain);
        form += plain;
        for (i = 0; i < 3 && strncmp(form, names[i], strlen(names[i])); i++) {
        }
        if (i < 3) judge_say(out, text[i]);
        else if (*form) judge_put(out, form, 1);
        form += i < 3 ? strlen(names[i]) : *form != 0;
    }
}

/* ---- the verdict ------------------------------------------------------------------------------------------------ */

/* Where `mark` occurs last, the byte after it; NULL if it does not. */
static inline const char *judge_after(const char *text, size_t n, const char *mark) {
    size_t m = strlen(mark), i;
    for (i = n; i >= m; i--)
        if (!memcmp(text + i - m, mark, m)) return text + i;
    return NULL;
}

static inline int judge_dressing(char c) { return c && strchr(" \t\r\n\"'`*()[].", c) != NULL; }

static inline int judge_letter(const char *text, size_t n) {
    return n != 1 ? JUDGE_SAYS_NOTHING : *text == 'A' ? JUDGE_SAYS_A : *text == 'B' ? JUDGE_SAYS_B : JUDGE_SAYS_NOTHING;
}

static inline int judge_verdict_hh(const char *text, size_t n) {
    const char *from = judge_after(text, n, "More helpful:"), *end = text + n, *line;
    if (!from) return JUDGE_SAYS_NOTHING;
    while (end > from && row_blank(end[-1])) end--;
    for (line = end; line > from && line[-1] != '\n';) line--;
    while (end > line && judge_dressing(end[-1])) end--;
    while (line < end && judge_dressing(*line)) line++;
    return judge_letter(line, (size_t)(end - line));
}

static inline int judge_verdict_pair(int compat, const char *text, size_t n) {
    static const char *const marks[] = {"[[A]]", "[[B]]", "[[C]]"};
    int i, kinds = 0, found = JUDGE_SAYS_NOTHING;
    for (i = 2; i >= 0; i--)
        if (judge_after(text, n, marks[i])) {
            found = JUDGE_SAYS_A + i;
            kinds++;
        }
    return compat || kinds == 1 ? found : JUDGE_SAYS_NOTHING;
}

static inline int judge_read_verdict(int style, int compat, const char *text, size_t n) {
    if (style == JUDGE_PAIR_V2) return judge_verdict_pair(compat, text, n);
    if (!compat) return judge_verdict_hh(text, n);
    return n && judge_after(text, n, "More helpful") ? judge_letter(text + n - 1, 1) : JUDGE_SAYS_NOTHING;
}

/* ---- lines ------------------------------------------------------------------------------------------------------ */

typedef struct judge_request {
    const char *custom_id, *model, *system, *user; /* model and system may be NULL */
    double temperature;
    int max_tokens;
} judge_request;

/* Is it a name that every batch service takes? */
static inline int judge_is_id(const char *s, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", s[i]) || !s[i]) return 0;
    return n > 0 && n <= JUDGE_ID_MOST;
}

static inline void judge_write_member(FILE *f, const char *name, const char *text) {
    fprintf(f, "\"%s\": ", name);
    cli_json_string(f, text, strlen(text));
}

/* A line for OpenAI's Batch service, or for a local judge. */
static inline void judge_write_request(FILE *f, const judge_request *r, int batch) {
    fputc('{', f);
    judge_write_member(f, "custom_id", r->custom_id);
    if (batch) {
        fputs(", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {", f);
        judge_write_member(f, "model", r->model ? r->model : "");
    }
    fputs(", \"messages\": [", f);
    if (r->system) {
        fputs("{\"role\": \"system\", ", f);
        judge_write_member(f, "content", r->system);
        fputs("}, ", f);
    }
    fputs("{\"role\": \"user\", ", f);
    judge_write_member(f, "content", r->user);
    fprintf(f, "}], \"max_tokens\": %d, \"temperature\": ", r->max_tokens);
    cli_json_number(f, r->temperature);
    fputs(batch ? "}}\n" : "}\n", f);
}

/* A name in the row's memory that is one; NULL and r->why if not. */
static inline const char *judge_read_id(row_data *r) {
    size_t n;
    const char *id = row_text(r, "custom_id", &n);
    if (id && !judge_is_id(id, n)) {
        row_bad(r, "custom_id is none: 1 to %d of A-Z a-z 0-9 . _ -", JUDGE_ID_MOST);
        return NULL;
    }
    return id;
}

static inline const char *judge_read_content(row_data *r, int64_t message) {
    size_t n;
    const char *text = row_string(r, dpo_json_find(r->json, message, "content"), "a message's content", &n);
    if (!text || strlen(text) == n) return text;
    row_bad(r, "a message's content holds a zero character");
    return NULL;
}

/* A line of either kind. The strings are the row's. */
static inline int judge_read_request(row_data *r, judge_request *q) {
    int64_t body = row_field(r, "body"), from = body < 0 ? 0 : body, messages, last, n;
    double number;
    memset(q, 0, sizeof *q);
    q->custom_id = judge_read_id(r);
    if (!q->custom_id) return 1;
    messages = dpo_json_find(r->json, from, "messages");
    n = dpo_json_count(r->json, messages);
    if (dpo_json_type(r->json, messages) != '[' || n < 1 || n > 2)
        return row_bad(r, "messages is not a list of one or two messages");
    last = dpo_json_first(r->json, messages);
    if (n == 2) {
        q->system = judge_read_content(r, last);
        if (!q->system) return 1;
        last = dpo_json_next(r->json, last);
    }
    q->user = judge_read_content(r, last);
    if (!q->user) return 1;
    if (!dpo_json_number(r->json, dpo_json_find(r->json, from, "max_tokens"), &number) || number < 1 || number > 1e9)
        return row_bad(r, "max_tokens is not a number from 1 on");
    q->max_tokens = (int)number;
    if (!dpo_json_number(r->json, dpo_json_find(r->json, from, "temperature"), &q->temperature))
        return row_bad(r, "temperature is not a number");
    return 0;
}

typedef struct judge_reply { /* content, or error with content NULL */
    const char *custom_id, *content, *error;
    size_t bytes;
} judge_reply;

/* What a service says of a request that failed. */
static inline const char *judge_read_error(row_data *r, int64_t error) {
    size_t n;
    const char *text = NULL;
    if (dpo_json_type(r->json, error) == '{') error = dpo_json_find(r->json, error, "message");
    if (dpo_json_type(r->json, error) == '"') text = row_string(r, error, "error", &n);
    return text ? text : "no answer, and no reason given";
}

/* A line of a Batch result (response.body.choices[0].message.content) or of a local judge (content). A refusal, whose
 * content is null, is an answer without a word. */
static inline int judge_read_reply(row_data *r, judge_reply *y) {
    int64_t response = row_field(r, "response"), error = row_field(r, "error"), content = row_field(r, "content");
    int64_t body = dpo_json_find(r->json, response, "body"), choices = dpo_json_find(r->json, body, "choices");
    int64_t choice = dpo_json_count(r->json, choices) ? dpo_json_first(r->json, choices) : -1;
    int64_t message = dpo_json_find(r->json, choice, "message");
    double status = 200;
    memset(y, 0, sizeof *y);
    y->custom_id = judge_read_id(r);
    if (!y->custom_id) return 1;
    dpo_json_number(r->json, dpo_json_find(r->json, response, "status_code"), &status);
    if (message >= 0) content = dpo_json_find(r->json, message, "content");
    if (dpo_json_type(r->json, error) == '"' || dpo_json_type(r->json, error) == '{' || response >= 0) {
        int failed = dpo_json_type(r->json, error) == '"' || dpo_json_type(r->json, error) == '{';
        if (failed || message < 0 || status != 200) {
            y->error = judge_read_error(r, failed ? error : dpo_json_find(r->json, body, "error"));
            return 0;
        }
    }
    if (message >= 0 && dpo_json_type(r->json, content) == 'n') {
        y->content = "";
        return 0;
    }
    y->content = row_string(r, content, "content", &y->bytes);
    return y->content == NULL;
}

#endif /* TOOLS_JUDGE_H */
