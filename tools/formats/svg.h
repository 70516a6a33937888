/* svg.h: charts as inline SVG, for pages that html.h frames: lines over faint dots, marks with bands, readable axes.
 *
 *     svg_series s[2];                      each: name, color, and points as dots, as a line, as marks
 *     svg_chart c = svg_chart_start("loss", "Loss");
 *     c.series = s; c.count = 2;
 *     svg_chart_write(f, &c);
 *
 * One drawing serves every width: its height and its text are in CSS pixels, positions along x are percentages, and the
 * curves lie in an inner drawing that is stretched while its strokes are not. A point whose y is not finite is a gap.
 * Colours are the variables --c0 .. --c7 of svg_style, told apart also by those who see few of them, on light and on
 * dark ground; a series beyond the eighth has dashes besides. Include html.h and <math.h> first. */
#ifndef TOOLS_SVG_H
#define TOOLS_SVG_H

enum {
    SVG_COLORS = 8,
    SVG_SERIES = 48,  /* most on one chart */
    SVG_TICKS = 24,   /* most on one axis */
    SVG_WIDE = 4000,  /* units of the inner drawing */
    SVG_HIGH = 2000,  /* whatever its size in pixels */
    SVG_POINTS = 500, /* of a line; longer ones are thinned, and so are dots */
    SVG_LABEL = 16    /* pixels between two labels */
};

typedef struct svg_point {
    double x, y;
    double low, high; /* an interval of y; NaN: none */
} svg_point;

typedef struct svg_points {
    const svg_point *at;
    int64_t n;
} svg_points;

typedef struct svg_series {
    const char *name;
    int color;                    /* 0 and on; from SVG_COLORS on with dashes */
    int quiet;                    /* its line is thin: there is another one to look at */
    svg_points dots, line, marks; /* sorted by x */
} svg_series;

typedef struct svg_chart {
    const char *id, *title, *x_name; /* id: of letters, the same nowhere else on the page */
    const svg_series *series;
    int count;
    int height;             /* of the plot, pixels */
    int x_ticks;            /* about so many */
    int log_y;              /* what is not above 0 is a gap */
    int direct;             /* names stand beside the ends of the lines, unless the page is narrow */
    int room;               /* pixels for them; charts that have the same are as wide as each other */
    double base;            /* a value with a line of its own, part of the range; NaN: none */
    double lowest, highest; /* the axis never goes beyond; infinite: it may */
    double y_low, y_high;   /* the least range that the axis shows, so that charts can share one; NaN: none */
    double x_low, x_high;   /* the same */
    int64_t outside;        /* set by svg_chart_write: dots beyond the axis; those drawn lie at its edge */
} svg_chart;

static inline svg_chart svg_chart_start(const char *id, const char *title) {
    svg_chart c;
    memset(&c, 0, sizeof c);
    c.id = id;
    c.title = title;
    c.x_name = "";
    c.height = 240;
    c.x_ticks = 6;
    c.base = c.y_low = c.y_high = c.x_low = c.x_high = NAN;
    c.lowest = -INFINITY;
    c.highest = INFINITY;
    return c;
}

static inline int svg_finite(double v) { return v - v == 0; }

/* ---- axes ------------------------------------------------------------------------------------------------------- */

typedef struct svg_axis {
    double low, high;
    int log;
    double step; /* between ticks; of a logarithmic axis 0 */
    double tick[SVG_TICKS];
    int ticks;
} svg_axis;

/* Where a value lies, 0 to 1 along the axis. */
static inline double svg_along(const svg_axis *a, double v) {
    if (a->log) return v > 0 ? log(v / a->low) / log(a->high / a->low) : 0;
    return (v - a->low) / (a->high - a->low);
}

/* 1, 2 or 5 times a power of ten, at least as large as v. */
static inline double svg_nice(double v) {
    double power = pow(10, floor(log10(v))), m = v / power;
    return power * (m <= 1.0000001 ? 1 : m <= 2.0000001 ? 2 : m <= 5.0000001 ? 5 : 10);
}

