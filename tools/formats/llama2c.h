/* llama2c.h: reads the checkpoints of llama2.c (karpathy/llama2.c: run.c, export.py) and its tok*.bin, for dpo-convert.
 *
 *     char err[512], json[1024];
 *     llama2c_file *f = llama2c_open("stories15M.bin", err, sizeof err);
 *     if (!f) return cli_die("%s", err);
 *     for (i = 0; i < llama2c_count(f); i++) {
 *         const dpo_tensor *t = llama2c_tensor(f, i);              a Hugging Face name, a shape, DPO_F32
 *         const void *values = llama2c_read(f, i, err, sizeof err); until the next read; NULL: err says why
 *     }
 *     llama2c_config_json(f, json, sizeof json);                    config.json of a LlamaForCausalLM
 *     llama2c_close(f);
 *
 * A checkpoint is a header and F32 values, little-endian, all layers of one kind of matrix after another:
 *
 *     legacy      7 int32: dim, hidden, layers, heads, key/value heads, vocabulary (negative: the output head is a matrix
 *                 of its own), positions. Then the embedding, attention norms, wq, wk, wv, wo, MLP norms, w1, w2, w3, the
 *                 last norm, two tables of positions x (head size / 2) that nobody needs, the head if it is untied
 *     version 1   256 bytes: 0x616b3432, 1, the same 7 int32, a byte "shared classifier", zeros. Then attention norms,
 *                 MLP norms, the last norm, the embedding, wq, wk, wv, wo, w1, w2, w3, the head if it is untied
 *     version 2   quantised to int8: refused
 *
 * There is no name or shape in it, so the size of the file must be the header's to the byte. llama2.c turns neighbouring
 * pairs (2i, 2i + 1) of a head by their rotary angle, Hugging Face's Llama the pairs (i, i + half): the rows of q and k
 * are put in that order on their way, and the scores stay what they were.
 *
 * Memory: the largest tensor, and one head's rows. Any bytes are safe. */
#ifndef TOOLS_LLAMA2C_H
#define TOOLS_LLAMA2C_H

#include "../../dpo.h"
#include "gzip.h"
#include <limits.h>

#define LLAMA2C_MAGIC  0x616b3432u
#define LLAMA2C_DIM    1000000            /* the largest believable width; 16 times as much for the other sizes */
#define LLAMA2C_TOKENS ((size_t)64 << 20) /* bytes of a tok*.bin at most */

typedef struct llama2c_part {
    dpo_tensor tensor;
    char name[64];
    uint64_t offset;
    int turned; /* rows of q or k */
} llama2c_part;

typedef struct llama2c_file {
    FILE *f;
    char path[400];
    int64_t dim, hidden, layers, heads, kv_heads, vocab, positions, head_size;
    int version, shared; /* 0: legacy; the output head is the embedding */
    llama2c_part *parts;
    int64_t count;
    float *values, *head; /* of the tensor read last; one head's rows */
} llama2c_file;

#define LLAMA2C_ERROR(err, cap, ...) ((void)((err) && (cap) && snprintf((err), (cap), __VA_ARGS__) < 0))

static inline uint32_t llama2c_u32(const unsigned char *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline int64_t llama2c_i32(const unsigned char *p) {
    uint32_t x = llama2c_u32(p);
    return x > 0x7fffffffu ? -(int64_t)(0xffffffffu - x) - 1 : (int64_t)x;
}
/* Floats as the file has them, in place, to this machine's. */
static inline void llama2c_floats(float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        unsigned char b[4];
        uint32_t bits;
        memcpy(b, x + i, 4);
        bits = llama2c_u32(b);
        memcpy(x + i, &bits, 4);
    }
}

/* ---- the header ------------------------------------------------------------------------------------------------- */

