/* dpo-judge.c: the program build/dpo-judge measures how often a model's answers are better than others, on dpo.h.
 *
 *     dpo-judge generate --model out/dpo --data test.jsonl --output answers.jsonl      a model answers held-out prompts
 *     dpo-judge export answers.jsonl --output requests.jsonl --manifest manifest.jsonl          questions for a judge
 *     dpo-judge run requests.jsonl --cmd './judge' --output results.jsonl      a program on this machine answers them
 *     dpo-judge import results.jsonl --manifest manifest.jsonl --output verdicts.jsonl         its words to verdicts
 *     dpo-judge score answers.jsonl --by world --output verdicts.jsonl              or a judge that is built in
 *     dpo-judge report verdicts.jsonl other-verdicts.jsonl                              rates, intervals, comparisons
 *
 * There is no network in it: a judge elsewhere gets the file that `export` writes (OpenAI's Batch lines) by other
 * means, and `import` reads what comes back. All files are JSON lines. Every set of answers, questions or verdicts has
 * a run, eight digits derived from all that is in it, so that results cannot be counted for something else.
 *
 *     answers   id, prompt, policy (the model's answer), chosen or against (what it is compared with), stop, seed, run
 *     manifest  custom_id, run, id, slot (of the two answers A and B, which one is the policy's), hashes, lengths
 *     verdicts  run, judge, id, slot, outcome: win, loss, tie; invalid (no verdict in the judge's words), failed (the
 *               judge gave an error), missing (nothing came); compat: 1 where the study's rule sees a win
 *
 * Exit code 0; 1 after one sentence on stderr. */
#include "cli.h" /* first: it asks the system headers for sigaction and friends */
#include "../dpo.h"
#include "../examples/world.h"
#include "asker.h"
#include "verdicts.h"

#define VERSION "0.1.0"

enum { BY_WORLD, BY_LENGTH, BY_REWARD };
enum { ORDER_ALTERNATE, ORDER_HASH, ORDER_BOTH };
enum { BASELINE_AUTO, BASELINE_CHOSEN, BASELINE_AGAINST };
enum { CHOOSE_FIRST, CHOOSE_LAST, CHOOSE_SPREAD };
enum { LINES_BATCH, LINES_PLAIN };

typedef struct settings {
    const char *command, *output;
    int quiet, threads, precision;
    /* generate */
    const char *model, *adapter, *tokenizer, *against, *against_adapter, *data, *stop;
    dataset_options d;
    int max_prompts, choose, max_new_tokens, max_prompt_length, top_k, compat_rfind;
    uint64_t seed;
    double temperature, top_p;
    /* export */
    const char *manifest, *judge_name, *form_file;
    int style, order, baseline, lines, judge_max_tokens;
    double judge_temperature;
    asker_options run;
    /* import, score, report */
    report_options report;
    int compat, by;
    const char *judge_model, *judge_adapter, *judge_reference;
    double beta;
    const char *const *file; /* arguments after the command */
    int files;
} settings;

static dpo_context *context; /* one, for all commands; its hooks have no other way to it */

static void on_log(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING) cli_note("warning: %s", line);
}

static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}

static int fail(void) { return cli_die("%s", dpo_error(context)); }

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* A prompt with the two answers that are compared. */
typedef struct pair {
    const char *id, *prompt, *policy, *baseline;
    int chat;     /* the format of the prompt's turns */
    int unending; /* the policy's answer was cut where it became too long */
    int64_t line;
} pair;

typedef struct answers {
    pair *p;
    int64_t n, room;
    int against; /* the baseline is another model's answer; else the one that the data call chosen */
    pool *strings;
} answers;

static void answers_free(answers *a) {
    free(a->p);
    pool_free(a->strings);
    memset(a, 0, sizeof *a);
}

static int answers_text(row_data *r, answers *a, const char *name, const char **out) {
    size_t n;
    const char *text = row_text(r, name, &n);
    if (!text) return 1;
    *out = pool_keep(&a->strings, text, n);
    return *out ? 0 : row_memory(r);
}

/* An id is a name or a whole number; without one the line's number is it. */
static int answers_id(row_data *r, answers *a, int64_t line, const char **out) {
    int64_t node = row_field(r, "id"), number = node < 0 ? line : row_count(r, "id");
    char digits[24];
    if (dpo_json_type(r->json, node) == '"') {
        if (answers_text(r, a, "id", out)) return 1;
    } else {
        if (number < 0) return row_bad(r, "id is no name and no whole number");
        snprintf(digits, sizeof digits, "%lld", (long long)number);
        *out = pool_keep(&a->strings, digits, strlen(digits));
        if (!*out) return row_memory(r);
    }
    if (strlen(*out) > JUDGE_ID_MOST - RUN_DIGITS - 3 || !judge_is_id(*out, strlen(*out)))
        return row_bad(r, "id is none: 1 to %d of A-Z a-z 0-9 . _ -", JUDGE_ID_MOST - RUN_DIGITS - 3);
    return 0;
}

static int answers_row(row_data *r, answers *a, int64_t line, const settings *s, pair *p) {
    size_t n;
    const char *text;
    memset(p, 0, sizeof *p);
    p->line = line;
    if (!a->n) a->against = s->baseline == BASELINE_AGAINST || (!s->baseline && row_has(r, "against", '"'));
    if (answers_id(r, a, line, &p->id) || answers_text(r, a, "prompt", &p->prompt) ||
        answers_text(r, a, "policy", &p->policy) || answers_text(r, a, a->against ? "against" : "chosen", &p->baseline))
        return 1;
    p->chat = CHAT_NONE;
    if (row_has(r, "chat_format", '"') && (text = row_text(r, "chat_format", &n)) != NULL)
        p->chat = chat_by_name(text, n);
    if (p->chat < 0) return row_bad(r, "chat_format is none of %s", CHAT_WORDS);
    if (row_has(r, "stop", '"') && (text = row_text(r, "stop", &n)) != NULL) p->unending = !strcmp(text, "length");
    return 0;
}

static int pair_order(const void *a, const void *b) {
    const pair *x = *(const pair *const *)a, *y = *(const pair *const *)b;
    int c = strcmp(x->id, y->id);
    return c ? c : x < y ? -1 : x > y;
}

/* Of lines with one id the first counts. */
static int answers_unique(answers *a, lines *l) {
    pair **sorted = (pair **)malloc((size_t)(a->n + 1) * sizeof *sorted);
    int64_t i, k;
    if (!sorted) return no_memory();
    for (i = 0; i < a->n; i++) sorted[i] = &a->p[i];
    qsort(sorted, (size_t)a->n, sizeof *sorted, pair_order);
    for (i = a->n - 1; i > 0; i--)
        if (!strcmp(sorted[i]->id, sorted[i - 1]->id)) sorted[i]->prompt = NULL;
    for (i = k = 0; i < a->n; i++)
        if (a->p[i].prompt) a->p[k++] = a->p[i];
        else dataset_drop(&l->f, "an id that an earlier line has", NULL, a->p[i].line);
    a->n = k;
    free(sorted);
    return 0;
}

static int answers_read(answers *a, const char *path, const settings *s) {
    lines l;
    pair one;
    void *p;
    int more, failed = 0;
    memset(a, 0, sizeof *a);
    if (lines_open(&l, context, path)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (answers_row(&l.r, a, l.s.line, s, &one)) lines_bad(&l, l.r.why);
        else {
            p = a->p;
            failed = grow(&p, a->n, &a->room, sizeof *a->p);
            a->p = (pair *)p;
            if (!failed) a->p[a->n++] = one;
        }
    }
    if (!failed) failed = answers_unique(a, &l);
    if (!failed) lines_tell(&l);
    if (!failed && !a->n)
        failed = cli_die("%s holds no answers; expected lines with prompt, policy and %s, as dpo-judge generate writes "
                         "them",
                         path, s->baseline == BASELINE_AGAINST ? "against" : "chosen or against");
    lines_close(&l);
    return failed;
}

static uint64_t pair_hash(uint64_t h, const pair *p) {
    h = hash_text(hash_text(h, p->id), p->prompt);
    return hash_text(hash_text(h, p->policy), p->baseline);
}

static void game_of_pair(game *g, const pair *p) {
    g->id = p->id;
    g->prompt = hash_mix(hash_text(hash_begin, p->prompt));
    g->baseline = hash_mix(hash_text(hash_begin, p->baseline));
    g->policy_chars = text_chars(p->policy);
    g->baseline_chars = text_chars(p->baseline);
}

