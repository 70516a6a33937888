/* test_checkpoint.h - training checkpoints: stopped anywhere, a run goes on to the same bits; whatever fails, breaks
   off or is damaged, a generation is there; what belongs to another run is refused by name. DPO_TEST_LONG in the
   environment: every stop, not five of each kind of run. */
#include "../tools/checkpoint.h"

/* --- a run that can be stopped ---------------------------------------------------------------------------------- */

#define RESUME_STEPS 60
#define RESUME_ROWS  49 /* in batches of 2: epochs end after updates 25 and 50, with a batch of one */

typedef struct resume_case {
    int precision, lora, pairs; /* pairs 0: SFT */
    int family, optimizer, optimizer_dtype, schedule;
} resume_case;
static const resume_case resume_cases[12] = {
    {0, 0, 0, 2, DPO_ADAMW, DPO_F32, DPO_COSINE},      {0, 0, 1, 0, DPO_RMSPROP, DPO_F32, DPO_CONSTANT},
    {0, 1, 0, 3, DPO_RMSPROP, DPO_BF16, DPO_LINEAR},   {0, 1, 1, 1, DPO_ADAMW, DPO_F32, DPO_CONSTANT},
    {1, 0, 0, 0, DPO_RMSPROP, DPO_BF16, DPO_CONSTANT}, {1, 0, 1, 2, DPO_ADAMW, DPO_F32, DPO_LINEAR},
    {1, 1, 0, 4, DPO_ADAMW, DPO_F32, DPO_COSINE},      {1, 1, 1, 0, DPO_RMSPROP, DPO_F32, DPO_CONSTANT},
    {2, 0, 0, 2, DPO_ADAMW, DPO_BF16, DPO_LINEAR},     {2, 0, 1, 4, DPO_ADAMW, DPO_BF16, DPO_CONSTANT},
    {2, 1, 0, 5, DPO_RMSPROP, DPO_F32, DPO_CONSTANT},  {2, 1, 1, 2, DPO_ADAMW, DPO_F32, DPO_COSINE}};

typedef struct resume_world {
    memfs *fs;
    dpo_context *c;
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *t;
} resume_world;

static dpo_train_config resume_config(const resume_case *k) {
    dpo_train_config t = dpo_train_defaults(k->pairs ? DPO_PREFERENCE : DPO_SFT);
    t.optimizer = k->optimizer;
    t.optimizer_dtype = k->optimizer_dtype;
    t.schedule = k->schedule;
    t.learning_rate = k->optimizer == DPO_ADAMW ? 1e-2 : 1e-3;
    t.warmup_steps = 3;
    t.batch_size = 2;
    t.max_steps = RESUME_STEPS;
    t.max_grad_norm = 1.0;
    t.weight_decay = 0.01;
    t.seed = 7;
    return t;
}
/* Everything anew, from the weights that the run began with. */
static resume_world resume_open(const resume_case *k, const dpo_train_config *t, int threads) {
    resume_world w;
    dpo_load_config how;
    w.fs = memfs_new();
    w.c = memfs_context(w.fs, NULL, threads, 0);
    how.precision = k->precision;
    how.frozen = k->lora;
    how.verify = how.no_map = 0;
    w.m = dpo_model_copy(tiny_model(w.c, w.fs, k->family, 5), &how);
    if (k->lora) tiny_lora(w.c, w.m, k->family, 3, 1, 9);
    w.d = tiny_data(w.c, k->pairs, 0, RESUME_ROWS);
    w.t = dpo_trainer_create(w.m, w.d, t);
    CHECK_OK(w.c, w.t ? 0 : -1);
    return w;
}
static void resume_close(resume_world *w) {
    dpo_close(w->c);
    memfs_free(w->fs);
}
static int resume_steps(resume_world *w, int64_t to) {
    while (w->t && w->t->step < to)
        if (!CHECK_OK(w->c, dpo_trainer_step(w->t, NULL))) return 0;
    return w->t != NULL;
}
/* A file's bytes, in scratch memory. */
static uint8_t *resume_bytes(memfs *fs, const char *path, size_t *n) {
    memfs_file *f = memfs_find(fs, path);
    uint8_t *p = SCRATCH(uint8_t, f && f->size ? f->size : 1);
    *n = f ? f->size : 0;
    if (*n) memcpy(p, f->data, *n);
    return p;
}

