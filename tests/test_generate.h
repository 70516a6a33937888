/* test_generate.h - generation: the filters against a sampler that sorts everything, cached sequences against the whole
   text again, batches against one at a time, and every way in which a sequence ends. */
#ifndef TEST_GENERATE_H
#define TEST_GENERATE_H

#define GEN 14

/* ------------------------------------------------------------------ the sampler, written naively */
typedef struct naive_id {
    double z, p;
    int id, kept;
} naive_id;
static int naive_order(const void *a, const void *b) {
    const naive_id *x = (const naive_id *)a, *y = (const naive_id *)b;
    return x->z != y->z ? (x->z > y->z ? -1 : 1) : x->id - y->id;
}
static int naive_by_id(const void *a, const void *b) { return ((const naive_id *)a)->id - ((const naive_id *)b)->id; }

/* Fills x [v], in id order; p are weights, 0 where a filter took the id out. seen: distinct or not, any order. */
static void naive_filter(naive_id *x, const float *z, int v, const dpo_generate_config *g, const int32_t *seen,
                         int64_t n_seen) {
    double total = 0, sum = 0;
    int i;
    int64_t k;
    for (i = 0; i < v; i++) {
        int was = 0;
        for (k = 0; k < n_seen; k++) was |= seen[k] == i;
        x[i].id = i;
        x[i].kept = 1;
        x[i].z = (double)z[i];
        if (was) x[i].z = (double)(float)(x[i].z > 0 ? x[i].z / g->repetition_penalty : x[i].z * g->repetition_penalty);
    }
    qsort(x, (size_t)v, sizeof *x, naive_order);
    for (i = 0; i < v; i++) {
        x[i].p = g->temperature > 0 ? exp((x[i].z - x[0].z) / g->temperature) : i == 0;
        if (g->temperature > 0 && g->top_k && i >= g->top_k) x[i].p = 0;
        total += x[i].p;
    }
    for (i = 0; g->temperature > 0 && g->top_p < 1 && i < v; i++) {
        if (i && sum >= g->top_p * total) x[i].p = 0;
        sum += x[i].p;
    }
    for (i = 0; g->temperature > 0 && i < v; i++)
        if (x[i].p < g->min_p) x[i].p = 0;
    qsort(x, (size_t)v, sizeof *x, naive_by_id);
}
static int32_t naive_draw(const naive_id *x, int v, double u) {
    double sum = 0, at = 0;
    int i, best = 0;
    for (i = 0; i < v; i++) sum += x[i].p;
    for (i = 0; i < v; i++) {
        if (x[i].p > x[best].p) best = i;
        at += x[i].p;
        if (at > u * sum) return i;
    }
    return best;
}
static dpo__sampler gen_sampler(int v) {
    dpo__sampler s;
    s.weights = SCRATCH(double, v);
    s.keys = SCRATCH(uint64_t, v);
    s.seen = SCRATCH(uint8_t, v);
    return s;
}
/* A configuration with some of the filters on. */
static dpo_generate_config gen_config(int i) {
    static const double top_p[4] = {1.0, 0.9, 0.5, 0.02}, min_p[4] = {0.0, 0.0, 0.05, 0.6};
    static const double temperature[4] = {1.0, 0.7, 1.6, 0.05};
    static const int64_t top_k[4] = {0, 1, 5, 40};
    dpo_generate_config g = dpo_generate_defaults();
    g.top_p = top_p[i & 3];
    g.top_k = top_k[i >> 2 & 3];
    g.min_p = min_p[i >> 4 & 3];
    g.temperature = temperature[i >> 6 & 3];
    return g;
}
/* Random logits, ties among them: which ids stay, and what is drawn. */
static void filter_case(int v, int kind, int config, int64_t *dropped) {
    dpo_generate_config g = gen_config(config);
    dpo__sampler s = gen_sampler(v);
    naive_id *x = SCRATCH(naive_id, v);
    float *z = rng_floats(v, kind == 2 ? 8.0 : 2.0);
    int32_t seen[12];
    dpo__fpenv env;
    char text[96];
    int i, k;
    for (i = 0; i < v && kind == 1; i++) z[i] = (float)((int)z[i]) * (rng_below(2) ? 1.0f : -1.0f); /* -0 too */
    for (i = 0; i < 12; i++) seen[i] = (int32_t)rng_below(v);
    g.repetition_penalty = config & 1 ? 1.0 : 1.0 + rng_unit();
    naive_filter(x, z, v, &g, seen, g.repetition_penalty != 1.0 ? 12 : 0);
    (void)snprintf(text, sizeof text, "V %d, kind %d, configuration %d", v, kind, config);
    env = dpo__fp_enter();
    if (g.repetition_penalty != 1.0) {
        dpo__sample_penalty(&s, z, g.repetition_penalty, seen, 12);
        dpo__sample_forget(&s, seen, 12);
    }
    for (k = 0; k < 9; k++) {
        double u = k == 0 ? 1e-17 : k == 1 ? 1.0 - 1e-12 : rng_unit();
        CHECK_CASE(dpo__sample(&s, &g, z, v, u) == naive_draw(x, v, u), text);
    }
    dpo__fp_leave(env);
    for (i = 0; i < v; i++) {
        CHECK_CASE(s.seen[i] == 0 && (double)z[i] == x[i].z, text);
        CHECK_CASE((s.weights[i] > 1e-290) == (x[i].p > 1e-290) && fabs(s.weights[i] - x[i].p) <= 1e-14, text);
        *dropped += x[i].p <= 0;
    }
}
static void test_generate_filters(void) {
    static const int sizes[5] = {1, 2, 17, 61, 700};
    int64_t dropped = 0;
    int i, k, v;
    for (v = 0; v < 5; v++)
        for (k = 0; k < 3; k++)
            for (i = 0; i < 256; i++) {
                filter_case(sizes[v], k, i, &dropped);
                scratch_free();
            }
    CHECK(dropped > 100000);
}

