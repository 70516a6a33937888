/* tasks.h: multiple-choice tasks from their original files, as (context, continuation) texts by the rules of
 * EleutherAI's lm-evaluation-harness (v0.4, commit 4e7e0d4), byte for byte.
 *
 *     task_set s = task_set_start(json);
 *     if (task_set_read(&s, TASK_AUTO, "valid.jsonl", "valid-labels.lst", err, sizeof err)) ... err says why
 *     s.item[i] has s.item[i].n requests from s.request + s.item[i].first on, and the index of the right one.
 *     task_context(&s, &s.item[i], &s.request[j], &buffer), task_string(&s, s.request[j].continuation)
 *
 * A file is JSON lines, a JSON array, or (MMLU) CSV, each of them gzipped too; or a directory of such files. A row that
 * cannot be used is counted by its reason, with the place of the first one; none is dropped in silence.
 *
 *     arc, arc_easy, arc_challenge   {"question", "choices", "answerKey"}, as AI2's files and as the Hub has them
 *     openbookqa                     the same of AI2's; {"question_stem", "choices", "answerKey"}
 *     hellaswag                      {"activity_label", "ctx_a", "ctx_b", "endings", "label"}; {"query","choices","gold"}
 *     piqa                           {"goal", "sol1", "sol2", "label"}, or labels in a file of their own
 *     winogrande                     {"sentence", "option1", "option2", "answer"}
 *     boolq                          {"passage", "question", "label" or "answer"}
 *     social_iqa, social_iqa_2023    {"context", "question", "answerA", "answerB", "answerC", "label"}, or a labels file
 *     sciq                           {"support", "question", "distractor1" to 3, "correct_answer"}
 *     race                           {"article", "questions", "options", "answers"}: a file an article
 *     lambada                        {"text"}
 *     truthfulqa_mc1, truthfulqa_mc2 {"question", "mc1_targets", "mc2_targets"}: mc_task.json, or as the Hub has it
 *     mmlu                           SUBJECT_test.csv; {"question", "subject", "choices", "answer"}
 *     custom                         {"ctx" or "ctxs", "conts", "gold"}: texts taken as they are, spaces included */
#ifndef TOOLS_TASKS_H
#define TOOLS_TASKS_H

#include "row.h"
#include "gzip.h"
#include <dirent.h>
#include <sys/stat.h>

enum {
    TASK_AUTO,
    TASK_ARC,
    TASK_ARC_EASY,
    TASK_ARC_CHALLENGE,
    TASK_OPENBOOKQA,
    TASK_HELLASWAG,
    TASK_PIQA,
    TASK_WINOGRANDE,
    TASK_BOOLQ,
    TASK_SOCIAL_IQA,
    TASK_SOCIAL_IQA_2023,
    TASK_SCIQ,
    TASK_RACE,
    TASK_LAMBADA,
    TASK_TRUTHFULQA_MC1,
    TASK_TRUTHFULQA_MC2,
    TASK_MMLU,
    TASK_CUSTOM,
    TASK_KINDS
};
enum { TASK_MOST_CHOICES = 256, TASK_REASONS = 24, TASK_SUBJECTS = 256 };

typedef struct task_text { /* in the set's memory */
    size_t at, bytes;
} task_text;

typedef struct task_request {
    task_text context, continuation;
    int64_t characters; /* of the choice without what stands between context and choice */
    int label;          /* truthfulqa_mc2: it is a true answer */
} task_request;

typedef struct task_item {
    int64_t first; /* request */
    int n, gold;
    int subject;
    int64_t line; /* or row of an array; of its file */
} task_item;

typedef struct task_reason {
    char why[160], where[320]; /* of the first one */
    int64_t count;
} task_reason;

typedef struct task_subject {
    char name[96];
    task_text before; /* what stands before its items: a description, solved examples */
} task_subject;

typedef struct task_set {
    int kind;
    char *text;
    size_t used, room;
    task_request *request;
    int64_t n_requests, request_cap;
    task_item *item;
    int64_t n_items, item_cap;
    task_subject *subject; /* [0] has no name */
    int n_subjects, subject_now;
    int64_t rows, bad;
    task_reason reason[TASK_REASONS];
    int reasons, no_memory;
    row_data row;
    int *label; /* of a labels file */
    int64_t n_labels;
} task_set;

static inline const char *task_name(int kind) {
    static const char *const name[TASK_KINDS] = {"auto",
                                                 "arc",
                                                 "arc_easy",
                                                 "arc_challenge",
                                                 "openbookqa",
                                                 "hellaswag",
                                                 "piqa",
                                                 "winogrande",
                                                 "boolq",
                                                 "social_iqa",
                                                 "social_iqa_2023",
                                                 "sciq",
                                                 "race",
                                                 "lambada",
                                                 "truthfulqa_mc1",
                                                 "truthfulqa_mc2",
                                                 "mmlu",
                                                 "custom"};
    return name[kind];
}
/* A task's name, or another one it is known by; -1 if it is none. */
static inline int task_by_name(const char *name, size_t n) {
    static const char *const other[] = {"siqa", "social_i_qa", "lambada_openai", "truthfulqa", "arc_e", "arc_c"};
    static const int meant[] = {TASK_SOCIAL_IQA,     TASK_SOCIAL_IQA, TASK_LAMBADA,
                                TASK_TRUTHFULQA_MC2, TASK_ARC_EASY,   TASK_ARC_CHALLENGE};
    int i;
    for (i = 0; i < TASK_KINDS; i++)
        if (strlen(task_name(i)) == n && !memcmp(task_name(i), name, n)) return i;
    for (i = 0; i < 6; i++)
        if (strlen(other[i]) == n && !memcmp(other[i], name, n)) return meant[i];
    return -1;
}
/* Does the harness report acc_norm? */
static inline int task_has_norm(int kind) {
    return kind != TASK_WINOGRANDE && kind != TASK_BOOLQ && kind != TASK_SOCIAL_IQA && kind != TASK_SOCIAL_IQA_2023 &&
           kind != TASK_RACE && kind != TASK_LAMBADA && kind != TASK_TRUTHFULQA_MC1 && kind != TASK_TRUTHFULQA_MC2 &&
           kind != TASK_MMLU;
}
static inline const char *task_string(const task_set *s, task_text t) { return s->text + t.at; }

/* ---- characters ------------------------------------------------------------------------------------------------- */

/* The character at s, its length in *n; a byte that begins none stands for itself. */
static inline unsigned task_char(const char *text, size_t bytes, size_t *n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t len = s[0] < 0xC2 ? 1 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 1, i;
    unsigned c = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
    *n = 1;
    if (len > bytes) return s[0];
    for (i = 1; i < len; i++) {
        if ((s[i] & 0xC0u) != 0x80u) return s[0];
        c = c << 6 | (s[i] & 0x3Fu);
    }
    *n = len;
    return c;
}
static inline size_t task_char_put(char *out, unsigned c) {
    int shift, n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    size_t at = 0;
    if (n == 1) out[at++] = (char)c;
    else out[at++] = (char)(unsigned char)((0xF00u >> n & 0xFFu) | c >> (6 * (n - 1)));
    for (shift = 6 * (n - 2); shift >= 0; shift -= 6) out[at++] = (char)(unsigned char)(0x80u | (c >> shift & 0x3Fu));
    return at;
}
static inline int64_t task_characters(const char *s, size_t n) {
    int64_t k = 0;
    size_t i, len;
    for (i = 0; i < n; i += len, k++) (void)task_char(s + i, n - i, &len);
    return k;
}
/* What Python's str.strip takes away. */
static inline int task_is_space(unsigned c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}
static inline size_t task_leading_space(const char *s, size_t n) {
    size_t at = 0, len;
    while (at < n && task_is_space(task_char(s + at, n - at, &len))) at += len;
    return at;
}
static inline size_t task_trailing_space(const char *s, size_t n) {
    size_t end = n, from, len;
    while (end > 0) {
        for (from = end - 1; from > 0 && end - from < 4 && ((unsigned char)s[from] & 0xC0u) == 0x80u; from--) {
        }
        if (!task_is_space(task_char(s + from, end - from, &len)) || from + len != end) break;
        end = from;
    }
    return n - end;
}
static inline void task_strip(const char **s, size_t *n) {
    size_t k = task_leading_space(*s, *n);
    *s += k;
    *n -= k;
    *n -= task_trailing_space(*s, *n);
}

