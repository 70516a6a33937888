/* asker.h: a judge on this machine, for dpo-judge: a program that reads questions as JSON lines and prints answers as JSON
 * lines, in any order. It may die, hang, answer twice or talk rubbish: it is ended and started again, its questions are
 * asked again, and what it said beside answers is counted. Answers are appended to the results as they come, so that a
 * run that was cut short goes on where it was.
 *
 *     reads    {"custom_id": "...", "messages": [{"role": "user", "content": "..."}], "max_tokens": 256, "temperature": 0}
 *     prints   {"custom_id": "...", "content": "..."}    or    {"custom_id": "...", "error": "..."}
 *
 * The results hold the lines that it printed, and an error for each question that was given up. */
#ifndef TOOLS_ASKER_H
#define TOOLS_ASKER_H

#include "formats/judge.h"
#include "jsonl.h"
#include <poll.h>
#include <sys/wait.h>

/* ---- questions and their states ---------------------------------------------------------------------------- */

typedef struct asker_options {
    const char *questions, *output, *cmd;
    int jobs, in_flight, retries; /* processes; questions that each may hold; attempts after the first */
    double timeout;               /* seconds */
    int quiet;
} asker_options;

enum { LINE_MOST = 1 << 20 }; /* bytes of a judge's line; what is longer is no answer */
enum { TO_ASK, ASKED, ANSWERED, GIVEN_UP };

typedef struct question {
    const char *custom_id, *line; /* line: as the judge reads it, with its newline */
    int state, child, tries;      /* tries: that came to nothing */
    int64_t turn;                 /* when it was asked, counted */
} question;

/* What the judge printed that is no answer to a question. */
typedef struct complaints {
    int64_t rubbish, unknown, twice, unasked, too_long; /* lines */
    int64_t ended, hung;                                /* processes */
} complaints;

typedef struct child {
    pid_t pid;      /* 0: none */
    int to, from;   /* pipes; -1: closed */
    judge_text out; /* not yet written to it, from out_at on */
    size_t out_at;
    judge_text in; /* the line it is printing */
    int skipping;  /* it is longer than LINE_MOST */
    int pending;   /* asked, not answered */
    double since;  /* of its last answer, or of the first question after it had none: the clock of --timeout */
} child;

typedef struct asker {
    const asker_options *s;
    question *q;                             /* in the file's order */
    question **sorted;                       /* by custom_id */
    int64_t n, room, next, left;             /* next: none before it is to ask; left: not answered, not given up */
    int64_t turns, answered, failed, before; /* before: answered by an earlier run */
    int barren;                              /* processes that ended in a row without an answer between them */
    pool *strings;
    row_data row;
    log_file log;
    complaints bad;
    child *child; /* [jobs] */
    struct pollfd *poll;
    int unsaved;   /* there are new lines in the results */
    int broken;    /* an error was printed, or is to be */
    char why[160]; /* how the judge ended, which is not started again */
} asker;

static inline int question_order(const void *a, const void *b) {
    return strcmp((*(question *const *)a)->custom_id, (*(question *const *)b)->custom_id);
}

