/* stories.c - a really pretrained model speaks: stories260K (llama2.c's legacy .bin, laid out here as a Hugging Face
   directory) and its tokenizer, greedily from nothing, must give its published text word for word.

   usage: stories DIR OUT     DIR has stories260K.bin and tok512.bin. Last line: N passed, N failed. */
#include "../dpo.h"

#include "check.h"

static const char published[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do.";

typedef struct story {
    FILE *f;
    dpo_tensor t[128];
    char names[128][64];
    int n, bad;
} story;

/* The next rows x columns floats of the file as tensor `name` (of layer l where it holds a %d). halves > 0: rows of each
   head, which llama2.c stores by neighbouring pairs for its rotary positions, in the order of two halves. */
static void take(story *s, const char *name, int l, int64_t rows, int64_t columns, int64_t halves) {
    int64_t i, size = 2 * halves;
    float *x = SCRATCH(float, rows *columns), *y = x;
    dpo_tensor *t = &s->t[s->n];
    s->bad |= fread(x, sizeof *x, (size_t)(rows * columns), s->f) != (size_t)(rows * columns);
    if (halves) {
        y = SCRATCH(float, rows *columns);
        for (i = 0; i < rows; i++) {
            int64_t head = i / size, j = i % size / halves, k = i % halves;
            memcpy(y + i * columns, x + (head * size + 2 * k + j) * columns, (size_t)columns * sizeof *x);
        }
    }
    (void)snprintf(s->names[s->n], sizeof s->names[0], name, l);
    *t = dpo_tensor_f32(y, rows > 1 ? rows : columns, rows > 1 ? columns : 0, 0, 0);
    t->name = s->names[s->n++];
}
static void each_layer(story *s, const char *name, int layers, int64_t rows, int64_t columns, int64_t halves) {
    int l;
    for (l = 0; l < layers; l++) take(s, name, l, rows, columns, halves);
}

static dpo_model *convert(dpo_context *c, const char *file, const char *out, int *vocab) {
    static story s;
    int32_t h[7]; /* dim, hidden, layers, heads, key-value heads, vocabulary, positions */
    char path[1024];
    FILE *f;
    int64_t d, kv, half;
    memset(&s, 0, sizeof s);
    s.f = fopen(file, "rb");
    if (!s.f || fread(h, sizeof *h, 7, s.f) != 7 || h[2] > 12) return NULL;
    d = h[0];
    half = d / h[3] / 2;
    kv = 2 * half * h[4];
    *vocab = h[5];
    take(&s, "model.embed_tokens.weight", 0, h[5], d, 0);
    each_layer(&s, "model.layers.%d.input_layernorm.weight", h[2], 1, d, 0);
    each_layer(&s, "model.layers.%d.self_attn.q_proj.weight", h[2], d, d, half);
    each_layer(&s, "model.layers.%d.self_attn.k_proj.weight", h[2], kv, d, half);
    each_layer(&s, "model.layers.%d.self_attn.v_proj.weight", h[2], kv, d, 0);
    each_layer(&s, "model.layers.%d.self_attn.o_proj.weight", h[2], d, d, 0);
    each_layer(&s, "model.layers.%d.post_attention_layernorm.weight", h[2], 1, d, 0);
    each_layer(&s, "model.layers.%d.mlp.gate_proj.weight", h[2], h[1], d, 0);
    each_layer(&s, "model.layers.%d.mlp.down_proj.weight", h[2], d, h[1], 0);
    each_layer(&s, "model.layers.%d.mlp.up_proj.weight", h[2], h[1], d, 0);
    take(&s, "model.norm.weight", 0, 1, d, 0);
    fclose(s.f);
    (void)snprintf(path, sizeof path, "%s/config.json", out);
    f = fopen(path, "wb");
    if (s.bad || !f) return NULL;
    fprintf(
        f,
        "{\"model_type\": \"llama\", \"vocab_size\": %d, \"hidden_size\": %d, \"intermediate_size\": %d, "
        "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, "
        "\"max_position_embeddings\": %d, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
        "\"tie_word_embeddings\": true, \"bos_token_id\": 1, \"eos_token_id\": 2}\n",
        (int)h[5], (int)h[0], (int)h[1], (int)h[2], (int)h[3], (int)h[4], (int)h[6]);
    fclose(f);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", out);
    CHECK_OK(c, dpo_tensors_save(c, path, s.t, s.n, NULL));
    return dpo_model_load(c, out);
}

int main(int argc, char **argv) {
    dpo_context *c = dpo_open(NULL);
    dpo_generate_config g = dpo_generate_defaults();
    dpo_tokenizer *t;
    dpo_model *m;
    char path[1024], text[4096];
    int vocab = 0;
    if (argc != 3 || !c) return 3;
    (void)snprintf(path, sizeof path, "%s/tok512.bin", argv[1]);
    t = dpo_tokenizer_load(c, path);
    (void)snprintf(path, sizeof path, "%s/stories260K.bin", argv[1]);
    m = convert(c, path, argv[2], &vocab);
    CHECK_OK(c, m && t ? DPO_OK : DPO_E_STATE);
    CHECK(vocab == dpo_tokenizer_vocab(t));
    g.temperature = 0;
    g.max_new_tokens = 255;
    if (m && t && CHECK_OK(c, dpo_generate_text(m, t, "", &g, text, sizeof text)))
        CHECK_CASE(!strncmp(text, published, strlen(published)), text);
    g.max_new_tokens = 20; /* behind a prompt the space before the first word is the answer's */
    if (m && t && CHECK_OK(c, dpo_generate_text(m, t, "Once upon a time,", &g, text, sizeof text)))
        CHECK_CASE(!strncmp(text, published + 17, strlen(text)) && strlen(text) > 20, text);
    dpo_close(c);
    scratch_free();
    printf("%d passed, %d failed\n", check_failures ? 0 : 1, check_failures ? 1 : 0);
    return check_failures != 0;
}