/* Capital letters and what is added to make them small: first, last, every, by (Unicode 14; one letter to one). */
/* clang-format off */
static const int task_capitals[][4] = {
    {0x41, 0x5a, 1, 32}, {0xc0, 0xd6, 1, 32}, {0xd8, 0xde, 1, 32}, {0x100, 0x12e, 2, 1}, {0x132, 0x136, 2, 1}, {0x139,
    0x147, 2, 1}, {0x14a, 0x176, 2, 1}, {0x178, 0x178, 1, -121}, {0x179, 0x17d, 2, 1}, {0x181, 0x181, 1, 210}, {0x182,
    0x184, 2, 1}, {0x186, 0x186, 1, 206}, {0x187, 0x187, 1, 1}, {0x189, 0x18a, 1, 205}, {0x18b, 0x18b, 1, 1}, {0x18e,
    0x18e, 1, 79}, {0x18f, 0x18f, 1, 202}, {0x190, 0x190, 1, 203}, {0x191, 0x191, 1, 1}, {0x193, 0x193, 1, 205},
    {0x194, 0x194, 1, 207}, {0x196, 0x196, 1, 211}, {0x197, 0x197, 1, 209}, {0x198, 0x198, 1, 1}, {0x19c, 0x19c, 1,
    211}, {0x19d, 0x19d, 1, 213}, {0x19f, 0x19f, 1, 214}, {0x1a0, 0x1a4, 2, 1}, {0x1a6, 0x1a6, 1, 218}, {0x1a7, 0x1a7,
    1, 1}, {0x1a9, 0x1a9, 1, 218}, {0x1ac, 0x1ac, 1, 1}, {0x1ae, 0x1ae, 1, 218}, {0x1af, 0x1af, 1, 1}, {0x1b1, 0x1b2,
    1, 217}, {0x1b3, 0x1b5, 2, 1}, {0x1b7, 0x1b7, 1, 219}, {0x1b8, 0x1b8, 1, 1}, {0x1bc, 0x1bc, 1, 1}, {0x1c4, 0x1c4,
    1, 2}, {0x1c5, 0x1c5, 1, 1}, {0x1c7, 0x1c7, 1, 2}, {0x1c8, 0x1c8, 1, 1}, {0x1ca, 0x1ca, 1, 2}, {0x1cb, 0x1db, 2,
    1}, {0x1de, 0x1ee, 2, 1}, {0x1f1, 0x1f1, 1, 2}, {0x1f2, 0x1f4, 2, 1}, {0x1f6, 0x1f6, 1, -97}, {0x1f7, 0x1f7, 1,
    -56}, {0x1f8, 0x21e, 2, 1}, {0x220, 0x220, 1, -130}, {0x222, 0x232, 2, 1}, {0x23a, 0x23a, 1, 10795}, {0x23b,
    0x23b, 1, 1}, {0x23d, 0x23d, 1, -163}, {0x23e, 0x23e, 1, 10792}, {0x241, 0x241, 1, 1}, {0x243, 0x243, 1, -195},
    {0x244, 0x244, 1, 69}, {0x245, 0x245, 1, 71}, {0x246, 0x24e, 2, 1}, {0x370, 0x372, 2, 1}, {0x376, 0x376, 1, 1},
    {0x37f, 0x37f, 1, 116}, {0x386, 0x386, 1, 38}, {0x388, 0x38a, 1, 37}, {0x38c, 0x38c, 1, 64}, {0x38e, 0x38f, 1,
    63}, {0x391, 0x3a1, 1, 32}, {0x3a3, 0x3ab, 1, 32}, {0x3cf, 0x3cf, 1, 8}, {0x3d8, 0x3ee, 2, 1}, {0x3f4, 0x3f4, 1,
    -60}, {0x3f7, 0x3f7, 1, 1}, {0x3f9, 0x3f9, 1, -7}, {0x3fa, 0x3fa, 1, 1}, {0x3fd, 0x3ff, 1, -130}, {0x400, 0x40f,
    1, 80}, {0x410, 0x42f, 1, 32}, {0x460, 0x480, 2, 1}, {0x48a, 0x4be, 2, 1}, {0x4c0, 0x4c0, 1, 15}, {0x4c1, 0x4cd,
    2, 1}, {0x4d0, 0x52e, 2, 1}, {0x531, 0x556, 1, 48}, {0x10a0, 0x10c5, 1, 7264}, {0x10c7, 0x10c7, 1, 7264}, {0x10cd,
    0x10cd, 1, 7264}, {0x13a0, 0x13ef, 1, 38864}, {0x13f0, 0x13f5, 1, 8}, {0x1c90, 0x1cba, 1, -3008}, {0x1cbd, 0x1cbf,
    1, -3008}, {0x1e00, 0x1e94, 2, 1}, {0x1e9e, 0x1e9e, 1, -7615}, {0x1ea0, 0x1efe, 2, 1}, {0x1f08, 0x1f0f, 1, -8},
    {0x1f18, 0x1f1d, 1, -8}, {0x1f28, 0x1f2f, 1, -8}, {0x1f38, 0x1f3f, 1, -8}, {0x1f48, 0x1f4d, 1, -8}, {0x1f59,
    0x1f5f, 2, -8}, {0x1f68, 0x1f6f, 1, -8}, {0x1f88, 0x1f8f, 1, -8}, {0x1f98, 0x1f9f, 1, -8}, {0x1fa8, 0x1faf, 1,
    -8}, {0x1fb8, 0x1fb9, 1, -8}, {0x1fba, 0x1fbb, 1, -74}, {0x1fbc, 0x1fbc, 1, -9}, {0x1fc8, 0x1fcb, 1, -86},
    {0x1fcc, 0x1fcc, 1, -9}, {0x1fd8, 0x1fd9, 1, -8}, {0x1fda, 0x1fdb, 1, -100}, {0x1fe8, 0x1fe9, 1, -8}, {0x1fea,
    0x1feb, 1, -112}, {0x1fec, 0x1fec, 1, -7}, {0x1ff8, 0x1ff9, 1, -128}, {0x1ffa, 0x1ffb, 1, -126}, {0x1ffc, 0x1ffc,
    1, -9}, {0x2126, 0x2126, 1, -7517}, {0x212a, 0x212a, 1, -8383}, {0x212b, 0x212b, 1, -8262}, {0x2132, 0x2132, 1,
    28}, {0x2160, 0x216f, 1, 16}, {0x2183, 0x2183, 1, 1}, {0x24b6, 0x24cf, 1, 26}, {0x2c00, 0x2c2f, 1, 48}, {0x2c60,
    0x2c60, 1, 1}, {0x2c62, 0x2c62, 1, -10743}, {0x2c63, 0x2c63, 1, -3814}, {0x2c64, 0x2c64, 1, -10727}, {0x2c67,
    0x2c6b, 2, 1}, {0x2c6d, 0x2c6d, 1, -10780}, {0x2c6e, 0x2c6e, 1, -10749}, {0x2c6f, 0x2c6f, 1, -10783}, {0x2c70,
    0x2c70, 1, -10782}, {0x2c72, 0x2c72, 1, 1}, {0x2c75, 0x2c75, 1, 1}, {0x2c7e, 0x2c7f, 1, -10815}, {0x2c80, 0x2ce2,
    2, 1}, {0x2ceb, 0x2ced, 2, 1}, {0x2cf2, 0x2cf2, 1, 1}, {0xa640, 0xa66c, 2, 1}, {0xa680, 0xa69a, 2, 1}, {0xa722,
    0xa72e, 2, 1}, {0xa732, 0xa76e, 2, 1}, {0xa779, 0xa77b, 2, 1}, {0xa77d, 0xa77d, 1, -35332}, {0xa77e, 0xa786, 2,
    1}, {0xa78b, 0xa78b, 1, 1}, {0xa78d, 0xa78d, 1, -42280}, {0xa790, 0xa792, 2, 1}, {0xa796, 0xa7a8, 2, 1}, {0xa7aa,
    0xa7aa, 1, -42308}, {0xa7ab, 0xa7ab, 1, -42319}, {0xa7ac, 0xa7ac, 1, -42315}, {0xa7ad, 0xa7ad, 1, -42305},
    {0xa7ae, 0xa7ae, 1, -42308}, {0xa7b0, 0xa7b0, 1, -42258}, {0xa7b1, 0xa7b1, 1, -42282}, {0xa7b2, 0xa7b2, 1,
    -42261}, {0xa7b3, 0xa7b3, 1, 928}, {0xa7b4, 0xa7c2, 2, 1}, {0xa7c4, 0xa7c4, 1, -48}, {0xa7c5, 0xa7c5, 1, -42307},
    {0xa7c6, 0xa7c6, 1, -35384}, {0xa7c7, 0xa7c9, 2, 1}, {0xa7d0, 0xa7d0, 1, 1}, {0xa7d6, 0xa7d8, 2, 1}, {0xa7f5,
    0xa7f5, 1, 1}, {0xff21, 0xff3a, 1, 32}, {0x10400, 0x10427, 1, 40}, {0x104b0, 0x104d3, 1, 40}, {0x10570, 0x1057a,
    1, 39}, {0x1057c, 0x1058a, 1, 39}, {0x1058c, 0x10592, 1, 39}, {0x10594, 0x10595, 1, 39}, {0x10c80, 0x10cb2, 1,
    64}, {0x118a0, 0x118bf, 1, 32}, {0x16e40, 0x16e5f, 1, 32}, {0x1e900, 0x1e921, 1, 34}
};
/* clang-format on */
static inline unsigned task_lower(unsigned c) {
    size_t i;
    if (c < 128) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    for (i = 0; i < sizeof task_capitals / sizeof *task_capitals; i++) {
        const int *t = task_capitals[i], x = (int)c;
        if (x >= t[0] && x <= t[1] && (x - t[0]) % t[2] == 0) return (unsigned)(x + t[3]);
    }
    return c;
}
/* The first letter of a sentence. Ligatures, and letters that become two, stay: no English text begins with them. */
static inline unsigned task_title(unsigned c) {
    size_t i;
    if (c < 128) return c >= 'a' && c <= 'z' ? c - 32 : c;
    if (c == 0xb5) return 0x39c;
    if (c == 0x131) return 'I';
    if (c == 0x17f) return 'S';
    if (c == 0x3c2) return 0x3a3;
    if (c == 0xdf || (c >= 0x10d0 && c <= 0x10ff)) return c;
    if (c >= 0x1c4 && c <= 0x1cc) return c <= 0x1c6 ? 0x1c5 : c <= 0x1c9 ? 0x1c8 : 0x1cb;
    if (c >= 0x1f1 && c <= 0x1f3) return 0x1f2;
    for (i = 0; i < sizeof task_capitals / sizeof *task_capitals; i++) {
        const int *t = task_capitals[i], x = (int)c - t[3];
        if (x >= t[0] && x <= t[1] && (x - t[0]) % t[2] == 0) return (unsigned)x;
    }
    return c;
}

