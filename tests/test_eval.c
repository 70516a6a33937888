/* test_eval.c - evaluation: statistics against known values; scores of sequences with shared beginnings against each one
   by itself, KL and likeliest ids against the logits; each task's texts against texts written by hand
   (tests/golden/tasks) and, where ../shared stands beside the checkout, against hashes of texts that
   tests/interop/tasks.py made; files that are wrong; and build/dpo-eval on stories260K against a forward pass, a
   tokenizer and metrics of this file's own, in double precision.

   usage: eval [SHARED/data MODEL_DIR [ITEMS]]     MODEL_DIR as build/tests/stories writes it.
   Last line: N passed, N failed (, N skipped). Exit status 1 on any failure. */
#include "../tools/cli.h"
#include "../dpo.h"
#include "../tools/formats/tasks.h"
#include "check.h"

#define FLOOR  24 /* so many tests there are at least */
#define FOLDER "build/tests/eval.out"
#define GOLDEN "tests/golden/tasks/"

static dpo_context *ctx;
static const char *shared, *stories; /* NULL: not there */
static int items = 40, skipped;

static void put_file(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(text, 1, strlen(text), f) == strlen(text));
    fclose(f);
}
static char *get_file(const char *path) { /* freed by scratch_free */
    FILE *f = fopen(path, "rb");
    long n;
    char *text;
    if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 0 || fseek(f, 0, SEEK_SET)) {
        check_case(0, __FILE__, __LINE__, "cannot read", path);
        return SCRATCH(char, 1);
    }
    text = SCRATCH(char, n + 1);
    CHECK(fread(text, 1, (size_t)n, f) == (size_t)n);
    fclose(f);
    return text;
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

