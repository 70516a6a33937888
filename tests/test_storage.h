/* test_storage.h - weights in bf16 or in a mapped file: the same values give the same bits wherever they lie. */

/* Directories f (F32), b (BF16) of one model. */
static dpo_context *storage_open(memfs *fs, heap *h, int family) {
    dpo_context *c;
    dpo_model *m;
    memset(h, 0, sizeof *h);
    memfs_maps(fs, 1);
    c = memfs_context(fs, h, 1, 0);
    m = tiny_model(c, fs, family, 5);
    CHECK_OK(c, dpo_model_save(m, "f", DPO_F32));
    CHECK_OK(c, dpo_model_save(m, "b", DPO_BF16));
    dpo_model_free(m);
    return c;
}
static void storage_close(dpo_context *c, memfs *fs, heap *h) {
    dpo_close(c);
    CHECK(h->live == 0 && h->bytes == 0 && fs->maps == 0 && fs->handles == 0);
    memfs_free(fs);
}
static dpo_model *storage_load(dpo_context *c, const char *dir, int precision, int frozen) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_model *m;
    how.precision = precision;
    how.frozen = frozen;
    m = dpo_model_load_as(c, dir, &how);
    CHECK_OK(c, m ? 0 : -1);
    if (m) CHECK(dpo_model_precision_of(m) == precision);
    return m;
}
static dpo_model *storage_copy(dpo_context *c, const dpo_model *m, int precision, int frozen) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_model *to;
    how.precision = precision;
    how.frozen = frozen;
    to = dpo_model_copy(m, &how);
    CHECK_OK(c, to ? 0 : -1);
    return to;
}
static const dpo__param *storage_embed(const dpo_model *m) {
    return dpo__model_param(m, m->config.num_hidden_layers, DPO__EMBED);
}
/* Log-probs of a prompt with two answers. */
static void storage_logps(dpo_context *c, dpo_model *m, double out[2]) {
    forest *f = SCRATCH(forest, 1);
    int32_t ids[40];
    int root;
    tiny_ids(ids, 40, 3, TINY_VOCAB);
    root = forest_add(f, -1, ids, 17, -1);
    forest_add(f, root, ids + 17, 9, 0);
    forest_add(f, root, ids + 26, 14, 1);
    forest_sort(f);
    out[0] = out[1] = 0;
    if (m) CHECK_OK(c, dpo_model_logps(m, &f->b, out));
}
static void storage_same(dpo_context *c, dpo_model *a, dpo_model *b, const char *name) {
    dpo_generate_config g = dpo_generate_defaults();
    int32_t ids[4] = {5, 17, 2, 40}, out[2][12];
    const int32_t *prompt = ids;
    int64_t n = 4, made[2] = {0, 0};
    double x[2], y[2];
    if (!CHECK_CASE(a && b, name)) return;
    g.max_new_tokens = 12;
    g.eos = -1;
    g.seed = 3;
    CHECK_OK(c, dpo_generate(a, &prompt, &n, 1, &g, out[0], &made[0]));
    CHECK_OK(c, dpo_generate(b, &prompt, &n, 1, &g, out[1], &made[1]));
    CHECK_CASE(made[0] == 12 && made[1] == 12 && !memcmp(out[0], out[1], sizeof out[0]), name);
    storage_logps(c, a, x);
    storage_logps(c, b, y);
    CHECK_CASE(x[0] < -1 && x[1] < -1 && !memcmp(x, y, sizeof x), name);
    CHECK_CASE(dpo_model_hash(a) == dpo_model_hash(b), name);
}

