/* test_gguf.c - the tests of tools/formats/gguf.h and llama2c.h. A strict reader of GGUF of its own; a forward pass in
   double for each architecture, written to the conventions of llama.cpp's graphs, whose logits from the file must be the
   model's; llama.cpp's two rules of tokenizing, run on what the file says; and llama2.c's files, good and bad.

   usage: gguf [part of a name]     Last line: N passed, N failed. Exit status 1 on any failure, or when fewer tests ran
   than there must be. */
#include "../tools/formats/gguf.h"
#include "../tools/formats/llama2c.h"
#include "check.h"
#include "llama2c_dir.h"

#define FLOOR  16 /* so many tests there are at least */
#define FOLDER "build/tests/gguf.out"
#define SHARED "../shared/data/"
#define VOCAB  300

static dpo_context *ctx;
static char err[700];
static int skipped;

static void put_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(bytes, 1, n, f) == n);
    fclose(f);
}
/* A whole file with a zero behind it, scratch memory; NULL if it is not there. */
static unsigned char *get_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    unsigned char *p;
    long end;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    end = ftell(f);
    rewind(f);
    p = SCRATCH(unsigned char, end + 1);
    *n = fread(p, 1, (size_t)end, f);
    fclose(f);
    return p;
}
static int shared_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    else skipped++;
    return f != NULL;
}

/* ---- a strict reader of GGUF ------------------------------------------------------------------------------------- */

typedef struct key {
    char name[80];
    int type, element;
    uint64_t n;             /* elements of an array, bytes of a string */
    const unsigned char *p; /* the value */
} key;
typedef struct tensor {
    char name[64];
    int ndim, type;
    int64_t ne[2];
    uint64_t offset, bytes;
    const unsigned char *p;
    double *x; /* its values, once asked for */
} tensor;
typedef struct gguf {
    unsigned char *p;
    size_t n, at;
    key keys[64];
    tensor tensors[128];
    uint64_t n_keys, n_tensors;
    char arch[32];
} gguf;

static uint64_t number(const unsigned char *p, int bytes) {
    uint64_t x = 0;
    while (bytes--) x = x << 8 | p[bytes];
    return x;
}
static const unsigned char *next(gguf *g, uint64_t bytes) {
    const unsigned char *p = g->p + g->at;
    if (!CHECK_CASE(bytes <= g->n - g->at, "the file ends too early")) {
        g->at = g->n;
        return NULL;
    }
    g->at += (size_t)bytes;
    return p;
}
static uint64_t next_number(gguf *g, int bytes) {
    const unsigned char *p = next(g, (uint64_t)bytes);
    return p ? number(p, bytes) : 0;
}
static const unsigned char *next_string(gguf *g, uint64_t *n) {
    *n = next_number(g, 8);
    return next(g, *n);
}
static int size_of(int type) { return type == GGUF_BOOL ? 1 : 4; }

static const key *find_key(const gguf *g, const char *name) {
    char full[96];
    uint64_t i;
    (void)snprintf(full, sizeof full, "%s%s", name[0] == '.' ? g->arch : "", name);
    for (i = 0; i < g->n_keys; i++)
        if (!strcmp(g->keys[i].name, full)) return &g->keys[i];
    return NULL;
}
static int64_t key_u32(const gguf *g, const char *name, int64_t otherwise) {
    const key *k = find_key(g, name);
    return k && k->type == GGUF_U32 ? (int64_t)number(k->p, 4) : otherwise;
}
static double key_f32(const gguf *g, const char *name, double otherwise) {
    const key *k = find_key(g, name);
    uint32_t bits;
    float x;
    if (!k || k->type != GGUF_F32) return otherwise;
    bits = (uint32_t)number(k->p, 4);
    memcpy(&x, &bits, 4);
    return (double)x;
}
static int key_is(const gguf *g, const char *name, const char *text) {
    const key *k = find_key(g, name);
    return k && k->type == GGUF_STRING && k->n == strlen(text) && !memcmp(k->p, text, strlen(text));
}
static int key_bool(const gguf *g, const char *name, int otherwise) {
    const key *k = find_key(g, name);
    return k && k->type == GGUF_BOOL ? k->p[0] : otherwise;
}

/* The type llama.cpp asks each key for; arrays: 100 + that of elements. */
static const struct {
    const char *name;
    int type;
} known_keys[] = {{"general.architecture", GGUF_STRING},
                  {"general.type", GGUF_STRING},
                  {"general.name", GGUF_STRING},
                  {"general.file_type", GGUF_U32},
                  {".vocab_size", GGUF_U32},
                  {".context_length", GGUF_U32},
                  {".embedding_length", GGUF_U32},
                  {".block_count", GGUF_U32},
                  {".feed_forward_length", GGUF_U32},
                  {".attention.head_count", GGUF_U32},
                  {".attention.head_count_kv", GGUF_U32},
                  {".attention.layer_norm_epsilon", GGUF_F32},
                  {".attention.layer_norm_rms_epsilon", GGUF_F32},
                  {".attention.key_length", GGUF_U32},
                  {".attention.value_length", GGUF_U32},
                  {".attention.max_alibi_bias", GGUF_F32},
                  {".use_parallel_residual", GGUF_BOOL},
                  {".rope.dimension_count", GGUF_U32},
                  {".rope.freq_base", GGUF_F32},
                  {".rope.scaling.type", GGUF_STRING},
                  {".rope.scaling.factor", GGUF_F32},
                  {"tokenizer.ggml.model", GGUF_STRING},
                  {"tokenizer.ggml.pre", GGUF_STRING},
                  {"tokenizer.ggml.tokens", 100 + GGUF_STRING},
                  {"tokenizer.ggml.scores", 100 + GGUF_F32},
                  {"tokenizer.ggml.token_type", 100 + GGUF_I32},
                  {"tokenizer.ggml.merges", 100 + GGUF_STRING},
                  {"tokenizer.ggml.bos_token_id", GGUF_U32},
                  {"tokenizer.ggml.eos_token_id", GGUF_U32},
                  {"tokenizer.ggml.unknown_token_id", GGUF_U32},
                  {"tokenizer.ggml.padding_token_id", GGUF_U32},
                  {"tokenizer.ggml.add_bos_token", GGUF_BOOL},
                  {"tokenizer.ggml.add_eos_token", GGUF_BOOL},
                  {"tokenizer.ggml.add_space_prefix", GGUF_BOOL}};

static void read_key(gguf *g) {
    key *k = &g->keys[g->n_keys];
    const unsigned char *p;
    char full[96];
    uint64_t n, i;
    size_t j, found = 0;
    p = next_string(g, &n);
    if (!p || !CHECK(n < sizeof k->name)) return;
    memcpy(k->name, p, n);
    k->name[n] = 0;
    CHECK_CASE(!find_key(g, k->name), k->name); /* none twice */
    k->type = (int)next_number(g, 4);
    if (k->type == GGUF_ARRAY) {
        k->element = (int)next_number(g, 4);
        k->n = next_number(g, 8);
        k->p = g->p + g->at;
        for (i = 0; i < k->n && g->at < g->n; i++) {
            if (k->element == GGUF_STRING) next_string(g, &n);
            else next(g, (uint64_t)size_of(k->element));
        }
    } else if (k->type == GGUF_STRING) k->p = next_string(g, &k->n);
    else k->p = next(g, (uint64_t)size_of(k->type));
    if (!strcmp(k->name, "general.architecture")) {
        CHECK(g->n_keys == 0 && k->n < sizeof g->arch);
        memcpy(g->arch, k->p, k->n);
    }
    for (j = 0; j < sizeof known_keys / sizeof *known_keys; j++) {
        (void)snprintf(full, sizeof full, "%s%s", known_keys[j].name[0] == '.' ? g->arch : "", known_keys[j].name);
        found |= !strcmp(full, k->name) && known_keys[j].type == (k->type == GGUF_ARRAY ? 100 + k->element : k->type);
    }
    CHECK_CASE(found, k->name);
    g->n_keys++;
}
static void read_tensor(gguf *g) {
    tensor *t = &g->tensors[g->n_tensors];
    uint64_t n, i, elements = 1;
    const unsigned char *p = next_string(g, &n);
    if (!p || !CHECK(n < sizeof t->name)) return;
    memcpy(t->name, p, n);
    for (i = 0; i < g->n_tensors; i++) CHECK_CASE(strcmp(g->tensors[i].name, t->name), t->name);
    t->ndim = (int)next_number(g, 4);
    if (!CHECK(t->ndim == 1 || t->ndim == 2)) return;
    t->ne[1] = 1;
    for (i = 0; i < (uint64_t)t->ndim; i++) {
        t->ne[i] = (int64_t)next_number(g, 8);
        elements *= (uint64_t)t->ne[i];
    }
    t->type = (int)next_number(g, 4);
    t->offset = next_number(g, 8);
    CHECK(t->type == 0 || t->type == 1 || t->type == 30);
    CHECK_CASE(t->type == 0 || t->ndim == 2, t->name); /* vectors are F32 */
    t->bytes = elements * (t->type == 0 ? 4 : 2);
    g->n_tensors++;
}
/* The whole file, every byte accounted for. */
static gguf *read_gguf(const char *path) {
    gguf *g = SCRATCH(gguf, 1);
    uint64_t tensors, keys, i, at = 0;
    g->p = get_file(path, &g->n);
    if (!CHECK(g->p && g->n > 24) || !CHECK(!memcmp(g->p, "GGUF", 4))) return NULL;
    g->at = 4;
    CHECK(next_number(g, 4) == 3);
    tensors = next_number(g, 8);
    keys = next_number(g, 8);
    if (!CHECK(tensors <= 128 && keys <= 64)) return NULL;
    for (i = 0; i < keys; i++) read_key(g);
    for (i = 0; i < tensors; i++) read_tensor(g);
    CHECK(g->n_keys == keys && g->n_tensors == tensors);
    while (g->at % 32) CHECK(next_number(g, 1) == 0);
    for (i = 0; i < tensors; i++) { /* end to end, each padded with zeros */
        tensor *t = &g->tensors[i];
        CHECK_CASE(t->offset == at && at % 32 == 0, t->name);
        t->p = next(g, t->bytes);
        for (at += t->bytes; at % 32; at++) CHECK(next_number(g, 1) == 0);
    }
    CHECK(g->at == g->n);
    return check_failures ? NULL : g;
}

/* ---- values ------------------------------------------------------------------------------------------------------- */

