/* dpo-chat.c: the program build/dpo-chat talks to a model, on dpo.h.
 *
 *     dpo-chat --model DIR [--adapter DIR]                   a conversation: a line is a turn, /help lists commands
 *     dpo-chat --model DIR --prompt "Why?" --n 4 --json      one turn, four answers, a JSON object each
 *
 * Turns are written in the format that the model was trained on (tools/formats/chat.h). Stdout gets the answers and
 * nothing else; they appear as they are drawn, in whole characters, and what may begin a stop string is held back until
 * it is clear. Ctrl-C ends the answer, a second one the program. Exit code 1 after one sentence on stderr. */
#include "cli.h" /* first: it asks the system headers for sigaction and friends */
#include "../dpo.h"
#include "dataset.h"

#define MOST_STOPS 8

/* ---- settings --------------------------------------------------------------------------------------------------- */

typedef struct settings {
    const char *model, *adapter, *tokenizer, *prompt, *system, *stop;
    int format, max_new_tokens, top_k, n, precision, pack, verify, map, threads, json;
    uint64_t seed;
    dpo_generate_config g;
} settings;

static int settings_parse(settings *s, cli_program *p, int argc, char **argv) {
    dpo_generate_config *g = &s->g;
    cli_option options[] = {
        CLI_HEADING("Model and conversation"),
        CLI_STRING("model", &s->model, "DIR", "model_name_or_path", "a Hugging Face directory (safetensors)"),
        CLI_STRING("adapter", &s->adapter, "DIR", "", "a PEFT adapter on it"),
        CLI_STRING("tokenizer", &s->tokenizer, "PATH", "tokenizer_name",
                   "a directory, a tokenizer.json, or bytes; without it the model's own"),
        CLI_STRING("prompt", &s->prompt, "TEXT", "", "answer this and stop; without it each line of stdin is a turn"),
        CLI_WORD("chat-format", &s->format, "auto|" CHAT_WORDS, "chat_template",
                 "how turns are written; auto: as the model's directory says"),
        CLI_STRING("system", &s->system, "TEXT", "", "stands before the first turn"),
        CLI_HEADING("Answers"),
        CLI_INT("max-new-tokens", &s->max_new_tokens, 1, 1000000000, "", "at most so many"),
        CLI_DOUBLE("temperature", &g->temperature, 0, 1e6, "", "0: the likeliest token each time"),
        CLI_INT("top-k", &s->top_k, 0, INT_MAX, "", "draw from the k likeliest tokens; 0: all"),
        CLI_DOUBLE("top-p", &g->top_p, CLI_ABOVE_0, 1, "", "draw from the likeliest that together reach p"),
        CLI_DOUBLE("min-p", &g->min_p, 0, 0.999999, "",
                   "draw from those at least so likely, measured by the likeliest"),
        CLI_DOUBLE("repetition-penalty", &g->repetition_penalty, CLI_ABOVE_0, 1e6, "", "above 1: says less twice"),
        CLI_UINT64(
            "seed", &s->seed, "",
            "of the first turn, each further turn takes the next number; the k-th answer is the same for every --n"),
        CLI_INT("n", &s->n, 1, 1000000, "num_return_sequences", "answers to each turn; the first one is remembered"),
        CLI_STRING("stop", &s->stop, "TEXT", "", "end an answer here, besides where its format ends"),
        CLI_HEADING("The run"),
        CLI_WORD("precision", &s->precision, "fp32|mixed|bf16", "",
                 "of the arithmetic: mixed and bf16 multiply bf16 numbers; the weights stay as in their file"),
        CLI_FLAG("verify", &s->verify, "", "compare the checksums in the model's files before it is used"),
        CLI_FLAG("mmap", &s->map, "", "map the model's files; --no-mmap reads them into memory"),
        CLI_FLAG("pack", &s->pack, "", "a copy of the weights for products is made first: answers come faster"),
        CLI_INT("threads", &s->threads, 0, 1024, "", "0: one per core. Changes no answer"),
        CLI_FLAG("json", &s->json, "", "a line of {prompt, response, tokens, finish, seed, index} for each answer"),
    };
    if (cli_parse(p, options, CLI_COUNT(options), argc, argv)) return 1;
    if (!s->model) {
        p->exit_code = cli_die("expected --model DIR, the model to talk to; dpo-chat --help says more");
        return 1;
    }
    if (s->stop && !*s->stop) {
        p->exit_code = cli_die("--stop is empty; expected the text at which answers end");
        return 1;
    }
    g->max_new_tokens = s->max_new_tokens;
    g->num_return_sequences = s->n;
    g->top_k = s->top_k;
    return 0;
}

