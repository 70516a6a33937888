/* test_tensorboard.c - the tests of tools/formats/tensorboard.h, by a reader of its own: records, both checksums of each,
   and the protocol buffers in them, all written from the formats' descriptions and sharing nothing with the writer.

   usage: tensorboard     Last line: N passed, N failed. Exit status 1 on any failure. */
#include "../tools/cli.h"
#include "../dpo.h"
#include "../tools/formats/tensorboard.h"
#include "check.h"
#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>

#define FOLDER "build/tests/tensorboard.out"

/* ---- a reader --------------------------------------------------------------------------------------------------- */

/* CRC-32C by the book: the message's bits, each byte's lowest first, divided by x^32 + x^28 + x^27 + x^26 + x^25 + x^23 +
   x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 + x^9 + x^8 + x^6 + 1, highest coefficient on the left. */
static uint32_t crc_by_the_book(const unsigned char *p, size_t n) {
    uint32_t rest = 0xFFFFFFFFu, turned = 0;
    size_t i;
    int b;
    for (i = 0; i < 8 * n; i++) {
        uint32_t bit = (uint32_t)(p[i / 8] >> i % 8) & 1u, top = rest >> 31;
        rest = rest << 1;
        if (top ^ bit) rest ^= 0x1EDC6F41u;
    }
    for (b = 0; b < 32; b++) turned |= (rest >> b & 1u) << (31 - b);
    return ~turned;
}

static uint64_t little(const unsigned char *p, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

/* Undoes the mask that TensorFlow's record writer documents. */
static uint32_t unmasked(uint32_t v) {
    uint32_t rot = v - 0xA282EAD8u;
    return rot >> 17 | rot << 15;
}

typedef struct field {
    int number, wire;
    uint64_t value; /* varint and fixed */
    const unsigned char *bytes;
    size_t n;
} field;

static int read_varint(const unsigned char **p, const unsigned char *end, uint64_t *v) {
    int shift;
    *v = 0;
    for (shift = 0; shift < 70; shift += 7) {
        if (*p == end) return 0;
        *v |= (uint64_t)(**p & 127u) << (shift < 64 ? shift : 63);
        if (!(*(*p)++ & 128u)) return 1;
    }
    return 0;
}

/* The next field of a message; 0 at its end, -1 if it is broken. */
static int read_field(const unsigned char **p, const unsigned char *end, field *f) {
    uint64_t key, n;
    memset(f, 0, sizeof *f);
    if (*p == end) return 0;
    if (!read_varint(p, end, &key)) return -1;
    f->number = (int)(key >> 3);
    f->wire = (int)(key & 7);
    if (f->wire == 0) return read_varint(p, end, &f->value) ? 1 : -1;
    if (f->wire == 1 || f->wire == 5) {
        int size = f->wire == 1 ? 8 : 4;
        if (end - *p < size) return -1;
        f->value = little(*p, size);
        *p += size;
        return 1;
    }
    if (f->wire != 2 || !read_varint(p, end, &n) || n > (uint64_t)(end - *p)) return -1;
    f->bytes = *p;
    f->n = (size_t)n;
    *p += n;
    return 1;
}

typedef struct event {
    double wall_time;
    int64_t step;
    char version[32], tag[1024];
    float value;
    int has_value;
} event;

static int read_value(const unsigned char *p, size_t n, event *e) {
    const unsigned char *end = p + n;
    field f;
    int more;
    while ((more = read_field(&p, end, &f)) > 0) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.wire == 2 && f.n < sizeof e->tag) memcpy(e->tag, f.bytes, f.n);
        else if (f.number == 2 && f.wire == 5) {
            memcpy(&e->value, &bits, sizeof bits);
            e->has_value = 1;
        } else return -1;
    }
    return more;
}

static int read_event(const unsigned char *p, size_t n, event *e) {
    const unsigned char *end = p + n;
    field f, v;
    int more;
    memset(e, 0, sizeof *e);
    while ((more = read_field(&p, end, &f)) > 0) {
        if (f.number == 1 && f.wire == 1) memcpy(&e->wall_time, &f.value, 8);
        else if (f.number == 2 && f.wire == 0) memcpy(&e->step, &f.value, 8);
        else if (f.number == 3 && f.wire == 2 && f.n < sizeof e->version) memcpy(e->version, f.bytes, f.n);
        else if (f.number == 5 && f.wire == 2) {
            const unsigned char *q = f.bytes, *q_end = q + f.n;
            while ((more = read_field(&q, q_end, &v)) > 0)
                if (v.number != 1 || v.wire != 2 || read_value(v.bytes, v.n, e)) return -1;
            if (more) return more;
        } else return -1;
    }
    return more;
}

