/* dpo.h - v0.1.0 - fine-tune language models with SFT and DPO on a CPU - MIT licence

   One C file of your program says

       #define DPO_IMPLEMENTATION
       #include "dpo.h"

   and is built with: cc -O2 file.c -lm -lpthread. All other files just include it.
   C99 and C++17, libc and libm, pthreads unless DPO_NO_THREADS; nothing else.

   It reads Hugging Face model directories (GPT-NeoX/Pythia, BTLM and muP Cerebras-GPT, GPT-2,
   Llama, Qwen2; F32, F16, BF16 safetensors, sharded too; tokenizer.json as it is), trains the models
   whole or through LoRA adapters with supervised fine-tuning (SFT) and Direct Preference
   Optimization (DPO and its relatives), talks to them, measures them, and writes them back. The
   result of a run is a function of weights, data, options and seed alone: the same bits for any
   number of threads, any micro-batch split, any SIMD path.

   QUICK START

       dpo_context *c = dpo_open(NULL);
       dpo_model *m = dpo_model_load(c, "my-model");
       dpo_data *d = dpo_data_create(c, dpo_tokenizer_load(c, "my-model"), NULL);
       dpo_data_read(d, "pairs.jsonl");           lines of {"prompt","chosen","rejected"}
       dpo_train_config t = dpo_train_defaults(DPO_PREFERENCE);
       dpo_train(m, d, NULL, &t);
       dpo_model_save(m, "my-model-dpo", DPO_F32);
       if (dpo_status(c)) puts(dpo_error(c));
       dpo_close(c);

   WHAT IT DOES NOT DO

   No GPU, no big-endian machines, no autograd, no quantised training, no fp16 arithmetic, no dropout,
   no losses that couple the pairs of a batch (KTO, AOT). Tokenizers are byte-pair encodings: no
   Unigram, no WordPiece, no chat templates in Jinja. Other programs' formats (PyTorch's .bin, GGUF,
   llama2.c) are the work of tools/dpo-convert. It never prints, exits or aborts.

   CONTENTS: search for ">>NAME"

       interface       >>TYPES >>CONTEXT_API >>TENSOR_API >>JSON_API >>TEXT_API >>MODEL_API
                       >>LORA_API >>LOSS_API >>TRAIN_API >>STEP_API >>GENERATE_API >>EVALUATE_API
                       >>LAYER_API
       arithmetic      >>PLATFORM >>ERROR >>MEMORY >>THREADS >>RANDOM >>NUMERICS >>KERNELS
                       >>CONTEXT >>GEMM >>LAYERS
       bytes           >>JSON >>FILES
       model and step  >>BATCH >>MODEL >>NETWORK >>LORA >>LOSS >>OPTIMIZER
       text            >>UNICODE >>TOKENIZER >>DATA
       what users call >>GENERATE >>TRAINER >>PLAN >>EVALUATE >>LAYER_CALLS

   THREE LEVELS, each usable alone

   1. Files: dpo_model_load, dpo_data_read, dpo_train, dpo_generate_text (examples/sft.c, dpo.c);
      dpo_score_sequences: log-probs of any ids, and how far they are from a reference's.
   2. The step: your loop, your batches, your loss: dpo_trainer_forward, dpo_trainer_backward,
      dpo_trainer_update (examples/step.c, own_loss.c).
   3. Tensors and layers: each layer's forward and backward on plain arrays (examples/layers.c).

   SYMBOLS AND SHAPES

       N   rows: tokens of a batch laid end to end, no padding     V   vocabulary
       d   hidden size        H   query heads     K   key/value heads     D   head size
       f   MLP size           r   LoRA rank       R   targets of a batch
       A matrix "[N,d]" is row-major: element (n,i) at n*d+i. Sizes are int64_t.

   A BATCH IS A FOREST OF SEGMENTS. A segment is a run of tokens that attends causally to itself and
   to its whole chain of ancestors; positions go on from the parent's end. A preference pair is a
   prompt with two children, chosen and rejected, so the prompt is computed once. A target
   {row, token, sequence} asks hidden row `row` for log p(token) and adds it to `sequence`: logits
   are computed for target rows alone, a tile at a time.

   OPTIONS, defined before the implementation is included; none changes a public type

       DPO_STATIC       everything is static: several private copies may live in one program
       DPO_ASSERT(x)    internal invariants, off by default (input is always checked by branches)
       DPO_NO_STDIO     no default file access: bring desc.io or do without files
       DPO_NO_THREADS   no pthreads; n_threads is always 1
       DPO_NO_SIMD      the scalar kernels only (the same bits, slowly)

   PRECISION fp32; mixed (products of bf16 operands, F32 weights); bf16 (weights kept in bf16 too, which
             updates round by chance, so that small ones are not lost). Under adapters the weights may
             stay, F32 or BF16, in the mapped file: dpo_model_load_as.
   MEMORY    Objects are blocks of the context's allocator, measured by the same functions that carve
             them; dpo_plan_train reports the sizes before anything is loaded, `memory` of the options
             makes it choose what fits, and a training step allocates nothing. dpo_close frees all; the
             *_free functions free one object early.
   STOPPING  A run may end at any instant: dpo_trainer_save writes what moves into one file, with
             checksums and all that the result depends on; dpo_trainer_load goes on to the same bits.
   THREADS   A context and all objects made from it are used by one thread at a time; different
             contexts are independent. The pool of worker threads is the library's own business.
   ERRORS    Constructors return NULL, verbs a code. The context keeps the first error as a sentence
             (what, where, got, expected, remedy) until dpo_clear; while it does, calls that are
             given one of its objects do nothing and return that code.
   NUMERICS  Products are single chains of fused multiply-adds in index order, sums over a row a fixed
             16-lane tree, gradients over rows chains in row order; exp, log, tanh, erf, sin and cos
             are the header's own. Subnormals are flushed to zero while it computes (the caller's
             floating-point state is restored). In mixed and bf16 precision what is rounded is said at
             DPO_PRECISION_FP32; bf16 products are the same chains, so a CPU with instructions for them
             gives the bits of one without. DPO_NUMERICS is raised when any bit changes.

   TEXT      Any bytes are a text: what is not UTF-8 is encoded byte by byte (as U+FFFD where a
             vocabulary has no piece for a byte, as GPT-NeoX's for 0xff). Special tokens are what a
             format writes, never what a user types. Rows of data are never dropped or cut in
             silence: dpo_data_report_of counts each by its reason.

   REFERENCES
       [DPO]    Rafailov et al. 2023, arXiv 2305.18290        [LoRA]  Hu et al. 2021, arXiv 2106.09685
       [IPO]    Azar et al. 2023, arXiv 2310.12036            [SLiC]  Zhao et al. 2023, arXiv 2305.10425
       [cDPO]   Mitchell 2023, "A note on DPO with noisy preferences"
       [robust] Chowdhury et al. 2024, arXiv 2403.00409       [SimPO] Meng et al. 2024, arXiv 2405.14734
       [ORPO]   Hong et al. 2024, arXiv 2403.07691            [DPOP]  Pal et al. 2024, arXiv 2402.13228
       [EXO]    Ji et al. 2024, arXiv 2402.00856              [NCA]   Chen et al. 2024, arXiv 2402.05369
       [BCO]    Jung et al. 2024, arXiv 2404.04656            [SPPO]  Wu et al. 2024, arXiv 2405.00675
       [APO]    D'Oosterlinck et al. 2024, arXiv 2408.06266   [Disco] Lu et al. 2024, arXiv 2406.08414
       [rsLoRA] Kalajdzievski 2023, arXiv 2312.03732          [RoPE]  Su et al. 2021, arXiv 2104.09864
       [ALiBi]  Press et al. 2021, arXiv 2108.12409           [muP]   Yang et al. 2022, arXiv 2203.03466
       [AdamW]  Loshchilov, Hutter 2017, arXiv 1711.05101      [BPE]   Sennrich et al. 2016, arXiv 1508.07909
*/
#if defined(DPO_IMPLEMENTATION) && !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE /* mmap hints, fsync and friends under -std=c99; before any system header */
#endif
#ifndef DPO_H
#define DPO_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#ifndef DPO_API
#if defined(DPO_STATIC) && defined(__GNUC__)
#define DPO_API static __attribute__((unused))
#elif defined(DPO_STATIC)
#define DPO_API static
#else
#define DPO_API extern
#endif
#endif

#define DPO_VERSION_MAJOR 0
#define DPO_VERSION_MINOR 1
#define DPO_VERSION_PATCH 0
#define DPO_NUMERICS      2 /* raised whenever any result bit changes */

/* ===========================================================================================
   >>TYPES
   =========================================================================================== */

typedef int dpo_result; /* DPO_OK or one of the negative codes below */
enum {
    DPO_OK = 0,
    DPO_E_ARG = -1,         /* an argument or option outside what is allowed */
    DPO_E_MEMORY = -2,      /* the allocator gave nothing */
    DPO_E_IO = -3,          /* the system refused to open, read, write, sync or rename */
    DPO_E_FORMAT = -4,      /* a file is not what it should be */
    DPO_E_SHAPE = -5,       /* tensors or tokens that do not fit together */
    DPO_E_NONFINITE = -6,   /* NaN or infinity where numbers are needed */
    DPO_E_STATE = -7,       /* called in the wrong order, or a stale cache */
    DPO_E_UNSUPPORTED = -8, /* understood, but this version does not do it */
    DPO_E_CANCELLED = -9    /* the cancel hook said stop */
};
enum { /* of elements; what a model computes with, then what files hold besides */
       DPO_F32 = 1,
       DPO_BF16 = 2,
       DPO_F16 = 3,
       DPO_I32 = 4,
       DPO_F64 = 5,
       DPO_I64 = 6,
       DPO_I16,
       DPO_I8,
       DPO_U64,
       DPO_U32,
       DPO_U16,
       DPO_U8,
       DPO_BOOL
};
enum {
    DPO_SIMD_AUTO = 0,
    DPO_SIMD_SCALAR = 1,
    DPO_SIMD_AVX2 = 2,
    DPO_SIMD_AVX512 = 3,
    DPO_SIMD_AVX512_BF16 = 4, /* where both operands are bf16; the same bits as all the others */
    DPO_SIMD_NEON = 5
};
enum { DPO_LOG_INFO = 0, DPO_LOG_WARNING = 1 };

/* How a model computes. fp32: all in F32. mixed: every operand of a linear product is rounded to bf16 (nearest even),
   and so is each linear output of the forward pass that is neither added to the residual stream nor a logit. bf16: the
   same arithmetic on weights that are bf16 numbers (matrices kept as such); updates round them stochastically. Norms,
   softmax, attention's products, losses and all gradients are F32 in each of them. */
enum { DPO_PRECISION_FP32 = 0, DPO_PRECISION_MIXED = 1, DPO_PRECISION_BF16 = 2 };

typedef struct dpo_context dpo_context;     /* owns everything below */
typedef struct dpo_tokenizer dpo_tokenizer; /* text <-> token ids */
typedef struct dpo_data dpo_data;           /* tokenized examples, and their reference log-probs */
typedef struct dpo_model dpo_model;         /* weights, and adapters if attached */
typedef struct dpo_trainer dpo_trainer;     /* gradients, optimizer, workspace, position in the data */

/* A contiguous row-major view of memory that somebody else owns. */
#define DPO_MAX_DIMS 8
typedef struct dpo_tensor {
    const char *name;
    void *data;
    int dtype;                   /* DPO_F32, ... */
    int ndim;                    /* 0..8; layers take up to 4 */
    int64_t shape[DPO_MAX_DIMS]; /* unused dimensions are 1 */
} dpo_tensor;

/* File access. Each function returns 0 or an errno-like code that enters the error sentence.
   `open` modes: 'r' read, 'w' create or truncate. `write` appends. Paths are the caller's. */
typedef struct dpo_io {
    void *user;
    int (*open)(void *user, const char *path, int mode, void **file);
    int (*size)(void *user, void *file, uint64_t *bytes);
    int (*read)(void *user, void *file, uint64_t offset, void *to, size_t bytes);
    int (*write)(void *user, void *file, const void *from, size_t bytes);
    int (*sync)(void *user, void *file);
    int (*close)(void *user, void *file);
    int (*rename)(void *user, const char *from, const char *to); /* atomic, replaces `to` */
    int (*remove)(void *user, const char *path);
    int (*make_dir)(void *user, const char *path); /* 0 also when it is there already */
    int (*sync_dir)(void *user, const char *path);
    /* Both or neither (NULL: files are read). A view of the first `bytes` of a file open for reading; it stays when the
       file is closed, renamed over or removed, until `unmap`. */
    int (*map)(void *user, void *file, uint64_t bytes, const void **at);
    int (*unmap)(void *user, const void *at, uint64_t bytes);
} dpo_io;

/* The environment of a context. Zero everywhere (or NULL for the whole struct) is the ordinary
   thing. Hooks run on the thread that called the library. */
typedef struct dpo_desc {
    int n_threads;                            /* 0 = one per core; at most 1024 */
    int simd;                                 /* DPO_SIMD_AUTO, or force a path */
    void *(*alloc)(void *user, size_t bytes); /* both or neither; any alignment */
    void (*release)(void *user, void *p, size_t bytes);
    const dpo_io *io; /* copied */
    void (*log)(void *user, int level, const char *line);
    void (*progress)(void *user, const char *what, int64_t done, int64_t total);
    int (*cancel)(void *user); /* polled between micro-batches; non-zero stops */
    void *user;
} dpo_desc;

/* ===========================================================================================
   >>CONTEXT_API
   =========================================================================================== */

/* dpo_open - a context: threads, kernels for this CPU, memory.
 *   desc    NULL for defaults; copied
 *   returns NULL when there is no memory or desc is wrong (dpo_status(NULL) is DPO_E_MEMORY) */
DPO_API dpo_context *dpo_open(const dpo_desc *desc);

/* dpo_close - free the context and everything made from it. NULL is fine. */
DPO_API void dpo_close(dpo_context *c);

/* dpo_status, dpo_error - code and sentence of the first error since the last dpo_clear; DPO_OK and
   "" when there is none. The text lives until the next call on the context. */
DPO_API dpo_result dpo_status(const dpo_context *c);
DPO_API const char *dpo_error(const dpo_context *c);
DPO_API void dpo_clear(dpo_context *c);

/* dpo_result_name - "DPO_E_IO" and so on, for logs. */
DPO_API const char *dpo_result_name(dpo_result r);

/* dpo_build_info - one line: version, numerics version, compiler, options, kernels and threads in
   use (c may be NULL). Belongs at the top of every training log. */
DPO_API const char *dpo_build_info(const dpo_context *c);
DPO_API int dpo_version(void); /* major * 10000 + minor * 100 + patch */

/* ===========================================================================================
   >>TENSOR_API
   =========================================================================================== */

/* dpo_tensor_f32 - a view of floats: dimensions given as 0 end the list. */
DPO_API dpo_tensor dpo_tensor_f32(float *data, int64_t d0, int64_t d1, int64_t d2, int64_t d3);

/* dpo_tensors_save - write tensors into one safetensors file, atomically: into a file beside it that is synced and
   takes its name at the end. The metadata get a checksum of each tensor and of the header ("dpo_checksums",
   "dpo_header_checksum"), which dpo_tensors_verify compares.
 *   metadata  NULL, or key, value, key, value, ..., NULL
 *   errors    DPO_E_IO; nothing is left under `path` that was not there before
 * dpo_tensors_save_from - the same for tensors that need not be in memory together: fetch gives the elements of those
 *           whose data are NULL, valid until its next call. It is asked for each in order, twice: for its checksum,
 *           then to write it. NULL from it ends the saving with DPO_E_IO. */
DPO_API dpo_result dpo_tensors_save(dpo_context *c, const char *path, const dpo_tensor *tensors, int64_t count,
                                    const char *const *metadata);
DPO_API dpo_result dpo_tensors_save_from(dpo_context *c, const char *path, const dpo_tensor *tensors, int64_t count,
                                         const char *const *metadata, const void *(*fetch)(void *user, int64_t tensor),
                                         void *user);

/* dpo_tensors_load - read every tensor of a safetensors file.
 *   out     *out points to *count tensors; F16 and BF16 come as F32, all others as they are (8-bit floats are
 *           skipped). Owned by the context until dpo_tensors_free.
 *   errors  DPO_E_IO  DPO_E_FORMAT (any bytes are safe)  DPO_E_MEMORY */
DPO_API dpo_result dpo_tensors_load(dpo_context *c, const char *path, dpo_tensor **out, int64_t *count);
DPO_API void dpo_tensors_free(dpo_context *c, dpo_tensor *tensors);

/* A safetensors file whose tensors are read one at a time.
 *   dpo_tensors_open      checks the header; NULL: DPO_E_IO, DPO_E_FORMAT, DPO_E_MEMORY
 *   dpo_tensors_list      all tensors in the header's order, data NULL (dtype 0: none of DPO_*, not readable); out NULL
 *                         to count. Names are valid until dpo_tensors_close
 *   dpo_tensors_read      elements of tensor i as they are; `bytes` is the room at `to`
 *   dpo_tensors_metadata  the value of a key, NULL if it is not there
 *   dpo_tensors_verify    reads all and compares the checksums: DPO_E_FORMAT if a bit differs, or there are none */
typedef struct dpo_tensors_file dpo_tensors_file;
DPO_API dpo_tensors_file *dpo_tensors_open(dpo_context *c, const char *path);
DPO_API int64_t dpo_tensors_list(const dpo_tensors_file *f, dpo_tensor *out, int64_t cap);
DPO_API dpo_result dpo_tensors_read(const dpo_tensors_file *f, int64_t i, void *to, size_t bytes);
DPO_API const char *dpo_tensors_metadata(const dpo_tensors_file *f, const char *key);
DPO_API dpo_result dpo_tensors_verify(const dpo_tensors_file *f);
DPO_API void dpo_tensors_close(dpo_tensors_file *f);

/* dpo_tensor_convert - n elements of one floating-point type (F32, BF16, F16, F64) as F32, BF16 or F16, rounded to
   nearest even (F64 to a half by way of F32).
 *   returns how many finite numbers became infinite, or DPO_E_ARG for another type */
DPO_API int64_t dpo_tensor_convert(dpo_context *c, void *to, int to_dtype, const void *from, int from_dtype, int64_t n);
/* dpo_dtype_name - "F32", "BF16", ... as safetensors files have them; NULL for none of DPO_*. */
DPO_API const char *dpo_dtype_name(int dtype);
DPO_API size_t dpo_dtype_size(int dtype); /* bytes of an element, 0 for none of DPO_* */

/* ===========================================================================================
   >>JSON_API - for readers of formats that the header does not know (tools/formats)
   =========================================================================================== */

typedef struct dpo_json dpo_json; /* a parsed text; its memory serves text after text */

DPO_API dpo_json *dpo_json_create(dpo_context *c);
DPO_API void dpo_json_free(dpo_json *j);

/* dpo_json_parse - RFC 8259 text as nodes; node 0 is the whole value.
 *   text    any bytes are safe; must stay as long as nodes are looked at
 *   why,at  receive a constant reason and its byte; either may be NULL
 *   errors  DPO_E_FORMAT, which leaves the context's error clear (rows of data are counted, not fatal): syntax, a
 *           key twice in its object, keys made to have one hash, nested deeper than 64; DPO_E_MEMORY */
DPO_API dpo_result dpo_json_parse(dpo_json *j, const char *text, size_t bytes, const char **why, size_t *at);

/* Nodes. A node that is not there is -1, which every call takes.
 *   dpo_json_type    '{' '[' '"' 't' 'f' 'n', '0' for a number, 0 for no node
 *   dpo_json_count   elements of an array, pairs of an object, else 0
 *   dpo_json_first, dpo_json_next   children: v = first(a), then v = next(v), count times. In an object v is a key and
 *                    v + 1 its value: v = first(o), then v = next(v + 1)
 *   dpo_json_find    the value of a key, or -1
 *   dpo_json_string  unescapes to UTF-8; the length without the final zero, -1 if it is no string; writes what fits
 *   dpo_json_number  the nearest double; 0 if it is no number or too large
 *   dpo_json_at      where its text begins, in bytes */
DPO_API int dpo_json_type(const dpo_json *j, int64_t node);
DPO_API int64_t dpo_json_count(const dpo_json *j, int64_t node);
DPO_API int64_t dpo_json_first(const dpo_json *j, int64_t node);
DPO_API int64_t dpo_json_next(const dpo_json *j, int64_t node);
DPO_API int64_t dpo_json_find(const dpo_json *j, int64_t object, const char *key);
DPO_API int64_t dpo_json_string(const dpo_json *j, int64_t node, char *out, size_t cap);
DPO_API int dpo_json_number(const dpo_json *j, int64_t node, double *out);
DPO_API size_t dpo_json_at(const dpo_json *j, int64_t node);

/* ===========================================================================================
   >>TEXT_API - tokenizers and data sets
   =========================================================================================== */

/* dpo_tokenizer_load - a tokenizer as it lies on the Hub.
 *   path    a directory (tokenizer.json, else vocab.json with merges.txt; tokenizer_config.json and config.json name
 *           its end-of-text id), or one of these files. A directory whose config.json says "dpo_tokenizer": "bytes"
 *           gives the byte-level one
 *   knows   byte-level BPE with the splitting of GPT-2, Llama-3, Qwen2 (also after single digits), NFC;
 *           SentencePiece-type BPE (Llama-2: Prepend and Replace, or Metaspace; byte fallback); added tokens
 *   errors  DPO_E_IO  DPO_E_FORMAT  DPO_E_UNSUPPORTED (names the model, normalizer or pattern it does not know) */
DPO_API dpo_tokenizer *dpo_tokenizer_load(dpo_context *c, const char *path);
/* dpo_tokenizer_bytes - the byte-level tokenizer: ids 0..255 are bytes, 256 ends a text. It needs no
   file and loses nothing; a model used with it has a vocabulary of at least 257. */
DPO_API dpo_tokenizer *dpo_tokenizer_bytes(dpo_context *c);
DPO_API void dpo_tokenizer_free(dpo_tokenizer *t);

DPO_API int dpo_tokenizer_vocab(const dpo_tokenizer *t);   /* all ids are below it */
DPO_API int32_t dpo_tokenizer_eos(const dpo_tokenizer *t); /* -1 = none known */
DPO_API int32_t dpo_tokenizer_bos(const dpo_tokenizer *t);
DPO_API int dpo_tokenizer_adds_bos(const dpo_tokenizer *t); /* whether it begins every text with bos by habit */
/* dpo_tokenizer_set_ends - other bos and eos ids than were found, -1 for none. */
DPO_API dpo_result dpo_tokenizer_set_ends(dpo_tokenizer *t, int32_t bos, int32_t eos);
/* dpo_tokenizer_id - the id of exactly this piece or added token, or -1. */
DPO_API int32_t dpo_tokenizer_id(const dpo_tokenizer *t, const char *piece, size_t bytes);
/* dpo_tokenizer_piece - the bytes an id stands for, NULL if it is none. *special: left out by dpo_decode. */
DPO_API const char *dpo_tokenizer_piece(const dpo_tokenizer *t, int32_t id, size_t *bytes, int *special);
DPO_API uint64_t dpo_tokenizer_hash(const dpo_tokenizer *t);    /* of all that decides ids */
DPO_API const char *dpo_tokenizer_info(const dpo_tokenizer *t); /* one line: kind, splitting, ids, merges */

/* A piece of text. special: special tokens written in it ("<|im_end|>") become their ids; else they are just text,
   which is what anything written by a user must be. */
typedef struct dpo_text {
    const char *text;
    size_t bytes;
    int special;
} dpo_text;

enum {
    DPO_ENCODE_ADD_BOS = 1, /* first the id that begins a text, if the tokenizer has one */
    DPO_ENCODE_ADD_EOS = 2, /* last the one that ends it */
    DPO_ENCODE_MERGES = 4   /* run every merge instead of looking whole words up: the same ids, for comparison */
};

/* dpo_encode - text to ids; no special token is added or understood.
 *   text    any bytes: what is not UTF-8 is encoded byte by byte, or as U+FFFD if there is no piece for the byte
 *   out     [cap]; receives the first cap ids; NULL to measure. Text of n bytes gives at most 3n + 3 ids
 *   returns how many ids there are, or a negative code
 * dpo_encode_parts - the same for the parts laid end to end: words reach over their borders; flags DPO_ENCODE_* */
DPO_API int64_t dpo_encode(const dpo_tokenizer *t, const char *text, size_t bytes, int32_t *out, int64_t cap);
DPO_API int64_t dpo_encode_parts(const dpo_tokenizer *t, const dpo_text *parts, int64_t n, unsigned flags, int32_t *out,
                                 int64_t cap);

/* dpo_decode - ids to text: the exact bytes of the pieces; special ids are left out, so is the space that a
   SentencePiece-type tokenizer puts before a text.
 *   out     [cap]; receives the first cap bytes, no final zero; NULL to measure
 *   returns how many bytes there are, or DPO_E_ARG for an id that is not in the vocabulary */
DPO_API int64_t dpo_decode(const dpo_tokenizer *t, const int32_t *ids, int64_t n, char *out, size_t cap);

/* Decoding one id after the other, as they are generated: gives whole UTF-8 characters only. Zero at the start. */
typedef struct dpo_decoder {
    uint8_t held[4]; /* of a character that is not complete yet */
    int n_held, begun;
} dpo_decoder;
/* dpo_decode_next - what `id` adds; id -1: what is still held, at the end. returns as dpo_decode; if that is more than
   cap, nothing has happened yet. */
DPO_API int64_t dpo_decode_next(const dpo_tokenizer *t, dpo_decoder *s, int32_t id, char *out, size_t cap);

enum {
    DPO_TRUNCATE_REF = 0,        /* the DPO reference code's rule, below */
    DPO_TRUNCATE_KEEP_START = 1, /* cut what is beyond max_length (TRL) */
    DPO_TRUNCATE_KEEP_END = 2    /* cut the beginning of the prompt, the same for both answers */
};
enum { DPO_BOUNDARY_SEPARATE = 0, DPO_BOUNDARY_JOINT = 1 };
enum { DPO_BOS_HABIT = 0, DPO_BOS_NEVER = 1, DPO_BOS_ALWAYS = 2 };

/* How examples become tokens. Masks go by position: a response's ids are targets, its prompt's are not. One
   end-of-text id closes each response; the id that begins a text stands before the prompt if that is the tokenizer's
   habit.
   DPO_BOUNDARY_SEPARATE: prompt and response are tokenized apart (the reference's rule; no merge reaches over the
   border). JOINT: prompt and response are tokenized as one text, and the response is what follows as many ids as the
   prompt alone has (TRL); rows where the prompt's ids then differ are counted.
   DPO_TRUNCATE_REF: if prompt + longer response exceed max_length, the prompt keeps its last
   max_prompt_length ids (first ones with prompt_keep_start), and if they still do, both responses
   keep their first max_length - max_prompt_length. */
typedef struct dpo_data_options {
    int max_length;        /* ids of prompt + response */
    int max_prompt_length; /* used by DPO_TRUNCATE_REF only */
    int truncation;        /* DPO_TRUNCATE_* */
    int prompt_keep_start;
    int boundary, bos;   /* DPO_BOUNDARY_*, DPO_BOS_* */
    int32_t end_of_turn; /* a response that ends so gets no end-of-text id; -1 */
    int group_prompts;   /* SFT: of rows with one prompt the last answer counts */
} dpo_data_options;

/* What happened to the rows. */
typedef struct dpo_data_report {
    int64_t rows, kept;
    int64_t bad_json, missing_field, empty_response, identical, too_long; /* dropped */
    int64_t grouped;                                                      /* took an earlier row's place */
    int64_t truncated_prompts, truncated_responses, lost_eos;             /* kept, cut */
    int64_t invalid_utf8, boundary_merges;                                /* kept, worth knowing */
    int64_t first_bad_line;                                               /* 0 = none */
    int64_t prompt_tokens, chosen_tokens, rejected_tokens;
    int64_t pairs, chosen_longer, same_length; /* in tokens, before cutting: what "the longer answer wins" would get */
} dpo_data_report;

/* 512, 256, DPO_TRUNCATE_REF, separate, by habit */
DPO_API dpo_data_options dpo_data_defaults(void);

/* dpo_data_create - an empty data set. options NULL = defaults; copied. */
DPO_API dpo_data *dpo_data_create(dpo_context *c, const dpo_tokenizer *t, const dpo_data_options *options);

/* dpo_data_add - one example as text. rejected NULL: an example for SFT only. A row that cannot be
   used (empty response, both answers the same after truncation, ...) is counted and skipped: DPO_OK. */
DPO_API dpo_result dpo_data_add(dpo_data *d, const char *prompt, size_t prompt_bytes, const char *chosen,
                                size_t chosen_bytes, const char *rejected, size_t rejected_bytes);
/* dpo_data_add_parts - the same from parts of text laid end to end, so that a chat format's special tokens are
   understood and a user's are not. n_rejected 0: SFT only. */
DPO_API dpo_result dpo_data_add_parts(dpo_data *d, const dpo_text *prompt, int64_t n_prompt, const dpo_text *chosen,
                                      int64_t n_chosen, const dpo_text *rejected, int64_t n_rejected);

/* dpo_data_add_tokens - the same from ids, taken as they are (the caller ends its responses). The ids must not be views
   of this data set's own items: it may move them. */
DPO_API dpo_result dpo_data_add_tokens(dpo_data *d, const int32_t *prompt, int64_t n_prompt, const int32_t *chosen,
                                       int64_t n_chosen, const int32_t *rejected, int64_t n_rejected);

/* dpo_data_add_text - plain text for pretraining: the ids of the whole text with an end-of-text id
   after it are cut into pieces of max_length; each id but a piece's first is a target. */
DPO_API dpo_result dpo_data_add_text(dpo_data *d, const char *text, size_t bytes);

/* dpo_data_read - JSON lines of {"prompt", "chosen", "rejected"} (without "rejected": SFT rows; "response" is a name
   for "chosen"; {"text"}: plain text).
 *   rejects nothing silently: bad rows are counted by reason, and dpo_data_report_of tells
 *   errors  DPO_E_IO; DPO_E_FORMAT when no row at all could be used (first bad line named) */
DPO_API dpo_result dpo_data_read(dpo_data *d, const char *path);
/* dpo_data_read_text - the same from memory; `name` stands for the file in messages. */
DPO_API dpo_result dpo_data_read_text(dpo_data *d, const char *name, const char *text, size_t bytes);

DPO_API int64_t dpo_data_count(const dpo_data *d);
DPO_API dpo_data_report dpo_data_report_of(const dpo_data *d);
/* dpo_data_item - views of example i's ids; any of the pointers may be NULL. */
DPO_API dpo_result dpo_data_item(const dpo_data *d, int64_t i, const int32_t **prompt, int64_t *n_prompt,
                                 const int32_t **chosen, int64_t *n_chosen, const int32_t **rejected,
                                 int64_t *n_rejected);
DPO_API uint64_t dpo_data_hash(const dpo_data *d); /* of ids and boundaries */
DPO_API void dpo_data_free(dpo_data *d);

/* ===========================================================================================
   >>MODEL_API
   =========================================================================================== */

enum { DPO_GPT_NEOX = 1, DPO_BTLM = 2, DPO_GPT2 = 3, DPO_LLAMA = 4, DPO_QWEN2 = 5 };
enum { DPO_NORM_LAYER = 0, DPO_NORM_RMS = 1 };
enum { DPO_POSITION_ROPE = 0, DPO_POSITION_LEARNED = 1, DPO_POSITION_ALIBI = 2 };
enum { DPO_ROPE_PLAIN = 0, DPO_ROPE_LINEAR = 1, DPO_ROPE_LLAMA3 = 2 };
enum { DPO_GELU = 0, DPO_GELU_TANH = 1, DPO_SWIGLU = 2 };
enum { DPO_QKV_HEADS = 0, DPO_QKV_THIRDS = 1, DPO_QKV_SEPARATE = 2 };

/* One transformer; the families differ in these fields only. Names are Hugging Face's where they
   have one for all families. */
typedef struct dpo_model_config {
    int family;
    int vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads;
    int head_dim, intermediate_size, max_position_embeddings;
    int norm;
    double norm_eps;
    int position;
    int rotary_dim;
    double rope_theta;
    int rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor, rope_original_max_position;
    double alibi_factor; /* slopes / factor; 0 = off */
    int activation;
    int parallel_residual;
    int qkv;                                /* DPO_QKV_*: rows per head, thirds, three matrices */
    int conv1d;                             /* weights stored [in,out] (GPT-2) instead of [out,in] */
    int qkv_bias, attention_bias, mlp_bias; /* of q,k,v; of the output projection; of the MLP */
    int tie_word_embeddings;
    double embedding_scale, output_scale; /* muP multipliers, 1 elsewhere */
    double attention_scale;               /* factor on q.k */
    int attention_scale_by_layer;         /* divide it by layer index + 1 */
    double width_scale;                   /* muP learning-rate multiplier of the matrices, 1 */
    double initializer_range;
    int bos_token_id, eos_token_id; /* -1 = none */
    int byte_tokenizer;             /* config.json says "dpo_tokenizer": "bytes" */
    int torch_dtype;                /* DPO_F32, DPO_BF16, DPO_F16: of the file's weights; 0 = it does not say */
} dpo_model_config;

/* dpo_model_config_read - config.json of a directory, or a JSON file itself.
 *   errors  DPO_E_IO  DPO_E_FORMAT (key, what it held)  DPO_E_UNSUPPORTED (family, activation, ...) */
DPO_API dpo_result dpo_model_config_read(dpo_context *c, const char *path, dpo_model_config *out);

/* dpo_model_load - a Hugging Face directory: config.json with model.safetensors, or the shards named
   by model.safetensors.index.json. Weights are held in F32 (dpo_model_load_as: in other ways). Known
   buffers are skipped, tensors that nothing uses are reported to the log.
 *   errors  DPO_E_IO  DPO_E_FORMAT  DPO_E_SHAPE  DPO_E_NONFINITE (a NaN or infinity in a weight) */
DPO_API dpo_model *dpo_model_load(dpo_context *c, const char *dir);

/* How the weights are kept. */
typedef struct dpo_load_config {
    int precision; /* DPO_PRECISION_*: the arithmetic, and the storage of weights that may be trained */
    int frozen;    /* they will not move: for adapters, evaluation, generation */
    int verify;    /* first read all of each file and compare its checksums (dpo_tensors_save) */
    int no_map;    /* read frozen weights into memory instead of mapping their file */
} dpo_load_config;

/* dpo_model_load_as - the same, in a storage of your choice.
 *   how     NULL: fp32, not frozen. What is not frozen lies in the context's memory: in F32 for fp32 and
 *           mixed; for bf16 matrices and embeddings in BF16, vectors (norms, biases) in F32 with bf16's
 *           values, rounded to nearest even from the file's (F64 by way of F32); the log says how many
 *           changed.
 *           frozen: matrices stay as they lie in the file, F32 or BF16, whatever the precision (mixed and
 *           bf16 arithmetic rounds F32 ones on their way into each product), and are read-only. Where the
 *           io maps files they are used in place: the model opens at once and takes almost no memory.
 *           Else, and where a tensor is not aligned to its elements, they are read. F16 and F64 become
 *           F32, in memory.
 *   errors  as dpo_model_load; DPO_E_ARG (an unknown precision). Mapped matrices are not looked at: a NaN
 *           in one shows as a loss or log-probability that is not finite.
 * Do not shorten a mapped file or write into it while the model lives: the system would raise SIGBUS, or
 * other weights appear. To replace it by renaming, as dpo_model_save does, is safe; a frozen model may be
 * saved into its own directory. */
DPO_API dpo_model *dpo_model_load_as(dpo_context *c, const char *dir, const dpo_load_config *how);

/* dpo_model_copy - a copy without adapters, in the storage that dpo_model_load_as would choose (frozen: in
 * m's own, in memory). Makes a bf16 model of one from dpo_model_create.
 *   errors  DPO_E_ARG (an unknown precision)  DPO_E_MEMORY */
DPO_API dpo_model *dpo_model_copy(const dpo_model *m, const dpo_load_config *how);

/* dpo_model_set_precision - another arithmetic, for weights that stay as they are kept: fp32 and mixed for
 * any model, bf16 where matrices are BF16 or frozen. Not while a trainer of the model lives.
 *   errors  DPO_E_ARG (an unknown precision; bf16 for F32 matrices that may be trained) */
DPO_API dpo_result dpo_model_set_precision(dpo_model *m, int precision);
DPO_API int dpo_model_precision_of(const dpo_model *m);

/* dpo_model_pack - a second copy of all matrices in the order in which products read them: generation and evaluation
 * then read memory as fast as it goes, also where the weights lie in a mapped file. 4 bytes an element in fp32, 2 in
 * mixed and bf16; no bit changes. It is the model's until dpo_model_unpack, another precision, or an update of a
 * trainer that moves the weights. Who writes into dpo_model_tensors calls it again. */
DPO_API dpo_result dpo_model_pack(dpo_model *m);
DPO_API void dpo_model_unpack(dpo_model *m);

/* dpo_model_create - random weights by the family's habit (normal with initializer_range, muP widths
   respected; norms one, biases zero), a function of config and seed alone. */
DPO_API dpo_model *dpo_model_create(dpo_context *c, const dpo_model_config *config, uint64_t seed);
/* dpo_model_create_from - the same from a config.json, whose text is kept for dpo_model_save. */
DPO_API dpo_model *dpo_model_create_from(dpo_context *c, const char *config_path, uint64_t seed);

/* dpo_model_save - config.json and model.safetensors, each written whole or not at all; names and
   config text as they were read. Attached adapters are not part of it (dpo_lora_merge, dpo_lora_save).
 *   dtype   DPO_F32, DPO_BF16 or DPO_F16, from whatever the weights are kept in (rounded to nearest even) */
DPO_API dpo_result dpo_model_save(const dpo_model *m, const char *dir, int dtype);
DPO_API void dpo_model_free(dpo_model *m);

DPO_API const dpo_model_config *dpo_model_config_of(const dpo_model *m);
/* dpo_model_tensors - views of the weights under their Hugging Face names, in the dtype they are kept in
   (F32, or BF16 as uint16_t); out NULL to count. Writing to them is allowed between calls (a file of
   reference log-probs is then refused by its hash), but not where the model is frozen: they may lie in
   a file, mapped read-only. */
DPO_API int64_t dpo_model_tensors(const dpo_model *m, dpo_tensor *out, int64_t cap);
/* dpo_model_tensors_of - the tensors that a configuration asks for, in file order: names and shapes, data NULL, dtype
   DPO_F32. No weight is made. *out is freed by dpo_tensors_free.
 *   errors  DPO_E_ARG (NULL)  DPO_E_FORMAT (a configuration that no model can have)  DPO_E_MEMORY */
DPO_API dpo_result dpo_model_tensors_of(dpo_context *c, const dpo_model_config *config, dpo_tensor **out,
                                        int64_t *count);
/* dpo_model_slopes - [num_attention_heads] the ALiBi slopes in use, alibi_factor included; NULL for other positions. */
DPO_API const float *dpo_model_slopes(const dpo_model *m);
/* dpo_model_hash - 64 bits over names, shapes and values of the weights, adapters not included; the same
   for the same values in F32 or BF16. Reads them all, those of mapped files too. */
DPO_API uint64_t dpo_model_hash(const dpo_model *m);

/* ===========================================================================================
   >>LORA_API
   =========================================================================================== */

typedef struct dpo_lora_config {
    int r;
    double lora_alpha;
    int use_rslora;             /* scale alpha/sqrt(r) instead of alpha/r */
    const char *target_modules; /* comma-separated; a module matches if its name is t or ends in ".t" */
} dpo_lora_config;

DPO_API dpo_lora_config dpo_lora_defaults(int family); /* r 8, alpha 16, PEFT's default targets */

/* dpo_lora_attach - new adapters: A Kaiming-uniform(sqrt 5) = U(-1/sqrt(in), 1/sqrt(in)), B zero, so
   that nothing changes yet. From now on training moves the adapters alone.
 *   errors  DPO_E_ARG (r, a target that matches no linear module), DPO_E_STATE (attached already) */
DPO_API dpo_result dpo_lora_attach(dpo_model *m, const dpo_lora_config *config, uint64_t seed);
/* dpo_lora_load - a PEFT directory: adapter_config.json, adapter_model.safetensors. */
DPO_API dpo_result dpo_lora_load(dpo_model *m, const char *dir);
/* dpo_lora_save - the same, written. base: what to name as base_model_name_or_path, may be NULL. */
DPO_API dpo_result dpo_lora_save(const dpo_model *m, const char *dir, const char *base);
/* dpo_lora_enable - switch all adapters off (0) or on; off gives the base model's bits. */
DPO_API dpo_result dpo_lora_enable(dpo_model *m, int on);
/* dpo_lora_merge - W + scale * B A, summed in fp32, into a new model without adapters, kept in F32 (of
   precision mixed where m's is bf16); m stays. */
DPO_API dpo_model *dpo_lora_merge(const dpo_model *m);
/* dpo_lora_tensors - views of A and B under their PEFT names; out NULL to count. */
DPO_API int64_t dpo_lora_tensors(const dpo_model *m, dpo_tensor *out, int64_t cap);

/* ===========================================================================================
   >>LOSS_API - one preference pair to a loss and its two derivatives, in double
   =========================================================================================== */

/* Log-probabilities are sums over the response's tokens, end-of-text included, in nats. */
typedef struct dpo_pair {
    double policy_chosen, policy_rejected;
    double reference_chosen, reference_rejected; /* 0 for losses that need none */
    int64_t chosen_tokens, rejected_tokens;
} dpo_pair;

/* Hyper-parameters of all losses; each uses those it knows. */
typedef struct dpo_loss_options {
    double beta;            /* 0.1 */
    double label_smoothing; /* cDPO, robust, EXO: probability that a label is flipped; 0 */
    double gamma;           /* SimPO margin; 1 */
    double lambda;          /* DPOP penalty; 5 */
    double tau;             /* DiscoPOP temperature; 0.05 */
    double sft_weight;      /* adds sft_weight * token-mean NLL of the chosen answers; 0 */
    int reference_free;     /* treat the reference log-probs as 0 */
    const void *user;       /* for a loss of your own */
} dpo_loss_options;

/* A loss: returns it for one pair and writes dL/d(policy_chosen), dL/d(policy_rejected). */
typedef double (*dpo_pair_loss)(const dpo_pair *p, const dpo_loss_options *o, double *d_chosen, double *d_rejected);

DPO_API dpo_loss_options dpo_loss_defaults(void);

/* dpo_loss_by_name - "sigmoid" ([DPO]; with label_smoothing [cDPO]), "robust", "hinge" ([SLiC]), "ipo"
   (per-token means, as TRL), "ipo_sum" (sums, as the paper's and the reference code), "sigmoid_norm",
   "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "dpop", "simpo",
   "orpo". NULL for another name. dpo_loss_name enumerates them: NULL at the end. */
DPO_API dpo_pair_loss dpo_loss_by_name(const char *name);
DPO_API const char *dpo_loss_name(int index);
/* dpo_loss_needs_reference - 0 for simpo and orpo; 1 for the rest, your own included. */
DPO_API int dpo_loss_needs_reference(dpo_pair_loss loss);

/* ===========================================================================================
   >>TRAIN_API - level 1
   =========================================================================================== */

enum { DPO_SFT = 1, DPO_PREFERENCE = 2 };
enum { DPO_TOKEN_MEAN = 0, DPO_SEQUENCE_SUM = 1 }; /* SFT: over the batch's tokens; sum, then mean over examples */
enum { DPO_ADAMW = 0, DPO_RMSPROP = 1 };
enum { DPO_CONSTANT = 0, DPO_LINEAR = 1, DPO_COSINE = 2 };

typedef struct dpo_train_config {
    int objective;      /* DPO_SFT, DPO_PREFERENCE */
    int sft_reduction;  /* DPO_TOKEN_MEAN, DPO_SEQUENCE_SUM */
    dpo_pair_loss loss; /* NULL = sigmoid */
    dpo_loss_options loss_options;
    int64_t num_train_epochs, max_steps; /* max_steps 0 = as many as the epochs hold */
    int64_t batch_size;                  /* examples per update: the only size that enters the result */
    int optimizer, schedule;
    double learning_rate;
    int64_t warmup_steps; /* factor min(1, (step+1)/(warmup_steps+1)), as the reference code */
    double adam_beta1, adam_beta2, adam_epsilon, weight_decay, rmsprop_alpha;
    double max_grad_norm;  /* 0 = no clipping */
    int mup_learning_rate; /* full fine-tuning: matrices learn at learning_rate * width_scale [muP] */
    int shuffle;           /* a fresh deterministic order each epoch */
    uint64_t seed;
    int64_t eval_size;   /* examples of the fixed evaluation subset; 0 = all */
    int optimizer_dtype; /* of the optimizer's state: DPO_F32, or DPO_BF16 (rounded stochastically) */
    /* How it is computed. None of these changes a bit of the result (naive: of the log-probs). */
    uint64_t
        memory; /* what the plan may take in all, the model included: picks recompute, tiles, micro-batches; 0 = any */
    int64_t micro_rows; /* most rows of a micro-batch; 0 = planned */
    int recompute;      /* keep a layer's input only, recompute the rest */
    int naive; /* for comparison: prompts twice, all rows through the last layer and the head, and the reference's
                           pass in each update (full fine-tuning: by the weights at hand, its numbers stay) */
    /* Capacity for batches of your own (level 2) or long evaluation data; 0 = what the data needs. */
    int64_t max_rows, max_targets, max_segments, max_path;
} dpo_train_config;

/* Names of the JSON form: loss, rewards/chosen, ... (TRL's). Means are exact means over examples. */
typedef struct dpo_metrics {
    int64_t step, examples, tokens; /* so far, this update included */
    double epoch;
    double loss;
    double rewards_chosen, rewards_rejected, rewards_accuracies, rewards_ties, rewards_margins;
    double logps_chosen, logps_rejected; /* sums over the response, mean over examples */
    double grad_norm;                    /* before clipping */
    double learning_rate;
    int64_t batch_examples, batch_tokens; /* of this update or evaluation */
    int has_rewards, is_eval;
} dpo_metrics;

DPO_API dpo_train_config dpo_train_defaults(int objective); /* the reference code's: see the implementation */

/* dpo_train - all epochs over `data`; with eval data it evaluates before and after (log lines).
   Full fine-tuning by a loss that needs a reference computes the reference log-probs first. */
DPO_API dpo_result dpo_train(dpo_model *m, dpo_data *data, dpo_data *eval, const dpo_train_config *t);

/* dpo_metrics_json - one line without newline under TRL's names (evaluations with "eval_" before each);
   returns its length; cap 1024 is enough. */
DPO_API size_t dpo_metrics_json(const dpo_metrics *m, char *out, size_t cap);

/* Reference log-probs are numbers kept with the data: computed once per (weights, data, precision,
   numerics version) by the model as it is with adapters off, reused by every beta, loss and optimizer.
   dpo_reference_load refuses a file made from anything else (DPO_E_STATE). */
DPO_API dpo_result dpo_reference_compute(dpo_model *m, dpo_data *d);
DPO_API dpo_result dpo_reference_save(const dpo_data *d, const char *path);
DPO_API dpo_result dpo_reference_load(const dpo_model *m, dpo_data *d, const char *path);
/* dpo_reference_of - logps [count,2] F64 (chosen, rejected), NULL if not computed. */
DPO_API const double *dpo_reference_of(const dpo_data *d);

/* Bytes by kind, and work, before anything runs. */
typedef struct dpo_plan {
    uint64_t weights, adapters, gradients, optimizer, activations, logits, scratch, data, total;
    double flops_per_example; /* counted multiply-adds x 2 of an average example's update, its reference known */
    int64_t trainable_parameters, parameters;
    int64_t micro_rows, max_path, examples, steps;
    int64_t head_rows;         /* rows of a tile of logits */
    int recompute, head_twice; /* layers, logits are computed again in the backward pass */
} dpo_plan;

/* dpo_plan_train - what training this would take. lora NULL = full, load NULL = fp32. No model is loaded.
   data gives the lengths; eval may be NULL. Frozen weights count as if all of their file's pages were in memory.
   errors: DPO_E_ARG where t->memory does not suffice (the sentence says what would) */
DPO_API dpo_result dpo_plan_train(dpo_context *c, const dpo_model_config *m, const dpo_load_config *load,
                                  const dpo_lora_config *lora, const dpo_train_config *t, const dpo_data *data,
                                  const dpo_data *eval, dpo_plan *out);
/* dpo_plan_text - the table as text; returns its length. */
DPO_API size_t dpo_plan_text(const dpo_plan *p, char *out, size_t cap);

/* ===========================================================================================
   >>STEP_API - level 2
   =========================================================================================== */

typedef struct dpo_segment {
    int32_t parent; /* index of an earlier segment, -1 = none */
    int32_t first;  /* first row; segments lie end to end in order */
    int32_t length; /* rows, may be 0 when past > 0 */
    int32_t past;   /* positions of its own that exist only as cached keys and values */
} dpo_segment;

typedef struct dpo_target {
    int32_t row;      /* the row whose prediction is asked */
    int32_t token;    /* log p(token) ... */
    int32_t sequence; /* ... is added to this sequence */
} dpo_target;

/* Descendants of one root stand together. Targets may come in any order; the bits of gradients follow the order they
   are given in (row order within a tree, trees in order, is what the trainer uses itself). */
typedef struct dpo_batch {
    const int32_t *tokens;
    int64_t n_rows;
    const dpo_segment *segments;
    int64_t n_segments;
    const dpo_target *targets;
    int64_t n_targets;
    int64_t n_sequences;
} dpo_batch;

/* dpo_trainer_create - gradients, optimizer state and workspace for a model. data NULL: for batches of
   your own, with the capacities of the config.
 *   errors  DPO_E_ARG (each option's allowed range)  DPO_E_MEMORY */
DPO_API dpo_trainer *dpo_trainer_create(dpo_model *m, dpo_data *data, const dpo_train_config *t);
DPO_API void dpo_trainer_free(dpo_trainer *t);

/* dpo_trainer_step - the next update of the schedule: forward, loss, backward, clip, optimizer.
 *   out     metrics of the batch before the update; may be NULL
 *   errors  DPO_E_NONFINITE before any weight moves; DPO_E_CANCELLED likewise, resumable by calling
 *           again; DPO_E_STATE when dpo_trainer_done */
DPO_API dpo_result dpo_trainer_step(dpo_trainer *t, dpo_metrics *out);
/* dpo_trainer_step_on - the same on examples of your choice, by index. */
DPO_API dpo_result dpo_trainer_step_on(dpo_trainer *t, const int64_t *items, int64_t n, dpo_metrics *out);
DPO_API int dpo_trainer_done(const dpo_trainer *t);
DPO_API int64_t dpo_trainer_steps(const dpo_trainer *t); /* in all */
/* dpo_trainer_save - a checkpoint: everything a run needs to go on, in ONE safetensors file, written whole or not at
 *           all, between two updates. Weights that move (under adapters: those alone) and the optimizer's state, in the
 *           types they are kept in; in the metadata step, examples, tokens, and as text whatever enters the result.
 *           Nothing of when or how fast: equal runs write equal files
 *   extra   state of the caller's own for the metadata: key, value, ..., NULL; or NULL
 *   errors  DPO_E_IO, and what lay under `path` is untouched; DPO_E_ARG (a key that is taken) */
DPO_API dpo_result dpo_trainer_save(dpo_trainer *t, const char *path, const char *const *extra);
/* dpo_trainer_load - into a trainer that was made of the same model directory, data and options; from there on
 *           dpo_trainer_step gives the bits of the run that was never stopped. May differ: memory, micro_rows,
 *           recompute, eval_size, threads, instructions; with a constant schedule also epochs and max_steps, so that a
 *           run that is done can go on. All is verified, and compared, before the first weight changes
 *   errors  DPO_E_STATE (another run's: which option, its two values)  DPO_E_FORMAT (damaged, or no checkpoint)
 *           DPO_E_IO (if the file fails after it was verified, the trainer is good for nothing but another load) */
DPO_API dpo_result dpo_trainer_load(dpo_trainer *t, const char *path);
/* dpo_trainer_evaluate - exact means over the fixed subset of `eval` (eval_size, by the seed). */
DPO_API dpo_result dpo_trainer_evaluate(dpo_trainer *t, dpo_data *eval, dpo_metrics *out);

/* dpo_trainer_forward - log-probs of the batch's sequences.
 *   logps   [n_sequences] F64, nats
 *   dpo_trainer_backward - adds d(loss)/d(weights) given d(loss)/d(logps); recomputes the forward pass
 *           of the same batch (no state is kept between the two, so any number of batches may lie
 *           between). dpo_trainer_update clips, moves the weights and clears the gradients. */
DPO_API dpo_result dpo_trainer_forward(dpo_trainer *t, const dpo_batch *b, double *logps);
DPO_API dpo_result dpo_trainer_backward(dpo_trainer *t, const dpo_batch *b, const double *dlogps);
DPO_API dpo_result dpo_trainer_update(dpo_trainer *t, double *grad_norm);
/* dpo_trainer_gradients - views of what has been added so far, named as the weights (full) or adapters. Both uses of a
   tied matrix are added up by the call: looked at in the middle of an update, its last bits differ from an update that
   was not looked at. */
DPO_API int64_t dpo_trainer_gradients(dpo_trainer *t, dpo_tensor *out, int64_t cap);
/* dpo_trainer_zero - drop the gradients. */
DPO_API dpo_result dpo_trainer_zero(dpo_trainer *t);
/* dpo_trainer_batch - examples of the trainer's data as the batch it would form of them: sequence
   2k (chosen) and 2k+1 (rejected) of item k, or sequence k for SFT; views valid until the next call. */
DPO_API dpo_result dpo_trainer_batch(dpo_trainer *t, const int64_t *items, int64_t n, dpo_batch *out);

/* dpo_model_logps, dpo_model_logits - without a trainer: logps [n_sequences] F64; logits [n_targets,V]
   of the rows the targets name. Allocate a workspace for the call. */
DPO_API dpo_result dpo_model_logps(dpo_model *m, const dpo_batch *b, double *logps);
DPO_API dpo_result dpo_model_logits(dpo_model *m, const dpo_batch *b, float *logits);

/* ===========================================================================================
   >>GENERATE_API
   =========================================================================================== */

enum { DPO_FINISH_LENGTH = 0, DPO_FINISH_EOS = 1, DPO_FINISH_STOP = 2 };

typedef struct dpo_generate_config {
    int64_t max_new_tokens;
    int64_t num_return_sequences; /* samples of each prompt, which is computed once; 1 */
    /* Applied in this order, as Hugging Face's generate does. */
    double repetition_penalty; /* of ids in the prompt and the answer so far; 1 = off */
    double temperature;        /* 0 = greedy, lowest id among equals */
    int64_t top_k;             /* keep the k most likely ids; 0 = off */
    double top_p;              /* keep the most likely ids that together reach p; 1 = off */
    double min_p;              /* keep ids at least min_p times as likely as the likeliest; 0 = off */
    uint64_t seed;             /* sequence i draws from (seed, i, position): batch and threads change nothing */
    const uint64_t *streams;   /* [n * num_return_sequences] numbers to draw by instead of i, or NULL */
    int32_t eos;               /* stop after this id; -1 = never */
    const int32_t *stop_ids;   /* further ids to stop after, "<|im_end|>" */
    int64_t n_stop_ids;
    const char *const *stop; /* stop where the decoded answer holds one of these; needs tokenizer */
    int64_t n_stop;
    const dpo_tokenizer *tokenizer;
    int64_t batch; /* sequences computed at a time; 0 = planned */
    int pack;    /* weights packed for this call unless the model holds them so (dpo_model_pack): 1, -1 = never; 0 = if
                      they are not frozen, take no more than 2 GiB, and that much is to be said that it pays */
    int *finish; /* [n * num_return_sequences] DPO_FINISH_*, or NULL */
    /* Called with each id that goes into the output, as it is drawn; non-zero ends that sequence. */
    int (*on_token)(void *user, int64_t sequence, int32_t id);
    void *user;
} dpo_generate_config;

DPO_API dpo_generate_config dpo_generate_defaults(void);

/* Bytes that dpo_generate takes beside the model. */
typedef struct dpo_generation_plan {
    uint64_t cache;     /* keys and values, F32 */
    uint64_t workspace; /* a step's activations and logits */
    uint64_t packed;    /* a packed copy of the weights, 0 if none is made */
    uint64_t total;
    int64_t batch; /* sequences at a time */
} dpo_generation_plan;

/* dpo_plan_generate - before it is done, for n >= 1 prompts, the longest one of `longest` ids. */
DPO_API dpo_result dpo_plan_generate(dpo_model *m, int64_t n, int64_t longest, const dpo_generate_config *g,
                                     dpo_generation_plan *out);

/* dpo_generate - continue n prompts, with cached keys and values.
 *   prompts [n] pointers to n_prompt[i] >= 1 ids
 *   out     [n * num_return_sequences, max_new_tokens] ids, n_out of them valid in each row: sample s of prompt i is
 *           row i * num_return_sequences + s. An id that ends a sequence is not among them; the ids that spell a stop
 *           string are, since an id may hold text before it: cut the decoded text there (dpo_generate_text does) */
DPO_API dpo_result dpo_generate(dpo_model *m, const int32_t *const *prompts, const int64_t *n_prompt, int64_t n,
                                const dpo_generate_config *g, int32_t *out, int64_t *n_out);
/* dpo_generate_text - the same for one text; out is zero-terminated, cut at cap and before a stop string. */
DPO_API dpo_result dpo_generate_text(dpo_model *m, const dpo_tokenizer *t, const char *prompt,
                                     const dpo_generate_config *g, char *out, size_t cap);

/* ===========================================================================================
   >>EVALUATE_API - log-probabilities of given texts, and what may be said of counts and means
   =========================================================================================== */

/* ids[context] .. ids[n - 1] are scored, each given all ids before it: n > context >= 1. */
typedef struct dpo_sequence {
    const int32_t *ids;
    int64_t n, context;
} dpo_sequence;

typedef struct dpo_score {
    double logp;           /* log-probs of the scored ids, summed in order, nats */
    double reference_logp; /* the same by the reference */
    double kl;             /* KL(reference || policy) of the next id, exact over the vocabulary, summed over them */
    int64_t tokens;        /* how many; 0: not reached before a cancellation */
    int greedy;            /* each of them is the likeliest at its place (the lowest id among equals) */
} dpo_score;

typedef struct dpo_token_score { /* of one scored id */
    double logp, reference_logp, kl;
    int64_t likeliest; /* id */
} dpo_token_score;

typedef struct dpo_score_config {
    dpo_model *reference; /* NULL: none. The model itself: its weights with the adapters off */
    int64_t max_rows;     /* computed at a time, if a single sequence does not take more; 0 = 2048 */
    int separate;         /* nothing is shared, for comparison: the same bits, slowly */
    int64_t *rows;        /* rows computed so far are added here; may be NULL */
} dpo_score_config;

/* dpo_score_sequences - log-probs of any number of sequences. What neighbours have in common at their beginnings is
   computed once: a question before its choices, examples before all questions. No bit depends on it.
 *   out     [n]; tokens [sum of n - context] in order, or NULL
 *   errors  DPO_E_ARG (which sequence)  DPO_E_SHAPE (ids or a length that the model has not; another vocabulary than
 *           the reference's)  DPO_E_NONFINITE (a log-prob is NaN)  DPO_E_CANCELLED between batches */
DPO_API dpo_result dpo_score_sequences(dpo_model *m, const dpo_sequence *s, int64_t n, const dpo_score_config *k,
                                       dpo_score *out, dpo_token_score *tokens);

/* dpo_mean - the mean of n numbers; *error (or NULL): its standard error, sample deviation / sqrt(n), NaN for n < 2. */
DPO_API double dpo_mean(const double *x, int64_t n, double *error);

/* dpo_wilson - 95 % interval of a rate, by Wilson's score. successes may be fractional (a tie is a half); n 0: 0, 1. */
DPO_API void dpo_wilson(double successes, double n, double *low, double *high);

/* dpo_mcnemar - exact two-sided p that two models are equally often right, given that on b items only the first was and
   on c only the second: a fair coin's b + c throws. */
DPO_API double dpo_mcnemar(int64_t b, int64_t c);

/* dpo_bootstrap_mean - 95 % percentile interval of the mean of n numbers, resampled `draws` times (10000 is usual; 40
   to 40000). Of paired differences it compares two models. A function of x, seed and draws alone.
 *   errors  DPO_E_ARG (n < 1, draws), the outputs are NaN then */
DPO_API dpo_result dpo_bootstrap_mean(const double *x, int64_t n, uint64_t seed, int64_t draws, double *low,
                                      double *high);

/* ===========================================================================================
   >>LAYER_API - level 3: each layer on plain tensors

   All tensors are F32, where nothing else is said. Backward functions ADD to the gradients of
   parameters (dw, db, ...) and OVERWRITE the gradient of the input (dx). A parameter's or its
   gradient's pointer may be NULL where it says "or NULL". The formulas stand above the implementations (>>LAYERS).
   Errors: DPO_E_SHAPE with the names and shapes; outputs are untouched then.
   =========================================================================================== */

/* y[n] = table[ids[n]]; dtable[ids[n]] += dy[n] in row order.   table [V,d]  y [N,d] */
DPO_API dpo_result dpo_embedding_forward(dpo_context *c, dpo_tensor y, const int32_t *ids, dpo_tensor table);
DPO_API dpo_result dpo_embedding_backward(dpo_context *c, dpo_tensor dtable, const int32_t *ids, dpo_tensor dy);
/* LayerNorm or RMSNorm (kind: DPO_NORM_LAYER, DPO_NORM_RMS) over the last dimension.   x,y [N,d]  w,b [d], b or NULL
   stats [N,2]: mean (RMSNorm: 0), 1/sqrt(var + eps) (1/sqrt(mean x^2 + eps)) */
DPO_API dpo_result dpo_norm_forward(dpo_context *c, int kind, dpo_tensor y, dpo_tensor stats, dpo_tensor x,
                                    dpo_tensor w, dpo_tensor b, double eps);
DPO_API dpo_result dpo_norm_backward(dpo_context *c, int kind, dpo_tensor dx, dpo_tensor dw, dpo_tensor db,
                                     dpo_tensor dy, dpo_tensor x, dpo_tensor w, dpo_tensor stats);
/* y = x w^T + b + s (x a^T) bb^T.   x [N,in]  w [out,in]  b [out] or NULL data  y [N,out]
   w may be BF16: then the operands of all these products are rounded to bf16, as DPO_PRECISION_MIXED does
   a [r,in], bb [out,r]: an adapter, or NULL data; da, dbb likewise; dx, dw or db with NULL data: not wanted */
typedef struct dpo_linear {
    dpo_tensor w, b, a, bb;
    double scale;
} dpo_linear;
DPO_API dpo_result dpo_linear_forward(dpo_context *c, dpo_tensor y, dpo_tensor x, const dpo_linear *l);
DPO_API dpo_result dpo_linear_backward(dpo_context *c, dpo_tensor dx, const dpo_linear *grad, dpo_tensor dy,
                                       dpo_tensor x, const dpo_linear *l);
/* Rotary positions on the first `rotary_dim` of each head, pairs (i, i + rotary_dim/2), in place.
   x [N,H,D]  positions [N].  Backward: the inverse rotation of dx in place. */
DPO_API dpo_result dpo_rope_forward(dpo_context *c, dpo_tensor x, const int32_t *positions, int rotary_dim,
                                    double theta);
DPO_API dpo_result dpo_rope_backward(dpo_context *c, dpo_tensor dx, const int32_t *positions, int rotary_dim,
                                     double theta);
/* Causal attention over a forest.   q,out [N,H,D]  k,v [N,K,D], K divides H  stats [N,H,2]
   slopes [H] ALiBi or NULL.   score = scale q.k - slope (i - j) */
DPO_API dpo_result dpo_attention_forward(dpo_context *c, dpo_tensor out, dpo_tensor stats, dpo_tensor q, dpo_tensor k,
                                         dpo_tensor v, const dpo_segment *segments, int64_t n_segments, double scale,
                                         const float *slopes);
DPO_API dpo_result dpo_attention_backward(dpo_context *c, dpo_tensor dq, dpo_tensor dk, dpo_tensor dv, dpo_tensor dout,
                                          dpo_tensor stats, dpo_tensor q, dpo_tensor k, dpo_tensor v,
                                          const dpo_segment *segments, int64_t n_segments, double scale,
                                          const float *slopes);
/* Activations, elementwise, on tensors of as many elements. kind: DPO_GELU (erf), DPO_GELU_TANH, y = gelu(x), gate and
   dgate without data; DPO_SWIGLU, y = x * silu(gate). */
DPO_API dpo_result dpo_activation_forward(dpo_context *c, int kind, dpo_tensor y, dpo_tensor x, dpo_tensor gate);
DPO_API dpo_result dpo_activation_backward(dpo_context *c, int kind, dpo_tensor dx, dpo_tensor dgate, dpo_tensor dy,
                                           dpo_tensor x, dpo_tensor gate);
/* Output head with log-softmax: logps[n] = log softmax(scale w x[n])[token[n]], never storing more than
   a tile of logits. Backward takes weights[n] = d(loss)/d(logps[n]) and recomputes.  x [N,d]  w [V,d] */
DPO_API dpo_result dpo_head_forward(dpo_context *c, double *logps, dpo_tensor x, dpo_tensor w, const int32_t *token,
                                    double scale);
DPO_API dpo_result dpo_head_backward(dpo_context *c, dpo_tensor dx, dpo_tensor dw, const double *weights, dpo_tensor x,
                                     dpo_tensor w, const int32_t *token, double scale);

/* Numbers, exactly as the library computes them: float functions are at most 2 ulp off. */
DPO_API float dpo_math_exp(float x);
DPO_API float dpo_math_log(float x);
DPO_API float dpo_math_tanh(float x);
DPO_API float dpo_math_erf(float x);
DPO_API double dpo_math_sin(double x);
DPO_API double dpo_math_cos(double x);
DPO_API uint16_t dpo_bf16_from_f32(float x);
DPO_API float dpo_f32_from_bf16(uint16_t x);
DPO_API uint16_t dpo_f16_from_f32(float x);
DPO_API float dpo_f32_from_f16(uint16_t x);

#ifdef __cplusplus
}
#endif
#endif /* DPO_H: nothing below is needed to use the library */

#if defined(DPO_IMPLEMENTATION) && !defined(DPO_IMPLEMENTATION_DONE)
#define DPO_IMPLEMENTATION_DONE

/* ===========================================================================================
   >>PLATFORM - what is asked of compiler and system
   =========================================================================================== */

#include <float.h>
#include <math.h> /* sqrt, sqrtf, floor: all that is used of it */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef DPO_NO_STDIO
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#ifndef DPO_NO_THREADS
#include <pthread.h>
#include <unistd.h>
#endif
#include <sys/mman.h>
#if !defined(DPO_NO_SIMD) && defined(__x86_64__)
#include <immintrin.h>
#define DPO__X86 1
#elif defined(__SSE2__)
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef __FAST_MATH__
#error "dpo.h: -ffast-math (or -Ofast) breaks its arithmetic; compile this file without it"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "dpo.h: needs a little-endian machine: its files are used as they lie"
#endif
#if !defined(FLT_EVAL_METHOD) || FLT_EVAL_METHOD != 0
#error "dpo.h: needs float and double evaluated as such (no x87: use -mfpmath=sse)"
#endif

/* Each product that is added is written as a fused multiply-add; nothing else may become one. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifndef DPO_ASSERT
#define DPO_ASSERT(x) ((void)0)
#endif
#define DPO__INLINE       static inline __attribute__((always_inline))
#define DPO__FORMAT(a, b) __attribute__((format(printf, a, b)))
#define DPO__ALIGN        64 /* bytes: a cache line, a 512-bit vector */

#if defined(__SANITIZE_ADDRESS__)
#define DPO__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DPO__ASAN 1
#endif
#endif
#ifdef DPO__ASAN
/* From the sanitizer's run time: arenas put poisoned gaps between their pieces. */
void __asan_poison_memory_region(void const volatile *p, size_t n);
void __asan_unpoison_memory_region(void const volatile *p, size_t n);
#endif

DPO__INLINE int64_t dpo__min64(int64_t a, int64_t b) { return a < b ? a : b; }
DPO__INLINE int64_t dpo__max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* The floating-point environment of all computing: round to nearest, subnormal operands and results
   are zero. Entered by each public function that computes, left before it returns or calls out. */
typedef struct dpo__fpenv {
    uint64_t saved;
} dpo__fpenv;

#if defined(__SSE2__)
DPO__INLINE dpo__fpenv dpo__fp_enter(void) {
    dpo__fpenv e;
    e.saved = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* all exceptions masked, FTZ, DAZ, nearest */
    return e;
}
DPO__INLINE void dpo__fp_leave(dpo__fpenv e) { _mm_setcsr((unsigned)e.saved); }
#elif defined(__aarch64__)
DPO__INLINE dpo__fpenv dpo__fp_enter(void) {
    dpo__fpenv e;
    uint64_t fz = (uint64_t)1 << 24;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(e.saved));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(fz) : "memory");
    return e;
}
DPO__INLINE void dpo__fp_leave(dpo__fpenv e) { __asm__ __volatile__("msr fpcr, %0" : : "r"(e.saved) : "memory"); }
#else
DPO__INLINE dpo__fpenv dpo__fp_enter(void) {
    dpo__fpenv e;
    e.saved = 0;
    return e;
}
DPO__INLINE void dpo__fp_leave(dpo__fpenv e) { (void)e; }
#endif

#ifndef DPO_NO_STDIO
/* A handle is the descriptor + 1, so that nothing has to be allocated. */
DPO__INLINE int dpo__posix_fd(void *file) { return (int)((intptr_t)file - 1); }
DPO__INLINE int dpo__posix_error(void) { return errno ? errno : EIO; }

static int dpo__posix_open(void *user, const char *path, int mode, void **file) {
    struct stat st;
    int fd, e, flags = mode == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY;
    (void)user;
#ifdef O_CLOEXEC
    flags |= O_CLOEXEC;
#endif
    *file = NULL;
    do fd = open(path, flags, 0666);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return dpo__posix_error();
    e = fstat(fd, &st) ? dpo__posix_error() : S_ISDIR(st.st_mode) ? EISDIR : 0;
    if (e) {
        (void)close(fd);
        return e;
    }
    *file = (void *)((intptr_t)fd + 1);
    return 0;
}

static int dpo__posix_size(void *user, void *file, uint64_t *bytes) {
    struct stat st;
    (void)user;
    *bytes = 0;
    if (fstat(dpo__posix_fd(file), &st)) return dpo__posix_error();
    if (!S_ISREG(st.st_mode)) return ESPIPE; /* a pipe would look empty */
    *bytes = (uint64_t)st.st_size;
    return 0;
}

#define DPO__POSIX_PIECE ((size_t)1 << 30) /* some systems refuse 2 GB and more at once */

static int dpo__posix_read(void *user, void *file, uint64_t offset, void *to, size_t bytes) {
    uint8_t *p = (uint8_t *)to;
    (void)user;
    while (bytes) {
        ssize_t n;
        if ((off_t)offset < 0 || (uint64_t)(off_t)offset != offset) return EFBIG;
        /* not pread: strict C99 hides it from whoever includes a system header first */
        if (lseek(dpo__posix_fd(file), (off_t)offset, SEEK_SET) < 0) return dpo__posix_error();
        n = read(dpo__posix_fd(file), p, bytes < DPO__POSIX_PIECE ? bytes : DPO__POSIX_PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return dpo__posix_error();
        if (n == 0) return EIO; /* the end, too early */
        p += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int dpo__posix_write(void *user, void *file, const void *from, size_t bytes) {
    const uint8_t *p = (const uint8_t *)from;
    (void)user;
    while (bytes) {
        ssize_t n = write(dpo__posix_fd(file), p, bytes < DPO__POSIX_PIECE ? bytes : DPO__POSIX_PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return dpo__posix_error();
        if (n == 0) return ENOSPC;
        p += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int dpo__posix_sync_fd(int fd) {
    int r;
#ifdef F_FULLFSYNC
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0; /* macOS: fsync stops at the disk's own cache */
#endif
    do r = fsync(fd);
    while (r && errno == EINTR);
    return r && errno != EINVAL && errno != ENOTSUP ? dpo__posix_error() : 0; /* special files */
}
static int dpo__posix_sync(void *user, void *file) {
    (void)user;
    return dpo__posix_sync_fd(dpo__posix_fd(file));
}
static int dpo__posix_close(void *user, void *file) {
    (void)user;
    return close(dpo__posix_fd(file)) && errno != EINTR ? dpo__posix_error() : 0;
}
static int dpo__posix_rename(void *user, const char *from, const char *to) {
    (void)user;
    return rename(from, to) ? dpo__posix_error() : 0;
}
static int dpo__posix_remove(void *user, const char *path) {
    (void)user;
    return unlink(path) ? dpo__posix_error() : 0;
}
static int dpo__posix_make_dir(void *user, const char *path) {
    struct stat st;
    int e;
    (void)user;
    if (!mkdir(path, 0777)) return 0;
    e = dpo__posix_error();
    return e == EEXIST && !stat(path, &st) && S_ISDIR(st.st_mode) ? 0 : e;
}
static int dpo__posix_sync_dir(void *user, const char *path) {
    int e, fd = open(path, O_RDONLY);
    (void)user;
    if (fd < 0) return dpo__posix_error();
    e = dpo__posix_sync_fd(fd);
    (void)close(fd);
    return e;
}
static int dpo__posix_map(void *user, void *file, uint64_t bytes, const void **at) {
    void *p;
    (void)user;
    *at = NULL;
    if (!bytes || (uint64_t)(size_t)bytes != bytes) return EFBIG;
    p = mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, dpo__posix_fd(file), 0);
    if (p == MAP_FAILED) return dpo__posix_error();
    *at = p;
    return 0;
}
static int dpo__posix_unmap(void *user, const void *at, uint64_t bytes) {
    (void)user;
    return munmap((void *)(uintptr_t)at, (size_t)bytes) ? dpo__posix_error() : 0;
}
#endif

/* What a context without hooks of its own uses. */
#ifdef DPO_NO_STDIO
static const dpo_io dpo__default_io = {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
#else
static const dpo_io dpo__default_io = {NULL,
                                       dpo__posix_open,
                                       dpo__posix_size,
                                       dpo__posix_read,
                                       dpo__posix_write,
                                       dpo__posix_sync,
                                       dpo__posix_close,
                                       dpo__posix_rename,
                                       dpo__posix_remove,
                                       dpo__posix_make_dir,
                                       dpo__posix_sync_dir,
                                       dpo__posix_map,
                                       dpo__posix_unmap};
#endif

/* ===========================================================================================
   >>ERROR - one sentence, the first one
   =========================================================================================== */

typedef struct dpo__error {
    dpo_result code;
    char text[1024];
} dpo__error;

static dpo_result dpo__error_set(dpo__error *e, dpo_result code, const char *format, va_list args) {
    if (e->code == DPO_OK) { /* what follows from a first error would only hide it */
        e->code = code;
        if (vsnprintf(e->text, sizeof e->text, format, args) < 0) e->text[0] = 0;
    }
    return code;
}

/* Appends to a buffer that may be too small; returns the length the whole text needs. */
DPO__FORMAT(4, 5)
static size_t dpo__append(char *out, size_t cap, size_t at, const char *format, ...) {
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(at < cap ? out + at : NULL, at < cap ? cap - at : 0, format, args);
    va_end(args);
    return at + (n > 0 ? (size_t)n : 0);
}

/* A number with so many digits; the locale's comma, if it has one, is put right. */
static size_t dpo__append_number(char *out, size_t cap, size_t at, int digits, double x) {
    char text[40], *p;
    dpo__append(text, sizeof text, 0, "%.*g", digits, x);
    for (p = text; *p; p++)
        if (*p == ',') *p = '.';
    return dpo__append(out, cap, at, "%s", text);
}

DPO_API const char *dpo_result_name(dpo_result r) {
    static const char *const names[] = {
        "DPO_OK",      "DPO_E_ARG",       "DPO_E_MEMORY", "DPO_E_IO",          "DPO_E_FORMAT",
        "DPO_E_SHAPE", "DPO_E_NONFINITE", "DPO_E_STATE",  "DPO_E_UNSUPPORTED", "DPO_E_CANCELLED"};
    return r <= DPO_OK && r >= DPO_E_CANCELLED ? names[-r] : "unknown";
}

/* ===========================================================================================
   >>MEMORY - blocks that the context owns, arenas that are measured before they are carved
   =========================================================================================== */

DPO__INLINE int dpo__mul_size(size_t a, size_t b, size_t *out) { return __builtin_mul_overflow(a, b, out); }
DPO__INLINE int dpo__add_size(size_t a, size_t b, size_t *out) { return __builtin_add_overflow(a, b, out); }

/* Every block: a header, then DPO__ALIGN-aligned bytes. Linked so that one close frees all. */
typedef struct dpo__block {
    struct dpo__block *prev, *next;
    void *raw;       /* what the allocator gave */
    size_t raw_size; /* and how much */
    size_t size;     /* bytes for the user */
} dpo__block;

typedef struct dpo__memory {
    void *(*alloc)(void *user, size_t bytes);
    void (*release)(void *user, void *p, size_t bytes);
    void *user;
    dpo__block *blocks;
    size_t in_use;
} dpo__memory;

static void *dpo__default_alloc(void *user, size_t bytes) {
    (void)user;
    return malloc(bytes);
}
static void dpo__default_release(void *user, void *p, size_t bytes) {
    (void)user;
    (void)bytes;
    free(p);
}

#define DPO__BLOCK_HEADER ((sizeof(dpo__block) + DPO__ALIGN - 1) / DPO__ALIGN * DPO__ALIGN)

/* Not cleared: large blocks then cost only the pages that are touched. */
static void *dpo__memory_get(dpo__memory *m, size_t size) {
    dpo__block *b;
    size_t raw_size;
    uintptr_t at;
    void *raw;
    if (dpo__add_size(size, DPO__BLOCK_HEADER + DPO__ALIGN, &raw_size)) return NULL;
    raw = m->alloc(m->user, raw_size);
    if (!raw) return NULL;
    at = ((uintptr_t)raw + DPO__BLOCK_HEADER + DPO__ALIGN - 1) & ~(uintptr_t)(DPO__ALIGN - 1);
    b = (dpo__block *)(at - DPO__BLOCK_HEADER);
    b->raw = raw;
    b->raw_size = raw_size;
    b->size = size;
    b->prev = NULL;
    b->next = m->blocks;
    if (b->next) b->next->prev = b;
    m->blocks = b;
    m->in_use += raw_size;
#ifdef MADV_HUGEPAGE
    if (size >= ((size_t)8 << 20)) { /* fewer page faults and TLB misses for the big arenas */
        uintptr_t huge = (uintptr_t)1 << 21, lo = (at + huge - 1) & ~(huge - 1);
        uintptr_t hi = (at + size) & ~(huge - 1);
        if (hi > lo) (void)madvise((void *)lo, hi - lo, MADV_HUGEPAGE);
    }
#endif
    return (void *)at;
}

static void dpo__memory_put(dpo__memory *m, void *p) {
    dpo__block *b;
    if (!p) return;
    b = (dpo__block *)((uintptr_t)p - DPO__BLOCK_HEADER);
#ifdef DPO__ASAN
    __asan_unpoison_memory_region(p, b->size);
#endif
    if (b->prev) b->prev->next = b->next;
    else m->blocks = b->next;
    if (b->next) b->next->prev = b->prev;
    m->in_use -= b->raw_size;
    m->release(m->user, b->raw, b->raw_size);
}

/* An arena runs twice through the same layout function: with base NULL it only counts, and what it
   counted is what the block is asked for. Sizes saturate, so an overflow becomes "no memory". */
typedef struct dpo__arena {
    uint8_t *base;
    size_t used;
} dpo__arena;

static void *dpo__arena_carve(dpo__arena *a, int64_t count, size_t size) {
    size_t bytes, end, at = a->used;
    if (count < 0 || dpo__mul_size((size_t)count, size, &bytes)) bytes = SIZE_MAX;
    if (dpo__add_size(bytes, DPO__ALIGN - 1, &bytes)) bytes = SIZE_MAX;
    bytes &= ~(size_t)(DPO__ALIGN - 1);
#ifdef DPO__ASAN
    if (dpo__add_size(bytes, DPO__ALIGN, &end)) end = SIZE_MAX;
    if (a->base) {
        size_t want = (size_t)count * size;
        __asan_poison_memory_region(a->base + at + want, end - want);
    }
    bytes = end;
#endif
    if (dpo__add_size(at, bytes, &end)) end = SIZE_MAX & ~(size_t)(DPO__ALIGN - 1);
    a->used = end;
    return a->base ? a->base + at : NULL;
}
#define DPO__CARVE(arena, type, count) ((type *)dpo__arena_carve((arena), (count), sizeof(type)))

/* ===========================================================================================
   >>THREADS - a pool whose workers take shares of a job as they come, spin briefly, then sleep

   Which worker computes what changes no bit, so nobody waits for one that another program keeps from taking a share:
   the others take it. A share that was taken is waited for.
   =========================================================================================== */

/* A task gets its index and the worker it runs on (for scratch memory). */
typedef void (*dpo__task)(void *arg, int64_t task, int worker);

typedef struct dpo__pool {
    int n; /* workers, the calling thread included */
#ifndef DPO_NO_THREADS
    pthread_t *threads;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    uint64_t turn;    /* number of the job, its shares, the next one to be taken: 24 + 20 + 20 bits */
    unsigned pending; /* shares that are not finished */
    unsigned asleep;  /* workers that must be woken */
    int waiting;      /* so must the caller */
    int quit;
    dpo__task run;
    void *arg;
    int64_t tasks;
#endif
} dpo__pool;

/* Of a worker, where there are as many tasks: small enough to even out, large enough to be cheap. */
#define DPO__SHARES 8

#ifndef DPO_NO_THREADS
DPO__INLINE void dpo__pause(void) {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Takes shares until none is left. One look at `turn` tells both which share is taken and whether there is one: what
   else there is to know about a job is fixed as long as one of its shares is not finished. */
static void dpo__pool_share(dpo__pool *p, int worker) {
    for (;;) {
        uint64_t turn = __atomic_fetch_add(&p->turn, 1, __ATOMIC_ACQ_REL);
        int64_t shares = (int64_t)(turn >> 20 & 0xfffff), share = (int64_t)(turn & 0xfffff), i, end;
        if (share >= shares) return;
        end = p->tasks * (share + 1) / shares;
        for (i = p->tasks * share / shares; i < end; i++) p->run(p->arg, i, worker);
        if (__atomic_sub_fetch(&p->pending, 1, __ATOMIC_SEQ_CST) == 0 &&
            __atomic_load_n(&p->waiting, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->idle);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

typedef struct dpo__worker {
    dpo__pool *pool;
    int index;
} dpo__worker;

/* Long enough to bridge the gaps inside a step, short enough to leave a core to others. */
#define DPO__SPIN 4000

static void *dpo__pool_main(void *arg) {
    dpo__pool *p = ((dpo__worker *)arg)->pool;
    int index = ((dpo__worker *)arg)->index;
    uint64_t seen = 0;
    (void)dpo__fp_enter(); /* this thread is ours: never restored */
    for (;;) {
        int spin;
        for (spin = 0; spin < DPO__SPIN && __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE) >> 40 == seen; spin++)
            dpo__pause();
        if (spin == DPO__SPIN) {
            pthread_mutex_lock(&p->lock);
            __atomic_add_fetch(&p->asleep, 1, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(&p->turn, __ATOMIC_SEQ_CST) >> 40 == seen) pthread_cond_wait(&p->wake, &p->lock);
            __atomic_sub_fetch(&p->asleep, 1, __ATOMIC_SEQ_CST);
            pthread_mutex_unlock(&p->lock);
        }
        seen = __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE) >> 40;
        if (__atomic_load_n(&p->quit, __ATOMIC_ACQUIRE)) return NULL;
        dpo__pool_share(p, index);
    }
}

/* A new job of so many shares; what it is stands in the pool already. */
static void dpo__pool_start(dpo__pool *p, int64_t shares) {
    uint64_t job = (__atomic_load_n(&p->turn, __ATOMIC_RELAXED) >> 40) + 1;
    __atomic_store_n(&p->pending, (unsigned)shares, __ATOMIC_RELAXED);
    __atomic_store_n(&p->turn, job << 40 | (uint64_t)shares << 20, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&p->asleep, __ATOMIC_SEQ_CST)) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}
#endif

/* Runs tasks 0..tasks-1, each exactly once; returns when all are done. Not to be nested. */
static void dpo__pool_run(dpo__pool *p, int64_t tasks, dpo__task run, void *arg) {
#ifndef DPO_NO_THREADS
    if (p->n > 1 && tasks > 1) {
        int spin;
        p->run = run;
        p->arg = arg;
        p->tasks = tasks;
        dpo__pool_start(p, dpo__min64(tasks, (int64_t)p->n * DPO__SHARES));
        dpo__pool_share(p, 0);
        for (spin = 0; spin < DPO__SPIN; spin++) {
            if (__atomic_load_n(&p->pending, __ATOMIC_ACQUIRE) == 0) return;
            dpo__pause();
        }
        pthread_mutex_lock(&p->lock);
        __atomic_store_n(&p->waiting, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&p->pending, __ATOMIC_SEQ_CST) != 0) pthread_cond_wait(&p->idle, &p->lock);
        __atomic_store_n(&p->waiting, 0, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&p->lock);
        return;
    }
#endif
    {
        int64_t i;
        (void)p;
        for (i = 0; i < tasks; i++) run(arg, i, 0);
    }
}

static void dpo__pool_close(dpo__pool *p, dpo__memory *m) {
#ifndef DPO_NO_THREADS
    int i;
    if (!p->threads) return;
    __atomic_store_n(&p->quit, 1, __ATOMIC_RELEASE);
    dpo__pool_start(p, 0);
    for (i = 0; i + 1 < p->n; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    dpo__memory_put(m, p->threads);
    p->threads = NULL;
#else
    (void)p;
    (void)m;
#endif
}

/* With fewer threads than wished the pool just is smaller: the results are the same. */
static dpo_result dpo__pool_open(dpo__pool *p, dpo__memory *m, int n) {
    memset(p, 0, sizeof *p);
    p->n = 1;
#ifndef DPO_NO_THREADS
    if (n > 1) {
        int i, started = 0;
        dpo__worker *workers;
        size_t head = ((size_t)n * sizeof(pthread_t) + DPO__ALIGN - 1) & ~(size_t)(DPO__ALIGN - 1);
        p->threads = (pthread_t *)dpo__memory_get(m, head + (size_t)n * sizeof(dpo__worker));
        if (!p->threads) return DPO_E_MEMORY;
        workers = (dpo__worker *)((uint8_t *)p->threads + head);
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->wake, NULL);
        pthread_cond_init(&p->idle, NULL);
        for (i = 0; i + 1 < n; i++) {
            workers[i].pool = p;
            workers[i].index = i + 1;
            if (pthread_create(&p->threads[i], NULL, dpo__pool_main, &workers[i])) break;
            started++;
        }
        p->n = started + 1;
        if (!started) dpo__pool_close(p, m);
    }
#else
    (void)m;
    (void)n;
#endif
    return DPO_OK;
}

/* ===========================================================================================
   >>RANDOM - numbers by counter: a pure function of (seed, stream, index)

   Two rounds of the splitmix64 finaliser over the three words. No state, so nothing to save, and a
   thread or a resumed run draws what it would have drawn anyway.
   =========================================================================================== */

DPO__INLINE uint64_t dpo__mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
static uint64_t dpo__random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
    uint64_t x = dpo__mix(seed + 0x9e3779b97f4a7c15u);
    x = dpo__mix(x ^ (stream * 0xd1342543de82ef95u + 0x2545f4914f6cdd1du));
    return dpo__mix(x + (index + 1) * 0x9e3779b97f4a7c15u);
}
/* In (0, 1): 52 bits and a half, so that neither end is met. */
static double dpo__random_unit(uint64_t seed, uint64_t stream, uint64_t index) {
    double u = (double)(dpo__random_bits(seed, stream, index) >> 12) + 0.5;
    return u * (1.0 / 4503599627370496.0);
}
/* In 0..n-1, without bias worth speaking of (n < 2^32: by 2^-32). */
static uint64_t dpo__random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    uint64_t x = dpo__random_bits(seed, stream, index);
    uint64_t hi = (x >> 32) * n, lo = (x & 0xffffffffu) * n;
    return (hi + (lo >> 32)) >> 32;
}

/* A 64-bit hash of bytes in sequence, for keys of caches and the weights' fingerprint: four lanes of
   multiply-rotate over 32-byte groups, little-endian words. */
typedef struct dpo__hash {
    uint64_t lane[4], length;
} dpo__hash;

static dpo__hash dpo__hash_start(uint64_t seed) {
    dpo__hash h;
    int i;
    for (i = 0; i < 4; i++) h.lane[i] = dpo__mix(seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u);
    h.length = 0;
    return h;
}
DPO__INLINE uint64_t dpo__load_le64(const uint8_t *p) { /* one load where that is the order: compilers know this form */
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
           (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}
DPO__INLINE void dpo__hash_group(uint64_t *lane, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    a = (a ^ lane[0]) * 0x9fb21c651e98df25u;
    b = (b ^ lane[1]) * 0x9fb21c651e98df25u;
    c = (c ^ lane[2]) * 0x9fb21c651e98df25u;
    d = (d ^ lane[3]) * 0x9fb21c651e98df25u;
    lane[0] = a ^ (a >> 29);
    lane[1] = b ^ (b >> 29);
    lane[2] = c ^ (c >> 29);
    lane[3] = d ^ (d >> 29);
}
static void dpo__hash_add(dpo__hash *h, const void *data, size_t bytes) {
    const uint8_t *p = (const uint8_t *)data;
    uint8_t tail[32];
    dpo__hash k = *h; /* a copy that p cannot point into */
    size_t n;
    for (n = bytes; n; n -= n < 32 ? n : 32, p += 32) {
        if (n < 32) { /* each call's last group is padded: a call is a unit of the hash */
            memset(tail, 0, sizeof tail);
            memcpy(tail, p, n);
            p = tail;
        }
        dpo__hash_group(k.lane, dpo__load_le64(p), dpo__load_le64(p + 8), dpo__load_le64(p + 16),
                        dpo__load_le64(p + 24));
    }
    k.length += bytes;
    *h = k;
}
/* bf16 numbers, as the little-endian floats that they are. */
static void dpo__hash_add_bf16(dpo__hash *h, const uint16_t *x, int64_t n) {
    dpo__hash k = *h;
    uint16_t tail[8];
    k.length += (uint64_t)n * 4;
    for (; n > 0; n -= 8, x += 8) {
        if (n < 8) {
            memset(tail, 0, sizeof tail);
            memcpy(tail, x, (size_t)n * 2);
            x = tail;
        }
        dpo__hash_group(k.lane, (uint64_t)x[0] << 16 | (uint64_t)x[1] << 48,
                        (uint64_t)x[2] << 16 | (uint64_t)x[3] << 48, (uint64_t)x[4] << 16 | (uint64_t)x[5] << 48,
                        (uint64_t)x[6] << 16 | (uint64_t)x[7] << 48);
    }
    *h = k;
}
static void dpo__hash_number(dpo__hash *h, int64_t x) {
    uint8_t b[8];
    int i;
    for (i = 0; i < 8; i++) b[i] = (uint8_t)((uint64_t)x >> (8 * i));
    dpo__hash_add(h, b, 8);
}
static uint64_t dpo__hash_end(const dpo__hash *h) {
    uint64_t x = h->length;
    int i;
    for (i = 0; i < 4; i++) x = dpo__mix(x ^ h->lane[i]) + 0x9e3779b97f4a7c15u;
    return dpo__mix(x);
}

/* ===========================================================================================
   >>NUMERICS - numbers, double functions, sixteen lanes and their functions
   =========================================================================================== */

/* Arithmetic is a promise: every function here gives the same bits on every machine, compiler and instruction set.
   Double functions use + - * / alone (no fma, no libm but floor); float ones take fma as an argument. Subnormal
   numbers count as zero of their sign, everywhere, as the processor is told to do while the library computes. */

DPO__INLINE uint32_t dpo__num_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
DPO__INLINE float dpo__num_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
DPO__INLINE uint64_t dpo__num_bits64(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}
DPO__INLINE double dpo__num_double(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}
DPO__INLINE double dpo__num_inf(void) { return dpo__num_double(0x7ff0000000000000u); }
DPO__INLINE double dpo__num_nan(void) { return dpo__num_double(0x7ff8000000000000u); }

DPO__INLINE float dpo__num_flush(float x) {
    uint32_t u = dpo__num_bits(x);
    return dpo__num_float(u & ~((uint32_t) - (int32_t)((u & 0x7f800000u) == 0) & 0x7fffffffu));
}

/* a*b + c with one rounding, for processors (and instances) without the instruction. The product is exact in double.
   Rounding its sum with c to double, then to float, errs only where the first ends on the middle between two floats:
   there (about one in 2^29) the error e of the sum, by TwoSum, says which way to leave it. A result is tiny, and
   flushed, if it is below 2^-126 after rounding to 24 bits with unbounded exponent: below 2^-126 - 2^-151 before.
   Inf and nan make e nan. */
static __attribute__((noinline, cold)) float dpo__num_fmaf_rare(float a, float b, float c) {
    double p = (double)dpo__num_flush(a) * (double)dpo__num_flush(b), z = (double)dpo__num_flush(c);
    double s = p + z, v = s - p, w = s - v, e = (z - v) + (p - w), q = e * s;
    uint64_t u = dpo__num_bits64(s), low = (uint64_t)(q < 0.0), high = (uint64_t)(q > 0.0);
    u = (u - low) | low | high; /* rounded to odd: as good as exact */
    if (dpo__num_double(u & 0x7fffffffffffffffu) < 0x1.ffffffp-127) u &= 0x8000000000000000u;
    return (float)dpo__num_double(u);
}
/* whether a finite sum must go there; s = 0 and subnormals are among them */
DPO__INLINE uint32_t dpo__num_fma_rare(double s) {
    uint64_t u = dpo__num_bits64(s);
    uint32_t w = (uint32_t)u & 0x1fffffffu;
    int32_t h = (int32_t)((uint32_t)(u >> 32) & 0x7fffffffu);
    return (uint32_t)(w == 0x10000000u) | (uint32_t)(h < 0x38200000);
}
/* right in any environment; whoever has sixteen takes dpo__lanes_fma */
DPO__INLINE float dpo__num_fmaf(float a, float b, float c) {
    float x = dpo__num_flush(a), y = dpo__num_flush(b), z = dpo__num_flush(c);
    double p = (double)x * (double)y, s = p + (double)z;
    if (__builtin_expect((int)dpo__num_fma_rare(s), 0)) return dpo__num_fmaf_rare(x, y, z);
    return (float)s;
}

/* bf16: round to nearest even; nan stays nan (made quiet). Subnormals pass as bits. */
DPO__INLINE uint16_t dpo__num_bf16_from(float x) {
    uint32_t u = dpo__num_bits(x), r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : r);
}
/* bf16 by chance: up with the probability of the part cut off, for r uniform in 0..65535, so that the mean of many is
   the number itself. Never up to infinity; what is not finite stays so. */
DPO__INLINE uint32_t dpo__num_bf16_draw(float x, uint32_t r) {
    uint32_t u = dpo__num_bits(x);
    int32_t a = (int32_t)(u & 0x7fffffffu);
    u += a < 0x7f7f0000 ? r : 0u;
    return (u | (a > 0x7f800000 ? 0x400000u : 0u)) >> 16;
}
DPO__INLINE float dpo__num_bf16_to(uint16_t h) { return dpo__num_float((uint32_t)h << 16); }

/* IEEE half, subnormals included */
DPO__INLINE uint16_t dpo__num_f16_from(float x) {
    uint32_t u = dpo__num_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu, r, shift, m, rest, half;
    if (a >= 0x38800000u) { /* normal as half, too large, or nan */
        r = a - (112u << 23);
        r = (r + 0xfffu + ((r >> 13) & 1u)) >> 13;
        if (a >= 0x477ff000u) r = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
        return (uint16_t)(sign | r);
    }
    if (a < 0x33000000u) return (uint16_t)sign; /* below half of the least subnormal */
    shift = 126u - (a >> 23);
    m = (a & 0x7fffffu) | 0x800000u;
    r = m >> shift;
    rest = m & ((1u << shift) - 1u);
    half = 1u << (shift - 1u);
    r += (uint32_t)(rest > half || (rest == half && (r & 1u)));
    return (uint16_t)(sign | r);
}
DPO__INLINE float dpo__num_f16_to(uint16_t h) {
    uint32_t e = (h >> 10) & 31u, m = h & 0x3ffu, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t sub = dpo__num_bits((float)(int32_t)m * 0x1p-24f),
             nor = (m << 13) | ((e + (e == 31u ? 224u : 112u)) << 23);
    return dpo__num_float(sign | (e ? nor : sub));
}

/* ---- double functions. Largest errors measured, in ulp: exp 0.67, expm1 1.15, log 0.83, log1p 0.80, sin 0.76,
   cos 0.78, tanh 1.3, erf 1.3, pow 1.3, sigmoid 2.1, log_sigmoid 1.5, log1mexp 1.7. ---- */
/* c[0] + c[1] x + ... + c[n-1] x^(n-1) */
DPO__INLINE double dpo__num_poly(const double *c, int n, double x) {
    double q = c[n - 1];
    int i;
    for (i = n - 2; i >= 0; i--) {
        q *= x;
        q += c[i];
    }
    return q;
}

/* y * 2^k for y in [0.5, 2) and |k| < 2000; below 2^-1022 it is 0, above the range inf */
static inline double dpo__num_scale(double y, int k) {
    int h = k / 2;
    if (k < -1022 || (k == -1022 && y < 1.0)) return 0.0;
    y = y * dpo__num_double((uint64_t)(1023 + h) << 52);
    return y * dpo__num_double((uint64_t)(1023 + (k - h)) << 52);
}

/* e^r - 1 - r for |r| <= ln(2)/2, error 2^-61 */
static inline double dpo__num_exp_tail(double r) {
    static const double c[12] = {0.5,
                                 0.16666666666666666,
                                 0.041666666666666671,
                                 0.0083333333333341624,
                                 0.0013888888888882219,
                                 0.00019841269838649303,
                                 2.480158732908255e-05,
                                 2.7557323012261132e-06,
                                 2.7557271952614139e-07,
                                 2.5049576506822816e-08,
                                 2.0913974326342989e-09,
                                 1.668733746526216e-10};
    return r * r * dpo__num_poly(c, 12, r);
}

/* x + xl = k ln 2 + hi - lo, |x| < 1100; hi is exact, as k times 32 bits of ln 2 is */
static inline int dpo__num_exp_reduce(double x, double xl, double *hi, double *lo) {
    double t = x * 1.4426950408889634, k, a;
    t += 0.5;
    k = floor(t);
    a = k * 0x1.62e42feep-1;
    *hi = x - a;
    a = k * 0x1.a39ef35793c76p-33;
    *lo = a - xl;
    return (int)k;
}

/* e^(x + xl), xl a small correction of x */
static inline double dpo__num_exp2part(double x, double xl) {
    double hi, lo, y, e;
    int k;
    if (x != x) return x;
    if (x > 710.0) return dpo__num_inf();
    if (x < -709.0) return 0.0;
    k = dpo__num_exp_reduce(x, xl, &hi, &lo);
    y = 1.0 + hi;
    e = 1.0 - y;
    e += hi;
    e += dpo__num_exp_tail(hi - lo) - lo;
    return dpo__num_scale(y + e, k);
}

static inline double dpo__num_exp(double x) { return dpo__num_exp2part(x, 0.0); }

/* e^x - 1 = (2^k - 1) + 2^k (e^r - 1); the sum of the two large parts keeps its rounding error */
static inline double dpo__num_expm1(double x) {
    double hi, lo, p, t, a, y, v, e, w;
    int k;
    if (x != x) return x;
    if (x > 41.0) return dpo__num_exp(x);
    if (x < -41.0) return -1.0;
    if ((x < 0.0 ? -x : x) < 0.34) return (x < 0.0 ? -x : x) < 0x1p-54 ? x : x + dpo__num_exp_tail(x);
    k = dpo__num_exp_reduce(x, 0.0, &hi, &lo);
    p = dpo__num_double((uint64_t)(1023 + k) << 52);
    t = p - 1.0;
    a = p * hi;
    y = t + a;
    v = y - t;
    w = y - v;
    e = t - w;
    e += a - v;
    w = dpo__num_exp_tail(hi - lo) - lo;
    e += p * w;
    return y + e;
}

/* x = 2^k m, m in [sqrt(1/2), sqrt(2)), x > 0 and normal */
static inline double dpo__num_split(double x, int *k) {
    uint64_t u = dpo__num_bits64(x), i = u - 0x3fe6a09e667f3bcdu;
    *k = (int)((int64_t)i >> 52);
    return dpo__num_double(u - (i & 0xfff0000000000000u));
}

/* k ln 2 + log(1 + f) + c. With s = f/(2 + f): log(1 + f) = 2 atanh(s) = f - h + s (h + R(s^2)), h = f^2/2. */
static inline double dpo__num_log_sum(int k, double f, double c) {
    static const double l[7] = {0.66666666666667351, 0.3999999999940938,  0.28571428743677091, 0.22222198430181175,
                                0.18183572281977126, 0.15313834268941112, 0.14798235565974396};
    double s = f / (2.0 + f), z = s * s, r = z * dpo__num_poly(l, 7, z), h = 0.5 * f * f, kd = (double)k, a, b;
    a = s * (h + r);
    b = kd * 0x1.a39ef35793c76p-33;
    b += c;
    a += b;
    a = (h - a) - f;
    b = kd * 0x1.62e42feep-1;
    return b - a;
}

static inline double dpo__num_log(double x) {
    double m;
    int k;
    if (x != x || x == dpo__num_inf()) return x;
    if (x < 0x1p-1022) return x > -0x1p-1022 ? -dpo__num_inf() : dpo__num_nan();
    m = dpo__num_split(x, &k);
    return dpo__num_log_sum(k, m - 1.0, 0.0);
}

/* log(1 + x): what 1 + x loses in rounding comes back as a first-order term */
static inline double dpo__num_log1p(double x) {
    double u, e, m;
    int k;
    if (x != x || x == dpo__num_inf()) return x;
    if (x <= -1.0) return x < -1.0 ? dpo__num_nan() : -dpo__num_inf();
    if (x > -0x1p-54 && x < 0x1p-54) return x;
    if (x > -0.29 && x < 0.41) return dpo__num_log_sum(0, x, 0.0);
    u = 1.0 + x;
    if (x < 1.0) {
        e = u - 1.0;
        e = x - e;
    } else {
        e = u - x;
        e = 1.0 - e;
    }
    m = dpo__num_split(u, &k);
    return dpo__num_log_sum(k, m - 1.0, e / u);
}

/* a * b exactly, as the returned product and its error (halves of 26 bits); |a|, |b| < 2^990 */
static inline double dpo__num_two_prod(double a, double b, double *err) {
    double p = a * b, t, ah, al, bh, bl, e, v;
    t = a * 134217729.0;
    v = t - a;
    ah = t - v;
    al = a - ah;
    t = b * 134217729.0;
    v = t - b;
    bh = t - v;
    bl = b - bh;
    t = ah * bh;
    e = t - p;
    t = ah * bl;
    e += t;
    t = al * bh;
    e += t;
    t = al * bl;
    e += t;
    *err = e;
    return p;
}

/* log(x) to about 2^-66 of itself, in two parts; 0 < x normal */
static inline double dpo__num_log_double(double x, double *low) {
    static const double c[8] = {0.3999999999999998,  0.28571428571443869, 0.22222222217778631, 0.18181818845727324,
                                0.15384558291629527, 0.13336270313020485, 0.11675653918629048, 0.1198286869098366};
    double f, g, gl, s, sl, z, zl, q, ql, w, wl, h, t, v;
    int k;
    f = dpo__num_split(x, &k);
    g = f + 1.0;
    v = g - 1.0;
    gl = f - v;
    f -= 1.0;
    s = f / g; /* s + sl = f / (2 + f) */
    t = dpo__num_two_prod(s, g, &v);
    sl = f - t;
    sl -= v;
    v = s * gl;
    sl -= v;
    sl /= g;
    z = dpo__num_two_prod(s, s, &zl);
    v = 2.0 * s * sl;
    zl += v;                                             /* z + zl = its square */
    q = dpo__num_two_prod(z, 0x1.5555555555555p-1, &ql); /* 2 atanh(s)/s = 2 + 2/3 z + z^2 P(z) */
    v = z * 0x1.5555555555555p-55;
    ql += v;
    v = zl * 0x1.5555555555555p-1;
    ql += v;
    v = z * z * dpo__num_poly(c, 8, z);
    ql += v;
    w = 2.0 + q;
    v = w - 2.0;
    wl = q - v;
    wl += ql;
    h = dpo__num_two_prod(s, w, &v);
    t = s * wl;
    v += t;
    t = sl * w;
    v += t;
    t = (double)k * 0x1.62e42fefa38p-1; /* 42 bits of ln 2: exact */
    w = t + h;
    g = w - t;
    s = w - g;
    wl = t - s;
    wl += h - g;
    wl += v;
    t = (double)k * 0x1.ef35793c7673p-45;
    wl += t;
    s = w + wl;
    v = s - w;
    *low = wl - v;
    return s;
}

/* x^y, all x and y: of a negative x for integer y only (else nan); x^0 = 1^y = 1 */
static inline double dpo__num_pow(double x, double y) {
    double a = x < 0.0 ? -x : x, b = y < 0.0 ? -y : y, sign = 1.0, h, l, p, e, t;
    if (y == 0.0 || x == 1.0) return 1.0;
    if (x != x || y != y) return dpo__num_nan();
    if (dpo__num_bits64(x) >> 63) {
        int whole = b >= 0x1p53 || floor(b) == b;
        t = 0.5 * b;
        if (whole && b < 0x1p53 && floor(t) != t) sign = -1.0;
        if (!whole && a >= 0x1p-1022 && a != dpo__num_inf()) return dpo__num_nan();
    }
    if (a == 1.0) return sign;
    if (a < 0x1p-1022 || a == dpo__num_inf()) return (a > 1.0) == (y > 0.0) ? sign * dpo__num_inf() : sign * 0.0;
    if (b > 0x1p66) return (a > 1.0) == (y > 0.0) ? sign * dpo__num_inf() : sign * 0.0;
    if (b < 0x1p-66) return sign;
    h = dpo__num_log_double(a, &l);
    p = dpo__num_two_prod(y, h, &e);
    t = y * l;
    e += t;
    return sign * dpo__num_exp2part(p, e);
}

/* x = n pi/2 + r + rl, |r| <= pi/4, for |x| <= 1e6 to the last bit of r: pi/2 in parts of 33 bits, whose products
   with n < 2^20 are exact. Returns n mod 4. */
static inline int dpo__num_trig_reduce(double x, double *r, double *rl) {
    double n = x * 0.63661977236758138, a, b, c, l, t, v, w;
    n += 0.5;
    n = floor(n);
    t = n * 0x1.921fb544p+0;
    a = x - t;
    t = n * 0x1.0b4611a6p-34;
    b = a - t;
    v = a - b;
    w = b + v;
    l = a - w;
    w = v - t;
    l += w;
    t = n * 0x1.3198a2ep-69;
    c = b - t;
    v = b - c;
    w = c + v;
    a = b - w;
    w = v - t;
    a += w;
    l += a;
    t = n * 0x1.b839a252049c1p-104;
    l -= t;
    a = c + l;
    v = a - c;
    *r = a;
    *rl = l - v;
    t = n * 0.25;
    t = floor(t);
    t *= 4.0;
    n -= t;
    return (int)n;
}

static inline double dpo__num_sin_part(double r, double rl) {
    static const double c[7] = {-0.16666666666666666,   0.0083333333333330383,   -0.00019841269840956014,
                                2.7557319069768433e-06, -2.5052069671122366e-08, 1.6054138459819266e-10,
                                -7.3804076693269681e-13};
    double z = r * r, t = r * z * dpo__num_poly(c, 7, z), u = 0.5 * z * rl;
    t += rl - u;
    return r + t;
}

static inline double dpo__num_cos_part(double r, double rl) {
    static const double c[7] = {0.041666666666666664,    -0.0013888888888888378, 2.480158730116489e-05,
                                -2.7557319051985271e-07, 2.0876719766646037e-09, -1.1466585723403893e-11,
                                4.579590601730296e-14};
    double z = r * r, h = 0.5 * z, w = 1.0 - h, e = (1.0 - w) - h, t = z * z * dpo__num_poly(c, 7, z), u = r * rl;
    e += t - u;
    return w + e;
}

/* |x| <= 1e6; beyond, the error grows, and from 2^30 on they give nan */
static inline double dpo__num_sin(double x) {
    double r, rl;
    int n;
    if (!(x > -0x1p30 && x < 0x1p30)) return dpo__num_nan();
    if (x > -0x1p-27 && x < 0x1p-27) return x;
    n = dpo__num_trig_reduce(x, &r, &rl);
    r = n & 1 ? dpo__num_cos_part(r, rl) : dpo__num_sin_part(r, rl);
    return n & 2 ? -r : r;
}
static inline double dpo__num_cos(double x) {
    double r, rl;
    int n;
    if (!(x > -0x1p30 && x < 0x1p30)) return dpo__num_nan();
    n = dpo__num_trig_reduce(x, &r, &rl) + 1;
    r = n & 1 ? dpo__num_cos_part(r, rl) : dpo__num_sin_part(r, rl);
    return n & 2 ? -r : r;
}

static inline double dpo__num_sigmoid(double x) {
    double e = dpo__num_exp(x < 0.0 ? x : -x);
    return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

/* log(sigmoid(x)) */
static inline double dpo__num_log_sigmoid(double x) {
    double l = dpo__num_log1p(dpo__num_exp(x < 0.0 ? x : -x));
    return x < 0.0 ? x - l : -l;
}

/* log(1 - e^x), x <= 0 */
static inline double dpo__num_log1mexp(double x) {
    return x > -0.69314718055994531 ? dpo__num_log(-dpo__num_expm1(x)) : dpo__num_log1p(-dpo__num_exp(x));
}

/* --- lanes --------------------------------------------------------------------------------------------
   Sixteen floats at a time. Each operation is a loop of sixteen that compilers turn into vector instructions of the
   function it is inlined into; bodies written with them are compiled once for each instruction set (fused = 1 inside
   functions whose target has fma, else 0), all with the same bits. */

typedef struct {
    float x[16];
} dpo__lanes;

/* A statement for each lane, l = 0..15. Written out for gcc: indices that are constant from the start let it keep lanes
   in registers at once, where loops that it unrolls itself take it four times as long. clang does well with a loop, and
   badly with the other form under its sanitizers. */
#if defined(__clang__)
#define DPO__LANES(...)                                                                                                \
    {                                                                                                                  \
        int l;                                                                                                         \
        for (l = 0; l < 16; l++) {                                                                                     \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }
#else
#define DPO__LANE(n, ...)                                                                                              \
    {                                                                                                                  \
        enum { l = n };                                                                                                \
        __VA_ARGS__                                                                                                    \
    }
#define DPO__LANES(...)                                                                                                \
    DPO__LANE(0, __VA_ARGS__)                                                                                          \
    DPO__LANE(1, __VA_ARGS__)                                                                                          \
    DPO__LANE(2, __VA_ARGS__)                                                                                          \
    DPO__LANE(3, __VA_ARGS__)                                                                                          \
    DPO__LANE(4, __VA_ARGS__)                                                                                          \
    DPO__LANE(5, __VA_ARGS__)                                                                                          \
    DPO__LANE(6, __VA_ARGS__)                                                                                          \
    DPO__LANE(7, __VA_ARGS__)                                                                                          \
    DPO__LANE(8, __VA_ARGS__)                                                                                          \
    DPO__LANE(9, __VA_ARGS__)                                                                                          \
    DPO__LANE(10, __VA_ARGS__)                                                                                         \
    DPO__LANE(11, __VA_ARGS__)                                                                                         \
    DPO__LANE(12, __VA_ARGS__)                                                                                         \
    DPO__LANE(13, __VA_ARGS__)                                                                                         \
    DPO__LANE(14, __VA_ARGS__)                                                                                         \
    DPO__LANE(15, __VA_ARGS__)
#endif
#define DPO__LANEWISE(expr)                                                                                            \
    dpo__lanes r;                                                                                                      \
    DPO__LANES(r.x[l] = (expr);)                                                                                       \
    return r

/* Before a loop whose body is made of lanes: clang would vectorise that one, across its steps. */
#if defined(__clang__)
#define DPO__STEP _Pragma("clang loop vectorize(disable) interleave(disable)")
#else
#define DPO__STEP
#endif

DPO__INLINE dpo__lanes dpo__lanes_set(float a) { DPO__LANEWISE(a); }
DPO__INLINE dpo__lanes dpo__lanes_load(const float *p) { DPO__LANEWISE(p[l]); }
DPO__INLINE void dpo__lanes_store(float *p, dpo__lanes a) { DPO__LANES(p[l] = a.x[l];) }
/* n = 1..15 of them; by way of memory, so that the lanes themselves stay in registers */
DPO__INLINE dpo__lanes dpo__lanes_load_part(const float *p, int n, float fill) {
    float part[16];
    dpo__lanes_store(part, dpo__lanes_set(fill));
    memcpy(part, p, (size_t)n * sizeof(float));
    return dpo__lanes_load(part);
}
DPO__INLINE void dpo__lanes_store_part(float *p, dpo__lanes a, int n) {
    float part[16];
    dpo__lanes_store(part, a);
    memcpy(p, part, (size_t)n * sizeof(float));
}

DPO__INLINE dpo__lanes dpo__lanes_add(dpo__lanes a, dpo__lanes b) { DPO__LANEWISE(a.x[l] + b.x[l]); }
DPO__INLINE dpo__lanes dpo__lanes_sub(dpo__lanes a, dpo__lanes b) { DPO__LANEWISE(a.x[l] - b.x[l]); }
DPO__INLINE dpo__lanes dpo__lanes_mul(dpo__lanes a, dpo__lanes b) { DPO__LANEWISE(a.x[l] * b.x[l]); }
DPO__INLINE dpo__lanes dpo__lanes_div(dpo__lanes a, dpo__lanes b) { DPO__LANEWISE(a.x[l] / b.x[l]); }
DPO__INLINE dpo__lanes dpo__lanes_neg(dpo__lanes a) {
    DPO__LANEWISE(dpo__num_float(dpo__num_bits(a.x[l]) ^ 0x80000000u));
}
DPO__INLINE dpo__lanes dpo__lanes_abs(dpo__lanes a) {
    DPO__LANEWISE(dpo__num_float(dpo__num_bits(a.x[l]) & 0x7fffffffu));
}
/* |a| with the sign of b, for a >= 0 */
DPO__INLINE dpo__lanes dpo__lanes_sign(dpo__lanes a, dpo__lanes b) {
    DPO__LANEWISE(dpo__num_float(dpo__num_bits(a.x[l]) | (dpo__num_bits(b.x[l]) & 0x80000000u)));
}
DPO__INLINE float dpo__num_choose(int yes, float x, float y) {
    uint32_t m = (uint32_t)-yes;
    return dpo__num_float((dpo__num_bits(x) & m) | (dpo__num_bits(y) & ~m));
}
/* the second operand where they compare equal or one is nan */
DPO__INLINE dpo__lanes dpo__lanes_max(dpo__lanes a, dpo__lanes b) {
    DPO__LANEWISE(dpo__num_choose(a.x[l] > b.x[l], a.x[l], b.x[l]));
}

/* the sixteen without the instruction: one test tells whether any of them needs care. SSE2 reads subnormals as zero. */
/* Out of line: sixteen of it in every kernel would cost a minute to compile. */
static __attribute__((noinline)) dpo__lanes dpo__lanes_fma_soft(dpo__lanes a, dpo__lanes b, dpo__lanes c) {
    dpo__lanes r;
    double s[16];
    uint32_t rare = 0;
    int l;
#if !defined(__SSE2__)
    for (l = 0; l < 16; l++) a.x[l] = dpo__num_flush(a.x[l]);
    for (l = 0; l < 16; l++) b.x[l] = dpo__num_flush(b.x[l]);
    for (l = 0; l < 16; l++) c.x[l] = dpo__num_flush(c.x[l]);
#endif
    for (l = 0; l < 16; l++) {
        double p = (double)a.x[l] * (double)b.x[l];
        s[l] = p + (double)c.x[l];
    }
    for (l = 0; l < 16; l++) rare |= dpo__num_fma_rare(s[l]);
    if (__builtin_expect((int)rare, 0))
        for (l = 0; l < 16; l++) r.x[l] = dpo__num_fmaf(a.x[l], b.x[l], c.x[l]);
    else
        for (l = 0; l < 16; l++) r.x[l] = (float)s[l];
    return r;
}

DPO__INLINE dpo__lanes dpo__lanes_fma(int fused, dpo__lanes a, dpo__lanes b, dpo__lanes c) {
    if (fused) {
        DPO__LANEWISE(__builtin_fmaf(a.x[l], b.x[l], c.x[l]));
    }
    return dpo__lanes_fma_soft(a, b, c);
}

/* Correctly rounded by IEEE 754. sqrtf sets errno and so is not vectorised; x86-64 and aarch64 have these at least.
   gcc takes all lanes apart for the four-lane form, and no other can be written where the target is not known yet. */
DPO__INLINE dpo__lanes dpo__lanes_sqrt(int fused, dpo__lanes a) {
    int i;
#if defined(DPO__X86) && !defined(__clang__) && defined(__OPTIMIZE__) /* else the scalar form would hold it, too */
    typedef float dpo__eight __attribute__((vector_size(32)));
    if (fused) {
        dpo__eight low = {0}, high = {0};
        DPO__LANES(if (l < 8) low[l % 8] = a.x[l]; else high[l % 8] = a.x[l];)
        __asm__("vsqrtps %0, %0" : "+x"(low));
        __asm__("vsqrtps %0, %0" : "+x"(high));
        DPO__LANES(a.x[l] = l < 8 ? low[l % 8] : high[l % 8];)
        return a;
    }
#endif
    (void)fused;
#if defined(__SSE2__)
    for (i = 0; i < 16; i += 4) _mm_storeu_ps(a.x + i, _mm_sqrt_ps(_mm_loadu_ps(a.x + i)));
#elif defined(__aarch64__)
    for (i = 0; i < 16; i += 4) vst1q_f32(a.x + i, vsqrtq_f32(vld1q_f32(a.x + i)));
#else
    for (i = 0; i < 16; i++) a.x[i] = sqrtf(a.x[i]);
#endif
    return a;
}

/* a < b ? x : y and a <= b ? x : y; a nan chooses y */
DPO__INLINE dpo__lanes dpo__lanes_select_lt(dpo__lanes a, dpo__lanes b, dpo__lanes x, dpo__lanes y) {
    DPO__LANEWISE(dpo__num_choose(a.x[l] < b.x[l], x.x[l], y.x[l]));
}
DPO__INLINE dpo__lanes dpo__lanes_select_le(dpo__lanes a, dpo__lanes b, dpo__lanes x, dpo__lanes y) {
    DPO__LANEWISE(dpo__num_choose(a.x[l] <= b.x[l], x.x[l], y.x[l]));
}

/* over the lanes, in a fixed tree: 8 + 8, 4 + 4, 2 + 2, 1 + 1 */
DPO__INLINE float dpo__lanes_sum(dpo__lanes a) {
    int l;
    for (l = 0; l < 8; l++) a.x[l] += a.x[l + 8];
    for (l = 0; l < 4; l++) a.x[l] += a.x[l + 4];
    return (a.x[0] + a.x[2]) + (a.x[1] + a.x[3]);
}
DPO__INLINE float dpo__lanes_max_all(dpo__lanes a) {
    int l;
    for (l = 0; l < 8; l++) a.x[l] = a.x[l] > a.x[l + 8] ? a.x[l] : a.x[l + 8];
    for (l = 0; l < 4; l++) a.x[l] = a.x[l] > a.x[l + 4] ? a.x[l] : a.x[l + 4];
    for (l = 0; l < 2; l++) a.x[l] = a.x[l] > a.x[l + 2] ? a.x[l] : a.x[l + 2];
    return a.x[0] > a.x[1] ? a.x[0] : a.x[1];
}

/* c[0] + c[1] x + ... + c[n-1] x^(n-1), n a constant */
DPO__INLINE dpo__lanes dpo__lanes_poly(int fused, const float *c, int n, dpo__lanes x) {
    dpo__lanes q = dpo__lanes_set(c[n - 1]);
    int i;
    for (i = n - 2; i >= 0; i--) q = dpo__lanes_fma(fused, q, x, dpo__lanes_set(c[i]));
    return q;
}

/* e^x = p 2^k: returns p in [0.7, 1.42]; *k = 1.5*2^23 + k */
DPO__INLINE dpo__lanes dpo__lanes_exp_parts(int fused, dpo__lanes x, dpo__lanes *k) {
    static const float c[7] = {1.0f, 1.0f, 0.5f, 0.166665331f, 0.0416672193f, 0.00836760178f, 0.00138660264f};
    dpo__lanes t = dpo__lanes_fma(fused, x, dpo__lanes_set(1.44269504f), dpo__lanes_set(12582912.0f));
    dpo__lanes n = dpo__lanes_sub(t, dpo__lanes_set(12582912.0f)), f;
    f = dpo__lanes_fma(fused, n, dpo__lanes_set(-0x1.62e4p-1f), x);
    f = dpo__lanes_fma(fused, n, dpo__lanes_set(-0x1.7f7d1cp-20f), f);
    *k = t;
    return dpo__lanes_poly(fused, c, 7, f);
}

/* p * 2^k by adding to the exponent */
DPO__INLINE dpo__lanes dpo__lanes_shift(dpo__lanes p, dpo__lanes k) {
    DPO__LANEWISE(dpo__num_float(dpo__num_bits(p.x[l]) + (dpo__num_bits(k.x[l]) << 23)));
}

/* e^x; 0 where it is below 2^-126. Error 0.88 ulp. */
DPO__INLINE dpo__lanes dpo__lanes_exp_body(int fused, dpo__lanes x) {
    dpo__lanes k, p = dpo__lanes_exp_parts(fused, x, &k), r = dpo__lanes_shift(p, k);
    r = dpo__lanes_select_le(x, dpo__lanes_set(88.7228317f), r,
                             dpo__lanes_add(x, dpo__lanes_set((float)dpo__num_inf())));
    return dpo__lanes_select_lt(x, dpo__lanes_set(-87.3365402f), dpo__lanes_set(0.0f), r);
}

/* tanh x: |x| < 0.8 x + x^3 P(x^2), else 1 - 2/(e^2x + 1). Error 1.02 ulp. */
DPO__INLINE dpo__lanes dpo__lanes_tanh_body(int fused, dpo__lanes x) {
    static const float c[6] = {-0.333332986f, 0.133322418f,    -0.0538536012f,
                               0.0213065483f, -0.00741421385f, 0.0015870668f};
    dpo__lanes one = dpo__lanes_set(1.0f), ten = dpo__lanes_set(10.0f), a = dpo__lanes_abs(x), t, s, b, k;
    a = dpo__lanes_select_lt(ten, a, ten, a);
    t = dpo__lanes_mul(a, a);
    s = dpo__lanes_mul(t, dpo__lanes_poly(fused, c, 6, t));
    s = dpo__lanes_fma(fused, a, s, a);
    b = dpo__lanes_exp_parts(fused, dpo__lanes_add(a, a), &k);
    b = dpo__lanes_add(dpo__lanes_shift(b, k), one);
    b = dpo__lanes_sub(one, dpo__lanes_div(dpo__lanes_set(2.0f), b));
    return dpo__lanes_sign(dpo__lanes_select_le(dpo__lanes_set(0.8f), a, b, s), x);
}

/* erf x: |x| < 0.92 x + x P(x^2), else 1 - exp(x Q(x)); one chain serves both polynomials. Error 1.07 ulp. */
DPO__INLINE dpo__lanes dpo__lanes_erf_body(int fused, dpo__lanes x) {
    static const float c[7] = {0.128379166f,   -0.376126319f,    0.112836704f,   -0.0268580113f,
                               0.00519758044f, -0.000810359663f, 8.20586283e-05f};
    static const float d[7] = {-1.12863708f,    -0.635198057f,   -0.106158957f,  0.0236944202f,
                               -0.00361023028f, 0.000314816687f, -1.0427194e-05f};
    dpo__lanes one = dpo__lanes_set(1.0f), lim = dpo__lanes_set(0.92f), four = dpo__lanes_set(4.0f),
               a = dpo__lanes_abs(x), t, q, b, k;
    int i;
    a = dpo__lanes_select_lt(four, a, four, a);
    t = dpo__lanes_select_le(lim, a, a, dpo__lanes_mul(a, a));
    q = dpo__lanes_select_le(lim, a, dpo__lanes_set(d[6]), dpo__lanes_set(c[6]));
    for (i = 5; i >= 0; i--)
        q = dpo__lanes_fma(fused, q, t, dpo__lanes_select_le(lim, a, dpo__lanes_set(d[i]), dpo__lanes_set(c[i])));
    b = dpo__lanes_exp_parts(fused, dpo__lanes_mul(a, q), &k);
    b = dpo__lanes_sub(one, dpo__lanes_shift(b, k));
    return dpo__lanes_sign(dpo__lanes_select_le(lim, a, b, dpo__lanes_fma(fused, a, q, a)), x);
}

/* x = 2^k m, m in [sqrt(1/2), sqrt(2)): returns m; x > 0 and normal */
DPO__INLINE dpo__lanes dpo__lanes_split(dpo__lanes x, dpo__lanes *k) {
    dpo__lanes m;
    DPO__LANES(uint32_t u = dpo__num_bits(x.x[l]), i = u - 0x3f3504f3u; k->x[l] = (float)((int32_t)i >> 23);
               m.x[l] = dpo__num_float(u - (i & 0xff800000u));)
    return m;
}

/* log x = k ln 2 + f - f^2/2 + f^3 P(f), f = m - 1; -inf at 0, nan below. Error 0.89 ulp. */
DPO__INLINE dpo__lanes dpo__lanes_log_body(int fused, dpo__lanes x) {
    static const float c[8] = {0.333333313f, -0.250008434f, 0.200010344f, -0.166224658f,
                               0.142072409f, -0.131748214f, 0.1272441f,   -0.0754630491f};
    dpo__lanes zero = dpo__lanes_set(0.0f), inf = dpo__lanes_set((float)dpo__num_inf());
    dpo__lanes k, f = dpo__lanes_sub(dpo__lanes_split(x, &k), dpo__lanes_set(1.0f)), t = dpo__lanes_mul(f, f), r;
    r = dpo__lanes_mul(dpo__lanes_mul(t, f), dpo__lanes_poly(fused, c, 8, f));
    r = dpo__lanes_fma(fused, t, dpo__lanes_set(-0.5f), r);
    r = dpo__lanes_fma(fused, k, dpo__lanes_set(0x1.7f7d1cp-20f), r);
    r = dpo__lanes_add(f, r);
    r = dpo__lanes_fma(fused, k, dpo__lanes_set(0x1.62e4p-1f), r);
    r = dpo__lanes_select_lt(x, inf, r, x);
    r = dpo__lanes_select_lt(x, dpo__lanes_set(0x1p-126f), dpo__lanes_sub(zero, inf), r);
    return dpo__lanes_select_lt(x, zero, dpo__lanes_set((float)dpo__num_nan()), r);
}

/* What kernels call. The software forms stand out of line: inside every kernel they would cost a minute to
   compile. */
#define DPO__LANES_FUNCTION(name)                                                                                      \
    static __attribute__((noinline)) dpo__lanes dpo__lanes_##name##_soft(dpo__lanes x) {                               \
        return dpo__lanes_##name##_body(0, x);                                                                         \
    }                                                                                                                  \
    DPO__INLINE dpo__lanes dpo__lanes_##name(int fused, dpo__lanes x) {                                                \
        return fused ? dpo__lanes_##name##_body(1, x) : dpo__lanes_##name##_soft(x);                                   \
    }
DPO__LANES_FUNCTION(exp)
DPO__LANES_FUNCTION(tanh)
DPO__LANES_FUNCTION(erf)
DPO__LANES_FUNCTION(log)

/* ===========================================================================================
   >>KERNELS - rows of floats, one C body each for every instruction set

   A body works on 16 lanes at a time; element i of a row always falls to lane i mod 16, and sums over
   a row end in one fixed tree, so every instruction set gives the same bits. `fused` is a compile-time
   constant: 1 where the instance's target has FMA, 0 for the exact software form.
   Formulas stand with the layers that use them.
   =========================================================================================== */

/* Whole groups of 16, then the rest: `m` lanes from element `i` on. */
#define DPO__BLOCKS(n, i, m, ...)                                                                                      \
    do {                                                                                                               \
        int64_t i;                                                                                                     \
        (void)fused;                                                                                                   \
        DPO__STEP                                                                                                      \
        for (i = 0; i + 16 <= (n); i += 16) {                                                                          \
            const int m = 16;                                                                                          \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        if (i < (n)) {                                                                                                 \
            const int m = (int)((n)-i);                                                                                \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)
DPO__INLINE dpo__lanes dpo__lanes_get_or(const float *p, int m, float fill) {
    return m == 16 ? dpo__lanes_load(p) : dpo__lanes_load_part(p, m, fill);
}
DPO__INLINE dpo__lanes dpo__lanes_get(const float *p, int m) { return dpo__lanes_get_or(p, m, 0.0f); }
DPO__INLINE void dpo__lanes_put(float *p, dpo__lanes v, int m) {
    if (m == 16) dpo__lanes_store(p, v);
    else dpo__lanes_store_part(p, v, m);
}

DPO__INLINE float dpo__row_dot(int fused, int64_t n, const float *x, const float *y) {
    dpo__lanes s = dpo__lanes_set(0.0f);
    DPO__BLOCKS(n, i, m, s = dpo__lanes_fma(fused, dpo__lanes_get(x + i, m), dpo__lanes_get(y + i, m), s););
    return dpo__lanes_sum(s);
}
DPO__INLINE float dpo__row_sum(int fused, int64_t n, const float *x) {
    dpo__lanes s = dpo__lanes_set(0.0f);
    DPO__BLOCKS(n, i, m, s = dpo__lanes_add(s, dpo__lanes_get(x + i, m)););
    return dpo__lanes_sum(s);
}
/* sum (x - mean)^2; the padding lanes hold `mean` and add nothing. */
DPO__INLINE float dpo__row_variance(int fused, int64_t n, const float *x, float mean) {
    dpo__lanes s = dpo__lanes_set(0.0f), mu = dpo__lanes_set(mean);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_get_or(x + i, m, mean); v = dpo__lanes_sub(v, mu);
                s = dpo__lanes_fma(fused, v, v, s););
    return dpo__lanes_sum(s);
}
/* In double; a product of two floats is exact there, and the sum cannot overflow: not finite means
   that an element is not. */
DPO__INLINE double dpo__row_squares(int fused, int64_t n, const float *x) {
    double s[16];
    int64_t i;
    int k;
    (void)fused;
    DPO__LANES(s[l] = 0.0;)
    for (i = 0; i + 16 <= n; i += 16) {
        DPO__LANES(double v = (double)x[i + l]; v = v * v; s[l] = s[l] + v;)
    }
    for (k = 0; i + k < n; k++) {
        double v = (double)x[i + k];
        v = v * v;
        s[k] = s[k] + v;
    }
    for (k = 0; k < 8; k++) s[k] = s[k] + s[k + 8];
    for (k = 0; k < 4; k++) s[k] = s[k] + s[k + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}
DPO__INLINE void dpo__row_add(int fused, int64_t n, float *y, const float *x) {
    DPO__BLOCKS(n, i, m, dpo__lanes_put(y + i, dpo__lanes_add(dpo__lanes_get(y + i, m), dpo__lanes_get(x + i, m)), m););
}
/* bf16 to float: y (+)= x */
DPO__INLINE void dpo__row_expand(int fused, int64_t n, float *y, const uint16_t *x, int add) {
    int64_t i = 0;
    (void)fused;
    for (; add && i + 16 <= n; i += 16) {
        DPO__LANES(y[i + l] = y[i + l] + dpo__num_bf16_to(x[i + l]);)
    }
    for (; !add && i + 16 <= n; i += 16) {
        DPO__LANES(y[i + l] = dpo__num_bf16_to(x[i + l]);)
    }
    for (; i < n; i++) y[i] = add ? y[i] + dpo__num_bf16_to(x[i]) : dpo__num_bf16_to(x[i]);
}
/* The two bytes, or the same values as floats, or both. A loop of 16 that is known to be one is what compilers
   vectorise. */
DPO__INLINE void dpo__narrow_put(int m, uint16_t *to, float *y, const uint32_t *h) {
    int l;
    if (to)
        for (l = 0; l < m; l++) to[l] = (uint16_t)h[l];
    if (y)
        for (l = 0; l < m; l++) y[l] = dpo__num_float(h[l] << 16);
}
/* float to bf16, to nearest even; `to` receives the two bytes, `y` the same value as a float; either may be NULL */
DPO__INLINE void dpo__row_narrow(int fused, int64_t n, uint16_t *to, float *y, const float *x) {
    DPO__BLOCKS(n, i, m, uint32_t h[16]; int l; for (l = 0; l < m; l++) h[l] = dpo__num_bf16_from(x[i + l]);
                dpo__narrow_put(m, to ? to + i : NULL, y ? y + i : NULL, h););
}
/* The same by chance: a function of the key and the element's index, n < 2^32. The random numbers are a finaliser of
   32 bits over counter and key (products of 64 bits are slow in vectors); each serves two elements. */
DPO__INLINE void dpo__row_narrow_draw(int fused, int64_t n, uint16_t *to, float *y, const float *x, uint64_t key) {
    DPO__BLOCKS(
        n, i, m, uint32_t h[16]; dpo__lanes v = dpo__lanes_get(x + i, m); int l; for (l = 0; l < 8; l++) {
            uint32_t r = ((uint32_t)(i / 2) + (uint32_t)l) * 0x9e3779b9u + (uint32_t)key;
            r = (r ^ (r >> 16)) * 0x7feb352du;
            r = (r ^ (r >> 15)) + (uint32_t)(key >> 32);
            r = (r ^ (r >> 16)) * 0x846ca68bu;
            r ^= r >> 16;
            h[l] = dpo__num_bf16_draw(v.x[l], r & 0xffffu);
            h[l + 8] = dpo__num_bf16_draw(v.x[l + 8], r >> 16);
        } dpo__narrow_put(m, to ? to + i : NULL, y ? y + i : NULL, h););
}
/* y += a x */
DPO__INLINE void dpo__row_axpy(int fused, int64_t n, float *y, float a, const float *x) {
    dpo__lanes f = dpo__lanes_set(a);
    DPO__BLOCKS(
        n, i, m,
        dpo__lanes_put(y + i, dpo__lanes_fma(fused, f, dpo__lanes_get(x + i, m), dpo__lanes_get(y + i, m)), m););
}
DPO__INLINE void dpo__row_scale(int fused, int64_t n, float *y, const float *x, float a) {
    dpo__lanes f = dpo__lanes_set(a);
    DPO__BLOCKS(n, i, m, dpo__lanes_put(y + i, dpo__lanes_mul(dpo__lanes_get(x + i, m), f), m););
}
/* y = (x - mean) * rstd * w (+ b) */
DPO__INLINE void dpo__row_norm(int fused, int64_t n, float *y, const float *x, const float *stats, const float *w,
                               const float *b) {
    dpo__lanes mu = dpo__lanes_set(stats[0]), rs = dpo__lanes_set(stats[1]);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_mul(dpo__lanes_sub(dpo__lanes_get(x + i, m), mu), rs);
                v = b ? dpo__lanes_fma(fused, v, dpo__lanes_get(w + i, m), dpo__lanes_get(b + i, m))
                      : dpo__lanes_mul(v, dpo__lanes_get(w + i, m));
                dpo__lanes_put(y + i, v, m););
}
/* sums[0] = sum dy w, sums[1] = sum dy w xhat */
DPO__INLINE void dpo__row_norm_sums(int fused, int64_t n, const float *dy, const float *x, const float *stats,
                                    const float *w, float *sums) {
    dpo__lanes mu = dpo__lanes_set(stats[0]), rs = dpo__lanes_set(stats[1]);
    dpo__lanes s0 = dpo__lanes_set(0.0f), s1 = s0;
    DPO__BLOCKS(n, i, m, dpo__lanes h = dpo__lanes_mul(dpo__lanes_sub(dpo__lanes_get(x + i, m), mu), rs);
                dpo__lanes g = dpo__lanes_mul(dpo__lanes_get(dy + i, m), dpo__lanes_get(w + i, m));
                s0 = dpo__lanes_add(s0, g); s1 = dpo__lanes_fma(fused, g, h, s1););
    sums[0] = dpo__lanes_sum(s0);
    sums[1] = dpo__lanes_sum(s1);
}
/* dx (+)= rstd * (dy w - g0 - xhat g1) */
DPO__INLINE void dpo__row_norm_back(int fused, int64_t n, float *dx, const float *dy, const float *x,
                                    const float *stats, const float *w, float g0, float g1, int add) {
    dpo__lanes mu = dpo__lanes_set(stats[0]), rs = dpo__lanes_set(stats[1]);
    dpo__lanes m0 = dpo__lanes_set(-g0), m1 = dpo__lanes_set(-g1);
    DPO__BLOCKS(n, i, m, dpo__lanes h = dpo__lanes_mul(dpo__lanes_sub(dpo__lanes_get(x + i, m), mu), rs);
                dpo__lanes g = dpo__lanes_fma(fused, dpo__lanes_get(dy + i, m), dpo__lanes_get(w + i, m), m0);
                g = dpo__lanes_mul(dpo__lanes_fma(fused, h, m1, g), rs);
                if (add) g = dpo__lanes_add(dpo__lanes_get(dx + i, m), g); dpo__lanes_put(dx + i, g, m););
}
/* dw += dy xhat */
DPO__INLINE void dpo__row_norm_grad(int fused, int64_t n, float *dw, const float *dy, const float *x,
                                    const float *stats) {
    dpo__lanes mu = dpo__lanes_set(stats[0]), rs = dpo__lanes_set(stats[1]);
    DPO__BLOCKS(
        n, i, m, dpo__lanes h = dpo__lanes_mul(dpo__lanes_sub(dpo__lanes_get(x + i, m), mu), rs);
        dpo__lanes_put(dw + i, dpo__lanes_fma(fused, dpo__lanes_get(dy + i, m), h, dpo__lanes_get(dw + i, m)), m););
}
/* scale s + slope d, d = j - (n-1) for element j */
DPO__INLINE dpo__lanes dpo__lanes_bias(int fused, dpo__lanes s, dpo__lanes d, float scale, float slope) {
    return dpo__lanes_fma(fused, s, dpo__lanes_set(scale), dpo__lanes_mul(dpo__lanes_set(slope), d));
}
DPO__INLINE dpo__lanes dpo__lanes_places(int64_t n) { DPO__LANEWISE((float)(l - (int)(n - 1))); }

/* The softmax of a row of scores, in place; stats = row maximum, 1 / sum. Rows are short, so that the rest counts: it
   is read once and stays in registers. */
DPO__INLINE void dpo__row_attend(int fused, int64_t n, float *s, float scale, float slope, float *stats) {
    dpo__lanes top = dpo__lanes_set(-INFINITY), sum = dpo__lanes_set(0.0f), d = dpo__lanes_places(n), rest = top, f;
    int64_t i, whole = n / 16 * 16;
    int m = (int)(n - whole);
    DPO__STEP
    for (i = 0; i < whole; i += 16) {
        dpo__lanes v = dpo__lanes_bias(fused, dpo__lanes_load(s + i), d, scale, slope);
        top = dpo__lanes_max(top, v);
        d = dpo__lanes_add(d, dpo__lanes_set(16.0f));
        dpo__lanes_store(s + i, v);
    }
    if (m) {
        rest = dpo__lanes_bias(fused, dpo__lanes_load_part(s + whole, m, 0.0f), d, scale, slope);
        rest = dpo__lanes_select_le(d, dpo__lanes_set(0.0f), rest, dpo__lanes_set(-INFINITY)); /* beyond the last */
        top = dpo__lanes_max(top, rest);
    }
    stats[0] = dpo__lanes_max_all(top);
    top = dpo__lanes_set(stats[0]);
    DPO__STEP
    for (i = 0; i < whole; i += 16) {
        dpo__lanes e = dpo__lanes_exp(fused, dpo__lanes_sub(dpo__lanes_load(s + i), top));
        sum = dpo__lanes_add(sum, e);
        dpo__lanes_store(s + i, e);
    }
    if (m) {
        rest = dpo__lanes_exp(fused, dpo__lanes_sub(rest, top));
        sum = dpo__lanes_add(sum, rest);
    }
    stats[1] = 1.0f / dpo__lanes_sum(sum);
    f = dpo__lanes_set(stats[1]);
    DPO__STEP
    for (i = 0; i < whole; i += 16) dpo__lanes_store(s + i, dpo__lanes_mul(dpo__lanes_load(s + i), f));
    if (m) dpo__lanes_store_part(s + whole, dpo__lanes_mul(rest, f), m);
}
/* The same probabilities again, from scores and the saved stats. */
DPO__INLINE void dpo__row_attend_again(int fused, int64_t n, float *s, float scale, float slope, const float *stats) {
    dpo__lanes top = dpo__lanes_set(stats[0]), f = dpo__lanes_set(stats[1]), d = dpo__lanes_places(n);
    DPO__BLOCKS(n, i, m, dpo__lanes e = dpo__lanes_bias(fused, dpo__lanes_get(s + i, m), d, scale, slope);
                e = dpo__lanes_exp(fused, dpo__lanes_sub(e, top)); d = dpo__lanes_add(d, dpo__lanes_set(16.0f));
                dpo__lanes_put(s + i, dpo__lanes_mul(e, f), m););
}
/* ds = p (dp - delta) scale, over dp */
DPO__INLINE void dpo__row_attend_back(int fused, int64_t n, float *dp, const float *p, float delta, float scale) {
    dpo__lanes d = dpo__lanes_set(delta), f = dpo__lanes_set(scale);
    DPO__BLOCKS(n, i, m, dpo__lanes t = dpo__lanes_sub(dpo__lanes_get(dp + i, m), d);
                t = dpo__lanes_mul(dpo__lanes_get(p + i, m), t); dpo__lanes_put(dp + i, dpo__lanes_mul(t, f), m););
}
/* a' = a cos - b sin, b' = b cos + a sin; turn -1 rotates back */
DPO__INLINE void dpo__row_rotate(int fused, int64_t n, float *a, float *b, const float *cosines, const float *sines,
                                 float turn) {
    dpo__lanes sign = dpo__lanes_set(turn);
    DPO__BLOCKS(n, i, m, dpo__lanes u = dpo__lanes_get(a + i, m); dpo__lanes v = dpo__lanes_get(b + i, m);
                dpo__lanes c = dpo__lanes_get(cosines + i, m);
                dpo__lanes s = dpo__lanes_mul(sign, dpo__lanes_get(sines + i, m));
                dpo__lanes_put(a + i, dpo__lanes_fma(fused, u, c, dpo__lanes_neg(dpo__lanes_mul(v, s))), m);
                dpo__lanes_put(b + i, dpo__lanes_fma(fused, v, c, dpo__lanes_mul(u, s)), m););
}
#define DPO__SQRT_HALF    0.70710678118654752440f
#define DPO__INV_SQRT_2PI 0.39894228040143267794f
#define DPO__SQRT_2_BY_PI 0.79788456080286535588f
#define DPO__GELU_CUBE    0.044715f
DPO__INLINE void dpo__row_gelu(int fused, int64_t n, float *y, const float *x) {
    dpo__lanes half = dpo__lanes_set(0.5f), root = dpo__lanes_set(DPO__SQRT_HALF);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_get(x + i, m); dpo__lanes t = dpo__lanes_mul(half, v);
                v = dpo__lanes_erf(fused, dpo__lanes_mul(v, root));
                dpo__lanes_put(y + i, dpo__lanes_fma(fused, t, v, t), m););
}
/* dx = dy (Phi(x) + x phi(x)) */
DPO__INLINE void dpo__row_gelu_back(int fused, int64_t n, float *dx, const float *dy, const float *x) {
    dpo__lanes half = dpo__lanes_set(0.5f), root = dpo__lanes_set(DPO__SQRT_HALF);
    dpo__lanes c = dpo__lanes_set(DPO__INV_SQRT_2PI), minus = dpo__lanes_set(-0.5f);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_get(x + i, m);
                dpo__lanes e = dpo__lanes_erf(fused, dpo__lanes_mul(v, root));
                dpo__lanes d = dpo__lanes_exp(fused, dpo__lanes_mul(dpo__lanes_mul(v, v), minus));
                e = dpo__lanes_fma(fused, half, e, half); d = dpo__lanes_fma(fused, v, dpo__lanes_mul(d, c), e);
                dpo__lanes_put(dx + i, dpo__lanes_mul(dpo__lanes_get(dy + i, m), d), m););
}
DPO__INLINE void dpo__row_gelu_tanh(int fused, int64_t n, float *y, const float *x) {
    dpo__lanes half = dpo__lanes_set(0.5f), one = dpo__lanes_set(1.0f);
    dpo__lanes c = dpo__lanes_set(DPO__SQRT_2_BY_PI), k = dpo__lanes_set(DPO__GELU_CUBE);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_get(x + i, m);
                dpo__lanes t = dpo__lanes_fma(fused, k, dpo__lanes_mul(v, v), one);
                t = dpo__lanes_tanh(fused, dpo__lanes_mul(dpo__lanes_mul(c, v), t)); v = dpo__lanes_mul(half, v);
                dpo__lanes_put(y + i, dpo__lanes_fma(fused, v, t, v), m););
}
/* dx = dy [ (1 + t)/2 + x/2 (1 - t^2) c (1 + 3 k x^2) ] */
DPO__INLINE void dpo__row_gelu_tanh_back(int fused, int64_t n, float *dx, const float *dy, const float *x) {
    dpo__lanes half = dpo__lanes_set(0.5f), one = dpo__lanes_set(1.0f);
    dpo__lanes c = dpo__lanes_set(DPO__SQRT_2_BY_PI), k = dpo__lanes_set(DPO__GELU_CUBE);
    dpo__lanes k3 = dpo__lanes_set(3.0f * DPO__GELU_CUBE);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_get(x + i, m); dpo__lanes q = dpo__lanes_mul(v, v);
                dpo__lanes t = dpo__lanes_fma(fused, k, q, one);
                t = dpo__lanes_tanh(fused, dpo__lanes_mul(dpo__lanes_mul(c, v), t));
                q = dpo__lanes_mul(c, dpo__lanes_fma(fused, k3, q, one));
                q = dpo__lanes_mul(q, dpo__lanes_fma(fused, dpo__lanes_neg(t), t, one));
                t = dpo__lanes_fma(fused, half, t, half); t = dpo__lanes_fma(fused, dpo__lanes_mul(half, v), q, t);
                dpo__lanes_put(dx + i, dpo__lanes_mul(dpo__lanes_get(dy + i, m), t), m););
}
DPO__INLINE dpo__lanes dpo__lanes_sigmoid(int fused, dpo__lanes v) {
    dpo__lanes one = dpo__lanes_set(1.0f);
    return dpo__lanes_div(one, dpo__lanes_add(one, dpo__lanes_exp(fused, dpo__lanes_neg(v))));
}
DPO__INLINE void dpo__row_swiglu(int fused, int64_t n, float *y, const float *up, const float *gate) {
    DPO__BLOCKS(n, i, m, dpo__lanes g = dpo__lanes_get(gate + i, m);
                g = dpo__lanes_mul(g, dpo__lanes_sigmoid(fused, g));
                dpo__lanes_put(y + i, dpo__lanes_mul(dpo__lanes_get(up + i, m), g), m););
}
/* dup = dy g s; dgate = dy up s (1 + g (1 - s)), s = sigmoid(g) */
DPO__INLINE void dpo__row_swiglu_back(int fused, int64_t n, float *dup, float *dgate, const float *dy, const float *up,
                                      const float *gate) {
    dpo__lanes one = dpo__lanes_set(1.0f);
    DPO__BLOCKS(n, i, m, dpo__lanes g = dpo__lanes_get(gate + i, m); dpo__lanes d = dpo__lanes_get(dy + i, m);
                dpo__lanes u = dpo__lanes_mul(dpo__lanes_get(up + i, m), d);
                dpo__lanes s = dpo__lanes_sigmoid(fused, g);
                dpo__lanes t = dpo__lanes_fma(fused, g, dpo__lanes_sub(one, s), one);
                dpo__lanes_put(dup + i, dpo__lanes_mul(d, dpo__lanes_mul(g, s)), m);
                dpo__lanes_put(dgate + i, dpo__lanes_mul(u, dpo__lanes_mul(s, t)), m););
}
/* stats = max z, sum exp(z - max) */
DPO__INLINE void dpo__row_logsumexp(int fused, int64_t n, const float *z, float *stats) {
    dpo__lanes top = dpo__lanes_set(-INFINITY), sum = dpo__lanes_set(0.0f);
    DPO__BLOCKS(n, i, m, top = dpo__lanes_max(top, dpo__lanes_get_or(z + i, m, -INFINITY)););
    stats[0] = dpo__lanes_max_all(top);
    top = dpo__lanes_set(stats[0]);
    DPO__BLOCKS(n, i, m, dpo__lanes e = dpo__lanes_get_or(z + i, m, -INFINITY);
                sum = dpo__lanes_add(sum, dpo__lanes_exp(fused, dpo__lanes_sub(e, top))););
    stats[1] = dpo__lanes_sum(sum);
}
/* z = -p, p = exp(z - max) / sum; the caller adds the target's 1 */
DPO__INLINE void dpo__row_softmax_back(int fused, int64_t n, float *z, const float *stats) {
    dpo__lanes top = dpo__lanes_set(stats[0]), inv = dpo__lanes_set(-(1.0f / stats[1]));
    DPO__BLOCKS(n, i, m, dpo__lanes e = dpo__lanes_exp(fused, dpo__lanes_sub(dpo__lanes_get(z + i, m), top));
                dpo__lanes_put(z + i, dpo__lanes_mul(e, inv), m););
}

/* An optimizer's constants for one tensor and one step; see >>OPTIMIZER. */
typedef struct dpo__update {
    float clip, decay, beta2, one_beta1, one_beta2, root_bias2, eps, rate;
} dpo__update;

DPO__INLINE void dpo__row_adamw(int fused, int64_t n, float *w, const float *g, float *m1, float *m2,
                                const dpo__update *o) {
    dpo__lanes clip = dpo__lanes_set(o->clip), decay = dpo__lanes_set(o->decay);
    dpo__lanes c1 = dpo__lanes_set(o->one_beta1), b2 = dpo__lanes_set(o->beta2);
    dpo__lanes c2 = dpo__lanes_set(o->one_beta2), root = dpo__lanes_set(o->root_bias2);
    dpo__lanes eps = dpo__lanes_set(o->eps), rate = dpo__lanes_set(-o->rate);
    DPO__BLOCKS(n, i, m, dpo__lanes d = dpo__lanes_mul(dpo__lanes_get(g + i, m), clip);
                dpo__lanes a = dpo__lanes_get(m1 + i, m); dpo__lanes b = dpo__lanes_get(m2 + i, m);
                dpo__lanes v = dpo__lanes_mul(dpo__lanes_get(w + i, m), decay);
                a = dpo__lanes_fma(fused, c1, dpo__lanes_sub(d, a), a);
                b = dpo__lanes_fma(fused, dpo__lanes_mul(c2, d), d, dpo__lanes_mul(b, b2));
                d = dpo__lanes_add(dpo__lanes_div(dpo__lanes_sqrt(fused, b), root), eps);
                v = dpo__lanes_fma(fused, rate, dpo__lanes_div(a, d), v); dpo__lanes_put(m1 + i, a, m);
                dpo__lanes_put(m2 + i, b, m); dpo__lanes_put(w + i, v, m););
}
DPO__INLINE void dpo__row_rmsprop(int fused, int64_t n, float *w, const float *g, float *m2, const dpo__update *o) {
    dpo__lanes clip = dpo__lanes_set(o->clip), decay = dpo__lanes_set(o->decay);
    dpo__lanes b2 = dpo__lanes_set(o->beta2), c2 = dpo__lanes_set(o->one_beta2);
    dpo__lanes eps = dpo__lanes_set(o->eps), rate = dpo__lanes_set(-o->rate);
    DPO__BLOCKS(n, i, m, dpo__lanes v = dpo__lanes_get(w + i, m); dpo__lanes b = dpo__lanes_get(m2 + i, m);
                dpo__lanes d = dpo__lanes_mul(dpo__lanes_get(g + i, m), clip);
                if (o->decay != 0.0f) d = dpo__lanes_fma(fused, decay, v, d);
                b = dpo__lanes_fma(fused, dpo__lanes_mul(c2, d), d, dpo__lanes_mul(b, b2));
                d = dpo__lanes_div(d, dpo__lanes_add(dpo__lanes_sqrt(fused, b), eps));
                v = dpo__lanes_fma(fused, rate, d, v); dpo__lanes_put(m2 + i, b, m); dpo__lanes_put(w + i, v, m););
}

/* Matrix tiles. A tile of C starts from `init` (NULL: zeros; row stride 0: a bias row; C itself: the chain goes on) and
   adds the products in index order: one chain per element. A is read as it is addressed; B comes as panels that hold,
   for each p of the inner dimension, `nr` neighbouring columns, or from rows that lie so. An instance knows some
   shapes: 1..mr rows by half a panel or a whole one, one row by four panels, two by two. Strides count elements. */
typedef struct dpo__tile {
    int64_t k;
    const void *a, *b;
    int64_t a_row, a_step, b_step, b_panel; /* element (i,p) of A; the next p of B; the next panel */
    float *c;
    const float *init;
    int64_t c_row, init_row;
    int rows, columns;
} dpo__tile;
typedef void (*dpo__tile_fn)(const dpo__tile *t);

/* dst[p*width + i] = element (i,p) = src[i*across + p*along], zero for i >= valid; one of the strides is 1. Where
   `across` is, more than `width` elements are several panels. May write up to 16 floats beyond a panel. */
enum { DPO__FROM_F32 = 0, DPO__FROM_ROUNDED = 1, DPO__FROM_BF16 = 2 }; /* floats, rounded to bf16 on the way, bf16 */
typedef void (*dpo__pack_fn)(void *dst, int width, const void *src, int64_t across, int64_t along, int from, int valid,
                             int64_t k);

/* Few rows times a B whose columns lie one behind the other, as a linear layer's weights do in their file: a tile of
   1..DPO__FEW rows by whole vectors of columns. A's elements are neighbours along k; columns of B are b_panel elements
   apart. */
enum { DPO__FEW = 8 };
typedef void (*dpo__few_fn)(const dpo__tile *t, int from);

/* How one kind of product is computed. Pairs: an element of a panel is two bf16, k's even one in the high half, because
   VDPBF16PS adds the low halves' product last; an odd end gets (-0, +0), which changes no bit. */
typedef struct dpo__product {
    int mr, nr, pairs;
    dpo__tile_fn tile, expand; /* B's elements: floats or pairs; bf16 */
    dpo__pack_fn pack_a, pack_b;
    dpo__few_fn few; /* or NULL */
} dpo__product;

/* Every row kernel once: X(result, return or nothing, name, parameters, arguments). The list makes the table's
   members, and an instance of each for an instruction set. */
#define DPO__ROW_KERNELS(X)                                                                                            \
    X(float, return, dot, (int64_t n, const float *x, const float *y), n, x, y)                                        \
    X(float, return, sum, (int64_t n, const float *x), n, x)                                                           \
    X(float, return, variance, (int64_t n, const float *x, float mean), n, x, mean)                                    \
    X(double, return, squares, (int64_t n, const float *x), n, x)                                                      \
    X(void, , add, (int64_t n, float *y, const float *x), n, y, x)                                                     \
    X(void, , expand, (int64_t n, float *y, const uint16_t *x, int add), n, y, x, add)                                 \
    X(void, , narrow, (int64_t n, uint16_t * to, float *y, const float *x), n, to, y, x)                               \
    X(void, , narrow_draw, (int64_t n, uint16_t * to, float *y, const float *x, uint64_t key), n, to, y, x, key)       \
    X(void, , axpy, (int64_t n, float *y, float a, const float *x), n, y, a, x)                                        \
    X(void, , scale, (int64_t n, float *y, const float *x, float a), n, y, x, a)                                       \
    X(void, , norm, (int64_t n, float *y, const float *x, const float *stats, const float *w, const float *b), n, y,   \
      x, stats, w, b)                                                                                                  \
    X(void, , norm_sums,                                                                                               \
      (int64_t n, const float *dy, const float *x, const float *stats, const float *w, float *sums), n, dy, x, stats,  \
      w, sums)                                                                                                         \
    X(void, , norm_back,                                                                                               \
      (int64_t n, float *dx, const float *dy, const float *x, const float *stats, const float *w, float g0, float g1,  \
       int add),                                                                                                       \
      n, dx, dy, x, stats, w, g0, g1, add)                                                                             \
    X(void, , norm_grad, (int64_t n, float *dw, const float *dy, const float *x, const float *stats), n, dw, dy, x,    \
      stats)                                                                                                           \
    X(void, , attend, (int64_t n, float *s, float scale, float slope, float *stats), n, s, scale, slope, stats)        \
    X(void, , attend_again, (int64_t n, float *s, float scale, float slope, const float *stats), n, s, scale, slope,   \
      stats)                                                                                                           \
    X(void, , attend_back, (int64_t n, float *dp, const float *p, float delta, float scale), n, dp, p, delta, scale)   \
    X(void, , rotate, (int64_t n, float *a, float *b, const float *cosines, const float *sines, float turn), n, a, b,  \
      cosines, sines, turn)                                                                                            \
    X(void, , gelu, (int64_t n, float *y, const float *x), n, y, x)                                                    \
    X(void, , gelu_back, (int64_t n, float *dx, const float *dy, const float *x), n, dx, dy, x)                        \
    X(void, , gelu_tanh, (int64_t n, float *y, const float *x), n, y, x)                                               \
    X(void, , gelu_tanh_back, (int64_t n, float *dx, const float *dy, const float *x), n, dx, dy, x)                   \
    X(void, , swiglu, (int64_t n, float *y, const float *up, const float *gate), n, y, up, gate)                       \
    X(void, , swiglu_back, (int64_t n, float *dup, float *dgate, const float *dy, const float *up, const float *gate), \
      n, dup, dgate, dy, up, gate)                                                                                     \
    X(void, , logsumexp, (int64_t n, const float *z, float *stats), n, z, stats)                                       \
    X(void, , softmax_back, (int64_t n, float *z, const float *stats), n, z, stats)                                    \
    X(void, , adamw, (int64_t n, float *w, const float *g, float *m1, float *m2, const dpo__update *o), n, w, g, m1,   \
      m2, o)                                                                                                           \
    X(void, , rmsprop, (int64_t n, float *w, const float *g, float *m2, const dpo__update *o), n, w, g, m2, o)

typedef struct dpo__kernels {
    const char *name;
    dpo__product product[2]; /* of floats; of operands that are all bf16 */
#define X(result, give, name, parameters, ...) result(*name) parameters;
    DPO__ROW_KERNELS(X)
#undef X
} dpo__kernels;

/* The scalar set: the readable definition of everything. */
#define X(result, give, name, parameters, ...)                                                                         \
    static result dpo__##name##_scalar parameters { give dpo__row_##name(0, __VA_ARGS__); }
DPO__ROW_KERNELS(X)
#undef X
DPO__INLINE float dpo__pack_value(const void *src, int64_t at, int from) {
    float x;
    if (from == DPO__FROM_BF16) return dpo__num_bf16_to(((const uint16_t *)src)[at]);
    x = ((const float *)src)[at];
    return from == DPO__FROM_ROUNDED ? dpo__num_bf16_to(dpo__num_bf16_from(x)) : x;
}
static void dpo__pack_plain(void *dst, int width, const void *src, int64_t across, int64_t along, int from, int valid,
                            int64_t k) {
    float *to = (float *)dst;
    int64_t p;
    int i, first;
    for (first = 0; first == 0 || first < valid; first += width)
        for (p = 0; p < k; p++)
            for (i = first; i < first + width; i++)
                *to++ = i < valid ? dpo__pack_value(src, i * across + p * along, from) : 0.0f;
}
DPO__INLINE void dpo__tile_plain(const dpo__tile *t, int from) {
    const float *a = (const float *)t->a;
    int64_t p;
    int i, j;
    for (i = 0; i < t->rows; i++)
        for (j = 0; j < t->columns; j++) {
            float s = t->init ? t->init[i * t->init_row + j] : 0.0f;
            int64_t b = j / 16 * t->b_panel + j % 16;
            for (p = 0; p < t->k; p++)
                s = dpo__num_fmaf(a[i * t->a_row + p * t->a_step], dpo__pack_value(t->b, b + p * t->b_step, from), s);
            t->c[i * t->c_row + j] = s;
        }
}
static void dpo__tile_scalar(const dpo__tile *t) { dpo__tile_plain(t, DPO__FROM_F32); }
static void dpo__tile_scalar_16(const dpo__tile *t) { dpo__tile_plain(t, DPO__FROM_BF16); }
#define DPO__PRODUCT_SCALAR                                                                                            \
    { 4, 16, 0, dpo__tile_scalar, dpo__tile_scalar_16, dpo__pack_plain, dpo__pack_plain, NULL }
#define X(result, give, name, parameters, ...) dpo__##name##_scalar,
static const dpo__kernels dpo__kernels_scalar = {
    "scalar", {DPO__PRODUCT_SCALAR, DPO__PRODUCT_SCALAR}, DPO__ROW_KERNELS(X)};
#undef X

/* Tiles in registers. The template's numbers are constants where it is used; `op` names an instruction set's
   load, store, zero, fma, the splat of an element of A and the vector of elements of B. 6 x 16 for AVX2: twelve
   accumulators of 8; 12 x 32 for AVX-512, whose twenty-four of 16 hide the latency of two FMAs a cycle. A whole
   tile of packed operands takes four steps of k at a time, at distances the compiler knows: the one that counts. */
#if defined(DPO__ASAN) /* which makes of an unrolled tile what compilers work on for minutes */
#define DPO__UNROLL
#elif defined(__clang__)
#define DPO__UNROLL _Pragma("clang loop unroll(full)")
#else
#define DPO__UNROLL _Pragma("GCC unroll 32")
#endif
#define DPO__TILE_B(op, b_type, lanes, u, j)                                                                           \
    op##_b_##b_type(pb + (u)*b_step + (j) / per_panel * b_panel + (j) % per_panel * lanes)
#define DPO__TILE_STEP(op, a_type, b_type, lanes, u)                                                                   \
    if (rows == 1) { /* each vector of B is used once, so none is kept */                                              \
        x = op##_a_##a_type(pa + (u)*a_step);                                                                          \
        DPO__UNROLL for (j = 0; j < n; j++) s[j] = op##_fma_##a_type(x, DPO__TILE_B(op, b_type, lanes, u, j), s[j]);   \
    } else {                                                                                                           \
        DPO__UNROLL for (j = 0; j < n; j++) b[j] = DPO__TILE_B(op, b_type, lanes, u, j);                               \
        DPO__UNROLL for (i = 0; i < rows; i++) {                                                                       \
            x = op##_a_##a_type(pa + (u)*a_step + i * a_row);                                                          \
            DPO__UNROLL for (j = 0; j < n; j++) s[i * n + j] = op##_fma_##a_type(x, b[j], s[i * n + j]);               \
        }                                                                                                              \
    }
#define DPO__TILE_TEMPLATE(target, name, op, vector, a_type, b_type, lanes)                                            \
    target DPO__INLINE void name##_of(const dpo__tile *t, int rows, int n, int per_panel, int packed) {                \
        vector s[24], b[16], x;                                                                                        \
        const a_type *pa = (const a_type *)t->a;                                                                       \
        const b_type *pb = (const b_type *)t->b;                                                                       \
        const int64_t a_row = packed ? 1 : t->a_row, a_step = packed ? rows : t->a_step;                               \
        const int64_t b_step = packed ? n * lanes : t->b_step, b_panel = t->b_panel;                                   \
        float *const c = t->c;                                                                                         \
        const int64_t c_row = t->c_row;                                                                                \
        int64_t k = t->k;                                                                                              \
        int i, j;                                                                                                      \
        DPO__UNROLL for (i = 0; i < rows; i++) DPO__UNROLL for (j = 0; j < n; j++) s[i * n + j] =                      \
            t->init ? op##_load(t->init + i * t->init_row + lanes * j) : op##_zero();                                  \
        if (packed)                                                                                                    \
            for (; k > 3; k -= 4, pa += 4 * a_step, pb += 4 * b_step) {                                                \
                DPO__TILE_STEP(op, a_type, b_type, lanes, 0)                                                           \
                DPO__TILE_STEP(op, a_type, b_type, lanes, 1)                                                           \
                DPO__TILE_STEP(op, a_type, b_type, lanes, 2)                                                           \
                DPO__TILE_STEP(op, a_type, b_type, lanes, 3)                                                           \
            }                                                                                                          \
        for (; k > 0; k--, pa += a_step, pb += b_step) {                                                               \
            if (rows > 2 && !packed) __builtin_prefetch((const char *)pb + 2048); /* few rows read one stream only */  \
            DPO__TILE_STEP(op, a_type, b_type, lanes, 0)                                                               \
        }                                                                                                              \
        DPO__UNROLL for (i = 0; i < rows; i++) DPO__UNROLL for (j = 0; j < n; j++)                                     \
            op##_store(c + i * c_row + lanes * j, s[i * n + j]);                                                       \
    }
#define DPO__TILE_CASE(name, r, half)                                                                                  \
    case r * 16 + 1: name##_of(t, r, half, half, 0); return;                                                           \
    case r * 16 + 2:                                                                                                   \
        name##_of(t, r, 2 * half, 2 * half, 0);                                                                        \
        return;
#define DPO__TILE_CASES6(name, half)                                                                                   \
    DPO__TILE_CASE(name, 1, half)                                                                                      \
    DPO__TILE_CASE(name, 2, half)                                                                                      \
    DPO__TILE_CASE(name, 3, half)                                                                                      \
    DPO__TILE_CASE(name, 4, half)                                                                                      \
    DPO__TILE_CASE(name, 5, half)                                                                                      \
    DPO__TILE_CASE(name, 6, half)                                                                                      \
    case 16 + 8: name##_of(t, 1, 8 * half, 2 * half, 0); return;                                                       \
    case 32 + 4:                                                                                                       \
        name##_of(t, 2, 4 * half, 2 * half, 0);                                                                        \
        return;
#define DPO__TILE_CASES12(name, half)                                                                                  \
    DPO__TILE_CASES6(name, half)                                                                                       \
    DPO__TILE_CASE(name, 7, half)                                                                                      \
    DPO__TILE_CASE(name, 8, half)                                                                                      \
    DPO__TILE_CASE(name, 9, half)                                                                                      \
    DPO__TILE_CASE(name, 10, half)                                                                                     \
    DPO__TILE_CASE(name, 11, half)                                                                                     \
    DPO__TILE_CASE(name, 12, half)
#define DPO__TILE(target, name, op, vector, a_type, b_type, lanes, CASES, half, mr)                                    \
    DPO__TILE_TEMPLATE(target, name, op, vector, a_type, b_type, lanes)                                                \
    target static void name(const dpo__tile *t) {                                                                      \
        if (t->rows == mr && t->columns == 2 * half * lanes && t->a_row == 1 && t->a_step == mr &&                     \
            t->b_step == 2 * half * lanes) {                                                                           \
            name##_of(t, mr, 2 * half, 2 * half, 1);                                                                   \
            return;                                                                                                    \
        }                                                                                                              \
        switch (t->rows * 16 + t->columns / (lanes * half)) { CASES(name, half) }                                      \
    }

/* Few rows of A by B's columns as they lie. `op`_turn loads `depth` words of 32 bits from each of `lanes` columns and
   turns them in registers: vectors across the columns, for one word after another. Columns are taken by `lanes`, or by
   twice or four times as many where one row's chain would be too slow (`wide`: of floats, of bf16), a cache line of
   each at a time: their distance is often a power of two, so that few lines at a time find a place in the cache.
   Columns as short as a page or less end before the processor has seen that they are streams: those that come next are
   fetched in the order of memory. */
#define DPO__FEW_AHEAD    4096
#define DPO__FEW_UNROLL_4 DPO__UNROLL
#define DPO__FEW_UNROLL_16
#define DPO__FEW_TEMPLATE(target, name, op, vector, lanes, depth)                                                      \
    target DPO__INLINE void name##_step(vector *s, int rows, int from, const float *a, int64_t a_row, const char *b,   \
                                        int64_t column) {                                                              \
        const int each = from == DPO__FROM_BF16 ? 2 : 1;                                                               \
        vector r[depth], v;                                                                                            \
        int i, l;                                                                                                      \
        op##_turn(r, b, column);                                                                                       \
        DPO__FEW_UNROLL_##depth for (l = 0; l < depth; l++) {                                                          \
            v = from == DPO__FROM_BF16 ? op##_even(r[l]) : from == DPO__FROM_ROUNDED ? op##_round(r[l]) : r[l];        \
            DPO__UNROLL for (i = 0; i < rows; i++) s[i] =                                                              \
                op##_fma_float(op##_a_float(a + i * a_row + l * each), v, s[i]);                                       \
            if (from != DPO__FROM_BF16) continue;                                                                      \
            v = op##_odd(r[l]);                                                                                        \
            DPO__UNROLL for (i = 0; i < rows; i++) s[i] =                                                              \
                op##_fma_float(op##_a_float(a + i * a_row + l * 2 + 1), v, s[i]);                                      \
        }                                                                                                              \
    }                                                                                                                  \
    target DPO__INLINE void name##_group(const dpo__tile *t, int j, int rows, int n, int from) {                       \
        const int size = from == DPO__FROM_BF16 ? 2 : 4, line = 64 / size;                                             \
        const int64_t a_row = t->a_row, column = t->b_panel * size;                                                    \
        const float *a = (const float *)t->a;                                                                          \
        const char *b = (const char *)t->b + j * column, *next = b + n * lanes * column;                               \
        const int ahead = t->b_panel == t->k && column <= DPO__FEW_AHEAD;                                              \
        vector s[16];                                                                                                  \
        int64_t k;                                                                                                     \
        int i, g, l;                                                                                                   \
        DPO__UNROLL for (g = 0; g < n; g++) DPO__UNROLL for (i = 0; i < rows; i++) s[g * rows + i] =                   \
            t->init ? op##_load(t->init + i * t->init_row + j + g * lanes) : op##_zero();                              \
        for (k = t->k; k >= line; k -= line, a += line, b += 64) {                                                     \
            DPO__UNROLL for (g = 0; g < n; g++) {                                                                      \
                if (ahead) DPO__UNROLL for (l = 0; l < lanes; l++, next += 64) __builtin_prefetch(next, 0, 2);         \
                for (l = 0; l < 64; l += 4 * depth)                                                                    \
                    name##_step(s + g * rows, rows, from, a + l / size, a_row, b + g * lanes * column + l, column);    \
            }                                                                                                          \
        }                                                                                                              \
        DPO__UNROLL for (g = 0; g < n; g++) DPO__UNROLL for (i = 0; i < rows; i++)                                     \
            op##_store(t->c + i * t->c_row + j + g * lanes, s[g * rows + i]);                                          \
    }                                                                                                                  \
    target static void name##_rest(const dpo__tile *t, int from) {                                                     \
        const int64_t whole = t->k / (from == DPO__FROM_BF16 ? 32 : 16) * (from == DPO__FROM_BF16 ? 32 : 16);          \
        float one[lanes];                                                                                              \
        int64_t p;                                                                                                     \
        int i, j, l;                                                                                                   \
        for (j = 0; j < t->columns; j += lanes)                                                                        \
            for (p = whole; p < t->k; p++) {                                                                           \
                const float *a = (const float *)t->a + p;                                                              \
                for (l = 0; l < lanes; l++) one[l] = dpo__pack_value(t->b, (j + l) * t->b_panel + p, from);            \
                for (i = 0; i < t->rows; i++) {                                                                        \
                    float *c = t->c + i * t->c_row + j;                                                                \
                    op##_store(c, op##_fma_float(op##_a_float(a + i * t->a_row), op##_load(one), op##_load(c)));       \
                }                                                                                                      \
            }                                                                                                          \
    }
#define DPO__FEW_CASE(name, r, lanes, n, from)                                                                         \
    case r:                                                                                                            \
        for (; j < t->columns; j += n * lanes) name##_group(t, j, r, n, from);                                         \
        return;
#define DPO__FEW_FROM(target, name, lanes, n, many, from)                                                              \
    target static void name##_##from(const dpo__tile *t) {                                                             \
        int j = 0;                                                                                                     \
        switch (t->rows) {                                                                                             \
            DPO__FEW_CASE(name, 1, lanes, n, from)                                                                     \
            DPO__FEW_CASE(name, 2, lanes, many, from)                                                                  \
            DPO__FEW_CASE(name, 3, lanes, many, from)                                                                  \
            DPO__FEW_CASE(name, 4, lanes, many, from)                                                                  \
            DPO__FEW_CASE(name, 5, lanes, many, from)                                                                  \
            DPO__FEW_CASE(name, 6, lanes, many, from)                                                                  \
            DPO__FEW_CASE(name, 7, lanes, many, from)                                                                  \
            DPO__FEW_CASE(name, 8, lanes, many, from)                                                                  \
        }                                                                                                              \
    }
#define DPO__FEW_KERNEL(target, name, op, vector, lanes, depth, floats, halves, many)                                  \
    DPO__FEW_TEMPLATE(target, name, op, vector, lanes, depth)                                                          \
    DPO__FEW_FROM(target, name, lanes, floats, many, DPO__FROM_F32)                                                    \
    DPO__FEW_FROM(target, name, lanes, floats, many, DPO__FROM_ROUNDED)                                                \
    DPO__FEW_FROM(target, name, lanes, halves, many, DPO__FROM_BF16)                                                   \
    static void name(const dpo__tile *t, int from) {                                                                   \
        if (from == DPO__FROM_BF16) name##_DPO__FROM_BF16(t);                                                          \
        else if (from == DPO__FROM_ROUNDED) name##_DPO__FROM_ROUNDED(t);                                               \
        else name##_DPO__FROM_F32(t);                                                                                  \
        name##_rest(t, from);                                                                                          \
    }

#ifdef DPO__X86
#define DPO__AVX2        __attribute__((target("avx2,fma")))
#define DPO__AVX512      __attribute__((target("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")))
#define DPO__AVX512_BF16 __attribute__((target("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")))
#define X(result, give, name, parameters, ...)                                                                         \
    DPO__AVX2 static result dpo__##name##_avx2 parameters { give dpo__row_##name(1, __VA_ARGS__); }                    \
    DPO__AVX512 static result dpo__##name##_avx512 parameters { give dpo__row_##name(1, __VA_ARGS__); }
DPO__ROW_KERNELS(X)
#undef X

#define dpo__avx2_zero()             _mm256_setzero_ps()
#define dpo__avx2_load(p)            _mm256_loadu_ps(p)
#define dpo__avx2_store(p, v)        _mm256_storeu_ps(p, v)
#define dpo__avx2_a_float(p)         _mm256_broadcast_ss(p)
#define dpo__avx2_b_float(p)         _mm256_loadu_ps(p)
#define dpo__avx2_b_uint16_t(p)      dpo__avx2_expand(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define dpo__avx2_fma_float(x, b, s) _mm256_fmadd_ps(x, b, s)
DPO__AVX2 DPO__INLINE __m256 dpo__avx2_expand(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
DPO__TILE(DPO__AVX2, dpo__tile_avx2, dpo__avx2, __m256, float, float, 8, DPO__TILE_CASES6, 1, 6)
DPO__TILE(DPO__AVX2, dpo__tile_avx2_16, dpo__avx2, __m256, float, uint16_t, 8, DPO__TILE_CASES6, 1, 6)

/* Rounded to bf16; see dpo__num_bf16_from. */
DPO__AVX2 DPO__INLINE __m256 dpo__avx2_round(__m256 x) {
    __m256i u = _mm256_castps_si256(x), r = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    r = _mm256_add_epi32(u, _mm256_add_epi32(r, _mm256_set1_epi32(0x7fff)));
    u = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    x = _mm256_blendv_ps(_mm256_castsi256_ps(r), _mm256_castsi256_ps(u), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
}
/* Eight elements as floats, zero from the n-th on. */
DPO__AVX2 DPO__INLINE __m256 dpo__avx2_get(const void *src, int64_t at, int from, int n) {
    static const int32_t masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    __m256 x;
    if (from == DPO__FROM_BF16) {
        const uint16_t *p = (const uint16_t *)src + at;
        uint16_t part[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (n < 8) p = (const uint16_t *)memcpy(part, p, (size_t)n * sizeof *p);
        return dpo__avx2_b_uint16_t(p);
    }
    x = n < 8 ? _mm256_maskload_ps((const float *)src + at,
                                   _mm256_loadu_si256((const __m256i *)(const void *)(masks + 8 - n)))
              : _mm256_loadu_ps((const float *)src + at);
    return from == DPO__FROM_F32 ? x : dpo__avx2_round(x);
}
/* Transposes an 8 x 8 block: rows of the source become columns of the panel. */
DPO__AVX2 DPO__INLINE void dpo__transpose8(float *dst, int width, const void *src, int64_t at, int64_t ld, int from,
                                           int valid, int n) {
    __m256 r[8], t[8];
    int i;
    DPO__UNROLL for (i = 0; i < 8; i++) r[i] =
        i < valid ? dpo__avx2_get(src, at + i * ld, from, n) : _mm256_setzero_ps();
    DPO__UNROLL for (i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    DPO__UNROLL for (i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    DPO__UNROLL for (i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    /* in ascending order: a store of 8 may run into the next column's place */
    DPO__UNROLL for (i = 0; i < 8; i++) if (i < n) _mm256_storeu_ps(dst + i * width, t[i]);
}
DPO__AVX2 DPO__INLINE void dpo__pack_avx2_of(float *dst, int width, const void *src, int64_t across, int64_t along,
                                             int from, int valid, int64_t k) {
    const int64_t line = from == DPO__FROM_BF16 ? 32 : 16;
    int64_t p, q;
    int i, n;
    if (across == 1) {
        const int64_t whole = along > 7 ? valid / width : 0;
        for (p = 0; p < k; p++, dst += width) {
            for (i = 0; i < valid; i += 16)
                __builtin_prefetch((const char *)src + ((p + 12) * along + i) * (from == DPO__FROM_BF16 ? 2 : 4));
            q = 0;
            if (p + 1 < k) /* what a whole load reads too much lies in the next row, what a store writes comes anew */
                for (; q < whole; q++)
                    for (i = 0; i < width; i += 8)
                        _mm256_storeu_ps(dst + q * k * width + i,
                                         dpo__avx2_get(src, p * along + q * width + i, from, 8));
            for (; q == 0 || q * width < valid; q++)
                for (i = 0; i < width; i += 8) {
                    float *to = dst + q * k * width + i;
                    __m256 x;
                    n = (int)dpo__min64(valid - q * width - i, width - i);
                    x = n > 0 ? dpo__avx2_get(src, p * along + q * width + i, from, n) : _mm256_setzero_ps();
                    if (width - i > 7 || p + 1 < k) _mm256_storeu_ps(to, x);
                    else memcpy(to, &x, (size_t)(width - i) * sizeof *to); /* not into the next panel */
                }
        }
        return;
    }
    for (p = 0; p < k; p += line) /* a cache line of eight rows: more may share their place in the cache */
        for (i = 0; i < width; i += 8) {
            if (p + 4 * line < k)
                for (n = i; n < i + 8 && n < valid; n++)
                    __builtin_prefetch((const char *)src + (n * across + p + 4 * line) * (64 / line), 0, 2);
            for (q = p; q < p + line && q < k; q += 8) {
                n = valid - i;
                if (n > 7 && q + 8 <= k)
                    dpo__transpose8(dst + q * width + i, width, src, i * across + q, across, from, 8, 8);
                else
                    dpo__transpose8(dst + q * width + i, width, src, i * across + q, across, from, n,
                                    (int)dpo__min64(k - q, 8));
            }
        }
}
DPO__AVX2 static void dpo__pack_avx2(void *dst, int width, const void *src, int64_t across, int64_t along, int from,
                                     int valid, int64_t k) {
    float *to = (float *)dst;
    if (from == DPO__FROM_BF16) dpo__pack_avx2_of(to, width, src, across, along, DPO__FROM_BF16, valid, k);
    else if (from == DPO__FROM_ROUNDED) dpo__pack_avx2_of(to, width, src, across, along, DPO__FROM_ROUNDED, valid, k);
    else if (width != 6) dpo__pack_avx2_of(to, 16, src, across, along, DPO__FROM_F32, valid, k);
    else if (valid == 6) dpo__pack_avx2_of(to, 6, src, across, along, DPO__FROM_F32, 6, k);
    else dpo__pack_avx2_of(to, 6, src, across, along, DPO__FROM_F32, valid, k);
}

/* Four words of eight columns: of a column and the fourth after it in the halves of a register, so that no shuffle
   crosses them. */
DPO__AVX2 DPO__INLINE void dpo__avx2_turn(__m256 *r, const char *b, int64_t column) {
    __m256d t[4];
    int i;
    DPO__UNROLL for (i = 0; i < 4; i++) r[i] =
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(const void *)(b + i * column))),
                             _mm_loadu_ps((const float *)(const void *)(b + (i + 4) * column)), 1);
    DPO__UNROLL for (i = 0; i < 4; i += 2) {
        t[i] = _mm256_castps_pd(_mm256_unpacklo_ps(r[i], r[i + 1]));
        t[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(r[i], r[i + 1]));
    }
    DPO__UNROLL for (i = 0; i < 2; i++) {
        r[2 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(t[i], t[i + 2]));
        r[2 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(t[i], t[i + 2]));
    }
}
#define dpo__avx2_even(v) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16))
#define dpo__avx2_odd(v)  _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)))
DPO__FEW_KERNEL(DPO__AVX2, dpo__few_avx2, dpo__avx2, __m256, 8, 4, 1, 2, 1)

#define dpo__avx512_zero()             _mm512_setzero_ps()
#define dpo__avx512_load(p)            _mm512_loadu_ps(p)
#define dpo__avx512_store(p, v)        _mm512_storeu_ps(p, v)
#define dpo__avx512_a_float(p)         _mm512_set1_ps(*(p))
#define dpo__avx512_a_uint32_t(p)      _mm512_castsi512_ps(_mm512_set1_epi32((int)*(p)))
#define dpo__avx512_b_float(p)         _mm512_loadu_ps(p)
#define dpo__avx512_b_uint32_t(p)      _mm512_loadu_ps((const float *)(const void *)(p))
#define dpo__avx512_b_uint16_t(p)      _mm512_castsi512_ps(dpo__avx512_get(p, 0, DPO__FROM_BF16, DPO__ALL16))
#define dpo__avx512_fma_float(x, b, s) _mm512_fmadd_ps(x, b, s)
#define dpo__avx512_fma_uint32_t(x, b, s)                                                                              \
    _mm512_dpbf16_ps(s, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(b))
/* The masked forms with a full mask are the same instructions; the plain ones make g++ 12 warn about its headers. */
#define DPO__ALL16 ((__mmask16)0xffff)
#define DPO__ALL8  ((__mmask8)0xff)

DPO__AVX512 DPO__INLINE __m512i dpo__avx512_round_bits(__m512i u) { /* dpo__num_bf16_from */
    __m512i r = _mm512_and_epi32(_mm512_maskz_srli_epi32(DPO__ALL16, u, 16), _mm512_set1_epi32(1));
    r = _mm512_add_epi32(u, _mm512_add_epi32(r, _mm512_set1_epi32(0x7fff)));
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(_mm512_castsi512_ps(u), _mm512_castsi512_ps(u), _CMP_UNORD_Q), u,
                             _mm512_set1_epi32(0x400000));
    return _mm512_and_epi32(r, _mm512_set1_epi32(-65536));
}
/* Sixteen elements as floats, zero where the mask is. */
DPO__AVX512 DPO__INLINE __m512i dpo__avx512_get(const void *src, int64_t at, int from, __mmask16 mask) {
    __m512i u;
    if (from == DPO__FROM_BF16) {
        u = _mm512_maskz_cvtepu16_epi32(DPO__ALL16, _mm256_maskz_loadu_epi16(mask, (const uint16_t *)src + at));
        return _mm512_maskz_slli_epi32(DPO__ALL16, u, 16);
    }
    u = _mm512_maskz_loadu_epi32(mask, (const float *)src + at);
    return from == DPO__FROM_F32 ? u : dpo__avx512_round_bits(u);
}
/* Sixteen pairs of neighbours along a row of which n elements are left; `pad` joins an odd one. */
DPO__AVX512 DPO__INLINE __m512i dpo__avx512_pairs(const void *src, int64_t at, int from, int n, int pad) {
    __m512i lo, hi;
    uint32_t mask = n > 31 ? 0xffffffffu : (1u << n) - 1u;
    if (from == DPO__FROM_BF16) {
        lo = _mm512_maskz_loadu_epi16(mask, (const uint16_t *)src + at);
        lo = _mm512_maskz_rol_epi32(DPO__ALL16, lo, 16);
    } else { /* 64 bits: the even one's in the upper half of the low word, the odd one's in that of the high word */
        lo = dpo__avx512_get(src, at, from, (__mmask16)mask);
        hi = mask >> 16 ? dpo__avx512_get(src, at + 16, from, (__mmask16)(mask >> 16)) : _mm512_setzero_si512();
        lo = _mm512_or_epi32(lo, _mm512_maskz_srli_epi64(DPO__ALL8, lo, 48));
        hi = _mm512_or_epi32(hi, _mm512_maskz_srli_epi64(DPO__ALL8, hi, 48));
        lo = _mm512_inserti64x4(_mm512_maskz_broadcast_i64x4(DPO__ALL8, _mm512_maskz_cvtepi64_epi32(DPO__ALL8, lo)),
                                _mm512_maskz_cvtepi64_epi32(DPO__ALL8, hi), 1);
    }
    if (n < 32 && n % 2) lo = _mm512_mask_or_epi32(lo, (__mmask16)(1u << n / 2), lo, _mm512_set1_epi32(pad));
    return lo;
}
/* Turns 16 x 16 elements of 32 bits in four rounds of shuffles. */
DPO__AVX512 DPO__INLINE void dpo__avx512_turn16(__m512i *r) {
    __m512i t[16];
    int i;
    DPO__UNROLL for (i = 0; i < 8; i++) {
        t[2 * i] = _mm512_maskz_unpacklo_epi32(DPO__ALL16, r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_maskz_unpackhi_epi32(DPO__ALL16, r[2 * i], r[2 * i + 1]);
    }
    DPO__UNROLL for (i = 0; i < 4; i++) {
        r[4 * i] = _mm512_maskz_unpacklo_epi64(DPO__ALL8, t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_maskz_unpackhi_epi64(DPO__ALL8, t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_maskz_unpacklo_epi64(DPO__ALL8, t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_maskz_unpackhi_epi64(DPO__ALL8, t[4 * i + 1], t[4 * i + 3]);
    }
    DPO__UNROLL for (i = 0; i < 4; i++) {
        t[i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, r[8 + i], r[12 + i], 0xdd);
    }
    DPO__UNROLL for (i = 0; i < 4; i++) {
        r[i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_maskz_shuffle_i32x4(DPO__ALL16, t[4 + i], t[12 + i], 0xdd);
    }
}
DPO__AVX512 DPO__INLINE void dpo__transpose16(uint32_t *dst, int width, __m512i *r, int rows_out) {
    int i;
    dpo__avx512_turn16(r);
    DPO__UNROLL for (i = 0; i < 16; i++) if (i < rows_out) _mm512_storeu_si512(dst + i * width, r[i]);
}
/* pairs: with the odd one's half (-0 for A, +0 for B) in an odd k's last pair, by `pad`; -1: floats */
DPO__AVX512 DPO__INLINE void dpo__pack_avx512_of(uint32_t *dst, int width, const void *src, int64_t across,
                                                 int64_t along, int from, int valid, int64_t k, int pad) {
    const int step = pad < 0 ? 1 : 2;
    __m512i r[16], odd;
    int64_t p;
    int i, j;
    if (across == 1) {
        for (p = 0; p < k; p += step, dst += width)
            for (i = 0; i < width || i < valid; i += width < 16 ? width : 16) {
                uint32_t *to = dst + i / width * ((k + step - 1) / step) * width + i % width;
                int n = (int)dpo__min64(valid - i, width);
                __mmask16 mask = (__mmask16)(n > 15 ? 0xffffu : n > 0 ? (1u << n) - 1u : 0u);
                r[0] = dpo__avx512_get(src, p * along + i, from, mask);
                if (pad >= 0) {
                    odd = p + 1 < k ? dpo__avx512_get(src, (p + 1) * along + i, from, mask)
                                    : _mm512_set1_epi32((int)((uint32_t)pad << 16));
                    r[0] = _mm512_or_epi32(r[0], _mm512_maskz_srli_epi32(DPO__ALL16, odd, 16));
                }
                _mm512_mask_storeu_epi32(to, (__mmask16)(width < 16 ? (1u << width) - 1u : 0xffffu), r[0]);
            }
        return;
    }
    for (p = 0; p < k; p += 16 * step, dst += 16 * width) {
        int n = (int)dpo__min64(k - p, 16 * step);
        for (i = 0; i < width; i += 16) {
            DPO__UNROLL for (j = 0; j < 16; j++) {
                int64_t at = (i + j) * across + p;
                if (i + j >= valid) r[j] = _mm512_setzero_si512();
                else if (pad < 0) r[j] = dpo__avx512_get(src, at, from, (__mmask16)((1u << n) - 1u));
                else r[j] = dpo__avx512_pairs(src, at, from, n, pad);
            }
            dpo__transpose16(dst + i, width, r, (n + step - 1) / step);
        }
    }
}
#define DPO__PACK_AVX512(name, pad)                                                                                    \
    DPO__AVX512 static void name(void *dst, int width, const void *src, int64_t across, int64_t along, int from,       \
                                 int valid, int64_t k) {                                                               \
        uint32_t *to = (uint32_t *)dst;                                                                                \
        if (from == DPO__FROM_BF16) dpo__pack_avx512_of(to, width, src, across, along, DPO__FROM_BF16, valid, k, pad); \
        else if (from == DPO__FROM_ROUNDED)                                                                            \
            dpo__pack_avx512_of(to, width, src, across, along, DPO__FROM_ROUNDED, valid, k, pad);                      \
        else if (pad < 0) dpo__pack_avx512_of(to, width, src, across, along, DPO__FROM_F32, valid, k, -1);             \
    }
DPO__PACK_AVX512(dpo__pack_avx512, -1)
DPO__PACK_AVX512(dpo__pack_avx512_a, 0x8000)
DPO__PACK_AVX512(dpo__pack_avx512_b, 0)
DPO__TILE(DPO__AVX512, dpo__tile_avx512, dpo__avx512, __m512, float, float, 16, DPO__TILE_CASES12, 1, 12)
DPO__TILE(DPO__AVX512, dpo__tile_avx512_16, dpo__avx512, __m512, float, uint16_t, 16, DPO__TILE_CASES12, 1, 12)
/* Not inlined: long, and used by all of the kernel's instances. */
DPO__AVX512 static void dpo__avx512_turn(__m512 *r, const char *b, int64_t column) {
    __m512i t[16];
    int i;
    DPO__UNROLL for (i = 0; i < 16; i++) t[i] = _mm512_loadu_si512(b + i * column);
    dpo__avx512_turn16(t);
    DPO__UNROLL for (i = 0; i < 16; i++) r[i] = _mm512_castsi512_ps(t[i]);
}
#define dpo__avx512_round(v) _mm512_castsi512_ps(dpo__avx512_round_bits(_mm512_castps_si512(v)))
#define dpo__avx512_even(v)  _mm512_castsi512_ps(_mm512_maskz_slli_epi32(DPO__ALL16, _mm512_castps_si512(v), 16))
#define dpo__avx512_odd(v)   _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(-65536)))
DPO__FEW_KERNEL(DPO__AVX512, dpo__few_avx512, dpo__avx512, __m512, 16, 16, 1, 2, 1)
DPO__TILE(DPO__AVX512_BF16, dpo__tile_avx512_pairs, dpo__avx512, __m512, uint32_t, uint32_t, 16, DPO__TILE_CASES12, 1,
          12)

#define DPO__PRODUCT_AVX2                                                                                              \
    { 6, 16, 0, dpo__tile_avx2, dpo__tile_avx2_16, dpo__pack_avx2, dpo__pack_avx2, dpo__few_avx2 }
#define DPO__PRODUCT_AVX512                                                                                            \
    { 12, 32, 0, dpo__tile_avx512, dpo__tile_avx512_16, dpo__pack_avx512, dpo__pack_avx512, dpo__few_avx512 }
#define DPO__PRODUCT_PAIRS                                                                                             \
    { 12, 32, 1, dpo__tile_avx512_pairs, NULL, dpo__pack_avx512_a, dpo__pack_avx512_b, NULL }
#define X(result, give, name, parameters, ...) dpo__##name##_avx2,
static const dpo__kernels dpo__kernels_avx2 = {"avx2", {DPO__PRODUCT_AVX2, DPO__PRODUCT_AVX2}, DPO__ROW_KERNELS(X)};
#undef X
#define X(result, give, name, parameters, ...) dpo__##name##_avx512,
static const dpo__kernels dpo__kernels_avx512 = {
    "avx512", {DPO__PRODUCT_AVX512, DPO__PRODUCT_AVX512}, DPO__ROW_KERNELS(X)};
static const dpo__kernels dpo__kernels_avx512_bf16 = {
    "avx512-bf16", {DPO__PRODUCT_AVX512, DPO__PRODUCT_PAIRS}, DPO__ROW_KERNELS(X)};
#undef X
#elif defined(__aarch64__) && !defined(DPO_NO_SIMD)
#define DPO__NEON 1
#define X(result, give, name, parameters, ...)                                                                         \
    static result dpo__##name##_neon parameters { give dpo__row_##name(1, __VA_ARGS__); }
DPO__ROW_KERNELS(X)
#undef X
#define dpo__neon_zero()             vdupq_n_f32(0.0f)
#define dpo__neon_load(p)            vld1q_f32(p)
#define dpo__neon_store(p, v)        vst1q_f32(p, v)
#define dpo__neon_a_float(p)         vdupq_n_f32(*(p))
#define dpo__neon_b_float(p)         vld1q_f32(p)
#define dpo__neon_b_uint16_t(p)      vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#define dpo__neon_fma_float(x, b, s) vfmaq_f32(s, b, x)
DPO__TILE(, dpo__tile_neon, dpo__neon, float32x4_t, float, float, 4, DPO__TILE_CASES6, 2, 6)
DPO__TILE(, dpo__tile_neon_16, dpo__neon, float32x4_t, float, uint16_t, 4, DPO__TILE_CASES6, 2, 6)
/* Four words of four columns. */
DPO__INLINE void dpo__neon_turn(float32x4_t *r, const char *b, int64_t column) {
    float64x2_t t[4];
    int i;
    DPO__UNROLL for (i = 0; i < 4; i++) r[i] =
        vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(const void *)(b + i * column)));
    DPO__UNROLL for (i = 0; i < 4; i += 2) {
        t[i] = vreinterpretq_f64_f32(vtrn1q_f32(r[i], r[i + 1]));
        t[i + 1] = vreinterpretq_f64_f32(vtrn2q_f32(r[i], r[i + 1]));
    }
    DPO__UNROLL for (i = 0; i < 2; i++) {
        r[i] = vreinterpretq_f32_f64(vtrn1q_f64(t[i], t[i + 2]));
        r[i + 2] = vreinterpretq_f32_f64(vtrn2q_f64(t[i], t[i + 2]));
    }
}
DPO__INLINE float32x4_t dpo__neon_round(float32x4_t x) { /* dpo__num_bf16_from */
    uint32x4_t u = vreinterpretq_u32_f32(x), r = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    r = vaddq_u32(u, vaddq_u32(r, vdupq_n_u32(0x7fff)));
    r = vbslq_u32(vceqq_f32(x, x), r, vorrq_u32(u, vdupq_n_u32(0x400000)));
    return vreinterpretq_f32_u32(vandq_u32(r, vdupq_n_u32(0xffff0000u)));
}
#define dpo__neon_even(v)            vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(v), 16))
#define dpo__neon_odd(v)             vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(~0xffffu)))
DPO__FEW_KERNEL(, dpo__few_neon, dpo__neon, float32x4_t, 4, 4, 2, 4, 2)
#define DPO__PRODUCT_NEON                                                                                              \
    { 6, 16, 0, dpo__tile_neon, dpo__tile_neon_16, dpo__pack_plain, dpo__pack_plain, dpo__few_neon }
#define X(result, give, name, parameters, ...) dpo__##name##_neon,
static const dpo__kernels dpo__kernels_neon = {"neon", {DPO__PRODUCT_NEON, DPO__PRODUCT_NEON}, DPO__ROW_KERNELS(X)};
#undef X
#endif /* instruction sets */

/* The best kernels this CPU has, or the path asked for; 0 if it has not got that one. */
static int dpo__kernels_choose(dpo__kernels *k, int simd) {
    *k = dpo__kernels_scalar;
#if defined(DPO__X86)
    __builtin_cpu_init();
    if ((simd == DPO_SIMD_AUTO || simd == DPO_SIMD_AVX512 || simd == DPO_SIMD_AVX512_BF16) &&
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma")) {
        if (simd != DPO_SIMD_AVX512 && __builtin_cpu_supports("avx512bf16")) {
            *k = dpo__kernels_avx512_bf16;
            return 1;
        }
        *k = dpo__kernels_avx512;
        return simd != DPO_SIMD_AVX512_BF16;
    }
    if ((simd == DPO_SIMD_AUTO || simd == DPO_SIMD_AVX2) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma")) {
        *k = dpo__kernels_avx2;
        return 1;
    }
#elif defined(DPO__NEON)
    if (simd == DPO_SIMD_AUTO || simd == DPO_SIMD_NEON) {
        *k = dpo__kernels_neon;
        return 1;
    }
#endif
    return simd == DPO_SIMD_AUTO || simd == DPO_SIMD_SCALAR;
}

/* ===========================================================================================
   >>CONTEXT - owns everything; the way to fail
   =========================================================================================== */

/* A file's bytes that stand for an object's own memory. */
typedef struct dpo__mapping {
    struct dpo__mapping *next;
    const void *owner, *at;
    uint64_t bytes;
} dpo__mapping;

struct dpo_context {
    dpo__error error;
    dpo__memory memory;
    dpo__pool pool;
    dpo__kernels kernels;
    dpo_desc desc;
    dpo_io io;
    dpo__mapping *mappings;
    float **pack; /* per worker: packed panels of matrix products */
    size_t pack_bytes;
    char *info;
};

DPO__FORMAT(3, 4)
static dpo_result dpo__fail(dpo_context *c, dpo_result code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    code = dpo__error_set(&c->error, code, format, args);
    va_end(args);
    return code;
}

/* What verbs begin with: they are given something, and its context has no error. */
#define DPO__READY(object, context)                                                                                    \
    if (!(object)) return DPO_E_ARG;                                                                                   \
    if ((context)->error.code) return (context)->error.code

DPO__FORMAT(3, 4)
static void dpo__log(dpo_context *c, int level, const char *format, ...) {
    char line[1024];
    va_list args;
    if (!c->desc.log) return;
    va_start(args, format);
    if (vsnprintf(line, sizeof line, format, args) < 0) line[0] = 0;
    va_end(args);
    c->desc.log(c->desc.user, level, line);
}

/* A block of the context's memory, or NULL with the error set. */
static void *dpo__get(dpo_context *c, size_t bytes, const char *what) {
    void *p = bytes == SIZE_MAX ? NULL : dpo__memory_get(&c->memory, bytes);
    if (!p)
        dpo__fail(c, DPO_E_MEMORY,
                  "no memory for %s: %.1f MB were asked for; close other programs, or use a smaller model, shorter "
                  "texts or fewer rows at a time",
                  what, (double)bytes / 1e6);
    return p;
}
static void dpo__put(dpo_context *c, void *p) { dpo__memory_put(&c->memory, p); }

/* Gives back what is mapped for an object; NULL: for all. */
static void dpo__unmap(dpo_context *c, const void *owner) {
    dpo__mapping **at = &c->mappings;
    while (*at) {
        dpo__mapping *m = *at;
        if (owner && m->owner != owner) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        (void)c->io.unmap(c->io.user, m->at, m->bytes); /* nothing was written, nothing can be done */
        dpo__put(c, m);
    }
}

/* Between the two passes of a layout function: a block for what the first one counted. */
static int dpo__arena_get(dpo_context *c, dpo__arena *a, const char *what) {
    a->base = (uint8_t *)dpo__get(c, a->used, what);
    a->used = 0;
    return a->base != NULL;
}

/* Sizes of the cache blocks of a matrix product: KC floats of a panel stay in L1, MC x KC of A in L2,
   NC x KC of B in the cache behind it. MC and NC are multiples of every tile. */
#define DPO__KC          256
#define DPO__MC          192
#define DPO__NC          1024
#define DPO__A_DIRECT    8 /* panels of B: so few do not repay packing A, */
#define DPO__A_ACROSS    6 /* nor so few where a step along k is one to another row */
#define DPO__PACK_SLACK  16
#define DPO__PACK_FLOATS ((DPO__MC + 12) * DPO__KC + DPO__NC * DPO__KC + 2 * DPO__PACK_SLACK)

#define DPO__COMPILER_TEXT2(x) #x
#define DPO__COMPILER_TEXT(x)  DPO__COMPILER_TEXT2(x)
#if defined(__clang__)
#define DPO__COMPILER "clang " DPO__COMPILER_TEXT(__clang_major__)
#elif defined(__GNUC__)
#define DPO__COMPILER "gcc " DPO__COMPILER_TEXT(__GNUC__)
#else
#define DPO__COMPILER "unknown compiler"
#endif
#ifdef DPO_NO_STDIO
#define DPO__BUILD_STDIO " DPO_NO_STDIO"
#else
#define DPO__BUILD_STDIO ""
#endif
#ifdef DPO_NO_THREADS
#define DPO__BUILD_THREADS " DPO_NO_THREADS"
#else
#define DPO__BUILD_THREADS ""
#endif
#ifdef DPO_NO_SIMD
#define DPO__BUILD_SIMD " DPO_NO_SIMD"
#else
#define DPO__BUILD_SIMD ""
#endif
#ifdef DPO_STATIC
#define DPO__BUILD_STATIC " DPO_STATIC"
#else
#define DPO__BUILD_STATIC ""
#endif
#define DPO__BUILD_TEXT                                                                                                \
    "dpo.h " DPO__COMPILER_TEXT(DPO_VERSION_MAJOR) "." DPO__COMPILER_TEXT(DPO_VERSION_MINOR) "." DPO__COMPILER_TEXT(   \
        DPO_VERSION_PATCH) ", numerics " DPO__COMPILER_TEXT(DPO_NUMERICS) ", " DPO__COMPILER DPO__BUILD_STDIO          \
        DPO__BUILD_THREADS DPO__BUILD_SIMD DPO__BUILD_STATIC

static int dpo__cores(void) {
#if !defined(DPO_NO_THREADS) && defined(_SC_NPROCESSORS_ONLN)
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 256 ? 256 : (int)n;
#else
    return 1;
#endif
}

/* Pack buffers of all workers and the info line. */
static dpo_result dpo__context_buffers(dpo_context *c) {
    int i;
    char *p;
    size_t info = 256;
    size_t bytes = (size_t)c->pool.n * (sizeof(float *) + DPO__PACK_FLOATS * sizeof(float)) + info + 2 * DPO__ALIGN;
    p = (char *)dpo__get(c, bytes, "the buffers of matrix products");
    if (!p) return DPO_E_MEMORY;
    c->pack_bytes = bytes;
    c->info = p;
    c->pack = (float **)(void *)(p + info);
    p += info + ((size_t)c->pool.n * sizeof(float *) + DPO__ALIGN - 1) / DPO__ALIGN * DPO__ALIGN;
    for (i = 0; i < c->pool.n; i++) c->pack[i] = (float *)(void *)p + (size_t)i * DPO__PACK_FLOATS;
    dpo__append(c->info, info, 0, "%s; %s kernels, %d thread%s", DPO__BUILD_TEXT, c->kernels.name, c->pool.n,
                c->pool.n == 1 ? "" : "s");
    return DPO_OK;
}

DPO_API dpo_context *dpo_open(const dpo_desc *desc) {
    dpo__memory memory = {dpo__default_alloc, dpo__default_release, desc ? desc->user : NULL, NULL, 0};
    dpo_context *c;
    int threads = desc ? desc->n_threads : 0;
    if (threads < 0 || threads > 1024 || (desc && !desc->alloc != !desc->release)) return NULL;
    if (desc && desc->alloc) {
        memory.alloc = desc->alloc;
        memory.release = desc->release;
    }
    c = (dpo_context *)dpo__memory_get(&memory, sizeof *c);
    if (!c) return NULL;
    memset(c, 0, sizeof *c);
    c->memory = memory;
    if (desc) c->desc = *desc;
    c->io = c->desc.io ? *c->desc.io : dpo__default_io;
    c->desc.io = NULL; /* copied: the caller's may go */
    if (!dpo__kernels_choose(&c->kernels, desc ? desc->simd : DPO_SIMD_AUTO) ||
        dpo__pool_open(&c->pool, &c->memory, threads ? threads : dpo__cores()) || dpo__context_buffers(c)) {
        dpo_close(c);
        return NULL;
    }
    return c;
}

DPO_API void dpo_close(dpo_context *c) {
    dpo__memory m;
    dpo__block *self;
    if (!c) return;
    dpo__pool_close(&c->pool, &c->memory);
    dpo__unmap(c, NULL);
    self = (dpo__block *)((uintptr_t)c - DPO__BLOCK_HEADER);
    while (c->memory.blocks != self) /* newest first; the context's own block is the oldest */
        dpo__memory_put(&c->memory, (void *)((uintptr_t)c->memory.blocks + DPO__BLOCK_HEADER));
    m = c->memory;
    dpo__memory_put(&m, c);
}

DPO_API dpo_result dpo_status(const dpo_context *c) { return c ? c->error.code : DPO_E_MEMORY; }
DPO_API const char *dpo_error(const dpo_context *c) {
    return c ? c->error.text
             : "dpo_open gave no context: no memory for it, or its description asks for a SIMD path this CPU lacks, "
               "threads outside 0..1024, or only one of alloc and release";
}
DPO_API void dpo_clear(dpo_context *c) {
    if (c) {
        c->error.code = DPO_OK;
        c->error.text[0] = 0;
    }
}
DPO_API const char *dpo_build_info(const dpo_context *c) { return c ? c->info : DPO__BUILD_TEXT; }
DPO_API int dpo_version(void) { return DPO_VERSION_MAJOR * 10000 + DPO_VERSION_MINOR * 100 + DPO_VERSION_PATCH; }

/* Hooks run in the caller's floating-point state. */
static int dpo__cancelled(dpo_context *c, dpo__fpenv env) {
    int stop;
    if (!c->desc.cancel) return 0;
    dpo__fp_leave(env);
    stop = c->desc.cancel(c->desc.user);
    (void)dpo__fp_enter();
    return stop;
}
static void dpo__progress(dpo_context *c, dpo__fpenv env, const char *what, int64_t done, int64_t total) {
    if (!c->desc.progress) return;
    dpo__fp_leave(env);
    c->desc.progress(c->desc.user, what, done, total);
    (void)dpo__fp_enter();
}

/* Work over 0..n-1 in contiguous ranges, a few per worker; `align` keeps range borders at multiples. */
typedef void (*dpo__range_fn)(void *arg, int64_t first, int64_t last, int worker);
typedef struct dpo__split {
    dpo__range_fn run;
    void *arg;
    int64_t n, align;
    int parts;
} dpo__split;

static void dpo__split_task(void *arg, int64_t task, int worker) {
    const dpo__split *s = (const dpo__split *)arg;
    int64_t units = (s->n + s->align - 1) / s->align;
    int64_t first = units * task / s->parts * s->align;
    int64_t last = dpo__min64(units * (task + 1) / s->parts * s->align, s->n);
    if (first < last) s->run(s->arg, first, last, worker);
}
static void dpo__split_parts(dpo_context *c, int64_t n, int64_t align, int64_t parts, dpo__range_fn run, void *arg) {
    dpo__split s = {run, arg, n, align, c->pool.n > 1 ? (int)dpo__min64(parts, (int64_t)c->pool.n * DPO__SHARES) : 1};
    dpo__pool_run(&c->pool, s.parts, dpo__split_task, &s);
}
static void dpo__split_run(dpo_context *c, int64_t n, int64_t align, dpo__range_fn run, void *arg) {
    dpo__split_parts(c, n, align, dpo__max64(1, (n + align - 1) / align), run, arg);
}
/* The same for a pass over n x width elements, so light that few of them are not worth waking the others. */
#define DPO__LIGHT 4096
static void dpo__split_light(dpo_context *c, int64_t n, int64_t width, int64_t align, dpo__range_fn run, void *arg) {
    dpo__split_parts(c, n, align, 1 + n * width / DPO__LIGHT, run, arg);
}

/* ===========================================================================================
   >>GEMM - C = init + A B, each element one chain of fused multiply-adds over k in index order

   Panels of B, and of A where that pays, are packed into the worker's buffer and multiplied by the register tile; C's
   stored values carry each chain on from one block of k to the next: blocking, threads and tile shapes change no bit.
   The two operands may be transposed by their strides, which gives the three products a linear layer needs from one
   routine. Few rows read B once, as it lies.
   =========================================================================================== */

/* An operand as it lies in memory, F32 or BF16: element (i,j) is data[i*row + j*col]; one of the strides is 1. */
typedef struct dpo__operand {
    const void *data;
    int64_t row, col;
    int dtype;
} dpo__operand;

typedef struct dpo__gemm {
    int64_t m, n, k;
    dpo__operand a, b; /* A [m,k], B [k,n] */
    float *c;          /* element (i,j) at c[i*c_row + j] */
    int64_t c_row;
    const float *bias;    /* [n] or NULL: where the chains begin, unless they */
    int accumulate;       /* continue from C's stored values */
    int bf16;             /* F32 operands are rounded to bf16 on their way in */
    const void *b_panels; /* NULL, or all of B from dpo__gemm_pack_all (with the same bf16) */
} dpo__gemm;

static const void *dpo__operand_at(const dpo__operand *o, int64_t i, int64_t j) {
    int64_t at = i * o->row + j * o->col;
    return o->dtype == DPO_BF16 ? (const void *)((const uint16_t *)o->data + at)
                                : (const void *)((const float *)o->data + at);
}
DPO__INLINE int dpo__operand_from(const dpo__operand *o, int bf16) {
    return o->dtype == DPO_BF16 ? DPO__FROM_BF16 : bf16 ? DPO__FROM_ROUNDED : DPO__FROM_F32;
}

/* All of B [k,n] as panels, each whole in k one behind the other: floats, or with bf16 two bytes an element. */
static size_t dpo__gemm_packed_size(const dpo__kernels *kernels, int64_t k, int64_t n, int bf16) {
    const dpo__product *p = &kernels->product[bf16 != 0];
    size_t columns = (size_t)((n + p->nr - 1) / p->nr * p->nr);
    return columns * (size_t)(p->pairs ? (k + 1) / 2 * 2 : k) * (bf16 ? sizeof(uint16_t) : sizeof(float));
}
typedef struct dpo__gemm_packing {
    dpo_context *c;
    const dpo__product *p;
    dpo__operand b;
    int64_t k, n;
    int bf16;
    uint8_t *to;
    size_t panel;
} dpo__gemm_packing;
/* Of bf16 elements, floats are packed first, and narrowed to them. */
static void dpo__gemm_pack_panels(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__gemm_packing *s = (const dpo__gemm_packing *)arg;
    int64_t j, q, n;
    int from = dpo__operand_from(&s->b, s->bf16), nr = s->p->nr;
    for (j = first; j < last; j += nr) {
        uint8_t *to = s->to + (size_t)(j / nr) * s->panel;
        int valid = (int)dpo__min64(nr, s->n - j);
        if (!s->bf16 || s->p->pairs) {
            s->p->pack_b(to, nr, dpo__operand_at(&s->b, 0, j), s->b.col, s->b.row, from, valid, s->k);
            continue;
        }
        for (q = 0; q < s->k; q += n) {
            n = dpo__min64(DPO__KC, s->k - q);
            s->p->pack_b(s->c->pack[worker], nr, dpo__operand_at(&s->b, q, j), s->b.col, s->b.row, from, valid, n);
            s->c->kernels.narrow(n * nr, (uint16_t *)(void *)to + q * nr, NULL, s->c->pack[worker]);
        }
    }
}
static void dpo__gemm_pack_all(dpo_context *c, dpo__operand b, int64_t k, int64_t n, int bf16, void *to) {
    dpo__gemm_packing s = {c, &c->kernels.product[bf16 != 0], b, k, n, bf16, (uint8_t *)to, 0};
    s.panel = dpo__gemm_packed_size(&c->kernels, k, s.p->nr, bf16);
    dpo__split_run(c, n, s.p->nr, dpo__gemm_pack_panels, &s);
}

/* One worker's part of a product: rows m0..m1-1, columns n0..n1-1. */
typedef struct dpo__gemm_part {
    const dpo__gemm *g;
    const dpo__product *p;
    int64_t m0, m1, n0, n1;
    int from_a, from_b;
    int a_packed, b_packed; /* or read where it lies */
    int small;              /* few rows: B is read once */
    int once;               /* no other rows will want B's panels */
    int64_t p0, kc, step;   /* the block of k, and its largest */
    float *pa, *pb;
    const char *ahead; /* what of B comes next: rows of so many lines of 64 bytes, a few with each tile */
    int64_t ahead_row, ahead_lines, ahead_left, ahead_each, ahead_line;
    dpo__tile_fn run;
    dpo__tile t;
} dpo__gemm_part;

/* Rows of the next tile: two shares rather than one tile and a sliver. */
DPO__INLINE int dpo__gemm_rows(int64_t left, int mr) {
    return (int)(left >= 2 * mr || left == mr ? mr : left > mr ? (left + 1) / 2 : left);
}
DPO__INLINE int64_t dpo__gemm_units(const dpo__gemm_part *s, int64_t k) { return s->p->pairs ? (k + 1) / 2 : k; }

/* Where neighbours lie side by side, several panels are packed at once: whole cache lines are read. */
static void dpo__gemm_pack_a(const dpo__gemm_part *s, int64_t i0, int64_t i1, float *to) {
    int64_t units = dpo__gemm_units(s, s->kc), mr = s->p->mr, h, full;
    for (; i0 < i1; i0 += h, to += (h + mr - 1) / mr * mr * units) {
        full = (i1 - i0) % mr ? (i1 - i0) / mr - 1 : (i1 - i0) / mr;
        h = s->g->a.row == 1 && full > 0 ? dpo__min64(full, 8) * mr : dpo__gemm_rows(i1 - i0, s->p->mr);
        s->p->pack_a(to, s->p->mr, dpo__operand_at(&s->g->a, i0, s->p0), s->g->a.row, s->g->a.col, s->from_a, (int)h,
                     s->kc);
    }
}
/* Columns j0..j1-1 of B's block, or those of its ready-made panels, as floats. */
static void dpo__gemm_pack_b(const dpo__gemm_part *s, int64_t j0, int64_t j1, float *to) {
    const dpo__gemm *g = s->g;
    int64_t w, nr = s->p->nr, many = !g->b_panels && g->b.col == 1 ? j1 - j0 : nr;
    for (; j0 < j1; j0 += w, to += w * s->t.k) {
        w = dpo__min64(many, j1 - j0);
        if (g->b_panels)
            s->p->pack_b(to, (int)nr, (const uint16_t *)g->b_panels + j0 * g->k + s->p0 * nr, 1, nr, DPO__FROM_BF16,
                         (int)nr, s->kc);
        else s->p->pack_b(to, (int)nr, dpo__operand_at(&g->b, s->p0, j0), g->b.col, g->b.row, s->from_b, (int)w, s->kc);
    }
}
/* The next tile's B, columns j..: packed, or as it lies. */
static void dpo__gemm_take_b(dpo__gemm_part *s, int64_t j, const float *packed) {
    const dpo__gemm *g = s->g;
    dpo__tile *t = &s->t;
    int nr = s->p->nr;
    int64_t whole = dpo__gemm_units(s, g->k), at = dpo__gemm_units(s, s->p0) * nr + j * whole;
    int half = s->from_b != DPO__FROM_F32 && !s->p->pairs;
    t->b_step = nr;
    t->b_panel = (packed ? t->k : whole) * nr;
    s->run = half && !packed ? s->p->expand : s->p->tile;
    if (packed) t->b = packed;
    else if (g->b_panels)
        t->b =
            half ? (const void *)((const uint16_t *)g->b_panels + at) : (const void *)((const float *)g->b_panels + at);
    else {
        t->b = dpo__operand_at(&g->b, s->p0, j);
        t->b_step = g->b.row;
        t->b_panel = nr;
    }
}

/* A tile that hangs over C's edge is computed in a full one beside it. */
static void dpo__gemm_edge(dpo__tile_fn run, const dpo__tile *t, int64_t w) {
    float full[12 * 32];
    dpo__tile e = *t;
    int i, j;
    for (i = 0; i < t->rows; i++)
        for (j = 0; j < t->columns; j++)
            full[i * t->columns + j] = t->init && j < w ? t->init[i * t->init_row + j] : 0.0f;
    e.init = e.c = full;
    e.init_row = e.c_row = t->columns;
    run(&e);
    for (i = 0; i < t->rows; i++) memcpy(t->c + i * t->c_row, full + i * t->columns, (size_t)w * sizeof(float));
}
/* While some columns of B are multiplied, those from `next` on come nearer. */
static void dpo__gemm_look_ahead(dpo__gemm_part *s, int64_t next, int64_t tiles) {
    const dpo__operand *b = &s->g->b;
    int64_t size = b->dtype == DPO_BF16 ? 2 : 4, n = dpo__min64(s->t.columns, s->n1 - next);
    s->ahead = (const char *)dpo__operand_at(b, s->p0, next);
    s->ahead_row = (b->col == 1 ? b->row : b->col) * size;
    s->ahead_line = 0;
    s->ahead_lines = ((b->col == 1 ? n : s->kc) * size + 63) / 64;
    s->ahead_left = (b->col == 1 ? s->kc : n) * s->ahead_lines;
    s->ahead_each = (s->ahead_left + tiles - 1) / tiles;
}
DPO__INLINE void dpo__gemm_fetch(dpo__gemm_part *s) {
    int64_t i, n = dpo__min64(s->ahead_each, s->ahead_left);
    s->ahead_left -= n;
    for (i = 0; i < n; i++) {
        __builtin_prefetch(s->ahead + s->ahead_line * 64, 0, 2);
        if (++s->ahead_line == s->ahead_lines) {
            s->ahead_line = 0;
            s->ahead += s->ahead_row;
        }
    }
}
/* Rows i0..i1-1 by the columns that the tile's B has. */
static void dpo__gemm_column(dpo__gemm_part *s, int64_t i0, int64_t i1, int64_t j, const float *pa) {
    const dpo__gemm *g = s->g;
    dpo__tile *t = &s->t;
    int64_t i, w = dpo__min64(s->n1 - j, t->columns), panel = t->k * s->p->mr;
    int r, on = s->p0 > 0 || g->accumulate;
    for (i = i0; i < i1; i += t->rows, pa += panel) {
        t->rows = dpo__gemm_rows(i1 - i, s->p->mr);
        t->c = g->c + i * g->c_row + j;
        t->init = on ? t->c : g->bias ? g->bias + j : NULL;
        t->init_row = on ? g->c_row : 0;
        t->a = s->a_packed ? pa : (const float *)dpo__operand_at(&g->a, i, s->p0);
        for (r = 0; r < dpo__min64(i1 - i - t->rows, s->p->mr); r++) {
            const float *next = t->c + (t->rows + r) * g->c_row;
            __builtin_prefetch(next, 1);
            __builtin_prefetch(next + w - 1, 1);
        }
        dpo__gemm_fetch(s);
        if (w == t->columns) s->run(t);
        else dpo__gemm_edge(s->run, t, w);
    }
}
/* Rows ic..ie-1 by columns jc..je-1 over one block of k. */
static void dpo__gemm_rectangle(dpo__gemm_part *s, int64_t ic, int64_t ie, int64_t jc, int64_t je, const float *pa) {
    int64_t j, one, next, nr = s->p->nr;
    int64_t rows = dpo__gemm_rows(ie - ic, s->p->mr), wide = rows == ie - ic && rows < 3 ? 4 / rows * nr : nr;
    int64_t group = s->b_packed && (s->small || s->g->b.col == 1) ? 4 * nr : nr;
    for (j = jc; j < je; j += one) {
        int64_t left = s->n1 - j, at = s->once ? (j - jc) % group : j - jc;
        int pack = s->b_packed || (!s->g->b_panels && left < nr);
        float *to = s->pb + at * s->t.k;
        one = je - j < wide ? nr : wide;
        if (pack && ic == s->m0 && (j - jc) % group == 0) dpo__gemm_pack_b(s, j, dpo__min64(j + group, je), to);
        s->t.columns = (int)(left <= nr / 2 ? nr / 2 : one);
        dpo__gemm_take_b(s, j, pack ? to : NULL);
        s->ahead_left = 0;
        next = s->b_packed ? j + one : j + 8 * one;
        if (next < je && !s->g->b_panels && (s->b_packed ? ic == s->m0 && s->g->b.col != 1 : 1))
            dpo__gemm_look_ahead(s, next, (ie - ic + s->p->mr - 1) / s->p->mr);
        dpo__gemm_column(s, ic, ie, j, pa);
    }
}
static void dpo__gemm_block_run(dpo__gemm_part *s) {
    const dpo__gemm *g = s->g;
    int64_t mr = s->p->mr, m = s->m1 - s->m0, mc, nc, ic, jc, all, tall;
    int64_t blocks = (g->k + s->step - 1) / s->step;
    s->step = blocks ? ((g->k + blocks - 1) / blocks + 15) / 16 * 16 : 16; /* even shares of k */
    mc = s->a_packed || s->small ? DPO__MC : dpo__min64(DPO__MC, DPO__MC * DPO__KC / 2 / s->step); /* half of L2 */
    mc = (m + mc - 1) / mc;
    mc = ((m + mc - 1) / mc + mr - 1) / mr * mr;
    s->once = mc >= m;
    nc = s->small && s->b_packed ? s->p->nr : DPO__NC;
    tall = (m / mr + (m % mr != 0)) * mr;
    all = s->a_packed && tall * ((g->k + 15) / 16 * 16) <= DPO__MC * DPO__KC;
    for (jc = s->n0; jc < s->n1; jc += nc) {
        int64_t je = dpo__min64(jc + nc, s->n1);
        for (s->p0 = 0; s->p0 == 0 || s->p0 < g->k; s->p0 += s->step) {
            s->kc = dpo__min64(s->step, g->k - s->p0);
            s->t.k = dpo__gemm_units(s, s->kc);
            for (ic = s->m0; ic < s->m1; ic += mc) {
                int64_t ie = dpo__min64(ic + mc, s->m1);
                float *pa = s->pa + (all ? dpo__gemm_units(s, s->p0) * tall + (ic - s->m0) * s->t.k : 0);
                if (s->a_packed && (jc == s->n0 || !all)) dpo__gemm_pack_a(s, ic, ie, pa);
                dpo__gemm_rectangle(s, ic, ie, jc, je, pa);
            }
        }
    }
}
/* --- Few rows by weights as they lie in their file: each is read once, turned in registers ------------ */

static int dpo__gemm_is_few(const dpo__kernels *k, const dpo__gemm *g, int64_t m, int64_t n) {
    return k->product[0].few && !g->b_panels && g->b.row == 1 && g->a.col == 1 && m <= DPO__FEW &&
           n >= k->product[0].nr;
}
/* The last columns, not a whole tile: one that ends with them is computed beside C. */
static void dpo__gemm_few_edge(const dpo__kernels *k, const dpo__gemm *g, dpo__tile *t, int from, int64_t w) {
    float full[DPO__FEW * 32];
    int64_t skip = t->columns - w;
    dpo__tile e = *t;
    int i, j;
    for (i = 0; i < t->rows; i++)
        for (j = 0; j < t->columns; j++)
            full[i * t->columns + j] = t->init && j >= skip ? t->init[i * t->init_row + j - skip] : 0.0f;
    e.b = (const char *)t->b - skip * t->b_panel * (g->b.dtype == DPO_BF16 ? 2 : 4);
    e.init = e.c = full;
    e.init_row = e.c_row = t->columns;
    k->product[0].few(&e, from);
    for (i = 0; i < t->rows; i++) memcpy(t->c + i * t->c_row, full + i * t->columns + skip, (size_t)w * sizeof(float));
}
/* A's rows over one block of k as floats, one behind the other. */
static void dpo__gemm_few_rows(const dpo__kernels *k, const dpo__gemm *g, int64_t m0, int64_t m, int64_t p0, int64_t kc,
                               float *to) {
    int64_t i;
    for (i = 0; i < m; i++, to += kc) {
        const void *a = dpo__operand_at(&g->a, m0 + i, p0);
        if (g->a.dtype == DPO_BF16) k->expand(kc, to, (const uint16_t *)a, 0);
        else k->narrow(kc, NULL, to, (const float *)a);
    }
}
/* Rows m0..m0+m-1, columns n0..n1-1. */
static void dpo__gemm_few(const dpo__kernels *k, const dpo__gemm *g, int64_t m0, int64_t m, int64_t n0, int64_t n1,
                          float *pack) {
    int plain = dpo__operand_from(&g->a, g->bf16) == DPO__FROM_F32, from = dpo__operand_from(&g->b, g->bf16);
    int64_t step = plain ? g->k : DPO__PACK_FLOATS / DPO__FEW / 32 * 32, p0, j; /* whole cache lines */
    dpo__tile t;
    memset(&t, 0, sizeof t);
    t.rows = (int)m;
    t.columns = k->product[0].nr;
    t.b_panel = g->b.col;
    t.c_row = g->c_row;
    for (p0 = 0; p0 == 0 || p0 < g->k; p0 += step) {
        int on = p0 > 0 || g->accumulate;
        t.k = dpo__min64(step, g->k - p0);
        if (!plain) dpo__gemm_few_rows(k, g, m0, m, p0, t.k, pack);
        t.a = plain ? dpo__operand_at(&g->a, m0, p0) : pack;
        t.a_row = plain ? g->a.row : t.k;
        t.init_row = on ? g->c_row : 0;
        for (j = n0; j < n1; j += t.columns) {
            t.b = dpo__operand_at(&g->b, p0, j);
            t.c = g->c + m0 * g->c_row + j;
            t.init = on ? t.c : g->bias ? g->bias + j : NULL;
            if (n1 - j < t.columns) dpo__gemm_few_edge(k, g, &t, from, n1 - j);
            else k->product[0].few(&t, from);
        }
    }
}
/* Rows m0..m1-1, columns n0..n1-1 of the product, on the calling thread. */
static void dpo__gemm_block(const dpo__kernels *k, const dpo__gemm *g, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                            float *pack) {
    dpo__gemm_part s;
    int64_t m = m1 - m0, n = n1 - n0;
    int narrow, half_a, half_b;
    if (m < 1 || n < 1) return;
    if (dpo__gemm_is_few(k, g, m, n)) {
        dpo__gemm_few(k, g, m0, m, n0, n1, pack);
        return;
    }
    memset(&s, 0, sizeof s);
    s.g = g;
    s.m0 = m0;
    s.m1 = m1;
    s.n0 = n0;
    s.n1 = n1;
    s.from_a = dpo__operand_from(&g->a, g->bf16);
    s.from_b = dpo__operand_from(&g->b, g->bf16);
    s.small = m <= 2 * k->product[0].mr;
    half_a = s.from_a != DPO__FROM_F32;
    half_b = s.from_b != DPO__FROM_F32;
    narrow = s.small && !g->b_panels; /* B is used up before pairs would pay */
    s.p = &k->product[half_a && half_b && !narrow];
    s.b_packed =
        g->b_panels ? half_b && !s.p->pairs && !s.small : !s.small || g->b.col != 1 || s.from_b == DPO__FROM_ROUNDED;
    s.a_packed = s.p->pairs || half_a || !(s.small || n <= (g->a.col == 1 ? DPO__A_DIRECT : DPO__A_ACROSS) * s.p->nr);
    s.step = DPO__KC * (s.p->pairs || !s.a_packed ? 2 : 1);
    if (s.small && s.b_packed) s.step = 2 * DPO__KC;
    else if (s.small) s.step = g->b_panels ? DPO__MC * DPO__KC / (2 * s.p->mr) / 16 * 16 : 16;
    s.pa = pack;
    s.pb = pack + (DPO__MC + 12) * DPO__KC + DPO__PACK_SLACK;
    s.t.c_row = g->c_row;
    s.t.a_row = s.a_packed ? 1 : g->a.row;
    s.t.a_step = s.a_packed ? s.p->mr : g->a.col;
    dpo__gemm_block_run(&s);
}

typedef struct dpo__gemm_job {
    dpo_context *c;
    const dpo__gemm *g;
    int64_t parts_m, parts_n;
} dpo__gemm_job;

static void dpo__gemm_task(void *arg, int64_t task, int worker) {
    const dpo__gemm_job *s = (const dpo__gemm_job *)arg;
    const dpo__product *p = &s->c->kernels.product[0];
    int64_t im = task / s->parts_n, in = task % s->parts_n;
    int64_t um = (s->g->m + p->mr - 1) / p->mr, un = (s->g->n + p->nr - 1) / p->nr;
    int64_t m0 = um * im / s->parts_m * p->mr, m1 = um * (im + 1) / s->parts_m * p->mr;
    int64_t n0 = un * in / s->parts_n * p->nr, n1 = un * (in + 1) / s->parts_n * p->nr;
    dpo__gemm_block(&s->c->kernels, s->g, m0, dpo__min64(m1, s->g->m), n0, dpo__min64(n1, s->g->n), s->c->pack[worker]);
}

/* On all workers: C is cut into one rectangle each, along the grid whose largest share costs least
   (multiplying, and packing its rows and columns). */
static void dpo__gemm_run(dpo_context *c, const dpo__gemm *g) {
    dpo__gemm_job s = {c, g, 1, 1};
    int mr = c->kernels.product[0].mr, nr = c->kernels.product[0].nr;
    int64_t um = (g->m + mr - 1) / mr, un = (g->n + nr - 1) / nr, pm;
    double best = 0;
    if (g->m < 1 || g->n < 1) return;
    if (c->pool.n > 1 && (double)g->m * (double)g->n * (double)g->k > 40000.0)
        for (pm = 1; pm <= c->pool.n; pm++) {
            int64_t pn = c->pool.n / pm;
            int64_t m = (um + pm - 1) / pm * mr, n = (un + pn - 1) / pn * nr;
            double cost =
                (double)m * (double)n + 24.0 * (double)n + 24.0 * (double)m * (double)((n + DPO__NC - 1) / DPO__NC);
            if (pm * pn != c->pool.n) continue; /* tasks = workers: each gets one rectangle */
            if (best == 0 || cost < best) {
                best = cost;
                s.parts_m = pm;
                s.parts_n = pn;
            }
        }
    dpo__pool_run(&c->pool, s.parts_m * s.parts_n, dpo__gemm_task, &s);
}

static dpo__gemm dpo__gemm_of(int64_t m, int64_t n, int64_t k, const void *a, int64_t a_row, int64_t a_col,
                              const void *b, int64_t b_row, int64_t b_col, float *c, int64_t c_row) {
    dpo__gemm g = {m, n, k, {a, a_row, a_col, DPO_F32}, {b, b_row, b_col, DPO_F32}, c, c_row, NULL, 0, 0, NULL};
    return g;
}
/* C += A B */
static void dpo__gemm_add(dpo_context *c, dpo__gemm g, int bf16) {
    g.accumulate = 1;
    g.bf16 = bf16;
    dpo__gemm_run(c, &g);
}

/* ===========================================================================================
   >>LAYERS - each layer's forward directly above its backward

   The internal functions take raw pointers and are what the model uses; the public ones (end of the
   section) check shapes and call them. dX stands for d(loss)/dX. Gradients over rows are chains in row
   order continued from the stored value, so a batch cut into micro-batches gives the same bits: work
   over rows is split by rows where rows are independent, by columns where they are summed.
   =========================================================================================== */

#define DPO__COLUMNS 64 /* columns a worker sums at a time: full cache lines of a strided walk */

/* --- Embedding:  x[n] = (E[ids[n]] + P[pos[n]]) * scale ------------------------------------------ */

typedef struct dpo__embedding {
    dpo_context *c;
    const int32_t *ids, *positions; /* positions NULL: no P */
    int64_t n, d;
    const void *table, *position_table;
    int dtype, position_dtype; /* of the tables: DPO_F32, DPO_BF16 */
    float *x;
    const float *dx;
    float *dtable, *dposition_table;
    float scale;
} dpo__embedding;

/* x (+)= a row of a table */
static void dpo__embedding_take(const dpo__embedding *e, float *x, const void *table, int dtype, int64_t row, int add) {
    const dpo__kernels *k = &e->c->kernels;
    const float *from = (const float *)table + row * e->d;
    if (dtype == DPO_BF16) k->expand(e->d, x, (const uint16_t *)table + row * e->d, add);
    else if (add) k->add(e->d, x, from);
    else memcpy(x, from, (size_t)e->d * sizeof(float));
}
static void dpo__embedding_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__embedding *e = (const dpo__embedding *)arg;
    int64_t n;
    (void)worker;
    for (n = first; n < last; n++) {
        float *x = e->x + n * e->d;
        dpo__embedding_take(e, x, e->table, e->dtype, e->ids[n], 0);
        if (e->positions) dpo__embedding_take(e, x, e->position_table, e->position_dtype, e->positions[n], 1);
        if (e->scale != 1.0f) e->c->kernels.scale(e->d, x, x, e->scale);
    }
}
static void dpo__embedding_forward(dpo__embedding *e) { dpo__split_light(e->c, e->n, e->d, 1, dpo__embedding_rows, e); }

/* dE[ids[n]] += scale dx[n],  dP[pos[n]] += scale dx[n], in row order */
static void dpo__embedding_columns(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__embedding *e = (const dpo__embedding *)arg;
    int64_t n, w = last - first;
    (void)worker;
    for (n = 0; n < e->n; n++) {
        const float *dx = e->dx + n * e->d + first;
        if (e->dtable) e->c->kernels.axpy(w, e->dtable + (int64_t)e->ids[n] * e->d + first, e->scale, dx);
        if (e->dposition_table)
            e->c->kernels.axpy(w, e->dposition_table + (int64_t)e->positions[n] * e->d + first, e->scale, dx);
    }
}
static void dpo__embedding_backward(dpo__embedding *e) {
    dpo__split_run(e->c, e->d, DPO__COLUMNS, dpo__embedding_columns, e);
}

/* --- LayerNorm:  y = xhat w + b,  xhat = (x - mean) rstd,  rstd = 1/sqrt(var + eps) --------------
       RMSNorm:    y = xhat w,      xhat = x rstd,           rstd = 1/sqrt(mean x^2 + eps) */

typedef struct dpo__norm {
    dpo_context *c;
    int kind; /* DPO_NORM_* */
    int64_t n, d;
    const float *x, *w, *b;
    float *y, *stats; /* stats [N,2]: mean (0 for RMS), rstd */
    float eps;
    const float *dy;
    float *dx, *dw, *db;
    int add;   /* dx += instead of dx = */
    int again; /* the statistics are there already */
} dpo__norm;

/* One row's statistics. */
static void dpo__norm_stats(const dpo__norm *l, const float *x, float *stats) {
    float d = (float)l->d, var;
    if (l->kind == DPO_NORM_LAYER) {
        stats[0] = l->c->kernels.sum(l->d, x) / d;
        var = l->c->kernels.variance(l->d, x, stats[0]) / d;
    } else {
        stats[0] = 0.0f;
        var = l->c->kernels.dot(l->d, x, x) / d;
    }
    stats[1] = 1.0f / sqrtf(var + l->eps);
}
static void dpo__norm_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__norm *l = (const dpo__norm *)arg;
    int64_t n;
    (void)worker;
    for (n = first; n < last; n++) {
        const float *x = l->x + n * l->d;
        if (!l->again) dpo__norm_stats(l, x, l->stats + 2 * n);
        l->c->kernels.norm(l->d, l->y + n * l->d, x, l->stats + 2 * n, l->w, l->b);
    }
}
static void dpo__norm_forward(dpo__norm *l) { dpo__split_light(l->c, l->n, l->d, 1, dpo__norm_rows, l); }

/* With g = dy w:  dx = rstd (g - mean(g) - xhat mean(g xhat))   (RMSNorm: without mean(g))
   dw += sum_n dy xhat,  db += sum_n dy */
static void dpo__norm_back_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__norm *l = (const dpo__norm *)arg;
    int64_t n;
    (void)worker;
    for (n = first; n < last; n++) {
        const float *x = l->x + n * l->d, *dy = l->dy + n * l->d, *stats = l->stats + 2 * n;
        float sums[2], d = (float)l->d;
        l->c->kernels.norm_sums(l->d, dy, x, stats, l->w, sums);
        if (l->kind == DPO_NORM_RMS) sums[0] = 0.0f;
        l->c->kernels.norm_back(l->d, l->dx + n * l->d, dy, x, stats, l->w, sums[0] / d, sums[1] / d, l->add);
    }
}
static void dpo__norm_back_columns(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__norm *l = (const dpo__norm *)arg;
    int64_t n, w = last - first;
    (void)worker;
    for (n = 0; n < l->n; n++) {
        const float *x = l->x + n * l->d + first, *dy = l->dy + n * l->d + first;
        if (l->dw) l->c->kernels.norm_grad(w, l->dw + first, dy, x, l->stats + 2 * n);
        if (l->db) l->c->kernels.add(w, l->db + first, dy);
    }
}
static void dpo__norm_backward(dpo__norm *l) {
    if (l->dw || l->db) dpo__split_run(l->c, l->d, DPO__COLUMNS, dpo__norm_back_columns, l);
    if (l->dx) dpo__split_run(l->c, l->n, 1, dpo__norm_back_rows, l);
}

/* --- Linear:  y = x W^T + b + (s x A^T) B^T ------------------------------------------------------
   W [out,in], or [in,out] with conv1d; A [r,in], B [out,r] an adapter (r = 0: none). Each output is
   one chain: bias, then k, then the adapter's r. */

typedef struct dpo__linear {
    const void *w, *panels; /* panels: NULL, or W^T packed for the forward product */
    const float *b, *lora_a, *lora_b;
    int64_t in, out, r;
    float scale;
    int conv1d;
    int dtype; /* of w: DPO_F32, DPO_BF16 */
    int bf16;  /* operands of all its products are rounded to bf16 */
} dpo__linear;
typedef struct dpo__linear_grad { /* NULL: not wanted */
    float *w, *b, *lora_a, *lora_b;
} dpo__linear_grad;

/* h = s x A^T  [n,r] */
static void dpo__linear_adapter(dpo_context *c, const dpo__linear *l, float *h, const float *x, int64_t x_row,
                                int64_t n) {
    dpo__gemm g = dpo__gemm_of(n, l->r, l->in, x, x_row, 1, l->lora_a, 1, l->in, h, l->r);
    g.bf16 = l->bf16;
    dpo__gemm_run(c, &g);
    c->kernels.scale(n * l->r, h, h, l->scale);
}
static void dpo__linear_forward(dpo_context *c, const dpo__linear *l, float *y, int64_t y_row, const float *x,
                                int64_t x_row, int64_t n, float *h) {
    dpo__gemm g =
        dpo__gemm_of(n, l->out, l->in, x, x_row, 1, l->w, l->conv1d ? l->out : 1, l->conv1d ? 1 : l->in, y, y_row);
    g.bias = l->b;
    g.b.dtype = l->panels && !l->bf16 ? DPO_F32 : l->dtype; /* panels hold floats then */
    g.bf16 = l->bf16;
    g.b_panels = l->panels;
    dpo__gemm_run(c, &g);
    if (!l->r) return;
    dpo__linear_adapter(c, l, h, x, x_row, n);
    dpo__gemm_add(c, dpo__gemm_of(n, l->out, l->r, h, l->r, 1, l->lora_b, 1, l->r, y, y_row), l->bf16);
}

typedef struct dpo__column_sum {
    dpo_context *c;
    float *sum;
    const float *x;
    int64_t row, n;
} dpo__column_sum;
static void dpo__column_sum_columns(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__column_sum *s = (const dpo__column_sum *)arg;
    int64_t n;
    (void)worker;
    for (n = 0; n < s->n; n++) s->c->kernels.add(last - first, s->sum + first, s->x + n * s->row + first);
}

/* dW += dy^T x   db += sum_n dy   dx (+)= dy W + dh A   with dh = s dy B,  dB += dy^T h,  dA += dh^T x
   h: scratch [n,r] twice */
static void dpo__linear_backward(dpo_context *c, const dpo__linear *l, const dpo__linear_grad *grad, float *dx,
                                 int64_t dx_row, int add, const float *dy, int64_t dy_row, const float *x,
                                 int64_t x_row, int64_t n, float *h) {
    float *dh = h ? h + n * l->r : NULL;
    dpo__gemm g;
    if (grad->w)
        dpo__gemm_add(c,
                      l->conv1d ? dpo__gemm_of(l->in, l->out, n, x, 1, x_row, dy, dy_row, 1, grad->w, l->out)
                                : dpo__gemm_of(l->out, l->in, n, dy, 1, dy_row, x, x_row, 1, grad->w, l->in),
                      l->bf16);
    if (grad->b) {
        dpo__column_sum s = {c, grad->b, dy, dy_row, n};
        dpo__split_run(c, l->out, DPO__COLUMNS, dpo__column_sum_columns, &s);
    }
    if (dx) {
        g = dpo__gemm_of(n, l->in, l->out, dy, dy_row, 1, l->w, l->conv1d ? 1 : l->in, l->conv1d ? l->out : 1, dx,
                         dx_row);
        g.accumulate = add;
        g.b.dtype = l->dtype;
        g.bf16 = l->bf16;
        dpo__gemm_run(c, &g);
    }
    if (!l->r) return;
    if (grad->lora_b) {
        dpo__linear_adapter(c, l, h, x, x_row, n);
        dpo__gemm_add(c, dpo__gemm_of(l->out, l->r, n, dy, 1, dy_row, h, l->r, 1, grad->lora_b, l->r), l->bf16);
    }
    g = dpo__gemm_of(n, l->r, l->out, dy, dy_row, 1, l->lora_b, l->r, 1, dh, l->r);
    g.bf16 = l->bf16;
    dpo__gemm_run(c, &g);
    c->kernels.scale(n * l->r, dh, dh, l->scale);
    if (grad->lora_a)
        dpo__gemm_add(c, dpo__gemm_of(l->r, l->in, n, dh, 1, l->r, x, x_row, 1, grad->lora_a, l->in), l->bf16);
    if (dx) dpo__gemm_add(c, dpo__gemm_of(n, l->in, l->r, dh, l->r, 1, l->lora_a, l->in, 1, dx, dx_row), l->bf16);
}

/* --- Rotary positions [RoPE]:  (a, b) -> (a cos t - b sin t, b cos t + a sin t) -------------------
   for the pairs (i, i + rot/2) of each head, t = position * frequency[i]; turn -1: the backward pass,
   which is the inverse rotation. cosines, sines [positions, rot/2]. */

typedef struct dpo__rope {
    dpo_context *c;
    float *x;
    int64_t row, head, n, heads, half;
    const int32_t *positions;
    const float *cosines, *sines;
    float turn;
} dpo__rope;

static void dpo__rope_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__rope *l = (const dpo__rope *)arg;
    int64_t n, h;
    (void)worker;
    for (n = first; n < last; n++) {
        const float *cosines = l->cosines + (int64_t)l->positions[n] * l->half;
        const float *sines = l->sines + (int64_t)l->positions[n] * l->half;
        for (h = 0; h < l->heads; h++) {
            float *x = l->x + n * l->row + h * l->head;
            l->c->kernels.rotate(l->half, x, x + l->half, cosines, sines, l->turn);
        }
    }
}

/* --- Causal attention over a forest --------------------------------------------------------------
   Row i of head h sees positions j = 0..i of its path (its ancestors' rows, then its own segment's):

       s_ij = scale q_i.k_j - slope_h (i - j)     p_i = softmax(s_i)     o_i = sum_j p_ij v_j

   Query head h uses key head h / (H/K). One unit of work is (tree, key head). The rows of a tile of
   queries, each with its H/K heads, are the rows of small products against the path's spans: pieces of
   memory, in the batch with a stride, in a cache a head's positions one behind the other, its keys as packed panels.
   Scores, maxima, sums and chains over positions do not depend on how the path is cut. Kept for the backward pass: per
   row and head the maximum and the inverse sum, never a T x T matrix. */

#define DPO__ATTENTION_TILE 64 /* query rows x heads of a group at a time */
#define DPO__MAX_DEPTH      64 /* segments on a path */
#define DPO__CACHE_ROWS     32 /* a multiple of every panel's columns */

/* Rows of a segment that are asked for, and where they stand among all rows asked for. */
typedef struct dpo__asked {
    int64_t first, count; /* within the segment */
    int64_t at;           /* row of out, stats and dout */
} dpo__asked;

typedef struct dpo__attention {
    dpo_context *c;
    const dpo_segment *segments;
    const dpo__asked *asked; /* [n_segments] the queries; a row that none asks for gives keys and values alone */
    const int32_t *trees;    /* [n_trees+1] first segment of each */
    int64_t n_trees, heads, kv_heads, dim;
    float scale;
    const float *slopes; /* [H] or NULL */
    const float *q, *k, *v;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;
    float *out, *stats; /* [asked rows, H*D], [asked rows, H, 2] */
    int64_t max_path;
    float **scratch; /* per worker: dpo__attention_scratch floats */
    /* cached positions of segment s: from cache_first[s], a multiple of DPO__CACHE_ROWS, on: keys in panels
       [K, rows / nr, D, nr], values [K, rows, D]; NULL without a cache */
    const float *cache_k, *cache_v;
    const int64_t *cache_first;
    int64_t cache_rows;
    /* backward */
    const float *dout;
    float *dq, *dk, *dv; /* laid out as q, k, v */
} dpo__attention;

typedef struct dpo__span {
    const float *k, *panels, *v; /* keys as they lie, or in panels */
    float *dk, *dv;
    int64_t k_row, v_row, count;
} dpo__span;

/* Tile rows; floats of one worker's scratch: q, o, dq tiles, two score tiles. */
static int64_t dpo__attention_tile(int64_t heads, int64_t kv_heads) {
    return dpo__max64(DPO__ATTENTION_TILE, heads / kv_heads);
}
static int64_t dpo__attention_scratch(int64_t heads, int64_t kv_heads, int64_t dim, int64_t path, int backward) {
    int64_t t = dpo__attention_tile(heads, kv_heads);
    return t * dim * (backward ? 4 : 2) + t * path * (backward ? 2 : 1) + 2 * t + 64;
}

/* The spans of segment s's path up to row `rows` of its own; returns the positions before those rows. */
static int64_t dpo__attention_path(const dpo__attention *l, int32_t s, int64_t kv, int64_t rows, dpo__span *spans,
                                   int *count) {
    int32_t chain[DPO__MAX_DEPTH];
    int depth = 0, n = 0;
    int64_t before = 0;
    int32_t i;
    for (i = s; i >= 0; i = l->segments[i].parent) chain[depth++] = i;
    while (depth--) {
        const dpo_segment *g = &l->segments[chain[depth]];
        int64_t own = chain[depth] == s ? rows : g->length;
        if (g->past) {
            int64_t at = (kv * l->cache_rows + l->cache_first[chain[depth]]) * l->dim;
            spans[n].k = spans[n].panels = l->cache_k + at;
            spans[n].v = l->cache_v + at;
            spans[n].dk = spans[n].dv = NULL;
            spans[n].k_row = spans[n].v_row = l->dim;
            spans[n++].count = g->past;
        }
        if (own) {
            int64_t k = g->first * l->k_row + kv * l->k_head, v = g->first * l->v_row + kv * l->v_head;
            spans[n].k = l->k + k;
            spans[n].panels = NULL;
            spans[n].v = l->v + v;
            spans[n].dk = l->dk ? l->dk + k : NULL;
            spans[n].dv = l->dv ? l->dv + v : NULL;
            spans[n].k_row = l->k_row;
            spans[n].v_row = l->v_row;
            spans[n++].count = own;
        }
        before += g->past + (chain[depth] == s ? 0 : g->length);
    }
    *count = n;
    return before;
}

/* One tile: rows r0..r0+rows-1 of segment s, all heads of group kv. */
typedef struct dpo__attention_part {
    const dpo__attention *l;
    int worker;
    int64_t kv, group, at, rows, virtual_rows, before, keys;
    int64_t from, from_q; /* where its elements begin in out, and in q */
    int n_spans;
    dpo__span spans[2 * DPO__MAX_DEPTH];
    float *q, *o, *dq, *dout, *s, *ds;
} dpo__attention_part;

/* The tile's rows, all heads of its group: from one matrix [.., heads, D] to another, by their strides. */
static void dpo__attention_copy(const dpo__attention_part *t, float *to, int64_t to_row, int64_t to_head,
                                const float *from, int64_t from_row, int64_t from_head) {
    int64_t r, h;
    for (r = 0; r < t->rows; r++)
        for (h = 0; h < t->group; h++)
            memcpy(to + r * to_row + h * to_head, from + r * from_row + h * from_head,
                   (size_t)t->l->dim * sizeof(float));
}
static void dpo__attention_part_open(dpo__attention_part *t, int32_t s, int64_t r0, int64_t rows) {
    const dpo__attention *l = t->l;
    int64_t tile = dpo__attention_tile(l->heads, l->kv_heads);
    float *at = l->scratch[t->worker];
    t->at = l->asked[s].at + r0 - l->asked[s].first;
    t->rows = rows;
    t->virtual_rows = rows * t->group;
    t->before = dpo__attention_path(l, s, t->kv, r0 + rows, t->spans, &t->n_spans) + r0;
    t->keys = t->before + rows;
    t->q = at;
    t->o = t->q + tile * l->dim;
    t->s = t->o + tile * l->dim;
    t->ds = t->s + tile * l->max_path;
    t->dq = t->ds + tile * l->max_path; /* these three are the backward pass's only */
    t->dout = t->dq + tile * l->dim;
    t->from = t->at * l->heads * l->dim + t->kv * t->group * l->dim;
    t->from_q = (l->segments[s].first + r0) * l->q_row + t->kv * t->group * l->q_head;
    dpo__attention_copy(t, t->q, t->group * l->dim, l->dim, l->q + t->from_q, l->q_row, l->q_head);
}
/* to[virtual_rows, keys] = x [virtual_rows, D] times the spans' keys (or values), transposed */
static void dpo__attention_scores(const dpo__attention_part *t, float *to, const float *x, int values) {
    const dpo__attention *l = t->l;
    int64_t at = 0;
    int i;
    for (i = 0; i < t->n_spans; i++) {
        const dpo__span *p = &t->spans[i];
        dpo__gemm g = dpo__gemm_of(t->virtual_rows, p->count, l->dim, x, l->dim, 1, values ? p->v : p->k, 1,
                                   values ? p->v_row : p->k_row, to + at, t->keys);
        if (!values) g.b_panels = p->panels;
        dpo__gemm_block(&l->c->kernels, &g, 0, g.m, 0, g.n, l->c->pack[t->worker]);
        at += p->count;
    }
}
/* to [virtual_rows, D] = weights [virtual_rows, keys] times the spans' values (or keys): one chain over
   positions, across spans */
static void dpo__attention_mix(const dpo__attention_part *t, float *to, const float *weights, int values) {
    const dpo__attention *l = t->l;
    int64_t at = 0, i;
    int s;
    for (s = 0; s < t->n_spans; s++) {
        const dpo__span *p = &t->spans[s];
        dpo__gemm g = dpo__gemm_of(t->virtual_rows, l->dim, p->count, weights + at, t->keys, 1, values ? p->v : p->k,
                                   values ? p->v_row : p->k_row, 1, to, l->dim);
        g.accumulate = s > 0;
        dpo__gemm_block(&l->c->kernels, &g, 0, g.m, 0, g.n, l->c->pack[t->worker]);
        at += p->count;
    }
    /* Masked positions added 0 * v: that may leave -0 or +0 where nothing else was added. */
    for (i = 0; i < t->virtual_rows * l->dim; i++) to[i] += 0.0f;
}
/* Scores to probabilities, row by row; positions behind a row's own get 0. */
static void dpo__attention_softmax(const dpo__attention_part *t, int again) {
    const dpo__attention *l = t->l;
    int64_t i, n;
    for (i = 0; i < t->virtual_rows; i++) {
        int64_t head = t->kv * t->group + i % t->group, row = t->at + i / t->group;
        float *s = t->s + i * t->keys, *stats = l->stats + (row * l->heads + head) * 2;
        float slope = l->slopes ? l->slopes[head] : 0.0f;
        n = t->before + i / t->group + 1;
        if (again) l->c->kernels.attend_again(n, s, l->scale, slope, stats);
        else l->c->kernels.attend(n, s, l->scale, slope, stats);
        memset(s + n, 0, (size_t)(t->keys - n) * sizeof(float));
    }
}
typedef void (*dpo__attention_fn)(dpo__attention_part *t);

static void dpo__attention_forward_part(dpo__attention_part *t) {
    const dpo__attention *l = t->l;
    dpo__attention_scores(t, t->s, t->q, 0);
    dpo__attention_softmax(t, 0);
    dpo__attention_mix(t, t->o, t->s, 1);
    dpo__attention_copy(t, l->out + t->from, l->heads * l->dim, l->dim, t->o, t->group * l->dim, l->dim);
}

/*     dp_ij = do_i.v_j     delta_i = sum_j p_ij dp_ij     ds_ij = scale p_ij (dp_ij - delta_i)
       dq_i = sum_j ds_ij k_j     dk_j += sum_i ds_ij q_i     dv_j += sum_i p_ij do_i */
static void dpo__attention_backward_part(dpo__attention_part *t) {
    const dpo__attention *l = t->l;
    int64_t i, at = 0;
    int s;
    dpo__attention_copy(t, t->dout, t->group * l->dim, l->dim, l->dout + t->from, l->heads * l->dim, l->dim);
    dpo__attention_scores(t, t->s, t->q, 0);
    dpo__attention_softmax(t, 1);
    dpo__attention_scores(t, t->ds, t->dout, 1);
    for (i = 0; i < t->virtual_rows; i++) {
        int64_t n = t->before + i / t->group + 1;
        float *ds = t->ds + i * t->keys;
        const float *p = t->s + i * t->keys;
        l->c->kernels.attend_back(n, ds, p, l->c->kernels.dot(n, p, ds), l->scale);
        memset(ds + n, 0, (size_t)(t->keys - n) * sizeof(float));
    }
    dpo__attention_mix(t, t->dq, t->ds, 0);
    dpo__attention_copy(t, l->dq + t->from_q, l->q_row, l->q_head, t->dq, t->group * l->dim, l->dim);
    for (s = 0; s < t->n_spans; s++) {
        const dpo__span *p = &t->spans[s];
        dpo__gemm g =
            dpo__gemm_of(p->count, l->dim, t->virtual_rows, t->ds + at, 1, t->keys, t->q, l->dim, 1, p->dk, p->k_row);
        g.accumulate = 1;
        dpo__gemm_block(&l->c->kernels, &g, 0, g.m, 0, g.n, l->c->pack[t->worker]);
        g = dpo__gemm_of(p->count, l->dim, t->virtual_rows, t->s + at, 1, t->keys, t->dout, l->dim, 1, p->dv, p->v_row);
        g.accumulate = 1;
        dpo__gemm_block(&l->c->kernels, &g, 0, g.m, 0, g.n, l->c->pack[t->worker]);
        at += p->count;
    }
}

static void dpo__attention_unit(const dpo__attention *l, int64_t task, int worker, dpo__attention_fn part) {
    dpo__attention_part t;
    int64_t tree = task / l->kv_heads, r0, step;
    int32_t s;
    t.l = l;
    t.worker = worker;
    t.kv = task % l->kv_heads;
    t.group = l->heads / l->kv_heads;
    step = dpo__attention_tile(l->heads, l->kv_heads) / t.group;
    for (s = l->trees[tree]; s < l->trees[tree + 1]; s++) {
        int64_t end = l->asked[s].first + l->asked[s].count;
        for (r0 = l->asked[s].first; r0 < end; r0 += step) {
            dpo__attention_part_open(&t, s, r0, dpo__min64(step, end - r0));
            part(&t);
        }
    }
}
static void dpo__attention_forward_unit(void *arg, int64_t task, int worker) {
    dpo__attention_unit((const dpo__attention *)arg, task, worker, dpo__attention_forward_part);
}
static void dpo__attention_backward_unit(void *arg, int64_t task, int worker) {
    const dpo__attention *l = (const dpo__attention *)arg;
    int64_t tree = task / l->kv_heads, kv = task % l->kv_heads, group = l->heads / l->kv_heads, n, h;
    const dpo_segment *last = &l->segments[l->trees[tree + 1] - 1];
    size_t bytes = (size_t)l->dim * sizeof(float);
    for (n = l->segments[l->trees[tree]].first; n < last->first + last->length; n++) {
        memset(l->dk + n * l->k_row + kv * l->k_head, 0, bytes);
        memset(l->dv + n * l->v_row + kv * l->v_head, 0, bytes);
        for (h = 0; h < group; h++) memset(l->dq + n * l->q_row + (kv * group + h) * l->q_head, 0, bytes);
    }
    dpo__attention_unit(l, task, worker, dpo__attention_backward_part);
}
static void dpo__attention_forward(dpo__attention *l) {
    const dpo__asked *last = &l->asked[l->trees[l->n_trees] - 1];
    int64_t i, tasks = l->n_trees * l->kv_heads, rows = last->at + last->count;
    if (rows * l->max_path * l->heads * l->dim > 8 * DPO__LIGHT)
        dpo__pool_run(&l->c->pool, tasks, dpo__attention_forward_unit, l);
    else
        for (i = 0; i < tasks; i++) dpo__attention_forward_unit(l, i, 0);
}
static void dpo__attention_backward(dpo__attention *l) {
    dpo__pool_run(&l->c->pool, l->n_trees * l->kv_heads, dpo__attention_backward_unit, l);
}

/* --- Activations, elementwise --------------------------------------------------------------------
   GELU       y = x Phi(x) = x (1 + erf(x/sqrt 2))/2          dx = dy (Phi(x) + x phi(x))
   GELU tanh  y = x (1 + t)/2, t = tanh(c (x + k x^3))        dx = dy [(1+t)/2 + x/2 (1-t^2) c (1 + 3 k x^2)]
   SwiGLU     y = up g s, s = sigmoid(g)                      dup = dy g s,  dg = dy up s (1 + g (1 - s)) */

typedef struct dpo__activation {
    dpo_context *c;
    int kind; /* DPO_GELU, ... */
    const float *x, *gate;
    float *y;
    const float *dy;
    float *dx, *dgate;
} dpo__activation;

static void dpo__activation_part(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__activation *l = (const dpo__activation *)arg;
    const dpo__kernels *k = &l->c->kernels;
    int64_t n = last - first;
    (void)worker;
    if (l->kind == DPO_SWIGLU) k->swiglu(n, l->y + first, l->x + first, l->gate + first);
    else if (l->kind == DPO_GELU) k->gelu(n, l->y + first, l->x + first);
    else k->gelu_tanh(n, l->y + first, l->x + first);
}
static void dpo__activation_back_part(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__activation *l = (const dpo__activation *)arg;
    const dpo__kernels *k = &l->c->kernels;
    int64_t n = last - first;
    (void)worker;
    if (l->kind == DPO_SWIGLU)
        k->swiglu_back(n, l->dx + first, l->dgate + first, l->dy + first, l->x + first, l->gate + first);
    else if (l->kind == DPO_GELU) k->gelu_back(n, l->dx + first, l->dy + first, l->x + first);
    else k->gelu_tanh_back(n, l->dx + first, l->dy + first, l->x + first);
}
static void dpo__activation_forward(dpo__activation *l, int64_t n) {
    dpo__split_light(l->c, n, 1, 16, dpo__activation_part, l);
}
static void dpo__activation_backward(dpo__activation *l, int64_t n) {
    dpo__split_run(l->c, n, 16, dpo__activation_back_part, l);
}

/* --- Output head with log-softmax ----------------------------------------------------------------
   z = scale W h,   logp = z_t - M - log S
   For blocks of DPO__HEAD_BLOCK columns m_b = max z, s_b = sum exp(z - m_b); then, in double,
   M = max m_b,   S = sum_b s_b exp(m_b - M)
   dz_j = w scale (onehot_j - p_j) for weight w = d(loss)/d(logp)
   dh = (w scale) (onehot - p) W,   dW += (onehot - p)^T (w scale h)
   The products are a linear layer's, a block of columns at a time, so that what follows finds logits in a cache; here
   is what stands between them. z [R,V] is overwritten by onehot - p. A row's weight, times scale, enters where it is
   cheap: dh is scaled after its product, and h before the one that gives dW. So a frozen head's dh needs no weight
   yet. */

#define DPO__HEAD_BLOCK 4096 /* a change would change bits */

typedef struct dpo__head {
    dpo_context *c;
    int64_t rows, vocab, d;
    float scale;
    float *z, *stats, *blocks; /* [R,V], [R,2]: M, S, [R,dpo__head_blocks,2]: m_b, s_b */
    const int32_t *token;
    double *logp;
    int64_t first, last; /* the columns at hand */
} dpo__head;

static int64_t dpo__head_blocks(int64_t vocab) { return (vocab + DPO__HEAD_BLOCK - 1) / DPO__HEAD_BLOCK; }
static void dpo__head_block_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__head *l = (const dpo__head *)arg;
    int64_t i, v, n;
    (void)worker;
    for (i = first; i < last; i++)
        for (v = l->first; v < l->last; v += n) {
            float *z = l->z + i * l->vocab + v;
            n = dpo__min64(DPO__HEAD_BLOCK, l->last - v);
            if (l->scale != 1.0f) l->c->kernels.scale(n, z, z, l->scale);
            l->c->kernels.logsumexp(n, z, l->blocks + 2 * (i * dpo__head_blocks(l->vocab) + v / DPO__HEAD_BLOCK));
        }
}
static void dpo__head_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__head *l = (const dpo__head *)arg;
    int64_t i, b, n = dpo__head_blocks(l->vocab);
    (void)worker;
    for (i = first; i < last; i++) {
        const float *part = l->blocks + 2 * i * n;
        double top = (double)part[0], sum = 0.0;
        for (b = 1; b < n; b++) top = (double)part[2 * b] > top ? (double)part[2 * b] : top;
        for (b = 0; b < n; b++) {
            double share = (double)part[2 * b + 1] * dpo__num_exp((double)part[2 * b] - top);
            sum = sum + share;
        }
        l->stats[2 * i] = (float)top;
        l->stats[2 * i + 1] = (float)sum;
        if (l->token[i] >= 0) /* else nobody asks: the row is there for comparison */
            l->logp[i] = ((double)l->z[i * l->vocab + l->token[i]] - top) - dpo__num_log(sum);
    }
}
/* onehot - p */
static void dpo__head_back_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__head *l = (const dpo__head *)arg;
    int64_t i;
    (void)worker;
    for (i = first; i < last; i++) {
        float *z = l->z + i * l->vocab;
        l->c->kernels.softmax_back(l->last - l->first, z + l->first, l->stats + 2 * i);
        if (l->token[i] >= l->first && l->token[i] < l->last) z[l->token[i]] = 1.0f + z[l->token[i]];
    }
}
/* Columns first..last-1 of a head. Behind an adapter there are no blocks: its part of the chain comes last. */
static int64_t dpo__head_next(dpo__head *h, const dpo__linear *w) {
    h->first = h->last;
    h->last = w->r ? h->vocab : dpo__min64(h->vocab, h->last + DPO__HEAD_BLOCK);
    return h->first < h->vocab;
}
static dpo__linear dpo__head_part(const dpo__head *h, const dpo__linear *w) {
    dpo__linear part = *w;
    part.out = h->last - h->first;
    part.w = w->dtype == DPO_BF16 ? (const void *)((const uint16_t *)w->w + h->first * w->in)
                                  : (const void *)((const float *)w->w + h->first * w->in);
    if (w->panels) /* whole panels: a block's width is a multiple of theirs */
        part.panels = (const uint8_t *)w->panels + dpo__gemm_packed_size(&h->c->kernels, w->in, h->first, w->bf16);
    return part;
}
/* Log-probs of a tile's targets; x [R,d]. */
static void dpo__head_forward(dpo__head *h, const dpo__linear *w, const float *x, float *lora) {
    for (h->last = 0; dpo__head_next(h, w);) {
        dpo__linear part = dpo__head_part(h, w);
        dpo__linear_forward(h->c, &part, h->z + h->first, h->vocab, x, w->in, h->rows, lora);
        dpo__split_run(h->c, h->rows, 1, dpo__head_block_rows, h);
    }
    dpo__split_run(h->c, h->rows, 1, dpo__head_rows, h);
}
/* dh [R,d], unless it is NULL, without weights; grad by x with weights. */
static void dpo__head_backward(dpo__head *h, const dpo__linear *w, const dpo__linear_grad *grad, float *dh,
                               const float *x, float *lora) {
    for (h->last = 0; dpo__head_next(h, w);) {
        dpo__linear part = dpo__head_part(h, w);
        dpo__linear_grad g = *grad;
        if (g.w) g.w += h->first * w->in;
        dpo__split_run(h->c, h->rows, 1, dpo__head_back_rows, h);
        dpo__linear_backward(h->c, &part, &g, dh, w->in, h->first > 0, h->z + h->first, h->vocab, x, w->in, h->rows,
                             lora);
    }
}
/* y[i] = (weight[i] scale) x[i] for rows of d */
typedef struct dpo__row_weights {
    dpo_context *c;
    int64_t d;
    float *y;
    const float *x;
    const double *weight;
    double scale;
} dpo__row_weights;
static void dpo__row_weights_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__row_weights *l = (const dpo__row_weights *)arg;
    int64_t i;
    (void)worker;
    for (i = first; i < last; i++)
        l->c->kernels.scale(l->d, l->y + i * l->d, l->x + i * l->d, (float)(l->weight[i] * l->scale));
}

/* ===========================================================================================
   >>JSON - RFC 8259 text as an array of nodes in the order of the text

   Nothing is copied: a node points into the text, strings are unescaped when asked for. The nodes
   of a value and of all it contains lie at i .. nodes[i].next - 1; an object's children are key,
   value, key, value. Keys that occur twice in an object are refused. Any bytes are safe.
   =========================================================================================== */

/* --- UTF-8 --- */

#define DPO__UTF8_BAD 0xffffffffu

/* The character at p < end and its length; DPO__UTF8_BAD and 1 where there is none: no longer form than needed, no
   surrogates, at most U+10FFFF. */
DPO__INLINE uint32_t dpo__utf8_get(const uint8_t *p, const uint8_t *end, int *length) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t x = p[0];
    int i, n = x < 0xe0 ? 2 : x < 0xf0 ? 3 : 4;
    *length = 1;
    if (x < 0x80) return x;
    if (x < 0xc2 || x > 0xf4 || end - p < n) return DPO__UTF8_BAD;
    x &= 0x7fu >> n;
    for (i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return DPO__UTF8_BAD;
        x = x << 6 | (p[i] & 63u);
    }
    if (x < least[n] || (x >= 0xd800 && x < 0xe000) || x > 0x10ffff) return DPO__UTF8_BAD;
    *length = n;
    return x;
}
static int dpo__utf8_put(uint32_t x, uint8_t *out) {
    static const uint32_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    int i, n = x < 0x80 ? 1 : x < 0x800 ? 2 : x < 0x10000 ? 3 : 4;
    for (i = n - 1; i > 0; i--, x >>= 6) out[i] = (uint8_t)(0x80 | (x & 63));
    out[0] = (uint8_t)(lead[n] | x);
    return n;
}
/* How many bytes from p on are ASCII; looks at eight at a time. */
DPO__INLINE size_t dpo__utf8_plain(const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = p;
    while (end - q >= 8 && !(dpo__load_le64(q) & 0x8080808080808080u)) q += 8;
    while (q < end && *q < 0x80) q++;
    return (size_t)(q - p);
}
/* Length of the well-formed UTF-8 at the start of a text. */
static size_t dpo__utf8_valid(const char *text, size_t size) {
    const uint8_t *p = (const uint8_t *)text, *end = p + size;
    int length;
    for (p += dpo__utf8_plain(p, end); p < end; p += dpo__utf8_plain(p, end)) {
        if (dpo__utf8_get(p, end, &length) == DPO__UTF8_BAD) break;
        p += length;
    }
    return size - (size_t)(end - p);
}

/* --- from text to nodes --- */

#define DPO__JSON_DEPTH  64 /* arrays and objects inside each other */
#define DPO__JSON_NUMBER 64 /* characters of a number */

typedef struct dpo__json_node {
    uint32_t begin, end; /* its text, strings with their quotes */
    uint32_t next;       /* the node after it and all it contains */
    uint32_t count;      /* elements, or key-value pairs */
} dpo__json_node;

struct dpo_json { /* all zero before its first use */
    const char *text;
    dpo__json_node *nodes;
    size_t count, capacity;
    dpo_context *c; /* of those that dpo_json_create made */
};
typedef struct dpo_json dpo__json;

typedef struct dpo__json_scan {
    dpo_context *c;
    dpo__json *j;
    const char *text;
    size_t size, at;
    const char *why; /* NULL when there was no memory */
} dpo__json_scan;

static int dpo__json_bad(dpo__json_scan *s, const char *why) {
    s->why = why;
    return 0;
}

DPO__INLINE int dpo__json_peek(const dpo__json_scan *s) { return s->at < s->size ? (unsigned char)s->text[s->at] : -1; }

static int dpo__json_space(dpo__json_scan *s) {
    int c = dpo__json_peek(s);
    while (c == ' ' || c == '\n' || c == '\r' || c == '\t') {
        s->at++;
        c = dpo__json_peek(s);
    }
    return c;
}

/* Room for a node that begins here; 0 if there is no memory for it. Most texts have fewer than one in 8 bytes. */
static int dpo__json_node_new(dpo__json_scan *s) {
    dpo__json *j = s->j;
    if (j->count == j->capacity) {
        size_t bytes, capacity = 2 * j->capacity + s->size / 8 + 16;
        dpo__json_node *more;
        if (dpo__mul_size(capacity, sizeof *more, &bytes)) bytes = SIZE_MAX;
        more = (dpo__json_node *)dpo__get(s->c, bytes, "parsed JSON");
        if (!more) return 0;
        if (j->count) memcpy(more, j->nodes, j->count * sizeof *more);
        dpo__put(s->c, j->nodes);
        j->nodes = more;
        j->capacity = capacity;
    }
    j->nodes[j->count++].begin = (uint32_t)s->at;
    return 1;
}
static int dpo__json_node_end(const dpo__json_scan *s, size_t node, uint32_t count) {
    dpo__json_node *n = &s->j->nodes[node];
    n->end = (uint32_t)s->at;
    n->next = (uint32_t)s->j->count;
    n->count = count;
    return 1;
}

static int dpo__json_hex(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int dpo__json_scan_string(dpo__json_scan *s) {
    s->at++;
    for (;;) {
        int i, c = dpo__json_peek(s);
        if (c < 0) return dpo__json_bad(s, "a string does not end");
        if (c < 0x20) return dpo__json_bad(s, "a control character in a string is not escaped");
        s->at++;
        if (c == '"') return 1;
        if (c != '\\') continue;
        c = dpo__json_peek(s);
        if (c <= 0 || !strchr("\"\\/bfnrtu", c))
            return dpo__json_bad(s, "expected one of \"\\/bfnrtu after a backslash");
        s->at++;
        for (i = 0; c == 'u' && i < 4; i++) {
            if (dpo__json_hex(dpo__json_peek(s)) < 0)
                return dpo__json_bad(s, "expected four hexadecimal digits after \\u");
            s->at++;
        }
    }
}

static int dpo__json_scan_digits(dpo__json_scan *s) {
    size_t from = s->at;
    while (dpo__json_peek(s) >= '0' && dpo__json_peek(s) <= '9') s->at++;
    return s->at > from;
}

static int dpo__json_scan_number(dpo__json_scan *s) {
    size_t from = s->at;
    if (dpo__json_peek(s) == '-') s->at++;
    if (dpo__json_peek(s) == '0') s->at++;
    else if (!dpo__json_scan_digits(s)) return dpo__json_bad(s, "expected a digit");
    if (dpo__json_peek(s) == '.') {
        s->at++;
        if (!dpo__json_scan_digits(s)) return dpo__json_bad(s, "expected a digit after the point");
    }
    if (dpo__json_peek(s) == 'e' || dpo__json_peek(s) == 'E') {
        s->at++;
        if (dpo__json_peek(s) == '+' || dpo__json_peek(s) == '-') s->at++;
        if (!dpo__json_scan_digits(s)) return dpo__json_bad(s, "expected a digit in the exponent");
    }
    if (s->at - from <= DPO__JSON_NUMBER) return 1;
    s->at = from;
    return dpo__json_bad(s, "a number is longer than 64 characters");
}

/* A value that contains no other, or a key. */
static int dpo__json_scan_scalar(dpo__json_scan *s) {
    size_t node = s->j->count;
    int c = dpo__json_peek(s);
    const char *word = c == 't' ? "true" : c == 'f' ? "false" : c == 'n' ? "null" : NULL;
    if (!dpo__json_node_new(s)) return 0;
    if (c == '"') {
        if (!dpo__json_scan_string(s)) return 0;
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        if (!dpo__json_scan_number(s)) return 0;
    } else {
        if (!word || s->size - s->at < strlen(word) || memcmp(s->text + s->at, word, strlen(word)) != 0)
            return dpo__json_bad(s, "expected a value");
        s->at += strlen(word);
    }
    return dpo__json_node_end(s, node, 0);
}

/* Any value, inside `depth` others. */
static int dpo__json_scan_value(dpo__json_scan *s, int depth) {
    size_t node = s->j->count;
    uint32_t count = 0;
    int open = dpo__json_space(s), close = open + 2, c; /* in ASCII a closing bracket is two further */
    if (open != '{' && open != '[') return dpo__json_scan_scalar(s);
    if (depth == DPO__JSON_DEPTH) return dpo__json_bad(s, "arrays and objects lie more than 64 deep");
    if (!dpo__json_node_new(s)) return 0;
    s->at++;
    for (c = dpo__json_space(s); c != close; count++) {
        if (count) {
            if (c != ',') return dpo__json_bad(s, open == '{' ? "expected ',' or '}'" : "expected ',' or ']'");
            s->at++;
        }
        if (open == '{') {
            if (dpo__json_space(s) != '"') return dpo__json_bad(s, "expected a key in double quotes");
            if (!dpo__json_scan_scalar(s)) return 0;
            if (dpo__json_space(s) != ':') return dpo__json_bad(s, "expected ':'");
            s->at++;
        }
        if (!dpo__json_scan_value(s, depth + 1)) return 0;
        c = dpo__json_space(s);
    }
    s->at++;
    return dpo__json_node_end(s, node, count);
}
static int dpo__json_scan_all(dpo__json_scan *s) {
    if (!dpo__json_scan_value(s, 0)) return 0;
    return dpo__json_space(s) < 0 ? 1 : dpo__json_bad(s, "expected nothing more");
}

/* --- strings --- */

/* A string's bytes after unescaping, one at a time. */
typedef struct dpo__json_cursor {
    const char *p, *end;
    uint8_t piece[4];
    int have, at;
} dpo__json_cursor;

static dpo__json_cursor dpo__json_cursor_of(const dpo__json *j, int64_t node) {
    dpo__json_cursor k;
    memset(&k, 0, sizeof k);
    k.p = j->text + j->nodes[node].begin + 1;
    k.end = j->text + j->nodes[node].end - 1;
    return k;
}

static uint32_t dpo__json_hex4(const char *p) {
    uint32_t x = 0;
    int i;
    for (i = 0; i < 4; i++) x = x << 4 | (uint32_t)dpo__json_hex((unsigned char)p[i]);
    return x;
}

static int dpo__json_byte(dpo__json_cursor *k) {
    uint32_t x, low;
    if (k->at < k->have) return k->piece[k->at++];
    if (k->p == k->end) return -1;
    if (*k->p != '\\') return (unsigned char)*k->p++;
    k->p += 2; /* the scan has seen that all of the escape is there */
    switch (k->p[-1]) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: return k->p[-1];
    }
    x = dpo__json_hex4(k->p);
    k->p += 4;
    if (x >= 0xd800 && x < 0xe000) { /* half of a pair; alone it is no character */
        low = 0;
        if (x < 0xdc00 && k->end - k->p >= 6 && k->p[0] == '\\' && k->p[1] == 'u') low = dpo__json_hex4(k->p + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            x = 0x10000 + ((x - 0xd800) << 10) + (low - 0xdc00);
            k->p += 6;
        } else {
            x = 0xfffd;
        }
    }
    k->have = dpo__utf8_put(x, k->piece);
    k->at = 1;
    return k->piece[0];
}

/* --- keys that occur twice --- */

/* Keys of one object are told apart by hashing. So many with the same hash are no accident: they are refused, so that
   no choice of keys makes it slow. An object of so many keys is one chain. */
#define DPO__JSON_CHAIN 32

static int dpo__json_same(const dpo__json *j, uint32_t a, uint32_t b) {
    dpo__json_cursor ka = dpo__json_cursor_of(j, a), kb = dpo__json_cursor_of(j, b);
    int x, y;
    do {
        x = dpo__json_byte(&ka);
        y = dpo__json_byte(&kb);
    } while (x == y && x >= 0);
    return x == y;
}

/* The first key of an object that is refused, and why; or 0. heads: of chains through the keys' counts, cleared. */
static uint32_t dpo__json_twice(dpo__json *j, uint32_t object, uint32_t *heads, uint32_t mask, const char **why) {
    uint32_t n, key = object + 1, other;
    for (n = 0; n < j->nodes[object].count; n++, key = j->nodes[key + 1].next) {
        dpo__json_cursor k = dpo__json_cursor_of(j, key);
        uint64_t h = 0;
        int x, length = 0;
        while (mask && (x = dpo__json_byte(&k)) >= 0) h = (h ^ (uint64_t)x) * 0x9fb21c651e98df25u + (h >> 32);
        h = dpo__mix(h) & mask;
        for (other = heads[h]; other; other = j->nodes[other].count) {
            *why = "a key occurs twice in its object";
            if (dpo__json_same(j, key, other)) return key;
            *why = "many keys of an object have the same hash";
            if (++length == DPO__JSON_CHAIN) return key;
        }
        j->nodes[key].count = heads[h];
        heads[h] = key;
    }
    return 0;
}
static dpo_result dpo__json_check_keys(dpo__json_scan *s) {
    dpo__json *j = s->j;
    uint32_t i, most = 0, mask, bad = 0, one, *heads = &one;
    for (i = 0; i < j->count; i++)
        if (s->text[j->nodes[i].begin] == '{' && j->nodes[i].count > most) most = j->nodes[i].count;
    if (most > DPO__JSON_CHAIN) heads = (uint32_t *)dpo__get(s->c, (size_t)most * 2 * sizeof *heads, "keys of JSON");
    if (!heads) return DPO_E_MEMORY;
    for (i = 0; i < j->count && !bad; i++) {
        if (s->text[j->nodes[i].begin] != '{') continue;
        for (mask = 0; j->nodes[i].count > DPO__JSON_CHAIN && mask < j->nodes[i].count;) mask = 2 * mask + 1;
        memset(heads, 0, ((size_t)mask + 1) * sizeof *heads);
        bad = dpo__json_twice(j, i, heads, mask, &s->why);
    }
    if (heads != &one) dpo__put(s->c, heads);
    if (!bad) return DPO_OK;
    s->at = j->nodes[bad].begin;
    return DPO_E_FORMAT;
}

/* --- what the other sections and the user call --- */

/* Quiet, for rows of data: DPO_E_FORMAT comes with a constant reason and the byte, and leaves the
   context's error alone (DPO_E_MEMORY sets it). The next call uses the nodes' memory again. */
static dpo_result dpo__json_try(dpo_context *c, const char *text, size_t size, dpo__json *j, const char **why,
                                size_t *at) {
    dpo__json_scan s;
    dpo_result r;
    *why = "";
    *at = 0;
    j->text = text;
    j->count = 0;
    if (size > (size_t)INT32_MAX) {
        *why = "the text is longer than 2 GB";
        return DPO_E_FORMAT;
    }
    memset(&s, 0, sizeof s);
    s.c = c;
    s.j = j;
    s.text = text;
    s.size = size;
    r = dpo__json_scan_all(&s) ? dpo__json_check_keys(&s) : s.why ? DPO_E_FORMAT : DPO_E_MEMORY;
    if (!r) return DPO_OK;
    j->count = 0;
    if (s.why) *why = s.why;
    *at = s.at;
    return r;
}

static void dpo__json_free(dpo_context *c, dpo__json *j) {
    dpo__put(c, j->nodes);
    memset(j, 0, sizeof *j);
}

/* "expected ':', got 'x'": the reason, with what stands there where that helps. */
static void dpo__json_reason(char *out, size_t cap, const char *text, size_t size, const char *why, size_t at) {
    size_t n = dpo__append(out, cap, 0, "%s", why);
    int x = at < size ? (unsigned char)text[at] : -1;
    if (strncmp(why, "expected", 8) != 0) return;
    if (x < 0) dpo__append(out, cap, n, ", got the end");
    else if (x > 0x20 && x < 0x7f) dpo__append(out, cap, n, ", got '%c'", x);
    else dpo__append(out, cap, n, ", got byte 0x%02x", (unsigned)x);
}

/* A whole file's text; `name` stands for it in the error. To be freed after DPO_OK. */
static dpo_result dpo__json_parse(dpo_context *c, const char *name, const char *text, size_t size, dpo__json *out) {
    const char *why;
    char reason[128];
    size_t at, i;
    long long line = 1;
    dpo_result r;
    memset(out, 0, sizeof *out);
    r = dpo__json_try(c, text, size, out, &why, &at);
    if (!r) return DPO_OK;
    dpo__json_free(c, out);
    if (r != DPO_E_FORMAT) return r;
    for (i = 0; i < at && i < size; i++) line += text[i] == '\n';
    dpo__json_reason(reason, sizeof reason, text, size, why, at);
    return dpo__fail(c, DPO_E_FORMAT, "%.400s: byte %lld (line %lld): %s; correct the file, or copy it again", name,
                     (long long)at, line, reason);
}

DPO_API dpo_json *dpo_json_create(dpo_context *c) {
    dpo_json *j;
    if (!c || c->error.code) return NULL;
    j = (dpo_json *)dpo__get(c, sizeof *j, "a JSON reader");
    if (!j) return NULL;
    memset(j, 0, sizeof *j);
    j->c = c;
    return j;
}
DPO_API void dpo_json_free(dpo_json *j) {
    if (!j) return;
    dpo__put(j->c, j->nodes);
    dpo__put(j->c, j);
}
DPO_API dpo_result dpo_json_parse(dpo_json *j, const char *text, size_t bytes, const char **why, size_t *at) {
    const char *reason;
    size_t place;
    if (!j || (!text && bytes)) return DPO_E_ARG;
    return dpo__json_try(j->c, text, bytes, j, why ? why : &reason, at ? at : &place);
}

DPO_API int dpo_json_type(const dpo_json *j, int64_t node) {
    char x;
    if (!j || node < 0 || (size_t)node >= j->count) return 0;
    x = j->text[j->nodes[node].begin];
    return x == '-' || (x >= '0' && x <= '9') ? '0' : x;
}
DPO_API int64_t dpo_json_count(const dpo_json *j, int64_t node) {
    int type = dpo_json_type(j, node);
    return type == '{' || type == '[' ? (int64_t)j->nodes[node].count : 0;
}
DPO_API int64_t dpo_json_first(const dpo_json *j, int64_t node) { return dpo_json_count(j, node) ? node + 1 : -1; }
DPO_API int64_t dpo_json_next(const dpo_json *j, int64_t node) {
    return dpo_json_type(j, node) ? (int64_t)j->nodes[node].next : -1;
}
DPO_API size_t dpo_json_at(const dpo_json *j, int64_t node) {
    return dpo_json_type(j, node) ? (size_t)j->nodes[node].begin : 0;
}

static int dpo__json_is(const dpo__json *j, int64_t node, const char *text) {
    dpo__json_cursor k;
    if (dpo_json_type(j, node) != '"') return 0;
    k = dpo__json_cursor_of(j, node);
    while (*text) {
        if (dpo__json_byte(&k) != (unsigned char)*text) return 0;
        text++;
    }
    return dpo__json_byte(&k) < 0;
}
DPO_API int64_t dpo_json_find(const dpo_json *j, int64_t object, const char *key) {
    int64_t i, k = dpo_json_first(j, object);
    if (dpo_json_type(j, object) != '{' || !key) return -1;
    for (i = dpo_json_count(j, object); i > 0; i--, k = dpo_json_next(j, k + 1))
        if (dpo__json_is(j, k, key)) return k + 1;
    return -1;
}

/* Lone surrogates become U+FFFD; a \u0000 is a zero byte. */
DPO_API int64_t dpo_json_string(const dpo_json *j, int64_t node, char *out, size_t cap) {
    dpo__json_cursor k;
    size_t n = 0;
    int x;
    if (dpo_json_type(j, node) != '"' || (!out && cap)) return -1;
    k = dpo__json_cursor_of(j, node);
    if (!memchr(k.p, '\\', (size_t)(k.end - k.p))) {
        n = (size_t)(k.end - k.p);
        if (cap) memcpy(out, k.p, n < cap ? n : cap - 1);
    } else {
        while ((x = dpo__json_byte(&k)) >= 0) {
            if (n + 1 < cap) out[n] = (char)x;
            n++;
        }
    }
    if (cap) out[n < cap ? n : cap - 1] = 0;
    return (int64_t)n;
}

static int dpo__json_bool(const dpo__json *j, int64_t node, int *out) {
    int type = dpo_json_type(j, node);
    *out = type == 't';
    return type == 't' || type == 'f';
}
static int dpo__json_null(const dpo__json *j, int64_t node) { return dpo_json_type(j, node) == 'n'; }
static int dpo__json_empty(const dpo__json *j, int64_t node) { /* [] or {} */
    int type = dpo_json_type(j, node);
    return (type == '[' || type == '{') && !j->nodes[node].count;
}

/* Whole numbers written as such: neither fraction nor exponent, and inside 64 bits. */
static int dpo__json_int64(const dpo__json *j, int64_t node, int64_t *out) {
    uint64_t x = 0, limit = INT64_MAX;
    const char *p, *end;
    *out = 0;
    if (dpo_json_type(j, node) != '0') return 0;
    p = j->text + j->nodes[node].begin;
    end = j->text + j->nodes[node].end;
    if (*p == '-') {
        limit++;
        p++;
    }
    for (; p < end; p++) {
        uint64_t digit = (uint64_t)(unsigned char)*p - '0';
        if (digit > 9 || x > (limit - digit) / 10) return 0;
        x = x * 10 + digit;
    }
    if (limit == INT64_MAX) *out = (int64_t)x;
    else *out = x == limit ? INT64_MIN : -(int64_t)x;
    return 1;
}

/* A natural number of up to 32 * DPO__JSON_WORDS bits, least word first. */
#define DPO__JSON_WORDS 60
typedef struct dpo__json_big {
    uint32_t word[DPO__JSON_WORDS];
    int n; /* words in use: the last one is not 0 */
} dpo__json_big;

static void dpo__json_big_multiply_add(dpo__json_big *x, uint32_t factor, uint32_t add) {
    uint64_t carry = add;
    int i;
    for (i = 0; i < x->n; i++) {
        carry += (uint64_t)x->word[i] * factor;
        x->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) x->word[x->n++] = (uint32_t)carry;
}
static uint32_t dpo__json_big_divide(dpo__json_big *x, uint32_t by) {
    uint64_t rest = 0;
    int i;
    for (i = x->n - 1; i >= 0; i--) {
        rest = rest << 32 | x->word[i];
        x->word[i] = (uint32_t)(rest / by);
        rest %= by;
    }
    while (x->n && !x->word[x->n - 1]) x->n--;
    return (uint32_t)rest;
}
DPO__INLINE uint64_t dpo__json_big_bit(const dpo__json_big *x, int i) {
    return i < 0 ? 0 : x->word[i / 32] >> (i % 32) & 1;
}

/* The double nearest to x * 2^-scale (and a bit more, if `more`), ties to even; as its bits. */
static uint64_t dpo__json_round(const dpo__json_big *x, int scale, int more) {
    uint64_t m = 0;
    int i, e, keep, drop, top = 32 * x->n - 1;
    while (!dpo__json_big_bit(x, top)) top--;
    e = top - scale;                           /* the value lies in [2^e, 2^(e+1)) */
    keep = e >= -1022 ? 53 : 53 - (-1022 - e); /* subnormal numbers have fewer bits */
    if (keep < 0) return 0;
    if (e > 1023) return (uint64_t)0x7ff << 52;
    drop = top + 1 - keep;
    for (i = top; i >= drop; i--) m = m << 1 | dpo__json_big_bit(x, i);
    for (i = 0; i < drop - 1 && !more; i++) more = (int)dpo__json_big_bit(x, i);
    if (dpo__json_big_bit(x, drop - 1) && (more || (m & 1))) m++;
    return e >= -1022 ? ((uint64_t)(e + 1022) << 52) + m : m; /* m's bit 52 raises the exponent */
}

/* The nearest double, whatever the number: no floating-point arithmetic, no locale, the same everywhere. */
DPO_API int dpo_json_number(const dpo_json *j, int64_t node, double *out) {
    dpo__json_big x;
    const char *p, *end;
    int64_t e10 = 0, written = 0;
    int digits = 0, point = 0, minus, less, shift, more = 0;
    uint64_t bits;
    if (out) *out = 0;
    if (!out || dpo_json_type(j, node) != '0') return 0;
    p = j->text + j->nodes[node].begin;
    end = j->text + j->nodes[node].end;
    memset(&x, 0, sizeof x);
    minus = *p == '-';
    for (p += minus; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            point = 1;
            continue;
        }
        dpo__json_big_multiply_add(&x, 10, (uint32_t)(*p - '0'));
        digits += x.n > 0;
        e10 -= point;
    }
    if (p < end) {
        less = *++p == '-';
        for (p += less || *p == '+'; p < end; p++)
            if (written < 100000) written = written * 10 + (*p - '0');
        e10 += less ? -written : written;
    }
    bits = (uint64_t)minus << 63;
    if (x.n && digits + e10 > 310) return 0;
    if (x.n && digits + e10 > -330) {
        /* in words: so many that the quotient has over 64 bits */
        shift = e10 < 0 ? (int)(-e10 * 107 / 1024) + 3 : 0;
        memmove(x.word + shift, x.word, (size_t)x.n * sizeof x.word[0]);
        memset(x.word, 0, (size_t)shift * sizeof x.word[0]);
        x.n += shift;
        for (; e10 > 0; e10--) dpo__json_big_multiply_add(&x, 10, 0);
        for (; e10 < 0; e10++) more |= dpo__json_big_divide(&x, 10) != 0;
        bits |= dpo__json_round(&x, 32 * shift, more);
    }
    if ((bits >> 52 & 0x7ff) == 0x7ff) return 0;
    memcpy(out, &bits, sizeof bits);
    return 1;
}

/* Appends text as a JSON string with its quotes; like dpo__append it returns the length needed. */
static size_t dpo__json_quote(char *out, size_t cap, size_t at, const char *text) {
    at = dpo__append(out, cap, at, "\"");
    for (; *text; text++) {
        unsigned char x = (unsigned char)*text;
        if (x < 0x20) at = dpo__append(out, cap, at, "\\u%04x", (unsigned)x);
        else if (x == '"' || x == '\\') at = dpo__append(out, cap, at, "\\%c", x);
        else if (++at < cap) out[at - 1] = (char)x;
    }
    if (cap) out[at < cap ? at : cap - 1] = 0;
    return dpo__append(out, cap, at, "\"");
}

/* ===========================================================================================
   >>FILES - access through the dpo_io hooks, an atomic writer, safetensors
   =========================================================================================== */

/* What constructors begin with: a context without an error, and what they need. */
static int dpo__given(dpo_context *c, const char *who, const void *what) {
    if (c && !c->error.code && !what) dpo__fail(c, DPO_E_ARG, "%s: what it is given must not be NULL", who);
    return c && !c->error.code;
}

static dpo_result dpo__file_fail(dpo_context *c, const char *verb, const char *path, int e, const char *remedy) {
    return dpo__fail(c, DPO_E_IO, "cannot %s %.400s: %s; %s", verb, path, strerror(e), remedy);
}

/* Hooks that only make things last (sync, sync_dir, make_dir) may be missing. */
static dpo_result dpo__file_can(dpo_context *c, const char *path, int writing) {
    const dpo_io *io = &c->io;
    if (io->open && io->close && (writing ? io->write && io->rename && io->remove : io->size && io->read))
        return DPO_OK;
    return dpo__fail(c, DPO_E_UNSUPPORTED,
                     "cannot %s %.400s: no file access in this build; give dpo_open an io with open, size, read, "
                     "write, close, rename and remove",
                     writing ? "write" : "read", path);
}

/* directory/name into a buffer. */
static dpo_result dpo__file_join(dpo_context *c, const char *dir, const char *name, char *out, size_t cap) {
    size_t n = strlen(dir);
    n = dpo__append(out, cap, 0, "%s%s%s", dir, n && dir[n - 1] != '/' ? "/" : "", name);
    if (n < cap) return DPO_OK;
    if (cap) out[0] = 0;
    return dpo__fail(c, DPO_E_ARG,
                     "the path %.200s.../%.200s has %lld characters, at most %lld are allowed; use a shorter one", dir,
                     name, (long long)n, (long long)(cap ? cap - 1 : 0));
}

/* Whether it can be opened for reading. Sets no error. */
static int dpo__file_exists(dpo_context *c, const char *path) {
    void *handle;
    if (!c->io.open || !c->io.close || c->io.open(c->io.user, path, 'r', &handle)) return 0;
    (void)c->io.close(c->io.user, handle);
    return 1;
}

static dpo_result dpo__file_make_dir(dpo_context *c, const char *path) {
    int e = c->io.make_dir ? c->io.make_dir(c->io.user, path) : 0;
    if (!e) return DPO_OK;
    return dpo__file_fail(c, "make the directory", path, e, "check that what holds it exists and may be written to");
}

/* A file being read. */
typedef struct dpo__file {
    dpo_context *c;
    const char *path; /* somebody else's */
    void *handle;
    uint64_t bytes; /* when it was opened: a read beyond what is there now fails */
    int open;
} dpo__file;

static void dpo__file_close(dpo__file *f) {
    if (f->open) (void)f->c->io.close(f->c->io.user, f->handle); /* nothing was written */
    f->open = 0;
}

static dpo_result dpo__file_open(dpo_context *c, const char *path, dpo__file *f) {
    int e;
    memset(f, 0, sizeof *f);
    f->c = c;
    f->path = path;
    if (dpo__file_can(c, path, 0)) return DPO_E_UNSUPPORTED;
    e = c->io.open(c->io.user, path, 'r', &f->handle);
    if (e) return dpo__file_fail(c, "open", path, e, "check the path and its permissions");
    f->open = 1;
    e = c->io.size(c->io.user, f->handle, &f->bytes);
    if (!e) return DPO_OK;
    dpo__file_close(f);
    return dpo__file_fail(c, "get the size of", path, e, "it must be an ordinary file");
}

static dpo_result dpo__file_read(const dpo__file *f, uint64_t offset, void *to, size_t bytes) {
    const dpo_io *io = &f->c->io;
    uint64_t now = 0;
    int e = bytes ? io->read(io->user, f->handle, offset, to, bytes) : 0;
    if (!e) return DPO_OK;
    if (!io->size(io->user, f->handle, &now) && now < f->bytes)
        return dpo__fail(f->c, DPO_E_IO,
                         "cannot read %.400s: it had %lld bytes when it was opened and has %lld now; do not change it "
                         "while it is read",
                         f->path, (long long)f->bytes, (long long)now);
    return dpo__file_fail(f->c, "read", f->path, e, "check the disk or the connection, or copy the file again");
}

/* All of a file, to be looked at in place for as long as `owner` lives; *at NULL: it has to be read. */
static dpo_result dpo__file_map(const dpo__file *f, const void *owner, const uint8_t **at) {
    const dpo_io *io = &f->c->io;
    dpo__mapping *m;
    *at = NULL;
    if (!io->map || !io->unmap) return DPO_OK;
    m = (dpo__mapping *)dpo__get(f->c, sizeof *m, "a mapped file");
    if (!m) return DPO_E_MEMORY;
    m->owner = owner;
    m->bytes = f->bytes;
    m->next = f->c->mappings;
    if (io->map(io->user, f->handle, m->bytes, &m->at)) {
        dpo__put(f->c, m);
        return DPO_OK;
    }
    f->c->mappings = m;
    *at = (const uint8_t *)m->at;
    return DPO_OK;
}

/* All of a file of at most `limit` bytes, with a zero byte after it; freed by dpo__put. */
static dpo_result dpo__file_read_all(dpo_context *c, const char *path, uint64_t limit, char **data, size_t *bytes) {
    dpo__file f;
    dpo_result r;
    char *p;
    *data = NULL;
    *bytes = 0;
    r = dpo__file_open(c, path, &f);
    if (r) return r;
    if (f.bytes > limit || f.bytes >= SIZE_MAX) {
        dpo__file_close(&f);
        return dpo__fail(c, DPO_E_FORMAT,
                         "%.400s has %lld bytes, at most %lld are allowed; check that it is the right file", path,
                         (long long)f.bytes, (long long)limit);
    }
    p = (char *)dpo__get(c, (size_t)f.bytes + 1, "a file");
    r = p ? dpo__file_read(&f, 0, p, (size_t)f.bytes) : DPO_E_MEMORY;
    dpo__file_close(&f);
    if (r) {
        dpo__put(c, p);
        return r;
    }
    p[f.bytes] = 0;
    *data = p;
    *bytes = (size_t)f.bytes;
    return DPO_OK;
}

/* A JSON file of at most `limit` bytes; *text is freed by dpo__put, after *j. */
static dpo_result dpo__file_read_json(dpo_context *c, const char *path, uint64_t limit, char **text, dpo__json *j) {
    size_t bytes;
    dpo_result r = dpo__file_read_all(c, path, limit, text, &bytes);
    if (!r) r = dpo__json_parse(c, path, *text, bytes, j);
    if (r) dpo__put(c, *text);
    return r;
}

/* Writes beside the file, then replaces it: at every moment its name stands for the old or the new
   content, whole. Errors stick: create, write, ..., commit needs no checks in between. */
typedef struct dpo__file_writer {
    dpo_context *c;
    const char *path; /* the caller's, until the commit */
    char *temp;       /* the name of the file beside it */
    void *handle;
    int open;
    dpo_result result;
} dpo__file_writer;

static dpo_result dpo__file_create(dpo_context *c, const char *path, dpo__file_writer *w) {
    size_t n = strlen(path) + 8;
    int e;
    memset(w, 0, sizeof *w);
    w->c = c;
    w->path = path;
    w->result = dpo__file_can(c, path, 1);
    if (w->result) return w->result;
    w->temp = (char *)dpo__get(c, n, "the name of a file");
    if (!w->temp) return w->result = DPO_E_MEMORY;
    dpo__append(w->temp, n, 0, "%s.tmp", path); /* the same directory: rename is atomic there */
    e = c->io.open(c->io.user, w->temp, 'w', &w->handle);
    w->open = !e;
    if (e) w->result = dpo__file_fail(c, "create", w->temp, e, "check that the directory exists and may be written to");
    return w->result;
}

/* After a call that writes, syncs or closes: e is what it gave. */
static void dpo__file_written(dpo__file_writer *w, int e) {
    if (e && !w->result)
        w->result = dpo__file_fail(w->c, "write", w->temp, e,
                                   "check the free space and the disk (what the file held before is untouched)");
}

static dpo_result dpo__file_write(dpo__file_writer *w, const void *data, size_t bytes) {
    if (!w->result && bytes) dpo__file_written(w, w->c->io.write(w->c->io.user, w->handle, data, bytes));
    return w->result;
}

/* The directory of a path, in place. */
static void dpo__file_cut_name(char *path) {
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path] = 0;
    else memcpy(path, ".", 2); /* it had at least ".tmp" */
}

static dpo_result dpo__file_commit(dpo__file_writer *w) {
    const dpo_io *io = &w->c->io;
    int e, created = w->open;
    if (!w->result && io->sync) dpo__file_written(w, io->sync(io->user, w->handle));
    if (w->open) dpo__file_written(w, io->close(io->user, w->handle));
    w->open = 0;
    if (!w->result && (e = io->rename(io->user, w->temp, w->path)) != 0)
        w->result =
            dpo__file_fail(w->c, "replace", w->path, e, "check that it is an ordinary file that may be replaced");
    if (w->result) {
        if (created) (void)io->remove(io->user, w->temp);
    } else if (io->sync_dir) { /* the file is there and whole: not a reason to say it is not */
        dpo__file_cut_name(w->temp);
        e = io->sync_dir(io->user, w->temp);
        if (e)
            dpo__log(w->c, DPO_LOG_WARNING,
                     "%.400s is written, but its directory could not be synced (%s): if the power fails now, the old "
                     "file may come back",
                     w->path, strerror(e));
    }
    dpo__put(w->c, w->temp);
    w->temp = NULL;
    return w->result;
}

/* A file of so many bytes. */
static dpo_result dpo__file_save(dpo_context *c, const char *path, const void *data, size_t bytes) {
    dpo__file_writer w;
    (void)dpo__file_create(c, path, &w);
    (void)dpo__file_write(&w, data, bytes);
    return dpo__file_commit(&w);
}

/* ---- safetensors: u64 size of the header, the header (JSON), the tensors' bytes, no gaps ---- */

#define DPO__ST_HEADER  ((uint64_t)16 << 20)
#define DPO__ST_TENSORS 100000
#define DPO__ST_RANK    DPO_MAX_DIMS
#define DPO__ST_PIECE   65536 /* bytes: read, converted or hashed at a time */

/* The public types go on with these; what stands from F8_E4M3 on is known by size only. */
enum { DPO__ST_READABLE = DPO_BOOL + 1 };

typedef struct dpo__st_dtype {
    const char *name;
    unsigned bits;
} dpo__st_dtype;

static const dpo__st_dtype dpo__st_dtypes[] = {
    {"?", 0},           {"F32", 32}, {"BF16", 16},   {"F16", 16},    {"I32", 32},    {"F64", 64},
    {"I64", 64},        {"I16", 16}, {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},
    {"U8", 8},          {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"C64", 64}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
#define DPO__ST_DTYPES ((int)(sizeof dpo__st_dtypes / sizeof dpo__st_dtypes[0]))

/* Of those that can be read. */
static size_t dpo__st_size(int dtype) { return dpo__st_dtypes[dtype].bits / 8; }
static int dpo__st_is_float(int dtype) { return (dtype > 0 && dtype <= DPO_F16) || dtype == DPO_F64; }

typedef struct dpo__st_entry {
    const char *name;
    int dtype, ndim;
    int64_t shape[DPO__ST_RANK]; /* unused ones are 1 */
    int64_t elements;
    uint64_t begin, end; /* from the first tensor's first byte */
} dpo__st_entry;

struct dpo_tensors_file {
    dpo__file file;
    uint64_t data; /* where in the file the tensors' bytes begin */
    int64_t count;
    dpo__st_entry *entries; /* in the header's order */
    dpo__st_entry **sorted; /* by name */
    const char **metadata;  /* key, value, ..., NULL */
    char *text;             /* names and metadata */
    char *path;
    void *block;
    dpo_result fault; /* of a bad header: the file's, or the caller's who wants to write it */
};
typedef struct dpo_tensors_file dpo__st;

/* Bytes of a tensor; 0 if that is beyond 63 bits or no whole number. The only place where sizes
   from files are multiplied. */
static int dpo__st_product(const int64_t *shape, int ndim, unsigned bits, uint64_t *elements, uint64_t *bytes) {
    uint64_t n = 1, all;
    int i;
    *elements = *bytes = 0;
    for (i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(n, (uint64_t)shape[i], &n)) return 0;
    if (__builtin_mul_overflow(n, (uint64_t)bits, &all) || all % 8 || n > INT64_MAX) return 0;
    *elements = n;
    *bytes = all / 8;
    return 1;
}

DPO__FORMAT(2, 3)
static dpo_result dpo__st_refuse(const dpo__st *st, const char *format, ...) {
    char what[400];
    va_list args;
    va_start(args, format);
    if (vsnprintf(what, sizeof what, format, args) < 0) what[0] = 0;
    va_end(args);
    return dpo__fail(st->file.c, st->fault, "%.400s: %s; %s", st->file.path, what,
                     st->fault == DPO_E_ARG ? "nothing was written: correct what is to be saved"
                                            : "the file is damaged or no safetensors file: copy or download it again");
}

static void dpo__st_layout(dpo__arena *a, dpo__st *st, int64_t pairs, size_t text, size_t path) {
    st->entries = DPO__CARVE(a, dpo__st_entry, st->count);
    st->sorted = DPO__CARVE(a, dpo__st_entry *, st->count);
    st->metadata = DPO__CARVE(a, const char *, 2 * pairs + 1);
    st->text = DPO__CARVE(a, char, (int64_t)text);
    st->path = DPO__CARVE(a, char, (int64_t)path + 1);
}

/* A string of the header into st->text at *used: not longer there, with its zero. */
static char *dpo__st_text(dpo__st *st, const dpo__json *j, int64_t node, size_t *used) {
    char *to = st->text + *used;
    *used += (size_t)dpo_json_string(j, node, to, j->nodes[node].end - j->nodes[node].begin) + 1;
    return to;
}

static dpo_result dpo__st_read_metadata(dpo__st *st, const dpo__json *j, int64_t meta, size_t *used) {
    int64_t i, k = meta < 0 ? -1 : dpo_json_first(j, meta), pairs = dpo_json_count(j, meta);
    int part;
    for (i = 0; i < pairs; i++, k = dpo_json_next(j, k + 1)) {
        for (part = 0; part < 2; part++) {
            size_t from = *used;
            if (dpo_json_type(j, k + part) != '"')
                return dpo__st_refuse(st, "header byte %u: a value of __metadata__ is not a string",
                                      (unsigned)j->nodes[k + part].begin + 8);
            st->metadata[2 * i + part] = dpo__st_text(st, j, k + part, used);
            if (strlen(st->text + from) + 1 != *used - from)
                return dpo__st_refuse(st, "header byte %u: metadata with a zero character",
                                      (unsigned)j->nodes[k + part].begin + 8);
        }
    }
    st->metadata[2 * pairs] = NULL;
    return DPO_OK;
}

/* Whole numbers from 0 on, as many as `most` (or fewer); the count, or -1. */
static int dpo__st_numbers(const dpo__json *j, int64_t array, int64_t *out, int64_t most) {
    int64_t i, n = dpo_json_count(j, array), v = dpo_json_first(j, array);
    if (dpo_json_type(j, array) != '[' || n > most) return -1;
    for (i = 0; i < n; i++, v = dpo_json_next(j, v))
        if (!dpo__json_int64(j, v, &out[i]) || j->text[j->nodes[v].begin] == '-') return -1;
    return (int)n;
}

static dpo_result dpo__st_read_entry(dpo__st *st, const dpo__json *j, int64_t key, dpo__st_entry *e, size_t *used) {
    int64_t object = key + 1, range[2], dtype = dpo_json_find(j, object, "dtype");
    size_t from = *used, i;
    uint64_t elements, bytes;
    char kind[24] = "";
    e->name = dpo__st_text(st, j, key, used);
    for (i = from; i + 1 < *used; i++) /* would make a mess of messages and logs */
        if ((unsigned char)st->text[i] < 0x20 || st->text[i] == 0x7f)
            return dpo__st_refuse(st, "header byte %u: a tensor's name has a control character",
                                  (unsigned)j->nodes[key].begin + 8);
    for (e->dtype = DPO__ST_DTYPES - 1; e->dtype > 0; e->dtype--)
        if (dpo__json_is(j, dtype, dpo__st_dtypes[e->dtype].name)) break;
    if (!e->dtype) {
        (void)dpo_json_string(j, dtype, kind, sizeof kind);
        for (i = 0; kind[i]; i++) /* only what surely prints well */
            if (kind[i] <= 0x20 || kind[i] >= 0x7f) kind[i] = '?';
        return kind[0] ? dpo__st_refuse(st, "tensor %.200s has the unknown dtype \"%s\"", e->name, kind)
                       : dpo__st_refuse(st, "tensor %.200s has no dtype", e->name);
    }
    for (i = 0; i < DPO__ST_RANK; i++) e->shape[i] = 1;
    e->ndim = dpo__st_numbers(j, dpo_json_find(j, object, "shape"), e->shape, DPO__ST_RANK);
    if (e->ndim < 0)
        return dpo__st_refuse(st, "tensor %.200s: expected a shape of at most %d whole numbers", e->name, DPO__ST_RANK);
    if (dpo__st_numbers(j, dpo_json_find(j, object, "data_offsets"), range, 2) != 2)
        return dpo__st_refuse(st, "tensor %.200s: expected two whole numbers as data_offsets", e->name);
    if (!dpo__st_product(e->shape, e->ndim, dpo__st_dtypes[e->dtype].bits, &elements, &bytes))
        return dpo__st_refuse(st, "tensor %.200s: its shape's product is too large or not a whole number of bytes",
                              e->name);
    e->elements = (int64_t)elements;
    e->begin = (uint64_t)range[0];
    e->end = (uint64_t)range[1];
    if (e->end < e->begin || e->end - e->begin != bytes)
        return dpo__st_refuse(
            st, "tensor %.200s: its shape and dtype %s take %lld bytes, its data_offsets are %lld to %lld", e->name,
            dpo__st_dtypes[e->dtype].name, (long long)bytes, (long long)e->begin, (long long)e->end);
    return DPO_OK;
}

static int dpo__st_by_place(const dpo__st_entry *a, const dpo__st_entry *b) {
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}
static int dpo__st_by_name(const dpo__st_entry *a, const dpo__st_entry *b) { return strcmp(a->name, b->name); }

/* Heap sort: no memory, no bad case. */
static void dpo__st_sort(dpo__st_entry **p, int64_t n, int (*order)(const dpo__st_entry *, const dpo__st_entry *)) {
    int64_t start = n / 2, end = n, at, child;
    while (end > 1) {
        dpo__st_entry *x;
        if (start > 0) {
            x = p[--start];
        } else {
            x = p[--end];
            p[end] = p[0];
        }
        for (at = start; (child = 2 * at + 1) < end; at = child) {
            if (child + 1 < end && order(p[child], p[child + 1]) < 0) child++;
            if (order(p[child], x) <= 0) break;
            p[at] = p[child];
        }
        p[at] = x;
    }
}

/* The tensors cover the data exactly, each byte once. */
static dpo_result dpo__st_check_places(dpo__st *st, uint64_t data_bytes) {
    uint64_t at = 0;
    int64_t i;
    dpo__st_sort(st->sorted, st->count, dpo__st_by_place);
    for (i = 0; i < st->count; i++) {
        const dpo__st_entry *e = st->sorted[i];
        if (e->begin != at)
            return dpo__st_refuse(
                st, "tensor %.200s begins at byte %lld of the data, %lld was expected (tensors must lie end to end)",
                e->name, (long long)e->begin, (long long)at);
        at = e->end;
    }
    if (at == data_bytes) return DPO_OK;
    return dpo__st_refuse(st, "the tensors take %lld bytes, the file has %lld for them (%s)", (long long)at,
                          (long long)data_bytes, at > data_bytes ? "it is cut short" : "something was added");
}

static dpo_result dpo__st_fill(dpo__st *st, const dpo__json *j, size_t size, uint64_t data_bytes) {
    dpo_context *c = st->file.c;
    dpo__arena a = {NULL, 0};
    int64_t n, i, k, meta = dpo_json_find(j, 0, "__metadata__"), at = 0;
    size_t used = 0, path = strlen(st->file.path);
    dpo_result r;
    if (dpo_json_type(j, 0) != '{') return dpo__st_refuse(st, "the header is not an object");
    if (meta >= 0 && dpo_json_type(j, meta) != '{')
        return dpo__st_refuse(st, "__metadata__ in the header is not an object");
    n = dpo_json_count(j, 0);
    st->count = n - (meta >= 0);
    if (st->count > DPO__ST_TENSORS)
        return dpo__st_refuse(st, "%lld tensors, at most %d are allowed", (long long)st->count, DPO__ST_TENSORS);
    dpo__st_layout(&a, st, dpo_json_count(j, meta), size, path);
    if (!dpo__arena_get(c, &a, "a list of tensors")) return DPO_E_MEMORY;
    dpo__st_layout(&a, st, dpo_json_count(j, meta), size, path);
    st->block = a.base;
    memcpy(st->path, st->file.path, path + 1);
    r = dpo__st_read_metadata(st, j, meta, &used);
    for (i = 0, k = dpo_json_first(j, 0); i < n && !r; i++, k = dpo_json_next(j, k + 1)) {
        if (k + 1 == meta) continue;
        st->sorted[at] = &st->entries[at];
        r = dpo__st_read_entry(st, j, k, &st->entries[at++], &used);
    }
    if (!r) r = dpo__st_check_places(st, data_bytes);
    if (!r) dpo__st_sort(st->sorted, st->count, dpo__st_by_name);
    return r;
}

static dpo_result dpo__st_parse(dpo__st *st, const char *text, size_t size, uint64_t data_bytes) {
    dpo__json j;
    const char *why;
    char reason[128];
    size_t at = dpo__utf8_valid(text, size);
    dpo_result r;
    if (at < size) return dpo__st_refuse(st, "header byte %lld is not UTF-8", (long long)at + 8);
    memset(&j, 0, sizeof j);
    r = dpo__json_try(st->file.c, text, size, &j, &why, &at);
    if (r == DPO_OK) {
        r = dpo__st_fill(st, &j, size, data_bytes);
    } else if (r == DPO_E_FORMAT) {
        dpo__json_reason(reason, sizeof reason, text, size, why, at);
        r = dpo__st_refuse(st, "header byte %lld: %s", (long long)at + 8, reason);
    }
    dpo__json_free(st->file.c, &j);
    return r;
}

static void dpo__st_close(dpo__st *st) {
    if (!st->file.c) return;
    dpo__file_close(&st->file);
    dpo__put(st->file.c, st->block);
    memset(st, 0, sizeof *st);
}

/* Reads and checks the header, keeps the file open. dpo__st_close is due only after DPO_OK, and
   does no harm otherwise. */
static dpo_result dpo__st_open(dpo_context *c, const char *path, dpo__st *st) {
    uint8_t head[8];
    uint64_t size = 0, left = 0;
    char *text = NULL;
    dpo_result r;
    memset(st, 0, sizeof *st);
    st->fault = DPO_E_FORMAT;
    r = dpo__file_open(c, path, &st->file);
    if (r) return r;
    if (st->file.bytes < 8)
        r = dpo__st_refuse(st, "only %lld bytes, a safetensors file has at least 8", (long long)st->file.bytes);
    if (!r) r = dpo__file_read(&st->file, 0, head, 8);
    if (!r) {
        size = dpo__load_le64(head);
        left = st->file.bytes - 8;
        if (size > left || size > DPO__ST_HEADER)
            r = dpo__st_refuse(
                st,
                "bytes 0-7 say that the header has %llu bytes, the file has %llu after them, and at most "
                "%llu are allowed",
                (unsigned long long)size, (unsigned long long)left, (unsigned long long)DPO__ST_HEADER);
    }
    if (!r && !(text = (char *)dpo__get(c, (size_t)size + 1, "the header of a safetensors file"))) r = DPO_E_MEMORY;
    if (!r) r = dpo__file_read(&st->file, 8, text, (size_t)size);
    if (!r) {
        st->data = size + 8;
        r = dpo__st_parse(st, text, (size_t)size, left - size);
    }
    dpo__put(c, text);
    if (r) dpo__st_close(st);
    else st->file.path = st->path; /* the caller's may go */
    return r;
}

static const dpo__st_entry *dpo__st_find(const dpo__st *st, const char *name) {
    int64_t low = 0, high = st->count;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        int order = strcmp(st->sorted[mid]->name, name);
        if (!order) return st->sorted[mid];
        if (order < 0) low = mid + 1;
        else high = mid;
    }
    return NULL;
}

DPO_API const char *dpo_tensors_metadata(const dpo_tensors_file *f, const char *key) {
    int64_t i;
    for (i = 0; f && key && f->metadata[i]; i += 2)
        if (!strcmp(f->metadata[i], key)) return f->metadata[i + 1];
    return NULL;
}

/* A tensor as it is. */
static dpo_result dpo__st_read_raw(const dpo__st *st, const dpo__st_entry *e, void *to) {
    uint64_t bytes = e->end - e->begin;
    if (e->dtype >= DPO__ST_READABLE)
        return dpo__fail(st->file.c, DPO_E_UNSUPPORTED,
                         "%.400s: tensor %.200s is %s, which this version cannot read; convert it to F32, F16 or BF16",
                         st->path, e->name, dpo__st_dtypes[e->dtype].name);
    if ((uint64_t)(size_t)bytes != bytes)
        return dpo__fail(st->file.c, DPO_E_MEMORY,
                         "%.400s: tensor %.200s is larger than this machine's memory can be; use a 64-bit one",
                         st->path, e->name);
    return dpo__file_read(&st->file, st->data + e->begin, to, (size_t)bytes);
}

/* Element i of F32 or BF16. */
DPO__INLINE float dpo__st_value(const void *x, int dtype, int64_t i) {
    return dtype == DPO_BF16 ? dpo__num_bf16_to(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* Rounds floats to the nearest bf16, into halves (x stays) or, with `to` NULL, in place; returns how many changed. */
static int64_t dpo__st_round(dpo_context *c, uint16_t *to, float *x, int64_t n) {
    int64_t i, count = 0;
    for (i = 0; i < n; i++) count += (dpo__num_bits(x[i]) & 0xffffu) != 0;
    c->kernels.narrow(n, to, to ? NULL : x, x);
    return count;
}

DPO__INLINE int dpo__st_infinite(const void *x, int dtype, int64_t i) {
    switch (dtype) {
    case DPO_F32: return dpo__num_bits(((const float *)x)[i]) << 1 == 0xff000000u;
    case DPO_F64: return ((const uint64_t *)x)[i] << 1 == (uint64_t)0x7ff << 53;
    default: return (((const uint16_t *)x)[i] & 0x7fff) == (dtype == DPO_BF16 ? 0x7f80 : 0x7c00);
    }
}
/* The nearest float, in an environment that flushes: a subnormal one is counted in units of 2^-149. */
static float dpo__st_from_f64(double x) {
    uint64_t bits;
    double size = x < 0 ? -x : x;
    if (size >= 0x1p-126 || x != x) return (float)x;
    memcpy(&bits, &x, sizeof bits);
    return dpo__num_float((uint32_t)(bits >> 63) << 31 | (uint32_t)(int32_t)(size * 0x1p149 + 0x1p52 - 0x1p52));
}

/* Elements of one floating-point type as another, each rounded once to nearest even (F64 to a half: by way of F32). The
   count of finite numbers that became infinite; *rounded goes up by the values that bf16 changed. */
static int64_t dpo__st_convert(dpo_context *c, void *to, int to_dtype, const void *from, int from_dtype, int64_t n,
                               int64_t *rounded) {
    enum { PIECE = 1024 };
    uint64_t raw[PIECE]; /* of any type, aligned */
    float x[PIECE];
    uint16_t half[PIECE];
    size_t in = dpo__st_size(from_dtype), out = dpo__st_size(to_dtype);
    const void *made = to_dtype == DPO_F32 ? (const void *)x : half;
    int64_t at, i, m, over = 0;
    dpo__fpenv env = dpo__fp_enter();
    for (at = 0; at < n; at += m) {
        m = dpo__min64(n - at, PIECE);
        memcpy(raw, (const uint8_t *)from + (size_t)at * in, (size_t)m * in);
        if (from_dtype == DPO_F32) memcpy(x, raw, (size_t)m * sizeof *x);
        if (from_dtype == DPO_BF16) c->kernels.expand(m, x, (const uint16_t *)(void *)raw, 0);
        for (i = 0; from_dtype == DPO_F16 && i < m; i++) x[i] = dpo__num_f16_to(((const uint16_t *)(void *)raw)[i]);
        for (i = 0; from_dtype == DPO_F64 && i < m; i++) x[i] = dpo__st_from_f64(((const double *)(void *)raw)[i]);
        for (i = 0; to_dtype == DPO_F16 && i < m; i++) half[i] = dpo__num_f16_from(x[i]);
        if (to_dtype == DPO_BF16) *rounded += dpo__st_round(c, half, x, m);
        for (i = 0; (out < in || to_dtype == DPO_F16) && i < m; i++) /* a wider type has room for all */
            over += dpo__st_infinite(made, to_dtype, i) && !dpo__st_infinite(raw, from_dtype, i);
        memcpy((uint8_t *)to + (size_t)at * out, made, (size_t)m * out);
    }
    dpo__fp_leave(env);
    return over;
}

/* F32, BF16, F16 or F64 as F32 or BF16; *rounded goes up by the values that bf16 changed. Values are not looked at. */
static dpo_result dpo__st_read_as(const dpo__st *st, const dpo__st_entry *e, int dtype, void *to, int64_t *rounded) {
    dpo_context *c = st->file.c;
    size_t size = dpo__st_size(e->dtype), out = dpo__st_size(dtype);
    int64_t at, n;
    uint8_t *buffer;
    dpo_result r = DPO_OK;
    if (e->dtype == dtype || e->dtype >= DPO__ST_READABLE) return dpo__st_read_raw(st, e, to);
    if (!dpo__st_is_float(e->dtype))
        return dpo__fail(
            c, DPO_E_UNSUPPORTED,
            "%.400s: tensor %.200s is %s where floating-point numbers are needed; convert it to F32, F16 or BF16",
            st->path, e->name, dpo__st_dtypes[e->dtype].name);
    buffer = (uint8_t *)dpo__get(c, DPO__ST_PIECE, "a file buffer");
    if (!buffer) return DPO_E_MEMORY;
    for (at = 0; at < e->elements && !r; at += n) {
        n = dpo__min64(e->elements - at, DPO__ST_PIECE / (int64_t)size);
        r = dpo__file_read(&st->file, st->data + e->begin + (uint64_t)at * size, buffer, (size_t)n * size);
        if (!r) (void)dpo__st_convert(c, (uint8_t *)to + (size_t)at * out, dtype, buffer, e->dtype, n, rounded);
    }
    dpo__put(c, buffer);
    return r;
}
static dpo_result dpo__st_read_f32(const dpo__st *st, const dpo__st_entry *e, float *to) {
    return dpo__st_read_as(st, e, DPO_F32, to, NULL);
}

/* A tensor to be written. */
typedef struct dpo__st_item {
    const char *name;
    const void *data; /* NULL: to be fetched */
    int dtype;        /* in the file */
    int from;         /* of data: the same, or F32 or BF16 for F32, BF16 and F16 files */
    int ndim;
    const int64_t *shape;
} dpo__st_item;

/* Where tensors that are not in memory come from. */
typedef struct dpo__st_source {
    const void *(*fetch)(void *user, int64_t tensor);
    void *user;
} dpo__st_source;

typedef struct dpo__st_job { /* a file being written */
    dpo_context *c;
    const char *path;
    const dpo__st_item *items;
    int64_t n;
    const dpo__st_source *source;
} dpo__st_job;

/* What the reader's rules cannot see. */
static dpo_result dpo__st_check_items(const dpo__st *st, const dpo__st_job *k, const char *const *metadata) {
    uint64_t elements, bytes;
    int64_t i;
    for (i = 0; i < k->n; i++) {
        const dpo__st_item *t = &k->items[i];
        int halves = (t->from == DPO_F32 || t->from == DPO_BF16) && t->dtype <= DPO_F16;
        if (!t->name) return dpo__st_refuse(st, "tensor %lld has no name", (long long)i);
        if (t->dtype <= 0 || t->dtype >= DPO__ST_READABLE || (t->from != t->dtype && !halves))
            return dpo__st_refuse(st, "tensor %.200s: dtype %d cannot be written as dtype %d", t->name, t->from,
                                  t->dtype);
        if (t->ndim < 0 || t->ndim > DPO__ST_RANK)
            return dpo__st_refuse(st, "tensor %.200s has %d dimensions, from 0 to %d are allowed", t->name, t->ndim,
                                  DPO__ST_RANK);
        if (!dpo__st_product(t->shape, t->ndim, dpo__st_dtypes[t->dtype].bits, &elements, &bytes))
            return dpo__st_refuse(st, "tensor %.200s: its shape is negative or too large", t->name);
        if (bytes && !t->data && !k->source) return dpo__st_refuse(st, "tensor %.200s has no data", t->name);
    }
    for (i = 0; metadata && metadata[i]; i += 2)
        if (!metadata[i + 1]) return dpo__st_refuse(st, "metadata %.200s has no value", metadata[i]);
    return DPO_OK;
}

/* The header, spaces after it so that the data, which take *total bytes, begin at a multiple of 8. */
static size_t dpo__st_print_header(char *out, size_t cap, const dpo__st_job *k, const char *const *metadata,
                                   uint64_t *total) {
    size_t at = dpo__append(out, cap, 0, "{\"__metadata__\":{");
    uint64_t elements, bytes;
    int64_t i;
    int d;
    *total = 0;
    for (i = 0; metadata[i]; i += 2) {
        if (i) at = dpo__append(out, cap, at, ",");
        at = dpo__json_quote(out, cap, at, metadata[i]);
        at = dpo__append(out, cap, at, ":");
        at = dpo__json_quote(out, cap, at, metadata[i + 1]);
    }
    at = dpo__append(out, cap, at, "}");
    for (i = 0; i < k->n; i++) {
        const dpo__st_item *t = &k->items[i];
        at = dpo__append(out, cap, at, ",");
        at = dpo__json_quote(out, cap, at, t->name);
        at = dpo__append(out, cap, at, ":{\"dtype\":\"%s\",\"shape\":[", dpo__st_dtypes[t->dtype].name);
        for (d = 0; d < t->ndim; d++) at = dpo__append(out, cap, at, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        (void)dpo__st_product(t->shape, t->ndim, dpo__st_dtypes[t->dtype].bits, &elements, &bytes);
        at = dpo__append(out, cap, at, "],\"data_offsets\":[%lld,%lld]}", (long long)*total,
                         (long long)(*total + bytes));
        *total += bytes;
    }
    at = dpo__append(out, cap, at, "}");
    while (at % 8) at = dpo__append(out, cap, at, " ");
    return at;
}

/* Tensor i's bytes as they stand in the file, into a writer or, without one, a hash. */
static dpo_result dpo__st_put(const dpo__st_job *k, int64_t i, dpo__file_writer *w, dpo__hash *h) {
    uint64_t piece[DPO__ST_PIECE / 16]; /* a whole number of the hash's groups, whatever the type */
    const dpo__st_item *t = &k->items[i];
    size_t size = dpo__st_size(t->dtype), from_size = dpo__st_size(t->from);
    const uint8_t *data = (const uint8_t *)t->data;
    uint64_t elements, bytes;
    int64_t at, n, rounded = 0;
    (void)dpo__st_product(t->shape, t->ndim, (unsigned)size * 8, &elements, &bytes);
    if (bytes && !data) data = (const uint8_t *)k->source->fetch(k->source->user, i);
    if (bytes && !data)
        return dpo__fail(k->c, DPO_E_IO, "%.400s: tensor %.200s could not be had; the file was not written", k->path,
                         t->name);
    for (at = 0; at < (int64_t)elements; at += n) {
        const void *from = data + (size_t)at * from_size;
        n = (int64_t)elements;
        if (t->from != t->dtype) {
            n = dpo__min64(n - at, (int64_t)(sizeof piece / size));
            (void)dpo__st_convert(k->c, piece, t->dtype, from, t->from, n, &rounded);
            from = piece;
        }
        if (!w) dpo__hash_add(h, from, (size_t)n * size);
        else if (dpo__file_write(w, from, (size_t)n * size)) break;
    }
    return w ? w->result : DPO_OK;
}

/* ---- checksums: 16 hexadecimal digits for each tensor, in the header's order, and for the header itself, read with
   zeros where its own stand. Others' readers take them for metadata like any. ---- */

#define DPO__ST_SUMS "dpo_checksums"
#define DPO__ST_SUM  "dpo_header_checksum" /* after the other one: a comma stands before it */

static void dpo__st_digits(char *out, uint64_t x) { /* 16, no final zero */
    int i;
    for (i = 0; i < 16; i++) out[i] = "0123456789abcdef"[x >> (60 - 4 * i) & 15];
}
/* The digits of the header's own sum, NULL if there are none. Within a string the quotes would have backslashes. */
static char *dpo__st_own_sum(char *text) {
    static const char before[] = ",\"" DPO__ST_SUM "\":\"";
    char *at = strstr(text, before);
    return at && strlen(at) > sizeof before + 16 ? at + sizeof before - 1 : NULL;
}
static uint64_t dpo__st_header_sum(const char *text, size_t size) {
    dpo__hash h = dpo__hash_start(0);
    dpo__hash_add(&h, text, size);
    return dpo__hash_end(&h);
}

/* A tensor's sum, from the file. */
static dpo_result dpo__st_sum_of(const dpo__st *st, const dpo__st_entry *e, uint8_t *buffer, uint64_t *sum) {
    dpo__hash h = dpo__hash_start(0);
    uint64_t at, bytes = e->end - e->begin;
    size_t n;
    dpo_result r = DPO_OK;
    for (at = 0; at < bytes && !r; at += n) {
        n = bytes - at < DPO__ST_PIECE ? (size_t)(bytes - at) : DPO__ST_PIECE;
        r = dpo__file_read(&st->file, st->data + e->begin + at, buffer, n);
        if (!r) dpo__hash_add(&h, buffer, n);
    }
    *sum = dpo__hash_end(&h);
    return r;
}
/* Whether header and tensors are what was written, to the last bit. */
static dpo_result dpo__st_verify(const dpo__st *st) {
    dpo_context *c = st->file.c;
    size_t size = (size_t)st->data - 8, room = size < DPO__ST_PIECE ? DPO__ST_PIECE : size + 1;
    const char *sums = dpo_tensors_metadata(st, DPO__ST_SUMS);
    char *text, *own, digits[17] = "";
    int64_t i;
    uint64_t sum;
    dpo_result r;
    if (!sums || strlen(sums) != (size_t)st->count * 16 || !dpo_tensors_metadata(st, DPO__ST_SUM))
        return dpo__fail(
            c, DPO_E_FORMAT,
            "%.400s holds no checksums that could be verified; it was damaged, or another program wrote it", st->path);
    text = (char *)dpo__get(c, room, "a header to verify");
    if (!text) return DPO_E_MEMORY;
    text[size] = 0;
    r = dpo__file_read(&st->file, 8, text, size);
    own = r ? NULL : dpo__st_own_sum(text);
    if (own) {
        memcpy(digits, own, 16);
        memset(own, '0', 16);
        dpo__st_digits(own, dpo__st_header_sum(text, size));
    }
    if (!r && (!own || memcmp(own, digits, 16)))
        r = dpo__st_refuse(st, "its header is not the one that was written (checksum %s expected)", digits);
    for (i = 0; i < st->count && !r; i++) {
        r = dpo__st_sum_of(st, &st->entries[i], (uint8_t *)text, &sum);
        dpo__st_digits(digits, sum);
        if (!r && memcmp(digits, sums + 16 * i, 16))
            r = dpo__st_refuse(st, "tensor %.200s is not what was written (checksum %.16s expected, %s got)",
                               st->entries[i].name, sums + 16 * i, digits);
    }
    dpo__put(c, text);
    return r;
}

/* The caller's metadata and the checksums of all tensors, as one list in one block; NULL after an error. */
static const char **dpo__st_sums(const dpo__st_job *k, const char *const *metadata) {
    int64_t i, n = k->n, pairs = 0, at = 0;
    const char **list;
    char *text;
    while (metadata && metadata[2 * pairs]) pairs++; /* room for all; a read file's own checksums are left out */
    list = (const char **)dpo__get(k->c, (size_t)(2 * pairs + 5) * sizeof *list + (size_t)n * 16 + 1, "checksums");
    if (!list) return NULL;
    text = (char *)(list + 2 * pairs + 5);
    for (i = 0; i < n; i++) {
        dpo__hash h = dpo__hash_start(0);
        if (dpo__st_put(k, i, NULL, &h)) {
            dpo__put(k->c, list);
            return NULL;
        }
        dpo__st_digits(text + 16 * i, dpo__hash_end(&h));
    }
    text[16 * n] = 0;
    for (i = 0; i < pairs; i++) {
        if (!strcmp(metadata[2 * i], DPO__ST_SUMS) || !strcmp(metadata[2 * i], DPO__ST_SUM)) continue;
        list[at++] = metadata[2 * i];
        list[at++] = metadata[2 * i + 1];
    }
    list[at++] = DPO__ST_SUMS;
    list[at++] = text;
    list[at++] = DPO__ST_SUM;
    list[at++] = "0000000000000000";
    list[at] = NULL;
    return list;
}

/* Tensors in the order given, whole or not at all. metadata NULL, or key, value, ..., NULL. The
   header goes through the reader's own rules first: what is written can be read. */
static dpo_result dpo__st_write(dpo_context *c, const char *path, const dpo__st_item *items, int64_t n,
                                const char *const *metadata, const dpo__st_source *source) {
    const dpo__st_job k = {c, path, items, n, source};
    dpo__file_writer w;
    dpo__st st;
    uint64_t total;
    const char **all;
    char *text = NULL;
    size_t size;
    int64_t i;
    dpo_result r;
    memset(&st, 0, sizeof st);
    st.file.c = c;
    st.file.path = path;
    st.fault = DPO_E_ARG;
    if (dpo__st_check_items(&st, &k, metadata)) return c->error.code;
    all = dpo__st_sums(&k, metadata);
    if (!all) return c->error.code;
    size = dpo__st_print_header(NULL, 0, &k, all, &total);
    if (size > DPO__ST_HEADER)
        r = dpo__st_refuse(&st, "names and metadata take %lld bytes, at most %lld are allowed", (long long)size,
                           (long long)DPO__ST_HEADER);
    else {
        text = (char *)dpo__get(c, 8 + size + 1, "the header of a safetensors file");
        r = text ? DPO_OK : DPO_E_MEMORY;
    }
    if (!r) {
        for (i = 0; i < 8; i++) text[i] = (char)((uint64_t)size >> (8 * i));
        dpo__st_print_header(text + 8, size + 1, &k, all, &total);
        dpo__st_digits(dpo__st_own_sum(text + 8), dpo__st_header_sum(text + 8, size));
        r = dpo__st_parse(&st, text + 8, size, total);
        dpo__st_close(&st);
    }
    if (!r) {
        (void)dpo__file_create(c, path, &w);
        (void)dpo__file_write(&w, text, 8 + size);
        for (i = 0; i < n && !w.result; i++) w.result = dpo__st_put(&k, i, &w, NULL);
        r = dpo__file_commit(&w);
    }
    dpo__put(c, text);
    dpo__put(c, all);
    return r;
}

DPO_API dpo_tensor dpo_tensor_f32(float *data, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    dpo_tensor t = {"", data, DPO_F32, 0, {d0, d1, d2, d3, 1, 1, 1, 1}};
    int i;
    while (t.ndim < 4 && t.shape[t.ndim]) t.ndim++;
    for (i = t.ndim; i < DPO_MAX_DIMS; i++) t.shape[i] = 1;
    return t;
}

DPO_API dpo_result dpo_tensors_save_from(dpo_context *c, const char *path, const dpo_tensor *tensors, int64_t count,
                                         const char *const *metadata, const void *(*fetch)(void *user, int64_t tensor),
                                         void *user) {
    dpo__st_source source;
    dpo__st_item *items;
    int64_t i;
    size_t bytes;
    dpo_result r;
    DPO__READY(c, c);
    if (!path || (!tensors && count) || count < 0)
        return dpo__fail(c, DPO_E_ARG, "dpo_tensors_save: path and tensors must not be NULL, nor count negative");
    source.fetch = fetch;
    source.user = user;
    if (dpo__mul_size((size_t)count, sizeof *items, &bytes)) bytes = SIZE_MAX;
    items = (dpo__st_item *)dpo__get(c, bytes, "a list of tensors");
    if (!items) return DPO_E_MEMORY;
    for (i = 0; i < count; i++) {
        const dpo_tensor *t = &tensors[i];
        dpo__st_item item = {t->name, t->data, t->dtype, t->dtype, t->ndim, t->shape};
        items[i] = item;
    }
    r = dpo__st_write(c, path, items, count, metadata, fetch ? &source : NULL);
    dpo__put(c, items);
    return r;
}
DPO_API dpo_result dpo_tensors_save(dpo_context *c, const char *path, const dpo_tensor *tensors, int64_t count,
                                    const char *const *metadata) {
    return dpo_tensors_save_from(c, path, tensors, count, metadata, NULL, NULL);
}

static dpo_tensor dpo__st_view(const dpo__st_entry *e) {
    dpo_tensor t;
    t.name = e->name;
    t.data = NULL;
    t.dtype = e->dtype < DPO__ST_READABLE ? e->dtype : 0;
    t.ndim = e->ndim;
    memcpy(t.shape, e->shape, sizeof t.shape);
    return t;
}

/* The block of dpo_tensors_load: the tensors that can be read, their names and room for their data; how many. Runs
   twice: with a NULL base it measures. */
static int64_t dpo__st_carve_tensors(dpo__arena *a, const dpo__st *st) {
    dpo_tensor *out = DPO__CARVE(a, dpo_tensor, st->count + 1);
    int64_t i, n = 0;
    for (i = 0; i < st->count; i++) {
        dpo_tensor t = dpo__st_view(&st->entries[i]);
        size_t length = strlen(t.name) + 1;
        char *name;
        if (!t.dtype) continue;
        if (t.dtype <= DPO_F16) t.dtype = DPO_F32;
        name = DPO__CARVE(a, char, (int64_t)length);
        t.data = dpo__arena_carve(a, st->entries[i].elements, dpo__st_size(t.dtype));
        if (name) t.name = (const char *)memcpy(name, t.name, length);
        if (out) out[n] = t;
        n++;
    }
    return n;
}

DPO_API dpo_result dpo_tensors_load(dpo_context *c, const char *path, dpo_tensor **out, int64_t *count) {
    dpo__arena a = {NULL, 0};
    dpo_tensor *t;
    dpo__st st;
    int64_t i, n = 0;
    dpo_result r;
    if (out) *out = NULL;
    if (count) *count = 0;
    DPO__READY(c, c);
    if (!path || !out || !count)
        return dpo__fail(c, DPO_E_ARG, "dpo_tensors_load: path, out and count must not be NULL");
    r = dpo__st_open(c, path, &st);
    if (r) return r;
    (void)dpo__st_carve_tensors(&a, &st);
    if (!dpo__arena_get(c, &a, "the tensors of a file")) r = DPO_E_MEMORY;
    t = (dpo_tensor *)(void *)a.base;
    if (t) (void)dpo__st_carve_tensors(&a, &st);
    for (i = 0; i < st.count && !r; i++) {
        const dpo__st_entry *e = &st.entries[i];
        if (e->dtype >= DPO__ST_READABLE) continue;
        r = t[n].dtype == DPO_F32 ? dpo__st_read_f32(&st, e, (float *)t[n].data) : dpo__st_read_raw(&st, e, t[n].data);
        n++;
    }
    dpo__st_close(&st);
    if (r) {
        dpo__put(c, t);
        return r;
    }
    *out = t;
    *count = n;
    return DPO_OK;
}

DPO_API void dpo_tensors_free(dpo_context *c, dpo_tensor *tensors) {
    if (c) dpo__put(c, tensors);
}

DPO_API dpo_tensors_file *dpo_tensors_open(dpo_context *c, const char *path) {
    dpo_tensors_file *f;
    if (!dpo__given(c, "dpo_tensors_open", path)) return NULL;
    f = (dpo_tensors_file *)dpo__get(c, sizeof *f, "a file of tensors");
    if (f && !dpo__st_open(c, path, f)) return f;
    dpo__put(c, f);
    return NULL;
}
DPO_API void dpo_tensors_close(dpo_tensors_file *f) {
    dpo_context *c = f ? f->file.c : NULL;
    if (!f) return;
    dpo__st_close(f);
    dpo__put(c, f);
}
DPO_API int64_t dpo_tensors_list(const dpo_tensors_file *f, dpo_tensor *out, int64_t cap) {
    int64_t i;
    if (!f) return 0;
    for (i = 0; out && i < f->count && i < cap; i++) out[i] = dpo__st_view(&f->entries[i]);
    return f->count;
}
DPO_API dpo_result dpo_tensors_read(const dpo_tensors_file *f, int64_t i, void *to, size_t bytes) {
    const dpo__st_entry *e;
    DPO__READY(f, f->file.c);
    e = i >= 0 && i < f->count ? &f->entries[i] : NULL;
    if (!e || !to || e->end - e->begin > bytes)
        return dpo__fail(f->file.c, DPO_E_ARG, "dpo_tensors_read: tensor %ld of %ld into %lld bytes at %s", (long)i,
                         (long)f->count, (long long)bytes, to ? "a buffer" : "NULL");
    return dpo__st_read_raw(f, e, to);
}
DPO_API dpo_result dpo_tensors_verify(const dpo_tensors_file *f) {
    DPO__READY(f, f->file.c);
    return dpo__st_verify(f);
}
DPO_API int64_t dpo_tensor_convert(dpo_context *c, void *to, int to_dtype, const void *from, int from_dtype,
                                   int64_t n) {
    int64_t rounded = 0;
    DPO__READY(c, c);
    if (to_dtype < DPO_F32 || to_dtype > DPO_F16 || !dpo__st_is_float(from_dtype) || n < 0 || (n && (!to || !from)))
        return dpo__fail(c, DPO_E_ARG, "dpo_tensor_convert: %ld elements of dtype %d as dtype %d", (long)n, from_dtype,
                         to_dtype);
    return dpo__st_convert(c, to, to_dtype, from, from_dtype, n, &rounded);
}
DPO_API const char *dpo_dtype_name(int dtype) {
    return dtype > 0 && dtype < DPO__ST_READABLE ? dpo__st_dtypes[dtype].name : NULL;
}
DPO_API size_t dpo_dtype_size(int dtype) { return dtype > 0 && dtype < DPO__ST_READABLE ? dpo__st_size(dtype) : 0; }

/* ===========================================================================================
   >>BATCH - a forest of segments, checked
   =========================================================================================== */

typedef struct dpo__shape { /* what a batch takes, or a workspace holds */
    int64_t rows, targets, segments, sequences, path;
} dpo__shape;

/* Checks a batch against the model's vocabulary and measures it. cached: segments may have a past. */
static dpo_result dpo__batch_check(dpo_context *c, const dpo_batch *b, int64_t vocab, int cached, dpo__shape *s) {
    int64_t i, at = 0, end, n;
    memset(s, 0, sizeof *s);
    if (b->n_rows < 0 || b->n_rows > INT32_MAX || b->n_segments < 1 || b->n_segments > INT32_MAX || b->n_targets < 0 ||
        b->n_targets > INT32_MAX || b->n_sequences < 0 || b->n_sequences > INT32_MAX || !b->segments ||
        (b->n_rows && !b->tokens) || (b->n_targets && !b->targets))
        return dpo__fail(c, DPO_E_ARG, "batch: counts or pointers are missing or out of range");
    for (i = 0; i < b->n_rows; i++)
        if (b->tokens[i] < 0 || b->tokens[i] >= vocab)
            return dpo__fail(
                c, DPO_E_SHAPE,
                "batch: token %ld is %ld, outside the model's vocabulary of %ld; is this the model's own tokenizer?",
                (long)i, (long)b->tokens[i], (long)vocab);
    for (i = 0; i < b->n_segments; i++) {
        const dpo_segment *g = &b->segments[i];
        int64_t p, depth = 0;
        end = (int64_t)g->past + g->length;
        if (g->parent < -1 || g->parent >= i || g->first != at || g->length < 0 || g->past < 0 || end < 1 ||
            (g->past && !cached))
            return dpo__fail(c, DPO_E_SHAPE,
                             "batch: segment %ld {parent %ld, first %ld, length %ld, past %ld} does not follow: "
                             "parents come earlier, rows lie end to end (here from %ld), a past needs a cache",
                             (long)i, (long)g->parent, (long)g->first, (long)g->length, (long)g->past, (long)at);
        for (p = g->parent; p >= 0; p = b->segments[p].parent) {
            end += (int64_t)b->segments[p].past + b->segments[p].length;
            depth++;
        }
        if (depth >= DPO__MAX_DEPTH)
            return dpo__fail(c, DPO_E_SHAPE, "batch: segment %ld has %ld ancestors; %d are allowed", (long)i,
                             (long)depth, DPO__MAX_DEPTH - 1);
        s->path = dpo__max64(s->path, end);
        at += g->length;
    }
    if (at != b->n_rows)
        return dpo__fail(c, DPO_E_SHAPE, "batch: the segments hold %ld rows, the batch %ld", (long)at, (long)b->n_rows);
    for (i = 0; i < b->n_targets; i++) {
        const dpo_target *t = &b->targets[i];
        n = b->n_sequences;
        if (t->row < 0 || t->row >= b->n_rows || t->token < 0 || t->token >= vocab || t->sequence < 0 ||
            t->sequence >= n)
            return dpo__fail(
                c, DPO_E_SHAPE,
                "batch: target %ld {row %ld, token %ld, sequence %ld} is outside %ld rows, %ld tokens, %ld sequences",
                (long)i, (long)t->row, (long)t->token, (long)t->sequence, (long)b->n_rows, (long)vocab, (long)n);
    }
    s->rows = b->n_rows;
    s->targets = b->n_targets;
    s->segments = b->n_segments;
    s->sequences = b->n_sequences;
    return DPO_OK;
}

/* Position of each row; first segment of each tree (and the end). Trees must stand together. */
static dpo_result dpo__batch_place(dpo_context *c, const dpo_batch *b, int32_t *positions, int32_t *trees,
                                   int64_t *n_trees) {
    int64_t i, r, n = 0;
    for (i = 0; i < b->n_segments; i++) {
        const dpo_segment *g = &b->segments[i];
        int64_t base = g->past;
        int32_t p, root = (int32_t)i;
        for (p = g->parent; p >= 0; p = b->segments[p].parent) {
            base += (int64_t)b->segments[p].past + b->segments[p].length;
            root = p;
        }
        if (g->parent < 0) trees[n++] = (int32_t)i;
        else if (root != trees[n - 1])
            return dpo__fail(
                c, DPO_E_SHAPE,
                "batch: segment %ld stands apart from its tree; descendants of one root must be neighbours", (long)i);
        for (r = 0; r < g->length; r++) positions[g->first + r] = (int32_t)(base + r);
    }
    trees[n] = (int32_t)b->n_segments;
    *n_trees = n;
    return DPO_OK;
}

static void dpo__asked_all(const dpo_batch *b, dpo__asked *asked) {
    int64_t i;
    for (i = 0; i < b->n_segments; i++) {
        asked[i].first = 0;
        asked[i].count = b->segments[i].length;
        asked[i].at = b->segments[i].first;
    }
}
/* Of each segment the rows from its first target to its last: all that a last layer has to give. Returns how many. */
static int64_t dpo__asked_targets(const dpo_batch *b, dpo__asked *asked) {
    int64_t i, n = 0, s;
    for (i = 0; i < b->n_segments; i++) asked[i].first = asked[i].count = 0;
    for (i = s = 0; i < b->n_targets; i++) {
        int64_t row = b->targets[i].row, at;
        while (s > 0 && row < b->segments[s].first) s--; /* targets mostly come in row order */
        while (row >= (int64_t)b->segments[s].first + b->segments[s].length) s++;
        at = row - b->segments[s].first;
        if (!asked[s].count || at < asked[s].first) {
            asked[s].count += asked[s].count ? asked[s].first - at : 1;
            asked[s].first = at;
        }
        asked[s].count = dpo__max64(asked[s].count, at - asked[s].first + 1);
    }
    for (i = 0; i < b->n_segments; n += asked[i++].count) asked[i].at = n;
    return n;
}

/* ===========================================================================================
   >>MODEL - one transformer; the families are configurations of it
   =========================================================================================== */

/* The tensors, in file order. X(id, per layer, present, rows, columns (0: a vector), kind, names in
   GPT-NeoX, GPT-2/BTLM, Llama/Qwen2). k is the configuration. Matrices are [out,in]; with conv1d they
   are stored [in,out]. */
#define DPO__HD  ((int64_t)k->num_attention_heads * k->head_dim)
#define DPO__KD  ((int64_t)k->num_key_value_heads * k->head_dim)
#define DPO__SEP (k->qkv == DPO_QKV_SEPARATE)
#define DPO__LN  (k->norm == DPO_NORM_LAYER)
#define DPO__TENSORS(X)                                                                                                \
    X(EMBED, 0, 1, k->vocab_size, k->hidden_size, EMBEDDING, "gpt_neox.embed_in.weight", "transformer.wte.weight",     \
      "model.embed_tokens.weight")                                                                                     \
    X(POSITION, 0, k->position == DPO_POSITION_LEARNED, k->max_position_embeddings, k->hidden_size, EMBEDDING, "",     \
      "transformer.wpe.weight", "")                                                                                    \
    X(NORM1_W, 1, 1, k->hidden_size, 0, GAIN, "input_layernorm.weight", "ln_1.weight", "input_layernorm.weight")       \
    X(NORM1_B, 1, DPO__LN, k->hidden_size, 0, BIAS, "input_layernorm.bias", "ln_1.bias", "")                           \
    X(QKV_W, 1, !DPO__SEP, 3 * DPO__HD, k->hidden_size, MATRIX, "attention.query_key_value.weight",                    \
      "attn.c_attn.weight", "")                                                                                        \
    X(QKV_B, 1, !DPO__SEP && k->qkv_bias, 3 * DPO__HD, 0, BIAS, "attention.query_key_value.bias", "attn.c_attn.bias",  \
      "")                                                                                                              \
    X(Q_W, 1, DPO__SEP, DPO__HD, k->hidden_size, MATRIX, "", "", "self_attn.q_proj.weight")                            \
    X(Q_B, 1, DPO__SEP && k->qkv_bias, DPO__HD, 0, BIAS, "", "", "self_attn.q_proj.bias")                              \
    X(K_W, 1, DPO__SEP, DPO__KD, k->hidden_size, MATRIX, "", "", "self_attn.k_proj.weight")                            \
    X(K_B, 1, DPO__SEP && k->qkv_bias, DPO__KD, 0, BIAS, "", "", "self_attn.k_proj.bias")                              \
    X(V_W, 1, DPO__SEP, DPO__KD, k->hidden_size, MATRIX, "", "", "self_attn.v_proj.weight")                            \
    X(V_B, 1, DPO__SEP && k->qkv_bias, DPO__KD, 0, BIAS, "", "", "self_attn.v_proj.bias")                              \
    X(O_W, 1, 1, k->hidden_size, DPO__HD, MATRIX, "attention.dense.weight", "attn.c_proj.weight",                      \
      "self_attn.o_proj.weight")                                                                                       \
    X(O_B, 1, k->attention_bias, k->hidden_size, 0, BIAS, "attention.dense.bias", "attn.c_proj.bias",                  \
      "self_attn.o_proj.bias")                                                                                         \
    X(NORM2_W, 1, 1, k->hidden_size, 0, GAIN, "post_attention_layernorm.weight", "ln_2.weight",                        \
      "post_attention_layernorm.weight")                                                                               \
    X(NORM2_B, 1, DPO__LN, k->hidden_size, 0, BIAS, "post_attention_layernorm.bias", "ln_2.bias", "")                  \
    X(UP_W, 1, 1, k->intermediate_size, k->hidden_size, MATRIX, "mlp.dense_h_to_4h.weight", "mlp.c_fc.weight",         \
      "mlp.up_proj.weight")                                                                                            \
    X(UP_B, 1, k->mlp_bias, k->intermediate_size, 0, BIAS, "mlp.dense_h_to_4h.bias", "mlp.c_fc.bias",                  \
      "mlp.up_proj.bias")                                                                                              \
    X(GATE_W, 1, k->activation == DPO_SWIGLU, k->intermediate_size, k->hidden_size, MATRIX, "", "mlp.c_fc2.weight",    \
      "mlp.gate_proj.weight")                                                                                          \
    X(GATE_B, 1, k->activation == DPO_SWIGLU && k->mlp_bias, k->intermediate_size, 0, BIAS, "", "mlp.c_fc2.bias",      \
      "mlp.gate_proj.bias")                                                                                            \
    X(DOWN_W, 1, 1, k->hidden_size, k->intermediate_size, MATRIX, "mlp.dense_4h_to_h.weight", "mlp.c_proj.weight",     \
      "mlp.down_proj.weight")                                                                                          \
    X(DOWN_B, 1, k->mlp_bias, k->hidden_size, 0, BIAS, "mlp.dense_4h_to_h.bias", "mlp.c_proj.bias",                    \
      "mlp.down_proj.bias")                                                                                            \
    X(FINAL_W, 0, 1, k->hidden_size, 0, GAIN, "gpt_neox.final_layer_norm.weight", "transformer.ln_f.weight",           \
      "model.norm.weight")                                                                                             \
    X(FINAL_B, 0, DPO__LN, k->hidden_size, 0, BIAS, "gpt_neox.final_layer_norm.bias", "transformer.ln_f.bias", "")     \
    X(HEAD, 0, !k->tie_word_embeddings, k->vocab_size, k->hidden_size, HEADMATRIX, "embed_out.weight",                 \
      "lm_head.weight", "lm_head.weight")

enum {
#define X(id, layer, present, rows, columns, kind, neox, gpt2, llama) DPO__##id,
    DPO__TENSORS(X)
#undef X
        DPO__N_TENSORS
};
enum { DPO__EMBEDDING, DPO__GAIN, DPO__BIAS, DPO__MATRIX, DPO__HEADMATRIX };

typedef struct dpo__param {
    char name[112]; /* the Hugging Face name */
    void *data;
    int dtype;                    /* DPO_F32; matrices may be DPO_BF16, and lie in a mapped file */
    void *own;                    /* a block for the data, NULL: they lie in the model's or in a mapped file */
    const void *panels;           /* the same packed for products, in the model's block of them, or NULL */
    int64_t rows, columns, count; /* as stored; columns 0: a vector */
    int id, layer, kind;
    int found; /* in the files it is loaded from */
} dpo__param;

/* of vectors, adapters, and all that is F32 */
DPO__INLINE float *dpo__param_f32(const dpo__param *p) { return (float *)p->data; }

typedef struct dpo__lora {
    dpo_lora_config config; /* target_modules points into the block */
    float scale;
    int on;
    int64_t n_params; /* A, B, A, B, ... */
    dpo__param *params;
    int32_t *of; /* [layers + 1][DPO__N_TENSORS]: index of A, -1 = none */
} dpo__lora;

struct dpo_model {
    dpo_context *c;
    dpo_model_config config;
    int precision; /* DPO_PRECISION_* */
    int frozen;    /* the weights are not to move */
    int64_t n_params, n_values;
    dpo__param *params;
    void *packed; /* the block of all panels, or NULL */
    size_t packed_bytes;
    int32_t *of;        /* [layers + 1][DPO__N_TENSORS]: index of a parameter; row `layers`: the model's */
    float *slopes;      /* ALiBi [H] as in the file, else NULL */
    float *slopes_used; /* divided by alibi_factor */
    int slopes_in_file, no_prefix;
    char *config_text; /* as read, NULL if made from a struct */
    dpo__lora *lora;
};

static const char *const dpo__family_names[6] = {"", "gpt_neox", "btlm", "gpt2", "llama", "qwen2"};

static dpo__param *dpo__model_param(const dpo_model *m, int64_t layer, int id) {
    int32_t i = m->of[layer * DPO__N_TENSORS + id];
    return i < 0 ? NULL : &m->params[i];
}

/* Adds a parameter: to m->params if they are there, its values to an arena if there is one. dtype is that of matrices,
   0 if their values come from elsewhere. */
static void dpo__model_describe(dpo_model *m, dpo__arena *values, int dtype, int64_t layer, int id, int64_t rows,
                                int64_t columns, int kind, const char *neox, const char *gpt2, const char *llama) {
    static const char *const prefix[3] = {"gpt_neox.layers.", "transformer.h.", "model.layers."};
    int style = m->config.qkv; /* as different as the names */
    const char *name = style == DPO_QKV_HEADS ? neox : style == DPO_QKV_THIRDS ? gpt2 : llama;
    int64_t count = columns ? rows * columns : rows;
    int type = columns && dtype ? dtype : DPO_F32;
    void *data = values && (dtype || !columns) ? dpo__arena_carve(values, count, dpo__st_size(type)) : NULL;
    if (m->params) {
        dpo__param *p = &m->params[m->n_params];
        memset(p, 0, sizeof *p);
        if (layer < m->config.num_hidden_layers)
            dpo__append(p->name, sizeof p->name, 0, "%s%ld.%s", prefix[style], (long)layer, name);
        else dpo__append(p->name, sizeof p->name, 0, "%s", name);
        p->data = data;
        p->dtype = type;
        p->rows = m->config.conv1d && kind == DPO__MATRIX ? columns : rows;
        p->columns = m->config.conv1d && kind == DPO__MATRIX ? rows : columns;
        p->count = count;
        p->id = id;
        p->layer = (int)layer;
        p->kind = kind;
        m->of[layer * DPO__N_TENSORS + id] = (int32_t)m->n_params;
    }
    m->n_params++;
    m->n_values += count;
}
/* Lists all parameters, layer by layer. */
static void dpo__model_list(dpo_model *m, dpo__arena *values, int dtype) {
    const dpo_model_config *k = &m->config;
    int64_t layer, layers = k->num_hidden_layers;
    m->n_params = m->n_values = 0;
#define X(id, per_layer, present, rows, columns, kind, neox, gpt2, llama)                                              \
    if ((per_layer) == want && (present) != 0)                                                                         \
        dpo__model_describe(m, values, dtype, layer, DPO__##id, rows, columns, DPO__##kind, neox, gpt2, llama);
    for (layer = 0; layer <= layers; layer++) {
        int want = layer < layers;
        DPO__TENSORS(X)
    }
#undef X
}

/* The model's block: struct, descriptions, and their values unless it is for a plan; dtype: of matrices, DPO_F32 or
   DPO_BF16, 0 if they lie elsewhere. Runs twice: with a NULL base it measures. */
static void dpo__model_layout(dpo__arena *a, const dpo_model_config *k, int values, int dtype, dpo_model **out) {
    dpo_model scratch, *m;
    int64_t i, index = ((int64_t)k->num_hidden_layers + 1) * DPO__N_TENSORS;
    int64_t slopes = k->position == DPO_POSITION_ALIBI ? k->num_attention_heads : 0;
    memset(&scratch, 0, sizeof scratch);
    scratch.config = *k;
    dpo__model_list(&scratch, NULL, dtype);
    m = DPO__CARVE(a, dpo_model, 1);
    if (m) *out = m;
    else m = &scratch;
    *m = scratch;
    m->params = DPO__CARVE(a, dpo__param, m->n_params);
    m->of = DPO__CARVE(a, int32_t, index);
    m->slopes = DPO__CARVE(a, float, slopes);
    m->slopes_used = DPO__CARVE(a, float, slopes);
    if (!slopes) m->slopes = m->slopes_used = NULL;
    for (i = 0; m->of && i < index; i++) m->of[i] = -1;
    dpo__model_list(m, values ? a : NULL, dtype);
}

/* --- configuration ------------------------------------------------------------------------------- */

#define DPO__DIM 1000000 /* largest believable width, length or vocabulary here: 16 times as much */

/* What config.json says, in the order in which it is written. */
typedef struct dpo__config_key {
    int type;            /* 'i' int, 'b' int that is true or false, 'd' double */
    size_t at;           /* the field, in dpo_model_config */
    double least, most;  /* if its default is less, the key must be there */
    const char *name[5]; /* in each family: the first of "this|that" that is there; NULL: it has no such key */
} dpo__config_key;

#define DPO__AT(field) offsetof(dpo_model_config, field)
#define DPO__ALL(key)                                                                                                  \
    { key, key, key, key, key }
#define DPO__EACH(neox, gpt2, llama)                                                                                   \
    { neox, gpt2, gpt2, llama, llama }
static const dpo__config_key dpo__config_keys[] = {
    {'i', DPO__AT(vocab_size), 2, 16 * DPO__DIM, DPO__ALL("vocab_size")},
    {'i', DPO__AT(hidden_size), 1, DPO__DIM, DPO__EACH("hidden_size", "n_embd", "hidden_size")},
    {'i', DPO__AT(num_hidden_layers), 1, 9999, DPO__EACH("num_hidden_layers", "n_layer", "num_hidden_layers")},
    {'i', DPO__AT(num_attention_heads), 1, 4096, DPO__EACH("num_attention_heads", "n_head", "num_attention_heads")},
    {'i', DPO__AT(num_key_value_heads), 1, 4096, DPO__EACH(NULL, NULL, "num_key_value_heads")},
    {'i', DPO__AT(head_dim), 1, DPO__DIM, DPO__EACH(NULL, NULL, "head_dim")},
    {'i', DPO__AT(intermediate_size), 1, 16 * DPO__DIM, DPO__EACH("intermediate_size", "n_inner", "intermediate_size")},
    {'i', DPO__AT(max_position_embeddings), 1, 16 * DPO__DIM,
     DPO__EACH("max_position_embeddings", "n_positions", "max_position_embeddings")},
    {'i', DPO__AT(bos_token_id), -1, 16 * DPO__DIM, DPO__ALL("bos_token_id")},
    {'i', DPO__AT(eos_token_id), -1, 16 * DPO__DIM, DPO__ALL("eos_token_id")},
    {'d', DPO__AT(norm_eps), 0, 1, DPO__EACH("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps")},
    {'d', DPO__AT(initializer_range), 0, 1e6, DPO__ALL("initializer_range")},
    {'d', DPO__AT(rope_theta), 1e-9, 1e300, DPO__EACH("rotary_emb_base|rope_theta", NULL, "rope_theta")},
    {'b', DPO__AT(tie_word_embeddings), 0, 1, DPO__ALL("tie_word_embeddings")},
    {'b', DPO__AT(parallel_residual), 0, 1, {"use_parallel_residual", NULL, NULL, NULL, NULL}},
    {'b', DPO__AT(qkv_bias), 0, 1, {"attention_bias", NULL, NULL, "attention_bias", NULL}},
    {'b', DPO__AT(mlp_bias), 0, 1, {NULL, NULL, NULL, "mlp_bias", NULL}},
    {'b', DPO__AT(attention_scale_by_layer), 0, 1, DPO__EACH(NULL, "scale_attn_by_inverse_layer_idx", NULL)},
    /* muP: today's spelling, and the first revisions' */
    {'d', DPO__AT(embedding_scale), -1e6, 1e6, {NULL, "mup_embeddings_scale|embeddings_scale", NULL, NULL, NULL}},
    {'d', DPO__AT(width_scale), 1e-9, 1e6, {NULL, "mup_width_scale|width_scale", NULL, NULL, NULL}}};
#define DPO__CONFIG_KEYS (sizeof dpo__config_keys / sizeof dpo__config_keys[0])

/* What each family is where its config.json does not say otherwise; sizes are 0. */
static dpo_model_config dpo__config_of_family(int family) {
    int neox = family == DPO_GPT_NEOX, gpt2 = family == DPO_GPT2 || family == DPO_BTLM;
    int llama = family == DPO_LLAMA || family == DPO_QWEN2;
    dpo_model_config k;
    memset(&k, 0, sizeof k);
    k.family = family;
    k.max_position_embeddings = gpt2 ? 1024 : 2048;
    k.bos_token_id = k.eos_token_id = -1;
    k.norm = llama ? DPO_NORM_RMS : DPO_NORM_LAYER;
    k.norm_eps = llama ? 1e-6 : 1e-5;
    k.initializer_range = 0.02;
    k.position = gpt2 ? DPO_POSITION_LEARNED : DPO_POSITION_ROPE;
    k.rope_theta = 10000.0;
    k.activation = neox ? DPO_GELU : gpt2 ? DPO_GELU_TANH : DPO_SWIGLU;
    k.parallel_residual = neox;
    k.qkv = neox ? DPO_QKV_HEADS : gpt2 ? DPO_QKV_THIRDS : DPO_QKV_SEPARATE;
    k.conv1d = k.tie_word_embeddings = gpt2;
    k.qkv_bias = family != DPO_LLAMA;
    k.attention_bias = k.mlp_bias = !llama;
    k.embedding_scale = k.output_scale = k.width_scale = 1.0;
    return k;
}

/* What holds for every family; also the guard for configurations that were filled in by hand. */
static dpo_result dpo__config_check(dpo_context *c, const char *path, const dpo_model_config *k) {
    const char *why = NULL;
    dpo_model_config own;
    size_t i;
    if (k->family < DPO_GPT_NEOX || k->family > DPO_QWEN2)
        return dpo__fail(c, DPO_E_FORMAT, "%s: family is not one of DPO_GPT_NEOX...", path);
    own = dpo__config_of_family(k->family);
    for (i = 0; i < DPO__CONFIG_KEYS; i++) {
        const dpo__config_key *row = &dpo__config_keys[i];
        const char *field = (const char *)k + row->at, *name = row->name[k->family - 1];
        double v = row->type == 'd' ? *(const double *)(const void *)field : *(const int *)(const void *)field;
        if (row->type == 'b' || !(name || row->type == 'i') || (v >= row->least && v <= row->most)) continue;
        return dpo__fail(c, DPO_E_FORMAT, "%s: %s is %.9g; it must lie from %.9g to %.9g", path,
                         name ? name : "the number of key/value heads, or the head size", v, row->least, row->most);
    }
    if ((int64_t)k->num_attention_heads * k->head_dim > 16 * DPO__DIM)
        why = "heads times head size is beyond what this version holds";
    else if (k->qkv != own.qkv || k->norm != own.norm || (k->conv1d != 0) != own.conv1d ||
             (k->position != own.position && !(own.conv1d && k->position == DPO_POSITION_ALIBI)) ||
             k->activation < DPO_GELU || k->activation > DPO_SWIGLU ||
             (k->activation == DPO_SWIGLU ? k->family == DPO_GPT_NEOX : own.activation == DPO_SWIGLU) ||
             k->rope_scaling < DPO_ROPE_PLAIN || k->rope_scaling > DPO_ROPE_LLAMA3)
        why = "norm, positions, activation, q/k/v layout or storage is not one that this family has";
    else if (k->rope_scaling != DPO_ROPE_PLAIN && !(k->rope_factor > 0 && k->rope_factor < 1e6))
        why = "the factor of rope_scaling must be positive";
    else if (k->rope_scaling == DPO_ROPE_LLAMA3 && !(k->rope_high_freq_factor > k->rope_low_freq_factor &&
                                                     k->rope_low_freq_factor > 0 && k->rope_original_max_position > 0))
        why = "rope_scaling needs 0 < low_freq_factor < high_freq_factor and a positive original length";
    else if (k->num_attention_heads % k->num_key_value_heads)
        why = "num_key_value_heads must divide num_attention_heads";
    else if (k->qkv != DPO_QKV_SEPARATE && k->num_key_value_heads != k->num_attention_heads)
        why = "a fused qkv matrix needs as many key/value heads as heads";
    else if (k->qkv != DPO_QKV_SEPARATE && k->head_dim * k->num_attention_heads != k->hidden_size)
        why = "the hidden size must be a multiple of the number of heads";
    else if (k->position == DPO_POSITION_ROPE &&
             (k->rotary_dim < 0 || k->rotary_dim > k->head_dim || k->rotary_dim % 2))
        why = "the rotary part of a head must be even and no larger than the head";
    else if (!(k->attention_scale > 0 && k->attention_scale < 1e6) || !(k->width_scale > 0 && k->width_scale < 1e6) ||
             !(k->alibi_factor >= 0 && k->alibi_factor < 1e6))
        why = "attention_scale, width_scale or alibi_factor is not a usable number";
    else if (!(k->embedding_scale > -1e6 && k->embedding_scale < 1e6 && k->embedding_scale != 0) ||
             !(k->output_scale > -1e6 && k->output_scale < 1e6 && k->output_scale != 0))
        why = "a muP scale is zero or not a usable number";
    return why ? dpo__fail(c, DPO_E_FORMAT, "%s: %s", path, why) : DPO_OK;
}

typedef struct dpo__config_reader {
    dpo_context *c;
    const char *path;
    dpo__json json;
} dpo__config_reader;

/* After the first error values no longer count. */
static int dpo__config_failed(const dpo__config_reader *r) { return r->c->error.code != DPO_OK; }

/* The first of "this|that", and its length. */
static size_t dpo__config_spelling(const char *key, char *out, size_t cap) {
    const char *bar = strchr(key, '|');
    size_t n = bar ? (size_t)(bar - key) : strlen(key);
    dpo__append(out, cap, 0, "%.*s", (int)n, key);
    return n;
}
/* The value of the first of "this|that" that is there and not null; -1 if there is none. */
static int64_t dpo__config_find(const dpo__config_reader *r, int64_t object, const char *key) {
    for (;;) {
        char one[64];
        size_t n = dpo__config_spelling(key, one, sizeof one);
        int64_t at = dpo_json_find(&r->json, object, one);
        if (at >= 0 && !dpo__json_null(&r->json, at)) return at;
        if (!key[n]) return -1;
        key += n + 1;
    }
}
/* A value by the type of a dpo__config_key; `otherwise` where it is not there, an error if that is below `least`. */
static double dpo__config_get(dpo__config_reader *r, int64_t object, const char *key, int type, double otherwise,
                              double least, double most) {
    int64_t at = dpo__config_find(r, object, key), whole = 0;
    const dpo__json_node *n = &r->json.nodes[at < 0 ? 0 : at];
    int truth = 0, ok;
    double v = otherwise;
    char got[48] = "missing";
    if (dpo__config_failed(r) || (at < 0 && otherwise >= least)) return otherwise;
    if (type == 'd') ok = dpo_json_number(&r->json, at, &v);
    else if (type == 'i') ok = dpo__json_int64(&r->json, at, &whole);
    else ok = dpo__json_bool(&r->json, at, &truth);
    if (type != 'd') v = type == 'i' ? (double)whole : truth;
    if (ok && v >= least && v <= most) return v;
    if (dpo_json_type(&r->json, at) == '[' || dpo_json_type(&r->json, at) == '{')
        dpo__append(got, sizeof got, 0, "no single value");
    else if (at >= 0) dpo__append(got, sizeof got, 0, "%.*s", (int)(n->end - n->begin), r->json.text + n->begin);
    if (type == 'b') dpo__fail(r->c, DPO_E_FORMAT, "%s: key \"%s\" is %s; it must be true or false", r->path, key, got);
    else
        dpo__fail(r->c, DPO_E_FORMAT, "%s: key \"%s\" is %s; it must be a %s from %.9g to %.9g", r->path, key, got,
                  type == 'i' ? "whole number" : "number", least, most);
    return otherwise;
}
static double dpo__config_number(dpo__config_reader *r, int64_t object, const char *key, double otherwise) {
    return dpo__config_get(r, object, key, 'd', otherwise, -1e300, 1e300);
}
static int dpo__config_bool(dpo__config_reader *r, const char *key, int otherwise) {
    return dpo__config_get(r, 0, key, 'b', otherwise, 0, 1) != 0;
}
static void dpo__config_text(dpo__config_reader *r, int64_t object, const char *key, char *out, size_t cap,
                             const char *otherwise) {
    int64_t at = dpo__config_find(r, object, key), n;
    dpo__append(out, cap, 0, "%s", otherwise);
    if (dpo__config_failed(r) || at < 0) return;
    n = dpo_json_string(&r->json, at, out, cap);
    if (n < 0 || (size_t)n >= cap)
        dpo__fail(r->c, DPO_E_FORMAT, "%s: key \"%s\" must be a string of less than %d bytes", r->path, key, (int)cap);
}
static void dpo__config_unsupported(dpo__config_reader *r, const char *key, const char *got, const char *known) {
    dpo__fail(r->c, DPO_E_UNSUPPORTED, "%s: \"%s\" is \"%s\"; this version knows %s", r->path, key, got, known);
}

static const struct {
    const char *name;
    int activation, llama; /* in Llama's family: always gated */
} dpo__activations[] = {{"gelu", DPO_GELU, 0},        {"gelu_new", DPO_GELU_TANH, 0},
                        {"swiglu", DPO_SWIGLU, 0},    {"silu", DPO_SWIGLU, 1},
                        {"gelu_python", DPO_GELU, 0}, {"gelu_fast", DPO_GELU_TANH, 0},
                        {"swish", DPO_SWIGLU, 1},     {"gelu_pytorch_tanh", DPO_GELU_TANH, 0}};
#define DPO__ACTIVATIONS (sizeof dpo__activations / sizeof dpo__activations[0])

static const char *dpo__config_activation_key(const dpo_model_config *k) {
    return k->conv1d ? "activation_function" : "hidden_act";
}
static void dpo__config_activation(dpo__config_reader *r, dpo_model_config *k) {
    const char *key = dpo__config_activation_key(k);
    int llama = k->norm == DPO_NORM_RMS;
    char name[40];
    size_t i;
    dpo__config_text(r, 0, key, name, sizeof name, "");
    for (i = 0; i < DPO__ACTIVATIONS; i++)
        if (dpo__activations[i].llama == llama && !strcmp(name, dpo__activations[i].name)) break;
    if (i < DPO__ACTIVATIONS) k->activation = dpo__activations[i].activation;
    else if (name[0])
        dpo__config_unsupported(r, key, name,
                                llama ? "silu for this family" : "gelu, gelu_new, gelu_pytorch_tanh and swiglu");
}
static void dpo__config_rope(dpo__config_reader *r, dpo_model_config *k) {
    int64_t at = dpo__config_find(r, 0, "rope_scaling|rope_parameters");
    double part = dpo__config_number(r, 0, "rotary_pct|partial_rotary_factor", 0.25);
    char kind[40] = "default";
    if (at >= 0 && dpo_json_type(&r->json, at) != '{')
        dpo__config_unsupported(r, "rope_scaling", "no object", "an object or null");
    if (at >= 0) { /* newer configurations keep these in there, too */
        k->rope_theta = dpo__config_number(r, at, "rope_theta", k->rope_theta);
        part = dpo__config_number(r, at, "partial_rotary_factor", part);
        dpo__config_text(r, at, "rope_type|type", kind, sizeof kind, "default");
    }
    if (k->family != DPO_GPT_NEOX) part = 1.0;
    if (!dpo__config_failed(r) && !(part >= 0 && part <= 1))
        dpo__fail(r->c, DPO_E_FORMAT, "%s: \"rotary_pct\" must lie from 0 to 1", r->path);
    if (dpo__config_failed(r)) return;
    k->rotary_dim = (int)(k->head_dim * part);
    if (!strcmp(kind, "default")) return;
    k->rope_factor = dpo__config_number(r, at, "factor", 1.0);
    if (!strcmp(kind, "linear")) k->rope_scaling = DPO_ROPE_LINEAR;
    else if (!strcmp(kind, "llama3")) {
        k->rope_scaling = DPO_ROPE_LLAMA3;
        k->rope_low_freq_factor = dpo__config_number(r, at, "low_freq_factor", 1.0);
        k->rope_high_freq_factor = dpo__config_number(r, at, "high_freq_factor", 4.0);
        k->rope_original_max_position = dpo__config_number(r, at, "original_max_position_embeddings", 8192.0);
    } else dpo__config_unsupported(r, "rope_scaling.type", kind, "default, linear and llama3");
}
static void dpo__config_btlm(dpo__config_reader *r, dpo_model_config *k) {
    int64_t at = dpo__config_find(r, 0, "alibi_scaling");
    char text[40];
    dpo__config_text(r, 0, "position_embedding_type", text, sizeof text, "learned");
    if (!strcmp(text, "alibi")) k->position = DPO_POSITION_ALIBI;
    else if (strcmp(text, "learned")) dpo__config_unsupported(r, "position_embedding_type", text, "learned and alibi");
    k->alibi_factor = dpo__config_number(r, at, "factor", 0.0);
    if (dpo__config_find(r, at, "train_seq_len") >= 0)
        dpo__config_unsupported(r, "alibi_scaling", "train_seq_len", "a fixed \"factor\"");
    k->output_scale = dpo__config_number(r, 0, "mup_output_alpha", 1.0) * k->width_scale;
    k->output_scale = dpo__config_number(r, 0, "output_logits_scale", k->output_scale);
    if (dpo__config_bool(r, "mup_scale_qk_dot_by_d|scale_qk_dot_by_d", 0) && k->attention_scale == 0)
        k->attention_scale = 1.0 / (double)k->head_dim;
    if (!dpo__config_failed(r) && k->embedding_scale != 1.0 &&
        dpo__config_find(r, 0, "mup_width_scale|width_scale") < 0)
        dpo__log(r->c, DPO_LOG_WARNING,
                 "%s: muP embedding scale without \"mup_width_scale\": taking 1, which makes logits too large if the "
                 "model was trained with less",
                 r->path);
}

/* All that the table has, and what each family says besides. */
static void dpo__config_read(dpo__config_reader *r, dpo_model_config *k) {
    size_t i;
    for (i = 0; i < DPO__CONFIG_KEYS; i++) {
        const dpo__config_key *row = &dpo__config_keys[i];
        void *field = (char *)k + row->at;
        const char *key = row->name[k->family - 1];
        /* defaults that follow from what was read before */
        if (!k->num_key_value_heads) k->num_key_value_heads = k->num_attention_heads;
        if (!k->head_dim && k->num_attention_heads > 0) k->head_dim = k->hidden_size / k->num_attention_heads;
        if (!k->intermediate_size && k->norm == DPO_NORM_LAYER) k->intermediate_size = 4 * k->hidden_size;
        if (!key || dpo__config_failed(r)) continue;
        if (row->at == DPO__AT(eos_token_id) && dpo_json_type(&r->json, dpo__config_find(r, 0, key)) == '[') continue;
        if (row->type == 'd')
            *(double *)field = dpo__config_get(r, 0, key, 'd', *(double *)field, row->least, row->most);
        else *(int *)field = (int)dpo__config_get(r, 0, key, row->type, *(int *)field, row->least, row->most);
    }
    if (dpo__config_failed(r)) return;
    dpo__config_activation(r, k);
    if (k->position == DPO_POSITION_ROPE) dpo__config_rope(r, k);
    if (k->family == DPO_GPT_NEOX || k->family == DPO_LLAMA) k->attention_bias = k->qkv_bias;
    if (k->conv1d && !dpo__config_bool(r, "scale_attn_weights", 1)) k->attention_scale = 1.0;
    if (k->family == DPO_BTLM) dpo__config_btlm(r, k);
    if (k->norm == DPO_NORM_RMS && dpo__config_bool(r, "use_sliding_window", 0))
        dpo__config_unsupported(r, "use_sliding_window", "true", "full attention");
    if (k->attention_scale == 0) k->attention_scale = 1.0 / sqrt((double)k->head_dim);
}

/* Reads text (a whole config.json) into *k. */
static dpo_result dpo__config_parse(dpo_context *c, const char *path, const char *text, size_t bytes,
                                    dpo_model_config *k) {
    dpo__config_reader r;
    int64_t at, v;
    char name[40];
    int f = DPO_QWEN2;
    r.c = c;
    r.path = path;
    if (dpo__json_parse(c, path, text, bytes, &r.json)) return c->error.code;
    if (dpo_json_type(&r.json, 0) != '{')
        dpo__fail(c, DPO_E_FORMAT, "%s: expected a JSON object of model settings", path);
    dpo__config_text(&r, 0, "model_type", name, sizeof name, "");
    while (f > 0 && strcmp(name, dpo__family_names[f]) != 0) f--;
    *k = dpo__config_of_family(f);
    if (f) dpo__config_read(&r, k);
    else dpo__config_unsupported(&r, "model_type", name, "gpt_neox, btlm, gpt2, llama and qwen2");
    /* some models list several ends of text; the first one is written after a response */
    at = dpo_json_first(&r.json, dpo__config_find(&r, 0, "eos_token_id"));
    if (dpo__json_int64(&r.json, at, &v) && v >= 0 && v <= 16 * DPO__DIM) k->eos_token_id = (int)v;
    dpo__config_text(&r, 0, "dpo_tokenizer", name, sizeof name, "");
    k->byte_tokenizer = !strcmp(name, "bytes");
    at = dpo_json_find(&r.json, 0, "dtype");
    if (dpo_json_type(&r.json, at) != '"') at = dpo_json_find(&r.json, 0, "torch_dtype");
    k->torch_dtype = dpo__json_is(&r.json, at, "bfloat16")  ? DPO_BF16
                     : dpo__json_is(&r.json, at, "float16") ? DPO_F16
                     : dpo__json_is(&r.json, at, "float32") ? DPO_F32
                                                            : 0;
    dpo__json_free(c, &r.json);
    return dpo__config_failed(&r) ? c->error.code : dpo__config_check(c, path, k);
}

/* --- the configuration's file, read and written ---------------------------------------------------- */

#define DPO__CONFIG_BYTES ((uint64_t)4 << 20)

/* config.json of a directory, or the path itself if it names a .json file. *text is the caller's. */
static dpo_result dpo__config_load(dpo_context *c, const char *path, dpo_model_config *k, char **text) {
    char full[4096];
    size_t n = strlen(path), bytes;
    int file = n > 5 && !strcmp(path + n - 5, ".json");
    dpo_result r = dpo__file_join(c, file ? "" : path, file ? path : "config.json", full, sizeof full);
    if (r) return r;
    r = dpo__file_read_all(c, full, DPO__CONFIG_BYTES, text, &bytes);
    if (!r) r = dpo__config_parse(c, full, *text, bytes, k);
    if (r) {
        dpo__put(c, *text);
        *text = NULL;
    }
    return r;
}

DPO_API dpo_result dpo_model_config_read(dpo_context *c, const char *path, dpo_model_config *out) {
    char *text = NULL;
    dpo_result r;
    if (!c || c->error.code) return dpo_status(c);
    if (!path || !out) return dpo__fail(c, DPO_E_ARG, "dpo_model_config_read: path and out must not be NULL");
    r = dpo__config_load(c, path, out, &text);
    dpo__put(c, text);
    return r;
}

typedef struct dpo__text { /* text being put together in a buffer of fixed size */
    char *out;
    size_t cap, at;
} dpo__text;
static void dpo__text_int(dpo__text *t, const char *key, int64_t v) {
    t->at = dpo__append(t->out, t->cap, t->at, ",\n  \"%s\": %ld", key, (long)v);
}
static void dpo__text_word(dpo__text *t, const char *key, const char *v) {
    t->at = dpo__append(t->out, t->cap, t->at, ",\n  \"%s\": %s", key, v);
}
static void dpo__text_number(dpo__text *t, const char *key, double v) { /* 17 digits give the same double back */
    dpo__text_word(t, key, "");
    t->at = dpo__append_number(t->out, t->cap, t->at, 17, v);
}

/* A config.json for a configuration that was made in a program. */
static size_t dpo__config_write(const dpo_model_config *k, char *out, size_t cap) {
    static const char *const architectures[6] = {
        "", "GPTNeoXForCausalLM", "BTLMLMHeadModel", "GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM"};
    static const char *const truth[2] = {"false", "true"};
    dpo__text t = {out, cap, 0};
    char word[64];
    size_t i;
    t.at = dpo__append(out, cap, 0, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\"",
                       architectures[k->family], dpo__family_names[k->family]);
    for (i = 0; i < DPO__CONFIG_KEYS; i++) {
        const dpo__config_key *row = &dpo__config_keys[i];
        const void *field = (const char *)k + row->at;
        const char *name = row->name[k->family - 1];
        if (!name || (row->least == -1 && *(const int *)field < 0)) continue; /* there is no such token */
        (void)dpo__config_spelling(name, word, sizeof word);
        if (row->type == 'd') dpo__text_number(&t, word, *(const double *)field);
        else if (row->type == 'b') dpo__text_word(&t, word, truth[*(const int *)field != 0]);
        else dpo__text_int(&t, word, *(const int *)field);
    }
    for (i = 0; dpo__activations[i].activation != k->activation || dpo__activations[i].llama != (k->norm != 0);) i++;
    dpo__append(word, sizeof word, 0, "\"%s\"", dpo__activations[i].name);
    dpo__text_word(&t, dpo__config_activation_key(k), word);
    if (k->family == DPO_GPT_NEOX) dpo__text_number(&t, "rotary_pct", (double)k->rotary_dim / k->head_dim);
    if (k->family == DPO_BTLM) {
        dpo__text_word(&t, "position_embedding_type", k->position == DPO_POSITION_ALIBI ? "\"alibi\"" : "\"learned\"");
        dpo__text_number(&t, "mup_output_alpha", k->output_scale / k->width_scale);
        dpo__text_word(&t, "mup_scale_qk_dot_by_d", truth[k->attention_scale * k->head_dim < 1.5]);
    }
    if (k->rope_scaling != DPO_ROPE_PLAIN) {
        t.at = dpo__append(out, cap, t.at, ",\n  \"rope_scaling\": {\"rope_type\": \"%s\"",
                           k->rope_scaling == DPO_ROPE_LINEAR ? "linear" : "llama3");
        dpo__text_number(&t, "factor", k->rope_factor);
        if (k->rope_scaling == DPO_ROPE_LLAMA3) {
            dpo__text_number(&t, "low_freq_factor", k->rope_low_freq_factor);
            dpo__text_number(&t, "high_freq_factor", k->rope_high_freq_factor);
            dpo__text_int(&t, "original_max_position_embeddings", (int64_t)k->rope_original_max_position);
        }
        t.at = dpo__append(out, cap, t.at, "}");
    }
    if (k->byte_tokenizer) dpo__text_word(&t, "dpo_tokenizer", "\"bytes\"");
    return dpo__append(out, cap, t.at, ",\n  \"torch_dtype\": \"float32\"\n}\n");
}

/* --- what loading begins with ---------------------------------------------------------------------- */

/* Slopes of ALiBi: for n a power of two 2^(-8k/n); else those of the next lower power, then every other
   one of the next higher [ALiBi]. */
static void dpo__alibi_slopes(float *to, int n) {
    int m = 1, i;
    while (2 * m <= n) m *= 2;
    for (i = 0; i < n; i++) {
        double k = i < m ? 8.0 * (i + 1) / m : 8.0 * (2 * (i - m) + 1) / (2 * m);
        to[i] = (float)dpo__num_pow(2.0, -k);
    }
}

/* After slopes were set. */
static void dpo__alibi_scale(dpo_model *m) {
    int i;
    for (i = 0; m->slopes && i < m->config.num_attention_heads; i++)
        m->slopes_used[i] = m->config.alibi_factor > 0 ? m->slopes[i] / (float)m->config.alibi_factor : m->slopes[i];
}

/* Memory for a configuration's model; values are not set. */
static dpo_model *dpo__model_new(dpo_context *c, const dpo_model_config *k, int values, int dtype) {
    dpo__arena a = {NULL, 0};
    dpo_model *m = NULL;
    dpo__model_layout(&a, k, values, dtype, &m);
    if (!dpo__arena_get(c, &a, values ? "the model's weights" : "a plan")) return NULL;
    dpo__model_layout(&a, k, values, dtype, &m);
    m->c = c;
    if (m->slopes) dpo__alibi_slopes(m->slopes, k->num_attention_heads);
    dpo__alibi_scale(m);
    return m;
}

DPO_API void dpo_model_free(dpo_model *m) {
    dpo_context *c;
    int64_t i;
    if (!m) return;
    c = m->c;
    for (i = 0; i < m->n_params; i++) dpo__put(c, m->params[i].own);
    dpo__unmap(c, m);
    dpo__put(c, m->lora);
    dpo__put(c, m->config_text);
    dpo__put(c, m->packed);
    dpo__put(c, m);
}

static int dpo__ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}
/* Buffers that checkpoints carry and nobody trains; also a tied head written twice. */
static int dpo__model_buffer(const dpo_model *m, const char *name) {
    static const char *const ends[] = {".attention.bias", ".attention.masked_bias", ".attn.bias", ".attn.masked_bias",
                                       ".rotary_emb.inv_freq"};
    size_t i;
    for (i = 0; i < sizeof ends / sizeof *ends; i++)
        if (dpo__ends_with(name, ends[i])) return 1;
    return m->config.tie_word_embeddings && (!strcmp(name, "lm_head.weight") || !strcmp(name, "embed_out.weight"));
}

/* The name a parameter has in this model's files. */
static const char *dpo__model_file_name(const dpo_model *m, const dpo__param *p) {
    return m->no_prefix && !strncmp(p->name, "transformer.", 12) ? p->name + 12 : p->name;
}

/* Does a tensor have the shape that was planned for it? */
static dpo_result dpo__param_fits(const dpo__st *st, const dpo__st_entry *e, const dpo__param *p) {
    if (e->ndim == (p->columns ? 2 : 1) && e->shape[0] == p->rows && e->shape[1] == dpo__max64(p->columns, 1))
        return DPO_OK;
    return dpo__fail(st->file.c, DPO_E_SHAPE,
                     "%.400s: tensor %s has shape [%ld%s%ld%s], the configuration asks for [%ld%s%ld]; they do not "
                     "belong together",
                     st->path, e->name, (long)e->shape[0], e->ndim > 1 ? "," : "",
                     (long)(e->ndim > 1 ? e->shape[1] : 0), e->ndim > 2 ? ",..." : "", (long)p->rows,
                     p->columns ? "," : "", (long)p->columns);
}

static dpo_result dpo__model_finite(dpo_context *c, const char *path, const char *name, const void *x, int dtype,
                                    int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++) {
        float v = dpo__st_value(x, dtype, i);
        if ((dpo__num_bits(v) & 0x7f800000u) == 0x7f800000u)
            return dpo__fail(c, DPO_E_NONFINITE,
                             "%.400s: tensor %s holds %s at element %ld; the file is damaged or its training diverged",
                             path, name, v == v ? "an infinity" : "a NaN", (long)i);
    }
    return DPO_OK;
}

/* --- loading --------------------------------------------------------------------------------------- */

/* How matrices are kept. */
static int dpo__model_storage(int precision, int frozen) {
    return frozen ? 0 : precision == DPO_PRECISION_BF16 ? DPO_BF16 : DPO_F32;
}
static dpo_result dpo__model_precision_check(dpo_context *c, const char *who, int precision) {
    if (precision >= DPO_PRECISION_FP32 && precision <= DPO_PRECISION_BF16) return DPO_OK;
    return dpo__fail(c, DPO_E_ARG, "%s: there is no precision %d; use a DPO_PRECISION_* value", who, precision);
}
static void dpo__model_say_rounded(const dpo_model *m, int64_t n) {
    if (n)
        dpo__log(m->c, DPO_LOG_INFO, "%lld of %lld weights were rounded to bf16", (long long)n, (long long)m->n_values);
}

typedef struct dpo__loader {
    dpo_model *m;
    const char *dir;
    int64_t rounded;    /* values that bf16 changed */
    dpo__st st;         /* the file at hand */
    const uint8_t *map; /* all of it; NULL: it is read */
    int asked;          /* for map */
    int verify, no_map; /* of dpo_load_config */
} dpo__loader;

/* A frozen model's matrix: in place if it can be, else in memory, in the file's type where that is one of ours. */
static dpo_result dpo__model_place(dpo__loader *l, const dpo__st_entry *e, dpo__param *p) {
    const uint8_t *at;
    p->dtype = e->dtype == DPO_BF16 ? DPO_BF16 : DPO_F32;
    if (e->dtype == p->dtype) {
        if (!l->asked++ && dpo__file_map(&l->st.file, l->m, &l->map)) return DPO_E_MEMORY;
        at = l->map ? l->map + l->st.data + e->begin : NULL;
        if (at && !((uintptr_t)at % dpo__st_size(p->dtype))) {
            p->data = (void *)(uintptr_t)at; /* read-only */
            return DPO_OK;
        }
    }
    p->data = p->own = dpo__get(l->m->c, (size_t)p->count * dpo__st_size(p->dtype), "a weight matrix");
    return p->own ? DPO_OK : DPO_E_MEMORY;
}
static dpo_result dpo__model_read_param(dpo__loader *l, const dpo__st_entry *e, dpo__param *p) {
    dpo_context *c = l->m->c;
    dpo_result r = l->m->frozen && p->columns ? dpo__model_place(l, e, p) : DPO_OK;
    if (r || (l->m->frozen && p->columns && !p->own)) return r; /* mapped: not a byte is touched */
    r = dpo__st_read_as(&l->st, e, p->dtype, p->data, &l->rounded);
    if (r) return r;
    if (l->m->precision == DPO_PRECISION_BF16 && !l->m->frozen && !p->columns)
        l->rounded += dpo__st_round(c, NULL, dpo__param_f32(p), p->count);
    return dpo__model_finite(c, l->st.path, e->name, p->data, p->dtype, p->count);
}

/* One tensor of a file into its place. */
static dpo_result dpo__model_take(dpo__loader *l, const dpo__st_entry *e) {
    dpo_model *m = l->m;
    dpo_context *c = m->c;
    const char *path = l->st.path;
    int64_t i;
    for (i = 0; i < m->n_params; i++) {
        dpo__param *p = &m->params[i];
        if (strcmp(dpo__model_file_name(m, p), e->name)) continue;
        if (dpo__param_fits(&l->st, e, p)) return DPO_E_SHAPE;
        if (p->found++)
            return dpo__fail(c, DPO_E_FORMAT, "%.400s: tensor %s is in two files of this model", path, e->name);
        return dpo__model_read_param(l, e, p);
    }
    if (m->slopes && dpo__ends_with(e->name, "relative_pe.slopes") && e->elements == m->config.num_attention_heads) {
        dpo_result r = dpo__st_read_f32(&l->st, e, m->slopes);
        m->slopes_in_file = 1;
        return r ? r : dpo__model_finite(c, path, e->name, m->slopes, DPO_F32, e->elements);
    }
    if (!dpo__model_buffer(m, e->name))
        dpo__log(c, DPO_LOG_WARNING, "%s: tensor %s is not used by this model", path, e->name);
    return DPO_OK;
}
/* A tied model's head that the file holds all the same is left out; so says Hugging Face, too. Should it be another
   matrix than the embedding, that is worth a word. */
static dpo_result dpo__model_check_tied(const dpo__loader *l) {
    static const char *const names[2] = {"lm_head.weight", "embed_out.weight"};
    const dpo_model *m = l->m;
    dpo_context *c = m->c;
    const dpo__st_entry *head = NULL, *embedding;
    uint64_t sums[2];
    uint8_t *buffer;
    int i;
    dpo_result r;
    if (!m->config.tie_word_embeddings) return DPO_OK;
    for (i = 0; i < 2 && !head; i++) head = dpo__st_find(&l->st, names[i]);
    embedding =
        dpo__st_find(&l->st, dpo__model_file_name(m, dpo__model_param(m, m->config.num_hidden_layers, DPO__EMBED)));
    if (!head || !embedding || head->dtype != embedding->dtype) return DPO_OK;
    buffer = (uint8_t *)dpo__get(c, DPO__ST_PIECE, "a file buffer");
    if (!buffer) return DPO_E_MEMORY;
    r = dpo__st_sum_of(&l->st, head, buffer, &sums[0]);
    if (!r) r = dpo__st_sum_of(&l->st, embedding, buffer, &sums[1]);
    dpo__put(c, buffer);
    if (!r && sums[0] != sums[1])
        dpo__log(c, DPO_LOG_WARNING,
                 "%.400s: config.json ties the output head to the embedding, but %s is another matrix; it is not used",
                 l->st.path, head->name);
    return r;
}
static dpo_result dpo__model_take_file(dpo__loader *l, const char *name) {
    char path[4096];
    int64_t i;
    dpo_context *c = l->m->c;
    dpo_result r = dpo__file_join(c, l->dir, name, path, sizeof path);
    if (!r) r = dpo__st_open(c, path, &l->st);
    if (r) return r;
    if (l->verify) r = dpo__st_verify(&l->st);
    l->asked = l->no_map;
    l->map = NULL;
    /* GPT-2's original files leave the prefix out. */
    if (dpo__st_find(&l->st, "wte.weight")) l->m->no_prefix = 1;
    if (!r) r = dpo__model_check_tied(l);
    for (i = 0; i < l->st.count && !r; i++) r = dpo__model_take(l, &l->st.entries[i]);
    dpo__st_close(&l->st);
    return r;
}

#define DPO__SHARDS_MOST 1024

/* Every distinct file that the index names. */
static dpo_result dpo__model_take_shards(dpo__loader *l, const char *index) {
    dpo_context *c = l->m->c;
    dpo__json j;
    char *text, shard[256];
    int64_t map, i, k, v, files = 0, taken[DPO__SHARDS_MOST]; /* the first entry of each file */
    dpo_result r = dpo__file_read_json(c, index, (uint64_t)64 << 20, &text, &j);
    if (r) return r;
    map = dpo_json_find(&j, 0, "weight_map");
    if (dpo_json_type(&j, map) != '{' || !dpo_json_count(&j, map))
        r = dpo__fail(c, DPO_E_FORMAT, "%.400s: \"weight_map\" must be an object of tensor: file", index);
    for (i = 0, v = dpo_json_first(&j, map); i < dpo_json_count(&j, map) && !r; i++, v = dpo_json_next(&j, v + 1)) {
        int64_t length = dpo_json_string(&j, v + 1, shard, sizeof shard);
        for (k = files - 1; k >= 0 && !dpo__json_is(&j, taken[k], shard);) k--; /* most often the one before */
        if (length < 1 || length >= (int64_t)sizeof shard || strchr(shard, '/') || strlen(shard) != (size_t)length)
            r = dpo__fail(c, DPO_E_FORMAT, "%.400s: entry %ld of \"weight_map\" must name a file beside it", index,
                          (long)i);
        else if (k >= 0) continue;
        else if (files == DPO__SHARDS_MOST)
            r = dpo__fail(c, DPO_E_UNSUPPORTED, "%.400s names more than %d files", index, DPO__SHARDS_MOST);
        else r = dpo__model_take_file(l, shard);
        if (files < DPO__SHARDS_MOST) taken[files++] = v + 1;
    }
    dpo__json_free(c, &j);
    dpo__put(c, text);
    return r;
}

static int dpo__model_has(dpo__loader *l, const char *name) {
    char path[4096];
    return !dpo__file_join(l->m->c, l->dir, name, path, sizeof path) && dpo__file_exists(l->m->c, path);
}

/* The files of a directory, whichever it has, into the model. */
static dpo_result dpo__model_take_dir(dpo__loader *l) {
    static const char *const file = "model.safetensors";
    dpo_context *c = l->m->c;
    char index[4096];
    int64_t i;
    dpo_result r = dpo__file_join(c, l->dir, "model.safetensors.index.json", index, sizeof index);
    if (r) return r;
    if (dpo__model_has(l, file)) r = dpo__model_take_file(l, file);
    else if (dpo__file_exists(c, index)) r = dpo__model_take_shards(l, index);
    else if (dpo__model_has(l, "pytorch_model.bin") || dpo__model_has(l, "pytorch_model.bin.index.json"))
        r = dpo__fail(
            c, DPO_E_UNSUPPORTED,
            "%.400s/pytorch_model.bin: PyTorch's pickle files are not read here; dpo-convert DIR NEW_DIR makes "
            "safetensors of them",
            l->dir);
    else r = dpo__model_take_file(l, file);
    for (i = 0; i < l->m->n_params && !r; i++)
        if (!l->m->params[i].found)
            r = dpo__fail(c, DPO_E_FORMAT, "%.400s: tensor %s is missing; config.json asks for it", l->dir,
                          dpo__model_file_name(l->m, &l->m->params[i]));
    return r;
}

DPO_API dpo_model *dpo_model_load_as(dpo_context *c, const char *dir, const dpo_load_config *how) {
    int precision = how ? how->precision : DPO_PRECISION_FP32, frozen = how && how->frozen;
    dpo_model_config k;
    dpo__loader l;
    char *text = NULL;
    if (!dpo__given(c, "dpo_model_load", dir) || dpo__model_precision_check(c, "dpo_model_load_as", precision) ||
        dpo__config_load(c, dir, &k, &text))
        return NULL;
    memset(&l, 0, sizeof l);
    l.dir = dir;
    l.m = dpo__model_new(c, &k, 1, dpo__model_storage(precision, frozen));
    if (!l.m) {
        dpo__put(c, text);
        return NULL;
    }
    l.m->precision = precision;
    l.m->frozen = frozen;
    l.m->config_text = text;
    l.verify = how && how->verify;
    l.no_map = how && how->no_map;
    if (dpo__model_take_dir(&l)) {
        dpo_model_free(l.m);
        return NULL;
    }
    dpo__alibi_scale(l.m);
    dpo__model_say_rounded(l.m, l.rounded);
    return l.m;
}
DPO_API dpo_model *dpo_model_load(dpo_context *c, const char *dir) { return dpo_model_load_as(c, dir, NULL); }

/* --- in another storage ---------------------------------------------------------------------------- */

static dpo_result dpo__param_copy(dpo_context *c, dpo__param *to, const dpo__param *p, int64_t *rounded) {
    if (!to->data) { /* a frozen matrix stays what it is */
        to->dtype = p->dtype;
        to->data = to->own = dpo__get(c, (size_t)p->count * dpo__st_size(p->dtype), "a weight matrix");
        if (!to->own) return DPO_E_MEMORY;
    }
    if (to->dtype == p->dtype) memcpy(to->data, p->data, (size_t)p->count * dpo__st_size(p->dtype));
    else if (to->dtype == DPO_F32) c->kernels.expand(p->count, dpo__param_f32(to), (const uint16_t *)p->data, 0);
    else *rounded += dpo__st_round(c, (uint16_t *)to->data, dpo__param_f32(p), p->count);
    return DPO_OK;
}
static dpo_model *dpo__model_copy(const dpo_model *m, int precision, int frozen) {
    dpo_context *c = m->c;
    dpo_model *to = dpo__model_new(c, &m->config, 1, dpo__model_storage(precision, frozen));
    int64_t i, rounded = 0;
    dpo_result r = DPO_OK;
    if (!to) return NULL;
    to->precision = precision;
    to->frozen = frozen;
    to->slopes_in_file = m->slopes_in_file;
    to->no_prefix = m->no_prefix;
    if (m->slopes) memcpy(to->slopes, m->slopes, (size_t)m->config.num_attention_heads * sizeof(float));
    dpo__alibi_scale(to);
    if (m->config_text) {
        size_t n = strlen(m->config_text) + 1;
        to->config_text = (char *)dpo__get(c, n, "a configuration");
        if (to->config_text) memcpy(to->config_text, m->config_text, n);
        else r = DPO_E_MEMORY;
    }
    for (i = 0; i < m->n_params && !r; i++) {
        dpo__param *p = &to->params[i];
        r = dpo__param_copy(c, p, &m->params[i], &rounded);
        if (precision == DPO_PRECISION_BF16 && !frozen && !p->columns)
            rounded += dpo__st_round(c, NULL, dpo__param_f32(p), p->count);
    }
    if (r) {
        dpo_model_free(to);
        return NULL;
    }
    dpo__model_say_rounded(to, rounded);
    return to;
}
DPO_API dpo_model *dpo_model_copy(const dpo_model *m, const dpo_load_config *how) {
    int precision = how ? how->precision : DPO_PRECISION_FP32;
    if (!m || m->c->error.code || dpo__model_precision_check(m->c, "dpo_model_copy", precision)) return NULL;
    return dpo__model_copy(m, precision, how && how->frozen);
}

/* --- a packed copy for products ---------------------------------------------------------------------- */

/* Panels of every matrix that rows are multiplied by. Runs twice: with a NULL base it measures. */
static void dpo__model_panels(dpo_model *m, dpo__arena *a) {
    int bf16 = m->precision != DPO_PRECISION_FP32;
    int64_t i;
    for (i = 0; i < m->n_params; i++) {
        dpo__param *p = &m->params[i];
        int conv1d = m->config.conv1d && p->kind == DPO__MATRIX, head = p->kind == DPO__HEADMATRIX;
        int64_t in = conv1d ? p->rows : p->columns, out = conv1d ? p->columns : p->rows;
        dpo__operand w = {p->data, conv1d ? out : 1, conv1d ? 1 : in, p->dtype};
        void *to;
        if (p->kind != DPO__MATRIX && !head && !(p->id == DPO__EMBED && m->config.tie_word_embeddings)) continue;
        to = DPO__CARVE(a, uint8_t, (int64_t)dpo__gemm_packed_size(&m->c->kernels, in, out, bf16));
        if (!to) continue;
        dpo__gemm_pack_all(m->c, w, in, out, bf16, to);
        p->panels = to;
    }
}
DPO_API void dpo_model_unpack(dpo_model *m) {
    int64_t i;
    if (!m || !m->packed) return;
    for (i = 0; i < m->n_params; i++) m->params[i].panels = NULL;
    dpo__put(m->c, m->packed);
    m->packed = NULL;
    m->packed_bytes = 0;
}
DPO_API dpo_result dpo_model_pack(dpo_model *m) {
    dpo__arena a = {NULL, 0};
    dpo__fpenv env;
    DPO__READY(m, m->c);
    dpo_model_unpack(m);
    dpo__model_panels(m, &a);
    if (!dpo__arena_get(m->c, &a, "a packed copy of the weights")) return DPO_E_MEMORY;
    m->packed = a.base;
    m->packed_bytes = a.used;
    env = dpo__fp_enter();
    dpo__model_panels(m, &a);
    dpo__fp_leave(env);
    return DPO_OK;
}

DPO_API int dpo_model_precision_of(const dpo_model *m) { return m ? m->precision : DPO_PRECISION_FP32; }
DPO_API dpo_result dpo_model_set_precision(dpo_model *m, int precision) {
    int64_t i;
    DPO__READY(m, m->c);
    if (dpo__model_precision_check(m->c, "dpo_model_set_precision", precision)) return DPO_E_ARG;
    for (i = 0; i < m->n_params && precision == DPO_PRECISION_BF16 && !m->frozen; i++)
        if (m->params[i].columns && m->params[i].dtype != DPO_BF16)
            return dpo__fail(m->c, DPO_E_ARG,
                             "dpo_model_set_precision: %s is kept in F32, bf16 needs BF16; give dpo_model_load_as or "
                             "dpo_model_copy a dpo_load_config with this precision",
                             m->params[i].name);
    if (precision != m->precision) dpo_model_unpack(m);
    m->precision = precision;
    return DPO_OK;
}

/* --- random weights -------------------------------------------------------------------------------- */

typedef struct dpo__init {
    dpo__param *p;
    uint64_t seed, stream;
    double std;
} dpo__init;
/* Normal numbers, two at a time: sqrt(-2 ln u) cos, sin(2 pi v) (Box, Muller 1958). */
static void dpo__init_range(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__init *t = (const dpo__init *)arg;
    float *x = dpo__param_f32(t->p);
    int64_t i;
    (void)worker;
    for (i = first; i < last; i += 2) {
        double u = dpo__random_unit(t->seed, t->stream, (uint64_t)i);
        double v = dpo__random_unit(t->seed, t->stream, (uint64_t)i + 1) * 6.283185307179586477;
        double r = sqrt(-2.0 * dpo__num_log(u)) * t->std;
        x[i] = (float)(r * dpo__num_cos(v));
        if (i + 1 < last) x[i + 1] = (float)(r * dpo__num_sin(v));
    }
}
static void dpo__model_init(dpo_model *m, uint64_t seed) {
    const dpo_model_config *k = &m->config;
    dpo__fpenv env = dpo__fp_enter();
    int64_t i, j;
    for (i = 0; i < m->n_params; i++) {
        dpo__param *p = &m->params[i];
        dpo__init t = {p, seed, (uint64_t)i, k->initializer_range};
        if (p->kind == DPO__GAIN || p->kind == DPO__BIAS) {
            for (j = 0; j < p->count; j++) dpo__param_f32(p)[j] = p->kind == DPO__GAIN ? 1.0f : 0.0f;
            continue;
        }
        if (p->kind == DPO__MATRIX) t.std = t.std * sqrt(k->width_scale); /* [muP] */
        if ((p->id == DPO__O_W || p->id == DPO__DOWN_W) &&
            (k->family == DPO_GPT2 || k->family == DPO_BTLM)) /* GPT-2: what adds to the residual */
            t.std = t.std / sqrt(2.0 * k->num_hidden_layers);
        dpo__split_run(m->c, p->count, 2, dpo__init_range, &t);
    }
    dpo__fp_leave(env);
}
DPO_API dpo_model *dpo_model_create(dpo_context *c, const dpo_model_config *config, uint64_t seed) {
    dpo_model *m;
    if (!dpo__given(c, "dpo_model_create", config) || dpo__config_check(c, "dpo_model_create", config)) return NULL;
    m = dpo__model_new(c, config, 1, DPO_F32);
    if (m) dpo__model_init(m, seed);
    return m;
}
DPO_API dpo_model *dpo_model_create_from(dpo_context *c, const char *config_path, uint64_t seed) {
    dpo_model_config k;
    char *text = NULL;
    dpo_model *m;
    if (!dpo__given(c, "dpo_model_create_from", config_path) || dpo__config_load(c, config_path, &k, &text))
        return NULL;
    m = dpo_model_create(c, &k, seed);
    if (m) m->config_text = text;
    else dpo__put(c, text);
    return m;
}

/* --- saving, looking, hashing ---------------------------------------------------------------------- */

static dpo_tensor dpo__param_view(const dpo__param *p) {
    dpo_tensor t = {
        p->name, p->data, p->dtype, p->columns ? 2 : 1, {p->rows, dpo__max64(p->columns, 1), 1, 1, 1, 1, 1, 1}};
    return t;
}

static int64_t dpo__param_views(const dpo__param *p, int64_t n, dpo_tensor *out, int64_t cap) {
    int64_t i;
    for (i = 0; out && i < n && i < cap; i++) out[i] = dpo__param_view(&p[i]);
    return n;
}

/* config.json as it was read, with the dtype of what is written beside it. */
static dpo_result dpo__model_save_config(const dpo_model *m, const char *path, int dtype) {
    static const char *const names[4] = {"", "\"float32\"", "\"bfloat16\"", "\"float16\""};
    dpo_context *c = m->c;
    dpo__file_writer w;
    char made[4096];
    const char *text = m->config_text;
    size_t n, from = 0;
    dpo__json j;
    int64_t i, v;
    if (!text) { /* made in a program: config.json must be able to say all of it */
        dpo_model_config back;
        const dpo_model_config *k = &m->config;
        n = dpo__config_write(k, made, sizeof made);
        if (dpo__config_parse(c, path, made, n, &back)) return c->error.code;
        if (back.attention_scale - k->attention_scale > 1e-9 || k->attention_scale - back.attention_scale > 1e-9 ||
            back.qkv_bias != k->qkv_bias || back.attention_bias != k->attention_bias || back.mlp_bias != k->mlp_bias ||
            back.activation != k->activation || back.position != k->position || back.rotary_dim != k->rotary_dim ||
            back.alibi_factor != k->alibi_factor || back.parallel_residual != k->parallel_residual)
            return dpo__fail(c, DPO_E_UNSUPPORTED,
                             "%.400s: this model's biases, positions or attention scale are none that a config.json of "
                             "its family can state; choose the family's own",
                             path);
        text = made;
    }
    n = strlen(text);
    if (dpo__json_parse(c, path, text, n, &j)) return c->error.code;
    dpo__file_create(c, path, &w);
    for (i = 0, v = dpo_json_first(&j, 0); i < dpo_json_count(&j, 0); i++, v = dpo_json_next(&j, v + 1)) {
        if (!dpo__json_is(&j, v, "torch_dtype") && !dpo__json_is(&j, v, "dtype")) continue; /* the newer key */
        dpo__file_write(&w, text + from, j.nodes[v + 1].begin - from);
        dpo__file_write(&w, names[dtype], strlen(names[dtype]));
        from = j.nodes[v + 1].end;
    }
    dpo__json_free(c, &j);
    dpo__file_write(&w, text + from, n - from);
    return dpo__file_commit(&w);
}

DPO_API dpo_result dpo_model_save(const dpo_model *m, const char *dir, int dtype) {
    static const char *const metadata[3] = {"format", "pt", NULL};
    dpo_context *c;
    dpo_tensor *views, slopes;
    dpo__st_item *items;
    int64_t i, n;
    char path[4096];
    dpo_result r;
    DPO__READY(m, m->c);
    c = m->c;
    if (!dir || (dtype != DPO_F32 && dtype != DPO_BF16 && dtype != DPO_F16))
        return dpo__fail(c, DPO_E_ARG, "dpo_model_save: needs a directory, and DPO_F32, DPO_BF16 or DPO_F16");
    n = m->n_params + m->slopes_in_file;
    views = (dpo_tensor *)dpo__get(c, (size_t)n * (sizeof *views + sizeof *items), "a list of tensors");
    if (!views) return DPO_E_MEMORY;
    items = (dpo__st_item *)(void *)(views + n);
    slopes = dpo_tensor_f32(m->slopes, m->config.num_attention_heads, 1, 0, 0);
    slopes.name = m->no_prefix ? "relative_pe.slopes" : "transformer.relative_pe.slopes";
    for (i = 0; i < n; i++) {
        int weight = i < m->n_params;
        views[i] = weight ? dpo__param_view(&m->params[i]) : slopes;
        items[i].name = weight ? dpo__model_file_name(m, &m->params[i]) : slopes.name;
        items[i].data = views[i].data;
        items[i].dtype = weight ? dtype : DPO_F32;
        items[i].from = views[i].dtype;
        items[i].ndim = views[i].ndim;
        items[i].shape = views[i].shape;
    }
    r = dpo__file_make_dir(c, dir);
    if (!r) r = dpo__file_join(c, dir, "model.safetensors", path, sizeof path);
    if (!r) r = dpo__st_write(c, path, items, n, metadata, NULL);
    if (!r) r = dpo__file_join(c, dir, "config.json", path, sizeof path);
    if (!r) r = dpo__model_save_config(m, path, dtype);
    dpo__put(c, views);
    return r;
}

DPO_API const dpo_model_config *dpo_model_config_of(const dpo_model *m) { return m ? &m->config : NULL; }

DPO_API int64_t dpo_model_tensors(const dpo_model *m, dpo_tensor *out, int64_t cap) {
    return m ? dpo__param_views(m->params, m->n_params, out, cap) : 0;
}
DPO_API const float *dpo_model_slopes(const dpo_model *m) { return m ? m->slopes_used : NULL; }

DPO_API dpo_result dpo_model_tensors_of(dpo_context *c, const dpo_model_config *config, dpo_tensor **out,
                                        int64_t *count) {
    enum { NAME = sizeof((dpo__param *)NULL)->name };
    dpo_model *m;
    int64_t i;
    if (out) *out = NULL;
    if (count) *count = 0;
    DPO__READY(c, c);
    if (!config || !out || !count)
        return dpo__fail(c, DPO_E_ARG, "dpo_model_tensors_of: config, out and count must not be NULL");
    if (dpo__config_check(c, "dpo_model_tensors_of", config)) return c->error.code;
    m = dpo__model_new(c, config, 0, DPO_F32);
    if (!m) return c->error.code;
    *out = (dpo_tensor *)dpo__get(c, (size_t)m->n_params * (sizeof **out + NAME), "a list of tensors");
    if (*out) *count = dpo_model_tensors(m, *out, m->n_params);
    for (i = 0; i < *count; i++) /* the names outlive the model */
        (*out)[i].name = (char *)memcpy((char *)(*out + *count) + i * NAME, (*out)[i].name, NAME);
    dpo_model_free(m);
    return *out ? DPO_OK : DPO_E_MEMORY;
}

/* Values count as floats, however they are kept. */
static void dpo__hash_param(dpo__hash *h, const dpo__param *p) {
    dpo__hash_add(h, p->name, strlen(p->name));
    dpo__hash_number(h, p->rows);
    dpo__hash_number(h, p->columns);
    if (p->dtype == DPO_BF16) dpo__hash_add_bf16(h, (const uint16_t *)p->data, p->count);
    else dpo__hash_add(h, p->data, (size_t)p->count * sizeof(float));
}
DPO_API uint64_t dpo_model_hash(const dpo_model *m) {
    dpo__hash h = dpo__hash_start(0);
    int64_t i;
    if (!m) return 0;
    for (i = 0; i < m->n_params; i++) dpo__hash_param(&h, &m->params[i]);
    return dpo__hash_end(&h);
}

/* ===========================================================================================
   >>NETWORK - a batch through the model and back

       x = (E[token] (+ P[position])) scale
       each layer    parallel:    x = (x + attn(norm1 x)) + mlp(norm2 x)
                     sequential:  x = x + attn(norm1 x);  x = x + mlp(norm2 x)
       target rows   logp = log softmax(scale W norm_f(x[row]))[token]

   A workspace holds what a pass needs. For training each layer keeps its input, q/k/v after rotation,
   attention's row statistics and output, and the MLP's pre-activations; norm outputs and activations
   are made again in the backward pass. In mixed and bf16 precision q/k/v, attention's output and the pre-activations
   are kept in bf16: they were rounded, or will be. With `recompute` only the inputs are kept.

   Of the last layer only the rows that targets ask for are computed; the others give keys and values, no more.
   =========================================================================================== */

typedef struct dpo__saved {
    float *x;                  /* the layer's input [N,d] */
    float *stats1, *stats2;    /* of the norms [N,2] */
    float *qkv, *attend, *att; /* [N,(H+2K)D]  [N,H,2]  [N,H*D] */
    float *mid;                /* x + attention [N,d]; sequential residuals only */
    float *up, *gate;          /* [N,f] */
    /* In bf16, what is kept of qkv (before rotation), att, up and gate, which serve one layer after the other then. */
    uint16_t *qkv16, *att16, *up16, *gate16;
} dpo__saved;

typedef struct dpo__run {
    dpo_context *c;
    dpo_model *m;
    dpo__shape cap;
    int train, recompute;
    int bf16;        /* operands of linear products are rounded */
    int naive;       /* all rows of the last layer and of the head, for comparison */
    int head_frozen; /* its input's gradient needs no weights: one pass over the logits */
    int head_twice;  /* logits are computed again once the weights are known, not kept until then */
    int64_t head_rows, lora_r;
    dpo__saved *saved; /* [layers + 1]; the last has x only */
    int32_t *positions, *trees;
    float *cosines, *sines; /* [path, rotary/2] */
    float *norm, *branch, *branch2, *act, *lora;
    float *dx, *dnorm, *dnorm2, *datt, *dqkv, *dact, *dgate;
    float **scratch;
    /* a tile of target rows; head_dnorm: all of them if the head is frozen */
    int32_t *head_row, *head_token;
    float *head_x, *head_norm, *head_stats, *head_dx, *head_dnorm, *logits, *logit_stats, *logit_blocks;
    double *head_logp, *head_weight;
    /* the batch at hand */
    const dpo_batch *batch;
    int64_t n_trees, rows; /* rows that the layer at hand works on */
    /* rows asked of the last layer: of each segment, which ones [n_asked], their numbers [N], their inputs */
    dpo__asked *all, *asked;
    int64_t n_asked;
    int32_t *asked_row, *asked_of;
    float *asked_x;
    /* cached keys and values, per layer as attention has them; first row of each segment's */
    float *cache_k, *cache_v;
    int64_t cache_rows;
    const int64_t *cache_first;
} dpo__run;

/* Where gradients go; NULL pointers are frozen parameters. */
typedef struct dpo__grads {
    float **params;       /* [n_params] */
    float **lora;         /* [adapters' tensors] */
    float *embedding;     /* a tied matrix: its use as embedding, one row per slot */
    const int32_t *slots; /* [N] slot of each row's token */
} dpo__grads;

/* Runs a statement in the floating-point environment of all computing. */
#define DPO__COMPUTE(statement)                                                                                        \
    do {                                                                                                               \
        dpo__fpenv env_ = dpo__fp_enter();                                                                             \
        statement;                                                                                                     \
        dpo__fp_leave(env_);                                                                                           \
    } while (0)

static int64_t dpo__qkv_width(const dpo_model_config *k) {
    return ((int64_t)k->num_attention_heads + 2 * (int64_t)k->num_key_value_heads) * k->head_dim;
}

static void dpo__run_layout_layers(dpo__arena *a, const dpo_model_config *k, dpo__run *r) {
    int64_t l, n = r->cap.rows, d = k->hidden_size, layers = k->num_hidden_layers;
    int64_t hd = (int64_t)k->num_attention_heads * k->head_dim, f = k->intermediate_size;
    int gated = k->activation == DPO_SWIGLU, keep = r->train && r->bf16 && !r->recompute;
    dpo__saved one, *s;
    memset(&one, 0, sizeof one);
    r->saved = DPO__CARVE(a, dpo__saved, layers + 1);
    for (l = 0; l <= layers; l++) {
        s = r->saved ? &r->saved[l] : &one;
        if (!l) memset(s, 0, sizeof *s);
        else if (r->saved) *s = r->saved[0]; /* what layers share */
        if (l && !r->train) continue;        /* forward only: one set of buffers serves every layer */
        s->x = DPO__CARVE(a, float, n *d);
        if (l == layers || (l && r->recompute)) continue;
        s->stats1 = DPO__CARVE(a, float, n * 2);
        s->stats2 = DPO__CARVE(a, float, n * 2);
        s->attend = DPO__CARVE(a, float, n * k->num_attention_heads * 2);
        s->mid = DPO__CARVE(a, float, k->parallel_residual ? 0 : n *d);
        if (keep) {
            s->qkv16 = DPO__CARVE(a, uint16_t, n * dpo__qkv_width(k));
            s->att16 = DPO__CARVE(a, uint16_t, n * hd);
            s->up16 = DPO__CARVE(a, uint16_t, n * f);
            s->gate16 = DPO__CARVE(a, uint16_t, gated ? n * f : 0);
        }
        if (l && keep) continue;
        s->qkv = DPO__CARVE(a, float, n *dpo__qkv_width(k));
        s->att = DPO__CARVE(a, float, n *hd);
        s->up = DPO__CARVE(a, float, n *f);
        s->gate = DPO__CARVE(a, float, gated ? n *f : 0);
    }
}

/* A tile of target rows and its logits. */
static void dpo__run_layout_head(dpo__arena *a, const dpo_model_config *k, dpo__run *r) {
    int64_t t = r->head_rows, d = k->hidden_size, back = r->train ? t : 0;
    r->head_row = DPO__CARVE(a, int32_t, t);
    r->head_token = DPO__CARVE(a, int32_t, t);
    r->head_logp = DPO__CARVE(a, double, t);
    r->head_weight = DPO__CARVE(a, double, t);
    r->head_x = DPO__CARVE(a, float, t *d);
    r->head_norm = DPO__CARVE(a, float, t *d);
    r->head_stats = DPO__CARVE(a, float, t * 2);
    r->logit_stats = DPO__CARVE(a, float, t * 2);
    r->logit_blocks = DPO__CARVE(a, float, t * 2 * dpo__head_blocks(k->vocab_size));
    r->head_dx = DPO__CARVE(a, float, back *d);
    r->head_dnorm = DPO__CARVE(a, float, (r->head_frozen && r->train ? r->cap.targets : back) * d);
    r->logits = DPO__CARVE(a, float, t * k->vocab_size);
}

/* r->cap, train, recompute, bf16, head_rows, head_frozen and lora_r say what for. Runs twice. */
static void dpo__run_layout(dpo__arena *a, const dpo_model_config *k, int workers, dpo__run *r) {
    int64_t n = r->cap.rows, d = k->hidden_size, f = k->intermediate_size, back = r->train ? n : 0;
    int64_t hd = (int64_t)k->num_attention_heads * k->head_dim;
    int64_t half = k->position == DPO_POSITION_ROPE ? k->rotary_dim / 2 : 0;
    int64_t scratch =
        dpo__attention_scratch(k->num_attention_heads, k->num_key_value_heads, k->head_dim, r->cap.path, r->train);
    int w;
    r->positions = DPO__CARVE(a, int32_t, n);
    r->trees = DPO__CARVE(a, int32_t, r->cap.segments + 1);
    r->all = DPO__CARVE(a, dpo__asked, r->cap.segments);
    r->asked = DPO__CARVE(a, dpo__asked, r->cap.segments);
    r->asked_row = DPO__CARVE(a, int32_t, n);
    r->asked_of = DPO__CARVE(a, int32_t, n);
    r->asked_x = DPO__CARVE(a, float, n *d);
    r->cosines = DPO__CARVE(a, float, r->cap.path *half);
    r->sines = DPO__CARVE(a, float, r->cap.path *half);
    dpo__run_layout_layers(a, k, r);
    r->norm = DPO__CARVE(a, float, n *d);
    r->branch = DPO__CARVE(a, float, n *d);
    r->branch2 = DPO__CARVE(a, float, n *d);
    r->act = DPO__CARVE(a, float, n *f);
    r->lora = DPO__CARVE(a, float, 2 * dpo__max64(n, r->head_rows) * r->lora_r);
    r->dx = DPO__CARVE(a, float, back *d);
    r->dnorm = DPO__CARVE(a, float, back *d);
    r->dnorm2 = DPO__CARVE(a, float, k->parallel_residual ? back *d : 0);
    r->datt = DPO__CARVE(a, float, back *hd);
    r->dqkv = DPO__CARVE(a, float, back *dpo__qkv_width(k));
    r->dact = DPO__CARVE(a, float, back *f);
    r->dgate = DPO__CARVE(a, float, k->activation == DPO_SWIGLU ? back * f : 0);
    r->scratch = DPO__CARVE(a, float *, workers);
    for (w = 0; w < workers; w++) {
        float *p = DPO__CARVE(a, float, scratch);
        if (r->scratch) r->scratch[w] = p;
    }
    dpo__run_layout_head(a, k, r);
}

/* The frequency of each rotated pair: theta^(-2i/rot), scaled as the configuration says. */
static double dpo__rope_frequency(const dpo_model_config *k, int64_t i) {
    double f = 1.0 / dpo__num_pow(k->rope_theta, (double)(2 * i) / (double)k->rotary_dim);
    if (k->rope_scaling == DPO_ROPE_LINEAR) f = f / k->rope_factor;
    if (k->rope_scaling == DPO_ROPE_LLAMA3) {
        double wave = 6.283185307179586477 / f, length = k->rope_original_max_position;
        double low = length / k->rope_low_freq_factor, high = length / k->rope_high_freq_factor;
        if (wave > low) f = f / k->rope_factor;
        else if (wave >= high) { /* between the two: blend */
            double s = (length / wave - k->rope_low_freq_factor) / (k->rope_high_freq_factor - k->rope_low_freq_factor);
            double slow = (1.0 - s) * (f / k->rope_factor), fast = s * f;
            f = slow + fast;
        }
    }
    return f;
}
/* Cosines and sines [n, rotary/2] of positions, or of 0..n-1: angles in double, rounded once. Needs the computing
   environment. */
static void dpo__rope_tables(const dpo_model_config *k, const int32_t *positions, int64_t n, float *cosines,
                             float *sines) {
    int64_t i, p, half = k->rotary_dim / 2;
    for (i = 0; i < half; i++) {
        double f = dpo__rope_frequency(k, i);
        for (p = 0; p < n; p++) {
            double angle = (double)(positions ? positions[p] : p) * f;
            cosines[p * half + i] = (float)dpo__num_cos(angle);
            sines[p * half + i] = (float)dpo__num_sin(angle);
        }
    }
}
static void dpo__run_tables(dpo__run *r) {
    const dpo_model_config *k = &r->m->config;
    if (k->position == DPO_POSITION_ROPE) DPO__COMPUTE(dpo__rope_tables(k, NULL, r->cap.path, r->cosines, r->sines));
}

/* --- linear modules with their adapters ------------------------------------------------------------ */

/* Where a module's A stands among the adapters' tensors, with B behind it; -1: it has none, or they are off. */
static int32_t dpo__model_adapter(const dpo_model *m, int64_t layer, int id) {
    if (!m->lora || !m->lora->on) return -1;
    return m->lora->of[layer * DPO__N_TENSORS + (id == DPO__EMBED ? DPO__HEAD : id)];
}
/* The matrix of the output head: a tied one is the embedding's. */
static int dpo__model_head(const dpo_model *m) { return m->config.tie_word_embeddings ? DPO__EMBED : DPO__HEAD; }

static dpo__linear dpo__model_linear(const dpo_model *m, int64_t layer, int id) {
    const dpo__param *w = dpo__model_param(m, layer, id);
    const dpo__param *b = id == DPO__HEAD || id == DPO__EMBED ? NULL : dpo__model_param(m, layer, id + 1);
    int32_t a = dpo__model_adapter(m, layer, id);
    dpo__linear l;
    memset(&l, 0, sizeof l);
    l.w = w->data;
    l.panels = w->panels;
    l.dtype = w->dtype;
    l.bf16 = m->precision != DPO_PRECISION_FP32;
    l.b = b ? dpo__param_f32(b) : NULL;
    l.conv1d = m->config.conv1d && w->kind == DPO__MATRIX;
    l.out = l.conv1d ? w->columns : w->rows;
    l.in = l.conv1d ? w->rows : w->columns;
    if (a >= 0) {
        l.lora_a = dpo__param_f32(&m->lora->params[a]);
        l.lora_b = dpo__param_f32(&m->lora->params[a + 1]);
        l.r = m->lora->config.r;
        l.scale = m->lora->scale;
    }
    return l;
}
static dpo__linear_grad dpo__model_linear_grad(const dpo_model *m, const dpo__grads *g, int64_t layer, int id) {
    const int32_t *of = m->of + layer * DPO__N_TENSORS;
    int32_t b = id == DPO__HEAD || id == DPO__EMBED ? -1 : of[id + 1], a = dpo__model_adapter(m, layer, id);
    dpo__linear_grad l;
    l.w = g->params[of[id]];
    l.b = b >= 0 ? g->params[b] : NULL;
    l.lora_a = a >= 0 && g->lora ? g->lora[a] : NULL;
    l.lora_b = a >= 0 && g->lora ? g->lora[a + 1] : NULL;
    return l;
}
/* y[:, at ...] = module(x) */
static void dpo__run_linear(dpo__run *r, int64_t layer, int id, float *y, int64_t y_row, const float *x) {
    dpo__linear l = dpo__model_linear(r->m, layer, id);
    dpo__linear_forward(r->c, &l, y, y_row, x, l.in, r->rows, r->lora);
}
static void dpo__run_linear_back(dpo__run *r, const dpo__grads *g, int64_t layer, int id, float *dx, int add,
                                 const float *dy, int64_t dy_row, const float *x) {
    dpo__linear l = dpo__model_linear(r->m, layer, id);
    dpo__linear_grad grad = dpo__model_linear_grad(r->m, g, layer, id);
    dpo__linear_backward(r->c, &l, &grad, dx, l.in, add, dy, dy_row, x, l.in, r->rows, r->lora);
}

static dpo__norm dpo__norm_of(dpo_context *c, int kind, int64_t n, int64_t d, const float *x, const float *w,
                              float *stats) {
    dpo__norm l;
    memset(&l, 0, sizeof l);
    l.c = c;
    l.kind = kind;
    l.n = n;
    l.d = d;
    l.x = x;
    l.w = w;
    l.stats = stats;
    return l;
}
static dpo__norm dpo__run_norm(const dpo__run *r, int64_t layer, int id, const float *x, float *y, float *stats,
                               int64_t rows) {
    const dpo_model_config *k = &r->m->config;
    const dpo__param *w = dpo__model_param(r->m, layer, id), *b = dpo__model_param(r->m, layer, id + 1);
    dpo__norm l = dpo__norm_of(r->c, k->norm, rows, k->hidden_size, x, dpo__param_f32(w), stats);
    l.b = b ? dpo__param_f32(b) : NULL;
    l.y = y;
    l.eps = (float)k->norm_eps;
    return l;
}
static void dpo__run_norm_back(dpo__run *r, const dpo__grads *g, dpo__norm *l, int64_t layer, int id, const float *dy,
                               float *dx, int add) {
    int32_t w = r->m->of[layer * DPO__N_TENSORS + id], b = r->m->of[layer * DPO__N_TENSORS + id + 1];
    l->dy = dy;
    l->dx = dx;
    l->add = add;
    l->dw = g->params[w];
    l->db = b >= 0 ? g->params[b] : NULL;
    dpo__norm_backward(l);
}

/* Rows of a table, by ids. */
static dpo__embedding dpo__embedding_of(dpo_context *c, const int32_t *ids, int64_t n, int64_t d) {
    dpo__embedding e;
    memset(&e, 0, sizeof e);
    e.c = c;
    e.ids = ids;
    e.n = n;
    e.d = d;
    e.scale = 1.0f;
    return e;
}
/* to[i] = x[rows[i]], for rows of hidden states */
static void dpo__run_gather(const dpo__run *r, float *to, const float *x, const int32_t *rows, int64_t n) {
    dpo__embedding e = dpo__embedding_of(r->c, rows, n, r->m->config.hidden_size);
    e.table = x;
    e.x = to;
    dpo__embedding_forward(&e);
}

/* --- attention and MLP of a layer ------------------------------------------------------------------ */

static dpo__attention dpo__run_attention(const dpo__run *r, int64_t layer, const dpo__saved *s) {
    const dpo_model_config *k = &r->m->config;
    int64_t d = k->head_dim, hd = d * k->num_attention_heads, kd = d * k->num_key_value_heads;
    dpo__attention l;
    memset(&l, 0, sizeof l);
    l.c = r->c;
    l.segments = r->batch->segments;
    l.asked = layer + 1 == k->num_hidden_layers ? r->asked : r->all;
    l.trees = r->trees;
    l.n_trees = r->n_trees;
    l.heads = k->num_attention_heads;
    l.kv_heads = k->num_key_value_heads;
    l.dim = d;
    l.scale = (float)(k->attention_scale_by_layer ? k->attention_scale / (double)(layer + 1) : k->attention_scale);
    l.q_row = l.k_row = l.v_row = dpo__qkv_width(k);
    l.q_head = l.k_head = l.v_head = k->qkv == DPO_QKV_HEADS ? 3 * d : d;
    l.q = s->qkv;
    l.k = s->qkv + (k->qkv == DPO_QKV_HEADS ? d : hd);
    l.v = s->qkv + (k->qkv == DPO_QKV_HEADS ? 2 * d : hd + kd);
    l.out = s->att;
    l.stats = s->attend;
    l.max_path = r->cap.path;
    l.scratch = r->scratch;
    l.slopes = r->m->slopes_used;
    if (r->cache_k) {
        l.cache_k = r->cache_k + layer * r->cache_rows * kd;
        l.cache_v = r->cache_v + layer * r->cache_rows * kd;
        l.cache_first = r->cache_first;
        l.cache_rows = r->cache_rows;
    }
    return l;
}
/* Rotates q and k of a q/k/v buffer; turn -1 back. */
static void dpo__run_rotate(const dpo__run *r, const dpo__attention *a, const float *qkv, float *x, float turn) {
    const dpo_model_config *k = &r->m->config;
    dpo__rope l = {r->c,         x + (a->q - qkv), a->q_row, a->q_head, r->batch->n_rows, a->heads, k->rotary_dim / 2,
                   r->positions, r->cosines,       r->sines, turn};
    if (k->position != DPO_POSITION_ROPE || !k->rotary_dim) return;
    dpo__split_light(r->c, l.n, l.heads * k->rotary_dim, 1, dpo__rope_rows, &l);
    l.x = x + (a->k - qkv);
    l.head = a->k_head;
    l.heads = a->kv_heads;
    dpo__split_light(r->c, l.n, l.heads * k->rotary_dim, 1, dpo__rope_rows, &l);
}
/* The new rows' keys and values go behind what the cache has of their segment. */
typedef struct dpo__caching {
    const dpo__run *r;
    const dpo__attention *a;
    float *k, *v; /* the layer's */
} dpo__caching;
static void dpo__caching_heads(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__caching *t = (const dpo__caching *)arg;
    const dpo__attention *a = t->a;
    int64_t nr = a->c->kernels.product[0].nr, s, i, j, h, d = a->dim;
    (void)worker;
    for (h = first; h < last; h++)
        for (s = 0; s < t->r->batch->n_segments; s++) {
            const dpo_segment *g = &t->r->batch->segments[s];
            int64_t base = (h * a->cache_rows + a->cache_first[s]) * d;
            for (i = 0; i < g->length; i++) {
                const float *k = a->k + (g->first + i) * a->k_row + h * a->k_head;
                int64_t at = g->past + i;
                float *to = t->k + base + at / nr * nr * d + at % nr;
                for (j = 0; j < d; j++) to[j * nr] = k[j];
                memcpy(t->v + base + at * d, a->v + (g->first + i) * a->v_row + h * a->v_head,
                       (size_t)d * sizeof(float));
            }
        }
}
static void dpo__run_cache(const dpo__run *r, const dpo__attention *a) {
    dpo__caching t = {r, a, r->cache_k + (a->cache_k - r->cache_k), r->cache_v + (a->cache_v - r->cache_v)};
    dpo__split_light(r->c, a->kv_heads, r->batch->n_rows * a->dim, 1, dpo__caching_heads, &t);
}
/* x rounded to bf16 in place and, if there is a place, in `keep`; and back from there. */
typedef struct dpo__rounding {
    dpo_context *c;
    float *x;
    uint16_t *keep;
    int back;
} dpo__rounding;
static void dpo__rounding_range(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__rounding *t = (const dpo__rounding *)arg;
    uint16_t *keep = t->keep ? t->keep + first : NULL;
    (void)worker;
    if (t->back) t->c->kernels.expand(last - first, t->x + first, keep, 0);
    else t->c->kernels.narrow(last - first, keep, t->x + first, t->x + first);
}
static void dpo__run_round(const dpo__run *r, float *x, uint16_t *keep, int64_t n) {
    dpo__rounding t = {r->c, x, keep, 0};
    if (r->bf16) dpo__split_light(r->c, n, 1, 16, dpo__rounding_range, &t);
}
static void dpo__run_unround(const dpo__run *r, float *x, uint16_t *keep, int64_t n) {
    dpo__rounding t = {r->c, x, keep, 1};
    if (keep) dpo__split_run(r->c, n, 16, dpo__rounding_range, &t);
}

/* Rows that a layer gives. */
static int64_t dpo__layer_asked(const dpo__run *r, int64_t layer) {
    return layer + 1 == r->m->config.num_hidden_layers ? r->n_asked : r->batch->n_rows;
}
/* Its input at those rows. */
static const float *dpo__layer_x(const dpo__run *r, int64_t layer, const dpo__saved *s) {
    if (dpo__layer_asked(r, layer) == r->batch->n_rows) return s->x;
    dpo__run_gather(r, r->asked_x, s->x, r->asked_row, r->n_asked);
    return r->asked_x;
}

/* r->branch, if it is wanted = attention's contribution to the residual stream. */
static void dpo__layer_attention(dpo__run *r, int64_t layer, const dpo__saved *s, int branch) {
    const dpo_model_config *k = &r->m->config;
    int64_t width = dpo__qkv_width(k);
    dpo__attention a = dpo__run_attention(r, layer, s);
    dpo__norm n = dpo__run_norm(r, layer, DPO__NORM1_W, s->x, r->norm, s->stats1, r->batch->n_rows);
    r->rows = r->batch->n_rows;
    dpo__norm_forward(&n);
    if (k->qkv != DPO_QKV_SEPARATE) dpo__run_linear(r, layer, DPO__QKV_W, s->qkv, width, r->norm);
    else {
        dpo__run_linear(r, layer, DPO__Q_W, s->qkv, width, r->norm);
        dpo__run_linear(r, layer, DPO__K_W, s->qkv + (a.k - a.q), width, r->norm);
        dpo__run_linear(r, layer, DPO__V_W, s->qkv + (a.v - a.q), width, r->norm);
    }
    dpo__run_round(r, s->qkv, s->qkv16, r->rows * width);
    dpo__run_rotate(r, &a, s->qkv, s->qkv, 1.0f);
    if (r->cache_k) dpo__run_cache(r, &a);
    dpo__attention_forward(&a);
    r->rows = dpo__layer_asked(r, layer);
    dpo__run_round(r, s->att, s->att16, r->rows * a.heads * a.dim); /* the next product would do it */
    if (branch) dpo__run_linear(r, layer, DPO__O_W, r->branch, k->hidden_size, s->att);
}
/* The MLP's pre-activations from x (the layer's input, or x + attention). */
static void dpo__layer_mlp_in(dpo__run *r, int64_t layer, const dpo__saved *s, const float *x) {
    const dpo_model_config *k = &r->m->config;
    dpo__norm n = dpo__run_norm(r, layer, DPO__NORM2_W, x, r->norm, s->stats2, r->rows);
    dpo__norm_forward(&n);
    dpo__run_linear(r, layer, DPO__UP_W, s->up, k->intermediate_size, r->norm);
    dpo__run_round(r, s->up, s->up16, r->rows * k->intermediate_size);
    if (k->activation != DPO_SWIGLU) return;
    dpo__run_linear(r, layer, DPO__GATE_W, s->gate, k->intermediate_size, r->norm);
    dpo__run_round(r, s->gate, s->gate16, r->rows * k->intermediate_size);
}
static dpo__activation dpo__layer_activation(const dpo__run *r, const dpo__saved *s) {
    dpo__activation a;
    memset(&a, 0, sizeof a);
    a.c = r->c;
    a.kind = r->m->config.activation;
    a.x = s->up;
    a.gate = s->gate;
    a.y = r->act;
    return a;
}

/* to = x + a (+ b) */
typedef struct dpo__residual {
    dpo_context *c;
    float *to;
    const float *x, *a, *b;
} dpo__residual;
static void dpo__residual_range(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__residual *t = (const dpo__residual *)arg;
    int64_t n = last - first;
    (void)worker;
    if (t->to != t->x) memcpy(t->to + first, t->x + first, (size_t)n * sizeof(float));
    t->c->kernels.add(n, t->to + first, t->a + first);
    if (t->b) t->c->kernels.add(n, t->to + first, t->b + first);
}
static void dpo__run_residual(const dpo__run *r, float *to, const float *x, const float *a, const float *b) {
    dpo__residual t = {r->c, to, x, a, b};
    dpo__split_light(r->c, r->rows * r->m->config.hidden_size, 1, 16, dpo__residual_range, &t);
}

/* Everything the backward pass needs of a layer; with `to` also its output. */
static void dpo__layer_forward(dpo__run *r, int64_t layer, const dpo__saved *s, float *to) {
    const dpo_model_config *k = &r->m->config;
    const float *x;
    dpo__activation a;
    dpo__layer_attention(r, layer, s, to || !k->parallel_residual);
    x = dpo__layer_x(r, layer, s);
    if (!k->parallel_residual) dpo__run_residual(r, s->mid, x, r->branch, NULL);
    dpo__layer_mlp_in(r, layer, s, k->parallel_residual ? x : s->mid);
    if (!to) return;
    a = dpo__layer_activation(r, s);
    dpo__activation_forward(&a, r->rows * k->intermediate_size);
    dpo__run_linear(r, layer, DPO__DOWN_W, r->branch2, k->hidden_size, r->act);
    if (k->parallel_residual) dpo__run_residual(r, to, x, r->branch, r->branch2);
    else dpo__run_residual(r, to, s->mid, r->branch2, NULL);
}

/* From r->dx, d(loss)/d(output), to d(loss)/d(norm2's output) in dnorm. */
static void dpo__layer_mlp_back(dpo__run *r, const dpo__grads *g, int64_t layer, const dpo__saved *s, dpo__norm *n,
                                float *dnorm) {
    const dpo_model_config *k = &r->m->config;
    int64_t f = k->intermediate_size;
    dpo__activation a = dpo__layer_activation(r, s);
    dpo__run_unround(r, s->up, s->up16, r->rows * f);
    if (k->activation == DPO_SWIGLU) dpo__run_unround(r, s->gate, s->gate16, r->rows * f);
    dpo__activation_forward(&a, r->rows * f);
    dpo__run_linear_back(r, g, layer, DPO__DOWN_W, r->dact, 0, r->dx, k->hidden_size, r->act);
    a.dy = a.dx = r->dact;
    a.dgate = r->dgate;
    dpo__activation_backward(&a, r->rows * f);
    n->again = 1;
    dpo__norm_forward(n); /* r->norm: the MLP's input once more */
    dpo__run_linear_back(r, g, layer, DPO__UP_W, dnorm, 0, r->dact, f, r->norm);
    if (k->activation == DPO_SWIGLU) dpo__run_linear_back(r, g, layer, DPO__GATE_W, dnorm, 1, r->dgate, f, r->norm);
}
/* From r->dx to d(loss)/d(norm1's output) in dnorm, unless that is NULL. */
static void dpo__layer_attention_back(dpo__run *r, const dpo__grads *g, int64_t layer, const dpo__saved *s,
                                      dpo__norm *n, float *dnorm) {
    const dpo_model_config *k = &r->m->config;
    int64_t width = dpo__qkv_width(k), rows = r->batch->n_rows;
    dpo__attention a = dpo__run_attention(r, layer, s);
    dpo__run_unround(r, s->att, s->att16, r->rows * a.heads * a.dim);
    dpo__run_linear_back(r, g, layer, DPO__O_W, r->datt, 0, r->dx, k->hidden_size, s->att);
    if (s->qkv16) {
        dpo__run_unround(r, s->qkv, s->qkv16, rows * width);
        dpo__run_rotate(r, &a, s->qkv, s->qkv, 1.0f);
    }
    a.dout = r->datt;
    a.dq = r->dqkv + (a.q - s->qkv);
    a.dk = r->dqkv + (a.k - s->qkv);
    a.dv = r->dqkv + (a.v - s->qkv);
    dpo__attention_backward(&a);
    dpo__run_rotate(r, &a, s->qkv, r->dqkv, -1.0f);
    r->rows = rows;
    n->again = 1;
    dpo__norm_forward(n);
    if (k->qkv != DPO_QKV_SEPARATE) {
        dpo__run_linear_back(r, g, layer, DPO__QKV_W, dnorm, 0, r->dqkv, width, r->norm);
        return;
    }
    dpo__run_linear_back(r, g, layer, DPO__Q_W, dnorm, 0, a.dq, width, r->norm);
    dpo__run_linear_back(r, g, layer, DPO__K_W, dnorm, 1, a.dk, width, r->norm);
    dpo__run_linear_back(r, g, layer, DPO__V_W, dnorm, 1, a.dv, width, r->norm);
}
/* r->dx: from the asked rows, in order, to all rows; zero where none was asked. */
static void dpo__run_spread(const dpo__run *r) {
    int64_t i, d = r->m->config.hidden_size;
    for (i = r->batch->n_rows - 1; i >= 0; i--) { /* each row moves up, so the last one goes first */
        float *to = r->dx + i * d;
        if (r->asked_of[i] < 0) memset(to, 0, (size_t)d * sizeof(float));
        else if (r->asked_of[i] != i) memcpy(to, r->dx + r->asked_of[i] * d, (size_t)d * sizeof(float));
    }
}
/* Whether anything in a layer's MLP learns. */
static int dpo__layer_mlp_learns(const dpo__run *r, int64_t layer) {
    const dpo__lora *l = r->m->lora;
    const int32_t *of = l && l->on ? l->of + layer * DPO__N_TENSORS : NULL;
    return !of || of[DPO__UP_W] >= 0 || of[DPO__GATE_W] >= 0 || of[DPO__DOWN_W] >= 0;
}
/* r->dx: from d(loss)/d(output) to d(loss)/d(input) of a layer, in place:
   parallel    dx + norm2'(mlp'(dx)) + norm1'(attn'(dx));   sequential: the MLP's part first
   Under adapters nothing learns below the first layer: its input's gradient is not needed. */
static void dpo__layer_backward(dpo__run *r, const dpo__grads *g, int64_t layer, const dpo__saved *s) {
    int parallel = r->m->config.parallel_residual;
    int64_t rows = dpo__layer_asked(r, layer), all = r->batch->n_rows;
    int lowest = !layer && !g->params[r->m->of[(int64_t)r->m->config.num_hidden_layers * DPO__N_TENSORS + DPO__EMBED]];
    int mlp = !lowest || !parallel || dpo__layer_mlp_learns(r, layer);
    const float *x = rows < all ? r->asked_x : s->x;
    dpo__norm n1 = dpo__run_norm(r, layer, DPO__NORM1_W, s->x, r->norm, s->stats1, all);
    dpo__norm n2 = dpo__run_norm(r, layer, DPO__NORM2_W, parallel ? x : s->mid, r->norm, s->stats2, rows);
    float *dnorm2 = parallel ? r->dnorm2 : r->dnorm;
    r->rows = rows;
    if (mlp) dpo__layer_mlp_back(r, g, layer, s, &n2, dnorm2);
    if (!parallel) dpo__run_norm_back(r, g, &n2, layer, DPO__NORM2_W, dnorm2, r->dx, 1);
    dpo__layer_attention_back(r, g, layer, s, &n1, lowest ? NULL : r->dnorm);
    if (lowest) return;
    if (parallel) dpo__run_norm_back(r, g, &n2, layer, DPO__NORM2_W, dnorm2, r->dx, 1);
    if (rows < all) dpo__run_spread(r);
    dpo__run_norm_back(r, g, &n1, layer, DPO__NORM1_W, r->dnorm, r->dx, 1);
}

/* --- the whole pass --------------------------------------------------------------------------------- */

static dpo__embedding dpo__run_embedding(const dpo__run *r) {
    const dpo_model_config *k = &r->m->config;
    const dpo__param *table = dpo__model_param(r->m, k->num_hidden_layers, DPO__EMBED);
    const dpo__param *position = dpo__model_param(r->m, k->num_hidden_layers, DPO__POSITION);
    dpo__embedding e = dpo__embedding_of(r->c, r->batch->tokens, r->batch->n_rows, k->hidden_size);
    e.table = table->data;
    e.dtype = table->dtype;
    if (position) {
        e.positions = r->positions;
        e.position_table = position->data;
        e.position_dtype = position->dtype;
    }
    e.scale = (float)k->embedding_scale;
    return e;
}

/* Which rows the last layer gives. */
static void dpo__run_asked(dpo__run *r) {
    const dpo_batch *b = r->batch;
    int64_t s, i;
    dpo__asked_all(b, r->all);
    dpo__asked_all(b, r->asked);
    r->n_asked = r->naive ? b->n_rows : dpo__asked_targets(b, r->asked);
    for (i = 0; i < b->n_rows; i++) r->asked_of[i] = -1;
    for (s = 0; s < b->n_segments; s++)
        for (i = 0; i < r->asked[s].count; i++) {
            int64_t row = b->segments[s].first + r->asked[s].first + i, at = r->asked[s].at + i;
            r->asked_row[at] = (int32_t)row;
            r->asked_of[row] = (int32_t)at;
        }
}
/* The last layer's rows that are asked for, in r->saved[layers].x. The batch was checked and fits. */
static dpo_result dpo__run_forward(dpo__run *r, const dpo_batch *b) {
    int64_t layer, layers = r->m->config.num_hidden_layers;
    dpo__embedding e;
    dpo_result code = dpo__batch_place(r->c, b, r->positions, r->trees, &r->n_trees);
    if (code) return code;
    r->batch = b;
    dpo__run_asked(r);
    e = dpo__run_embedding(r);
    e.x = r->saved[0].x;
    dpo__embedding_forward(&e);
    for (layer = 0; layer < layers; layer++) dpo__layer_forward(r, layer, &r->saved[layer], r->saved[layer + 1].x);
    return DPO_OK;
}

/* From r->dx at the last layer's output down to the embedding. */
static void dpo__run_backward(dpo__run *r, const dpo__grads *g) {
    int64_t layer, layers = r->m->config.num_hidden_layers;
    dpo__embedding e;
    int32_t at = r->m->of[layers * DPO__N_TENSORS + DPO__EMBED];
    int32_t position = r->m->of[layers * DPO__N_TENSORS + DPO__POSITION];
    for (layer = layers - 1; layer >= 0; layer--) {
        if (r->recompute) dpo__layer_forward(r, layer, &r->saved[layer], NULL);
        dpo__layer_backward(r, g, layer, &r->saved[layer]);
    }
    if (!g->params[at]) return;
    e = dpo__run_embedding(r);
    e.dx = r->dx;
    e.dtable = g->params[at];
    if (g->embedding) {
        e.ids = g->slots;
        e.dtable = g->embedding;
    }
    e.dposition_table = position >= 0 ? g->params[position] : NULL;
    dpo__embedding_backward(&e);
}

/* The loss's answer to finished log-probs: sequences first..first+n-1 get their weights. */
typedef void (*dpo__weigh)(void *user, int64_t first, int64_t n, const double *logps, double *weights);

/* How far a tile from target i may go: `group` neighbouring sequences must not be cut. */
static int64_t dpo__head_end(const dpo__run *r, int64_t i, int64_t group) {
    const dpo_batch *b = r->batch;
    int64_t end = dpo__min64(i + r->head_rows, b->n_targets);
    if (!group) return end;
    while (end > i && end < b->n_targets && b->targets[end].sequence / group == b->targets[end - 1].sequence / group)
        end--;
    return end;
}
/* Targets i..i+n-1: their rows, normalised. */
static dpo__norm dpo__head_gather(dpo__run *r, int64_t i, int64_t n) {
    const dpo_target *t = r->batch->targets + i;
    int64_t layers = r->m->config.num_hidden_layers, j;
    dpo__norm norm = dpo__run_norm(r, layers, DPO__FINAL_W, r->head_x, r->head_norm, r->head_stats, n);
    for (j = 0; j < n; j++) {
        r->head_row[j] = r->asked_of[t[j].row];
        r->head_token[j] = t[j].token;
    }
    dpo__run_gather(r, r->head_x, r->saved[layers].x, r->head_row, n);
    dpo__norm_forward(&norm);
    return norm;
}
/* The head for them. */
static dpo__head dpo__head_tile(dpo__run *r, int64_t n, dpo__linear *w) {
    dpo__head h;
    *w = dpo__model_linear(r->m, r->m->config.num_hidden_layers, dpo__model_head(r->m));
    memset(&h, 0, sizeof h);
    h.c = r->c;
    h.rows = n;
    h.vocab = w->out;
    h.d = w->in;
    h.scale = (float)r->m->config.output_scale;
    h.z = r->logits;
    h.stats = r->logit_stats;
    h.blocks = r->logit_blocks;
    h.token = r->head_token;
    h.logp = r->head_logp;
    return h;
}
/* Their logits alone, not scaled yet. */
static dpo__head dpo__head_logits(dpo__run *r, int64_t i, int64_t n) {
    dpo__linear w;
    dpo__head h = dpo__head_tile(r, n, &w);
    (void)dpo__head_gather(r, i, n);
    dpo__linear_forward(r->c, &w, h.z, h.vocab, r->head_norm, w.in, n, r->lora);
    return h;
}
/* y[i] = (weight[i] scale) x[i] */
static void dpo__weigh_rows(dpo_context *c, int64_t n, int64_t d, float *y, const float *x, const double *weight,
                            float scale) {
    dpo__row_weights f = {c, d, y, x, weight, (double)scale};
    dpo__split_run(c, n, 1, dpo__row_weights_rows, &f);
}
/* The tile's logits to dh = (onehot - p) W, rows without their weights, and the head's own gradients with them
   (weights NULL: the head is frozen). */
static void dpo__head_tile_back(dpo__run *r, const dpo__grads *g, dpo__head *h, const dpo__linear *w, float *dh,
                                const double *weights) {
    dpo__linear_grad grad = dpo__model_linear_grad(r->m, g, r->m->config.num_hidden_layers, dpo__model_head(r->m));
    if (weights) dpo__weigh_rows(r->c, h->rows, h->d, r->head_norm, r->head_norm, weights, h->scale);
    dpo__head_backward(h, w, &grad, dh, r->head_norm, r->lora);
}
/* dh, with its weights, through the final norm into r->dx. */
static void dpo__head_finish(dpo__run *r, const dpo__grads *g, dpo__norm *norm, float *dh) {
    dpo__embedding scatter = dpo__embedding_of(r->c, r->head_row, norm->n, norm->d);
    dpo__weigh_rows(r->c, norm->n, norm->d, dh, dh, r->head_weight, (float)r->m->config.output_scale);
    dpo__run_norm_back(r, g, norm, r->m->config.num_hidden_layers, DPO__FINAL_W, dh, r->head_dx, 0);
    scatter.dx = r->head_dx;
    scatter.dtable = r->dx;
    dpo__embedding_backward(&scatter);
}
/* Weights of targets i..i+n-1, by their sequences. */
static void dpo__head_weights(dpo__run *r, int64_t i, int64_t n, const double *weights) {
    const dpo_target *t = r->batch->targets + i;
    int64_t j;
    for (j = 0; j < n; j++) r->head_weight[j] = t[j].token < 0 ? 0.0 : weights[t[j].sequence];
}
/* A frozen head's second half: no logits are needed any more. */
static void dpo__head_frozen_back(dpo__run *r, const dpo__grads *g, const double *weights) {
    int64_t i, n;
    for (i = 0; i < r->batch->n_targets; i += n) {
        dpo__norm norm;
        n = dpo__head_end(r, i, 0) - i;
        norm = dpo__head_gather(r, i, n);
        dpo__head_weights(r, i, n, weights);
        dpo__head_finish(r, g, &norm, r->head_dnorm + i * norm.d);
    }
}

/* Log-probs of all sequences; with g also r->dx and the head's gradients, where each sequence's weight
   d(loss)/d(logp) is in weights[] beforehand or given by `weigh` for whole groups of sequences. One tile of logits
   serves both directions: a frozen head's needs no weights; a trained one's holds whole groups (head_twice: it is
   computed twice instead). */
static void dpo__run_head(dpo__run *r, double *logps, double *weights, int64_t group, dpo__weigh weigh, void *user,
                          const dpo__grads *g) {
    const dpo_batch *b = r->batch;
    int64_t i, end, j, d = r->m->config.hidden_size;
    int frozen = g && r->head_frozen;
    if (!g) weigh = NULL; /* then the caller weighs, and no pair need be whole in a tile */
    if (g && weigh && r->head_twice && !frozen) {
        dpo__run_head(r, logps, NULL, 0, NULL, NULL, NULL);
        weigh(user, 0, b->n_sequences, logps, weights);
        weigh = NULL;
    }
    for (i = 0; i < b->n_sequences; i++) logps[i] = 0.0;
    if (g) memset(r->dx, 0, (size_t)(r->n_asked * d) * sizeof(float));
    for (i = 0; i < b->n_targets; i = end) {
        dpo__linear w;
        dpo__head h;
        dpo__norm norm;
        float *dh = r->head_dnorm + (frozen ? i * d : 0);
        end = dpo__head_end(r, i, weigh && !frozen ? group : 0);
        DPO_ASSERT(end > i);
        norm = dpo__head_gather(r, i, end - i);
        h = dpo__head_tile(r, end - i, &w);
        dpo__head_forward(&h, &w, r->head_norm, r->lora);
        for (j = i; j < end; j++) {
            double *sum = &logps[b->targets[j].sequence];
            if (b->targets[j].token >= 0) *sum = *sum + r->head_logp[j - i];
        }
        if (!g) continue;
        if (weigh && !frozen) {
            int64_t first = b->targets[i].sequence / group * group;
            int64_t last = (b->targets[end - 1].sequence / group + 1) * group;
            weigh(user, first, last - first, logps, weights);
        }
        if (!frozen) dpo__head_weights(r, i, h.rows, weights);
        dpo__head_tile_back(r, g, &h, &w, dh, frozen ? NULL : r->head_weight);
        if (!frozen) dpo__head_finish(r, g, &norm, dh);
    }
    if (frozen && weigh) weigh(user, 0, b->n_sequences, logps, weights);
    if (frozen) dpo__head_frozen_back(r, g, weights);
}

/* Log-probs of a batch's sequences, nothing else. Needs the computing environment. */
static dpo_result dpo__run_logps(dpo__run *r, const dpo_batch *b, double *logps) {
    dpo_result code = dpo__run_forward(r, b);
    if (!code) dpo__run_head(r, logps, NULL, 0, NULL, NULL, NULL);
    return code;
}

/* A workspace of its own for one call: what it is for, its layout, and the block. */
static dpo__run dpo__run_plan(dpo_model *m, const dpo__shape *cap, int64_t head_rows, int64_t cache_rows) {
    dpo__run r;
    memset(&r, 0, sizeof r);
    r.c = m->c;
    r.m = m;
    r.cap = *cap;
    r.head_rows = head_rows;
    r.bf16 = m->precision != DPO_PRECISION_FP32;
    r.lora_r = m->lora ? m->lora->config.r : 0;
    r.cache_rows = cache_rows;
    return r;
}
static int64_t dpo__run_cached(const dpo__run *r) { /* floats */
    const dpo_model_config *k = &r->m->config;
    return r->cache_rows * k->num_hidden_layers * k->num_key_value_heads * k->head_dim;
}
static void dpo__run_carve(dpo__arena *a, dpo__run *plan) {
    dpo__run *r = DPO__CARVE(a, dpo__run, 1); /* the first one */
    if (r) *r = *plan;
    else r = plan;
    r->cache_k = DPO__CARVE(a, float, dpo__run_cached(r));
    r->cache_v = DPO__CARVE(a, float, dpo__run_cached(r));
    dpo__run_layout(a, &r->m->config, r->c->pool.n, r);
    if (!r->cache_rows) r->cache_k = r->cache_v = NULL;
}
static dpo__run *dpo__run_open(dpo__run plan) {
    dpo__arena a = {NULL, 0};
    dpo__run_carve(&a, &plan);
    if (!dpo__arena_get(plan.c, &a, "a forward pass")) return NULL;
    dpo__run_carve(&a, &plan);
    dpo__run_tables((dpo__run *)(void *)a.base);
    return (dpo__run *)(void *)a.base;
}

/* Longest path a model has positions for. */
static dpo_result dpo__model_path(const dpo_model *m, int64_t path) {
    if (m->config.position == DPO_POSITION_LEARNED && path > m->config.max_position_embeddings)
        return dpo__fail(
            m->c, DPO_E_SHAPE,
            "a sequence of %ld tokens is longer than the model's %d learned positions; shorten it (max_length)",
            (long)path, m->config.max_position_embeddings);
    return DPO_OK;
}

#define DPO__HEAD_ROWS 256 /* target rows of a tile where no group asks for more */

static dpo__run *dpo__model_pass(dpo_model *m, const dpo_batch *b, const char *who, const void *out) {
    dpo__shape s;
    if (!b || !out) {
        dpo__fail(m->c, DPO_E_ARG, "%s: batch and output must not be NULL", who);
        return NULL;
    }
    if (dpo__batch_check(m->c, b, m->config.vocab_size, 0, &s) || dpo__model_path(m, s.path)) return NULL;
    return dpo__run_open(dpo__run_plan(m, &s, dpo__max64(1, dpo__min64(DPO__HEAD_ROWS, s.targets)), 0));
}
DPO_API dpo_result dpo_model_logps(dpo_model *m, const dpo_batch *b, double *logps) {
    dpo__run *r;
    DPO__READY(m, m->c);
    r = dpo__model_pass(m, b, "dpo_model_logps", logps);
    if (r) DPO__COMPUTE((void)dpo__run_logps(r, b, logps));
    dpo__put(m->c, r);
    return m->c->error.code;
}
DPO_API dpo_result dpo_model_logits(dpo_model *m, const dpo_batch *b, float *logits) {
    dpo__fpenv env;
    dpo__run *r;
    int64_t i, n;
    DPO__READY(m, m->c);
    r = dpo__model_pass(m, b, "dpo_model_logits", logits);
    env = dpo__fp_enter();
    if (r && !dpo__run_forward(r, b))
        for (i = 0; i < b->n_targets; i += n) {
            dpo__head h;
            n = dpo__min64(r->head_rows, b->n_targets - i);
            h = dpo__head_logits(r, i, n);
            m->c->kernels.scale(n * h.vocab, logits + i * h.vocab, h.z, h.scale);
        }
    dpo__fp_leave(env);
    dpo__put(m->c, r);
    return m->c->error.code;
}

/* ===========================================================================================
   >>LORA - adapters beside linear modules [LoRA], in PEFT's files
   =========================================================================================== */

DPO_API dpo_lora_config dpo_lora_defaults(int family) {
    dpo_lora_config l;
    l.r = 8;
    l.lora_alpha = 16;
    l.use_rslora = 0;
    l.target_modules = family == DPO_GPT_NEOX ? "query_key_value"
                       : family == DPO_GPT2   ? "c_attn"
                       : family == DPO_BTLM   ? "c_attn,c_proj"
                                              : "q_proj,v_proj";
    return l;
}

/* Takes the next name off a comma-separated list; its length, 0 at the end. */
static size_t dpo__lora_next(const char **list, const char **name) {
    const char *p = *list;
    size_t n;
    while (*p == ',' || *p == ' ') p++;
    *name = p;
    while (*p && *p != ',') p++;
    *list = p;
    n = (size_t)(p - *name);
    while (n && (*name)[n - 1] == ' ') n--;
    return n;
}
/* Whether module `p` is adapted, by PEFT's rule: its name is a target or ends in "." and the target. The output head of
   a tied model is a module of its own. */
static int dpo__lora_wanted(const dpo_model *m, const dpo__param *p, const char *targets, const char **module,
                            size_t *length) {
    const char *name;
    size_t n;
    *module = p->name;
    *length = strlen(p->name) - 7; /* without ".weight" */
    if (p->id == DPO__EMBED && m->config.tie_word_embeddings) {
        *module = m->config.family == DPO_GPT_NEOX ? "embed_out" : "lm_head";
        *length = strlen(*module);
    } else if (p->kind != DPO__MATRIX && p->kind != DPO__HEADMATRIX) return 0;
    while ((n = dpo__lora_next(&targets, &name)) > 0) {
        const char *end = *module + *length;
        if (n == 10 && !memcmp(name, "all-linear", 10) && p->kind == DPO__MATRIX) return 1;
        if (n <= *length && !memcmp(end - n, name, n) && (n == *length || end[-1 - (int64_t)n] == '.')) return 1;
    }
    return 0;
}

/* A or B of a module that has the weights w. */
static void dpo__lora_param(dpo__param *p, const dpo__param *w, const char *module, size_t length, char which,
                            int64_t rows, int64_t columns, float *data) {
    memset(p, 0, sizeof *p);
    dpo__append(p->name, sizeof p->name, 0, "base_model.model.%.*s.lora_%c.weight", (int)length, module, which);
    p->id = w->id;
    p->layer = w->layer;
    p->kind = w->kind;
    p->dtype = DPO_F32;
    p->data = data;
    p->rows = rows;
    p->columns = columns;
    p->count = rows * columns;
}
/* Lists all adapters in the model's order: in l->params if they are there, their values in an arena if there is one. */
static void dpo__lora_list(const dpo_model *m, dpo__lora *l, dpo__arena *values) {
    int64_t i, r = l->config.r;
    l->n_params = 0;
    for (i = 0; i < m->n_params; i++) {
        const dpo__param *p = &m->params[i];
        const char *module;
        size_t length;
        int conv = m->config.conv1d && p->kind == DPO__MATRIX;
        int64_t in = conv ? p->rows : p->columns, out = conv ? p->columns : p->rows;
        float *a, *b;
        if (!dpo__lora_wanted(m, p, l->config.target_modules, &module, &length)) continue;
        a = values ? DPO__CARVE(values, float, r *in) : NULL;
        b = values ? DPO__CARVE(values, float, r *out) : NULL;
        if (l->params) {
            dpo__lora_param(&l->params[l->n_params], p, module, length, 'A', r, in, a);
            dpo__lora_param(&l->params[l->n_params + 1], p, module, length, 'B', out, r, b);
            l->of[p->layer * DPO__N_TENSORS + (p->id == DPO__EMBED ? (int)DPO__HEAD : p->id)] = (int32_t)l->n_params;
        }
        l->n_params += 2;
    }
}
/* One block; runs twice. values 0: descriptions alone, for a plan. */
static void dpo__lora_layout(dpo__arena *a, const dpo_model *m, const dpo_lora_config *k, int values, dpo__lora **out) {
    dpo__lora scratch, *l;
    int64_t i, index = ((int64_t)m->config.num_hidden_layers + 1) * DPO__N_TENSORS;
    size_t text = strlen(k->target_modules) + 1;
    char *names;
    memset(&scratch, 0, sizeof scratch);
    scratch.config = *k;
    scratch.scale = (float)(k->lora_alpha / (k->use_rslora ? sqrt((double)k->r) : (double)k->r));
    scratch.on = 1;
    dpo__lora_list(m, &scratch, NULL);
    l = DPO__CARVE(a, dpo__lora, 1);
    if (l) *out = l;
    else l = &scratch;
    *l = scratch;
    l->params = DPO__CARVE(a, dpo__param, l->n_params);
    l->of = DPO__CARVE(a, int32_t, index);
    names = DPO__CARVE(a, char, (int64_t)text);
    for (i = 0; l->of && i < index; i++) l->of[i] = -1;
    if (names) l->config.target_modules = (const char *)memcpy(names, k->target_modules, text);
    dpo__lora_list(m, l, values ? a : NULL);
}

/* where: "LoRA", or the file the configuration came from. PEFT takes targets that match nothing beside
   others that do; `strict` does not. */
static dpo_result dpo__lora_check(const dpo_model *m, const dpo_lora_config *k, const char *where, int strict) {
    dpo_context *c = m->c;
    dpo__lora probe;
    const char *list = k->target_modules, *name, *missing = NULL;
    char one[128];
    int found = 0;
    size_t n;
    if (k->r < 1 || k->r > 65536)
        return dpo__fail(c, DPO_E_ARG, "%.400s: the rank r is %d; it must lie from 1 to 65536", where, k->r);
    if (!(k->lora_alpha > -1e9 && k->lora_alpha < 1e9) || k->lora_alpha == 0)
        return dpo__fail(c, DPO_E_ARG, "%.400s: lora_alpha must be a finite number other than zero", where);
    if (!list || !*list) return dpo__fail(c, DPO_E_ARG, "%.400s: target_modules names no module", where);
    memset(&probe, 0, sizeof probe);
    probe.config = *k;
    probe.config.target_modules = one;
    while (!(strict && missing) && (n = dpo__lora_next(&list, &name)) > 0) {
        dpo__append(one, sizeof one, 0, "%.*s", (int)dpo__min64((int64_t)n, 127), name);
        dpo__lora_list(m, &probe, NULL);
        if (probe.n_params) found = 1;
        else missing = one;
        if (!probe.n_params && !strict)
            dpo__log(c, DPO_LOG_WARNING, "%s: target module \"%s\" matches nothing in this model", where, one);
    }
    if (found && !(strict && missing)) return DPO_OK;
    return dpo__fail(
        c, DPO_E_ARG,
        "%.400s: target module \"%.200s\" matches no linear module of this %s model; its modules are named "
        "like %s (without .weight)",
        where, strict && missing ? missing : k->target_modules, dpo__family_names[m->config.family], m->params[2].name);
}
/* Adapters for a model, their values not set. */
static dpo__lora *dpo__lora_new(const dpo_model *m, const dpo_lora_config *k, const char *where, int strict,
                                int values) {
    dpo__arena a = {NULL, 0};
    dpo__lora *l = NULL;
    if (dpo__lora_check(m, k, where, strict)) return NULL;
    dpo__lora_layout(&a, m, k, values, &l);
    if (!dpo__arena_get(m->c, &a, "LoRA adapters")) return NULL;
    dpo__lora_layout(&a, m, k, values, &l);
    return l;
}

static dpo_result dpo__lora_ready(const dpo_model *m, const char *who, int attached) {
    DPO__READY(m, m->c);
    if (attached && !m->lora) return dpo__fail(m->c, DPO_E_STATE, "%s: this model has no adapters", who);
    if (!attached && m->lora)
        return dpo__fail(m->c, DPO_E_STATE, "%s: this model has adapters already; merge them first", who);
    return DPO_OK;
}

DPO_API dpo_result dpo_lora_attach(dpo_model *m, const dpo_lora_config *config, uint64_t seed) {
    dpo_lora_config k;
    dpo__lora *l;
    dpo__fpenv env;
    int64_t i, j;
    dpo_result r = dpo__lora_ready(m, "dpo_lora_attach", 0);
    if (r) return r;
    k = config ? *config : dpo_lora_defaults(m->config.family);
    l = dpo__lora_new(m, &k, "LoRA", 1, 1);
    if (!l) return m->c->error.code;
    env = dpo__fp_enter();
    for (i = 0; i < l->n_params; i += 2) {
        dpo__param *a = &l->params[i], *b = a + 1;
        double bound = 1.0 / sqrt((double)a->columns);
        for (j = 0; j < a->count; j++) {
            double u = dpo__random_unit(seed, 0x10a0000u + (uint64_t)i, (uint64_t)j);
            dpo__param_f32(a)[j] = (float)((2.0 * u - 1.0) * bound);
        }
        memset(b->data, 0, (size_t)b->count * sizeof(float));
    }
    dpo__fp_leave(env);
    m->lora = l;
    return DPO_OK;
}
DPO_API dpo_result dpo_lora_enable(dpo_model *m, int on) {
    dpo_result r = dpo__lora_ready(m, "dpo_lora_enable", 1);
    if (!r) m->lora->on = on != 0;
    return r;
}
DPO_API int64_t dpo_lora_tensors(const dpo_model *m, dpo_tensor *out, int64_t cap) {
    return m && m->lora ? dpo__param_views(m->lora->params, m->lora->n_params, out, cap) : 0;
}

/* W + s B A (transposed for conv1d), the product in fp32 first, then the sum. */
DPO_API dpo_model *dpo_lora_merge(const dpo_model *m) {
    dpo_model *to;
    dpo__fpenv env;
    float *delta;
    int64_t i, most = 0;
    if (dpo__lora_ready(m, "dpo_lora_merge", 1)) return NULL;
    if (m->config.tie_word_embeddings &&
        m->lora->of[(int64_t)m->config.num_hidden_layers * DPO__N_TENSORS + DPO__HEAD] >= 0) {
        dpo__fail(m->c, DPO_E_UNSUPPORTED,
                  "dpo_lora_merge: an adapter on the output head of a tied model cannot be merged: the matrix is the "
                  "embedding, too");
        return NULL;
    }
    /* F32 matrices: bf16's arithmetic goes on as mixed */
    to = dpo__model_copy(m, m->precision ? DPO_PRECISION_MIXED : DPO_PRECISION_FP32, 0);
    if (!to) return NULL;
    for (i = 0; i < m->n_params; i++) most = dpo__max64(most, m->params[i].columns ? m->params[i].count : 0);
    delta = (float *)dpo__get(m->c, (size_t)most * sizeof(float), "a merged matrix");
    if (!delta) {
        dpo_model_free(to);
        return NULL;
    }
    env = dpo__fp_enter();
    for (i = 0; i < m->lora->n_params; i += 2) {
        const dpo__param *a = &m->lora->params[i], *b = a + 1;
        const dpo__param *w = dpo__model_param(to, a->layer, a->id);
        int64_t r = m->lora->config.r;
        dpo__gemm g =
            m->config.conv1d && w->kind == DPO__MATRIX
                ? dpo__gemm_of(w->rows, w->columns, r, a->data, 1, w->rows, b->data, 1, r, delta, w->columns)
                : dpo__gemm_of(w->rows, w->columns, r, b->data, r, 1, a->data, w->columns, 1, delta, w->columns);
        dpo__gemm_run(m->c, &g);
        m->c->kernels.scale(w->count, delta, delta, m->lora->scale);
        m->c->kernels.add(w->count, dpo__param_f32(w), delta);
    }
    dpo__fp_leave(env);
    dpo__put(m->c, delta);
    return to;
}

/* Reads adapter_config.json into *k; names: room for the target list. */
static dpo_result dpo__lora_read_config(dpo_context *c, const char *path, dpo_lora_config *k, char *names, size_t cap) {
    static const char *const off[5] = {"use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save"};
    dpo__config_reader r;
    char *text, kind[40];
    size_t at = 0;
    int64_t v, i, n, w;
    r.c = c;
    r.path = path;
    if (dpo__file_read_json(c, path, DPO__CONFIG_BYTES, &text, &r.json)) return c->error.code;
    dpo__config_text(&r, 0, "peft_type", kind, sizeof kind, "LORA");
    if (strcmp(kind, "LORA")) dpo__config_unsupported(&r, "peft_type", kind, "LORA");
    k->r = (int)dpo__config_get(&r, 0, "r", 'i', 0, 1, 65536);
    k->lora_alpha = dpo__config_number(&r, 0, "lora_alpha", (double)k->r);
    k->use_rslora = dpo__config_bool(&r, "use_rslora", 0);
    dpo__config_text(&r, 0, "bias", kind, sizeof kind, "none");
    if (strcmp(kind, "none")) dpo__config_unsupported(&r, "bias", kind, "none");
    for (i = 0; i < 5; i++) {
        v = dpo__config_find(&r, 0, off[i]);
        if (v >= 0 && dpo_json_type(&r.json, v) != 'f' && !dpo__json_empty(&r.json, v))
            dpo__config_unsupported(&r, off[i], "in use", "plain LoRA of one rank, without biases or extra modules");
    }
    v = dpo__config_find(&r, 0, "target_modules");
    names[0] = 0;
    if (dpo_json_type(&r.json, v) == '"') {
        if (dpo_json_string(&r.json, v, names, cap) >= (int64_t)cap || strpbrk(names, "*?^$()[]|\\"))
            dpo__config_unsupported(&r, "target_modules", names, "a list of module names");
    } else {
        n = dpo_json_type(&r.json, v) == '[' ? dpo_json_count(&r.json, v) : 0;
        for (i = 0, w = dpo_json_first(&r.json, v); i < n; i++, w = dpo_json_next(&r.json, w)) {
            char one[128];
            int64_t length = dpo_json_string(&r.json, w, one, sizeof one);
            if (length < 1 || length >= (int64_t)sizeof one) n = 0;
            else at = dpo__append(names, cap, at, "%s%s", i ? "," : "", one);
        }
        if ((n < 1 || at >= cap) && !dpo__config_failed(&r))
            dpo__fail(c, DPO_E_FORMAT, "%.400s: \"target_modules\" must be a list of module names", path);
    }
    k->target_modules = names;
    dpo__json_free(c, &r.json);
    dpo__put(c, text);
    return c->error.code;
}

static dpo_result dpo__lora_read(dpo_context *c, const char *path, const dpo__lora *l) {
    dpo__st st;
    int64_t i;
    dpo_result r = dpo__st_open(c, path, &st);
    if (r) return r;
    for (i = 0; i < l->n_params && !r; i++) {
        const dpo__param *p = &l->params[i];
        const dpo__st_entry *e = dpo__st_find(&st, p->name);
        if (!e)
            r = dpo__fail(c, DPO_E_FORMAT, "%.400s: tensor %s is missing; adapter_config.json and the model ask for it",
                          path, p->name);
        else r = dpo__param_fits(&st, e, p);
        if (!r) r = dpo__st_read_f32(&st, e, dpo__param_f32(p));
        if (!r) r = dpo__model_finite(c, path, p->name, p->data, DPO_F32, p->count);
    }
    if (!r && l->n_params < st.count)
        dpo__log(c, DPO_LOG_WARNING, "%s: %ld tensors belong to no module of this model", path,
                 (long)(st.count - l->n_params));
    dpo__st_close(&st);
    return r;
}
DPO_API dpo_result dpo_lora_load(dpo_model *m, const char *dir) {
    dpo_lora_config k;
    dpo__lora *l;
    char path[4096], names[2048];
    dpo_result r = dpo__lora_ready(m, "dpo_lora_load", 0);
    if (r) return r;
    if (!dir) return dpo__fail(m->c, DPO_E_ARG, "dpo_lora_load: the directory must not be NULL");
    r = dpo__file_join(m->c, dir, "adapter_config.json", path, sizeof path);
    if (!r) r = dpo__lora_read_config(m->c, path, &k, names, sizeof names);
    if (r) return r;
    l = dpo__lora_new(m, &k, path, 0, 1);
    if (!l) return m->c->error.code;
    r = dpo__file_join(m->c, dir, "adapter_model.safetensors", path, sizeof path);
    if (!r) r = dpo__lora_read(m->c, path, l);
    if (r) dpo__put(m->c, l);
    else m->lora = l;
    return r;
}

/* adapter_config.json as PEFT writes it. */
static size_t dpo__lora_config_text(const dpo_model *m, const char *base, char *out, size_t cap) {
    const dpo_lora_config *k = &m->lora->config;
    const char *list = k->target_modules, *name;
    size_t n, count = 0;
    dpo__text t = {out, cap, 0};
    t.at = dpo__append(out, cap, 0, "{\n  \"base_model_name_or_path\": ");
    t.at = dpo__json_quote(out, cap, t.at, base ? base : "");
    dpo__text_word(&t, "bias", "\"none\"");
    dpo__text_word(&t, "fan_in_fan_out", m->config.conv1d ? "true" : "false");
    dpo__text_word(&t, "inference_mode", "true");
    dpo__text_number(&t, "lora_alpha", k->lora_alpha);
    dpo__text_word(&t, "lora_dropout", "0.0");
    dpo__text_word(&t, "peft_type", "\"LORA\"");
    dpo__text_int(&t, "r", k->r);
    if (strstr(list, "all-linear")) { /* a word of PEFT's, not a list */
        dpo__text_word(&t, "target_modules", "\"all-linear\"");
    } else {
        dpo__text_word(&t, "target_modules", "[");
        while ((n = dpo__lora_next(&list, &name)) > 0)
            t.at = dpo__append(out, cap, t.at, "%s\"%.*s\"", count++ ? ", " : "", (int)n, name);
        t.at = dpo__append(out, cap, t.at, "]");
    }
    dpo__text_word(&t, "task_type", "\"CAUSAL_LM\"");
    dpo__text_word(&t, "use_rslora", k->use_rslora ? "true" : "false");
    return dpo__append(out, cap, t.at, "\n}\n");
}
DPO_API dpo_result dpo_lora_save(const dpo_model *m, const char *dir, const char *base) {
    static const char *const metadata[3] = {"format", "pt", NULL};
    char path[4096], text[8192];
    dpo_tensor *views;
    size_t n;
    dpo_context *c;
    dpo_result r = dpo__lora_ready(m, "dpo_lora_save", 1);
    if (r) return r;
    c = m->c;
    if (!dir) return dpo__fail(c, DPO_E_ARG, "dpo_lora_save: the directory must not be NULL");
    n = dpo__lora_config_text(m, base, text, sizeof text);
    if (n >= sizeof text) return dpo__fail(c, DPO_E_ARG, "dpo_lora_save: the base model's name is too long");
    views = (dpo_tensor *)dpo__get(c, (size_t)m->lora->n_params * sizeof *views, "a list of tensors");
    if (!views) return DPO_E_MEMORY;
    dpo_lora_tensors(m, views, m->lora->n_params);
    r = dpo__file_make_dir(c, dir);
    if (!r) r = dpo__file_join(c, dir, "adapter_model.safetensors", path, sizeof path);
    if (!r) r = dpo_tensors_save(c, path, views, m->lora->n_params, metadata);
    if (!r) r = dpo__file_join(c, dir, "adapter_config.json", path, sizeof path);
    dpo__put(c, views);
    return r ? r : dpo__file_save(c, path, text, n);
}

/* ===========================================================================================
   >>LOSS - from a pair's log-probs to a loss and its two derivatives, in double

   a = policy - reference of the chosen answer, b of the rejected, h = a - b, S the sigmoid; nc, nr the
   answers' token counts. Each line: the loss, then dL/d(policy_chosen), dL/d(policy_rejected).
   =========================================================================================== */

typedef struct dpo__ratio {
    double a, b, h, nc, nr;
} dpo__ratio;
static dpo__ratio dpo__loss_ratio(const dpo_pair *p, const dpo_loss_options *o) {
    dpo__ratio r;
    r.a = o->reference_free ? p->policy_chosen : p->policy_chosen - p->reference_chosen;
    r.b = o->reference_free ? p->policy_rejected : p->policy_rejected - p->reference_rejected;
    r.h = r.a - r.b;
    r.nc = (double)(p->chosen_tokens > 0 ? p->chosen_tokens : 1);
    r.nr = (double)(p->rejected_tokens > 0 ? p->rejected_tokens : 1);
    return r;
}
/* S'(x) */
static double dpo__loss_bump(double x) { return dpo__num_sigmoid(x) * dpo__num_sigmoid(-x); }

/* [DPO] -log S(beta h); with label smoothing e [cDPO]: -(1-e) log S(beta h) - e log S(-beta h) */
static double dpo__loss_sigmoid(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * r.h, e = o->label_smoothing;
    *dc = -o->beta * ((1.0 - e) * dpo__num_sigmoid(-x) - e * dpo__num_sigmoid(x));
    *dr = -*dc;
    return -(1.0 - e) * dpo__num_log_sigmoid(x) - e * dpo__num_log_sigmoid(-x);
}
/* [robust] (-(1-e) log S(beta h) + e log S(-beta h)) / (1 - 2e) */
static double dpo__loss_robust(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * r.h, e = o->label_smoothing, f = 1.0 / (1.0 - 2.0 * e);
    *dc = -o->beta * f * ((1.0 - e) * dpo__num_sigmoid(-x) + e * dpo__num_sigmoid(x));
    *dr = -*dc;
    return f * (-(1.0 - e) * dpo__num_log_sigmoid(x) + e * dpo__num_log_sigmoid(-x));
}
/* [SLiC] max(0, 1 - beta h) */
static double dpo__loss_hinge(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = 1.0 - o->beta * r.h;
    *dc = x > 0 ? -o->beta : 0.0;
    *dr = -*dc;
    return x > 0 ? x : 0.0;
}
/* [IPO] (a/nc - b/nr - 1/(2 beta))^2, per-token means as in TRL */
static double dpo__loss_ipo(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = r.a / r.nc - r.b / r.nr - 1.0 / (2.0 * o->beta);
    *dc = 2.0 * x / r.nc;
    *dr = -2.0 * x / r.nr;
    return x * x;
}
/* [IPO] (h - 1/(2 beta))^2, sums as in the DPO reference code */
static double dpo__loss_ipo_sum(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    double x = dpo__loss_ratio(p, o).h - 1.0 / (2.0 * o->beta);
    *dc = 2.0 * x;
    *dr = -*dc;
    return x * x;
}
/* TRL's length-normalised DPO: -log S(beta (a/nc - b/nr)) */
static double dpo__loss_sigmoid_norm(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * (r.a / r.nc - r.b / r.nr), s = o->beta * dpo__num_sigmoid(-x);
    *dc = -s / r.nc;
    *dr = s / r.nr;
    return -dpo__num_log_sigmoid(x);
}
/* [EXO] KL(q || (1-e, e)), q = S(beta h); label_smoothing 0 would be infinite: at least 1e-3 is taken */
static double dpo__loss_exo_pair(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    double x = o->beta * dpo__loss_ratio(p, o).h, e = o->label_smoothing < 1e-3 ? 1e-3 : o->label_smoothing;
    double q = dpo__num_sigmoid(x), lq = dpo__num_log_sigmoid(x), ln = dpo__num_log_sigmoid(-x);
    double l1 = dpo__num_log1p(-e), le = dpo__num_log(e);
    *dc = o->beta * dpo__loss_bump(x) * (lq - ln - l1 + le);
    *dr = -*dc;
    return q * (lq - l1) + (1.0 - q) * (ln - le);
}
/* [NCA] -log S(beta a) - log S(-beta a)/2 - log S(-beta b)/2 */
static double dpo__loss_nca_pair(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * r.a, y = o->beta * r.b;
    *dc = -o->beta * (dpo__num_sigmoid(-x) - 0.5 * dpo__num_sigmoid(x));
    *dr = 0.5 * o->beta * dpo__num_sigmoid(y);
    return -dpo__num_log_sigmoid(x) - 0.5 * dpo__num_log_sigmoid(-x) - 0.5 * dpo__num_log_sigmoid(-y);
}
/* [BCO], TRL's form with shift 0: -log S(beta a) - log S(-beta b) */
static double dpo__loss_bco_pair(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * r.a, y = o->beta * r.b;
    *dc = -o->beta * dpo__num_sigmoid(-x);
    *dr = o->beta * dpo__num_sigmoid(y);
    return -dpo__num_log_sigmoid(x) - dpo__num_log_sigmoid(-y);
}
/* [SPPO] (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2 */
static double dpo__loss_sppo_hard(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = r.a - 1.0 / (2.0 * o->beta), y = r.b + 1.0 / (2.0 * o->beta);
    *dc = 2.0 * x;
    *dr = 2.0 * y;
    return x * x + y * y;
}
/* [APO] zero: 1 - S(beta a) + S(beta b) */
static double dpo__loss_apo_zero(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * r.a, y = o->beta * r.b;
    *dc = -o->beta * dpo__loss_bump(x);
    *dr = o->beta * dpo__loss_bump(y);
    return dpo__num_sigmoid(-x) + dpo__num_sigmoid(y);
}
/* [APO] down: S(beta a) + 1 - S(beta h) */
static double dpo__loss_apo_down(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * r.a, y = o->beta * r.h;
    *dc = o->beta * (dpo__loss_bump(x) - dpo__loss_bump(y));
    *dr = o->beta * dpo__loss_bump(y);
    return dpo__num_sigmoid(x) + dpo__num_sigmoid(-y);
}
/* [Disco] l = beta h, m = S(l/tau): -(1-m) log S(l) + m exp(-l) */
static double dpo__loss_discopop(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    double l = o->beta * dpo__loss_ratio(p, o).h, m = dpo__num_sigmoid(l / o->tau);
    double dm = dpo__loss_bump(l / o->tau) / o->tau, e = dpo__num_exp(-l), ls = dpo__num_log_sigmoid(l);
    *dc = o->beta * (dm * (ls + e) - (1.0 - m) * dpo__num_sigmoid(-l) - m * e);
    *dr = -*dc;
    return m * e - (1.0 - m) * ls;
}
/* [DPOP] -log S(beta (h - lambda max(0, reference - policy of the chosen))) */
static double dpo__loss_dpop(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * (r.h - (r.a < 0 ? o->lambda * -r.a : 0.0)), s = o->beta * dpo__num_sigmoid(-x);
    *dc = -s * (r.a < 0 ? 1.0 + o->lambda : 1.0);
    *dr = s;
    return -dpo__num_log_sigmoid(x);
}
/* [SimPO] -log S(beta (pc/nc - pr/nr) - gamma), no reference */
static double dpo__loss_simpo(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double x = o->beta * (p->policy_chosen / r.nc - p->policy_rejected / r.nr) - o->gamma;
    double s = o->beta * dpo__num_sigmoid(-x);
    *dc = -s / r.nc;
    *dr = s / r.nr;
    return -dpo__num_log_sigmoid(x);
}
/* [ORPO] -A - beta log S(A - B - log(1-e^A) + log(1-e^B)), A = pc/nc, B = pr/nr, no reference */
static double dpo__loss_orpo(const dpo_pair *p, const dpo_loss_options *o, double *dc, double *dr) {
    dpo__ratio r = dpo__loss_ratio(p, o);
    double A = p->policy_chosen / r.nc, B = p->policy_rejected / r.nr, tiny = -1e-12, x, s;
    if (!(A < tiny)) A = tiny; /* probability 1 has infinite odds */
    if (!(B < tiny)) B = tiny;
    x = (A - B) - (dpo__num_log1mexp(A) - dpo__num_log1mexp(B));
    s = o->beta * dpo__num_sigmoid(-x);
    *dc = (-1.0 - s / -dpo__num_expm1(A)) / r.nc;
    *dr = s / -dpo__num_expm1(B) / r.nr;
    return -A - o->beta * dpo__num_log_sigmoid(x);
}

typedef struct dpo__loss_entry {
    const char *name;
    dpo_pair_loss loss;
} dpo__loss_entry;
static const dpo__loss_entry dpo__losses[] = {
    {"sigmoid", dpo__loss_sigmoid},   {"robust", dpo__loss_robust},
    {"hinge", dpo__loss_hinge},       {"ipo", dpo__loss_ipo},
    {"ipo_sum", dpo__loss_ipo_sum},   {"sigmoid_norm", dpo__loss_sigmoid_norm},
    {"exo_pair", dpo__loss_exo_pair}, {"nca_pair", dpo__loss_nca_pair},
    {"bco_pair", dpo__loss_bco_pair}, {"sppo_hard", dpo__loss_sppo_hard},
    {"apo_zero", dpo__loss_apo_zero}, {"apo_down", dpo__loss_apo_down},
    {"discopop", dpo__loss_discopop}, {"dpop", dpo__loss_dpop},
    {"simpo", dpo__loss_simpo},       {"orpo", dpo__loss_orpo}};
#define DPO__N_LOSSES ((int)(sizeof dpo__losses / sizeof dpo__losses[0]))

DPO_API const char *dpo_loss_name(int index) {
    return index >= 0 && index < DPO__N_LOSSES ? dpo__losses[index].name : NULL;
}
DPO_API dpo_pair_loss dpo_loss_by_name(const char *name) {
    int i;
    for (i = 0; name && i < DPO__N_LOSSES; i++)
        if (!strcmp(name, dpo__losses[i].name)) return dpo__losses[i].loss;
    return NULL;
}
static const char *dpo__loss_name_of(dpo_pair_loss loss) {
    int i;
    for (i = 0; i < DPO__N_LOSSES; i++)
        if (dpo__losses[i].loss == loss) return dpo__losses[i].name;
    return "custom";
}
DPO_API int dpo_loss_needs_reference(dpo_pair_loss loss) { return loss != dpo__loss_simpo && loss != dpo__loss_orpo; }
DPO_API dpo_loss_options dpo_loss_defaults(void) {
    dpo_loss_options o;
    memset(&o, 0, sizeof o);
    o.beta = 0.1;
    o.gamma = 1.0;
    o.lambda = 5.0;
    o.tau = 0.05;
    return o;
}

/* ===========================================================================================
   >>OPTIMIZER - norm, clipping, AdamW and RMSprop as PyTorch computes them, schedules

   AdamW    w -= lr wd w;  m += (1-b1)(g - m);  v = b2 v + (1-b2) g^2
            w -= (lr / (1-b1^t)) m / (sqrt(v)/sqrt(1-b2^t) + eps)                       [AdamW]
   RMSprop  g += wd w;  v = a v + (1-a) g^2;  w -= lr g / (sqrt(v) + eps)
   g is first multiplied by min(1, max_norm / (norm + 1e-6)).
   =========================================================================================== */

#define DPO__NORM_BLOCK 65536 /* elements: the only place where a sum over elements is cut */

typedef struct dpo__squares_job {
    dpo_context *c;
    const float *x;
    int64_t n;
    double *partial;
} dpo__squares_job;
static void dpo__squares_task(void *arg, int64_t task, int worker) {
    const dpo__squares_job *j = (const dpo__squares_job *)arg;
    int64_t first = task * DPO__NORM_BLOCK;
    (void)worker;
    j->partial[task] = j->c->kernels.squares(dpo__min64(DPO__NORM_BLOCK, j->n - first), j->x + first);
}
static int64_t dpo__norm_blocks(int64_t n) { return (n + DPO__NORM_BLOCK - 1) / DPO__NORM_BLOCK; }
/* Sum of squares of a tensor, in double; not finite if an element is not. */
static double dpo__squares_of(dpo_context *c, const float *x, int64_t n, double *partial) {
    dpo__squares_job j = {c, x, n, partial};
    int64_t i, blocks = dpo__norm_blocks(n);
    double sum = 0.0;
    dpo__pool_run(&c->pool, blocks, dpo__squares_task, &j);
    for (i = 0; i < blocks; i++) sum = sum + partial[i];
    return sum;
}

/* x^n by squaring: the same everywhere. */
static double dpo__power(double x, int64_t n) {
    double y = 1.0;
    for (; n > 0; n >>= 1) {
        if (n & 1) y = y * x;
        x = x * x;
    }
    return y;
}

/* Weights and state are floats, or bf16: a block is expanded, moved in fp32, and rounded by chance. To nearest, most
   updates of fine-tuning would be lost: at lr 5e-7 they are far below half the distance of two bf16 numbers near 0.02,
   which is 6e-5; and v would never decay with beta2 = 0.999, for its change is below half of v's last place.
   The chance is a function of (seed, stream, array, index): the stream names the update and the tensor. */
#define DPO__MOVE_BLOCK 1024 /* stays in the first cache from the update to the clearing of its gradient */

typedef struct dpo__optimizer_job {
    dpo_context *c;
    int kind;
    void *w;
    int w_dtype;  /* DPO_F32, DPO_BF16 */
    int rounding; /* 1: the weights' values are bf16, whatever their dtype */
    float *g;
    void *m, *v;
    int state_dtype;
    uint64_t seed, stream;
    dpo__update o;
} dpo__optimizer_job;

/* A block as floats: where it lies, or expanded into `room`. */
static float *dpo__optimizer_floats(const dpo__optimizer_job *j, void *x, int dtype, int64_t at, int64_t n,
                                    float *room) {
    if (dtype == DPO_F32) return x ? (float *)x + at : NULL;
    if (x) j->c->kernels.expand(n, room, (const uint16_t *)x + at, 0);
    return room;
}
static void dpo__optimizer_round(const dpo__optimizer_job *j, void *x, int dtype, int64_t at, int64_t n,
                                 const float *from, uint64_t array) {
    uint64_t key = dpo__random_bits(j->seed, j->stream, 4 * (uint64_t)(at / DPO__MOVE_BLOCK) + array);
    if (!x) return;
    if (dtype == DPO_F32) j->c->kernels.narrow_draw(n, NULL, (float *)x + at, from, key);
    else j->c->kernels.narrow_draw(n, (uint16_t *)x + at, NULL, from, key);
}
static void dpo__optimizer_range(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__optimizer_job *j = (const dpo__optimizer_job *)arg;
    const dpo__kernels *k = &j->c->kernels;
    float room[3][DPO__MOVE_BLOCK];
    int64_t at, n;
    (void)worker;
    for (at = first; at < last; at += n) {
        float *w, *m, *v;
        n = dpo__min64(last - at, DPO__MOVE_BLOCK);
        w = dpo__optimizer_floats(j, j->w, j->w_dtype, at, n, room[0]);
        m = dpo__optimizer_floats(j, j->m, j->state_dtype, at, n, room[1]);
        v = dpo__optimizer_floats(j, j->v, j->state_dtype, at, n, room[2]);
        if (j->kind == DPO_ADAMW) k->adamw(n, w, j->g + at, m, v, &j->o);
        else k->rmsprop(n, w, j->g + at, v, &j->o);
        memset(j->g + at, 0, (size_t)n * sizeof(float)); /* the next step's chains begin at zero */
        if (j->rounding) dpo__optimizer_round(j, j->w, j->w_dtype, at, n, w, 0);
        if (j->state_dtype == DPO_F32) continue;
        dpo__optimizer_round(j, j->m, DPO_BF16, at, n, m, 1);
        dpo__optimizer_round(j, j->v, DPO_BF16, at, n, v, 2);
    }
}
static void dpo__optimizer_run(const dpo__optimizer_job *j, int64_t n) {
    dpo__optimizer_job job = *j;
    dpo__split_run(j->c, n, DPO__MOVE_BLOCK, dpo__optimizer_range, &job);
}
/* Constants of update number t (from 1) for a tensor whose learning rate is lr. */
static dpo__update dpo__optimizer_constants(const dpo_train_config *k, int64_t t, double lr, double clip) {
    dpo__update o;
    memset(&o, 0, sizeof o);
    o.clip = (float)clip;
    o.eps = (float)k->adam_epsilon;
    if (k->optimizer == DPO_ADAMW) {
        o.decay = (float)(1.0 - lr * k->weight_decay);
        o.beta2 = (float)k->adam_beta2;
        o.one_beta1 = (float)(1.0 - k->adam_beta1);
        o.one_beta2 = (float)(1.0 - k->adam_beta2);
        o.rate = (float)(lr / (1.0 - dpo__power(k->adam_beta1, t)));
        o.root_bias2 = (float)sqrt(1.0 - dpo__power(k->adam_beta2, t));
    } else {
        o.decay = (float)k->weight_decay;
        o.beta2 = (float)k->rmsprop_alpha;
        o.one_beta2 = (float)(1.0 - k->rmsprop_alpha);
        o.rate = (float)lr;
    }
    return o;
}

/* Learning rate of update `step` (from 0) of `total`: warm-up as the reference code has it,
   (step+1)/(warmup+1), then constant, or linear or cosine down to 0 at `total`. */
static double dpo__schedule(const dpo_train_config *k, int64_t step, int64_t total) {
    double left, f = 1.0;
    if (step < k->warmup_steps) f = (double)(step + 1) / (double)(k->warmup_steps + 1);
    else if (k->schedule != DPO_CONSTANT && total > k->warmup_steps) {
        left = (double)(total - step) / (double)(total - k->warmup_steps);
        if (left < 0) left = 0;
        f = k->schedule == DPO_LINEAR ? left : 0.5 * (1.0 + dpo__num_cos(3.14159265358979323846 * (1.0 - left)));
    }
    return k->learning_rate * f;
}

/* ===========================================================================================
   >>UNICODE - classes of characters, and canonical composition (NFC, Unicode Standard Annex 15)
   =========================================================================================== */

/* generated by tools/make-unicode.c, which describes the format; Unicode 15.0 */
static const char *const dpo__unicode_classes[] = {
    ",:5*2N*S2)S2-*=*,(*-$(&)#($1$S&$SG$zE'R'18*($(SK8$,%4$()($0$($RH$X5$^4+`G$T5%()TBR=S6'4R#TJ8N',$YI$(2,*,#N#0%(3(",
    "$SCAXN.(1N#SO,,'((RP'(,(&(:S.*R#(S*$<4TFR0UI&(5(*M'N$R7'E%,%RP$A$(&4&(3(0,$0'N#,%=%(+<',%RP$A$,$,$,C4$(*N%03I$0",
    "$RP$A$,$8&(5(2,'N,(.E%,%RP$A$,$8&(B,$0'N$(#=.($<&0$4&,$($,&,&0&R'9(8R,5E$0$S&$R7&(=0%(%,'N+B$('E$0$S&$M$8&(C,$,",
    "'N$,4I$0$TB%(3((0$B#0'RE$<(R@&S*$I$(%ACN4U0$,/A,NK,$($8$S*$($M$,,(%8$(,N%4D(CRI/E$T->8S<TJ7(#N)<'4&(&,*0'R+/($N",
    ")T5$(((%TJ$o@$4%A$($4%TB$4%SO$4%A$($4%R3$V'$4%VP1RI&R73XB%<&R[)%R;#*#S2(WC&1#E*R@0RD1R@1R+$02UAG('(&N)N9N)XN*8",
    "%T%$((W.-SGKN#SC%8.TN'S2)R$IS&,UEON)N0(S&U,4E&NMSC0,#N#TN=T-@N&0#N#T-%I*TJ%0M4$<$,&((c'R6jE%<%T5%<%E$($($($SG%UE",
    "$A$(&0$A&4%<'R+(0$A&R%A.(*R%*3)#(%=((#N)R+S.('(%M$(&8)($($($4$R#%4(8'($U=#,#9b)V4RES#`#SDk*f4)4&,,)%T5$(((%V#*(",
    "3S&,A$A$A$A$A$A$A$ARG([1*',#)<J*8%1#,'XB)0$Y$$4(TJ$Y4&5-SKR&R7DNBF$R4DNKR4X(_QPR6}t;R9U(%iN&R7#N#,7U,3SG%W.#NKI",
    "%Z+%VD(,$($8;R7$0$4$S&0=-UA1U8@N;<&($,$N#S:-S&<S>*U,@(#N)8$M#N#8$TB:0$E'N)S&&(&U8$(&,%8%($(;0%R#*0/<%<%<,A$A$TJ",
    "$R/)[.0N)hT'/S&'U4UXIr<%Z7JA/8(($M$R+$8$($,$,$Z@Er05VD%UILR'S=8$^$6N*S2)S2.XN&<%<%<%0GR'$S2$RD$,$R3%R/F[O/U%/V(",
    "4-V6S>&U43S7'SK#5,RH#)#E#)(T5-SC%T-'E$9N`&%N)T-'T-'T=+UA/R#$R3$A$,$R#$R3$A$,R9mB,RP-E;<$TF$IR;<%($TN$,&(%S&%F#S&",
    "%B#SG+JR&RD$,(9#RP#='S2R<V#'-#,#R8%U)#(24$0$S>-J:S>#-$S>#1DE$S:)93UI-RP%F#RD(F#R@:BRGW:R-U<0U<*=#T-/NW;SH$TF),",
    "RES>#N#(+RP.5>R@R$RL#B7S&/UE=SD$,%(0U$DS.*N,T-2N'(%(+T)&(/U014.N#($('RI.R@$S.6,R5A$($4$R3$M*U,4N.E%,%RP$A$,$8&(",
    "5(/8T:UE54(N(0BU07,$(+NTCU,M4HU07(.NJTJ0(*NR,S68R('AU(TNS=VD#RE/E%(%E$,$S*2($(1NR<E%T93($(@(-T=*(8(.U(6(5W:VJI",
    "$T14(2S@(SCS9A$,$T58(,N)<$,$SK1(*NWLRD2($R+$T%@NRM(2RMORvPS/ZM4c7R_=YA2SV14<R~7RWJU]JRV>*SG$N)X%$N)SC5U034/N$B",
    "$RL(RDa0VD#S'S2WC((R8R+R6,$(@^V7+Sf&NIUd<4$A$,$kL2(A0%(14+u-RW0Z;(R+&I*MSv#RI/RIS5S/T#X=$W2$,%(%,%4$R'$($A$VH$4",
    "%E$A$S:$4$8$(&A$p.%S.$S.$SG$S.$SG$S.$SG$S.$SG$S.$E%U9yISG)<VHV;T.U$-A%N'(X)SC5TN'N[7S:'Nb9A$4$,$R3$c;%JR&W&*('N",
    "c=V0$1$5RCU%$R4U14$S6$,$(%($M$4$($()('($($($0$,$(%($($($($($,$(%4$A$4$4$($M$R;(0$8$R;^LR,RbNNhLRyc3DYZ/)eF%]c,",
    "1`t0RiORT,s8Zt%(Y^A",
    NULL};
static const char *const dpo__unicode_marks[] = {
    "c&8V(#$V*#'UL#$V*#$UH#(UL#%U9#'UL#%U9#.UL#($#'UL#+V(#$V2#$V(#&UL#&V(#%UL$&V(#'UL#$V(#$V*#%UL#$V(#$V+#%V,#$V+#%V,",
    "#$V+#0V(W((V(VL$UL#'V(#$UL#&V(#$UN#$UL#)V(#)UL#%V(#$UL#%V(#$UN#$V&#$V(#$-#$.#$/#$0#$1#$2#$3#$4#$5#%6#$7#$8#$9$$:",
    "$$;#$<$$V(#$UL$$5R>+V(#$B#$C#$DR&$>#$@#$A#$B#$C#$D#$E#$F#%V(#%UL#(V(#$UL#%V(#$UL3$GS.*V(%'V(#$UL#$V(%%V($$UL#%V(",
    "#$ULG$HB$V(#$UL#%V(#$UL#%V(#&UL#$V(#%UL#$V(#$UL#&V(#$UL#$V(#$UL#$V(#$UL#$V(#$UL#%V(T<*V(#$UL#$V(,$UL;'V($,V($&V(",
    "$(V(O&ULR2$V(#&UL#'V(N(V(#(UL#1V($$UL#%V(#$UL#%V(#$UL#&V(#&UL#$>#$@#$A#&V(#$UL#%V(#%UL#(V(R2$*3$,&$V(#$UL#%V(",
    "S0$*3$,R&$V(R3$*3$,S7$*3$,S7$*3$,SI$,S7$*3$,*$RK#$S$S.$*3$,S6%,3$,SF$,S6%S0#$,0'S4S5%S@#$,0'SDRC%UL>$UL$$UL$$UH",
    "R-$SK#$SL$$SN('SL%$SL$%V(#$,$%V(R4$ULS9$*$%,RI$ULaP&V(g&%,B$,T9$,-$V(U:$V&T+$UN#$V(#$ULUK$V(#$ULR=$,7+V(%$UL",
    "R&(V(#)UL#%V(#$UL$%UL#%V(#%UL#(V(#$UL#'V(S.$*2$,J$V(#$UL#*V(R,%,R0$*.%,R9$*T4&V($$$#(UL#%V(#'UL#$V($*$'$UL)$V(",
    "&%V(U5%V(#$UL#*V(#$UL#%V(#$V,#$UF#$UL#$U9#IV(#$V*#%V&#$UL#$UJ#$V(#$V+#$UL#$V(#$ULb#%V(#%$#'V(#&$#%V('$V(&%$#$V(",
    "#$UL#$V(#%$#'UL#$V(Ri-&V(T)$,S)DV(^1$UJ#$V&#$V*#$UN#%UPS2%+`z1$V('-V(D%V(RG%V(W)$,I$,T3$,>5V(R/&ULI$,S($*/$,",
    "V1$V($%V(#$UL%%V((%V($$V(R*$,V8$,[Q9$=c'*V(#*UL#%V(g@$ULV$$ULT1(V(w4$UL$$V(L$V(#$$#$UL'$,TB$V(#$UL^E'V(Y>%V(",
    "RG&ULR<%UL#&V(#$UL#$V(#'ULR'$V(#$UL#$V(#$ULU/$,M$,1$,R/$,#$*R;&V(R&%,R4$*RC$,,$*S3$,#$*TO$*#$,RG%*3$,;*V(&(V(",
    "U<$,&$*:$V(S,$,#$*V=$,#$*SH$,S@$,#$*S<$,VP$,#$*VE%,'$*T8$,RJ$,5$,RH$,Z3$,VE$*$%,RH$,Z7%,Zk:($R1*V(lK%)Zq+$$",
    "Sn+%UH#&$&$V$#(UH++UL%(V(#%ULB'V(T0&V(Rs(*V($4V(%*V($%V($(V(S-$V(T<*V(Y2$V(R3'V(]0%V*#$UL#$V(h%*ULS6)V(#$*",
    NULL};
static const char *const dpo__unicode_pairs[] = {
    "^ISLt)'#%'#%'#%'#-'#'*'R0''RD'#%'#%'#/'+2'#%'#%'#/*-,'%('#%'#%'#%'#--/2'#%'#%'#/'+0-3$'#%'#%'#%'#-'#'*'R0''RD'#%",
    "'#%'#/'+2'#%'#%'#/*-,'%('#%'#%'#%'#--/2'#%'#%'#/'+0*#1'S8*'R6#'R5''R6#'R5R:'R6#'R1RD'R6#'R5%'R6#'R5-'R6#'R5-'R6#",
    "'R3#'R6#-R32'R6#'R5''R6#'R5%'R6#'R5R8'R6#'R5R-'R6#'R16'R6#'R5+'R6#'R5%'R6#'R5R6'R6#'R3R@'R6#-R3%'R6#'R5%'R6#'R5'",
    "'R6#'R5R:'R6#'R5R70%,'R6#'R3RA'R6#*R3RB'R6#'R5RC'R6#'R5R+'R6#3R18'R6#'R5RC'R6#'R5R+'R6#0R32'R6#'R5''R6#'R5-'R6#",
    "-R/6'R6#'R5RC'R6#'R5R+'R6#'R38'R6#'R5%'R6#'R5RA'R6#'R5R+'R6#'R3R,'R6#'R5R+'R6#-R34'R6#'R5%'R6#'R5''R6#'R5+'R6#",
    "'R5%'R6#'R5R0'R6#'R1RB'R6#'R1#'R6#'R5/'%0'R6#'R5/'R6#'R5-'R6#S0RLB'R6#OR)#'R6#ROS0A'R6#'R%#'R6#'R)#'R6#'R)#'R6#",
    "'U=2'R6#'R5('R6#'R59'R6#'R5:'R6#*S8+'R6#'`1#'%#'aB#'R6#-X%3'R6#'R-#'R6#'R-R.'R6#'bJR='%#'S03'ZE#'j:#0R;8'R6#-R'$",
    "'R6#'TK%'R6#'R3#'R6#'>#'R6#'Y(@'R6#'R5''R6#'R-&'R6#'R5''R6#'R-&'R6#'R5''R6#'R)&'R6#'R5''R6#'R/&'R6#'R5''R6#'R/&",
    "'R6#'R5''R6#'R9N'R6#'R3#'R6#-RNR)'R6#9RD,'R6#'R-R6'R6#'V$R;'R6#'R7#'R6#'X3)'R6#'eK('%#'fK#'R6#cNnF&%)H(8(T,T9Bn2",
    "9UJ#'s(#&r6'r@#''#''#*/#*/#'+#'R8#RFS*1';#';0'+#''#''#'H#RFG1';#'.0'/#'+#35#'#1SOSP2'#3*&00<13L0'&$'9/F8#S*R6#",
    "R<(.'#3*&00R<13R-0'&$'9/R@S+5'%#UOU,4'R6#ORB#'R6#'R5''R6#-R+&'R6#-X.''%#'YA#'R6#'R3#'R6#-R3*'R6#'R5+'R6#'R)#'R6#",
    "-X<#'%#'Y2#'R6#'RJ*'R6#'R5+'R6#'R5)'R6#'R-('R6#-R-#'R6#eIg*w8'#%'R8#'R7%'R<$[0W+#*K#R*F#yLl=s&<3#-)#S7R1#(%#(%#",
    "(-#(-#(%#(5#(+#X-WFVG'#R(R(RBR+(%#+=#VAVIVC./#S4R9#(%#(-#.B#a@^@^;-#R%'#R(R(RBR+(%#TCUPWLT@S1R''%#'$R(Y0VCVA",
    "Y$V4VA91#'#%*#K'+JY9V:UB'%#'$R(Z9W;V(*#-'),'(NiJb%fPD7#4-#4-#4-#MR+&DS+SO+#'(SL;+%#ASM#R.R8S7D7#4-#4-#4-#MR+&",
    "X0W@V4UV@SsESu8*'#*'#*'#*'#0+#SFRI#*'#-'#'%#*)#RRFWw-WTF'R6#'R3R1'R6#'R5R.'R6#'R5@'R6#'U9S('R6#'X-/'R6#'R5R.'R6#",
    "'R5@'R6#'R56'R6#'R5/'R6#'XERP'%#'$%'%#'Z)RO'R6#'R5)'R6#'f%RJ'%#'g7%'R6#'R3('R6#'R3)'R6#'R5R.'R6#'R5R+'R6#'R5R4",
    "'R6#'R51'R6#'R3''R6#'U;S&'R6#'X/#'R6#'R5R:'R6#'R5@'R6#'R3>'R6#'XiNR3'%#'Xk4S#'R6#'R5*'R6#'R3RN'R6#'R5/'R6#'R5R.",
    "'R6#'R3R-'R6#'R5R.'R6#'R5@'R6#'R5*'R6#'U=RN'R6#'R51'R6#'TK2'%#'$%'%#']-#'R6#'R5/'R6#'R1#'R6#'R5R.'R6#'Xk/R3'%#",
    "'XlDS#'R6#'R3RJ'R6#'R5R.'R6#'[/R-'%#'-#'%#'Xa##'%#'XlP#'R6#'R5R.'R6#'R5@'R6#'R5*'R6#'R34'R6#'R5;'R6#'R5('R6#",
    "'[HRN'%#'%1'%#'^0,'R6#'R5R6'R6#'R3R;'R6#'R5%'R6#'R51'R6#'R5$'R6#'R5R.'R6#'R3R-'R6#'R5%'R6#'R3$'R6#'R3,'R6#'R5R8",
    "'R6#'R5@'R6#'G#';RH')'''#*]A(3`(R.'R6#'R5R)'R6#'U12'R6#'R5$'R6#'R55'R6#'R5.'R6#'Xi5$'%#'Xh#$'%#'$$'%#'$5'%#'$.",
    "'%#'XgN)'%#'Xp5R0'R6#'R5R)'R6#'R5.'R6#'U9&'R6#'R5$'R6#'R55'R6#'R5.'R6#'Xj($'%#'Xq01'R6#'R5R*'R6#'R)#'R6#'R5R)",
    "'R6#'U92'R6#'R5$'R6#'R55'R6#'R5.'R6#'Xj<$'%#'XbN$'%#'$$'%#'$5'%#'$.'%#'$R6'%#'`E#'R6#'R5R)'R6#'_O2'%#'$$'%#'$5",
    "'%#'$.'%#'$R6'%#'a-R;'R6#'R5R<'R6#'R5R)'R6#'R5.'R6#9v@D'#%'WzDK'%#'$%'%#'$SL'%#'W|*S&'#%'W|9K'%#'$%'%#'$SL'%#",
    "'WzMS&'#%'W{.K'%#'$%'%#-W|CH'#%'W}$K'%#'$%'%#-W{;H'#%'W{KK'%#'$%'%#'$SL'%#'W}1S&'#%'W}AK'%#'$%'%#'$SL'%#'W|*S&",
    "'#%'W|9K'%#'$%'%#'$SL'%#'W}NS&'#%'W~/K'%#'$%'%#'$SL'%#'W|>S&'#%'W|NK'%#'$%'%#-W~4H'#%'W~DK'%#'$%'%#-W}%H'#%'W}4K",
    "'%#'$%'%#'$SL'%#*W~IS$*XQ,K*#%*#SL'W}=S&'#%'W}MK'%#'$%'%#'$SL'%#'XQ3S&'#%'XQCK'%#'$%'%#'$SL'%#'XQ3SM&,'5#&2'7#&4",
    "'9#&6'D#&='0#&3'*#&--Wy6T&'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'F#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#",
    "'%#'%#'%#'S+#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'%#'XQ@SG'#&'XQCSL'XQB#',#*-('XTH)'XV,SG'#&'#*&8'9T&)RG",
    "-tK('Xu5)'XQ=#'4#*5('XU.)'XVET%&<'B#&>'@T&'XV3T%'#%'#SL'XTISA'#&'F*&S<-RISN'F#'S*SA'#&'#*&A*XYE#'#%'#SL'XW'SA'#&",
    "'/*&R+'FJ'#%'+S%'/#'RBSA'#&'#*&R#'JL'sHK&r=&uF-XxOT&'XQ)#'-#*,('XV=)'XX6T%&I'R0#&R)'R*T&&s@,X{+&%e;XX</x0&V6",
    "X6Y_(<''#R0'#S'SB#'+#'&#T<S+#3-#-)#R@R&#*'#RIR$#-1#-'#*)#R<Ym1#*Yn7#FK#'Ym=#''#'Yn;#'%#-=#'%#-)#'%#9)#'%#-1#'%#",
    "-)#'%#S3R,#'/#'%#''#T0S&#'%#'L#'%#9R6#'%#'%#'%#U#Tb>&%S{4R_I#SSIRbG]g1*'#*'#*'#*'#*'#*'#*'#*'#*'#*'#*'#-)#*'#*'#",
    "91#'#%*)$'#%*)$'#%*)$'#%*)$'#%R<S2$CTK#O@#*'#*'#*'#*'#*'#*'#*'#*'#*'#*'#*'#-)#*'#*'#91#'#%*)$'#%*)$'#%*)$'#%*)$",
    "'#%R<S2$-T.#'%#'%#'%#09#Rpx8iTD&ZeC&[T.&hI&XkM&Y])&ReJ&eW8&#&ctF&`^J&a[N&|D&SYF&VXB&S_A&Rq;&bJ&`)&R{3&Zs>&u.&|=",
    "&t3&UW/&T`M&SX$&eT.&R]1&V}%&RuB&VT3&WS5&bc1&UqC&ViP&zJ&Zt-&Xx4&Rl6&[f.&SU7&RlO&Rd4&Xj0&bhE&jN&_(&UiA&RiN&Rw3&R[&",
    "&S_<&Ri9&TI&R{+&Sa4&RT-&nN&ZfJ&[H&RRP&Rk'&Tx0&Sz@&U}B&^n8&RjM&Xe%&RRJ&Tk:&RmL&VS,&Sl)&aqG&z/&TfG&|P&_E&TkD&]E",
    "&WTO&cSB&]k-&]v)&C&[YB&{2&Rk;&UpB&StA&[^O&RvM&Ya0&ab5&TfA&RS6&U{4&gE&YpG&Zl(&[e)&UR&&Uf2&XtI&Rx3&V~.&[fC&RX5&Xs=",
    "&Tb(&Rm=&XvP&ZU*&YyP&Sd:&YSP&XzF&Uh+&Zu8&q&&U/&Vs9&VX'&RcN&SV6&Rt:&az'&`H&R`&&Rc/&RrM&Sl1&S`3&XZ5&RYM&RS:&S7&e]O",
    "&VU8&RY4&ZTB&^bC&u4&UP&o>&SoK&j7&vP&R`G&RS4&n-&Tr6&Sl.&Sw:&uK&bgH&W-&iM&XU&&WSH&gC&]U-&_2&z'&ST0&UY7&SZN&Z]$&SRO",
    "&R]'&fF&m(&U|J&Y)&Sw2&XA&Uj#&RZ)&TA&Z.&da7&[o6&WT2&R^&&_m<&UnI&l9&Sv%&T>&Sb5&RV+&R}D&RVB&Tr<&SzJ&Tv6&`dE&^S)&cU@",
    "&V_1&V2&Ra3&a6&RbE&`N&tN&RXJ&WzB&c|)&U[@&_ZN&ctJ&T^(&U]2&Yd1&^RH&e>&RrA&Sz)&Yx+&c^H&g>&SUJ&Sf)&`#&a4&RT-&Rv(&g*",
    "&Se(&Sb-&H&S]8&R^K&cU;&W|B&WrG&XhM&qA&UcG&UZ<&ReL&kO&_{(&Rk=&VTJ&RuM&TG&b7&SgD&j8&Wt1&a`5&_]L&^c1&S.&TY>&RS:&WkO",
    "&Ye%&Uf-&RmO&[](&RsK&Tj2&T[)&[v$&Te6&RW,,o>)Tk7,VZ,&YdJ&{.&mI&R:&1&RK&XiH&Wr<&t')Rm%)R[E,R`E&YF/SQ5&=&RO&RWE&T]$",
    "&Rg;&c},&_M&U;&bL&R,&UJ&l)&UB&U3&fP&U@&|9&7&RS,&Z6&RC&U7&x/&W;&XG&h-&R]/&X.&]E&l)&Y5&h3&RV7&XC&9&$&3&/&1&S)&%&XM",
    "&SL&`+&k&&N&S9&_<&W;&gC&W-&#&g.&RYE&VO&b)&S9&d-&S3&p9&VG&RpK&^@&SB&`U<&Sq~8&SigE,_W#&z9&T5&gB&f)&S@&`;&S/&p#&T+",
    "&T$&T.&n'&TO&W7&D&^#&YH&{C&1&W5&T$&_0&V.&T'&VO&S$&W9&SN&cG&TM&S5&]<&^D&X.&+&S@&RS&&SL&c4&d-&C&TK&],&`N&RkH&RbN",
    "&V6&V8&`;&W@&S3&[%&'&X>&F&R(&TI&6&c>&g<&^%&Y1&ZO&WH&`B&YJ&w<&WP&z/&f/&T&&D&_,&S;&RP&S5&(&E&T4&T>&bP&jL&_O&_(&ZI",
    "&RQG&U=&V(&VM&R>&;&S)&r1&RWA&SZ^I&.&S{>&SwgK&RVP&R8&S~QN&SoG&YlP&Sq]2&T2U=xxI[x$+R()G47(#%(RcRI$(#%(RcSM8(#%(#+",
    "(%#(%#(%#(%#(%#(%#+'#(%#(%#(%#(%#+'#+'#(%#+'#(%#+'#(%#(%#(%#(%#(M((*/(7#(5#YT9Rhe;RhhA*'#R$7#YFW-UJ'%#v$iCiG'#R(",
    "j9b7aG'#6*#=bI]2[F'%#R`<yAyKRjwJRRk$RRkK(%#(15(#%(#%(#%(#%VJU#<(%#(%5(%#($%(%#SglKSX}I&,&5&Se|O&Sep+&T8&=&T*&V2",
    "&R4&T8&R%&XVE&Smr>&Sfg-&1&D&J&SfWB&SmdB&X]1&RC&SfXG&SfX1&=&r2&rD&5&T[p8&T[m>&@&Xb;&Xe%&9&RO&-&Xe0&XhK&'&R,&P&9&%",
    "&F&S-&3&5&R(&7&'&#&#&Sf{*&S_lJ&X[N&N&SgVD&SgV*&/&N&WF&U:&D&R6&S=&TE&R*&SP&D&R8&#&N&H&3&B&a(&^&&^)&YG&R<&RV2&Rs;",
    "&^G&RC&R(&VF&X6&$&V8&Sh`-&Sh]'&-&B&L&3&SJ&Shl-&SN&Shi#&S'&;&T9&W1&Y};&@&ZV)&S5&#&Shz@&ShtC&N&B&;&SiS:&SiRO&1&w<",
    "&v0&Z]E&Z`:&@&TA&S.&Sim9&Sie4&Sie9&Sic<&(&F&U9&%&ZiM&Zk)&RM&N&RO&ZmA&Ssp,&Sso$&ZoB&)&)&L&T]x#&T]uB&Sja$&#&SagA",
    "&YvE&#&Zq4&Sw{9&]{/&SzT9&5&Zs4&Zu9&S/&7&R:&W%&Z{K&R1&Z~&&Sjx3&Sjv&&VE&+&'&&&S%&L&R>&>&9&S'&L&+&R*&9&SN&TE&R<&V:",
    "&Sk[.&Sk]&&SK&UH&R,&U1&Sk_J&Sk]&&U(&R-&[gN&[p9&N&R4&RB&[n2&[wO&R0&Sk}%&SkwE&^1&XF&[{3&[~=&]Q1&R=&Vs%&)&VdC&U6",
    "&Wl=&ac&&YzP&+&/&SD&8&SldF&SwjH&]_9&V+&Z(&S/&Sl^D&Sl^0&UM&[L&]h/&]j2&U1&T*&Y7&Sl_<&Sl]/&]w$&]z*&Slq(&SlnI&]z#",
    "&]{3&S#&R,&%&SmQK&XfD&Xk=&Sl~*&Sme+&Sm`)&@&U:&XG&RG&S;&S4&RG&B&=&SmZD&Sm_0&]*&SH&^f(&^j/&*&Sm`E&SmiK&b=&Sm_=&S)",
    "&Sm]G&V(&R+&(&^tG&^vL&S/&.&S5&S^]O&S^V+&Smm#&Smi(&SmwD&Smq8&=&R,&Sn]>&SnZ7&N&SngM&ZM&Sng@&F&_b;&_cD&_c*&#&_j4&N",
    "&N&L&T&&_kG&_oH&SoUE&SoT<&SoXB&SoV6&Sd]G&SdUA&Sos)&R$&W-&S}kA&;&_yL&Sox$&$&RE&R*&SoxP&%&#&RM&_{:&_~6&_}I&T<&S~c>",
    "&Sp_@&SF&SJ&`W(&S~w2&Spk%&Spp-&RM&Spo=&U'&`a9&`e0&7&-&SqWO&_0&#&Sq_*&`c@&TQ|4&Sqa(&)&`kD&TRV,&Sq^B&`r(&`s(&,&R0",
    "&SrQ%&Sqz@&`t.&`xD&S@&SP&`|$&TS^>&R4&TS^1&TSdI&SrZB&Sr`+&Sr^O&U9&9&Srl1&T.&Srk9&Srq6&SrpC&Se}=&Su_(&ac9&T>&adB",
    "&ag1&Zs6&S|rD&@&_Y)&5&Sen7&)&TeF&eQ=&ar(&.&H&^V)&^W%&'&7&RI&Ssg+&Ssg,&S9&T(&T0&W(&WJ&RK&UP&];&V0&'&D&Ssg3&_E&WA",
    "&TUgC&bV>&'&R<&SuT@&SuQ)&Ssw@&TVR'&+&TVWJ&^J&TVe-&bd3&;&9&'&SJ&R7&VO&RN&WD&T=&SP&R,&bm1&bq4&R6&bq/&bu:&)&StzH",
    "&Stu@&1&bx6&byC&g_:&T]n;&Y+&TX]F&5&cWO&T6&WP&Z$&Suh&&Sud-&P&U#&U'&SuwN&pVJ&SVn1&A&S1&SVv4&SVl-&U7&SwT9&R,&Svt,",
    "&U)&R6&Sv|N&Sv|8&^B&X&&%&U&&bN&R.&Swd,&SwR<&eZ.&e]-&Swb<&T]j*&ee;&`e/&`i<&Sw}B&Z8&T^kK&3&ekH&SxgG&T^~L&T_W)&Sxl&",
    "&#&R2&Sxw<&Sxo1&enJ&er$&V>&R,&SB&et=&T`i@&SygE&_6&Y5&f^0&R4&faA&Sz`)&Tao/&TaqE&]G&VI&Sze%&fl&&fnJ&-&1&7&1&RA",
    "&S{X7",
    NULL};
/* end of the generated tables */

#define DPO__UNICODE_END 0x40000 /* beyond it there is no letter, number, space, mark or decomposition */
enum { DPO__OTHER = 0, DPO__LETTER = 1, DPO__NUMBER = 2, DPO__SPACE = 3, DPO__CLASS = 3, DPO__UNSETTLED = 4 };

/* A canonical decomposition; `composes`: the two parts become it again. */
typedef struct dpo__unicode_pair {
    uint32_t of, first, second; /* second 0: a single character */
    int composes;
} dpo__unicode_pair;

#define DPO__UNICODE_PAIRS   2200
#define DPO__UNICODE_COMPOSE 4096 /* slots of the table (first, second) -> pair */

typedef struct dpo__unicode {
    uint8_t *kind; /* [END] class; DPO__UNSETTLED where NFC may not leave the character as it is */
    uint8_t *mark; /* [END] canonical combining class */
    dpo__unicode_pair *pairs;
    uint16_t *compose; /* pair + 1; 0: free */
    int n_pairs;
} dpo__unicode;

static void dpo__unicode_layout(dpo__arena *a, dpo__unicode *u) {
    u->kind = DPO__CARVE(a, uint8_t, DPO__UNICODE_END);
    u->mark = DPO__CARVE(a, uint8_t, DPO__UNICODE_END);
    u->pairs = DPO__CARVE(a, dpo__unicode_pair, DPO__UNICODE_PAIRS);
    u->compose = DPO__CARVE(a, uint16_t, DPO__UNICODE_COMPOSE);
}

/* The next number of a table's row. */
static uint32_t dpo__unicode_number(const char **row) {
    uint32_t x = 0;
    for (;;) {
        uint32_t k = (uint32_t)(unsigned char)*(*row)++;
        k -= k > '\\' ? '#' + 2 : k > '?' ? '#' + 1 : '#';
        x = x * 45 + k % 45;
        if (k < 45) return x;
    }
}
/* The last number of its kind, less or more a number of the row. */
static uint32_t dpo__unicode_step(const char **row, uint32_t *last) {
    uint32_t x = dpo__unicode_number(row);
    return *last += x & 1 ? ~(x >> 1) : x >> 1;
}
static size_t dpo__unicode_slot(const dpo__unicode *u, uint32_t first, uint32_t second) {
    size_t i = (size_t)dpo__mix((uint64_t)first << 32 | second) & (DPO__UNICODE_COMPOSE - 1);
    while (u->compose[i]) {
        const dpo__unicode_pair *p = &u->pairs[u->compose[i] - 1];
        if (p->first == first && p->second == second) break;
        i = (i + 1) & (DPO__UNICODE_COMPOSE - 1);
    }
    return i;
}
static void dpo__unicode_fill_pairs(dpo__unicode *u) {
    const char *const *row;
    const char *at;
    uint32_t c = 0, first = 0, second = 0, x;
    for (row = dpo__unicode_pairs; *row; row++)
        for (at = *row; *at && u->n_pairs < DPO__UNICODE_PAIRS;) {
            dpo__unicode_pair *p = &u->pairs[u->n_pairs++];
            x = dpo__unicode_number(&at);
            p->of = c += x / 3;
            p->composes = x % 3 == 1;
            p->first = dpo__unicode_step(&at, &first);
            p->second = x % 3 ? dpo__unicode_step(&at, &second) : 0;
            if (p->composes) {
                u->compose[dpo__unicode_slot(u, p->first, p->second)] = (uint16_t)u->n_pairs;
                u->kind[p->second] |= DPO__UNSETTLED;
            } else u->kind[p->of] |= DPO__UNSETTLED;
        }
}
static void dpo__unicode_fill(dpo__unicode *u) {
    const char *const *row;
    const char *at;
    uint32_t c = 0, x, i;
    u->n_pairs = 0;
    memset(u->kind, 0, DPO__UNICODE_END);
    memset(u->mark, 0, DPO__UNICODE_END);
    memset(u->compose, 0, DPO__UNICODE_COMPOSE * sizeof *u->compose);
    for (row = dpo__unicode_classes; *row; row++)
        for (at = *row; *at; c += x / 4) {
            c += dpo__unicode_number(&at);
            x = dpo__unicode_number(&at);
            for (i = 0; i < x / 4; i++) u->kind[c + i] = (uint8_t)(x % 4);
        }
    for (row = dpo__unicode_marks, c = 0; *row; row++)
        for (at = *row; *at; c += x) {
            c += dpo__unicode_number(&at);
            x = dpo__unicode_number(&at);
            memset(u->mark + c, (int)dpo__unicode_number(&at), x);
            for (i = 0; i < x; i++) u->kind[c + i] |= DPO__UNSETTLED;
        }
    dpo__unicode_fill_pairs(u);
    for (i = 0x1161; i <= 0x1175; i++) u->kind[i] |= DPO__UNSETTLED; /* Hangul: vowels and finals join what is before */
    for (i = 0x11a8; i <= 0x11c2; i++) u->kind[i] |= DPO__UNSETTLED;
}

/* --- NFC: decompose, sort marks by class, compose. A character on its way has its class in the upper 8 bits. */

#define DPO__NFC_CODE 0xffffffu
#define DPO__NFC_BYTE 0x200000u /* a byte that is no UTF-8 stays as it is */

/* Appends c's canonical decomposition; at most 4 characters for one (3 for one of 2 bytes). */
static uint32_t *dpo__nfc_decompose(const dpo__unicode *u, uint32_t c, uint32_t *to) {
    int low = 0, high = u->n_pairs;
    if (c >= 0xac00 && c < 0xac00 + 11172) { /* Hangul by arithmetic: 19 x 21 x 28 */
        c -= 0xac00;
        *to++ = 0x1100 + c / 588;
        *to++ = 0x1161 + c % 588 / 28;
        if (c % 28) *to++ = 0x11a7 + c % 28;
        return to;
    }
    while (low < high) {
        int mid = (low + high) / 2;
        if (u->pairs[mid].of < c) low = mid + 1;
        else high = mid;
    }
    if (low < u->n_pairs && u->pairs[low].of == c) { /* depth: at most 3 in the table */
        to = dpo__nfc_decompose(u, u->pairs[low].first, to);
        return u->pairs[low].second ? dpo__nfc_decompose(u, u->pairs[low].second, to) : to;
    }
    *to++ = c | (c < DPO__UNICODE_END ? (uint32_t)u->mark[c] << 24 : 0);
    return to;
}
/* Stable order by class of each run of marks: by counting, so that no text makes it slow. */
static void dpo__nfc_sort(uint32_t *c, size_t n, uint32_t *spare) {
    size_t i, k, end, count[256];
    for (i = 0; i < n; i = end + 1) {
        for (end = i; end < n && c[end] >> 24; end++) {
        }
        if (end - i < 2) continue;
        memset(count, 0, sizeof count);
        for (k = i; k < end; k++) count[c[k] >> 24]++;
        for (k = 1; k < 256; k++) count[k] += count[k - 1];
        for (k = end; k-- > i;) spare[--count[c[k] >> 24]] = c[k];
        memcpy(c + i, spare, (end - i) * sizeof *c);
    }
}
/* What two characters compose to, 0 if to nothing. */
static uint32_t dpo__nfc_pair(const dpo__unicode *u, uint32_t a, uint32_t b) {
    uint16_t p;
    if (a - 0x1100 < 19 && b - 0x1161 < 21) return 0xac00 + ((a - 0x1100) * 21 + (b - 0x1161)) * 28;
    if (a - 0xac00 < 11172 && (a - 0xac00) % 28 == 0 && b - 0x11a8 < 27) return a + (b - 0x11a7);
    p = u->compose[dpo__unicode_slot(u, a, b)];
    return p ? u->pairs[p - 1].of : 0;
}
static size_t dpo__nfc_compose(const dpo__unicode *u, uint32_t *c, size_t n) {
    size_t i, k = 0, starter = n;
    int last = -1; /* class of the last one kept after the starter */
    for (i = 0; i < n; i++) {
        int mark = (int)(c[i] >> 24);
        uint32_t both = starter < n && last < mark ? dpo__nfc_pair(u, c[starter], c[i] & DPO__NFC_CODE) : 0;
        if (both) {
            c[starter] = both;
            continue;
        }
        if (!mark) starter = k;
        last = mark ? mark : -1;
        c[k++] = c[i];
    }
    return k;
}
/* NFC of p..end, which begins and ends where nothing reaches over; `work` holds 4 characters for each byte. */
static size_t dpo__nfc_region(const dpo__unicode *u, const uint8_t *p, const uint8_t *end, uint8_t *out,
                              uint32_t *work) {
    uint32_t *spare = work + 2 * (end - p), *to = work;
    size_t i, n, bytes = 0;
    int length;
    for (; p < end; p += length) {
        uint32_t c = dpo__utf8_get(p, end, &length);
        if (c == DPO__UTF8_BAD) *to++ = DPO__NFC_BYTE | *p;
        else to = dpo__nfc_decompose(u, c, to);
    }
    n = (size_t)(to - work);
    dpo__nfc_sort(work, n, spare);
    n = dpo__nfc_compose(u, work, n);
    for (i = 0; i < n; i++) {
        uint32_t c = work[i] & DPO__NFC_CODE;
        if (c & DPO__NFC_BYTE) out[bytes++] = (uint8_t)c;
        else bytes += (size_t)dpo__utf8_put(c, out + bytes);
    }
    return bytes;
}

/* From p on: ASCII text, then other characters up to *stop. Where what NFC may change begins: with the last ASCII
   character; at *stop if it changes nothing. */
static const uint8_t *dpo__nfc_next(const dpo__unicode *u, const uint8_t *p, const uint8_t *end, const uint8_t **stop) {
    const uint8_t *from = p + dpo__utf8_plain(p, end), *q = from;
    int length, change = 0;
    for (; q < end && *q >= 0x80; q += length) {
        uint32_t c = dpo__utf8_get(q, end, &length);
        change |= c < DPO__UNICODE_END && u->kind[c] & DPO__UNSETTLED;
    }
    *stop = q;
    return !change ? q : from > p ? from - 1 : from;
}

/* ===========================================================================================
   >>TOKENIZER - text to ids and back: byte-pair encoding as Hugging Face's tokenizers compute it [BPE]

   A text goes through: added tokens (each is one id, whatever is around it), normalization (NFC, or a space before a
   SentencePiece text), splitting into words, and for each word: start with one symbol a byte (or character), then join
   the neighbours whose merge has the lowest rank, the leftmost first, until none is left. Words that are a piece whose
   own merges give it back are looked up instead, and so are words met lately: the same ids, several times as fast.

   In SentencePiece-type tokenizers a piece's U+2581 is held as the space that it stands for.
   =========================================================================================== */

#define DPO__TOK_BITS   21                            /* of an id or a rank: 2 million of each */
#define DPO__TOK_IDS    ((int64_t)1 << DPO__TOK_BITS) /* less two */
#define DPO__TOK_PIECE  65536                         /* bytes of a piece */
#define DPO__TOK_NONE   0xffffffffu                   /* no id, no rank */
#define DPO__TOK_FEW    4                             /* ids of a word that is remembered */
#define DPO__TOK_KEY    15                            /* bytes of a word that is looked up */
#define DPO__TOK_CACHE  32768                         /* pairs of entries in the cache of words */
#define DPO__TOK_PROBES 1024                          /* entries of a table that are looked at for one key */
#define DPO__TOK_ADDED  1024                          /* bytes of an added token */
#define DPO__TOK_PAD    16                            /* readable zero bytes behind a text at work */
enum { DPO__TOK_HERE = 1, DPO__TOK_SPECIAL = 2, DPO__TOK_WHOLE = 4 };      /* state of an id; see dpo__tok_merged */
enum { DPO__TOK_BYTES = 0, DPO__TOK_BYTE_LEVEL = 1, DPO__TOK_SPACES = 2 }; /* kinds */
enum { DPO__SPLIT_NONE = 0, DPO__SPLIT_GPT2, DPO__SPLIT_LLAMA3, DPO__SPLIT_EACH_SPACE };
enum { DPO__PREFIX_NONE = 0, DPO__PREFIX_ALWAYS, DPO__PREFIX_MISSING, DPO__PREFIX_FIRST }; /* of a space */
enum { DPO__ASCII_MANY = 4, DPO__ASCII_NUL = 5 }; /* beside the classes: a byte of a longer character; zero */

typedef struct dpo__added {
    const uint8_t *text;
    uint32_t n;
    int32_t id;
    uint8_t special, lstrip, rstrip;
} dpo__added;

#define DPO__TOK_TWO 8192 /* bytes of a set of two bytes: a bit for each */

/* Added tokens in order of their bytes; `begins` has the two bytes that one of them may begin with. */
typedef struct dpo__added_set {
    dpo__added *token;
    int n, n_plain; /* n_plain: not special, so looked for in any text */
    uint8_t *begins;
} dpo__added_set;

/* A short word met lately, and its ids: its bytes as two numbers, the length in the upper byte of `high` (0: free); in
   that of id[0], how many there are. Two of them are one line of a cache. */
typedef struct dpo__tok_known {
    uint64_t low, high;
    uint32_t id[DPO__TOK_FEW];
} dpo__tok_known;

typedef struct dpo__tok_block {
    void *p;
    size_t bytes;
} dpo__tok_block;

/* What a text is worked on with. */
typedef struct dpo__tok_work {
    dpo__tok_block text, normal; /* bytes */
    dpo__tok_block symbols;      /* uint32_t: of long words, and characters of NFC */
    int32_t *out;
    int64_t cap, n;
    int failed; /* there was no memory */
    unsigned flags;
} dpo__tok_work;

struct dpo_tokenizer {
    dpo_context *c;
    int kind, split, digits, nfc, prefix, ignore_merges, fuse_unk, strip, adds_bos;
    int missing;    /* bytes that UTF-8 never has are without an id */
    int marked;     /* spaces are U+2581 when added tokens are looked for: no white space to them */
    int number_run; /* numbers that stand together at most, with the splitting of Llama-3 and Qwen2 */
    int32_t vocab, bos, eos, unk;
    int32_t n_merges;
    uint64_t hash;
    char info[200];
    uint32_t *at, *length; /* [vocab] a piece in the blob; length 0: no such id */
    uint8_t *state, *blob;
    uint32_t *index; /* piece -> id + 1, open addressing */
    size_t index_mask;
    uint64_t *pairs; /* (left id, right id, rank + 1), open addressing */
    size_t pairs_mask;
    int pairs_shift;
    uint32_t *merged; /* [n_merges] what a merge gives */
    uint32_t byte_id[256];
    uint8_t ascii[256];            /* class of a character of one byte */
    uint8_t borders[DPO__TOK_TWO]; /* the two bytes where a merge joins its parts */
    dpo__added_set raw, normal;
    dpo__unicode u;
    dpo__tok_known *known; /* pairs: the one met last first */
    dpo__tok_work *work;
};

/* --- tables ----------------------------------------------------------------------------------------- */

static size_t dpo__tok_hash(const uint8_t *p, size_t n) {
    uint64_t h = n * 0x9e3779b97f4a7c15u;
    size_t i;
    for (i = 0; i < n; i += i + 8 <= n ? 8 : 1) {
        h = (h ^ (i + 8 <= n ? dpo__load_le64(p + i) : p[i])) * 0x9fb21c651e98df25u;
        h ^= h >> 29;
    }
    return (size_t)(h ^ h >> 32);
}
/* Where in the index a piece is, or would go; index_mask + 1 if that is too far from its place: a file whose pieces
   were made to meet there is refused, so that it makes nothing slow. */
static size_t dpo__tok_slot(const dpo_tokenizer *t, const uint8_t *p, size_t n) {
    size_t i = dpo__tok_hash(p, n) & t->index_mask, k;
    for (k = 0; k < DPO__TOK_PROBES; k++, i = (i + 1) & t->index_mask) {
        uint32_t id = t->index[i] - 1; /* 0 - 1: none */
        if (id == DPO__TOK_NONE || (t->length[id] == n && !memcmp(t->blob + t->at[id], p, n))) return i;
    }
    return t->index_mask + 1;
}
static uint32_t dpo__tok_find(const dpo_tokenizer *t, const uint8_t *p, size_t n) {
    size_t i = dpo__tok_slot(t, p, n);
    return i > t->index_mask ? DPO__TOK_NONE : t->index[i] - 1;
}

/* The rank at which two symbols are joined, if they ever are. */
DPO__INLINE uint32_t dpo__tok_rank(const dpo_tokenizer *t, uint32_t left, uint32_t right) {
    uint64_t key = ((uint64_t)left << DPO__TOK_BITS | right) << DPO__TOK_BITS;
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> t->pairs_shift);
    for (;; i = (i + 1) & t->pairs_mask) {
        uint64_t x = t->pairs[i];
        if (!x) return DPO__TOK_NONE;
        if ((x ^ key) >> DPO__TOK_BITS == 0) return (uint32_t)(x & (uint64_t)(DPO__TOK_IDS - 1)) - 1;
    }
}
static int dpo__tok_pair_add(dpo_tokenizer *t, uint32_t left, uint32_t right, uint32_t rank) {
    uint64_t key = ((uint64_t)left << DPO__TOK_BITS | right) << DPO__TOK_BITS;
    size_t k, i = (size_t)(key * 0x9e3779b97f4a7c15u >> t->pairs_shift);
    for (k = 0; k < DPO__TOK_PROBES; k++, i = (i + 1) & t->pairs_mask) {
        if (!t->pairs[i]) t->pairs[i] = key | (rank + 1);
        if ((t->pairs[i] ^ key) >> DPO__TOK_BITS == 0) return 1; /* one that stands there twice keeps its first rank */
    }
    return 0;
}

static void dpo__tok_two_add(uint8_t *set, unsigned a, unsigned b) {
    set[a << 5 | b >> 3] = (uint8_t)(set[a << 5 | b >> 3] | 1u << (b & 7));
}
DPO__INLINE int dpo__tok_two_in(const uint8_t *set, unsigned a, unsigned b) {
    return set[a << 5 | b >> 3] >> (b & 7) & 1;
}

/* A word of at most DPO__TOK_KEY bytes, 16 of which can be read, as two numbers. */
DPO__INLINE void dpo__tok_key(const uint8_t *p, size_t n, uint64_t *low, uint64_t *high) {
    uint64_t a = dpo__load_le64(p), b = dpo__load_le64(p + 8);
    if (n <= 8) {
        a &= n < 8 ? ((uint64_t)1 << 8 * n) - 1 : ~(uint64_t)0;
        b = 0;
    } else b &= ((uint64_t)1 << 8 * (n - 8)) - 1;
    *low = a;
    *high = b | (uint64_t)n << 56;
}
DPO__INLINE size_t dpo__tok_key_hash(uint64_t low, uint64_t high) {
    uint64_t x = (low ^ high * 0xff51afd7ed558ccdu) * 0x9e3779b97f4a7c15u;
    x ^= x >> 32;
    return (size_t)(x * 0x9e3779b97f4a7c15u >> 36);
}
/* Of the tokens low..high, which are equal before byte k and longer: the first whose byte k is not below `least`. */
static int dpo__added_bound(const dpo__added_set *s, int low, int high, size_t k, int least) {
    while (low < high) {
        int mid = (low + high) / 2;
        if (s->token[mid].text[k] < least) low = mid + 1;
        else high = mid;
    }
    return low;
}
/* The longest token of the set at p, or NULL. special: those, too. */
static const dpo__added *dpo__added_at(const dpo__added_set *s, const uint8_t *p, const uint8_t *end, int special) {
    int low = 0, high = s->n;
    const dpo__added *best = NULL;
    size_t k = 0;
    while (low < high) { /* those from low to high begin with the k bytes at p */
        if (s->token[low].n == k) {
            if (special || !s->token[low].special) best = &s->token[low];
            low++;
            continue;
        }
        if (p + k == end) break;
        low = dpo__added_bound(s, low, high, k, p[k]);
        high = dpo__added_bound(s, low, high, k, p[k] + 1);
        k++;
    }
    return best;
}
/* From p on the first place where one may begin; end if there is none. */
static const uint8_t *dpo__added_next(const dpo__added_set *s, const uint8_t *p, const uint8_t *end) {
    if (!s->n) return end;
    while (p < end && !dpo__tok_two_in(s->begins, p[0], p[1])) p++; /* a zero byte stands behind the text */
    return p;
}
static int dpo__added_order(const dpo__added *a, const dpo__added *b) {
    int order = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return order ? order : a->n < b->n ? -1 : a->n > b->n;
}
static void dpo__added_ready(dpo__added_set *s) {
    int gap, i, k, b;
    for (gap = s->n / 2; gap > 0; gap = gap > 2 ? gap * 5 / 11 : gap / 2) /* Shell's sort */
        for (i = gap; i < s->n; i++) {
            dpo__added x = s->token[i];
            for (k = i; k >= gap && dpo__added_order(&s->token[k - gap], &x) > 0; k -= gap)
                s->token[k] = s->token[k - gap];
            s->token[k] = x;
        }
    for (i = 0; i < s->n; i++) {
        const uint8_t *p = s->token[i].text;
        for (b = 0; b < 256; b++)
            if (s->token[i].n == 1 || b == p[1]) dpo__tok_two_add(s->begins, p[0], (unsigned)b);
        s->n_plain += !s->token[i].special;
    }
}

/* --- splitting into words ---------------------------------------------------------------------------- */

DPO__INLINE int dpo__tok_class(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end, int *length) {
    int k = t->ascii[*p];
    uint32_t c;
    *length = 1;
    if (k < DPO__ASCII_MANY) return k;
    if (k == DPO__ASCII_NUL) return DPO__OTHER;
    c = dpo__utf8_get(p, end, length);
    return c < DPO__UNICODE_END ? t->u.kind[c] & DPO__CLASS : 0;
}
/* The end of the characters of class k from q on. A zero byte stands at `end`, so that nothing is asked for each
   character of one byte but its class. */
DPO__INLINE const uint8_t *dpo__tok_run(const dpo_tokenizer *t, const uint8_t *q, const uint8_t *end, int k) {
    int length;
    for (;; q += length) {
        while (t->ascii[*q] == k) q++;
        if (q >= end || dpo__tok_class(t, q, end, &length) != k) return q;
    }
}
/* Length of 's 't 're 've 'm 'll 'd at p (an apostrophe), or 0. */
static int dpo__tok_contraction(const uint8_t *p, const uint8_t *end, int any_case) {
    int a, b;
    if (end - p < 2) return 0;
    a = p[1];
    b = end - p > 2 ? p[2] : 0;
    if (any_case) {
        if (a == 0xc5 && b == 0xbf) return 3; /* U+017F, the long s: an s to whoever ignores case */
        a |= a < 0x80 ? 32 : 0;
        b |= b < 0x80 ? 32 : 0;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}
/* The end of white space from p on: before its last character, which goes with the word after it, unless the text ends
   or (digits) a number follows. */
static const uint8_t *dpo__tok_white(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = p, *last = p;
    int length, k = DPO__SPACE;
    while (q < end && (k = dpo__tok_class(t, q, end, &length)) == DPO__SPACE) {
        last = q;
        q += length;
    }
    return q == end || last == p || (t->digits && k == DPO__NUMBER) ? q : last;
}

/* GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
   digits: each number stands alone, and ends what is before it. */
static const uint8_t *dpo__tok_gpt2(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = p;
    int length, k;
    if (*p == '\'' && (length = dpo__tok_contraction(p, end, 0)) != 0) return p + length;
    if (*p == ' ' && p + 1 < end) q++;
    k = dpo__tok_class(t, q, end, &length);
    if (k == DPO__NUMBER && t->digits) return q == p ? q + length : q;
    return k == DPO__SPACE ? dpo__tok_white(t, p, end) : dpo__tok_run(t, q + length, end, k);
}
/* Llama-3, Qwen2: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
   \s*[\r\n]+|\s+(?!\S)|\s+     where number_run is 3 (Llama-3) or 1 (Qwen2) */
static const uint8_t *dpo__tok_llama3(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = p, *line = NULL;
    int length, next, i, k = dpo__tok_class(t, p, end, &length);
    if (*p == '\'' && (i = dpo__tok_contraction(p, end, 1)) != 0) return p + i;
    if (k == DPO__LETTER) return dpo__tok_run(t, p + length, end, k);
    if (k == DPO__NUMBER) {
        for (i = 0; i < t->number_run && q < end && dpo__tok_class(t, q, end, &length) == k; i++) q += length;
        return q;
    }
    if (*p != '\r' && *p != '\n' && p + length < end && dpo__tok_class(t, p + length, end, &next) == DPO__LETTER)
        return dpo__tok_run(t, p + length + next, end, DPO__LETTER);
    if (*p == ' ' && p + 1 < end) q++;
    if (dpo__tok_class(t, q, end, &length) == DPO__OTHER) {
        q = dpo__tok_run(t, q + length, end, DPO__OTHER);
        while (q < end && (*q == '\r' || *q == '\n')) q++;
        return q;
    }
    for (q = p; q < end && dpo__tok_class(t, q, end, &length) == DPO__SPACE; q += length)
        if (*q == '\r' || *q == '\n') line = q + 1;
    return line ? line : dpo__tok_white(t, p, end);
}
/* SentencePiece type: a text is one word, but nothing is lost if it is cut where no merge joins what ends with the byte
   before and what begins with the byte after: `borders` has a bit for each such pair that is joined. */
static const uint8_t *dpo__tok_borders(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end) {
    for (p++; p < end && dpo__tok_two_in(t->borders, p[-1], *p); p++) {
    }
    return p;
}

/* --- merging ----------------------------------------------------------------------------------------- */

DPO__INLINE void dpo__tok_put(dpo__tok_work *w, uint32_t id) {
    if (w->n < w->cap) w->out[w->n] = (int32_t)id;
    w->n++;
}
/* A block of at least n elements, or NULL without memory. */
static void *dpo__tok_room(const dpo_tokenizer *t, dpo__tok_block *b, size_t n, size_t size) {
    size_t bytes, more;
    if (dpo__mul_size(n, size, &bytes) || dpo__add_size(bytes, bytes / 2, &more)) bytes = more = SIZE_MAX;
    if (bytes <= b->bytes) return b->p;
    dpo__put(t->c, b->p);
    b->p = dpo__get(t->c, more, "a text at work");
    b->bytes = b->p ? more : 0;
    t->work->failed |= !b->p;
    return b->p;
}
#define DPO__TOK_SHORT 64 /* symbols of a word that is merged by looking at all pairs */
/* A short word: all pairs are looked at for the lowest rank. Returns how many symbols are left. */
static size_t dpo__tok_merge_short(const dpo_tokenizer *t, uint32_t *id, size_t n) {
    uint32_t rank[DPO__TOK_SHORT];
    size_t i, at;
    for (i = 0; i + 1 < n; i++) rank[i] = dpo__tok_rank(t, id[i], id[i + 1]);
    while (n > 1) {
        uint32_t best = rank[0];
        for (i = 1, at = 0; i + 1 < n; i++)
            if (rank[i] < best) {
                best = rank[i];
                at = i;
            }
        if (best == DPO__TOK_NONE) break;
        id[at] = t->merged[best];
        n--;
        for (i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i];
        }
        if (at + 1 < n) rank[at] = dpo__tok_rank(t, id[at], id[at + 1]);
        if (at) rank[at - 1] = dpo__tok_rank(t, id[at - 1], id[at]);
    }
    return n;
}

/* A long word: symbols are a list, and a heap holds (rank, place) of each pair, so that n symbols take n log n steps. A
   pair that has changed since leaves its old entry behind, whose rank is then not the pair's. */
typedef struct dpo__tok_heap {
    uint64_t *e;
    size_t n;
} dpo__tok_heap;

static void dpo__tok_heap_push(dpo__tok_heap *h, uint64_t x) {
    size_t i = h->n++;
    for (; i && h->e[(i - 1) / 2] > x; i = (i - 1) / 2) h->e[i] = h->e[(i - 1) / 2];
    h->e[i] = x;
}
static uint64_t dpo__tok_heap_pop(dpo__tok_heap *h) {
    uint64_t top = h->e[0], x = h->e[--h->n];
    size_t i = 0, k;
    for (; (k = 2 * i + 1) < h->n; i = k) {
        if (k + 1 < h->n && h->e[k + 1] < h->e[k]) k++;
        if (h->e[k] >= x) break;
        h->e[i] = h->e[k];
    }
    if (h->n) h->e[i] = x;
    return top;
}
#define DPO__TOK_LONG 10 /* numbers of 32 bits a symbol takes: itself, its neighbours, its rank, three heap entries */

static size_t dpo__tok_merge_long(const dpo_tokenizer *t, uint32_t *id, size_t n) {
    uint32_t *before = id + n, *after = before + n, *rank = after + n, i, k, next;
    dpo__tok_heap h;
    h.e = (uint64_t *)(void *)(id + ((4 * n + 1) & ~(size_t)1));
    h.n = 0;
    for (i = 0; i < n; i++) {
        before[i] = i - 1; /* the first one's is none */
        after[i] = i + 1;
        rank[i] = i + 1 < n ? dpo__tok_rank(t, id[i], id[i + 1]) : DPO__TOK_NONE;
        if (rank[i] != DPO__TOK_NONE) dpo__tok_heap_push(&h, (uint64_t)rank[i] << 32 | i);
    }
    while (h.n) {
        uint64_t x = dpo__tok_heap_pop(&h);
        i = (uint32_t)x;
        if (rank[i] != x >> 32) continue;
        k = after[i];
        id[i] = t->merged[rank[i]];
        rank[k] = DPO__TOK_NONE;
        after[i] = next = after[k];
        if (next < n) before[next] = i;
        rank[i] = next < n ? dpo__tok_rank(t, id[i], id[next]) : DPO__TOK_NONE;
        if (rank[i] != DPO__TOK_NONE) dpo__tok_heap_push(&h, (uint64_t)rank[i] << 32 | i);
        k = before[i];
        if (k == DPO__TOK_NONE) continue;
        rank[k] = dpo__tok_rank(t, id[k], id[i]);
        if (rank[k] != DPO__TOK_NONE) dpo__tok_heap_push(&h, (uint64_t)rank[k] << 32 | k);
    }
    for (i = 0, k = 0; i < n; i = after[i]) id[k++] = id[i]; /* k never passes i */
    return k;
}

/* The symbols a word begins with: its bytes, or characters that are pieces, or else bytes. DPO__TOK_NONE stands for a
   character that is unknown. */
static size_t dpo__tok_symbols(const dpo_tokenizer *t, const uint8_t *p, size_t bytes, uint32_t *id) {
    static const uint8_t instead[3] = {0xef, 0xbf, 0xbd}; /* U+FFFD for a byte that UTF-8 never has */
    const uint8_t *end = p + bytes;
    size_t n = 0;
    int length, i;
    if (t->kind == DPO__TOK_BYTE_LEVEL) {
        for (; p < end; p++)
            if (t->byte_id[*p] != DPO__TOK_NONE) id[n++] = t->byte_id[*p];
            else
                for (i = 0; i < 3; i++) id[n++] = t->byte_id[instead[i]];
        return n;
    }
    for (; p < end; p += length) {
        uint32_t c = dpo__utf8_get(p, end, &length), x;
        x = c == DPO__UTF8_BAD ? DPO__TOK_NONE : dpo__tok_find(t, p, (size_t)length);
        if (x != DPO__TOK_NONE) id[n++] = x;
        else if (t->byte_id[0] != DPO__TOK_NONE)
            for (i = 0; i < length; i++) id[n++] = t->byte_id[p[i]];
        else if (!n || id[n - 1] != (uint32_t)t->unk || !t->fuse_unk) id[n++] = (uint32_t)t->unk;
    }
    return n;
}
static void dpo__tok_emit(dpo__tok_work *w, const uint32_t *id, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) dpo__tok_put(w, id[i]);
}
/* A word by its merges, unless it is a piece that they are known to give back: that is learned when it is first met.
   Returns how many ids it has, 0 without memory; at most DPO__TOK_FEW of them are left in id as well. */
static size_t dpo__tok_merged(const dpo_tokenizer *t, const uint8_t *p, size_t bytes, uint32_t *id) {
    dpo__tok_work *w = t->work;
    size_t n, most = t->missing ? 3 * bytes : bytes;
    int look = t->ignore_merges || !(w->flags & DPO_ENCODE_MERGES);
    uint32_t *symbols, whole = look ? dpo__tok_find(t, p, bytes) : DPO__TOK_NONE;
    if (whole != DPO__TOK_NONE && (t->ignore_merges || t->state[whole] & DPO__TOK_WHOLE)) {
        dpo__tok_put(w, id[0] = whole);
        return 1;
    }
    symbols = (uint32_t *)dpo__tok_room(t, &w->symbols, most * DPO__TOK_LONG + 2, sizeof *symbols);
    if (!symbols) return 0;
    n = dpo__tok_symbols(t, p, bytes, symbols);
    n = n <= DPO__TOK_SHORT ? dpo__tok_merge_short(t, symbols, n) : dpo__tok_merge_long(t, symbols, n);
    if (n == 1 && symbols[0] == whole) t->state[whole] |= DPO__TOK_WHOLE;
    if (n <= DPO__TOK_FEW) memcpy(id, symbols, n * sizeof *id);
    dpo__tok_emit(w, symbols, n);
    return n;
}
/* One word, by its merges unless they are known. */
DPO__INLINE void dpo__tok_word(const dpo_tokenizer *t, const uint8_t *p, size_t bytes) {
    dpo__tok_work *w = t->work;
    uint32_t id[DPO__TOK_FEW];
    uint64_t low, high;
    size_t i, n;
    dpo__tok_known *known;
    if (bytes > DPO__TOK_KEY || w->flags & DPO_ENCODE_MERGES) {
        (void)dpo__tok_merged(t, p, bytes, id);
        return;
    }
    dpo__tok_key(p, bytes, &low, &high);
    known = t->known + 2 * (dpo__tok_key_hash(low, high) & (DPO__TOK_CACHE - 1));
    if (known->low != low || known->high != high) {
        if (known[1].low != low || known[1].high != high) {
            n = dpo__tok_merged(t, p, bytes, id);
            if (!n || n > DPO__TOK_FEW) return;
            known[1] = known[0];
            known->low = low;
            known->high = high;
            for (i = 0; i < n; i++) known->id[i] = id[i];
            known->id[0] |= (uint32_t)n << 24;
            return;
        }
        known++;
    }
    for (i = 0; i < DPO__TOK_FEW; i++) id[i] = known->id[i] & 0xffffff;
    n = known->id[0] >> 24;
    if (w->n + DPO__TOK_FEW > w->cap) {
        dpo__tok_emit(w, id, n);
        return;
    }
    for (i = 0; i < DPO__TOK_FEW; i++) w->out[w->n + (int64_t)i] = (int32_t)id[i]; /* what lies behind is overwritten */
    w->n += (int64_t)n;
}

/* --- texts ------------------------------------------------------------------------------------------- */

/* Words of a stretch without added tokens, in a text that may be written to: the bytes before p and at end are, and get
   back what they were. `first`: it begins the text. */
static void dpo__tok_stretch(const dpo_tokenizer *t, uint8_t *p, uint8_t *end, int first) {
    const uint8_t *q, *at = p;
    uint8_t before = p[-1], after = *end;
    if (p == end) return;
    if (*p != ' ' && (t->prefix == DPO__PREFIX_MISSING || (t->prefix == DPO__PREFIX_FIRST && first))) {
        p[-1] = ' ';
        at--;
    }
    *end = 0;
    for (; at < end && !t->work->failed; at = q) {
        if (t->kind == DPO__TOK_SPACES) q = dpo__tok_borders(t, at, end);
        else if (t->split == DPO__SPLIT_GPT2) q = dpo__tok_gpt2(t, at, end);
        else q = t->split == DPO__SPLIT_LLAMA3 ? dpo__tok_llama3(t, at, end) : end;
        dpo__tok_word(t, at, (size_t)(q - at));
    }
    *end = after;
    p[-1] = before;
}
/* p..end as the tokenizer's normalizer makes it, into `to`; its length, 0 without memory. */
static size_t dpo__tok_normalize(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end, uint8_t *to) {
    const uint8_t *at, *stop;
    uint8_t *out = to;
    uint32_t *work;
    for (; t->nfc && p < end; p = stop) {
        at = dpo__nfc_next(&t->u, p, end, &stop);
        memcpy(out, p, (size_t)(at - p));
        out += at - p;
        if (at == stop) continue;
        work = (uint32_t *)dpo__tok_room(t, &t->work->symbols, 4 * (size_t)(stop - at), sizeof *work);
        if (!work) return 0;
        out += dpo__nfc_region(&t->u, at, stop, out, work);
    }
    while (t->kind == DPO__TOK_SPACES && (at = (const uint8_t *)memchr(p, 0xe2, (size_t)(end - p))) != NULL) {
        int mark = end - at >= 3 && at[1] == 0x96 && at[2] == 0x81; /* U+2581 is what a space becomes */
        memcpy(out, p, (size_t)(at - p));
        out += at - p;
        *out++ = mark ? ' ' : 0xe2;
        p = at + (mark ? 3 : 1);
    }
    memcpy(out, p, (size_t)(end - p));
    return (size_t)(out - to) + (size_t)(end - p);
}
/* Past white space on the left (from p down to `from`) or on the right (up to end), spaces as well unless marked. */
static const uint8_t *dpo__tok_strip_left(const dpo_tokenizer *t, const uint8_t *from, const uint8_t *p, int marked) {
    int length;
    while (p > from) {
        const uint8_t *q = p - 1;
        while (q > from && p - q < 4 && (*q & 0xc0) == 0x80) q--;
        if (dpo__tok_class(t, q, p, &length) != DPO__SPACE || q + length != p || (marked && *q == ' ')) break;
        p = q;
    }
    return p;
}
static const uint8_t *dpo__tok_strip_right(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end, int marked) {
    int length;
    while (p < end && dpo__tok_class(t, p, end, &length) == DPO__SPACE && !(marked && *p == ' ')) p += length;
    return p;
}
/* The longest added token at p: in `part` of a text as it is written, or (NULL) in normalized text. Special tokens
   stand inside parts that say so, the others wherever they are. */
static const dpo__added *dpo__tok_added_at(const dpo_tokenizer *t, const uint8_t *p, const uint8_t *end,
                                           const dpo_text *part, const uint8_t *part_end) {
    const dpo__added *any, *own;
    if (!part) return dpo__added_at(&t->normal, p, end, 1);
    any = dpo__added_at(&t->raw, p, end, 0);
    own = part->special ? dpo__added_at(&t->raw, p, part_end, 1) : NULL;
    return own && (!any || own->n > any->n) ? own : any;
}
/* A text with its added tokens: each becomes its id, what stands between them goes to `between`. */
static void dpo__tok_cut(const dpo_tokenizer *t, uint8_t *p, uint8_t *end, const dpo_text *part, int first,
                         void (*between)(const dpo_tokenizer *t, uint8_t *p, uint8_t *end, int first)) {
    const dpo__added_set *set = part ? &t->raw : &t->normal;
    uint8_t *from = p, *part_end = part ? p + part->bytes : NULL, *stop;
    int marked = !part && t->marked;
    while ((p += dpo__added_next(set, p, end) - p) < end && !t->work->failed) {
        const dpo__added *a;
        while (part && p >= part_end) part_end += (++part)->bytes;
        a = dpo__tok_added_at(t, p, end, part, part_end);
        if (!a) {
            p++;
            continue;
        }
        stop = p;
        if (a->lstrip) stop -= p - dpo__tok_strip_left(t, from, p, marked);
        between(t, from, stop, first);
        dpo__tok_put(t->work, (uint32_t)a->id);
        p += a->n;
        if (a->rstrip) p += dpo__tok_strip_right(t, p, end, marked) - p;
        from = p;
        first = 0;
    }
    if (!t->work->failed) between(t, from, end, first);
}
/* Text without special tokens. */
static void dpo__tok_piece(const dpo_tokenizer *t, uint8_t *p, uint8_t *end, int first) {
    size_t n = (size_t)(end - p), room = (t->nfc ? 3 * n : n) + 2 * DPO__TOK_PAD;
    uint8_t *to;
    if (p == end || !(to = (uint8_t *)dpo__tok_room(t, &t->work->normal, room, 1))) return;
    to += DPO__TOK_PAD; /* there is a byte before the first one */
    n = dpo__tok_normalize(t, p, end, to);
    memset(to + n, 0, DPO__TOK_PAD);
    end = to + n;
    if (t->prefix == DPO__PREFIX_ALWAYS) *--to = ' ';
    to[-1] = 0;
    if (!t->work->failed) dpo__tok_cut(t, to, end, NULL, first, dpo__tok_stretch);
}
static void dpo__tok_text(const dpo_tokenizer *t, const dpo_text *parts, int64_t n) {
    dpo__tok_work *w = t->work;
    uint8_t *text;
    int64_t i;
    size_t bytes = 0, k;
    int special = 0;
    if (w->flags & DPO_ENCODE_ADD_BOS && t->bos >= 0) dpo__tok_put(w, (uint32_t)t->bos);
    for (i = 0; i < n; i++) {
        special |= parts[i].special;
        for (k = 0; t->kind == DPO__TOK_BYTES && k < parts[i].bytes; k++) dpo__tok_put(w, (uint8_t)parts[i].text[k]);
        bytes += parts[i].bytes;
    }
    if (t->kind != DPO__TOK_BYTES && bytes &&
        (text = (uint8_t *)dpo__tok_room(t, &w->text, bytes + DPO__TOK_PAD, 1)) != NULL) {
        for (i = 0, bytes = 0; i < n; bytes += parts[i++].bytes)
            if (parts[i].bytes) memcpy(text + bytes, parts[i].text, parts[i].bytes);
        memset(text + bytes, 0, DPO__TOK_PAD);
        if (t->raw.n_plain || (special && t->raw.n)) dpo__tok_cut(t, text, text + bytes, parts, 1, dpo__tok_piece);
        else dpo__tok_piece(t, text, text + bytes, 1);
    }
    if (w->flags & DPO_ENCODE_ADD_EOS && t->eos >= 0) dpo__tok_put(w, (uint32_t)t->eos);
}

/* Ids that parts can have at most, with bos and eos; -1 if they are NULL or too long. */
static int64_t dpo__encode_most(const dpo_text *parts, int64_t n) {
    int64_t i, bytes = 0;
    if (n < 0 || (n && !parts)) return -1;
    for (i = 0; i < n; i++) {
        if ((!parts[i].text && parts[i].bytes) || parts[i].bytes > INT32_MAX) return -1;
        bytes += (int64_t)parts[i].bytes;
        if (bytes > INT32_MAX) return -1;
    }
    return 3 * bytes + 3;
}
DPO_API int64_t dpo_encode_parts(const dpo_tokenizer *t, const dpo_text *parts, int64_t n, unsigned flags, int32_t *out,
                                 int64_t cap) {
    dpo__tok_work *w;
    if (!t || dpo__encode_most(parts, n) < 0 || cap < 0) return DPO_E_ARG;
    DPO__READY(t, t->c);
    w = t->work;
    w->out = out;
    w->cap = out ? cap : 0;
    w->n = 0;
    w->failed = 0;
    w->flags = flags;
    dpo__tok_text(t, parts, n);
    return w->failed ? (int64_t)DPO_E_MEMORY : w->n;
}
DPO_API int64_t dpo_encode(const dpo_tokenizer *t, const char *text, size_t bytes, int32_t *out, int64_t cap) {
    dpo_text part = {text, bytes, 0};
    return dpo_encode_parts(t, &part, 1, 0, out, cap);
}

DPO_API const char *dpo_tokenizer_piece(const dpo_tokenizer *t, int32_t id, size_t *bytes, int *special) {
    if (bytes) *bytes = 0;
    if (special) *special = 0;
    if (!t || id < 0 || id >= t->vocab || !t->state[id]) return NULL;
    if (bytes) *bytes = t->length[id];
    if (special) *special = (t->state[id] & DPO__TOK_SPECIAL) != 0;
    return (const char *)t->blob + t->at[id];
}
/* What an id adds to a text: its piece, less the space that is put before a text; nothing if it is special. */
static const char *dpo__tok_said(const dpo_tokenizer *t, int32_t id, int *begun, size_t *bytes) {
    int special;
    const char *piece = dpo_tokenizer_piece(t, id, bytes, &special);
    if (!piece || special) {
        *bytes = 0;
        return piece;
    }
    if (!*begun && t->strip && *bytes && *piece == ' ') {
        piece++;
        --*bytes;
    }
    *begun = 1;
    return piece;
}
DPO_API int64_t dpo_decode(const dpo_tokenizer *t, const int32_t *ids, int64_t n, char *out, size_t cap) {
    int64_t i;
    size_t at = 0, bytes;
    int begun = 0;
    if (!t || n < 0 || (!ids && n)) return DPO_E_ARG;
    for (i = 0; i < n; i++, at += bytes) {
        const char *piece = dpo__tok_said(t, ids[i], &begun, &bytes);
        if (!piece) return DPO_E_ARG;
        if (out && at < cap) memcpy(out + at, piece, bytes < cap - at ? bytes : cap - at);
    }
    return (int64_t)at;
}
/* How many bytes at the end of a text may be the beginning of a character. */
static size_t dpo__utf8_open(const uint8_t *p, size_t n) {
    size_t k;
    for (k = 1; k < 4 && k <= n; k++) {
        uint8_t x = p[n - k];
        size_t whole = x >= 0xf0 && x < 0xf5 ? 4 : x >= 0xe0 ? 3 : x >= 0xc2 ? 2 : 1;
        if ((x & 0xc0) == 0x80) continue;
        return x >= 0xf5 || whole <= k ? 0 : k;
    }
    return 0;
}
DPO_API int64_t dpo_decode_next(const dpo_tokenizer *t, dpo_decoder *s, int32_t id, char *out, size_t cap) {
    uint8_t last[3]; /* of what is held and the piece, end to end */
    size_t bytes = 0, open, all, held, give, n, i;
    const char *piece = "";
    int begun;
    if (!t || !s || s->n_held < 0 || s->n_held > 3) return DPO_E_ARG;
    begun = s->begun;
    if (id != -1 && !(piece = dpo__tok_said(t, id, &begun, &bytes))) return DPO_E_ARG;
    held = (size_t)s->n_held;
    all = held + bytes;
    n = all < 3 ? all : 3;
    for (i = all - n; i < all; i++) last[i - (all - n)] = i < held ? s->held[i] : (uint8_t)piece[i - held];
    open = id == -1 ? 0 : dpo__utf8_open(last, n);
    give = all - open;
    if (give > (out ? cap : 0)) return (int64_t)give; /* nothing has happened yet */
    if (give) {
        memcpy(out, s->held, held < give ? held : give);
        if (give > held) memcpy(out + held, piece, give - held);
    }
    memcpy(s->held, last + n - open, open);
    s->n_held = (int)open;
    s->begun = begun;
    return (int64_t)give;
}

/* --- reading tokenizer.json, vocab.json with merges.txt -------------------------------------------------- */

typedef struct dpo__tok_reader {
    dpo_context *c;
    dpo_tokenizer *t;
    const char *name;   /* of the file, for messages */
    const char *merges; /* merges.txt, or NULL: they are in the JSON text */
    size_t merges_size;
    dpo__json j;
    int64_t vocab, merge_list, added_list; /* nodes */
    int64_t n_pieces, n_merges, n_added, n_special, blob, used;
    int byte_fallback;
    int16_t map[512]; /* byte-level pieces: what byte a character stands for, -1: none */
    char *text[2];    /* [DPO__TOK_PIECE * 2] strings at work */
    dpo__hash hash;
} dpo__tok_reader;

DPO__FORMAT(3, 4)
static dpo_result dpo__tok_refuse(const dpo__tok_reader *r, dpo_result code, const char *format, ...) {
    char what[400], *p;
    va_list args;
    va_start(args, format);
    if (vsnprintf(what, sizeof what, format, args) < 0) what[0] = 0;
    va_end(args);
    for (p = what; *p; p++) /* what a file holds may not make a mess of a terminal */
        if (*p < 0x20 || *p > 0x7e) *p = '?';
    return dpo__fail(r->c, code, "%.400s: %s; %s", r->name, what,
                     code == DPO_E_UNSUPPORTED ? "this version does not know it"
                                               : "the file is damaged or no tokenizer: copy or download it again");
}
/* What an object has at a key: a node, a string ("" if it is none), whether it is this string, yes or no. */
static int64_t dpo__tok_at(const dpo__tok_reader *r, int64_t object, const char *key) {
    return dpo_json_find(&r->j, object, key);
}
static const char *dpo__tok_string(const dpo__tok_reader *r, int64_t object, const char *key, char *out, size_t cap) {
    if (dpo_json_string(&r->j, dpo__tok_at(r, object, key), out, cap) < 0) out[0] = 0;
    return out;
}
static int dpo__tok_is(const dpo__tok_reader *r, int64_t object, const char *key, const char *text) {
    return dpo__json_is(&r->j, dpo__tok_at(r, object, key), text);
}
static int dpo__tok_flag(const dpo__tok_reader *r, int64_t object, const char *key, int otherwise) {
    int value;
    return dpo__json_bool(&r->j, dpo__tok_at(r, object, key), &value) ? value : otherwise;
}
/* The parts of a Sequence one after the other, or what stands alone. */
static dpo_result dpo__tok_each(dpo__tok_reader *r, int64_t node, const char *list_key,
                                dpo_result (*part)(dpo__tok_reader *, int64_t)) {
    int64_t i, v, list = dpo__tok_at(r, node, list_key);
    dpo_result code = DPO_OK;
    if (node < 0 || dpo__json_null(&r->j, node)) return DPO_OK;
    if (!dpo__tok_is(r, node, "type", "Sequence")) return part(r, node);
    v = dpo_json_first(&r->j, list);
    for (i = dpo_json_count(&r->j, list); i > 0 && !code; i--, v = dpo_json_next(&r->j, v)) code = part(r, v);
    return code;
}
/* One that is not known, or not where it stands: `known` says what is. */
static dpo_result dpo__tok_unknown(const dpo__tok_reader *r, int64_t node, const char *what, const char *known) {
    char type[40];
    dpo__tok_string(r, node, "type", type, sizeof type);
    return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "the %s \"%s\" at its place (known: %s)", what,
                           type[0] ? type : "without a type", known);
}

#define DPO__TOK_MARK "\xe2\x96\x81" /* U+2581 */

static dpo_result dpo__tok_read_normalizer(dpo__tok_reader *r, int64_t node) {
    dpo_tokenizer *t = r->t;
    if (dpo__tok_is(r, node, "type", "NFC")) t->nfc = 1;
    else if (dpo__tok_is(r, node, "type", "Prepend") && dpo__tok_is(r, node, "prepend", DPO__TOK_MARK) && !t->prefix)
        t->prefix = DPO__PREFIX_ALWAYS;
    else if (dpo__tok_is(r, node, "type", "Replace") && dpo__tok_is(r, node, "content", DPO__TOK_MARK) &&
             dpo__tok_is(r, dpo__tok_at(r, node, "pattern"), "String", " ")) {
        t->kind = DPO__TOK_SPACES;
        t->marked = 1;
    } else return dpo__tok_unknown(r, node, "normalizer", "NFC, Prepend and Replace of U+2581");
    return DPO_OK;
}

/* The splitting patterns in use, as their files have them. */
static int dpo__tok_pattern(dpo_tokenizer *t, const char *p) {
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    static const char gpt2_short[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    static const char begin[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}";
    static const char end[] = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    size_t n = sizeof begin - 1;
    if (!strcmp(p, gpt2) || !strcmp(p, gpt2_short)) {
        t->split = DPO__SPLIT_GPT2;
        return 1;
    }
    if (strncmp(p, begin, n) != 0) return 0;
    t->split = DPO__SPLIT_LLAMA3;
    t->number_run = strncmp(p + n, "{1,3}", 5) ? 1 : 3;
    return !strcmp(p + n + (t->number_run == 3 ? 5 : 0), end);
}
static dpo_result dpo__tok_read_split(dpo__tok_reader *r, int64_t node) {
    char pattern[512], behavior[32];
    dpo__tok_string(r, dpo__tok_at(r, node, "pattern"), "Regex", pattern, sizeof pattern);
    dpo__tok_string(r, node, "behavior", behavior, sizeof behavior);
    if (strcmp(behavior, "Isolated") && (strcmp(behavior, "Removed") || !dpo__tok_flag(r, node, "invert", 0)))
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "a Split pre-tokenizer with behavior \"%s\"", behavior);
    if (r->t->split || r->t->digits || !dpo__tok_pattern(r->t, pattern))
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED,
                               "the split pattern \"%.200s\" (known: those of GPT-2, Llama-3 and Qwen2)", pattern);
    return DPO_OK;
}
static dpo_result dpo__tok_read_metaspace(dpo__tok_reader *r, int64_t node) {
    dpo_tokenizer *t = r->t;
    char mark[8], scheme[16];
    dpo__tok_string(r, node, "replacement", mark, sizeof mark);
    dpo__tok_string(r, node, "prepend_scheme", scheme, sizeof scheme);
    if (strcmp(mark, DPO__TOK_MARK))
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "a Metaspace pre-tokenizer with replacement \"%s\"", mark);
    if (!scheme[0] && dpo__tok_flag(r, node, "add_prefix_space", 1)) memcpy(scheme, "always", 7);
    t->kind = DPO__TOK_SPACES;
    if (!strcmp(scheme, "always")) t->prefix = DPO__PREFIX_MISSING;
    else if (!strcmp(scheme, "first")) t->prefix = DPO__PREFIX_FIRST;
    if (dpo__tok_flag(r, node, "split", 1)) t->split = DPO__SPLIT_EACH_SPACE;
    return DPO_OK;
}
/* Whatever comes after ByteLevel or Metaspace would see other characters than the text's. */
static dpo_result dpo__tok_read_pretokenizer(dpo__tok_reader *r, int64_t node) {
    dpo_tokenizer *t = r->t;
    int fresh = t->kind == DPO__TOK_BYTES && !t->prefix;
    if (dpo__tok_is(r, node, "type", "ByteLevel") && fresh) {
        t->kind = DPO__TOK_BYTE_LEVEL;
        if (dpo__tok_flag(r, node, "add_prefix_space", 1)) t->prefix = DPO__PREFIX_MISSING;
        if (!dpo__tok_flag(r, node, "use_regex", 1)) return DPO_OK;
        if (t->split)
            return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "a ByteLevel pre-tokenizer that splits what is split already");
        t->split = DPO__SPLIT_GPT2;
        return DPO_OK;
    }
    if (dpo__tok_is(r, node, "type", "Digits") && dpo__tok_flag(r, node, "individual_digits", 0) && !t->split &&
        t->kind != DPO__TOK_BYTE_LEVEL) {
        t->digits = 1;
        return DPO_OK;
    }
    if (dpo__tok_is(r, node, "type", "Split") && t->kind != DPO__TOK_BYTE_LEVEL) return dpo__tok_read_split(r, node);
    if (dpo__tok_is(r, node, "type", "Metaspace") && fresh && !t->digits && !t->split)
        return dpo__tok_read_metaspace(r, node);
    return dpo__tok_unknown(r, node, "pre-tokenizer", "ByteLevel, Split, single Digits, Metaspace");
}

/* What the post-processor puts around a text: the id before it is bos. */
static dpo_result dpo__tok_read_template(dpo__tok_reader *r, int64_t node) {
    int64_t id, special, list = dpo__tok_at(r, node, "single");
    char name[256];
    if (!dpo__tok_is(r, node, "type", "TemplateProcessing") || !dpo_json_count(&r->j, list)) return DPO_OK;
    special = dpo__tok_at(r, dpo_json_first(&r->j, list), "SpecialToken");
    if (special < 0) return DPO_OK;
    dpo__tok_string(r, special, "id", name, sizeof name);
    list = dpo__tok_at(r, dpo__tok_at(r, dpo__tok_at(r, node, "special_tokens"), name), "ids");
    if (dpo_json_count(&r->j, list) && dpo__json_int64(&r->j, dpo_json_first(&r->j, list), &id) && id >= 0 &&
        id < r->t->vocab) {
        r->t->bos = (int32_t)id;
        r->t->adds_bos = 1;
    }
    return DPO_OK;
}

/* Finds the lists, and what kind of tokenizer it is. */
static dpo_result dpo__tok_read_head(dpo__tok_reader *r) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    dpo_tokenizer *t = r->t;
    const dpo__json *j = &r->j;
    int64_t model = dpo__tok_at(r, 0, "model");
    char text[64];
    double dropout;
    int i;
    dpo_result code;
    r->vocab = dpo__tok_at(r, model, "vocab");
    r->merge_list = dpo__tok_at(r, model, "merges");
    r->added_list = dpo__tok_at(r, 0, "added_tokens");
    if (dpo__tok_string(r, model, "type", text, sizeof text)[0] && strcmp(text, "BPE"))
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "its model is \"%s\", expected BPE", text);
    if (dpo_json_type(j, r->vocab) != '{') return dpo__tok_refuse(r, DPO_E_FORMAT, "no object model.vocab in it");
    if (dpo_json_type(j, r->merge_list) != '[') return dpo__tok_refuse(r, DPO_E_FORMAT, "no list model.merges in it");
    for (i = 0; i < 2; i++)
        if (dpo__tok_string(r, model, affixes[i], text, sizeof text)[0])
            return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "model.%s \"%s\"", affixes[i], text);
    if (dpo_json_number(j, dpo__tok_at(r, model, "dropout"), &dropout) && dropout > 0)
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "model.dropout: merges left out at random");
    t->ignore_merges = dpo__tok_flag(r, model, "ignore_merges", 0);
    t->fuse_unk = dpo__tok_flag(r, model, "fuse_unk", 0);
    r->byte_fallback = dpo__tok_flag(r, model, "byte_fallback", 0);
    code = dpo__tok_each(r, dpo__tok_at(r, 0, "normalizer"), "normalizers", dpo__tok_read_normalizer);
    if (!code) code = dpo__tok_each(r, dpo__tok_at(r, 0, "pre_tokenizer"), "pretokenizers", dpo__tok_read_pretokenizer);
    if (code) return code;
    if (t->kind == DPO__TOK_BYTES)
        return dpo__tok_refuse(
            r, DPO_E_UNSUPPORTED,
            "it is neither byte-level (pre-tokenizer ByteLevel) nor SentencePiece-type (U+2581 for spaces)");
    if (t->kind == DPO__TOK_SPACES &&
        (t->nfc || t->digits || t->split == DPO__SPLIT_GPT2 || t->split == DPO__SPLIT_LLAMA3))
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "U+2581 for spaces together with NFC, Digits or a split pattern");
    if (t->digits && !t->split)
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "the pre-tokenizer Digits without the splitting of GPT-2");
    return DPO_OK;
}

/* Largest id, and room for the pieces' bytes. */
static dpo_result dpo__tok_measure(dpo__tok_reader *r) {
    const dpo__json *j = &r->j;
    int64_t i, id, top = -1, v = dpo_json_first(j, r->vocab);
    r->n_pieces = dpo_json_count(j, r->vocab);
    for (i = 0; i < r->n_pieces; i++, v = dpo_json_next(j, v + 1)) {
        if (!dpo__json_int64(j, v + 1, &id) || id < 0 || id >= DPO__TOK_IDS - 2)
            return dpo__tok_refuse(r, DPO_E_FORMAT, "byte %u: an id of the vocabulary is no whole number from 0 to %ld",
                                   (unsigned)j->nodes[v + 1].begin, (long)DPO__TOK_IDS - 3);
        if (j->nodes[v].end - j->nodes[v].begin > DPO__TOK_PIECE)
            return dpo__tok_refuse(r, DPO_E_FORMAT, "byte %u: a piece is longer than %d bytes",
                                   (unsigned)j->nodes[v].begin, DPO__TOK_PIECE);
        r->blob += j->nodes[v].end - j->nodes[v].begin;
        top = dpo__max64(top, id);
    }
    r->n_added = dpo_json_count(j, r->added_list);
    v = dpo_json_first(j, r->added_list);
    for (i = 0; i < r->n_added; i++, v = dpo_json_next(j, v)) {
        int64_t content = dpo_json_find(j, v, "content");
        if (!dpo__json_int64(j, dpo_json_find(j, v, "id"), &id) || id < 0 || id >= DPO__TOK_IDS - 2 ||
            dpo_json_type(j, content) != '"' || j->nodes[content].end - j->nodes[content].begin < 3 ||
            j->nodes[content].end - j->nodes[content].begin > DPO__TOK_ADDED + 2)
            return dpo__tok_refuse(r, DPO_E_FORMAT, "added token %ld has no id, or no content of 1 to %d bytes",
                                   (long)i, DPO__TOK_ADDED);
        r->blob += 3 * (int64_t)(j->nodes[content].end - j->nodes[content].begin);
        top = dpo__max64(top, id);
    }
    r->n_merges = dpo_json_count(j, r->merge_list);
    for (i = 0; i < (int64_t)r->merges_size; i++) r->n_merges += i == 0 || r->merges[i] == '\n'; /* lines, at least */
    if (r->n_merges >= DPO__TOK_IDS - 2 || r->n_added > 65536)
        return dpo__tok_refuse(r, DPO_E_FORMAT,
                               "%lld merges and %lld added tokens, at most 2097149 and 65536 are allowed",
                               (long long)r->n_merges, (long long)r->n_added);
    r->t->vocab = (int32_t)top + 1;
    return DPO_OK;
}

static int64_t dpo__tok_power(int64_t n) { /* of two, at least twice as many */
    int64_t p = 16;
    while (p < 2 * n) p *= 2;
    return p;
}
static void dpo__tok_layout(dpo__arena *a, dpo_tokenizer *t, const dpo__tok_reader *r) {
    int64_t index = dpo__tok_power(r->n_pieces), pairs = dpo__tok_power(r->n_merges);
    int bits = 0;
    t->at = DPO__CARVE(a, uint32_t, t->vocab);
    t->length = DPO__CARVE(a, uint32_t, t->vocab);
    t->state = DPO__CARVE(a, uint8_t, t->vocab);
    t->blob = DPO__CARVE(a, uint8_t, r->blob);
    t->index = DPO__CARVE(a, uint32_t, index);
    t->index_mask = (size_t)index - 1;
    t->pairs = DPO__CARVE(a, uint64_t, pairs);
    t->pairs_mask = (size_t)pairs - 1;
    while ((int64_t)1 << bits < pairs) bits++;
    t->pairs_shift = 64 - bits;
    t->merged = DPO__CARVE(a, uint32_t, r->n_merges);
    t->raw.token = DPO__CARVE(a, dpo__added, r->n_special);
    t->raw.begins = DPO__CARVE(a, uint8_t, DPO__TOK_TWO);
    t->normal.token = DPO__CARVE(a, dpo__added, r->n_special);
    t->normal.begins = DPO__CARVE(a, uint8_t, DPO__TOK_TWO);
    t->work = DPO__CARVE(a, dpo__tok_work, 1);
    if (t->kind == DPO__TOK_BYTES) return;
    t->known = DPO__CARVE(a, dpo__tok_known, 2 * DPO__TOK_CACHE);
    dpo__unicode_layout(a, &t->u);
}
/* The tokenizer's block, all tables empty. r->t is a copy on the caller's stack until then. */
static dpo_result dpo__tok_carve(dpo__tok_reader *r) {
    dpo_tokenizer *t = r->t;
    dpo__arena a = {NULL, 0};
    size_t bytes;
    int i;
    (void)DPO__CARVE(&a, dpo_tokenizer, 1);
    dpo__tok_layout(&a, t, r);
    bytes = a.used;
    if (!dpo__arena_get(r->c, &a, "a tokenizer")) return DPO_E_MEMORY;
    memset(a.base, 0, bytes);
    t = DPO__CARVE(&a, dpo_tokenizer, 1);
    *t = *r->t;
    r->t = t;
    dpo__tok_layout(&a, t, r);
    t->n_merges = (int32_t)r->n_merges;
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    if (t->kind == DPO__TOK_BYTES) return DPO_OK;
    dpo__unicode_fill(&t->u);
    for (i = 0; i < 256; i++)
        t->ascii[i] = (uint8_t)(!i ? DPO__ASCII_NUL : i < 128 ? t->u.kind[i] & DPO__CLASS : DPO__ASCII_MANY);
    return DPO_OK;
}

/* A piece as the file writes it -> the bytes it stands for; their number. Byte-level pieces are written in characters
   that each stand for a byte (printable ones for themselves, the others for U+0100 and on, in order), or else are meant
   as they are; in SentencePiece's, U+2581 is a space. */
static size_t dpo__tok_bytes_of(const dpo__tok_reader *r, const char *text, size_t n, uint8_t *out) {
    const uint8_t *p = (const uint8_t *)text, *end = p + n;
    size_t k = 0;
    int length;
    for (; p < end; p += length) {
        uint32_t c = dpo__utf8_get(p, end, &length);
        if (r->t->kind == DPO__TOK_SPACES) {
            if (c == 0x2581) out[k++] = ' ';
            else {
                memcpy(out + k, p, (size_t)length);
                k += (size_t)length;
            }
        } else if (c < 512 && r->map[c] >= 0) {
            out[k++] = (uint8_t)r->map[c];
        } else {
            memcpy(out, text, n);
            return n;
        }
    }
    return k;
}
static void dpo__tok_make_map(dpo__tok_reader *r) {
    int b, next = 256;
    memset(r->map, 0xff, sizeof r->map);
    for (b = 0; b < 256; b++) {
        int itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        r->map[itself ? b : next++] = (int16_t)b;
    }
}

/* Byte b of "<0x0A>", or -1. */
static int dpo__tok_byte_piece(const char *p, size_t n) {
    int high, low;
    if (n != 6 || memcmp(p, "<0x", 3) || p[5] != '>') return -1;
    high = dpo__json_hex((unsigned char)p[3]);
    low = dpo__json_hex((unsigned char)p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}
static dpo_result dpo__tok_collide(const dpo__tok_reader *r) {
    return dpo__tok_refuse(r, DPO_E_FORMAT, "over %d pieces or merges have the same hash", DPO__TOK_PROBES);
}
/* The two pieces left and right of `border` are joined. */
static dpo_result dpo__tok_add_pair(dpo__tok_reader *r, uint32_t left, uint32_t right, uint32_t rank,
                                    const uint8_t *border) {
    if (!dpo__tok_pair_add(r->t, left, right, rank)) return dpo__tok_collide(r);
    dpo__tok_two_add(r->t->borders, border[-1], border[0]);
    return DPO_OK;
}
/* Piece `id` of these bytes, as the file writes it. */
static dpo_result dpo__tok_add_piece(dpo__tok_reader *r, uint32_t id, const char *text, size_t n) {
    dpo_tokenizer *t = r->t;
    uint8_t *to = t->blob + r->used;
    int byte = t->kind == DPO__TOK_SPACES && r->byte_fallback ? dpo__tok_byte_piece(text, n) : -1;
    if (t->state[id]) return dpo__tok_refuse(r, DPO_E_FORMAT, "id %lu is given to two pieces", (unsigned long)id);
    t->at[id] = (uint32_t)r->used;
    t->state[id] = DPO__TOK_HERE;
    if (byte >= 0) {
        to[0] = (uint8_t)byte;
        t->length[id] = 1;
        t->byte_id[byte] = id; /* not in the index: the character of that byte is another piece */
    } else {
        size_t slot, bytes = dpo__tok_bytes_of(r, text, n, to);
        t->length[id] = (uint32_t)bytes;
        slot = dpo__tok_slot(t, to, bytes);
        if (slot > t->index_mask) return dpo__tok_collide(r);
        if (!t->index[slot]) t->index[slot] = id + 1;
        if (bytes == 1 && t->kind == DPO__TOK_BYTE_LEVEL && (n > 1 || r->map[(uint8_t)text[0]] >= 0))
            t->byte_id[to[0]] = id;
    }
    r->used += t->length[id];
    return DPO_OK;
}
static dpo_result dpo__tok_add_pieces(dpo__tok_reader *r) {
    const dpo__json *j = &r->j;
    int64_t i, id, v = dpo_json_first(j, r->vocab);
    dpo_result code = DPO_OK;
    for (i = 0; i < r->n_pieces && !code; i++, v = dpo_json_next(j, v + 1)) {
        int64_t n = dpo_json_string(j, v, r->text[0], DPO__TOK_PIECE);
        (void)dpo__json_int64(j, v + 1, &id);
        code = dpo__tok_add_piece(r, (uint32_t)id, r->text[0], (size_t)n);
    }
    return code;
}

/* A merge of two pieces; both and what they give must be pieces themselves. */
static dpo_result dpo__tok_add_merge(dpo__tok_reader *r, int64_t rank, const char *a, size_t na, const char *b,
                                     size_t nb) {
    dpo_tokenizer *t = r->t;
    uint8_t *both = (uint8_t *)r->text[1];
    uint32_t left, right, joined;
    size_t n, m;
    if (na + nb > DPO__TOK_PIECE) return dpo__tok_refuse(r, DPO_E_FORMAT, "merge %lld is too long", (long long)rank);
    n = dpo__tok_bytes_of(r, a, na, both);
    m = dpo__tok_bytes_of(r, b, nb, both + n);
    left = dpo__tok_find(t, both, n);
    right = dpo__tok_find(t, both + n, m);
    joined = dpo__tok_find(t, both, n + m);
    if (left == DPO__TOK_NONE || right == DPO__TOK_NONE || joined == DPO__TOK_NONE || !n || !m)
        return dpo__tok_refuse(r, DPO_E_FORMAT,
                               "merge %lld (\"%.*s\" and \"%.*s\") has a part or a result that is no piece",
                               (long long)rank, na < 60 ? (int)na : 60, a, nb < 60 ? (int)nb : 60, b);
    t->merged[rank] = joined;
    dpo__hash_number(&r->hash, (int64_t)((uint64_t)left << 32 | right));
    return dpo__tok_add_pair(r, left, right, (uint32_t)rank, both + n);
}
/* The same of "left right"; without a space both are empty. */
static dpo_result dpo__tok_add_joined(dpo__tok_reader *r, int64_t rank, const char *text, size_t n) {
    const char *space = (const char *)memchr(text, ' ', n);
    size_t left = space ? (size_t)(space - text) : 0;
    return dpo__tok_add_merge(r, rank, text, left, space ? space + 1 : text, space ? n - left - 1 : 0);
}
/* "left right", or ["left", "right"]. */
static dpo_result dpo__tok_add_merges(dpo__tok_reader *r) {
    const dpo__json *j = &r->j;
    int64_t i, k, n[2], v = dpo_json_first(j, r->merge_list);
    char *text[2] = {r->text[0], r->text[0] + DPO__TOK_PIECE};
    dpo_result code = DPO_OK;
    for (i = 0; i < r->n_merges && !code; i++, v = dpo_json_next(j, v)) {
        int64_t part = dpo_json_type(j, v) == '[' && dpo_json_count(j, v) == 2 ? dpo_json_first(j, v) : -1;
        n[0] = dpo_json_string(j, v, text[0], DPO__TOK_PIECE);
        if (n[0] >= 0) {
            code = dpo__tok_add_joined(r, i, text[0], n[0] < DPO__TOK_PIECE ? (size_t)n[0] : 0);
            continue;
        }
        for (k = 0; k < 2; k++, part = dpo_json_next(j, part)) {
            n[k] = dpo_json_string(j, part, text[k], DPO__TOK_PIECE);
            if (n[k] < 0 || n[k] >= DPO__TOK_PIECE) n[k] = 0;
        }
        code = dpo__tok_add_merge(r, i, text[0], (size_t)n[0], text[1], (size_t)n[1]);
    }
    return code;
}
/* merges.txt: "left right" on each line, the first one a comment. */
static dpo_result dpo__tok_merges_file(dpo__tok_reader *r) {
    const char *p = r->merges, *end = p + r->merges_size, *next;
    int64_t rank = 0, line = 1;
    dpo_result code = DPO_OK;
    for (; p < end && !code; p = next, line++) {
        const char *stop = (const char *)memchr(p, '\n', (size_t)(end - p));
        next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > p && stop[-1] == '\r') stop--;
        if (stop == p || (p == r->merges && *p == '#')) continue;
        if (!memchr(p, ' ', (size_t)(stop - p)))
            return dpo__tok_refuse(r, DPO_E_FORMAT, "line %lld of merges.txt is not two pieces", (long long)line);
        code = dpo__tok_add_joined(r, rank++, p, (size_t)(stop - p));
    }
    r->t->n_merges = (int32_t)rank;
    return code;
}

/* An added token: n bytes of text, which lie at the end of the blob, behind `lead` more that it is looked for with. */
static dpo_result dpo__tok_put_added(dpo__tok_reader *r, dpo__added_set *s, int64_t id, size_t lead, size_t n,
                                     int special) {
    dpo_tokenizer *t = r->t;
    dpo__added *a = &s->token[s->n++];
    uint8_t *text = t->blob + r->used + lead, *piece = (uint8_t *)r->text[1];
    size_t bytes = dpo__tok_bytes_of(r, (const char *)text, n, piece); /* what it is as a piece of the vocabulary */
    if (t->state[id] && (t->length[id] != n || memcmp(t->blob + t->at[id], text, n)) &&
        (t->length[id] != bytes || memcmp(t->blob + t->at[id], piece, bytes)))
        return dpo__tok_refuse(r, DPO_E_FORMAT, "id %ld is added token \"%.*s\", and another piece of the vocabulary",
                               (long)id, n < 80 ? (int)n : 80, (const char *)text);
    memset(a, 0, sizeof *a);
    a->text = text - lead;
    a->n = (uint32_t)(lead + n);
    a->id = (int32_t)id;
    a->special = (uint8_t)special;
    t->at[id] = (uint32_t)((size_t)r->used + lead);
    t->length[id] = (uint32_t)n;
    t->state[id] = (uint8_t)(DPO__TOK_HERE | (special ? DPO__TOK_SPECIAL : 0));
    r->used += (int64_t)(lead + n);
    return DPO_OK;
}
/* Special ones are looked for as they are written; others that are "normalized" in normalized text, as that would make
   them: with the space that it begins with, if it always does. */
static dpo_result dpo__tok_add_added(dpo__tok_reader *r, int64_t node) {
    const dpo__json *j = &r->j;
    dpo_tokenizer *t = r->t;
    int special = dpo__tok_flag(r, node, "special", 0), raw = special || !dpo__tok_flag(r, node, "normalized", 1);
    dpo__added_set *s = raw ? &t->raw : &t->normal;
    size_t lead = !raw && t->prefix == DPO__PREFIX_ALWAYS;
    uint8_t *text = (uint8_t *)r->text[0], *to = t->blob + r->used;
    dpo__added *a = &s->token[s->n];
    int64_t id;
    size_t n = (size_t)dpo_json_string(j, dpo_json_find(j, node, "content"), r->text[0], DPO__TOK_PIECE);
    (void)dpo__json_int64(j, dpo_json_find(j, node, "id"), &id);
    if (dpo__tok_flag(r, node, "single_word", 0))
        return dpo__tok_refuse(r, DPO_E_UNSUPPORTED, "added token \"%.80s\" with single_word", r->text[0]);
    to[0] = ' ';
    if (raw) memcpy(to, text, n);
    else if (!(n = dpo__tok_normalize(t, text, text + n, to + lead))) return r->c->error.code;
    if (dpo__tok_put_added(r, s, id, lead, n, special)) return r->c->error.code;
    a->lstrip = (uint8_t)dpo__tok_flag(r, node, "lstrip", 0);
    a->rstrip = (uint8_t)dpo__tok_flag(r, node, "rstrip", 0);
    return DPO_OK;
}
/* Names that special tokens usually have: of what ends texts, of what begins them, others. */
enum { DPO__TOK_EOS = 0, DPO__TOK_BOS = 5, DPO__TOK_OTHER = 8, DPO__TOK_NAMES = 11 };
static const char *const dpo__tok_names[DPO__TOK_NAMES] = {"<|endoftext|>",
                                                           "</s>",
                                                           "<|end_of_text|>",
                                                           "<eos>",
                                                           "<|im_end|>", /* DPO__TOK_EOS */
                                                           "<s>",
                                                           "<|begin_of_text|>",
                                                           "<bos>", /* DPO__TOK_BOS */
                                                           "<unk>",
                                                           "<pad>",
                                                           "<|im_start|>"};
#define DPO__TOK_NAMED 128 /* their bytes, at most */

/* Files without a list of added tokens: pieces of these names are special. */
static dpo_result dpo__tok_add_named(dpo__tok_reader *r) {
    dpo_result code = DPO_OK;
    int i;
    for (i = 0; i < DPO__TOK_NAMES && !code; i++) {
        const char *name = dpo__tok_names[i];
        uint32_t id = dpo__tok_find(r->t, (const uint8_t *)name, strlen(name));
        if (id == DPO__TOK_NONE) continue;
        memcpy(r->t->blob + r->used, name, strlen(name));
        code = dpo__tok_put_added(r, &r->t->raw, (int64_t)id, 0, strlen(name), 1);
    }
    return code;
}

/* Cuts that merges do not tell: inside a character never; between unknown ones, which are one id, neither; before each
   space always, if the tokenizer says so. */
static void dpo__tok_ready_borders(dpo_tokenizer *t) {
    unsigned before, after;
    for (before = 0; before < 256; before++)
        for (after = 0; after < 256; after++)
            if ((after & 0xc0) == 0x80 || t->byte_id[0] == DPO__TOK_NONE) dpo__tok_two_add(t->borders, before, after);
    for (before = 0; before < 256 && t->split == DPO__SPLIT_EACH_SPACE; before++)
        t->borders[before << 5 | ' ' >> 3] &= (uint8_t) ~(1u << (' ' & 7));
}
/* No byte may be without an id. */
static dpo_result dpo__tok_finish(dpo__tok_reader *r) {
    dpo_tokenizer *t = r->t;
    uint32_t id, b;
    int i, k;
    static const char *const kinds[] = {"bytes", "byte-level BPE", "SentencePiece-type BPE"};
    static const char *const splits[] = {"no", "GPT-2", "Llama-3", "every-space"};
    for (b = 0; b < 256; b++) {
        int never = t->kind == DPO__TOK_BYTE_LEVEL && (b == 0xc0 || b == 0xc1 || b > 0xf4);
        if (t->byte_id[b] == DPO__TOK_NONE && !never) break;
        t->missing |= t->byte_id[b] == DPO__TOK_NONE;
    }
    if (b < 256 && t->kind == DPO__TOK_BYTE_LEVEL)
        return dpo__tok_refuse(r, DPO_E_FORMAT, "byte 0x%02x has no piece, so that text with it would be lost",
                               (unsigned)b);
    if (b < 256) t->byte_id[0] = DPO__TOK_NONE;
    dpo__tok_ready_borders(t);
    if (b < 256 && t->unk < 0)
        return dpo__tok_refuse(r, DPO_E_FORMAT, "it has neither pieces for all bytes nor an unknown token");
    for (id = 0; id < (uint32_t)t->vocab; id++)
        dpo__hash_number(&r->hash, t->state[id] ? (int64_t)dpo__tok_hash(t->blob + t->at[id], t->length[id]) : -1);
    for (i = 0; i < 2; i++) {
        dpo__added_set *s = i ? &t->normal : &t->raw;
        dpo__added_ready(s);
        for (k = 0; k < s->n; k++)
            dpo__hash_number(&r->hash, s->token[k].id * 16 + i * 8 + s->token[k].special * 4 + s->token[k].lstrip * 2 +
                                           s->token[k].rstrip);
    }
    dpo__hash_number(&r->hash, t->kind * 1000 + t->split * 100 + t->digits * 10 + t->nfc);
    if (t->byte_id[0] == DPO__TOK_NONE) dpo__hash_number(&r->hash, 2 * (int64_t)t->unk + t->fuse_unk);
    dpo__hash_number(&r->hash, t->prefix * 100 + t->ignore_merges * 10 + t->number_run);
    t->hash = dpo__hash_end(&r->hash);
    t->strip = t->kind == DPO__TOK_SPACES && t->prefix != DPO__PREFIX_NONE;
    dpo__append(t->info, sizeof t->info, 0, "%s, %s splitting%s%s, %ld ids, %ld merges, %d added tokens",
                kinds[t->kind], splits[t->split],
                t->digits            ? " after single digits"
                : t->number_run == 1 ? " of single digits"
                                     : "",
                t->nfc ? ", NFC" : "", (long)t->vocab, (long)t->n_merges, t->raw.n + t->normal.n);
    return DPO_OK;
}

/* All of it from what is parsed; r->t is the tokenizer after DPO_OK. */
static dpo_result dpo__tok_build(dpo__tok_reader *r) {
    int64_t i, v, unk = dpo_json_find(&r->j, dpo_json_find(&r->j, 0, "model"), "unk_token");
    dpo_result code = dpo__tok_measure(r);
    r->n_special = r->n_added + DPO__TOK_NAMES;
    r->blob += DPO__TOK_NAMED;
    if (!code) code = dpo__tok_carve(r);
    if (code) return code;
    dpo__tok_make_map(r);
    code = dpo__tok_add_pieces(r);
    if (!code && dpo_json_string(&r->j, unk, r->text[0], DPO__TOK_PIECE) > 0) {
        size_t n = dpo__tok_bytes_of(r, r->text[0], strlen(r->text[0]), (uint8_t *)r->text[1]);
        r->t->unk = (int32_t)dpo__tok_find(r->t, (const uint8_t *)r->text[1], n);
    }
    if (!code) code = r->merges ? dpo__tok_merges_file(r) : dpo__tok_add_merges(r);
    if (!code && r->merges) code = dpo__tok_add_named(r);
    v = dpo_json_first(&r->j, r->added_list);
    for (i = 0; i < r->n_added && !code; i++, v = dpo_json_next(&r->j, v)) code = dpo__tok_add_added(r, v);
    if (!code) code = dpo__tok_each(r, dpo__tok_at(r, 0, "post_processor"), "processors", dpo__tok_read_template);
    return code ? code : dpo__tok_finish(r);
}

/* --- from files to a tokenizer -------------------------------------------------------------------------- */

DPO_API void dpo_tokenizer_free(dpo_tokenizer *t) {
    if (!t) return;
    dpo__put(t->c, t->work->text.p);
    dpo__put(t->c, t->work->normal.p);
    dpo__put(t->c, t->work->symbols.p);
    dpo__put(t->c, t);
}

/* A reader whose tokenizer is `head` until there is a block for it. */
static dpo__tok_reader dpo__tok_reader_of(dpo_context *c, const char *name, dpo_tokenizer *head) {
    dpo__tok_reader r;
    memset(&r, 0, sizeof r);
    memset(head, 0, sizeof *head);
    head->c = r.c = c;
    head->bos = head->eos = head->unk = -1;
    r.t = head;
    r.name = name;
    r.vocab = r.merge_list = r.added_list = -1;
    r.hash = dpo__hash_start(3);
    return r;
}
/* From one file's text; merges of vocab.json besides. */
static dpo_tokenizer *dpo__tok_from(dpo_context *c, const char *name, const char *text, size_t size, const char *merges,
                                    size_t merges_size) {
    dpo_tokenizer head, *t;
    dpo__tok_reader r = dpo__tok_reader_of(c, name, &head);
    size_t at = 0;
    dpo_result code = DPO_OK;
    r.merges = merges;
    r.merges_size = merges_size;
    r.text[0] = (char *)dpo__get(c, 4 * DPO__TOK_PIECE, "a tokenizer's pieces");
    if (!r.text[0]) return NULL;
    r.text[1] = r.text[0] + 2 * DPO__TOK_PIECE;
    while (at < size && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) at++;
    if (at == size || text[at] != '{') {
        code = dpo__fail(
            c, DPO_E_FORMAT,
            "%.400s: is no JSON object, expected a tokenizer.json; if it is a llama2.c tokenizer: dpo-convert "
            "MODEL.bin DIR --tokenizer %.400s",
            name, name);
    } else if (!(code = dpo__json_parse(c, name, text, size, &r.j))) {
        if (merges) {
            r.vocab = 0;
            head.kind = DPO__TOK_BYTE_LEVEL;
            head.split = DPO__SPLIT_GPT2;
        } else code = dpo__tok_read_head(&r);
        if (!code) code = dpo__tok_build(&r);
    }
    dpo__json_free(c, &r.j);
    dpo__put(c, r.text[0]);
    t = r.t == &head ? NULL : r.t;
    if (!code) return t;
    dpo_tokenizer_free(t);
    return NULL;
}
DPO_API dpo_tokenizer *dpo_tokenizer_bytes(dpo_context *c) {
    dpo_tokenizer head, *t;
    dpo__tok_reader r = dpo__tok_reader_of(c, "bytes", &head);
    int32_t i;
    if (!c || c->error.code) return NULL;
    head.vocab = 257;
    head.eos = 256;
    head.hash = 1;
    r.blob = 256;
    if (dpo__tok_carve(&r)) return NULL;
    t = r.t;
    for (i = 0; i < 257; i++) {
        t->at[i] = (uint32_t)i & 255;
        t->length[i] = i < 256;
        t->state[i] = (uint8_t)(i < 256 ? DPO__TOK_HERE : DPO__TOK_HERE | DPO__TOK_SPECIAL);
        t->blob[i & 255] = (uint8_t)i;
    }
    dpo__append(t->info, sizeof t->info, 0, "bytes, 257 ids");
    return t;
}
DPO_API int dpo_tokenizer_vocab(const dpo_tokenizer *t) { return t ? t->vocab : 0; }
DPO_API int32_t dpo_tokenizer_eos(const dpo_tokenizer *t) { return t ? t->eos : -1; }
DPO_API int32_t dpo_tokenizer_bos(const dpo_tokenizer *t) { return t ? t->bos : -1; }
DPO_API int dpo_tokenizer_adds_bos(const dpo_tokenizer *t) { return t ? t->adds_bos && t->bos >= 0 : 0; }
DPO_API uint64_t dpo_tokenizer_hash(const dpo_tokenizer *t) { return t ? t->hash : 0; }
DPO_API const char *dpo_tokenizer_info(const dpo_tokenizer *t) { return t ? t->info : ""; }
DPO_API dpo_result dpo_tokenizer_set_ends(dpo_tokenizer *t, int32_t bos, int32_t eos) {
    if (!t) return DPO_E_ARG;
    if (t->c->error.code) return t->c->error.code;
    if (bos < -1 || bos >= t->vocab || eos < -1 || eos >= t->vocab)
        return dpo__fail(t->c, DPO_E_ARG, "dpo_tokenizer_set_ends: bos %ld and eos %ld must lie from -1 to %ld",
                         (long)bos, (long)eos, (long)t->vocab - 1);
    t->bos = bos;
    t->eos = eos;
    return DPO_OK;
}
DPO_API int32_t dpo_tokenizer_id(const dpo_tokenizer *t, const char *piece, size_t bytes) {
    const uint8_t *p = (const uint8_t *)piece;
    int i;
    if (!t || !piece || !bytes) return -1;
    if (t->kind == DPO__TOK_BYTES) return bytes == 1 ? p[0] : -1;
    for (i = 0; i < t->raw.n + t->normal.n; i++) {
        const dpo__added *a = i < t->raw.n ? &t->raw.token[i] : &t->normal.token[i - t->raw.n];
        if (t->length[a->id] == bytes && !memcmp(t->blob + t->at[a->id], p, bytes)) return a->id;
    }
    return (int32_t)dpo__tok_find(t, p, bytes);
}

/* Whether dir/name is there; its path. */
static int dpo__tok_has(dpo_context *c, const char *dir, const char *name, char *path, size_t cap) {
    return !dpo__file_join(c, dir, name, path, cap) && dpo__file_exists(c, path);
}
/* A token's id by its text in tokenizer_config.json: a string, or an object with "content". */
static int32_t dpo__tok_config_id(const dpo_tokenizer *t, const dpo__json *j, const char *key) {
    char text[256];
    int64_t v = dpo_json_find(j, 0, key), n;
    if (dpo_json_type(j, v) == '{') v = dpo_json_find(j, v, "content");
    n = dpo_json_string(j, v, text, sizeof text);
    return n > 0 && n < (int64_t)sizeof text ? dpo_tokenizer_id(t, text, (size_t)n) : -1;
}
/* The number of a key in config.json, or the first of a list of them, if it is an id. */
static int32_t dpo__tok_config_number(const dpo_tokenizer *t, const dpo__json *j, const char *key) {
    int64_t v = dpo_json_find(j, 0, key), x;
    if (dpo_json_type(j, v) == '[' && dpo_json_count(j, v)) v = dpo_json_first(j, v);
    return dpo__json_int64(j, v, &x) && x >= 0 && x < t->vocab ? (int32_t)x : -1;
}
/* The JSON of dir/name if that file is there: 1, to be freed by dpo__tok_json_free. 0: no file, or the error is set. */
static int dpo__tok_json(dpo_context *c, const char *dir, const char *name, char **text, dpo__json *j) {
    char path[4096];
    size_t size;
    if (!dpo__tok_has(c, dir, name, path, sizeof path) || dpo__file_read_all(c, path, (uint64_t)64 << 20, text, &size))
        return 0;
    if (!dpo__json_parse(c, path, *text, size, j)) return 1;
    dpo__json_free(c, j);
    dpo__put(c, *text);
    return 0;
}
static void dpo__tok_json_free(dpo_context *c, char *text, dpo__json *j) {
    dpo__json_free(c, j);
    dpo__put(c, text);
}
/* The first of the usual names that is a token. */
static int32_t dpo__tok_named(const dpo_tokenizer *t, int from, int to) {
    int32_t id = -1;
    for (; id < 0 && from < to; from++) id = dpo_tokenizer_id(t, dpo__tok_names[from], strlen(dpo__tok_names[from]));
    return id;
}
/* Which ids begin and end texts: by tokenizer_config.json, then config.json, then the usual names. */
static dpo_result dpo__tok_read_ends(dpo_tokenizer *t, const char *dir) {
    dpo__json j;
    char *text;
    int value;
    if (dir && dpo__tok_json(t->c, dir, "tokenizer_config.json", &text, &j)) {
        int32_t bos = dpo__tok_config_id(t, &j, "bos_token");
        t->eos = dpo__tok_config_id(t, &j, "eos_token");
        if (bos >= 0) t->bos = bos;
        if (dpo__json_bool(&j, dpo_json_find(&j, 0, "add_bos_token"), &value)) t->adds_bos = value;
        dpo__tok_json_free(t->c, text, &j);
    }
    if (dir && dpo__tok_json(t->c, dir, "config.json", &text, &j)) {
        if (t->eos < 0) t->eos = dpo__tok_config_number(t, &j, "eos_token_id");
        if (t->bos < 0) t->bos = dpo__tok_config_number(t, &j, "bos_token_id");
        dpo__tok_json_free(t->c, text, &j);
    }
    if (t->eos < 0) t->eos = dpo__tok_named(t, DPO__TOK_EOS, DPO__TOK_BOS);
    if (t->bos < 0) t->bos = dpo__tok_named(t, DPO__TOK_BOS, DPO__TOK_OTHER);
    return t->c->error.code;
}
/* vocab.json -> merges.txt beside it: the same path with the end of its name exchanged. */
static int dpo__tok_merges_path(const char *path, char *out, size_t cap) {
    size_t n = strlen(path), k = strlen("vocab.json");
    if (n < k || strcmp(path + n - k, "vocab.json")) return 0;
    return dpo__append(out, cap, 0, "%.*smerges.txt", (int)(n - k), path) < cap;
}
DPO_API dpo_tokenizer *dpo_tokenizer_load(dpo_context *c, const char *path) {
    char file[4096], merges_path[4096], *text = NULL, *merges = NULL;
    const char *dir = path;
    size_t size, merges_size = 0;
    dpo_tokenizer *t = NULL;
    dpo__json j;
    int bytes = 0;
    if (!c || c->error.code) return NULL;
    if (!path || strlen(path) > sizeof file - 64) {
        dpo__fail(c, DPO_E_ARG, "dpo_tokenizer_load: the path must not be NULL, nor longer than 4000 bytes");
        return NULL;
    }
    if (dpo__tok_json(c, path, "config.json", &text, &j)) {
        bytes = dpo__json_is(&j, dpo_json_find(&j, 0, "dpo_tokenizer"), "bytes");
        dpo__tok_json_free(c, text, &j);
    }
    if (c->error.code || bytes) return dpo_tokenizer_bytes(c); /* NULL after an error */
    if (!dpo__tok_has(c, path, "tokenizer.json", file, sizeof file) &&
        !dpo__tok_has(c, path, "vocab.json", file, sizeof file)) {
        if (dpo__tok_has(c, path, "tokenizer.model", file, sizeof file) ||
            dpo__tok_has(c, path, "config.json", file, sizeof file)) {
            dpo__fail(c, DPO_E_FORMAT, "%.400s: expected tokenizer.json, or vocab.json with merges.txt, in it; %s",
                      path,
                      strstr(file, "tokenizer.model") ? "tokenizer.model has to be saved as tokenizer.json first"
                                                      : "copy them beside config.json; a llama2.c tok*.bin becomes "
                                                        "one by dpo-convert MODEL.bin DIR --tokenizer tok*.bin");
            return NULL;
        }
        dir = NULL;
        dpo__append(file, sizeof file, 0, "%s", path);
    }
    if (dpo__file_read_all(c, file, (uint64_t)512 << 20, &text, &size)) return NULL;
    if (!dpo__tok_merges_path(file, merges_path, sizeof merges_path) ||
        !dpo__file_read_all(c, merges_path, (uint64_t)512 << 20, &merges, &merges_size))
        t = dpo__tok_from(c, file, text, size, merges, merges_size);
    if (t && dpo__tok_read_ends(t, dir)) {
        dpo_tokenizer_free(t);
        t = NULL;
    }
    dpo__put(c, text);
    dpo__put(c, merges);
    return t;
}

/* ===========================================================================================
   >>DATA - examples as ids, rows of neutral JSON lines

   An item is prompt, chosen, rejected, end to end in one array of ids. An item without a rejected answer
   is for SFT; one without a prompt is plain text, its first id not a target.
   =========================================================================================== */

/* Which item each prompt has, by the hash of its ids: open addressing, at most half full. */
typedef struct dpo__seen {
    uint64_t key; /* 0: free */
    int64_t item;
} dpo__seen;

enum { DPO__CUT_PROMPT = 1, DPO__CUT_RESPONSE = 2, DPO__CUT_EOS = 4, DPO__BAD_UTF8 = 8, DPO__BORDER_MERGED = 16 };

typedef struct dpo__item {
    int64_t first;
    int32_t prompt, chosen, rejected; /* counts; rejected 0: none */
    int32_t marks;                    /* what the report counts it under */
} dpo__item;

static int64_t dpo__item_ids(const dpo__item *t) { return (int64_t)t->prompt + t->chosen + t->rejected; }

struct dpo_data {
    dpo_context *c;
    const dpo_tokenizer *t;
    dpo_data_options options;
    dpo_data_report report;
    int32_t *ids;
    int64_t n_ids, cap_ids;
    dpo__item *items;
    int64_t n, cap;
    dpo__seen *seen; /* group_prompts */
    int64_t n_seen, cap_seen;
    double *reference;       /* [n,2]; NaN = not computed */
    int reference_whole;     /* none of them is */
    uint64_t reference_of;   /* hash of the weights they came from, */
    int reference_precision; /* which computed in this precision */
};

/* Room for `more` elements after n; grows by half. */
static dpo_result dpo__data_grow(dpo_context *c, void **p, int64_t n, int64_t *cap, int64_t more, size_t size) {
    int64_t want = n + more, to = *cap + *cap / 2;
    size_t bytes;
    void *q;
    if (want <= *cap) return DPO_OK;
    if (to < want) to = want;
    if (to < 1024) to = 1024;
    if (dpo__mul_size((size_t)to, size, &bytes)) bytes = SIZE_MAX;
    q = dpo__get(c, bytes, "a data set");
    if (!q) return DPO_E_MEMORY;
    if (n) memcpy(q, *p, (size_t)n * size);
    dpo__put(c, *p);
    *p = q;
    *cap = to;
    return DPO_OK;
}

DPO_API dpo_data_options dpo_data_defaults(void) {
    dpo_data_options o;
    memset(&o, 0, sizeof o);
    o.max_length = 512;
    o.max_prompt_length = 256;
    o.truncation = DPO_TRUNCATE_REF;
    o.end_of_turn = -1;
    return o;
}
static const char *dpo__data_options_fault(const dpo_data_options *o) {
    if (o->max_length < 2 || o->max_length > 16 * DPO__DIM) return "max_length must lie from 2 to 16000000";
    if (o->truncation < DPO_TRUNCATE_REF || o->truncation > DPO_TRUNCATE_KEEP_END)
        return "truncation must be DPO_TRUNCATE_REF, KEEP_START or KEEP_END";
    if (o->truncation == DPO_TRUNCATE_REF && (o->max_prompt_length < 1 || o->max_prompt_length >= o->max_length))
        return "max_prompt_length must lie from 1 to below max_length";
    if (o->boundary != DPO_BOUNDARY_SEPARATE && o->boundary != DPO_BOUNDARY_JOINT)
        return "boundary must be DPO_BOUNDARY_SEPARATE or JOINT";
    if (o->bos < DPO_BOS_HABIT || o->bos > DPO_BOS_ALWAYS) return "bos must be DPO_BOS_HABIT, NEVER or ALWAYS";
    return NULL;
}
DPO_API dpo_data *dpo_data_create(dpo_context *c, const dpo_tokenizer *t, const dpo_data_options *options) {
    dpo_data_options o = options ? *options : dpo_data_defaults();
    const char *why;
    dpo_data *d;
    if (!c || c->error.code) return NULL;
    why = dpo__data_options_fault(&o);
    if (why) {
        dpo__fail(c, DPO_E_ARG, "data options: %s (max_length %d, max_prompt_length %d)", why, o.max_length,
                  o.max_prompt_length);
        return NULL;
    }
    d = (dpo_data *)dpo__get(c, sizeof *d, "a data set");
    if (!d) return NULL;
    memset(d, 0, sizeof *d);
    d->c = c;
    d->t = t;
    d->options = o;
    return d;
}
DPO_API void dpo_data_free(dpo_data *d) {
    dpo_context *c;
    if (!d) return;
    c = d->c;
    dpo__put(c, d->ids);
    dpo__put(c, d->items);
    dpo__put(c, d->seen);
    dpo__put(c, d->reference);
    dpo__put(c, d);
}

/* Where a prompt stands in the table, or would go. */
static dpo__seen *dpo__seen_at(dpo__seen *table, int64_t cap, uint64_t key) {
    size_t mask = (size_t)cap - 1, i = (size_t)dpo__mix(key) & mask;
    while (table[i].key && table[i].key != key) i = (i + 1) & mask;
    return &table[i];
}
/* Room for one more prompt. */
static dpo_result dpo__seen_room(dpo_data *d) {
    int64_t i, cap = d->cap_seen ? 2 * d->cap_seen : 1024;
    dpo__seen *to;
    if (d->n_seen < d->cap_seen / 2) return DPO_OK;
    to = (dpo__seen *)dpo__get(d->c, (size_t)cap * sizeof *to, "a table of prompts");
    if (!to) return DPO_E_MEMORY;
    memset(to, 0, (size_t)cap * sizeof *to);
    for (i = 0; i < d->cap_seen; i++)
        if (d->seen[i].key) *dpo__seen_at(to, cap, d->seen[i].key) = d->seen[i];
    dpo__put(d->c, d->seen);
    d->seen = to;
    d->cap_seen = cap;
    return DPO_OK;
}
/* The item that has these ids as its prompt; -1: none had, now `item` has. */
static int64_t dpo__seen_put(dpo_data *d, const int32_t *prompt, int64_t n, int64_t item) {
    dpo__hash h = dpo__hash_start(2);
    dpo__seen *at;
    uint64_t key;
    dpo__hash_add(&h, prompt, (size_t)n * sizeof *prompt);
    key = dpo__hash_end(&h) | 1; /* never 0 */
    at = dpo__seen_at(d->seen, d->cap_seen, key);
    if (at->key) return at->item;
    at->key = key;
    at->item = item;
    d->n_seen++;
    return -1;
}

/* Counts an item, or (by -1) takes it out again. */
static void dpo__report_item(dpo_data_report *r, const dpo__item *t, int by) {
    r->prompt_tokens += by * t->prompt;
    r->chosen_tokens += by * t->chosen;
    r->rejected_tokens += by * t->rejected;
    r->truncated_prompts += t->marks & DPO__CUT_PROMPT ? by : 0;
    r->truncated_responses += t->marks & DPO__CUT_RESPONSE ? by : 0;
    r->lost_eos += t->marks & DPO__CUT_EOS ? by : 0;
    r->invalid_utf8 += t->marks & DPO__BAD_UTF8 ? by : 0;
    r->boundary_merges += t->marks & DPO__BORDER_MERGED ? by : 0;
}
/* Puts t at item i (i == n: one more); what was computed for the old ones is void. */
static void dpo__data_item_set(dpo_data *d, int64_t i, const dpo__item *t) {
    if (i == d->n) d->n++;
    else dpo__report_item(&d->report, &d->items[i], -1);
    d->items[i] = *t;
    dpo__report_item(&d->report, t, 1);
    dpo__put(d->c, d->reference);
    d->reference = NULL;
    d->reference_whole = 0;
}
/* A row as it lies behind d->n_ids: its counts, and what is known of it. */
typedef struct dpo__row {
    int64_t prompt, chosen, rejected;
    int ends, marks; /* ids that close the answers are there; of bad UTF-8 and of a boundary that changed */
} dpo__row;

/* What is left of each part; 0 if the row is too long to be used. */
static int dpo__row_cut(const dpo_data_options *o, const dpo__row *row, dpo__row *cut) {
    int64_t longest = dpo__max64(row->chosen, row->rejected);
    *cut = *row;
    if (o->truncation == DPO_TRUNCATE_KEEP_END) {
        cut->prompt = dpo__min64(row->prompt, o->max_length - longest);
        return cut->prompt >= dpo__min64(row->prompt, 1);
    }
    if (o->truncation == DPO_TRUNCATE_REF) {
        if (cut->prompt + longest > o->max_length) cut->prompt = dpo__min64(cut->prompt, o->max_prompt_length);
        if (cut->prompt + longest <= o->max_length) return 1;
        cut->chosen = dpo__min64(cut->chosen, o->max_length - o->max_prompt_length);
        cut->rejected = dpo__min64(cut->rejected, o->max_length - o->max_prompt_length);
        return 1;
    }
    cut->chosen = dpo__min64(cut->chosen, o->max_length - cut->prompt);
    cut->rejected = dpo__min64(cut->rejected, o->max_length - cut->prompt);
    return cut->prompt < o->max_length;
}
/* Cuts the row, keeps or counts it. Room for one more item and one more prompt has been made. */
static void dpo__data_keep(dpo_data *d, const dpo__row *row) {
    const dpo_data_options *o = &d->options;
    dpo_data_report *report = &d->report;
    int32_t *p = d->ids + d->n_ids, *c = p + row->prompt, *r = c + row->chosen;
    int64_t at = -1;
    dpo__row cut;
    dpo__item item;
    if (!dpo__row_cut(o, row, &cut)) report->too_long++;
    else if (cut.chosen == cut.rejected && !memcmp(c, r, (size_t)cut.chosen * sizeof *c)) report->identical++;
    else if (cut.prompt + cut.chosen < 2 || (cut.rejected && cut.prompt + cut.rejected < 2))
        report->empty_response++; /* nothing before its only id: no target */
    else {
        if (o->group_prompts && !row->rejected && row->prompt) at = dpo__seen_put(d, p, row->prompt, d->n);
        report->pairs += row->rejected > 0;
        report->chosen_longer += row->rejected > 0 && row->chosen > row->rejected;
        report->same_length += row->chosen == row->rejected;
        if (cut.prompt < row->prompt) {
            cut.marks |= DPO__CUT_PROMPT;
            if (o->truncation == DPO_TRUNCATE_KEEP_END || (o->truncation == DPO_TRUNCATE_REF && !o->prompt_keep_start))
                memmove(p, c - cut.prompt, (size_t)cut.prompt * sizeof *p);
        }
        if (cut.chosen < row->chosen || cut.rejected < row->rejected)
            cut.marks |= DPO__CUT_RESPONSE | (row->ends ? DPO__CUT_EOS : 0);
        memmove(p + cut.prompt, c, (size_t)cut.chosen * sizeof *p);
        memmove(p + cut.prompt + cut.chosen, r, (size_t)cut.rejected * sizeof *p);
        item.first = d->n_ids;
        item.prompt = (int32_t)cut.prompt;
        item.chosen = (int32_t)cut.chosen;
        item.rejected = (int32_t)cut.rejected;
        item.marks = cut.marks;
        d->n_ids += dpo__item_ids(&item);
        if (at >= 0) report->grouped++; /* the earlier row's ids stay behind, unused */
        else report->kept++;
        dpo__data_item_set(d, at >= 0 ? at : d->n, &item);
    }
}
/* Room for so many more ids behind those at `at`, and for items and their prompts. */
static dpo_result dpo__data_room(dpo_data *d, int64_t at, int64_t ids, int64_t items) {
    dpo_result r = dpo__data_grow(d->c, (void **)&d->ids, at, &d->cap_ids, ids, sizeof *d->ids);
    if (!r) r = dpo__data_grow(d->c, (void **)&d->items, d->n, &d->cap, items, sizeof *d->items);
    return r || !d->options.group_prompts ? r : dpo__seen_room(d);
}

DPO_API dpo_result dpo_data_add_tokens(dpo_data *d, const int32_t *prompt, int64_t n_prompt, const int32_t *chosen,
                                       int64_t n_chosen, const int32_t *rejected, int64_t n_rejected) {
    dpo__row row = {n_prompt, n_chosen, n_rejected, 0, 0};
    int32_t *to;
    DPO__READY(d, d->c);
    if (n_prompt < 0 || n_chosen < 0 || n_rejected < 0 || n_prompt > INT32_MAX / 4 || n_chosen > INT32_MAX / 4 ||
        n_rejected > INT32_MAX / 4 || (n_prompt && !prompt) || (n_chosen && !chosen) || (n_rejected && !rejected))
        return dpo__fail(d->c, DPO_E_ARG, "dpo_data_add_tokens: negative counts or missing pointers");
    if (dpo__data_room(d, d->n_ids, n_prompt + n_chosen + n_rejected, 1)) return d->c->error.code;
    d->report.rows++;
    if (!n_chosen || (rejected && !n_rejected)) {
        d->report.empty_response++;
        return DPO_OK;
    }
    to = d->ids + d->n_ids;
    if (n_prompt) memcpy(to, prompt, (size_t)n_prompt * sizeof *to);
    memcpy(to + n_prompt, chosen, (size_t)n_chosen * sizeof *to);
    if (n_rejected) memcpy(to + n_prompt + n_chosen, rejected, (size_t)n_rejected * sizeof *to);
    dpo__data_keep(d, &row);
    return DPO_OK;
}

static int dpo__text_blank(const char *text, size_t n) {
    while (n && (text[n - 1] == ' ' || text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == '\t')) n--;
    return n == 0;
}
/* Nothing but blanks outside the format's own pieces. */
static int dpo__parts_blank(const dpo_text *parts, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++)
        if (!parts[i].special && !dpo__text_blank(parts[i].text, parts[i].bytes)) return 0;
    return 1;
}
static int dpo__parts_invalid(const dpo_text *parts, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++)
        if (parts[i].bytes && dpo__utf8_valid(parts[i].text, parts[i].bytes) < parts[i].bytes) return DPO__BAD_UTF8;
    return 0;
}
/* Ids of the parts into d->ids from `at` on; their number, or a negative code with the error set. */
static int64_t dpo__data_encode(dpo_data *d, int64_t at, const dpo_text *parts, int64_t n, unsigned flags) {
    int64_t most = dpo__encode_most(parts, n), count;
    if (most < 0 || most > INT32_MAX / 2)
        return dpo__fail(d->c, DPO_E_ARG, "data: a text is NULL, or longer than 300 MB; cut it into rows");
    if (dpo__data_room(d, at, most, 1)) return d->c->error.code;
    count = dpo_encode_parts(d->t, parts, n, flags, d->ids + at, most);
    return count < 0 && !d->c->error.code ? dpo__fail(d->c, (dpo_result)count, "data: a text cannot be encoded")
                                          : count;
}
static unsigned dpo__data_bos(const dpo_data *d) {
    int add = d->options.bos == DPO_BOS_ALWAYS || (d->options.bos == DPO_BOS_HABIT && dpo_tokenizer_adds_bos(d->t));
    return add ? DPO_ENCODE_ADD_BOS : 0;
}
/* One answer's ids at `at`, closed by an end-of-text id if it is not closed already; a negative code. `whole`: the
   prompt's parts and the answer's, for a joint boundary. */
static int64_t dpo__data_answer(dpo_data *d, int64_t at, const dpo_text *whole, int64_t n_prompt, int64_t n_answer,
                                dpo__row *row) {
    int32_t eos = dpo_tokenizer_eos(d->t), *ids;
    int64_t n;
    if (d->options.boundary == DPO_BOUNDARY_JOINT) {
        n = dpo__data_encode(d, at, whole, n_prompt + n_answer, dpo__data_bos(d));
        if (n < 0) return n;
        ids = d->ids + at;
        if (n < row->prompt || memcmp(ids, d->ids + d->n_ids, (size_t)row->prompt * sizeof *ids) != 0)
            row->marks |= DPO__BORDER_MERGED;
        n = dpo__max64(n - row->prompt, 0);
        memmove(ids, ids + row->prompt, (size_t)n * sizeof *ids);
    } else {
        n = dpo__data_encode(d, at, whole + n_prompt, n_answer, 0);
        if (n < 0) return n;
        ids = d->ids + at;
    }
    if (n && (ids[n - 1] == eos || ids[n - 1] == d->options.end_of_turn)) return n;
    if (eos < 0)
        return dpo__fail(d->c, DPO_E_STATE,
                         "data: the tokenizer names no end-of-text id, so answers could not end; give it one by "
                         "dpo_tokenizer_set_ends");
    ids[n] = eos; /* the bound of the encoding has room for it */
    return n + 1;
}

DPO_API dpo_result dpo_data_add_parts(dpo_data *d, const dpo_text *prompt, int64_t n_prompt, const dpo_text *chosen,
                                      int64_t n_chosen, const dpo_text *rejected, int64_t n_rejected) {
    dpo_text *parts = NULL;
    const dpo_text *answer[2] = {chosen, rejected};
    int64_t count[2] = {n_chosen, n_rejected}, n[2] = {0, 0}, most, i;
    dpo__row row = {0, 0, 0, 1, 0};
    DPO__READY(d, d->c);
    if (!d->t) return dpo__fail(d->c, DPO_E_STATE, "dpo_data_add: this data set was made without a tokenizer");
    if (n_prompt < 0 || n_chosen < 1 || n_rejected < 0 || dpo__encode_most(prompt, n_prompt) < 0 ||
        dpo__encode_most(chosen, n_chosen) < 0 || dpo__encode_most(rejected, n_rejected) < 0)
        return dpo__fail(d->c, DPO_E_ARG, "dpo_data_add: a text is NULL, negative in number, or longer than 2 GB");
    d->report.rows++;
    if (dpo__parts_blank(chosen, n_chosen) || (n_rejected && dpo__parts_blank(rejected, n_rejected))) {
        d->report.empty_response++;
        return DPO_OK;
    }
    most = n_prompt + dpo__max64(n_chosen, n_rejected);
    parts = (dpo_text *)dpo__get(d->c, (size_t)most * sizeof *parts, "the parts of a row");
    if (!parts) return DPO_E_MEMORY;
    row.marks = dpo__parts_invalid(prompt, n_prompt) | dpo__parts_invalid(chosen, n_chosen) |
                dpo__parts_invalid(rejected, n_rejected);
    if (n_prompt) memcpy(parts, prompt, (size_t)n_prompt * sizeof *parts);
    row.prompt = dpo__data_encode(d, d->n_ids, parts, n_prompt, dpo__data_bos(d));
    for (i = 0; row.prompt >= 0 && i < (n_rejected ? 2 : 1); i++) {
        memcpy(parts + n_prompt, answer[i], (size_t)count[i] * sizeof *parts);
        n[i] = dpo__data_answer(d, d->n_ids + row.prompt + n[0], parts, n_prompt, count[i], &row);
        if (n[i] < 0) break;
    }
    dpo__put(d->c, parts);
    if (row.prompt < 0 || n[0] < 0 || n[1] < 0) return d->c->error.code;
    row.chosen = n[0];
    row.rejected = n[1];
    dpo__data_keep(d, &row);
    return DPO_OK;
}
DPO_API dpo_result dpo_data_add(dpo_data *d, const char *prompt, size_t prompt_bytes, const char *chosen,
                                size_t chosen_bytes, const char *rejected, size_t rejected_bytes) {
    dpo_text t[3] = {{prompt, prompt_bytes, 0}, {chosen, chosen_bytes, 0}, {rejected, rejected_bytes, 0}};
    return dpo_data_add_parts(d, t, 1, t + 1, 1, t + 2, rejected ? 1 : 0);
}

DPO_API dpo_result dpo_data_add_text(dpo_data *d, const char *text, size_t bytes) {
    dpo_text part = {text, bytes, 0};
    dpo__item item = {0, 0, 0, 0, 0};
    int64_t n, at;
    DPO__READY(d, d->c);
    if (!d->t) return dpo__fail(d->c, DPO_E_STATE, "dpo_data_add_text: this data set was made without a tokenizer");
    if (dpo__encode_most(&part, 1) < 0)
        return dpo__fail(d->c, DPO_E_ARG, "dpo_data_add_text: the text is NULL, or longer than 2 GB");
    d->report.rows++;
    n = dpo__text_blank(text, bytes) ? 0
                                     : dpo__data_encode(d, d->n_ids, &part, 1, dpo__data_bos(d) | DPO_ENCODE_ADD_EOS);
    if (n < 0) return (dpo_result)n;
    if (n < 2) {
        d->report.empty_response++;
        return DPO_OK;
    }
    if (dpo__data_room(d, d->n_ids + n, 0, n / d->options.max_length + 1)) return d->c->error.code;
    item.marks = dpo__parts_invalid(&part, 1);
    for (at = 0; n - at >= 2; at += item.chosen, item.marks = 0) { /* one id alone has no target */
        item.first = d->n_ids + at;
        item.chosen = (int32_t)dpo__min64(d->options.max_length, n - at);
        dpo__data_item_set(d, d->n, &item);
    }
    d->n_ids += n;
    d->report.kept++;
    return DPO_OK;
}

DPO_API int64_t dpo_data_count(const dpo_data *d) { return d ? d->n : 0; }
DPO_API dpo_data_report dpo_data_report_of(const dpo_data *d) {
    dpo_data_report none;
    memset(&none, 0, sizeof none);
    return d ? d->report : none;
}
DPO_API dpo_result dpo_data_item(const dpo_data *d, int64_t i, const int32_t **prompt, int64_t *n_prompt,
                                 const int32_t **chosen, int64_t *n_chosen, const int32_t **rejected,
                                 int64_t *n_rejected) {
    const dpo__item *t;
    const int32_t *ids;
    if (!d) return DPO_E_ARG;
    if (i < 0 || i >= d->n) return dpo__fail(d->c, DPO_E_ARG, "dpo_data_item: item %ld of %ld", (long)i, (long)d->n);
    t = &d->items[i];
    ids = d->ids + t->first;
    if (prompt) *prompt = ids;
    if (n_prompt) *n_prompt = t->prompt;
    if (chosen) *chosen = ids + t->prompt;
    if (n_chosen) *n_chosen = t->chosen;
    if (rejected) *rejected = ids + t->prompt + t->chosen;
    if (n_rejected) *n_rejected = t->rejected;
    return DPO_OK;
}
DPO_API uint64_t dpo_data_hash(const dpo_data *d) {
    dpo__hash h = dpo__hash_start(1);
    int64_t i, k;
    if (!d) return 0;
    for (i = 0; i < d->n; i++) {
        const dpo__item *t = &d->items[i];
        const int32_t *ids = d->ids + t->first;
        dpo__hash_number(&h, t->prompt);
        dpo__hash_number(&h, t->chosen);
        dpo__hash_number(&h, t->rejected);
        for (k = 0; k < dpo__item_ids(t); k++) dpo__hash_number(&h, ids[k]);
    }
    return dpo__hash_end(&h);
}

/* --- JSON lines ------------------------------------------------------------------------------------ */

#define DPO__LINE ((size_t)64 << 20) /* bytes of a line of data: a longer one is no row */

typedef struct dpo__rows {
    dpo_data *d;
    dpo__json j;
    char *text; /* the line's strings, unescaped: never longer than the line */
    int64_t cap, used;
    dpo_text field[3]; /* prompt, chosen, rejected */
    const char *why;   /* of this reading's first bad line */
    int64_t first_bad;
} dpo__rows;

/* The string at `key` as field i; 0 if it is not there, -1 if it is no string. */
static int dpo__rows_field(dpo__rows *r, const char *key, int i) {
    int64_t at = dpo_json_find(&r->j, 0, key), n;
    char *to = r->text + r->used;
    if (at < 0 || dpo__json_null(&r->j, at)) return 0;
    n = dpo_json_string(&r->j, at, to, (size_t)(r->cap - r->used));
    if (n < 0) return -1;
    r->field[i].text = to;
    r->field[i].bytes = (size_t)n;
    r->used += n + 1;
    return 1;
}
static void dpo__rows_bad(dpo__rows *r, int64_t *counter, int64_t line, const char *why) {
    ++*counter;
    r->d->report.rows++;
    if (!r->d->report.first_bad_line) r->d->report.first_bad_line = line;
    if (!r->first_bad) {
        r->first_bad = line;
        r->why = why;
    }
}
static dpo_result dpo__rows_line(dpo__rows *r, const char *line, size_t n, int64_t number) {
    dpo_data *d = r->d;
    const char *why = "the line is longer than 64 MiB";
    size_t at;
    int p, c, j;
    dpo_result code = n > DPO__LINE ? DPO_E_FORMAT : dpo__json_try(d->c, line, n, &r->j, &why, &at);
    if (code == DPO_E_MEMORY) return dpo__fail(d->c, code, "no memory for line %ld", (long)number);
    if (code || dpo_json_type(&r->j, 0) != '{') {
        dpo__rows_bad(r, &d->report.bad_json, number, code ? why : "the line is not a JSON object");
        return DPO_OK;
    }
    if (dpo__data_grow(d->c, (void **)&r->text, 0, &r->cap, (int64_t)n + 4, 1)) return DPO_E_MEMORY;
    r->used = 0;
    p = dpo__rows_field(r, "prompt", 0);
    c = dpo__rows_field(r, "chosen", 1);
    j = dpo__rows_field(r, "rejected", 2);
    if (!c) c = dpo__rows_field(r, "response", 1);
    if (!c && !p && !j && (c = dpo__rows_field(r, "text", 1)) == 1)
        return dpo_data_add_text(d, r->field[1].text, r->field[1].bytes);
    if (p != 1 || c != 1 || j < 0) {
        dpo__rows_bad(r, &d->report.missing_field, number,
                      p != 1   ? "the prompt is missing or not a string"
                      : c != 1 ? "the chosen answer is missing or not a string"
                               : "the rejected answer is not a string");
        return DPO_OK;
    }
    if (!j && d->n && d->items[d->n - 1].rejected) {
        dpo__rows_bad(r, &d->report.missing_field, number, "the rejected answer is missing");
        return DPO_OK;
    }
    return dpo_data_add_parts(d, r->field, 1, r->field + 1, 1, r->field + 2, j);
}

DPO_API dpo_result dpo_data_read_text(dpo_data *d, const char *name, const char *text, size_t bytes) {
    dpo__rows r;
    size_t at = 0, end, n;
    int64_t line = 0, used;
    dpo_result code = DPO_OK;
    DPO__READY(d, d->c);
    if (!name || (!text && bytes))
        return dpo__fail(d->c, DPO_E_ARG, "dpo_data_read_text: name and text must not be NULL");
    if (bytes >= 2 && (!memcmp(text, "\xff\xfe", 2) || !memcmp(text, "\xfe\xff", 2)))
        return dpo__fail(d->c, DPO_E_FORMAT,
                         "%.400s: is UTF-16, expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW", name);
    memset(&r, 0, sizeof r);
    r.d = d;
    used = d->report.kept + d->report.grouped;
    if (bytes >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) at = 3; /* a byte order mark */
    for (; at < bytes && !code; at = end + 1) {
        const char *stop = (const char *)memchr(text + at, '\n', bytes - at);
        end = stop ? (size_t)(stop - text) : bytes;
        n = end - at;
        line++;
        if (n && text[at + n - 1] == '\r') n--;
        if (dpo__text_blank(text + at, n)) continue;
        code = dpo__rows_line(&r, text + at, n, line);
    }
    dpo__json_free(d->c, &r.j);
    dpo__put(d->c, r.text);
    if (code) return d->c->error.code ? d->c->error.code : code;
    if (d->report.kept + d->report.grouped == used)
        return dpo__fail(
            d->c, DPO_E_FORMAT,
            "%.400s: no usable row: %ld of bad JSON, %ld without the fields \"prompt\" and \"chosen\", %ld empty, "
            "%ld with equal answers, %ld too long%s%s",
            name, (long)d->report.bad_json, (long)d->report.missing_field, (long)d->report.empty_response,
            (long)d->report.identical, (long)d->report.too_long, r.why ? "; first: " : "", r.why ? r.why : "");
    if (r.first_bad)
        dpo__log(d->c, DPO_LOG_WARNING, "%s: line %ld is not used: %s (%ld such rows in all)", name, (long)r.first_bad,
                 r.why, (long)(d->report.bad_json + d->report.missing_field));
    return DPO_OK;
}

DPO_API dpo_result dpo_data_read(dpo_data *d, const char *path) {
    char *text;
    size_t bytes;
    dpo_result r;
    DPO__READY(d, d->c);
    if (!path) return dpo__fail(d->c, DPO_E_ARG, "dpo_data_read: the path must not be NULL");
    r = dpo__file_read_all(d->c, path, (uint64_t)16 << 30, &text, &bytes);
    if (r) return r;
    r = dpo_data_read_text(d, path, text, bytes);
    dpo__put(d->c, text);
    return r;
}

/* --- batches of items -------------------------------------------------------------------------------- */

#define DPO__NAIVE 16 /* added to an objective: no prompt is shared, every row is a target */

static int dpo__is_pair(int objective) { return (objective & ~DPO__NAIVE) == DPO_PREFERENCE; }

/* What an item takes in a batch. The last id of an answer is only predicted, never fed. */
static void dpo__item_shape(const dpo__item *t, int objective, dpo__shape *s) {
    int pair = dpo__is_pair(objective);
    int64_t c = t->chosen - 1, r = pair ? t->rejected - 1 : 0;
    memset(s, 0, sizeof *s);
    if (objective & DPO__NAIVE) {
        s->rows = s->targets = (pair ? 2 : 1) * (int64_t)t->prompt + c + r;
        s->segments = s->sequences = pair ? 2 : 1;
        s->path = t->prompt + dpo__max64(c, r);
        return;
    }
    s->rows = t->prompt + c + r;
    s->targets = c + (pair ? r : 0) + (t->prompt ? (pair ? 2 : 1) : 0);
    s->segments = (t->prompt > 0) + (c > 0) + (pair && r > 0);
    s->sequences = pair ? 2 : 1;
    s->path = t->prompt + dpo__max64(c, r);
}
/* Largest item, and whether all fit the objective. */
static dpo_result dpo__data_shape(const dpo_data *d, int objective, dpo__shape *most) {
    int64_t i;
    memset(most, 0, sizeof *most);
    for (i = 0; i < d->n; i++) {
        dpo__shape s;
        if (dpo__is_pair(objective) && d->items[i].rejected < 1)
            return dpo__fail(d->c, DPO_E_SHAPE,
                             "data: item %ld has no rejected answer; preference training "
                             "needs pairs (use SFT, or give pairs)",
                             (long)i);
        dpo__item_shape(&d->items[i], objective, &s);
        most->rows = dpo__max64(most->rows, s.rows);
        most->targets = dpo__max64(most->targets, s.targets);
        most->path = dpo__max64(most->path, s.path);
    }
    return DPO_OK;
}

typedef struct dpo__builder {
    dpo__shape cap, used;
    int32_t *tokens;
    dpo_segment *segments;
    dpo_target *targets;
} dpo__builder;

static void dpo__builder_layout(dpo__arena *a, const dpo__shape *cap, dpo__builder *b) {
    b->cap = *cap;
    b->tokens = DPO__CARVE(a, int32_t, cap->rows);
    b->segments = DPO__CARVE(a, dpo_segment, cap->segments);
    b->targets = DPO__CARVE(a, dpo_target, cap->targets);
}
static void dpo__builder_reset(dpo__builder *b) { memset(&b->used, 0, sizeof b->used); }
static void dpo__builder_target(dpo__builder *b, int64_t row, int32_t token, int64_t sequence) {
    dpo_target *t = &b->targets[b->used.targets++];
    t->row = (int32_t)row;
    t->token = token;
    t->sequence = (int32_t)sequence;
}
/* A segment of ids; returns its index, or `parent` if it is empty. */
static int32_t dpo__builder_segment(dpo__builder *b, int32_t parent, const int32_t *ids, int64_t n) {
    dpo_segment *s = &b->segments[b->used.segments];
    if (n < 1) return parent;
    s->parent = parent;
    s->first = (int32_t)b->used.rows;
    s->length = (int32_t)n;
    s->past = 0;
    memcpy(b->tokens + b->used.rows, ids, (size_t)n * sizeof *ids);
    b->used.rows += n;
    return (int32_t)b->used.segments++;
}
/* Prompt and answer as one segment, a target for every row; those that nobody asks for have the token -1. */
static void dpo__builder_naive(dpo__builder *b, const int32_t *prompt, int64_t n, const int32_t *answer, int64_t count,
                               int64_t sequence) {
    dpo_segment *s = &b->segments[b->used.segments++];
    int64_t i, rows = n + count - 1;
    s->parent = -1;
    s->first = (int32_t)b->used.rows;
    s->length = (int32_t)rows;
    s->past = 0;
    for (i = 0; i < rows; i++) {
        b->tokens[b->used.rows] = i < n ? prompt[i] : answer[i - n];
        dpo__builder_target(b, b->used.rows++, i + 1 < n ? -1 : answer[i + 1 - n], sequence);
    }
}
/* Adds an item if it fits; an empty builder takes any item the caps were made for. */
static int dpo__builder_add(dpo__builder *b, const dpo_data *d, int64_t item, int objective) {
    const dpo__item *t = &d->items[item];
    const int32_t *prompt = d->ids + t->first, *answer[2] = {prompt + t->prompt, prompt + t->prompt + t->chosen};
    int64_t count[2] = {t->chosen, t->rejected}, k, i, row, sequence = b->used.sequences;
    int32_t root;
    dpo__shape s;
    int answers = dpo__is_pair(objective) ? 2 : 1;
    dpo__item_shape(t, objective, &s);
    if (b->used.rows + s.rows > b->cap.rows || b->used.targets + s.targets > b->cap.targets ||
        b->used.segments + s.segments > b->cap.segments || b->used.sequences + s.sequences > b->cap.sequences)
        return 0;
    if (objective & DPO__NAIVE) {
        for (k = 0; k < answers; k++) dpo__builder_naive(b, prompt, t->prompt, answer[k], count[k], sequence + k);
        b->used.sequences += answers;
        return 1;
    }
    root = dpo__builder_segment(b, -1, prompt, t->prompt);
    if (t->prompt)
        for (k = 0; k < answers; k++) dpo__builder_target(b, b->used.rows - 1, answer[k][0], sequence + k);
    for (k = 0; k < answers; k++) {
        row = b->used.rows;
        dpo__builder_segment(b, root, answer[k], count[k] - 1);
        for (i = 1; i < count[k]; i++) dpo__builder_target(b, row + i - 1, answer[k][i], sequence + k);
    }
    b->used.sequences += answers;
    return 1;
}
static dpo_batch dpo__builder_batch(const dpo__builder *b) {
    dpo_batch o;
    o.tokens = b->tokens;
    o.n_rows = b->used.rows;
    o.segments = b->segments;
    o.n_segments = b->used.segments;
    o.targets = b->targets;
    o.n_targets = b->used.targets;
    o.n_sequences = b->used.sequences;
    return o;
}
/* Capacity for micro-batches of about `rows` rows whose largest item is `most`. */
static dpo__shape dpo__micro_shape(const dpo__shape *most, int64_t rows, int64_t items, int objective) {
    dpo__shape s;
    memset(&s, 0, sizeof s);
    s.rows = dpo__max64(most->rows, rows);
    s.sequences = dpo__min64(items, s.rows) * (dpo__is_pair(objective) ? 2 : 1);
    s.segments = dpo__min64(items, s.rows) * (dpo__is_pair(objective) ? 3 : 2);
    s.targets = s.rows + dpo__min64(items, s.rows);
    s.path = most->path;
    return s;
}

/* Ids of a data set against a model's vocabulary: once per data set, not once per batch. */
static dpo_result dpo__data_fits(const dpo_data *d, const dpo_model *m, int objective, dpo__shape *most) {
    int64_t i;
    dpo_result r;
    if (!d->n) return dpo__fail(d->c, DPO_E_ARG, "data: there are no examples");
    for (i = 0; i < d->n_ids; i++)
        if (d->ids[i] < 0 || d->ids[i] >= m->config.vocab_size)
            return dpo__fail(d->c, DPO_E_SHAPE,
                             "data: token id %ld is outside the model's vocabulary of %d; "
                             "was the text tokenized for another model?",
                             (long)d->ids[i], m->config.vocab_size);
    r = dpo__data_shape(d, objective, most);
    return r ? r : dpo__model_path(m, most->path);
}

/* ===========================================================================================
   >>GENERATE - prompts continued, keys and values kept
   =========================================================================================== */

DPO_API dpo_generate_config dpo_generate_defaults(void) {
    dpo_generate_config g;
    memset(&g, 0, sizeof g);
    g.max_new_tokens = 128;
    g.num_return_sequences = 1;
    g.repetition_penalty = 1.0;
    g.temperature = 1.0;
    g.top_p = 1.0;
    g.eos = -1;
    return g;
}

/* --- one id drawn from a row of logits ---------------------------------------------------------------
   The filters are those of Hugging Face's generate, in its order: repetition penalty, temperature, top_k, top_p, min_p.
   An id that a filter drops gets the weight 0, so that the draw, which adds weights in id order, does not care which
   filters ran. "Likely" is by logit, of equals the lowest id first; sums for top_p go in that order. */

typedef struct dpo__sampler { /* one per worker */
    double *weights;          /* [V] */
    uint64_t *keys;           /* [V] a heap of ids */
    uint8_t *seen;            /* [V] zero between draws */
} dpo__sampler;

/* What is larger comes first: the logit's bits in an order of integers, then the lower id. + 0.0f: -0 is 0. */
DPO__INLINE uint64_t dpo__sample_key(float z, int64_t id) {
    uint32_t u = dpo__num_bits(z + 0.0f);
    u = u >> 31 ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t) ~(uint32_t)id;
}
DPO__INLINE int64_t dpo__sample_id(uint64_t key) { return (int64_t)(uint32_t) ~(uint32_t)key; }

static void dpo__sample_sink(uint64_t *heap, int64_t n, int64_t i) {
    uint64_t x = heap[i];
    int64_t k;
    for (; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && heap[k + 1] > heap[k]) k++;
        if (heap[k] <= x) break;
        heap[i] = heap[k];
    }
    heap[i] = x;
}
static void dpo__sample_heap(uint64_t *heap, int64_t n) {
    int64_t i;
    for (i = n / 2 - 1; i >= 0; i--) dpo__sample_sink(heap, n, i);
}
/* The likeliest id leaves the heap. */
static int64_t dpo__sample_pop(uint64_t *heap, int64_t *n) {
    int64_t id = dpo__sample_id(heap[0]);
    heap[0] = heap[--*n];
    dpo__sample_sink(heap, *n, 0);
    return id;
}

/* Logits of the ids that were there already, each once: z / p above 0, z p below. */
static void dpo__sample_penalty(const dpo__sampler *s, float *z, double p, const int32_t *ids, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++) {
        double x = (double)z[ids[i]];
        if (s->seen[ids[i]]) continue;
        s->seen[ids[i]] = 1;
        x = x > 0.0 ? x / p : x * p;
        z[ids[i]] = (float)(x > (double)FLT_MAX ? (double)FLT_MAX : x < -(double)FLT_MAX ? -(double)FLT_MAX : x);
    }
}
static void dpo__sample_forget(const dpo__sampler *s, const int32_t *ids, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++) s->seen[ids[i]] = 0;
}
/* Weights e^((z - top) / temperature), of the top_k likeliest only if that is asked. */
static void dpo__sample_weights(const dpo__sampler *s, const dpo_generate_config *g, const float *z, int64_t vocab,
                                double top) {
    int64_t i, n = vocab, id;
    if (!g->top_k || g->top_k >= vocab) {
        for (i = 0; i < vocab; i++) s->weights[i] = dpo__num_exp(((double)z[i] - top) / g->temperature);
        return;
    }
    for (i = 0; i < vocab; i++) {
        s->weights[i] = 0.0;
        s->keys[i] = dpo__sample_key(z[i], i);
    }
    dpo__sample_heap(s->keys, n);
    for (i = 0; i < g->top_k; i++) {
        id = dpo__sample_pop(s->keys, &n);
        s->weights[id] = dpo__num_exp(((double)z[id] - top) / g->temperature);
    }
}
/* Drops all but the likeliest ids whose weights together reach p of the whole. All weights below (1 - p) / V of the
   whole together do not reach 1 - p of it: they are out without being sorted, and half of that leaves room for
   rounding. */
static void dpo__sample_top_p(const dpo__sampler *s, const float *z, int64_t vocab, double p) {
    double total = 0.0, sum = 0.0, mass, cut;
    int64_t i, n = 0;
    for (i = 0; i < vocab; i++) total = total + s->weights[i];
    mass = p * total;
    cut = 0.5 * (1.0 - p) * total / (double)vocab;
    for (i = 0; i < vocab; i++) {
        if (s->weights[i] > cut) s->keys[n++] = dpo__sample_key(z[i], i);
        else s->weights[i] = 0.0;
    }
    dpo__sample_heap(s->keys, n);
    do sum = sum + s->weights[dpo__sample_pop(s->keys, &n)];
    while (n && sum < mass);
    while (n) s->weights[dpo__sample_id(s->keys[--n])] = 0.0;
}
/* Id drawn from logits at u in (0, 1): the greedy one, or the cumulative sum of weights in id order inverted. */
static int32_t dpo__sample(const dpo__sampler *s, const dpo_generate_config *g, const float *z, int64_t vocab,
                           double u) {
    int64_t i, best = 0;
    double top, sum = 0.0, at = 0.0;
    for (i = 1; i < vocab; i++)
        if (z[i] > z[best]) best = i;
    if (g->temperature <= 0) return (int32_t)best;
    top = (double)z[best];
    dpo__sample_weights(s, g, z, vocab, top);
    if (g->top_p < 1.0) dpo__sample_top_p(s, z, vocab, g->top_p);
    for (i = 0; g->min_p > 0.0 && i < vocab; i++)
        if (s->weights[i] < g->min_p) s->weights[i] = 0.0; /* the likeliest has 1 */
    for (i = 0; i < vocab; i++) sum = sum + s->weights[i];
    u = u * sum;
    for (i = 0; i < vocab; i++) {
        at = at + s->weights[i];
        if (at > u) return (int32_t)i;
    }
    return (int32_t)best;
}

/* --- sequences on their way ------------------------------------------------------------------------
   A prompt without its last id is a trunk, computed and cached once; each of its samples is a child that begins with
   the prompt's last id and grows by one row a step. Sequences are admitted in order as room allows: a step's batch is
   every active one's newest row, under its trunk, which is cached or computed in this very step. */

typedef struct dpo__trunk {
    int64_t prompt, users; /* prompt -1: free */
    int cached;
} dpo__trunk;

typedef struct dpo__answer {
    int64_t sequence, trunk, slot; /* row of the output; places in the cache */
    int64_t length;                /* rows of its own in the cache */
    int32_t last, drawn;           /* id to be fed next; id of this step, -1: the logits are not finite */
    dpo_decoder decoder;
    char *tail; /* the end of its text, shorter than the longest stop string */
    size_t n_tail;
} dpo__answer;

typedef struct dpo__generation {
    dpo__run *r;
    const dpo_generate_config *g;
    const int32_t *const *prompts;
    const int64_t *n_prompt;
    int32_t *out;
    int64_t *n_out;
    dpo__fpenv env; /* the caller's */
    int64_t total, next, batch, active, n_trunks;
    int64_t trunk_rows, own_rows, positions; /* cache rows of a trunk and of an answer; most positions of a sequence */
    size_t packed;                           /* bytes of the model's panels, made for this generation, or 0 */
    size_t tail, text_size;
    char *text;            /* a tail and what one id adds */
    dpo__answer *answer;   /* [batch] active ones first, in order; the others hold free slots */
    dpo__trunk *trunk;     /* [n_trunks] */
    int64_t *cache_first;  /* [batch + n_trunks] of the batch's segments */
    dpo__builder b;        /* a step's batch */
    char *tails;           /* [batch, tail] */
    uint8_t *seen;         /* [workers, V], only if repetitions are looked for */
    dpo__sampler *sampler; /* [workers] */
} dpo__generation;

/* Runs twice, to measure and to carve; *plan says for what, and its pointers are of no use before the second time. */
static void dpo__generation_carve(dpo__arena *a, dpo__generation *plan, const dpo__run *run) {
    dpo__generation *t = DPO__CARVE(a, dpo__generation, 1); /* the first one */
    const dpo_generate_config *g = plan->g;
    int64_t i, vocab = run->m->config.vocab_size, workers = run->c->pool.n;
    int64_t weights = g->temperature > 0 ? vocab : 0, keys = g->top_k || g->top_p < 1.0 ? weights : 0;
    if (t) *t = *plan;
    else t = plan;
    t->answer = DPO__CARVE(a, dpo__answer, t->batch);
    t->trunk = DPO__CARVE(a, dpo__trunk, t->n_trunks);
    t->cache_first = DPO__CARVE(a, int64_t, run->cap.segments);
    dpo__builder_layout(a, &run->cap, &t->b);
    t->text = DPO__CARVE(a, char, (int64_t)t->text_size);
    t->tails = DPO__CARVE(a, char, t->batch *(int64_t)t->tail);
    t->seen = DPO__CARVE(a, uint8_t, g->repetition_penalty != 1.0 ? workers * vocab : 0);
    t->sampler = DPO__CARVE(a, dpo__sampler, workers);
    for (i = 0; i < workers; i++) {
        dpo__sampler s = {DPO__CARVE(a, double, weights), DPO__CARVE(a, uint64_t, keys), NULL};
        if (a->base) t->sampler[i] = s;
    }
}

/* Room for the ends of texts in which stop strings are looked for. */
static void dpo__generation_text(dpo__generation *t, const dpo_generate_config *g) {
    size_t piece, most = 0;
    int64_t i;
    int special;
    if (!g->n_stop) return;
    for (i = 0; i < g->n_stop; i++) t->tail = strlen(g->stop[i]) > t->tail ? strlen(g->stop[i]) : t->tail;
    for (i = 0; i < dpo_tokenizer_vocab(g->tokenizer); i++)
        if (dpo_tokenizer_piece(g->tokenizer, (int32_t)i, &piece, &special) && piece > most) most = piece;
    t->tail--; /* a whole one ends its sequence */
    t->text_size = t->tail + most + sizeof(dpo_decoder);
}

#define DPO__GENERATE_ROWS  512
#define DPO__GENERATE_BATCH 32                 /* sequences at a time where none are asked for, */
#define DPO__GENERATE_CACHE ((int64_t)1 << 30) /* fewer if their cache would take more bytes */

#define DPO__GENERATE_PACKED ((size_t)2 << 30) /* bytes that a packed copy may take unasked, */
#define DPO__GENERATE_SHORT  32                /* steps that do not repay it */

/* n prompts of at most `longest` ids: batch, trunks and cache, which decide no bit. */
static void dpo__generation_plan(dpo_model *m, const dpo_generate_config *g, int64_t n, int64_t longest,
                                 dpo__generation *t, dpo__run *run) {
    const dpo_model_config *k = &m->config;
    int64_t samples = g->num_return_sequences, own, cache;
    int64_t bytes = 2 * (int64_t)sizeof(float) * k->num_hidden_layers * k->num_key_value_heads * k->head_dim;
    dpo__arena a = {NULL, 0};
    dpo__shape cap;
    memset(t, 0, sizeof *t);
    memset(&cap, 0, sizeof cap);
    t->g = g;
    t->total = n * samples;
    t->positions = k->position == DPO_POSITION_LEARNED ? k->max_position_embeddings : INT64_MAX;
    own = dpo__min64(g->max_new_tokens, t->positions);
    t->trunk_rows = (longest - 1 + DPO__CACHE_ROWS - 1) / DPO__CACHE_ROWS * DPO__CACHE_ROWS;
    t->own_rows = (own + DPO__CACHE_ROWS - 1) / DPO__CACHE_ROWS * DPO__CACHE_ROWS;
    cache = bytes * (t->trunk_rows / samples + t->own_rows); /* of a sequence */
    t->batch = g->batch ? g->batch : dpo__max64(1, dpo__min64(DPO__GENERATE_BATCH, DPO__GENERATE_CACHE / cache));
    t->batch = dpo__min64(dpo__min64(t->batch, t->total), INT32_MAX / 8);
    t->n_trunks = dpo__min64(dpo__min64(n, t->batch), (t->batch - 1) / samples + 2);
    dpo__generation_text(t, g);
    cache = t->n_trunks * t->trunk_rows + t->batch * t->own_rows;
    if (cache > INT64_MAX / bytes) cache = -1; /* no block is so large */
    cap.rows = dpo__max64(longest - 1 + t->batch, DPO__GENERATE_ROWS);
    cap.segments = t->batch + t->n_trunks;
    cap.targets = cap.sequences = t->batch;
    cap.path = dpo__min64(longest - 1 + own, t->positions);
    *run = dpo__run_plan(m, &cap, t->batch, cache);
    if (m->packed || g->pack < 0) return;
    dpo__model_panels(m, &a);
    if (g->pack || (!m->frozen && a.used <= DPO__GENERATE_PACKED &&
                    (t->total + t->batch - 1) / t->batch * own >= DPO__GENERATE_SHORT))
        t->packed = a.used;
}
/* Gives back what dpo__generation_open took. */
static void dpo__generation_close(dpo_context *c, dpo__generation *t) {
    if (t->packed) dpo_model_unpack(t->r->m);
    dpo__put(c, t->r);
    dpo__put(c, t);
}
static dpo__generation *dpo__generation_open(dpo_model *m, const dpo_generate_config *g, int64_t n, int64_t longest) {
    dpo__arena a = {NULL, 0};
    dpo__generation plan, *t;
    dpo__run run;
    int64_t i;
    dpo__generation_plan(m, g, n, longest, &plan, &run);
    dpo__generation_carve(&a, &plan, &run);
    if (!dpo__arena_get(m->c, &a, "generation")) return NULL;
    dpo__generation_carve(&a, &plan, &run);
    t = (dpo__generation *)(void *)a.base;
    memset(t->answer, 0, (size_t)t->batch * sizeof *t->answer);
    for (i = 0; i < t->batch; i++) {
        t->answer[i].slot = i;
        t->answer[i].tail = t->tails + i * (int64_t)t->tail;
    }
    memset(t->trunk, 0, (size_t)t->n_trunks * sizeof *t->trunk);
    for (i = 0; i < t->n_trunks; i++) t->trunk[i].prompt = -1;
    for (i = 0; i < m->c->pool.n && g->repetition_penalty != 1.0; i++) {
        t->sampler[i].seen = t->seen + i * m->config.vocab_size;
        memset(t->sampler[i].seen, 0, (size_t)m->config.vocab_size);
    }
    t->r = dpo__run_open(run);
    if (t->r && t->packed && dpo_model_pack(m)) {
        t->packed = 0;
        if (g->pack) {
            dpo__put(m->c, t->r);
            t->r = NULL;
        } else dpo_clear(m->c); /* it goes without */
    }
    if (!t->r) {
        dpo__put(m->c, t);
        return NULL;
    }
    t->r->cache_first = t->cache_first;
    return t;
}

/* The trunk of a prompt, or a free one, or -1. A prompt whose samples were not all admitted keeps its trunk. */
static int64_t dpo__generation_trunk(const dpo__generation *t, int64_t prompt) {
    int64_t i, found = -1;
    for (i = 0; i < t->n_trunks; i++) {
        if (t->trunk[i].prompt == prompt) return i;
        if (!t->trunk[i].users) found = i; /* prompts come in order: what has no users now will have none */
    }
    return found;
}
static void dpo__generation_admit(dpo__generation *t) {
    int64_t rows = t->active;
    while (t->active < t->batch && t->next < t->total) {
        int64_t p = t->next / t->g->num_return_sequences, k = dpo__generation_trunk(t, p);
        dpo__answer *a = &t->answer[t->active];
        if (k < 0) return;
        rows += t->trunk[k].prompt == p ? 1 : t->n_prompt[p];
        if (rows > t->r->cap.rows) return;
        if (t->trunk[k].prompt != p) {
            t->trunk[k].prompt = p;
            t->trunk[k].cached = 0;
        }
        t->trunk[k].users++;
        a->sequence = t->next++;
        a->trunk = k;
        a->length = 0;
        a->n_tail = 0;
        a->last = t->prompts[p][t->n_prompt[p] - 1];
        memset(&a->decoder, 0, sizeof a->decoder);
        t->active++;
    }
}

/* Unlike a builder's own ones, a segment may have a past and no rows. */
static int32_t dpo__generation_segment(dpo__generation *t, int32_t parent, const int32_t *ids, int64_t length,
                                       int64_t past, int64_t cache_first) {
    dpo__shape *used = &t->b.used;
    dpo_segment *s = &t->b.segments[used->segments];
    s->parent = parent;
    s->first = (int32_t)used->rows;
    s->length = (int32_t)length;
    s->past = (int32_t)past;
    memcpy(t->b.tokens + used->rows, ids, (size_t)length * sizeof *ids);
    used->rows += length;
    t->cache_first[used->segments] = cache_first;
    return (int32_t)used->segments++;
}
/* The newest row of every active sequence as a batch. */
static dpo_batch dpo__generation_batch(dpo__generation *t) {
    int64_t i, k, n, prompt = -1;
    int32_t parent = -1;
    dpo__builder_reset(&t->b);
    for (i = 0; i < t->active; i++) {
        dpo__answer *a = &t->answer[i];
        dpo__trunk *trunk = &t->trunk[a->trunk];
        if (trunk->prompt != prompt) {
            prompt = trunk->prompt;
            n = t->n_prompt[prompt] - 1;
            k = trunk->cached ? 0 : n;
            parent = -1;
            if (n) parent = dpo__generation_segment(t, -1, t->prompts[prompt], k, n - k, a->trunk * t->trunk_rows);
            trunk->cached = 1;
        }
        dpo__builder_target(&t->b, t->b.used.rows, 0, i);
        dpo__generation_segment(t, parent, &a->last, 1, a->length++,
                                t->n_trunks * t->trunk_rows + a->slot * t->own_rows);
    }
    t->b.used.sequences = t->active;
    return dpo__builder_batch(&t->b);
}

static void dpo__generation_draw(void *arg, int64_t first, int64_t last, int worker) {
    dpo__generation *t = (dpo__generation *)arg;
    const dpo_generate_config *g = t->g;
    const dpo__sampler *s = &t->sampler[worker];
    const dpo__kernels *kernels = &t->r->c->kernels;
    float scale = (float)t->r->m->config.output_scale;
    int64_t i, vocab = t->r->m->config.vocab_size;
    for (i = first; i < last; i++) {
        dpo__answer *a = &t->answer[i];
        int64_t prompt = t->trunk[a->trunk].prompt, made = t->n_out[a->sequence], n = t->n_prompt[prompt];
        const int32_t *ids = t->out + a->sequence * g->max_new_tokens;
        float *z = t->r->logits + i * vocab;
        uint64_t stream;
        a->drawn = -1;
        if (scale != 1.0f) kernels->scale(vocab, z, z, scale);
        if (!(kernels->squares(vocab, z) < (double)INFINITY)) continue;
        if (g->repetition_penalty != 1.0) {
            dpo__sample_penalty(s, z, g->repetition_penalty, t->prompts[prompt], n);
            dpo__sample_penalty(s, z, g->repetition_penalty, ids, made);
            dpo__sample_forget(s, t->prompts[prompt], n);
            dpo__sample_forget(s, ids, made);
        }
        stream = g->streams ? g->streams[a->sequence] : (uint64_t)a->sequence;
        a->drawn = dpo__sample(s, g, z, vocab, dpo__random_unit(g->seed, stream, (uint64_t)made));
    }
}
/* Feeds each active sequence's newest row and draws its next id. */
static dpo_result dpo__generation_step(dpo__generation *t) {
    dpo_batch b;
    dpo_result code;
    int64_t i;
    dpo__generation_admit(t);
    b = dpo__generation_batch(t);
    code = dpo__run_forward(t->r, &b);
    if (code) return code;
    (void)dpo__head_logits(t->r, 0, t->active);
    dpo__split_run(t->r->c, t->active, 1, dpo__generation_draw, t);
    for (i = 0; i < t->active; i++)
        if (t->answer[i].drawn < 0)
            return dpo__fail(t->r->c, DPO_E_NONFINITE,
                             "dpo_generate: the logits of prompt %ld are not finite; the model is damaged or its "
                             "training diverged",
                             (long)t->trunk[t->answer[i].trunk].prompt);
    return DPO_OK;
}

/* Where `what` begins in n bytes of text; n if it is not there. */
static size_t dpo__text_find(const char *text, size_t n, const char *what) {
    size_t i, k = strlen(what);
    for (i = 0; i + k <= n; i++)
        if (text[i] == what[0] && !memcmp(text + i, what, k)) return i;
    return n;
}
/* Whether the answer's text now holds a stop string. */
static int dpo__answer_stops(dpo__generation *t, dpo__answer *a, int32_t id) {
    const dpo_generate_config *g = t->g;
    size_t n = a->n_tail;
    int64_t i, more = dpo_decode_next(g->tokenizer, &a->decoder, id, t->text + n, t->text_size - n);
    if (more < 0) return 0; /* vocabularies are padded, and a model that knows little draws from there: no text */
    memcpy(t->text, a->tail, n);
    n += (size_t)dpo__min64(more, (int64_t)(t->text_size - n));
    for (i = 0; i < g->n_stop; i++)
        if (dpo__text_find(t->text, n, g->stop[i]) < n) return 1;
    a->n_tail = n < t->tail ? n : t->tail;
    memcpy(a->tail, t->text + n - a->n_tail, a->n_tail);
    return 0;
}
/* The sequence takes its id. DPO_FINISH_*, or -1 if it goes on. */
static int dpo__answer_take(dpo__generation *t, dpo__answer *a) {
    const dpo_generate_config *g = t->g;
    int64_t i, *made = &t->n_out[a->sequence], n = t->n_prompt[t->trunk[a->trunk].prompt];
    int32_t id = a->drawn;
    int stop = 0;
    if (id == g->eos) return DPO_FINISH_EOS;
    for (i = 0; i < g->n_stop_ids; i++)
        if (id == g->stop_ids[i]) return DPO_FINISH_STOP;
    t->out[a->sequence * g->max_new_tokens + *made] = id;
    ++*made;
    a->last = id;
    if (g->on_token) {
        dpo__fp_leave(t->env);
        stop = g->on_token(g->user, a->sequence, id) != 0;
        (void)dpo__fp_enter();
    }
    if (stop || (g->n_stop && dpo__answer_stops(t, a, id))) return DPO_FINISH_STOP;
    return *made >= g->max_new_tokens || n - 1 + a->length >= t->positions ? DPO_FINISH_LENGTH : -1;
}
/* All take their ids; finished ones leave, the others close ranks. */
static void dpo__generation_take(dpo__generation *t) {
    int64_t i, k = 0;
    for (i = 0; i < t->active; i++) {
        dpo__answer a = t->answer[i];
        int finish = dpo__answer_take(t, &a);
        if (finish >= 0) {
            if (t->g->finish) t->g->finish[a.sequence] = finish;
            t->trunk[a.trunk].users--;
            t->answer[i] = a;
            continue;
        }
        t->answer[i] = t->answer[k]; /* a finished one, whose slot is free, or this one */
        t->answer[k++] = a;
    }
    t->active = k;
}

/* --- what is asked for ------------------------------------------------------------------------------ */

/* A number of a description struct and its range, without the lowest (open 1), the highest (2) or both (3). */
typedef struct dpo__option {
    const char *name;
    double got, low, high;
    int open;
} dpo__option;
static dpo_result dpo__options_check(dpo_context *c, const char *who, const dpo__option *o, size_t n) {
    size_t i;
    for (i = 0; i < n; i++, o++)
        if (!(o->got >= o->low && o->got <= o->high) || ((o->open & 1) && o->got == o->low) ||
            ((o->open & 2) && o->got == o->high))
            return dpo__fail(c, DPO_E_ARG, "%s: %s is %.10g; expected a number %s %.10g %s %.10g", who, o->name, o->got,
                             o->open & 1 ? "above" : "from", o->low, o->open & 2 ? "to below" : "to", o->high);
    return DPO_OK;
}
#define DPO__MOST_IDS (INT32_MAX / 2)

static dpo_result dpo__generate_options(dpo_context *c, const dpo_generate_config *g) {
    const double any = (double)INT64_MAX;
    const dpo__option options[] = {{"max_new_tokens", (double)g->max_new_tokens, 1, DPO__MOST_IDS, 0},
                                   {"num_return_sequences", (double)g->num_return_sequences, 1, DPO__MOST_IDS, 0},
                                   {"repetition_penalty", g->repetition_penalty, 0, 1e6, 1},
                                   {"temperature", g->temperature, 0, 1e6, 0},
                                   {"top_k (0 is off)", (double)g->top_k, 0, any, 0},
                                   {"top_p (1 is off)", g->top_p, 0, 1, 1},
                                   {"min_p (0 is off)", g->min_p, 0, 1, 2},
                                   {"batch (0 is planned)", (double)g->batch, 0, any, 0},
                                   {"pack (1 always, 0 planned, -1 never)", (double)g->pack, -1, 1, 0},
                                   {"n_stop_ids", (double)g->n_stop_ids, 0, any, 0},
                                   {"n_stop", (double)g->n_stop, 0, any, 0}};
    int64_t i;
    if (dpo__options_check(c, "dpo_generate", options, sizeof options / sizeof options[0])) return DPO_E_ARG;
    if (g->n_stop_ids && !g->stop_ids)
        return dpo__fail(c, DPO_E_ARG, "dpo_generate: stop_ids is NULL; expected %ld ids", (long)g->n_stop_ids);
    if (g->n_stop && !g->stop)
        return dpo__fail(c, DPO_E_ARG, "dpo_generate: stop is NULL; expected %ld strings", (long)g->n_stop);
    if (g->n_stop && !g->tokenizer)
        return dpo__fail(c, DPO_E_ARG,
                         "dpo_generate: %ld stop strings, but tokenizer is NULL; expected the one that decodes them",
                         (long)g->n_stop);
    for (i = 0; i < g->n_stop; i++)
        if (!g->stop[i] || !g->stop[i][0])
            return dpo__fail(c, DPO_E_ARG, "dpo_generate: stop string %ld is %s; expected at least one byte", (long)i,
                             g->stop[i] ? "empty" : "NULL");
    return DPO_OK;
}
static dpo_result dpo__generate_check(const dpo_model *m, const int32_t *const *prompts, const int64_t *n_prompt,
                                      int64_t n, const dpo_generate_config *g, const int32_t *out, const int64_t *n_out,
                                      int64_t *longest) {
    dpo_context *c = m->c;
    int64_t i, k;
    size_t size;
    dpo_result code = dpo__generate_options(c, g);
    if (code) return code;
    if (n < 0 || (n && (!prompts || !n_prompt || !out || !n_out)))
        return dpo__fail(c, DPO_E_ARG,
                         "dpo_generate: %ld prompts, or a pointer is NULL; expected prompts, their lengths, and room "
                         "for the answers",
                         (long)n);
    if (dpo__mul_size((size_t)n, (size_t)g->num_return_sequences, &size) ||
        dpo__mul_size(size, (size_t)g->max_new_tokens, &size) || size > (size_t)PTRDIFF_MAX / sizeof *out)
        return dpo__fail(c, DPO_E_ARG, "dpo_generate: %ld prompts of %ld samples of %ld ids fit into no memory",
                         (long)n, (long)g->num_return_sequences, (long)g->max_new_tokens);
    *longest = 1;
    for (i = 0; i < n; i++) {
        if (n_prompt[i] < 1 || n_prompt[i] > DPO__MOST_IDS)
            return dpo__fail(c, DPO_E_ARG, "dpo_generate: prompt %ld has %ld ids; expected 1 to 2^30 - 1", (long)i,
                             (long)n_prompt[i]);
        if (!prompts[i]) return dpo__fail(c, DPO_E_ARG, "dpo_generate: prompt %ld is NULL", (long)i);
        for (k = 0; k < n_prompt[i]; k++)
            if (prompts[i][k] < 0 || prompts[i][k] >= m->config.vocab_size)
                return dpo__fail(c, DPO_E_SHAPE,
                                 "dpo_generate: prompt %ld holds id %ld, outside the model's "
                                 "vocabulary of %d",
                                 (long)i, (long)prompts[i][k], m->config.vocab_size);
        *longest = dpo__max64(*longest, n_prompt[i]);
    }
    return dpo__model_path(m, *longest);
}
DPO_API dpo_result dpo_generate(dpo_model *m, const int32_t *const *prompts, const int64_t *n_prompt, int64_t n,
                                const dpo_generate_config *g, int32_t *out, int64_t *n_out) {
    dpo_generate_config k;
    dpo__generation *t;
    int64_t longest = 0, i;
    dpo_result code;
    DPO__READY(m, m->c);
    k = g ? *g : dpo_generate_defaults();
    code = dpo__generate_check(m, prompts, n_prompt, n, &k, out, n_out, &longest);
    if (code || !n) return code;
    t = dpo__generation_open(m, &k, n, longest);
    if (!t) return m->c->error.code;
    t->prompts = prompts;
    t->n_prompt = n_prompt;
    t->out = out;
    t->n_out = n_out;
    t->env = dpo__fp_enter();
    for (i = 0; i < t->total; i++) {
        n_out[i] = 0;
        if (k.finish) k.finish[i] = DPO_FINISH_LENGTH;
    }
    while (!code && (t->active || t->next < t->total)) {
        if (dpo__cancelled(m->c, t->env)) code = dpo__fail(m->c, DPO_E_CANCELLED, "generation was cancelled");
        if (!code) code = dpo__generation_step(t);
        if (!code) dpo__generation_take(t);
    }
    dpo__fp_leave(t->env);
    dpo__generation_close(m->c, t);
    return code;
}
DPO_API dpo_result dpo_plan_generate(dpo_model *m, int64_t n, int64_t longest, const dpo_generate_config *g,
                                     dpo_generation_plan *out) {
    dpo_generate_config k;
    dpo__generation t;
    dpo__run run;
    dpo__arena a = {NULL, 0};
    DPO__READY(m, m->c);
    k = g ? *g : dpo_generate_defaults();
    if (dpo__generate_options(m->c, &k)) return m->c->error.code;
    if (n < 1 || n > DPO__MOST_IDS || longest < 1 || longest > DPO__MOST_IDS || !out)
        return dpo__fail(m->c, DPO_E_ARG,
                         "dpo_plan_generate: %ld prompts of up to %ld ids, out %s; expected 1 to 2^30 - 1 of each, and "
                         "room for the answer",
                         (long)n, (long)longest, out ? "given" : "NULL");
    if (dpo__model_path(m, longest)) return m->c->error.code;
    dpo__generation_plan(m, &k, n, longest, &t, &run);
    dpo__generation_carve(&a, &t, &run);
    dpo__run_carve(&a, &run);
    if (a.used > SIZE_MAX / 4 || t.packed > SIZE_MAX / 4)
        return dpo__fail(m->c, DPO_E_MEMORY, "dpo_plan_generate: %ld prompts of up to %ld ids fit into no memory",
                         (long)n, (long)longest);
    out->batch = t.batch;
    out->packed = t.packed;
    out->cache = 2 * (uint64_t)dpo__run_cached(&run) * sizeof(float);
    out->workspace = a.used - out->cache;
    out->total = a.used + out->packed;
    return DPO_OK;
}

/* Bytes of text before the first stop string, and at most `most`, where no character is cut. */
static size_t dpo__text_cut(const char *text, size_t n, const dpo_generate_config *g, size_t most) {
    int64_t s;
    size_t i;
    for (s = 0; s < g->n_stop; s++) n = dpo__text_find(text, n, g->stop[s]);
    if (n <= most) return n;
    for (i = most; i > 0 && most - i < 3 && ((unsigned char)text[i] & 0xc0) == 0x80; i--) {
    }
    return ((unsigned char)text[i] & 0xc0) == 0xc0 ? i : most; /* what is not UTF-8 is cut anywhere */
}
/* The prompt's ids with room for the answer's behind them, or NULL. */
static int32_t *dpo__generate_prompt(dpo_context *c, const dpo_tokenizer *t, const char *prompt, int64_t more,
                                     int64_t *n) {
    dpo_text part;
    unsigned flags = dpo_tokenizer_adds_bos(t) ? DPO_ENCODE_ADD_BOS : 0;
    int32_t *ids;
    memset(&part, 0, sizeof part);
    part.text = prompt;
    part.bytes = strlen(prompt);
    *n = dpo_encode_parts(t, &part, 1, flags, NULL, 0);
    if (*n < 1) {
        dpo__fail(c, *n < 0 ? (dpo_result)*n : DPO_E_ARG,
                  *n < 0 ? "dpo_generate_text: the prompt of %lu bytes could not be encoded"
                         : "dpo_generate_text: the prompt has %lu bytes; expected at least one, since this tokenizer "
                           "begins no text with an id of its own",
                  (unsigned long)part.bytes);
        return NULL;
    }
    ids = (int32_t *)dpo__get(c, (size_t)(*n + more) * sizeof *ids, "a prompt");
    if (ids) dpo_encode_parts(t, &part, 1, flags, ids, *n);
    return ids;
}
DPO_API dpo_result dpo_generate_text(dpo_model *m, const dpo_tokenizer *t, const char *prompt,
                                     const dpo_generate_config *g, char *out, size_t cap) {
    dpo_generate_config k;
    int64_t n, n_out = 0, before = 0, bytes = 0;
    int32_t *ids;
    const int32_t *start;
    char *text = NULL;
    dpo_result code;
    DPO__READY(m && t, m->c);
    k = g ? *g : dpo_generate_defaults();
    if (k.eos < 0) k.eos = dpo_tokenizer_eos(t);
    if (!k.tokenizer) k.tokenizer = t;
    if (!prompt || !out || !cap || k.num_return_sequences != 1)
        return dpo__fail(m->c, DPO_E_ARG,
                         "dpo_generate_text: prompt %s, room for %lu bytes, num_return_sequences %ld; expected a "
                         "text, room for at least its final zero, and 1",
                         prompt ? "given" : "NULL", (unsigned long)(out ? cap : 0), (long)k.num_return_sequences);
    out[0] = 0;
    if (dpo__generate_options(m->c, &k)) return m->c->error.code;
    ids = dpo__generate_prompt(m->c, t, prompt, k.max_new_tokens, &n);
    if (!ids) return m->c->error.code;
    start = ids;
    code = dpo_generate(m, &start, &n, 1, &k, ids + n, &n_out);
    if (!code) before = dpo_decode(t, ids + n - 1, 1, NULL, 0); /* behind a prompt a first space is the answer's */
    if (!code && (bytes = dpo_decode(t, ids + n - 1, n_out + 1, NULL, 0)) < 0)
        code = dpo__fail(m->c, DPO_E_SHAPE,
                         "dpo_generate_text: the model drew an id that this tokenizer, with %d ids, has not; they do "
                         "not belong together",
                         dpo_tokenizer_vocab(t));
    if (!code && !(text = (char *)dpo__get(m->c, (size_t)bytes + 1, "an answer"))) code = DPO_E_MEMORY;
    if (!code) {
        dpo_decode(t, ids + n - 1, n_out + 1, text, (size_t)bytes);
        bytes = (int64_t)dpo__text_cut(text + before, (size_t)(bytes - before), &k, cap - 1);
        memcpy(out, text + before, (size_t)bytes);
        out[bytes] = 0;
    }
    dpo__put(m->c, text);
    dpo__put(m->c, ids);
    return code;
}

/* ===========================================================================================
   >>TRAINER - gradients, updates, the way through the data
   =========================================================================================== */

DPO_API dpo_train_config dpo_train_defaults(int objective) {
    dpo_train_config t;
    memset(&t, 0, sizeof t);
    t.objective = objective;
    t.sft_reduction = DPO_TOKEN_MEAN;
    t.loss_options = dpo_loss_defaults();
    t.num_train_epochs = 1;
    t.batch_size = 64;
    t.optimizer_dtype = DPO_F32;
    t.optimizer = DPO_RMSPROP; /* the DPO reference code's optimizer, warm-up and clipping */
    t.schedule = DPO_CONSTANT;
    t.learning_rate = 5e-7;
    t.warmup_steps = 150;
    t.adam_beta1 = 0.9;
    t.adam_beta2 = 0.999;
    t.adam_epsilon = 1e-8;
    t.rmsprop_alpha = 0.99;
    t.max_grad_norm = 10.0;
    t.shuffle = 1;
    t.eval_size = 256;
    return t;
}

struct dpo_trainer {
    dpo_context *c;
    dpo_model *m;
    dpo_data *data;
    dpo_train_config k;
    dpo__run run;
    dpo__builder builder;
    dpo__grads grads;
    dpo__shape cap;
    int64_t n_trained; /* tensors that move */
    dpo__param **trained;
    float **grad;
    void **m1, **m2;                 /* of k.optimizer_dtype */
    int64_t embed_slots, used_slots; /* a tied matrix's use as embedding */
    int32_t *slots, *slot_of, *slot_token;
    float *embed_grad;
    double *partial, *logps, *weights;
    int64_t *order, *items;
    int64_t step, steps, examples, tokens, order_epoch;
    int64_t n_items;          /* of the data when this trainer was made for them */
    uint64_t hash, data_hash; /* of the weights below adapters, of the data, once they were asked for */
    int half_loaded;          /* a checkpoint's file failed in the middle: weights and state are of two runs */
    const dpo__lora *lora;
    /* the step at hand, for the weigh callback */
    int64_t micro_first, batch_items, batch_targets;
    const int64_t *batch;
    dpo_metrics sum;
    double loss_sum;
    dpo__fpenv env;
};

/* --- layout: what the plan counts and creation carves ----------------------------------------------- */

static void dpo__trainer_layout_state(dpo__arena *a, const dpo_model *m, const dpo_train_config *k, dpo_trainer *t,
                                      dpo_plan *out) {
    const dpo__param *p = m->lora ? m->lora->params : m->params;
    int64_t i, n = m->lora ? m->lora->n_params : m->n_params, blocks = 1;
    int tied = m->config.tie_word_embeddings && !m->lora;
    size_t before, state = k->optimizer_dtype == DPO_BF16 ? 2 : 4;
    t->n_trained = n;
    t->trained = DPO__CARVE(a, dpo__param *, n);
    t->grad = DPO__CARVE(a, float *, n);
    t->m1 = DPO__CARVE(a, void *, n);
    t->m2 = DPO__CARVE(a, void *, n);
    t->grads.params = DPO__CARVE(a, float *, m->n_params);
    t->grads.lora = DPO__CARVE(a, float *, m->lora ? n : 0);
    before = a->used;
    for (i = 0; i < n; i++) {
        float *g = DPO__CARVE(a, float, p[i].count);
        blocks = dpo__max64(blocks, dpo__norm_blocks(p[i].count));
        if (t->grad) t->grad[i] = g;
    }
    t->embed_grad = DPO__CARVE(a, float, tied ? t->embed_slots * m->config.hidden_size : 0);
    t->slot_token = DPO__CARVE(a, int32_t, tied ? t->embed_slots : 0);
    t->slot_of = DPO__CARVE(a, int32_t, tied ? m->config.vocab_size : 0);
    t->slots = DPO__CARVE(a, int32_t, tied ? t->cap.rows : 0);
    out->gradients = a->used - before;
    before = a->used;
    for (i = 0; i < n; i++) {
        void *s = dpo__arena_carve(a, k->optimizer == DPO_ADAMW ? p[i].count : 0, state);
        void *v = dpo__arena_carve(a, p[i].count, state);
        if (!t->m1) continue;
        t->m1[i] = k->optimizer == DPO_ADAMW ? s : NULL; /* RMSprop has no such thing */
        t->m2[i] = v;
    }
    out->optimizer = a->used - before;
    t->partial = DPO__CARVE(a, double, blocks);
}
/* out: sizes of the parts. */
static void dpo__trainer_layout(dpo__arena *a, const dpo_model *m, const dpo_data *d, const dpo_train_config *k,
                                const dpo_trainer *plan, dpo_plan *out) {
    dpo_trainer probe, *t = DPO__CARVE(a, dpo_trainer, 1); /* the first one */
    size_t before;
    if (!t) t = &probe;
    *t = *plan;
    dpo__trainer_layout_state(a, m, k, t, out);
    dpo__builder_layout(a, &t->cap, &t->builder);
    t->logps = DPO__CARVE(a, double, t->cap.sequences);
    t->weights = DPO__CARVE(a, double, t->cap.sequences);
    t->order = DPO__CARVE(a, int64_t, d ? d->n : 0);
    t->items = DPO__CARVE(a, int64_t, d ? k->batch_size : 0);
    before = a->used;
    out->scratch = before - out->gradients - out->optimizer;
    dpo__run_layout(a, &m->config, m->c->pool.n, &t->run);
    out->logits = (size_t)(t->run.head_rows * m->config.vocab_size) * sizeof(float);
    out->activations = a->used - before - out->logits;
}

/* Objective of the batches that are formed. */
static int dpo__train_batches(const dpo_train_config *k) { return k->objective | (k->naive ? DPO__NAIVE : 0); }

/* Multiply-adds of one example's update, times 2: what the step computes, the reference's pass only if naive. */
static double dpo__trainer_flops(const dpo_model *m, const dpo_data *d, const dpo_train_config *k, const dpo__run *r) {
    const dpo_model_config *c = &m->config;
    double front = 0, back = 0, adapters = 0, rows = 0, asked = 0, targets = 0, pairs = 0, last = 0, n = 1;
    double layers = c->num_hidden_layers, width = (double)c->num_attention_heads * c->head_dim;
    double linear, attention, head, lowest = 0, sum, factor = m->lora ? 1 : 2;
    int64_t i;
    for (i = 0; i < m->n_params; i++) { /* of one layer: q, k, v take all rows, the rest those asked for */
        const dpo__param *p = &m->params[i];
        if (p->kind != DPO__MATRIX || p->layer) continue;
        if (p->id == DPO__QKV_W || p->id == DPO__Q_W || p->id == DPO__K_W || p->id == DPO__V_W)
            front += (double)p->count;
        else back += (double)p->count;
    }
    for (i = 0; m->lora && i < m->lora->n_params; i++) adapters += (double)m->lora->params[i].count;
    for (i = 0; d && i < d->n; i++) {
        const dpo__item *t = &d->items[i];
        double p = t->prompt, a = t->chosen - 1.0, b = k->objective == DPO_PREFERENCE ? t->rejected - 1.0 : 0;
        double answers = a * p + a * a / 2 + b * p + b * b / 2, copies = b > 0 ? 2 : 1;
        dpo__shape s;
        dpo__item_shape(t, dpo__train_batches(k), &s);
        rows += (double)s.rows;
        targets += (double)s.targets;
        asked += k->naive ? (double)s.rows : a + b + (p > 0);
        pairs += p * p / 2 * (k->naive ? copies : 1) + answers; /* scores */
        last += k->naive ? p * p / 2 * copies + answers : answers + p;
    }
    if (d && d->n) n = (double)d->n;
    linear = 2 * (front * layers * rows + back * ((layers - 1) * rows + asked));
    attention = 4 * width * ((layers - 1) * pairs + last);
    head = 2 * (double)c->vocab_size * c->hidden_size * targets;
    if (m->lora) lowest = 2 * front * rows; /* dx below the first layer, and its MLP's where nothing learns */
    for (i = 0; m->lora && i < DPO__N_TENSORS; i++)
        if (m->lora->of[i] >= 0 && (i == DPO__UP_W || i == DPO__GATE_W || i == DPO__DOWN_W)) break;
    if (m->lora && i == DPO__N_TENSORS && c->parallel_residual) lowest += 2 * (back - width * c->hidden_size) * rows;
    sum = linear + attention + head;                                         /* forward */
    sum += factor * linear - lowest + 2.5 * attention;                       /* backward */
    sum += head * ((r->head_frozen ? 1 : factor) + (r->head_twice ? 1 : 0)); /* and the head's */
    sum += 2 * 3 * adapters * rows;
    if (k->recompute) { /* all but the products whose outputs only go on to the next layer */
        double skip = (double)c->intermediate_size + (c->parallel_residual ? width : 0);
        sum += linear * (1 - skip * c->hidden_size / (front + back)) + attention;
    }
    if (k->naive && k->objective == DPO_PREFERENCE) sum += linear + attention + head;
    return sum / n;
}

/* Sizes that follow from data and options, the same for plan and creation. most: the data's largest example. */
static void dpo__trainer_sizes_of(const dpo_model *m, const dpo_data *d, const dpo__shape *largest,
                                  const dpo_train_config *k, int64_t head_rows, dpo_trainer *t) {
    dpo__shape most = *largest;
    int64_t tokens, rows = k->micro_rows ? k->micro_rows : 1024, pair = 1;
    int64_t vocab = m->config.vocab_size, path = m->config.max_position_embeddings;
    dpo__run *r = &t->run;
    memset(t, 0, sizeof *t);
    r->train = 1;
    r->recompute = k->recompute;
    r->naive = k->naive;
    r->bf16 = m->precision != DPO_PRECISION_FP32;
    r->lora_r = m->lora ? m->lora->config.r : 0;
    r->head_frozen = m->lora && m->lora->of[(int64_t)m->config.num_hidden_layers * DPO__N_TENSORS + DPO__HEAD] < 0;
    if (d) {
        tokens = most.rows * k->batch_size;
        pair = k->objective == DPO_PREFERENCE && !r->head_frozen ? most.targets : 1;
        /* Evaluation data made with the same options must fit, too. */
        most.path = dpo__max64(dpo__max64(most.path, k->max_path), dpo__min64(d->options.max_length, path));
        most.rows = dpo__max64(most.rows, k->max_rows);
        rows = dpo__min64(rows, dpo__max64(tokens, (int64_t)d->options.max_length));
        t->cap = dpo__micro_shape(&most, rows, dpo__max64(k->batch_size, 64), dpo__train_batches(k));
        t->steps = k->max_steps ? k->max_steps : k->num_train_epochs * ((d->n + k->batch_size - 1) / k->batch_size);
    } else {
        t->cap.rows = k->max_rows ? k->max_rows : rows;
        t->cap.targets = k->max_targets ? k->max_targets : t->cap.rows;
        t->cap.segments = k->max_segments ? k->max_segments : t->cap.rows;
        t->cap.sequences = t->cap.targets;
        t->cap.path = k->max_path ? k->max_path : t->cap.rows;
        tokens = vocab;
        t->steps = k->max_steps;
    }
    r->head_rows = dpo__min64(head_rows, t->cap.targets);
    if (head_rows < DPO__HEAD_ROWS) r->head_twice = pair > r->head_rows;
    else r->head_rows = dpo__max64(r->head_rows, pair);
    t->embed_slots = dpo__min64(tokens, vocab);
    r->cap = t->cap;
}

/* Bytes of everything, and the work. eval may be NULL. */
static void dpo__trainer_plan(const dpo_model *m, const dpo_data *d, const dpo_data *eval, const dpo_train_config *k,
                              const dpo_trainer *t, dpo_plan *out) {
    dpo__arena a = {NULL, 0}, weights = {NULL, 0}, adapters = {NULL, 0};
    const dpo__lora *l = m->lora;
    dpo_model *no_model = NULL;
    dpo__lora *no_lora = NULL;
    int64_t i;
    memset(out, 0, sizeof *out);
    dpo__trainer_layout(&a, m, d, k, t, out);
    dpo__model_layout(&weights, &m->config, 1, dpo__model_storage(m->precision, m->frozen), &no_model);
    for (i = 0; i < m->n_params && m->frozen; i++)
        if (m->params[i].columns) weights.used += (size_t)m->params[i].count * dpo__st_size(m->params[i].dtype);
    if (l) dpo__lora_layout(&adapters, m, &l->config, 1, &no_lora);
    out->weights = weights.used + m->packed_bytes;
    out->adapters = adapters.used;
    out->scratch += m->c->pack_bytes;
    for (i = 0; i < 2; i++) {
        const dpo_data *o = i ? eval : d;
        if (!o) continue;
        out->data += (uint64_t)o->cap_ids * sizeof(int32_t) + (uint64_t)o->cap * sizeof(dpo__item);
        if (k->objective == DPO_PREFERENCE) out->data += (uint64_t)o->n * 2 * sizeof(double);
    }
    out->total = out->weights + out->adapters + out->gradients + out->optimizer + out->activations + out->logits +
                 out->scratch + out->data;
    if (a.used > SIZE_MAX / 4 || weights.used > SIZE_MAX / 4) out->total = UINT64_MAX; /* sizes saturate there */
    out->parameters = m->n_values;
    out->trainable_parameters = l ? 0 : m->n_values;
    for (i = 0; l && i < l->n_params; i++) out->trainable_parameters += l->params[i].count;
    out->flops_per_example = dpo__trainer_flops(m, d, k, &t->run);
    out->micro_rows = t->cap.rows;
    out->max_path = t->cap.path;
    out->head_rows = t->run.head_rows;
    out->recompute = t->run.recompute;
    out->head_twice = t->run.head_twice;
    out->examples = d ? d->n : 0;
    out->steps = t->steps;
}

/* What a budget leaves to be chosen, from the fastest on: smaller micro-batches and tiles of logits first (they cost a
   little), then computing layers twice (a third more). *k receives the choice. */
static dpo_result dpo__trainer_choose(const dpo_model *m, const dpo_data *d, const dpo_data *eval, dpo_train_config *k,
                                      dpo_trainer *t, dpo_plan *out) {
    static const int64_t rows[7] = {0, 768, 512, 384, 256, 128, 1}, tiles[3] = {DPO__HEAD_ROWS, 64, 16};
    const dpo_train_config asked = *k;
    dpo__shape most;
    int64_t i, h;
    dpo_result r = DPO_OK;
    memset(&most, 0, sizeof most);
    r = d ? dpo__data_fits(d, m, dpo__train_batches(k), &most) : dpo__model_path(m, 1);
    if (r) return r;
    for (k->recompute = asked.recompute != 0; k->recompute < 2; k->recompute++)
        for (i = 0; i < 7; i++) {
            k->micro_rows = asked.micro_rows ? asked.micro_rows : rows[i];
            for (h = 0; h < 3; h++) {
                dpo__trainer_sizes_of(m, d, &most, k, tiles[h], t);
                dpo__trainer_plan(m, d, eval, k, t, out);
                if (!k->memory || out->total <= k->memory) return DPO_OK;
            }
        }
    return dpo__fail(
        m->c, DPO_E_ARG,
        "a memory budget of %.1f MB is too small: the least that this takes is %.1f MB (weights %.1f, "
        "gradients and optimizer %.1f, a micro-batch of %ld rows %.1f); train adapters, use bf16, or shorten "
        "the examples",
        (double)k->memory / 1e6, (double)out->total / 1e6, (double)out->weights / 1e6,
        (double)(out->gradients + out->optimizer) / 1e6, (long)out->micro_rows,
        (double)(out->activations + out->logits) / 1e6);
}

/* --- reference log-probs ------------------------------------------------------------------------------------ */

static int dpo__reference_is(const dpo_data *d, uint64_t of, int precision) {
    return d->reference && d->reference_of == of && !d->reference_precision == !precision;
}
/* Room for numbers of this model; NaN is not known yet. */
static dpo_result dpo__reference_room(dpo_data *d, uint64_t of, int precision) {
    int64_t i;
    if (dpo__reference_is(d, of, precision)) return DPO_OK;
    if (!d->reference)
        d->reference = (double *)dpo__get(d->c, (size_t)d->n * 2 * sizeof(double), "reference log-probs");
    if (!d->reference) return DPO_E_MEMORY;
    for (i = 0; i < 2 * d->n; i++) d->reference[i] = (double)NAN;
    d->reference_of = of;
    d->reference_precision = precision;
    d->reference_whole = 0;
    return DPO_OK;
}
/* After some were filled in: are all known now? */
static void dpo__reference_scan(dpo_data *d) {
    int64_t i;
    for (i = 0; i < 2 * d->n; i++)
        if (d->reference[i] != d->reference[i]) return;
    d->reference_whole = 1;
}
static dpo_result dpo__reference_finite(dpo_context *c, const double *logps, int64_t n, int64_t item) {
    int64_t i;
    for (i = 0; i < n; i++)
        if (!(logps[i] - logps[i] == 0.0))
            return dpo__fail(c, DPO_E_NONFINITE, "reference: the model's log-prob of example %ld is not finite",
                             (long)(item + i / 2));
    return DPO_OK;
}
/* The next micro-batch: items[*i], or *i itself if items is NULL, and so on, as many as find room. */
static dpo_result dpo__builder_fill(dpo__builder *b, const dpo_data *d, int objective, const int64_t *items, int64_t *i,
                                    int64_t n) {
    int64_t first = *i;
    dpo__builder_reset(b);
    while (*i < n && dpo__builder_add(b, d, items ? items[*i] : *i, objective)) ++*i;
    if (*i > first) return DPO_OK;
    return dpo__fail(d->c, DPO_E_SHAPE, "example %ld does not fit a micro-batch", (long)(items ? items[first] : first));
}
/* Log-probs of the builder's items by the model without adapters. Those of d that are not known yet are kept. */
static dpo_result dpo__reference_micro(dpo__run *run, const dpo__builder *b, double *logps, dpo_data *d,
                                       const int64_t *items, int64_t first) {
    dpo_batch batch = dpo__builder_batch(b);
    dpo__lora *l = run->m->lora;
    int64_t i;
    int on = l ? l->on : 0;
    dpo_result r;
    if (l) l->on = 0;
    r = dpo__run_logps(run, &batch, logps);
    if (l) l->on = on;
    for (i = 0; i < batch.n_sequences && !r; i++) {
        int64_t item = items ? items[first + i / 2] : first + i / 2;
        double *known = &d->reference[2 * item + i % 2];
        if (*known == *known) continue;
        r = dpo__reference_finite(d->c, &logps[i], 1, item);
        if (!r) *known = logps[i];
    }
    return r;
}
/* All of a data set, on a workspace and a builder that its longest example fits. */
static dpo_result dpo__reference_pass(dpo__run *run, dpo__builder *b, double *logps, dpo_data *d) {
    int objective = DPO_PREFERENCE | (run->naive ? DPO__NAIVE : 0);
    int64_t i, first;
    dpo_result r = dpo__reference_room(d, dpo_model_hash(run->m), run->m->precision);
    dpo__fpenv env = dpo__fp_enter();
    for (i = 0; i < d->n && !r;) {
        first = i;
        if (dpo__cancelled(run->c, env))
            r = dpo__fail(run->c, DPO_E_CANCELLED, "the reference pass was cancelled at example %ld of %ld", (long)i,
                          (long)d->n);
        if (!r) r = dpo__builder_fill(b, d, objective, NULL, &i, d->n);
        if (!r) r = dpo__reference_micro(run, b, logps, d, NULL, first);
        if (!r) dpo__progress(run->c, env, "reference log-probs", i, d->n);
    }
    if (!r) d->reference_whole = 1;
    dpo__fp_leave(env);
    return r;
}
DPO_API dpo_result dpo_reference_compute(dpo_model *m, dpo_data *d) {
    dpo__shape most, cap;
    dpo__run *run;
    dpo__builder b;
    dpo__arena a = {NULL, 0};
    double *logps = NULL;
    int pass;
    dpo_result r;
    DPO__READY(m && d, m->c);
    r = dpo__data_fits(d, m, DPO_PREFERENCE, &most);
    if (r) return r;
    cap = dpo__micro_shape(&most, dpo__min64(512, most.rows * d->n), d->n, DPO_PREFERENCE);
    for (pass = 0; pass < 2; pass++) {
        dpo__builder_layout(&a, &cap, &b);
        logps = DPO__CARVE(&a, double, cap.sequences);
        if (!pass && !dpo__arena_get(m->c, &a, "reference batches")) return DPO_E_MEMORY;
    }
    run = dpo__run_open(dpo__run_plan(m, &cap, dpo__min64(DPO__HEAD_ROWS, cap.targets), 0));
    r = run ? dpo__reference_pass(run, &b, logps, d) : m->c->error.code;
    dpo__put(m->c, run);
    dpo__put(m->c, a.base);
    return r;
}
DPO_API const double *dpo_reference_of(const dpo_data *d) {
    return d && d->reference && d->reference_whole ? d->reference : NULL;
}

/* Keys as text, so that a file can say what it was made from. */
static void dpo__reference_keys(const dpo_data *d, uint64_t weights, int precision, char text[3][24]) {
    /* the same arithmetic: mixed and bf16 differ in how weights move */
    const char *name = precision == DPO_PRECISION_FP32 ? "fp32" : "bf16";
    dpo__append(text[0], 24, 0, "%016llx", (unsigned long long)weights);
    dpo__append(text[1], 24, 0, "%016llx", (unsigned long long)dpo_data_hash(d));
    dpo__append(text[2], 24, 0, "%s %d", name, DPO_NUMERICS);
}
DPO_API dpo_result dpo_reference_save(const dpo_data *d, const char *path) {
    char text[3][24];
    const char *metadata[7] = {"weights", text[0], "data", text[1], "precision", text[2], NULL};
    dpo_tensor t = {"reference_logps", NULL, DPO_F64, 2, {0, 2, 1, 1, 1, 1, 1, 1}};
    DPO__READY(d, d->c);
    if (!dpo_reference_of(d) || !path)
        return dpo__fail(d->c, DPO_E_STATE,
                         "dpo_reference_save: the reference log-probs are not complete yet, or there is no path");
    dpo__reference_keys(d, d->reference_of, d->reference_precision, text);
    t.data = d->reference;
    t.shape[0] = d->n;
    return dpo_tensors_save(d->c, path, &t, 1, metadata);
}
DPO_API dpo_result dpo_reference_load(const dpo_model *m, dpo_data *d, const char *path) {
    static const char *const keys[3] = {"weights", "data", "precision"};
    char text[3][24];
    dpo__st st;
    const dpo__st_entry *e;
    uint64_t of;
    double *fresh = NULL;
    int i;
    dpo_result r;
    DPO__READY(m && d, d->c);
    if (!path) return dpo__fail(d->c, DPO_E_ARG, "dpo_reference_load: the path must not be NULL");
    r = dpo__st_open(d->c, path, &st);
    if (r) return r;
    of = dpo_model_hash(m);
    dpo__reference_keys(d, of, m->precision, text);
    for (i = 0; i < 3 && !r; i++) {
        const char *has = dpo_tensors_metadata(&st, keys[i]);
        if (!has || strcmp(has, text[i]))
            r = dpo__fail(d->c, DPO_E_STATE,
                          "%.400s: made from other %s (%.40s here, %.40s there); delete it, and it is computed anew",
                          path, keys[i], text[i], has ? has : "nothing");
    }
    e = dpo__st_find(&st, "reference_logps");
    if (!r && (!e || e->dtype != DPO_F64 || e->ndim != 2 || e->shape[0] != d->n || e->shape[1] != 2))
        r = dpo__fail(d->c, DPO_E_FORMAT, "%.400s: no tensor reference_logps of F64 [%ld,2] in it", path, (long)d->n);
    if (!r && !(fresh = (double *)dpo__get(d->c, (size_t)d->n * 2 * sizeof(double), "reference log-probs")))
        r = DPO_E_MEMORY;
    if (!r) r = dpo__st_read_raw(&st, e, fresh);
    if (!r) r = dpo__reference_finite(d->c, fresh, 2 * d->n, 0);
    dpo__st_close(&st);
    if (r) { /* what was known before stays */
        dpo__put(d->c, fresh);
        return r;
    }
    dpo__put(d->c, d->reference);
    d->reference = fresh;
    d->reference_of = of;
    d->reference_precision = m->precision;
    d->reference_whole = 1;
    return DPO_OK;
}

/* Room for evaluation data, too. */
static void dpo__train_fit(const dpo__shape *most, dpo_train_config *k) {
    k->max_rows = dpo__max64(k->max_rows, most->rows);
    k->max_path = dpo__max64(k->max_path, most->path);
}

/* --- creation ------------------------------------------------------------------------------------------ */

static dpo_result dpo__train_check(dpo_context *c, const dpo_train_config *k) {
    const dpo_loss_options *l = &k->loss_options;
    const double any = (double)INT64_MAX, rows = INT32_MAX / 4, epochs = (double)k->num_train_epochs,
                 steps = (double)k->max_steps;
    const dpo__option options[] = {
        {"objective (DPO_SFT, DPO_PREFERENCE)", (double)k->objective, DPO_SFT, DPO_PREFERENCE, 0},
        {"sft_reduction (DPO_TOKEN_MEAN, DPO_SEQUENCE_SUM)", (double)k->sft_reduction, DPO_TOKEN_MEAN, DPO_SEQUENCE_SUM,
         0},
        {"learning_rate", k->learning_rate, 0, 1e6, 2},
        {"batch_size", (double)k->batch_size, 1, 1 << 30, 0},
        {"num_train_epochs", epochs, 0, 1e6, 0},
        {"max_steps", steps, 0, any, 0},
        {"num_train_epochs + max_steps", epochs + steps, 1, 2 * any, 0},
        {"warmup_steps", (double)k->warmup_steps, 0, any, 0},
        {"optimizer (DPO_ADAMW, DPO_RMSPROP)", (double)k->optimizer, DPO_ADAMW, DPO_RMSPROP, 0},
        {"optimizer_dtype (DPO_F32, DPO_BF16)", (double)k->optimizer_dtype, DPO_F32, DPO_BF16, 0},
        {"schedule (DPO_CONSTANT, DPO_LINEAR, DPO_COSINE)", (double)k->schedule, DPO_CONSTANT, DPO_COSINE, 0},
        {"adam_beta1", k->adam_beta1, 0, 1, 2},
        {"adam_beta2", k->adam_beta2, 0, 1, 2},
        {"rmsprop_alpha", k->rmsprop_alpha, 0, 1, 2},
        {"adam_epsilon", k->adam_epsilon, 1e-30, 1, 2},
        {"weight_decay", k->weight_decay, 0, 1e6, 2},
        {"max_grad_norm (0 is off)", k->max_grad_norm, 0, (double)INFINITY, 0},
        {"eval_size (0 is all)", (double)k->eval_size, 0, any, 0},
        {"micro_rows (0 is planned)", (double)k->micro_rows, 0, rows, 0},
        {"max_rows", (double)k->max_rows, 0, rows, 0},
        {"max_targets", (double)k->max_targets, 0, rows, 0},
        {"max_segments", (double)k->max_segments, 0, rows, 0},
        {"max_path", (double)k->max_path, 0, rows, 0},
        {"beta", k->objective == DPO_PREFERENCE ? l->beta : 1, 0, 1e6, 3},
        {"label_smoothing", l->label_smoothing, 0, 0.5, 2},
        {"gamma", l->gamma, -1e6, 1e6, 3},
        {"lambda", l->lambda, 0, 1e6, 2},
        {"tau", l->tau, 0, 1e6, 3},
        {"sft_weight", l->sft_weight, 0, 1e6, 2}};
    return dpo__options_check(c, "training options", options, sizeof options / sizeof options[0]);
}

static void dpo__trainer_bind(dpo_trainer *t) {
    dpo_model *m = t->m;
    dpo__param *p = m->lora ? m->lora->params : m->params;
    int64_t i;
    int tied = m->config.tie_word_embeddings && !m->lora;
    size_t state = t->k.optimizer_dtype == DPO_BF16 ? 2 : 4;
    for (i = 0; i < m->n_params; i++) t->grads.params[i] = NULL;
    for (i = 0; i < t->n_trained; i++) {
        t->trained[i] = &p[i];
        if (m->lora) t->grads.lora[i] = t->grad[i];
        else t->grads.params[i] = t->grad[i];
        memset(t->grad[i], 0, (size_t)p[i].count * sizeof(float));
        if (t->k.optimizer == DPO_ADAMW) memset(t->m1[i], 0, (size_t)p[i].count * state);
        memset(t->m2[i], 0, (size_t)p[i].count * state);
    }
    if (!m->lora) t->grads.lora = NULL;
    if (!tied) t->embed_grad = NULL;
    t->grads.embedding = t->embed_grad;
    t->grads.slots = t->slots;
    for (i = 0; tied && i < m->config.vocab_size; i++) t->slot_of[i] = -1;
}

static int dpo__trainer_needs_reference(const dpo_trainer *t) {
    return t->k.objective == DPO_PREFERENCE && !t->k.loss_options.reference_free && dpo_loss_needs_reference(t->k.loss);
}

/* Reference log-probs of the training data. Adapters off give them as training goes; full fine-tuning needs them
   before weights move, and computes them on the trainer's own workspace. */
static dpo_result dpo__trainer_reference_open(dpo_trainer *t) {
    dpo_data *d = t->data;
    uint64_t hash = dpo_model_hash(t->m);
    if (!dpo_reference_of(d))
        return t->m->lora ? dpo__reference_room(d, hash, t->m->precision)
                          : dpo__reference_pass(&t->run, &t->builder, t->logps, d);
    if (!dpo__reference_is(d, hash, t->m->precision))
        dpo__log(t->c, DPO_LOG_WARNING,
                 "the data's reference log-probs are another model's or another precision's, not those of the "
                 "weights that training starts from");
    return DPO_OK;
}
DPO_API dpo_trainer *dpo_trainer_create(dpo_model *m, dpo_data *data, const dpo_train_config *config) {
    dpo_train_config k;
    dpo_trainer plan, *t;
    dpo_plan sizes;
    dpo__arena a = {NULL, 0};
    dpo_context *c;
    if (!m || m->c->error.code) return NULL;
    c = m->c;
    k = config ? *config : dpo_train_defaults(DPO_PREFERENCE);
    if (!k.loss) k.loss = dpo__loss_sigmoid;
    if (dpo__train_check(c, &k)) return NULL;
    if (m->frozen && !m->lora) {
        dpo__fail(c, DPO_E_STATE,
                  "training: this model was loaded frozen; attach adapters (dpo_lora_attach), or load it without "
                  "`frozen` to train it whole");
        return NULL;
    }
    if (dpo__trainer_choose(m, data, NULL, &k, &plan, &sizes)) return NULL;
    dpo__trainer_layout(&a, m, data, &k, &plan, &sizes);
    if (!dpo__arena_get(c, &a, "training")) return NULL;
    dpo__trainer_layout(&a, m, data, &k, &plan, &sizes);
    t = (dpo_trainer *)(void *)a.base; /* it was carved first */
    t->c = t->run.c = c;
    t->m = t->run.m = m;
    t->data = data;
    t->k = k;
    t->order_epoch = -1;
    t->n_items = data ? data->n : 0;
    t->lora = m->lora;
    dpo__trainer_bind(t);
    dpo__run_tables(&t->run);
    if (data && dpo__trainer_needs_reference(t) && dpo__trainer_reference_open(t)) {
        dpo__put(c, t);
        return NULL;
    }
    return t;
}
DPO_API void dpo_trainer_free(dpo_trainer *t) {
    if (t) dpo__put(t->c, t);
}
DPO_API int dpo_trainer_done(const dpo_trainer *t) { return !t || t->step >= t->steps; }
DPO_API int64_t dpo_trainer_steps(const dpo_trainer *t) { return t ? t->steps : 0; }

/* --- gradients ------------------------------------------------------------------------------------------ */

/* Rows of the compact embedding gradient for a batch's tokens; new tokens get cleared ones. There is room for the
   trainer's own batches, unless the caller's were added before an update. */
static dpo_result dpo__trainer_slots(dpo_trainer *t, const dpo_batch *b) {
    int64_t n, d = t->m->config.hidden_size, before = t->used_slots;
    for (n = 0; n < b->n_rows && t->embed_grad; n++) {
        int32_t *slot = &t->slot_of[b->tokens[n]];
        if (*slot < 0) {
            if (t->used_slots == t->embed_slots) {
                while (t->used_slots > before) t->slot_of[t->slot_token[--t->used_slots]] = -1; /* as it was */
                return dpo__fail(
                    t->c, DPO_E_SHAPE,
                    "training: with this batch an update would use more different tokens than the %ld that "
                    "this trainer has room for; raise its batch_size, or make it without data",
                    (long)t->embed_slots);
            }
            *slot = (int32_t)t->used_slots++;
            t->slot_token[*slot] = b->tokens[n];
            memset(t->embed_grad + *slot * d, 0, (size_t)d * sizeof(float));
        }
        t->slots[n] = *slot;
    }
    return DPO_OK;
}
/* Adds the embedding's share of a tied matrix to the head's: once, head + embedding. */
static void dpo__trainer_tie(dpo_trainer *t) {
    int64_t i, d = t->m->config.hidden_size;
    float *head;
    if (!t->embed_grad) return;
    head = t->grads.params[t->m->of[(int64_t)t->m->config.num_hidden_layers * DPO__N_TENSORS + DPO__EMBED]];
    for (i = 0; i < t->used_slots; i++) {
        t->c->kernels.add(d, head + t->slot_token[i] * d, t->embed_grad + i * d);
        t->slot_of[t->slot_token[i]] = -1;
    }
    t->used_slots = 0;
}
DPO_API dpo_result dpo_trainer_zero(dpo_trainer *t) {
    int64_t i;
    if (!t) return DPO_E_ARG;
    for (i = 0; i < t->n_trained; i++) memset(t->grad[i], 0, (size_t)t->trained[i]->count * sizeof(float));
    for (i = 0; i < t->used_slots; i++) t->slot_of[t->slot_token[i]] = -1;
    t->used_slots = 0;
    return DPO_OK;
}

#define DPO__MOVE_STREAM ((uint64_t)1 << 40) /* far from the streams that shuffle */

/* Clips and moves; the gradients are clear afterwards. Nothing moves if one is not finite. */
static dpo_result dpo__trainer_move(dpo_trainer *t, double *grad_norm) {
    const dpo_train_config *k = &t->k;
    double sum = 0.0, clip = 1.0, lr = dpo__schedule(k, t->step, t->steps);
    int64_t i;
    dpo__trainer_tie(t);
    for (i = 0; i < t->n_trained; i++) {
        double s = dpo__squares_of(t->c, t->grad[i], t->trained[i]->count, t->partial);
        if (!(s < (double)INFINITY)) {
            const char *name = t->trained[i]->name;
            dpo_trainer_zero(t);
            return dpo__fail(t->c, DPO_E_NONFINITE,
                             "update %ld: the gradient of %s is not finite; no weight was moved (lower the learning "
                             "rate, or look at the data)",
                             (long)t->step + 1, name);
        }
        sum = sum + s;
    }
    *grad_norm = sqrt(sum);
    if (k->max_grad_norm > 0) clip = k->max_grad_norm / (*grad_norm + 1e-6);
    if (clip > 1.0) clip = 1.0;
    for (i = 0; i < t->n_trained; i++) {
        const dpo__param *p = t->trained[i];
        int scaled = k->mup_learning_rate && !t->m->lora && p->kind == DPO__MATRIX; /* [muP] */
        int rounding = p->dtype == DPO_BF16 || (t->m->precision == DPO_PRECISION_BF16 && !t->m->lora);
        uint64_t stream = DPO__MOVE_STREAM + (uint64_t)(t->step * t->n_trained + i);
        dpo__update o = dpo__optimizer_constants(k, t->step + 1, scaled ? lr * t->m->config.width_scale : lr, clip);
        dpo__optimizer_job j = {t->c,     k->optimizer,       p->data, p->dtype, rounding, t->grad[i], t->m1[i],
                                t->m2[i], k->optimizer_dtype, k->seed, stream,   o};
        dpo__optimizer_run(&j, p->count);
    }
    if (!t->m->lora) dpo_model_unpack(t->m); /* a packed copy would be of the weights before */
    t->step++;
    return DPO_OK;
}

/* --- level 2: batches of the caller's --------------------------------------------------------------------- */

enum { DPO__ONE_RUN = 1, DPO__LEARNING = 2, DPO__SAME_DATA = 4 };

/* The model must be as it was when the trainer was made; besides, as `needs` says. */
static dpo_result dpo__trainer_ready(const dpo_trainer *t, const char *who, int needs) {
    const char *why = NULL;
    DPO__READY(t, t->c);
    if (t->run.bf16 != (t->m->precision != DPO_PRECISION_FP32))
        why = "the model's precision was changed after this trainer was made; make a new one";
    else if (t->m->lora != t->lora) why = "adapters were attached after this trainer was made; make a new one";
    else if ((needs & DPO__ONE_RUN) && t->half_loaded)
        why = "the last checkpoint could not be read to its end, so the weights are of two runs; load one that can be "
              "read, or make model and trainer anew";
    else if ((needs & DPO__LEARNING) && t->lora && !t->lora->on)
        why = "the adapters are switched off, nothing would be learnt; switch them on with dpo_lora_enable";
    if (why) return dpo__fail(t->c, DPO_E_STATE, "%s: %s", who, why);
    if ((needs & DPO__SAME_DATA) && t->data && t->data->n != t->n_items)
        return dpo__fail(t->c, DPO_E_STATE,
                         "%s: the data set has %ld examples now, %ld when this trainer was made; make a new one", who,
                         (long)t->data->n, (long)t->n_items);
    return DPO_OK;
}
static dpo_result dpo__trainer_takes(const dpo_trainer *t, const char *who, const dpo_batch *b, const double *numbers) {
    dpo__shape s;
    dpo_result r = dpo__trainer_ready(t, who, DPO__ONE_RUN | DPO__LEARNING);
    if (r) return r;
    if (!b || !numbers) return dpo__fail(t->c, DPO_E_ARG, "%s: the batch and its numbers must not be NULL", who);
    r = dpo__batch_check(t->c, b, t->m->config.vocab_size, 0, &s);
    if (!r) r = dpo__model_path(t->m, s.path);
    if (r) return r;
    if (s.rows > t->cap.rows || s.targets > t->cap.targets || s.segments > t->cap.segments || s.path > t->cap.path ||
        s.sequences > t->cap.sequences)
        return dpo__fail(
            t->c, DPO_E_SHAPE,
            "%s: a batch of %ld rows, %ld targets, %ld segments, path %ld, %ld sequences; this trainer has room for "
            "%ld, %ld, %ld, %ld, %ld (its options max_rows, max_targets, max_segments, max_path)",
            who, (long)s.rows, (long)s.targets, (long)s.segments, (long)s.path, (long)s.sequences, (long)t->cap.rows,
            (long)t->cap.targets, (long)t->cap.segments, (long)t->cap.path, (long)t->cap.sequences);
    return DPO_OK;
}
DPO_API dpo_result dpo_trainer_forward(dpo_trainer *t, const dpo_batch *b, double *logps) {
    dpo_result r = dpo__trainer_takes(t, "dpo_trainer_forward", b, logps);
    if (!r) DPO__COMPUTE(r = dpo__run_logps(&t->run, b, logps));
    return r;
}
DPO_API dpo_result dpo_trainer_backward(dpo_trainer *t, const dpo_batch *b, const double *dlogps) {
    dpo_result r = dpo__trainer_takes(t, "dpo_trainer_backward", b, dlogps);
    dpo__fpenv env;
    int64_t i;
    if (r) return r;
    for (i = 0; i < b->n_sequences; i++) {
        if (!(dlogps[i] - dlogps[i] == 0.0))
            return dpo__fail(t->c, DPO_E_NONFINITE,
                             "dpo_trainer_backward: the weight of sequence %ld is not finite; nothing was added",
                             (long)i);
        t->weights[i] = dlogps[i];
    }
    env = dpo__fp_enter();
    r = dpo__run_forward(&t->run, b);
    if (!r) r = dpo__trainer_slots(t, b);
    if (!r) {
        dpo__run_head(&t->run, t->logps, t->weights, 0, NULL, NULL, &t->grads);
        dpo__run_backward(&t->run, &t->grads);
    }
    dpo__fp_leave(env);
    return r;
}
DPO_API dpo_result dpo_trainer_update(dpo_trainer *t, double *grad_norm) {
    double norm = 0.0;
    dpo_result r = dpo__trainer_ready(t, "dpo_trainer_update", DPO__ONE_RUN | DPO__LEARNING);
    if (r) return r;
    DPO__COMPUTE(r = dpo__trainer_move(t, &norm));
    if (grad_norm) *grad_norm = norm;
    return r;
}
DPO_API int64_t dpo_trainer_gradients(dpo_trainer *t, dpo_tensor *out, int64_t cap) {
    int64_t i;
    if (!t) return 0;
    if (out) DPO__COMPUTE(dpo__trainer_tie(t));
    for (i = 0; out && i < t->n_trained && i < cap; i++) {
        out[i] = dpo__param_view(t->trained[i]);
        out[i].data = t->grad[i];
        out[i].dtype = DPO_F32; /* whatever the weights are */
    }
    return t->n_trained;
}
/* Items of the trainer's data? */
static dpo_result dpo__trainer_items(const dpo_trainer *t, const char *who, const int64_t *items, int64_t n) {
    int64_t i;
    if (!t->data || !items || n < 1) return dpo__fail(t->c, DPO_E_ARG, "%s: needs a trainer with data, and items", who);
    for (i = 0; i < n; i++)
        if (items[i] < 0 || items[i] >= t->data->n)
            return dpo__fail(t->c, DPO_E_ARG, "%s: item %ld of %ld", who, (long)items[i], (long)t->data->n);
    return DPO_OK;
}
DPO_API dpo_result dpo_trainer_batch(dpo_trainer *t, const int64_t *items, int64_t n, dpo_batch *out) {
    int64_t i;
    DPO__READY(t, t->c);
    if (!out) return dpo__fail(t->c, DPO_E_ARG, "dpo_trainer_batch: the batch must not be NULL");
    if (dpo__trainer_items(t, "dpo_trainer_batch", items, n)) return DPO_E_ARG;
    dpo__builder_reset(&t->builder);
    for (i = 0; i < n; i++)
        if (!dpo__builder_add(&t->builder, t->data, items[i], t->k.objective))
            return dpo__fail(t->c, DPO_E_SHAPE,
                             "dpo_trainer_batch: %ld items do not fit one micro-batch; %ld do (option micro_rows)",
                             (long)n, (long)i);
    *out = dpo__builder_batch(&t->builder);
    return DPO_OK;
}

/* --- level 1: steps through the data --------------------------------------------------------------------- */

/* A fresh order for an epoch: Fisher-Yates with numbers of (seed, epoch, position). */
static void dpo__shuffle(int64_t *order, int64_t n, uint64_t seed, uint64_t stream) {
    int64_t i;
    for (i = 0; i < n; i++) order[i] = i;
    for (i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)dpo__random_below(seed, stream, (uint64_t)i, (uint64_t)i + 1);
        int64_t x = order[i];
        order[i] = order[j];
        order[j] = x;
    }
}

/* Loss and derivatives of finished pairs, metrics in item order. */
static void dpo__trainer_weigh(void *user, int64_t first, int64_t n, const double *logps, double *weights) {
    dpo_trainer *t = (dpo_trainer *)user;
    const dpo_train_config *k = &t->k;
    int64_t s;
    for (s = first; s < first + n; s += 2) {
        int64_t item = t->batch[t->micro_first + s / 2];
        const dpo__item *it = &t->data->items[item];
        double share = 1.0 / (double)t->batch_items, dc = 0.0, dr = 0.0, a, b, loss;
        dpo_pair p;
        memset(&p, 0, sizeof p);
        p.policy_chosen = logps[s];
        p.policy_rejected = logps[s + 1];
        if (t->data->reference && dpo__trainer_needs_reference(t)) {
            p.reference_chosen = t->data->reference[2 * item];
            p.reference_rejected = t->data->reference[2 * item + 1];
        }
        p.chosen_tokens = it->chosen - (it->prompt ? 0 : 1);
        p.rejected_tokens = it->rejected - (it->prompt ? 0 : 1);
        dpo__fp_leave(t->env); /* the loss may be the caller's */
        loss = k->loss(&p, &k->loss_options, &dc, &dr);
        (void)dpo__fp_enter();
        weights[s] = dc * share;
        weights[s + 1] = dr * share;
        t->loss_sum = t->loss_sum + loss * share;
        if (k->loss_options.sft_weight > 0) {
            double f = k->loss_options.sft_weight / (double)t->batch_targets;
            weights[s] = weights[s] - f;
            t->loss_sum = t->loss_sum - f * p.policy_chosen;
        }
        a = k->loss_options.beta * (p.policy_chosen - p.reference_chosen);
        b = k->loss_options.beta * (p.policy_rejected - p.reference_rejected);
        t->sum.rewards_chosen = t->sum.rewards_chosen + a;
        t->sum.rewards_rejected = t->sum.rewards_rejected + b;
        t->sum.rewards_margins = t->sum.rewards_margins + (a - b);
        t->sum.rewards_accuracies = t->sum.rewards_accuracies + (a > b ? 1.0 : 0.0);
        t->sum.rewards_ties = t->sum.rewards_ties + (a == b ? 1.0 : 0.0);
        t->sum.logps_chosen = t->sum.logps_chosen + p.policy_chosen;
        t->sum.logps_rejected = t->sum.logps_rejected + p.policy_rejected;
    }
}
/* Reference log-probs of a micro-batch's items that are not known yet (LoRA: adapters off). */
static dpo_result dpo__trainer_reference(dpo_trainer *t, int64_t n) {
    const int64_t *item = t->batch + t->micro_first;
    int missing = t->k.naive; /* computed, known or not */
    int64_t i;
    if (!dpo__trainer_needs_reference(t) || (t->data->reference_whole && !t->k.naive)) return DPO_OK;
    if (!t->data->reference || (!t->m->lora && !t->data->reference_whole)) /* the weights they were made of are gone */
        return dpo__fail(t->c, DPO_E_STATE,
                         "update %ld: the reference log-probs of the data were dropped after this trainer was made; "
                         "call dpo_reference_compute on the model it started from, or make a new trainer",
                         (long)t->step + 1);
    for (i = 0; i < n; i++) missing |= t->data->reference[2 * item[i] + 1] != t->data->reference[2 * item[i] + 1];
    return missing ? dpo__reference_micro(&t->run, &t->builder, t->logps, t->data, item, 0) : DPO_OK;
}

/* n items from t->micro_first on. The weights of SFT are known beforehand, and its loss is read off afterwards. */
static dpo_result dpo__trainer_micro(dpo_trainer *t, int64_t n, int backward) {
    const dpo__grads *g = backward ? &t->grads : NULL;
    dpo_batch b = dpo__builder_batch(&t->builder);
    int64_t i;
    dpo_result r = dpo__trainer_reference(t, n);
    if (!r) r = dpo__run_forward(&t->run, &b);
    if (!r && backward) r = dpo__trainer_slots(t, &b);
    if (r) return r;
    if (t->k.objective == DPO_SFT) {
        double w = -1.0 / (double)(t->k.sft_reduction == DPO_TOKEN_MEAN ? t->batch_targets : t->batch_items);
        for (i = 0; i < n; i++) t->weights[i] = w;
        dpo__run_head(&t->run, t->logps, t->weights, 0, NULL, NULL, g);
        for (i = 0; i < n; i++) {
            t->loss_sum = t->loss_sum + w * t->logps[i];
            t->sum.logps_chosen = t->sum.logps_chosen + t->logps[i];
        }
    } else {
        dpo__run_head(&t->run, t->logps, t->weights, 2, dpo__trainer_weigh, t, g);
        if (!g) dpo__trainer_weigh(t, 0, b.n_sequences, t->logps, t->weights);
    }
    if (g) dpo__run_backward(&t->run, g);
    return DPO_OK;
}

/* All examples of an update or an evaluation, micro-batch by micro-batch; sums in t->sum. */
static dpo_result dpo__trainer_pass(dpo_trainer *t, const int64_t *items, int64_t n, int backward) {
    int64_t i;
    dpo_result r = DPO_OK;
    memset(&t->sum, 0, sizeof t->sum);
    t->loss_sum = 0.0;
    t->batch = items;
    t->batch_items = n;
    t->batch_targets = 0;
    for (i = 0; i < n; i++) {
        const dpo__item *it = &t->data->items[items[i]];
        t->batch_targets += it->chosen - (it->prompt ? 0 : 1);
        t->sum.batch_tokens += (int64_t)it->prompt + it->chosen + (t->k.objective == DPO_PREFERENCE ? it->rejected : 0);
    }
    for (i = 0; i < n && !r;) {
        if (dpo__cancelled(t->c, t->env))
            return dpo__fail(t->c, DPO_E_CANCELLED, "cancelled within %s after update %ld; nothing of it was applied",
                             backward ? "the update" : "the evaluation", (long)t->step);
        t->micro_first = i;
        r = dpo__builder_fill(&t->builder, t->data, dpo__train_batches(&t->k), items, &i, n);
        if (!r) r = dpo__trainer_micro(t, i - t->micro_first, backward);
    }
    return r;
}
/* Metrics that are sums over examples until a report makes them means: X(member, name in JSON, of pairs only). */
#define DPO__MEANS(X)                                                                                                  \
    X(rewards_chosen, "rewards/chosen", 1)                                                                             \
    X(rewards_rejected, "rewards/rejected", 1)                                                                         \
    X(rewards_accuracies, "rewards/accuracies", 1)                                                                     \
    X(rewards_ties, "rewards/ties", 1)                                                                                 \
    X(rewards_margins, "rewards/margins", 1)                                                                           \
    X(logps_chosen, "logps/chosen", 0)                                                                                 \
    X(logps_rejected, "logps/rejected", 1)
static void dpo__trainer_report(dpo_trainer *t, int64_t n, dpo_metrics *out) {
    double share = 1.0 / (double)n;
    *out = t->sum;
    out->has_rewards = t->k.objective == DPO_PREFERENCE;
    out->loss = t->loss_sum;
#define X(member, name, pairs_only) out->member = out->member * share;
    DPO__MEANS(X)
#undef X
    out->batch_examples = n;
    out->step = t->step;
    out->examples = t->examples;
    out->tokens = t->tokens;
    out->epoch = t->n_items ? (double)t->examples / (double)t->n_items : 0.0;
}

static dpo_result dpo__trainer_update_on(dpo_trainer *t, const int64_t *items, int64_t n, dpo_metrics *out) {
    double lr = dpo__schedule(&t->k, t->step, t->steps), norm = 0.0;
    dpo_metrics m;
    dpo_result r = dpo__trainer_pass(t, items, n, 1);
    if (!r && !(t->loss_sum - t->loss_sum == 0.0))
        r = dpo__fail(
            t->c, DPO_E_NONFINITE,
            "update %ld: the loss is not finite; no weight was moved (lower the learning rate, or look at the data)",
            (long)t->step + 1);
    if (r) {
        dpo_trainer_zero(t);
        return r;
    }
    r = dpo__trainer_move(t, &norm);
    if (r) return r;
    t->examples += n;
    t->tokens += t->sum.batch_tokens;
    if (dpo__trainer_needs_reference(t) && !t->data->reference_whole && t->examples >= t->n_items)
        dpo__reference_scan(t->data); /* adapters: every example was met once */
    dpo__trainer_report(t, n, &m);
    m.grad_norm = norm;
    m.learning_rate = lr;
    if (out) *out = m;
    return DPO_OK;
}
DPO_API dpo_result dpo_trainer_step_on(dpo_trainer *t, const int64_t *items, int64_t n, dpo_metrics *out) {
    dpo_result r = dpo__trainer_ready(t, "dpo_trainer_step", DPO__ONE_RUN | DPO__LEARNING | DPO__SAME_DATA);
    if (!r) r = dpo__trainer_items(t, "dpo_trainer_step_on", items, n);
    if (r) return r;
    if (n > t->k.batch_size)
        return dpo__fail(t->c, DPO_E_ARG, "dpo_trainer_step_on: %ld items, the batch_size is %ld", (long)n,
                         (long)t->k.batch_size);
    t->env = dpo__fp_enter();
    r = dpo__trainer_update_on(t, items, n, out);
    dpo__fp_leave(t->env);
    return r;
}
DPO_API dpo_result dpo_trainer_step(dpo_trainer *t, dpo_metrics *out) {
    int64_t per_epoch, epoch, at, n, i;
    DPO__READY(t, t->c);
    if (!t->data || dpo_trainer_done(t))
        return dpo__fail(t->c, DPO_E_STATE, "dpo_trainer_step: %s",
                         t->data ? "all steps are done" : "this trainer was made without data");
    per_epoch = (t->n_items + t->k.batch_size - 1) / t->k.batch_size;
    epoch = t->step / per_epoch;
    at = t->step % per_epoch * t->k.batch_size;
    n = dpo__min64(t->k.batch_size, t->n_items - at);
    if (t->k.shuffle && t->order_epoch != epoch) dpo__shuffle(t->order, t->n_items, t->k.seed, (uint64_t)epoch);
    t->order_epoch = epoch;
    for (i = 0; i < n; i++) t->items[i] = t->k.shuffle ? t->order[at + i] : at + i;
    return dpo_trainer_step_on(t, t->items, n, out);
}

#define DPO__EVAL_STREAM 0xe7a1u

DPO_API dpo_result dpo_trainer_evaluate(dpo_trainer *t, dpo_data *eval, dpo_metrics *out) {
    dpo_data *train;
    dpo__shape most;
    int64_t *order, n;
    dpo_result r;
    if (!eval) return DPO_E_ARG;
    r = dpo__trainer_ready(t, "dpo_trainer_evaluate", DPO__ONE_RUN);
    if (!r) r = dpo__data_fits(eval, t->m, dpo__train_batches(&t->k), &most);
    if (r) return r;
    if (most.rows > t->cap.rows || most.path > t->cap.path || most.targets > t->cap.targets || t->cap.segments < 3)
        return dpo__fail(t->c, DPO_E_SHAPE,
                         "evaluation: its longest example has %ld rows, %ld targets and a path of %ld, this trainer "
                         "has room for %ld, %ld and %ld; raise its options max_rows, max_targets and max_path",
                         (long)most.rows, (long)most.targets, (long)most.path, (long)t->cap.rows, (long)t->cap.targets,
                         (long)t->cap.path);
    if (dpo__trainer_needs_reference(t) && !dpo_reference_of(eval)) {
        if (!t->m->lora)
            return dpo__fail(t->c, DPO_E_STATE,
                             "evaluation: the reference log-probs of these examples are not known; call "
                             "dpo_reference_compute before training");
        if (!t->hash) t->hash = dpo_model_hash(t->m); /* it does not move */
        if (dpo__reference_room(eval, t->hash, t->m->precision)) return t->c->error.code;
    }
    order = (int64_t *)dpo__get(t->c, (size_t)eval->n * sizeof *order, "an evaluation");
    if (!order) return DPO_E_MEMORY;
    n = t->k.eval_size ? dpo__min64(t->k.eval_size, eval->n) : eval->n;
    dpo__shuffle(order, eval->n, t->k.seed, DPO__EVAL_STREAM);
    train = t->data;
    t->data = eval;
    t->env = dpo__fp_enter();
    r = dpo__trainer_pass(t, order, n, 0);
    if (!r && out) {
        dpo__trainer_report(t, n, out);
        out->is_eval = 1;
    }
    dpo__fp_leave(t->env);
    t->data = train;
    dpo__put(t->c, order);
    return r;
}

/* --- checkpoints -------------------------------------------------------------------------------------------
   A run is a function of weights, data, options and seed; what of it moves is: the weights, the optimizer's state, and
   three counts. There is no generator whose state could be lost: the order of an epoch is drawn from (seed, epoch,
   position), the bits that round bf16 numbers from (seed, update, tensor, element). So a checkpoint holds those tensors
   and counts, and besides them, as text, everything that must be the same in the run that goes on. */

#define DPO__NOTES 64 /* of a run at most; the caller's come behind them */

typedef struct dpo__checkpoint {
    const char **pairs; /* key, value, ...: the first `must` of n have to be found again in the run that goes on */
    const char **what;  /* a word about a value whose key does not say what it is, or NULL */
    char (*text)[40];
    int64_t n, must, n_tensors;
    dpo_tensor *tensors;
    char (*names)[128];
} dpo__checkpoint;

static void dpo__note(dpo__checkpoint *k, const char *key, const char *value) {
    DPO_ASSERT(k->n < DPO__NOTES);
    k->pairs[2 * k->n] = key;
    k->pairs[2 * k->n++ + 1] = value;
}
static void dpo__note_int(dpo__checkpoint *k, const char *key, int64_t x) {
    dpo__append(k->text[k->n], sizeof *k->text, 0, "%lld", (long long)x);
    dpo__note(k, key, k->text[k->n]);
}
static void dpo__note_hash(dpo__checkpoint *k, const char *what, const char *key, uint64_t x) {
    k->what[k->n] = what;
    dpo__append(k->text[k->n], sizeof *k->text, 0, "%016llx", (unsigned long long)x);
    dpo__note(k, key, k->text[k->n]);
}
/* With 15 to 17 digits: the first that is read back as the same number. */
static void dpo__note_double(dpo__checkpoint *k, const char *key, double x) {
    dpo__json_node node = {0, 0, 1, 0};
    dpo__json j;
    int digits;
    double back = 0.0;
    memset(&j, 0, sizeof j);
    j.text = k->text[k->n];
    j.nodes = &node;
    j.count = 1;
    for (digits = 15; digits < 18 && (digits == 15 || back != x); digits++) {
        node.end = (uint32_t)dpo__append_number(k->text[k->n], sizeof *k->text, 0, digits, x);
        (void)dpo_json_number(&j, 0, &back);
    }
    dpo__note(k, key, k->text[k->n]);
}

/* Of the fields of a configuration that enter what a model computes. */
static uint64_t dpo__checkpoint_config_hash(const dpo_model *m) {
    const dpo_model_config *k = &m->config;
    /* clang-format off */
    const int whole[22] = {
        k->family, k->vocab_size, k->hidden_size, k->num_hidden_layers, k->num_attention_heads, k->num_key_value_heads,
        k->head_dim, k->intermediate_size, k->max_position_embeddings, k->norm, k->position, k->rotary_dim,
        k->rope_scaling, k->activation, k->parallel_residual, k->qkv, k->conv1d, k->qkv_bias, k->attention_bias,
        k->mlp_bias, k->tie_word_embeddings, k->attention_scale_by_layer};
    const double real[11] = {
        k->norm_eps, k->rope_theta, k->rope_factor, k->rope_low_freq_factor, k->rope_high_freq_factor,
        k->rope_original_max_position, k->alibi_factor, k->embedding_scale, k->output_scale, k->attention_scale,
        k->width_scale};
    /* clang-format on */
    dpo__hash h = dpo__hash_start(2);
    int i;
    for (i = 0; i < 22; i++) dpo__hash_number(&h, whole[i]);
    for (i = 0; i < 11; i++) dpo__hash_number(&h, (int64_t)dpo__num_bits64(real[i]));
    for (i = 0; m->slopes && i < k->num_attention_heads; i++)
        dpo__hash_number(&h, (int64_t)dpo__num_bits(m->slopes[i]));
    return dpo__hash_end(&h);
}
static uint64_t dpo__checkpoint_reference_hash(const dpo_data *d) {
    dpo__hash h = dpo__hash_start(3);
    int64_t i;
    for (i = 0; i < 2 * d->n; i++) dpo__hash_number(&h, (int64_t)dpo__num_bits64(d->reference[i]));
    return dpo__hash_end(&h);
}

/* What the model computes, and what is asked of it. */
static void dpo__checkpoint_task(const dpo_trainer *t, dpo__checkpoint *k) {
    static const char *const precisions[3] = {"fp32", "mixed", "bf16"};
    const dpo_model *m = t->m;
    const dpo__lora *l = m->lora;
    const dpo_loss_options *o = &t->k.loss_options;
    dpo__note_int(k, "numerics", DPO_NUMERICS);
    dpo__note(k, "model_type", dpo__family_names[m->config.family]);
    dpo__note_hash(k, "the model's configuration: ", "model_config_hash", dpo__checkpoint_config_hash(m));
    dpo__note(k, "precision", precisions[m->precision]);
    dpo__note_int(k, "lora_r", l ? l->config.r : 0);
    if (l) {
        dpo__note_double(k, "lora_alpha", l->config.lora_alpha);
        dpo__note_int(k, "use_rslora", l->config.use_rslora != 0);
        dpo__note(k, "target_modules", l->config.target_modules);
    }
    dpo__note(k, "objective", t->k.objective == DPO_SFT ? "sft" : "dpo");
    dpo__note_int(k, "naive", t->k.naive != 0); /* other sums, so the last bits of gradients */
    if (t->k.objective == DPO_SFT) {
        dpo__note(k, "sft_reduction", t->k.sft_reduction == DPO_TOKEN_MEAN ? "token_mean" : "sequence_sum");
        return;
    }
    dpo__note(k, "loss", dpo__loss_name_of(t->k.loss));
    dpo__note_double(k, "beta", o->beta);
    dpo__note_double(k, "label_smoothing", o->label_smoothing);
    dpo__note_double(k, "gamma", o->gamma);
    dpo__note_double(k, "lambda", o->lambda);
    dpo__note_double(k, "tau", o->tau);
    dpo__note_double(k, "sft_weight", o->sft_weight);
    dpo__note_int(k, "reference_free", o->reference_free != 0);
}
static void dpo__checkpoint_optimizer(const dpo_trainer *t, dpo__checkpoint *k) {
    static const char *const schedules[3] = {"constant", "linear", "cosine"};
    const dpo_train_config *o = &t->k;
    dpo__note(k, "optimizer", o->optimizer == DPO_ADAMW ? "adamw" : "rmsprop");
    dpo__note(k, "optimizer_dtype", o->optimizer_dtype == DPO_BF16 ? "bf16" : "fp32");
    dpo__note(k, "schedule", schedules[o->schedule]);
    dpo__note_double(k, "learning_rate", o->learning_rate);
    dpo__note_int(k, "warmup_steps", o->warmup_steps);
    if (o->optimizer == DPO_ADAMW) {
        dpo__note_double(k, "adam_beta1", o->adam_beta1);
        dpo__note_double(k, "adam_beta2", o->adam_beta2);
    } else dpo__note_double(k, "rmsprop_alpha", o->rmsprop_alpha);
    dpo__note_double(k, "adam_epsilon", o->adam_epsilon);
    dpo__note_double(k, "weight_decay", o->weight_decay);
    dpo__note_double(k, "max_grad_norm", o->max_grad_norm);
    if (!t->m->lora) dpo__note_int(k, "mup_learning_rate", o->mup_learning_rate != 0);
    dpo__append(k->text[k->n], sizeof *k->text, 0, "%llu", (unsigned long long)o->seed);
    dpo__note(k, "seed", k->text[k->n]);
}
/* The reference of full fine-tuning are numbers of weights that are gone: they have to be the same ones. Under adapters
   they are made by the weights below, and need not be known yet. */
static void dpo__checkpoint_data(dpo_trainer *t, dpo__checkpoint *k) {
    const dpo_data *d = t->data;
    if (t->m->lora) {
        if (!t->hash) t->hash = dpo_model_hash(t->m); /* it does not move */
        dpo__note_hash(k, "the weights below the adapters: ", "base_hash", t->hash);
    }
    if (!d) return;
    if (!t->data_hash) t->data_hash = dpo_data_hash(d);
    dpo__note_int(k, "train_examples", t->n_items);
    dpo__note_hash(k, "the training data: ", "data_hash", t->data_hash);
    dpo__note_int(k, "batch_size", t->k.batch_size);
    dpo__note_int(k, "shuffle", t->k.shuffle != 0);
    if (!dpo__trainer_needs_reference(t) || !d->reference) return;
    dpo__note_hash(k, "the reference log-probs' model: ", "reference_weights_hash", d->reference_of);
    if (!t->m->lora && d->reference_whole)
        dpo__note_hash(k, "the reference log-probs: ", "reference_hash", dpo__checkpoint_reference_hash(d));
}
/* All of it; what may differ comes last. With a constant schedule that is the length of the run: one that is done can
   go on. Epoch and place in it follow from the step, and are there for readers. */
static void dpo__checkpoint_notes(dpo_trainer *t, dpo__checkpoint *k) {
    int64_t per_epoch = t->data ? (t->n_items + t->k.batch_size - 1) / t->k.batch_size : 0;
    dpo__checkpoint_task(t, k);
    dpo__checkpoint_optimizer(t, k);
    dpo__checkpoint_data(t, k); /* last: an option that differs is named rather than a hash that follows from it */
    k->must = k->n + (t->k.schedule != DPO_CONSTANT);
    dpo__note_int(k, "steps", t->steps);
    dpo__note_int(k, "dpo_checkpoint", 1);
    dpo__note_int(k, "num_train_epochs", t->k.num_train_epochs);
    dpo__note_int(k, "max_steps", t->k.max_steps);
    dpo__note_int(k, "step", t->step);
    dpo__note_int(k, "examples", t->examples);
    dpo__note_int(k, "tokens", t->tokens);
    if (!per_epoch) return;
    dpo__note_int(k, "epoch", t->step / per_epoch);
    dpo__note_int(k, "data_cursor", t->step % per_epoch * t->k.batch_size);
}
/* The weights, the optimizer's first moments, which AdamW has, its second ones. */
static void dpo__checkpoint_tensors(const dpo_trainer *t, dpo__checkpoint *k) {
    static const char *const prefix[3] = {"", "optimizer.m.", "optimizer.v."};
    int64_t i;
    int kind;
    for (kind = 0; kind < 3; kind++)
        for (i = 0; i < t->n_trained; i++) {
            dpo_tensor *x = &k->tensors[k->n_tensors];
            if (kind == 1 && !t->m1[i]) continue;
            *x = dpo__param_view(t->trained[i]);
            x->name = k->names[k->n_tensors++];
            dpo__append(k->names[k->n_tensors - 1], sizeof *k->names, 0, "%s%s", prefix[kind], t->trained[i]->name);
            if (!kind) continue;
            x->data = kind == 1 ? t->m1[i] : t->m2[i];
            x->dtype = t->k.optimizer_dtype;
        }
}
/* What this trainer's checkpoint is, with room for `more` pairs; k->pairs is its block. */
static dpo_result dpo__checkpoint_open(dpo_trainer *t, const char *who, const char *path, int64_t more,
                                       dpo__checkpoint *k) {
    dpo__arena a = {NULL, 0};
    int pass;
    dpo_result r = dpo__trainer_ready(t, who, DPO__SAME_DATA);
    if (r) return r;
    if (!path) return dpo__fail(t->c, DPO_E_ARG, "%s: the path must not be NULL", who);
    memset(k, 0, sizeof *k);
    for (pass = 0; pass < 2; pass++) {
        k->pairs = DPO__CARVE(&a, const char *, 2 * (DPO__NOTES + more) + 1);
        k->what = DPO__CARVE(&a, const char *, DPO__NOTES);
        k->text = (char(*)[40])dpo__arena_carve(&a, DPO__NOTES, sizeof *k->text);
        k->tensors = DPO__CARVE(&a, dpo_tensor, 3 * t->n_trained);
        k->names = (char(*)[128])dpo__arena_carve(&a, 3 * t->n_trained, sizeof *k->names);
        if (!pass && !dpo__arena_get(t->c, &a, "a checkpoint")) return DPO_E_MEMORY;
    }
    memset(k->what, 0, DPO__NOTES * sizeof *k->what);
    dpo__checkpoint_notes(t, k);
    dpo__checkpoint_tensors(t, k);
    return DPO_OK;
}
DPO_API dpo_result dpo_trainer_save(dpo_trainer *t, const char *path, const char *const *extra) {
    dpo__checkpoint k;
    int64_t more = 0;
    dpo_result r;
    DPO__READY(t, t->c);
    while (extra && extra[2 * more] && extra[2 * more + 1]) more++;
    r = dpo__trainer_ready(t, "dpo_trainer_save", DPO__ONE_RUN);
    if (!r) r = dpo__checkpoint_open(t, "dpo_trainer_save", path, more, &k);
    if (r) return r;
    if (more) memcpy(k.pairs + 2 * k.n, extra, (size_t)(2 * more) * sizeof *extra);
    k.pairs[2 * (k.n + more)] = NULL;
    r = dpo_tensors_save(t->c, path, k.tensors, k.n_tensors, k.pairs);
    dpo__put(t->c, k.pairs);
    return r;
}

/* A count of the metadata; -1 if it is none. Its limit keeps all that is multiplied by it in 64 bits. */
static int64_t dpo__checkpoint_count(const dpo__st *st, const char *key) {
    const char *p = dpo_tensors_metadata(st, key);
    int64_t x = 0;
    if (!p || !*p) return -1;
    for (; *p; p++) {
        if (*p < '0' || *p > '9' || x >= (int64_t)100000000000) return -1;
        x = x * 10 + (*p - '0');
    }
    return x;
}
/* Is it a checkpoint at all, and of the same run? */
static dpo_result dpo__checkpoint_same_run(dpo_trainer *t, const dpo__st *st, const dpo__checkpoint *k) {
    const char *version = dpo_tensors_metadata(st, "dpo_checkpoint");
    int64_t i;
    if (!version || strcmp(version, "1"))
        return dpo__fail(t->c, DPO_E_FORMAT,
                         "%.400s is no training checkpoint of this version (dpo_checkpoint in its metadata is %.40s, "
                         "expected 1); name one that dpo_trainer_save has written",
                         st->path, version ? version : "missing");
    for (i = 0; i < k->must; i++) {
        const char *key = k->pairs[2 * i], *here = k->pairs[2 * i + 1], *there = dpo_tensors_metadata(st, key);
        if (!there || strcmp(here, there))
            return dpo__fail(
                t->c, DPO_E_STATE,
                "%.300s: %s%s is %.200s here, %.200s in the checkpoint; give what that run was given, or start "
                "anew in another directory",
                st->path, k->what[i] ? k->what[i] : "", key, here, there ? there : "nothing");
    }
    return DPO_OK;
}
/* The tensors of this run, and how far it came. to: receives the counts. */
static dpo_result dpo__checkpoint_check(dpo_trainer *t, const dpo__st *st, const dpo__checkpoint *k, int64_t to[3]) {
    static const char *const counts[3] = {"step", "examples", "tokens"};
    int64_t i;
    for (i = 0; i < k->n_tensors; i++) {
        const dpo_tensor *x = &k->tensors[i];
        const dpo__st_entry *e = dpo__st_find(st, x->name);
        if (!e || e->dtype != x->dtype || e->ndim != x->ndim || e->shape[0] != x->shape[0] ||
            (x->ndim > 1 && e->shape[1] != x->shape[1]))
            return dpo__fail(t->c, DPO_E_STATE,
                             "%.400s: expected a tensor %s of %s [%ld,%ld], and there is %s; give what that run was "
                             "given, or start anew in another directory",
                             st->path, x->name, dpo__st_dtypes[x->dtype].name, (long)x->shape[0], (long)x->shape[1],
                             e ? "another one" : "none");
    }
    if (st->count != k->n_tensors)
        return dpo__fail(t->c, DPO_E_STATE,
                         "%.400s: %ld tensors, this run has %ld; give what that run was given, or start anew in "
                         "another directory",
                         st->path, (long)st->count, (long)k->n_tensors);
    for (i = 0; i < 3; i++) {
        to[i] = dpo__checkpoint_count(st, counts[i]);
        if (to[i] < 0)
            return dpo__fail(t->c, DPO_E_FORMAT, "%.400s: %s in its metadata is no count; take another checkpoint",
                             st->path, counts[i]);
    }
    if (t->data && to[0] > t->steps)
        return dpo__fail(t->c, DPO_E_STATE,
                         "%.400s: it stands after update %ld, and this run is to end after %ld; give it at least as "
                         "many epochs or max_steps",
                         st->path, (long)to[0], (long)t->steps);
    return DPO_OK;
}
DPO_API dpo_result dpo_trainer_load(dpo_trainer *t, const char *path) {
    dpo__checkpoint k;
    dpo__st st;
    int64_t counts[3], i;
    dpo_result r;
    DPO__READY(t, t->c);
    r = dpo__checkpoint_open(t, "dpo_trainer_load", path, 0, &k);
    if (r) return r;
    r = dpo__st_open(t->c, path, &st);
    if (!r) r = dpo__st_verify(&st);
    if (!r) r = dpo__checkpoint_same_run(t, &st, &k);
    if (!r) r = dpo__checkpoint_check(t, &st, &k, counts);
    if (!r) { /* from the first byte on the trainer is neither what it was nor what it is to be */
        for (i = 0; i < k.n_tensors && !r; i++)
            r = dpo__st_read_raw(&st, dpo__st_find(&st, k.tensors[i].name), k.tensors[i].data);
        if (!t->m->lora) dpo_model_unpack(t->m); /* a packed copy would be of the weights before */
        t->half_loaded = r != DPO_OK;
    }
    dpo__st_close(&st);
    dpo__put(t->c, k.pairs);
    if (r) return r;
    dpo_trainer_zero(t);
    t->step = counts[0];
    t->examples = counts[1];
    t->tokens = counts[2];
    t->order_epoch = -1; /* its order is drawn again */
    return DPO_OK;
}

static size_t dpo__metric(char *out, size_t cap, size_t at, const char *prefix, const char *name, double x) {
    at = dpo__append(out, cap, at, ", \"%s%s\": ", prefix, name);
    return x - x == 0.0 ? dpo__append_number(out, cap, at, 9, x) : dpo__append(out, cap, at, "null");
}
DPO_API size_t dpo_metrics_json(const dpo_metrics *m, char *out, size_t cap) {
    const char *p = m->is_eval ? "eval_" : "";
    size_t at = dpo__append(out, cap, 0, "{\"step\": %lld, \"examples\": %lld, \"tokens\": %lld", (long long)m->step,
                            (long long)m->examples, (long long)m->tokens);
    at = dpo__metric(out, cap, at, "", "epoch", m->epoch);
    at = dpo__metric(out, cap, at, p, "loss", m->loss);
#define X(member, name, pairs_only)                                                                                    \
    if (m->has_rewards || !pairs_only) at = dpo__metric(out, cap, at, p, name, m->member);
    DPO__MEANS(X)
#undef X
    if (m->is_eval) at = dpo__append(out, cap, at, ", \"eval_examples\": %lld", (long long)m->batch_examples);
    else {
        at = dpo__metric(out, cap, at, "", "grad_norm", m->grad_norm);
        at = dpo__metric(out, cap, at, "", "learning_rate", m->learning_rate);
    }
    return dpo__append(out, cap, at, "}");
}

static dpo_result dpo__train_evaluate(dpo_trainer *t, dpo_data *eval) {
    char line[1024];
    dpo_metrics m;
    dpo_result r;
    if (!eval) return DPO_OK;
    r = dpo_trainer_evaluate(t, eval, &m);
    if (r) return r;
    dpo_metrics_json(&m, line, sizeof line);
    dpo__log(t->c, DPO_LOG_INFO, "%s", line);
    return DPO_OK;
}
DPO_API dpo_result dpo_train(dpo_model *m, dpo_data *data, dpo_data *eval, const dpo_train_config *config) {
    dpo_trainer *t;
    dpo_train_config k = config ? *config : dpo_train_defaults(DPO_PREFERENCE);
    dpo__shape most;
    dpo_metrics s;
    char line[1024];
    dpo_result r = DPO_OK;
    DPO__READY(m && data, m->c);
    if (eval) r = dpo__data_fits(eval, m, dpo__train_batches(&k), &most);
    if (r) return r;
    if (eval) dpo__train_fit(&most, &k);
    t = dpo_trainer_create(m, data, &k);
    if (!t) return m->c->error.code;
    if (eval && dpo__trainer_needs_reference(t) && !m->lora && /* an earlier model's would be wrong without a word */
        (!dpo_reference_of(eval) || !dpo__reference_is(eval, dpo_model_hash(m), m->precision)))
        r = dpo__reference_pass(&t->run, &t->builder, t->logps, eval);
    if (!r) r = dpo__train_evaluate(t, eval);
    while (!r && !dpo_trainer_done(t)) {
        r = dpo_trainer_step(t, &s);
        if (r) break;
        dpo_metrics_json(&s, line, sizeof line);
        dpo__log(m->c, DPO_LOG_INFO, "%s", line);
    }
    if (!r) r = dpo__train_evaluate(t, eval);
    dpo_trainer_free(t);
    return r;
}

/* ===========================================================================================
   >>PLAN - what training takes, from the layout functions themselves
   =========================================================================================== */

/* A model and its adapters without values, for sizes. Frozen matrices stay what the file has; where config.json
   does not say, BF16 is believed of those that are to be computed in bf16. */
static dpo_model *dpo__plan_model(dpo_context *c, const dpo_model_config *k, const dpo_load_config *load,
                                  const dpo_lora_config *lora) {
    int precision = load ? load->precision : DPO_PRECISION_FP32, frozen = load && load->frozen;
    int half = frozen && k->torch_dtype ? k->torch_dtype == DPO_BF16 : precision == DPO_PRECISION_BF16;
    dpo_model *m = dpo__model_new(c, k, 0, half ? DPO_BF16 : DPO_F32);
    if (!m) return NULL;
    m->precision = precision;
    m->frozen = frozen;
    if (lora) m->lora = dpo__lora_new(m, lora, "LoRA", 1, 0);
    if (lora && !m->lora) {
        dpo_model_free(m);
        return NULL;
    }
    return m;
}

DPO_API dpo_result dpo_plan_train(dpo_context *c, const dpo_model_config *config, const dpo_load_config *load,
                                  const dpo_lora_config *lora, const dpo_train_config *t, const dpo_data *data,
                                  const dpo_data *eval, dpo_plan *out) {
    dpo__shape most;
    dpo_trainer plan;
    dpo_train_config k;
    dpo_model *m;
    dpo_result r = DPO_OK;
    if (!c || c->error.code) return dpo_status(c);
    if (!config || !t || !out)
        return dpo__fail(c, DPO_E_ARG, "dpo_plan_train: configuration, options and out must not be NULL");
    k = *t;
    if (!k.loss) k.loss = dpo__loss_sigmoid;
    if (dpo__config_check(c, "dpo_plan_train", config) || dpo__train_check(c, &k)) return c->error.code;
    if (load && dpo__model_precision_check(c, "dpo_plan_train", load->precision)) return c->error.code;
    m = dpo__plan_model(c, config, load, lora);
    if (!m) return c->error.code;
    if (eval) r = dpo__data_fits(eval, m, dpo__train_batches(&k), &most);
    if (!r && eval) dpo__train_fit(&most, &k);
    if (!r) r = dpo__trainer_choose(m, data, eval, &k, &plan, out);
    dpo_model_free(m);
    return r;
}

DPO_API size_t dpo_plan_text(const dpo_plan *p, char *out, size_t cap) {
    const char *names[8] = {"weights",     "adapters", "gradients", "optimizer",
                            "activations", "logits",   "scratch",   "data"};
    uint64_t bytes[8] = {p->weights,     p->adapters, p->gradients, p->optimizer,
                         p->activations, p->logits,   p->scratch,   p->data};
    size_t at;
    int i;
    at = dpo__append(out, cap, 0, "plan: %lld parameters, %lld of them move; %lld examples, %lld updates\n",
                     (long long)p->parameters, (long long)p->trainable_parameters, (long long)p->examples,
                     (long long)p->steps);
    at = dpo__append(out, cap, at, "  micro-batches of at most %lld rows, longest path %lld, %.3g GFLOP an example\n",
                     (long long)p->micro_rows, (long long)p->max_path, p->flops_per_example / 1e9);
    at = dpo__append(out, cap, at, "  logits in tiles of %lld rows%s; activations of a layer are %s\n",
                     (long long)p->head_rows, p->head_twice ? ", computed twice" : "",
                     p->recompute ? "computed again" : "kept");
    for (i = 0; i < 8; i++)
        if (bytes[i]) at = dpo__append(out, cap, at, "  %-12s %10.2f MB\n", names[i], (double)bytes[i] / 1e6);
    return dpo__append(out, cap, at, "  %-12s %10.2f MB\n", "total", (double)p->total / 1e6);
}

/* ===========================================================================================
   >>EVALUATE - log-probabilities of given texts; rates, means, and how sure they are
   =========================================================================================== */

DPO_API double dpo_mean(const double *x, int64_t n, double *error) {
    dpo__fpenv env = dpo__fp_enter();
    double sum = 0.0, squares = 0.0, mean, nan = dpo__num_nan();
    int64_t i;
    for (i = 0; i < n; i++) sum = sum + x[i];
    mean = n > 0 ? sum / (double)n : nan;
    for (i = 0; i < n; i++) {
        double square = (x[i] - mean) * (x[i] - mean);
        squares = squares + square;
    }
    if (error) *error = n > 1 ? sqrt(squares / (double)(n - 1)) / sqrt((double)n) : nan;
    dpo__fp_leave(env);
    return mean;
}

DPO_API void dpo_wilson(double successes, double n, double *low, double *high) {
    const double z = 1.959963984540054, z2 = 3.841458820694124; /* the normal distribution's 97.5 %, squared */
    double p, middle, half, spread;
    *low = 0.0;
    *high = 1.0;
    if (!(n > 0.0)) return;
    p = successes / n;
    middle = p + z2 / (2.0 * n);
    spread = p * (1.0 - p) / n + z2 / (4.0 * n * n);
    half = z * sqrt(spread > 0.0 ? spread : 0.0);
    p = 1.0 + z2 / n;
    if (successes > 0.0) *low = (middle - half) / p; /* at both ends rounding would leave a crumb */
    if (successes < n) *high = (middle + half) / p;
}

/* ln n!: the product where it is short, Stirling's series (next term below 1e-19) where it is not. */
static double dpo__log_factorial(int64_t n) {
    double x = (double)n, sum = 0.0, series;
    int64_t i;
    if (n >= 256) {
        series = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * x * x)) / (x * x)) / x;
        sum = (x + 0.5) * dpo__num_log(x);
        return ((sum - x) + 0.91893853320467274178) + series;
    }
    for (i = 2; i <= n; i++) sum = sum + dpo__num_log((double)i);
    return sum;
}
DPO_API double dpo_mcnemar(int64_t b, int64_t c) {
    dpo__fpenv env = dpo__fp_enter();
    int64_t few = dpo__min64(b, c), n = b + c, i;
    double p = 1.0, term = 1.0, tail = 1.0;
    if (few >= 0 && b != c) { /* 2 P(X <= few): its last term, times what the others are in proportion */
        double log_term = dpo__log_factorial(n) - dpo__log_factorial(few) - dpo__log_factorial(n - few);
        double halves = (double)n * 0.69314718055994530942;
        for (i = few; i > 0 && term > 1e-18 * tail; i--) {
            term = term * (double)i / (double)(n - i + 1);
            tail = tail + term;
        }
        p = 2.0 * tail * dpo__num_exp(log_term - halves);
        if (p > 1.0) p = 1.0;
    }
    dpo__fp_leave(env);
    return p;
}

enum { DPO__BOOTSTRAP_TAIL = 1001 }; /* of 40000 draws 2.5 %, and the one behind them */

/* Keeps the smallest `most` numbers, in order. */
static void dpo__tail_add(double *tail, int64_t *n, int64_t most, double x) {
    int64_t i = *n;
    if (i == most && x >= tail[i - 1]) return;
    if (i < most) ++*n;
    else i--;
    for (; i > 0 && tail[i - 1] > x; i--) tail[i] = tail[i - 1];
    tail[i] = x;
}
DPO_API dpo_result dpo_bootstrap_mean(const double *x, int64_t n, uint64_t seed, int64_t draws, double *low,
                                      double *high) {
    double smallest[DPO__BOOTSTRAP_TAIL], largest[DPO__BOOTSTRAP_TAIL]; /* these negated */
    int64_t n_small = 0, n_large = 0, most = draws / 40 + 1, d, i;
    dpo__fpenv env;
    *low = *high = dpo__num_nan();
    if (!x || n < 1 || n > UINT32_MAX || draws < 40 || draws > 40000) return DPO_E_ARG;
    env = dpo__fp_enter();
    for (d = 0; d < draws; d++) {
        double sum = 0.0;
        for (i = 0; i < n; i++) sum = sum + x[dpo__random_below(seed, (uint64_t)d, (uint64_t)i, (uint64_t)n)];
        dpo__tail_add(smallest, &n_small, most, sum / (double)n);
        dpo__tail_add(largest, &n_large, most, -(sum / (double)n));
    }
    *low = smallest[most - 1];
    *high = -largest[most - 1];
    dpo__fp_leave(env);
    return DPO_OK;
}

/* --- sequences as a forest ------------------------------------------------------------------------- */

/* A batch of sequences in which each shares rows with the one before it as far as their ids are the same. */
typedef struct dpo__forest {
    const dpo_sequence *s;
    int64_t n;
    int64_t *shared; /* [n] ids in common with the one before */
    dpo__builder b;
    int64_t depth; /* segments on the path of the last sequence, and the positions where they end */
    int32_t path[DPO__MAX_DEPTH];
    int64_t ends[DPO__MAX_DEPTH];
} dpo__forest;

static int64_t dpo__sequence_shared(const dpo_sequence *a, const dpo_sequence *b) { /* the last id is no row */
    int64_t i, n = dpo__min64(a->n, b->n) - 1;
    for (i = 0; i < n && a->ids[i] == b->ids[i]; i++) {
    }
    return i;
}
/* Rows of sequence i that are new, cut where a later sequence will go another way. */
static void dpo__forest_segments(dpo__forest *f, int64_t i) {
    const dpo_sequence *s = &f->s[i];
    int64_t ends[DPO__MAX_DEPTH], from = f->shared[i], low = s->n - 1, n = 0, k;
    while (f->depth && f->ends[f->depth - 1] > from) f->depth--;
    ends[n++] = low;
    for (k = i + 1; k < f->n && f->shared[k] > from; k++) {
        if (f->shared[k] >= low) continue;
        if (f->depth + n < DPO__MAX_DEPTH) low = ends[n++] = f->shared[k];
        else f->shared[k] = 0; /* too deep: that one begins a tree of its own */
    }
    while (n-- > 0) {
        if (ends[n] == from) continue; /* nothing new: the beginning of the one before */
        k = dpo__builder_segment(&f->b, f->depth ? f->path[f->depth - 1] : -1, s->ids + from, ends[n] - from);
        f->path[f->depth] = (int32_t)k;
        f->ends[f->depth++] = from = ends[n];
    }
}
static void dpo__forest_add(dpo__forest *f, int64_t i) {
    const dpo_sequence *s = &f->s[i];
    int64_t p, d = 0;
    dpo__forest_segments(f, i);
    for (p = s->context; p < s->n; p++) {
        const dpo_segment *g;
        while (f->ends[d] < p) d++; /* position p - 1 foretells id p */
        g = &f->b.segments[f->path[d]];
        dpo__builder_target(&f->b, g->first + g->length - (f->ends[d] - (p - 1)), s->ids[p], i);
    }
}
/* Sequences s[0] .. s[n - 1]; NULL without memory. Freed by dpo__put. */
static dpo__forest *dpo__forest_make(dpo_context *c, const dpo_sequence *s, int64_t n, int separate) {
    dpo__arena a = {NULL, 0};
    dpo__forest plan, *f = &plan;
    dpo__shape cap;
    int64_t i;
    int pass;
    memset(&cap, 0, sizeof cap);
    cap.segments = 2 * n; /* each sequence adds at most one end and one cut */
    cap.sequences = n;
    for (i = 0; i < n; i++) {
        cap.rows += s[i].n - 1; /* as if nothing were shared */
        cap.targets += s[i].n - s[i].context;
    }
    for (pass = 0; pass < 2; pass++) {
        dpo__forest *own = DPO__CARVE(&a, dpo__forest, 1); /* the first one */
        if (pass) f = own;
        f->shared = DPO__CARVE(&a, int64_t, n);
        dpo__builder_layout(&a, &cap, &f->b);
        if (!pass && !dpo__arena_get(c, &a, "a batch of sequences")) return NULL;
    }
    f->s = s;
    f->n = n;
    f->depth = 0;
    dpo__builder_reset(&f->b);
    f->b.used.sequences = n;
    for (i = 0; i < n; i++) f->shared[i] = i && !separate ? dpo__sequence_shared(&s[i - 1], &s[i]) : 0;
    for (i = 0; i < n; i++) dpo__forest_add(f, i);
    return f;
}

/* How many of s[0] .. s[n - 1] make a batch of about max_rows rows. If not all, it ends where least is shared with the
   next in its second half: a context is not often computed twice. */
static int64_t dpo__forest_size(const dpo_sequence *s, int64_t n, int64_t max_rows, int separate) {
    int64_t i, rows = 0, targets = 0, cut, least = INT64_MAX;
    for (i = 0; i < n; i++) {
        rows += s[i].n - 1 - (i && !separate ? dpo__sequence_shared(&s[i - 1], &s[i]) : 0);
        targets += s[i].n - s[i].context;
        if (i && (rows > max_rows || targets > max_rows)) break;
    }
    if (i == n) return n;
    for (cut = n = i; i > n / 2 && i > 0; i--) {
        int64_t shared = dpo__sequence_shared(&s[i - 1], &s[i]);
        if (shared < least) {
            least = shared;
            cut = i;
        }
    }
    return cut;
}

/* --- scores ---------------------------------------------------------------------------------------- */

typedef struct dpo__scoring { /* [0] of the policy, [1] of the reference */
    int n;                    /* of them */
    dpo_model *m[2];
    dpo__run *run[2];
    dpo__head head[2];       /* the tile at hand */
    dpo_token_score *tokens; /* of the tile */
} dpo__scoring;

/* log p of the whole vocabulary lies in z but for a constant, which the token's own log-prob tells. */
static double dpo__score_kl(const dpo__head *p, const dpo__head *q, int64_t i) {
    const float *z = p->z + i * p->vocab, *y = q->z + i * q->vocab;
    double kl = 0.0, a = p->logp[i] - (double)z[p->token[i]], b = q->logp[i] - (double)y[q->token[i]];
    int64_t v;
    for (v = 0; v < q->vocab; v++) {
        double log_q = (double)y[v] + b, log_p = (double)z[v] + a, part = dpo__num_exp(log_q) * (log_q - log_p);
        kl = kl + part;
    }
    return kl > 0.0 ? kl : kl - kl; /* never below 0 by rounding; NaN stays */
}
static void dpo__score_rows(void *arg, int64_t first, int64_t last, int worker) {
    const dpo__scoring *s = (const dpo__scoring *)arg;
    int64_t i, v;
    (void)worker;
    for (i = first; i < last; i++) {
        const dpo__head *h = s->head;
        const float *z = h->z + i * h->vocab;
        dpo_token_score *t = &s->tokens[i];
        t->logp = h[0].logp[i];
        t->reference_logp = s->n > 1 ? h[1].logp[i] : 0.0;
        t->kl = s->n > 1 ? dpo__score_kl(&h[0], &h[1], i) : 0.0;
        t->likeliest = 0;
        for (v = 1; v < h->vocab; v++)
            if (z[v] > z[t->likeliest]) t->likeliest = v;
    }
}
/* Model k does the work of its run: the whole batch, or the head for n targets from i. The reference may be the policy
   itself without its adapters. */
static void dpo__score_pass(dpo__scoring *s, int k, const dpo_batch *b, int64_t i, int64_t n) {
    dpo__lora *l = s->m[k]->lora;
    dpo__run *r = s->run[k];
    int on = l ? l->on : 0;
    dpo__linear w;
    if (l && k && s->m[1] == s->m[0]) l->on = 0;
    if (b) (void)dpo__run_forward(r, b); /* the context keeps its error */
    else {
        s->head[k] = dpo__head_tile(r, n, &w);
        (void)dpo__head_gather(r, i, n);
        dpo__head_forward(&s->head[k], &w, r->head_norm, r->lora);
    }
    if (l) l->on = on;
}
/* One batch; tokens [its targets]. */
static dpo_result dpo__score_batch(dpo__scoring *s, const dpo_batch *b, dpo_token_score *tokens) {
    dpo_context *c = s->m[0]->c;
    dpo__fpenv env;
    int64_t i, n;
    int k;
    s->run[0] = s->run[1] = NULL;
    for (k = 0; k < s->n && !c->error.code; k++) s->run[k] = dpo__model_pass(s->m[k], b, "dpo_score_sequences", tokens);
    env = dpo__fp_enter();
    for (k = 0; k < s->n && !c->error.code; k++) dpo__score_pass(s, k, b, 0, 0);
    for (i = 0; i < b->n_targets && !c->error.code; i += n) {
        n = dpo__min64(s->run[0]->head_rows, b->n_targets - i);
        for (k = 0; k < s->n; k++) dpo__score_pass(s, k, NULL, i, n);
        s->tokens = tokens + i;
        dpo__split_run(c, n, 1, dpo__score_rows, s);
    }
    dpo__fp_leave(env);
    dpo__put(c, s->run[0]);
    dpo__put(c, s->run[1]);
    return c->error.code;
}
/* A sequence's sums. */
static dpo_result dpo__score_sum(dpo_context *c, const dpo_sequence *s, int64_t i, const dpo_token_score *t,
                                 dpo_score *out) {
    int64_t p;
    out->greedy = 1;
    for (p = s->context; p < s->n; p++, t++) {
        out->logp = out->logp + t->logp;
        out->reference_logp = out->reference_logp + t->reference_logp;
        out->kl = out->kl + t->kl;
        out->greedy &= t->likeliest == s->ids[p];
        if (t->logp != t->logp || t->reference_logp != t->reference_logp)
            return dpo__fail(
                c, DPO_E_NONFINITE,
                "dpo_score_sequences: the log-probability of id %ld (%ld) of sequence %ld is not a number; "
                "are there NaNs or infinities among the weights?",
                (long)p, (long)s->ids[p], (long)i);
    }
    out->tokens = s->n - s->context;
    return DPO_OK;
}
static dpo_result dpo__score_check(const dpo_model *m, const dpo_sequence *s, int64_t n, const dpo_score_config *k,
                                   const dpo_score *out) {
    const dpo_model *r = k->reference;
    int64_t i;
    if (n < 0 || (n && (!s || !out)) || k->max_rows < 0 || k->max_rows > INT32_MAX / 4)
        return dpo__fail(m->c, DPO_E_ARG,
                         "dpo_score_sequences: %ld sequences, max_rows %ld, or a pointer is NULL; expected sequences, "
                         "room for their scores, and 0 to 2^29 rows",
                         (long)n, (long)k->max_rows);
    if (r && r->c != m->c)
        return dpo__fail(m->c, DPO_E_ARG,
                         "dpo_score_sequences: model and reference are of two contexts; load both with one");
    if (r && r->config.vocab_size != m->config.vocab_size)
        return dpo__fail(m->c, DPO_E_SHAPE,
                         "dpo_score_sequences: the model's vocabulary is %d, the reference's %d; expected the same",
                         m->config.vocab_size, r->config.vocab_size);
    for (i = 0; i < n; i++)
        if (!s[i].ids || s[i].context < 1 || s[i].n <= s[i].context || s[i].n > INT32_MAX / 4)
            return dpo__fail(m->c, DPO_E_ARG,
                             "dpo_score_sequences: sequence %ld has %ld ids after a context of %ld; expected at least "
                             "one id of each, and below 2^29",
                             (long)i, (long)(s[i].n - s[i].context), (long)s[i].context);
    return DPO_OK;
}
DPO_API dpo_result dpo_score_sequences(dpo_model *m, const dpo_sequence *s, int64_t n, const dpo_score_config *k,
                                       dpo_score *out, dpo_token_score *tokens) {
    dpo_score_config o;
    dpo__scoring scoring;
    int64_t i, j, size, at;
    dpo__fpenv env;
    DPO__READY(m, m->c);
    memset(&o, 0, sizeof o);
    if (k) o = *k;
    if (!o.max_rows) o.max_rows = 2048;
    if (dpo__score_check(m, s, n, &o, out)) return m->c->error.code;
    memset(&scoring, 0, sizeof scoring);
    scoring.n = o.reference ? 2 : 1;
    scoring.m[0] = m;
    scoring.m[1] = o.reference;
    if (n) memset(out, 0, (size_t)n * sizeof *out);
    for (i = 0; i < n && !m->c->error.code; i += size) {
        dpo__forest *f;
        dpo_batch b;
        dpo_token_score *t = NULL;
        env = dpo__fp_enter();
        if (dpo__cancelled(m->c, env)) dpo__fail(m->c, DPO_E_CANCELLED, "scoring was cancelled");
        dpo__progress(m->c, env, "score", i, n);
        dpo__fp_leave(env);
        size = dpo__forest_size(s + i, n - i, o.max_rows, o.separate);
        f = m->c->error.code ? NULL : dpo__forest_make(m->c, s + i, size, o.separate);
        if (f) b = dpo__builder_batch(&f->b);
        if (f) t = (dpo_token_score *)dpo__get(m->c, (size_t)b.n_targets * sizeof *t, "scores");
        if (t && !dpo__score_batch(&scoring, &b, t)) {
            if (o.rows) *o.rows += b.n_rows;
            for (j = at = 0; j < size && !m->c->error.code; at += s[i + j].n - s[i + j].context, j++)
                dpo__score_sum(m->c, &s[i + j], i + j, t + at, &out[i + j]);
            if (tokens) memcpy(tokens, t, (size_t)b.n_targets * sizeof *t);
            if (tokens) tokens += b.n_targets;
        }
        dpo__put(m->c, t);
        dpo__put(m->c, f);
    }
    return m->c->error.code;
}

/* ===========================================================================================
   >>LAYER_CALLS - level 3: the layers on tensors, shapes checked
   =========================================================================================== */

typedef int64_t dpo__sizes[128]; /* what the letters of a signature stand for; -1: nothing yet */
DPO__INLINE int64_t dpo__size(const int64_t *size, char letter) { return size[(int)letter]; }

static dpo_result dpo__signature_fail(dpo_context *c, const char *who, const char *word, const int64_t *want, int n,
                                      const dpo_tensor *t) {
    const char *type = dpo_dtype_name(t->dtype);
    char expected[200], got[200] = "";
    size_t e = 0, g = 0;
    int i, name = (int)(strpbrk(word, "?[") - word), all = (int)(strchr(word, ']') + 1 - word);
    for (i = 0; i < n; i++) e = dpo__append(expected, sizeof expected, e, i ? ",%lld" : "%lld", (long long)want[i]);
    for (i = 0; i < t->ndim && i < DPO_MAX_DIMS; i++)
        g = dpo__append(got, sizeof got, g, i ? ",%lld" : "%lld", (long long)t->shape[i]);
    return dpo__fail(c, DPO_E_SHAPE, "%s: %.*s must be F32 with data, %.*s = [%s] (-1: any); it is %s [%s]%s", who,
                     name, word, all, word, expected, type ? type : "of no type", got, t->data ? "" : " without data");
}
/* Checks F32 tensors against a signature, a word for each: "x[N,d] b?[d]", where ? says that b may have no data.
   A letter is one size wherever it stands: what the first tensor that has it says, 0 if that one has no data. */
static dpo_result dpo__signature(dpo_context *c, const char *who, int64_t *size, const char *signature, ...) {
    const char *word = signature, *p;
    va_list args;
    dpo_result r = DPO_OK;
    memset(size, 255, sizeof(dpo__sizes));
    size[(int)'2'] = 2;
    va_start(args, signature);
    while (*word && !r) {
        const dpo_tensor *t = va_arg(args, const dpo_tensor *);
        int64_t want[DPO_MAX_DIMS];
        int n = 0, none, fits;
        p = strchr(word, '[');
        none = p[-1] == '?' && !t->data;
        fits = none || (t->data && t->dtype == DPO_F32);
        for (; *p != ']'; p += 2, n++) { /* at [ or a comma before a letter */
            int64_t *known = &size[(int)p[1]];
            if (*known < 0) *known = none ? 0 : n < t->ndim ? t->shape[n] : -1;
            want[n] = *known;
            fits = fits && (none || (want[n] >= 0 && n < t->ndim && t->shape[n] == want[n]));
        }
        if (!fits || (!none && t->ndim != n)) r = dpo__signature_fail(c, who, word, want, n, t);
        word = p[1] ? p + 2 : p + 1;
    }
    va_end(args);
    return r;
}

DPO__INLINE float *dpo__f(dpo_tensor t) { return (float *)t.data; }

static dpo_result dpo__ids_in(dpo_context *c, const char *who, const int32_t *ids, int64_t n, int64_t vocab) {
    int64_t i;
    if (!ids && n) return dpo__fail(c, DPO_E_ARG, "%s: ids must not be NULL", who);
    for (i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return dpo__fail(c, DPO_E_SHAPE, "%s: id %ld is %ld, outside 0..%ld", who, (long)i, (long)ids[i],
                             (long)vocab - 1);
    return DPO_OK;
}

static dpo_result dpo__embedding_call(dpo_context *c, const char *who, dpo_tensor table, const int32_t *ids,
                                      dpo_tensor y, int back) {
    dpo__sizes size;
    dpo__embedding e;
    DPO__READY(c, c);
    if (dpo__signature(c, who, size, "table[V,d] rows[N,d]", &table, &y) ||
        dpo__ids_in(c, who, ids, dpo__size(size, 'N'), dpo__size(size, 'V')))
        return c->error.code;
    e = dpo__embedding_of(c, ids, dpo__size(size, 'N'), dpo__size(size, 'd'));
    e.table = e.dtable = dpo__f(table);
    e.x = dpo__f(y);
    e.dx = e.x;
    DPO__COMPUTE(back ? dpo__embedding_backward(&e) : dpo__embedding_forward(&e));
    return DPO_OK;
}
DPO_API dpo_result dpo_embedding_forward(dpo_context *c, dpo_tensor y, const int32_t *ids, dpo_tensor table) {
    return dpo__embedding_call(c, "dpo_embedding_forward", table, ids, y, 0);
}
DPO_API dpo_result dpo_embedding_backward(dpo_context *c, dpo_tensor dtable, const int32_t *ids, dpo_tensor dy) {
    return dpo__embedding_call(c, "dpo_embedding_backward", dtable, ids, dy, 1);
}

static dpo_result dpo__norm_kind(dpo_context *c, const char *who, int kind) {
    if (kind == DPO_NORM_LAYER || kind == DPO_NORM_RMS) return DPO_OK;
    return dpo__fail(c, DPO_E_ARG, "%s: kind is %d; expected DPO_NORM_LAYER or DPO_NORM_RMS", who, kind);
}
DPO_API dpo_result dpo_norm_forward(dpo_context *c, int kind, dpo_tensor y, dpo_tensor stats, dpo_tensor x,
                                    dpo_tensor w, dpo_tensor b, double eps) {
    const char *who = "dpo_norm_forward";
    dpo__sizes size;
    dpo__norm l;
    DPO__READY(c, c);
    if (dpo__norm_kind(c, who, kind) ||
        dpo__signature(c, who, size, "x[N,d] w[d] b?[d] y[N,d] stats[N,2]", &x, &w, &b, &y, &stats))
        return c->error.code;
    if (!(eps >= 0 && eps < 1) || dpo__size(size, 'd') < 1)
        return dpo__fail(c, DPO_E_ARG, "%s: eps must lie from 0 to 1, and rows must not be empty", who);
    l = dpo__norm_of(c, kind, dpo__size(size, 'N'), dpo__size(size, 'd'), dpo__f(x), dpo__f(w), dpo__f(stats));
    l.b = dpo__f(b);
    l.y = dpo__f(y);
    l.eps = (float)eps;
    DPO__COMPUTE(dpo__norm_forward(&l));
    return DPO_OK;
}
DPO_API dpo_result dpo_norm_backward(dpo_context *c, int kind, dpo_tensor dx, dpo_tensor dw, dpo_tensor db,
                                     dpo_tensor dy, dpo_tensor x, dpo_tensor w, dpo_tensor stats) {
    const char *who = "dpo_norm_backward";
    dpo__sizes size;
    dpo__norm l;
    DPO__READY(c, c);
    if (dpo__norm_kind(c, who, kind) ||
        dpo__signature(c, who, size, "x[N,d] w[d] stats[N,2] dy[N,d] dx?[N,d] dw?[d] db?[d]", &x, &w, &stats, &dy, &dx,
                       &dw, &db))
        return c->error.code;
    l = dpo__norm_of(c, kind, dpo__size(size, 'N'), dpo__size(size, 'd'), dpo__f(x), dpo__f(w), dpo__f(stats));
    l.dy = dpo__f(dy);
    l.dx = dpo__f(dx);
    l.dw = dpo__f(dw);
    l.db = dpo__f(db);
    DPO__COMPUTE(dpo__norm_backward(&l));
    return DPO_OK;
}
static dpo_tensor dpo__no_tensor(void) { return dpo_tensor_f32(NULL, 0, 0, 0, 0); }

/* grad NULL: forward to y; else backward from it, which is dy then. */
static dpo_result dpo__linear_call(dpo_context *c, const char *who, const dpo_linear *l, dpo_tensor x, dpo_tensor y,
                                   const dpo_linear *grad, dpo_tensor dx) {
    dpo_linear none;
    const dpo_linear *g = grad ? grad : &none;
    dpo_tensor w = l->w;
    dpo__sizes size;
    dpo__linear k;
    dpo__linear_grad to;
    dpo__fpenv env;
    float *h = NULL;
    memset(&none, 0, sizeof none);
    if (w.dtype == DPO_BF16) w.dtype = DPO_F32; /* as good */
    if (dpo__signature(c, who, size,
                       "w[o,i] b?[o] a?[r,i] bb?[o,r] x[N,i] y[N,o] dx?[N,i] dw?[o,i] db?[o] da?[r,i] dbb?[o,r]", &w,
                       &l->b, &l->a, &l->bb, &x, &y, &dx, &g->w, &g->b, &g->a, &g->bb))
        return c->error.code;
    if (!l->a.data != !l->bb.data) return dpo__fail(c, DPO_E_SHAPE, "%s: an adapter needs both a and bb", who);
    memset(&k, 0, sizeof k);
    k.w = w.data;
    k.dtype = l->w.dtype;
    k.bf16 = k.dtype == DPO_BF16;
    k.b = dpo__f(l->b);
    k.lora_a = dpo__f(l->a);
    k.lora_b = dpo__f(l->bb);
    k.out = dpo__size(size, 'o');
    k.in = dpo__size(size, 'i');
    k.r = dpo__size(size, 'r');
    k.scale = (float)l->scale;
    to.w = dpo__f(g->w);
    to.b = dpo__f(g->b);
    to.lora_a = dpo__f(g->a);
    to.lora_b = dpo__f(g->bb);
    if (k.r && !(h = (float *)dpo__get(c, (size_t)(2 * dpo__size(size, 'N') * k.r) * sizeof *h, "an adapter")))
        return DPO_E_MEMORY;
    env = dpo__fp_enter();
    if (grad)
        dpo__linear_backward(c, &k, &to, dpo__f(dx), k.in, 0, dpo__f(y), k.out, dpo__f(x), k.in, dpo__size(size, 'N'),
                             h);
    else dpo__linear_forward(c, &k, dpo__f(y), k.out, dpo__f(x), k.in, dpo__size(size, 'N'), h);
    dpo__fp_leave(env);
    dpo__put(c, h);
    return DPO_OK;
}
DPO_API dpo_result dpo_linear_forward(dpo_context *c, dpo_tensor y, dpo_tensor x, const dpo_linear *l) {
    DPO__READY(c, c);
    if (!l) return dpo__fail(c, DPO_E_ARG, "dpo_linear_forward: the module must not be NULL");
    return dpo__linear_call(c, "dpo_linear_forward", l, x, y, NULL, dpo__no_tensor());
}
DPO_API dpo_result dpo_linear_backward(dpo_context *c, dpo_tensor dx, const dpo_linear *grad, dpo_tensor dy,
                                       dpo_tensor x, const dpo_linear *l) {
    DPO__READY(c, c);
    if (!l || !grad) return dpo__fail(c, DPO_E_ARG, "dpo_linear_backward: module and gradients must not be NULL");
    return dpo__linear_call(c, "dpo_linear_backward", l, x, dy, grad, dx);
}

static dpo_result dpo__rope_call(dpo_context *c, const char *who, dpo_tensor x, const int32_t *positions,
                                 int rotary_dim, double theta, float turn) {
    dpo__sizes size;
    dpo_model_config k;
    dpo__rope l;
    dpo__fpenv env;
    float *cosines, *sines;
    int32_t *rows;
    int64_t n, half = rotary_dim / 2, i;
    DPO__READY(c, c);
    if (dpo__signature(c, who, size, "x[N,H,D]", &x)) return c->error.code;
    if (!positions || rotary_dim < 0 || rotary_dim % 2 || rotary_dim > dpo__size(size, 'D') || !(theta > 0))
        return dpo__fail(c, DPO_E_ARG,
                         "%s: needs positions, theta above 0, and rotary_dim even and at most the head size", who);
    n = dpo__size(size, 'N');
    if (!n || !half) return DPO_OK;
    cosines = (float *)dpo__get(c, (size_t)(n * half) * 8 + (size_t)n * 4, "rotation angles");
    if (!cosines) return DPO_E_MEMORY;
    sines = cosines + n * half;
    rows = (int32_t *)(void *)(sines + n * half);
    memset(&k, 0, sizeof k);
    k.rotary_dim = rotary_dim;
    k.rope_theta = theta;
    env = dpo__fp_enter();
    dpo__rope_tables(&k, positions, n, cosines, sines);
    for (i = 0; i < n; i++) rows[i] = (int32_t)i; /* a table row for each row */
    l.c = c;
    l.x = dpo__f(x);
    l.row = dpo__size(size, 'H') * dpo__size(size, 'D');
    l.head = dpo__size(size, 'D');
    l.n = n;
    l.heads = dpo__size(size, 'H');
    l.half = half;
    l.positions = rows;
    l.cosines = cosines;
    l.sines = sines;
    l.turn = turn;
    dpo__split_run(c, n, 1, dpo__rope_rows, &l);
    dpo__fp_leave(env);
    dpo__put(c, cosines);
    return DPO_OK;
}
DPO_API dpo_result dpo_rope_forward(dpo_context *c, dpo_tensor x, const int32_t *positions, int rotary_dim,
                                    double theta) {
    return dpo__rope_call(c, "dpo_rope_forward", x, positions, rotary_dim, theta, 1.0f);
}
DPO_API dpo_result dpo_rope_backward(dpo_context *c, dpo_tensor dx, const int32_t *positions, int rotary_dim,
                                     double theta) {
    return dpo__rope_call(c, "dpo_rope_backward", dx, positions, rotary_dim, theta, -1.0f);
}

/* Places the forest and carves scratch, all in one block, which is returned; NULL: c says why. */
static void *dpo__attention_open(dpo_context *c, const dpo_segment *segments, int64_t n_segments, int back,
                                 dpo__attention *l) {
    int64_t rows = l->max_path, scratch = dpo__attention_scratch(l->heads, l->kv_heads, l->dim, rows, back);
    dpo_batch b;
    dpo__shape s;
    dpo__arena a = {NULL, 0};
    int32_t *positions, *trees;
    dpo__asked *asked;
    int pass, w;
    for (pass = 0; pass < 2; pass++) {
        trees = DPO__CARVE(&a, int32_t, n_segments + 1);
        asked = DPO__CARVE(&a, dpo__asked, n_segments);
        positions = DPO__CARVE(&a, int32_t, rows);
        l->scratch = DPO__CARVE(&a, float *, c->pool.n);
        for (w = 0; w < c->pool.n; w++) {
            float *p = DPO__CARVE(&a, float, scratch);
            if (pass) l->scratch[w] = p;
        }
        if (!pass && !dpo__arena_get(c, &a, "attention")) return NULL;
    }
    memset(positions, 0, (size_t)rows * sizeof *positions); /* they stand for tokens: all are 0 of 1 */
    memset(&b, 0, sizeof b);
    b.tokens = positions;
    b.n_rows = rows;
    b.segments = l->segments = segments;
    b.n_segments = n_segments;
    if (dpo__batch_check(c, &b, 1, 0, &s) || dpo__batch_place(c, &b, positions, trees, &l->n_trees)) {
        dpo__put(c, a.base);
        return NULL;
    }
    dpo__asked_all(&b, asked);
    l->asked = asked;
    l->trees = trees;
    return a.base;
}
/* t: q, k, v, stats, out, and gradients; the backward pass takes dout as out, the forward one needs no gradients and is
   given the inputs again. */
static dpo_result dpo__attention_call(dpo_context *c, const char *who, const dpo_tensor *t, int back,
                                      const dpo_segment *segments, int64_t n_segments, double scale,
                                      const float *slopes) {
    dpo__sizes size;
    dpo__attention l;
    void *block;
    if (dpo__signature(c, who, size, "q[N,H,D] k[N,K,D] v[N,K,D] stats[N,H,2] out[N,H,D] dq[N,H,D] dk[N,K,D] dv[N,K,D]",
                       &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]))
        return c->error.code;
    if (dpo__size(size, 'H') < 1 || dpo__size(size, 'K') < 1 || dpo__size(size, 'H') % dpo__size(size, 'K') ||
        !(scale - scale == 0.0))
        return dpo__fail(c, DPO_E_SHAPE, "%s: key heads must divide query heads, the scale must be finite", who);
    if (!segments || n_segments < 1 || n_segments > dpo__size(size, 'N'))
        return dpo__fail(c, DPO_E_ARG, "%s: needs 1 to N segments", who);
    memset(&l, 0, sizeof l);
    l.c = c;
    l.heads = dpo__size(size, 'H');
    l.kv_heads = dpo__size(size, 'K');
    l.q_head = l.k_head = l.v_head = l.dim = dpo__size(size, 'D');
    l.q_row = l.heads * l.dim;
    l.k_row = l.v_row = l.kv_heads * l.dim;
    l.max_path = dpo__size(size, 'N');
    l.scale = (float)scale;
    l.slopes = slopes;
    l.q = dpo__f(t[0]);
    l.k = dpo__f(t[1]);
    l.v = dpo__f(t[2]);
    l.stats = dpo__f(t[3]);
    l.out = dpo__f(t[4]);
    if (back) {
        l.dout = l.out;
        l.dq = dpo__f(t[5]);
        l.dk = dpo__f(t[6]);
        l.dv = dpo__f(t[7]);
    }
    block = dpo__attention_open(c, segments, n_segments, back, &l);
    if (!block) return c->error.code;
    DPO__COMPUTE(back ? dpo__attention_backward(&l) : dpo__attention_forward(&l));
    dpo__put(c, block);
    return DPO_OK;
}
DPO_API dpo_result dpo_attention_forward(dpo_context *c, dpo_tensor out, dpo_tensor stats, dpo_tensor q, dpo_tensor k,
                                         dpo_tensor v, const dpo_segment *segments, int64_t n_segments, double scale,
                                         const float *slopes) {
    const dpo_tensor t[8] = {q, k, v, stats, out, q, k, v};
    DPO__READY(c, c);
    return dpo__attention_call(c, "dpo_attention_forward", t, 0, segments, n_segments, scale, slopes);
}
DPO_API dpo_result dpo_attention_backward(dpo_context *c, dpo_tensor dq, dpo_tensor dk, dpo_tensor dv, dpo_tensor dout,
                                          dpo_tensor stats, dpo_tensor q, dpo_tensor k, dpo_tensor v,
                                          const dpo_segment *segments, int64_t n_segments, double scale,
                                          const float *slopes) {
    const dpo_tensor t[8] = {q, k, v, stats, dout, dq, dk, dv};
    DPO__READY(c, c);
    return dpo__attention_call(c, "dpo_attention_backward", t, 1, segments, n_segments, scale, slopes);
}

/* Elementwise: any tensor is a row of its elements, as long as all have as many. */
static dpo_tensor dpo__flat(dpo_tensor t) {
    int64_t n = 1;
    int i;
    for (i = 0; i < t.ndim && i < DPO_MAX_DIMS; i++) n = t.shape[i] < 0 ? -1 : n * t.shape[i];
    t.ndim = 1;
    t.shape[0] = n;
    return t;
}
/* to: y, or dx; the backward pass has a dy. */
static dpo_result dpo__activation_call(dpo_context *c, const char *who, int kind, int back, dpo_tensor x, dpo_tensor to,
                                       dpo_tensor dy, dpo_tensor gate, dpo_tensor dgate) {
    static const char *const signatures[2][2] = {{"x[n] y[n]", "x[n] dx[n] dy[n]"},
                                                 {"x[n] y[n] dy?[n] gate[n]", "x[n] dx[n] dy[n] gate[n] dgate[n]"}};
    dpo_tensor t[5] = {dpo__flat(x), dpo__flat(to), dpo__flat(dy), dpo__flat(gate), dpo__flat(dgate)};
    dpo__sizes size;
    dpo__activation a;
    DPO__READY(c, c);
    if (kind != DPO_GELU && kind != DPO_GELU_TANH && kind != DPO_SWIGLU)
        return dpo__fail(c, DPO_E_ARG, "%s: kind is %d; expected DPO_GELU, DPO_GELU_TANH or DPO_SWIGLU", who, kind);
    if (dpo__signature(c, who, size, signatures[kind == DPO_SWIGLU][back], &t[0], &t[1], &t[2], &t[3], &t[4]))
        return c->error.code;
    memset(&a, 0, sizeof a);
    a.c = c;
    a.kind = kind;
    a.x = dpo__f(x);
    a.y = a.dx = dpo__f(to);
    a.dy = dpo__f(dy);
    a.gate = dpo__f(gate);
    a.dgate = dpo__f(dgate);
    DPO__COMPUTE(back ? dpo__activation_backward(&a, dpo__size(size, 'n'))
                      : dpo__activation_forward(&a, dpo__size(size, 'n')));
    return DPO_OK;
}
DPO_API dpo_result dpo_activation_forward(dpo_context *c, int kind, dpo_tensor y, dpo_tensor x, dpo_tensor gate) {
    dpo_tensor none = dpo__no_tensor();
    return dpo__activation_call(c, "dpo_activation_forward", kind, 0, x, y, none, gate, none);
}
DPO_API dpo_result dpo_activation_backward(dpo_context *c, int kind, dpo_tensor dx, dpo_tensor dgate, dpo_tensor dy,
                                           dpo_tensor x, dpo_tensor gate) {
    return dpo__activation_call(c, "dpo_activation_backward", kind, 1, x, dx, dy, gate, dgate);
}

/* Tiles of DPO__HEAD_ROWS rows; backward when weights are given. */
static dpo_result dpo__head_call(dpo_context *c, const char *who, double *logps, const double *weights, dpo_tensor x,
                                 dpo_tensor w, dpo_tensor dx, dpo_tensor dw, const int32_t *token, double scale) {
    dpo__sizes size;
    dpo__head h;
    dpo__linear l;
    dpo__linear_grad g;
    dpo__fpenv env;
    int64_t i, rows, blocks;
    float *z, *weighted;
    double *scores;
    DPO__READY(c, c);
    if (dpo__signature(c, who, size, "x[N,d] w[V,d] dx?[N,d] dw?[V,d]", &x, &w, &dx, &dw) ||
        dpo__ids_in(c, who, token, dpo__size(size, 'N'), dpo__size(size, 'V')))
        return c->error.code;
    rows = dpo__min64(DPO__HEAD_ROWS, dpo__max64(dpo__size(size, 'N'), 1));
    blocks = 2 * dpo__head_blocks(dpo__size(size, 'V'));
    scores = (double *)dpo__get(
        c, (size_t)rows * (8 + 8 + 4 * (size_t)(blocks + dpo__size(size, 'V') + dpo__size(size, 'd'))),
        "a tile of logits");
    if (!scores) return DPO_E_MEMORY;
    z = (float *)(void *)(scores + rows);
    memset(&h, 0, sizeof h);
    memset(&l, 0, sizeof l);
    memset(&g, 0, sizeof g);
    l.w = dpo__f(w);
    l.out = h.vocab = dpo__size(size, 'V');
    l.in = h.d = dpo__size(size, 'd');
    g.w = dpo__f(dw);
    h.c = c;
    h.scale = (float)scale;
    h.logp = scores;
    h.stats = z;
    h.blocks = z + 2 * rows;
    h.z = h.blocks + blocks * rows;
    weighted = h.z + rows * h.vocab;
    env = dpo__fp_enter();
    for (i = 0; i < dpo__size(size, 'N'); i += rows) {
        float *xi = dpo__f(x) + i * h.d, *dxi = dx.data ? dpo__f(dx) + i * h.d : NULL;
        h.rows = dpo__min64(rows, dpo__size(size, 'N') - i);
        h.token = token + i;
        dpo__head_forward(&h, &l, xi, NULL);
        if (logps) memcpy(logps + i, scores, (size_t)h.rows * sizeof *scores);
        if (!weights) continue;
        dpo__weigh_rows(c, h.rows, h.d, weighted, xi, weights + i, h.scale);
        dpo__head_backward(&h, &l, &g, dxi, weighted, NULL);
        if (dxi) dpo__weigh_rows(c, h.rows, h.d, dxi, dxi, weights + i, h.scale);
    }
    dpo__fp_leave(env);
    dpo__put(c, scores);
    return DPO_OK;
}
DPO_API dpo_result dpo_head_forward(dpo_context *c, double *logps, dpo_tensor x, dpo_tensor w, const int32_t *token,
                                    double scale) {
    return dpo__head_call(c, "dpo_head_forward", logps, NULL, x, w, dpo__no_tensor(), dpo__no_tensor(), token, scale);
}
DPO_API dpo_result dpo_head_backward(dpo_context *c, dpo_tensor dx, dpo_tensor dw, const double *weights, dpo_tensor x,
                                     dpo_tensor w, const int32_t *token, double scale) {
    DPO__READY(c, c);
    if (!weights) return dpo__fail(c, DPO_E_ARG, "dpo_head_backward: weights must not be NULL");
    return dpo__head_call(c, "dpo_head_backward", NULL, weights, x, w, dx, dw, token, scale);
}

/* One number through the row kernels' scalar form: the bits every kernel gives. */
#define DPO__MATH(name, type, value)                                                                                   \
    DPO_API type dpo_math_##name(type x) {                                                                             \
        DPO__COMPUTE(x = value);                                                                                       \
        return x;                                                                                                      \
    }
DPO__MATH(exp, float, dpo__lanes_exp(0, dpo__lanes_set(x)).x[0])
DPO__MATH(log, float, dpo__lanes_log(0, dpo__lanes_set(x)).x[0])
DPO__MATH(tanh, float, dpo__lanes_tanh(0, dpo__lanes_set(x)).x[0])
DPO__MATH(erf, float, dpo__lanes_erf(0, dpo__lanes_set(x)).x[0])
DPO__MATH(sin, double, dpo__num_sin(x))
DPO__MATH(cos, double, dpo__num_cos(x))
DPO_API uint16_t dpo_bf16_from_f32(float x) { return dpo__num_bf16_from(x); }
DPO_API float dpo_f32_from_bf16(uint16_t x) { return dpo__num_bf16_to(x); }
DPO_API uint16_t dpo_f16_from_f32(float x) { return dpo__num_f16_from(x); }
DPO_API float dpo_f32_from_f16(uint16_t x) { return dpo__num_f16_to(x); }

#ifdef __cplusplus
}
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif /* DPO_IMPLEMENTATION */
