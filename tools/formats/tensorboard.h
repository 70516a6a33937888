/* tensorboard.h: writes scalars as a file of TensorBoard's events, which `tensorboard --logdir DIR` shows.
 *
 *     tensorboard *t = tensorboard_open("runs/a", err, sizeof err);
 *     if (!t) return cli_die("%s", err);
 *     tensorboard_scalar(t, "train/loss", step, (double)time(NULL), 0.69);
 *     if (tensorboard_close(t)) return cli_die("a line was lost");
 *
 * The file is a row of records, each of them [TFRecord]
 *
 *     8 bytes   length n of the data, little-endian        4 bytes   masked CRC32C of these 8
 *     n bytes   the data                                   4 bytes   masked CRC32C of them
 *
 * and the data of each a protocol buffer of type Event (fields of tensorflow/core/util/event.proto and summary.proto):
 *
 *     Event     1: double wall_time   2: int64 step   3: string file_version   5: Summary summary
 *     Summary   1: Value value
 *     Value     1: string tag   2: float simple_value
 *
 * The first record says file_version "brain.Event:2". Tags are those of Hugging Face's TensorBoardCallback, under which
 * TRL's runs are found: a metric `eval_NAME` is eval/NAME, any other NAME is train/NAME. Each record is there for
 * readers at once, and a file that was cut by a crash is good up to its last whole record. Include cli.h first. */
#ifndef TOOLS_TENSORBOARD_H
#define TOOLS_TENSORBOARD_H

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TENSORBOARD_TAG = 256 }; /* bytes of a tag; what is longer is cut */

typedef struct tensorboard {
    FILE *file;
    int lost; /* errno of the first record that could not be written */
} tensorboard;

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

/* CRC-32C (Castagnoli), a bit at a time: records are short and few. */
static inline uint32_t tensorboard_crc32c(const void *bytes, size_t n) {
    const unsigned char *p = (const unsigned char *)bytes;
    uint32_t c = 0xFFFFFFFFu;
    size_t i;
    int bit;
    for (i = 0; i < n; i++) {
        c ^= p[i];
        for (bit = 0; bit < 8; bit++) c = c >> 1 ^ (0x82F63B78u & (0u - (c & 1u)));
    }
    return ~c;
}

/* Turned and moved, so that a checksum of data that hold checksums stays a good one. */
static inline uint32_t tensorboard_masked(uint32_t crc) { return (crc >> 15 | crc << 17) + 0xA282EAD8u; }

static inline size_t tensorboard_put(unsigned char *to, uint64_t v, int bytes) { /* little-endian */
    int i;
    for (i = 0; i < bytes; i++) to[i] = (unsigned char)(v >> 8 * i);
    return (size_t)bytes;
}

static inline size_t tensorboard_varint(unsigned char *to, uint64_t v) { /* seven bits a byte, the lowest first */
    size_t n = 0;
    for (; v >= 128; v >>= 7) to[n++] = (unsigned char)(v | 128);
    to[n++] = (unsigned char)v;
    return n;
}

static inline size_t tensorboard_bytes(unsigned char *to, int field, const void *bytes, size_t n) {
    size_t at = tensorboard_varint(to, (uint64_t)field << 3 | 2);
    at += tensorboard_varint(to + at, n);
    memcpy(to + at, bytes, n);
    return at + n;
}

static inline void tensorboard_record(tensorboard *t, const unsigned char *data, size_t n) {
    unsigned char head[12], tail[4];
    tensorboard_put(head, n, 8);
    tensorboard_put(head + 8, tensorboard_masked(tensorboard_crc32c(head, 8)), 4);
    tensorboard_put(tail, tensorboard_masked(tensorboard_crc32c(data, n)), 4);
    errno = 0;
    if (fwrite(head, 1, 12, t->file) != 12 || fwrite(data, 1, n, t->file) != n || fwrite(tail, 1, 4, t->file) != 4 ||
        fflush(t->file)) {
        if (!t->lost) t->lost = errno ? errno : EIO;
    }
}

