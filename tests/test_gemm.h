/* test_gemm.h - matrix products: every form, type, size, path and number of threads against a plain chain, bit for
   bit. Uses dpo.h's internals. */

typedef struct gemm_case {
    int64_t m, n, k;
    int a_along, b_along; /* k is contiguous in it */
    int a_dtype, b_dtype, bf16;
    int init;    /* 0 nothing, 1 bias, 2 accumulate */
    int special; /* among the numbers: 1 subnormal ones and zeros, 2 also NaN and infinity */
} gemm_case;

static float gemm_number(int special) {
    static const float odd[8] = {0.0f, -0.0f, 1e-40f, -3e-42f, 1.17e-38f, 3e-20f, -2e-19f, 1e19f};
    if (special == 2 && rng_below(400) == 0) return rng_below(2) ? (float)dpo__num_nan() : (float)dpo__num_inf();
    if (special && rng_below(4) == 0) return odd[rng_below(8)];
    return (float)((double)(rng() >> 40) / 16777216.0 * 2.0 - 1.0);
}
/* An operand [rows, columns]; `value` receives it as floats, row-major, as the product is to see it. */
static dpo__operand gemm_operand(int64_t rows, int64_t columns, int row_major, int dtype, int bf16, int special,
                                 float *value) {
    int64_t ld = (row_major ? columns : rows) + (rng_below(2) ? rng_below(4) : 0), size, i, j;
    dpo__operand o = {NULL, row_major ? ld : 1, row_major ? 1 : ld, dtype};
    int64_t off = rng_below(9); /* a mapped file's tensors lie anywhere */
    float *x;
    uint16_t *h;
    size = (row_major ? rows : columns) * ld;
    x = SCRATCH(float, size + off + 1) + off;
    h = SCRATCH(uint16_t, size + off + 1) + off;
    for (i = 0; i < size; i++) {
        x[i] = gemm_number(special);
        h[i] = dpo__num_bf16_from(x[i]);
    }
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++) {
            int64_t at = i * o.row + j * o.col;
            value[i * columns + j] = dtype == DPO_BF16 || bf16 ? dpo__num_bf16_to(dpo__num_bf16_from(x[at])) : x[at];
        }
    o.data = dtype == DPO_BF16 ? (const void *)h : (const void *)x;
    return o;
}
/* the same bits, or both no number */
static int gemm_same(const float *a, const float *b, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++)
        if (dpo__num_bits(a[i]) != dpo__num_bits(b[i]) && (a[i] == a[i] || b[i] == b[i])) return 0;
    return 1;
}
/* C lies in a wider matrix whose other columns must stay. */
static void gemm_try(dpo_context **contexts, int n_contexts, const gemm_case *t) {
    int64_t row = t->n + 3, i, j, p;
    float *a = SCRATCH(float, t->m * t->k + 1), *b = SCRATCH(float, t->k * t->n + 1), *bias = SCRATCH(float, t->n);
    float *start = SCRATCH(float, t->m *row), *want = SCRATCH(float, t->m *row), *got = SCRATCH(float, t->m *row);
    int x, packed;
    dpo__gemm g;
    memset(&g, 0, sizeof g);
    g.m = t->m;
    g.n = t->n;
    g.k = t->k;
    g.a = gemm_operand(t->m, t->k, t->a_along, t->a_dtype, t->bf16, t->special, a);
    g.b = gemm_operand(t->k, t->n, !t->b_along, t->b_dtype, t->bf16, t->special, b);
    g.c = got;
    g.c_row = row;
    g.accumulate = t->init == 2;
    g.bf16 = t->bf16;
    for (i = 0; i < t->n; i++) bias[i] = gemm_number(t->special ? 1 : 0);
    g.bias = t->init == 1 ? bias : NULL;
    for (i = 0; i < t->m * row; i++) want[i] = start[i] = gemm_number(0);
    for (i = 0; i < t->m; i++)
        for (j = 0; j < t->n; j++) {
            float s = t->init == 2 ? start[i * row + j] : t->init == 1 ? bias[j] : 0.0f;
            for (p = 0; p < t->k; p++) s = dpo__num_fmaf(a[i * t->k + p], b[p * t->n + j], s);
            want[i * row + j] = s;
        }
    for (x = 0; x < n_contexts; x++)
        for (packed = 0; packed < 2; packed++) {
            dpo_context *c = contexts[x];
            int half = t->bf16 || t->b_dtype == DPO_BF16;
            char name[256];
            if (packed && half && !t->bf16) continue; /* panels in bf16 go with operands in bf16 */
            memcpy(got, start, (size_t)(t->m * row) * 4);
            g.b_panels = NULL;
            if (packed) {
                size_t size = dpo__gemm_packed_size(&c->kernels, t->k, t->n, half);
                void *to = (void *)(((uintptr_t)scratch_get(size + 64, 1) + 63) & ~(uintptr_t)63);
                dpo__gemm_pack_all(c, g.b, t->k, t->n, half, to);
                g.b_panels = to;
            }
            dpo__gemm_run(c, &g);
            (void)snprintf(name, sizeof name,
                           "%s %ld x %ld x %ld a %s %s, b %s %s%s, bf16 %d init %d special %d threads %d",
                           c->kernels.name, (long)t->m, (long)t->n, (long)t->k, t->a_along ? "along" : "across",
                           t->a_dtype == DPO_BF16 ? "BF16" : "F32", t->b_along ? "along" : "across",
                           t->b_dtype == DPO_BF16 ? "BF16" : "F32", packed ? " packed" : "", t->bf16, t->init,
                           t->special, c->pool.n);
            CHECK_CASE(gemm_same(want, got, t->m * row), name);
        }
}
/* Every path this CPU has, with several numbers of threads. */
static int gemm_open(dpo_context **contexts, int simd_only) {
    static const int threads[4] = {1, 2, 3, 5};
    int n = 0, simd, i;
    for (simd = DPO_SIMD_SCALAR; simd <= DPO_SIMD_NEON; simd++)
        for (i = 0; i < (simd == DPO_SIMD_SCALAR ? 1 : 4); i++) {
            dpo_desc d;
            memset(&d, 0, sizeof d);
            d.simd = simd;
            d.n_threads = threads[i];
            if (simd_only && simd == DPO_SIMD_SCALAR) continue;
            contexts[n] = dpo_open(&d);
            if (contexts[n]) n++;
        }
    return n;
}
static void gemm_close(dpo_context **contexts, int n) {
    while (n > 0) dpo_close(contexts[--n]);
}
/* One of the forms and types, by number: 3 x 3 x 2 x 2 x 2 of them are some use. */
static gemm_case gemm_form(int64_t m, int64_t n, int64_t k, int form) {
    gemm_case t = {m, n, k, form & 1, form >> 1 & 1, DPO_F32, DPO_F32, form >> 4 & 1, 0, 0};
    if (form & 4) t.a_dtype = DPO_BF16;
    if (form & 8) t.b_dtype = DPO_BF16;
    return t;
}
#define GEMM_FORMS 32