static double half_value(unsigned h) { /* F16 by its definition */
    int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
    double x = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h >> 15 ? -x : x;
}
static double value_of(const tensor *t, int64_t i) {
    uint32_t bits = (uint32_t)(t->type == 0 ? number(t->p + 4 * i, 4) : number(t->p + 2 * i, 2));
    float x;
    if (t->type == 1) return half_value(bits);
    if (t->type == 30) bits <<= 16;
    memcpy(&x, &bits, 4);
    return (double)x;
}
static tensor *find_tensor(gguf *g, const char *name) {
    uint64_t i;
    for (i = 0; i < g->n_tensors; i++)
        if (!strcmp(g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}
/* The values of blk.<layer>.name, or of name; NULL if it is not there. */
static double *values(gguf *g, int layer, const char *name) {
    char full[64];
    tensor *t;
    int64_t i;
    if (layer >= 0) (void)snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    else (void)snprintf(full, sizeof full, "%s", name);
    t = find_tensor(g, full);
    if (!t) return NULL;
    if (!t->x) {
        t->x = SCRATCH(double, t->ne[0] * t->ne[1]);
        for (i = 0; i < t->ne[0] * t->ne[1]; i++) t->x[i] = value_of(t, i);
    }
    return t->x;
}

/* ---- the tensors that llama.cpp's loader asks for ------------------------------------------------------------------ */

static int asked; /* tensors found so far */
static void ask(gguf *g, int layer, const char *name, int64_t ne0, int64_t ne1, int required) {
    char full[64];
    const tensor *t;
    if (layer >= 0) (void)snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    else (void)snprintf(full, sizeof full, "%s", name);
    t = find_tensor(g, full);
    if (!t) {
        CHECK_CASE(!required, full);
        return;
    }
    asked++;
    CHECK_CASE(t->ne[0] == ne0 && t->ne[1] == (ne1 ? ne1 : 1) && t->ndim == (ne1 ? 2 : 1), full);
}
/* weight and bias; bias: 1 required, 0 optional, -1 none may be there */
static void ask_both(gguf *g, int layer, const char *name, int64_t ne0, int64_t ne1, int bias) {
    char full[64];
    (void)snprintf(full, sizeof full, "%s.weight", name);
    ask(g, layer, full, ne0, ne1, 1);
    (void)snprintf(full, sizeof full, "%s.bias", name);
    if (bias >= 0) ask(g, layer, full, ne1 ? ne1 : ne0, 0, bias);
}
static void check_tensors(gguf *g) {
    int neox = !strcmp(g->arch, "gptneox"), gpt2 = !strcmp(g->arch, "gpt2"), jais = !strcmp(g->arch, "jais");
    int fused = neox || gpt2 || jais, llama = !strcmp(g->arch, "llama"), l;
    int64_t d = key_u32(g, ".embedding_length", 0), f = key_u32(g, ".feed_forward_length", 0);
    int64_t heads = key_u32(g, ".attention.head_count", 1), kv = key_u32(g, ".attention.head_count_kv", 1);
    int64_t dh = key_u32(g, ".attention.key_length", d / heads), v = (int64_t)find_key(g, "tokenizer.ggml.tokens")->n;
    int layers = (int)key_u32(g, ".block_count", 0), bias = fused ? 1 : llama ? 0 : -1;
    asked = 0;
    ask(g, -1, "token_embd.weight", d, v, 1);
    ask(g, -1, "output.weight", d, v, neox || jais);
    ask_both(g, -1, "output_norm", d, 0, fused ? 1 : -1);
    if (gpt2) ask(g, -1, "position_embd.weight", d, key_u32(g, ".context_length", 0), 1);
    if (llama) ask(g, -1, "rope_freqs.weight", dh / 2, 0, 0);
    for (l = 0; l < layers; l++) {
        ask_both(g, l, "attn_norm", d, 0, fused ? 1 : -1);
        ask_both(g, l, "ffn_norm", d, 0, fused ? 1 : -1);
        if (fused) ask_both(g, l, "attn_qkv", d, 3 * d, 1);
        else {
            ask_both(g, l, "attn_q", d, heads * dh, llama ? 0 : 1);
            ask_both(g, l, "attn_k", d, kv * dh, llama ? 0 : 1);
            ask_both(g, l, "attn_v", d, kv * dh, llama ? 0 : 1);
        }
        ask_both(g, l, "attn_output", heads * dh, d, bias);
        ask_both(g, l, "ffn_up", d, f, bias);
        ask_both(g, l, "ffn_down", f, d, bias);
        if (!neox && !gpt2) ask_both(g, l, "ffn_gate", d, f, bias);
    }
    CHECK(asked == (int)g->n_tensors); /* "wrong number of tensors" */
    if (llama) CHECK(key_u32(g, ".rope.dimension_count", 0) == dh);
}

/* ---- llama.cpp's graphs, in double --------------------------------------------------------------------------------- */

typedef struct graph {
    gguf *g;
    int layers, n, exact_gelu;
    int64_t d, f, heads, kv, dh, rot;
    int neox, gpt2, jais, llama; /* else qwen2 */
} graph;

static double *zeros(int64_t n) { return SCRATCH(double, n); }
static void norm(const graph *c, double *y, const double *x, int layer, const char *name) {
    char w[48], b[48];
    const double *weight, *bias;
    int rms = find_key(c->g, ".attention.layer_norm_rms_epsilon") != NULL, i;
    double eps =
        rms ? key_f32(c->g, ".attention.layer_norm_rms_epsilon", 0) : key_f32(c->g, ".attention.layer_norm_epsilon", 0);
    int64_t k;
    (void)snprintf(w, sizeof w, "%s.weight", name);
    (void)snprintf(b, sizeof b, "%s.bias", name);
    weight = values(c->g, layer, w);
    bias = values(c->g, layer, b);
    for (i = 0; i < c->n; i++) {
        const double *r = x + i * c->d;
        double mean = 0, var = 0;
        for (k = 0; k < c->d && !rms; k++) mean += r[k] / (double)c->d;
        for (k = 0; k < c->d; k++) var += (r[k] - mean) * (r[k] - mean) / (double)c->d;
        for (k = 0; k < c->d; k++) y[i * c->d + k] = (r[k] - mean) / sqrt(var + eps) * weight[k] + (bias ? bias[k] : 0);
    }
}
/* ggml_mul_mat and the bias if there is one: y[n, out]. */
static double *linear(const graph *c, const double *x, int layer, const char *name, int64_t in, int64_t out) {
    char w[48], b[48];
    const double *weight, *bias;
    double *y = zeros(c->n * out);
    int64_t i, o, k;
    (void)snprintf(w, sizeof w, "%s.weight", name);
    (void)snprintf(b, sizeof b, "%s.bias", name);
    weight = values(c->g, layer, w);
    bias = values(c->g, layer, b);
    for (i = 0; i < c->n; i++)
        for (o = 0; o < out; o++) {
            double s = bias ? bias[o] : 0;
            for (k = 0; k < in; k++) s += weight[o * in + k] * x[i * in + k];
            y[i * out + o] = s;
        }
    return y;
}
/* ggml_rope_ext: neighbours for llama, halves of the first rot numbers for the others. */
static void rope(const graph *c, double *x, int64_t stride, int64_t heads) {
    const double *factors = values(c->g, -1, "rope_freqs.weight");
    double base = key_f32(c->g, ".rope.freq_base", 10000.0), scale = 1.0 / key_f32(c->g, ".rope.scaling.factor", 1.0);
    int64_t p, h, i;
    for (p = 0; p < c->n; p++)
        for (h = 0; h < heads; h++)
            for (i = 0; i < c->rot / 2; i++) {
                double *at = x + p * stride + h * c->dh, a, b;
                double t =
                    (double)p * scale * pow(base, -2.0 * (double)i / (double)c->rot) / (factors ? factors[i] : 1);
                int64_t one = c->llama ? 2 * i : i, two = c->llama ? 2 * i + 1 : i + c->rot / 2;
                a = at[one];
                b = at[two];
                at[one] = a * cos(t) - b * sin(t);
                at[two] = a * sin(t) + b * cos(t);
            }
}
/* ggml_soft_max_ext with its slope */
static double slope(const graph *c, int64_t h) {
    double bias = key_f32(c->g, ".attention.max_alibi_bias", 0), m0, m1;
    int64_t log2n = 1;
    if (bias == 0) return 0;
    while (2 * log2n <= c->heads) log2n *= 2;
    m0 = pow(2.0, -bias / (double)log2n);
    m1 = pow(2.0, -(bias / 2.0) / (double)log2n);
    return h < log2n ? pow(m0, (double)(h + 1)) : pow(m1, (double)(2 * (h - log2n) + 1));
}
static double *attention(const graph *c, const double *x, int layer) {
    int64_t width = c->heads * c->dh, kvw = c->kv * c->dh, sq = width, sk = kvw, h, i, j, e;
    double *q, *k, *v, *o = zeros(c->n * width), *s = zeros(c->n);
    double scale = c->jais ? 1.0 / (double)c->dh : 1.0 / sqrt((double)c->dh);
    if (c->neox || c->gpt2 || c->jais) { /* views of one matrix's output */
        q = linear(c, x, layer, "attn_qkv", c->d, 3 * c->d);
        k = q + c->d;
        v = q + 2 * c->d;
        sq = sk = 3 * c->d;
    } else {
        q = linear(c, x, layer, "attn_q", c->d, width);
        k = linear(c, x, layer, "attn_k", c->d, kvw);
        v = linear(c, x, layer, "attn_v", c->d, kvw);
    }
    if (!c->gpt2 && !c->jais) {
        rope(c, q, sq, c->heads);
        rope(c, k, sk, c->kv);
    }
    for (h = 0; h < c->heads; h++)
        for (i = 0; i < c->n; i++) {
            int64_t g = h / (c->heads / c->kv);
            double most = -1e300, sum = 0;
            for (j = 0; j <= i; j++) {
                s[j] = 0;
                for (e = 0; e < c->dh; e++) s[j] += q[i * sq + h * c->dh + e] * k[j * sk + g * c->dh + e];
                s[j] = s[j] * scale - slope(c, h) * (double)(i - j);
                if (s[j] > most) most = s[j];
            }
            for (j = 0; j <= i; j++) sum += s[j] = exp(s[j] - most);
            for (j = 0; j <= i; j++)
                for (e = 0; e < c->dh; e++) o[i * width + h * c->dh + e] += s[j] / sum * v[j * sk + g * c->dh + e];
        }
    return linear(c, o, layer, "attn_output", width, c->d);
}
static double *feed_forward(const graph *c, const double *x, int layer) {
    double *up = linear(c, x, layer, "ffn_up", c->d, c->f), *gate = NULL;
    int64_t i;
    if (!c->neox && !c->gpt2) gate = linear(c, x, layer, "ffn_gate", c->d, c->f);
    for (i = 0; i < c->n * c->f; i++) {
        double u = up[i];
        if (gate) up[i] = u * gate[i] / (1 + exp(-gate[i]));
        else if (c->exact_gelu) up[i] = 0.5 * u * (1 + erf(u / sqrt(2.0)));
        else up[i] = 0.5 * u * (1 + tanh(0.79788456080286535587989211986876 * u * (1 + 0.044715 * u * u)));
    }
    return linear(c, up, layer, "ffn_down", c->f, c->d);
}
/* logits[n, V] */
static double *run_graph(gguf *g, const int32_t *ids, int n, int exact_gelu) {
    graph c;
    double *x, *y, *a, *m, *head = values(g, -1, "output.weight"), *tokens = values(g, -1, "token_embd.weight"), *out;
    double *positions = values(g, -1, "position_embd.weight");
    int64_t i, k, v = (int64_t)find_key(g, "tokenizer.ggml.tokens")->n;
    int l;
    memset(&c, 0, sizeof c);
    c.g = g;
    c.n = n;
    c.exact_gelu = exact_gelu;
    c.layers = (int)key_u32(g, ".block_count", 0);
    c.d = key_u32(g, ".embedding_length", 0);
    c.f = key_u32(g, ".feed_forward_length", 0);
    c.heads = key_u32(g, ".attention.head_count", 0);
    c.kv = key_u32(g, ".attention.head_count_kv", 0);
    c.dh = key_u32(g, ".attention.key_length", c.d / c.heads);
    c.rot = key_u32(g, ".rope.dimension_count", c.dh);
    c.neox = !strcmp(g->arch, "gptneox");
    c.gpt2 = !strcmp(g->arch, "gpt2");
    c.jais = !strcmp(g->arch, "jais");
    c.llama = !strcmp(g->arch, "llama");
    x = zeros(n * c.d);
    y = zeros(n * c.d);
    for (i = 0; i < n; i++)
        for (k = 0; k < c.d; k++) x[i * c.d + k] = tokens[ids[i] * c.d + k] + (positions ? positions[i * c.d + k] : 0);
    for (l = 0; l < c.layers; l++) {
        int parallel = c.neox && key_bool(g, ".use_parallel_residual", -1);
        norm(&c, y, x, l, "attn_norm");
        a = attention(&c, y, l);
        for (i = 0; i < n * c.d && !parallel; i++) x[i] += a[i];
        norm(&c, y, x, l, "ffn_norm");
        m = feed_forward(&c, y, l);
        for (i = 0; i < n * c.d; i++) x[i] += m[i] + (parallel ? a[i] : 0);
    }
    norm(&c, y, x, -1, "output_norm");
    if (!head) head = tokens;
    out = zeros(n * v);
    for (i = 0; i < n * v; i++)
        for (k = 0; k < c.d; k++) out[i] += head[i % v * c.d + k] * y[i / v * c.d + k];
    return out;
}

/* ---- tiny models --------------------------------------------------------------------------------------------------- */

#define NEOX                                                                                                           \
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":300,\"hidden_size\":24,\"num_hidden_layers\":2,"                      \
    "\"num_attention_heads\":3,\"intermediate_size\":40,\"max_position_embeddings\":64,\"layer_norm_eps\":1e-5,"       \
    "\"dpo_tokenizer\":\"bytes\",\"initializer_range\":0.2,"
#define BTLM                                                                                                           \
    "{\"model_type\":\"btlm\",\"vocab_size\":300,\"n_embd\":24,\"n_layer\":2,\"n_inner\":34,\"n_positions\":64,"       \
    "\"layer_norm_epsilon\":1e-5,\"dpo_tokenizer\":\"bytes\",\"initializer_range\":0.2,\"mup_width_scale\":0.25,"      \
    "\"mup_output_alpha\":2.2,\"mup_embeddings_scale\":4.1,"
#define BTLM_REST                                                                                                      \
    "\"activation_function\":\"swiglu\",\"position_embedding_type\":\"alibi\",\"mup_scale_qk_dot_by_d\":true"
#define GPT2                                                                                                           \
    "{\"model_type\":\"gpt2\",\"vocab_size\":300,\"n_embd\":24,\"n_layer\":2,\"n_head\":4,\"n_positions\":64,"         \
    "\"layer_norm_epsilon\":1e-5,\"dpo_tokenizer\":\"bytes\",\"initializer_range\":0.2"
#define LLAMA_SIZES                                                                                                    \
    "\"vocab_size\":300,\"hidden_size\":24,\"num_hidden_layers\":2,\"num_attention_heads\":4,"                         \
    "\"intermediate_size\":37,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"dpo_tokenizer\":\"bytes\","       \
    "\"initializer_range\":0.2,"
#define LLAMA "{\"model_type\":\"llama\"," LLAMA_SIZES
#define QWEN2 "{\"model_type\":\"qwen2\"," LLAMA_SIZES
#define LLAMA3                                                                                                         \
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"      \
    "\"original_max_position_embeddings\":64}"

static const struct {
    const char *name, *config;
    int exact_gelu; /* how llama.cpp would have to compute it: a note says that it does not */
} models[] = {
    {"neox", NEOX "\"rotary_pct\":0.5,\"hidden_act\":\"gelu_new\"}", 0},
    {"neox, GELU", NEOX "\"rotary_pct\":0.25,\"hidden_act\":\"gelu\",\"rotary_emb_base\":500}", 1},
    {"neox, sequential, tied, few biases",
     NEOX "\"rotary_pct\":1.0,\"hidden_act\":\"gelu_new\",\"use_parallel_residual\":false,\"attention_bias\":false,"
          "\"tie_word_embeddings\":true,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}",
     0},
    {"gpt2", GPT2 "}", 0},
    {"gpt2, untied, GELU", GPT2 ",\"tie_word_embeddings\":false,\"activation_function\":\"gelu\",\"n_inner\":50}", 1},
    {"btlm", BTLM "\"n_head\":3," BTLM_REST "}", 0},
    {"btlm, 6 heads", BTLM "\"n_head\":6," BTLM_REST "}", 0},
    {"btlm, 4 heads, untied", BTLM "\"n_head\":4,\"tie_word_embeddings\":false," BTLM_REST "}", 0},
    {"llama", LLAMA "\"num_key_value_heads\":2}", 0},
    {"llama, large heads, biases, llama3",
     LLAMA "\"head_dim\":8,\"num_key_value_heads\":2,\"attention_bias\":true,\"mlp_bias\":true,"
           "\"tie_word_embeddings\":true," LLAMA3 "}",
     0},
    {"llama, linear", LLAMA "\"num_key_value_heads\":4,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}}", 0},
    {"qwen2", QWEN2 "\"num_key_value_heads\":1,\"rope_theta\":1000000.0,\"tie_word_embeddings\":true}", 0},
    {"qwen2, untied", QWEN2 "\"num_key_value_heads\":2,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", 0}};

static dpo_model *make_model(const char *config, uint64_t seed) {
    dpo_model *m;
    dpo_tensor t[128];
    int64_t n, i, e;
    put_file(FOLDER "/config.json", config, strlen(config));
    m = dpo_model_create_from(ctx, FOLDER "/config.json", seed);
    if (!CHECK_OK(ctx, m ? 0 : -1)) return NULL;
    n = dpo_model_tensors(m, t, 128);
    rng_state = seed;
    for (i = 0; i < n; i++) /* norms and biases, too, must matter */
        for (e = 0; e < t[i].shape[0] && t[i].ndim == 1; e++) ((float *)t[i].data)[e] += (float)(0.2 * rng_normal());
    return m;
}
static gguf *write_model(const dpo_model *m, const char *dir, int dtype, gguf_report *r) {
    gguf *g;
    err[0] = 0;
    if (!CHECK_CASE(!gguf_write(ctx, m, dir, FOLDER "/model.gguf", dtype, "tiny", r, err, sizeof err), err))
        return NULL;
    g = read_gguf(FOLDER "/model.gguf");
    if (!g) return NULL;
    check_tensors(g);
    CHECK(r->tensors == (int64_t)g->n_tensors && r->bytes == g->n && r->overflows == 0);
    CHECK(key_is(g, "general.name", "tiny"));
    CHECK(key_u32(g, "general.file_type", -1) == (dtype == DPO_F32 ? 0 : dtype == DPO_F16 ? 1 : 32));
    return check_failures ? NULL : g;
}
/* The largest distance of the graph's logits from the model's, by their size. */
static double distance(dpo_model *m, gguf *g, int exact_gelu) {
    enum { N = 13 };
    int32_t ids[N];
    dpo_target targets[N];
    dpo_segment s;
    dpo_batch b;
    float *logits = SCRATCH(float, N *VOCAB);
    double *want, far = 0, size = 0;
    int i;
    memset(&s, 0, sizeof s);
    memset(&b, 0, sizeof b);
    for (i = 0; i < N; i++) {
        ids[i] = (int32_t)rng_below(VOCAB);
        targets[i].row = i;
        targets[i].token = targets[i].sequence = 0;
    }
    s.parent = -1;
    s.length = N;
    b.tokens = ids;
    b.segments = &s;
    b.targets = targets;
    b.n_rows = b.n_targets = N;
    b.n_segments = b.n_sequences = 1;
    CHECK_OK(ctx, dpo_model_logits(m, &b, logits));
    want = run_graph(g, ids, N, exact_gelu);
    for (i = 0; i < N * VOCAB; i++) {
        if (fabs(want[i] - (double)logits[i]) > far) far = fabs(want[i] - (double)logits[i]);
        if (fabs(want[i]) > size) size = fabs(want[i]);
    }
    CHECK(size > 0.1);
    return far / size;
}
static void test_graphs(void) {
    size_t i;
    for (i = 0; i < sizeof models / sizeof *models; i++) {
        gguf_report r;
        dpo_model *m = make_model(models[i].config, i + 1);
        gguf *g = m ? write_model(m, NULL, DPO_F32, &r) : NULL;
        double far = g ? distance(m, g, models[i].exact_gelu) : 1;
        if (!CHECK_CASE(far < 3e-6, models[i].name)) printf("  off by %g\n", far);
        if (models[i].exact_gelu && g) { /* what the note says: a little, and not nothing */
            double other = distance(m, g, 0);
            CHECK_CASE(other > 1e-6 && other < 1e-2 && strstr(r.notes, "GELU"), models[i].name);
        } else CHECK_CASE(r.notes[0] == 0, r.notes);
        dpo_model_free(m);
    }
}
/* The same file from a frozen model, F32 and BF16, that lies in a directory. */
static void test_frozen(void) {
    static const int types[2] = {DPO_F32, DPO_BF16};
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    size_t i, k, n, first;
    memset(&how, 0, sizeof how);
    how.frozen = 1;
    for (i = 0; i < sizeof models / sizeof *models; i += 3)
        for (k = 0; k < 2; k++) {
            gguf_report r;
            dpo_model *m = make_model(models[i].config, i + 1), *f, *same;
            unsigned char *a, *b;
            mkdir(FOLDER "/frozen", 0777);
            CHECK_OK(ctx, dpo_model_save(m, FOLDER "/frozen", types[k]));
            f = dpo_model_load_as(ctx, FOLDER "/frozen", &how);
            same = dpo_model_load(ctx, FOLDER "/frozen");
            if (CHECK(f && same) && write_model(f, NULL, types[k], &r)) {
                a = get_file(FOLDER "/model.gguf", &first);
                write_model(same, NULL, types[k], &r);
                b = get_file(FOLDER "/model.gguf", &n);
                CHECK(n == first && !memcmp(a, b, n));
            }
            dpo_model_free(m);
            dpo_model_free(f);
            dpo_model_free(same);
        }
}
/* No other number of the type is closer, and of two as close the even one is taken. */
static void check_nearest(const tensor *t, int64_t i, double x) {
    unsigned bits = (unsigned)number(t->p + 2 * i, 2), side;
    double got = value_of(t, i);
    for (side = 0; side < 2; side++) {
        unsigned char near_bytes[2];
        tensor other = *t;
        unsigned b = bits + (side ? 1u : 0xffffu);
        double apart;
        near_bytes[0] = (unsigned char)b;
        near_bytes[1] = (unsigned char)(b >> 8);
        other.p = near_bytes;
        apart = fabs(value_of(&other, 0) - x);
        if (!(apart >= 0)) continue; /* beyond the largest number */
        CHECK(fabs(got - x) < apart || (fabs(got - x) == apart && !(bits & 1)));
    }
}
static void test_halves(void) {
    static const int types[2] = {DPO_F16, DPO_BF16};
    size_t i;
    int k;
    for (i = 0; i < sizeof models / sizeof *models; i++)
        for (k = 0; k < 2; k++) {
            gguf_report r;
            dpo_model *m = make_model(models[i].config, i + 1);
            gguf *full = write_model(m, NULL, DPO_F32, &r), *half = write_model(m, NULL, types[k], &r);
            uint64_t t;
            for (t = 0; full && half && t < half->n_tensors; t++) {
                const tensor *h = &half->tensors[t], *f = &full->tensors[t];
                int matrix = h->ndim == 2 && strcmp(h->name, "position_embd.weight") != 0;
                int64_t e;
                CHECK_CASE(h->type == (matrix ? types[k] == DPO_F16 ? 1 : 30 : 0), h->name);
                if (!matrix) CHECK_SAME(h->p, f->p, h->bytes);
                for (e = 0; matrix && e < h->ne[0] * h->ne[1]; e++) check_nearest(h, e, value_of(f, e));
            }
            dpo_model_free(m);
        }
}

/* ---- what is refused ------------------------------------------------------------------------------------------------ */

static void check_refused(const dpo_model *m, const char *dir, int dtype, const char *words) {
    gguf_report r;
    size_t n;
    (void)remove(FOLDER "/no.gguf");
    err[0] = 0;
    CHECK_CASE(gguf_write(ctx, m, dir, FOLDER "/no.gguf", dtype, NULL, &r, err, sizeof err) == 1, words);
    CHECK_CASE(strstr(err, words) != NULL, err);
    CHECK(!get_file(FOLDER "/no.gguf", &n) && !get_file(FOLDER "/no.gguf.part", &n) && r.bytes == 0);
    dpo_clear(ctx);
}
static void test_refused(void) {
    static const struct {
        const char *config, *words;
    } cases[] = {
        {BTLM "\"n_head\":4,\"activation_function\":\"gelu\",\"mup_scale_qk_dot_by_d\":true}", "learned positions"},
        {BTLM "\"n_head\":4,\"activation_function\":\"gelu\",\"position_embedding_type\":\"alibi\","
              "\"mup_scale_qk_dot_by_d\":true}",
         "without SwiGLU"},
        {BTLM "\"n_head\":4,\"alibi_scaling\":{\"type\":\"linear\",\"factor\":2.0}," BTLM_REST "}", "alibi_scaling"},
        {BTLM "\"n_head\":4,\"activation_function\":\"swiglu\",\"position_embedding_type\":\"alibi\"}", "head size"},
        {GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", "scale_attn_by_inverse_layer_idx"},
        {GPT2 ",\"scale_attn_weights\":false}", "head size"},
        {NEOX "\"rotary_pct\":0.0}", "rotary"},
        {NEOX "\"rotary_pct\":0.5," LLAMA3 "}", "llama3"},
        {QWEN2 "\"num_key_value_heads\":2," LLAMA3 "}", "llama3"},
        {QWEN2 "\"num_key_value_heads\":2,\"head_dim\":8}", "hidden size"}};
    dpo_model *m;
    dpo_lora_config l = dpo_lora_defaults(DPO_LLAMA);
    dpo_tensor t[128];
    size_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        m = make_model(cases[i].config, 3);
        check_refused(m, NULL, DPO_F32, cases[i].words);
        dpo_model_free(m);
    }
    m = make_model(models[8].config, 3);
    check_refused(m, NULL, DPO_F64, "F32, F16 or BF16");
    dpo_model_tensors(m, t, 128);
    for (i = 0; t[i].ndim < 2; i++) {
    }
    ((float *)t[i].data)[7] = 65519.0f; /* the last that rounds to a number of F16 */
    CHECK_CASE(!gguf_write(ctx, m, NULL, FOLDER "/no.gguf", DPO_F16, NULL, NULL, err, sizeof err), err);
    ((float *)t[i].data)[7] = 65520.0f;
    check_refused(m, NULL, DPO_F16, "1 weights are too large");
    CHECK(gguf_write(ctx, m, NULL, FOLDER "/nowhere/m.gguf", DPO_F32, NULL, NULL, err, sizeof err) == 1);
    CHECK_CASE(strstr(err, "nowhere") != NULL, err);
    l.target_modules = "q_proj";
    CHECK_OK(ctx, dpo_lora_attach(m, &l, 1));
    check_refused(m, NULL, DPO_F32, "adapters");
    dpo_model_free(m);
}
/* An error on the way out leaves what was there. */
static void test_full_disk(void) {
    dpo_model *m = make_model(models[0].config, 1);
    gguf_report r;
    FILE *f = fopen("/dev/full", "wb");
    size_t n;
    if (f) { /* a name whose .part is a device that is always full */
        fclose(f);
        (void)remove(FOLDER "/full.gguf.part");
        put_file(FOLDER "/full.gguf", "old", 3);
        if (CHECK(!symlink("/dev/full", FOLDER "/full.gguf.part"))) {
            CHECK(gguf_write(ctx, m, NULL, FOLDER "/full.gguf", DPO_F32, NULL, &r, err, sizeof err) == 1);
            CHECK_CASE(strstr(err, "cannot write") != NULL, err);
            CHECK(!memcmp(get_file(FOLDER "/full.gguf", &n), "old", 3) && n == 3);
        }
    } else skipped++;
    dpo_model_free(m);
}

/* ---- llama.cpp's tokenizers on what the file says ------------------------------------------------------------------- */

typedef struct words {
    gguf *g;
    const unsigned char *types, *scores;
    int64_t n, n_merges;
    const unsigned char **text; /* tokens */
    uint64_t *length;
    int32_t *order, *merge_order; /* ids and merges by their text */
    const unsigned char **merge;
    uint64_t *merge_length;
} words;

static words *sort_words; /* qsort has no place for it */
static int compare(const unsigned char *a, uint64_t na, const unsigned char *b, uint64_t nb) {
    int c = memcmp(a, b, (size_t)(na < nb ? na : nb));
    return c ? c : na < nb ? -1 : na > nb;
}
static int by_text(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    return compare(sort_words->text[i], sort_words->length[i], sort_words->text[k], sort_words->length[k]);
}
static int by_merge(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    return compare(sort_words->merge[i], sort_words->merge_length[i], sort_words->merge[k],
                   sort_words->merge_length[k]);
}
static int64_t read_strings(gguf *g, const char *name, const unsigned char ***text, uint64_t **length, int32_t **order,
                            int (*by)(const void *, const void *)) {
    const key *k = find_key(g, name);
    const unsigned char *p;
    int64_t i;
    if (!k) return 0;
    p = k->p;
    *text = SCRATCH(const unsigned char *, k->n + 1);
    *length = SCRATCH(uint64_t, k->n + 1);
    *order = SCRATCH(int32_t, k->n + 1);
    for (i = 0; i < (int64_t)k->n; i++) {
        (*length)[i] = number(p, 8);
        (*text)[i] = p + 8;
        p += 8 + (*length)[i];
        (*order)[i] = (int32_t)i;
    }
    qsort(*order, (size_t)k->n, sizeof **order, by);
    return (int64_t)k->n;
}
static words *read_words(gguf *g) {
    words *w = SCRATCH(words, 1);
    int64_t i;
    w->g = g;
    w->types = find_key(g, "tokenizer.ggml.token_type")->p;
    if (find_key(g, "tokenizer.ggml.scores")) w->scores = find_key(g, "tokenizer.ggml.scores")->p;
    sort_words = w;
    w->n = read_strings(g, "tokenizer.ggml.tokens", &w->text, &w->length, &w->order, by_text);
    for (i = 1; i < w->n; i++) CHECK(by_text(&w->order[i - 1], &w->order[i]) < 0); /* each text but once */
    w->n_merges = read_strings(g, "tokenizer.ggml.merges", &w->merge, &w->merge_length, &w->merge_order, by_merge);
    return w;
}
static int32_t look_up(const unsigned char *p, uint64_t n, const unsigned char **text, const uint64_t *length,
                       const int32_t *order, int64_t count) {
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t mid = (low + high) / 2;
        int c = compare(text[order[mid]], length[order[mid]], p, n);
        if (!c) return order[mid];
        if (c < 0) low = mid + 1;
        else high = mid;
    }
    return -1;
}
static int32_t token_id(const words *w, const unsigned char *p, uint64_t n) {
    return look_up(p, n, w->text, w->length, w->order, w->n);
}
static int token_type(const words *w, int64_t id) { return (int)number(w->types + 4 * id, 4); }
typedef struct symbol {
    const unsigned char *p;
    uint64_t n;
} symbol;
/* Joins the best pair of neighbours until there is none. score: by the score of what they give, or the merge's rank. */
static int join_all(const words *w, symbol *s, int n, int by_score) {
    unsigned char both[1024];
    if (by_score && !CHECK(w->scores != NULL)) return 0;
    for (;;) {
        int i, at = -1;
        double best = 0;
        for (i = 0; i + 1 < n; i++) {
            double value;
            int32_t id;
            uint64_t size = s[i].n + s[i + 1].n;
            if (size + 1 >= sizeof both) continue;
            memcpy(both, s[i].p, (size_t)s[i].n);
            if (by_score) {
                uint32_t bits;
                float x;
                id = token_id(w, s[i].p, size); /* neighbours lie end to end */
                if (id < 0) continue;
                bits = (uint32_t)number(w->scores + 4 * (int64_t)id, 4);
                memcpy(&x, &bits, 4);
                value = (double)x;
            } else {
                both[s[i].n] = ' ';
                memcpy(both + s[i].n + 1, s[i + 1].p, (size_t)s[i + 1].n);
                id = look_up(both, size + 1, w->merge, w->merge_length, w->merge_order, w->n_merges);
                if (id < 0) continue;
                value = -(double)id;
            }
            if (at < 0 || value > best) {
                at = i;
                best = value;
            }
        }
        if (at < 0) return n;
        s[at].n += s[at + 1].n;
        memmove(s + at + 1, s + at + 2, (size_t)(n - at - 2) * sizeof *s);
        n--;
    }
}
static int utf8_size(unsigned char x) { return x < 0x80 ? 1 : x < 0xe0 ? 2 : x < 0xf0 ? 3 : 4; }

/* The SentencePiece type (llm_tokenizer_spm): a space before the text, spaces are U+2581, what is no token is bytes. */
static int tokenize_scores(const words *w, const char *text, size_t bytes, int32_t *ids) {
    unsigned char *p = SCRATCH(unsigned char, 3 * bytes + 8);
    symbol *s = SCRATCH(symbol, 3 * bytes + 8);
    size_t i, at = 0;
    int n = 0, k, out = 0;
    for (i = 0; i < bytes + 1; i++) {
        char x = i ? text[i - 1] : ' ';
        if (!bytes) break;
        if (i == 0 && !key_bool(w->g, "tokenizer.ggml.add_space_prefix", 1)) continue;
        if (x == ' ') {
            memcpy(p + at, "\xe2\x96\x81", 3);
            at += 3;
        } else p[at++] = (unsigned char)x;
    }
    for (i = 0; i < at; i += s[n++].n) {
        s[n].p = p + i;
        s[n].n = (uint64_t)utf8_size(p[i]);
        if (s[n].n > at - i) s[n].n = at - i;
    }
    n = join_all(w, s, n, 1);
    for (k = 0; k < n; k++) {
        int32_t id = token_id(w, s[k].p, s[k].n);
        if (id >= 0) ids[out++] = id;
        for (i = 0; id < 0 && i < s[k].n; i++) {
            char byte[8];
            (void)snprintf(byte, sizeof byte, "<0x%02X>", s[k].p[i]);
            ids[out] = token_id(w, (const unsigned char *)byte, 6);
            CHECK(ids[out] >= 0 && token_type(w, ids[out]) == GGUF_BYTE);
            out++;
        }
    }
    return out;
}
/* The end of GPT-2's next word, in ASCII. digits: each alone. */
static size_t word_end(const char *p, size_t at, size_t n, int digits) {
#define SPACE(c)  ((c) == ' ' || ((c) >= '\t' && (c) <= '\r'))
#define LETTER(c) (((c) | 32) >= 'a' && ((c) | 32) <= 'z')
#define DIGIT(c)  ((c) >= '0' && (c) <= '9')
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    size_t i = at, k;
    for (k = 0; k < 7; k++)
        if (n - at >= strlen(endings[k]) && !memcmp(p + at, endings[k], strlen(endings[k])))
            return at + strlen(endings[k]);
    if (digits && DIGIT(p[at])) return at + 1;
    if (p[i] == ' ' && i + 1 < n && !SPACE(p[i + 1]) && !(digits && DIGIT(p[i + 1]))) i++;
    if (!SPACE(p[i])) {
        int kind = LETTER(p[i]) ? 1 : DIGIT(p[i]) ? 2 : 0;
        while (i < n && !SPACE(p[i]) && (LETTER(p[i]) ? 1 : DIGIT(p[i]) ? 2 : 0) == kind) i++;
        return i;
    }
    while (i < n && SPACE(p[i])) i++;
    return i == n || i == at + 1 || (digits && DIGIT(p[i])) ? i : i - 1;
}
/* Byte-level BPE (llm_tokenizer_bpe) of a stretch without added tokens. */
static int tokenize_stretch(const words *w, const char *text, size_t bytes, int32_t *ids) {
    unsigned char *p = SCRATCH(unsigned char, 2 * bytes + 1);
    symbol *s = SCRATCH(symbol, bytes + 1);
    size_t at, end, i, used = 0;
    int n, k, out = 0, digits = key_is(w->g, "tokenizer.ggml.pre", "smollm");
    for (at = 0; at < bytes; at = end) {
        end = word_end(text, at, bytes, digits);
        for (n = 0, i = at; i < end; i++, n++) { /* GPT-2's characters for the bytes of ASCII */
            unsigned x = (unsigned char)text[i], c = x > 32 && x < 127 ? x : 256 + (x == 127 ? 33 : x);
            s[n].p = p + used;
            s[n].n = c < 128 ? 1 : 2;
            if (c < 128) p[used++] = (unsigned char)c;
            else {
                p[used++] = (unsigned char)(0xc0 | c >> 6);
                p[used++] = (unsigned char)(0x80 | (c & 63));
            }
        }
        n = join_all(w, s, n, 0);
        for (k = 0; k < n; k++) {
            ids[out] = token_id(w, s[k].p, s[k].n);
            CHECK(ids[out] >= 0 && token_type(w, ids[out]) == GGUF_NORMAL);
            out++;
        }
    }
    return out;
}
/* User-defined tokens are cut out first, wherever they are, the longest first. */
static int tokenize_merges(const words *w, const char *text, size_t bytes, int32_t *ids) {
    size_t at, best = 0, where = 0;
    int64_t id, found = -1;
    int n;
    for (id = 0; id < w->n; id++) {
        if (token_type(w, id) != GGUF_USER_DEFINED || w->length[id] <= best || w->length[id] > bytes) continue;
        for (at = 0; at + w->length[id] <= bytes; at++)
            if (!memcmp(text + at, w->text[id], (size_t)w->length[id])) {
                best = (size_t)w->length[id];
                where = at;
                found = id;
                break;
            }
    }
    if (found < 0) return tokenize_stretch(w, text, bytes, ids);
    n = tokenize_merges(w, text, where, ids);
    ids[n++] = (int32_t)found;
    return n + tokenize_merges(w, text + where + best, bytes - where - best, ids + n);
}

/* The file of a tiny Llama with this tokenizer in FOLDER/tok, its embedding `more` rows longer. */
static gguf *write_tokenizer(const dpo_tokenizer *t, int more, gguf_report *r) {
    char config[600];
    dpo_model *m;
    gguf *g;
    (void)snprintf(config, sizeof config,
                   "{\"model_type\":\"llama\",\"vocab_size\":%d,\"hidden_size\":4,\"num_hidden_layers\":1,"
                   "\"num_attention_heads\":1,\"intermediate_size\":3,\"tie_word_embeddings\":true}",
                   dpo_tokenizer_vocab(t) + more);
    m = make_model(config, 1);
    g = write_model(m, FOLDER "/tok", DPO_BF16, r);
    dpo_model_free(m);
    return g;
}
static void compare_ids(const dpo_tokenizer *t, const words *w, const char *text, size_t n, int scores) {
    int32_t *want = SCRATCH(int32_t, 3 * n + 8), *got = SCRATCH(int32_t, 3 * n + 8);
    int64_t nw = dpo_encode(t, text, n, want, (int64_t)(3 * n + 8));
    int ng = scores ? tokenize_scores(w, text, n, got) : tokenize_merges(w, text, n, got);
    CHECK_CASE(nw == ng && !memcmp(want, got, (size_t)ng * sizeof *got), text);
}
/* Texts of the stories, cut to n bytes; NULL: they are not there. */
static char **read_stories(int count, size_t most) {
    char **text = SCRATCH(char *, count), *all;
    dpo_json *j;
    size_t n;
    int64_t v;
    int i;
    if (!shared_file(SHARED "text/tinystories_1000.json")) return NULL;
    all = (char *)get_file(SHARED "text/tinystories_1000.json", &n);
    j = dpo_json_create(ctx);
    CHECK_OK(ctx, dpo_json_parse(j, all, n, NULL, NULL));
    for (i = 0, v = dpo_json_first(j, 0); i < count; i++, v = dpo_json_next(j, v)) {
        text[i] = SCRATCH(char, most + 1);
        CHECK(dpo_json_string(j, v, text[i], most) > 0);
        for (n = strlen(text[i]); n && (signed char)text[i][n - 1] < 0; n--) text[i][n - 1] = 0; /* a cut character */
    }
    dpo_json_free(j);
    return text;
}
static int copy_tokenizer(const char *name, const char *to) {
    char path[200];
    unsigned char *p;
    size_t n;
    (void)snprintf(path, sizeof path, SHARED "tokenizers/%s", name);
    if (!shared_file(path)) return 0;
    p = get_file(path, &n);
    (void)snprintf(path, sizeof path, FOLDER "/tok/%s", to);
    put_file(path, p, n);
    return 1;
}
static void clear_tokenizer(void) {
    static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"};
    char path[200];
    int i;
    mkdir(FOLDER "/tok", 0777);
    for (i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, FOLDER "/tok/%s", names[i]);
        (void)remove(path);
    }
}
/* n characters between two others: runs of spaces are where the rules might differ. */
static void compare_runs(const dpo_tokenizer *t, const words *w, int scores) {
    char text[140];
    int n;
    for (n = 0; n < 130; n++) {
        (void)snprintf(text, sizeof text, "%s%*s%s", n % 3 ? "a" : "", n, "", n % 2 ? "the" : "");
        compare_ids(t, w, text, strlen(text), scores);
    }
}
static const char *const ascii_texts[] = {"",
                                          " ",
                                          "Hello, world! It's 1234567 o'clock; we'll see.",
                                          "a\n\n  b\tc   d  ",
                                          "for (i = 0; i < n; i++) {\n        x[i] += 1.5e-3;\n    }\n",
                                          "'S 'D it'll'll",
                                          "                                    x",
                                          "\x7f\x01\x1f~"};
