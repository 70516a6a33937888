/* cli.h: what every program build/dpo-NAME needs: options, a live line, figures for people, signals, JSON strings.
 *
 *     static int run(int argc, char **argv) {
 *         int batch = 64, lora = 0, precision = 0;
 *         double beta = 0.1;
 *         const char *out = NULL;
 *         cli_option options[] = {
 *             CLI_HEADING("Training"),
 *             CLI_INT("batch-size", &batch, 1, 65536, "per_device_train_batch_size", "examples per update"),
 *             CLI_DOUBLE("beta", &beta, CLI_ABOVE_0, CLI_NO_MAX, "", "how strongly the reference holds"),
 *             CLI_FLAG("lora", &lora, "use_peft", "train an adapter only"),
 *             CLI_WORD("precision", &precision, "fp32|mixed|bf16", "", "of weights and products"),
 *             CLI_STRING("out", &out, "DIR", "output_dir", "where the trained model goes")
 *         };
 *         cli_program p = cli_program_make("dpo-train", "1.0", "MODEL_DIR DATA... [options]", "Fine-tunes a model.");
 *         if (cli_parse(&p, options, CLI_COUNT(options), argc, argv)) return p.exit_code;
 *         if (p.argument_count < 2) return cli_die("expected a model directory and data; dpo-train --help says more");
 *
 * A value stands before the call at its default, which --help shows. '-' and '_' are alike in names. `--name value` and
 * `--name=value`; a flag is `--name`, `--no-name`, or `--name true|false` as Hugging Face users write it. Given twice,
 * the later wins. A word that begins with "--" is never taken as a value unless joined by '='; `--` ends the options.
 * cli_parse may be called again on the same options: a program that has recipes parses, sets the recipe's values, and
 * parses again, so that what was given wins wherever it stood.
 *
 * Nothing here ends the program but a second SIGINT or SIGTERM. One file per program includes this: its state is static.
 * Not for use from several threads, but for cli_clock and cli_stopped. */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#if !defined(_DEFAULT_SOURCE) && !defined(_GNU_SOURCE)
#define _DEFAULT_SOURCE 1 /* sigaction, clock_gettime; without effect, and then done without, after a system header */
#endif
#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
#define CLI_UNIX 1
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>
#else
#define CLI_UNIX 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define CLI_PRINTF __attribute__((__format__(__printf__, 1, 2)))
#else
#define CLI_PRINTF
#endif

/* ---- the program's state ---------------------------------------------------------------------------------------- */

typedef struct cli_state {
    const char *name; /* of the program, for messages */
    char line[512];   /* the live line as last given */
    size_t line_len;
    int shown;   /* on a terminal: it stands there now */
    int pending; /* it was not shown yet */
    double drawn_at;
    int drawn;           /* drawn_at is set */
    char figures[8][32]; /* cli_count and its like write here in turn */
    unsigned figure;
} cli_state;

static cli_state cli_this;
static volatile sig_atomic_t cli_signals;

/* ---- clock and memory ------------------------------------------------------------------------------------------- */

/* Seconds since some moment; only differences mean anything. */
static inline double cli_clock(void) {
#if defined(CLOCK_MONOTONIC)
    struct timespec t;
    if (!clock_gettime(CLOCK_MONOTONIC, &t)) return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
#if CLI_UNIX
    {
        struct timeval v; /* strict C99 with a system header first: no clock_gettime */
        if (!gettimeofday(&v, NULL)) return (double)v.tv_sec + 1e-6 * (double)v.tv_usec;
    }
#endif
    return (double)time(NULL);
}

/* The most memory this process ever had resident, in bytes; 0 where the system does not say. */
static inline uint64_t cli_peak_memory(void) {
#if defined(__linux__)
    /* Linux lets getrusage inherit the peak of the process that started this one, so its own figure comes first. */
    FILE *f = fopen("/proc/self/status", "r");
    char line[128];
    unsigned long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmHWM:", 6)) {
            kb = strtoull(line + 6, NULL, 10);
            break;
        }
    if (f) fclose(f);
    if (kb) return (uint64_t)kb * 1024;
#endif
#if CLI_UNIX
    {
        struct rusage u;
        if (!getrusage(RUSAGE_SELF, &u) && u.ru_maxrss > 0) {
#if defined(__APPLE__)
            return (uint64_t)u.ru_maxrss;
#else
            return (uint64_t)u.ru_maxrss * 1024;
#endif
        }
    }
