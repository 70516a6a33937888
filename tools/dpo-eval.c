/* dpo-eval.c: the program build/dpo-eval measures what a model knows, prefers and has forgotten, on dpo.h.
 *
 *     dpo-eval rewards --model DIR --reference DIR --data test.jsonl.gz     rewards/accuracies on held-out pairs
 *     dpo-eval loss --model DIR --reference DIR --data docs.jsonl           loss on text, and against a base: forgetting
 *     dpo-eval tasks --model DIR --tasks arc_easy=FILE,piqa=FILE:LABELS     multiple choice, as the harness does it
 *     dpo-eval logprobs --model DIR --data FILE                             {"text"}, {"prompt", "response"}, {"ids"}
 *
 * Results go to stdout, with --json an object a line; progress and what could not be used to stderr. Exit code 0; 1
 * after one sentence on stderr; 130 when stopped by Ctrl-C, after the results so far, said to be that. */
#include "cli.h" /* first: it asks the system headers for sigaction and friends */
#include "../dpo.h"
#include "dataset.h"
#include "files.h"
#include "formats/tasks.h"

#define MOST_TASKS 64

/* ---- settings --------------------------------------------------------------------------------------------------- */

typedef struct settings {
    const char *model, *adapter, *reference, *compare, *compare_adapter, *tokenizer, *data, *tasks, *task, *file,
        *labels;
    const char *fewshot_file, *log, *dump;
    int precision, simd, threads, verify, no_mmap, json, quiet, batch_rows, separate;
    int num_fewshot, limit, mode, max_length; /* max_length: as given, else 0 */
    double beta;
    uint64_t seed;
    dataset_options d;
} settings;

enum { MODE_DOC, MODE_PACKED };

static int settings_parse(settings *s, cli_program *p, int argc, char **argv) {
    cli_option options[] = {
        CLI_HEADING("All commands"),
        CLI_STRING("model", &s->model, "DIR", "model_name_or_path", "a Hugging Face directory (safetensors)"),
        CLI_STRING("adapter", &s->adapter, "DIR", "", "a PEFT adapter on it"),
        CLI_STRING("reference", &s->reference, "DIR", "ref_model",
                   "the model to compare with, or base: --model without its adapter. rewards: base if there is one"),
        CLI_STRING("tokenizer", &s->tokenizer, "PATH", "tokenizer_name",
                   "a directory, a tokenizer.json, or bytes; without it the model's own"),
        CLI_WORD("precision", &s->precision, "fp32|mixed|bf16", "", "of the arithmetic; weights stay as in their file"),
        CLI_INT("threads", &s->threads, 0, 1024, "", "0: one per core. Changes no result"),
        CLI_WORD("simd", &s->simd, "auto|scalar|avx2|avx512|avx512-bf16|neon", "", "instructions. Change no result"),
        CLI_INT("batch-rows", &s->batch_rows, 1, 1 << 24, "", "tokens computed at a time. Changes no result"),
        CLI_FLAG("verify", &s->verify, "", "first compare the checksums of the model's files"),
        CLI_FLAG("no-mmap", &s->no_mmap, "", "read the weights into memory instead of mapping their file"),
        CLI_FLAG("json", &s->json, "", "an object a line instead of text"),
        CLI_FLAG("quiet", &s->quiet, "", "no live line"),
        CLI_INT("limit", &s->limit, 0, INT_MAX, "", "the first N pairs, documents, items or lines; 0: all"),
        CLI_STRING("log", &s->log, "FILE", "", "each pair, document or item as a JSON line"),
        CLI_HEADING("rewards, loss, logprobs"),
        CLI_STRING("data", &s->data, "FILE", "eval eval_file",
                   "pairs (rewards); documents: lines of {\"text\"}, an array of them or of strings, or plain text, "
                   "which is one (loss); lines of {\"text\"}, "
                   "{\"prompt\", \"response\"} or {\"ids\"}, - for standard input (logprobs). All of them also .gz"),
        CLI_HEADING("rewards"),
        CLI_DOUBLE("beta", &s->beta, CLI_ABOVE_0, 1e6, "", "rewards are beta * (log p - log p of the reference)"),
        CLI_STRING("compare", &s->compare, "DIR", "", "a second policy, compared pair by pair"),
        CLI_STRING("compare-adapter", &s->compare_adapter, "DIR", "", "its adapter (without --compare: on --model)"),
        CLI_UINT64("seed", &s->seed, "", "of the bootstrap"),
        CLI_HEADING("loss"),
        CLI_WORD("mode", &s->mode, "doc|packed", "",
                 "doc: each document by itself, cut at --max-length, its first token not scored; packed: documents "
                 "joined by the id that ends a text, in windows of --max-length. --max-length here: the model's "
                 "positions unless it is given"),
        CLI_HEADING("tasks"),
        CLI_STRING(
            "tasks", &s->tasks, "LIST", "",
            "NAME=FILE or NAME=FILE:LABELS, separated by commas; NAME auto, or nothing but FILE: by the rows' "
            "fields. Names: arc_easy, arc_challenge, openbookqa, hellaswag, piqa, winogrande, boolq, social_iqa "
            "(Q:/A:), social_iqa_2023 (Question:/Answer:), sciq, race, lambada, truthfulqa_mc1, truthfulqa_mc2, "
            "mmlu, and custom for lines of your own: {\"ctx\": text or \"ctxs\": a list, \"conts\": texts as they "
            "follow it, spaces included, \"gold\": index}. FILE may be a directory of files (mmlu, race)"),
        CLI_STRING("task", &s->task, "NAME", "", "one task, in --file"),
        CLI_STRING("file", &s->file, "FILE", "", "of --task; without --task by its fields"),
        CLI_STRING("labels", &s->labels, "FILE", "", "its labels, where they are apart (piqa, social_iqa)"),
        CLI_INT("num-fewshot", &s->num_fewshot, 0, 1000, "", "solved examples before each question"),
        CLI_STRING("fewshot-file", &s->fewshot_file, "FILE", "",
                   "where they come from: its first ones, in order (mmlu: of the same subject); one task at a time"),
        CLI_STRING("dump-requests", &s->dump, "FILE", "",
                   "each context and continuation, as JSON lines; without --model nothing else is done"),
        CLI_FLAG("separate", &s->separate, "", "compute each choice's context again, for comparison"),
        CLI_HEADING("How data are read (rewards), and what begins a text"),
        DATASET_OPTIONS(&s->d),
    };
    if (cli_parse(p, options, CLI_COUNT(options), argc, argv)) return 1;
    s->max_length = cli_given(p, "max-length") ? s->d.data.max_length : 0;
    return 0;
}

/* ---- what all commands need ------------------------------------------------------------------------------------- */

typedef struct eval {
    settings s;
    dpo_context *c;
    dpo_model *m, *reference; /* reference may be m: without its adapters */
    dpo_tokenizer *t;
    FILE *log;
    int stopped;
    int64_t rows;
    double began;
} eval;

static int no_memory(void) { return cli_die("out of memory"); }
static int fail(const eval *e) { return cli_die("%s", dpo_error(e->c)); }
static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}
static void on_log(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING) cli_note("warning: %s", line);
}

/* An array that grows, of elements of any type; 1 without memory. */
static int grow(void **p, int64_t *cap, int64_t need, size_t size) {
    int64_t room = 2 * need + 64;
    void *more;
    if (need <= *cap) return 0;
    more = realloc(*p, (size_t)room * size);
    if (!more) return no_memory();
    *p = more;
    *cap = room;
    return 0;
}

