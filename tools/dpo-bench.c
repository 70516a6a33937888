/* dpo-bench - how fast things are on this machine, as shares of what the machine can do in the same minute: the fused
 * multiply-adds, bytes and streams of its cores are measured between the runs of whatever is timed.
 *
 *     dpo-bench peak                                        what one and all threads can do
 *     dpo-bench gemm --vs libopenblas.so.0                  matrix products of Pythia's layers, beside another library
 *     dpo-bench step dpo --model 70m --batch 4 --seq 128    training steps with random weights
 *     dpo-bench decode --model 70m --tokens 64              prefill, then one token at a time
 *     dpo-bench optimizer --optimizer rmsprop               AdamW and RMSprop updates alone
 *     dpo-bench tokenizer --tokenizer tokenizer.json --text hh.jsonl.gz */
#include "cli.h" /* before system headers */
#include "../dpo.h"
#include "formats/gzip.h"
#include <math.h>
#if CLI_UNIX
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { BENCH_THREADS = 256, BENCH_ROUNDS = 1001 };

typedef struct bench_options {
    const char *model, *tokenizer, *text, *vs, *range, *dir;
    int batch, seq, prompt, tokens, hh, steps, threads, rank, micro_rows, simd, precision, optimizer, optimizer_dtype,
        millions, recompute, naive, mapped, quick, cpu_time, json;
    uint64_t memory;
} bench_options;

/* ---- time ------------------------------------------------------------------------------------------------------- */

static int bench_cpu_threads; /* --cpu-time: how many threads share the process's time; else 0 */

/* Seconds on the wall; or of CPU time for each thread, which does not pass while others have the cores, nor, so take
 * figures of several threads with care, while one of them sleeps waiting for another. */
static double bench_now(void) {
    return bench_cpu_threads ? (double)clock() / CLOCKS_PER_SEC / bench_cpu_threads : cli_clock();
}
/* The beginning of an object of --json, and of what is there for people. */
static void bench_json(const char *what) {
    printf("{\"bench\": \"%s\", \"clock\": \"%s\", ", what, bench_cpu_threads ? "cpu" : "wall");
}
static void bench_begin(const bench_options *o, const dpo_context *c, const char *what) {
    if (o->json) bench_json(what);
    else printf("%s%s\n", dpo_build_info(c), bench_cpu_threads ? "; CPU time" : "");
}

/* ---- the machine: loops that do nothing but multiply and add, or read ------------------------------------------- */

#if defined(__GNUC__)
#define BENCH_VECTOR(bytes) __attribute__((vector_size(bytes), may_alias))
#else
#define BENCH_VECTOR(bytes)
#endif
#define BENCH_12(X, a) X(0, a) X(1, a) X(2, a) X(3, a) X(4, a) X(5, a) X(6, a) X(7, a) X(8, a) X(9, a) X(10, a) X(11, a)
#define BENCH_24(X, a)                                                                                                 \
    BENCH_12(X, a)                                                                                                     \
    X(12, a) X(13, a) X(14, a) X(15, a) X(16, a) X(17, a) X(18, a) X(19, a) X(20, a) X(21, a) X(22, a) X(23, a)
#define BENCH_FMA_START(i, type)                                                                                       \
    type v##i;                                                                                                         \
    memcpy(&v##i, memory + 16 * i, sizeof v##i);
#define BENCH_FMA_STEP(i, fma) v##i = fma(v##i, a, b);
#define BENCH_FMA_SUM(i, add)  sum = add(sum, v##i);
enum { BENCH_SMALL = 26 * 16 }; /* floats */

/* Twelve or twenty-four sums at a time hide the latency. Each begins with numbers of its own, or the compiler would see
 * that they are all the same one. */
#define BENCH_FMA(name, target, type, operand, ALL, fma, add)                                                          \
    target static void name(long n, float *memory) {                                                                   \
        operand a, b;                                                                                                  \
        type sum;                                                                                                      \
        ALL(BENCH_FMA_START, type)                                                                                     \
        memcpy(&a, memory + 16 * 24, sizeof a);                                                                        \
        memcpy(&b, memory + 16 * 25, sizeof b);                                                                        \
        memcpy(&sum, memory, sizeof sum);                                                                              \
        for (; n > 0; n--) {                                                                                           \
            ALL(BENCH_FMA_STEP, fma)                                                                                   \
        }                                                                                                              \
        ALL(BENCH_FMA_SUM, add)                                                                                        \
        memcpy(memory, &sum, sizeof sum);                                                                              \
    }
/* All of n bytes, eight vectors at a time. */
#define BENCH_READ(name, target, bytes)                                                                                \
    target static void name(const void *from, size_t n, float *memory) {                                               \
        typedef uint64_t vec BENCH_VECTOR(bytes);                                                                      \
        const vec *p = (const vec *)from, *end = p + n / sizeof(vec);                                                  \
        vec a = p[0], b = a, c = a, d = a;                                                                             \
        for (; end - p >= 8; p += 8) {                                                                                 \
            a ^= p[0] ^ p[4];                                                                                          \
            b ^= p[1] ^ p[5];                                                                                          \
            c ^= p[2] ^ p[6];                                                                                          \
            d ^= p[3] ^ p[7];                                                                                          \
        }                                                                                                              \
        a ^= b ^ c ^ d;                                                                                                \
        memcpy(memory, &a, sizeof(uint64_t));                                                                          \
    }
/* What AdamW moves: four floats of each parameter read, three written, with next to no arithmetic. */
#define BENCH_STREAM(name, target, bytes)                                                                              \
    target static void name(float *at, size_t n) {                                                                     \
        typedef float vec BENCH_VECTOR(bytes);                                                                         \
        size_t i, count = n / 4 / sizeof(vec);                                                                         \
        vec *w = (vec *)(void *)at, *g = w + count, *m = g + count, *v = m + count;                                    \
        for (i = 0; i < count; i++) {                                                                                  \
            vec x = g[i], y = m[i] * 0.9f + x, z = v[i] * 0.99f + x * x;                                               \
            w[i] = w[i] - y * z;                                                                                       \
            m[i] = y;                                                                                                  \
            v[i] = z;                                                                                                  \
        }                                                                                                              \
    }
#define BENCH_NO_TARGET
#define BENCH_MULADD(v, a, b) ((v) * (a) + (b))
#define BENCH_ADD(a, b)       ((a) + (b))
BENCH_FMA(bench_fma_scalar, BENCH_NO_TARGET, float, float, BENCH_12, BENCH_MULADD, BENCH_ADD)
BENCH_READ(bench_read_plain, BENCH_NO_TARGET, 16)
BENCH_STREAM(bench_stream_plain, BENCH_NO_TARGET, 16)

typedef struct bench_kernels {
    const char *name;
    void (*fma)(long n, float *memory);
    double flops; /* of one round of fma */
    void (*bf16)(long n, float *memory);
    double bf16_flops;
    void (*read)(const void *from, size_t n, float *memory);
    void (*stream)(float *at, size_t n);
} bench_kernels;

#if defined(__GNUC__) && defined(__x86_64__)
#define BENCH_AVX2   __attribute__((target("avx2,fma")))
#define BENCH_AVX512 __attribute__((target("avx512f")))
BENCH_FMA(bench_fma_avx2, BENCH_AVX2, __m256, __m256, BENCH_12, _mm256_fmadd_ps, _mm256_add_ps)
BENCH_READ(bench_read_avx2, BENCH_AVX2, 32)
BENCH_STREAM(bench_stream_avx2, BENCH_AVX2, 32)
BENCH_FMA(bench_fma_avx512, BENCH_AVX512, __m512, __m512, BENCH_24, _mm512_fmadd_ps, _mm512_add_ps)
BENCH_READ(bench_read_avx512, BENCH_AVX512, 64)
BENCH_STREAM(bench_stream_avx512, BENCH_AVX512, 64)
#if __GNUC__ >= 10 || defined(__clang__)
#define BENCH_AVX512_BF16 __attribute__((target("avx512f,avx512bf16")))
BENCH_FMA(bench_bf16_avx512, BENCH_AVX512_BF16, __m512, __m512bh, BENCH_24, _mm512_dpbf16_ps, _mm512_add_ps)
#define BENCH_BF16_ROUND bench_bf16_avx512, 24 * 64
#define BENCH_HAS_BF16   __builtin_cpu_supports("avx512bf16")
#else
#define BENCH_BF16_ROUND NULL, 0
#define BENCH_HAS_BF16   0
#endif
#elif defined(__GNUC__) && defined(__aarch64__)
BENCH_FMA(bench_fma_neon, BENCH_NO_TARGET, float32x4_t, float32x4_t, BENCH_24, vfmaq_f32, vaddq_f32)
#endif

/* In the order of --simd without auto. */
static const bench_kernels bench_paths[] = {
    {"scalar", bench_fma_scalar, 24, NULL, 0, bench_read_plain, bench_stream_plain},
#if defined(__GNUC__) && defined(__x86_64__)
    {"avx2", bench_fma_avx2, 12 * 16, NULL, 0, bench_read_avx2, bench_stream_avx2},
    {"avx512", bench_fma_avx512, 24 * 32, NULL, 0, bench_read_avx512, bench_stream_avx512},
    {"avx512-bf16", bench_fma_avx512, 24 * 32, BENCH_BF16_ROUND, bench_read_avx512, bench_stream_avx512},
#elif defined(__GNUC__) && defined(__aarch64__)
    {"neon", bench_fma_neon, 24 * 8, NULL, 0, bench_read_plain, bench_stream_plain},
#endif
};
enum { BENCH_PATHS = (int)(sizeof bench_paths / sizeof bench_paths[0]) };

static int bench_path_runs(const char *name) { /* on this CPU? */
#if defined(__GNUC__) && defined(__x86_64__)
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx512")) return __builtin_cpu_supports("avx512f");
    if (!strcmp(name, "avx512-bf16")) return __builtin_cpu_supports("avx512f") && BENCH_HAS_BF16;
#endif
    (void)name;
    return 1;
}

/* ---- the machine: probes ---------------------------------------------------------------------------------------- */

enum { PROBE_FMA, PROBE_BF16, PROBE_L1, PROBE_L2, PROBE_L3, PROBE_DRAM, PROBE_STREAM, PROBES };
static const char *const probe_names[PROBES] = {"fp32 multiply-adds",  "bf16 multiply-adds", "read L1",     "read L2",
                                                "read L3 or its like", "read DRAM",          "AdamW stream"};

typedef struct bench_machine {
    const bench_kernels *k;
    int threads;
    long rounds[PROBES];  /* that take some milliseconds; 0 = not found yet */
    size_t bytes[PROBES]; /* of one thread */
    float *memory;        /* what they read, got when first needed: it counts as resident */
    float *small;         /* BENCH_SMALL of each thread */
} bench_machine;

typedef struct bench_team {
    bench_machine *m;
    int which, there;
    double start[BENCH_THREADS], end[BENCH_THREADS];
#if CLI_UNIX
    pthread_mutex_t lock;
#endif
} bench_team;
typedef struct bench_member {
    bench_team *team;
    int part;
} bench_member;

static size_t bench_cache(int which) { /* bytes of a cache as the system says, or a usual size */
    static const size_t usual[] = {32 << 10, 512 << 10, 8 << 20};
    long n = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    n = sysconf(which == PROBE_L1   ? _SC_LEVEL1_DCACHE_SIZE
                : which == PROBE_L2 ? _SC_LEVEL2_CACHE_SIZE
                                    : _SC_LEVEL3_CACHE_SIZE);
#endif
    return n > 0 ? (size_t)n : usual[which - PROBE_L1];
}

static void *bench_large(size_t bytes) { /* zeros, in huge pages if they can be had; kept until the program ends */
#if CLI_UNIX
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes); /* no page is to be the shared one of zeros */
    return p;
#else
    return calloc(bytes, 1);
#endif
}

