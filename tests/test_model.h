/* test_model.h - whole models: gradients against an independent forward pass in double, and the identities
   that make a run repeatable. */

/* ------------------------------------------------------------------ whole-model gradients */
typedef struct whole {
    oracle o;
    int32_t ids[3][32]; /* prompt + chosen, prompt + rejected, another sequence */
    int length[3], from[3];
    double weight[3];
} whole;

static double whole_loss(const whole *w) {
    double s = 0;
    int i;
    for (i = 0; i < 3; i++) s += w->weight[i] * oracle_logp(&w->o, w->ids[i], w->length[i], w->from[i]);
    return s;
}
/* Derivative along random directions of each tensor on its own. */
static void whole_directions(whole *w, const dpo_tensor *g, int64_t n, const char *name) {
    int64_t i, j;
    int k, tensor;
    for (i = 0; i < n; i++) {
        oracle_tensor *t = NULL;
        double *keep, *v, norm = 0, length = 0;
        char text[256];
        for (k = 0; k < w->o.count; k++)
            if (!strcmp(w->o.t[k].name, g[i].name)) t = &w->o.t[k];
        (void)snprintf(text, sizeof text, "%s: %.150s", name, g[i].name);
        if (!CHECK_CASE(t && t->n == tensor_count(&g[i]), text)) continue;
        keep = SCRATCH(double, t->n);
        v = SCRATCH(double, t->n);
        memcpy(keep, t->v, (size_t)t->n * sizeof *keep);
        for (j = 0; j < t->n; j++) norm += (double)((float *)g[i].data)[j] * (double)((float *)g[i].data)[j];
        for (tensor = 0; tensor < 3; tensor++) {
            double h = 3e-5, up, down, got = 0;
            for (length = 0, j = 0; j < t->n; j++) {
                v[j] = rng_normal();
                length += v[j] * v[j];
                got += v[j] * (double)((float *)g[i].data)[j];
            }
            for (j = 0; j < t->n; j++) t->v[j] = keep[j] + h / sqrt(length) * v[j];
            up = whole_loss(w);
            for (j = 0; j < t->n; j++) t->v[j] = keep[j] - h / sqrt(length) * v[j];
            down = whole_loss(w);
            memcpy(t->v, keep, (size_t)t->n * sizeof *keep);
            (void)snprintf(text, sizeof text, "%s: %.150s: got %.9g, numerically %.9g, norm %.3g", name, g[i].name,
                           got / sqrt(length), (up - down) / (2 * h), sqrt(norm));
            CHECK_CASE(fabs(got / sqrt(length) - (up - down) / (2 * h)) <= 3e-6 * sqrt(norm) + 2e-6, text);
        }
    }
}
static void whole_case(int family, int lora) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, family, 21);
    dpo_train_config k = dpo_train_defaults(DPO_SFT);
    dpo_trainer *t;
    dpo_tensor *g;
    forest *f = SCRATCH(forest, 1);
    whole *w = SCRATCH(whole, 1);
    int32_t prompt[8], a[12], b[12], s[16];
    double logps[3];
    int64_t n;
    int p, i;
    tiny_ids(prompt, 5, 31, TINY_VOCAB);
    tiny_ids(a, 7, 32, TINY_VOCAB);
    tiny_ids(b, 4, 33, TINY_VOCAB);
    tiny_ids(s, 14, 34, TINY_VOCAB);
    p = forest_add(f, -1, prompt, 5, -1);
    (void)forest_add(f, p, a, 7, 0);
    (void)forest_add(f, p, b, 4, 1);
    (void)forest_sequence(f, s, 3, s + 3, 11, 2);
    forest_sort(f);
    for (i = 0; i < 3; i++) {
        static const int lengths[3] = {12, 9, 14}, from[3] = {5, 5, 3};
        static const double weights[3] = {0.7, -1.1, 0.5};
        memcpy(w->ids[i], i < 2 ? prompt : s, sizeof(int32_t) * (i < 2 ? 5 : 14));
        if (i < 2) memcpy(w->ids[i] + 5, i ? b : a, sizeof(int32_t) * (i ? 4 : 7));
        w->length[i] = lengths[i];
        w->from[i] = from[i];
        w->weight[i] = weights[i];
    }
    if (lora) tiny_lora(c, m, family, 3, 1, 17);
    k.max_steps = 1;
    k.max_rows = k.max_targets = k.max_segments = k.max_path = 64;
    t = dpo_trainer_create(m, NULL, &k);
    if (CHECK_OK(c, t ? 0 : -1) && CHECK_OK(c, dpo_trainer_forward(t, &f->b, logps)) &&
        CHECK_OK(c, dpo_trainer_backward(t, &f->b, w->weight))) {
        oracle_open(&w->o, m, 2.0, lora ? 3 : 0);
        for (i = 0; i < 3; i++) {
            double want = oracle_logp(&w->o, w->ids[i], w->length[i], w->from[i]);
            CHECK_NEAR(logps[i], want, 3e-6 * fabs(want));
        }
        n = dpo_trainer_gradients(t, NULL, 0);
        g = SCRATCH(dpo_tensor, n);
        n = dpo_trainer_gradients(t, g, n);
        CHECK(n > (lora ? 3 : 10));
        whole_directions(w, g, n, tiny_names[family]);
    }
    dpo_close(c);
    memfs_free(fs);
    scratch_free();
}
static void test_model_gradients_full(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) whole_case(f, 0);
}
static void test_model_gradients_lora(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) whole_case(f, 1);
}

