/* gguf.h: writes a model and its tokenizer as one GGUF file (version 3, little-endian), which llama.cpp runs.
 *
 *     dpo_load_config how = {DPO_PRECISION_FP32, 1};               frozen: the weights stay in their mapped file
 *     dpo_model *m = dpo_model_load_as(c, "my-model", &how);
 *     gguf_report r;
 *     char err[512];
 *     if (gguf_write(c, m, "my-model", "my-model.gguf", DPO_F16, "my model", &r, err, sizeof err)) return cli_die(...);
 *     if (r.notes[0]) fprintf(stderr, "%s\n", r.notes);            what llama.cpp computes a little differently
 *
 * A tensor at a time goes through a buffer, in rows: memory is the buffer, the largest row and the vocabulary. The file
 * is written beside its place, synced and renamed; on an error there is none.
 *
 * What the file says follows llama.cpp's own converter and what its loader (src/llama-model.cpp, llama-vocab.cpp) and
 * graphs (src/models) read:
 *
 *     family      architecture  what happens to the weights
 *     GPT-NeoX    gptneox       rows of query_key_value, q k v of each head, become all of q, all of k, all of v
 *     GPT-2       gpt2          matrices, stored [in,out], are transposed
 *     BTLM        jais          the same; the embedding is multiplied by its muP scale, and an output matrix of its own
 *                               by the logits' scale; the ALiBi slopes become one number, max_alibi_bias; c_fc2 is the
 *                               gate, c_fc the other half (up); scores are divided by the head size
 *     Llama       llama         rows of q and k: the pairs that the rotary angle turns are (i, i + half) in Hugging
 *                               Face's order, and neighbours (2i, 2i + 1) in llama.cpp's. Llama-3's scaling is a tensor
 *                               of divisors, rope_freqs
 *     Qwen2       qwen2         nothing: there the pairs are (i, i + half), too
 *
 * Matrices have the type asked for, vectors and GPT-2's positions are F32. A tied head is left out where the loader
 * then takes the embedding, and written where it does not (gptneox, jais). What the format or llama.cpp cannot express
 * is an error that says what, never a file that computes something else.
 *
 * Tokenizer: byte-level BPE is model "gpt2" with merges and the name of its splitting (tokenizer.ggml.pre). The
 * SentencePiece type is model "llama", which knows no merges: it joins any two neighbours that are a piece together, the
 * highest score first; scores come from the merges' order, and a vocabulary where the two rules differ is refused. Rows
 * of the embedding without a token are [PAD..]. The chat template is not written. */
#ifndef TOOLS_GGUF_H
#define TOOLS_GGUF_H

#if !defined(_DEFAULT_SOURCE) && !defined(_GNU_SOURCE)
#define _DEFAULT_SOURCE 1 /* fsync; include this file, or cli.h, before any system header */
#endif
#include "../../dpo.h"
#include "gzip.h"
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct gguf_report {
    int64_t tensors;
    uint64_t bytes;    /* of the file */
    int64_t overflows; /* values that are no F16 numbers; if there are any, nothing is written */
    char notes[640];   /* sentences: where llama.cpp's results differ a little */
} gguf_report;

#define GGUF_ALIGN  32
#define GGUF_BUFFER ((size_t)1 << 20) /* bytes of output collected, and of rows converted at a time */
#define GGUF_TEXT   ((size_t)1 << 16) /* longest token */
#define GGUF_JSON   ((size_t)256 << 20)

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 }; /* of values */
enum { GGUF_NORMAL = 1, GGUF_UNKNOWN, GGUF_CONTROL, GGUF_USER_DEFINED, GGUF_UNUSED, GGUF_BYTE };   /* of tokens */
enum { GGUF_PLAIN, GGUF_TRANSPOSED, GGUF_THIRDS, GGUF_PAIRS }; /* what happens to a tensor's rows */

typedef struct gguf_tensor {
    char name[64];
    const dpo_tensor *from; /* NULL: values */
    const float *values;    /* NULL: zeros */
    int64_t rows, columns;  /* as written; columns 0: a vector */
    int64_t heads;          /* for GGUF_THIRDS, GGUF_PAIRS */
    int type, order;        /* DPO_F32, ...; GGUF_PLAIN, ... */
    double scale;           /* values are multiplied by it */
    uint64_t offset, bytes;
} gguf_tensor;

typedef struct gguf_token {
    size_t at; /* in the blob */
    uint32_t length;
    int32_t type; /* 0: none yet */
    float score;
} gguf_token;

typedef struct gguf_vocab {
    dpo_tokenizer *t;
    dpo_json *json;
    char *text, *merges; /* tokenizer.json or vocab.json; merges.txt or NULL */
    size_t text_size, merges_size;
    int64_t pieces, merge_list, n_merges; /* nodes; how many there are */
    gguf_token *token;
    int64_t n;
    char *blob, *work; /* the tokens' texts; strings at work [2 * GGUF_TEXT] */
    size_t used, room;
    uint32_t *index; /* hash table of ids + 1 */
    size_t index_mask;
    int sentencepiece, byte_fallback, space_prefix, add_bos;
    int byte_level, digits, llama3, qwen2, gpt2, ignore_merges; /* what splits words */
    const char *pre;                                            /* llama.cpp's name for it */
    int32_t bos, eos, unk, pad;                                 /* -1: none */
} gguf_vocab;

typedef struct gguf_out {
    int fd; /* -1: only count */
    unsigned char *buffer;
    size_t held;
    uint64_t at;
    int error; /* errno of the first that went wrong */
} gguf_out;

typedef struct gguf_job {
    dpo_context *c;
    const dpo_model *m;
    const dpo_model_config *k;
    const char *arch, *name;
    int dtype;
    gguf_report *report;
    char *err;
    size_t errcap;
    gguf_vocab vocab;
    dpo_tensor *views; /* of the model */
    gguf_tensor *tensors;
    int64_t n_views, n_tensors, n_keys;
    float *rope_factors, *rows; /* llama3's divisors; rows on their way */
    float alibi;
    gguf_out out;
} gguf_job;

/* Writes the sentence and returns 1. */
__attribute__((format(printf, 2, 3))) static inline int gguf_fail(gguf_job *g, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (g->err && g->errcap && vsnprintf(g->err, g->errcap, format, args) < 0) g->err[0] = 0;
    va_end(args);
    return 1;
}
static inline int gguf_no_memory(gguf_job *g) { return gguf_fail(g, "GGUF: out of memory"); }
static inline void gguf_note(gguf_job *g, const char *sentence) {
    size_t n = strlen(g->report->notes);
    if (strstr(g->report->notes, sentence)) return;
    (void)snprintf(g->report->notes + n, sizeof g->report->notes - n, "%s%s", n ? " " : "", sentence);
}

/* ---- what can be expressed -------------------------------------------------------------------------------------- */

/* ggml's slopes of n heads: with m the power of two at or below n, 2^(-b k / m), k = 1.., for the first m, then
 * 2^(-b k / 2m), k = 1, 3, 5, .. Finds b. */