static void bench_probe_part(bench_team *t, int part) {
    bench_machine *m = t->m;
    float *small = m->small + (size_t)part * BENCH_SMALL;
    char *at = (char *)m->memory + (size_t)part * m->bytes[t->which];
    long i;
    t->start[part] = bench_now();
    if (t->which == PROBE_FMA) m->k->fma(m->rounds[t->which], small);
    else if (t->which == PROBE_BF16) m->k->bf16(m->rounds[t->which], small);
    else
        for (i = 0; i < m->rounds[t->which]; i++) {
            if (t->which == PROBE_STREAM) m->k->stream((float *)(void *)at, m->bytes[t->which]);
            else m->k->read(at, m->bytes[t->which], small);
        }
    t->end[part] = bench_now();
}

#if CLI_UNIX
static void *bench_member_run(void *arg) { /* all start when the last one is there, without having slept */
    bench_member *w = (bench_member *)arg;
    bench_team *t = w->team;
    int wait;
    pthread_mutex_lock(&t->lock);
    t->there++;
    pthread_mutex_unlock(&t->lock);
    do {
        sched_yield();
        pthread_mutex_lock(&t->lock);
        wait = t->there < t->m->threads;
        pthread_mutex_unlock(&t->lock);
    } while (wait);
    bench_probe_part(t, w->part);
    return NULL;
}
static void bench_team_run(bench_team *t) {
    pthread_t thread[BENCH_THREADS];
    bench_member member[BENCH_THREADS];
    int i, n;
    pthread_mutex_init(&t->lock, NULL);
    for (n = 0; n < t->m->threads; n++) {
        member[n].team = t;
        member[n].part = n;
        if (n && pthread_create(&thread[n], NULL, bench_member_run, &member[n])) break;
    }
    pthread_mutex_lock(&t->lock);
    t->m->threads = n; /* less if the system has no more: those that are there wait for this many */
    pthread_mutex_unlock(&t->lock);
    bench_member_run(&member[0]);
    for (i = 1; i < n; i++) pthread_join(thread[i], NULL);
    pthread_mutex_destroy(&t->lock);
}
#else
static void bench_team_run(bench_team *t) { /* one after the other */
    int i;
    for (i = 0; i < t->m->threads; i++) bench_probe_part(t, i);
}
#endif

/* Seconds from the first one's start to the last one's end. */
static double bench_probe_seconds(bench_machine *m, int which) {
    bench_team t;
    double start, end;
    int i;
    memset(&t, 0, sizeof t);
    t.m = m;
    t.which = which;
    bench_team_run(&t);
    start = t.start[0];
    end = t.end[0];
    for (i = 1; i < m->threads; i++) {
        if (t.start[i] < start) start = t.start[i];
        if (t.end[i] > end) end = t.end[i];
    }
    return end - start;
}

static void bench_probe_prepare(bench_machine *m, int which) { /* sizes, memory, and rounds for 3 ms */
    size_t n = (size_t)m->threads, most = (size_t)256 << 20;
    int i, threads = m->threads;
    for (i = PROBE_L1; i < PROBES; i++) {
        size_t bytes = i >= PROBE_DRAM ? most / n : bench_cache(i) / 2 / (i == PROBE_L3 ? n : 1);
        if (i == PROBE_L3 && bytes > 8 * bench_cache(PROBE_L2))
            bytes = 8 * bench_cache(PROBE_L2); /* others use it too */
        if (bytes > most / n) bytes = most / n;
        m->bytes[i] = bytes < 4096 ? 4096 : bytes / 4096 * 4096;
    }
    if (which >= PROBE_L1 && !m->memory) m->memory = (float *)bench_large(most);
    if (which >= PROBE_L1 && !m->memory) return;
    for (m->threads = 1, m->rounds[which] = 1; m->rounds[which] < LONG_MAX / 4; m->rounds[which] *= 2)
        if (bench_probe_seconds(m, which) > 0.0025 && bench_probe_seconds(m, which) > 0.0025) break;
    m->threads = threads;
}

/* The best of three short runs: GFLOP/s or GB/s. Where a path has no products of bf16 its own, fp32's are what there
 * is. */
static double bench_probe(bench_machine *m, int which) {
    double rounds, best = 1e30;
    int i;
    if (which == PROBE_BF16 && !m->k->bf16) which = PROBE_FMA;
    if (!m->rounds[which]) bench_probe_prepare(m, which);
    if (which >= PROBE_L1 && !m->memory) return 0;
    for (i = 0; i < 3; i++) {
        double took = bench_probe_seconds(m, which);
        if (took < best) best = took;
    }
    rounds = (double)m->rounds[which] * m->threads / best;
    if (which == PROBE_FMA) return rounds * m->k->flops / 1e9;
    if (which == PROBE_BF16) return rounds * m->k->bf16_flops / 1e9;
    return rounds * (double)m->bytes[which] * (which == PROBE_STREAM ? 28.0 / 16 : 1.0) / 1e9;
}

/* The path the context computes by, for its line says "..., avx2 kernels, 2 threads". */
static int bench_machine_of(bench_machine *m, const dpo_context *c, int threads) {
    const char *info = dpo_build_info(c), *end = strstr(info, " kernels");
    const uint32_t half = 0x3f003f00; /* as a float and as two bf16 */
    int i;
    memset(m, 0, sizeof *m);
    m->k = &bench_paths[0];
    m->threads = threads;
    m->small = (float *)bench_large((size_t)threads * BENCH_SMALL * sizeof *m->small);
    if (!m->small) return cli_die("no memory for %d threads' numbers", threads);
    for (i = 0; i < threads * BENCH_SMALL; i++) memcpy(m->small + i, &half, sizeof half);
    for (i = 0; end && i < BENCH_PATHS; i++) {
        size_t n = strlen(bench_paths[i].name);
        if ((size_t)(end - info) > n && end[-(ptrdiff_t)n - 1] == ' ' && !memcmp(end - n, bench_paths[i].name, n) &&
            bench_path_runs(bench_paths[i].name))
            m->k = &bench_paths[i];
    }
    return 0;
}

/* ---- timing beside the machine ---------------------------------------------------------------------------------- */

typedef struct bench_timing {
    double best, median; /* seconds */
    double peak[PROBES]; /* the best of the runs before, between and after */
    double took[BENCH_ROUNDS];
    int n;
} bench_timing;

static double bench_median(double *x, int n) {
    int i, k;
    for (i = 1; i < n; i++) {
        double y = x[i];
        for (k = i; k > 0 && x[k - 1] > y; k--) x[k] = x[k - 1];
        x[k] = y;
    }
    return x[n / 2];
}
static void bench_probe_best(bench_timing *t, bench_machine *m, unsigned probes) {
    int i;
    for (i = 0; i < PROBES; i++)
        if (probes >> i & 1u) {
            double now = bench_probe(m, i);
            if (now > t->peak[i]) t->peak[i] = now;
        }
}
/* What is timed: gives its seconds, negative after an error was printed. */
typedef double (*bench_run)(void *arg);

/* `rounds` runs, and each time before and at the end the probes (bits of PROBE_*); 1 after an error. */
static int bench_against(bench_timing *t, bench_machine *m, unsigned probes, bench_run run, void *arg, int rounds) {
    memset(t, 0, sizeof *t);
    for (t->n = 0; t->n < rounds; t->n++) {
        bench_probe_best(t, m, probes);
        t->took[t->n] = run(arg);
        if (t->took[t->n] < 0) return 1;
    }
    bench_probe_best(t, m, probes);
    t->median = bench_median(t->took, t->n);
    t->best = t->took[0];
    return 0;
}

static dpo_context *bench_open(const bench_options *o, bench_machine *m) {
    dpo_desc desc;
    dpo_context *c;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = o->threads;
    desc.simd = o->simd;
    c = dpo_open(&desc);
    if (!c && o->simd) cli_die("--simd: this CPU or this build has not got these instructions; leave it out");
    else if (!c) cli_die("--threads: %s", dpo_error(NULL));
    if (c && m && bench_machine_of(m, c, o->threads)) {
        dpo_close(c);
        c = NULL;
    }
    return c;
}

/* ---- peak ------------------------------------------------------------------------------------------------------- */

