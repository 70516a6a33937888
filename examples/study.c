/* study.c - what `make study` runs: the whole study as one program, offline, on the little world of Puddle (world.h).
 *
 *     build/study/study [--quick] [--output build/study] [--plan]
 *     build/study/study --model DIR --data DIR [...]       a model of your own and real data instead
 *
 * A byte-level model of a million weights is pretrained, fine-tuned (SFT) on chats in HH's form, on forum posts in SHP's
 * and on instructions in Alpaca's, and from these by DPO: with each beta, in each precision, through adapters, on each
 * set of pairs, from each start. After each run, and during some, four things are measured on what was never trained on:
 * the loss on text, rewards/accuracies, multiple-choice tasks, and how the model's own answers fare against the chosen
 * ones when the village's rule judges. study_tables.h makes the study's tables and figures of them, beside the published
 * numbers, each with a sentence on whether the finding repeats here.
 *
 * An answer of the village is worth some five nats, one of HH a hundred or more. Beta multiplies differences of such
 * sums, so the little world takes ten times the study's betas; with the study's own its small model falls apart.
 *
 * With a given model nothing is pretrained, HH's helpful and harmless pairs take the places of HH and SHP, and nobody
 * judges answers, so that there are no win rates. read_data says which files it looks for.
 *
 * The stages stand in one table (plan_stages). A stage's directory in OUTPUT/cache is named by a hash of everything that
 * its result depends on: options, data, the stage it starts from. What is there is not done again; a stage that was
 * stopped goes on from its checkpoint, written each minute and at Ctrl-C between two updates. So an interrupted study,
 * started again, ends with the same bits. OUTPUT gets
 *
 *     data/         the world's data as files, in the forms that the Hub's have
 *     cache/KEY/    model/, result.json, metrics.jsonl, run.json, log-probs of the reference
 *     runs/NAME/    metrics.jsonl and run.json of each run, as dpo-report reads them
 *     study.json    tables, figures and sentences: `dpo-report --study` makes a page of it
 *
 * Reads top to bottom: data, measuring, a stage, the table of stages, the plan, the run. */
#include "../tools/cli.h" /* before system headers */
#include "../dpo.h"
#include "../tools/files.h"
#include "../tools/dataset.h"
#include "../tools/formats/tasks.h"
#include "world.h"

enum { STAGES = 32, POINTS = 8, TEXTS = 256, ITEMS = 1024, TASKS_MAX = 8, ANSWER_BYTES = 160, SEED = 1 };
enum { MEASURED_FROM = 1 << 20 }; /* learning rate and scale of beta were chosen on the draws before these */

/* Sets of examples. CHATS and FORUM are of pairs, those after them for SFT. */
enum { CHATS, FORUM, CHATS_SFT, FORUM_SFT, INSTRUCTIONS, TEXT, HELD_CHATS, HELD_FORUM, HELD_TEXT, SETS };
static const char *const world_set_name[SETS] = {"HH", "SHP", "HH", "SHP", "Alpaca", "text", "HH", "SHP", "text"};
static const char *const given_set_name[SETS] = {"helpful", "harmless", "helpful",  "harmless", "Alpaca",
                                                 "text",    "helpful",  "harmless", "text"};

/* What was measured after `step` updates. A string has a letter for each question: 1 yes, 0 no, h half (a tie). */
enum { PREFERRED, TASKS, ANSWERS, OUTCOMES = ANSWERS + 2 }; /* ANSWERS + CHATS, ANSWERS + FORUM */
static const char *const outcome_name[OUTCOMES] = {"preferred", "tasks", "answers_1", "answers_2"};

typedef struct point {
    int64_t step, examples;
    double epoch;
    int texts;
    double text[TEXTS]; /* loss of each held-out document, nats a token */
    char outcome[OUTCOMES][ITEMS + 1];
} point;

enum { PRETRAIN, SFT, DPO, GIVEN };

typedef struct stage {
    char id[48], name[96]; /* name: the id with the names that the data have */
    int kind, from, set;   /* from: the stage it starts from; set: what it learns */
    double beta;
    int precision, lora, epochs;
    int parts; /* measured at the end of each of so many equal parts; if more than one, at the start too */
    char dir[4096];
    int points, cached;
    point point[POINTS];
} stage;

typedef struct sizes {
    int documents, answers, instructions, pairs; /* to learn */
    int held_documents, held_pairs, questions,
        task_items; /* held out, documents at most TEXTS; task_items of each task */
} sizes;

typedef struct study {
    dpo_context *c;
    dpo_tokenizer *tokenizer;
    dpo_model_config config;
    const char *output, *model_dir, *data_dir; /* model_dir NULL: the little world */
    const char *const *set_name;
    double sft_learning_rate, learning_rate; /* 0: by the model's width */
    double beta_scale;                       /* times the study's betas */
    uint64_t model_hash, config_hash;        /* of the given weights; of the model's config.json */
    int quick, smoke, plan_only, threads, training;
    sizes n;
    dpo_data *set[SETS];
    dpo_json *json;
    task_set tasks[TASKS_MAX];
    const char *task_name[TASKS_MAX];
    int task_count;
    stage stage[STAGES];
    int stages;
    double began;
} study;

/* Items of a task that are asked, the first ones, and where their letters stand. */
static int task_items(const study *s, int task) {
    int64_t n = s->tasks[task].n_items;
    return n < s->n.task_items ? (int)n : s->n.task_items;
}

static int task_first(const study *s, int task) {
    int i, n = 0;
    for (i = 0; i < task; i++) n += task_items(s, i);
    return n;
}

/* Tokens of a row at most. */
static int longest_row(const study *s) {
    return s->config.max_position_embeddings < 512 ? s->config.max_position_embeddings : 512;
}

static int failed(const study *s) { return cli_die("%s", dpo_error(s->c)); }

