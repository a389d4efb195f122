#include "cli/bench_print.h"
#include <math.h>
#include <stdio.h>

// --- Text
// printf's widths count bytes; `×` and `·` have two.
static int columns(const char *text) {
    int n = 0;
    for (; *text; text++) n += (*text & 0xc0) != 0x80;
    return n;
}

static void print_notes(const bench_kernels *b) {
    bench_print_ceiling(b->device, &b->ceiling);
    printf("\nmicro-batches of %lld tokens; activations %s, the block's products %s", (long long)b->tokens,
           yx_dtype_name(b->act), yx_dtype_name(b->forward));
    if (b->gradient != b->forward) printf(", of gradients %s", yx_dtype_name(b->gradient));
    printf("\n\nms       median; before every repetition %lld MiB are read, so that no operand is left in a cache\n"
           "share    of the nearer ceiling: a large product, or a large copy\n"
           "error    largest relative error (Frobenius norm) against float64, at so many tokens; right up to %.0e\n",
           (long long)(b->flush_bytes >> 20), b->error_bound);
    if (b->num_kernels > 0 && b->kernels[0].expected_4090 > 0)
        printf("4090 ms  computed, not measured: least time at the data sheet's rates over the share reached here\n");
}

static void print_header(void) {
    printf("\n%-20s %-25s %5s %10s %9s %9s  %-7s %6s %9s %6s %9s\n", "operation", "shape", "T", "ms", "TFLOP/s", "GB/s",
           "ceiling", "share", "error", "tokens", "4090 ms");
}

static void print_number(double x, int width, int decimals) {
    if (x > 0) printf(" %*.*f", width, decimals, x);
    else printf(" %*s", width, "-");
}

static void print_count(int64_t n, int width) {
    if (n > 0) printf(" %*lld", width, (long long)n);
    else printf(" %*s", width, "-");
}

static void print_kernel(const bench_kernel *k, double error_bound) {
    printf("%-20s %s%*s", k->name, k->shape, 25 - columns(k->shape), "");
    print_count(k->seq_len, 5);
    printf(" %10.4f", k->seconds * 1e3);
    print_number(k->flops / k->seconds / 1e12, 9, 3);
    print_number(k->bytes / k->seconds / 1e9, 9, 2);
    printf("  %-7s %5.1f%% %9.2e", k->computes ? yx_dtype_name(k->dtype) : "copy", 100 * k->share, k->error);
    print_count(k->error_rows, 6);
    print_number(k->expected_4090 * 1e3, 9, 4);
    printf("%s\n", k->error <= error_bound ? "" : "  WRONG");
}

void bench_print_kernels_text(const bench_kernels *b) {
    print_notes(b);
    print_header();
    for (int64_t i = 0; i < b->num_kernels; i++) print_kernel(&b->kernels[i], b->error_bound);
}

// --- JSON
static json_t *json_kernel(const bench_kernel *k) {
    json_t *error = isfinite(k->error) ? json_real(k->error) : json_null();
    return json_pack("{s:s, s:s, s:I, s:f, s:I, s:f, s:f, s:f, s:f, s:s, s:f, s:f, s:o, s:I, s:f}", "name", k->name,
                     "shape", k->shape, "seq_len", (json_int_t)k->seq_len, "seconds", k->seconds, "rounds",
                     (json_int_t)k->rounds, "flops", k->flops, "bytes", k->bytes, "flops_per_second",
                     k->flops / k->seconds, "bytes_per_second", k->bytes / k->seconds, "ceiling",
                     k->computes ? yx_dtype_name(k->dtype) : "copy", "ceiling_per_second", k->ceiling, "share",
                     k->share, "error", error, "error_tokens", (json_int_t)k->error_rows, "computed_4090_seconds",
                     k->expected_4090);
}

yx_status bench_print_kernels_json(const bench_kernels *b) {
    json_t *kernels = json_array();
    for (int64_t i = 0; i < b->num_kernels; i++) json_array_append_new(kernels, json_kernel(&b->kernels[i]));
    return bench_print_object(json_pack(
        "{s:s, s:o, s:f, s:s, s:s, s:s, s:I, s:I, s:f, s:o}", "device", b->device, "product_flops_per_second",
        bench_print_rates(&b->ceiling), "copy_bytes_per_second", b->ceiling.bandwidth, "act", yx_dtype_name(b->act),
        "forward", yx_dtype_name(b->forward), "gradient", yx_dtype_name(b->gradient), "tokens", (json_int_t)b->tokens,
        "flush_bytes", (json_int_t)b->flush_bytes, "error_bound", b->error_bound, "kernels", kernels));
}
