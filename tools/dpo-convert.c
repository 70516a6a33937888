/* dpo-convert.c: the program build/dpo-convert takes a checkpoint as it lies on the Hub and writes it as others want it.
 *
 *     dpo-convert --info IN                      what it holds
 *     dpo-convert IN OUT                         a Hugging Face directory with safetensors
 *     dpo-convert IN OUT --merge ADAPTER         the same with a PEFT adapter folded in
 *     dpo-convert IN OUT.gguf                    one file for llama.cpp and Ollama
 *     dpo-convert IN OUT.safetensors             the tensors alone, under the names they have
 *
 * It reads top to bottom: settings, what becomes of each tensor, the files of a directory, merging, GGUF, --info. A
 * tensor is in memory at a time (a merge needs the merged model). Everything is written beside OUT first and takes its
 * name at the end: OUT is there whole, or not at all. */
#include "cli.h" /* first: it asks the system headers for sigaction and friends */
#include "../dpo.h"
#include "files.h"
#include "formats/source.h"
#include "formats/gguf.h"
#include <math.h>

/* ---- settings --------------------------------------------------------------------------------------------------- */

enum { AS_STORED = 0 }; /* then DPO_F32, DPO_BF16, DPO_F16, in the order of --dtype's words */

typedef struct settings {
    const char *in, *out, *merge, *config, *tokenizer;
    int dtype, info, verify, map, threads, fold_rslora, quiet;
    uint64_t shard_size;
} settings;

typedef struct convert {
    settings s;
    dpo_context *c;
    char stage[2][4096]; /* directories beside OUT that are made on the way */
    int is_adapter;
    double began; /* a live line stands where it takes longer than a second */
} convert;

static int run_fail(const convert *u) { return cli_die("%s", dpo_error(u->c)); }

static int settings_parse(settings *s, cli_program *p, int argc, char **argv) {
    cli_option options[] = {
        CLI_STRING("merge", &s->merge, "DIR", "adapter", "fold this PEFT adapter into the weights, in fp32"),
        CLI_WORD("dtype", &s->dtype, "stored|f32|bf16|f16", "outtype torch_dtype",
                 "of what is written, rounded to nearest even; stored: as it was (a model's F64 becomes F32)"),
        CLI_BYTES("shard-size", &s->shard_size, "max_shard_size", "most bytes in one file of a directory; 0: one file"),
        CLI_STRING("config", &s->config, "JSON", "", "config.json of weights that lie in a file alone"),
        CLI_STRING("tokenizer", &s->tokenizer, "PATH", "tokenizer_name",
                   "a directory with tokenizer files, or llama2.c's tok*.bin; without it those beside IN"),
        CLI_FLAG("fold-rslora", &s->fold_rslora, "",
                 "of an adapter: write rsLoRA's scale as a plain lora_alpha, for readers that do not know use_rslora"),
        CLI_FLAG("info", &s->info, "", "print what IN holds, and write nothing"),
        CLI_FLAG("verify", &s->verify, "", "first compare the checksums in IN's safetensors files"),
        CLI_FLAG("mmap", &s->map, "", "map files; --no-mmap reads them, should they change while they are used"),
        CLI_INT("threads", &s->threads, 0, 1024, "", "0: one per core"),
        CLI_FLAG("quiet", &s->quiet, "", "print errors only"),
    };
    if (cli_parse(p, options, CLI_COUNT(options), argc, argv)) return 1;
    s->in = p->argument_count > 0 ? p->argument[0] : NULL;
    s->out = p->argument_count > 1 ? p->argument[1] : NULL;
    return 0;
}

/* ---- what becomes of each tensor -------------------------------------------------------------------------------- */

typedef struct fate {
    const char *name; /* in what is written; NULL: it is left out */
    const char *why;  /* then: the reason */
    int dtype;        /* in what is written */
    char room[160];   /* for a new name */
} fate;

typedef struct plan {
    source src;
    fate *fates;
    dpo_model_config config;
    int has_config;
    int64_t kept, values;
    uint64_t bytes;
    int64_t overflowed, wild;       /* numbers that became infinite; that are NaN or infinite already */
    int64_t overflowed_in, wild_in; /* the first tensors that hold such */
    void *converted;                /* of the tensor written last */
    size_t room;
    convert *u;
    int64_t *order;                  /* source tensors of the file being written */
    int64_t written, asked, in_file; /* tensors written; asked for, and all that hold something, of the file at hand */
    char err[1024];
} plan;

static int is_float(int dtype) { return dtype == DPO_F64 || (dtype >= DPO_F32 && dtype <= DPO_F16); }

static int64_t elements_of(const dpo_tensor *t) {
    int64_t n = 1;
    int k;
    for (k = 0; k < t->ndim; k++) n *= t->shape[k];
    return n;
}

static const char *without_prefix(const char *name) {
    static const char *const wrappers[] = {"module.", "_orig_mod.", "model.gpt_neox.", "model.transformer."};
    size_t i, n;
    for (i = 0; i < sizeof wrappers / sizeof *wrappers; i++) {
        n = strlen(wrappers[i]);
        if (!strncmp(name, wrappers[i], n)) return name + (i < 2 ? n : 6); /* the last two lose "model." */
    }
    return name;
}

static const dpo_tensor *expected_named(const dpo_tensor *expected, int64_t n, const char *name) {
    int64_t i;
    for (i = 0; i < n; i++)
        if (!strcmp(expected[i].name, name)) return &expected[i];
    return NULL;
}

/* Why a name that no model has stands in so many files. */
static const char *known_buffer(const char *name) {
    static const char *const ends[] = {".attention.bias",   ".attention.masked_bias", ".attn.bias",
                                       ".attn.masked_bias", ".rotary_emb.inv_freq",   ".position_ids"};
    size_t i;
    for (i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_in(name, ends[i])) return "a buffer that the model computes itself";
    return NULL;
}

