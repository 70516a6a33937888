/* test_memory.h - memory, faults, numbers that are none, the caller's floating-point state, two contexts
   at once, files written and read back. */
#include <fenv.h>
#include <pthread.h>

/* A training run whose whole environment is counted. */
typedef struct world {
    memfs *fs;
    heap h;
    dpo_context *c;
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *t;
} world;

static int world_open(world *w, const tiny_run *r) {
    dpo_train_config k = tiny_config(r);
    memset(w, 0, sizeof *w);
    w->fs = memfs_new();
    w->c = memfs_context(w->fs, &w->h, r->threads ? r->threads : 1, r->simd);
    if (!CHECK(w->c != NULL)) return 0;
    w->m = tiny_model(w->c, w->fs, r->family, 5);
    if (w->m && r->lora) tiny_lora(w->c, w->m, r->family, 3, 1, 9);
    w->d = tiny_data(w->c, r->pairs, 0, TINY_PAIRS);
    w->t = w->m && w->d ? dpo_trainer_create(w->m, w->d, &k) : NULL;
    return CHECK_OK(w->c, w->t ? 0 : -1);
}
static void world_close(world *w) {
    dpo_close(w->c);
    CHECK(w->h.live == 0 && w->h.bytes == 0); /* dpo_close returns every block, with its size */
    CHECK(w->fs->handles == 0);
    memfs_free(w->fs);
}

static void test_memory_step_allocates_nothing(void) {
    int i, s;
    for (i = 0; i < 4 * TINY_FAMILIES; i++) {
        tiny_run r = run_of(i / 4, i & 1, i >> 1 & 1);
        world w;
        r.threads = 1 + i % 3;
        r.recompute = i % 5 == 0;
        r.micro = i % 4 == 1 ? 1 : 0;
        if (world_open(&w, &r)) {
            int64_t calls = w.h.calls, live = w.h.live;
            for (s = 0; s < 3; s++) CHECK_OK(w.c, dpo_trainer_step(w.t, NULL));
            {
                char text[96];
                (void)snprintf(text, sizeof text, "%s %s %s: %ld blocks were asked for", tiny_names[r.family],
                               r.pairs ? "dpo" : "sft", r.lora ? "lora" : "full", (long)(w.h.calls - calls));
                CHECK_CASE(w.h.calls == calls && w.h.live == live, text);
            }
        }
        world_close(&w);
    }
}
/* Objects freed early give their blocks back, too. */
static void test_memory_free_early(void) {
    tiny_run r = run_of(0, 1, 1);
    world w;
    int64_t before;
    dpo_tensor *t;
    int64_t n;
    if (world_open(&w, &r)) {
        const dpo_tokenizer *tokenizer = dpo_tokenizer_bytes(w.c);
        dpo_model *m;
        dpo_data *d;
        before = w.h.live;
        m = dpo_lora_merge(w.m);
        d = dpo_data_create(w.c, tokenizer, NULL);
        CHECK_OK(w.c, dpo_data_add(d, "a", 1, "b", 1, "c", 1));
        CHECK(m && d && w.h.live > before);
        dpo_model_free(m);
        dpo_data_free(d);
        CHECK(w.h.live == before);
        CHECK_OK(w.c, dpo_model_save(w.m, "early", DPO_F32));
        CHECK_OK(w.c, dpo_tensors_load(w.c, "early/model.safetensors", &t, &n));
        dpo_tensors_free(w.c, t);
        CHECK(w.h.live == before);
        dpo_trainer_free(w.t);
        dpo_data_free(w.d);
        dpo_model_free(w.m);
        CHECK(w.h.live < before);
        dpo_trainer_free(NULL);
        dpo_data_free(NULL);
        dpo_model_free(NULL);
        dpo_tensors_free(w.c, NULL);
    }
    world_close(&w);
    dpo_close(NULL);
}