static const char *value_bits(char *out, uint64_t v) {
    snprintf(out, 17, "%016llx", (unsigned long long)v);
    return out;
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

static void write_field(FILE *f, const char *before, const char *name, const char *value) {
    fprintf(f, "%s\"%s\": ", before, name);
    cli_json_string(f, value, strlen(value));
}

static void write_chat(FILE *f, int split, uint64_t i) {
    world_pair_text p;
    char text[WORLD_PROMPT_MAX + WORLD_ANSWER_MAX];
    world_pair(SEED, split, i, &p);
    snprintf(text, sizeof text, "%s%s", p.prompt, p.chosen);
    write_field(f, "{", "chosen", text);
    snprintf(text, sizeof text, "%s%s", p.prompt, p.rejected);
    write_field(f, ", ", "rejected", text);
    fputs("}\n", f);
}

static void write_post(FILE *f, int split, uint64_t i) {
    world_forum_text p;
    world_forum(SEED, split, i, &p);
    write_field(f, "{", "history", p.history);
    write_field(f, ", ", "human_ref_A", p.ref[0]);
    write_field(f, ", ", "human_ref_B", p.ref[1]);
    fprintf(f, ", \"labels\": %d, \"score_A\": %d, \"score_B\": %d}\n", p.votes[0] > p.votes[1], p.votes[0],
            p.votes[1]);
}

static void write_row(FILE *f, int set, uint64_t i) {
    int held = set >= HELD_CHATS ? WORLD_HELDOUT : WORLD_TRAIN;
    if (held == WORLD_HELDOUT) i += MEASURED_FROM;
    char text[WORLD_DOCUMENT_MAX];
    world_instruction_text task;
    switch (set) {
    case CHATS:
    case HELD_CHATS: write_chat(f, held, i); break;
    case CHATS_SFT: write_chat(f, held, ((uint64_t)1 << 32) + i); break; /* of other draws than the pairs */
    case FORUM:
    case HELD_FORUM: write_post(f, held, i); break;
    case FORUM_SFT: write_post(f, held, ((uint64_t)1 << 32) + i); break;
    case INSTRUCTIONS:
        world_instruction(SEED, i, &task);
        write_field(f, "{", "instruction", task.instruction);
        write_field(f, ", \"input\": \"\", ", "output", task.output);
        fputs("}\n", f);
        break;
    default:
        world_document(SEED, held, i, text, sizeof text);
        write_field(f, "{", "text", text);
        fputs("}\n", f);
    }
}

/* The rows of a set as a file, read again by the readers that real data have. A row of SHP whose votes are too close is
 * not used, so more are written than are asked for. */
static int make_set(study *s, int set, int rows) {
    static const char *const file[SETS] = {"hh",   "shp",     "hh-sft",   "shp-sft",  "alpaca",
                                           "text", "hh-test", "shp-test", "text-test"};
    static const int format[SETS] = {DATASET_HH,   DATASET_SHP, DATASET_HH,  DATASET_SHP, DATASET_ALPACA,
                                     DATASET_TEXT, DATASET_HH,  DATASET_SHP, DATASET_TEXT};
    dataset d = dataset_start(s->c, s->tokenizer, set >= CHATS_SFT && set <= TEXT);
    char path[4096], *text = NULL;
    size_t bytes = 0;
    int i, written = format[set] == DATASET_SHP ? 3 * rows : rows, bad;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return cli_die("no memory for the data");
    for (i = 0; i < written; i++) write_row(f, set, (uint64_t)i);
    if (fclose(f)) return cli_die("no memory for the data");
    snprintf(path, sizeof path, "%s/data/%s.jsonl", s->output, file[set]);
    bad = write_file(path, text, bytes);
    free(text);
    d.sft |= set == HELD_TEXT;
    d.quiet = 1;
    d.o.format = format[set];
    d.o.group = DATASET_GROUP_NO; /* the village has few questions, and many answers to each */
    d.o.max_rows = format[set] == DATASET_SHP ? rows : 0;
    if (bad || dataset_read(&d, path, 0)) return 1;
    s->set[set] = d.train;
    return 0;
}

static int add_task(study *s, const char *name, int kind, const char *path) {
    char error[2048];
    s->tasks[s->task_count] = task_set_start(dpo_json_create(s->c)); /* which is the set's own */
    s->task_name[s->task_count] = name;
    return task_set_read(&s->tasks[s->task_count++], kind, path, NULL, error, sizeof error) ? cli_die("%s", error) : 0;
}

static int make_tasks(study *s) {
    static const char *const name[WORLD_KINDS + 1] = {"home", "hat", "food", "trade", "reply"};
    int kind, i, k;
    for (kind = 0; kind <= WORLD_KINDS; kind++) {
        char path[4096], *text = NULL;
        size_t bytes = 0;
        FILE *f = open_memstream(&text, &bytes);
        int bad;
        if (!f) return cli_die("no memory for the tasks");
        for (i = 0; i < s->n.task_items; i++) {
            world_choice_text item;
            if (kind < WORLD_KINDS) world_choice_about(SEED, kind, MEASURED_FROM + (uint64_t)i, &item);
            else world_reply(SEED, WORLD_HELDOUT, MEASURED_FROM + (uint64_t)i, &item);
            write_field(f, "{", "ctx", item.context);
            for (k = 0; k < 4; k++) {
                fputs(k ? ", " : ", \"conts\": [", f);
                cli_json_string(f, item.choice[k], strlen(item.choice[k]));
            }
            fprintf(f, "], \"gold\": %d}\n", item.gold);
        }
        if (fclose(f)) return cli_die("no memory for the tasks");
        snprintf(path, sizeof path, "%s/data/task-%s.jsonl", s->output, name[kind]);
        bad = write_file(path, text, bytes);
        free(text);
        if (bad || add_task(s, name[kind], TASK_CUSTOM, path)) return 1;
    }
    return 0;
}

static int make_data(study *s) {
    const int rows[SETS] = {s->n.pairs,     s->n.pairs,      s->n.answers,    s->n.answers,       s->n.instructions,
                            s->n.documents, s->n.held_pairs, s->n.held_pairs, s->n.held_documents};
    char dir[4096];
    int i;
    if (path_join(dir, sizeof dir, s->output, "data") || make_dirs(dir, "--output")) return 1;
    for (i = 0; i < SETS; i++)
        if (make_set(s, i, rows[i])) return 1;
    return make_tasks(s);
}

/* One file of real data as the set for SFT, or as a set of pairs with its held-out part. */
static int read_set(study *s, const char *path, int format, int train, int held) {
    dataset d = dataset_start(s->c, s->tokenizer, held < 0 || train < 0);
    d.quiet = 1;
    d.o.format = format;
    d.o.data.max_length = longest_row(s);
    d.o.eval_fraction = format == DATASET_HH ? 0.2 : 0; /* by the prompt's hash: the same prompts for SFT and for DPO */
    d.o.max_rows = format != DATASET_HH ? s->n.held_documents : s->n.pairs;
    if (train == INSTRUCTIONS) d.o.max_rows = s->n.instructions;
    if (dataset_read(&d, path, 0)) return 1;
    if (train < 0) s->set[held] = d.train;
    else s->set[train] = d.train;
    if (train < 0 || held < 0) return 0;
    s->set[held] = d.eval;
    return d.eval ? 0 : cli_die("%s: too few rows to hold some out", path);
}

/* The first of the named files that DATA has. */
static int find_file(const study *s, const char *const *names, char *path, size_t cap) {
    int i;
    for (i = 0; names[i]; i++)
        if (holds(s->data_dir, names[i])) return path_join(path, cap, s->data_dir, names[i]);
    return cli_die("--data %s has no %s", s->data_dir, names[0]);
}

static int read_data(study *s) {
    static const char *const helpful[] = {"hh/helpful-base.test.jsonl.gz", "helpful-base/test.jsonl.gz",
                                          "hh/helpful-base.test.jsonl", NULL};
    static const char *const harmless[] = {"hh/harmless-base.test.jsonl.gz", "harmless-base/test.jsonl.gz",
                                           "hh/harmless-base.test.jsonl", NULL};
    static const char *const alpaca[] = {"sft/alpaca_5000.json", "sft/alpaca_data.json", "alpaca_data.json", NULL};
    static const char *const text[] = {"text/tinystories_1000.json", "text/slimpajama.jsonl", "text/c4_300.jsonl",
                                       NULL};
    static const struct {
        const char *name, *file;
        int kind;
    } task[TASKS_MAX] = {{"ARC-e", "tasks/ai2_arc_ARC-Easy.validation.jsonl", TASK_ARC_EASY},
                         {"PIQA", "tasks/piqa_plain_text.validation.jsonl", TASK_PIQA},
                         {"SciQ", "tasks/sciq.validation.jsonl", TASK_SCIQ},
                         {"WinoGrande", "tasks/winogrande_winogrande_xl.validation.jsonl", TASK_WINOGRANDE},
                         {"ARC-c", "tasks/ai2_arc_ARC-Challenge.validation.jsonl", TASK_ARC_CHALLENGE},
                         {"OpenBookQA", "tasks/openbookqa_main.validation.jsonl", TASK_OPENBOOKQA},
                         {"SIQA", "tasks/social_i_qa.validation.jsonl", TASK_SOCIAL_IQA},
                         {"BoolQ", "tasks/boolq.validation.600.jsonl", TASK_BOOLQ}};
    char path[4096];
    int i;
    for (i = CHATS; i <= FORUM; i++)
        if (find_file(s, i == CHATS ? helpful : harmless, path, sizeof path) ||
            read_set(s, path, DATASET_HH, i, HELD_CHATS + i) || read_set(s, path, DATASET_HH, CHATS_SFT + i, -1))
            return 1;
    if (find_file(s, alpaca, path, sizeof path) || read_set(s, path, DATASET_ALPACA, INSTRUCTIONS, -1)) return 1;
    if (find_file(s, text, path, sizeof path) || read_set(s, path, DATASET_TEXT, -1, HELD_TEXT)) return 1;
    for (i = 0; i < TASKS_MAX; i++) {
        if (!holds(s->data_dir, task[i].file)) continue;
        if (path_join(path, sizeof path, s->data_dir, task[i].file) || add_task(s, task[i].name, task[i].kind, path))
            return 1;
    }
    return s->task_count ? 0 : cli_die("--data %s has none of the tasks' files, such as %s", s->data_dir, task[0].file);
}

/* ---- measuring -------------------------------------------------------------------------------------------------- */

/* Sequences to score, each a context and what follows it. */
typedef struct sequences {
    int32_t *ids;
    dpo_sequence *at;
    dpo_score *score;
    int64_t used, room, n, cap;
} sequences;

static int sequences_start(sequences *q, int64_t ids, int64_t count) {
    memset(q, 0, sizeof *q);
    q->room = ids;
    q->cap = count;
    q->ids = (int32_t *)calloc((size_t)ids + 1, sizeof *q->ids);
    q->at = (dpo_sequence *)calloc((size_t)count + 1, sizeof *q->at);
    q->score = (dpo_score *)calloc((size_t)count + 1, sizeof *q->score);
    return q->ids && q->at && q->score ? 0 : cli_die("no memory to measure with");
}

static void sequences_free(sequences *q) {
    free(q->ids);
    free(q->at);
    free(q->score);
}

static void sequences_add(sequences *q, const int32_t *a, int64_t na, const int32_t *b, int64_t nb) {
    int32_t *to = q->ids + q->used;
    if (q->n == q->cap || na + nb > q->room - q->used) return; /* the caller has counted */
    if (na) memcpy(to, a, (size_t)na * sizeof *to);
    memcpy(to + na, b, (size_t)nb * sizeof *to);
    q->at[q->n].ids = to;
    q->at[q->n].n = na + nb;
    q->at[q->n].context = na ? na : 1;
    q->n++;
    q->used += na + nb;
}

/* Items of a set: chosen and rejected each after the prompt. */
static int sequences_of(sequences *q, const dpo_data *d) {
    dpo_data_report r = dpo_data_report_of(d);
    int64_t i, n = dpo_data_count(d);
    if (sequences_start(q, 2 * r.prompt_tokens + r.chosen_tokens + r.rejected_tokens + 4 * n, 2 * n)) return 1;
    for (i = 0; i < n; i++) {
        const int32_t *p, *a, *b;
        int64_t np, na, nb;
        dpo_data_item(d, i, &p, &np, &a, &na, &b, &nb);
        sequences_add(q, p, np, a, na);
        if (nb) sequences_add(q, p, np, b, nb);
    }
    return 0;
}

static int measure_text(study *s, dpo_model *m, point *p) {
    sequences q;
    int64_t i;
    int bad = sequences_of(&q, s->set[HELD_TEXT]);
    if (q.n > s->n.held_documents) q.n = s->n.held_documents;
    bad = bad || dpo_score_sequences(m, q.at, q.n, NULL, q.score, NULL);
    for (i = 0; i < q.n && !bad; i++) p->text[i] = -q.score[i].logp / (double)q.score[i].tokens;
    p->texts = (int)i;
    sequences_free(&q);
    return bad;
}

/* Which answer of each held-out pair has gained more log-probability over the reference. */
static int measure_pairs(study *s, dpo_model *m, int set, char *out) {
    dpo_data *d = s->set[HELD_CHATS + set];
    const double *reference = dpo_reference_of(d);
    sequences q;
    int64_t i;
    int bad = sequences_of(&q, d) || dpo_score_sequences(m, q.at, q.n, NULL, q.score, NULL);
    for (i = 0; i < q.n / 2 && i < ITEMS && !bad; i++) {
        double chosen = q.score[2 * i].logp - reference[2 * i],
               rejected = q.score[2 * i + 1].logp - reference[2 * i + 1];
        out[i] = chosen > rejected ? '1' : chosen < rejected ? '0' : 'h';
    }
    sequences_free(&q);
    return bad;
}

/* A context that is too long loses its beginning. */
static int measure_task(study *s, dpo_model *m, int task, char *out) {
    const task_set *t = &s->tasks[task];
    int64_t items = task_items(s, task), most = longest_row(s), requests, i, k;
    int32_t *ids = (int32_t *)malloc(((size_t)1 << 16) * sizeof *ids);
    sequences q;
    int bad;
    requests = t->item[items - 1].first + t->item[items - 1].n;
    bad = sequences_start(&q, requests * most, requests) || !ids;
    for (i = 0; i < requests && !bad; i++) {
        const task_request *r = &t->request[i];
        const int half = 1 << 15;
        int64_t na = dpo_encode(s->tokenizer, task_string(t, r->context), r->context.bytes, ids, half);
        int64_t nb = dpo_encode(s->tokenizer, task_string(t, r->continuation), r->continuation.bytes, ids + half, half);
        int64_t room = most - nb, from = na > room ? na - room : 0;
        if (na < 0 || nb < 1 || room < 1 || na > half)
            bad = cli_die("task %s: a text of it cannot be asked", s->task_name[task]);
        else sequences_add(&q, ids + from, na - from, ids + half, nb);
    }
    bad = bad || dpo_score_sequences(m, q.at, q.n, NULL, q.score, NULL);
    for (i = 0; i < items && !bad; i++) {
        const task_item *item = &t->item[i];
        int best = 0;
        for (k = 1; k < item->n; k++)
            if (q.score[item->first + k].logp > q.score[item->first + best].logp) best = (int)k;
        out[i] = best == item->gold ? '1' : '0';
    }
    sequences_free(&q);
    free(ids);
    return bad;
}

/* The held-out question i as the model gets it, as the rule reads it, and the score of the chosen answer. */
static int question_of(int set, int i, char *asked, char *judged) {
    uint64_t draw = MEASURED_FROM + (uint64_t)i;
    world_pair_text p;
    world_forum_text f;
    if (set == CHATS) {
        world_pair(SEED, WORLD_HELDOUT, draw, &p);
        memcpy(asked, p.prompt, WORLD_PROMPT_MAX);
        memcpy(judged, p.prompt, WORLD_PROMPT_MAX);
        return p.chosen_score;
    }
    world_forum(SEED, WORLD_HELDOUT, draw, &f);
    memcpy(asked, f.prompt, WORLD_PROMPT_MAX);
    memcpy(judged, f.question, WORLD_PROMPT_MAX);
    return f.score[f.votes[1] > f.votes[0]];
}

/* Samples an answer to each question at temperature 0.7 with random numbers of the question's own, and sets the rule's
 * score of it against that of the chosen one: better, worse, or a tie. */
static int measure_answers(study *s, dpo_model *m, int set, char *out) {
    static int32_t ids[ITEMS][WORLD_PROMPT_MAX], drawn[ITEMS * ANSWER_BYTES];
    static const char *const stop[1] = {"\n\nHuman:"};
    const int32_t *prompts[ITEMS];
    int64_t lengths[ITEMS], got[ITEMS];
    dpo_generate_config g = dpo_generate_defaults();
    int i, n = s->n.questions;
    char asked[WORLD_PROMPT_MAX], judged[WORLD_PROMPT_MAX], answer[ANSWER_BYTES];
    for (i = 0; i < n; i++) {
        question_of(set, i, asked, judged);
        lengths[i] = dpo_encode(s->tokenizer, asked, strlen(asked), ids[i], WORLD_PROMPT_MAX);
        prompts[i] = ids[i];
    }
    g.max_new_tokens = ANSWER_BYTES - 1;
    g.temperature = 0.7;
    g.seed = SEED;
    g.eos = dpo_tokenizer_eos(s->tokenizer);
    g.stop = stop;
    g.n_stop = 1;
    g.tokenizer = s->tokenizer;
    if (dpo_generate(m, prompts, lengths, n, &g, drawn, got)) return 1;
    for (i = 0; i < n; i++) {
        int64_t bytes =
            dpo_decode(s->tokenizer, drawn + (int64_t)i * g.max_new_tokens, got[i], answer, sizeof answer - 1);
        int chosen = question_of(set, i, asked, judged), score;
        char *turn;
        answer[bytes < 0 ? 0 : bytes] = 0;
        turn = strstr(answer, stop[0]);
        if (turn) *turn = 0;
        score = world_score(judged, answer, NULL);
        out[i] = score > chosen ? '1' : score < chosen ? '0' : 'h';
    }
    return 0;
}

/* A run by DPO answers the questions of its pairs' kind; the others both. A given model has nobody to judge it. */
static int measure(study *s, const stage *g, dpo_model *m, point *p) {
    int k;
    if (measure_text(s, m, p)) return 1;
    for (k = 0; k < s->task_count; k++)
        if (measure_task(s, m, k, p->outcome[TASKS] + task_first(s, k))) return 1;
    if (g->kind == DPO && measure_pairs(s, m, g->set, p->outcome[PREFERRED])) return 1;
    for (k = CHATS; k <= FORUM && !s->model_dir; k++)
        if ((g->kind != DPO || g->set == k) && measure_answers(s, m, k, p->outcome[ANSWERS + k])) return 1;
    return 0;
}

/* ---- what a stage has measured, as JSON ------------------------------------------------------------------------- */

static char *points_text(const stage *g) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    int i, k, bad;
    if (!f) return NULL;
    fputs("[", f);
    for (i = 0; i < g->points; i++) {
        const point *p = &g->point[i];
        fprintf(f, "%s{\"step\": %lld, \"examples\": %lld, \"epoch\": ", i ? ",\n " : "", (long long)p->step,
                (long long)p->examples);
        cli_json_number(f, p->epoch);
        for (k = 0; k < OUTCOMES; k++) fprintf(f, ", \"%s\": \"%s\"", outcome_name[k], p->outcome[k]);
        for (k = 0; k < p->texts; k++) {
            fputs(k ? ", " : ", \"text_loss\": [", f);
            cli_json_number(f, p->text[k]);
        }
        fputs("]}", f);
    }
    fputs("]\n", f);
    bad = ferror(f);
    if (fclose(f) || bad) {
        free(text);
        return NULL;
    }
    return text;
}

