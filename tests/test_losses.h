/* test_losses.h - pair losses: derivatives against differences of their own values, golden values, the
   rules they obey; optimizers against PyTorch's definition in double; schedules. */

static dpo_pair pair_of(double pc, double pr, double rc, double rr, int64_t nc, int64_t nr) {
    dpo_pair p;
    p.policy_chosen = pc;
    p.policy_rejected = pr;
    p.reference_chosen = rc;
    p.reference_rejected = rr;
    p.chosen_tokens = nc;
    p.rejected_tokens = nr;
    return p;
}
static void loss_slopes(const char *name, const dpo_loss_options *o, const dpo_pair *at) {
    dpo_pair_loss f = dpo_loss_by_name(name);
    double dc = 1e9, dr = 1e9, a, b, h = 1e-5, want;
    dpo_pair p = *at;
    char text[160];
    (void)f(&p, o, &dc, &dr);
    (void)snprintf(text, sizeof text, "%s at %g %g %g %g", name, p.policy_chosen, p.policy_rejected, p.reference_chosen,
                   p.reference_rejected);
    p.policy_chosen = at->policy_chosen + h;
    b = f(&p, o, &a, &a);
    p.policy_chosen = at->policy_chosen - h;
    want = (b - f(&p, o, &a, &a)) / (2 * h);
    CHECK_CASE(fabs(dc - want) <= 2e-8 * (1 + fabs(want)), text);
    p.policy_chosen = at->policy_chosen;
    p.policy_rejected = at->policy_rejected + h;
    b = f(&p, o, &a, &a);
    p.policy_rejected = at->policy_rejected - h;
    want = (b - f(&p, o, &a, &a)) / (2 * h);
    CHECK_CASE(fabs(dr - want) <= 2e-8 * (1 + fabs(want)), text);
}
static void test_loss_slopes(void) {
    static const double points[6][4] = {{-10, -12, -11, -11.5}, {-11.8, -12, -11, -11.5}, {-30, -8, -20, -20.5},
                                        {-3, -9, -7, -4},       {-60, -61, -5, -90},      {-14.5, -2.25, -3, -14}};
    static const int64_t counts[6][2] = {{5, 6}, {5, 6}, {9, 3}, {2, 7}, {30, 20}, {11, 4}};
    int i, k, s, n = 0;
    for (k = 0; dpo_loss_name(k); k++, n++)
        for (i = 0; i < 6; i++)
            for (s = 0; s < 3; s++) {
                dpo_loss_options o = dpo_loss_defaults();
                dpo_pair p =
                    pair_of(points[i][0], points[i][1], points[i][2], points[i][3], counts[i][0], counts[i][1]);
                o.beta = s == 0 ? 0.1 : 0.35;
                o.label_smoothing = s == 1 ? 0.1 : !strcmp(dpo_loss_name(k), "exo_pair") ? 0.01 : 0.0;
                o.reference_free = s == 2;
                loss_slopes(dpo_loss_name(k), &o, &p);
            }
    CHECK(n == 16);
    CHECK(dpo_loss_by_name("no such loss") == NULL && dpo_loss_by_name("") == NULL);
    CHECK(dpo_loss_by_name("sigmoid") != NULL && dpo_loss_name(-1) == NULL && dpo_loss_name(n + 5) == NULL);
    for (k = 0; dpo_loss_name(k); k++)
        CHECK(dpo_loss_needs_reference(dpo_loss_by_name(dpo_loss_name(k))) ==
              (strcmp(dpo_loss_name(k), "simpo") != 0 && strcmp(dpo_loss_name(k), "orpo") != 0));
}

