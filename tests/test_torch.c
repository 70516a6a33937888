/* test_torch.c - the tests of tools/formats/torch.h: zip containers and pickles made here piece by piece, each with one
   thing wrong; two files of PyTorch cut at every byte and with every bit turned; real files where ../shared stands beside
   the checkout.

   usage: torch [part of a name]     Last line: N passed, N failed. Exit status 1 on any failure, or when fewer tests ran
   than there must be. */
#include "../tools/formats/torch.h"
#include "check.h"
#include <sys/stat.h>
#include <sys/types.h>

#define FLOOR  24 /* so many tests there are at least */
#define FOLDER "build/tests/torch.out"
#define FILE1  FOLDER "/x.bin"
#define SHARED "../shared/golden/"

static int skipped;

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

typedef struct bytes {
    unsigned char *p;
    size_t n, room;
} bytes;
static bytes file, code, storage[4]; /* the file, a pickle, and the storages "0" .. "3" that go into it */

static void put(bytes *b, const void *p, size_t n) {
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n);
        b->p = (unsigned char *)realloc(b->p, b->room);
        if (!b->p) exit(3);
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}
static void put_text(bytes *b, const char *text) { put(b, text, strlen(text)); }
static void put_number(bytes *b, uint64_t x, int n) { /* little-endian */
    for (; n; n--, x >>= 8) {
        unsigned char c = (unsigned char)(x & 255);
        put(b, &c, 1);
    }
}
static void poke(bytes *b, size_t at, uint64_t x, int n) {
    for (; n; n--, x >>= 8) b->p[at++] = (unsigned char)(x & 255);
}
static void put_hex(bytes *b, const char *hex) {
    for (; *hex; hex += 2) {
        unsigned x = 0;
        sscanf(hex, "%2x", &x);
        put_number(b, x, 1);
    }
}
static void save(const char *path, const void *p, size_t n) {
    FILE *f;
    remove(path); /* file systems that flush what is cut to nothing and written again are slow at it */
    f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(p, 1, n, f) == n);
    fclose(f);
}
static void clear(void) {
    int i;
    file.n = code.n = 0;
    for (i = 0; i < 4; i++) storage[i].n = 0;
}

/* ---- pickles ---------------------------------------------------------------------------------------------------- */

static void op(int c) { put_number(&code, (uint64_t)c, 1); }
static void word(const char *text) { /* BINUNICODE */
    op('X');
    put_number(&code, strlen(text), 4);
    put_text(&code, text);
}
static void global(const char *name) { /* its last '.' divides module and name */
    const char *dot = strrchr(name, '.');
    op('c');
    put(&code, name, (size_t)(dot - name));
    op('\n');
    put_text(&code, dot + 1);
    op('\n');
}
static void number(int64_t x) { /* LONG1 */
    op(0x8a);
    op(8);
    put_number(&code, (uint64_t)x, 8);
}
static void numbers(int n, const int64_t *x) {
    int i;
    op('(');
    for (i = 0; i < n; i++) number(x[i]);
    op('t');
}
static void begin(void) {
    op(0x80);
    op(2);
}
static int legacy; /* persistent ids have a sixth part */
static void storage_id(const char *type, const char *key, int64_t count) {
    op('(');
    word("storage");
    global(type);
    word(key);
    word("cpu");
    number(count);
    if (legacy) op('N');
    op('t');
    op('Q');
}
/* The arguments after the storage. */
static void view(int64_t offset, int ndim, const int64_t *shape, const int64_t *stride) {
    number(offset);
    numbers(ndim, shape);
    numbers(ndim, stride);
    op(0x89);
    global("collections.OrderedDict");
    op(')');
    op('R');
    op('t');
    op('R');
}
static void tensor(const char *type, const char *key, int64_t count, int64_t offset, int ndim, const int64_t *shape,
                   const int64_t *stride) {
    global("torch._utils._rebuild_tensor_v2");
    op('(');
    storage_id(type, key, count);
    view(offset, ndim, shape, stride);
}
/* All of a storage of floats, 1, 2, ... */
static void floats(const char *key, int64_t n) {
    static const int64_t one = 1;
    tensor("torch.FloatStorage", key, n, 0, 1, &n, &one);
}
static void fill(int which, int n) {
    int i;
    storage[which].n = 0;
    for (i = 1; i <= n; i++) {
        float x = (float)i;
        put(&storage[which], &x, 4);
    }
}

/* ---- zip containers --------------------------------------------------------------------------------------------- */

enum { DEFLATED = 1, DESCRIPTOR = 2, ZIP64 = 4, NO_CRC = 8 };
static bytes directory;
static size_t local_at[16], entry_at[16], end_at; /* where headers begin: the entries' in `directory`, until zip_end */
static int n_entries;
static uint32_t crc_table[8][256];

static void zip_begin(void) {
    file.n = directory.n = 0;
    n_entries = 0;
}
static void zip_add(const char *name, const void *p, size_t n, int how) {
    uint32_t crc = how & NO_CRC ? 0 : gzip_crc32(crc_table, (const unsigned char *)p, n);
    int deflated = how & DEFLATED, later = how & DESCRIPTOR, wide = how & ZIP64;
    size_t packed = deflated ? n + 5 : n, size = strlen(name);
    size_t at = local_at[n_entries] = file.n;
    put(&file, "PK\3\4", 4);
    put_number(&file, 45, 2);
    put_number(&file, later ? 8 : 0, 2);
    put_number(&file, deflated ? 8 : 0, 2);
    put_number(&file, 0, 4);
    put_number(&file, later ? 0 : crc, 4);
    put_number(&file, wide ? 0xFFFFFFFF : later ? 0 : packed, 4);
    put_number(&file, wide ? 0xFFFFFFFF : later ? 0 : n, 4);
    put_number(&file, size, 2);
    put_number(&file, 7, 2);
    put_text(&file, name);
    put(&file, "FB\3\0ZZZ", 7); /* as PyTorch pads */
    if (deflated) {             /* one stored block */
        put_number(&file, 1, 1);
        put_number(&file, n, 2);
        put_number(&file, ~n, 2);
    }
    put(&file, p, n);
    if (later) {
        put(&file, "PK\7\10", 4);
        put_number(&file, crc, 4);
        put_number(&file, packed, 4);
        put_number(&file, n, 4);
    }
    entry_at[n_entries++] = directory.n;
    put(&directory, "PK\1\2", 4);
    put_number(&directory, 45, 2);
    put_number(&directory, 45, 2);
    put_number(&directory, later ? 8 : 0, 2);
    put_number(&directory, deflated ? 8 : 0, 2);
    put_number(&directory, 0, 4);
    put_number(&directory, crc, 4);
    put_number(&directory, wide ? 0xFFFFFFFF : packed, 4);
    put_number(&directory, wide ? 0xFFFFFFFF : n, 4);
    put_number(&directory, size, 2);
    put_number(&directory, wide ? 33 : 0, 2);
    put_number(&directory, 0, 2 + 2 + 2 + 4);
    put_number(&directory, wide ? 0xFFFFFFFF : at, 4);
    put_text(&directory, name);
    if (!wide) return;
    put(&directory, "UT\1\0z\1\0\30\0", 9); /* another field stands first */
    put_number(&directory, n, 8);
    put_number(&directory, packed, 8);
    put_number(&directory, at, 8);
}
static void zip_end(int how) {
    size_t at = file.n;
    int i;
    for (i = 0; i < n_entries; i++) entry_at[i] += at;
    put(&file, directory.p, directory.n);
    end_at = file.n;
    if (how & ZIP64) {
        put(&file, "PK\6\6", 4);
        put_number(&file, 44, 8);
        put_number(&file, 45, 4 + 4 + 4);
        put_number(&file, (uint64_t)n_entries, 8);
        put_number(&file, (uint64_t)n_entries, 8);
        put_number(&file, directory.n, 8);
        put_number(&file, at, 8);
        put(&file, "PK\6\7", 4);
        put_number(&file, 0, 4);
        put_number(&file, end_at, 8);
        put_number(&file, 1, 4);
    }
    put(&file, "PK\5\6", 4);
    put_number(&file, 0, 4);
    put_number(&file, how & ZIP64 ? 0xFFFF : (uint64_t)n_entries, 2);
    put_number(&file, how & ZIP64 ? 0xFFFF : (uint64_t)n_entries, 2);
    put_number(&file, how & ZIP64 ? 0xFFFFFFFF : directory.n, 4);
    put_number(&file, how & ZIP64 ? 0xFFFFFFFF : at, 4);
    put_number(&file, 0, 2);
}
/* The pickle in `code` and the storages that have bytes. */
static void zip(int how) {
    char name[16];
    int i;
    zip_begin();
    zip_add("a/data.pkl", code.p, code.n, how);
    for (i = 0; i < 4; i++) {
        (void)snprintf(name, sizeof name, "a/data/%d", i);
        if (storage[i].n) zip_add(name, storage[i].p, storage[i].n, how);
    }
    zip_add("a/version", "3\n", 2, how);
    zip_end(how);
}

