/* test_step.h - the step the short way, under budgets of memory, in bf16 arithmetic. */

/* A trainer on a model of its own. */
typedef struct step_world {
    memfs *fs;
    dpo_context *c;
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *t;
} step_world;
static step_world step_open(const tiny_run *r) {
    step_world w;
    dpo_train_config k = tiny_config(r);
    w.fs = memfs_new();
    w.c = memfs_context(w.fs, NULL, r->threads ? r->threads : 1, r->simd);
    w.m = tiny_model(w.c, w.fs, r->family, 5);
    w.m->precision = r->precision;
    if (r->lora) tiny_lora(w.c, w.m, r->family, 3, 1, 9);
    w.d = tiny_data(w.c, r->pairs, 0, TINY_PAIRS);
    w.t = dpo_trainer_create(w.m, w.d, &k);
    CHECK_OK(w.c, w.t ? 0 : -1);
    return w;
}
static void step_close(step_world *w) {
    dpo_close(w->c);
    memfs_free(w->fs);
}

/* --- every plan that a budget can bring about, the same bits ------------------------------------------------- */
static void step_budget(const tiny_run *base) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, base->family, 5);
    dpo_model_config k = *dpo_model_config_of(m);
    dpo_data *d = tiny_data(c, base->pairs, 0, TINY_PAIRS);
    dpo_lora_config l = dpo_lora_defaults(k.family);
    tiny_run r = *base;
    dpo_plan p;
    uint64_t want = tiny_train(base), before = 0;
    int plans = 0, again = 0, twice = 0;
    l.r = 3;
    l.target_modules = tiny_targets[base->family];
    for (;;) {
        dpo_train_config t = tiny_config(&r);
        if (dpo_plan_train(c, &k, NULL, base->lora ? &l : NULL, &t, d, NULL, &p)) break;
        CHECK(!r.memory || p.total <= r.memory);
        CHECK(!before || p.total < before);
        again |= p.recompute;
        twice |= p.head_twice;
        before = r.memory = p.total;
        same_run(base, want, &r, "within a budget");
        r.memory--;
        plans++;
    }
    CHECK(dpo_status(c) == DPO_E_ARG && strstr(dpo_error(c), "the least that this takes is"));
    CHECK(plans >= 3 && again && (twice || base->lora || !base->pairs));
    dpo_clear(c);
    { /* the trainer refuses, too, and in the same words */
        dpo_train_config t = tiny_config(&r);
        if (base->lora) tiny_lora(c, m, base->family, 3, 1, 9);
        CHECK(!dpo_trainer_create(m, d, &t) && dpo_status(c) == DPO_E_ARG);
    }
    dpo_close(c);
    memfs_free(fs);
}
static void test_step_budgets(void) {
    int i;
    for (i = 0; i < 8; i++) {
        tiny_run r = run_of(i < 4 ? 0 : 3, i & 1, i >> 1 & 1);
        r.precision = i & 1;
        step_budget(&r);
        scratch_free();
    }
}

/* --- twenty steps, everything that must not matter at once ---------------------------------------------------- */
static void test_step_twenty(void) {
    static const int threads[4] = {2, 3, 5, 1};
    static const int64_t micro[4] = {1, 40, 4096, 60};
    static const int simd[4] = {DPO_SIMD_SCALAR, DPO_SIMD_AVX2, DPO_SIMD_AVX512, DPO_SIMD_AUTO};
    int i, k;
    for (i = 0; i < 16; i++) {
        tiny_run base = run_of(i & 8 ? 1 : 0, i & 1, i >> 1 & 1), r;
        uint64_t want;
        base.precision = i >> 2 & 1;
        base.steps = 20;
        base.batch = 5;
        base.optimizer = DPO_ADAMW;
        want = tiny_train(&base);
        for (k = 0; k < 4; k++) {
            r = base;
            r.threads = threads[k];
            r.micro = micro[k];
            r.simd = simd[k];
            r.recompute = k & 1;
            same_run(&base, want, &r, "twenty steps");
        }
        scratch_free();
    }
}

