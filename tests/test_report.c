/* test_report.c - the tests of dpo-report: text in HTML, axes, smoothing, whole pages of made runs, bad input of every
   kind. A page is judged by a checker of its own: every tag known, closed and where it may stand, every attribute quoted,
   nothing that loads or runs. The program is included, its main called as report_main.

   usage: report [part of a name]     Last line: N passed, N failed. Exit status 1 on any failure, or when fewer tests ran
   than there must be. */
#define main report_main
#include "../tools/dpo-report.c"
#undef main
#include "check.h"

#define FLOOR  19 /* so many tests there are at least */
#define FOLDER "build/tests/report.out"

/* ---- the checker ------------------------------------------------------------------------------------------------ */

/* Each element, what it may stand in ("*": anything that holds text), whether it holds text. */
static const struct element {
    const char *name, *parents;
    int holds_text;
} elements[] = {{"html", "", 0},
                {"head", "html", 0},
                {"meta", "head", 0},
                {"title", "head svg g", 1},
                {"style", "head", 1},
                {"body", "html", 0},
                {"main", "body", 0},
                {"section", "main", 0},
                {"figure", "main", 0},
                {"h1", "main", 1},
                {"h2", "section figure div", 1},
                {"h3", "div", 1},
                {"p", "main section figcaption details", 1},
                {"div", "main section figure figcaption div details", 1},
                {"ul", "figure div", 0},
                {"li", "ul", 1},
                {"span", "* span", 1},
                {"small", "*", 1},
                {"a", "th", 1},
                {"wbr", "*", 0},
                {"figcaption", "figure", 0},
                {"details", "figcaption section", 0},
                {"summary", "details", 1},
                {"table", "div", 0},
                {"thead", "table", 0},
                {"tbody", "table", 0},
                {"tr", "thead tbody", 0},
                {"th", "tr", 1},
                {"td", "tr", 1},
                {"svg", "div svg", 0},
                {"desc", "svg", 1},
                {"g", "svg", 0},
                {"path", "svg g", 0},
                {"line", "svg", 0},
                {"text", "svg", 1}};

static const char *const attributes[] = {"lang",    "charset",   "http-equiv",
                                         "content", "name",      "class",
                                         "id",      "style",     "title",
                                         "scope",   "data-name", "role",
                                         "width",   "height",    "aria-labelledby",
                                         "viewBox", "d",         "preserveAspectRatio",
                                         "x",       "y",         "x1",
                                         "x2",      "y1",        "y2",
                                         "dx",      "href"};

static const char *const entities[] = {"amp",   "lt",    "gt",     "quot", "#39",   "hellip",
                                       "ndash", "minus", "plusmn", "nbsp", "rsquo", "mdash"};

typedef struct page {
    const char *s, *end;
    const struct element *open[32];
    int depth, tags, charts;
    char ids[64][32];
    int id_count;
    char fault[256];
} page;

static int fault(page *p, const char *what) {
    int n = (int)(p->end - p->s < 60 ? p->end - p->s : 60);
    if (!p->fault[0]) snprintf(p->fault, sizeof p->fault, "%s at '%.*s'", what, n, p->s);
    return 0;
}

static int is_word(const char *list, const char *word) { /* of words separated by blanks */
    size_t n = strlen(word), len;
    for (; *list; list += len + (list[len] != 0)) {
        len = strcspn(list, " ");
        if (len == n && !strncmp(list, word, n)) return 1;
    }
    return 0;
}

static int page_entity(page *p) {
    char name[16];
    size_t n = 0, i;
    for (p->s++; p->s < p->end && *p->s != ';' && n < sizeof name - 1;) name[n++] = *p->s++;
    name[n] = 0;
    if (p->s == p->end || *p->s != ';') return fault(p, "an entity without its end");
    p->s++;
    for (i = 0; i < sizeof entities / sizeof entities[0]; i++)
        if (!strcmp(name, entities[i])) return 1;
    if (name[0] == '#' && name[1] == 'x' && n > 2 && strspn(name + 2, "0123456789abcdef") == n - 2) {
        unsigned long c = strtoul(name + 2, NULL, 16);
        return c >= 0xA0 && c != 0x2028 ? 1 : fault(p, "an entity for a control character");
    }
    return fault(p, "an unknown entity");
}

/* One character of text, which must be one that HTML has. */
static int page_character(page *p) {
    const unsigned char *s = (const unsigned char *)p->s;
    int len = cli_utf8(s, (size_t)(p->end - p->s));
    uint32_t c = len ? html_character(s, len) : 0;
    if (*p->s == '&') return page_entity(p);
    if (!len) return fault(p, "bytes that are no UTF-8");
    if (*p->s == '>' || *p->s == '<' || *p->s == '"') return fault(p, "an unescaped character");
    if (c < 32 && c != '\n' && c != '\t') return fault(p, "a control character");
    if ((c >= 127 && c < 160) || (c & 0xFFFEu) == 0xFFFEu || (c >= 0xFDD0 && c < 0xFDF0))
        return fault(p, "a noncharacter");
    p->s += len;
    return 1;
}

static int page_attribute(page *p, int style_allowed) {
    char name[32];
    const char *value;
    size_t n = 0, i;
    while (p->s < p->end && (isalnum((unsigned char)*p->s) || *p->s == '-') && n < sizeof name - 1) name[n++] = *p->s++;
    name[n] = 0;
    for (i = 0; i < sizeof attributes / sizeof attributes[0] && strcmp(name, attributes[i]); i++) {
    }
    if (i == sizeof attributes / sizeof attributes[0]) return fault(p, "an unknown attribute");
    if (p->end - p->s < 2 || p->s[0] != '=' || p->s[1] != '"') return fault(p, "an attribute without quotes");
    value = p->s += 2;
    while (p->s < p->end && *p->s != '"')
        if (!page_character(p)) return 0;
    if (p->s == p->end) return fault(p, "an attribute without an end");
    if (!strcmp(name, "style") && (!style_allowed || strncmp(value, "--room:", 7) || p->s - value > 14))
        return fault(p, "a style");
    if (!strcmp(name, "href") && *value != '#') return fault(p, "a way out of the page");
    if (!strcmp(name, "id")) {
        if (p->id_count == 64 || p->s - value > 31) return fault(p, "too many ids");
        snprintf(p->ids[p->id_count], sizeof p->ids[0], "%.*s", (int)(p->s - value), value);
        for (i = 0; i < (size_t)p->id_count; i++)
            if (!strcmp(p->ids[i], p->ids[p->id_count])) return fault(p, "an id twice");
        p->id_count++;
    }
    p->s++;
    return 1;
}