static inline int gguf_alibi(gguf_job *g) {
    const float *slopes = dpo_model_slopes(g->m);
    int n = g->k->num_attention_heads, m = 1, i;
    double bias;
    while (2 * m <= n) m *= 2;
    if (!slopes || !(slopes[0] > 0 && slopes[0] < 1))
        return gguf_fail(g, "GGUF: the ALiBi slopes do not lie between 0 and 1; llama.cpp cannot express them");
    bias = -log2((double)slopes[0]) * m;
    if (fabs(bias - floor(bias + 0.5)) < 1e-3) bias = floor(bias + 0.5);
    for (i = 0; i < n; i++) {
        double want = i < m ? pow(2.0, -bias * (i + 1) / m) : pow(2.0, -bias * (2 * (i - m) + 1) / (2 * m));
        if (!(fabs((double)slopes[i] - want) <= 1e-5 * want))
            return gguf_fail(g,
                             "GGUF: the ALiBi slope of head %d is %g; llama.cpp makes all slopes from one number and "
                             "would take %g (an alibi_scaling cannot be expressed)",
                             i, (double)slopes[i], want);
    }
    g->alibi = (float)bias;
    return 0;
}
static inline int gguf_check_rope(gguf_job *g) {
    const dpo_model_config *k = g->k;
    if (k->rotary_dim < 2)
        return gguf_fail(g, "GGUF: the model's heads have no rotary part; llama.cpp's %s has one", g->arch);
    if (k->family != DPO_GPT_NEOX && k->rotary_dim != k->head_dim)
        return gguf_fail(g, "GGUF: %d of %d numbers of a head are rotary; llama.cpp's %s turns all of them",
                         k->rotary_dim, k->head_dim, g->arch);
    if (k->rope_scaling == DPO_ROPE_LLAMA3 && k->family != DPO_LLAMA)
        return gguf_fail(
            g, "GGUF: rope_scaling \"llama3\" is known to llama.cpp for the family llama alone, not for %s", g->arch);
    if (k->family == DPO_QWEN2 && k->num_attention_heads * k->head_dim != k->hidden_size)
        return gguf_fail(g, "GGUF: %d heads of %d numbers are not the hidden size %d; llama.cpp's qwen2 cannot do that",
                         k->num_attention_heads, k->head_dim, k->hidden_size);
    return 0;
}
/* The architecture's name, or an error sentence for what would be computed otherwise than the model does. */
static inline int gguf_check(gguf_job *g) {
    static const char *const names[6] = {"", "gptneox", "jais", "gpt2", "llama", "qwen2"};
    const dpo_model_config *k = g->k;
    int jais = k->family == DPO_BTLM;
    double want = jais ? 1.0 / k->head_dim : 1.0 / sqrt((double)k->head_dim);
    g->arch = names[k->family];
    if (g->dtype != DPO_F32 && g->dtype != DPO_F16 && g->dtype != DPO_BF16)
        return gguf_fail(g, "GGUF: matrices can be written as F32, F16 or BF16");
    if (dpo_lora_tensors(g->m, NULL, 0) > 0)
        return gguf_fail(g, "GGUF: the model has adapters attached; merge them into it first (dpo_lora_merge)");
    if (jais && k->position != DPO_POSITION_ALIBI)
        return gguf_fail(g, "GGUF: muP scales with learned positions (Cerebras-GPT) are no architecture of llama.cpp; "
                            "only the ALiBi models of this family (BTLM) can be written, as jais");
    if (jais && k->activation != DPO_SWIGLU)
        return gguf_fail(g, "GGUF: a BTLM model without SwiGLU is no architecture of llama.cpp (jais has SwiGLU)");
    if (k->family == DPO_GPT2 && (k->activation == DPO_SWIGLU || k->position != DPO_POSITION_LEARNED))
        return gguf_fail(g, "GGUF: llama.cpp's gpt2 has learned positions and GELU, this model has others");
    if (!jais && (k->embedding_scale != 1.0 || k->output_scale != 1.0))
        return gguf_fail(g, "GGUF: muP scales can be written for BTLM alone");
    if (k->attention_scale_by_layer)
        return gguf_fail(g, "GGUF: attention scores divided by the layer's number (scale_attn_by_inverse_layer_idx) "
                            "cannot be expressed");
    if (!(fabs(k->attention_scale - want) <= 1e-6 * want))
        return gguf_fail(g,
                         "GGUF: attention scores are multiplied by %g; llama.cpp's %s takes %g (1/%s of the head "
                         "size) and nothing else",
                         k->attention_scale, g->arch, want, jais ? "1" : "the root");
    if (k->activation == DPO_GELU)
        gguf_note(g, "llama.cpp computes GELU in its tanh form, this model was trained with the exact one: values "
                     "differ by up to 0.0005.");
    if (jais) return gguf_alibi(g);
    return k->position == DPO_POSITION_ROPE ? gguf_check_rope(g) : 0;
}

/* ---- the vocabulary --------------------------------------------------------------------------------------------- */

