/* files.h: paths, directories and copies, for the programs in tools/. Errors are said by cli_die; functions that can
 * fail give 0, or 1 when that was done. Include cli.h first. */
#ifndef TOOLS_FILES_H
#define TOOLS_FILES_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>

static inline int path_join(char *out, size_t cap, const char *dir, const char *name) {
    size_t length = strlen(dir);
    int n = snprintf(out, cap, "%s%s%s", dir, length && dir[length - 1] == '/' ? "" : "/", name);
    return n < 0 || (size_t)n >= cap ? cli_die("the path %s/%s is longer than %d bytes", dir, name, (int)cap - 1) : 0;
}

static inline int is_dir(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static inline int is_file(const char *path) { /* an ordinary one: not a pipe, which would be waited for */
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

/* Is there such a file in the directory? */
static inline int holds(const char *dir, const char *name) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && !stat(path, &st);
}

static inline int ends_in(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Makes a directory and those above it; `option` is what the user knows the path by. */
static inline int make_dirs(const char *dir, const char *option) {
    char path[4096];
    struct stat st;
    size_t i, n = strlen(dir);
    if (!n || n >= sizeof path) return cli_die("%s '%s' is no path that can be made", option, dir);
    for (i = 1; i <= n; i++) {
        if (dir[i] && dir[i] != '/') continue;
        memcpy(path, dir, i);
        path[i] = 0;
        if (mkdir(path, 0777) && errno != EEXIST && stat(path, &st))
            return cli_die("cannot make the directory %s: %s", path, strerror(errno));
    }
    if (!is_dir(dir)) return cli_die("%s %s is there already and is no directory", option, dir);
    return 0;
}

/* Makes what the system still holds of a file or directory last. */
static inline int sync_path(const char *path) {
    int fd = open(path, O_RDONLY), bad;
    if (fd < 0) return errno;
    bad = fsync(fd) ? errno : 0;
    close(fd);
    return bad == EINVAL ? 0 : bad; /* some systems cannot for directories */
}

/* A file that is there at once and whole, or not at all: written beside its name, synced, renamed. */
typedef struct out_file {
    FILE *f;
    const char *path;
    char part[4200];
} out_file;

static inline int out_open(out_file *o, const char *path) {
    int n = snprintf(o->part, sizeof o->part, "%s.part", path);
    o->path = path;
    o->f = NULL;
    if (n < 0 || (size_t)n >= sizeof o->part) return cli_die("the path %.80s... is too long", path);
    errno = 0;
    o->f = fopen(o->part, "wb");
    return o->f ? 0 : cli_die("cannot write %s: %s", path, errno ? strerror(errno) : "no reason given");
}

/* failed: it is not wanted after all. Gives `failed`, or 1 after an error. */
static inline int out_close(out_file *o, int failed) {
    int bad;
    if (!o->f) return 1;
    if (!ferror(o->f)) errno = 0; /* else it says why a write has failed */
    bad = failed || fflush(o->f) || ferror(o->f) || fsync(fileno(o->f));
    if (fclose(o->f)) bad = 1;
    o->f = NULL;
    if (!bad && !rename(o->part, o->path)) return 0;
    bad = errno;
    remove(o->part);
    if (failed) return 1;
    return cli_die("cannot write %s: %s", o->path, bad ? strerror(bad) : "no reason given");
}

static inline int write_file(const char *path, const char *text, size_t n) {
    out_file o;
    if (out_open(&o, path)) return 1;
    (void)fwrite(text, 1, n, o.f); /* an error stays with the stream */
    return out_close(&o, 0);
}

/* Copies a file if it is there, under a new name. */
static inline int copy_file(const char *from_dir, const char *name, const char *to_dir, const char *new_name) {
    char from[4096], to[4096], block[65536];
    out_file o;
    FILE *in;
    size_t n;
    int bad;
    if (!holds(from_dir, name)) return 0;
    if (path_join(from, sizeof from, from_dir, name) || path_join(to, sizeof to, to_dir, new_name)) return 1;
    in = fopen(from, "rb");
    if (!in) return cli_die("cannot open %s: %s", from, strerror(errno));
    if (out_open(&o, to)) {
        fclose(in);
        return 1;
    }
    while (!ferror(o.f) && (n = fread(block, 1, sizeof block, in)) > 0) (void)fwrite(block, 1, n, o.f);
    bad = ferror(in) ? cli_die("cannot read %s: %s", from, strerror(errno)) : 0;
    fclose(in);
    return out_close(&o, bad);
}

/* A small file whole, with a zero after it, on the heap; NULL after an error was said. */
static inline char *read_file(const char *path, size_t limit, size_t *n) {
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t cap = 65536, got;
    *n = 0;
    if (!f) {
        cli_die("cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    for (;;) {
        char *more = (char *)realloc(text, cap + 1);
        if (!more || *n > limit) {
            cli_die(more ? "%s is larger than it should be" : "%s: no memory to read it", path);
            free(more ? more : text);
            fclose(f);
            return NULL;
        }
        text = more;
        got = fread(text + *n, 1, cap - *n, f);
        *n += got;
        if (*n < cap) break;
        cap *= 2;
    }
    text[*n] = 0;
    if (ferror(f)) {
        cli_die("cannot read %s: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    fclose(f);
    return text;
}

/* Removes a directory and the files in it (none of them a directory). */
static inline void remove_dir(const char *dir) {
    char path[4096];
    struct dirent *e;
    DIR *d = opendir(dir);
    while (d && (e = readdir(d)) != NULL) {
        int n = snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && n > 0 && (size_t)n < sizeof path) (void)remove(path);
    }
    if (d) closedir(d);
    (void)rmdir(dir);
}

#endif /* TOOLS_FILES_H */