static void test_wilson(void) { /* by the formula, in 40 digits */
    static const double want[][4] = {{0, 10, 0, 0.27753279986288926},
                                     {10, 10, 0.7224672001371107, 1},
                                     {5, 10, 0.23659309051256397, 0.7634069094874361},
                                     {188, 256, 0.6770967582431306, 0.7847233090572422},
                                     {12.5, 40, 0.19074487213774932, 0.4671132283112332},
                                     {1, 1, 0.2065493143772374, 1},
                                     {0, 0, 0, 1}};
    size_t i;
    for (i = 0; i < sizeof want / sizeof *want; i++) {
        double low = -1, high = -1;
        dpo_wilson(want[i][0], want[i][1], &low, &high);
        CHECK_NEAR(low, want[i][2], 1e-14);
        CHECK_NEAR(high, want[i][3], 1e-14);
    }
}
static void test_mcnemar(void) { /* by sums of whole binomial coefficients */
    static const struct {
        int64_t b, c;
        double p;
    } want[] = {{0, 0, 1},
                {5, 5, 1},
                {1, 0, 1},
                {0, 5, 0.0625},
                {10, 2, 0.03857421875},
                {3, 17, 0.0025768280029296875},
                {100, 140, 0.011664092317677663},
                {480, 520, 0.21744829320414094},
                {3000, 3200, 0.011488253770871206},
                {0, 400, 7.745183829698637e-121}};
    size_t i;
    for (i = 0; i < sizeof want / sizeof *want; i++) {
        CHECK_NEAR(dpo_mcnemar(want[i].b, want[i].c) / want[i].p, 1, 1e-10);
        CHECK(dpo_mcnemar(want[i].b, want[i].c) == dpo_mcnemar(want[i].c, want[i].b));
    }
}
static void test_mean(void) {
    static const double x[] = {1, 2, 4, 9};
    double error = -1;
    CHECK(dpo_mean(x, 4, &error) == 4);
    CHECK_NEAR(error, sqrt(38.0 / 3) / 2, 1e-15); /* squares 9 + 4 + 0 + 25 */
    CHECK(dpo_mean(x, 1, &error) == 1 && error != error);
    CHECK(dpo_mean(x, 0, NULL) != dpo_mean(x, 0, NULL));
}
static void test_bootstrap(void) {
    double x[400], low, high, low2, high2, error, mean;
    int i;
    for (i = 0; i < 400; i++) x[i] = rng_normal();
    mean = dpo_mean(x, 400, &error);
    CHECK(!dpo_bootstrap_mean(x, 400, 7, 10000, &low, &high));
    CHECK_NEAR((low - mean) / error, -1.96, 0.1); /* of a mean of many: the normal interval */
    CHECK_NEAR((high - mean) / error, 1.96, 0.1);
    CHECK(!dpo_bootstrap_mean(x, 400, 7, 10000, &low2, &high2) && low == low2 && high == high2);
    CHECK(!dpo_bootstrap_mean(x, 400, 8, 10000, &low2, &high2) && low != low2);
    for (i = 0; i < 400; i++) x[i] = 3;
    CHECK(!dpo_bootstrap_mean(x, 400, 7, 40, &low, &high) && low == 3 && high == 3);
    CHECK(dpo_bootstrap_mean(x, 0, 7, 10000, &low, &high) == DPO_E_ARG && low != low);
    CHECK(dpo_bootstrap_mean(x, 4, 7, 39, &low, &high) == DPO_E_ARG);
    CHECK(dpo_bootstrap_mean(x, 4, 7, 40001, &low, &high) == DPO_E_ARG);
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

#define SEQUENCES 40
#define LONGEST   60

static dpo_model *small_model(const char *type, uint64_t seed) {
    char text[1024];
    snprintf(text, sizeof text,
             "{\"model_type\": \"%s\", \"vocab_size\": 97, \"hidden_size\": 32, \"num_hidden_layers\": 2, "
             "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 48, "
             "\"max_position_embeddings\": 64, \"rotary_pct\": 0.5, \"hidden_act\": \"%s\", \"rms_norm_eps\": 1e-5, "
             "\"tie_word_embeddings\": false, \"initializer_range\": 0.3}",
             type, strcmp(type, "llama") ? "gelu" : "silu");
    put_file(FOLDER "/small.json", text);
    return dpo_model_create_from(ctx, FOLDER "/small.json", seed);
}
/* Sequences that begin alike in many ways: each copies some of an earlier one. */
static dpo_sequence *made_sequences(void) {
    dpo_sequence *s = SCRATCH(dpo_sequence, SEQUENCES);
    int i, k;
    for (i = 0; i < SEQUENCES; i++) {
        int32_t *ids = SCRATCH(int32_t, LONGEST);
        int n = 2 + rng_below(LONGEST - 2), keep = i ? rng_below((int)s[i - 1].n) + 1 : 0;
        if (i % 7 == 3) n = keep = (int)s[i - 1].n;                    /* the same again */
        if (i % 7 == 5) n = keep = 2 + rng_below((int)s[i - 1].n - 1); /* a beginning of it */
        if (i % 11 == 6) keep = 0;
        for (k = 0; k < n; k++) ids[k] = i && k < keep ? s[i - 1].ids[k] : (int32_t)rng_below(97);
        s[i].ids = ids;
        s[i].n = n;
        s[i].context = 1 + rng_below(n - 1);
    }
    return s;
}
static int64_t token_count(const dpo_sequence *s, int64_t n) {
    int64_t i, k = 0;
    for (i = 0; i < n; i++) k += s[i].n - s[i].context;
    return k;
}
static void check_scores(dpo_model *m, dpo_model *reference) {
    dpo_sequence *s = made_sequences();
    int64_t n = token_count(s, SEQUENCES), i, k, rows[2] = {0, 0};
    dpo_score one, many[SEQUENCES], small[SEQUENCES];
    dpo_token_score *t = SCRATCH(dpo_token_score, n), *u = SCRATCH(dpo_token_score, n), *at = t;
    dpo_score_config c;
    memset(&c, 0, sizeof c);
    c.reference = reference;
    c.rows = &rows[0];
    if (!CHECK_OK(ctx, dpo_score_sequences(m, s, SEQUENCES, &c, many, t))) return;
    c.max_rows = 70;
    c.rows = &rows[1];
    if (!CHECK_OK(ctx, dpo_score_sequences(m, s, SEQUENCES, &c, small, u))) return;
    CHECK_SAME(many, small, sizeof many);
    CHECK_SAME(t, u, (size_t)n * sizeof *t);
    CHECK(rows[0] <= rows[1]);
    c.separate = 1;
    for (i = 0; i < SEQUENCES; i++) {
        dpo_segment g = {-1, 0, 0, 0};
        dpo_target *target = SCRATCH(dpo_target, s[i].n);
        dpo_batch b;
        double logp;
        if (!CHECK_OK(ctx, dpo_score_sequences(m, &s[i], 1, &c, &one, NULL))) return;
        CHECK_SAME(&one, &many[i], sizeof one);
        g.length = (int32_t)s[i].n - 1;
        for (k = s[i].context; k < s[i].n; k++, at++) {
            target[k - s[i].context].row = (int32_t)k - 1;
            target[k - s[i].context].token = s[i].ids[k];
        }
        memset(&b, 0, sizeof b);
        b.tokens = s[i].ids;
        b.n_rows = s[i].n - 1;
        b.segments = &g;
        b.n_segments = b.n_sequences = 1;
        b.targets = target;
        b.n_targets = s[i].n - s[i].context;
        CHECK_OK(ctx, dpo_model_logps(m, &b, &logp));
        CHECK(logp == many[i].logp && many[i].tokens == b.n_targets);
    }
    CHECK(at == t + n);
}
static void test_scores(void) {
    dpo_model *m = small_model("llama", 3), *r = small_model("llama", 4), *x = small_model("gpt_neox", 5);
    int i;
    for (i = 0; i < 4; i++) check_scores(m, NULL);
    check_scores(m, r);
    check_scores(x, NULL);
    dpo_model_free(m);
    dpo_model_free(r);
    dpo_model_free(x);
}
/* KL and the likeliest id from the logits themselves, in double. */
static void test_kl(void) {
    dpo_model *m = small_model("llama", 3), *r = small_model("llama", 4);
    int32_t ids[6] = {5, 90, 17, 17, 3, 60};
    dpo_sequence s = {ids, 6, 2};
    dpo_segment g = {-1, 0, 5, 0};
    dpo_target target[4];
    dpo_batch b;
    dpo_score_config c;
    dpo_score got;
    dpo_token_score t[4];
    float *z = SCRATCH(float, 4 * 97), *y = SCRATCH(float, 4 * 97);
    double all = 0;
    int i, v;
    memset(&c, 0, sizeof c);
    memset(&b, 0, sizeof b);
    memset(target, 0, sizeof target);
    for (i = 0; i < 4; i++) {
        target[i].row = i + 1;
        target[i].token = ids[i + 2];
    }
    b.tokens = ids;
    b.n_rows = 5;
    b.segments = &g;
    b.n_segments = b.n_sequences = 1;
    b.targets = target;
    b.n_targets = 4;
    c.reference = r;
    CHECK_OK(ctx, dpo_score_sequences(m, &s, 1, &c, &got, t));
    CHECK_OK(ctx, dpo_model_logits(m, &b, z));
    CHECK_OK(ctx, dpo_model_logits(r, &b, y));
    for (i = 0; i < 4; i++) {
        double sp = 0, sq = 0, kl = 0;
        int best = 0;
        for (v = 0; v < 97; v++) {
            sp += exp((double)z[i * 97 + v]);
            sq += exp((double)y[i * 97 + v]);
            if (z[i * 97 + v] > z[i * 97 + best]) best = v;
        }
        for (v = 0; v < 97; v++) {
            double q = exp((double)y[i * 97 + v]) / sq;
            kl += q * (log(q) - ((double)z[i * 97 + v] - log(sp)));
        }
        all += kl;
        CHECK_NEAR(t[i].kl, kl, 1e-6);
        CHECK(t[i].kl > 0.01 && t[i].likeliest == best);
        CHECK_NEAR(t[i].logp, (double)z[i * 97 + ids[i + 2]] - log(sp), 1e-6);
        CHECK_NEAR(t[i].reference_logp, (double)y[i * 97 + ids[i + 2]] - log(sq), 1e-6);
    }
    CHECK_NEAR(got.kl, all, 1e-5);
    for (i = 0; i < 4; i++) ids[i + 2] = (int32_t)t[i].likeliest; /* now the first of them is right, at least */
    CHECK_OK(ctx, dpo_score_sequences(m, &s, 1, &c, &got, t));
    CHECK(got.greedy == (t[0].likeliest == ids[2] && t[1].likeliest == ids[3] && t[2].likeliest == ids[4] &&
                         t[3].likeliest == ids[5]));
    s.n = 3;
    CHECK_OK(ctx, dpo_score_sequences(m, &s, 1, &c, &got, t));
    CHECK(got.greedy == 1 && got.tokens == 1);
    c.reference = m; /* the same model: nothing between them, exactly */
    CHECK_OK(ctx, dpo_score_sequences(m, &s, 1, &c, &got, t));
    CHECK(got.kl == 0 && got.logp == got.reference_logp);
    dpo_model_free(m);
    dpo_model_free(r);
}
/* A model with adapters is its own reference: without them. */
static void test_adapter_reference(void) {
    dpo_model *m = small_model("llama", 3), *base = small_model("llama", 3);
    dpo_lora_config l = dpo_lora_defaults(DPO_LLAMA);
    dpo_sequence *s = made_sequences();
    dpo_score_config c;
    dpo_score a[SEQUENCES], b[SEQUENCES];
    dpo_tensor t[32];
    int64_t n, i, k;
    memset(&c, 0, sizeof c);
    l.r = 3;
    CHECK_OK(ctx, dpo_lora_attach(m, &l, 1));
    n = dpo_lora_tensors(m, t, 32);
    for (i = 0; i < n && i < 32; i++)
        for (k = 0; k < t[i].shape[0] * t[i].shape[1]; k++) ((float *)t[i].data)[k] = (float)(0.1 * rng_normal());
    c.reference = m;
    CHECK_OK(ctx, dpo_score_sequences(m, s, SEQUENCES, &c, a, NULL));
    c.reference = base;
    CHECK_OK(ctx, dpo_score_sequences(m, s, SEQUENCES, &c, b, NULL));
    CHECK_SAME(a, b, sizeof a);
    CHECK(a[0].kl > 0 && a[0].logp != a[0].reference_logp);
    c.reference = NULL; /* they are on again */
    CHECK_OK(ctx, dpo_score_sequences(m, s, SEQUENCES, &c, b, NULL));
    for (i = 0; i < SEQUENCES; i++) CHECK(a[i].logp == b[i].logp);
    dpo_model_free(m);
    dpo_model_free(base);
}
/* More branches than a path may have segments. */
static void test_deep(void) {
    enum { N = 90 };
    char text[600];
    dpo_model *m;
    static int32_t ids[2 * N][N + 2];
    static dpo_sequence s[2 * N];
    static dpo_score a[2 * N], b[2 * N];
    dpo_score_config c;
    int i, k;
    snprintf(text, sizeof text,
             "{\"model_type\": \"llama\", \"vocab_size\": 9, \"hidden_size\": 16, \"num_hidden_layers\": 1, "
             "\"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"intermediate_size\": 16, "
             "\"max_position_embeddings\": 128, \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-5, "
             "\"tie_word_embeddings\": false, \"initializer_range\": 0.3}");
    put_file(FOLDER "/deep.json", text);
    m = dpo_model_create_from(ctx, FOLDER "/deep.json", 1);
    for (i = 0; i < 2 * N; i++) { /* leaves the long one later and later backwards, then the other way round */
        int n = i < N ? N - i : i - N + 1;
        for (k = 0; k < n; k++) ids[i][k] = 1;
        ids[i][n] = 2;
        ids[i][n + 1] = 3;
        s[i].ids = ids[i];
        s[i].n = n + 1 + (n < N);
        s[i].context = 1;
    }
    memset(&c, 0, sizeof c);
    c.max_rows = 100000;
    CHECK_OK(ctx, dpo_score_sequences(m, s, 2 * N, &c, a, NULL));
    c.separate = 1;
    CHECK_OK(ctx, dpo_score_sequences(m, s, 2 * N, &c, b, NULL));
    CHECK_SAME(a, b, sizeof a);
    dpo_model_free(m);
}
static void refused(dpo_model *m, const dpo_sequence *s, const dpo_score_config *c, dpo_result want, const char *word) {
    dpo_score out[2];
    CHECK(dpo_score_sequences(m, s, 1, c, out, NULL) == want);
    CHECK_CASE(strstr(dpo_error(ctx), word) != NULL, dpo_error(ctx));
    dpo_clear(ctx);
}
static int stop_after(void *user) { return --*(int *)user < 0; }
static void test_score_errors(void) {
    dpo_model *m = small_model("llama", 3), *other;
    dpo_desc desc;
    dpo_context *second;
    int32_t ids[3] = {1, 2, 3}, far[3] = {1, 2, 97};
    dpo_sequence s = {ids, 3, 1};
    dpo_score_config c;
    dpo_score out[8];
    dpo_sequence many[8];
    int left = 3, i;
    memset(&c, 0, sizeof c);
    s.context = 0;
    refused(m, &s, NULL, DPO_E_ARG, "context of 0");
    s.context = 3;
    refused(m, &s, NULL, DPO_E_ARG, "0 ids");
    s.context = 1;
    s.ids = far;
    refused(m, &s, NULL, DPO_E_SHAPE, "97");
    s.ids = NULL;
    refused(m, &s, NULL, DPO_E_ARG, "sequence 0");
    s.ids = ids;
    c.max_rows = -1;
    refused(m, &s, &c, DPO_E_ARG, "max_rows -1");
    CHECK_OK(ctx, dpo_score_sequences(m, NULL, 0, NULL, NULL, NULL)); /* nothing to do */
    memset(&desc, 0, sizeof desc);
    desc.cancel = stop_after;
    desc.user = &left;
    second = dpo_open(&desc);
    other = dpo_model_create_from(second, FOLDER "/small.json", 1);
    c.max_rows = 0;
    c.reference = other;
    refused(m, &s, &c, DPO_E_ARG, "two contexts");
    c.reference = NULL;
    c.max_rows = 1;
    c.separate = 1;
    for (i = 0; i < 8; i++) many[i] = s;
    CHECK(dpo_score_sequences(other, many, 8, &c, out, NULL) == DPO_E_CANCELLED);
    CHECK(out[0].tokens == 2 && out[2].tokens == 2 && out[3].tokens == 0 && out[7].tokens == 0);
    dpo_close(second);
    dpo_model_free(m);
}

/* Each allocation fails in turn: an error, nothing lost, and the same scores when there is memory again. */
static void test_score_allocation(void) {
    static const int32_t ids[2][5] = {{1, 2, 3, 4, 5}, {1, 2, 9, 8, 7}};
    dpo_sequence s[2] = {{ids[0], 5, 2}, {ids[1], 5, 2}};
    heap h;
    dpo_desc desc;
    dpo_context *c;
    dpo_model *m, *r;
    dpo_score_config k;
    dpo_score want[2], got[2];
    int64_t live, n, i;
    memset(&h, 0, sizeof h);
    memset(&desc, 0, sizeof desc);
    memset(&k, 0, sizeof k);
    desc.alloc = heap_alloc;
    desc.release = heap_release;
    desc.user = &h;
    desc.n_threads = 1;
    c = dpo_open(&desc);
    m = dpo_model_create_from(c, FOLDER "/small.json", 1);
    r = dpo_model_create_from(c, FOLDER "/small.json", 2);
    k.reference = r;
    live = h.live;
    n = h.calls;
    CHECK_OK(c, dpo_score_sequences(m, s, 2, &k, want, NULL));
    n = h.calls - n;
    CHECK(n >= 4 && h.live == live);
    for (i = 1; i <= n; i++) {
        h.fail_at = h.calls + i;
        CHECK(dpo_score_sequences(m, s, 2, &k, got, NULL) == DPO_E_MEMORY && h.live == live);
        dpo_clear(c);
    }
    h.fail_at = 0;
    CHECK_OK(c, dpo_score_sequences(m, s, 2, &k, got, NULL));
    CHECK_SAME(got, want, sizeof want);
    dpo_close(c);
    CHECK(h.live == 0);
}

/* ---- texts of tasks --------------------------------------------------------------------------------------------- */

typedef struct text_file { /* a task's file, or one of expected texts */
    task_set s;
    char err[2400];
    int failed;
} text_file;

static text_file read_task(const char *task, const char *path, const char *labels) {
    text_file t;
    t.s = task_set_start(dpo_json_create(ctx));
    t.err[0] = 0;
    t.failed = task_set_read(&t.s, task_by_name(task, strlen(task)), path, labels, t.err, sizeof t.err);
    return t;
}
static void close_task(text_file *t) { task_set_free(&t->s); }

/* The whole context of a request, zero-terminated. */
static char *context_of(const task_set *s, const task_item *item, const task_request *r, size_t *n) {
    task_text before = s->subject[item->subject].before;
    char *out = SCRATCH(char, before.bytes + r->context.bytes + 1);
    if (before.bytes) memcpy(out, task_string(s, before), before.bytes);
    if (r->context.bytes) memcpy(out + before.bytes, task_string(s, r->context), r->context.bytes);
    *n = before.bytes + r->context.bytes;
    return out;
}
static void same_texts(const task_set *got, const task_set *want, const char *name, int labels) {
    int64_t i, k;
    CHECK_CASE(got->n_items >= want->n_items && got->bad == 0, name);
    for (i = 0; i < want->n_items && i < got->n_items; i++) {
        const task_item *a = &got->item[i], *b = &want->item[i];
        char one[400];
        snprintf(one, sizeof one, "%s, item %d", name, (int)i + 1);
        if (!CHECK_CASE(a->n == b->n, one)) continue;
        CHECK_CASE(a->gold == b->gold, one);
        for (k = 0; k < a->n; k++) {
            const task_request *x = &got->request[a->first + k], *y = &want->request[b->first + k];
            size_t n, m;
            char *c = context_of(got, a, x, &n), *d = context_of(want, b, y, &m);
            CHECK_CASE(n == m && !memcmp(c, d, n), c);
            CHECK_CASE(x->continuation.bytes == y->continuation.bytes &&
                           !memcmp(task_string(got, x->continuation), task_string(want, y->continuation),
                                   x->continuation.bytes),
                       one);
            CHECK_CASE(labels || x->characters ==
                                     task_characters(task_string(want, y->continuation) + 1, y->continuation.bytes - 1),
                       one);
        }
    }
}
static void check_golden(const char *task, const char *file, const char *labels, const char *expected, int least) {
    char path[256], label_path[256], want_path[256];
    text_file got, want;
    snprintf(path, sizeof path, GOLDEN "%s", file);
    snprintf(label_path, sizeof label_path, GOLDEN "%s", labels ? labels : "");
    snprintf(want_path, sizeof want_path, GOLDEN "%s", expected);
    got = read_task(task, path, labels ? label_path : NULL);
    want = read_task("custom", want_path, NULL);
    CHECK_CASE(!got.failed, got.err);
    CHECK_CASE(!want.failed, want.err);
    if (!got.failed && !want.failed) {
        CHECK_CASE(want.s.n_items >= least, expected);
        CHECK_CASE(got.s.n_items == want.s.n_items, file);
        same_texts(&got.s, &want.s, file, 0);
    }
    close_task(&got);
    close_task(&want);
}
static void test_texts(void) {
    check_golden("arc_easy", "arc_easy.jsonl", NULL, "arc_easy.expected.jsonl", 8);
    check_golden("arc_challenge", "arc_challenge.jsonl", NULL, "arc_challenge.expected.jsonl", 8);
    check_golden("auto", "arc_challenge.jsonl", NULL, "arc_challenge.expected.jsonl", 8);
    check_golden("openbookqa", "openbookqa.jsonl", NULL, "openbookqa.expected.jsonl", 8);
    check_golden("auto", "hellaswag.jsonl", NULL, "hellaswag.expected.jsonl", 8);
    check_golden("auto", "piqa.jsonl", "piqa.labels.lst", "piqa.expected.jsonl", 8);
    check_golden("auto", "winogrande.jsonl", NULL, "winogrande.expected.jsonl", 8);
    check_golden("auto", "boolq.jsonl", NULL, "boolq.expected.jsonl", 8);
    check_golden("auto", "social_iqa.jsonl", "social_iqa.labels.lst", "social_iqa.expected.jsonl", 8);
    check_golden("social_iqa_2023", "social_iqa.jsonl", "social_iqa.labels.lst", "social_iqa_2023.expected.jsonl", 8);
    check_golden("auto", "sciq.json", NULL, "sciq.expected.jsonl", 8);
    check_golden("auto", "race.jsonl", NULL, "race.expected.jsonl", 8);
    check_golden("auto", "lambada.jsonl", NULL, "lambada.expected.jsonl", 8);
    check_golden("truthfulqa_mc1", "truthfulqa.json", NULL, "truthfulqa_mc1.expected.jsonl", 8);
    check_golden("auto", "truthfulqa.json", NULL, "truthfulqa_mc2.expected.jsonl", 8);
    check_golden("auto", "mmlu_hub.jsonl", NULL, "mmlu_hub.expected.jsonl", 2);
    check_golden("auto", "mmlu_test", NULL, "mmlu.expected.jsonl", 8);
}
static void check_shots(const char *task, const char *file, const char *shots, int n, const char *expected) {
    text_file got = read_task(task, file, NULL), from = read_task(task, shots, NULL),
              want = read_task("custom", expected, NULL);
    char err[400] = "";
    CHECK_CASE(!got.failed && !from.failed && !want.failed, file);
    CHECK_CASE(!task_set_examples(&got.s, &from.s, n, err, sizeof err), err);
    same_texts(&got.s, &want.s, expected, 0);
    CHECK(task_set_examples(&got.s, &from.s, 4, err, sizeof err) && strstr(err, "expected at least 4"));
    close_task(&got);
    close_task(&from);
    close_task(&want);
}
static void test_few_shot(void) {
    check_shots("mmlu", GOLDEN "mmlu_test", GOLDEN "mmlu_dev", 2, GOLDEN "mmlu.fewshot.expected.jsonl");
    check_shots("winogrande", GOLDEN "winogrande.jsonl", GOLDEN "winogrande.shots.jsonl", 2,
                GOLDEN "winogrande.fewshot.expected.jsonl");
}
/* As the corpus lies: a file an article. */
static void test_race_directory(void) {
    text_file t;
    mkdir(FOLDER "/race", 0777);
    put_file(FOLDER "/race/2.txt",
             "{\"article\": \"B.\", \"questions\": [\"b?\"], \"options\": [[\"x\", \"y\"]], \"answers\": [\"B\"]}");
    put_file(FOLDER "/race/1.txt",
             "{\"article\": \"A.\", \"questions\": [\"a?\"], \"options\": [[\"x\", \"y\"]], \"answers\": [\"A\"]}");
    t = read_task("auto", FOLDER "/race", NULL);
    CHECK_CASE(!t.failed, t.err);
    CHECK(t.s.kind == TASK_RACE && t.s.n_items == 2 && t.s.item[0].gold == 0 && t.s.item[1].gold == 1);
    close_task(&t);
}
static void test_truthful_labels(void) {
    text_file t = read_task("truthfulqa_mc2", GOLDEN "truthfulqa.json", NULL);
    static const int want[] = {1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1}; /* of its first five items */
    size_t i;
    for (i = 0; i < sizeof want / sizeof *want; i++) CHECK(t.s.request[i].label == want[i]);
    close_task(&t);
}

/* ---- SHA-256 ---------------------------------------------------------------------------------------------------- */

typedef struct sha {
    uint32_t h[8];
    uint8_t block[64];
    uint64_t bytes;
} sha;

static uint32_t sha_turn(uint32_t x, int n) { return x >> n | x << (32 - n); }
/* Fractional bits of the first 64 primes' cube roots, and of the first 8 ones' square roots. */
static const uint32_t sha_cubes[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
static const uint32_t sha_squares[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static void sha_block(sha *s) {
    uint32_t w[64], v[8], a, b;
    int i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | (uint32_t)s->block[4 * i + 3];
    for (; i < 64; i++)
        w[i] = w[i - 16] + (sha_turn(w[i - 15], 7) ^ sha_turn(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (sha_turn(w[i - 2], 17) ^ sha_turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, s->h, sizeof v);
    for (i = 0; i < 64; i++) {
        a = v[7] + (sha_turn(v[4], 6) ^ sha_turn(v[4], 11) ^ sha_turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) +
            sha_cubes[i] + w[i];
        b = (sha_turn(v[0], 2) ^ sha_turn(v[0], 13) ^ sha_turn(v[0], 22)) +
            ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += a;
        v[0] = a + b;
    }
    for (i = 0; i < 8; i++) s->h[i] += v[i];
}
static void sha_start(sha *s) {
    memset(s, 0, sizeof *s);
    memcpy(s->h, sha_squares, sizeof s->h);
}
static void sha_add(sha *s, const void *data, size_t n) {
    const uint8_t *p = (const uint8_t *)data;
    size_t i;
    for (i = 0; i < n; i++) {
        s->block[s->bytes++ % 64] = p[i];
        if (s->bytes % 64 == 0) sha_block(s);
    }
}
static void sha_end(sha *s, char out[65]) {
    uint64_t bits = s->bytes * 8;
    uint8_t length[8];
    int i;
    sha_add(s, "\x80", 1);
    while (s->bytes % 64 != 56) sha_add(s, "", 1);
    for (i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha_add(s, length, 8);
    for (i = 0; i < 8; i++) snprintf(out + 8 * i, 9, "%08x", (unsigned)s->h[i]);
}
static void test_sha(void) {
    char hex[65];
    sha s;
    sha_start(&s);
    sha_add(&s, "abc", 3);
    sha_end(&s, hex);
    CHECK_CASE(!strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), hex);
}
/* The first 25 items of the real files. */
static void test_real_texts(void) {
    char *list = get_file(GOLDEN "real.sha256"), *line;
    int n = 0;
    if (!shared) {
        skipped++;
        return;
    }
    for (line = strtok(list, "\n"); line; line = strtok(NULL, "\n"), n++) {
        char task[64], want[80], file[128], labels[128], path[1024], label_path[1024], hex[65];
        text_file t;
        int64_t i, k;
        sha s;
        if (!CHECK_CASE(sscanf(line, "%63s %79s %127s %127s", task, want, file, labels) == 4, line)) return;
        snprintf(path, sizeof path, "%s/tasks/%s", shared, file);
        snprintf(label_path, sizeof label_path, "%s/tasks/%s", shared, labels);
        t = read_task(task, path, strcmp(labels, "-") ? label_path : NULL);
        CHECK_CASE(!t.failed && !t.s.bad, t.err);
        sha_start(&s);
        for (i = 0; i < 25 && !t.failed; i++) {
            const task_item *item = &t.s.item[i];
            for (k = 0; k < item->n; k++) {
                const task_request *r = &t.s.request[item->first + k];
                sha_add(&s, task_string(&t.s, r->context), r->context.bytes);
                sha_add(&s, "\x1f", 1);
                sha_add(&s, task_string(&t.s, r->continuation), r->continuation.bytes);
                sha_add(&s, "\x1e", 1);
            }
            snprintf(label_path, sizeof label_path, "%d\n", item->gold);
            sha_add(&s, label_path, strlen(label_path));
        }
        sha_end(&s, hex);
        CHECK_CASE(!strcmp(hex, want), line);
        close_task(&t);
    }
    CHECK(n == 11);
}

/* ---- wrong files ------------------------------------------------------------------------------------------------ */

/* A file of which no row can be used: one sentence that holds `word`. */
static void wrong(const char *task, const char *text, const char *labels, const char *word) {
    text_file t;
    put_file(FOLDER "/wrong.jsonl", text);
    if (labels) put_file(FOLDER "/wrong.lst", labels);
    t = read_task(task, FOLDER "/wrong.jsonl", labels ? FOLDER "/wrong.lst" : NULL);
    CHECK_CASE(t.failed, text);
    CHECK_CASE(strstr(t.err, word) != NULL, t.err);
    CHECK_CASE(strstr(t.err, "/wrong.") != NULL, t.err);
    close_task(&t);
}
static void test_wrong_files(void) {
    text_file t;
    wrong("auto", "", NULL, "no items");
    wrong("auto", "\n\n", NULL, "no items");
    wrong("auto", "{\"a\": 1}\n", NULL, "no known task");
    wrong("auto", "{\"question\": {\"stem\": \"x\", \"choices\": []}, \"answerKey\": \"A\"}\n", NULL, "name the task");
    wrong("piqa", "not json\n", NULL, "bad JSON");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\"}\n", NULL, "sol2 is missing");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n", NULL, "no labels file was named");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 2}\n", NULL,
          "label is 2; expected 0 to 1");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 0.5}\n", NULL, "0.5");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\", \"label\": true}\n", NULL, "whole number");
    wrong("piqa", "{\"goal\": 1, \"sol1\": \"a\", \"sol2\": \"b\", \"label\": 0}\n", NULL, "goal is not a string");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n", "0\n1\n", "1 rows");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n", "", "more rows");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n", "x\n", "line 1: expected a label");
    wrong("piqa", "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n", "7\n", "its label is 7");
    wrong("arc",
          "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\"]}, \"answerKey\": \"A\"}\n",
          NULL, "2 texts and 1 labels");
    wrong("arc",
          "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]}, \"answerKey\": "
          "\"C\"}\n",
          NULL, "answerKey 'C'");
    wrong("arc", "{\"question\": \"q\", \"choices\": {\"text\": [\"a\"], \"label\": [\"A\"]}, \"answerKey\": \"A\"}\n",
          NULL, "1 choices");
    wrong("arc", "{\"question\": \"q\", \"answerKey\": \"A\"}\n", NULL, "choices is missing");
    wrong("winogrande", "{\"sentence\": \"no gap\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"1\"}\n", NULL,
          "no '_'");
    wrong("winogrande", "{\"sentence\": \"a _\", \"option1\": \"a\", \"option2\": \"b\", \"answer\": \"\"}\n", NULL,
          "answer");
    wrong("hellaswag",
          "{\"activity_label\": \"a\", \"ctx_a\": \"b\", \"ctx_b\": \"c\", \"endings\": \"d\", \"label\": 0}\n", NULL,
          "endings is no list");
    wrong(
        "hellaswag",
        "{\"activity_label\": \"a\", \"ctx_a\": \"b\", \"ctx_b\": \"c\", \"endings\": [\"d\", \"e\"], \"label\": 2}\n",
        NULL, "label is 2");
    wrong("boolq", "{\"question\": \"q\", \"passage\": \"p\"}\n", NULL, "answer is missing");
    wrong("race", "{\"article\": \"a\", \"questions\": [\"q\"], \"options\": [], \"answers\": [\"A\"]}\n", NULL,
          "0 lists");
    wrong("race", "{\"article\": \"a\", \"questions\": [\"q\"], \"options\": [[\"x\", \"y\"]], \"answers\": [\"C\"]}\n",
          NULL, "not one of A to B");
    wrong("lambada", "{\"text\": \"ends in a blank \"}\n", NULL, "no last word");
    wrong("truthfulqa_mc1", "[{\"question\": \"q\", \"mc1_targets\": {\"a\": 0, \"b\": 1}}]", NULL, "first choice");
    wrong("truthfulqa_mc2", "[{\"question\": \"q\", \"mc2_targets\": {\"a\": 1, \"b\": 1}}]", NULL, "label 1");
    wrong("truthfulqa_mc2", "[{\"question\": \"q\", \"mc2_targets\": {\"a\": 1, \"b\": 2}}]", NULL, "not 0 or 1");
    wrong("custom", "{\"ctx\": \"a\", \"conts\": [], \"gold\": 0}\n", NULL, "conts");
    wrong("custom", "{\"ctx\": \"a\", \"conts\": [\" b\"], \"gold\": 1}\n", NULL, "gold is 1");
    wrong("custom", "{\"ctxs\": [\"a\"], \"conts\": [\" b\", \" c\"], \"gold\": 1}\n", NULL, "1 ctxs and 2 conts");
    wrong("custom", "{\"ctx\": \"a\", \"conts\": [\" b\", \" c\"], \"norm_len\": [0, 1], \"gold\": 1}\n", NULL,
          "norm_len");
    /* rows that can be used stay; the others are counted by reason, with the first one's place */
    put_file(FOLDER "/some.jsonl", "{\"text\": \"one two\"}\nx\n{\"txt\": 1}\n{\"text\": \"three four\"}\ny\n");
    t = read_task("lambada", FOLDER "/some.jsonl", NULL);
    CHECK(!t.failed && t.s.rows == 5 && t.s.n_items == 2 && t.s.bad == 3 && t.s.reasons == 2);
    CHECK(t.s.reason[0].count == 2 && strstr(t.s.reason[0].where, "line 2") != NULL);
    CHECK(t.s.reason[1].count == 1 && !strcmp(t.s.reason[1].why, "text is missing"));
    CHECK(t.s.item[1].line == 4);
    close_task(&t);
}
static void test_wrong_csv(void) {
    static const char *const text[] = {"q,a,b,c,d\n", "q,a,b,c,d,E\n", "\"q,a,b,c,d,A\n", "q,a,b,c,d,A,x\n"};
    static const char *const word[] = {"5 columns", "none of A to D", "never closed", "7 columns"};
    text_file t;
    int i;
    for (i = 0; i < 4; i++) {
        put_file(FOLDER "/wrong.csv", text[i]);
        t = read_task("auto", FOLDER "/wrong.csv", NULL);
        CHECK_CASE(t.failed && strstr(t.err, word[i]), t.err);
        close_task(&t);
    }
    put_file(FOLDER "/some_test.csv", "q,a,b,c,d,A\r\n\nbad,row\n\"q\n2\",a,b,c,d,D");
    t = read_task("mmlu", FOLDER "/some_test.csv", NULL);
    CHECK(!t.failed && t.s.n_items == 2 && t.s.bad == 1 && strstr(t.s.reason[0].where, "line 3") != NULL);
    CHECK(t.s.item[1].gold == 3 && t.s.item[1].line == 4);
    close_task(&t);
}
/* Every beginning of every golden file, and every one of its bytes changed: no crash, and either items or a sentence. */
static void test_damage(void) {
    static const char *const file[] = {"arc_easy.jsonl",  "hellaswag.jsonl", "race.jsonl",
                                       "truthfulqa.json", "boolq.jsonl",     "mmlu_test/abstract_algebra_test.csv",
                                       "winogrande.jsonl"};
    static const char *const task[] = {"arc", "hellaswag", "race", "truthfulqa_mc2", "boolq", "mmlu", "winogrande"};
    size_t i, k;
    for (i = 0; i < sizeof file / sizeof *file; i++) {
        char path[256], *text, *copy;
        size_t n;
        snprintf(path, sizeof path, GOLDEN "%s", file[i]);
        text = get_file(path);
        n = strlen(text);
        copy = SCRATCH(char, n + 1);
        for (k = 0; k < 400; k++) {
            text_file t;
            FILE *f = fopen(i == 5 ? FOLDER "/damaged.csv" : FOLDER "/damaged", "wb");
            size_t keep = k % 2 ? n : (size_t)rng_below((int)n);
            memcpy(copy, text, n);
            if (k % 2) copy[rng_below((int)n)] = (char)rng_below(256);
            if (!CHECK(f != NULL)) return;
            fwrite(copy, 1, keep, f);
            fclose(f);
            t = read_task(task[i], i == 5 ? FOLDER "/damaged.csv" : FOLDER "/damaged", NULL);
            CHECK(t.failed ? t.err[0] != 0 : t.s.n_items > 0 && t.s.n_items + t.s.bad == t.s.rows);
            close_task(&t);
        }
    }
}

