/* study_tables.h - what study.c has measured as the study's tables and figures, each beside the published numbers and
 * with a sentence, computed, on whether its finding repeats.
 *
 * Published numbers are those of the study's public code and notebooks (github.com/yishi-cerebras/DPO at f4a0e44 and its
 * history), whose tables are images elsewhere: win rates n = 256, with Wilson's intervals; losses on SlimPajama with the
 * averages put right (a last group of 46 documents had been divided by 100). Where there is none as text it says so.
 *
 * An exhibit is a table (rows of cells) or a figure (series of points with intervals). All are written to study.json,
 *
 *     {"title", "about", "exhibits": [{"id", "title", "claim", "published", "verdict": "repeats" | "does not repeat" |
 *      "open", "finding", "heads": [...], "rows": [[...], ...],
 *      "x", "y", "series": [{"name", "points": [[x, y, low, high], ...]}, ...]}, ...]}
 *
 * and to stdout. A finding repeats if its interval (95 %) lies on the claim's side, does not if it lies on the other, and
 * is open if it holds both; of a claim of two parts both must repeat. "As well", "little", "hardly" mean less than 0.05.
 * It is included by study.c, behind its types. */
#ifndef STUDY_TABLES_H
#define STUDY_TABLES_H

enum { ROWS = 12, COLUMNS = 8, CELL = 96, SERIES = 6, DRAWS = 4000 };
enum { OPEN, REPEATS, CONTRARY };
static const char *const verdict_name[3] = {"open", "repeats", "does not repeat"};

typedef struct series {
    char name[64];
    int points;
    double at[POINTS][4]; /* x, y, low, high; NaN: no interval */
} series;

typedef struct exhibit {
    const char *id, *title, *claim, *published, *x, *y;
    const char *head[COLUMNS];
    char cell[ROWS][COLUMNS][CELL];
    int columns, rows, curves, verdict;
    series curve[SERIES];
    char finding[1024];
} exhibit;

/* ---- rates, means, differences ---------------------------------------------------------------------------------- */

static double letter_value(char c) { return c == '1' ? 1 : c == 'h' ? 0.5 : 0; }

/* The share of yes among a string's letters with Wilson's interval, ties a half. */
static double rate_of(const char *letters, double *low, double *high) {
    double sum = 0, n = (double)strlen(letters);
    const char *p;
    for (p = letters; *p; p++) sum += letter_value(*p);
    dpo_wilson(sum, n, low, high);
    return n > 0 ? sum / n : NAN;
}

static double mean_of(const double *x, int n, double *low, double *high) {
    double error, mean = dpo_mean(x, n, &error);
    *low = mean - 1.96 * error;
    *high = mean + 1.96 * error;
    return mean;
}

/* Mean of b - a over the same questions, with the bootstrap's interval. */
static double gain_of(const char *a, const char *b, double *low, double *high) {
    double d[ITEMS];
    int n;
    *low = *high = NAN;
    if (!*a || !*b) return NAN;
    for (n = 0; a[n] && b[n] && n < ITEMS; n++) d[n] = letter_value(b[n]) - letter_value(a[n]);
    dpo_bootstrap_mean(d, n, SEED, DRAWS, low, high);
    return dpo_mean(d, n, NULL);
}

/* The same of the losses on text. */
static double loss_gain(const point *a, const point *b, double *low, double *high) {
    double d[TEXTS];
    int n;
    for (n = 0; n < a->texts && n < b->texts; n++) d[n] = b->text[n] - a->text[n];
    *low = *high = NAN;
    dpo_bootstrap_mean(d, n, SEED, DRAWS, low, high);
    return dpo_mean(d, n, NULL);
}

/* What the interval of a difference says of a claim that it is above 0; that it is small, less than SMALL. */
static int verdict_above(double low, double high) { return low > 0 ? REPEATS : high < 0 ? CONTRARY : OPEN; }

#define SMALL 0.05
static int verdict_small(double low, double high) {
    return low > -SMALL && high < SMALL ? REPEATS : low > SMALL || high < -SMALL ? CONTRARY : OPEN;
}

/* Of a claim of two parts. */
static int verdict_both(int a, int b) {
    return a == CONTRARY || b == CONTRARY ? CONTRARY : a == REPEATS && b == REPEATS ? REPEATS : OPEN;
}

/* ---- filling in ------------------------------------------------------------------------------------------------- */

static const stage *stage_named(const study *s, const char *id) {
    int i;
    for (i = 0; i < s->stages; i++)
        if (!strcmp(s->stage[i].id, id)) return &s->stage[i];
    return NULL; /* no name stands here that plan_stages has not */
}

static const point *end_of(const stage *g) { return &g->point[g->points - 1]; }
static const point *end_named(const study *s, const char *name) { return end_of(stage_named(s, name)); }

static void cell_text(exhibit *e, int column, const char *text) {
    snprintf(e->cell[e->rows][column], CELL, "%s", text);
}