/* An axis of about `want` ticks over what is between low and high; widen: it begins and ends at ticks. */
static inline svg_axis svg_axis_linear(double low, double high, int want, int widen) {
    svg_axis a;
    double first;
    int i;
    memset(&a, 0, sizeof a);
    if (!(high - low > 1e-9 * (fabs(low) + fabs(high)))) { /* one value: room around it */
        double room = low != 0 ? 0.1 * fabs(low) : 1;
        low -= room;
        high += room;
    }
    a.step = svg_nice((high - low) / want);
    if (widen) { /* what is hardly beyond a tick needs no other one */
        low = a.step * floor(low / a.step + 0.05);
        high = a.step * ceil(high / a.step - 0.05);
    }
    a.low = low;
    a.high = high;
    first = ceil(low / a.step - 1e-9);
    for (i = 0; i < SVG_TICKS && (first + i) * a.step <= high + 1e-9 * a.step; i++)
        a.tick[a.ticks++] = (first + i) * a.step;
    return a;
}

/* Ticks at powers of ten, and where these are few at 2 and 5 times them; then the axis begins and ends at ticks. */
static inline svg_axis svg_axis_log(double low, double high) {
    static const double part[3] = {1, 2, 5};
    svg_axis a;
    int from, to, every, parts, i, k;
    memset(&a, 0, sizeof a);
    a.log = 1;
    if (low < 1e-100) low = 1e-100; /* below it powers of ten become subnormal */
    if (!(high > 1.5 * low)) {
        low /= 1.5;
        high *= 1.5;
    }
    from = (int)floor(log10(low));
    to = (int)ceil(log10(high));
    parts = to - from <= 3 ? 3 : 1;
    every = (to - from) / 6 + 1;
    a.low = low;
    a.high = high;
    for (i = from; parts == 3 && i <= to; i++)
        for (k = 0; k < parts; k++) {
            double v = pow(10, i) * part[k];
            if (v <= low) a.low = v;
            if (v >= high && !(a.high > high)) a.high = v;
        }
    for (i = from; i <= to; i += every)
        for (k = 0; k < parts; k++) {
            double v = pow(10, i) * part[k];
            if (v >= a.low * 0.999 && v <= a.high * 1.001 && a.ticks < SVG_TICKS) a.tick[a.ticks++] = v;
        }
    return a;
}

/* A tick's text: all of an axis with as many decimals; 12k and 3.5M where numbers are large. */
static inline const char *svg_tick_text(const svg_axis *a, double v, char *s, size_t cap) {
    double step = a->log ? fabs(v) : a->step, top = a->log ? fabs(v) : fmax(fabs(a->low), fabs(a->high)), unit = 1;
    const char *suffix = "";
    int decimals;
    if (top >= 1e13 || step < 1e-6) {
        int digits = (int)ceil(log10(top / step) + 0.5) + 1; /* what tells two ticks apart */
        snprintf(s, cap, "%.*g", digits > 17 ? 17 : digits < 3 ? 3 : digits, fabs(v) < step * 1e-6 ? 0 : v);
    } else {
        if (top >= 1e10) unit = 1e9, suffix = "G";
        else if (top >= 1e7 || (top >= 1e6 && step >= 1e5)) unit = 1e6, suffix = "M";
        else if (top >= 1e4) unit = 1e3, suffix = "k";
        decimals = (int)ceil(-log10(step / unit) - 1e-6);
        if (decimals < 0) decimals = 0;
        if (fabs(v) < step * 1e-6) v = 0; /* no -0 */
        if (v == 0) suffix = "";
        snprintf(s, cap, "%.*f%s", v == 0 ? 0 : decimals, v / unit, suffix);
        if (unit == 1 && decimals == 0 && fabs(v) >= 1000)
            snprintf(s, cap, "%s%s", v < 0 ? "-" : "", cli_count((uint64_t)fabs(v)));
    }
    return s;
}

/* Text of a number in a page, its minus sign a real one. */
static inline void svg_number_write(FILE *f, const char *s) {
    if (s[0] == '-') fputs("\xE2\x88\x92", f);
    html_text(f, s + (s[0] == '-'), strlen(s) - (s[0] == '-'));
}

