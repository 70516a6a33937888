/* dpo-tokenize.c: the program build/dpo-tokenize turns text into token ids and back, and data sets into tokenized files
 * with a report of what they hold, on dpo.h.
 *
 *     dpo-tokenize encode --tokenizer pythia-70m < text > ids            one line of ids for the whole input
 *     dpo-tokenize decode --tokenizer pythia-70m < ids > text
 *     dpo-tokenize encode --tokenizer gpt2 --jsonl < rows.jsonl          {"text": ...} to {"ids": [...]}, a line each
 *     dpo-tokenize data --tokenizer pythia-70m --train hh.jsonl.gz --output tokens.safetensors --objective dpo
 *     dpo-tokenize info tokens.safetensors
 *
 * Exit code 0; 1 after one sentence on stderr. */
#include "cli.h" /* first: it asks the system headers for sigaction and friends */
#include "../dpo.h"
#include "dataset.h"

#define VERSION "0.1.0"

typedef struct settings {
    const char *command, *tokenizer, *train, *eval, *output, *eval_output, *report;
    int jsonl, add_special, parse_special, objective, show, quiet;
    dataset_options d;
} settings;

enum { OBJECTIVE_SFT, OBJECTIVE_DPO };

static dpo_context *context; /* one, for all commands; its hooks have no other way to it */
static int is_quiet;
static double began;

static void on_log(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING) cli_note("warning: %s", line);
}

static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}

static int fail(void) { return cli_die("%s", dpo_error(context)); }

static void live(const char *what, uint64_t done, uint64_t bytes) {
    char line[128];
    if (is_quiet || cli_clock() - began < 1) return;
    snprintf(line, sizeof line, "%s: %s lines, %s", what, cli_count(done), cli_bytes(bytes));
    cli_live(line);
}

/* ---- input and output ------------------------------------------------------------------------------------------- */

enum { CHUNK_LINES = 4096, CHUNK_BYTES = 4 << 20 };

/* Lines of standard input, a chunk at a time: as many as there are up to either limit, one at least. Line i is
 * text[i ? end[i - 1] : 0 .. end[i]). */
typedef struct chunk {
    char block[65536];
    size_t at, have; /* of the block */
    char *text;
    size_t size, room, end[CHUNK_LINES];
    int64_t lines, before; /* in this chunk; before it */
    uint64_t total;        /* bytes read */
} chunk;

static int chunk_append(chunk *c, size_t n) {
    if (c->size + n > c->room) {
        size_t room = c->room ? 2 * c->room : (size_t)CHUNK_BYTES + sizeof c->block;
        char *p = (char *)realloc(c->text, room);
        if (!p) return cli_die("no memory for line %lld; break it", (long long)(c->before + c->lines + 1));
        c->text = p;
        c->room = room;
    }
    memcpy(c->text + c->size, c->block + c->at, n);
    c->size += n;
    c->at += n;
    return 0;
}

/* The next lines; c->lines is 0 at the end. 1 after an error. */
static int chunk_next(chunk *c) {
    size_t from = 0;
    c->before += c->lines;
    c->lines = 0;
    c->size = 0;
    while (c->lines < CHUNK_LINES && c->size < CHUNK_BYTES + from) {
        const char *stop;
        if (c->at == c->have) {
            c->at = 0;
            c->have = fread(c->block, 1, sizeof c->block, stdin);
            c->total += c->have;
            if (ferror(stdin)) return cli_die("the input cannot be read: %s", strerror(errno));
        }
        if (!c->have) {
            if (c->size > from) c->end[c->lines++] = c->size;
            return 0;
        }
        stop = (const char *)memchr(c->block + c->at, '\n', c->have - c->at);
        if (chunk_append(c, stop ? (size_t)(stop - c->block) - c->at : c->have - c->at)) return 1;
        if (c->size - from > ROW_LIMIT)
            return cli_die("line %lld is longer than 64 MiB; break it", (long long)(c->before + c->lines + 1));
        if (!stop) continue;
        c->at++;
        c->end[c->lines++] = from = c->size;
        if (c->size >= CHUNK_BYTES) break;
    }
    return 0;
}