static inline void gguf_vocab_free(gguf_vocab *v) {
    dpo_tokenizer_free(v->t);
    dpo_json_free(v->json);
    free(v->text);
    free(v->merges);
    free(v->token);
    free(v->blob);
    free(v->work);
    free(v->index);
}
static inline size_t gguf_slot(const gguf_vocab *v, const char *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    size_t i;
    for (i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    for (i = (size_t)(h ^ h >> 29) & v->index_mask; v->index[i]; i = (i + 1) & v->index_mask) {
        const gguf_token *t = &v->token[v->index[i] - 1];
        if (t->length == n && !memcmp(v->blob + t->at, p, n)) break;
    }
    return i;
}
static inline int64_t gguf_find(const gguf_vocab *v, const char *p, size_t n) {
    return (int64_t)v->index[gguf_slot(v, p, n)] - 1;
}
/* Token id is n bytes of text, of this type. */
static inline int gguf_token_set(gguf_job *g, int64_t id, const char *text, size_t n, int type) {
    gguf_vocab *v = &g->vocab;
    if (id < 0 || id >= v->n)
        return gguf_fail(g,
                         "GGUF: the tokenizer has an id %ld, the model's embedding %ld rows; they do not belong "
                         "together",
                         (long)id, (long)v->n);
    if (n >= GGUF_TEXT) return gguf_fail(g, "GGUF: token %ld of the tokenizer is longer than 65535 bytes", (long)id);
    if (v->room - v->used < n) {
        size_t room = 2 * v->room + GGUF_TEXT;
        char *blob = (char *)realloc(v->blob, room);
        if (!blob) return gguf_no_memory(g);
        v->blob = blob;
        v->room = room;
    }
    if (n) memcpy(v->blob + v->used, text, n);
    v->token[id].at = v->used;
    v->token[id].length = (uint32_t)n;
    v->token[id].type = type;
    v->used += n;
    return 0;
}
static inline int64_t gguf_id(const gguf_vocab *v, int64_t node) {
    double x;
    return dpo_json_number(v->json, node, &x) && x >= 0 && x < 1e9 ? (int64_t)x : -1;
}
static inline int gguf_flag(const gguf_vocab *v, int64_t object, const char *key, int otherwise) {
    int type = dpo_json_type(v->json, dpo_json_find(v->json, object, key));
    return type == 't' ? 1 : type == 'f' ? 0 : otherwise;
}
/* Whether the string at a key of an object holds these words. */
static inline int gguf_holds(const gguf_vocab *v, int64_t object, const char *key, const char *words) {
    int64_t n = dpo_json_string(v->json, dpo_json_find(v->json, object, key), v->work, GGUF_TEXT);
    return n > 0 && n < (int64_t)GGUF_TEXT && strstr(v->work, words) != NULL;
}

/* One normalizer or pre-tokenizer: dpo_tokenizer_load has refused what it does not know. */
static inline int gguf_vocab_part(gguf_job *g, int64_t node) {
    gguf_vocab *v = &g->vocab;
    if (gguf_holds(v, node, "type", "NFC"))
        gguf_note(g, "llama.cpp does not bring text into normal form C: text in other forms gets other ids.");
    else if (gguf_holds(v, node, "type", "Prepend")) v->space_prefix = 1;
    else if (gguf_holds(v, node, "type", "Replace")) v->sentencepiece = 1;
    else if (gguf_holds(v, node, "type", "Digits")) v->digits = 1;
    else if (gguf_holds(v, node, "type", "Split")) {
        int64_t pattern = dpo_json_find(v->json, node, "pattern");
        if (gguf_holds(v, pattern, "Regex", "\\p{N}{1,3}")) v->llama3 = 1;
        else if (gguf_holds(v, pattern, "Regex", "(?i:")) v->qwen2 = 1;
        else v->gpt2 = 1;
    } else if (gguf_holds(v, node, "type", "ByteLevel")) {
        v->byte_level = 1;
        v->space_prefix = gguf_flag(v, node, "add_prefix_space", 1);
        if (gguf_flag(v, node, "use_regex", 1)) v->gpt2 = 1;
    } else if (gguf_holds(v, node, "type", "Metaspace")) {
        v->sentencepiece = 1;
        if (gguf_flag(v, node, "split", 1))
            return gguf_fail(g, "GGUF: a Metaspace pre-tokenizer that splits at each space cannot be expressed");
        v->space_prefix =
            !gguf_holds(v, node, "prepend_scheme", "never") &&
            (dpo_json_find(v->json, node, "prepend_scheme") >= 0 || gguf_flag(v, node, "add_prefix_space", 1));
        if (v->space_prefix)
            gguf_note(g, "llama.cpp puts a space before a text that begins with one already, the tokenizer does not.");
    }
    return 0;
}
static inline int gguf_vocab_parts(gguf_job *g, const char *key, const char *list_key) {
    gguf_vocab *v = &g->vocab;
    int64_t node = dpo_json_find(v->json, 0, key), list, i, at;
    if (!gguf_holds(v, node, "type", "Sequence")) return gguf_vocab_part(g, node);
    list = dpo_json_find(v->json, node, list_key);
    for (i = dpo_json_count(v->json, list), at = dpo_json_first(v->json, list); i > 0; i--) {
        if (gguf_vocab_part(g, at)) return 1;
        at = dpo_json_next(v->json, at);
    }
    return 0;
}
/* llama.cpp's name for the way words are split. */
static inline int gguf_vocab_pre(gguf_job *g) {
    gguf_vocab *v = &g->vocab;
    if (v->sentencepiece) v->pre = "default";
    else if (!v->byte_level) return gguf_fail(g, "GGUF: the tokenizer is neither byte-level nor of SentencePiece type");
    else if (v->space_prefix)
        return gguf_fail(g, "GGUF: a byte-level tokenizer that puts a space before a text (add_prefix_space) cannot be "
                            "expressed");
    else if (v->llama3) v->pre = v->ignore_merges ? "llama-bpe" : "dbrx"; /* the same splitting */
    else if (v->qwen2) v->pre = "qwen2";
    else if (v->gpt2) v->pre = v->digits ? "smollm" : "gpt-2";
    else return gguf_fail(g, "GGUF: a byte-level tokenizer that does not split words cannot be expressed");
    if (v->ignore_merges && !v->llama3)
        return gguf_fail(g, "GGUF: ignore_merges can be expressed with Llama-3's splitting alone");
    return 0;
}

/* ---- merges ------------------------------------------------------------------------------------------------------ */

typedef struct gguf_merge {
    const char *left, *right;
    size_t n_left, n_right;
    int64_t node, rank; /* the next one */
    const char *line;
} gguf_merge;

static inline gguf_merge gguf_merges_start(const gguf_vocab *v) {
    gguf_merge m;
    memset(&m, 0, sizeof m);
    m.node = dpo_json_first(v->json, v->merge_list);
    m.line = v->merges;
    return m;
}
/* The next line of merges.txt that is one, into *text of *n bytes. */
static inline int gguf_merge_line(const gguf_vocab *v, gguf_merge *m, const char **text, size_t *n) {
    const char *end = v->merges + v->merges_size;
    while (m->line < end) {
        const char *p = m->line, *stop = (const char *)memchr(p, '\n', (size_t)(end - p));
        m->line = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > p && stop[-1] == '\r') stop--;
        if (stop == p || (p == v->merges && *p == '#')) continue;
        *text = p;
        *n = (size_t)(stop - p);
        return 1;
    }
    return 0;
}
/* The next merge: "left right", or ["left", "right"]; 0 when there is none left, -1 on an error. */
static inline int gguf_merge_next(gguf_job *g, gguf_merge *m) {
    gguf_vocab *v = &g->vocab;
    const char *text = v->work, *space;
    size_t n = 0;
    m->left = m->right = v->work;
    m->n_left = m->n_right = 0;
    if (v->merges ? !gguf_merge_line(v, m, &text, &n) : m->rank == v->n_merges) return 0;
    if (!v->merges) {
        int pair = dpo_json_type(v->json, m->node) == '[' && dpo_json_count(v->json, m->node) == 2;
        int64_t first = pair ? dpo_json_first(v->json, m->node) : m->node;
        int64_t size = dpo_json_string(v->json, first, v->work, GGUF_TEXT);
        int64_t more =
            pair ? dpo_json_string(v->json, dpo_json_next(v->json, first), v->work + GGUF_TEXT, GGUF_TEXT) : 0;
        m->node = dpo_json_next(v->json, m->node);
        n = size < 0 || size >= (int64_t)GGUF_TEXT || more < 0 || more >= (int64_t)GGUF_TEXT ? 0 : (size_t)size;
        if (pair && n) {
            m->n_left = n;
            m->right = v->work + GGUF_TEXT;
            m->n_right = (size_t)more;
        }
    }
    if (!m->n_left && (space = (const char *)memchr(text, ' ', n)) != NULL) {
        m->left = text;
        m->n_left = (size_t)(space - text);
        m->right = space + 1;
        m->n_right = n - m->n_left - 1;
    }
    if (!m->n_left || !m->n_right || memchr(m->left, ' ', m->n_left) || memchr(m->right, ' ', m->n_right)) {
        (void)gguf_fail(g, "GGUF: merge %lld of the tokenizer is not two pieces without spaces", (long long)m->rank);
        return -1;
    }
    m->rank++;
    return 1;
}

/* Whether all ways to split a token into two ordinary ones are merges, `merges` of them. */
static inline int gguf_splits(const gguf_vocab *v, const gguf_token *t, uint32_t merges) {
    const char *p = v->blob + t->at;
    uint32_t cut, found = 0;
    for (cut = 1; cut < t->length; cut++) {
        int64_t left, right;
        if (((unsigned char)p[cut] & 0xc0) == 0x80) continue;
        left = gguf_find(v, p, cut);
        right = left < 0 ? -1 : gguf_find(v, p + cut, t->length - cut);
        found += right >= 0 && v->token[left].type == GGUF_NORMAL && v->token[right].type == GGUF_NORMAL;
    }
    return found == merges;
}
/* One merge of the SentencePiece type. Returns as gguf_merge_next; *id: what it gives, -1 if a token takes part that no
 * text has. */
static inline int gguf_merge_ids(gguf_job *g, gguf_merge *m, char *both, int64_t *left, int64_t *right, int64_t *id) {
    gguf_vocab *v = &g->vocab;
    int next = gguf_merge_next(g, m);
    if (next <= 0) return next;
    memcpy(both, m->left, m->n_left);
    memcpy(both + m->n_left, m->right, m->n_right);
    *left = gguf_find(v, m->left, m->n_left);
    *right = gguf_find(v, m->right, m->n_right);
    *id = gguf_find(v, both, m->n_left + m->n_right);
    if (*left < 0 || *right < 0 || *id < 0) {
        (void)gguf_fail(g, "GGUF: merge %lld of the tokenizer has a part or a result that is no piece",
                        (long long)m->rank - 1);
        return -1;
    }
    if (v->token[*left].type != GGUF_NORMAL || v->token[*right].type != GGUF_NORMAL ||
        v->token[*id].type != GGUF_NORMAL)
        *id = -1;
    return 1;
}

/* Pieces that repeat one character. Llama-2 has such of spaces, all of one score: their merges stand among each other. */
#define GGUF_RUN 64 /* longest */
typedef struct gguf_runs {
    char mark[4];
    size_t width;              /* bytes of the character; 0: no such pieces yet */
    float score[GGUF_RUN + 1]; /* of that many characters; 1: no piece */
    int64_t rank[GGUF_RUN + 1][GGUF_RUN + 1];
} gguf_runs;