/* ------------------------------------------------------------------ the whole text again at every step */
static void recompute(dpo_context *c, dpo_model *m, const int32_t *prompt, int64_t n, int64_t want,
                      const dpo_generate_config *g, int64_t sequence, int32_t *out, float *logits) {
    forest *f = SCRATCH(forest, 1);
    int64_t i, v = dpo_model_config_of(m)->vocab_size;
    naive_id *x = SCRATCH(naive_id, v);
    int32_t ids[128];
    memcpy(ids, prompt, (size_t)n * sizeof *ids);
    for (i = 0; i < want; i++) {
        float *z = logits + i * v;
        memset(f, 0, sizeof *f);
        (void)forest_add(f, -1, ids, (int)(n + i), -1);
        f->b.n_targets = f->b.n_sequences = 1;
        f->targets[0].row = (int32_t)(n + i - 1);
        f->targets[0].token = f->targets[0].sequence = 0;
        if (!CHECK_OK(c, dpo_model_logits(m, &f->b, z))) return;
        naive_filter(x, z, (int)v, g, ids, n + i);
        out[i] = naive_draw(x, (int)v, dpo__random_unit(g->seed, (uint64_t)sequence, (uint64_t)i));
        ids[n + i] = out[i];
    }
}
static void cached_case(int family, int lora, const dpo_generate_config *like, int samples) {
    static const int64_t lengths[5] = {1, 6, 3, 17, 6};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, family, 5);
    dpo_generate_config g = *like;
    int32_t ids[5][32], *want = SCRATCH(int32_t, 5 * GEN * samples), *got = SCRATCH(int32_t, 5 * GEN * samples);
    const int32_t *prompts[5];
    int64_t *n_out = SCRATCH(int64_t, 5 * samples), batch;
    float *z = SCRATCH(float, GEN *TINY_VOCAB);
    char text[96];
    int i;
    if (lora) tiny_lora(c, m, family, 3, 1, 9);
    g.max_new_tokens = GEN;
    g.num_return_sequences = samples;
    g.seed = 11;
    (void)snprintf(text, sizeof text, "%s lora %d temperature %g samples %d", tiny_names[family], lora, g.temperature,
                   samples);
    for (i = 0; i < 5; i++) {
        tiny_ids(ids[i], 32, (uint64_t)(700 + i), TINY_VOCAB);
        prompts[i] = ids[i];
    }
    for (i = 0; i < 5 * samples; i++)
        recompute(c, m, ids[i / samples], lengths[i / samples], GEN, &g, i, want + i * GEN, z);
    for (batch = 0; batch < 5; batch++) {
        g.batch = batch;
        CHECK_OK(c, dpo_generate(m, prompts, lengths, 5, &g, got, n_out));
        for (i = 0; i < 5 * samples; i++) CHECK_CASE(n_out[i] == GEN, text);
        CHECK_CASE(!memcmp(want, got, sizeof(int32_t) * (size_t)(5 * GEN * samples)), text);
    }
    dpo_close(c);
    memfs_free(fs);
    scratch_free();
}
static void test_generate_cached(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) {
        dpo_generate_config g = dpo_generate_defaults();
        g.temperature = 0;
        cached_case(f, 0, &g, 1);
        g.repetition_penalty = 1.4;
        cached_case(f, 1, &g, 1);
        g = dpo_generate_defaults();
        g.temperature = 1.3;
        cached_case(f, 0, &g, 1);
        g.temperature = 0.8;
        cached_case(f, 1, &g, 3);
        g.repetition_penalty = 1.2;
        g.top_k = 20;
        g.top_p = 0.8;
        g.min_p = 0.05;
        cached_case(f, f & 1, &g, 3);
    }
}

/* ------------------------------------------------------------------ through the internals, a step at a time */
typedef struct steps {
    dpo__generation *t;
    dpo_generate_config g;
    int32_t out[64 * GEN];
    int64_t n_out[64], rows, draws;
} steps;

static int steps_open(steps *s, dpo_model *m, const int32_t *const *prompts, const int64_t *n_prompt, int64_t n) {
    int64_t i, longest = 1;
    for (i = 0; i < n; i++)
        if (n_prompt[i] > longest) longest = n_prompt[i];
    s->t = dpo__generation_open(m, &s->g, n, longest);
    if (!CHECK_OK(m->c, s->t ? 0 : -1)) return 0;
    s->t->prompts = prompts;
    s->t->n_prompt = n_prompt;
    s->t->out = s->out;
    s->t->n_out = s->n_out;
    memset(s->n_out, 0, sizeof s->n_out);
    s->rows = s->draws = 0;
    return 1;
}
static void steps_close(steps *s, dpo_context *c) { dpo__generation_close(c, s->t); }

/* The logits themselves, cached and not, bit for bit. Two prompts, three samples each. */
static void test_generate_logits(void) {
    int f, i, k;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, f, 5);
        steps *s = SCRATCH(steps, 1);
        int32_t ids[2][32], want[6][GEN];
        const int32_t *prompts[2];
        int64_t lengths[2] = {5, 2};
        float *z = SCRATCH(float, 6 * GEN * TINY_VOCAB);
        dpo__fpenv env;
        s->g = dpo_generate_defaults();
        s->g.max_new_tokens = GEN;
        s->g.num_return_sequences = 3;
        for (i = 0; i < 2; i++) {
            tiny_ids(ids[i], 32, (uint64_t)(750 + i), TINY_VOCAB);
            prompts[i] = ids[i];
        }
        for (i = 0; i < 6; i++)
            recompute(c, m, ids[i / 3], lengths[i / 3], GEN, &s->g, i, want[i], z + i * GEN * TINY_VOCAB);
        if (!steps_open(s, m, prompts, lengths, 2)) return;
        env = dpo__fp_enter();
        for (k = 0; k < GEN; k++) {
            CHECK_OK(c, dpo__generation_step(s->t));
            CHECK(s->t->active == 6);
            for (i = 0; i < 6; i++) {
                CHECK_CASE(s->t->answer[i].drawn == want[i][k], tiny_names[f]);
                CHECK_CASE(!memcmp(s->t->r->logits + i * TINY_VOCAB, z + (i * GEN + k) * TINY_VOCAB,
                                   sizeof(float) * TINY_VOCAB),
                           tiny_names[f]);
            }
            dpo__generation_take(s->t);
        }
        dpo__fp_leave(env);
        CHECK(s->t->active == 0);
        dpo_close(c);
        memfs_free(fs);
        scratch_free();
    }
}
/* Each prompt's rows go through the model once, whatever the batch, and each answer's ids once. */
static void test_generate_trunk_once(void) {
    static const int64_t lengths[3] = {9, 1, 12};
    static const int32_t often[6] = {3, 5, 17, 28, 40, 41};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, 3, 5);
    int32_t ids[3][16];
    const int32_t *prompts[3];
    int64_t batch;
    int i;
    for (i = 0; i < 3; i++) {
        tiny_ids(ids[i], 16, (uint64_t)(760 + i), TINY_VOCAB);
        prompts[i] = ids[i];
    }
    for (batch = 1; batch < 14; batch++) {
        steps *s = SCRATCH(steps, 1);
        dpo__fpenv env = dpo__fp_enter();
        int64_t most = 0;
        s->g = dpo_generate_defaults();
        s->g.max_new_tokens = GEN;
        s->g.num_return_sequences = 4;
        s->g.batch = batch;
        s->g.stop_ids = often; /* so that sequences leave at different times */
        s->g.n_stop_ids = 6;
        if (!steps_open(s, m, prompts, lengths, 3)) return;
        CHECK(s->t->n_trunks <= (batch + 2) / 4 + 2);
        while (s->t->active || s->t->next < s->t->total) {
            int segments = (int)(s->t->batch + s->t->n_trunks);
            memset(s->t->b.segments, 0, sizeof(dpo_segment) * (size_t)segments);
            if (!CHECK_OK(c, dpo__generation_step(s->t))) return;
            for (i = 0; i < segments; i++) s->rows += s->t->b.segments[i].length;
            s->draws += s->t->active;
            if (s->t->active > most) most = s->t->active;
            dpo__generation_take(s->t);
        }
        dpo__fp_leave(env);
        CHECK(most == (batch < 12 ? batch : 12));
        CHECK(s->rows == s->draws + 8 + 11);
        CHECK(s->draws < 12 * GEN && s->draws > 40);
        steps_close(s, c);
    }
    dpo_close(c);
    memfs_free(fs);
}

