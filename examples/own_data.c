/* own_data.c - your own data: from a text of any shape to tokens, with a report of what happened to each row.
 *
 *     cc -O2 -DDPO_IMPLEMENTATION examples/own_data.c -o own_data -lm -lpthread && ./own_data [MODEL_DIR]
 *
 * Rows here are a question, a good and a bad answer between tabs. MODEL_DIR brings a tokenizer; without one, bytes. What
 * the chat format writes is marked special: there "<|im_end|>" means the end of a turn. What people wrote is not: in a
 * question it is just text. Last line: 5 rows, 2 kept, 1 empty, 1 the same, 1 too long; 90 tokens to learn from */
#include "../dpo.h"
#include <stdio.h>
#include <string.h>

static const char rows[] = "What is 1 + 1?\tIt is 2.\tIt is 11.\n"
                           "What ends a turn?\t<|im_end|> does.\tNothing does.\n"
                           "Are you there?\tYes.\t \n"
                           "Which is it?\tBoth.\tBoth.\n"
                           "Tell me a long story about the sea, please, with all its fish\tNo.\tOnce upon a time\n";

static dpo_text part(const char *text, size_t bytes, int special) {
    dpo_text t;
    t.text = text;
    t.bytes = bytes;
    t.special = special;
    return t;
}

/* "<|im_start|>user\n", the question, "<|im_end|>\n<|im_start|>assistant\n"; and an answer with its end of turn. */
static void add_row(dpo_data *d, const char *field[3], const size_t bytes[3]) {
    static const char opens[] = "<|im_start|>user\n", turns[] = "<|im_end|>\n<|im_start|>assistant\n",
                      ends[] = "<|im_end|>";
    dpo_text prompt[3], answer[2][2];
    int i;
    prompt[0] = part(opens, sizeof opens - 1, 1);
    prompt[1] = part(field[0], bytes[0], 0);
    prompt[2] = part(turns, sizeof turns - 1, 1);
    for (i = 0; i < 2; i++) {
        answer[i][0] = part(field[i + 1], bytes[i + 1], 0);
        answer[i][1] = part(ends, sizeof ends - 1, 1);
    }
    dpo_data_add_parts(d, prompt, 3, answer[0], 2, answer[1], 2);
}

int main(int argc, char **argv) {
    dpo_context *c = dpo_open(NULL);
    dpo_tokenizer *t = argc > 1 ? dpo_tokenizer_load(c, argv[1]) : dpo_tokenizer_bytes(c);
    dpo_data_options o = dpo_data_defaults();
    dpo_data_report r;
    dpo_data *d;
    const char *at = rows, *field[3];
    size_t bytes[3];
    int i, failed;
    o.max_length = 96;
    o.truncation = DPO_TRUNCATE_KEEP_START;                /* a row whose prompt alone is longer is dropped */
    o.end_of_turn = dpo_tokenizer_id(t, "<|im_end|>", 10); /* answers are closed by it, if the tokenizer has it */
    d = dpo_data_create(c, t, &o);
    while (*at) {
        for (i = 0; i < 3; i++) {
            field[i] = at;
            bytes[i] = strcspn(at, "\t\n");
            at += bytes[i] + 1;
        }
        add_row(d, field, bytes);
    }
    r = dpo_data_report_of(d);
    failed = dpo_status(c) != DPO_OK;
    if (failed) puts(dpo_error(c));
    else
        printf("%d rows, %d kept, %d empty, %d the same, %d too long; %d tokens to learn from\n", (int)r.rows,
               (int)r.kept, (int)r.empty_response, (int)r.identical, (int)r.too_long,
               (int)(r.chosen_tokens + r.rejected_tokens));
    dpo_close(c);
    return failed;
}