/* ---- ranges ----------------------------------------------------------------------------------------------------- */

static inline void svg_cover(double v, double *low, double *high) {
    if (!svg_finite(v)) return;
    if (!(v >= *low)) *low = v; /* NaN: the first */
    if (!(v <= *high)) *high = v;
}

static inline int svg_ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of dots the range counts that holds all but one in a hundred at either end: a single spike must not flatten the rest.
 * Without memory for a copy it is the whole range. */
static inline void svg_cover_dots(svg_points p, int log_y, double *low, double *high) {
    double *sorted = p.n > 0 ? (double *)malloc((size_t)p.n * sizeof *sorted) : NULL;
    int64_t n = 0, i;
    for (i = 0; i < p.n; i++) {
        double y = p.at[i].y;
        if (!svg_finite(y) || (log_y && y <= 0)) continue;
        if (sorted) sorted[n++] = y;
        else svg_cover(y, low, high);
    }
    if (n) {
        qsort(sorted, (size_t)n, sizeof *sorted, svg_ascending);
        svg_cover(sorted[n / 100], low, high);
        svg_cover(sorted[n - 1 - n / 100], low, high);
    }
    free(sorted);
}

/* What y must cover, into *low and *high, which are NaN or begin with something. */
static inline void svg_extent(const svg_series *s, int count, int log_y, double *low, double *high) {
    int i, k;
    int64_t j;
    for (i = 0; i < count; i++) {
        const svg_points *set[2];
        set[0] = &s[i].line;
        set[1] = &s[i].marks;
        svg_cover_dots(s[i].dots, log_y, low, high);
        for (k = 0; k < 2; k++)
            for (j = 0; j < set[k]->n; j++) {
                const svg_point *p = &set[k]->at[j];
                if (log_y && !(p->y > 0)) continue;
                svg_cover(p->y, low, high);
                if (log_y) continue;
                svg_cover(p->low, low, high);
                svg_cover(p->high, low, high);
            }
    }
}

static inline void svg_extent_x(const svg_series *s, int count, double *low, double *high) {
    int i, k;
    int64_t j;
    for (i = 0; i < count; i++) {
        const svg_points *set[3];
        set[0] = &s[i].dots;
        set[1] = &s[i].line;
        set[2] = &s[i].marks;
        for (k = 0; k < 3; k++)
            for (j = 0; j < set[k]->n; j++) svg_cover(set[k]->at[j].x, low, high);
    }
}

/* ---- curves ----------------------------------------------------------------------------------------------------- */

typedef struct svg_plot {
    FILE *f;
    svg_chart *c;
    svg_axis x, y;
} svg_plot;

static inline int svg_shown(const svg_plot *p, double y) { return svg_finite(y) && (!p->y.log || y > 0); }

static inline int svg_x(const svg_plot *p, double x) { return (int)floor(svg_along(&p->x, x) * SVG_WIDE + 0.5); }

/* How far beyond the ends of its axis a value may be drawn. */
#define SVG_BEYOND 0.03

static inline int svg_y(const svg_plot *p, double y) { /* downwards */
    double v = svg_along(&p->y, y);
    v = v < -SVG_BEYOND ? -SVG_BEYOND : v > 1 + SVG_BEYOND ? 1 + SVG_BEYOND : v;
    return (int)floor((1 - v) * SVG_HIGH + 0.5);
}

static inline void svg_class(const svg_plot *p, const char *what, const svg_series *s) {
    fprintf(p->f, "<path class=\"%s s%d%s\" d=\"", what, s->color % SVG_COLORS,
            s->color < SVG_COLORS       ? ""
            : s->color < 2 * SVG_COLORS ? " dash"
                                        : " dots");
}

/* Of so many dots one in how many is drawn. */
static inline int64_t svg_dots_every(int64_t n) { return n / (2 * SVG_POINTS) + 1; }