/* wall_time, which every event begins with. */
static inline size_t tensorboard_event(unsigned char *to, double wall_time) {
    uint64_t bits;
    size_t at = tensorboard_varint(to, 1 << 3 | 1);
    memcpy(&bits, &wall_time, sizeof bits);
    return at + tensorboard_put(to + at, bits, 8);
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

/* Begins a file of its own in the directory, which is there: events.out.tfevents.SECONDS.HOST.PROCESS.N. A run that goes on
 * begins another one; TensorBoard reads them in the order of their names. NULL: err holds a sentence. */
static inline tensorboard *tensorboard_open(const char *dir, char *err, size_t cap) {
    static const char version[] = "brain.Event:2";
    tensorboard *t = (tensorboard *)calloc(1, sizeof *t);
    unsigned char event[64];
    char host[64] = "", path[4096];
    long long now = (long long)time(NULL);
    size_t n, i;
    int k;
    if (!t) {
        snprintf(err, cap, "no memory for TensorBoard's events in %s", dir);
        return NULL;
    }
    if (gethostname(host, sizeof host - 1) || !host[0]) snprintf(host, sizeof host, "localhost");
    for (i = 0; host[i]; i++)
        if (host[i] == '/') host[i] = '-';
    for (k = 0; k < 100 && !t->file; k++) { /* never over the events of another run that began in this second */
        int length =
            snprintf(path, sizeof path, "%s/events.out.tfevents.%010lld.%s.%ld.%d", dir, now, host, (long)getpid(), k);
        if (length < 0 || (size_t)length >= sizeof path) {
            snprintf(err, cap, "the path %.200s... is too long for TensorBoard's events", dir);
            free(t);
            return NULL;
        }
        errno = 0;
        t->file = fopen(path, "wbx");
        if (!t->file && errno != EEXIST) break;
    }
    if (!t->file) {
        snprintf(err, cap, "cannot write %.200s: %s", path, strerror(errno));
        free(t);
        return NULL;
    }
    n = tensorboard_event(event, (double)now);
    n += tensorboard_bytes(event + n, 3, version, sizeof version - 1);
    tensorboard_record(t, event, n);
    return t;
}

/* One value; wall_time in seconds since 1970. A NaN is written as one, and TensorBoard shows it as such. */
static inline void tensorboard_scalar(tensorboard *t, const char *tag, int64_t step, double wall_time, double value) {
    unsigned char v[TENSORBOARD_TAG + 32], summary[TENSORBOARD_TAG + 48], event[TENSORBOARD_TAG + 96];
    float single = value > FLT_MAX ? INFINITY : value < -FLT_MAX ? -INFINITY : (float)value;
    uint32_t bits;
    size_t n = strlen(tag), at;
    if (n > TENSORBOARD_TAG) n = TENSORBOARD_TAG;
    at = tensorboard_bytes(v, 1, tag, n);
    at += tensorboard_varint(v + at, 2 << 3 | 5);
    memcpy(&bits, &single, sizeof bits);
    at += tensorboard_put(v + at, bits, 4);
    n = tensorboard_bytes(summary, 1, v, at);
    at = tensorboard_event(event, wall_time);
    at += tensorboard_varint(event + at, 2 << 3 | 0);
    at += tensorboard_varint(event + at, (uint64_t)step);
    at += tensorboard_bytes(event + at, 5, summary, n);
    tensorboard_record(t, event, at);
}

/* A run goes on after this step: TensorBoard drops what earlier files say about later ones. (A SessionLog, its status
 * START.) */
static inline void tensorboard_restart(tensorboard *t, int64_t step, double wall_time) {
    static const unsigned char start[] = {1 << 3, 1};
    unsigned char event[64];
    size_t at = tensorboard_event(event, wall_time);
    at += tensorboard_varint(event + at, 2 << 3 | 0);
    at += tensorboard_varint(event + at, (uint64_t)step + 1);
    at += tensorboard_bytes(event + at, 7, start, sizeof start);
    tensorboard_record(t, event, at);
}

/* One metric under the name that dpo_metrics_json gives it: "loss" is train/loss, "eval_loss" eval/loss. */
static inline void tensorboard_metric(tensorboard *t, const char *name, int64_t step, double wall_time, double value) {
    char tag[TENSORBOARD_TAG + 1];
    int eval = !strncmp(name, "eval_", 5);
    snprintf(tag, sizeof tag, "%s%.240s", eval ? "eval/" : "train/", name + (eval ? 5 : 0));
    tensorboard_scalar(t, tag, step, wall_time, value);
}

/* 0, or the errno of the first record that is not in the file. */
static inline int tensorboard_close(tensorboard *t) {
    int lost;
    if (!t) return 0;
    lost = t->lost;
    errno = 0;
    if (fclose(t->file) && !lost) lost = errno ? errno : EIO;
    free(t);
    return lost;
}

#endif /* TOOLS_TENSORBOARD_H */