#endif
    return 0;
}

/* ---- figures for people ----------------------------------------------------------------------------------------- */

/* Each gives a string that lives until the eighth later call of any of them. */
static inline char *cli_figure(void) { return cli_this.figures[cli_this.figure++ & 7u]; }

/* The shortest decimal that reads back as v: 0.1, 5e-07, 64. */
static inline const char *cli_number(double v) {
    char *s = cli_figure();
    int digits;
    if (v > -1e15 && v < 1e15 && v == (double)(int64_t)v) {
        snprintf(s, 32, "%.0f", v);
        return s;
    }
    for (digits = 6; digits <= 17; digits++) {
        snprintf(s, 32, "%.*g", digits, v);
        if (strtod(s, NULL) == v) break;
    }
    return s;
}

static inline const char *cli_count(uint64_t n) { /* 160,800 */
    char digits[24], *s = cli_figure(), *to = s;
    int i, len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    for (i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) *to++ = ',';
        *to++ = digits[i];
    }
    *to = 0;
    return s;
}

static inline const char *cli_bytes(uint64_t n) { /* 999 B, 1.2 GB; powers of 1000, as CLI_BYTES reads "1.2GB" */
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    char *s = cli_figure();
    double v = (double)n;
    int u = 0;
    while (u < 6 && v >= (u ? 999.5 : 1000.0)) {
        v /= 1000;
        u++;
    }
    snprintf(s, 32, u && v < 99.95 ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return s;
}

static inline const char *cli_duration(double seconds) { /* 3.4 s, 42 s, 2 min 03 s, 1 h 12 min, 3 d 04 h */
    char *s = cli_figure();
    unsigned long long t;
    if (!(seconds >= 0) || seconds > 1e12) return strcpy(s, "?"); /* NaN too: an estimate before the first step */
    t = (unsigned long long)(seconds + 0.5);
    if (seconds < 9.95) snprintf(s, 32, "%.1f s", seconds);
    else if (t < 60) snprintf(s, 32, "%llu s", t);
    else if (t < 3600) snprintf(s, 32, "%llu min %02llu s", t / 60, t % 60);
    else if ((t = (t + 30) / 60) < 1440) snprintf(s, 32, "%llu h %02llu min", t / 60, t % 60);
    else {
        t = (t + 30) / 60;
        snprintf(s, 32, "%llu d %02llu h", t / 24, t % 24);
    }
    return s;
}

/* ---- the live line ---------------------------------------------------------------------------------------------- */

enum { CLI_LIVE_SECONDS = 5 }; /* between plain lines where there is no terminal */

static inline int cli_terminal(void) { /* can a line be redrawn on stderr? */
#if CLI_UNIX
    const char *term = getenv("TERM");
    return isatty(2) && !(term && !strcmp(term, "dumb"));
#else
    return 0;
#endif
}

static inline int cli_width(void) { /* columns: COLUMNS, else what the terminal says, else 80 */
    const char *s = getenv("COLUMNS");
    long n = s ? strtol(s, NULL, 10) : 0;
#if defined(TIOCGWINSZ)
    struct winsize w;
    if (n <= 0 && !ioctl(2, TIOCGWINSZ, &w)) n = w.ws_col;
#endif
    return n <= 0 ? 80 : n < 20 ? 20 : n > 500 ? 500 : (int)n;
}

/* How many of the n bytes fit into that many columns, a character a column (wide ones are not known to be wide). */
static inline size_t cli_fit(const char *s, size_t n, int columns) {
    size_t i;
    for (i = 0; i < n; i++)
        if (((unsigned char)s[i] & 0xC0u) != 0x80u && columns-- == 0) break;
    return i;
}

static inline void cli_live_draw(int terminal) {
    if (terminal) /* one column stays free: a full line would wrap and could not be redrawn */
        fprintf(stderr, "\r%.*s\x1b[K", (int)cli_fit(cli_this.line, cli_this.line_len, cli_width() - 1), cli_this.line);
    else fprintf(stderr, "%s\n", cli_this.line);
    fflush(stderr);
    cli_this.shown = terminal;
    cli_this.pending = 0;
    cli_this.drawn_at = cli_clock();
    cli_this.drawn = 1;
}

static inline void cli_live_set(const char *line, int now) {
    int terminal = cli_terminal();
    size_t i;
    double wait = terminal ? 0.05 : (double)CLI_LIVE_SECONDS;
    for (i = 0; line[i] && i < sizeof cli_this.line - 1; i++) /* a control character in it must not move the cursor */
        cli_this.line[i] = (unsigned char)line[i] < 32 || line[i] == 127 ? ' ' : line[i];
    while (line[i] && i && ((unsigned char)line[i] & 0xC0u) == 0x80u) i--; /* no character cut in two */
    cli_this.line[i] = 0;
    cli_this.line_len = i;
    cli_this.pending = 1;
    if (now || !cli_this.drawn || cli_clock() - cli_this.drawn_at >= wait) cli_live_draw(terminal);
}

/* Shows progress. On a terminal one line redrawn in place, at most 20 times a second; else a plain line every few
 * seconds. Call it as often as you like. */
static inline void cli_live(const char *line) { cli_live_set(line, 0); }

/* The same, but this one is shown in any case: an evaluation, a checkpoint. */
static inline void cli_live_now(const char *line) { cli_live_set(line, 1); }

/* Leaves the last line standing. */
static inline void cli_live_end(void) {
    if (cli_this.pending) cli_live_draw(cli_terminal());
    if (cli_this.shown) fputc('\n', stderr);
    cli_this.shown = 0;
    cli_this.drawn = 0; /* the next live line begins at once */
}

/* Makes place for an ordinary line; the live line comes back with the next cli_live. */
static inline void cli_live_clear(void) {
    if (cli_this.shown) fputs("\r\x1b[K", stderr);
    cli_this.shown = 0;
    fflush(stdout);
}

/* ---- messages --------------------------------------------------------------------------------------------------- */

/* Prints `dpo-NAME: sentence` on stderr and gives 1, for `return cli_die(...)`. */
CLI_PRINTF static inline int cli_die(const char *format, ...) {
    va_list args;
    cli_live_clear();
    fprintf(stderr, "%s: ", cli_this.name ? cli_this.name : "dpo");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return 1;
}

/* Prints a line on stderr, above the live line. */
CLI_PRINTF static inline void cli_note(const char *format, ...) {
    va_list args;
    int shown = cli_this.shown;
    cli_live_clear();
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    if (shown) cli_live_draw(1);
}

/* ---- signals ---------------------------------------------------------------------------------------------------- */

static inline void cli_on_signal(int number) {
    (void)number;
    if (cli_signals)
        _Exit(130); /* the second time: at once; files are replaced atomically, so nothing is half written */
    cli_signals = 1;
}

/* From now on the first SIGINT or SIGTERM only makes cli_stopped() true: finish the step, save, return. */
static inline void cli_catch_signals(void) {
#if CLI_UNIX && defined(SA_RESTART)
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = cli_on_signal;
    a.sa_flags = SA_RESTART; /* a checkpoint being written goes on */
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
#else
    signal(SIGINT, cli_on_signal);
    signal(SIGTERM, cli_on_signal);
#endif
}

static inline int cli_stopped(void) { return cli_signals != 0; }

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

/* Length of the valid UTF-8 character at s (1 to 4), 0 if there is none: overlong forms, surrogates, above 10FFFF. */
static inline int cli_utf8(const unsigned char *s, size_t n) {
    int len = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0, i;
    if (!len || (size_t)len > n) return 0;
    for (i = 1; i < len; i++)
        if ((s[i] & 0xC0u) != 0x80u) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0;
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0;
    return len;
}

/* Writes n bytes as a JSON string, quotes included. Valid UTF-8 stays as it is; each byte that is part of none becomes
 * \ufffd, so that a token cut inside a character still leaves a file that every reader takes. */
static inline void cli_json_string(FILE *f, const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i;
    fputc('"', f);
    for (i = 0; i < n;) {
        int len = cli_utf8(s + i, n - i);
        if (!len) fputs("\\ufffd", f);
        else if (s[i] == '"' || s[i] == '\\') fprintf(f, "\\%c", s[i]);
        else if (s[i] == '\n') fputs("\\n", f);
        else if (s[i] == '\t') fputs("\\t", f);
        else if (s[i] == '\r') fputs("\\r", f);
        else if (s[i] < 32) fprintf(f, "\\u%04x", (unsigned)s[i]);
        else fwrite(s + i, 1, (size_t)len, f);
        i += len ? (size_t)len : 1;
    }
    fputc('"', f);
}

/* Writes a number that reads back as the same double; null for what JSON cannot say (NaN, infinity). */
static inline void cli_json_number(FILE *f, double v) { fputs(v - v == 0 ? cli_number(v) : "null", f); }

/* ---- options ---------------------------------------------------------------------------------------------------- */

enum {
    CLI_IS_HEADING,
    CLI_IS_FLAG,
    CLI_IS_INT,
    CLI_IS_UINT64,
    CLI_IS_BYTES,
    CLI_IS_DOUBLE,
    CLI_IS_STRING,
    CLI_IS_WORD
};

typedef struct cli_option {
    int kind;
    const char *name;    /* without dashes; a heading's text */
    const char *aliases; /* further names, separated by spaces */
    void *value;         /* int (flag, int, word), uint64_t (uint64, bytes), double, const char * */
    const char *words;   /* word: the choices "a|b|c", the value becomes 0, 1, 2; else what --help calls the value */
    double low, high;    /* permitted, both included; an infinite end permits that infinity itself, NaN never is */
    const char *help;    /* what it does, in a line */
    int given;           /* set by cli_parse: the user gave it */
} cli_option;

#define CLI_NO_MIN  (-DBL_MAX)
#define CLI_NO_MAX  DBL_MAX
#define CLI_ABOVE_0 DBL_MIN /* as `low`: 0 itself is not permitted */

#define CLI_HEADING(text)                                                                                              \
    { CLI_IS_HEADING, text, "", NULL, "", 0, 0, "", 0 }
#define CLI_FLAG(name, at, aliases, help)                                                                              \
    { CLI_IS_FLAG, name, aliases, at, "", 0, 1, help, 0 }
#define CLI_INT(name, at, low, high, aliases, help)                                                                    \
    { CLI_IS_INT, name, aliases, at, "N", low, high, help, 0 }
#define CLI_UINT64(name, at, aliases, help)                                                                            \
    { CLI_IS_UINT64, name, aliases, at, "N", 0, CLI_NO_MAX, help, 0 }
#define CLI_BYTES(name, at, aliases, help)                                                                             \
    { CLI_IS_BYTES, name, aliases, at, "SIZE", 0, CLI_NO_MAX, help, 0 }
#define CLI_DOUBLE(name, at, low, high, aliases, help)                                                                 \
    { CLI_IS_DOUBLE, name, aliases, at, "X", low, high, help, 0 }
#define CLI_STRING(name, at, what, aliases, help)                                                                      \
    { CLI_IS_STRING, name, aliases, at, what, 0, 0, help, 0 }
#define CLI_WORD(name, at, words, aliases, help)                                                                       \
    { CLI_IS_WORD, name, aliases, at, words, 0, 0, help, 0 }
#define CLI_COUNT(options) ((int)(sizeof(options) / sizeof(options)[0]))

enum { CLI_ARGUMENTS = 256 };

typedef struct cli_program {
    const char *name, *version, *usage, *about;
    const char *argument[CLI_ARGUMENTS]; /* what is no option, in order */
    int argument_count, argument_max;    /* argument_max may be lowered before cli_parse */
    cli_option *options;
    int option_count;
    int exit_code; /* for main to return when cli_parse says so */
} cli_program;

/* usage: what follows the name, "MODEL_DIR DATA [options]"; about: a sentence or two for --help. */
static inline cli_program cli_program_make(const char *name, const char *version, const char *usage,
                                           const char *about) {
    cli_program p;
    memset(&p, 0, sizeof p);
    p.name = cli_this.name = name;
    p.version = version;
    p.usage = usage;
    p.about = about;
    p.argument_max = CLI_ARGUMENTS;
    return p;
}

/* Steps through "one two three": the next word's length, *at moved to it; 0 at the end. */
static inline size_t cli_next(const char **at, size_t previous, char separator) {
    const char *s = *at + previous;
    size_t n = 0;
    while (*s == separator) s++;
    while (s[n] && s[n] != separator) n++;
    *at = s;
    return n;
}

static inline int cli_same(const char *a, size_t n, const char *b, size_t m) { /* '-' and '_' alike */
    size_t i;
    if (n != m) return 0;
    for (i = 0; i < n; i++)
        if ((a[i] == '_' ? '-' : a[i]) != (b[i] == '_' ? '-' : b[i])) return 0;
    return 1;
}

static inline cli_option *cli_find(cli_program *p, const char *name, size_t n) {
    int i;
    for (i = 0; i < p->option_count; i++) {
        cli_option *o = &p->options[i];
        const char *at = o->aliases;
        size_t len = 0;
        if (o->kind == CLI_IS_HEADING) continue;
        if (cli_same(name, n, o->name, strlen(o->name))) return o;
        while ((len = cli_next(&at, len, ' ')) > 0)
            if (cli_same(name, n, at, len)) return o;
    }
    return NULL;
}

/* Did the user give this option? For defaults that depend on others. */
static inline int cli_given(cli_program *p, const char *name) {
    const cli_option *o = cli_find(p, name, strlen(name));
    return o && o->given;
}

/* Fewest insertions, deletions, exchanges and swaps of neighbours that make b of a; only the first 63 bytes of each. */
static inline int cli_distance(const char *a, size_t n, const char *b, size_t m) {
    int row[3][64], *two = row[0], *one = row[1], *now = row[2];
    size_t i, j;
    n = n < 63 ? n : 63;
    m = m < 63 ? m : 63;
    memset(row, 0, sizeof row);
    for (j = 0; j <= m; j++) one[j] = (int)j;
    for (i = 1; i <= n; i++) {
        int *t = two;
        now[0] = (int)i;
        for (j = 1; j <= m; j++) {
            int same = cli_same(a + i - 1, 1, b + j - 1, 1), d = one[j - 1] + !same;
            if (one[j] + 1 < d) d = one[j] + 1;
            if (now[j - 1] + 1 < d) d = now[j - 1] + 1;
            if (i > 1 && j > 1 && !same && cli_same(a + i - 1, 1, b + j - 2, 1) &&
                cli_same(a + i - 2, 1, b + j - 1, 1) && two[j - 2] + 1 < d)
                d = two[j - 2] + 1;
            now[j] = d;
        }
        two = one;
        one = now;
        now = t;
    }
    return one[m];
}

typedef struct cli_guess {
    const char *name, *no;
    size_t len;
    int distance; /* to beat */
} cli_guess;

static inline void cli_guess_names(cli_guess *g, const char *names, int flag, const char *name, size_t n) {
    size_t len = 0;
    while ((len = cli_next(&names, len, ' ')) > 0) {
        int d = cli_distance(name, n, names, len), no = flag && n > 3 && cli_same(name, 3, "no-", 3);
        if (len > n && n >= 4 && d > 2 && cli_same(name, n, names, n)) d = 2; /* its beginning */
        if (d < g->distance) {
            g->distance = d;
            g->name = names;
            g->len = len;
            g->no = "";
        }
        if (!no) continue;
        d = cli_distance(name + 3, n - 3, names, len);
        if (d < g->distance) {
            g->distance = d;
            g->name = names;
            g->len = len;
            g->no = "no-";
        }
    }
}

static inline int cli_unknown(cli_program *p, const char *name, size_t n) {
    cli_guess g;
    int i;
    g.name = g.no = "";
    g.len = 0;
    g.distance = n < 4 ? 2 : n < 9 ? 3 : (int)(n < 63 ? n : 63) / 3 + 1; /* what is further off is no help */
    for (i = 0; i < p->option_count; i++) {
        const cli_option *o = &p->options[i];
        if (o->kind == CLI_IS_HEADING) continue;
        cli_guess_names(&g, o->name, o->kind == CLI_IS_FLAG, name, n);
        cli_guess_names(&g, o->aliases, o->kind == CLI_IS_FLAG, name, n);
    }
    if (g.len) return cli_die("unknown option --%.*s; did you mean --%s%.*s?", (int)n, name, g.no, (int)g.len, g.name);
    return cli_die("unknown option --%.*s; %s --help lists them", (int)n, name, p->name);
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

/* "an integer from 1 to 64", for --help and for errors. */
static inline void cli_expected(const cli_option *o, char *s, size_t cap) {
    int low = o->low > (o->kind == CLI_IS_INT ? (double)INT_MIN : CLI_NO_MIN);
    int high = o->high < (o->kind == CLI_IS_INT ? (double)INT_MAX : CLI_NO_MAX);
    const char *what = o->kind == CLI_IS_DOUBLE ? "a number" : "an integer";
    if (o->kind == CLI_IS_FLAG) snprintf(s, cap, "true or false");
    else if (o->kind == CLI_IS_WORD) snprintf(s, cap, "one of %s", o->words);
    else if (o->kind == CLI_IS_STRING) snprintf(s, cap, "%s", o->words);
    else if (o->kind == CLI_IS_UINT64) snprintf(s, cap, "an integer from 0 to %llu", (unsigned long long)UINT64_MAX);
    else if (o->kind == CLI_IS_BYTES) snprintf(s, cap, "a size like 512M, 4G or 4GiB");
    else if (o->low == CLI_ABOVE_0 && !high) snprintf(s, cap, "%s above 0", what);
    else if (o->low == CLI_ABOVE_0) snprintf(s, cap, "%s above 0 and up to %s", what, cli_number(o->high));
    else if (low && high) snprintf(s, cap, "%s from %s to %s", what, cli_number(o->low), cli_number(o->high));
    else if (low) snprintf(s, cap, "%s of at least %s", what, cli_number(o->low));
    else if (high) snprintf(s, cap, "%s of at most %s", what, cli_number(o->high));
    else snprintf(s, cap, "%s", what);
}

/* Each reader takes the whole string or nothing: no blanks, no sign where none belongs, no overflow. */
static inline int cli_read_uint64(const char *s, size_t n, uint64_t *v) {
    uint64_t x = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        unsigned d = (unsigned)(unsigned char)s[i] - '0';
        if (d > 9 || x > (UINT64_MAX - d) / 10) return 0;
        x = 10 * x + d;
    }
    *v = x;
    return n > 0;
}

static inline int cli_read_int(const char *s, int *v) {
    int negative = *s == '-';
    uint64_t x;
    s += *s == '-' || *s == '+';
    if (!cli_read_uint64(s, strlen(s), &x) || x > (uint64_t)INT_MAX + (uint64_t)negative) return 0;
    *v = negative ? (int)-(int64_t)x : (int)x;
    return 1;
}

static inline int cli_read_double(const char *s, double *v) {
    char *end;
    double x;
    const char *digits = s + (*s == '-' || *s == '+');
    if (strspn(digits, "0123456789.eE+-") != strlen(digits)) { /* no blanks, hexadecimals, NaN */
        if (strcmp(digits, "inf") && strcmp(digits, "infinity")) return 0;
    } else if (!isdigit((unsigned char)digits[0]) && digits[0] != '.') return 0;
    errno = 0;
    x = strtod(s, &end);
    if (end == s || *end || errno == ERANGE) return 0;
    *v = x;
    return 1;
}

/* 4096, 512M, 4GB (powers of 1000), 4GiB (of 1024), 1.5G. */
static inline int cli_read_bytes(const char *s, uint64_t *v) {
    static const char letters[] = "kmgtpe";
    size_t n = strspn(s, "0123456789."), whole = strspn(s, "0123456789");
    const char *unit = s + n, *letter = *unit ? strchr(letters, tolower((unsigned char)*unit)) : NULL;
    uint64_t scale = 1, x;
    char text[32];
    double d, base = 1000;
    int power;
    if (letter) {
        unit++;
        if (*unit == 'i') {
            base = 1024;
            unit++;
        }
        for (power = (int)(letter - letters) + 1; power; power--) scale *= (uint64_t)base;
    }
    if (*unit == 'B' || *unit == 'b') unit++;
    if (*unit) return 0;
    if (n == whole) {
        if (!cli_read_uint64(s, n, &x) || x > UINT64_MAX / scale) return 0;
        *v = x * scale;
        return 1;
    }
    if (!letter || n >= sizeof text) return 0; /* no part of a byte */
    memcpy(text, s, n);
    text[n] = 0;
    if (!cli_read_double(text, &d) || d * (double)scale >= 18446744073709551616.0) return 0;
    *v = (uint64_t)(d * (double)scale);
    return 1;
}

/* 0, 1, ... of the word in the list, -1 if it is not in it. */
static inline int cli_read_word(const char *s, const char *words) {
    const char *at = words;
    size_t len = 0;
    int i;
    for (i = 0; (len = cli_next(&at, len, '|')) > 0; i++)
        if (cli_same(s, strlen(s), at, len)) return i;
    return -1;
}

static inline int cli_read_flag(const char *s) { /* -1 if it is neither */
    static const char words[] = "false|true|False|True|no|yes|off|on|0|1";
    int i = s ? cli_read_word(s, words) : -1;
    return i < 0 ? -1 : i & 1;
}

/* Reads s into the option's value; NULL for "there is none". 0, or 1 after an error was printed. */
static inline int cli_set(cli_option *o, const char *s) {
    char expected[256];
    int i = 0, ok = s != NULL;
    double d = 0;
    uint64_t u = 0;
    if (ok) switch (o->kind) {
        case CLI_IS_FLAG:
            i = cli_read_flag(s);
            ok = i >= 0;
            break;
        case CLI_IS_WORD:
            i = cli_read_word(s, o->words);
            ok = i >= 0;
            break;
        case CLI_IS_INT: ok = cli_read_int(s, &i) && i >= o->low && i <= o->high; break;
        case CLI_IS_UINT64: ok = cli_read_uint64(s, strlen(s), &u); break;
        case CLI_IS_BYTES: ok = cli_read_bytes(s, &u); break;
        case CLI_IS_DOUBLE: ok = cli_read_double(s, &d) && d >= o->low && d <= o->high; break;
        default: break;
        }
    if (!ok) {
        cli_expected(o, expected, sizeof expected);
        return s ? cli_die("--%s expects %s, got '%s'", o->name, expected, s)
                 : cli_die("--%s expects %s, got nothing", o->name, expected);
    }
    if (o->kind == CLI_IS_STRING) *(const char **)o->value = s;
    else if (o->kind == CLI_IS_DOUBLE) *(double *)o->value = d;
    else if (o->kind == CLI_IS_UINT64 || o->kind == CLI_IS_BYTES) *(uint64_t *)o->value = u;
    else *(int *)o->value = i;
    o->given = 1;
    return 0;
}

/* ---- help ------------------------------------------------------------------------------------------------------- */

/* Prints words from column `at` on, broken so that lines end before `width`, later lines begin at column `indent`. */
static inline void cli_wrap(FILE *f, const char *text, int at, int indent, int width) {
    const char *s = text;
    size_t len = 0;
    int first = 1;
    while ((len = cli_next(&s, len, ' ')) > 0) {
        int columns = 0, bytes = (int)len, i;
        for (i = 0; i < bytes; i++) columns += ((unsigned char)s[i] & 0xC0u) != 0x80u;
        if (!first && at + 1 + columns >= width) {
            fprintf(f, "\n%*s", indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', f);
            at++;
        }
        fprintf(f, "%.*s", bytes, s);
        at += columns;
        first = 0;
    }
    fputc('\n', f);
}

/* The value as it stands now, empty if there is nothing to show. */
static inline void cli_default(const cli_option *o, char *s, size_t cap) {
    const char *at = o->words, *string;
    size_t len = 0;
    int i;
    s[0] = 0;
    switch (o->kind) {
    case CLI_IS_FLAG: snprintf(s, cap, "%s", *(const int *)o->value ? "on" : "off"); break;
    case CLI_IS_INT: snprintf(s, cap, "%d", *(const int *)o->value); break;
    case CLI_IS_UINT64: snprintf(s, cap, "%llu", (unsigned long long)*(const uint64_t *)o->value); break;
    case CLI_IS_BYTES: snprintf(s, cap, "%s", cli_bytes(*(const uint64_t *)o->value)); break;
    case CLI_IS_DOUBLE: snprintf(s, cap, "%s", cli_number(*(const double *)o->value)); break;
    case CLI_IS_STRING:
        string = *(const char *const *)o->value;
        if (string) snprintf(s, cap, "%s", string);
        break;
    default:
        for (i = *(const int *)o->value; i >= 0 && (len = cli_next(&at, len, '|')) > 0; i--)
            if (i == 0) snprintf(s, cap, "%.*s", (int)len, at);
    }
}

static inline void cli_help_option(FILE *f, const cli_option *o, int width) {
    enum { COLUMN = 28 };
    char text[1024], value[256];
    int at, n;
    const char *alias = o->aliases;
    size_t len = 0;
    at = fprintf(f, "  --%s%s%s", o->name, o->words[0] ? " " : "", o->kind == CLI_IS_WORD ? "WORD" : o->words);
    if (at < 0) return; /* the output is gone; what is left to print is too */
    if (at > COLUMN - 2) {
        fputc('\n', f);
        at = 0;
    }
    fprintf(f, "%*s", COLUMN - at, "");
    cli_default(o, value, sizeof value);
    n = snprintf(text, sizeof text, "%s%s%s", o->help, o->kind == CLI_IS_WORD ? ": " : "",
                 o->kind == CLI_IS_WORD ? o->words : "");
    if (n < (int)sizeof text && value[0]) n += snprintf(text + n, sizeof text - (size_t)n, " (default %s)", value);
    while (n < (int)sizeof text && (len = cli_next(&alias, len, ' ')) > 0)
        n += snprintf(text + n, sizeof text - (size_t)n, " [--%.*s]", (int)len, alias);
    cli_wrap(f, text, COLUMN, COLUMN, width);
}

static inline void cli_help(const cli_program *p, FILE *f) {
    int i, width = cli_width();
    fprintf(f, "usage: %s %s\n\n", p->name, p->usage);
    cli_wrap(f, p->about, 0, 0, width);
    if (p->option_count && p->options[0].kind != CLI_IS_HEADING) fputc('\n', f);
    for (i = 0; i < p->option_count; i++) {
        if (p->options[i].kind == CLI_IS_HEADING) fprintf(f, "\n%s\n", p->options[i].name);
        else cli_help_option(f, &p->options[i], width);
    }
    fprintf(f, "\n  --help, --version\n\n"
               "'-' and '_' are alike in names; a flag --name has its --no-name; in [ ]: other names.\n");
}

/* ---- the command line ------------------------------------------------------------------------------------------- */

/* --help and --version come before everything, so that defaults are shown and not what stood before --help. */
static inline int cli_asked(cli_program *p, int argc, char **argv) {
    int i;
    for (i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--version")) {
            printf("%s %s\n", p->name, p->version);
            return 1;
        }
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            cli_help(p, stdout);
            return 1;
        }
    }
    return 0;
}