/* The name that a model of this configuration has for it: its own, without a wrapper's prefix, with the family's. */
static const dpo_tensor *fate_find(const dpo_tensor *expected, int64_t n, const char *name, fate *f) {
    static const char *const prefixes[] = {"", "transformer.", "gpt_neox.", "model."};
    const char *plain = without_prefix(name);
    const dpo_tensor *t;
    size_t i;
    for (i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if ((size_t)snprintf(f->room, sizeof f->room, "%s%s", prefixes[i], plain) >= sizeof f->room) continue;
        t = expected_named(expected, n, f->room);
        if (!t && ends_in(f->room, "transformer.relative_pe.slopes")) f->name = f->room; /* BTLM's, in its own files */
        if (t || f->name) {
            f->name = f->room;
            return t;
        }
    }
    return NULL;
}

/* A tied model's second copy of its embedding must be one. */
static int check_tied(plan *p, int64_t head) {
    const dpo_tensor *h = &p->src.tensor[head];
    int64_t at;
    size_t bytes = source_bytes(h);
    const void *x;
    void *copy;
    int same;
    for (at = 0; at < p->src.count; at++)
        if (p->fates[at].name &&
            (ends_in(p->fates[at].name, "wte.weight") || ends_in(p->fates[at].name, "embed_tokens.weight") ||
             ends_in(p->fates[at].name, "embed_in.weight")))
            break;
    if (at == p->src.count) return 0; /* said as missing */
    if (source_bytes(&p->src.tensor[at]) != bytes || p->src.tensor[at].dtype != h->dtype)
        return cli_die("%s: config.json ties the output head to the embedding, but %s and %s differ in shape or type",
                       p->u->s.in, h->name, p->src.tensor[at].name);
    copy = malloc(bytes + 1);
    x = copy ? source_read(&p->src, at, p->err, sizeof p->err) : NULL;
    if (x) memcpy(copy, x, bytes);
    if (x) x = source_read(&p->src, head, p->err, sizeof p->err);
    same = x && !memcmp(copy, x, bytes);
    if (!x && !copy) snprintf(p->err, sizeof p->err, "no memory to compare the output head with the embedding");
    free(copy);
    if (!x) return cli_die("%s", p->err);
    if (same) return 0;
    return cli_die("%s: config.json ties the output head to the embedding, but %s is another matrix than %s; set "
                   "tie_word_embeddings to false in config.json",
                   p->u->s.in, h->name, p->src.tensor[at].name);
}

static int check_shape(const plan *p, const dpo_tensor *t, const dpo_tensor *want) {
    int k, same = t->ndim == want->ndim;
    for (k = 0; k < t->ndim && same; k++) same = t->shape[k] == want->shape[k];
    if (same && is_float(t->dtype)) return 0;
    if (same)
        return cli_die("%s: %s is %s, a model's weights are floating-point numbers", p->u->s.in, t->name,
                       t->dtype ? dpo_dtype_name(t->dtype) : "an unknown type");
    return cli_die("%s: %s has %d dimensions that begin %lld x %lld, config.json asks for %lld x %lld; is it this "
                   "model's config.json?",
                   p->u->s.in, t->name, t->ndim, (long long)t->shape[0], (long long)t->shape[1],
                   (long long)want->shape[0], (long long)want->shape[1]);
}

/* Everything of the source against what the configuration asks for. */
static int plan_model(plan *p) {
    dpo_tensor *expected;
    int64_t n, i, head = -1;
    char *seen;
    int bad = 0;
    if (dpo_model_tensors_of(p->u->c, &p->config, &expected, &n)) return run_fail(p->u);
    seen = (char *)calloc((size_t)n + 1, 1);
    if (!seen) bad = cli_die("no memory for the list of tensors");
    for (i = 0; i < p->src.count && !bad; i++) {
        const dpo_tensor *t = &p->src.tensor[i], *want;
        fate *f = &p->fates[i];
        want = fate_find(expected, n, t->name, f);
        if (want && seen[want - expected]++) bad = cli_die("%s: two tensors would be named %s", p->u->s.in, want->name);
        if (!bad && want) bad = check_shape(p, t, want);
        if (f->name) continue;
        f->why = known_buffer(t->name);
        if (!f->why && p->config.tie_word_embeddings &&
            (ends_in(t->name, "lm_head.weight") || ends_in(t->name, "embed_out.weight"))) {
            f->why = "a copy of the embedding";
            head = i;
        }
        if (!f->why) f->why = "not used by this model";
    }
    for (i = 0; i < n && !bad; i++)
        if (!seen[i]) bad = cli_die("%s: tensor %s is missing; config.json asks for it", p->u->s.in, expected[i].name);
    if (!bad && head >= 0 && !p->u->s.info) bad = check_tied(p, head);
    free(seen);
    dpo_tensors_free(p->u->c, expected);
    return bad;
}

/* What is written of it, and in which type. */
static void plan_types(plan *p, int dtype) {
    int64_t i;
    p->kept = p->values = 0;
    p->bytes = 0;
    for (i = 0; i < p->src.count; i++) {
        const dpo_tensor *t = &p->src.tensor[i];
        fate *f = &p->fates[i];
        f->dtype = t->dtype;
        if (is_float(t->dtype) && dtype != AS_STORED) f->dtype = dtype;
        else if (t->dtype == DPO_F64 && p->has_config) f->dtype = DPO_F32;
        if (!f->name) continue;
        p->kept++;
        p->values += elements_of(t);
        p->bytes += (uint64_t)elements_of(t) * dpo_dtype_size(f->dtype);
    }
}

static void plan_close(plan *p) {
    source_close(&p->src);
    free(p->fates);
    free(p->converted);
    memset(p, 0, sizeof *p);
}