/* ---- a slow evaluation of its own ------------------------------------------------------------------------------- */

/* stories260K from llama2.c's file, computed in double: neighbouring pairs are rotated, as that file has them. */
typedef struct slow {
    int dim, hidden, layers, heads, kv_heads, vocab, positions;
    double *embed, *norm1, *norm2, *final, *wq, *wk, *wv, *wo, *w1, *w2,
        *w3;            /* matrices transposed: [layer, in, out] */
    double *k, *v;      /* [layer, position, kv] */
    int32_t past[4096]; /* whose keys and values they are */
    int n_past;
    char piece[512][64];
    float piece_score[512];
    int n_pieces;
    int16_t merged[512][512]; /* the piece that two make, or -1 */
} slow;

static double *slow_take(FILE *f, int layers, int rows, int columns) {
    double *out = SCRATCH(double, (int64_t)layers *rows *columns);
    int l, i, j;
    float x;
    for (l = 0; l < layers; l++)
        for (i = 0; i < rows; i++)
            for (j = 0; j < columns; j++) {
                if (fread(&x, sizeof x, 1, f) != 1) return out;
                out[((int64_t)l * columns + j) * rows + i] = x;
            }
    return out;
}
static int slow_open(slow *s) {
    char path[1024];
    int32_t h[7], longest, n;
    int kv;
    FILE *f;
    memset(s, 0, sizeof *s);
    snprintf(path, sizeof path, "%s/stories260K/stories260K.bin", shared);
    f = fopen(path, "rb");
    if (!f || fread(h, sizeof *h, 7, f) != 7) return 1;
    s->dim = h[0];
    s->hidden = h[1];
    s->layers = h[2];
    s->heads = h[3];
    s->kv_heads = h[4];
    s->vocab = h[5] < 0 ? -h[5] : h[5];
    s->positions = h[6];
    kv = s->dim / s->heads * s->kv_heads;
    s->embed = slow_take(f, 1, s->vocab, s->dim); /* [dim, vocab] */
    s->norm1 = slow_take(f, s->layers, 1, s->dim);
    s->wq = slow_take(f, s->layers, s->dim, s->dim);
    s->wk = slow_take(f, s->layers, kv, s->dim);
    s->wv = slow_take(f, s->layers, kv, s->dim);
    s->wo = slow_take(f, s->layers, s->dim, s->dim);
    s->norm2 = slow_take(f, s->layers, 1, s->dim);
    s->w1 = slow_take(f, s->layers, s->hidden, s->dim);
    s->w2 = slow_take(f, s->layers, s->dim, s->hidden);
    s->w3 = slow_take(f, s->layers, s->hidden, s->dim);
    s->final = slow_take(f, 1, 1, s->dim);
    fclose(f);
    s->k = SCRATCH(double, (int64_t)s->layers * s->positions * kv);
    s->v = SCRATCH(double, (int64_t)s->layers * s->positions * kv);
    snprintf(path, sizeof path, "%s/stories260K/tok512.bin", shared);
    f = fopen(path, "rb");
    if (!f || fread(&longest, sizeof longest, 1, f) != 1) return 1;
    for (; s->n_pieces < s->vocab && s->n_pieces < 512; s->n_pieces++) {
        if (fread(&s->piece_score[s->n_pieces], sizeof(float), 1, f) != 1 || fread(&n, sizeof n, 1, f) != 1 || n > 63 ||
            fread(s->piece[s->n_pieces], 1, (size_t)n, f) != (size_t)n)
            break;
    }
    fclose(f);
    return s->n_pieces != s->vocab;
}
static int slow_piece(const slow *s, const char *text) {
    int i;
    for (i = 0; i < s->n_pieces; i++)
        if (!strcmp(s->piece[i], text)) return i;
    return -1;
}
static void slow_merges(slow *s) {
    char left[64];
    int i, a, b;
    size_t k;
    for (a = 0; a < 512; a++)
        for (b = 0; b < 512; b++) s->merged[a][b] = -1;
    for (i = s->n_pieces - 1; i >= 0; i--)
        for (k = 1; k < strlen(s->piece[i]); k++) {
            memcpy(left, s->piece[i], k);
            left[k] = 0;
            a = slow_piece(s, left);
            b = slow_piece(s, s->piece[i] + k);
            if (a >= 3 && b >= 3) s->merged[a][b] = (int16_t)i;
        }
}
/* As SentencePiece does it: a space first, characters, unknown ones as bytes; then ever the best merge there is. */
static int slow_encode(const slow *s, const char *text, int32_t *ids, int most) {
    size_t i = 0, n = strlen(text), k;
    int count = 1, at, best, id;
    char two[160];
    ids[0] = 1;
    if (n) ids[count++] = slow_piece(s, " ");
    while (i < n && count + 8 < most) {
        size_t len = 1;
        while (i + len < n && len < 4 && ((unsigned char)text[i + len] & 0xC0) == 0x80) len++;
        memcpy(two, text + i, len);
        two[len] = 0;
        id = slow_piece(s, two);
        if (id >= 0) ids[count++] = id;
        else
            for (k = 0; k < len; k++) ids[count++] = (unsigned char)text[i + k] + 3;
        i += len;
    }
    for (;;) {
        float score = -1e10f;
        for (best = -1, at = 1, id = 0; at + 1 < count; at++) {
            int merged = s->merged[ids[at]][ids[at + 1]];
            if (merged >= 0 && s->piece_score[merged] > score) {
                score = s->piece_score[merged];
                best = at;
                id = merged;
            }
        }
        if (best < 0) return count;
        ids[best] = id;
        memmove(ids + best + 1, ids + best + 2, (size_t)(count - best - 2) * sizeof *ids);
        count--;
    }
}
/* y = W x, or added to it; w [in, out] */
static void slow_times(double *y, const double *x, const double *w, int in, int out, int add) {
    int i, j;
    for (j = 0; j < out && !add; j++) y[j] = 0;
    for (i = 0; i < in; i++)
        for (j = 0; j < out; j++) y[j] += x[i] * w[(int64_t)i * out + j];
}
static void slow_norm(double *y, const double *x, const double *w, int n) {
    double square = 0;
    int i;
    for (i = 0; i < n; i++) square += x[i] * x[i];
    square = 1 / sqrt(square / n + 1e-5);
    for (i = 0; i < n; i++) y[i] = x[i] * square * w[i];
}
static void slow_rotate(double *x, int n, int head, int position) {
    int i;
    for (i = 0; i < n; i += 2) {
        double angle = position * pow(10000.0, -(double)(i % head) / head), a = x[i], b = x[i + 1];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + 1] = a * sin(angle) + b * cos(angle);
    }
}
static void slow_attend(const slow *s, double *out, const double *q, int layer, int position) {
    int head = s->dim / s->heads, kv = head * s->kv_heads, h, t, i;
    double p[4096];
    for (h = 0; h < s->heads; h++) {
        int64_t base = (int64_t)layer * s->positions * kv + (int64_t)(h / (s->heads / s->kv_heads)) * head;
        double top = -1e300, sum = 0;
        for (t = 0; t <= position; t++) {
            for (p[t] = 0, i = 0; i < head; i++) p[t] += q[h * head + i] * s->k[base + (int64_t)t * kv + i];
            p[t] /= sqrt((double)head);
            top = p[t] > top ? p[t] : top;
        }
        for (t = 0; t <= position; t++) sum += p[t] = exp(p[t] - top);
        for (i = 0; i < head; i++)
            for (out[h * head + i] = 0, t = 0; t <= position; t++)
                out[h * head + i] += p[t] / sum * s->v[base + (int64_t)t * kv + i];
    }
}
/* log p of the next id, given ids[0 .. position]; those before it have been computed. z: the logits, if asked for. */
static void slow_step(slow *s, int id, int position, double *z) {
    double x[512], y[512], q[512], a[1024], b[1024];
    int head = s->dim / s->heads, kv = head * s->kv_heads, d = s->dim, l, i;
    for (i = 0; i < d; i++) x[i] = s->embed[(int64_t)i * s->vocab + id];
    for (l = 0; l < s->layers; l++) {
        double *k = s->k + ((int64_t)l * s->positions + position) * kv;
        double *v = s->v + ((int64_t)l * s->positions + position) * kv;
        slow_norm(y, x, s->norm1 + l * d, d);
        slow_times(q, y, s->wq + (int64_t)l * d * d, d, d, 0);
        slow_times(k, y, s->wk + (int64_t)l * d * kv, d, kv, 0);
        slow_times(v, y, s->wv + (int64_t)l * d * kv, d, kv, 0);
        slow_rotate(q, d, head, position);
        slow_rotate(k, kv, head, position);
        slow_attend(s, y, q, l, position);
        slow_times(x, y, s->wo + (int64_t)l * d * d, d, d, 1);
        slow_norm(y, x, s->norm2 + l * d, d);
        slow_times(a, y, s->w1 + (int64_t)l * d * s->hidden, d, s->hidden, 0);
        slow_times(b, y, s->w3 + (int64_t)l * d * s->hidden, d, s->hidden, 0);
        for (i = 0; i < s->hidden; i++) a[i] = a[i] / (1 + exp(-a[i])) * b[i];
        slow_times(x, a, s->w2 + (int64_t)l * d * s->hidden, s->hidden, d, 1);
    }
    if (!z) return;
    slow_norm(y, x, s->final, d);
    slow_times(z, y, s->embed, d, s->vocab, 0);
}
/* The sum of the continuation's log-probs; what the ids share with those before is not computed again. */
static double slow_score(slow *s, const int32_t *ids, int n, int given, int *greedy) {
    double z[512], sum = 0, all, top;
    int i, v, best, same = 0;
    *greedy = 1;
    while (same < s->n_past && same < n - 1 && same < given - 1 && s->past[same] == ids[same]) same++;
    for (i = same; i < n - 1; i++) {
        slow_step(s, ids[i], i, i >= given - 1 ? z : NULL);
        s->past[i] = ids[i];
        if (i < given - 1) continue;
        for (best = 0, top = z[0], v = 1; v < s->vocab; v++)
            if (z[v] > top) {
                top = z[v];
                best = v;
            }
        for (all = 0, v = 0; v < s->vocab; v++) all += exp(z[v] - top);
        sum += z[ids[i + 1]] - top - log(all);
        *greedy &= best == ids[i + 1];
    }
    s->n_past = n - 1;
    return sum;
}
/* Blanks at the context's end go to the continuation (the texts here end in ASCII); the joint ids beyond the context's
   count are the continuation's; a long context loses its beginning. */
