#include "coordinator/setup.h"
#include "common/log.h"
#include "io/tokenizer.h"
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

yx_status setup_device(config_device device, const yx_device_options *options, int local_rank, const yx_ops **ops,
                       yx_device **out) {
    if (device != DEVICE_CPU) {
        yx_status status = kernels_find("cuda", ops);
        if (status == YX_OK) status = (*ops)->open(local_rank, options, out);
        if (status == YX_OK || device == DEVICE_CUDA) return status;
        yx_debug("no CUDA device (%s): the CPU is used", yx_message());
    }
    yx_status status = kernels_find("cpu", ops);
    return status == YX_OK ? (*ops)->open(0, options, out) : status;
}

static yx_status check_tokenizer(const yx_config *config, const char *data_path, const dataset_info *info) {
    yx_status status = YX_OK;
    yx_tokenizer *t = NULL;
    if (info->vocab_size != (uint64_t)config->model.vocab_size)
        YX_FAIL(YX_ERR_MISMATCH, "%s was made with a vocabulary of %u tokens; model.vocab_size is %lld", data_path,
                info->vocab_size, (long long)config->model.vocab_size);
    YX_CHECK(tokenizer_load(config->data.tokenizer, &t));
    if (strcmp(tokenizer_sha256(t), info->tokenizer_sha256) != 0)
        YX_FAIL(YX_ERR_MISMATCH,
                "%s was made with the tokenizer %s (sha256 %.12s…), but data.tokenizer names %s (%.12s…): prepare the "
                "data with it, or name the data's own, %s/tokenizer",
                data_path, info->tokenizer_name, info->tokenizer_sha256, config->data.tokenizer, tokenizer_sha256(t),
                data_path);
fail:
    tokenizer_free(t);
    malloc_trim(0); // a large vocabulary's many small pieces: back to the system before the arenas are taken
    return status;
}

static yx_status open_data(const yx_config *config, run_setup *s) {
    yx_status status = YX_OK;
    const char *path = config->data.path;
    YX_CHECK(dataset_open(path, "train", config->data.verify, &s->train));
    YX_CHECK(check_tokenizer(config, path, dataset_get_info(s->train)));
    status = dataset_open(path, "validation", config->data.verify, &s->validation);
    if (status == YX_ERR_UNAVAILABLE) status = YX_OK; // this data has no such split
fail:
    return status;
}

yx_status setup_open(const yx_config *config, int local_rank, int ranks, run_setup *out) {
    yx_status status = YX_OK;
    yx_device_info info;
    yx_device_options options = {.deterministic = config->training.deterministic};
    *out = (run_setup){0};
    YX_CHECK(open_data(config, out));
    YX_CHECK(plan_build(config, dataset_get_info(out->train)->num_tokens, &out->plan));
    YX_CHECK(setup_device(config->training.device, &options, local_rank, &out->ops, &out->device));
    YX_CHECK(out->ops->info(out->device, &info));
    if (config->training.precision == PRECISION_FP8 && !info.eight_bit)
        YX_FAIL(
            YX_ERR_UNAVAILABLE,
            "%s does not multiply 8-bit numbers (compute capability 8.9 or newer does): use training.precision bf16",
            info.name);
    memcpy(out->device_name, info.name, sizeof out->device_name);
    out->device_index = info.index;
    YX_CHECK(memory_micro_tokens(out->ops, out->device, config, ranks, out->plan.window_blocks, &out->micro_tokens));
    return YX_OK;
fail:
    setup_close(out);
    return status;
}

void setup_close(run_setup *s) {
    dataset_close(s->train);
    dataset_close(s->validation);
    if (s->device) s->ops->close(s->device);
    *s = (run_setup){0};
}
