/* checkpoint.h: the directory of a run's checkpoints, for dpo-train: which generations are kept, which one a run goes
 * on from.
 *
 *     checkpoint_set set;
 *     checkpoint_start(&set, c, "out/checkpoints", 2);
 *     if (checkpoint_scan(&set, 1)) ...                    what is there; a dead run's *.tmp files go
 *     if (checkpoint_resume(&set, trainer) == 0) ...       the newest that is whole: its path is set.path
 *     checkpoint_save(&set, trainer, step, extra)          a new generation; then the oldest go
 *
 * Whatever happens, and whenever: the newest generation that was written whole is there, and so is the one before it.
 * That needs one order: the new file is synced, renamed, its directory synced, and only then an old one is removed.
 * All access goes through hooks, those of the context's dpo_io and three more, so that tests can let each of them fail.
 * Include dpo.h first. */
#ifndef TOOLS_CHECKPOINT_H
#define TOOLS_CHECKPOINT_H
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a dpo_io has not got. Each returns 0 or an errno; `list` calls `each` for every name. */
typedef struct checkpoint_files {
    void *user;
    int (*list)(void *user, const char *dir, void (*each)(void *to, const char *name), void *to);
    int (*remove)(void *user, const char *path);
    int (*sync_dir)(void *user, const char *dir);
} checkpoint_files;

typedef struct checkpoint_one {
    long long step;
    int damaged; /* it could not be read: it counts as no generation, and goes when the next one is there */
} checkpoint_one;

typedef struct checkpoint_set {
    dpo_context *c;
    const char *dir;
    int keep; /* so many generations */
    checkpoint_files files;
    void (*note)(void *user, const char *line); /* what the user should know */
    void *note_user;
    checkpoint_one *one; /* oldest first */
    size_t n, cap;
    long long best;  /* its step; never removed; -1: there is none */
    char path[4096]; /* of the one that was written or loaded last */
    char error[2048];
    int no_memory, clean;
} checkpoint_set;

/* ---- the system's files ----------------------------------------------------------------------------------------- */

static inline int checkpoint_posix_list(void *user, const char *dir, void (*each)(void *to, const char *name),
                                        void *to) {
    DIR *d = opendir(dir);
    const struct dirent *e;
    int error;
    (void)user;
    if (!d) return errno;
    for (errno = 0; (e = readdir(d)) != NULL; errno = 0) each(to, e->d_name);
    error = errno;
    closedir(d);
    return error;
}
static inline int checkpoint_posix_remove(void *user, const char *path) {
    (void)user;
    return unlink(path) ? errno : 0;
}
static inline int checkpoint_posix_sync_dir(void *user, const char *dir) {
    int fd = open(dir, O_RDONLY), error;
    (void)user;
    if (fd < 0) return errno;
    error = fsync(fd) ? errno : 0;
    close(fd);
    return error == EINVAL || error == ENOTSUP ? 0 : error; /* file systems that have no such thing */
}

/* ---- the set ---------------------------------------------------------------------------------------------------- */

static inline void checkpoint_start(checkpoint_set *s, dpo_context *c, const char *dir, int keep) {
    memset(s, 0, sizeof *s);
    s->c = c;
    s->dir = dir;
    s->keep = keep;
    s->best = -1;
    s->files.list = checkpoint_posix_list;
    s->files.remove = checkpoint_posix_remove;
    s->files.sync_dir = checkpoint_posix_sync_dir;
}
static inline void checkpoint_free(checkpoint_set *s) {
    free(s->one);
    s->one = NULL;
    s->n = s->cap = 0;
}
static inline void checkpoint_say(const checkpoint_set *s, const char *a, const char *b, const char *c) {
    char line[4800];
    if (!s->note) return;
    snprintf(line, sizeof line, "%s%s%s", a, b, c);
    s->note(s->note_user, line);
}
/* The file of a step; 0 if the path is too long. */
static inline int checkpoint_path(checkpoint_set *s, long long step) {
    int n = snprintf(s->path, sizeof s->path, "%s/step-%08lld.safetensors", s->dir, step);
    return n > 0 && (size_t)n < sizeof s->path;
}
/* The step of a file's name, -1 if it is none of ours. */
static inline long long checkpoint_step(const char *name) {
    static const char before[] = "step-", after[] = ".safetensors";
    size_t digits = strspn(name + (strncmp(name, before, sizeof before - 1) ? 0 : sizeof before - 1), "0123456789");
    if (strncmp(name, before, sizeof before - 1) || digits < 8 || digits > 15 ||
        strcmp(name + sizeof before - 1 + digits, after))
        return -1;
    return strtoll(name + sizeof before - 1, NULL, 10);
}
/* In its place by step; one that is there already becomes a new one. */
static inline void checkpoint_add(checkpoint_set *s, long long step) {
    size_t i, at = 0;
    while (at < s->n && s->one[at].step < step) at++;
    if (at < s->n && s->one[at].step == step) {
        s->one[at].damaged = 0;
        return;
    }
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        checkpoint_one *more = (checkpoint_one *)realloc(s->one, cap * sizeof *more);
        if (!more) {
            s->no_memory = 1;
            return;
        }
        s->one = more;
        s->cap = cap;
    }
    for (i = s->n++; i > at; i--) s->one[i] = s->one[i - 1];
    s->one[at].step = step;
    s->one[at].damaged = 0;
}
static inline void checkpoint_meet(void *to, const char *name) {
    checkpoint_set *s = (checkpoint_set *)to;
    size_t n = strlen(name);
    long long step = checkpoint_step(name);
    int length;
    if (step >= 0) checkpoint_add(s, step);
    if (!s->clean || n < 4 || strcmp(name + n - 4, ".tmp")) return;
    length = snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name); /* a run ended while it was written */
    if (length > 0 && (size_t)length < sizeof s->path) (void)s->files.remove(s->files.user, s->path);
}
/* Reads the directory; one that is not there is empty. clean: it is ours alone, and what a dead run left half written
 * goes. 0, or s->error says why not. */
