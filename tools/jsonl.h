/* jsonl.h: files of JSON lines for programs that are cut short and go on: a file that grows line by line, a file that is
 * there whole or not at all, strings that live as long as what was read, and lines of no use, which are counted.
 *
 *     lines l;
 *     if (lines_open(&l, context, path)) return 1;
 *     while ((more = lines_next(&l)) > 0)                       an object in l.r: row_text(&l.r, "id", &n)
 *         if (bad) lines_bad(&l, "no id");
 *     lines_tell(&l);                                           "4 lines not used: no id (first: line 7)"
 *     lines_close(&l);
 *
 * Errors have been said by cli_die where a function gives 1 (or -1). Include cli.h first. */
#ifndef TOOLS_JSONL_H
#define TOOLS_JSONL_H

#include "dataset.h"
#include "files.h"
#include <sys/file.h>

static inline int no_memory(void) { return cli_die("out of memory"); }

static inline int flush_output(void) {
    if (!fflush(stdout) && !ferror(stdout)) return 0;
    return cli_die("the output cannot be written: %s", strerror(errno));
}

/* ---- memory and hashes ------------------------------------------------------------------------------------------ */

/* Strings that live as long as what was read: blocks in a list. */
typedef struct pool {
    struct pool *next;
    size_t used, room;
    char *text; /* behind the block's head */
} pool;

static inline void pool_free(pool *p) {
    while (p) {
        pool *next = p->next;
        free(p);
        p = next;
    }
}

/* A copy with a zero behind it. A zero inside would end it early, so it becomes a byte that no text has a use for. */
static inline const char *pool_keep(pool **list, const char *text, size_t n) {
    pool *p = *list;
    char *copy;
    size_t i;
    if (!p || p->room - p->used < n + 1) {
        size_t room = n + 1 > 65536 ? n + 1 : 65536;
        p = (pool *)malloc(sizeof *p + room);
        if (!p) return NULL;
        p->text = (char *)(p + 1);
        p->used = 0;
        p->room = room;
        p->next = *list;
        *list = p;
    }
    copy = p->text + p->used;
    for (i = 0; i < n; i++) copy[i] = text[i] ? text[i] : '\1';
    copy[n] = 0;
    p->used += n + 1;
    return copy;
}

/* Room for one more element. */
static inline int grow(void **array, int64_t n, int64_t *room, size_t size) {
    void *p;
    int64_t want = *room ? 2 * *room : 256;
    if (n < *room) return 0;
    p = realloc(*array, (size_t)want * size);
    if (!p) return no_memory();
    *array = p;
    *room = want;
    return 0;
}

static const uint64_t hash_begin = 1469598103934665603u;

/* With the zero at its end, so that "ab", "c" is not "a", "bc". */
static inline uint64_t hash_text(uint64_t h, const char *text) { return dataset_fnv(h, text, strlen(text) + 1); }

/* FNV's high bits alone are poor. */
static inline uint64_t hash_mix(uint64_t h) {
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
    return h ^ (h >> 31);
}

enum { RUN_DIGITS = 8 };

static inline void run_name(char out[RUN_DIGITS + 1], uint64_t h) {
    snprintf(out, RUN_DIGITS + 1, "%08lx", (unsigned long)(hash_mix(h) & 0xFFFFFFFFu));
}