/* All of standard input on the heap. */
static int read_input(char **text, size_t *size) {
    unsigned char *bytes;
    int code = gzip_slurp(stdin, (size_t)1 << 31, &bytes, size);
    *text = (char *)bytes;
    if (code == GZIP_E_MEMORY) return cli_die("no memory for the input after %s; split it", cli_bytes(*size));
    if (code) return cli_die("the input cannot be read: %s", strerror(errno));
    return *size > (size_t)1 << 31 ? cli_die("the input is longer than 2 GiB; split it, or use --jsonl") : 0;
}

static int flush_output(void) {
    if (!fflush(stdout) && !ferror(stdout)) return 0;
    return cli_die("the output cannot be written: %s", strerror(errno));
}

/* What was written before Ctrl-C is not all: the exit code says so. */
static int stopped(void) { return cli_stopped() && cli_die("stopped; the output ends early"); }

/* ---- encode ----------------------------------------------------------------------------------------------------- */

static void print_ids(const int32_t *ids, int64_t n, const char *between) {
    char text[16];
    int64_t i;
    for (i = 0; i < n; i++) {
        int k = snprintf(text, sizeof text, "%s%ld", i ? between : "", (long)ids[i]);
        if (k > 0) fwrite(text, 1, (size_t)k, stdout);
    }
}

static unsigned encode_flags(const settings *s) {
    return s->add_special ? (unsigned)DPO_ENCODE_ADD_BOS | (unsigned)DPO_ENCODE_ADD_EOS : 0u;
}

static int is_utf8(const char *text, size_t n) {
    size_t i;
    int len;
    for (i = 0; i < n; i += (size_t)len)
        if ((len = cli_utf8((const unsigned char *)text + i, n - i)) == 0) return 0;
    return 1;
}

/* Texts with bytes that are no UTF-8 lose nothing, but whoever made them should know. */
typedef struct broken_texts {
    int64_t n, first;
} broken_texts;
static void broken_look(broken_texts *b, const dpo_text *text, int64_t line) {
    if (!is_utf8(text->text, text->bytes) && !b->n++) b->first = line;
}
static void broken_note(const broken_texts *b, const char *what) {
    if (b->n)
        cli_note("%s %s bytes that are no UTF-8 (first in line %s); %s", cli_count((uint64_t)b->n),
                 b->n == 1 ? "text holds" : "texts hold", cli_count((uint64_t)b->first), what);
}
static const char bytes_encoded[] = "each is encoded by itself, or as U+FFFD if the tokenizer has no piece for it";

static int encode_plain(const settings *s, const dpo_tokenizer *t) {
    int32_t *ids = NULL;
    int64_t *first = NULL;
    dpo_text text;
    broken_texts broken = {0, 0};
    char *input = NULL;
    int failed;
    memset(&text, 0, sizeof text);
    failed = read_input(&input, &text.bytes);
    text.text = input ? input : "";
    broken_look(&broken, &text, 1);
    text.special = s->parse_special;
    if (!failed) failed = dataset_encode(t, &text, 1, encode_flags(s), &ids, &first);
    if (!failed) {
        print_ids(ids, first[1], " ");
        putchar('\n');
        failed = flush_output();
        broken_note(&broken, bytes_encoded);
    }
    free(ids);
    free(first);
    free(input);
    return failed;
}

/* The texts of a chunk's lines, unescaped over the lines themselves: a string is never longer than its JSON. *n: how many
 * there are before one that is none. */
