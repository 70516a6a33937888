/* source.h: the tensors of a checkpoint, whatever files they lie in: safetensors, PyTorch's .bin, .pt, .pth, llama2.c's
 * .bin; one file, or the shards that an index.json names. They are listed first and then read one at a time, so that
 * memory is what the largest one takes.
 *
 *     source s;
 *     if (source_open(&s, context, path, err, sizeof err)) return cli_die("%s", err);
 *     for (i = 0; i < s.count; i++) {
 *         const void *elements = source_read(&s, i, err, sizeof err);   of s.tensor[i], valid until the next call
 *
 * A kind is told by content, never by name. Include dpo.h and files.h first. */
#ifndef TOOLS_SOURCE_H
#define TOOLS_SOURCE_H

#include "llama2c.h"
#include "torch.h"

enum { SOURCE_SAFETENSORS = 1, SOURCE_TORCH, SOURCE_LLAMA2C };
enum { SOURCE_SHARDS = 1024 };

typedef struct source_part {
    int kind;
    char path[4096];
    dpo_tensors_file *st;
    torch_file *torch;
    llama2c_file *llama;
} source_part;

typedef struct source {
    dpo_context *c;
    source_part *part;
    int parts;
    int64_t count;
    dpo_tensor *tensor; /* data NULL; names belong to the parts */
    int *of;            /* each tensor's part */
    int64_t *at;        /* and its place there */
    void *buffer;       /* the tensor read last, of a safetensors file */
    size_t room;
} source;

static inline const char *source_kind_name(int kind) {
    return kind == SOURCE_SAFETENSORS ? "safetensors" : kind == SOURCE_TORCH ? "PyTorch" : "llama2.c";
}

static inline size_t source_bytes(const dpo_tensor *t) {
    size_t n = dpo_dtype_size(t->dtype);
    int k;
    for (k = 0; k < t->ndim; k++) n *= (size_t)t->shape[k]; /* the reader has checked the product */
    return n;
}

static inline void source_close(source *s) {
    int i;
    for (i = 0; i < s->parts; i++) {
        dpo_tensors_close(s->part[i].st);
        torch_close(s->part[i].torch);
        llama2c_close(s->part[i].llama);
    }
    free(s->part);
    free(s->tensor);
    free(s->of);
    free(s->at);
    free(s->buffer);
    memset(s, 0, sizeof *s);
}

static inline int source_fail(char *err, size_t cap, const char *path, const char *what) {
    snprintf(err, cap, "%.400s: %s", path, what);
    return 1;
}
/* The context's sentence, and a context that goes on. */
static inline int source_fail_as(dpo_context *c, char *err, size_t cap) {
    snprintf(err, cap, "%s", dpo_error(c));
    dpo_clear(c);
    return 1;
}

static inline int64_t source_part_count(const source_part *p) {
    return p->kind == SOURCE_SAFETENSORS ? dpo_tensors_list(p->st, NULL, 0)
           : p->kind == SOURCE_TORCH     ? torch_count(p->torch)
                                         : llama2c_count(p->llama);
}

/* Does it begin as safetensors do: the length of a header that is in the file, and a brace? Or is it called so, and the
 * library says what is wrong with it? */
static inline int source_is_safetensors(const char *path) {
    unsigned char head[9];
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    return ends_in(path, ".safetensors") || (n == 9 && !head[5] && !head[6] && !head[7] && head[8] == '{');
}

