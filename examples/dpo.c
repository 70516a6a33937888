/* dpo.c - level 1: SFT, then Direct Preference Optimization, of a small model on the little world (world.h).
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/dpo.c -o dpo -lm -lpthread && ./dpo [OUTPUT_DIR]
 *
 * Run it where examples/tiny.json lies. A file instead of the little world: dpo_data_read(data, "pairs.jsonl").
 * Last line: held-out pairs: rewards/accuracies 0.6094, margins 0.3009 */
#include "../dpo.h"
#include "world.h"
#include <stdio.h>

/* The library never prints; what it has to say comes here: a line for each update (left out) and each evaluation. */
static void print_line(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING || strstr(line, "eval_")) printf("%s\n", line);
}

/* Rows of a prompt, a better and a worse answer; SFT looks at the better one alone. */
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
    dpo_desc desc;
    dpo_context *c;
    dpo_model *m;
    dpo_data *train, *heldout;
    dpo_train_config t = dpo_train_defaults(DPO_SFT);
    dpo_trainer *judge;
    dpo_metrics metrics;
    int failed;
    memset(&metrics, 0, sizeof metrics);
    memset(&desc, 0, sizeof desc);
    desc.log = print_line;
    c = dpo_open(&desc);
    m = small_model(c);
    train = world_pairs(c, WORLD_TRAIN, 768);
    heldout = world_pairs(c, WORLD_HELDOUT, 64);

    /* First SFT: the policy that DPO starts from, and which it is compared with from then on. */
    t.sft_reduction = DPO_TOKEN_MEAN;
    t.optimizer = DPO_ADAMW; /* the defaults are for large models: small ones take larger steps */
    t.learning_rate = 4e-3;
    t.warmup_steps = 10;
    t.schedule = DPO_LINEAR;
    t.batch_size = 16;
    dpo_train(m, train, heldout, &t);

    /* Then DPO. dpo_train computes the reference's log-probabilities before any weight moves. */
    t.objective = DPO_PREFERENCE;
    t.loss = dpo_loss_by_name("sigmoid");
    t.loss_options.beta = 0.1;
    t.learning_rate = 1e-3;
    dpo_train(m, train, heldout, &t);
    if (argc > 1) dpo_model_save(m, argv[1], DPO_F32);

    judge = dpo_trainer_create(m, train, &t);
    dpo_trainer_evaluate(judge, heldout, &metrics);
    failed = dpo_status(c) != DPO_OK;
    if (failed) puts(dpo_error(c));
    else
        printf("held-out pairs: rewards/accuracies %.4f, margins %.4f\n", metrics.rewards_accuracies,
               metrics.rewards_margins);
    dpo_close(c);
    return failed;
}