static dpo_model *load(eval *e, const char *dir, const char *adapter) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    dpo_model *m;
    how.precision = e->s.precision;
    how.frozen = 1;
    how.verify = e->s.verify;
    how.no_map = e->s.no_mmap;
    m = dpo_model_load_as(e->c, dir, &how);
    if (m && adapter) dpo_lora_load(m, adapter);
    return m;
}
static int open_all(eval *e) {
    const char *from = e->s.tokenizer ? e->s.tokenizer : e->s.model;
    dpo_desc desc;
    int vocab;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = e->s.threads;
    desc.simd = e->s.simd;
    desc.cancel = on_cancel;
    desc.log = on_log;
    e->c = dpo_open(&desc);
    if (!e->c && e->s.simd)
        return cli_die("--simd: this CPU or this build has not got these instructions; leave it out");
    if (!e->c) return cli_die("%s", dpo_error(NULL));
    if (!e->s.model) return 0; /* requests are written, nothing is scored */
    e->m = load(e, e->s.model, e->s.adapter);
    if (!e->m) return fail(e);
    if (e->s.reference && !strcmp(e->s.reference, "base")) e->reference = e->m;
    else if (e->s.reference) e->reference = load(e, e->s.reference, NULL);
    if (dpo_status(e->c)) return fail(e);
    e->t = dataset_tokenizer(e->c, from, e->s.d.eos);
    if (!e->t) return 1;
    vocab = dpo_model_config_of(e->m)->vocab_size;
    if (vocab < dpo_tokenizer_vocab(e->t))
        return cli_die("the tokenizer %s has %d ids, the model %s a vocabulary of %d; use the tokenizer that the model "
                       "was trained with",
                       from, dpo_tokenizer_vocab(e->t), e->s.model, vocab);
    if (e->s.log && !(e->log = fopen(e->s.log, "wb"))) return cli_die("cannot write %s: %s", e->s.log, strerror(errno));
    return 0;
}

/* The id that stands where a text has no context. */
static int32_t prefix_id(const eval *e) {
    int32_t bos = dpo_tokenizer_bos(e->t), eos = dpo_tokenizer_eos(e->t);
    return bos >= 0 ? bos : eos;
}
static unsigned encode_flags(const eval *e) {
    int bos = e->s.d.data.bos;
    return bos == DPO_BOS_ALWAYS || (bos == DPO_BOS_HABIT && dpo_tokenizer_adds_bos(e->t)) ? DPO_ENCODE_ADD_BOS : 0;
}

static void live(eval *e, const char *what, int64_t done, int64_t total, const char *figure) {
    char line[256];
    double seconds = cli_clock() - e->began;
    if (e->s.quiet || seconds < 1) return;
    snprintf(line, sizeof line, "%s %s of %s%s%s, %s left", what, cli_count((uint64_t)done), cli_count((uint64_t)total),
             figure[0] ? ", " : "", figure, cli_duration(done ? seconds * (double)(total - done) / (double)done : -1));
    cli_live(line);
}

/* Scores; a wish to stop is no error: what was not reached has tokens 0. */
static int score(eval *e, dpo_model *m, dpo_model *reference, const dpo_sequence *s, int64_t n, dpo_score *out,
                 dpo_token_score *tokens) {
    dpo_score_config k;
    dpo_result code;
    memset(&k, 0, sizeof k);
    k.reference = reference;
    k.max_rows = e->s.batch_rows;
    k.separate = e->s.separate;
    k.rows = &e->rows;
    code = dpo_score_sequences(m, s, n, &k, out, tokens);
    if (code == DPO_E_CANCELLED) {
        dpo_clear(e->c);
        e->stopped = 1;
        return 0;
    }
    return code ? fail(e) : 0;
}

static void json_key(FILE *f, const char *key, double v) {
    fprintf(f, ", \"%s\": ", key);
    cli_json_number(f, v);
}

static void json_text(FILE *f, const char *key, const char *text) {
    fprintf(f, ", \"%s\": ", key);
    cli_json_string(f, text, strlen(text));
}

/* ---- rewards ---------------------------------------------------------------------------------------------------- */

typedef struct pair_result {                       /* of one policy, all of it for each pair scored */
    double *chosen, *rejected;                     /* rewards */
    double *reference_chosen, *reference_rejected; /* log-probs */
    double *right, *margin;                        /* right: 1, 0.5 or 0 */
    int64_t n, accuracies, ties;
} pair_result;

static int pair_room(pair_result *p, int64_t n) {
    double **const all[] = {&p->chosen, &p->rejected, &p->reference_chosen, &p->reference_rejected,
                            &p->right,  &p->margin};
    int i;
    memset(p, 0, sizeof *p);
    for (i = 0; i < 6; i++)
        if (!(*all[i] = (double *)malloc((size_t)(n + 1) * sizeof **all[i]))) return no_memory();
    return 0;
}
static void pair_free(pair_result *p) {
    free(p->chosen);
    free(p->rejected);
    free(p->reference_chosen);
    free(p->reference_rejected);
    free(p->right);
    free(p->margin);
}

/* Pairs i .. i + n - 1 as sequences in `ids`; a pair without a prompt is scored from its second id on. */
static int pair_sequences(const dpo_data *d, int64_t i, int64_t n, int32_t **ids, int64_t *cap, dpo_sequence *s) {
    const int32_t *part[3];
    int64_t length[3], at = 0, k, side;
    for (k = 0; k < n; k++) {
        dpo_data_item(d, i + k, &part[0], &length[0], &part[1], &length[1], &part[2], &length[2]);
        if (grow((void **)ids, cap, at + 2 * length[0] + length[1] + length[2], sizeof **ids)) return 1;
        for (side = 1; side < 3; side++) {
            dpo_sequence *q = &s[2 * k + side - 1];
            memcpy(*ids + at, part[0], (size_t)length[0] * sizeof **ids);
            memcpy(*ids + at + length[0], part[side], (size_t)length[side] * sizeof **ids);
            q->ids = NULL; /* the ids may still move */
            q->n = length[0] + length[side];
            q->context = length[0] ? length[0] : 1;
            at += q->n;
            if (q->n < 2)
                return cli_die("pair %lld has an answer of one token and no prompt: nothing foretells it; --bos always "
                               "puts an id before it",
                               (long long)(i + k + 1));
        }
    }
    for (at = k = 0; k < 2 * n; at += s[k++].n) s[k].ids = *ids + at;
    return 0;
}
/* known: what another policy got, and with it the reference's log-probs, by then known. */
static int pair_score(eval *e, dpo_model *m, dpo_model *reference, const dpo_data *d, int64_t n, pair_result *out,
                      const pair_result *known, const char *what) {
    enum { CHUNK = 64 };
    dpo_sequence s[2 * CHUNK];
    dpo_score got[2 * CHUNK];
    int32_t *ids = NULL;
    int64_t cap = 0, i, k, size;
    int failed = 0;
    for (i = 0; i < n && !failed && !e->stopped; i += size) {
        char figure[64] = "";
        size = n - i < CHUNK ? n - i : CHUNK;
        failed = pair_sequences(d, i, size, &ids, &cap, s) || score(e, m, reference, s, 2 * size, got, NULL);
        for (k = 0; k < size && !failed && got[2 * k].tokens && got[2 * k + 1].tokens; k++) {
            int64_t at = out->n++;
            double c = known ? known->reference_chosen[at] : got[2 * k].reference_logp;
            double r = known ? known->reference_rejected[at] : got[2 * k + 1].reference_logp;
            double margin = (got[2 * k].logp - c) - (got[2 * k + 1].logp - r);
            out->chosen[at] = e->s.beta * (got[2 * k].logp - c);
            out->rejected[at] = e->s.beta * (got[2 * k + 1].logp - r);
            out->reference_chosen[at] = c;
            out->reference_rejected[at] = r;
            out->margin[at] = e->s.beta * margin;
            out->right[at] = margin > 0 ? 1 : margin < 0 ? 0 : 0.5;
            out->accuracies += margin > 0;
            out->ties += margin == 0;
        }
        if (out->n) snprintf(figure, sizeof figure, "accuracies %.3f", (double)out->accuracies / (double)out->n);
        live(e, what, out->n, n, figure);
    }
    free(ids);
    return failed;
}

