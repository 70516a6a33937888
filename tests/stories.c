/* stories.c - a really pretrained model speaks: stories260K, llama2.c's legacy .bin with its tok512.bin, becomes a
   Hugging Face directory by tools/formats/llama2c.h, and must give its published text word for word, greedily from
   nothing.

   usage: stories DIR OUT     DIR has stories260K.bin and tok512.bin. Last line: N passed, N failed. */
#include "../tools/formats/llama2c.h"

#include "check.h"
#include "llama2c_dir.h"

static const char published[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do.";

static void speak(dpo_context *c, dpo_model *m, const char *tokenizer) {
    dpo_generate_config g = dpo_generate_defaults();
    dpo_tokenizer *t = dpo_tokenizer_load(c, tokenizer);
    char text[4096];
    if (!CHECK_OK(c, t ? DPO_OK : DPO_E_STATE)) return;
    CHECK(dpo_model_config_of(m)->vocab_size == dpo_tokenizer_vocab(t));
    g.temperature = 0;
    g.max_new_tokens = 255;
    if (CHECK_OK(c, dpo_generate_text(m, t, "", &g, text, sizeof text)))
        CHECK_CASE(!strncmp(text, published, strlen(published)), text);
    g.max_new_tokens = 20; /* behind a prompt the space before the first word is the answer's */
    if (CHECK_OK(c, dpo_generate_text(m, t, "Once upon a time,", &g, text, sizeof text)))
        CHECK_CASE(!strncmp(text, published + 17, strlen(text)) && strlen(text) > 20, text);
    dpo_tokenizer_free(t);
}

int main(int argc, char **argv) {
    dpo_context *c = dpo_open(NULL);
    dpo_model *m;
    char bin[1024], tok[1024];
    if (argc != 3 || !c) return 3;
    (void)snprintf(bin, sizeof bin, "%s/stories260K.bin", argv[1]);
    (void)snprintf(tok, sizeof tok, "%s/tok512.bin", argv[1]);
    CHECK(llama2c_is(bin));
    m = llama2c_dir(c, bin, tok, argv[2]);
    if (CHECK_OK(c, m ? DPO_OK : DPO_E_STATE)) {
        speak(c, m, argv[2]); /* by the tokenizer.json written there */
    }
    dpo_close(c);
    scratch_free();
    printf("%d passed, %d failed\n", check_failures ? 0 : 1, check_failures ? 1 : 0);
    return check_failures != 0;
}