/* ------------------------------------------------------------------ batches */
#define GEN_PROMPTS 8
#define GEN_SAMPLES 4
/* 8 prompts x 4 samples, with an eos so that sequences leave early: batches and threads change nothing. */
static void samples_run(int family, int threads, int simd, int64_t batch, int32_t *out, int64_t *n_out, int *finish) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, threads, simd);
    dpo_model *m = tiny_model(c, fs, family, 5);
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[GEN_PROMPTS][24];
    const int32_t *prompts[GEN_PROMPTS];
    int64_t lengths[GEN_PROMPTS];
    int i;
    for (i = 0; i < GEN_PROMPTS; i++) {
        tiny_ids(ids[i], 24, (uint64_t)(850 + i), TINY_VOCAB);
        prompts[i] = ids[i];
        lengths[i] = 1 + (i * 7) % 23;
    }
    g.max_new_tokens = GEN;
    g.num_return_sequences = GEN_SAMPLES;
    g.seed = 21;
    g.eos = 9;
    g.top_p = 0.95;
    g.repetition_penalty = 1.1;
    g.batch = batch;
    g.finish = finish;
    memset(out, 0, sizeof(int32_t) * GEN_PROMPTS * GEN_SAMPLES * GEN);
    CHECK_OK(c, dpo_generate(m, prompts, lengths, GEN_PROMPTS, &g, out, n_out));
    dpo_close(c);
    memfs_free(fs);
}
static void test_generate_samples(void) {
    enum { ALL = GEN_PROMPTS * GEN_SAMPLES };
    static const int threads[5] = {1, 2, 5, 1, 2};
    static const int64_t batches[5] = {0, 3, 32, 7, 1000};
    int32_t *want = SCRATCH(int32_t, ALL * GEN), *got = SCRATCH(int32_t, ALL * GEN);
    int64_t n[2][ALL];
    int finish[2][ALL], f, i, early = 0, differ = 0;
    for (f = 0; f < TINY_FAMILIES; f++) {
        samples_run(f, 1, 0, 1, want, n[0], finish[0]); /* one at a time */
        for (i = 0; i < ALL; i++) {
            CHECK(finish[0][i] == (n[0][i] < GEN ? DPO_FINISH_EOS : DPO_FINISH_LENGTH) || n[0][i] == GEN);
            early += n[0][i] < GEN;
            if (i % GEN_SAMPLES) differ += memcmp(want + i * GEN, want + (i - 1) * GEN, sizeof(int32_t) * GEN) != 0;
        }
        for (i = 0; i < 5; i++) {
            if (threads[i] > 1 && f % 3) continue; /* many threads on few cores take their time */
            samples_run(f, threads[i], i == 3 ? DPO_SIMD_SCALAR : 0, batches[i], got, n[1], finish[1]);
            CHECK_CASE(!memcmp(want, got, sizeof(int32_t) * ALL * GEN), tiny_names[f]);
            CHECK_CASE(!memcmp(n[0], n[1], sizeof n[0]), tiny_names[f]);
            CHECK_CASE(!memcmp(finish[0], finish[1], sizeof finish[0]), tiny_names[f]);
        }
    }
    CHECK(early > 10 && differ > 100);
}
/* Threads, SIMD paths and the company of other prompts change nothing; the seed does. */
static void test_generate_independent(void) {
    static const int threads[4] = {1, 2, 5, 1};
    int32_t ids[3][8], first[3 * GEN], got[3 * GEN];
    const int32_t *prompts[3];
    int64_t lengths[3] = {4, 8, 1}, n_out[3];
    int f, k, i;
    for (f = 0; f < TINY_FAMILIES; f++)
        for (k = 0; k < 4; k++) {
            memfs *fs = memfs_new();
            dpo_context *c = memfs_context(fs, NULL, threads[k], k == 3 ? DPO_SIMD_SCALAR : 0);
            dpo_model *m = tiny_model(c, fs, f, 5);
            dpo_generate_config g = dpo_generate_defaults();
            g.max_new_tokens = GEN;
            g.seed = 3;
            for (i = 0; i < 3; i++) {
                tiny_ids(ids[i], 8, (uint64_t)(800 + i), TINY_VOCAB);
                prompts[i] = ids[i];
            }
            CHECK_OK(c, dpo_generate(m, prompts, lengths, 3, &g, k ? got : first, n_out));
            if (k) CHECK_SAME(first, got, sizeof first);
            CHECK_OK(c, dpo_generate(m, prompts, lengths, 1, &g, got, n_out)); /* prompt 0 alone */
            CHECK_SAME(first, got, sizeof(int32_t) * GEN);
            g.seed = 4;
            CHECK_OK(c, dpo_generate(m, prompts, lengths, 3, &g, got, n_out));
            CHECK(memcmp(first, got, sizeof first) != 0);
            dpo_close(c);
            memfs_free(fs);
        }
}

/* ------------------------------------------------------------------ weights in every storage, packed or not */
#define GEN_LONG 40 /* own rows in more than one panel of keys */
enum { WAY_PLAIN, WAY_PACK, WAY_MODEL, WAY_FILE, WAY_FILE_PACK, WAYS };
static const char *const way_names[WAYS] = {"plain", "packed for the call", "packed", "file", "file, packed"};

