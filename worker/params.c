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
    p->offset = t->elements;
    t->elements += round_up(param_stored(p), PARAM_ALIGN);
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

yx_status param_table_create(const config_model *c, param_table *out) {
    *out = (param_table){.items = calloc((size_t)(c->num_layers * PARAMS_PER_LAYER + 3), sizeof(param))};
    if (!out->items) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the parameter table");
    // What a block adds to the residual stream is scaled down with depth (Radford et al. 2019). The projection keeps
    // the size of an embedding: with initializer_range in both factors the stream would begin 1 / (initializer_range ·
    // sqrt(rank)) times smaller than an embedding, and what the first blocks add would drown it.
    double output_std = c->initializer_range / sqrt(2.0 * (double)c->num_layers);
    add(out, PARAM_EMBED, "embed.weight", c->vocab_size, c->embedding_rank, c->initializer_range);
    add(out, PARAM_PROJ, "proj.weight", c->embedding_rank, c->hidden_size, 1 / sqrt((double)c->embedding_rank));
    for (int64_t l = 0; l < c->num_layers; l++) add_layer(out, c, l, output_std);
    add(out, PARAM_NORM, "norm.weight", c->hidden_size, 0, 0);
    return YX_OK;
}

void param_table_free(param_table *table) {
    free(table->items);
    *table = (param_table){0};
}

int64_t param_index(const param_table *table, param_role role, int64_t layer) {
    if (role == PARAM_EMBED) return 0;
    if (role == PARAM_PROJ) return 1;
    return role == PARAM_NORM ? table->count - 1 : 2 + layer * PARAMS_PER_LAYER + (int64_t)role;
}