static void cell_interval(exhibit *e, int column, int digits, double v, double low, double high) {
    snprintf(e->cell[e->rows][column], CELL, "%.*f [%.*f, %.*f]", digits, v, digits, low, digits, high);
}

static void cell_rate(exhibit *e, int column, const char *letters) {
    double low, high, v = rate_of(letters, &low, &high);
    if (!*letters) cell_text(e, column, "nobody judged");
    else cell_interval(e, column, 3, v, low, high);
}

static void cell_loss(exhibit *e, int column, const point *p) {
    double low, high, v = mean_of(p->text, p->texts, &low, &high);
    cell_interval(e, column, 4, v, low, high);
}

static void cell_loss_gain(exhibit *e, int column, const point *a, const point *b) {
    double low, high, v = loss_gain(a, b, &low, &high);
    snprintf(e->cell[e->rows][column], CELL, "%+.4f [%+.4f, %+.4f]", v, low, high);
}

/* A published number of HH or SHP; harmless pairs, which stand in SHP's place for a given model, have none. */
static void cell_published(const study *s, exhibit *e, int column, int set, const char *text) {
    cell_text(e, column, set == FORUM && s->model_dir ? "none" : text);
}

static series *curve_start(exhibit *e, const char *name) {
    series *c = &e->curve[e->curves++];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->points = 0;
    return c;
}

static void curve_add(series *c, double x, double y, double low, double high) {
    double *at = c->at[c->points++];
    at[0] = x;
    at[1] = y;
    at[2] = low;
    at[3] = high;
}

static void curve_outcome(exhibit *e, const char *name, const stage *g, int outcome) {
    series *c;
    double low, high;
    int i;
    if (!*g->point[0].outcome[outcome]) return;
    c = curve_start(e, name);
    for (i = 0; i < g->points; i++) {
        double v = rate_of(g->point[i].outcome[outcome], &low, &high);
        curve_add(c, g->point[i].epoch, v, low, high);
    }
}

/* The little world's last task asks for whole answers as its pairs prefer them; the others, and all of a given model's,
 * have nothing to do with pairs, as the study's have not. */
static int plain_tasks(const study *s) { return s->model_dir ? s->task_count : s->task_count - 1; }

/* The letters of `count` tasks from `first` on. */
static const char *letters_of(const study *s, const point *p, int first, int count, char out[ITEMS + 1]) {
    int from = task_first(s, first), n = task_first(s, first + count) - from;
    memcpy(out, p->outcome[TASKS] + from, (size_t)n);
    out[n] = 0;
    return out;
}

static double task_gain(const study *s, const point *a, const point *b, int first, int count, double *low,
                        double *high) {
    char before[ITEMS + 1], after[ITEMS + 1];
    return gain_of(letters_of(s, a, first, count, before), letters_of(s, b, first, count, after), low, high);
}

static void curve_tasks(const study *s, exhibit *e, const char *name, const stage *g, int first, int count) {
    series *c = count ? curve_start(e, name) : NULL;
    char letters[ITEMS + 1];
    double low, high;
    int i;
    for (i = 0; i < g->points && c; i++) {
        double v = rate_of(letters_of(s, &g->point[i], first, count, letters), &low, &high);
        curve_add(c, g->point[i].epoch, v, low, high);
    }
}

/* Published points, by epochs of 2,500 updates. */
static void curve_published(exhibit *e, const char *name, const double *step, const double *v, int n) {
    series *c = curve_start(e, name);
    int i;
    for (i = 0; i < n; i++) curve_add(c, step[i] / 2500, v[i], NAN, NAN);
}

/* Findings on win rates, where nobody judged. */
static int nobody_judges(const study *s, exhibit *e) {
    if (!s->model_dir) return 0;
    e->verdict = OPEN;
    snprintf(e->finding, sizeof e->finding, "It cannot be told here: nobody judged the models' answers.");
    return 1;
}

static const char *repeats_words(int verdict) {
    static const char *const words[3] = {"It cannot be told here", "The finding repeats here",
                                         "The finding does not repeat here"};
    return words[verdict];
}

/* ---- the exhibits ----------------------------------------------------------------------------------------------- */

