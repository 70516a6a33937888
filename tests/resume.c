/* resume.c - build/dpo-train stopped in every way there is: killed at random moments, interrupted, with a full disk,
   with damaged checkpoints. Whatever happened, with --resume it has to come to the files of an undisturbed run.

   usage: resume DPO-TRAIN DIRECTORY [KILLS]     Last line: N passed, N failed. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS 64
#define STEPS     "120"
#define LAST      "checkpoints/step-00000120.safetensors"

static const char *program, *dir;
static int passed, failed;
static uint64_t state = 20;

static int check(int ok, const char *what, const char *detail) {
    if (ok) passed++;
    else {
        failed++;
        printf("FAILED %s: %s\n", what, detail);
        (void)fflush(stdout);
    }
    return ok;
}
static uint64_t draw(uint64_t n) { /* splitmix64 */
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) % n;
}
static const char *at(const char *name) { /* valid for the next three calls */
    static char paths[4][1024];
    static int turn;
    turn = (turn + 1) % 4;
    (void)snprintf(paths[turn], sizeof paths[turn], "%s/%s", dir, name);
    return paths[turn];
}
static void write_file(const char *name, const char *text) {
    FILE *f = fopen(at(name), "wb");
    if (!f || fputs(text, f) < 0 || fclose(f)) {
        printf("%s: %s\n", at(name), strerror(errno));
        exit(3);
    }
}
static char *read_file(const char *name, size_t *n) {
    FILE *f = fopen(at(name), "rb");
    char *p = (char *)calloc(1, 1 << 20);
    if (!p) exit(3);
    *n = f ? fread(p, 1, (1 << 20) - 1, f) : 0;
    if (f) (void)fclose(f);
    return p;
}
static int same(const char *a, const char *b) {
    size_t n, m;
    char *p = read_file(a, &n), *q = read_file(b, &m);
    int equal = n == m && n > 0 && !memcmp(p, q, n);
    free(p);
    free(q);
    return equal;
}
static int says(const char *name, const char *word) {
    size_t n;
    char *p = read_file(name, &n);
    int found = strstr(p, word) != NULL;
    free(p);
    return found;
}
static int there(const char *name) { return !access(at(name), F_OK); }
static void remove_all(const char *name) {
    char command[1200];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", at(name));
    if (system(command)) exit(3);
}

/* --- runs ------------------------------------------------------------------------------------------------------- */

typedef struct kind {
    const char *name, *options;
} kind;
static const kind kinds[3] = {
    {"dpo", "dpo --optimizer adamw --eval-steps 7 --sample-prompts 2 --sample-max-new-tokens 3"},
    {"sft-lora", "sft --precision bf16 --lora-r 2 --lora-targets c_attn,c_fc --eval-steps 20 --sample-prompts 0"},
    {"sft", "sft --precision bf16 --optimizer-dtype bf16 --lr-scheduler cosine --eval-steps 11 --sample-prompts 1 "
            "--sample-max-new-tokens 2"}};