/* One `--name...` at argv[*i]; *i moves on if the next word is its value. 0, or 1 after an error was printed. */
static inline int cli_parse_option(cli_program *p, int argc, char **argv, int *i) {
    const char *name = argv[*i] + 2, *equals = strchr(name, '='), *value = equals ? equals + 1 : NULL;
    const char *next = *i + 1 < argc ? argv[*i + 1] : NULL;
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    cli_option *o = cli_find(p, name, n);
    if (!o && n > 3 && cli_same(name, 3, "no-", 3)) {
        o = cli_find(p, name + 3, n - 3);
        if (o && o->kind == CLI_IS_FLAG) {
            if (value) return cli_die("--%.*s takes no value, got '%s'", (int)n, name, value);
            return cli_set(o, "false");
        }
        o = NULL;
    }
    if (!o) return cli_unknown(p, name, n);
    if (o->kind == CLI_IS_FLAG && !value) { /* only `true` and `false` are taken: `--lora 1` would be ambiguous */
        if (!next || strspn(next, "TtFf") != 1 || cli_read_flag(next) < 0) return cli_set(o, "true");
    }
    if (!value && next && strncmp(next, "--", 2)) {
        value = next;
        ++*i;
    }
    return cli_set(o, value);
}

/* Reads the command line into the options' values and p->argument. 0: go on. Else something was printed, help or an
 * error, and main returns p->exit_code. */