/* 0, or 1 when an error was said and nothing stays open. */
static int plan_open(plan *p, convert *u, const char *in) {
    int bad = 0;
    memset(p, 0, sizeof *p);
    p->u = u;
    if (source_open(&p->src, u->c, in, p->err, sizeof p->err)) return cli_die("%s", p->err);
    p->fates = (fate *)calloc((size_t)p->src.count + 1, sizeof *p->fates);
    if (!p->fates) bad = cli_die("no memory for a list of %s tensors", cli_count((uint64_t)p->src.count));
    else if (u->s.verify && source_verify(&p->src, p->err, sizeof p->err)) bad = cli_die("%s", p->err);
    if (bad) plan_close(p);
    return bad;
}
static void plan_keep_all(plan *p) {
    int64_t i;
    for (i = 0; i < p->src.count; i++) p->fates[i].name = p->src.tensor[i].name;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void show_progress(plan *p, const char *name) {
    char line[256];
    if (p->u->s.quiet || cli_clock() - p->u->began < 1) return;
    snprintf(line, sizeof line, "%s of %s tensors, %.120s", cli_count((uint64_t)p->written),
             cli_count((uint64_t)p->kept), name);
    cli_live(line);
}

/* How many of the numbers are NaN or infinite. */
static int64_t count_wild(const void *x, int dtype, int64_t n) {
    int64_t i, count = 0;
    if (dtype == DPO_F32)
        for (i = 0; i < n; i++) count += (((const uint32_t *)x)[i] & 0x7f800000u) == 0x7f800000u;
    else if (dtype == DPO_F64)
        for (i = 0; i < n; i++) count += (((const uint64_t *)x)[i] >> 52 & 0x7ff) == 0x7ff;
    else if (dtype == DPO_BF16)
        for (i = 0; i < n; i++) count += (((const uint16_t *)x)[i] & 0x7f80u) == 0x7f80u;
    else if (dtype == DPO_F16)
        for (i = 0; i < n; i++) count += (((const uint16_t *)x)[i] & 0x7c00u) == 0x7c00u;
    return count;
}

/* Infinite weights are of no use to anybody: such a file is not written. */
static int refuse_overflow(plan *p) {
    const fate *f = &p->fates[p->overflowed_in];
    if (!p->overflowed) return 0;
    snprintf(p->err, sizeof p->err,
             "%s: %s numbers are too large for %s, the first of them in %.300s; nothing was written%s", p->u->s.in,
             cli_count((uint64_t)p->overflowed), dpo_dtype_name(f->dtype), p->src.tensor[p->overflowed_in].name,
             f->dtype == DPO_F16 ? ": --dtype bf16 has fp32's range" : "");
    return 1;
}

/* Elements of the k-th tensor of the file at hand, as they are to be written. Each is asked for twice, first all for
 * their checksums, which is when they are looked at. */
static const void *plan_fetch(void *user, int64_t k) {
    plan *p = (plan *)user;
    int64_t i = p->order[k], n = elements_of(&p->src.tensor[i]), over;
    const dpo_tensor *t = &p->src.tensor[i];
    size_t bytes = (size_t)n * dpo_dtype_size(p->fates[i].dtype);
    int first = p->asked++ < p->in_file;
    const void *x;
    if (!first && refuse_overflow(p)) return NULL;
    p->written += !first;
    show_progress(p, t->name);
    if (cli_stopped()) {
        snprintf(p->err, sizeof p->err, "stopped; nothing was written");
        return NULL;
    }
    x = source_read(&p->src, i, p->err, sizeof p->err);
    if (x && first && (over = count_wild(x, t->dtype, n)) > 0) {
        if (!p->wild) p->wild_in = i;
        p->wild += over;
    }
    if (!x || p->fates[i].dtype == t->dtype) return x;
    if (bytes > p->room || !p->converted) {
        free(p->converted);
        p->converted = malloc(bytes + 1);
        p->room = p->converted ? bytes : 0;
        if (!p->converted) {
            snprintf(p->err, sizeof p->err, "no memory to convert tensor %.300s", t->name);
            return NULL;
        }
    }
    over = dpo_tensor_convert(p->u->c, p->converted, p->fates[i].dtype, x, t->dtype, n);
    if (over > 0 && first) {
        if (!p->overflowed) p->overflowed_in = i;
        p->overflowed += over;
    }
    return p->converted;
}

/* Some of the source's tensors as one safetensors file. */
static int write_tensors(plan *p, const char *path, int64_t *order, int64_t n) {
    static const char *const pt[] = {"format", "pt", NULL};
    dpo_tensor *t = (dpo_tensor *)calloc((size_t)n + 1, sizeof *t);
    int64_t i;
    dpo_result r;
    if (!t) return cli_die("no memory for a list of tensors");
    p->asked = p->in_file = 0;
    for (i = 0; i < n; i++) {
        t[i] = p->src.tensor[order[i]];
        t[i].name = p->fates[order[i]].name;
        t[i].dtype = p->fates[order[i]].dtype;
        p->in_file += elements_of(&t[i]) > 0;
    }
    p->order = order;
    p->err[0] = 0;
    r = dpo_tensors_save_from(p->u->c, path, t, n, pt, plan_fetch, p);
    free(t);
    cli_live_clear();
    if (r && p->err[0]) return cli_die("%s", p->err);
    return r ? run_fail(p->u) : 0;
}

/* Tensors from `first` on that fit into one file; at least one. */
static int64_t shard_end(const plan *p, const int64_t *order, int64_t first, int64_t n) {
    uint64_t bytes = 0, limit = p->u->s.shard_size;
    int64_t i;
    for (i = first; i < n; i++) {
        bytes += (uint64_t)elements_of(&p->src.tensor[order[i]]) * dpo_dtype_size(p->fates[order[i]].dtype);
        if (limit && bytes > limit && i > first) break;
    }
    return i;
}

static int write_index(const plan *p, const char *dir, const int64_t *order, int64_t n, int shards) {
    char path[4096];
    FILE *f;
    int64_t i, end;
    int shard;
    int bad;
    if (path_join(path, sizeof path, dir, "model.safetensors.index.json")) return 1;
    errno = 0;
    f = fopen(path, "wb");
    if (!f) return cli_die("cannot write %s: %s", path, strerror(errno));
    fprintf(f, "{\"metadata\": {\"total_size\": %llu}, \"weight_map\": {", (unsigned long long)p->bytes);
    for (i = 0, shard = 1; i < n; shard++)
        for (end = shard_end(p, order, i, n); i < end; i++) {
            const char *name = p->fates[order[i]].name;
            fputs(i ? ",\n" : "\n", f);
            cli_json_string(f, name, strlen(name));
            fprintf(f, ": \"model-%05d-of-%05d.safetensors\"", shard, shards);
        }
    fputs("\n}}\n", f);
    bad = ferror(f) || fflush(f) || fsync(fileno(f));
    if (fclose(f) || bad) return cli_die("cannot write %s: %s", path, strerror(errno));
    return 0;
}

/* model.safetensors, or as many shards as --shard-size makes. */
static int write_weights(plan *p, const char *dir) {
    int64_t *order = (int64_t *)malloc((size_t)(p->src.count + 1) * sizeof *order), n = 0, i;
    char path[4096], name[64];
    int shards = 0, shard, bad = 0;
    if (!order) return cli_die("no memory for a list of tensors");
    for (i = 0; i < p->src.count; i++)
        if (p->fates[i].name) order[n++] = i;
    for (i = 0; i < n; i = shard_end(p, order, i, n)) shards++;
    if (shards > 99999) bad = cli_die("--shard-size %s would make %d files", cli_bytes(p->u->s.shard_size), shards);
    for (i = 0, shard = 1; i < n && !bad; shard++) {
        int64_t end = shard_end(p, order, i, n);
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard, shards);
        bad = path_join(path, sizeof path, dir, shards == 1 ? "model.safetensors" : name) ||
              write_tensors(p, path, order + i, end - i);
        i = end;
    }
    if (!bad && shards > 1) bad = write_index(p, dir, order, n, shards);
    free(order);
    return bad;
}