/* ---- export ----------------------------------------------------------------------------------------------------- */

enum { BATCH_REQUESTS = 50000, BATCH_BYTES = 100000000 }; /* what OpenAI's service takes in one file, at least */

typedef struct exporter {
    const settings *s;
    answers a;
    char run[RUN_DIGITS + 1];
    char *form; /* a template of the user's */
    char judge[256];
    out_file requests, manifest;
    judge_text text;
    int64_t count;
} exporter;

/* All that decides what the judge reads. */
static uint64_t export_hash(const exporter *e) {
    uint64_t h = hash_text(hash_begin, e->judge);
    int64_t i;
    char numbers[96];
    snprintf(numbers, sizeof numbers, "%d %d %d %.17g", e->s->style, e->s->order, e->s->judge_max_tokens,
             e->s->judge_temperature);
    h = hash_text(hash_text(h, numbers), e->form ? e->form : "");
    for (i = 0; i < e->a.n; i++) h = pair_hash(h, &e->a.p[i]);
    return h;
}

static void export_manifest(exporter *e, const pair *p, const char *custom_id, char slot) {
    FILE *f = e->manifest.f;
    game g;
    memset(&g, 0, sizeof g);
    game_of_pair(&g, p);
    fprintf(f, "{\"custom_id\": \"%s\", \"run\": \"%s\", \"id\": \"%s\", \"slot\": \"%c\", \"style\": \"%s\"",
            custom_id, e->run, p->id, slot, judge_style_name(e->s->style));
    put_text(f, "judge", e->judge);
    put_count(f, "policy_chars", g.policy_chars);
    put_count(f, "baseline_chars", g.baseline_chars);
    fprintf(f, ", \"prompt\": \"%016llx\", \"baseline\": \"%016llx\", \"pair\": \"%016llx\"}\n",
            (unsigned long long)g.prompt, (unsigned long long)g.baseline,
            (unsigned long long)hash_mix(pair_hash(hash_begin, p)));
}

/* The question with the policy's answer in this slot. */
static int export_one(exporter *e, const pair *p, char slot) {
    char custom_id[JUDGE_ID_MOST + 1], *copy[3];
    const char *from[3];
    judge_request q;
    int i, failed = 0;
    from[0] = p->prompt;
    from[1] = slot == 'A' ? p->policy : p->baseline;
    from[2] = slot == 'A' ? p->baseline : p->policy;
    for (i = 0; i < 3; i++) { /* blanks at the ends are the format's */
        size_t n = strlen(from[i]);
        const char *text = chat_trim(from[i], &n);
        copy[i] = (char *)malloc(n + 1);
        if (!copy[i]) failed = 1;
        else {
            memcpy(copy[i], text, n);
            copy[i][n] = 0;
        }
    }
    e->text.n = 0;
    if (!failed) judge_ask(&e->text, e->s->style, e->form, copy[0], copy[1], copy[2]);
    for (i = 0; i < 3; i++) free(copy[i]);
    if (failed || e->text.no_memory) return no_memory();
    snprintf(custom_id, sizeof custom_id, "%s.%s.%c", e->run, p->id, slot);
    memset(&q, 0, sizeof q);
    q.custom_id = custom_id;
    q.model = e->s->judge_name;
    q.system = e->form ? NULL : judge_system(e->s->style);
    q.user = e->text.text;
    q.max_tokens = e->s->judge_max_tokens;
    q.temperature = e->s->judge_temperature;
    judge_write_request(e->requests.f, &q, e->s->lines == LINES_BATCH);
    export_manifest(e, p, custom_id, slot);
    e->count++;
    return 0;
}

static int export_all(exporter *e) {
    int64_t i;
    int failed = 0;
    for (i = 0; i < e->a.n && !failed; i++) {
        const pair *p = &e->a.p[i];
        char slot = i % 2 ? 'A' : 'B'; /* as in the study: of even ones the baseline is A */
        if (e->s->order == ORDER_HASH) slot = hash_mix(hash_text(hash_text(hash_begin, e->run), p->id)) & 1 ? 'A' : 'B';
        failed = export_one(e, p, e->s->order == ORDER_BOTH ? 'A' : slot);
        if (!failed && e->s->order == ORDER_BOTH) failed = export_one(e, p, 'B');
    }
    return failed || cli_stopped();
}

/* A template must have all three places, else the judge would not see what it judges. */
static int export_form(exporter *e) {
    size_t n;
    if (!e->s->form_file) return 0;
    e->form = read_file(e->s->form_file, (size_t)1 << 20, &n);
    if (!e->form) return 1;
    while (n && e->form[n - 1] == '\n') e->form[--n] = 0;
    if (strlen(e->form) == n && strstr(e->form, "{query}") && strstr(e->form, "{a}") && strstr(e->form, "{b}"))
        return 0;
    return cli_die("%s: expected a text with {query}, {a} and {b} in the places of the prompt and the two answers",
                   e->s->form_file);
}

static int export_files(exporter *e) {
    int failed;
    long bytes;
    if (out_open(&e->requests, e->s->output)) return 1;
    failed = out_open(&e->manifest, e->s->manifest);
    if (!failed) failed = export_all(e);
    bytes = ftell(e->requests.f);
    if (e->manifest.f) failed = out_close(&e->manifest, failed); /* first: requests without a manifest are of no use */
    failed = out_close(&e->requests, failed);
    if (failed) return cli_stopped() ? cli_die("stopped; nothing was written") : 1;
    if (e->s->lines == LINES_BATCH && (e->count > BATCH_REQUESTS || bytes > BATCH_BYTES))
        cli_note("%s holds %s requests in %s; a batch takes 50,000 in 100 MB: split it by lines", e->s->output,
                 cli_count((uint64_t)e->count), cli_bytes((uint64_t)bytes));
    return 0;
}

static int run_export(const settings *s) {
    exporter e;
    int failed;
    memset(&e, 0, sizeof e);
    e.s = s;
    snprintf(e.judge, sizeof e.judge, "%.128s, asked in style %s%s", s->judge_name, judge_style_name(s->style),
             s->form_file ? " by a template" : "");
    failed = export_form(&e) || answers_read(&e.a, s->file[0], s);
    if (!failed) {
        run_name(e.run, export_hash(&e));
        failed = export_files(&e);
    }
    if (!failed && !s->quiet)
        printf("%s: %s questions about %s prompts, run %s, baseline: %s; %s tells what they are\n", s->output,
               cli_count((uint64_t)e.count), cli_count((uint64_t)e.a.n), e.run,
               e.a.against ? "the other model's answers" : "the chosen answers", s->manifest);
    answers_free(&e.a);
    free(e.text.text);
    free(e.form);
    return failed ? 1 : flush_output();
}

/* ---- run, report ------------------------------------------------------------------------------------------------ */

static int run_run(const settings *s) {
    asker_options o = s->run;
    o.questions = s->file[0];
    o.output = s->output;
    o.quiet = s->quiet;
    return asker_run(context, &o);
}

static int run_report(const settings *s) {
    verdicts *v = (verdicts *)calloc((size_t)s->files, sizeof *v);
    int i, failed = v ? 0 : no_memory();
    for (i = 0; i < s->files && !failed; i++) failed = verdicts_read(&v[i], context, s->file[i]);
    if (!failed) failed = report(&s->report, v, s->files);
    for (i = 0; v && i < s->files; i++) verdicts_free(&v[i]);
    free(v);
    return failed;
}

/* ---- import ----------------------------------------------------------------------------------------------------- */

/* A line of the manifest; g's outcome is OUTCOME_MISSING until an answer comes. */
typedef struct asked {
    const char *custom_id;
    game g;
    int style;
    uint64_t words; /* hash of the judge's */
} asked;

typedef struct importer {
    const settings *s;
    verdicts v; /* its run, judge and strings; games are added at the end */
    asked *q;   /* sorted by custom_id */
    int64_t n, room, used;
} importer;

static int asked_order(const void *a, const void *b) {
    return strcmp(((const asked *)a)->custom_id, ((const asked *)b)->custom_id);
}

