/* dpo-train.c: the program build/dpo-train fine-tunes a model by SFT or DPO, on dpo.h.
 *
 *     dpo-train sft --model DIR --train pairs.jsonl --output DIR [options]
 *     dpo-train dpo --model DIR --train hh.jsonl.gz --output DIR --beta 0.1 [options]
 *
 * It reads top to bottom: settings, data, model, what is printed, samples, checkpoints, the run. The output directory
 * gets the model (with LoRA: adapter/), the tokenizer's files, metrics.jsonl and samples.jsonl, and checkpoints/, from
 * which the same command with --resume goes on to the bits of a run that was never stopped. Exit code 0 also after
 * Ctrl-C, when a checkpoint and what was learnt so far have been written; 1 after one sentence on stderr. */
#include "cli.h" /* first: it asks the system headers for sigaction and friends */
#include "../dpo.h"
#include "dataset.h"
#include "files.h"
#include "formats/tensorboard.h"
#include <math.h>
#include "checkpoint.h"
#include <sys/stat.h>
#include <sys/types.h>

#define FOREVER 1000000000 /* the largest count an option takes */

/* ---- settings --------------------------------------------------------------------------------------------------- */

enum { RECIPE_REF, RECIPE_PAPER, RECIPE_TRL };
enum { STOP_NEVER, STOP_ACCURACIES, STOP_MARGINS, STOP_LOSS };

typedef struct settings {
    const char *model, *init, *output, *train, *eval, *tokenizer, *adapter, *reference_file, *targets, *tensorboard;
    double lora_alpha, sample_temperature, stop_min_delta;
    int stop_metric, stop_patience, stop_min_steps;
    int recipe, loss, precision, optimizer_dtype;
    int epochs, max_steps, batch_size, accumulation, warmup_steps, eval_every, eval_steps, eval_size, micro_rows;
    int lora_r, rslora, merge, threads, simd, verify, map, plan, quiet;
    int sample_prompts, sample_tokens;
    int save_every, keep, resume;
    dataset_options d;
    dpo_train_config t;
    char losses[512];        /* "sigmoid|robust|..." */
    cli_option options[128]; /* as they were given, for the log */
    int option_count;
} settings;

/* The library's defaults are those of the reference code (recipe ref); the recipes change what they say themselves. */
static void settings_start(settings *s, int objective) {
    size_t used = 0;
    int i;
    memset(s, 0, sizeof *s);
    s->t = dpo_train_defaults(objective);
    s->d = dataset_defaults();
    s->d.eval_fraction = 0.1;
    s->sample_prompts = 4;
    s->keep = 2;
    s->sample_tokens = 64;
    s->lora_alpha = 16;
    s->stop_patience = 3;
    s->stop_min_delta = 0.005;
    s->map = 1;
    s->eval_every = 20000;
    s->epochs = (int)s->t.num_train_epochs;
    s->batch_size = (int)s->t.batch_size;
    s->accumulation = 1;
    s->warmup_steps = (int)s->t.warmup_steps;
    s->eval_size = (int)s->t.eval_size;
    for (i = 0; dpo_loss_name(i) && used < sizeof s->losses; i++)
        used += (size_t)snprintf(s->losses + used, sizeof s->losses - used, "%s%s", i ? "|" : "", dpo_loss_name(i));
}

/* The named sets: what the reference code, the paper [DPO] and TRL begin with. */
static void settings_recipe(settings *s) {
    int sft = s->t.objective == DPO_SFT;
    s->t.optimizer = DPO_RMSPROP;
    s->t.rmsprop_alpha = 0.99;
    s->t.adam_epsilon = 1e-8;
    s->t.schedule = DPO_CONSTANT;
    s->t.learning_rate = s->recipe == RECIPE_PAPER ? 1e-6 : 5e-7;
    s->warmup_steps = 150;
    s->batch_size = 64;
    s->epochs = 1;
    s->t.max_grad_norm = 10;
    s->t.sft_reduction = DPO_SEQUENCE_SUM;
    s->t.loss_options.beta = 0.1;
    s->d.data.max_length = 512;
    s->d.data.truncation = DPO_TRUNCATE_REF;
    if (s->recipe != RECIPE_TRL) return;
    s->t.optimizer = DPO_ADAMW;
    s->t.adam_beta1 = 0.9;
    s->t.adam_beta2 = 0.999;
    s->t.weight_decay = 0;
    s->t.schedule = DPO_LINEAR;
    s->t.learning_rate = sft ? 2e-5 : 1e-6;
    if (s->lora_r > 0 || s->adapter) s->t.learning_rate *= 10; /* TRL's documentation: ten times as much with LoRA */
    s->warmup_steps = 0;
    s->batch_size = 8;
    s->epochs = 3;
    s->t.max_grad_norm = 1;
    s->t.sft_reduction = DPO_TOKEN_MEAN;
    s->d.data.max_length = 1024;
    s->d.data.truncation = DPO_TRUNCATE_KEEP_START;
}

