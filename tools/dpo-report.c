/* dpo-report.c: the program build/dpo-report makes one HTML page of one or several training runs, on dpo.h.
 *
 *     dpo-report RUN_DIR... --output report.html [options]
 *
 * The page stands alone: charts are drawn in it, nothing is loaded, no script runs. Of each run's directory it reads
 *
 *     metrics.jsonl   a line an update or evaluation, as dpo-train writes them (names of TRL; an evaluation's begin with
 *                     "eval_"). Used: step, examples, tokens, epoch, loss, rewards/accuracies, rewards/ties,
 *                     rewards/margins, logps/chosen, logps/rejected, grad_norm, tokens_per_second, eval_sampled_length,
 *                     and eval_examples, how many examples an evaluation is the mean of
 *     run.json        if it is there: {"program": "dpo-train", "command": "dpo", "build": "...", "options": {"beta":
 *                     0.1, ...}, "train_examples": N, "eval_examples": N, "train_hash": "...", "eval_hash": "...",
 *                     "train_seconds": S}, each of them optional. Runs are named by the options in which they differ
 *     samples.jsonl   if it is there: lines of {"step", "prompt", "policy", "reference", "chosen"}
 *
 * and of --tokens FILE, which `dpo-eval logprobs --reference` writes, lines of
 *
 *     {"tokens": ["text", ...], "logratios": [log p(policy) - log p(reference), ...],
 *      "prompt": "text", "answer": "chosen", "run": "name"}             the last three are optional
 *
 * and of --study FILE, which build/study writes: the study's tables and figures beside the published numbers, each with
 * the sentence on whether its finding repeats; a page may be of these alone. study_tables.h says what stands in it.
 *
 * It reads top to bottom: what is kept of a run, reading, statistics, the parts of the page. What cannot be read is
 * counted, and said on stderr and on the page; a value that is no finite number is a gap in its line. */
#include "cli.h" /* first: it asks the system headers for open_memstream and friends */
#include "../dpo.h"
#include "files.h"
#include "formats/html.h"
#include "formats/row.h"
#include <math.h>
#include "formats/svg.h"

enum {
    RUNS = 3 * SVG_COLORS, /* so many lines can be told apart */
    LINE = 1 << 20,        /* bytes of a line */
    ROWS = 1 << 20,        /* of a run */
    OPTIONS = 512,         /* of a run */
    NAMED = 3,             /* most options in a run's name */
    TOKENS = 4096,         /* shown of a text */
    EXCERPT = 1500         /* bytes shown of a text */
};

/* ---- what is kept ----------------------------------------------------------------------------------------------- */

enum {
    METRIC_LOSS,
    METRIC_ACCURACIES,
    METRIC_TIES,
    METRIC_MARGINS,
    METRIC_CHOSEN,
    METRIC_REJECTED,
    METRIC_GRAD_NORM,
    METRIC_SPEED,
    METRIC_LENGTH,
    METRICS
};
static const char *const metric_name[METRICS] = {
    "loss",           "rewards/accuracies", "rewards/ties",      "rewards/margins", "logps/chosen",
    "logps/rejected", "grad_norm",          "tokens_per_second", "sampled_length"};

enum { X_EXAMPLES, X_STEP, X_TOKENS, X_EPOCH, X_COUNT };
static const char *const x_field[X_COUNT] = {"examples", "step", "tokens", "epoch"};
static const char *const x_name[X_COUNT] = {"examples", "updates", "tokens", "epochs"};

/* A line of metrics.jsonl; NaN: it is not there. */
typedef struct row {
    double x[X_COUNT], value[METRICS];
    double n; /* examples of an evaluation */
} row;

typedef struct row_list {
    row *at;
    int64_t n, cap;
} row_list;

typedef struct text_copy {
    char *s;
    size_t n;
} text_copy;

typedef struct option {
    char name[64], value[256];
} option;

typedef struct sample {
    text_copy prompt, policy, reference, chosen;
} sample;

/* What was wrong with a file's lines. */
typedef struct trouble {
    int64_t lines, bad, first_bad, too_long, other, unplaced, repeated, beyond;
    const char *why;                           /* the first bad one is bad */
    int64_t null[2][METRICS], odd[2][METRICS]; /* of training, of evaluations: null; no number, or no usable one */
} trouble;

typedef struct run {
    const char *dir;
    char name[96], command[32], build[256], train_hash[64], eval_hash[64];
    int described; /* it has a run.json */
    option *options;
    int option_count;
    double train_n, eval_n, seconds; /* NaN: not known */
    row_list set[2];                 /* training, evaluations */
    sample *samples;
    int sample_count;
    int64_t samples_left_out;
    double samples_step;
} run;

typedef struct token_row {
    text_copy prompt, answer, run;
    int64_t n, left_out;
    text_copy *token;
    double *ratio;
} token_row;

typedef struct report {
    const char *output, *title, *tokens_file, *study_file;
    int x, sample_limit, token_limit, smooth, eval_size;
    dpo_context *c;
    dpo_json *json;
    run run[RUNS];
    int runs;
    option differ[OPTIONS]; /* names of the options in which runs differ; the values are not used */
    int differ_count;
    token_row *tokens;
    int token_count;
    int64_t tokens_left_out;
    char *study; /* the text of --study; json holds its nodes while the page is written */
    char **note;
    int notes;
    int room;       /* beside charts, for names */
    void **drawing; /* of the figure being drawn */
    int drawing_count;
    FILE *f;
} report;

/* Memory or the end: nothing is half written, since the page is put under its name at the end. */
static void *get(void *old, size_t count, size_t size) {
    void *p = count <= SIZE_MAX / (size ? size : 1) ? realloc(old, count * size + 1) : NULL;
    if (p) return p;
    cli_die("no memory for %s things of %s bytes", cli_count(count), cli_count(size));
    exit(1);
}

static void *drawing_get(report *r, int64_t count, size_t size) {
    void *p = get(NULL, (size_t)count, size);
    r->drawing = (void **)get(r->drawing, (size_t)r->drawing_count + 1, sizeof *r->drawing);
    r->drawing[r->drawing_count++] = p;
    return p;
}

static void drawing_clear(report *r) {
    while (r->drawing_count) free(r->drawing[--r->drawing_count]);
}

/* A sentence for stderr and for the page. */
HTML_PRINTF static void note(report *r, const char *format, ...) {
    char line[1024];
    va_list args;
    size_t n;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    n = strlen(line) + 1;
    cli_note("%s", line);
    r->note = (char **)get(r->note, (size_t)r->notes + 1, sizeof *r->note);
    r->note[r->notes] = (char *)get(NULL, n, 1);
    memcpy(r->note[r->notes++], line, n);
}

static const char *plural(int64_t n, const char *one, const char *many) { return n == 1 ? one : many; }

/* ---- lines ------------------------------------------------------------------------------------------------------ */

typedef struct line_reader {
    FILE *f;
    char *s;
    size_t n, cap;
    int64_t number;
    int too_long;
} line_reader;

/* The next line without its end; of one longer than LINE the beginning, and too_long says so. 0 at the end. */
static int next_line(line_reader *l) {
    int c = EOF;
    l->n = 0;
    l->too_long = 0;
    while ((c = getc(l->f)) != EOF && c != '\n') {
        if (l->n == l->cap) {
            if (l->cap >= LINE) {
                l->too_long = 1;
                continue;
            }
            l->cap = l->cap ? 2 * l->cap : 4096;
            l->s = (char *)get(l->s, l->cap, 1);
        }
        l->s[l->n++] = (char)c;
    }
    if (c == EOF && !l->n && !l->too_long) return 0;
    l->number++;
    return 1;
}

/* Parses a text that must be an object; NULL, or why it is none. */
static const char *parse_object(report *r, const char *s, size_t n) {
    const char *why = "";
    int bad = dpo_json_parse(r->json, s, n, &why, NULL) != DPO_OK;
    if (dpo_status(r->c)) {
        cli_die("%s", dpo_error(r->c));
        exit(1);
    }
    return bad ? why : dpo_json_type(r->json, 0) != '{' ? "not an object" : NULL;
}

/* One after the other the lines that are objects; counts the others. 0 at the end. */
static int next_object(report *r, line_reader *l, trouble *t) {
    while (next_line(l)) {
        const char *why;
        size_t i;
        for (i = 0; i < l->n && row_blank(l->s[i]); i++) {
        }
        if (i == l->n && !l->too_long) continue;
        t->lines++;
        if (l->too_long) {
            t->too_long++;
            continue;
        }
        why = parse_object(r, l->s, l->n);
        if (!why) return 1;
        if (t->bad++) continue;
        t->first_bad = l->number;
        t->why = why;
    }
    return 0;
}

static void note_lines(report *r, const char *path, const trouble *t, int64_t last) {
    if (t->bad == 1 && t->first_bad == last)
        note(r, "%s: the last line, %s, is broken (%s), as an interrupted write leaves it; it is left out", path,
             cli_count((uint64_t)last), t->why);
    else if (t->bad)
        note(r, "%s: %s of %s lines %s no JSON object and left out, first line %s (%s)", path,
             cli_count((uint64_t)t->bad), cli_count((uint64_t)t->lines), plural(t->bad, "is", "are"),
             cli_count((uint64_t)t->first_bad), t->why);
    if (t->too_long)
        note(r, "%s: %s %s longer than 1 MiB and left out", path, cli_count((uint64_t)t->too_long),
             plural(t->too_long, "line is", "lines are"));
}

/* A node's text on the heap; empty if it is none. */
static text_copy get_text(const report *r, int64_t node) {
    int64_t n = dpo_json_string(r->json, node, NULL, 0);
    text_copy t;
    t.n = n > 0 ? (size_t)n : 0;
    t.s = (char *)get(NULL, t.n + 1, 1);
    if (t.n) dpo_json_string(r->json, node, t.s, t.n + 1);
    t.s[t.n] = 0;
    return t;
}

/* ---- metrics.jsonl ---------------------------------------------------------------------------------------------- */

static int find_name(const char *name, const char *const *names, int count) {
    int i;
    for (i = 0; i < count; i++)
        if (!strcmp(name, names[i])) return i;
    return -1;
}

/* A number that can be drawn. 1: it is; 0: null; -1: something else. */
static int drawable(const report *r, int64_t node, double *v) {
    int type = dpo_json_type(r->json, node);
    if (type == 'n') return 0;
    return type == '0' && dpo_json_number(r->json, node, v) && fabs(*v) < 1e100 ? 1 : -1;
}

/* One member of a line; have[]: the line says something about training, about an evaluation. */
static void read_metric(const report *r, const char *key, int64_t node, row *train, row *eval, int *have, trouble *t) {
    int is_eval = !strncmp(key, "eval_", 5), x = find_name(key, x_field, X_COUNT), kind;
    int metric = find_name(key + (is_eval ? 5 : 0), metric_name, METRICS);
    double v = NAN;
    if (x < 0 && metric < 0 && strcmp(key, "eval_examples")) return;
    kind = drawable(r, node, &v);
    if (x >= 0) {
        if (kind == 1) train->x[x] = eval->x[x] = v;
    } else if (metric < 0) {
        if (kind == 1 && v >= 1) eval->n = v;
    } else {
        have[is_eval] = 1;
        if (kind == 1) (is_eval ? eval : train)->value[metric] = v;
        else if (kind == 0) t->null[is_eval][metric]++;
        else t->odd[is_eval][metric]++;
    }
}