static int encode_lines(const settings *s, chunk *c, dpo_json *json, dpo_text *texts, int64_t *n_texts) {
    int64_t i;
    for (i = *n_texts = 0; i < c->lines; i++, ++*n_texts) {
        size_t from = i ? c->end[i - 1] : 0, n = c->end[i] - from;
        long long line = (long long)(c->before + i + 1);
        const char *why = "no JSON";
        char *copy;
        int64_t bytes, node;
        if (dpo_json_parse(json, c->text + from, n, &why, NULL)) return cli_die("line %lld: bad JSON: %s", line, why);
        node = dpo_json_find(json, 0, s->d.row.text);
        bytes = dpo_json_string(json, node, NULL, 0);
        if (bytes < 0) return cli_die("line %lld: expected an object with a string \"%s\"", line, s->d.row.text);
        copy = (char *)malloc((size_t)bytes + 1);
        if (!copy) return cli_die("line %lld: no memory for %s bytes", line, cli_count((uint64_t)bytes));
        dpo_json_string(json, node, copy, (size_t)bytes + 1);
        if (bytes) memcpy(c->text + from, copy, (size_t)bytes);
        free(copy);
        texts[i].text = c->text + from;
        texts[i].bytes = (size_t)bytes;
        texts[i].special = s->parse_special;
    }
    return 0;
}

static int encode_jsonl(const settings *s, const dpo_tokenizer *t) {
    chunk *c = (chunk *)calloc(1, sizeof *c);
    dpo_text *texts = (dpo_text *)calloc(CHUNK_LINES, sizeof *texts);
    dpo_json *json = dpo_json_create(context);
    broken_texts broken = {0, 0};
    int failed = !c || !texts || !json ? cli_die("no memory to begin with") : 0;
    while (!failed && !cli_stopped()) {
        int32_t *ids = NULL;
        int64_t *first = NULL, i, n = 0;
        failed = chunk_next(c);
        if (failed || !c->lines) break;
        failed = encode_lines(s, c, json, texts, &n); /* what stands before a bad line is encoded yet */
        if (dataset_encode(t, texts, n, encode_flags(s), &ids, &first)) {
            failed = 1;
            n = 0;
        }
        for (i = 0; i < n; i++) {
            broken_look(&broken, &texts[i], c->before + i + 1);
            fputs("{\"ids\": [", stdout);
            print_ids(ids + first[i], first[i + 1] - first[i], ", ");
            fputs("]}\n", stdout);
        }
        free(ids);
        free(first);
        if (!failed) live("encoding", (uint64_t)(c->before + c->lines), c->total);
    }
    cli_live_clear();
    if (!failed) broken_note(&broken, bytes_encoded);
    dpo_json_free(json);
    if (c) free(c->text);
    free(c);
    free(texts);
    return flush_output() || failed || stopped();
}

/* ---- decode ----------------------------------------------------------------------------------------------------- */

typedef struct id_list {
    int32_t *id;
    int64_t n, cap;
} id_list;

static int id_add(id_list *l, int64_t id, const dpo_tokenizer *t, const char *unit, long long where) {
    if (id < 0 || id >= dpo_tokenizer_vocab(t))
        return cli_die("%s %lld: %lld is no id of this tokenizer, expected 0 to %d", unit, where, (long long)id,
                       dpo_tokenizer_vocab(t) - 1);
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 4096;
        int32_t *p = (int32_t *)realloc(l->id, (size_t)cap * sizeof *p);
        if (!p) return cli_die("no memory for %s ids", cli_count((uint64_t)cap));
        l->id = p;
        l->cap = cap;
    }
    l->id[l->n++] = (int32_t)id;
    return 0;
}

/* The text of the ids, on the heap. Special ids are left out, or with --parse-special written as they are spelled (but
 * for those that --add-special put around the text). */
static char *decode_ids(const settings *s, const dpo_tokenizer *t, const int32_t *ids, int64_t n, size_t *size) {
    char *text = NULL;
    int64_t from = 0, to, bytes = 0, pass;
    if (s->parse_special && s->add_special) {
        if (n && ids[0] == dpo_tokenizer_bos(t)) from++;
        if (n > from && ids[n - 1] == dpo_tokenizer_eos(t)) n--;
    }
    for (pass = 0; pass < 2; pass++) {
        int64_t at = 0, i;
        for (i = from; i < n; i = to) {
            size_t piece_bytes = 0;
            int special = 0;
            const char *piece = NULL;
            for (to = i; to < n; to++) {
                piece = s->parse_special ? dpo_tokenizer_piece(t, ids[to], &piece_bytes, &special) : NULL;
                if (special) break;
            }
            if (to > i) at += dpo_decode(t, ids + i, to - i, text ? text + at : NULL, text ? (size_t)(bytes - at) : 0);
            if (to == n || !special) continue;
            if (text && piece_bytes) memcpy(text + at, piece, piece_bytes);
            at += (int64_t)piece_bytes;
            to++;
        }
        if (pass) break;
        bytes = at;
        text = (char *)malloc((size_t)bytes + 1);
        if (!text) break;
    }
    *size = (size_t)bytes;
    return text;
}

