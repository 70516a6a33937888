/* golden.c - runs the cases of an independent float64 implementation (PyTorch) and compares every tensor.

   usage: golden [--precision fp32|mixed|bf16] CASE_DIR...
   A case directory holds a model (and ref/, adapter/), case.json (tasks, inputs, tolerances) and
   expected.safetensors. A tensor that this program cannot make counts as a failure; ".f32." ones, the
   twins of float64 tensors, are left out. Last line: N passed, N failed, N skipped (cases).
   With GOLDEN_ERRORS in the environment it prints each tensor's relative error.
   Exit status 0 if none failed and at least one ran. Links with the implementation (build/dpo.o). */
#include "../dpo.h"

#include "check.h"
#include "mini_json.h"

#define MOST_VALUES 4096
#define MOST_IDS    4096

typedef struct value { /* what this program has computed */
    char *name;
    double *x;
    int64_t n;
} value;

typedef struct golden {
    dpo_context *c;
    const char *dir;
    const char *json; /* case.json */
    const char *inputs;
    double beta;
    int precision; /* DPO_PRECISION_* */
    value *values;
    int64_t n_values;
    int failures, lines, compared;
} golden;

static void complain(golden *g, const char *what, const char *why) {
    g->failures++;
    if (g->lines++ < 40) printf("  FAIL %s: %s: %s\n", g->dir, what, why);
}
static dpo_model *load(golden *g, const char *dir) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    how.precision = g->precision;
    how.frozen = 0;
    return dpo_model_load_as(g->c, dir, &how);
}
/* Says so where a call failed; 1 if it did not. */
static int went(golden *g, int ok, const char *what) {
    if (ok && !dpo_status(g->c)) return 1;
    complain(g, what, dpo_status(g->c) ? dpo_error(g->c) : "failed without an error sentence");
    dpo_clear(g->c); /* the other tasks are to run */
    return 0;
}

/* ------------------------------------------------------------------ values by name */
static void give(golden *g, const char *prefix, const char *name, const double *x, int64_t n) {
    value *v = &g->values[g->n_values];
    size_t a = strlen(prefix), b = strlen(name);
    if (g->n_values == MOST_VALUES) return;
    g->n_values++;
    v->name = SCRATCH(char, a + b + 1);
    memcpy(v->name, prefix, a);
    memcpy(v->name + a, name, b);
    v->x = SCRATCH(double, n);
    v->n = n;
    memcpy(v->x, x, (size_t)n * sizeof *x);
}
static void give_floats(golden *g, const char *prefix, const char *name, const float *x, int64_t n) {
    double *d = SCRATCH(double, n);
    int64_t i;
    for (i = 0; i < n; i++) d[i] = (double)x[i];
    give(g, prefix, name, d, n);
}
static int64_t tensor_size(const dpo_tensor *t) { return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]; }

/* The oracle's names always have the prefix that original GPT-2 files leave out. */
static void give_tensor(golden *g, const char *prefix, const dpo_tensor *t, int gpt2) {
    char name[256];
    int bare = gpt2 && strncmp(t->name, "transformer.", 12) != 0 && strncmp(t->name, "lm_head.", 8) != 0 &&
               strncmp(t->name, "base_model.", 11) != 0;
    (void)snprintf(name, sizeof name, "%s%s", bare ? "transformer." : "", t->name);
    if (t->dtype == DPO_BF16) {
        float *x = SCRATCH(float, tensor_size(t));
        int64_t i;
        for (i = 0; i < tensor_size(t); i++) x[i] = dpo_f32_from_bf16(((const uint16_t *)t->data)[i]);
        give_floats(g, prefix, name, x, tensor_size(t));
    } else give_floats(g, prefix, name, (const float *)t->data, tensor_size(t));
}
static int is_gpt2(dpo_model *m) {
    int f = dpo_model_config_of(m)->family;
    return f == DPO_GPT2 || f == DPO_BTLM;
}
static void give_gradients(golden *g, const char *prefix, dpo_trainer *t, dpo_model *m) {
    int64_t i, n = dpo_trainer_gradients(t, NULL, 0);
    dpo_tensor *v = SCRATCH(dpo_tensor, n > 0 ? n : 1);
    n = dpo_trainer_gradients(t, v, n);
    if (n < 1) complain(g, prefix, "the trainer gives no gradients");
    for (i = 0; i < n; i++) give_tensor(g, prefix, &v[i], is_gpt2(m));
}