/* ---- configuration and companions ------------------------------------------------------------------------------- */

/* The text with another value at a key of the top level; *n is its length. On the heap; NULL without memory. */
static char *json_with(dpo_context *c, const char *text, size_t *n, const char *key, const char *value) {
    dpo_json *j = dpo_json_create(c);
    char *out = NULL;
    size_t from, to, room = *n + strlen(key) + strlen(value) + 16;
    int64_t at;
    if (j && !dpo_json_parse(j, text, *n, NULL, NULL) && dpo_json_type(j, 0) == '{' && (out = (char *)malloc(room))) {
        at = dpo_json_find(j, 0, key);
        if (at < 0) { /* as the first one */
            from = to = dpo_json_at(j, 0) + 1;
            *n = (size_t)snprintf(out, room, "%.*s\"%s\": %s%s%s", (int)from, text, key, value,
                                  dpo_json_count(j, 0) ? ", " : "", text + to);
        } else {
            from = to = dpo_json_at(j, at);
            if (strchr("{[", text[to])) { /* no value that can be replaced: the text stays */
                memcpy(out, text, *n);
                dpo_json_free(j);
                return out;
            }
            if (text[to] == '"')
                for (to++; text[to] != '"'; to++) to += text[to] == '\\';
            else
                while (text[to + 1] && !strchr(",}] \t\r\n", text[to + 1])) to++;
            to++;
            *n = (size_t)snprintf(out, room, "%.*s%s%s", (int)from, text, value, text + to);
        }
    }
    dpo_json_free(j);
    return out;
}

/* Where the configuration of the weights lies: --config, or beside them; "" if nowhere. */
static int config_path(const convert *u, const char *in, char *path, size_t cap) {
    char dir[4096];
    const char *slash = strrchr(in, '/');
    path[0] = 0;
    if (u->s.config) {
        snprintf(path, cap, "%s", u->s.config);
        return 0;
    }
    snprintf(dir, sizeof dir, "%.*s", slash && !is_dir(in) ? (int)(slash - in) + (slash == in) : 4095,
             is_dir(in) || slash ? in : ".");
    return holds(dir, "config.json") ? path_join(path, cap, dir, "config.json") : 0;
}
/* Its text, or what llama2.c's header says, on the heap; NULL: there is none, or an error was said (*bad). */
static char *config_text(const convert *u, const source *src, const char *in, size_t *n, int *bad) {
    char path[4096], *text = NULL;
    *bad = 0;
    if (!u->s.config && src->parts == 1 && src->part[0].llama) {
        text = (char *)malloc(4096);
        if (text) *n = (size_t)llama2c_config_json(src->part[0].llama, text, 4096);
        if (!text) *bad = cli_die("no memory for a configuration");
        return text;
    }
    *bad = config_path(u, in, path, sizeof path);
    if (*bad || !path[0]) return NULL;
    text = read_file(path, (size_t)16 << 20, n);
    *bad = !text;
    return text;
}

static int json_has(dpo_context *c, const char *text, size_t n, const char *key) {
    dpo_json *j = dpo_json_create(c);
    int has = j && !dpo_json_parse(j, text, n, NULL, NULL) && dpo_json_find(j, 0, key) >= 0;
    dpo_json_free(j);
    return has;
}

/* config.json, with the type of what lies beside it. */
static int write_config(const convert *u, const char *dir, const char *text, size_t n, int dtype) {
    static const char *const names[4] = {"", "\"float32\"", "\"bfloat16\"", "\"float16\""};
    char path[4096], *changed = NULL, *newer;
    int bad;
    if (path_join(path, sizeof path, dir, "config.json")) return 1;
    if (dtype >= DPO_F32 && dtype <= DPO_F16) changed = json_with(u->c, text, &n, "torch_dtype", names[dtype]);
    if (changed && json_has(u->c, changed, n, "dtype")) { /* the newer name of the same */
        newer = json_with(u->c, changed, &n, "dtype", names[dtype]);
        free(changed);
        changed = newer;
    }
    bad = write_file(path, changed ? changed : text, n);
    free(changed);
    return bad;
}

/* llama2.c's tok*.bin as the tokenizer.json that gives the same ids. */
static int write_llama2c_tokenizer(const char *from, const char *dir) {
    char path[4096], err[1024];
    FILE *f;
    int bad;
    if (path_join(path, sizeof path, dir, "tokenizer.json")) return 1;
    f = fopen(path, "wb");
    if (!f) return cli_die("cannot write %s: %s", path, strerror(errno));
    bad = llama2c_tokenizer_json(from, f, err, sizeof err);
    errno = 0;
    if (!bad && (ferror(f) || fflush(f) || fsync(fileno(f)))) {
        snprintf(err, sizeof err, "cannot write %.400s: %.200s", path, strerror(errno));
        bad = 1;
    }
    if (fclose(f) && !bad) {
        snprintf(err, sizeof err, "cannot write %.400s: %.200s", path, strerror(errno));
        bad = 1;
    }
    if (bad) return cli_die("%s", err);
    return path_join(path, sizeof path, dir, "tokenizer_config.json") ||
           write_file(path, LLAMA2C_TOKENIZER_CONFIG, sizeof LLAMA2C_TOKENIZER_CONFIG - 1);
}

