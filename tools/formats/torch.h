/* torch.h: reads the tensors of a PyTorch checkpoint (pytorch_model.bin, *.pt, *.pth), for the programs in tools/.
 *
 *     char err[640];
 *     torch_file *f = torch_open("pytorch_model.bin", err, sizeof err);
 *     if (!f) return cli_die("%s", err);
 *     for (i = 0; i < torch_count(f); i++) {
 *         const dpo_tensor *t = torch_tensor(f, i);                       name, dtype, shape
 *         const void *data = torch_read(f, i, err, sizeof err);           contiguous, until the next torch_read
 *         if (!data) return cli_die("%s", err);
 *         ...
 *     }
 *     torch_close(f);
 *
 * A checkpoint is a pickle, which is a program for a small machine with a stack, and storages, which are bytes. The
 * machine here knows what torch.save writes of a state_dict: numbers, texts, tuples, lists, dicts, and the few names in
 * torch_names. A name is looked up in that table and nowhere else; nothing is ever called. Any other name is refused,
 * with the name. Two containers are read:
 *
 *     zip     PyTorch 1.6 and later: PREFIX/data.pkl, PREFIX/data/KEY for each storage, PREFIX/byteorder; entries stored
 *             or deflated, zip64 too (PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.3)
 *     legacy  before: five pickles (a magic number, 1001, facts about the machine, the object, the storages' keys), then
 *             each storage as its count of elements (int64) and its bytes
 *
 * Names: of a dict whose tensors all lie in one dict inside it ({"step_idx": 7, "state": {...}}), that dict's keys; else
 * the keys and indices on the way to a tensor, joined by '.'. Whatever is no tensor is passed over.
 *
 * Any bytes may come in: the answer is tensors or an error sentence. Memory is the largest tensor, what it spans of its
 * storage if it is no contiguous part of that, a deflated storage with its deflated bytes, and at most some 64 bytes for
 * each byte of pickle, of which there may be 32 MiB. What deflate cannot have made of the bytes that are there is
 * refused before it is tried, and so are tensors that claim much more than their storages hold (a stride of 0 makes
 * terabytes of four bytes). Checksums are compared where whole entries are read; 0 is no checksum: PyTorch can be told
 * to write none. */
#ifndef TOOLS_TORCH_H
#define TOOLS_TORCH_H

#include "../../dpo.h"
#include "gzip.h"
#include <limits.h>
#include <stdarg.h>

#ifdef __GNUC__
#define TORCH_PRINTF __attribute__((__format__(__printf__, 2, 3)))
#else
#define TORCH_PRINTF
#endif

enum {
    TORCH_RANK = 8,
    TORCH_DEPTH = 32,         /* dicts in dicts */
    TORCH_NAME = 1024,        /* longest name of a tensor */
    TORCH_TENSORS = 100000,   /* as many as dpo.h writes into a file */
    TORCH_STORAGES = 1 << 20, /* mentions of storages */
    TORCH_ENTRIES = 1 << 20,  /* of a zip container */
    TORCH_PICKLE = 32 << 20,  /* bytes of pickle, and of a zip directory */
    TORCH_RATIO = 1100,       /* deflate makes at most 1032 bytes of one */
    TORCH_SHARED = 8,         /* tensors may claim so many times what their storages hold, */
    TORCH_SPARE = 1 << 30     /* or so many bytes more */
};

/* ---- what a file becomes ---------------------------------------------------------------------------------------- */

/* Kinds of nodes. */
enum {
    TORCH_OTHER, /* None, a bool, a float, a device: nothing that names or makes a tensor */
    TORCH_INT,
    TORCH_BIG, /* an integer of more than 64 bits: its little-endian bytes lie in the pickle */
    TORCH_TEXT,
    TORCH_GLOBAL,
    TORCH_STORAGE,
    TORCH_TUPLE,
    TORCH_LIST,
    TORCH_DICT,
    TORCH_TENSOR
};

typedef struct torch_node {
    uint32_t kind;
    uint32_t count; /* items of a container, a dict's keys and values both; bytes of a text; how a tensor is made */
    union {
        int64_t number;
        size_t at;       /* of a text: where in the pickle; of a global: where in torch_names */
        uint32_t end[2]; /* of a container: first and last cell; of a storage or tensor: the node of its arguments */
    } v;
} torch_node;

typedef struct torch_cell { /* an item of a container */
    uint32_t node, next;    /* 0: the last */
} torch_cell;

/* The stack machine. Node 0 is nothing: what goes wrong becomes it. */
typedef struct torch_machine {
    unsigned char *bytes; /* of the pickle; a legacy file's are read as they are needed */
    size_t size, room, pos;
    int growing;
    torch_node *node;
    torch_cell *cell;
    uint32_t *stack, *memo; /* nodes */
    size_t *mark;           /* heights of the stack */
    size_t nodes, node_room, cells, cell_room, height, stack_room, memos, memo_set, memo_room, marks, mark_room;
} torch_machine;

typedef struct torch_place { /* bytes in the file */
    uint64_t data, packed, size;
    uint32_t crc;
    int deflated;
} torch_place;

typedef struct torch_entry { /* of a zip container */
    const unsigned char *name;
    size_t name_size;
    uint64_t header;
    unsigned flags, method;
    torch_place place;
} torch_entry;

typedef struct torch_zip {
    unsigned char *directory;
    torch_entry *entry; /* by name */
    size_t entries;
    unsigned char *name; /* [65536] one to look for, or to compare */
    const unsigned char *prefix;
    size_t prefix_size;
} torch_zip;

typedef struct torch_storage {
    const unsigned char *key;
    size_t key_size;
    uint32_t node; /* the first that mentions it */
    int dtype;     /* 0: bytes of no type */
    unsigned unit; /* bytes in which a legacy file counts it */
    uint64_t bytes;
    int there; /* the file holds it */
    torch_place place;
} torch_storage;

typedef struct torch_view { /* what a tensor has besides its public side */
    int64_t storage;
    uint64_t first, span; /* bytes of the storage it needs */
    uint64_t stride[TORCH_RANK];
    uint64_t bytes;
    int contiguous;
} torch_view;

typedef struct torch_file {
    FILE *stream;
    char *path;
    uint64_t size;
    int failed;
    char message[640];
    char shown[2][160]; /* texts of the file, made fit for a sentence */
    int show;
    uint32_t crc_table[8][256];

    dpo_tensor *tensor;
    torch_view *view;
    int64_t count;
    char *names;
    torch_storage *storage; /* by key */
    int64_t storages;
    unsigned char *out, *source; /* of torch_read: the tensor; a deflated storage, or what a tensor spans */
    uint64_t out_room, source_room;
    int64_t held; /* the deflated storage in source, or -1 */

    torch_machine m; /* these two while the file is opened */
    torch_zip z;
    size_t tensor_room, view_room, name_size, name_room;
} torch_file;

/* ---- errors and memory ------------------------------------------------------------------------------------------ */

/* The first error stays. */
static inline void torch_say(torch_file *f, const char *remedy, const char *format, va_list args) {
    size_t n, cap = sizeof f->message;
    if (f->failed) return;
    f->failed = 1;
    (void)snprintf(f->message, cap, "%.200s: ", f->path);
    n = strlen(f->message);
    (void)vsnprintf(f->message + n, cap - n, format, args);
    n = strlen(f->message);
    (void)snprintf(f->message + n, cap - n, "%s", remedy);
}
/* Both are always 0, as failing functions return. */
TORCH_PRINTF static inline int torch_fail(torch_file *f, const char *format, ...) {
    va_list args;
    va_start(args, format);
    torch_say(f, "", format, args);
    va_end(args);
    return 0;
}
/* The same of what torch.save does not write. */
TORCH_PRINTF static inline int torch_damaged(torch_file *f, const char *format, ...) {
    va_list args;
    va_start(args, format);
    torch_say(f, "; download or copy the file again, or let torch.save write it again", format, args);
    va_end(args);
    return 0;
}

static inline int torch_no_memory(torch_file *f, uint64_t bytes, const char *what) {
    return torch_fail(f, "no memory for %llu bytes of %s; free some", (unsigned long long)bytes, what);
}

/* Bytes of the file for a sentence: cut, and '?' for what a terminal might obey. */
static inline const char *torch_show(torch_file *f, const void *text, size_t size) {
    char *to = f->shown[f->show ^= 1];
    const unsigned char *p = (const unsigned char *)text;
    size_t i, n = size < 150 ? size : 150;
    for (i = 0; i < n; i++) to[i] = p[i] < 32 || p[i] == 127 ? '?' : (char)p[i];
    memcpy(to + n, size > n ? "..." : "", size > n ? 4 : 1);
    return to;
}

/* An array of at least `need` elements. Without memory: an error, and the array as it was. */
static inline void *torch_room(torch_file *f, void *array, size_t *room, size_t need, size_t size) {
    size_t want = *room ? *room : 64;
    void *p;
    if (need <= *room) return array;
    while (want < need && want <= (size_t)-1 / 2) want *= 2;
    p = want >= need && want <= (size_t)-1 / size ? realloc(array, want * size) : NULL;
    if (!p) {
        torch_no_memory(f, need, "what its pickle lists");
        return array;
    }
    *room = want;
    return p;
}

/* ---- the file's bytes ------------------------------------------------------------------------------------------- */

static inline int torch_bytes(torch_file *f, uint64_t at, void *to, uint64_t size) {
    if (at > f->size || size > f->size - at)
        return torch_fail(f, "ends at byte %llu, but %llu bytes from %llu on belong to it; download or copy it again",
                          (unsigned long long)f->size, (unsigned long long)size, (unsigned long long)at);
    errno = 0;
    if (at > LONG_MAX || size > (size_t)-1 || fseek(f->stream, (long)at, SEEK_SET) ||
        fread(to, 1, (size_t)size, f->stream) != (size_t)size)
        return torch_fail(f, "cannot read %llu bytes from byte %llu on: %s; check the file", (unsigned long long)size,
                          (unsigned long long)at, errno ? strerror(errno) : "no reason given");
    return 1;
}

static inline unsigned torch_u16(const unsigned char *p) { return (unsigned)p[0] | (unsigned)p[1] << 8; }
static inline uint32_t torch_u32(const unsigned char *p) {
    return (uint32_t)torch_u16(p) | (uint32_t)torch_u16(p + 2) << 16;
}
static inline int torch_order(const void *a, size_t a_size, const void *b, size_t b_size) {
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order ? order : a_size < b_size ? -1 : a_size > b_size;
}

