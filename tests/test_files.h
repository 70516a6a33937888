/* test_files.h - section FILES from the outside: tensors written and read one at a time, checksums, conversions.
   Included by test.c. */

/* Tensors of every dtype, of 0 to 8 dimensions, among them empty ones. */
#define FILES_TENSORS 26
static void files_tensors(dpo_tensor *t) {
    static const char *const names[FILES_TENSORS] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m",
                                                     "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z"};
    int i, k;
    for (i = 0; i < FILES_TENSORS; i++) {
        int64_t n = 1, bytes, j;
        memset(&t[i], 0, sizeof t[i]);
        t[i].name = names[i];
        t[i].dtype = DPO_F32 + i % DPO_BOOL;
        t[i].ndim = i % (DPO_MAX_DIMS + 1);
        for (k = 0; k < DPO_MAX_DIMS; k++) t[i].shape[k] = k < t[i].ndim ? 1 + rng_below(k < 3 ? 9 : 2) : 1;
        if (i == 10) t[i].shape[0] = 0;
        for (k = 0; k < t[i].ndim; k++) n *= t[i].shape[k];
        bytes = n * (int64_t)dpo_dtype_size(t[i].dtype);
        t[i].data = SCRATCH(uint8_t, bytes);
        for (j = 0; j < bytes; j++) ((uint8_t *)t[i].data)[j] = (uint8_t)rng();
        if (t[i].dtype == DPO_BOOL)
            for (j = 0; j < bytes; j++) ((uint8_t *)t[i].data)[j] &= 1;
    }
}
static size_t files_bytes(const dpo_tensor *t) {
    int64_t n = 1;
    int k;
    for (k = 0; k < t->ndim; k++) n *= t->shape[k];
    return (size_t)n * dpo_dtype_size(t->dtype);
}
static dpo_context *files_open(memfs *fs) {
    dpo_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    desc.io = &fs->io;
    return dpo_open(&desc);
}

typedef struct files_lender {
    const dpo_tensor *tensors;
    uint8_t *buffer; /* overwritten at each call, as a reader's would be */
    int64_t calls, refuse;
} files_lender;
static const void *files_fetch(void *user, int64_t i) {
    files_lender *l = (files_lender *)user;
    if (++l->calls == l->refuse) return NULL;
    memcpy(l->buffer, l->tensors[i].data, files_bytes(&l->tensors[i]));
    return l->buffer;
}

/* Objects of many keys: a key twice is found, keys made to have one hash are refused, other keys are as they are. */
static void files_json_keys(dpo_context *c) {
    enum { KEYS = 40, MASK = 63 };
    dpo_json *j = dpo_json_create(c);
    char *text = SCRATCH(char, 4096), key[16];
    const char *why;
    size_t at;
    int kind, n, i;
    for (kind = 0; kind < 3; kind++) { /* ordinary ones, the last of them twice, colliding ones */
        size_t size = (size_t)sprintf(text, "{");
        for (n = i = 0; n < KEYS; i++) {
            uint64_t h = 0;
            const char *p;
            (void)sprintf(key, "key%d", kind == 1 && n == KEYS - 1 ? i - 1 : i);
            for (p = key; *p; p++) h = (h ^ (uint64_t)*p) * 0x9fb21c651e98df25u + (h >> 32);
            if (kind < 2 || !(dpo__mix(h) & MASK))
                size += (size_t)sprintf(text + size, "%s\"%s\":%d", n++ ? "," : "", key, i);
        }
        (void)sprintf(text + size, "}");
        CHECK(dpo_json_parse(j, text, strlen(text), &why, &at) == (kind ? DPO_E_FORMAT : DPO_OK));
        CHECK(strstr(why, kind > 1 ? "same hash" : kind ? "twice" : "") != NULL);
        CHECK(kind != 1 || at == (size_t)(strrchr(text, 'k') - text) - 1);
        CHECK(kind || (dpo_json_count(j, 0) == KEYS && dpo_json_find(j, 0, "key39") == 80));
    }
    dpo_json_free(j);
}

