/* test_formats.c - the tests of tools/formats and tools/dataset.h with tools/tokens.h: made rows of every format, every kind of bad file,
   the chat formats' exact strings, the report's counts; and the real data where ../shared stands beside the checkout.

   usage: formats [part of a name]     Last line: N passed, N failed. Exit status 1 on any failure, or when fewer tests
   ran than there must be. */
#include "../tools/dataset.h"
#include "check.h"
#include "memfs.h"
#include <sys/stat.h>
#include <sys/types.h>

#define FLOOR  40 /* so many tests there are at least */
#define FOLDER "build/tests/formats.out"
#define SHARED "../shared/data/"

static dpo_context *ctx;
static dpo_tokenizer *tok;
static dataset set;          /* of the last reading */
static dataset_options opts; /* for the next one; back to the defaults after it */

/* ---- files, messages, readings ---------------------------------------------------------------------------------- */

static void put_file(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(bytes, 1, n, f) == n);
    fclose(f);
}

/* What went to stderr since the last reading began. */
static const char *said(void) {
    static char text[4096];
    size_t n = 0;
    FILE *f;
    fflush(stderr);
    f = fopen(FOLDER "/said", "rb");
    if (f) {
        n = fread(text, 1, sizeof text - 1, f);
        fclose(f);
    }
    text[n] = 0;
    return text;
}
static int says(const char *words) {
    if (strstr(said(), words)) return 1;
    printf("said: %s", said());
    return 0;
}

static int read_path(const char *path, int sft) {
    int failed;
    dataset_free(&set);
    dpo_clear(ctx);
    if (!freopen(FOLDER "/said", "wb", stderr)) return 9;
    set = dataset_start(ctx, tok, sft);
    set.o = opts;
    set.quiet = 1;
    failed = dataset_read(&set, path, 0);
    opts = dataset_defaults();
    opts.data.max_length = 1 << 20;
    opts.data.max_prompt_length = 1 << 19;
    return failed;
}
static int read_bytes(const char *bytes, size_t n, int sft) {
    put_file(FOLDER "/rows", bytes, n);
    return read_path(FOLDER "/rows", sft);
}
static int read_rows(const char *text, int sft) { return read_bytes(text, strlen(text), sft); }

/* Part 0, 1, 2 of example i as text, the id that ends it as '$'. */
static const char *part(int64_t i, int which) {
    static char text[3][65536];
    const int32_t *id[3];
    int64_t n[3], k;
    if (i >= dpo_data_count(set.train)) return "no such example";
    dpo_data_item(set.train, i, &id[0], &n[0], &id[1], &n[1], &id[2], &n[2]);
    for (k = 0; k < n[which] && k < 65535; k++) text[which][k] = id[which][k] == 256 ? '$' : (char)id[which][k];
    text[which][k] = 0;
    return text[which];
}
static int is(int64_t i, const char *prompt, const char *chosen, const char *rejected) {
    int ok = !strcmp(part(i, 0), prompt) && !strcmp(part(i, 1), chosen) && !strcmp(part(i, 2), rejected);
    if (!ok) printf("example %ld is [%s] [%s] [%s]; %s", (long)i, part(i, 0), part(i, 1), part(i, 2), said());
    return ok;
}
/* So many rows were dropped for a reason that holds these words, the first in that line. */
static int dropped(const char *words, int64_t count, int64_t line) {
    int i;
    for (i = 0; i < set.file[0].reasons; i++)
        if (strstr(set.file[0].reason[i].why, words))
            return set.file[0].reason[i].count == count && set.file[0].reason[i].first == line;
    for (i = 0; i < set.file[0].reasons; i++) printf("dropped: %s\n", set.file[0].reason[i].why);
    return count == 0;
}
static int64_t count(void) { return dpo_data_count(set.train); }
static int format(void) { return set.file[0].format; }

/* ---- chat formats ----------------------------------------------------------------------------------------------- */

static const char *joined(const chat_parts *p) {
    static char text[4096];
    size_t at = 0;
    int64_t i;
    for (i = 0; i < p->n; i++) {
        memcpy(text + at, p->part[i].text, p->part[i].bytes);
        at += p->part[i].bytes;
    }
    text[at] = 0;
    return text;
}
static int chat_is(int chat, const char *prompt, const char *answer) {
    chat_message m[4] = {{"system", "Be.", 3}, {"user", " Hi ", 4}, {"assistant", "Yo", 2}, {"user", "Q", 1}};
    chat_parts p = {NULL, 0, 0};
    int ok = !chat_prompt(&p, chat, m, 4) && !strcmp(joined(&p), prompt);
    if (!ok) printf("[%s]\n", joined(&p));
    p.n = 0;
    ok = ok && !chat_response(&p, chat, " A ", 3) && !strcmp(joined(&p), answer);
    chat_parts_free(&p);
    return ok;
}
static void test_chat_strings(void) {
    CHECK(chat_is(CHAT_NONE, "Be. Hi YoQ", " A "));
    CHECK(chat_is(CHAT_HH, "Be.\n\nHuman:  Hi \n\nAssistant: Yo\n\nHuman: Q\n\nAssistant:", "  A "));
    CHECK(chat_is(CHAT_CHATML,
                  "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYo"
                  "<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
                  " A <|im_end|>"));
    CHECK(chat_is(CHAT_LLAMA3,
                  "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe.<|eot_id|>"
                  "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant"
                  "<|end_header_id|>\n\nYo<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n",
                  "A<|eot_id|>"));
    CHECK(chat_is(CHAT_ZEPHYR,
                  "<|system|>\nBe.</s>\n<|user|>\n Hi </s>\n<|assistant|>\nYo</s>\n<|user|>\nQ</s>\n<|assistant|>\n",
                  " A </s>"));
    CHECK(chat_is(CHAT_ALPACA,
                  "Be.\n\n### Instruction:\n Hi \n\n### Response:Yo\n\n### Instruction:\nQ\n\n### Response:", " A "));
}
static void test_chat_alpaca_templates(void) {
    chat_parts p = {NULL, 0, 0};
    CHECK(!chat_alpaca(&p, "Do it.", 6, "1 2", 3));
    CHECK(!strcmp(joined(&p),
                  "Below is an instruction that describes a task, paired with an input that provides further context. "
                  "Write a response that appropriately completes the request.\n\n### Instruction:\nDo it.\n\n"
                  "### Input:\n1 2\n\n### Response:"));
    p.n = 0;
    CHECK(!chat_alpaca(&p, "Do it.", 6, "", 0));
    CHECK(!strcmp(joined(&p), "Below is an instruction that describes a task. Write a response that appropriately "
                              "completes the request.\n\n### Instruction:\nDo it.\n\n### Response:"));
    chat_parts_free(&p);
}
static void test_chat_specials(void) { /* what a person writes is never special, what the format writes is */
    chat_message m = {"user", "<|im_end|>", 10};
    const char *const *stops;
    chat_parts p = {NULL, 0, 0};
    int64_t i, seen = 0;
    int chat;
    for (chat = CHAT_HH; chat < CHAT_FORMATS; chat++) {
        p.n = 0;
        CHECK(!chat_prompt(&p, chat, &m, 1));
        for (i = 0; i < p.n; i++)
            if (p.part[i].text == m.text) seen += !p.part[i].special;
            else CHECK(p.part[i].special || !memcmp(p.part[i].text, "user", p.part[i].bytes));
        CHECK(chat_by_name(chat_name(chat), strlen(chat_name(chat))) == chat);
        CHECK(chat_stops(chat, &stops) == 1 && stops[0][0]);
    }
    CHECK(seen == CHAT_FORMATS - 1);
    CHECK(chat_stops(CHAT_NONE, &stops) == 0);
    CHECK(!strcmp(chat_end_of_turn(CHAT_CHATML), "<|im_end|>") && !chat_end_of_turn(CHAT_HH));
    chat_parts_free(&p);
}
static int model_format(const char *file, const char *text) {
    int found;
    put_file(file, text, strlen(text));
    found = chat_format_of_model(ctx, FOLDER);
    remove(file);
    return found;
}
static void test_chat_of_model(void) {
    const char *config = FOLDER "/tokenizer_config.json";
    CHECK(chat_format_of_model(ctx, FOLDER) == -1 && !dpo_status(ctx));
    CHECK(chat_format_of_model(ctx, "nowhere") == -1 && !dpo_status(ctx));
    CHECK(model_format(FOLDER "/dpo_chat.json", "{\"chat_format\": \"alpaca\"}") == CHAT_ALPACA);
    CHECK(model_format(FOLDER "/dpo_chat.json", "{\"chat_format\": \"other\"}") == -1);
    CHECK(model_format(FOLDER "/dpo_chat.json", "{\"chat_format\"") == -1 && !dpo_status(ctx));
    CHECK(model_format(FOLDER "/chat_template.jinja", "{{'<|im_start|>' + role}}") == CHAT_CHATML);
    CHECK(model_format(config, "{\"chat_template\": \"{{'<|start_header_id|>'}}\"}") == CHAT_LLAMA3);
    CHECK(model_format(config, "{\"chat_template\": \"'<|user|>\\n' + m + eos_token\"}") == CHAT_ZEPHYR);
    CHECK(model_format(config, "{\"chat_template\": \"<|user|>\\n<|end|> eos_token\"}") == -1);
    CHECK(model_format(config,
                       "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"x\"}, {\"name\": \"default\", "
                       "\"template\": \"<|im_start|>\"}]}") == CHAT_CHATML);
    CHECK(model_format(config, "{\"chat_template\": 5}") == -1);
    CHECK(model_format(config, "{\"model_max_length\": 5}") == -1);
}