/* 0 is no checksum. */
static inline int torch_check_crc(torch_file *f, const char *what, const torch_place *p, const unsigned char *bytes) {
    uint32_t crc;
    if (!p->crc) return 1;
    crc = gzip_crc32(f->crc_table, bytes, (size_t)p->size);
    if (crc == p->crc) return 1;
    return torch_fail(f, "%s is damaged: its checksum is %08lx, %08lx is expected; download or copy the file again",
                      what, (unsigned long)crc, (unsigned long)p->crc);
}

/* All of it, inflated, checked. The caller frees *out. */
static inline int torch_whole(torch_file *f, const char *what, const torch_place *p, unsigned char **out) {
    const char *reason;
    unsigned char *packed = p->packed < (size_t)-1 ? (unsigned char *)malloc((size_t)p->packed + 1) : NULL;
    *out = NULL;
    if (!packed) return torch_no_memory(f, p->packed, what);
    if (torch_bytes(f, p->data, packed, p->packed)) {
        if (!p->deflated) {
            *out = packed;
            packed = NULL;
        } else if (p->size >= (size_t)-1) torch_no_memory(f, p->size, what);
        else if (gzip_inflate_bare(packed, (size_t)p->packed, (size_t)p->size, out, &reason))
            torch_fail(f, "%s is damaged: %s; download or copy the file again", what, reason);
        if (*out) torch_check_crc(f, what, p, *out);
    }
    free(packed);
    if (f->failed) {
        free(*out);
        *out = NULL;
    }
    return !f->failed;
}

/* ---- zip: the directory at the end ------------------------------------------------------------------------------ */

static inline const char *torch_entry_name(torch_file *f, const torch_entry *e) {
    return torch_show(f, e->name, e->name_size);
}

/* Where the directory lies, by the record at the end of the file, or by the zip64 record before that. */
static inline int torch_find_directory(torch_file *f, uint64_t *at, uint64_t *size, uint64_t *count) {
    enum { END = 22, LOCATOR = 20, RECORD = 56 };
    size_t tail = f->size < 65535 + END + LOCATOR ? (size_t)f->size : 65535 + END + LOCATOR, i;
    uint64_t end = f->size - tail; /* of what may lie before the record */
    unsigned char *bytes = (unsigned char *)malloc(tail + 1), record[RECORD];
    const unsigned char *p = NULL;
    if (!bytes) return torch_no_memory(f, tail, "a zip directory");
    if (torch_bytes(f, end, bytes, tail))
        for (i = tail < END ? 0 : tail - END + 1; i-- > 0 && !p;)
            if (!memcmp(bytes + i, "PK\5\6", 4) && torch_u16(bytes + i + 20) == tail - END - i) p = bytes + i;
    if (!p) torch_fail(f, "is a zip container whose directory at the end is missing; download or copy it again");
    else if (torch_u16(p + 4) || torch_u16(p + 6))
        torch_fail(f, "is one part of several of a zip container; join them");
    else {
        end += (size_t)(p - bytes);
        *count = torch_u16(p + 10);
        *size = torch_u32(p + 12);
        *at = torch_u32(p + 16);
        if (*count == 0xFFFF || *size == 0xFFFFFFFF || *at == 0xFFFFFFFF) {
            uint64_t place = 0;
            if (p - bytes < LOCATOR || memcmp(p - LOCATOR, "PK\6\7", 4))
                torch_fail(f, "is a zip container whose zip64 record is missing; download or copy it again");
            else place = gzip_load64(p - LOCATOR + 8);
            if (!f->failed && torch_bytes(f, place, record, RECORD)) {
                if (memcmp(record, "PK\6\6", 4)) torch_fail(f, "has no zip64 record where it says; copy it again");
                *count = gzip_load64(record + 32);
                *size = gzip_load64(record + 40);
                *at = gzip_load64(record + 48);
                end = place;
            }
        }
        if (!f->failed && (*size > end || *at > end - *size))
            torch_damaged(f, "has a zip directory of %llu bytes at byte %llu, which runs over its end at %llu",
                          (unsigned long long)*size, (unsigned long long)*at, (unsigned long long)end);
        else if (!f->failed && (*size > TORCH_PICKLE || *count > TORCH_ENTRIES || *count > *size / 46))
            torch_fail(f, "has a zip directory of %llu entries in %llu bytes; at most %d in %d are read",
                       (unsigned long long)*count, (unsigned long long)*size, TORCH_ENTRIES, TORCH_PICKLE);
    }
    free(bytes);
    return !f->failed;
}

/* Sizes and place that do not fit 32 bits stand in the extra field 1, in this order, each only if it is wanted. */
static inline int torch_zip64(torch_file *f, torch_entry *e, const unsigned char *extra, size_t size) {
    uint64_t *want[3];
    size_t n = 0, i;
    if (e->place.size == 0xFFFFFFFF) want[n++] = &e->place.size;
    if (e->place.packed == 0xFFFFFFFF) want[n++] = &e->place.packed;
    if (e->header == 0xFFFFFFFF) want[n++] = &e->header;
    while (n && size >= 4) {
        size_t length = torch_u16(extra + 2);
        if (length > size - 4) break;
        if (torch_u16(extra) == 1) {
            if (length < 8 * n) break;
            for (i = 0; i < n; i++) *want[i] = gzip_load64(extra + 4 + 8 * i);
            return 1;
        }
        extra += 4 + length;
        size -= 4 + length;
    }
    if (!n) return 1;
    return torch_damaged(f, "zip entry %s is of zip64 size, but its field for that is missing or short",
                         torch_entry_name(f, e));
}

static inline int torch_read_directory(torch_file *f, uint64_t at, uint64_t size, uint64_t count) {
    torch_zip *z = &f->z;
    const unsigned char *p;
    size_t left = (size_t)size;
    z->directory = (unsigned char *)malloc(left + 1);
    z->entry = (torch_entry *)calloc((size_t)count + 1, sizeof *z->entry);
    z->name = (unsigned char *)malloc(65536);
    if (!z->directory || !z->entry || !z->name) return torch_no_memory(f, size, "a zip directory");
    if (!torch_bytes(f, at, z->directory, size)) return 0;
    for (p = z->directory; z->entries < count; z->entries++) {
        torch_entry *e = &z->entry[z->entries];
        size_t extra, all;
        if (left < 46 || memcmp(p, "PK\1\2", 4))
            return torch_fail(f, "has no zip entry %llu of %llu where it should be; download or copy it again",
                              (unsigned long long)z->entries, (unsigned long long)count);
        e->flags = torch_u16(p + 8);
        e->method = torch_u16(p + 10);
        e->place.deflated = e->method == 8;
        e->place.crc = torch_u32(p + 16);
        e->place.packed = torch_u32(p + 20);
        e->place.size = torch_u32(p + 24);
        e->name = p + 46;
        e->name_size = torch_u16(p + 28);
        extra = torch_u16(p + 30);
        all = 46 + e->name_size + extra + torch_u16(p + 32);
        e->header = torch_u32(p + 42);
        if (all > left) return torch_fail(f, "has a zip directory that is cut off; download or copy it again");
        if (!torch_zip64(f, e, e->name + e->name_size, extra)) return 0;
        p += all;
        left -= all;
    }
    if (left) return torch_damaged(f, "has %llu strange bytes in its zip directory", (unsigned long long)left);
    return 1;
}

static inline int torch_by_header(const void *a, const void *b) {
    const torch_entry *x = (const torch_entry *)a, *y = (const torch_entry *)b;
    return (x->header > y->header) - (x->header < y->header);
}
static inline int torch_by_name(const void *a, const void *b) {
    const torch_entry *x = (const torch_entry *)a, *y = (const torch_entry *)b;
    return torch_order(x->name, x->name_size, y->name, y->name_size);
}

/* The header before each entry's bytes must say what the directory says, and no two entries may share a byte. */
static inline int torch_check_entries(torch_file *f, uint64_t directory) {
    torch_zip *z = &f->z;
    uint64_t end = 0;
    size_t i;
    qsort(z->entry, z->entries, sizeof *z->entry, torch_by_header);
    for (i = 0; i < z->entries; i++) {
        torch_entry *e = &z->entry[i];
        unsigned char h[30];
        uint32_t packed, size;
        if (e->header < end) return torch_damaged(f, "zip entry %s overlaps another", torch_entry_name(f, e));
        if (!torch_bytes(f, e->header, h, sizeof h)) return 0;
        if (memcmp(h, "PK\3\4", 4) || torch_u16(h + 26) != e->name_size ||
            !torch_bytes(f, e->header + sizeof h, z->name, e->name_size) || memcmp(z->name, e->name, e->name_size) ||
            torch_u16(h + 8) != e->method || ((torch_u16(h + 6) ^ e->flags) & 1))
            return torch_fail(f, "zip entry %s is not at byte %llu, where the directory has it; copy the file again",
                              torch_entry_name(f, e), (unsigned long long)e->header);
        packed = torch_u32(h + 18);
        size = torch_u32(h + 22);
        if (!(torch_u16(h + 6) & 8) && /* else these come after the bytes */
            ((packed != 0xFFFFFFFF && packed != e->place.packed) || (size != 0xFFFFFFFF && size != e->place.size) ||
             torch_u32(h + 14) != e->place.crc))
            return torch_damaged(f, "zip entry %s has one size or checksum in the directory and another at byte %llu",
                                 torch_entry_name(f, e), (unsigned long long)e->header);
        e->place.data = e->header + sizeof h + e->name_size + torch_u16(h + 28);
        if (e->place.data > directory || e->place.packed > directory - e->place.data)
            return torch_damaged(f, "zip entry %s of %llu bytes at byte %llu runs into the directory at %llu",
                                 torch_entry_name(f, e), (unsigned long long)e->place.packed,
                                 (unsigned long long)e->place.data, (unsigned long long)directory);
        end = e->place.data + e->place.packed;
    }
    qsort(z->entry, z->entries, sizeof *z->entry, torch_by_name);
    for (i = 1; i < z->entries; i++)
        if (!torch_by_name(&z->entry[i - 1], &z->entry[i]))
            return torch_damaged(f, "zip entry %s stands in the directory twice", torch_entry_name(f, &z->entry[i]));
    return 1;
}

