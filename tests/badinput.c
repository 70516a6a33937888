/* badinput.c - hostile input: every case must give an error code and one sentence that names the file and
   what is wrong with it, and must leave nothing half-written. Then truncation at every length and every bit
   flip of a header: no crash. Links with the implementation (build/dpo.o). Last line: N passed, N failed. */
#include "../dpo.h"

#include "check.h"
#include "memfs.h"

#define FLOOR 200

static memfs *fs;
static dpo_context *c;
static heap memory;
static int passed, failed;

static const char neox_config[] =
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":300,\"hidden_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"intermediate_size\":12,\"max_position_embeddings\":64,\"rotary_pct\":0.5,"
    "\"hidden_act\":\"gelu\",\"use_parallel_residual\":true,\"layer_norm_eps\":1e-05,\"tie_word_embeddings\":false}";
static const char gpt2_config[] =
    "{\"model_type\":\"gpt2\",\"vocab_size\":300,\"n_embd\":8,\"n_layer\":1,\"n_head\":2,\"n_positions\":16,"
    "\"activation_function\":\"gelu_new\"}";
static const char good_rows[] = "{\"prompt\":\"ab\",\"chosen\":\"cd\",\"rejected\":\"e\"}\n"
                                "{\"prompt\":\"x\",\"chosen\":\"yz\",\"rejected\":\"w\"}\n";

/* ------------------------------------------------------------------ the rules for an error */
static void fail_case(const char *name, const char *why) {
    failed++;
    printf("FAILED %s: %s\n  %s: %s\n", name, why, dpo_result_name(dpo_status(c)), dpo_error(c));
}
static void expect(const char *name, int code, int want, const char *file, const char *what) {
    const char *e = dpo_error(c);
    size_t i, n = strlen(e);
    if (code != want || dpo_status(c) != want) fail_case(name, dpo_result_name(want));
    else if (n < 15 || n > 1000) fail_case(name, "the sentence is too short or too long");
    else if (!strstr(e, file)) fail_case(name, "the sentence does not name the file or call");
    else if (!strstr(e, what)) fail_case(name, what);
    else if (fs->handles) fail_case(name, "a file stayed open");
    else if (memfs_count(fs, ".tmp")) fail_case(name, "a temporary file stayed");
    else {
        for (i = 0; i < n && e[i] >= 0x20 && e[i] < 0x7f; i++) {
        }
        if (i < n) fail_case(name, "a character in the sentence does not print");
        else passed++;
    }
    dpo_clear(c);
}

/* ------------------------------------------------------------------ good files to be spoiled */
static void reset(void) {
    int i;
    for (i = 0; i < MEMFS_FILES; i++) memfs_drop(&fs->files[i]);
    fs->handles = 0;
    fs->deny = NULL;
}
static uint8_t *base_model;
static size_t base_size;