/* ---- TRL -------------------------------------------------------------------------------------------------------- */

static void test_trl_strings(void) {
    CHECK(!read_rows("{\"prompt\": \"P\", \"chosen\": \" c\", \"rejected\": \" r\"}\n", 0));
    CHECK(format() == DATASET_PAIRS && is(0, "P", " c$", " r$"));
    opts.chat = CHAT_CHATML + 1;
    CHECK(!read_rows("{\"prompt\": \"P\", \"chosen\": \"c\", \"rejected\": \"r\"}\n", 0));
    CHECK(is(0, "<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n", "c<|im_end|>$", "r<|im_end|>$"));
    CHECK(!read_rows("{\"prompt\": \"P\", \"completion\": \"c\"}\n{\"prompt\": \"Q\", \"response\": \"d\"}\n"
                     "{\"prompt\": \"R\", \"chosen\": \"e\"}",
                     1));
    CHECK(count() == 3 && is(0, "P", "c$", "") && is(1, "Q", "d$", "") && is(2, "R", "e$", ""));
    opts.row.prompt = "q";
    opts.row.chosen = "yes";
    opts.row.rejected = "no";
    CHECK(!read_rows("{\"q\": \"P\", \"yes\": \"c\", \"no\": \"r\"}", 0) && is(0, "P", "c$", "r$"));
    opts.row.completion = "a";
    CHECK(!read_rows("{\"prompt\": \"P\", \"a\": \"c\"}", 1) && is(0, "P", "c$", ""));
}
#define TURN(role, text) "{\"role\": \"" role "\", \"content\": \"" text "\"}"
static void test_trl_lists(void) {
    const char *hh = "\n\nHuman: u\n\nAssistant:";
    CHECK(!read_rows("{\"prompt\": [" TURN("user", "u") "], \"chosen\": [" TURN(
                         "assistant", "c") "], \"rejected\": [" TURN("assistant", "r") "]}",
                     0));
    CHECK(format() == DATASET_MESSAGES && is(0, hh, " c$", " r$"));
    CHECK(!read_rows("{\"chosen\": [" TURN("user", "u") ", " TURN("assistant", "c") "], \"rejected\": [" TURN(
                         "user", "u") ", " TURN("assistant", "r") "]}",
                     0));
    CHECK(is(0, hh, " c$", " r$"));
    CHECK(!read_rows("{\"prompt\": \"u\", \"chosen\": [" TURN("user", "u") ", " TURN(
                         "assistant", "c") "], \"rejected\": [" TURN("user", "u") ", " TURN("assistant", "r") "]}",
                     0));
    CHECK(is(0, hh, " c$", " r$"));
    CHECK(!read_rows(
        "{\"prompt\": \"u\", \"chosen\": [" TURN("assistant", "c") "], \"rejected\": [" TURN("assistant", "r") "]}",
        0));
    CHECK(is(0, hh, " c$", " r$"));
    CHECK(!read_rows("{\"prompt\": [" TURN("user", "u") "], \"chosen\": \"c\", \"rejected\": \"r\"}", 0));
    CHECK(is(0, hh, " c$", " r$"));
    CHECK(!read_rows("{\"prompt\": [" TURN("user", "u") "], \"completion\": [" TURN("assistant", "c") "]}", 1));
    CHECK(is(0, hh, " c$", ""));
}
static void test_trl_lists_that_do_not_fit(void) {
    CHECK(read_rows("{\"chosen\": [" TURN("user", "u") ", " TURN("assistant", "c") "], \"rejected\": [" TURN(
                        "user", "v") ", " TURN("assistant", "r") "]}",
                    0));
    CHECK(says("line 1): the prompts of chosen and rejected differ"));
    CHECK(read_rows("{\"chosen\": [" TURN("user", "u") "], \"rejected\": [" TURN("user", "u") "]}", 0));
    CHECK(says("the last turn of a conversation is not the assistant's"));
    CHECK(read_rows("{\"chosen\": [" TURN("assistant", "u") "], \"rejected\": [" TURN("assistant", "v") "]}", 0));
    CHECK(says("no turn before the answer"));
    CHECK(read_rows("{\"chosen\": [], \"rejected\": []}", 0) && says("chosen is an empty list"));
    CHECK(read_rows("{\"chosen\": [5], \"rejected\": [5]}", 0) && says("a message is not an object"));
    CHECK(read_rows("{\"chosen\": [{\"role\": \"user\"}], \"rejected\": []}", 0) && says("content is missing"));
    CHECK(read_rows("{\"chosen\": [" TURN("tool", "u") "], \"rejected\": []}", 0) && says("a role other than"));
}
static void test_trl_messages(void) {
    CHECK(!read_rows("{\"messages\": [" TURN("system", "s") "," TURN("user", "u") "," TURN("assistant", "a") "," TURN(
                         "user", "v") "," TURN("assistant", "b") "," TURN("user", "w") "]}",
                     1));
    CHECK(is(0, "s\n\nHuman: u\n\nAssistant: a\n\nHuman: v\n\nAssistant:", " b$", ""));
    CHECK(set.file[0].chat == CHAT_HH);
    CHECK(read_rows("{\"messages\": [" TURN("user", "u") "]}", 1) && says("no assistant's turn"));
    CHECK(read_rows("{\"messages\": [" TURN("user", "u") "," TURN("assistant", "a") "]}", 0) &&
          says("without two answers"));
    opts.row.messages = "talk";
    CHECK(!read_rows("{\"talk\": [" TURN("user", "u") "," TURN("assistant", "a") "]}", 1) && count() == 1);
}
static void test_trl_implicit(void) {
    const char *row = "{\"chosen\": \"The sky is blue.\", \"rejected\": \"The sky is green.\"}\n";
    CHECK(read_rows(row, 0) && says("--implicit-prompt"));
    opts.row.implicit_prompt = 1;
    CHECK(!read_rows(row, 0) && is(0, "The sky is", " blue.$", " green.$"));
    opts.row.implicit_prompt = 1; /* no character is cut in two: \xc3\xa4 and \xc3\xb6 */
    CHECK(!read_rows("{\"chosen\": \"x\xc3\xa4\", \"rejected\": \"x\xc3\xb6\"}", 0) &&
          is(0, "x", "\xc3\xa4$", "\xc3\xb6$"));
    opts.row.implicit_prompt = 1;
    CHECK(read_rows("{\"chosen\": \"ab\", \"rejected\": \"abc\"}", 0) && says("a response is empty"));
}