/* ------------------------------------------------------------------ losses at the start */
static void start_case(int family, int lora) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, family, 5);
    dpo_data *d = tiny_data(c, 1, 0, TINY_PAIRS);
    tiny_run r;
    dpo_train_config k;
    dpo_trainer *t;
    dpo_metrics s;
    memset(&r, 0, sizeof r);
    r.family = family;
    r.pairs = 1;
    r.lora = lora;
    k = tiny_config(&r);
    if (lora) tiny_lora(c, m, family, 3, 0, 9); /* B = 0 */
    t = dpo_trainer_create(m, d, &k);           /* computes the reference log-probs by itself */
    if (CHECK_OK(c, t ? 0 : -1)) {
        CHECK_OK(c, dpo_trainer_evaluate(t, d, &s));
        CHECK_NEAR(s.loss, 0.69314718055994530942, 1e-15);
        CHECK(s.is_eval && s.has_rewards && s.rewards_ties == 1.0 && s.rewards_accuracies == 0.0);
        CHECK_OK(c, dpo_trainer_step(t, &s));
        CHECK_NEAR(s.loss, 0.69314718055994530942, 1e-15);
        CHECK(s.rewards_margins == 0.0 && s.rewards_chosen == 0.0 && s.rewards_rejected == 0.0);
        CHECK(s.rewards_ties == 1.0 && s.rewards_accuracies == 0.0 && s.grad_norm > 1e-3);
        CHECK_OK(c, dpo_trainer_step(t, &s));
        CHECK(s.loss < 0.6931 && s.rewards_margins > 0.0 && s.rewards_ties == 0.0);
    }
    dpo_close(c);
    memfs_free(fs);
}
static void test_identity_start(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) {
        start_case(f, 0);
        start_case(f, 1);
    }
}
/* With adapters the reference is the model without them, in dpo_reference_compute and in a trainer's own steps. */
static void test_identity_reference(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *base = tiny_model(c, fs, f, 5), *m = tiny_model(c, fs, f, 5);
        dpo_data *d[3];
        tiny_run r;
        dpo_train_config k;
        dpo_trainer *t;
        int i;
        memset(&r, 0, sizeof r);
        r.pairs = 1;
        r.steps = 2;
        r.batch = TINY_PAIRS / 2;
        k = tiny_config(&r);
        tiny_lora(c, m, f, 3, 1, 9);
        for (i = 0; i < 3; i++) d[i] = tiny_data(c, 1, 0, TINY_PAIRS);
        CHECK_OK(c, dpo_reference_compute(base, d[0]));
        CHECK_OK(c, dpo_reference_compute(m, d[1]));
        t = dpo_trainer_create(m, d[2], &k);
        if (CHECK_OK(c, t ? 0 : -1)) {
            while (!dpo_trainer_done(t)) CHECK_OK(c, dpo_trainer_step(t, NULL)); /* each pair once */
            for (i = 1; i < 3; i++)
                if (CHECK(d[i]->reference != NULL))
                    CHECK_SAME(dpo_reference_of(d[0]), d[i]->reference, sizeof(double) * 2 * TINY_PAIRS);
        }
        dpo_close(c);
        memfs_free(fs);
    }
}
/* The same pairs, answers swapped: every margin is the negative of what it was, bit for bit. */
static void test_identity_swap(void) {
    int f, k;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, f, 5), *ref = tiny_model(c, fs, f, 6);
        dpo_data *d[2];
        dpo_metrics s[2];
        tiny_run r;
        dpo_train_config t;
        memset(&r, 0, sizeof r);
        r.pairs = 1;
        t = tiny_config(&r);
        for (k = 0; k < 2; k++) {
            dpo_trainer *tr;
            d[k] = tiny_data(c, 1 + k, 0, TINY_PAIRS);
            CHECK_OK(c, dpo_reference_compute(ref, d[k]));
            tr = dpo_trainer_create(m, d[k], &t);
            if (CHECK_OK(c, tr ? 0 : -1)) CHECK_OK(c, dpo_trainer_evaluate(tr, d[k], &s[k]));
        }
        CHECK(s[0].rewards_margins != 0.0 && s[0].rewards_margins == -s[1].rewards_margins);
        CHECK(s[0].rewards_chosen == s[1].rewards_rejected && s[0].logps_chosen == s[1].logps_rejected);
        CHECK_NEAR(s[0].rewards_accuracies + s[1].rewards_accuracies, 1.0, 1e-15);
        dpo_close(c);
        memfs_free(fs);
    }
}