static dpo_model *make_model(const char *config, const char *dir) {
    char path[64];
    dpo_model *m;
    memfs_text(fs, "made.json", config);
    m = dpo_model_create_from(c, "made.json", 1);
    if (!m || (dir && dpo_model_save(m, dir, DPO_F32))) {
        printf("cannot make a good model: %s\n", dpo_error(c));
        exit(3);
    }
    if (dir) (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    return m;
}
static void good_dir(void) {
    reset();
    memfs_text(fs, "m/config.json", neox_config);
    memfs_put(fs, "m/model.safetensors", base_model, base_size);
}
/* Into each storage: F32, bf16, in place. */
#define STORAGES 3
static const dpo_load_config storages[STORAGES] = {
    {DPO_PRECISION_FP32, 0, 0, 0}, {DPO_PRECISION_BF16, 0, 0, 0}, {DPO_PRECISION_FP32, 1, 0, 0}};
static void load_case_as(const char *name, int storage, int want, const char *file, const char *what) {
    dpo_model *m = dpo_model_load_as(c, "m", &storages[storage]);
    expect(name, m ? DPO_OK : dpo_status(c), want, file, what);
    dpo_model_free(m);
    if (fs->maps) fail_case(name, "a file stayed mapped");
    fs->maps = 0;
}
static void load_case(const char *name, int want, const char *file, const char *what) {
    int i;
    for (i = 0; i < STORAGES; i++) load_case_as(name, i, want, file, what);
}
/* Replaces a piece of the header of a safetensors file; the size in front follows. */
static void edit_header(const char *path, const char *from, const char *to) {
    memfs_file *f = memfs_find(fs, path);
    size_t n = 0, i, at, a = strlen(from), b = strlen(to), rest;
    uint8_t *data;
    for (i = 0; i < 8; i++) n |= (size_t)f->data[i] << (8 * i);
    for (at = 8; at + a <= 8 + n && memcmp(f->data + at, from, a) != 0; at++) {
    }
    if (at + a > 8 + n) {
        printf("the test is wrong: %s is not in the header\n", from);
        exit(3);
    }
    rest = f->size - at - a;
    data = (uint8_t *)malloc(f->size + b);
    if (!data) exit(3);
    memcpy(data, f->data, at);
    memcpy(data + at, to, b);
    memcpy(data + at + b, f->data + at + a, rest);
    n = n - a + b;
    for (i = 0; i < 8; i++) data[i] = (uint8_t)(n >> (8 * i));
    memfs_put(fs, path, data, at + b + rest);
    free(data);
}
static void set_float(const char *path, const char *tensor, float x) {
    dpo_tensor *t;
    int64_t n, i;
    if (dpo_tensors_load(c, path, &t, &n)) return;
    for (i = 0; i < n; i++)
        if (!strcmp(t[i].name, tensor)) ((float *)t[i].data)[3] = x;
    (void)dpo_tensors_save(c, path, t, n, NULL);
    dpo_tensors_free(c, t);
}

/* ------------------------------------------------------------------ config.json */
typedef struct edit {
    const char *name, *from, *to;
    int want;
    const char *what;
} edit;
static void config_edit(const char *base, const edit *e) {
    char text[2048];
    const char *at = strstr(base, e->from);
    if (!at) {
        printf("the test is wrong: %s is not in the config\n", e->from);
        exit(3);
    }
    (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - base), base, e->to, at + strlen(e->from));
    good_dir();
    memfs_text(fs, "m/config.json", text);
    load_case(e->name, e->want, "m/config.json", e->what);
}
static void bad_configs(void) {
    static const edit edits[] = {
        {"config without vocab_size", "\"vocab_size\":300,", "", DPO_E_FORMAT, "vocab_size"},
        {"config without hidden_size", "\"hidden_size\":8,", "", DPO_E_FORMAT, "hidden_size"},
        {"config without num_hidden_layers", "\"num_hidden_layers\":1,", "", DPO_E_FORMAT, "num_hidden_layers"},
        {"config without num_attention_heads", "\"num_attention_heads\":2,", "", DPO_E_FORMAT, "num_attention_heads"},
        {"config without model_type", "\"model_type\":\"gpt_neox\",", "", DPO_E_UNSUPPORTED, "model_type"},
        {"unknown family", "gpt_neox", "mamba", DPO_E_UNSUPPORTED, "mamba"},
        {"model_type is a number", "\"gpt_neox\"", "7", DPO_E_FORMAT, "model_type"},
        {"vocab_size is a string", "300", "\"300\"", DPO_E_FORMAT, "vocab_size"},
        {"vocab_size is a fraction", "300", "300.5", DPO_E_FORMAT, "vocab_size"},
        {"vocab_size is negative", "300", "-300", DPO_E_FORMAT, "vocab_size"},
        {"vocab_size is enormous", "300", "99999999999999999999", DPO_E_FORMAT, "vocab_size"},
        {"vocab_size is null", "300", "null", DPO_E_FORMAT, "vocab_size"},
        {"hidden_size is 0", "\"hidden_size\":8", "\"hidden_size\":0", DPO_E_FORMAT, "hidden_size"},
        {"layers as an array", "\"num_hidden_layers\":1", "\"num_hidden_layers\":[1]", DPO_E_FORMAT,
         "num_hidden_layers"},
        {"heads do not divide the width", "\"num_attention_heads\":2", "\"num_attention_heads\":3", DPO_E_FORMAT,
         "heads"},
        {"rotary_pct above 1", "0.5", "1.5", DPO_E_FORMAT, "rotary_pct"},
        {"rotary_pct is a string", "0.5", "\"half\"", DPO_E_FORMAT, "rotary_pct"},
        {"an odd rotary part", "0.5", "0.25", DPO_E_FORMAT, "rotary"},
        {"an activation that is not known", "\"gelu\"", "\"relu6\"", DPO_E_UNSUPPORTED, "relu6"},
        {"tie_word_embeddings is a string", "\"tie_word_embeddings\":false", "\"tie_word_embeddings\":\"no\"",
         DPO_E_FORMAT, "tie_word_embeddings"},
        {"layer_norm_eps negative", "1e-05", "-1", DPO_E_FORMAT, "layer_norm_eps\" is -1"},
        {"layer_norm_eps beyond double", "1e-05", "1e999", DPO_E_FORMAT, "layer_norm_eps"},
        {"not JSON: a comma is missing", "300,\"hidden", "300 \"hidden", DPO_E_FORMAT, "expected"},
        {"not JSON: cut off", "\"tie_word_embeddings\":false}", "\"tie_word", DPO_E_FORMAT, "does not end"},
        {"not JSON: something follows", "false}", "false} {}", DPO_E_FORMAT, "nothing more"},
        {"a key twice", "\"vocab_size\":300", "\"vocab_size\":300,\"vocab_size\":301", DPO_E_FORMAT, "twice"},
        {"unknown rope scaling", "\"rotary_pct\":0.5",
         "\"rotary_pct\":0.5,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}", DPO_E_UNSUPPORTED, "yarn"},
        {"rope scaling by zero", "\"rotary_pct\":0.5",
         "\"rotary_pct\":0.5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}", DPO_E_FORMAT, "factor"}};
    size_t i;
    char deep[512];
    for (i = 0; i < sizeof edits / sizeof edits[0]; i++) config_edit(neox_config, &edits[i]);
    good_dir();
    memfs_text(fs, "m/config.json", "");
    load_case("an empty config", DPO_E_FORMAT, "m/config.json", "expected");
    memfs_text(fs, "m/config.json", "[1,2]");
    load_case("a config that is an array", DPO_E_FORMAT, "m/config.json", "object");
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    memfs_text(fs, "m/config.json", deep);
    load_case("500 brackets", DPO_E_FORMAT, "m/config.json", "deep");
    memfs_put(fs, "m/config.json", "\xff\xfe\0\1{", 5);
    load_case("binary rubbish as config", DPO_E_FORMAT, "m/config.json", "expected");
}

/* ------------------------------------------------------------------ safetensors headers */
static void header_case(const char *name, const char *header, size_t data, const char *what) {
    uint8_t zero[64];
    size_t n = strlen(header), i;
    uint8_t size[8];
    memfs_file *f;
    dpo_tensor *t;
    int64_t count;
    memset(zero, 0, sizeof zero);
    for (i = 0; i < 8; i++) size[i] = (uint8_t)((uint64_t)n >> (8 * i));
    reset();
    memfs_put(fs, "t.safetensors", size, 8);
    f = memfs_find(fs, "t.safetensors");
    memfs_append(f, header, n);
    memfs_append(f, zero, data);
    expect(name, dpo_tensors_load(c, "t.safetensors", &t, &count), DPO_E_FORMAT, "t.safetensors", what);
    CHECK(t == NULL && count == 0);
}
#define E1(dtype, shape, offsets) "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define E2(o1, o2)                                                                                                     \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" o1                                                     \
    "},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" o2 "}}"
