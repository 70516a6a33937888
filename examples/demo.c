/* demo.c - what `make demo` runs: the whole job in about two minutes on two cores, from nothing, offline.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/demo.c -o demo -lm -lpthread && ./demo [OUTPUT_DIR]
 *
 * A byte-level model of a million random weights (examples/tiny.json) is pretrained on documents from the little world of
 * Puddle (world.h), fine-tuned on the better answers people gave (SFT), and then on pairs of a better and a worse answer
 * (DPO). After each stage three things are measured on what it never saw: the loss on text, whether it prefers the better
 * answer of a pair (rewards/accuracies), and how many of the answers it gives itself the village's rule accepts. The
 * program ends with a table, and with exit code 1 if DPO did not lift the last two. OUTPUT_DIR gets the three models. */
#include "../tools/cli.h" /* before system headers */
#include "../dpo.h"
#include "world.h"
#include <math.h>

enum {
    DOCUMENTS = 8000, /* to pretrain on, about 200 bytes each */
    ANSWERS = 6000,   /* for SFT */
    PAIRS = 2000,     /* for DPO */
    HELDOUT_DOCUMENTS = 64,
    HELDOUT_PAIRS = 256,
    QUESTIONS = 256, /* held out; asked after each stage */
    SHOWN = 3,
    ANSWER_BYTES = 160,
    SEED = 1
};

typedef struct {
    int done;
    double text_loss;
    int has_pairs, preferred, ties; /* of HELDOUT_PAIRS */
    int accepted;                   /* of QUESTIONS */
    double seconds;
    char shown[SHOWN][ANSWER_BYTES];
} stage_result;

typedef struct {
    dpo_context *c;
    dpo_tokenizer *bytes;
    dpo_model *m;
    dpo_data *documents, *answers, *pairs, *heldout_documents, *heldout_pairs;
    stage_result stage[3];
} demo;

enum { PRETRAINED, SFT, DPO };
static const char *const stage_name[3] = {"pretrained", "SFT", "DPO"};

static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}