static int resume_case_run(int index, const uint8_t *stops) {
    static const char *const precisions[3] = {"fp32", "mixed", "bf16"};
    const resume_case *k = &resume_cases[index];
    dpo_train_config t = resume_config(k);
    resume_world w = resume_open(k, &t, 1);
    uint8_t *at[RESUME_STEPS], *want;
    size_t bytes[RESUME_STEPS], size, got_size;
    char text[128];
    int s, same = 0;
    (void)snprintf(text, sizeof text, "%s %s %s %s", precisions[k->precision], k->lora ? "lora" : "full",
                   k->pairs ? "dpo" : "sft", tiny_names[k->family]);
    for (s = 1; s < RESUME_STEPS; s++) {
        resume_steps(&w, s);
        if (!stops[s]) continue;
        CHECK_OK(w.c, dpo_trainer_save(w.t, "stop", NULL));
        at[s] = resume_bytes(w.fs, "stop", &bytes[s]);
    }
    resume_steps(&w, RESUME_STEPS);
    CHECK_OK(w.c, dpo_trainer_save(w.t, "end", NULL));
    want = resume_bytes(w.fs, "end", &size);
    resume_close(&w);
    for (s = 1; s < RESUME_STEPS; s++) {
        uint8_t *got;
        if (!stops[s]) continue;
        t.micro_rows = s % 3 ? s % 3 * 20 : 0; /* how it is computed may differ */
        t.recompute = s & 1;
        w = resume_open(k, &t, s % 5 == 4 ? 3 : 1);
        memfs_put(w.fs, "stop", at[s], bytes[s]);
        if (CHECK_OK(w.c, dpo_trainer_load(w.t, "stop"))) {
            resume_steps(&w, RESUME_STEPS);
            CHECK_OK(w.c, dpo_trainer_save(w.t, "end", NULL));
            got = resume_bytes(w.fs, "end", &got_size);
            same += CHECK_CASE(got_size == size && size && !memcmp(got, want, size), text);
        }
        resume_close(&w);
    }
    scratch_free();
    return same;
}
static void test_checkpoint_resume(void) {
    int i, s, all = getenv("DPO_TEST_LONG") != NULL, same = 0, want = 0;
    for (i = 0; i < 12; i++) {
        uint8_t stops[RESUME_STEPS];
        memset(stops, all, sizeof stops);
        stops[1 + i % 7] = stops[24] = stops[25] = stops[26 + 2 * i] = stops[59] = 1;
        for (s = 1; s < RESUME_STEPS; s++) want += stops[s];
        same += resume_case_run(i, stops);
    }
    printf("checkpoints: %d of %d stops in 12 kinds of runs went on to the same bits\n", same, want);
    CHECK(same == want);
}
/* Stopped again and again, each time with other threads. */
static void test_checkpoint_resume_often(void) {
    int i, s;
    for (i = 0; i < 12; i += 5) {
        const resume_case *k = &resume_cases[i];
        dpo_train_config t = resume_config(k);
        resume_world w = resume_open(k, &t, 2);
        uint8_t *want, *at;
        size_t size, n;
        resume_steps(&w, RESUME_STEPS);
        CHECK_OK(w.c, dpo_trainer_save(w.t, "end", NULL));
        want = resume_bytes(w.fs, "end", &size);
        resume_close(&w);
        w = resume_open(k, &t, 1);
        for (s = 4; s <= RESUME_STEPS; s += 4) {
            resume_steps(&w, s);
            CHECK_OK(w.c, dpo_trainer_save(w.t, "end", NULL));
            at = resume_bytes(w.fs, "end", &n);
            resume_close(&w);
            w = resume_open(k, &t, 1 + s / 4 % 3);
            memfs_put(w.fs, "end", at, n);
            CHECK_OK(w.c, dpo_trainer_load(w.t, "end"));
            if (s == RESUME_STEPS) CHECK(n == size && !memcmp(at, want, size));
        }
        CHECK(dpo_trainer_done(w.t));
        resume_close(&w);
        scratch_free();
    }
}

/* --- a toy whose checkpoints have a few KB ---------------------------------------------------------------------- */

#define TOY_STEPS 6
static const char *const toy_config =
    "{\"model_type\":\"gpt2\",\"vocab_size\":9,\"n_embd\":4,\"n_layer\":1,\"n_head\":1,"
    "\"n_positions\":8,\"n_inner\":4,\"activation_function\":\"gelu_new\"}";

