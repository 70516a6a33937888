/* verdicts.h: what judges said of a model's answers, for dpo-judge: the file of verdicts, and the report: win rates with
 * their intervals, what order and length have to do with them, two models on the same prompts.
 *
 *     verdicts v;
 *     if (verdicts_read(&v, context, path)) return 1;
 *     failed = report(&options, &v, 1);
 *     verdicts_free(&v);
 */
#ifndef TOOLS_VERDICTS_H
#define TOOLS_VERDICTS_H

#include "formats/judge.h"
#include "jsonl.h"

/* ---- verdicts --------------------------------------------------------------------------------------------------- */

enum { OUTCOME_WIN, OUTCOME_LOSS, OUTCOME_TIE, OUTCOME_INVALID, OUTCOME_FAILED, OUTCOME_MISSING, OUTCOMES };
#define OUTCOME_WORDS "win|loss|tie|invalid|failed|missing"

static inline const char *outcome_name(int outcome) {
    static const char *const name[] = {"win", "loss", "tie", "invalid", "failed", "missing"};
    return name[outcome];
}

/* One question to the judge and what came of it, seen from the policy. */
typedef struct game {
    const char *id;
    char slot; /* the policy's of the two answers, 'A' or 'B'; '-': the judge knows no order */
    int outcome, compat;
    int64_t policy_chars, baseline_chars;
    uint64_t prompt, baseline; /* hashes */
    const char *note;          /* of a built-in judge: why; or NULL */
    int64_t line;              /* of the file it was read from */
} game;

typedef struct verdicts {
    const char *path;
    char run[RUN_DIGITS + 1];
    char judge[256]; /* what it is, in words */
    game *g;         /* sorted by id, then slot, once verdicts_sort was called */
    int64_t n, room;
    pool *strings;
} verdicts;

static inline void verdicts_free(verdicts *v) {
    free(v->g);
    pool_free(v->strings);
    memset(v, 0, sizeof *v);
}

/* Room for another game, all zero. */
static inline game *verdicts_add(verdicts *v) {
    void *p = v->g;
    if (grow(&p, v->n, &v->room, sizeof *v->g)) return NULL;
    v->g = (game *)p;
    memset(&v->g[v->n], 0, sizeof *v->g);
    return &v->g[v->n++];
}

static inline int game_order(const void *a, const void *b) {
    const game *x = (const game *)a, *y = (const game *)b;
    int c = strcmp(x->id, y->id);
    if (c || x->slot != y->slot) return c ? c : x->slot - y->slot;
    return x->line < y->line ? -1 : x->line > y->line;
}
static inline int same_question(const game *a, const game *b) { return a->slot == b->slot && !strcmp(a->id, b->id); }

/* The order of lines in a file says nothing, so statistics do not depend on it. */
static inline void verdicts_sort(verdicts *v) {
    if (v->n) qsort(v->g, (size_t)v->n, sizeof *v->g, game_order);
}

static inline void verdict_write(FILE *f, const verdicts *v, const game *g) {
    fprintf(f, "{\"run\": \"%s\"", v->run);
    put_text(f, "judge", v->judge);
    put_text(f, "id", g->id);
    fprintf(f, ", \"slot\": \"%c\", \"outcome\": \"%s\", \"compat\": %d", g->slot, outcome_name(g->outcome), g->compat);
    put_count(f, "policy_chars", g->policy_chars);
    put_count(f, "baseline_chars", g->baseline_chars);
    fprintf(f, ", \"prompt\": \"%016llx\", \"baseline\": \"%016llx\"", (unsigned long long)g->prompt,
            (unsigned long long)g->baseline);
    if (g->note) put_text(f, "note", g->note);
    fputs("}\n", f);
}

static inline int verdicts_write(const verdicts *v, const char *path) {
    out_file o;
    int64_t i;
    if (out_open(&o, path)) return 1;
    for (i = 0; i < v->n; i++) verdict_write(o.f, v, &v->g[i]);
    return out_close(&o, 0);
}

