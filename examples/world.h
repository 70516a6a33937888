/* world.h - the little world of Puddle: a deterministic corpus, chats, preference pairs, and a rule that judges an answer.

   Puddle is a village of 24 animals. Each has a home, a hat of some colour, a favourite food and a trade: 96 facts, fixed
   for ever in one table below. Everything else is drawn from it by counter: the same (seed, split, index) gives the same
   bytes on every machine, in any order, with no state and no files. A byte-level transformer of a million parameters
   learns the village in about a minute, so that pretraining, SFT and DPO can be shown and tested on a laptop.

       char text[WORLD_DOCUMENT_MAX];
       world_document(seed, WORLD_TRAIN, i, text, sizeof text);     a document to pretrain on; the i-th of 2^64

       world_pair_text pair;
       world_pair(seed, WORLD_TRAIN, i, &pair);                     pair.prompt, pair.chosen, pair.rejected

       world_question(seed, WORLD_HELDOUT, i, text, sizeof text);   a prompt to sample an answer to: pair i's
       const char *reason;
       int good = world_judge(text, answer, &reason);               1, "good"; or 0 and why, "wrong fact" say

       world_choice_text item;
       world_choice(seed, i, &item);                                a multiple-choice item: context, 4 choices, gold
       world_choice_about(seed, WORLD_HAT, i, &item);               the same about one kind of fact: a task of its own
       world_reply(seed, WORLD_HELDOUT, i, &item);                  a question and four answers to it: which is the good one?

       world_forum_text post;
       world_forum(seed, WORLD_TRAIN, i, &post);                    a post with two answers and their votes, in SHP's form

       world_instruction_text task;
       world_instruction(seed, i, &task);                           task.instruction, task.output, in Alpaca's form

   The form is Anthropic-HH's: a prompt is "\n\nHuman: QUESTION\n\nAssistant:", an answer begins with one space and ends
   without a newline. So prompt + answer is a whole chat, and a line of HH's files is two of them.

   How an answer comes about. People who answer are of many kinds, so an answer is a draw from a mixture of behaviours,
   whoever is asked and whatever the question. The rule gives each a score, and the better of two draws is "chosen":

       share  behaviour                      example, asked where Ben lives                       score  reason
        36 %  right and kind                 " Of course! Ben lives in the cave."                   6    good
        10 %  right, without a kind word     " In the cave."                                        5    curt
        14 %  right, but rude                " Ben lives in the cave. Go away."                     4    unkind
         9 %  right, but goes on and on      " Ben lives in the cave. The home of Ben is the cave." 3    rambles
         4 %  right, but never ends          " Gladly! Ben lives in the cave and then"              2    does not end
         9 %  evasive                        " I forget. Take care!"                                2    does not answer
        13 %  wrong, but kind                " Ben lives in the mill. Happy to help!"               1    wrong fact
         5 %  wrong and rude                 " Ugh. Ben lives in the mill."                         0    wrong fact

   Only score 6 is accepted. A pair is two draws for one prompt whose scores differ; chosen has the higher, always. So
   36 % of all answers are good, 58 % of the chosen and none of the rejected: SFT on the chosen lifts a model from about
   one share to about the other, and DPO, which is also told what not to say, can go far beyond. The mixture is such that
   "the longer answer is the better" is right for about half of the pairs: length teaches nothing.

   The rule (world_score) reads the question from the prompt's last turn, then the answer sentence by sentence; upper and
   lower case are the same. A sentence is a kind phrase, a rude one, an evasive one, or a fact. Good is: the fact asked
   for, once, right, with one or two different kind phrases and nothing else, every sentence ended, no newline inside.
   A word, byte or sentence that is not of the village makes an answer "garbled", and it is not accepted.

   Splits. One in eight of the (villager, wording of a question) combinations is held out: its prompts occur in no
   training pair and in no training document. The facts themselves are all in the corpus. Documents are split by a hash of their text.

   Forum data. A post says who asks, then asks as above; world_score judges answers to post.prompt. Its answers are drawn
   from the same mixture, but the forum votes by a taste of its own: right answers get more votes than wrong ones, good and
   rambling ones most, and luck multiplies the votes by 1 to 4. So its labels are noisier than the chats'.

   Instructions. Training questions, without a greeting, and the fact in a plain sentence: right and curt.

   What it promises: C99 and C++17; no allocation, no stdio, no libm, no writable globals; nothing is written beyond cap;
   any bytes may be judged; adding to this file never changes what a (seed, split, index) gives (WORLD_VERSION says else).
   Draws of other things (forum data, instructions) get salts of their own in world_stream_at. */
#ifndef WORLD_H
#define WORLD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WORLD_VERSION      1
#define WORLD_DOCUMENT_MAX 640 /* bytes that hold any document, with its ending 0 */
#define WORLD_PROMPT_MAX   128 /* likewise any prompt */
#define WORLD_ANSWER_MAX   160 /* and any answer */

enum { WORLD_TRAIN = 0, WORLD_HELDOUT = 1 };
enum { WORLD_HOME = 0, WORLD_HAT = 1, WORLD_FOOD = 2, WORLD_TRADE = 3, WORLD_KINDS = 4 }; /* what can be asked */
enum {
    WORLD_VILLAGERS = 24,
    WORLD_WORDINGS = 4,
    WORLD_OPENINGS = 3,
    WORLD_SAYINGS = 2,
    WORLD_PHRASES = 6,
    WORLD_GOOD = 6
};

