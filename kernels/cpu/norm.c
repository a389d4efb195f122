// RMSNorm. Rows are independent; gamma's gradient is summed over fixed chunks of rows and then over the chunks in
// order.
#include "kernels/cpu/convert.h"

enum { GAMMA_ROWS = 64 };

// s = x + delta, stored; returns the sum of the squares of what was stored.
static double add_rows(const yx_norm_args *a, int64_t row) {
    double squares = 0;
    for (int64_t j = 0; j < a->cols; j += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - j), at = row * a->cols + j;
        yx_real bx[CPU_CHUNK], bd[CPU_CHUNK], bs[CPU_CHUNK];
        const yx_real *s = cpu_load(a->act, a->x, at, n, bx);
        if (a->delta) {
            const yx_real *delta = cpu_load(a->act, a->delta, at, n, bd);
            yx_real *sum = cpu_target(a->act, a->sum, at, bs);
            for (int64_t i = 0; i < n; i++) sum[i] = s[i] + delta[i];
            cpu_store(a->act, a->sum, at, n, sum);
            s = cpu_load(a->act, a->sum, at, n, bs);
        }
        yx_real part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < n; i++) part += s[i] * s[i];
        squares += (double)part;
    }
    return squares;
}

static void normalise_row(const yx_norm_args *a, int64_t row, yx_real rstd, cpu_tally *tally) {
    const void *source = a->delta ? a->sum : a->x;
    for (int64_t j = 0; j < a->cols; j += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - j);
        yx_real bs[CPU_CHUNK], y[CPU_CHUNK];
        const yx_real *s = cpu_load(a->act, source, row * a->cols + j, n, bs), *gamma = a->gamma + j;
        for (int64_t i = 0; i < n; i++) y[i] = gamma[i] * s[i] * rstd;
        operand_store(&a->y, a->rows, a->cols, row, j, n, y, tally);
    }
}

yx_status cpu_norm(yx_device *d, yx_stream *stream, const yx_norm_args *a) {
    (void)stream;
    if (a->cols <= 0 || !cpu_is_act(a->act) || (a->delta && !a->sum))
        return yx_fail(YX_ERR_INTERNAL, "norm: arguments break the contract");
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
#pragma omp for schedule(static)
        for (int64_t row = 0; row < a->rows; row++) {
            double mean = add_rows(a, row) / (double)a->cols;
            a->rstd[row] = (yx_real)(1 / sqrt(mean + a->eps));
            normalise_row(a, row, a->rstd[row], &tally);
        }
        tally_record(&tally, &a->y.quant);
    }
    return YX_OK;
}

// mean over the columns of (gamma · dy) · x̂
static yx_real projection(const yx_norm_backward_args *a, int64_t row) {
    double sum = 0;
    for (int64_t j = 0; j < a->cols; j += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - j), at = row * a->cols + j;
        yx_real bs[CPU_CHUNK], by[CPU_CHUNK], part = 0;
        const yx_real *s = cpu_load(a->act, a->s, at, n, bs), *dy = cpu_load(a->act, a->dy, at, n, by);
        const yx_real *gamma = a->gamma + j;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < n; i++) part += gamma[i] * dy[i] * s[i];
        sum += (double)part;
    }
    return (yx_real)(sum * (double)a->rstd[row] / (double)a->cols);
}

// dx = dres + rstd · (gamma · dy - x̂ · mean); adds this row's dy · x̂ to dgamma [cols] unless that is NULL.
static void backward_row(const yx_norm_backward_args *a, int64_t row, yx_real *dgamma, cpu_tally *tally) {
    yx_real rstd = a->rstd[row], mean = projection(a, row);
    for (int64_t j = 0; j < a->cols; j += CPU_CHUNK) {
        int64_t n = cpu_min(CPU_CHUNK, a->cols - j), at = row * a->cols + j;
        yx_real bs[CPU_CHUNK], by[CPU_CHUNK], br[CPU_CHUNK], dx[CPU_CHUNK];
        const yx_real *s = cpu_load(a->act, a->s, at, n, bs), *dy = cpu_load(a->act, a->dy, at, n, by);
        const yx_real *gamma = a->gamma + j;
        for (int64_t i = 0; i < n; i++) dx[i] = rstd * (gamma[i] * dy[i] - s[i] * (rstd * mean));
        if (a->dres) {
            const yx_real *dres = cpu_load(a->act, a->dres, at, n, br);
            for (int64_t i = 0; i < n; i++) dx[i] += dres[i];
        }
        if (dgamma)
            for (int64_t i = 0; i < n; i++) dgamma[j + i] += dy[i] * (s[i] * rstd);
        if (a->dx_operand.row != a->dx) cpu_store(a->act, a->dx, at, n, dx);
        operand_store(&a->dx_operand, a->rows, a->cols, row, j, n, dx, tally);
    }
}

static size_t lay_out(int64_t rows, int64_t cols, void *base, yx_real **partial) {
    cpu_scratch s = {base, 0};
    *partial = cpu_take(&s, cpu_ceil_div(rows, GAMMA_ROWS) * cols, sizeof(yx_real));
    return s.used;
}

static void add_partials(const yx_device *d, const yx_norm_backward_args *a, const yx_real *partial) {
    int64_t chunks = cpu_ceil_div(a->rows, GAMMA_ROWS), step = 64;
#pragma omp parallel for num_threads(d->threads) schedule(static)
    for (int64_t j = 0; j < a->cols; j += step)
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            for (int64_t i = j; i < cpu_min(a->cols, j + step); i++) a->dgamma[i] += partial[chunk * a->cols + i];
}

yx_status cpu_norm_backward(yx_device *d, yx_stream *stream, const yx_norm_backward_args *a) {
    (void)stream;
    yx_status status = YX_OK;
    if (a->cols <= 0 || !cpu_is_act(a->act) || (a->dx_operand.row == a->dx && a->dx_operand.dtype != a->act))
        YX_FAIL(YX_ERR_INTERNAL, "norm_backward: arguments break the contract");
    yx_real *partial = NULL;
    if (a->dgamma) {
        YX_CHECK(cpu_check_workspace(d, lay_out(a->rows, a->cols, NULL, &partial), "norm_backward"));
        lay_out(a->rows, a->cols, d->workspace, &partial);
    }
#pragma omp parallel num_threads(d->threads)
    {
        cpu_tally tally = {0};
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < cpu_ceil_div(a->rows, GAMMA_ROWS); chunk++) {
            yx_real *dgamma = partial ? partial + chunk * a->cols : NULL;
            if (dgamma) memset(dgamma, 0, (size_t)a->cols * sizeof *dgamma);
            int64_t end = cpu_min(a->rows, (chunk + 1) * GAMMA_ROWS);
            for (int64_t row = chunk * GAMMA_ROWS; row < end; row++) backward_row(a, row, dgamma, &tally);
        }
        tally_record(&tally, &a->dx_operand.quant);
    }
    if (partial) add_partials(d, a, partial);
fail:
    return status;
}

size_t cpu_norm_workspace(const yx_workspace_query *q) {
    yx_real *partial;
    return lay_out(q->rows, q->hidden, NULL, &partial);
}
