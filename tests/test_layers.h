/* test_layers.h - every public layer: its forward pass against an independent one in double, its backward
   pass against central differences of that. Shapes with 1, 3, 7, 17, 33. */

/* d(f)/d(x), numerically, in double */
static double *numeric(double (*f)(void *), void *arg, double *x, int64_t n) {
    double *g = SCRATCH(double, n > 0 ? n : 1);
    int64_t i;
    for (i = 0; i < n; i++) {
        double keep = x[i], up, down, h = 2e-5;
        x[i] = keep + h;
        up = f(arg);
        x[i] = keep - h;
        down = f(arg);
        x[i] = keep;
        g[i] = (up - down) / (2 * h);
    }
    return g;
}
#define LAYER_BOUND 5e-6
/* got - start (what was there before) must be the numeric gradient; errors count against its norm and `floor` */
static void compare_floor(const float *got, double start, const double *want, int64_t n, double floor,
                          const char *what) {
    float *d = SCRATCH(float, n > 0 ? n : 1);
    char text[160];
    double e, norm = 0;
    int64_t i;
    for (i = 0; i < n; i++) d[i] = (float)((double)got[i] - start);
    e = relative_error(d, want, n);
    for (i = 0; i < n; i++) norm += want[i] * want[i];
    if (norm > 0) e *= sqrt(norm) / (sqrt(norm) + floor);
    (void)snprintf(text, sizeof text, "%.100s: relative error %.3g", what, e);
    CHECK_CASE(e <= (start != 0 ? 10 : 1) * LAYER_BOUND, text);
}
static void compare_gradient(const float *got, double start, const double *want, int64_t n, const char *what) {
    compare_floor(got, start, want, n, 0.0, what);
}
static float *filled(int64_t n, float x) {
    float *f = SCRATCH(float, n > 0 ? n : 1);
    int64_t i;
    for (i = 0; i < n; i++) f[i] = x;
    return f;
}
#define T1(p, a)       dpo_tensor_f32((p), (a), 0, 0, 0)
#define T2(p, a, b)    dpo_tensor_f32((p), (a), (b), 0, 0)
#define T3(p, a, b, c) dpo_tensor_f32((p), (a), (b), (c), 0)
static dpo_tensor t_none(void) {
    dpo_tensor t;
    memset(&t, 0, sizeof t);
    t.dtype = DPO_F32;
    return t;
}

/* What a layer's double forward pass reads; it returns sum out * dout and fills out if asked to. */
typedef struct layer {
    int64_t n, d, m, r;
    int kind, heads, kv, dim, rotary;
    double *x, *w, *b, *a, *bb, *v, eps, scale, theta;
    const int32_t *ids;
    const dpo_segment *segments;
    int64_t n_segments;
    const float *slopes;
    double *dout, *out;
} layer;

static double layer_end(layer *l, const double *y, int64_t n) {
    double s = 0;
    int64_t i;
    for (i = 0; i < n; i++) {
        s += y[i] * l->dout[i];
        if (l->out) l->out[i] = y[i];
    }
    return s;
}
/* Runs f once for its outputs. */
static double *layer_out(double (*f)(void *), layer *l, int64_t n) {
    double *y = l->out = SCRATCH(double, n);
    (void)f(l);
    l->out = NULL;
    return y;
}

/* ------------------------------------------------------------------ embedding */
static void test_layer_embedding(void) {
    static const int32_t ids[9] = {3, 0, 3, 6, 3, 2, 6, 0, 0};
    dpo_context *c = dpo_open(NULL);
    float *table = rng_floats(7 * 17, 1.0), *y = filled(9 * 17, 9.0f), *dy = rng_floats(9 * 17, 1.0);
    float *dt = filled(7 * 17, 0.5f);
    double *want = SCRATCH(double, 7 * 17);
    int n, i;
    CHECK_OK(c, dpo_embedding_forward(c, T2(y, 9, 17), ids, T2(table, 7, 17)));
    CHECK_OK(c, dpo_embedding_backward(c, T2(dt, 7, 17), ids, T2(dy, 9, 17)));
    for (n = 0; n < 9; n++) {
        CHECK_SAME(y + n * 17, table + ids[n] * 17, 17 * 4);
        for (i = 0; i < 17; i++) want[ids[n] * 17 + i] += (double)dy[n * 17 + i];
    }
    compare_gradient(dt, 0.5, want, 7 * 17, "embedding");
    dpo_close(c);
}