/* A dot is a line of no length with round ends, so it stays round however the drawing is stretched. */
static inline void svg_dots(svg_plot *p, const svg_series *s) {
    int64_t every = svg_dots_every(s->dots.n), i;
    if (!s->dots.n) return;
    svg_class(p, "raw", s);
    for (i = 0; i < s->dots.n; i++) {
        const svg_point *q = &s->dots.at[i];
        double v = svg_along(&p->y, q->y);
        if (!svg_shown(p, q->y)) continue;
        if (v < -SVG_BEYOND || v > 1 + SVG_BEYOND) p->c->outside++;
        if (i % every == 0) fprintf(p->f, "M%d %dh0", svg_x(p, q->x), svg_y(p, q->y));
    }
    fputs("\"/>\n", p->f);
}

/* The curve through points; where a value is not shown it is broken. */
static inline void svg_curve(svg_plot *p, const svg_series *s, svg_points points, const char *what) {
    int64_t every = points.n / SVG_POINTS + 1, i;
    int drawing = 0;
    if (!points.n) return;
    svg_class(p, what, s);
    for (i = 0; i < points.n; i = i + every < points.n || i == points.n - 1 ? i + every : points.n - 1) {
        const svg_point *q = &points.at[i];
        int shown = svg_shown(p, q->y);
        if (shown) fprintf(p->f, "%c%d %d", drawing ? 'L' : 'M', svg_x(p, q->x), svg_y(p, q->y));
        if (shown && !drawing) fputs("h0", p->f); /* a point between two gaps is seen too */
        drawing = shown;
    }
    fputs("\"/>\n", p->f);
}

static inline int svg_has_band(const svg_plot *p, const svg_point *q) {
    return svg_shown(p, q->y) && svg_shown(p, q->low) && svg_shown(p, q->high);
}

/* The area between low and high, along each run of points that have them; a run of one point is a bar. */
static inline void svg_band(svg_plot *p, const svg_series *s, svg_points points) {
    int64_t every = points.n / SVG_POINTS + 1, i = 0, k, to;
    while (i < points.n) {
        for (; i < points.n && !svg_has_band(p, &points.at[i]); i++) {
        }
        for (to = i; to < points.n && svg_has_band(p, &points.at[to]); to++) {
        }
        if (i == to) break;
        svg_class(p, to - i > 1 ? "band" : "bar", s);
        for (k = i; k < to; k += every)
            fprintf(p->f, "%c%d %d", k > i ? 'L' : 'M', svg_x(p, points.at[k].x), svg_y(p, points.at[k].low));
        for (k -= every; k >= i; k -= every)
            fprintf(p->f, "L%d %d", svg_x(p, points.at[k].x), svg_y(p, points.at[k].high));
        fputs("\"/>\n", p->f);
        i = to;
    }
}

/* Rings, each with its values as a tooltip. */
static inline void svg_marks(svg_plot *p, const svg_series *s) {
    int64_t every = s->marks.n / (SVG_POINTS / 4) + 1, i;
    for (i = 0; i < s->marks.n; i = i + every < s->marks.n || i == s->marks.n - 1 ? i + every : s->marks.n - 1) {
        const svg_point *q = &s->marks.at[i];
        if (!svg_shown(p, q->y)) continue;
        fputs("<g><title>", p->f);
        html_print(p->f, "%s%s%s %s: %.4g", s->name, s->name[0] ? ", " : "", cli_number(q->x), p->c->x_name, q->y);
        if (svg_has_band(p, q)) html_print(p->f, " [%.4g, %.4g]", q->low, q->high);
        fputs("</title>", p->f);
        svg_class(p, "mark", s);
        fprintf(p->f, "M%d %dh0\"/><path class=\"hole\" d=\"M%d %dh0\"/></g>\n", svg_x(p, q->x), svg_y(p, q->y),
                svg_x(p, q->x), svg_y(p, q->y));
    }
}

/* ---- a chart ---------------------------------------------------------------------------------------------------- */