/* ------------------------------------------------------------------ the plan */
#define BLOCK ((int64_t)(DPO__BLOCK_HEADER + DPO__ALIGN)) /* what a block costs beside its bytes */
static void plan_case(int family, int lora, int optimizer, int recompute) {
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c;
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *t;
    dpo_plan p;
    dpo_lora_config l;
    dpo_model_config k;
    dpo_train_config tc;
    tiny_run r = run_of(family, 0, lora);
    int64_t at, pack;
    char text[2048], name[64];
    (void)snprintf(name, sizeof name, "%s lora %d optimizer %d recompute %d", tiny_names[family], lora, optimizer,
                   recompute);
    memset(&h, 0, sizeof h);
    r.optimizer = optimizer;
    r.recompute = recompute;
    tc = tiny_config(&r);
    c = memfs_context(fs, &h, 2, 0);
    pack = (int64_t)c->pack_bytes;
    m = tiny_model(c, fs, family, 5);
    k = *dpo_model_config_of(m);
    dpo_model_free(m);
    l = dpo_lora_defaults(k.family);
    l.r = 3;
    l.target_modules = tiny_targets[family];
    d = tiny_data(c, 0, 0, TINY_PAIRS);
    at = h.live;
    if (CHECK_OK(c, dpo_plan_train(c, &k, NULL, lora ? &l : NULL, &tc, d, NULL, &p))) {
        int64_t rest = (int64_t)(p.gradients + p.optimizer + p.activations + p.logits + p.scratch) - pack;
        CHECK(h.live == at); /* nothing of the plan is kept */
        CHECK(dpo_plan_text(&p, text, sizeof text) < sizeof text && strstr(text, "weights"));
        CHECK(p.total ==
              p.weights + p.adapters + p.gradients + p.optimizer + p.activations + p.logits + p.scratch + p.data);
        at = h.bytes;
        m = dpo_model_create(c, &k, 5);
        if (!CHECK_OK(c, m ? 0 : -1)) return;
        CHECK_CASE(h.bytes - at == (int64_t)p.weights + BLOCK, name);
        at = h.bytes;
        if (lora) {
            CHECK_OK(c, dpo_lora_attach(m, &l, 3));
            CHECK_CASE(h.bytes - at == (int64_t)p.adapters + BLOCK, name);
        } else CHECK(p.adapters == 0);
        at = h.bytes;
        t = dpo_trainer_create(m, d, &tc);
        CHECK_CASE(t && h.bytes - at == rest + BLOCK, name);
        CHECK_CASE(h.peak <= (int64_t)p.total + 65536 && h.peak + 65536 >= (int64_t)p.total, name);
        CHECK(p.steps == dpo_trainer_steps(t) && p.examples == TINY_PAIRS && p.flops_per_example > 1e4);
        CHECK(p.trainable_parameters > 0 &&
              (lora ? p.trainable_parameters < p.parameters : p.trainable_parameters == p.parameters));
    }
    dpo_close(c);
    CHECK(h.live == 0);
    memfs_free(fs);
}
static void test_memory_plan(void) {
    int i;
    for (i = 0; i < 8 * TINY_FAMILIES; i++) plan_case(i / 8, i & 1, i & 2 ? DPO_ADAMW : DPO_RMSPROP, i >> 2 & 1);
}