static inline question *asker_find(const asker *k, const char *custom_id) {
    int64_t low = 0, high = k->n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int c = strcmp(k->sorted[middle]->custom_id, custom_id);
        if (!c) return k->sorted[middle];
        if (c < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

/* One more question: as a line for a local judge, whatever kind of line it comes from. */
static inline int asker_add(asker *k, const judge_request *r) {
    void *p = k->q;
    question *q;
    char *line = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&line, &n);
    if (!f) return no_memory();
    judge_write_request(f, r, 0);
    if (fclose(f) || grow(&p, k->n, &k->room, sizeof *k->q)) {
        free(line);
        return no_memory();
    }
    k->q = (question *)p;
    q = &k->q[k->n];
    memset(q, 0, sizeof *q);
    q->custom_id = pool_keep(&k->strings, r->custom_id, strlen(r->custom_id));
    q->line = pool_keep(&k->strings, line, n);
    free(line);
    if (!q->custom_id || !q->line) return no_memory();
    k->n++;
    return 0;
}

static inline int asker_read(asker *k, dpo_context *c) {
    lines l;
    judge_request r;
    int64_t i;
    int more, failed = 0;
    const char *path = k->s->questions;
    if (lines_open(&l, c, path)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (judge_read_request(&l.r, &r)) lines_bad(&l, l.r.why);
        else failed = asker_add(k, &r);
    }
    if (!failed) lines_tell(&l);
    lines_close(&l);
    if (failed) return 1;
    if (!k->n) return cli_die("%s holds no questions; expected a file that dpo-judge export wrote", path);
    k->sorted = (question **)malloc((size_t)k->n * sizeof *k->sorted);
    if (!k->sorted) return no_memory();
    for (i = 0; i < k->n; i++) k->sorted[i] = &k->q[i];
    qsort(k->sorted, (size_t)k->n, sizeof *k->sorted, question_order);
    for (i = 1; i < k->n; i++)
        if (!strcmp(k->sorted[i]->custom_id, k->sorted[i - 1]->custom_id))
            return cli_die("%s: custom_id %s occurs twice, and its answers could not be told apart; export again", path,
                           k->sorted[i]->custom_id);
    k->left = k->n;
    return 0;
}

/* Do two custom_ids belong to one run? What stands before the first full stop says so. */
static inline int same_run(const char *a, const char *b) {
    size_t n = strcspn(a, "."), m = strcspn(b, ".");
    return n == m && !memcmp(a, b, n);
}

/* What an earlier run wrote into the results: answered questions are not asked again, failed ones are. */
static inline int asker_resume(asker *k, dpo_context *c) {
    lines l;
    judge_reply y;
    question *q;
    int more, failed = 0;
    if (lines_start(&l, c, k->log.path, k->log.old.text ? k->log.old.text : "", k->log.old.size)) return 1;
    while (!failed && (more = lines_next(&l)) != 0) {
        if (more < 0) failed = 1;
        else if (judge_read_reply(&l.r, &y)) lines_bad(&l, l.r.why);
        else if ((q = asker_find(k, y.custom_id)) == NULL) {
            if (!same_run(y.custom_id, k->q[0].custom_id))
                failed = cli_die("%s, line %lld: %s is of another run than these questions (%s); give another --output",
                                 k->log.path, (long long)l.s.line, y.custom_id, k->q[0].custom_id);
            else lines_bad(&l, "a custom_id that is none of these questions");
        } else if (q->state == ANSWERED) lines_bad(&l, "another answer to a question that has one");
        else if (y.content) {
            q->state = ANSWERED;
            k->before++;
            k->left--;
        }
    }
    if (!failed) lines_tell(&l);
    lines_close(&l);
    return failed;
}

/* ---- the judge's processes --------------------------------------------------------------------------------- */

static inline void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static inline void pause_ms(int ms) { poll(NULL, 0, ms); }

/* What the new process does: /bin/sh -c CMD between two pipes, in a group of its own, so that all that it starts can be
 * ended with it and Ctrl-C reaches it through this program alone. */
static inline void child_become(const char *cmd, int in, int out) {
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0) _exit(126);
    execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
    _exit(127);
}

static inline int child_start(child *c, const char *cmd) {
    int in[2], out[2], i;
    if (pipe(in)) return cli_die("cannot start --cmd: %s", strerror(errno));
    if (pipe(out)) {
        close(in[0]);
        close(in[1]);
        return cli_die("cannot start --cmd: %s", strerror(errno));
    }
    for (i = 0; i < 2; i++) { /* no other judge may hold these: one would wait for the end of the other */
        fcntl(in[i], F_SETFD, FD_CLOEXEC);
        fcntl(out[i], F_SETFD, FD_CLOEXEC);
    }
    fflush(NULL);
    c->pid = fork();
    if (c->pid == 0) child_become(cmd, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    c->to = in[1];
    c->from = out[0];
    if (c->pid < 0) {
        c->pid = 0;
        close_fd(&c->to);
        close_fd(&c->from);
        return cli_die("cannot start --cmd: %s", strerror(errno));
    }
    setpgid(c->pid, c->pid); /* whoever comes first */
    fcntl(c->to, F_SETFL, O_NONBLOCK);
    fcntl(c->from, F_SETFL, O_NONBLOCK);
    c->out.n = c->out_at = c->in.n = 0;
    c->skipping = c->pending = 0;
    return 0;
}

/* Waits until the process has ended, at most so long; it stays to be reaped, so that its group keeps its number. */
static inline int child_ends(const child *c, int ms) {
    siginfo_t info;
    for (;; ms -= 10) {
        memset(&info, 0, sizeof info);
        if (waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) && errno != EINTR) return 1;
        if (info.si_pid) return 1;
        if (ms <= 0) return 0;
        pause_ms(10);
    }
}