/* Whether an entry can be unpacked. Asked of those that are needed. */
static inline int torch_check_packing(torch_file *f, const torch_entry *e) {
    static const struct {
        unsigned method;
        const char *name;
    } known[] = {{9, "Deflate64"}, {12, "BZIP2"}, {14, "LZMA"}, {93, "Zstandard"}, {95, "XZ"}, {99, "AES encryption"}};
    size_t i;
    if (e->flags & 1) return torch_fail(f, "zip entry %s is encrypted; decrypt it", torch_entry_name(f, e));
    if (e->method != 0 && e->method != 8) {
        for (i = 0; i < sizeof known / sizeof *known && known[i].method != e->method; i++) {
        }
        return torch_fail(f, "zip entry %s is compressed by method %u (%s); stored and deflated ones are read",
                          torch_entry_name(f, e), e->method,
                          i < sizeof known / sizeof *known ? known[i].name : "unknown");
    }
    if (e->method == 0 ? e->place.packed != e->place.size : e->place.size / TORCH_RATIO > e->place.packed)
        return torch_damaged(f, "zip entry %s claims %llu bytes, which its %llu in the file cannot hold",
                             torch_entry_name(f, e), (unsigned long long)e->place.size,
                             (unsigned long long)e->place.packed);
    return 1;
}

/* The entry PREFIX folder key, or NULL. */
static inline const torch_entry *torch_find_entry(torch_file *f, const char *folder, const void *key, size_t size) {
    torch_zip *z = &f->z;
    size_t n = strlen(folder), low = 0, high = z->entries;
    if (size > 65535 || n + z->prefix_size > 65535 - size) return NULL;
    memcpy(z->name, z->prefix, z->prefix_size);
    memcpy(z->name + z->prefix_size, folder, n);
    memcpy(z->name + z->prefix_size + n, key, size);
    n += z->prefix_size + size;
    while (low < high) {
        size_t i = low + (high - low) / 2;
        int order = torch_order(z->entry[i].name, z->entry[i].name_size, z->name, n);
        if (!order) return &z->entry[i];
        if (order < 0) low = i + 1;
        else high = i;
    }
    return NULL;
}

static inline int torch_is_pickle_name(const unsigned char *name, size_t size) {
    return size >= 8 && !memcmp(name + size - 8, "data.pkl", 8) && (size == 8 || name[size - 9] == '/');
}

/* Directory, entries, and the one that is data.pkl: NULL and no error if there is none. */
static inline int torch_open_directory(torch_file *f, const torch_entry **pickle) {
    torch_zip *z = &f->z;
    uint64_t at = 0, size = 0, count = 0;
    size_t i;
    *pickle = NULL;
    if (!torch_find_directory(f, &at, &size, &count) || !torch_read_directory(f, at, size, count)) return 0;
    if (!torch_check_entries(f, at)) return 0;
    for (i = 0; i < z->entries; i++) {
        const torch_entry *e = &z->entry[i];
        if (!torch_is_pickle_name(e->name, e->name_size)) continue;
        if (*pickle)
            return torch_fail(f, "holds two pickles, %s and %s; keep the one that is meant",
                              torch_entry_name(f, *pickle), torch_entry_name(f, e));
        *pickle = e;
        z->prefix = e->name;
        z->prefix_size = e->name_size - 8;
    }
    return 1;
}

/* ---- pickle: the names it may use ------------------------------------------------------------------------------- */

enum {
    TORCH_MAKE_DICT,
    TORCH_MAKE_OTHER, /* of anything */
    TORCH_MAKE_FIRST, /* what its first argument is */
    TORCH_MAKE_TENSOR_1,
    TORCH_MAKE_TENSOR_2,
    TORCH_MAKE_TENSOR_3,
    TORCH_STORAGE_TYPE, /* these are named, not called */
    TORCH_DTYPE
};

typedef struct torch_name {
    const char *name;
    int is, dtype;
} torch_name;

static const torch_name torch_names[] = {
    {"collections.OrderedDict", TORCH_MAKE_DICT, 0},
    {"torch._utils._rebuild_tensor", TORCH_MAKE_TENSOR_1, 0},
    {"torch._utils._rebuild_tensor_v2", TORCH_MAKE_TENSOR_2, 0},
    {"torch._utils._rebuild_tensor_v3", TORCH_MAKE_TENSOR_3, 0},
    {"torch._utils._rebuild_parameter", TORCH_MAKE_FIRST, 0},
    {"torch._utils._rebuild_parameter_with_state", TORCH_MAKE_FIRST, 0},
    {"torch.Size", TORCH_MAKE_FIRST, 0},
    {"torch.device", TORCH_MAKE_OTHER, 0},
    {"torch.FloatStorage", TORCH_STORAGE_TYPE, DPO_F32},
    {"torch.HalfStorage", TORCH_STORAGE_TYPE, DPO_F16},
    {"torch.BFloat16Storage", TORCH_STORAGE_TYPE, DPO_BF16},
    {"torch.DoubleStorage", TORCH_STORAGE_TYPE, DPO_F64},
    {"torch.LongStorage", TORCH_STORAGE_TYPE, DPO_I64},
    {"torch.IntStorage", TORCH_STORAGE_TYPE, DPO_I32},
    {"torch.ShortStorage", TORCH_STORAGE_TYPE, DPO_I16},
    {"torch.CharStorage", TORCH_STORAGE_TYPE, DPO_I8},
    {"torch.ByteStorage", TORCH_STORAGE_TYPE, DPO_U8},
    {"torch.BoolStorage", TORCH_STORAGE_TYPE, DPO_BOOL},
    {"torch.storage.UntypedStorage", TORCH_STORAGE_TYPE, 0},
    {"torch.UntypedStorage", TORCH_STORAGE_TYPE, 0},
    {"torch.float32", TORCH_DTYPE, DPO_F32},
    {"torch.float16", TORCH_DTYPE, DPO_F16},
    {"torch.bfloat16", TORCH_DTYPE, DPO_BF16},
    {"torch.float64", TORCH_DTYPE, DPO_F64},
    {"torch.int64", TORCH_DTYPE, DPO_I64},
    {"torch.int32", TORCH_DTYPE, DPO_I32},
    {"torch.int16", TORCH_DTYPE, DPO_I16},
    {"torch.int8", TORCH_DTYPE, DPO_I8},
    {"torch.uint64", TORCH_DTYPE, DPO_U64},
    {"torch.uint32", TORCH_DTYPE, DPO_U32},
    {"torch.uint16", TORCH_DTYPE, DPO_U16},
    {"torch.uint8", TORCH_DTYPE, DPO_U8},
    {"torch.bool", TORCH_DTYPE, DPO_BOOL},
};
#define TORCH_NAMES (sizeof torch_names / sizeof *torch_names)

/* Arguments of the three ways to make a tensor; the last of 2 and 3 is not always there. */
enum { TORCH_ARG_STORAGE, TORCH_ARG_OFFSET, TORCH_ARG_SIZE, TORCH_ARG_STRIDE, TORCH_ARG_DTYPE = 6, TORCH_ARGS = 8 };

static inline unsigned torch_dtype_bytes(int dtype) {
    switch (dtype) {
    case DPO_F64:
    case DPO_I64:
    case DPO_U64: return 8;
    case DPO_F32:
    case DPO_I32:
    case DPO_U32: return 4;
    case DPO_F16:
    case DPO_BF16:
    case DPO_I16:
    case DPO_U16: return 2;
    default: return 1; /* also of a storage without a type */
    }
}

/* ---- pickle: bytes, nodes, stack -------------------------------------------------------------------------------- */

/* Whether n more bytes of pickle are there; reads them from a legacy file. */
static inline int torch_need(torch_file *f, size_t n) {
    torch_machine *m = &f->m;
    size_t want;
    if (n <= m->size - m->pos) return 1;
    if (m->growing && n <= TORCH_PICKLE - m->pos) {
        want = m->size < 32768 ? 65536 : 2 * m->size;
        if (want < m->pos + n) want = m->pos + n;
        if (want > TORCH_PICKLE) want = TORCH_PICKLE;
        if (want > f->size) want = (size_t)f->size;
        m->bytes = (unsigned char *)torch_room(f, m->bytes, &m->room, want, 1);
        if (f->failed || !torch_bytes(f, m->size, m->bytes + m->size, want - m->size)) return 0;
        m->size = want;
        if (n <= m->size - m->pos) return 1;
    }
    if (m->growing && n <= f->size - m->pos)
        return torch_fail(f, "has a pickle of more than %d bytes; at most so many are read", TORCH_PICKLE);
    return torch_fail(f, "its pickle is cut off at byte %llu; download or copy the file again",
                      (unsigned long long)m->size);
}
/* The next n bytes, until more are asked for; NULL where the pickle ends. */
static inline const unsigned char *torch_take(torch_file *f, size_t n) {
    torch_machine *m = &f->m;
    if (!torch_need(f, n)) return NULL;
    m->pos += n;
    return m->bytes + m->pos - n;
}
/* A little-endian number of 1, 2, 4 or 8 bytes. */
static inline uint64_t torch_take_number(torch_file *f, unsigned bytes) {
    const unsigned char *p = torch_take(f, bytes);
    uint64_t x = 0;
    while (p && bytes) x = x << 8 | p[--bytes];
    return x;
}
/* Up to the end of a line, which is taken but not counted; NULL and an error if it is longer than `most`. */
static inline const unsigned char *torch_take_line(torch_file *f, size_t most, size_t *size) {
    torch_machine *m = &f->m;
    for (*size = 0; torch_need(f, *size + 1); ++*size) {
        if (m->bytes[m->pos + *size] == '\n') return torch_take(f, *size + 1);
        if (*size == most) {
            torch_damaged(f, "its pickle has a line of more than %llu bytes at byte %llu", (unsigned long long)most,
                          (unsigned long long)m->pos);
            break;
        }
    }
    return NULL;
}

static inline torch_node *torch_at(torch_file *f, uint32_t node) { return &f->m.node[node]; }

