/* test_optimizer.h - elementary functions over all of the floats, rounding by chance, the optimizer's update in every
   precision. Uses dpo.h's internals; DPO_TEST_LONG=1 looks at every float there is. */

/* ------------------------------------------------------------------ elementary functions */
typedef dpo__lanes (*lanes_fn)(dpo__lanes);
#define LANES_FN(name)                                                                                                 \
    static dpo__lanes soft_##name(dpo__lanes x) { return dpo__lanes_##name(0, x); }
LANES_FN(exp)
LANES_FN(log)
LANES_FN(tanh)
LANES_FN(erf)
#undef LANES_FN
#ifdef DPO__X86
#define LANES_FN(name)                                                                                                 \
    DPO__AVX2 static void hard_##name(float *x) { dpo__lanes_store(x, dpo__lanes_##name(1, dpo__lanes_load(x))); }
#else
#define LANES_FN(name)                                                                                                 \
    static void hard_##name(float *x) { dpo__lanes_store(x, dpo__lanes_##name(0, dpo__lanes_load(x))); }
#endif
LANES_FN(exp)
LANES_FN(log)
LANES_FN(tanh)
LANES_FN(erf)
#undef LANES_FN
typedef struct sweep_case {
    const char *name;
    lanes_fn soft;
    void (*hard)(float *);
    double (*ref)(double);
} sweep_case;

/* in last places of the result; a result below 2^-126 counts as zero, one beyond the range as infinity */
static double sweep_error(float got, double want) {
    double size = fabs(want), place;
    int e;
    if (want != want || got != got) return (want != want) == (got != got) ? 0 : 1e9;
    if (size > 3.4028235677973366e38) return got == (want > 0 ? INFINITY : -INFINITY) ? 0 : 1e9;
    if (size < 0x1.00001p-126 && got == 0.0f) return 0;
    if (size < 0x1p-126) return fabs((double)got) <= 0x1p-126 ? 0 : 1e9;
    (void)frexp(size, &e);
    place = ldexp(1.0, e - 24);
    return fabs((double)got - want) / place;
}
static void test_math_sweep(void) {
    static const sweep_case cases[4] = {{"exp", soft_exp, hard_exp, exp},
                                        {"log", soft_log, hard_log, log},
                                        {"tanh", soft_tanh, hard_tanh, tanh},
                                        {"erf", soft_erf, hard_erf, erf}};
    static const uint32_t special[16] = {0,           0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u,
                                         1,           0x80000001u, 0x007fffffu, 0x807fffffu, 0x00800000u, 0x80800000u,
                                         0x7f7fffffu, 0xff7fffffu, 0x3f800000u, 0xbf800000u};
    dpo__kernels kernels;
    int k, l, avx2 = dpo__kernels_choose(&kernels, DPO_SIMD_AVX2);
    uint64_t stride = getenv("DPO_TEST_LONG") ? 1 : 257, u;
    for (k = 0; k < 4; k++) {
        double worst = 0, e;
        uint64_t differ = 0;
        float at = 0;
        for (u = 0; u < 16 + ((uint64_t)1 << 32); u += 16 * stride) {
            dpo__lanes x, y;
            float z[16];
            dpo__fpenv env = dpo__fp_enter();
            for (l = 0; l < 16; l++) {
                x.x[l] = dpo__num_float(u ? (uint32_t)(u - 16 * stride + (uint64_t)l * stride) : special[l]);
                z[l] = x.x[l];
            }
            y = cases[k].soft(x);
            if (avx2) cases[k].hard(z);
            dpo__fp_leave(env);
            for (l = 0; l < 16; l++) {
                uint32_t a = dpo__num_bits(y.x[l]), b = dpo__num_bits(z[l]);
                if (avx2 && a != b && (y.x[l] == y.x[l] || z[l] == z[l])) differ++;
                e = sweep_error(y.x[l], cases[k].ref((double)dpo__num_flush(x.x[l])));
                if (e > worst) worst = e, at = x.x[l];
            }
        }
        printf("  (%s: at most %.3f ulp, at %.9g)\n", cases[k].name, worst, (double)at);
        CHECK_CASE(worst <= 2.0, cases[k].name);
        CHECK_CASE(!differ, cases[k].name);
    }
}