/* --- the naive way: log-probs the same bits, gradients but for rounding ---------------------------------------- */
static void step_gradients(step_world *w) {
    int64_t items[TINY_PAIRS], i;
    for (i = 0; i < TINY_PAIRS; i++) items[i] = i;
    w->t->env = dpo__fp_enter();
    CHECK_OK(w->c, dpo__trainer_pass(w->t, items, TINY_PAIRS, 1));
    dpo__trainer_tie(w->t);
    dpo__fp_leave(w->t->env);
}
static void step_naive(const tiny_run *base) {
    tiny_run naive = *base;
    step_world a = step_open(base), b;
    int64_t i, e;
    char text[128];
    naive.naive = 1;
    b = step_open(&naive);
    (void)snprintf(text, sizeof text, "%s %s %s precision %d", tiny_names[base->family], base->pairs ? "dpo" : "sft",
                   base->lora ? "lora" : "full", base->precision);
    step_gradients(&a);
    step_gradients(&b);
    CHECK_CASE(!memcmp(&a.t->sum, &b.t->sum, sizeof a.t->sum) && a.t->loss_sum == b.t->loss_sum, text);
    for (i = 0; i < a.t->n_trained; i++) {
        double worst = 0, size = 0;
        for (e = 0; e < a.t->trained[i]->count; e++) {
            double x = (double)a.t->grad[i][e], y = (double)b.t->grad[i][e];
            size = fmax(size, fabs(x));
            worst = fmax(worst, fabs(x - y));
        }
        CHECK_CASE(worst <= (base->precision ? 3e-2 : 2e-5) * size + 1e-7, text);
    }
    step_close(&a);
    step_close(&b);
}
static void test_step_naive(void) {
    int i;
    for (i = 0; i < 8 * TINY_FAMILIES; i++) {
        tiny_run r = run_of(i / 8, i & 1, i >> 1 & 1);
        r.precision = i >> 2 & 1;
        step_naive(&r);
        scratch_free();
    }
}

/* --- mixed precision: near fp32, and not it --------------------------------------------------------------------- */
static void test_step_mixed(void) {
    int i, s;
    for (i = 0; i < 4 * TINY_FAMILIES; i++) {
        tiny_run r = run_of(i / 4, i & 1, i >> 1 & 1);
        step_world a, b;
        double worst = 0, apart = 0;
        r.steps = 20;
        a = step_open(&r);
        r.precision = DPO_PRECISION_MIXED;
        b = step_open(&r);
        for (s = 0; s < 20; s++) {
            dpo_metrics x, y;
            CHECK_OK(a.c, dpo_trainer_step(a.t, &x));
            CHECK_OK(b.c, dpo_trainer_step(b.t, &y));
            worst = fmax(worst, fabs(x.loss - y.loss) / fmax(fabs(x.loss), 0.5)); /* it falls from 5 to 0.04 */
            apart = fmax(apart, fabs(x.loss - y.loss));
        }
        CHECK_CASE(worst < 0.02 && apart > 0, tiny_names[r.family]);
        step_close(&a);
        step_close(&b);
        scratch_free();
    }
}

/* --- corners --------------------------------------------------------------------------------------------------- */