/* ------------------------------------------------------------------ log-probs and the shape of a batch */
/* A pair as prompt with two children, and the same as two sequences. */
static void shared_forests(forest *shared, forest *apart, int item, int sequence) {
    const int *n = tiny_lengths[item];
    int32_t ids[3][64];
    int k, p;
    for (k = 0; k < 3; k++) tiny_ids(ids[k], n[k], (uint64_t)(900 + 10 * item + k), TINY_VOCAB);
    p = forest_add(shared, -1, ids[0], n[0], -1);
    (void)forest_add(shared, p, ids[1], n[1], sequence);
    (void)forest_add(shared, p, ids[2], n[2], sequence + 1);
    (void)forest_sequence(apart, ids[0], n[0], ids[1], n[1], sequence);
    (void)forest_sequence(apart, ids[0], n[0], ids[2], n[2], sequence + 1);
}
static void shared_gradients(dpo_context *c, dpo_model *m, forest *shared, forest *apart, const char *name) {
    dpo_train_config k = dpo_train_defaults(DPO_SFT);
    dpo_tensor *g;
    double weights[64];
    float *copy[128];
    int64_t n = 0, i, j, pass;
    for (i = 0; i < 64; i++) weights[i] = rng_normal();
    k.max_steps = 1;
    k.max_rows = k.max_targets = 512;
    k.max_segments = k.max_path = 64;
    for (pass = 0; pass < 2; pass++) {
        dpo_trainer *t = dpo_trainer_create(m, NULL, &k);
        if (!CHECK_OK(c, t ? 0 : -1)) return;
        CHECK_OK(c, dpo_trainer_backward(t, pass ? &apart->b : &shared->b, weights));
        n = dpo_trainer_gradients(t, NULL, 0);
        g = SCRATCH(dpo_tensor, n);
        (void)dpo_trainer_gradients(t, g, n);
        for (i = 0; i < n && i < 128; i++) {
            int64_t size = tensor_count(&g[i]);
            if (!pass) {
                copy[i] = SCRATCH(float, size);
                memcpy(copy[i], g[i].data, (size_t)size * 4);
            } else {
                double d = 0, s = 0;
                for (j = 0; j < size; j++) {
                    double e = (double)copy[i][j] - (double)((float *)g[i].data)[j];
                    d += e * e;
                    s += (double)copy[i][j] * (double)copy[i][j];
                }
                CHECK_CASE(sqrt(d) <= 3e-6 * sqrt(s) + 1e-5, g[i].name);
            }
        }
        dpo_trainer_free(t);
    }
    (void)name;
}
static void test_identity_shared_prompt(void) {
    int f, i;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, f, 5);
        forest *shared = SCRATCH(forest, 1), *apart = SCRATCH(forest, 1);
        double a[64], b[64];
        for (i = 0; i < TINY_PAIRS; i++) shared_forests(shared, apart, i, 2 * i);
        forest_sort(shared);
        CHECK_OK(c, dpo_model_logps(m, &shared->b, a));
        CHECK_OK(c, dpo_model_logps(m, &apart->b, b));
        CHECK_SAME(a, b, sizeof(double) * 2 * TINY_PAIRS);
        for (i = 0; i < 2 * TINY_PAIRS; i++) CHECK(a[i] < 0 && a[i] > -1000);
        shared_gradients(c, m, shared, apart, tiny_names[f]);
        dpo_close(c);
        memfs_free(fs);
        scratch_free();
    }
}
/* Alone, or among others: the same bits. And cut into a chain of segments: the same bits. */
static void test_identity_neighbours(void) {
    int f, i, j;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, f, 5);
        forest *all = SCRATCH(forest, 1);
        double together[16], alone, chain;
        int32_t ids[16][64];
        for (i = 0; i < 9; i++) {
            int n = 2 + (i * 7) % 20;
            tiny_ids(ids[i], n, (uint64_t)(500 + i), TINY_VOCAB);
            (void)forest_add(all, -1, ids[i], n, i);
        }
        CHECK_OK(c, dpo_model_logps(m, &all->b, together));
        for (i = 0; i < 9; i++) {
            forest *one = SCRATCH(forest, 1), *cut = SCRATCH(forest, 1);
            int n = 2 + (i * 7) % 20, at = 0, parent = -1;
            (void)forest_add(one, -1, ids[i], n, 0);
            for (j = 0; at < n; j++) {
                int piece = 1 + (i + 3 * j) % 5;
                if (piece > n - at) piece = n - at;
                parent = forest_add(cut, parent, ids[i] + at, piece, 0);
                at += piece;
            }
            forest_sort(cut);
            CHECK_OK(c, dpo_model_logps(m, &one->b, &alone));
            CHECK_OK(c, dpo_model_logps(m, &cut->b, &chain));
            CHECK_SAME(&alone, &together[i], sizeof alone);
            CHECK_SAME(&alone, &chain, sizeof alone);
        }
        dpo_close(c);
        memfs_free(fs);
    }
}

