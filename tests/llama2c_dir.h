/* llama2c_dir.h - a llama2.c checkpoint, with its tok*.bin if that is not NULL, as a Hugging Face directory. Include
   tools/formats/llama2c.h and check.h first. */
#ifndef LLAMA2C_DIR_H
#define LLAMA2C_DIR_H

static void llama2c_dir_text(const char *dir, const char *name, const char *text) {
    char path[1024];
    FILE *f;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "wb");
    if (CHECK(f != NULL)) CHECK((fputs(text, f) >= 0) + !fclose(f) == 2);
}
/* NULL where anything fails, which is then a failed check. */
static dpo_model *llama2c_dir(dpo_context *c, const char *bin, const char *tok_bin, const char *dir) {
    char err[2048] = "", path[1024], json[1200];
    llama2c_file *f = llama2c_open(bin, err, sizeof err);
    dpo_tensor *t;
    FILE *out;
    int64_t i, n;
    if (!CHECK_CASE(f != NULL, err)) return NULL;
    CHECK(llama2c_config_json(f, json, sizeof json) < sizeof json);
    llama2c_dir_text(dir, "config.json", json);
    t = SCRATCH(dpo_tensor, llama2c_count(f));
    for (i = 0; i < llama2c_count(f); i++) {
        const void *values = llama2c_read(f, i, err, sizeof err);
        t[i] = *llama2c_tensor(f, i);
        n = t[i].shape[0] * t[i].shape[1];
        t[i].data = SCRATCH(float, n);
        if (CHECK_CASE(values != NULL, err)) memcpy(t[i].data, values, (size_t)n * sizeof(float));
    }
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK_OK(c, dpo_tensors_save(c, path, t, llama2c_count(f), NULL));
    llama2c_close(f);
    if (tok_bin) {
        (void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
        out = fopen(path, "wb");
        if (CHECK(out != NULL)) {
            CHECK_CASE(!llama2c_tokenizer_json(tok_bin, out, err, sizeof err), err);
            fclose(out);
        }
        llama2c_dir_text(dir, "tokenizer_config.json", LLAMA2C_TOKENIZER_CONFIG);
    }
    return check_failures ? NULL : dpo_model_load(c, dir);
}
#endif