static inline void svg_axes(svg_plot *p) {
    int i, h = p->c->height;
    char text[32];
    for (i = 0; i < p->y.ticks; i++) {
        double y = (1 - svg_along(&p->y, p->y.tick[i])) * h;
        fprintf(p->f,
                "<line class=\"grid\" x1=\"0\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"end\" x=\"-8\" "
                "y=\"%.1f\">",
                y, y, y + 4);
        svg_number_write(p->f, svg_tick_text(&p->y, p->y.tick[i], text, sizeof text));
        fputs("</text>\n", p->f);
    }
    if (svg_finite(p->c->base)) {
        double y = (1 - svg_along(&p->y, p->c->base)) * h;
        fprintf(p->f, "<line class=\"base\" x1=\"0\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\"/>\n", y, y);
    }
    fprintf(p->f, "<line class=\"axis\" x1=\"0\" x2=\"100%%\" y1=\"%d\" y2=\"%d\"/>\n", h, h);
    for (i = 0; i < p->x.ticks; i++) {
        double x = 100 * svg_along(&p->x, p->x.tick[i]);
        fprintf(p->f,
                "<line class=\"axis\" x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"%d\" y2=\"%d\"/>"
                "<text class=\"mid\" x=\"%.2f%%\" y=\"%d\">",
                x, x, h, h + 4, x, h + 18);
        svg_number_write(p->f, svg_tick_text(&p->x, p->x.tick[i], text, sizeof text));
        fputs("</text>\n", p->f);
    }
    fprintf(p->f, "<text class=\"end\" x=\"100%%\" y=\"%d\">", h + 36);
    html_print(p->f, "%s", p->c->x_name);
    fputs("</text>\n", p->f);
}

typedef struct svg_label {
    double x, y; /* percent, pixels */
    int series;
} svg_label;

static inline int svg_label_order(const void *a, const void *b) {
    const svg_label *x = (const svg_label *)a, *y = (const svg_label *)b;
    return x->y != y->y ? (x->y > y->y) - (x->y < y->y) : x->series - y->series;
}

/* Would they be one over the other, or the upper one below? Those that end far from each other along x do not meet. */
static inline int svg_labels_meet(const svg_label *upper, const svg_label *lower) {
    return fabs(upper->x - lower->x) < 25 && lower->y < upper->y + SVG_LABEL;
}

/* Where a series ends: its last mark, else the last of its line. NULL: it shows nothing. */
static inline const svg_point *svg_last(const svg_plot *p, const svg_series *s) {
    int64_t i;
    for (i = s->marks.n - 1; i >= 0; i--)
        if (svg_shown(p, s->marks.at[i].y)) return &s->marks.at[i];
    for (i = s->line.n - 1; i >= 0; i--)
        if (svg_shown(p, s->line.at[i].y)) return &s->line.at[i];
    return NULL;
}

/* Names beside the ends, moved apart so far that each can be read. */
static inline void svg_labels(svg_plot *p) {
    svg_label label[SVG_SERIES];
    int n = 0, i, k;
    for (i = 0; i < p->c->count; i++) {
        const svg_point *end = svg_last(p, &p->c->series[i]);
        if (!end || !p->c->series[i].name[0]) continue;
        label[n].x = 100 * svg_along(&p->x, end->x);
        label[n].y = (double)svg_y(p, end->y) * p->c->height / SVG_HIGH;
        label[n++].series = i;
    }
    qsort(label, (size_t)n, sizeof *label, svg_label_order);
    for (i = 1; i < n; i++)
        for (k = 0; k < i; k++)
            if (svg_labels_meet(&label[k], &label[i])) label[i].y = label[k].y + SVG_LABEL;
    for (i = n - 1; i >= 0; i--) {
        if (label[i].y > p->c->height) label[i].y = p->c->height;
        for (k = i + 1; k < n; k++)
            if (svg_labels_meet(&label[i], &label[k])) label[i].y = label[k].y - SVG_LABEL;
    }
    for (i = 0; i < n; i++) {
        const svg_series *s = &p->c->series[label[i].series];
        fprintf(p->f, "<text class=\"name s%d\" x=\"%.2f%%\" dx=\"10\" y=\"%.1f\">", s->color % SVG_COLORS, label[i].x,
                label[i].y + 4);
        html_print(p->f, "%s", s->name);
        fputs("</text>\n", p->f);
    }
}

