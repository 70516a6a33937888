/* test_data.h - data sets: rules of boundaries and ends, what the report counts. */
#ifndef TEST_DATA_H
#define TEST_DATA_H

/* A SentencePiece-type tokenizer: ids 0..2 <unk> <s> </s>, then 256 bytes, a 259, b 260, ab 261, <|end|> 262. */
enum { DATA_A = 259, DATA_B, DATA_AB, DATA_END };
static dpo_tokenizer *data_tokenizer(dpo_context *c, memfs *fs, int unk) {
    char *json = SCRATCH(char, 16384);
    size_t n = (size_t)sprintf(json,
                               "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},"
                               "{\"id\":2,\"content\":\"</s>\",\"special\":true},"
                               "{\"id\":262,\"content\":\"<|end|>\",\"special\":true}],"
                               "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\""
                               "\xe2\x96\x81\"},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                               "{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
                               "\"special_tokens\":{\"<s>\":{\"ids\":[1]}}},\"model\":{\"type\":\"BPE\","
                               "\"byte_fallback\":true,\"vocab\":{\"%s\":0,\"<s>\":1,\"</s>\":2",
                               unk ? "<unknown>" : "<unk>");
    int i;
    for (i = 0; i < 256; i++) n += (size_t)sprintf(json + n, ",\"<0x%02X>\":%d", (unsigned)i, i + 3);
    sprintf(json + n, ",\"a\":259,\"b\":260,\"ab\":261},\"merges\":[\"a b\"]}}");
    memfs_text(fs, "tokenizer.json", json);
    return dpo_tokenizer_load(c, "tokenizer.json");
}
/* Item i is these ids: three lists, each ended by -1. */
static void data_item_is(const dpo_data *d, int64_t i, const int32_t *want) {
    const int32_t *part[3];
    int64_t n[3], k;
    int p;
    if (!CHECK(dpo_data_item(d, i, &part[0], &n[0], &part[1], &n[1], &part[2], &n[2]) == DPO_OK)) return;
    for (p = 0; p < 3; p++) {
        for (k = 0; k < n[p]; k++)
            if (!CHECK(part[p][k] == *want++)) return;
        if (!CHECK(*want++ == -1)) return;
    }
}
static int data_sums(const dpo_data *d) {
    dpo_data_report r = dpo_data_report_of(d);
    return r.rows == r.kept + r.grouped + r.bad_json + r.missing_field + r.empty_response + r.identical + r.too_long;
}

/* ------------------------------------------------------------------ boundaries and ends */
static void test_data_boundary(void) {
    static const int32_t apart[] = {DATA_A, -1, DATA_B, 2, -1, DATA_A, 2, -1};
    static const int32_t joint[] = {DATA_A, -1, 2, -1, DATA_A, 2, -1}; /* ab is one id: of b only its end is left */
    static const int32_t same[] = {DATA_B, -1, DATA_A, 2, -1, DATA_B, 2, -1};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    const dpo_tokenizer *t = data_tokenizer(c, fs, 0);
    int way;
    for (way = 0; way < 2; way++) {
        dpo_data_options o = dpo_data_defaults();
        dpo_data *d;
        o.boundary = way ? DPO_BOUNDARY_JOINT : DPO_BOUNDARY_SEPARATE;
        o.bos = DPO_BOS_NEVER;
        d = dpo_data_create(c, t, &o);
        CHECK_OK(c, dpo_data_add(d, "a", 1, "b", 1, "a", 1));
        CHECK_OK(c, dpo_data_add(d, "b", 1, "a", 1, "b", 1));
        if (!CHECK(dpo_data_count(d) == 2)) break;
        data_item_is(d, 0, way ? joint : apart);
        data_item_is(d, 1, same);
        CHECK(dpo_data_report_of(d).boundary_merges == way && data_sums(d));
        dpo_data_free(d);
    }
    dpo_close(c);
    memfs_free(fs);
}
static void test_data_bos(void) {
    static const int32_t with[] = {1, DATA_A, -1, DATA_B, 2, -1, -1}, without[] = {DATA_A, -1, DATA_B, 2, -1, -1};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_tokenizer *t = data_tokenizer(c, fs, 0);
    int bos, known;
    CHECK(dpo_tokenizer_adds_bos(t) && dpo_tokenizer_bos(t) == 1 && dpo_tokenizer_eos(t) == 2);
    for (known = 1; known >= 0; known--) {
        if (!known) CHECK_OK(c, dpo_tokenizer_set_ends(t, -1, 2));
        for (bos = DPO_BOS_HABIT; bos <= DPO_BOS_ALWAYS; bos++) {
            dpo_data_options o = dpo_data_defaults();
            dpo_data *d;
            o.bos = bos;
            o.boundary = bos == DPO_BOS_ALWAYS; /* no merge here: the same either way */
            d = dpo_data_create(c, t, &o);
            CHECK_OK(c, dpo_data_add(d, "a", 1, "b", 1, NULL, 0));
            if (o.boundary) CHECK(dpo_data_report_of(d).boundary_merges == 1);
            else data_item_is(d, 0, known && bos != DPO_BOS_NEVER ? with : without);
            dpo_data_free(d);
        }
    }
    CHECK_OK(c, dpo_tokenizer_set_ends(t, -1, -1)); /* answers could not end */
    CHECK(dpo_data_add(dpo_data_create(c, t, NULL), "a", 1, "b", 1, NULL, 0) == DPO_E_STATE);
    dpo_close(c);
    memfs_free(fs);
}
static void test_data_end_of_turn(void) {
    static const int32_t chat[] = {DATA_A, DATA_END, -1, DATA_B, DATA_END, -1, DATA_A, 2, -1};
    static const int32_t plain[] = {DATA_A, DATA_END, -1, DATA_B, DATA_END, 2, -1, DATA_A, 2, -1};
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    const dpo_tokenizer *t = data_tokenizer(c, fs, 0);
    dpo_text prompt[2] = {{"a", 1, 0}, {"<|end|>", 7, 1}}, chosen[2] = {{"b", 1, 0}, {"<|end|>", 7, 1}};
    dpo_text rejected[2] = {{"a", 1, 0}, {"</s>", 4, 1}}, said[1] = {{"<|end|>", 7, 0}};
    int way;
    for (way = 0; way < 2; way++) {
        dpo_data_options o = dpo_data_defaults();
        dpo_data *d;
        const int32_t *ids;
        int64_t n = 0, i;
        o.bos = DPO_BOS_NEVER;
        o.end_of_turn = way ? DATA_END : -1;
        d = dpo_data_create(c, t, &o);
        CHECK_OK(c, dpo_data_add_parts(d, prompt, 2, chosen, 2, rejected, 2));
        data_item_is(d, 0, way ? chat : plain);
        CHECK_OK(c, dpo_data_add_parts(d, prompt, 2, chosen + 1, 1, NULL, 0)); /* nothing but the format's own */
        CHECK(dpo_data_count(d) == 1 && dpo_data_report_of(d).empty_response == 1);
        CHECK_OK(c, dpo_data_add_parts(d, prompt, 2, said, 1, NULL, 0)); /* a user wrote it */
        CHECK_OK(c, dpo_data_item(d, 1, NULL, NULL, &ids, &n, NULL, NULL));
        for (i = 0; i < n; i++) CHECK(ids[i] != DATA_END);
        CHECK(n == 8 && ids[7] == 2 && data_sums(d));
        dpo_data_free(d);
    }
    dpo_close(c);
    memfs_free(fs);
}

/* ------------------------------------------------------------------ what is kept, cut and counted */
static void test_data_keep_end(void) {
    static const int32_t cut[] = {'c', 'd', 'e', -1, 'x', 'y', 256, -1, 'z', 256, -1};
    dpo_context *c = dpo_open(NULL);
    dpo_data_options o = dpo_data_defaults();
    dpo_data_report r;
    dpo_data *d;
    o.max_length = 6;
    o.truncation = DPO_TRUNCATE_KEEP_END;
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), &o);
    CHECK_OK(c, dpo_data_add(d, "abcde", 5, "xy", 2, "z", 1));
    CHECK_OK(c, dpo_data_add(d, "abcde", 5, "xyzuv", 5, "z", 1)); /* nothing of the prompt would be left */
    CHECK_OK(c, dpo_data_add(d, "", 0, "xyzuv", 5, "z", 1));      /* nor is there one here */
    CHECK_OK(c, dpo_data_add(d, "", 0, "xyzuvw", 6, "z", 1));
    r = dpo_data_report_of(d);
    CHECK(r.rows == 4 && r.kept == 2 && r.too_long == 2 && r.truncated_prompts == 1 && r.lost_eos == 0);
    CHECK(r.truncated_responses == 0 && data_sums(d));
    data_item_is(d, 0, cut);
    dpo_close(c);
}
static void test_data_grouped(void) {
    static const char rows[] = "{\"prompt\":\"question\",\"response\":\"a long answer\"}\n"
                               "{\"prompt\":\"other\",\"response\":\"b\"}\n"
                               "{\"prompt\":\"question\",\"response\":\"\xff\"}\n"
                               "{\"prompt\":\"question\",\"response\":\"c\"}\n";
    static const int32_t last[] = {'o', 'n', -1, 'c', 256, -1, -1};
    dpo_context *c = dpo_open(NULL);
    dpo_data_options o = dpo_data_defaults();
    dpo_data_report r;
    dpo_data *d;
    int twice;
    o.group_prompts = 1;
    o.max_length = 8;
    o.max_prompt_length = 2;
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), &o);
    for (twice = 0; twice < 2; twice++) {
        CHECK_OK(c, dpo_data_read_text(d, "rows", rows, sizeof rows - 1)); /* again: rows that only take places */
        r = dpo_data_report_of(d);
        CHECK(dpo_data_count(d) == 2 && r.rows == 4 + 4 * twice && r.kept == 2 && r.grouped == 2 + 4 * twice);
        data_item_is(d, 0, last);
        /* of what is there now: the long answer and the invalid one are not */
        CHECK(r.truncated_prompts == 1 && r.truncated_responses == 0 && r.lost_eos == 0 && r.invalid_utf8 == 0);
        CHECK(r.prompt_tokens == 2 + 5 && r.chosen_tokens == 4 && data_sums(d));
    }
    dpo_close(c);
}
static void test_data_invalid_utf8(void) {
    dpo_context *c = dpo_open(NULL);
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    CHECK_OK(c, dpo_data_add(d, "a\xff", 2, "b", 1, "c", 1));
    CHECK_OK(c, dpo_data_add(d, "a", 1, "\xed\xa0\x80", 3, "\xc3", 1)); /* a row counts once */
    CHECK_OK(c, dpo_data_add(d, "a", 1, "\xc3\xa9", 2, NULL, 0));
    CHECK_OK(c, dpo_data_add_text(d, "x\x80", 2));
    CHECK(dpo_data_report_of(d).invalid_utf8 == 3 && dpo_data_report_of(d).kept == 4 && data_sums(d));
    dpo_close(c);
}
/* A text whose ids have no target is no row. */
static void test_data_text_short(void) {
    dpo_context *c = dpo_open(NULL);
    dpo_tokenizer *t = dpo_tokenizer_bytes(c);
    dpo_data *d = dpo_data_create(c, t, NULL);
    CHECK_OK(c, dpo_tokenizer_set_ends(t, -1, -1));
    CHECK_OK(c, dpo_data_add_text(d, "x", 1));
    CHECK(dpo_data_count(d) == 0 && dpo_data_report_of(d).kept == 0 && data_sums(d));
    CHECK(dpo_data_read_text(d, "rows", "{\"text\":\"y\"}", 12) == DPO_E_FORMAT);
    dpo_close(c);
}
#endif