/* One more file. */
static inline int source_add(source *s, const char *path, char *err, size_t cap) {
    source_part *p = &s->part[s->parts];
    int64_t n, i, total;
    void *more;
    if (access(path, R_OK)) return source_fail(err, cap, path, "it cannot be opened; download the checkpoint again");
    if (!is_file(path)) return source_fail(err, cap, path, "it is no ordinary file");
    if (s->parts == SOURCE_SHARDS) return source_fail(err, cap, path, "more than 1024 files in one checkpoint");
    memset(p, 0, sizeof *p);
    snprintf(p->path, sizeof p->path, "%s", path);
    if (torch_is(path)) p->kind = SOURCE_TORCH;
    else p->kind = llama2c_is(path) ? SOURCE_LLAMA2C : SOURCE_SAFETENSORS;
    if (p->kind == SOURCE_TORCH) p->torch = torch_open(path, err, cap);
    else if (p->kind == SOURCE_LLAMA2C) p->llama = llama2c_open(path, err, cap);
    else if (!source_is_safetensors(path))
        return source_fail(
            err, cap, path,
            "is neither safetensors, nor PyTorch's .bin, .pt or .pth, nor llama2.c's .bin; check that it "
            "is the right file, whole");
    else if (!(p->st = dpo_tensors_open(s->c, path))) return source_fail_as(s->c, err, cap);
    if (!p->st && !p->torch && !p->llama) return 1;
    s->parts++;
    n = source_part_count(p);
    total = s->count + n;
    if ((more = realloc(s->tensor, (size_t)(total + 1) * sizeof *s->tensor)) != NULL) s->tensor = (dpo_tensor *)more;
    if (more && (more = realloc(s->of, (size_t)(total + 1) * sizeof *s->of)) != NULL) s->of = (int *)more;
    if (more && (more = realloc(s->at, (size_t)(total + 1) * sizeof *s->at)) != NULL) s->at = (int64_t *)more;
    if (!more) return source_fail(err, cap, path, "no memory for the list of its tensors");
    if (p->st) dpo_tensors_list(p->st, s->tensor + s->count, n);
    for (i = 0; i < n; i++) {
        if (p->torch) s->tensor[s->count + i] = *torch_tensor(p->torch, i);
        if (p->llama) s->tensor[s->count + i] = *llama2c_tensor(p->llama, i);
        s->of[s->count + i] = s->parts - 1;
        s->at[s->count + i] = i;
    }
    s->count = total;
    return 0;
}

/* The tensor of this name, or -1. */
static inline int64_t source_find(const source *s, const char *name) {
    int64_t i;
    for (i = 0; i < s->count; i++)
        if (!strcmp(s->tensor[i].name, name)) return i;
    return -1;
}

static inline int source_by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}
/* Names sorted, on the heap; *twice is one that two files hold, or NULL. */
static inline const char **source_names(const source *s, const char **twice) {
    const char **names = (const char **)malloc((size_t)(s->count + 1) * sizeof *names);
    int64_t i;
    *twice = NULL;
    for (i = 0; names && i < s->count; i++) names[i] = s->tensor[i].name;
    if (names) qsort(names, (size_t)s->count, sizeof *names, source_by_name);
    for (i = 1; names && i < s->count; i++)
        if (!strcmp(names[i], names[i - 1])) *twice = names[i];
    return names;
}

/* Each tensor that the index promises must be in one of its files. */
static inline int source_check_index(const source *s, const dpo_json *j, int64_t map, const char *index, char *err,
                                     size_t cap) {
    const char *twice, **names = source_names(s, &twice), *found;
    int64_t i, n = dpo_json_count(j, map), v = dpo_json_first(j, map);
    char name[512];
    const char *key = name;
    int bad = 0;
    if (!names) return source_fail(err, cap, index, "no memory to check it");
    for (i = 0; i < n && !bad; i++, v = dpo_json_next(j, v + 1)) {
        int64_t length = dpo_json_string(j, v, name, sizeof name);
        found = length < (int64_t)sizeof name && (size_t)length == strlen(name)
                    ? (const char *)bsearch(&key, names, (size_t)s->count, sizeof *names, source_by_name)
                    : NULL;
        if (!found) {
            snprintf(err, cap, "%.400s: names tensor %.300s, which none of its files holds; download them again", index,
                     name);
            bad = 1;
        }
    }
    free(names);
    return bad;
}