/* ------------------------------------------------------------------ norms */
static double norm_double(void *arg) {
    layer *l = (layer *)arg;
    double *y = l->v;
    int64_t n, i;
    for (n = 0; n < l->n; n++) {
        const double *x = l->x + n * l->d;
        double mean = 0, var = 0;
        for (i = 0; i < l->d && l->kind == DPO_NORM_LAYER; i++) mean += x[i] / (double)l->d;
        for (i = 0; i < l->d; i++) var += (x[i] - mean) * (x[i] - mean) / (double)l->d;
        for (i = 0; i < l->d; i++)
            y[n * l->d + i] = (x[i] - mean) / sqrt(var + l->eps) * l->w[i] + (l->kind == DPO_NORM_LAYER ? l->b[i] : 0);
    }
    return layer_end(l, y, l->n * l->d);
}
static void norm_case(dpo_context *c, int kind, int64_t n, int64_t d) {
    layer l;
    float *x, *w, *b, *dy, *y = filled(n * d, 7.0f), *stats = filled(2 * n, 0.0f);
    float *dx = filled(n * d, 7.0f), *dw = filled(d, 0.25f), *db = filled(d, 0.25f);
    char name[64];
    memset(&l, 0, sizeof l);
    l.n = n;
    l.d = d;
    l.kind = kind;
    l.eps = 1e-5;
    l.x = rng_doubles(n * d, 1.5);
    l.w = rng_doubles(d, 1.0);
    l.b = rng_doubles(d, 1.0);
    l.v = SCRATCH(double, n *d);
    l.dout = rng_doubles(n * d, 1.0);
    x = floats_of(l.x, n * d);
    w = floats_of(l.w, d);
    b = floats_of(l.b, d);
    dy = floats_of(l.dout, n * d);
    CHECK_OK(c, dpo_norm_forward(c, kind, T2(y, n, d), T2(stats, n, 2), T2(x, n, d), T1(w, d),
                                 kind == DPO_NORM_LAYER ? T1(b, d) : t_none(), l.eps));
    CHECK_OK(c, dpo_norm_backward(c, kind, T2(dx, n, d), T1(dw, d), kind == DPO_NORM_LAYER ? T1(db, d) : t_none(),
                                  T2(dy, n, d), T2(x, n, d), T1(w, d), T2(stats, n, 2)));
    (void)snprintf(name, sizeof name, "norm %d %ld x %ld", kind, (long)n, (long)d);
    CHECK_CASE(relative_error(y, layer_out(norm_double, &l, n * d), n * d) < 2e-6, name);
    /* RMS of one element is +-w: its gradient is almost 0, a difference of large terms */
    if (d > 1) compare_gradient(dx, 0, numeric(norm_double, &l, l.x, n * d), n * d, name);
    compare_gradient(dw, 0.25, numeric(norm_double, &l, l.w, d), d, name);
    if (kind == DPO_NORM_LAYER) compare_gradient(db, 0.25, numeric(norm_double, &l, l.b, d), d, name);
}
static void test_layer_norms(void) {
    static const int64_t shapes[5][2] = {{1, 1}, {3, 7}, {7, 17}, {5, 33}, {2, 129}};
    dpo_context *c = dpo_open(NULL);
    int i, kind;
    for (i = 0; i < 5; i++)
        for (kind = 0; kind < 2; kind++) norm_case(c, kind ? DPO_NORM_RMS : DPO_NORM_LAYER, shapes[i][0], shapes[i][1]);
    dpo_close(c);
}