static dpo_model *way_model(dpo_context *c, memfs *fs, int family, int precision, int way) {
    dpo_model *first = tiny_model(c, fs, family, 5), *m = first;
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    how.precision = precision;
    how.frozen = way >= WAY_FILE;
    if (how.frozen) {
        CHECK_OK(c, dpo_model_save(first, "way", precision == DPO_PRECISION_BF16 ? DPO_BF16 : DPO_F32));
        m = dpo_model_load_as(c, "way", &how);
    } else if (precision == DPO_PRECISION_BF16) m = dpo_model_copy(first, &how);
    else CHECK_OK(c, dpo_model_set_precision(m, precision));
    CHECK_OK(c, m ? 0 : -1);
    if (m != first) dpo_model_free(first);
    if (m && way == WAY_MODEL) CHECK_OK(c, dpo_model_pack(m));
    return m;
}
static void way_prompts(int32_t ids[2][32], const int32_t **prompts, int64_t *lengths) {
    int i;
    for (i = 0; i < 2; i++) {
        tiny_ids(ids[i], 32, (uint64_t)(770 + i), TINY_VOCAB);
        prompts[i] = ids[i];
    }
    lengths[0] = 19;
    lengths[1] = 2;
}
/* Two prompts, two samples each, a step at a time: every id and every logit is what the whole text gave. */
static void way_case(int family, int precision, int way, int threads, int simd, int64_t batch, const int32_t *want,
                     const float *z) {
    memfs *fs = memfs_new();
    dpo_desc d;
    dpo_context *c;
    dpo_model *m;
    steps *s = SCRATCH(steps, 1);
    int32_t ids[2][32];
    const int32_t *prompts[2];
    int64_t lengths[2], i, done = 0;
    char text[128];
    dpo__fpenv env;
    memset(&d, 0, sizeof d);
    d.n_threads = threads;
    d.simd = simd;
    d.io = &fs->io;
    c = dpo_open(&d);
    (void)snprintf(text, sizeof text, "%s precision %d %s threads %d simd %d batch %ld", tiny_names[family], precision,
                   way_names[way], threads, simd, (long)batch);
    if (!c) { /* a path that this CPU has not */
        memfs_free(fs);
        return;
    }
    m = way_model(c, fs, family, precision, way);
    way_prompts(ids, prompts, lengths);
    s->g = dpo_generate_defaults();
    s->g.max_new_tokens = GEN_LONG;
    s->g.num_return_sequences = 2;
    s->g.batch = batch;
    s->g.pack = way == WAY_PACK || way == WAY_FILE_PACK ? 1 : -1;
    if (!m || !steps_open(s, m, prompts, lengths, 2)) return;
    CHECK_CASE((m->packed != NULL) == (way != WAY_PLAIN && way != WAY_FILE), text);
    env = dpo__fp_enter();
    while (s->t->active || s->t->next < s->t->total) {
        if (!CHECK_OK(c, dpo__generation_step(s->t))) break;
        for (i = 0; i < s->t->active; i++, done++) {
            int64_t at = s->t->answer[i].sequence * GEN_LONG + s->n_out[s->t->answer[i].sequence];
            CHECK_CASE(s->t->answer[i].drawn == want[at], text);
            CHECK_CASE(!memcmp(s->t->r->logits + i * TINY_VOCAB, z + at * TINY_VOCAB, sizeof(float) * TINY_VOCAB),
                       text);
        }
        dpo__generation_take(s->t);
    }
    dpo__fp_leave(env);
    CHECK_CASE(done == 4 * GEN_LONG, text);
    steps_close(s, c);
    CHECK_CASE((m->packed != NULL) == (way == WAY_MODEL), text);
    dpo_close(c);
    memfs_free(fs);
}
static void test_generate_packed(void) {
    static const int threads[4] = {2, 1, 3, 5};
    int f, p, w, i, k;
    for (f = 0; f < TINY_FAMILIES; f++)
        for (p = 0; p < 3; p++) {
            memfs *fs = memfs_new();
            dpo_context *c = memfs_context(fs, NULL, 1, 0);
            dpo_model *m = way_model(c, fs, f, p, WAY_PLAIN);
            dpo_generate_config g = dpo_generate_defaults();
            int32_t ids[2][32], *want = SCRATCH(int32_t, 4 * GEN_LONG);
            const int32_t *prompts[2];
            int64_t lengths[2];
            float *z = SCRATCH(float, 4 * GEN_LONG * TINY_VOCAB);
            way_prompts(ids, prompts, lengths);
            for (i = 0; i < 4; i++)
                recompute(c, m, ids[i / 2], lengths[i / 2], GEN_LONG, &g, i, want + i * GEN_LONG,
                          z + i * GEN_LONG * TINY_VOCAB);
            for (w = 0; w < WAYS; w++) {
                for (k = DPO_SIMD_SCALAR; k <= DPO_SIMD_NEON; k++) way_case(f, p, w, 1, k, 8, want, z);
                for (i = 0; i < (f % 3 ? 1 : 4); i++) way_case(f, p, w, threads[i], 0, i % 2 ? 8 : 1, want, z);
            }
            dpo_close(c);
            memfs_free(fs);
            scratch_free();
        }
}
/* A packed copy does not outlive its weights: training and another precision drop it, adapters leave it alone. */
static void test_generate_packed_state(void) {
    int lora;
    for (lora = 0; lora < 2; lora++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 2, 0);
        dpo_model *m = tiny_model(c, fs, 0, 5);
        dpo_data *d = tiny_data(c, 0, 0, 4);
        dpo_train_config k = dpo_train_defaults(DPO_SFT);
        dpo_trainer *t;
        dpo_metrics metrics;
        dpo_generate_config g = dpo_generate_defaults();
        int32_t ids[4] = {1, 2, 3, 4}, want[GEN], got[GEN];
        const int32_t *prompt = ids;
        int64_t n = 4, made = 0, count, i;
        dpo_tensor *w;
        if (lora) tiny_lora(c, m, 0, 3, 1, 9);
        g.max_new_tokens = GEN;
        k.batch_size = 4;
        k.max_steps = 1;
        k.learning_rate = 0.1;
        CHECK_OK(c, dpo_model_pack(m));
        t = dpo_trainer_create(m, d, &k);
        CHECK_OK(c, t ? dpo_trainer_step(t, &metrics) : -1);
        CHECK((m->packed != NULL) == lora);
        dpo_trainer_free(t);
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, want, &made));
        CHECK_OK(c, dpo_model_pack(m));
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, got, &made));
        CHECK_SAME(want, got, sizeof got);
        count = tiny_tensors(m, 0, &w); /* written by hand: packed again */
        for (i = 0; i < count; i++) *(float *)w[i].data += 1.0f;
        CHECK_OK(c, dpo_model_pack(m));
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, want, &made));
        dpo_model_unpack(m);
        dpo_model_unpack(m);
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, got, &made));
        CHECK_SAME(want, got, sizeof got);
        CHECK_OK(c, dpo_model_pack(m));
        CHECK_OK(c, dpo_model_set_precision(m, DPO_PRECISION_MIXED));
        CHECK(!m->packed);
        dpo_close(c);
        memfs_free(fs);
        scratch_free();
    }
    CHECK(dpo_model_pack(NULL) == DPO_E_ARG);
    dpo_model_unpack(NULL);
}
/* The plan's bytes are those that generation then holds; when a copy is made unasked. */
static void test_generate_plan(void) {
    int f, p, pack, samples;
    for (f = 0; f < TINY_FAMILIES; f++)
        for (p = 0; p < 2; p++)
            for (pack = -1; pack < 2; pack++)
                for (samples = 1; samples < 4; samples += 2) {
                    memfs *fs = memfs_new();
                    dpo_context *c = memfs_context(fs, NULL, 2, 0);
                    dpo_model *m = way_model(c, fs, f, p ? DPO_PRECISION_BF16 : DPO_PRECISION_FP32, WAY_PLAIN);
                    dpo_generate_config g = dpo_generate_defaults();
                    dpo_generation_plan plan, other;
                    dpo__generation *t;
                    size_t before = c->memory.in_use, took;
                    g.max_new_tokens = 33;
                    g.num_return_sequences = samples;
                    g.pack = pack;
                    CHECK_OK(c, dpo_plan_generate(m, 5, 20, &g, &plan));
                    CHECK(c->memory.in_use == before);
                    t = dpo__generation_open(m, &g, 5, 20);
                    if (!CHECK_OK(c, t ? 0 : -1)) return;
                    took = c->memory.in_use - before;
                    CHECK(plan.total <= took && took <= plan.total + 3 * (DPO__BLOCK_HEADER + DPO__ALIGN));
                    CHECK(plan.total == plan.cache + plan.workspace + plan.packed && plan.batch == t->batch);
                    CHECK((plan.packed > 0) == (pack >= 0) && plan.cache > 0 && plan.workspace > 0);
                    dpo__generation_close(c, t);
                    CHECK(c->memory.in_use == before);
                    g.max_new_tokens = 31; /* too short to repay it */
                    CHECK_OK(c, dpo_plan_generate(m, 1, 20, &g, &other));
                    CHECK((other.packed > 0) == (pack > 0));
                    CHECK_OK(c, dpo_model_pack(m)); /* the model's own are used */
                    CHECK_OK(c, dpo_plan_generate(m, 5, 20, NULL, &other));
                    CHECK(!other.packed);
                    dpo_model_unpack(m);
                    m->frozen = 1;
                    CHECK_OK(c, dpo_plan_generate(m, 5, 20, NULL, &other));
                    CHECK(!other.packed);
                    dpo_close(c);
                    memfs_free(fs);
                }
}