/* The tokenizer's files and what else a model directory has besides its weights. */
static int write_companions(const convert *u, const char *in, const char *dir, int llama2c) {
    static const char *const files[] = {
        "tokenizer.json", "tokenizer_config.json",  "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt",     "generation_config.json", "chat_template.jinja",     "tokenizer.model",   "dpo_chat.json"};
    const char *from = u->s.tokenizer ? u->s.tokenizer : in, *slash = strrchr(from, '/');
    char parent[4096];
    size_t i;
    if (u->s.tokenizer && !is_dir(from) && !ends_in(from, ".json")) return write_llama2c_tokenizer(from, dir);
    if (llama2c && !u->s.tokenizer) {
        cli_note(
            "the checkpoint names no tokenizer; give --tokenizer tok512.bin (or tokenizer.bin) to have one beside it");
        return 0;
    }
    if (!is_dir(from)) {
        snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - from) + (slash == from) : 1, slash ? from : ".");
        if (u->s.tokenizer) return copy_file(parent, slash ? slash + 1 : from, dir, "tokenizer.json");
        from = parent;
    }
    if (u->s.tokenizer && !holds(from, "tokenizer.json") && !holds(from, "vocab.json"))
        return cli_die("--tokenizer %s holds neither tokenizer.json nor vocab.json", from);
    for (i = 0; i < sizeof files / sizeof *files; i++)
        if (copy_file(from, files[i], dir, files[i])) return 1;
    return 0;
}

/* The type of most numbers, for config.json. */
static int main_dtype(const plan *p) {
    int64_t count[DPO_F16 + 1] = {0}, i;
    int dtype, most = DPO_F32;
    for (i = 0; i < p->src.count; i++)
        if (p->fates[i].name && p->fates[i].dtype <= DPO_F16)
            count[p->fates[i].dtype] += elements_of(&p->src.tensor[i]);
    for (dtype = DPO_F32; dtype <= DPO_F16; dtype++)
        if (count[dtype] > count[most]) most = dtype;
    return most;
}

static void say_wild(const plan *p) {
    if (p->wild)
        cli_note("warning: %s numbers are NaN or infinite, the first of them in %s; they are written as they are",
                 cli_count((uint64_t)p->wild), p->src.tensor[p->wild_in].name);
}

/* What was written opens as a model: names, shapes and configuration belong together. */
static int check_written(const convert *u, const char *dir) {
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
    dpo_model *m;
    how.no_map = !u->s.map;
    m = dpo_model_load_as(u->c, dir, &how);
    if (!m) return run_fail(u);
    dpo_model_free(m);
    return 0;
}

/* A directory beside OUT that nobody else has: only what was made here is removed again. */
static int make_stage(convert *u, int which) {
    char parent[4096], path[4096];
    const char *slash = strrchr(u->s.out, '/');
    int i, n;
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - u->s.out) + (slash == u->s.out) : 1,
             slash ? u->s.out : ".");
    if (make_dirs(parent, "the directory")) return 1;
    for (i = 0; i < 100; i++) {
        n = snprintf(path, sizeof path, "%s.part%d-%ld-%d", u->s.out, which + 1, (long)getpid(), i);
        if (n < 0 || (size_t)n >= sizeof path) return cli_die("the path %s is too long", u->s.out);
        if (!mkdir(path, 0777)) {
            memcpy(u->stage[which], path, (size_t)n + 1);
            return 0;
        }
        if (errno != EEXIST) break;
    }
    return cli_die("cannot make the directory %s: %s", path, strerror(errno));
}

/* Any source as a model directory. */
static int convert_model(convert *u, const char *in, int which, int dtype) {
    plan p;
    size_t n = 0;
    char *text = NULL, path[4096];
    const char *dir = u->stage[which];
    int bad = make_stage(u, which) || plan_open(&p, u, in), none = 0;
    if (bad) return 1;
    text = config_text(u, &p.src, in, &n, &bad);
    none = !text && !bad;
    if (none)
        bad = cli_die(
            "%s has no config.json; give --config JSON, or an OUT that ends in .safetensors for the tensors alone", in);
    if (!bad) bad = path_join(path, sizeof path, dir, "config.json") || write_file(path, text, n);
    if (!bad && dpo_model_config_read(u->c, dir, &p.config)) bad = run_fail(u);
    p.has_config = 1;
    if (!bad) bad = plan_model(&p);
    if (!bad) {
        plan_types(&p, dtype);
        bad = write_weights(&p, dir) || write_config(u, dir, text, n, main_dtype(&p)) ||
              write_companions(u, in, dir, p.src.part[0].llama != NULL) ||
              (main_dtype(&p) != DPO_F16 && check_written(u, dir)); /* which would expand halves */
    }
    if (!bad) say_wild(&p);
    free(text);
    plan_close(&p);
    return bad;
}

/* All tensors under the names they have. */
static int write_all(plan *p, const char *path) {
    int64_t *order = (int64_t *)malloc((size_t)(p->src.count + 1) * sizeof *order), i;
    int bad;
    plan_keep_all(p);
    plan_types(p, p->u->s.dtype);
    for (i = 0; order && i < p->src.count; i++) order[i] = i;
    bad = order ? write_tensors(p, path, order, p->src.count) : cli_die("no memory for a list of tensors");
    if (!bad) say_wild(p);
    free(order);
    return bad;
}

/* The tensors alone. */
static int convert_tensors(convert *u) {
    plan p;
    int bad = plan_open(&p, u, u->s.in);
    if (bad) return 1;
    bad = write_all(&p, u->s.out);
    if (!bad && !u->s.quiet)
        printf("wrote %s: %s tensors, %s numbers, %s\n", u->s.out, cli_count((uint64_t)p.kept),
               cli_count((uint64_t)p.values), cli_bytes(p.bytes));
    plan_close(&p);
    return bad;
}

/* ---- adapters --------------------------------------------------------------------------------------------------- */