static void test_real_byte_level(void) {
    static const char *const files[] = {"gpt2.tokenizer.json", "pythia.tokenizer.json", "neox20b.tokenizer.json",
                                        "bpe6400.tokenizer.json", NULL};
    char **stories = read_stories(60, 900);
    int f, i, pass;
    for (f = 0; f < 5; f++) {
        dpo_tokenizer *t;
        gguf_report r;
        gguf *g;
        words *w;
        clear_tokenizer();
        if (f < 4
                ? !copy_tokenizer(files[f], "tokenizer.json")
                : !copy_tokenizer("gpt2.vocab.json", "vocab.json") || !copy_tokenizer("gpt2.merges.txt", "merges.txt"))
            continue;
        t = dpo_tokenizer_load(ctx, FOLDER "/tok");
        if (!CHECK_OK(ctx, t ? 0 : -1)) return;
        g = write_tokenizer(t, f == 1 ? 27 : 0, &r);
        if (!g) return;
        CHECK(key_is(g, "tokenizer.ggml.model", "gpt2") && key_is(g, "tokenizer.ggml.pre", "gpt-2"));
        CHECK(key_u32(g, "tokenizer.ggml.eos_token_id", -1) == dpo_tokenizer_eos(t));
        CHECK((strstr(r.notes, "normal form") != NULL) == (f == 1 || f == 2));
        w = read_words(g);
        CHECK(token_type(w, dpo_tokenizer_eos(t)) == GGUF_CONTROL);
        for (i = dpo_tokenizer_vocab(t); i < w->n; i++) CHECK(token_type(w, i) == GGUF_UNUSED);
        for (i = 0; i < (int)(sizeof ascii_texts / sizeof *ascii_texts); i++)
            compare_ids(t, w, ascii_texts[i], strlen(ascii_texts[i]), 0);
        compare_runs(t, w, 0);
        for (i = 0, pass = 0; stories && i < 60; i++) {
            const char *p = stories[i];
            while ((signed char)*p > 0) p++;
            if (*p) continue; /* the splitting here is ASCII's */
            compare_ids(t, w, stories[i], strlen(stories[i]), 0);
            pass++;
        }
        CHECK(!stories || pass > 30);
        dpo_tokenizer_free(t);
    }
}
/* Llama-2's, and llama.cpp's own expectations for it, by the scores and types in the file. */
static void test_real_sentencepiece(void) {
    char **stories = read_stories(40, 600), *in, *out;
    dpo_tokenizer *t;
    gguf_report r;
    gguf *g;
    words *w;
    size_t n;
    int i, cases = 0;
    clear_tokenizer();
    if (!copy_tokenizer("llama2.tokenizer.json", "tokenizer.json")) return;
    t = dpo_tokenizer_load(ctx, FOLDER "/tok");
    g = CHECK_OK(ctx, t ? 0 : -1) ? write_tokenizer(t, 32, &r) : NULL;
    if (!g) return;
    CHECK(key_is(g, "tokenizer.ggml.model", "llama") && key_bool(g, "tokenizer.ggml.add_space_prefix", 0) == 1);
    CHECK(key_bool(g, "tokenizer.ggml.add_bos_token", 0) == 1 && key_u32(g, "tokenizer.ggml.bos_token_id", 9) == 1);
    CHECK(key_u32(g, "tokenizer.ggml.eos_token_id", 9) == 2 && key_u32(g, "tokenizer.ggml.unknown_token_id", 9) == 0);
    w = read_words(g);
    CHECK(token_type(w, 0) == GGUF_UNKNOWN && token_type(w, 1) == GGUF_CONTROL && token_type(w, 3) == GGUF_BYTE);
    CHECK(token_type(w, 259) == GGUF_NORMAL && token_type(w, 32000) == GGUF_UNUSED);
    for (i = 0; i < (int)(sizeof ascii_texts / sizeof *ascii_texts); i++)
        compare_ids(t, w, ascii_texts[i], strlen(ascii_texts[i]), 1);
    compare_runs(t, w, 1);
    for (i = 0; stories && i < 40; i++) compare_ids(t, w, stories[i], strlen(stories[i]), 1);
    if (!shared_file(SHARED "tokenizers/vectors/llama-spm.inp")) return;
    in = (char *)get_file(SHARED "tokenizers/vectors/llama-spm.inp", &n);
    out = (char *)get_file(SHARED "tokenizers/vectors/llama-spm.out", &n);
    while (*in && *out) {
        char *end = strstr(in, "\n__ggml_vocab_test__\n"), *line = out;
        int32_t ids[4096];
        int k, count = tokenize_scores(w, in, end ? (size_t)(end - in) : strlen(in), ids);
        for (k = 0; *out && *out != '\n'; k++) CHECK_CASE(k < count && strtol(out, &out, 10) == ids[k], line);
        CHECK(k == count);
        if (*out) out++;
        cases++;
        if (!end) break;
        in = end + 21;
    }
    CHECK(cases > 30);
    dpo_tokenizer_free(t);
}