/* ---- ShareGPT, Alpaca, SHP -------------------------------------------------------------------------------------- */

#define SAYS(from, text) "{\"from\": \"" from "\", \"value\": \"" text "\"}"
static void test_sharegpt(void) {
    CHECK(!read_rows("[{\"conversations\": [" SAYS("system", "s") ", " SAYS("human", "u") "], \"chosen\": " SAYS(
                         "gpt", "c") ", \"rejected\": " SAYS("gpt", "r") "}]",
                     0));
    CHECK(format() == DATASET_SHAREGPT && is(0, "s\n\nHuman: u\n\nAssistant:", " c$", " r$"));
    CHECK(!read_rows("{\"conversations\": [" SAYS("human", "u") ", " SAYS("gpt", "a") ", " SAYS("human", "v") ", " SAYS(
                         "gpt", "b") "], \"system\": \"s\"}",
                     1));
    CHECK(is(0, "s\n\nHuman: u\n\nAssistant: a\n\nHuman: v\n\nAssistant:", " b$", ""));
    CHECK(!read_rows("{\"system\": \"s\", \"conversations\": [" SAYS("human", "u") "], \"chosen\": " SAYS(
                         "gpt", "c") ", \"rejected\": " SAYS("gpt", "r") "}",
                     1));
    CHECK(is(0, "s\n\nHuman: u\n\nAssistant:", " c$", ""));
    CHECK(read_rows("{\"conversations\": [" SAYS("observation", "u") "]}", 1) && says("a role other than"));
    CHECK(read_rows("{\"conversations\": [" SAYS("human", "u") "]}", 0) && says("chosen is missing"));
}
static void test_alpaca(void) {
    CHECK(!read_rows("[{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"},\n"
                     "{\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\"}]",
                     1));
    CHECK(format() == DATASET_ALPACA && set.file[0].chat == CHAT_ALPACA);
    CHECK(is(0, CHAT_ALPACA_NO_INPUT "### Instruction:\ni\n\n### Response:", "o$", ""));
    CHECK(is(1, CHAT_ALPACA_INPUT "### Instruction:\ni\n\n### Input:\nx\n\n### Response:", "o$", ""));
    opts.chat = CHAT_HH + 1;
    CHECK(!read_rows("{\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\"}", 1));
    CHECK(is(0, "\n\nHuman: i\nx\n\nAssistant:", " o$", ""));
    CHECK(read_rows("{\"instruction\": \"i\", \"output\": \"o\"}", 0) && says("dpo needs pairs"));
    CHECK(read_rows("{\"instruction\": \"i\", \"output\": \" \\n\"}", 1) && says("a response is empty"));
}
static void test_preference(void) {
    const char *row =
        "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\", \"chosen\": \"c\", \"rejected\": \"r\"}";
    CHECK(!read_rows(row, 0) && format() == DATASET_PREFERENCE);
    CHECK(is(0, CHAT_ALPACA_NO_INPUT "### Instruction:\ni\n\n### Response:", "c$", "r$"));
    CHECK(!read_rows(row, 1) && !strcmp(part(0, 1), "c$"));
    opts.row.completion = "output";
    CHECK(!read_rows(row, 1) && !strcmp(part(0, 1), "o$"));
}
#define POST(h, a, b, label, sa, sb)                                                                                   \
    "{\"history\": \"" h "\", \"human_ref_A\": \"" a "\", \"human_ref_B\": \"" b "\", \"labels\": " #label             \
    ", \"score_A\": " #sa ", \"score_B\": " #sb "}\n"
static void test_shp_pairs(void) {
    CHECK(!read_rows(POST("h", "a", "b", 1, 6, 3) POST("h", "c", "d", 0, 3, 5) POST("h", "e", "f", 0, 3, 9)
                         POST("g", "i", "j", 1, 4, 0),
                     0));
    CHECK(format() == DATASET_SHP && set.file[0].chat == CHAT_HH && count() == 3);
    CHECK(is(0, "\n\nHuman: h\n\nAssistant:", " a$", " b$") && is(1, "\n\nHuman: h\n\nAssistant:", " f$", " e$"));
    CHECK(is(2, "\n\nHuman: g\n\nAssistant:", " i$", " j$"));
    CHECK(dropped("closer than --score-ratio 2", 1, 2));
    opts.row.score_ratio = 0;
    opts.row.max_pairs = 2;
    CHECK(!read_rows(POST("h", "a", "b", 1, 6, 3) POST("h", "c", "d", 0, 3, 5) POST("h", "e", "f", 0, 3, 9), 0));
    CHECK(count() == 2 && dropped("--max-pairs 2", 1, 3));
}
static void test_shp_sft(void) { /* the best of a prompt's answers, the first among equals */
    CHECK(!read_rows(POST("h", "a", "b", 1, 6, 3) POST("h", "c", "d", 0, 1, 9) POST("h", "e", "f", 0, 3, 9)
                         POST("h", "g", "i", 0, 10, 11) POST("k", "l", "m", 1, 4, 1),
                     1));
    CHECK(count() == 2 && is(0, "\n\nHuman: h\n\nAssistant:", " d$", "") &&
          is(1, "\n\nHuman: k\n\nAssistant:", " l$", ""));
    CHECK(dpo_data_report_of(set.train).grouped == 1 && dropped("as good already", 1, 3));
}
static void test_shp_bad(void) {
    CHECK(read_rows(
        "{\"history\": \"h\", \"human_ref_A\": \"a\", \"human_ref_B\": \"b\", \"labels\": 1, \"score_A\": 4}", 0));
    CHECK(says("score_B is missing"));
    CHECK(read_rows(POST("h", "a", "b", 1, "x", 3), 0) && says("score_A is not a number"));
}

/* ---- HH --------------------------------------------------------------------------------------------------------- */