/* ---- the conversation's state ----------------------------------------------------------------------------------- */

typedef struct text_buffer {
    char *text; /* zero-terminated once something was added */
    size_t n, room;
} text_buffer;

static int buffer_add(text_buffer *b, const char *text, size_t n) {
    if (n >= b->room - b->n || !b->room) {
        size_t room = 2 * (b->n + n) + 64;
        char *p = (char *)realloc(b->text, room);
        if (!p) return 1;
        b->text = p;
        b->room = room;
    }
    memcpy(b->text + b->n, text, n);
    b->n += n;
    b->text[b->n] = 0;
    return 0;
}

/* An answer's text as its ids come. */
typedef struct answer {
    text_buffer b;
    dpo_decoder decoder;
    size_t begin, printed; /* its first word; what was shown */
    int stopped;           /* a stop string was found and cut off */
} answer;

typedef struct chat {
    settings s;
    dpo_context *c;
    dpo_model *m;
    dpo_tokenizer *t;
    int format, streaming, no_memory, stopped; /* stopped: the last answer was, by Ctrl-C */
    const char *stop[MOST_STOPS];
    int32_t end_of_turn;
    text_buffer system;
    chat_message *turn; /* [turns] user, assistant, user, ...; texts are malloc's */
    int64_t turns, room;
    chat_parts parts;
    int32_t *ids, *out; /* [n_ids] the prompt; [n, max_new_tokens] */
    int64_t n_ids;
    int64_t *n_out;
    int *finish;
    answer live;      /* the streamed one */
    uint64_t replies; /* so far: each has a seed of its own */
} chat;

static int no_memory(void) { return cli_die("out of memory"); }

static int turn_add(chat *u, const char *role, const char *text, size_t bytes) {
    char *copy = (char *)malloc(bytes + 1);
    if (u->turns == u->room && copy) {
        int64_t room = u->room ? 2 * u->room : 16;
        chat_message *p = (chat_message *)realloc(u->turn, (size_t)(room + 1) * sizeof *p); /* + 1: the system's */
        if (p) {
            u->turn = p;
            u->room = room;
        }
    }
    if (!copy || u->turns == u->room) {
        free(copy);
        return no_memory();
    }
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    u->turn[u->turns].role = role;
    u->turn[u->turns].text = copy;
    u->turn[u->turns++].bytes = bytes;
    return 0;
}

/* Forgets the first n turns. */
static void turns_drop(chat *u, int64_t n) {
    int64_t i;
    for (i = 0; i < n; i++) free((void *)(uintptr_t)u->turn[i].text);
    memmove(u->turn, u->turn + n, (size_t)(u->turns - n) * sizeof *u->turn);
    u->turns -= n;
}
static void turns_pop(chat *u) { free((void *)(uintptr_t)u->turn[--u->turns].text); }

static int on_cancel(void *user) {
    (void)user;
    return cli_stopped();
}

static void on_log(void *user, int level, const char *line) {
    (void)user;
    if (level == DPO_LOG_WARNING) cli_note("warning: %s", line);
}

/* ---- an answer's text ------------------------------------------------------------------------------------------- */

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t answer_held(const chat *u, const answer *a) {
    size_t most = 0, k, length;
    int64_t i;
    for (i = 0; i < u->s.g.n_stop; i++) {
        length = strlen(u->stop[i]);
        for (k = length - 1 < a->b.n ? length - 1 : a->b.n; k > most; k--)
            if (!memcmp(a->b.text + a->b.n - k, u->stop[i], k)) most = k;
    }
    return most;
}