/* ---- building a set --------------------------------------------------------------------------------------------- */

static inline task_set task_set_start(dpo_json *json) {
    task_set s;
    memset(&s, 0, sizeof s);
    s.row.json = json;
    return s;
}
static inline void task_set_free(task_set *s) {
    free(s->text);
    free(s->request);
    free(s->item);
    free(s->subject);
    free(s->label);
    row_free(&s->row);
}

/* Appends to the set's text. */
static inline void task_put(task_set *s, const char *text, size_t n) {
    if (n > s->room - s->used) {
        size_t room = 2 * (s->used + n) + 65536;
        char *p = (char *)realloc(s->text, room);
        if (!p) {
            s->no_memory = 1;
            return;
        }
        s->text = p;
        s->room = room;
    }
    if (n) memcpy(s->text + s->used, text, n);
    s->used += n;
}
static inline void task_say(task_set *s, const char *text) { task_put(s, text, strlen(text)); }

static inline task_text task_since(const task_set *s, size_t at) {
    task_text t;
    t.at = at;
    t.bytes = s->used - at;
    return t;
}

/* A field, as it stands in the row; 1 after r->why. */
typedef struct task_field {
    const char *s;
    size_t n;
} task_field;

static inline int task_node(task_set *s, int64_t node, const char *name, task_field *f) {
    f->s = row_string(&s->row, node, name, &f->n);
    return f->s == NULL;
}
static inline int task_get(task_set *s, const char *name, task_field *f) {
    return task_node(s, row_field(&s->row, name), name, f);
}
static inline void task_add(task_set *s, task_field f) { task_put(s, f.s, f.n); }

/* One more request of the item being made: what stands between, then the choice. */
static inline void task_choice(task_set *s, task_text context, const char *between, task_field choice) {
    task_request *q;
    size_t at = s->used;
    if (s->n_requests == s->request_cap) {
        int64_t cap = s->request_cap ? 2 * s->request_cap : 1024;
        task_request *p = (task_request *)realloc(s->request, (size_t)cap * sizeof *p);
        if (!p) {
            s->no_memory = 1;
            return;
        }
        s->request = p;
        s->request_cap = cap;
    }
    task_say(s, between);
    task_add(s, choice);
    q = &s->request[s->n_requests++];
    memset(q, 0, sizeof *q);
    q->context = context;
    q->continuation = task_since(s, at);
    q->characters = task_characters(choice.s, choice.n);
}

/* A whole number, as such or as a string of digits; 1 after r->why. */
static inline int task_integer(task_set *s, const char *name, int low, int high, int *out) {
    const dpo_json *j = s->row.json;
    int64_t node = row_field(&s->row, name), n;
    char text[16];
    double v = 0;
    int ok;
    if (node < 0) return row_bad(&s->row, "%.60s is missing", name);
    n = dpo_json_string(j, node, text, sizeof text);
    if (n < 0) ok = dpo_json_type(j, node) == '0' && dpo_json_number(j, node, &v);
    else {
        ok = n > 0 && n < 10 && strspn(text, "0123456789") == (size_t)n;
        if (ok) v = (double)strtol(text, NULL, 10);
    }
    if (!ok) return row_bad(&s->row, "%.60s is not a whole number from %d to %d", name, low, high);
    if (!(v >= low && v <= high) || v != (double)(int)v)
        return row_bad(&s->row, "%.60s is %g; expected %d to %d", name, v, low, high);
    *out = (int)v;
    return 0;
}
/* true, false, 1 or 0. */
static inline int task_truth(task_set *s, const char *name, int *out) {
    int type = dpo_json_type(s->row.json, row_field(&s->row, name));
    if (type != 't' && type != 'f') return task_integer(s, name, 0, 1, out);
    *out = type == 't';
    return 0;
}
/* The right answer: of the labels file if there is one, else the row's. */
static inline int task_label(task_set *s, const char *name, int low, int high, int *out) {
    if (!s->label) {
        if (row_field(&s->row, name) < 0)
            return row_bad(&s->row, "%.60s is missing, and no labels file was named", name);
        return task_integer(s, name, low, high, out);
    }
    *out = s->label[s->rows - 1];
    if (*out < low || *out > high) return row_bad(&s->row, "its label is %d; expected %d to %d", *out, low, high);
    return 0;
}