/* The seven numbers; a reason why they are none of a model, or NULL. */
static inline const char *llama2c_sizes(llama2c_file *f, const unsigned char *p) {
    int64_t vocab = llama2c_i32(p + 20);
    f->dim = llama2c_i32(p);
    f->hidden = llama2c_i32(p + 4);
    f->layers = llama2c_i32(p + 8);
    f->heads = llama2c_i32(p + 12);
    f->kv_heads = llama2c_i32(p + 16);
    f->vocab = vocab < 0 && f->version == 0 ? -vocab : vocab;
    f->positions = llama2c_i32(p + 24);
    if (f->version == 0) f->shared = vocab > 0;
    if (f->dim < 1 || f->dim > LLAMA2C_DIM) return "dim must lie from 1 to 1000000";
    if (f->hidden < 1 || f->hidden > 16 * LLAMA2C_DIM) return "hidden_dim must lie from 1 to 16000000";
    if (f->layers < 1 || f->layers > 9999) return "n_layers must lie from 1 to 9999";
    if (f->heads < 1 || f->heads > 4096 || f->dim % f->heads || f->dim / f->heads % 2)
        return "n_heads must lie from 1 to 4096 and divide dim into an even head size";
    if (f->kv_heads < 1 || f->kv_heads > f->heads || f->heads % f->kv_heads) return "n_kv_heads must divide n_heads";
    if (f->vocab < 2 || f->vocab > 16 * LLAMA2C_DIM) return "vocab_size must lie from 2 to 16000000";
    if (f->positions < 1 || f->positions > 16 * LLAMA2C_DIM) return "seq_len must lie from 1 to 16000000";
    f->head_size = f->dim / f->heads;
    return NULL;
}
/* The first bytes of a file, n of at most 256 there: 0 with *why where they are no header. */
static inline int llama2c_header(llama2c_file *f, const unsigned char *p, size_t n, const char **why) {
    *why = "it is shorter than a header";
    if (n < 28) return 0;
    f->version = 0;
    if (llama2c_u32(p) == LLAMA2C_MAGIC) {
        if (n < 256) return 0;
        f->version = (int)llama2c_u32(p + 4);
        f->shared = p[36] != 0;
        *why = f->version == 2 ? "it is version 2, quantised to int8; export it again with --version 0 or 1"
                               : "it is of a version that is not known (legacy and 1 are); export it with --version 1";
        if (f->version != 1) return 0;
        p += 8;
    }
    *why = llama2c_sizes(f, p);
    return !*why;
}
/* Bytes the file must have; 0 if that is more than `size` by far (the sums then never leave 64 bits). */
static inline uint64_t llama2c_bytes(const llama2c_file *f, uint64_t size) {
    uint64_t d = (uint64_t)f->dim, kv = (uint64_t)(f->head_size * f->kv_heads), v = (uint64_t)f->vocab;
    uint64_t layer = 2 * d + 2 * d * d + 2 * kv * d + 3 * d * (uint64_t)f->hidden; /* below 2^48: dims are bounded */
    uint64_t rest = v * d * (f->shared ? 1 : 2) + d;
    if (f->version == 0) rest += (uint64_t)f->positions * (uint64_t)f->head_size;
    if (layer > size / (uint64_t)f->layers) return 0;
    return (f->version ? 256 : 28) + 4 * (layer * (uint64_t)f->layers + rest);
}

/* llama2c_is - whether the file begins as a checkpoint of llama2.c does: the magic number, or seven sizes that a model
 * can have. (It may still be cut off or of a version that is refused: llama2c_open says so.) */
static inline int llama2c_is(const char *path) {
    unsigned char p[256];
    llama2c_file f;
    const char *why;
    size_t n;
    FILE *in = fopen(path, "rb");
    if (!in) return 0;
    n = fread(p, 1, sizeof p, in);
    fclose(in);
    memset(&f, 0, sizeof f);
    return (n >= 4 && llama2c_u32(p) == LLAMA2C_MAGIC) || llama2c_header(&f, p, n, &why);
}

/* ---- the list of tensors ---------------------------------------------------------------------------------------- */