/* What is between <style> and </style>: nothing that loads. */
static int page_style(page *p) {
    static const char *const bad[] = {"url(", "@import", "http", "expression", "<", "\\"};
    const char *end = strstr(p->s, "</style>");
    size_t i;
    if (!end) return fault(p, "a style without an end");
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *at = strstr(p->s, bad[i]);
        if (at && at < end) return fault(p, bad[i]);
    }
    p->s = end;
    return 1;
}

static int page_may_stand(const page *p, const struct element *e) {
    const struct element *in = p->depth ? p->open[p->depth - 1] : NULL;
    if (!in) return !e->parents[0];
    return is_word(e->parents, in->name) ||
           (e->parents[0] == '*' && in->holds_text && strcmp(in->name, "title") && strcmp(in->name, "style") &&
            strcmp(in->name, "text") && strcmp(in->name, "desc"));
}

static int page_tag(page *p) {
    char name[16];
    size_t n = 0, i;
    int closing = p->s[1] == '/', empty;
    const struct element *e = NULL;
    p->s += 1 + closing;
    while (p->s < p->end && isalnum((unsigned char)*p->s) && n < sizeof name - 1) name[n++] = *p->s++;
    name[n] = 0;
    for (i = 0; i < sizeof elements / sizeof elements[0]; i++)
        if (!strcmp(name, elements[i].name)) e = &elements[i];
    if (!e) return fault(p, "an unknown element");
    p->tags++;
    if (closing) {
        if (!p->depth || p->open[p->depth - 1] != e) return fault(p, "an end without its beginning");
        p->depth--;
        if (*p->s != '>') return fault(p, "an end tag with more in it");
        p->s++;
        return 1;
    }
    if (!page_may_stand(p, e)) return fault(p, "an element where it must not stand");
    p->charts += !strcmp(name, "svg") && strcmp(p->open[p->depth - 1]->name, "svg") != 0;
    while (p->s < p->end && *p->s == ' ') {
        p->s++;
        if (!page_attribute(p, !strcmp(name, "div"))) return 0;
    }
    empty = p->s < p->end && *p->s == '/';
    p->s += empty;
    if (p->s == p->end || *p->s != '>') return fault(p, "a tag without an end");
    p->s++;
    if (empty) return !strcmp(name, "path") || !strcmp(name, "line") ? 1 : fault(p, "an element closed by a slash");
    if (!strcmp(name, "meta") || !strcmp(name, "wbr")) return 1;
    if (p->depth == 32) return fault(p, "too deep");
    p->open[p->depth++] = e;
    return strcmp(name, "style") ? 1 : page_style(p);
}

/* Reads a page to its end; what is wrong with it stands in p->fault. */
static void page_check(page *p, const char *s, size_t n) {
    static const char doctype[] = "<!DOCTYPE html>\n";
    memset(p, 0, sizeof *p);
    p->s = s;
    p->end = s + n;
    if (n < sizeof doctype || strncmp(s, doctype, sizeof doctype - 1)) {
        fault(p, "no doctype");
        return;
    }
    p->s += sizeof doctype - 1;
    while (p->s < p->end && !p->fault[0]) {
        if (*p->s == '<') page_tag(p);
        else if (*p->s != '\n' && *p->s != ' ' && (!p->depth || !p->open[p->depth - 1]->holds_text))
            fault(p, "text where none may stand");
        else page_character(p);
    }
    if (!p->fault[0] && p->depth) fault(p, "elements that are not closed");
    if (!p->fault[0] && p->tags < 20) fault(p, "an empty page");
}

/* ---- runs, files, pages ----------------------------------------------------------------------------------------- */

static char *html; /* of the last page */
static size_t html_n;
static page judged;

static void put_bytes(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    CHECK(fwrite(bytes, 1, n, f) == n);
    fclose(f);
}
static void put(const char *path, const char *s) { put_bytes(path, s, strlen(s)); }

static void put_metrics(const char *name, const char *lines, size_t n) {
    char path[256];
    snprintf(path, sizeof path, FOLDER "/%s", name);
    mkdir(path, 0777);
    snprintf(path, sizeof path, FOLDER "/%s/metrics.jsonl", name);
    put_bytes(path, lines, n);
    snprintf(path, sizeof path, FOLDER "/%s/run.json", name);
    remove(path);
    snprintf(path, sizeof path, FOLDER "/%s/samples.jsonl", name);
    remove(path);
}

static void put_in(const char *name, const char *file, const char *s) {
    char path[256];
    snprintf(path, sizeof path, FOLDER "/%s/%s", name, file);
    put(path, s);
}

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    char *s = SCRATCH(char, 8 << 20);
    *n = 0;
    if (!f) return s;
    *n = fread(s, 1, (8 << 20) - 1, f);
    fclose(f);
    return s;
}

/* What went to stderr during the last run. */
static const char *said(void) {
    size_t n;
    fflush(stderr);
    return slurp(FOLDER "/said", &n);
}

static int says(const char *words) {
    if (strstr(said(), words)) return 1;
    printf("said: %s", said());
    return 0;
}