static void test_storage_same(void) {
    int f, p;
    for (f = 0; f < TINY_FAMILIES; f++) {
        memfs *fs = memfs_new();
        heap h;
        dpo_context *c = storage_open(fs, &h, f);
        int64_t start = h.bytes, plain, mapped, matrices = 0, i, n;
        dpo_model *a = dpo_model_load(c, "b"), *map, *in, *one, *wide;
        dpo_tensor *t;
        plain = h.bytes - start;
        n = tiny_tensors(a, 0, &t);
        for (i = 0; i < n; i++) matrices += t[i].ndim == 2 ? tensor_count(&t[i]) * 4 : 0;
        start = h.bytes;
        map = storage_load(c, "b", DPO_PRECISION_FP32, 1);
        mapped = h.bytes - start;
        CHECK_CASE(fs->maps == 1 && plain - mapped > matrices - 1024, tiny_names[f]); /* no memory for matrices */
        n = tiny_tensors(map, 0, &t);
        for (i = 0; i < n; i++) CHECK(t[i].dtype == (t[i].ndim == 2 ? DPO_BF16 : DPO_F32));
        storage_same(c, a, map, tiny_names[f]);
        in = storage_load(c, "b", DPO_PRECISION_BF16, 0);
        CHECK(fs->maps == 1);
        CHECK_OK(c, dpo_model_set_precision(in, DPO_PRECISION_FP32));
        storage_same(c, a, in, tiny_names[f]);
        one = storage_copy(c, in, DPO_PRECISION_FP32, 0);
        storage_same(c, a, one, tiny_names[f]);
        wide = storage_load(c, "f", DPO_PRECISION_FP32, 1);
        CHECK(fs->maps == 2);
        storage_same(c, dpo_model_load(c, "f"), wide, tiny_names[f]);
        dpo_model_free(one);
        one = storage_copy(c, wide, DPO_PRECISION_FP32, 1);
        dpo_model_free(wide);
        CHECK(fs->maps == 1);
        storage_same(c, dpo_model_load(c, "f"), one, tiny_names[f]);
        for (p = DPO_PRECISION_MIXED; p <= DPO_PRECISION_BF16; p++) { /* bf16 operands: rounding changes none of them */
            CHECK_OK(c, dpo_model_set_precision(a, DPO_PRECISION_MIXED));
            CHECK_OK(c, dpo_model_set_precision(map, p));
            CHECK_OK(c, dpo_model_set_precision(in, p));
            storage_same(c, a, map, tiny_names[f]);
            storage_same(c, a, in, tiny_names[f]);
        }
        storage_close(c, fs, &h);
    }
}

