/* test_tokenizers.c - text to ids and back, against ids that Hugging Face's own tokenizers gave (tests/golden/tokenizers.json),
   against plain reimplementations here, on hostile files, and on real vocabularies where they stand beside the checkout.

   usage: tokenizers [DATA_DIR [NormalizationTest.txt]]     Links with build/dpo.o. Last line: N passed, N failed, N skipped. */
#include "../dpo.h"

#include "check.h"
#include "memfs.h"
#include <sys/stat.h>
#include <sys/types.h>
#include "../tools/formats/llama2c.h"

#define FLOOR   21 /* so many tests there are, skipped ones among them */
#define IDS_MAX 400000

static memfs *fs;
static dpo_context *c, *disk; /* on fs; on the real file system */
static heap memory;
static int passed, failed, skipped;
static char *golden;
static size_t golden_size;
static dpo_json *g; /* of golden */
static int32_t ids[IDS_MAX], more[IDS_MAX];
static char text[IDS_MAX], back[4 * IDS_MAX];

static void test(const char *name, void (*run)(void)) {
    check_failures = check_lines = 0;
    run();
    if (dpo_status(c) || dpo_status(disk)) {
        printf("%s left an error: %s%s\n", name, dpo_error(c), dpo_error(disk));
        check_failures++;
        dpo_clear(c);
        dpo_clear(disk);
    }
    if (check_failures) printf("FAILED %s\n", name);
    if (check_failures) failed++;
    else passed++;
    scratch_free();
}
static int64_t encode(const dpo_tokenizer *t, const char *s, size_t n, int special, unsigned flags, int32_t *out) {
    dpo_text part;
    part.text = s;
    part.bytes = n;
    part.special = special;
    return dpo_encode_parts(t, &part, 1, flags, out, IDS_MAX);
}
static int64_t node_string(int64_t node) { return dpo_json_string(g, node, text, sizeof text); }

/* The JSON text of a golden case's tokenizer, in scratch memory. */
static char *golden_tokenizer(const char *name, int64_t *ids_node) {
    int64_t list = dpo_json_find(g, 0, "cases"), v = dpo_json_first(g, list), i, t;
    for (i = dpo_json_count(g, list); i > 0; i--, v = dpo_json_next(g, v)) {
        size_t from, to;
        char *s;
        node_string(dpo_json_find(g, v, "name"));
        if (strcmp(text, name)) continue;
        t = dpo_json_find(g, v, "tokenizer");
        from = dpo_json_at(g, t);
        to = dpo_json_at(g, dpo_json_next(g, t));
        while (to > from && golden[to - 1] != '}') to--;
        s = SCRATCH(char, to - from + 1);
        memcpy(s, golden + from, to - from);
        if (ids_node) *ids_node = dpo_json_find(g, v, "ids");
        return s;
    }
    printf("the test is wrong: no golden case %s\n", name);
    exit(3);
}
static dpo_tokenizer *load_text(const char *json) {
    memfs_text(fs, "t/tokenizer.json", json);
    return dpo_tokenizer_load(c, "t/tokenizer.json");
}
static dpo_tokenizer *load_golden(const char *name) {
    dpo_tokenizer *t = load_text(golden_tokenizer(name, NULL));
    CHECK_CASE(t != NULL, dpo_error(c));
    return t;
}

/* ---- against Hugging Face ----------------------------------------------------------------------------------------- */

/* One case: every text's ids, by look-up, by merges, and from the cache. */
static void golden_case(const char *name) {
    int64_t want, texts = dpo_json_find(g, 0, "texts"), n = dpo_json_count(g, texts), i, k,
                  v = dpo_json_first(g, texts), w;
    dpo_tokenizer *t = load_text(golden_tokenizer(name, &want));
    char what[200];
    if (!CHECK_CASE(t != NULL, dpo_error(c))) return;
    CHECK_CASE(dpo_json_count(g, want) == n && n > 50, name);
    for (i = 0, w = dpo_json_first(g, want); i < n; i++, v = dpo_json_next(g, v), w = dpo_json_next(g, w)) {
        int64_t bytes = node_string(v), got = encode(t, text, (size_t)bytes, 1, 0, ids), id = dpo_json_first(g, w);
        (void)snprintf(what, sizeof what, "%s: text %d: %.100s", name, (int)i, text);
        CHECK_CASE(got == dpo_json_count(g, w), what);
        for (k = 0; k < got && k < dpo_json_count(g, w); k++, id = dpo_json_next(g, id)) {
            double x = -1;
            dpo_json_number(g, id, &x);
            if (!CHECK_CASE((double)ids[k] == x, what)) break;
        }
        CHECK_CASE(encode(t, text, (size_t)bytes, 1, DPO_ENCODE_MERGES, more) == got, what);
        CHECK_SAME(ids, more, (size_t)got * sizeof *ids);
        CHECK_CASE(encode(t, text, (size_t)bytes, 1, 0, more) == got, what); /* from the cache now */
        CHECK_SAME(ids, more, (size_t)got * sizeof *ids);
    }
    dpo_tokenizer_free(t);
}
static void golden_all(void) {
    int64_t list = dpo_json_find(g, 0, "cases"), v = dpo_json_first(g, list), i;
    char name[128];
    CHECK(dpo_json_count(g, list) >= 16);
    for (i = dpo_json_count(g, list); i > 0; i--, v = dpo_json_next(g, v)) {
        int before = check_failures;
        node_string(dpo_json_find(g, v, "name"));
        memcpy(name, text, strlen(text) + 1);
        golden_case(name);
        if (check_failures != before) printf("  in golden case %s\n", name);
    }
}

/* ---- against plain reimplementations ------------------------------------------------------------------------------ */

typedef struct plain_merge {
    char left[64], right[64];
} plain_merge;
static plain_merge *plain_list(const char *json, int64_t *n) {
    dpo_json *j = dpo_json_create(c);
    int64_t list, v, i;
    plain_merge *m;
    CHECK_OK(c, dpo_json_parse(j, json, strlen(json), NULL, NULL));
    list = dpo_json_find(j, dpo_json_find(j, 0, "model"), "merges");
    *n = dpo_json_count(j, list);
    m = SCRATCH(plain_merge, *n);
    for (i = 0, v = dpo_json_first(j, list); i < *n; i++, v = dpo_json_next(j, v)) {
        dpo_json_string(j, dpo_json_first(j, v), m[i].left, 64);
        dpo_json_string(j, dpo_json_next(j, dpo_json_first(j, v)), m[i].right, 64);
    }
    dpo_json_free(j);
    return m;
}
/* The textbook's way: rank by rank, from left to right. Parts are cut places in a word of ASCII letters. */
static int plain_bpe(const plain_merge *m, int64_t n_merges, const char *word, int n, int *cut) {
    int parts = n, i;
    int64_t r;
    for (i = 0; i <= n; i++) cut[i] = i;
    for (r = 0; r < n_merges; r++)
        for (i = 0; i + 1 < parts;) {
            size_t a = (size_t)(cut[i + 1] - cut[i]), b = (size_t)(cut[i + 2] - cut[i + 1]);
            if (a == strlen(m[r].left) && b == strlen(m[r].right) && !memcmp(word + cut[i], m[r].left, a) &&
                !memcmp(word + cut[i + 1], m[r].right, b)) {
                memmove(cut + i + 1, cut + i + 2, (size_t)(parts - i - 1) * sizeof *cut);
                parts--;
            } else i++;
        }
    return parts;
}
/* Words of any length are merged by a heap, as the textbook says. A merge made by a lower rank
   may open one of a higher rank only, so going rank by rank is the same as always taking the lowest. */