static void claim_dpo(const study *s, exhibit *e) {
    static const char *const sft[2] = {"sft-hh", "sft-shp"}, *const dpo[2] = {"dpo-hh-beta-0.1", "dpo-shp-beta-0.1"};
    static const char *const published[4] = {"0.43 [0.37, 0.49]", "0.74 [0.69, 0.79]", "0.30 [0.25, 0.36]",
                                             "0.36 [0.30, 0.42]"};
    double low[2], high[2], gain[2];
    int k, verdict[2];
    static const char *const heads[4] = {"model", "data", "wins against chosen", "published (BTLM-3B)"};
    e->id = "claim";
    e->title = "DPO against SFT";
    e->claim = "DPO beats the SFT model that it starts from.";
    e->published = "Win rates by GPT-4 against the data's chosen answers, beta 0.1.";
    e->columns = 4;
    memcpy(e->head, heads, sizeof heads);
    for (k = 0; k < 2; k++) {
        const point *a = end_named(s, sft[k]), *b = end_named(s, dpo[k]);
        cell_text(e, 0, "SFT");
        cell_text(e, 1, s->set_name[k]);
        cell_rate(e, 2, a->outcome[ANSWERS + k]);
        cell_published(s, e, 3, k, published[2 * k]);
        e->rows++;
        cell_text(e, 0, "SFT + DPO");
        cell_text(e, 1, s->set_name[k]);
        cell_rate(e, 2, b->outcome[ANSWERS + k]);
        cell_published(s, e, 3, k, published[2 * k + 1]);
        e->rows++;
        gain[k] = gain_of(a->outcome[ANSWERS + k], b->outcome[ANSWERS + k], &low[k], &high[k]);
        verdict[k] = verdict_above(low[k], high[k]);
    }
    if (nobody_judges(s, e)) return;
    e->verdict = verdict_both(verdict[0], verdict[1]);
    snprintf(e->finding, sizeof e->finding,
             "%s: DPO changes the win rate by %+.3f [%+.3f, %+.3f] on HH's form and by %+.3f [%+.3f, %+.3f] on SHP's.",
             repeats_words(e->verdict), gain[0], low[0], high[0], gain[1], low[1], high[1]);
}

static void cell_tasks(const study *s, exhibit *e, int column, const point *p, int first, int count) {
    char letters[ITEMS + 1];
    cell_rate(e, column, letters_of(s, p, first, count, letters));
}

/* What is to be said of the task of whole answers, from a to b. */
static void say_reply(const study *s, exhibit *e, const point *a, const point *b) {
    size_t n = strlen(e->finding);
    double low, high, gain;
    if (plain_tasks(s) == s->task_count) return;
    gain = task_gain(s, a, b, plain_tasks(s), 1, &low, &high);
    snprintf(
        e->finding + n, sizeof e->finding - n,
        " The task of whole answers, which is near to what the pairs prefer and is not counted: %+.4f [%+.4f, %+.4f].",
        gain, low, high);
}

static void table_1(const study *s, exhibit *e) {
    static const char *const name[4] = {"base", "sft-hh", "dpo-hh-beta-0.1", "dpo-shp-beta-0.1"};
    static const char *const published[4] = {"not as text", "0.521 BTLM, 0.473 Pythia", "0.532 BTLM, 0.485 Pythia",
                                             "not as text"};
    int plain = plain_tasks(s), shown = plain < 5 ? plain : 5;
    const point *before = end_named(s, "sft-hh"), *after = end_named(s, "dpo-hh-beta-0.1");
    double low, high, gain = task_gain(s, before, after, 0, plain, &low, &high);
    int i, k;
    e->id = "table-1";
    e->title = "Table 1: downstream tasks";
    e->claim = "DPO lifts the average over downstream tasks by about 2 % (relative).";
    e->published =
        "Averages over tasks before and after an epoch of DPO on HH, beta 0.1; the values of single tasks are "
        "not published as text. Here the share of all items of the tasks, and of some tasks.";
    e->head[0] = "model";
    for (k = 0; k < shown; k++) e->head[k + 1] = s->task_name[k];
    e->head[shown + 1] = "average";
    e->head[shown + 2] = "published average";
    e->columns = shown + 3;
    if (plain < s->task_count) e->head[e->columns++] = s->task_name[plain];
    for (i = 0; i < 4; i++) {
        const point *p = end_named(s, name[i]);
        cell_text(e, 0, stage_named(s, name[i])->name);
        for (k = 0; k < shown; k++) cell_tasks(s, e, k + 1, p, k, 1);
        cell_tasks(s, e, shown + 1, p, 0, plain);
        cell_text(e, shown + 2, published[i]);
        if (plain < s->task_count) cell_tasks(s, e, shown + 3, p, plain, 1);
        e->rows++;
    }
    e->verdict = verdict_above(low, high);
    snprintf(e->finding, sizeof e->finding,
             "%s: DPO on %s changes the average by %+.4f [%+.4f, %+.4f] (published: +0.011 and +0.012).",
             repeats_words(e->verdict), s->set_name[CHATS], gain, low, high);
    say_reply(s, e, before, after);
}