static double slow_request(slow *s, const char *context, const char *continuation, int *greedy) {
    static int32_t ids[16384], bare[16384];
    static char text[16384];
    size_t k = strlen(context);
    int n, given, cut;
    while (k && strchr(" \n\t\r", context[k - 1])) k--;
    snprintf(text, sizeof text, "%s%s", context, continuation);
    n = slow_encode(s, text, ids, 16384);
    text[k] = 0;
    given = slow_encode(s, text, bare, 16384);
    if (!k) given = 1; /* the id that begins texts */
    cut = n > s->positions + 1 ? n - s->positions - 1 : 0;
    return slow_score(s, ids + cut, n - cut, given - cut, greedy);
}

static dpo_json *parse(const char *line) {
    dpo_json *j = dpo_json_create(ctx);
    CHECK_CASE(!dpo_json_parse(j, line, strlen(line), NULL, NULL), line);
    return j;
}
static double number_of(dpo_json *j, int64_t object, const char *key) {
    double x = -12345;
    dpo_json_number(j, dpo_json_find(j, object, key), &x);
    return x;
}
static char *string_of(dpo_json *j, const char *key) {
    int64_t n = dpo_json_string(j, dpo_json_find(j, 0, key), NULL, 0);
    char *s = SCRATCH(char, (n > 0 ? n : 0) + 1);
    if (n > 0) dpo_json_string(j, dpo_json_find(j, 0, key), s, (size_t)n + 1);
    return s;
}
/* The next line of a text, zero-terminated in place; NULL at its end. */
static char *next_line(char **at) {
    char *line = *at, *end = strchr(line, '\n');
    if (!end) return NULL;
    *end = 0;
    *at = end + 1;
    return line;
}
static int64_t characters(const char *s) {
    int64_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}