/* ------------------------------------------------------------------ faults */
/* Everything a program does: load, data, train, evaluate, generate, save. A code, and the bits if it went well. */
static int scenario(memfs *fs, heap *h, int threads, uint64_t *bits) {
    dpo_context *c = memfs_context(fs, h, threads, 0);
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *t = NULL;
    tiny_run r = run_of(0, 1, 1);
    dpo_train_config k = tiny_config(&r);
    dpo_metrics s;
    dpo_lora_config l = dpo_lora_defaults(DPO_GPT_NEOX);
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[4] = {1, 2, 3, 4}, out[4];
    const int32_t *prompt = ids;
    int64_t n = 4, made = 0;
    int code;
    *bits = 0;
    if (!c) return DPO_E_MEMORY;
    l.r = 2;
    g.max_new_tokens = 4;
    g.eos = -1;
    m = dpo_model_load(c, "in");
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    if (m && d) (void)dpo_data_read(d, "rows.jsonl");
    if (m && d) (void)dpo_reference_compute(m, d);
    if (m) (void)dpo_lora_attach(m, &l, 3);
    if (m && d && !dpo_status(c)) t = dpo_trainer_create(m, d, &k);
    if (t) {
        (void)dpo_trainer_step(t, &s);
        (void)dpo_trainer_step(t, &s);
        (void)dpo_trainer_evaluate(t, d, &s);
    }
    if (m && !dpo_status(c)) {
        (void)dpo_generate(m, &prompt, &n, 1, &g, out, &made);
        (void)dpo_lora_save(m, "adapter", NULL);
        m = dpo_lora_merge(m);
        if (m) (void)dpo_model_save(m, "out", DPO_BF16);
    }
    code = dpo_status(c);
    if (!code) *bits = hash_bytes(dpo_model_hash(m), &s.loss, sizeof s.loss);
    else CHECK(strlen(dpo_error(c)) > 10);
    dpo_close(c);
    CHECK(fs->handles == 0);
    return code;
}
/* A directory with a NeoX of 257 ids, and rows of text. */
static memfs *scenario_files(void) {
    memfs *fs = memfs_new();
    dpo_context *c;
    dpo_model *m;
    memfs_text(fs, "in.json",
               "{\"model_type\":\"gpt_neox\",\"vocab_size\":257,\"hidden_size\":8,\"num_hidden_layers\":1,"
               "\"num_attention_heads\":2,\"intermediate_size\":12,\"max_position_embeddings\":64,\"rotary_pct\":0.5}");
    memfs_text(fs, "rows.jsonl",
               "{\"prompt\":\"ab\",\"chosen\":\"cde\",\"rejected\":\"fg\"}\n"
               "{\"prompt\":\"x\",\"chosen\":\"y\",\"rejected\":\"zz\"}\n");
    c = memfs_context(fs, NULL, 1, 0);
    m = dpo_model_create_from(c, "in.json", 3);
    if (CHECK_OK(c, m ? 0 : -1)) CHECK_OK(c, dpo_model_save(m, "in", DPO_F32));
    dpo_close(c);
    return fs;
}
/* What lies under a final name is whole: each file on its own, and both together. */
static int whole_or_nothing(memfs *fs) {
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    int w = memfs_find(fs, "out/model.safetensors") != NULL, k = memfs_find(fs, "out/config.json") != NULL, ok = 1;
    dpo_model_config config;
    dpo_tensor *t;
    int64_t n;
    if (w) ok = !dpo_tensors_load(c, "out/model.safetensors", &t, &n);
    if (k) ok = ok && !dpo_model_config_read(c, "out/config.json", &config);
    if (w && k) ok = ok && dpo_model_load(c, "out") != NULL;
    w = memfs_find(fs, "adapter/adapter_model.safetensors") != NULL;
    if (w) ok = ok && !dpo_tensors_load(c, "adapter/adapter_model.safetensors", &t, &n);
    if (w && memfs_find(fs, "adapter/adapter_config.json")) {
        dpo_model *m = dpo_model_load(c, "in");
        ok = ok && m && !dpo_lora_load(m, "adapter");
    }
    if (!ok) printf("  %s\n", dpo_error(c));
    dpo_close(c);
    return ok;
}
static void forget_output(memfs *fs) {
    static const char *const names[4] = {"out/model.safetensors", "out/config.json",
                                         "adapter/adapter_model.safetensors", "adapter/adapter_config.json"};
    int i;
    for (i = 0; i < 4; i++)
        if (memfs_find(fs, names[i])) memfs_drop(memfs_find(fs, names[i]));
}
static void allocation_faults(int transient, int threads) {
    memfs *fs = scenario_files();
    heap h;
    uint64_t bits, want;
    int64_t k, calls;
    memset(&h, 0, sizeof h);
    CHECK(scenario(fs, &h, threads, &want) == DPO_OK);
    calls = h.calls;
    CHECK(calls > 20 && h.live == 0);
    for (k = 1; k <= calls + 1; k++) {
        char text[64];
        int r;
        memset(&h, 0, sizeof h);
        h.fail_at = k;
        h.transient = transient;
        forget_output(fs);
        r = scenario(fs, &h, threads, &bits);
        (void)snprintf(text, sizeof text, "allocation %ld of %ld", (long)k, (long)calls);
        CHECK_CASE(k > calls ? r == DPO_OK && bits == want : r == DPO_E_MEMORY || (transient && !r && bits == want),
                   text);
        CHECK_CASE(h.live == 0 && h.bytes == 0, text);
        CHECK_CASE(memfs_count(fs, ".tmp") == 0, text);
        CHECK_CASE(whole_or_nothing(fs), text);
    }
    memfs_free(fs);
}
static void test_fault_allocation(void) {
    allocation_faults(0, 1);
    allocation_faults(1, 1);
    allocation_faults(0, 3);
}
/* Every file operation fails, once or from then on. Afterwards the old file is there, whole, or the new. */
static void test_fault_files(void) {
    static const int codes[2] = {MEMFS_EIO, MEMFS_ENOSPC};
    memfs *fs = scenario_files();
    heap h;
    uint64_t bits, want;
    int64_t ops, k;
    int mode;
    memset(&h, 0, sizeof h);
    CHECK(scenario(fs, &h, 1, &want) == DPO_OK);
    fs->ops = 0;
    CHECK(scenario(fs, &h, 1, &want) == DPO_OK); /* over files that are there */
    ops = fs->ops;
    CHECK(ops > 30);
    for (mode = 0; mode < 4; mode++)
        for (k = 1; k <= ops; k++) {
            char text[64];
            int r;
            if (mode & 1) forget_output(fs);
            fs->ops = 0;
            fs->fail_at = k;
            fs->transient = mode & 1;
            fs->fail_code = codes[mode >> 1];
            r = scenario(fs, &h, 1, &bits);
            fs->fail_at = 0;
            (void)snprintf(text, sizeof text, "operation %ld of %ld, mode %d", (long)k, (long)ops, mode);
            /* what makes things last (sync_dir) and closing a file that was read may fail silently */
            CHECK_CASE(r == DPO_E_IO || (r == DPO_OK && bits == want), text);
            CHECK_CASE(h.live == 0, text);
            CHECK_CASE(memfs_count(fs, ".tmp") == 0, text);
            CHECK_CASE(whole_or_nothing(fs), text);
        }
    memfs_free(fs);
}