static double number_at(const study *s, int64_t object, const char *key) {
    double v = NAN;
    int64_t node = dpo_json_find(s->json, object, key);
    if (node >= 0) dpo_json_number(s->json, node, &v);
    return v;
}

/* 1: it is not what points_text wrote. */
static int point_read(study *s, point *p, int64_t node) {
    double step = number_at(s, node, "step"), examples = number_at(s, node, "examples");
    int64_t list = dpo_json_find(s->json, node, "text_loss"), n = dpo_json_count(s->json, list), k;
    memset(p, 0, sizeof *p);
    if (!(step >= 0 && step < 1e15 && examples >= 0 && examples < 1e15)) return 1;
    p->step = (int64_t)step;
    p->examples = (int64_t)examples;
    p->epoch = number_at(s, node, "epoch");
    for (k = 0; k < OUTCOMES; k++) {
        int64_t at = dpo_json_find(s->json, node, outcome_name[k]);
        int64_t length = dpo_json_string(s->json, at, p->outcome[k], sizeof p->outcome[k]);
        if (length < 0 || length > ITEMS || (int64_t)strspn(p->outcome[k], "10h") != length) return 1;
    }
    if (dpo_json_type(s->json, list) != '[' || n > TEXTS) return 1;
    list = dpo_json_first(s->json, list);
    for (k = 0; k < n; k++, list = dpo_json_next(s->json, list))
        if (!dpo_json_number(s->json, list, &p->text[p->texts++])) return 1;
    return 0;
}