static void pair_print(const eval *e, const char *name, const pair_result *p) {
    double se[4], mean[4], low, high, half, n = (double)p->n;
    mean[0] = dpo_mean(p->chosen, p->n, &se[0]);
    mean[1] = dpo_mean(p->rejected, p->n, &se[1]);
    mean[2] = dpo_mean(p->margin, p->n, &se[2]);
    half = dpo_mean(p->right, p->n, &se[3]);
    dpo_wilson((double)p->accuracies, n, &low, &high);
    if (e->s.json) {
        printf("{\"command\": \"rewards\", \"model\": ");
        cli_json_string(stdout, name, strlen(name));
        json_key(stdout, "n", n);
        json_key(stdout, "rewards/accuracies", (double)p->accuracies / n);
        json_key(stdout, "low", low);
        json_key(stdout, "high", high);
        json_key(stdout, "rewards/ties", (double)p->ties / n);
        json_key(stdout, "accuracies_ties_half", half);
        json_key(stdout, "rewards/chosen", mean[0]);
        json_key(stdout, "rewards/rejected", mean[1]);
        json_key(stdout, "rewards/margins", mean[2]);
        json_key(stdout, "margins_stderr", se[2]);
        json_key(stdout, "beta", e->s.beta);
        printf(", \"complete\": %s}\n", e->stopped ? "false" : "true");
        return;
    }
    printf("%s, %s pairs\n", name, cli_count((uint64_t)p->n));
    printf("  rewards/accuracies  %.4f   95 %% interval %.4f to %.4f\n", (double)p->accuracies / n, low, high);
    printf("  rewards/ties        %.4f   (ties as halves: accuracies %.4f)\n", (double)p->ties / n, half);
    printf("  rewards/margins     %.6g +- %.2g\n", mean[2], se[2]);
    printf("  rewards/chosen      %.6g +- %.2g\n  rewards/rejected    %.6g +- %.2g\n", mean[0], se[0], mean[1], se[1]);
}
/* Two policies on the pairs that both have scored. */
static int pair_compare(const eval *e, const pair_result *a, const pair_result *b) {
    int64_t n = a->n < b->n ? a->n : b->n, i, only_a = 0, only_b = 0;
    double *d = (double *)malloc((size_t)(n + 1) * sizeof *d), mean, low, high, margin, margin_low, margin_high, p;
    if (!d) return no_memory();
    for (i = 0; i < n; i++) {
        only_a += a->right[i] == 1 && b->right[i] != 1;
        only_b += b->right[i] == 1 && a->right[i] != 1;
        d[i] = (double)(b->right[i] == 1) - (double)(a->right[i] == 1);
    }
    p = dpo_mcnemar(only_a, only_b);
    mean = dpo_mean(d, n, NULL);
    (void)dpo_bootstrap_mean(d, n, e->s.seed, 10000, &low, &high);
    for (i = 0; i < n; i++) d[i] = b->margin[i] - a->margin[i];
    margin = dpo_mean(d, n, NULL);
    (void)dpo_bootstrap_mean(d, n, e->s.seed, 10000, &margin_low, &margin_high);
    free(d);
    if (e->s.json) {
        printf("{\"command\": \"rewards\", \"comparison\": \"second - first\"");
        json_key(stdout, "n", (double)n);
        json_key(stdout, "only_first_right", (double)only_a);
        json_key(stdout, "only_second_right", (double)only_b);
        json_key(stdout, "mcnemar_p", p);
        json_key(stdout, "accuracies_difference", mean);
        json_key(stdout, "low", low);
        json_key(stdout, "high", high);
        json_key(stdout, "margins_difference", margin);
        json_key(stdout, "margins_low", margin_low);
        json_key(stdout, "margins_high", margin_high);
        printf("}\n");
        return 0;
    }
    printf("second - first, on %s pairs\n", cli_count((uint64_t)n));
    printf("  accuracies  %+.4f   95 %% bootstrap %+.4f to %+.4f\n", mean, low, high);
    printf("  right only by the first %s, only by the second %s: McNemar's exact p = %.3g\n",
           cli_count((uint64_t)only_a), cli_count((uint64_t)only_b), p);
    printf("  margins     %+.6g   95 %% bootstrap %+.6g to %+.6g\n", margin, margin_low, margin_high);
    return 0;
}
static void pair_log(const eval *e, const pair_result *p) {
    int64_t i;
    for (i = 0; e->log && i < p->n; i++) {
        fprintf(e->log, "{\"index\": %lld", (long long)i);
        json_key(e->log, "rewards/chosen", p->chosen[i]);
        json_key(e->log, "rewards/rejected", p->rejected[i]);
        json_key(e->log, "reference_logps/chosen", p->reference_chosen[i]);
        json_key(e->log, "reference_logps/rejected", p->reference_rejected[i]);
        fprintf(e->log, "}\n");
    }
}

static int run_rewards(eval *e) {
    dataset d = dataset_start(e->c, e->t, 0);
    pair_result a, b;
    dpo_model *second = NULL;
    int64_t n;
    int failed;
    if (!e->reference && e->s.adapter) e->reference = e->m;
    if (!e->reference) return cli_die("rewards needs --reference DIR, the model that training began with");
    d.o = e->s.d;
    d.o.eval_fraction = 0;
    d.model_chat = chat_format_of_model(e->c, e->s.model);
    dpo_clear(e->c);
    if (dataset_read(&d, e->s.data, 0)) return 1;
    if (!e->s.json) dataset_print_file(&d.file[0]);
    else if (d.file[0].bad) /* of these the text form says more */
        cli_note("%s of %s rows are not used: the first (%s %lld): %s", cli_count((uint64_t)d.file[0].bad),
                 cli_count((uint64_t)d.file[0].rows), dataset_place(&d.file[0]), (long long)d.file[0].reason[0].first,
                 d.file[0].reason[0].why);
    n = dpo_data_count(d.train);
    if (e->s.limit && n > e->s.limit) n = e->s.limit;
    memset(&b, 0, sizeof b);
    e->began = cli_clock();
    failed = pair_room(&a, n) || pair_room(&b, n) || pair_score(e, e->m, e->reference, d.train, n, &a, NULL, "rewards");
    if (!failed && !a.n) failed = cli_die("stopped before any pair was scored");
    if (!failed) {
        cli_live_end();
        pair_log(e, &a);
        pair_print(e, e->s.adapter ? e->s.adapter : e->s.model, &a);
    }
    if (!failed && !e->stopped && (e->s.compare || e->s.compare_adapter)) {
        second = load(e, e->s.compare ? e->s.compare : e->s.model, e->s.compare_adapter);
        e->began = cli_clock();
        failed = !second ? fail(e) : pair_score(e, second, NULL, d.train, n, &b, &a, "the second model's rewards");
        if (!failed && b.n) {
            cli_live_end();
            pair_print(e, e->s.compare_adapter ? e->s.compare_adapter : e->s.compare, &b);
            failed = pair_compare(e, &a, &b);
        }
    }
    pair_free(&a);
    pair_free(&b);
    dataset_free(&d);
    return failed;
}

/* ---- loss ------------------------------------------------------------------------------------------------------- */

typedef struct document { /* or a window of packed ones */
    int64_t first, n;     /* ids */
    int64_t bytes;        /* of text that its scored ids stand for */
} document;

typedef struct text_set {
    int32_t *ids;
    int64_t n_ids, ids_cap;
    document *doc;
    int64_t n_docs, doc_cap;
    int64_t read, cut, short_ones; /* documents; cut at max_length; of fewer than two ids, which have no loss */
    int64_t bad, first_bad;        /* rows */
    char why[160];
} text_set;