static char storage_log[256];
static void storage_on_log(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_INFO) (void)snprintf(storage_log, sizeof storage_log, "%s", line);
}
static void storage_on_warning(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING) (void)snprintf(storage_log, sizeof storage_log, "%s", line);
}
/* A tied model whose file holds a head all the same: nothing is said of the embedding again, something of another one. */
static void test_storage_tied(void) {
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 0);
    dpo_model *m = tiny_model(c, fs, 2, 7), *back;
    dpo_tensor *x, *y;
    int64_t n = tiny_tensors(m, 0, &x), i, e;
    uint64_t hash = dpo_model_hash(m);
    float *head;
    c->desc.log = storage_on_warning;
    CHECK(m->config.tie_word_embeddings);
    CHECK_OK(c, dpo_model_save(m, "tied", DPO_F32));
    y = SCRATCH(dpo_tensor, n + 1);
    memcpy(y, x, (size_t)n * sizeof *y);
    for (i = 0; i < n; i++)
        if (strstr(x[i].name, "wte")) y[n] = x[i];
    head = SCRATCH(float, tensor_count(&y[n]));
    memcpy(head, y[n].data, (size_t)tensor_count(&y[n]) * sizeof *head);
    y[n].name = "lm_head.weight";
    y[n].data = head;
    for (e = 0; e < 2; e++) {
        storage_log[0] = 0;
        head[3] += (float)e;
        CHECK_OK(c, dpo_tensors_save(c, "tied/model.safetensors", y, n + 1, NULL));
        back = dpo_model_load(c, "tied");
        CHECK_CASE(back && dpo_model_hash(back) == hash, dpo_error(c));
        CHECK_CASE(!storage_log[0] == !e && (!e || strstr(storage_log, "another matrix")), storage_log);
        dpo_model_free(back);
    }
    storage_log[0] = 0;
    dpo_model_free(m);
    storage_close(c, fs, &h);
}
/* F32 in a file to BF16 in memory: matrices and vectors to the nearest, and the log says so. */
static void test_storage_rounds(void) {
    static const int types[3] = {DPO_F32, DPO_BF16, DPO_F16};
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 0);
    dpo_model *f, *m, *two, *back;
    dpo_tensor *x, *y;
    int64_t n, i, e, changed = 0, all = 0, was;
    char want[256];
    c->desc.log = storage_on_log;
    f = dpo_model_load(c, "f");
    CHECK(!storage_log[0]);
    m = storage_load(c, "f", DPO_PRECISION_BF16, 0);
    n = tiny_tensors(f, 0, &x);
    CHECK(tiny_tensors(m, 0, &y) == n);
    for (i = 0; i < n; i++) {
        int bad = 0;
        CHECK(y[i].dtype == (y[i].ndim == 2 ? DPO_BF16 : DPO_F32) && y[i].shape[0] == x[i].shape[0]);
        for (e = 0; e < tensor_count(&x[i]); e++) {
            float v = ((const float *)x[i].data)[e], r = dpo__num_bf16_to(dpo__num_bf16_from(v));
            float got = dpo__st_value(y[i].data, y[i].dtype, e);
            bad += memcmp(&got, &r, sizeof r) != 0;
            changed += v < r || v > r;
            all++;
        }
        CHECK_CASE(!bad, x[i].name);
    }
    (void)snprintf(want, sizeof want, "%ld of %ld weights were rounded to bf16", (long)changed, (long)all);
    CHECK_CASE(changed > all / 2 && !strcmp(storage_log, want), storage_log);
    storage_log[0] = 0;
    two = storage_copy(c, f, DPO_PRECISION_BF16, 0);
    CHECK(!strcmp(storage_log, want));
    storage_same(c, m, two, "copy");
    storage_same(c, m, storage_load(c, "b", DPO_PRECISION_BF16, 0), "file");
    for (i = 0; i < 3; i++) { /* F16 is finer where these weights lie, but for the smallest */
        CHECK_OK(c, dpo_model_save(m, "again", types[i]));
        storage_log[0] = 0;
        was = h.bytes;
        back = storage_load(c, "again", DPO_PRECISION_BF16, 0);
        CHECK(h.bytes - was < all * 3);
        if (types[i] != DPO_F16) {
            CHECK(!storage_log[0]);
            storage_same(c, m, back, "saved and loaded");
        } else {
            for (e = 0; e < storage_embed(f)->count; e++)
                CHECK_NEAR((double)dpo__st_value(storage_embed(back)->data, DPO_BF16, e),
                           (double)dpo__param_f32(storage_embed(f))[e], 0.02);
        }
        dpo_model_free(back);
    }
    /* F16 in the file, frozen: exactly, as F32 in memory */
    back = storage_load(c, "again", DPO_PRECISION_MIXED, 1);
    CHECK(fs->maps == 0);
    f = dpo_model_load(c, "again");
    CHECK_OK(c, dpo_model_set_precision(f, DPO_PRECISION_MIXED));
    storage_same(c, f, back, "f16");
    storage_close(c, fs, &h);
}