static double bench_peak_best(bench_machine *m, int which, int steps) {
    double best = 0, now;
    int i;
    for (i = 0; i < steps; i++) {
        now = bench_probe(m, which);
        if (now > best) best = now;
    }
    return best;
}
/* One path and one probe, on one thread and on all. */
static int bench_peak_row(const bench_options *o, bench_machine *m, const bench_kernels *k, int which, int used) {
    double one, all;
    const char *unit = which <= PROBE_BF16 ? "gflop_per_s" : "gb_per_s";
    m->k = k;
    memset(m->rounds, 0, sizeof m->rounds);
    m->threads = 1;
    bench_cpu_threads = o->cpu_time;
    one = bench_peak_best(m, which, o->steps);
    m->threads = o->threads;
    bench_cpu_threads = o->cpu_time * o->threads;
    memset(m->rounds, 0, sizeof m->rounds);
    all = o->threads > 1 ? bench_peak_best(m, which, o->steps) : one;
    if (!(one > 0)) return cli_die("no memory for %s", probe_names[which]);
    if (o->json) {
        bench_json("peak");
        printf("\"what\": \"%s\", \"simd\": \"%s\", \"used_by_dpo\": %s, \"threads\": %d, "
               "\"%s_1_thread\": %.1f, \"%s\": %.1f}\n",
               probe_names[which], k->name, used ? "true" : "false", m->threads, unit, one, unit, all);
    } else
        printf("%-20s %-12s %9.1f %9.1f %s%s\n", probe_names[which], k->name, one, all,
               which <= PROBE_BF16 ? "GFLOP/s" : "GB/s", used && which <= PROBE_BF16 ? "  (dpo computes so)" : "");
    return 0;
}
static int bench_peak(const bench_options *o) {
    bench_machine m;
    const bench_kernels *used;
    dpo_context *c = bench_open(o, &m);
    int i, bad = 0;
    if (!c) return 1;
    used = m.k;
    if (!o->json) {
        bench_begin(o, c, "peak");
        printf("%-33s %9s %9d threads\n", "", "1 thread", o->threads);
    }
    for (i = 0; i < BENCH_PATHS && !bad; i++)
        if (bench_path_runs(bench_paths[i].name) && !bench_paths[i].bf16)
            bad = bench_peak_row(o, &m, &bench_paths[i], PROBE_FMA, used->fma == bench_paths[i].fma);
    for (i = 0; i < BENCH_PATHS && !bad; i++)
        if (bench_path_runs(bench_paths[i].name) && bench_paths[i].bf16)
            bad = bench_peak_row(o, &m, &bench_paths[i], PROBE_BF16, used == &bench_paths[i]);
    if (!used->bf16 && !o->json) printf("%-20s %-12s as fp32: no bf16 products\n", probe_names[PROBE_BF16], used->name);
    for (i = PROBE_L1; i < PROBES && !bad; i++) bad = bench_peak_row(o, &m, used, i, 1);
    dpo_close(c);
    return bad;
}

/* ---- gemm ------------------------------------------------------------------------------------------------------- */

typedef struct gemm_shape {
    char name[24];
    int64_t rows, out, in; /* y [rows,out] = x [rows,in] w^T, w [out,in] */
} gemm_shape;

enum { GEMM_Y, GEMM_DX, GEMM_DW, GEMM_FORMS, GEMM_LAYERS = 40, GEMM_SHAPES = 46 };
static const char *const gemm_forms[GEMM_FORMS] = {"y = x W^T", "dx = dy W", "dW += dy^T x"};

/* The four matrices of a layer at ten pairs of model and tokens, and the head at six. */
static gemm_shape gemm_shape_of(int i) {
    static const struct {
        const char *model;
        int hidden, tokens;
    } layer[] = {{"14m", 128, 512},   {"70m", 512, 512},   {"14m", 128, 4096}, {"31m", 256, 512},
                 {"70m", 512, 2048},  {"160m", 768, 128},  {"160m", 768, 512}, {"160m", 768, 2048},
                 {"410m", 1024, 512}, {"410m", 1024, 2048}},
      head[] = {{"14m", 128, 512},  {"31m", 256, 512},  {"70m", 512, 512},
                {"160m", 768, 128}, {"160m", 768, 512}, {"410m", 1024, 512}};
    static const struct {
        const char *name;
        int out, in;
    } part[] = {{"qkv", 3, 1}, {"out", 1, 1}, {"up", 4, 1}, {"down", 1, 4}};
    gemm_shape s;
    if (i < GEMM_LAYERS) {
        snprintf(s.name, sizeof s.name, "%s %s", layer[i / 4].model, part[i % 4].name);
        s.rows = layer[i / 4].tokens;
        s.out = part[i % 4].out * layer[i / 4].hidden;
        s.in = part[i % 4].in * layer[i / 4].hidden;
    } else {
        snprintf(s.name, sizeof s.name, "%s head", head[i - GEMM_LAYERS].model);
        s.rows = head[i - GEMM_LAYERS].tokens;
        s.out = 50304;
        s.in = head[i - GEMM_LAYERS].hidden;
    }
    return s;
}

typedef void (*gemm_blas)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                          const float *b, int ldb, float beta, float *c, int ldc);
typedef struct gemm_bench {
    dpo_context *c;
    gemm_shape s;
    int form, bf16;
    gemm_blas blas; /* the other library's cblas_sgemm */
    long calls;     /* in a run */
    float *x, *y, *w, *dw;
    uint16_t *w16;
} gemm_bench;

static void gemm_call(gemm_bench *g) {
    dpo_linear l, d;
    dpo_tensor none = dpo_tensor_f32(NULL, 0, 0, 0, 0), x = dpo_tensor_f32(g->x, g->s.rows, g->s.in, 0, 0),
               y = dpo_tensor_f32(g->y, g->s.rows, g->s.out, 0, 0);
    memset(&l, 0, sizeof l);
    l.w = dpo_tensor_f32(g->w, g->s.out, g->s.in, 0, 0);
    l.b = l.a = l.bb = none;
    d = l;
    d.w = g->form == GEMM_DW ? dpo_tensor_f32(g->dw, g->s.out, g->s.in, 0, 0) : none;
    if (g->bf16) {
        l.w.data = g->w16;
        l.w.dtype = DPO_BF16;
    }
    if (g->form == GEMM_Y) dpo_linear_forward(g->c, y, x, &l);
    else dpo_linear_backward(g->c, g->form == GEMM_DX ? x : none, &d, y, x, &l);
}
static void gemm_blas_call(gemm_bench *g) {
    enum { ROWS = 101, PLAIN = 111, TURNED = 112 };
    int m = (int)g->s.rows, n = (int)g->s.out, k = (int)g->s.in;
    if (g->form == GEMM_Y) g->blas(ROWS, PLAIN, TURNED, m, n, k, 1, g->x, k, g->w, k, 0, g->y, n);
    else if (g->form == GEMM_DX) g->blas(ROWS, PLAIN, PLAIN, m, k, n, 1, g->y, n, g->w, k, 0, g->x, k);
    else g->blas(ROWS, TURNED, PLAIN, n, k, m, 1, g->y, n, g->x, k, 1, g->dw, k);
}
static double gemm_run_with(gemm_bench *g, void (*call)(gemm_bench *)) { /* the best of three if short, as a probe is */
    double at, took = 0, best = 1e30;
    int turn;
    long i;
    for (turn = 0; turn < 3 && took < 0.03; turn++) {
        at = bench_now();
        for (i = 0; i < g->calls; i++) call(g);
        took = (bench_now() - at) / (double)g->calls;
        if (took < best) best = took;
    }
    if (dpo_status(g->c)) cli_die("%s", dpo_error(g->c));
    return dpo_status(g->c) ? -1 : best;
}
static double gemm_run(void *arg) { return gemm_run_with((gemm_bench *)arg, gemm_call); }
/* Its threads go on looking for work for some 30 ms, on the cores that ours need next: they are waited for. */
static double gemm_run_blas(void *arg) {
    double took = gemm_run_with((gemm_bench *)arg, gemm_blas_call), at = bench_now();
#if CLI_UNIX
    struct timespec pause = {0, 10000000};
    while (bench_now() - at < 0.1) nanosleep(&pause, NULL);
#endif
    (void)at;
    return took;
}

/* Another library's product, found at run time. */
static int gemm_find_blas(const bench_options *o, gemm_blas *blas) {
#if CLI_UNIX
    void *lib = dlopen(o->vs, RTLD_NOW | RTLD_LOCAL), *symbol;
    void (*set_threads)(int);
    if (!lib) return cli_die("--vs %s: %s", o->vs, dlerror());
    symbol = dlsym(lib, "cblas_sgemm");
    if (!symbol) return cli_die("--vs %s: no cblas_sgemm in it", o->vs);
    memcpy(blas, &symbol, sizeof *blas); /* ISO C knows no way from void * to a function */
    symbol = dlsym(lib, "openblas_set_num_threads");
    if (!symbol) cli_note("%s has no openblas_set_num_threads: its threads are its own affair", o->vs);
    else {
        memcpy(&set_threads, &symbol, sizeof set_threads);
        set_threads(o->threads);
    }
    return 0;
#else
    (void)blas;
    return cli_die("--vs %s: this system has no dlopen", o->vs);
#endif
}

/* "3-10" or "7", counted from 1. */
static int gemm_range(const bench_options *o, int *first, int *last) {
    const char *s = o->range;
    char *end = NULL;
    long a, b;
    *first = 0;
    *last = o->quick ? 8 : GEMM_SHAPES;
    if (!s) return 0;
    a = b = isdigit((unsigned char)*s) ? strtol(s, &end, 10) : 0;
    if (end && *end == '-' && isdigit((unsigned char)end[1])) b = strtol(end + 1, &end, 10);
    if (!end || *end || a < 1 || b < a || b > GEMM_SHAPES)
        return cli_die("--shapes expects a number or a range like 3-10 within 1-%d, got '%s'", (int)GEMM_SHAPES, s);
    *first = (int)a - 1;
    *last = (int)b;
    return 0;
}