/* All files that an index names, each once, in the order of their first tensors. */
static inline int source_open_index(source *s, const char *dir, const char *index_name, char *err, size_t cap) {
    char index[4096], path[4096], name[256];
    size_t n;
    char *text = NULL;
    dpo_json *j = NULL;
    const char *why = "";
    int64_t map, i, k, v, count;
    int bad = 0;
    if ((size_t)snprintf(index, sizeof index, "%s/%s", dir, index_name) < sizeof index && is_file(index))
        text = read_file(index, (size_t)64 << 20, &n);
    if (text) j = dpo_json_create(s->c);
    snprintf(err, cap, "%.400s cannot be read; it must be an ordinary file", index);
    if (!j || dpo_json_parse(j, text, n, &why, NULL)) {
        if (j) snprintf(err, cap, "%.400s is no JSON (%s); download it again", index, why);
        dpo_json_free(j);
        free(text);
        return 1;
    }
    map = dpo_json_find(j, 0, "weight_map");
    count = dpo_json_count(j, map);
    if (dpo_json_type(j, map) != '{' || !count)
        bad = source_fail(err, cap, index, "\"weight_map\" must be an object of tensor: file");
    for (i = 0, v = dpo_json_first(j, map); i < count && !bad; i++, v = dpo_json_next(j, v + 1)) {
        int64_t length = dpo_json_string(j, v + 1, name, sizeof name);
        if (length < 1 || length >= (int64_t)sizeof name || strchr(name, '/') || strlen(name) != (size_t)length) {
            bad = source_fail(err, cap, index, "an entry of \"weight_map\" does not name a file beside it");
            break;
        }
        bad = (size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path &&
              source_fail(err, cap, index, "names a file whose path is too long");
        for (k = s->parts - 1; k >= 0 && !bad; k--)
            if (!strcmp(s->part[k].path, path)) break;
        if (!bad && k < 0) bad = source_add(s, path, err, cap);
    }
    if (!bad) bad = source_check_index(s, j, map, index, err, cap);
    dpo_json_free(j);
    free(text);
    return bad;
}

/* A directory or a file. 0, or 1 and a sentence in err. */
static inline int source_open(source *s, dpo_context *c, const char *path, char *err, size_t cap) {
    static const char *const names[] = {"model.safetensors",         "model.safetensors.index.json",
                                        "pytorch_model.bin",         "pytorch_model.bin.index.json",
                                        "adapter_model.safetensors", "adapter_model.bin"};
    char file[4096];
    const char *twice, **sorted;
    int i, n = (int)(sizeof names / sizeof *names), bad;
    memset(s, 0, sizeof *s);
    s->c = c;
    s->part = (source_part *)malloc((size_t)SOURCE_SHARDS * sizeof *s->part);
    if (!s->part) return source_fail(err, cap, path, "no memory to open it");
    if (is_dir(path)) {
        for (i = 0; i < n && !holds(path, names[i]); i++) {
        }
        if (i == n)
            bad = source_fail(err, cap, path,
                              "holds no weights (model.safetensors, pytorch_model.bin, an index.json of "
                              "their shards, or adapter_model)");
        else if (ends_in(names[i], ".json")) bad = source_open_index(s, path, names[i], err, cap);
        else bad = path_join(file, sizeof file, path, names[i]) || source_add(s, file, err, cap);
    } else bad = source_add(s, path, err, cap);
    sorted = bad ? NULL : source_names(s, &twice);
    if (!bad && !sorted) bad = source_fail(err, cap, path, "no memory to open it");
    if (!bad && twice) {
        snprintf(err, cap, "%.400s: two of its files hold tensor %.300s; which one counts is not known", path, twice);
        bad = 1;
    }
    free(sorted);
    if (bad) source_close(s);
    return bad;
}

static inline const void *source_read(source *s, int64_t i, char *err, size_t cap) {
    source_part *p = &s->part[s->of[i]];
    const dpo_tensor *t = &s->tensor[i];
    size_t bytes = source_bytes(t);
    if (p->torch) return torch_read(p->torch, s->at[i], err, cap);
    if (p->llama) return llama2c_read(p->llama, s->at[i], err, cap);
    if (!t->dtype) {
        snprintf(err, cap, "%.400s: tensor %.300s is of a type that is not read here (8-bit or smaller floats)",
                 p->path, t->name);
        return NULL;
    }
    if (bytes > s->room || !s->buffer) {
        free(s->buffer);
        s->buffer = malloc(bytes + 1);
        s->room = s->buffer ? bytes : 0;
        if (!s->buffer) {
            snprintf(err, cap, "%.400s: no memory for tensor %.300s", p->path, t->name);
            return NULL;
        }
    }
    if (!dpo_tensors_read(p->st, s->at[i], s->buffer, s->room)) return s->buffer;
    source_fail_as(s->c, err, cap);
    return NULL;
}

/* Compares the checksums of all safetensors files; others have none. */
static inline int source_verify(const source *s, char *err, size_t cap) {
    int i;
    for (i = 0; i < s->parts; i++) {
        if (!s->part[i].st) return source_fail(err, cap, s->part[i].path, "--verify: such files hold no checksums");
        if (dpo_tensors_verify(s->part[i].st)) return source_fail_as(s->c, err, cap);
    }
    return 0;
}

#endif /* TOOLS_SOURCE_H */