static int64_t id_bytes(const eval *e, const int32_t *ids, int64_t n) {
    int64_t i, total = 0;
    for (i = 0; i < n; i++) {
        size_t bytes = 0;
        int special = 0;
        if (dpo_tokenizer_piece(e->t, ids[i], &bytes, &special) && !special) total += (int64_t)bytes;
    }
    return total;
}
static int text_add(const eval *e, text_set *x, int64_t first, int64_t n) {
    document *d;
    if (n < 2) {
        x->short_ones++;
        return 0;
    }
    if (grow((void **)&x->doc, &x->doc_cap, x->n_docs + 1, sizeof *x->doc)) return 1;
    d = &x->doc[x->n_docs++];
    d->first = first;
    d->n = n;
    d->bytes = id_bytes(e, x->ids + first + 1, n - 1);
    return 0;
}
/* A document's ids behind all others; by itself cut at `most`. */
static int text_document(const eval *e, text_set *x, const char *text, size_t bytes, int64_t most) {
    dpo_text part;
    int64_t n, at = x->n_ids;
    int32_t eos = dpo_tokenizer_eos(e->t);
    part.text = text;
    part.bytes = bytes;
    part.special = 0;
    n = dpo_encode_parts(e->t, &part, 1, encode_flags(e), NULL, 0);
    if (n < 0) return cli_die("%s", dpo_status(e->c) ? dpo_error(e->c) : "a document could not be encoded");
    if (grow((void **)&x->ids, &x->ids_cap, at + n + 1, sizeof *x->ids)) return 1;
    dpo_encode_parts(e->t, &part, 1, encode_flags(e), x->ids + at, n);
    x->read++;
    if (e->s.mode == MODE_PACKED) {
        if (eos >= 0) x->ids[at + n++] = eos;
        x->n_ids += n;
        return 0;
    }
    if (n > most) {
        n = most;
        x->cut++;
    }
    x->n_ids += n;
    return text_add(e, x, at, n);
}
/* Packed documents in windows, one behind the other. */
static int text_windows(const eval *e, text_set *x, int64_t most) {
    int64_t at, n;
    for (at = 0; at < x->n_ids; at += n) {
        n = x->n_ids - at < most ? x->n_ids - at : most;
        if (text_add(e, x, at, n)) return 1;
    }
    return 0;
}
/* The text of a row, {"text": ...} or a mere string: r->text; *own is to be freed. */
static int text_of(const eval *e, row_data *r, const char *json, size_t bytes, char **own) {
    const char *why = "no JSON";
    int64_t n;
    *own = NULL;
    if (json[0] != '"') return row_start(r, json, bytes) || text_row(r, &e->s.d.row);
    if (dpo_json_parse(r->json, json, bytes, &why, NULL)) return row_bad(r, "bad JSON: %s", why);
    n = dpo_json_string(r->json, 0, NULL, 0);
    *own = n < 0 ? NULL : (char *)malloc((size_t)n + 1);
    if (!*own) return row_memory(r);
    dpo_json_string(r->json, 0, *own, (size_t)n + 1);
    r->text = *own;
    r->text_bytes = (size_t)n;
    return 0;
}
static int text_rows(const eval *e, text_set *x, row_data *r, row_source s, int64_t most) {
    const char *json;
    size_t bytes;
    int failed = 0;
    while (!failed && (!e->s.limit || x->read < e->s.limit) && row_next(&s, &json, &bytes)) {
        char *own;
        if (text_of(e, r, json, bytes, &own)) {
            if (!x->bad++) {
                x->first_bad = s.line;
                snprintf(x->why, sizeof x->why, "%s", r->why);
            }
        } else failed = text_document(e, x, r->text, r->text_bytes, most);
        free(own);
    }
    return failed;
}
/* The rows of a file of documents: JSON lines, or an array of objects or strings; 0: it is plain text. */
static int text_source(row_data *r, const char *text, size_t size, row_source *out) {
    row_source s = row_source_start(text, size);
    const char *json;
    size_t bytes, i = 0;
    *out = s;
    if (s.array) return 1;
    while (i < size && row_blank(text[i])) i++;
    if (i < size && text[i] == '[') {
        for (out->at = ++i; i < size && row_blank(text[i]); i++) {
        }
        out->array = i < size && text[i] == '"';
        return out->array;
    }
    return row_next(&s, &json, &bytes) && !row_start(r, json, bytes);
}
static int text_read(const eval *e, text_set *x, int64_t most) {
    char *text, err[1200];
    size_t size;
    row_source s;
    row_data r;
    int failed;
    memset(&r, 0, sizeof r);
    if (gzip_read_file(e->s.data, (size_t)1 << 34, &text, &size, err, sizeof err)) return cli_die("%s", err);
    r.json = dpo_json_create(e->c);
    if (!r.json) {
        free(text);
        return fail(e);
    }
    if (text_source(&r, text, size, &s)) failed = text_rows(e, x, &r, s, most);
    else failed = text_document(e, x, text, size, most);
    row_free(&r);
    free(text);
    if (failed) return 1;
    if (x->bad)
        cli_note("%s of %s rows are not used: the first (line %lld): %s", cli_count((uint64_t)x->bad),
                 cli_count((uint64_t)(x->bad + x->read)), (long long)x->first_bad, x->why);
    if (e->s.mode == MODE_PACKED && text_windows(e, x, most)) return 1;
    if (x->short_ones)
        cli_note("%s of fewer than two tokens have no loss and are left out", cli_count((uint64_t)x->short_ones));
    return x->n_docs ? 0 : cli_die("%s holds no document of at least two tokens", e->s.data);
}

typedef struct loss_result { /* per document; nats a token */
    double *loss, *reference, *kl, *tokens;
    int64_t n;
    double bytes;
} loss_result;

/* The mean over all tokens of numbers that are means over documents, and its standard error as a ratio of sums. */
static double token_mean(const double *x, const double *tokens, int64_t n, double *error) {
    double sum = 0, all = 0, squares = 0, mean;
    int64_t i;
    for (i = 0; i < n; i++) {
        sum += x[i] * tokens[i];
        all += tokens[i];
    }
    mean = sum / all;
    for (i = 0; i < n; i++) squares += (x[i] - mean) * tokens[i] * ((x[i] - mean) * tokens[i]);
    *error = n > 1 ? sqrt(squares * (double)n / (double)(n - 1)) / all : (double)NAN;
    return mean;
}
/* A figure by token and by document. */
static void loss_line(const eval *e, const char *text, const char *key, const double *x, const loss_result *l) {
    double token_error, error, by_token = token_mean(x, l->tokens, l->n, &token_error);
    double mean = dpo_mean(x, l->n, &error);
    char name[64];
    if (!e->s.json) {
        printf("  %-22s %.6f +- %.6f   %.6f +- %.6f\n", text, by_token, token_error, mean, error);
        return; /* of a single document the error is not known: nan */
    }
    json_key(stdout, key, by_token);
    snprintf(name, sizeof name, "%s_stderr", key);
    json_key(stdout, name, token_error);
    snprintf(name, sizeof name, "%s_per_document", key);
    json_key(stdout, name, mean);
    snprintf(name, sizeof name, "%s_per_document_stderr", key);
    json_key(stdout, name, error);
}
static int loss_print(const eval *e, const text_set *x, const loss_result *l) {
    double tokens = 0, error, bits, *delta = (double *)malloc((size_t)(l->n + 1) * sizeof *delta);
    int64_t i;
    if (!delta) return no_memory();
    for (i = 0; i < l->n; i++) {
        delta[i] = l->loss[i] - l->reference[i];
        tokens += l->tokens[i];
    }
    bits = token_mean(l->loss, l->tokens, l->n, &error) * tokens / l->bytes / 0.69314718055994530942;
    if (e->s.json) {
        printf("{\"command\": \"loss\", \"mode\": \"%s\"", e->s.mode == MODE_DOC ? "doc" : "packed");
        json_key(stdout, e->s.mode == MODE_DOC ? "documents" : "windows", (double)l->n);
        json_key(stdout, "tokens", tokens);
        json_key(stdout, "bytes", l->bytes);
        json_key(stdout, "cut", (double)x->cut);
        json_key(stdout, "too_short", (double)x->short_ones);
        json_key(stdout, "bad_rows", (double)x->bad);
    } else {
        printf("%s %s of %s documents (%s cut), %s scored tokens, %s\n", cli_count((uint64_t)l->n),
               e->s.mode == MODE_DOC ? "documents" : "windows", cli_count((uint64_t)x->read),
               cli_count((uint64_t)x->cut), cli_count((uint64_t)tokens), cli_bytes((uint64_t)l->bytes));
        printf("  nats                   over tokens              over %s\n",
               e->s.mode == MODE_DOC ? "documents" : "windows");
    }
    loss_line(e, "loss", "loss", l->loss, l);
    if (e->reference) {
        loss_line(e, "reference's loss", "reference_loss", l->reference, l);
        loss_line(e, "loss - reference's", "delta", delta, l);
        loss_line(e, "KL(reference || model)", "kl", l->kl, l);
    }
    if (e->s.json) {
        json_key(stdout, "bits_per_byte", bits);
        printf(", \"complete\": %s}\n", e->stopped ? "false" : "true");
    } else printf("  bits per byte          %.6f\n", bits);
    free(delta);
    return 0;
}
static void loss_take(eval *e, loss_result *l, const dpo_score *g, const document *d) {
    double n = (double)g->tokens;
    l->loss[l->n] = -g->logp / n;
    l->reference[l->n] = -g->reference_logp / n;
    l->kl[l->n] = g->kl / n;
    l->tokens[l->n] = n;
    l->bytes += (double)d->bytes;
    if (e->log) {
        fprintf(e->log, "{\"index\": %lld, \"tokens\": %lld, \"bytes\": %lld", (long long)l->n, (long long)g->tokens,
                (long long)d->bytes);
        json_key(e->log, "loss", l->loss[l->n]);
        if (e->reference) json_key(e->log, "reference_loss", l->reference[l->n]);
        if (e->reference) json_key(e->log, "kl", l->kl[l->n]);
        fprintf(e->log, "}\n");
    }
    l->n++;
}
static int loss_score(eval *e, const text_set *x, loss_result *l) {
    enum { CHUNK = 64 };
    dpo_sequence s[CHUNK];
    dpo_score got[CHUNK];
    int64_t i, k, n;
    for (i = 0; i < x->n_docs && !e->stopped; i += n) {
        char figure[64] = "";
        double error;
        for (n = 0; n < CHUNK && i + n < x->n_docs; n++) {
            s[n].ids = x->ids + x->doc[i + n].first;
            s[n].n = x->doc[i + n].n;
            s[n].context = 1;
        }
        if (score(e, e->m, e->reference, s, n, got, NULL)) return 1;
        for (k = 0; k < n && got[k].tokens; k++) loss_take(e, l, &got[k], &x->doc[i + k]);
        if (l->n) snprintf(figure, sizeof figure, "loss %.4f", token_mean(l->loss, l->tokens, l->n, &error));
        live(e, e->s.mode == MODE_DOC ? "documents" : "windows", l->n, x->n_docs, figure);
    }
    cli_live_end();
    return l->n ? loss_print(e, x, l) : cli_die("stopped before any document was scored");
}
static int run_loss(eval *e) {
    text_set x;
    loss_result l;
    int64_t positions = dpo_model_config_of(e->m)->max_position_embeddings;
    int64_t most = e->s.max_length ? e->s.max_length : positions;
    int failed;
    memset(&x, 0, sizeof x);
    memset(&l, 0, sizeof l);
    failed = text_read(e, &x, most);
    if (!failed) {
        l.loss = (double *)malloc((size_t)x.n_docs * 4 * sizeof *l.loss);
        if (!l.loss) failed = no_memory();
        l.reference = l.loss + x.n_docs;
        l.kl = l.reference + x.n_docs;
        l.tokens = l.kl + x.n_docs;
        e->began = cli_clock();
    }
    failed = failed || loss_score(e, &x, &l);
    free(l.loss);
    free(x.ids);
    free(x.doc);
    return failed;
}