/* ------------------------------------------------------------------ case.json */
static const char *path_of(golden *g, const char *name) {
    char *p = SCRATCH(char, strlen(g->dir) + strlen(name) + 2);
    (void)sprintf(p, "%s/%s", g->dir, name);
    return p;
}
static int file_exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) (void)fclose(f);
    return f != NULL;
}
/* A whole file with a zero behind it, or NULL. */
static char *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    char *p = NULL;
    long n;
    *size = 0;
    if (!f) return NULL;
    if (!fseek(f, 0, SEEK_END) && (n = ftell(f)) >= 0 && !fseek(f, 0, SEEK_SET)) {
        p = SCRATCH(char, n + 1);
        *size = fread(p, 1, (size_t)n, f);
    }
    (void)fclose(f);
    return p;
}
static int32_t *ids_of(const char *array, int64_t *n) {
    int64_t i;
    int32_t *ids;
    const char *v;
    *n = json_count(array);
    ids = SCRATCH(int32_t, *n + 1);
    for (i = 0; (v = json_element(&array)) != NULL; i++) ids[i] = (int32_t)json_number(v, -1);
    return ids;
}
static int has_task(golden *g, const char *task) {
    const char *list = json_find(g->json, "tasks"), *v;
    while ((v = json_element(&list)) != NULL)
        if (json_is(v, task)) return 1;
    return 0;
}

/* ------------------------------------------------------------------ inputs */
static dpo_data *sft_data(golden *g) {
    dpo_data *d = dpo_data_create(g->c, dpo_tokenizer_bytes(g->c), NULL);
    const char *seqs = json_find(g->inputs, "input_ids");
    int64_t i, n, np, count = json_count(seqs);
    int32_t *prompt = ids_of(json_find(g->inputs, "prompt_lens"), &np);
    for (i = 0; d && i < count; i++) {
        int32_t *ids = ids_of(json_at(seqs, i), &n);
        if (!went(g, !dpo_data_add_tokens(d, ids, prompt[i], ids + prompt[i], n - prompt[i], NULL, 0),
                  "dpo_data_add_tokens"))
            return NULL;
    }
    return went(g, d != NULL, "dpo_data_create") ? d : NULL;
}
static dpo_data *pair_data(golden *g) {
    dpo_data *d = dpo_data_create(g->c, dpo_tokenizer_bytes(g->c), NULL);
    const char *pairs = json_find(g->inputs, "pairs"), *p;
    int64_t n[3];
    while (d && (p = json_element(&pairs)) != NULL) {
        int32_t *a = ids_of(json_find(p, "prompt"), &n[0]), *b = ids_of(json_find(p, "chosen"), &n[1]);
        int32_t *c = ids_of(json_find(p, "rejected"), &n[2]);
        if (!went(g, !dpo_data_add_tokens(d, a, n[0], b, n[1], c, n[2]), "dpo_data_add_tokens")) return NULL;
    }
    return went(g, d != NULL, "dpo_data_create") ? d : NULL;
}
static dpo_train_config settings(golden *g, int objective) {
    dpo_train_config t = dpo_train_defaults(objective);
    t.batch_size = 4;
    t.max_steps = 20;
    t.num_train_epochs = 100;
    t.optimizer = DPO_ADAMW;
    t.schedule = DPO_CONSTANT;
    t.sft_reduction = DPO_SEQUENCE_SUM;
    t.shuffle = 0;
    t.loss_options.beta = g->beta;
    t.max_rows = t.max_targets = t.max_path = MOST_IDS;
    t.max_segments = 256;
    return t;
}

