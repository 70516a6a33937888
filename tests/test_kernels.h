/* test_kernels.h - arithmetic: functions against long double, every SIMD path against the scalar one, the pool.
   Uses dpo.h's internals. */

#define PATHS 5
static const int all_paths[PATHS] = {DPO_SIMD_SCALAR, DPO_SIMD_AVX2, DPO_SIMD_AVX512, DPO_SIMD_AVX512_BF16,
                                     DPO_SIMD_NEON};

/* ------------------------------------------------------------------ elementary functions */
static double ulps(float got, long double want) {
    float w = (float)want;
    uint32_t u;
    double step;
    float next;
    if (!(w == w) || !(got == got)) return (w == w) == (got == got) ? 0 : 1e9;
    if (w > 3e38f || w < -3e38f) return got == w ? 0 : 1e9;
    memcpy(&u, &w, 4);
    u = (u & 0x7fffffffu) + 1;
    memcpy(&next, &u, 4);
    step = (double)next - (w < 0 ? -(double)w : (double)w);
    return fabs((double)((long double)got - want)) / step;
}
typedef struct math_case {
    const char *name;
    float (*f)(float);
    long double (*ref)(long double);
    float low, high;
} math_case;
static void test_math_floats(void) {
    static const math_case cases[4] = {{"exp", dpo_math_exp, expl, -87.0f, 88.7f},
                                       {"log", dpo_math_log, logl, 1e-37f, 3e38f},
                                       {"tanh", dpo_math_tanh, tanhl, -12.0f, 12.0f},
                                       {"erf", dpo_math_erf, erfl, -6.0f, 6.0f}};
    int k, i;
    for (k = 0; k < 4; k++) {
        const math_case *m = &cases[k];
        double worst = 0;
        for (i = 0; i < 200000; i++) {
            double u = rng_unit(), x = (double)m->low + u * ((double)m->high - (double)m->low);
            double e;
            if (i & 1) x *= exp(-30.0 * rng_unit()); /* small ones, too */
            if (x < (double)m->low) continue;
            e = ulps(m->f((float)x), m->ref((long double)(float)x));
            if (e > worst) worst = e;
        }
        CHECK_CASE(worst <= 2.0, m->name);
    }
    CHECK(dpo_math_exp(0.0f) == 1.0f);
    CHECK(dpo_math_exp(-1000.0f) == 0.0f);
    CHECK(dpo_math_exp(1000.0f) > 3e38f);
    CHECK(dpo_math_log(1.0f) == 0.0f);
    CHECK(dpo_math_tanh(0.0f) == 0.0f && dpo_math_tanh(50.0f) == 1.0f && dpo_math_tanh(-50.0f) == -1.0f);
    CHECK(dpo_math_erf(0.0f) == 0.0f && dpo_math_erf(20.0f) == 1.0f && dpo_math_erf(-20.0f) == -1.0f);
}
static void test_math_doubles(void) {
    double worst = 0;
    int i;
    for (i = 0; i < 100000; i++) {
        double x = (rng_unit() - 0.5) * (i % 3 ? 50.0 : 2e5);
        double s = fabs(dpo_math_sin(x) - (double)sinl((long double)x));
        double c = fabs(dpo_math_cos(x) - (double)cosl((long double)x));
        if (s > worst) worst = s;
        if (c > worst) worst = c;
    }
    CHECK_NEAR(worst, 0.0, 3e-16);
    CHECK(dpo_math_sin(0.0) == 0.0 && dpo_math_cos(0.0) == 1.0);
}
/* Halves: every 16-bit pattern goes to float and back; rounding to nearest even in between. */
static void test_math_halves(void) {
    uint32_t h;
    int wrong16 = 0, wrong_bf = 0;
    for (h = 0; h < 65536; h++) {
        float b = dpo_f32_from_bf16((uint16_t)h), f = dpo_f32_from_f16((uint16_t)h);
        if (b == b && (h & 0x7f80u) && dpo_bf16_from_f32(b) != h) wrong_bf++; /* subnormals may be flushed */
        if (f == f && (h & 0x7c00u) && dpo_f16_from_f32(f) != h) wrong16++;
    }
    CHECK(wrong_bf == 0);
    CHECK(wrong16 == 0);
    CHECK(dpo_f32_from_f16(0x3c00) == 1.0f && dpo_f32_from_f16(0x0001) == 1.0f / 16777216.0f);
    CHECK(dpo_f16_from_f32(65519.0f) == 0x7bff && dpo_f16_from_f32(65520.0f) == 0x7c00);
    CHECK(dpo_bf16_from_f32(1.00390625f) == 0x3f80); /* ties to even, down */
    CHECK(dpo_bf16_from_f32(1.01171875f) == 0x3f82); /* and up */
    CHECK(dpo_f16_from_f32(1.00048828125f) == 0x3c00 && dpo_f16_from_f32(1.00146484375f) == 0x3c02);
}