/* ---- made tokenizers ------------------------------------------------------------------------------------------------ */

static void put_bytes_as_pieces(FILE *f, int sentencepiece) {
    int b, other = 256;
    for (b = 0; b < 256; b++) {
        int itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174, x = itself ? b : other++;
        if (sentencepiece) fprintf(f, "\"<0x%02X>\":%d,", (unsigned)b, b);
        else fprintf(f, "\"\\u%04x\":%d,", (unsigned)x, b);
    }
}
/* tokenizer.json in FOLDER/tok: 256 bytes, then `pieces`, and what else is given as JSON. */
static void make_tokenizer(int sentencepiece, const char *rest, const char *model, const char *pieces,
                           const char *merges) {
    FILE *f;
    clear_tokenizer();
    f = fopen(FOLDER "/tok/tokenizer.json", "wb");
    if (!CHECK(f != NULL)) return;
    fprintf(f,
            "{\"added_tokens\":[{\"id\":256,\"content\":\"</s>\",\"special\":true,\"normalized\":false},"
            "{\"id\":257,\"content\":\"[PAD270]\",\"special\":false,\"normalized\":false}],%s,"
            "\"model\":{\"type\":\"BPE\",%s\"vocab\":{",
            rest, model);
    put_bytes_as_pieces(f, sentencepiece);
    fprintf(f, "%s},\"merges\":[%s]}}", pieces, merges);
    fclose(f);
}
#define SPLIT_BEGIN "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}"
#define SPLIT_END   "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define SPLIT(n)                                                                                                       \
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","       \
    "\"pattern\":{\"Regex\":\"" SPLIT_BEGIN n SPLIT_END "\"}},"                                                        \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}"