/* How many characters, if it is a run of them; else 0. */
static inline size_t gguf_run(const gguf_vocab *v, int64_t id, gguf_runs *r) {
    const gguf_token *t = &v->token[id];
    const char *p = v->blob + t->at;
    size_t i;
    if (!r->width) {
        while (r->width < t->length && r->width < sizeof r->mark &&
               (!r->width || ((unsigned char)p[r->width] & 0xc0) == 0x80)) {
            r->mark[r->width] = p[r->width];
            r->width++;
        }
    }
    if (t->length % r->width || t->length / r->width > GGUF_RUN) return 0;
    for (i = 0; i < t->length; i++)
        if (p[i] != r->mark[i % r->width]) return 0;
    return t->length / r->width;
}
/* n characters, joined by the lowest rank, or by the highest score; the first among equals. Returns how many are left. */
static inline int gguf_run_join(const gguf_runs *r, int n, int by_score, int *run) {
    int i, at;
    for (i = 0; i < n; i++) run[i] = 1;
    do {
        for (i = 0, at = -1; i + 1 < n; i++) {
            int a = run[i], b = run[i + 1], better;
            if (a + b > GGUF_RUN || (by_score ? r->score[a + b] > 0 : r->rank[a][b] < 0)) continue;
            better = at < 0 || (by_score ? r->score[a + b] > r->score[run[at] + run[at + 1]]
                                         : r->rank[a][b] < r->rank[run[at]][run[at + 1]]);
            if (better) at = i;
        }
        if (at < 0) return n;
        run[at] += run[at + 1];
        n--;
        memmove(run + at + 1, run + at + 2, (size_t)(n - at - 1) * sizeof *run);
    } while (1);
}
/* Whether runs of any length fall into the same pieces by merges and by scores. */
static inline int gguf_runs_agree(gguf_job *g, gguf_runs *r, char *both) {
    gguf_vocab *v = &g->vocab;
    gguf_merge m = gguf_merges_start(v);
    int64_t left, right, id;
    int n, k, one[4 * GGUF_RUN], two[4 * GGUF_RUN];
    for (n = 0; n <= GGUF_RUN; n++) {
        r->score[n] = 1;
        for (k = 0; k <= GGUF_RUN; k++) r->rank[n][k] = -1;
    }
    for (id = 0; id < v->n; id++)
        if (v->token[id].type == GGUF_NORMAL && gguf_run(v, id, r) > 1)
            r->score[gguf_run(v, id, r)] = v->token[id].score;
    while (gguf_merge_ids(g, &m, both, &left, &right, &id) > 0)
        if (id >= 0 && gguf_run(v, id, r)) r->rank[gguf_run(v, left, r)][gguf_run(v, right, r)] = m.rank;
    for (n = 2; n < 4 * GGUF_RUN; n++) {
        k = gguf_run_join(r, n, 0, one);
        if (k != gguf_run_join(r, n, 1, two) || memcmp(one, two, (size_t)k * sizeof *one)) return 0;
    }
    return 1;
}

/* Scores from merges: the first token that they make has 0, the next -1, ...; tokens whose merges stand among each other
 * have the same. What no merge makes is below all of them. last[id]: a token's last merge, count[id]: how many. */
static inline int gguf_rank_scores(gguf_job *g, const int64_t *last, gguf_runs *runs, char *both) {
    gguf_vocab *v = &g->vocab;
    gguf_merge m = gguf_merges_start(v);
    int64_t left, right, id, lead = -1, end = 0, made = 0;
    while (gguf_merge_ids(g, &m, both, &left, &right, &id) > 0) {
        if (id < 0) continue;
        if (m.rank > end) {
            made++;
            lead = id;
        } else if (id != lead && (!gguf_run(v, lead, runs) || !gguf_run(v, id, runs)))
            return gguf_fail(
                g,
                "GGUF: the merges of pieces %ld and %ld stand among each other, so that neither has a score "
                "of its own; llama.cpp's rule for this type of tokenizer cannot express them",
                (long)lead, (long)id);
        if (last[id] > end) end = last[id];
        v->token[id].score = -(float)(made - 1);
    }
    for (id = 0; id < v->n; id++)
        if (last[id] < 0) v->token[id].score = -(float)made;
    if (runs->width && !gguf_runs_agree(g, runs, both))
        return gguf_fail(g,
                         "GGUF: merges of pieces that repeat one character give other pieces than llama.cpp's rule for "
                         "this type of tokenizer");
    return 0;
}
static inline int gguf_scores(gguf_job *g) {
    gguf_vocab *v = &g->vocab;
    gguf_merge m = gguf_merges_start(v);
    uint32_t *count = (uint32_t *)calloc((size_t)v->n, sizeof *count);
    int64_t *last = (int64_t *)malloc((size_t)v->n * sizeof *last), left, right, id;
    gguf_runs *runs = (gguf_runs *)calloc(1, sizeof *runs);
    char *both = (char *)malloc(2 * GGUF_TEXT);
    int r = count && last && runs && both ? 0 : gguf_no_memory(g), next = 0;
    for (id = 0; id < v->n && !r; id++) last[id] = -1;
    while (!r && (next = gguf_merge_ids(g, &m, both, &left, &right, &id)) > 0)
        if (id >= 0) {
            count[id]++;
            last[id] = m.rank;
        }
    if (next < 0) r = 1;
    for (id = 0; id < v->n && !r; id++)
        if (v->token[id].type == GGUF_NORMAL && !gguf_splits(v, &v->token[id], count[id]))
            r = gguf_fail(g,
                          "GGUF: piece %ld can be put together from pieces that no merge joins; llama.cpp would join "
                          "them and get other ids",
                          (long)id);
    if (!r) r = gguf_rank_scores(g, last, runs, both);
    free(count);
    free(last);
    free(runs);
    free(both);
    return r;
}

/* ---- the vocabulary from its files ------------------------------------------------------------------------------- */