/* ------------------------------------------------------------------ numbers that are none */
static void nonfinite_case(float bad, int lora, int pairs) {
    tiny_run r = run_of(3, pairs, lora);
    world w;
    dpo_tensor *t;
    int64_t n, i;
    float keep, *x;
    uint64_t before;
    if (!world_open(&w, &r)) return;
    CHECK_OK(w.c, dpo_trainer_step(w.t, NULL));
    n = tiny_tensors(w.m, 0, &t);
    for (i = 0; i < n && !strstr(t[i].name, "layers.1.mlp.up_proj.weight"); i++) {
    }
    if (!CHECK(i < n)) return;
    x = (float *)t[i].data;
    keep = x[7];
    x[7] = bad;
    before = tiny_hash(w.m, 1);
    CHECK(dpo_trainer_step(w.t, NULL) == DPO_E_NONFINITE);
    CHECK(strlen(dpo_error(w.c)) > 20);
    CHECK(tiny_hash(w.m, 1) == before);                    /* not one bit */
    CHECK(dpo_trainer_step(w.t, NULL) == DPO_E_NONFINITE); /* the error stays until it is cleared */
    dpo_clear(w.c);
    x[7] = keep;
    CHECK_OK(w.c, dpo_trainer_step(w.t, NULL)); /* and nothing of it is left */
    CHECK(tiny_hash(w.m, 1) != before);
    world_close(&w);
}
static void test_nonfinite(void) {
    int i;
    for (i = 0; i < 4; i++) {
        nonfinite_case((float)NAN, i & 1, i >> 1);
        nonfinite_case((float)INFINITY, i & 1, i >> 1);
    }
}
/* After a bad step the run goes on as if it had not been tried. */
static void test_nonfinite_leaves_nothing(void) {
    tiny_run r = run_of(2, 0, 0);
    world a, b;
    dpo_tensor *t;
    float keep;
    int i;
    if (!world_open(&a, &r) || !world_open(&b, &r)) return;
    (void)tiny_tensors(b.m, 0, &t);
    keep = ((float *)t[0].data)[5 * 24];
    ((float *)t[0].data)[5 * 24] = (float)NAN; /* the embedding is the head, too: every loss is NaN */
    CHECK(dpo_trainer_step(b.t, NULL) == DPO_E_NONFINITE);
    dpo_clear(b.c);
    ((float *)t[0].data)[5 * 24] = keep;
    for (i = 0; i < 3; i++) {
        CHECK_OK(a.c, dpo_trainer_step(a.t, NULL));
        CHECK_OK(b.c, dpo_trainer_step(b.t, NULL));
    }
    CHECK(tiny_hash(a.m, 1) == tiny_hash(b.m, 1));
    world_close(&a);
    world_close(&b);
}
/* NaN in the caller's own derivatives; zero() drops what was added. */
static void test_nonfinite_weights(void) {
    tiny_run r = run_of(0, 1, 0);
    world w;
    dpo_batch b;
    int64_t items[2] = {0, 1};
    double bad[4] = {0.5, -0.5, NAN, 0.1}, good[4] = {0.5, -0.5, 0.25, 0.1}, norm;
    if (!world_open(&w, &r)) return;
    CHECK_OK(w.c, dpo_trainer_batch(w.t, items, 2, &b));
    CHECK(dpo_trainer_backward(w.t, &b, bad) == DPO_E_NONFINITE);
    dpo_clear(w.c);
    CHECK_OK(w.c, dpo_trainer_batch(w.t, items, 2, &b));
    CHECK_OK(w.c, dpo_trainer_backward(w.t, &b, good));
    CHECK_OK(w.c, dpo_trainer_zero(w.t));
    CHECK_OK(w.c, dpo_trainer_update(w.t, &norm));
    CHECK(norm == 0.0);
    world_close(&w);
}