#define LEVEL  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"
#define MARK   "\xe2\x96\x81"
#define SPACES                                                                                                         \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"},"          \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}]}"
#define METASPACE(split)                                                                                               \
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK                                                \
    "\",\"prepend_scheme\":\"always\",\"split\":" split "}"

static const struct {
    int sentencepiece;
    const char *rest, *model, *pieces, *merges;
    const char *pre, *words; /* the name of its splitting, with words of the note; or words of the refusal */
} made[] = {
    {0, "\"pre_tokenizer\":" LEVEL, "", "\"he\":258", "\"h e\"", "gpt-2", ""},
    {0, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" DIGITS "," LEVEL "]}", "", "\"he\":258",
     "[\"h\",\"e\"]", "smollm", ""},
    {0, SPLIT("{1,3}"), "\"ignore_merges\":true,", "\"he\":258,\"hex\":259", "\"h e\"", "llama-bpe", ""},
    {0, SPLIT("{1,3}"), "", "\"he\":258", "\"h e\"", "dbrx", ""},
    {0, "\"normalizer\":{\"type\":\"NFC\"}," SPLIT(""), "", "\"he\":258", "\"h e\"", "qwen2", "normal form C"},
    {0, "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "", "\"he\":258", "\"h e\"", NULL,
     "add_prefix_space"},
    {0, "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", "", "\"he\":258",
     "\"h e\"", NULL, "does not split"},
    {0, "\"pre_tokenizer\":" LEVEL, "\"ignore_merges\":true,", "\"he\":258", "\"h e\"", NULL, "ignore_merges"},
    {1, SPACES, "\"byte_fallback\":true,", "\"h\":258,\"e\":259,\"he\":260,\"" MARK "\":261", "\"h e\"", "default", ""},
    {1, METASPACE("false"), "\"byte_fallback\":true,", "\"h\":258,\"e\":259,\"he\":260,\"" MARK "\":261", "\"h e\"",
     "default", "begins with one already"},
    {1, METASPACE("true"), "\"byte_fallback\":true,", "\"h\":258,\"e\":259,\"he\":260", "\"h e\"", NULL, "each space"},
    {1, SPACES, "\"byte_fallback\":true,", "\"h\":258,\"e\":259,\"he\":260,\"eh\":261", "\"h e\"", NULL,
     "no merge joins"},
    {1, SPACES, "\"byte_fallback\":true,", "\"h\":258,\"hh\":259,\"hhh\":260,\"x\":261,\"xh\":263",
     "\"h h\",\"h hh\",\"x h\",\"hh h\"", NULL, "stand among"},
    {1, SPACES, "\"byte_fallback\":true,",
     "\"h\":258,\"hh\":259,\"hhh\":260,\"hhhh\":261,\"e\":262,\"he\":263,\"" MARK "\":264",
     "\"h e\",\"h h\",\"h hh\",\"hh hh\",\"hh h\",\"h hhh\",\"hhh h\"", "default", ""},
    {1, SPACES, "\"byte_fallback\":true,", "\"h\":258,\"hh\":259,\"hhh\":260,\"hhhh\":261",
     "\"h h\",\"hh h\",\"hh hh\",\"h hh\",\"h hhh\",\"hhh h\"", NULL, "repeat one character"},
    {1, SPACES, "\"unk_token\":\"<u>\",", "\"<u>\":258,\"e\":259", "", NULL, "all bytes"},
    {1, SPACES, "\"byte_fallback\":true,", "\"h\":258", "", NULL, "same text as token"}};