/* NULL members where something failed, as the scenarios of failures want it. */
static resume_world toy_open(memfs *fs, heap *h, int lora, const dpo_train_config *t) {
    resume_world w;
    int32_t ids[6];
    int i;
    memset(&w, 0, sizeof w);
    w.fs = fs;
    w.c = memfs_context(fs, h, 1, 0);
    if (!memfs_find(fs, "toy.json")) memfs_text(fs, "toy.json", toy_config);
    w.m = w.c ? dpo_model_create_from(w.c, "toy.json", 3) : NULL;
    if (w.m && lora) {
        dpo_lora_config l = dpo_lora_defaults(DPO_GPT2);
        l.r = 1;
        if (dpo_lora_attach(w.m, &l, 5)) return w;
    }
    w.d = w.m ? dpo_data_create(w.c, dpo_tokenizer_bytes(w.c), NULL) : NULL;
    for (i = 0; w.d && i < 5; i++) {
        tiny_ids(ids, 6, (uint64_t)i, 9);
        if (dpo_data_add_tokens(w.d, ids, 2, ids + 2, 2, ids + 4, 2)) return w;
    }
    w.t = w.d ? dpo_trainer_create(w.m, w.d, t) : NULL;
    return w;
}
static dpo_train_config toy_train(void) {
    dpo_train_config t = dpo_train_defaults(DPO_PREFERENCE);
    t.optimizer = DPO_ADAMW;
    t.learning_rate = 1e-2;
    t.warmup_steps = 0;
    t.batch_size = 2;
    t.max_steps = TOY_STEPS;
    return t;
}
static checkpoint_set toy_set(resume_world *w) {
    checkpoint_set s;
    checkpoint_start(&s, w->c, "ck", 2);
    s.files.user = w->fs;
    s.files.list = memfs_list;
    s.files.remove = memfs_remove;
    s.files.sync_dir = memfs_sync_dir;
    return s;
}

/* --- faults: every operation of a run that saves after every update --------------------------------------------- */

/* What dpo-train does, with a checkpoint after each update. *from receives the step that it went on from, *safe the
   last one that it was told is safe. 1: the run came to its end. */
static int toy_run(memfs *fs, int64_t *from, int64_t *safe) {
    dpo_train_config t = toy_train();
    resume_world w = toy_open(fs, NULL, 0, &t);
    checkpoint_set s = toy_set(&w);
    int done = 0;
    *from = 0;
    if (w.t && !checkpoint_scan(&s, 1) && checkpoint_resume(&s, w.t) >= 0) {
        *from = w.t->step;
        while (!dpo_trainer_done(w.t) && !dpo_trainer_step(w.t, NULL) && !checkpoint_save(&s, w.t, w.t->step, NULL) &&
               !fs->dead)
            *safe = w.t->step;
        done = dpo_trainer_done(w.t) && (*safe == TOY_STEPS || *from == TOY_STEPS);
    }
    checkpoint_free(&s);
    dpo_close(w.c);
    return done;
}
/* After a failure and a new start: nothing that was safe is lost, and the end is the same. */
static int toy_recovers(memfs *fs, int64_t safe, const uint8_t *want, size_t size, const char *text) {
    int64_t from, later = safe;
    size_t n = 0;
    uint8_t *got;
    int ok = CHECK_CASE(toy_run(fs, &from, &later), text);
    ok &= CHECK_CASE(from >= safe, text);
    got = resume_bytes(fs, "ck/step-00000006.safetensors", &n);
    ok &= CHECK_CASE(n == size && !memcmp(got, want, n), text);
    ok &= CHECK_CASE(memfs_count(fs, ".tmp") == 0 && memfs_count(fs, "ck/step-") >= 2, text);
    scratch_free();
    return ok;
}
static void test_checkpoint_faults(void) {
    static const int codes[2] = {MEMFS_EIO, MEMFS_ENOSPC};
    memfs *fs = memfs_new();
    int64_t from = 0, safe = 0, ops, k;
    size_t size;
    uint8_t *bytes, *want;
    char text[128];
    int failures = 0, deaths = 0, mode;
    fs->die_at = INT64_MAX;
    if (!CHECK(toy_run(fs, &from, &safe) && safe == TOY_STEPS)) return;
    ops = fs->ops;
    CHECK(memfs_count(fs, "ck/") == 2); /* two generations, and nothing else */
    bytes = resume_bytes(fs, "ck/step-00000006.safetensors", &size);
    want = (uint8_t *)malloc(size + 1);
    if (!want) exit(3);
    memcpy(want, bytes, size);
    memfs_free(fs);
    for (k = 1; k <= ops; k++) {
        for (mode = 0; mode < 4; mode++) {
            fs = memfs_new();
            fs->fail_at = k;
            fs->transient = mode & 1;
            fs->fail_code = codes[mode >> 1];
            safe = 0;
            (void)toy_run(fs, &from, &safe);
            fs->fail_at = 0;
            (void)snprintf(text, sizeof text, "operation %ld fails, mode %d", (long)k, mode);
            failures += toy_recovers(fs, safe, want, size, text);
            memfs_free(fs);
        }
        for (mode = 0; mode < 3 * MEMFS_FILES; mode++) { /* bytes that last, then changes of names that last */
            int kept = mode / 3, changes;
            fs = memfs_new();
            fs->die_at = k;
            safe = 0;
            (void)toy_run(fs, &from, &safe);
            changes = fs->n_changes;
            (void)snprintf(text, sizeof text, "the end at operation %ld, %d of %d changes, bytes %d", (long)k, kept,
                           changes, mode % 3);
            memfs_restart(fs, kept, mode % 3);
            deaths += toy_recovers(fs, safe, want, size, text);
            memfs_free(fs);
            if (kept == changes && mode % 3 == 2) break;
        }
    }
    free(want);
    printf("checkpoints: a run of %d operations; it went on after %d failures and %d ends of the machine\n", (int)ops,
           failures, deaths);
    CHECK(failures == 4 * (int)ops && deaths >= 3 * (int)ops && check_failures == 0);
}
/* Every operation of a load: refused, or done; and the next one works. */
static void test_checkpoint_load_faults(void) {
    dpo_train_config t = toy_train();
    memfs *fs = memfs_new();
    heap h;
    resume_world w;
    int64_t k, ops = 0, blocks = 0;
    size_t size, n;
    uint8_t *want, *got;
    int i, half = 0;
    memset(&h, 0, sizeof h);
    w = toy_open(fs, &h, 0, &t);
    resume_steps(&w, 4);
    CHECK_OK(w.c, dpo_trainer_save(w.t, "four", NULL));
    want = resume_bytes(fs, "four", &size);
    for (i = 0; i < 2; i++) /* files, then memory */
        for (k = 1;; k++) {
            dpo_result r;
            resume_steps(&w, 5);
            fs->ops = 0;
            h.calls = 0;
            if (i) h.fail_at = k;
            else fs->fail_at = k;
            r = dpo_trainer_load(w.t, "four");
            h.fail_at = fs->fail_at = 0;
            if (i) blocks = k;
            else ops = k;
            if (!r && (i ? h.calls : fs->ops) < k) break;
            dpo_clear(w.c);
            if (r && w.t->half_loaded) {
                half++;
                CHECK(dpo_trainer_step(w.t, NULL) == DPO_E_STATE && strstr(dpo_error(w.c), "of two runs"));
                dpo_clear(w.c);
                CHECK(dpo_trainer_save(w.t, "five", NULL) == DPO_E_STATE);
                dpo_clear(w.c);
            } else if (r) CHECK(w.t->step == 5);
            CHECK_OK(w.c, dpo_trainer_load(w.t, "four"));
            CHECK_OK(w.c, dpo_trainer_save(w.t, "again", NULL));
            got = resume_bytes(fs, "again", &n);
            CHECK(n == size && !memcmp(got, want, n));
        }
    for (k = 1;; k++) { /* and memory of a save */
        dpo_result r;
        h.calls = 0;
        h.fail_at = k;
        r = dpo_trainer_save(w.t, "again", NULL);
        h.fail_at = 0;
        if (!r && h.calls < k) break;
        CHECK(r == DPO_E_MEMORY);
        dpo_clear(w.c);
        blocks++;
    }
    printf("checkpoints: %d operations and %d blocks of memory failed, %d loads in the middle\n", (int)ops - 1,
           (int)blocks - 1, half);
    CHECK(ops > 20 && half > 5 && blocks > 6);
    dpo_close(w.c);
    CHECK(h.live == 0 && fs->handles == 0);
    memfs_free(fs);
}