/* Numbers separated by blanks, nothing else. */
static int decode_plain(const settings *s, const dpo_tokenizer *t) {
    char *input = NULL, *text;
    size_t size = 0, i = 0, bytes;
    id_list l = {NULL, 0, 0};
    int failed = read_input(&input, &size);
    while (!failed && i < size) {
        int64_t id = 0;
        size_t from;
        while (i < size && row_blank(input[i])) i++;
        if (i == size) break;
        for (from = i; i < size && input[i] >= '0' && input[i] <= '9'; i++)
            if (id < INT32_MAX) id = 10 * id + (input[i] - '0');
        if (i == from || (i < size && !row_blank(input[i])))
            failed = cli_die("word %lld of the input is no id: expected digits and blanks", (long long)l.n + 1);
        else failed = id_add(&l, id, t, "word", (long long)l.n + 1);
    }
    text = failed ? NULL : decode_ids(s, t, l.id, l.n, &bytes);
    if (text) fwrite(text, 1, bytes, stdout);
    else if (!failed) failed = cli_die("no memory for the text");
    free(text);
    free(l.id);
    free(input);
    return flush_output() || failed;
}

static int decode_line(const dpo_tokenizer *t, const dpo_json *json, id_list *l, long long line) {
    int64_t list = dpo_json_find(json, 0, "ids"), n = dpo_json_count(json, list), i, v;
    if (dpo_json_type(json, list) != '[') return cli_die("line %lld: expected an object with a list \"ids\"", line);
    l->n = 0;
    for (i = 0, v = dpo_json_first(json, list); i < n; i++, v = dpo_json_next(json, v)) {
        double x = -1;
        if (!dpo_json_number(json, v, &x) || x != (double)(int64_t)x || x < -1e9 || x > 1e10)
            return cli_die("line %lld: \"ids\" holds something that is no integer", line);
        if (id_add(l, (int64_t)x, t, "line", line)) return 1;
    }
    return 0;
}

