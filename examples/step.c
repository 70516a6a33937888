/* step.c - level 2: a training loop of your own, with batches and a loss of your own.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/step.c -o step -lm -lpthread && ./step
 *
 * Task: multiple choice. A question is the root of a tree, its four choices are its children, so the question is computed
 * once. The model gives the log-probability s[k] of each choice; the loss is -log softmax(s)[gold], whose derivative with
 * respect to s[k] is softmax(s)[k] - [k = gold]. Chance is ln 4 = 1.3863. Run it where examples/tiny.json lies.
 * Last line: last ten steps: loss 0.0997, 154 of 160 right */
#include "../dpo.h"
#include "world.h"
#include <stdio.h>

enum { ITEMS = 16, STEPS = 150, ROWS = 4096 }; /* questions of a step; steps; room for the tokens of one batch */

static int32_t tokens[ROWS];
static dpo_segment segments[5 * ITEMS];
static dpo_target targets[ROWS];
static int gold[ITEMS];

/* Appends a segment of text; bytes are their own ids. */
static void put_segment(dpo_batch *b, int32_t parent, const char *text) {
    dpo_segment *s = &segments[b->n_segments++];
    s->parent = parent;
    s->first = (int32_t)b->n_rows;
    s->length = (int32_t)strlen(text);
    s->past = 0;
    while (*text) tokens[b->n_rows++] = (unsigned char)*text++;
}

/* Asks `row` for log p(token), to be added to `sequence`. */
static void put_target(dpo_batch *b, int32_t row, int32_t token, int32_t sequence) {
    dpo_target *t = &targets[b->n_targets++];
    t->row = row;
    t->token = token;
    t->sequence = sequence;
}

static dpo_batch questions(uint64_t step) {
    dpo_batch b;
    int i, k, j;
    memset(&b, 0, sizeof b);
    for (i = 0; i < ITEMS; i++) {
        world_choice_text item;
        int32_t root = (int32_t)b.n_segments;
        world_choice(1, step * ITEMS + (uint64_t)i, &item);
        gold[i] = item.gold;
        put_segment(&b, -1, item.context);
        for (k = 0; k < 4; k++) put_segment(&b, root, item.choice[k]);
        /* Targets come in row order: the question's last row predicts the first byte of all four choices ... */
        for (k = 0; k < 4; k++)
            put_target(&b, segments[root].first + segments[root].length - 1, (unsigned char)item.choice[k][0],
                       4 * i + k);
        for (k = 0; k < 4; k++) /* ... and each choice's rows its further ones. */
            for (j = 1; item.choice[k][j]; j++)
                put_target(&b, segments[root + 1 + k].first + j - 1, (unsigned char)item.choice[k][j], 4 * i + k);
    }
    b.tokens = tokens;
    b.segments = segments;
    b.targets = targets;
    b.n_sequences = 4 * ITEMS;
    return b;
}

/* Mean loss of the batch, its derivative, and how many questions are answered right. */
static double choice_loss(const double *s, double *ds, int *right) {
    double loss = 0;
    int i, k;
    for (*right = 0, i = 0; i < ITEMS; i++, s += 4, ds += 4) {
        double top = s[0], sum = 0;
        for (k = 1; k < 4; k++) top = s[k] > top ? s[k] : top;
        for (k = 0; k < 4; k++) sum += (double)dpo_math_exp((float)(s[k] - top)); /* the same bits everywhere */
        for (k = 0; k < 4; k++)
            ds[k] = ((double)dpo_math_exp((float)(s[k] - top)) / sum - (k == gold[i])) / (double)ITEMS;
        loss += (top - s[gold[i]] + (double)dpo_math_log((float)sum)) / (double)ITEMS;
        *right += s[gold[i]] == top;
    }
    return loss;
}

int main(void) {
    dpo_context *c = dpo_open(NULL);
    dpo_model_config config;
    dpo_model *m;
    dpo_trainer *t;
    dpo_train_config k = dpo_train_defaults(DPO_SFT); /* of it the optimizer's part is used, and the capacities */
    double loss = 0, recent = 0, s[4 * ITEMS], ds[4 * ITEMS];
    int step, right, right_recently = 0;
    if (dpo_model_config_read(c, "examples/tiny.json", &config)) return puts(dpo_error(c)), 1;
    config.num_hidden_layers = 2;
    m = dpo_model_create(c, &config, 1);
    k.optimizer = DPO_ADAMW;
    k.learning_rate = 2e-3;
    k.warmup_steps = 10;
    k.max_rows = k.max_targets = ROWS;
    k.max_segments = 5 * ITEMS;
    k.max_path = 128;
    t = dpo_trainer_create(m, NULL, &k);
    for (step = 0; step < STEPS && !dpo_status(c); step++) {
        dpo_batch b = questions((uint64_t)step);
        dpo_trainer_forward(t, &b, s);
        loss = choice_loss(s, ds, &right);
        dpo_trainer_backward(t, &b, ds);
        dpo_trainer_update(t, NULL);
        recent += loss / 10;
        right_recently += right;
        if (step % 10 < 9) continue;
        printf("step %3d  loss %.4f  right %3d of %d\n", step + 1, recent, right_recently, 10 * ITEMS);
        if (step + 1 < STEPS) recent = right_recently = 0;
    }
    if (dpo_status(c)) puts(dpo_error(c));
    else printf("last ten steps: loss %.4f, %d of %d right\n", recent, right_recently, 10 * ITEMS);
    step = dpo_status(c) != DPO_OK;
    dpo_close(c);
    return step;
}