/* The option table. It is made again for each parse, since it holds values that recipes depend on. */
static int settings_parse(settings *s, cli_program *p, int argc, char **argv) {
    dpo_train_config *t = &s->t;
    dpo_loss_options *l = &t->loss_options;
    cli_option options[] = {
        CLI_HEADING("Model and data"),
        CLI_STRING("model", &s->model, "DIR", "model_name_or_path", "a Hugging Face directory (safetensors)"),
        CLI_STRING("init", &s->init, "JSON", "", "instead: random weights for this config.json, by --seed"),
        CLI_STRING("output", &s->output, "DIR", "output_dir", "where the result and metrics.jsonl go"),
        CLI_STRING("train", &s->train, "FILE", "train_file dataset_name",
                   "training data, text (plain or .gz) or tokenized by dpo-tokenize"),
        CLI_STRING("eval", &s->eval, "FILE", "eval_file", "evaluation data; without it a part of --train is held out"),
        CLI_DOUBLE("eval-fraction", &s->d.eval_fraction, 0, 0.9, "", "the part held out, by a hash of the prompt"),
        CLI_STRING("tokenizer", &s->tokenizer, "PATH", "tokenizer_name",
                   "a directory, a tokenizer.json, or bytes; without it the model's own"),
        CLI_HEADING("Data"),
        DATASET_OPTIONS(&s->d),
        CLI_HEADING("Training"),
        CLI_WORD("recipe", &s->recipe, "ref|paper|trl", "",
                 "start from these settings: the DPO reference code's, the paper's, TRL's; single options go before"),
        CLI_DOUBLE("learning-rate", &t->learning_rate, 0, 100, "lr", "of every weight (muP widths aside)"),
        CLI_INT("epochs", &s->epochs, 1, FOREVER, "num_train_epochs", "passes over the data"),
        CLI_INT("max-steps", &s->max_steps, 0, FOREVER, "", "updates in all; 0: what the epochs hold"),
        CLI_INT("batch-size", &s->batch_size, 1, FOREVER, "per_device_train_batch_size train_batch_size",
                "examples per update; gradient accumulation is planned by itself and changes no bit"),
        CLI_INT("gradient-accumulation-steps", &s->accumulation, 1, FOREVER, "", "multiplies the batch size"),
        CLI_WORD("optimizer", &t->optimizer, "adamw|rmsprop", "optim", "how gradients move weights"),
        CLI_WORD("lr-scheduler", &t->schedule, "constant|linear|cosine", "lr_scheduler_type", "after the warm-up"),
        CLI_WORD("optimizer-dtype", &s->optimizer_dtype, "fp32|bf16", "", "of its state, which bf16 halves"),
        CLI_INT("warmup-steps", &s->warmup_steps, 0, FOREVER, "", "updates of linear warm-up"),
        CLI_DOUBLE("max-grad-norm", &t->max_grad_norm, 0, 1e9, "", "gradients are scaled down to this; 0: never"),
        CLI_DOUBLE("weight-decay", &t->weight_decay, 0, 1000, "", "of AdamW and RMSprop"),
        CLI_DOUBLE("adam-beta1", &t->adam_beta1, 0, 0.999999, "", "of AdamW"),
        CLI_DOUBLE("adam-beta2", &t->adam_beta2, 0, 0.9999999, "", "of AdamW"),
        CLI_DOUBLE("adam-epsilon", &t->adam_epsilon, CLI_ABOVE_0, 1, "", "of AdamW and RMSprop"),
        CLI_DOUBLE("rmsprop-alpha", &t->rmsprop_alpha, 0, 0.9999999, "", "of RMSprop"),
        CLI_UINT64("seed", &t->seed, "", "of the data's order and of random weights"),
        CLI_WORD("sft-reduction", &t->sft_reduction, "token_mean|sequence_sum", "",
                 "sft: mean over the batch's tokens, or sum over each answer and mean over answers"),
        CLI_WORD("precision", &s->precision, "fp32|mixed|bf16", "",
                 "mixed: products of bf16 numbers; bf16: weights are kept so, too (under adapters: as in the file)"),
        CLI_HEADING("Preferences (dpo)"),
        CLI_DOUBLE("beta", &l->beta, CLI_ABOVE_0, 1e6, "", "how strongly the reference holds"),
        CLI_WORD("loss", &s->loss, s->losses, "loss_type", "of a pair"),
        CLI_DOUBLE("label-smoothing", &l->label_smoothing, 0, 0.5, "", "share of labels taken to be wrong"),
        CLI_DOUBLE("sft-weight", &l->sft_weight, 0, 1e6, "rpo_alpha",
                   "adds so much of the chosen answers' negative log-likelihood per token"),
        CLI_DOUBLE("gamma", &l->gamma, 0, 1e6, "simpo_gamma", "SimPO's margin"),
        CLI_DOUBLE("lambda", &l->lambda, 0, 1e6, "dpop_lambda", "DPOP's penalty"),
        CLI_DOUBLE("tau", &l->tau, CLI_ABOVE_0, 1e6, "discopop_tau", "DiscoPOP's temperature"),
        CLI_FLAG("reference-free", &l->reference_free, "", "take the reference's log-probabilities as 0"),
        CLI_STRING("reference-file", &s->reference_file, "FILE", "",
                   "keep the reference's log-probabilities here (of evaluation: FILE.eval), use them when they fit"),
        CLI_HEADING("LoRA"),
        CLI_INT("lora-r", &s->lora_r, 0, 65536, "", "rank of the adapters; 0: train all weights"),
        CLI_DOUBLE("lora-alpha", &s->lora_alpha, CLI_ABOVE_0, 1e6, "", "their scale is alpha / r"),
        CLI_STRING("lora-targets", &s->targets, "A,B", "lora_target_modules",
                   "modules that get one; PEFT's by default"),
        CLI_FLAG("rslora", &s->rslora, "use_rslora", "scale alpha / sqrt(r) instead"),
        CLI_STRING("adapter", &s->adapter, "DIR", "", "go on from this PEFT adapter"),
        CLI_FLAG("merge", &s->merge, "", "at the end write the merged model too"),
        CLI_HEADING("The run"),
        CLI_INT("eval-every", &s->eval_every, 0, FOREVER, "", "examples between evaluations; 0: at the end"),
        CLI_INT("eval-steps", &s->eval_steps, 0, FOREVER, "", "the same, in updates; 0: see --eval-every"),
        CLI_INT("eval-size", &s->eval_size, 0, FOREVER, "", "evaluation examples used, the same each time; 0: all"),
        CLI_INT("save-every", &s->save_every, 0, FOREVER, "save_steps",
                "updates between checkpoints; 0: with each evaluation; after Ctrl-C and at the end in any case"),
        CLI_INT("keep", &s->keep, 0, 1000000, "save_total_limit",
                "so many checkpoints stay, at least 2, and the one with the best evaluation; 0: none are written"),
        CLI_FLAG("resume", &s->resume, "resume_from_checkpoint",
                 "go on from the newest checkpoint in the output directory that is whole"),
        CLI_WORD(
            "stop-metric", &s->stop_metric, "none|rewards/accuracies|rewards/margins|loss", "metric_for_best_model",
            "of the evaluation: training ends when it no longer improves, and the best evaluation's model is written"),
        CLI_INT("stop-patience", &s->stop_patience, 1, FOREVER, "early_stopping_patience",
                "evaluations in a row without improvement that end it"),
        CLI_DOUBLE("stop-min-delta", &s->stop_min_delta, 0, 1e6, "early_stopping_threshold",
                   "what counts as improvement, over the value that last did: small steps do not add up to one"),
        CLI_INT("stop-min-steps", &s->stop_min_steps, 0, FOREVER, "", "updates before which no evaluation counts"),
        CLI_INT("sample-prompts", &s->sample_prompts, 0, 1024, "",
                "evaluation prompts answered each time, by the model and by the one it was; samples.jsonl; 0: none"),
        CLI_INT("sample-max-new-tokens", &s->sample_tokens, 1, 65536, "", "the longest answer"),
        CLI_DOUBLE("sample-temperature", &s->sample_temperature, 0, 100, "", "0: the likeliest token each time"),
        CLI_INT("threads", &s->threads, 0, 1024, "", "0: one per core. Changes no bit, nor do the next four"),
        CLI_WORD("simd", &s->simd, "auto|scalar|avx2|avx512|avx512-bf16|neon", "", "instructions"),

        CLI_BYTES("memory", &t->memory, "", "most that the plan may take (4G): picks the next two, and tiles; 0: any"),
        CLI_INT("micro-rows", &s->micro_rows, 0, FOREVER, "", "most tokens computed at a time; 0: planned"),
        CLI_FLAG("recompute", &t->recompute, "gradient_checkpointing", "less memory, more work"),
        CLI_FLAG("verify", &s->verify, "", "compare the checksums in the model's files before they are used"),
        CLI_FLAG("mmap", &s->map, "", "map the weights below adapters; --no-mmap reads them into memory"),
        CLI_STRING("tensorboard", &s->tensorboard, "DIR", "logging_dir",
                   "write the metrics as TensorBoard's events, too"),
        CLI_FLAG("plan", &s->plan, "", "print memory and work, then stop"),
        CLI_FLAG("quiet", &s->quiet, "", "print the result only"),
    };
    if (cli_parse(p, options, CLI_COUNT(options), argc, argv)) return 1;
    memcpy(s->options, options, sizeof options); /* p's own pointer ends with this function; it is not used again */
    s->option_count = CLI_COUNT(options);
    return 0;
}

static int settings_check(settings *s) {
    int64_t batch = (int64_t)s->batch_size * s->accumulation;
    if (!s->model == !s->init)
        return cli_die("expected either --model DIR (a model to fine-tune) or --init CONFIG.json (random weights)");
    if (!s->train) return cli_die("expected --train FILE, the training data");
    if (!s->output && !s->plan) return cli_die("expected --output DIR, where the trained model goes");
    if (s->lora_r > 0 && s->adapter)
        return cli_die("--lora-r %d with --adapter %s: the adapter has a rank of its own; leave --lora-r out",
                       s->lora_r, s->adapter);
    if (s->merge && !s->lora_r && !s->adapter) return cli_die("--merge is for LoRA: give --lora-r or --adapter too");
    if (s->reference_file && s->t.objective == DPO_SFT)
        return cli_die("--reference-file is for dpo; sft has no reference");
    if (s->keep == 1)
        return cli_die("--keep 1 keeps no checkpoint to fall back on; give at least 2, or 0 to write none");
    if (s->resume && !s->keep) return cli_die("--resume goes on with checkpoints; leave --keep 0 out");
    if (batch > FOREVER)
        return cli_die("--batch-size %d times %d is more than %d", s->batch_size, s->accumulation, FOREVER);
    if (s->stop_metric && s->stop_metric != STOP_LOSS && s->t.objective == DPO_SFT)
        return cli_die("--stop-metric %s is for dpo; sft has loss",
                       s->stop_metric == STOP_ACCURACIES ? "rewards/accuracies" : "rewards/margins");
    if (s->stop_metric && !s->eval_every && !s->eval_steps)
        return cli_die("--stop-metric needs evaluations on the way: give --eval-steps or --eval-every");
    if (s->stop_metric && !s->keep)
        return cli_die("--stop-metric needs checkpoints, one of which becomes the model; leave --keep 0 out");
    s->t.loss = dpo_loss_by_name(dpo_loss_name(s->loss));
    s->t.num_train_epochs = s->epochs;
    s->t.max_steps = s->max_steps;
    s->t.batch_size = batch;
    s->t.warmup_steps = s->warmup_steps;
    s->t.eval_size = s->eval_size;
    s->t.micro_rows = s->micro_rows;
    s->t.optimizer_dtype = s->optimizer_dtype ? DPO_BF16 : DPO_F32;
    return 0;
}

/* ---- the run's state -------------------------------------------------------------------------------------------- */

/* Prompts that are answered at each evaluation, and what the model answered before the first update. */
typedef struct samples {
    int64_t n, max_new;
    int64_t *item;    /* of the evaluation data */
    char **reference; /* NULL: not computed */
    FILE *file;
    double length; /* mean ids of the last answers */
} samples;

