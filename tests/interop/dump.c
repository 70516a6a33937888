/* dump.c - what tests/interop/files.py and models.py ask of the C side.

   usage: interop-dump torch FILE OUT.safetensors [NAME]     the tensors that torch.h reads of FILE (or that one)
          interop-dump logits MODEL_DIR ADAPTER_DIR|- IDS OUT.safetensors
                                                             dpo_model_logits of one sequence, ids joined by ','
   Exit status 1 and a sentence where it fails. Links with the implementation (build/dpo.o). */
#include "../../tools/formats/torch.h"

static int die(const char *what) {
    printf("%s\n", what);
    return 1;
}

static int dump_torch(dpo_context *c, const char *from, const char *to, const char *only) {
    char err[640] = "";
    torch_file *f = torch_is(from) ? torch_open(from, err, sizeof err) : NULL;
    int64_t i, n = 0, count = f ? torch_count(f) : 0;
    dpo_tensor *t = (dpo_tensor *)calloc((size_t)count + 1, sizeof *t);
    int failed = !f || !t;
    for (i = 0; i < count && !failed; i++) {
        const dpo_tensor *seen = torch_tensor(f, i);
        const void *data;
        size_t bytes = torch_dtype_bytes(seen->dtype);
        int k;
        if (only && strcmp(seen->name, only) != 0) continue;
        data = torch_read(f, i, err, sizeof err);
        for (k = 0; k < seen->ndim; k++) bytes *= (size_t)seen->shape[k];
        t[n] = *seen;
        t[n].data = data ? malloc(bytes + 1) : NULL;
        failed = !t[n].data;
        if (!failed) memcpy(t[n++].data, data, bytes);
    }
    if (failed) die(*err ? err : "not a PyTorch checkpoint, by torch_is");
    else if (dpo_tensors_save(c, to, t, n, NULL)) failed = die(dpo_error(c));
    for (i = 0; i < n; i++) free(t[i].data);
    free(t);
    torch_close(f);
    return failed;
}

static int dump_logits(dpo_context *c, const char *model, const char *adapter, const char *list, const char *to) {
    enum { MOST = 512 };
    int32_t ids[MOST];
    dpo_target targets[MOST];
    dpo_segment s = {-1, 0, 0, 0};
    dpo_batch b;
    dpo_model *m = dpo_model_load(c, model);
    dpo_tensor t;
    int64_t n = 0, vocab;
    float *z;
    if (m && strcmp(adapter, "-") != 0) dpo_lora_load(m, adapter);
    if (!m || dpo_status(c)) return die(dpo_error(c));
    memset(targets, 0, sizeof targets);
    memset(&b, 0, sizeof b);
    for (; n < MOST && *list; list += *list == ',') {
        char *end;
        targets[n].row = (int32_t)n;
        ids[n++] = (int32_t)strtol(list, &end, 10);
        if (end == list) return die("IDS: expected numbers joined by ','");
        list = end;
    }
    s.length = (int32_t)n;
    b.n_rows = b.n_targets = n;
    b.tokens = ids;
    b.segments = &s;
    b.n_segments = b.n_sequences = 1;
    b.targets = targets;
    vocab = dpo_model_config_of(m)->vocab_size;
    z = (float *)malloc((size_t)(n * vocab) * sizeof *z + 1);
    if (!z) return die("no memory for logits");
    t = dpo_tensor_f32(z, n, vocab, 0, 0);
    t.name = "logits";
    if (!dpo_model_logits(m, &b, z)) dpo_tensors_save(c, to, &t, 1, NULL);
    free(z);
    return dpo_status(c) ? die(dpo_error(c)) : 0;
}

int main(int argc, char **argv) {
    dpo_context *c = dpo_open(NULL);
    int r = 2;
    if (!c) return die("no context");
    if ((argc == 4 || argc == 5) && !strcmp(argv[1], "torch")) r = dump_torch(c, argv[2], argv[3], argv[4]);
    else if (argc == 6 && !strcmp(argv[1], "logits")) r = dump_logits(c, argv[2], argv[3], argv[4], argv[5]);
    else fprintf(stderr, "interop-dump: torch FILE OUT [NAME], or logits MODEL ADAPTER|- IDS OUT\n");
    dpo_close(c);
    return r;
}
