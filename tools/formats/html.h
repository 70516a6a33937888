/* html.h: text in HTML, and the frame of a page that stands alone: nothing is loaded, no script is there to run, and a
 * Content-Security-Policy in its head tells the browser so, too. Light or dark as the reader's system is, one column
 * from 320 pixels on, dark ink on paper.
 *
 *     static const char *const *const styles[] = {html_style, svg_style, NULL};
 *     html_begin(f, "Title", styles);
 *     fputs("<h1>", f);
 *     html_text(f, bytes, n);             any bytes: escaped, and what is no character is replaced
 *     html_print(f, "%s: %d", name, n);   the same of a formatted text
 *     html_end(f);
 *
 * Include cli.h first. */
#ifndef TOOLS_HTML_H
#define TOOLS_HTML_H

#if defined(__GNUC__) || defined(__clang__)
#define HTML_PRINTF __attribute__((__format__(__printf__, 2, 3)))
#else
#define HTML_PRINTF
#endif

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* The character of `len` bytes at s; HTML has no control characters but white space, and no "noncharacters". */
static inline uint32_t html_character(const unsigned char *s, int len) {
    uint32_t c = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
    int i;
    for (i = 1; i < len; i++) c = c << 6 | (s[i] & 0x3Fu);
    return c;
}

/* Writes n bytes for an element's text or a quoted attribute. What HTML gives a meaning is escaped; control characters
 * become their pictures (U+2400 and on), other bytes and characters that a page cannot hold U+FFFD. */
static inline void html_text(FILE *f, const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i;
    for (i = 0; i < n;) {
        int len = cli_utf8(s + i, n - i);
        uint32_t c = len ? html_character(s + i, len) : 0xFFFD;
        if (c == '&') fputs("&amp;", f);
        else if (c == '<') fputs("&lt;", f);
        else if (c == '>') fputs("&gt;", f);
        else if (c == '"') fputs("&quot;", f);
        else if (c == '\'') fputs("&#39;", f);
        else if (c == '\r' && i + 1 < n && s[i + 1] == '\n') { /* a line ends once */
        } else if (c < 32 && c != '\n' && c != '\t') fprintf(f, "&#x%x;", 0x2400u + (unsigned)c);
        else if (c == 127) fputs("&#x2421;", f);
        else if (!len || (c >= 0x80 && c < 0xA0) || (c >= 0xFDD0 && c < 0xFDF0) || (c & 0xFFFEu) == 0xFFFEu)
            fputs("&#xfffd;", f);
        else fwrite(s + i, 1, (size_t)len, f);
        i += len ? (size_t)len : 1;
    }
}

/* Up to `limit` bytes of a text without the white space around it, and how much of it is left out. */
static inline void html_excerpt(FILE *f, const char *text, size_t n, size_t limit) {
    size_t cut;
    while (n && (text[0] == '\n' || text[0] == '\r' || text[0] == ' ')) {
        text++;
        n--;
    }
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' ')) n--;
    cut = n > limit ? limit : n;
    while (cut < n && cut && ((unsigned char)text[cut] & 0xC0u) == 0x80u) cut--; /* no character cut in two */
    html_text(f, text, cut);
    if (cut < n) fprintf(f, " <small>&hellip; %s bytes more</small>", cli_count((uint64_t)(n - cut)));
}

/* printf, escaped. A text longer than the buffer is cut, and ends in three dots. */
HTML_PRINTF static inline void html_print(FILE *f, const char *format, ...) {
    char text[2048];
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n <= 0) return;
    html_text(f, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    if ((size_t)n >= sizeof text) fputs("&hellip;", f);
}

/* ---- the page --------------------------------------------------------------------------------------------------- */