static int decode_jsonl(const settings *s, const dpo_tokenizer *t) {
    chunk *c = (chunk *)calloc(1, sizeof *c);
    dpo_json *json = dpo_json_create(context);
    id_list l = {NULL, 0, 0};
    broken_texts broken = {0, 0};
    int64_t i;
    int failed = !c || !json ? cli_die("no memory to begin with") : 0;
    while (!failed && !cli_stopped()) {
        failed = chunk_next(c);
        if (failed || !c->lines) break;
        for (i = 0; !failed && i < c->lines; i++) {
            size_t from = i ? c->end[i - 1] : 0, bytes;
            long long line = (long long)(c->before + i + 1);
            const char *why = "no JSON";
            char *text = NULL;
            dpo_text view;
            if (dpo_json_parse(json, c->text + from, c->end[i] - from, &why, NULL))
                failed = cli_die("line %lld: bad JSON: %s", line, why);
            else failed = decode_line(t, json, &l, line);
            if (!failed && (text = decode_ids(s, t, l.id, l.n, &bytes)) == NULL)
                failed = cli_die("line %lld: no memory for its text", line);
            if (failed) break;
            view.text = text;
            view.bytes = bytes;
            broken_look(&broken, &view, c->before + i + 1);
            fputs("{\"text\": ", stdout);
            cli_json_string(stdout, text, bytes);
            fputs("}\n", stdout);
            free(text);
        }
        if (!failed) live("decoding", (uint64_t)(c->before + c->lines), c->total);
    }
    cli_live_clear();
    broken_note(&broken, "written as U+FFFD");
    dpo_json_free(json);
    if (c) free(c->text);
    free(c);
    free(l.id);
    return flush_output() || failed || stopped();
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* A piece as people can read it: quoted, with escapes. */
static void print_piece(const char *text, size_t n) {
    size_t i;
    int len;
    putchar('"');
    for (i = 0; i < n; i += (size_t)(len ? len : 1)) {
        len = cli_utf8((const unsigned char *)text + i, n - i);
        if (!len || (unsigned char)text[i] < 32 || text[i] == 127)
            printf(text[i] == '\n' ? "\\n" : text[i] == '\t' ? "\\t" : "\\x%02x", (unsigned)(unsigned char)text[i]);
        else if (text[i] == '"' || text[i] == '\\') printf("\\%c", text[i]);
        else printf("%.*s", len, text + i);
    }
    putchar('"');
}

static void print_part(const dpo_tokenizer *t, const char *what, const int32_t *ids, int64_t n, int64_t not_targets) {
    int64_t i;
    if (n) printf("  %s, %s ids\n", what, cli_count((uint64_t)n));
    for (i = 0; i < n; i++) {
        size_t bytes = 0;
        const char *piece = dpo_tokenizer_piece(t, ids[i], &bytes, NULL);
        printf("  %9ld  %s  ", (long)ids[i], i < not_targets ? "      " : "target");
        print_piece(piece ? piece : "", bytes);
        printf("%s\n", ids[i] == dpo_tokenizer_eos(t) ? "  end of text" : "");
    }
}

static void print_examples(const dpo_tokenizer *t, const dpo_data *d, int64_t show) {
    int64_t i;
    for (i = 0; i < show && i < dpo_data_count(d); i++) {
        const int32_t *p, *c, *r;
        int64_t np, nc, nr;
        dpo_data_item(d, i, &p, &np, &c, &nc, &r, &nr);
        printf("example %s\n", cli_count((uint64_t)i + 1));
        print_part(t, "prompt", p, np, np);
        print_part(t, np ? nr ? "chosen" : "response" : "text", c, nc, np ? 0 : 1);
        print_part(t, "rejected", r, nr, 0);
    }
}

/* Writes a set with where it comes from. */
static int save_set(const settings *s, const dataset *d, const dpo_data *set, const dataset_file *f, const char *side,
                    const char *path) {
    dpo_data_report report = dataset_report(d, set);
    char hash[24], bytes[24], dropped[4096] = "";
    const char *metadata[20];
    size_t used = 0;
    int i, n = 0;
    for (i = 0; i < f->reasons && used < sizeof dropped; i++)
        used += (size_t)snprintf(dropped + used, sizeof dropped - used, "%s%lld %s (first in %s %lld)", i ? "; " : "",
                                 (long long)f->reason[i].count, f->reason[i].why, dataset_place(f),
                                 (long long)f->reason[i].first);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)f->hash);
    snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)f->bytes);
    metadata[n++] = "source";
    metadata[n++] = f->path;
    metadata[n++] = "source_hash";
    metadata[n++] = hash;
    metadata[n++] = "source_bytes";
    metadata[n++] = bytes;
    metadata[n++] = "side";
    metadata[n++] = side;
    metadata[n++] = "objective";
    metadata[n++] = s->objective == OBJECTIVE_DPO ? "dpo" : "sft";
    metadata[n++] = "data_format";
    metadata[n++] = dataset_format_name(f->format);
    metadata[n++] = "chat_format";
    metadata[n++] = chat_name(f->chat);
    metadata[n++] = "dropped";
    metadata[n++] = dropped;
    metadata[n++] = "program";
    metadata[n++] = "dpo-tokenize " VERSION;
    metadata[n] = NULL;
    if (tokens_save(context, path, set, d->t, f->rules[0] ? f->rules : "{}", &report, metadata)) return 1;
    if (!s->quiet) printf("wrote %s: %s examples\n", path, cli_count((uint64_t)dpo_data_count(set)));
    return 0;
}

