// tu_c.cpp - the header in C++17, linked with the implementation that a C compiler made.
#include "../dpo.h"

#include <string>
#include <vector>

extern "C" int tu_c(void);

static double half_square(const dpo_pair *p, const dpo_loss_options *, double *dc, double *dr) {
    double d = p->policy_chosen - p->policy_rejected;
    *dc = d;
    *dr = -d;
    return 0.5 * d * d;
}

extern "C" int tu_c(void) {
    dpo_desc desc = {};
    desc.n_threads = 2;
    dpo_context *c = dpo_open(&desc);
    if (!c) return 1;
    dpo_train_config t = dpo_train_defaults(DPO_PREFERENCE);
    t.loss = half_square;
    std::vector<dpo_pair_loss> losses;
    for (int i = 0; dpo_loss_name(i); i++) losses.push_back(dpo_loss_by_name(dpo_loss_name(i)));
    dpo_segment s = {-1, 0, 3, 0};
    std::string info = dpo_build_info(c);
    bool ok = losses.size() >= 16 && info.find("dpo.h") != std::string::npos && s.length == 3 && t.batch_size > 0 &&
              dpo_model_load(c, "/no/such/model") == nullptr && dpo_status(c) == DPO_E_IO;
    dpo_close(c);
    return ok ? 0 : 1;
}