/* Runs the program on the words of a line; %-free paths stand for themselves, @x for FOLDER/x. 0, and the page is judged. */
static int report_on(const char *line) {
    static char words[64][512];
    char *argv[66];
    int argc = 0, failed;
    size_t len;
    if (!freopen(FOLDER "/said", "wb", stderr)) return 9;
    argv[argc++] = (char *)(uintptr_t) "dpo-report";
    for (; *line && argc < 64; line += len + (line[len] != 0)) {
        len = strcspn(line, " ");
        snprintf(words[argc], sizeof words[0], "%s%.*s", *line == '@' ? FOLDER "/" : "", (int)len - (*line == '@'),
                 line + (*line == '@'));
        argv[argc] = words[argc];
        argc++;
    }
    argv[argc++] = (char *)(uintptr_t) "--output";
    argv[argc++] = (char *)(uintptr_t)FOLDER "/page.html";
    argv[argc] = NULL;
    remove(FOLDER "/page.html");
    failed = report_main(argc, argv);
    html = slurp(FOLDER "/page.html", &html_n);
    if (failed) return failed;
    page_check(&judged, html, html_n);
    if (judged.fault[0]) printf("the page: %s\n", judged.fault);
    return judged.fault[0] != 0;
}

static int shows(const char *words) { return strstr(html, words) != NULL; }

/* A run of `n` updates on 8 pairs each, with an evaluation before and after. */
static void make_run(const char *name, int n, double loss, double accuracy) {
    char *s = SCRATCH(char, (n + 2) * 400 + 100);
    size_t at = 0;
    int i;
    for (i = 0; i <= n; i++) {
        if (i) {
            double y = loss + (0.7 - loss) * (n - i) / n;
            at += (size_t)sprintf(s + at,
                                  "{\"step\": %d, \"examples\": %d, \"tokens\": %d, \"epoch\": %.9g, \"loss\": %.9g, "
                                  "\"rewards/chosen\": 0.1, \"rewards/accuracies\": %.9g, \"rewards/ties\": %d, "
                                  "\"rewards/margins\": %.9g, \"logps/chosen\": %.9g, \"logps/rejected\": %.9g, "
                                  "\"grad_norm\": %.9g, \"learning_rate\": 1e-06}\n",
                                  i, 8 * i, 800 * i, i * 8 / 1000.0, y, i == 1 ? 0 : accuracy, i == 1, 0.7 - y, -40 - y,
                                  -50 - y, 2 + y);
        }
        if (i && i < n) continue;
        at += (size_t)sprintf(
            s + at,
            "{\"step\": %d, \"examples\": %d, \"tokens\": %d, \"epoch\": %.9g, \"eval_loss\": %.9g, "
            "\"eval_rewards/accuracies\": %.9g, \"eval_rewards/ties\": %d, \"eval_rewards/margins\": 0.5, "
            "\"eval_logps/chosen\": -41, \"eval_logps/rejected\": -52, \"eval_sampled_length\": 33}\n",
            i, 8 * i, 800 * i, i * 8 / 1000.0, i ? loss : 0.7, i ? accuracy : 0, !i);
    }
    put_metrics(name, s, at);
}

/* ---- the tests: parts ------------------------------------------------------------------------------------------- */

static char *html_of(const char *bytes, size_t n, size_t limit) {
    size_t size;
    FILE *f = fopen(FOLDER "/text", "wb");
    if (!CHECK(f != NULL)) return NULL;
    if (limit) html_excerpt(f, bytes, n, limit);
    else html_text(f, bytes, n);
    fclose(f);
    return slurp(FOLDER "/text", &size);
}

static void test_text(void) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *want;
    } cases[] = {{"a<b>&\"'", 7, "a&lt;b&gt;&amp;&quot;&#39;"},
                 {"\0\x01\x1b\x7f", 4, "&#x2400;&#x2401;&#x241b;&#x2421;"},
                 {"a\r\nb\rc\td", 8, "a\nb&#x240d;c\td"},
                 {"\xff\xc3", 2, "&#xfffd;&#xfffd;"},
                 {"\xc2\x85\xef\xbf\xbe\xef\xb7\x90", 8, "&#xfffd;&#xfffd;&#xfffd;"},
                 {"\xed\xa0\x80", 3, "&#xfffd;&#xfffd;&#xfffd;"},
                 {"\xc3\xa4\xf0\x9f\x98\x80", 6, "\xc3\xa4\xf0\x9f\x98\x80"}};
    char all[256];
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *got = html_of(cases[i].bytes, cases[i].n, 0);
        CHECK_CASE(got && !strcmp(got, cases[i].want), cases[i].want);
    }
    for (i = 0; i < sizeof all; i++) all[i] = (char)i;
    CHECK(!strpbrk(html_of(all, sizeof all, 0), "<>\"'\x01\x1f\x7f"));
    CHECK(!strcmp(html_of("\n\n ab\xc3\xa4 \n", 9, 100), "ab\xc3\xa4"));
    CHECK(!strcmp(html_of("ab\xc3\xa4"
                          "cd",
                          6, 3),
                  "ab <small>&hellip; 4 bytes more</small>"));
}

/* The checker is no rubber stamp. */
static void test_checker(void) {
    static const char *const bad[] = {
        "<p>a<script>b</script></p>",
        "<p>a<b></p>",
        "<p onclick=\"a\">a</p>",
        "<p>a</h2>",
        "<p class=a>a</p>",
        "<p>a & b</p>",
        "<p>a &unknown; b</p>",
        "<p>\x01</p>",
        "<p>\xff</p>",
        "<div><p><div>a</div></p></div>",
        "<p id=\"a\">a</p><p id=\"a\">b</p>",
        "<div style=\"background:url(a)\">a</div>",
        "<div><table><tbody><tr><th><a href=\"b.html\">a</a></th></tr></tbody></table></div>",
        "<p>a",
        "<ul>a</ul>",
        "<li>a</li>",
        "<p>a > b</p>"};
    static const char frame[] =
        "<!DOCTYPE html>\n<html lang=\"en\"><head><style>%s</style></head><body><main>%s%s</main></body></html>";
    char more[600] = "", text[1200];
    page p;
    size_t i;
    for (i = 0; i < 20; i++) strcat(more, "<p>a &lt;</p>");
    snprintf(text, sizeof text, frame, "p{color:red}", "", more);
    page_check(&p, text, strlen(text));
    CHECK(!p.fault[0]);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, frame, "", bad[i], more);
        page_check(&p, text, strlen(text));
        CHECK_CASE(p.fault[0], bad[i]);
    }
    snprintf(text, sizeof text, frame, "p{background:url(a)}", "", more);
    page_check(&p, text, strlen(text));
    CHECK(p.fault[0]);
}