static int import_row(row_data *r, verdicts *v, asked *q) {
    char run[RUN_DIGITS + 1], slot[2], style[16], judge[sizeof v->judge];
    const char *custom_id = judge_read_id(r), *id;
    size_t n;
    memset(q, 0, sizeof *q);
    if (!custom_id || row_run(r, run) || row_word(r, "slot", slot, sizeof slot) ||
        row_word(r, "style", style, sizeof style) || row_word(r, "judge", judge, sizeof judge))
        return 1;
    if (!v->run[0]) {
        memcpy(v->run, run, sizeof run);
        memcpy(v->judge, judge, sizeof judge);
    }
    if (strcmp(v->run, run)) return row_bad(r, "of another run than the first line's");
    q->style = cli_read_word(style, JUDGE_STYLE_WORDS);
    q->g.slot = slot[0];
    q->g.outcome = OUTCOME_MISSING;
    q->g.policy_chars = row_count(r, "policy_chars");
    q->g.baseline_chars = row_count(r, "baseline_chars");
    if (q->style < 0) return row_bad(r, "style is none of %s", JUDGE_STYLE_WORDS);
    if (!slot[0] || !strchr("AB", slot[0])) return row_bad(r, "slot is not A or B");
    if (q->g.policy_chars < 0 || q->g.baseline_chars < 0) return row_bad(r, "no lengths in characters");
    if (row_hash(r, "prompt", &q->g.prompt) || row_hash(r, "baseline", &q->g.baseline)) return 1;
    id = row_text(r, "id", &n);
    if (!id) return 1;
    if (!judge_is_id(id, n)) return row_bad(r, "id is none: 1 to %d of A-Z a-z 0-9 . _ -", JUDGE_ID_MOST);
    q->g.id = pool_keep(&v->strings, id, n);
    q->custom_id = pool_keep(&v->strings, custom_id, strlen(custom_id));
    return q->g.id && q->custom_id ? 0 : row_memory(r);
}

static int import_manifest(importer *m) {
    lines l;
    asked one;
    void *p;
    int64_t i;
    int more, failed = 0;
    if (lines_open(&l, context, m->s->manifest)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (import_row(&l.r, &m->v, &one)) lines_bad(&l, l.r.why);
        else {
            p = m->q;
            failed = grow(&p, m->n, &m->room, sizeof *m->q);
            m->q = (asked *)p;
            if (!failed) m->q[m->n++] = one;
        }
    }
    if (!failed) lines_tell(&l);
    lines_close(&l);
    if (failed) return 1;
    if (!m->n)
        return cli_die("%s names no questions; expected the manifest that dpo-judge export wrote", m->s->manifest);
    qsort(m->q, (size_t)m->n, sizeof *m->q, asked_order);
    for (i = 1; i < m->n; i++)
        if (!strcmp(m->q[i].custom_id, m->q[i - 1].custom_id))
            return cli_die("%s: custom_id %s occurs twice; export again", m->s->manifest, m->q[i].custom_id);
    return 0;
}

/* The judge's words to what they mean for the policy. */
static void import_verdict(const importer *m, asked *q, const judge_reply *y) {
    int own = q->g.slot == 'A' ? JUDGE_SAYS_A : JUDGE_SAYS_B;
    int strict = judge_read_verdict(q->style, 0, y->content, y->bytes);
    int compat = judge_read_verdict(q->style, 1, y->content, y->bytes);
    q->words = dataset_fnv(hash_begin, y->content, y->bytes);
    q->g.compat = compat == own;
    if (m->s->compat) {
        q->g.outcome = compat == own                                               ? OUTCOME_WIN
                       : compat == JUDGE_SAYS_TIE                                  ? OUTCOME_TIE
                       : compat == JUDGE_SAYS_NOTHING && q->style == JUDGE_PAIR_V2 ? OUTCOME_INVALID
                                                                                   : OUTCOME_LOSS;
        return;
    }
    q->g.outcome = strict == JUDGE_SAYS_NOTHING ? OUTCOME_INVALID
                   : strict == JUDGE_SAYS_TIE   ? OUTCOME_TIE
                   : strict == own              ? OUTCOME_WIN
                                                : OUTCOME_LOSS;
}

/* One line of results. A failed question may come again with an answer; of two answers the first counts. */
static void import_reply(importer *m, lines *l, const judge_reply *y) {
    asked key, *q;
    key.custom_id = y->custom_id;
    q = (asked *)bsearch(&key, m->q, (size_t)m->n, sizeof *m->q, asked_order);
    if (!q)
        lines_bad(l, same_run(y->custom_id, m->q[0].custom_id) ? "custom_id is none of the manifest's"
                                                               : "of another run than the manifest");
    else if (q->g.outcome < OUTCOME_FAILED && y->content)
        lines_bad(l, dataset_fnv(hash_begin, y->content, y->bytes) == q->words
                         ? "the same answer a second time"
                         : "another answer to a question that has one");
    else if (q->g.outcome < OUTCOME_FAILED) lines_bad(l, "an error for a question that has an answer");
    else {
        m->used++;
        if (y->content) import_verdict(m, q, y);
        else q->g.outcome = OUTCOME_FAILED;
    }
}

static int import_results(importer *m, const char *path) {
    lines l;
    judge_reply y;
    int more, failed = 0;
    if (lines_open(&l, context, path)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (judge_read_reply(&l.r, &y)) lines_bad(&l, l.r.why);
        else import_reply(m, &l, &y);
    }
    if (!failed) lines_tell(&l);
    if (!failed && !m->s->quiet && !m->s->report.json)
        printf("%s: %s lines, %s used\n", path, cli_count((uint64_t)l.f.rows),
               cli_count((uint64_t)(l.f.rows - l.f.bad)));
    lines_close(&l);
    return failed;
}

static int run_import(const settings *s) {
    importer m;
    game *g;
    int64_t i;
    int k, failed;
    memset(&m, 0, sizeof m);
    m.s = s;
    m.v.path = s->output ? s->output : s->file[0];
    failed = import_manifest(&m);
    for (k = 0; k < s->files && !failed; k++) failed = import_results(&m, s->file[k]);
    if (!failed && !m.used)
        failed = cli_die("no line of %s answers a question of %s (run %s); nothing was written", s->file[0],
                         s->manifest, m.v.run);
    for (i = 0; i < m.n && !failed; i++) {
        g = verdicts_add(&m.v);
        if (g) *g = m.q[i].g;
        else failed = 1;
    }
    if (!failed && s->compat)
        snprintf(m.v.judge + strlen(m.v.judge), sizeof m.v.judge - strlen(m.v.judge), "%s",
                 strlen(m.v.judge) + 32 < sizeof m.v.judge ? ", read by the study's rule" : "");
    if (!failed) verdicts_sort(&m.v);
    if (!failed && s->output) failed = verdicts_write(&m.v, s->output);
    if (!failed) failed = report(&s->report, &m.v, 1);
    verdicts_free(&m.v);
    free(m.q);
    return failed;
}

/* ---- score: judges that are built in ---------------------------------------------------------------------------- */

static void score_outcome(game *g, double policy, double baseline) {
    g->outcome = policy > baseline ? OUTCOME_WIN : policy < baseline ? OUTCOME_LOSS : OUTCOME_TIE;
    g->compat = policy > baseline;
}

/* Why, in the verdict's line; 0 on success. */
static int score_note(verdicts *v, game *g, const char *note) {
    g->note = pool_keep(&v->strings, note, strlen(note));
    return g->note ? 0 : no_memory();
}

static int score_world(verdicts *v, game *g, const pair *p) {
    const char *why[2];
    char note[64];
    world_asked q;
    int policy = world_score(p->prompt, p->policy, &why[0]), baseline = world_score(p->prompt, p->baseline, &why[1]);
    if (!world_read_question(p->prompt, &q)) {
        g->outcome = OUTCOME_INVALID;
        return score_note(v, g, "no question of the little world");
    }
    score_outcome(g, policy, baseline);
    snprintf(note, sizeof note, "%s / %s", why[0], why[1]);
    return score_note(v, g, note);
}

/* The implicit reward of [DPO], beta * (log pi(answer | prompt) - log pi_ref(answer | prompt)), of a model that is not
 * the judged one. */
typedef struct reward {
    const settings *s;
    dpo_model *model, *reference; /* the same where an adapter makes the difference */
    dpo_tokenizer *t;
    int32_t *ids; /* of all sequences, end to end */
    int64_t n, room;
    dpo_sequence *sequence; /* two for each game, policy and baseline; their ids are set once all are there */
    int64_t *first;         /* where they begin; -1: this game has none */
    int64_t cut;            /* games whose prompts lost their beginning */
} reward;