/* One item of the log against its requests. The choices' texts are `line`'s and the following lines' of the dump. */
static void slow_item(slow *s, dpo_json *log, char **dump, double *acc, double *norm) {
    int64_t list = dpo_json_find(log, 0, "logps"), v = dpo_json_first(log, list), n = dpo_json_count(log, list), k;
    double best = 0, best_norm = 0, got = 0, want;
    int pick = -1, pick_norm = -1, gold = (int)number_of(log, 0, "gold"), greedy;
    for (k = 0; k < n; k++, v = dpo_json_next(log, v)) {
        char *line = next_line(dump), *continuation;
        dpo_json *j;
        if (!CHECK(line != NULL)) return;
        j = parse(line);
        CHECK(number_of(j, 0, "choice") == (double)k && number_of(j, 0, "gold") == gold &&
              number_of(j, 0, "index") == number_of(log, 0, "index"));
        continuation = string_of(j, "continuation");
        want = slow_request(s, string_of(j, "context"), continuation, &greedy);
        dpo_json_number(log, v, &got);
        CHECK_NEAR(got, want, want < -250 ? -4e-7 * want : 1e-4); /* fp32 against double, over up to 200 ids */
        if (pick < 0 || want > best) {
            best = want;
            pick = (int)k;
        }
        want /= (double)characters(continuation + 1);
        if (pick_norm < 0 || want > best_norm) {
            best_norm = want;
            pick_norm = (int)k;
        }
        dpo_json_free(j);
    }
    *acc += pick == gold;
    *norm += pick_norm == gold;
    CHECK(number_of(log, 0, "pick") == pick && number_of(log, 0, "pick_norm") == pick_norm);
}
/* ARC-e, PIQA, SciQ, WinoGrande and HellaSwag by the program and by hand. */
static void test_slow_evaluation(void) {
    static const char *const task[] = {"arc_easy", "piqa", "sciq", "winogrande", "hellaswag"};
    static const char *const file[] = {"ai2_arc_ARC-Easy.validation.jsonl", "piqa_plain_text.validation.jsonl",
                                       "sciq.validation.jsonl", "winogrande_winogrande_xl.validation.jsonl",
                                       "hellaswag.preprocessed.1000.jsonl"};
    static slow s;
    int i;
    if (!shared || !stories) {
        skipped++;
        return;
    }
    if (!CHECK(!slow_open(&s))) return;
    slow_merges(&s);
    for (i = 0; i < 5; i++) {
        char command[4096], *log, *dump, *line;
        double acc = 0, norm = 0, n = 0;
        dpo_json *j;
        snprintf(command, sizeof command,
                 "build/dpo-eval tasks --model %s --tasks %s=%s/tasks/%s --limit %d "
                 "--log " FOLDER "/log --dump-requests " FOLDER "/dump --json --quiet >" FOLDER "/out 2>" FOLDER "/err",
                 stories, task[i], shared, file[i], items);
        if (!CHECK_CASE(system(command) == 0, command)) continue;
        log = get_file(FOLDER "/log");
        dump = get_file(FOLDER "/dump");
        while ((line = next_line(&log)) != NULL) {
            j = parse(line);
            slow_item(&s, j, &dump, &acc, &norm);
            dpo_json_free(j);
            n++;
        }
        CHECK(n == items && !*dump);
        log = get_file(FOLDER "/out");
        line = next_line(&log);
        if (!CHECK(line != NULL)) continue;
        j = parse(line);
        CHECK(number_of(j, 0, "n") == n);
        CHECK_NEAR(number_of(j, 0, "acc"), acc / n, 1e-12);
        CHECK_NEAR(number_of(j, 0, "acc_stderr"), sqrt(acc / n * (1 - acc / n) / (n - 1)), 1e-12);
        if (i != 3) CHECK_NEAR(number_of(j, 0, "acc_norm"), norm / n, 1e-12);
        else CHECK(dpo_json_find(j, 0, "acc_norm") < 0);
        dpo_json_free(j);
    }
}