/* ------------------------------------------------------------------ tasks */
static void run_forward(golden *g, dpo_model *m) {
    const char *seqs = json_find(g->inputs, "input_ids"), *seq;
    int64_t i, r, n, vocab = dpo_model_config_of(m)->vocab_size;
    for (i = 0; (seq = json_element(&seqs)) != NULL; i++) {
        int32_t *ids = ids_of(seq, &n);
        dpo_target *targets = SCRATCH(dpo_target, n);
        dpo_segment s = {-1, 0, 0, 0};
        dpo_batch b;
        char name[32];
        float *z = SCRATCH(float, n *vocab);
        memset(&b, 0, sizeof b);
        s.length = (int32_t)n;
        for (r = 0; r < n; r++) targets[r].row = (int32_t)r;
        b.tokens = ids;
        b.n_rows = b.n_targets = n;
        b.segments = &s;
        b.n_segments = b.n_sequences = 1;
        b.targets = targets;
        if (!went(g, !dpo_model_logits(m, &b, z), "dpo_model_logits")) return;
        (void)snprintf(name, sizeof name, "%ld", (long)i);
        give_floats(g, "logits.", name, z, n * vocab);
    }
}

/* The batch made by hand, losses from the log-probs; and the same through the trainer's own evaluation. */
static void run_sft(golden *g, dpo_model *m) {
    dpo_data *d = sft_data(g);
    dpo_train_config k = settings(g, DPO_SFT);
    dpo_trainer *t;
    dpo_batch b;
    dpo_metrics e;
    int64_t n, i, *items;
    double *logps, *mean, *weights;
    if (!d) return;
    n = dpo_data_count(d);
    items = SCRATCH(int64_t, n);
    logps = SCRATCH(double, n);
    mean = SCRATCH(double, n);
    weights = SCRATCH(double, n);
    for (i = 0; i < n; i++) items[i] = i;
    t = dpo_trainer_create(m, d, &k);
    if (!went(g, t != NULL, "dpo_trainer_create") ||
        !went(g, !dpo_trainer_batch(t, items, n, &b), "dpo_trainer_batch") ||
        !went(g, !dpo_trainer_forward(t, &b, logps), "dpo_trainer_forward"))
        return;
    for (i = 0; i < n; i++) {
        int64_t chosen = 0;
        (void)dpo_data_item(d, i, NULL, NULL, NULL, &chosen, NULL, NULL);
        logps[i] = -logps[i];
        mean[i] = logps[i] / (double)chosen;
        weights[i] = -1.0 / (double)n;
    }
    give(g, "sft.", "nll_sum", logps, n);
    give(g, "sft.", "nll_mean", mean, n);
    if (!went(g, !dpo_trainer_batch(t, items, n, &b), "dpo_trainer_batch") ||
        !went(g, !dpo_trainer_backward(t, &b, weights), "dpo_trainer_backward"))
        return;
    give_gradients(g, "sft.grad.", t, m);
    if (went(g, !dpo_trainer_evaluate(t, d, &e), "dpo_trainer_evaluate")) give(g, "sft.", "loss", &e.loss, 1);
    dpo_trainer_free(t);
    k.sft_reduction = DPO_TOKEN_MEAN;
    t = dpo_trainer_create(m, d, &k);
    if (went(g, t && !dpo_trainer_evaluate(t, d, &e), "dpo_trainer_evaluate"))
        give(g, "sft.", "loss_token_mean", &e.loss, 1);
    dpo_trainer_free(t);
    dpo_data_free(d);
}