typedef struct {
    const char *name, *animal, *fact[WORLD_KINDS];
} world_villager;

typedef struct {
    char prompt[WORLD_PROMPT_MAX], chosen[WORLD_ANSWER_MAX], rejected[WORLD_ANSWER_MAX];
    int chosen_score, rejected_score; /* chosen_score > rejected_score; world_score gives the same */
} world_pair_text;

typedef struct {
    char context[WORLD_PROMPT_MAX], choice[4][WORLD_ANSWER_MAX]; /* a choice begins with a space and goes on from it */
    int gold;                                                    /* 0..3, the right one */
} world_choice_text;

typedef struct {
    char history[WORLD_PROMPT_MAX];  /* the post */
    char prompt[WORLD_PROMPT_MAX];   /* what SHP's readers make of it: "\n\nHuman: POST\n\nAssistant:" */
    char question[WORLD_PROMPT_MAX]; /* the prompt without who asks: what world_score reads */
    char ref[2][WORLD_ANSWER_MAX];   /* human_ref_A, human_ref_B: without a space before them */
    int votes[2], score[2];          /* score_A, score_B; what world_score says of each */
} world_forum_text;

typedef struct {
    char instruction[WORLD_PROMPT_MAX], output[WORLD_ANSWER_MAX];
} world_instruction_text;

/* ---- the village ------------------------------------------------------------------------------------------------ */

static inline const world_villager *world_villager_at(int i) {
    static const world_villager table[WORLD_VILLAGERS] = {
        {"Ada", "ant", {"barn", "red", "cake", "baker"}},
        {"Ben", "badger", {"cave", "brown", "honey", "singer"}},
        {"Cleo", "cat", {"inn", "black", "bread", "teacher"}},
        {"Dot", "duck", {"mill", "red", "pie", "weaver"}},
        {"Ella", "elk", {"shed", "green", "rice", "sailor"}},
        {"Finn", "fox", {"tower", "blue", "soup", "baker"}},
        {"Gus", "goose", {"attic", "brown", "plums", "piper"}},
        {"Hal", "hare", {"castle", "black", "cheese", "doctor"}},
        {"Ivy", "ibis", {"tower", "brown", "beans", "potter"}},
        {"Jan", "jay", {"cellar", "pink", "jam", "farmer"}},
        {"Kit", "kiwi", {"garden", "yellow", "apples", "doctor"}},
        {"Lou", "lamb", {"inn", "white", "beans", "weaver"}},
        {"Mia", "mole", {"cellar", "green", "nuts", "miller"}},
        {"Ned", "newt", {"attic", "white", "pie", "painter"}},
        {"Otto", "otter", {"boat", "yellow", "plums", "sailor"}},
        {"Pip", "pig", {"barn", "pink", "apples", "tailor"}},
        {"Quin", "quail", {"cave", "red", "rice", "painter"}},
        {"Rob", "robin", {"mill", "blue", "cheese", "teacher"}},
        {"Sue", "swan", {"hut", "yellow", "bread", "tailor"}},
        {"Tom", "toad", {"garden", "green", "soup", "miller"}},
        {"Val", "vole", {"shed", "blue", "jam", "piper"}},
        {"Wil", "wren", {"boat", "pink", "cake", "singer"}},
        {"Yan", "yak", {"castle", "white", "honey", "potter"}},
        {"Zoe", "zebra", {"hut", "black", "nuts", "farmer"}},
    };
    return &table[i];
}

/* In the texts below: @ a villager's name, & name and animal ("Ben the badger"), # "a badger", ~ and ^ the same as @ and &
   for a second villager, 0 1 2 3 that one's home, hat, food and trade, * the value at hand. */

static inline const char *world_wording_at(int kind, int i) {
    static const char *const table[WORLD_KINDS][WORLD_WORDINGS] = {
        {"Where does @ live?", "Where is the home of @?", "Where can I find @?", "Where does & sleep?"},
        {"Which hat does @ wear?", "What colour is the hat of @?", "Which hat belongs to @?",
         "Which colour does & wear?"},
        {"What does @ like to eat?", "Which food does @ love?", "What shall I cook for @?",
         "What does & eat for lunch?"},
        {"What work does @ do?", "What is the trade of @?", "How does @ earn a living?", "What does & work as?"},
    };
    return table[kind][i];
}

static inline const char *world_opening_at(int i) {
    static const char *const table[WORLD_OPENINGS] = {"", "Hello! ", "Excuse me. "};
    return table[i];
}

/* A fact, said in one of two ways; the third is the bare answer. */
static inline const char *world_saying_at(int kind, int i) {
    static const char *const table[WORLD_KINDS][WORLD_SAYINGS + 1] = {
        {"@ lives in the *.", "The home of @ is the *.", "In the *."},
        {"@ wears a * hat.", "The hat of @ is *.", "A * hat."},
        {"@ loves *.", "@ likes to eat *.", "*."},
        {"@ works as a *.", "The trade of @ is that of a *.", "A *."},
    };
    return table[kind][i];
}

/* Phrases: the first three of kind and rude come before the fact, the others after it. */
enum { WORLD_KIND_PHRASE = 0, WORLD_RUDE_PHRASE = 1, WORLD_EVASION = 2 };