/* Rewrites a model file with `pad` more spaces at the header's end, or as F64. */
static void storage_pad(memfs *fs, const char *path, size_t pad) {
    memfs_file *f = memfs_find(fs, path);
    size_t n = 0, i;
    uint8_t *data = (uint8_t *)scratch_get(f->size + pad, 1);
    for (i = 0; i < 8; i++) n |= (size_t)f->data[i] << (8 * i);
    memcpy(data, f->data, 8 + n);
    memset(data + 8 + n, ' ', pad);
    memcpy(data + 8 + n + pad, f->data + 8 + n, f->size - 8 - n);
    for (i = 0; i < 8; i++) data[i] = (uint8_t)((n + pad) >> (8 * i));
    memfs_put(fs, path, data, f->size + pad);
}
static void storage_f64(memfs *fs, dpo_context *c, const char *path) {
    dpo_tensor *t;
    int64_t n, i, e;
    (void)fs;
    CHECK_OK(c, dpo_tensors_load(c, path, &t, &n));
    for (i = 0; i < n; i++) {
        double *x = SCRATCH(double, tensor_count(&t[i]));
        for (e = 0; e < tensor_count(&t[i]); e++) x[e] = (double)((float *)t[i].data)[e];
        t[i].data = x;
        t[i].dtype = DPO_F64;
    }
    CHECK_OK(c, dpo_tensors_save(c, path, t, n, NULL));
    dpo_tensors_free(c, t);
}
/* What cannot be used in place is read, with the same result. */
static void test_storage_read_instead(void) {
    static const char *const dirs[2] = {"f", "b"};
    int k;
    size_t pad;
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 3), *none;
    dpo_model *m, *read;
    uint64_t want[2];
    for (k = 0; k < 2; k++) {
        char path[40];
        m = dpo_model_load(c, dirs[k]);
        want[k] = dpo_model_hash(m);
        (void)snprintf(path, sizeof path, "%s/model.safetensors", dirs[k]);
        for (pad = 1; pad <= 8; pad++) {
            storage_pad(fs, path, 1);
            read = storage_load(c, dirs[k], DPO_PRECISION_FP32, 1);
            storage_same(c, m, read, "shifted");
            CHECK(storage_embed(read)->dtype == (k ? DPO_BF16 : DPO_F32));
            CHECK(!storage_embed(m)->own && !storage_embed(read)->own == !(pad % (k ? 2 : 4)));
            dpo_model_free(read);
            CHECK(fs->maps == 0);
        }
        fs->transient = 1;
        for (pad = 1; pad < 60; pad++) { /* any operation fails: an error, or the same model */
            fs->ops = 0;
            fs->fail_at = (int64_t)pad;
            {
                dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
                read = dpo_model_load_as(c, dirs[k], &how);
            }
            fs->fail_at = 0;
            CHECK(read ? dpo_model_hash(read) == want[k] && !dpo_status(c) : dpo_status(c) == DPO_E_IO);
            dpo_clear(c);
            dpo_model_free(read);
            CHECK(fs->maps == 0 && fs->handles == 0);
        }
    }
    memfs_maps(fs, 0);
    none = memfs_context(fs, NULL, 1, 0);
    read = storage_load(none, "b", DPO_PRECISION_FP32, 1);
    CHECK(fs->maps == 0 && read && dpo_model_hash(read) == want[1] && storage_embed(read)->dtype == DPO_BF16);
    dpo_close(none);
    fs->io.map = memfs_map; /* without unmap: not used */
    none = memfs_context(fs, NULL, 1, 0);
    read = storage_load(none, "b", DPO_PRECISION_FP32, 1);
    CHECK(fs->maps == 0 && read && dpo_model_hash(read) == want[1]);
    dpo_close(none);
    storage_f64(fs, c, "b/model.safetensors");
    read = storage_load(c, "b", DPO_PRECISION_FP32, 1);
    CHECK(fs->maps == 0 && read && dpo_model_hash(read) == want[1] && storage_embed(read)->dtype == DPO_F32);
    read = storage_load(c, "b", DPO_PRECISION_BF16, 0);
    CHECK(read && dpo_model_hash(read) == want[1] && storage_embed(read)->dtype == DPO_BF16);
    storage_close(c, fs, &h);
}

/* A model in two files, which hold every other tensor; `twice` is in both, `lost` in none (indices, -1: none). */
static void storage_shards(memfs *fs, dpo_context *c, const char *from, int64_t twice, int64_t lost) {
    dpo_tensor *t, *part;
    int64_t n, i, k, m;
    char path[64];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", from);
    CHECK_OK(c, dpo_tensors_load(c, path, &t, &n));
    part = SCRATCH(dpo_tensor, n);
    for (k = 0; k < 2; k++) {
        for (i = m = 0; i < n; i++)
            if ((i % 2 == k || i == twice) && i != lost) part[m++] = t[i];
        CHECK_OK(c, dpo_tensors_save(c, k ? "s/two.safetensors" : "s/one.safetensors", part, m, NULL));
    }
    dpo_tensors_free(c, t);
    (void)snprintf(path, sizeof path, "%s/config.json", from);
    memfs_copy(fs, path, "s/config.json");
    memfs_text(fs, "s/model.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"one.safetensors\"}}");
}
static void test_storage_shards(void) {
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 4);
    dpo_model *m;
    storage_shards(fs, c, "f", -1, -1);
    m = storage_load(c, "s", DPO_PRECISION_FP32, 1);
    CHECK(fs->maps == 2);
    storage_same(c, dpo_model_load(c, "f"), m, "two files");
    dpo_model_free(m);
    CHECK(fs->maps == 0);
    storage_shards(fs, c, "f", 4, -1);
    CHECK(!dpo_model_load_as(c, "s", &how) && dpo_status(c) == DPO_E_FORMAT && strstr(dpo_error(c), "two files"));
    dpo_clear(c);
    storage_shards(fs, c, "f", -1, 3);
    CHECK(!dpo_model_load_as(c, "s", &how) && dpo_status(c) == DPO_E_FORMAT && strstr(dpo_error(c), "is missing"));
    dpo_clear(c);
    CHECK(fs->maps == 0);
    storage_close(c, fs, &h);
}