/* A loss that is finite, and gradients that are not. */
static void test_nonfinite_gradients(void) {
    int lora;
    for (lora = 0; lora < 2; lora++) {
        tiny_run r = run_of(4, 1, lora);
        world w;
        dpo_batch b;
        int64_t items[2] = {0, 1};
        double huge[4] = {1e300, -1e300, 0.25, 0.1}, norm = 0;
        uint64_t before;
        if (!world_open(&w, &r)) return;
        before = tiny_hash(w.m, 1);
        CHECK_OK(w.c, dpo_trainer_batch(w.t, items, 2, &b));
        CHECK_OK(w.c, dpo_trainer_backward(w.t, &b, huge));
        CHECK(dpo_trainer_update(w.t, &norm) == DPO_E_NONFINITE && strstr(dpo_error(w.c), "gradient"));
        CHECK(tiny_hash(w.m, 1) == before);
        dpo_clear(w.c);
        CHECK_OK(w.c, dpo_trainer_step(w.t, NULL)); /* the bad gradients are gone */
        world_close(&w);
    }
}

/* ------------------------------------------------------------------ the caller's floating-point state */
#if defined(__SSE2__)
static unsigned fp_state(void) { return __builtin_ia32_stmxcsr() & 0xffc0u; }
#else
static unsigned fp_state(void) { return (unsigned)fegetround(); }
#endif
static unsigned hook_state; /* of the last hook */
static int hook_calls;
static void note_log(void *user, int level, const char *line) {
    (void)user;
    (void)level;
    (void)line;
    hook_state = fp_state();
    hook_calls++;
}
static int note_cancel(void *user) {
    (void)user;
    hook_state = fp_state();
    hook_calls++;
    return 0;
}
static double note_loss(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    hook_state = fp_state();
    hook_calls++;
    return dpo_loss_by_name("sigmoid")(p, o, dc, dr);
}
static uint64_t fp_run(int rounding, dpo_pair_loss loss) {
    memfs *fs = memfs_new();
    dpo_desc desc;
    dpo_context *c;
    dpo_model *m;
    dpo_data *d;
    dpo_train_config k;
    tiny_run r = run_of(1, 1, 0);
    unsigned mine;
    uint64_t h;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 2;
    desc.io = &fs->io;
    desc.log = note_log;
    desc.cancel = note_cancel;
    k = tiny_config(&r);
    k.micro_rows = 1;
    k.loss = loss;
    c = dpo_open(&desc);
    m = tiny_model(c, fs, r.family, 5);
    d = tiny_data(c, 1, 0, TINY_PAIRS);
    (void)fesetround(rounding);
    mine = fp_state();
    hook_calls = 0;
    CHECK_OK(c, dpo_train(m, d, d, &k));
    CHECK(fp_state() == mine);
    CHECK(hook_calls > 10 && hook_state == mine);
    (void)fesetround(FE_TONEAREST);
    h = tiny_hash(m, 1);
    dpo_close(c);
    memfs_free(fs);
    return h;
}
static void test_fp_environment(void) {
    uint64_t want = fp_run(FE_TONEAREST, NULL);
    CHECK(fp_run(FE_TONEAREST, note_loss) == want);
#ifdef FE_UPWARD
    CHECK(fp_run(FE_UPWARD, NULL) == want);
#endif
#ifdef FE_TOWARDZERO
    CHECK(fp_run(FE_TOWARDZERO, NULL) == want);
#endif
}

/* ------------------------------------------------------------------ two contexts at once */
typedef struct both {
    tiny_run r;
    uint64_t want, got;
} both;
/* No CHECKs in here: they are not for two threads. */
static void *both_main(void *arg) {
    both *b = (both *)arg;
    int i;
    for (i = 0; i < 3; i++) {
        dpo_context *c = dpo_open(NULL);
        dpo__gemm g;
        float a[64], x[64], y[64];
        int k;
        for (k = 0; k < 64; k++) a[k] = x[k] = (float)k;
        g = dpo__gemm_of(8, 8, 8, a, 8, 1, x, 8, 1, y, 8);
        for (k = 0; k < 200; k++) dpo__gemm_run(c, &g);
        b->got = hash_bytes(b->r.family ? 5 : 1, y, sizeof y);
        dpo_close(c);
    }
    return NULL;
}
typedef struct stage {
    dpo_trainer *t;
    dpo_result r;
} stage;
static void *stage_main(void *arg) {
    stage *s = (stage *)arg;
    while (!s->r && !dpo_trainer_done(s->t)) s->r = dpo_trainer_step(s->t, NULL);
    return NULL;
}
static void test_two_contexts(void) {
    tiny_run r[2];
    uint64_t want[2];
    world w[2];
    stage s[2];
    pthread_t id[2];
    both b[2];
    int i;
    memset(b, 0, sizeof b);
    for (i = 0; i < 2; i++) {
        r[i] = run_of(i ? 2 : 0, i, 0);
        r[i].threads = 2;
        r[i].steps = 6;
        if (!world_open(&w[i], &r[i])) return;
        while (!dpo_trainer_done(w[i].t)) CHECK_OK(w[i].c, dpo_trainer_step(w[i].t, NULL));
        want[i] = tiny_hash(w[i].m, 1);
        world_close(&w[i]);
    }
    for (i = 0; i < 2; i++) {
        if (!world_open(&w[i], &r[i])) return;
        s[i].t = w[i].t;
        s[i].r = DPO_OK;
    }
    for (i = 0; i < 2; i++) CHECK(!pthread_create(&id[i], NULL, stage_main, &s[i]));
    for (i = 0; i < 2; i++) (void)pthread_join(id[i], NULL);
    for (i = 0; i < 2; i++) {
        CHECK(s[i].r == DPO_OK && tiny_hash(w[i].m, 1) == want[i]);
        world_close(&w[i]);
    }
    for (i = 0; i < 2; i++) { /* opening and closing at once */
        b[i].r.family = 0;
        CHECK(!pthread_create(&id[i], NULL, both_main, &b[i]));
    }
    for (i = 0; i < 2; i++) (void)pthread_join(id[i], NULL);
    CHECK(b[0].got == b[1].got && b[0].got != 0);
}