static inline int gguf_is_byte(const char *p, size_t n) { /* "<0x0A>" as llama.cpp looks for it */
    static const char digits[] = "0123456789ABCDEF";
    return n == 6 && !memcmp(p, "<0x", 3) && p[3] && p[4] && strchr(digits, p[3]) && strchr(digits, p[4]) &&
           p[5] == '>';
}
static inline int gguf_vocab_pieces(gguf_job *g) {
    gguf_vocab *v = &g->vocab;
    int64_t i, at = dpo_json_first(v->json, v->pieces);
    for (i = dpo_json_count(v->json, v->pieces); i > 0; i--, at = dpo_json_next(v->json, at + 1)) {
        int64_t n = dpo_json_string(v->json, at, v->work, GGUF_TEXT), id = gguf_id(v, at + 1);
        int special = 0,
            type = v->byte_fallback && n >= 0 && gguf_is_byte(v->work, (size_t)n) ? GGUF_BYTE : GGUF_NORMAL;
        if (v->merges && dpo_tokenizer_piece(v->t, (int32_t)id, NULL, &special) && special) type = GGUF_CONTROL;
        if (gguf_token_set(g, id, v->work, n < 0 ? GGUF_TEXT : (size_t)n, type)) return 1;
    }
    return 0;
}
static inline int gguf_vocab_added(gguf_job *g) {
    gguf_vocab *v = &g->vocab;
    int64_t list = dpo_json_find(v->json, 0, "added_tokens"), i, at = dpo_json_first(v->json, list);
    if (v->merges) return 0;
    for (i = dpo_json_count(v->json, list); i > 0; i--, at = dpo_json_next(v->json, at)) {
        int64_t n = dpo_json_string(v->json, dpo_json_find(v->json, at, "content"), v->work, GGUF_TEXT);
        int special = gguf_flag(v, at, "special", 0);
        if (gguf_flag(v, at, "lstrip", 0) || gguf_flag(v, at, "rstrip", 0))
            gguf_note(g, "llama.cpp leaves the white space beside an added token that the tokenizer takes away.");
        if (gguf_token_set(g, gguf_id(v, dpo_json_find(v->json, at, "id")), v->work, n < 0 ? GGUF_TEXT : (size_t)n,
                           special ? GGUF_CONTROL : GGUF_USER_DEFINED))
            return 1;
    }
    return 0;
}
/* What has no token yet is padding; then the index: llama.cpp looks tokens up by their text and wants each but once. */
static inline int gguf_vocab_index(gguf_job *g) {
    gguf_vocab *v = &g->vocab;
    size_t places = 1024, slot;
    int64_t id;
    char pad[32];
    while (places < 2 * (size_t)v->n) places *= 2;
    v->index = (uint32_t *)calloc(places, sizeof *v->index);
    if (!v->index) return gguf_no_memory(g);
    v->index_mask = places - 1;
    for (id = 0; id < v->n; id++) {
        int n = snprintf(pad, sizeof pad, "[PAD%ld]", (long)id);
        if (!v->token[id].type && gguf_token_set(g, id, pad, (size_t)n, GGUF_UNUSED)) return 1;
        slot = gguf_slot(v, v->blob + v->token[id].at, v->token[id].length);
        if (v->index[slot] || !v->token[id].length)
            return gguf_fail(g,
                             "GGUF: token %ld is empty or has the same text as token %ld; llama.cpp takes no such "
                             "vocabulary",
                             (long)id, (long)v->index[slot] - 1);
        v->index[slot] = (uint32_t)id + 1;
    }
    return 0;
}
/* A file of a directory, as text; *text stays NULL if it is not there. */
static inline int gguf_vocab_file(gguf_job *g, const char *dir, const char *name, char **text, size_t *size) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s%s%s", dir, name[0] ? "/" : "", name);
    *text = NULL;
    if (n < 0 || (size_t)n >= sizeof path) return gguf_fail(g, "GGUF: the path %.200s... is too long", dir);
    if (stat(path, &st)) return 0;
    return gzip_read_file(path, GGUF_JSON, text, size, g->err, g->errcap) != 0;
}
static inline int gguf_vocab_parse(gguf_job *g, const char *dir, const char *text, size_t size) {
    const char *why = "";
    size_t at = 0;
    if (dpo_json_parse(g->vocab.json, text, size, &why, &at) || dpo_json_type(g->vocab.json, 0) != '{')
        return gguf_fail(g,
                         "GGUF: the tokenizer of %.200s is no JSON (%s at byte %lu); a llama2.c tok*.bin must become a "
                         "tokenizer.json first",
                         dir, why && *why ? why : "no object", (unsigned long)at);
    return 0;
}
/* Opens tokenizer.json, or vocab.json with merges.txt. */
static inline int gguf_vocab_open(gguf_job *g, const char *dir) {
    gguf_vocab *v = &g->vocab;
    struct stat st;
    int alone = !stat(dir, &st) && !S_ISDIR(st.st_mode);
    int64_t model;
    v->t = dpo_tokenizer_load(g->c, dir);
    if (!v->t) return gguf_fail(g, "GGUF: %s", dpo_error(g->c));
    v->json = dpo_json_create(g->c);
    v->work = (char *)malloc(2 * GGUF_TEXT);
    if (!v->json || !v->work) return gguf_no_memory(g);
    v->unk = v->pad = -1;
    v->merge_list = -1;
    if (gguf_vocab_file(g, dir, alone ? "" : "tokenizer.json", &v->text, &v->text_size)) return 1;
    if (!v->text) {
        if (gguf_vocab_file(g, dir, "vocab.json", &v->text, &v->text_size) ||
            gguf_vocab_file(g, dir, "merges.txt", &v->merges, &v->merges_size))
            return 1;
        if (!v->text || !v->merges)
            return gguf_fail(g, "GGUF: %.300s has neither tokenizer.json nor vocab.json with merges.txt", dir);
        v->byte_level = v->gpt2 = 1;
        return gguf_vocab_parse(g, dir, v->text, v->text_size);
    }
    if (gguf_vocab_parse(g, dir, v->text, v->text_size)) return 1;
    model = dpo_json_find(v->json, 0, "model");
    v->pieces = dpo_json_find(v->json, model, "vocab");
    v->merge_list = dpo_json_find(v->json, model, "merges");
    v->n_merges = dpo_json_count(v->json, v->merge_list);
    v->ignore_merges = gguf_flag(v, model, "ignore_merges", 0);
    v->byte_fallback = gguf_flag(v, model, "byte_fallback", 0);
    return gguf_vocab_parts(g, "normalizer", "normalizers") || gguf_vocab_parts(g, "pre_tokenizer", "pretokenizers");
}
/* Which ids begin and end a text, are unknown, fill up. */
static inline int gguf_vocab_special(gguf_job *g, const char *dir) {
    gguf_vocab *v = &g->vocab;
    char *text;
    size_t size;
    int64_t n, node = dpo_json_find(v->json, dpo_json_find(v->json, 0, "model"), "unk_token");
    v->bos = dpo_tokenizer_bos(v->t);
    v->eos = dpo_tokenizer_eos(v->t);
    v->add_bos = dpo_tokenizer_adds_bos(v->t);
    n = dpo_json_string(v->json, node, v->work, GGUF_TEXT);
    if (!v->merges && n > 0 && n < (int64_t)GGUF_TEXT) v->unk = (int32_t)gguf_find(v, v->work, (size_t)n);
    if (v->sentencepiece && v->unk >= 0) v->token[v->unk].type = GGUF_UNKNOWN;
    if (v->eos < 0) v->eos = g->k->eos_token_id;
    if (v->bos < 0) v->bos = g->k->bos_token_id;
    if (v->eos < 0 || v->eos >= v->n)
        return gguf_fail(g,
                         "GGUF: nothing says which token ends a text, and llama.cpp would take id %d; name it as "
                         "\"eos_token\" in tokenizer_config.json",
                         v->sentencepiece ? 2 : 11);
    if (v->bos < 0 || v->bos >= v->n) v->bos = v->eos; /* a label: it is not put before texts then */
    if (gguf_vocab_file(g, dir, "tokenizer_config.json", &text, &size)) return 1;
    if (text && !dpo_json_parse(v->json, text, size, NULL, NULL)) {
        node = dpo_json_find(v->json, 0, "pad_token");
        if (dpo_json_type(v->json, node) == '{') node = dpo_json_find(v->json, node, "content");
        n = dpo_json_string(v->json, node, v->work, GGUF_TEXT);
        if (n > 0 && n < (int64_t)GGUF_TEXT) v->pad = (int32_t)gguf_find(v, v->work, (size_t)n);
    }
    free(text);
    return gguf_vocab_parse(g, dir, v->text, v->text_size); /* the merges are read once more, on their way out */
}
/* Reads all merges once: so many there are, and writing them meets no error. */
static inline int gguf_count_merges(gguf_job *g) {
    gguf_merge m = gguf_merges_start(&g->vocab);
    int64_t n = 0;
    int next;
    while ((next = gguf_merge_next(g, &m)) > 0) n++;
    g->vocab.n_merges = n;
    return next < 0;
}
/* The 256 bytes and an end, as byte-level BPE without merges: a byte is the character that GPT-2 writes for it. */
static inline int gguf_vocab_bytes(gguf_job *g) {
    gguf_vocab *v = &g->vocab;
    int b, other = 256;
    char text[2];
    for (b = 0; b < 256; b++) {
        int itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174, x = itself ? b : other++;
        text[0] = (char)(x < 128 ? x : 0xc0 | x >> 6);
        text[1] = (char)(0x80 | (x & 0x3f));
        if (gguf_token_set(g, b, text, x < 128 ? 1 : 2, GGUF_NORMAL)) return 1;
    }
    v->pre = "gpt-2";
    v->bos = v->eos = 256;
    v->unk = v->pad = -1;
    v->merge_list = -1;
    v->json = dpo_json_create(g->c);
    if (!v->json) return gguf_no_memory(g);
    return gguf_token_set(g, 256, "<|endoftext|>", 13, GGUF_CONTROL) || gguf_vocab_index(g);
}
static inline int gguf_vocab_load(gguf_job *g, const char *dir) {
    gguf_vocab *v = &g->vocab;
    int64_t i, bytes = 0;
    v->n = g->k->vocab_size;
    v->token = (gguf_token *)calloc((size_t)v->n, sizeof *v->token);
    if (!v->token) return gguf_no_memory(g);
    if (g->k->byte_tokenizer) return gguf_vocab_bytes(g);
    if (!dir) return gguf_fail(g, "GGUF: a tokenizer is needed: name the directory that has it");
    if (gguf_vocab_open(g, dir) || gguf_vocab_pre(g) || gguf_vocab_pieces(g) || gguf_vocab_added(g) ||
        gguf_vocab_index(g) || gguf_vocab_special(g, dir) || gguf_count_merges(g))
        return 1;
    if (!v->sentencepiece) return 0;
    for (i = 0; i < v->n; i++) bytes += v->token[i].type == GGUF_BYTE;
    if (bytes != 256)
        return gguf_fail(g,
                         "GGUF: a tokenizer of SentencePiece type needs all bytes <0x00> to <0xFF> as pieces, this "
                         "one has %ld; llama.cpp cannot express what it does without them",
                         (long)bytes);
    return gguf_scores(g);
}