/* Ends the process and all that it started, and reaps it: first it may end by itself for `grace` ms. */
static inline int child_stop(child *c, int grace) {
    int status = 0;
    close_fd(&c->to);
    if (!child_ends(c, grace)) {
        kill(-c->pid, SIGTERM);
        (void)child_ends(c, 2000);
    }
    kill(-c->pid, SIGKILL);
    close_fd(&c->from);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {
    }
    c->pid = 0;
    return status;
}

/* "exit status 3", "signal 9". */
static inline void status_words(char *out, size_t cap, int status) {
    if (WIFSIGNALED(status)) snprintf(out, cap, "signal %d", WTERMSIG(status));
    else snprintf(out, cap, "exit status %d", WEXITSTATUS(status));
}

/* ---- answers ----------------------------------------------------------------------------------------------- */

/* A line of the results. */
static inline void asker_write(asker *k, const question *q, const char *name, const char *text, size_t n) {
    fprintf(k->log.f, "{\"custom_id\": \"%s\", \"%s\": ", q->custom_id, name);
    cli_json_string(k->log.f, text, n);
    fputs("}\n", k->log.f);
    k->unsaved = 1;
}

/* An attempt that came to nothing; after --retries more the question is given up, with the reason in the results. */
static inline void asker_charge(asker *k, question *q, const char *why) {
    q->child = -1;
    q->state = ++q->tries > k->s->retries ? GIVEN_UP : TO_ASK;
    if (q->state == TO_ASK) {
        if (q - k->q < k->next) k->next = q - k->q;
        return;
    }
    asker_write(k, q, "error", why, strlen(why));
    k->failed++;
    k->left--;
}

static inline void asker_reply(asker *k, int index, const judge_reply *y) {
    child *c = &k->child[index];
    question *q = asker_find(k, y->custom_id);
    if (!q) k->bad.unknown++;
    else if (q->state == ANSWERED) k->bad.twice++;
    else if (q->state != ASKED || q->child != index) k->bad.unasked++;
    else {
        c->pending--;
        c->since = cli_clock();
        k->barren = 0;
        if (!y->content) {
            asker_charge(k, q, y->error);
            return;
        }
        q->state = ANSWERED;
        asker_write(k, q, "content", y->content, y->bytes);
        k->answered++;
        k->left--;
    }
}

static inline void asker_line(asker *k, int index, const char *line, size_t n) {
    judge_reply y;
    size_t i = 0;
    while (i < n && row_blank(line[i])) i++;
    if (i == n) return;
    if (row_start(&k->row, line, n) || judge_read_reply(&k->row, &y)) {
        if (k->row.no_memory) k->broken = no_memory();
        k->bad.rubbish++;
    } else asker_reply(k, index, &y);
}

/* Takes what the judge has printed; 0 when it will print no more. */
static inline int asker_take(asker *k, int index) {
    child *c = &k->child[index];
    char block[65536];
    ssize_t got = read(c->from, block, sizeof block);
    size_t from = 0, n;
    if (got < 0) return errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK;
    if (got == 0 && c->in.n && !c->skipping)
        asker_line(k, index, c->in.text, c->in.n); /* a last line without newline */
    if (got == 0) c->in.n = 0;
    for (n = (size_t)got; from < n;) {
        const char *stop = (const char *)memchr(block + from, '\n', n - from);
        size_t part = (stop ? (size_t)(stop - block) : n) - from;
        if (c->in.n + part > LINE_MOST && !c->skipping) {
            c->skipping = 1;
            k->bad.too_long++;
        }
        if (!c->skipping) judge_put(&c->in, block + from, part);
        if (c->in.no_memory) {
            k->broken = no_memory();
            return 0;
        }
        if (stop && !c->skipping) asker_line(k, index, c->in.text, c->in.n);
        if (stop) c->skipping = 0;
        if (stop || c->skipping) c->in.n = 0;
        from += part + (stop != NULL);
    }
    return got > 0;
}

/* Writes what there is for the judge; a judge that reads no more is found out by its end or by --timeout. */
static inline void child_feed(child *c) {
    ssize_t n;
    if (c->to < 0 || c->out_at == c->out.n) return;
    n = write(c->to, c->out.text + c->out_at, c->out.n - c->out_at);
    if (n > 0) c->out_at += (size_t)n;
    else if (n < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) close_fd(&c->to);
    if (c->out_at == c->out.n) c->out.n = c->out_at = 0;
}

