// An operation of the model as `bench kernels` sees it: how its arguments are made, how it is run, and how its results
// are compared with the reference. Private to coordinator/bench_kernels*.c.
#pragma once
#include "coordinator/bench_kernels_tensors.h"
#include "worker/precision.h"

typedef struct bench_model { // what shapes and types follow from
    const config_model *config;
    precision_state precision;
} bench_model;

enum { TASK_MAX_SEGMENTS = PARAMS_PER_LAYER };

// Arguments on the device.
typedef struct bench_task {
    union {
        yx_matmul_args matmul;
        yx_embed_args embed;
        yx_embed_backward_args embed_backward;
        yx_norm_args norm;
        yx_norm_backward_args norm_backward;
        yx_rope_args rope;
        yx_attention_args attention;
        yx_attention_backward_args attention_backward;
        yx_swiglu_args swiglu;
        yx_swiglu_backward_args swiglu_backward;
        yx_head_args head;
        yx_head_backward_args head_backward;
        yx_adamw_args adamw;
        yx_cast_args cast;
        struct {
            const yx_real *x;
            int64_t n;
            double *sum;
        } sum_squares;
    };
    yx_adamw_segment segments[TASK_MAX_SEGMENTS];
    char shape[48]; // for people
} bench_task;

typedef struct bench_operation {
    char name[32];
    bool by_rows;    // its size depends on the number of tokens
    int64_t seq_len; // of the packed sequences; 0: there are none
    int which;       // of several operations that are made the same way
    // Makes the arguments for `rows` tokens; failures are in the tensors' status.
    void (*build)(const struct bench_model *m, const struct bench_operation *o, int64_t rows, tensors *t,
                  bench_task *out);
    yx_status (*run)(const yx_ops *ops, yx_device *device, const bench_task *task);
    // Largest relative error of the results.
    double (*compare)(tensors *t, const bench_task *task);
} bench_operation;

enum { TASK_MAX_OPERATIONS = 96 };
typedef struct bench_operations {
    bench_operation items[TASK_MAX_OPERATIONS];
    int64_t count;
} bench_operations;
void bench_add(bench_operations *list, const bench_operation *o);

void bench_add_matmul(bench_operations *list);
void bench_add_rows(bench_operations *list); // norm, swiglu
void bench_add_rope(bench_operations *list, int64_t seq_len);
void bench_add_attention(bench_operations *list, int64_t seq_len);
void bench_add_head(bench_operations *list);      // embedding and head
void bench_add_optimizer(bench_operations *list); // adamw, sum_squares, cast
