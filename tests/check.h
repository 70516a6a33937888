/* check.h - what every test program here is built on: checks that print one line when they fail, random
   numbers, memory that is freed after each test, a counting allocator. Include dpo.h first. */
#ifndef CHECK_H
#define CHECK_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAYBE_UNUSED __attribute__((unused))

static int check_failures; /* of the running test */
static int check_lines;    /* printed for it */

MAYBE_UNUSED static int check_at(int ok, const char *file, int line, const char *what) {
    if (!ok) {
        check_failures++;
        if (check_lines++ < 12) printf("%s:%d: %s\n", file, line, what);
    }
    return ok;
}
MAYBE_UNUSED static int check_near_at(double got, double want, double bound, const char *file, int line,
                                      const char *what) {
    double d = got > want ? got - want : want - got;
    if (d <= bound) return 1; /* false for NaN */
    check_failures++;
    if (check_lines++ < 12)
        printf("%s:%d: %s: got %.17g, wanted %.17g, off by %.3g, allowed %.3g\n", file, line, what, got, want, d,
               bound);
    return 0;
}
MAYBE_UNUSED static int check_ok_at(dpo_context *c, int r, const char *file, int line, const char *what) {
    if (!r && (!c || !dpo_status(c))) return 1;
    check_failures++;
    if (check_lines++ < 12)
        printf("%s:%d: %s: %s: %s\n", file, line, what, dpo_result_name(r ? r : dpo_status(c)), dpo_error(c));
    return 0;
}
MAYBE_UNUSED static int check_same_at(const void *a, const void *b, size_t bytes, const char *file, int line,
                                      const char *what) {
    size_t i;
    const unsigned char *p = (const unsigned char *)a, *q = (const unsigned char *)b;
    if (!bytes || !memcmp(a, b, bytes)) return 1;
    for (i = 0; p[i] == q[i]; i++) {
    }
    check_failures++;
    if (check_lines++ < 12)
        printf("%s:%d: %s: not the same bits from byte %lu of %lu on\n", file, line, what, (unsigned long)i,
               (unsigned long)bytes);
    return 0;
}
#define CHECK(x)                     check_at(!!(x), __FILE__, __LINE__, #x)
#define CHECK_NEAR(got, want, bound) check_near_at((got), (want), (bound), __FILE__, __LINE__, #got)
#define CHECK_OK(c, call)            check_ok_at((c), (call), __FILE__, __LINE__, #call)
#define CHECK_SAME(a, b, bytes)      check_same_at((a), (b), (bytes), __FILE__, __LINE__, #a " == " #b)

/* A failing check's line, with the case it stands for. */
MAYBE_UNUSED static int check_case(int ok, const char *file, int line, const char *what, const char *one) {
    char text[512];
    if (ok) return 1;
    (void)snprintf(text, sizeof text, "%.200s [%.280s]", what, one);
    return check_at(0, file, line, text);
}
#define CHECK_CASE(x, one) check_case(!!(x), __FILE__, __LINE__, #x, (one))

/* Memory of a test: zeroed, freed by scratch_free after it. */
typedef struct scratch {
    struct scratch *next;
    double align;
} scratch;
static scratch *scratch_list;

MAYBE_UNUSED static void *scratch_get(size_t count, size_t size) {
    scratch *s = (scratch *)calloc(1, sizeof *s + count * size + 64);
    if (!s) {
        printf("the test itself has no memory\n");
        exit(3);
    }
    s->next = scratch_list;
    scratch_list = s;
    return s + 1;
}
#define SCRATCH(type, n) ((type *)scratch_get((size_t)(n), sizeof(type)))
MAYBE_UNUSED static void scratch_free(void) {
    while (scratch_list) {
        scratch *s = scratch_list;
        scratch_list = s->next;
        free(s);
    }
}

/* Random numbers of the tests: splitmix64. */
static uint64_t rng_state = 1;
MAYBE_UNUSED static uint64_t rng(void) {
    uint64_t x = rng_state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
MAYBE_UNUSED static double rng_unit(void) { return ((double)(rng() >> 11) + 0.5) / 9007199254740992.0; }
MAYBE_UNUSED static int rng_below(int n) { return (int)(rng() % (uint64_t)n); }
MAYBE_UNUSED static double rng_normal(void) {
    double s = -6.0;
    int i;
    for (i = 0; i < 12; i++) s += rng_unit();
    return s;
}
/* n numbers that are floats, as doubles */
MAYBE_UNUSED static double *rng_doubles(int64_t n, double scale) {
    double *x = SCRATCH(double, n);
    int64_t i;
    for (i = 0; i < n; i++) x[i] = (double)(float)(rng_normal() * scale);
    return x;
}
MAYBE_UNUSED static float *floats_of(const double *x, int64_t n) {
    float *f = SCRATCH(float, n);
    int64_t i;
    for (i = 0; i < n; i++) f[i] = (float)x[i];
    return f;
}
MAYBE_UNUSED static float *rng_floats(int64_t n, double scale) {
    float *f = SCRATCH(float, n);
    int64_t i;
    for (i = 0; i < n; i++) f[i] = (float)(rng_normal() * scale);
    return f;
}
/* ||a - b|| / ||b||, or ||a - b|| where b is nothing */
MAYBE_UNUSED static double relative_error(const float *a, const double *b, int64_t n) {
    double d = 0, s = 0;
    int64_t i;
    for (i = 0; i < n; i++) {
        double e = (double)a[i] - b[i];
        d += e * e;
        s += b[i] * b[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}
MAYBE_UNUSED static uint64_t hash_bytes(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = (const unsigned char *)data;
    size_t i;
    for (i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* An allocator that counts, and fails from the k-th request on (or only then). */
typedef struct heap {
    int64_t live, calls, bytes, peak, requested, fail_at;
    int transient;
} heap;
MAYBE_UNUSED static void *heap_alloc(void *user, size_t n) {
    heap *h = (heap *)user;
    void *p;
    h->calls++;
    h->requested += (int64_t)n;
    if (h->fail_at && (h->transient ? h->calls == h->fail_at : h->calls >= h->fail_at)) return NULL;
    p = malloc(n);
    if (!p) return NULL;
    memset(p, 0xa5, n); /* memory that was not written shows */
    h->live++;
    h->bytes += (int64_t)n;
    if (h->bytes > h->peak) h->peak = h->bytes;
    return p;
}
MAYBE_UNUSED static void heap_release(void *user, void *p, size_t n) {
    heap *h = (heap *)user;
    h->live--;
    h->bytes -= (int64_t)n;
    memset(p, 0x5a, n);
    free(p);
}
#endif