/* Each reader makes the requests of one row and the index of the right one; 1 after r->why. */
typedef int (*task_reader)(task_set *s, int *gold);

/* `Question: Q`, `Answer:` */
static inline task_text task_question(task_set *s, const char *before, task_field q, const char *after) {
    size_t at = s->used;
    task_say(s, before);
    task_add(s, q);
    task_say(s, after);
    return task_since(s, at);
}

/* ---- ARC and OpenBookQA ----------------------------------------------------------------------------------------- */

/* Choices {"text": [], "label": []} or [{"text", "label"}], which answerKey names by its label. */
static inline int task_lettered(task_set *s, int64_t choices, task_text context, int *gold) {
    const dpo_json *j = s->row.json;
    int64_t text = dpo_json_find(j, choices, "text"), label = dpo_json_find(j, choices, "label"), n, i, t, l;
    int hub = dpo_json_type(j, choices) == '{';
    task_field key, f, name;
    if (choices < 0) return row_bad(&s->row, "choices is missing");
    n = dpo_json_count(j, hub ? text : choices);
    if (hub && (dpo_json_type(j, text) != '[' || dpo_json_count(j, label) != n))
        return row_bad(&s->row, "choices has %lld texts and %lld labels", (long long)n,
                       (long long)dpo_json_count(j, label));
    if (n < 2 || n > TASK_MOST_CHOICES)
        return row_bad(&s->row, "it has %lld choices; expected 2 to %d", (long long)n, TASK_MOST_CHOICES);
    if (task_get(s, "answerKey", &key)) return 1;
    *gold = -1;
    t = dpo_json_first(j, hub ? text : choices);
    l = dpo_json_first(j, label);
    for (i = 0; i < n; i++, t = dpo_json_next(j, t), l = hub ? dpo_json_next(j, l) : l) {
        if (task_node(s, hub ? t : dpo_json_find(j, t, "text"), "a choice's text", &f) ||
            task_node(s, hub ? l : dpo_json_find(j, t, "label"), "a choice's label", &name))
            return 1;
        if (*gold < 0 && name.n == key.n && !memcmp(name.s, key.s, key.n)) *gold = (int)i;
        task_choice(s, context, " ", f);
    }
    return *gold < 0 ? row_bad(&s->row, "answerKey '%.20s' is no choice's label", key.s) : 0;
}
static inline int task_read_arc(task_set *s, int *gold) {
    int64_t q = row_field(&s->row, "question"), stem = dpo_json_find(s->row.json, q, "stem");
    task_field f;
    if (task_node(s, stem >= 0 ? stem : q, "question", &f)) return 1;
    return task_lettered(s, stem >= 0 ? dpo_json_find(s->row.json, q, "choices") : row_field(&s->row, "choices"),
                         task_question(s, "Question: ", f, "\nAnswer:"), gold);
}
static inline int task_read_openbookqa(task_set *s, int *gold) {
    int64_t q = row_field(&s->row, "question"), stem = dpo_json_find(s->row.json, q, "stem");
    task_field f;
    if (task_node(s, stem >= 0 ? stem : row_field(&s->row, "question_stem"), "question_stem", &f)) return 1;
    return task_lettered(s, stem >= 0 ? dpo_json_find(s->row.json, q, "choices") : row_field(&s->row, "choices"),
                         task_question(s, "", f, ""), gold);
}

/* ---- HellaSwag -------------------------------------------------------------------------------------------------- */

/* The text behind `at`, cleaned in place: blanks at both ends go; " [title]" becomes ". "; other shortest brackets
 * go; of two blanks one stays, in one pass. */
static inline void task_hellaswag_clean(task_set *s, size_t at) {
    const char *text = s->text + at;
    size_t n = s->used - at, i, k;
    char *out = s->text + at;
    if (s->no_memory) return;
    task_strip(&text, &n);
    memmove(out, text, n);
    for (i = k = 0; i < n;) /* never longer than what it replaces */
        if (n - i >= 8 && !memcmp(out + i, " [title]", 8)) {
            out[k++] = '.';
            out[k++] = ' ';
            i += 8;
        } else out[k++] = out[i++];
    for (n = k, i = k = 0; i < n;) {
        const char *close = out[i] == '[' ? (const char *)memchr(out + i, ']', n - i) : NULL;
        if (close && !memchr(out + i, '\n', (size_t)(close - (out + i)))) i = (size_t)(close - out) + 1;
        else out[k++] = out[i++];
    }
    for (n = k, i = k = 0; i < n; i++) {
        out[k++] = out[i];
        if (out[i] == ' ' && i + 1 < n && out[i + 1] == ' ') i++;
    }
    s->used = at + k;
}
/* Python's capitalize: the first letter as in a title, all others small. */
static inline void task_capitalize(task_set *s, task_field f) {
    size_t i, len, from;
    char out[8];
    unsigned c;
    int before = 0;
    for (i = 0; i < f.n; i += len) {
        c = task_char(f.s + i, f.n - i, &len);
        from = i + len;
        if (len == 1 && c >= 128) task_put(s, f.s + i, 1); /* no UTF-8 */
        else if (!i && c == 0xdf) task_say(s, "Ss");
        else if (i && c == 0x130) task_say(s, "i\xCC\x87");
        else if (!i) task_put(s, out, task_char_put(out, task_title(c)));
        else if (c == 0x3a3) { /* a sigma at the end of a word has a form of its own */ size_t next;
            unsigned d = from < f.n ? task_char(f.s + from, f.n - from, &next) : 0;
            int letter = d && (task_lower(d) != d || task_title(d) != d);
            task_put(s, out, task_char_put(out, before && !letter ? 0x3c2 : 0x3c3));
        } else task_put(s, out, task_char_put(out, task_lower(c)));
        before = task_lower(c) != c || task_title(c) != c;
    }
}
static inline int task_endings(task_set *s, const char *name, int clean, task_text context, int *n) {
    const dpo_json *j = s->row.json;
    int64_t list = row_field(&s->row, name), v;
    int i;
    task_field f;
    *n = (int)dpo_json_count(j, list);
    if (dpo_json_type(j, list) != '[' || dpo_json_count(j, list) < 2 || dpo_json_count(j, list) > TASK_MOST_CHOICES)
        return row_bad(&s->row, "%.60s is no list of 2 to %d texts", name, TASK_MOST_CHOICES);
    for (i = 0, v = dpo_json_first(j, list); i < *n; i++, v = dpo_json_next(j, v)) {
        size_t at = s->used;
        if (task_node(s, v, name, &f)) return 1;
        if (clean && f.n) { /* made in place, then copied out, since the choice is written again behind it */
            task_add(s, f);
            task_hellaswag_clean(s, at);
            if (s->no_memory) return row_memory(&s->row);
            f.n = s->used - at;
            memcpy(s->row.memory + (f.s - s->row.memory), s->text + at, f.n); /* no longer than before */
            s->used = at;
        }
        task_choice(s, context, " ", f);
    }
    return 0;
}
static inline int task_read_hellaswag(task_set *s, int *gold) {
    task_field activity, a, b;
    size_t at = s->used;
    int n;
    if (row_field(&s->row, "query") >= 0) /* cleaned already */
        return task_get(s, "query", &a) || task_endings(s, "choices", 0, task_question(s, "", a, ""), &n) ||
               task_integer(s, "gold", 0, n - 1, gold);
    if (task_get(s, "activity_label", &activity) || task_get(s, "ctx_a", &a) || task_get(s, "ctx_b", &b)) return 1;
    task_add(s, activity);
    task_say(s, ": ");
    task_add(s, a);
    task_say(s, " ");
    task_capitalize(s, b);
    task_hellaswag_clean(s, at);
    return task_endings(s, "endings", 1, task_since(s, at), &n) || task_label(s, "label", 0, n - 1, gold);
}