typedef struct run {
    settings s;
    dpo_context *c;
    dpo_model *m;
    dpo_model_config config;
    dpo_tokenizer *tokenizer;
    const char *tokenizer_dir; /* whose files go with the model; NULL: there are none */
    dataset d;
    dpo_data *train, *eval; /* of d; eval: NULL if there is none */
    samples samples;
    dpo_trainer *t;
    dpo_plan plan;
    FILE *metrics;
    tensorboard *board;    /* NULL: not asked for */
    int lost;              /* errno of a line that could not be written */
    const char *lost_file; /* the file that lacks it */
    int training;          /* steps have a live line of their own */
    dpo_metrics last;      /* of the last update */
    int64_t evaluated;     /* step of the last evaluation, -1: none */
    int due;               /* an evaluation is */
    dpo_metrics first;     /* where this process began: counts of the checkpoint, or 0 */
    checkpoint_set set;    /* set.dir NULL: none are written */
    char checkpoints[4096];
    int lock;         /* a file that is open for as long as the process lives */
    int64_t saved;    /* step of the last checkpoint that holds everything, -1: none */
    double best;      /* the best evaluation so far, if set.best >= 0: loss, or rewards/accuracies */
    double stop_best; /* the value that last was an improvement; evaluations since: stop_count, -1: none yet */
    int stop_count;
    char unsaved[2048]; /* why a checkpoint could not be written */
    double train_seconds, began, phase_began;
    const char *phase;
    int64_t phase_done;
} run;

/* The context's sentence, as the program's last word. */
static int run_fail(run *u) { return cli_die("%s", dpo_error(u->c)); }

static int run_lora(const run *u) { return u->s.lora_r > 0 || u->s.adapter; }

static void on_log(void *user, int level, const char *line) {
    const run *u = (const run *)user;
    if (level == DPO_LOG_WARNING) cli_note("warning: %s", line);
    else if (!u->s.quiet) cli_note("%s", line);
}

static void on_progress(void *user, const char *what, int64_t done, int64_t total) {
    run *u = (run *)user;
    char line[256];
    double now = cli_clock();
    if (u->s.quiet || u->training || total <= 0) return;
    if (u->phase != what || done < u->phase_done) u->phase_began = now; /* another phase, or the next data set */
    u->phase = what;
    u->phase_done = done;
    snprintf(line, sizeof line, "%s: %s of %s, %s left", what, cli_count((uint64_t)done), cli_count((uint64_t)total),
             cli_duration(now > u->phase_began ? (now - u->phase_began) / (double)done * (double)(total - done) : -1));
    cli_live(line);
}

static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}

/* ---- files and directories -------------------------------------------------------------------------------------- */

static int write_chat_format(const char *dir, int chat) {
    char path[4096], text[80];
    int n = snprintf(text, sizeof text, "{\"chat_format\": \"%s\"}\n", chat_name(chat));
    return path_join(path, sizeof path, dir, "dpo_chat.json") || write_file(path, text, (size_t)n);
}

/* The tokenizer's files. One that was named as a file goes alone: those beside it may belong to another. */
static int write_tokenizer(const run *u, const char *dir) {
    static const char *const files[] = {
        "tokenizer.json", "tokenizer_config.json",  "special_tokens_map.json", "vocab.json",
        "merges.txt",     "generation_config.json", "chat_template.jinja"};
    static const char vocab[] = "vocab.json";
    const char *from = u->tokenizer_dir, *slash = from ? strrchr(from, '/') : NULL, *name = slash ? slash + 1 : from;
    char parent[4096] = ".", merges[4096];
    struct stat st;
    size_t i, n;
    if (!from) return 0;
    if (stat(from, &st) || S_ISDIR(st.st_mode)) {
        for (i = 0; i < sizeof files / sizeof *files; i++)
            if (copy_file(from, files[i], dir, files[i])) return 1;
        return 0;
    }
    n = strlen(name);
    if (slash) snprintf(parent, sizeof parent, "%.*s", slash == from ? 1 : (int)(slash - from), from);
    if (n < sizeof vocab - 1 || strcmp(name + n - (sizeof vocab - 1), vocab))
        return copy_file(parent, name, dir, "tokenizer.json");
    snprintf(merges, sizeof merges, "%.*smerges.txt", (int)(n - (sizeof vocab - 1)), name); /* gpt2.vocab.json, too */
    return copy_file(parent, name, dir, vocab) || copy_file(parent, merges, dir, "merges.txt");
}

