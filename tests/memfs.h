/* memfs.h - files in memory behind the dpo_io hooks: hostile files without touching a disk, failures at
   any operation, the machine's end at any operation, and a look at what was left behind. Include dpo.h and check.h
   first. */
#ifndef MEMFS_H
#define MEMFS_H

#define MEMFS_FILES  64
#define MEMFS_ENOENT 2
#define MEMFS_EIO    5
#define MEMFS_EACCES 13
#define MEMFS_ENOSPC 28

typedef struct memfs_file {
    char path[200]; /* "" = free */
    uint8_t *data;
    size_t size, capacity;
    size_t synced;      /* bytes that outlive the machine */
    int handles, dirty; /* dirty: written since the last sync */
} memfs_file;

/* A change of names that no sync of the directory has made last yet. */
typedef struct memfs_change {
    char from[200], to[200]; /* to "": `from` was made (old: none) or removed */
    memfs_file old;          /* what went */
} memfs_change;

typedef struct memfs {
    memfs_file files[MEMFS_FILES];
    int64_t ops, fail_at; /* operation fail_at (counted from 1) fails, once or from then on */
    int transient, fail_code;
    int64_t die_at; /* from this operation on nothing happens any more, until memfs_restart */
    int dead;
    memfs_change changes[MEMFS_FILES]; /* kept while die_at is not 0 */
    int n_changes;
    int handles, maps;
    int unsynced; /* files that were renamed before they were synced, or not followed by a sync of the directory */
    int renamed;
    const char *deny; /* paths that begin so cannot be written */
    dpo_io io;
} memfs;