static void test_storage_errors(void) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 0);
    dpo_model *m = dpo_model_load(c, "f"), *frozen = storage_load(c, "f", DPO_PRECISION_BF16, 1), *half;
    double x[2], y[2];
    int p;
    CHECK(dpo_model_set_precision(m, DPO_PRECISION_BF16) == DPO_E_ARG && strstr(dpo_error(c), "dpo_load_config"));
    CHECK(dpo_model_precision_of(m) == DPO_PRECISION_FP32);
    dpo_clear(c);
    for (p = -1; p <= 3; p += 4) {
        how.precision = p;
        CHECK(dpo_model_set_precision(m, p) == DPO_E_ARG && strstr(dpo_error(c), "dpo_model_set_precision"));
        dpo_clear(c);
        CHECK(!dpo_model_load_as(c, "f", &how) && dpo_status(c) == DPO_E_ARG);
        CHECK(dpo_model_copy(m, NULL) == NULL); /* while there is an error */
        dpo_clear(c);
        CHECK(!dpo_model_copy(m, &how) && dpo_status(c) == DPO_E_ARG && strstr(dpo_error(c), "dpo_model_copy"));
        dpo_clear(c);
    }
    CHECK(!dpo_model_load_as(c, NULL, NULL) && dpo_status(c) == DPO_E_ARG);
    dpo_clear(c);
    CHECK(!dpo_model_load_as(NULL, "f", NULL) && !dpo_model_copy(NULL, NULL));
    CHECK(dpo_model_set_precision(NULL, 0) == DPO_E_ARG && dpo_model_precision_of(NULL) == DPO_PRECISION_FP32);
    /* F32 in a file that does not move: its operands are rounded on the way in, as mixed's are */
    CHECK_OK(c, dpo_model_set_precision(m, DPO_PRECISION_MIXED));
    storage_logps(c, m, x);
    storage_logps(c, frozen, y);
    CHECK(!memcmp(x, y, sizeof x));
    CHECK_OK(c, dpo_model_set_precision(frozen, DPO_PRECISION_FP32));
    storage_logps(c, frozen, y);
    CHECK(memcmp(x, y, sizeof x) != 0);
    half = storage_copy(c, m, DPO_PRECISION_BF16, 0);
    CHECK_OK(c, dpo_model_set_precision(half, DPO_PRECISION_MIXED));
    CHECK_OK(c, dpo_model_set_precision(half, DPO_PRECISION_BF16));
    storage_close(c, fs, &h);
}
/* A NaN in a mapped matrix is not looked for, and does not hide. */
static void test_storage_nan(void) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 0);
    dpo_model *m = dpo_model_load(c, "f");
    dpo_tensor *t;
    double x[2];
    tiny_tensors(m, 0, &t);
    for (; strcmp(t->name, "embed_out.weight") != 0; t++) {
    }
    ((float *)t->data)[3] = (float)NAN;
    CHECK_OK(c, dpo_model_save(m, "nan", DPO_F32));
    for (how.precision = 0; how.precision < 3; how.precision++) {
        CHECK(!dpo_model_load_as(c, "nan", &how) && dpo_status(c) == DPO_E_NONFINITE);
        dpo_clear(c);
    }
    m = storage_load(c, "nan", DPO_PRECISION_FP32, 1);
    x[0] = 0;
    if (m) {
        forest *f = SCRATCH(forest, 1);
        int32_t ids[4] = {1, 9, 2, 0};
        forest_add(f, -1, ids, 4, 0);
        CHECK(dpo_model_logps(m, &f->b, x) == DPO_E_NONFINITE || x[0] != x[0]);
        dpo_clear(c);
    }
    storage_close(c, fs, &h);
}

