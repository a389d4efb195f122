#include "worker/params.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static void add(param_table *t, param_role role, const char *name, int64_t rows, int64_t cols, double std) {
    param *p = &t->items[t->count++];
    *p = (param){.role = role, .rows = rows, .cols = cols, .init_std = std, .decay = cols > 0};
    snprintf(p->name, sizeof p->name, "%s", name);
    p->stored_rows = role == PARAM_EMBED ? round_up(rows, PARAM_VOCAB_ALIGN) : rows;
    t->parameters += param_size(p);
}

static void add_layer(param_table *t, const config_model *c, int64_t layer, double output_std) {
    int64_t q = c->num_attention_heads * c->head_dim, kv = c->num_key_value_heads * c->head_dim;
    const struct {
        const char *name;
        param_role role;
        int64_t rows, cols;
        double std;
    } parts[PARAMS_PER_LAYER] = {
        {"norm1", PARAM_NORM1, c->hidden_size, 0, 0},
        {"qkv", PARAM_QKV, q + 2 * kv, c->hidden_size, c->initializer_range},
        {"o", PARAM_O, c->hidden_size, q, output_std},
        {"norm2", PARAM_NORM2, c->hidden_size, 0, 0},
        {"gate_up", PARAM_GATE_UP, 2 * c->intermediate_size, c->hidden_size, c->initializer_range},
        {"down", PARAM_DOWN, c->hidden_size, c->intermediate_size, output_std},
    };
    for (int i = 0; i < PARAMS_PER_LAYER; i++) {
        char name[PARAM_NAME_MAX];
        snprintf(name, sizeof name, "layers.%lld.%s.weight", (long long)layer, parts[i].name);
        add(t, parts[i].role, name, parts[i].rows, parts[i].cols, parts[i].std);
    }
}

// --- The arena
typedef struct arena {
    param_table *table;
    int64_t begin, used; // of the open bucket
} arena;

static void place(arena *a, int64_t index) {
    param *p = &a->table->items[index];
    p->offset = a->begin + a->used;
    a->used += round_up(param_stored(p), PARAM_ALIGN);
}

static void close_bucket(arena *a, int64_t ready) {
    param_table *t = a->table;
    int64_t piece = round_up((a->used + t->ranks - 1) / t->ranks, PARAM_ALIGN);
    t->buckets[t->num_buckets++] = (param_bucket){a->begin, piece, ready};
    a->begin += piece * t->ranks;
    a->used = 0;
    t->elements = a->begin;
}

// In the order in which the backward pass completes the gradients.
static void lay_out(param_table *t, int64_t num_layers, int64_t bucket_elements) {
    arena a = {.table = t};
    place(&a, param_index(t, PARAM_EMBED, 0));
    close_bucket(&a, num_layers);
    place(&a, param_index(t, PARAM_NORM, 0));
    for (int64_t l = num_layers - 1; l >= 0; l--) {
        for (int role = PARAM_NORM1; role <= PARAM_DOWN; role++) place(&a, param_index(t, (param_role)role, l));
        if (a.used >= bucket_elements && l > 0) close_bucket(&a, l);
    }
    close_bucket(&a, 0);
    place(&a, param_index(t, PARAM_PROJ, 0));
    close_bucket(&a, -1);
}

yx_status param_table_create(const config_model *c, int ranks, int64_t bucket_bytes, param_table *out) {
    *out = (param_table){.items = calloc((size_t)(c->num_layers * PARAMS_PER_LAYER + 3), sizeof(param)),
                         .buckets = calloc((size_t)(c->num_layers + 3), sizeof(param_bucket)),
                         .ranks = ranks > 1 ? ranks : 1};
    if (!out->items || !out->buckets) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the parameter table");
    // What a block adds to the residual stream is scaled down with depth (Radford et al. 2019). The projection keeps
    // the size of an embedding: with initializer_range in both factors the stream would begin 1 / (initializer_range ·
    // sqrt(rank)) times smaller than an embedding, and what the first blocks add would drown it.
    double output_std = c->initializer_range / sqrt(2.0 * (double)c->num_layers);
    add(out, PARAM_EMBED, "embed.weight", c->vocab_size, c->embedding_rank, c->initializer_range);
    add(out, PARAM_PROJ, "proj.weight", c->embedding_rank, c->hidden_size, 1 / sqrt((double)c->embedding_rank));
    for (int64_t l = 0; l < c->num_layers; l++) add_layer(out, c, l, output_std);
    add(out, PARAM_NORM, "norm.weight", c->hidden_size, 0, 0);
    lay_out(out, c->num_layers, (bucket_bytes ? bucket_bytes : PARAM_BUCKET_BYTES) / (int64_t)sizeof(float));
    return YX_OK;
}

void param_table_free(param_table *table) {
    free(table->items);
    free(table->buckets);
    *table = (param_table){0};
}

int64_t param_largest_bucket(const param_table *table) {
    int64_t largest = 0;
    for (int64_t i = 0; i < table->num_buckets; i++)
        if (table->buckets[i].piece * table->ranks > largest) largest = table->buckets[i].piece * table->ranks;
    return largest;
}

int64_t param_index(const param_table *table, param_role role, int64_t layer) {
    if (role == PARAM_EMBED) return 0;
    if (role == PARAM_PROJ) return 1;
    return role == PARAM_NORM ? table->count - 1 : 2 + layer * PARAMS_PER_LAYER + (int64_t)role;
}
