/* dpo-bench - how fast things are on this machine: training steps with random weights of Pythia's shapes, tokenizers.
 *
 *     dpo-bench step sft|dpo --model 70m --batch 4 --seq 128
 *     dpo-bench tokenizer --tokenizer tokenizer.json --text hh.jsonl.gz */
#include "cli.h" /* before system headers */
#include "../dpo.h"
#include "formats/gzip.h"
#include <math.h>

typedef struct bench_shape {
    const char *name;
    int layers, hidden, heads;
} bench_shape;
static const bench_shape shapes[] = {{"14m", 6, 128, 4},     {"31m", 6, 256, 8},     {"70m", 6, 512, 8},
                                     {"160m", 12, 768, 12},  {"410m", 24, 1024, 16}, {"1b", 16, 2048, 8},
                                     {"1.4b", 24, 2048, 16}, {"2.8b", 32, 2560, 32}};

typedef struct bench_options {
    const char *model, *tokenizer, *text;
    int batch, seq, prompt, steps, threads, rank, micro_rows, simd, recompute, json;
} bench_options;

static dpo_model_config bench_config(const bench_shape *s) {
    dpo_model_config k;
    memset(&k, 0, sizeof k);
    k.family = DPO_GPT_NEOX;
    k.vocab_size = 50304;
    k.hidden_size = s->hidden;
    k.num_hidden_layers = s->layers;
    k.num_attention_heads = k.num_key_value_heads = s->heads;
    k.head_dim = s->hidden / s->heads;
    k.intermediate_size = 4 * s->hidden;
    k.max_position_embeddings = 2048;
    k.norm_eps = 1e-5;
    k.rotary_dim = k.head_dim / 4;
    k.rope_theta = 10000;
    k.parallel_residual = k.qkv_bias = k.attention_bias = k.mlp_bias = 1;
    k.embedding_scale = k.output_scale = k.width_scale = 1;
    k.attention_scale = 1 / sqrt((double)k.head_dim);
    k.initializer_range = 0.02;
    k.bos_token_id = k.eos_token_id = 0;
    return k;
}

/* Examples of made-up ids: SFT of seq tokens, or pairs of prompt + two answers of (seq - prompt) each. */
static dpo_data *bench_data(dpo_context *c, const bench_options *o, int objective) {
    dpo_data_options d = dpo_data_defaults();
    dpo_data *data;
    int32_t ids[3 * 8192];
    int64_t i, k, answer = o->seq - o->prompt;
    d.max_length = o->seq + 1;
    d.max_prompt_length = o->prompt > 0 ? o->prompt : 1;
    data = dpo_data_create(c, NULL, &d);
    for (i = 0; data && i < o->batch; i++) {
        for (k = 0; k < 3 * o->seq; k++) ids[k] = (int32_t)((uint64_t)(i * 7919 + k * 104729 + k * k) % 50000);
        if (objective == DPO_SFT) dpo_data_add_tokens(data, NULL, 0, ids, o->seq, NULL, 0);
        else dpo_data_add_tokens(data, ids, o->prompt, ids + o->prompt, answer, ids + o->seq, answer);
    }
    return data;
}