/* Pairs whose targets are more than a tile of logits has rows, evaluated by every kind of head. */
static void test_step_long_pairs(void) {
    int kind;
    for (kind = 0; kind < 4; kind++) { /* bit 0: adapters; bit 1: within the least memory */
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 2, 0);
        dpo_model *m = tiny_model(c, fs, 0, 5);
        tiny_run r = run_of(0, 1, kind & 1);
        dpo_train_config k = tiny_config(&r);
        dpo_data_options o = dpo_data_defaults();
        dpo_model_config config = *dpo_model_config_of(m);
        dpo_lora_config l = dpo_lora_defaults(config.family);
        dpo_data *d;
        dpo_trainer *t;
        dpo_metrics before, step;
        dpo_plan p;
        int32_t ids[512];
        int i;
        o.max_length = 1024;
        d = dpo_data_create(c, dpo_tokenizer_bytes(c), &o);
        tiny_ids(ids, 512, 3, TINY_VOCAB);
        for (i = 0; i < 2; i++) CHECK_OK(c, dpo_data_add_tokens(d, ids, 3 + i, ids + 10, 190, ids + 205, 170 + i));
        k.batch_size = 2;
        l.r = 3;
        l.target_modules = tiny_targets[0];
        while (kind & 2 && !dpo_plan_train(c, &config, NULL, kind & 1 ? &l : NULL, &k, d, NULL, &p))
            k.memory = p.total - 1;
        dpo_clear(c);
        if (kind & 2) k.memory++;
        if (kind & 1) tiny_lora(c, m, 0, 3, 1, 9);
        t = dpo_trainer_create(m, d, &k);
        if (CHECK_OK(c, t ? 0 : -1)) {
            CHECK_OK(c, dpo_trainer_evaluate(t, d, &before));
            CHECK_OK(c, dpo_trainer_step(t, &step));
            CHECK(before.logps_chosen == step.logps_chosen && before.rewards_margins == step.rewards_margins);
        }
        dpo_close(c);
        memfs_free(fs);
    }
}
/* A vocabulary of several blocks of columns, packed and not. */
static void test_step_packed_blocks(void) {
    int precision;
    for (precision = 0; precision < 3; precision++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 2, 0);
        dpo_model_config k = *dpo_model_config_of(tiny_model(c, fs, 0, 5));
        dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
        dpo_model *m;
        forest *f = SCRATCH(forest, 1);
        int32_t ids[64];
        double plain[2], packed[2];
        k.vocab_size = 9001;
        how.precision = precision;
        how.frozen = 0;
        m = dpo_model_copy(dpo_model_create(c, &k, 3), &how);
        tiny_ids(ids, 64, 4, 9001);
        forest_sequence(f, ids, 3, ids + 10, 20, 0);
        forest_sequence(f, ids + 30, 2, ids + 40, 20, 1);
        CHECK_OK(c, dpo_model_logps(m, &f->b, plain));
        CHECK_OK(c, dpo_model_pack(m));
        CHECK_OK(c, dpo_model_logps(m, &f->b, packed));
        CHECK(plain[0] < 0 && plain[0] == packed[0] && plain[1] == packed[1]);
        dpo_close(c);
        memfs_free(fs);
    }
}
/* bf16 weights learn whatever the arithmetic; options that are only true or false take any true value. */
static void test_step_bf16_moves(void) {
    int precision, lost = 0;
    for (precision = 0; precision < 3; precision++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 2, 0);
        tiny_run r = run_of(0, 1, 0);
        dpo_train_config k = tiny_config(&r);
        dpo_load_config how = {DPO_PRECISION_BF16, 0, 0, 0};
        dpo_model *m = dpo_model_copy(tiny_model(c, fs, 0, 5), &how);
        dpo_tensor *v;
        dpo_trainer *t;
        uint16_t *old[64];
        int64_t n = tiny_tensors(m, 0, &v), i;
        k.recompute = 7;
        k.learning_rate = 1e-2;
        CHECK_OK(c, dpo_model_set_precision(m, precision));
        for (i = 0; i < n; i++)
            if (v[i].dtype == DPO_BF16) {
                old[i] = SCRATCH(uint16_t, tensor_count(&v[i]));
                memcpy(old[i], v[i].data, (size_t)tensor_count(&v[i]) * 2);
            }
        t = dpo_trainer_create(m, tiny_data(c, 1, 0, TINY_PAIRS), &k);
        if (CHECK_OK(c, t ? 0 : -1)) CHECK_OK(c, dpo_trainer_step(t, NULL));
        for (i = 0; i < n; i++)
            if (v[i].dtype == DPO_BF16) lost += !memcmp(old[i], v[i].data, (size_t)tensor_count(&v[i]) * 2);
        if (t && precision == DPO_PRECISION_BF16) {
            CHECK_OK(c, dpo_model_set_precision(m, DPO_PRECISION_FP32));
            CHECK(dpo_trainer_step(t, NULL) == DPO_E_STATE); /* its workspace is for the other one */
        }
        dpo_close(c);
        memfs_free(fs);
    }
    CHECK(lost == 0);
}
/* A naive trainer's batches are ordinary ones; batches of the caller's do not overflow a step's tables. */
static void test_step_batches(void) {
    tiny_run r = run_of(4, 1, 0); /* a tied matrix */
    step_world w;
    dpo_batch b;
    forest *f = SCRATCH(forest, 1);
    int64_t items[2] = {0, 1};
    int32_t ids[64];
    double logps[4], weights[2] = {0.5, -0.5};
    int i, code = 0;
    r.naive = 1;
    w = step_open(&r);
    CHECK_OK(w.c, dpo_trainer_batch(w.t, items, 2, &b));
    CHECK_OK(w.c, dpo_trainer_forward(w.t, &b, logps));
    step_close(&w);
    r.naive = 0;
    r.batch = 1;
    w = step_open(&r);
    for (i = 0; !code && i + 1 < TINY_VOCAB; i++) { /* one more token each time, until there is no room */
        memset(f, 0, sizeof *f);
        ids[0] = i;
        ids[1] = i + 1;
        forest_sequence(f, ids, 1, ids + 1, 1, 0);
        code = dpo_trainer_backward(w.t, &f->b, weights);
    }
    CHECK(code == DPO_E_SHAPE && i > 10);
    dpo_clear(w.c);
    CHECK(dpo_trainer_step(w.t, NULL) == DPO_E_SHAPE); /* its own tokens find none either */
    dpo_clear(w.c);
    CHECK_OK(w.c, dpo_trainer_zero(w.t));
    CHECK_OK(w.c, dpo_trainer_step(w.t, NULL));
    step_close(&w);
}