/* ---- bytes out ---------------------------------------------------------------------------------------------------- */

static inline void gguf_flush(gguf_out *o) {
    const unsigned char *p = o->buffer;
    while (o->held && !o->error) {
        ssize_t n = write(o->fd, p, o->held);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) o->error = n < 0 && errno ? errno : EIO;
        else {
            p += n;
            o->held -= (size_t)n;
        }
    }
    o->held = 0;
}
static inline void gguf_put(gguf_out *o, const void *from, size_t n) {
    const unsigned char *p = (const unsigned char *)from;
    o->at += n;
    while (n && o->fd >= 0) {
        size_t part = GGUF_BUFFER - o->held < n ? GGUF_BUFFER - o->held : n;
        memcpy(o->buffer + o->held, p, part);
        o->held += part;
        p += part;
        n -= part;
        if (o->held == GGUF_BUFFER) gguf_flush(o);
    }
}
static inline void gguf_number(gguf_out *o, uint64_t x, size_t bytes) {
    unsigned char b[8];
    size_t i;
    for (i = 0; i < bytes; i++) b[i] = (unsigned char)(x >> 8 * i);
    gguf_put(o, b, bytes);
}
static inline void gguf_float(gguf_out *o, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    gguf_number(o, bits, 4);
}
static inline void gguf_string(gguf_out *o, const char *text, size_t n) {
    gguf_number(o, n, 8);
    gguf_put(o, text, n);
}
static inline void gguf_pad(gguf_out *o) {
    static const char zeros[GGUF_ALIGN] = {0};
    gguf_put(o, zeros, (size_t)((GGUF_ALIGN - o->at % GGUF_ALIGN) % GGUF_ALIGN));
}

/* ---- keys and values ----------------------------------------------------------------------------------------------- */