static void check_axis(const svg_axis *a, double low, double high) {
    char s[2][64];
    int i;
    CHECK(a->ticks >= 2 && a->ticks <= SVG_TICKS && a->low < a->high);
    CHECK(a->low <= low + 0.06 * (a->log ? low : a->step) && a->high >= high - 0.06 * (a->log ? high : a->step));
    for (i = 0; i < a->ticks; i++) {
        double at = svg_along(a, a->tick[i]);
        CHECK(at > -1e-6 && at < 1 + 1e-6);
        svg_tick_text(a, a->tick[i], s[i & 1], sizeof s[0]);
        if (i) CHECK(strcmp(s[0], s[1]) != 0 && a->tick[i] > a->tick[i - 1]);
    }
}

static void test_axes(void) {
    static const double edges[][2] = {{0, 1},        {0, 0},         {5, 5},     {-3, -3},    {0, 1e-9},   {1e99, 1e99},
                                      {-1e99, 1e99}, {1e-99, 2e-99}, {0.6, 0.7}, {999, 1001}, {0, 160800}, {0, 2.5e9}};
    char s[64];
    svg_axis a;
    size_t i;
    for (i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        a = svg_axis_linear(edges[i][0], edges[i][1], 5, 1);
        check_axis(&a, edges[i][0], edges[i][1]);
    }
    for (i = 0; i < 2000; i++) {
        double scale = pow(10, rng_unit() * 30 - 15), x = rng_normal() * scale, y = x + rng_unit() * scale;
        a = svg_axis_linear(x, y, 3 + rng_below(5), 1);
        check_axis(&a, x, y);
        x = pow(10, rng_unit() * 12 - 6);
        y = x * (1 + pow(10, rng_unit() * 8 - 4));
        a = svg_axis_log(x, y);
        if (y < 900 * x) check_axis(&a, x, y);
    }
    a = svg_axis_linear(0, 2000, 6, 0);
    CHECK(a.ticks == 5 && !strcmp(svg_tick_text(&a, a.tick[4], s, sizeof s), "2,000"));
    a = svg_axis_linear(0, 160800, 6, 0);
    CHECK(!strcmp(svg_tick_text(&a, a.tick[1], s, sizeof s), "50k") && !strcmp(svg_tick_text(&a, 0, s, sizeof s), "0"));
    a = svg_axis_linear(-0.1, 0.7, 5, 1);
    CHECK(!strcmp(svg_tick_text(&a, a.tick[0], s, sizeof s), "-0.2"));
}

/* Smoothing keeps straight lines, skips what is no number, and knows how many updates it is worth. */
static void test_smoothing(void) {
    run u;
    double weight, got;
    int64_t i;
    memset(&u, 0, sizeof u);
    u.set[0].at = SCRATCH(row, 100);
    u.set[0].n = 100;
    for (i = 0; i < 100; i++) {
        u.set[0].at[i] = row_empty();
        u.set[0].at[i].value[METRIC_LOSS] = 3 - 0.02 * (double)i;
        u.set[0].at[i].value[METRIC_MARGINS] = i & 1 ? 1 : -1;
        u.set[0].at[i].value[METRIC_ACCURACIES] = i < 3 ? 0 : 1;
    }
    u.set[0].at[40].value[METRIC_LOSS] = NAN;
    for (i = 0; i < 100; i++) CHECK_NEAR(smooth_at(&u, METRIC_LOSS, i, 10, &weight), 3 - 0.02 * (double)i, 1e-12);
    CHECK_NEAR(smooth_at(&u, METRIC_MARGINS, 50, 20, &weight), 0, 0.06);
    CHECK(weight > 25 && weight < 35);
    CHECK(smooth_at(&u, METRIC_LOSS, 7, 0, &weight) == u.set[0].at[7].value[METRIC_LOSS]);
    got = smooth_at(&u, METRIC_ACCURACIES, 0, 10, &weight);
    CHECK(got >= 0 && got <= 1);
    CHECK(smooth_at(&u, METRIC_SPEED, 7, 5, &weight) != smooth_at(&u, METRIC_SPEED, 7, 5, &weight)); /* NaN */
}

static void test_intervals(void) {
    double low, high, mean, half;
    run u;
    int i;
    CHECK(share_interval(0.5, 0, 100, &low, &high)); /* Wilson's, from tables */
    CHECK_NEAR(low, 0.4038, 5e-5);
    CHECK_NEAR(high, 0.5962, 5e-5);
    CHECK(share_interval(1, NAN, 20, &low, &high) && high <= 1 && low > 0.83 && low < 0.84);
    CHECK(!share_interval(0.5, 1, 100, &low, &high) && low != low); /* all ties */
    CHECK(!share_interval(NAN, 0, 100, &low, &high) && !share_interval(0.5, 0, NAN, &low, &high));
    CHECK(!share_interval(1.5, 0, 100, &low, &high));
    memset(&u, 0, sizeof u);
    u.set[0].at = SCRATCH(row, 100);
    u.set[0].n = 100;
    for (i = 0; i < 100; i++) {
        u.set[0].at[i] = row_empty();
        u.set[0].at[i].value[METRIC_LOSS] = i < 90 ? 1000 : i & 1 ? 3 : 1;
    }
    CHECK(last_tenth(&u, METRIC_LOSS, &mean, &half) == 10);
    CHECK_NEAR(mean, 2, 1e-12);
    CHECK_NEAR(half, 1.96 / 3, 1e-12); /* sd = sqrt(10/9), over sqrt(10) */
    CHECK(last_tenth(&u, METRIC_SPEED, &mean, &half) == 0 && mean != mean);
}

/* ---- the tests: pages ------------------------------------------------------------------------------------------- */

