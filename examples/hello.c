/* hello.c - a model of a million random weights speaks. It has learnt nothing: sft.c goes on from here.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/hello.c -o hello -lm -lpthread && ./hello
 *
 * Run it where examples/tiny.json lies. Last line: .].,..a */
#include "../dpo.h"
#include <stdio.h>

int main(void) {
    char text[200];
    dpo_generate_config g = dpo_generate_defaults();
    dpo_context *c = dpo_open(NULL);
    dpo_model *m = dpo_model_create_from(c, "examples/tiny.json", 1);
    size_t i;
    int ok;
    g.max_new_tokens = 40;
    dpo_generate_text(m, dpo_tokenizer_bytes(c), "Hello", &g, text, sizeof text);
    ok = dpo_status(c) == DPO_OK;
    for (i = 0; ok && text[i]; i++) putchar(text[i] > ' ' && text[i] < 127 ? text[i] : '.');
    printf("%s\n", ok ? "" : dpo_error(c));
    dpo_close(c);
    return !ok;
}