static void answer_print(answer *a, size_t end) {
    if (end <= a->printed) return;
    fwrite(a->b.text + a->printed, 1, end - a->printed, stdout);
    fflush(stdout);
    a->printed = end;
}

/* Cuts the text before the first stop string that ends in it behind `from` bytes. */
static void answer_cut(const chat *u, answer *a, size_t from) {
    int64_t s;
    for (s = 0; s < u->s.g.n_stop; s++) {
        size_t n = strlen(u->stop[s]), i = from < n ? 0 : from - n + 1;
        for (; i + n <= a->b.n; i++)
            if (!memcmp(a->b.text + i, u->stop[s], n)) {
                a->b.n = i;
                a->stopped = 1;
            }
    }
}

/* What the id adds (-1: what is left at the end), stop strings cut off; on the way it is shown as far as it is clear.
 * In a chat format the blanks before an answer's first word belong to the format. */
static void answer_add(chat *u, answer *a, int32_t id) {
    char piece[4096];
    size_t before = a->b.n;
    int64_t n = a->stopped ? 0 : dpo_decode_next(u->t, &a->decoder, id, piece, sizeof piece);
    if (n > (int64_t)sizeof piece) n = (int64_t)sizeof piece;
    if (n > 0 && buffer_add(&a->b, piece, (size_t)n)) u->no_memory = 1;
    answer_cut(u, a, before);
    while (u->format != CHAT_NONE && a->begin < a->b.n && isspace((unsigned char)a->b.text[a->begin])) a->begin++;
    if (a->begin > a->b.n) a->begin = a->b.n;
    if (a->printed < a->begin) a->printed = a->begin;
    if (u->streaming) answer_print(a, id < 0 || a->stopped ? a->b.n : a->b.n - answer_held(u, a));
}

/* The text goes on from the prompt's last id: behind words, the space that a SentencePiece tokenizer has before its
 * first one belongs to the answer. */
static void answer_start(const chat *u, answer *a) {
    char piece[4096];
    a->b.n = a->begin = a->printed = 0;
    a->stopped = 0;
    memset(&a->decoder, 0, sizeof a->decoder);
    dpo_decode_next(u->t, &a->decoder, u->ids[u->n_ids - 1], piece, sizeof piece);
    a->decoder.n_held = 0;
}

static int on_token(void *user, int64_t sequence, int32_t id) {
    chat *u = (chat *)user;
    (void)sequence;
    answer_add(u, &u->live, id);
    return u->live.stopped || u->no_memory;
}

/* ---- a turn ----------------------------------------------------------------------------------------------------- */

/* The conversation as ids in u->ids; how many, or -1 after an error was printed. */
static int64_t chat_encode(chat *u) {
    unsigned flags = dpo_tokenizer_adds_bos(u->t) && !chat_writes_bos(u->format) ? DPO_ENCODE_ADD_BOS : 0;
    int64_t n = u->turns, first = u->system.n ? 1 : 0;
    chat_message *m = (chat_message *)malloc((size_t)(n + 1) * sizeof *m);
    int bad = !m;
    if (m && first) {
        m[0].role = "system";
        m[0].text = u->system.text;
        m[0].bytes = u->system.n;
    }
    if (m && n) memcpy(m + first, u->turn, (size_t)n * sizeof *m);
    u->parts.n = 0;
    bad = bad || chat_prompt(&u->parts, u->format, m, n + first);
    free(m);
    if (bad) return -no_memory();
    n = dpo_encode_parts(u->t, u->parts.part, u->parts.n, flags, NULL, 0);
    if (n < 0) return -cli_die("%s", dpo_status(u->c) ? dpo_error(u->c) : "the conversation could not be encoded");
    free(u->ids);
    u->ids = (int32_t *)malloc((size_t)(n + 1) * sizeof *u->ids);
    if (!u->ids) return -no_memory();
    dpo_encode_parts(u->t, u->parts.part, u->parts.n, flags, u->ids, n);
    return n;
}