/* Adapters over a base that is kept in one way or another: the bits of a run, and of the merged model. */
static uint64_t storage_lora(dpo_context *c, dpo_model *m, int family) {
    tiny_run r = run_of(family, 1, 1);
    dpo_train_config k = tiny_config(&r);
    dpo_data *d = tiny_data(c, 1, 0, TINY_PAIRS);
    dpo_trainer *t;
    dpo_model *merged;
    dpo_metrics s;
    dpo_tensor *x;
    uint64_t h = 1;
    int64_t n, i;
    memset(&s, 0, sizeof s);
    if (!m || !tiny_lora(c, m, family, 3, 1, 9)) return 0;
    t = dpo_trainer_create(m, d, &k);
    if (!CHECK_OK(c, t ? 0 : -1)) return 0;
    for (i = 0; i < 3; i++) CHECK_OK(c, dpo_trainer_step(t, &s));
    h = hash_bytes(h, &s.loss, sizeof s.loss);
    n = tiny_tensors(m, 1, &x);
    for (i = 0; i < n; i++) h = hash_bytes(h, x[i].data, (size_t)tensor_count(&x[i]) * 4);
    dpo_trainer_free(t);
    if (!strstr(tiny_targets[family], "lm_head")) {
        merged = dpo_lora_merge(m);
        if (CHECK_OK(c, merged ? 0 : -1)) {
            n = tiny_tensors(merged, 0, &x);
            for (i = 0; i < n; i++) CHECK(x[i].dtype == DPO_F32);
            CHECK(dpo_model_precision_of(merged) ==
                  (dpo_model_precision_of(m) ? DPO_PRECISION_MIXED : DPO_PRECISION_FP32));
            n = (int64_t)dpo_model_hash(merged);
            h = hash_bytes(h, &n, sizeof n);
        }
        dpo_model_free(merged);
    }
    return h;
}
static void test_storage_lora(void) {
    int f, p;
    for (f = 0; f < TINY_FAMILIES; f++)
        for (p = DPO_PRECISION_FP32; p <= DPO_PRECISION_MIXED; p++) {
            memfs *fs = memfs_new();
            heap h;
            dpo_context *c = storage_open(fs, &h, f);
            dpo_model *m = dpo_model_load(c, "b"), *map = storage_load(c, "b", p, 1);
            uint64_t want, base = dpo_model_hash(m);
            CHECK_OK(c, dpo_model_set_precision(m, p));
            want = storage_lora(c, m, f);
            CHECK_CASE(want && storage_lora(c, map, f) == want, tiny_names[f]);
            CHECK(dpo_model_hash(map) == base);
            if (p == DPO_PRECISION_MIXED)
                CHECK_CASE(storage_lora(c, storage_load(c, "b", DPO_PRECISION_BF16, 1), f) == want, tiny_names[f]);
            storage_close(c, fs, &h);
        }
}