/* --- damage ----------------------------------------------------------------------------------------------------- */

static void damage_all(int lora, int64_t *cuts, int64_t *flips) {
    dpo_train_config t = toy_train();
    memfs *fs = memfs_new();
    resume_world w = toy_open(fs, NULL, lora, &t);
    memfs_file *f;
    size_t size, n, i;
    uint8_t *good, *after;
    int bit, k, wrong = 0;
    resume_steps(&w, 2);
    CHECK_OK(w.c, dpo_trainer_save(w.t, "ck/step-00000002.safetensors", NULL));
    resume_steps(&w, 4);
    CHECK_OK(w.c, dpo_trainer_save(w.t, "ck/step-00000004.safetensors", NULL));
    f = memfs_find(fs, "ck/step-00000004.safetensors");
    good = resume_bytes(fs, "ck/step-00000004.safetensors", &size);
    resume_steps(&w, 5);
    for (i = 0; i < size; i++) {
        f->size = i;
        wrong += dpo_trainer_load(w.t, "ck/step-00000004.safetensors") == DPO_OK;
        dpo_clear(w.c);
    }
    f->size = size;
    *cuts += (int64_t)size;
    for (i = 0; i < size; i++)
        for (bit = 0; bit < 8; bit++) {
            dpo_result r;
            f->data[i] = (uint8_t)(good[i] ^ 1 << bit);
            r = dpo_trainer_load(w.t, "ck/step-00000004.safetensors");
            wrong += r != DPO_E_FORMAT;
            dpo_clear(w.c);
            if (i % 37 == 0 && bit == 3) { /* one generation back */
                checkpoint_set s = toy_set(&w);
                CHECK(!checkpoint_scan(&s, 1) && s.n == 2 && !checkpoint_resume(&s, w.t) && w.t->step == 2);
                CHECK(s.one[1].damaged && strstr(s.path, "step-00000002"));
                checkpoint_free(&s);
                resume_steps(&w, 5);
            }
            f->data[i] = good[i];
        }
    *flips += (int64_t)size * 8;
    for (k = 0; k < 4000; k++) { /* and up to 16 bytes at once */
        int many = 1 + rng_below(16);
        while (many--) f->data[rng_below((int)size)] = (uint8_t)rng_below(256);
        if (memcmp(f->data, good, size)) wrong += dpo_trainer_load(w.t, "ck/step-00000004.safetensors") == DPO_OK;
        dpo_clear(w.c);
        memcpy(f->data, good, size);
    }
    CHECK(wrong == 0 && w.t->step == 5 && !w.t->half_loaded);
    CHECK_OK(w.c, dpo_trainer_load(w.t, "ck/step-00000004.safetensors"));
    CHECK_OK(w.c, dpo_trainer_save(w.t, "after", NULL));
    after = resume_bytes(fs, "after", &n);
    CHECK(n == size && !memcmp(good, after, n));
    dpo_close(w.c);
    memfs_free(fs);
    scratch_free();
}
static void test_checkpoint_damage(void) {
    int64_t cuts = 0, flips = 0;
    damage_all(0, &cuts, &flips);
    damage_all(1, &cuts, &flips);
    printf("checkpoints: %ld cuts and %ld flipped bits, 8000 wild bytes: all refused\n", (long)cuts, (long)flips);
    CHECK(cuts > 4000 && flips > 32000);
}
/* All generations damaged: an error that names them, and nothing is removed. */
static void test_checkpoint_all_damaged(void) {
    dpo_train_config t = toy_train();
    memfs *fs = memfs_new();
    resume_world w = toy_open(fs, NULL, 0, &t);
    checkpoint_set s = toy_set(&w);
    CHECK(!checkpoint_scan(&s, 1) && checkpoint_resume(&s, w.t) == 1); /* none at all is no error */
    memfs_text(fs, "ck/step-00000002.safetensors", "");
    memfs_text(fs, "ck/step-00000003.safetensors", "not this");
    memfs_text(fs, "ck/step-00000004.safetensors.tmp", "half");
    memfs_text(fs, "ck/step-4.safetensors", "another's");
    memfs_text(fs, "ck/reference.safetensors", "another's");
    CHECK(!checkpoint_scan(&s, 1) && s.n == 2 && memfs_count(fs, ".tmp") == 0);
    CHECK(checkpoint_resume(&s, w.t) == -1 && strstr(s.error, "step-00000002") && strstr(s.error, "step-00000003"));
    CHECK(memfs_count(fs, "ck/") == 4 && w.t->step == 0 && !dpo_status(w.c));
    checkpoint_free(&s);
    dpo_close(w.c);
    memfs_free(fs);
}
/* What is kept: the newest two that can be read, and the best. */
static void test_checkpoint_kept(void) {
    dpo_train_config t = toy_train();
    memfs *fs = memfs_new();
    resume_world w;
    checkpoint_set s;
    t.max_steps = 40;
    w = toy_open(fs, NULL, 1, &t);
    s = toy_set(&w);
    while (w.t->step < 10) {
        resume_steps(&w, w.t->step + 1);
        if (w.t->step == 3) s.best = 3;
        CHECK(!checkpoint_save(&s, w.t, w.t->step, NULL));
    }
    CHECK(memfs_count(fs, "ck/") == 3 && memfs_find(fs, "ck/step-00000003.safetensors"));
    CHECK(memfs_find(fs, "ck/step-00000009.safetensors") && memfs_find(fs, "ck/step-00000010.safetensors"));
    memfs_find(fs, "ck/step-00000010.safetensors")->data[9] ^= 1;
    CHECK(!checkpoint_scan(&s, 1) && !checkpoint_resume(&s, w.t) && w.t->step == 9); /* 10 counts no more */
    resume_steps(&w, 11);
    CHECK(!checkpoint_save(&s, w.t, 11, NULL));
    CHECK(memfs_count(fs, "ck/") == 3 && memfs_find(fs, "ck/step-00000009.safetensors"));
    s.best = -1;
    resume_steps(&w, 12);
    CHECK(!checkpoint_save(&s, w.t, 12, NULL) && memfs_count(fs, "ck/") == 2);
    checkpoint_free(&s);
    dpo_close(w.c);
    memfs_free(fs);
}

