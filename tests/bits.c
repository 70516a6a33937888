/* bits.c - small training runs of every kind, a hash of the weights each ends with: the same for every build, every set
 * of instructions, every number of threads. `make check` compares what many builds of it print.
 *
 *     bits SIMD [THREADS]     SIMD: a DPO_SIMD_* number; exit status 2 if this CPU has not got it */
#include "../dpo.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 20, EXAMPLES = 12, VOCABULARY = 61 };

static dpo_data *examples(dpo_context *c) {
    dpo_data *d = dpo_data_create(c, NULL, NULL);
    int32_t ids[64];
    int i, k;
    for (i = 0; i < EXAMPLES; i++) {
        for (k = 0; k < 64; k++) ids[k] = (i % 5 * 7 + k * k * 3 + k * (i / 5)) % VOCABULARY;
        dpo_data_add_tokens(d, ids, 2 + i % 7, ids + 20, 3 + i % 11, ids + 40, 2 + i * 5 % 17);
    }
    return d;
}
static dpo_model_config shape(void) {
    dpo_model_config k;
    memset(&k, 0, sizeof k);
    k.family = DPO_GPT_NEOX;
    k.vocab_size = VOCABULARY;
    k.hidden_size = 26;
    k.num_hidden_layers = k.num_attention_heads = k.num_key_value_heads = 2;
    k.head_dim = 13;
    k.intermediate_size = 41;
    k.max_position_embeddings = 64;
    k.norm_eps = 1e-5;
    k.rotary_dim = 6;
    k.rope_theta = 10000;
    k.parallel_residual = k.qkv_bias = k.attention_bias = k.mlp_bias = 1;
    k.embedding_scale = k.output_scale = k.width_scale = 1;
    k.attention_scale = 0.27735009811261457;
    k.initializer_range = 0.2;
    k.bos_token_id = k.eos_token_id = -1;
    return k;
}
/* kind: bit 0 preferences, bit 1 adapters, the rest a precision */
static void run(dpo_context *c, int kind) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_train_config t = dpo_train_defaults(kind & 1 ? DPO_PREFERENCE : DPO_SFT);
    dpo_model_config k = shape();
    dpo_model *made = dpo_model_create(c, &k, 1), *m;
    dpo_lora_config lora = dpo_lora_defaults(DPO_GPT_NEOX);
    how.precision = kind >> 2;
    how.frozen = 0;
    m = dpo_model_copy(made, &how);
    lora.r = 5;
    lora.target_modules = "query_key_value,dense,dense_4h_to_h";
    if (kind & 2) dpo_lora_attach(m, &lora, 3);
    t.batch_size = 5;
    t.max_steps = STEPS;
    t.learning_rate = 1e-3;
    t.warmup_steps = 0;
    t.optimizer = kind & 1 ? DPO_ADAMW : DPO_RMSPROP;
    t.micro_rows = kind & 2 ? 40 : 0;
    t.num_train_epochs = STEPS;
    t.recompute = kind & 1;
    dpo_train(m, examples(c), NULL, &t);
    if (kind & 2) m = dpo_lora_merge(m);
    printf("%d:%016llx%s ", kind, (unsigned long long)dpo_model_hash(m), dpo_error(c));
}
int main(int argc, char **argv) {
    dpo_desc desc;
    dpo_context *c;
    int kind;
    memset(&desc, 0, sizeof desc);
    desc.simd = argc > 1 ? atoi(argv[1]) : 0;
    desc.n_threads = argc > 2 ? atoi(argv[2]) : 2;
    c = dpo_open(&desc);
    if (!c) return 2;
    for (kind = 0; kind < 12; kind++) run(c, kind);
    printf("\n");
    dpo_close(c);
    return 0;
}