/* ------------------------------------------------------------------ how sequences end */
static int64_t first_of(const int32_t *ids, int64_t n, int32_t id) {
    int64_t k;
    for (k = 0; k < n && ids[k] != id; k++) {
    }
    return k;
}
/* The end-of-text id and stop ids end an answer and are not part of it; learned positions bound it. */
static void test_generate_eos(void) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, 3, 5);
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[62], out[GEN], again[GEN], stops[2];
    const int32_t *prompt = ids;
    int64_t n = 4, made = 0, k;
    int finish = 9;
    tiny_ids(ids, 62, 810, TINY_VOCAB);
    g.max_new_tokens = GEN;
    g.seed = 5;
    g.finish = &finish;
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, out, &made));
    CHECK(made == GEN && finish == DPO_FINISH_LENGTH);
    g.eos = out[6];
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, again, &made));
    k = first_of(out, GEN, out[6]);
    CHECK(made == k && finish == DPO_FINISH_EOS);
    CHECK_SAME(out, again, sizeof(int32_t) * (size_t)k);
    g.eos = -1;
    stops[0] = 1000; /* no id of the model: never drawn */
    stops[1] = out[9];
    g.stop_ids = stops;
    g.n_stop_ids = 2;
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, again, &made));
    k = first_of(out, GEN, out[9]);
    CHECK(made == k && finish == DPO_FINISH_STOP);
    CHECK_SAME(out, again, sizeof(int32_t) * (size_t)k);
    g.n_stop_ids = 0;
    m = tiny_model(c, fs, 2, 5); /* GPT-2 with 64 positions: the last id drawn needs none */
    for (n = 60; n <= 62; n++) {
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, again, &made));
        CHECK(made == 65 - n && finish == DPO_FINISH_LENGTH);
    }
    dpo_close(c);
    memfs_free(fs);
}
/* A strong penalty keeps a greedy answer from saying anything twice; without one it repeats itself. */
static void test_generate_penalty(void) {
    int f, i, k, repeats[2] = {0, 0};
    for (f = 0; f < TINY_FAMILIES; f++)
        for (k = 0; k < 2; k++) {
            memfs *fs = memfs_new();
            dpo_context *c = memfs_context(fs, NULL, 1, 0);
            dpo_model *m = tiny_model(c, fs, f, 5);
            dpo_generate_config g = dpo_generate_defaults();
            int32_t all[32];
            const int32_t *prompt = all;
            int64_t n = 6, made = 0;
            tiny_ids(all, 6, 820, TINY_VOCAB);
            g.max_new_tokens = 26;
            g.temperature = 0;
            g.repetition_penalty = k ? 1e6 : 1.0;
            CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, all + 6, &made));
            CHECK(made == 26);
            for (i = 6; i < 32; i++) repeats[k] += first_of(all, i, all[i]) < i;
            dpo_close(c);
            memfs_free(fs);
        }
    CHECK(repeats[0] > 50 && repeats[1] == 0);
}