static void test_one_run(void) {
    make_run("a", 50, 0.4, 0.75);
    CHECK(!report_on("@a"));
    CHECK(shows("After 50 updates on 400 examples (40,000 tokens)") && shows("in 75.0\xC2\xA0% of held-out pairs"));
    CHECK(shows("The held-out loss is 0.4; it was 0.7 before the first update."));
    CHECK(shows("so there are no intervals; --eval-size N"));
    CHECK(judged.charts == 6); /* loss, accuracies, margins, logps, gradient, length: no speed */
    CHECK(!shows("Tokens per second") && !shows("Samples</h2>") && !shows("class=\"warn\""));
    CHECK(!report_on("@a --eval-size 256")); /* 192 of 256: Wilson's interval is [0.6935, 0.7991] */
    CHECK(shows("in 75.0\xC2\xA0% [69.4, 79.9] of 256 held-out pairs"));
    CHECK(shows("0.750 [0.694, 0.799]") && shows("0.6935 to 0.7991") && shows("<path class=\"bar s1\""));
    CHECK(!report_on("@a --x step --smooth 1 --title Words"));
    CHECK(shows("<h1>Words</h1>") && shows(">updates</text>") && !shows("class=\"raw"));
}

/* What run.json and the evaluations say. */
static void test_description(void) {
    make_run("a", 50, 0.4, 0.75);
    put_in("a", "run.json",
           "{\"program\": \"dpo-train\", \"command\": \"dpo\", \"build\": \"dpo.h <1>\", \"options\": {\"beta\": 0.1, "
           "\"learning-rate\": 5e-7, \"rslora\": false, \"train\": \"x.jsonl\", \"eval\": null, \"odd\": [1]}, "
           "\"eval_examples\": 256, \"train_seconds\": 20}");
    CHECK(!report_on("@a"));
    CHECK(shows("[69.4, 79.9] of 256") && shows("dpo.h &lt;1&gt;") && shows(">2,000<") && shows("20 s"));
    CHECK(shows("<th scope=\"row\">learning-rate</th><td>5e-07</td>") &&
          shows("<th scope=\"row\">rslora</th><td>no</td>"));
    CHECK(says("1 option is no plain value"));
    put_in("a", "run.json", "{\"options\": ");
    CHECK(!report_on("@a") && says("run.json is no JSON object") && shows("run.json is no JSON object"));
}

static void test_several_runs(void) {
    make_run("a", 50, 0.4, 0.75);
    make_run("b", 50, 0.3, 0.875);
    make_run("c", 60, 0.5, 0.5);
    put_in("a", "run.json", "{\"options\": {\"beta\": 0.1, \"output\": \"a\", \"seed\": 1}, \"eval_examples\": 256}");
    put_in("b", "run.json", "{\"options\": {\"beta\": 0.5, \"output\": \"b\", \"seed\": 1}, \"eval_examples\": 256}");
    put_in("c", "run.json", "{\"options\": {\"output\": \"c\", \"seed\": 1}, \"eval_examples\": 256}");
    CHECK(!report_on("@a @b @c"));
    CHECK(shows("3 runs that differ in beta: beta 0.5 ends with the highest held-out rewards/accuracies, 0.875 [0.829, "
                "0.910]"));
    CHECK(shows("; of the 2 other 95\xC2\xA0% intervals none reaches into it."));
    CHECK(shows("></span>beta 0.1<") && shows("></span>beta none<") && !shows("></span>a<"));
    CHECK(judged.charts == 7); /* log-probabilities have two */
    CHECK(!shows("class=\"warn\""));
    remove(FOLDER "/b/run.json"); /* one that is not described: directories name all */
    CHECK(!report_on("@a @b"));
    CHECK(shows("></span>a<") && shows("></span>b<") && !shows("></span>beta 0.1<"));
    CHECK(!report_on("@a @a/ @a/.")); /* the same name more than once */
    CHECK(shows(">a (1)<") && shows(">a (2)<"));
}

/* Runs of different data, or of different kinds, are drawn together, and it is said. */
static void test_comparison(void) {
    make_run("a", 50, 0.4, 0.75);
    make_run("b", 50, 0.3, 0.875);
    put_in("a", "run.json", "{\"options\": {\"train\": \"x\"}, \"train_hash\": \"1\", \"eval_hash\": \"1\"}");
    put_in("b", "run.json", "{\"options\": {\"train\": \"y\"}, \"train_hash\": \"1\", \"eval_hash\": \"1\"}");
    CHECK(!report_on("@a @b") && !*said()); /* the same data by another name */
    put_in("b", "run.json", "{\"train_hash\": \"2\", \"eval_hash\": \"2\"}");
    CHECK(!report_on("@a @b"));
    CHECK(says("not trained on the same data") && says("not evaluated on the same data"));
    CHECK(shows("not trained on the same data") && shows("not evaluated on the same data"));
    put_in("a", "run.json", "{\"options\": {\"train\": \"x\", \"eval\": \"z\"}}");
    put_in("b", "run.json", "{\"options\": {\"train\": \"y\", \"eval\": \"z\"}}");
    CHECK(!report_on("@a @b") && says("not trained on the same data") && !strstr(said(), "not evaluated"));
    put_in("b", "run.json", "{\"options\": {\"train\": \"x\"}}");
    CHECK(!report_on("@a @b") && says("not evaluated on the same data") && !strstr(said(), "not trained"));
    put_metrics("sft", "{\"step\": 1, \"examples\": 8, \"epoch\": 0.5, \"loss\": 3}\n", 52);
    remove(FOLDER "/a/run.json");
    CHECK(!report_on("@a @sft"));
    CHECK(says("losses are different quantities") && says("not trained on the same data")); /* 1,000 and 16 examples */
}