/* ------------------------------------------------------------------ cancelling */
static int cancel_after;
static int cancel_count(void *user) {
    (void)user;
    return cancel_after-- <= 0;
}
static void test_cancel(void) {
    tiny_run r = run_of(0, 1, 0);
    uint64_t want = tiny_train(&r), h = 0xcbf29ce484222325u;
    memfs *fs = memfs_new();
    dpo_desc desc;
    dpo_context *c;
    dpo_model *m;
    dpo_data *d;
    dpo_train_config k = tiny_config(&r);
    dpo_trainer *t;
    int cancelled = 0, step = 0;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    desc.io = &fs->io;
    desc.cancel = cancel_count;
    k.micro_rows = 1;
    c = dpo_open(&desc);
    m = tiny_model(c, fs, 0, 5);
    d = tiny_data(c, 1, 0, TINY_PAIRS);
    cancel_after = 1000;
    t = dpo_trainer_create(m, d, &k);
    if (!CHECK_OK(c, t ? 0 : -1)) return;
    while (!dpo_trainer_done(t) && cancelled < 50) {
        dpo_metrics s;
        uint64_t before = tiny_hash(m, 1);
        dpo_result e;
        memset(&s, 0, sizeof s);
        cancel_after = cancelled % 7 + (cancelled > 8 ? 100 : 0);
        e = dpo_trainer_step(t, &s);
        if (e) {
            CHECK(e == DPO_E_CANCELLED && tiny_hash(m, 1) == before);
            dpo_clear(c);
            cancelled++;
            continue;
        }
        step++;
        h = hash_bytes(h, &s.loss, sizeof s.loss);
        h = hash_bytes(h, &s.grad_norm, sizeof s.grad_norm);
        h = hash_bytes(h, &s.rewards_margins, sizeof s.rewards_margins);
    }
    CHECK(step == 3 && cancelled > 3);
    CHECK(tiny_hash(m, h) == want);
    dpo_close(c);
    memfs_free(fs);
}

