/* tiny.h - one tiny model per family, with weights that all matter; tiny data; batches made by hand. */
#ifndef TINY_H
#define TINY_H

#define TINY_VOCAB    61
#define TINY_FAMILIES 6 /* GPT-NeoX twice: parallel and sequential */

static const char *const tiny_names[TINY_FAMILIES] = {"neox", "btlm", "gpt2", "llama", "qwen2", "neox-seq"};
static const char *const tiny_configs[TINY_FAMILIES] = {
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":61,\"hidden_size\":24,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":3,\"intermediate_size\":40,\"max_position_embeddings\":64,\"rotary_pct\":0.5,"
    "\"rotary_emb_base\":10000,\"hidden_act\":\"gelu\",\"use_parallel_residual\":true,"
    "\"layer_norm_eps\":1e-5,\"tie_word_embeddings\":false,\"bos_token_id\":0,\"eos_token_id\":0}",
    "{\"model_type\":\"btlm\",\"vocab_size\":61,\"n_embd\":24,\"n_layer\":2,\"n_head\":3,\"n_inner\":34,"
    "\"n_positions\":64,\"activation_function\":\"swiglu\",\"position_embedding_type\":\"alibi\","
    "\"layer_norm_epsilon\":1e-5,\"mup_width_scale\":0.25,\"mup_embeddings_scale\":4.0,"
    "\"mup_output_alpha\":2.2,\"mup_scale_qk_dot_by_d\":true,\"tie_word_embeddings\":true}",
    "{\"model_type\":\"gpt2\",\"vocab_size\":61,\"n_embd\":24,\"n_layer\":2,\"n_head\":4,\"n_positions\":64,"
    "\"n_inner\":null,\"activation_function\":\"gelu_new\",\"layer_norm_epsilon\":1e-5}",
    "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":24,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":37,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":2}",
    "{\"model_type\":\"qwen2\",\"vocab_size\":61,\"hidden_size\":24,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":1,\"intermediate_size\":33,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"hidden_act\":\"silu\","
    "\"tie_word_embeddings\":true,\"bos_token_id\":1,\"eos_token_id\":2}",
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":61,\"hidden_size\":20,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":2,\"intermediate_size\":28,\"max_position_embeddings\":64,\"rotary_pct\":0.4,"
    "\"hidden_act\":\"gelu\",\"use_parallel_residual\":false,\"layer_norm_eps\":1e-5}"};
static const char *const tiny_targets[TINY_FAMILIES] = {"query_key_value,dense,dense_h_to_4h",
                                                        "c_attn,c_proj,c_fc2",
                                                        "c_attn,c_fc,c_proj",
                                                        "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
                                                        "q_proj,v_proj,down_proj",
                                                        "query_key_value,dense_4h_to_h"};

static int64_t tiny_tensors(dpo_model *m, int lora, dpo_tensor **out) {
    int64_t n = lora ? dpo_lora_tensors(m, NULL, 0) : dpo_model_tensors(m, NULL, 0);
    *out = SCRATCH(dpo_tensor, n > 0 ? n : 1);
    return lora ? dpo_lora_tensors(m, *out, n) : dpo_model_tensors(m, *out, n);
}
static int64_t tensor_count(const dpo_tensor *t) { return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]; }
/* Activations and logits of order one, so that every weight matters. */
static void tiny_randomize(dpo_model *m, uint64_t seed) {
    const dpo_model_config *k = dpo_model_config_of(m);
    dpo_tensor *t;
    int64_t n = tiny_tensors(m, 0, &t), i, e;
    double d = sqrt((double)k->hidden_size), scale = k->embedding_scale, out = k->output_scale;
    uint64_t keep = rng_state;
    rng_state = seed;
    for (i = 0; i < n; i++) {
        float *x = (float *)t[i].data;
        int norm = strstr(t[i].name, "norm") != NULL || strstr(t[i].name, "ln_") != NULL;
        int bias = strstr(t[i].name, ".bias") != NULL, last = strstr(t[i].name, ".final_") != NULL ||
                                                              strstr(t[i].name, "ln_f") != NULL ||
                                                              !strcmp(t[i].name, "model.norm.weight");
        double s = 1.3 / sqrt((double)t[i].shape[k->conv1d ? 0 : 1]), shift = 0;
        if (strstr(t[i].name, "wte") || strstr(t[i].name, "embed_tokens") || strstr(t[i].name, "embed_in"))
            s = k->tie_word_embeddings ? 0.4 / scale : 0.7;
        else if (strstr(t[i].name, "wpe")) s = 0.3;
        else if (bias) s = 0.1;
        else if (norm) {
            s = 0.15;
            shift = 1.0;
            if (last && k->tie_word_embeddings) shift = 1.8 / (d * (0.4 / scale) * out);
        }
        for (e = 0; e < tensor_count(&t[i]); e++) x[e] = (float)(shift + s * rng_normal());
    }
    rng_state = keep;
}
/* A model made in memory: needs a context with a memfs. */
static dpo_model *tiny_model(dpo_context *c, memfs *fs, int family, uint64_t seed) {
    char path[64];
    dpo_model *m;
    (void)snprintf(path, sizeof path, "%s.json", tiny_names[family]);
    memfs_text(fs, path, tiny_configs[family]);
    m = dpo_model_create_from(c, path, seed);
    if (!m) {
        CHECK_OK(c, -1);
        return NULL;
    }
    tiny_randomize(m, seed);
    return m;
}
static int tiny_lora(dpo_context *c, dpo_model *m, int family, int r, int live, uint64_t seed) {
    dpo_lora_config l = dpo_lora_defaults(dpo_model_config_of(m)->family);
    dpo_tensor *t;
    int64_t n, i, e;
    uint64_t keep = rng_state;
    l.r = r;
    l.lora_alpha = 2.0 * r;
    l.target_modules = tiny_targets[family];
    if (!CHECK_OK(c, dpo_lora_attach(m, &l, seed))) return 0;
    n = tiny_tensors(m, 1, &t);
    rng_state = seed;
    for (i = 0; live && i < n; i++)
        if (strstr(t[i].name, "lora_B"))
            for (e = 0; e < tensor_count(&t[i]); e++) ((float *)t[i].data)[e] = (float)(0.1 * rng_normal());
    rng_state = keep;
    return 1;
}

