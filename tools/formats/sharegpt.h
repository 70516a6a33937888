/* sharegpt.h: rows of ShareGPT conversations, as LLaMA-Factory reads them.
 *
 *     {"conversations": [{"from": "human", "value": "..."}, ...], "chosen": {"from": "gpt", "value": "..."},
 *      "rejected": {...}}
 * {"conversations": [...], "system": "..."}        SFT: the last answer is the response, what is before it the prompt
 *
 * A "system" text stands before the turns. Roles system, human, gpt and their usual other names; a row with another
 * (function_call, observation) is dropped. */
#ifndef TOOLS_SHAREGPT_H
#define TOOLS_SHAREGPT_H

#include "trl.h"

static inline int sharegpt_row(row_data *r, const row_options *o) {
    static const char field[] = "conversations";
    int64_t list = row_field(r, field);
    if (dpo_json_type(r->json, list) != '[') return row_bad(r, "%s is missing or no list", field);
    if (row_has(r, "system", '"')) {
        r->system = row_text(r, "system", &r->system_bytes);
        if (!r->system) return 1;
    }
    if (!o->sft || row_field(r, o->chosen) >= 0) return trl_two(r, o, list, field);
    return trl_prompt_messages(r, list, field) || row_dialogue(r, o->chat, 0, r->messages);
}

#endif /* TOOLS_SHAREGPT_H */