static int reward_ids(reward *w, int64_t more) {
    int64_t room = 2 * (w->n + more);
    int32_t *p;
    if (w->n + more <= w->room) return 0;
    p = (int32_t *)realloc(w->ids, (size_t)room * sizeof *p);
    if (!p) return no_memory();
    w->ids = p;
    w->room = room;
    return 0;
}

/* Adds a text's ids; how many, or -1. */
static int64_t reward_encode(reward *w, const char *text, int special, unsigned flags) {
    dpo_text part;
    int64_t n;
    part.text = text;
    part.bytes = strlen(text);
    part.special = special;
    n = dpo_encode_parts(w->t, &part, 1, flags, NULL, 0);
    if (n < 0) return -fail();
    if (reward_ids(w, n + 1)) return -1;
    dpo_encode_parts(w->t, &part, 1, flags, w->ids + w->n, n);
    w->n += n;
    return n;
}

/* An answer ends as in training: with the format's end of turn, or with the end of text; but not one that was cut. */
static int32_t reward_end(const reward *w, const pair *p, int policy) {
    const char *end = chat_end_of_turn(p->chat);
    int32_t id = end ? dpo_tokenizer_id(w->t, end, strlen(end)) : -1;
    return policy && p->unending ? -1 : id >= 0 ? id : dpo_tokenizer_eos(w->t);
}

/* Prompt and one answer as a sequence, however long. */
static int reward_sequence(reward *w, const pair *p, int policy, dpo_sequence *s, int64_t *first) {
    unsigned flags = dpo_tokenizer_adds_bos(w->t) && !chat_writes_bos(p->chat) ? (unsigned)DPO_ENCODE_ADD_BOS : 0u;
    int64_t answer;
    int32_t end = reward_end(w, p, policy);
    *first = w->n;
    s->context = reward_encode(w, p->prompt, chat_end_of_turn(p->chat) != NULL, flags);
    answer = s->context < 0 ? -1 : reward_encode(w, policy ? p->policy : p->baseline, 0, 0);
    if (answer < 0) return 1;
    if (end >= 0) w->ids[w->n++] = end; /* reward_encode left room for it */
    s->n = w->n - *first;
    return 0;
}

/* Both answers of a game; where one is too long, the prompt loses its beginning for both. */
static int reward_pair(reward *w, const pair *p, int64_t index) {
    dpo_sequence *s = &w->sequence[2 * index];
    int64_t *first = &w->first[2 * index], positions = dpo_model_config_of(w->model)->max_position_embeddings, over;
    int side;
    if (reward_sequence(w, p, 1, &s[0], &first[0]) || reward_sequence(w, p, 0, &s[1], &first[1])) return 1;
    over = (s[0].n > s[1].n ? s[0].n : s[1].n) - 1 - positions; /* the last id is only predicted */
    if (over < 0) over = 0;
    for (side = 0; side < 2; side++) {
        if (s[side].context <= over || s[side].n == s[side].context) { /* nothing is left of the prompt, or no answer */
            w->n = first[0];
            first[0] = first[1] = -1;
            return 0;
        }
        first[side] += over;
        s[side].n -= over;
        s[side].context -= over;
    }
    w->cut += over > 0;
    return 0;
}

static int reward_load(reward *w) {
    const settings *s = w->s;
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    how.precision = s->precision;
    how.frozen = 1;
    w->model = dpo_model_load_as(context, s->judge_model, &how);
    if (w->model && s->judge_adapter) dpo_lora_load(w->model, s->judge_adapter);
    w->reference = s->judge_reference ? dpo_model_load_as(context, s->judge_reference, &how) : w->model;
    if (dpo_status(context)) return fail();
    w->t = dataset_tokenizer(context, s->tokenizer ? s->tokenizer : s->judge_model, NULL);
    if (!w->t) return 1;
    if (dpo_tokenizer_vocab(w->t) > dpo_model_config_of(w->model)->vocab_size)
        return cli_die(
            "the tokenizer has %d ids, the model %s a vocabulary of %d; use the tokenizer that it was trained "
            "with",
            dpo_tokenizer_vocab(w->t), s->judge_model, dpo_model_config_of(w->model)->vocab_size);
    return 0;
}

/* Scores n games whose sequences were laid down. */
static int reward_score(reward *w, verdicts *v, int64_t n) {
    dpo_score_config k;
    dpo_score *out = (dpo_score *)calloc((size_t)(2 * n + 1), sizeof *out);
    dpo_sequence *s = (dpo_sequence *)calloc((size_t)(2 * n + 1), sizeof *s);
    int64_t i, count = 0;
    int failed = !out || !s ? no_memory() : 0;
    memset(&k, 0, sizeof k);
    k.reference = w->reference;
    for (i = 0; i < 2 * n && !failed; i++) {
        if (w->first[i] < 0) continue;
        s[count] = w->sequence[i];
        s[count++].ids = w->ids + w->first[i];
    }
    if (!failed && dpo_score_sequences(w->model, s, count, &k, out, NULL)) failed = fail();
    for (i = count = 0; i < n && !failed; i++) {
        game *g = &v->g[i];
        char note[80];
        double r[2];
        int side;
        if (w->first[2 * i] < 0) {
            g->outcome = OUTCOME_INVALID;
            failed = score_note(v, g, "prompt or answer empty, or too long for the judge");
            continue;
        }
        for (side = 0; side < 2; side++, count++) r[side] = w->s->beta * (out[count].logp - out[count].reference_logp);
        score_outcome(g, r[0], r[1]);
        snprintf(note, sizeof note, "%s / %s", cli_number(r[0]), cli_number(r[1]));
        failed = score_note(v, g, note);
    }
    free(out);
    free(s);
    return failed;
}

static int score_reward(const settings *s, verdicts *v, const answers *a) {
    reward w;
    int64_t i;
    int failed;
    memset(&w, 0, sizeof w);
    w.s = s;
    w.sequence = (dpo_sequence *)calloc((size_t)(2 * a->n), sizeof *w.sequence);
    w.first = (int64_t *)calloc((size_t)(2 * a->n), sizeof *w.first);
    failed = !w.sequence || !w.first ? no_memory() : reward_load(&w);
    for (i = 0; i < a->n && !failed; i++) failed = reward_pair(&w, &a->p[i], i);
    if (!failed && w.cut)
        cli_note("%s prompts with their answers are longer than the judge's positions: their beginnings were cut",
                 cli_count((uint64_t)w.cut));
    if (!failed) failed = reward_score(&w, v, a->n);
    free(w.ids);
    free(w.sequence);
    free(w.first);
    return failed;
}

/* What the judge is, never more than that. */
static void score_name(const settings *s, verdicts *v) {
    if (s->by == BY_WORLD) snprintf(v->judge, sizeof v->judge, "the rule of the little world (built in)");
    else if (s->by == BY_LENGTH)
        snprintf(v->judge, sizeof v->judge, "the longer answer (built in; a baseline, it knows nothing of quality)");
    else
        snprintf(v->judge, sizeof v->judge, "implicit reward of %.50s%s%.50s against %.50s, beta %s (built in)",
                 s->judge_model, s->judge_adapter ? " with " : "", s->judge_adapter ? s->judge_adapter : "",
                 s->judge_reference ? s->judge_reference : "its base", cli_number(s->beta));
}

static int run_score(const settings *s) {
    answers a;
    verdicts v;
    game *g;
    int64_t i;
    uint64_t h;
    int failed = answers_read(&a, s->file[0], s);
    memset(&v, 0, sizeof v);
    v.path = s->output ? s->output : s->file[0];
    if (!failed) score_name(s, &v);
    h = hash_text(hash_begin, v.judge);
    for (i = 0; i < a.n && !failed; i++) {
        const pair *p = &a.p[i];
        h = pair_hash(h, p);
        g = verdicts_add(&v);
        if (!g) {
            failed = 1;
            break;
        }
        game_of_pair(g, p);
        g->slot = '-';
        if (s->by == BY_WORLD) failed = score_world(&v, g, p);
        if (s->by == BY_LENGTH) score_outcome(g, (double)g->policy_chars, (double)g->baseline_chars);
    }
    if (!failed && s->by == BY_REWARD) failed = score_reward(s, &v, &a);
    run_name(v.run, h);
    if (!failed) verdicts_sort(&v);
    if (!failed && s->output) failed = verdicts_write(&v, s->output);
    if (!failed) failed = report(&s->report, &v, 1);
    verdicts_free(&v);
    answers_free(&a);
    return failed;
}