/* Appends a row. A run that went on from a checkpoint repeats steps: the later line holds. */
static void add_row(row_list *l, const row *added, trouble *t) {
    if (!svg_finite(added->x[X_STEP])) {
        t->unplaced++;
        return;
    }
    while (l->n && l->at[l->n - 1].x[X_STEP] >= added->x[X_STEP]) {
        l->n--;
        t->repeated++;
    }
    if (l->n == ROWS) {
        t->beyond++;
        return;
    }
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 256;
        l->at = (row *)get(l->at, (size_t)l->cap, sizeof *l->at);
    }
    l->at[l->n++] = *added;
}

static row row_empty(void) {
    row e;
    int i;
    for (i = 0; i < X_COUNT; i++) e.x[i] = NAN;
    for (i = 0; i < METRICS; i++) e.value[i] = NAN;
    e.n = NAN;
    return e;
}

/* Fields that some lines of a kind have and others lack. */
static void note_values(report *r, const run *u, const char *path, const trouble *t) {
    int set, metric;
    for (set = 0; set < 2; set++)
        for (metric = 0; metric < METRICS; metric++) {
            const char *prefix = set ? "eval_" : "";
            int64_t i, n = u->set[set].n, found = 0, lacking, null = t->null[set][metric], odd = t->odd[set][metric];
            for (i = 0; i < n; i++) found += svg_finite(u->set[set].at[i].value[metric]);
            lacking = n - found - null - odd;
            if (null)
                note(r, "%s: %s %s of %s%s %s null, which stands for NaN or infinity; gaps in its line", path,
                     cli_count((uint64_t)null), plural(null, "value", "values"), prefix, metric_name[metric],
                     plural(null, "is", "are"));
            if (odd)
                note(r, "%s: %s %s of %s%s %s no number or beyond 1e100; gaps in its line", path,
                     cli_count((uint64_t)odd), plural(odd, "value", "values"), prefix, metric_name[metric],
                     plural(odd, "is", "are"));
            if (found && lacking > 0)
                note(r, "%s: %s of %s %s lack %s%s", path, cli_count((uint64_t)lacking), cli_count((uint64_t)n),
                     set ? "evaluations" : "updates", prefix, metric_name[metric]);
        }
}

static void note_rows(report *r, const run *u, const char *path, const trouble *t) {
    int64_t unplaced = 0, i;
    int set;
    for (set = 0; set < 2; set++)
        for (i = 0; i < u->set[set].n; i++) unplaced += !svg_finite(u->set[set].at[i].x[r->x]);
    if (t->other)
        note(r, "%s: %s %s no metric that is known here", path, cli_count((uint64_t)t->other),
             plural(t->other, "line holds", "lines hold"));
    if (t->unplaced)
        note(r, "%s: %s %s without a step left out", path, cli_count((uint64_t)t->unplaced),
             plural(t->unplaced, "line", "lines"));
    if (unplaced)
        note(r, "%s: %s %s no \"%s\" and %s on no chart; --x picks another axis", path, cli_count((uint64_t)unplaced),
             plural(unplaced, "line has", "lines have"), x_field[r->x], plural(unplaced, "is", "are"));
    if (t->repeated)
        note(r, "%s: %s %s replaced by later lines of the same step, as of a run that was resumed", path,
             cli_count((uint64_t)t->repeated), plural(t->repeated, "line is", "lines are"));
    if (t->beyond)
        note(r, "%s: %s lines after the first %s are left out", path, cli_count((uint64_t)t->beyond), cli_count(ROWS));
    if (!u->set[0].n && !u->set[1].n) note(r, "%s: it holds no line that can be shown", path);
}

static int read_metrics(report *r, run *u) {
    char path[4096];
    line_reader l;
    trouble t;
    memset(&l, 0, sizeof l);
    memset(&t, 0, sizeof t);
    if (path_join(path, sizeof path, u->dir, "metrics.jsonl")) return 1;
    l.f = is_dir(path) ? NULL : fopen(path, "rb");
    if (!l.f)
        return cli_die("cannot open %s: %s; expected the output directory of a run of dpo-train", path,
                       is_dir(path) ? "it is a directory" : strerror(errno));
    while (next_object(r, &l, &t)) {
        row train = row_empty(), eval = row_empty();
        int have[2] = {0, 0};
        int64_t count = dpo_json_count(r->json, 0), v = dpo_json_first(r->json, 0), i;
        for (i = 0; i < count; i++, v = dpo_json_next(r->json, v + 1)) {
            char key[64];
            int64_t n = dpo_json_string(r->json, v, key, sizeof key);
            if (n >= 0 && n < (int64_t)sizeof key) read_metric(r, key, v + 1, &train, &eval, have, &t);
        }
        if (have[0]) add_row(&u->set[0], &train, &t);
        if (have[1]) add_row(&u->set[1], &eval, &t);
        t.other += !have[0] && !have[1];
    }
    if (ferror(l.f))
        note(r, "%s: reading stopped at line %s: %s", path, cli_count((uint64_t)l.number), strerror(errno));
    fclose(l.f);
    free(l.s);
    note_lines(r, path, &t, l.number);
    note_rows(r, u, path, &t);
    note_values(r, u, path, &t);
    return 0;
}

/* ---- run.json --------------------------------------------------------------------------------------------------- */

/* Options that change no number of a run, and what is of the machine. */
static const char *const idle_option[] = {"output",
                                          "threads",
                                          "simd",
                                          "memory",
                                          "micro-rows",
                                          "recompute",
                                          "plan",
                                          "quiet",
                                          "reference-file",
                                          "eval-every",
                                          "eval-steps",
                                          "sample-prompts",
                                          "sample-max-new-tokens",
                                          "sample-temperature",
                                          "merge",
                                          "tensorboard"};

static void copy_string(const report *r, int64_t node, char *out, size_t cap) {
    int64_t n = dpo_json_string(r->json, node, out, cap);
    if (n < 0) out[0] = 0;
    else out[(size_t)n < cap ? (size_t)n : cap - 1] = 0;
}

static double number_of(const report *r, const char *name) {
    double v = NAN;
    int64_t node = dpo_json_find(r->json, 0, name);
    return dpo_json_type(r->json, node) == '0' && dpo_json_number(r->json, node, &v) && v >= 0 && v < 1e15 ? v : NAN;
}

static void read_options(report *r, run *u, const char *path) {
    int64_t list = dpo_json_find(r->json, 0, "options"), count = dpo_json_count(r->json, list), i, odd = 0;
    int64_t v = dpo_json_first(r->json, list);
    if (dpo_json_type(r->json, list) != '{') return;
    u->options = (option *)get(NULL, OPTIONS, sizeof *u->options);
    for (i = 0; i < count; i++, v = dpo_json_next(r->json, v + 1)) {
        option *o = &u->options[u->option_count];
        int type = dpo_json_type(r->json, v + 1);
        double number = 0;
        if (u->option_count == OPTIONS || type == '{' || type == '[') {
            odd++;
            continue;
        }
        copy_string(r, v, o->name, sizeof o->name);
        if (type == '"') copy_string(r, v + 1, o->value, sizeof o->value);
        else if (type == '0') {
            dpo_json_number(r->json, v + 1, &number);
            snprintf(o->value, sizeof o->value, "%s", cli_number(number));
        } else snprintf(o->value, sizeof o->value, "%s", type == 't' ? "yes" : type == 'f' ? "no" : "none");
        u->option_count++;
    }
    if (odd)
        note(r, "%s: %s %s no plain value, or beyond the first %d, and left out", path, cli_count((uint64_t)odd),
             plural(odd, "option is", "options are"), OPTIONS);
}

static int read_description(report *r, run *u) {
    char path[4096], *bytes;
    const char *why;
    size_t n;
    u->train_n = u->eval_n = u->seconds = NAN;
    if (!holds(u->dir, "run.json")) return 0;
    if (path_join(path, sizeof path, u->dir, "run.json")) return 1;
    bytes = is_dir(path) ? NULL : read_file(path, LINE, &n);
    if (!bytes) return is_dir(path) ? cli_die("%s is a directory", path) : 1;
    why = parse_object(r, bytes, n);
    if (why) {
        note(r, "%s is no JSON object (%s); the run is named by its directory", path, why);
    } else {
        u->described = 1;
        copy_string(r, dpo_json_find(r->json, 0, "command"), u->command, sizeof u->command);
        copy_string(r, dpo_json_find(r->json, 0, "build"), u->build, sizeof u->build);
        copy_string(r, dpo_json_find(r->json, 0, "train_hash"), u->train_hash, sizeof u->train_hash);
        copy_string(r, dpo_json_find(r->json, 0, "eval_hash"), u->eval_hash, sizeof u->eval_hash);
        u->train_n = number_of(r, "train_examples");
        u->eval_n = number_of(r, "eval_examples");
        u->seconds = number_of(r, "train_seconds");
        read_options(r, u, path);
    }
    free(bytes);
    return 0;
}

static const char *option_of(const run *u, const char *name) {
    int i;
    for (i = 0; i < u->option_count; i++)
        if (!strcmp(u->options[i].name, name)) return u->options[i].value;
    return "";
}

/* The names of all options that are not alike in all runs and mean something. */
static void find_differences(report *r) {
    int i, k, m;
    for (i = 0; i < r->runs; i++)
        for (k = 0; k < r->run[i].option_count; k++) {
            const option *o = &r->run[i].options[k];
            int known = find_name(o->name, idle_option, (int)(sizeof idle_option / sizeof idle_option[0])) >= 0,
                alike = 1;
            for (m = 0; m < r->differ_count; m++) known |= !strcmp(r->differ[m].name, o->name);
            for (m = 0; m < r->runs; m++) alike &= !strcmp(option_of(&r->run[m], o->name), o->value);
            if (!known && !alike && r->differ_count < OPTIONS) r->differ[r->differ_count++] = *o;
        }
}

/* The last part of a path. */
static const char *base_name(const char *path, int *length) {
    size_t n = strlen(path), at;
    while (n > 1 && path[n - 1] == '/') n--;
    for (at = n; at > 0 && path[at - 1] != '/'; at--) {
    }
    *length = (int)(n - at > 60 ? 60 : n - at);
    return path + at;
}

/* "beta 0.1, lora-r 8": the run's values of the options in which the runs differ. */
static void name_by_options(const report *r, run *u) {
    size_t at = 0;
    int i, length;
    for (i = 0; i < r->differ_count; i++) {
        const char *value = option_of(u, r->differ[i].name), *last = base_name(value, &length);
        at += (size_t)snprintf(u->name + at, sizeof u->name - at, "%s%s %.*s", i ? ", " : "", r->differ[i].name,
                               *value ? length : 4, *value ? last : "none");
        if (at >= sizeof u->name) break;
    }
    if (!r->differ_count || at >= 61) u->name[0] = 0;
}