static inline uint32_t torch_make(torch_file *f, uint32_t kind) {
    torch_machine *m = &f->m;
    m->node = (torch_node *)torch_room(f, m->node, &m->node_room, m->nodes + 1, sizeof *m->node);
    if (f->failed) return 0;
    memset(&m->node[m->nodes], 0, sizeof *m->node);
    m->node[m->nodes].kind = kind;
    return (uint32_t)m->nodes++;
}
static inline void torch_push(torch_file *f, uint32_t node) {
    torch_machine *m = &f->m;
    m->stack = (uint32_t *)torch_room(f, m->stack, &m->stack_room, m->height + 1, sizeof *m->stack);
    if (!f->failed) m->stack[m->height++] = node;
}
/* Never below the last mark. */
static inline uint32_t torch_pop(torch_file *f) {
    torch_machine *m = &f->m;
    if (f->failed) return 0;
    if (m->height > (m->marks ? m->mark[m->marks - 1] : 0)) return m->stack[--m->height];
    torch_damaged(f, "its pickle takes a value from an empty stack before byte %llu", (unsigned long long)m->pos);
    return 0;
}
static inline void torch_append(torch_file *f, uint32_t container, uint32_t item) {
    torch_machine *m = &f->m;
    torch_node *c = torch_at(f, container);
    uint32_t cell = (uint32_t)m->cells;
    if (m->cells / 2 > m->pos + 32) { /* an item takes a byte; those of a Python 2 OrderedDict are counted again */
        torch_damaged(f, "its pickle copies its lists over and over, before byte %llu", (unsigned long long)m->pos);
        return;
    }
    m->cell = (torch_cell *)torch_room(f, m->cell, &m->cell_room, m->cells + 1, sizeof *m->cell);
    if (f->failed) return;
    m->cell[cell].node = item;
    m->cell[cell].next = 0;
    if (c->count++) m->cell[c->v.end[1]].next = cell;
    else c->v.end[0] = cell;
    c->v.end[1] = cell;
    m->cells++;
}
/* What was pushed since the last mark, into a container that may lie below the mark. */
static inline void torch_append_marked(torch_file *f, uint32_t container) {
    torch_machine *m = &f->m;
    size_t i, from;
    if (f->failed) return;
    if (!m->marks) {
        torch_damaged(f, "its pickle asks for a mark that was not set, before byte %llu", (unsigned long long)m->pos);
        return;
    }
    from = m->mark[--m->marks];
    for (i = from; i < m->height && !f->failed; i++) torch_append(f, container, m->stack[i]);
    m->height = from;
}
static inline int torch_is_container(const torch_node *n) {
    return n->kind == TORCH_TUPLE || n->kind == TORCH_LIST || n->kind == TORCH_DICT;
}
/* The first items of a container: how many there were, at most `most`; 0 of what is none. */
static inline size_t torch_items(torch_file *f, uint32_t container, uint32_t *item, size_t most) {
    const torch_node *c = torch_at(f, container);
    uint32_t cell = c->v.end[0];
    size_t i;
    if (!torch_is_container(c)) return 0;
    for (i = 0; i < most && i < c->count; i++, cell = f->m.cell[cell].next) item[i] = f->m.cell[cell].node;
    return i;
}
static inline int torch_is_text(torch_file *f, uint32_t node, const char *text) {
    const torch_node *n = torch_at(f, node);
    return n->kind == TORCH_TEXT && n->count == strlen(text) && !memcmp(f->m.bytes + n->v.at, text, n->count);
}

/* ---- pickle: instructions --------------------------------------------------------------------------------------- */

/* A text, or the bytes of an integer too large, which stay where they are. */
static inline void torch_push_bytes(torch_file *f, uint32_t kind, uint64_t size) {
    uint32_t n = torch_make(f, kind);
    size_t at = f->m.pos;
    if (f->failed) return;
    if (size > TORCH_PICKLE) {
        torch_fail(f, "its pickle has a text of %llu bytes at byte %llu; the file is damaged", (unsigned long long)size,
                   (unsigned long long)at);
        return;
    }
    if (!torch_take(f, (size_t)size)) return;
    torch_at(f, n)->count = (uint32_t)size;
    torch_at(f, n)->v.at = at;
    torch_push(f, n);
}
static inline void torch_push_int(torch_file *f, int64_t x) {
    uint32_t n = torch_make(f, TORCH_INT);
    if (f->failed) return;
    torch_at(f, n)->v.number = x;
    torch_push(f, n);
}
/* Two's complement, little-endian. */
static inline void torch_push_long(torch_file *f, uint64_t size) {
    const unsigned char *p;
    uint64_t x;
    unsigned i;
    if (size > 8) {
        torch_push_bytes(f, TORCH_BIG, size);
        return;
    }
    p = torch_take(f, (size_t)size);
    if (!p) return;
    x = size && p[size - 1] & 0x80 ? ~(uint64_t)0 : 0;
    for (i = (unsigned)size; i-- > 0;) x = x << 8 | p[i];
    torch_push_int(f, x <= INT64_MAX ? (int64_t)x : -(int64_t)~x - 1);
}
/* A line: decimal digits, from protocol 1; 00 and 01 are its bools. */
static inline void torch_push_decimal(torch_file *f) {
    size_t size, i;
    const unsigned char *p = torch_take_line(f, 64, &size);
    int minus = p && size && *p == '-', digits = 0;
    int64_t x = 0;
    if (!p) return;
    for (i = (size_t)minus; i < size && p[i] >= '0' && p[i] <= '9' && ++digits < 19; i++) x = 10 * x + (p[i] - '0');
    if (i + 1 == size && p[i] == 'L') i++;
    if (!digits || i < size)
        torch_damaged(f, "its pickle has the number %s before byte %llu, which is none or too large",
                      torch_show(f, p, size), (unsigned long long)f->m.pos);
    else if (digits == 2 && p[0] == '0') torch_push(f, torch_make(f, TORCH_OTHER));
    else torch_push_int(f, minus ? -x : x);
}

/* Numbers and texts. 1 if the instruction is one of these. */
static inline int torch_op_value(torch_file *f, unsigned op) {
    uint64_t n;
    switch (op) {
    case 'N':
    case 0x88: /* True */
    case 0x89: torch_push(f, torch_make(f, TORCH_OTHER)); return 1;
    case 'G': /* a double */
        if (torch_take(f, 8)) torch_push(f, torch_make(f, TORCH_OTHER));
        return 1;
    case 'K': torch_push_int(f, (int64_t)torch_take_number(f, 1)); return 1;
    case 'M': torch_push_int(f, (int64_t)torch_take_number(f, 2)); return 1;
    case 'J': torch_push_long(f, 4); return 1;
    case 0x8a: torch_push_long(f, torch_take_number(f, 1)); return 1;
    case 0x8b: torch_push_long(f, torch_take_number(f, 4)); return 1;
    case 'I':
    case 'L': torch_push_decimal(f); return 1;
    case 'U':
    case 'C':
    case 0x8c: n = torch_take_number(f, 1); break;
    case 'X':
    case 'T':
    case 'B': n = torch_take_number(f, 4); break;
    case 0x8d:
    case 0x8e:
    case 0x96: n = torch_take_number(f, 8); break;
    default: return 0;
    }
    torch_push_bytes(f, TORCH_TEXT, n);
    return 1;
}

static inline void torch_memo_put(torch_file *f, uint64_t i) {
    torch_machine *m = &f->m;
    uint32_t top = torch_pop(f);
    if (f->failed) return;
    if (i > m->pos) { /* torch.save counts them; this bounds the memory */
        torch_fail(f, "its pickle keeps a value under the number %llu at byte %llu; the file is damaged",
                   (unsigned long long)i, (unsigned long long)m->pos);
        return;
    }
    m->memo = (uint32_t *)torch_room(f, m->memo, &m->memo_room, (size_t)i + 1, sizeof *m->memo);
    if (f->failed) return;
    while (m->memos <= i) m->memo[m->memos++] = 0;
    m->memo_set += !m->memo[i];
    m->memo[i] = top;
    m->height++; /* it stays */
}
static inline void torch_memo_get(torch_file *f, uint64_t i) {
    if (f->failed) return;
    if (i < f->m.memos && f->m.memo[i]) torch_push(f, f->m.memo[i]);
    else
        torch_damaged(f, "its pickle asks for value %llu before byte %llu, which it has not kept",
                      (unsigned long long)i, (unsigned long long)f->m.pos);
}

/* Stack and memo. */
static inline int torch_op_stack(torch_file *f, unsigned op) {
    torch_machine *m = &f->m;
    uint32_t n;
    switch (op) {
    case 0x80: /* the protocol */
        n = (uint32_t)torch_take_number(f, 1);
        if (n > 5) torch_fail(f, "its pickle is of protocol %lu; up to 5 are read", (unsigned long)n);
        return 1;
    case 0x95: torch_take(f, 8); return 1; /* a frame: how much to read ahead */
    case '(':
        m->mark = (size_t *)torch_room(f, m->mark, &m->mark_room, m->marks + 1, sizeof *m->mark);
        if (!f->failed) m->mark[m->marks++] = m->height;
        return 1;
    case '0':
        if (m->marks && m->mark[m->marks - 1] == m->height) m->marks--;
        else torch_pop(f);
        return 1;
    case '1': torch_append_marked(f, torch_make(f, TORCH_LIST)); return 1;
    case '2':
        n = torch_pop(f);
        torch_push(f, n);
        torch_push(f, n);
        return 1;
    case 'q': torch_memo_put(f, torch_take_number(f, 1)); return 1;
    case 'r': torch_memo_put(f, torch_take_number(f, 4)); return 1;
    case 0x94: torch_memo_put(f, m->memo_set); return 1;
    case 'h': torch_memo_get(f, torch_take_number(f, 1)); return 1;
    case 'j': torch_memo_get(f, torch_take_number(f, 4)); return 1;
    default: return 0;
    }
}

/* The container on top of the stack, below n values or all since the mark; 0 and an error if it is of another kind. */
static inline uint32_t torch_container(torch_file *f, uint32_t kind, int marked, size_t n) {
    torch_machine *m = &f->m;
    size_t top = marked ? (m->marks ? m->mark[m->marks - 1] : 0) : m->height >= n ? m->height - n : 0;
    size_t floor = m->marks > (size_t)marked ? m->mark[m->marks - 1 - (size_t)marked] : 0;
    if (f->failed) return 0;
    if (top > floor && torch_at(f, m->stack[top - 1])->kind == kind) return m->stack[top - 1];
    torch_damaged(f, "its pickle puts an item into what is no %s, before byte %llu",
                  kind == TORCH_DICT ? "dict" : "list", (unsigned long long)m->pos);
    return 0;
}