/* adapter_config.json, rsLoRA's alpha / sqrt(r) written as a plain alpha if that is asked for. */
static int write_adapter_config(const convert *u, const char *dir) {
    char path[4096], value[40], *text, *other;
    size_t n;
    dpo_json *j = dpo_json_create(u->c);
    double r = 0, alpha = 0;
    int bad = 0, rslora = 0;
    if (path_join(path, sizeof path, u->s.in, "adapter_config.json")) return 1;
    text = read_file(path, (size_t)16 << 20, &n);
    if (!text) return 1;
    if (!j) return run_fail(u);
    if (dpo_json_parse(j, text, n, NULL, NULL)) bad = cli_die("%s is no JSON; download it again", path);
    if (!bad) {
        rslora = dpo_json_type(j, dpo_json_find(j, 0, "use_rslora")) == 't';
        if (!dpo_json_number(j, dpo_json_find(j, 0, "r"), &r) ||
            !dpo_json_number(j, dpo_json_find(j, 0, "lora_alpha"), &alpha) || !(r >= 1))
            bad = cli_die("%s: expected numbers \"r\" and \"lora_alpha\"", path);
    }
    if (!bad && rslora && u->s.fold_rslora &&
        (dpo_json_count(j, dpo_json_find(j, 0, "rank_pattern")) ||
         dpo_json_count(j, dpo_json_find(j, 0, "alpha_pattern"))))
        bad = cli_die("%s has ranks or alphas of single modules; --fold-rslora needs one of each for all", path);
    if (!bad && rslora && u->s.fold_rslora) {
        snprintf(value, sizeof value, "%.17g", alpha * sqrt(r));
        other = json_with(u->c, text, &n, "lora_alpha", value);
        free(text);
        text = other ? json_with(u->c, other, &n, "use_rslora", "false") : NULL;
        free(other);
        bad = !text && cli_die("no memory for a configuration");
        if (!bad && !u->s.quiet) printf("rsLoRA's scale is written as lora_alpha %s\n", value);
    }
    dpo_json_free(j);
    if (!bad) bad = path_join(path, sizeof path, dir, "adapter_config.json") || write_file(path, text, n);
    free(text);
    return bad;
}

static int convert_adapter(convert *u) {
    plan p;
    char path[4096];
    int bad = make_stage(u, 0) || plan_open(&p, u, u->s.in);
    if (bad) return 1;
    bad = path_join(path, sizeof path, u->stage[0], "adapter_model.safetensors") || write_all(&p, path) ||
          write_adapter_config(u, u->stage[0]) || write_companions(u, u->s.in, u->stage[0], 0);
    plan_close(&p);
    return bad;
}

/* ---- merging ---------------------------------------------------------------------------------------------------- */

/* Log-probabilities [rows, vocab] of a fixed row of ids; NULL after an error was said. Each id is asked for its
 * successor, so that every position counts. */
static float *probe_logits(const convert *u, dpo_model *m, int32_t rows) {
    const dpo_model_config *k = dpo_model_config_of(m);
    int32_t *ids = (int32_t *)calloc((size_t)rows, sizeof *ids), i;
    dpo_target *targets = (dpo_target *)calloc((size_t)rows, sizeof *targets);
    float *logits = (float *)malloc((size_t)rows * (size_t)k->vocab_size * sizeof *logits);
    dpo_segment segment = {-1, 0, 0, 0};
    dpo_batch b;
    uint32_t x = 1;
    int bad = !ids || !targets || !logits;
    if (bad) cli_die("no memory to compare logits");
    for (i = 0; !bad && i < rows; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((uint64_t)(x >> 8) * (uint64_t)k->vocab_size >> 24);
        targets[i].row = i;
        targets[i].token = 0;
    }
    segment.length = rows;
    memset(&b, 0, sizeof b);
    b.tokens = ids;
    b.n_rows = rows;
    b.segments = &segment;
    b.n_segments = 1;
    b.targets = targets;
    b.n_targets = rows;
    b.n_sequences = 1;
    if (!bad && dpo_model_logits(m, &b, logits)) bad = run_fail(u);
    free(ids);
    free(targets);
    if (!bad) return logits;
    free(logits);
    return NULL;
}

/* How far the written model is from base + adapter: the largest difference of a logit and of a log-probability. */
static int compare_merged(const convert *u, const float *want, const char *dir, int32_t rows) {
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
    dpo_model *m = dpo_model_load_as(u->c, dir, &how);
    float *got = m ? probe_logits(u, m, rows) : NULL;
    double worst = 0, worst_logp = 0, sum[2], d;
    int wild = 0;
    int64_t v, vocab = m ? dpo_model_config_of(m)->vocab_size : 0;
    int32_t i;
    if (!m) return run_fail(u);
    for (i = 0; got && i < rows; i++) {
        const float *a = want + i * vocab, *b = got + i * vocab;
        sum[0] = sum[1] = 0;
        for (v = 0; v < vocab; v++) {
            sum[0] += exp((double)a[v] - (double)a[0]);
            sum[1] += exp((double)b[v] - (double)b[0]);
        }
        for (v = 0; v < vocab; v++) {
            d = fabs((double)a[v] - (double)b[v]);
            wild |= d - d != 0;
            if (d > worst) worst = d;
            d = fabs((double)a[v] - (double)a[0] - log(sum[0]) - ((double)b[v] - (double)b[0] - log(sum[1])));
            wild |= d - d != 0;
            if (d > worst_logp) worst_logp = d;
        }
    }
    if (wild) cli_die("%s: the merged model computes NaN or infinity; nothing was written", u->s.in);
    else if (got && !u->s.quiet)
        printf("merged, against base and adapter on %d tokens: logits differ by at most %.3g, log-probs by %.3g\n",
               (int)rows, worst, worst_logp);
    dpo_model_free(m);
    free(got);
    return !got || wild;
}