/* ------------------------------------------------------------------ files */
static void test_files_model_round_trip(void) {
    static const int types[3] = {DPO_F32, DPO_BF16, DPO_F16};
    int f, k;
    for (f = 0; f < TINY_FAMILIES; f++)
        for (k = 0; k < 3; k++) {
            memfs *fs = memfs_new();
            dpo_context *c = memfs_context(fs, NULL, 1, 0);
            dpo_model *m = tiny_model(c, fs, f, 5), *back, *twice;
            CHECK_OK(c, dpo_model_save(m, "dir", types[k]));
            CHECK(fs->unsynced == 0 && fs->renamed == 0); /* synced before the rename, the directory after it */
            CHECK(memfs_count(fs, ".tmp") == 0 && memfs_find(fs, "dir/config.json") &&
                  memfs_find(fs, "dir/model.safetensors"));
            back = dpo_model_load(c, "dir");
            if (CHECK_OK(c, back ? 0 : -1)) {
                CHECK((dpo_model_hash(back) == dpo_model_hash(m)) == (k == 0));
                CHECK_OK(c, dpo_model_save(back, "dir2", types[k]));
                twice = dpo_model_load(c, "dir2");
                CHECK(twice && dpo_model_hash(twice) == dpo_model_hash(back));
                CHECK(memcmp(dpo_model_config_of(back), dpo_model_config_of(m), sizeof(dpo_model_config)) == 0);
            }
            dpo_close(c);
            memfs_free(fs);
        }
}
static void test_files_adapter_round_trip(void) {
    int f;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *a = tiny_model(c, fs, f, 5), *b = tiny_model(c, fs, f, 5);
        tiny_lora(c, a, f, 3, 1, 9);
        CHECK_OK(c, dpo_lora_save(a, "adapter", "base/model"));
        CHECK_OK(c, dpo_lora_load(b, "adapter"));
        CHECK(tiny_hash(a, 1) == tiny_hash(b, 1) && dpo_lora_tensors(b, NULL, 0) == dpo_lora_tensors(a, NULL, 0));
        dpo_close(c);
        memfs_free(fs);
    }
}
static void test_files_reference(void) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, 0, 5), *other = tiny_model(c, fs, 0, 6);
    dpo_data *d = tiny_data(c, 1, 0, 5), *same = tiny_data(c, 1, 0, 5), *more = tiny_data(c, 1, 0, 6);
    double keep[10];
    CHECK(dpo_reference_of(d) == NULL);
    CHECK(dpo_reference_save(d, "ref") == DPO_E_STATE);
    dpo_clear(c);
    CHECK_OK(c, dpo_reference_compute(m, d));
    CHECK_OK(c, dpo_reference_save(d, "ref"));
    memcpy(keep, dpo_reference_of(d), sizeof keep);
    CHECK(dpo_data_hash(d) == dpo_data_hash(same) && dpo_data_hash(d) != dpo_data_hash(more));
    CHECK_OK(c, dpo_reference_load(m, same, "ref"));
    CHECK_SAME(keep, dpo_reference_of(same), sizeof keep);
    CHECK(dpo_reference_load(other, same, "ref") == DPO_E_STATE);
    dpo_clear(c);
    CHECK(dpo_reference_load(m, more, "ref") == DPO_E_STATE);
    dpo_clear(c);
    dpo_close(c);
    memfs_free(fs);
}
static void test_files_tensors(void) {
    static const char *const metadata[5] = {"who", "me \"quoted\"", "n", "\\1\n", NULL};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    float a[6] = {1, -2, 3.5f, 0, 1e-30f, 7};
    int32_t b[3] = {-1, 2, 3};
    double d[1] = {0.1};
    dpo_tensor t[3], *back;
    int64_t n = 0;
    t[0] = dpo_tensor_f32(a, 2, 3, 0, 0);
    t[1] = t[2] = t[0];
    t[1].data = b;
    t[1].dtype = DPO_I32;
    t[1].ndim = 1;
    t[1].shape[0] = 3;
    t[1].shape[1] = 1;
    t[2].data = d;
    t[2].dtype = DPO_F64;
    t[2].ndim = 0;
    t[2].shape[0] = t[2].shape[1] = 1;
    t[0].name = "a";
    t[1].name = "b.c";
    t[2].name = "\xc3\xa9";
    CHECK_OK(c, dpo_tensors_save(c, "t", t, 3, metadata));
    if (CHECK_OK(c, dpo_tensors_load(c, "t", &back, &n)) && CHECK(n == 3)) {
        int i;
        for (i = 0; i < 3; i++) {
            const dpo_tensor *x = &back[i];
            if (!strcmp(x->name, "a"))
                CHECK(x->dtype == DPO_F32 && x->ndim == 2 && x->shape[1] == 3 && !memcmp(x->data, a, sizeof a));
            else if (!strcmp(x->name, "b.c"))
                CHECK(x->dtype == DPO_I32 && x->ndim == 1 && !memcmp(x->data, b, sizeof b));
            else CHECK(x->dtype == DPO_F64 && x->ndim == 0 && !memcmp(x->data, d, sizeof d));
        }
    }
    t[1].name = "a"; /* twice */
    CHECK(dpo_tensors_save(c, "t", t, 3, NULL) == DPO_E_ARG);
    dpo_clear(c);
    CHECK_OK(c, dpo_tensors_load(c, "t", &back, &n)); /* the old file is untouched */
    CHECK(n == 3 && memfs_count(fs, "tmp") == 0);
    dpo_close(c);
    memfs_free(fs);
}