/* ---- generate: the prompts -------------------------------------------------------------------------------------- */

enum { CHUNK = 64 }; /* prompts answered between two writings */

typedef struct prompt {
    int64_t id; /* the line or row that it is */
    uint64_t hash;
    const char *text, *chosen;
} prompt;

/* A model that answers. */
typedef struct speaker {
    const char *dir;
    dpo_model *m;
    dpo_tokenizer *t;
    dpo_generate_config g;
    const char *stop[2]; /* the format's, the user's */
    int32_t end_of_turn;
    uint64_t hash; /* of weights and adapters */
} speaker;

typedef struct generator {
    const settings *s;
    dataset d; /* what is known of the file */
    uint64_t file_hash;
    prompt *p;
    int64_t n, room, done, cut; /* cut: prompts of which the model saw the end only */
    pool *strings;
    speaker of[2]; /* the policy, and the model it is compared with */
    char run[RUN_DIGITS + 1];
    log_file log;
    char *known; /* [n] the file has its answer */
} generator;

static const char *keep_parts(generator *u, const chat_parts *p, const char *end) {
    judge_text b;
    const char *kept;
    int64_t i;
    memset(&b, 0, sizeof b);
    judge_say(&b, "");
    for (i = 0; i < p->n; i++) judge_put(&b, p->part[i].text, p->part[i].bytes);
    if (!b.no_memory && end && b.n >= strlen(end) && !strcmp(b.text + b.n - strlen(end), end)) b.n -= strlen(end);
    kept = b.no_memory ? NULL : pool_keep(&u->strings, b.text, b.n);
    free(b.text);
    return kept;
}

static int generate_prompt(generator *u, row_data *r, int64_t line) {
    void *p = u->p;
    prompt *one;
    uint64_t h = hash_begin;
    int64_t i;
    for (i = 0; i < r->prompt.n; i++) h = dataset_fnv(h, r->prompt.part[i].text, r->prompt.part[i].bytes);
    if (u->d.o.eval_fraction > 0 && !dataset_is_held(&u->d, h)) return 0; /* it was trained on */
    if (grow(&p, u->n, &u->room, sizeof *u->p)) return 1;
    u->p = (prompt *)p;
    one = &u->p[u->n];
    one->id = line;
    one->hash = h;
    one->text = keep_parts(u, &r->prompt, NULL);
    one->chosen = keep_parts(u, &r->chosen, chat_end_of_turn(u->d.file[0].chat));
    if (!one->text || !one->chosen) return no_memory();
    u->n++;
    return 0;
}

static int prompt_order(const void *a, const void *b) {
    const prompt *x = *(const prompt *const *)a, *y = *(const prompt *const *)b;
    return x->hash < y->hash ? -1 : x->hash > y->hash ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

/* A prompt is asked once, whatever the number of its rows: verdicts on one prompt are not independent. */
static int generate_unique(generator *u) {
    prompt **sorted = (prompt **)malloc((size_t)(u->n + 1) * sizeof *sorted);
    int64_t i, k;
    if (!sorted) return no_memory();
    for (i = 0; i < u->n; i++) sorted[i] = &u->p[i];
    qsort(sorted, (size_t)u->n, sizeof *sorted, prompt_order);
    for (i = u->n - 1; i > 0; i--)
        if (sorted[i]->hash == sorted[i - 1]->hash) sorted[i]->text = NULL;
    for (i = k = 0; i < u->n; i++)
        if (u->p[i].text) u->p[k++] = u->p[i];
        else dataset_drop(&u->d.file[0], "a prompt that an earlier row has", NULL, u->p[i].id);
    u->n = k;
    free(sorted);
    return 0;
}

/* --max-prompts of them, from the beginning, from the end, or spread over all. */
static void generate_choose(generator *u) {
    int64_t want = u->s->max_prompts, i;
    if (!want || want >= u->n) return;
    for (i = 0; i < want; i++)
        u->p[i] = u->p[u->s->choose == CHOOSE_FIRST  ? i
                       : u->s->choose == CHOOSE_LAST ? u->n - want + i
                                                     : i * u->n / want];
    u->n = want;
}

static int generate_rows(generator *u, dataset_reader *k, const in_file *in) {
    dataset_file *f = k->f;
    row_source s = row_source_start(in->text, in->size);
    const char *json;
    size_t bytes;
    f->array = s.array;
    while (row_next(&s, &json, &bytes)) {
        if (cli_stopped()) return cli_die("stopped while reading %s; nothing was written", f->path);
        f->rows++;
        if (!dataset_row(k, json, bytes)) {
            if (generate_prompt(u, &k->r, s.line)) return 1;
        } else if (k->r.no_memory) return no_memory();
        else dataset_drop(f, k->r.why, k->r.also, s.line);
    }
    return generate_unique(u);
}

/* The prompts of a data file in any format, with their chosen answers. */
static int generate_read(generator *u) {
    dataset_reader k;
    dataset_file *f = &u->d.file[0];
    in_file in;
    int failed;
    memset(&k, 0, sizeof k);
    u->d.c = context;
    u->d.sft = 1;
    u->d.o = u->s->d;
    u->d.model_chat = chat_format_of_model(context, u->s->model);
    dpo_clear(context); /* of files that a directory need not have */
    k.d = &u->d;
    k.f = f;
    k.o = u->d.o.row;
    k.o.sft = 1;
    f->path = u->s->data;
    f->format = u->d.o.format;
    if (in_read(&in, f->path)) return 1;
    u->file_hash = dataset_fnv(hash_begin, in.text, in.size);
    k.r.json = dpo_json_create(context);
    failed = k.r.json ? 0 : fail();
    if (!failed && !f->format) f->format = dataset_detect(&u->d, &k.r, f->path, in.text, in.size);
    if (!failed && (f->format == DATASET_TEXT || f->format == DATASET_TOKENS))
        failed = cli_die("%s holds %s; expected prompts with answers", f->path, dataset_format_words(f->format));
    if (f->format < 0) failed = 1;
    if (!failed) {
        f->chat = k.o.chat = dataset_chat(&u->d, f->format);
        failed = generate_rows(u, &k, &in);
    }
    if (!failed && !u->n && f->reasons)
        failed =
            cli_die("%s: none of %s rows can be used; the first (%s %s): %s", f->path, cli_count((uint64_t)f->rows),
                    dataset_place(f), cli_count((uint64_t)f->reason[0].first), f->reason[0].why);
    if (!failed && !u->n) failed = cli_die("%s: no prompts are held out; give another --eval-fraction", f->path);
    if (!failed && !u->s->quiet) dataset_print_file(f);
    if (!failed) generate_choose(u);
    row_free(&k.r);
    free(in.memory);
    return failed;
}

/* ---- generate: the models --------------------------------------------------------------------------------------- */

/* dpo_model_hash leaves adapters out. */
static int speaker_hash(speaker *p) {
    int64_t n = dpo_lora_tensors(p->m, NULL, 0), i;
    dpo_tensor *t = (dpo_tensor *)malloc((size_t)(n > 0 ? n : 1) * sizeof *t);
    int k;
    if (!t) return no_memory();
    p->hash = dpo_model_hash(p->m);
    dpo_lora_tensors(p->m, t, n);
    for (i = 0; i < n; i++) {
        size_t bytes = dpo_dtype_size(t[i].dtype);
        for (k = 0; k < t[i].ndim; k++) bytes *= (size_t)t[i].shape[k];
        p->hash = dataset_fnv(hash_text(p->hash, t[i].name), (const char *)t[i].data, bytes);
    }
    free(t);
    return dpo_status(context) ? fail() : 0;
}

/* Loads a model and sets how it answers: until the end of text, the end of its turn, or the next turn. */
static int speaker_open(speaker *p, const settings *s, const char *dir, const char *adapter, const char *tokenizer,
                        int chat) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_generate_config *g = &p->g;
    const char *end = chat_end_of_turn(chat), *const * stops;
    p->dir = dir;
    how.precision = s->precision;
    how.frozen = 1;
    p->m = dpo_model_load_as(context, dir, &how);
    if (p->m && adapter) dpo_lora_load(p->m, adapter);
    if (dpo_status(context)) return fail();
    p->t = dataset_tokenizer(context, tokenizer ? tokenizer : dir, s->d.eos);
    if (!p->t) return 1;
    if (dpo_model_config_of(p->m)->vocab_size < dpo_tokenizer_vocab(p->t))
        return cli_die("the tokenizer %s has %d ids, the model %s a vocabulary of %d; use the tokenizer that the model "
                       "was trained with",
                       tokenizer ? tokenizer : dir, dpo_tokenizer_vocab(p->t), dir,
                       dpo_model_config_of(p->m)->vocab_size);
    *g = dpo_generate_defaults();
    g->max_new_tokens = s->max_new_tokens;
    g->temperature = s->temperature;
    g->top_k = s->top_k;
    g->top_p = s->top_p;
    g->seed = s->seed;
    g->tokenizer = p->t;
    g->eos = dpo_tokenizer_eos(p->t);
    if (g->eos < 0) g->eos = dpo_model_config_of(p->m)->eos_token_id;
    p->end_of_turn = end ? dpo_tokenizer_id(p->t, end, strlen(end)) : -1;
    g->stop_ids = &p->end_of_turn;
    g->n_stop_ids = p->end_of_turn >= 0;
    if (!s->compat_rfind && chat_stops(chat, &stops) > 0) p->stop[g->n_stop++] = stops[0];
    if (s->stop) p->stop[g->n_stop++] = s->stop;
    g->stop = p->stop;
    return speaker_hash(p);
}