/* ------------------------------------------------------------------ adapters */
static void test_identity_adapter_zero(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, f, 5), *merged;
        forest *x = SCRATCH(forest, 1);
        int32_t ids[20];
        float *a = SCRATCH(float, 19 * TINY_VOCAB), *b = SCRATCH(float, 19 * TINY_VOCAB);
        size_t bytes = sizeof(float) * 19 * TINY_VOCAB;
        uint64_t h = dpo_model_hash(m);
        double d = 0, s = 0;
        int i;
        tiny_ids(ids, 20, 88, TINY_VOCAB);
        (void)forest_add(x, -1, ids, 20, 0);
        CHECK_OK(c, dpo_model_logits(m, &x->b, a));
        tiny_lora(c, m, f, 3, 0, 9);
        CHECK_OK(c, dpo_model_logits(m, &x->b, b));
        CHECK_SAME(a, b, bytes);
        CHECK(dpo_lora_attach(m, NULL, 1) != DPO_OK); /* a second one */
        dpo_clear(c);
        m = tiny_model(c, fs, f, 5);
        tiny_lora(c, m, f, 3, 1, 9);
        CHECK_OK(c, dpo_model_logits(m, &x->b, b));
        CHECK(memcmp(a, b, bytes) != 0);
        CHECK(dpo_model_hash(m) == h); /* adapters are not part of it */
        merged = dpo_lora_merge(m);
        if (CHECK_OK(c, merged ? 0 : -1)) {
            CHECK(dpo_model_hash(merged) != h && dpo_lora_tensors(merged, NULL, 0) == 0);
            CHECK_OK(c, dpo_model_logits(merged, &x->b, a));
            for (i = 0; i < 19 * TINY_VOCAB; i++) {
                d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
                s += (double)b[i] * (double)b[i];
            }
            CHECK_NEAR(sqrt(d / s), 0.0, 3e-6);
        }
        CHECK_OK(c, dpo_lora_enable(m, 0));
        CHECK_OK(c, dpo_model_logits(m, &x->b, b));
        merged = tiny_model(c, fs, f, 5);
        CHECK_OK(c, dpo_model_logits(merged, &x->b, a));
        CHECK_SAME(a, b, bytes);
        dpo_close(c);
        memfs_free(fs);
        scratch_free();
    }
}

