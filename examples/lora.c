/* lora.c - level 1: DPO through LoRA adapters. The weights stay, two thin matrices beside each are learnt; the reference
 * policy is the same model with the adapters switched off.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/lora.c -o lora -lm -lpthread && ./lora [OUTPUT_DIR]
 *
 * Run it where examples/tiny.json lies. OUTPUT_DIR gets a PEFT adapter. Last line: held-out pairs: rewards/accuracies 0.6250, margins 0.2227 */
#include "../dpo.h"
#include "world.h"
#include <stdio.h>

static dpo_data *world_pairs(dpo_context *c, int split, int rows) {
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    int i;
    for (i = 0; i < rows; i++) {
        world_pair_text pair;
        world_pair(1, split, (uint64_t)i, &pair);
        dpo_data_add(d, pair.prompt, strlen(pair.prompt), pair.chosen, strlen(pair.chosen), pair.rejected,
                     strlen(pair.rejected));
    }
    return d;
}

/* Two layers of tiny.json's shape but narrower: seconds instead of minutes. */
static dpo_model *small_model(dpo_context *c) {
    dpo_model_config config;
    if (dpo_model_config_read(c, "examples/tiny.json", &config)) return NULL;
    config.num_hidden_layers = 2;
    config.hidden_size = 64;
    config.num_attention_heads = config.num_key_value_heads = 2;
    config.intermediate_size = 256;
    return dpo_model_create(c, &config, 1);
}

int main(int argc, char **argv) {
    dpo_context *c = dpo_open(NULL);
    dpo_model *m = small_model(c), *merged;
    dpo_data *train = world_pairs(c, WORLD_TRAIN, 512), *heldout = world_pairs(c, WORLD_HELDOUT, 64);
    dpo_train_config t = dpo_train_defaults(DPO_SFT);
    dpo_lora_config lora = dpo_lora_defaults(DPO_GPT_NEOX);
    dpo_trainer *judge;
    dpo_metrics metrics;
    uint64_t before;
    int failed;
    memset(&metrics, 0, sizeof metrics);

    t.sft_reduction = DPO_TOKEN_MEAN; /* something to start from: SFT of all weights, as in sft.c */
    t.optimizer = DPO_ADAMW;
    t.learning_rate = 4e-3;
    t.warmup_steps = 10;
    t.schedule = DPO_LINEAR;
    t.batch_size = 16;
    dpo_train(m, train, NULL, &t);
    before = dpo_model_hash(m);

    lora.r = 8;
    lora.lora_alpha = 16;
    lora.target_modules = "query_key_value,dense,dense_h_to_4h,dense_4h_to_h";
    dpo_lora_attach(m, &lora, 1);
    t.objective = DPO_PREFERENCE;
    t.learning_rate = 4e-3; /* adapters take larger steps than weights */
    t.loss_options.beta = 0.1;
    dpo_train(m, train, NULL, &t);

    judge = dpo_trainer_create(m, train, &t);
    dpo_trainer_evaluate(judge, heldout, &metrics);
    if (argc > 1) dpo_lora_save(m, argv[1], NULL);
    merged = dpo_lora_merge(m); /* an ordinary model, for dpo_model_save or dpo_generate */
    failed = dpo_status(c) != DPO_OK;
    if (failed) puts(dpo_error(c));
    else {
        printf("the model's own weights have %s; the merged model's differ: %s\n",
               dpo_model_hash(m) == before ? "not moved" : "MOVED", dpo_model_hash(merged) != before ? "yes" : "NO");
        printf("held-out pairs: rewards/accuracies %.4f, margins %.4f\n", metrics.rewards_accuracies,
               metrics.rewards_margins);
    }
    dpo_close(c);
    return failed;
}