/* The next tensors of the file: one, or one of each layer. columns 0: vectors. */
static inline void llama2c_list(llama2c_file *f, uint64_t *at, int64_t layers, const char *name, int64_t rows,
                                int64_t columns, int turned) {
    int64_t l;
    for (l = 0; l < (layers ? layers : 1); l++) {
        llama2c_part *p = &f->parts[f->count++];
        memset(p, 0, sizeof *p);
        if (layers) (void)snprintf(p->name, sizeof p->name, "model.layers.%d.%s.weight", (int)l, name);
        else (void)snprintf(p->name, sizeof p->name, "%s.weight", name);
        p->tensor = dpo_tensor_f32(NULL, rows, columns, 0, 0);
        p->tensor.name = p->name;
        p->offset = *at;
        p->turned = turned;
        *at += 4 * (uint64_t)rows * (uint64_t)(columns ? columns : 1);
    }
}
static inline void llama2c_lists(llama2c_file *f) {
    int64_t n = f->layers, d = f->dim, kv = f->head_size * f->kv_heads;
    uint64_t at = f->version ? 256 : 28;
    if (!f->version) llama2c_list(f, &at, 0, "model.embed_tokens", f->vocab, d, 0);
    llama2c_list(f, &at, n, "input_layernorm", d, 0, 0);
    if (f->version) {
        llama2c_list(f, &at, n, "post_attention_layernorm", d, 0, 0);
        llama2c_list(f, &at, 0, "model.norm", d, 0, 0);
        llama2c_list(f, &at, 0, "model.embed_tokens", f->vocab, d, 0);
    }
    llama2c_list(f, &at, n, "self_attn.q_proj", d, d, 1);
    llama2c_list(f, &at, n, "self_attn.k_proj", kv, d, 1);
    llama2c_list(f, &at, n, "self_attn.v_proj", kv, d, 0);
    llama2c_list(f, &at, n, "self_attn.o_proj", d, d, 0);
    if (!f->version) llama2c_list(f, &at, n, "post_attention_layernorm", d, 0, 0);
    llama2c_list(f, &at, n, "mlp.gate_proj", f->hidden, d, 0);
    llama2c_list(f, &at, n, "mlp.down_proj", d, f->hidden, 0);
    llama2c_list(f, &at, n, "mlp.up_proj", f->hidden, d, 0);
    if (!f->version) {
        llama2c_list(f, &at, 0, "model.norm", d, 0, 0);
        at += 4 * (uint64_t)f->positions * (uint64_t)f->head_size; /* cosines and sines */
    }
    if (!f->shared) llama2c_list(f, &at, 0, "lm_head", f->vocab, d, 0);
}

static inline void llama2c_close(llama2c_file *f) {
    if (!f) return;
    if (f->f) fclose(f->f);
    free(f->parts);
    free(f->values);
    free(f->head);
    free(f);
}
/* Everything of llama2c_open but what is given back on an error. */
static inline int llama2c_begin(llama2c_file *f, const char *path, char *err, size_t cap) {
    unsigned char p[256];
    const char *why;
    long end;
    uint64_t want;
    size_t n;
    (void)snprintf(f->path, sizeof f->path, "%.399s", path);
    f->f = fopen(path, "rb");
    if (!f->f) {
        LLAMA2C_ERROR(err, cap, "cannot open %.300s: %s; check the path", path, strerror(errno));
        return 0;
    }
    n = fread(p, 1, sizeof p, f->f);
    if (!llama2c_header(f, p, n, &why)) {
        LLAMA2C_ERROR(err, cap, "%.300s is no checkpoint of llama2.c that can be read: %s", path, why);
        return 0;
    }
    if (fseek(f->f, 0, SEEK_END) || (end = ftell(f->f)) < 0) {
        LLAMA2C_ERROR(err, cap, "%.300s: its size cannot be found: %s; it must be a plain file", path, strerror(errno));
        return 0;
    }
    want = llama2c_bytes(f, (uint64_t)end);
    if (want != (uint64_t)end) {
        if (want)
            LLAMA2C_ERROR(
                err, cap,
                "%.300s: its header (dim %ld, hidden %ld, layers %ld, vocabulary %ld) asks for %llu bytes, the "
                "file has %ld; it is cut off or no checkpoint of llama2.c: copy it again",
                path, (long)f->dim, (long)f->hidden, (long)f->layers, (long)f->vocab, (unsigned long long)want, end);
        else
            LLAMA2C_ERROR(err, cap,
                          "%.300s: its header asks for %ld layers that %ld bytes cannot hold; it is cut off or no "
                          "checkpoint of llama2.c: copy it again",
                          path, (long)f->layers, end);
        return 0;
    }
    f->parts = (llama2c_part *)malloc((size_t)(9 * f->layers + 3) * sizeof *f->parts);
    if (!f->parts) {
        LLAMA2C_ERROR(err, cap, "out of memory for the list of tensors of %.300s", path);
        return 0;
    }
    llama2c_lists(f);
    return 1;
}