/* A byte-level model: 257 ids. */
static dpo_model *byte_model(dpo_context *c, memfs *fs) {
    dpo_model *m;
    memfs_text(fs, "bytes.json",
               "{\"model_type\":\"llama\",\"vocab_size\":257,\"hidden_size\":16,\"num_hidden_layers\":2,"
               "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":24,"
               "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\"}");
    m = dpo_model_create_from(c, "bytes.json", 7);
    if (CHECK_OK(c, m ? 0 : -1)) tiny_randomize(m, 7);
    return m;
}
/* Byte after byte: stopped where a string is there for the first time? Small alphabets make every overlap. */
static void stop_case(dpo_context *c, dpo_model *m, const char *const *stop, int64_t n_stop, const char *text) {
    dpo_generate_config g = dpo_generate_defaults();
    dpo__generation *t;
    size_t i, n = strlen(text);
    int64_t s;
    g.stop = stop;
    g.n_stop = n_stop;
    g.tokenizer = dpo_tokenizer_bytes(c);
    t = dpo__generation_open(m, &g, 1, 4);
    if (!CHECK_OK(c, t ? 0 : -1)) return;
    for (i = 0; i < n; i++) {
        int want = 0, got = dpo__answer_stops(t, &t->answer[0], (unsigned char)text[i]);
        for (s = 0; s < n_stop; s++) {
            const char *at = strstr(text, stop[s]);
            want |= at && at + strlen(stop[s]) <= text + i + 1;
        }
        CHECK_CASE(got == want, text);
        if (want || got) break;
    }
    dpo__generation_close(c, t);
}
static void test_generate_stop_strings(void) {
    static const char *const aab[1] = {"aab"};
    static const char *const mixed[4] = {"abab", "b", "\n\nHuman:", "aaaaaaaaaaaaaaaa"};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = byte_model(c, fs);
    int i, k, j;
    stop_case(c, m, aab, 1, "aaab");
    stop_case(c, m, aab, 1, "aacaabc");
    stop_case(c, m, mixed + 2, 1, "\n\n\nHuman\n\nHuman:");
    stop_case(c, m, mixed + 3, 1, "aaaaaaaaaaaaaaabaaaaaaaaaaaaaaaac");
    stop_case(c, m, mixed, 4, "aaaaaaaab");
    for (i = 0; i < 300; i++) {
        char text[40], words[3][8];
        const char *stop[3];
        for (k = 0; k < 39; k++) text[k] = (char)('a' + rng_below(2));
        text[39] = 0;
        for (j = 0; j < 3; j++) {
            int n = 2 + rng_below(6);
            for (k = 0; k < n; k++) words[j][k] = (char)('a' + rng_below(2));
            words[j][n] = 0;
            stop[j] = words[j];
        }
        stop_case(c, m, stop, 1 + rng_below(3), text);
    }
    dpo_close(c);
    memfs_free(fs);
}
static int is_id(int32_t id) { return id > 32 && id < 127; }
/* A stop string out of what the model says: the answer ends with it, its text before it. */
static void test_generate_stop_text(void) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = byte_model(c, fs);
    dpo_tokenizer *b = dpo_tokenizer_bytes(c);
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[3] = {'a', 'b', 'c'}, out[40], again[40];
    const int32_t *prompt = ids;
    int64_t n = 3, made = 0, k;
    int finish = 9, found = 0;
    char text[128], said[128], word[4];
    const char *stop[2];
    g.max_new_tokens = 40;
    g.finish = &finish;
    g.eos = 1000;
    for (g.seed = 0; g.seed < 300 && found < 9; g.seed++) {
        g.n_stop = 0;
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, out, &made));
        for (k = 10; k < 38 && !(is_id(out[k]) && is_id(out[k + 1])); k++) {
        }
        if (k == 38 || first_of(out, 40, 0) < 40 || first_of(out, 40, 256) < 40) continue;
        word[0] = (char)out[k];
        word[1] = (char)out[k + 1];
        word[2] = 0;
        stop[0] = "never said, and long";
        stop[1] = word;
        CHECK(dpo_decode(b, out, 40, said, 40) == 40);
        said[40] = 0;
        if (strstr(said, word) != said + k) continue;
        found++;
        g.stop = stop;
        g.n_stop = 2;
        g.tokenizer = b;
        CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, again, &made));
        CHECK(made == k + 2 && finish == DPO_FINISH_STOP);
        CHECK_SAME(out, again, sizeof(int32_t) * (size_t)(k + 2));
        g.tokenizer = NULL; /* dpo_generate_text has its own */
        CHECK_OK(c, dpo_generate_text(m, b, "abc", &g, text, sizeof text));
        said[k] = 0;
        CHECK(!strcmp(text, said) && finish == DPO_FINISH_STOP);
        CHECK_OK(c, dpo_generate_text(m, b, "abc", &g, text, 6));
        CHECK(strlen(text) <= 5 && !strncmp(text, said, strlen(text)));
    }
    CHECK(found > 5);
    g.n_stop = 0;
    CHECK(dpo_generate_text(m, b, "", &g, text, sizeof text) == DPO_E_ARG && !text[0]);
    dpo_close(c);
    memfs_free(fs);
}
/* Text is cut before a stop string, and at the capacity before a character that does not fit. */
static void test_generate_text_cut(void) {
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"; /* a, e acute, euro, a face, z */
    static const size_t want[12] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    static const char *const stop[2] = {"\xf0\x9f\x98\x80", "\xe2\x82\xac"};
    dpo_generate_config g = dpo_generate_defaults();
    size_t i;
    CHECK(strlen(text) == 11);
    for (i = 0; i < 12; i++) CHECK(dpo__text_cut(text, 11, &g, i) == want[i]);
    CHECK(dpo__text_cut("\x80\x80\x80\x80\x80\x80", 6, &g, 4) == 4);
    g.stop = stop;
    g.n_stop = 1;
    CHECK(dpo__text_cut(text, 11, &g, 100) == 6 && dpo__text_cut(text, 11, &g, 2) == 1);
    g.n_stop = 2;
    CHECK(dpo__text_cut(text, 11, &g, 100) == 3);
}