static inline int checkpoint_scan(checkpoint_set *s, int clean) {
    int e;
    s->n = 0;
    s->clean = clean;
    e = s->files.list(s->files.user, s->dir, checkpoint_meet, s);
    if (s->no_memory) e = ENOMEM;
    if (!e || e == ENOENT) return 0;
    snprintf(s->error, sizeof s->error, "cannot read the directory %.1000s: %s", s->dir, strerror(e));
    return 1;
}
/* Goes on from the newest checkpoint that can be read; one of another run is a mistake, not damage, and ends the
 * search. 0: done, it is s->path; 1: there is none; -1: s->error says why not. */
static inline int checkpoint_resume(checkpoint_set *s, dpo_trainer *t) {
    size_t i, used;
    dpo_result r = DPO_OK;
    for (i = s->n; i-- > 0;) {
        r = checkpoint_path(s, s->one[i].step) ? dpo_trainer_load(t, s->path) : DPO_E_ARG;
        if (!r) return 0;
        snprintf(s->error, sizeof s->error, "%s", dpo_error(s->c));
        if (r != DPO_E_FORMAT && r != DPO_E_IO) return -1;
        checkpoint_say(s, s->error, i ? "; the checkpoint before it is tried" : "", "");
        s->one[i].damaged = 1;
        dpo_clear(s->c);
    }
    if (!s->n) return 1;
    used = (size_t)snprintf(s->error, sizeof s->error,
                            "%.1000s: no checkpoint in it can be read; start anew in another directory, or copy them "
                            "again:",
                            s->dir);
    for (i = 0; i < s->n && used < sizeof s->error; i++)
        used += (size_t)snprintf(s->error + used, sizeof s->error - used, " step-%08lld.safetensors", s->one[i].step);
    return -1;
}
/* Whether generation i may go: it is neither among the newest `keep` that can be read, nor the best. */
static inline int checkpoint_spent(const checkpoint_set *s, size_t i) {
    size_t k;
    int newer = 0;
    if (s->one[i].damaged) return 1;
    for (k = i + 1; k < s->n; k++) newer += !s->one[k].damaged;
    return newer >= s->keep && s->one[i].step != s->best;
}
/* A new generation; the old ones stay if anything goes wrong. 0, or s->error says what did. */
static inline int checkpoint_save(checkpoint_set *s, dpo_trainer *t, long long step, const char *const *extra) {
    size_t i, kept = 0;
    int e = 0;
    if (!checkpoint_path(s, step)) {
        snprintf(s->error, sizeof s->error, "the path %.1000s is too long for checkpoints", s->dir);
        return 1;
    }
    if (dpo_trainer_save(t, s->path, extra)) {
        snprintf(s->error, sizeof s->error, "%s", dpo_error(s->c));
        return 1;
    }
    checkpoint_add(s, step);
    if (s->no_memory) return 0; /* it is written; there is no telling which is the oldest */
    e = s->files.sync_dir(s->files.user, s->dir);
    if (e) {
        checkpoint_say(s, s->dir, " cannot be synced, and older checkpoints stay: ", strerror(e));
        return 0;
    }
    for (i = 0; i < s->n; i++) {
        int gone = checkpoint_spent(s, i) && checkpoint_path(s, s->one[i].step);
        e = gone ? s->files.remove(s->files.user, s->path) : 0;
        if (e && e != ENOENT) {
            checkpoint_say(s, s->path, " cannot be removed: ", strerror(e));
            gone = 0;
        }
        if (gone) s->one[i].step = -1;
    }
    for (i = 0; i < s->n; i++)
        if (s->one[i].step >= 0) s->one[kept++] = s->one[i];
    s->n = kept;
    (void)checkpoint_path(s, step);
    return 0;
}

#endif /* TOOLS_CHECKPOINT_H */