static inline int cli_parse(cli_program *p, cli_option *options, int option_count, int argc, char **argv) {
    int i, only_arguments = 0;
    p->options = options;
    p->option_count = option_count;
    p->argument_count = 0;
    p->exit_code = 0;
    for (i = 0; i < option_count; i++) options[i].given = 0;
    if (cli_asked(p, argc, argv)) return 1;
    for (i = 1; i < argc; i++) {
        const char *s = argv[i];
        if (!only_arguments && !strcmp(s, "--")) {
            only_arguments = 1;
            continue;
        }
        if (!only_arguments && s[0] == '-' && s[1] == '-') {
            if (cli_parse_option(p, argc, argv, &i)) {
                p->exit_code = 1;
                return 1;
            }
            continue;
        }
        if (!only_arguments && s[0] == '-' && s[1]) { /* "-" alone is an argument: standard input */
            p->exit_code = cli_die("unknown option %s; options begin with --, %s --help lists them", s, p->name);
            return 1;
        }
        if (p->argument_count >= p->argument_max || p->argument_count >= CLI_ARGUMENTS) {
            p->exit_code =
                cli_die("expected at most %d arguments, got '%s' besides; usage: %s %s",
                        p->argument_max < CLI_ARGUMENTS ? p->argument_max : CLI_ARGUMENTS, s, p->name, p->usage);
            return 1;
        }
        p->argument[p->argument_count++] = s;
    }
    return 0;
}

#endif /* TOOLS_CLI_H */