/* Pairs with all the lengths that go wrong: 1, odd, longer than 16, the same prompt twice. */
#define TINY_PAIRS 8
static const int tiny_lengths[TINY_PAIRS][3] = {{6, 8, 10}, {4, 12, 1},  {1, 3, 4},  {5, 7, 11},
                                                {3, 6, 6},  {17, 5, 19}, {4, 12, 1}, {2, 1, 2}};
static void tiny_ids(int32_t *ids, int n, uint64_t seed, int vocab) {
    uint64_t keep = rng_state;
    int i;
    rng_state = seed;
    for (i = 0; i < n; i++) ids[i] = (int32_t)rng_below(vocab);
    rng_state = keep;
}
/* pairs 0: SFT rows (prompt and chosen); 1: pairs; 2: pairs with the answers swapped */
static dpo_data *tiny_data(dpo_context *c, int pairs, int first, int count) {
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    int32_t ids[3][64];
    int i, k;
    if (!d) {
        CHECK_OK(c, -1);
        return NULL;
    }
    for (i = first; i < first + count; i++) {
        const int *n = tiny_lengths[i % TINY_PAIRS];
        for (k = 0; k < 3; k++)
            tiny_ids(ids[k], n[k], (uint64_t)(100 * (i % TINY_PAIRS == 6 && k == 0 ? 1 : i) + k), TINY_VOCAB);
        if (n[1] > 2 && n[2] > 2) ids[2][0] = ids[1][0]; /* answers that begin alike */
        CHECK_OK(c, dpo_data_add_tokens(d, ids[0], n[0], ids[pairs == 2 ? 2 : 1], n[pairs == 2 ? 2 : 1],
                                        pairs ? ids[pairs == 2 ? 1 : 2] : NULL, pairs ? n[pairs == 2 ? 1 : 2] : 0));
    }
    CHECK(dpo_data_count(d) == count);
    return d;
}

/* A batch that owns its arrays (scratch memory). */
typedef struct forest {
    dpo_batch b;
    int32_t tokens[512];
    dpo_segment segments[64];
    dpo_target targets[512];
} forest;

/* Adds a segment; the index. Its tokens from the second on, and the first where it has a parent, become
   targets of `sequence` (not if it is -1). A root's first token is never predicted. */