static int convert_merge(convert *u, const char *base) {
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
    dpo_model *m, *merged;
    const dpo_model_config *k;
    int dtype = u->s.dtype, bad;
    int32_t rows;
    float *want;
    if (make_stage(u, 1)) return 1;
    how.no_map = !u->s.map;
    how.verify = u->s.verify;
    m = dpo_model_load_as(u->c, base, &how);
    if (!m || dpo_lora_load(m, u->s.merge)) return run_fail(u);
    k = dpo_model_config_of(m);
    rows = k->max_position_embeddings > 0 && k->max_position_embeddings < 64 ? k->max_position_embeddings : 64;
    if (!dtype) dtype = k->torch_dtype ? k->torch_dtype : DPO_F32;
    want = probe_logits(u, m, rows);
    merged = want ? dpo_lora_merge(m) : NULL;
    bad = !merged || dpo_model_save(merged, u->stage[1], dtype);
    if (want && bad) run_fail(u);
    dpo_model_free(merged);
    dpo_model_free(m);
    bad = bad || write_companions(u, base, u->stage[1], 0) || compare_merged(u, want, u->stage[1], rows);
    free(want);
    return bad;
}

/* ---- GGUF ------------------------------------------------------------------------------------------------------- */

static int convert_gguf(convert *u, const char *dir) {
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
    gguf_report report;
    char err[1024], name[256];
    const char *slash, *tokenizer = dir;
    dpo_model *m;
    int dtype, bad;
    how.no_map = !u->s.map;
    how.verify = u->s.verify;
    m = dpo_model_load_as(u->c, dir, &how);
    if (!m) return run_fail(u);
    dtype = u->s.dtype ? u->s.dtype : dpo_model_config_of(m)->torch_dtype;
    if (!dtype) dtype = DPO_F32;
    slash = strrchr(u->s.out, '/');
    snprintf(name, sizeof name, "%.200s", slash ? slash + 1 : u->s.out);
    if (ends_in(name, ".gguf")) name[strlen(name) - 5] = 0;
    if (u->s.tokenizer && is_dir(u->s.tokenizer)) tokenizer = u->s.tokenizer;
    if (!dpo_model_config_of(m)->byte_tokenizer && !holds(tokenizer, "tokenizer.json") &&
        !holds(tokenizer, "vocab.json")) {
        dpo_model_free(m);
        return cli_die("%s has no tokenizer.json (nor vocab.json), which a GGUF file needs; give --tokenizer DIR",
                       u->s.tokenizer ? u->s.tokenizer : u->s.in);
    }
    bad = gguf_write(u->c, m, tokenizer, u->s.out, dtype, name, &report, err, sizeof err);
    dpo_model_free(m);
    cli_live_clear();
    if (bad) return cli_die("%s", err);
    if (report.notes[0]) cli_note("%s", report.notes);
    if (!u->s.quiet)
        printf("wrote %s: %s tensors, %s, %s\n", u->s.out, cli_count((uint64_t)report.tensors), dpo_dtype_name(dtype),
               cli_bytes(report.bytes));
    return 0;
}

/* ---- --info ----------------------------------------------------------------------------------------------------- */

static void info_tensor(const plan *p, int64_t i) {
    const dpo_tensor *t = &p->src.tensor[i];
    const fate *f = &p->fates[i];
    int k;
    printf("%-60s %-5s [", t->name, t->dtype ? dpo_dtype_name(t->dtype) : "?");
    for (k = 0; k < t->ndim; k++) printf("%s%lld", k ? "," : "", (long long)t->shape[k]);
    printf("]");
    if (!f->name) printf("  left out: %s", f->why);
    else if (strcmp(f->name, t->name)) printf("  becomes %s", f->name);
    printf("\n");
}

static const char *family_name(int family) {
    static const char *const names[] = {"?", "GPT-NeoX (Pythia)", "BTLM / muP Cerebras-GPT", "GPT-2", "Llama", "Qwen2"};
    return names[family > 0 && family <= DPO_QWEN2 ? family : 0];
}

/* The weights' hash, where the directory can be loaded as it is. */
static int info_hash(const convert *u) {
    dpo_load_config how = {DPO_PRECISION_FP32, 1, 0, 0};
    dpo_model *m;
    how.no_map = !u->s.map;
    m = dpo_model_load_as(u->c, u->s.in, &how);
    if (!m) return run_fail(u);
    printf("weight hash %016llx\n", (unsigned long long)dpo_model_hash(m));
    dpo_model_free(m);
    return 0;
}

/* What the weights are to be, where a configuration says so. */
static int info_config(convert *u, plan *p) {
    char path[4096];
    if (config_path(u, u->s.in, path, sizeof path)) return 1;
    if (!path[0]) return 0;
    if (dpo_model_config_read(u->c, path, &p->config)) { /* what there is can be listed all the same */
        cli_note("%s", dpo_error(u->c));
        dpo_clear(u->c);
    } else p->has_config = 1;
    return 0;
}

/* Can the library load the directory as it is: safetensors under the model's own names? */
static int is_ready(convert *u, const char *in) {
    source src;
    char err[1024];
    int64_t i;
    int ready = is_dir(in) && holds(in, "config.json") &&
                (holds(in, "model.safetensors") || holds(in, "model.safetensors.index.json"));
    if (!ready || source_open(&src, u->c, in, err, sizeof err)) return 0; /* converting it says what is wrong */
    for (i = 0; i < src.count; i++) ready &= !strcmp(without_prefix(src.tensor[i].name), src.tensor[i].name);
    source_close(&src);
    return ready;
}