static void on_progress(void *user, const char *what, int64_t done, int64_t total) {
    char line[160];
    if (*(const int *)user) return; /* training: its steps have a line of their own */
    snprintf(line, sizeof line, "%s: %s of %s", what, cli_count((uint64_t)done), cli_count((uint64_t)total));
    cli_live(line);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

static dpo_data *make_documents(demo *d, int split, int n) {
    dpo_data *data = dpo_data_create(d->c, d->bytes, NULL);
    char text[WORLD_DOCUMENT_MAX];
    int i;
    for (i = 0; i < n; i++) {
        size_t length = world_document(SEED, split, (uint64_t)i, text, sizeof text);
        dpo_data_add_text(data, text, length);
    }
    return data;
}

static dpo_data *make_pairs(demo *d, int split, int first, int n, int chosen_only) {
    dpo_data *data = dpo_data_create(d->c, d->bytes, NULL);
    world_pair_text p;
    int i;
    for (i = first; i < first + n; i++) {
        world_pair(SEED, split, (uint64_t)i, &p);
        dpo_data_add(data, p.prompt, strlen(p.prompt), p.chosen, strlen(p.chosen), chosen_only ? NULL : p.rejected,
                     chosen_only ? 0 : strlen(p.rejected));
    }
    return data;
}

/* ---- training --------------------------------------------------------------------------------------------------- */

/* One stage of training; the same optimizer for all, smaller steps from stage to stage. */
static int train(demo *d, int stage, dpo_data *data, dpo_train_config *t, int *training) {
    static const char *const doing[3] = {"pretraining", "SFT", "DPO"};
    dpo_trainer *trainer;
    double began = cli_clock();
    char line[200];
    t->sft_reduction = DPO_TOKEN_MEAN;
    t->optimizer = DPO_ADAMW;
    t->adam_beta2 = 0.95;
    t->weight_decay = 0.01;
    t->max_grad_norm = 1;
    t->schedule = DPO_LINEAR;
    t->warmup_steps = 20;
    t->seed = SEED;
    t->eval_size = 0;
    trainer = dpo_trainer_create(d->m, data, t);
    *training = 1;
    while (!dpo_status(d->c) && !dpo_trainer_done(trainer)) {
        dpo_metrics m;
        double seconds;
        char accuracy[40] = "";
        if (dpo_trainer_step(trainer, &m)) break;
        seconds = cli_clock() - began;
        if (m.has_rewards) snprintf(accuracy, sizeof accuracy, ", accuracies %.2f", m.rewards_accuracies);
        snprintf(line, sizeof line, "%s: step %s of %s, loss %.3f%s, %s tokens/s, %s left", doing[stage],
                 cli_count((uint64_t)m.step), cli_count((uint64_t)dpo_trainer_steps(trainer)), m.loss, accuracy,
                 cli_count((uint64_t)((double)m.tokens / seconds)),
                 cli_duration(seconds / (double)m.step * (double)(dpo_trainer_steps(trainer) - m.step)));
        cli_live(line);
    }
    *training = 0;
    dpo_trainer_free(trainer);
    d->stage[stage].seconds = cli_clock() - began;
    return dpo_status(d->c) != DPO_OK;
}

/* ---- measuring -------------------------------------------------------------------------------------------------- */

/* Exact means over all of `data`, by the model as it is. */
static int measure(demo *d, int objective, dpo_data *data, dpo_metrics *m) {
    dpo_train_config t = dpo_train_defaults(objective);
    dpo_trainer *trainer;
    t.sft_reduction = DPO_TOKEN_MEAN;
    t.eval_size = 0;
    trainer = dpo_trainer_create(d->m, data, &t);
    memset(m, 0, sizeof *m);
    if (trainer) dpo_trainer_evaluate(trainer, data, m);
    dpo_trainer_free(trainer);
    return dpo_status(d->c) != DPO_OK;
}

/* Asks all questions, once each, at temperature 0.7, with the same random numbers after each stage. */
static int ask(demo *d, stage_result *r) {
    static int32_t ids[QUESTIONS][WORLD_PROMPT_MAX], out[QUESTIONS * ANSWER_BYTES];
    const int32_t *prompts[QUESTIONS];
    int64_t lengths[QUESTIONS], got[QUESTIONS];
    dpo_generate_config g = dpo_generate_defaults();
    int i;
    for (i = 0; i < QUESTIONS; i++) {
        char text[WORLD_PROMPT_MAX];
        world_question(SEED, WORLD_HELDOUT, (uint64_t)i, text, sizeof text);
        lengths[i] = dpo_encode(d->bytes, text, strlen(text), ids[i], WORLD_PROMPT_MAX);
        prompts[i] = ids[i];
    }
    g.max_new_tokens = ANSWER_BYTES - 1;
    g.temperature = 0.7;
    g.seed = SEED;
    g.eos = dpo_tokenizer_eos(d->bytes);
    if (dpo_generate(d->m, prompts, lengths, QUESTIONS, &g, out, got)) return 1;
    for (i = 0; i < QUESTIONS; i++) {
        char question[WORLD_PROMPT_MAX], answer[ANSWER_BYTES];
        int64_t n = dpo_decode(d->bytes, out + (int64_t)i * g.max_new_tokens, got[i], answer, sizeof answer - 1);
        answer[n < 0 ? 0 : n] = 0;
        world_question(SEED, WORLD_HELDOUT, (uint64_t)i, question, sizeof question);
        r->accepted += world_judge(question, answer, NULL);
        if (i < SHOWN) memcpy(r->shown[i], answer, sizeof answer);
    }
    return 0;
}

static int measure_stage(demo *d, int stage, const char *output) {
    stage_result *r = &d->stage[stage];
    dpo_metrics m;
    char dir[4096];
    if (measure(d, DPO_SFT, d->heldout_documents, &m)) return 1;
    r->text_loss = m.loss;
    /* The SFT model is the reference, so from there on pairs can be asked about; at SFT itself every pair is a tie. */
    if (stage == SFT && (dpo_reference_compute(d->m, d->pairs) || dpo_reference_compute(d->m, d->heldout_pairs)))
        return 1;
    if (stage >= SFT) {
        if (measure(d, DPO_PREFERENCE, d->heldout_pairs, &m)) return 1;
        r->has_pairs = 1;
        r->preferred = (int)(m.rewards_accuracies * (double)HELDOUT_PAIRS + 0.5);
        r->ties = (int)(m.rewards_ties * (double)HELDOUT_PAIRS + 0.5);
    }
    if (ask(d, r)) return 1;
    r->done = 1;
    if (!output) return 0;
    snprintf(dir, sizeof dir, "%s-%s", output, stage_name[stage]);
    return dpo_model_save(d->m, dir, DPO_F32) != DPO_OK;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static const char *share(char *out, size_t cap, int k, int n) {
    double low, high;
    dpo_wilson(k, n, &low, &high);
    snprintf(out, cap, "%.3f [%.3f, %.3f]", (double)k / n, low, high);
    return out;
}

static void print_table(const demo *d) {
    char a[64], b[64];
    int i, k;
    printf("\n%-11s %12s   %-24s %-24s %10s\n", "stage", "text loss", "rewards/accuracies", "answers accepted",
           "training");
    for (i = 0; i < 3; i++) {
        const stage_result *r = &d->stage[i];
        if (!r->has_pairs) snprintf(a, sizeof a, "-");
        else if (r->ties == HELDOUT_PAIRS) snprintf(a, sizeof a, "all ties (reference)");
        else share(a, sizeof a, r->preferred, HELDOUT_PAIRS);
        printf("%-11s %12.4f   %-24s %-24s %10s\n", stage_name[i], r->text_loss, a,
               share(b, sizeof b, r->accepted, QUESTIONS), cli_duration(r->seconds));
    }
    printf(
        "\ntext loss: nats a byte on %d held-out documents. rewards/accuracies: share of %d held-out pairs whose "
        "better\n"
        "answer gained more log-probability over the reference, the SFT model, than the worse one did; chance is 0.5.\n"
        "answers accepted: share of %d answers to held-out questions, sampled at temperature 0.7, that the rule of\n"
        "world.h accepts: the right fact, kindly, and nothing else. [ ]: Wilson's 95 %% intervals.\n",
        HELDOUT_DOCUMENTS, HELDOUT_PAIRS, QUESTIONS);
    for (i = 0; i < SHOWN; i++) {
        char question[WORLD_PROMPT_MAX];
        const char *why;
        world_question(SEED, WORLD_HELDOUT, (uint64_t)i, question, sizeof question);
        printf("\n%.*s\n", (int)strcspn(question + 2, "\n"), question + 2);
        for (k = SFT; k <= DPO; k++) {
            world_judge(question, d->stage[k].shown[i], &why);
            printf("  after %s:%s   (%s)\n", stage_name[k], d->stage[k].shown[i], why);
        }
    }
}

/* The claim of the whole thing, judged by intervals. */
static int check_claim(const demo *d) {
    double low, high, sft_low, sft_high;
    dpo_wilson(d->stage[DPO].preferred, HELDOUT_PAIRS, &low, &high);
    if (low <= 0.5) return cli_die("DPO did not lift rewards/accuracies above one half");
    dpo_wilson(d->stage[DPO].accepted, QUESTIONS, &low, &high);
    dpo_wilson(d->stage[SFT].accepted, QUESTIONS, &sft_low, &sft_high);
    if (low <= sft_high) return cli_die("DPO did not lift the share of accepted answers above that of SFT");
    return 0;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

static int run(demo *d, int *training, const char *output) {
    dpo_train_config t = dpo_train_defaults(DPO_SFT);
    d->bytes = dpo_tokenizer_bytes(d->c);
    d->m = dpo_model_create_from(d->c, "examples/tiny.json", SEED);
    d->documents = make_documents(d, WORLD_TRAIN, DOCUMENTS);
    d->heldout_documents = make_documents(d, WORLD_HELDOUT, HELDOUT_DOCUMENTS);
    d->pairs = make_pairs(d, WORLD_TRAIN, 0, PAIRS, 0);
    d->answers = make_pairs(d, WORLD_TRAIN, PAIRS, ANSWERS, 1); /* of other questions than the pairs' */
    d->heldout_pairs = make_pairs(d, WORLD_HELDOUT, 0, HELDOUT_PAIRS, 0);
    if (dpo_status(d->c)) return 1;

    t.batch_size = 4; /* small batches, many updates: a small model learns most that way */
    t.learning_rate = 3e-3;
    if (train(d, PRETRAINED, d->documents, &t, training) || measure_stage(d, PRETRAINED, output)) return 1;
    t.learning_rate = 1e-3;
    if (train(d, SFT, d->answers, &t, training) || measure_stage(d, SFT, output)) return 1;
    t = dpo_train_defaults(DPO_PREFERENCE);
    t.batch_size = 16;
    t.learning_rate = 2e-4;
    t.loss_options.beta = 0.5;
    t.loss_options.sft_weight = 0.2; /* keeps the chosen answers' words from fading with the margin */
    return train(d, DPO, d->pairs, &t, training) || measure_stage(d, DPO, output);
}

int main(int argc, char **argv) {
    static demo d;
    dpo_desc desc;
    int training = 0, failed;
    double began = cli_clock();
    cli_this.name = "demo";
    cli_catch_signals();
    memset(&desc, 0, sizeof desc);
    desc.progress = on_progress;
    desc.cancel = on_cancel;
    desc.user = &training;
    d.c = dpo_open(&desc);
    if (!d.c) return cli_die("no memory to begin with");
    printf("%s\n", dpo_build_info(d.c));
    fflush(stdout);
    failed = run(&d, &training, argc > 1 ? argv[1] : NULL);
    cli_live_clear();
    if (failed) failed = cli_die("%s", dpo_error(d.c));
    else {
        print_table(&d);
        printf("\nin all %s, peak memory %s\n", cli_duration(cli_clock() - began), cli_bytes(cli_peak_memory()));
        failed = check_claim(&d);
    }
    dpo_close(d.c);
    return failed;
}