/* ------------------------------------------------------------------ bf16 rows */
static float any_float(void) {
    uint32_t u = (uint32_t)rng();
    if (rng_below(3) == 0) return dpo__num_float(u);
    if (rng_below(20) == 0) return dpo__num_float((u & 0x8000ffffu) | 0x7f7f0000u); /* the largest there are */
    if (rng_below(20) == 0) return dpo__num_float((u & 0x80000001u) | 0x7f800000u); /* infinity, a signalling nan */
    return odd_float(0);
}
/* Definitions, for every path and length; the bytes beyond the row stay. */
static void test_optimizer_rows(void) {
    int p, n, i, round;
    dpo__fpenv env = dpo__fp_enter();
    for (p = 0; p < 3; p++) {
        dpo__kernels scalar, k;
        CHECK(dpo__kernels_choose(&scalar, DPO_SIMD_SCALAR));
        if (!dpo__kernels_choose(&k, all_paths[p])) continue;
        for (n = 0; n < 70; n++)
            for (round = 0; round < 8; round++) {
                float x[72], y[72], z[72];
                uint16_t h[72], g[72];
                uint64_t key = rng();
                for (i = 0; i < 72; i++) {
                    x[i] = any_float();
                    y[i] = z[i] = 77.0f;
                    h[i] = g[i] = 0x4711;
                }
                k.narrow(n, round & 1 ? h : NULL, round & 2 ? y : NULL, x);
                for (i = 0; i < n; i++) {
                    uint16_t want = dpo__num_bf16_from(x[i]);
                    CHECK(!(round & 1) || h[i] == want);
                    CHECK(!(round & 2) || dpo__num_bits(y[i]) == (uint32_t)want << 16);
                }
                CHECK(h[n] == 0x4711 && y[n] == 77.0f && h[n + 1] == 0x4711 && y[n + 1] == 77.0f);
                k.narrow_draw(n, round & 1 ? h : NULL, round & 2 ? y : NULL, x, key);
                scalar.narrow_draw(n, round & 1 ? g : NULL, round & 2 ? z : NULL, x, key);
                CHECK_SAME(h, g, sizeof h);
                CHECK_SAME(y, z, sizeof y);
                for (i = 0; i < n && (round & 1); i++) {
                    uint32_t u = dpo__num_bits(x[i]), down = u >> 16, finite = (u & 0x7f800000u) != 0x7f800000u;
                    if (finite) CHECK(h[i] == down || ((u & 0xffffu) && h[i] == down + 1 && (h[i] & 0x7f80) != 0x7f80));
                    else if (x[i] == x[i]) CHECK(h[i] == down);
                    else CHECK((h[i] & 0x7fff) > 0x7f80);
                }
                for (i = 0; i < 72; i++) h[i] = (uint16_t)rng(), y[i] = z[i] = odd_float(0);
                k.expand(n, y, h, round & 1);
                scalar.expand(n, z, h, round & 1);
                for (i = 0; i < n; i++) {
                    if (!(round & 1)) CHECK(dpo__num_bits(y[i]) == (uint32_t)h[i] << 16);
                    CHECK(dpo__num_bits(y[i]) == dpo__num_bits(z[i]) || (y[i] != y[i] && z[i] != z[i]));
                }
                CHECK(y[n] == z[n] && y[n + 1] == z[n + 1]);
            }
    }
    dpo__fp_leave(env);
}
/* The 16 random bits of each element, found by asking which fractions round up. */
static void drawn_bits(const dpo__kernels *k, uint64_t key, int n, uint32_t *r) {
    float x[1024];
    uint16_t h[1024];
    int i, b;
    for (i = 0; i < n; i++) r[i] = 0;
    for (b = 15; b >= 0; b--) { /* r >= t exactly if 65536 - t rounds up */
        for (i = 0; i < n; i++) x[i] = dpo__num_float(0x3f800000u + (65536u - (r[i] | 1u << b)));
        k->narrow_draw(n, h, NULL, x, key);
        for (i = 0; i < n; i++)
            if (h[i] != 0x3f80) r[i] |= 1u << b;
    }
}
static void test_optimizer_draws(void) {
    enum { BLOCKS = 512, N = 1024 };
    static const char *const names[6] = {"neighbour", "eight on", "next block", "next array", "next update", "bits"};
    uint32_t *r = SCRATCH(uint32_t, BLOCKS * N), *q = SCRATCH(uint32_t, 3 * N), *count = SCRATCH(uint32_t, 256);
    double n = (double)BLOCKS * N, mean = 0, together[6] = {0, 0, 0, 0, 0, 0}, chi = 0;
    int64_t ones[16];
    dpo__kernels k;
    int b, i, j;
    memset(ones, 0, sizeof ones);
    CHECK(dpo__kernels_choose(&k, DPO_SIMD_AUTO));
    for (b = 0; b < BLOCKS; b++) drawn_bits(&k, dpo__random_bits(7, 1000, 4 * (uint64_t)b), N, r + b * N);
    for (b = 0; b < BLOCKS; b++) {
        uint32_t *x = r + b * N;
        if (b < 64) {
            drawn_bits(&k, dpo__random_bits(7, 1000, 4 * (uint64_t)b + 1), N, q);
            drawn_bits(&k, dpo__random_bits(7, 1001, 4 * (uint64_t)b), N, q + N);
        }
        for (i = 0; i < N; i++) {
            double v = ((double)x[i] - 32767.5) / 18918.6; /* mean 0, variance 1 */
            mean += v;
            count[x[i] >> 8]++;
            for (j = 0; j < 16; j++) ones[j] += x[i] >> j & 1;
            if (i + 1 < N) together[0] += v * ((double)x[i + 1] - 32767.5) / 18918.6;
            if (i + 8 < N) together[1] += v * ((double)x[i + 8] - 32767.5) / 18918.6;
            if (b + 1 < BLOCKS) together[2] += v * ((double)x[i + N] - 32767.5) / 18918.6;
            if (b < 64) together[3] += v * ((double)q[i] - 32767.5) / 18918.6 * sqrt(BLOCKS / 64.0);
            if (b < 64) together[4] += v * ((double)q[i + N] - 32767.5) / 18918.6 * sqrt(BLOCKS / 64.0);
            together[5] += (x[i] & 1 ? 1 : -1) * (x[i] & 0x8000 ? 1 : -1);
        }
    }
    CHECK_NEAR(mean / sqrt(n), 0.0, 5.0); /* all in standard deviations */
    for (j = 0; j < 16; j++) CHECK_NEAR(((double)ones[j] - n / 2) / sqrt(n / 4), 0.0, 5.0);
    for (j = 0; j < 6; j++) CHECK_CASE(fabs(together[j] / sqrt(n)) < 5.0, names[j]);
    for (j = 0; j < 256; j++) chi += ((double)count[j] - n / 256) * ((double)count[j] - n / 256) / (n / 256);
    CHECK_NEAR((chi - 255) / sqrt(510.0), 0.0, 5.0);
}