/* The same, with the oldest turns forgotten if there is no room for the answer; *most: ids that it may have. */
static int64_t chat_fit(chat *u, int64_t *most) {
    int64_t positions = dpo_model_config_of(u->m)->max_position_embeddings, want = u->s.g.max_new_tokens, n,
            dropped = 0;
    if (want > positions / 4) want = positions / 4 > 0 ? positions / 4 : 1;
    for (n = chat_encode(u); n > 0 && n + want > positions && u->turns > 2; n = chat_encode(u), dropped++)
        turns_drop(u, 2);
    if (dropped)
        cli_note("the conversation is longer than the model's %s positions: its oldest %s turns were dropped",
                 cli_count((uint64_t)positions), cli_count((uint64_t)dropped * 2));
    *most = positions - n < u->s.g.max_new_tokens ? positions - n : u->s.g.max_new_tokens;
    if (n == 0)
        return -cli_die("there is nothing to answer: the text is empty, and the tokenizer begins no text itself");
    if (n > 0 && *most < 1)
        return -cli_die("the turn has %s tokens, the model %s positions; shorten it", cli_count((uint64_t)n),
                        cli_count((uint64_t)positions));
    return n;
}

static const char *finish_name(const chat *u, int i, int64_t most) {
    static const char *const names[] = {"length", "eos", "stop"};
    if (u->finish[i] != DPO_FINISH_LENGTH) return names[u->finish[i]];
    return u->stopped && u->n_out[i] < most ? "cancelled" : "length"; /* what had ended already has ended */
}

static void print_json(const chat *u, const chat_message *asked, const answer *a, int i, const char *finish) {
    printf("{\"prompt\":");
    cli_json_string(stdout, asked->text, asked->bytes);
    printf(",\"response\":");
    cli_json_string(stdout, a->b.n ? a->b.text + a->begin : "", a->b.n - a->begin);
    printf(",\"tokens\":%lld,\"finish\":\"%s\",\"seed\":%llu,\"index\":%d}\n", (long long)u->n_out[i], finish,
           (unsigned long long)u->s.g.seed, i);
    fflush(stdout);
}

/* Prints all answers; the first one becomes a turn. */
static int chat_answers(chat *u, int64_t most) {
    const chat_message asked = u->turn[u->turns - 1];
    int i, bad = 0;
    int64_t k;
    for (i = 0; i < u->s.n && !bad; i++) {
        answer *a = &u->live;
        if (!u->streaming) {
            answer_start(u, a);
            for (k = 0; k < u->n_out[i]; k++) answer_add(u, a, u->out[i * most + k]);
        }
        answer_add(u, a, -1);
        if (u->s.json) print_json(u, &asked, a, i, finish_name(u, i, most));
        else {
            answer_print(a, a->b.n);
            putchar('\n');
            fflush(stdout);
        }
        if (!i) bad = turn_add(u, "assistant", a->b.n ? a->b.text + a->begin : "", a->b.n - a->begin);
    }
    if (u->stopped && !u->s.json) cli_note("(stopped)");
    return bad || (u->no_memory && no_memory());
}

/* Answers the conversation, whose last turn is the user's. 1 after an error was printed. */
static int chat_reply(chat *u) {
    dpo_generate_config *g = &u->s.g;
    int64_t most, n = chat_fit(u, &most), asked = g->max_new_tokens;
    const int32_t *ids = u->ids;
    dpo_result code;
    if (n < 0) return 1;
    u->n_ids = n;
    free(u->out);
    u->out = (int32_t *)malloc((size_t)(most * u->s.n) * sizeof *u->out);
    if (!u->out) return no_memory();
    u->streaming = u->s.n == 1 && !u->s.json;
    g->on_token = u->streaming ? on_token : NULL;
    g->user = u;
    g->seed = u->s.seed + u->replies++;
    g->finish = u->finish;
    answer_start(u, &u->live);
    if (!u->s.prompt) cli_signals = 0; /* what came before the turn was not meant for it */
    g->max_new_tokens = most;
    code = dpo_generate(u->m, &ids, &n, 1, g, u->out, u->n_out);
    g->max_new_tokens = asked;
    cli_signals = 0;
    if (code && code != DPO_E_CANCELLED) {
        if (u->live.printed > u->live.begin) putchar('\n');
        return cli_die("%s", dpo_error(u->c));
    }
    dpo_clear(u->c);
    u->stopped = code != DPO_OK;
    return chat_answers(u, most);
}