static void bad_headers(void) {
    header_case("header: not an object", "[]", 0, "object");
    header_case("header: not JSON", "hello", 0, "expected");
    header_case("header: unknown dtype", E1("F99", "[2]", "[0,8]"), 8, "F99");
    header_case("header: dtype is a number", "{\"a\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype");
    header_case("header: no dtype", "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype");
    header_case("header: no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "shape");
    header_case("header: no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets");
    header_case("header: an entry is a number", "{\"a\":3}", 8, "a");
    header_case("header: shape too large for the data", E1("F32", "[3]", "[0,8]"), 8, "data_offsets");
    header_case("header: shape too small for the data", E1("F32", "[1]", "[0,8]"), 8, "data_offsets");
    header_case("header: a negative dimension", E1("F32", "[-2]", "[0,8]"), 8, "shape");
    header_case("header: a fractional dimension", E1("F32", "[2.0]", "[0,8]"), 8, "shape");
    header_case("header: a string as dimension", E1("F32", "[\"2\"]", "[0,8]"), 8, "shape");
    header_case("header: nine dimensions", E1("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, "shape");
    header_case("header: product beyond 64 bits", E1("F32", "[4294967296,4294967296,4294967296]", "[0,8]"), 8,
                "product");
    header_case("header: product 2^62 of floats", E1("F32", "[4611686018427387904,2]", "[0,8]"), 8, "product");
    header_case("header: a dimension of 2^63", E1("F32", "[9223372036854775808]", "[0,8]"), 8, "shape");
    header_case("header: offsets behind the end", E1("F32", "[2]", "[8,16]"), 8, "8");
    header_case("header: offsets backwards", E1("F32", "[2]", "[8,0]"), 8, "data_offsets");
    header_case("header: a negative offset", E1("F32", "[2]", "[-8,0]"), 8, "data_offsets");
    header_case("header: one offset", E1("F32", "[2]", "[8]"), 8, "data_offsets");
    header_case("header: three offsets", E1("F32", "[2]", "[0,8,9]"), 8, "data_offsets");
    header_case("header: offsets of 2^64-1", E1("F32", "[2]", "[0,18446744073709551615]"), 8, "data_offsets");
    header_case("header: two tensors overlap", E2("[0,8]", "[4,12]"), 12, "end to end");
    header_case("header: two tensors in one place", E2("[0,8]", "[0,8]"), 8, "end to end");
    header_case("header: a hole between tensors", E2("[0,8]", "[12,20]"), 20, "end to end");
    header_case("header: the data are cut short", E2("[0,8]", "[8,16]"), 12, "cut short");
    header_case("header: something was added", E2("[0,8]", "[8,16]"), 20, "added");
    header_case("header: one name twice",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]}}",
                8, "twice");
    header_case("header: metadata is an array", "{\"__metadata__\":[]}", 0, "__metadata__");
    header_case("header: a metadata value is a number", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    header_case("header: not UTF-8", "{\"\xc3\x28\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                "UTF-8");
    header_case("header: a newline in a name", "{\"a\\nb\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
                8, "name");
    header_case("header: half a byte", E1("F4", "[3]", "[0,1]"), 1, "bytes");
}
static void bad_sizes(void) {
    static const uint64_t sizes[6] = {1, 1000, (uint64_t)1 << 40, (uint64_t)1 << 63, ~(uint64_t)0, ~(uint64_t)7};
    uint8_t head[16];
    dpo_tensor *t;
    int64_t n;
    int i, k;
    for (i = 0; i < 6; i++) {
        char name[64];
        for (k = 0; k < 8; k++) head[k] = (uint8_t)(sizes[i] >> (8 * k));
        memcpy(head + 8, "{}      ", 8);
        reset();
        memfs_put(fs, "t.safetensors", head, 16);
        (void)snprintf(name, sizeof name, "a header size of %llu", (unsigned long long)sizes[i]);
        expect(name, dpo_tensors_load(c, "t.safetensors", &t, &n), DPO_E_FORMAT, "t.safetensors",
               i ? "header" : "byte");
    }
    reset();
    memfs_put(fs, "t.safetensors", head, 0);
    expect("an empty file", dpo_tensors_load(c, "t.safetensors", &t, &n), DPO_E_FORMAT, "t.safetensors", "0 bytes");
    memfs_put(fs, "t.safetensors", head, 7);
    expect("seven bytes", dpo_tensors_load(c, "t.safetensors", &t, &n), DPO_E_FORMAT, "t.safetensors", "7 bytes");
    reset();
    expect("a file that is not there", dpo_tensors_load(c, "t.safetensors", &t, &n), DPO_E_IO, "t.safetensors", "open");
}

/* ------------------------------------------------------------------ model directories */
static void bad_models(void) {
    good_dir();
    memfs_drop(memfs_find(fs, "m/config.json"));
    load_case("no config.json", DPO_E_IO, "m/config.json", "open");
    good_dir();
    memfs_drop(memfs_find(fs, "m/model.safetensors"));
    load_case("no weights", DPO_E_IO, "model.safetensors", "m");
    memfs_text(fs, "m/pytorch_model.bin", "PK");
    load_case("weights in a .bin only", DPO_E_UNSUPPORTED, "pytorch_model.bin", "safetensors");
    reset();
    load_case("no directory", DPO_E_IO, "m/config.json", "open");
    good_dir();
    edit_header("m/model.safetensors", "gpt_neox.final_layer_norm.bias", "gpt_neox.final_layer_norm.hias");
    load_case("a tensor is missing", DPO_E_FORMAT, "m", "gpt_neox.final_layer_norm.bias");
    good_dir();
    edit_header("m/model.safetensors", "\"embed_out.weight\":{\"dtype\":\"F32\",\"shape\":[300,8]",
                "\"embed_out.weight\":{\"dtype\":\"F32\",\"shape\":[8,300]");
    load_case("a matrix the wrong way round", DPO_E_SHAPE, "m/model.safetensors", "embed_out.weight");
    good_dir();
    edit_header("m/model.safetensors", "\"embed_out.weight\":{\"dtype\":\"F32\",\"shape\":[300,8]",
                "\"embed_out.weight\":{\"dtype\":\"F32\",\"shape\":[2400]");
    load_case("a matrix as a vector", DPO_E_SHAPE, "m/model.safetensors", "embed_out.weight");
    good_dir();
    edit_header("m/model.safetensors", "\"embed_out.weight\":{\"dtype\":\"F32\",\"shape\":[300,8]",
                "\"embed_out.weight\":{\"dtype\":\"I32\",\"shape\":[300,8]");
    load_case("weights that are integers", DPO_E_UNSUPPORTED, "m/model.safetensors", "I32");
    good_dir();
    memfs_text(fs, "m/config.json", gpt2_config);
    load_case("the config of another family", DPO_E_FORMAT, "m", "is missing");
    good_dir();
    set_float("m/model.safetensors", "embed_out.weight", (float)NAN);
    load_case_as("NaN in the weights", 0, DPO_E_NONFINITE, "m/model.safetensors", "embed_out.weight");
    load_case_as("NaN in weights to be rounded", 1, DPO_E_NONFINITE, "m/model.safetensors", "embed_out.weight");
    good_dir();
    set_float("m/model.safetensors", "embed_out.weight", 3.4e38f);
    load_case_as("a weight that bf16 cannot hold", 1, DPO_E_NONFINITE, "m/model.safetensors", "embed_out.weight");
    good_dir();
    set_float("m/model.safetensors", "gpt_neox.layers.0.attention.dense.bias", -(float)INFINITY);
    load_case("infinity in the weights", DPO_E_NONFINITE, "m/model.safetensors", "attention.dense.bias");
}
static void sharded(const char *index) {
    good_dir();
    memfs_copy(fs, "m/model.safetensors", "m/a.safetensors");
    memfs_copy(fs, "m/model.safetensors", "m/b.safetensors");
    memfs_drop(memfs_find(fs, "m/model.safetensors"));
    memfs_text(fs, "m/model.safetensors.index.json", index);
}
static void bad_shards(void) {
    sharded("{\"weight_map\":{\"embed_out.weight\":\"none.safetensors\"}}");
    load_case("a shard that is not there", DPO_E_IO, "m/none.safetensors", "open");
    sharded("{\"weight_map\":{\"embed_out.weight\":\"a.safetensors\",\"gpt_neox.embed_in.weight\":\"b.safetensors\"}}");
    load_case("one tensor in two shards", DPO_E_FORMAT, "safetensors", "two files");
    sharded("{\"weight_map\":[]}");
    load_case("weight_map is an array", DPO_E_FORMAT, "index.json", "weight_map");
    sharded("{\"metadata\":{}}");
    load_case("no weight_map", DPO_E_FORMAT, "index.json", "weight_map");
    sharded("{\"weight_map\":{}}");
    load_case("an empty weight_map", DPO_E_FORMAT, "index.json", "weight_map");
    sharded("{\"weight_map\":{\"embed_out.weight\":7}}");
    load_case("a shard that is a number", DPO_E_FORMAT, "index.json", "weight_map");
    sharded("{\"weight_map\":{\"embed_out.weight\":\"../../etc/passwd\"}}");
    load_case("a shard outside the directory", DPO_E_FORMAT, "index.json", "weight_map");
    sharded("{\"weight_map\":{\"embed_out.weight\":\"/etc/passwd\"}}");
    load_case("a shard with an absolute path", DPO_E_FORMAT, "index.json", "weight_map");
    sharded("{\"weight_map\":");
    load_case("an index that is cut off", DPO_E_FORMAT, "index.json", "expected");
    sharded("{\"weight_map\":{\"embed_out.weight\":\"a.safetensors\"}}");
    memfs_find(fs, "m/a.safetensors")->size -= 9;
    load_case("a shard that is cut off", DPO_E_FORMAT, "m/a.safetensors", "cut short");
}

/* ------------------------------------------------------------------ rows of data */
static void rows_case(const char *name, const char *rows, int want, const char *what) {
    dpo_data *d;
    reset();
    memfs_text(fs, "rows.jsonl", rows);
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    expect(name, dpo_data_read(d, "rows.jsonl"), want, "rows.jsonl", what);
    CHECK(dpo_data_count(d) == 0);
    dpo_data_free(d);
}
static void bad_rows(void) {
    dpo_data *d;
    rows_case("an empty file of rows", "", DPO_E_FORMAT, "no usable row");
    rows_case("rows that are not JSON", "hello\nworld\n", DPO_E_FORMAT, "2 of bad JSON");
    rows_case("rows that are arrays", "[1]\n", DPO_E_FORMAT, "1 of bad JSON");
    rows_case("a row without a prompt", "{\"chosen\":\"a\",\"rejected\":\"b\"}\n", DPO_E_FORMAT, "prompt");
    rows_case("a row without answers", "{\"prompt\":\"a\"}\n", DPO_E_FORMAT, "chosen");
    rows_case("a prompt that is a list", "{\"prompt\":[],\"chosen\":\"a\",\"rejected\":\"b\"}\n", DPO_E_FORMAT,
              "prompt");
    rows_case("an empty response", "{\"prompt\":\"a\",\"chosen\":\"\",\"rejected\":\"b\"}\n", DPO_E_FORMAT, "1 empty");
    rows_case("an empty rejected response", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\" \"}\n", DPO_E_FORMAT,
              "1 empty");
    rows_case("both answers the same", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"b\"}\n", DPO_E_FORMAT,
              "1 with equal");
    rows_case("a string that does not end", "{\"prompt\":\"a", DPO_E_FORMAT, "does not end");
    rows_case("a raw control character", "{\"prompt\":\"a\x01\",\"chosen\":\"b\"}\n", DPO_E_FORMAT, "control");
    rows_case("a bad escape", "{\"prompt\":\"\\q\",\"chosen\":\"b\"}\n", DPO_E_FORMAT, "backslash");
    rows_case("a key twice in a row", "{\"prompt\":\"a\",\"prompt\":\"b\",\"chosen\":\"c\"}\n", DPO_E_FORMAT, "twice");
    reset();
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    expect("rows that are not there", dpo_data_read(d, "rows.jsonl"), DPO_E_IO, "rows.jsonl", "open");
    dpo_data_free(d);
}

/* ------------------------------------------------------------------ options and use */
static void train_case(const char *name, const dpo_train_config *k, int pairs, const char *what) {
    dpo_model *m = make_model(neox_config, NULL);
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    dpo_trainer *t;
    (void)pairs;
    (void)dpo_data_read_text(d, "rows", good_rows, sizeof good_rows - 1);
    t = dpo_trainer_create(m, d, k);
    expect(name, t ? DPO_OK : dpo_status(c), DPO_E_ARG, "training", what);
    dpo_trainer_free(t);
    dpo_data_free(d);
    dpo_model_free(m);
}
static void bad_options(void) {
    static const double bad[4] = {NAN, -1e-4, INFINITY, -INFINITY};
    int i;
    for (i = 0; i < 4; i++) {
        dpo_train_config k = dpo_train_defaults(DPO_PREFERENCE);
        k.learning_rate = bad[i];
        train_case("learning_rate", &k, 1, "learning_rate");
        k = dpo_train_defaults(DPO_PREFERENCE);
        k.loss_options.beta = bad[i];
        train_case("beta", &k, 1, "beta");
        k = dpo_train_defaults(DPO_PREFERENCE);
        k.weight_decay = bad[i];
        train_case("weight_decay", &k, 1, "weight_decay");
        k = dpo_train_defaults(DPO_PREFERENCE);
        k.loss_options.label_smoothing = bad[i];
        train_case("label_smoothing", &k, 1, "label_smoothing");
        k = dpo_train_defaults(DPO_PREFERENCE);
        k.max_grad_norm = i == 2 ? NAN : bad[i];
        train_case("max_grad_norm", &k, 1, "max_grad_norm");
        k = dpo_train_defaults(DPO_PREFERENCE);
        k.adam_beta2 = bad[i];
        train_case("adam_beta2", &k, 1, "adam_beta2");
    }
}
static void bad_numbers(void) {
    dpo_train_config k = dpo_train_defaults(DPO_PREFERENCE);
    k.loss_options.beta = 0;
    train_case("beta 0", &k, 1, "beta");
    k = dpo_train_defaults(DPO_PREFERENCE);
    k.batch_size = 0;
    train_case("batch_size 0", &k, 1, "batch_size");
    k.batch_size = -4;
    train_case("batch_size -4", &k, 1, "batch_size");
    k = dpo_train_defaults(7);
    train_case("objective 7", &k, 1, "objective");
    k = dpo_train_defaults(DPO_SFT);
    k.optimizer = 9;
    train_case("optimizer 9", &k, 1, "optimizer");
    k = dpo_train_defaults(DPO_SFT);
    k.schedule = -1;
    train_case("schedule -1", &k, 1, "schedule");
    k = dpo_train_defaults(DPO_SFT);
    k.num_train_epochs = 0;
    train_case("no epochs", &k, 1, "num_train_epochs");
    k = dpo_train_defaults(DPO_SFT);
    k.warmup_steps = -1;
    train_case("negative warm-up", &k, 1, "warmup_steps");
    k = dpo_train_defaults(DPO_SFT);
    k.adam_epsilon = 0;
    train_case("epsilon 0", &k, 1, "epsilon");
    k = dpo_train_defaults(DPO_SFT);
    k.sft_reduction = 5;
    train_case("sft_reduction 5", &k, 1, "sft_reduction");
}
static void train_fit(const char *name, dpo_model *m, dpo_data *d, int objective, int want, const char *what) {
    dpo_train_config k = dpo_train_defaults(objective);
    dpo_trainer *t = dpo_trainer_create(m, d, &k);
    expect(name, t ? DPO_OK : dpo_status(c), want, "", what);
    dpo_trainer_free(t);
}
static void bad_fits(void) {
    dpo_model *m = make_model(neox_config, NULL), *g = make_model(gpt2_config, NULL);
    dpo_data *d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    int32_t ids[40];
    int i;
    for (i = 0; i < 40; i++) ids[i] = i;
    train_fit("training on nothing", m, d, DPO_SFT, DPO_E_ARG, "no examples");
    (void)dpo_data_add_tokens(d, ids, 10, ids + 10, 20, NULL, 0);
    train_fit("SFT rows for DPO", m, d, DPO_PREFERENCE, DPO_E_SHAPE, "rejected");
    train_fit("an example longer than the positions", g, d, DPO_SFT, DPO_E_SHAPE, "16");
    dpo_data_free(d);
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    ids[3] = 300;
    (void)dpo_data_add_tokens(d, ids, 2, ids + 2, 4, NULL, 0);
    train_fit("an id outside the vocabulary", m, d, DPO_SFT, DPO_E_SHAPE, "300");
    ids[3] = -1;
    dpo_data_free(d);
    d = dpo_data_create(c, dpo_tokenizer_bytes(c), NULL);
    (void)dpo_data_add_tokens(d, ids, 2, ids + 2, 4, NULL, 0);
    train_fit("a negative id", m, d, DPO_SFT, DPO_E_SHAPE, "-1");
    dpo_data_free(d);
    dpo_model_free(m);
    dpo_model_free(g);
}
static void generate_one(const char *name, dpo_model *m, const int32_t *ids, int64_t n, int64_t most,
                         double temperature, int want, const char *what) {
    dpo_generate_config g = dpo_generate_defaults();
    int32_t out[64];
    int64_t made = 0;
    g.max_new_tokens = most;
    g.temperature = temperature;
    expect(name, dpo_generate(m, &ids, &n, 1, &g, out, &made), want, "", what);
}
static void bad_generation(void) {
    dpo_model *m = make_model(gpt2_config, NULL);
    int32_t ids[40];
    char text[16];
    int i;
    for (i = 0; i < 40; i++) ids[i] = i;
    generate_one("a prompt longer than the context", m, ids, 40, 4, 1.0, DPO_E_SHAPE, "16");
    generate_one("an empty prompt", m, ids, 0, 4, 1.0, DPO_E_ARG, "prompt");
    generate_one("no new tokens", m, ids, 3, 0, 1.0, DPO_E_ARG, "max_new_tokens");
    generate_one("a negative temperature", m, ids, 3, 4, -1.0, DPO_E_ARG, "temperature");
    generate_one("temperature NaN", m, ids, 3, 4, (double)NAN, DPO_E_ARG, "temperature");
    ids[2] = 300;
    generate_one("a prompt id outside the vocabulary", m, ids, 3, 4, 1.0, DPO_E_SHAPE, "300");
    ids[2] = INT32_MIN;
    generate_one("a prompt id of -2^31", m, ids, 3, 4, 1.0, DPO_E_SHAPE, "-2147483648");
    expect("an empty text as prompt", dpo_generate_text(m, dpo_tokenizer_bytes(c), "", NULL, text, sizeof text),
           DPO_E_ARG, "dpo_generate_text", "prompt");
    dpo_model_free(m);
}
static void batch_case(const char *name, dpo_model *m, const dpo_segment *s, int ns, int rows, const dpo_target *t,
                       int nt, int nseq, int want, const char *what) {
    int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    double logps[8];
    dpo_batch b;
    b.tokens = tokens;
    b.n_rows = rows;
    b.segments = s;
    b.n_segments = ns;
    b.targets = t;
    b.n_targets = nt;
    b.n_sequences = nseq;
    expect(name, dpo_model_logps(m, &b, logps), want, "batch", what);
}
static void bad_batches(void) {
    static const dpo_segment one[1] = {{-1, 0, 4, 0}}, self[1] = {{0, 0, 4, 0}},
                             later[2] = {{1, 0, 2, 0}, {-1, 2, 2, 0}};
    static const dpo_segment gap[2] = {{-1, 0, 2, 0}, {-1, 3, 1, 0}}, past[1] = {{-1, 0, 4, 2}},
                             none[1] = {{-1, 0, 0, 0}};
    static const dpo_segment apart[3] = {{-1, 0, 1, 0}, {-1, 1, 1, 0}, {0, 2, 2, 0}}, minus[1] = {{-1, 0, -4, 0}};
    static const dpo_target good[1] = {{0, 2, 0}}, row[1] = {{4, 2, 0}}, token[1] = {{0, 300, 0}}, seq[1] = {{0, 2, 1}};
    dpo_model *m = make_model(neox_config, NULL);
    batch_case("a segment that is its own parent", m, self, 1, 4, good, 1, 1, DPO_E_SHAPE, "segment 0");
    batch_case("a parent that comes later", m, later, 2, 4, good, 1, 1, DPO_E_SHAPE, "segment 0");
    batch_case("a gap between segments", m, gap, 2, 4, good, 1, 1, DPO_E_SHAPE, "segment 1");
    batch_case("a past without a cache", m, past, 1, 4, good, 1, 1, DPO_E_SHAPE, "segment 0");
    batch_case("an empty segment", m, none, 1, 0, good, 0, 1, DPO_E_SHAPE, "segment 0");
    batch_case("a negative length", m, minus, 1, 4, good, 1, 1, DPO_E_SHAPE, "segment 0");
    batch_case("a child apart from its tree", m, apart, 3, 4, good, 1, 1, DPO_E_SHAPE, "segment 2");
    batch_case("rows without a segment", m, one, 1, 6, good, 1, 1, DPO_E_SHAPE, "rows");
    batch_case("a target row outside", m, one, 1, 4, row, 1, 1, DPO_E_SHAPE, "target 0");
    batch_case("a target token outside", m, one, 1, 4, token, 1, 1, DPO_E_SHAPE, "target 0");
    batch_case("a target sequence outside", m, one, 1, 4, seq, 1, 1, DPO_E_SHAPE, "target 0");
    batch_case("no segments", m, NULL, 0, 0, NULL, 0, 0, DPO_E_ARG, "missing");
    dpo_model_free(m);
}

/* ------------------------------------------------------------------ adapters */
static void good_adapter(void) {
    dpo_model *m;
    dpo_lora_config l = dpo_lora_defaults(DPO_GPT_NEOX);
    good_dir();
    m = dpo_model_load(c, "m");
    l.r = 2;
    l.target_modules = "query_key_value";
    if (!m || dpo_lora_attach(m, &l, 1) || dpo_lora_save(m, "a", "m")) {
        printf("cannot make a good adapter: %s\n", dpo_error(c));
        exit(3);
    }
    dpo_model_free(m);
}
static void adapter_case(const char *name, int want, const char *file, const char *what) {
    dpo_model *m = dpo_model_load(c, "m");
    uint64_t h = dpo_model_hash(m);
    expect(name, dpo_lora_load(m, "a"), want, file, what);
    CHECK(dpo_lora_tensors(m, NULL, 0) == 0 && dpo_model_hash(m) == h);
    dpo_model_free(m);
}
static void bad_adapters(void) {
    static const char *const configs[][4] = {
        {"adapter for a module that is not there", "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"k_proj\"]}",
         "k_proj", "A"},
        {"adapter without r", "{\"lora_alpha\":4,\"target_modules\":[\"query_key_value\"]}", "\"r\"", "F"},
        {"adapter with r 0", "{\"r\":0,\"lora_alpha\":4,\"target_modules\":[\"query_key_value\"]}", "r", "F"},
        {"adapter with a rank of its own", "{\"r\":3,\"lora_alpha\":4,\"target_modules\":[\"query_key_value\"]}",
         "lora_A", "S"},
        {"adapter without targets", "{\"r\":2,\"lora_alpha\":4}", "target_modules", "F"},
        {"adapter targets a number", "{\"r\":2,\"lora_alpha\":4,\"target_modules\":7}", "target_modules", "F"},
        {"adapter with an infinite alpha", "{\"r\":2,\"lora_alpha\":1e999,\"target_modules\":[\"query_key_value\"]}",
         "lora_alpha", "F"},
        {"adapter that is DoRA",
         "{\"r\":2,\"lora_alpha\":4,\"use_dora\":true,\"target_modules\":[\"query_key_value\"]}", "use_dora", "U"},
        {"adapter of another kind",
         "{\"peft_type\":\"IA3\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"query_key_value\"]}", "IA3", "U"},
        {"adapter config that is no JSON", "{\"r\":2", "expected", "F"}};
    size_t i;
    for (i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        int want = configs[i][3][0] == 'F'   ? DPO_E_FORMAT
                   : configs[i][3][0] == 'S' ? DPO_E_SHAPE
                   : configs[i][3][0] == 'U' ? DPO_E_UNSUPPORTED
                                             : DPO_E_ARG;
        good_adapter();
        memfs_text(fs, "a/adapter_config.json", configs[i][1]);
        adapter_case(configs[i][0], want, want == DPO_E_SHAPE ? "a/adapter_model.safetensors" : "a/adapter_config.json",
                     configs[i][2]);
    }
    good_adapter();
    memfs_drop(memfs_find(fs, "a/adapter_config.json"));
    adapter_case("no adapter_config.json", DPO_E_IO, "a/adapter_config.json", "open");
    good_adapter();
    memfs_drop(memfs_find(fs, "a/adapter_model.safetensors"));
    adapter_case("no adapter weights", DPO_E_IO, "a/adapter_model.safetensors", "open");
    good_adapter();
    edit_header("a/adapter_model.safetensors", "lora_B.weight", "lora_X.weight");
    adapter_case("adapter without its B", DPO_E_FORMAT, "a/adapter_model.safetensors", "lora_B");
    good_adapter();
    edit_header("a/adapter_model.safetensors", "[2,8]", "[8,2]");
    adapter_case("adapter the wrong way round", DPO_E_SHAPE, "a/adapter_model.safetensors", "lora_A");
    good_adapter();
    set_float("a/adapter_model.safetensors",
              "base_model.model.gpt_neox.layers.0.attention.query_key_value.lora_B.weight", (float)NAN);
    adapter_case("NaN in the adapter", DPO_E_NONFINITE, "a/adapter_model.safetensors", "lora_B");
}
static void attach_case(const char *name, int r, double alpha, const char *targets, const char *what) {
    dpo_model *m = make_model(neox_config, NULL);
    dpo_lora_config l = dpo_lora_defaults(DPO_GPT_NEOX);
    l.r = r;
    l.lora_alpha = alpha;
    l.target_modules = targets;
    expect(name, dpo_lora_attach(m, &l, 1), DPO_E_ARG, "LoRA", what);
    CHECK(dpo_lora_tensors(m, NULL, 0) == 0);
    dpo_model_free(m);
}

/* ------------------------------------------------------------------ output that cannot be written */
static void bad_outputs(void) {
    dpo_model *m;
    dpo_lora_config l = dpo_lora_defaults(DPO_GPT_NEOX);
    attach_case("rank 0", 0, 8, "dense", "rank");
    attach_case("rank -3", -3, 8, "dense", "rank");
    attach_case("alpha NaN", 4, (double)NAN, "dense", "alpha");
    attach_case("a target that matches nothing", 4, 8, "dense,c_attn", "c_attn");
    attach_case("no targets", 4, 8, "", "target_modules");
    good_dir();
    m = dpo_model_load(c, "m");
    fs->deny = "locked";
    expect("a directory that cannot be made", dpo_model_save(m, "locked", DPO_F32), DPO_E_IO, "locked", "directory");
    CHECK(memfs_count(fs, "locked") == 0);
    fs->deny = "m/";
    expect("a file that cannot be made", dpo_model_save(m, "m", DPO_F32), DPO_E_IO, "m/", "create");
    CHECK(memfs_find(fs, "m/model.safetensors")->size == base_size &&
          !memcmp(memfs_find(fs, "m/model.safetensors")->data, base_model, base_size));
    fs->deny = NULL;
    expect("a dtype that is none", dpo_model_save(m, "out", 77), DPO_E_ARG, "dpo_model_save", "DPO_F32");
    expect("saving adapters that are not there", dpo_lora_save(m, "a", NULL), DPO_E_STATE, "dpo_lora_save",
           "no adapters");
    expect("loading from no directory", dpo_lora_load(m, NULL), DPO_E_ARG, "dpo_lora_load", "NULL");
    (void)dpo_lora_attach(m, &l, 1);
    expect("a second adapter", dpo_lora_attach(m, &l, 1), DPO_E_STATE, "dpo_lora_attach", "already");
    fs->deny = "a/";
    expect("an adapter that cannot be written", dpo_lora_save(m, "a", NULL), DPO_E_IO, "a/", "create");
    CHECK(memfs_count(fs, "a/adapter") == 0);
    dpo_model_free(m);
}
/* The real file system, through the default hooks. */
static void bad_disk(void) {
    dpo_context *keep = c;
    dpo_tensor t;
    float x[2] = {1, 2};
    dpo_tensor *back;
    int64_t n;
    c = dpo_open(NULL);
    t = dpo_tensor_f32(x, 2, 0, 0, 0);
    t.name = "x";
    expect("a directory that is not there", dpo_tensors_save(c, "/no-such-dir/x.safetensors", &t, 1, NULL), DPO_E_IO,
           "/no-such-dir/x.safetensors", "create");
    expect("a file below a file", dpo_tensors_save(c, "/dev/null/x.safetensors", &t, 1, NULL), DPO_E_IO, "/dev/null/x",
           "create");
    expect("reading a directory", dpo_tensors_load(c, "/", &back, &n), DPO_E_IO, "/", "open");
    expect("reading a device", dpo_tensors_load(c, "/dev/zero", &back, &n), DPO_E_IO, "/dev/zero", "size");
    dpo_close(c);
    c = keep;
}
/* No context, no crash. */
static void bad_nulls(void) {
    dpo_desc d;
    memset(&d, 0, sizeof d);
    d.n_threads = -1;
    CHECK(dpo_open(&d) == NULL);
    d.n_threads = 0;
    d.simd = 99;
    CHECK(dpo_open(&d) == NULL);
    d.simd = 0;
    d.alloc = heap_alloc;
    CHECK(dpo_open(&d) == NULL);
    CHECK(dpo_status(NULL) == DPO_E_MEMORY && strlen(dpo_error(NULL)) > 10);
    CHECK(dpo_model_load(NULL, "x") == NULL && dpo_model_create(NULL, NULL, 1) == NULL);
    CHECK(dpo_data_create(NULL, NULL, NULL) == NULL && dpo_tokenizer_bytes(NULL) == NULL);
    CHECK(dpo_trainer_create(NULL, NULL, NULL) == NULL && dpo_trainer_step(NULL, NULL) < 0);
    CHECK(dpo_data_read(NULL, "x") < 0 && dpo_data_count(NULL) == 0 && dpo_model_save(NULL, "x", DPO_F32) < 0);
    CHECK(dpo_lora_attach(NULL, NULL, 1) < 0 && dpo_lora_merge(NULL) == NULL && dpo_lora_save(NULL, "x", NULL) < 0);
    CHECK(dpo_reference_compute(NULL, NULL) < 0 && dpo_reference_of(NULL) == NULL &&
          dpo_train(NULL, NULL, NULL, NULL) < 0);
    CHECK(dpo_generate(NULL, NULL, NULL, 0, NULL, NULL, NULL) < 0 && dpo_model_tensors(NULL, NULL, 0) <= 0);
    dpo_clear(NULL);
    dpo_close(NULL);
    CHECK(dpo_model_load_as(NULL, "x", NULL) == NULL && dpo_model_copy(NULL, NULL) == NULL);
    CHECK(dpo_model_set_precision(NULL, DPO_PRECISION_FP32) < 0 && dpo_model_precision_of(NULL) == DPO_PRECISION_FP32);
    expect("loading from NULL", dpo_model_load(c, NULL) ? DPO_OK : dpo_status(c), DPO_E_ARG, "dpo_model_load", "NULL");
    expect("a file called NULL", dpo_tensors_load(c, NULL, NULL, NULL), DPO_E_ARG, "dpo_tensors_load", "NULL");
}

/* ------------------------------------------------------------------ every length, every bit */
static void every_length(void) {
    size_t n, wrong = 0;
    for (n = 0; n < base_size; n++) {
        dpo_model *m;
        good_dir();
        memfs_find(fs, "m/model.safetensors")->size = n;
        m = dpo_model_load_as(c, "m", &storages[n % STORAGES]);
        if (m || dpo_status(c) != DPO_E_FORMAT || !strstr(dpo_error(c), "m/model.safetensors") || fs->handles) wrong++;
        dpo_model_free(m);
        if (fs->maps) wrong++;
        dpo_clear(c);
    }
    CHECK(wrong == 0);
    if (!wrong) passed++;
    else failed++;
    printf("  %ld lengths of a model file, %ld not refused as they should be\n", (long)base_size, (long)wrong);
}
static void every_bit(void) {
    size_t n = 8, i, bit, loaded = 0, refused = 0, wrong = 0;
    for (i = 0; i < 8; i++) n += (size_t)base_model[i] << (8 * i);
    for (bit = 0; bit < 8 * n; bit++) {
        dpo_model *m;
        good_dir();
        memfs_find(fs, "m/model.safetensors")->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        m = dpo_model_load_as(c, "m", &storages[(bit + bit / 8) % STORAGES]);
        if (m && !dpo_status(c)) loaded++;
        else if (!m && dpo_status(c) < 0 && strlen(dpo_error(c)) > 15) refused++;
        else wrong++;
        if (fs->handles) wrong++;
        dpo_model_free(m);
        if (fs->maps) wrong++;
        dpo_clear(c);
    }
    CHECK(wrong == 0 && refused > 3 * n);
    if (!wrong) passed++;
    else failed++;
    printf("  %ld bit flips of its header: %ld refused, %ld loaded all the same\n", (long)(8 * n), (long)refused,
           (long)loaded);
}
/* Rubbish of every kind, by a generator of its own: never a crash, never a block that stays. */
static void rubbish(void) {
    static const char *const pieces[12] = {"{", "}",   "[",   "]", "\"",   ":",
                                           ",", "\\u", "1e9", "-", "null", "\"prompt\":\"a\","};
    int64_t live = memory.live;
    int i, k;
    for (i = 0; i < 4000; i++) {
        char text[256];
        size_t n = 0;
        dpo_tensor *t = NULL;
        dpo_data *d;
        int64_t count;
        reset();
        for (k = rng_below(24); k > 0 && n < 200; k--) {
            const char *p = pieces[rng_below(12)];
            memcpy(text + n, p, strlen(p));
            n += strlen(p);
            if (!rng_below(9)) text[n++] = (char)rng_below(256);
        }
        memfs_put(fs, "m/config.json", text, n);
        memfs_put(fs, "rows.jsonl", text, n);
        CHECK(dpo_model_load(c, "m") == NULL && dpo_status(c) < 0);
        dpo_clear(c);
        if (!dpo_tensors_load(c, "rows.jsonl", &t, &count)) dpo_tensors_free(c, t);
        dpo_clear(c);
        d = dpo_data_create(c, NULL, NULL);
        (void)dpo_data_read(d, "rows.jsonl");
        dpo_clear(c);
        dpo_data_free(d);
    }
    CHECK(memory.live == live);
}

int main(void) {
    dpo_model *m;
    int cases;
    memset(&memory, 0, sizeof memory);
    fs = memfs_new();
    memfs_maps(fs, 1);
    c = memfs_context(fs, &memory, 1, 0);
    if (!c) return 3;
    m = make_model(neox_config, "base");
    dpo_model_free(m);
    base_size = memfs_find(fs, "base/model.safetensors")->size;
    base_model = (uint8_t *)malloc(base_size);
    if (!base_model) return 3;
    memcpy(base_model, memfs_find(fs, "base/model.safetensors")->data, base_size);
    bad_configs();
    bad_headers();
    bad_sizes();
    bad_models();
    bad_shards();
    bad_rows();
    bad_options();
    bad_numbers();
    bad_fits();
    bad_generation();
    bad_batches();
    bad_adapters();
    bad_outputs();
    bad_disk();
    bad_nulls();
    cases = passed + failed;
    every_length();
    every_bit();
    rubbish();
    dpo_close(c);
    CHECK(memory.live == 0 && memory.bytes == 0);
    reset();
    free(fs);
    free(base_model);
    if (check_failures) failed++;
    if (cases < FLOOR) {
        printf("only %d cases ran, there must be %d\n", cases, FLOOR);
        failed++;
    }
    printf("  %d cases of hostile input\n", cases);
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