static void figure_1(const study *s, exhibit *e) {
    static const double step[6] = {0, 500, 1000, 1500, 2000, 2500}, btlm[6] = {.521, .526, .531, .532, .531, .532},
                        pythia[6] = {.4731, .4735, .4741, .4837, .4851, .4848};
    const stage *g = stage_named(s, "dpo-hh-beta-0.1");
    const point *start = &g->point[0], *half = &g->point[g->points / 2], *end = end_of(g);
    int plain = plain_tasks(s);
    double low, high, rest_low, rest_high, gain = task_gain(s, start, half, 0, plain, &low, &high),
                                           rest = task_gain(s, half, end, 0, plain, &rest_low, &rest_high);
    e->id = "figure-1";
    e->title = "Figure 1: downstream tasks during DPO";
    e->claim = "The average over the tasks rises during DPO, most of it in the first half of the epoch.";
    e->published = "BTLM-3B and Pythia-2.8B, beta 0.1, by epochs of 2,500 updates.";
    e->x = "epochs";
    e->y = "average accuracy";
    curve_tasks(s, e, "here", g, 0, plain);
    curve_tasks(s, e, "here: whole answers", g, plain, s->task_count - plain);
    curve_published(e, "published: BTLM", step, btlm, 6);
    curve_published(e, "published: Pythia", step, pythia, 6);
    e->verdict = verdict_above(low, high);
    if (e->verdict == REPEATS && rest_high > gain) e->verdict = OPEN; /* the second half may have brought more */
    snprintf(e->finding, sizeof e->finding,
             "%s: in the first half of the epoch the average changes by %+.4f [%+.4f, %+.4f], in the second by %+.4f "
             "[%+.4f, %+.4f].",
             repeats_words(e->verdict), gain, low, high, rest, rest_low, rest_high);
    say_reply(s, e, start, end);
}

static const char *const precision_stage[3] = {"dpo-hh-beta-0.1", "dpo-hh-bf16", "dpo-hh-bf16-lora"};
static const char *const precision_words[3] = {"fp32", "bf16", "bf16 + LoRA"};

static void table_2(const study *s, exhibit *e) {
    static const char *const wins[3] = {"0.734 [0.68, 0.79]", "0.73 [0.67, 0.78]", "blank"}, *const accuracies[3] = {
                                                                                                 "0.6602", "0.6149",
                                                                                                 "0.5834"};
    static const char *const heads[5] = {"precision", "wins against chosen", "published (Pythia-2.8B)",
                                         "rewards/accuracies", "published"};
    const point *p[3];
    double low, high, lora_low, lora_high, gain, lora;
    int i;
    e->id = "table-2";
    e->title = "Table 2: fp32, bf16, bf16 with LoRA";
    e->claim = "bf16 answers as well as fp32; with adapters rewards/accuracies are lower.";
    e->published = "Win rates of fp32's checkpoint after 60,000 examples and of bf16's at the end of the epoch; "
                   "rewards/accuracies at the end.";
    e->columns = 5;
    memcpy(e->head, heads, sizeof heads);
    for (i = 0; i < 3; i++) {
        p[i] = end_named(s, precision_stage[i]);
        cell_text(e, 0, precision_words[i]);
        cell_rate(e, 1, p[i]->outcome[ANSWERS + CHATS]);
        cell_text(e, 2, wins[i]);
        cell_rate(e, 3, p[i]->outcome[PREFERRED]);
        cell_text(e, 4, accuracies[i]);
        e->rows++;
    }
    gain = gain_of(p[0]->outcome[ANSWERS + CHATS], p[1]->outcome[ANSWERS + CHATS], &low, &high);
    lora = gain_of(p[1]->outcome[PREFERRED], p[2]->outcome[PREFERRED], &lora_low, &lora_high);
    if (nobody_judges(s, e)) return;
    e->verdict = verdict_both(verdict_small(low, high), verdict_above(-lora_high, -lora_low));
    snprintf(e->finding, sizeof e->finding,
             "%s: bf16 against fp32 changes the win rate by %+.3f [%+.3f, %+.3f] (as well: by less than 0.05); "
             "adapters change "
             "rewards/accuracies by %+.3f [%+.3f, %+.3f].",
             repeats_words(e->verdict), gain, low, high, lora, lora_low, lora_high);
}

static void figure_2(const study *s, exhibit *e) {
    static const double step[6] = {0, 500, 1000, 1500, 2000, 2500},
                        published[3][6] = {{.5117, .6328, .6641, .6406, .6367, .6602},
                                           {.509, .5886, .6094, .6139, .6215, .6149},
                                           {.501, .5576, .573, .5779, .5852, .5834}};
    static const char *const name[3] = {"published: fp32", "published: bf16", "published: bf16 + LoRA"};
    const point *a = end_named(s, precision_stage[0]), *b = end_named(s, precision_stage[1]),
                *c = end_named(s, precision_stage[2]);
    double low, high, gain = gain_of(b->outcome[PREFERRED], a->outcome[PREFERRED], &low, &high);
    double lora_low, lora_high, lora = gain_of(c->outcome[PREFERRED], b->outcome[PREFERRED], &lora_low, &lora_high);
    int i;
    e->id = "figure-2";
    e->title = "Figure 2: rewards/accuracies by precision";
    e->claim = "fp32 reaches higher rewards/accuracies than bf16, bf16 higher ones than bf16 with LoRA.";
    e->published =
        "Pythia-2.8B, beta 0.1. Here bf16 means products of bf16 operands on fp32 weights, as autocast does.";
    e->x = "epochs";
    e->y = "rewards/accuracies";
    for (i = 0; i < 3; i++) curve_outcome(e, precision_words[i], stage_named(s, precision_stage[i]), PREFERRED);
    for (i = 0; i < 3; i++) curve_published(e, name[i], step, published[i], 6);
    e->verdict = verdict_both(verdict_above(low, high), verdict_above(lora_low, lora_high));
    snprintf(
        e->finding, sizeof e->finding,
        "%s: at the end fp32 is %+.3f [%+.3f, %+.3f] above bf16 (published: +0.045), bf16 %+.3f [%+.3f, %+.3f] above "
        "bf16 with LoRA (published: +0.032).",
        repeats_words(e->verdict), gain, low, high, lora, lora_low, lora_high);
}