static int forest_add(forest *f, int parent, const int32_t *ids, int n, int sequence) {
    dpo_segment *s = &f->segments[f->b.n_segments];
    int i;
    s->parent = parent;
    s->first = (int32_t)f->b.n_rows;
    s->length = n;
    s->past = 0;
    f->b.tokens = f->tokens;
    f->b.segments = f->segments;
    f->b.targets = f->targets;
    for (i = 0; i < n; i++) f->tokens[f->b.n_rows + i] = ids[i];
    for (i = parent < 0 ? 1 : 0; i < n && sequence >= 0; i++) {
        const dpo_segment *p = parent < 0 ? NULL : &f->segments[parent];
        dpo_target *t = &f->targets[f->b.n_targets++];
        t->row = i ? s->first + i - 1 : p->first + p->length - 1;
        t->token = ids[i];
        t->sequence = sequence;
        if (f->b.n_sequences <= sequence) f->b.n_sequences = sequence + 1;
    }
    f->b.n_rows += n;
    return (int)f->b.n_segments++;
}
/* Targets in row order, as the header asks: a prompt's last row serves several children. */
static void forest_sort(forest *f) {
    int64_t i, j;
    for (i = 1; i < f->b.n_targets; i++) {
        dpo_target t = f->targets[i];
        for (j = i; j > 0 && f->targets[j - 1].row > t.row; j--) f->targets[j] = f->targets[j - 1];
        f->targets[j] = t;
    }
}
/* One sequence: prompt (no targets) and response as one segment. */
static int forest_sequence(forest *f, const int32_t *prompt, int np, const int32_t *answer, int na, int sequence) {
    int32_t ids[128];
    int64_t at = f->b.n_targets;
    int s, i;
    for (i = 0; i < np; i++) ids[i] = prompt[i];
    for (i = 0; i < na; i++) ids[np + i] = answer[i];
    s = forest_add(f, -1, ids, np + na, sequence);
    if (sequence >= 0 && np > 1) { /* drop the prompt's own targets */
        for (i = 0; i < na; i++) f->targets[at + i] = f->targets[at + i + np - 1];
        f->b.n_targets = at + na;
    }
    return s;
}

/* What a training run is, and the bits it ends with. */
typedef struct tiny_run {
    int family, pairs, lora; /* pairs 0: SFT */
    int threads, simd, recompute, optimizer, steps, batch, rows, sft_reduction, precision, naive;
    int64_t micro;
    uint64_t memory;
    const char *loss;
} tiny_run;

static dpo_train_config tiny_config(const tiny_run *r) {
    dpo_train_config t = dpo_train_defaults(r->pairs ? DPO_PREFERENCE : DPO_SFT);
    t.optimizer = r->optimizer;
    t.learning_rate = r->optimizer == DPO_ADAMW ? 1e-2 : 1e-3;
    t.warmup_steps = 1;
    t.batch_size = r->batch ? r->batch : TINY_PAIRS;
    t.max_steps = r->steps ? r->steps : 3;
    t.num_train_epochs = 10;
    t.max_grad_norm = 1.0;
    t.weight_decay = 0.01;
    t.seed = 7;
    t.shuffle = 1;
    t.micro_rows = r->micro;
    t.recompute = r->recompute;
    t.naive = r->naive;
    t.memory = r->memory;
    t.sft_reduction = r->sft_reduction;
    if (r->loss) t.loss = dpo_loss_by_name(r->loss);
    return t;
}
static uint64_t tiny_hash(dpo_model *m, uint64_t h) {
    dpo_tensor *t;
    int64_t n, i;
    int lora;
    for (lora = 0; lora < 2; lora++) {
        n = tiny_tensors(m, lora, &t);
        for (i = 0; i < n; i++) h = hash_bytes(h, t[i].data, (size_t)tensor_count(&t[i]) * 4);
    }
    return h;
}
/* 0 when the context could not be opened (a SIMD path this machine lacks). */
static uint64_t tiny_train(const tiny_run *r) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, r->threads ? r->threads : 1, r->simd);
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *t = NULL;
    uint64_t h = 0xcbf29ce484222325u;
    dpo_train_config k = tiny_config(r);
    if (!c) {
        memfs_free(fs);
        return 0;
    }
    m = tiny_model(c, fs, r->family, 5);
    if (m) m->precision = r->precision;
    if (m && r->lora) tiny_lora(c, m, r->family, 3, 1, 9);
    d = tiny_data(c, r->pairs, 0, r->rows ? r->rows : TINY_PAIRS);
    if (m && d && (!r->pairs || CHECK_OK(c, dpo_reference_compute(m, d)))) t = dpo_trainer_create(m, d, &k);
    if (CHECK(t != NULL)) {
        while (!dpo_trainer_done(t)) {
            dpo_metrics s;
            memset(&s, 0, sizeof s);
            if (!CHECK_OK(c, dpo_trainer_step(t, &s))) break;
            h = hash_bytes(h, &s.loss, sizeof s.loss);
            h = hash_bytes(h, &s.grad_norm, sizeof s.grad_norm);
            h = hash_bytes(h, &s.rewards_margins, sizeof s.rewards_margins);
        }
        h = tiny_hash(m, h);
    } else CHECK_OK(c, -1);
    dpo_close(c);
    memfs_free(fs);
    return h ? h : 1;
}
#endif