/* Everything that takes memory here, with each request refused once, or from then on. */
static int storage_scenario(memfs *fs, heap *h, uint64_t *bits) {
    static const dpo_load_config frozen = {DPO_PRECISION_MIXED, 1, 0, 0}, bf16 = {DPO_PRECISION_BF16, 0, 0, 0};
    dpo_lora_config l = dpo_lora_defaults(DPO_QWEN2);
    dpo_context *c = memfs_context(fs, h, 1, 0);
    dpo_model *m, *two = NULL, *three = NULL, *four = NULL;
    int code;
    *bits = 0;
    if (!c) return DPO_E_MEMORY;
    m = dpo_model_load_as(c, "s", &frozen);
    if (m) (void)dpo_lora_attach(m, &l, 3);
    if (m) two = dpo_model_copy(m, &bf16);
    if (two) three = dpo_lora_merge(m);
    if (three) four = dpo_model_copy(m, &frozen);
    if (four) (void)dpo_model_save(two, "s2", DPO_F16);
    if (!dpo_status(c)) *bits = dpo_model_hash(four) ^ dpo_model_hash(two) * 3;
    if (h->calls % 2) dpo_model_free(m); /* else by dpo_close */
    code = dpo_status(c);
    dpo_close(c);
    return code;
}
static void test_storage_faults(void) {
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 4);
    uint64_t bits, want;
    int64_t calls, k;
    int transient;
    storage_shards(fs, c, "b", -1, -1);
    storage_pad(fs, "s/one.safetensors", 3); /* one file is read, one mapped */
    dpo_close(c);
    memset(&h, 0, sizeof h);
    CHECK(storage_scenario(fs, &h, &want) == DPO_OK);
    calls = h.calls;
    CHECK(calls > 30);
    for (transient = 0; transient < 2; transient++)
        for (k = 1; k <= calls; k++) {
            char text[64];
            int r;
            memset(&h, 0, sizeof h);
            h.fail_at = k;
            h.transient = transient;
            r = storage_scenario(fs, &h, &bits);
            (void)snprintf(text, sizeof text, "allocation %ld of %ld", (long)k, (long)calls);
            CHECK_CASE(r == DPO_E_MEMORY || (transient && !r && bits == want), text);
            CHECK_CASE(h.live == 0 && h.bytes == 0 && fs->maps == 0 && fs->handles == 0, text);
        }
    memfs_free(fs);
}

/* The size that the layout function says, for each storage. */
static void test_storage_layout(void) {
    static const int types[3] = {DPO_F32, DPO_BF16, 0};
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c = storage_open(fs, &h, 3);
    dpo_model_config k;
    int i;
    CHECK_OK(c, dpo_model_config_read(c, "f", &k));
    for (i = 0; i < 3; i++) {
        dpo__arena a = {NULL, 0};
        dpo_model *m = NULL;
        int64_t text, at;
        dpo__model_layout(&a, &k, 1, types[i], &m);
        at = h.bytes;
        m = storage_load(c, "b", types[i] == DPO_BF16 ? DPO_PRECISION_BF16 : DPO_PRECISION_FP32, !types[i]);
        text = (int64_t)strlen(tiny_configs[3]) + 1 + BLOCK;
        if (!types[i]) text += (int64_t)sizeof(dpo__mapping) + BLOCK;
        CHECK(h.bytes - at == (int64_t)a.used + text + BLOCK);
        dpo_model_free(m);
    }
    storage_close(c, fs, &h);
}

/* Real files: mapped, saved into their own directory, used all the while. */
static void test_storage_disk(void) {
    static const char *const names[2] = {"config.json", "model.safetensors"};
    const char *base = getenv("TMPDIR");
    char dir[512], path[600];
    dpo_desc desc;
    dpo_context *c;
    dpo_model_config k;
    dpo_model *m, *map;
    uint64_t want;
    int i;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 2;
    c = dpo_open(&desc);
    (void)snprintf(dir, sizeof dir, "%s/dpo-storage-XXXXXX", base && strlen(base) < 400 ? base : ".");
    if (!CHECK(c && mkdtemp(dir))) return;
    {
        memfs *fs = memfs_new();
        dpo_context *other = memfs_context(fs, NULL, 1, 0);
        k = *dpo_model_config_of(tiny_model(other, fs, 3, 5));
        dpo_close(other);
        memfs_free(fs);
    }
    m = dpo_model_create(c, &k, 5);
    tiny_randomize(m, 5);
    CHECK_OK(c, dpo_model_save(m, dir, DPO_BF16));
    dpo_model_free(m);
    m = dpo_model_load(c, dir);
    map = storage_load(c, dir, DPO_PRECISION_FP32, 1);
    if (m && map) {
        want = dpo_model_hash(m);
        CHECK(storage_embed(map)->own == NULL && c->mappings && !c->mappings->next);
        storage_same(c, m, map, "mapped");
        CHECK_OK(c, dpo_model_save(map, dir, DPO_F32)); /* over the very file */
        storage_same(c, m, map, "mapped, its file replaced");
        dpo_model_free(map);
        CHECK(!c->mappings);
        map = storage_load(c, dir, DPO_PRECISION_FP32, 1);
        CHECK(map && dpo_model_hash(map) == want && storage_embed(map)->dtype == DPO_F32);
    }
    dpo_close(c);
    for (i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    CHECK(!rmdir(dir));
}