/* ------------------------------------------------------------------ linear */
static double linear_double(void *arg) {
    layer *l = (layer *)arg;
    double *y = l->v, *h = l->v + l->n * l->m;
    int64_t n, i, o, r;
    for (n = 0; n < l->n; n++) {
        for (r = 0; r < l->r; r++)
            for (h[r] = 0, i = 0; i < l->d; i++) h[r] += l->x[n * l->d + i] * l->a[r * l->d + i];
        for (o = 0; o < l->m; o++) {
            double s = l->b ? l->b[o] : 0;
            for (i = 0; i < l->d; i++) s += l->x[n * l->d + i] * l->w[o * l->d + i];
            for (r = 0; r < l->r; r++) s += l->scale * h[r] * l->bb[o * l->r + r];
            y[n * l->m + o] = s;
        }
    }
    return layer_end(l, y, l->n * l->m);
}
static void linear_compare(layer *l, const float *dx, const dpo_linear *g, const char *name) {
    int64_t in = l->d, out = l->m, r = l->r;
    compare_gradient(dx, 0, numeric(linear_double, l, l->x, l->n * in), l->n * in, name);
    compare_gradient((float *)g->w.data, 0.125, numeric(linear_double, l, l->w, out * in), out * in, name);
    if (l->b) compare_gradient((float *)g->b.data, 0.125, numeric(linear_double, l, l->b, out), out, name);
    if (!r) return;
    compare_gradient((float *)g->a.data, 0.125, numeric(linear_double, l, l->a, r * in), r * in, name);
    compare_gradient((float *)g->bb.data, 0.125, numeric(linear_double, l, l->bb, r * out), r * out, name);
}
static void linear_case(dpo_context *c, int64_t n, int64_t in, int64_t out, int64_t r, int bias) {
    layer l;
    dpo_linear p, g, none;
    float *x, *dy, *y = filled(n * out, 7.0f), *dx = filled(n * in, 7.0f), *dx2 = filled(n * in, 7.0f);
    char name[80];
    memset(&l, 0, sizeof l);
    l.n = n;
    l.d = in;
    l.m = out;
    l.r = r;
    l.scale = 1.75;
    l.x = rng_doubles(n * in, 1.0);
    l.w = rng_doubles(out * in, 0.5);
    l.b = bias ? rng_doubles(out, 1.0) : NULL;
    l.a = rng_doubles(r * in + 1, 0.5);
    l.bb = rng_doubles(out * r + 1, 0.5);
    l.v = SCRATCH(double, n *out + r);
    l.dout = rng_doubles(n * out, 1.0);
    x = floats_of(l.x, n * in);
    dy = floats_of(l.dout, n * out);
    p.w = T2(floats_of(l.w, out * in), out, in);
    p.b = bias ? T1(floats_of(l.b, out), out) : t_none();
    p.a = r ? T2(floats_of(l.a, r * in), r, in) : t_none();
    p.bb = r ? T2(floats_of(l.bb, out * r), out, r) : t_none();
    p.scale = l.scale;
    g.w = T2(filled(out * in, 0.125f), out, in);
    g.b = bias ? T1(filled(out, 0.125f), out) : t_none();
    g.a = r ? T2(filled(r * in, 0.125f), r, in) : t_none();
    g.bb = r ? T2(filled(out * r, 0.125f), out, r) : t_none();
    g.scale = 0;
    memset(&none, 0, sizeof none);
    none.w = none.b = none.a = none.bb = t_none();
    CHECK_OK(c, dpo_linear_forward(c, T2(y, n, out), T2(x, n, in), &p));
    CHECK_OK(c, dpo_linear_backward(c, T2(dx, n, in), &g, T2(dy, n, out), T2(x, n, in), &p));
    CHECK_OK(c, dpo_linear_backward(c, T2(dx2, n, in), &none, T2(dy, n, out), T2(x, n, in), &p));
    (void)snprintf(name, sizeof name, "linear %ld x %ld -> %ld, r %ld, bias %d", (long)n, (long)in, (long)out, (long)r,
                   bias);
    CHECK_CASE(relative_error(y, layer_out(linear_double, &l, n * out), n * out) < 2e-6, name);
    linear_compare(&l, dx, &g, name);
    CHECK_CASE(!memcmp(dx, dx2, (size_t)(n * in) * 4), name);
}
static void test_layer_linear(void) {
    static const int64_t shapes[6][4] = {{1, 1, 1, 0},   {3, 7, 17, 0},  {17, 33, 7, 3},
                                         {33, 17, 3, 1}, {7, 40, 33, 8}, {1, 3, 1, 7}};
    dpo_context *c = dpo_open(NULL);
    int i;
    for (i = 0; i < 12; i++)
        linear_case(c, shapes[i / 2][0], shapes[i / 2][1], shapes[i / 2][2], shapes[i / 2][3], i & 1);
    dpo_close(c);
}

