/* simde_shim.h - AVX-512 for tests/simde.sh, emulated: on a CPU without it the same kernels run, slowly. */
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/avx2.h>
#include <simde/x86/fma.h>

/* As Intel documents it: the odd elements' product first, each step fused and rounded to nearest even, subnormal
   numbers are zeros going in and coming out. */
static inline float shim_flush(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (!(u & 0x7f800000u)) u &= 0x80000000u;
    memcpy(&x, &u, 4);
    return x;
}
static inline float shim_bf16(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return shim_flush(x);
}
static inline __m512 shim_dpbf16(__m512 s, __m512i a, __m512i b) {
    float to[16];
    uint32_t x[16], y[16];
    int i;
    memcpy(to, &s, 64);
    memcpy(x, &a, 64);
    memcpy(y, &b, 64);
    for (i = 0; i < 16; i++) {
        to[i] = __builtin_fmaf(shim_bf16(x[i] & 0xffff0000u), shim_bf16(y[i] & 0xffff0000u), shim_flush(to[i]));
        to[i] = __builtin_fmaf(shim_bf16(x[i] << 16), shim_bf16(y[i] << 16), shim_flush(to[i]));
        to[i] = shim_flush(to[i]);
    }
    memcpy(&s, to, 64);
    return s;
}
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps shim_dpbf16

/* What SIMDe lacks. */
#define SHIM_LANES(vector, type, n, ...)                                                                               \
    {                                                                                                                  \
        type to[n];                                                                                                    \
        vector v;                                                                                                      \
        int i;                                                                                                         \
        for (i = 0; i < n; i++) to[i] = (type)((m >> i & 1) ? (__VA_ARGS__) : 0);                                      \
        memcpy(&v, to, sizeof v);                                                                                      \
        return v;                                                                                                      \
    }
#define SHIM_FROM(type, n, x)                                                                                          \
    type from[n];                                                                                                      \
    memcpy(from, &x, sizeof from);
static inline __m512i shim_load32(__mmask16 m, const void *p)
    SHIM_LANES(__m512i, int32_t, 16, ((const int32_t *)p)[i]) static inline __m512i
    shim_load16(uint32_t m, const void *p)
        SHIM_LANES(__m512i, int16_t, 32, ((const int16_t *)p)[i]) static inline __m256i
    shim_load16h(__mmask16 m, const void *p)
        SHIM_LANES(__m256i, int16_t, 16, ((const int16_t *)p)[i]) static inline void shim_store32(void *p, __mmask16 m,
                                                                                                  __m512i x) {
    int i;
    SHIM_FROM(int32_t, 16, x)
    for (i = 0; i < 16; i++)
        if (m >> i & 1) ((int32_t *)p)[i] = from[i];
}
static inline __m256i shim_narrow(__mmask8 m, __m512i x) {
    SHIM_FROM(int64_t, 8, x)
    SHIM_LANES(__m256i, int32_t, 8, (int32_t)from[i])
}
static inline __m512i shim_widen(__mmask16 m, __m256i x) {
    SHIM_FROM(uint16_t, 16, x)
    SHIM_LANES(__m512i, int32_t, 16, from[i])
}
static inline __m512i shim_left32(__mmask16 m, __m512i x, unsigned n) {
    SHIM_FROM(uint32_t, 16, x)
    SHIM_LANES(__m512i, uint32_t, 16, from[i] << n)
}
static inline __m512i shim_right32(__mmask16 m, __m512i x, unsigned n) {
    SHIM_FROM(uint32_t, 16, x)
    SHIM_LANES(__m512i, uint32_t, 16, from[i] >> n)
}
static inline __m512i shim_right64(__mmask8 m, __m512i x, unsigned n) {
    SHIM_FROM(uint64_t, 8, x)
    SHIM_LANES(__m512i, uint64_t, 8, from[i] >> n)
}
static inline __m512i shim_shuffle(__mmask16 m, __m512i x, __m512i y, int how) {
    int32_t two[2][16];
    memcpy(two[0], &x, 64);
    memcpy(two[1], &y, 64);
    SHIM_LANES(__m512i, int32_t, 16, two[i / 8][(how >> i / 4 * 2 & 3) * 4 + i % 4])
}
#define _mm512_maskz_loadu_epi32    shim_load32
#define _mm512_maskz_loadu_epi16    shim_load16
#define _mm256_maskz_loadu_epi16    shim_load16h
#define _mm512_mask_storeu_epi32    shim_store32
#define _mm512_maskz_cvtepi64_epi32 shim_narrow
#define _mm512_maskz_cvtepu16_epi32 shim_widen
#define _mm512_maskz_slli_epi32     shim_left32
#define _mm512_maskz_srli_epi32     shim_right32
#define _mm512_maskz_srli_epi64     shim_right64
#define _mm512_maskz_shuffle_i32x4  shim_shuffle