typedef struct loss_golden {
    const char *name;
    double beta, smoothing, gamma, pc, want;
} loss_golden;
/* Computed once in double by an independent program: pc -10, pr -12, rc -11, rr -11.5, 5 and 6 tokens. */
static void test_loss_golden(void) {
    static const loss_golden table[] = {{"sigmoid", 0.1, 0, 1, -10, 0.620957048},
                                        {"sigmoid", 0.1, 0.1, 1, -10, 0.635957048},
                                        {"robust", 0.1, 0.1, 1, -10, 0.602207048},
                                        {"hinge", 0.1, 0, 1, -10, 0.85},
                                        {"ipo_sum", 0.1, 0, 1, -10, 12.25},
                                        {"ipo", 0.1, 0, 1, -10, 22.246944444},
                                        {"sigmoid_norm", 0.1, 0, 1, -10, 0.679080858},
                                        {"exo_pair", 0.1, 1e-3, 1, -10, 2.505516555},
                                        {"nca_pair", 0.1, 0, 1, -10, 1.350824814},
                                        {"bco_pair", 0.1, 0, 1, -10, 1.312856308},
                                        {"sppo_hard", 0.1, 0, 1, -10, 36.25},
                                        {"apo_zero", 0.1, 0, 1, -10, 0.962523416},
                                        {"apo_down", 0.1, 0, 1, -10, 0.987549342},
                                        {"discopop", 0.1, 0, 1, -10, 0.849337579},
                                        {"dpop", 0.1, 0, 1, -10, 0.620957048},
                                        {"dpop", 0.1, 0, 1, -11.8, 0.931083783},
                                        {"simpo", 2.0, 0, 1, -10, 1.313261688},
                                        {"orpo", 0.1, 0, 1, -10, 2.069314718}};
    size_t i;
    double dc, dr;
    for (i = 0; i < sizeof table / sizeof table[0]; i++) {
        const loss_golden *t = &table[i];
        dpo_loss_options o = dpo_loss_defaults();
        dpo_pair p = pair_of(t->pc, -12, -11, -11.5, 5, 6);
        double got;
        o.beta = t->beta;
        o.label_smoothing = t->smoothing;
        o.gamma = t->gamma;
        if (!CHECK_CASE(dpo_loss_by_name(t->name) != NULL, t->name)) continue;
        got = dpo_loss_by_name(t->name)(&p, &o, &dc, &dr);
        CHECK_CASE(fabs(got - t->want) <= 6e-10 * (1 + t->want), t->name);
        if (!i) CHECK_NEAR(dc, -0.0462570155, 6e-11);
    }
}
/* What extreme log-probs must not do: overflow, or lose the sign of the slope. */
static void test_loss_extremes(void) {
    static const double z[6] = {0, 1e-9, 50, -50, 4000, -4000};
    int k, i;
    for (k = 0; dpo_loss_name(k); k++)
        for (i = 0; i < 6; i++) {
            dpo_loss_options o = dpo_loss_defaults();
            dpo_pair p = pair_of(-6000 + z[i], -6000 - z[i], -6000, -6000, 40, 40);
            double dc = 1e300, dr = 1e300, l = dpo_loss_by_name(dpo_loss_name(k))(&p, &o, &dc, &dr);
            if (!strcmp(dpo_loss_name(k), "discopop") && z[i] < -100) continue; /* e^-l is part of its formula */
            CHECK_CASE(l - l == 0 && dc - dc == 0 && dr - dr == 0, dpo_loss_name(k));
        }
    for (i = 0; i < 6; i++) { /* swapping the answers of sigmoid: l(z) - l(-z) = -z exactly */
        dpo_loss_options o = dpo_loss_defaults();
        dpo_pair p = pair_of(z[i], 0, 0, 0, 1, 1), q = pair_of(0, z[i], 0, 0, 1, 1);
        double dc, dr, ec, er, a, b;
        o.beta = 1.0;
        a = dpo_loss_by_name("sigmoid")(&p, &o, &dc, &dr);
        b = dpo_loss_by_name("sigmoid")(&q, &o, &ec, &er);
        CHECK_NEAR(a - b, -z[i], 1e-12 * (1 + fabs(z[i])));
        CHECK_NEAR(dc, -dr, 0.0);
        CHECK_NEAR(dc + ec, -1.0, 1e-12); /* S(-z) + S(z) = 1 */
    }
}