/* What a model needs besides its weights to be used: its tokenizer, and how its turns are written. */
static int write_companions(const run *u, const char *dir) {
    if (write_tokenizer(u, dir)) return 1;
    if (u->s.model && copy_file(u->s.model, "dpo_chat.json", dir, "dpo_chat.json")) return 1;
    return u->d.file[0].chat ? write_chat_format(dir, u->d.file[0].chat) : 0;
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* A tokenized file may have been made for SFT. */
static int lacks_pairs(const dpo_data *d, const char *path) {
    int64_t i, n = dpo_data_count(d), rejected = 1;
    for (i = 0; i < n && rejected; i++) dpo_data_item(d, i, NULL, NULL, NULL, NULL, NULL, &rejected);
    return !rejected && cli_die("%s: example %s has no rejected answer, and dpo needs pairs; make the file with "
                                "dpo-tokenize data --objective dpo",
                                path, cli_count((uint64_t)i));
}

static int read_data(run *u) {
    settings *s = &u->s;
    int64_t longest;
    u->d = dataset_start(u->c, u->tokenizer, s->t.objective == DPO_SFT);
    u->d.o = s->d;
    u->d.quiet = s->quiet;
    if (s->eval) u->d.o.eval_fraction = 0;
    if (s->model) u->d.model_chat = chat_format_of_model(u->c, s->model);
    if (dataset_read(&u->d, s->train, 0) || (s->eval && !cli_stopped() && dataset_read(&u->d, s->eval, 1))) return 1;
    if (!s->quiet && !cli_stopped()) dataset_print(&u->d);
    u->train = u->d.train;
    u->eval = u->d.eval;
    longest = dataset_measure(u->train).whole.most;
    if (longest > u->config.max_position_embeddings)
        cli_note("warning: the longest row has %s tokens, the model was made for %s; --max-length %d cuts it",
                 cli_count((uint64_t)longest), cli_count((uint64_t)u->config.max_position_embeddings),
                 (int)u->config.max_position_embeddings);
    if (cli_stopped() || s->t.objective == DPO_SFT) return 0;
    return lacks_pairs(u->train, s->train) || (u->eval && lacks_pairs(u->eval, s->eval ? s->eval : s->train));
}

/* ---- model ------------------------------------------------------------------------------------------------------ */

/* Says what stands where a model directory should, if it is something that dpo-convert makes one of. */
static int check_model_dir(const char *dir) {
    static const char *const other[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    int i;
    if (access(dir, R_OK)) return cli_die("cannot open the model %s: %s", dir, strerror(errno));
    if (!is_dir(dir))
        return cli_die("%s is a file; --model expects a directory with config.json and model.safetensors, which "
                       "dpo-convert %s NEW_DIR makes of .bin, .pt and .safetensors files",
                       dir, dir);
    if (holds(dir, "model.safetensors") || holds(dir, "model.safetensors.index.json")) return 0;
    for (i = 0; i < 2; i++)
        if (holds(dir, other[i]))
            return cli_die("%s holds %s but no model.safetensors; convert it first: dpo-convert %s NEW_DIR", dir,
                           other[i], dir);
    return 0; /* the library names what is missing */
}

/* The tokenizer that --tokenizer or the model names. More ids than the model has rows cannot be used; fewer are common,
 * since vocabularies are padded. */
static int read_tokenizer(run *u) {
    const settings *s = &u->s;
    const char *where = s->model ? s->model : s->init, *path = s->tokenizer;
    int vocab;
    if (!path) path = u->config.byte_tokenizer ? "bytes" : s->model;
    if (!path)
        return cli_die("%s names no tokenizer; give --tokenizer DIR, or --tokenizer bytes to read text as bytes",
                       where);
    u->tokenizer = dataset_tokenizer(u->c, path, s->d.eos);
    if (!u->tokenizer) return 1;
    u->tokenizer_dir = strcmp(path, "bytes") ? path : NULL;
    vocab = dpo_tokenizer_vocab(u->tokenizer);
    if (vocab > u->config.vocab_size)
        return cli_die("the tokenizer %s has %d ids, the model %s a vocabulary of %d; use the tokenizer that the model "
                       "was trained with",
                       path, vocab, where, u->config.vocab_size);
    if (dpo_tokenizer_eos(u->tokenizer) >= 0) return 0;
    if (u->config.eos_token_id < 0 || u->config.eos_token_id >= u->config.vocab_size)
        return cli_die("neither the tokenizer %s nor the model's config.json names an end-of-text id; give --eos PIECE",
                       path);
    return dpo_tokenizer_set_ends(u->tokenizer, dpo_tokenizer_bos(u->tokenizer), u->config.eos_token_id) ? run_fail(u)
                                                                                                         : 0;
}

static int read_config(run *u) {
    const settings *s = &u->s;
    struct stat a, b;
    if (s->model && check_model_dir(s->model)) return 1;
    if (s->model && s->output && !stat(s->model, &a) && !stat(s->output, &b) && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino)
        return cli_die("--output %s is the model itself, which would be overwritten; name another directory",
                       s->output);
    if (dpo_model_config_read(u->c, s->model ? s->model : s->init, &u->config)) return run_fail(u);
    return read_tokenizer(u);
}

/* Under adapters the weights stay in their file. */
static dpo_load_config load_how(const run *u) {
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    how.precision = u->s.precision;
    how.frozen = run_lora(u);
    how.verify = u->s.verify;
    how.no_map = !u->s.map;
    return how;
}
static dpo_model *load_weights(const run *u) {
    const settings *s = &u->s;
    dpo_load_config how = load_how(u);
    dpo_model *made, *m;
    if (s->model) return dpo_model_load_as(u->c, s->model, &how);
    made = dpo_model_create_from(u->c, s->init, s->t.seed);
    if (!made || s->precision == DPO_PRECISION_FP32) return made;
    m = dpo_model_copy(made, &how);
    dpo_model_free(made);
    return m;
}

static int load_model(run *u) {
    const settings *s = &u->s;
    u->m = load_weights(u);
    if (!u->m) return run_fail(u);
    if (s->adapter && dpo_lora_load(u->m, s->adapter)) return run_fail(u);
    if (s->lora_r > 0) {
        dpo_lora_config lora = dpo_lora_defaults(u->config.family);
        lora.r = s->lora_r;
        lora.lora_alpha = s->lora_alpha;
        lora.use_rslora = s->rslora;
        if (s->targets) lora.target_modules = s->targets;
        if (dpo_lora_attach(u->m, &lora, s->t.seed)) return run_fail(u);
    }
    return 0;
}

/* Rank and modules of a loaded adapter, for the plan, from its tensors: ...attention.query_key_value.lora_A.weight. */
static int adapter_shape(run *u, dpo_lora_config *lora, char *targets, size_t cap) {
    int64_t n = dpo_lora_tensors(u->m, NULL, 0), i;
    dpo_tensor *tensors = n > 0 ? (dpo_tensor *)malloc((size_t)n * sizeof *tensors) : NULL;
    size_t used = 0;
    if (!tensors) return cli_die("%s: no memory to look at the adapter", u->s.adapter);
    dpo_lora_tensors(u->m, tensors, n);
    targets[0] = 0;
    for (i = 0; i < n; i++) {
        const char *end = strstr(tensors[i].name, ".lora_A"), *name = end;
        char word[80];
        int length;
        while (name && name > tensors[i].name && name[-1] != '.') name--;
        if (!end) continue;
        lora->r = (int)tensors[i].shape[0];
        length = snprintf(word, sizeof word, ",%.*s", (int)(end - name), name);
        if (length < 0 || (size_t)length >= sizeof word || strstr(targets, word) || used + (size_t)length >= cap)
            continue;
        memcpy(targets + used, word, (size_t)length + 1);
        used += (size_t)length;
    }
    lora->target_modules = targets + 1; /* without the first comma */
    free(tensors);
    return 0;
}

/* The trainer is made for the training data; an evaluation example may be longer, and must fit it too. */
static void fit_evaluation(run *u) {
    int64_t i, prompt, chosen, rejected, n = u->eval ? dpo_data_count(u->eval) : 0;
    for (i = 0; i < n; i++) {
        int64_t path;
        dpo_data_item(u->eval, i, NULL, &prompt, NULL, &chosen, NULL, &rejected);
        path = prompt + (chosen > rejected ? chosen : rejected);
        if (path > u->s.t.max_path) u->s.t.max_path = path;
        if (prompt + chosen + rejected > u->s.t.max_rows) u->s.t.max_rows = prompt + chosen + rejected;
    }
}

static int make_plan(run *u) {
    dpo_lora_config lora = dpo_lora_defaults(u->config.family);
    dpo_load_config how = load_how(u);
    char targets[1024], text[4096];
    lora.r = u->s.lora_r;
    lora.lora_alpha = u->s.lora_alpha;
    if (u->s.targets) lora.target_modules = u->s.targets;
    fit_evaluation(u);
    if (u->s.adapter && adapter_shape(u, &lora, targets, sizeof targets)) return 1;
    if (dpo_plan_train(u->c, &u->config, &how, run_lora(u) ? &lora : NULL, &u->s.t, u->train, u->eval, &u->plan))
        return run_fail(u);
    if (u->s.quiet && !u->s.plan) return 0;
    dpo_plan_text(&u->plan, text, sizeof text);
    printf("%s%s", text, text[0] && text[strlen(text) - 1] == '\n' ? "" : "\n");
    fflush(stdout);
    return 0;
}

/* ---- what is printed -------------------------------------------------------------------------------------------- */

/* Build, numerics version, and every setting that has a value and a meaning here: what it takes to repeat the run. */
static void print_settings(run *u) {
    size_t used = 0, cap = 8192;
    char *text = (char *)malloc(cap), value[512];
    int i, matters = 1;
    printf("%s\n", dpo_build_info(u->c));
    if (!text) return;
    used += (size_t)snprintf(text, cap, "%s with", u->s.t.objective == DPO_SFT ? "sft" : "dpo");
    for (i = 0; i < u->s.option_count && used < cap; i++) {
        const cli_option *o = &u->s.options[i];
        if (o->kind == CLI_IS_HEADING)
            matters = !(o->name[0] == 'P' && u->s.t.objective == DPO_SFT) && !(o->name[0] == 'L' && !run_lora(u));
        if (o->kind == CLI_IS_HEADING || !matters) continue;
        cli_default(o, value, sizeof value);
        if (value[0] && (o->kind != CLI_IS_FLAG || *(const int *)o->value))
            used += (size_t)snprintf(text + used, cap - used, " --%s %s", o->name, o->kind == CLI_IS_FLAG ? "" : value);
    }
    cli_wrap(stdout, text, 0, 4, 100);
    free(text);
}

static double accuracies_error(const dpo_metrics *m) {
    return sqrt(m->rewards_accuracies * (1 - m->rewards_accuracies) / (double)m->batch_examples);
}
static void print_evaluation(const run *u, const dpo_metrics *m) {
    cli_live_clear();
    printf("evaluation after %s examples (step %s): loss %.4f", cli_count((uint64_t)u->last.examples),
           cli_count((uint64_t)u->last.step), m->loss);
    if (m->has_rewards) {
        printf(", rewards/accuracies %.3f (standard error %.3f), margins %.4f", m->rewards_accuracies,
               accuracies_error(m), m->rewards_margins);
        if (m->rewards_ties > 0) printf(", ties %.3f", m->rewards_ties);
    }
    printf("  [%s examples]", cli_count((uint64_t)m->batch_examples));
    if (u->samples.n) printf(", samples of %.1f tokens", u->samples.length);
    printf("\n");
    fflush(stdout);
}

/* Tokens a second of what this process has trained. */
static uint64_t run_speed(const run *u, const dpo_metrics *m) {
    return u->train_seconds > 0 ? (uint64_t)((double)(m->tokens - u->first.tokens) / u->train_seconds) : 0;
}

static void print_step(const run *u, const dpo_metrics *m) {
    char line[256];
    int64_t steps = dpo_trainer_steps(u->t);
    int n = snprintf(line, sizeof line, "step %s/%s  loss %.4f", cli_count((uint64_t)m->step),
                     cli_count((uint64_t)steps), m->loss);
    if (m->has_rewards && n > 0 && (size_t)n < sizeof line)
        n += snprintf(line + n, sizeof line - (size_t)n, "  accuracies %.3f", m->rewards_accuracies);
    if (n > 0 && (size_t)n < sizeof line)
        snprintf(line + n, sizeof line - (size_t)n, "  %s tokens/s  %s left", cli_count(run_speed(u, m)),
                 cli_duration(u->train_seconds / (double)(m->step - u->first.step) * (double)(steps - m->step)));
    cli_live(line);
}

/* A line could not be written. A full disk must not cost the model: training ends, and the model is written. */
static void lose(run *u, const char *file) {
    u->lost = errno ? errno : EIO;
    u->lost_file = file;
}

/* The same numbers for TensorBoard, under the same names. */
static void write_events(run *u, const char *line) {
    dpo_json *j = dpo_json_create(u->c);
    int64_t v, i, n;
    if (!j || dpo_json_parse(j, line, strlen(line), NULL, NULL)) n = 0;
    else n = dpo_json_count(j, 0);
    for (i = 0, v = dpo_json_first(j, 0); i < n; i++, v = dpo_json_next(j, v + 1)) {
        char name[80];
        double x;
        if (dpo_json_string(j, v, name, sizeof name) >= (int64_t)sizeof name) continue;
        if (strcmp(name, "step") && dpo_json_number(j, v + 1, &x))
            tensorboard_metric(u->board, name, u->last.step, (double)time(NULL), x);
    }
    dpo_json_free(j);
}

/* A line of metrics.jsonl, there at once for whoever watches. */
static void write_metrics(run *u, const dpo_metrics *m) {
    char line[2048];
    size_t n = dpo_metrics_json(m, line, sizeof line - 64);
    if (m->is_eval && u->samples.n && n && n < sizeof line - 64) /* one more, before the closing brace */
        snprintf(line + n - 1, 64, ", \"eval_sampled_length\": %s}", cli_number(u->samples.length));
    errno = 0;
    if (fprintf(u->metrics, "%s\n", line) < 0 || fflush(u->metrics)) lose(u, "metrics.jsonl");
    if (u->board) write_events(u, line);
}

/* 64 bits over names and values of the adapters (FNV-1a): dpo_model_hash leaves them out. */
static int adapter_hash(const run *u, uint64_t *out) {
    int64_t n = dpo_lora_tensors(u->m, NULL, 0), i;
    dpo_tensor *tensors = n > 0 ? (dpo_tensor *)malloc((size_t)n * sizeof *tensors) : NULL;
    uint64_t h = 1469598103934665603u;
    if (!tensors) return 1;
    dpo_lora_tensors(u->m, tensors, n);
    for (i = 0; i < n; i++) {
        const dpo_tensor *t = &tensors[i];
        int64_t k, values = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
        const char *name;
        for (name = t->name; *name; name++) h = (h ^ (unsigned char)*name) * 1099511628211u;
        for (k = 0; k < values; k++) {
            uint32_t bits;
            memcpy(&bits, (const float *)t->data + k, sizeof bits);
            h = (h ^ bits) * 1099511628211u;
        }
    }
    free(tensors);
    *out = h ^ (h >> 32);
    return 0;
}

/* ---- samples ---------------------------------------------------------------------------------------------------- */

/* The prompts, spread over the evaluation data; those that leave no room for an answer are passed over. */
static int samples_choose(run *u) {
    samples *p = &u->samples;
    int64_t n = u->eval ? dpo_data_count(u->eval) : 0, want = u->s.sample_prompts, room, i;
    int64_t positions = u->config.max_position_embeddings;
    if (!n || !want) return 0;
    if (want > n) want = n;
    p->item = (int64_t *)calloc((size_t)want, sizeof *p->item);
    p->reference = (char **)calloc((size_t)want, sizeof *p->reference);
    if (!p->item || !p->reference) return cli_die("no memory for --sample-prompts %s", cli_count((uint64_t)want));
    p->max_new = u->s.sample_tokens;
    if (positions > 0 && p->max_new > positions / 2) p->max_new = positions / 2;
    for (i = 0; i < want; i++) {
        int64_t item = i * n / want, prompt;
        dpo_data_item(u->eval, item, NULL, &prompt, NULL, NULL, NULL, NULL);
        room = positions > 0 ? positions - prompt : p->max_new;
        if (prompt > 0 && room >= p->max_new) p->item[p->n++] = item;
    }
    return 0;
}

/* The format of the data's turns, else of the model's, for stops. */
static int run_chat(const run *u) {
    return u->d.file[0].chat || u->d.model_chat < 0 ? u->d.file[0].chat : u->d.model_chat;
}

/* Ids as text on the heap, an answer cut before a stop string; NULL without memory. */
static char *samples_text(const run *u, const int32_t *ids, int64_t n, int answer) {
    const char *const *stops;
    int64_t bytes = dpo_decode(u->tokenizer, ids, n, NULL, 0), i, count = chat_stops(run_chat(u), &stops);
    char *text = bytes < 0 ? NULL : (char *)malloc((size_t)bytes + 1), *stop;
    if (!text) return NULL;
    dpo_decode(u->tokenizer, ids, n, text, (size_t)bytes);
    text[bytes] = 0;
    for (i = 0; answer && i < count; i++)
        if ((stop = strstr(text, stops[i])) != NULL) *stop = 0;
    return text;
}

/* The model's answers as it is now: texts on the heap in `text`, ids counted in `length`. */
static int samples_answer(run *u, char **text, int64_t *length) {
    samples *p = &u->samples;
    const int32_t **prompt = (const int32_t **)calloc((size_t)p->n, sizeof *prompt);
    int64_t *n_prompt = (int64_t *)calloc((size_t)p->n, sizeof *n_prompt), i;
    int32_t *out = (int32_t *)calloc((size_t)(p->n * p->max_new), sizeof *out), end_id;
    const char *end = chat_end_of_turn(run_chat(u));
    dpo_generate_config g = dpo_generate_defaults();
    int failed = 0;
    g.max_new_tokens = p->max_new;
    g.temperature = u->s.sample_temperature;
    g.seed = u->s.t.seed;
    g.eos = dpo_tokenizer_eos(u->tokenizer);
    end_id = end ? dpo_tokenizer_id(u->tokenizer, end, strlen(end)) : -1;
    g.stop_ids = &end_id;
    g.n_stop_ids = end_id >= 0;
    g.n_stop = chat_stops(run_chat(u), &g.stop);
    g.tokenizer = u->tokenizer;
    g.pack = u->s.t.memory ? -1 : 0; /* a budget has no room for a copy of the weights */
    if (!prompt || !n_prompt || !out) failed = cli_die("no memory for --sample-prompts");
    for (i = 0; !failed && i < p->n; i++)
        dpo_data_item(u->eval, p->item[i], &prompt[i], &n_prompt[i], NULL, NULL, NULL, NULL);
    if (!failed && dpo_generate(u->m, prompt, n_prompt, p->n, &g, out, length)) {
        if (dpo_status(u->c) != DPO_E_CANCELLED) failed = run_fail(u);
        else failed = -1; /* a wish to stop: no samples, no error */
        if (failed < 0) dpo_clear(u->c);
    }
    for (i = 0; !failed && i < p->n; i++) {
        int32_t *row = out + i * p->max_new;
        int64_t k, known = 0; /* a padded vocabulary has ids that the tokenizer has not */
        for (k = 0; k < length[i]; k++)
            if (row[k] < dpo_tokenizer_vocab(u->tokenizer)) row[known++] = row[k];
        text[i] = samples_text(u, row, known, 1);
        if (!text[i]) failed = cli_die("no memory for a sample");
    }
    free(prompt);
    free(n_prompt);
    free(out);
    return failed;
}

static void samples_field(FILE *f, const char *name, const char *text) {
    fprintf(f, ", \"%s\": ", name);
    cli_json_string(f, text ? text : "", text ? strlen(text) : 0);
}

/* A line of samples.jsonl for each prompt. */
static void samples_write(run *u, char *const *text, const int64_t *length) {
    samples *p = &u->samples;
    int64_t i, total = 0;
    errno = 0;
    for (i = 0; i < p->n; i++) {
        const int32_t *prompt, *chosen;
        int64_t np, nc;
        char *asked, *better;
        dpo_data_item(u->eval, p->item[i], &prompt, &np, &chosen, &nc, NULL, NULL);
        asked = samples_text(u, prompt, np, 0);
        better = samples_text(u, chosen, nc, 1);
        fprintf(p->file, "{\"step\": %lld, \"examples\": %lld, \"tokens\": %lld", (long long)u->last.step,
                (long long)u->last.examples, (long long)length[i]);
        samples_field(p->file, "prompt", asked);
        samples_field(p->file, "policy", text[i]);
        samples_field(p->file, "reference", p->reference[i]);
        samples_field(p->file, "chosen", better);
        fputs("}\n", p->file);
        free(asked);
        free(better);
        total += length[i];
    }
    p->length = (double)total / (double)p->n;
    if (fflush(p->file) || ferror(p->file)) lose(u, "samples.jsonl");
}

/* What the model answers before its first update, when it is the reference: with adapters, they are off for it (a
 * loaded adapter has moved already). 0, 1 after an error, -1 when told to stop. */
static int sample_reference(run *u) {
    samples *p = &u->samples;
    int64_t *length = p->n ? (int64_t *)calloc((size_t)p->n, sizeof *length) : NULL;
    int failed = p->n && !length ? cli_die("no memory for --sample-prompts") : 0;
    if (p->n && !failed && !p->reference[0]) {
        if (run_lora(u)) dpo_lora_enable(u->m, 0);
        failed = samples_answer(u, p->reference, length);
        if (run_lora(u)) dpo_lora_enable(u->m, 1);
    }
    free(length);
    return failed;
}

/* Answers the prompts and writes them down. Returns as sample_reference does. */
static int sample(run *u) {
    samples *p = &u->samples;
    char **text = p->n ? (char **)calloc((size_t)p->n, sizeof *text) : NULL;
    int64_t *length = p->n ? (int64_t *)calloc((size_t)p->n, sizeof *length) : NULL, i;
    int failed = p->n && (!text || !length) ? cli_die("no memory for --sample-prompts") : sample_reference(u);
    if (p->n && !failed) failed = samples_answer(u, text, length);
    if (p->n && !failed) samples_write(u, text, length);
    for (i = 0; text && i < p->n; i++) free(text[i]);
    free(text);
    free(length);
    return failed;
}

static void samples_free(samples *p) {
    int64_t i;
    for (i = 0; i < p->n; i++) free(p->reference[i]);
    free(p->reference);
    free(p->item);
    if (p->file) fclose(p->file);
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

/* The reference's log-probabilities of one data set: from the file if it is there and fits, else computed and kept. A
 * file beside the checkpoints is this program's own, and may be replaced whatever is wrong with it. */
static int get_reference(run *u, dpo_data *d, const char *suffix) {
    char path[4200] = "";
    struct stat st;
    if (u->s.reference_file) {
        int n = snprintf(path, sizeof path, "%s%s", u->s.reference_file, suffix);
        if (n < 0 || (size_t)n >= sizeof path) return cli_die("--reference-file: the path is too long");
    } else if (u->set.dir) snprintf(path, sizeof path, "%s/reference.safetensors%s", u->set.dir, suffix);
    if (path[0] && !stat(path, &st)) {
        if (!dpo_reference_load(u->m, d, path)) {
            if (!u->s.quiet) printf("reference log-probabilities from %s\n", path);
            return 0;
        }
        if (dpo_status(u->c) != DPO_E_STATE && (u->s.reference_file || dpo_status(u->c) == DPO_E_MEMORY))
            return run_fail(u);
        cli_note("%s; they are computed anew", dpo_error(u->c));
        dpo_clear(u->c);
    }
    if (dpo_reference_compute(u->m, d)) return dpo_status(u->c) == DPO_E_CANCELLED ? 0 : run_fail(u);
    if (path[0] && dpo_reference_save(d, path)) return run_fail(u);
    cli_live_clear();
    return 0;
}

static int get_references(run *u) {
    const settings *s = &u->s;
    if (s->t.objective != DPO_PREFERENCE || s->t.loss_options.reference_free || !dpo_loss_needs_reference(s->t.loss))
        return 0;
    if (s->adapter && !s->quiet)
        printf("the reference is the model without the adapter; to start from the adapter itself, merge it first\n");
    if (get_reference(u, u->train, "")) return 1;
    return u->eval && !cli_stopped() ? get_reference(u, u->eval, ".eval") : 0;
}

static int save_result(run *u) {
    char path[4096];
    dpo_model *merged;
    if (!run_lora(u)) {
        int dtype = u->s.precision == DPO_PRECISION_BF16 ? DPO_BF16 : DPO_F32; /* nothing is lost */
        if (dpo_model_save(u->m, u->s.output, dtype)) return run_fail(u);
        return write_companions(u, u->s.output);
    }
    if (path_join(path, sizeof path, u->s.output, "adapter")) return 1;
    if (dpo_lora_save(u->m, path, u->s.model ? u->s.model : NULL)) return run_fail(u);
    if (write_companions(u, path)) return 1;
    if (!u->s.merge) return 0;
    merged = dpo_lora_merge(u->m);
    if (!merged || dpo_model_save(merged, u->s.output, DPO_F32)) return run_fail(u);
    dpo_model_free(merged);
    return write_companions(u, u->s.output);
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------ */

static void on_checkpoint_note(void *user, const char *line) {
    (void)user;
    cli_live_clear();
    cli_note("%s", line);
}

/* What is in the output directory already; a run is not overwritten unasked. clean: it is this process's alone. */
static int scan_checkpoints(run *u, int clean) {
    if (checkpoint_scan(&u->set, clean)) return cli_die("%s", u->set.error);
    if (!u->set.n || u->s.resume) return 0;
    return cli_die("%s holds checkpoints of a run that came to update %s; give --resume to go on with it, or name "
                   "another --output",
                   u->checkpoints, cli_count((uint64_t)u->set.one[u->set.n - 1].step));
}

/* Asked before anything long is done. */
static int find_checkpoints(run *u) {
    if (path_join(u->checkpoints, sizeof u->checkpoints, u->s.output, "checkpoints")) return 1;
    checkpoint_start(&u->set, u->c, u->checkpoints, u->s.keep);
    u->set.note = on_checkpoint_note;
    if (scan_checkpoints(u, 0)) return 1;
    if (!u->s.keep) u->set.dir = NULL;
    return 0;
}

/* The directory, for this process alone: the system ends the lock with the process, however that ends. */
static int open_checkpoints(run *u) {
    char path[4200];
    struct flock lock;
    if (!u->set.dir) return 0;
    if (make_dirs(u->checkpoints, "the directory")) return 1;
    snprintf(path, sizeof path, "%s/lock", u->checkpoints);
    u->lock = open(path, O_RDWR | O_CREAT, 0666);
    if (u->lock < 0) return cli_die("cannot open %s: %s", path, strerror(errno));
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(u->lock, F_SETLK, &lock)) {
        if (errno == EACCES || errno == EAGAIN)
            return cli_die("another process is training into %s; wait until it ends, or name another --output",
                           u->s.output);
        cli_note("warning: %s cannot be locked (%s): do not start another run into it", path, strerror(errno));
    }
    return scan_checkpoints(u, 1);
}

/* A number that this program has written into a checkpoint's metadata; one that it cannot have written is none. */
static double noted(const dpo_tensors_file *f, const char *key, double otherwise) {
    const char *text = dpo_tensors_metadata(f, key);
    double x;
    return text && cli_read_double(text, &x) && x > -9e15 && x < 9e15 ? x : otherwise;
}

/* The metric that --stop-metric names, else the one that tells the best model apart. */
static int best_metric(const run *u) {
    return u->s.stop_metric ? u->s.stop_metric : u->s.t.objective == DPO_PREFERENCE ? STOP_ACCURACIES : STOP_LOSS;
}
/* Is there a checkpoint of this step? */
static int has_checkpoint(const run *u, long long step) {
    size_t i;
    for (i = 0; i < u->set.n; i++)
        if (u->set.one[i].step == step && !u->set.one[i].damaged) return 1;
    return 0;
}

/* Goes on from the newest checkpoint that is whole, if there is one; *log: bytes of metrics.jsonl and samples.jsonl. */
static int resume(run *u, double log[2]) {
    dpo_tensors_file *f;
    int r = checkpoint_resume(&u->set, u->t);
    if (r < 0) return cli_die("%s", u->set.error);
    if (r > 0) {
        cli_note("%s holds no checkpoint: the run starts from its beginning", u->checkpoints);
        return 0;
    }
    f = dpo_tensors_open(u->c, u->set.path);
    if (!f) return run_fail(u);
    u->first.step = u->saved = (int64_t)noted(f, "step", 0);
    u->first.examples = (int64_t)noted(f, "examples", 0);
    u->first.tokens = (int64_t)noted(f, "tokens", 0);
    u->last = u->first;
    u->evaluated = (int64_t)noted(f, "evaluated", -1);
    u->due = noted(f, "evaluation_due", 0) != 0;
    u->set.best = (long long)noted(f, "best_step", -1);
    u->best = noted(f, "best_value", 0);
    u->stop_best = noted(f, "stop_best", 0);
    u->stop_count = (int)noted(f, "stop_count", -1);
    if ((int)noted(f, "best_metric", 0) != best_metric(u))
        u->set.best = u->stop_count = -1; /* other values than ours */
    if (!has_checkpoint(u, u->set.best)) u->set.best = -1;
    log[0] = noted(f, "metrics_bytes", -1);
    log[1] = noted(f, "samples_bytes", -1);
    dpo_tensors_close(f);
    if (!u->s.quiet) printf("resumed from %s, after update %s\n", u->set.path, cli_count((uint64_t)u->last.step));
    return 0;
}

/* A file of lines that goes on after its first `bytes`, which a checkpoint has seen; what came later comes again. */
static FILE *open_log(run *u, const char *name, double bytes) {
    char path[4096];
    struct stat st;
    FILE *f = NULL;
    int known = u->first.step > 0;
    if (path_join(path, sizeof path, u->s.output, name)) return NULL;
    if (known && !stat(path, &st) && S_ISREG(st.st_mode)) {
        if ((double)st.st_size < bytes)
            cli_note("warning: %s has %s bytes, it had %s when the checkpoint was written: lines are lost", path,
                     cli_count((uint64_t)st.st_size), cli_count((uint64_t)bytes));
        else if (bytes >= 0 && truncate(path, (off_t)bytes)) known = 0;
        if (known) f = fopen(path, "ab");
    } else {
        if (known && bytes > 0) cli_note("warning: %s is not there any more: it begins anew", path);
        f = fopen(path, "wb");
    }
    if (!f) cli_die("cannot write %s: %s", path, strerror(errno));
    else (void)fseeko(f, 0, SEEK_END); /* so that its length is known before a line is added */
    return f;
}

/* The lines are on the disk before the checkpoint that says how many there are. Returns the bytes. */
static long long sync_log(run *u, FILE *f, const char *name) {
    off_t at;
    if (!f) return 0;
    errno = 0;
    if (fflush(f) || (fsync(fileno(f)) && errno != EINVAL && errno != ENOTSUP && errno != EROFS)) lose(u, name);
    at = ftello(f);
    return at < 0 ? 0 : (long long)at; /* no file that could be cut */
}

/* A checkpoint of the last whole update, unless there is one. If that fails, the run comes to its end. */
static void save_checkpoint(run *u) {
    char text[9][32];
    const char *extra[19] = {"evaluated",  text[0],         "evaluation_due", text[1],     "metrics_bytes",
                             text[2],      "samples_bytes", text[3],          "best_step", text[4],
                             "best_value", text[5],         "stop_best",      text[6],     "stop_count",
                             text[7],      "best_metric",   text[8],          NULL};
    if (!u->set.dir || !u->last.step || u->saved == u->last.step) return;
    snprintf(text[0], sizeof text[0], "%lld", (long long)u->evaluated);
    snprintf(text[1], sizeof text[1], "%d", u->due);
    snprintf(text[2], sizeof text[2], "%lld", sync_log(u, u->metrics, "metrics.jsonl"));
    snprintf(text[3], sizeof text[3], "%lld", sync_log(u, u->samples.file, "samples.jsonl"));
    snprintf(text[4], sizeof text[4], "%lld", u->set.best);
    snprintf(text[5], sizeof text[5], "%.17g", u->best);
    snprintf(text[6], sizeof text[6], "%.17g", u->stop_best);
    snprintf(text[7], sizeof text[7], "%d", u->stop_count);
    snprintf(text[8], sizeof text[8], "%d", best_metric(u));
    if (u->lost) return;
    if (checkpoint_save(&u->set, u->t, u->last.step, extra)) {
        snprintf(u->unsaved, sizeof u->unsaved, "%s", u->set.error);
        dpo_clear(u->c);
    } else u->saved = u->last.step;
}

/* ---- evaluation and updates ------------------------------------------------------------------------------------- */

static double metric_value(const dpo_metrics *m, int metric) {
    return metric == STOP_ACCURACIES ? m->rewards_accuracies : metric == STOP_MARGINS ? m->rewards_margins : m->loss;
}
static int improves(double x, double before, int metric, double delta) {
    return metric == STOP_LOSS ? x < before - delta : x > before + delta;
}

/* The best so far has a checkpoint of its own, which stays; of equal ones the first. */
static void note_best(run *u, const dpo_metrics *m) {
    int metric = best_metric(u);
    double x = metric_value(m, metric);
    if (!u->last.step || (u->set.best >= 0 && !improves(x, u->best, metric, 0))) return;
    u->set.best = u->last.step;
    u->best = x;
}

/* Counts evaluations without improvement over the value that last was one. (Hugging Face's callback compares with the
 * best of all, which a climb of steps each too small to count takes along until patience is at its end.) */
static int note_stop(run *u, const dpo_metrics *m) {
    double x = metric_value(m, u->s.stop_metric);
    if (!u->s.stop_metric) return 0;
    if (!(x - x == 0))
        return cli_die("evaluation after update %s: the metric to stop by is no number; look at the data or lower the "
                       "learning rate (the checkpoints are as they were)",
                       cli_count((uint64_t)u->last.step));
    if (u->stop_count < 0 || improves(x, u->stop_best, u->s.stop_metric, u->s.stop_min_delta)) {
        u->stop_best = x;
        u->stop_count = 0;
    } else if (u->last.step && u->last.step >= u->s.stop_min_steps) u->stop_count++;
    return 0;
}
static int stops_early(const run *u) { return u->s.stop_metric && u->stop_count >= u->s.stop_patience; }

/* One evaluation, printed and logged. 1 after an error; a wish to stop is none, and leaves no line. */
static int evaluate(run *u) {
    dpo_metrics m;
    off_t before;
    int stop;
    if (u->eval) {
        u->training = 0;
        before = u->samples.file ? ftello(u->samples.file) : -1;
        stop = sample(u);
        if (stop) return stop > 0;
        if (dpo_trainer_evaluate(u->t, u->eval, &m)) {
            if (dpo_status(u->c) != DPO_E_CANCELLED) return run_fail(u);
            dpo_clear(u->c);
            if (before >= 0 && (ftruncate(fileno(u->samples.file), before) || fseeko(u->samples.file, 0, SEEK_END)))
                lose(u, "samples.jsonl");
            return 0;
        }
        u->training = 1;
        write_metrics(u, &m);
        note_best(u, &m);
        if (!u->s.quiet) print_evaluation(u, &m);
        if (note_stop(u, &m)) return 1;
    }
    u->evaluated = u->last.step;
    u->due = 0;
    u->saved = -1; /* the lines are not in it */
    return 0;
}

/* Is it time to evaluate, now that `before` examples have become u->last.examples? */
static int is_due(const run *u, int64_t before) {
    if (u->s.eval_steps) return u->last.step % u->s.eval_steps == 0;
    return u->s.eval_every && before / u->s.eval_every != u->last.examples / u->s.eval_every;
}

/* What follows an update: an evaluation, a checkpoint. */
static int after_update(run *u) {
    int due = u->due;
    if (due && evaluate(u)) return 1;
    if (u->due) return 0; /* told to stop */
    if ((u->s.save_every ? u->last.step % u->s.save_every == 0 : due) || u->set.best == u->last.step)
        save_checkpoint(u);
    return 0;
}

static int train(run *u) {
    if (u->due && !cli_stopped() && after_update(u)) return 1; /* the run was stopped between the two */
    while (!dpo_trainer_done(u->t) && !cli_stopped() && !stops_early(u) && !u->lost && !u->unsaved[0]) {
        dpo_metrics m;
        int64_t before = u->last.examples;
        double began = cli_clock();
        u->training = 1;
        if (dpo_trainer_step(u->t, &m)) {
            if (dpo_status(u->c) != DPO_E_CANCELLED) return run_fail(u);
            dpo_clear(u->c);
            break;
        }
        u->train_seconds += cli_clock() - began + 1e-9;
        u->last = m;
        write_metrics(u, &m);
        if (!u->s.quiet) print_step(u, &m);
        u->due = is_due(u, before);
        if (after_update(u)) return 1;
    }
    return 0;
}

/* A directory whose config.json asks for bytes has no files to copy. */
static int has_tokenizer(const run *u) {
    char dir[4096];
    int n = snprintf(dir, sizeof dir, "%s%s", u->s.output, run_lora(u) ? "/adapter" : "");
    return n > 0 && (size_t)n < sizeof dir && (holds(dir, "tokenizer.json") || holds(dir, "vocab.json"));
}

/* After an early stop the model is the best evaluation's. */
static int take_best(run *u) {
    static const char *const names[] = {"", "rewards/accuracies", "rewards/margins", "loss"};
    const char *name = names[u->s.stop_metric];
    if (u->set.best < 0) return 0;
    if (u->set.best != u->last.step &&
        (!checkpoint_path(&u->set, u->set.best) || dpo_trainer_load(u->t, u->set.path))) {
        cli_note("the best checkpoint, that after update %s, cannot be taken (%s); the model is the last one",
                 cli_count((uint64_t)u->set.best), dpo_error(u->c));
        dpo_clear(u->c);
        if (!checkpoint_path(&u->set, u->last.step) || dpo_trainer_load(u->t, u->set.path)) return run_fail(u);
        return 0;
    }
    if (!u->s.quiet)
        printf(
            "stopped early: %s did not improve by %s in %d evaluations; the model is that after update %s, %s %.4f\n",
            name, cli_number(u->s.stop_min_delta), u->stop_count, cli_count((uint64_t)u->set.best), name, u->best);
    return 0;
}

static int finish(run *u) {
    const dpo_metrics *m = &u->last;
    uint64_t hash = 0;
    if (u->evaluated != m->step && !cli_stopped() && !u->unsaved[0] && evaluate(u)) return 1;
    if (!u->lost && !u->unsaved[0]) save_checkpoint(u);
    cli_live_clear();
    if (!m->step && u->lost)
        return cli_die("%s/%s cannot be written: %s; nothing was trained", u->s.output, u->lost_file,
                       strerror(u->lost));
    if (!m->step) return cli_die("stopped before the first update; no model was written");
    if (u->unsaved[0]) cli_note("%s; the run ends here", u->unsaved);
    if (stops_early(u) && !u->lost && !u->unsaved[0] && take_best(u)) return 1;
    if (save_result(u)) return 1;
    if (!u->s.quiet) {
        char since[64] = "";
        if (u->first.step) snprintf(since, sizeof since, ", those after update %s", cli_count((uint64_t)u->first.step));
        printf("%s%s updates, %s examples, %s tokens%s in %s (%s tokens/s while training; %s in all)\n",
               cli_stopped() ? "stopped after " : "", cli_count((uint64_t)m->step), cli_count((uint64_t)m->examples),
               cli_count((uint64_t)m->tokens), since, cli_duration(u->train_seconds), cli_count(run_speed(u, m)),
               cli_duration(cli_clock() - u->began));
        printf("peak memory %s, planned %s\nwrote %s%s\n", cli_bytes(cli_peak_memory()), cli_bytes(u->plan.total),
               u->s.output, run_lora(u) && !u->s.merge ? "/adapter" : "");
        if (u->set.dir && !dpo_trainer_done(u->t) && !stops_early(u) && u->saved == m->step)
            printf("the same command with --resume goes on from %s\n", u->set.path);
        if (u->tokenizer_dir && !has_tokenizer(u))
            printf("it has no tokenizer: programs need --tokenizer %s with it\n", u->tokenizer_dir);
    }
    if (!run_lora(u)) hash = dpo_model_hash(u->m);
    else if (adapter_hash(u, &hash)) return cli_die("no memory for the adapters' hash");
    printf("%s hash %016llx\n", run_lora(u) ? "adapter" : "weight", (unsigned long long)hash);
    if (u->lost)
        return cli_die("%s/%s cannot be written: %s; the run ended early, its model is written", u->s.output,
                       u->lost_file, strerror(u->lost));
    if (u->unsaved[0]) return cli_die("no checkpoint could be written; the run ended early, its model is written");
    return 0;
}

/* run.json: what this run is, for dpo-report and for whoever wants to repeat it. */
static int write_description(const run *u) {
    char *text = NULL, value[512], path[4096];
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    const char *info = dpo_build_info(u->c);
    int i, first = 1, bad;
    if (!f) return cli_die("no memory to describe the run");
    fprintf(f, "{\"program\": \"dpo-train\", \"command\": \"%s\", \"build\": ",
            u->s.t.objective == DPO_SFT ? "sft" : "dpo");
    cli_json_string(f, info, strlen(info));
    fprintf(f, ", \"train_examples\": %lld, \"eval_examples\": %lld, \"train_hash\": \"%016llx\"",
            (long long)dpo_data_count(u->train), (long long)(u->eval ? dpo_data_count(u->eval) : 0),
            (unsigned long long)dpo_data_hash(u->train));
    if (u->eval) fprintf(f, ", \"eval_hash\": \"%016llx\"", (unsigned long long)dpo_data_hash(u->eval));
    fprintf(f, ", \"options\": {");
    for (i = 0; i < u->s.option_count; i++) {
        const cli_option *o = &u->s.options[i];
        if (o->kind == CLI_IS_HEADING) continue;
        fprintf(f, "%s\n \"%s\": ", first ? "" : ",", o->name);
        first = 0;
        cli_default(o, value, sizeof value);
        if (o->kind == CLI_IS_FLAG) fputs(*(const int *)o->value ? "true" : "false", f);
        else if (o->kind == CLI_IS_INT || o->kind == CLI_IS_UINT64) fputs(value, f);
        else if (o->kind == CLI_IS_DOUBLE) cli_json_number(f, *(const double *)o->value);
        else if (o->kind == CLI_IS_STRING && !value[0]) fputs("null", f);
        else cli_json_string(f, value, strlen(value));
    }
    fprintf(f, "}}\n");
    bad = fclose(f) ? cli_die("no memory to describe the run")
                    : path_join(path, sizeof path, u->s.output, "run.json") || write_file(path, text, n);
    free(text);
    return bad;
}

/* The files of lines, and where the run begins. */
static int begin(run *u) {
    double log[2] = {0, 0};
    if (samples_choose(u)) return 1;
    if (u->s.resume) {
        int stop = u->set.n ? sample_reference(u) : 0; /* while the weights are those the run began with */
        if (stop > 0) return 1;
        if (cli_stopped()) return cli_die("stopped before the first update; the checkpoints are as they were");
        if (resume(u, log)) return 1;
    }
    u->metrics = open_log(u, "metrics.jsonl", log[0]);
    if (!u->metrics || write_description(u)) return 1;
    if (u->samples.n) {
        u->samples.file = open_log(u, "samples.jsonl", log[1]);
        if (!u->samples.file) return 1;
    }
    if (u->s.tensorboard) {
        char why[512];
        if (make_dirs(u->s.tensorboard, "--tensorboard")) return 1;
        u->board = tensorboard_open(u->s.tensorboard, why, sizeof why);
        if (!u->board) return cli_die("%s", why);
        if (u->first.step) tensorboard_restart(u->board, u->first.step, (double)time(NULL));
    }
    (void)checkpoint_posix_sync_dir(NULL, u->s.output); /* their names, and that of the directory of checkpoints */
    return 0;
}

/* From the open context to the last line. */
static int run_all(run *u) {
    if (read_config(u) || (!u->s.plan && find_checkpoints(u)) || read_data(u)) return 1;
    if (cli_stopped()) return cli_die("stopped while reading the data; nothing was written");
    if (u->s.adapter && load_model(u)) return 1; /* an adapter's rank is known once it is read */
    if (u->s.stop_metric && !u->eval)
        return cli_die("--stop-metric needs evaluation data: give --eval FILE or --eval-fraction above 0");
    if (make_plan(u)) return 1;
    if (u->s.plan) return 0;
    if (make_dirs(u->s.output, "--output") || open_checkpoints(u)) return 1;
    if (!u->s.adapter && load_model(u)) return 1;
    if (get_references(u)) return 1;
    if (cli_stopped()) return cli_die("stopped before the first update; no model was written");
    u->t = dpo_trainer_create(u->m, u->train, &u->s.t);
    if (!u->t) return run_fail(u);
    if (begin(u)) return 1;
    if ((!u->first.step && evaluate(u)) || train(u)) return 1;
    return finish(u);
}

/* Help, version and errors of the command line; the settings of the run. 0: go on. */
static int read_command(run *u, int argc, char **argv, int *code) {
    cli_program p =
        cli_program_make("dpo-train", "0.1.0", "sft|dpo --model DIR --train FILE --output DIR [options]",
                         "Fine-tunes a language model on the CPU: sft on answers or plain text, dpo on pairs of "
                         "a chosen and a rejected answer. The same command gives the same bits on every machine.");
    int named = argc > 1 && (!strcmp(argv[1], "sft") || !strcmp(argv[1], "dpo"));
    int sft = argc > 1 && !strcmp(argv[1], "sft");
    p.argument_max = 0;
    settings_start(&u->s, sft ? DPO_SFT : DPO_PREFERENCE);
    settings_recipe(&u->s);
    *code = 1;
    if (!named && argc > 1 && argv[1][0] != '-')
        return cli_die("expected sft or dpo first, got '%s'; usage: dpo-train %s", argv[1], p.usage);
    if (settings_parse(&u->s, &p, argc - named, argv + named)) {
        *code = p.exit_code;
        return 1;
    }
    if (!named) return cli_die("expected sft or dpo first; usage: dpo-train %s", p.usage);
    settings_recipe(&u->s);
    if (settings_parse(&u->s, &p, argc - 1, argv + 1)) {
        *code = p.exit_code;
        return 1;
    }
    return settings_check(&u->s);
}

int main(int argc, char **argv) {
    static run u; /* large, and its options point into it */
    dpo_desc desc;
    int code = 1;
    memset(&u, 0, sizeof u);
    u.began = cli_clock();
    u.evaluated = u.saved = u.set.best = -1;
    u.stop_count = -1;
    if (read_command(&u, argc, argv, &code)) return code;
    cli_catch_signals();
    memset(&desc, 0, sizeof desc);
    desc.n_threads = u.s.threads;
    desc.simd = u.s.simd;
    desc.log = on_log;
    desc.progress = on_progress;
    desc.cancel = on_cancel;
    desc.user = &u;
    u.c = dpo_open(&desc);
    if (!u.c && u.s.simd) return cli_die("--simd: this CPU or this build has not got these instructions; leave it out");
    if (!u.c) return cli_die("%s", dpo_error(NULL));
    if (!u.s.quiet) print_settings(&u);
    code = run_all(&u);
    if (u.metrics) fclose(u.metrics);
    if (tensorboard_close(u.board) && !code)
        code = cli_die("%s: TensorBoard's events could not all be written; all else is there", u.s.tensorboard);
    samples_free(&u.samples);
    checkpoint_free(&u.set);
    dataset_free(&u.d);
    dpo_close(u.c);
    if (fflush(stdout) || ferror(stdout)) return cli_die("the output could not be written");
    return code;
}