static int gemm_memory(gemm_bench *g, int first,
                       int last) { /* as much as the largest needs, filled with small numbers */
    int64_t x = 0, y = 0, w = 0, i;
    for (i = first; i < last; i++) {
        gemm_shape s = gemm_shape_of((int)i);
        if (x < s.rows * s.in) x = s.rows * s.in;
        if (y < s.rows * s.out) y = s.rows * s.out;
        if (w < s.out * s.in) w = s.out * s.in;
    }
    g->x = (float *)bench_large((size_t)x * 4);
    g->y = (float *)bench_large((size_t)y * 4);
    g->w = (float *)bench_large((size_t)w * 4);
    g->dw = (float *)bench_large((size_t)w * 4);
    g->w16 = (uint16_t *)bench_large((size_t)w * 2);
    if (!g->x || !g->y || !g->w || !g->dw || !g->w16) return cli_die("no memory for the matrices");
    for (i = 0; i < w; i++) {
        g->w[i] = (float)(i * 7919 % 1021 - 510) / 16384;
        g->w16[i] = dpo_bf16_from_f32(g->w[i]);
    }
    return 0;
}
static void gemm_fill(gemm_bench *g) { /* anew for each form: dx overwrites x, and numbers must not grow */
    int64_t i;
    for (i = 0; i < g->s.rows * g->s.in; i++) g->x[i] = (float)(i * 104729 % 2039 - 1019) / 1024;
    for (i = 0; i < g->s.rows * g->s.out; i++) g->y[i] = (float)(i * 1299709 % 4093 - 2046) / 65536;
    if (g->form == GEMM_DW) memset(g->dw, 0, (size_t)(g->s.out * g->s.in) * sizeof *g->dw);
}

typedef struct gemm_share {
    double own, other; /* of the peak; 0: not measured */
} gemm_share;

static int gemm_measure(gemm_bench *g, bench_machine *m, int steps, gemm_share *share) {
    double flops = 2.0 * (double)g->s.rows * (double)g->s.out * (double)g->s.in, at, peak = 0, best[2] = {1e30, 1e30};
    bench_timing t;
    int i, which = g->bf16 ? PROBE_BF16 : PROBE_FMA;
    gemm_fill(g);
    g->calls = 1;
    if ((at = gemm_run(g)) < 0) return 1;
    if (g->blas) gemm_run_blas(g);
    if (at < 0.003) g->calls = (long)(0.003 / at) + 1;
    for (i = 0; i < steps; i++) { /* in turn, so that all of them see the same minutes */
        if (bench_against(&t, m, 1u << which, gemm_run, g, 1)) return 1;
        if (t.best < best[0]) best[0] = t.best;
        if (t.peak[which] > peak) peak = t.peak[which];
        if (!g->blas) continue;
        if (bench_against(&t, m, 1u << which, gemm_run_blas, g, 1)) return 1;
        if (t.best < best[1]) best[1] = t.best;
        if (t.peak[which] > peak) peak = t.peak[which];
    }
    share->own = flops / best[0] / 1e9 / peak;
    share->other = g->blas ? flops / best[1] / 1e9 / peak : 0;
    return 0;
}
static void gemm_print(const bench_options *o, const gemm_bench *g, int index, const gemm_share *share) {
    int f;
    if (!o->json) printf("%2d %-10s %5d %6d %5d ", index + 1, g->s.name, (int)g->s.rows, (int)g->s.out, (int)g->s.in);
    for (f = 0; f < GEMM_FORMS; f++) {
        if (o->json) {
            bench_json("gemm");
            printf("\"shape\": %d, \"name\": \"%s\", \"rows\": %d, \"out\": %d, \"in\": %d, "
                   "\"form\": \"%s\", \"precision\": \"%s\", \"threads\": %d, \"pct_peak\": %.1f",
                   index + 1, g->s.name, (int)g->s.rows, (int)g->s.out, (int)g->s.in, gemm_forms[f],
                   g->bf16 ? "bf16" : "fp32", o->threads, 100 * share[f].own);
            if (g->blas)
                printf(", \"vs_pct_peak\": %.1f, \"ratio\": %.3f", 100 * share[f].other, share[f].own / share[f].other);
            printf("}\n");
        } else if (g->blas)
            printf("  %5.1f %5.1f %5.2fx", 100 * share[f].own, 100 * share[f].other, share[f].own / share[f].other);
        else printf("  %12.1f", 100 * share[f].own);
    }
    if (!o->json) printf("\n");
    fflush(stdout);
}
typedef struct gemm_sum {
    double log_own, log_other, worst;
    int n, worst_shape;
} gemm_sum;
static void gemm_add(gemm_sum *s, const gemm_share *x, int shape) {
    if (!s->n || x->own < s->worst) {
        s->worst = x->own;
        s->worst_shape = shape;
    }
    s->log_own += log(x->own);
    s->log_other += x->other > 0 ? log(x->other) : 0;
    s->n++;
}
static void gemm_summary(const bench_options *o, const gemm_sum *s, const char *form) {
    double own = exp(s->log_own / s->n), other = exp(s->log_other / s->n);
    if (o->json) {
        bench_json("gemm");
        printf("\"form\": \"%s\", \"geometric_mean_pct_peak\": %.1f, \"worst_pct_peak\": %.1f, "
               "\"worst_shape\": \"%s\"",
               form, 100 * own, 100 * s->worst, gemm_shape_of(s->worst_shape).name);
        if (o->vs) printf(", \"vs_geometric_mean_pct_peak\": %.1f, \"ratio\": %.3f", 100 * other, own / other);
        printf("}\n");
        return;
    }
    printf("%-13s geometric mean %5.1f %%, worst %5.1f %% (%d, %s)", form, 100 * own, 100 * s->worst,
           s->worst_shape + 1, gemm_shape_of(s->worst_shape).name);
    if (o->vs) printf("; %s %5.1f %%, ratio %.3f", o->vs, 100 * other, own / other);
    printf("\n");
}
static int bench_gemm(const bench_options *o) {
    gemm_bench g;
    gemm_share share[GEMM_FORMS];
    gemm_sum sum[GEMM_FORMS + 1];
    bench_machine m;
    int i, f, first, last, bad = 0;
    memset(&g, 0, sizeof g);
    memset(sum, 0, sizeof sum);
    if (o->precision == DPO_PRECISION_MIXED) return cli_die("--precision: gemm knows fp32 and bf16");
    g.bf16 = o->precision == DPO_PRECISION_BF16;
    if (g.bf16 && o->vs) return cli_die("--vs compares fp32 products: leave out --precision bf16");
    if (gemm_range(o, &first, &last) || (o->vs && gemm_find_blas(o, &g.blas))) return 1;
    g.c = bench_open(o, &m);
    if (!g.c || gemm_memory(&g, first, last)) return 1;
    if (!o->json) {
        bench_begin(o, g.c, "gemm");
        printf("%% of the %s peak%s%s%s\n%31s", m.k->name, o->vs ? ", then " : "", o->vs ? o->vs : "",
               o->vs ? "'s and the ratio" : "", "tokens    out    in ");
        for (f = 0; f < GEMM_FORMS; f++) printf("  %*s", o->vs ? 18 : 12, gemm_forms[f]);
        printf("\n");
    }
    for (i = first; i < last && !bad; i++) {
        g.s = gemm_shape_of(i);
        for (f = 0; f < GEMM_FORMS && !bad; f++) {
            g.form = f;
            bad = gemm_measure(&g, &m, o->steps, &share[f]);
            if (bad) break;
            gemm_add(&sum[f], &share[f], i);
            gemm_add(&sum[GEMM_FORMS], &share[f], i);
        }
        if (!bad) gemm_print(o, &g, i, share);
    }
    for (f = 0; f <= GEMM_FORMS && !bad; f++) gemm_summary(o, &sum[f], f < GEMM_FORMS ? gemm_forms[f] : "all");
    dpo_close(g.c);
    return bad;
}

/* ---- models ----------------------------------------------------------------------------------------------------- */

typedef struct bench_shape {
    const char *name;
    int layers, hidden, heads;
} bench_shape;
static const bench_shape shapes[] = {{"14m", 6, 128, 4},     {"31m", 6, 256, 8},     {"70m", 6, 512, 8},
                                     {"160m", 12, 768, 12},  {"410m", 24, 1024, 16}, {"1b", 16, 2048, 8},
                                     {"1.4b", 24, 2048, 16}, {"2.8b", 32, 2560, 32}, {"btlm-3b", 32, 2560, 32}};

static dpo_model_config bench_config(const bench_shape *s) {
    int btlm = !strcmp(s->name, "btlm-3b");
    dpo_model_config k;
    memset(&k, 0, sizeof k);
    k.family = btlm ? DPO_BTLM : DPO_GPT_NEOX;
    k.vocab_size = btlm ? 50257 : 50304;
    k.hidden_size = s->hidden;
    k.num_hidden_layers = s->layers;
    k.num_attention_heads = k.num_key_value_heads = s->heads;
    k.head_dim = s->hidden / s->heads;
    k.intermediate_size = btlm ? 6826 : 4 * s->hidden;
    k.max_position_embeddings = btlm ? 8192 : 2048;
    k.norm_eps = 1e-5;
    k.qkv_bias = k.attention_bias = k.mlp_bias = 1;
    k.embedding_scale = k.output_scale = k.width_scale = 1;
    k.attention_scale = 1 / sqrt((double)k.head_dim);
    k.initializer_range = 0.02;
    k.bos_token_id = k.eos_token_id = 0;
    if (btlm) {
        k.position = DPO_POSITION_ALIBI;
        k.activation = DPO_SWIGLU;
        k.qkv = DPO_QKV_THIRDS;
        k.conv1d = k.tie_word_embeddings = 1;
        k.embedding_scale = 14.6;
        k.width_scale = 0.1;
        k.output_scale = 0.222;
        k.attention_scale = 1.0 / k.head_dim;
        k.initializer_range = 0.073;
    } else {
        k.rotary_dim = k.head_dim / 4;
        k.rope_theta = 10000;
        k.parallel_residual = 1;
    }
    return k;
}
static const bench_shape *bench_shape_of(const bench_options *o) {
    size_t i, n = sizeof shapes / sizeof shapes[0];
    for (i = 0; i < n; i++)
        if (!strcmp(shapes[i].name, o->model)) return &shapes[i];
    cli_die("unknown --model %s; known are 14m 31m 70m 160m 410m 1b 1.4b 2.8b btlm-3b", o->model);
    return NULL;
}