static int bench_step(const bench_options *o, int objective) {
    dpo_desc desc;
    dpo_context *c;
    dpo_model_config k;
    dpo_train_config t = dpo_train_defaults(objective);
    dpo_lora_config lora;
    dpo_plan plan;
    dpo_model *m;
    dpo_data *d;
    dpo_trainer *tr;
    dpo_metrics s;
    double best = 1e30, at, took, tokens;
    size_t i, n = sizeof shapes / sizeof shapes[0];
    int64_t step;
    for (i = 0; i < n && strcmp(shapes[i].name, o->model); i++) {
    }
    if (i == n) return cli_die("unknown --model %s; known are 14m 31m 70m 160m 410m 1b 1.4b 2.8b", o->model);
    if (objective == DPO_PREFERENCE && o->prompt >= o->seq) return cli_die("--prompt must be smaller than --seq");
    memset(&desc, 0, sizeof desc);
    desc.n_threads = o->threads;
    desc.simd = o->simd;
    c = dpo_open(&desc);
    if (!c) return cli_die("%s", dpo_error(NULL));
    k = bench_config(&shapes[i]);
    d = bench_data(c, o, objective);
    t.batch_size = o->batch;
    t.optimizer = DPO_ADAMW;
    t.learning_rate = 1e-4;
    t.max_steps = o->steps + 1;
    t.shuffle = 0;
    t.micro_rows = o->micro_rows;
    t.recompute = o->recompute;
    lora = dpo_lora_defaults(DPO_GPT_NEOX);
    lora.r = o->rank;
    if (dpo_plan_train(c, &k, o->rank ? &lora : NULL, &t, d, NULL, &plan)) return cli_die("%s", dpo_error(c));
    m = dpo_model_create(c, &k, 1);
    if (m && o->rank) dpo_lora_attach(m, &lora, 1);
    tr = m ? dpo_trainer_create(m, d, &t) : NULL;
    for (step = 0; tr && step <= o->steps; step++) { /* the first one warms up */
        at = cli_clock();
        if (dpo_trainer_step(tr, &s)) break;
        took = cli_clock() - at;
        if (step && took < best) best = took;
    }
    if (dpo_status(c)) return cli_die("%s", dpo_error(c));
    tokens = (double)s.batch_tokens;
    if (o->json)
        printf("{\"bench\": \"step\", \"objective\": \"%s\", \"model\": \"%s\", \"batch\": %lld, \"seq\": %lld, "
               "\"step_s\": %.6f, \"tokens_per_s\": %.1f, \"flops\": %.4g, \"gflop_per_s\": %.1f, "
               "\"peak_rss_bytes\": %llu, \"plan_bytes\": %llu}\n",
               objective == DPO_SFT ? "sft" : "dpo", o->model, (long long)o->batch, (long long)o->seq, best,
               tokens / best, plan.flops_per_example * (double)o->batch,
               plan.flops_per_example * (double)o->batch / best / 1e9, (unsigned long long)cli_peak_memory(),
               (unsigned long long)plan.total);
    else
        printf("%s\n%s %s, %lld x %lld: %.3f s a step, %.1f tokens/s, %.1f GFLOP/s counted, memory %s, planned %s\n",
               dpo_build_info(c), objective == DPO_SFT ? "SFT" : "DPO", o->model, (long long)o->batch,
               (long long)o->seq, best, tokens / best, plan.flops_per_example * (double)o->batch / best / 1e9,
               cli_bytes(cli_peak_memory()), cli_bytes(plan.total));
    dpo_close(c);
    return 0;
}

/* Adds one after the other, each waiting for the last, as most cores do one in a cycle: the clock at this moment, in GHz. */
static double bench_clock(void) {
    double at = cli_clock();
    volatile uint64_t start = 1;
    uint64_t x = start;
    long i;
    for (i = 0; i < 5000000; i++) {
#if defined(__GNUC__)
        __asm__ __volatile__("" : "+r"(x));
#endif
        x += 1;
    }
    start = x;
    return 0.005 / (cli_clock() - at);
}

/* ---- tokenizer -------------------------------------------------------------------------------------------------- */

typedef struct bench_texts {
    dpo_text *text;
    int64_t n, cap, bytes;
    char *file;
} bench_texts;

static int bench_keep(bench_texts *t, const char *text, size_t n) {
    dpo_text *to = t->text;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 1024;
        to = (dpo_text *)realloc(t->text, (size_t)t->cap * sizeof *to);
        if (!to) return cli_die("no memory for the texts");
        t->text = to;
    }
    to[t->n].text = text;
    to[t->n].bytes = n;
    to[t->n++].special = 0;
    t->bytes += (int64_t)n;
    return 0;
}
/* The texts of a file: each string of each JSON line's object, or else the whole file as one. They are unescaped in
 * place, which makes none longer. */