/* Characters of a text without the blanks at its ends. */
static inline int64_t text_chars(const char *text) {
    size_t n = strlen(text), i;
    int64_t count = 0;
    text = chat_trim(text, &n);
    for (i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xC0u) != 0x80u;
    return count;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* The whole of a file, plain or .gz, the mark of UTF-8 taken off. */
typedef struct in_file {
    char *memory;
    const char *text;
    size_t size;
} in_file;

static inline int in_read(in_file *in, const char *path) {
    uint64_t limit = (uint64_t)1 << 34;
    char err[512];
    const char *encoding;
    memset(in, 0, sizeof *in);
    if (gzip_read_file(path, limit < (size_t)-1 ? (size_t)limit : (size_t)-1, &in->memory, &in->size, err, sizeof err))
        return cli_die("%s", err);
    in->text = in->memory;
    if (in->size >= 3 && !memcmp(in->text, "\xEF\xBB\xBF", 3)) {
        in->text += 3;
        in->size -= 3;
    }
    encoding = dataset_encoding(in->text, in->size);
    if (!encoding) return 0;
    free(in->memory);
    in->memory = NULL;
    return cli_die("%s is %s, expected UTF-8; convert it: iconv -f %s -t UTF-8 %s > NEW", path, encoding, encoding,
                   path);
}

/* A file that grows line by line and may be there already, from a run that was cut short. */
typedef struct log_file {
    FILE *f;
    const char *path;
    in_file old; /* what it held, without a broken last line */
} log_file;

/* Cuts what follows the last newline: the program ended in the middle of that line. */
static inline int log_cut(log_file *l) {
    size_t n = l->old.size, cut;
    while (n && l->old.text[n - 1] != '\n') n--;
    cut = l->old.size - n;
    if (!cut) return 0;
    if (truncate(l->path, (off_t)(n + (size_t)(l->old.text - l->old.memory))))
        return cli_die("cannot cut the broken last line of %s: %s", l->path, strerror(errno));
    l->old.size = n;
    cli_note("%s: its last line was broken, %s bytes were cut off", l->path, cli_count(cut));
    return 0;
}

static inline int log_open(log_file *l, const char *path) {
    struct stat st;
    memset(l, 0, sizeof *l);
    l->path = path;
    errno = 0;
    l->f = fopen(path, "ab");
    if (!l->f) return cli_die("cannot write %s: %s", path, errno ? strerror(errno) : "no reason given");
    fcntl(fileno(l->f), F_SETFD, FD_CLOEXEC);
    if (flock(fileno(l->f), LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return cli_die("another program writes %s just now; wait for it, or give another --output", path);
    if (fstat(fileno(l->f), &st) || !S_ISREG(st.st_mode)) return 0;
    if (!st.st_size) return 0;
    if (in_read(&l->old, path)) return 1;
    if ((uint64_t)st.st_size != l->old.size + (size_t)(l->old.text - l->old.memory))
        return cli_die("%s is compressed, and lines are to be added to it; unpack it, or give another --output", path);
    return log_cut(l);
}

/* What was written so far is there whatever happens next. */
static inline int log_sync(log_file *l) {
    errno = 0;
    if (fflush(l->f) || ferror(l->f) || (fsync(fileno(l->f)) && errno != EINVAL))
        return cli_die("cannot write %s: %s", l->path, errno ? strerror(errno) : "no reason given");
    return 0;
}

static inline int log_close(log_file *l) {
    int bad = l->f && fclose(l->f);
    free(l->old.memory);
    l->old.memory = NULL;
    l->f = NULL;
    return bad ? cli_die("cannot write %s: %s", l->path, strerror(errno)) : 0;
}

static inline void put_text(FILE *f, const char *name, const char *text) {
    fprintf(f, ", \"%s\": ", name);
    cli_json_string(f, text, strlen(text));
}
static inline void put_count(FILE *f, const char *name, int64_t v) { fprintf(f, ", \"%s\": %lld", name, (long long)v); }
static inline void put_number(FILE *f, const char *name, double v) {
    fprintf(f, ", \"%s\": ", name);
    cli_json_number(f, v);
}

/* A whole number from 0 on in the row's field; -1: there is none. */
static inline int64_t row_count(const row_data *r, const char *name) {
    double v = -1;
    if (!dpo_json_number(r->json, row_field(r, name), &v) || !(v >= 0 && v < 9e15) || v != (double)(int64_t)v)
        return -1;
    return (int64_t)v;
}

/* Sixteen hexadecimal digits; 0 on success. */
static inline int row_hash(row_data *r, const char *name, uint64_t *h) {
    size_t n;
    const char *text = row_text(r, name, &n);
    char *end = NULL;
    if (!text) return 1;
    *h = strtoull(text, &end, 16);
    return n != 16 || *end ? row_bad(r, "%s is not 16 hexadecimal digits", name) : 0;
}

/* A short word of the row, copied; 0 on success. */
static inline int row_word(row_data *r, const char *name, char *out, size_t cap) {
    size_t n;
    const char *text = row_text(r, name, &n);
    if (!text) return 1;
    if (n >= cap || strlen(text) != n) return row_bad(r, "%s is longer than %d bytes", name, (int)cap - 1);
    memcpy(out, text, n + 1);
    return 0;
}

/* The run that a line belongs to; 0 on success. */
static inline int row_run(row_data *r, char run[RUN_DIGITS + 1]) {
    if (row_word(r, "run", run, RUN_DIGITS + 1)) return 1;
    return strspn(run, "0123456789abcdef") == RUN_DIGITS ? 0
                                                         : row_bad(r, "run is not %d hexadecimal digits", RUN_DIGITS);
}

/* ---- lines of JSON ---------------------------------------------------------------------------------------------- */

/* Goes through a file's objects; lines of no use are counted by reason and told of at the end. */
typedef struct lines {
    in_file in;
    row_source s;
    row_data r;
    dataset_file f; /* its counts */
} lines;

static inline int lines_start(lines *l, dpo_context *c, const char *path, const char *text, size_t size) {
    memset(l, 0, sizeof *l);
    l->f.path = path;
    l->r.json = dpo_json_create(c);
    if (!l->r.json) return cli_die("%s", dpo_error(c));
    l->s = row_source_start(text, size);
    l->f.array = l->s.array;
    return 0;
}

static inline int lines_open(lines *l, dpo_context *c, const char *path) {
    in_file in;
    if (in_read(&in, path)) return 1;
    if (lines_start(l, c, path, in.text, in.size)) {
        free(in.memory);
        return 1;
    }
    l->in = in;
    return 0;
}

static inline void lines_bad(lines *l, const char *why) { dataset_drop(&l->f, why, NULL, l->s.line); }

/* The next object in l->r; 0 at the end, -1 after an error. */
static inline int lines_next(lines *l) {
    const char *json;
    size_t bytes;
    if (l->r.no_memory) return -no_memory(); /* for the line before */
    while (row_next(&l->s, &json, &bytes)) {
        int last = !l->s.array && l->s.at == l->s.size && l->s.text[l->s.size - 1] != '\n';
        if (cli_stopped()) return -cli_die("stopped while reading %s; nothing was written", l->f.path);
        l->f.rows++;
        if (!row_start(&l->r, json, bytes)) return 1;
        if (l->r.no_memory) return -no_memory();
        lines_bad(l, last ? "broken: the file ends in the middle of a line" : l->r.why);
    }
    return 0;
}

static inline void lines_tell(const lines *l) {
    int i;
    for (i = 0; i < l->f.reasons; i++)
        cli_note("%s: %s %s not used: %s (first: %s %s)", l->f.path, cli_count((uint64_t)l->f.reason[i].count),
                 l->f.reason[i].count == 1 ? "line" : "lines", l->f.reason[i].why, dataset_place(&l->f),
                 cli_count((uint64_t)l->f.reason[i].first));
}

static inline void lines_close(lines *l) {
    row_free(&l->r);
    free(l->in.memory);
    memset(l, 0, sizeof *l);
}

#endif /* TOOLS_JSONL_H */