/* Key and type; ".name" is the architecture's. */
static inline void gguf_key(gguf_job *g, const char *key, int type) {
    char full[128];
    int n = snprintf(full, sizeof full, "%s%s", key[0] == '.' ? g->arch : "", key);
    g->n_keys++;
    gguf_string(&g->out, full, (size_t)n);
    gguf_number(&g->out, (uint64_t)type, 4);
}
static inline void gguf_key_u32(gguf_job *g, const char *key, int64_t x) {
    gguf_key(g, key, GGUF_U32);
    gguf_number(&g->out, (uint64_t)x, 4);
}
static inline void gguf_key_f32(gguf_job *g, const char *key, double x) {
    gguf_key(g, key, GGUF_F32);
    gguf_float(&g->out, (float)x);
}
static inline void gguf_key_bool(gguf_job *g, const char *key, int x) {
    gguf_key(g, key, GGUF_BOOL);
    gguf_number(&g->out, x != 0, 1);
}
static inline void gguf_key_text(gguf_job *g, const char *key, const char *text) {
    gguf_key(g, key, GGUF_STRING);
    gguf_string(&g->out, text, strlen(text));
}
static inline void gguf_key_array(gguf_job *g, const char *key, int type, int64_t n) {
    gguf_key(g, key, GGUF_ARRAY);
    gguf_number(&g->out, (uint64_t)type, 4);
    gguf_number(&g->out, (uint64_t)n, 8);
}
static inline void gguf_keys_model(gguf_job *g) {
    const dpo_model_config *k = g->k;
    gguf_key_text(g, "general.architecture", g->arch);
    gguf_key_text(g, "general.type", "model");
    gguf_key_text(g, "general.name", g->name);
    gguf_key_u32(g, "general.file_type", g->dtype == DPO_F32 ? 0 : g->dtype == DPO_F16 ? 1 : 32);
    gguf_key_u32(g, ".vocab_size", k->vocab_size);
    gguf_key_u32(g, ".context_length", k->max_position_embeddings);
    gguf_key_u32(g, ".embedding_length", k->hidden_size);
    gguf_key_u32(g, ".block_count", k->num_hidden_layers);
    gguf_key_u32(g, ".feed_forward_length", k->intermediate_size);
    gguf_key_u32(g, ".attention.head_count", k->num_attention_heads);
    gguf_key_u32(g, ".attention.head_count_kv", k->num_key_value_heads);
    gguf_key_f32(g, k->norm == DPO_NORM_RMS ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon",
                 k->norm_eps);
    if (k->head_dim * k->num_attention_heads != k->hidden_size) {
        gguf_key_u32(g, ".attention.key_length", k->head_dim);
        gguf_key_u32(g, ".attention.value_length", k->head_dim);
    }
    if (k->family == DPO_BTLM) gguf_key_f32(g, ".attention.max_alibi_bias", g->alibi);
    if (k->family == DPO_GPT_NEOX) gguf_key_bool(g, ".use_parallel_residual", k->parallel_residual);
    if (k->position != DPO_POSITION_ROPE) return;
    gguf_key_u32(g, ".rope.dimension_count", k->rotary_dim);
    gguf_key_f32(g, ".rope.freq_base", k->rope_theta);
    if (k->rope_scaling == DPO_ROPE_LINEAR) {
        gguf_key_text(g, ".rope.scaling.type", "linear");
        gguf_key_f32(g, ".rope.scaling.factor", k->rope_factor);
    }
}
static inline void gguf_keys_merges(gguf_job *g) {
    gguf_merge m = gguf_merges_start(&g->vocab);
    gguf_key_array(g, "tokenizer.ggml.merges", GGUF_STRING, g->vocab.n_merges);
    while (gguf_merge_next(g, &m) > 0) {
        gguf_number(&g->out, m.n_left + 1 + m.n_right, 8);
        gguf_put(&g->out, m.left, m.n_left);
        gguf_put(&g->out, " ", 1);
        gguf_put(&g->out, m.right, m.n_right);
    }
}
static inline void gguf_keys_tokens(gguf_job *g) {
    const gguf_vocab *v = &g->vocab;
    int64_t i;
    gguf_key_text(g, "tokenizer.ggml.model", v->sentencepiece ? "llama" : "gpt2");
    gguf_key_text(g, "tokenizer.ggml.pre", v->pre);
    gguf_key_array(g, "tokenizer.ggml.tokens", GGUF_STRING, v->n);
    for (i = 0; i < v->n; i++) gguf_string(&g->out, v->blob + v->token[i].at, v->token[i].length);
    if (v->sentencepiece) {
        gguf_key_array(g, "tokenizer.ggml.scores", GGUF_F32, v->n);
        for (i = 0; i < v->n; i++) gguf_float(&g->out, v->token[i].score);
    }
    gguf_key_array(g, "tokenizer.ggml.token_type", GGUF_I32, v->n);
    for (i = 0; i < v->n; i++) gguf_number(&g->out, (uint64_t)v->token[i].type, 4);
    if (!v->sentencepiece) gguf_keys_merges(g);
    gguf_key_u32(g, "tokenizer.ggml.bos_token_id", v->bos);
    gguf_key_u32(g, "tokenizer.ggml.eos_token_id", v->eos);
    if (v->unk >= 0) gguf_key_u32(g, "tokenizer.ggml.unknown_token_id", v->unk);
    if (v->pad >= 0) gguf_key_u32(g, "tokenizer.ggml.padding_token_id", v->pad);
    gguf_key_bool(g, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_key_bool(g, "tokenizer.ggml.add_eos_token", 0);
    if (v->sentencepiece) gguf_key_bool(g, "tokenizer.ggml.add_space_prefix", v->space_prefix);
}

/* ---- tensors ------------------------------------------------------------------------------------------------------- */

typedef struct gguf_name {
    const char *from, *to; /* modules: Hugging Face's name, llama.cpp's */
    int order;
} gguf_name;

/* The module a tensor belongs to, of its family's list; NULL if none. *layer: -1 if it is no layer's. */
static inline const gguf_name *gguf_module(int family, const char *name, size_t n, long *layer) {
    static const gguf_name neox[] = {{"gpt_neox.layers.", "", 0},
                                     {"gpt_neox.embed_in", "token_embd", 0},
                                     {"gpt_neox.final_layer_norm", "output_norm", 0},
                                     {"embed_out", "output", 0},
                                     {"input_layernorm", "attn_norm", 0},
                                     {"post_attention_layernorm", "ffn_norm", 0},
                                     {"attention.query_key_value", "attn_qkv", GGUF_THIRDS},
                                     {"attention.dense", "attn_output", 0},
                                     {"mlp.dense_h_to_4h", "ffn_up", 0},
                                     {"mlp.dense_4h_to_h", "ffn_down", 0},
                                     {NULL, NULL, 0}};
    static const gguf_name gpt2[] = {{"transformer.h.", "", 0},
                                     {"transformer.wte", "token_embd", 0},
                                     {"transformer.wpe", "position_embd", 0},
                                     {"transformer.ln_f", "output_norm", 0},
                                     {"lm_head", "output", 0},
                                     {"ln_1", "attn_norm", 0},
                                     {"ln_2", "ffn_norm", 0},
                                     {"attn.c_attn", "attn_qkv", GGUF_TRANSPOSED},
                                     {"attn.c_proj", "attn_output", GGUF_TRANSPOSED},
                                     {"mlp.c_fc", "ffn_up", GGUF_TRANSPOSED},
                                     {"mlp.c_fc2", "ffn_gate", GGUF_TRANSPOSED},
                                     {"mlp.c_proj", "ffn_down", GGUF_TRANSPOSED},
                                     {NULL, NULL, 0}};
    static const gguf_name llama[] = {{"model.layers.", "", 0},
                                      {"model.embed_tokens", "token_embd", 0},
                                      {"model.norm", "output_norm", 0},
                                      {"lm_head", "output", 0},
                                      {"input_layernorm", "attn_norm", 0},
                                      {"post_attention_layernorm", "ffn_norm", 0},
                                      {"self_attn.q_proj", "attn_q", GGUF_PAIRS},
                                      {"self_attn.k_proj", "attn_k", GGUF_PAIRS},
                                      {"self_attn.v_proj", "attn_v", 0},
                                      {"self_attn.o_proj", "attn_output", 0},
                                      {"mlp.gate_proj", "ffn_gate", 0},
                                      {"mlp.up_proj", "ffn_up", 0},
                                      {"mlp.down_proj", "ffn_down", 0},
                                      {NULL, NULL, 0}};
    const gguf_name *list = family == DPO_GPT_NEOX ? neox : family == DPO_GPT2 || family == DPO_BTLM ? gpt2 : llama;
    size_t prefix = strlen(list->from);
    char *end;
    *layer = -1;
    if (n > prefix && !strncmp(name, list->from, prefix)) { /* the first entry is the layers' prefix */
        *layer = strtol(name + prefix, &end, 10);
        n -= (size_t)(end + 1 - name);
        name = end + 1;
    }
    for (list++; list->from; list++)
        if (strlen(list->from) == n && !strncmp(list->from, name, n)) return list;
    return NULL;
}
static inline gguf_tensor *gguf_tensor_new(gguf_job *g, int64_t rows, int64_t columns) {
    gguf_tensor *t = &g->tensors[g->n_tensors++];
    memset(t, 0, sizeof *t);
    t->rows = rows;
    t->columns = columns;
    t->type = columns ? g->dtype : DPO_F32;
    t->scale = 1.0;
    return t;
}
static inline int gguf_tensor_of(gguf_job *g, const dpo_tensor *view) {
    const dpo_model_config *k = g->k;
    const char *dot = strrchr(view->name, '.');
    long layer;
    const gguf_name *name = dot ? gguf_module(k->family, view->name, (size_t)(dot - view->name), &layer) : NULL;
    gguf_tensor *t;
    int order;
    if (!name) return gguf_fail(g, "GGUF: there is no name in llama.cpp for tensor %.200s", view->name);
    order = name->order == GGUF_PAIRS && k->family != DPO_LLAMA ? GGUF_PLAIN : name->order;
    if (order == GGUF_TRANSPOSED && view->ndim < 2) order = GGUF_PLAIN;
    t = gguf_tensor_new(g, view->shape[order == GGUF_TRANSPOSED],
                        view->ndim < 2 ? 0 : view->shape[order != GGUF_TRANSPOSED]);
    t->from = view;
    t->order = order;
    t->heads = strstr(name->to, "attn_k") ? k->num_key_value_heads : k->num_attention_heads;
    if (layer >= 0) (void)snprintf(t->name, sizeof t->name, "blk.%ld.%s%s", layer, name->to, dot);
    else (void)snprintf(t->name, sizeof t->name, "%s%s", name->to, dot);
    if (!strcmp(name->to, "token_embd")) t->scale = k->embedding_scale;
    if (!strcmp(name->to, "output")) t->scale = k->output_scale;
    if (!strcmp(name->to, "position_embd")) t->type = DPO_F32; /* as llama.cpp's converter has it */
    return 0;
}
/* Divisors of the angles' frequencies: Llama-3 leaves the fast ones, slows the slow ones down, blends between. */
static inline int gguf_rope_factors(gguf_job *g) {
    const dpo_model_config *k = g->k;
    double length = k->rope_original_max_position;
    int i, n = k->rotary_dim / 2;
    gguf_tensor *t = gguf_tensor_new(g, n, 0);
    (void)snprintf(t->name, sizeof t->name, "rope_freqs.weight");
    t->values = g->rope_factors = (float *)malloc((size_t)n * sizeof *g->rope_factors);
    if (!t->values) return gguf_no_memory(g);
    for (i = 0; i < n; i++) {
        double wave = 6.283185307179586477 * pow(k->rope_theta, 2.0 * i / k->rotary_dim), fast, by;
        fast = (length / wave - k->rope_low_freq_factor) / (k->rope_high_freq_factor - k->rope_low_freq_factor);
        by = wave < length / k->rope_high_freq_factor  ? 1.0
             : wave > length / k->rope_low_freq_factor ? k->rope_factor
                                                       : 1.0 / ((1.0 - fast) / k->rope_factor + fast);
        g->rope_factors[i] = (float)by;
    }
    return 0;
}
/* gptneox is loaded with all biases: those of a model without are zeros. */
static inline void gguf_zero_biases(gguf_job *g) {
    const dpo_model_config *k = g->k;
    int l;
    for (l = 0; l < k->num_hidden_layers; l++) {
        if (!k->qkv_bias)
            (void)snprintf(gguf_tensor_new(g, 3 * k->hidden_size, 0)->name, 64, "blk.%d.attn_qkv.bias", l);
        if (!k->attention_bias)
            (void)snprintf(gguf_tensor_new(g, k->hidden_size, 0)->name, 64, "blk.%d.attn_output.bias", l);
    }
}
static inline int gguf_plan(gguf_job *g) {
    const dpo_model_config *k = g->k;
    int own_head = k->family == DPO_GPT_NEOX || k->family == DPO_BTLM;
    int64_t i, embedding = -1;
    uint64_t at = 0;
    g->n_views = dpo_model_tensors(g->m, NULL, 0);
    g->views = (dpo_tensor *)calloc((size_t)g->n_views, sizeof *g->views);
    g->tensors = (gguf_tensor *)calloc((size_t)(g->n_views + 2 * k->num_hidden_layers + 2), sizeof *g->tensors);
    if (!g->views || !g->tensors) return gguf_no_memory(g);
    (void)dpo_model_tensors(g->m, g->views, g->n_views);
    for (i = 0; i < g->n_views; i++) {
        if (gguf_tensor_of(g, &g->views[i])) return 1;
        if (!strcmp(g->tensors[i].name, "token_embd.weight")) embedding = i;
    }
    if (k->tie_word_embeddings && own_head && embedding >= 0) {
        gguf_tensor *t = gguf_tensor_new(g, k->vocab_size, k->hidden_size);
        (void)snprintf(t->name, sizeof t->name, "output.weight");
        t->from = &g->views[embedding];
        t->scale = k->output_scale;
    }
    if (k->rope_scaling == DPO_ROPE_LLAMA3 && gguf_rope_factors(g)) return 1;
    if (k->family == DPO_GPT_NEOX) gguf_zero_biases(g);
    for (i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];
        t->bytes = (uint64_t)t->rows * (uint64_t)(t->columns ? t->columns : 1) * (t->type == DPO_F32 ? 4u : 2u);
        t->offset = at;
        at += (t->bytes + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
    }
    return 0;
}

static inline float gguf_value(const gguf_tensor *t, int64_t i) {
    float x = 0;
    if (t->from) {
        x = t->from->dtype == DPO_BF16 ? dpo_f32_from_bf16(((const uint16_t *)t->from->data)[i])
                                       : ((const float *)t->from->data)[i];
    } else if (t->values) x = t->values[i];
    return t->scale == 1.0 ? x : (float)((double)x * t->scale);
}
/* The model's row that becomes row r of the file. */
static inline int64_t gguf_row(const gguf_tensor *t, int64_t r) {
    int64_t size, head, within;
    if (t->order == GGUF_THIRDS) {
        size = t->rows / 3 / t->heads;
        head = r % (t->heads * size) / size;
        return (head * 3 + r / (t->heads * size)) * size + r % size;
    }
    if (t->order != GGUF_PAIRS) return r;
    size = t->rows / t->heads;
    head = r / size;
    within = r % size;
    return head * size + within % 2 * (size / 2) + within / 2;
}
/* n rows from `first` on into g->rows. */
static inline void gguf_rows(gguf_job *g, const gguf_tensor *t, int64_t first, int64_t n) {
    int64_t width = t->columns ? t->columns : 1, r, i;
    if (t->order == GGUF_TRANSPOSED) {
        for (i = 0; i < width; i++)
            for (r = 0; r < n; r++) g->rows[r * width + i] = gguf_value(t, i * t->rows + first + r);
        return;
    }
    for (r = 0; r < n; r++) {
        int64_t from = gguf_row(t, first + r) * width;
        for (i = 0; i < width; i++) g->rows[r * width + i] = gguf_value(t, from + i);
    }
}
/* n numbers of g->rows in the tensor's type, rounded to nearest even. */
static inline void gguf_encode(gguf_job *g, int type, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++) {
        float x = g->rows[i];
        if (type == DPO_F32) gguf_float(&g->out, x);
        else if (type == DPO_BF16) gguf_number(&g->out, dpo_bf16_from_f32(x), 2);
        else {
            uint16_t half = dpo_f16_from_f32(x);
            g->report->overflows += (half & 0x7c00) == 0x7c00;
            gguf_number(&g->out, half, 2);
        }
    }
}
static inline int gguf_data(gguf_job *g) {
    int64_t i, r, widest = 1, batch, n, width;
    for (i = 0; i < g->n_tensors; i++)
        if (g->tensors[i].columns > widest) widest = g->tensors[i].columns;
    batch = (int64_t)(GGUF_BUFFER / sizeof(float));
    g->rows = (float *)malloc((size_t)(widest > batch ? widest : batch) * sizeof *g->rows);
    if (!g->rows) return gguf_no_memory(g);
    for (i = 0; i < g->n_tensors && !g->out.error; i++) {
        const gguf_tensor *t = &g->tensors[i];
        width = t->columns ? t->columns : 1;
        batch = (int64_t)(GGUF_BUFFER / sizeof(float)) / width;
        if (batch < 1) batch = 1;
        for (r = 0; r < t->rows; r += n) {
            n = t->rows - r < batch ? t->rows - r : batch;
            gguf_rows(g, t, r, n);
            gguf_encode(g, t->type, n * width);
        }
        gguf_pad(&g->out);
    }
    return 0;
}