static void test_bad_metrics(void) {
    static const char lines[] = "{\"step\": 1, \"examples\": 8, \"loss\": 0.7, \"grad_norm\": 1}\n"
                                "\n"
                                "{\"step\": 2, \"examples\": 16, \"loss\": null, \"grad_norm\": 1}\n"
                                "{\"step\": 3, \"examples\": 24, \"loss\": \"NaN\", \"grad_norm\": 1e300}\n"
                                "{\"step\": 4, \"examples\": 32, \"loss\": NaN, \"grad_norm\": 1}\n"
                                "[1, 2]\n"
                                "{\"step\": 5, \"examples\": 40, \"loss\": 0.5}\n"
                                "{\"step\": 6, \"loss\": 0.5, \"grad_norm\": 1}\n"
                                "{\"loss\": 0.5, \"grad_norm\": 1}\n"
                                "{\"step\": 7, \"examples\": 48, \"something\": 1}\n"
                                "{\"step\": 6, \"examples\": 48, \"loss\": 0.4, \"grad_norm\": 1}\n"
                                "{\"step\": 8, \"examples\": 64, \"loss\": 0.4, \"grad_norm\": 1}\n"
                                "{\"step\": 9, \"examples\": 72, \"lo";
    static const char *const notes[] = {"3 of 12 lines are no JSON object and left out, first line 5 (",
                                        "1 line holds no metric that is known here",
                                        "1 line without a step left out",
                                        "1 line is replaced by later lines of the same step",
                                        "1 value of loss is null, which stands for NaN or infinity",
                                        "1 value of loss is no number or beyond 1e100",
                                        "1 value of grad_norm is no number or beyond 1e100",
                                        "1 of 6 updates lack grad_norm"};
    size_t i;
    put_metrics("a", lines, sizeof lines - 1);
    CHECK(!report_on("@a"));
    for (i = 0; i < sizeof notes / sizeof notes[0]; i++) CHECK_CASE(says(notes[i]) && shows(notes[i]), notes[i]);
    put_metrics("a", "{\"step\": 1, \"examples\": 8, \"loss\": 0.7}\n{\"step\": 2, \"exam", 57);
    CHECK(!report_on("@a") && says("the last line, 2, is broken") && shows("the last line, 2, is broken"));
    put_metrics("b", "[1]\n7\n{\"step\": 1, \"loss\": 0.7}\n", 31);
    CHECK(!report_on("@b --x step") &&
          says("2 of 3 lines are no JSON object and left out, first line 1 (not an object)"));
    CHECK(!report_on("@a --x epoch") && says("1 line has no \"epoch\""));
    CHECK(shows("1 line has no &quot;epoch&quot; and is on no chart"));
}

/* A line of a megabyte and more, and many lines: the page stays small. */
static void test_large(void) {
    enum { N = 60000 };
    char *s = SCRATCH(char, (size_t)N * 90 + (3 << 20));
    size_t at = 0;
    int i;
    memset(s, 'x', 3 << 19);
    at = 3 << 19;
    s[at++] = '\n';
    for (i = 1; i <= N; i++)
        at += (size_t)sprintf(s + at, "{\"step\": %d, \"examples\": %d, \"loss\": %.6f, \"eval_loss\": %.6f}\n", i,
                              8 * i, rng_unit(), 0.5 + 0.1 * rng_unit());
    put_metrics("a", s, at);
    CHECK(!report_on("@a"));
    CHECK(says("1 line is longer than 1 MiB and left out"));
    CHECK(html_n < 200000 && shows("After 60,000 updates"));
}

/* Values at the ends of what a double holds, and runs of one line. */
static void test_extremes(void) {
    static const char *const runs[] = {"{\"step\": 0, \"eval_loss\": 1}\n",
                                       "{\"step\": 1, \"examples\": 1, \"loss\": 0, \"grad_norm\": 0}\n",
                                       "{\"step\": 1, \"examples\": 9e99, \"tokens\": -5, \"loss\": 9e99}\n{\"step\": "
                                       "2, \"examples\": -9e99, \"loss\": -9e99}\n",
                                       "{\"step\": -9e99, \"examples\": 1, \"loss\": 1e-300, \"grad_norm\": "
                                       "5e-324}\n{\"step\": 9e99, \"examples\": 1, "
                                       "\"loss\": 2e-300, \"grad_norm\": 9e99}\n",
                                       "{\"step\": 1, \"examples\": 5, \"rewards/accuracies\": 7, \"rewards/ties\": "
                                       "-3, \"eval_rewards/accuracies\": 2, "
                                       "\"eval_examples\": 0.5}\n",
                                       "{\"step\": 1, \"examples\": 5, \"eval_rewards/accuracies\": 1, "
                                       "\"eval_rewards/ties\": 0, \"eval_examples\": 1e99}\n"};
    static const char *const axes[] = {"", " --x step", " --x tokens", " --x epoch"};
    char line[64];
    size_t i, k;
    for (i = 0; i < sizeof runs / sizeof runs[0]; i++)
        for (k = 0; k < 4; k++) {
            put_metrics("a", runs[i], strlen(runs[i]));
            snprintf(line, sizeof line, "@a%s", axes[k]);
            CHECK_CASE(!report_on(line), runs[i]);
            make_run("b", 30, 0.4, 0.75);
            snprintf(line, sizeof line, "@b @a%s", axes[k]);
            CHECK_CASE(!report_on(line), runs[i]);
            CHECK(!shows("nan") && !shows("inf\"") && !shows(">inf<"));
        }
}

#define HOSTILE                                                                                                        \
    "</title><script>alert(1)</script><img src=x onerror=\\\"alert('2')\\\"> & \\u0000\\u001b[31m\\u202e\\ud800 "