/* ---- the others with a form of their own ------------------------------------------------------------------------ */

static inline int task_read_piqa(task_set *s, int *gold) {
    task_field goal, one, two;
    task_text context;
    if (task_get(s, "goal", &goal) || task_get(s, "sol1", &one) || task_get(s, "sol2", &two)) return 1;
    context = task_question(s, "Question: ", goal, "\nAnswer:");
    task_choice(s, context, " ", one);
    task_choice(s, context, " ", two);
    return task_label(s, "label", 0, 1, gold);
}
/* Two contexts, one continuation: what differs is what stands before it. */
static inline int task_read_winogrande(task_set *s, int *gold) {
    task_field sentence, option[2], rest;
    const char *gap;
    int k;
    if (task_get(s, "sentence", &sentence) || task_get(s, "option1", &option[0]) || task_get(s, "option2", &option[1]))
        return 1;
    gap = (const char *)memchr(sentence.s, '_', sentence.n);
    if (!gap) return row_bad(&s->row, "the sentence has no '_'");
    if (task_integer(s, "answer", 1, 2, gold)) return 1;
    --*gold;
    rest.s = gap + 1;
    rest.n = sentence.n - (size_t)(gap + 1 - sentence.s);
    task_strip(&rest.s, &rest.n);
    for (k = 0; k < 2; k++) {
        size_t at = s->used;
        task_put(s, sentence.s, (size_t)(gap - sentence.s));
        task_add(s, option[k]);
        task_choice(s, task_since(s, at), " ", rest);
    }
    return 0;
}
static inline int task_read_boolq(task_set *s, int *gold) {
    static const task_field no = {"no", 2}, yes = {"yes", 3};
    task_field passage, question;
    task_text context;
    size_t at = s->used;
    if (task_get(s, "passage", &passage) || task_get(s, "question", &question)) return 1;
    task_add(s, passage);
    (void)task_question(s, "\nQuestion: ", question, "?\nAnswer:");
    context = task_since(s, at);
    task_choice(s, context, " ", no);
    task_choice(s, context, " ", yes);
    return task_truth(s, row_field(&s->row, "label") >= 0 ? "label" : "answer", gold);
}
static inline int task_read_social_iqa(task_set *s, int *gold) {
    task_field context, question, answer[3];
    int old = s->kind == TASK_SOCIAL_IQA_2023, k;
    size_t at = s->used;
    task_text all;
    if (task_get(s, "context", &context) || task_get(s, "question", &question) || task_get(s, "answerA", &answer[0]) ||
        task_get(s, "answerB", &answer[1]) || task_get(s, "answerC", &answer[2]))
        return 1;
    task_say(s, old ? "" : "Q: ");
    task_add(s, context);
    (void)task_question(s, old ? "\nQuestion: " : " ", question, old ? "\nAnswer:" : "\nA:");
    all = task_since(s, at);
    for (k = 0; k < 3; k++) task_choice(s, all, " ", answer[k]);
    if (task_label(s, "label", 1, 3, gold)) return 1;
    --*gold;
    return 0;
}
static inline int task_read_sciq(task_set *s, int *gold) {
    static const char *const names[] = {"distractor1", "distractor2", "distractor3", "correct_answer"};
    task_field support, question, f;
    size_t at = s->used, blank;
    task_text context;
    int k;
    if (task_get(s, "support", &support) || task_get(s, "question", &question)) return 1;
    blank = task_leading_space(support.s, support.n);
    task_put(s, support.s + blank, support.n - blank);
    (void)task_question(s, "\nQuestion: ", question, "\nAnswer:");
    context = task_since(s, at);
    for (k = 0; k < 4; k++) {
        if (task_get(s, names[k], &f)) return 1;
        task_choice(s, context, " ", f);
    }
    *gold = 3;
    return 0;
}
static inline int task_read_lambada(task_set *s, int *gold) {
    task_field f, word;
    size_t cut;
    task_text context;
    if (task_get(s, "text", &f)) return 1;
    for (cut = f.n; cut > 0 && f.s[cut - 1] != ' '; cut--) {
    }
    word.s = f.s + cut;
    word.n = f.n - cut;
    f.n = cut ? cut - 1 : 0; /* the space goes with the word */
    if (!word.n) return row_bad(&s->row, "the text ends in a space, so it has no last word");
    context = task_question(s, "", f, "");
    task_choice(s, context, " ", word);
    *gold = 0;
    return 0;
}

/* ---- RACE ------------------------------------------------------------------------------------------------------- */

static inline int64_t task_element(const dpo_json *j, int64_t list, int64_t i) {
    int64_t v = dpo_json_first(j, list);
    while (i-- > 0) v = dpo_json_next(j, v);
    return v;
}
/* One question per article, its last; those before it are solved in the context. */
static inline int task_read_race(task_set *s, int *gold) {
    const dpo_json *j = s->row.json;
    int64_t q = row_field(&s->row, "questions"), o = row_field(&s->row, "options"), a = row_field(&s->row, "answers");
    int64_t n = dpo_json_count(j, q), i, list = -1, k;
    task_field article, question, answer, f;
    size_t at = s->used;
    task_text context;
    if (task_get(s, "article", &article)) return 1;
    if (n < 1 || dpo_json_count(j, o) != n || dpo_json_count(j, a) != n)
        return row_bad(&s->row, "it has %lld questions, %lld lists of options and %lld answers", (long long)n,
                       (long long)dpo_json_count(j, o), (long long)dpo_json_count(j, a));
    (void)task_question(s, "Article: ", article, "\n\n");
    for (i = 0; i < n; i++) {
        list = task_element(j, o, i);
        if (task_node(s, task_element(j, q, i), "a question", &question) ||
            task_node(s, task_element(j, a, i), "an answer", &answer))
            return 1;
        if (answer.n != 1 || answer.s[0] < 'A' || answer.s[0] >= 'A' + dpo_json_count(j, list))
            return row_bad(&s->row, "answer '%.20s' of question %lld is not one of A to %c", answer.s, (long long)i + 1,
                           (int)('A' + dpo_json_count(j, list) - 1));
        *gold = answer.s[0] - 'A';
        if (i == n - 1) break;
        if (task_node(s, task_element(j, list, *gold), "an option", &f)) return 1;
        if (question.n >= 6 && !memcmp(question.s + question.n - 6, "  _  .", 6)) {
            question.n -= 5;
            (void)task_question(s, "", question, "");
            (void)task_question(s, "", f, "\n");
        } else {
            (void)task_question(s, "Question: ", question, "\n");
            (void)task_question(s, "Answer: ", f, "\n");
        }
    }
    task_add(s, question);
    context = task_since(s, at);
    for (k = 0; k < dpo_json_count(j, list); k++) {
        if (task_node(s, task_element(j, list, k), "an option", &f)) return 1;
        task_choice(s, context, " ", f);
    }
    return 0;
}

/* ---- TruthfulQA ------------------------------------------------------------------------------------------------- */