/* ---- contexts and continuations as ids -------------------------------------------------------------------------- */

typedef struct request {
    size_t at, context, whole; /* its text: where it begins; bytes of the context, and of all */
    int64_t first, n, given;   /* its ids: where they begin; how many, 0: the continuation does not fit; given ones */
    int64_t sequence;          /* -1: the continuation has no ids of its own */
} request;

typedef struct requests {
    char *text;
    request *r;
    int32_t *ids;
    dpo_sequence *s;
    dpo_score *score; /* of s */
    int64_t used, room, n, r_cap, n_ids, ids_cap, n_sequences, s_cap, score_cap;
    int64_t cut, too_long, without; /* contexts cut; continuations too long for the model; without ids */
} requests;

static void requests_free(requests *q) {
    free(q->text);
    free(q->r);
    free(q->ids);
    free(q->s);
    free(q->score);
}
static int requests_text(requests *q, const char *text, size_t n) {
    if (grow((void **)&q->text, &q->room, q->used + (int64_t)n + 1, 1)) return 1;
    memcpy(q->text + q->used, text, n);
    q->used += (int64_t)n;
    return 0;
}
/* A request of context (in two parts) and continuation. */
static int requests_add(requests *q, task_field before, task_field context, task_field continuation) {
    request *r;
    size_t at = (size_t)q->used;
    if (grow((void **)&q->r, &q->r_cap, q->n + 1, sizeof *q->r) || requests_text(q, before.s, before.n) ||
        requests_text(q, context.s, context.n) || requests_text(q, continuation.s, continuation.n))
        return 1;
    r = &q->r[q->n++];
    memset(r, 0, sizeof *r);
    r->at = at;
    r->context = before.n + context.n;
    r->whole = (size_t)q->used - at;
    return 0;
}
/* The ids of request r: given ones, then others. Cut from the left to what the model can read, as the harness does. */
static int requests_take(requests *q, request *r, const int32_t *ids, int64_t n, int64_t given, int64_t positions) {
    int64_t keep = n < positions + 1 ? n : positions + 1, cut = n - keep;
    r->sequence = -1;
    if (n <= given) {
        q->without++;
        r->n = n;
        return 0;
    }
    if (n - given > positions) {
        q->too_long++;
        return 0;
    }
    if (grow((void **)&q->ids, &q->ids_cap, q->n_ids + keep, sizeof *q->ids)) return 1;
    memcpy(q->ids + q->n_ids, ids + cut, (size_t)keep * sizeof *ids);
    q->cut += cut > 0;
    r->first = q->n_ids;
    r->n = keep;
    r->given = given - cut;
    r->sequence = q->n_sequences++;
    q->n_ids += keep;
    return 0;
}
/* Without a context a text is foretold by the id that begins or ends texts. */
static int requests_bare(const eval *e, requests *q, request *r, int64_t positions) {
    int64_t n = dpo_encode(e->t, q->text + r->at, r->whole, NULL, 0);
    int32_t prefix = prefix_id(e), *ids;
    int bad;
    if (n < 0) return fail(e);
    if (prefix < 0)
        return cli_die("a context is empty, and the tokenizer has no id to put before it; name --eos PIECE");
    ids = (int32_t *)malloc((size_t)(n + 1) * sizeof *ids);
    if (!ids) return no_memory();
    dpo_encode(e->t, q->text + r->at, r->whole, ids + 1, n);
    ids[0] = prefix;
    bad = n && ids[1] == prefix ? requests_take(q, r, ids + 1, n, 1, positions)
                                : requests_take(q, r, ids, n + 1, 1, positions);
    free(ids);
    return bad;
}
/* Encodes all: blanks at a context's end belong to its continuation; both are encoded as one text, and the continuation
 * is what follows as many ids as the context alone has. */
static int requests_encode(const eval *e, requests *q) {
    dpo_text *part = (dpo_text *)malloc((size_t)(2 * q->n + 1) * sizeof *part);
    int64_t *of = (int64_t *)malloc((size_t)(q->n + 1) * sizeof *of), *first = NULL, i, n = 0;
    int64_t positions = dpo_model_config_of(e->m)->max_position_embeddings;
    int32_t *ids = NULL;
    int bad = !part || !of ? no_memory() : 0;
    for (i = 0; i < q->n && !bad; i++) {
        request *r = &q->r[i];
        const char *text = q->text + r->at;
        r->context -= task_trailing_space(text, r->context);
        if (!r->context) continue;
        if (i && r->context == r[-1].context && !memcmp(text, q->text + r[-1].at, r->context)) of[i] = of[i - 1];
        else { /* a question's context is encoded once */ of[i] = n;
            part[n].text = text;
            part[n].bytes = r->context;
            part[n++].special = 0;
        }
        part[n].text = text;
        part[n].bytes = r->whole;
        part[n++].special = 0;
        r->first = n - 1; /* until it has ids */
    }
    if (!bad && n) bad = dataset_encode(e->t, part, n, encode_flags(e), &ids, &first);
    for (i = 0; i < q->n && !bad; i++) {
        request *r = &q->r[i];
        int64_t w = r->first;
        if (!r->context) bad = requests_bare(e, q, r, positions);
        else
            bad = requests_take(q, r, ids + first[w], first[w + 1] - first[w], first[of[i] + 1] - first[of[i]],
                                positions);
    }
    free(ids);
    free(first);
    free(part);
    free(of);
    return bad;
}
/* Scores all of them; q->score[r.sequence] afterwards. */
static int requests_score(eval *e, requests *q, dpo_token_score *tokens) {
    int64_t i;
    if (grow((void **)&q->s, &q->s_cap, q->n_sequences + 1, sizeof *q->s) ||
        grow((void **)&q->score, &q->score_cap, q->n_sequences + 1, sizeof *q->score))
        return 1;
    for (i = 0; i < q->n; i++)
        if (q->r[i].sequence >= 0) {
            dpo_sequence *s = &q->s[q->r[i].sequence];
            s->ids = q->ids + q->r[i].first;
            s->n = q->r[i].n;
            s->context = q->r[i].given;
        }
    return score(e, e->m, e->reference, q->s, q->n_sequences, q->score, tokens);
}
static void requests_clear(requests *q) { q->used = q->n = q->n_ids = q->n_sequences = 0; }

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

typedef struct task_asked { /* one of --tasks */
    char name[64], file[2048], labels[2048];
    int kind;
} task_asked;

typedef struct task_sums {      /* of each item scored, in order */
    double *acc, *norm, *extra; /* extra: mass of the true answers; log-prob of the last word */
    int *subject;
    int64_t n;
} task_sums;

