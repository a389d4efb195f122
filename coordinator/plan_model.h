// What the model's shape costs.
#pragma once
#include "io/config.h"

// V·r + r·d + L·(d·(H + 2·KV)·hd + H·hd·d + 3·d·F + 2·d) + d: the factorized embedding (tied, so once), attention,
// SwiGLU, the norms.
int64_t plan_model_parameters(const config_model *m);
// The gains of RMSNorm among them: L·2·d + d.
int64_t plan_norm_parameters(const config_model *m);
// The weights of the layers' matrix products: L·d·(2·H·hd + 2·KV·hd + 3·F).
int64_t plan_block_parameters(const config_model *m);
// Floating-point operations of forward and backward per token of a sequence of seq_len: 6·(parameters − norms) for the
// matrix products and 6·L·H·hd·T for causal attention (12·L·H·hd·T, of which half is masked: Chowdhery et al. 2022,
// appendix B). What a document mask or recomputation changes is not counted.
double plan_flops_per_token(const config_model *m, int64_t seq_len);
