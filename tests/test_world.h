/* test_world.h - the little world: its draws are for ever, its pairs and items are what they are said to be. */
#include "../examples/world.h"

/* What (seed, split, index) give must never change: studies and demos rest on it. */
static void test_world_draws(void) {
    static char text[WORLD_DOCUMENT_MAX];
    uint64_t hash[4] = {1469598103934665603u, 1469598103934665603u, 1469598103934665603u, 1469598103934665603u};
    uint64_t i;
    int split;
    for (i = 0; i < 500; i++)
        for (split = WORLD_TRAIN; split <= WORLD_HELDOUT; split++) {
            world_pair_text p;
            world_forum_text f;
            world_instruction_text t;
            world_choice_text c;
            size_t n = world_document(1, split, i, text, sizeof text);
            CHECK(n < sizeof text);
            hash[0] = hash_bytes(hash[0], text, n);
            world_pair(1, split, i, &p);
            hash[1] = hash_bytes(hash[1], p.prompt, strlen(p.prompt));
            hash[1] = hash_bytes(hash[1], p.chosen, strlen(p.chosen));
            hash[1] = hash_bytes(hash[1], p.rejected, strlen(p.rejected));
            world_forum(1, split, i, &f);
            hash[2] = hash_bytes(hash[2], f.history, strlen(f.history));
            hash[2] = hash_bytes(hash[2], f.ref[0], strlen(f.ref[0]));
            hash[2] = hash_bytes(hash[2], f.votes, sizeof f.votes);
            world_instruction(1, i, &t);
            hash[3] = hash_bytes(hash[3], t.output, strlen(t.output));
            world_choice_about(1, (int)(i % WORLD_KINDS), i, &c);
            hash[3] = hash_bytes(hash[3], c.context, strlen(c.context));
            hash[3] = hash_bytes(hash[3], c.choice[c.gold], strlen(c.choice[c.gold]));
        }
    CHECK(hash[0] == 0xbc6eac5e127faf37u);
    CHECK(hash[1] == 0x373bf6ff14456cd7u);
    CHECK(hash[2] == 0x36db9c2ff2c97f65u);
    CHECK(hash[3] == 0x95ed5c9c10961841u);
}

static void test_world_pairs(void) {
    int i, longer = 0, good = 0, n = 2000; /* longer: 2 where chosen is, 1 where neither is */
    for (i = 0; i < n; i++) {
        world_pair_text p;
        world_pair(1, i % 2, (uint64_t)i, &p);
        CHECK(p.chosen_score > p.rejected_score);
        CHECK(world_score(p.prompt, p.chosen, NULL) == p.chosen_score);
        CHECK(world_score(p.prompt, p.rejected, NULL) == p.rejected_score);
        CHECK(world_prompt_split(p.prompt) == i % 2);
        good += p.chosen_score == WORLD_GOOD;
        longer += 1 + (strlen(p.chosen) > strlen(p.rejected)) - (strlen(p.chosen) < strlen(p.rejected));
    }
    CHECK_NEAR((double)good / n, 0.58, 0.04);
    CHECK_NEAR((double)longer / (2 * n), 0.5, 0.04); /* length teaches nothing */
}

/* Of four answers one is good, and the gold one is it; its place teaches nothing. */
static void test_world_replies(void) {
    int i, k, place[4] = {0, 0, 0, 0};
    for (i = 0; i < 1000; i++) {
        world_choice_text item;
        world_reply(1, i % 2, (uint64_t)i, &item);
        CHECK(world_prompt_split(item.context) == i % 2);
        for (k = 0; k < 4; k++) CHECK((k == item.gold) == world_judge(item.context, item.choice[k], NULL));
        place[item.gold]++;
    }
    for (k = 0; k < 4; k++) CHECK(place[k] > 200 && place[k] < 300);
}
