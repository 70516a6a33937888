/* test.c - the tests of dpo.h but golden cases (golden.c) and hostile input (badinput.c).

   usage: test [part of a name]     Last line: N passed, N failed. Exit status 1 on any failure, or when
   fewer tests ran than there must be. A failing check prints one line. */
#define DPO_IMPLEMENTATION
#define DPO_STATIC
#include "../dpo.h"

#include "check.h"
#include "memfs.h"
#include "tiny.h"

#include "oracle.h"

#include "test_kernels.h"
#include "test_gemm.h"
#include "test_layers.h"
#include "test_losses.h"
#include "test_optimizer.h"
#include "test_model.h"
#include "test_step.h"
#include "test_memory.h"
#include "test_storage.h"
#include "test_files.h"
#include "test_data.h"
#include "test_generate.h"
#include "test_checkpoint.h"
#include "test_world.h"

#define FLOOR 130 /* so many tests there are at least */

typedef struct test {
    const char *name;
    void (*run)(void);
} test;
#define T(name)                                                                                                        \
    { #name, test_##name }
static const test tests[] = {T(math_floats),
                             T(math_doubles),
                             T(math_halves),
                             T(kernels_rows),
                             T(kernels_values),
                             T(kernels_fma),
                             T(pool),
                             T(gemm_sizes),
                             T(gemm_special),
                             T(gemm_blocks),
                             T(gemm_few),
                             T(gemm_values),
                             T(layer_embedding),
                             T(layer_norms),
                             T(layer_linear),
                             T(layer_rope),
                             T(layer_attention),
                             T(layer_activations),
                             T(layer_head),
                             T(layer_shapes),
                             T(loss_slopes),
                             T(loss_golden),
                             T(loss_extremes),
                             T(optimizer_adamw),
                             T(optimizer_rmsprop),
                             T(files_one_at_a_time),
                             T(files_checksums),
                             T(files_verify_model),
                             T(files_convert),
                             T(math_sweep),
                             T(optimizer_rows),
                             T(optimizer_draws),
                             T(optimizer_same_bits),
                             T(optimizer_small_updates),
                             T(optimizer_state_decays),
                             T(schedules),
                             T(model_gradients_full),
                             T(model_gradients_lora),
                             T(identity_start),
                             T(identity_reference),
                             T(identity_swap),
                             T(identity_shared_prompt),
                             T(identity_neighbours),
                             T(identity_adapter_zero),
                             T(same_threads),
                             T(same_micro_batches),
                             T(same_recompute),
                             T(same_simd),
                             T(same_is_not_constant),
                             T(same_step_by_hand),
                             T(same_backward_in_pieces),
                             T(step_budgets),
                             T(step_twenty),
                             T(step_naive),
                             T(step_mixed),
                             T(step_long_pairs),
                             T(step_packed_blocks),
                             T(step_bf16_moves),
                             T(step_batches),
                             T(memory_step_allocates_nothing),
                             T(memory_free_early),
                             T(memory_plan),
                             T(fault_allocation),
                             T(fault_files),
                             T(nonfinite),
                             T(nonfinite_leaves_nothing),
                             T(nonfinite_weights),
                             T(nonfinite_gradients),
                             T(fp_environment),
                             T(two_contexts),
                             T(cancel),
                             T(files_model_round_trip),
                             T(files_adapter_round_trip),
                             T(files_reference),
                             T(files_tensors),
                             T(storage_same),
                             T(storage_rounds),
                             T(storage_tied),
                             T(storage_read_instead),
                             T(storage_shards),
                             T(storage_errors),
                             T(storage_nan),
                             T(storage_lora),
                             T(storage_faults),
                             T(storage_layout),
                             T(storage_disk),
                             T(data_truncation),
                             T(data_rows),
                             T(data_text),
                             T(data_boundary),
                             T(data_bos),
                             T(data_end_of_turn),
                             T(data_keep_end),
                             T(data_grouped),
                             T(data_invalid_utf8),
                             T(data_text_short),
                             T(generate_filters),
                             T(generate_cached),
                             T(generate_logits),
                             T(generate_packed),
                             T(generate_packed_state),
                             T(generate_plan),
                             T(generate_unpacked),
                             T(generate_independent),
                             T(generate_samples),
                             T(generate_trunk_once),
                             T(generate_eos),
                             T(generate_penalty),
                             T(generate_stop_strings),
                             T(generate_stop_text),
                             T(generate_callback),
                             T(generate_text_cut),
                             T(generate_errors),
                             T(generate_allocation),
                             T(generate_cancel),
                             T(checkpoint_resume),
                             T(checkpoint_resume_often),
                             T(checkpoint_faults),
                             T(checkpoint_load_faults),
                             T(checkpoint_damage),
                             T(checkpoint_all_damaged),
                             T(checkpoint_kept),
                             T(checkpoint_other_runs),
                             T(checkpoint_foreign),
                             T(checkpoint_other_weights),
                             T(checkpoint_longer),
                             T(checkpoint_own_loop),
                             T(world_draws),
                             T(world_pairs),
                             T(world_replies)};

int main(int argc, char **argv) {
    const char *part = argc > 1 ? argv[1] : "";
    int n = (int)(sizeof tests / sizeof tests[0]), i, passed = 0, failed = 0;
    for (i = 0; i < n; i++) {
        if (!strstr(tests[i].name, part)) continue;
        check_failures = check_lines = 0;
        rng_state = 12345;
        tests[i].run();
        scratch_free();
        if (check_failures > check_lines) printf("  (%d failed checks in all)\n", check_failures);
        if (check_failures) printf("FAILED %s\n", tests[i].name);
        if (check_failures) failed++;
        else passed++;
        (void)fflush(stdout);
    }
    if (!part[0] && passed + failed < FLOOR) {
        printf("only %d tests ran, there must be %d\n", passed + failed, FLOOR);
        failed++;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed ? 1 : 0;
}