/* ------------------------------------------------------------------ one result, however it is computed */
static void same_run(const tiny_run *base, uint64_t want, const tiny_run *other, const char *how) {
    char text[160];
    uint64_t h = tiny_train(other);
    (void)snprintf(text, sizeof text, "%s %s %s %s: %s", tiny_names[base->family], base->pairs ? "dpo" : "sft",
                   base->lora ? "lora" : "full", base->precision ? "bf16" : "fp32", how);
    if (h) CHECK_CASE(h == want, text);
}
static tiny_run run_of(int family, int pairs, int lora) {
    tiny_run r;
    memset(&r, 0, sizeof r);
    r.family = family;
    r.pairs = pairs;
    r.lora = lora;
    r.simd = DPO_SIMD_AUTO;
    return r;
}
/* f(base, hash) for every family, objective and way to fine-tune */
static void each_run(void (*f)(const tiny_run *, uint64_t)) {
    int i;
    for (i = 0; i < 8 * TINY_FAMILIES; i++) {
        tiny_run r = run_of(i / 8, i & 1, i >> 1 & 1);
        r.precision = i >> 2 & 1;
        r.optimizer = i & 1 ? DPO_RMSPROP : DPO_ADAMW;
        f(&r, tiny_train(&r));
        scratch_free();
    }
}
static void vary_threads(const tiny_run *r, uint64_t want) {
    tiny_run o = *r;
    o.threads = 2;
    same_run(r, want, &o, "2 threads");
    o.threads = 5;
    same_run(r, want, &o, "5 threads");
}
static void vary_micro(const tiny_run *r, uint64_t want) {
    tiny_run o = *r;
    o.micro = 1; /* one tree at a time */
    same_run(r, want, &o, "one example per micro-batch");
    o.micro = 60;
    same_run(r, want, &o, "a few examples per micro-batch");
    o.micro = 4096;
    same_run(r, want, &o, "all at once");
}
static void vary_recompute(const tiny_run *r, uint64_t want) {
    tiny_run o = *r;
    o.recompute = 1;
    same_run(r, want, &o, "recompute");
    o.micro = 1;
    o.threads = 3;
    same_run(r, want, &o, "recompute, one example at a time, 3 threads");
}
static void vary_simd(const tiny_run *r, uint64_t want) {
    tiny_run o = *r;
    o.simd = DPO_SIMD_SCALAR;
    same_run(r, want, &o, "scalar");
    o.simd = DPO_SIMD_AVX2;
    same_run(r, want, &o, "avx2");
    o.simd = DPO_SIMD_AVX512;
    same_run(r, want, &o, "avx512");
}
static void test_same_threads(void) { each_run(vary_threads); }
static void test_same_micro_batches(void) { each_run(vary_micro); }
static void test_same_recompute(void) { each_run(vary_recompute); }
static void test_same_simd(void) { each_run(vary_simd); }
/* Runs that must differ do: the hash sees weights, seed and data. */
static void test_same_is_not_constant(void) {
    tiny_run r = run_of(0, 1, 0), o = r;
    uint64_t h = tiny_train(&r);
    o.batch = 4;
    CHECK(h == tiny_train(&r) && h != tiny_train(&o));
    o = r;
    o.steps = 2;
    CHECK(h != tiny_train(&o));
    o = r;
    o.loss = "ipo";
    CHECK(h != tiny_train(&o));
}
/* dpo_trainer_step = the same examples through the level-2 calls, for a loss worked out by hand. */
static void step_by_hand(double sft_weight, double smoothing) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *a = tiny_model(c, fs, f, 5), *b = tiny_model(c, fs, f, 5);
        dpo_data *d = tiny_data(c, 1, 0, TINY_PAIRS);
        tiny_run r = run_of(f, 1, 0);
        dpo_train_config k = tiny_config(&r);
        dpo_trainer *ta, *tb;
        dpo_metrics s;
        dpo_batch x;
        int64_t items[TINY_PAIRS], i;
        double logps[2 * TINY_PAIRS], weights[2 * TINY_PAIRS], norm, loss = 0;
        k.shuffle = 0;
        k.loss_options.sft_weight = sft_weight;
        k.loss_options.label_smoothing = smoothing;
        ta = dpo_trainer_create(a, d, &k);
        tb = dpo_trainer_create(b, d, &k);
        if (!CHECK_OK(c, ta && tb ? 0 : -1)) return;
        CHECK(dpo_model_hash(a) == dpo_model_hash(b));
        CHECK_OK(c, dpo_trainer_step(ta, &s));
        for (i = 0; i < TINY_PAIRS; i++) items[i] = i;
        CHECK_OK(c, dpo_trainer_batch(tb, items, TINY_PAIRS, &x));
        CHECK_OK(c, dpo_trainer_forward(tb, &x, logps));
        for (i = 0; i < TINY_PAIRS; i++) {
            const double *ref = dpo_reference_of(d);
            dpo_pair p = pair_of(logps[2 * i], logps[2 * i + 1], ref[2 * i], ref[2 * i + 1], 1, 1);
            loss += dpo_loss_by_name("sigmoid")(&p, &k.loss_options, &weights[2 * i], &weights[2 * i + 1]) / TINY_PAIRS;
            weights[2 * i] *= 1.0 / TINY_PAIRS;
            weights[2 * i + 1] *= 1.0 / TINY_PAIRS;
            if (sft_weight > 0) { /* the chosen answers' NLL, a mean over all their tokens */
                weights[2 * i] -= sft_weight / (double)dpo_data_report_of(d).chosen_tokens;
                loss -= sft_weight * logps[2 * i] / (double)dpo_data_report_of(d).chosen_tokens;
            }
        }
        CHECK_NEAR(s.loss, loss, 1e-12 * loss);
        CHECK_OK(c, dpo_trainer_batch(tb, items, TINY_PAIRS, &x));
        CHECK_OK(c, dpo_trainer_backward(tb, &x, weights));
        CHECK_OK(c, dpo_trainer_update(tb, &norm));
        CHECK(norm == s.grad_norm);
        CHECK(dpo_model_hash(a) == dpo_model_hash(b));
        dpo_close(c);
        memfs_free(fs);
    }
}
static void test_same_step_by_hand(void) {
    step_by_hand(0.0, 0.0);
    step_by_hand(0.3, 0.1);
}
/* Gradients of one backward call for everything = of a call for each tree, bit for bit. */
static void test_same_backward_in_pieces(void) {
    int f, i, lora;
    for (f = 0; f < 2 * TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, f / 2, 5);
        dpo_train_config k = dpo_train_defaults(DPO_SFT);
        dpo_trainer *t[2];
        dpo_tensor *g[2];
        forest *all = SCRATCH(forest, 1), *apart = SCRATCH(forest, 1);
        double weights[2 * TINY_PAIRS];
        int64_t n = 0;
        lora = f & 1;
        if (lora) tiny_lora(c, m, f / 2, 3, 1, 9);
        k.max_steps = 1;
        k.max_rows = k.max_targets = 512;
        k.max_segments = k.max_path = 64;
        for (i = 0; i < 2 * TINY_PAIRS; i++) weights[i] = rng_normal();
        for (i = 0; i < TINY_PAIRS; i++) shared_forests(all, apart, i, 2 * i);
        forest_sort(all);
        for (i = 0; i < 2; i++) {
            t[i] = dpo_trainer_create(m, NULL, &k);
            if (!CHECK_OK(c, t[i] ? 0 : -1)) return;
        }
        CHECK_OK(c, dpo_trainer_backward(t[0], &all->b, weights));
        for (i = 0; i < TINY_PAIRS; i++) {
            forest *one = SCRATCH(forest, 1);
            shared_forests(one, apart, i, 0);
            forest_sort(one);
            CHECK_OK(c, dpo_trainer_backward(t[1], &one->b, weights + 2 * i));
            memset(apart, 0, sizeof *apart);
        }
        for (i = 0; i < 2; i++) {
            n = dpo_trainer_gradients(t[i], NULL, 0);
            g[i] = SCRATCH(dpo_tensor, n);
            n = dpo_trainer_gradients(t[i], g[i], n);
        }
        for (i = 0; i < n; i++)
            CHECK_CASE(!memcmp(g[0][i].data, g[1][i].data, (size_t)tensor_count(&g[0][i]) * 4), g[0][i].name);
        dpo_close(c);
        memfs_free(fs);
        scratch_free();
    }
}