static int points_read(study *s, stage *g, const char *text, size_t bytes) {
    int64_t node, n, k;
    g->points = 0;
    if (dpo_json_parse(s->json, text, bytes, NULL, NULL) || dpo_json_type(s->json, 0) != '[') return 1;
    node = dpo_json_first(s->json, 0);
    n = dpo_json_count(s->json, 0);
    for (k = 0; k < n && k < POINTS; k++, node = dpo_json_next(s->json, node))
        if (point_read(s, &g->point[g->points++], node)) return 1;
    return n > POINTS;
}

/* ---- a stage ---------------------------------------------------------------------------------------------------- */

static dpo_train_config config_of(const study *s, const stage *g) {
    dpo_train_config t = dpo_train_defaults(g->kind == DPO ? DPO_PREFERENCE : DPO_SFT);
    double narrow = 128.0 / s->config.hidden_size; /* wider models take smaller steps [muP] */
    double sft = s->sft_learning_rate > 0 ? s->sft_learning_rate : 1e-3 * narrow;
    double dpo = s->learning_rate > 0 ? s->learning_rate : (s->model_dir ? 5e-5 : 2e-4) * narrow;
    t.batch_size = g->kind == DPO ? 8 : 4; /* a small model learns most from small batches and many updates */
    t.learning_rate = g->kind == DPO ? (g->lora ? 10 * dpo : dpo) : g->kind == SFT ? sft : 3e-3;
    if (g->kind == DPO) t.loss_options.beta = g->beta;
    t.num_train_epochs = g->epochs;
    t.optimizer = DPO_ADAMW;
    t.adam_beta2 = 0.95;
    t.weight_decay = 0.01;
    t.max_grad_norm = 1;
    t.schedule = DPO_LINEAR;
    t.warmup_steps = g->kind == PRETRAIN ? 20 : 5;
    t.seed = SEED;
    t.eval_size = 0;
    return t;
}