/* Starts one into `output`; its words go to log. limit: largest file it can write, 0: any. */
static pid_t start(const kind *k, const char *output, const char *more, rlim_t limit) {
    static char text[4096];
    char *argv[ARGUMENTS], *word;
    int n = 0, fd;
    pid_t pid;
    (void)snprintf(text, sizeof text,
                   "%s %s --init %s/tiny.json --train %s/pairs.jsonl --output %s/%s --batch-size 4 --max-length 32 "
                   "--max-prompt-length 16 --learning-rate 1e-3 --warmup-steps 3 --eval-fraction 0.2 --threads 1 "
                   "--save-every 1 --max-steps " STEPS " %s",
                   program, k->options, dir, dir, dir, output, more);
    for (word = strtok(text, " "); word && n < ARGUMENTS - 1; word = strtok(NULL, " ")) argv[n++] = word;
    argv[n] = NULL;
    (void)fflush(stdout);
    pid = fork();
    if (pid < 0) exit(3);
    if (pid) return pid;
    fd = open(at("log"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) _exit(9);
    if (limit) {
        struct rlimit r;
        r.rlim_cur = r.rlim_max = limit;
        (void)signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &r)) _exit(9);
    }
    execv(argv[0], argv);
    _exit(9);
}
/* Its exit status, -1 if a signal ended it. */
static int end(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
static int run(const kind *k, const char *output, const char *more, rlim_t limit) {
    return end(start(k, output, more, limit));
}
static void nap(uint64_t microseconds) {
    struct timespec t;
    t.tv_sec = (time_t)(microseconds / 1000000);
    t.tv_nsec = (long)(microseconds % 1000000) * 1000;
    (void)nanosleep(&t, NULL);
}

/* Everything that a run leaves, against the undisturbed one's. */
static int arrived(const kind *k, const char *output, const char *what) {
    static const char *const files[4] = {LAST, "metrics.jsonl", "samples.jsonl", "model.safetensors"};
    char a[256], b[256];
    int i, ok = 1;
    for (i = 0; i < 4; i++) {
        const char *name = i == 3 && strstr(k->options, "--lora-r") ? "adapter/adapter_model.safetensors" : files[i];
        (void)snprintf(a, sizeof a, "%s.whole/%s", k->name, name);
        (void)snprintf(b, sizeof b, "%s/%s", output, name);
        if (i == 2 && !there(a)) continue;
        if (!same(a, b)) {
            printf("%s: %s differs\n", what, b);
            ok = 0;
        }
    }
    return check(ok, what, "not the files of the undisturbed run");
}

/* --- ways to end ------------------------------------------------------------------------------------------------ */

/* Signals at random moments until `count` of them have ended a process before its time, and then on to the end. A run
   that comes to its end before is looked at, too, and another one begins. */
static void stopped(const kind *k, int number, int count) {
    char text[128];
    int signals = 0, ends = 0, code;
    (void)snprintf(text, sizeof text, "%s, signal %d", k->name, number);
    remove_all("killed");
    while (signals < count || !ends) {
        int more = signals < count;
        pid_t pid = start(k, "killed", "--resume", 0);
        if (more) {
            nap(draw(150000));
            (void)kill(pid, number);
        }
        code = end(pid);
        if (code == 1 && number != SIGKILL && (says("log", "stopped before") || says("log", "stopped while reading")))
            code = -1; /* nothing was begun */
        signals += more && (code < 0 || !there("killed/" LAST));
        if (code > 0) {
            size_t n;
            check(0, text, read_file("log", &n));
            return;
        }
        ends = 0;
        if (code || !there("killed/" LAST)) continue;
        if (number != SIGKILL && !check(!run(k, "killed", "--resume", 0), text, "it does not end")) return;
        ends = arrived(k, "killed", text);
        if (!ends) return;
        remove_all("killed");
    }
    printf("%s: %d processes ended by it, none lost\n", text, signals);
}

static void flip(const char *name) {
    size_t n;
    char *p = read_file(name, &n);
    FILE *f = fopen(at(name), "wb");
    p[n / 2] ^= 4;
    if (!f || fwrite(p, 1, n, f) != n || fclose(f)) exit(3);
    free(p);
}
/* The two newest and the best are kept, and the newest says which that is. */
static void kept(const char *output) {
    char name[256];
    size_t n;
    char *p, *best;
    long step = 0;
    (void)snprintf(name, sizeof name, "%s/" LAST, output);
    p = read_file(name, &n);
    best = n > 8 ? strstr(p + 8 /* the header's length goes before it */, "\"best_step\":\"") : NULL;
    if (best) step = strtol(best + 13, NULL, 10);
    free(p);
    (void)snprintf(name, sizeof name, "%s/checkpoints/step-%08ld.safetensors", output, step);
    check(step > 0 && there(name), output, "the best checkpoint is not there");
    (void)snprintf(name, sizeof name, "%s/checkpoints/step-00000119.safetensors", output);
    check(there(name), output, "the checkpoint before the last is not there");
    (void)snprintf(name, sizeof name, "%s/checkpoints/step-00000118.safetensors", output);
    check(!there(name) || step == 118, output, "a third checkpoint is kept");
}

/* A disk that is full, a damaged generation, a log that lost lines, a dead run's leavings; a second process. */
static void troubles(const kind *k) {
    pid_t pid;
    int i;
    remove_all("t");
    write_file("log", "");
    check(run(k, "t", "--max-steps 40", 0) == 0, "forty updates", "they fail");
    check(run(k, "t", "", 0) == 1 && says("log", "give --resume"), "a directory with checkpoints", "is not refused");
    check(run(k, "t", "--resume --learning-rate 1e-2", 0) == 1 && says("log", "learning_rate is 0.01 here, 0.001 in"),
          "another learning rate", "is not refused");
    check(run(k, "t", "--resume", 40000) == 1 && says("log", "the run ended early, its model is written"),
          "a full disk", "is not said");
    check(there("t/model.safetensors") && there("t/checkpoints/step-00000040.safetensors") &&
              there("t/checkpoints/step-00000039.safetensors") && !there("t/checkpoints/step-00000041.safetensors.tmp"),
          "a full disk", "costs more than the checkpoint that found no room");
    write_file("t/checkpoints/step-00000041.safetensors.tmp", "half of one");
    flip("t/checkpoints/step-00000040.safetensors");
    check(run(k, "t", "--resume", 0) == 0 && says("log", "resumed from") && says("log", "after update 39") &&
              says("log", "step-00000040.safetensors:"),
          "a damaged checkpoint", "the one before is not taken");
    check(!there("t/checkpoints/step-00000041.safetensors.tmp"), "a dead run's leavings", "stay");
    check(same("t/model.safetensors", "dpo.whole/model.safetensors"), "after all that", "not the same model");
    for (i = 119; i <= 120; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "t/checkpoints/step-%08d.safetensors", i);
        flip(name);
    }
    if (there("t/checkpoints/step-00000007.safetensors"))
        flip("t/checkpoints/step-00000007.safetensors"); /* the best */
    check(run(k, "t", "--resume", 0) == 1 && says("log", "no checkpoint in it can be read") &&
              says("log", " step-00000120.safetensors"),
          "all checkpoints damaged", "they are not named");

    remove_all("t");
    check(run(k, "t", "--resume --max-steps 20", 0) == 0 && says("log", "starts from its beginning"),
          "nothing to resume", "it does not begin");
    check(truncate(at("t/metrics.jsonl"), 700) == 0 && run(k, "t", "--resume", 0) == 0 && says("log", "lines are lost"),
          "a log that lost lines", "it is not said");
    remove_all("t");
    pid = start(k, "t", "--max-steps 1000000", 0);
    for (i = 0; i < 500 && !there("t/checkpoints/step-00000003.safetensors"); i++) nap(2000);
    check(run(k, "t", "--resume", 0) == 1 && says("log", "another process is training into"), "a second process",
          "is not refused");
    check(!kill(pid, SIGTERM) && end(pid) == 0 && there("t/model.safetensors"), "SIGTERM",
          "no model, or no exit code 0");
    remove_all("t");
    check(run(k, "t", "--keep 0", 0) == 0 && !there("t/checkpoints"), "--keep 0", "writes checkpoints");
    check(same("t/metrics.jsonl", "dpo.whole/metrics.jsonl") &&
              same("t/model.safetensors", "dpo.whole/model.safetensors"),
          "--keep 0", "changes what is learnt");
}