/* ------------------------------------------------------------------ rotary positions */
static double rope_double(void *arg) {
    layer *l = (layer *)arg;
    int64_t n, h, i, half = l->rotary / 2;
    for (n = 0; n < l->n; n++)
        for (h = 0; h < l->heads; h++) {
            const double *x = l->x + (n * l->heads + h) * l->dim;
            double *y = l->v + (n * l->heads + h) * l->dim;
            for (i = 0; i < l->dim; i++) y[i] = x[i];
            for (i = 0; i < half; i++) {
                double t = (double)l->ids[n] * pow(l->theta, -2.0 * (double)i / l->rotary);
                y[i] = x[i] * cos(t) - x[i + half] * sin(t);
                y[i + half] = x[i + half] * cos(t) + x[i] * sin(t);
            }
        }
    return layer_end(l, l->v, l->n * l->heads * l->dim);
}
static void test_layer_rope(void) {
    static const int shapes[5][3] = {
        {1, 2, 2}, {3, 7, 4}, {2, 17, 16}, {1, 33, 32}, {3, 40, 40}}; /* heads, dim, rotary */
    static const int32_t positions[7] = {0, 1, 2, 5, 5, 31, 1000};
    dpo_context *c = dpo_open(NULL);
    int s;
    for (s = 0; s < 5; s++) {
        layer l;
        int64_t n;
        float *x, *dx;
        memset(&l, 0, sizeof l);
        l.n = 7;
        l.heads = shapes[s][0];
        l.dim = shapes[s][1];
        l.rotary = shapes[s][2];
        l.theta = 10000.0;
        l.ids = positions;
        n = l.n * l.heads * l.dim;
        l.x = rng_doubles(n, 1.0);
        l.v = SCRATCH(double, n);
        l.dout = rng_doubles(n, 1.0);
        x = floats_of(l.x, n);
        dx = floats_of(l.dout, n);
        CHECK_OK(c, dpo_rope_forward(c, T3(x, 7, l.heads, l.dim), positions, l.rotary, l.theta));
        CHECK_OK(c, dpo_rope_backward(c, T3(dx, 7, l.heads, l.dim), positions, l.rotary, l.theta));
        CHECK_NEAR(relative_error(x, layer_out(rope_double, &l, n), n), 0, 1e-6);
        compare_gradient(dx, 0, numeric(rope_double, &l, l.x, n), n, "rope");
    }
    dpo_close(c);
}