MAYBE_UNUSED static int memfs_fault(memfs *m) {
    m->ops++;
    if (m->die_at && m->ops >= m->die_at) m->dead = 1;
    if (m->dead) return MEMFS_EIO;
    if (!m->fail_at || (m->transient ? m->ops != m->fail_at : m->ops < m->fail_at)) return 0;
    return m->fail_code ? m->fail_code : MEMFS_EIO;
}
MAYBE_UNUSED static memfs_file *memfs_find(memfs *m, const char *path) {
    int i;
    for (i = 0; i < MEMFS_FILES; i++)
        if (m->files[i].path[0] && !strcmp(m->files[i].path, path)) return &m->files[i];
    return NULL;
}
MAYBE_UNUSED static memfs_file *memfs_make(memfs *m, const char *path) {
    memfs_file *f = memfs_find(m, path);
    int i;
    for (i = 0; i < MEMFS_FILES && !f; i++)
        if (!m->files[i].path[0]) f = &m->files[i];
    if (!f || strlen(path) >= sizeof f->path) {
        printf("memfs: too many files, or %s is too long\n", path);
        exit(3);
    }
    strcpy(f->path, path);
    f->size = f->synced = 0;
    return f;
}
/* Notes a change of names. old: the file that it does away with, or NULL. */
MAYBE_UNUSED static void memfs_changed(memfs *m, const char *from, const char *to, memfs_file *old) {
    memfs_change *k = &m->changes[m->n_changes];
    if (m->die_at) {
        if (++m->n_changes > MEMFS_FILES) exit(3);
        strcpy(k->from, from);
        strcpy(k->to, to);
        memset(&k->old, 0, sizeof k->old);
        if (old) k->old = *old;
    } else if (old) free(old->data);
    if (old) memset(old, 0, sizeof *old);
}
MAYBE_UNUSED static void memfs_append(memfs_file *f, const void *data, size_t n) {
    if (f->size + n > f->capacity) {
        f->capacity = (f->size + n) * 2;
        f->data = (uint8_t *)realloc(f->data, f->capacity);
        if (!f->data) exit(3);
    }
    if (n) memcpy(f->data + f->size, data, n);
    f->size += n;
}
MAYBE_UNUSED static void memfs_drop(memfs_file *f) {
    free(f->data);
    memset(f, 0, sizeof *f);
}
MAYBE_UNUSED static int memfs_open(void *user, const char *path, int mode, void **file) {
    memfs *m = (memfs *)user;
    memfs_file *f = memfs_find(m, path);
    int e = memfs_fault(m);
    *file = NULL;
    if (e) return e;
    if (mode == 'w') {
        if (m->deny && !strncmp(path, m->deny, strlen(m->deny))) return MEMFS_EACCES;
        if (!f) memfs_changed(m, path, "", NULL);
        f = memfs_make(m, path);
    }
    if (!f) return MEMFS_ENOENT;
    f->handles++;
    m->handles++;
    *file = f;
    return 0;
}
MAYBE_UNUSED static int memfs_size(void *user, void *file, uint64_t *bytes) {
    int e = memfs_fault((memfs *)user);
    *bytes = e ? 0 : (uint64_t)((memfs_file *)file)->size;
    return e;
}
MAYBE_UNUSED static int memfs_read(void *user, void *file, uint64_t offset, void *to, size_t bytes) {
    const memfs_file *f = (const memfs_file *)file;
    int e = memfs_fault((memfs *)user);
    if (e) return e;
    if (offset > f->size || bytes > f->size - offset) return MEMFS_EIO;
    memcpy(to, f->data + offset, bytes);
    return 0;
}
MAYBE_UNUSED static int memfs_write(void *user, void *file, const void *from, size_t bytes) {
    int gone = ((memfs *)user)->dead, e = memfs_fault((memfs *)user);
    memfs_append((memfs_file *)file, from, gone ? 0 : e ? bytes / 2 : bytes); /* a failing write got half way */
    ((memfs_file *)file)->dirty = 1;
    return e;
}
MAYBE_UNUSED static int memfs_sync(void *user, void *file) {
    int e = memfs_fault((memfs *)user);
    if (!e) ((memfs_file *)file)->dirty = 0;
    if (!e) ((memfs_file *)file)->synced = ((memfs_file *)file)->size;
    return e;
}
MAYBE_UNUSED static int memfs_close(void *user, void *file) {
    memfs *m = (memfs *)user;
    ((memfs_file *)file)->handles--;
    m->handles--;
    return memfs_fault(m);
}
MAYBE_UNUSED static int memfs_rename(void *user, const char *from, const char *to) {
    memfs *m = (memfs *)user;
    memfs_file *f = memfs_find(m, from), *old = memfs_find(m, to);
    int e = memfs_fault(m);
    if (e) return e;
    if (!f) return MEMFS_ENOENT;
    memfs_changed(m, from, to, old);
    m->unsynced += f->dirty;
    m->renamed = 1;
    strcpy(f->path, to);
    return 0;
}
MAYBE_UNUSED static int memfs_remove(void *user, const char *path) {
    memfs *m = (memfs *)user;
    memfs_file *f = memfs_find(m, path);
    if (m->die_at && memfs_fault(m)) return MEMFS_EIO;
    if (!f) return MEMFS_ENOENT; /* cleaning up works even on a bad day, so that what is left shows */
    memfs_changed(m, path, "", f);
    return 0;
}
MAYBE_UNUSED static int memfs_make_dir(void *user, const char *path) {
    memfs *m = (memfs *)user;
    if (m->deny && !strncmp(path, m->deny, strlen(m->deny))) return MEMFS_EACCES;
    return memfs_fault(m);
}
MAYBE_UNUSED static int memfs_sync_dir(void *user, const char *path) {
    memfs *m = (memfs *)user;
    int e = memfs_fault(m);
    (void)path;
    m->renamed = 0;
    while (!e && m->n_changes > 0) free(m->changes[--m->n_changes].old.data);
    return e;
}
/* After the machine's end: of the changes of names since the last sync of the directory the first `kept` have reached
   the disk, of the bytes written since a file's last sync none (0), half (1) or all (2). */
MAYBE_UNUSED static void memfs_restart(memfs *m, int kept, int bytes) {
    int i;
    while (m->n_changes > 0) {
        memfs_change *k = &m->changes[--m->n_changes];
        memfs_file *f = memfs_find(m, k->to[0] ? k->to : k->from);
        if (m->n_changes < kept) {
            free(k->old.data);
            continue;
        }
        if (f && k->to[0]) strcpy(f->path, k->from);
        else if (f) memfs_drop(f);
        for (i = 0; k->old.path[0] && i < MEMFS_FILES && m->files[i].path[0]; i++) {
        }
        if (!k->old.path[0]) continue;
        if (i == MEMFS_FILES) exit(3);
        m->files[i] = k->old;
    }
    for (i = 0; i < MEMFS_FILES; i++) {
        memfs_file *f = &m->files[i];
        if (bytes < 2) f->size = f->synced + (bytes ? (f->size - f->synced) / 2 : 0);
        f->synced = f->size;
        f->handles = f->dirty = 0;
    }
    m->die_at = m->dead = m->handles = m->renamed = m->unsynced = 0;
}
/* Names in a directory, for those that go through one. */
MAYBE_UNUSED static int memfs_list(void *user, const char *dir, void (*each)(void *to, const char *name), void *to) {
    memfs *m = (memfs *)user;
    size_t n = strlen(dir);
    int i, e = memfs_fault(m);
    for (i = 0; i < MEMFS_FILES && !e; i++)
        if (!strncmp(m->files[i].path, dir, n) && m->files[i].path[n] == '/') {
            char name[200];
            strcpy(name, m->files[i].path + n + 1);
            each(to, name);
        }
    return e;
}