static void prepare(void) {
    char text[8192];
    size_t used = 0;
    int i;
    remove_all("");
    if (mkdir(dir, 0777)) exit(3);
    write_file("tiny.json",
               "{\"model_type\": \"gpt2\", \"vocab_size\": 257, \"n_embd\": 8, \"n_layer\": 1, \"n_head\": 2, "
               "\"n_inner\": 16, \"n_positions\": 64, \"activation_function\": \"gelu_new\", "
               "\"eos_token_id\": 256, \"dpo_tokenizer\": \"bytes\"}");
    for (i = 0; i < 30; i++)
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "{\"prompt\": \"Q%d?\", \"chosen\": \" yes %d\", \"rejected\": \" no\"}\n", i, i * i);
    write_file("pairs.jsonl", text);
}

int main(int argc, char **argv) {
    int i, kills = argc > 3 ? atoi(argv[3]) : 200;
    char name[64];
    if (argc < 3) {
        printf("usage: resume DPO-TRAIN DIRECTORY [KILLS]\n");
        return 2;
    }
    program = argv[1];
    dir = argv[2];
    prepare();
    for (i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "%s.whole", kinds[i].name);
        if (!check(run(&kinds[i], name, "", 0) == 0, name, "it fails")) break;
        kept(name);
    }
    if (!failed) troubles(&kinds[0]);
    for (i = 0; i < 3 && !failed; i++) {
        stopped(&kinds[i], SIGKILL, kills / 3 + (i < kills % 3));
        stopped(&kinds[i], i & 1 ? SIGTERM : SIGINT, 1 + kills / 20);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