/* Hands the judge as many questions as it may hold at a time. */
static inline void asker_give(asker *k, int index) {
    child *c = &k->child[index];
    while (c->to >= 0 && c->pending < k->s->in_flight) {
        question *q;
        while (k->next < k->n && k->q[k->next].state != TO_ASK) k->next++;
        if (k->next == k->n) return;
        q = &k->q[k->next++];
        judge_say(&c->out, q->line);
        if (c->out.no_memory) {
            k->broken = no_memory();
            return;
        }
        q->state = ASKED;
        q->child = index;
        q->turn = k->turns++;
        if (!c->pending++) c->since = cli_clock();
    }
}

/* A judge that ended or was ended: the question that waited longest is to blame, the others are asked again. */
static inline void asker_lose(asker *k, int index, const char *why) {
    child *c = &k->child[index];
    question *oldest = NULL;
    int64_t i;
    for (i = 0; i < k->n && c->pending; i++) {
        question *q = &k->q[i];
        if (q->state != ASKED || q->child != index) continue;
        c->pending--;
        q->state = TO_ASK;
        if (i < k->next) k->next = i;
        if (!oldest || q->turn < oldest->turn) oldest = q;
    }
    if (oldest) asker_charge(k, oldest, why);
}

/* Has a process come to its end, or is it to? */
static inline void asker_end(asker *k, int index, int hung) {
    child *c = &k->child[index];
    char words[64], why[128];
    int lost = c->pending, status = child_stop(c, hung ? 0 : 2000);
    status_words(words, sizeof words, status);
    if (hung) snprintf(why, sizeof why, "no answer within %s", cli_duration(k->s->timeout));
    else snprintf(why, sizeof why, "the judge ended without an answer: %s", words);
    k->bad.hung += hung;
    k->bad.ended += !hung && lost;
    if (!lost) return;
    asker_lose(k, index, why);
    if (++k->barren > 3 * (k->s->retries + 1) * k->s->jobs) {
        k->broken = 1;
        snprintf(k->why, sizeof k->why, "%s", hung ? why : words);
    }
}

/* ---- the loop ---------------------------------------------------------------------------------------------- */

static inline void asker_live(const asker *k) {
    char line[256];
    if (k->s->quiet) return;
    snprintf(line, sizeof line, "asking: %s of %s answered, %s given up",
             cli_count((uint64_t)(k->before + k->answered)), cli_count((uint64_t)k->n), cli_count((uint64_t)k->failed));
    cli_live(line);
}

/* Starts and feeds. */
static inline void asker_fill(asker *k) {
    int i;
    for (i = 0; i < k->s->jobs && !k->broken; i++) {
        child *c = &k->child[i];
        while (k->next < k->n && k->q[k->next].state != TO_ASK) k->next++;
        if (c->pid && c->to < 0 && !c->pending) (void)child_stop(c, 2000); /* it reads no more */
        if (!c->pid && k->next < k->n && child_start(c, k->s->cmd)) k->broken = 1;
        if (!c->pid || k->broken) continue;
        asker_give(k, i);
        child_feed(c);
    }
}

/* Waits for the judges, takes what they say, and ends those that will not answer any more. */
static inline void asker_wait(asker *k, int ms) {
    int i, jobs = k->s->jobs;
    double now;
    for (i = 0; i < jobs; i++) {
        const child *c = &k->child[i];
        k->poll[2 * i].fd = c->pid ? c->from : -1;
        k->poll[2 * i].events = POLLIN;
        k->poll[2 * i + 1].fd = c->pid && c->out_at < c->out.n ? c->to : -1;
        k->poll[2 * i + 1].events = POLLOUT;
        k->poll[2 * i].revents = k->poll[2 * i + 1].revents = 0;
    }
    if (poll(k->poll, (nfds_t)(2 * jobs), ms) < 0 && errno != EINTR)
        k->broken = cli_die("cannot wait for the judge: %s", strerror(errno));
    now = cli_clock();
    for (i = 0; i < jobs && !k->broken && !cli_stopped(); i++) {
        child *c = &k->child[i];
        if (!c->pid) continue;
        if (k->poll[2 * i + 1].revents) child_feed(c);
        if (k->poll[2 * i].revents && !asker_take(k, i)) asker_end(k, i, 0);
        else if (c->pending && now - c->since > k->s->timeout) asker_end(k, i, 1);
    }
    if (k->unsaved && !k->broken && log_sync(&k->log)) k->broken = 1;
    k->unsaved = 0;
}