static int write_report(const settings *s, const dataset *d) {
    FILE *f = fopen(s->report, "wb");
    int bad = !f;
    if (f) dataset_json(f, d);
    if (f) bad = fflush(f) || ferror(f);
    if (bad) cli_die("cannot write the report %s: %s", s->report, strerror(errno));
    if (f) fclose(f);
    return bad;
}

static int run_data(const settings *s, const dpo_tokenizer *t) {
    dataset d = dataset_start(context, t, s->objective == OBJECTIVE_SFT);
    int failed;
    if (!s->train) return cli_die("expected --train FILE, the data");
    if (!s->output && !s->show && !s->report) return cli_die("expected --output FILE, --report FILE or --show N");
    if (s->output && (s->eval || s->d.eval_fraction > 0) && !s->eval_output)
        return cli_die("expected --eval-output FILE for the evaluation data too");
    if (s->eval_output && !s->eval && s->d.eval_fraction <= 0)
        return cli_die("--eval-output %s without --eval FILE or --eval-fraction: there is nothing to write",
                       s->eval_output);
    d.o = s->d;
    d.quiet = s->quiet;
    d.model_chat = chat_format_of_model(context, s->tokenizer);
    if (s->eval) d.o.eval_fraction = 0;
    failed = dataset_read(&d, s->train, 0) || (s->eval && !cli_stopped() && dataset_read(&d, s->eval, 1));
    if (!failed && cli_stopped()) failed = cli_die("stopped while reading the data; nothing was written");
    if (!failed && !s->quiet) dataset_print(&d);
    if (!failed && s->report) failed = write_report(s, &d);
    if (!failed && s->output) failed = save_set(s, &d, d.train, &d.file[0], "training", s->output);
    if (!failed && s->eval_output) {
        const dataset_file *f = &d.file[d.held_out ? 0 : 1];
        if (!d.eval) failed = cli_die("too few rows to hold any out for %s; give --eval FILE", s->eval_output);
        else failed = save_set(s, &d, d.eval, f, d.held_out ? "held out" : "evaluation", s->eval_output);
    }
    if (!failed) print_examples(t, d.train, s->show);
    dataset_free(&d);
    return failed ? 1 : flush_output();
}

static int run_info(const char *path) {
    static const char *const keys[] = {"source",         "source_bytes", "source_hash", "side",
                                       "data_format",    "objective",    "chat_format", "tokenizer",
                                       "tokenizer_hash", "rules",        "dropped",     "program"};
    dpo_data *d;
    tokens_file f;
    int64_t k;
    size_t i;
    if (tokens_open(&f, context, path, NULL)) return 1;
    d = tokens_set(&f, context, NULL);
    for (k = 0; k < f.n && !dpo_status(context); k++) tokens_add(&f, k, d);
    if (dpo_status(context)) return fail();
    printf("%s: %s rows, %s kept; hash of the ids %016llx\n", path, cli_count((uint64_t)f.report.rows),
           cli_count((uint64_t)f.report.kept), (unsigned long long)dpo_data_hash(d));
    dataset_print_set("tokens", d, f.report);
    for (i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = tokens_metadata(&f, keys[i]);
        if (value && *value) printf("  %-15s %s\n", keys[i], value);
    }
    tokens_close(&f);
    dpo_data_free(d);
    return flush_output();
}

/* ---- the command ------------------------------------------------------------------------------------------------ */