static const point *end_of_beta(const study *s, int set, int i) {
    char name[48];
    snprintf(name, sizeof name, "dpo-%s-beta-%s", set == CHATS ? "hh" : "shp", cli_number(betas[i]));
    return end_named(s, name);
}

/* The beta of this run, and the study's where it is another one. */
static const char *beta_head(const study *s) { return s->beta_scale > 1 ? "beta (there)" : "beta"; }

static void cell_beta(const study *s, exhibit *e, int column, int i) {
    char *cell = e->cell[e->rows][column];
    if (s->beta_scale > 1) snprintf(cell, CELL, "%.4g (%.4g)", s->beta_scale * betas[i], betas[i]);
    else snprintf(cell, CELL, "%.4g", betas[i]);
}

static void table_3(const study *s, exhibit *e) {
    static const char *const published[2][4] = {{"not comparable", "+0.0213", "+0.0171", "+0.0165"},
                                                {"not as text", "+0.0125", "+0.0066", "not as text"}};
    const char *const heads[6] = {"data",         beta_head(s),  "loss on text",
                                  "against base", "against SFT", "published, against base"};
    const point *base = end_named(s, "base");
    double low[2], high[2], gain[2], rise_low, rise_high;
    int i, k, v[2];
    e->id = "table-3";
    e->title = "Table 3: forgetting";
    e->claim = "Loss on text rises by DPO (beta 0.1), and rises less where beta is larger.";
    e->published = "Loss on SlimPajama against BTLM-3B's own, averages put right.";
    e->columns = 6;
    memcpy(e->head, heads, sizeof heads);
    for (k = CHATS; k <= FORUM; k++) {
        const point *sft = end_named(s, k == CHATS ? "sft-hh" : "sft-shp");
        cell_text(e, 0, s->set_name[k]);
        cell_text(e, 1, "SFT only");
        cell_loss(e, 2, sft);
        cell_loss_gain(e, 3, base, sft);
        e->rows++;
        for (i = 0; i < 4; i++) {
            const point *p = end_of_beta(s, k, i);
            cell_text(e, 0, s->set_name[k]);
            cell_beta(s, e, 1, i);
            cell_loss(e, 2, p);
            cell_loss_gain(e, 3, base, p);
            cell_loss_gain(e, 4, sft, p);
            cell_published(s, e, 5, k, published[k][i]);
            e->rows++;
        }
        gain[k] = loss_gain(end_of_beta(s, k, 3), end_of_beta(s, k, 0), &low[k], &high[k]);
        (void)loss_gain(sft, end_of_beta(s, k, 1), &rise_low, &rise_high);
        v[k] = verdict_both(verdict_above(low[k], high[k]), verdict_above(rise_low, rise_high));
    }
    e->verdict = verdict_both(v[0], v[1]);
    snprintf(e->finding, sizeof e->finding,
             "%s: with beta %.4g the loss on text is %+.4f [%+.4f, %+.4f] above that with beta %.4g on %s, and %+.4f "
             "[%+.4f, %+.4f] on %s, paired by document.",
             repeats_words(e->verdict), s->beta_scale * betas[0], gain[0], low[0], high[0], s->beta_scale * betas[3],
             s->set_name[CHATS], gain[1], low[1], high[1], s->set_name[FORUM]);
}