/* A turn that could not be answered is forgotten. */
static int chat_turn_of(chat *u, const char *text, size_t bytes) {
    if (turn_add(u, "user", text, bytes)) return 1;
    if (!chat_reply(u)) return 0;
    if (u->turns && !strcmp(u->turn[u->turns - 1].role, "user")) turns_pop(u);
    return 1;
}

/* ---- a conversation --------------------------------------------------------------------------------------------- */

/* One line without its newline, of any length and any bytes. 1; 0 at the end; -1 after an error was printed. */
static int read_line(text_buffer *b) {
    int c;
    b->n = 0;
    while ((c = getc(stdin)) != EOF && c != '\n') {
        char byte = (char)c;
        if (buffer_add(b, &byte, 1)) return -no_memory();
    }
    if (c == EOF && ferror(stdin)) return -cli_die("the input cannot be read: %s", strerror(errno));
    if (b->n && b->text[b->n - 1] == '\r') b->text[--b->n] = 0;
    return b->n || c == '\n';
}

static int chat_system(chat *u, const char *text) {
    u->system.n = 0;
    return buffer_add(&u->system, text, strlen(text)) && no_memory();
}

/* A line that begins with '/'. 1: the program is to end. */
static int chat_command(chat *u, const char *line) {
    if (!strcmp(line, "/quit")) return 1;
    if (!strcmp(line, "/reset")) turns_drop(u, u->turns);
    else if (!strcmp(line, "/retry") && u->turns > 1) {
        turns_pop(u);
        (void)chat_reply(u);
        if (u->turns % 2) turns_pop(u); /* there was an error: the turn is forgotten */
    } else if (!strcmp(line, "/retry")) cli_note("there is no answer yet");
    else if (!strcmp(line, "/system") || !strncmp(line, "/system ", 8)) return chat_system(u, line[7] ? line + 8 : "");
    else if (!strcmp(line, "/help"))
        cli_note("/reset forgets the conversation, /system TEXT says what stands before it, /retry draws the last "
                 "answer again, /quit ends; Ctrl-C stops an answer");
    else cli_note("%s is no command; /help lists them", line);
    return 0;
}