/* ------------------------------------------------------------------ data and text */
static void data_row(dpo_context *c, int np, int nc, int nr, int truncation, int keep_start, const int *want) {
    dpo_data_options o = dpo_data_defaults();
    dpo_data *d;
    int32_t ids[64];
    const int32_t *p, *a, *b;
    int64_t n[3];
    int i;
    o.max_length = 12;
    o.max_prompt_length = 5;
    o.truncation = truncation;
    o.prompt_keep_start = keep_start;
    for (i = 0; i < 64; i++) ids[i] = i;
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), &o);
    CHECK_OK(c, dpo_data_add_tokens(d, ids, np, ids + 20, nc, ids + 40, nr));
    if (!want) {
        CHECK(dpo_data_count(d) == 0);
        return;
    }
    if (!CHECK(dpo_data_count(d) == 1)) return;
    CHECK_OK(c, dpo_data_item(d, 0, &p, &n[0], &a, &n[1], &b, &n[2]));
    CHECK(n[0] == want[0] && n[1] == want[1] && n[2] == want[2]);
    CHECK(p[0] == (keep_start || want[0] == np ? 0 : np - want[0]) && a[0] == 20 && b[0] == 40);
    dpo_data_free(d);
}
static void test_data_truncation(void) {
    static const int all[3] = {4, 6, 8}, cut[3] = {5, 6, 7}, both_cut[3] = {5, 7, 7}, chosen[3] = {4, 7, 6};
    static const int end[3] = {10, 2, 2}, short_prompt[3] = {3, 7, 2};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    data_row(c, 4, 6, 8, DPO_TRUNCATE_REF, 0, all);
    data_row(c, 10, 6, 7, DPO_TRUNCATE_REF, 0, cut); /* the prompt alone */
    data_row(c, 10, 6, 7, DPO_TRUNCATE_REF, 1, cut);
    data_row(c, 10, 9, 8, DPO_TRUNCATE_REF, 0, both_cut); /* both answers to 12 - 5 */
    data_row(c, 4, 9, 6, DPO_TRUNCATE_REF, 0, chosen);    /* even with a short prompt */
    data_row(c, 3, 10, 2, DPO_TRUNCATE_REF, 0, short_prompt);
    data_row(c, 10, 6, 7, DPO_TRUNCATE_KEEP_START, 0, end);
    data_row(c, 12, 6, 7, DPO_TRUNCATE_KEEP_START, 0, NULL); /* no room for an answer */
    dpo_close(c);
    memfs_free(fs);
}
static void test_data_rows(void) {
    static const char rows[] = "\xef\xbb\xbf{\"prompt\":\"a\",\"chosen\":\"bc\",\"rejected\":\"d\"}\r\n"
                               "\n"
                               "{\"prompt\":\"a\",\"chosen\":\"bc\",\"rejected\":\"bc\"}\n"
                               "{\"prompt\":\"a\",\"chosen\":\"  \",\"rejected\":\"x\"}\n"
                               "{\"prompt\":\"a\",\"chosen\":3,\"rejected\":\"x\"}\n"
                               "not json\n"
                               "{\"chosen\":\"b\",\"rejected\":\"x\"}\n"
                               "{\"prompt\":\"\\u00e9\\ud83d\\ude00\",\"chosen\":\"q\",\"rejected\":\"r\"}";
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    dpo_data_report r;
    const int32_t *p, *a;
    int64_t n = 0, na = 0;
    CHECK_OK(c, dpo_data_read_text(d, "rows", rows, sizeof rows - 1));
    r = dpo_data_report_of(d);
    CHECK(dpo_data_count(d) == 2 && r.kept == 2 && r.rows == 7);
    CHECK(r.identical == 1 && r.empty_response == 1 && r.bad_json == 1 && r.missing_field == 2);
    CHECK(r.first_bad_line == 5);
    CHECK_OK(c, dpo_data_item(d, 1, &p, &n, &a, &na, NULL, NULL));
    CHECK(n == 6 && p[0] == 0xc3 && p[1] == 0xa9 && p[2] == 0xf0 && na == 2 && a[0] == 'q' && a[1] == 256);
    CHECK(dpo_data_item(d, 2, &p, &n, NULL, NULL, NULL, NULL) == DPO_E_ARG);
    dpo_close(c);
    memfs_free(fs);
}
static void test_data_text(void) {
    dpo_context *c = dpo_open(NULL);
    const dpo_tokenizer *t = dpo_tokenizer_bytes(c);
    char text[256], back[300];
    int32_t ids[300];
    int64_t n;
    int i;
    for (i = 0; i < 255; i++) text[i] = (char)(i + 1);
    n = dpo_encode(t, text, 255, NULL, 0);
    CHECK(n == 255 && dpo_encode(t, text, 255, ids, 300) == 255);
    ids[n] = dpo_tokenizer_eos(t);
    CHECK(dpo_decode(t, ids, n + 1, back, sizeof back) == 255);
    CHECK_SAME(text, back, 255);
    ids[0] = 257;
    CHECK(dpo_decode(t, ids, 1, back, sizeof back) == DPO_E_ARG);
    ids[0] = -1;
    CHECK(dpo_decode(t, ids, 1, back, sizeof back) == DPO_E_ARG);
    CHECK(dpo_tokenizer_vocab(t) == 257 && dpo_tokenizer_eos(t) == 256);
    dpo_close(c);
}
