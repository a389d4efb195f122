#include "io/safetensors.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, HEADER_ALIGN = 8 }; // values converted at a time; bytes

struct safetensors_file {
    FILE *file;
    char *path;
    yx_dtype dtype;
    int64_t values, written; // of all tensors; so far
    yx_bf16 chunk[CHUNK];
};

static int64_t size_of(const safetensors_tensor *t) { return t->rows * (t->cols ? t->cols : 1); }

static json_t *describe(yx_dtype dtype, const safetensors_tensor *tensors, int64_t count, int64_t *values) {
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    int64_t size = (int64_t)yx_dtype_size(dtype);
    *values = 0;
    for (int64_t i = 0; header && i < count; i++) {
        const safetensors_tensor *t = &tensors[i];
        int64_t end = *values + size_of(t);
        json_t *shape = t->cols ? json_pack("[I, I]", (json_int_t)t->rows, (json_int_t)t->cols)
                                : json_pack("[I]", (json_int_t)t->rows);
        int failed = json_object_set_new(header, t->name,
                                         json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype == YX_BF16 ? "BF16" : "F32",
                                                   "shape", shape, "data_offsets", (json_int_t)(*values * size),
                                                   (json_int_t)(end * size)));
        *values = end;
        if (!failed) continue;
        json_decref(header);
        return NULL;
    }
    return header;
}

// Padded with spaces, so that the values are aligned.
static yx_status write_header(safetensors_file *f, const json_t *header) {
    char *text = json_dumps(header, JSON_COMPACT);
    if (!text) return yx_fail(YX_ERR_NO_MEMORY, "no memory for the header of %s", f->path);
    size_t length = strlen(text), padded = (length + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    bool wrote = fwrite(prefix, 1, 8, f->file) == 8 &&
                 fprintf(f->file, "%s%*s", text, (int)(padded - length), "") == (int)padded;
    free(text);
    return wrote ? YX_OK : yx_fail_errno("cannot write %s", f->path);
}

yx_status safetensors_create(const char *path, yx_dtype dtype, const safetensors_tensor *tensors, int64_t count,
                             safetensors_file **out) {
    yx_status status = YX_OK;
    json_t *header = NULL;
    safetensors_file *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f || !(f->path = strdup(path))) YX_FAIL(YX_ERR_NO_MEMORY, "no memory to write %s", path);
    f->dtype = dtype;
    header = describe(dtype, tensors, count, &f->values);
    if (!header) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for the header of %s", path);
    if (!(f->file = fopen(path, "wb"))) {
        status = yx_fail_errno("cannot create %s", path);
        goto fail;
    }
    YX_CHECK(write_header(f, header));
    *out = f;
fail:
    json_decref(header);
    if (status != YX_OK) safetensors_close(f);
    return status;
}

yx_status safetensors_append(safetensors_file *f, const float *values, int64_t count) {
    if (count > f->values - f->written)
        return yx_fail(YX_ERR_INTERNAL, "%s: more values than its header says", f->path);
    f->written += count;
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < CHUNK ? count - done : CHUNK;
        const void *from = values + done;
        size_t size = yx_dtype_size(f->dtype);
        for (int64_t i = 0; f->dtype == YX_BF16 && i < n; i++) f->chunk[i] = yx_bf16_from_float(values[done + i]);
        if (f->dtype == YX_BF16) from = f->chunk;
        if (fwrite(from, size, (size_t)n, f->file) != (size_t)n) return yx_fail_errno("cannot write %s", f->path);
        done += n;
    }
    return YX_OK;
}

yx_status safetensors_finish(safetensors_file *f) {
    if (f->written != f->values) return yx_fail(YX_ERR_INTERNAL, "%s: values are missing", f->path);
    if (fflush(f->file) != 0 || fsync(fileno(f->file)) != 0) return yx_fail_errno("cannot write %s", f->path);
    return YX_OK;
}

void safetensors_close(safetensors_file *f) {
    if (!f) return;
    if (f->file) fclose(f->file);
    free(f->path);
    free(f);
}
