// yxanul inspect.
#include "cli/cli.h"
#include "common/file.h"
#include "cli/inspect_data.h"
#include "io/checkpoint.h"
#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: yxanul inspect PATH [--verify]\n"
    "\n"
    "Says what PATH is and holds: a data set (folder of shards), one shard, a tokenizer, a checkpoint, or a run folder "
    "(its\n"
    "newest checkpoint).\n"
    "\n"
    "  --verify   check every checksum of a data set or shard (checkpoints are always checked)\n";

static void print_checkpoint(const checkpoint *c) {
    const json_t *meta = checkpoint_meta(c);
    printf("checkpoint   %s (every checksum is right)\n", checkpoint_path(c));
    printf("step         %lld\n", (long long)json_integer_value(json_object_get(meta, "step")));
    printf("tokens       %lld\n", (long long)json_integer_value(json_object_get(meta, "tokens")));
    printf("updates      %lld\n", (long long)json_integer_value(json_object_get(meta, "adam_steps")));
    printf("ranks        %lld\n", (long long)json_integer_value(json_object_get(meta, "ranks")));
    static const char *const hashes[] = {"config_identity", "plan_hash", "data_manifest_sha256", "tokenizer_sha256"};
    for (int i = 0; i < 4; i++) {
        const char *text = json_string_value(json_object_get(meta, hashes[i]));
        printf("%-24s %s\n", hashes[i], text ? text : "(missing)");
    }
    printf("ledger       %zu decisions\n", json_array_size(json_object_get(meta, "ledger")));
    int64_t total = 0;
    printf("tensors      %lld\n", (long long)checkpoint_count(c));
    for (int64_t i = 0; i < checkpoint_count(c); i++) {
        const char *name;
        int64_t rows, cols;
        if (checkpoint_describe(c, i, &name, &rows, &cols) != YX_OK) break;
        total += rows * (cols ? cols : 1);
        if (cols) printf("  %-40s [%lld, %lld]\n", name, (long long)rows, (long long)cols);
        else printf("  %-40s [%lld]\n", name, (long long)rows);
    }
    printf("values       %lld float32\n", (long long)total);
}

static yx_status inspect_checkpoint(const char *path) {
    checkpoint *c;
    if (!yx_path_exists(path)) return yx_fail(YX_ERR_IO, "%s does not exist", path);
    yx_status status = checkpoint_open(path, &c);
    if (status != YX_OK) return status;
    if (!c)
        return yx_fail(YX_ERR_DATA,
                       "%s is no data set, shard, tokenizer, checkpoint or run folder that this program knows", path);
    print_checkpoint(c);
    checkpoint_close(c);
    return YX_OK;
}

static yx_status inspect(const char *path, bool verify) {
    if (inspect_is_dataset(path)) return inspect_dataset(path, verify);
    if (inspect_is_shard(path)) return inspect_shard(path, verify);
    if (inspect_is_tokenizer(path)) return inspect_tokenizer(path);
    return inspect_checkpoint(path);
}

int cli_inspect(int argc, char **argv) {
    static const struct option longs[] = {{"verify", 0, 0, 'v'}, {"help", 0, 0, 'h'}, {0}};
    bool verify = false;
    opterr = 0;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (c == 'h') return fputs(help, stdout) < 0;
        if (c != 'v') return cli_usage_error("inspect", "'%s' is not an option of inspect", argv[optind - 1]);
        verify = true;
    }
    if (argc - optind != 1) return cli_usage_error("inspect", "inspect takes one PATH");
    return cli_fail(inspect(argv[optind], verify));
}