/* Every loss the case knows, on the log-probs of policy and reference. */
static void give_losses(golden *g, const char *prefix, const double *logps, const double *ref, dpo_data *d) {
    static const char *const names[5][2] = {{"sigmoid", "sigmoid"},
                                            {"sigmoid_ls0.1", "sigmoid"},
                                            {"ipo", "ipo_sum"},
                                            {"hinge", "hinge"},
                                            {"sigmoid_reffree", "sigmoid"}};
    int64_t i, n = dpo_data_count(d);
    double *loss = SCRATCH(double, n), *slope = SCRATCH(double, n);
    char name[128];
    int l;
    for (l = 0; l < 5; l++) {
        dpo_pair_loss f = dpo_loss_by_name(names[l][1]);
        dpo_loss_options o = dpo_loss_defaults();
        o.beta = g->beta;
        o.label_smoothing = l == 1 ? 0.1 : 0.0;
        o.reference_free = l == 4;
        if (!f) {
            complain(g, names[l][1], "no such loss");
            continue;
        }
        for (i = 0; i < n; i++) {
            dpo_pair p;
            double rejected;
            memset(&p, 0, sizeof p);
            p.policy_chosen = logps[2 * i];
            p.policy_rejected = logps[2 * i + 1];
            p.reference_chosen = l == 4 ? 0.0 : ref[2 * i];
            p.reference_rejected = l == 4 ? 0.0 : ref[2 * i + 1];
            (void)dpo_data_item(d, i, NULL, NULL, NULL, &p.chosen_tokens, NULL, &p.rejected_tokens);
            loss[i] = f(&p, &o, &slope[i], &rejected);
            if (rejected != -slope[i]) complain(g, names[l][0], "the two derivatives are not opposite");
            slope[i] /= (double)n;
        }
        (void)snprintf(name, sizeof name, "losses.%s", names[l][0]);
        give(g, prefix, name, loss, n);
        (void)snprintf(name, sizeof name, "dlogp_chosen.%s", names[l][0]);
        give(g, prefix, name, slope, n);
    }
}
static void give_rewards(golden *g, const char *prefix, const double *logps, const double *ref, int64_t n) {
    static const char *const names[8] = {
        "policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps",
        "rewards_chosen",      "rewards_rejected",      "accuracies",       "margins"};
    double *x[8];
    int64_t i;
    int k;
    for (k = 0; k < 8; k++) x[k] = SCRATCH(double, n);
    for (i = 0; i < n; i++) {
        for (k = 0; k < 2; k++) {
            x[k][i] = logps[2 * i + k];
            x[2 + k][i] = ref[2 * i + k];
            x[4 + k][i] = g->beta * (logps[2 * i + k] - ref[2 * i + k]);
        }
        x[6][i] = x[4][i] > x[5][i];
        x[7][i] = x[4][i] - x[5][i];
    }
    for (k = 0; k < 8; k++) give(g, prefix, names[k], x[k], n);
}
static void run_dpo(golden *g, dpo_model *m, dpo_model *ref, const char *prefix, const char *gradient) {
    dpo_data *d = pair_data(g);
    dpo_train_config k = settings(g, DPO_PREFERENCE);
    dpo_trainer *t;
    dpo_batch b;
    dpo_metrics e;
    int64_t n, i, *items;
    double *logps, *weights;
    const double *r;
    if (!d || !went(g, !dpo_reference_compute(ref, d), "dpo_reference_compute")) return;
    n = dpo_data_count(d);
    items = SCRATCH(int64_t, n);
    logps = SCRATCH(double, 2 * n);
    weights = SCRATCH(double, 2 * n);
    for (i = 0; i < n; i++) items[i] = i;
    t = dpo_trainer_create(m, d, &k);
    r = dpo_reference_of(d);
    if (!went(g, t != NULL, "dpo_trainer_create") || !went(g, r != NULL, "dpo_reference_of") ||
        !went(g, !dpo_trainer_batch(t, items, n, &b), "dpo_trainer_batch") ||
        !went(g, !dpo_trainer_forward(t, &b, logps), "dpo_trainer_forward"))
        return;
    give_rewards(g, prefix, logps, r, n);
    give_losses(g, prefix, logps, r, d);
    for (i = 0; i < n; i++) {
        dpo_pair p;
        memset(&p, 0, sizeof p);
        p.policy_chosen = logps[2 * i];
        p.policy_rejected = logps[2 * i + 1];
        p.reference_chosen = r[2 * i];
        p.reference_rejected = r[2 * i + 1];
        p.chosen_tokens = p.rejected_tokens = 1;
        (void)dpo_loss_by_name("sigmoid")(&p, &k.loss_options, &weights[2 * i], &weights[2 * i + 1]);
        weights[2 * i] /= (double)n;
        weights[2 * i + 1] /= (double)n;
    }
    if (!went(g, !dpo_trainer_backward(t, &b, weights), "dpo_trainer_backward")) return;
    give_gradients(g, gradient, t, m);
    if (went(g, !dpo_trainer_evaluate(t, d, &e), "dpo_trainer_evaluate")) {
        double share = 0;
        give(g, prefix, "loss", &e.loss, 1);
        for (i = 0; i < n; i++) share += (logps[2 * i] - r[2 * i] > logps[2 * i + 1] - r[2 * i + 1]) / (double)n;
        if (share != e.rewards_accuracies) complain(g, prefix, "rewards_accuracies of the evaluation is another");
    }
    dpo_trainer_free(t);
    dpo_data_free(d);
}