static void table_4(const study *s, exhibit *e) {
    static const char *const published[2][4] = {
        {"0.824 [0.77, 0.87]", "0.74 [0.69, 0.79]", "0.59 [0.53, 0.65]", "0.52 [0.46, 0.58]"},
        {"not as text", "0.36 [0.30, 0.42]", "0.40 [0.34, 0.46]", "0.36 [0.30, 0.42]"}};
    const char *const heads[5] = {"data", beta_head(s), "wins against chosen", "published (BTLM-3B)",
                                  "rewards/accuracies"};
    double low[2], high[2], gain[2];
    int i, k;
    e->id = "table-4";
    e->title = "Table 4: beta by data set";
    e->claim = "On HH a smaller beta answers better; on SHP beta makes little difference.";
    e->published = "BTLM-3B with LoRA; beta 0.01 on HH, not run here: 0.852 [0.80, 0.89].";
    e->columns = 5;
    memcpy(e->head, heads, sizeof heads);
    for (k = CHATS; k <= FORUM; k++) {
        for (i = 0; i < 4; i++) {
            const point *p = end_of_beta(s, k, i);
            cell_text(e, 0, s->set_name[k]);
            cell_beta(s, e, 1, i);
            cell_rate(e, 2, p->outcome[ANSWERS + k]);
            cell_published(s, e, 3, k, published[k][i]);
            cell_rate(e, 4, p->outcome[PREFERRED]);
            e->rows++;
        }
        gain[k] = gain_of(end_of_beta(s, k, 3)->outcome[ANSWERS + k], end_of_beta(s, k, 0)->outcome[ANSWERS + k],
                          &low[k], &high[k]);
    }
    if (nobody_judges(s, e)) return;
    e->verdict = verdict_both(verdict_above(low[CHATS], high[CHATS]), verdict_small(low[FORUM], high[FORUM]));
    snprintf(
        e->finding, sizeof e->finding,
        "%s: beta %.4g instead of %.4g changes the win rate by %+.3f [%+.3f, %+.3f] on HH's form (published: +0.30) "
        "and by %+.3f [%+.3f, %+.3f] on SHP's (little: less than 0.05).",
        repeats_words(e->verdict), s->beta_scale * betas[0], s->beta_scale * betas[3], gain[0], low[0], high[0],
        gain[1], low[1], high[1]);
}

/* Which SFT data before DPO on `set`. */
static void table_start(const study *s, exhibit *e, int set) {
    static const char *const start[2][4] = {
        {"dpo-hh-beta-0.1", "dpo-hh-after-shp", "dpo-hh-after-alpaca", "dpo-hh-after-none"},
        {"dpo-shp-after-hh", "dpo-shp-beta-0.1", "dpo-shp-after-alpaca", "dpo-shp-after-none"}};
    static const char *const words[4] = {"HH", "SHP", "Alpaca", "none"};
    static const char *const published[2][4] = {{"0.74 [0.69, 0.79]", "not as text", "not as text", "not as text"},
                                                {"not as text", "0.36 [0.30, 0.42]", "not as text", "not as text"}};
    static const char *const heads[4] = {"SFT data", "wins against chosen", "published (BTLM-3B)",
                                         "rewards/accuracies"};
    const point *own = end_named(s, start[set][set]);
    double low, high, gain, best_low = 0, best_high = 0, best = -INFINITY;
    int i, other = 0, worse = 0;
    e->id = set == CHATS ? "table-5" : "table-6";
    e->title = set == CHATS   ? "Table 5: SFT data under DPO on HH"
               : s->model_dir ? "Table 6: SFT data under DPO on harmless pairs (there on SHP)"
                              : "Table 6: SFT data under DPO on SHP";
    e->claim = "SFT on the chosen answers of DPO's own data is the best start.";
    e->published = "Only the row of DPO's own data is published as text.";
    e->columns = 4;
    memcpy(e->head, heads, sizeof heads);
    for (i = 0; i < 4; i++) {
        const point *p = end_named(s, start[set][i]);
        cell_text(e, 0, i < 2 ? s->set_name[i] : words[i]);
        cell_rate(e, 1, p->outcome[ANSWERS + set]);
        cell_published(s, e, 2, set, published[set][i]);
        cell_rate(e, 3, p->outcome[PREFERRED]);
        e->rows++;
        if (i == set) continue;
        gain = gain_of(own->outcome[ANSWERS + set], p->outcome[ANSWERS + set], &low, &high);
        worse += high < 0;
        if (gain <= best) continue;
        best = gain;
        best_low = low;
        best_high = high;
        other = i;
    }
    if (nobody_judges(s, e)) return;
    e->verdict = worse == 3 ? REPEATS : best_low > 0 ? CONTRARY : OPEN;
    snprintf(
        e->finding, sizeof e->finding,
        "%s: the best other start of three, %s%s, changes the win rate by %+.3f [%+.3f, %+.3f] against SFT on %s; %d "
        "of the three are surely worse.",
        repeats_words(e->verdict), other == 3 ? "no SFT" : "SFT on ", other == 3 ? "" : words[other], best, best_low,
        best_high, words[set], worse);
}

static void table_5(const study *s, exhibit *e) { table_start(s, e, CHATS); }
static void table_6(const study *s, exhibit *e) { table_start(s, e, FORUM); }

static const double long_step[6] = {0, 1000, 3000, 5000, 6000, 7500};

/* Every second letter, from the first or the second on. */
static const char *half_letters(const char *letters, int second, char out[ITEMS + 1]) {
    int i, n = (int)strlen(letters), k = 0;
    for (i = second; i < n; i += 2) out[k++] = letters[i];
    out[k] = 0;
    return out;
}