/* --- another run's, or no checkpoint ---------------------------------------------------------------------------- */

typedef struct other_run { /* one thing that differs, and how the refusal names it */
    const char *key;
    dpo_train_config t;
    resume_case k;
} other_run;

static double other_loss(const dpo_pair *p, const dpo_loss_options *o, double *d_chosen, double *d_rejected) {
    (void)p;
    (void)o;
    *d_chosen = -1;
    *d_rejected = 1;
    return 0;
}
static int other_runs(const resume_case *k, other_run *out) {
    const dpo_train_config base = resume_config(k);
    int n = 0, first;
#define OTHER(name, change)                                                                                            \
    out[n].key = name;                                                                                                 \
    out[n].t = base;                                                                                                   \
    out[n].k = *k;                                                                                                     \
    change;                                                                                                            \
    n++;
    OTHER("learning_rate is 0.0005 here, ", out[n].t.learning_rate = 5e-4)
    OTHER("batch_size is 3 here, 2 in", out[n].t.batch_size = 3)
    OTHER("seed is 8 here, 7 in", out[n].t.seed = 8)
    OTHER("shuffle is 0 here, 1 in", out[n].t.shuffle = 0)
    OTHER("schedule", out[n].t.schedule = k->schedule == DPO_LINEAR ? DPO_COSINE : DPO_LINEAR)
    OTHER("warmup_steps", out[n].t.warmup_steps = 4)
    OTHER("adam_epsilon", out[n].t.adam_epsilon = 1e-7)
    OTHER("weight_decay", out[n].t.weight_decay = 0)
    OTHER("max_grad_norm", out[n].t.max_grad_norm = 2)
    OTHER("optimizer is", out[n].t.optimizer = !k->optimizer)
    OTHER("optimizer_dtype", out[n].t.optimizer_dtype = k->optimizer_dtype == DPO_F32 ? DPO_BF16 : DPO_F32)
    OTHER("naive is 1 here", out[n].t.naive = 1)
    OTHER(k->optimizer == DPO_ADAMW ? "adam_beta1" : "rmsprop_alpha",
          out[n].t.adam_beta1 = out[n].t.rmsprop_alpha = 0.8)
    OTHER("precision is", out[n].k.precision = (k->precision + 1) % 3)
    OTHER("model_type", out[n].k.family = k->family == 3 ? 4 : 3)
    OTHER("lora_r is", out[n].k.lora = !k->lora)
    first = n;
    OTHER("objective is", out[n].k.pairs = !k->pairs)
    out[first].t.objective = k->pairs ? DPO_SFT : DPO_PREFERENCE;
    if (k->schedule != DPO_CONSTANT) {
        OTHER("steps is 61 here, 60 in", out[n].t.max_steps = 61)
    } else {
        OTHER("this run is to end after 20", out[n].t.max_steps = 20)
    }
    if (!k->pairs) {
        OTHER("sft_reduction is sequence_sum here, token_mean in", out[n].t.sft_reduction = DPO_SEQUENCE_SUM)
        return n;
    }
    OTHER("beta is 0.2 here, 0.1 in", out[n].t.loss_options.beta = 0.2)
    OTHER("label_smoothing", out[n].t.loss_options.label_smoothing = 0.1)
    OTHER("sft_weight", out[n].t.loss_options.sft_weight = 1)
    OTHER("loss is ipo here, sigmoid in", out[n].t.loss = dpo_loss_by_name("ipo"))
    OTHER("loss is custom here", out[n].t.loss = other_loss)
    OTHER("reference_free is 1 here", out[n].t.loss_options.reference_free = 1)
#undef OTHER
    return n;
}
static void test_checkpoint_other_runs(void) {
    other_run *o = (other_run *)calloc(40, sizeof *o);
    int i, k, n, refused = 0;
    if (!o) exit(3);
    for (i = 0; i < 12; i += 3) {
        dpo_train_config t = resume_config(&resume_cases[i]);
        resume_world w = resume_open(&resume_cases[i], &t, 1), v;
        uint8_t *at;
        size_t size;
        resume_steps(&w, 30);
        CHECK_OK(w.c, dpo_trainer_save(w.t, "stop", NULL));
        at = resume_bytes(w.fs, "stop", &size);
        resume_close(&w);
        n = other_runs(&resume_cases[i], o);
        for (k = 0; k < n; k++) {
            uint64_t before;
            int same;
            v = resume_open(&o[k].k, &o[k].t, 1);
            if (!v.t) continue;
            memfs_put(v.fs, "stop", at, size);
            before = dpo_model_hash(v.m);
            same = dpo_trainer_load(v.t, "stop") == DPO_E_STATE && strstr(dpo_error(v.c), o[k].key) != NULL;
            if (!same) printf("  %s: %s\n", o[k].key, dpo_error(v.c));
            dpo_clear(v.c);
            refused += CHECK_CASE(same && dpo_model_hash(v.m) == before && v.t->step == 0, o[k].key);
            resume_close(&v);
        }
        scratch_free();
    }
    printf("checkpoints: %d other runs were told from this one, and how\n", refused);
    CHECK(refused >= 70);
    free(o);
}
static void refuses_toy(resume_world *w, const char *path, dpo_result code, const char *says) {
    dpo_result r = dpo_trainer_load(w->t, path);
    if (r != code || !strstr(dpo_error(w->c), says)) printf("  %s: %d %s\n", path, r, dpo_error(w->c));
    CHECK(r == code && strstr(dpo_error(w->c), says));
    dpo_clear(w->c);
    CHECK(w->t->step == 3);
}
/* Other data, other weights, other adapters; files that are none. */
static void test_checkpoint_foreign(void) {
    static const char *const extra[5] = {"who", "me", "n", "3", NULL}, *const taken[3] = {"step", "9", NULL};
    dpo_train_config t = toy_train();
    memfs *fs = memfs_new();
    resume_world w = toy_open(fs, NULL, 0, &t);
    dpo_tensors_file *f;
    dpo_tensor *v;
    dpo_trainer *u;
    dpo_data *d;
    dpo_model *m;
    int32_t ids[6] = {1, 2, 3, 4, 5, 6};
    int64_t n;
    resume_steps(&w, 3);
    CHECK_OK(w.c, dpo_trainer_save(w.t, "good", extra));
    f = dpo_tensors_open(w.c, "good");
    CHECK(f && !strcmp(dpo_tensors_metadata(f, "who"), "me") && !strcmp(dpo_tensors_metadata(f, "step"), "3"));
    CHECK(f && !strcmp(dpo_tensors_metadata(f, "epoch"), "1") && !strcmp(dpo_tensors_metadata(f, "data_cursor"), "0"));
    CHECK(f && !strcmp(dpo_tensors_metadata(f, "adam_epsilon"), "1e-08"));
    dpo_tensors_close(f);
    CHECK(dpo_trainer_save(w.t, "bad", taken) == DPO_E_ARG && !memfs_find(fs, "bad"));
    dpo_clear(w.c);
    CHECK_OK(w.c, dpo_model_save(w.m, "dir", DPO_F32));
    n = tiny_tensors(w.m, 0, &v);
    CHECK_OK(w.c, dpo_tensors_save(w.c, "named", v, n, NULL));
    memfs_put(fs, "empty", "", 0);
    memfs_text(fs, "text", "once upon a time there was a checkpoint");
    refuses_toy(&w, "dir/model.safetensors", DPO_E_FORMAT, "no training checkpoint");
    refuses_toy(&w, "named", DPO_E_FORMAT, "no training checkpoint");
    refuses_toy(&w, "empty", DPO_E_FORMAT, "only 0 bytes");
    refuses_toy(&w, "text", DPO_E_FORMAT, "bytes");
    refuses_toy(&w, "toy.json", DPO_E_FORMAT, "bytes");
    refuses_toy(&w, "nowhere", DPO_E_IO, "nowhere");
    CHECK(dpo_trainer_load(w.t, NULL) == DPO_E_ARG);
    dpo_clear(w.c);
    CHECK(dpo_trainer_load(NULL, "good") == DPO_E_ARG && dpo_trainer_save(NULL, "good", NULL) == DPO_E_ARG);

    d = dpo_data_create(w.c, dpo_tokenizer_bytes(w.c), NULL); /* as many examples, others */
    for (n = 0; n < 5; n++) CHECK_OK(w.c, dpo_data_add_tokens(d, ids, 2, ids + 2, 2, ids + 4, 2));
    m = dpo_model_create_from(w.c, "toy.json", 3);
    u = dpo_trainer_create(m, d, &t);
    CHECK(dpo_trainer_load(u, "good") == DPO_E_STATE && strstr(dpo_error(w.c), "the training data: data_hash is"));
    dpo_clear(w.c);
    dpo_trainer_free(u);
    dpo_data_free(d);
    d = dpo_data_create(w.c, dpo_tokenizer_bytes(w.c), NULL); /* fewer */
    CHECK_OK(w.c, dpo_data_add_tokens(d, ids, 2, ids + 2, 2, ids + 4, 2));
    u = dpo_trainer_create(m, d, &t);
    CHECK(dpo_trainer_load(u, "good") == DPO_E_STATE && strstr(dpo_error(w.c), "train_examples is 1 here, 5 in"));
    dpo_clear(w.c);
    CHECK_OK(w.c, dpo_data_add_tokens(d, ids, 2, ids + 2, 2, ids + 4, 2));
    CHECK(dpo_trainer_save(u, "bad", NULL) == DPO_E_STATE && strstr(dpo_error(w.c), "2 examples now, 1 when"));
    dpo_clear(w.c);
    dpo_close(w.c);
    memfs_free(fs);
}
/* Weights below adapters, the adapters' own shape, and the reference's numbers. */
static void test_checkpoint_other_weights(void) {
    dpo_train_config t = toy_train();
    int lora, what;
    for (lora = 0; lora < 2; lora++) {
        memfs *fs = memfs_new();
        resume_world w = toy_open(fs, NULL, lora, &t);
        resume_steps(&w, 3);
        CHECK_OK(w.c, dpo_trainer_save(w.t, "good", NULL));
        for (what = 0; what < (lora ? 5 : 2); what++) {
            static const char *const names[2][5] = {
                {"the reference log-probs' model: reference_weights_hash", "the reference log-probs: reference_hash"},
                {"the weights below the adapters: base_hash", "lora_r is 2 here, 1 in", "lora_alpha is 8 here, 16 in",
                 "use_rslora is 1 here, 0 in", "target_modules is c_fc here, c_attn in"}};
            dpo_lora_config l = dpo_lora_defaults(DPO_GPT2);
            dpo_model *m = dpo_model_create_from(w.c, "toy.json", what ? 3 : 4);
            dpo_trainer *u;
            l.r = what == 1 ? 2 : 1;
            l.lora_alpha = what == 2 ? 8 : 16;
            l.use_rslora = what == 3;
            if (what == 4) l.target_modules = "c_fc";
            if (lora) CHECK_OK(w.c, dpo_lora_attach(m, &l, 5));
            if (w.d->reference) {
                dpo__put(w.c, w.d->reference);
                w.d->reference = NULL;
                w.d->reference_whole = 0;
            }
            u = dpo_trainer_create(m, w.d, &t);
            if (!lora && what && u) w.d->reference[3] += 1e-12;
            CHECK(dpo_trainer_load(u, "good") == DPO_E_STATE && strstr(dpo_error(w.c), names[lora][what]));
            if (!strstr(dpo_error(w.c), names[lora][what])) printf("  %s\n", dpo_error(w.c));
            dpo_clear(w.c);
            dpo_trainer_free(u);
            dpo_model_free(m);
        }
        dpo_close(w.c);
        memfs_free(fs);
    }
}
/* With a constant schedule a run that is done goes on, to what a longer one gives. */
static void test_checkpoint_longer(void) {
    dpo_train_config t = toy_train();
    memfs *fs = memfs_new(), *gs = memfs_new();
    resume_world w = toy_open(fs, NULL, 0, &t), v;
    uint8_t *a, *b;
    size_t n, k;
    resume_steps(&w, TOY_STEPS);
    CHECK_OK(w.c, dpo_trainer_save(w.t, "done", NULL));
    a = resume_bytes(fs, "done", &n);
    t.max_steps = 2 * TOY_STEPS;
    v = toy_open(gs, NULL, 0, &t);
    resume_steps(&v, 2 * TOY_STEPS);
    CHECK_OK(v.c, dpo_trainer_save(v.t, "twice", NULL));
    dpo_close(v.c);
    v = toy_open(gs, NULL, 0, &t);
    memfs_put(gs, "done", a, n);
    CHECK_OK(v.c, dpo_trainer_load(v.t, "done"));
    resume_steps(&v, 2 * TOY_STEPS);
    CHECK_OK(v.c, dpo_trainer_save(v.t, "again", NULL));
    a = resume_bytes(gs, "twice", &n);
    b = resume_bytes(gs, "again", &k);
    CHECK(n == k && !memcmp(a, b, n));
    dpo_close(v.c);
    dpo_close(w.c);
    memfs_free(fs);
    memfs_free(gs);
}
/* A loop of one's own, without data: the counts and the optimizer go on. */
static void test_checkpoint_own_loop(void) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    forest *f = SCRATCH(forest, 1);
    int32_t ids[16];
    double logps[1], weights[1] = {-0.5};
    uint64_t hash[2];
    int pass, i;
    tiny_ids(ids, 16, 3, TINY_VOCAB);
    forest_sequence(f, ids, 4, ids + 4, 9, 0);
    for (pass = 0; pass < 2; pass++) { /* straight through; stopped after three */
        dpo_train_config k = toy_train();
        dpo_model *m = tiny_model(c, fs, 0, 5);
        dpo_trainer *t;
        k.max_rows = 64;
        t = dpo_trainer_create(m, NULL, &k);
        for (i = 0; t && i < 8; i++) {
            if (pass && i == 3) {
                CHECK_OK(c, dpo_trainer_save(t, "own", NULL));
                dpo_trainer_free(t);
                dpo_model_free(m);
                m = tiny_model(c, fs, 0, 5);
                t = dpo_trainer_create(m, NULL, &k);
                CHECK_OK(c, dpo_trainer_load(t, "own"));
            }
            CHECK_OK(c, dpo_trainer_forward(t, &f->b, logps));
            CHECK_OK(c, dpo_trainer_backward(t, &f->b, weights));
            CHECK_OK(c, dpo_trainer_update(t, NULL));
        }
        hash[pass] = dpo_model_hash(m);
    }
    CHECK(hash[0] == hash[1]);
    dpo_close(c);
    memfs_free(fs);
}