static void run_gen(golden *g, dpo_model *m) {
    dpo_generate_config k = dpo_generate_defaults();
    int64_t n, made = 0, i, wanted = (int64_t)json_number(json_find(json_find(g->json, "gen"), "new_tokens"), 32);
    const int32_t *prompt = ids_of(json_find(g->inputs, "gen_prompt"), &n);
    int32_t *out = SCRATCH(int32_t, wanted);
    double *x = SCRATCH(double, wanted);
    k.max_new_tokens = wanted;
    k.temperature = 0;
    k.eos = -1;
    if (!went(g, !dpo_generate(m, &prompt, &n, 1, &k, out, &made), "dpo_generate")) return;
    for (i = 0; i < made; i++) x[i] = (double)out[i];
    give(g, "gen.", "tokens", x, made);
}

static void run_lora(golden *g) {
    dpo_model *m = load(g, g->dir), *merged;
    const char *pair = json_at(json_find(g->inputs, "pairs"), 0);
    int64_t n[2], i, r, vocab;
    int32_t *prompt = ids_of(json_find(pair, "prompt"), &n[0]), *chosen = ids_of(json_find(pair, "chosen"), &n[1]);
    int32_t *ids = SCRATCH(int32_t, n[0] + n[1]);
    dpo_segment s = {-1, 0, 0, 0};
    dpo_target *targets = SCRATCH(dpo_target, n[0] + n[1]);
    dpo_tensor *v;
    dpo_batch b;
    float *z;
    if (!went(g, m && !dpo_lora_load(m, path_of(g, "adapter")), "dpo_lora_load")) return;
    memset(&b, 0, sizeof b);
    memcpy(ids, prompt, (size_t)n[0] * sizeof *ids);
    memcpy(ids + n[0], chosen, (size_t)n[1] * sizeof *ids);
    b.n_rows = b.n_targets = n[0] + n[1];
    for (r = 0; r < b.n_rows; r++) targets[r].row = (int32_t)r;
    s.length = (int32_t)b.n_rows;
    b.tokens = ids;
    b.segments = &s;
    b.n_segments = b.n_sequences = 1;
    b.targets = targets;
    vocab = dpo_model_config_of(m)->vocab_size;
    z = SCRATCH(float, b.n_rows *vocab);
    if (went(g, !dpo_model_logits(m, &b, z), "dpo_model_logits"))
        give_floats(g, "lora.", "logits", z, b.n_rows * vocab);
    merged = dpo_lora_merge(m);
    if (went(g, merged != NULL, "dpo_lora_merge")) {
        r = dpo_model_tensors(merged, NULL, 0);
        v = SCRATCH(dpo_tensor, r);
        r = dpo_model_tensors(merged, v, r);
        for (i = 0; i < r; i++) give_tensor(g, "lora.merged.", &v[i], is_gpt2(m));
        dpo_model_free(merged);
    }
    run_dpo(g, m, m, "lora.dpo.", "lora.grad.");
    dpo_model_free(m);
}