/* ------------------------------------------------------------------ the callback */
typedef struct caught {
    int32_t ids[12 * GEN];
    int64_t sequences[12 * GEN], n;
    int64_t stop_sequence, stop_after; /* that many ids of it */
    unsigned state;
    int wrong_state;
} caught;
static int catch_token(void *user, int64_t sequence, int32_t id) {
    caught *k = (caught *)user;
    int64_t i, mine = 0;
    k->wrong_state += fp_state() != k->state;
    if (k->n == 12 * GEN) return 1;
    k->ids[k->n] = id;
    k->sequences[k->n++] = sequence;
    for (i = 0; i < k->n; i++) mine += k->sequences[i] == sequence;
    return sequence == k->stop_sequence && mine == k->stop_after ? -3 : 0;
}
static void test_generate_callback(void) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 3, 0);
    dpo_model *m = tiny_model(c, fs, 0, 5);
    dpo_generate_config g = dpo_generate_defaults();
    caught *k = SCRATCH(caught, 2);
    int32_t ids[4], out[12 * GEN];
    const int32_t *prompts[3];
    int64_t lengths[3] = {4, 2, 3}, n_out[12], i, s, at;
    int finish[12];
    tiny_ids(ids, 4, 830, TINY_VOCAB);
    for (i = 0; i < 3; i++) prompts[i] = ids;
    g.max_new_tokens = GEN;
    g.num_return_sequences = 4;
    g.eos = 9;
    g.seed = 2;
    g.batch = 5;
    g.finish = finish;
    g.on_token = catch_token;
    (void)fesetround(FE_TOWARDZERO);
    for (i = 0; i < 2; i++) { /* the same order twice */
        g.user = &k[i];
        k[i].state = fp_state();
        k[i].stop_sequence = 6;
        k[i].stop_after = 3;
        CHECK_OK(c, dpo_generate(m, prompts, lengths, 3, &g, out, n_out));
        CHECK(fp_state() == k[i].state && k[i].wrong_state == 0);
    }
    (void)fesetround(FE_TONEAREST);
    CHECK_SAME(&k[0], &k[1], sizeof k[0]);
    CHECK(n_out[6] == 3 && finish[6] == DPO_FINISH_STOP);
    for (s = at = 0; s < 12; s++) {
        int64_t mine = 0;
        CHECK(s == 6 || finish[s] == (n_out[s] < GEN ? DPO_FINISH_EOS : finish[s]));
        at += n_out[s];
        for (i = 0; i < k->n; i++)
            if (k->sequences[i] == s) CHECK(mine < n_out[s] && k->ids[i] == out[s * GEN + mine++]);
        CHECK(mine == n_out[s]);
    }
    CHECK(at == k->n && at < 12 * GEN);
    dpo_close(c);
    memfs_free(fs);
}

/* ------------------------------------------------------------------ what is refused */
static void refused(dpo_model *m, const dpo_generate_config *g, const char *what) {
    int32_t ids[2] = {1, 2}, out[64];
    const int32_t *prompt = ids;
    int64_t n = 2, made[4];
    CHECK_CASE(dpo_generate(m, &prompt, &n, 1, g, out, made) == DPO_E_ARG, what);
    CHECK_CASE(strstr(dpo_error(m->c), what) && strstr(dpo_error(m->c), "expected"), dpo_error(m->c));
    dpo_clear(m->c);
}
static void refused_numbers(dpo_model *m) {
    static const double numbers[6] = {-1, (double)NAN, (double)INFINITY, 0, 1, 2};
    const dpo_generate_config k = dpo_generate_defaults();
    dpo_generate_config g;
    int i;
    for (i = 0; i < 6; i++) {
        g = k;
        g.top_p = numbers[i];
        if (i != 4) refused(m, &g, "top_p");
        g = k;
        g.min_p = numbers[i];
        if (i != 3) refused(m, &g, "min_p");
        g = k;
        g.repetition_penalty = numbers[i];
        if (i < 4) refused(m, &g, "repetition_penalty");
        g = k;
        g.temperature = numbers[i];
        if (i < 3) refused(m, &g, "temperature");
    }
}
/* No more than 256 MB: what a system gives for 100 GB differs. */
static void *small_alloc(void *user, size_t n) {
    (void)user;
    return n > (size_t)1 << 28 ? NULL : malloc(n);
}
static void small_release(void *user, void *p, size_t n) {
    (void)user;
    (void)n;
    free(p);
}
static void test_generate_errors(void) {
    static const char *const empty[2] = {"x", ""};
    memfs *fs = memfs_new();
    dpo_context *c;
    dpo_model *m;
    dpo_desc desc;
    const dpo_generate_config k = dpo_generate_defaults();
    dpo_generate_config g;
    dpo_generation_plan plan;
    int32_t ids[2] = {1, 2}, out[64];
    const int32_t *prompt = ids;
    int64_t n = 2, made[4];
    int i;
    char text[8];
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    desc.io = &fs->io;
    desc.alloc = small_alloc;
    desc.release = small_release;
    c = dpo_open(&desc);
    m = byte_model(c, fs);
    refused_numbers(m);
    for (i = 0; i < 9; i++) {
        static const char *const what[9] = {"top_k",
                                            "num_return_sequences",
                                            "num_return_sequences",
                                            "n_stop_ids",
                                            "n_stop",
                                            "batch",
                                            "max_new",
                                            "max_new",
                                            "pack"};
        g = k;
        if (i == 0) g.top_k = -1;
        if (i == 1) g.num_return_sequences = 0;
        if (i == 2) g.num_return_sequences = INT64_MAX;
        if (i == 3) g.n_stop_ids = -1;
        if (i == 4) g.n_stop = -1;
        if (i == 5) g.batch = -1;
        if (i == 6) g.max_new_tokens = 0;
        if (i == 7) g.max_new_tokens = INT64_MAX;
        if (i == 8) g.pack = 2;
        refused(m, &g, what[i]);
        CHECK(dpo_plan_generate(m, 1, 1, &g, &plan) == DPO_E_ARG);
        dpo_clear(c);
    }
    g = k;
    g.n_stop_ids = 1;
    refused(m, &g, "stop_ids");
    g = k;
    g.n_stop = 2;
    refused(m, &g, "stop is NULL");
    g.stop = empty;
    refused(m, &g, "tokenizer is NULL");
    g.tokenizer = dpo_tokenizer_bytes(c);
    refused(m, &g, "stop string 1 is empty");
    g = k;
    g.num_return_sequences = g.max_new_tokens = INT32_MAX / 2;
    CHECK(dpo_generate(m, &prompt, &n, 1, &g, out, made) == DPO_E_MEMORY); /* 2^60 rows of cache */
    dpo_clear(c);
    g = k;
    g.max_new_tokens = INT32_MAX / 2;
    g.batch = INT64_MAX;
    CHECK(dpo_generate(m, &prompt, &n, 1, &g, out, made) == DPO_E_MEMORY);
    dpo_clear(c);
    g.num_return_sequences = INT32_MAX / 2;
    CHECK(dpo_plan_generate(m, INT32_MAX / 2, INT32_MAX / 2, &g, &plan) == DPO_E_MEMORY);
    dpo_clear(c);
    for (i = 0; i < 4; i++) {
        CHECK(dpo_plan_generate(m, i == 0 ? 0 : 1,
                                i == 1   ? 0
                                : i == 2 ? INT64_MAX
                                         : 1,
                                NULL, i == 3 ? NULL : &plan) == DPO_E_ARG);
        CHECK(strstr(dpo_error(c), "dpo_plan_generate") && strstr(dpo_error(c), "expected"));
        dpo_clear(c);
    }
    CHECK(dpo_plan_generate(NULL, 1, 1, NULL, &plan) == DPO_E_ARG);
    g = k;
    g.num_return_sequences = 2;
    CHECK(dpo_generate_text(m, dpo_tokenizer_bytes(c), "a", &g, text, 8) == DPO_E_ARG);
    CHECK(strstr(dpo_error(c), "num_return_sequences") != NULL);
    dpo_clear(c);
    CHECK(dpo_generate_text(m, dpo_tokenizer_bytes(c), "a", NULL, text, 0) == DPO_E_ARG);
    dpo_clear(c);
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 0, NULL, NULL, NULL));
    m = tiny_model(c, fs, 0, 5);
    g = k;
    g.max_new_tokens = 60;
    g.top_k = INT64_MAX;
    g.batch = INT64_MAX;
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, out, made)); /* more than there are is all */
    dpo_close(c);
    memfs_free(fs);
}