static void test_files_one_at_a_time(void) {
    static const char *const metadata[] = {"format", "pt", "dpo_checksums", "of another file", "k", "v\"\\ \n", NULL};
    memfs *fs = memfs_new();
    dpo_context *c = files_open(fs);
    dpo_tensor t[FILES_TENSORS], got[FILES_TENSORS], empty[FILES_TENSORS];
    files_lender l = {t, SCRATCH(uint8_t, 1 << 20), 0, 0};
    uint8_t *x = SCRATCH(uint8_t, 1 << 20);
    dpo_tensors_file *f;
    int64_t i;
    int k;
    files_json_keys(c);
    files_tensors(t);
    CHECK_OK(c, dpo_tensors_save(c, "whole", t, FILES_TENSORS, metadata));
    memcpy(empty, t, sizeof t);
    for (i = 0; i < FILES_TENSORS; i++) empty[i].data = NULL;
    CHECK_OK(c, dpo_tensors_save_from(c, "pieces", empty, FILES_TENSORS, metadata, files_fetch, &l));
    CHECK(l.calls == 2 * (FILES_TENSORS - 1)); /* an empty one is not asked for */
    CHECK(memfs_find(fs, "whole")->size == memfs_find(fs, "pieces")->size);
    CHECK_SAME(memfs_find(fs, "whole")->data, memfs_find(fs, "pieces")->data, memfs_find(fs, "whole")->size);
    f = dpo_tensors_open(c, "pieces");
    CHECK(f && dpo_tensors_list(f, NULL, 0) == FILES_TENSORS && dpo_tensors_list(f, got, 3) == FILES_TENSORS);
    dpo_tensors_list(f, got, FILES_TENSORS);
    for (i = 0; i < FILES_TENSORS; i++) {
        size_t bytes = files_bytes(&t[i]);
        CHECK(!strcmp(got[i].name, t[i].name) && got[i].dtype == t[i].dtype && got[i].ndim == t[i].ndim);
        for (k = 0; k < DPO_MAX_DIMS; k++) CHECK(got[i].shape[k] == t[i].shape[k]);
        CHECK_OK(c, dpo_tensors_read(f, i, x, bytes));
        CHECK_SAME(x, t[i].data, bytes);
        if (bytes) {
            CHECK(dpo_tensors_read(f, i, x, bytes - 1) == DPO_E_ARG);
            dpo_clear(c);
        }
    }
    CHECK(!strcmp(dpo_tensors_metadata(f, "k"), "v\"\\ \n") && !dpo_tensors_metadata(f, "v"));
    CHECK(strlen(dpo_tensors_metadata(f, "dpo_header_checksum")) == 16);
    CHECK(strlen(dpo_tensors_metadata(f, "dpo_checksums")) == 16 * FILES_TENSORS);
    CHECK_OK(c, dpo_tensors_verify(f));
    CHECK(dpo_tensors_read(f, FILES_TENSORS, x, 1 << 20) == DPO_E_ARG);
    dpo_clear(c);
    dpo_tensors_close(f);
    for (l.refuse = 1; l.refuse <= 2 * (FILES_TENSORS - 1); l.refuse++) { /* a source that fails leaves nothing */
        l.calls = 0;
        CHECK(dpo_tensors_save_from(c, "failed", empty, FILES_TENSORS, NULL, files_fetch, &l) == DPO_E_IO);
        CHECK(!memfs_count(fs, "failed"));
        dpo_clear(c);
    }
    CHECK(fs->handles == 0);
    dpo_close(c);
    memfs_free(fs);
}