/* llama2c_open - NULL, and a sentence in err, if the file is no checkpoint of the legacy kind or version 1. */
static inline llama2c_file *llama2c_open(const char *path, char *err, size_t cap) {
    llama2c_file *f = (llama2c_file *)calloc(1, sizeof *f);
    if (!f) LLAMA2C_ERROR(err, cap, "out of memory");
    else if (!llama2c_begin(f, path, err, cap)) {
        llama2c_close(f);
        f = NULL;
    }
    return f;
}
static inline int64_t llama2c_count(const llama2c_file *f) { return f->count; }
/* A tensor's Hugging Face name, type and shape; its data is NULL. */
static inline const dpo_tensor *llama2c_tensor(const llama2c_file *f, int64_t i) { return &f->parts[i].tensor; }

/* ---- values ----------------------------------------------------------------------------------------------------- */

/* One head after the other: rows 2i and 2i + 1 become rows i and i + half. */
static inline int llama2c_read_turned(llama2c_file *f, const llama2c_part *p) {
    size_t width = (size_t)p->tensor.shape[1], size = (size_t)f->head_size, half = size / 2, r;
    int64_t h;
    if (!f->head) f->head = (float *)malloc(size * width * sizeof *f->head);
    if (!f->head) return 0;
    for (h = 0; h < p->tensor.shape[0] / f->head_size; h++) {
        float *to = f->values + (size_t)h * size * width;
        if (fread(f->head, sizeof *f->head, size * width, f->f) != size * width) return 0;
        for (r = 0; r < size; r++) memcpy(to + (r % 2 * half + r / 2) * width, f->head + r * width, width * sizeof *to);
    }
    return 1;
}
/* llama2c_read - the values of tensor i as F32, until the next call; NULL, and a sentence in err, on an error. */
static inline const void *llama2c_read(llama2c_file *f, int64_t i, char *err, size_t cap) {
    const llama2c_part *p = &f->parts[i];
    uint64_t n = (uint64_t)p->tensor.shape[0] * (uint64_t)p->tensor.shape[1];
    free(f->values);
    f->values = NULL;
    if (n > SIZE_MAX / sizeof *f->values || p->offset > LONG_MAX) {
        LLAMA2C_ERROR(err, cap, "%.300s: %s is too large for this machine's addresses", f->path, p->name);
        return NULL;
    }
    f->values = (float *)malloc((size_t)n * sizeof *f->values);
    if (!f->values) {
        LLAMA2C_ERROR(err, cap, "out of memory: %s of %.300s takes %llu bytes", p->name, f->path,
                      (unsigned long long)n * sizeof *f->values);
        return NULL;
    }
    errno = 0;
    if (fseek(f->f, (long)p->offset, SEEK_SET) ||
        !(p->turned ? llama2c_read_turned(f, p) : fread(f->values, sizeof *f->values, (size_t)n, f->f) == (size_t)n)) {
        LLAMA2C_ERROR(err, cap, "%.300s: %s cannot be read: %s; has the file changed meanwhile?", f->path, p->name,
                      errno ? strerror(errno) : "it ends too early");
        return NULL;
    }
    llama2c_floats(f->values, (size_t)n);
    return f->values;
}

/* llama2c_config_json - the text of a config.json; returns its length, writes what fits. What llama2.c does not write
 * down is what its model.py and run.c compute with. */
static inline size_t llama2c_config_json(const llama2c_file *f, char *out, size_t cap) {
    int n = snprintf(out, cap,
                     "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n"
                     "  \"vocab_size\": %ld,\n  \"hidden_size\": %ld,\n  \"intermediate_size\": %ld,\n"
                     "  \"num_hidden_layers\": %ld,\n  \"num_attention_heads\": %ld,\n  \"num_key_value_heads\": %ld,\n"
                     "  \"max_position_embeddings\": %ld,\n  \"rms_norm_eps\": 1e-05,\n  \"rope_theta\": 10000.0,\n"
                     "  \"hidden_act\": \"silu\",\n  \"tie_word_embeddings\": %s,\n  \"bos_token_id\": 1,\n"
                     "  \"eos_token_id\": 2,\n  \"torch_dtype\": \"float32\"\n}\n",
                     (long)f->vocab, (long)f->dim, (long)f->hidden, (long)f->layers, (long)f->heads, (long)f->kv_heads,
                     (long)f->positions, f->shared ? "true" : "false");
    return n < 0 ? 0 : (size_t)n;
}