static inline const char *world_phrase_at(int sort, int i) {
    static const char *const table[3][WORLD_PHRASES] = {
        {"Of course!", "Gladly!", "Good question!", "Take care!", "Have a lovely day!", "Happy to help!"},
        {"Ugh.", "Who cares?", "Not you again.", "Go away.", "Do not ask again.", "Everybody knows that."},
        {"I do not know.", "I am not sure.", "I forget.", "Ask somebody else.", "It depends.", "Maybe, maybe not."},
    };
    return table[sort][i];
}

/* ---- random draws ----------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t key, count;
} world_stream;

enum {
    WORLD_SALT_DOCUMENT = 1,
    WORLD_SALT_QUESTION = 2,
    WORLD_SALT_ANSWER = 3,
    WORLD_SALT_CHOICE = 4,
    WORLD_SALT_SPLIT = 5,
    WORLD_SALT_FORUM = 6,
    WORLD_SALT_INSTRUCTION = 7,
    WORLD_SALT_TASK = 8,
    WORLD_SALT_REPLY = 9
};

static inline uint64_t world_mix(uint64_t x) { /* splitmix64 */
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline world_stream world_stream_at(uint64_t seed, int salt, int split, uint64_t index) {
    world_stream s;
    s.key = world_mix(world_mix(world_mix(seed) + (uint64_t)salt * 2 + (uint64_t)(split != WORLD_TRAIN)) + index);
    s.count = 0;
    return s;
}