/* Every bit and every length of a file: found by verify, or by the checks of the header. */
static void test_files_checksums(void) {
    static const char *const metadata[] = {"format", "pt", NULL};
    memfs *fs = memfs_new();
    dpo_context *c = files_open(fs);
    dpo_tensor t[3];
    uint8_t *data = SCRATCH(uint8_t, 4096), *raw;
    int64_t i, size, unnoticed = 0, refused = 0;
    dpo_tensors_file *f;
    for (i = 0; i < 3; i++) {
        dpo_tensor one = {i ? i > 1 ? "weight" : "bias" : "step", data + 512 * i, DPO_F32, 1, {7, 1, 1, 1, 1, 1, 1, 1}};
        t[i] = one;
    }
    for (i = 0; i < 4096; i++) data[i] = (uint8_t)rng();
    CHECK_OK(c, dpo_tensors_save(c, "good", t, 3, metadata));
    raw = memfs_find(fs, "good")->data;
    size = (int64_t)memfs_find(fs, "good")->size;
    for (i = 0; i < size * 8 + size; i++) { /* each bit, then each length */
        memfs_put(fs, "bad", raw, (size_t)(i < size * 8 ? size : i - size * 8));
        if (i < size * 8) memfs_find(fs, "bad")->data[i / 8] ^= (uint8_t)(1 << i % 8);
        f = dpo_tensors_open(c, "bad");
        if (f && !dpo_tensors_verify(f)) unnoticed++;
        else refused += dpo_status(c) == DPO_E_FORMAT;
        dpo_clear(c);
        dpo_tensors_close(f);
    }
    CHECK(unnoticed == 0 && refused == 9 * size);
    printf("  (%lld bits and %lld lengths of a file: %lld unnoticed)\n", (long long)size * 8, (long long)size,
           (long long)unnoticed);
    memfs_text(fs, "plain", "        {\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    memset(memfs_find(fs, "plain")->data, 0, 8);
    memfs_find(fs, "plain")->data[0] = (uint8_t)(memfs_find(fs, "plain")->size - 8);
    f = dpo_tensors_open(c, "plain");
    CHECK(f && dpo_tensors_verify(f) == DPO_E_FORMAT && strstr(dpo_error(c), "no checksums"));
    dpo_clear(c);
    dpo_tensors_close(f);
    dpo_close(c);
    memfs_free(fs);
}

/* Models: verify on request, read where mapping is not wanted. */
static void test_files_verify_model(void) {
    memfs *fs = memfs_new();
    heap h;
    dpo_context *c;
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 1, 0};
    dpo_model *m;
    memfs_maps(fs, 1);
    c = storage_open(fs, &h, 0);
    m = dpo_model_load_as(c, "f", &how);
    CHECK(m && fs->maps == 1);
    dpo_model_free(m);
    how.no_map = 1;
    m = dpo_model_load_as(c, "f", &how);
    CHECK(m && fs->maps == 0);
    dpo_model_free(m);
    memfs_find(fs, "f/model.safetensors")->data[memfs_find(fs, "f/model.safetensors")->size - 5] ^= 1;
    m = dpo_model_load_as(c, "f", &how);
    CHECK(!m && dpo_status(c) == DPO_E_FORMAT && strstr(dpo_error(c), "is not what was written"));
    dpo_clear(c);
    how.verify = 0; /* one bit of a float is a float */
    m = dpo_model_load_as(c, "f", &how);
    CHECK(m != NULL);
    storage_close(c, fs, &h);
}