/* ------------------------------------------------------------------ row kernels */
#define ROW 200 /* the longest row here */

/* Runs one kernel of a table on inputs that do not depend on the table; fills out[], returns its length. */
static int64_t row_kernel(const dpo__kernels *k, int which, int64_t n, const float *in[6], float *out) {
    float *a = out, *b = out + ROW, *c = out + 2 * ROW;
    float stats[2] = {0.25f, 1.5f};
    dpo__update o = {0.7f, 0.999f, 0.999f, 0.1f, 0.001f, 0.03f, 1e-8f, 0.01f};
    double d;
    memcpy(a, in[0], (size_t)n * 4);
    memcpy(b, in[1], (size_t)n * 4);
    memcpy(c, in[5], (size_t)n * 4);
    switch (which) {
    case 0: a[0] = k->dot(n, in[0], in[1]); break;
    case 1: a[0] = k->sum(n, in[0]); break;
    case 2: a[0] = k->variance(n, in[0], 0.125f); break;
    case 3:
        d = k->squares(n, in[0]);
        memcpy(a, &d, sizeof d);
        break;
    case 4: k->add(n, a, in[1]); break;
    case 5: k->axpy(n, a, 0.3f, in[1]); break;
    case 6: k->scale(n, a, in[1], -1.7f); break;
    case 7: k->norm(n, a, in[0], stats, in[1], in[2]); break;
    case 8: k->norm(n, a, in[0], stats, in[1], NULL); break;
    case 9: k->norm_sums(n, in[0], in[1], stats, in[2], stats); break;
    case 10: k->norm_back(n, a, in[1], in[2], stats, in[3], 0.1f, -0.2f, 1); break;
    case 11: k->norm_back(n, a, in[1], in[2], stats, in[3], 0.1f, -0.2f, 0); break;
    case 12: k->norm_grad(n, a, in[1], in[2], stats); break;
    case 13: k->attend(n, a, 0.35f, 0.0f, stats); break;
    case 14: k->attend(n, a, 0.35f, 0.0625f, stats); break;
    case 15: k->attend_again(n, a, 0.35f, 0.0625f, stats); break;
    case 16: k->attend_back(n, a, in[1], 0.4f, 0.35f); break;
    case 17: k->rotate(n, a, b, in[2], in[3], 1.0f); break;
    case 18: k->rotate(n, a, b, in[2], in[3], -1.0f); break;
    case 19: k->gelu(n, a, in[0]); break;
    case 20: k->gelu_back(n, a, in[1], in[0]); break;
    case 21: k->gelu_tanh(n, a, in[0]); break;
    case 22: k->gelu_tanh_back(n, a, in[1], in[0]); break;
    case 23: k->swiglu(n, a, in[0], in[1]); break;
    case 24: k->swiglu_back(n, a, b, in[2], in[0], in[1]); break;
    case 25: k->logsumexp(n, in[0], stats); break;
    case 26:
        stats[1] = 7.5f;
        k->softmax_back(n, a, stats);
        break;
    case 27: k->adamw(n, a, in[2], b, c, &o); break;
    case 28: k->rmsprop(n, a, in[2], c, &o); break;
    case 29:
        o.decay = 0.0f;
        k->rmsprop(n, a, in[2], c, &o);
        break;
    default: return 0;
    }
    memcpy(out + 3 * ROW, stats, sizeof stats);
    return 3 * ROW + 2;
}
/* Numbers of every size: ordinary, tiny, subnormal, zero of both signs, large. */
static float odd_float(int positive) {
    static const float special[8] = {0.0f, -0.0f, 1e-40f, -3e-42f, 1e-38f, 3.5f, -21.0f, 88.0f};
    float x = (float)(rng_normal() * (rng_below(4) ? 1.0 : 12.0));
    if (rng_below(12) == 0) x = special[rng_below(8)];
    return positive && x < 0 ? -x : x;
}
/* SIMD reads and writes exactly the row: the bytes around it stay. */
static void test_kernels_rows(void) {
    static const int lengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 199};
    dpo__kernels scalar, k;
    float *want = SCRATCH(float, 4 * ROW), *got = SCRATCH(float, 4 * ROW);
    float *data = SCRATCH(float, 6 * ROW);
    dpo__fpenv env = dpo__fp_enter();
    int p, which, ran = 0;
    size_t l;
    CHECK(dpo__kernels_choose(&scalar, DPO_SIMD_SCALAR));
    for (p = 1; p < PATHS; p++) {
        if (!dpo__kernels_choose(&k, all_paths[p])) continue;
        for (l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
            for (which = 0; which < 30; which++) {
                const float *in[6];
                char name[64];
                int64_t i, n;
                int r;
                for (r = 0; r < 6; r++) {
                    for (i = 0; i < ROW; i++) data[r * ROW + i] = odd_float(r == 5);
                    in[r] = data + r * ROW;
                }
                for (i = 0; i < 4 * ROW; i++) want[i] = got[i] = 1234.5f;
                n = row_kernel(&scalar, which, lengths[l], in, want);
                CHECK(n == row_kernel(&k, which, lengths[l], in, got));
                (void)snprintf(name, sizeof name, "%s kernel %d length %d", k.name, which, lengths[l]);
                CHECK_CASE(!memcmp(want, got, (size_t)n * 4), name);
                for (i = lengths[l] < 2 ? 2 : lengths[l]; i < ROW; i++) /* a double takes two places */
                    CHECK_CASE(got[i] == 1234.5f && got[ROW + i] == 1234.5f && got[2 * ROW + i] == 1234.5f, name);
                ran++;
            }
    }
    dpo__fp_leave(env);
    if (!ran) printf("  (no SIMD path on this machine: row kernels were compared with nothing)\n");
}
/* What the scalar kernels compute, against plain double arithmetic. */
static void test_kernels_values(void) {
    dpo__kernels k;
    float *x = rng_floats(37, 1.0), *y = rng_floats(37, 1.0), *s = SCRATCH(float, 37), stats[2];
    double dot = 0, sum = 0, top = -1e9, z = 0;
    int i;
    CHECK(dpo__kernels_choose(&k, DPO_SIMD_AUTO));
    for (i = 0; i < 37; i++) {
        dot += (double)x[i] * (double)y[i];
        sum += (double)x[i];
        s[i] = x[i];
        if ((double)x[i] * 0.5 - 0.25 * (36 - i) > top) top = (double)x[i] * 0.5 - 0.25 * (36 - i);
    }
    CHECK_NEAR((double)k.dot(37, x, y), dot, 1e-5);
    CHECK_NEAR((double)k.sum(37, x), sum, 1e-5);
    k.attend(37, s, 0.5f, 0.25f, stats);
    for (i = 0; i < 37; i++) z += exp((double)x[i] * 0.5 - 0.25 * (36 - i) - top);
    for (i = 0; i < 37; i++) CHECK_NEAR((double)s[i], exp((double)x[i] * 0.5 - 0.25 * (36 - i) - top) / z, 1e-6);
    CHECK_NEAR((double)stats[0], top, 1e-6);
    k.logsumexp(37, x, stats);
    for (z = 0, i = 0; i < 37; i++) z += exp((double)x[i] - (double)stats[0]);
    CHECK_NEAR((double)stats[1], z, 1e-5);
}