/* Twenty updates. The second optimizer goes through dpo_trainer_step, which must take the items in order. */
#define SERIES 9
static void run_steps(golden *g, dpo_trainer *t, const char *prefix, int64_t steps, int64_t batch, int64_t count,
                      int by_index) {
    static const char *const names[SERIES] = {"loss",           "grad_norm",        "lr",
                                              "rewards_chosen", "rewards_rejected", "accuracies",
                                              "margins",        "logps_chosen",     "logps_rejected"};
    double *x[SERIES];
    int64_t s, i, *items = SCRATCH(int64_t, batch);
    int k;
    for (k = 0; k < SERIES; k++) x[k] = SCRATCH(double, steps);
    for (s = 0; s < steps; s++) {
        dpo_metrics e;
        dpo_result r;
        memset(&e, 0, sizeof e);
        for (i = 0; i < batch; i++) items[i] = (s * batch + i) % count;
        r = by_index ? dpo_trainer_step_on(t, items, batch, &e) : dpo_trainer_step(t, &e);
        if (!went(g, !r, "dpo_trainer_step")) return;
        x[0][s] = e.loss;
        x[1][s] = e.grad_norm;
        x[2][s] = e.learning_rate;
        x[3][s] = e.rewards_chosen;
        x[4][s] = e.rewards_rejected;
        x[5][s] = e.rewards_accuracies;
        x[6][s] = e.rewards_margins;
        x[7][s] = e.logps_chosen;
        x[8][s] = e.logps_rejected;
    }
    for (k = 0; k < SERIES; k++) give(g, prefix, names[k], x[k], steps);
}
static void run_trajectory(golden *g, const char *task, const char *optimizer) {
    char prefix[64], final[80];
    int sft = !strcmp(task, "traj_sft"), lora = !strcmp(task, "traj_lora_dpo");
    dpo_model *m = load(g, g->dir), *ref = NULL;
    dpo_train_config k = settings(g, sft ? DPO_SFT : DPO_PREFERENCE);
    dpo_data *d = sft ? sft_data(g) : pair_data(g);
    dpo_trainer *t = NULL;
    dpo_tensor *v;
    const char *hp;
    int64_t n, i;
    (void)snprintf(prefix, sizeof prefix, "%s.%s", task, optimizer);
    hp = json_find(json_find(g->json, "traj"), prefix);
    k.optimizer = !strcmp(optimizer, "adamw") ? DPO_ADAMW : DPO_RMSPROP;
    k.max_steps = (int64_t)json_number(json_find(hp, "steps"), 0);
    k.batch_size = (int64_t)json_number(json_find(hp, "batch_size"), 0);
    k.warmup_steps = (int64_t)json_number(json_find(hp, "warmup_steps"), 0);
    k.max_grad_norm = json_number(json_find(hp, "max_grad_norm"), 0);
    k.learning_rate = json_number(json_find(hp, "lr"), 0);
    k.adam_beta1 = 0.9;
    k.adam_beta2 = 0.999;
    k.adam_epsilon = 1e-8; /* of both */
    k.rmsprop_alpha = 0.99;
    k.weight_decay = k.optimizer == DPO_ADAMW ? 0.01 : 0.0;
    if (!went(g, m && d, "the model or its data")) return;
    if (lora && !went(g, !dpo_lora_load(m, path_of(g, "adapter")), "dpo_lora_load")) return;
    if (!sft && !lora) ref = load(g, path_of(g, "ref"));
    if (!sft && !went(g, !dpo_reference_compute(lora ? m : ref, d), "dpo_reference_compute")) return;
    t = dpo_trainer_create(m, d, &k);
    if (!went(g, t != NULL, "dpo_trainer_create")) return;
    (void)snprintf(final, sizeof final, "%s.final.", prefix);
    strcat(prefix, ".");
    run_steps(g, t, prefix, k.max_steps, k.batch_size, dpo_data_count(d), k.optimizer == DPO_ADAMW);
    n = lora ? dpo_lora_tensors(m, NULL, 0) : dpo_model_tensors(m, NULL, 0);
    v = SCRATCH(dpo_tensor, n > 0 ? n : 1);
    n = lora ? dpo_lora_tensors(m, v, n) : dpo_model_tensors(m, v, n);
    for (i = 0; i < n; i++) give_tensor(g, final, &v[i], is_gpt2(m));
    dpo_trainer_free(t);
    dpo_data_free(d);
    dpo_model_free(ref);
    dpo_model_free(m);
}