/* The reference's log-probs for a set: by the model that the stage starts from, once for all stages that do. */
static int reference_for(study *s, const stage *g, dpo_model *m, dpo_data *d) {
    char path[4096 + 64], bits[17];
    snprintf(path, sizeof path, "%s/reference-%s-%d.safetensors", s->stage[g->from].dir,
             value_bits(bits, dpo_data_hash(d)), g->precision);
    if (holds(s->stage[g->from].dir, path + strlen(s->stage[g->from].dir) + 1)) return dpo_reference_load(m, d, path);
    return dpo_reference_compute(m, d) || dpo_reference_save(d, path);
}

static dpo_model *model_for(study *s, const stage *g) {
    dpo_load_config how;
    dpo_model *m;
    char dir[4096 + 8];
    if (g->kind == PRETRAIN) return dpo_model_create_from(s->c, "examples/tiny.json", SEED);
    if (g->kind == GIVEN) return dpo_model_load(s->c, s->model_dir);
    memset(&how, 0, sizeof how);
    how.precision = g->precision;
    how.frozen = g->lora;
    how.no_map = 1;
    if (s->stage[g->from].kind == GIVEN) snprintf(dir, sizeof dir, "%s", s->model_dir);
    else snprintf(dir, sizeof dir, "%s/model", s->stage[g->from].dir);
    m = dpo_model_load_as(s->c, dir, &how);
    if (m && g->kind == DPO &&
        (reference_for(s, g, m, s->set[g->set]) || reference_for(s, g, m, s->set[HELD_CHATS + g->set])))
        return NULL;
    if (m && g->lora) {
        dpo_lora_config lora = dpo_lora_defaults(dpo_model_config_of(m)->family);
        if (dpo_lora_attach(m, &lora, SEED)) return NULL;
    }
    return m;
}

/* A run while it goes: what a checkpoint holds beside the trainer's own. */
typedef struct progress {
    char *metrics; /* lines of metrics.jsonl */
    size_t used, room;
    double saved_at, seconds; /* seconds: spent in updates, before a stop, too */
} progress;

static int make_room(progress *p) {
    char *more;
    if (p->metrics && p->room - p->used >= 2048) return 0;
    more = (char *)realloc(p->metrics, p->room * 2 + 4096);
    if (!more) return cli_die("no memory for the lines of metrics");
    p->metrics = more;
    p->room = p->room * 2 + 4096;
    return 0;
}

static int add_line(progress *p, const dpo_metrics *m) {
    if (make_room(p)) return 1;
    p->used += dpo_metrics_json(m, p->metrics + p->used, 1024);
    p->metrics[p->used++] = '\n';
    p->metrics[p->used] = 0;
    return 0;
}

static int checkpoint_write(const stage *g, dpo_trainer *t, progress *p) {
    char path[4096 + 32], seconds[32], *points = points_text(g);
    const char *extra[] = {"study_points", NULL, "study_metrics", NULL, "study_seconds", NULL, NULL};
    int bad;
    if (!points) return cli_die("no memory for a checkpoint");
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", g->dir);
    extra[1] = points;
    extra[3] = p->metrics ? p->metrics : "";
    snprintf(seconds, sizeof seconds, "%.3f", p->seconds);
    extra[5] = seconds;
    bad = dpo_trainer_save(t, path, extra) != DPO_OK;
    free(points);
    p->saved_at = cli_clock();
    return bad;
}

static int checkpoint_read(study *s, stage *g, dpo_trainer *t, progress *p) {
    char path[4096 + 32];
    dpo_tensors_file *f;
    const char *points, *metrics, *seconds;
    int bad = 1;
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", g->dir);
    if (!holds(g->dir, "checkpoint.safetensors")) return 0;
    f = dpo_tensors_open(s->c, path);
    points = f ? dpo_tensors_metadata(f, "study_points") : NULL;
    metrics = f ? dpo_tensors_metadata(f, "study_metrics") : NULL;
    seconds = f ? dpo_tensors_metadata(f, "study_seconds") : NULL;
    if (points && metrics && seconds && !points_read(s, g, points, strlen(points))) {
        p->seconds = strtod(seconds, NULL);
        if (!(p->seconds >= 0 && p->seconds < 1e9)) p->seconds = 0;
        p->used = strlen(metrics);
        p->room = p->used + 4096;
        p->metrics = (char *)malloc(p->room);
        if (p->metrics) memcpy(p->metrics, metrics, p->used + 1);
        bad = !p->metrics || dpo_trainer_load(t, path);
    }
    dpo_tensors_close(f);
    return bad ? cli_die("%s cannot be gone on from; remove it, and %s begins again", path, g->name) : 0;
}

/* A line of an evaluation, for dpo-report: what was measured under TRL's names. */
static int add_evaluation(progress *p, const dpo_metrics *at, const point *q) {
    double n = (double)strlen(q->outcome[PREFERRED]), yes = 0, ties = 0;
    const char *c;
    if (make_room(p)) return 1;
    for (c = q->outcome[PREFERRED]; *c; c++) {
        yes += *c == '1';
        ties += *c == 'h';
    }
    p->used += (size_t)snprintf(p->metrics + p->used, 1024,
                                "{\"step\": %lld, \"examples\": %lld, \"tokens\": %lld, \"epoch\": %.6g, "
                                "\"eval_examples\": %.0f, \"eval_rewards/accuracies\": %.17g, "
                                "\"eval_rewards/ties\": %.17g}\n",
                                (long long)at->step, (long long)at->examples, (long long)at->tokens, q->epoch, n,
                                yes / n, ties / n);
    return 0;
}

