#include "cli/bench_print.h"
#include "coordinator/rank_link.h"
#include <stdio.h>

static double gigabytes(const bench_comm *b, const bench_comm_row *r, double seconds, bool whole_sum) {
    return rank_link_bandwidth(b->ranks, r->bytes, seconds, whole_sum) / 1e9;
}

void bench_print_comm_text(const bench_comm *b) {
    printf("%d ranks on %d host%s, %s, by %s\n", b->ranks, b->hosts, b->hosts == 1 ? "" : "s", b->device, b->exchange);
    printf("GB/s over each rank's connection: 2·(n - 1)/n of the bytes for a sum, (n - 1)/n for its halves\n\n");
    printf("%12s %14s %10s %14s %10s %14s %10s\n", "bytes", "sum µs", "GB/s", "scattered µs", "GB/s", "gathered µs",
           "GB/s");
    for (int i = 0; i < BENCH_COMM_SIZES; i++) {
        const bench_comm_row *r = &b->rows[i];
        printf("%12lld %13.1f %10.3f %14.1f %10.3f %14.1f %10.3f\n", (long long)r->bytes, r->all_reduce * 1e6,
               gigabytes(b, r, r->all_reduce, true), r->reduce_scatter * 1e6, gigabytes(b, r, r->reduce_scatter, false),
               r->all_gather * 1e6, gigabytes(b, r, r->all_gather, false));
    }
}

yx_status bench_print_comm_json(const bench_comm *b) {
    json_t *rows = json_array();
    for (int i = 0; i < BENCH_COMM_SIZES; i++) {
        const bench_comm_row *r = &b->rows[i];
        json_array_append_new(rows,
                              json_pack("{s:I, s:f, s:f, s:f, s:f}", "bytes", (json_int_t)r->bytes,
                                        "all_reduce_seconds", r->all_reduce, "reduce_scatter_seconds",
                                        r->reduce_scatter, "all_gather_seconds", r->all_gather, "bus_bytes_per_second",
                                        rank_link_bandwidth(b->ranks, r->bytes, r->all_reduce, true)));
    }
    return bench_print_object(json_pack("{s:s, s:s, s:i, s:i, s:o}", "device", b->device, "exchange", b->exchange,
                                        "ranks", b->ranks, "hosts", b->hosts, "sizes", rows));
}