/* Tensors of a layer as the files name them: out and in as factors of hidden and MLP size; in 0 is a vector. */
typedef struct bench_tensor {
    const char *name;
    int hidden_out, mlp_out, hidden_in, mlp_in;
} bench_tensor;
static const bench_tensor neox_layer[] = {
    {"input_layernorm.weight", 1, 0, 0, 0},           {"input_layernorm.bias", 1, 0, 0, 0},
    {"post_attention_layernorm.weight", 1, 0, 0, 0},  {"post_attention_layernorm.bias", 1, 0, 0, 0},
    {"attention.query_key_value.weight", 3, 0, 1, 0}, {"attention.query_key_value.bias", 3, 0, 0, 0},
    {"attention.dense.weight", 1, 0, 1, 0},           {"attention.dense.bias", 1, 0, 0, 0},
    {"mlp.dense_h_to_4h.weight", 0, 1, 1, 0},         {"mlp.dense_h_to_4h.bias", 0, 1, 0, 0},
    {"mlp.dense_4h_to_h.weight", 1, 0, 0, 1},         {"mlp.dense_4h_to_h.bias", 1, 0, 0, 0}};
/* [in,out], as GPT-2's */
static const bench_tensor btlm_layer[] = {
    {"ln_1.weight", 1, 0, 0, 0},        {"ln_1.bias", 1, 0, 0, 0},          {"ln_2.weight", 1, 0, 0, 0},
    {"ln_2.bias", 1, 0, 0, 0},          {"attn.c_attn.weight", 1, 0, 3, 0}, {"attn.c_attn.bias", 3, 0, 0, 0},
    {"attn.c_proj.weight", 1, 0, 1, 0}, {"attn.c_proj.bias", 1, 0, 0, 0},   {"mlp.c_fc.weight", 1, 0, 0, 1},
    {"mlp.c_fc.bias", 0, 1, 0, 0},      {"mlp.c_fc2.weight", 1, 0, 0, 1},   {"mlp.c_fc2.bias", 0, 1, 0, 0},
    {"mlp.c_proj.weight", 0, 1, 1, 0},  {"mlp.c_proj.bias", 1, 0, 0, 0}};

enum { BENCH_TENSORS = 14 * 32 + 4 };
typedef struct bench_file {
    dpo_tensor tensor[BENCH_TENSORS];
    char name[BENCH_TENSORS][96];
    int n;
    int64_t most;            /* elements of the largest */
    uint16_t *random, *ones; /* which all of them view */
} bench_file;

static void bench_file_add(bench_file *f, const char *prefix, int layer, const char *name, int64_t d0, int64_t d1) {
    dpo_tensor *t = &f->tensor[f->n];
    int64_t n = d1 ? d0 * d1 : d0;
    if (layer < 0) snprintf(f->name[f->n], sizeof f->name[0], "%s%s", prefix, name);
    else snprintf(f->name[f->n], sizeof f->name[0], "%s%d.%s", prefix, layer, name);
    memset(t, 0, sizeof *t);
    t->name = f->name[f->n++];
    t->dtype = DPO_BF16;
    t->ndim = d1 ? 2 : 1;
    t->shape[0] = d0;
    t->shape[1] = d1 ? d1 : 1;
    t->shape[2] = t->shape[3] = 1;
    if (n > f->most) f->most = n;
}
static void bench_file_list(bench_file *f, const dpo_model_config *k) {
    int btlm = k->family == DPO_BTLM, l, i, n = btlm ? 14 : 12;
    const bench_tensor *layer = btlm ? btlm_layer : neox_layer;
    const char *top = btlm ? "transformer." : "gpt_neox.", *each = btlm ? "transformer.h." : "gpt_neox.layers.";
    int64_t d = k->hidden_size, f_ = k->intermediate_size;
    bench_file_add(f, top, -1, btlm ? "wte.weight" : "embed_in.weight", k->vocab_size, d);
    for (l = 0; l < k->num_hidden_layers; l++)
        for (i = 0; i < n; i++)
            bench_file_add(f, each, l, layer[i].name, layer[i].hidden_out * d + layer[i].mlp_out * f_,
                           layer[i].hidden_in * d + layer[i].mlp_in * f_);
    bench_file_add(f, top, -1, btlm ? "ln_f.weight" : "final_layer_norm.weight", d, 0);
    bench_file_add(f, top, -1, btlm ? "ln_f.bias" : "final_layer_norm.bias", d, 0);
    if (!btlm) bench_file_add(f, "", -1, "embed_out.weight", k->vocab_size, d);
}
static int bench_config_write(const dpo_model_config *k, const char *path) {
    FILE *f = fopen(path, "w");
    int bad;
    if (!f) return cli_die("%s: %s", path, strerror(errno));
    if (k->family == DPO_BTLM)
        fprintf(f,
                "{\"model_type\": \"btlm\", \"vocab_size\": %d, \"n_embd\": %d, \"n_layer\": %d, \"n_head\": %d, "
                "\"n_inner\": %d, \"n_positions\": %d, \"activation_function\": \"swiglu\", "
                "\"position_embedding_type\": \"alibi\", \"layer_norm_epsilon\": 1e-5, \"mup_embeddings_scale\": 14.6, "
                "\"mup_output_alpha\": 2.22, \"mup_width_scale\": 0.1, \"mup_scale_qk_dot_by_d\": true, "
                "\"initializer_range\": 0.073, \"scale_attn_weights\": true, \"tie_word_embeddings\": true, "
                "\"bos_token_id\": 50256, \"eos_token_id\": 50256, \"torch_dtype\": \"bfloat16\"}\n",
                k->vocab_size, k->hidden_size, k->num_hidden_layers, k->num_attention_heads, k->intermediate_size,
                k->max_position_embeddings);
    else
        fprintf(f,
                "{\"model_type\": \"gpt_neox\", \"vocab_size\": %d, \"hidden_size\": %d, \"num_hidden_layers\": %d, "
                "\"num_attention_heads\": %d, \"intermediate_size\": %d, \"max_position_embeddings\": %d, "
                "\"hidden_act\": \"gelu\", \"rotary_pct\": 0.25, \"rotary_emb_base\": 10000, \"layer_norm_eps\": 1e-5, "
                "\"use_parallel_residual\": true, \"tie_word_embeddings\": false, \"bos_token_id\": 0, "
                "\"eos_token_id\": 0, \"torch_dtype\": \"bfloat16\"}\n",
                k->vocab_size, k->hidden_size, k->num_hidden_layers, k->num_attention_heads, k->intermediate_size,
                k->max_position_embeddings);
    bad = ferror(f);
    if (fclose(f) || bad) return cli_die("%s: could not be written", path);
    return 0;
}
/* Random weights in two buffers that all tensors share: a file of gigabytes takes little memory to write. */
static int bench_file_fill(bench_file *f) {
    uint64_t x = 1;
    int64_t i;
    int t;
    f->random = (uint16_t *)malloc((size_t)f->most * sizeof *f->random);
    f->ones = (uint16_t *)malloc((size_t)f->most * sizeof *f->ones);
    if (!f->random || !f->ones) return cli_die("no memory for random weights");
    for (i = 0; i < f->most; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        f->random[i] = dpo_bf16_from_f32((float)((double)(x >> 40) / 16777216 - 0.5) * 0.07f);
    }
    for (i = 0; i < 65536 && i < f->most; i++) f->ones[i] = 0x3f80;
    for (t = 0; t < f->n; t++) { /* the gains of norms are the vectors that are no biases */
        int gain = f->tensor[t].ndim == 1 && !strstr(f->tensor[t].name, "bias");
        f->tensor[t].data = gain ? f->ones : f->random;
    }
    return 0;
}

/* A directory with such a checkpoint below --dir, written once. */
static int bench_checkpoint(dpo_context *c, const bench_options *o, const dpo_model_config *k, char *dir, size_t cap) {
    char path[1200];
    bench_file *f;
    FILE *there;
    int bad;
    if (snprintf(dir, cap, "%s/bench-%s-bf16", o->dir, o->model) >= (int)cap) return cli_die("--dir is too long");
#if CLI_UNIX
    if ((mkdir(o->dir, 0777) && errno != EEXIST) || (mkdir(dir, 0777) && errno != EEXIST))
        return cli_die("--dir: %s cannot be made: %s", dir, strerror(errno));
#endif
    snprintf(path, sizeof path, "%s/config.json", dir);
    if (bench_config_write(k, path)) return 1;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    there = fopen(path, "rb");
    if (there) return fclose(there);
    f = (bench_file *)calloc(1, sizeof *f);
    if (!f) return cli_die("no memory for a list of tensors");
    bench_file_list(f, k);
    bad = bench_file_fill(f);
    if (!bad) {
        cli_note("writing random weights to %s, once", path);
        bad = dpo_tensors_save(c, path, f->tensor, f->n, NULL) && cli_die("%s", dpo_error(c));
    }
    free(f->random);
    free(f->ones);
    free(f);
    return bad;
}

/* A model with random weights: from a bf16 file, mapped if frozen, or made in memory. NULL once an error was printed. */
static dpo_model *bench_model(dpo_context *c, const bench_options *o, const dpo_model_config *k, int frozen) {
    char dir[1024];
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_model *m;
    how.precision = o->precision;
    how.frozen = frozen;
    if (frozen || o->precision == DPO_PRECISION_BF16) {
        if (bench_checkpoint(c, o, k, dir, sizeof dir)) return NULL;
        m = dpo_model_load_as(c, dir, &how);
    } else {
        m = dpo_model_create(c, k, 1);
        if (m) dpo_model_set_precision(m, o->precision);
        if (dpo_status(c)) m = NULL;
    }
    if (!m && dpo_status(c)) cli_die("%s", dpo_error(c));
    return m;
}

/* ---- step ------------------------------------------------------------------------------------------------------- */

static int bench_prompt(const bench_options *o) { return o->prompt ? o->prompt : o->seq / 2; }

/* Lengths of example i of n: fixed, or shaped as Anthropic-HH's: of four, three are short and one is long, with means
 * of 166, 90 and 90. */