/* ------------------------------------------------------------------ attention */
/* The rows a row sees: its ancestors' and its own segment's up to itself. */
static int64_t visible(const layer *l, int64_t row, int64_t *rows) {
    int64_t s, n = 0, i;
    int32_t chain[16], depth = 0, p;
    for (s = 0; s < l->n_segments; s++)
        if (row >= l->segments[s].first && row < l->segments[s].first + l->segments[s].length) break;
    for (p = (int32_t)s; p >= 0; p = l->segments[p].parent) chain[depth++] = p;
    while (depth--) {
        const dpo_segment *g = &l->segments[chain[depth]];
        for (i = 0; i < g->length && g->first + i <= row; i++) rows[n++] = g->first + i;
    }
    return n;
}
static double attention_double(void *arg) {
    layer *l = (layer *)arg;
    int64_t row, h, j, e, rows[256];
    double s[256];
    for (row = 0; row < l->n; row++) {
        int64_t n = visible(l, row, rows);
        for (h = 0; h < l->heads; h++) {
            int64_t g = h / (l->heads / l->kv);
            const double *q = l->x + (row * l->heads + h) * l->dim;
            double top = -1e300, z = 0, *y = l->v + (row * l->heads + h) * l->dim;
            for (j = 0; j < n; j++) {
                for (s[j] = 0, e = 0; e < l->dim; e++) s[j] += q[e] * l->a[(rows[j] * l->kv + g) * l->dim + e];
                s[j] = s[j] * l->scale - (l->slopes ? (double)l->slopes[h] * (double)(n - 1 - j) : 0.0);
                if (s[j] > top) top = s[j];
            }
            for (j = 0; j < n; j++) z += s[j] = exp(s[j] - top);
            for (e = 0; e < l->dim; e++)
                for (y[e] = 0, j = 0; j < n; j++) y[e] += s[j] / z * l->bb[(rows[j] * l->kv + g) * l->dim + e];
        }
    }
    return layer_end(l, l->v, l->n * l->heads * l->dim);
}
static void attention_case(dpo_context *c, const dpo_segment *segments, int n_segments, int heads, int kv, int dim,
                           int alibi) {
    static const float slopes[8] = {0.5f, 0.25f, 0.125f, 0.0625f, 0.7f, 0.35f, 0.2f, 0.1f};
    layer l;
    int64_t nq, nk;
    float *q, *k, *v, *dout, *out, *stats, *dq, *dk, *dv;
    char name[96];
    memset(&l, 0, sizeof l);
    l.segments = segments;
    l.n_segments = n_segments;
    l.n = segments[n_segments - 1].first + segments[n_segments - 1].length;
    l.heads = heads;
    l.kv = kv;
    l.dim = dim;
    l.scale = 0.37;
    l.slopes = alibi ? slopes : NULL;
    nq = l.n * heads * dim;
    nk = l.n * kv * dim;
    l.x = rng_doubles(nq, 1.0);
    l.a = rng_doubles(nk, 1.0);
    l.bb = rng_doubles(nk, 1.0);
    l.v = SCRATCH(double, nq);
    l.dout = rng_doubles(nq, 1.0);
    q = floats_of(l.x, nq);
    k = floats_of(l.a, nk);
    v = floats_of(l.bb, nk);
    dout = floats_of(l.dout, nq);
    out = filled(nq, 7.0f);
    stats = filled(l.n * heads * 2, 7.0f);
    dq = filled(nq, 7.0f);
    dk = filled(nk, 7.0f);
    dv = filled(nk, 7.0f);
    CHECK_OK(c,
             dpo_attention_forward(c, T3(out, l.n, heads, dim), T3(stats, l.n, heads, 2), T3(q, l.n, heads, dim),
                                   T3(k, l.n, kv, dim), T3(v, l.n, kv, dim), segments, n_segments, l.scale, l.slopes));
    CHECK_OK(c,
             dpo_attention_backward(c, T3(dq, l.n, heads, dim), T3(dk, l.n, kv, dim), T3(dv, l.n, kv, dim),
                                    T3(dout, l.n, heads, dim), T3(stats, l.n, heads, 2), T3(q, l.n, heads, dim),
                                    T3(k, l.n, kv, dim), T3(v, l.n, kv, dim), segments, n_segments, l.scale, l.slopes));
    (void)snprintf(name, sizeof name, "attention rows %ld segments %d heads %d/%d dim %d alibi %d", (long)l.n,
                   n_segments, heads, kv, dim, alibi);
    CHECK_CASE(relative_error(out, layer_out(attention_double, &l, nq), nq) < 2e-6, name);
    compare_gradient(dq, 0, numeric(attention_double, &l, l.x, nq), nq, name);
    compare_gradient(dk, 0, numeric(attention_double, &l, l.a, nk), nk, name);
    compare_gradient(dv, 0, numeric(attention_double, &l, l.bb, nk), nk, name);
}
static void test_layer_attention(void) {
    static const dpo_segment one[1] = {{-1, 0, 1, 0}}, row17[1] = {{-1, 0, 17, 0}}, row70[1] = {{-1, 0, 70, 0}};
    static const dpo_segment pair[3] = {{-1, 0, 7, 0}, {0, 7, 3, 0}, {0, 10, 5, 0}};
    static const dpo_segment deep[6] = {{-1, 0, 3, 0}, {0, 3, 2, 0},  {1, 5, 1, 0},
                                        {1, 6, 4, 0},  {0, 10, 1, 0}, {-1, 11, 6, 0}};
    dpo_context *c = dpo_open(NULL);
    attention_case(c, one, 1, 1, 1, 1, 0);
    attention_case(c, one, 1, 4, 2, 3, 1);
    attention_case(c, row17, 1, 3, 3, 7, 0);
    attention_case(c, row17, 1, 4, 2, 17, 0);
    attention_case(c, row17, 1, 6, 1, 3, 1);
    attention_case(c, row70, 1, 2, 1, 2, 0);
    attention_case(c, pair, 3, 2, 2, 8, 0);
    attention_case(c, pair, 3, 6, 3, 5, 1);
    attention_case(c, deep, 6, 4, 2, 7, 0);
    attention_case(c, deep, 6, 4, 4, 6, 1);
    dpo_close(c);
}