/* Conversions against their definition: the neighbours of a number, and which of them is nearer, or even. */
static int files_nearest(double x, uint16_t h, int dtype) {
    uint32_t bits = dtype == DPO_BF16 ? 0x7f80u : 0x7c00u, sign = h & 0x8000u, size = h & 0x7fffu;
    double at, below, above, top = dtype == DPO_BF16 ? 0x1.ffp127 : 0x1.ffep15;
    float f[3];
    uint16_t near[3];
    int i;
    for (i = 0; i < 3; i++) near[i] = (uint16_t)(sign | (size + (uint32_t)i - (size || i ? 1u : 0u)));
    if (x != x) return size > bits;
    if (!!signbit(x) != !!sign) return 0;
    x = fabs(x);
    if (size == bits) return x >= top;
    if (x >= top || size > bits) return 0;
    for (i = 0; i < 3; i++) f[i] = dtype == DPO_BF16 ? dpo__num_bf16_to(near[i]) : dpo__num_f16_to(near[i]);
    at = fabs((double)f[1]);
    below = size ? fabs((double)f[0]) : -1e300;
    above = size + 1 == bits ? (dtype == DPO_BF16 ? 0x1p128 : 0x1p16) : fabs((double)f[2]);
    if (fabs(x - at) > fabs(x - below) || fabs(x - at) > fabs(x - above)) return 0;
    if (fabs(x - at) == fabs(x - below) || fabs(x - at) == fabs(x - above)) return !(size & 1);
    return 1;
}
static void test_files_convert(void) {
    enum { N = 60000 };
    dpo_context *c = dpo_open(NULL);
    uint32_t *x = SCRATCH(uint32_t, N);
    double *d = SCRATCH(double, N);
    float *back = SCRATCH(float, N), *want = SCRATCH(float, N);
    uint16_t *h = SCRATCH(uint16_t, N);
    int64_t i, over, wrong = 0, infinite;
    int dtype;
    for (i = 0; i < N; i++) { /* any float; among them ties and the edges of the halves' range */
        x[i] = (uint32_t)rng();
        if (i % 4 == 1) x[i] = (x[i] & 0xffff0000u) | 0x8000u;
        if (i % 4 == 2) x[i] = (x[i] & 0x8fffe000u) | 0x30001000u;
        if (i % 4 == 3) x[i] = (x[i] & 0x80000fffu) | 0x477fe000u;
    }
    for (dtype = DPO_BF16; dtype <= DPO_F16; dtype++) {
        infinite = 0;
        over = dpo_tensor_convert(c, h, dtype, x, DPO_F32, N);
        for (i = 0; i < N; i++) {
            float f;
            memcpy(&f, &x[i], 4);
            wrong += !files_nearest((double)f, h[i], dtype);
            infinite += isfinite(f) && (h[i] & 0x7fffu) == (dtype == DPO_BF16 ? 0x7f80u : 0x7c00u);
        }
        CHECK(wrong == 0 && over == infinite && (dtype == DPO_BF16 || infinite > 100));
        CHECK(dpo_tensor_convert(c, back, DPO_F32, h, dtype, N) == 0);
        CHECK(dpo_tensor_convert(c, h, dtype, back, DPO_F32, N) == 0); /* what is one already stays */
        for (i = 0; i < N; i++) {
            float f = dtype == DPO_BF16 ? dpo__num_bf16_to(h[i]) : dpo__num_f16_to(h[i]);
            CHECK(!memcmp(&f, &back[i], 4) || f != f);
        }
    }
    infinite = 0;
    for (i = 0; i < N; i++) { /* doubles over all of float's range and beyond, subnormal floats too */
        d[i] = ldexp(rng_unit() * 2 - 1, (int)(rng() % 320) - 165);
        if (i % 5 == 0) d[i] = ldexp(1.0 + 0x1p-24 * (double)(rng() % 4), 127 * (int)(rng() % 2)); /* ties */
        if (i % 5 == 1) d[i] = ldexp((double)(rng() % 64) + 0.5, -149);
        want[i] = (float)d[i];
        infinite += isinf(want[i]) != 0;
    }
    d[0] = 0x1.ffffffp127; /* halfway to what is no float any more */
    want[0] = (float)INFINITY;
    infinite += 1;
    over = dpo_tensor_convert(c, back, DPO_F32, d, DPO_F64, N);
    CHECK(over == infinite && infinite > 100);
    for (i = 0; i < N; i++) CHECK(!memcmp(&want[i], &back[i], 4));
    CHECK(dpo_tensor_convert(c, back, DPO_I32, d, DPO_F64, 1) == DPO_E_ARG);
    dpo_close(c);
}