/* What there is to see, in words: where each series begins and ends. */
static inline void svg_describe(const svg_plot *p) {
    int i;
    int64_t k;
    for (i = 0; i < p->c->count; i++) {
        const svg_series *s = &p->c->series[i];
        const svg_point *end = svg_last(p, s), *begin = NULL;
        const svg_points *of = s->marks.n ? &s->marks : &s->line;
        for (k = 0; k < of->n && !begin; k++)
            if (svg_shown(p, of->at[k].y)) begin = &of->at[k];
        if (!begin || !end) continue;
        html_print(p->f, "%s%s%.4g at %s %s, ", s->name, s->name[0] ? ": " : "", begin->y, cli_number(begin->x),
                   p->c->x_name);
        html_print(p->f, "%.4g at %s. ", end->y, cli_number(end->x));
    }
}

/* Pixels that a name takes beside the plot. */
static inline int svg_room(const char *name) { return (int)strlen(name) * 7 + 18; }

static inline void svg_ranges(svg_plot *p) {
    svg_chart *c = p->c;
    double low = c->y_low, high = c->y_high, left = c->x_low, right = c->x_high;
    svg_extent(c->series, c->count, c->log_y, &low, &high);
    svg_extent_x(c->series, c->count, &left, &right);
    if (left > 0 && left < 0.05 * right) left = 0;
    svg_cover(c->base, &low, &high);
    if (!svg_finite(low)) low = high = c->log_y ? 1 : 0;
    p->x = svg_axis_linear(svg_finite(left) ? left : 0, svg_finite(right) ? right : 1, c->x_ticks, 0);
    p->y = c->log_y ? svg_axis_log(low, high) : svg_axis_linear(low, high, 5, 1);
    if (p->y.low < c->lowest) p->y.low = c->lowest;
    if (p->y.high > c->highest) p->y.high = c->highest;
    while (p->y.ticks && p->y.tick[p->y.ticks - 1] > p->y.high + 1e-9 * p->y.step) p->y.ticks--;
    while (p->y.ticks && p->y.tick[0] < p->y.low - 1e-9 * p->y.step) {
        memmove(p->y.tick, p->y.tick + 1, sizeof p->y.tick - sizeof p->y.tick[0]);
        p->y.ticks--;
    }
}

/* The chart's drawing, with title and description for those who do not see it. */
static inline void svg_chart_write(FILE *f, svg_chart *c) {
    svg_plot p;
    int i;
    p.f = f;
    p.c = c;
    c->outside = 0;
    svg_ranges(&p);
    fprintf(f, "<div class=\"plot%s\"", c->room ? " roomy" : "");
    if (c->room) fprintf(f, " style=\"--room:%dpx\"", c->room);
    fprintf(f, "><svg role=\"img\" width=\"100%%\" height=\"%d\" aria-labelledby=\"%s-t %s-d\">\n<title id=\"%s-t\">",
            c->height, c->id, c->id, c->id);
    html_print(f, "%s", c->title);
    fprintf(f, "</title><desc id=\"%s-d\">", c->id);
    svg_describe(&p);
    fputs("</desc>\n", f);
    svg_axes(&p);
    fprintf(f, "<svg width=\"100%%\" height=\"%d\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\">\n", c->height,
            SVG_WIDE, SVG_HIGH);
    for (i = 0; i < c->count; i++) svg_dots(&p, &c->series[i]);
    for (i = 0; i < c->count; i++) {
        svg_band(&p, &c->series[i], c->series[i].line);
        svg_band(&p, &c->series[i], c->series[i].marks);
    }
    for (i = 0; i < c->count; i++)
        svg_curve(&p, &c->series[i], c->series[i].line, c->series[i].quiet ? "thin" : "line");
    for (i = 0; i < c->count; i++) svg_curve(&p, &c->series[i], c->series[i].marks, "line");
    for (i = 0; i < c->count; i++) svg_marks(&p, &c->series[i]);
    fputs("</svg>\n", f);
    if (c->direct) svg_labels(&p);
    fputs("</svg></div>\n", f);
}