/* ------------------------------------------------------------------ comparison */
/* A tensor of expected.safetensors as doubles; NULL if this program cannot compare its type. */
static double *expected_values(const char *entry, const char *data, int64_t *n) {
    static const char *const types[4] = {"F32", "F64", "I64", "I32"};
    int64_t begin = (int64_t)json_number(json_at(json_find(entry, "data_offsets"), 0), 0);
    int64_t end = (int64_t)json_number(json_at(json_find(entry, "data_offsets"), 1), 0), i;
    int type, size;
    double *x;
    for (type = 0; type < 4 && !json_is(json_find(entry, "dtype"), types[type]); type++) {
    }
    if (type == 4) return NULL;
    size = type == 0 || type == 3 ? 4 : 8;
    *n = (end - begin) / size;
    x = SCRATCH(double, *n);
    for (i = 0; i < *n; i++) {
        float f;
        int32_t k;
        int64_t l;
        const char *p = data + begin + i * size;
        if (type == 0) memcpy(&f, p, 4), x[i] = (double)f;
        else if (type == 1) memcpy(&x[i], p, 8);
        else if (type == 2) memcpy(&l, p, 8), x[i] = (double)l;
        else memcpy(&k, p, 4), x[i] = (double)k;
    }
    return x;
}
/* Marks the elements that are not to be compared: ranges of noise. */
static char *ignored(const char *ranges, int64_t n) {
    char *skip = SCRATCH(char, n);
    const char *r;
    while ((r = json_element(&ranges)) != NULL) {
        int64_t i = (int64_t)json_number(json_at(r, 0), 0), end = (int64_t)json_number(json_at(r, 1), 0);
        for (; i < end && i < n; i++) skip[i] = 1;
    }
    return skip;
}
/* What fp32 may differ by, the case says. bf16 arithmetic: logits as a case measured PyTorch's own bf16 (0.9 to 3.2 %),
   sums of log-probs and losses an order less, differences of them and gradients more; ids of a greedy text are those of
   fp32. -1: not compared. */
static double allowed_error(const golden *g, const char *name) {
    double fp32 = json_number(json_find(json_find(g->json, "tol"), name), 2e-5);
    if (g->precision == DPO_PRECISION_FP32 || strstr(name, ".lr")) return fp32;
    if (strstr(name, "gen.tokens") || strstr(name, "accuracies")) return -1;
    if (strstr(name, "logits")) return json_number(json_find(json_find(g->json, "bf16_compute_rel_err"), name), 0.032);
    if (strstr(name, ".loss") && !strstr(name, "losses")) return 0.02; /* of trajectories, too */
    if (strstr(name, "nll") || strstr(name, "logps")) return 0.01;
    if (strstr(name, ".final.")) return 0.03;
    return strstr(name, "grad") ? 0.1 : 0.4;
}
static void compare(golden *g, const char *name, const char *entry, const char *data) {
    value *v = NULL;
    double *x, d = 0, s = 0, error, allowed = allowed_error(g, name);
    int64_t i, n = 0;
    char why[160], *skip;
    for (i = 0; i < g->n_values && !v; i++)
        if (!strcmp(g->values[i].name, name)) v = &g->values[i];
    if (!v) {
        complain(g, name, "this program has not made it");
        return;
    }
    x = expected_values(entry, data, &n);
    if (!x || v->n != n) {
        (void)snprintf(why, sizeof why, "%ld values, %ld expected%s", (long)v->n, (long)n,
                       x ? "" : ", of a strange dtype");
        complain(g, name, why);
        return;
    }
    skip = ignored(json_find(json_find(g->json, "ignore_ranges"), name), n);
    for (i = 0; i < n; i++) {
        double diff = v->x[i] - x[i];
        if (skip[i]) continue;
        d += diff * diff;
        s += x[i] * x[i];
    }
    error = s > 0 ? sqrt(d / s) : sqrt(d);
    if (allowed < 0) return;
    if (getenv("GOLDEN_ERRORS")) printf("%g %s\n", error, name);
    g->compared++;
    if (error <= allowed) return; /* false for NaN */
    (void)snprintf(why, sizeof why, "relative error %.3g, allowed %.3g", error, allowed);
    complain(g, name, why);
}
static void compare_all(golden *g) {
    size_t size = 0, header = 0, i;
    const char *file = read_file(path_of(g, "expected.safetensors"), &size), *at;
    json_member m;
    char name[256];
    for (i = 0; file && size > 8 && i < 8; i++) header |= (size_t)(unsigned char)file[i] << (8 * i);
    if (!header || header > size - 8) {
        complain(g, "expected.safetensors", "cannot be read");
        return;
    }
    at = file + 8;
    while (json_each(&at, &m)) {
        (void)snprintf(name, sizeof name, "%.*s", (int)m.length, m.key);
        if (strcmp(name, "__metadata__") && !strstr(name, ".f32.")) compare(g, name, m.value, file + 8 + header);
    }
    if (!g->compared) complain(g, "expected.safetensors", "nothing was compared");
}