static void name_runs(report *r) {
    int i, k, described = 1, length, twice = 0;
    for (i = 0; i < r->runs; i++) described &= r->run[i].described;
    find_differences(r);
    for (i = 0; i < r->runs; i++) {
        run *u = &r->run[i];
        if (described && r->differ_count <= NAMED) name_by_options(r, u);
        if (u->name[0]) continue;
        base_name(u->dir, &length);
        snprintf(u->name, sizeof u->name, "%.*s", length, base_name(u->dir, &length));
    }
    for (i = 0; i < r->runs; i++)
        for (k = 0; k < i; k++) twice |= !strcmp(r->run[i].name, r->run[k].name);
    for (i = 0; twice && i < r->runs; i++) { /* numbered: directories may be alike, too */
        size_t n = strlen(r->run[i].name);
        snprintf(r->run[i].name + n, sizeof r->run[i].name - n, " (%d)", i + 1);
    }
}

/* ---- are the runs comparable? ----------------------------------------------------------------------------------- */

/* Examples of the training data: told, else what the epochs say. */
static double data_size(const run *u) {
    const row *last = u->set[0].n ? &u->set[0].at[u->set[0].n - 1] : NULL;
    if (svg_finite(u->train_n)) return u->train_n;
    return last && last->x[X_EPOCH] > 0 && last->x[X_EXAMPLES] > 0 ? floor(last->x[X_EXAMPLES] / last->x[X_EPOCH] + 0.5)
                                                                   : NAN;
}

static int has_metric(const run *u, int set, int metric) {
    int64_t i;
    for (i = 0; i < u->set[set].n; i++)
        if (svg_finite(u->set[set].at[i].value[metric])) return 1;
    return 0;
}

static int is_preference(const run *u) {
    return has_metric(u, 0, METRIC_ACCURACIES) || has_metric(u, 1, METRIC_ACCURACIES);
}

/* Two strings that are known and differ. */
static int unlike(const char *a, const char *b) { return *a && *b && strcmp(a, b); }

static void note_comparison(report *r) {
    int i, other, train = 0, eval = 0, objective = 0, size = 0;
    const run *a = &r->run[0];
    for (i = 1; i < r->runs; i++) {
        const run *b = &r->run[i];
        objective |= is_preference(a) != is_preference(b);
        size |= fabs(data_size(a) - data_size(b)) > 0.5 + 1e-6 * data_size(a); /* epochs have nine digits */
        other = unlike(option_of(a, "train"), option_of(b, "train"));
        train |= a->train_hash[0] && b->train_hash[0] ? unlike(a->train_hash, b->train_hash) : other;
        if (a->eval_hash[0] && b->eval_hash[0]) eval |= unlike(a->eval_hash, b->eval_hash);
        else if (*option_of(a, "eval") || *option_of(b, "eval"))
            eval |= strcmp(option_of(a, "eval"), option_of(b, "eval")) != 0;
        else eval |= other; /* a part of the training data is held out */
        eval |= fabs(a->eval_n - b->eval_n) > 0.5;
    }
    if (objective)
        note(r, "Some of these runs learn from preferences and some do not: their losses are different quantities");
    if (train || size)
        note(r, "These runs were not trained on the same data: compare their training curves by shape, not by value");
    if (eval) note(r, "These runs were not evaluated on the same data: held-out values compare only within a run");
}

/* ---- samples.jsonl and --tokens --------------------------------------------------------------------------------- */

static void free_samples(run *u) {
    int i;
    for (i = 0; i < u->sample_count; i++) {
        free(u->samples[i].prompt.s);
        free(u->samples[i].policy.s);
        free(u->samples[i].reference.s);
        free(u->samples[i].chosen.s);
    }
    u->sample_count = 0;
    u->samples_left_out = 0;
}

/* Of the last step that has any; a line without prompt and answer is none. */
static int read_samples(report *r, run *u) {
    char path[4096];
    line_reader l;
    trouble t;
    memset(&l, 0, sizeof l);
    memset(&t, 0, sizeof t);
    u->samples_step = NAN;
    if (!r->sample_limit || !holds(u->dir, "samples.jsonl")) return 0;
    if (path_join(path, sizeof path, u->dir, "samples.jsonl")) return 1;
    l.f = fopen(path, "rb");
    if (!l.f) return cli_die("cannot open %s: %s", path, strerror(errno));
    u->samples = (sample *)get(NULL, (size_t)r->sample_limit, sizeof *u->samples);
    while (next_object(r, &l, &t)) {
        int64_t prompt = dpo_json_find(r->json, 0, "prompt"), policy = dpo_json_find(r->json, 0, "policy");
        double step = number_of(r, "step");
        if (dpo_json_type(r->json, prompt) != '"' || dpo_json_type(r->json, policy) != '"' || !svg_finite(step)) {
            t.other++;
            continue;
        }
        if (!(step == u->samples_step)) free_samples(u);
        u->samples_step = step;
        if (u->sample_count == r->sample_limit) {
            u->samples_left_out++;
            continue;
        }
        u->samples[u->sample_count].prompt = get_text(r, prompt);
        u->samples[u->sample_count].policy = get_text(r, policy);
        u->samples[u->sample_count].reference = get_text(r, dpo_json_find(r->json, 0, "reference"));
        u->samples[u->sample_count++].chosen = get_text(r, dpo_json_find(r->json, 0, "chosen"));
    }
    if (ferror(l.f))
        note(r, "%s: reading stopped at line %s: %s", path, cli_count((uint64_t)l.number), strerror(errno));
    fclose(l.f);
    free(l.s);
    note_lines(r, path, &t, l.number);
    if (t.other)
        note(r, "%s: %s %s without step, prompt and policy left out", path, cli_count((uint64_t)t.other),
             plural(t.other, "line", "lines"));
    return 0;
}

/* Tokens and their log-ratios of the line that was parsed. 1: it has not got them. */
static int read_token_row(report *r, token_row *t) {
    int64_t tokens = dpo_json_find(r->json, 0, "tokens"), ratios = dpo_json_find(r->json, 0, "logratios"), i, v, w;
    int64_t n = dpo_json_count(r->json, tokens);
    if (dpo_json_type(r->json, tokens) != '[' || dpo_json_type(r->json, ratios) != '[') return 1;
    if (n != dpo_json_count(r->json, ratios)) return 1;
    v = dpo_json_first(r->json, tokens);
    for (i = 0; i < n; i++, v = dpo_json_next(r->json, v))
        if (dpo_json_type(r->json, v) != '"') return 1;
    memset(t, 0, sizeof *t);
    t->n = n < TOKENS ? n : TOKENS;
    t->left_out = n - t->n;
    t->token = (text_copy *)get(NULL, (size_t)t->n, sizeof *t->token);
    t->ratio = (double *)get(NULL, (size_t)t->n, sizeof *t->ratio);
    v = dpo_json_first(r->json, tokens);
    w = dpo_json_first(r->json, ratios);
    for (i = 0; i < t->n; i++) {
        t->token[i] = get_text(r, v);
        if (drawable(r, w, &t->ratio[i]) != 1) t->ratio[i] = NAN;
        v = dpo_json_next(r->json, v);
        w = dpo_json_next(r->json, w);
    }
    t->prompt = get_text(r, dpo_json_find(r->json, 0, "prompt"));
    t->answer = get_text(r, dpo_json_find(r->json, 0, "answer"));
    t->run = get_text(r, dpo_json_find(r->json, 0, "run"));
    return 0;
}