static task_field field_of(const task_set *s, task_text t) {
    task_field f;
    f.s = t.bytes ? task_string(s, t) : "";
    f.n = t.bytes;
    return f;
}
static int task_add_item(const task_set *s, const task_item *it, requests *q) {
    int k;
    for (k = 0; k < it->n; k++) {
        const task_request *r = &s->request[it->first + k];
        if (requests_add(q, field_of(s, s->subject[it->subject].before), field_of(s, r->context),
                         field_of(s, r->continuation)))
            return 1;
    }
    return 0;
}
static void task_dump(FILE *f, const char *name, const task_set *s) {
    int64_t i, k;
    for (i = 0; i < s->n_items; i++)
        for (k = 0; k < s->item[i].n; k++) {
            const task_request *r = &s->request[s->item[i].first + k];
            task_field before = field_of(s, s->subject[s->item[i].subject].before), c = field_of(s, r->context);
            char *whole = (char *)malloc(before.n + c.n + 1);
            if (!whole) return;
            memcpy(whole, before.s, before.n);
            memcpy(whole + before.n, c.s, c.n);
            fprintf(f, "{\"task\": \"%s\", \"index\": %lld, \"choice\": %lld, \"gold\": %d, \"context\": ", name,
                    (long long)i, (long long)k, s->item[i].gold);
            cli_json_string(f, whole, before.n + c.n);
            fprintf(f, ", \"continuation\": ");
            cli_json_string(f, task_string(s, r->continuation), r->continuation.bytes);
            fprintf(f, "}\n");
            free(whole);
        }
}

static double request_logp(const requests *q, const request *r) {
    return r->sequence < 0 ? 0.0 : q->score[r->sequence].logp;
}
static void task_log(const eval *e, const char *name, const task_set *s, int64_t i, const requests *q, const request *r,
                     int pick, int pick_norm) {
    const task_item *it = &s->item[i];
    int k;
    if (!e->log) return;
    fprintf(e->log, "{\"task\": \"%s\", \"index\": %lld, \"line\": %lld, \"gold\": %d, \"pick\": %d, \"pick_norm\": %d",
            name, (long long)i, (long long)it->line, it->gold, pick, pick_norm);
    if (s->subject[it->subject].name[0]) json_text(e->log, "subject", s->subject[it->subject].name);
    for (fprintf(e->log, ", \"logps\": ["), k = 0; k < it->n; k++) {
        if (k) fprintf(e->log, ", ");
        cli_json_number(e->log, request_logp(q, r + k));
    }
    for (fprintf(e->log, "], \"tokens\": ["), k = 0; k < it->n; k++)
        fprintf(e->log, "%s%lld", k ? ", " : "", (long long)(r[k].sequence < 0 ? 0 : r[k].n - r[k].given));
    for (fprintf(e->log, "], \"characters\": ["), k = 0; k < it->n; k++)
        fprintf(e->log, "%s%lld", k ? ", " : "", (long long)s->request[it->first + k].characters);
    for (fprintf(e->log, "], \"greedy\": ["), k = 0; k < it->n; k++)
        fprintf(e->log, "%s%s", k ? ", " : "", r[k].sequence < 0 || q->score[r[k].sequence].greedy ? "true" : "false");
    fprintf(e->log, "]}\n");
}
/* What an item's scores mean; 0 when it was not reached, or does not fit into the model. */
static int task_take(const eval *e, const char *name, const task_set *s, int64_t i, const requests *q, const request *r,
                     task_sums *sums) {
    const task_item *it = &s->item[i];
    double best = 0, best_norm = 0, top, mass = 0, all = 0;
    int k, pick = 0, pick_norm = 0;
    for (k = 0; k < it->n; k++)
        if (!r[k].n || (r[k].sequence >= 0 && !q->score[r[k].sequence].tokens)) return 0;
    for (k = 0; k < it->n; k++) {
        double x = request_logp(q, r + k), norm = x / (double)s->request[it->first + k].characters;
        if (!k || x > best) {
            best = x;
            pick = k;
        }
        if (!k || norm > best_norm) {
            best_norm = norm;
            pick_norm = k;
        }
    }
    for (top = best, k = 0; k < it->n; k++) {
        double share = exp(request_logp(q, r + k) - top);
        all += share;
        if (s->request[it->first + k].label) mass += share;
    }
    sums->acc[sums->n] = pick == it->gold;
    sums->norm[sums->n] = pick_norm == it->gold;
    sums->extra[sums->n] = mass / all;
    if (s->kind == TASK_LAMBADA) {
        sums->acc[sums->n] = r->sequence < 0 || q->score[r->sequence].greedy;
        sums->extra[sums->n] = request_logp(q, r);
    }
    sums->subject[sums->n++] = it->subject;
    task_log(e, name, s, i, q, r, pick, pick_norm);
    return 1;
}

static void task_figure(const eval *e, const char *name, double mean, double error) {
    char key[64];
    if (!e->s.json) printf("  %s %.4f +- %.4f", name, mean, error);
    else {
        json_key(stdout, name, mean);
        snprintf(key, sizeof key, "%s_stderr", name);
        json_key(stdout, key, error);
    }
}
/* Items of one subject, or of all (-1). The mean of the subjects' means is the study's figure for MMLU. */
static void task_print(const eval *e, const char *name, const task_set *s, const task_sums *sums, int subject,
                       double macro) {
    double error, mean, *acc = (double *)malloc((size_t)(sums->n + 1) * 3 * sizeof *acc);
    double *norm = acc + sums->n + 1, *extra = norm + sums->n + 1;
    int64_t i, n = 0;
    if (!acc) return;
    for (i = 0; i < sums->n; i++)
        if (subject < 0 || sums->subject[i] == subject) {
            acc[n] = sums->acc[i];
            norm[n] = sums->norm[i];
            extra[n++] = sums->extra[i];
        }
    if (e->s.json) printf("{\"command\": \"tasks\", \"task\": \"%s\"", name);
    else printf("%-16s", subject < 0 ? name : s->subject[subject].name);
    if (e->s.json && subject >= 0) json_text(stdout, "subject", s->subject[subject].name);
    if (e->s.json) json_key(stdout, "n", (double)n);
    else printf(" n %-6s", cli_count((uint64_t)n));
    mean = dpo_mean(extra, n, &error);
    if (s->kind == TASK_TRUTHFULQA_MC2) task_figure(e, "acc", mean, error);
    else {
        if (s->kind == TASK_LAMBADA) task_figure(e, "perplexity", exp(-mean), exp(-mean) * error);
        mean = dpo_mean(acc, n, &error);
        task_figure(e, "acc", mean, error);
    }
    if (task_has_norm(s->kind)) {
        mean = dpo_mean(norm, n, &error);
        task_figure(e, "acc_norm", mean, error);
    }
    if (subject < 0 && s->n_subjects > 2 && e->s.json) json_key(stdout, "acc_macro", macro);
    if (subject < 0 && s->n_subjects > 2 && !e->s.json) printf("  mean of subjects %.4f", macro);
    if (e->s.json) {
        json_key(stdout, "num_fewshot", e->s.num_fewshot);
        json_key(stdout, "bad_rows", (double)s->bad);
        printf(", \"complete\": %s}", e->stopped ? "false" : "true");
    }
    putchar('\n');
    free(acc);
}
static void task_print_all(const eval *e, const char *name, const task_set *s, const task_sums *sums) {
    double macro = 0;
    int i, subjects = 0;
    for (i = 1; i < s->n_subjects; i++) {
        double sum = 0;
        int64_t k, n = 0;
        for (k = 0; k < sums->n; k++)
            if (sums->subject[k] == i) {
                sum += sums->acc[k];
                n++;
            }
        if (!n) continue;
        macro += sum / (double)n;
        subjects++;
        task_print(e, name, s, sums, i, 0);
    }
    task_print(e, name, s, sums, -1, subjects ? macro / subjects : 0);
    fflush(stdout);
}