/* ------------------------------------------------------------------ activations */
static double activation_double(void *arg) {
    layer *l = (layer *)arg;
    int64_t i;
    for (i = 0; i < l->n; i++) {
        double x = l->x[i];
        if (l->kind == DPO_GELU) l->v[i] = x * 0.5 * (1 + erf(x / sqrt(2.0)));
        else if (l->kind == DPO_GELU_TANH)
            l->v[i] = 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
        else l->v[i] = x * l->w[i] / (1 + exp(-l->w[i]));
    }
    return layer_end(l, l->v, l->n);
}
static void test_layer_activations(void) {
    static const int kinds[3] = {DPO_GELU, DPO_GELU_TANH, DPO_SWIGLU};
    static const int64_t sizes[4] = {1, 7, 17, 333};
    dpo_context *c = dpo_open(NULL);
    int k, s;
    for (k = 0; k < 3; k++)
        for (s = 0; s < 4; s++) {
            layer l;
            int64_t n = sizes[s];
            float *x, *w, *dy, *y = filled(n, 7.0f), *dx = filled(n, 7.0f), *dw = filled(n, 7.0f);
            memset(&l, 0, sizeof l);
            l.n = n;
            l.kind = kinds[k];
            l.x = rng_doubles(n, 2.5);
            l.w = rng_doubles(n, 2.5);
            l.v = SCRATCH(double, n);
            l.dout = rng_doubles(n, 1.0);
            x = floats_of(l.x, n);
            w = floats_of(l.w, n);
            dy = floats_of(l.dout, n);
            if (l.kind == DPO_SWIGLU) {
                CHECK_OK(c, dpo_activation_forward(c, l.kind, T1(y, n), T1(x, n), T1(w, n)));
                CHECK_OK(c, dpo_activation_backward(c, l.kind, T1(dx, n), T1(dw, n), T1(dy, n), T1(x, n), T1(w, n)));
                compare_floor(dw, 0, numeric(activation_double, &l, l.w, n), n, 1.0, "swiglu gate");
            } else {
                CHECK_OK(c, dpo_activation_forward(c, l.kind, T1(y, n), T1(x, n), t_none()));
                CHECK_OK(c, dpo_activation_backward(c, l.kind, T1(dx, n), t_none(), T1(dy, n), T1(x, n), t_none()));
            }
            /* far on the negative side gelu is a difference of almost equal numbers */
            compare_floor(y, 0, layer_out(activation_double, &l, n), n, 1.0, "activation forward");
            compare_floor(dx, 0, numeric(activation_double, &l, l.x, n), n, 1.0, "activation");
        }
    dpo_close(c);
}