static int print_info(convert *u) {
    plan p;
    int64_t i, left_out = 0;
    int known, bad = plan_open(&p, u, u->s.in);
    if (bad) return 1;
    if (!u->is_adapter) bad = info_config(u, &p);
    if (!bad && p.has_config) bad = plan_model(&p);
    else plan_keep_all(&p);
    if (bad) {
        plan_close(&p);
        return 1;
    }
    plan_types(&p, AS_STORED);
    for (i = 0; i < p.src.count; i++) {
        info_tensor(&p, i);
        left_out += !p.fates[i].name;
    }
    printf("\n%s: %s in %s file%s, %s tensors, %s numbers, %s\n", u->s.in, source_kind_name(p.src.part[0].kind),
           cli_count((uint64_t)p.src.parts), p.src.parts == 1 ? "" : "s", cli_count((uint64_t)p.src.count),
           cli_count((uint64_t)p.values), cli_bytes(p.bytes));
    if (p.has_config)
        printf("%s: %d layers, hidden size %d, %d heads, vocabulary %d, %d positions%s\n", family_name(p.config.family),
               p.config.num_hidden_layers, p.config.hidden_size, p.config.num_attention_heads, p.config.vocab_size,
               p.config.max_position_embeddings, p.config.tie_word_embeddings ? ", tied head" : "");
    if (left_out) printf("%s of the tensors would not be used\n", cli_count((uint64_t)left_out));
    for (i = 0; i < p.src.parts && p.src.part[i].st; i++)
        if (!dpo_tensors_metadata(p.src.part[i].st, "dpo_checksums")) break;
    printf("checksums: %s\n", i < p.src.parts ? "none" : u->s.verify ? "all right" : "there (--verify compares them)");
    known = p.has_config;
    plan_close(&p);
    return known && is_ready(u, u->s.in) ? info_hash(u) : 0;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

/* Nothing that is there is written over. */
static int check_out(const settings *s) {
    struct stat st;
    DIR *d;
    struct dirent *e;
    int files = 0;
    if (stat(s->out, &st)) return 0;
    if (!S_ISDIR(st.st_mode) || ends_in(s->out, ".gguf") || ends_in(s->out, ".safetensors"))
        return cli_die("%s is there already; remove it, or name another", s->out);
    d = opendir(s->out);
    while (d && (e = readdir(d)) != NULL) files += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (d) closedir(d);
    return files ? cli_die("the directory %s is there already and is not empty; remove it, or name another", s->out)
                 : 0;
}

/* The finished directory under its name. */
static int publish(const convert *u, const char *dir) {
    char parent[4096];
    const char *slash = strrchr(u->s.out, '/');
    if (sync_path(dir) || rename(dir, u->s.out))
        return cli_die("cannot rename %s to %s: %s", dir, u->s.out, strerror(errno));
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - u->s.out) + (slash == u->s.out) : 1,
             slash ? u->s.out : ".");
    (void)sync_path(parent);
    if (!u->s.quiet) printf("wrote %s\n", u->s.out);
    return 0;
}

static int convert_all(convert *u) {
    const settings *s = &u->s;
    int gguf = ends_in(s->out, ".gguf"), more = gguf || s->merge;
    const char *dir = s->in;
    if (s->shard_size && (more || u->is_adapter || ends_in(s->out, ".safetensors")))
        return cli_die(
            "--shard-size is for a model's directory that is only converted; convert what --merge wrote again");
    if (ends_in(s->out, ".safetensors")) {
        if (s->merge) return cli_die("--merge makes a model: name a directory or a .gguf file as OUT");
        return convert_tensors(u);
    }
    if (u->is_adapter) {
        if (gguf || s->merge)
            return cli_die("%s is an adapter; give its base model as IN and the adapter as --merge", s->in);
        return convert_adapter(u) || publish(u, u->stage[0]);
    }
    if (!more || s->config || (s->tokenizer && !is_dir(s->tokenizer)) || !is_ready(u, s->in)) {
        if (convert_model(u, s->in, 0, more ? AS_STORED : s->dtype)) return 1;
        dir = u->stage[0];
    }
    if (s->merge) {
        if (convert_merge(u, dir)) return 1;
        dir = u->stage[1];
    }
    return gguf ? convert_gguf(u, dir) : publish(u, dir);
}

static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}
static void on_log(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING) cli_note("warning: %s", line);
}

int main(int argc, char **argv) {
    static convert u; /* large */
    cli_program p = cli_program_make("dpo-convert", "0.1.0", "IN OUT [options], or --info IN",
                                     "Converts checkpoints: a Hugging Face directory (safetensors or PyTorch's .bin, "
                                     "sharded too), a .bin, .pt or .pth file, llama2.c's .bin, a PEFT adapter; to a "
                                     "Hugging Face directory, OUT.gguf, or OUT.safetensors. Pickles are read as data, "
                                     "nothing in them is run.");
    static char out[4000];
    dpo_desc desc;
    int code, i;
    p.argument_max = 2;
    u.began = cli_clock();
    u.s.map = 1;
    if (settings_parse(&u.s, &p, argc, argv)) return p.exit_code;
    if (!u.s.in) return cli_die("expected IN, a checkpoint; usage: dpo-convert %s", p.usage);
    if (!u.s.out && !u.s.info) return cli_die("expected OUT after %s; usage: dpo-convert %s", u.s.in, p.usage);
    if (u.s.out) {
        size_t n = strlen(u.s.out);
        while (n > 1 && u.s.out[n - 1] == '/') n--;
        if (!n || n >= sizeof out) return cli_die("OUT '%s' is no name of a directory or file", u.s.out);
        memcpy(out, u.s.out, n);
        out[n] = 0;
        u.s.out = out;
        if (!strcmp(out, "/") || !strcmp(out, ".") || !strcmp(out, "..") || ends_in(out, "/.") || ends_in(out, "/.."))
            return cli_die("OUT '%s' is no name of a new directory or file", out);
    }
    if (u.s.info && u.s.out) return cli_die("--info writes nothing; leave %s out", u.s.out);
    if (access(u.s.in, R_OK)) return cli_die("cannot open %s: %s", u.s.in, strerror(errno));
    if (u.s.tokenizer && access(u.s.tokenizer, R_OK))
        return cli_die("cannot open --tokenizer %s: %s", u.s.tokenizer, strerror(errno));
    if (u.s.out && check_out(&u.s)) return 1;
    cli_catch_signals();
    memset(&desc, 0, sizeof desc);
    desc.n_threads = u.s.threads;
    desc.cancel = on_cancel;
    desc.log = on_log;
    u.c = dpo_open(&desc);
    if (!u.c) return cli_die("%s", dpo_error(NULL));
    u.is_adapter = is_dir(u.s.in) && holds(u.s.in, "adapter_config.json") && !holds(u.s.in, "config.json");
    code = u.s.info ? print_info(&u) : convert_all(&u);
    dpo_close(u.c);
    for (i = 0; i < 2; i++)
        if (u.stage[i][0]) remove_dir(u.stage[i]);
    if (fflush(stdout) || ferror(stdout)) return cli_die("the output could not be written");
    return code;
}