/* Whoever writes a prompt, an option or a directory's name writes text and never markup. */
static void test_hostile_text(void) {
    static const char tokens[] =
        "{\"prompt\": \"" HOSTILE "\", \"answer\": \"<b>\", \"run\": \"'\\\"\", \"tokens\": "
        "[\"<script>\", \"&amp;\", \"\\ud83d\\ude00\", \"\xff\", \"\"], \"logratios\": [1, -1, "
        "null, 0, 1e300]}\n";
    make_run("<i>&\"'", 30, 0.4, 0.75);
    put_in("<i>&\"'", "samples.jsonl",
           "{\"step\": 30, \"prompt\": \"" HOSTILE
           "\", \"policy\": \"<script>\", \"reference\": \"\xff\xfe<\", \"chosen\": "
           "\"]]>\"}\n");
    put_in("<i>&\"'", "run.json",
           "{\"command\": \"<u>\", \"build\": \"" HOSTILE "\", \"options\": {\"<b>\": \"<script>\"}}");
    put(FOLDER "/tokens", tokens);
    CHECK(!report_on("@<i>&\"' --title <script>\"' --tokens @tokens"));
    CHECK(shows("&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;2&#39;)&quot;&gt; &amp; "
                "&#x2400;&#x241b;[31m"));
    CHECK(!shows("<script") && !shows("<img") && !shows("<i>") && !shows("<b>") && !shows("\x1b") && !shows("\xff"));
    CHECK(shows("<h1>&lt;script&gt;&quot;&#39;</h1>"));
}