/* ------------------------------------------------------------------ output head */
static double head_double(void *arg) {
    layer *l = (layer *)arg;
    int64_t n, j, i;
    double *z = l->v + l->n;
    for (n = 0; n < l->n; n++) {
        double top = -1e300, s = 0;
        for (j = 0; j < l->m; j++) {
            for (z[j] = 0, i = 0; i < l->d; i++) z[j] += l->x[n * l->d + i] * l->w[j * l->d + i];
            z[j] *= l->scale;
            if (z[j] > top) top = z[j];
        }
        for (j = 0; j < l->m; j++) s += exp(z[j] - top);
        l->v[n] = z[l->ids[n]] - top - log(s);
    }
    return layer_end(l, l->v, l->n);
}
static void test_layer_head(void) {
    static const int64_t shapes[4][3] = {{1, 1, 2}, {3, 7, 17}, {17, 33, 7}, {7, 5, 300}}; /* rows, d, vocabulary */
    dpo_context *c = dpo_open(NULL);
    int s;
    for (s = 0; s < 8; s++) {
        layer l;
        int64_t n = shapes[s / 2][0], d = shapes[s / 2][1], v = shapes[s / 2][2], i;
        int32_t *token = SCRATCH(int32_t, n);
        float *x, *w, *dx = filled(n * d, 7.0f), *dw = filled(v * d, 0.125f);
        double *logps = SCRATCH(double, n), *want;
        memset(&l, 0, sizeof l);
        l.n = n;
        l.d = d;
        l.m = v;
        l.scale = s & 1 ? 0.222 : 1.0;
        for (i = 0; i < n; i++) token[i] = (int32_t)rng_below((int)v);
        l.ids = token;
        l.x = rng_doubles(n * d, 1.0);
        l.w = rng_doubles(v * d, 1.0);
        l.v = SCRATCH(double, n + v);
        l.dout = rng_doubles(n, 1.0);
        x = floats_of(l.x, n * d);
        w = floats_of(l.w, v * d);
        CHECK_OK(c, dpo_head_forward(c, logps, T2(x, n, d), T2(w, v, d), token, l.scale));
        CHECK_OK(c, dpo_head_backward(c, T2(dx, n, d), T2(dw, v, d), l.dout, T2(x, n, d), T2(w, v, d), token, l.scale));
        want = layer_out(head_double, &l, n);
        for (i = 0; i < n; i++) CHECK_NEAR(logps[i], want[i], 3e-6 * (1 + fabs(want[i])));
        compare_gradient(dx, 0, numeric(head_double, &l, l.x, n * d), n * d, "head dx");
        compare_gradient(dw, 0.125, numeric(head_double, &l, l.w, v * d), v * d, "head dw");
    }
    dpo_close(c);
}

/* ------------------------------------------------------------------ wrong shapes */
#define REFUSED(call) REFUSED_AS(DPO_E_SHAPE, call)
#define REFUSED_AS(code, call)                                                                                         \
    do {                                                                                                               \
        int64_t bad_;                                                                                                  \
        CHECK((call) == (code));                                                                                       \
        CHECK(dpo_status(c) == (code) && strlen(dpo_error(c)) > 10);                                                   \
        dpo_clear(c);                                                                                                  \
        for (bad_ = 0; bad_ < 64; bad_++) CHECK(y[bad_] == 7.0f);                                                      \
    } while (0)