static void long_words(void) {
    static const char letters[] = "theandhesaidwatererinmillrstlt";
    const char *json = golden_tokenizer("gpt2", NULL);
    dpo_tokenizer *t = load_text(json);
    int64_t n, k, i;
    plain_merge *m = plain_list(json, &n);
    int round, *cut = SCRATCH(int, 2000);
    for (round = 0; t && round < 60; round++) {
        int length = 1 + rng_below(round < 30 ? 80 : 900), parts;
        for (i = 0; i < length; i++)
            text[i] = rng_below(3) ? letters[rng_below((int)sizeof letters - 1)] : (char)('a' + rng_below(26));
        parts = plain_bpe(m, n, text, length, cut);
        k = encode(t, text, (size_t)length, 0, round & 1 ? DPO_ENCODE_MERGES : 0, ids);
        if (!CHECK(k == parts)) return;
        for (i = 0; i < k; i++) {
            size_t bytes;
            const char *piece = dpo_tokenizer_piece(t, ids[i], &bytes, NULL);
            if (!CHECK(bytes == (size_t)(cut[i + 1] - cut[i]) && !memcmp(piece, text + cut[i], bytes))) return;
        }
    }
    dpo_tokenizer_free(t);
}

typedef struct bin_piece {
    const char *text;
    float score;
} bin_piece;
static size_t put_piece(uint8_t *to, const char *s, float score) {
    uint32_t bits, n = (uint32_t)strlen(s);
    int i;
    memcpy(&bits, &score, 4);
    for (i = 0; i < 4; i++) to[i] = (uint8_t)(bits >> (8 * i));
    for (i = 0; i < 4; i++) to[4 + i] = (uint8_t)(n >> (8 * i));
    memcpy(to + 8, s, n);
    return 8 + n;
}
/* A file as llama2.c's, and its way of encoding: again and again the neighbours whose result has the best score. */
static const bin_piece bin_pieces[] = {{" t", -1}, {"he", -2}, {" the", -3},     {"aa", -4}, {"aaa", -5},
                                       {" c", -6}, {"at", -7}, {" cat", -8},     {"  ", -9}, {"ab", -10},
                                       {" ", -11}, {"t", -12}, {"h", -13},       {"e", -14}, {"a", -15},
                                       {"b", -16}, {"c", -17}, {"\xc3\xa9", -18}};
#define BIN_PIECES (sizeof bin_pieces / sizeof *bin_pieces)
static size_t make_bin(uint8_t *bin, const bin_piece *p, size_t count) {
    size_t n = 4, i;
    char name[8];
    memset(bin, 0, 4);
    bin[0] = 6;
    n += put_piece(bin + n, "<unk>", 0);
    n += put_piece(bin + n, "\n<s>\n", 0);
    n += put_piece(bin + n, "\n</s>\n", 0);
    for (i = 0; i < 256; i++) {
        (void)snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        n += put_piece(bin + n, name, 0);
    }
    for (i = 0; i < count; i++) n += put_piece(bin + n, p[i].text, p[i].score);
    return n;
}
static int bin_find(const char *s, size_t n) {
    size_t i;
    for (i = 0; i < BIN_PIECES; i++)
        if (strlen(bin_pieces[i].text) == n && !memcmp(bin_pieces[i].text, s, n)) return (int)i;
    return -1;
}
static int bin_encode(const char *s, int32_t *out) {
    char joined[64], all[256];
    int n = 0, i, at;
    (void)snprintf(all, sizeof all, "%s%s", *s ? " " : "", s);
    for (i = 0; all[i];) {
        int length = (all[i] & 0xc0) == 0xc0 ? 2 : 1, k = bin_find(all + i, (size_t)length), b;
        if (k >= 0) out[n++] = 259 + k;
        for (b = 0; k < 0 && b < length; b++) out[n++] = 3 + (unsigned char)all[i + b];
        i += length;
    }
    for (;;) {
        int best = -1;
        for (i = 0, at = -1; i + 1 < n; i++) {
            int k;
            if (out[i] < 259 || out[i + 1] < 259) continue;
            (void)snprintf(joined, sizeof joined, "%s%s", bin_pieces[out[i] - 259].text,
                           bin_pieces[out[i + 1] - 259].text);
            k = bin_find(joined, strlen(joined));
            if (k >= 0 && (best < 0 || bin_pieces[k].score > bin_pieces[best].score)) {
                best = k;
                at = i;
            }
        }
        if (best < 0) return n;
        out[at] = 259 + best;
        for (i = at + 1; i + 1 < n; i++) out[i] = out[i + 1];
        n--;
    }
}
#define FOLDER "build/tests/tokenizers.out"
/* The tokenizer.json that tools/formats makes of such a file; NULL: it is refused, in a sentence. */
static dpo_tokenizer *load_bin(const uint8_t *bin, size_t n) {
    char why[512] = "";
    FILE *f = fopen(FOLDER "/tok.bin", "wb"), *json;
    int bad;
    if (!CHECK(f != NULL)) return NULL;
    CHECK(fwrite(bin, 1, n, f) == n);
    fclose(f);
    json = fopen(FOLDER "/tokenizer.json", "wb");
    if (!CHECK(json != NULL)) return NULL;
    bad = llama2c_tokenizer_json(FOLDER "/tok.bin", json, why, sizeof why);
    fclose(json);
    CHECK(!bad == !why[0]);
    return bad ? NULL : dpo_tokenizer_load(disk, FOLDER);
}
static void llama2c(void) {
    static const char *const words[] = {"the", " ", "cat", "a", "aa", "b", "h\xc3\xa9", "x", "\n", "t", "  ", "c"};
    uint8_t *bin = SCRATCH(uint8_t, 8192);
    size_t n = make_bin(bin, bin_pieces, BIN_PIECES);
    dpo_tokenizer *t = load_bin(bin, n);
    int round, k;
    int64_t got;
    if (!CHECK_CASE(t != NULL, dpo_error(disk))) return;
    CHECK(dpo_tokenizer_bos(t) == 1 && dpo_tokenizer_eos(t) == 2 && dpo_tokenizer_adds_bos(t));
    for (round = 0; round < 500; round++) {
        int want;
        text[0] = 0;
        for (k = rng_below(9); k > 0; k--) strcat(text, words[rng_below(12)]);
        want = bin_encode(text, more);
        got = encode(t, text, strlen(text), 0, 0, ids);
        if (!CHECK_CASE(got == want && !memcmp(ids, more, (size_t)want * sizeof *ids), text)) break;
        got = dpo_decode(t, ids, got, back, sizeof back);
        CHECK_CASE(got == (int64_t)strlen(text) && !memcmp(back, text, strlen(text)), text);
    }
    CHECK(encode(t, "the", 3, 0, DPO_ENCODE_ADD_BOS | DPO_ENCODE_ADD_EOS, ids) == 3 && ids[0] == 1 && ids[2] == 2);
    dpo_tokenizer_free(t);
}

