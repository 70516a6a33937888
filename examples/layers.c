/* layers.c - level 3: a small network by hand, from the library's layers and plain arrays.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/layers.c -o layers -lm -lpthread && ./layers
 *
 * Task: learn a + b mod 7 from all 49 pairs (a, b). Network: each number's embedding, both end to end (x), then two linear
 * layers with GELU between them (h, y = gelu(h), z), then the output head, which is a linear layer with log-softmax:
 *
 *     x = [E[a], E[b]]     h = W1 x + b1     y = gelu(h)     z = W2 y + b2     logp = log softmax(H z)[a + b mod 7]
 *
 * Backward goes the same way in reverse; each backward function takes the gradient of its output and gives that of its
 * input. Last line: loss 0.0609 after 300 steps */
#include "../dpo.h"
#include <stdio.h>
#include <string.h>

enum { P = 7, N = P * P, D = 16, F = 64, STEPS = 300 };

/* Everything that is learnt, end to end, so that one loop can move it all. */
typedef struct {
    float e[P * D], w1[F * 2 * D], b1[F], w2[D * F], b2[D], head[P * D];
} weights;

static float x[N * 2 * D], h[N * F], y[N * F], z[N * D];     /* forward */
static float dx[N * 2 * D], dh[N * F], dy[N * F], dz[N * D]; /* and backward */
static weights w, g;

static dpo_tensor matrix(float *data, int64_t rows, int64_t columns) {
    return dpo_tensor_f32(data, rows, columns, 0, 0);
}

static dpo_linear linear(float *weight, float *bias, int64_t out, int64_t in) {
    dpo_linear l;
    memset(&l, 0, sizeof l); /* no adapter */
    l.w = matrix(weight, out, in);
    l.b = dpo_tensor_f32(bias, out, 0, 0, 0);
    return l;
}

static void forward(dpo_context *c, const int32_t *ids, const int32_t *sum, double *logps) {
    dpo_linear first = linear(w.w1, w.b1, F, 2 * D), second = linear(w.w2, w.b2, D, F);
    dpo_embedding_forward(c, matrix(x, 2 * N, D), ids, matrix(w.e, P, D)); /* the same floats, seen as [2N, D] ... */
    dpo_linear_forward(c, matrix(h, N, F), matrix(x, N, 2 * D), &first);   /* ... and as [N, 2D] */
    dpo_activation_forward(c, DPO_GELU, matrix(y, N, F), matrix(h, N, F), matrix(NULL, 0, 0)); /* GELU has no gate */
    dpo_linear_forward(c, matrix(z, N, D), matrix(y, N, F), &second);
    dpo_head_forward(c, logps, matrix(z, N, D), matrix(w.head, P, D), sum, 1.0);
}

/* Given d(loss)/d(logp), fills g with d(loss)/d(weights). */
static void backward(dpo_context *c, const int32_t *ids, const int32_t *sum, const double *dlogps) {
    dpo_linear first = linear(w.w1, w.b1, F, 2 * D), second = linear(w.w2, w.b2, D, F);
    dpo_linear dfirst = linear(g.w1, g.b1, F, 2 * D), dsecond = linear(g.w2, g.b2, D, F);
    memset(&g, 0, sizeof g); /* gradients of weights are added to what is there */
    dpo_head_backward(c, matrix(dz, N, D), matrix(g.head, P, D), dlogps, matrix(z, N, D), matrix(w.head, P, D), sum,
                      1.0);
    dpo_linear_backward(c, matrix(dy, N, F), &dsecond, matrix(dz, N, D), matrix(y, N, F), &second);
    dpo_activation_backward(c, DPO_GELU, matrix(dh, N, F), matrix(NULL, 0, 0), matrix(dy, N, F), matrix(h, N, F),
                            matrix(NULL, 0, 0));
    dpo_linear_backward(c, matrix(dx, N, 2 * D), &dfirst, matrix(dh, N, F), matrix(x, N, 2 * D), &first);
    dpo_embedding_backward(c, matrix(g.e, P, D), ids, matrix(dx, 2 * N, D));
}

int main(void) {
    dpo_context *c = dpo_open(NULL);
    int32_t ids[2 * N], sum[N];
    double logps[N], dlogps[N], loss = 0;
    float *value = w.e, *slope = g.e;
    uint32_t random = 1;
    int i, step, count = (int)(sizeof w / sizeof(float));
    for (i = 0; i < count; i++) { /* start: uniform in (-1/4, 1/4), by a generator of two lines; biases too, no harm */
        random = random * 1664525u + 1013904223u;
        value[i] = ((float)(random >> 8) / 16777216.0f - 0.5f) * 0.5f;
    }
    for (i = 0; i < N; i++) {
        ids[2 * i] = i / P;
        ids[2 * i + 1] = i % P;
        sum[i] = (i / P + i % P) % P;
        dlogps[i] = -1.0 / (double)N; /* the loss is the mean of -logp */
    }
    for (step = 0; step <= STEPS; step++) {
        forward(c, ids, sum, logps);
        for (loss = 0, i = 0; i < N; i++) loss -= logps[i] / (double)N;
        if (step % 50 == 0) printf("step %3d  loss %.4f\n", step, loss);
        backward(c, ids, sum, dlogps);
        /* A power of two as the learning rate: the product is exact, so a compiler that fuses it changes no bit. */
        for (i = 0; i < count; i++) value[i] -= 0.5f * slope[i];
    }
    if (dpo_status(c)) puts(dpo_error(c));
    else printf("loss %.4f after %d steps\n", loss, STEPS);
    i = dpo_status(c) != DPO_OK;
    dpo_close(c);
    return i;
}