static int bench_read(dpo_context *c, const char *path, bench_texts *t) {
    char err[512], *at, *end, *line;
    size_t size;
    dpo_json *j;
    if (gzip_read_file(path, (size_t)1 << 32, &t->file, &size, err, sizeof err)) return cli_die("%s", err);
    if (size && t->file[0] != '{') return bench_keep(t, t->file, size);
    j = dpo_json_create(c);
    for (line = t->file, end = t->file + size; line < end; line = at + 1) {
        int64_t i, v, n;
        at = (char *)memchr(line, '\n', (size_t)(end - line));
        if (!at) at = end;
        if (dpo_json_parse(j, line, (size_t)(at - line), NULL, NULL)) continue;
        v = dpo_json_first(j, 0);
        for (i = dpo_json_count(j, 0); i > 0; i--, v = dpo_json_next(j, v + 1)) {
            char *to = line + dpo_json_at(j, v + 1);
            n = dpo_json_string(j, v + 1, NULL, 0);
            if (n < 0) continue;
            dpo_json_string(j, v + 1, to, (size_t)n + 1);
            if (bench_keep(t, to, (size_t)n)) return 1;
        }
    }
    dpo_json_free(j);
    return t->n ? 0 : cli_die("%s: no text in it", path);
}
typedef struct bench_rate {
    double mb_per_s,
        per_ghz; /* medians; the second of passes that each have their own clock: a shared machine's varies */
} bench_rate;
static double bench_median(double *x, int n) {
    int i, k;
    for (i = 1; i < n; i++) {
        double y = x[i];
        for (k = i; k > 0 && x[k - 1] > y; k--) x[k] = x[k - 1];
        x[k] = y;
    }
    return x[n / 2];
}
/* `steps` passes over all texts, one call a text, or all in one (out NULL); ids counted. */
static bench_rate bench_encode(dpo_context *c, const dpo_tokenizer *t, const bench_texts *x, unsigned flags, int steps,
                               int32_t *out, int64_t cap, int64_t *n) {
    double rate[101], per[101], at, ghz;
    bench_rate r;
    int32_t *ids;
    int64_t *first, m;
    int i;
    for (i = 0; i < steps; i++) {
        ghz = bench_clock();
        at = cli_clock();
        for (*n = 0, m = 0; out && m < x->n; m++) *n += dpo_encode_parts(t, x->text + m, 1, flags, out, cap);
        if (!out && !dpo_encode_batch(t, x->text, x->n, flags, &ids, &first)) {
            *n = first[x->n];
            dpo_encode_free(c, ids);
        }
        rate[i] = (double)x->bytes / (cli_clock() - at) / 1e6;
        per[i] = rate[i] / ((ghz + bench_clock()) / 2);
    }
    r.mb_per_s = bench_median(rate, steps);
    r.per_ghz = bench_median(per, steps);
    return r;
}
static int bench_tokenizer(const bench_options *o) {
    dpo_desc desc;
    dpo_context *c;
    dpo_tokenizer *t;
    bench_texts x;
    bench_rate found, merged, all;
    double load;
    int64_t n = 0, most = 0, i, same[2];
    int32_t *ids;
    if (!o->tokenizer || !o->text) return cli_die("tokenizer expects --tokenizer FILE and --text FILE");
    if (o->steps > 101) return cli_die("--steps: at most 101 here");
    memset(&desc, 0, sizeof desc);
    memset(&x, 0, sizeof x);
    desc.n_threads = o->threads;
    c = dpo_open(&desc);
    if (!c) return cli_die("%s", dpo_error(NULL));
    for (i = 0, load = 1e30, t = NULL; i < 3 && !dpo_status(c); i++) {
        double at = cli_clock();
        dpo_tokenizer_free(t);
        t = dpo_tokenizer_load(c, o->tokenizer);
        if (cli_clock() - at < load) load = cli_clock() - at;
    }
    if (!t) return cli_die("%s", dpo_error(c));
    if (bench_read(c, o->text, &x)) return 1;
    for (i = 0; i < x.n; i++) most = most > (int64_t)x.text[i].bytes ? most : (int64_t)x.text[i].bytes;
    most = 3 * most + 3;
    ids = (int32_t *)malloc((size_t)most * sizeof *ids);
    if (!ids) return cli_die("no memory for the ids");
    found = bench_encode(c, t, &x, 0, o->steps, ids, most, &n);
    merged = bench_encode(c, t, &x, DPO_ENCODE_MERGES, o->steps, ids, most, &same[0]);
    all = bench_encode(c, t, &x, 0, o->steps, NULL, 0, &same[1]);
    if (dpo_status(c)) return cli_die("%s", dpo_error(c));
    if (n != same[0] || n != same[1])
        return cli_die("looking words up gives %lld ids, merging them %lld, all at once %lld", (long long)n,
                       (long long)same[0], (long long)same[1]);
    if (o->json)
        printf("{\"bench\": \"tokenizer\", \"tokenizer\": \"%s\", \"load_s\": %.6f, \"bytes\": %lld, \"ids\": %lld, "
               "\"mb_per_s\": %.1f, \"merges_mb_per_s\": %.1f, \"batch_mb_per_s\": %.1f, \"mb_per_s_per_ghz\": %.1f, "
               "\"merges_mb_per_s_per_ghz\": %.1f}\n",
               o->tokenizer, load, (long long)x.bytes, (long long)n, found.mb_per_s, merged.mb_per_s, all.mb_per_s,
               found.per_ghz, merged.per_ghz);
    else
        printf("%s\n%s: loaded in %.1f ms; %s in %s texts, %s ids, %.2f bytes each\n"
               "one thread: %.1f MB/s, every word merged: %.1f MB/s; all threads: %.1f MB/s\n"
               "for each GHz of the clock at that moment: %.1f, %.1f and %.1f MB/s\n",
               dpo_build_info(c), dpo_tokenizer_info(t), 1e3 * load, cli_bytes((uint64_t)x.bytes),
               cli_count((uint64_t)x.n), cli_count((uint64_t)n), (double)x.bytes / (double)n, found.mb_per_s,
               merged.mb_per_s, all.mb_per_s, found.per_ghz, merged.per_ghz, all.per_ghz);
    free(ids);
    free(x.text);
    free(x.file);
    dpo_close(c);
    return 0;
}