/* All questions are answered: the judges see the end of their input, and what they still print is looked at. */
static inline void asker_finish(asker *k) {
    double until = cli_clock() + (k->s->timeout < 5 ? k->s->timeout : 5);
    int i, alive = 1;
    for (i = 0; i < k->s->jobs; i++) close_fd(&k->child[i].to);
    while (alive && cli_clock() < until && !k->broken && !cli_stopped()) {
        for (i = alive = 0; i < k->s->jobs; i++) alive += k->child[i].pid != 0;
        if (alive) asker_wait(k, 100);
    }
}

static inline void asker_loop(asker *k) {
    int i;
    signal(SIGPIPE, SIG_IGN); /* a judge that reads no more is no reason to end */
    while (k->left && !k->broken && !cli_stopped()) {
        asker_fill(k);
        if (k->broken || cli_stopped()) break;
        asker_wait(k, k->s->timeout < 0.2 ? 20 : 200);
        asker_live(k);
    }
    if (!k->left) asker_finish(k);
    for (i = 0; i < k->s->jobs; i++)
        if (k->child[i].pid) (void)child_stop(&k->child[i], k->left ? 0 : 2000);
    if (log_sync(&k->log)) k->broken = 1;
    cli_live_clear();
}

static inline void complain(int64_t n, const char *one, const char *more) {
    if (n) cli_note("the judge: %s %s", cli_count((uint64_t)n), n == 1 ? one : more);
}

static inline int asker_report(const asker *k) {
    complain(k->bad.rubbish, "line that is no answer", "lines that are no answers");
    complain(k->bad.too_long, "line longer than 1 MiB", "lines longer than 1 MiB");
    complain(k->bad.unknown, "answer to a question that does not exist", "answers to questions that do not exist");
    complain(k->bad.unasked, "answer to a question not asked of it", "answers to questions not asked of it");
    complain(k->bad.twice, "second answer to a question", "second answers to questions");
    complain(k->bad.ended, "process that ended with questions open", "processes that ended with questions open");
    complain(k->bad.hung, "process that did not answer in time (it must flush its output after each line)",
             "processes that did not answer in time (a judge must flush its output after each line)");
    if (!k->s->quiet)
        printf("%s: %s of %s questions answered (%s before this run), %s given up\n", k->log.path,
               cli_count((uint64_t)(k->before + k->answered)), cli_count((uint64_t)k->n),
               cli_count((uint64_t)k->before), cli_count((uint64_t)k->failed));
    if (flush_output()) return 1;
    if (k->why[0])
        return cli_die("the judge ended %d times in a row without an answer, the last time: %s; look at --cmd %s",
                       k->barren, k->why, k->s->cmd);
    if (k->broken) return 1;
    if (cli_stopped() && k->left)
        return cli_die("stopped; %s questions are open, the same command goes on", cli_count((uint64_t)k->left));
    if (k->failed)
        return cli_die("%s questions have no answer; the same command asks them again", cli_count((uint64_t)k->failed));
    return 0;
}

/* Asks all questions that the results do not answer yet. 1 unless all have an answer then. */
static inline int asker_run(dpo_context *c, const asker_options *s) {
    asker k;
    int i, failed;
    memset(&k, 0, sizeof k);
    k.s = s;
    k.child = (child *)calloc((size_t)s->jobs, sizeof *k.child);
    k.poll = (struct pollfd *)calloc(2 * (size_t)s->jobs, sizeof *k.poll);
    k.row.json = dpo_json_create(c);
    failed = !k.child || !k.poll ? no_memory() : !k.row.json ? cli_die("%s", dpo_error(c)) : 0;
    for (i = 0; !failed && i < s->jobs; i++) k.child[i].to = k.child[i].from = -1;
    failed = failed || asker_read(&k, c) || log_open(&k.log, s->output) || asker_resume(&k, c);
    if (!failed && k.left) asker_loop(&k);
    if (!failed) failed = asker_report(&k);
    if (k.log.f && log_close(&k.log)) failed = 1;
    for (i = 0; k.child && i < s->jobs; i++) {
        free(k.child[i].out.text);
        free(k.child[i].in.text);
    }
    row_free(&k.row);
    pool_free(k.strings);
    free(k.child);
    free(k.poll);
    free(k.sorted);
    free(k.q);
    return failed;
}

#endif /* TOOLS_ASKER_H */