/* ---- decoding ------------------------------------------------------------------------------------------------------ */

/* Random bytes and random pieces of texts: exact, whole and one id at a time. */
static void decode_exact(const char *name, int spaces) {
    dpo_tokenizer *t = load_golden(name);
    int64_t texts = dpo_json_find(g, 0, "texts"), count = dpo_json_count(g, texts), v, n, k, i, at;
    int round;
    for (round = 0; t && round < 300; round++) {
        dpo_decoder d;
        n = 0;
        if (round % 3 == 2) {
            for (n = 0; n < 40; n++) text[n] = (char)rng();
        } else {
            for (v = dpo_json_first(g, texts), i = rng_below((int)count); i > 0; i--) v = dpo_json_next(g, v);
            n = node_string(v);
        }
        k = encode(t, text, (size_t)n, 0, 0, ids);
        at = dpo_decode(t, ids, k, back, sizeof back);
        if (spaces) { /* U+2581 becomes a space */
            char *p;
            text[n] = 0;
            for (i = 0; i + 2 < n; i++)
                if (!memcmp(text + i, "\xe2\x96\x81", 3)) {
                    p = text + i;
                    *p = ' ';
                    memmove(p + 1, p + 3, (size_t)(n - i - 3));
                    n -= 2;
                }
        }
        if (!CHECK_CASE(at == n && !memcmp(back, text, (size_t)n), name)) break;
        memset(&d, 0, sizeof d);
        for (i = 0, at = 0; i <= k; i++) {
            int64_t m = dpo_decode_next(t, &d, i < k ? ids[i] : -1, back + at, sizeof back - (size_t)at);
            if (!CHECK(m >= 0)) break;
            at += m;
            if (i < k && round % 3 != 2 && at && (text[at] & 0xc0) == 0x80 && at < n) CHECK_CASE(0, "half a character");
        }
        CHECK_CASE(at == n && !memcmp(back, text, (size_t)n), "streamed");
    }
    dpo_tokenizer_free(t);
}
static void decode_byte_level(void) { decode_exact("gpt2", 0); }
static void decode_llama3(void) { decode_exact("llama3", 0); }
static void decode_spaces(void) { decode_exact("llama2", 1); }

