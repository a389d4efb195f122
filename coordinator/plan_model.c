#include "coordinator/plan_model.h"

int64_t plan_norm_parameters(const config_model *m) { return (2 * m->num_layers + 1) * m->hidden_size; }

int64_t plan_block_parameters(const config_model *m) {
    int64_t heads = m->num_attention_heads * m->head_dim, kv_heads = m->num_key_value_heads * m->head_dim;
    return m->num_layers * m->hidden_size * (2 * heads + 2 * kv_heads + 3 * m->intermediate_size);
}

int64_t plan_model_parameters(const config_model *m) {
    int64_t embedding = (m->vocab_size + m->hidden_size) * m->embedding_rank;
    return embedding + plan_block_parameters(m) + plan_norm_parameters(m);
}

double plan_flops_per_token(const config_model *m, int64_t seq_len) {
    double products = 6.0 * (double)(plan_model_parameters(m) - plan_norm_parameters(m));
    return products + 6.0 * (double)(m->num_layers * m->num_attention_heads * m->head_dim) * (double)seq_len;
}