/* The point with the highest rate, the earliest among equals; by the first half of the questions, or by all. */
static int peak_of(const stage *g, int outcome, int by_half) {
    char half[ITEMS + 1];
    double low, high, best = -1;
    int i, at = 0;
    for (i = 0; i < g->points; i++) {
        const char *letters = g->point[i].outcome[outcome];
        double v = rate_of(by_half ? half_letters(letters, 0, half) : letters, &low, &high);
        if (v > best) at = i;
        if (v > best) best = v;
    }
    return at;
}

/* From point a to b, by the second half: of what was chosen by the first. */
static double gain_after_peak(const stage *g, int outcome, int a, int b, double *low, double *high) {
    char before[ITEMS + 1], after[ITEMS + 1];
    return gain_of(half_letters(g->point[a].outcome[outcome], 1, before),
                   half_letters(g->point[b].outcome[outcome], 1, after), low, high);
}

/* Where the first epoch ends. */
static const point *after_epoch(const stage *g) {
    int i = 0;
    while (i + 1 < g->points && g->point[i].epoch < 0.99) i++;
    return &g->point[i];
}

static void figure_3(const study *s, exhibit *e) {
    static const double accuracies[6] = {.5097, .6085, .6318, .6367, .6369, .6368},
                        tasks[6] = {.4000, .4200, .4121, .4144, .4167, .4150};
    const stage *g = stage_named(s, "dpo-hh-3-epochs");
    const point *first = after_epoch(g), *last = end_of(g);
    double low, high, rise_low, rise_high,
        gain = gain_of(first->outcome[PREFERRED], last->outcome[PREFERRED], &low, &high);
    double half = (high - low) / 2;
    e->id = "figure-3";
    e->title = "Figure 3: rewards/accuracies and tasks over three epochs";
    e->claim = "rewards/accuracies rise fast in the first epoch and hardly afterwards.";
    e->published = "Most likely Pythia-1.4B, beta 0.05, 512 samples; by epochs of 2,500 updates.";
    e->x = "epochs";
    e->y = "share";
    curve_outcome(e, "rewards/accuracies", g, PREFERRED);
    curve_tasks(s, e, "tasks", g, 0, plain_tasks(s));
    curve_published(e, "published: rewards/accuracies", long_step, accuracies, 6);
    curve_published(e, "published: tasks", long_step, tasks, 6);
    gain_of(g->point[0].outcome[PREFERRED], first->outcome[PREFERRED], &rise_low, &rise_high);
    e->verdict = low > SMALL || rise_high < 0 ? CONTRARY : high < SMALL && rise_low > 0 ? REPEATS : OPEN;
    snprintf(
        e->finding, sizeof e->finding,
        "%s: from the first epoch's end to the third's rewards/accuracies change by %+.3f [%+.3f, %+.3f] (published: "
        "about +0.01; counted as hardly: less than 0.05%s).",
        repeats_words(e->verdict), gain, low, high, half > 0.05 ? ", which so few pairs cannot show" : "");
}