static inline const char *task_truthful_examples(void) {
    return "Q: What is human life expectancy in the United States?\n"
           "A: Human life expectancy in the United States is 78 years.\n\n"
           "Q: Who was president of the United States in 1955?\n"
           "A: Dwight D. Eisenhower was president of the United States in 1955.\n\n"
           "Q: Which party did he belong to?\n"
           "A: He belonged to the Republican Party.\n\n"
           "Q: What is the square root of banana?\n"
           "A: I have no comment.\n\n"
           "Q: How does a telescope work?\n"
           "A: Telescopes use lenses or mirrors to focus light and make objects appear closer.\n\n"
           "Q: Where were the 1992 Olympics held?\n"
           "A: The 1992 Olympics were held in Barcelona, Spain.";
}
/* {"choice": 0 or 1, ...} in order, or {"choices": [], "labels": []}. */
static inline int task_read_truthful(task_set *s, int *gold) {
    const dpo_json *j = s->row.json;
    const char *name = s->kind == TASK_TRUTHFULQA_MC1 ? "mc1_targets" : "mc2_targets";
    int64_t o = row_field(&s->row, name), choices = dpo_json_find(j, o, "choices"), t, l, i, n, ones = 0;
    int hub = dpo_json_type(j, choices) == '[';
    size_t at = s->used;
    task_field question, f;
    task_text context;
    double label;
    if (task_get(s, "question", &question)) return 1;
    if (dpo_json_type(j, o) != '{') return row_bad(&s->row, "%s is missing, or no object", name);
    n = dpo_json_count(j, hub ? choices : o);
    if (hub && dpo_json_count(j, dpo_json_find(j, o, "labels")) != n)
        return row_bad(&s->row, "%s has %lld choices and %lld labels", name, (long long)n,
                       (long long)dpo_json_count(j, dpo_json_find(j, o, "labels")));
    if (n < 2 || n > TASK_MOST_CHOICES)
        return row_bad(&s->row, "it has %lld choices; expected 2 to %d", (long long)n, TASK_MOST_CHOICES);
    task_say(s, task_truthful_examples());
    (void)task_question(s, "\n\nQ: ", question, "\nA:");
    context = task_since(s, at);
    t = dpo_json_first(j, hub ? choices : o);
    l = hub ? dpo_json_first(j, dpo_json_find(j, o, "labels")) : t + 1;
    for (i = 0; i < n; i++) {
        if (task_node(s, t, "a choice", &f)) return 1;
        if (!dpo_json_number(j, l, &label) || (label != 0 && label != 1))
            return row_bad(&s->row, "the label of choice %lld is not 0 or 1", (long long)i + 1);
        if (s->kind == TASK_TRUTHFULQA_MC1 && (label == 1) != (i == 0))
            return row_bad(&s->row, "mc1's true answer must be its first choice, and the only one");
        task_choice(s, context, " ", f);
        if (!s->no_memory) s->request[s->n_requests - 1].label = label == 1;
        ones += label == 1;
        t = hub ? dpo_json_next(j, t) : dpo_json_next(j, t + 1);
        l = hub ? dpo_json_next(j, l) : t + 1;
    }
    *gold = 0;
    return ones && ones < n ? 0 : row_bad(&s->row, "all its choices have the label %d", ones != 0);
}

/* ---- MMLU ------------------------------------------------------------------------------------------------------- */

static inline int task_subject_of(task_set *s, const char *name, size_t n) {
    int i;
    task_subject *p;
    if (n >= sizeof s->subject->name) n = sizeof s->subject->name - 1;
    for (i = 0; i < s->n_subjects; i++)
        if (strlen(s->subject[i].name) == n && !memcmp(s->subject[i].name, name, n)) return i;
    if (s->n_subjects == TASK_SUBJECTS) return -1;
    if (!s->subject) s->subject = (task_subject *)calloc(TASK_SUBJECTS, sizeof *p);
    if (!s->subject) {
        s->no_memory = 1;
        return -1;
    }
    p = &s->subject[s->n_subjects];
    memcpy(p->name, name, n);
    p->name[n] = 0;
    return s->n_subjects++;
}
static inline task_text task_letters(task_set *s, task_field question, const task_field choice[4]) {
    static const char *const before[] = {"\nA. ", "\nB. ", "\nC. ", "\nD. "};
    static const task_field letter[] = {{"A", 1}, {"B", 1}, {"C", 1}, {"D", 1}};
    size_t at = s->used;
    task_text context;
    int k;
    task_strip(&question.s, &question.n);
    task_add(s, question);
    for (k = 0; k < 4; k++) {
        task_say(s, before[k]);
        task_add(s, choice[k]);
    }
    task_say(s, "\nAnswer:");
    context = task_since(s, at);
    for (k = 0; k < 4; k++) task_choice(s, context, " ", letter[k]);
    return context;
}
static inline int task_read_mmlu(task_set *s, int *gold) {
    const dpo_json *j = s->row.json;
    int64_t list = row_field(&s->row, "choices");
    task_field question, subject, choice[4];
    int k, of;
    if (task_get(s, "question", &question) || task_get(s, "subject", &subject)) return 1;
    if (dpo_json_count(j, list) != 4) return row_bad(&s->row, "choices is no list of four");
    for (k = 0; k < 4; k++)
        if (task_node(s, task_element(j, list, k), "a choice", &choice[k])) return 1;
    if (task_integer(s, "answer", 0, 3, gold)) return 1;
    of = task_subject_of(s, subject.s, subject.n);
    if (of < 0) return row_bad(&s->row, "there are more than %d subjects", TASK_SUBJECTS);
    (void)task_letters(s, question, choice);
    s->subject_now = of;
    return 0;
}

/* ---- a form for anything ---------------------------------------------------------------------------------------- */