static void bench_lengths(const bench_options *o, int i, int n, int64_t length[3]) {
    static const int spread[3][4] = {{20, 50, 80, 110}, {15, 30, 45, 60}, {30, 60, 15, 45}};
    int k;
    length[0] = bench_prompt(o);
    length[1] = length[2] = o->seq - length[0];
    if (!o->hh) return;
    for (k = 0; k < 3; k++) {
        int by = i / 4 < n / 4 ? spread[k][i / 4 % 4] : 0;
        length[k] = (k ? 90 : 166) + (i % 4 == 3 - k ? 3 * by : -by);
    }
}
/* Examples of made-up ids. SFT learns all tokens of fixed lengths, and the answers of HH-shaped examples. */
static dpo_data *bench_data(dpo_context *c, const bench_options *o, int objective) {
    dpo_data_options d = dpo_data_defaults();
    dpo_data *data;
    int32_t *ids;
    int64_t k, n[3];
    int i, most = o->hh ? 1024 : o->seq, count = o->hh ? o->hh : o->batch;
    d.max_length = most + 1;
    d.max_prompt_length = most;
    data = dpo_data_create(c, NULL, &d);
    ids = (int32_t *)malloc(3 * (size_t)most * sizeof *ids);
    for (i = 0; data && ids && i < count; i++) {
        for (k = 0; k < 3 * most; k++) ids[k] = (int32_t)((uint64_t)((int64_t)i * 7919 + k * 104729 + k * k) % 50000);
        bench_lengths(o, i, count, n);
        if (objective == DPO_SFT && !o->hh) dpo_data_add_tokens(data, NULL, 0, ids, o->seq, NULL, 0);
        else if (objective == DPO_SFT) dpo_data_add_tokens(data, ids, n[0], ids + most, n[1], NULL, 0);
        else dpo_data_add_tokens(data, ids, n[0], ids + most, n[1], ids + 2 * most, n[2]);
    }
    if (!ids) cli_die("no memory for made-up ids");
    free(ids);
    return ids ? data : NULL;
}
/* Tokens of all sequences, a pair's prompt counted with each answer: what the naive way computes. */
static int64_t bench_tokens(const bench_options *o, int objective) {
    int64_t n[3], sum = 0;
    int i, count = o->hh ? o->hh : o->batch;
    for (i = 0; i < count; i++) {
        bench_lengths(o, i, count, n);
        sum += n[0] + n[1] + (objective == DPO_SFT ? 0 : n[0] + n[2]);
    }
    return sum;
}
static double step_run(void *arg) {
    double at = bench_now();
    return dpo_trainer_step((dpo_trainer *)arg, NULL) ? -1 : bench_now() - at;
}

typedef struct step_result {
    bench_timing t;
    dpo_plan plan;
    double tokens, flops, peak;
    int rows; /* examples of a step */
} step_result;

static void step_print(const bench_options *o, const dpo_context *c, int objective, const step_result *r) {
    static const char *const precision[] = {"fp32", "mixed", "bf16"};
    const char *what = objective == DPO_SFT ? "sft" : "dpo";
    double rate = r->flops / r->t.best / 1e9;
    bench_begin(o, c, "step");
    if (o->json)
        printf("\"objective\": \"%s\", \"model\": \"%s\", \"batch\": %d, \"seq\": %d, "
               "\"prompt\": %d, \"hh\": %d, \"precision\": \"%s\", \"lora_r\": %d, \"threads\": %d, \"naive\": %s, "
               "\"recompute\": %s, \"step_s\": %.6f, \"step_median_s\": %.6f, \"tokens\": %.0f, "
               "\"tokens_per_s\": %.1f, \"flops\": %.5g, \"gflop_per_s\": %.1f, \"peak_gflop_per_s\": %.1f, "
               "\"pct_peak\": %.1f, \"peak_rss_bytes\": %llu, \"plan_bytes\": %llu}\n",
               what, o->model, r->rows, o->seq, bench_prompt(o), o->hh, precision[o->precision], o->rank, o->threads,
               o->naive ? "true" : "false", o->recompute ? "true" : "false", r->t.best, r->t.median, r->tokens,
               r->tokens / r->t.best, r->flops, rate, r->peak, 100 * rate / r->peak,
               (unsigned long long)cli_peak_memory(), (unsigned long long)r->plan.total);
    else {
        printf("%s %s, %s, ", what, o->model, precision[o->precision]);
        if (o->hh) printf("%d HH-shaped", r->rows);
        else printf("%d x %d", r->rows, o->seq);
        printf(": %.4f s a step (median %.4f), %.1f tokens/s\n%.1f GFLOP counted, %.1f GFLOP/s, %.1f %% of the peak of "
               "%.1f; memory %s, planned %s\n",
               r->t.best, r->t.median, r->tokens / r->t.best, r->flops / 1e9, rate, 100 * rate / r->peak, r->peak,
               cli_bytes(cli_peak_memory()), cli_bytes(r->plan.total));
    }
}
static int bench_step(const bench_options *o, int objective) {
    const bench_shape *shape = bench_shape_of(o);
    dpo_context *c;
    dpo_model_config k;
    dpo_train_config t = dpo_train_defaults(objective);
    dpo_lora_config lora;
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *tr = NULL;
    bench_machine machine;
    step_result r;
    unsigned probe = o->precision == DPO_PRECISION_FP32 ? PROBE_FMA : PROBE_BF16;
    int big;
    if (!shape) return 1;
    if (!o->hh && bench_prompt(o) >= o->seq)
        return cli_die("--prompt must be smaller than --seq: %d is not below %d", bench_prompt(o), o->seq);
    memset(&r, 0, sizeof r);
    r.rows = o->hh ? o->hh : o->batch;
    t.batch_size = r.rows;
    t.optimizer = o->optimizer;
    t.learning_rate = 1e-6;
    t.max_steps = o->steps + 1;
    t.shuffle = 0;
    t.micro_rows = o->micro_rows;
    t.recompute = o->recompute;
    t.memory = o->memory;
    t.naive = o->naive;
    t.optimizer_dtype = o->optimizer_dtype ? DPO_BF16 : DPO_F32;
    c = bench_open(o, &machine);
    if (!c) return 1;
    k = bench_config(shape);
    lora = dpo_lora_defaults(k.family);
    lora.r = o->rank;
    d = bench_data(c, o, objective);
    big = o->precision == DPO_PRECISION_BF16 && o->rank; /* such bases stay in their file */
    how.precision = o->precision;
    how.frozen = big;
    if (d && dpo_plan_train(c, &k, &how, o->rank ? &lora : NULL, &t, d, NULL, &r.plan))
        return cli_die("%s", dpo_error(c));
    m = d ? bench_model(c, o, &k, big) : NULL;
    if (!m) return dpo_status(c) ? cli_die("%s", dpo_error(c)) : 1;
    if (o->rank) dpo_lora_attach(m, &lora, 1);
    tr = dpo_trainer_create(m, d, &t);
    if (!tr || step_run(tr) < 0 || /* the first one warms up */
        bench_against(&r.t, &machine, 1u << probe, step_run, tr, o->steps))
        return cli_die("%s", dpo_error(c));
    r.tokens = (double)bench_tokens(o, objective);
    r.flops = r.plan.flops_per_example * r.rows;
    r.peak = r.t.peak[probe];
    step_print(o, c, objective, &r);
    dpo_close(c);
    return 0;
}

/* ---- decode ----------------------------------------------------------------------------------------------------- */

enum { DECODE_TOKENS = 8192 };
typedef struct decode_bench {
    dpo_model *m;
    const bench_options *o;
    const int32_t *prompts[4096];
    int64_t lengths[4096], *n_out;
    int32_t *ids, *out;
    double start, at[DECODE_TOKENS], prefill; /* prefill: the best so far */
    int64_t n;
} decode_bench;