/* A line of such a file. 1 if it cannot be used, with r->why. */
static inline int verdict_read(row_data *r, verdicts *v, game *g) {
    char run[RUN_DIGITS + 1], judge[sizeof v->judge], slot[2], outcome[16];
    const char *id;
    size_t n;
    memset(g, 0, sizeof *g);
    if (row_run(r, run) || row_word(r, "judge", judge, sizeof judge) || row_word(r, "slot", slot, sizeof slot) ||
        row_word(r, "outcome", outcome, sizeof outcome))
        return 1;
    if (!v->run[0]) {
        memcpy(v->run, run, sizeof run);
        memcpy(v->judge, judge, sizeof judge);
    }
    if (strcmp(v->run, run)) return row_bad(r, "of another run than the first line's");
    g->slot = slot[0];
    g->outcome = cli_read_word(outcome, OUTCOME_WORDS);
    g->compat = row_count(r, "compat") == 1;
    g->policy_chars = row_count(r, "policy_chars");
    g->baseline_chars = row_count(r, "baseline_chars");
    if (!slot[0] || !strchr("AB-", slot[0])) return row_bad(r, "slot is not A, B or -");
    if (g->outcome < 0) return row_bad(r, "outcome is none of %s", OUTCOME_WORDS);
    if (g->policy_chars < 0 || g->baseline_chars < 0) return row_bad(r, "no lengths in characters");
    if (row_hash(r, "prompt", &g->prompt) || row_hash(r, "baseline", &g->baseline)) return 1;
    id = row_text(r, "id", &n);
    if (!id) return 1;
    if (!judge_is_id(id, n)) return row_bad(r, "id is none: 1 to %d of A-Z a-z 0-9 . _ -", JUDGE_ID_MOST);
    g->id = pool_keep(&v->strings, id, n);
    return g->id ? 0 : row_memory(r);
}

