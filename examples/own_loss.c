/* own_loss.c - level 2: a loss of your own for preference pairs, in five lines, beside the built-in one.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/own_loss.c -o own_loss -lm -lpthread && ./own_loss
 *
 * The loss is IPO with mean log-probabilities. With m = a/nc - b/nr - 1/(2 beta), where a and b are the log-ratios of the
 * chosen and the rejected answer to the reference's and nc, nr their lengths: L = m^2, dL/da = 2 m/nc, dL/db = -2 m/nr.
 * Two models that start alike are trained, one with each. Run it where examples/tiny.json lies.
 * Last line: last loss 0.5461, the built-in one's too */
#include "../dpo.h"
#include "world.h"
#include <stdio.h>

static double my_loss(const dpo_pair *p, const dpo_loss_options *o, double *d_chosen, double *d_rejected) {
    double nc = (double)p->chosen_tokens, nr = (double)p->rejected_tokens;
    double a = p->policy_chosen - p->reference_chosen, b = p->policy_rejected - p->reference_rejected;
    double m = a / nc - b / nr - 1 / (2 * o->beta);
    *d_chosen = 2 * m / nc;
    *d_rejected = -2 * m / nr;
    return m * m;
}

enum { STEPS = 24, PAIRS = 192 };

static dpo_data *world_pairs(dpo_context *c) {
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    int i;
    for (i = 0; i < PAIRS; i++) {
        world_pair_text pair;
        world_pair(1, WORLD_TRAIN, (uint64_t)i, &pair);
        dpo_data_add(d, pair.prompt, strlen(pair.prompt), pair.chosen, strlen(pair.chosen), pair.rejected,
                     strlen(pair.rejected));
    }
    return d;
}

static dpo_model *small_model(dpo_context *c) {
    dpo_model_config config;
    if (dpo_model_config_read(c, "examples/tiny.json", &config)) return NULL;
    config.num_hidden_layers = 2;
    config.hidden_size = 64;
    config.num_attention_heads = config.num_key_value_heads = 2;
    config.intermediate_size = 256;
    return dpo_model_create(c, &config, 1);
}

/* Trains m by the loss; loss[i] is the loss of batch i before its update. */
static void train(dpo_model *m, dpo_data *d, dpo_pair_loss f, double *loss) {
    dpo_train_config t = dpo_train_defaults(DPO_PREFERENCE);
    dpo_trainer *trainer;
    int i;
    t.loss = f;
    t.loss_options.beta = 0.5;
    t.optimizer = DPO_ADAMW;
    t.learning_rate = 1e-3;
    t.warmup_steps = 4;
    t.batch_size = 8;
    dpo_reference_compute(m, d); /* the same numbers both times, since both models start alike */
    trainer = dpo_trainer_create(m, d, &t);
    for (i = 0; i < STEPS; i++) {
        dpo_metrics metrics;
        memset(&metrics, 0, sizeof metrics);
        dpo_trainer_step(trainer, &metrics);
        loss[i] = metrics.loss;
    }
    dpo_trainer_free(trainer);
}

int main(void) {
    dpo_context *c = dpo_open(NULL);
    dpo_model *mine = small_model(c), *theirs = small_model(c);
    dpo_data *d = world_pairs(c);
    dpo_loss_options o = dpo_loss_defaults();
    dpo_pair pair;
    double my[STEPS], their[STEPS], x[4], worst = 0;
    int i, failed;

    /* One pair first: value and derivatives of both. */
    memset(&pair, 0, sizeof pair);
    pair.policy_chosen = -10;
    pair.policy_rejected = -12;
    pair.reference_chosen = -11;
    pair.reference_rejected = -11.5;
    pair.chosen_tokens = 5;
    pair.rejected_tokens = 6;
    x[0] = my_loss(&pair, &o, &x[1], &x[2]);
    printf("mine:     loss %.9f  d_chosen %.9f  d_rejected %.9f\n", x[0], x[1], x[2]);
    x[0] = dpo_loss_by_name("ipo")(&pair, &o, &x[1], &x[2]);
    printf("built in: loss %.9f  d_chosen %.9f  d_rejected %.9f\n", x[0], x[1], x[2]);

    train(mine, d, my_loss, my);
    train(theirs, d, dpo_loss_by_name("ipo"), their);
    for (i = 0; i < STEPS; i++) {
        double difference = my[i] > their[i] ? my[i] - their[i] : their[i] - my[i];
        worst = difference > worst ? difference : worst;
        if (i % 4 == 0) printf("update %2d  my loss %.6f  built in %.6f\n", i, my[i], their[i]);
    }
    failed = dpo_status(c) != DPO_OK;
    if (failed) puts(dpo_error(c));
    else
        printf("last loss %.4f, %s\n", my[STEPS - 1],
               worst < 1e-6 ? "the built-in one's too" : "THE BUILT-IN ONE'S DIFFERS");
    dpo_close(c);
    return failed || worst >= 1e-6;
}