static int read_tokens(report *r) {
    line_reader l;
    trouble t;
    memset(&l, 0, sizeof l);
    memset(&t, 0, sizeof t);
    if (!r->tokens_file) return 0;
    l.f = is_dir(r->tokens_file) ? NULL : fopen(r->tokens_file, "rb");
    if (!l.f)
        return cli_die("--tokens: cannot open %s: %s", r->tokens_file,
                       is_dir(r->tokens_file) ? "it is a directory" : strerror(errno));
    r->tokens = (token_row *)get(NULL, (size_t)r->token_limit, sizeof *r->tokens);
    while (next_object(r, &l, &t)) {
        if (r->token_count == r->token_limit) r->tokens_left_out++;
        else if (read_token_row(r, &r->tokens[r->token_count])) t.other++;
        else r->token_count++;
    }
    if (ferror(l.f)) note(r, "%s: reading stopped at line %s", r->tokens_file, cli_count((uint64_t)l.number));
    fclose(l.f);
    free(l.s);
    note_lines(r, r->tokens_file, &t, l.number);
    if (t.other)
        note(r, "%s: %s %s without \"tokens\" and as many \"logratios\" left out", r->tokens_file,
             cli_count((uint64_t)t.other), plural(t.other, "line", "lines"));
    return 0;
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

/* A row's value as it is drawn: ties count one half, so that a policy equal to its reference stands at 0.5. */
static double value_of(const row *w, int metric) {
    double v = w->value[metric];
    return metric == METRIC_ACCURACIES && svg_finite(w->value[METRIC_TIES]) ? v + 0.5 * w->value[METRIC_TIES] : v;
}

/* How many examples an evaluation is the mean of, NaN: nobody knows. */
static double evaluated(const report *r, const run *u, const row *w) {
    return svg_finite(w->n) ? w->n : svg_finite(u->eval_n) ? u->eval_n : r->eval_size ? (double)r->eval_size : NAN;
}

/* Wilson's 95 % interval of a share of pairs; none where all are ties, which is no sample of anything. */
static int share_interval(double share, double ties, double n, double *low, double *high) {
    *low = *high = NAN;
    if (!(share >= 0 && share <= 1 && n >= 1) || ties >= 1) return 0;
    dpo_wilson(share * n, n, low, high);
    return 1;
}

static int row_interval(const report *r, const run *u, const row *w, double *low, double *high) {
    return share_interval(value_of(w, METRIC_ACCURACIES), w->value[METRIC_TIES], evaluated(r, u, w), low, high);
}

/* Updates to either side of the one that is smoothed. */
static int64_t smooth_half(const report *r, const run *u) {
    return r->smooth ? (r->smooth - 1) / 2 : u->set[0].n / 20 < 5000 ? u->set[0].n / 20 : 5000;
}

/* A straight line is fitted to the updates around update i, nearer ones counting more (weights fall linearly to both
 * sides), and read off at i: in the middle a moving average, at the ends it does not lag behind as one would.
 * *weight: how many updates it is worth. NaN: no value is there. */
static double smooth_at(const run *u, int metric, int64_t i, int64_t half, double *weight) {
    int64_t k, from = i < half ? 0 : i - half;
    double s0 = 0, s1 = 0, s2 = 0, t0 = 0, t1 = 0, squares = 0, width = (double)half + 1, det, v;
    for (k = from; k <= i + half && k < u->set[0].n; k++) {
        double d = (double)(k - i) / width, w = 1 - fabs(d);
        v = value_of(&u->set[0].at[k], metric);
        if (!svg_finite(v)) continue;
        s0 += w;
        s1 += w * d;
        s2 += w * d * d;
        t0 += w * v;
        t1 += w * d * v;
        squares += w * w;
    }
    *weight = s0 > 0 ? s0 * s0 / squares : 0;
    det = s0 * s2 - s1 * s1;
    v = det > 1e-9 * s0 * s0 ? (s2 * t0 - s1 * t1) / det : s0 > 0 ? t0 / s0 : NAN;
    return metric == METRIC_ACCURACIES ? fmin(fmax(v, 0), 1) : v;
}

/* The last row of a set that has a value; NULL: none. */
static const row *last_row(const run *u, int set, int metric) {
    int64_t i;
    for (i = u->set[set].n - 1; i >= 0; i--)
        if (svg_finite(u->set[set].at[i].value[metric])) return &u->set[set].at[i];
    return NULL;
}

static const row *first_row(const run *u, int set, int metric) {
    int64_t i;
    for (i = 0; i < u->set[set].n; i++)
        if (svg_finite(u->set[set].at[i].value[metric])) return &u->set[set].at[i];
    return NULL;
}

/* The evaluation with the highest rewards/accuracies, or without any the lowest loss; of equals the first. */
static const row *best_row(const run *u) {
    int metric = has_metric(u, 1, METRIC_ACCURACIES) ? METRIC_ACCURACIES : METRIC_LOSS;
    const row *best = NULL;
    int64_t i;
    for (i = 0; i < u->set[1].n; i++) {
        const row *w = &u->set[1].at[i];
        double v = value_of(w, metric);
        if (!svg_finite(v)) continue;
        if (!best || (metric == METRIC_LOSS ? v < value_of(best, metric) : v > value_of(best, metric))) best = w;
    }
    return best;
}

/* Mean of a metric over the last tenth of the updates, half its 95 % interval, and how many updates these are. */
static int64_t last_tenth(const run *u, int metric, double *mean, double *half) {
    int64_t n = u->set[0].n, from = n - (n + 9) / 10, count = 0, i;
    double sum = 0, squares = 0;
    for (i = from; i < n; i++)
        if (svg_finite(value_of(&u->set[0].at[i], metric))) {
            sum += value_of(&u->set[0].at[i], metric);
            count++;
        }
    *mean = count ? sum / (double)count : NAN;
    for (i = from; i < n; i++) {
        double d = value_of(&u->set[0].at[i], metric) - *mean;
        if (svg_finite(d)) squares += d * d;
    }
    *half = count > 1 ? 1.96 * sqrt(squares / (double)(count - 1) / (double)count) : NAN;
    return count;
}

/* ---- points of charts ------------------------------------------------------------------------------------------- */

static svg_point point(double x, double y) {
    svg_point p;
    p.x = x;
    p.y = y;
    p.low = p.high = NAN;
    return p;
}

static svg_points points_dots(report *r, const run *u, int metric) {
    svg_point *at = (svg_point *)drawing_get(r, u->set[0].n, sizeof *at);
    svg_points p;
    int64_t i;
    p.at = at;
    p.n = 0;
    for (i = 0; i < u->set[0].n; i++) {
        const row *w = &u->set[0].at[i];
        if (svg_finite(w->x[r->x])) at[p.n++] = point(w->x[r->x], value_of(w, metric));
    }
    return p;
}

/* The smoothed line where it is drawn. Of rewards/accuracies it has an interval of its own if no evaluation has one:
 * binomial, of the pairs in the window. */
static svg_points points_line(report *r, const run *u, int metric) {
    int64_t n = u->set[0].n, every = n / SVG_POINTS + 1, half = smooth_half(r, u), i;
    svg_point *at = (svg_point *)drawing_get(r, n / every + 2, sizeof *at);
    int band = metric == METRIC_ACCURACIES && !has_metric(u, 1, metric);
    const row *first = u->set[0].at, *last = first + n - 1;
    double batch = n > 1 ? (last->x[X_EXAMPLES] - first->x[X_EXAMPLES]) / (double)(n - 1) : NAN, weight;
    svg_points p;
    p.at = at;
    p.n = 0;
    for (i = 0; i < n; i = i + every < n || i == n - 1 ? i + every : n - 1) {
        const row *w = &u->set[0].at[i];
        double raw = value_of(w, metric);
        if (!svg_finite(w->x[r->x])) continue;
        at[p.n] = point(w->x[r->x], NAN);
        if (svg_finite(raw) || every > 1) at[p.n].y = smooth_at(u, metric, i, half, &weight);
        if (band && svg_finite(at[p.n].y)) share_interval(at[p.n].y, 0, batch * weight, &at[p.n].low, &at[p.n].high);
        p.n++;
    }
    return p;
}

static svg_points points_marks(report *r, const run *u, int metric) {
    svg_point *at = (svg_point *)drawing_get(r, u->set[1].n, sizeof *at);
    svg_points p;
    int64_t i;
    p.at = at;
    p.n = 0;
    for (i = 0; i < u->set[1].n; i++) {
        const row *w = &u->set[1].at[i];
        if (!svg_finite(w->x[r->x])) continue;
        at[p.n] = point(w->x[r->x], value_of(w, metric));
        if (metric == METRIC_ACCURACIES) row_interval(r, u, w, &at[p.n].low, &at[p.n].high);
        p.n++;
    }
    return p;
}

enum { PART_TRAINING = 1, PART_EVALUATIONS = 2 };

static svg_series series_of(report *r, const run *u, int metric, int parts, const char *name, int color) {
    svg_series s;
    int64_t half = smooth_half(r, u);
    memset(&s, 0, sizeof s);
    s.name = name;
    s.color = color;
    if ((parts & PART_TRAINING) && has_metric(u, 0, metric)) {
        if (half > 0 && r->runs <= 2) s.dots = points_dots(r, u, metric);
        s.line = points_line(r, u, metric);
    }
    if ((parts & PART_EVALUATIONS) && has_metric(u, 1, metric)) s.marks = points_marks(r, u, metric);
    s.quiet = s.marks.n > 0 || (r->runs == 1 && parts == PART_TRAINING && has_metric(u, 1, metric));
    return s;
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

typedef struct figure {
    const char *id, *title;
    int metric, other; /* other: a second one, drawn on the same scale; -1: none */
    int log_y, chance; /* chance: the axis is a share, and 0.5 has a line */
    const char *caption;
} figure;

static const figure figures[] = {
    {"loss", "Loss", METRIC_LOSS, -1, 0, 0, "Mean over the examples of an update or of an evaluation."},
    {"accuracies", "rewards/accuracies", METRIC_ACCURACIES, -1, 0, 1,
     "Share of pairs whose chosen answer gained more log-probability over the reference than the rejected one. A tie "
     "counts one half, so a policy equal to its reference stands at 0.5, the dotted line."},
    {"margins", "rewards/margins", METRIC_MARGINS, -1, 0, 0,
     "Reward of the chosen answer less that of the rejected one: beta times the difference of their log-ratios to the "
     "reference."},
    {"logps", "Log-probability of answers", METRIC_CHOSEN, METRIC_REJECTED, 0, 0,
     "Of whole answers under the policy: sums over their tokens, means over examples. Metrics hold no counts of answer "
     "tokens, so these are not per token."},
    {"gradient", "Gradient norm", METRIC_GRAD_NORM, -1, 1, 0, "Before clipping; logarithmic axis."},
    {"speed", "Tokens per second", METRIC_SPEED, -1, 0, 0, ""},
    {"length", "Length of sampled answers", METRIC_LENGTH, -1, 0, 0,
     "Mean tokens of the answers to the sample prompts at each evaluation."}};

/* Where the values of a chart stand in text. At most 40 marks and 8 points of the line of each series. */
static void write_values(report *r, const svg_chart *charts, int count) {
    int c, i, kind;
    int64_t k;
    fprintf(r->f,
            "<details><summary>Values</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">series</th>"
            "<th scope=\"col\" class=\"n\">%s</th><th scope=\"col\" class=\"n\">value</th>"
            "<th scope=\"col\" class=\"n\">95&nbsp;%% interval</th></tr></thead><tbody>\n",
            x_name[r->x]);
    for (c = 0; c < count; c++)
        for (i = 0; i < charts[c].count; i++)
            for (kind = 0; kind < 2; kind++) {
                const svg_series *s = &charts[c].series[i];
                svg_points p = kind ? s->marks : s->line;
                int64_t every = p.n / (kind ? 40 : 8) + 1;
                for (k = 0; k < p.n; k = k + every < p.n || k == p.n - 1 ? k + every : p.n - 1) {
                    const svg_point *q = &p.at[k];
                    fputs("<tr><td>", r->f);
                    html_print(r->f, "%s%s%s%s", s->name, s->name[0] ? ", " : "", count > 1 ? charts[c].title : "",
                               count > 1 ? ", " : "");
                    fprintf(r->f, "%s</td><td class=\"n\">%s</td><td class=\"n\">",
                            kind ? "held-out" : "training, smoothed",
                            r->x == X_EPOCH ? cli_number(q->x) : cli_count((uint64_t)fmin(fmax(q->x, 0), 1e18)));
                    if (svg_finite(q->y)) html_print(r->f, "%.4f", q->y);
                    fputs("</td><td class=\"n\">", r->f);
                    if (svg_finite(q->low)) html_print(r->f, "%.4f to %.4f", q->low, q->high);
                    fputs("</td></tr>\n", r->f);
                }
            }
    fputs("</tbody></table></div></details>\n", r->f);
}

static void write_caption(report *r, const figure *g, const svg_chart *charts, int count) {
    int64_t outside = 0, zero = 0, i;
    int k, c, known = 0, unknown = 0;
    for (c = 0; c < count; c++) outside += charts[c].outside;
    for (k = 0; k < r->runs; k++) {
        const run *u = &r->run[k];
        const row *last = last_row(u, 1, g->metric);
        for (i = 0; g->log_y && i < u->set[0].n; i++) zero += u->set[0].at[i].value[g->metric] <= 0;
        if (!g->chance || !last) continue;
        if (svg_finite(evaluated(r, u, last))) known++;
        else unknown++;
    }
    fprintf(r->f, "%s", g->caption);
    if (known) fputs(" Shaded: 95&nbsp;% intervals (Wilson).", r->f);
    if (known > 1) fputs(" Runs that are evaluated on the same pairs differ less by chance than these say.", r->f);
    if (unknown)
        fprintf(r->f,
                " How many pairs an evaluation of %s has is not in the files, so there %s; --eval-size N tells it.",
                known          ? "some runs"
                : r->runs == 1 ? "this run"
                               : "these runs",
                known ? "is no interval of theirs" : "are no intervals");
    if (outside)
        fprintf(r->f, " %s %s beyond the axis: %s at its edge.", cli_count((uint64_t)outside),
                plural(outside, "update lies", "updates lie"), plural(outside, "a dot", "dots"));
    if (zero)
        fprintf(r->f, " %s %s not above 0 and %s no place here.", cli_count((uint64_t)zero),
                plural(zero, "value is", "values are"), plural(zero, "has", "have"));
}

static void write_below(report *r, const figure *g, const svg_chart *charts, int count) {
    fputs("<figcaption><p>", r->f);
    write_caption(r, g, charts, count);
    fputs("</p>\n", r->f);
    write_values(r, charts, count);
    fputs("</figcaption>\n", r->f);
}

/* The series of one chart; how many. */
static int figure_series(report *r, int metric, svg_series *s) {
    const run *u = &r->run[0];
    int i, n = 0;
    if (r->runs == 1 && has_metric(u, 0, metric) && has_metric(u, 1, metric)) {
        s[0] = series_of(r, u, metric, PART_TRAINING, "training", 0);
        s[1] = series_of(r, u, metric, PART_EVALUATIONS, "held-out", 1);
        return 2;
    }
    for (i = 0; i < r->runs; i++)
        if (has_metric(&r->run[i], 0, metric) || has_metric(&r->run[i], 1, metric))
            s[n++] = series_of(r, &r->run[i], metric, PART_TRAINING | PART_EVALUATIONS,
                               r->runs > 1 ? r->run[i].name : "", i);
    return n;
}

enum { NAME_BESIDE = 22 }; /* bytes of a name that has place beside a chart */

/* Names beside the lines where all have room, else above the chart. */
static void chart_names(svg_chart *c) {
    int i;
    c->direct = c->count * SVG_LABEL <= c->height;
    for (i = 0; i < c->count; i++) c->direct &= strlen(c->series[i].name) <= NAME_BESIDE && c->series[i].name[0];
}

/* Room for names beside all charts, so that they can be read one above the other. */
static void chart_room(report *r) {
    int i;
    r->room = r->runs == 1 ? svg_room("held-out") : 0;
    for (i = 0; r->runs > 1 && i < r->runs; i++)
        if (strlen(r->run[i].name) <= NAME_BESIDE && svg_room(r->run[i].name) > r->room)
            r->room = svg_room(r->run[i].name);
}

/* From the beginning to the end of the runs that a figure shows, whatever of them it shows. */
static void chart_width(const report *r, const figure *g, svg_chart *c) {
    int i, set;
    int64_t k;
    for (i = 0; i < r->runs; i++) {
        const run *u = &r->run[i];
        if (!has_metric(u, 0, g->metric) && !has_metric(u, 1, g->metric)) continue;
        for (set = 0; set < 2; set++)
            for (k = 0; k < u->set[set].n; k++) svg_cover(u->set[set].at[k].x[r->x], &c->x_low, &c->x_high);
    }
}

static svg_chart chart_of(const report *r, const figure *g, const char *id, const char *title, const svg_series *s,
                          int n) {
    svg_chart c = svg_chart_start(id, title);
    c.x_name = x_name[r->x];
    c.series = s;
    c.count = n;
    c.log_y = g->log_y;
    c.room = r->room;
    chart_width(r, g, &c);
    if (g->chance) {
        c.base = 0.5;
        c.lowest = 0;
        c.highest = 1;
    }
    chart_names(&c);
    return c;
}

/* Two metrics of several runs: side by side, on the same scale. */
static void write_pair(report *r, const figure *g) {
    svg_series s[2][SVG_SERIES];
    svg_chart c[2];
    double low = NAN, high = NAN;
    int i, n[2];
    for (i = 0; i < 2; i++) n[i] = figure_series(r, i ? g->other : g->metric, s[i]);
    for (i = 0; i < 2; i++) {
        svg_extent(s[i], n[i], g->log_y, &low, &high);
        c[i] = chart_of(r, g, i ? "rejected" : "chosen", i ? "rejected" : "chosen", s[i], n[i]);
        c[i].direct = c[i].room = 0;
        c[i].height = 200;
        c[i].x_ticks = 3;
    }
    svg_key(r->f, &c[0]);
    fputs("<div class=\"cols\">", r->f);
    for (i = 0; i < 2; i++) {
        c[i].y_low = low;
        c[i].y_high = high;
        if (!n[i]) continue;
        fprintf(r->f, "<div><h3>%s</h3>\n", c[i].title);
        svg_chart_write(r->f, &c[i]);
        fputs("</div>\n", r->f);
    }
    fputs("</div>\n", r->f);
    write_below(r, g, c, 2);
}

static void write_single(report *r, const figure *g) {
    svg_series s[SVG_SERIES];
    svg_chart c;
    int n;
    if (g->other >= 0 && has_metric(&r->run[0], 0, g->other)) {
        s[0] = series_of(r, &r->run[0], g->metric, PART_TRAINING | PART_EVALUATIONS, "chosen", 0);
        s[1] = series_of(r, &r->run[0], g->other, PART_TRAINING | PART_EVALUATIONS, "rejected", 1);
        n = 2;
    } else n = figure_series(r, g->metric, s);
    c = chart_of(r, g, g->id, g->title, s, n);
    if (c.series[0].name[0]) svg_key(r->f, &c);
    svg_chart_write(r->f, &c);
    write_below(r, g, &c, 1);
}

static void write_figures(report *r) {
    int64_t least = INT64_MAX, most = 0, longest = 0;
    int i, k, evaluations = 0;
    chart_room(r);
    for (k = 0; k < r->runs; k++) {
        int64_t half = smooth_half(r, &r->run[k]);
        if (r->run[k].set[0].n > longest) longest = r->run[k].set[0].n;
        if (r->run[k].set[0].n && half < least) least = half;
        if (r->run[k].set[0].n && half > most) most = half;
        evaluations |= r->run[k].set[1].n > 0;
    }
    fprintf(r->f, "<section><h2>Charts</h2><p class=\"soft\">From left to right: %s.",
            r->x == X_STEP ? "updates" : x_name[r->x]);
    if (most) {
        fprintf(r->f, " %s lines: updates, smoothed over %s", evaluations ? "Thin" : "The",
                cli_count((uint64_t)(2 * least + 1)));
        if (least < most) fprintf(r->f, " to %s", cli_count((uint64_t)(2 * most + 1)));
        fputs(" of them.", r->f);
        if (r->runs <= 2) fputs(" Faint dots: single updates", r->f);
        if (r->runs <= 2 && svg_dots_every(longest) > 1)
            fprintf(r->f, ", one in %s", cli_count((uint64_t)svg_dots_every(longest)));
        if (r->runs <= 2) fputs(".", r->f);
    }
    if (evaluations) fputs(" Rings: evaluations on held-out data.", r->f);
    fputs(" A value that is no number is a gap.</p></section>\n", r->f);
    for (i = 0; i < (int)(sizeof figures / sizeof figures[0]); i++) {
        const figure *g = &figures[i];
        int shown = 0, both = 0;
        for (k = 0; k < r->runs; k++) {
            shown |= has_metric(&r->run[k], 0, g->metric) || has_metric(&r->run[k], 1, g->metric);
            both |= g->other >= 0 && (has_metric(&r->run[k], 0, g->other) || has_metric(&r->run[k], 1, g->other));
        }
        if (!shown) continue;
        fprintf(r->f, "<figure id=\"%s\"><h2>%s</h2>\n", g->id, g->title);
        if (both && r->runs > 1) write_pair(r, g);
        else write_single(r, g);
        fputs("</figure>\n", r->f);
        drawing_clear(r);
    }
}

/* ---- the summary ------------------------------------------------------------------------------------------------ */

static const char *whole(double v) { return svg_finite(v) ? cli_count((uint64_t)fmin(fmax(v, 0), 1e18)) : "?"; }

/* "0.875 [0.829, 0.910]", or without an interval the number alone. */
static void write_share(const report *r, const run *u, const row *w) {
    double low, high;
    html_print(r->f, "%.3f", value_of(w, METRIC_ACCURACIES));
    if (row_interval(r, u, w, &low, &high)) html_print(r->f, " [%.3f, %.3f]", low, high);
}

static const row *final_row(const run *u) {
    const row *t = u->set[0].n ? &u->set[0].at[u->set[0].n - 1] : NULL,
              *e = u->set[1].n ? &u->set[1].at[u->set[1].n - 1] : NULL;
    return !t || (e && e->x[X_STEP] > t->x[X_STEP]) ? e : t;
}

/* Of held-out data if there are any, else of the last updates; begun: a sentence goes on. */
static void lead_losses(report *r, const run *u, int begun) {
    const row *first = first_row(u, 1, METRIC_LOSS), *last = last_row(u, 1, METRIC_LOSS);
    double mean, half;
    int64_t n = last_tenth(u, METRIC_LOSS, &mean, &half);
    fputs(begun ? " the " : " The ", r->f);
    if (!last) {
        if (n)
            html_print(r->f, "training loss is %.4g, the mean of the last %s %s.", mean, cli_count((uint64_t)n),
                       plural(n, "update", "updates"));
        else fputs("training loss is not known.", r->f);
        return;
    }
    html_print(r->f, "held-out loss is %.4g", last->value[METRIC_LOSS]);
    if (first != last && first->x[X_STEP] < 1)
        html_print(r->f, "; it was %.4g before the first update", first->value[METRIC_LOSS]);
    else if (first != last)
        html_print(r->f, "; it was %.4g at update %s", first->value[METRIC_LOSS], whole(first->x[X_STEP]));
    fputs(".", r->f);
}

static void lead_best(report *r, const run *u) {
    const row *best = best_row(u), *last = last_row(u, 1, is_preference(u) ? METRIC_ACCURACIES : METRIC_LOSS);
    if (!best || u->set[1].n < 2 || !last) return;
    if (best == last) fputs(" The last evaluation is the best.", r->f);
    else {
        html_print(r->f, " The best of %s evaluations came after %s %s (", whole((double)u->set[1].n),
                   whole(best->x[X_STEP]), plural(best->x[X_STEP] == 1, "update", "updates"));
        if (is_preference(u)) html_print(r->f, "%.1f\xC2\xA0%%).", 100 * value_of(best, METRIC_ACCURACIES));
        else html_print(r->f, "%.4g).", best->value[METRIC_LOSS]);
    }
}

static void lead_one(report *r) {
    const run *u = &r->run[0];
    const row *end = final_row(u), *last = last_row(u, 1, METRIC_ACCURACIES);
    html_print(r->f, "After %s %s on %s examples (%s tokens)", whole(end->x[X_STEP]),
               plural(end->x[X_STEP] == 1, "update", "updates"), whole(end->x[X_EXAMPLES]), whole(end->x[X_TOKENS]));
    if (last) {
        double low, high, n = evaluated(r, u, last);
        html_print(r->f, " the policy prefers the chosen answer in %.1f\xC2\xA0%%",
                   100 * value_of(last, METRIC_ACCURACIES));
        if (row_interval(r, u, last, &low, &high)) html_print(r->f, " [%.1f, %.1f]", 100 * low, 100 * high);
        html_print(r->f, " of %s%sheld-out pairs.", svg_finite(n) ? whole(n) : "", svg_finite(n) ? " " : "");
    }
    lead_losses(r, u, !last);
    lead_best(r, u);
}

/* The run that ends best among those that have what is compared; NULL: none. *metric: what that is. */
static const run *winner(const report *r, int *metric) {
    const run *best = NULL;
    int i;
    *metric = METRIC_LOSS;
    for (i = 0; i < r->runs; i++)
        if (last_row(&r->run[i], 1, METRIC_ACCURACIES)) *metric = METRIC_ACCURACIES;
    for (i = 0; i < r->runs; i++) {
        const row *w = last_row(&r->run[i], 1, *metric), *b = best ? last_row(best, 1, *metric) : NULL;
        if (w && (!b || (*metric == METRIC_LOSS ? w->value[*metric] < b->value[*metric]
                                                : value_of(w, *metric) > value_of(b, *metric))))
            best = &r->run[i];
    }
    return best;
}

static void lead_several(report *r) {
    int metric, i, overlap = 0, others = 0;
    const run *best = winner(r, &metric);
    double low, high, a, b;
    html_print(r->f, "%d runs", r->runs);
    for (i = 0; i < r->differ_count && r->differ_count <= NAMED; i++)
        html_print(r->f, "%s %s", i ? "," : " that differ in", r->differ[i].name);
    if (!best) {
        fputs("; none of them was evaluated on held-out data.", r->f);
        return;
    }
    html_print(r->f, ": %s ends with the %s held-out %s, ", best->name, metric == METRIC_LOSS ? "lowest" : "highest",
               metric_name[metric]);
    if (metric == METRIC_LOSS) {
        html_print(r->f, "%.4g.", last_row(best, 1, metric)->value[metric]);
        return;
    }
    write_share(r, best, last_row(best, 1, metric));
    if (row_interval(r, best, last_row(best, 1, metric), &low, &high))
        for (i = 0; i < r->runs; i++) {
            const row *w = last_row(&r->run[i], 1, metric);
            if (&r->run[i] == best || !w || !row_interval(r, &r->run[i], w, &a, &b)) continue;
            others++;
            overlap += b >= low;
        }
    if (others == 1)
        html_print(r->f, "; the one other 95\xC2\xA0%% interval %s into it", overlap ? "reaches" : "does not reach");
    else if (others)
        html_print(r->f, "; of the %d other 95\xC2\xA0%% intervals %s into it", others,
                   !overlap            ? "none reaches"
                   : overlap == others ? "all reach"
                   : overlap == 1      ? "one reaches"
                                       : "some reach");
    fputs(".", r->f);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static void swatch(const report *r, const run *u) {
    int i = (int)(u - r->run);
    if (r->runs > 1)
        fprintf(r->f, "<span class=\"swatch b%d%s\"></span>", i % SVG_COLORS,
                i < SVG_COLORS       ? ""
                : i < 2 * SVG_COLORS ? " dash"
                                     : " dots");
}

enum { COLUMNS = 8, CELL = 64 };

/* A row a run; a column that is empty in all of them is left out. */
typedef struct table {
    const char *const *heads;
    char cell[RUNS][COLUMNS][CELL];
} table;

static void cell_value(char *s, double v) {
    if (svg_finite(v)) snprintf(s, CELL, fabs(v) < 10 ? "%.4f" : fabs(v) < 1e6 ? "%.2f" : "%.3g", v);
}

static void cell_count(char *s, double v) {
    if (svg_finite(v)) snprintf(s, CELL, "%s", whole(v));
}

/* The mean over the last tenth of the updates with half its 95 % interval, to two digits of that. */
static void cell_mean(char *s, const run *u, int metric) {
    double mean, half, digits;
    last_tenth(u, metric, &mean, &half);
    cell_value(s, mean);
    if (!(half > 0) || fabs(mean) >= 1e6) return;
    digits = fmin(fmax(ceil(1 - log10(half)), 0), 6);
    snprintf(s, CELL, "%.*f \xC2\xB1 %.*f", (int)digits, mean, (int)digits, half);
}

static double value_in(const row *w, int metric) { return w ? w->value[metric] : NAN; }

static void write_table(const report *r, const char *title, const table *t) {
    int i, k, shown[COLUMNS];
    memset(shown, 0, sizeof shown);
    for (i = 0; i < r->runs; i++)
        for (k = 0; k < COLUMNS; k++) shown[k] |= t->cell[i][k][0] != 0;
    fprintf(r->f, "<section><h2>%s</h2>\n<div class=\"scroll\"><table class=\"cards\"><thead><tr>%s", title,
            r->runs > 1 ? "<th scope=\"col\">run</th>" : "");
    for (k = 0; k < COLUMNS; k++) {
        size_t first = strcspn(t->heads[k], "/"); /* long names may be broken behind it */
        if (!shown[k]) continue;
        fprintf(r->f, "<th scope=\"col\" class=\"n\">%.*s", (int)first, t->heads[k]);
        if (t->heads[k][first]) fprintf(r->f, "/%s%s", first > 6 ? "<wbr>" : "", t->heads[k] + first + 1);
        fputs("</th>", r->f);
    }
    fputs("</tr></thead><tbody>\n", r->f);
    for (i = 0; i < r->runs; i++) {
        fputs("<tr>", r->f);
        if (r->runs > 1) {
            fputs("<th scope=\"row\">", r->f);
            swatch(r, &r->run[i]);
            html_print(r->f, "%s", r->run[i].name);
            fputs("</th>", r->f);
        }
        for (k = 0; k < COLUMNS; k++) {
            const char *s = t->cell[i][k];
            if (!shown[k]) continue;
            fprintf(r->f, "<td class=\"n\" data-name=\"%s\"><span>", t->heads[k]);
            if (*s) svg_number_write(r->f, s);
            else fputs("&ndash;", r->f);
            fputs("</span></td>", r->f);
        }
        fputs("</tr>\n", r->f);
    }
    fputs("</tbody></table></div>\n", r->f);
}

/* What held-out data say at the end of each run. rewards/accuracies is TRL's here: a tie is no success. */
static void write_held_out(report *r) {
    static const char *const heads[COLUMNS] = {"examples",     "first loss",      "last loss",  "rewards/accuracies",
                                               "of them ties", "rewards/margins", "best after", ""};
    table t;
    int i, any = 0;
    memset(&t, 0, sizeof t);
    t.heads = heads;
    for (i = 0; i < r->runs; i++) {
        const run *u = &r->run[i];
        const row *last = u->set[1].n ? &u->set[1].at[u->set[1].n - 1] : NULL, *best = best_row(u);
        double low, high;
        if (!last) continue;
        any = 1;
        cell_count(t.cell[i][0], evaluated(r, u, last));
        cell_value(t.cell[i][1], value_in(first_row(u, 1, METRIC_LOSS), METRIC_LOSS));
        cell_value(t.cell[i][2], last->value[METRIC_LOSS]);
        cell_value(t.cell[i][3], last->value[METRIC_ACCURACIES]);
        if (row_interval(r, u, last, &low, &high))
            snprintf(t.cell[i][3], CELL, "%.3f [%.3f, %.3f]", last->value[METRIC_ACCURACIES], low, high);
        if (last->value[METRIC_TIES] > 0) cell_value(t.cell[i][4], last->value[METRIC_TIES]);
        cell_value(t.cell[i][5], last->value[METRIC_MARGINS]);
        if (best)
            snprintf(t.cell[i][6], CELL, "%s %s", whole(best->x[X_STEP]),
                     plural(best->x[X_STEP] == 1, "update", "updates"));
    }
    if (!any) return;
    write_table(r, "Held-out data at the end", &t);
    fputs("<p class=\"soft\">", r->f);
    for (any = i = 0; i < r->runs; i++) any |= is_preference(&r->run[i]);
    if (any) fputs("[ ]: 95&nbsp;% interval (Wilson), a tie counted as one half. ", r->f);
    fprintf(r->f,
            "Losses%s come without the spread of their examples, so they have no interval. The best of many "
            "evaluations is partly luck.</p></section>\n",
            any ? " and margins" : "");
}

static void write_training(report *r) {
    static const char *const heads[COLUMNS] = {"updates",   "tokens",   "loss", "rewards/accuracies",
                                               "grad_norm", "tokens/s", "time", ""};
    table t;
    int i, any = 0;
    memset(&t, 0, sizeof t);
    t.heads = heads;
    for (i = 0; i < r->runs; i++) {
        const run *u = &r->run[i];
        const row *end = final_row(u);
        if (!u->set[0].n) continue;
        any = 1;
        cell_count(t.cell[i][0], end->x[X_STEP]);
        cell_count(t.cell[i][1], end->x[X_TOKENS]);
        cell_mean(t.cell[i][2], u, METRIC_LOSS);
        cell_mean(t.cell[i][3], u, METRIC_ACCURACIES);
        cell_mean(t.cell[i][4], u, METRIC_GRAD_NORM);
        cell_count(t.cell[i][5], u->seconds > 0 ? end->x[X_TOKENS] / u->seconds
                                                : value_in(last_row(u, 0, METRIC_SPEED), METRIC_SPEED));
        if (svg_finite(u->seconds)) snprintf(t.cell[i][6], CELL, "%s", cli_duration(u->seconds));
    }
    if (!any) return;
    write_table(r, "Training at the end", &t);
    fputs("<p class=\"soft\">Means over the last tenth of the updates; &plusmn; half a 95&nbsp;% interval, from their "
          "spread."
          "</p></section>\n",
          r->f);
}

/* Options: those that differ open, all of them behind a click. */
static void write_option_table(const report *r, int differing) {
    int i, k, m;
    fputs("<div class=\"scroll\"><table><thead><tr><th scope=\"col\">option</th>", r->f);
    for (i = 0; i < r->runs; i++) {
        fputs("<th scope=\"col\">", r->f);
        swatch(r, &r->run[i]);
        html_print(r->f, "%s", r->run[i].name);
        fputs("</th>", r->f);
    }
    fputs("</tr></thead><tbody>\n", r->f);
    for (i = 0; i < r->runs; i++)
        for (k = 0; k < r->run[i].option_count; k++) {
            const char *name = r->run[i].options[k].name;
            int told = 0, differs = 0;
            for (m = 0; m < i; m++) { /* an earlier run's row has it */
                int j;
                for (j = 0; j < r->run[m].option_count; j++) told |= !strcmp(r->run[m].options[j].name, name);
            }
            for (m = 0; m < r->differ_count; m++) differs |= !strcmp(r->differ[m].name, name);
            if (told || (differing && !differs)) continue;
            fputs("<tr><th scope=\"row\">", r->f);
            html_print(r->f, "%s", name);
            fputs("</th>", r->f);
            for (m = 0; m < r->runs; m++) {
                fputs("<td>", r->f);
                html_print(r->f, "%s", option_of(&r->run[m], name));
                fputs("</td>", r->f);
            }
            fputs("</tr>\n", r->f);
        }
    fputs("</tbody></table></div>\n", r->f);
}

static void write_runs(report *r) {
    int i, described = 0;
    for (i = 0; i < r->runs; i++) described |= r->run[i].option_count > 0;
    fprintf(r->f, "<section><h2>%s</h2>\n", r->runs > 1 ? "Runs" : "The run");
    if (r->differ_count) write_option_table(r, 1);
    fputs("<details><summary>Directories, builds", r->f);
    fprintf(r->f, "%s</summary>\n", described ? " and all options" : "");
    for (i = 0; i < r->runs; i++) {
        const run *u = &r->run[i];
        fputs("<p>", r->f);
        swatch(r, u);
        html_print(r->f, "%s: %s%s%s", u->name, u->command, u->command[0] ? ", " : "", u->dir);
        if (u->build[0]) html_print(r->f, "; %s", u->build);
        if (!u->described) fputs("; no run.json, so its options are not known", r->f);
        fputs("</p>\n", r->f);
    }
    if (described) write_option_table(r, 0);
    fputs("</details></section>\n", r->f);
}

/* ---- samples ---------------------------------------------------------------------------------------------------- */

static int same_text(const text_copy *a, const text_copy *b) { return a->n == b->n && !memcmp(a->s, b->s, a->n); }

static const sample *sample_of(const run *u, const text_copy *prompt) {
    int i;
    for (i = 0; i < u->sample_count; i++)
        if (same_text(&u->samples[i].prompt, prompt)) return &u->samples[i];
    return NULL;
}

static void write_answer(const report *r, const run *u, const char *what, const text_copy *t) {
    fputs("<div><h3>", r->f);
    if (u) swatch(r, u);
    html_print(r->f, "%s", what);
    fputs("</h3><div class=\"text\">", r->f);
    if (t->n) html_excerpt(r->f, t->s, t->n, EXCERPT);
    else fputs("<small>(empty)</small>", r->f);
    fputs("</div></div>\n", r->f);
}

/* One prompt: the data's answer, the references' where they are not one, and every run's. */
static void write_sample(const report *r, const sample *first) {
    int i, k;
    fputs("<div class=\"said\"><div class=\"text\">", r->f);
    html_excerpt(r->f, first->prompt.s, first->prompt.n, EXCERPT);
    fputs("</div><div class=\"cols\">\n", r->f);
    for (i = 0; i < r->runs; i++) {
        const sample *s = sample_of(&r->run[i], &first->prompt);
        int told = 0;
        for (k = 0; s && k < i; k++) {
            const sample *before = sample_of(&r->run[k], &first->prompt);
            told |= before && same_text(&before->reference, &s->reference);
        }
        if (s && !told) write_answer(r, NULL, "reference", &s->reference);
    }
    for (i = 0; i < r->runs; i++) {
        const sample *s = sample_of(&r->run[i], &first->prompt);
        if (s) write_answer(r, &r->run[i], r->runs > 1 ? r->run[i].name : "policy", &s->policy);
    }
    write_answer(r, NULL, "chosen in the data", &first->chosen);
    fputs("</div></div>\n", r->f);
}

static void write_samples(report *r) {
    int i, k, m, written = 0;
    int64_t more = 0;
    for (i = 0; i < r->runs; i++) more = r->run[i].samples_left_out > more ? r->run[i].samples_left_out : more;
    for (i = 0; i < r->runs; i++)
        for (k = 0; k < r->run[i].sample_count; k++) {
            const sample *s = &r->run[i].samples[k];
            int told = 0;
            for (m = 0; m < i; m++) told |= sample_of(&r->run[m], &s->prompt) != NULL;
            told |= sample_of(&r->run[i], &s->prompt) != s; /* a prompt that comes twice */
            if (told) continue;
            if (!written++)
                fputs("<section><h2>Samples</h2><p class=\"soft\">Answers after the last evaluation of each run, "
                      "beside those "
                      "of the model it started from.</p>\n",
                      r->f);
            write_sample(r, s);
        }
    if (!written) return;
    if (more)
        fprintf(r->f, "<p class=\"soft\">%s more in samples.jsonl; --samples N shows more.</p>\n",
                cli_count((uint64_t)more));
    fputs("</section>\n", r->f);
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

/* The log-ratio that gets the strongest colour: of twenty tokens one may be beyond. */
static double token_scale(const report *r) {
    int64_t total = 0, k, n = 0;
    double *all, scale;
    int i;
    for (i = 0; i < r->token_count; i++) total += r->tokens[i].n;
    all = (double *)get(NULL, (size_t)total, sizeof *all);
    for (i = 0; i < r->token_count; i++)
        for (k = 0; k < r->tokens[i].n; k++)
            if (svg_finite(r->tokens[i].ratio[k])) all[n++] = fabs(r->tokens[i].ratio[k]);
    if (n) qsort(all, (size_t)n, sizeof *all, svg_ascending);
    scale = n ? all[n - 1 - n / 20] : 0;
    free(all);
    return scale > 0 ? scale : 1;
}

/* "u1".."u4": the policy raised the token, "d1".."d4": it lowered it; "" about the same, "x" nobody knows. */
static const char *token_class(double ratio, double scale) {
    static const char *const names[2][5] = {{"", "u1", "u2", "u3", "u4"}, {"", "d1", "d2", "d3", "d4"}};
    int level = svg_finite(ratio) ? (int)(fmin(fabs(ratio) / scale, 1) * 4 + 0.5) : -1;
    return level < 0 ? "x" : names[ratio < 0][level];
}

/* A text in its colours; under its prompt, unless the text before had the same. */
static void write_token_row(const report *r, const token_row *t, const token_row *before, double scale) {
    int more = before && same_text(&before->prompt, &t->prompt);
    char total[400];
    double sum = 0;
    int64_t known = 0, k;
    for (k = 0; k < t->n; k++) {
        if (!svg_finite(t->ratio[k])) continue;
        sum += t->ratio[k];
        known++;
    }
    snprintf(total, sizeof total, "%.3f", sum);
    fprintf(r->f, "<div class=\"said%s\">", more ? " more" : "");
    if (t->prompt.n && !more) {
        fputs("<div class=\"text\">", r->f);
        html_excerpt(r->f, t->prompt.s, t->prompt.n, EXCERPT);
        fputs("</div>", r->f);
    }
    fputs("<h3>", r->f);
    html_excerpt(r->f, t->answer.s, t->answer.n, 80);
    if (t->run.n) {
        fputs(t->answer.n ? ", " : "", r->f);
        html_excerpt(r->f, t->run.s, t->run.n, 80);
    }
    fprintf(r->f, "%s<span class=\"soft\">", t->answer.n || t->run.n ? ": " : "");
    svg_number_write(r->f, total);
    fprintf(r->f, " over %s tokens</span></h3>\n<div class=\"text tokens\">", cli_count((uint64_t)known));
    for (k = 0; k < t->n; k++) {
        fprintf(r->f, "<span class=\"t %s\" title=\"", token_class(t->ratio[k], scale));
        if (svg_finite(t->ratio[k])) html_print(r->f, "%+.3f", t->ratio[k]);
        else fputs("not known", r->f);
        fputs("\">", r->f);
        html_text(r->f, t->token[k].s, t->token[k].n);
        fputs("</span>", r->f);
    }
    if (t->left_out) fprintf(r->f, " <small>&hellip; %s tokens more</small>", cli_count((uint64_t)t->left_out));
    fputs("</div></div>\n", r->f);
}

static void write_tokens(report *r) {
    double scale;
    int i;
    if (!r->token_count) return;
    scale = token_scale(r);
    fputs("<section><h2>What changed, token by token</h2>\n<p class=\"soft\">log p(policy) &minus; log p(reference) of "
          "each "
          "token, <span class=\"t d4\">lowered</span> or <span class=\"t u4\">raised</span>; ",
          r->f);
    html_print(r->f, "the colours are full at %.2g nats and beyond, and the stronger ones have a line below.", scale);
    fputs("</p>\n", r->f);
    for (i = 0; i < r->token_count; i++) write_token_row(r, &r->tokens[i], i ? &r->tokens[i - 1] : NULL, scale);
    if (r->tokens_left_out)
        fprintf(r->f, "<p class=\"soft\">%s more in the file; --token-rows N shows more.</p>\n",
                cli_count((uint64_t)r->tokens_left_out));
    fputs("</section>\n", r->f);
}

/* ---- the study -------------------------------------------------------------------------------------------------- */

enum { EXHIBITS = 26, EXHIBIT_ROWS = 64, EXHIBIT_COLUMNS = 16, EXHIBIT_POINTS = 256 };

/* A member's text; empty where there is none. */
static text_copy study_text(const report *r, int64_t object, const char *key) {
    return get_text(r, dpo_json_find(r->json, object, key));
}

static void write_study_text(const report *r, int64_t object, const char *key, const char *before, const char *after) {
    text_copy t = study_text(r, object, key);
    if (t.n) {
        fputs(before, r->f);
        html_text(r->f, t.s, t.n);
        fputs(after, r->f);
    }
    free(t.s);
}

/* A text; what stands in brackets, an interval, is not broken. */
static void write_study_cell(const report *r, text_copy t) {
    const char *open = t.n ? (const char *)memchr(t.s, '[', t.n) : NULL;
    size_t n = open ? (size_t)(open - t.s) : t.n;
    html_excerpt(r->f, t.s, n, 200);
    if (!open) return;
    fputs(" <span class=\"keep\">", r->f);
    html_excerpt(r->f, open, t.n - n, 200);
    fputs("</span>", r->f);
}

static void write_study_cells(const report *r, int64_t list, int head) {
    int64_t node = dpo_json_first(r->json, list), n = dpo_json_count(r->json, list), k;
    fputs("<tr>", r->f);
    for (k = 0; k < n && k < EXHIBIT_COLUMNS; k++, node = dpo_json_next(r->json, node)) {
        text_copy t = get_text(r, node);
        fputs(head ? "<th scope=\"col\">" : k ? "<td>" : "<th scope=\"row\">", r->f);
        write_study_cell(r, t);
        fputs(head || !k ? "</th>" : "</td>", r->f);
        free(t.s);
    }
    fputs("</tr>\n", r->f);
}

static void write_study_table(const report *r, int64_t exhibit) {
    int64_t heads = dpo_json_find(r->json, exhibit, "heads"), rows = dpo_json_find(r->json, exhibit, "rows"), node, k,
            n;
    if (dpo_json_type(r->json, heads) != '[' || dpo_json_type(r->json, rows) != '[') return;
    fputs("<div class=\"scroll\"><table><thead>", r->f);
    write_study_cells(r, heads, 1);
    fputs("</thead><tbody>\n", r->f);
    node = dpo_json_first(r->json, rows);
    n = dpo_json_count(r->json, rows);
    for (k = 0; k < n && k < EXHIBIT_ROWS; k++, node = dpo_json_next(r->json, node))
        if (dpo_json_type(r->json, node) == '[') write_study_cells(r, node, 0);
    fputs("</tbody></table></div>\n", r->f);
}

/* Points that can be drawn, each further along x than the one before. */
static svg_points study_points(report *r, int64_t list) {
    svg_points p;
    int64_t node = dpo_json_first(r->json, list), n = dpo_json_count(r->json, list), k;
    svg_point *to = (svg_point *)drawing_get(r, EXHIBIT_POINTS, sizeof *to);
    p.at = to;
    p.n = 0;
    if (dpo_json_type(r->json, list) != '[') n = 0;
    for (k = 0; k < n && p.n < EXHIBIT_POINTS; k++, node = dpo_json_next(r->json, node)) {
        double v[4] = {NAN, NAN, NAN, NAN};
        int64_t element = dpo_json_first(r->json, node), count = dpo_json_count(r->json, node), i;
        if (dpo_json_type(r->json, node) != '[') continue;
        for (i = 0; i < count && i < 4; i++, element = dpo_json_next(r->json, element))
            if (drawable(r, element, &v[i]) != 1) v[i] = NAN;
        if (!svg_finite(v[0]) || (p.n && v[0] <= to[p.n - 1].x)) continue;
        to[p.n] = point(v[0], v[1]);
        to[p.n].low = v[2];
        to[p.n++].high = v[3];
    }
    return p;
}

static void write_study_chart(report *r, int64_t exhibit, int number) {
    int64_t list = dpo_json_find(r->json, exhibit, "series"), node = dpo_json_first(r->json, list), k;
    int64_t count = dpo_json_type(r->json, list) == '[' ? dpo_json_count(r->json, list) : 0;
    svg_series s[SVG_COLORS];
    svg_chart c;
    text_copy name[SVG_COLORS], title = study_text(r, exhibit, "title"), x = study_text(r, exhibit, "x");
    char id[16];
    int n = 0, i;
    for (k = 0; k < count && n < SVG_COLORS; k++, node = dpo_json_next(r->json, node)) {
        svg_points p = study_points(r, dpo_json_find(r->json, node, "points"));
        if (!p.n) continue;
        memset(&s[n], 0, sizeof s[n]);
        name[n] = study_text(r, node, "name");
        s[n].name = name[n].s;
        s[n].color = n;
        s[n].marks = p;
        n++;
    }
    snprintf(id, sizeof id, "study%c", 'a' + number);
    c = svg_chart_start(id, title.s);
    c.x_name = x.s;
    c.series = s;
    c.count = n;
    if (n) {
        fputs("<p class=\"soft\">", r->f);
        write_study_text(r, exhibit, "y", "From below: ", "; from left to right: ");
        html_text(r->f, x.s, x.n);
        fputs(".</p>\n<div>", r->f);
        svg_key(r->f, &c);
        svg_chart_write(r->f, &c);
        fputs("</div>\n", r->f);
    }
    for (i = 0; i < n; i++) free(name[i].s);
    free(title.s);
    free(x.s);
    drawing_clear(r);
}

/* Exhibit `number` of the study, -1 if there are not so many. */
static int64_t study_exhibit(const report *r, int64_t number) {
    int64_t list = dpo_json_find(r->json, 0, "exhibits"), node = dpo_json_first(r->json, list), k;
    if (number >= EXHIBITS || number >= dpo_json_count(r->json, list)) return -1;
    for (k = 0; k < number; k++) node = dpo_json_next(r->json, node);
    return node;
}

/* What is claimed and whether it repeats, each with the way to where it stands. */
static void write_study_verdicts(const report *r) {
    int64_t k, node;
    fputs("<section><h2>What repeats</h2>\n<div class=\"scroll\"><table><thead><tr><th scope=\"col\">exhibit</th>"
          "<th scope=\"col\">claim</th><th scope=\"col\">here</th></tr></thead><tbody>\n",
          r->f);
    for (k = 0; (node = study_exhibit(r, k)) >= 0; k++) {
        fprintf(r->f, "<tr><th scope=\"row\"><a href=\"#exhibit%d\">", (int)k + 1);
        write_study_text(r, node, "title", "", "");
        fputs("</a></th><td>", r->f);
        write_study_text(r, node, "claim", "", "");
        fputs("</td><td>", r->f);
        write_study_text(r, node, "verdict", "", "");
        fputs("</td></tr>\n", r->f);
    }
    fputs("</tbody></table></div></section>\n", r->f);
}

static void write_study(report *r) {
    int64_t k, node;
    if (!r->study) return; /* the nodes are of another text, which is gone */
    write_study_verdicts(r);
    for (k = 0; (node = study_exhibit(r, k)) >= 0; k++) {
        fprintf(r->f, "<section id=\"exhibit%d\">", (int)k + 1);
        write_study_text(r, node, "title", "<h2>", "</h2>\n");
        write_study_text(r, node, "finding", "<p>", "</p>\n");
        write_study_text(r, node, "claim", "<p class=\"soft\">Claim: ", "</p>\n");
        write_study_table(r, node);
        write_study_chart(r, node, (int)k);
        write_study_text(r, node, "published", "<p class=\"soft\">Published: ", "</p>\n");
        fputs("</section>\n", r->f);
    }
}

/* Last of all that is read, since its nodes stay. */
static int read_study(report *r) {
    size_t n;
    const char *why;
    int64_t list;
    if (!r->study_file) return 0;
    r->study = read_file(r->study_file, 1 << 24, &n);
    if (!r->study) return 1;
    why = parse_object(r, r->study, n);
    if (why) return cli_die("--study %s is no JSON object: %s", r->study_file, why);
    list = dpo_json_find(r->json, 0, "exhibits");
    if (dpo_json_type(r->json, list) != '[' || !dpo_json_count(r->json, list))
        return cli_die("--study %s holds no list of exhibits; expected the study.json of build/study", r->study_file);
    return 0;
}

/* ---- the page --------------------------------------------------------------------------------------------------- */

/* clang-format off */
static const char *const report_style[] = {
    ":root{--up:22,72,171;--down:193,74,0}",
    "@media screen and (prefers-color-scheme:dark){:root{--up:103,164,255;--down:235,119,0}}",
    ".t{border-radius:2px;color:var(--ink)}.tokens{line-height:1.9}.said.more{border:0;padding:0;margin:.75rem 0 0}",
    ".u1{background:rgba(var(--up),.1)}.u2{background:rgba(var(--up),.2)}",
    ".u3{background:rgba(var(--up),.32)}.u4{background:rgba(var(--up),.45)}",
    ".d1{background:rgba(var(--down),.1)}.d2{background:rgba(var(--down),.2)}",
    ".d3{background:rgba(var(--down),.32)}.d4{background:rgba(var(--down),.45)}",
    ".u2,.u3,.u4{border-bottom:2px solid rgb(var(--up))}",
    ".d2,.d3,.d4{border-bottom:2px dotted rgb(var(--down))}",
    ".x{outline:1px dashed var(--soft)}",
    NULL};
/* clang-format on */

static void write_notes(report *r) {
    int i;
    if (!r->notes) return;
    fputs("<div class=\"warn\"><h2>Please note</h2><ul>\n", r->f);
    for (i = 0; i < r->notes; i++) {
        fputs("<li>", r->f);
        html_text(r->f, r->note[i], strlen(r->note[i]));
        fputs("</li>\n", r->f);
    }
    fputs("</ul></div>\n", r->f);
}

static void write_page(report *r) {
    static const char *const *const styles[] = {html_style, svg_style, report_style, NULL};
    char title[160];
    text_copy about = r->study ? study_text(r, 0, "about") : get_text(r, -1);
    if (r->study) {
        text_copy t = study_text(r, 0, "title");
        snprintf(title, sizeof title, "%s", t.n ? t.s : "A study");
        free(t.s);
    } else if (r->runs == 1) snprintf(title, sizeof title, "Training run %s", r->run[0].name);
    else snprintf(title, sizeof title, "%d training runs", r->runs);
    html_begin(r->f, r->title ? r->title : title, styles);
    fputs("<h1>", r->f);
    html_print(r->f, "%s", r->title ? r->title : title);
    fputs("</h1>\n<p class=\"lead\">", r->f);
    if (r->study) html_text(r->f, about.s, about.n);
    else if (r->runs == 1) lead_one(r);
    else lead_several(r);
    free(about.s);
    fputs("</p>\n", r->f);
    write_notes(r);
    write_study(r);
    if (r->runs) write_held_out(r);
    if (r->runs) write_figures(r);
    if (r->runs) write_training(r);
    write_samples(r);
    write_tokens(r);
    if (r->runs) write_runs(r);
    html_end(r->f);
}

static int write_report(report *r) {
    char *page = NULL;
    size_t n = 0;
    int failed;
    r->f = open_memstream(&page, &n);
    if (!r->f) return cli_die("no memory for the page");
    write_page(r);
    failed = ferror(r->f) != 0;
    if (fclose(r->f) || failed) failed = cli_die("no memory for the page");
    if (!failed && !strcmp(r->output, "-")) {
        if (fwrite(page, 1, n, stdout) != n || fflush(stdout)) failed = cli_die("the output could not be written");
    } else if (!failed) {
        failed = write_file(r->output, page, n);
        if (!failed) printf("%s: %s of %d %s\n", r->output, cli_bytes(n), r->runs, plural(r->runs, "run", "runs"));
    }
    free(page);
    return failed;
}

static void free_text(text_copy t) { free(t.s); }

static void report_free(report *r) {
    int i;
    int64_t k;
    for (i = 0; i < r->runs; i++) {
        free_samples(&r->run[i]);
        free(r->run[i].samples);
        free(r->run[i].options);
        free(r->run[i].set[0].at);
        free(r->run[i].set[1].at);
    }
    for (i = 0; i < r->token_count; i++) {
        for (k = 0; k < r->tokens[i].n; k++) free_text(r->tokens[i].token[k]);
        free(r->tokens[i].token);
        free(r->tokens[i].ratio);
        free_text(r->tokens[i].prompt);
        free_text(r->tokens[i].answer);
        free_text(r->tokens[i].run);
    }
    free(r->tokens);
    free(r->study);
    for (i = 0; i < r->notes; i++) free(r->note[i]);
    free(r->note);
    drawing_clear(r);
    free(r->drawing);
    dpo_close(r->c);
}

static int read_all(report *r, const cli_program *p) {
    int i, any = 0;
    for (i = 0; i < p->argument_count; i++) {
        run *u = &r->run[r->runs++];
        u->dir = p->argument[i];
        if (!is_dir(u->dir)) return cli_die("%s is no directory; expected what --output of dpo-train named", u->dir);
        if (read_description(r, u) || read_metrics(r, u) || read_samples(r, u)) return 1;
        any |= u->set[0].n || u->set[1].n;
    }
    if (!any && !r->study_file) return cli_die("there is nothing to show: no metrics.jsonl holds a line of metrics");
    if (read_tokens(r)) return 1;
    name_runs(r);
    if (r->runs > 1) note_comparison(r);
    return read_study(r);
}

int main(int argc, char **argv) {
    static report r; /* large */
    cli_program p =
        cli_program_make("dpo-report", "0.1.0", "RUN_DIR... [--output report.html] [options]",
                         "Makes one HTML page of training runs, each the output directory of dpo-train: charts, "
                         "final values with intervals, samples side by side. The page stands alone.");
    cli_option options[] = {
        CLI_STRING("output", &r.output, "FILE", "", "where the page goes; -: standard output"),
        CLI_STRING("title", &r.title, "TEXT", "", "of the page"),
        CLI_WORD("x", &r.x, "examples|step|tokens|epoch", "", "what the charts go along"),
        CLI_INT("smooth", &r.smooth, 0, 10001, "", "updates that are smoothed over; 0: about a tenth of the run"),
        CLI_INT("eval-size", &r.eval_size, 0, 1000000000, "",
                "examples of an evaluation, where the runs do not say; 0: unknown"),
        CLI_INT("samples", &r.sample_limit, 0, 1024, "", "prompts shown with their answers"),
        CLI_STRING("study", &r.study_file, "FILE", "", "study.json of build/study: its tables and figures come first"),
        CLI_STRING("tokens", &r.tokens_file, "FILE", "",
                   "log-ratios of tokens (dpo-eval logprobs --reference), shown as text"),
        CLI_INT("token-rows", &r.token_limit, 1, 1024, "", "texts of --tokens shown")};
    int failed;
    memset(&r, 0, sizeof r);
    r.output = "report.html";
    r.sample_limit = 6;
    r.token_limit = 12;
    p.argument_max = RUNS;
    if (cli_parse(&p, options, CLI_COUNT(options), argc, argv)) return p.exit_code;
    if (!p.argument_count && !r.study_file)
        return cli_die("expected the directories of one or more runs; usage: dpo-report %s", p.usage);
    r.c = dpo_open(NULL);
    r.json = r.c ? dpo_json_create(r.c) : NULL;
    failed = !r.json ? cli_die("no memory to begin with") : read_all(&r, &p) || write_report(&r);
    report_free(&r);
    return failed;
}
