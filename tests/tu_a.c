/* tu_a.c - the implementing unit of a program of three: see tu_b.c and tu_c.cpp. Built a second time with
   -DPRIVATE, each of tu_a.c and tu_b.c has a copy of its own (DPO_STATIC), and both are linked together. */
#define DPO_IMPLEMENTATION
#ifdef PRIVATE
#define DPO_STATIC
#endif
#include "../dpo.h"

int tu_b(void);
int tu_c(void);
int tu_a(void);

/* 0 if a context opens, computes and closes. */
int tu_a(void) {
    dpo_context *c = dpo_open(NULL);
    dpo_tensor t, none = dpo_tensor_f32(NULL, 0, 0, 0, 0);
    float x[4] = {1, 2, 3, 4}, y[4] = {0, 0, 0, 0};
    int bad = !c;
    t = dpo_tensor_f32(x, 4, 0, 0, 0);
    if (!bad) bad = dpo_activation_forward(c, DPO_GELU, dpo_tensor_f32(y, 4, 0, 0, 0), t, none) != DPO_OK;
    if (!bad) bad = !(y[3] > 3.99f && y[3] < 4.0f);
    dpo_close(c);
    return bad;
}

int main(void) {
    int a = tu_a(), b = tu_b(), c = 0;
#ifndef PRIVATE
    c = tu_c();
#endif
    if (a || b || c) {
        printf("tu: unit a %d, unit b %d, unit c %d\n0 passed, 1 failed\n", a, b, c);
        return 1;
    }
    printf("1 passed, 0 failed\n");
    return 0;
}