/* ---- the program on a small model ------------------------------------------------------------------------------- */

/* Two models of bytes on disk, and both in memory. */
static int byte_models(dpo_model *m[2]) {
    static const char *const dir[] = {FOLDER "/one", FOLDER "/two"};
    int i;
    put_file(
        FOLDER "/bytes.json",
        "{\"model_type\": \"gpt_neox\", \"vocab_size\": 257, \"hidden_size\": 32, \"num_hidden_layers\": 2, "
        "\"num_attention_heads\": 2, \"intermediate_size\": 64, \"max_position_embeddings\": 48, \"rotary_pct\": 0.5, "
        "\"hidden_act\": \"gelu\", \"tie_word_embeddings\": false, \"eos_token_id\": 256, "
        "\"initializer_range\": 0.2, \"dpo_tokenizer\": \"bytes\"}");
    for (i = 0; i < 2; i++) {
        m[i] = dpo_model_create_from(ctx, FOLDER "/bytes.json", (uint64_t)i + 1);
        if (!m[i] || !CHECK_OK(ctx, dpo_model_save(m[i], dir[i], DPO_F32))) return 1;
    }
    return 0;
}
/* Runs dpo-eval; its first line of output parsed, NULL if it failed. */
static dpo_json *evaluate(const char *arguments, char **rest) {
    char command[2048], *out, *line;
    snprintf(command, sizeof command, "build/dpo-eval %s >" FOLDER "/out 2>" FOLDER "/err", arguments);
    if (!CHECK_CASE(system(command) == 0, command)) return NULL;
    out = get_file(FOLDER "/out");
    line = next_line(&out);
    if (rest) *rest = out;
    return CHECK(line != NULL) ? parse(line) : NULL;
}
/* log p of text's bytes from `from` on. */
static double bytes_score(dpo_model *m, dpo_model *reference, const char *text, int n, int from, dpo_score *out) {
    int32_t ids[512];
    dpo_sequence s = {ids, 0, from};
    dpo_score_config c;
    int i;
    for (i = 0; i < n; i++) ids[i] = text[i] == '\n' ? 256 : (unsigned char)text[i]; /* here: the end of a document */
    s.n = n;
    memset(&c, 0, sizeof c);
    c.reference = reference;
    CHECK_OK(ctx, dpo_score_sequences(m, &s, 1, &c, out, NULL));
    return out->logp;
}
static void test_program_logprobs(void) {
    dpo_model *m[2];
    dpo_json *j;
    dpo_score got;
    char *rest = NULL, *line;
    int64_t v;
    double sum = 0, x;
    int i;
    if (byte_models(m)) return;
    put_file(FOLDER "/lines.jsonl", "{\"text\": \"hello there\"}\n{\"prompt\": \"a b \", \"response\": \"cd\"}\nbad\n"
                                    "{\"ids\": [104, 105, 106], \"context\": 2}\n{\"ids\": [1, 257]}\n");
    j = evaluate("logprobs --model " FOLDER "/one --reference " FOLDER "/two --data " FOLDER "/lines.jsonl", &rest);
    if (!j) return;
    CHECK(number_of(j, 0, "sum") == bytes_score(m[0], m[1], "hello there", 11, 1, &got));
    CHECK(number_of(j, 0, "reference_sum") == got.reference_logp);
    v = dpo_json_first(j, dpo_json_find(j, 0, "logprobs"));
    for (i = 0; i < 10; i++, v = dpo_json_next(j, v)) {
        dpo_json_number(j, v, &x);
        sum += x;
    }
    CHECK(sum == got.logp && dpo_json_count(j, dpo_json_find(j, 0, "log_ratios")) == 10);
    dpo_json_free(j);
    line = next_line(&rest);
    j = parse(line ? line : "{}");
    CHECK(number_of(j, 0, "context") == 3); /* the prompt's last blank is the response's */
    CHECK(number_of(j, 0, "sum") == bytes_score(m[0], NULL, "a b cd", 6, 3, &got));
    dpo_json_free(j);
    line = next_line(&rest);
    j = parse(line ? line : "{}");
    CHECK(number_of(j, 0, "line") == 4 && number_of(j, 0, "sum") == bytes_score(m[0], NULL, "hij", 3, 2, &got));
    CHECK(!*rest);
    CHECK_CASE(strstr(get_file(FOLDER "/err"), "2 lines are not used: the first (line 3)") != NULL,
               get_file(FOLDER "/err"));
    dpo_json_free(j);
    dpo_model_free(m[0]);
    dpo_model_free(m[1]);
}
static void test_program_loss(void) {
    static const char *const doc[] = {"A first document.", "x",
                                      "Another one, a little longer than the others are, so cut at the end.", "Third."};
    static const char packed[] = "A first document.\nx\nThird.\n"; /* \n: the id that ends a text */
    dpo_model *m[2];
    dpo_json *j;
    dpo_score got;
    double loss[4], delta[4], kl = 0, tokens = 0, all = 0, error;
    int i, n = 0;
    if (byte_models(m)) return;
    put_file(FOLDER "/docs.json",
             "[\"A first document.\", {\"text\": \"x\"}, "
             "\"Another one, a little longer than the others are, so cut at the end.\", \"Third.\", 5]");
    for (i = 0; i < 4; i++) {
        int length = (int)strlen(doc[i]) < 48 ? (int)strlen(doc[i]) : 48;
        if (length < 2) continue;
        bytes_score(m[0], m[1], doc[i], length, 1, &got);
        loss[n] = -got.logp / (length - 1);
        delta[n++] = -(got.logp - got.reference_logp) / (length - 1);
        kl += got.kl;
        tokens += length - 1;
        all -= got.logp;
    }
    j = evaluate("loss --json --model " FOLDER "/one --reference " FOLDER "/two --data " FOLDER "/docs.json", NULL);
    if (!j) return;
    CHECK(number_of(j, 0, "documents") == 3 && number_of(j, 0, "cut") == 1 && number_of(j, 0, "too_short") == 1 &&
          number_of(j, 0, "bad_rows") == 1 && number_of(j, 0, "tokens") == tokens &&
          number_of(j, 0, "bytes") == tokens);
    CHECK_NEAR(number_of(j, 0, "loss"), all / tokens, 1e-12);
    CHECK_NEAR(number_of(j, 0, "kl"), kl / tokens, 1e-12);
    CHECK_NEAR(number_of(j, 0, "bits_per_byte"), all / tokens / log(2), 1e-12);
    CHECK_NEAR(number_of(j, 0, "loss_per_document"), dpo_mean(loss, 3, &error), 1e-12);
    CHECK_NEAR(number_of(j, 0, "loss_per_document_stderr"), error, 1e-12);
    CHECK_NEAR(number_of(j, 0, "delta_per_document"), dpo_mean(delta, 3, &error), 1e-12);
    CHECK_NEAR(number_of(j, 0, "delta_per_document_stderr"), error, 1e-12);
    dpo_json_free(j);
    put_file(FOLDER "/docs.jsonl", "{\"text\": \"A first document.\"}\n{\"text\": \"x\"}\n{\"text\": \"Third.\"}\n");
    for (all = 0, i = 0; i < 27; i += 12) /* windows of 12, 12 and 3 */
        all -= bytes_score(m[0], NULL, packed + i, i < 24 ? 12 : 3, 1, &got);
    j = evaluate("loss --json --mode packed --max-length 12 --model " FOLDER "/one --data " FOLDER "/docs.jsonl", NULL);
    if (!j) return;
    CHECK(number_of(j, 0, "windows") == 3 && number_of(j, 0, "tokens") == 24 && dpo_json_find(j, 0, "kl") < 0);
    CHECK(number_of(j, 0, "bytes") == 21); /* ids that end a text stand for none */
    CHECK_NEAR(number_of(j, 0, "loss"), all / 24, 1e-12);
    dpo_json_free(j);
    dpo_model_free(m[0]);
    dpo_model_free(m[1]);
}
static void test_program_rewards(void) {
    static const char *const prompt[] = {"Q1", "Second", "3"}, *const good[] = {" yes", " no way", " ok"},
                             *const poor[] = {" never", " x", " why not?"};
    dpo_model *m[2];
    dpo_json *j;
    dpo_score got;
    FILE *f = fopen(FOLDER "/pairs.jsonl", "wb");
    char text[128], *rest = NULL, *line;
    double r[2], chosen = 0, rejected = 0, right = 0, low, high;
    int i, k;
    if (!f || byte_models(m)) return;
    for (i = 0; i < 3; i++) {
        fprintf(f, "{\"prompt\": \"%s\", \"chosen\": \"%s\", \"rejected\": \"%s\"}\n", prompt[i], good[i], poor[i]);
        for (k = 0; k < 2; k++) {
            snprintf(text, sizeof text, "%s%s\n", prompt[i], k ? poor[i] : good[i]);
            bytes_score(m[0], m[1], text, (int)strlen(text), (int)strlen(prompt[i]), &got);
            r[k] = 0.5 * (got.logp - got.reference_logp);
        }
        chosen += r[0];
        rejected += r[1];
        right += r[0] > r[1];
    }
    fprintf(f, "{\"prompt\": \"no answer\", \"chosen\": \"\", \"rejected\": \"b\"}\n");
    fclose(f);
    dpo_wilson(right, 3, &low, &high);
    j = evaluate("rewards --json --beta 0.5 --model " FOLDER "/one --reference " FOLDER "/two --compare " FOLDER
                 "/two --data " FOLDER "/pairs.jsonl",
                 &rest);
    if (!j) return;
    CHECK(number_of(j, 0, "n") == 3 && number_of(j, 0, "rewards/ties") == 0);
    CHECK_NEAR(number_of(j, 0, "rewards/accuracies"), right / 3, 1e-15);
    CHECK_NEAR(number_of(j, 0, "rewards/chosen"), chosen / 3, 1e-12);
    CHECK_NEAR(number_of(j, 0, "rewards/rejected"), rejected / 3, 1e-12);
    CHECK_NEAR(number_of(j, 0, "rewards/margins"), (chosen - rejected) / 3, 1e-12);
    CHECK(number_of(j, 0, "low") == low && number_of(j, 0, "high") == high);
    CHECK(strstr(get_file(FOLDER "/err"), "1 of 4 rows") != NULL);
    dpo_json_free(j);
    line = next_line(&rest); /* the reference as a policy: ties only, exactly */
    j = parse(line ? line : "{}");
    CHECK(number_of(j, 0, "rewards/ties") == 1 && number_of(j, 0, "rewards/margins") == 0 &&
          number_of(j, 0, "rewards/accuracies") == 0 && number_of(j, 0, "accuracies_ties_half") == 0.5);
    dpo_json_free(j);
    line = next_line(&rest);
    j = parse(line ? line : "{}");
    CHECK(number_of(j, 0, "only_first_right") == right && number_of(j, 0, "only_second_right") == 0);
    CHECK_NEAR(number_of(j, 0, "mcnemar_p"), dpo_mcnemar((int64_t)right, 0), 1e-15);
    CHECK_NEAR(number_of(j, 0, "margins_difference"), (rejected - chosen) / 3, 1e-12);
    dpo_json_free(j);
    dpo_model_free(m[0]);
    dpo_model_free(m[1]);
}
/* Items of a user's own, longer contexts than the model has positions, empty ones, and the figures of the kinds that
 * have some of their own. */