/* ---- tok*.bin to tokenizer.json ---------------------------------------------------------------------------------- */

/* The tokenizer: most bytes of a piece; then for each id a score, a length, its bytes. Ids 0, 1, 2 are unknown, begin
 * and end; spaces stand as such; "<0x0A>" is a byte. Two neighbours are joined where the result is a piece, the highest
 * score first: scores fall with the id, so a piece's merges are all the ways to split it into two pieces, and merges
 * stand in the order of ids. */
typedef struct llama2c_tokens {
    char *text; /* the file */
    size_t size;
    const char **piece;
    uint32_t *length, *index; /* index: hash table of ids + 1, index_mask + 1 places */
    size_t count, index_mask;
    const char *why; /* what is wrong with piece `at` */
    size_t at;
} llama2c_tokens;

static inline size_t llama2c_slot(const llama2c_tokens *t, const char *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    size_t i;
    for (i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    for (i = (size_t)(h ^ h >> 29) & t->index_mask; t->index[i]; i = (i + 1) & t->index_mask) {
        uint32_t id = t->index[i] - 1;
        if (t->length[id] == n && !memcmp(t->piece[id], p, n)) break;
    }
    return i;
}
/* The id of these bytes, among those that text is made of; -1 if there is none. */
static inline int64_t llama2c_find(const llama2c_tokens *t, const char *p, size_t n) {
    int64_t id = (int64_t)t->index[llama2c_slot(t, p, n)] - 1;
    return id > 2 ? id : -1;
}
/* The byte that "<0x0A>" is, or -1. */
static inline int llama2c_byte(const char *p, size_t n) {
    static const char digits[] = "0123456789ABCDEF";
    const char *high, *low;
    if (n != 6 || memcmp(p, "<0x", 3) || p[5] != '>' || !p[3] || !p[4]) return -1;
    high = strchr(digits, p[3]);
    low = strchr(digits, p[4]);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}
/* The length of the UTF-8 character at p; 0 if there is none. */
static inline size_t llama2c_character(const char *text, const char *end) {
    const unsigned char *p = (const unsigned char *)text;
    size_t n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0, i;
    if ((size_t)(end - text) < n) return 0;
    for (i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
        (*p == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}
static inline int llama2c_bad(llama2c_tokens *t, size_t at, const char *why) {
    t->at = at;
    t->why = why;
    return 0;
}
/* Whether a piece can be written into JSON, where U+2581 stands for its spaces. */
static inline int llama2c_writable(const char *p, size_t n) {
    const char *end = p + n;
    while (p < end) {
        size_t k = llama2c_character(p, end);
        if (!k || (k == 3 && !memcmp(p, "\xe2\x96\x81", 3))) return 0;
        p += k;
    }
    return n > 0;
}
/* Places and lengths of all pieces, or what is wrong. */
static inline int llama2c_scan(llama2c_tokens *t) {
    const unsigned char *p = (const unsigned char *)t->text;
    size_t at, n, places = 1024, most = t->size < 4 ? 0 : llama2c_u32(p);
    for (at = 4; at < t->size; at += 8 + n, t->count++) {
        if (t->size - at < 8) return llama2c_bad(t, t->count, "its score and length are cut off");
        n = llama2c_u32(p + at + 4);
        if (n > t->size - at - 8) return llama2c_bad(t, t->count, "it is longer than the rest of the file");
        if (n > most) return llama2c_bad(t, t->count, "it is longer than the header's longest piece");
        if (t->count == 4000000) return llama2c_bad(t, t->count, "there are too many");
    }
    if (t->count < 259) return llama2c_bad(t, t->count, "at least 259 are needed: three special ones and all bytes");
    while (places < 2 * t->count) places *= 2;
    t->piece = (const char **)calloc(t->count, sizeof *t->piece);
    t->length = (uint32_t *)calloc(t->count, sizeof *t->length);
    t->index = (uint32_t *)calloc(places, sizeof *t->index);
    t->index_mask = places - 1;
    if (!t->piece || !t->length || !t->index) return llama2c_bad(t, 0, "out of memory");
    for (at = 4, n = 0, t->count = 0; at < t->size; at += 8 + n, t->count++) {
        n = llama2c_u32(p + at + 4);
        t->piece[t->count] = t->text + at + 8;
        t->length[t->count] = (uint32_t)n;
    }
    return 1;
}
/* Every piece into the index; bytes are counted. */
static inline int llama2c_index(llama2c_tokens *t) {
    size_t id, bytes = 0, slot;
    for (id = 0; id < t->count; id++) {
        const char **p = &t->piece[id];
        while (id < 3 && t->length[id] && **p == '\n') { /* "\n<s>\n": export puts a line end on either side */
            (*p)++;
            t->length[id]--;
        }
        while (id < 3 && t->length[id] && (*p)[t->length[id] - 1] == '\n') t->length[id]--;
        if (!llama2c_writable(*p, t->length[id]))
            return llama2c_bad(t, id, "it is empty, no UTF-8, or holds U+2581, which stands for a space");
        slot = llama2c_slot(t, *p, t->length[id]);
        if (t->index[slot]) return llama2c_bad(t, id, "the same piece has an id already");
        t->index[slot] = (uint32_t)id + 1;
        bytes += id > 2 && llama2c_byte(*p, t->length[id]) >= 0;
    }
    return bytes == 256 ? 1 : llama2c_bad(t, t->count, "the 256 bytes <0x00> to <0xFF> must be among them");
}
static inline void llama2c_put_json(FILE *out, const char *p, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        unsigned char x = (unsigned char)p[i];
        if (x == ' ') fputs("\xe2\x96\x81", out);
        else if (x == '"' || x == '\\') fprintf(out, "\\%c", x);
        else if (x < 32 || x == 127) fprintf(out, "\\u%04x", (unsigned)x);
        else fputc(x, out);
    }
}
/* The merges of piece id. Returns how many there are; out NULL: none is written. They have one rank in llama2.c and
 * several in tokenizer.json, which could matter only where neighbours x y z give the piece both as x y and as y z. Then
 * x y z repeats itself with the length of x, and merges, which go from left to right, have cut x and what follows it in
 * the same way: x is y, and the two are one merge. */
static inline size_t llama2c_merges(const llama2c_tokens *t, size_t id, FILE *out, const char **comma) {
    const char *p = t->piece[id];
    size_t n = t->length[id], cut, count = 0;
    for (cut = 1; cut < n; cut++) {
        if (((unsigned char)p[cut] & 0xc0) == 0x80) continue;
        if (llama2c_byte(p, cut) >= 0 || llama2c_byte(p + cut, n - cut) >= 0) continue;
        if (llama2c_find(t, p, cut) < 0 || llama2c_find(t, p + cut, n - cut) < 0) continue;
        count++;
        if (!out) continue;
        fprintf(out, "%s\n   \"", *comma);
        llama2c_put_json(out, p, cut);
        fputc(' ', out);
        llama2c_put_json(out, p + cut, n - cut);
        fputc('"', out);
        *comma = ",";
    }
    return count;
}
/* Scores must fall with the id, or it is no byte-pair encoding of this kind. */
static inline int llama2c_ordered(llama2c_tokens *t) {
    float last = 0, score;
    int begun = 0;
    size_t id;
    for (id = 3; id < t->count; id++) {
        uint32_t bits = llama2c_u32((const unsigned char *)t->piece[id] - 8);
        memcpy(&score, &bits, sizeof score);
        if (llama2c_byte(t->piece[id], t->length[id]) >= 0 || !llama2c_merges(t, id, NULL, NULL)) continue;
        if (begun ? !(score < last) : score != score)
            return llama2c_bad(t, id, "its score is not below those before it, as merges have it (unigram type?)");
        last = score;
        begun = 1;
    }
    return 1;
}
static inline void llama2c_put_special(const llama2c_tokens *t, size_t id, FILE *out) {
    fprintf(out, "%s\n  {\"id\": %u, \"content\": \"", id ? "," : "", (unsigned)id);
    llama2c_put_json(out, t->piece[id], t->length[id]);
    fputs("\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}",
          out);
}
static inline void llama2c_put_tokenizer(const llama2c_tokens *t, FILE *out) {
    const char *comma = "";
    size_t id;
    fputs("{\n \"version\": \"1.0\",\n \"truncation\": null,\n \"padding\": null,\n \"added_tokens\": [", out);
    for (id = 0; id < 3; id++) llama2c_put_special(t, id, out);
    fputs("],\n \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [\n  {\"type\": \"Prepend\", \"prepend\": "
          "\"\xe2\x96\x81\"},\n  {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
          "\"\xe2\x96\x81\"}]},\n \"pre_tokenizer\": null,\n \"post_processor\": {\"type\": \"TemplateProcessing\",\n"
          "  \"single\": [{\"SpecialToken\": {\"id\": \"",
          out);
    llama2c_put_json(out, t->piece[1], t->length[1]);
    fputs("\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],\n  \"pair\": [{\"Sequence\": "
          "{\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 0}}],\n  \"special_tokens\": "
          "{\"",
          out);
    llama2c_put_json(out, t->piece[1], t->length[1]);
    fputs("\": {\"id\": \"", out);
    llama2c_put_json(out, t->piece[1], t->length[1]);
    fputs("\", \"ids\": [1], \"tokens\": [\"", out);
    llama2c_put_json(out, t->piece[1], t->length[1]);
    fputs(
        "\"]}}},\n \"decoder\": {\"type\": \"Sequence\", \"decoders\": [\n  {\"type\": \"Replace\", \"pattern\": "
        "{\"String\": \"\xe2\x96\x81\"}, \"content\": \" \"},\n  {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"},\n"
        "  {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]},\n \"model\": {\"type\": \"BPE\", "
        "\"dropout\": null, \"unk_token\": \"",
        out);
    llama2c_put_json(out, t->piece[0], t->length[0]);
    fputs("\",\n  \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": true, "
          "\"byte_fallback\": true,\n  \"vocab\": {",
          out);
    for (id = 0; id < t->count; id++) {
        fprintf(out, "%s\n   \"", id ? "," : "");
        llama2c_put_json(out, t->piece[id], t->length[id]);
        fprintf(out, "\": %lu", (unsigned long)id);
    }
    fputs("},\n  \"merges\": [", out);
    for (id = 3; id < t->count; id++)
        if (llama2c_byte(t->piece[id], t->length[id]) < 0) (void)llama2c_merges(t, id, out, &comma);
    fputs("]}}\n", out);
}

/* tokenizer_config.json that goes with it. */
#define LLAMA2C_TOKENIZER_CONFIG                                                                                       \
    "{\n  \"tokenizer_class\": \"LlamaTokenizer\",\n  \"add_bos_token\": true,\n  \"add_eos_token\": false,\n"         \
    "  \"bos_token\": \"<s>\",\n  \"eos_token\": \"</s>\",\n  \"unk_token\": \"<unk>\",\n  \"legacy\": true\n}\n"

/* llama2c_tokenizer_json - tok*.bin as a Hugging Face tokenizer.json into `out`: the same ids for any text.
 *   returns 0, or 1 with a sentence in err (nothing is written where the file is wrong) */
static inline int llama2c_tokenizer_json(const char *tok_bin, FILE *out, char *err, size_t cap) {
    llama2c_tokens t;
    int bad = 0;
    memset(&t, 0, sizeof t);
    if (gzip_read_file(tok_bin, LLAMA2C_TOKENS, &t.text, &t.size, err, cap)) return 1;
    if (!llama2c_scan(&t) || !llama2c_index(&t) || !llama2c_ordered(&t)) {
        LLAMA2C_ERROR(err, cap, "%.300s is no tokenizer of llama2.c that can be read: piece %lu: %s", tok_bin,
                      (unsigned long)t.at, t.why);
        bad = 1;
    } else {
        errno = 0;
        llama2c_put_tokenizer(&t, out);
        if (fflush(out) || ferror(out)) {
            LLAMA2C_ERROR(err, cap, "tokenizer.json cannot be written: %s; is the disk full?",
                          errno ? strerror(errno) : "no reason given");
            bad = 1;
        }
    }
    free(t.text);
    free((void *)t.piece);
    free(t.length);
    free(t.index);
    return bad;
}

#endif /* TOOLS_LLAMA2C_H */