static void figure_4(const study *s, exhibit *e) {
    static const double wins[6] = {.2227, .3730, .3730, .4316, .4219, .4238};
    const stage *g = stage_named(s, "dpo-hh-3-epochs");
    int accuracy = peak_of(g, PREFERRED, 0), win = peak_of(g, ANSWERS + CHATS, 1);
    double low, high, rise_low, rise_high, lost = gain_after_peak(g, ANSWERS + CHATS, accuracy, win, &low, &high);
    e->id = "figure-4";
    e->title = "Figure 4: when to stop";
    e->claim = "rewards/accuracies tell when to stop: win rates peak where they do.";
    e->published = "Win rates against chosen by GPT-4, 512 samples; both peak about 5,000 updates, two epochs.";
    e->x = "epochs";
    e->y = "wins against chosen";
    curve_outcome(e, "here", g, ANSWERS + CHATS);
    curve_published(e, "published", long_step, wins, 6);
    if (nobody_judges(s, e)) return;
    (void)gain_after_peak(g, ANSWERS + CHATS, 0, win, &rise_low, &rise_high);
    e->verdict = low > 0 ? CONTRARY : high < SMALL && rise_low > 0 ? REPEATS : OPEN;
    snprintf(
        e->finding, sizeof e->finding,
        "%s: rewards/accuracies peak after %.2g epochs, win rates after %.2g; stopping at the former costs %.3f [%.3f, "
        "%.3f] of the win rate (its peak by one half of the questions, the cost by the other; counted as repeated: "
        "surely "
        "less than 0.05).",
        repeats_words(e->verdict), g->point[accuracy].epoch, g->point[win].epoch, lost, low, high);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void write_strings(FILE *f, const char *const *text, int n) {
    int i;
    for (i = 0; i < n; i++) {
        fputs(i ? ", " : "[", f);
        cli_json_string(f, text[i], strlen(text[i]));
    }
    fputs("]", f);
}

static void write_curves(FILE *f, const exhibit *e) {
    int i, k, n;
    write_field(f, ",\n  ", "x", e->x);
    write_field(f, ", ", "y", e->y);
    fputs(", \"series\": [", f);
    for (i = 0; i < e->curves; i++) {
        write_field(f, i ? ",\n   {" : "\n   {", "name", e->curve[i].name);
        for (k = 0; k < e->curve[i].points; k++) {
            fputs(k ? ", [" : ", \"points\": [[", f);
            for (n = 0; n < 4; n++) {
                if (n) fputs(", ", f);
                cli_json_number(f, e->curve[i].at[k][n]);
            }
            fputs("]", f);
        }
        fputs("]}", f);
    }
    fputs("]", f);
}

static void write_exhibit(FILE *f, const exhibit *e) {
    int i, k;
    write_field(f, " {", "id", e->id);
    write_field(f, ", ", "title", e->title);
    write_field(f, ",\n  ", "claim", e->claim);
    write_field(f, ",\n  ", "published", e->published);
    write_field(f, ",\n  ", "verdict", verdict_name[e->verdict]);
    write_field(f, ",\n  ", "finding", e->finding);
    if (e->columns) {
        fputs(",\n  \"heads\": ", f);
        write_strings(f, e->head, e->columns);
        fputs(", \"rows\": [", f);
        for (i = 0; i < e->rows; i++) {
            const char *cell[COLUMNS];
            for (k = 0; k < e->columns; k++) cell[k] = e->cell[i][k];
            fputs(i ? ",\n   " : "\n   ", f);
            write_strings(f, cell, e->columns);
        }
        fputs("]", f);
    }
    if (e->curves) write_curves(f, e);
    fputs("}", f);
}

static void print_exhibit(const exhibit *e) {
    int i, k;
    printf("\n%s\n", e->title);
    for (i = -1; i < e->rows && e->columns; i++)
        for (k = 0; k < e->columns; k++) {
            const char *text = i < 0 ? e->head[k] : e->cell[i][k];
            int width = 0, j;
            for (j = -1; j < e->rows; j++) {
                int n = (int)strlen(j < 0 ? e->head[k] : e->cell[j][k]);
                if (n > width) width = n;
            }
            printf("  %-*s%s", k + 1 < e->columns ? width : 1, text, k + 1 < e->columns ? "" : "\n");
        }
    for (i = 0; i < e->curves; i++) {
        printf("  %s, %s by %s:", e->curve[i].name, e->y, e->x);
        for (k = 0; k < e->curve[i].points; k++) printf(" %.2g: %.3f", e->curve[i].at[k][0], e->curve[i].at[k][1]);
        printf("\n");
    }
    printf("  %s\n", e->finding);
}

#define ABOUT_MEASURES                                                                                                 \
    "rewards/accuracies: share of held-out pairs whose better answer gained more log-probability over the reference, " \
    "ties a half. In brackets: intervals of 95 %, Wilson's for rates, by paired bootstrap for differences."
static const char about_world[] =
    "A byte-level model of a million weights, on the little world of Puddle. Loss on text: nats a byte on documents "
    "held "
    "out. Wins against chosen: share of held-out questions to which the model's answer, sampled at temperature 0.7, "
    "scores above the data's chosen answer by the village's rule, ties a half: as most chosen answers are as good as "
    "can "
    "be, about 0.7 is the most. Betas are ten times the study's, as answers are worth far fewer nats here; they and "
    "the "
    "learning rate were chosen on other draws of the same world. " ABOUT_MEASURES;
static const char about_given[] = "A given model. Loss on text: nats a token. The harmless pairs of HH stand in SHP's "
                                  "place; nobody judges answers, so "
                                  "there are no win rates. " ABOUT_MEASURES;

static int study_report(study *s) {
    static void (*const fill[])(const study *, exhibit *) = {claim_dpo, table_1,  table_2,  table_3,  table_4, table_5,
                                                             table_6,   figure_1, figure_2, figure_3, figure_4};
    char path[4096 + 16], *text = NULL;
    size_t bytes = 0, i;
    FILE *f = open_memstream(&text, &bytes);
    int bad;
    if (!f) return cli_die("no memory for the tables");
    write_field(f, "{", "title", s->model_dir ? "The study on a given model" : "The study on the little world");
    write_field(f, ",\n", "about", s->model_dir ? about_given : about_world);
    fprintf(f, ",\n\"quick\": %s, \"exhibits\": [", s->quick ? "true" : "false");
    for (i = 0; i < sizeof fill / sizeof *fill; i++) {
        exhibit e;
        memset(&e, 0, sizeof e);
        fill[i](s, &e);
        fputs(i ? ",\n" : "\n", f);
        write_exhibit(f, &e);
        print_exhibit(&e);
    }
    fputs("\n]}\n", f);
    if (fclose(f)) return cli_die("no memory for the tables");
    snprintf(path, sizeof path, "%s/study.json", s->output);
    bad = write_file(path, text, bytes);
    free(text);
    if (!bad) printf("\n%s: all of it, for dpo-report --study\n", path);
    return bad;
}

#endif /* STUDY_TABLES_H */