/* ---- what becomes of a file ------------------------------------------------------------------------------------- */

static char err[640];
static torch_file *opened;

static torch_file *reopen(void) {
    torch_close(opened);
    save(FILE1, file.p, file.n);
    err[0] = 0;
    opened = torch_open(FILE1, err, sizeof err);
    return opened;
}
static int refuses(const char *words) {
    int ok = !reopen() && strstr(err, words) != NULL && !strncmp(err, FILE1 ": ", sizeof FILE1 + 1);
    if (!ok) printf("expected a refusal with \"%s\", got: %s\n", words, opened ? "tensors" : err);
    return ok;
}
static int64_t find(const char *name) {
    int64_t i;
    for (i = 0; opened && i < torch_count(opened); i++)
        if (!strcmp(torch_tensor(opened, i)->name, name)) return i;
    return -1;
}
static int is_shape(const char *name, int dtype, int ndim, int64_t d0, int64_t d1) {
    const dpo_tensor *t = find(name) < 0 ? NULL : torch_tensor(opened, find(name));
    return t && t->dtype == dtype && t->ndim == ndim && t->shape[0] == d0 && t->shape[1] == d1 && t->shape[2] == 1 &&
           t->shape[7] == 1 && !t->data;
}
/* The floats of a tensor, as text. */
static const char *values(const char *name) {
    static char text[512];
    const dpo_tensor *t = find(name) < 0 ? NULL : torch_tensor(opened, find(name));
    const void *data = t ? torch_read(opened, find(name), err, sizeof err) : NULL;
    int64_t n = 1, i;
    size_t at = 0;
    float x;
    if (!data) return t ? err : "no such tensor";
    for (i = 0; i < t->ndim; i++) n *= t->shape[i];
    text[0] = 0;
    for (i = 0; i < n && at < sizeof text - 16; i++) {
        memcpy(&x, (const char *)data + 4 * i, 4);
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%g", i ? " " : "", (double)x);
    }
    return text;
}
static int reads(const char *name, const char *want) {
    const char *got = values(name);
    if (!strcmp(got, want)) return 1;
    printf("%s: %s, expected %s\n", name, got, want);
    return 0;
}
static int fails(const char *name, const char *words) {
    const char *got = values(name);
    if (strstr(got, words)) return 1;
    printf("%s: %s, expected an error with \"%s\"\n", name, got, words);
    return 0;
}
/* {"w": all of storage 0, four floats}, as a file of this kind. */
static void plain(int how) {
    clear();
    fill(0, 4);
    begin();
    op('}');
    word("w");
    floats("0", 4);
    op('s');
    op('.');
    zip(how);
}

/* ---- what is read ----------------------------------------------------------------------------------------------- */

static void test_containers(void) {
    static const int how[8] = {
        0, DEFLATED, DESCRIPTOR, ZIP64, DEFLATED | DESCRIPTOR, DEFLATED | ZIP64, NO_CRC, ZIP64 | NO_CRC | DESCRIPTOR};
    int i;
    for (i = 0; i < 8; i++) {
        plain(how[i]);
        CHECK(reopen() && torch_count(opened) == 1);
        CHECK(is_shape("w", DPO_F32, 1, 4, 1));
        CHECK(reads("w", "1 2 3 4") && reads("w", "1 2 3 4"));
        CHECK(torch_is(FILE1));
    }
    plain(0); /* a comment, with what looks like the end */
    poke(&file, file.n - 2, 26, 2);
    put_text(&file, "PK\5\6, which is not the end");
    CHECK(reopen() && reads("w", "1 2 3 4"));
}
static void test_byteorder(void) {
    static const char *const orders[4] = {"little", "big", "", "middle"};
    int i;
    for (i = 0; i < 4; i++) {
        plain(0);
        zip_begin();
        zip_add("byteorder", orders[i], strlen(orders[i]), 0);
        zip_add("data/0", storage[0].p, storage[0].n, 0);
        zip_add("data.pkl", code.p, code.n, DEFLATED);
        zip_end(0);
        CHECK(i == 0   ? reopen() && reads("w", "1 2 3 4")
              : i == 1 ? refuses("was saved on a big-endian machine")
                       : refuses("neither little nor big"));
    }
    plain(0);
    zip_begin();
    zip_add("x/y z/data/0", storage[0].p, storage[0].n, 0);
    zip_add("x/y z/data.pkl", code.p, code.n, 0);
    zip_add("x/y z/byteorder", "little-endian", 13, 0);
    zip_end(0);
    CHECK(refuses("neither little nor big"));
}
static void test_dtypes(void) {
    static const struct {
        const char *type;
        int dtype;
        int size;
    } all[] = {{"torch.FloatStorage", DPO_F32, 4},     {"torch.HalfStorage", DPO_F16, 2},
               {"torch.BFloat16Storage", DPO_BF16, 2}, {"torch.DoubleStorage", DPO_F64, 8},
               {"torch.LongStorage", DPO_I64, 8},      {"torch.IntStorage", DPO_I32, 4},
               {"torch.ShortStorage", DPO_I16, 2},     {"torch.CharStorage", DPO_I8, 1},
               {"torch.ByteStorage", DPO_U8, 1},       {"torch.BoolStorage", DPO_BOOL, 1}};
    static const int64_t shape[2] = {2, 3}, along[2] = {3, 1}, across[2] = {1, 2};
    unsigned char want[48];
    size_t i, k, e, size;
    for (i = 0; i < sizeof all / sizeof *all; i++) {
        size = (size_t)all[i].size;
        clear();
        for (k = 0; k < 6 * size; k++) put_number(&storage[0], 7 * k + i, 1);
        begin();
        op('}');
        op('(');
        word("along");
        tensor(all[i].type, "0", 6, 0, 2, shape, along);
        word("across");
        tensor(all[i].type, "0", 6, 0, 2, shape, across);
        op('u');
        op('.');
        zip(0);
        if (!CHECK(reopen() && is_shape("along", all[i].dtype, 2, 2, 3) && is_shape("across", all[i].dtype, 2, 2, 3)))
            continue;
        CHECK_SAME(torch_read(opened, find("along"), err, sizeof err), storage[0].p, 6 * size);
        for (e = 0; e < 6; e++) memcpy(want + e * size, storage[0].p + (e / 3 + e % 3 * 2) * size, size);
        CHECK_SAME(torch_read(opened, find("across"), err, sizeof err), want, 6 * size);
    }
}
/* {"w": _rebuild_tensor_v3 of a storage without a type} */
static void untyped(const char *way, const char *type, const char *dtype, int metadata) {
    clear();
    fill(0, 2);
    begin();
    op('}');
    word("w");
    global(way);
    op('(');
    storage_id(type, "0", 8);
    number(0);
    number(4);
    op(0x85);
    number(1);
    op(0x85);
    op(0x89);
    op('}');
    if (dtype) global(dtype);
    if (metadata >= 0) op('}');
    if (metadata > 0) {
        word("neg");
        op(0x88);
        op('s');
    }
    op('t');
    op('R');
    op('s');
    op('.');
    zip(0);
}
static void test_untyped(void) {
    untyped("torch._utils._rebuild_tensor_v3", "torch.storage.UntypedStorage", "torch.uint16", -1);
    CHECK(reopen() && is_shape("w", DPO_U16, 1, 4, 1));
    CHECK_SAME(torch_read(opened, 0, err, sizeof err), storage[0].p, 8);
    untyped("torch._utils._rebuild_tensor_v3", "torch.storage.UntypedStorage", "torch.uint16", 0);
    CHECK(reopen() && is_shape("w", DPO_U16, 1, 4, 1));
    untyped("torch._utils._rebuild_tensor_v3", "torch.storage.UntypedStorage", "torch.uint32", 0);
    CHECK(refuses("reaches to element 3 of its storage, which has 2"));
    untyped("torch._utils._rebuild_tensor_v3", "torch.storage.UntypedStorage", "torch.uint16", 1);
    CHECK(refuses("tensor w is a conjugate or negative view"));
    untyped("torch._utils._rebuild_tensor_v3", "torch.storage.UntypedStorage", "torch.FloatStorage", 0);
    CHECK(refuses("tensor w has no storage, offset, shape"));
    untyped("torch._utils._rebuild_tensor_v3", "torch.storage.UntypedStorage", "torch.float8_e4m3fn", 0);
    CHECK(refuses("holds torch.float8_e4m3fn, which is not read"));
    untyped("torch._utils._rebuild_tensor_v2", "torch.storage.UntypedStorage", NULL, -1);
    CHECK(refuses("tensor w is of no type"));
    untyped("torch._utils._rebuild_tensor_v2", "torch.ByteStorage", NULL, 1);
    CHECK(refuses("tensor w is a conjugate or negative view"));
    untyped("torch._utils._rebuild_tensor_v2", "torch.ByteStorage", NULL, 0);
    CHECK(reopen() && is_shape("w", DPO_U8, 1, 4, 1));
}