/* A prompt's ids for this model, the last ones if there are too many, on the heap; NULL after an error. */
static int32_t *speaker_encode(generator *u, const speaker *p, const char *text, int64_t *n) {
    int chat = u->d.file[0].chat;
    unsigned flags = dpo_tokenizer_adds_bos(p->t) && !chat_writes_bos(chat) ? (unsigned)DPO_ENCODE_ADD_BOS : 0u;
    int64_t most = u->s->max_prompt_length, positions = dpo_model_config_of(p->m)->max_position_embeddings;
    dpo_text part;
    int32_t *ids;
    part.text = text;
    part.bytes = strlen(text);
    part.special = chat_end_of_turn(chat) != NULL;
    *n = dpo_encode_parts(p->t, &part, 1, flags, NULL, 0);
    ids = *n < 0 ? NULL : (int32_t *)malloc((size_t)(*n + 1) * sizeof *ids);
    if (*n < 0) fail();
    else if (!ids) no_memory();
    if (!ids) return NULL;
    dpo_encode_parts(p->t, &part, 1, flags, ids, *n);
    if (most > positions - u->s->max_new_tokens) most = positions - u->s->max_new_tokens;
    if (*n > most) {
        memmove(ids, ids + *n - most, (size_t)most * sizeof *ids);
        *n = most;
        u->cut += p == &u->of[0];
    }
    if (*n > 0) return ids;
    free(ids);
    cli_die("an empty prompt, and the tokenizer of %s begins no text itself; leave it out of the data", p->dir);
    return NULL;
}

/* An answer's ids as text in the pool, cut where the next turn begins; NULL without memory. --compat-rfind: what stands
 * behind the last "\n\nAssistant:", as the study took it, even if the model has invented turns. */
static const char *speaker_text(generator *u, const speaker *p, int32_t *ids, int64_t n) {
    int64_t i, known = 0, bytes, s;
    char *text, *stop;
    const char *kept, *from;
    for (i = 0; i < n; i++) /* a padded vocabulary has ids that the tokenizer has not */
        if (ids[i] < dpo_tokenizer_vocab(p->t)) ids[known++] = ids[i];
    bytes = dpo_decode(p->t, ids, known, NULL, 0);
    text = bytes < 0 ? NULL : (char *)malloc((size_t)bytes + 1);
    if (!text) return NULL;
    dpo_decode(p->t, ids, known, text, (size_t)bytes);
    text[bytes] = 0;
    for (s = 0; s < p->g.n_stop; s++)
        if ((stop = strstr(text, p->g.stop[s])) != NULL) *stop = 0;
    from = u->s->compat_rfind ? judge_after(text, strlen(text), "\n\nAssistant:") : NULL;
    if (!from) from = text;
    kept = pool_keep(&u->strings, from, strlen(from));
    free(text);
    return kept;
}

/* ---- generate: the answers -------------------------------------------------------------------------------------- */

typedef struct chunk {
    const prompt *p[CHUNK];
    int64_t n;
    const char *text[2][CHUNK];
    int64_t prompt_tokens[2][CHUNK], tokens[2][CHUNK];
    int finish[2][CHUNK];
} chunk;

/* Each answer draws by its prompt's id, so it is the same whichever prompts are answered beside it. */
static int chunk_answer(generator *u, chunk *k, int side) {
    speaker *p = &u->of[side];
    int32_t *ids[CHUNK], *out = (int32_t *)malloc((size_t)(k->n * u->s->max_new_tokens) * sizeof *out);
    const int32_t *views[CHUNK];
    uint64_t streams[CHUNK];
    int64_t i, count = 0;
    int failed = out ? 0 : no_memory();
    for (i = 0; i < k->n && !failed; i++) {
        ids[i] = speaker_encode(u, p, k->p[i]->text, &k->prompt_tokens[side][i]);
        if (!ids[i]) {
            failed = 1;
            break;
        }
        count++;
        views[i] = ids[i];
        streams[i] = (uint64_t)k->p[i]->id;
    }
    p->g.streams = streams;
    p->g.finish = k->finish[side];
    if (!failed && dpo_generate(p->m, views, k->prompt_tokens[side], k->n, &p->g, out, k->tokens[side]))
        failed = cli_stopped() ? 1 : fail();
    for (i = 0; i < k->n && !failed; i++) {
        k->text[side][i] = speaker_text(u, p, out + i * u->s->max_new_tokens, k->tokens[side][i]);
        if (!k->text[side][i]) failed = no_memory();
    }
    for (i = 0; i < count; i++) free(ids[i]);
    free(out);
    return failed;
}

static const char *finish_word(int finish) {
    return finish == DPO_FINISH_EOS ? "eos" : finish == DPO_FINISH_STOP ? "turn" : "length";
}

static int chunk_write(generator *u, const chunk *k) {
    FILE *f = u->log.f;
    int64_t i;
    for (i = 0; i < k->n; i++) {
        fprintf(f, "{\"id\": %lld, \"run\": \"%s\"", (long long)k->p[i]->id, u->run);
        put_text(f, "prompt", k->p[i]->text);
        put_text(f, "policy", k->text[0][i]);
        put_text(f, "chosen", k->p[i]->chosen);
        put_count(f, "prompt_tokens", k->prompt_tokens[0][i]);
        put_count(f, "tokens", k->tokens[0][i]);
        put_text(f, "stop", finish_word(k->finish[0][i]));
        if (u->of[1].m) {
            put_text(f, "against", k->text[1][i]);
            put_count(f, "against_tokens", k->tokens[1][i]);
            put_text(f, "against_stop", finish_word(k->finish[1][i]));
        }
        fprintf(f, ", \"seed\": %llu", (unsigned long long)u->s->seed);
        put_text(f, "chat_format", chat_name(u->d.file[0].chat));
        fputs("}\n", f);
    }
    return log_sync(&u->log);
}

/* All that an answer depends on; which prompts were chosen is not among it. */
static uint64_t generate_hash(const generator *u) {
    const settings *s = u->s;
    char text[400];
    snprintf(text, sizeof text, "%016llx %016llx %016llx %016llx %d %llu %.17g %.17g %d %d %d %d %d %d",
             (unsigned long long)u->of[0].hash, (unsigned long long)dpo_tokenizer_hash(u->of[0].t),
             (unsigned long long)u->of[1].hash, (unsigned long long)u->file_hash, u->d.file[0].chat,
             (unsigned long long)s->seed, s->temperature, s->top_p, s->top_k, s->max_new_tokens, s->max_prompt_length,
             s->compat_rfind, s->precision, u->d.file[0].format);
    return hash_text(hash_text(hash_begin, text), s->stop ? s->stop : "");
}