/* The software fma is exact: against long double where that holds the product and the sum. */
static void test_kernels_fma(void) {
    int i;
    for (i = 0; i < 200000; i++) {
        float a = (float)rng_normal(), b = (float)rng_normal(), c = (float)rng_normal();
        double exact, error, p = (double)a * (double)b;
        float want;
        if (i % 4 == 0) c = -(float)p; /* cancellation */
        exact = p + (double)c;         /* and its error, by TwoSum */
        error = (p - (exact - (exact - p))) + ((double)c - (exact - p));
        want = (float)exact;
        if (error != 0) { /* round to odd, so that the second rounding is right */
            uint64_t u;
            memcpy(&u, &exact, 8);
            if (!(u & 1)) u = (error > 0) == (exact > 0) ? u + 1 : u - 1;
            memcpy(&exact, &u, 8);
            want = (float)exact;
        }
        if (want != 0 && fabsf(want) < 1.2e-38f) continue; /* subnormal results are flushed */
        CHECK(dpo__num_fmaf(a, b, c) == want);
        if (check_failures) break;
    }
}

/* The pool runs every task once, whatever the numbers. */
static void count_task(void *arg, int64_t task, int worker) {
    (void)worker;
    ((int *)arg)[task]++;
}
static void test_pool(void) {
    int threads, round, i;
    for (threads = 1; threads <= 5; threads++) {
        dpo_desc d;
        dpo_context *c;
        int *seen = SCRATCH(int, 64);
        memset(&d, 0, sizeof d);
        d.n_threads = threads;
        c = dpo_open(&d);
        if (!CHECK(c != NULL)) return;
        for (round = 0; round < 60; round++) dpo__pool_run(&c->pool, round, count_task, seen);
        for (i = 0; i < 64; i++) CHECK(seen[i] == (i < 60 ? 59 - i : 0));
        dpo_close(c);
    }
}