/* ------------------------------------------------------------------ optimizers */
typedef struct torch_state {
    int64_t n;
    double *w, *m, *v;
} torch_state;
static void torch_update(torch_state *s, const dpo_train_config *k, const float *g, double lr, double clip, int64_t t) {
    double b1 = 1, b2 = 1;
    int64_t i;
    for (i = 0; i < t; i++) {
        b1 *= k->adam_beta1;
        b2 *= k->adam_beta2;
    }
    for (i = 0; i < s->n; i++) {
        double d = (double)g[i] * clip;
        if (k->optimizer == DPO_ADAMW) {
            s->w[i] *= 1 - lr * k->weight_decay;
            s->m[i] = k->adam_beta1 * s->m[i] + (1 - k->adam_beta1) * d;
            s->v[i] = k->adam_beta2 * s->v[i] + (1 - k->adam_beta2) * d * d;
            s->w[i] -= lr / (1 - b1) * s->m[i] / (sqrt(s->v[i]) / sqrt(1 - b2) + k->adam_epsilon);
        } else {
            d += k->weight_decay * s->w[i];
            s->v[i] = k->rmsprop_alpha * s->v[i] + (1 - k->rmsprop_alpha) * d * d;
            s->w[i] -= lr * d / (sqrt(s->v[i]) + k->adam_epsilon);
        }
    }
}
/* Steps of the library beside steps in double on its own gradients. */
static void optimizer_case(int optimizer, double decay, double max_norm) {
    memfs *fs = memfs_new();
    dpo_context *c = memfs_context(fs, NULL, 1, 0);
    dpo_model *m = tiny_model(c, fs, 0, 3);
    dpo_train_config k = dpo_train_defaults(DPO_SFT);
    dpo_trainer *t;
    dpo_tensor *w, *g;
    torch_state s[64];
    float *start[64];
    forest *f = SCRATCH(forest, 1);
    int32_t ids[24];
    double weight[1] = {-1.0};
    int64_t n = tiny_tensors(m, 0, &w), i, j, step;
    k.optimizer = optimizer;
    k.learning_rate = optimizer == DPO_ADAMW ? 2e-2 : 4e-3;
    k.weight_decay = decay;
    k.max_grad_norm = max_norm;
    k.warmup_steps = 2;
    k.max_steps = 6;
    k.max_rows = k.max_targets = k.max_path = 64;
    k.max_segments = 4;
    tiny_ids(ids, 24, 77, TINY_VOCAB);
    (void)forest_sequence(f, ids, 3, ids + 3, 21, 0);
    t = dpo_trainer_create(m, NULL, &k);
    if (!CHECK_OK(c, t ? 0 : -1) || !CHECK(n <= 64)) return;
    g = SCRATCH(dpo_tensor, n);
    for (i = 0; i < n; i++) {
        s[i].n = tensor_count(&w[i]);
        s[i].w = SCRATCH(double, s[i].n);
        s[i].m = SCRATCH(double, s[i].n);
        s[i].v = SCRATCH(double, s[i].n);
        start[i] = SCRATCH(float, s[i].n);
        for (j = 0; j < s[i].n; j++) s[i].w[j] = (double)(start[i][j] = ((float *)w[i].data)[j]);
    }
    for (step = 0; step < 6; step++) {
        double norm = 0, got = 0, clip, lr = k.learning_rate * (step < 2 ? (double)(step + 1) / 3.0 : 1.0);
        CHECK_OK(c, dpo_trainer_backward(t, &f->b, weight));
        CHECK(dpo_trainer_gradients(t, g, n) == n);
        for (i = 0; i < n; i++)
            for (j = 0; j < s[i].n; j++) norm += (double)((float *)g[i].data)[j] * (double)((float *)g[i].data)[j];
        norm = sqrt(norm);
        clip = max_norm > 0 && max_norm / (norm + 1e-6) < 1 ? max_norm / (norm + 1e-6) : 1.0;
        for (i = 0; i < n; i++) torch_update(&s[i], &k, (const float *)g[i].data, lr, clip, step + 1);
        CHECK_OK(c, dpo_trainer_update(t, &got));
        CHECK_NEAR(got, norm, 1e-9 * norm);
    }
    for (i = 0; i < n; i++) { /* what the steps have moved */
        double d = 0, e = 0;
        for (j = 0; j < s[i].n; j++) {
            double moved = s[i].w[j] - (double)start[i][j],
                   mine = (double)((float *)w[i].data)[j] - (double)start[i][j];
            d += (moved - mine) * (moved - mine);
            e += moved * moved;
        }
        CHECK_CASE(e > 0 && sqrt(d / e) < 2e-4, w[i].name);
    }
    dpo_close(c);
    memfs_free(fs);
}
static void test_optimizer_adamw(void) {
    optimizer_case(DPO_ADAMW, 0.0, 0.0);
    optimizer_case(DPO_ADAMW, 0.1, 0.5);
}
static void test_optimizer_rmsprop(void) {
    optimizer_case(DPO_RMSPROP, 0.0, 0.0);
    optimizer_case(DPO_RMSPROP, 0.05, 0.5);
}

/* ------------------------------------------------------------------ schedules */
static void test_schedules(void) {
    static const int kinds[3] = {DPO_CONSTANT, DPO_LINEAR, DPO_COSINE};
    int k;
    for (k = 0; k < 3; k++) {
        memfs *fs = memfs_new();
        dpo_context *c = memfs_context(fs, NULL, 1, 0);
        dpo_model *m = tiny_model(c, fs, 0, 3);
        dpo_data *d = tiny_data(c, 0, 0, 2);
        tiny_run r;
        dpo_train_config t;
        dpo_trainer *tr;
        int step;
        memset(&r, 0, sizeof r);
        t = tiny_config(&r);
        t.schedule = kinds[k];
        t.learning_rate = 0.5e-3;
        t.warmup_steps = 3;
        t.max_steps = 11;
        t.batch_size = 1;
        tr = dpo_trainer_create(m, d, &t);
        if (!CHECK_OK(c, tr ? 0 : -1)) return;
        CHECK(dpo_trainer_steps(tr) == 11);
        for (step = 0; step < 11; step++) {
            double left = (11.0 - step) / 8.0, f = step < 3                   ? (step + 1) / 4.0
                                                   : kinds[k] == DPO_CONSTANT ? 1.0
                                                   : kinds[k] == DPO_LINEAR   ? left
                                                                            : 0.5 * (1 + cos(acos(-1.0) * (1 - left)));
            dpo_metrics s;
            CHECK(!dpo_trainer_done(tr));
            CHECK_OK(c, dpo_trainer_step(tr, &s));
            CHECK_NEAR(s.learning_rate, 0.5e-3 * f, 1e-15);
            CHECK(s.step == step + 1 && s.examples == step + 1);
        }
        CHECK(dpo_trainer_done(tr));
        CHECK(dpo_trainer_step(tr, NULL) == DPO_E_STATE);
        dpo_close(c);
        memfs_free(fs);
    }
}