/* A tensor "w" of 12 floats with this shape and these strides. */
static void strided(int64_t offset, int ndim, const int64_t *shape, const int64_t *stride, int how) {
    clear();
    fill(0, 12);
    begin();
    op('}');
    word("w");
    tensor("torch.FloatStorage", "0", 12, offset, ndim, shape, stride);
    op('s');
    op('.');
    zip(how);
}
static void test_views(void) {
    static const int64_t shape[3] = {2, 3, 2}, rows[3] = {6, 2, 1}, mixed[3] = {1, 4, 2}, zero[3] = {0, 1, 0};
    static const int64_t none[2] = {0, 5}, ones[8] = {1, 1, 1, 1, 1, 1, 1, 1},
                         far[8] = {9, INT64_MAX, 9, 9, 9, 9, 9, 9};
    static const int64_t big[2] = {2, (int64_t)1 << 61}, two[2] = {2, 2},
                         half[2] = {(int64_t)1 << 62, (int64_t)1 << 62};
    static const int64_t terabytes[2] = {(int64_t)1 << 20, (int64_t)1 << 20}, still[2] = {0, 0}, minus[2] = {-1, 2};
    static const int64_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    int how;
    for (how = 0; how < 2; how++) { /* stored, deflated */
        strided(0, 3, shape, rows, how);
        CHECK(reopen() && reads("w", "1 2 3 4 5 6 7 8 9 10 11 12"));
        strided(0, 3, shape, mixed, how);
        CHECK(reopen() && reads("w", "1 3 5 7 9 11 2 4 6 8 10 12"));
        strided(3, 3, shape, zero, how);
        CHECK(reopen() && reads("w", "4 4 5 5 6 6 4 4 5 5 6 6"));
        strided(7, 0, NULL, NULL, how);
        CHECK(reopen() && is_shape("w", DPO_F32, 0, 1, 1) && reads("w", "8"));
        strided(99, 2, none, none, how);
        CHECK(reopen() && is_shape("w", DPO_F32, 2, 0, 5) && reads("w", ""));
        strided(11, 8, ones, far, how); /* strides that are never gone */
        CHECK(reopen() && is_shape("w", DPO_F32, 8, 1, 1) && reads("w", "12"));
        strided(0, 2, two, mixed + 1, how);
        CHECK(reopen() && reads("w", "1 3 5 7"));
    }
    strided(1, 3, shape, rows, 0);
    CHECK(refuses("tensor w reaches to element 12 of its storage, which has 12"));
    strided(12, 0, NULL, NULL, 0);
    CHECK(refuses("reaches to element 12"));
    strided(INT64_MAX, 3, shape, rows, 0);
    CHECK(refuses("reaches to element"));
    strided(0, 2, two, far, 0);
    CHECK(refuses("reaches to element"));
    strided(0, 2, two, half, 0);
    CHECK(refuses("reaches to element"));
    strided(0, 2, big, still, 0);
    CHECK(refuses("product is too large"));
    strided(0, 2, half, still, 0);
    CHECK(refuses("product is too large"));
    strided(0, 2, half, half, 0);
    CHECK(refuses("product is too large"));
    strided(0, 2, terabytes, still, 0);
    CHECK(refuses("its tensors claim 4398046511104 bytes, its storages hold 48"));
    strided(0, 2, minus, two, 0);
    CHECK(refuses("tensor w has no storage, offset, shape and strides"));
    strided(0, 2, two, minus, 0);
    CHECK(refuses("tensor w has no storage, offset, shape and strides"));
    strided(-1, 2, two, two, 0);
    CHECK(refuses("tensor w has no storage, offset, shape and strides"));
    strided(0, 9, nine, nine, 0);
    CHECK(refuses("of up to 8 numbers"));
}
/* Views of one storage do not have to be added up for long. */
static void test_claims(void) {
    static const int64_t shape[2] = {1024, 1024}, still[2] = {0, 0};
    char name[8];
    int i, n;
    for (n = 256; n <= 300; n += 44) { /* 4 MiB each: 1 GiB in all, and more */
        clear();
        fill(0, 1);
        begin();
        op('}');
        op('(');
        for (i = 0; i < n; i++) {
            (void)snprintf(name, sizeof name, "%d", i);
            word(name);
            tensor("torch.FloatStorage", "0", 1, 0, 2, shape, still);
        }
        op('u');
        op('.');
        zip(DEFLATED);
        CHECK(n == 256 ? reopen() && torch_count(opened) == 256 : refuses("its tensors claim"));
    }
}
/* {"w": 4 floats, deflated, "x": what is in storage 1, stored} */
static void plain_two(void) {
    fill(0, 4);
    code.n = 0;
    begin();
    op('}');
    op('(');
    word("w");
    floats("0", 4);
    word("x");
    floats("1", (int64_t)storage[1].n / 4);
    op('u');
    op('.');
    zip_begin();
    zip_add("a/data.pkl", code.p, code.n, 0);
    zip_add("a/data/0", storage[0].p, storage[0].n, DEFLATED);
    zip_add("a/data/1", storage[1].p, storage[1].n, 0);
    zip_end(0);
}
/* Tensors with storages of their own, deflated, stored, and read in any order; indices that are none. */
static void test_reading(void) {
    FILE *f;
    int i;
    clear();
    fill(1, 2);
    plain_two();
    if (!CHECK(reopen() && torch_count(opened) == 2)) return;
    for (i = 0; i < 3; i++) CHECK(reads("x", "1 2") && reads("w", "1 2 3 4") && reads("w", "1 2 3 4"));
    CHECK(!torch_read(opened, 2, err, sizeof err) && strstr(err, "2 tensors, and so none of the number 2"));
    CHECK(!torch_read(opened, -1, NULL, 0));
    CHECK(!torch_tensor(opened, -1) && !torch_tensor(opened, 2));
    CHECK(reads("w", "1 2 3 4")); /* an error does not stay */
    fill(1, 20000);
    plain_two();
    if (!CHECK(reopen() && reads("w", "1 2 3 4"))) return;
    f = fopen(FILE1, "wb"); /* the file is cut while it is open */
    if (f) fclose(f);
    CHECK(fails("x", "cannot read 80000 bytes"));
    torch_close(NULL);
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static void test_names(void) {
    clear();
    fill(0, 1);
    begin(); /* {"step_idx": 7, "state": {"a": w, 3: {"b": [w, 1.5, (w,)]}}, "metrics": {"loss": [0.5]}} */
    op('}');
    op('(');
    word("step_idx");
    number(7);
    word("state");
    op('}');
    op('(');
    word("a");
    floats("0", 1);
    op('K');
    op(3);
    op('}');
    word("b");
    op(']');
    op('(');
    floats("0", 1);
    op('G');
    put_number(&code, 0, 8);
    floats("0", 1);
    op(0x85);
    op('e');
    op('s');
    op('u');
    word("metrics");
    op('}');
    word("loss");
    op(']');
    op('G');
    put_number(&code, 0, 8);
    op('a');
    op('s');
    op('u');
    op('.');
    zip(0);
    CHECK(reopen() && torch_count(opened) == 3);
    CHECK(find("a") == 0 && find("3.b.0") == 1 && find("3.b.2.0") == 2);
    poke(&code, code.n - 1, 'N', 1); /* an attribute, and a tensor in a second dict: nothing is left out */
    op('b');
    word("other");
    op('}');
    word("a");
    floats("0", 1);
    op('s');
    op('s');
    op('.');
    zip(0);
    CHECK(reopen() && torch_count(opened) == 4);
    CHECK(find("state.a") == 0 && find("state.3.b.2.0") == 2 && find("other.a") == 3);
}
/* What follows the first bytes of a pickle, with one storage of one float. */
static void start(void) {
    clear();
    fill(0, 1);
    begin();
}
static void finish(void) {
    op('.');
    zip(0);
}
static void keyed(const char *key, size_t n) { /* {key: w} */
    start();
    op('}');
    op('X');
    put_number(&code, n, 4);
    put(&code, key, n);
    floats("0", 1);
    op('s');
    finish();
}
static void test_name_forms(void) {
    char *name = SCRATCH(char, 2000);
    int i;
    start(); /* a tensor alone */
    floats("0", 1);
    finish();
    CHECK(reopen() && torch_count(opened) == 1 && reads("tensor", "1"));
    start(); /* a list at the top: no dict to name after */
    op(']');
    op('}');
    word("a");
    floats("0", 1);
    op('s');
    op('a');
    finish();
    CHECK(reopen() && reads("0.a", "1"));
    for (i = 0; i < 2; i++) { /* one list in a dict, a dict with a tensor beside the dict */
        start();
        op('}');
        word("m");
        op(i ? '}' : ']');
        if (i) word("a");
        floats("0", 1);
        op(i ? 's' : 'a');
        op('s');
        if (i) word("b");
        if (i) floats("0", 1);
        if (i) op('s');
        finish();
        CHECK(reopen() && (i ? reads("m.a", "1") && reads("b", "1") : reads("m.0", "1")));
    }
    start(); /* things that hold no tensors, of every kind */
    op('}');
    op('N');
    word("text");
    op('s');
    op('N');
    op(')');
    op('s');
    finish();
    CHECK(reopen() && torch_count(opened) == 0);
    for (i = 0; i < 2; i++) { /* a text, a number at the top */
        start();
        if (i) number(5);
        else word("long enough to be taken for a list of many things");
        finish();
        CHECK(reopen() && torch_count(opened) == 0);
    }
    keyed("", 0);
    CHECK(refuses("has a tensor without a name; download"));
    keyed("a\0b", 3);
    CHECK(refuses("tensor a?b has a name"));
    keyed("\x1b[2J", 4);
    CHECK(refuses("tensor ?[2J has a name"));
    memset(name, 'n', 1999);
    keyed(name, 1024);
    CHECK(reopen() && torch_count(opened) == 1);
    keyed(name, 1025);
    CHECK(refuses("names of over 1024 characters"));
    for (i = 0; i < 2; i++) { /* an empty key outside, inside */
        start();
        op('}');
        word(i ? "m" : "");
        op('}');
        word(i ? "" : "a");
        floats("0", 1);
        op('s');
        op('s');
        finish();
        CHECK(i ? refuses("has a tensor without a name") : reopen() && reads("a", "1"));
    }
    start();
    op('}');
    op(')'); /* a tuple as a key */
    floats("0", 1);
    op('s');
    finish();
    CHECK(refuses("a key below its outermost dict that is neither text nor number"));
}
static void test_twice(void) {
    int i;
    for (i = 0; i < 2; i++) {
        start();
        op('}');
        op('(');
        word("a.b");
        floats("0", 1);
        word(i ? "a" : "a.b");
        if (i) op('}'), word("b");
        floats("0", 1);
        if (i) op('s');
        op('u');
        finish();
        CHECK(refuses("has two tensors of the name a.b"));
    }
}
/* Dicts deeper than they may be, dicts that hold themselves, dicts that hold the one below twice, 64 deep. */
static void test_depth(void) {
    int i, n;
    for (n = 32; n <= 33; n++) {
        start();
        for (i = 0; i < n; i++) op('}'), word("d");
        floats("0", 1);
        for (i = 0; i < n; i++) op('s');
        finish();
        CHECK(n == 32 ? reopen() && torch_count(opened) == 1 : refuses("nested deeper than 32"));
    }
    start();
    op('}');
    op('q');
    op(0);
    word("self");
    op('h');
    op(0);
    op('s');
    finish();
    CHECK(refuses("nested deeper than 32"));
    start();
    op('}');
    for (i = 0; i < 30; i++) { /* {"a": last, "b": last} */
        op('q');
        op(i);
        op('0');
        op('}');
        op('(');
        word("a");
        op('h');
        op(i);
        word("b");
        op('h');
        op(i);
        op('u');
    }
    finish();
    CHECK(refuses("hold one another too often"));
}

/* ---- pickles ---------------------------------------------------------------------------------------------------- */

static void calls(const char *name) { /* {"w": w, "x": name()} */
    start();
    op('}');
    op('(');
    word("w");
    floats("0", 1);
    word("x");
    global(name);
    op(')');
    op('R');
    op('u');
    finish();
}
static void test_strangers(void) {
    int i;
    calls("os.system");
    CHECK(refuses("calls os.system, which is no part of a state_dict; nothing was run."));
    calls("builtins.eval");
    CHECK(refuses("calls builtins.eval, "));
    calls("torch._utils._rebuild_qtensor");
    CHECK(refuses("holds torch._utils._rebuild_qtensor, which is not read"));
    calls("torch.ComplexFloatStorage");
    CHECK(refuses("holds torch.ComplexFloatStorage, which is not read"));
    calls("torch._utils._rebuild_tensor_v22");
    CHECK(refuses("torch._utils._rebuild_tensor_v22"));
    calls("torch._utils._rebuild_tensor");
    CHECK(refuses("calls torch._utils._rebuild_tensor before byte"));
    calls("torch._utils._rebuild_parameter");
    CHECK(refuses("calls torch._utils._rebuild_parameter before byte"));
    calls("torch.FloatStorage");
    CHECK(refuses("calls torch.FloatStorage before byte"));
    calls("torch.float32");
    CHECK(refuses("calls torch.float32 before byte"));
    calls("torch.device");
    CHECK(reopen() && reads("w", "1"));
    start(); /* the same by STACK_GLOBAL, and with bytes that a terminal obeys */
    op(0x8c);
    op(2);
    put_text(&code, "os");
    op(0x8c);
    op(8);
    put_text(&code, "\x1b[system");
    op(0x93);
    finish();
    CHECK(refuses("calls os.?[system, "));
    start();
    number(1);
    word("x");
    op(0x93);
    finish();
    CHECK(refuses("has a name before byte"));
    start();
    op('c');
    put(&code, "a\0b\nc\n", 6);
    finish();
    CHECK(refuses("has a name before byte"));
    start();
    op('c');
    for (i = 0; i < 300; i++) op('m');
    finish();
    CHECK(refuses("a line of more than 255 bytes"));
    start(); /* a call of what is no name */
    number(1);
    op(')');
    op('R');
    finish();
    CHECK(refuses("calls what is no name before byte"));
    start(); /* a module */
    op('(');
    word("module");
    number(1);
    op('t');
    op('Q');
    finish();
    CHECK(refuses("holds a whole module"));
}
/* Every instruction that torch.save may write, in every protocol. */
static void test_instructions(void) {
    start();
    op(0x95);
    put_number(&code, 12345, 8);
    op('}');
    op(0x94); /* memo 0 */
    op('(');
    word("w");
    op('r');
    put_number(&code, 1, 4);
    global("torch._utils._rebuild_parameter");
    floats("0", 1);
    op('q');
    op(2);
    op(0x89);
    op('N');
    op(0x87);
    op('R');
    op('U');
    op(1);
    op('x');
    op(']');
    op('(');
    op('j');
    put_number(&code, 2, 4);
    op('h');
    op(2);
    op('e');
    op('h');
    op(2);
    op('a');
    op(0x8d);
    put_number(&code, 1, 8);
    op('y');
    put_text(&code, "I01\nI-7\nL123L\nJ");
    put_number(&code, 0xFFFFFFFF, 4);
    op('M');
    put_number(&code, 513, 2);
    op(0x8b);
    put_number(&code, 9, 4);
    put_number(&code, 7, 9);
    op('(');
    op('1');
    op('2');
    op('0');
    op('(');
    op('0');
    op('(');
    op(0x91);
    op('C');
    op(0);
    op('B');
    put_number(&code, 0, 4);
    op('T');
    put_number(&code, 0, 4);
    op(0x8e);
    put_number(&code, 0, 8);
    op(0x96);
    put_number(&code, 0, 8);
    op(0x8f);
    op('(');
    op(0x90);
    op('u');
    finish();
    CHECK(reopen() && torch_count(opened) == 4);
    CHECK(reads("w", "1") && reads("x.0", "1") && reads("x.2", "1"));
}
static void broken(const char *hex, const char *words) {
    start();
    put_hex(&code, hex);
    zip(0);
    if (!refuses(words)) check_at(0, __FILE__, __LINE__, hex);
}
static void test_broken_pickles(void) {
    broken("8006", "is of protocol 6");
    broken("", "is cut off at byte 2");
    broken("58ff", "is cut off at byte 4");
    broken("58ffffffff2e", "a text of 4294967295 bytes");
    broken("8d00000000000000802e", "a text of 9223372036854775808 bytes");
    broken("58ffff000061622e", "is cut off");
    broken("8bffffffff2e", "a text of 4294967295 bytes");
    broken("2e", "takes a value from an empty stack");
    broken("4e302e", "takes a value from an empty stack");
    broken("30", "takes a value from an empty stack");
    broken("4e2885", "takes a value from an empty stack"); /* below the mark */
    broken("742e", "asks for a mark");
    broken("75", "puts an item into what is no dict");
    broken("7d284e752e", "a key without a value");
    broken("7d4e732e", "puts an item into what is no dict");
    broken("5d4e4e732e", "puts an item into what is no dict");
    broken("7d4e612e", "puts an item into what is no list");
    broken("4e284e652e", "puts an item into what is no list");
    broken("68052e", "asks for value 5");
    broken("4e7105680668052e", "asks for value 6");
    broken("4e72ffffffff2e", "under the number 4294967295");
    broken("71002e", "takes a value from an empty stack");
    broken("4e4e62", "attributes to what is no dict");
    broken("4e51", "something that is no storage");
    broken("2951", "something that is no storage");
    broken("28580700000073746f72616765745151", "something that is no storage");
    broken("5331320a", "the instruction 0x53");
    broken("69", "the instruction 0x69");
    broken("92", "the instruction 0x92");
    broken("97", "the instruction 0x97");
    broken("4978780a", "the number xx");
    broken("49393939393939393939393939393939393939390a", "the number 9999999999999999999");
    broken("490a", "is none or too large");
    broken("4e2e2e", "1 strange bytes after its pickle");
}
/* A Python 2 OrderedDict, once as it is written, and a list that is copied into dicts over and over. */
static void test_ordered(void) {
    int i;
    start();
    global("collections.OrderedDict");
    op(']');
    op(']');
    op('(');
    word("w");
    floats("0", 1);
    op('e');
    op('a');
    op(0x85);
    op('R');
    finish();
    CHECK(reopen() && reads("w", "1"));
    start();
    global("collections.OrderedDict");
    op('q');
    op(0);
    op(']');
    op('N');
    op('a');
    op(0x85);
    op('R');
    finish();
    CHECK(refuses("calls collections.OrderedDict before byte"));
    start();
    global("collections.OrderedDict");
    op('q');
    op(0);
    op(']');
    op('(');
    for (i = 0; i < 1000; i++) op('N'), op('N'), op(0x86);
    op('e');
    op(0x85);
    op('q');
    op(1);
    for (i = 0; i < 1000; i++) op('h'), op(0), op('h'), op(1), op('R'), op('0');
    finish();
    CHECK(refuses("copies its lists over and over"));
}

/* ---- storages --------------------------------------------------------------------------------------------------- */

static void two(const char *type0, int64_t n0, const char *type1, int64_t n1, int64_t take) {
    static const int64_t one = 1;
    clear();
    fill(0, 4);
    begin();
    op('}');
    op('(');
    word("a");
    tensor(type0, "0", n0, 0, 1, &take, &one);
    word("b");
    tensor(type1, "0", n1, 0, 1, &take, &one);
    op('u');
    finish();
}
static void test_storages(void) {
    static const char *const f32 = "torch.FloatStorage";
    static const int64_t one = 1;
    two(f32, 4, f32, 4, 4);
    CHECK(reopen() && reads("a", "1 2 3 4") && reads("b", "1 2 3 4"));
    two(f32, 4, f32, 3, 2);
    CHECK(refuses("storage 0 is of one size or type here and of another there"));
    two(f32, 4, "torch.IntStorage", 4, 4);
    CHECK(refuses("storage 0 is of one size or type here"));
    two(f32, 3, f32, 3, 3);
    CHECK(refuses("storage 0 is of 12 bytes in the pickle, but of 16 in the container"));
    two(f32, 5, f32, 5, 3);
    CHECK(refuses("storage 0 is of 20 bytes in the pickle, but of 16"));
    two(f32, -1, f32, -1, 0);
    CHECK(refuses("describes a storage in a way"));
    two(f32, INT64_MAX, f32, INT64_MAX, 1);
    CHECK(refuses("storage 0 claims 9223372036854775807 elements"));
    two("torch.float32", 4, f32, 4, 1);
    CHECK(refuses("describes a storage in a way"));
    two("torch.DoubleStorage", 1, "torch.DoubleStorage", 1, 1);
    CHECK(refuses("storage 0 is of 8 bytes in the pickle, but of 16"));
    clear(); /* three bytes more than a double: PyTorch counts whole ones */
    fill(0, 4);
    storage[0].n = 11;
    begin();
    tensor("torch.DoubleStorage", "0", 1, 0, 1, &one, &one);
    finish();
    CHECK(reopen() && is_shape("tensor", DPO_F64, 1, 1, 1) && torch_read(opened, 0, err, sizeof err));
    clear();
    begin();
    floats("3", 1);
    finish();
    CHECK(refuses("has no entry data/3 for a storage"));
}

/* ---- legacy files ----------------------------------------------------------------------------------------------- */

static const char *legacy_keys = "01"; /* of the last pickle */
static size_t count_at;
/* The pickle in `code` with what stands around it; the storages in the order of legacy_keys. */
static void wrap(void) {
    bytes object = {NULL, 0, 0};
    const char *k;
    char key[2] = "0";
    put(&object, code.p, code.n);
    code.n = file.n = 0;
    put_hex(&file, "80028a0a6cfc9c46f9206aa850192e80024de9032e80027d2e");
    put(&file, object.p, object.n);
    free(object.p);
    begin();
    op(']');
    op('(');
    for (k = legacy_keys; *k; k++) key[0] = *k, word(key);
    op('e');
    op('.');
    put(&file, code.p, code.n);
    for (k = legacy_keys; *k; k++) {
        bytes *s = &storage[(*k - '0') & 3];
        if (k == legacy_keys) count_at = file.n;
        put_number(&file, s->n / 4, 8);
        put(&file, s->p, s->n);
    }
}
static void old(int64_t n0) { /* {"w": w, "x": x}, legacy */
    clear();
    fill(0, 4);
    fill(1, 2);
    legacy = 1;
    begin();
    op('}');
    op('(');
    word("w");
    floats("0", n0);
    word("x");
    floats("1", 2);
    op('u');
    op('.');
    legacy = 0;
    wrap();
}
static void test_legacy(void) {
    int i;
    old(4);
    CHECK(reopen() && torch_is(FILE1) && torch_count(opened) == 2);
    CHECK(reads("x", "1 2") && reads("w", "1 2 3 4"));
    legacy_keys = "10";
    old(4);
    CHECK(reopen() && reads("x", "1 2") && reads("w", "1 2 3 4"));
    legacy_keys = "1";
    old(4);
    CHECK(refuses("has no bytes for storage 0"));
    legacy_keys = "012";
    old(4);
    CHECK(refuses("lists storage 2, which its tensors do not mention"));
    legacy_keys = "010";
    old(4);
    CHECK(refuses("lists storage 0, which its tensors do not mention, or twice"));
    legacy_keys = "01";
    old(5);
    CHECK(refuses("storage 0 is of 20 bytes in the pickle, but of 4 elements of 4"));
    old(4);
    poke(&file, count_at, (uint64_t)1 << 62 | 4, 8);
    CHECK(refuses("but of 4611686018427387908 elements"));
    old(4);
    file.n--;
    CHECK(refuses("within storage 1 of 8 bytes"));
    old(4);
    put_number(&file, 0, 1);
    CHECK(refuses("has 1 strange bytes after its last storage"));
    old(4);
    poke(&file, 18, 1000, 2);
    CHECK(refuses("that is not 1001"));
    for (i = 3; i <= 6; i++) { /* protocols, and the frame of 4 and 5 */
        old(4);
        poke(&file, 1, (uint64_t)i, 1);
        CHECK(i == 6 ? refuses("is no PyTorch checkpoint") && !torch_is(FILE1) : reopen() && torch_is(FILE1));
    }
    old(4);
    code.n = 0;
    put_hex(&code, "8004950d00000000000000");
    put(&code, file.p + 2, file.n - 2);
    save(FILE1, code.p, code.n);
    CHECK(torch_is(FILE1));
}
/* A pickle of more bytes than are read at once; one that is too long. */
static void test_long_pickle(void) {
    char *text = SCRATCH(char, 100001);
    FILE *f;
    memset(text, 't', 100000);
    clear();
    fill(0, 4);
    fill(1, 2);
    legacy = 1;
    begin();
    op('}');
    op('(');
    word(text);
    word(text);
    word("w");
    floats("0", 4);
    word("x");
    floats("1", 2);
    op('u');
    op('.');
    legacy = 0;
    wrap();
    CHECK(reopen() && reads("x", "1 2") && reads("w", "1 2 3 4"));
    clear();
    put_hex(&file, "80028a0a6cfc9c46f9206aa850192e80024de9032e80027d2e800258ffffff012e");
    CHECK(refuses("is cut off"));
    f = fopen(FILE1, "r+b"); /* 40 MB of nothing: a sparse file */
    if (!CHECK(f != NULL)) return;
    CHECK(!fseek(f, 40 << 20, SEEK_SET) && fputc(0, f) == 0);
    fclose(f);
    torch_close(opened);
    opened = torch_open(FILE1, err, sizeof err);
    CHECK(!opened && strstr(err, "has a pickle of more than 33554432 bytes"));
}
/* ("storage", type, key, device, elements, (key, offset, elements)), as PyTorch 0.3 wrote them. */
static void viewed(int64_t offset, int64_t count) {
    static const int64_t two_of[1] = {2}, one[1] = {1};
    clear();
    fill(0, 4);
    begin();
    global("torch._utils._rebuild_tensor");
    op('(');
    op('(');
    word("storage");
    global("torch.FloatStorage");
    word("0");
    word("cpu");
    number(4);
    op('(');
    word("v");
    number(offset);
    number(count);
    op('t');
    op('t');
    op('Q');
    number(0);
    numbers(1, two_of);
    numbers(1, one);
    op('t');
    op('R');
    op('.');
    wrap();
}
static void test_legacy_views(void) {
    legacy_keys = "0";
    viewed(1, 2);
    CHECK(reopen() && reads("tensor", "2 3"));
    viewed(1, 1);
    CHECK(refuses("reaches to element 1 of its storage, which has 1"));
    viewed(3, 2);
    CHECK(refuses("has a view that does not lie within its 4 elements"));
    viewed(-1, 2);
    CHECK(refuses("has a view that does not lie within"));
    viewed(5, INT64_MAX);
    CHECK(refuses("has a view that does not lie within"));
    viewed(2, -1);
    CHECK(refuses("has a view that does not lie within"));
    legacy_keys = "01";
}

/* ---- zip containers that lie ------------------------------------------------------------------------------------ */

static void test_zip_ends(void) {
    plain(0);
    file.n--;
    CHECK(refuses("whose directory at the end is missing"));
    CHECK(torch_is(FILE1)); /* damaged, but one */
    plain(0);
    put_number(&file, 0, 1);
    CHECK(refuses("whose directory at the end is missing"));
    plain(0);
    poke(&file, end_at + 4, 1, 2);
    CHECK(refuses("is one part of several"));
    plain(0);
    poke(&file, end_at + 16, file.n, 4);
    CHECK(refuses("which runs over its end"));
    plain(0);
    poke(&file, end_at + 12, 0xFFFFFFFE, 4);
    CHECK(refuses("which runs over its end"));
    plain(0);
    poke(&file, end_at + 10, 0xFFFE, 2);
    CHECK(refuses("has a zip directory of 65534 entries"));
    plain(0);
    poke(&file, end_at + 10, 4, 2);
    CHECK(refuses("has a zip directory of 4 entries in"));
    plain(0);
    poke(&file, end_at + 10, 2, 2);
    CHECK(refuses("strange bytes in its zip directory"));
    plain(0);
    poke(&file, end_at + 10, 0xFFFF, 2);
    CHECK(refuses("whose zip64 record is missing"));
    plain(ZIP64);
    poke(&file, end_at + 64, file.n, 8);
    CHECK(refuses("belong to it"));
    plain(ZIP64);
    poke(&file, end_at + 64, ~(uint64_t)0 - 7, 8);
    CHECK(refuses("belong to it"));
    plain(ZIP64);
    poke(&file, end_at + 64, 0, 8);
    CHECK(refuses("has no zip64 record where it says"));
    plain(ZIP64);
    poke(&file, end_at + 40, ~(uint64_t)0, 8);
    CHECK(refuses("which runs over its end"));
    plain(ZIP64);
    poke(&file, end_at + 48, ~(uint64_t)0, 8);
    CHECK(refuses("which runs over its end"));
    plain(ZIP64);
    poke(&file, end_at + 32, ~(uint64_t)0, 8);
    CHECK(refuses("has a zip directory of 18446744073709551615 entries"));
    plain(0);
    poke(&file, entry_at[1], 0, 4);
    CHECK(refuses("has no zip entry 1 of 3"));
    plain(0);
    poke(&file, entry_at[2] + 28, 0xFFFF, 2);
    CHECK(refuses("a zip directory that is cut off"));
    plain(ZIP64);
    poke(&file, entry_at[1] + 46 + 8 + 5, 2, 2); /* the field of sizes is another one */
    CHECK(refuses("zip entry a/data/0 is of zip64 size"));
    plain(ZIP64);
    poke(&file, entry_at[1] + 46 + 8 + 7, 16, 2);
    CHECK(refuses("zip entry a/data/0 is of zip64 size"));
    plain(ZIP64);
    poke(&file, entry_at[1] + 46 + 8 + 2, 0xFFFF, 2);
    CHECK(refuses("zip entry a/data/0 is of zip64 size"));
}
static void test_zip_entries(void) {
    int i;
    plain(0);
    poke(&file, entry_at[1] + 42, local_at[1] + 1, 4);
    CHECK(refuses("zip entry a/data/0 is not at byte"));
    plain(0);
    poke(&file, entry_at[1] + 42, 0xFFFFFFF0, 4);
    CHECK(refuses("belong to it"));
    plain(ZIP64);
    poke(&file, entry_at[1] + 46 + 8 + 9 + 16, ~(uint64_t)0, 8);
    CHECK(refuses("belong to it"));
    plain(0);
    poke(&file, local_at[1] + 30, 'b', 1);
    CHECK(refuses("zip entry a/data/0 is not at byte"));
    plain(0);
    poke(&file, local_at[1] + 8, 8, 2);
    CHECK(refuses("zip entry a/data/0 is not at byte"));
    plain(0);
    poke(&file, local_at[1] + 6, 1, 2);
    CHECK(refuses("zip entry a/data/0 is not at byte"));
    for (i = 14; i <= 22; i += 4) {
        plain(0);
        poke(&file, local_at[1] + (size_t)i, 17, 4);
        CHECK(refuses("zip entry a/data/0 has one size or checksum in the directory and another"));
    }
    plain(0); /* both say more than there is */
    poke(&file, local_at[2] + 18, 1 << 20, 4);
    poke(&file, entry_at[2] + 20, 1 << 20, 4);
    CHECK(refuses("zip entry a/version of 1048576 bytes at byte"));
    plain(0); /* up to the directory: over the next entry */
    poke(&file, local_at[1] + 18, 60, 4);
    poke(&file, entry_at[1] + 20, 60, 4);
    CHECK(refuses("zip entry a/version overlaps another"));
    plain(0); /* one place, two names */
    zip_begin();
    zip_add("a/data.pkl", code.p, code.n, 0);
    zip_add("a/data/0", storage[0].p, storage[0].n, 0);
    zip_add("a/data/0", storage[0].p, storage[0].n, 0);
    zip_end(0);
    CHECK(refuses("zip entry a/data/0 stands in the directory twice"));
    poke(&file, entry_at[2] + 42, local_at[1], 4);
    CHECK(refuses("zip entry a/data/0 overlaps another"));
    plain(0);
    zip_begin();
    zip_add("a/data.pkl", code.p, code.n, 0);
    zip_add("b/data.pkl", code.p, code.n, 0);
    zip_end(0);
    CHECK(refuses("holds two pickles, a/data.pkl and b/data.pkl"));
    zip_begin();
    zip_add("a/mydata.pkl", code.p, code.n, 0);
    zip_end(0);
    CHECK(refuses("is a zip container without a data.pkl") && !torch_is(FILE1));
    zip_begin();
    zip_add("other", "x", 1, 0);
    zip_add("a/data.pkl", code.p, code.n, 0);
    zip_end(0);
    save(FILE1, file.p, file.n);
    CHECK(torch_is(FILE1));
}
static void test_packing(void) {
    static const struct {
        int method;
        const char *words;
    } all[] = {{9, "method 9 (Deflate64)"},
               {12, "method 12 (BZIP2)"},
               {14, "method 14 (LZMA)"},
               {93, "method 93 (Zstandard)"},
               {1, "method 1 (unknown)"}};
    size_t i;
    int e;
    for (i = 0; i < sizeof all / sizeof *all; i++) {
        plain(0);
        poke(&file, local_at[1] + 8, (uint64_t)all[i].method, 2);
        poke(&file, entry_at[1] + 10, (uint64_t)all[i].method, 2);
        CHECK(refuses(all[i].words));
    }
    for (e = 0; e < 2; e++) {
        plain(0);
        poke(&file, local_at[e] + 6, 1, 2);
        poke(&file, entry_at[e] + 8, 1, 2);
        CHECK(refuses("is encrypted"));
        plain(0);
        poke(&file, local_at[e] + 22, 17, 4);
        poke(&file, entry_at[e] + 24, 17, 4);
        CHECK(refuses("claims 17 bytes, which its"));
        plain(DEFLATED); /* a bomb */
        poke(&file, local_at[e] + 22, 1 << 30, 4);
        poke(&file, entry_at[e] + 24, 1 << 30, 4);
        CHECK(refuses("claims 1073741824 bytes, which its"));
    }
    plain(0); /* what no use is made of may be packed as it likes */
    poke(&file, local_at[2] + 8, 99, 2);
    poke(&file, entry_at[2] + 10, 99, 2);
    CHECK(reopen() && reads("w", "1 2 3 4"));
    for (e = -1; e <= 1; e += 2) { /* the pickle inflates to more, to less */
        plain(DEFLATED);
        poke(&file, local_at[0] + 22, code.n + (size_t)e, 4);
        poke(&file, entry_at[0] + 24, code.n + (size_t)e, 4);
        CHECK(
            refuses(e < 0 ? "it inflates to more bytes than it declares" : "it inflates to fewer bytes than it decl"));
    }
    plain(DEFLATED); /* the storage's stream ends before its entry does, or goes on */
    poke(&file, local_at[1] + 30 + 8 + 7 + 1, 15, 2);
    poke(&file, local_at[1] + 30 + 8 + 7 + 3, (uint64_t)~15, 2);
    CHECK(reopen() && fails("w", "inflates to fewer bytes"));
    plain(DEFLATED);
    poke(&file, local_at[1] + 30 + 8 + 7, 0, 1); /* not the last block */
    CHECK(reopen() && fails("w", "w is damaged: the data end too early"));
    plain(DEFLATED);
    poke(&file, local_at[1] + 30 + 8 + 7, 7, 1);
    CHECK(reopen() && fails("w", "a block is of no known type"));
}
static void test_checksums(void) {
    int how;
    for (how = 0; how <= DEFLATED; how++) {
        plain(how);
        poke(&file, local_at[1] - 1, 'x', 1); /* the pickle's last byte, its end */
        CHECK(refuses("its data.pkl is damaged: its checksum is"));
        plain(how | NO_CRC);
        poke(&file, local_at[2] - 1, 0x41, 1); /* the storage's */
        CHECK(reopen() && reads("w", "1 2 3 16"));
        plain(how);
        poke(&file, local_at[2] - 1, 0x41, 1);
        CHECK(reopen() && fails("w", "w is damaged: its checksum is"));
        CHECK(fails("w", "w is damaged: its checksum is"));
    }
}

/* ---- files of PyTorch, damaged ---------------------------------------------------------------------------------- */

/* torch.save of OrderedDict w = [[1,2],[3,4]], b.0 = int16 [5,6,7], by PyTorch 1.13: zip and legacy. */
static const char real_zip[] =
    "504b03040000080800000000000000000000000000000000000010001200617263686976652f646174612e706b6c46420e005a5a5a5a5a"
    "5a5a5a5a5a5a5a5a5a800263636f6c6c656374696f6e730a4f726465726564446963740a71002952710128580100000077710263746f72"
    "63682e5f7574696c730a5f72656275696c645f74656e736f725f76320a71032828580700000073746f72616765710463746f7263680a46"
    "6c6f617453746f726167650a71055801000000307106580300000063707571074b04747108514b004b024b028671094b024b0186710a89"
    "68002952710b74710c52710d5803000000622e30710e68032828680463746f7263680a53686f727453746f726167650a710f5801000000"
    "31711068074b03747111514b004b038571124b0185711389680029527114747115527116752e504b070831e84460f9000000f900000050"
    "4b0304000008080000000000000000000000000000000000000e000b00617263686976652f646174612f30464207005a5a5a5a5a5a5a00"
    "00803f000000400000404000008040504b07085414a78b1000000010000000504b03040000080800000000000000000000000000000000"
    "00000e003400617263686976652f646174612f31464230005a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
    "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a050006000700504b07080bf9258b0600000006000000504b0304000008080000000000000000"
    "000000000000000000000f003d00617263686976652f76657273696f6e464239005a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
    "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a330a504b0708d19e67550200000002000000504b"
    "010200000000080800000000000031e84460f9000000f9000000100000000000000000000000000000000000617263686976652f646174"
    "612e706b6c504b01020000000008080000000000005414a78b10000000100000000e000000000000000000000000004901000061726368"
    "6976652f646174612f30504b01020000000008080000000000000bf9258b06000000060000000e00000000000000000000000000a00100"
    "00617263686976652f646174612f31504b0102000000000808000000000000d19e675502000000020000000f0000000000000000000000"
    "000016020000617263686976652f76657273696f6e504b06062c000000000000001e032d00000000000000000004000000000000000400"
    "000000000000f3000000000000009202000000000000504b060700000000850300000000000001000000504b05060000000004000400f3"
    "000000920200000000";
static const char real_legacy[] =
    "80028a0a6cfc9c46f9206aa850192e80024de9032e80027d710028581000000070726f746f636f6c5f76657273696f6e71014de903580d"
    "0000006c6974746c655f656e6469616e710288580a000000747970655f73697a657371037d710428580500000073686f727471054b0258"
    "03000000696e7471064b0458040000006c6f6e6771074b0475752e800263636f6c6c656374696f6e730a4f726465726564446963740a71"
    "002952710128580100000077710263746f7263682e5f7574696c730a5f72656275696c645f74656e736f725f76320a7103282858070000"
    "0073746f72616765710463746f7263680a466c6f617453746f726167650a71055809000000333332353430323430710658030000006370"
    "7571074b044e747108514b004b024b028671094b024b0186710a8968002952710b74710c52710d5803000000622e30710e680328286804"
    "63746f7263680a53686f727453746f726167650a710f5809000000333934343430383634711068074b034e747111514b004b038571124b"
    "0185711389680029527114747115527116752e80025d710028580900000033333235343032343071015809000000333934343430383634"
    "7102652e04000000000000000000803f0000004000004040000080400300000000000000050006000700";

/* 0 refused, 1 read as it was, 2 read as something else. Reads everything. */
static int outcome(void) {
    static const int16_t b[3] = {5, 6, 7};
    static const float w[4] = {1, 2, 3, 4};
    int64_t i;
    int same;
    if (!reopen()) return *err ? 0 : 2;
    same = torch_count(opened) == 2 && is_shape("w", DPO_F32, 2, 2, 2) && is_shape("b.0", DPO_I16, 1, 3, 1);
    for (i = 0; i < torch_count(opened); i++) {
        const void *p = torch_read(opened, i, err, sizeof err);
        if (!p) return 0;
        if (same) same = i == find("w") ? !memcmp(p, w, sizeof w) : !memcmp(p, b, sizeof b);
    }
    return same ? 1 : 2;
}
static void damage(const char *hex, const char *what, int checked) {
    bytes whole = {NULL, 0, 0};
    int count[3] = {0, 0, 0}, cuts[3] = {0, 0, 0};
    size_t i, bit;
    put_hex(&whole, hex);
    file.n = 0;
    put(&file, whole.p, whole.n);
    CHECK(outcome() == 1 && torch_is(FILE1));
    for (i = 0; i < whole.n; i++) {
        file.n = i;
        cuts[outcome()]++;
        torch_is(FILE1);
    }
    file.n = whole.n;
    for (bit = 0; bit < 8 * whole.n; bit++) {
        file.p[bit / 8] ^= (unsigned char)(1u << bit % 8);
        count[outcome()]++;
        torch_is(FILE1);
        file.p[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    printf("%s, %d bytes: all cuts refused but %d; of %d turned bits %d refused, %d without effect, %d not noticed\n",
           what, (int)whole.n, cuts[1] + cuts[2], 8 * (int)whole.n, count[0], count[1], count[2]);
    CHECK(cuts[1] + cuts[2] == 0);
    CHECK(count[0] > 0 && count[1] > 0);
    CHECK(!checked == (count[2] > 0)); /* a zip container has checksums, a legacy file has none */
    free(whole.p);
}
static void test_damage_zip(void) { damage(real_zip, "zip", 1); }
static void test_damage_legacy(void) { damage(real_legacy, "legacy", 0); }

/* ---- which files ------------------------------------------------------------------------------------------------ */

static void test_is(void) {
    static const char *const others[6] = {"",           "PK\3\4",       "\x80\2}.",
                                          "{\"a\": 1}", "\x1f\x8b\x08", "PK\3\4 much more of it"};
    int i;
    for (i = 0; i < 6; i++) {
        save(FILE1, others[i], strlen(others[i]));
        CHECK(!torch_is(FILE1));
        CHECK(!torch_open(FILE1, err, sizeof err) &&
              strstr(err, i == 1 || i == 5 ? "directory at the end is missing" : "is no PyTorch checkpoint"));
    }
    CHECK(!torch_is(FOLDER "/none") && !torch_is(FOLDER) && !torch_is(NULL));
    CHECK(!torch_open(FOLDER "/none", err, sizeof err) && strstr(err, "cannot be opened: No such file"));
    CHECK(!torch_open(FOLDER, err, sizeof err) && strstr(err, FOLDER ": "));
    CHECK(!torch_open(NULL, err, sizeof err) && strstr(err, "no path"));
    CHECK(!torch_open(FOLDER "/none", NULL, 0));
}

/* ---- real files ------------------------------------------------------------------------------------------------- */

static torch_file *real(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        skipped++;
        return NULL;
    }
    fclose(f);
    torch_close(opened);
    CHECK(torch_is(path));
    opened = torch_open(path, err, sizeof err);
    if (!CHECK(opened != NULL)) printf("%s\n", err);
    return opened;
}
static void test_real(void) {
    int64_t i;
    if (real(SHARED "v12_neox_bin_bf16/pytorch_model.bin"))
        CHECK(torch_count(opened) == 28 && is_shape("gpt_neox.embed_in.weight", DPO_BF16, 2, 128, 64));
    if (real(SHARED "v13_gpt2_bin_legacy/pytorch_model.bin")) {
        CHECK(torch_count(opened) == 28 && is_shape("wte.weight", DPO_F32, 2, 120, 48));
        for (i = 0; i < torch_count(opened); i++) CHECK(torch_read(opened, i, err, sizeof err) != NULL);
    }
}
/* The same weights twice in one directory. */
static void test_real_equals(void) {
    dpo_context *c = dpo_open(NULL);
    dpo_tensor *t = NULL;
    int64_t i, n = 0;
    if (real(SHARED "v15_btlm_bin_and_safetensors/pytorch_model.bin")) {
        CHECK_OK(c, dpo_tensors_load(c, SHARED "v15_btlm_bin_and_safetensors/model.safetensors", &t, &n));
        CHECK(n > 0 && n == torch_count(opened));
        for (i = 0; i < n; i++) {
            size_t size = 4;
            int k;
            for (k = 0; k < t[i].ndim; k++) size *= (size_t)t[i].shape[k];
            if (!CHECK_CASE(find(t[i].name) >= 0, t[i].name)) continue;
            CHECK(torch_tensor(opened, find(t[i].name))->dtype == t[i].dtype && t[i].dtype == DPO_F32);
            CHECK(!memcmp(torch_tensor(opened, find(t[i].name))->shape, t[i].shape, sizeof t[i].shape));
            CHECK_SAME(torch_read(opened, find(t[i].name), err, sizeof err), t[i].data, size);
        }
    }
    dpo_close(c);
}

#define T(name)                                                                                                        \
    { #name, test_##name }
static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    T(containers), T(byteorder),  T(dtypes),     T(untyped),       T(views),        T(claims),       T(reading),
    T(names),      T(name_forms), T(twice),      T(depth),         T(strangers),    T(instructions), T(broken_pickles),
    T(ordered),    T(storages),   T(legacy),     T(long_pickle),   T(legacy_views), T(zip_ends),     T(zip_entries),
    T(packing),    T(checksums),  T(damage_zip), T(damage_legacy), T(is),           T(real),         T(real_equals)};

int main(int argc, char **argv) {
    const char *only = argc > 1 ? argv[1] : "";
    int passed = 0, failed = 0, n = (int)(sizeof tests / sizeof *tests), i;
    bytes *all[3] = {&file, &code, &directory};
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    gzip_crc_tables(crc_table);
    for (i = 0; i < n; i++) {
        if (!strstr(tests[i].name, only)) continue;
        check_failures = check_lines = 0;
        tests[i].run();
        scratch_free();
        printf("%s %s\n", check_failures ? "FAIL" : "ok  ", tests[i].name);
        if (check_failures) failed++;
        else passed++;
    }
    torch_close(opened);
    for (i = 0; i < 3; i++) free(all[i]->p);
    for (i = 0; i < 4; i++) free(storage[i].p);
    remove(FILE1);
    if (skipped) printf("skipped: %d files of " SHARED " are not beside the checkout\n", skipped);
    if (!*only && n < FLOOR) printf("%d tests, there must be %d\n", n, FLOOR), failed++;
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