static int read_command(settings *s, cli_program *p, int argc, char **argv) {
    cli_option options[] = {
        CLI_HEADING("All commands"),
        CLI_STRING("tokenizer", &s->tokenizer, "PATH", "model tokenizer_name model_name_or_path",
                   "a directory, a tokenizer.json, or bytes"),
        CLI_FLAG("quiet", &s->quiet, "", "no live line, no report"),
        CLI_HEADING("encode, decode: standard input to standard output"),
        CLI_FLAG("jsonl", &s->jsonl, "",
                 "lines of {\"text\": ...} to {\"ids\": [...]} and back; without it the whole input is one text, and "
                 "ids are numbers with blanks between"),
        CLI_FLAG("add-special", &s->add_special, "",
                 "encode: the id that begins a text first, the one that ends it last (decode leaves them out)"),
        CLI_FLAG("parse-special", &s->parse_special, "",
                 "special tokens written in a text are taken for what they mean; decode writes them"),
        CLI_HEADING("data"),
        CLI_STRING("train", &s->train, "FILE", "train_file dataset_name", "data, plain or .gz"),
        CLI_STRING("eval", &s->eval, "FILE", "eval_file", "evaluation data"),
        CLI_DOUBLE("eval-fraction", &s->d.eval_fraction, 0, 0.9, "",
                   "without --eval: the part held out for --eval-output, by a hash of the prompt, as dpo-train does"),
        CLI_STRING("output", &s->output, "FILE", "", "the tokenized training data, one safetensors file"),
        CLI_STRING("eval-output", &s->eval_output, "FILE", "", "the same for evaluation"),
        CLI_WORD("objective", &s->objective, "sft|dpo", "", "what the rows are read for"),
        CLI_STRING("report", &s->report, "FILE", "", "the data report as JSON"),
        CLI_INT("show", &s->show, 0, 1000000000, "", "print so many examples id by id, and which are targets"),
        DATASET_OPTIONS(&s->d),
    };
    return cli_parse(p, options, CLI_COUNT(options), argc, argv);
}

static int check_command(const settings *s, const cli_program *p) {
    static const char *const commands[] = {"encode", "decode", "data", "info"};
    size_t i;
    for (i = 0; i < 4 && (!s->command || strcmp(s->command, commands[i])); i++) {
    }
    if (i == 4 && s->command) return cli_die("expected encode, decode, data or info, got '%s'", s->command);
    if (i == 4) return cli_die("expected encode, decode, data or info; usage: dpo-tokenize %s", p->usage);
    if (i == 3 && p->argument_count < 2) return cli_die("expected info FILE.safetensors");
    if (i != 3 && p->argument_count > 1) return cli_die("%s takes no argument, got '%s'", s->command, p->argument[1]);
    if (i != 3 && !s->tokenizer) return cli_die("expected --tokenizer PATH: a directory, a tokenizer.json, or bytes");
    return 0;
}

static int run_tokenizer(const settings *s) {
    dpo_tokenizer *t = dataset_tokenizer(context, s->tokenizer, s->d.eos);
    if (!t) return 1;
    if (!strcmp(s->command, "data")) return run_data(s, t);
    if (!strcmp(s->command, "encode")) return s->jsonl ? encode_jsonl(s, t) : encode_plain(s, t);
    return s->jsonl ? decode_jsonl(s, t) : decode_plain(s, t);
}

int main(int argc, char **argv) {
    cli_program p = cli_program_make(
        "dpo-tokenize", VERSION, "encode|decode|data|info FILE [options]",
        "Text to token ids and back (encode, decode), data sets to tokenized files with a report of what they hold "
        "(data), and what such a file says of itself (info).");
    static settings s; /* its options point into it */
    dpo_desc desc;
    int code;
    memset(&s, 0, sizeof s);
    s.d = dataset_defaults();
    p.argument_max = 2;
    if (read_command(&s, &p, argc, argv)) return p.exit_code;
    s.command = p.argument_count ? p.argument[0] : NULL;
    if (check_command(&s, &p)) return 1;
    is_quiet = s.quiet;
    began = cli_clock();
    cli_catch_signals();
    memset(&desc, 0, sizeof desc);
    desc.n_threads = 1;
    desc.log = on_log;
    desc.cancel = on_cancel;
    context = dpo_open(&desc);
    if (!context) return cli_die("%s", dpo_error(NULL));
    code = strcmp(s.command, "info") ? run_tokenizer(&s) : run_info(p.argument[1]);
    dpo_close(context);
    return code;
}