/* Measures at the end of a part. */
static int take_point(study *s, stage *g, dpo_model *m, progress *p, const dpo_metrics *at, int64_t steps) {
    point *q = &g->point[g->points];
    memset(q, 0, sizeof *q);
    q->step = at->step;
    q->examples = at->examples;
    q->epoch = (double)g->epochs * (double)at->step / (double)steps;
    if (g->points == POINTS || measure(s, g, m, q)) return 1;
    g->points++;
    return g->kind == DPO ? add_evaluation(p, at, q) : 0;
}

static void say_step(const study *s, const stage *g, const dpo_metrics *m, int64_t steps) {
    char line[200], accuracy[40] = "";
    if (m->has_rewards) snprintf(accuracy, sizeof accuracy, ", accuracies %.2f", m->rewards_accuracies);
    snprintf(line, sizeof line, "%s: step %s of %s, loss %.3f%s; %s in all", g->name, cli_count((uint64_t)m->step),
             cli_count((uint64_t)steps), m->loss, accuracy, cli_duration(cli_clock() - s->began));
    cli_live(line);
}

static int train(study *s, stage *g, dpo_model *m, dpo_trainer *t, progress *p) {
    int64_t steps = dpo_trainer_steps(t), parts = g->parts < steps ? g->parts : steps;
    dpo_metrics at;
    memset(&at, 0, sizeof at);
    p->saved_at = cli_clock();
    if (checkpoint_read(s, g, t, p)) return 1;
    if (g->parts > 1 && !g->points && take_point(s, g, m, p, &at, steps)) return 1;
    while (!dpo_trainer_done(t)) {
        int64_t part;
        double began = cli_clock();
        if (cli_stopped()) /* between two updates: nothing is lost */
            return checkpoint_write(g, t, p) ? cli_die("no checkpoint of %s was written: %s", g->name, dpo_error(s->c))
                                             : 1;
        s->training = 1;
        if (dpo_trainer_step(t, &at)) return 1;
        s->training = 0;
        p->seconds += cli_clock() - began;
        if (add_line(p, &at)) return 1;
        say_step(s, g, &at, steps);
        part = g->points + (g->parts == 1);
        if (at.step == steps * part / parts && take_point(s, g, m, p, &at, steps)) return 1;
        if (cli_clock() - p->saved_at > (s->smoke ? 0 : 60) && !dpo_trainer_done(t) && checkpoint_write(g, t, p))
            return 1;
    }
    return 0;
}

static int write_description(study *s, const stage *g, double seconds) {
    static const char *const kind[] = {"pretrain", "sft", "dpo", "given"}, *const precision[3] = {"fp32", "mixed",
                                                                                                  "bf16"};
    char path[4096 + 16], *text = NULL, bits[17];
    const char *info = dpo_build_info(s->c);
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    int bad;
    if (!f) return cli_die("no memory for run.json");
    fprintf(f, "{\"program\": \"study\", \"command\": \"%s\", \"build\": ", kind[g->kind]);
    cli_json_string(f, info, strlen(info));
    fprintf(
        f,
        ", \"train_examples\": %lld, \"train_hash\": \"%s\", \"train_seconds\": %.3f, \"options\": {\"start\": \"%s\"",
        (long long)dpo_data_count(s->set[g->set]), value_bits(bits, dpo_data_hash(s->set[g->set])), seconds,
        g->from < 0 ? "random weights" : s->stage[g->from].name);
    fprintf(f, ", \"data\": \"%s\", \"precision\": \"%s\", \"lora\": %s, \"epochs\": %d", s->set_name[g->set],
            precision[g->precision], g->lora ? "true" : "false", g->epochs);
    if (g->kind == DPO) fprintf(f, ", \"beta\": %s", cli_number(g->beta));
    fputs("}}\n", f);
    if (fclose(f)) return cli_die("no memory for run.json");
    snprintf(path, sizeof path, "%s/run.json", g->dir);
    bad = write_file(path, text, bytes);
    free(text);
    return bad;
}

static int write_result(const stage *g) {
    char path[4096 + 16], *text = points_text(g);
    int bad;
    if (!text) return cli_die("no memory for the result");
    snprintf(path, sizeof path, "%s/result.json", g->dir);
    bad = write_file(path, text, strlen(text));
    free(text);
    return bad;
}

/* Everything of a finished stage; result.json last: where it is, all is. */
static int finish(study *s, stage *g, dpo_model *m, const progress *p) {
    char path[4096 + 32];
    dpo_model *whole = g->lora ? dpo_lora_merge(m) : m;
    int bad;
    snprintf(path, sizeof path, "%s/model", g->dir);
    bad = !whole || dpo_model_save(whole, path, DPO_F32);
    if (whole != m) dpo_model_free(whole);
    if (bad) return 1;
    snprintf(path, sizeof path, "%s/metrics.jsonl", g->dir);
    if (write_file(path, p->metrics, p->used) || write_description(s, g, p->seconds)) return 1;
    bad = write_result(g);
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", g->dir);
    remove(path);
    return bad;
}

/* A given model is measured as it is. */
static int run_given(study *s, stage *g) {
    dpo_model *m = model_for(s, g);
    int bad;
    memset(&g->point[0], 0, sizeof g->point[0]);
    g->points = 1;
    bad = !m || measure(s, g, m, &g->point[0]) || write_result(g);
    dpo_model_free(m);
    return bad;
}

static int run_stage(study *s, stage *g) {
    dpo_train_config k = config_of(s, g);
    dpo_trainer *t = NULL;
    dpo_model *m;
    progress p;
    int bad;
    memset(&p, 0, sizeof p);
    if (make_dirs(g->dir, "--output")) return 1;
    if (g->kind == GIVEN) return run_given(s, g);
    m = model_for(s, g);
    t = m ? dpo_trainer_create(m, s->set[g->set], &k) : NULL;
    bad = !t || train(s, g, m, t, &p);
    s->training = 0;
    dpo_trainer_free(t);
    bad = bad || finish(s, g, m, &p);
    free(p.metrics);
    dpo_model_free(m);
    return bad;
}

/* Reads what an earlier run has left of a stage; 0 if there is nothing whole. */
static int stage_cached(study *s, stage *g) {
    char path[4096 + 16], *text;
    size_t bytes;
    int bad;
    if (!holds(g->dir, "result.json")) return 0;
    snprintf(path, sizeof path, "%s/result.json", g->dir);
    text = read_file(path, 1 << 26, &bytes);
    if (!text) return 0;
    bad = points_read(s, g, text, bytes) || !g->points;
    if (bad) g->points = 0;
    free(text);
    g->cached = !bad;
    return !bad;
}

/* ---- the table of stages ---------------------------------------------------------------------------------------- */

/* In an id stand the study's names and betas; in a name those that the data have, and those of this run. */
static void name_part(const study *s, stage *g) {
    const char *p = g->id;
    size_t n, used = 0;
    for (;; p += n + 1) {
        n = strcspn(p, "-");
        if (s->model_dir && n == 2 && !memcmp(p, "hh", 2)) used += (size_t)sprintf(g->name + used, "helpful");
        else if (s->model_dir && n == 3 && !memcmp(p, "shp", 3)) used += (size_t)sprintf(g->name + used, "harmless");
        else if (*p == '0') used += (size_t)sprintf(g->name + used, "%s", cli_number(g->beta));
        else used += (size_t)sprintf(g->name + used, "%.*s", (int)n, p);
        if (!p[n]) return;
        g->name[used++] = '-';
    }
}