static int chat_loop(chat *u) {
    text_buffer line;
    int terminal = cli_terminal(), failed = 0, more = 0;
#if CLI_UNIX
    terminal = terminal && isatty(0);
#endif
    memset(&line, 0, sizeof line);
    while (!failed || terminal) { /* without a terminal nobody is there to look at an error */
        if (terminal) fputs("> ", stderr);
        more = read_line(&line);
        if (more <= 0) break;
        if (!line.n) continue;
        if (line.text[0] == '/') {
            if (chat_command(u, line.text)) break;
        } else failed |= chat_turn_of(u, line.text, line.n);
        if (u->stopped && !terminal && !failed) failed = cli_die("stopped; the lines that follow have no answers");
    }
    if (terminal) fputc('\n', stderr);
    free(line.text);
    return more < 0 || (failed && !terminal);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* How the model's turns are written and where its answers end. */
static int chat_ends(chat *u) {
    dpo_generate_config *g = &u->s.g;
    const char *const *stops;
    const char *end;
    int64_t i, n;
    u->format = u->s.format ? u->s.format - 1 : chat_format_of_model(u->c, u->s.model);
    if (u->format < 0) {
        cli_note("%s names no chat format: turns go to the model as they are (--chat-format says another)", u->s.model);
        u->format = CHAT_NONE;
    }
    dpo_clear(u->c); /* of files that a directory need not have */
    n = chat_stops(u->format, &stops);
    for (i = 0; i < n && i < MOST_STOPS - 1; i++) u->stop[g->n_stop++] = stops[i];
    if (u->s.stop) u->stop[g->n_stop++] = u->s.stop;
    g->stop = u->stop;
    g->tokenizer = u->t;
    g->eos = dpo_tokenizer_eos(u->t);
    if (g->eos < 0) g->eos = dpo_model_config_of(u->m)->eos_token_id;
    end = chat_end_of_turn(u->format);
    u->end_of_turn = end ? dpo_tokenizer_id(u->t, end, strlen(end)) : -1;
    if (u->end_of_turn >= 0) {
        g->stop_ids = &u->end_of_turn;
        g->n_stop_ids = 1;
    }
    return chat_system(u, u->s.system ? u->s.system : "");
}

static int chat_open(chat *u) {
    const char *from = u->s.tokenizer ? u->s.tokenizer : u->s.model;
    dpo_desc desc;
    dpo_load_config how = {DPO_PRECISION_FP32, 0, 0, 0};
    int vocab;
    memset(&desc, 0, sizeof desc);
    desc.n_threads = u->s.threads;
    desc.cancel = on_cancel;
    desc.log = on_log;
    desc.user = u;
    u->n_out = (int64_t *)calloc((size_t)u->s.n, sizeof *u->n_out);
    u->finish = (int *)calloc((size_t)u->s.n, sizeof *u->finish);
    if (!u->n_out || !u->finish) return no_memory();
    u->c = dpo_open(&desc);
    if (!u->c) return cli_die("%s", dpo_error(NULL));
    how.precision = u->s.precision;
    how.frozen = 1;
    how.verify = u->s.verify;
    how.no_map = !u->s.map;
    u->m = dpo_model_load_as(u->c, u->s.model, &how);
    if (u->m && u->s.adapter) dpo_lora_load(u->m, u->s.adapter);
    if (u->m && u->s.pack) dpo_model_pack(u->m);
    if (dpo_status(u->c)) return cli_die("%s", dpo_error(u->c));
    u->t = dataset_tokenizer(u->c, from, NULL);
    if (!u->t) return 1;
    vocab = dpo_model_config_of(u->m)->vocab_size;
    if (vocab < dpo_tokenizer_vocab(u->t))
        return cli_die("the tokenizer %s has %d ids, the model %s a vocabulary of %d; use the tokenizer that the model "
                       "was trained with",
                       from, dpo_tokenizer_vocab(u->t), u->s.model, vocab);
    return chat_ends(u);
}

static void chat_close(chat *u) {
    if (u->turns) turns_drop(u, u->turns);
    free(u->turn);
    free(u->system.text);
    free(u->live.b.text);
    free(u->ids);
    free(u->out);
    free(u->n_out);
    free(u->finish);
    chat_parts_free(&u->parts);
    dpo_close(u->c);
}

int main(int argc, char **argv) {
    static chat u;
    int failed;
    cli_program p = cli_program_make("dpo-chat", "0.1.0", "--model DIR [--adapter DIR] [--prompt TEXT] [options]",
                                     "Talks to a model in the chat format that it was trained on.");
    p.argument_max = 0;
    u.s.g = dpo_generate_defaults();
    u.s.max_new_tokens = 256;
    u.s.n = 1;
    u.s.map = 1;
    if (settings_parse(&u.s, &p, argc, argv)) return p.exit_code;
    cli_catch_signals();
    failed = chat_open(&u);
    if (!failed) failed = u.s.prompt ? chat_turn_of(&u, u.s.prompt, strlen(u.s.prompt)) : chat_loop(&u);
    chat_close(&u);
    if (fflush(stdout) || ferror(stdout)) return cli_die("the answers could not be written");
    return failed;
}