/* The prompts that the file has answers to already. */
static int generate_resume(generator *u) {
    lines l;
    char run[RUN_DIGITS + 1];
    int64_t id, low, high;
    int more, failed = 0;
    if (lines_start(&l, context, u->log.path, u->log.old.text ? u->log.old.text : "", u->log.old.size)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (row_run(&l.r, run)) lines_bad(&l, l.r.why);
        else if (strcmp(run, u->run))
            failed =
                cli_die("%s, line %lld: answers of run %s, and these would be run %s: another model, other data or "
                        "other options; give another --output",
                        l.f.path, (long long)l.s.line, run, u->run);
        else if ((id = row_count(&l.r, "id")) < 0) lines_bad(&l, "no id");
        else {
            for (low = 0, high = u->n; low < high;) { /* prompts stand in the order of their ids */
                int64_t middle = low + (high - low) / 2;
                if (u->p[middle].id < id) low = middle + 1;
                else high = middle;
            }
            if (low == u->n || u->p[low].id != id) continue; /* of an earlier, other choice of prompts */
            if (u->known[low]) lines_bad(&l, "a second answer to a prompt");
            u->done += !u->known[low];
            u->known[low] = 1;
        }
    }
    if (!failed) lines_tell(&l);
    lines_close(&l);
    return failed;
}

static void generate_live(const generator *u, double began, int64_t before) {
    char line[256];
    double took = cli_clock() - began, each = u->done > before ? took / (double)(u->done - before) : 0;
    if (u->s->quiet) return;
    snprintf(line, sizeof line, "answering: %s of %s prompts, %s left", cli_count((uint64_t)u->done),
             cli_count((uint64_t)u->n), cli_duration(each * (double)(u->n - u->done)));
    cli_live(line);
}

static int generate_all(generator *u) {
    chunk *k = (chunk *)malloc(sizeof *k);
    int64_t i = 0, before = u->done;
    double began = cli_clock();
    int failed = k ? 0 : no_memory();
    while (!failed && !cli_stopped() && i < u->n) {
        for (k->n = 0; i < u->n && k->n < CHUNK; i++)
            if (!u->known[i]) k->p[k->n++] = &u->p[i];
        if (!k->n) break;
        failed = chunk_answer(u, k, 0) || (u->of[1].m && chunk_answer(u, k, 1)) || chunk_write(u, k);
        if (!failed) u->done += k->n;
        generate_live(u, began, before);
    }
    cli_live_clear();
    free(k);
    if (cli_stopped())
        return cli_die("stopped; %s of %s prompts are answered, the same command goes on", cli_count((uint64_t)u->done),
                       cli_count((uint64_t)u->n));
    return failed;
}

static int generate_open(generator *u) {
    const settings *s = u->s;
    int chat = u->d.file[0].chat, k, positions;
    if (speaker_open(&u->of[0], s, s->model, s->adapter, s->tokenizer, chat)) return 1;
    if (s->against && speaker_open(&u->of[1], s, s->against, s->against_adapter, NULL, chat)) return 1;
    for (k = 0; k < 2 && u->of[k].m; k++) {
        positions = dpo_model_config_of(u->of[k].m)->max_position_embeddings;
        if (s->max_new_tokens >= positions)
            return cli_die("--max-new-tokens %d leaves no room for a prompt in the %d positions of %s",
                           s->max_new_tokens, positions, u->of[k].dir);
    }
    run_name(u->run, generate_hash(u));
    u->known = (char *)calloc((size_t)u->n + 1, 1);
    if (!u->known) return no_memory();
    return log_open(&u->log, s->output) || generate_resume(u);
}