static inline int torch_op_container(torch_file *f, unsigned op) {
    torch_machine *m = &f->m;
    uint32_t c, n, item[3];
    switch (op) {
    case ')': torch_push(f, torch_make(f, TORCH_TUPLE)); return 1;
    case ']':
    case 0x8f: torch_push(f, torch_make(f, TORCH_LIST)); return 1; /* a set is a list */
    case '}': torch_push(f, torch_make(f, TORCH_DICT)); return 1;
    case 0x85:
    case 0x86:
    case 0x87:
        for (n = op - 0x84; n-- > 0;) item[n] = torch_pop(f);
        c = torch_make(f, TORCH_TUPLE);
        for (n = 0; n < op - 0x84 && !f->failed; n++) torch_append(f, c, item[n]);
        torch_push(f, c);
        return 1;
    case 't':
    case 0x91:
        c = torch_make(f, op == 't' ? TORCH_TUPLE : TORCH_LIST);
        torch_append_marked(f, c);
        torch_push(f, c);
        return 1;
    case 'a':
        c = torch_container(f, TORCH_LIST, 0, 1);
        n = torch_pop(f);
        if (!f->failed) torch_append(f, c, n);
        return 1;
    case 'e':
    case 0x90: torch_append_marked(f, torch_container(f, TORCH_LIST, 1, 0)); return 1;
    case 's':
        c = torch_container(f, TORCH_DICT, 0, 2);
        item[1] = torch_pop(f);
        item[0] = torch_pop(f);
        for (n = 0; n < 2 && !f->failed; n++) torch_append(f, c, item[n]);
        return 1;
    case 'u':
        c = torch_container(f, TORCH_DICT, 1, 0);
        if (!f->failed && (m->height - m->mark[m->marks - 1]) % 2)
            torch_damaged(f, "its pickle gives a dict a key without a value, before byte %llu",
                          (unsigned long long)m->pos);
        torch_append_marked(f, c);
        return 1;
    default: return 0;
    }
}

/* ---- pickle: names, and what would be calls --------------------------------------------------------------------- */

static inline void torch_push_name(torch_file *f, const char *name) {
    size_t i;
    uint32_t n;
    for (i = 0; i < TORCH_NAMES && strcmp(torch_names[i].name, name) != 0; i++) {
    }
    if (i == TORCH_NAMES) {
        const char *shown = torch_show(f, name, strlen(name));
        if (!strncmp(name, "torch.", 6))
            torch_fail(f,
                       "holds %s, which is not read: dense tensors of F32, F16, BF16, F64, whole numbers and bool are; "
                       "convert it with PyTorch first",
                       shown);
        else
            torch_fail(f,
                       "calls %s, which is no part of a state_dict; nothing was run. Save the model's state_dict() "
                       "alone",
                       shown);
        return;
    }
    n = torch_make(f, TORCH_GLOBAL);
    if (f->failed) return;
    torch_at(f, n)->v.at = i;
    torch_push(f, n);
}

/* module.name, from two lines or two texts. */
static inline void torch_op_global(torch_file *f, int from_stack) {
    enum { MOST = 255 };
    char name[2 * MOST + 2];
    size_t at = 0;
    int part;
    uint32_t text[2] = {0, 0};
    if (from_stack) {
        text[1] = torch_pop(f);
        text[0] = torch_pop(f);
    }
    for (part = 0; part < 2 && !f->failed; part++) {
        const torch_node *n = torch_at(f, text[part]);
        size_t size = n->count;
        const unsigned char *p = NULL;
        if (!from_stack) p = torch_take_line(f, MOST, &size);
        else if (n->kind == TORCH_TEXT && size <= MOST) p = f->m.bytes + n->v.at;
        if (!p || memchr(p, 0, size)) {
            torch_damaged(f, "its pickle has a name before byte %llu that is none", (unsigned long long)f->m.pos);
            return;
        }
        memcpy(name + at, p, size);
        at += size;
        name[at++] = part ? 0 : '.';
    }
    if (!f->failed) torch_push_name(f, name);
}

/* OrderedDict(), or in Python 2's pickles OrderedDict([[key, value], ...]). */
static inline uint32_t torch_make_dict(torch_file *f, uint32_t args) {
    uint32_t dict = torch_make(f, TORCH_DICT), list = 0, pair[2], cell, i;
    if (f->failed || !torch_items(f, args, &list, 1)) return dict;
    if (torch_at(f, list)->kind != TORCH_LIST) return 0;
    cell = torch_at(f, list)->v.end[0];
    for (i = torch_at(f, list)->count; i > 0 && !f->failed; i--, cell = f->m.cell[cell].next) {
        const torch_node *n = torch_at(f, f->m.cell[cell].node);
        if ((n->kind != TORCH_LIST && n->kind != TORCH_TUPLE) || n->count != 2) return 0;
        torch_items(f, f->m.cell[cell].node, pair, 2);
        torch_append(f, dict, pair[0]);
        torch_append(f, dict, pair[1]);
    }
    return dict;
}

/* What the call of a name in the table gives, as a node: no call is made. 0: not of these arguments. */
static inline uint32_t torch_call(torch_file *f, const torch_name *name, uint32_t args) {
    static const unsigned least[3] = {4, 6, 7}, most[3] = {4, 7, 8};
    uint32_t first = 0, n, way;
    unsigned count = torch_at(f, args)->count;
    switch (name->is) {
    case TORCH_MAKE_DICT: return torch_make_dict(f, args);
    case TORCH_MAKE_OTHER: return torch_make(f, TORCH_OTHER);
    case TORCH_MAKE_FIRST: torch_items(f, args, &first, 1); return first;
    case TORCH_MAKE_TENSOR_1:
    case TORCH_MAKE_TENSOR_2:
    case TORCH_MAKE_TENSOR_3:
        way = (uint32_t)(name->is - TORCH_MAKE_TENSOR_1);
        if (count < least[way] || count > most[way]) return 0;
        n = torch_make(f, TORCH_TENSOR);
        if (f->failed) return 0;
        torch_at(f, n)->count = (uint32_t)name->is;
        torch_at(f, n)->v.end[0] = args;
        return n;
    default: return 0;
    }
}

/* A storage's name: ("storage", type, key, device, elements) and in legacy files None or (key, offset, elements). */
static inline void torch_op_storage(torch_file *f) {
    uint32_t args = torch_pop(f), first = 0, n;
    if (f->failed) return;
    if (torch_at(f, args)->kind == TORCH_TUPLE) torch_items(f, args, &first, 1);
    if (torch_is_text(f, first, "module")) {
        torch_fail(f, "holds a whole module, whose classes are code, and not a state_dict; save model.state_dict()");
        return;
    }
    n = torch_make(f, TORCH_STORAGE);
    if (f->failed) return;
    if (!torch_is_text(f, first, "storage") || torch_at(f, args)->count < 5 || torch_at(f, args)->count > 6) {
        torch_damaged(f, "its pickle refers before byte %llu to something that is no storage",
                      (unsigned long long)f->m.pos);
        return;
    }
    torch_at(f, n)->v.end[0] = args;
    torch_push(f, n);
}

static inline int torch_op_call(torch_file *f, unsigned op) {
    uint32_t args, callee, made;
    switch (op) {
    case 'c': torch_op_global(f, 0); return 1;
    case 0x93: torch_op_global(f, 1); return 1;
    case 'Q': torch_op_storage(f); return 1;
    case 'b': /* attributes: the _metadata of a state_dict */
        torch_pop(f);
        made = torch_pop(f);
        if (!f->failed && torch_at(f, made)->kind != TORCH_DICT && torch_at(f, made)->kind != TORCH_TENSOR)
            torch_damaged(f, "its pickle gives attributes to what is no dict and no tensor, before byte %llu",
                          (unsigned long long)f->m.pos);
        torch_push(f, made);
        return 1;
    case 'R':
    case 0x81:
        args = torch_pop(f);
        callee = torch_pop(f);
        if (f->failed) return 1;
        made = 0;
        if (torch_at(f, callee)->kind == TORCH_GLOBAL && torch_at(f, args)->kind == TORCH_TUPLE)
            made = torch_call(f, &torch_names[torch_at(f, callee)->v.at], args);
        if (made) torch_push(f, made);
        else
            torch_damaged(f, "its pickle calls %s before byte %llu in a way that torch.save does not write",
                          torch_at(f, callee)->kind == TORCH_GLOBAL ? torch_names[torch_at(f, callee)->v.at].name
                                                                    : "what is no name",
                          (unsigned long long)f->m.pos);
        return 1;
    default: return 0;
    }
}

/* One pickle from where the last ended; its result's node, or 0 and an error. */
static inline uint32_t torch_run(torch_file *f) {
    torch_machine *m = &f->m;
    const unsigned char *p;
    m->height = m->marks = m->memos = m->memo_set = 0;
    if (!m->nodes) torch_make(f, TORCH_OTHER); /* node 0 and cell 0 are nothing */
    if (!m->cells) {
        m->cell = (torch_cell *)torch_room(f, m->cell, &m->cell_room, 1, sizeof *m->cell);
        m->cells = 1;
    }
    while (!f->failed && (p = torch_take(f, 1)) != NULL) {
        unsigned op = *p;
        if (op == '.') return torch_pop(f);
        if (!torch_op_value(f, op) && !torch_op_stack(f, op) && !torch_op_container(f, op) && !torch_op_call(f, op))
            torch_damaged(f, "its pickle has the instruction 0x%02x before byte %llu, which torch.save does not write",
                          op, (unsigned long long)m->pos);
    }
    return 0;
}

/* ---- storages --------------------------------------------------------------------------------------------------- */