/* Colours are variables, set for light, dark and paper; everything else uses them. */
/* clang-format off */
static const char *const html_style[] = {
    ":root{color-scheme:light dark;--bg:#fff;--ink:#1c1d21;--soft:#5a5d66;--line:#dfe0e4;--warn:#8a4b00}",
    "@media screen and (prefers-color-scheme:dark){",
    ":root{--bg:#15171a;--ink:#e6e6e9;--soft:#a2a5ae;--line:#33363d;--warn:#f2b566}}",
    "*{box-sizing:border-box}",
    "html{-webkit-text-size-adjust:100%;text-size-adjust:100%}",
    "body{margin:0;background:var(--bg);color:var(--ink);line-height:1.55;",
    "font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",\"DejaVu Sans\",sans-serif}",
    "main{max-width:51rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}",
    "h1{font-size:1.6rem;line-height:1.25;font-weight:650;margin:0 0 1rem;letter-spacing:-.01em;overflow-wrap:anywhere}",
    "h2{font-size:1.1rem;line-height:1.35;font-weight:650;margin:0 0 .25rem}",
    "h3{font-size:.85rem;font-weight:600;margin:0 0 .25rem;overflow-wrap:anywhere}",
    "p{margin:0 0 .75rem;max-width:42rem;overflow-wrap:anywhere}",
    ".lead{font-size:1.1rem;line-height:1.5}",
    "small,.soft,figcaption{color:var(--soft);font-size:.85rem}",
    "section,figure{margin:2.5rem 0 0}",
    "figcaption{margin:.5rem 0 0;line-height:1.5}figcaption p{margin:0}",
    ".warn{border-left:3px solid var(--warn);padding:.1rem 0 .1rem .9rem;margin:1.5rem 0 0;font-size:.9rem}",
    ".warn h2{font-size:.95rem;color:var(--warn)}",
    ".warn ul{margin:.25rem 0 0;padding-left:1.1rem;overflow-wrap:anywhere}",
    "table{border-collapse:collapse;width:100%;font-size:.85rem;line-height:1.4;font-variant-numeric:tabular-nums}",
    "table+p,.scroll+p{margin-top:.6rem}",
    "th{text-align:left;font-weight:600;color:var(--soft);vertical-align:bottom}",
    "td{vertical-align:top}",
    "tbody th{color:var(--ink);vertical-align:top;overflow-wrap:anywhere;min-width:7.25rem}tbody th a{color:inherit}",
    "th,td{padding:.4rem .8rem .4rem 0;border-bottom:1px solid var(--line)}",
    "th:last-child,td:last-child{padding-right:0}",
    ".n{text-align:right}td.n,.keep{white-space:nowrap}",
    "details{margin:.5rem 0 0;font-size:.85rem}",
    "summary{cursor:pointer;color:var(--soft);width:fit-content}",
    "details[open]>summary{margin-bottom:.5rem}",
    ".scroll{overflow-x:auto;max-width:100%}",
    ".cols{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(13.5rem,100%),1fr));gap:1rem 1.75rem}",
    ".text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;font-size:.9rem;line-height:1.5}",
    ".said{border-top:1px solid var(--line);padding:1rem 0 0;margin:1.25rem 0 0}",
    ".said>.text{margin:0 0 .75rem}",
    /* a table of class "cards" becomes a list where it is narrow */
    "@media screen and (max-width:48rem){",
    "main{padding:1.5rem 1rem 3rem}",
    ".cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}",
    ".cards,.cards tbody,.cards tr,.cards tbody th{display:block}",
    ".cards tr{border-bottom:1px solid var(--line);padding:.6rem 0}",
    ".cards td,.cards tbody th{border:0;padding:.1rem 0}",
    ".cards td{display:flex;justify-content:space-between;gap:1rem;text-align:right}",
    ".cards td::before{content:attr(data-name);color:var(--soft);text-align:left;flex:none}}",
    "@media print{",
    ":root{color-scheme:light}body{font-size:10pt}main{max-width:none;padding:0}",
    "figure,tr,.said,.warn{break-inside:avoid}h2,h3{break-after:avoid}details:not([open]){display:none}",
    ".swatch,.text span{-webkit-print-color-adjust:exact;print-color-adjust:exact}}",
    NULL};
/* clang-format on */

/* Begins a page; styles are lists of lines that end with NULL, and so does the list of them. */
static inline void html_begin(FILE *f, const char *title, const char *const *const *styles) {
    int i;
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
          f);
    html_print(f, "%s", title);
    fputs("</title>\n<style>\n", f);
    for (; *styles; styles++)
        for (i = 0; (*styles)[i]; i++) fprintf(f, "%s\n", (*styles)[i]);
    fputs("</style>\n</head>\n<body>\n<main>\n", f);
}

static inline void html_end(FILE *f) { fputs("</main>\n</body>\n</html>\n", f); }

#endif /* TOOLS_HTML_H */