/* The records of a file as events; how many, -1 if a byte of it is wrong. */
static int read_events(const unsigned char *p, size_t n, event *e, int cap) {
    int count = 0;
    while (n) {
        uint64_t length;
        if (n < 16) return -1;
        length = little(p, 8);
        if (length > n - 16) return -1;
        if (unmasked((uint32_t)little(p + 8, 4)) != crc_by_the_book(p, 8)) return -1;
        if (unmasked((uint32_t)little(p + 12 + length, 4)) != crc_by_the_book(p + 12, (size_t)length)) return -1;
        if (count == cap || read_event(p + 12, (size_t)length, &e[count])) return -1;
        count++;
        p += 16 + length;
        n -= 16 + (size_t)length;
    }
    return count;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Empties the folder, or counts its files and keeps the last one's name. */
static int folder(int empty, char *name, size_t cap) {
    DIR *d = opendir(FOLDER);
    struct dirent *e;
    int n = 0;
    while (d && (e = readdir(d)) != NULL) {
        char path[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", FOLDER, e->d_name);
        if (empty) remove(path);
        else snprintf(name, cap, "%s", path);
        n++;
    }
    if (d) closedir(d);
    return n;
}

static unsigned char *slurp(const char *path, size_t *n) {
    unsigned char *bytes = SCRATCH(unsigned char, 1 << 20);
    FILE *f = fopen(path, "rb");
    *n = 0;
    if (!CHECK(f != NULL)) return bytes;
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* ---- the tests -------------------------------------------------------------------------------------------------- */

static void test_checksums(void) {
    static const struct {
        const char *text;
        size_t n;
        uint32_t crc;
    } known[] = {{"", 0, 0}, {"a", 1, 0xC1D04330u}, {"123456789", 9, 0xE3069283u}};
    unsigned char b[48];
    size_t i;
    for (i = 0; i < sizeof known / sizeof known[0]; i++) {
        CHECK_CASE(tensorboard_crc32c(known[i].text, known[i].n) == known[i].crc, known[i].text);
        CHECK_CASE(crc_by_the_book((const unsigned char *)known[i].text, known[i].n) == known[i].crc, known[i].text);
    }
    memset(b, 0, 32); /* RFC 3720, B.4 */
    CHECK(tensorboard_crc32c(b, 32) == 0x8A9136AAu);
    memset(b, 255, 32);
    CHECK(tensorboard_crc32c(b, 32) == 0x62A8AB43u);
    for (i = 0; i < 32; i++) b[i] = (unsigned char)i;
    CHECK(tensorboard_crc32c(b, 32) == 0x46DD794Eu);
    for (i = 0; i < 32; i++) b[i] = (unsigned char)(31 - i);
    CHECK(tensorboard_crc32c(b, 32) == 0x113FDB5Cu);
    for (i = 0; i < 200; i++) {
        unsigned char r[32];
        size_t k;
        for (k = 0; k < sizeof r; k++) r[k] = (unsigned char)rng();
        CHECK(tensorboard_crc32c(r, i % 33) == crc_by_the_book(r, i % 33));
        CHECK(unmasked(tensorboard_masked((uint32_t)little(r, 4))) == (uint32_t)little(r, 4));
    }
}

static void test_file(void) {
    /* the first twelve bytes of every event file: length 24 and its masked checksum */
    static const unsigned char head[12] = {24, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22};
    static const double values[] = {0.6931471805599453, 0, -1.5, 1e-45, 3e38, 1e300, -1e300, NAN, INFINITY};
    static const int64_t steps[] = {0, 1, 127, 128, 16384, INT64_MAX, 5, 6, 7};
    enum { N = sizeof values / sizeof values[0] };
    event e[N + 8];
    char err[256] = "", name[1024];
    unsigned char *bytes;
    size_t n;
    int i;
    tensorboard *t;
    folder(1, name, sizeof name);
    t = tensorboard_open(FOLDER, err, sizeof err);
    if (!CHECK(t != NULL)) return;
    for (i = 0; i < N; i++)
        tensorboard_scalar(t, i & 1 ? "train/rewards/accuracies" : "train/loss", steps[i], 1e9 + i, values[i]);
    tensorboard_metric(t, "loss", 8, 2e9, 0.5);
    tensorboard_metric(t, "eval_rewards/accuracies", 8, 2e9, 0.75);
    CHECK(folder(0, name, sizeof name) == 1); /* everything is there before the file is closed */
    bytes = slurp(name, &n);
    CHECK(read_events(bytes, n, e, N + 8) == N + 3);
    CHECK(tensorboard_close(t) == 0);
    CHECK(strstr(name, "/events.out.tfevents.") != NULL);
    CHECK(n > 12 && !memcmp(bytes, head, sizeof head));
    CHECK(!strcmp(e[0].version, "brain.Event:2") && !e[0].has_value && e[0].wall_time > 1.6e9);
    for (i = 0; i < N; i++) {
        const event *v = &e[i + 1];
        CHECK(v->step == steps[i] && v->wall_time == 1e9 + i && v->has_value && !v->version[0]);
        CHECK(!strcmp(v->tag, i & 1 ? "train/rewards/accuracies" : "train/loss"));
        if (values[i] > 3.5e38) CHECK(v->value > 3.4e38f);
        else if (values[i] < -3.5e38) CHECK(v->value < -3.4e38f);
        else if (values[i] == values[i]) CHECK(v->value == (float)values[i]);
        else CHECK(v->value != v->value);
    }
    CHECK(!strcmp(e[N + 1].tag, "train/loss") && e[N + 1].value == 0.5f && e[N + 1].step == 8);
    CHECK(!strcmp(e[N + 2].tag, "eval/rewards/accuracies") && e[N + 2].value == 0.75f);
}

/* The reader above is no rubber stamp: each flipped bit of a file is found. */
static void test_flips(void) {
    event e[8];
    char err[256] = "", name[1024];
    unsigned char *bytes;
    size_t n, i, missed = 0;
    tensorboard *t;
    folder(1, name, sizeof name);
    t = tensorboard_open(FOLDER, err, sizeof err);
    if (!CHECK(t != NULL)) return;
    tensorboard_scalar(t, "train/loss", 3, 1e9, 0.25);
    CHECK(tensorboard_close(t) == 0);
    CHECK(folder(0, name, sizeof name) == 1);
    bytes = slurp(name, &n);
    CHECK(read_events(bytes, n, e, 8) == 2);
    for (i = 0; i < 8 * n; i++) {
        bytes[i / 8] = (unsigned char)(bytes[i / 8] ^ 1u << i % 8);
        missed += read_events(bytes, n, e, 8) == 2;
        bytes[i / 8] = (unsigned char)(bytes[i / 8] ^ 1u << i % 8);
    }
    CHECK(missed == 0);
    for (i = 0; i < n; i++) missed += read_events(bytes, i, e, 8) == 2;
    CHECK(missed == 0);
}

static void test_tags(void) {
    char err[256] = "", name[1024], tag[1001];
    event e[8];
    unsigned char *bytes;
    size_t n;
    tensorboard *t;
    memset(tag, 'x', sizeof tag - 1);
    tag[sizeof tag - 1] = 0;
    folder(1, name, sizeof name);
    t = tensorboard_open(FOLDER, err, sizeof err);
    if (!CHECK(t != NULL)) return;
    tensorboard_scalar(t, tag, 0, 0, 1);
    tensorboard_metric(t, tag, -1, 0, 1);
    tensorboard_scalar(t, "", 0, 0, 1);
    CHECK(tensorboard_close(t) == 0);
    CHECK(folder(0, name, sizeof name) == 1);
    bytes = slurp(name, &n);
    CHECK(read_events(bytes, n, e, 8) == 4);
    CHECK(strlen(e[1].tag) == TENSORBOARD_TAG && strlen(e[2].tag) == 246 && !e[3].tag[0]);
    CHECK(!strncmp(e[2].tag, "train/xxx", 9) && e[2].step == -1);
}

static void test_refusals(void) {
    char err[512] = "", name[1024], longer[5000];
    tensorboard *a, *b;
    CHECK(tensorboard_open(FOLDER "/nowhere", err, sizeof err) == NULL && strstr(err, "nowhere") &&
          strstr(err, "cannot write"));
    memset(longer, 'd', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    CHECK(tensorboard_open(longer, err, sizeof err) == NULL && strstr(err, "too long"));
    CHECK(tensorboard_close(NULL) == 0);
    folder(1, name, sizeof name);
    a = tensorboard_open(FOLDER, err, sizeof err); /* two runs that begin in the same second have two files */
    b = tensorboard_open(FOLDER, err, sizeof err);
    CHECK(a != NULL && b != NULL && folder(0, name, sizeof name) == 2);
    CHECK(tensorboard_close(a) == 0 && tensorboard_close(b) == 0);
    if (access("/dev/full", W_OK)) return;
    a = tensorboard_open(FOLDER, err, sizeof err);
    if (CHECK(a != NULL && freopen("/dev/full", "wb", a->file))) {
        tensorboard_scalar(a, "train/loss", 1, 0, 1);
        CHECK(tensorboard_close(a) == ENOSPC);
    }
}

int main(void) {
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {{"checksums", test_checksums},
                 {"a file", test_file},
                 {"flipped bits", test_flips},
                 {"tags", test_tags},
                 {"refusals", test_refusals}};
    int i, failed = 0, n = (int)(sizeof tests / sizeof tests[0]);
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    for (i = 0; i < n; i++) {
        check_failures = check_lines = 0;
        tests[i].run();
        scratch_free();
        failed += check_failures > 0;
        printf("%s %s\n", check_failures ? "FAIL" : "ok  ", tests[i].name);
    }
    printf("%d passed, %d failed\n", n - failed, failed);
    return failed > 0;
}