/* What could not be used, and what looks wrong with the labels. */
static void task_report(const task_asked *a, const task_set *s) {
    int64_t i;
    int k;
    for (k = 0; k < s->reasons; k++)
        cli_note("%s: %s of %s rows not used: %s (first: %s)", a->name, cli_count((uint64_t)s->reason[k].count),
                 cli_count((uint64_t)s->rows), s->reason[k].why, s->reason[k].where);
    for (i = 1; i < s->n_items && s->item[i].gold == s->item[0].gold; i++) {
    }
    if (i >= 8 && i == s->n_items && s->kind != TASK_SCIQ && s->kind != TASK_LAMBADA &&
        s->kind != TASK_TRUTHFULQA_MC1 && s->kind != TASK_TRUTHFULQA_MC2)
        cli_note("warning: %s: the right answer of all %s items is number %d: are these the task's labels?", a->name,
                 cli_count((uint64_t)i), s->item[0].gold + 1);
}
static int task_load(eval *e, task_asked *a, task_set *s) {
    char err[2400];
    *s = task_set_start(dpo_json_create(e->c));
    if (!s->row.json) return fail(e);
    if (task_set_read(s, a->kind, a->file, a->labels[0] ? a->labels : NULL, err, sizeof err)) return cli_die("%s", err);
    if (!a->name[0]) snprintf(a->name, sizeof a->name, "%s", task_name(s->kind));
    task_report(a, s);
    if (e->s.num_fewshot) {
        task_set shots = task_set_start(dpo_json_create(e->c));
        task_asked from = *a;
        int bad = shots.row.json ? 0 : fail(e);
        if (!bad && (s->kind == TASK_TRUTHFULQA_MC1 || s->kind == TASK_TRUTHFULQA_MC2))
            bad = cli_die("%s has its six examples in its prompt; leave --num-fewshot out", a->name);
        if (!bad && !strcmp(e->s.fewshot_file, a->file))
            bad = cli_die("--fewshot-file is the file that is evaluated: its first items would be their own examples");
        if (!bad && task_set_read(&shots, s->kind, e->s.fewshot_file, NULL, err, sizeof err)) bad = cli_die("%s", err);
        snprintf(from.name, sizeof from.name, "few-shot examples");
        if (!bad) task_report(&from, &shots);
        if (!bad && task_set_examples(s, &shots, e->s.num_fewshot, err, sizeof err)) bad = cli_die("%s", err);
        task_set_free(&shots);
        if (bad) return 1;
    }
    if (e->s.limit && s->n_items > e->s.limit) s->n_items = e->s.limit;
    return 0;
}
/* Whole questions, about four batches of them at a time. */
static int task_score(eval *e, const char *name, const task_set *s, task_sums *sums) {
    requests q;
    int64_t i = 0, from, k, at, dropped = 0;
    int failed = 0;
    memset(&q, 0, sizeof q);
    while (i < s->n_items && !failed && !e->stopped) {
        char figure[64] = "";
        requests_clear(&q);
        for (from = i; i < s->n_items && !failed && q.used < 16 * (int64_t)e->s.batch_rows; i++)
            failed = task_add_item(s, &s->item[i], &q);
        failed = failed || requests_encode(e, &q) || requests_score(e, &q, NULL);
        for (k = from, at = 0; k < i && !failed; at += s->item[k++].n)
            dropped += !task_take(e, name, s, k, &q, q.r + at, sums) && !e->stopped;
        if (sums->n) snprintf(figure, sizeof figure, "acc %.3f", dpo_mean(sums->acc, sums->n, NULL));
        live(e, name, sums->n, s->n_items, figure);
    }
    cli_live_end();
    if (q.cut)
        cli_note("%s: %s requests were longer than the model's positions: their beginning is cut", name,
                 cli_count((uint64_t)q.cut));
    if (dropped)
        cli_note("%s: %s items are left out: a continuation is longer than the model's positions", name,
                 cli_count((uint64_t)dropped));
    if (q.without)
        cli_note("%s: %s continuations add no token to their context (log-prob 0)", name,
                 cli_count((uint64_t)q.without));
    requests_free(&q);
    return failed;
}
static int task_run(eval *e, task_asked *a, FILE *dump) {
    task_set s;
    task_sums sums;
    int failed = task_load(e, a, &s);
    memset(&sums, 0, sizeof sums);
    if (!failed && dump) task_dump(dump, a->name, &s);
    if (!failed) {
        sums.acc = (double *)malloc((size_t)s.n_items * 3 * sizeof *sums.acc);
        sums.subject = (int *)malloc((size_t)s.n_items * sizeof *sums.subject);
        if (!sums.acc || !sums.subject) failed = no_memory();
        else {
            sums.norm = sums.acc + s.n_items;
            sums.extra = sums.norm + s.n_items;
        }
    }
    e->began = cli_clock();
    if (!failed && e->m) failed = task_score(e, a->name, &s, &sums);
    if (!failed && e->m && !sums.n)
        failed =
            cli_die(e->stopped ? "%s: stopped before any item was scored" : "%s: no item fits into the model", a->name);
    if (!failed && e->m) task_print_all(e, a->name, &s, &sums);
    free(sums.acc);
    free(sums.subject);
    task_set_free(&s);
    return failed;
}

static int exists(const char *path) {
    struct stat st;
    return !stat(path, &st);
}
/* NAME=FILE:LABELS of --tasks; each of the three may hold what the others do not. */
static int task_parse(task_asked *a, const char *text, size_t n) {
    const char *equal = (const char *)memchr(text, '=', n), *file = equal ? equal + 1 : text;
    size_t left = n - (size_t)(file - text), k;
    memset(a, 0, sizeof *a);
    if (equal) {
        a->kind = task_by_name(text, (size_t)(equal - text));
        if (a->kind < 0)
            return cli_die("--tasks: '%.*s' is no task; dpo-eval --help lists them", (int)(equal - text), text);
        if (a->kind) snprintf(a->name, sizeof a->name, "%s", task_name(a->kind));
    }
    if (!left || left >= sizeof a->file)
        return cli_die("--tasks: expected NAME=FILE, got '%.*s'", (int)(n < 200 ? n : 200), text);
    memcpy(a->file, file, left);
    for (k = left; k > 0 && !exists(a->file); k--) /* a colon may belong to the path */
        if (a->file[k] == ':') {
            a->file[k] = 0;
            snprintf(a->labels, sizeof a->labels, "%s", a->file + k + 1);
            break;
        }
    return 0;
}
static int run_tasks(eval *e) {
    static task_asked asked[MOST_TASKS];
    const char *at = e->s.tasks ? e->s.tasks : "";
    size_t len = 0;
    int n = 0, i, failed = 0;
    FILE *dump = NULL;
    while ((len = cli_next(&at, len, ',')) > 0) {
        if (n == MOST_TASKS) return cli_die("--tasks names more than %d tasks", MOST_TASKS);
        if (task_parse(&asked[n++], at, len)) return 1;
    }
    if (e->s.file) {
        task_asked *a = &asked[n++ % MOST_TASKS];
        int kind = e->s.task ? task_by_name(e->s.task, strlen(e->s.task)) : TASK_AUTO;
        if (kind < 0) return cli_die("--task: '%s' is no task; dpo-eval --help lists them", e->s.task);
        memset(a, 0, sizeof *a);
        a->kind = kind;
        if (kind) snprintf(a->name, sizeof a->name, "%s", task_name(kind));
        snprintf(a->file, sizeof a->file, "%s", e->s.file);
        snprintf(a->labels, sizeof a->labels, "%s", e->s.labels ? e->s.labels : "");
    }
    if (!n || n > MOST_TASKS) return cli_die("tasks needs --tasks NAME=FILE,... or --task NAME --file FILE");
    if ((e->s.num_fewshot != 0) != (e->s.fewshot_file != NULL))
        return cli_die("--num-fewshot and --fewshot-file belong together: how many examples, and whose");
    if (e->s.num_fewshot && n > 1) return cli_die("--fewshot-file holds one task's examples; name one task at a time");
    if (e->s.dump && !(dump = fopen(e->s.dump, "wb")))
        return cli_die("cannot write %s: %s", e->s.dump, strerror(errno));
    for (i = 0; i < n && !failed && !e->stopped; i++) failed = task_run(e, &asked[i], dump);
    if (dump && (fflush(dump) || ferror(dump))) failed = cli_die("cannot write %s", e->s.dump);
    if (dump) fclose(dump);
    return failed;
}

/* ---- logprobs --------------------------------------------------------------------------------------------------- */