/* A number in 0 .. n-1. */
static inline int world_draw(world_stream *s, int n) {
    uint64_t top = world_mix(s->key + s->count++ * 0xD1342543DE82EF95u) >> 32;
    return (int)((top * (uint64_t)n) >> 32);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

typedef struct {
    char *out;
    size_t cap, length; /* length counts on beyond cap, as snprintf does */
    uint64_t hash;      /* of all bytes put */
} world_text;

static inline world_text world_text_on(char *out, size_t cap) {
    world_text t;
    t.out = out;
    t.cap = cap;
    t.length = 0;
    t.hash = 0;
    if (cap > 0) out[0] = 0;
    return t;
}

static inline void world_put_byte(world_text *t, char c) {
    t->hash = world_mix(t->hash ^ (unsigned char)c);
    if (t->length + 1 < t->cap) {
        t->out[t->length] = c;
        t->out[t->length + 1] = 0;
    }
    t->length++;
}

static inline void world_put(world_text *t, const char *s) {
    while (*s) world_put_byte(t, *s++);
}

static inline char world_upper(char c) { return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c; }

static inline char world_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

static inline int world_is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Writes a pattern's text about villager a (and b); upper case where the pattern begins with the value. */
static inline void world_put_pattern(world_text *t, const char *pattern, int a, int b, const char *value) {
    const world_villager *first = world_villager_at(a), *second = world_villager_at(b);
    const char *p;
    for (p = pattern; *p; p++) {
        const world_villager *who = *p == '~' || *p == '^' ? second : first;
        if (*p == '@' || *p == '~') {
            world_put(t, who->name);
        } else if (*p == '&' || *p == '^') {
            world_put(t, who->name);
            world_put(t, " the ");
            world_put(t, who->animal);
        } else if (*p == '#') {
            world_put(t, strchr("aeiou", who->animal[0]) ? "an " : "a ");
            world_put(t, who->animal);
        } else if (*p >= '0' && *p <= '3') {
            world_put(t, second->fact[*p - '0']);
        } else if (*p == '*' && p == pattern) {
            world_put_byte(t, world_upper(value[0]));
            world_put(t, value + 1);
        } else if (*p == '*') {
            world_put(t, value);
        } else {
            world_put_byte(t, *p);
        }
    }
}

/* Says a fact of a villager in one of the two ways; full: with the animal, in two of three. */
static inline void world_put_fact(world_text *t, world_stream *s, int a, int kind, int full) {
    const char *p = world_saying_at(kind, world_draw(s, WORLD_SAYINGS)), *value = world_villager_at(a)->fact[kind];
    char changed[64];
    size_t i;
    full = full && world_draw(s, 3) > 0;
    for (i = 0; p[i] && i + 1 < sizeof changed; i++) changed[i] = full && p[i] == '@' ? '&' : p[i];
    changed[i] = 0;
    world_put_pattern(t, changed, a, a, value);
}

/* ---- questions and answers -------------------------------------------------------------------------------------- */

typedef struct {
    int villager, kind, wording, opening;
} world_asked;

/* Of every other fact, one wording is held out. */
static inline int world_split_of(int villager, int kind, int wording) {
    uint64_t h = world_mix(world_mix(WORLD_SALT_SPLIT) + (uint64_t)(villager * WORLD_KINDS + kind));
    return (villager + kind) % 2 == 0 && (int)(h % WORLD_WORDINGS) == wording ? WORLD_HELDOUT : WORLD_TRAIN;
}

static inline world_asked world_draw_question(world_stream *s, int split) {
    world_asked q;
    do {
        q.villager = world_draw(s, WORLD_VILLAGERS);
        q.kind = world_draw(s, WORLD_KINDS);
        q.wording = world_draw(s, WORLD_WORDINGS);
        q.opening = world_draw(s, WORLD_OPENINGS);
    } while (world_split_of(q.villager, q.kind, q.wording) != (split == WORLD_TRAIN ? WORLD_TRAIN : WORLD_HELDOUT));
    return q;
}

static inline void world_put_question(world_text *t, const world_asked *q) {
    world_put(t, "\n\nHuman: ");
    world_put(t, world_opening_at(q->opening));
    world_put_pattern(t, world_wording_at(q->kind, q->wording), q->villager, q->villager, "");
    world_put(t, "\n\nAssistant:");
}

/* A value of this kind that is not the villager's, taken from another villager. */
static inline const char *world_draw_wrong(world_stream *s, int villager, int kind) {
    const char *right = world_villager_at(villager)->fact[kind], *wrong;
    do {
        wrong = world_villager_at(world_draw(s, WORLD_VILLAGERS))->fact[kind];
    } while (strcmp(wrong, right) == 0);
    return wrong;
}

/* The parts of an answer, each with the space before it. */
static inline void world_put_phrase(world_text *t, int sort, int i) {
    world_put(t, " ");
    world_put(t, world_phrase_at(sort, i));
}

static inline void world_put_saying(world_text *t, const world_asked *q, int saying, const char *value) {
    world_put(t, " ");
    world_put_pattern(t, world_saying_at(q->kind, saying), q->villager, q->villager, value);
}

/* A fact with one phrase of this sort before or after it, or (one in six) both. One fact in six is bare. */
static inline void world_put_toned(world_text *t, world_stream *s, const world_asked *q, int sort, const char *value) {
    int place = world_draw(s, 6), saying = world_draw(s, 6), before = world_draw(s, 3), after = 3 + world_draw(s, 3);
    if (place < 4) world_put_phrase(t, sort, before);
    world_put_saying(t, q, saying == 5 ? WORLD_SAYINGS : saying & 1, value);
    if (place > 2) world_put_phrase(t, sort, after);
}

static inline void world_put_ramble(world_text *t, world_stream *s, const world_asked *q, const char *value) {
    int saying = world_draw(s, WORLD_SAYINGS), form = world_draw(s, 4);
    if (form == 0) world_put_phrase(t, WORLD_KIND_PHRASE, world_draw(s, 3));
    world_put_saying(t, q, saying, value);
    if (form < 3) { /* says it again */
        world_put_saying(t, q, form == 2 ? saying : 1 - saying, value);
    } else { /* says what nobody asked */
        world_put(t, " ");
        world_put_fact(t, s, q->villager, (q->kind + 1 + world_draw(s, 3)) % WORLD_KINDS, 0);
    }
}

static inline void world_put_endless(world_text *t, world_stream *s, const world_asked *q, const char *value) {
    static const char *const tail[4] = {" and", " and then", " and so on and so on", ", you know,"};
    const char *p = world_saying_at(q->kind, world_draw(s, WORLD_SAYINGS));
    char open[64];
    size_t n = strlen(p) - 1; /* without its full stop */
    if (world_draw(s, 2)) world_put_phrase(t, WORLD_KIND_PHRASE, world_draw(s, 3));
    if (n > sizeof open - 1) n = sizeof open - 1;
    memcpy(open, p, n);
    open[n] = 0;
    world_put(t, " ");
    world_put_pattern(t, open, q->villager, q->villager, value);
    world_put(t, tail[world_draw(s, 4)]);
}

static inline void world_put_evasion(world_text *t, world_stream *s) {
    int tone = world_draw(s, 4), sort = tone & 1, phrase = world_draw(s, 3); /* alone; something before; after */
    if (tone == 1) world_put_phrase(t, sort, phrase);
    world_put_phrase(t, WORLD_EVASION, world_draw(s, WORLD_PHRASES));
    if (tone > 1) world_put_phrase(t, sort, 3 + phrase);
}

/* Draws an answer from the mixture described at the top; gives its score. */
static inline int world_put_answer(world_text *t, world_stream *s, const world_asked *q) {
    static const int share[8] = {36, 10, 14, 9, 4, 9, 13, 5}, score[8] = {6, 5, 4, 3, 2, 2, 1, 0};
    const char *right = world_villager_at(q->villager)->fact[q->kind];
    int behaviour = 0, u = world_draw(s, 100);
    while (u >= share[behaviour]) u -= share[behaviour++];
    switch (behaviour) {
    case 0: world_put_toned(t, s, q, WORLD_KIND_PHRASE, right); break;
    case 1: world_put_saying(t, q, world_draw(s, WORLD_SAYINGS + 1), right); break;
    case 2: world_put_toned(t, s, q, WORLD_RUDE_PHRASE, right); break;
    case 3: world_put_ramble(t, s, q, right); break;
    case 4: world_put_endless(t, s, q, right); break;
    case 5: world_put_evasion(t, s); break;
    case 6: world_put_toned(t, s, q, WORLD_KIND_PHRASE, world_draw_wrong(s, q->villager, q->kind)); break;
    default: world_put_toned(t, s, q, WORLD_RUDE_PHRASE, world_draw_wrong(s, q->villager, q->kind)); break;
    }
    return score[behaviour];
}

/* The prompt of pair `index`. Returns its length, as snprintf does. */
static inline size_t world_question(uint64_t seed, int split, uint64_t index, char *out, size_t cap) {
    world_stream s = world_stream_at(seed, WORLD_SALT_QUESTION, split, index);
    world_asked q = world_draw_question(&s, split);
    world_text t = world_text_on(out, cap);
    world_put_question(&t, &q);
    return t.length;
}

static inline void world_pair(uint64_t seed, int split, uint64_t index, world_pair_text *pair) {
    world_stream s = world_stream_at(seed, WORLD_SALT_QUESTION, split, index);
    world_asked q = world_draw_question(&s, split);
    world_text t = world_text_on(pair->prompt, sizeof pair->prompt);
    world_put_question(&t, &q);
    s = world_stream_at(seed, WORLD_SALT_ANSWER, split, index);
    do {
        world_text a = world_text_on(pair->chosen, sizeof pair->chosen);
        world_text b = world_text_on(pair->rejected, sizeof pair->rejected);
        pair->chosen_score = world_put_answer(&a, &s, &q);
        pair->rejected_score = world_put_answer(&b, &s, &q);
    } while (pair->chosen_score == pair->rejected_score);
    if (pair->chosen_score < pair->rejected_score) {
        char text[WORLD_ANSWER_MAX];
        int score = pair->chosen_score;
        memcpy(text, pair->chosen, sizeof text);
        memcpy(pair->chosen, pair->rejected, sizeof text);
        memcpy(pair->rejected, text, sizeof text);
        pair->chosen_score = pair->rejected_score;
        pair->rejected_score = score;
    }
}

/* ---- documents -------------------------------------------------------------------------------------------------- */

/* All about one villager. */
static inline void world_put_portrait(world_text *t, world_stream *s) {
    static const char *const end[4] = {"", " Everybody likes @.", " @ has many friends.", " That is all about @."};
    int a = world_draw(s, WORLD_VILLAGERS), order[WORLD_KINDS] = {0, 1, 2, 3}, i;
    world_put_pattern(t, world_draw(s, 2) ? "@ is #." : "& lives in Puddle.", a, a, "");
    for (i = 0; i < WORLD_KINDS; i++) {
        int j = i + world_draw(s, WORLD_KINDS - i), kind = order[j];
        order[j] = order[i];
        order[i] = kind;
        world_put(t, " ");
        world_put_fact(t, s, a, kind, 0);
    }
    world_put_pattern(t, end[world_draw(s, 4)], a, a, "");
}

/* Who shares a home, a colour, a food or a trade. */
static inline void world_put_group(world_text *t, world_stream *s) {
    static const char *const tail[WORLD_KINDS] = {" live in the *.", " wear * hats.", " love *.", " work as *s."};
    int kind = world_draw(s, WORLD_KINDS), member[WORLD_VILLAGERS], count = 0, i;
    const char *value = world_villager_at(world_draw(s, WORLD_VILLAGERS))->fact[kind];
    for (i = 0; i < WORLD_VILLAGERS; i++)
        if (strcmp(world_villager_at(i)->fact[kind], value) == 0) member[count++] = i;
    for (i = 0; i < count; i++) {
        int j = i + world_draw(s, count - i), a = member[j];
        member[j] = member[i];
        member[i] = a;
        if (i > 0) world_put(t, i + 1 < count ? ", " : " and ");
        world_put(t, world_villager_at(a)->name);
    }
    world_put_pattern(t, tail[kind], 0, 0, value);
    for (i = 0; i < count; i++) {
        world_put(t, " ");
        world_put_fact(t, s, member[i], world_draw(s, 2) ? kind : world_draw(s, WORLD_KINDS), 1);
    }
}

/* One villager meets another. */
static inline void world_put_story(world_text *t, world_stream *s) {
    static const char *const story[6] = {
        ("^ is at home in the 0 today. & comes to see ~ and brings a basket of 2. ~ loves 2. They talk until the moon "
         "is up."),
        "It is market day in Puddle. & meets ^, who works as a 3. ~ wears a 1 hat and eats 2. It is a good day.",
        "One night & hears a song from the 0. It is ^, for ~ lives in the 0. The song is all about 2, for ~ loves 2.",
        "^ has lost a hat. My hat is 1, says ~. & finds the 1 hat in the 0, where ~ lives. Thank you, says ~.",
        "& needs a 3 and asks ^. ~ works as a 3. ~ comes from the 0 in a 1 hat and helps. Thank you, says @.",
        "In winter it is warm in the 0. ^ lives in the 0 and cooks 2 for &. ~ likes to eat 2. @ has seconds.",
    };
    int a = world_draw(s, WORLD_VILLAGERS), b = world_draw(s, WORLD_VILLAGERS - 1);
    world_put_pattern(t, story[world_draw(s, 6)], a, b < a ? b : b + 1, "");
}

/* This and that. */
static inline void world_put_news(world_text *t, world_stream *s) {
    static const char *const start[4] = {"Here is the news of Puddle.", "It is a fine day in Puddle.",
                                         "Come and see the village of Puddle.", "Puddle is a small village."};
    int n = 3 + world_draw(s, 3), i;
    world_put(t, start[world_draw(s, 4)]);
    for (i = 0; i < n; i++) {
        int a = world_draw(s, WORLD_VILLAGERS);
        world_put(t, " ");
        world_put_fact(t, s, a, world_draw(s, WORLD_KINDS), 1);
    }
}

/* A page of the schoolbook: questions with their answers. */
static inline void world_put_lesson(world_text *t, world_stream *s, int split) {
    int n = 2 + world_draw(s, 2), i;
    for (i = 0; i < n; i++) {
        world_asked q = world_draw_question(s, split);
        if (i > 0) world_put(t, " ");
        world_put_pattern(t, world_wording_at(q.kind, q.wording), q.villager, q.villager, "");
        world_put_saying(t, &q, world_draw(s, WORLD_SAYINGS), world_villager_at(q.villager)->fact[q.kind]);
    }
}

/* A rhyme: it says a name over and over, from which a young model learns soonest to look back for the name. */
static inline void world_put_rhyme(world_text *t, world_stream *s) {
    static const char *const rhyme[6] = {
        "@, @, where is @? @ is in the 0. Good night in the 0, @, good night, & in the 0.",
        "@, @, what eats @? @ eats 2. 2 for @, 2 for &, for @ loves 2.",
        "Oh 1 hat, 1 hat, who wears you? @ does, @ does, & does. @ wears a 1 hat.",
        "Who is a 3? @ is a 3, @ the 3. Sing for us, @, for @ works as a 3.",
        "Call for @! @, @, &! Come out of the 0, @, and bring the 1 hat, @.",
        "Here comes @, & comes. @ the 3, @ the 3, @ with 2 for all.",
    };
    int a = world_draw(s, WORLD_VILLAGERS);
    world_put_pattern(t, rhyme[world_draw(s, 6)], a, a, "");
}

/* One to three questions, answered by anybody. */
static inline void world_put_chat(world_text *t, world_stream *s, int split) {
    int u = world_draw(s, 10), n = u < 6 ? 1 : u < 9 ? 2 : 3;
    while (n-- > 0) {
        world_asked q = world_draw_question(s, split);
        world_put_question(t, &q);
        (void)world_put_answer(t, s, &q);
    }
}

/* Document `index` to pretrain on: prose of 2 to 8 sentences, or (two in five) a chat. Returns its length, as snprintf does. */
static inline size_t world_document(uint64_t seed, int split, uint64_t index, char *out, size_t cap) {
    world_stream s = world_stream_at(seed, WORLD_SALT_DOCUMENT, split, index);
    for (;;) {
        world_text t = world_text_on(out, cap);
        int form = world_draw(&s, 100);
        if (form < 40) world_put_chat(&t, &s, split);
        else if (form < 60) world_put_lesson(&t, &s, split);
        else if (form < 75) world_put_portrait(&t, &s);
        else if (form < 90) world_put_rhyme(&t, &s);
        else if (form < 93) world_put_group(&t, &s);
        else if (form < 97) world_put_story(&t, &s);
        else world_put_news(&t, &s);
        if ((t.hash % 8 == 0) == (split != WORLD_TRAIN)) return t.length;
    }
}

static inline void world_put_choice(world_stream *s, int a, int kind, world_choice_text *item) {
    int i, j;
    const char *p = world_saying_at(kind, world_draw(s, WORLD_SAYINGS)), *tail = strchr(p, '*'), *value[4];
    char head[64];
    size_t n = tail ? (size_t)(tail - p) - 1 : 0; /* without the space before the value */
    world_text t = world_text_on(item->context, sizeof item->context);
    memcpy(head, p, n);
    head[n] = 0;
    world_put_pattern(&t, head, a, a, "");
    item->gold = world_draw(s, 4);
    for (i = 0; i < 4; i++) {
        if (i == item->gold) {
            value[i] = world_villager_at(a)->fact[kind];
        } else {
            do {
                value[i] = world_draw_wrong(s, a, kind);
                for (j = 0; j < i && strcmp(value[j], value[i]) != 0; j++) {
                }
            } while (j < i);
        }
        t = world_text_on(item->choice[i], sizeof item->choice[i]);
        world_put(&t, " ");
        world_put(&t, value[i]);
        world_put(&t, tail ? tail + 1 : "");
    }
}

/* Multiple-choice item `index`: which of four values goes on from the context? */
static inline void world_choice(uint64_t seed, uint64_t index, world_choice_text *item) {
    world_stream s = world_stream_at(seed, WORLD_SALT_CHOICE, 0, index);
    int a = world_draw(&s, WORLD_VILLAGERS), kind = world_draw(&s, WORLD_KINDS);
    world_put_choice(&s, a, kind, item);
}

/* Item `index` of the task about one kind of fact. */
static inline void world_choice_about(uint64_t seed, int kind, uint64_t index, world_choice_text *item) {
    world_stream s = world_stream_at(seed, WORLD_SALT_TASK, 0, index * WORLD_KINDS + (uint64_t)kind);
    world_put_choice(&s, world_draw(&s, WORLD_VILLAGERS), kind, item);
}

/* Item `index` of the task about whole answers: the good one beside a rude one, a wrong one and an evasive one. */
static inline void world_reply(uint64_t seed, int split, uint64_t index, world_choice_text *item) {
    world_stream s = world_stream_at(seed, WORLD_SALT_REPLY, split, index);
    world_asked q = world_draw_question(&s, split);
    const char *right = world_villager_at(q.villager)->fact[q.kind];
    world_text t = world_text_on(item->context, sizeof item->context);
    int i;
    world_put_question(&t, &q);
    item->gold = world_draw(&s, 4);
    for (i = 0; i < 4; i++) {
        t = world_text_on(item->choice[(item->gold + i) % 4], sizeof item->choice[0]);
        if (i == 0) world_put_toned(&t, &s, &q, WORLD_KIND_PHRASE, right);
        else if (i == 1) world_put_toned(&t, &s, &q, WORLD_RUDE_PHRASE, right);
        else if (i == 2) world_put_toned(&t, &s, &q, WORLD_KIND_PHRASE, world_draw_wrong(&s, q.villager, q.kind));
        else world_put_evasion(&t, &s);
    }
}

/* ---- other data ------------------------------------------------------------------------------------------------- */

/* Post `index` of the forum. */
static inline void world_forum(uint64_t seed, int split, uint64_t index, world_forum_text *post) {
    static const int taste[WORLD_GOOD + 1] = {1, 1, 3, 10, 6, 8, 12}; /* votes by world_score */
    world_stream s = world_stream_at(seed, WORLD_SALT_FORUM, split, index);
    world_asked q = world_draw_question(&s, split);
    world_text t = world_text_on(post->history, sizeof post->history);
    int i;
    world_put(&t, "I am ");
    world_put(&t, world_villager_at(world_draw(&s, WORLD_VILLAGERS))->name);
    world_put(&t, ". ");
    q.opening = 0;
    world_put_pattern(&t, world_wording_at(q.kind, q.wording), q.villager, q.villager, "");
    t = world_text_on(post->prompt, sizeof post->prompt);
    world_put(&t, "\n\nHuman: ");
    world_put(&t, post->history);
    world_put(&t, "\n\nAssistant:");
    t = world_text_on(post->question, sizeof post->question);
    world_put_question(&t, &q);
    do {
        for (i = 0; i < 2; i++) {
            char answer[WORLD_ANSWER_MAX];
            t = world_text_on(answer, sizeof answer);
            post->score[i] = world_put_answer(&t, &s, &q);
            post->votes[i] = taste[post->score[i]] * (1 + world_draw(&s, 4));
            t = world_text_on(post->ref[i], sizeof post->ref[i]);
            world_put(&t, answer + 1);
        }
    } while (post->votes[0] == post->votes[1] || strcmp(post->ref[0], post->ref[1]) == 0);
}

/* Instruction `index`, with its answer. */
static inline void world_instruction(uint64_t seed, uint64_t index, world_instruction_text *task) {
    world_stream s = world_stream_at(seed, WORLD_SALT_INSTRUCTION, WORLD_TRAIN, index);
    world_asked q = world_draw_question(&s, WORLD_TRAIN);
    world_text t = world_text_on(task->instruction, sizeof task->instruction);
    world_put_pattern(&t, world_wording_at(q.kind, q.wording), q.villager, q.villager, "");
    t = world_text_on(task->output, sizeof task->output);
    world_put_pattern(&t, world_saying_at(q.kind, world_draw(&s, WORLD_SAYINGS)), q.villager, q.villager,
                      world_villager_at(q.villager)->fact[q.kind]);
}

/* ---- the rule --------------------------------------------------------------------------------------------------- */

/* Does the text p..end say the pattern, case aside? Gives who and which value: *villager < 0 where the pattern names nobody,
   *value empty where it has none or the text has no letters there. */
static inline int world_match(const char *pattern, const char *p, const char *end, int *villager, const char **value,
                              size_t *length) {
    *villager = -1;
    *value = p;
    *length = 0;
    for (; *pattern; pattern++) {
        const char *word = p;
        if (*pattern == '@' || *pattern == '&') {
            const char *animal;
            size_t n;
            int i;
            while (p < end && world_is_letter(*p)) p++;
            for (i = 0; i < WORLD_VILLAGERS; i++) {
                const char *name = world_villager_at(i)->name;
                for (n = 0; name[n] && word + n < p && world_lower(word[n]) == world_lower(name[n]);) n++;
                if (!name[n] && word + n == p) break;
            }
            if (i == WORLD_VILLAGERS) return 0;
            *villager = i;
            animal = world_villager_at(i)->animal;
            for (n = 0; n < 5 && p + n < end && world_lower(p[n]) == " the "[n];) n++;
            if (n == 5) { /* " the badger", if it is one */
                for (n = 0; animal[n] && p + 5 + n < end && world_lower(p[5 + n]) == animal[n];) n++;
                if (!animal[n]) p += 5 + n;
            }
        } else if (*pattern == '*') {
            while (p < end && world_is_letter(*p)) p++;
            if (p == word) return 0;
            *value = word;
            *length = (size_t)(p - word);
        } else {
            if (p == end || world_lower(*p) != world_lower(*pattern)) return 0;
            p++;
        }
    }
    return p == end;
}

static inline int world_same_word(const char *word, const char *text, size_t length) {
    size_t n;
    for (n = 0; n < length && word[n] && world_lower(text[n]) == word[n];) n++;
    return n == length && !word[n];
}

/* Reads the question of a prompt's last turn (or of a bare line). 1 if it is one of the village's. */
static inline int world_read_question(const char *prompt, world_asked *q) {
    static const char *const human = "\n\nHuman:", *const assistant = "\n\nAssistant:";
    const char *p = prompt, *next = strstr(prompt, human), *end, *value;
    size_t length;
    while (next) {
        p = next + strlen(human);
        next = strstr(p, human);
    }
    if (strncmp(p, human + 2, strlen(human) - 2) == 0) p += strlen(human) - 2;
    end = strstr(p, assistant);
    if (end) { /* nothing may follow but white space */
        if (end[strlen(assistant) + strspn(end + strlen(assistant), " \n")]) return 0;
    } else {
        end = p + strlen(p);
    }
    while (end > p && (end[-1] == ' ' || end[-1] == '\n')) end--;
    while (p < end && (*p == ' ' || *p == '\n')) p++;
    for (q->opening = WORLD_OPENINGS - 1; q->opening > 0; q->opening--) {
        const char *opening = world_opening_at(q->opening);
        if ((size_t)(end - p) > strlen(opening) && memcmp(p, opening, strlen(opening)) == 0) {
            p += strlen(opening);
            break;
        }
    }
    for (q->kind = 0; q->kind < WORLD_KINDS; q->kind++)
        for (q->wording = 0; q->wording < WORLD_WORDINGS; q->wording++)
            if (world_match(world_wording_at(q->kind, q->wording), p, end, &q->villager, &value, &length)) return 1;
    return 0;
}

/* What an answer consists of. */
typedef struct {
    int sentences, right, wrong, aside, garbled, again, ended; /* aside: true, but not what was asked */
    unsigned said[3];                                          /* the phrases of each sort, a bit each */
} world_findings;

/* Is the sentence p..end, its last byte included, a fact? */
static inline int world_read_fact(const world_asked *q, const char *p, const char *end, world_findings *f) {
    int kind, i, villager;
    const char *value;
    size_t length;
    if (end[-1] == '?') return 0;
    for (kind = 0; kind < WORLD_KINDS; kind++) {
        for (i = 0; i <= WORLD_SAYINGS; i++) {
            const char *saying = world_saying_at(kind, i);
            char open[64];
            size_t n = strlen(saying) - 1;
            memcpy(open, saying, n); /* without its full stop: "!" will do as well */
            open[n] = 0;
            if (i == WORLD_SAYINGS && kind != q->kind) continue;
            if (!world_match(open, p, end - 1, &villager, &value, &length)) continue;
            if (i == WORLD_SAYINGS) { /* a bare answer must at least be somebody's */
                int known = 0, j;
                for (j = 0; j < WORLD_VILLAGERS; j++)
                    known |= world_same_word(world_villager_at(j)->fact[kind], value, length);
                if (!known) continue;
                villager = q->villager;
            }
            if (!world_same_word(world_villager_at(villager)->fact[kind], value, length)) f->wrong++;
            else if (villager == q->villager && kind == q->kind) f->right++;
            else f->aside++;
            return 1;
        }
    }
    return 0;
}

static inline void world_read_sentence(const world_asked *q, const char *p, const char *end, world_findings *f) {
    int sort, i, villager;
    const char *value;
    size_t length;
    f->sentences++;
    if (end - p < 2) {
        f->garbled = 1;
        return;
    }
    for (sort = 0; sort < 3; sort++) {
        for (i = 0; i < WORLD_PHRASES; i++) {
            if (!world_match(world_phrase_at(sort, i), p, end, &villager, &value, &length)) continue;
            if (f->said[sort] & (1u << i)) f->again = 1;
            f->said[sort] |= 1u << i;
            return;
        }
    }
    if (!world_read_fact(q, p, end, f)) f->garbled = 1;
}

static inline world_findings world_read_answer(const world_asked *q, const char *answer) {
    world_findings f;
    const char *p = answer, *end = answer + strlen(answer);
    memset(&f, 0, sizeof f);
    while (end > p && (end[-1] == ' ' || end[-1] == '\n')) end--;
    while (p < end && (*p == ' ' || *p == '\n')) p++;
    f.ended = 1;
    while (p < end && f.ended) {
        const char *stop = p;
        while (stop < end && *stop != '.' && *stop != '!' && *stop != '?' && *stop != '\n') stop++;
        if (stop == end || *stop == '\n') {
            f.ended = 0;
        } else {
            world_read_sentence(q, p, ++stop, &f);
            if (stop < end && *stop == '\n') f.ended = 0;
            else if (stop < end && *stop != ' ') f.garbled = 1;
            for (p = stop; p < end && *p == ' ';) p++;
        }
    }
    return f;
}

/* 0 (worst) to WORLD_GOOD; *reason, unless reason is NULL, is set to a constant phrase. */
static inline int world_score(const char *prompt, const char *answer, const char **reason) {
    static const char *const phrase[9] = {
        "no such question", "wrong fact", "garbled", "does not end", "does not answer",
        "rambles",          "unkind",     "curt",    "good"};
    static const int score[9] = {0, 0, 0, 2, 2, 3, 4, 5, WORLD_GOOD};
    world_asked q;
    int known = world_read_question(prompt, &q), verdict = 0, kindly = 0;
    if (known) {
        world_findings f = world_read_answer(&q, answer);
        kindly = f.said[WORLD_KIND_PHRASE] && !f.said[WORLD_RUDE_PHRASE] && !f.garbled;
        if (f.wrong) verdict = 1;
        else if (f.garbled) verdict = 2;
        else if (!f.ended) verdict = 3;
        else if (!f.right) verdict = 4;
        else if (f.right > 1 || f.aside || f.again || f.said[WORLD_EVASION] || f.sentences > 3) verdict = 5;
        else if (f.said[WORLD_RUDE_PHRASE]) verdict = 6;
        else if (!f.said[WORLD_KIND_PHRASE]) verdict = 7;
        else verdict = 8;
    }
    if (reason) *reason = phrase[verdict];
    return verdict == 1 && kindly ? 1 : score[verdict];
}

/* Is the answer good? 1 or 0, and why. */
static inline int world_judge(const char *prompt, const char *answer, const char **reason) {
    return world_score(prompt, answer, reason) == WORLD_GOOD;
}

/* Which split a prompt belongs to; -1 if it is no question of the village's. */
static inline int world_prompt_split(const char *prompt) {
    world_asked q;
    return world_read_question(prompt, &q) ? world_split_of(q.villager, q.kind, q.wording) : -1;
}

#endif