static void test_gemm_sizes(void) {
    static const int64_t shapes[][3] = {{1, 1, 1},     {1, 7, 3},     {3, 1, 17},   {7, 17, 33},  {12, 32, 16},
                                        {13, 33, 17},  {5, 64, 64},   {33, 17, 1},  {2, 3, 0},    {25, 70, 129},
                                        {17, 31, 385}, {6, 16, 768},  {193, 33, 5}, {3, 1030, 9}, {64, 48, 50},
                                        {1, 200, 531}, {2, 200, 100}, {11, 90, 37}, {30, 8, 300}, {200, 150, 270}};
    dpo_context *contexts[32];
    dpo__fpenv env;
    int n = gemm_open(contexts, 0), form, i;
    size_t s;
    env = dpo__fp_enter();
    for (s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (form = 0; form < GEMM_FORMS; form++) {
            gemm_case t = gemm_form(shapes[s][0], shapes[s][1], shapes[s][2], form);
            t.init = form % 3;
            gemm_try(contexts, n, &t);
            scratch_free();
        }
    for (i = 0; i < 400; i++) { /* 1..70 in each dimension, few rows more often */
        gemm_case t =
            gemm_form(1 + rng_below(i % 2 ? 13 : 70), 1 + rng_below(70), rng_below(71), rng_below(GEMM_FORMS));
        t.init = rng_below(3);
        gemm_try(contexts, n, &t);
        scratch_free();
    }
    dpo__fp_leave(env);
    gemm_close(contexts, n);
}
/* Subnormal numbers are zeros, of operands as of results; NaN and infinity go through. */
static void test_gemm_special(void) {
    dpo_context *contexts[32];
    dpo__fpenv env;
    int n = gemm_open(contexts, 0), i;
    env = dpo__fp_enter();
    for (i = 0; i < 300; i++) {
        gemm_case t = gemm_form(1 + rng_below(40), 1 + rng_below(60), 1 + rng_below(60), rng_below(GEMM_FORMS));
        t.init = rng_below(3);
        t.special = 1 + rng_below(2);
        gemm_try(contexts, n, &t);
        scratch_free();
    }
    dpo__fp_leave(env);
    gemm_close(contexts, n);
}
/* Blocks of k, of rows and of columns: sizes beyond each, against the scalar path. */
static void test_gemm_blocks(void) {
    static const int64_t shapes[][3] = {{DPO__MC + 7, 40, 2 * DPO__KC + 3},
                                        {2 * DPO__MC + 31, DPO__NC + 90, 20},
                                        {30, 2 * DPO__NC + 1, 3},
                                        {1, 300, 3 * DPO__KC + 1},
                                        {4, 100, 5000},
                                        {12, 40, 9000}};
    dpo_context *contexts[32];
    dpo__fpenv env;
    int n = gemm_open(contexts, 1), form;
    size_t s;
    env = dpo__fp_enter();
    for (s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (form = 0; form < GEMM_FORMS; form += 5) {
            gemm_case t = gemm_form(shapes[s][0], shapes[s][1], shapes[s][2], form);
            t.init = form % 3;
            gemm_try(contexts, n, &t);
            scratch_free();
        }
    dpo__fp_leave(env);
    gemm_close(contexts, n);
}
/* Few rows by weights as they lie, each way a linear layer asks for it: whole cache lines of k and their rests, columns
   of which the last tile hangs over, more workers than tiles, k beyond what is converted at once. */
static void test_gemm_few(void) {
    static const int64_t shapes[][2] = {
        {16, 32}, {33, 64},  {47, 31}, {32, 48},  {95, 1024},
        {64, 15}, {161, 97}, {17, 1},  {130, 80}, {40, DPO__PACK_FLOATS / DPO__FEW + 5}};
    dpo_context *contexts[32];
    dpo__fpenv env;
    int n = gemm_open(contexts, 1), form, m;
    size_t s;
    env = dpo__fp_enter();
    for (s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (m = 1; m <= (shapes[s][1] > 5000 ? 1 : DPO__FEW + 1); m++)
            for (form = 3; form < GEMM_FORMS; form += 4) { /* k contiguous in both */
                gemm_case t = gemm_form(m, shapes[s][0], shapes[s][1], form);
                t.init = (form / 4 + m) % 3;
                t.special = m % 3;
                gemm_try(contexts, n, &t);
                scratch_free();
            }
    dpo__fp_leave(env);
    gemm_close(contexts, n);
}
/* A plain double product: the chain is the right one, not only the same one. */
static void test_gemm_values(void) {
    dpo_context *c = dpo_open(NULL);
    int64_t m = 19, n = 23, k = 41, i, j, p;
    float *a = rng_floats(m * k, 1.0), *b = rng_floats(k * n, 1.0), *y = SCRATCH(float, m *n);
    double *want = SCRATCH(double, m *n);
    dpo__gemm g = dpo__gemm_of(m, n, k, a, k, 1, b, n, 1, y, n);
    dpo__gemm_run(c, &g);
    for (i = 0; i < m; i++)
        for (j = 0; j < n; j++)
            for (p = 0; p < k; p++) want[i * n + j] += (double)a[i * k + p] * (double)b[p * n + j];
    CHECK_NEAR(relative_error(y, want, m * n), 0.0, 1e-6);
    dpo_close(c);
}
