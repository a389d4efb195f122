#include "kernels/cpu/convert.h"

// A column of the transposed copy at a time: correct, not fast. No product of this backend reads transposed copies;
// they are written for those who compare backends.
static void store_transposed(const yx_operand *o, int64_t rows, int64_t row, int64_t col, int64_t n, const yx_real *x,
                             cpu_tally *t) {
    enum { PIECE = 64 };
    yx_real encoded[PIECE];
    size_t size = yx_dtype_size(o->dtype);
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        int64_t count = cpu_min(PIECE, n - begin);
        uint32_t clipped = yx_encode(o->dtype, x + begin, quant_scale(&o->quant), count, encoded);
        if (!o->row) t->saturated += clipped; // else counted with the row
        for (int64_t i = 0; i < count; i++)
            memcpy(cpu_at(o->dtype, o->col, (col + begin + i) * rows + row), (char *)encoded + (size_t)i * size, size);
    }
}

void operand_store(const yx_operand *o, int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t n,
                   const yx_real *x, cpu_tally *t) {
    tally_values(t, &o->quant, x, n);
    if (o->col) store_transposed(o, rows, row, col, n, x, t);
    if (o->row)
        t->saturated += yx_encode(o->dtype, x, quant_scale(&o->quant), n, cpu_at(o->dtype, o->row, row * cols + col));
}