/* A copy with nothing behind its end, that stays whatever happens to the file. */
MAYBE_UNUSED static int memfs_map(void *user, void *file, uint64_t bytes, const void **at) {
    memfs *m = (memfs *)user;
    const memfs_file *f = (const memfs_file *)file;
    void *copy;
    int e = memfs_fault(m);
    *at = NULL;
    if (e || bytes > f->size) return e ? e : MEMFS_EIO;
    copy = malloc((size_t)bytes);
    if (!copy) exit(3);
    memcpy(copy, f->data, (size_t)bytes);
    *at = copy;
    m->maps++;
    return 0;
}
MAYBE_UNUSED static int memfs_unmap(void *user, const void *at, uint64_t bytes) {
    memfs *m = (memfs *)user;
    (void)bytes;
    m->maps--;
    free((void *)(uintptr_t)at);
    return memfs_fault(m);
}
/* For contexts that are opened from now on; without it files are read. */
MAYBE_UNUSED static void memfs_maps(memfs *m, int on) {
    m->io.map = on ? memfs_map : NULL;
    m->io.unmap = on ? memfs_unmap : NULL;
}

MAYBE_UNUSED static memfs *memfs_new(void) {
    memfs *m = (memfs *)calloc(1, sizeof *m);
    if (!m) exit(3);
    m->io.user = m;
    m->io.open = memfs_open;
    m->io.size = memfs_size;
    m->io.read = memfs_read;
    m->io.write = memfs_write;
    m->io.sync = memfs_sync;
    m->io.close = memfs_close;
    m->io.rename = memfs_rename;
    m->io.remove = memfs_remove;
    m->io.make_dir = memfs_make_dir;
    m->io.sync_dir = memfs_sync_dir;
    return m;
}
MAYBE_UNUSED static void memfs_free(memfs *m) {
    int i;
    for (i = 0; i < MEMFS_FILES; i++) memfs_drop(&m->files[i]);
    while (m->n_changes > 0) free(m->changes[--m->n_changes].old.data);
    free(m);
}
MAYBE_UNUSED static void memfs_put(memfs *m, const char *path, const void *data, size_t n) {
    memfs_file *f = memfs_make(m, path);
    memfs_append(f, data, n);
    f->synced = n;
}
MAYBE_UNUSED static void memfs_text(memfs *m, const char *path, const char *text) {
    memfs_put(m, path, text, strlen(text));
}
MAYBE_UNUSED static void memfs_copy(memfs *m, const char *from, const char *to) {
    memfs_file *f = memfs_find(m, from);
    uint8_t *data;
    size_t n;
    if (!f) return;
    n = f->size;
    data = (uint8_t *)malloc(n + 1);
    if (!data) exit(3);
    memcpy(data, f->data, n);
    memfs_put(m, to, data, n);
    free(data);
}
/* Files whose names contain `part`. */
MAYBE_UNUSED static int memfs_count(const memfs *m, const char *part) {
    int i, n = 0;
    for (i = 0; i < MEMFS_FILES; i++) n += m->files[i].path[0] && strstr(m->files[i].path, part);
    return n;
}
/* A context on a memfs, with a counting heap if given. */
MAYBE_UNUSED static dpo_context *memfs_context(memfs *fs, heap *h, int threads, int simd) {
    dpo_desc d;
    memset(&d, 0, sizeof d);
    d.n_threads = threads;
    d.simd = simd;
    d.io = &fs->io;
    if (h) {
        d.alloc = heap_alloc;
        d.release = heap_release;
        d.user = h;
    }
    return dpo_open(&d);
}
#endif