/* Ids given as such: [n], all but the first scored, or those behind "context" ones. */
static int line_ids(row_data *r, requests *q, int vocab) {
    const dpo_json *j = r->json;
    int64_t list = row_field(r, "ids"), n = dpo_json_count(j, list), i, v, given = 1;
    int32_t *ids;
    double x;
    request *k;
    if (row_field(r, "context") >= 0 && (!dpo_json_number(j, row_field(r, "context"), &x) || x < 1 || x >= (double)n))
        return row_bad(r, "context is not a number of ids from 1 to %lld", (long long)n - 1);
    if (row_field(r, "context") >= 0) given = (int64_t)x;
    if (dpo_json_type(j, list) != '[' || n < 2) return row_bad(r, "ids is no list of at least two numbers");
    ids = (int32_t *)malloc((size_t)n * sizeof *ids);
    if (!ids || grow((void **)&q->r, &q->r_cap, q->n + 1, sizeof *q->r)) {
        free(ids);
        return row_memory(r);
    }
    for (i = 0, v = dpo_json_first(j, list); i < n; i++, v = dpo_json_next(j, v)) {
        if (!dpo_json_number(j, v, &x) || x < 0 || x >= vocab || x != (double)(int32_t)x) {
            free(ids);
            return row_bad(r, "number %lld of ids is no id below %d", (long long)i + 1, vocab);
        }
        ids[i] = (int32_t)x;
    }
    k = &q->r[q->n++];
    memset(k, 0, sizeof *k);
    i = requests_take(q, k, ids, n, given, INT32_MAX / 8);
    free(ids);
    return i ? row_memory(r) : 0;
}
static int line_text(const eval *e, row_data *r, requests *q) {
    static const task_field none = {"", 0};
    task_field text, prompt = none;
    dpo_text part;
    int64_t n;
    int32_t *ids;
    int bad;
    if (row_field(r, "prompt") >= 0) {
        prompt.s = row_text(r, "prompt", &prompt.n);
        text.s = prompt.s ? row_text(r, "response", &text.n) : NULL;
        if (!text.s) return 1;
        if (requests_add(q, none, prompt, text)) return row_memory(r);
        return requests_encode(e, q) ? 2 : 0;
    }
    text.s = row_text(r, e->s.d.row.text, &text.n);
    if (!text.s) return row_bad(r, "it has no %.40s, no prompt and no ids", e->s.d.row.text);
    part.text = text.s;
    part.bytes = text.n;
    part.special = 0;
    n = dpo_encode_parts(e->t, &part, 1, encode_flags(e), NULL, 0);
    if (n < 2) return row_bad(r, "the text has %lld tokens; expected two at least", (long long)(n < 0 ? 0 : n));
    ids = (int32_t *)malloc((size_t)n * sizeof *ids);
    if (!ids || grow((void **)&q->r, &q->r_cap, q->n + 1, sizeof *q->r)) {
        free(ids);
        return row_memory(r);
    }
    dpo_encode_parts(e->t, &part, 1, encode_flags(e), ids, n);
    memset(&q->r[q->n], 0, sizeof *q->r);
    bad = requests_take(q, &q->r[q->n++], ids, n, 1, INT32_MAX / 8);
    free(ids);
    return bad ? row_memory(r) : 0;
}
static void line_numbers(const char *key, const dpo_token_score *t, int64_t n, int what) {
    int64_t i;
    printf(", \"%s\": [", key);
    for (i = 0; i < n; i++) {
        double x = what == 0   ? t[i].logp
                   : what == 1 ? t[i].reference_logp
                   : what == 2 ? t[i].logp - t[i].reference_logp
                               : t[i].kl;
        if (i) printf(", ");
        cli_json_number(stdout, x);
    }
    putchar(']');
}
static int line_score(eval *e, requests *q, int64_t line) {
    const request *r = q->r;
    int64_t i, n = r->n - r->given;
    dpo_token_score *t;
    if (r->sequence < 0) return cli_die("line %lld: the response adds no token, or more than fit", (long long)line);
    t = (dpo_token_score *)malloc((size_t)n * sizeof *t);
    if (!t) return no_memory();
    if (requests_score(e, q, t)) {
        free(t);
        return 1;
    }
    if (!e->stopped) {
        printf("{\"line\": %lld, \"context\": %lld, \"ids\": [", (long long)line, (long long)r->given);
        for (i = 0; i < r->n; i++) printf("%s%d", i ? ", " : "", (int)q->ids[r->first + i]);
        putchar(']');
        line_numbers("logprobs", t, n, 0);
        json_key(stdout, "sum", q->score->logp);
        if (e->reference) {
            line_numbers("reference_logprobs", t, n, 1);
            line_numbers("log_ratios", t, n, 2);
            line_numbers("kl", t, n, 3);
            json_key(stdout, "reference_sum", q->score->reference_logp);
        }
        printf("}\n");
    }
    free(t);
    return 0;
}
static int run_logprobs(eval *e) {
    char *text, err[1200];
    const char *json;
    size_t size, bytes;
    row_source s;
    row_data r;
    requests q;
    int64_t bad = 0, done = 0, first_bad = 0;
    char why[160] = "";
    int failed = 0, vocab = dpo_model_config_of(e->m)->vocab_size;
    if (gzip_read_file(strcmp(e->s.data, "-") ? e->s.data : "/dev/stdin", (size_t)1 << 34, &text, &size, err,
                       sizeof err))
        return cli_die("%s", err);
    memset(&r, 0, sizeof r);
    memset(&q, 0, sizeof q);
    r.json = dpo_json_create(e->c);
    if (!r.json) failed = fail(e);
    s = row_source_start(text, size);
    while (!failed && !e->stopped && (!e->s.limit || done < e->s.limit) && row_next(&s, &json, &bytes)) {
        int wrong = row_start(&r, json, bytes);
        requests_clear(&q);
        if (!wrong) wrong = row_field(&r, "ids") >= 0 ? line_ids(&r, &q, vocab) : line_text(e, &r, &q);
        if (wrong == 2 || r.no_memory) failed = wrong == 2 ? 1 : no_memory();
        else if (wrong) {
            if (!bad++) {
                first_bad = s.line;
                snprintf(why, sizeof why, "%s", r.why);
            }
        } else failed = line_score(e, &q, s.line);
        done += !wrong && !failed;
    }
    if (!failed && bad)
        cli_note("%s lines are not used: the first (line %lld): %s", cli_count((uint64_t)bad), (long long)first_bad,
                 why);
    if (!failed && !done && !e->stopped) failed = cli_die("%s holds no line that can be scored", e->s.data);
    if (q.cut)
        cli_note("%s texts were longer than the model's positions: their beginning is cut", cli_count((uint64_t)q.cut));
    requests_free(&q);
    row_free(&r);
    free(text);
    return failed;
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int run(eval *e, const char *command) {
    static const char *const names[] = {"rewards", "loss", "tasks", "logprobs"};
    static int (*const runs[])(eval *) = {run_rewards, run_loss, run_tasks, run_logprobs};
    int i, failed;
    for (i = 0; i < 4 && strcmp(command, names[i]); i++) {
    }
    if (i == 4) return cli_die("expected rewards, loss, tasks or logprobs, got '%s'", command);
    if (!e->s.model && !(i == 2 && e->s.dump))
        return cli_die("expected --model DIR, the model to evaluate; dpo-eval --help says more");
    if (i != 2 && !e->s.data) return cli_die("%s needs --data FILE", command);
    if (i == 2 && e->s.data) return cli_die("tasks reads --tasks NAME=FILE,..., not --data");
    failed = open_all(e) || runs[i](e);
    if (e->log && (fflush(e->log) || ferror(e->log))) failed = cli_die("cannot write %s", e->s.log);
    if (e->log) fclose(e->log);
    return failed;
}
int main(int argc, char **argv) {
    static eval e;
    int failed;
    cli_program p = cli_program_make(
        "dpo-eval", "0.1.0", "rewards|loss|tasks|logprobs --model DIR [options]",
        "Measures a model: rewards/accuracies on held-out pairs, the loss on text and how far it has moved from a "
        "reference, multiple-choice tasks from their original files by the rules of EleutherAI's harness, log-probs.");
    p.argument_max = 1;
    e.s.d = dataset_defaults();
    e.s.beta = 0.1;
    e.s.batch_rows = 2048;
    if (settings_parse(&e.s, &p, argc, argv)) return p.exit_code;
    if (!p.argument_count) return cli_die("expected rewards, loss, tasks or logprobs; dpo-eval --help says more");
    cli_catch_signals();
    failed = run(&e, p.argument[0]);
    dpo_close(e.c);
    if (fflush(stdout) || ferror(stdout)) return cli_die("the results could not be written");
    if (!failed && e.stopped) cli_note("stopped: these are the results of what was scored until then");
    return failed ? failed : e.stopped ? 130 : 0;
}
