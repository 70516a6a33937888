/* oracle.h - a whole transformer in double, written from the papers and not from dpo.h: one sequence at a
   time, every matrix a plain loop. Weights are copies that a test may move. */
#ifndef ORACLE_H
#define ORACLE_H

typedef struct oracle_tensor {
    char name[160];
    double *v;
    int64_t n;
} oracle_tensor;

typedef struct oracle {
    dpo_model_config k;
    oracle_tensor t[160];
    int count;
    double lora_scale;
    int64_t lora_r;
} oracle;

static void oracle_open(oracle *o, dpo_model *m, double lora_scale, int64_t lora_r) {
    dpo_tensor *t;
    int64_t n, i, j;
    int lora;
    memset(o, 0, sizeof *o);
    o->k = *dpo_model_config_of(m);
    o->lora_scale = lora_scale;
    o->lora_r = lora_r;
    for (lora = 0; lora < (lora_r ? 2 : 1); lora++) {
        n = tiny_tensors(m, lora, &t);
        for (i = 0; i < n && o->count < 160; i++) {
            oracle_tensor *x = &o->t[o->count++];
            (void)snprintf(x->name, sizeof x->name, "%s", t[i].name);
            x->n = tensor_count(&t[i]);
            x->v = SCRATCH(double, x->n);
            for (j = 0; j < x->n; j++) x->v[j] = (double)((float *)t[i].data)[j];
        }
    }
}
static double *oracle_find(const oracle *o, const char *name) {
    int i;
    for (i = 0; i < o->count; i++)
        if (!strcmp(o->t[i].name, name)) return o->t[i].v;
    return NULL;
}
static const double *oracle_get(const oracle *o, const char *prefix, const char *module, const char *part) {
    char name[256];
    (void)snprintf(name, sizeof name, "%.100s%.60s%.40s", prefix, module, part);
    return oracle_find(o, name);
}