#define DIALOGUE(c, r) "{\"chosen\": \"" c "\", \"rejected\": \"" r "\"}\n"
#define ASKS(q)        "\\n\\nHuman: " q "\\n\\nAssistant:"
static void test_hh_rule(void) {
    CHECK(!read_rows(DIALOGUE(ASKS("q") " x" ASKS("p") " c", ASKS("q") " x" ASKS("p") " r"), 0));
    CHECK(format() == DATASET_HH && is(0, "\n\nHuman: q\n\nAssistant: x\n\nHuman: p\n\nAssistant:", " c$", " r$"));
    CHECK(read_rows(DIALOGUE(ASKS("q") " c", ASKS("z") " r"), 0) &&
          says("rejected does not begin with chosen's prompt"));
    CHECK(read_rows(DIALOGUE(ASKS("q") " ", ASKS("q") " r"), 0) && says("a response is empty"));
    CHECK(read_rows(DIALOGUE(ASKS("q") " r", ASKS("q") " r"), 0) && says("both responses are the same"));
    CHECK(read_rows("{\"chosen\": \"x\", \"rejected\": \"y\"}", 0));
    opts.format = DATASET_HH;
    CHECK(read_rows("{\"chosen\": \"x\", \"rejected\": \"y\"}", 0) && says("Assistant:\" in chosen"));
}
static void test_hh_diverging(void) { /* by characters, as the reference cuts: \xc3\xa4 is one */
    opts.row.hh_keep_diverging = 1;
    CHECK(!read_rows(DIALOGUE(ASKS("q\xc3\xa4") " c", ASKS("zz") "r, long"), 0));
    CHECK(is(0, "\n\nHuman: q\xc3\xa4\n\nAssistant:", " c$", "r, long$"));
    opts.row.hh_keep_diverging = 1;
    CHECK(read_rows(DIALOGUE(ASKS("qq") " c", ASKS("z")), 0) && says("a response is empty"));
}
static void test_hh_turns(void) {
    opts.chat = CHAT_CHATML + 1;
    CHECK(!read_rows(DIALOGUE(ASKS("q") " x " ASKS("p") " c", ASKS("q") " x " ASKS("p") " r"), 0));
    CHECK(is(0,
             "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n<|im_start|>user\np<|im_end|>\n"
             "<|im_start|>assistant\n",
             "c<|im_end|>$", "r<|im_end|>$"));
}
static void test_hh_grouping(void) {
    const char *rows = DIALOGUE(ASKS("q") " a", ASKS("q") " b") DIALOGUE(ASKS("q") " c", ASKS("q") " d");
    CHECK(!read_rows(rows, 1) && count() == 1 && !strcmp(part(0, 1), " c$"));
    CHECK(!read_rows(rows, 0) && count() == 2);
    opts.group = DATASET_GROUP_NO;
    CHECK(!read_rows(rows, 1) && count() == 2);
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

static void test_text(void) {
    CHECK(!read_rows("{\"text\": \"abc\"}\n{\"text\": \"\"}\n{\"text\": \"de\"}\n", 1));
    CHECK(format() == DATASET_TEXT && count() == 2 && is(0, "", "abc$", "") && dropped("the text is empty", 1, 2));
    CHECK(!read_rows("Call me Ishmael.\n", 1) && is(0, "", "Call me Ishmael.\n$", ""));
    CHECK(!read_rows("[Chapter 1]\nCall me.", 1) && format() == DATASET_TEXT);
    CHECK(!read_bytes("a\0b", 3, 1));
    CHECK(dpo_data_report_of(set.train).chosen_tokens == 4);
    opts.format = DATASET_TEXT;
    CHECK(!read_rows("{ not JSON", 1) && is(0, "", "{ not JSON$", ""));
    opts.format = DATASET_TEXT;
    opts.row.text = "body";
    CHECK(!read_rows("{\"body\": \"x y\"}", 1) && is(0, "", "x y$", ""));
    CHECK(read_rows("Call me Ishmael.", 0) && says("dpo needs pairs"));
    opts.eval_fraction = 0.5;
    CHECK(!read_rows("one\ntwo\nthree\nfour\n", 1) && is(0, "", "one\ntwo\nthree\n$", ""));
    CHECK(set.eval && dpo_data_report_of(set.eval).chosen_tokens == 6);
}

/* ---- bad files -------------------------------------------------------------------------------------------------- */

#define GOOD "{\"prompt\": \"P\", \"chosen\": \"c\", \"rejected\": \"r\"}"
static void test_encodings(void) {
    char wide[64] = "\xFF\xFE{\0\"\0";
    CHECK(read_bytes(wide, 16, 0) && says("is UTF-16, expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8"));
    CHECK(read_bytes("\xFE\xFF\0{\0\"", 6, 0) && says("UTF-16"));
    CHECK(read_bytes("{\0\"\0p\0", 6, 0) && says("UTF-16LE"));
    CHECK(read_bytes("\0{\0\"", 4, 0) && says("UTF-16BE"));
    CHECK(read_bytes("\xFF\xFE\0\0{\0\0\0", 8, 0) && says("UTF-32"));
    CHECK(!read_rows("\xEF\xBB\xBF" GOOD "\r\n\r\n" GOOD "\r\n", 0) && count() == 2 && is(1, "P", "c$", "r$"));
    CHECK(set.file[0].rows == 2);
    CHECK(!read_rows("{\"prompt\": \"P\\u0000Q\", \"chosen\": \"\\ud83d\\ude00\", \"rejected\": \"r\"}", 0));
    CHECK(dpo_data_report_of(set.train).prompt_tokens == 3 && !strcmp(part(0, 1), "\xF0\x9F\x98\x80$"));
    CHECK(!read_rows("{\"prompt\": \"P\xFF\", \"chosen\": \"c\", \"rejected\": \"r\"}", 0));
    CHECK(dpo_data_report_of(set.train).invalid_utf8 == 1);
}
static void test_bad_lines(void) {
    CHECK(!read_rows(GOOD "\n{\"prompt\n" GOOD "\n\n[]\n{\"prompt\": \"P\", \"chosen\": 5, \"rejected\": \"r\"}\n"
                          "{\"prompt\": \"P\", \"chosen\": \"c\"}\n{\"prompt\": null, \"chosen\": \"c\"}\n",
                     0));
    CHECK(count() == 2 && set.file[0].rows == 7 && set.file[0].bad == 5);
    CHECK(dropped("bad JSON: a string does not end", 1, 2) && dropped("bad JSON: not an object", 1, 5));
    CHECK(dropped("chosen is not a string", 1, 6) && dropped("rejected is missing", 1, 7));
    CHECK(dropped("prompt is missing", 1, 8));
    CHECK(!read_rows("{\"prompt\": \"P\", \"prompt\": \"Q\", \"chosen\": \"c\", \"rejected\": \"r\"}\n" GOOD, 0));
    CHECK(count() == 1 && set.file[0].bad == 1);
}
static void test_nothing_usable(void) {
    CHECK(read_rows("", 0) && says("holds no rows"));
    CHECK(read_rows(" \n\r\n", 1) && says("holds no rows"));
    CHECK(read_rows("{\"a\": 1}\n", 0) && says("line 1: its fields are a)"));
    CHECK(read_rows("{\"prompt\": \"P\", \"chosen\": \"c\"}\n", 0) && says("none of 1 rows can be used"));
    CHECK(read_rows("{}\n", 0) && says("line 1: it has no fields"));
    CHECK(read_rows("{\"a\"\n}", 0) && says("bad JSON") && says("expected a JSON object on each line"));
    CHECK(read_rows("[]", 0) && says("holds no rows"));
    CHECK(read_path(FOLDER "/nowhere", 0) && says("cannot open " FOLDER "/nowhere"));
    CHECK(read_path(FOLDER, 0) && says(FOLDER " is a directory"));
}
static void test_deep(void) {
    size_t n = 10000, at = 0, i;
    char *text = SCRATCH(char, 2 * n + 256);
    at += (size_t)sprintf(text, GOOD "\n{\"prompt\": ");
    for (i = 0; i < n; i++) text[at++] = '[';
    for (i = 0; i < n; i++) text[at++] = ']';
    at += (size_t)sprintf(text + at, "}\n" GOOD);
    CHECK(!read_bytes(text, at, 0) && count() == 2 && dropped("bad JSON", 1, 2));
    text[0] = '[';
    at = 1;
    for (i = 0; i < 2 * n; i++) text[at++] = '{';
    CHECK(read_bytes(text, at, 0) && says("row 1: bad JSON"));
}
static void test_long_line(void) {
    size_t n = (size_t)70 << 20, at;
    char *text = (char *)malloc(n + 256);
    if (!CHECK(text != NULL)) return;
    memset(text, 'x', n);
    memcpy(text, "{\"prompt\": \"", 12);
    CHECK(read_bytes(text, n, 0) && says("line 1: longer than 64 MiB"));
    at = n + (size_t)sprintf(text + n, "\n" GOOD "\n");
    CHECK(!read_bytes(text, at, 0) && count() == 1 && dropped("longer than 64 MiB", 1, 1));
    free(text);
    remove(FOLDER "/rows");
}
static void test_arrays(void) {
    CHECK(!read_rows(" [ " GOOD " ,\n " GOOD "\n]\n", 0) && count() == 2 && set.file[0].array);
    CHECK(!read_rows(
        "[" GOOD ", 5, {\"prompt\": \"a]}\\\"\", \"chosen\": \"c\", \"rejected\": \"r\"}, {\"x\": }, " GOOD "]", 0));
    CHECK(count() == 3 && is(1, "a]}\"", "c$", "r$") && dropped("not an object", 1, 2) &&
          dropped("bad JSON: expected a value", 1, 4));
    CHECK(!read_rows("[" GOOD ", {\"prompt\": \"P\", \"ch", 0) && count() == 1 && set.file[0].bad == 1);
    CHECK(!read_rows("[" GOOD "}, " GOOD "]", 0) && set.file[0].rows == 2 && count() == 1);
    CHECK(!read_rows("[" GOOD "] trailing words", 0) && count() == 1);
    CHECK(!read_rows("[" GOOD ",,," GOOD "]", 0) && count() == 2);
}
static void test_gzip(void) { /* a stored block, whole and cut */
    char z[256] = "\x1f\x8b\x08\0\0\0\0\0\0\x03\x01";
    size_t n = sizeof GOOD - 1, at = 11;
    uint32_t crc[8][256], c;
    int i;
    gzip_crc_tables(crc);
    z[at++] = (char)n;
    z[at++] = 0;
    z[at++] = (char)~n;
    z[at++] = (char)0xFF;
    memcpy(z + at, GOOD, n);
    at += n;
    c = gzip_crc32(crc, (const unsigned char *)GOOD, n);
    for (i = 0; i < 4; i++) z[at++] = (char)(unsigned char)(c >> (8 * i));
    z[at++] = (char)n;
    at += 3;
    CHECK(!read_bytes(z, at, 0) && count() == 1);
    CHECK(read_bytes(z, at - 20, 0) && says("rows is damaged at byte") && says("download it again"));
}

/* ---- holding out, report, tokenized files ----------------------------------------------------------------------- */

/* n pairs, three rows a prompt. */
static char *many(int n, size_t *bytes) {
    char *text = SCRATCH(char, 100 * n);
    int i;
    for (i = 0, *bytes = 0; i < n; i++)
        *bytes += (size_t)sprintf(text + *bytes, "{\"prompt\": \"P%d\", \"chosen\": \"c%d\", \"rejected\": \"r%d\"}\n",
                                  i / 3, i, i);
    return text;
}
static int save_train(const char *path, const char *const *metadata) {
    dpo_data_report r = dataset_report(&set, set.train);
    return tokens_save(ctx, path, set.train, tok, set.file[0].rules, &r, metadata);
}
static void test_hold_out(void) {
    size_t bytes;
    char *text = many(300, &bytes);
    int64_t i, held;
    uint64_t hash;
    opts.eval_fraction = 0.2;
    CHECK(!read_bytes(text, bytes, 0) && set.eval);
    held = dpo_data_count(set.eval);
    CHECK(held > 20 && held < 100 && held % 3 == 0 && held + count() == 300);
    CHECK(dataset_repeats(set.eval, set.train, 1) == 0 && dataset_repeats(set.train, NULL, 1) == count() / 3 * 2);
    hash = dpo_data_hash(set.eval);
    CHECK(!save_train(FOLDER "/t", NULL));
    opts.eval_fraction = 0.2; /* the part of a prompt does not depend on what else is there */
    CHECK(!read_bytes(text, bytes / 2, 0) && set.eval);
    for (i = 0; i < count(); i++) CHECK(strcmp(part(i, 0), "P0") || i < 3);
    opts.eval_fraction = 0.2;
    CHECK(!read_bytes(text, bytes, 0) && dpo_data_hash(set.eval) == hash);
    opts.max_rows = 10;
    CHECK(!read_bytes(text, bytes, 0) && count() == 10);
    opts.eval_fraction = 0.9; /* one prompt: nothing can be held out */
    CHECK(!read_rows(GOOD, 0) && count() == 1 && !set.eval);
}
static void test_tokenized(void) {
    static const char *const metadata[] = {"chat_format", "hh", "source_hash", "00000000000000ff", NULL};
    size_t bytes;
    char *text = many(300, &bytes), *cut;
    int64_t held;
    uint64_t all, hash;
    FILE *f;
    opts.eval_fraction = 0.2;
    CHECK(!read_bytes(text, bytes, 0) && set.eval);
    hash = dpo_data_hash(set.eval);
    held = dpo_data_count(set.eval);
    CHECK(!read_bytes(text, bytes, 0) && !save_train(FOLDER "/t", metadata));
    all = dpo_data_hash(set.train);
    CHECK(!read_path(FOLDER "/t", 0) && format() == DATASET_TOKENS && dpo_data_hash(set.train) == all);
    CHECK(set.file[0].chat == CHAT_HH && set.file[0].hash == 255 && set.file[0].rows == 300);
    CHECK(dpo_data_report_of(set.train).pairs == 300);
    opts.eval_fraction = 0.2; /* the same rows as of the text */
    CHECK(!read_path(FOLDER "/t", 0) && dpo_data_count(set.eval) == held && dpo_data_hash(set.eval) == hash);
    opts.max_rows = 7;
    CHECK(!read_path(FOLDER "/t", 0) && count() == 7);
    f = fopen(FOLDER "/t", "rb");
    if (!CHECK(f != NULL)) return;
    cut = SCRATCH(char, 5000);
    CHECK(fread(cut, 1, 5000, f) == 5000);
    fclose(f);
    put_file(FOLDER "/t", cut, 5000);
    CHECK(read_path(FOLDER "/t", 0) && says(FOLDER "/t"));
    put_file(FOLDER "/t", GOOD, strlen(GOOD));
    opts.format = DATASET_TOKENS;
    CHECK(read_path(FOLDER "/t", 0) && says(FOLDER "/t"));
}
/* ---- tokenized files, whole and damaged ------------------------------------------------------------------------------ */

/* rows.safetensors: two pairs, one of them cut, and a third that is none. */
static dpo_data *tokens_sample(dpo_context *c, const dpo_tokenizer *t, dpo_data_report *report) {
    static const char *const meta[] = {"source", "a \"test\"", "licence", "none", NULL};
    dpo_data_options o = dpo_data_defaults();
    char rules[512];
    dpo_data *d;
    o.max_length = 16;
    o.max_prompt_length = 4;
    d = dpo_data_create(c, t, &o);
    if (!d) return NULL;
    (void)dpo_data_add(d, "a prompt", 8, "an answer that is cut", 21, "another", 7);
    (void)dpo_data_add(d, "a", 1, "b", 1, "a", 1);
    (void)dpo_data_add(d, "a", 1, "b", 1, "b", 1);
    *report = dpo_data_report_of(d);
    tokens_rules(rules, sizeof rules, &o);
    if (!dpo_status(c)) (void)tokens_save(c, "rows.safetensors", d, t, rules, report, meta);
    return d;
}
static void test_tokens_file(void) {
    static const char other_json[] =
        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"},"
        "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1},\"merges\":[]}}";
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_tokenizer *t = dpo_tokenizer_bytes(c), *other;
    dpo_data_report a;
    dpo_data *d = tokens_sample(c, t, &a), *e;
    tokens_file f;
    int64_t i;
    memfs_text(fs, "tokenizer.json", other_json);
    other = dpo_tokenizer_load(c, "tokenizer.json");
    CHECK_OK(c, other ? DPO_OK : DPO_E_STATE);
    if (!CHECK(!tokens_open(&f, c, "rows.safetensors", t) && f.n == 2 && f.longest > 2 && f.longest <= 16)) return;
    e = tokens_set(&f, c, t);
    for (i = 0; i < f.n; i++) CHECK_OK(c, tokens_add(&f, i, e));
    CHECK(dpo_data_count(e) == 2 && dpo_data_hash(e) == dpo_data_hash(d));
    CHECK_SAME(&a, &f.report, sizeof a);
    CHECK(a.lost_eos == 1 && a.identical == 1);
    CHECK(!strcmp(tokens_metadata(&f, "source"), "a \"test\"") && !tokens_metadata(&f, "nothing"));
    CHECK(strstr(tokens_metadata(&f, "rules"), "\"max_length\": 16, \"max_prompt_length\": 4,") != NULL);
    tokens_close(&f);
    if (!freopen(FOLDER "/said", "wb", stderr)) return;
    CHECK(tokens_open(&f, c, "rows.safetensors", other) && says("another tokenizer"));
    CHECK(!tokens_open(&f, c, "rows.safetensors", NULL) && f.n == 2); /* without one any will do */
    tokens_close(&f);
    CHECK(tokens_save(c, "none.safetensors", dpo_data_create(c, t, NULL), t, "{}", &a, NULL) && says("no example"));
    dpo_close(c);
    memfs_free(fs);
}
/* A file that opens can be used. 1 if it opens. */
static int tokens_use(dpo_context *c, const dpo_tokenizer *t) {
    tokens_file f;
    dpo_data *d;
    int64_t i, k, sum = 0;
    int ok = !tokens_open(&f, c, "bad.safetensors", t);
    dpo_clear(c);
    if (!ok) return 0;
    d = tokens_set(&f, c, t);
    for (i = 0; i < f.n; i++) CHECK_OK(c, tokens_add(&f, i, d));
    CHECK(dpo_data_report_of(d).rows == f.n && dpo_data_report_of(d).too_long == 0);
    for (i = 0; i < dpo_data_count(d); i++) {
        const int32_t *p[3];
        int64_t n[3], q;
        CHECK_OK(c, dpo_data_item(d, i, &p[0], &n[0], &p[1], &n[1], &p[2], &n[2]));
        for (q = 0; q < 3; q++)
            for (k = 0; k < n[q]; k++) sum += CHECK(p[q][k] >= 0 && p[q][k] < dpo_tokenizer_vocab(t));
    }
    CHECK(sum > 0);
    dpo_data_free(d);
    tokens_close(&f);
    return 1;
}
/* A file of these lengths and ids, with this report. */
static int tokens_made(dpo_context *c, const dpo_tokenizer *t, const int32_t *ids, int n, const int32_t *lengths,
                       int items, const char *report) {
    dpo_tensor x[2];
    char hash[24];
    const char *meta[7] = {"format", TOKENS_FORMAT, "tokenizer_hash", NULL, "report", NULL, NULL};
    int32_t store[64];
    sprintf(hash, "%016llx", (unsigned long long)dpo_tokenizer_hash(t));
    meta[3] = hash;
    meta[5] = report;
    memset(x, 0, sizeof x);
    memcpy(store, ids, (size_t)n * sizeof *ids);
    memcpy(store + n, lengths, (size_t)items * 3 * sizeof *ids);
    x[0].name = "tokens";
    x[1].name = "segments";
    x[0].dtype = x[1].dtype = DPO_I32;
    x[0].data = store;
    x[1].data = store + n;
    x[0].ndim = 1;
    x[1].ndim = 2;
    x[0].shape[0] = n;
    x[1].shape[0] = items;
    x[1].shape[1] = 3;
    CHECK_OK(c, dpo_tensors_save(c, "bad.safetensors", x, 2, meta));
    return tokens_use(c, t);
}
static void test_tokens_hostile(void) {
    static const int32_t ids[6] = {3, 4, 5, 6, 7, 8}, low[6] = {3, 4, -5, 6, 7, 8}, high[6] = {3, 4, 257, 6, 7, 8};
    static const int32_t good[6] = {1, 1, 1, 1, 1, 1}, fewer[6] = {1, 1, 1, 1, 1, 0}, past[6] = {1, 1, 1, 1, 2, 1};
    static const int32_t minus[6] = {2, 3, -1, 1, 1, 0}, alone[6] = {0, 1, 1, 2, 1, 1};
    static const int32_t twice[6] = {3, 4, 4, 6, 7, 8}; /* the same answer */
    static const int32_t huge[6] = {INT32_MAX, INT32_MAX, INT32_MAX, 1, 1, 1};
    static const char *const reports[] = {"{\"rows\": -1}", "{\"chosen_tokens\": 9223372036854775807}", "{", "[]7",
                                          "7"};
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c;
    dpo_tokenizer *t;
    dpo_data_report a;
    memfs_file *f;
    int64_t live;
    size_t i, n, loaded = 0;
    int bit;
    memset(&h, 0, sizeof h);
    c = memfs_context(fs, &h, 1, 0);
    t = dpo_tokenizer_bytes(c);
    if (!freopen(FOLDER "/said", "wb", stderr)) return;
    dpo_data_free(tokens_sample(c, t, &a));
    memfs_copy(fs, "rows.safetensors", "bad.safetensors");
    live = h.live;
    f = memfs_find(fs, "bad.safetensors");
    n = f->size;
    CHECK(tokens_use(c, t));
    for (f->size = 0; f->size < n; f->size++) CHECK(!tokens_use(c, t)); /* cut at every length */
    for (i = 0; i < n; i++)
        for (bit = 0; bit < 8; bit++) {
            f->data[i] = (uint8_t)(f->data[i] ^ 1 << bit);
            loaded += (size_t)tokens_use(c, t);
            f->data[i] = (uint8_t)(f->data[i] ^ 1 << bit);
        }
    CHECK(loaded < 6 * n && tokens_use(c, t));
    CHECK(tokens_made(c, t, ids, 6, good, 2, "{}"));
    CHECK(!tokens_made(c, t, low, 6, good, 2, "{}") && !tokens_made(c, t, high, 6, good, 2, "{}"));
    CHECK(!tokens_made(c, t, ids, 6, fewer, 2, "{}") && !tokens_made(c, t, ids, 6, past, 2, "{}"));
    CHECK(!tokens_made(c, t, ids, 6, minus, 2, "{}") && !tokens_made(c, t, ids, 6, alone, 2, "{}"));
    CHECK(!tokens_made(c, t, twice, 6, good, 2, "{}"));
    CHECK(!tokens_made(c, t, ids, 6, huge, 2, "{}") && !tokens_made(c, t, ids, 6, good, 1, "{}"));
    for (i = 0; i < sizeof reports / sizeof *reports; i++)
        CHECK_CASE(!tokens_made(c, t, ids, 6, good, 2, reports[i]), reports[i]);
    CHECK(h.live == live);
    dpo_close(c);
    CHECK(h.live == 0);
    memfs_free(fs);
}
/* Without memory at any one request nothing is lost, in making, saving and loading. */
static void test_tokens_memory(void) {
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c;
    dpo_tokenizer *t;
    int64_t k, i, live, calls;
    int done = 0;
    memset(&h, 0, sizeof h);
    h.transient = 1;
    c = memfs_context(fs, &h, 1, 0);
    t = dpo_tokenizer_bytes(c);
    live = h.live;
    if (!freopen(FOLDER "/said", "wb", stderr)) return;
    for (k = 1; !done && k < 200; k++) {
        dpo_data_report a;
        dpo_data *d, *e;
        tokens_file f;
        calls = h.calls;
        h.fail_at = calls + k;
        d = tokens_sample(c, t, &a);
        e = NULL;
        if (!dpo_status(c) && !tokens_open(&f, c, "rows.safetensors", t)) {
            e = tokens_set(&f, c, t);
            for (i = 0; e && i < f.n; i++) (void)tokens_add(&f, i, e);
            tokens_close(&f);
        }
        done = h.calls - calls < k;
        h.fail_at = 0;
        CHECK(done == (dpo_status(c) == DPO_OK) && (done || dpo_status(c) == DPO_E_MEMORY));
        dpo_clear(c);
        dpo_data_free(d);
        dpo_data_free(e);
        CHECK(h.live == live);
    }
    CHECK(done && k > 8);
    dpo_close(c);
    CHECK(h.live == 0);
    memfs_free(fs);
}
static void test_repeats(void) {
    dpo_data *d, *e, *none;
    dpo_clear(ctx);
    d = dpo_data_create(ctx, tok, NULL);
    e = dpo_data_create(ctx, tok, NULL);
    none = dpo_data_create(ctx, tok, NULL);
    CHECK_OK(ctx, dpo_data_add(d, "p", 1, "a", 1, "b", 1));
    CHECK_OK(ctx, dpo_data_add(d, "p", 1, "b", 1, "a", 1)); /* other answers */
    CHECK_OK(ctx, dpo_data_add(d, "p", 1, "a", 1, "b", 1));
    CHECK_OK(ctx, dpo_data_add(d, "", 0, "pa", 2, "b", 1)); /* the same ids, cut elsewhere */
    CHECK_OK(ctx, dpo_data_add(d, "", 0, "q", 1, "b", 1));
    CHECK(dataset_repeats(d, NULL, 0) == 1 && dataset_repeats(d, NULL, 1) == 2);
    CHECK_OK(ctx, dpo_data_add(e, "p", 1, "b", 1, "a", 1));
    CHECK(dataset_repeats(d, e, 0) == 1 && dataset_repeats(d, e, 1) == 3 && dataset_repeats(e, d, 1) == 1);
    CHECK(dataset_repeats(d, none, 0) == 0 && dataset_repeats(none, d, 0) == 0 && dataset_repeats(d, d, 0) == 5);
    dpo_data_free(d);
    dpo_data_free(e);
    dpo_data_free(none);
}

static void test_report(void) {
    dataset_lengths l;
    double low, high;
    CHECK(!read_rows("{\"prompt\": \"P\", \"chosen\": \"long\", \"rejected\": \"r\"}\n"
                     "{\"prompt\": \"P\", \"chosen\": \"c\", \"rejected\": \"d\"}\n"
                     "{\"prompt\": \"P\", \"chosen\": \"c\", \"rejected\": \"d\"}\n"
                     "{\"prompt\": \"PQ\", \"chosen\": \"c\", \"rejected\": \"long\"}\n"
                     "{\"prompt\": \"P\", \"chosen\": \"c\", \"rejected\": \"c\"}\n"
                     "{\"prompt\": \"P\", \"chosen\": \" \", \"rejected\": \"c\"}\n",
                     0));
    CHECK(count() == 4 && dropped("both responses are the same", 1, 5) && dropped("a response is empty", 1, 6));
    l = dataset_measure(set.train);
    CHECK(l.examples == 4 && l.prompt.total == 5 && l.prompt.most == 2 && l.chosen.total == 11 && l.chosen.most == 5);
    CHECK(l.rejected.total == 11 && l.whole.most == 7);
    CHECK(dpo_data_report_of(set.train).chosen_longer == 1 && dpo_data_report_of(set.train).same_length == 2);
    CHECK(dataset_repeats(set.train, NULL, 0) == 1 && dataset_repeats(set.train, NULL, 1) == 2);
    dpo_wilson(50, 100, &low, &high); /* the textbook's */
    CHECK_NEAR(low, 0.4038315, 1e-6);
    CHECK_NEAR(high, 0.5961685, 1e-6);
    dpo_wilson(0, 10, &low, &high);
    CHECK_NEAR(low, 0, 1e-12);
    CHECK_NEAR(high, 0.2775328, 1e-6);
    opts.data.max_length = 6;
    opts.data.max_prompt_length = 4;
    CHECK(!read_rows("{\"prompt\": \"123456\", \"chosen\": \"cccccc\", \"rejected\": \"r\"}\n"
                     "{\"prompt\": \"123456\", \"chosen\": \"ccccc\", \"rejected\": \"cccc\"}",
                     0));
    CHECK(is(0, "3456", "cc", "r$") && dropped("the same once cut", 1, 2));
    CHECK(dpo_data_report_of(set.train).truncated_prompts == 1 && dpo_data_report_of(set.train).lost_eos == 1);
    opts.data.max_length = 6;
    opts.data.max_prompt_length = 0; /* half */
    CHECK(!read_rows("{\"prompt\": \"123456\", \"chosen\": \"cccccc\", \"rejected\": \"r\"}\n", 0));
    CHECK(is(0, "456", "ccc", "r$"));
    opts.data.max_length = 6;
    opts.data.max_prompt_length = 6;
    CHECK(read_rows(GOOD, 0) && says("--max-prompt-length 6 leaves no room"));
}
static void test_report_json(void) {
    char text[8192];
    size_t n = 0;
    FILE *f;
    dpo_json *j;
    int64_t train, file;
    double x = 0;
    CHECK(!read_rows(GOOD "\n{\n" GOOD "\n", 0));
    f = fopen(FOLDER "/report", "wb");
    if (!CHECK(f != NULL)) return;
    dataset_json(f, &set);
    fclose(f);
    f = fopen(FOLDER "/report", "rb");
    if (f) n = fread(text, 1, sizeof text, f);
    if (f) fclose(f);
    j = dpo_json_create(ctx);
    CHECK(!dpo_json_parse(j, text, n, NULL, NULL));
    file = dpo_json_find(j, 0, "train_file");
    train = dpo_json_find(j, 0, "train");
    CHECK(dpo_json_number(j, dpo_json_find(j, file, "rows"), &x) && x == 3);
    CHECK(dpo_json_number(j, dpo_json_find(j, file, "kept"), &x) && x == 2);
    CHECK(dpo_json_count(j, dpo_json_find(j, file, "dropped")) == 1);
    CHECK(dpo_json_number(j, dpo_json_find(j, train, "repeated_rows"), &x) && x == 1);
    CHECK(dpo_json_number(j, dpo_json_find(j, dpo_json_find(j, train, "longer_wins"), "accuracy"), &x) && x == 0.5);
    dpo_json_free(j);
}

/* ---- damaged rows ----------------------------------------------------------------------------------------------- */

static void test_damage(void) { /* whatever the bytes: no crash, and every row is kept or counted */
    static const char *const rows[] = {
        GOOD,
        POST("h", "a", "b", 1, 6, 3),
        DIALOGUE(ASKS("q") " a", ASKS("q") " b"),
        "{\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\", \"chosen\": \"c\", \"rejected\": \"r\"}",
        "{\"conversations\": [" SAYS("human", "u") "], \"chosen\": " SAYS("gpt", "c") ", \"rejected\": " SAYS("gpt",
                                                                                                              "r") "}",
        "{\"chosen\": [" TURN("user", "u") ", " TURN("assistant", "c") "], \"rejected\": [" TURN("user", "u") ", " TURN(
            "assistant", "r") "]}",
        "[" GOOD ", " GOOD "]",
        "{\"text\": \"some words\"}"};
    static const char bytes[] = "{}[]\",:\\\0\n\xff\xc3u0";
    int i, k;
    for (i = 0; i < 4000; i++) {
        char text[1024];
        size_t n = (size_t)snprintf(text, sizeof text, "%s\n%s", rows[i % 8], rows[rng_below(8)]);
        for (k = rng_below(4); k >= 0; k--) text[rng_below((int)n)] = bytes[rng_below((int)sizeof bytes - 1)];
        if (!rng_below(4)) n = (size_t)rng_below((int)n);
        opts.format = rng_below(3) ? DATASET_AUTO : rng_below(DATASET_TOKENS);
        opts.chat = rng_below(CHAT_FORMATS + 1);
        opts.row.implicit_prompt = rng_below(2);
        opts.row.hh_keep_diverging = rng_below(2);
        if (read_bytes(text, n, i & 1)) continue;
        CHECK(set.file[0].rows - set.file[0].bad ==
              dpo_data_report_of(set.train).kept + dpo_data_report_of(set.train).grouped);
    }
}

/* ---- real data -------------------------------------------------------------------------------------------------- */

static int skipped;
static int real(const char *name, char *path) {
    struct stat st;
    sprintf(path, SHARED "%s", name);
    if (!stat(path, &st)) return 1;
    skipped++;
    return 0;
}
static void test_real_hh(void) {
    char path[256];
    if (!real("hh/harmless-base.test.jsonl.gz", path)) return;
    CHECK(!read_path(path, 0) && format() == DATASET_HH && set.file[0].rows == 2312 && count() == 2304);
    CHECK(dropped("rejected does not begin", 4, 1255) && dropped("a response is empty", 6, 87));
    CHECK(dataset_repeats(set.train, NULL, 1) == 2);
    opts.row.hh_keep_diverging = 1; /* two of the four are left with an empty rejected answer */
    CHECK(!read_path(path, 0) && count() == 2306 && dropped("a response is empty", 6, 87));
    opts.row.hh_keep_diverging = 0;
    CHECK(!read_path(path, 1) && count() == 2302 && dpo_data_report_of(set.train).grouped == 2);
}
static void test_real_pairs(void) {
    char path[256];
    if (real("pairs/instruction_preference_1100.json", path)) {
        CHECK(!read_path(path, 0) && format() == DATASET_PREFERENCE && set.file[0].rows == 1100 && count() == 1094);
        CHECK(dropped("both responses are the same", 6, 123));
        CHECK(!read_path(path, 1) && count() == 1100);
    }
    if (real("pairs/sharegpt_dpo_300.json", path))
        CHECK(!read_path(path, 0) && format() == DATASET_SHAREGPT && set.file[0].rows == 300 && count() == 300);
    if (real("pairs/messages_100.jsonl", path))
        CHECK(!read_path(path, 0) && format() == DATASET_MESSAGES && set.file[0].rows == 100 && count() == 100);
}
static void test_real_sft(void) {
    char path[256];
    int64_t i, with = 0, without = 0, whole = 0;
    if (real("sft/alpaca_5000.json", path))
        CHECK(!read_path(path, 1) && format() == DATASET_ALPACA && set.file[0].rows == 5000 && count() == 4998);
    for (i = 0; i < count(); i++) { /* each by one of the two templates, to the byte */
        with += !strncmp(part(i, 0), CHAT_ALPACA_INPUT "### Instruction:\n", sizeof CHAT_ALPACA_INPUT + 16);
        without += !strncmp(part(i, 0), CHAT_ALPACA_NO_INPUT "### Instruction:\n", sizeof CHAT_ALPACA_NO_INPUT + 16);
        whole += !strcmp(part(i, 0) + strlen(part(i, 0)) - 15, "\n\n### Response:");
    }
    if (count() == 4998) CHECK(with == 1943 && without == 3055 && whole == 4998);
    if (real("text/tinyshakespeare.txt", path))
        CHECK(!read_path(path, 1) && dpo_data_report_of(set.train).chosen_tokens == 1115394 + 1);
}

static void test_real_chatml(void) { /* a tokenizer that knows <|im_start|> 1 and <|im_end|> 2 */
    const char *text = "{\"messages\": [" TURN("user", "a<|im_end|>b") ", " TURN("assistant", "c") "]}";
    const int32_t *p, *c;
    int64_t np = 0, nc, i, ends = 0, begins = 0;
    char path[256];
    if (!real("tokenizers/bpe6400.tokenizer.json", path)) return;
    tok = dpo_tokenizer_load(ctx, path);
    CHECK_OK(ctx, dpo_tokenizer_set_ends(tok, -1, 0));
    opts.chat = CHAT_CHATML + 1;
    CHECK(!read_rows(text, 1) && !dpo_data_item(set.train, 0, &p, &np, &c, &nc, NULL, NULL));
    for (i = 0; i < np; i++) begins += p[i] == 1, ends += p[i] == 2;
    CHECK(begins == 2 && ends == 1); /* what the person wrote is text */
    CHECK(nc == 2 && c[1] == 2);     /* the end of turn ends it, no end of text follows */
    dataset_free(&set);
    dpo_tokenizer_free(tok);
    tok = dpo_tokenizer_bytes(ctx);
}

#define T(name)                                                                                                        \
    { #name, test_##name }
static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {T(chat_strings),
             T(chat_alpaca_templates),
             T(chat_specials),
             T(chat_of_model),
             T(trl_strings),
             T(trl_lists),
             T(trl_lists_that_do_not_fit),
             T(trl_messages),
             T(trl_implicit),
             T(sharegpt),
             T(alpaca),
             T(preference),
             T(shp_pairs),
             T(shp_sft),
             T(shp_bad),
             T(hh_rule),
             T(hh_diverging),
             T(hh_turns),
             T(hh_grouping),
             T(text),
             T(encodings),
             T(bad_lines),
             T(nothing_usable),
             T(deep),
             T(long_line),
             T(arrays),
             T(gzip),
             T(hold_out),
             T(tokenized),
             T(tokens_file),
             T(tokens_hostile),
             T(tokens_memory),
             T(repeats),
             T(report),
             T(report_json),
             T(damage),
             T(real_hh),
             T(real_pairs),
             T(real_sft),
             T(real_chatml)};

int main(int argc, char **argv) {
    const char *only = argc > 1 ? argv[1] : "";
    int passed = 0, failed = 0, n = (int)(sizeof tests / sizeof *tests), i;
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    ctx = dpo_open(NULL);
    tok = dpo_tokenizer_bytes(ctx);
    opts = dataset_defaults();
    opts.data.max_length = 1 << 20;
    opts.data.max_prompt_length = 1 << 19;
    for (i = 0; i < n; i++) {
        if (!strstr(tests[i].name, only)) continue;
        check_failures = check_lines = 0;
        tests[i].run();
        scratch_free();
        printf("%s %s\n", check_failures ? "FAIL" : "ok  ", tests[i].name);
        if (check_failures) failed++;
        else passed++;
    }
    dataset_free(&set);
    dpo_close(ctx);
    if (skipped) printf("skipped: %d files of " SHARED " are not beside the checkout\n", skipped);
    if (!*only && n < FLOOR) printf("%d tests, there must be %d\n", n, FLOOR), failed++;
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