/* ------------------------------------------------------------------ faults */
static int generate_all(memfs *fs, heap *h, int64_t *bits) {
    static const char *const stop[2] = {"zq", "\n\nHuman:"};
    dpo_context *c = memfs_context(fs, h, 2, 0);
    dpo_model *m = c ? dpo_model_load(c, "in") : NULL;
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[4] = {1, 2, 3, 4}, out[6 * 8];
    const int32_t *prompts[2];
    int64_t lengths[2] = {4, 2}, n_out[6], i, calls;
    char text[32];
    int code;
    if (!c) return DPO_E_MEMORY;
    prompts[0] = prompts[1] = ids;
    g.max_new_tokens = 8;
    g.num_return_sequences = 3;
    g.top_p = 0.9;
    g.top_k = 30;
    g.repetition_penalty = 1.2;
    g.stop = stop;
    g.n_stop = 2;
    g.tokenizer = dpo_tokenizer_bytes(c);
    calls = h->calls;
    if (m && g.tokenizer) (void)dpo_generate(m, prompts, lengths, 2, &g, out, n_out);
    CHECK(h->calls <= calls + 2); /* two blocks, whatever the number of steps */
    g.pack = 1;
    if (m && g.tokenizer) (void)dpo_generate(m, prompts, lengths, 2, &g, out, n_out);
    CHECK(h->calls <= calls + 5); /* and the packed weights */
    if (m) (void)dpo_model_pack(m);
    *bits = 0;
    for (i = 0; i < 6 && !dpo_status(c); i++)
        *bits = (int64_t)hash_bytes((uint64_t)*bits, out + 8 * i, (size_t)n_out[i] * sizeof *out);
    g.num_return_sequences = 1;
    if (m && g.tokenizer) (void)dpo_generate_text(m, g.tokenizer, "abc", &g, text, sizeof text);
    code = dpo_status(c);
    if (code) CHECK(strlen(dpo_error(c)) > 10);
    dpo_close(c);
    return code;
}
static void test_generate_allocation(void) {
    memfs *fs = scenario_files();
    heap h;
    int64_t bits, want, k, calls;
    int transient;
    memset(&h, 0, sizeof h);
    CHECK(generate_all(fs, &h, &want) == DPO_OK);
    calls = h.calls;
    CHECK(calls > 8 && h.live == 0);
    for (transient = 0; transient < 2; transient++)
        for (k = 1; k <= calls + 1; k++) {
            char text[64];
            int r;
            memset(&h, 0, sizeof h);
            h.fail_at = k;
            h.transient = transient;
            r = generate_all(fs, &h, &bits);
            (void)snprintf(text, sizeof text, "allocation %ld of %ld", (long)k, (long)calls);
            CHECK_CASE(k > calls ? r == DPO_OK && bits == want : r == DPO_E_MEMORY, text);
            CHECK_CASE(h.live == 0 && h.bytes == 0, text);
        }
    memfs_free(fs);
}
/* A packed copy that nobody asked for is done without. */
static void test_generate_unpacked(void) {
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c;
    dpo_model *m;
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[3] = {5, 6, 7}, want[GEN_LONG], got[GEN_LONG];
    const int32_t *prompt = ids;
    int64_t n = 3, made = 0;
    memset(&h, 0, sizeof h);
    c = memfs_context(fs, &h, 1, 0);
    m = tiny_model(c, fs, 0, 5);
    g.max_new_tokens = GEN_LONG;
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, want, &made));
    h.fail_at = h.calls + 3;
    h.transient = 1;
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, got, &made));
    CHECK(h.calls == h.fail_at && made == GEN_LONG && !m->packed);
    CHECK_SAME(want, got, sizeof got);
    g.pack = 1;
    h.fail_at = h.calls + 3;
    CHECK(dpo_generate(m, &prompt, &n, 1, &g, got, &made) == DPO_E_MEMORY);
    dpo_close(c);
    CHECK(h.live == 0);
    memfs_free(fs);
}
/* Cancelled after any number of polls: the code, and what was drawn so far is the beginning of the answer. */
static void test_generate_cancel(void) {
    memfs *fs = memfs_new();
    dpo_desc desc;
    dpo_context *c;
    dpo_model *m;
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[3] = {5, 6, 7}, want[GEN], out[GEN];
    const int32_t *prompt = ids;
    int64_t n = 3, made = 0;
    int k;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    desc.io = &fs->io;
    desc.cancel = cancel_count;
    c = dpo_open(&desc);
    cancel_after = 1000;
    m = tiny_model(c, fs, 0, 5);
    g.max_new_tokens = GEN;
    cancel_after = 1000;
    CHECK_OK(c, dpo_generate(m, &prompt, &n, 1, &g, want, &made));
    CHECK(cancel_after == 1000 - GEN && made == GEN);
    for (k = 0; k < GEN; k++) {
        cancel_after = k;
        CHECK(dpo_generate(m, &prompt, &n, 1, &g, out, &made) == DPO_E_CANCELLED);
        CHECK(made == k);
        CHECK_SAME(want, out, sizeof(int32_t) * (size_t)k);
        dpo_clear(c);
    }
    dpo_close(c);
    memfs_free(fs);
}
#endif