/* ------------------------------------------------------------------ one case */
static void run_tasks(golden *g) {
    static const char *const trajectories[3] = {"traj_sft", "traj_dpo", "traj_lora_dpo"};
    static const char *const known[8] = {"forward", "sft",      "dpo",      "gen",
                                         "lora",    "traj_sft", "traj_dpo", "traj_lora_dpo"};
    const char *list = json_find(g->json, "tasks"), *v;
    dpo_model *m = load(g, g->dir);
    int k, found;
    if (!went(g, m != NULL, "dpo_model_load")) return;
    while ((v = json_element(&list)) != NULL) {
        for (k = found = 0; k < 8; k++) found |= json_is(v, known[k]);
        if (!found) complain(g, "case.json", "lists a task this program does not know");
    }
    if (has_task(g, "forward")) run_forward(g, m);
    if (has_task(g, "sft")) run_sft(g, m);
    if (has_task(g, "dpo")) {
        dpo_model *ref = load(g, path_of(g, "ref"));
        if (went(g, ref != NULL, "dpo_model_load of ref")) run_dpo(g, m, ref, "dpo.", "dpo.grad.");
        dpo_model_free(ref);
    }
    if (has_task(g, "gen")) run_gen(g, m);
    dpo_model_free(m);
    if (has_task(g, "lora")) run_lora(g);
    for (k = 0; k < 3; k++)
        if (has_task(g, trajectories[k])) {
            run_trajectory(g, trajectories[k], "adamw");
            run_trajectory(g, trajectories[k], "rmsprop");
        }
}
static void run_case(golden *g) {
    size_t size;
    g->json = read_file(path_of(g, "case.json"), &size);
    if (!g->json) {
        complain(g, "case.json", "cannot be read");
        return;
    }
    g->inputs = json_find(g->json, "inputs");
    g->beta = json_number(json_find(g->json, "beta"), 0.1);
    run_tasks(g);
    dpo_clear(g->c);
    compare_all(g);
}
/* 1 passed, 0 failed, -1 skipped */
static int run_dir(const char *dir, int precision) {
    golden g;
    int result;
    memset(&g, 0, sizeof g);
    g.dir = dir;
    g.precision = precision;
    g.values = SCRATCH(value, MOST_VALUES);
    g.c = dpo_open(NULL);
    if (!g.c) {
        printf("FAIL %s: no context\n", dir);
        return 0;
    }
    if (!file_exists(path_of(&g, "model.safetensors")) && !file_exists(path_of(&g, "model.safetensors.index.json")) &&
        (file_exists(path_of(&g, "pytorch_model.bin")) || file_exists(path_of(&g, "pytorch_model.bin.index.json")))) {
        printf("skip %s: its weights are a torch .bin file, which tools/dpo-convert reads and dpo.h does not\n", dir);
        result = -1;
    } else {
        run_case(&g);
        result = g.failures == 0;
        printf("%s %s: %d tensors compared%s\n", result ? "ok  " : "FAIL", dir, g.compared,
               result ? "" : ", some failed");
    }
    dpo_close(g.c);
    scratch_free();
    return result;
}

int main(int argc, char **argv) {
    int i, r, precision = DPO_PRECISION_FP32, passed = 0, failed = 0, skipped = 0;
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--precision")) {
            static const char *const names[3] = {"fp32", "mixed", "bf16"};
            const char *p = ++i < argc ? argv[i] : "";
            for (precision = 0; precision < 3 && strcmp(p, names[precision]) != 0; precision++) {
            }
            if (precision < 3) continue;
            fprintf(stderr, "golden: --precision %s: expected fp32, mixed or bf16\n", p);
            return 2;
        }
        r = run_dir(argv[i], precision);
        passed += r > 0;
        failed += r == 0;
        skipped += r < 0;
        (void)fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed || !(passed + failed) ? 1 : 0;
}