static int add_stage(study *s, const char *id, int kind, int from, int set, double beta) {
    stage *g = &s->stage[s->stages];
    memset(g, 0, sizeof *g);
    snprintf(g->id, sizeof g->id, "%s", id);
    g->kind = kind;
    g->from = from;
    g->set = set;
    g->beta = beta * s->beta_scale;
    name_part(s, g);
    g->epochs = g->parts = 1;
    return s->stages++;
}

static const double betas[4] = {0.05, 0.1, 0.3, 0.5};

/* Later ones start from earlier ones. Equal stages would have equal keys: none stands here twice. */
static void plan_stages(study *s) {
    int base = add_stage(s, "base", s->model_dir ? GIVEN : PRETRAIN, -1, TEXT, 0), sft[3], i, k, at;
    char name[48];
    sft[CHATS] = add_stage(s, "sft-hh", SFT, base, CHATS_SFT, 0);
    sft[FORUM] = add_stage(s, "sft-shp", SFT, base, FORUM_SFT, 0);
    sft[2] = add_stage(s, "sft-alpaca", SFT, base, INSTRUCTIONS, 0);
    for (k = CHATS; k <= FORUM; k++)
        for (i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "dpo-%s-beta-%s", k ? "shp" : "hh", cli_number(betas[i]));
            at = add_stage(s, name, DPO, sft[k], k, betas[i]);
            if (k == CHATS && i == 1) s->stage[at].parts = 4;
        }
    for (i = 0; i < 2; i++) {
        at = add_stage(s, i ? "dpo-hh-bf16-lora" : "dpo-hh-bf16", DPO, sft[CHATS], CHATS, 0.1);
        s->stage[at].precision = DPO_PRECISION_MIXED;
        s->stage[at].lora = i;
        s->stage[at].parts = 4;
    }
    at = add_stage(s, "dpo-hh-3-epochs", DPO, sft[CHATS], CHATS, 0.1);
    s->stage[at].epochs = 3;
    s->stage[at].parts = 6;
    for (k = CHATS; k <= FORUM; k++) {
        static const char *const start[4] = {"hh", "shp", "alpaca", "none"};
        for (i = 0; i < 4; i++) {
            if (i == k) continue;
            snprintf(name, sizeof name, "dpo-%s-after-%s", k ? "shp" : "hh", start[i]);
            add_stage(s, name, DPO, i < 3 ? sft[i] : base, k, 0.1);
        }
    }
}

static uint64_t hash_text(uint64_t h, const char *text) { return dataset_fnv(h, text, strlen(text)); }

/* A stage's directory, by all that its result depends on; the number of the study rises when what this file does with
 * it changes. */