/* What a mention of a storage says. part: the elements it means, [0] from the beginning and [1] as many. */
static inline int torch_read_storage(torch_file *f, uint32_t node, torch_storage *s, int64_t part[2]) {
    uint32_t item[6] = {0, 0, 0, 0, 0, 0}, view[3];
    const torch_node *type, *key, *elements, *n[2];
    memset(s, 0, sizeof *s);
    torch_items(f, torch_at(f, node)->v.end[0], item, 6);
    type = torch_at(f, item[1]);
    key = torch_at(f, item[2]);
    elements = torch_at(f, item[4]);
    if (type->kind != TORCH_GLOBAL || torch_names[type->v.at].is != TORCH_STORAGE_TYPE || key->kind != TORCH_TEXT ||
        elements->kind != TORCH_INT || elements->v.number < 0)
        return torch_damaged(f, "its pickle describes a storage in a way that torch.save does not write");
    s->key = f->m.bytes + key->v.at;
    s->key_size = key->count;
    s->node = node;
    s->dtype = torch_names[type->v.at].dtype;
    s->unit = torch_dtype_bytes(s->dtype);
    if ((uint64_t)elements->v.number > (uint64_t)INT64_MAX / s->unit)
        return torch_damaged(f, "storage %s claims %lld elements", torch_show(f, s->key, s->key_size),
                             (long long)elements->v.number);
    s->bytes = (uint64_t)elements->v.number * s->unit;
    part[0] = 0;
    part[1] = elements->v.number;
    if (torch_at(f, item[5])->kind == TORCH_OTHER) return 1;
    if (torch_at(f, item[5])->kind == TORCH_TUPLE && torch_items(f, item[5], view, 3) == 3) {
        n[0] = torch_at(f, view[1]);
        n[1] = torch_at(f, view[2]);
        if (n[0]->kind == TORCH_INT && n[1]->kind == TORCH_INT && n[0]->v.number >= 0 && n[1]->v.number >= 0 &&
            n[0]->v.number <= part[1] && n[1]->v.number <= part[1] - n[0]->v.number) {
            part[0] = n[0]->v.number;
            part[1] = n[1]->v.number;
            return 1;
        }
    }
    return torch_damaged(f, "storage %s has a view that does not lie within its %lld elements",
                         torch_show(f, s->key, s->key_size), (long long)elements->v.number);
}

static inline int torch_by_key(const void *a, const void *b) {
    const torch_storage *x = (const torch_storage *)a, *y = (const torch_storage *)b;
    int order = torch_order(x->key, x->key_size, y->key, y->key_size);
    return order ? order : (x->node > y->node) - (x->node < y->node);
}
static inline int64_t torch_find_storage(const torch_file *f, const unsigned char *key, size_t size) {
    int64_t low = 0, high = f->storages;
    while (low < high) {
        int64_t i = low + (high - low) / 2;
        int order = torch_order(f->storage[i].key, f->storage[i].key_size, key, size);
        if (!order) return i;
        if (order < 0) low = i + 1;
        else high = i;
    }
    return -1;
}

/* The table of storages: one for each key, however often it is mentioned. */
static inline int torch_collect_storages(torch_file *f) {
    size_t i, count = 0;
    int64_t n = 0, k, part[2];
    for (i = 0; i < f->m.nodes; i++) count += f->m.node[i].kind == TORCH_STORAGE;
    if (count > TORCH_STORAGES)
        return torch_fail(f, "mentions %llu storages, at most %d are read", (unsigned long long)count, TORCH_STORAGES);
    f->storage = (torch_storage *)calloc(count + 1, sizeof *f->storage);
    if (!f->storage) return torch_no_memory(f, count * sizeof *f->storage, "the list of its storages");
    for (i = 0; i < f->m.nodes; i++)
        if (f->m.node[i].kind == TORCH_STORAGE && !torch_read_storage(f, (uint32_t)i, &f->storage[n++], part)) return 0;
    qsort(f->storage, count, sizeof *f->storage, torch_by_key);
    for (k = 0; k < n; k++) {
        torch_storage *s = &f->storage[k], *last = f->storages ? &f->storage[f->storages - 1] : NULL;
        if (!last || torch_order(s->key, s->key_size, last->key, last->key_size)) f->storage[f->storages++] = *s;
        else if (s->bytes != last->bytes || (s->dtype && last->dtype && s->dtype != last->dtype))
            return torch_damaged(f, "storage %s is of one size or type here and of another there",
                                 torch_show(f, s->key, s->key_size));
        else if (!last->dtype) last->dtype = s->dtype;
    }
    return 1;
}

static inline int torch_place_zip(torch_file *f) {
    int64_t i;
    for (i = 0; i < f->storages; i++) {
        torch_storage *s = &f->storage[i];
        const torch_entry *e = torch_find_entry(f, "data/", s->key, s->key_size);
        if (!e)
            return torch_fail(f, "has no entry data/%s for a storage of its pickle; download or copy it again",
                              torch_show(f, s->key, s->key_size));
        if (!torch_check_packing(f, e)) return 0;
        if (e->place.size < s->bytes || e->place.size - s->bytes >= s->unit)
            return torch_damaged(f, "storage %s is of %llu bytes in the pickle, but of %llu in the container",
                                 torch_show(f, s->key, s->key_size), (unsigned long long)s->bytes,
                                 (unsigned long long)e->place.size);
        s->place = e->place;
        s->there = 1;
    }
    return 1;
}