static void test_made_tokenizers(void) {
    size_t i;
    for (i = 0; i < sizeof made / sizeof *made; i++) {
        dpo_tokenizer *t;
        dpo_model *m;
        gguf_report r;
        gguf *g;
        char text[300];
        int rows = !made[i].pre && !strcmp(made[i].words, "same text as token") ? 271 : 270; /* 257 is [PAD270] */
        (void)snprintf(text, sizeof text,
                       "{\"model_type\":\"llama\",\"vocab_size\":%d,\"hidden_size\":4,\"num_hidden_layers\":1,"
                       "\"num_attention_heads\":1,\"intermediate_size\":3}",
                       rows);
        make_tokenizer(made[i].sentencepiece, made[i].rest, made[i].model, made[i].pieces, made[i].merges);
        m = make_model(text, 1);
        t = dpo_tokenizer_load(ctx, FOLDER "/tok");
        CHECK_OK(ctx, t ? 0 : -1);
        if (!made[i].pre) check_refused(m, FOLDER "/tok", DPO_F32, made[i].words);
        else if ((g = write_model(m, FOLDER "/tok", DPO_F32, &r)) != NULL) {
            words *w = read_words(g);
            CHECK_CASE(key_is(g, "tokenizer.ggml.pre", made[i].pre), made[i].pre);
            CHECK_CASE(made[i].words[0] ? strstr(r.notes, made[i].words) != NULL : !r.notes[0], r.notes);
            CHECK(token_type(w, 256) == GGUF_CONTROL && token_type(w, 257) == GGUF_USER_DEFINED);
            if (made[i].sentencepiece) compare_ids(t, w, "he hehh hhhhhe hhhhhhhhh", 24, 1);
            else if (!strcmp(made[i].pre, "gpt-2") || !strcmp(made[i].pre, "smollm"))
                compare_ids(t, w, "he 12 hehe a  123 he [PAD270]he", 31, 0);
        }
        dpo_tokenizer_free(t);
        dpo_model_free(m);
    }
}
/* What the vocabulary of bytes and what a tokenizer that does not belong to the model give. */
static void test_byte_model(void) {
    dpo_model *m = make_model(models[0].config, 1);
    gguf_report r;
    gguf *g = write_model(m, NULL, DPO_F32, &r);
    words *w;
    const key *k;
    int32_t ids[64];
    int i, n;
    static const char text[] = "for (;;) {\n\tx  += 'Zo\x7f' ~1;  }";
    if (!g) return;
    w = read_words(g);
    k = find_key(g, "tokenizer.ggml.merges");
    CHECK(k && k->n == 0 && w->n == VOCAB); /* the loader wants the key to be there */
    CHECK(key_u32(g, "tokenizer.ggml.eos_token_id", 0) == 256 && key_bool(g, "tokenizer.ggml.add_bos_token", 1) == 0);
    n = tokenize_merges(w, text, sizeof text - 1, ids);
    CHECK(n == (int)sizeof text - 1);
    for (i = 0; i < n; i++) CHECK(ids[i] == (unsigned char)text[i]);
    for (i = 0; i < VOCAB; i++)
        CHECK(token_type(w, i) == (i < 256 ? GGUF_NORMAL : i == 256 ? GGUF_CONTROL : GGUF_UNUSED));
    dpo_model_free(m);
    make_tokenizer(0, "\"pre_tokenizer\":" LEVEL, "", "\"he\":258", "\"h e\"");
    m = make_model("{\"model_type\":\"llama\",\"vocab_size\":258,\"hidden_size\":4,\"num_hidden_layers\":1,"
                   "\"num_attention_heads\":1,\"intermediate_size\":3}",
                   1);
    check_refused(m, FOLDER "/tok", DPO_F32, "258 rows");
    check_refused(m, NULL, DPO_F32, "a tokenizer is needed");
    check_refused(m, FOLDER "/nowhere", DPO_F32, "nowhere");
    dpo_model_free(m);
}

/* Whatever tokenizer.json holds, there is a sentence, or a whole file whose merges are all there. */
static void test_bad_tokenizer_files(void) {
    static const int cases[] = {0, 2, 8};
    int k, i, n, written = 0;
    for (k = 0; k < 3; k++) {
        dpo_model *m = make_model("{\"model_type\":\"llama\",\"vocab_size\":270,\"hidden_size\":4,"
                                  "\"num_hidden_layers\":1,\"num_attention_heads\":1,\"intermediate_size\":3}",
                                  1);
        const char *path = FOLDER "/tok/tokenizer.json";
        unsigned char *p;
        size_t size;
        make_tokenizer(made[cases[k]].sentencepiece, made[cases[k]].rest, made[cases[k]].model, made[cases[k]].pieces,
                       made[cases[k]].merges);
        p = get_file(path, &size);
        for (i = 0; i < 500; i++) {
            unsigned char keep[8];
            size_t at[8];
            int changes = 1 + i % 3;
            for (n = 0; n < changes; n++) {
                at[n] = (size_t)rng_below((int)size);
                keep[n] = p[at[n]];
                p[at[n]] = rng_below(3) ? p[rng_below((int)size)] : (unsigned char)rng();
            }
            put_file(path, p, i % 5 ? size : (size_t)rng_below((int)size));
            err[0] = 0;
            if (!gguf_write(ctx, m, FOLDER "/tok", FOLDER "/fuzz.gguf", DPO_F32, NULL, NULL, err, sizeof err)) {
                gguf *g = read_gguf(FOLDER "/fuzz.gguf");
                if (g) (void)read_words(g);
                written++;
            } else CHECK(err[0] != 0);
            dpo_clear(ctx);
            while (n-- > 0) p[at[n]] = keep[n];
        }
        dpo_model_free(m);
    }
    CHECK(written > 20);
}

/* ---- llama2.c -------------------------------------------------------------------------------------------------------- */

enum { EMBED, NORM1, WQ, WK, WV, WO, NORM2, W1, W2, W3, LAST, FREQ, HEAD, KINDS };
static const char *const kind_names[KINDS] = {
    "embed_tokens", "input_layernorm", "q_proj",  "k_proj",     "v_proj", "o_proj", "post_attention",
    "gate_proj",    "down_proj",       "up_proj", "model.norm", "?",      "lm_head"};
enum { DIM = 12, HIDDEN = 10, LAYERS = 3, HEADS = 3, KV = 1, TOKENS = 7, POSITIONS = 5, SIZE = DIM / HEADS };
static const int kind_rows[KINDS] = {TOKENS, 1,   DIM,    KV *SIZE, KV *SIZE,  DIM,   1,
                                     HIDDEN, DIM, HIDDEN, 1,        POSITIONS, TOKENS};