/* All 256 bytes, one at a time: what cannot be a character yet is held, what never will be is let go. */
static void decode_stream(void) {
    dpo_tokenizer *t = dpo_tokenizer_bytes(c);
    static const char bytes[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82\xff\xc3(\xe2\x82(\xf0\x9f\x99";
    static const int gives[] = {1, 0, 2, 0, 0, 3, 0, 0, 0, 4, 1, 0, 2, 0, 0, 3, 0, 0, 0};
    dpo_decoder d;
    size_t i, n = sizeof bytes - 1;
    char out[8];
    memset(&d, 0, sizeof d);
    for (i = 0; i < n; i++) CHECK(dpo_decode_next(t, &d, (unsigned char)bytes[i], out, sizeof out) == gives[i]);
    CHECK(dpo_decode_next(t, &d, -1, out, sizeof out) == 3 && !memcmp(out, "\xf0\x9f\x99", 3));
    CHECK(dpo_decode_next(t, &d, -1, out, sizeof out) == 0);
    CHECK(dpo_decode_next(t, &d, 257, out, sizeof out) == DPO_E_ARG && dpo_decode_next(t, &d, -2, out, 8) == DPO_E_ARG);
    CHECK(dpo_decode_next(t, &d, 256, out, sizeof out) == 0); /* special: nothing */
    CHECK(dpo_decode_next(t, &d, 'x', out, 0) == 1 && dpo_decode_next(t, &d, 'x', out, 1) == 1 && out[0] == 'x');
    ids[0] = 257;
    CHECK(dpo_decode(t, ids, 1, back, 8) == DPO_E_ARG);
    dpo_tokenizer_free(t);
}

/* ---- special text, parts, ends -------------------------------------------------------------------------------------- */

static void special_text(void) {
    dpo_tokenizer *t = load_golden("added");
    static const char turn[] = "<|im_start|>user\nhe said <|im_end|> twice<|im_end|>\n";
    dpo_text part[4];
    int32_t start, end;
    int64_t n, m, i, starts = 0, ends = 0;
    if (!t) return;
    start = dpo_tokenizer_id(t, "<|im_start|>user", 16);
    end = dpo_tokenizer_id(t, "<|im_end|>", 10);
    CHECK(start >= 256 && end >= 256 && dpo_tokenizer_id(t, "nothing such", 12) == -1);
    n = encode(t, turn, strlen(turn), 0, 0, ids);
    for (i = 0; i < n; i++) CHECK(ids[i] != start && ids[i] != end); /* a user's text is text */
    CHECK(dpo_decode(t, ids, n, back, sizeof back) == (int64_t)strlen(turn) && !memcmp(back, turn, strlen(turn)));
    memset(part, 0, sizeof part);
    part[0].text = "<|im_start|>user\n";
    part[0].special = part[2].special = 1;
    part[1].text = "he said <|im_end|> twice";
    part[2].text = "<|im_end|>\n";
    part[3].text = "";
    for (i = 0; i < 4; i++) part[i].bytes = strlen(part[i].text);
    n = dpo_encode_parts(t, part, 4, 0, ids, IDS_MAX);
    for (i = 0; i < n; i++) {
        starts += ids[i] == start;
        ends += ids[i] == end;
    }
    CHECK(starts == 1 && ends == 1 && ids[0] == start);
    /* parts are one text: words reach over their borders */
    part[0].text = " wa";
    part[1].text = "te";
    part[2].text = "r";
    for (i = 0; i < 3; i++) {
        part[i].bytes = strlen(part[i].text);
        part[i].special = (int)i % 2;
    }
    n = dpo_encode_parts(t, part, 3, 0, ids, IDS_MAX);
    m = encode(t, " water", 6, 0, 0, more);
    CHECK(n == m && !memcmp(ids, more, (size_t)n * sizeof *ids));
    /* a special token that a user's text completes is none */
    part[0].text = "<|im_";
    part[0].special = 1;
    part[1].text = "end|>";
    part[1].special = 0;
    part[0].bytes = part[1].bytes = 5;
    n = dpo_encode_parts(t, part, 2, 0, ids, IDS_MAX);
    for (i = 0; i < n; i++) CHECK(ids[i] != end);
    CHECK(encode(t, "he", 2, 0, 0, NULL) == encode(t, "he", 2, 0, 0, ids));
    CHECK(dpo_encode(t, "hehe", 4, ids, 0) == dpo_encode(t, "hehe", 4, more, 9)); /* the first cap ids are written */
    dpo_tokenizer_free(t);
}
static void ends(void) {
    char *json = golden_tokenizer("llama2", NULL), *other;
    const char *post = "\"post_processor\":null";
    char *at = strstr(json, post);
    dpo_tokenizer *t;
    if (!CHECK(at != NULL)) return;
    other = SCRATCH(char, strlen(json) + 1000);
    sprintf(other,
            "%.*s\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\","
            "\"type_id\":0}},"
            "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],"
            "\"tokens\":[\"<s>\"]}}}%s",
            (int)(at - json), json, at + strlen(post));
    t = load_text(other);
    CHECK(t && dpo_tokenizer_bos(t) == 1 && dpo_tokenizer_eos(t) == 2 && dpo_tokenizer_adds_bos(t));
    CHECK(encode(t, "he", 2, 0, DPO_ENCODE_ADD_BOS, ids) == 1 + encode(t, "he", 2, 0, 0, more) && ids[0] == 1);
    dpo_tokenizer_free(t);
    memfs_text(fs, "d/tokenizer.json", other);
    memfs_text(fs, "d/tokenizer_config.json",
               "{\"add_bos_token\": false, \"eos_token\": {\"content\": \"<unk>\"}, \"bos_token\": \"<s>\"}");
    t = dpo_tokenizer_load(c, "d");
    CHECK(t && dpo_tokenizer_bos(t) == 1 && dpo_tokenizer_eos(t) == 0 && !dpo_tokenizer_adds_bos(t));
    CHECK(dpo_tokenizer_set_ends(t, -1, 5) == DPO_OK && dpo_tokenizer_eos(t) == 5 && dpo_tokenizer_bos(t) == -1);
    CHECK(dpo_tokenizer_set_ends(t, -1, dpo_tokenizer_vocab(t)) == DPO_E_ARG);
    dpo_clear(c);
    dpo_tokenizer_free(t);
    memfs_text(fs, "e/tokenizer.json", golden_tokenizer("gpt2", NULL));
    memfs_text(fs, "e/config.json", "{\"eos_token_id\": [7, 9], \"bos_token_id\": 3}");
    t = dpo_tokenizer_load(c, "e");
    CHECK(t && dpo_tokenizer_eos(t) == 7 && dpo_tokenizer_bos(t) == 3 && !dpo_tokenizer_adds_bos(t));
    dpo_tokenizer_free(t);
    memfs_text(fs, "b/config.json", "{\"dpo_tokenizer\": \"bytes\"}");
    t = dpo_tokenizer_load(c, "b");
    CHECK(t && dpo_tokenizer_vocab(t) == 257 && dpo_tokenizer_eos(t) == 256);
    dpo_tokenizer_free(t);
}

/* vocab.json with merges.txt give what tokenizer.json gives. */
static void two_files(void) {
    const char *json = golden_tokenizer("gpt2", NULL);
    dpo_tokenizer *a = load_text(json), *b;
    dpo_json *j = dpo_json_create(c);
    int64_t v, list, i, n, k, texts = dpo_json_find(g, 0, "texts");
    size_t used = 0, from, to;
    char *out = SCRATCH(char, 2 * strlen(json));
    CHECK_OK(c, dpo_json_parse(j, json, strlen(json), NULL, NULL));
    v = dpo_json_find(j, dpo_json_find(j, 0, "model"), "vocab");
    from = dpo_json_at(j, v);
    to = dpo_json_at(j, dpo_json_next(j, v));
    while (json[to - 1] != '}') to--;
    memfs_put(fs, "x.vocab.json", json + from, to - from);
    used += (size_t)sprintf(out, "#version: 0.2\r\n");
    list = dpo_json_find(j, dpo_json_find(j, 0, "model"), "merges");
    for (i = dpo_json_count(j, list), v = dpo_json_first(j, list); i > 0; i--, v = dpo_json_next(j, v)) {
        used += (size_t)dpo_json_string(j, dpo_json_first(j, v), out + used, 100);
        out[used++] = ' ';
        used += (size_t)dpo_json_string(j, dpo_json_next(j, dpo_json_first(j, v)), out + used, 100);
        used += (size_t)sprintf(out + used, "\r\n");
    }
    memfs_put(fs, "x.merges.txt", out, used);
    b = dpo_tokenizer_load(c, "x.vocab.json");
    if (CHECK_CASE(a && b, dpo_error(c))) {
        CHECK(dpo_tokenizer_hash(a) == dpo_tokenizer_hash(b));
        for (i = dpo_json_count(g, texts), v = dpo_json_first(g, texts); i > 0; i--, v = dpo_json_next(g, v)) {
            n = node_string(v);
            k = dpo_encode(a, text, (size_t)n, ids, IDS_MAX);
            CHECK(dpo_encode(b, text, (size_t)n, more, IDS_MAX) == k && !memcmp(ids, more, (size_t)k * sizeof *ids));
        }
    }
    dpo_json_free(j);
    dpo_tokenizer_free(a);
    dpo_tokenizer_free(b);
    memfs_text(fs, "y.vocab.json", "{\"a\": 0}");
    CHECK(!dpo_tokenizer_load(c, "y.vocab.json") && strstr(dpo_error(c), "y.merges.txt"));
    dpo_clear(c);
    memfs_text(fs, "y.vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}");
    memfs_text(fs, "y.merges.txt", "#version: 0.2\na b\nab\n");
    CHECK(!dpo_tokenizer_load(c, "y.vocab.json"));
    CHECK_CASE(strstr(dpo_error(c), "line 3 of merges.txt is not two pieces") != NULL, dpo_error(c));
    dpo_clear(c);
}

/* ---- normalization -------------------------------------------------------------------------------------------------- */

static const char *nfc(const dpo_tokenizer *t, const char *s, size_t n, size_t *out) {
    int64_t k = dpo_encode(t, s, n, ids, IDS_MAX);
    *out = (size_t)dpo_decode(t, ids, k, back, sizeof back - 1);
    back[*out] = 0;
    return back;
}
static void normal_forms(void) {
    static const char *const pairs[][2] = {{"e\xcc\x81", "\xc3\xa9"},
                                           {"\xe2\x84\xab", "\xc3\x85"}, /* Angstrom -> A ring */
                                           {"\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"}, /* Hangul */
                                           {"q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87"}, /* order of marks */
                                           {"\xcd\x84", "\xcc\x88\xcc\x81"},
                                           {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"}, /* excluded from composition */
                                           {"a\xff\xcc\x81", "a\xff\xcc\x81"},           /* a bad byte is a border */
                                           {"plain", "plain"},
                                           {"", ""}};
    dpo_tokenizer *t = load_golden("gpt2 nfc, merges as strings");
    size_t i, n, big = 200000;
    char *marks = SCRATCH(char, big + 1);
    for (i = 0; t && i < sizeof pairs / sizeof *pairs; i++) {
        const char *got = nfc(t, pairs[i][0], strlen(pairs[i][0]), &n);
        CHECK_CASE(n == strlen(pairs[i][1]) && !memcmp(got, pairs[i][1], n), pairs[i][1]);
    }
    for (i = 0; i < big; i += 4) memcpy(marks + i, i & 4 ? "\xcc\x81\xcc\xa3" : "\xcc\xa3\xcc\x81", 4);
    nfc(t, marks, big, &n); /* all below first, then all acute */
    CHECK(n == big && !memcmp(back, "\xcc\xa3\xcc\xa3", 4) && !memcmp(back + big - 4, "\xcc\x81\xcc\x81", 4));
    dpo_tokenizer_free(t);
}
static const char *normalization_file;
static size_t utf8_of(const char **at, char *out) {
    size_t n = 0;
    for (;;) {
        char *end;
        unsigned long x = strtoul(*at, &end, 16);
        if (end == *at) return n;
        *at = end;
        if (x < 0x80) out[n++] = (char)x;
        else if (x < 0x800) {
            out[n++] = (char)(0xc0 | x >> 6);
            out[n++] = (char)(0x80 | (x & 63));
        } else if (x < 0x10000) {
            out[n++] = (char)(0xe0 | x >> 12);
            out[n++] = (char)(0x80 | (x >> 6 & 63));
            out[n++] = (char)(0x80 | (x & 63));
        } else {
            out[n++] = (char)(0xf0 | x >> 18);
            out[n++] = (char)(0x80 | (x >> 12 & 63));
            out[n++] = (char)(0x80 | (x >> 6 & 63));
            out[n++] = (char)(0x80 | (x & 63));
        }
    }
}
/* Columns c1; c2; c3; c4; c5: NFC of the first three is c2, of the last two c4. */
static void normalization_test(void) {
    static char line[4096], column[5][512];
    dpo_tokenizer *t = load_golden("gpt2 nfc, merges as strings");
    FILE *f = fopen(normalization_file, "rb");
    int lines = 0, k;
    if (!CHECK_CASE(f != NULL && t != NULL, normalization_file)) return;
    while (fgets(line, sizeof line, f)) {
        const char *at = line;
        size_t n[5], m;
        if (line[0] == '#' || line[0] == '@') continue;
        for (k = 0; k < 5; k++) {
            n[k] = utf8_of(&at, column[k]);
            at += *at == ';';
        }
        for (k = 0; k < 5; k++) {
            const char *got = nfc(t, column[k], n[k], &m);
            CHECK_CASE(m == n[k < 3 ? 1 : 3] && !memcmp(got, column[k < 3 ? 1 : 3], m), line);
        }
        lines++;
    }
    fclose(f);
    CHECK(lines > 15000);
    printf("  NormalizationTest: %d lines\n", lines);
    dpo_tokenizer_free(t);
}

/* ---- long texts, threads, memory -------------------------------------------------------------------------------------- */

static void long_texts(void) {
    static const char *const names[] = {"gpt2",  "llama3", "gpt2 nfc, merges as strings",
                                        "added", "llama2", "metaspace first, whole"};
    size_t n = (size_t)1 << 20, i, k;
    char *s = SCRATCH(char, n + 4), *out = SCRATCH(char, 3 * n + 4);
    int32_t *one = SCRATCH(int32_t, 3 * n + 4);
    for (i = 0; i < 6; i++) {
        dpo_tokenizer *t = load_golden(names[i]);
        for (k = 0; t && k < 5; k++) {
            size_t at;
            int64_t m;
            if (k < 4) memset(s, "a\n_ "[k], n);
            for (at = 0; k == 4 && at + 3 <= n; at += 3) {
                unsigned x = 0x4e00 + (unsigned)rng_below(20000);
                s[at] = (char)(0xe0 | x >> 12);
                s[at + 1] = (char)(0x80 | (x >> 6 & 63));
                s[at + 2] = (char)(0x80 | (x & 63));
            }
            m = dpo_encode(t, s, n, one, (int64_t)(3 * n + 4));
            at = k == 3 && i == 5; /* a space that stands there already is taken for the one put before a text */
            CHECK(m > 0 && dpo_decode(t, one, m, out, 3 * n) == (int64_t)(n - at) && !memcmp(out, s, n - at));
        }
        dpo_tokenizer_free(t);
    }
}
/* Where no token of a part fits, a shorter one may; pieces and added tokens may be written in two ways. */
static void special_short(void) {
    static const char json[] =
        "{\"added_tokens\":[{\"id\":3,\"content\":\"<|a|>\",\"special\":true},"
        "{\"id\":4,\"content\":\"<|a|>b\",\"special\":true},"
        "{\"id\":5,\"content\":\"\xe2\x96\x81<P>\",\"special\":true,\"normalized\":false}],"
        "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"},"
        "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"b\":1,\"c\":2,"
        "\"\xe2\x96\x81<P>\":5},\"merges\":[]}}";
    dpo_text part[2] = {{"<|a|>", 5, 1}, {"bc", 2, 0}};
    dpo_tokenizer *t = load_text(json);
    dpo_decoder d;
    char out[8];
    if (!CHECK_CASE(t != NULL, dpo_error(c))) return;
    CHECK(dpo_encode_parts(t, part, 2, 0, ids, 9) == 3 && ids[0] == 3 && ids[1] == 1 && ids[2] == 2);
    part[1].special = 1; /* still another part */
    CHECK(dpo_encode_parts(t, part, 2, 0, ids, 9) == 3 && ids[0] == 3);
    part[0].text = "<|a|>bc";
    part[0].bytes = 7;
    CHECK(dpo_encode_parts(t, part, 1, 0, ids, 9) == 2 && ids[0] == 4 && ids[1] == 2);
    CHECK(dpo_encode(t, NULL, 0, ids, 9) == 0 && dpo_encode_parts(t, NULL, 0, 0, ids, 9) == 0);
    dpo_tokenizer_free(t);
    /* a decoder's state that nobody made is no way out of it */
    t = dpo_tokenizer_bytes(c);
    memset(&d, 'x', sizeof d);
    d.n_held = 3;
    d.held[2] = 0xf0;
    CHECK(dpo_decode_next(t, &d, 0x80, out, sizeof out) == 2 && d.n_held == 2 && d.held[0] == 0xf0);
    d.n_held = 4;
    CHECK(dpo_decode_next(t, &d, 0x80, out, sizeof out) == DPO_E_ARG);
    dpo_tokenizer_free(t);
}
/* The place of a pair of ids in a table of 2^bits, as the library computes it. */
static uint64_t pair_place(uint64_t left, uint64_t right, int bits) {
    return ((left << 21 | right) << 21) * 0x9e3779b97f4a7c15u >> (64 - bits);
}
/* Ids chosen so that all merges meet at one place of their table: refused, or quick. */
static void hostile_collisions(void) {
    enum { PAIRS = 3000 };
    char *json = SCRATCH(char, 400000);
    size_t n = (size_t)sprintf(json, "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
                                     "\"\xe2\x96\x81\"},\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{"
                                     "\"u\":0,\"a\":1");
    uint64_t id = 10000, place = pair_place(1, 0, 13);
    dpo_tokenizer *t;
    int i;
    for (i = 0; i < PAIRS; i++) {
        while (id < 2000000 && pair_place(1, id, 13) != place) id++;
        n += (size_t)sprintf(json + n, ",\"b%d\":%lu,\"ab%d\":%d", i,
                             (unsigned long)(id < 2000000 ? id : 2000000 + (uint64_t)i), i, i + 2);
        id++;
    }
    n += (size_t)sprintf(json + n, "},\"merges\":[\"a b0\"");
    for (i = 1; i < PAIRS; i++) n += (size_t)sprintf(json + n, ",\"a b%d\"", i);
    sprintf(json + n, "]}}");
    t = load_text(json);
    if (!t) CHECK_CASE(dpo_status(c) == DPO_E_FORMAT && strstr(dpo_error(c), "same hash"), dpo_error(c));
    dpo_clear(c);
    dpo_tokenizer_free(t);
}
/* The k-th request for memory fails: an error and nothing lost, wherever it is. */
static void fault_memory(void) {
    static const char *const names[] = {"gpt2 nfc, merges as strings", "llama2"};
    int64_t k, n, live = memory.live, calls;
    char *s = SCRATCH(char, 20000);
    int which, done;
    for (n = 0; n + 3 < 20000; n += 3) memcpy(s + n, "e\xcc\x81", 3);
    for (which = 0; which < 2; which++) {
        memfs_text(fs, "t/tokenizer.json", golden_tokenizer(names[which], NULL));
        for (k = 1, done = 0; !done && k < 200; k++) {
            dpo_tokenizer *t;
            calls = memory.calls;
            memory.fail_at = memory.calls + k;
            memory.transient = 1;
            t = dpo_tokenizer_load(c, "t/tokenizer.json");
            if (t) (void)encode(t, s, (size_t)n, 0, 0, NULL);
            done = memory.calls - calls < k;
            memory.fail_at = 0;
            CHECK(done == (dpo_status(c) == DPO_OK) && (done || dpo_status(c) == DPO_E_MEMORY));
            dpo_clear(c);
            if (t) CHECK(encode(t, "he", 2, 0, 0, ids) > 0); /* still good */
            dpo_tokenizer_free(t);
        }
        CHECK(done && k > 8);
    }
    CHECK(memory.live == live);
}

/* ---- hostile files ------------------------------------------------------------------------------------------------------ */

typedef struct edit {
    const char *base, *from, *to;
    int want;
    const char *what;
} edit;
static void hostile_edits(void) {
    static const edit edits[] = {
        {"gpt2", "\"BPE\"", "\"Unigram\"", DPO_E_UNSUPPORTED, "Unigram"},
        {"gpt2", "\"vocab\"", "\"vocabulary\"", DPO_E_FORMAT, "model.vocab"},
        {"gpt2", "\"merges\"", "\"fusions\"", DPO_E_FORMAT, "model.merges"},
        {"gpt2", "\"merges\":[[", "\"merges\":[[\"no piece\",\"at all\"],[", DPO_E_FORMAT, "merge 0"},
        {"gpt2", "\"merges\":[[", "\"merges\":[7,[", DPO_E_FORMAT, "merge 0"},
        {"gpt2", "\"merges\":[[", "\"merges\":[[\"a\"],[", DPO_E_FORMAT, "merge 0"},
        {"gpt2", "\"merges\":[[", "\"merges\":[\"a\",[", DPO_E_FORMAT, "merge 0"},
        {"gpt2", "\"!\":", "\"!!!\":1,\"!\":", DPO_E_FORMAT, "two pieces"},
        {"gpt2", "\"!\":", "\"bang\":", DPO_E_FORMAT, "merge"},
        {"gpt2", "\"!\":", "\"big\":3000000000,\"!\":", DPO_E_FORMAT, "id of the vocabulary"},
        {"gpt2", "\"!\":", "\"minus\":-1,\"!\":", DPO_E_FORMAT, "id of the vocabulary"},
        {"gpt2", "\"!\":", "\"half\":1.5,\"!\":", DPO_E_FORMAT, "id of the vocabulary"},
        {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"Lowercase\"}", DPO_E_UNSUPPORTED, "Lowercase"},
        {"gpt2", "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}", DPO_E_UNSUPPORTED, "NFKC"},
        {"gpt2", "\"normalizer\":null", "\"normalizer\":7", DPO_E_UNSUPPORTED, "normalizer"},
        {"gpt2", "\"type\":\"ByteLevel\"", "\"type\":\"Whitespace\"", DPO_E_UNSUPPORTED, "Whitespace"},
        {"llama3", "\\\\p{N}{1,3}", "\\\\p{N}{1,4}", DPO_E_UNSUPPORTED, "split pattern"},
        {"llama3", "\"Isolated\"", "\"Contiguous\"", DPO_E_UNSUPPORTED, "Contiguous"},
        {"digits", "\"use_regex\":true", "\"use_regex\":false", DPO_E_UNSUPPORTED, "Digits"},
        {"llama3", "\"pretokenizers\":[", "\"pretokenizers\":[{\"type\":\"ByteLevel\",\"use_regex\":false},",
         DPO_E_UNSUPPORTED, "Split"},
        {"llama3", "{\"type\":\"ByteLevel\"", "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"",
         DPO_E_UNSUPPORTED, "Metaspace"},
        {"llama2", "\"type\":\"Replace\"", "\"type\":\"Prepend\"", DPO_E_UNSUPPORTED, "Prepend"},
        {"digits", "\"individual_digits\":true", "\"individual_digits\":false", DPO_E_UNSUPPORTED, "Digits"},
        {"added", "\"single_word\":false", "\"single_word\":true", DPO_E_UNSUPPORTED, "single_word"},
        {"added", "\"content\":\"<L>\"", "\"content\":\"\"", DPO_E_FORMAT, "added token 0"},
        {"added", "\"content\":\"<L>\"", "\"content\":5", DPO_E_FORMAT, "added token 0"},
        {"llama2", "\"content\":\"<unk>\"", "\"content\":\"<xyz>\"", DPO_E_FORMAT, "another piece"},
        {"llama2 without byte fallback", "\"unk_token\":\"<unk>\"", "\"unk_token\":null", DPO_E_FORMAT,
         "unknown token"},
        {"metaspace always", "\"replacement\":\"", "\"replacement\":\"x", DPO_E_UNSUPPORTED, "Metaspace"},
        {"gpt2", "\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", DPO_E_UNSUPPORTED,
         "end_of_word_suffix"},
        {"gpt2", "\"dropout\":null", "\"dropout\":0.1", DPO_E_UNSUPPORTED, "dropout"}};
    size_t i;
    for (i = 0; i < sizeof edits / sizeof *edits; i++) {
        const edit *e = &edits[i];
        char *json = golden_tokenizer(e->base, NULL), *at = strstr(json, e->from), *other;
        const char *p;
        dpo_tokenizer *t;
        if (!CHECK_CASE(at != NULL, e->from)) continue;
        other = SCRATCH(char, strlen(json) + strlen(e->to) + 1);
        sprintf(other, "%.*s%s%s", (int)(at - json), json, e->to, at + strlen(e->from));
        t = load_text(other);
        CHECK_CASE(!t && dpo_status(c) == e->want && strstr(dpo_error(c), e->what) &&
                       strstr(dpo_error(c), "t/tokenizer.json"),
                   dpo_error(c));
        for (p = dpo_error(c); *p; p++) CHECK_CASE(*p >= 32 && *p < 127, "a character in the sentence does not print");
        dpo_clear(c);
        dpo_tokenizer_free(t);
    }
}
static void hostile_files(void) {
    static const char *const bad[] = {
        "", "{", "[]", "{}", "7", "{\"model\": {}}", "{\"model\": {\"vocab\": {}, \"merges\": []}}"};
    uint8_t *bin = SCRATCH(uint8_t, 8192);
    bin_piece p[BIN_PIECES];
    size_t i, n, whole = make_bin(bin, bin_pieces, BIN_PIECES);
    char *deep = SCRATCH(char, 20001);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_CASE(!load_text(bad[i]) && dpo_status(c) && strstr(dpo_error(c), "tokenizer.json"), bad[i]);
        dpo_clear(c);
    }
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    deep[0] = '{';
    CHECK(!load_text(deep) && dpo_status(c) == DPO_E_FORMAT);
    dpo_clear(c);
    CHECK(!dpo_tokenizer_load(c, "not/there") && dpo_status(c) == DPO_E_IO);
    dpo_clear(c);
    memfs_text(fs, "s/tokenizer.model", "x");
    CHECK(!dpo_tokenizer_load(c, "s") && strstr(dpo_error(c), "tokenizer.model"));
    dpo_clear(c);
    memfs_put(fs, "tok.bin", bin, whole);
    CHECK(!dpo_tokenizer_load(c, "tok.bin") && strstr(dpo_error(c), "dpo-convert MODEL.bin DIR --tokenizer tok.bin"));
    dpo_clear(c);
    for (n = 0; n < whole; n++) { /* tok.bin cut anywhere: an error, or a shorter vocabulary at a piece's end */
        dpo_tokenizer *t = load_bin(bin, n);
        CHECK(!t || (dpo_tokenizer_vocab(t) >= 259 && dpo_tokenizer_vocab(t) < (int)(259 + BIN_PIECES)));
        dpo_tokenizer_free(t);
    }
    memcpy(p, bin_pieces, sizeof p);
    p[3].score = 0; /* not below those before it */
    CHECK(!load_bin(bin, make_bin(bin, p, BIN_PIECES)));
}
/* Bytes changed at random: whatever comes, no crash, and what loads works. */
static void hostile_bytes(void) {
    static const char *const names[] = {"added", "llama2", "llama3"};
    int round, k, loaded = 0;
    int64_t live = memory.live;
    for (round = 0; round < 400; round++) {
        char *json = golden_tokenizer(names[round % 3], NULL);
        size_t n = strlen(json);
        dpo_tokenizer *t;
        for (k = rng_below(4); k >= 0; k--) {
            size_t at = (size_t)rng_below((int)n);
            if (round % 2) json[at] = "\"{}[],:0a\\ "[rng_below(11)];
            else json[at] = (char)rng();
        }
        if (round % 5 == 0) n = (size_t)rng_below((int)n);
        memfs_put(fs, "t/tokenizer.json", json, n);
        t = dpo_tokenizer_load(c, "t/tokenizer.json");
        if (t) {
            loaded++;
            for (k = 0; k < 64; k++) text[k] = round % 2 ? "he water<|im_"[rng_below(13)] : (char)rng();
            CHECK(encode(t, text, 64, 1, 0, ids) >= 0 && dpo_status(c) == DPO_OK);
        }
        dpo_clear(c);
        dpo_tokenizer_free(t);
    }
    CHECK(loaded > 10 && loaded < 390 && memory.live == live);
}

/* ---- real vocabularies --------------------------------------------------------------------------------------------------- */

static const char *data_dir;
static dpo_tokenizer *load_real(const char *file) {
    char path[1024];
    dpo_tokenizer *t;
    (void)snprintf(path, sizeof path, "%s/tokenizers/%s", data_dir, file);
    t = dpo_tokenizer_load(disk, path);
    CHECK_CASE(t != NULL, dpo_error(disk));
    return t;
}
static char *slurp(const char *file, size_t *n) {
    char path[1024], err[512], *s;
    (void)snprintf(path, sizeof path, "%s/%s", data_dir, file);
    if (gzip_read_file(path, (size_t)1 << 30, &s, n, err, sizeof err)) {
        CHECK_CASE(0, err);
        return NULL;
    }
    return s;
}
/* Texts separated by a line __ggml_vocab_test__, and for each a line of ids. */
static void vectors(const char *file, const char *name) {
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char path[256], *in, *out, *p, *q;
    size_t n, m;
    int count = 0;
    dpo_tokenizer *t = load_real(file);
    (void)snprintf(path, sizeof path, "tokenizers/vectors/%s.inp", name);
    in = slurp(path, &n);
    (void)snprintf(path, sizeof path, "tokenizers/vectors/%s.out", name);
    out = slurp(path, &m);
    for (p = in, q = out; t && p && q; count++) {
        char *end = strstr(p, mark);
        size_t bytes = end ? (size_t)(end - p) : strlen(p);
        int64_t got = dpo_encode(t, p, bytes, ids, IDS_MAX), i;
        for (i = 0; i < got; i++)
            if (strtol(q, &q, 10) != ids[i]) break;
        while (*q == ' ') q++;
        CHECK_CASE(i == got && (*q == '\n' || !*q), path);
        q = strchr(q, '\n') ? strchr(q, '\n') + 1 : q + strlen(q);
        if (!end) break;
        p = end + strlen(mark);
    }
    CHECK_CASE(count == 46, name); /* 47 texts, counted from 0 */
    free(in);
    free(out);
    dpo_tokenizer_free(t);
}
static void vectors_all(void) {
    vectors("gpt2.tokenizer.json", "gpt-2");
    vectors("gpt2.vocab.json", "gpt-2");
    vectors("neox20b.tokenizer.json", "mpt");
    vectors("pythia.tokenizer.json", "mpt");
    vectors("llama2.tokenizer.json", "llama-spm");
}

/* What each tokenizer makes of a real text: exact back; look-up and merges alike. */
typedef struct real {
    dpo_tokenizer *gpt2, *neox, *neox_strings, *llama2, *nfc;
    int64_t texts, bytes, bad;
    int32_t *a, *b;
    char *out, *normal;
    size_t room;
} real;
static int same_back(real *r, dpo_tokenizer *t, const char *s, size_t n, const char *want, size_t m) {
    int64_t k = dpo_encode(t, s, n, r->a, (int64_t)r->room), l;
    dpo_text part;
    part.text = s;
    part.bytes = n;
    part.special = 0;
    l = dpo_encode_parts(t, &part, 1, DPO_ENCODE_MERGES, r->b, (int64_t)r->room);
    if (k < 0 || k != l || memcmp(r->a, r->b, (size_t)k * sizeof *r->a)) return 0;
    l = dpo_decode(t, r->a, k, r->out, r->room);
    return l == (int64_t)m && !memcmp(r->out, want, m);
}
static void real_text(real *r, const char *s, size_t n) {
    int64_t k, m;
    if (3 * n + 4 > r->room) {
        r->room = 6 * n + 4096;
        r->a = (int32_t *)realloc(r->a, r->room * sizeof *r->a);
        r->b = (int32_t *)realloc(r->b, r->room * sizeof *r->b);
        r->out = (char *)realloc(r->out, r->room);
        r->normal = (char *)realloc(r->normal, r->room);
        if (!r->a || !r->b || !r->out || !r->normal) exit(3);
    }
    k = dpo_encode(r->nfc, s, n, r->a, (int64_t)r->room);
    m = dpo_decode(r->nfc, r->a, k, r->normal, r->room);
    r->texts++;
    r->bytes += (int64_t)n;
    r->bad += !same_back(r, r->gpt2, s, n, s, n);
    r->bad += !same_back(r, r->neox, s, n, r->normal, (size_t)m);
    k = dpo_encode(r->neox, s, n, r->a, (int64_t)r->room);
    m = dpo_encode(r->neox_strings, s, n, r->b, (int64_t)r->room);
    r->bad += k != m || memcmp(r->a, r->b, (size_t)k * sizeof *r->a);
    r->bad += !same_back(r, r->llama2, s, n, s, n);
}
static void real_strings(real *r, dpo_json *j, int64_t node) {
    int64_t i, v = dpo_json_first(j, node), n;
    int object = dpo_json_type(j, node) == '{';
    for (i = dpo_json_count(j, node); i > 0; i--, v = dpo_json_next(j, object ? v + 1 : v)) {
        int64_t x = object ? v + 1 : v;
        if (dpo_json_type(j, x) != '"') {
            if (dpo_json_count(j, x)) real_strings(r, j, x); /* real data is not nested deep */
            continue;
        }
        n = dpo_json_string(j, x, NULL, 0);
        if (n > 0) {
            char *s = (char *)malloc((size_t)n + 1);
            if (!s) exit(3);
            dpo_json_string(j, x, s, (size_t)n + 1);
            real_text(r, s, (size_t)n);
            free(s);
        }
    }
}
static void round_trips(void) {
    static const char *const files[] = {
        "hh/harmless-base.test.jsonl.gz", "hh/helpful-base.test.jsonl.gz", "text/c4_300.jsonl",
        "text/tinyshakespeare.txt",       "text/wikitext2.test.txt",       "text/wikitext2.valid.txt",
        "text/tinystories_1000.json",     "pairs/messages_100.jsonl"};
    real r;
    dpo_json *j = dpo_json_create(disk);
    size_t i, n;
    memset(&r, 0, sizeof r);
    r.gpt2 = load_real("gpt2.tokenizer.json");
    r.neox = load_real("pythia.tokenizer.json");
    r.neox_strings = load_real("neox20b.tokenizer.json");
    r.llama2 = load_real("llama2.tokenizer.json");
    r.nfc = load_golden("gpt2 nfc, merges as strings");
    if (!r.gpt2 || !r.neox || !r.neox_strings || !r.llama2 || !r.nfc) return;
    for (i = 0; i < sizeof files / sizeof *files; i++) {
        char *s = slurp(files[i], &n), *line, *end;
        if (!s) continue;
        if (n && (*s == '{' || *s == '[')) {
            for (line = s; line < s + n; line = end + 1) {
                end = *s == '[' ? s + n : (char *)memchr(line, '\n', (size_t)(s + n - line));
                if (!end) end = s + n;
                if (!dpo_json_parse(j, line, (size_t)(end - line), NULL, NULL)) real_strings(&r, j, 0);
            }
        } else real_text(&r, s, n);
        free(s);
    }
    CHECK(r.bad == 0 && r.texts > 10000);
    printf("  %d texts, %.1f MB: to ids and back, by look-up and by merges, GPT-2, GPT-NeoX twice, Llama-2: %d wrong\n",
           (int)r.texts, (double)r.bytes / 1e6, (int)r.bad);
    free(r.a);
    free(r.b);
    free(r.out);
    free(r.normal);
    dpo_json_free(j);
    dpo_tokenizer_free(r.gpt2);
    dpo_tokenizer_free(r.neox);
    dpo_tokenizer_free(r.neox_strings);
    dpo_tokenizer_free(r.llama2);
    dpo_tokenizer_free(r.nfc);
}

static int read_golden(void) {
    char err[512];
    if (gzip_read_file("tests/golden/tokenizers.json", (size_t)1 << 28, &golden, &golden_size, err, sizeof err)) {
        printf("%s\n", err);
        return 1;
    }
    g = dpo_json_create(disk);
    return dpo_json_parse(g, golden, golden_size, NULL, NULL) != DPO_OK;
}

int main(int argc, char **argv) {
    memset(&memory, 0, sizeof memory);
    fs = memfs_new();
    c = memfs_context(fs, &memory, 2, 0);
    disk = dpo_open(NULL);
    mkdir("build", 0777);
    mkdir("build/tests", 0777);
    mkdir(FOLDER, 0777);
    data_dir = argc > 1 ? argv[1] : "";
    normalization_file = argc > 2 ? argv[2] : "";
    if (!c || !disk || read_golden()) return 3;
#define TEST(name) test(#name, name)
    TEST(golden_all);
    TEST(long_words);
    TEST(llama2c);
    TEST(decode_byte_level);
    TEST(decode_llama3);
    TEST(decode_spaces);
    TEST(decode_stream);
    TEST(special_text);
    TEST(ends);
    TEST(two_files);
    TEST(normal_forms);
    TEST(long_texts);
    TEST(special_short);
    TEST(hostile_collisions);
    TEST(fault_memory);
    TEST(hostile_edits);
    TEST(hostile_files);
    TEST(hostile_bytes);
    if (normalization_file[0]) TEST(normalization_test);
    else skipped++;
    if (data_dir[0]) {
        TEST(vectors_all);
        TEST(round_trips);
    } else skipped += 2;
    if (skipped) printf("skipped: real vocabularies or NormalizationTest.txt are not here\n");
    dpo_close(c);
    CHECK(memory.live == 0);
    if (memory.live) failed++;
    dpo_close(disk);
    memfs_free(fs);
    free(golden);
    if (passed + failed + skipped < FLOOR) failed++;
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