static int decode_on_token(void *user, int64_t sequence, int32_t id) {
    decode_bench *d = (decode_bench *)user;
    (void)id;
    if (sequence == 0 && d->n < DECODE_TOKENS) d->at[d->n++] = bench_now();
    return 0;
}
/* Seconds of a token of every sequence, from the second to the last. */
static double decode_run(void *arg) {
    decode_bench *d = (decode_bench *)arg;
    dpo_generate_config g = dpo_generate_defaults();
    g.max_new_tokens = d->o->tokens;
    g.temperature = 0;
    g.eos = -1;
    g.batch = d->o->batch;
    g.on_token = decode_on_token;
    g.user = d;
    d->n = 0;
    d->start = bench_now();
    if (dpo_generate(d->m, d->prompts, d->lengths, d->o->batch, &g, d->out, d->n_out)) return -1;
    if (d->at[0] - d->start < d->prefill) d->prefill = d->at[0] - d->start;
    return (d->at[d->n - 1] - d->at[1]) / (double)(d->n - 2);
}
/* What a token reads, and multiplies twice: all weights but the embedding, of which it takes a row. */
static void decode_weights(const dpo_model *m, double *bytes, double *trunk, double *head) {
    const dpo_model_config *k = dpo_model_config_of(m);
    int64_t n = dpo_model_tensors(m, NULL, 0), i;
    dpo_tensor *t = (dpo_tensor *)malloc((size_t)(n + 1) * sizeof *t);
    *bytes = *trunk = *head = 0;
    if (!t) return;
    n = dpo_model_tensors(m, t, n);
    for (i = 0; i < n; i++) {
        double count = (double)t[i].shape[0] * (double)(t[i].ndim > 1 ? t[i].shape[1] : 1);
        int embedding = strstr(t[i].name, "embed_in") || strstr(t[i].name, "wte.");
        if (embedding && !k->tie_word_embeddings) continue;
        *bytes += count * (t[i].dtype == DPO_F32 ? 4 : 2);
        if (embedding || strstr(t[i].name, "embed_out")) *head += count;
        else if (t[i].ndim > 1) *trunk += count;
    }
    free(t);
}
static int decode_memory(decode_bench *d, const bench_options *o) {
    int64_t i, prompt = bench_prompt(o);
    d->o = o;
    d->prefill = 1e30;
    d->ids = (int32_t *)malloc((size_t)(o->batch * prompt) * sizeof *d->ids);
    d->out = (int32_t *)malloc((size_t)o->batch * (size_t)o->tokens * sizeof *d->out);
    d->n_out = (int64_t *)malloc((size_t)o->batch * sizeof *d->n_out);
    if (!d->ids || !d->out || !d->n_out) return cli_die("no memory for ids");
    for (i = 0; i < o->batch * prompt; i++) d->ids[i] = (int32_t)((uint64_t)(i * 104729) % 50000);
    for (i = 0; i < o->batch; i++) {
        d->prompts[i] = d->ids + i * prompt;
        d->lengths[i] = prompt;
    }
    return 0;
}
static void decode_print(const bench_options *o, const dpo_context *c, const decode_bench *d, const bench_timing *t) {
    const dpo_model_config *k = dpo_model_config_of(d->m);
    double bytes, trunk, head, flops, prompt = bench_prompt(o), rate, prefill, peak, read = t->peak[PROBE_DRAM];
    decode_weights(d->m, &bytes, &trunk, &head);
    flops = o->batch * (2 * trunk * prompt + 2 * head +
                        2.0 * k->num_hidden_layers * k->num_attention_heads * k->head_dim * prompt * (prompt + 1));
    peak = t->peak[o->precision ? PROBE_BF16 : PROBE_FMA];
    rate = bytes / t->best / 1e9;
    prefill = flops / d->prefill / 1e9;
    bench_begin(o, c, "decode");
    if (o->json)
        printf("\"model\": \"%s\", \"batch\": %d, \"prompt\": %.0f, \"tokens\": %d, "
               "\"precision\": \"%s\", \"mapped\": %s, \"threads\": %d, \"token_s\": %.6f, \"token_median_s\": %.6f, "
               "\"tokens_per_s\": %.1f, \"weight_bytes\": %.0f, \"gb_per_s\": %.2f, \"read_gb_per_s\": %.2f, "
               "\"pct_read\": %.1f, \"prefill_s\": %.6f, \"prefill_tokens_per_s\": %.1f, \"prefill_pct_peak\": %.1f}\n",
               o->model, o->batch, prompt, o->tokens, o->precision ? "bf16" : "fp32", o->mapped ? "true" : "false",
               o->threads, t->best, t->median, o->batch / t->best, bytes, rate, read, 100 * rate / read, d->prefill,
               o->batch * prompt / d->prefill, 100 * prefill / peak);
    else
        printf("decode %s, %d at a time: %.1f tokens/s; %s of weights read for each, %.1f GB/s, %.1f %% of the "
               "%.1f GB/s of DRAM\nprefill of %d x %.0f: %.4f s, %.1f tokens/s, %.1f GFLOP/s, %.1f %% of the peak of "
               "%.1f\n",
               o->model, o->batch, o->batch / t->best, cli_bytes((uint64_t)bytes), rate, 100 * rate / read, read,
               o->batch, prompt, d->prefill, o->batch * prompt / d->prefill, prefill, 100 * prefill / peak, peak);
}
static int bench_decode(const bench_options *o) {
    const bench_shape *shape = bench_shape_of(o);
    dpo_model_config k;
    decode_bench d;
    bench_timing t;
    bench_machine machine;
    dpo_context *c;
    unsigned probes = 1u << PROBE_DRAM | 1u << (o->precision ? PROBE_BF16 : PROBE_FMA);
    if (!shape) return 1;
    if (o->precision == DPO_PRECISION_MIXED) return cli_die("--precision: decode knows fp32 and bf16");
    k = bench_config(shape);
    if (bench_prompt(o) + o->tokens > k.max_position_embeddings)
        return cli_die("--prompt and --tokens: %s has no more than %d positions", o->model, k.max_position_embeddings);
    memset(&d, 0, sizeof d);
    c = bench_open(o, &machine);
    if (!c || decode_memory(&d, o)) return 1;
    d.m = bench_model(c, o, &k, o->mapped);
    if (!d.m) return 1;
    if (decode_run(&d) < 0 || bench_against(&t, &machine, probes, decode_run, &d, o->steps))
        return cli_die("%s", dpo_error(c));
    decode_print(o, c, &d, &t);
    free(d.ids);
    free(d.out);
    free(d.n_out);
    dpo_close(c);
    return 0;
}

/* ---- optimizer -------------------------------------------------------------------------------------------------- */

/* dpo_trainer_update alone, clipping included: after the first one all gradients are zero, which takes as long. */
static double optimizer_run(void *arg) {
    double at = bench_now(), norm;
    return dpo_trainer_update((dpo_trainer *)arg, &norm) ? -1 : bench_now() - at;
}
/* Bytes of a parameter: the gradient read for the norm; all read, and all written or cleared. */
static double optimizer_bytes(const bench_options *o) {
    double weight = o->precision == DPO_PRECISION_BF16 ? 2 : 4, state = o->optimizer_dtype ? 2 : 4;
    return 4 + 2 * (weight + 4 + state * (o->optimizer == DPO_ADAMW ? 2 : 1));
}
static int bench_optimizer(const bench_options *o) {
    bench_shape shape = {"optimizer", 1, 512, 8};
    dpo_model_config k;
    dpo_train_config t = dpo_train_defaults(DPO_SFT);
    dpo_context *c;
    dpo_model *m;
    dpo_trainer *tr;
    dpo_tensor *all;
    bench_machine machine;
    bench_timing time;
    double count = 0, rate, stream;
    int64_t i, n;
    shape.layers = (int)(o->millions / 3.15 + 0.5) < 1 ? 1 : (int)(o->millions / 3.15 + 0.5);
    k = bench_config(&shape);
    k.vocab_size = 512;
    t.optimizer = o->optimizer;
    t.learning_rate = 1e-6;
    t.max_rows = t.max_path = 16;
    t.max_targets = t.max_segments = 4;
    t.max_steps = BENCH_ROUNDS + 10;
    t.optimizer_dtype = o->optimizer_dtype ? DPO_BF16 : DPO_F32;
    c = bench_open(o, &machine);
    m = c ? bench_model(c, o, &k, 0) : NULL;
    if (!m) return 1;
    tr = dpo_trainer_create(m, NULL, &t);
    if (!tr || optimizer_run(tr) < 0 || bench_against(&time, &machine, 1u << PROBE_STREAM, optimizer_run, tr, o->steps))
        return cli_die("%s", dpo_error(c));
    n = dpo_model_tensors(m, NULL, 0);
    all = (dpo_tensor *)malloc((size_t)n * sizeof *all);
    for (i = 0, n = all ? dpo_model_tensors(m, all, n) : 0; i < n; i++)
        count += (double)all[i].shape[0] * (double)(all[i].ndim > 1 ? all[i].shape[1] : 1);
    free(all);
    rate = count * optimizer_bytes(o) / time.best / 1e9;
    stream = time.peak[PROBE_STREAM];
    bench_begin(o, c, "optimizer");
    if (o->json)
        printf("\"optimizer\": \"%s\", \"parameters\": %.0f, \"threads\": %d, "
               "\"bytes_per_parameter\": %.0f, \"update_s\": %.6f, \"update_median_s\": %.6f, \"gb_per_s\": %.2f, "
               "\"stream_gb_per_s\": %.2f, \"pct_stream\": %.1f}\n",
               o->optimizer == DPO_ADAMW ? "adamw" : "rmsprop", count, o->threads, optimizer_bytes(o), time.best,
               time.median, rate, stream, 100 * rate / stream);
    else
        printf("%s, %s parameters, %.0f bytes each: %.4f s (median %.4f), %.1f GB/s, %.1f %% of the stream of %.1f\n",
               o->optimizer == DPO_ADAMW ? "AdamW" : "RMSprop", cli_count((uint64_t)count), optimizer_bytes(o),
               time.best, time.median, rate, 100 * rate / stream, stream);
    dpo_close(c);
    return 0;
}

/* Adds one after the other, each waiting for the last, as most cores do one in a cycle: the clock at this moment, in GHz. */
static double bench_clock(void) {
    double at = cli_clock();
    volatile uint64_t start = 1;
    uint64_t x = start;
    long i;
    for (i = 0; i < 5000000; i++) {
#if defined(__GNUC__)
        __asm__ __volatile__("" : "+r"(x));
#endif
        x += 1;
    }
    start = x;
    return 0.005 / (cli_clock() - at);
}

/* ---- tokenizer -------------------------------------------------------------------------------------------------- */

typedef struct bench_texts {
    dpo_text *text;
    int64_t n, cap, bytes;
    char *file;
} bench_texts;

static int bench_keep(bench_texts *t, const char *text, size_t n) {
    dpo_text *to = t->text;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 1024;
        to = (dpo_text *)realloc(t->text, (size_t)t->cap * sizeof *to);
        if (!to) return cli_die("no memory for the texts");
        t->text = to;
    }
    to[t->n].text = text;
    to[t->n].bytes = n;
    to[t->n++].special = 0;
    t->bytes += (int64_t)n;
    return 0;
}
/* The texts of a file: each string of each JSON line's object, or else the whole file as one. They are unescaped in
 * place, which makes none longer. */