static const int kind_columns[KINDS] = {DIM, DIM, DIM, DIM, DIM, DIM, DIM, DIM, HIDDEN, DIM, DIM, SIZE, DIM};

/* A value as the file has it. */
static float raw_value(int kind, int layer, int row, int column) {
    return (float)(kind * 1000 + layer * 100 + row * 10) + (float)column / 16.0f;
}
static size_t put_u32(unsigned char *p, uint32_t x) {
    int i;
    for (i = 0; i < 4; i++) p[i] = (unsigned char)(x >> 8 * i);
    return 4;
}
/* A checkpoint of these sizes; its length. */
static size_t make_checkpoint(unsigned char *p, int version, int shared) {
    static const int legacy[] = {EMBED, NORM1, WQ, WK, WV, WO, NORM2, W1, W2, W3, LAST, FREQ, HEAD};
    static const int one[] = {NORM1, NORM2, LAST, EMBED, WQ, WK, WV, WO, W1, W2, W3, HEAD};
    int n = version ? 12 : 13, i, l, r, c;
    size_t at = 0;
    if (version) {
        memset(p, 0, 256);
        at = put_u32(p, LLAMA2C_MAGIC);
        at += put_u32(p + at, (uint32_t)version);
        p[36] = (unsigned char)shared;
    }
    at += put_u32(p + at, DIM) + 0;
    at += put_u32(p + at, HIDDEN);
    at += put_u32(p + at, LAYERS);
    at += put_u32(p + at, HEADS);
    at += put_u32(p + at, KV);
    at += put_u32(p + at, version || shared ? TOKENS : (uint32_t)-TOKENS);
    at += put_u32(p + at, POSITIONS);
    if (version) at = 256;
    for (i = 0; i < n; i++) {
        int kind = version ? one[i] : legacy[i];
        int layers = kind == EMBED || kind == LAST || kind == FREQ || kind == HEAD ? 1 : LAYERS;
        if (kind == HEAD && shared) continue;
        for (l = 0; l < layers; l++)
            for (r = 0; r < kind_rows[kind]; r++)
                for (c = 0; c < kind_columns[kind]; c++, at += 4) {
                    float x = raw_value(kind, l, r, c);
                    uint32_t bits;
                    memcpy(&bits, &x, 4);
                    put_u32(p + at, bits);
                }
    }
    return at;
}
#define CHECKPOINT FOLDER "/checkpoint.bin"
static void check_part(llama2c_file *f, int64_t i) {
    const dpo_tensor *t = llama2c_tensor(f, i);
    const float *x = (const float *)llama2c_read(f, i, err, sizeof err);
    const char *dot = strstr(t->name, "layers.");
    int kind = 0, r, c, layer = dot ? atoi(dot + 7) : 0;
    if (!CHECK_CASE(x != NULL, err)) return;
    while (kind < KINDS && !strstr(t->name, kind_names[kind])) kind++;
    if (!CHECK_CASE(kind < KINDS, t->name)) return;
    CHECK(t->dtype == DPO_F32 && t->shape[t->ndim - 1] == kind_columns[kind]);
    CHECK(t->ndim == (kind_rows[kind] > 1 ? 2 : 1) &&
          t->shape[0] * t->shape[1] == kind_rows[kind] * kind_columns[kind]);
    for (r = 0; r < kind_rows[kind]; r++)
        for (c = 0; c < kind_columns[kind]; c++) {
            int within = r % SIZE, from = r;
            if (kind == WQ || kind == WK) from = r - within + 2 * (within % (SIZE / 2)) + within / (SIZE / 2);
            CHECK_CASE(x[r * kind_columns[kind] + c] == raw_value(kind, layer, from, c), t->name);
        }
}
static void test_checkpoints(void) {
    static unsigned char p[20000];
    int version, shared;
    int64_t i;
    char json[1200];
    for (version = 0; version < 2; version++)
        for (shared = 0; shared < 2; shared++) {
            llama2c_file *f;
            dpo_model_config k;
            dpo_model *m;
            put_file(CHECKPOINT, p, make_checkpoint(p, version, shared));
            CHECK(llama2c_is(CHECKPOINT) == 1);
            f = llama2c_open(CHECKPOINT, err, sizeof err);
            if (!CHECK_CASE(f != NULL, err)) continue;
            CHECK(llama2c_count(f) == 9 * LAYERS + 3 - shared);
            for (i = llama2c_count(f); i-- > 0;) check_part(f, i);
            CHECK(llama2c_config_json(f, json, sizeof json) == strlen(json));
            llama2c_close(f);
            mkdir(FOLDER "/hf", 0777);
            m = llama2c_dir(ctx, CHECKPOINT, NULL, FOLDER "/hf");
            CHECK_OK(ctx, m ? dpo_model_config_read(ctx, FOLDER "/hf", &k) : -1);
            CHECK(m && k.family == DPO_LLAMA && k.num_key_value_heads == KV && k.tie_word_embeddings == shared &&
                  k.max_position_embeddings == POSITIONS && k.norm_eps == 1e-5 && k.rope_theta == 10000.0);
            dpo_model_free(m);
        }
}
static int opens(const unsigned char *p, size_t n) {
    llama2c_file *f;
    int64_t i;
    put_file(CHECKPOINT, p, n);
    err[0] = 0;
    (void)llama2c_is(CHECKPOINT);
    f = llama2c_open(CHECKPOINT, err, sizeof err);
    if (!f) return !CHECK(err[0] != 0);
    for (i = 0; i < llama2c_count(f); i++) CHECK(llama2c_read(f, i, err, sizeof err) != NULL);
    llama2c_close(f);
    return 1;
}
static void test_bad_checkpoints(void) {
    static const uint32_t bad[] = {0, 0xffffffffu, 0x80000000u, 0x7fffffffu, 1000000, 16000000, 9999, 4096, 5, 1};
    static unsigned char p[20000];
    unsigned char keep[256];
    int version, i, k;
    size_t n, at;
    for (version = 0; version < 2; version++) {
        size_t first = version ? 8 : 0;
        n = make_checkpoint(p, version, 0);
        CHECK(opens(p, n));
        for (at = 0; at < n; at += at < 300 ? 1 : 13) CHECK(!opens(p, at));
        CHECK(!opens(p, n - 1) && !opens(p, n - 4) && !opens(p, n + 1) && !opens(p, n + 4));
        CHECK(strstr(err, "asks for") != NULL);
        for (at = first; at < first + 28; at += 4)
            for (k = 0; k < (int)(sizeof bad / sizeof *bad); k++) {
                int fits = bad[k] == (uint32_t)number(p + at, 4); /* version 1 has nothing of the size "positions" */
                if (version && at == first + 24) fits = bad[k] >= 1 && bad[k] <= 16000000;
                memcpy(keep, p, 256);
                put_u32(p + at, bad[k]);
                CHECK(opens(p, n) == fits);
                memcpy(p, keep, 256);
            }
        for (i = 0; i < 300; i++) { /* anything may come of it but a crash */
            memcpy(keep, p, 256);
            for (k = 0; k <= i % 3; k++) p[rng_below(version ? 40 : 28)] = (unsigned char)rng();
            (void)opens(p, n);
            memcpy(p, keep, 256);
        }
        CHECK(opens(p, n));
    }
    put_u32(p + 4, 2);
    CHECK(!opens(p, n) && strstr(err, "version 2") && strstr(err, "quantised"));
    put_u32(p + 4, 7);
    CHECK(!opens(p, n) && strstr(err, "not known"));
    CHECK(!llama2c_is(FOLDER "/nowhere") && !llama2c_open(FOLDER "/nowhere", err, sizeof err) &&
          strstr(err, "nowhere"));
    CHECK(!llama2c_is("dpo.h") && !llama2c_open("dpo.h", err, sizeof err));
}

/* ---- tok*.bin -------------------------------------------------------------------------------------------------------- */