static void test_layer_shapes(void) {
    static const dpo_segment wrong[2] = {{-1, 0, 2, 0}, {1, 2, 1, 0}}, gap[2] = {{-1, 0, 2, 0}, {0, 3, 1, 0}};
    static const int32_t ids[4] = {0, 1, 2, 3}, outside[4] = {0, 1, 9, 3};
    dpo_context *c = dpo_open(NULL);
    float *x = filled(64, 1.0f), *y = filled(64, 7.0f), *s = filled(64, 0.0f);
    dpo_linear l;
    double logps[4] = {0, 0, 0, 0};
    memset(&l, 0, sizeof l);
    l.b = l.a = l.bb = t_none();
    REFUSED(dpo_norm_forward(c, DPO_NORM_LAYER, T2(y, 4, 8), T2(s, 4, 2), T2(x, 4, 7), T1(x, 8), T1(x, 8), 1e-5));
    REFUSED(dpo_norm_forward(c, DPO_NORM_LAYER, T2(y, 4, 8), T2(s, 3, 2), T2(x, 4, 8), T1(x, 8), T1(x, 8), 1e-5));
    REFUSED(dpo_norm_forward(c, DPO_NORM_RMS, T2(y, 4, 8), T2(s, 4, 2), T2(x, 4, 8), T1(x, 9), t_none(), 1e-5));
    l.w = T2(x, 5, 8);
    REFUSED(dpo_linear_forward(c, T2(y, 4, 6), T2(x, 4, 8), &l));
    l.w = T2(x, 6, 8);
    l.a = T2(x, 2, 8);
    l.bb = T2(x, 6, 3);
    REFUSED(dpo_linear_forward(c, T2(y, 4, 6), T2(x, 4, 8), &l));
    REFUSED(dpo_embedding_forward(c, T2(y, 4, 8), ids, T2(x, 4, 7)));
    REFUSED(dpo_embedding_forward(c, T2(y, 4, 8), outside, T2(x, 4, 8)));
    REFUSED_AS(DPO_E_ARG, dpo_rope_forward(c, T3(y, 4, 2, 8), ids, 10, 1e4));
    REFUSED_AS(DPO_E_ARG, dpo_norm_forward(c, 2, T2(y, 4, 8), T2(s, 4, 2), T2(x, 4, 8), T1(x, 8), T1(x, 8), 1e-5));
    REFUSED(dpo_activation_forward(c, DPO_GELU, T1(y, 8), T1(x, 9), t_none()));
    REFUSED(dpo_activation_forward(c, DPO_SWIGLU, T1(y, 8), T1(x, 8), T1(x, 9)));
    REFUSED(dpo_activation_forward(c, DPO_SWIGLU, T1(y, 8), T1(x, 8), t_none()));
    REFUSED_AS(DPO_E_ARG, dpo_activation_forward(c, 3, T1(y, 8), T1(x, 8), T1(x, 8)));
    REFUSED(dpo_attention_forward(c, T3(y, 3, 4, 2), T3(s, 3, 4, 2), T3(x, 3, 4, 2), T3(x, 3, 3, 2), T3(x, 3, 3, 2),
                                  gap, 1, 1.0, NULL));
    REFUSED(dpo_attention_forward(c, T3(y, 3, 2, 2), T3(s, 3, 2, 2), T3(x, 3, 2, 2), T3(x, 3, 2, 2), T3(x, 3, 2, 2),
                                  wrong, 2, 1.0, NULL));
    REFUSED(dpo_attention_forward(c, T3(y, 3, 2, 2), T3(s, 3, 2, 2), T3(x, 3, 2, 2), T3(x, 3, 2, 2), T3(x, 3, 2, 2),
                                  gap, 2, 1.0, NULL));
    REFUSED(dpo_head_forward(c, logps, T2(x, 4, 8), T2(x, 5, 7), ids, 1.0));
    REFUSED(dpo_head_forward(c, logps, T2(x, 4, 8), T2(x, 3, 8), ids, 1.0));
    dpo_close(c);
}