/* The storages lie in the order of the last pickle's keys. Their bytes are little-endian on every machine. */
static inline int torch_place_legacy(torch_file *f, uint32_t keys) {
    const torch_node *list = torch_at(f, keys);
    uint64_t at = f->m.pos;
    uint32_t cell = list->v.end[0], i;
    int64_t k;
    if (list->kind != TORCH_LIST) return torch_damaged(f, "has no list of storages after its pickle");
    for (i = 0; i < list->count; i++, cell = f->m.cell[cell].next) {
        const torch_node *key = torch_at(f, f->m.cell[cell].node);
        torch_storage *s;
        unsigned char head[8];
        uint64_t elements;
        k = key->kind == TORCH_TEXT ? torch_find_storage(f, f->m.bytes + key->v.at, key->count) : -1;
        if (k < 0 || f->storage[k].there)
            return torch_damaged(f, "lists storage %s, which its tensors do not mention, or twice",
                                 key->kind == TORCH_TEXT ? torch_show(f, f->m.bytes + key->v.at, key->count) : "?");
        s = &f->storage[k];
        if (!torch_bytes(f, at, head, sizeof head)) return 0;
        elements = gzip_load64(head);
        if (elements != s->bytes / s->unit)
            return torch_damaged(f,
                                 "storage %s is of %llu bytes in the pickle, but of %llu elements of %u at byte %llu",
                                 torch_show(f, s->key, s->key_size), (unsigned long long)s->bytes,
                                 (unsigned long long)elements, s->unit, (unsigned long long)at);
        at += sizeof head;
        if (s->bytes > f->size - at)
            return torch_fail(f,
                              "ends at byte %llu, within storage %s of %llu bytes from %llu on; download or copy it "
                              "again",
                              (unsigned long long)f->size, torch_show(f, s->key, s->key_size),
                              (unsigned long long)s->bytes, (unsigned long long)at);
        s->place.data = at;
        s->place.packed = s->place.size = s->bytes;
        s->there = 1;
        at += s->bytes;
    }
    for (k = 0; k < f->storages; k++)
        if (!f->storage[k].there)
            return torch_fail(f, "has no bytes for storage %s; download or copy it again",
                              torch_show(f, f->storage[k].key, f->storage[k].key_size));
    if (at != f->size)
        return torch_damaged(f, "has %llu strange bytes after its last storage, from byte %llu on",
                             (unsigned long long)(f->size - at), (unsigned long long)at);
    return 1;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

/* A tuple of numbers from 0 on; how many, or -1. */
static inline int torch_numbers(torch_file *f, uint32_t tuple, int64_t *to) {
    uint32_t item[TORCH_RANK];
    int i, n = (int)torch_items(f, tuple, item, TORCH_RANK);
    if (torch_at(f, tuple)->kind != TORCH_TUPLE || torch_at(f, tuple)->count > TORCH_RANK) return -1;
    for (i = 0; i < n; i++) {
        const torch_node *x = torch_at(f, item[i]);
        if (x->kind != TORCH_INT || x->v.number < 0) return -1;
        to[i] = x->v.number;
    }
    return n;
}

/* Bytes, place and extent in the storage, from shape and strides in elements; whether they stay within. */
static inline int torch_measure(torch_file *f, torch_view *v, dpo_tensor *t, const int64_t *stride, int64_t offset,
                                const int64_t part[2], const char *name) {
    uint64_t size = torch_dtype_bytes(t->dtype), elements = 1, last = 0, step;
    int i, fits = 1;
    for (i = 0; i < t->ndim; i++)
        if (!t->shape[i]) elements = 0;
    for (i = 0; i < t->ndim && elements; i++) {
        fits = fits && !__builtin_mul_overflow(elements, (uint64_t)t->shape[i], &elements);
        fits = fits && !__builtin_mul_overflow((uint64_t)t->shape[i] - 1, (uint64_t)stride[i], &step);
        fits = fits && !__builtin_add_overflow(last, step, &last);
    }
    if (!fits || elements > (uint64_t)INT64_MAX / size)
        return torch_damaged(f, "tensor %s has a shape or strides whose product is too large", name);
    if (elements && (offset >= part[1] || last >= (uint64_t)(part[1] - offset)))
        return torch_damaged(f, "tensor %s reaches to element %llu of its storage, which has %lld", name,
                             (unsigned long long)last + (unsigned long long)offset, (long long)part[1]);
    v->bytes = elements * size;
    v->first = elements ? (uint64_t)(part[0] + offset) * size : 0;
    v->span = elements ? (last + 1) * size : 0;
    v->contiguous = 1;
    for (i = t->ndim, step = 1; i-- > 0 && elements; step *= (uint64_t)t->shape[i]) {
        v->stride[i] = (uint64_t)stride[i] * size;
        if (t->shape[i] != 1 && (uint64_t)stride[i] != step) v->contiguous = 0;
    }
    return 1;
}

static inline int torch_add_tensor(torch_file *f, uint32_t node, const char *name, size_t name_size) {
    uint32_t arg[TORCH_ARGS] = {0, 0, 0, 0, 0, 0, 0, 0};
    int way = (int)torch_at(f, node)->count, i;
    const char *shown = torch_show(f, name, name_size);
    const torch_node *extra, *dtype;
    int64_t part[2], stride[TORCH_RANK];
    torch_storage s;
    dpo_tensor *t;
    torch_view *v;
    if (f->count == TORCH_TENSORS) return torch_fail(f, "holds more than %d tensors", TORCH_TENSORS);
    f->tensor = (dpo_tensor *)torch_room(f, f->tensor, &f->tensor_room, (size_t)f->count + 1, sizeof *t);
    f->view = (torch_view *)torch_room(f, f->view, &f->view_room, (size_t)f->count + 1, sizeof *v);
    f->names = (char *)torch_room(f, f->names, &f->name_room, f->name_size + name_size + 1, 1);
    if (f->failed) return 0;
    t = &f->tensor[f->count];
    v = &f->view[f->count];
    memset(t, 0, sizeof *t);
    memset(v, 0, sizeof *v);
    torch_items(f, torch_at(f, node)->v.end[0], arg, TORCH_ARGS);
    extra = torch_at(f, arg[way == TORCH_MAKE_TENSOR_3 ? 7 : 6]);
    dtype = torch_at(f, arg[TORCH_ARG_DTYPE]);
    t->ndim = torch_numbers(f, arg[TORCH_ARG_SIZE], t->shape);
    if (torch_at(f, arg[TORCH_ARG_STORAGE])->kind != TORCH_STORAGE ||
        torch_at(f, arg[TORCH_ARG_OFFSET])->kind != TORCH_INT || torch_at(f, arg[TORCH_ARG_OFFSET])->v.number < 0 ||
        t->ndim < 0 || torch_numbers(f, arg[TORCH_ARG_STRIDE], stride) != t->ndim ||
        (way == TORCH_MAKE_TENSOR_3 && (dtype->kind != TORCH_GLOBAL || torch_names[dtype->v.at].is != TORCH_DTYPE)))
        return torch_damaged(f, "tensor %s has no storage, offset, shape and strides of up to %d numbers from 0 on",
                             shown, TORCH_RANK);
    if (extra->kind != TORCH_OTHER && (extra->kind != TORCH_DICT || extra->count))
        return torch_fail(f, "tensor %s is a conjugate or negative view; save a clone of it", shown);
    if (!torch_read_storage(f, arg[TORCH_ARG_STORAGE], &s, part)) return 0;
    t->dtype = way == TORCH_MAKE_TENSOR_3 ? torch_names[dtype->v.at].dtype : s.dtype;
    if (!t->dtype) return torch_damaged(f, "tensor %s is of no type", shown);
    for (i = 0; i < 2; i++) part[i] = part[i] * (int64_t)s.unit / (int64_t)torch_dtype_bytes(t->dtype);
    for (i = t->ndim; i < TORCH_RANK; i++) t->shape[i] = 1;
    if (!torch_measure(f, v, t, stride, torch_at(f, arg[TORCH_ARG_OFFSET])->v.number, part, shown)) return 0;
    v->storage = torch_find_storage(f, s.key, s.key_size);
    memcpy(f->names + f->name_size, name, name_size);
    f->names[f->name_size + name_size] = 0;
    f->name_size += name_size + 1;
    f->count++;
    return 1;
}

/* The way to a tensor: containers, where in them, and their names. */
typedef struct torch_walk {
    struct {
        uint32_t container, cell, left, index;
        size_t name_size; /* of the container */
    } step[TORCH_DEPTH];
    size_t depth, visits, size;
    char name[TORCH_NAME + 1];
} torch_walk;

/* The next part of a name: a dict's key, or an index. 0 if the key is neither text nor number, or is too long. */
static inline int torch_extend(torch_file *f, torch_walk *w, const torch_node *key, uint32_t index) {
    char number[24];
    const void *part = number;
    size_t n, dot = w->size > 0;
    if (key && key->kind == TORCH_TEXT) {
        part = f->m.bytes + key->v.at;
        n = key->count;
    } else if (key && key->kind != TORCH_INT) return 0;
    else n = (size_t)snprintf(number, sizeof number, "%lld", key ? (long long)key->v.number : (long long)index);
    if (n > TORCH_NAME || w->size + dot + n > TORCH_NAME) return 0;
    if (dot) w->name[w->size] = '.';
    memcpy(w->name + w->size + dot, part, n);
    w->size += dot + n;
    return 1;
}

static inline int torch_enter(torch_file *f, torch_walk *w, uint32_t container) {
    const torch_node *n = torch_at(f, container);
    if (w->depth == TORCH_DEPTH)
        return torch_damaged(f, "has dicts and lists nested deeper than %d, at %s", TORCH_DEPTH,
                             torch_show(f, w->name, w->size));
    w->step[w->depth].container = container;
    w->step[w->depth].cell = n->v.end[0];
    w->step[w->depth].left = n->count;
    w->step[w->depth].index = 0;
    w->step[w->depth++].name_size = w->size;
    return 1;
}

/* The next value that is a tensor or may hold one; its name is in w. 0 at the end, or on an error. */
static inline uint32_t torch_next(torch_file *f, torch_walk *w) {
    while (w->depth) {
        uint32_t *cell = &w->step[w->depth - 1].cell, *left = &w->step[w->depth - 1].left, node;
        const torch_node *key = NULL, *n;
        if (!*left) {
            w->depth--;
            continue;
        }
        if (!w->visits--) {
            torch_damaged(f, "has dicts and lists that hold one another too often");
            return 0;
        }
        w->size = w->step[w->depth - 1].name_size;
        if (torch_at(f, w->step[w->depth - 1].container)->kind == TORCH_DICT) {
            key = torch_at(f, f->m.cell[*cell].node);
            *cell = f->m.cell[*cell].next;
            --*left;
        }
        node = f->m.cell[*cell].node;
        *cell = f->m.cell[*cell].next;
        --*left;
        w->step[w->depth - 1].index++;
        n = torch_at(f, node);
        if (n->kind != TORCH_TENSOR && (!torch_is_container(n) || !n->count)) continue;
        if (torch_extend(f, w, key, w->step[w->depth - 1].index - 1)) return node;
        torch_damaged(f, "has a key below %s that is neither text nor number, or names of over %d characters",
                      w->size ? torch_show(f, w->name, w->size) : "its outermost dict", TORCH_NAME);
        return 0;
    }
    return 0;
}

/* Finds the tensors below root. *common: where names go on if all of them lie in one dict of the dict root, else 0. */
static inline int torch_find_tensors(torch_file *f, uint32_t root, size_t *common) {
    torch_walk *w = (torch_walk *)calloc(1, sizeof *w);
    int one = torch_at(f, root)->kind == TORCH_DICT;
    uint32_t node = root, first = 0;
    size_t i;
    if (!w) return torch_no_memory(f, sizeof *w, "a walk through its dicts");
    w->visits = 16 * f->m.cells; /* a dict may stand in two places, but dicts in dicts could make a maze */
    do {
        if (torch_at(f, node)->kind == TORCH_TENSOR) {
            if (node == root) w->size = (size_t)snprintf(w->name, sizeof w->name, "tensor");
            for (i = 0; i < w->size && (unsigned char)w->name[i] >= 32 && w->name[i] != 127; i++) {
            }
            if (i < w->size)
                torch_damaged(f, "tensor %s has a name with control characters", torch_show(f, w->name, w->size));
            else torch_add_tensor(f, node, w->name, w->size);
            if (f->count == 1) first = w->step[0].index;
            one = one && w->depth > 1 && w->step[0].index == first &&
                  torch_at(f, w->step[1].container)->kind == TORCH_DICT;
            *common = one && w->step[1].name_size ? w->step[1].name_size + 1 : 0;
        } else if (torch_is_container(torch_at(f, node))) torch_enter(f, w, node);
    } while (!f->failed && (node = torch_next(f, w)) != 0);
    free(w);
    return !f->failed;
}

static inline int torch_by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names for good, none of them twice; and no more bytes in all than storages can be behind. */
static inline int torch_finish(torch_file *f, size_t common) {
    const char **sorted = (const char **)malloc(((size_t)f->count + 1) * sizeof *sorted);
    uint64_t claimed = 0, held = 0;
    size_t at = 0;
    int64_t i;
    if (!sorted) return torch_no_memory(f, (uint64_t)f->count * sizeof *sorted, "a list of names");
    for (i = 0; i < f->count; i++) {
        f->tensor[i].name = sorted[i] = f->names + at + common;
        at += strlen(f->names + at) + 1;
        if (!*sorted[i]) torch_damaged(f, "has a tensor without a name");
    }
    qsort(sorted, (size_t)f->count, sizeof *sorted, torch_by_text);
    for (i = 1; i < f->count && !f->failed; i++)
        if (!strcmp(sorted[i - 1], sorted[i]))
            torch_damaged(f, "has two tensors of the name %s", torch_show(f, sorted[i], strlen(sorted[i])));
    free(sorted);
    for (i = 0; i < f->storages; i++) held += f->storage[i].bytes;
    for (i = 0; i < f->count; i++)
        if (__builtin_add_overflow(claimed, f->view[i].bytes, &claimed)) claimed = ~(uint64_t)0;
    if (claimed / TORCH_SHARED > held && claimed - held > TORCH_SPARE)
        return torch_fail(f, "its tensors claim %llu bytes, its storages hold %llu; save clones of expanded tensors",
                          (unsigned long long)claimed, (unsigned long long)held);
    return !f->failed;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static inline void torch_close_pickle(torch_file *f) {
    free(f->m.bytes);
    free(f->m.node);
    free(f->m.cell);
    free(f->m.stack);
    free(f->m.memo);
    free(f->m.mark);
    free(f->z.directory);
    free(f->z.entry);
    free(f->z.name);
    memset(&f->m, 0, sizeof f->m);
    memset(&f->z, 0, sizeof f->z);
}

static inline void torch_close(torch_file *f) {
    if (!f) return;
    torch_close_pickle(f);
    if (f->stream) fclose(f->stream);
    free(f->path);
    free(f->tensor);
    free(f->view);
    free(f->names);
    free(f->storage);
    free(f->out);
    free(f->source);
    free(f);
}

/* The file, and its first bytes. */
static inline torch_file *torch_begin(const char *path, unsigned char *head, size_t *size, char *err, size_t errcap) {
    torch_file *f = (torch_file *)calloc(1, sizeof *f);
    size_t n = path ? strlen(path) + 1 : 0;
    long end = -1;
    *size = 0;
    if (f && n) f->path = (char *)malloc(n);
    if (!f || !f->path) {
        if (err && errcap) snprintf(err, errcap, "%s", n ? "no memory to open a file; free some" : "no path was given");
        torch_close(f);
        return NULL;
    }
    memcpy(f->path, path, n);
    f->held = -1;
    gzip_crc_tables(f->crc_table);
    errno = 0;
    f->stream = fopen(path, "rb");
    if (f->stream && !fseek(f->stream, 0, SEEK_END)) end = ftell(f->stream);
    if (end < 0) torch_fail(f, "cannot be opened: %s; check the path", errno ? strerror(errno) : "no reason given");
    else {
        f->size = (uint64_t)end;
        *size = f->size < 64 ? (size_t)f->size : 64;
        torch_bytes(f, 0, head, *size);
    }
    return f;
}

/* A pickle (protocol 2 or later; from 4 on with a frame) of the number 0x1950a86a20f9469cfc6c. */
static inline int torch_is_legacy(const unsigned char *p, size_t n) {
    static const unsigned char magic[13] = {0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};
    if (n < 2 || p[0] != 0x80 || p[1] < 2 || p[1] > 5) return 0;
    p += 2;
    n -= 2;
    if (n >= 9 && p[0] == 0x95) {
        p += 9;
        n -= 9;
    }
    return n >= sizeof magic && !memcmp(p, magic, sizeof magic);
}
static inline int torch_is_zip(const unsigned char *p, size_t n) { return n >= 4 && !memcmp(p, "PK\3\4", 4); }

static inline int torch_open_zip(torch_file *f, uint32_t *root) {
    const torch_entry *e, *order;
    unsigned char *bytes = NULL;
    if (!torch_open_directory(f, &e)) return 0;
    if (!e) return torch_fail(f, "is a zip container without a data.pkl: no PyTorch checkpoint");
    order = torch_find_entry(f, "byteorder", "", 0);
    if (order) {
        int little, big;
        if (!torch_check_packing(f, order)) return 0;
        if (order->place.size > 6) return torch_damaged(f, "has an entry byteorder that is neither little nor big");
        if (!torch_whole(f, "its byteorder", &order->place, &bytes)) return 0;
        little = order->place.size == 6 && !memcmp(bytes, "little", 6);
        big = order->place.size == 3 && !memcmp(bytes, "big", 3);
        free(bytes);
        if (big) return torch_fail(f, "was saved on a big-endian machine; load and save it on another");
        if (!little) return torch_damaged(f, "has an entry byteorder that is neither little nor big");
    }
    if (!torch_check_packing(f, e)) return 0;
    if (e->place.size > TORCH_PICKLE)
        return torch_fail(f, "has a pickle of %llu bytes; at most %d are read", (unsigned long long)e->place.size,
                          TORCH_PICKLE);
    if (!torch_whole(f, "its data.pkl", &e->place, &f->m.bytes)) return 0;
    f->m.size = (size_t)e->place.size;
    *root = torch_run(f);
    if (!f->failed && f->m.pos != f->m.size)
        torch_damaged(f, "has %llu strange bytes after its pickle", (unsigned long long)(f->m.size - f->m.pos));
    return !f->failed && torch_collect_storages(f) && torch_place_zip(f);
}

static inline int torch_open_legacy(torch_file *f, uint32_t *root) {
    uint32_t node[5];
    int i;
    f->m.growing = 1;
    for (i = 0; i < 5; i++) {
        node[i] = torch_run(f);
        if (f->failed) return 0;
        if (i == 1 && (torch_at(f, node[1])->kind != TORCH_INT || torch_at(f, node[1])->v.number != 1001))
            return torch_fail(f, "is of a version of PyTorch's legacy format that is not 1001");
    }
    *root = node[3];
    return torch_collect_storages(f) && torch_place_legacy(f, node[4]);
}

/* A checkpoint, its tensors known and none read yet. NULL and a sentence where it is none, or is damaged. */
static inline torch_file *torch_open(const char *path, char *err, size_t errcap) {
    unsigned char head[64];
    size_t n, common = 0;
    uint32_t root = 0;
    torch_file *f = torch_begin(path, head, &n, err, errcap);
    if (!f) return NULL;
    if (!f->failed) {
        if (torch_is_legacy(head, n)) torch_open_legacy(f, &root);
        else if (torch_is_zip(head, n)) torch_open_zip(f, &root);
        else
            torch_fail(f, "is no PyTorch checkpoint: it is neither a zip container nor does it begin with the pickle "
                          "of a magic number");
    }
    if (!f->failed && torch_find_tensors(f, root, &common)) torch_finish(f, common);
    torch_close_pickle(f);
    if (!f->failed) return f;
    if (err && errcap) snprintf(err, errcap, "%s", f->message);
    torch_close(f);
    return NULL;
}

/* Whether a file is a PyTorch checkpoint, by its bytes. A damaged zip container is one if its first entry is the pickle,
 * as torch.save writes it: torch_open then says what is wrong. */
static inline int torch_is(const char *path) {
    unsigned char head[64], *name = NULL;
    const torch_entry *e = NULL;
    size_t n, name_size;
    int is = 0;
    torch_file *f = torch_begin(path, head, &n, NULL, 0);
    if (!f) return 0;
    if (f->failed) n = 0;
    if (torch_is_legacy(head, n)) is = 1;
    else if (torch_is_zip(head, n)) {
        name_size = n >= 30 ? torch_u16(head + 26) : 0;
        name = (unsigned char *)malloc(name_size + 1);
        is = name && torch_bytes(f, 30, name, name_size) && torch_is_pickle_name(name, name_size);
        free(name);
        f->failed = 0;
        if (!is) is = torch_open_directory(f, &e) && e;
    }
    torch_close(f);
    return is;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static inline int64_t torch_count(const torch_file *f) { return f->count; }

/* Name, dtype and shape; data is NULL. */
static inline const dpo_tensor *torch_tensor(const torch_file *f, int64_t i) {
    return i >= 0 && i < f->count ? &f->tensor[i] : NULL;
}

/* A buffer of at least `size` bytes; what was in it is lost. */
static inline int torch_buffer(torch_file *f, unsigned char **buffer, uint64_t *room, uint64_t size, const char *what) {
    if (*buffer && size <= *room) return 1;
    free(*buffer);
    *room = 0;
    *buffer = size < (size_t)-1 ? (unsigned char *)malloc((size_t)size + 1) : NULL;
    if (!*buffer) return torch_no_memory(f, size, what);
    *room = size;
    return 1;
}

/* Bytes [first, first + size) of a stored storage; the checksum, if these are all. */
static inline int torch_stored(torch_file *f, const char *name, const torch_place *p, uint64_t first, uint64_t size,
                               unsigned char *to) {
    if (!torch_bytes(f, p->data + first, to, size)) return 0;
    return first || size != p->size || torch_check_crc(f, name, p, to);
}

/* Elements one after another, from wherever their strides put them. */
static inline void torch_gather(const torch_view *v, const dpo_tensor *t, const unsigned char *from,
                                unsigned char *to) {
    size_t size = torch_dtype_bytes(t->dtype);
    int64_t index[TORCH_RANK] = {0}, i, n = t->ndim ? t->shape[t->ndim - 1] : 1;
    uint64_t step = t->ndim ? v->stride[t->ndim - 1] : 0, at = 0, left;
    int k;
    for (left = v->bytes / size; left; left -= (uint64_t)n) {
        uint64_t p = at; /* a number, as the last step may lead far out */
        switch (size) {
        case 8:
            for (i = 0; i < n; i++, p += step, to += 8) memcpy(to, from + p, 8);
            break;
        case 4:
            for (i = 0; i < n; i++, p += step, to += 4) memcpy(to, from + p, 4);
            break;
        case 2:
            for (i = 0; i < n; i++, p += step, to += 2) memcpy(to, from + p, 2);
            break;
        default:
            for (i = 0; i < n; i++, p += step) *to++ = from[p];
        }
        for (k = t->ndim - 1; k-- > 0;) { /* the next row */
            at += v->stride[k];
            if (++index[k] < t->shape[k]) break;
            at -= v->stride[k] * (uint64_t)t->shape[k];
            index[k] = 0;
        }
    }
}

/* Storages are little-endian. */
static inline void torch_to_host(unsigned char *p, uint64_t bytes, unsigned size) {
    const uint16_t one = 1;
    uint64_t at;
    unsigned i;
    if (*(const unsigned char *)&one || size == 1) return;
    for (at = 0; at < bytes; at += size)
        for (i = 0; i < size / 2; i++) {
            unsigned char x = p[at + i];
            p[at + i] = p[at + size - 1 - i];
            p[at + size - 1 - i] = x;
        }
}

/* The elements of tensor i: contiguous, row-major, in the machine's byte order, until the next call. NULL and a
 * sentence. */
static inline const void *torch_read(torch_file *f, int64_t i, char *err, size_t errcap) {
    const dpo_tensor *t = torch_tensor(f, i);
    const torch_view *v = t ? &f->view[i] : NULL;
    const torch_storage *s;
    const unsigned char *from = NULL;
    f->failed = 0;
    if (!t) torch_fail(f, "has %lld tensors, and so none of the number %lld", (long long)f->count, (long long)i);
    else if (torch_buffer(f, &f->out, &f->out_room, v->bytes, t->name) && v->bytes) {
        s = &f->storage[v->storage];
        if (s->place.deflated) {
            if (f->held != v->storage) {
                free(f->source);
                f->source_room = 0;
                f->held = torch_whole(f, t->name, &s->place, &f->source) ? v->storage : -1;
            }
            from = f->source;
            if (!f->failed) from += v->first;
        } else if (v->contiguous) torch_stored(f, t->name, &s->place, v->first, v->bytes, f->out);
        else {
            f->held = -1;
            if (torch_buffer(f, &f->source, &f->source_room, v->span, t->name)) {
                torch_stored(f, t->name, &s->place, v->first, v->span, f->source);
                from = f->source;
            }
        }
        if (!f->failed && from && v->contiguous) memcpy(f->out, from, (size_t)v->bytes);
        else if (!f->failed && from) torch_gather(v, t, from, f->out);
        if (!f->failed) torch_to_host(f->out, v->bytes, torch_dtype_bytes(t->dtype));
    }
    if (!f->failed) return f->out;
    if (err && errcap) snprintf(err, errcap, "%s", f->message);
    return NULL;
}

#endif /* TOOLS_TORCH_H */