#define TOK_BIN FOLDER "/tok.bin"
#define TOK_DIR FOLDER "/tok"
/* FOLDER/tok/tokenizer.json of a tok.bin; 0 if it is refused. */
static int convert_tokenizer(const char *path) {
    FILE *f;
    int r;
    clear_tokenizer();
    f = fopen(TOK_DIR "/tokenizer.json", "wb");
    if (!CHECK(f != NULL)) return 0;
    err[0] = 0;
    r = llama2c_tokenizer_json(path, f, err, sizeof err);
    fclose(f);
    CHECK(!r == !err[0]);
    llama2c_dir_text(TOK_DIR, "tokenizer_config.json", LLAMA2C_TOKENIZER_CONFIG);
    return !r;
}
/* llama2.c's own way: again and again the neighbours whose result has the best score, the leftmost first. */
enum { OWN_PIECES = 600, OWN_LENGTH = 64 };
static struct {
    int count, joined[OWN_PIECES][OWN_PIECES];
    float score[OWN_PIECES];
    char piece[OWN_PIECES][OWN_LENGTH];
    size_t length[OWN_PIECES];
} own;
static int own_find(const char *p, size_t n) {
    int i;
    for (i = 259; i < own.count; i++)
        if (own.length[i] == n && !memcmp(own.piece[i], p, n)) return i;
    return -1;
}
static void own_read(const char *path) {
    char both[2 * OWN_LENGTH];
    unsigned char head[8];
    int i, k;
    FILE *f = fopen(path, "rb");
    own.count = 0;
    if (!CHECK(f && fread(head, 1, 4, f) == 4)) return;
    for (i = 0; i < OWN_PIECES && fread(head, 1, 8, f) == 8; own.count = ++i) {
        memcpy(&own.score[i], head, 4);
        own.length[i] = head[4];
        if (!CHECK(head[4] < OWN_LENGTH && fread(own.piece[i], 1, head[4], f) == head[4])) break;
    }
    fclose(f);
    for (i = 259; i < own.count; i++)
        for (k = 259; k < own.count; k++) {
            memcpy(both, own.piece[i], own.length[i]);
            memcpy(both + own.length[i], own.piece[k], own.length[k]);
            own.joined[i][k] = own_find(both, own.length[i] + own.length[k]);
        }
}
static int64_t own_encode(const char *text, size_t bytes, int32_t *id) {
    char *s = SCRATCH(char, bytes + 2);
    size_t at, length, k;
    int64_t n = 0, i, best;
    (void)sprintf(s, "%s%.*s", bytes ? " " : "", (int)bytes, text);
    for (at = 0; s[at]; at += length) {
        int lead = (unsigned char)s[at], one;
        length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        one = own_find(s + at, length);
        if (one >= 0) id[n++] = one;
        for (k = 0; one < 0 && k < length; k++) id[n++] = 3 + (unsigned char)s[at + k];
    }
    for (;;) {
        int to = -1, next;
        for (i = 0, best = -1; i + 1 < n; i++) {
            next = id[i] < 259 || id[i + 1] < 259 ? -1 : own.joined[id[i]][id[i + 1]];
            if (next < 0 || (to >= 0 && own.score[next] <= own.score[to])) continue;
            to = next;
            best = i;
        }
        if (best < 0) return n;
        id[best] = to;
        memmove(id + best + 1, id + best + 2, (size_t)(--n - best - 1) * sizeof *id);
    }
}
static void same_ids(const dpo_tokenizer *t, const char *text, size_t n) {
    int32_t *x = SCRATCH(int32_t, 3 * n + 3), *y = SCRATCH(int32_t, 3 * n + 3);
    int64_t i = dpo_encode(t, text, n, x, (int64_t)(3 * n + 3)), k = own_encode(text, n, y);
    CHECK_CASE(i == k && !memcmp(x, y, (size_t)i * sizeof *x), text);
}
/* To ids and back: exact, but for U+2581, which stands for a space. */
static void same_back(const dpo_tokenizer *t, const char *text, size_t n) {
    dpo_text part = {text, n, 0};
    int32_t *x = SCRATCH(int32_t, 3 * n + 3);
    int64_t i = dpo_encode_parts(t, &part, 1, DPO_ENCODE_ADD_BOS | DPO_ENCODE_ADD_EOS, x, (int64_t)(3 * n + 3));
    char *back = SCRATCH(char, n + 1);
    size_t k = 0, m = 0;
    CHECK_CASE(i > 1, text);
    i = dpo_decode(t, x, i, back, n);
    for (; k < n && m < (size_t)i; m++) {
        int mark = n - k >= 3 && !memcmp(text + k, "\xe2\x96\x81", 3);
        if (!CHECK_CASE(back[m] == (mark ? ' ' : text[k]), text)) return;
        k += mark ? 3 : 1;
    }
    CHECK_CASE(k == n && m == (size_t)i, text);
}
static void test_tokenizer_json(void) {
    char **stories = read_stories(200, 4000), noise[400];
    const char *path = SHARED "stories260K/tok512.bin";
    dpo_tokenizer *json;
    gguf_report r;
    gguf *g;
    int i, n, k;
    if (!shared_file(path) || !CHECK_CASE(convert_tokenizer(path), err)) return;
    json = dpo_tokenizer_load(ctx, TOK_DIR);
    if (!CHECK_OK(ctx, json ? 0 : -1)) return;
    own_read(path);
    CHECK(dpo_tokenizer_vocab(json) == 512 && dpo_tokenizer_bos(json) == 1 && dpo_tokenizer_eos(json) == 2);
    CHECK(dpo_tokenizer_adds_bos(json) == 1);
    for (i = 0; stories && i < 200; i++) {
        same_back(json, stories[i], strlen(stories[i]));
        for (n = (int)strlen(stories[i]) < 400 ? (int)strlen(stories[i]) : 400; n; n--)
            if ((stories[i][n] & 0xc0) != 0x80) break; /* whole characters */
        same_ids(json, stories[i], (size_t)n);
    }
    for (i = 0; i < 3000; i++) { /* any bytes; then bytes that are often letters and spaces */
        n = rng_below(i % 40 ? 60 : 400);
        for (k = 0; k < n; k++)
            noise[k] = (char)(i % 3 == 0 ? (int)(rng() & 255) : "  aetoinshrd\n<0x\xe2\x96\x81>"[rng_below(20)]);
        same_back(json, noise, (size_t)n);
    }
    g = write_tokenizer(json, 0, &r);
    if (g) {
        words *w = read_words(g);
        for (i = 0; stories && i < 30; i++) {
            stories[i][500] = 0;
            for (n = (int)strlen(stories[i]); n && (signed char)stories[i][n - 1] < 0; n--) stories[i][n - 1] = 0;
            compare_ids(json, w, stories[i], strlen(stories[i]), 1);
        }
    }
    dpo_tokenizer_free(json);
}
static unsigned char tok_bin[40000];
static size_t tok_size;
static void put_piece(const char *text, size_t n, double score) {
    float x = (float)score;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    tok_size += put_u32(tok_bin + tok_size, bits);
    tok_size += put_u32(tok_bin + tok_size, (uint32_t)n);
    memcpy(tok_bin + tok_size, text, n);
    tok_size += n;
}
static void begin_pieces(void) {
    char byte[8];
    int b;
    tok_size = put_u32(tok_bin, 60);
    put_piece("<unk>", 5, 0);
    put_piece("\n<s>\n", 5, 0);
    put_piece("\n</s>\n", 6, 0);
    for (b = 0; b < 256; b++) {
        (void)snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)b);
        put_piece(byte, 6, 0);
    }
}
/* Vocabularies of three letters, where pieces overlap in all ways: each new one is two of those before it. */
static void test_overlapping_pieces(void) {
    int round, i, k, n;
    for (round = 0; round < 60; round++) {
        char piece[60][64], text[200];
        size_t length[60];
        int count = 3, most = 10 + rng_below(50);
        dpo_tokenizer *json;
        for (i = 0; i < 3; i++) {
            piece[i][0] = " ab"[i];
            length[i] = 1;
        }
        while (count < most) {
            int a = rng_below(count), b = rng_below(count);
            n = (int)(length[a] + length[b]);
            if (n > 30) continue;
            memcpy(piece[count], piece[a], length[a]);
            memcpy(piece[count] + length[a], piece[b], length[b]);
            length[count] = (size_t)n;
            for (i = 0; i < count; i++)
                if (length[i] == (size_t)n && !memcmp(piece[i], piece[count], (size_t)n)) break;
            if (i == count) count++;
            else if (!rng_below(200)) break;
        }
        begin_pieces();
        for (i = 3; i < count; i++) put_piece(piece[i], length[i], -(double)i);
        for (i = 0; i < 3; i++) put_piece(piece[i], 1, -1000.0 - i);
        put_file(TOK_BIN, tok_bin, tok_size);
        if (!CHECK_CASE(convert_tokenizer(TOK_BIN), err)) continue;
        json = dpo_tokenizer_load(ctx, TOK_DIR);
        if (!CHECK_OK(ctx, json ? 0 : -1)) continue;
        own_read(TOK_BIN);
        for (i = 0; i < 400; i++) {
            n = rng_below(200);
            for (k = 0; k < n; k++) text[k] = " aabb"[rng_below(5)];
            same_ids(json, text, (size_t)n);
            same_back(json, text, (size_t)n);
        }
        dpo_tokenizer_free(json);
    }
}
static void check_bad_pieces(const char *words_of_it) {
    put_file(TOK_BIN, tok_bin, tok_size);
    CHECK_CASE(!convert_tokenizer(TOK_BIN) && strstr(err, words_of_it), err);
}
static void test_bad_tokenizers(void) {
    size_t at, n;
    int i;
    begin_pieces();
    n = tok_size;
    put_piece(" a", 2, -1);
    put_piece("a", 1, -2);
    put_piece(" ", 1, -3);
    put_file(TOK_BIN, tok_bin, tok_size);
    CHECK_CASE(convert_tokenizer(TOK_BIN), err);
    for (at = 0; at < tok_size;
         at += at < 40 || at > n - 40 ? 1 : 7) { /* whole pieces may be missing, the first 259 not */
        put_file(TOK_BIN, tok_bin, at);
        CHECK(!convert_tokenizer(TOK_BIN) || at >= n);
    }
    for (i = 0; i < 400; i++) {
        unsigned char *p = tok_bin + rng_below((int)tok_size), keep = *p;
        *p = (unsigned char)rng();
        put_file(TOK_BIN, tok_bin, tok_size);
        (void)convert_tokenizer(TOK_BIN);
        *p = keep;
    }
    tok_size = n;
    put_piece("a", 1, -1);
    put_piece("a", 1, -2);
    check_bad_pieces("piece 260: the same piece");
    tok_size = n;
    put_piece("\xff\xfe", 2, -1);
    check_bad_pieces("no UTF-8");
    tok_size = n;
    put_piece(MARK, 3, -1);
    check_bad_pieces("U+2581");
    tok_size = n;
    put_piece("", 0, -1);
    check_bad_pieces("empty");
    tok_size = n;
    put_piece("a", 1, -1);
    put_piece("b", 1, -2);
    put_piece("ab", 2, -3);
    put_piece("ba", 2, -3);
    check_bad_pieces("unigram");
    put_u32(tok_bin, 5);
    check_bad_pieces("longest piece");
    put_u32(tok_bin, 60);
    put_u32(tok_bin + n + 4, 0xfffffff0u);
    check_bad_pieces("longer than the rest");
    tok_size = n;
    tok_bin[n - 3] = '!';
    check_bad_pieces("256 bytes");
    CHECK(!convert_tokenizer(FOLDER "/nowhere.bin") && strstr(err, "nowhere"));
}

/* ---- a real model all the way ---------------------------------------------------------------------------------------- */

static void test_real_story(void) {
    static const char *const names[][2] = {{"input_layernorm", "attn_norm"},
                                           {"q_proj", "attn_q"},
                                           {"k_proj", "attn_k"},
                                           {"v_proj", "attn_v"},
                                           {"o_proj", "attn_output"},
                                           {"post_attention", "ffn_norm"},
                                           {"gate_proj", "ffn_gate"},
                                           {"up_proj", "ffn_up"},
                                           {"down_proj", "ffn_down"},
                                           {"embed_tokens", "token_embd"},
                                           {"model.norm", "output_norm"}};
    const char *bin = SHARED "stories260K/stories260K.bin";
    llama2c_file *f;
    dpo_model *m;
    gguf_report r;
    gguf *g;
    unsigned char *raw;
    size_t n, k;
    int64_t i;
    if (!shared_file(bin)) return;
    mkdir(FOLDER "/story", 0777);
    m = llama2c_dir(ctx, bin, SHARED "stories260K/tok512.bin", FOLDER "/story");
    g = CHECK_OK(ctx, m ? 0 : -1) ? write_model(m, FOLDER "/story", DPO_F32, &r) : NULL;
    f = llama2c_open(bin, err, sizeof err);
    raw = get_file(bin, &n);
    CHECK(g && g->n_tensors == (uint64_t)llama2c_count(f) && !r.notes[0]);
    for (i = 0; g && i < llama2c_count(f); i++) { /* both turn neighbours: even q and k are the checkpoint's bytes */
        const llama2c_part *p = &f->parts[i];
        const char *dot = strstr(p->name, "layers.");
        char name[64];
        tensor *t;
        for (k = 0; k < 10 && !strstr(p->name, names[k][0]); k++) {
        }
        if (dot) (void)snprintf(name, sizeof name, "blk.%d.%s.weight", atoi(dot + 7), names[k][1]);
        else (void)snprintf(name, sizeof name, "%s.weight", names[k][1]);
        t = find_tensor(g, name);
        if (CHECK_CASE(t && p->offset + t->bytes <= n, name)) CHECK_SAME(t->p, raw + p->offset, t->bytes);
    }
    llama2c_close(f);
    dpo_model_free(m);
}

#define T(name)                                                                                                        \
    { #name, test_##name }
static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {T(graphs),          T(frozen),
             T(halves),          T(refused),
             T(full_disk),       T(byte_model),
             T(made_tokenizers), T(bad_tokenizer_files),
             T(real_byte_level), T(real_sentencepiece),
             T(checkpoints),     T(bad_checkpoints),
             T(tokenizer_json),  T(overlapping_pieces),
             T(bad_tokenizers),  T(real_story)};

int main(int argc, char **argv) {
    const char *only = argc > 1 ? argv[1] : "";
    int passed = 0, failed = 0, n = (int)(sizeof tests / sizeof *tests), i;
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    ctx = dpo_open(NULL);
    for (i = 0; i < n; i++) {
        if (!strstr(tests[i].name, only)) continue;
        check_failures = check_lines = 0;
        tests[i].run();
        if (dpo_status(ctx)) CHECK_OK(ctx, dpo_status(ctx));
        dpo_clear(ctx);
        scratch_free();
        printf("%s %s\n", check_failures ? "FAIL" : "ok  ", tests[i].name);
        if (check_failures) failed++;
        else passed++;
    }
    dpo_close(ctx);
    if (skipped) printf("skipped: %d files of " SHARED " are not beside the checkout\n", skipped);
    if (!*only && n < FLOOR) printf("%d tests, there must be %d\n", n, FLOOR), failed++;
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