/* ---- the file ------------------------------------------------------------------------------------------------------ */

/* Everything before the tensors' bytes. The keys are gone through twice: their count stands before them. */
static inline void gguf_head(gguf_job *g) {
    gguf_out real = g->out;
    int64_t i, keys;
    g->out.fd = -1;
    gguf_keys_model(g);
    gguf_keys_tokens(g);
    keys = g->n_keys;
    g->out = real;
    gguf_put(&g->out, "GGUF", 4);
    gguf_number(&g->out, 3, 4);
    gguf_number(&g->out, (uint64_t)g->n_tensors, 8);
    gguf_number(&g->out, (uint64_t)keys, 8);
    gguf_keys_model(g);
    gguf_keys_tokens(g);
    for (i = 0; i < g->n_tensors; i++) { /* dimensions are listed from the one that runs fastest on */
        const gguf_tensor *t = &g->tensors[i];
        gguf_string(&g->out, t->name, strlen(t->name));
        gguf_number(&g->out, t->columns ? 2 : 1, 4);
        if (t->columns) gguf_number(&g->out, (uint64_t)t->columns, 8);
        gguf_number(&g->out, (uint64_t)t->rows, 8);
        gguf_number(&g->out, t->type == DPO_F32 ? 0 : t->type == DPO_F16 ? 1 : 30, 4);
        gguf_number(&g->out, t->offset, 8);
    }
    gguf_pad(&g->out);
}
/* The rename is on the disk when the directory is. Some file systems know no sync of a directory: that is no error. */
static inline int gguf_sync_dir(const char *path) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    int fd, e;
    (void)snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + (slash == path) : 1, slash ? path : ".");
    fd = open(dir, O_RDONLY);
    if (fd < 0) return errno;
    e = fsync(fd) && errno != EINVAL && errno != ENOTSUP ? errno : 0;
    (void)close(fd);
    return e;
}
static inline int gguf_save(gguf_job *g, const char *path) {
    char part[4096];
    int n = snprintf(part, sizeof part, "%s.part", path), failed;
    if (n < 0 || (size_t)n >= sizeof part) return gguf_fail(g, "GGUF: the path %.200s... is too long", path);
    g->out.buffer = (unsigned char *)malloc(GGUF_BUFFER);
    if (!g->out.buffer) return gguf_no_memory(g);
    g->out.fd = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (g->out.fd < 0)
        return gguf_fail(g, "GGUF: cannot create %.300s: %s; check the directory and its rights", part,
                         strerror(errno));
    gguf_head(g);
    failed = gguf_data(g);
    gguf_flush(&g->out);
    if (!g->out.error && fsync(g->out.fd)) g->out.error = errno;
    if (close(g->out.fd) && !g->out.error) g->out.error = errno;
    if (!failed && g->report->overflows)
        failed = gguf_fail(g, "GGUF: %lld weights are too large for F16 (beyond 65504); write BF16 or F32",
                           (long long)g->report->overflows);
    if (!failed && !g->out.error && rename(part, path)) g->out.error = errno;
    if (failed || g->out.error) (void)remove(part);
    else g->out.error = gguf_sync_dir(path);
    if (!failed && g->out.error)
        failed = gguf_fail(g, "GGUF: cannot write %.300s: %s; is the disk full?", path, strerror(g->out.error));
    return failed;
}

/* gguf_write - the model, which may be frozen, with the tokenizer of a directory (tokenizer.json, or vocab.json with
 * merges.txt; not looked at where config.json says "dpo_tokenizer": "bytes").
 *   dtype   of the matrices: DPO_F32, DPO_F16, DPO_BF16
 *   name    general.name, may be NULL
 *   report  may be NULL
 *   returns 0, or 1 with a sentence in err and no file */
static inline int gguf_write(dpo_context *c, const dpo_model *m, const char *tokenizer_dir, const char *path, int dtype,
                             const char *name, gguf_report *report, char *err, size_t errcap) {
    gguf_job g;
    gguf_report own;
    int failed;
    memset(&g, 0, sizeof g);
    g.c = c;
    g.m = m;
    g.k = dpo_model_config_of(m);
    g.name = name ? name : "model";
    g.dtype = dtype;
    g.report = report ? report : &own;
    g.err = err;
    g.errcap = errcap;
    memset(g.report, 0, sizeof *g.report);
    if (!c || !m || !path) failed = gguf_fail(&g, "GGUF: a model and a path are needed");
    else failed = gguf_check(&g) || gguf_vocab_load(&g, tokenizer_dir) || gguf_plan(&g) || gguf_save(&g, path);
    g.report->tensors = g.n_tensors;
    g.report->bytes = failed ? 0 : g.out.at;
    gguf_vocab_free(&g.vocab);
    free(g.views);
    free(g.tensors);
    free(g.rope_factors);
    free(g.rows);
    free(g.out.buffer);
    return failed;
}

#endif /* TOOLS_GGUF_H */