static void test_program_tasks(void) {
    static const char options[] = "tasks --json --quiet --model " FOLDER "/one --log " FOLDER "/log --tasks ";
    dpo_model *m[2];
    dpo_json *j;
    dpo_score got;
    char command[1024], *log, *rest = NULL;
    double a, b, c, lp[8];
    int i;
    if (byte_models(m)) return;
    put_file(FOLDER "/own.jsonl", "{\"ctx\": \"A context that has more bytes than the model has positions: \", "
                                  "\"conts\": [\" ab\", \"c\"], \"gold\": 1}\n"
                                  "{\"ctx\": \"\", \"conts\": [\"x\", \"yz\"], \"gold\": 0}\n"
                                  "{\"ctx\": \"q\", \"conts\": [\"A continuation that is longer than what the model "
                                  "can read\", \"b\"], \"gold\": 0}\n");
    snprintf(command, sizeof command, "%s" FOLDER "/own.jsonl", options);
    j = evaluate(command, NULL);
    if (!j) return;
    CHECK(number_of(j, 0, "n") == 2); /* the third is left out, and it is said */
    CHECK(strstr(get_file(FOLDER "/err"), "1 items are left out") != NULL);
    CHECK(strstr(get_file(FOLDER "/err"), "2 requests were longer") != NULL);
    dpo_json_free(j);
    log = get_file(FOLDER "/log");
    j = parse(next_line(&log));
    dpo_json_number(j, dpo_json_first(j, dpo_json_find(j, 0, "logps")), &a);
    /* its context's blank is the continuation's, which has two then; 49 of all ids are left, 4 of them its own */
    CHECK(a == bytes_score(m[0], NULL, " has more bytes than the model has positions:  ab", 49, 45, &got));
    dpo_json_free(j);
    j = parse(next_line(&log));
    dpo_json_number(j, dpo_json_first(j, dpo_json_find(j, 0, "logps")), &a);
    CHECK(a == bytes_score(m[0], NULL, "\nx", 2, 1, &got)); /* foretold by the id that ends texts */
    dpo_json_free(j);
    snprintf(command, sizeof command, "%slambada=" GOLDEN "lambada.jsonl", options);
    j = evaluate(command, NULL);
    if (!j) return;
    CHECK(number_of(j, 0, "n") == 8);
    log = get_file(FOLDER "/log");
    for (i = 0; i < 8; i++) {
        dpo_json *k = parse(next_line(&log));
        dpo_json_number(k, dpo_json_first(k, dpo_json_find(k, 0, "logps")), &lp[i]);
        dpo_json_free(k);
    }
    a = dpo_mean(lp, 8, &b);
    CHECK_NEAR(number_of(j, 0, "perplexity") / exp(-a), 1, 1e-12);
    CHECK_NEAR(number_of(j, 0, "perplexity_stderr") / (b * exp(-a)), 1, 1e-12);
    dpo_json_free(j);
    put_file(FOLDER "/true.json", "[{\"question\": \"Q\", \"mc2_targets\": {\"a\": 1, \"bb\": 0, \"c\": 1}}]");
    snprintf(command, sizeof command, "%s" FOLDER "/true.json", options);
    j = evaluate(command, &rest);
    if (!j) return;
    log = get_file(FOLDER "/log");
    a = number_of(j, 0, "acc");
    dpo_json_free(j);
    j = parse(next_line(&log));
    for (i = 0; i < 3; i++) dpo_json_number(j, task_element(j, dpo_json_find(j, 0, "logps"), i), &lp[i]);
    b = exp(lp[0]) + exp(lp[2]);
    c = b + exp(lp[1]);
    CHECK_NEAR(a, b / c, 1e-9);
    dpo_json_free(j);
    snprintf(command, sizeof command, "%smmlu=" GOLDEN "mmlu_test --num-fewshot 1 --fewshot-file " GOLDEN "mmlu_dev",
             options);
    j = evaluate(command, &rest); /* a line a subject, then all */
    if (!j) return;
    a = number_of(j, 0, "acc");
    CHECK(!strcmp(string_of(j, "subject"), "abstract_algebra") && number_of(j, 0, "n") == 4);
    dpo_json_free(j);
    j = parse(next_line(&rest));
    a += number_of(j, 0, "acc");
    dpo_json_free(j);
    j = parse(next_line(&rest));
    CHECK(number_of(j, 0, "n") == 8 && dpo_json_find(j, 0, "subject") < 0);
    CHECK_NEAR(number_of(j, 0, "acc"), a / 2, 1e-15);
    CHECK_NEAR(number_of(j, 0, "acc_macro"), a / 2, 1e-15);
    dpo_json_free(j);
    dpo_model_free(m[0]);
    dpo_model_free(m[1]);
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

#define T(name)                                                                                                        \
    { #name, test_##name }
static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {T(wilson),
             T(mcnemar),
             T(mean),
             T(bootstrap),
             T(scores),
             T(kl),
             T(adapter_reference),
             T(deep),
             T(score_errors),
             T(score_allocation),
             T(texts),
             T(few_shot),
             T(race_directory),
             T(truthful_labels),
             T(sha),
             T(real_texts),
             T(wrong_files),
             T(wrong_csv),
             T(damage),
             T(slow_evaluation),
             T(program_logprobs),
             T(program_loss),
             T(program_rewards),
             T(program_tasks)};

int main(int argc, char **argv) {
    int passed = 0, failed = 0, n = (int)(sizeof tests / sizeof *tests), i;
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    if (argc > 1 && argv[1][0]) shared = argv[1];
    if (argc > 2) stories = argv[2];
    if (argc > 3) items = atoi(argv[3]);
    ctx = dpo_open(NULL);
    for (i = 0; i < n; i++) {
        int before = skipped;
        check_failures = check_lines = 0;
        rng_state = 12345;
        tests[i].run();
        CHECK(!dpo_status(ctx));
        dpo_clear(ctx);
        scratch_free();
        if (check_failures) printf("FAILED %s\n", tests[i].name);
        if (check_failures) failed++;
        else if (before == skipped) passed++;
    }
    dpo_close(ctx);
    if (n < FLOOR) printf("%d tests, there must be %d\n", n, FLOOR), failed++;
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