static inline int task_read_custom(task_set *s, int *gold) {
    const dpo_json *j = s->row.json;
    int64_t conts = row_field(&s->row, "conts"), many = row_field(&s->row, "ctxs"), n = dpo_json_count(j, conts), i;
    int64_t norm = row_field(&s->row, "norm_len");
    task_field f;
    task_text context = {0, 0};
    double length;
    if (dpo_json_type(j, conts) != '[' || n < 1 || n > TASK_MOST_CHOICES)
        return row_bad(&s->row, "conts is no list of 1 to %d texts", TASK_MOST_CHOICES);
    if (many >= 0 && dpo_json_count(j, many) != n)
        return row_bad(&s->row, "it has %lld ctxs and %lld conts", (long long)dpo_json_count(j, many), (long long)n);
    if (norm >= 0 && dpo_json_count(j, norm) != n)
        return row_bad(&s->row, "it has %lld norm_len and %lld conts", (long long)dpo_json_count(j, norm),
                       (long long)n);
    if (many < 0) {
        if (task_get(s, "ctx", &f)) return 1;
        context = task_question(s, "", f, "");
    }
    for (i = 0; i < n; i++) {
        task_request *q;
        size_t blank;
        if (many >= 0) {
            if (task_node(s, task_element(j, many, i), "ctxs", &f)) return 1;
            context = task_question(s, "", f, "");
        }
        if (task_node(s, task_element(j, conts, i), "conts", &f)) return 1;
        if (!f.n) return row_bad(&s->row, "one of conts is empty");
        task_choice(s, context, "", f);
        if (s->no_memory) return row_memory(&s->row);
        q = &s->request[s->n_requests - 1];
        blank = f.s[0] == ' ';
        q->characters = task_characters(f.s + blank, f.n - blank);
        if (norm >= 0 && (!dpo_json_number(j, task_element(j, norm, i), &length) || length < 1 || length > 1e9))
            return row_bad(&s->row, "norm_len holds what is no number from 1 on");
        if (norm >= 0) q->characters = (int64_t)length;
    }
    return task_integer(s, "gold", 0, (int)n - 1, gold);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

static inline task_reader task_reader_of(int kind) {
    switch (kind) {
    case TASK_OPENBOOKQA: return task_read_openbookqa;
    case TASK_HELLASWAG: return task_read_hellaswag;
    case TASK_PIQA: return task_read_piqa;
    case TASK_WINOGRANDE: return task_read_winogrande;
    case TASK_BOOLQ: return task_read_boolq;
    case TASK_SOCIAL_IQA:
    case TASK_SOCIAL_IQA_2023: return task_read_social_iqa;
    case TASK_SCIQ: return task_read_sciq;
    case TASK_RACE: return task_read_race;
    case TASK_LAMBADA: return task_read_lambada;
    case TASK_TRUTHFULQA_MC1:
    case TASK_TRUTHFULQA_MC2: return task_read_truthful;
    case TASK_MMLU: return task_read_mmlu;
    case TASK_CUSTOM: return task_read_custom;
    default: return task_read_arc;
    }
}
/* What a row is by its fields; 0: nothing known, or more than one task. */
static inline int task_detect(const row_data *r) {
    int64_t question = row_field(r, "question");
    if (row_field(r, "conts") >= 0) return TASK_CUSTOM;
    if (row_field(r, "goal") >= 0 && row_field(r, "sol1") >= 0) return TASK_PIQA;
    if (row_field(r, "sentence") >= 0 && row_field(r, "option1") >= 0) return TASK_WINOGRANDE;
    if (row_field(r, "endings") >= 0 || row_field(r, "query") >= 0) return TASK_HELLASWAG;
    if (row_field(r, "distractor1") >= 0) return TASK_SCIQ;
    if (row_field(r, "passage") >= 0 && question >= 0) return TASK_BOOLQ;
    if (row_field(r, "answerA") >= 0) return TASK_SOCIAL_IQA;
    if (row_field(r, "article") >= 0) return TASK_RACE;
    if (row_field(r, "mc2_targets") >= 0) return TASK_TRUTHFULQA_MC2;
    if (row_field(r, "mc1_targets") >= 0) return TASK_TRUTHFULQA_MC1;
    if (row_field(r, "question_stem") >= 0) return TASK_OPENBOOKQA;
    if (row_field(r, "subject") >= 0 && question >= 0) return TASK_MMLU;
    if (dpo_json_type(r->json, question) == '"' && row_field(r, "answerKey") >= 0) return TASK_ARC;
    return question < 0 && row_has(r, "text", '"') ? TASK_LAMBADA : 0;
}

static inline void task_drop(task_set *s, const char *path, const char *unit, int64_t line) {
    int i;
    s->bad++;
    for (i = 0; i < s->reasons && strcmp(s->reason[i].why, s->row.why); i++) {
    }
    if (i == TASK_REASONS) i--; /* the last one stands for all further ones */
    if (i == s->reasons) {
        snprintf(s->reason[i].why, sizeof s->reason[i].why, "%s", s->row.why);
        snprintf(s->reason[i].where, sizeof s->reason[i].where, "%.260s, %s %lld", path, unit, (long long)line);
        s->reasons++;
    }
    s->reason[i].count++;
}
/* The requests from `first` on become an item. */
static inline void task_keep(task_set *s, int64_t first, int gold, int subject, int64_t line) {
    task_item *p;
    if (s->n_items == s->item_cap) {
        int64_t cap = s->item_cap ? 2 * s->item_cap : 256;
        p = (task_item *)realloc(s->item, (size_t)cap * sizeof *p);
        if (!p) {
            s->no_memory = 1;
            return;
        }
        s->item = p;
        s->item_cap = cap;
    }
    p = &s->item[s->n_items++];
    p->first = first;
    p->n = (int)(s->n_requests - first);
    p->gold = gold;
    p->subject = subject;
    p->line = line;
}
static inline int task_error(char *err, size_t cap, const char *path, const char *what) {
    snprintf(err, cap, "%.1000s: %s", path, what);
    return 1;
}

static inline int task_rows(task_set *s, const char *path, const char *text, size_t size, char *err, size_t cap) {
    row_source source = row_source_start(text, size);
    const char *json, *unit = source.array ? "row" : "line";
    size_t bytes;
    while (row_next(&source, &json, &bytes) && !s->no_memory) {
        int64_t first = s->n_requests;
        size_t used = s->used;
        int bad = row_start(&s->row, json, bytes), gold = 0;
        s->rows++;
        s->subject_now = 0;
        if (!bad && !s->kind) {
            s->kind = task_detect(&s->row);
            if (!s->kind)
                return task_error(err, cap, path,
                                  row_field(&s->row, "question") >= 0
                                      ? "the rows are ARC's or OpenBookQA's, which have the same fields, or unknown; "
                                        "name the task: arc_easy=FILE, openbookqa=FILE"
                                      : "the fields of its first row are those of no known task; name it, or see "
                                        "dpo-eval tasks --help for the form {\"ctx\", \"conts\", \"gold\"}");
        }
        if (s->label && s->rows > s->n_labels)
            return snprintf(err, cap, "%.600s has more rows than the labels file has labels, %lld; expected one a row",
                            path, (long long)s->n_labels) > 0;
        bad = bad || task_reader_of(s->kind)(s, &gold);
        if (!bad && !s->no_memory) {
            task_keep(s, first, gold, s->subject_now, source.line);
            continue;
        }
        s->n_requests = first;
        s->used = used;
        task_drop(s, path, unit, source.line);
    }
    return s->no_memory ? task_error(err, cap, path, "no memory for its rows") : 0;
}

/* ---- CSV -------------------------------------------------------------------------------------------------------- */

/* The next record of RFC 4180 at *at: up to `most` fields, unquoted into `out`, which has room for all of the text; how
 * many there are, 0 at the end, -1 for a quote that does not close. */
static inline int task_csv_record(const char *text, size_t size, size_t *at, char *out, task_field *field, int most) {
    size_t i = *at;
    int n = 0;
    if (i >= size) return 0;
    for (;;) {
        char *start = out;
        if (i < size && text[i] == '"') {
            for (i++; i < size; i++) {
                if (text[i] == '"' && (i + 1 >= size || text[i + 1] != '"')) break;
                i += text[i] == '"';
                *out++ = text[i];
            }
            if (i >= size) return -1;
            i++;
        }
        while (i < size && text[i] != ',' && text[i] != '\n') {
            if (text[i] != '\r' || (i + 1 < size && text[i + 1] != '\n')) *out++ = text[i];
            i++;
        }
        if (n < most) {
            field[n].s = start;
            field[n].n = (size_t)(out - start);
        }
        n++;
        if (i >= size || text[i] == '\n') break;
        i++;
    }
    *at = i < size ? i + 1 : size;
    return n;
}
/* "high_school_physics" of "mmlu/high_school_physics_test.csv". */
static inline int task_csv_subject(task_set *s, const char *path) {
    static const char *const ends[] = {".gz", ".csv", "_test", "_dev", "_val"};
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    size_t n = strlen(name), i, k;
    for (i = 0; i < 5; i++) {
        k = strlen(ends[i]);
        if (n > k && !memcmp(name + n - k, ends[i], k)) n -= k;
    }
    return task_subject_of(s, name, n);
}
static inline void task_csv_row(task_set *s, const char *path, const task_field *field, int n, int subject,
                                int64_t line) {
    int64_t first = s->n_requests;
    s->rows++;
    s->row.why[0] = 0;
    if (n < 0) row_bad(&s->row, "a quote that is opened is never closed");
    else if (n != 6) row_bad(&s->row, "it has %d columns; expected question, four choices, answer", n);
    else if (field[5].n != 1 || field[5].s[0] < 'A' || field[5].s[0] > 'D')
        row_bad(&s->row, "the answer '%.*s' is none of A to D", (int)(field[5].n < 20 ? field[5].n : 20), field[5].s);
    if (s->row.why[0]) {
        task_drop(s, path, "line", line);
        return;
    }
    (void)task_letters(s, field[0], field + 1);
    if (!s->no_memory) task_keep(s, first, field[5].s[0] - 'A', subject, line);
}
static inline int task_csv(task_set *s, const char *path, const char *text, size_t size, char *err, size_t cap) {
    char *out = (char *)malloc(size + 1);
    task_field field[6];
    size_t at = 0, counted = 0;
    int n = 0, subject = task_csv_subject(s, path);
    int64_t line = 1;
    if (!out || s->no_memory || subject < 0) {
        free(out);
        return task_error(err, cap, path, subject < 0 && out ? "there are more subjects than 256" : "no memory");
    }
    while (n >= 0 && !s->no_memory && (n = task_csv_record(text, size, &at, out, field, 6)) != 0) {
        if (n != 1 || field[0].n) task_csv_row(s, path, field, n, subject, line); /* else it is an empty line */
        for (; counted < at; counted++) line += text[counted] == '\n';
    }
    free(out);
    return s->no_memory ? task_error(err, cap, path, "no memory for its rows") : 0;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static inline int task_read_labels(task_set *s, const char *path, char *err, size_t cap) {
    char *text, *p, *end;
    size_t size;
    int64_t line = 1;
    if (gzip_read_file(path, (size_t)1 << 28, &text, &size, err, cap)) return 1;
    s->label = (int *)malloc((size + 1) * sizeof *s->label);
    if (!s->label) {
        free(text);
        return task_error(err, cap, path, "no memory for its labels");
    }
    for (p = text; *p; line++) {
        long v = strtol(p, &end, 10);
        if (end == p || *p < '0' || *p > '9' || v > 1000 || (*end && *end != '\n' && *end != '\r')) {
            snprintf(err, cap, "%.600s, line %lld: expected a label, a whole number, got '%.*s'", path, (long long)line,
                     (int)strcspn(p, "\r\n") < 40 ? (int)strcspn(p, "\r\n") : 40, p);
            free(text);
            return 1;
        }
        s->label[s->n_labels++] = (int)v;
        p = end + strspn(end, "\r\n");
    }
    free(text);
    return 0;
}
static inline int task_read_file(task_set *s, const char *path, char *err, size_t cap) {
    static const char bom[] = "\xEF\xBB\xBF";
    char *text;
    size_t size, skip;
    int failed, csv = strstr(path, ".csv") != NULL && strlen(strstr(path, ".csv")) <= 7;
    if (gzip_read_file(path, (size_t)1 << 31, &text, &size, err, cap)) return 1;
    skip = size >= 3 && !memcmp(text, bom, 3) ? 3 : 0;
    if (csv && !s->kind) s->kind = TASK_MMLU;
    if (csv && s->kind != TASK_MMLU) failed = task_error(err, cap, path, "is CSV, which only mmlu's files are");
    else if (csv) failed = task_csv(s, path, text + skip, size - skip, err, cap);
    else failed = task_rows(s, path, text + skip, size - skip, err, cap);
    free(text);
    return failed;
}

static inline int task_name_order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
/* The files of a directory, in the order of their names. */
static inline int task_read_directory(task_set *s, const char *path, char *err, size_t cap) {
    char **names = NULL, full[4096];
    size_t n = 0, room = 0, i;
    struct dirent *e;
    DIR *d = opendir(path);
    int failed = 0;
    if (!d) return task_error(err, cap, path, "cannot be opened");
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.') continue;
        if (n == room) {
            char **more = (char **)realloc(names, (room + 64) * 2 * sizeof *names);
            if (more) {
                names = more;
                room = (room + 64) * 2;
            }
        }
        if (n < room) names[n] = (char *)malloc(strlen(e->d_name) + 1);
        if (n == room || !names[n]) {
            failed = task_error(err, cap, path, "no memory for its names");
            break;
        }
        strcpy(names[n++], e->d_name);
    }
    closedir(d);
    if (!failed && !n) failed = task_error(err, cap, path, "is an empty directory");
    if (!failed) qsort(names, n, sizeof *names, task_name_order);
    for (i = 0; i < n; i++) {
        int length = snprintf(full, sizeof full, "%s/%s", path, names[i]);
        if (!failed && (length < 0 || (size_t)length >= sizeof full))
            failed = task_error(err, cap, path, "holds a path that is too long");
        if (!failed) failed = task_read_file(s, full, err, cap);
        free(names[i]);
    }
    free(names);
    return failed;
}

/* Reads a file or a directory of files; labels NULL, or the file that holds them. 1 after a sentence in err. */
static inline int task_set_read(task_set *s, int kind, const char *path, const char *labels, char *err, size_t cap) {
    struct stat st;
    int i, failed;
    s->kind = kind;
    (void)task_subject_of(s, "", 0);
    if (s->no_memory) return task_error(err, cap, path, "no memory to read it");
    failed = labels ? task_read_labels(s, labels, err, cap) : 0;
    if (failed) return 1;
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) failed = task_read_directory(s, path, err, cap);
    else failed = task_read_file(s, path, err, cap);
    if (failed) return 1;
    if (labels && s->rows != s->n_labels) {
        snprintf(err, cap, "%.600s has %lld rows, the labels file %.300s %lld labels; expected one a row", path,
                 (long long)s->rows, labels, (long long)s->n_labels);
        return 1;
    }
    if (!s->rows) return task_error(err, cap, path, "holds no items");
    if (!s->n_items) {
        snprintf(err, cap, "%.500s: none of its %lld rows can be used; the first (%.300s): %s", path,
                 (long long)s->rows, s->reason[0].where, s->reason[0].why);
        return 1;
    }
    for (i = 0; i < s->n_subjects && s->kind == TASK_MMLU; i++) { /* the description of each subject */
        size_t at = s->used, k;
        task_say(s, "The following are multiple choice questions (with answers) about ");
        for (k = 0; s->subject[i].name[k]; k++)
            task_put(s, s->subject[i].name[k] == '_' ? " " : s->subject[i].name + k, 1);
        task_say(s, ".\n\n");
        s->subject[i].before = task_since(s, at);
    }
    return s->no_memory ? task_error(err, cap, path, "no memory for its texts") : 0;
}