/* The names with their colours as a line of text, for narrow pages and for charts whose names do not stand beside. */
static inline void svg_key(FILE *f, const svg_chart *c) {
    int i;
    fprintf(f, "<ul class=\"key%s\">", c->direct ? " narrow" : "");
    for (i = 0; i < c->count; i++) {
        int color = c->series[i].color;
        fprintf(f, "<li><span class=\"swatch b%d%s\"></span>", color % SVG_COLORS,
                color < SVG_COLORS       ? ""
                : color < 2 * SVG_COLORS ? " dash"
                                         : " dots");
        html_print(f, "%s", c->series[i].name);
        fputs("</li>", f);
    }
    fputs("</ul>\n", f);
}

/* clang-format off */
static const char *const svg_style[] = {
    ":root{--c0:#1648ab;--c1:#a11d00;--c2:#0ca88a;--c3:#670064;--c4:#aa9017;--c5:#0e7b9c;--c6:#9786e6;--c7:#986661}",
    "@media screen and (prefers-color-scheme:dark){",
    ":root{--c0:#67a4ff;--c1:#eb7700;--c2:#78ffd8;--c3:#a65b85;--c4:#fbe97d;--c5:#1283b7;--c6:#d1bbff;--c7:#ffac94}}",
    ".s0,.b0{--c:var(--c0)}.s1,.b1{--c:var(--c1)}.s2,.b2{--c:var(--c2)}.s3,.b3{--c:var(--c3)}",
    ".s4,.b4{--c:var(--c4)}.s5,.b5{--c:var(--c5)}.s6,.b6{--c:var(--c6)}.s7,.b7{--c:var(--c7)}",
    ".plot{padding:.75rem 1rem 2.6rem 3.1rem}",
    ".plot.roomy{padding-right:var(--room)}",
    ".plot svg{display:block;overflow:visible}",
    ".plot text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}",
    ".plot .end{text-anchor:end}",
    ".plot .mid{text-anchor:middle}",
    ".plot .name{font-weight:600;fill:var(--c);stroke:var(--bg);stroke-width:4px;paint-order:stroke;stroke-linejoin:round}",
    ".plot line{stroke:var(--line);stroke-width:1px;shape-rendering:crispEdges}",
    ".plot .axis{stroke:var(--soft)}",
    ".plot .base{stroke:var(--soft);stroke-dasharray:2 3}",
    ".plot path{fill:none;stroke:var(--c);vector-effect:non-scaling-stroke;stroke-linecap:round;stroke-linejoin:round}",
    ".plot .line{stroke-width:2px}",
    ".plot .thin{stroke-width:1.25px;stroke-opacity:.75}",
    ".plot .line.dash,.plot .thin.dash{stroke-dasharray:7 5}",
    ".plot .line.dots,.plot .thin.dots{stroke-dasharray:1 5}",
    ".plot .raw{stroke-width:3px;stroke-opacity:.3}",
    ".plot .band{stroke:none;fill:var(--c);fill-opacity:.13}",
    ".plot .bar{stroke-width:1.5px;stroke-opacity:.6}",
    ".plot .mark{stroke-width:8px}",
    ".plot .hole{stroke:var(--bg);stroke-width:4px}",
    ".swatch{display:inline-block;width:1.1em;margin-right:.45em;vertical-align:.28em;border-top:3px solid var(--c)}",
    ".swatch.dash{border-top-style:dashed}.swatch.dots{border-top-style:dotted}",
    ".key{list-style:none;padding:0;margin:.25rem 0 .5rem;font-size:.85rem;display:flex;flex-wrap:wrap;gap:.1rem 1.25rem}",
    ".key li{overflow-wrap:anywhere}",
    ".key.narrow{display:none}",
    "@media screen and (max-width:40rem){",
    ".plot.roomy{padding-right:1rem}.plot .name{display:none}.key.narrow{display:flex}}",
    NULL};
/* clang-format on */

#endif /* TOOLS_SVG_H */