int main(int argc, char **argv) {
    bench_options o = {"70m", NULL, NULL, 4, 128, 64, 3, 0, 0, 0, 0, 0, 0};
    cli_program p =
        cli_program_make("dpo-bench", "0.1.0", "step sft|dpo [options] | tokenizer --tokenizer X --text FILE",
                         "Times training steps with random weights of Pythia's shapes, or a tokenizer.");
    cli_option table[] = {
        CLI_STRING("model", &o.model, "SHAPE", "", "14m 31m 70m 160m 410m 1b 1.4b 2.8b"),
        CLI_INT("batch", &o.batch, 1, 4096, "batch-size", "examples per update"),
        CLI_INT("seq", &o.seq, 2, 8192, "", "tokens of an example (prompt and one answer)"),
        CLI_INT("prompt", &o.prompt, 1, 8191, "", "dpo: tokens of the prompt"),
        CLI_INT("steps", &o.steps, 1, 100000, "",
                "timed steps, the fastest counts; tokenizer: passes, the median counts"),
        CLI_INT("threads", &o.threads, 0, 1024, "", "0 = one per core"),
        CLI_WORD("simd", &o.simd, "auto|scalar|avx2|avx512", "", "force a set of kernels"),
        CLI_INT("lora-r", &o.rank, 0, 65536, "", "adapters of this rank instead of full fine-tuning"),
        CLI_INT("micro-rows", &o.micro_rows, 0, 1000000, "", "rows of a micro-batch, 0 = planned"),
        CLI_FLAG("recompute", &o.recompute, "", "keep layer inputs only"),
        CLI_STRING("tokenizer", &o.tokenizer, "PATH", "", "tokenizer: what dpo_tokenizer_load takes"),
        CLI_STRING("text", &o.text, "FILE", "",
                   "tokenizer: JSON lines (their strings are the texts) or plain, .gz or not"),
        CLI_FLAG("json", &o.json, "", "one JSON object"),
    };
    if (cli_parse(&p, table, CLI_COUNT(table), argc, argv)) return p.exit_code;
    if (p.argument_count == 1 && !strcmp(p.argument[0], "tokenizer")) return bench_tokenizer(&o);
    if (p.argument_count != 2 || strcmp(p.argument[0], "step") ||
        (strcmp(p.argument[1], "sft") && strcmp(p.argument[1], "dpo")))
        return cli_die("usage: dpo-bench %s; --help lists the options", p.usage);
    return bench_step(&o, !strcmp(p.argument[1], "sft") ? DPO_SFT : DPO_PREFERENCE);
}