static int bench_read(dpo_context *c, const char *path, bench_texts *t) {
    char err[512], *at, *end, *line;
    size_t size;
    dpo_json *j;
    if (gzip_read_file(path, (size_t)1 << 32, &t->file, &size, err, sizeof err)) return cli_die("%s", err);
    if (size && t->file[0] != '{') return bench_keep(t, t->file, size);
    j = dpo_json_create(c);
    for (line = t->file, end = t->file + size; line < end; line = at + 1) {
        int64_t i, v, n;
        at = (char *)memchr(line, '\n', (size_t)(end - line));
        if (!at) at = end;
        if (dpo_json_parse(j, line, (size_t)(at - line), NULL, NULL)) continue;
        v = dpo_json_first(j, 0);
        for (i = dpo_json_count(j, 0); i > 0; i--, v = dpo_json_next(j, v + 1)) {
            char *to = line + dpo_json_at(j, v + 1);
            n = dpo_json_string(j, v + 1, NULL, 0);
            if (n < 0) continue;
            dpo_json_string(j, v + 1, to, (size_t)n + 1);
            if (bench_keep(t, to, (size_t)n)) return 1;
        }
    }
    dpo_json_free(j);
    return t->n ? 0 : cli_die("%s: no text in it", path);
}
typedef struct bench_rate {
    double mb_per_s,
        per_ghz; /* medians; the second of passes that each have their own clock: a shared machine's varies */
} bench_rate;
/* `steps` passes over all texts, one call a text; ids counted. */
static bench_rate bench_encode(const dpo_tokenizer *t, const bench_texts *x, unsigned flags, int steps, int32_t *out,
                               int64_t cap, int64_t *n) {
    double rate[101], per[101], at, ghz;
    bench_rate r;
    int64_t m;
    int i;
    for (i = 0; i < steps; i++) {
        ghz = bench_clock();
        at = cli_clock();
        for (*n = 0, m = 0; m < x->n; m++) *n += dpo_encode_parts(t, x->text + m, 1, flags, out, cap);
        rate[i] = (double)x->bytes / (cli_clock() - at) / 1e6;
        per[i] = rate[i] / ((ghz + bench_clock()) / 2);
    }
    r.mb_per_s = bench_median(rate, steps);
    r.per_ghz = bench_median(per, steps);
    return r;
}
static int bench_tokenizer(const bench_options *o) {
    dpo_desc desc;
    dpo_context *c;
    dpo_tokenizer *t;
    bench_texts x;
    bench_rate found, merged;
    double load;
    int64_t n = 0, most = 0, i, same;
    int32_t *ids;
    if (!o->tokenizer || !o->text) return cli_die("tokenizer expects --tokenizer FILE and --text FILE");
    if (o->steps > 101) return cli_die("--steps: at most 101 here");
    memset(&desc, 0, sizeof desc);
    memset(&x, 0, sizeof x);
    desc.n_threads = o->threads;
    c = dpo_open(&desc);
    if (!c) return cli_die("%s", dpo_error(NULL));
    for (i = 0, load = 1e30, t = NULL; i < 3 && !dpo_status(c); i++) {
        double at = cli_clock();
        dpo_tokenizer_free(t);
        t = dpo_tokenizer_load(c, o->tokenizer);
        if (cli_clock() - at < load) load = cli_clock() - at;
    }
    if (!t) return cli_die("%s", dpo_error(c));
    if (bench_read(c, o->text, &x)) return 1;
    for (i = 0; i < x.n; i++) most = most > (int64_t)x.text[i].bytes ? most : (int64_t)x.text[i].bytes;
    most = 3 * most + 3;
    ids = (int32_t *)malloc((size_t)most * sizeof *ids);
    if (!ids) return cli_die("no memory for the ids");
    found = bench_encode(t, &x, 0, o->steps, ids, most, &n);
    merged = bench_encode(t, &x, DPO_ENCODE_MERGES, o->steps, ids, most, &same);
    if (dpo_status(c)) return cli_die("%s", dpo_error(c));
    if (n != same) return cli_die("looking words up gives %lld ids, merging them %lld", (long long)n, (long long)same);
    if (o->json)
        printf("{\"bench\": \"tokenizer\", \"tokenizer\": \"%s\", \"load_s\": %.6f, \"bytes\": %lld, \"ids\": %lld, "
               "\"mb_per_s\": %.1f, \"merges_mb_per_s\": %.1f, \"mb_per_s_per_ghz\": %.1f, "
               "\"merges_mb_per_s_per_ghz\": %.1f}\n",
               o->tokenizer, load, (long long)x.bytes, (long long)n, found.mb_per_s, merged.mb_per_s, found.per_ghz,
               merged.per_ghz);
    else
        printf("%s\n%s: loaded in %.1f ms; %s in %s texts, %s ids, %.2f bytes each\n"
               "one thread: %.1f MB/s, every word merged: %.1f MB/s\n"
               "for each GHz of the clock at that moment: %.1f and %.1f MB/s\n",
               dpo_build_info(c), dpo_tokenizer_info(t), 1e3 * load, cli_bytes((uint64_t)x.bytes),
               cli_count((uint64_t)x.n), cli_count((uint64_t)n), (double)x.bytes / (double)n, found.mb_per_s,
               merged.mb_per_s, found.per_ghz, merged.per_ghz);
    free(ids);
    free(x.text);
    free(x.file);
    dpo_close(c);
    return 0;
}

/* ---- the command line ------------------------------------------------------------------------------------------- */

static const char bench_commands[] =
    "Commands\n"
    "  peak              what the cores can multiply, read and stream: dpo-bench peak --threads 2\n"
    "  gemm              46 products of training in three forms:\n"
    "                    dpo-bench gemm --vs libopenblas.so.0 --shapes 1-8\n"
    "  step sft|dpo      an update: dpo-bench step dpo --model 70m --batch 4 --seq 128\n"
    "                    dpo-bench step dpo --model 2.8b --hh 1 --precision bf16 --lora-r 16\n"
    "  decode            dpo-bench decode --model 70m --prompt 64 --tokens 64\n"
    "  optimizer         dpo-bench optimizer --optimizer rmsprop --params 160\n"
    "  tokenizer         dpo-bench tokenizer --tokenizer tokenizer.json --text hh.jsonl.gz\n\n"
    "Every speed but the tokenizer's stands beside the peak measured between its runs.\n\n"
    "Options";

static int bench_cores(void) {
#if defined(_SC_NPROCESSORS_ONLN)
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > BENCH_THREADS ? (int)BENCH_THREADS : (int)n;
#else
    return 1;
#endif
}
static int bench_command(const cli_program *p, const bench_options *o) {
    const char *command = p->argument[0], *what = p->argument_count > 1 ? p->argument[1] : "";
    int step = !strcmp(command, "step");
    if (step && p->argument_count == 2 && !strcmp(what, "sft")) return bench_step(o, DPO_SFT);
    if (step && p->argument_count == 2 && !strcmp(what, "dpo")) return bench_step(o, DPO_PREFERENCE);
    if (step) return cli_die("step expects sft or dpo; dpo-bench --help lists all");
    if (p->argument_count > 1) return cli_die("%s takes no '%s' besides; dpo-bench --help lists all", command, what);
    if (!strcmp(command, "peak")) return bench_peak(o);
    if (!strcmp(command, "gemm")) return bench_gemm(o);
    if (!strcmp(command, "decode")) return bench_decode(o);
    if (!strcmp(command, "optimizer")) return bench_optimizer(o);
    if (!strcmp(command, "tokenizer")) return bench_tokenizer(o);
    return cli_die("unknown command %s; known are peak gemm step decode optimizer tokenizer", command);
}

int main(int argc, char **argv) {
    bench_options o;
    cli_program p = cli_program_make("dpo-bench", "0.2.0", "COMMAND [options]",
                                     "How fast things are here, as shares of what this machine can do.");
    cli_option table[] = {
        CLI_HEADING(bench_commands),
        CLI_STRING("model", &o.model, "SHAPE", "", "14m 31m 70m 160m 410m 1b 1.4b 2.8b btlm-3b"),
        CLI_INT("batch", &o.batch, 0, 4096, "batch-size",
                "examples of an update, 0 = 4; prompts decoded at a time, 0 = 1"),
        CLI_INT("seq", &o.seq, 2, 8192, "", "tokens of an example: prompt and one answer"),
        CLI_INT("prompt", &o.prompt, 0, 8191, "", "tokens of the prompt, 0 = half of --seq"),
        CLI_INT("hh", &o.hh, 0, 4096, "", "step: so many pairs shaped as HH's instead: prompts of 166, answers of 90"),
        CLI_INT("tokens", &o.tokens, 3, DECODE_TOKENS, "", "decode: how many"),
        CLI_WORD("precision", &o.precision, "fp32|mixed|bf16", "", "of weights and products"),
        CLI_INT("lora-r", &o.rank, 0, 65536, "", "step: adapters of this rank instead of full fine-tuning"),
        CLI_WORD("optimizer", &o.optimizer, "adamw|rmsprop", "", "of updates"),
        CLI_WORD("optimizer-dtype", &o.optimizer_dtype, "f32|bf16", "", "of its state"),
        CLI_INT("params", &o.millions, 1, 100000, "", "optimizer: million parameters"),
        CLI_BYTES("memory", &o.memory, "", "step: the most it may take, 0 = no limit"),
        CLI_INT("micro-rows", &o.micro_rows, 0, 1000000, "", "step: rows of a micro-batch, 0 = planned"),
        CLI_FLAG("recompute", &o.recompute, "", "step: keep layer inputs only"),
        CLI_FLAG("naive", &o.naive, "", "step: prompts twice, logits of all rows, the reference in the step"),
        CLI_FLAG("mapped", &o.mapped, "", "decode: weights straight from a mapped bf16 file"),
        CLI_STRING("dir", &o.dir, "DIR", "", "where such files are written, once"),
        CLI_STRING("vs", &o.vs, "LIBRARY", "", "gemm: another library's cblas_sgemm beside it"),
        CLI_STRING("shapes", &o.range, "A-B", "", "gemm: these of the 46"),
        CLI_FLAG("quick", &o.quick, "", "gemm: the first eight"),
        CLI_STRING("tokenizer", &o.tokenizer, "PATH", "", "tokenizer: what dpo_tokenizer_load takes"),
        CLI_STRING("text", &o.text, "FILE", "",
                   "tokenizer: JSON lines (their strings are the texts) or plain, .gz or not"),
        CLI_INT("steps", &o.steps, 1, BENCH_ROUNDS, "rounds", "timed runs, the fastest counts; tokenizer: the median"),
        CLI_INT("threads", &o.threads, 1, BENCH_THREADS, "", "as many as cores"),
        CLI_WORD("simd", &o.simd, "auto|scalar|avx2|avx512|avx512-bf16|neon", "", "force a set of kernels"),
        CLI_FLAG("cpu-time", &o.cpu_time, "", "count CPU time for each thread: where others use the cores too"),
        CLI_FLAG("json", &o.json, "", "one JSON object a line"),
    };
    memset(&o, 0, sizeof o);
    o.model = "70m";
    o.dir = "build/bench";
    o.batch = 0;
    o.seq = 128;
    o.tokens = 64;
    o.steps = 5;
    o.millions = 70;
    o.threads = bench_cores();
    if (cli_parse(&p, table, CLI_COUNT(table), argc, argv)) return p.exit_code;
    if (!p.argument_count) {
        cli_help(&p, stdout);
        return 0;
    }
    if (!o.batch) o.batch = !strcmp(p.argument[0], "decode") ? 1 : 4;
    bench_cpu_threads = o.cpu_time * o.threads;
    return bench_command(&p, &o);
}
