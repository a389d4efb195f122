#include "worker/memory.h"
#include "io/loader.h"
#include "worker/model.h"
#include <string.h>

// Code and tables of the process and its libraries (OpenBLAS' own buffers, HDF5, OpenMP), measured on x86-64 Linux.
static const int64_t PROCESS_BYTES = 30 << 20;
static const int64_t CUDA_MOST_TOKENS = 24576, CPU_MOST_TOKENS = 4096;

static void add(memory_report *r, int *n, const char *name, int64_t bytes) {
    r->items[(*n)++] = (memory_item){name, bytes};
    r->total += bytes;
}

yx_status memory_plan(const yx_ops *ops, yx_device *device, const yx_config *config, int ranks, int64_t window_blocks,
                      int64_t micro_tokens, memory_report *out) {
    model_sizes s;
    int n = 0;
    *out = (memory_report){.micro_tokens = micro_tokens};
    model_options options = {.precision = precision_of(&config->training),
                             .max_rows = micro_tokens,
                             .training = true,
                             .recompute = config->training.recompute,
                             .ranks = ranks,
                             .bucket_bytes = config->training.gradient_bucket_mb << 20};
    yx_status status = model_measure(ops, device, &config->model, &options, &s);
    if (status != YX_OK) return status;
    add(out, &n, "parameters (fp32)", s.params);
    add(out, &n, "gradients (fp32)", s.grads);
    add(out, &n, "Adam moments (fp32)", 2 * s.params / (config->training.shard_optimizer ? ranks : 1));
    add(out, &n, "working copies, scales", s.copies);
    add(out, &n, "activations", s.activations);
    add(out, &n, "workspace", s.workspace);
    int64_t row = config->model.embedding_rank * (config->training.precision == PRECISION_FP32 ? 4 : 2) + 4;
    int64_t wire = config->training.gradient_wire != WIRE_FP32 ? s.largest_bucket / 2 : 0;
    if (ranks > 1) add(out, &n, "exchange with other ranks", ranks * micro_tokens * row + wire);
    // A checkpoint is put together in host memory, and its largest tensor read back; a CPU has no other memory.
    int64_t largest = config->model.vocab_size * config->model.embedding_rank * (int64_t)sizeof(float);
    if (strcmp(ops->name, "cpu") == 0) add(out, &n, "copy for checkpoints", 3 * s.params + largest);
    int64_t batches = (loader_most_ahead(config->data.prefetch) + 2) * micro_tokens * 3 * (int64_t)sizeof(int32_t);
    add(out, &n, "data: window, micro-batches", window_blocks * (ORDER_BLOCK_TOKENS + 1) * 4 + batches);
    add(out, &n, "program and libraries", PROCESS_BYTES);
    return YX_OK;
}

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int64_t next_smaller(int64_t tokens) {
    int64_t next = round_up(tokens * 7 / 8, 128);
    return next < tokens ? next : tokens - 128;
}

yx_status memory_micro_tokens(const yx_ops *ops, yx_device *device, const yx_config *config, int ranks,
                              int64_t window_blocks, int64_t *out) {
    int64_t longest = config->evaluation.seq_len;
    for (int64_t i = 0; i < config->training.num_stages; i++)
        if (config->training.stages[i].seq_len > longest) longest = config->training.stages[i].seq_len;
    int64_t least = round_up(longest, 128);
    int64_t most = config->training.micro_batch_tokens;
    bool cpu = strcmp(ops->name, "cpu") == 0;
    if (most == 0) most = cpu ? CPU_MOST_TOKENS : CUDA_MOST_TOKENS;
    most = round_up(most < least ? least : most, 128);
    yx_device_info info;
    yx_status status = ops->info(device, &info);
    if (status != YX_OK) return status;
    int64_t free_bytes = info.memory_free / 10 * 9;
    memory_report report;
    for (int64_t tokens = most;; tokens = next_smaller(tokens)) {
        if (tokens < least) tokens = least;
        status = memory_plan(ops, device, config, ranks, window_blocks, tokens, &report);
        if (status != YX_OK) return status;
        if (report.total <= free_bytes) {
            *out = tokens;
            return YX_OK;
        }
        if (tokens == least) break;
    }
    return yx_fail(YX_ERR_NO_MEMORY,
                   "this model with micro-batches of %lld tokens (its longest sequence) needs %.2f GB; %s has %.2f GB "
                   "free, of which 90 %% are used. Make the model or the longest seq_len smaller",
                   (long long)least, (double)report.total / 1e9, info.name, (double)info.memory_free / 1e9);
}

int64_t memory_stage_micro_tokens(int64_t most, int64_t seq_len, int64_t sequences) {
    int64_t best = 0, best_total = 0;
    if (sequences < 1) sequences = 1;
    for (int64_t batches = 1; batches <= sequences; batches++) {
        int64_t each = (sequences + batches - 1) / batches; // sequences in the fullest micro-batch
        int64_t tokens = round_up(each * seq_len, 128);
        if (tokens > most) continue;
        int64_t total = (sequences + each - 1) / each * tokens;
        if (!best || total < best_total) best = tokens, best_total = total;
        // Twice the fewest micro-batches that fit is as far as a better fit is worth smaller products.
        if (best && batches * each > 2 * sequences) break;
        if (best && tokens * 2 < best) break;
    }
    return best;
}
