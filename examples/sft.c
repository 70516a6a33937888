/* sft.c - level 1: supervised fine-tuning. A small random model learns how people in Puddle (world.h) answer.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/sft.c -o sft -lm -lpthread && ./sft [OUTPUT_DIR]
 *
 * Run it where examples/tiny.json lies. A file instead of the little world: dpo_data_read(data, "pairs.jsonl").
 * Last line: loss on held-out answers: 1.9944 nats a byte */
#include "../dpo.h"
#include "world.h"
#include <stdio.h>

/* The library never prints; what it has to say comes here: a line for each update (left out) and each evaluation. */
static void print_line(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING || strstr(line, "eval_")) printf("%s\n", line);
}

/* Rows of a prompt and the answer to learn. */
static dpo_data *world_answers(dpo_context *c, int split, int rows) {
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    int i;
    for (i = 0; i < rows; i++) {
        world_pair_text pair;
        world_pair(1, split, (uint64_t)i, &pair);
        dpo_data_add(d, pair.prompt, strlen(pair.prompt), pair.chosen, strlen(pair.chosen), NULL, 0);
    }
    return d;
}

int main(int argc, char **argv) {
    dpo_desc desc;
    dpo_context *c;
    dpo_model_config config;
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
    /* The million weights of tiny.json would take minutes; a narrower model of two layers shows as much. */
    if (dpo_model_config_read(c, "examples/tiny.json", &config)) return puts(dpo_error(c)), 1;
    config.num_hidden_layers = 2;
    config.hidden_size = 64;
    config.num_attention_heads = config.num_key_value_heads = 2;
    config.intermediate_size = 256;
    m = dpo_model_create(c, &config, 1);
    train = world_answers(c, WORLD_TRAIN, 1024);
    heldout = world_answers(c, WORLD_HELDOUT, 64);

    t.sft_reduction = DPO_TOKEN_MEAN;
    t.optimizer = DPO_ADAMW; /* the defaults are for large models: small ones take larger steps */
    t.learning_rate = 4e-3;
    t.warmup_steps = 10;
    t.schedule = DPO_LINEAR;
    t.batch_size = 16;
    t.num_train_epochs = 1;
    dpo_train(m, train, heldout, &t);
    if (argc > 1) dpo_model_save(m, argv[1], DPO_F32);

    judge = dpo_trainer_create(m, heldout, &t);
    dpo_trainer_evaluate(judge, heldout, &metrics);
    failed = dpo_status(c) != DPO_OK;
    if (failed) puts(dpo_error(c));
    else printf("loss on held-out answers: %.4f nats a byte\n", metrics.loss);
    dpo_close(c);
    return failed;
}