static void test_samples(void) {
    char text[4000], long_text[2500];
    make_run("a", 50, 0.4, 0.75);
    make_run("b", 50, 0.3, 0.875);
    put_in("a", "samples.jsonl",
           "{\"step\": 0, \"prompt\": \"P1\", \"policy\": \"early\", \"reference\": \"R1\", \"chosen\": \"C1\"}\n"
           "{\"step\": 50, \"prompt\": \"P1\", \"policy\": \"late A\", \"reference\": \"R1\", \"chosen\": \"C1\"}\n"
           "{\"step\": 50, \"prompt\": \"P2\", \"policy\": \"\", \"reference\": \"R2\", \"chosen\": \"C2\"}\n"
           "{\"step\": 50, \"policy\": \"no prompt\"}\n"
           "{\"step\": 50, \"prompt\": \"P3");
    memset(long_text, 'l', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    snprintf(text, sizeof text,
             "{\"step\": 50, \"prompt\": \"P1\", \"policy\": \"late B\", \"reference\": \"R1\", \"chosen\": \"C1\"}\n"
             "{\"step\": 50, \"prompt\": \"P4\", \"policy\": \"%s\", \"reference\": \"R4\", \"chosen\": \"C4\"}\n",
             long_text);
    put_in("b", "samples.jsonl", text);
    CHECK(!report_on("@a @b"));
    CHECK(shows("late A") && shows("late B") && !shows("early") && shows("P2") && shows("P4") && !shows("no prompt"));
    CHECK(strstr(html, ">R1<") && !strstr(strstr(html, ">R1<") + 1, ">R1<")); /* one reference for both */
    CHECK(shows("<small>(empty)</small>") && shows("&hellip; 999 bytes more"));
    CHECK(says("1 line without step, prompt and policy left out") && says("the last line, 5, is broken"));
    CHECK(!report_on("@a @b --samples 1") && !shows("P2") && shows("1 more in samples.jsonl"));
    CHECK(!report_on("@a --samples 0") && !shows("late A"));
}

static void test_tokens(void) {
    make_run("a", 20, 0.4, 0.75);
    put(FOLDER "/tokens",
        "{\"prompt\": \"Why?\", \"answer\": \"chosen\", \"tokens\": [\"So\", \" what\"], \"logratios\": [2, -0.5]}\n"
        "{\"prompt\": \"Why?\", \"answer\": \"rejected\", \"tokens\": [\"No\"], \"logratios\": [-2]}\n"
        "{\"tokens\": [\"No\"], \"logratios\": [1, 2]}\n"
        "{\"tokens\": [5], \"logratios\": [1]}\n"
        "{\"tokens\": [\"x\"], \"logratios\": [null]}\n"
        "{\"tokens\": [\"No\"], \"logratios\": [-2");
    CHECK(!report_on("@a --tokens @tokens"));
    CHECK(shows("<span class=\"t u4\" title=\"+2.000\">So</span><span class=\"t d1\" title=\"-0.500\"> what</span>"));
    CHECK(shows("<span class=\"t d4\" title=\"-2.000\">No</span>") &&
          shows("<span class=\"t x\" title=\"not known\">x</span>"));
    CHECK(shows("<div class=\"said more\"><h3>rejected") && shows("1.500 over 2 tokens"));
    CHECK(says("2 lines without \"tokens\" and as many \"logratios\" left out") && says("the last line, 6, is broken"));
    CHECK(!report_on("@a --tokens @tokens --token-rows 1") && shows("more in the file; --token-rows N"));
}

static void test_refusals(void) {
    char line[1024] = "", last[32];
    int i;
    make_run("a", 20, 0.4, 0.75);
    put_metrics("empty", "", 0);
    put_metrics("words", "this is not JSON\n", 17);
    put(FOLDER "/file", "");
    mkdir(FOLDER "/bare", 0777);
    CHECK(report_on("") == 1 && says("expected the directories of one or more runs"));
    CHECK(report_on("@nowhere") == 1 && says("is no directory"));
    CHECK(report_on("@file") == 1 && says("is no directory"));
    CHECK(report_on("@bare") == 1 && says("cannot open " FOLDER "/bare/metrics.jsonl"));
    CHECK(report_on("@empty") == 1 && says("there is nothing to show"));
    CHECK(report_on("@words") == 1 && says("there is nothing to show"));
    CHECK(!report_on("@a @empty") && says("it holds no line that can be shown") && shows("it holds no line"));
    CHECK(report_on("@a --tokens @nowhere") == 1 && says("--tokens: cannot open"));
    CHECK(report_on("@a --tokens @bare") == 1 && says("it is a directory"));
    CHECK(report_on("@a --x time") == 1 && says("--x expects one of examples|step|tokens|epoch"));
    CHECK(report_on("@a --smoth 3") == 1 && says("did you mean --smooth"));
    for (i = 0; i < RUNS; i++) strcat(line, "@a ");
    CHECK(!report_on(line));
    snprintf(last, sizeof last, "@a @a");
    strcat(line, last);
    CHECK(report_on(line) == 1 && says("at most 24 arguments"));
}

/* Tables, figures and sentences of a study, alone and before those of a run. */
static void test_study(void) {
    static const char study[] =
        "{\"title\": \"The <study>\", \"about\": \"What it is.\", \"exhibits\": [\n"
        "{\"id\": \"t\", \"title\": \"Table 9: it\", \"claim\": \"A > B.\", \"published\": \"Of old.\", "
        "\"finding\": \"The finding repeats here: so.\", \"heads\": [\"beta\", \"wins\"], "
        "\"rows\": [[\"0.1\", \"0.5 [0.4, 0.6]\"], 7, [\"0.3\", 5, null]]},\n"
        "{\"title\": \"Figure 9\", \"x\": \"epochs\", \"y\": \"share\", \"series\": [{\"name\": \"here\", \"points\": "
        "[[0, 0.5, 0.4, 0.6], [1, 0.75, 0.7, 0.8], [0.5, 0.1], [\"x\"], 3, [2, 0.5]]}, {\"name\": \"none\"}, 4]}, "
        "9]}\n";
    const char *first;
    make_run("a", 20, 0.4, 0.75);
    put(FOLDER "/study.json", study);
    CHECK(!report_on("--study @study.json"));
    CHECK(shows("The &lt;study&gt;") && shows("What it is.") && shows("A &gt; B.") && shows("Of old."));
    CHECK(shows("What repeats") && shows("href=\"#exhibit1\"") && shows("id=\"exhibit1\""));
    CHECK(shows("The finding repeats here: so.") && shows("0.5 [0.4, 0.6]") && shows("Figure 9"));
    CHECK(judged.charts == 1);
    CHECK(!report_on("@a --study @study.json") && judged.charts > 1);
    first = strstr(html, "Table 9");
    CHECK(first && strstr(html, "<h2>Charts</h2>") && first < strstr(html, "<h2>Charts</h2>"));
    put(FOLDER "/study.json", "{\"exhibits\": []}");
    CHECK(report_on("--study @study.json") == 1 && says("holds no list of exhibits"));
    put(FOLDER "/study.json", "{\"exhibits\": [");
    CHECK(report_on("@a --study @study.json") == 1 && says("is no JSON object"));
    CHECK(report_on("--study @nowhere") == 1 && says("cannot open"));
    put(FOLDER "/study.json", study);
}

/* The same runs give the same bytes. */
static void test_repeats(void) {
    char *first;
    size_t n;
    make_run("a", 50, 0.4, 0.75);
    make_run("b", 50, 0.3, 0.875);
    CHECK(!report_on("@a @b"));
    first = html;
    n = html_n;
    CHECK(!report_on("@a @b"));
    CHECK(n == html_n && !memcmp(first, html, n));
}

/* Random changes of good files: a page that the checker takes, or an error; never anything else. */
static void test_fuzz(void) {
    static const char *const files[] = {"metrics.jsonl", "samples.jsonl", "run.json", "tokens", "study"};
    static const char run_json[] =
        "{\"command\": \"dpo\", \"options\": {\"beta\": 0.1, \"lr\": [1]}, \"eval_examples\": 256}";
    static const char samples[] =
        "{\"step\": 9, \"prompt\": \"P\\n\", \"policy\": \"A\", \"reference\": \"R\", \"chosen\": \"C\"}\n";
    static const char tokens[] = "{\"prompt\": \"Why?\", \"tokens\": [\"So\", \" what\"], \"logratios\": [2, -0.5]}\n";
    static const char study[] =
        "{\"exhibits\": [{\"title\": \"T\", \"heads\": [\"a\"], \"rows\": [[\"b\"]], \"x\": \"e\", \"y\": \"s\", "
        "\"series\": [{\"name\": \"n\", \"points\": [[0, 1, 0, 2], [1, 2]]}]}]}";
    int round, pages = 0;
    for (round = 0; round < 300; round++) {
        char path[256], *bytes;
        size_t n, changes;
        make_run("a", 12, 0.4, 0.75);
        put_in("a", "run.json", run_json);
        put_in("a", "samples.jsonl", samples);
        put_in("a", "tokens", tokens);
        put_in("a", "study", study);
        snprintf(path, sizeof path, FOLDER "/a/%s", files[round % 5]);
        bytes = slurp(path, &n);
        for (changes = (size_t)rng_below(8) + 1; changes; changes--) {
            static const char likely[] = "{}[]\",:0123456789eE+-.\\u\n\0<>&";
            size_t at = (size_t)(rng() % n);
            bytes[at] = rng_below(3) ? likely[rng_below(sizeof likely - 1)] : (char)rng();
        }
        put_bytes(path, bytes, rng_below(4) ? n : (size_t)(rng() % n));
        if (report_on("@a --tokens @a/tokens --study @a/study"))
            CHECK(!judged.fault[0] || says("nothing to show") || says("--study"));
        else pages++;
        scratch_free();
    }
    CHECK(pages > 200);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {{"text in HTML", test_text},
                 {"the checker", test_checker},
                 {"axes", test_axes},
                 {"smoothing", test_smoothing},
                 {"intervals", test_intervals},
                 {"one run", test_one_run},
                 {"what run.json says", test_description},
                 {"several runs", test_several_runs},
                 {"comparison", test_comparison},
                 {"bad metrics", test_bad_metrics},
                 {"large files", test_large},
                 {"extremes", test_extremes},
                 {"hostile text", test_hostile_text},
                 {"samples", test_samples},
                 {"tokens", test_tokens},
                 {"refusals", test_refusals},
                 {"a study", test_study},
                 {"the same page again", test_repeats},
                 {"fuzz", test_fuzz}};
    int i, ran = 0, failed = 0, n = (int)(sizeof tests / sizeof tests[0]);
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    for (i = 0; i < n; i++) {
        if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
        check_failures = check_lines = 0;
        tests[i].run();
        scratch_free();
        ran++;
        failed += check_failures > 0;
        printf("%s %s\n", check_failures ? "FAIL" : "ok  ", tests[i].name);
        fflush(stdout);
    }
    if (argc < 2 && ran < FLOOR) {
        printf("only %d tests ran, there must be %d\n", ran, FLOOR);
        failed++;
    }
    printf("%d passed, %d failed\n", ran - failed, failed);
    return failed > 0;
}