static void name_stage(study *s, stage *g) {
    dpo_train_config t = config_of(s, g);
    char text[512];
    uint64_t h = s->config_hash;
    int i;
    snprintf(text, sizeof text, "study 2 numerics %d world %d|%d %d|%.17g %d %d|%lld %.17g %lld|%d %d %d %d|%d %d",
             DPO_NUMERICS, WORLD_VERSION, g->kind, g->parts, g->kind == DPO ? g->beta : 0, g->precision, g->lora,
             (long long)t.batch_size, t.learning_rate, (long long)t.num_train_epochs, s->n.task_items, s->n.questions,
             s->n.held_documents, SEED, g->kind == DPO ? g->set : -1, g->epochs);
    h = hash_text(h, text);
    h = hash_text(h, g->from < 0 ? "" : s->stage[g->from].dir + strlen(s->output));
    if (g->kind == GIVEN) h = hash_text(h, value_bits(text, s->model_hash));
    else h = hash_text(h, value_bits(text, dpo_data_hash(s->set[g->set])));
    for (i = 0; i < s->task_count; i++) h = dataset_fnv(h, s->tasks[i].text, s->tasks[i].used);
    for (i = HELD_CHATS; i < SETS; i++) h = hash_text(h, value_bits(text, dpo_data_hash(s->set[i])));
    snprintf(g->dir, sizeof g->dir, "%s/cache/%s", s->output, value_bits(text, h));
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

/* Floating-point operations a second of one small update. */
static double measure_speed(study *s, const stage *g, const dpo_plan *p) {
    dpo_train_config k = config_of(s, g);
    dpo_model *m =
        s->model_dir ? dpo_model_load(s->c, s->model_dir) : dpo_model_create_from(s->c, "examples/tiny.json", SEED);
    dpo_trainer *t = m ? dpo_trainer_create(m, s->set[g->set], &k) : NULL;
    double began = cli_clock(), seconds;
    int i;
    for (i = 0; i < 8 && t && !dpo_trainer_step(t, NULL); i++) {
    }
    seconds = cli_clock() - began;
    dpo_trainer_free(t);
    dpo_model_free(m);
    return i && seconds > 0 ? (double)i * (double)k.batch_size * p->flops_per_example / seconds : 0;
}

static int print_plan(study *s) {
    dpo_plan p;
    double speed = 0, all = 0, seconds;
    int i, waiting = 0;
    uint64_t most = 0;
    printf("%-27s %-12s %-9s %5s %10s %8s %10s %10s\n", "stage", "from", "data", "beta", "examples", "updates",
           "memory", "training");
    for (i = 0; i < s->stages; i++) {
        const stage *g = &s->stage[i];
        dpo_train_config k = config_of(s, g);
        dpo_lora_config lora = dpo_lora_defaults(s->config.family);
        dpo_load_config how;
        if (g->kind == GIVEN) continue;
        memset(&how, 0, sizeof how);
        how.precision = g->precision;
        how.frozen = g->lora;
        if (dpo_plan_train(s->c, &s->config, &how, g->lora ? &lora : NULL, &k, s->set[g->set], NULL, &p))
            return failed(s);
        if (!(speed > 0)) speed = measure_speed(s, g, &p);
        seconds = speed > 0 ? p.flops_per_example * (double)(p.examples * g->epochs) / speed : NAN;
        printf("%-27s %-12s %-9s %5s %10s %8s %10s %10s\n", g->name, g->from < 0 ? "-" : s->stage[g->from].name,
               s->set_name[g->set], g->kind == DPO ? cli_number(g->beta) : "-",
               cli_count((uint64_t)(p.examples * g->epochs)), cli_count((uint64_t)p.steps), cli_bytes(p.total),
               g->cached ? "done" : cli_duration(seconds));
        if (p.total > most) most = p.total;
        if (g->cached) continue;
        waiting++;
        all += seconds;
    }
    printf("%d of %d stages to do: about %s of training at the speed of a first trial; measuring takes about half as "
           "long again; at most %s of memory at a time\n\n",
           waiting, s->stages, cli_duration(all), cli_bytes(most));
    fflush(stdout);
    return dpo_status(s->c) ? failed(s) : 0;
}

#include "study_tables.h"

/* ---- the run ---------------------------------------------------------------------------------------------------- */

/* An update under way is finished, and saved. */
static int on_cancel(void *user) { return cli_stopped() && !((const study *)user)->training; }

static void on_progress(void *user, const char *what, int64_t done, int64_t total) {
    char line[160];
    if (((const study *)user)->training) return; /* its steps have a line of their own */
    snprintf(line, sizeof line, "%s: %s of %s", what, cli_count((uint64_t)done), cli_count((uint64_t)total));
    cli_live(line);
}

/* The files that dpo-report reads, under the stage's name. */
static int show_run(const study *s, const stage *g) {
    char dir[4096];
    if (snprintf(dir, sizeof dir, "%s/runs/%s", s->output, g->name) >= (int)sizeof dir)
        return cli_die("--output %s is too long a path", s->output);
    if (g->kind == GIVEN) return 0;
    if (make_dirs(dir, "--output")) return 1;
    return copy_file(g->dir, "metrics.jsonl", dir, "metrics.jsonl") || copy_file(g->dir, "run.json", dir, "run.json");
}

static int run_stages(study *s) {
    int i;
    for (i = 0; i < s->stages; i++) {
        stage *g = &s->stage[i];
        double began = cli_clock();
        if (!g->cached && run_stage(s, g)) {
            cli_live_clear();
            if (cli_stopped()) return cli_die("stopped in %s; the same command goes on from there", g->name);
            return dpo_status(s->c) ? failed(s) : 1;
        }
        if (!g->cached) {
            cli_live_clear();
            printf("%-27s %s\n", g->name, cli_duration(cli_clock() - began));
            fflush(stdout);
        }
        if (show_run(s, g)) return 1;
    }
    return 0;
}

/* The given model's tokenizer and weights, as far as they are wanted before it is trained. */
static int look_at_model(study *s) {
    dpo_model *m;
    if (dpo_model_config_read(s->c, s->model_dir, &s->config)) return failed(s);
    s->tokenizer = s->config.byte_tokenizer ? dpo_tokenizer_bytes(s->c) : dpo_tokenizer_load(s->c, s->model_dir);
    m = dpo_model_load(s->c, s->model_dir);
    if (!s->tokenizer || !m) return failed(s);
    s->model_hash = dpo_model_hash(m);
    dpo_model_free(m);
    return 0;
}

static int hash_config(study *s) {
    char path[4096] = "examples/tiny.json", *text;
    size_t bytes;
    if (s->model_dir && path_join(path, sizeof path, s->model_dir, "config.json")) return 1;
    text = read_file(path, 1 << 24, &bytes);
    if (!text) return 1;
    s->config_hash = dataset_fnv(1469598103934665603u, text, bytes);
    free(text);
    return 0;
}

static int run(study *s) {
    static const sizes full = {8000, 4000, 2000, 1200, 128, 256, 512, 80};
    static const sizes quick = {4000, 1600, 800, 320, 64, 128, 160, 40};
    static const sizes full_given = {0, 0, 1000, 1000, 200, 0, 0, 120};
    static const sizes quick_given = {0, 0, 200, 200, 100, 0, 0, 40};
    static const sizes smoke = {32, 16, 16, 16, 8, 16, 4, 8}, smoke_given = {0, 0, 16, 40, 4, 0, 0, 2};
    int i;
    s->n = s->smoke       ? s->model_dir ? smoke_given : smoke
           : s->model_dir ? s->quick ? quick_given : full_given
           : s->quick     ? quick
                          : full;
    s->set_name = s->model_dir ? given_set_name : world_set_name;
    s->beta_scale = s->model_dir ? 1 : 10;
    s->json = dpo_json_create(s->c);
    if (!s->json) return failed(s);
    if (s->model_dir) {
        if (look_at_model(s) || read_data(s)) return 1;
    } else {
        s->tokenizer = dpo_tokenizer_bytes(s->c);
        if (dpo_model_config_read(s->c, "examples/tiny.json", &s->config)) return failed(s);
        if (make_data(s)) return 1;
    }
    if (hash_config(s)) return 1;
    plan_stages(s);
    for (i = 0; i < s->stages; i++) {
        name_stage(s, &s->stage[i]);
        stage_cached(s, &s->stage[i]);
    }
    if (print_plan(s) || s->plan_only) return dpo_status(s->c) != DPO_OK;
    if (run_stages(s)) return 1;
    return study_report(s);
}

int main(int argc, char **argv) {
    static study s;
    cli_program p =
        cli_program_make("study", "0.1.0", "[options]",
                         "The study as one program, on the little world: pretrains, fine-tunes and measures "
                         "a small model in every way that the study compares, and says of each finding "
                         "whether it repeats.");
    cli_option options[] = {CLI_STRING("model", &s.model_dir, "DIR", "",
                                       "a Hugging Face model to study instead of the little world; with --data"),
                            CLI_STRING("data", &s.data_dir, "DIR", "",
                                       "its data: HH, Alpaca, text, tasks; see read_data in examples/study.c"),
                            CLI_DOUBLE("sft-learning-rate", &s.sft_learning_rate, 0, 1, "", "0: 0.128 / hidden size"),
                            CLI_DOUBLE("learning-rate", &s.learning_rate, 0, 1, "",
                                       "of DPO, with adapters ten times as much; 0: 0.0064 / hidden size, in the "
                                       "little world 0.0002"),
                            CLI_STRING("output", &s.output, "DIR", "", "where everything goes"),
                            CLI_FLAG("quick", &s.quick, "", "less of everything: a rehearsal, with wide intervals"),
                            CLI_FLAG("smoke", &s.smoke, "", "next to nothing of everything: whether it runs"),
                            CLI_FLAG("plan", &s.plan_only, "", "say what would be done, and end"),
                            CLI_INT("threads", &s.threads, 0, 1024, "", "0: one a core")};
    dpo_desc desc;
    int bad, i;
    s.output = "build/study";
    p.argument_max = 0;
    if (cli_parse(&p, options, CLI_COUNT(options), argc, argv)) return p.exit_code;
    if (!s.model_dir != !s.data_dir) return cli_die("--model and --data go together; expected both or neither");
    cli_catch_signals();
    memset(&desc, 0, sizeof desc);
    desc.n_threads = s.threads;
    desc.progress = on_progress;
    desc.cancel = on_cancel;
    desc.user = &s;
    s.began = cli_clock();
    s.c = dpo_open(&desc);
    if (!s.c) return cli_die("no memory to begin with");
    printf("%s\n", dpo_build_info(s.c));
    bad = run(&s);
    if (!bad && !s.plan_only)
        printf("in all %s, peak memory %s\n", cli_duration(cli_clock() - s.began), cli_bytes(cli_peak_memory()));
    for (i = 0; i < s.task_count; i++) task_set_free(&s.tasks[i]);
    dpo_close(s.c);
    return bad;
}