static inline int verdicts_read(verdicts *v, dpo_context *c, const char *path) {
    lines l;
    game one, *g;
    int64_t i, k;
    int more, failed = 0;
    memset(v, 0, sizeof *v);
    v->path = path;
    if (lines_open(&l, c, path)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (verdict_read(&l.r, v, &one)) lines_bad(&l, l.r.why);
        else if ((g = verdicts_add(v)) == NULL) failed = 1;
        else {
            *g = one;
            g->line = l.s.line;
        }
    }
    verdicts_sort(v);
    for (i = k = 0; i < v->n; i++)
        if (k && same_question(&v->g[k - 1], &v->g[i]))
            dataset_drop(&l.f, "a second verdict on a question", NULL, v->g[i].line);
        else v->g[k++] = v->g[i];
    v->n = k;
    if (!failed) lines_tell(&l);
    if (!failed && !v->n)
        failed = cli_die("%s holds no verdicts; expected a file that dpo-judge import or score wrote", path);
    lines_close(&l);
    return failed;
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

/* A rate with its 95 % interval; n 0: there is none. */
typedef struct rate {
    double p, low, high;
    double points, n; /* ties are half a point */
} rate;

static inline rate rate_of(double points, int64_t n) {
    rate r;
    memset(&r, 0, sizeof r);
    r.points = points;
    r.n = (double)n;
    if (!n) return r;
    r.p = points / r.n;
    dpo_wilson(points, r.n, &r.low, &r.high);
    return r;
}

typedef struct report_options {
    uint64_t seed; /* of the bootstrap */
    int draws, json;
} report_options;

/* What a file of verdicts says. "pairs" are prompts: with both orders asked, two games make one pair. */
typedef struct tally {
    int64_t games, outcome[OUTCOMES];    /* of games */
    int64_t pairs, wins, losses, ties;   /* decided ones */
    int64_t half;                        /* pairs that only one of two orders decided: not counted */
    const game **game;                   /* [pairs] the first of each */
    double *score;                       /* [pairs] 1, 0.5, 0 */
    double *longer;                      /* [pairs] characters that the policy's answer has more */
    rate win, compat, order[2], first;   /* order: the policy stands first, second; first: the first answer wins */
    rate by_length;                      /* the longer answer wins */
    double boot_low, boot_high;          /* of win, by resampling pairs */
    double policy_chars, baseline_chars; /* means */
    int has_adjusted;
    double slope;  /* of the regression */
    rate adjusted; /* at equal length */
} tally;

static inline void tally_free(tally *t) {
    free(t->game);
    free(t->score);
    free(t->longer);
    memset(t, 0, sizeof *t);
}

static inline int is_decided(const game *g) { return g->outcome <= OUTCOME_TIE; }
static inline double game_points(const game *g) {
    return g->outcome == OUTCOME_WIN ? 1 : g->outcome == OUTCOME_LOSS ? 0 : 0.5;
}

/* Counts of games, whatever pair they belong to. */
static inline void tally_games(tally *t, const verdicts *v) {
    double points[2] = {0, 0};
    int64_t n[2] = {0, 0}, i, answered = 0, compat = 0;
    for (i = 0; i < v->n; i++) {
        const game *g = &v->g[i];
        t->games++;
        t->outcome[g->outcome]++;
        answered += g->outcome != OUTCOME_FAILED && g->outcome != OUTCOME_MISSING;
        compat += g->compat;
        if (!is_decided(g) || g->slot == '-') continue;
        points[g->slot == 'B'] += game_points(g);
        n[g->slot == 'B']++;
    }
    t->compat = rate_of((double)compat, answered);
    t->order[0] = rate_of(points[0], n[0]);
    t->order[1] = rate_of(points[1], n[1]);
    t->first = rate_of(points[0] + (double)n[1] - points[1], n[0] + n[1]);
}

/* A prompt asked about in both orders is won or lost where both verdicts agree, else a tie: MT-bench's rule. */
static inline void tally_pairs(tally *t, const verdicts *v) {
    int64_t i, n;
    double by_length = 0;
    int64_t unequal = 0;
    for (i = 0; i < v->n; i += n) {
        const game *g = &v->g[i];
        double score = game_points(g);
        int64_t decided = 0, k;
        for (n = 0; i + n < v->n && !strcmp(v->g[i + n].id, g->id); n++) decided += is_decided(&v->g[i + n]);
        if (decided < n) {
            t->half += decided > 0;
            continue;
        }
        for (k = 1; k < n; k++)
            if (game_points(&g[k]) < score || game_points(&g[k]) > score) score = 0.5;
        t->game[t->pairs] = g;
        t->score[t->pairs] = score;
        t->longer[t->pairs] = (double)(g->policy_chars - g->baseline_chars);
        t->wins += score > 0.5;
        t->losses += score < 0.5;
        t->policy_chars += (double)g->policy_chars;
        t->baseline_chars += (double)g->baseline_chars;
        if (g->policy_chars != g->baseline_chars) {
            by_length += g->policy_chars > g->baseline_chars ? score : 1 - score;
            unequal++;
        }
        t->pairs++;
    }
    t->ties = t->pairs - t->wins - t->losses;
    t->win = rate_of((double)t->wins + 0.5 * (double)t->ties, t->pairs);
    t->by_length = rate_of(by_length, unequal);
    if (t->pairs) {
        t->policy_chars /= (double)t->pairs;
        t->baseline_chars /= (double)t->pairs;
    }
}

/* Sums over all pairs at P(win) = 1 / (1 + exp(-(b + g x))): the log-likelihood, its gradient, its curvature. */
typedef struct logit_sums {
    double value, db, dg, bb, bg, gg;
} logit_sums;

static inline logit_sums logit_at(const double *x, const double *y, int64_t n, double b, double g) {
    logit_sums s;
    int64_t i;
    memset(&s, 0, sizeof s);
    for (i = 0; i < n; i++) {
        double z = b + g * x[i], e = exp(-fabs(z)), p = z >= 0 ? 1 / (1 + e) : e / (1 + e), w = e / ((1 + e) * (1 + e));
        s.value += y[i] * z - (z > 0 ? z : 0) - log1p(e);
        s.db += y[i] - p;
        s.dg += (y[i] - p) * x[i];
        s.bb += w;
        s.bg += w * x[i];
        s.gg += w * x[i] * x[i];
    }
    return s;
}

/* Newton's method, with steps halved until they do not lead down. 1: it has no finite maximum, as where the lengths
 * alone tell wins from losses. *error: the standard error of *b. */
static inline int logit_fit(const double *x, const double *y, int64_t n, double *b, double *g, double *error) {
    logit_sums s = logit_at(x, y, n, *b = 0, *g = 0), next;
    int step, half;
    for (step = 0; step < 100; step++) {
        double det = s.bb * s.gg - s.bg * s.bg, db, dg;
        if (!(det > 1e-12 * s.bb * s.gg) || fabs(*b) + fabs(*g) > 30) return 1;
        db = (s.gg * s.db - s.bg * s.dg) / det;
        dg = (s.bb * s.dg - s.bg * s.db) / det;
        *error = sqrt(s.gg / det);
        for (half = 0; half < 40; half++) {
            next = logit_at(x, y, n, *b + db, *g + dg);
            if (next.value >= s.value) break;
            db /= 2;
            dg /= 2;
        }
        if (half == 40) return 0; /* no step leads up any more: this is the maximum to the last bit */
        *b += db;
        *g += dg;
        s = next;
        if (fabs(db) + fabs(dg) < 1e-12) return 0;
    }
    return 1;
}

/* The win rate at equal length: a logistic regression of the verdict on tanh(difference / its standard deviation), read
 * off at the difference 0. It is AlpacaEval's idea and not its figure, which also knows how hard each question is.
 * Ties are half a win; with them the interval is a little too wide. */
static inline int tally_adjust(tally *t) {
    double *x = (double *)malloc((size_t)(t->pairs + 1) * sizeof *x), mean = 0, sum = 0, deviation, b, error = 0;
    int64_t i;
    if (!x) return no_memory();
    for (i = 0; i < t->pairs; i++) mean += t->longer[i] / (double)t->pairs;
    for (i = 0; i < t->pairs; i++) sum += (t->longer[i] - mean) * (t->longer[i] - mean);
    deviation = t->pairs > 1 ? sqrt(sum / (double)(t->pairs - 1)) : 0;
    for (i = 0; i < t->pairs && deviation > 0; i++) x[i] = tanh(t->longer[i] / deviation);
    if (deviation > 0 && !logit_fit(x, t->score, t->pairs, &b, &t->slope, &error)) {
        const double z = 1.959963984540054;
        t->has_adjusted = 1;
        t->adjusted.n = (double)t->pairs;
        t->adjusted.p = 1 / (1 + exp(-b));
        t->adjusted.low = 1 / (1 + exp(-(b - z * error)));
        t->adjusted.high = 1 / (1 + exp(-(b + z * error)));
    }
    free(x);
    return 0;
}

static inline int tally_make(tally *t, const verdicts *v, const report_options *o) {
    memset(t, 0, sizeof *t);
    t->game = (const game **)malloc((size_t)(v->n + 1) * sizeof *t->game);
    t->score = (double *)malloc((size_t)(v->n + 1) * sizeof *t->score);
    t->longer = (double *)malloc((size_t)(v->n + 1) * sizeof *t->longer);
    if (!t->game || !t->score || !t->longer) return no_memory();
    tally_games(t, v);
    tally_pairs(t, v);
    if (t->pairs) (void)dpo_bootstrap_mean(t->score, t->pairs, o->seed, o->draws, &t->boot_low, &t->boot_high);
    return tally_adjust(t);
}

/* ---- two models on the same prompts ----------------------------------------------------------------------------- */

typedef struct comparison {
    int64_t pairs, better, worse, only_first, only_second; /* better: the first model's score is higher */
    int64_t other_baseline;                                /* pairs whose baselines differ */
    double difference, low, high, p;                       /* of win rates; McNemar's p */
} comparison;

static inline int compare(comparison *c, const tally *a, const tally *b, const report_options *o) {
    double *difference = (double *)malloc((size_t)(a->pairs + 1) * sizeof *difference);
    int64_t i = 0, k = 0;
    memset(c, 0, sizeof *c);
    if (!difference) return no_memory();
    while (i < a->pairs || k < b->pairs) { /* both are sorted by id */
        int order = i == a->pairs ? 1 : k == b->pairs ? -1 : strcmp(a->game[i]->id, b->game[k]->id);
        if (!order && a->game[i]->prompt != b->game[k]->prompt) { /* the same id for another prompt is no match */
            c->only_first++;
            c->only_second++;
            i++;
            k++;
        } else if (order < 0) {
            c->only_first++;
            i++;
        } else if (order > 0) {
            c->only_second++;
            k++;
        } else {
            double d = a->score[i] - b->score[k];
            c->better += d > 0;
            c->worse += d < 0;
            c->other_baseline += a->game[i]->baseline != b->game[k]->baseline;
            c->difference += d;
            difference[c->pairs++] = d;
            i++;
            k++;
        }
    }
    if (c->pairs) {
        c->difference /= (double)c->pairs;
        c->p = dpo_mcnemar(c->better, c->worse);
        (void)dpo_bootstrap_mean(difference, c->pairs, o->seed, o->draws, &c->low, &c->high);
    }
    free(difference);
    return 0;
}

/* ---- the report ------------------------------------------------------------------------------------------------- */

static inline void print_rate(const char *what, const rate *r) {
    if (r->n > 0) printf("  %-16s %.4f [%.4f, %.4f]", what, r->p, r->low, r->high);
    else printf("  %-16s -", what);
}

static inline void print_tally(const verdicts *v, const tally *t) {
    printf("%s: run %s, judge: %s\n", v->path, v->run, v->judge);
    print_rate("win rate", &t->win);
    if (t->pairs) printf("  bootstrap [%.4f, %.4f]", t->boot_low, t->boot_high);
    printf("  %s pairs: %s wins, %s losses, %s ties (half a win each)\n", cli_count((uint64_t)t->pairs),
           cli_count((uint64_t)t->wins), cli_count((uint64_t)t->losses), cli_count((uint64_t)t->ties));
    printf(
        "  %-16s %s of %s questions: %s without a verdict, %s failed, %s missing", "not counted",
        cli_count((uint64_t)(t->outcome[OUTCOME_INVALID] + t->outcome[OUTCOME_FAILED] + t->outcome[OUTCOME_MISSING])),
        cli_count((uint64_t)t->games), cli_count((uint64_t)t->outcome[OUTCOME_INVALID]),
        cli_count((uint64_t)t->outcome[OUTCOME_FAILED]), cli_count((uint64_t)t->outcome[OUTCOME_MISSING]));
    if (t->half) printf("; %s pairs judged in one order only", cli_count((uint64_t)t->half));
    printf("\n");
    if (t->first.n > 0) {
        print_rate("study's rule", &t->compat);
        printf("  whatever is no clear win is a loss: %.0f of %.0f answers of the judge\n", t->compat.points,
               t->compat.n);
        print_rate("policy is A", &t->order[0]);
        printf("  %.0f questions\n", t->order[0].n);
        print_rate("policy is B", &t->order[1]);
        printf("  %.0f questions\n", t->order[1].n);
        print_rate("A wins", &t->first);
        printf("  position bias: 0.5 is none\n");
    }
    if (t->pairs) {
        print_rate("longer wins", &t->by_length);
        printf("  characters: policy %.1f, baseline %.1f, difference %+.1f\n", t->policy_chars, t->baseline_chars,
               t->policy_chars - t->baseline_chars);
    }
    if (t->has_adjusted) {
        print_rate("length-adjusted", &t->adjusted);
        printf("  win rate at equal length, by logistic regression (slope %+.3f)\n", t->slope);
    } else printf("  %-16s -  lengths do not differ, or they alone tell wins from losses\n", "length-adjusted");
}

static inline void print_comparison(const verdicts *a, const verdicts *b, const comparison *c) {
    printf("%s against %s on %s prompts of both:\n", a->path, b->path, cli_count((uint64_t)c->pairs));
    if (c->pairs)
        printf("  %-16s %+.4f [%+.4f, %+.4f] bootstrap; better in %s, worse in %s, McNemar's exact p %.4g\n",
               "win rate", c->difference, c->low, c->high, cli_count((uint64_t)c->better),
               cli_count((uint64_t)c->worse), c->p);
    if (c->only_first || c->only_second)
        printf("  left out: %s prompts of the first alone, %s of the second\n", cli_count((uint64_t)c->only_first),
               cli_count((uint64_t)c->only_second));
    if (c->other_baseline)
        printf("  in %s of them the answers that they were compared with differ\n",
               cli_count((uint64_t)c->other_baseline));
}

static inline void json_rate(const char *name, const rate *r) {
    printf(", \"%s\": ", name);
    if (!(r->n > 0)) {
        fputs("null", stdout);
        return;
    }
    fputs("{\"rate\": ", stdout);
    cli_json_number(stdout, r->p);
    put_number(stdout, "low", r->low);
    put_number(stdout, "high", r->high);
    put_number(stdout, "n", r->n);
    putchar('}');
}

static inline void json_tally(const verdicts *v, const tally *t) {
    int i;
    printf("{\"run\": \"%s\"", v->run);
    put_text(stdout, "file", v->path);
    put_text(stdout, "judge", v->judge);
    put_count(stdout, "pairs", t->pairs);
    put_count(stdout, "wins", t->wins);
    put_count(stdout, "losses", t->losses);
    put_count(stdout, "ties", t->ties);
    put_count(stdout, "half_judged", t->half);
    fputs(", \"questions\": {\"all\": ", stdout);
    printf("%lld", (long long)t->games);
    for (i = 0; i < OUTCOMES; i++) put_count(stdout, outcome_name(i), t->outcome[i]);
    putchar('}');
    json_rate("win_rate", &t->win);
    if (t->pairs) {
        put_number(stdout, "bootstrap_low", t->boot_low);
        put_number(stdout, "bootstrap_high", t->boot_high);
    }
    if (t->first.n > 0) json_rate("compat", &t->compat);
    json_rate("policy_is_a", &t->order[0]);
    json_rate("policy_is_b", &t->order[1]);
    json_rate("a_wins", &t->first);
    json_rate("longer_wins", &t->by_length);
    put_number(stdout, "policy_chars", t->policy_chars);
    put_number(stdout, "baseline_chars", t->baseline_chars);
    json_rate("length_adjusted", &t->adjusted);
    if (t->has_adjusted) put_number(stdout, "length_slope", t->slope);
    putchar('}');
}

static inline void json_comparison(const verdicts *a, const verdicts *b, const comparison *c) {
    fputs("{\"first\": ", stdout);
    cli_json_string(stdout, a->path, strlen(a->path));
    put_text(stdout, "second", b->path);
    put_count(stdout, "pairs", c->pairs);
    put_count(stdout, "better", c->better);
    put_count(stdout, "worse", c->worse);
    put_count(stdout, "only_first", c->only_first);
    put_count(stdout, "only_second", c->only_second);
    put_count(stdout, "other_baseline", c->other_baseline);
    if (c->pairs) {
        put_number(stdout, "difference", c->difference);
        put_number(stdout, "low", c->low);
        put_number(stdout, "high", c->high);
        put_number(stdout, "mcnemar_p", c->p);
    }
    putchar('}');
}

/* Each set of verdicts, and the first one against each other. */
static inline int report(const report_options *o, const verdicts *v, int n) {
    tally *t = (tally *)calloc((size_t)n, sizeof *t);
    comparison c;
    int i, failed = t ? 0 : no_memory();
    if (!failed && o->json) fputs("{\"runs\": [", stdout);
    for (i = 0; i < n && !failed; i++) {
        failed = tally_make(&t[i], &v[i], o);
        if (failed) break;
        if (i && o->json) fputs(", ", stdout);
        if (o->json) json_tally(&v[i], &t[i]);
        else print_tally(&v[i], &t[i]);
    }
    if (!failed && o->json) fputs("], \"comparisons\": [", stdout);
    for (i = 1; i < n && !failed; i++) {
        failed = compare(&c, &t[0], &t[i], o);
        if (failed) break;
        if (i > 1 && o->json) fputs(", ", stdout);
        if (o->json) json_comparison(&v[0], &v[i], &c);
        else print_comparison(&v[0], &v[i], &c);
    }
    if (!failed && o->json) fputs("]}\n", stdout);
    for (i = 0; t && i < n; i++) tally_free(&t[i]);
    free(t);
    return failed ? 1 : flush_output();
}

#endif /* TOOLS_VERDICTS_H */