/* y = W x + b + scale B A x for every row */
static void oracle_linear(const oracle *o, const char *prefix, const char *module, const double *x, int64_t rows,
                          int64_t in, int64_t out, double *y) {
    const double *w = oracle_get(o, prefix, module, ".weight"), *b = oracle_get(o, prefix, module, ".bias"), *la = NULL,
                 *lb = NULL;
    char base[100];
    int64_t n, i, j, r;
    (void)snprintf(base, sizeof base, "base_model.model.%.40s%.40s", prefix, module);
    if (o->lora_r) {
        la = oracle_get(o, base, ".lora_A.weight", "");
        lb = oracle_get(o, base, ".lora_B.weight", "");
    }
    for (n = 0; n < rows; n++) {
        double h[16];
        for (r = 0; la && r < o->lora_r; r++)
            for (h[r] = 0, i = 0; i < in; i++) h[r] += la[r * in + i] * x[n * in + i];
        for (j = 0; j < out; j++) {
            double s = b ? b[j] : 0;
            for (i = 0; i < in; i++) s += x[n * in + i] * (o->k.conv1d ? w[i * out + j] : w[j * in + i]);
            for (r = 0; la && r < o->lora_r; r++) s += o->lora_scale * lb[j * o->lora_r + r] * h[r];
            y[n * out + j] = s;
        }
    }
}
static void oracle_norm(const oracle *o, const char *prefix, const char *module, const double *x, int64_t rows,
                        double *y) {
    const double *w = oracle_get(o, prefix, module, ".weight"), *b = oracle_get(o, prefix, module, ".bias");
    int64_t d = o->k.hidden_size, n, i;
    for (n = 0; n < rows; n++) {
        double mean = 0, var = 0;
        for (i = 0; i < d && o->k.norm == DPO_NORM_LAYER; i++) mean += x[n * d + i] / (double)d;
        for (i = 0; i < d; i++) var += (x[n * d + i] - mean) * (x[n * d + i] - mean) / (double)d;
        for (i = 0; i < d; i++)
            y[n * d + i] = (x[n * d + i] - mean) / sqrt(var + o->k.norm_eps) * w[i] + (b ? b[i] : 0);
    }
}
static void oracle_rotate(const oracle *o, double *x, int64_t position) {
    int64_t half = o->k.rotary_dim / 2, i;
    for (i = 0; i < half; i++) {
        double t = (double)position * pow(o->k.rope_theta, -2.0 * (double)i / o->k.rotary_dim), u = x[i],
               v = x[i + half];
        x[i] = u * cos(t) - v * sin(t);
        x[i + half] = v * cos(t) + u * sin(t);
    }
}
static double oracle_slope(int h, int heads) {
    int m = 1;
    while (2 * m <= heads) m *= 2;
    return h < m ? pow(2.0, -8.0 * (h + 1) / m) : pow(2.0, -8.0 * (2 * (h - m) + 1) / (2 * m));
}
/* q [T,H,D], k and v [T,K,D] from the three ways to store them */
static void oracle_qkv(const oracle *o, const char *p, const double *h, int64_t T, double *q, double *k, double *v) {
    int64_t H = o->k.num_attention_heads, K = o->k.num_key_value_heads, D = o->k.head_dim, E = o->k.hidden_size, t, a,
            e;
    double *all;
    if (o->k.qkv == DPO_QKV_SEPARATE) {
        oracle_linear(o, p, "self_attn.q_proj", h, T, E, H * D, q);
        oracle_linear(o, p, "self_attn.k_proj", h, T, E, K * D, k);
        oracle_linear(o, p, "self_attn.v_proj", h, T, E, K * D, v);
        return;
    }
    all = (double *)malloc(sizeof *all * (size_t)(T * 3 * E));
    oracle_linear(o, p, o->k.qkv == DPO_QKV_HEADS ? "attention.query_key_value" : "attn.c_attn", h, T, E, 3 * E, all);
    for (t = 0; t < T; t++)
        for (a = 0; a < H; a++)
            for (e = 0; e < D; e++) {
                const double *row = all + t * 3 * E;
                int64_t at = (t * H + a) * D + e;
                if (o->k.qkv == DPO_QKV_HEADS) {
                    q[at] = row[a * 3 * D + e];
                    k[at] = row[a * 3 * D + D + e];
                    v[at] = row[a * 3 * D + 2 * D + e];
                } else {
                    q[at] = row[a * D + e];
                    k[at] = row[E + a * D + e];
                    v[at] = row[2 * E + a * D + e];
                }
            }
    free(all);
}
static void oracle_attention(const oracle *o, int layer, int64_t T, double *q, double *k, const double *v, double *y) {
    int64_t H = o->k.num_attention_heads, K = o->k.num_key_value_heads, D = o->k.head_dim, t, a, j, e;
    double scale = o->k.attention_scale / (o->k.attention_scale_by_layer ? layer + 1 : 1), s[128];
    for (t = 0; t < T && o->k.position == DPO_POSITION_ROPE; t++) {
        for (a = 0; a < H; a++) oracle_rotate(o, q + (t * H + a) * D, t);
        for (a = 0; a < K; a++) oracle_rotate(o, k + (t * K + a) * D, t);
    }
    for (t = 0; t < T; t++)
        for (a = 0; a < H; a++) {
            int64_t g = a / (H / K);
            double top = -1e300, z = 0, *out = y + (t * H + a) * D;
            for (j = 0; j <= t; j++) {
                for (s[j] = 0, e = 0; e < D; e++) s[j] += q[(t * H + a) * D + e] * k[(j * K + g) * D + e];
                s[j] *= scale;
                if (o->k.position == DPO_POSITION_ALIBI) s[j] -= oracle_slope((int)a, (int)H) * (double)(t - j);
                if (s[j] > top) top = s[j];
            }
            for (j = 0; j <= t; j++) z += s[j] = exp(s[j] - top);
            for (e = 0; e < D; e++)
                for (out[e] = 0, j = 0; j <= t; j++) out[e] += s[j] / z * v[(j * K + g) * D + e];
        }
}
static void oracle_mlp(const oracle *o, const char *p, const double *h, int64_t T, double *y) {
    int neox = o->k.family == DPO_GPT_NEOX, gpt = o->k.conv1d;
    int64_t E = o->k.hidden_size, I = o->k.intermediate_size, i;
    double *u = (double *)malloc(sizeof *u * (size_t)(2 * T * I)), *g = u + T * I;
    oracle_linear(o, p, neox ? "mlp.dense_h_to_4h" : gpt ? "mlp.c_fc" : "mlp.up_proj", h, T, E, I, u);
    if (o->k.activation == DPO_SWIGLU) oracle_linear(o, p, gpt ? "mlp.c_fc2" : "mlp.gate_proj", h, T, E, I, g);
    for (i = 0; i < T * I; i++) {
        double x = u[i];
        if (o->k.activation == DPO_SWIGLU) u[i] = x * g[i] / (1 + exp(-g[i]));
        else if (o->k.activation == DPO_GELU) u[i] = 0.5 * x * (1 + erf(x / sqrt(2.0)));
        else u[i] = 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    }
    oracle_linear(o, p, neox ? "mlp.dense_4h_to_h" : gpt ? "mlp.c_proj" : "mlp.down_proj", u, T, I, E, y);
    free(u);
}
static void oracle_layer(const oracle *o, int layer, double *x, int64_t T) {
    int neox = o->k.family == DPO_GPT_NEOX, gpt = o->k.conv1d;
    int64_t E = o->k.hidden_size, HD = (int64_t)o->k.num_attention_heads * o->k.head_dim, i;
    double *b = (double *)malloc(sizeof *b * (size_t)(T * (3 * E + 4 * HD)));
    double *h = b, *a = h + T * E, *f = a + T * E, *q = f + T * E, *k = q + T * HD, *v = k + T * HD, *y = v + T * HD;
    char p[64];
    (void)snprintf(p, sizeof p, neox ? "gpt_neox.layers.%d." : gpt ? "transformer.h.%d." : "model.layers.%d.", layer);
    oracle_norm(o, p, gpt ? "ln_1" : "input_layernorm", x, T, h);
    oracle_qkv(o, p, h, T, q, k, v);
    oracle_attention(o, layer, T, q, k, v, y);
    oracle_linear(o, p, neox ? "attention.dense" : gpt ? "attn.c_proj" : "self_attn.o_proj", y, T, HD, E, a);
    if (!o->k.parallel_residual)
        for (i = 0; i < T * E; i++) x[i] += a[i];
    oracle_norm(o, p, gpt ? "ln_2" : "post_attention_layernorm", x, T, h);
    oracle_mlp(o, p, h, T, f);
    for (i = 0; i < T * E; i++) x[i] += f[i] + (o->k.parallel_residual ? a[i] : 0);
    free(b);
}
/* sum of log p(ids[t]) for t >= max(from, 1) */
static double oracle_logp(const oracle *o, const int32_t *ids, int64_t T, int64_t from) {
    int neox = o->k.family == DPO_GPT_NEOX, gpt = o->k.conv1d, layer;
    int64_t E = o->k.hidden_size, V = o->k.vocab_size, t, i, j;
    const char *embed = neox  ? "gpt_neox.embed_in.weight"
                        : gpt ? "transformer.wte.weight"
                              : "model.embed_tokens.weight";
    const double *wte = oracle_find(o, embed), *wpe = oracle_find(o, "transformer.wpe.weight");
    const double *head = o->k.tie_word_embeddings ? wte : oracle_find(o, neox ? "embed_out.weight" : "lm_head.weight");
    double *x = (double *)malloc(sizeof *x * (size_t)(2 * T * E + V)), *h = x + T * E, *z = h + T * E, sum = 0;
    for (t = 0; t < T; t++)
        for (i = 0; i < E; i++)
            x[t * E + i] = (wte[ids[t] * E + i] + (wpe && o->k.position == DPO_POSITION_LEARNED ? wpe[t * E + i] : 0)) *
                           o->k.embedding_scale;
    for (layer = 0; layer < o->k.num_hidden_layers; layer++) oracle_layer(o, layer, x, T);
    oracle_norm(o, "", neox ? "gpt_neox.final_layer_norm" : gpt ? "transformer.ln_f" : "model.norm", x, T, h);
    for (t = from > 1 ? from : 1; t < T; t++) {
        double top = -1e300, s = 0;
        for (j = 0; j < V; j++) {
            for (z[j] = 0, i = 0; i < E; i++) z[j] += h[(t - 1) * E + i] * head[j * E + i];
            z[j] *= o->k.output_scale;
            if (z[j] > top) top = z[j];
        }
        for (j = 0; j < V; j++) s += exp(z[j] - top);
        sum += z[ids[t]] - top - log(s);
    }
    free(x);
    return sum;
}
#endif