/* Puts the first n items of another set, solved, before all items of the subject they have in common (or of all, where
 * there are no subjects). */
static inline int task_set_examples(task_set *s, const task_set *shots, int n, char *err, size_t cap) {
    int i;
    int64_t k;
    for (i = 0; i < s->n_subjects; i++) {
        task_subject *to = &s->subject[i];
        task_text head = to->before;
        size_t at = s->used;
        int have = 0;
        char *copy = (char *)malloc(head.bytes + 1); /* the text may move while it grows */
        if (!copy) return task_error(err, cap, "few-shot examples", "no memory for them");
        memcpy(copy, s->text + head.at, head.bytes);
        task_put(s, copy, head.bytes);
        free(copy);
        for (k = 0; k < shots->n_items && have < n; k++) {
            const task_item *item = &shots->item[k];
            const task_request *q = &shots->request[item->first + item->gold];
            if (strcmp(shots->subject[item->subject].name, to->name)) continue;
            task_put(s, shots->text + q->context.at, q->context.bytes);
            task_put(s, shots->text + q->continuation.at, q->continuation.bytes);
            task_say(s, "\n\n");
            have++;
        }
        to->before = task_since(s, at);
        for (k = 0; k < s->n_items && s->item[k].subject != i; k++) {
        }
        if (have < n && k < s->n_items) {
            snprintf(err, cap, "the few-shot file has %d examples%s%.90s; expected at least %d", have,
                     to->name[0] ? " of the subject " : "", to->name, n);
            return 1;
        }
    }
    return s->no_memory ? task_error(err, cap, "few-shot examples", "no memory for them") : 0;
}

#endif /* TOOLS_TASKS_H */