/* ------------------------------------------------------------------ updates */
enum { MOVED = 5 * 1024 + 37 };
typedef struct moved {
    float w[MOVED], g[MOVED], m[MOVED], v[MOVED];
    uint16_t wh[MOVED], mh[MOVED], vh[MOVED];
} moved;
static moved *moved_new(void) {
    moved *s = SCRATCH(moved, 1);
    int i;
    for (i = 0; i < MOVED; i++) {
        s->wh[i] = dpo__num_bf16_from((float)(rng_normal() * 0.02));
        s->mh[i] = dpo__num_bf16_from((float)(rng_normal() * 0.01));
        s->vh[i] = dpo__num_bf16_from((float)(rng_unit() * 0.001));
        s->w[i] = dpo__num_bf16_to(s->wh[i]);
        s->m[i] = dpo__num_bf16_to(s->mh[i]);
        s->v[i] = dpo__num_bf16_to(s->vh[i]);
        s->g[i] = (float)(rng_normal() * 0.03);
    }
    return s;
}
static dpo__optimizer_job optimizer_job(dpo_context *c, int kind, void *w, int w_dtype, float *g, void *m, void *v,
                                        int state_dtype, uint64_t stream) {
    dpo__optimizer_job j;
    memset(&j, 0, sizeof j);
    j.c = c;
    j.kind = kind;
    j.w = w;
    j.w_dtype = w_dtype;
    j.g = g;
    j.m = m;
    j.v = v;
    j.state_dtype = state_dtype;
    j.seed = 5;
    j.stream = stream;
    return j;
}
static dpo__optimizer_job job_of(dpo_context *c, moved *s, int kind, int w_dtype, int rounding, int state_dtype) {
    dpo__optimizer_job j = optimizer_job(c, kind, w_dtype == DPO_F32 ? (void *)s->w : (void *)s->wh, w_dtype, s->g,
                                         kind != DPO_ADAMW        ? NULL
                                         : state_dtype == DPO_F32 ? (void *)s->m
                                                                  : (void *)s->mh,
                                         state_dtype == DPO_F32 ? (void *)s->v : (void *)s->vh, state_dtype, 12);
    dpo_train_config k = dpo_train_defaults(DPO_SFT);
    k.optimizer = kind;
    k.weight_decay = 0.01;
    j.rounding = rounding;
    j.o = dpo__optimizer_constants(&k, 3, 1e-3, 0.7);
    return j;
}
static dpo_context *open_with(int simd, int threads) {
    dpo_desc d;
    memset(&d, 0, sizeof d);
    d.simd = simd;
    d.n_threads = threads;
    return dpo_open(&d);
}
/* One element by the definition. */
static void move_one(const dpo__update *o, int kind, float *w, float g, float *m, float *v) {
    float d = g * o->clip, x = *w, c, b;
    if (kind == DPO_ADAMW) {
        x = x * o->decay;
        *m = dpo__num_fmaf(o->one_beta1, d - *m, *m);
    } else if (o->decay != 0.0f) d = dpo__num_fmaf(o->decay, x, d);
    c = o->one_beta2 * d;
    b = *v * o->beta2;
    *v = dpo__num_fmaf(c, d, b);
    if (kind == DPO_ADAMW) d = *m / (sqrtf(*v) / o->root_bias2 + o->eps);
    else d = d / (sqrtf(*v) + o->eps);
    *w = dpo__num_fmaf(-o->rate, d, x);
}
/* fp32 is the definition, bit for bit; the other precisions are the same on every path, thread count and split. */
static void test_optimizer_same_bits(void) {
    static const int threads[4] = {1, 2, 3, 5};
    int kind, form, p, t, i;
    for (kind = 0; kind < 2; kind++)
        for (form = 0; form < 5; form++) {
            int optimizer = kind ? DPO_RMSPROP : DPO_ADAMW, w_dtype = form == 2 || form == 3 ? DPO_BF16 : DPO_F32;
            int state = form >= 3 ? DPO_BF16 : DPO_F32;
            uint64_t seed = rng();
            moved *want = NULL;
            for (p = 0; p < 3; p++)
                for (t = 0; t < 5; t++) {
                    dpo_context *c = open_with(all_paths[p], t < 4 ? threads[t] : 1);
                    moved *s;
                    dpo__optimizer_job j;
                    dpo__fpenv env;
                    if (!c) continue;
                    rng_state = seed;
                    s = moved_new();
                    j = job_of(c, s, optimizer, w_dtype, form != 0, state);
                    env = dpo__fp_enter();
                    if (!want) {
                        moved *d = SCRATCH(moved, 1);
                        memcpy(d, s, sizeof *d);
                        for (i = 0; i < MOVED; i++) move_one(&j.o, optimizer, &d->w[i], d->g[i], &d->m[i], &d->v[i]);
                        dpo__optimizer_run(&j, MOVED);
                        if (form == 0) CHECK_SAME(s->w, d->w, sizeof s->w);
                        if (state == DPO_F32) CHECK_SAME(s->v, d->v, sizeof s->v);
                        for (i = 0; i < MOVED; i++) { /* rounded to one of the two neighbours */
                            uint32_t u = dpo__num_bits(d->w[i]),
                                     h = w_dtype == DPO_BF16 ? s->wh[i] : dpo__num_bits(s->w[i]) >> 16;
                            CHECK(form == 0 || h == u >> 16 || h == (u >> 16) + 1);
                            CHECK(s->g[i] == 0.0f);
                            CHECK(form == 0 || w_dtype == DPO_BF16 || !(dpo__num_bits(s->w[i]) & 0xffffu));
                        }
                        want = s;
                    } else if (t == 4) { /* blocks in another order: a function of the index alone */
                        dpo__optimizer_range(&j, 3072, MOVED, 0);
                        dpo__optimizer_range(&j, 1024, 3072, 0);
                        dpo__optimizer_range(&j, 0, 1024, 0);
                    } else dpo__optimizer_run(&j, MOVED);
                    CHECK_SAME(s, want, sizeof *s);
                    if (form && p == 0 && t == 0) { /* another step draws other numbers */
                        rng_state = seed;
                        s = moved_new();
                        j = job_of(c, s, optimizer, w_dtype, 1, state);
                        j.stream++;
                        dpo__optimizer_run(&j, MOVED);
                        CHECK(memcmp(s, want, sizeof *s) != 0);
                    }
                    dpo__fp_leave(env);
                    dpo_close(c);
                }
            scratch_free();
        }
}
/* Updates of 1/64 of a last place: by chance they arrive in the mean, to nearest none does. DPO's: lr 5e-7, RMSprop. */
static void test_optimizer_small_updates(void) {
    enum { N = 1 << 17 };
    dpo_context *c = dpo_open(NULL);
    uint16_t *w = SCRATCH(uint16_t, N);
    float *g = SCRATCH(float, N), *v = SCRATCH(float, N), start = dpo__num_bf16_to(0x3ca4), place = 0x1p-13f; /* 0.02 */
    int pass, i;
    for (pass = 0; pass < 2; pass++) {
        double rate = pass ? 5e-7 : (double)place / 64, sum = 0, part, steps = pass ? 50 : 1;
        int lost = 0, step;
        for (i = 0; i < N; i++) {
            w[i] = 0x3ca4;
            v[i] = 1.0f;
        }
        for (step = 0; step < (int)steps; step++) {
            dpo__fpenv env = dpo__fp_enter();
            dpo__optimizer_job j = optimizer_job(c, DPO_RMSPROP, w, DPO_BF16, g, NULL, v, DPO_F32, (uint64_t)step);
            j.rounding = 1;
            j.o.clip = j.o.beta2 = 1.0f;
            j.o.rate = (float)rate;
            for (i = 0; i < N; i++) g[i] = 1.0f; /* normalised: w moves by the rate */
            dpo__optimizer_run(&j, N);
            dpo__fp_leave(env);
        }
        for (i = 0; i < N; i++) {
            sum += ((double)start - (double)dpo__num_bf16_to(w[i])) / (double)place;
            lost += dpo__num_bf16_from(dpo__num_bf16_to(0x3ca4) - (float)rate) == 0x3ca4;
        }
        CHECK(lost == N); /* to nearest */
        part = rate * steps / (double)place;
        CHECK_NEAR(sum / N, part, 5 * sqrt(part / N) + 1e-5);
        if (pass)
            printf("  (lr 5e-7, 50 steps: moved %.3g of %.3g; to nearest 0)\n", sum / N * (double)place, rate * 50);
    }
    dpo_close(c);
}
/* v in bf16 decays in the mean; to nearest it would stand still. m goes to the gradient's mean. */
static void test_optimizer_state_decays(void) {
    enum { N = 8192 };
    dpo_context *c = dpo_open(NULL);
    float *w = SCRATCH(float, N), *g = SCRATCH(float, N);
    uint16_t *m = SCRATCH(uint16_t, N), *v = SCRATCH(uint16_t, N);
    double sum = 0, mean = 0, want = pow(0.999, 1000);
    int i, step;
    dpo_train_config k = dpo_train_defaults(DPO_SFT);
    dpo__fpenv env = dpo__fp_enter();
    k.optimizer = DPO_ADAMW;
    for (i = 0; i < N; i++) {
        v[i] = 0x3f80;
        m[i] = 0x3f80;
    }
    CHECK(dpo__num_bf16_from(0.999f * dpo__num_bf16_to(0x3f9a)) == 0x3f9a);
    for (step = 0; step < 1000; step++) {
        dpo__optimizer_job j = optimizer_job(c, DPO_ADAMW, w, DPO_F32, g, m, v, DPO_BF16, (uint64_t)step);
        j.o = dpo__optimizer_constants(&k, step + 1, 0.0, 1.0);
        for (i = 0; i < N && step < 100; i++) g[i] = 1e-4f; /* then nothing */
        dpo__optimizer_run(&j, N);
        if (step != 99) continue;
        for (i = 0; i < N; i++) mean += (double)dpo__num_bf16_to(m[i]) / N;
        CHECK_NEAR(mean, 1e-4 + pow(0.9, 100), 4e-6);
    }
    for (i = 0; i < N; i++) sum += (double)dpo__num_bf16_to(v[i]) / N;
    /* a step's variance is at most v place / 1000, place <= v / 128: over 1000 steps 9 % of v, of the mean 0.1 % */
    CHECK_NEAR(sum / want, 1.0, 0.006);
    dpo__fp_leave(env);
    dpo_close(c);
}