static int run_generate(const settings *s) {
    generator u;
    int64_t before = 0;
    int failed;
    memset(&u, 0, sizeof u);
    u.s = s;
    failed = generate_read(&u) || generate_open(&u);
    if (!failed) {
        before = u.done;
        failed = generate_all(&u);
    }
    if (!failed && u.cut)
        cli_note("%s prompts are longer than --max-prompt-length or the model's positions allow: it saw their ends",
                 cli_count((uint64_t)u.cut));
    if (!failed && !s->quiet)
        printf("%s: answers to %s prompts (%s before this run), run %s\n", s->output, cli_count((uint64_t)u.done),
               cli_count((uint64_t)before), u.run);
    if (u.log.f && log_close(&u.log)) failed = 1;
    free(u.p);
    free(u.known);
    pool_free(u.strings);
    return failed ? 1 : flush_output();
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int read_command(settings *s, cli_program *p, int argc, char **argv) {
    cli_option options[] = {
        CLI_HEADING("All commands"),
        CLI_STRING("output", &s->output, "FILE", "", "what the command writes"),
        CLI_FLAG("quiet", &s->quiet, "", "no live line, no summary"),
        CLI_INT("threads", &s->threads, 0, 1024, "", "0: one per core. Changes no result"),
        CLI_WORD("precision", &s->precision, "fp32|mixed|bf16", "", "of the models' arithmetic"),
        CLI_STRING("tokenizer", &s->tokenizer, "PATH", "tokenizer_name",
                   "generate, score: a directory, a tokenizer.json, or bytes; without it the model's own"),
        CLI_UINT64("seed", &s->seed, "",
                   "generate: with the prompt's id it decides an answer; import, score, report: of the bootstrap"),
        CLI_HEADING("generate: a model's answers to the prompts of a data file. An output that is there goes on"),
        CLI_STRING("model", &s->model, "DIR", "model_name_or_path",
                   "the policy: a Hugging Face directory (safetensors)"),
        CLI_STRING("adapter", &s->adapter, "DIR", "", "a PEFT adapter on it"),
        CLI_STRING("against", &s->against, "DIR", "",
                   "another model, which answers the same prompts by the same draws"),
        CLI_STRING("against-adapter", &s->against_adapter, "DIR", "", "a PEFT adapter on that one"),
        CLI_STRING("data", &s->data, "FILE", "dataset_name eval", "prompts with chosen answers, plain or .gz"),
        CLI_WORD("format", &s->d.format, "auto|pairs|hh|shp|alpaca|preference|sharegpt|messages", "",
                 "of the data, as dpo-train reads them; auto: by its fields"),
        CLI_WORD("chat-format", &s->d.chat, "auto|" CHAT_WORDS, "", "how turns are written; auto: as in training"),
        CLI_STRING("prompt-field", &s->d.row.prompt, "NAME", "", "its name in pairs"),
        CLI_STRING("chosen-field", &s->d.row.chosen, "NAME", "", "the name of the answer to compare with"),
        CLI_STRING("messages-field", &s->d.row.messages, "NAME", "", "a whole dialogue's name"),
        CLI_FLAG("hh-keep-diverging", &s->d.row.hh_keep_diverging, "",
                 "hh: keep rows whose answers do not share the prompt, as the study does"),
        CLI_STRING("eos", &s->d.eos, "PIECE", "", "what ends a text, if the tokenizer's files do not name it"),
        CLI_DOUBLE("eval-fraction", &s->d.eval_fraction, 0, 0.9, "",
                   "only the prompts that dpo-train holds out of this file with the same fraction; 0: all"),
        CLI_INT("max-prompts", &s->max_prompts, 0, 1000000000, "max_samples", "answer no more; 0: all"),
        CLI_WORD("choose", &s->choose, "first|last|spread", "", "which ones"),
        CLI_INT("max-new-tokens", &s->max_new_tokens, 1, 1000000, "", "of an answer"),
        CLI_INT("max-prompt-length", &s->max_prompt_length, 1, 1000000, "",
                "tokens; of a longer prompt the end is kept"),
        CLI_DOUBLE("temperature", &s->temperature, 0, 1e6, "", "0: the likeliest token each time"),
        CLI_INT("top-k", &s->top_k, 0, INT_MAX, "", "draw from the k likeliest tokens; 0: all"),
        CLI_DOUBLE("top-p", &s->top_p, CLI_ABOVE_0, 1, "", "draw from the likeliest that together reach p"),
        CLI_STRING("stop", &s->stop, "TEXT", "", "end an answer here, besides where its format ends"),
        CLI_FLAG("compat-rfind", &s->compat_rfind, "",
                 "as the study: do not stop at the next turn, and take what follows the last \"Assistant:\""),
        CLI_HEADING("export: questions for a judge"),
        CLI_STRING("manifest", &s->manifest, "FILE", "", "export, import: what each question is about"),
        CLI_WORD("style", &s->style, JUDGE_STYLE_WORDS, "",
                 "the question: of the DPO paper, or in MT-bench's form, where a tie is possible"),
        CLI_STRING("template", &s->form_file, "FILE", "",
                   "a text with {query}, {a} and {b} to ask instead; the style then says how the verdict is read"),
        CLI_WORD("order", &s->order, "alternate|hash|both", "",
                 "which answer is A: the policy's in every other question (as the study), by a hash, or each once; a "
                 "prompt asked both ways is won or lost if both verdicts agree, else a tie"),
        CLI_WORD("baseline", &s->baseline, "auto|chosen|against", "",
                 "export, score: what the policy is compared with; auto: against where there is one"),
        CLI_WORD("lines", &s->lines, "openai-batch|plain", "",
                 "for a batch service, or for a local judge (run takes both)"),
        CLI_STRING("judge", &s->judge_name, "NAME", "", "the model that the batch service is to ask"),
        CLI_INT("max-tokens", &s->judge_max_tokens, 1, 1000000, "", "of the judge's words"),
        CLI_DOUBLE("judge-temperature", &s->judge_temperature, 0, 100, "", "of the judge"),
        CLI_HEADING("run: a judge on this machine. Results that are there go on; failed questions are asked again"),
        CLI_STRING(
            "cmd", &s->run.cmd, "CMD", "",
            "run by /bin/sh; reads lines {custom_id, messages, max_tokens, temperature}, prints and "
            "flushes a line {custom_id, content} or {custom_id, error} for each, in any order, until its input ends"),
        CLI_INT("jobs", &s->run.jobs, 1, 256, "", "so many processes of it"),
        CLI_INT("in-flight", &s->run.in_flight, 1, 4096, "", "questions that each may hold at a time"),
        CLI_DOUBLE("timeout", &s->run.timeout, CLI_ABOVE_0, 1e6, "", "seconds without an answer, then it is ended"),
        CLI_INT("retries", &s->run.retries, 0, 1000, "",
                "so often a question is asked again after an error, a timeout or the judge's end"),
        CLI_HEADING("import, score, report: verdicts, rates, comparisons"),
        CLI_FLAG(
            "compat", &s->compat, "",
            "import: read verdicts as others did. dpo-hh: by the study's rule, the very last character, whatever is "
            "not the policy's letter is a loss; pair-v2: [[A]] is looked for first. Without it a verdict must be "
            "exactly one, and what is none counts neither way but is reported"),
        CLI_WORD("by", &s->by, "world|length|reward", "",
                 "score: the rule of the little world (examples/world.h), the longer answer (a baseline that knows "
                 "nothing of quality), or the implicit reward beta * (log pi - log ref) of a DPO model"),
        CLI_STRING("judge-model", &s->judge_model, "DIR", "", "reward: pi"),
        CLI_STRING("judge-adapter", &s->judge_adapter, "DIR", "", "reward: a PEFT adapter on it"),
        CLI_STRING("judge-reference", &s->judge_reference, "DIR", "",
                   "reward: ref; without it judge-model, its adapter off"),
        CLI_DOUBLE("beta", &s->beta, CLI_ABOVE_0, 1e6, "", "reward: its scale; changes no verdict"),
        CLI_INT("draws", &s->report.draws, 40, 40000, "", "resamples of the bootstrap"),
        CLI_FLAG("json", &s->report.json, "", "the report as one object"),
    };
    return cli_parse(p, options, CLI_COUNT(options), argc, argv);
}

static int check_generate(const settings *s) {
    if (s->files) return cli_die("generate takes no argument, got '%s'; the data are --data FILE", s->file[0]);
    if (!s->model) return cli_die("expected --model DIR, the model to judge");
    if (!s->data) return cli_die("expected --data FILE, prompts with chosen answers");
    if (s->against_adapter && !s->against)
        return cli_die("--against-adapter expects --against DIR, the model under it");
    if (!s->output) return cli_die("expected --output FILE for the answers");
    if (s->stop && !*s->stop) return cli_die("--stop is empty; expected the text at which answers end");
    return 0;
}

static int check_command(const settings *s, const cli_program *p) {
    static const char *const commands[] = {"generate", "export", "run", "import", "score", "report"};
    static const char *const takes[] = {"", "ANSWERS", "REQUESTS", "RESULTS...", "ANSWERS", "VERDICTS..."};
    int i;
    for (i = 0; i < 6 && (!s->command || strcmp(s->command, commands[i])); i++) {
    }
    if (i == 6 && s->command)
        return cli_die("expected generate, export, run, import, score or report, got '%s'", s->command);
    if (i == 6)
        return cli_die("expected generate, export, run, import, score or report; usage: dpo-judge %s", p->usage);
    if (i == 0) return check_generate(s);
    if (!s->files) return cli_die("expected %s %s", commands[i], takes[i]);
    if (s->files > 1 && !strchr(takes[i], '.'))
        return cli_die("%s takes one file, got '%s' besides", commands[i], s->file[1]);
    if (i < 3 && !s->output) return cli_die("expected --output FILE for the %s", i == 1 ? "questions" : "results");
    if ((i == 1 || i == 3) && !s->manifest)
        return cli_die("expected --manifest FILE, %s",
                       i == 1 ? "for what each question is about" : "which export wrote");
    if (i == 1 && !strcmp(s->output, s->manifest))
        return cli_die("--output and --manifest are one file, %s", s->output);
    if (i == 2 && !s->run.cmd) return cli_die("expected --cmd CMD, the judge");
    if (i == 4 && s->by < 0) return cli_die("expected --by world, length or reward");
    if (i == 4 && s->by == BY_REWARD && (!s->judge_model || (!s->judge_reference && !s->judge_adapter)))
        return cli_die(
            "--by reward expects --judge-model DIR with --judge-reference DIR, the model that it was trained "
            "from, or with --judge-adapter DIR, whose base is the reference");
    return 0;
}

static settings settings_defaults(void) {
    settings s;
    memset(&s, 0, sizeof s);
    s.d = dataset_defaults();
    s.max_new_tokens = s.max_prompt_length = 256; /* the study's 512 in all */
    s.temperature = s.top_p = 1;
    s.judge_name = "gpt-4";
    s.judge_max_tokens = 256;
    s.run.jobs = s.run.in_flight = 1;
    s.run.timeout = 120;
    s.run.retries = 2;
    s.by = -1;
    s.beta = 0.1;
    s.report.draws = 10000;
    return s;
}

static int run_command(const settings *s) {
    switch (s->command[0]) {
    case 'g': return run_generate(s);
    case 'e': return run_export(s);
    case 'i': return run_import(s);
    case 's': return run_score(s);
    default: return s->command[1] == 'u' ? run_run(s) : run_report(s);
    }
}

int main(int argc, char **argv) {
    cli_program p = cli_program_make(
        "dpo-judge", VERSION, "generate|export|run|import|score|report FILE... [options]",
        "Win rates: a model answers held-out prompts (generate), its answers and those it is compared with become "
        "questions for a judge (export), a program on this machine judges them (run) or whatever else reads the file, "
        "its "
        "words become verdicts (import), or a judge that is built in gives them (score). Each prints the win rate, "
        "ties as half a win, with Wilson's and the bootstrap's 95 % interval; what the order and the lengths of the "
        "answers have to do with it; and the length-adjusted rate: that of a logistic regression of the verdict on "
        "tanh(length difference / its standard deviation) where the lengths are equal. Several files of verdicts are "
        "compared prompt by prompt with the first (report). There is no network in it.");
    static settings s; /* its options point into it */
    dpo_desc desc;
    int code;
    s = settings_defaults();
    if (read_command(&s, &p, argc, argv)) return p.exit_code;
    s.command = p.argument_count ? p.argument[0] : NULL;
    s.file = p.argument + 1;
    s.files = p.argument_count ? p.argument_count - 1 : 0;
    if (check_command(&s, &p)) return 1;
    s.report.seed = s.seed;
    cli_catch_signals();
    memset(&desc, 0, sizeof desc);
    desc.n_threads = s.threads;
    desc.log = on_log;
    desc.cancel = on_cancel;
    context = dpo_open(&desc);
    if (!context) return cli_die("%s", dpo_error(NULL));
    code = run_command(&s);
    dpo_close(context);
    return code;
}
