#include "io/prepare_pack.h"
#include <stdlib.h>
#include <string.h>

static yx_status reserve(prepare_pack *p) {
    if (p->waiting && p->lengths) return YX_OK;
    p->waiting = calloc(PACK_DOCUMENTS, sizeof *p->waiting);
    p->lengths = calloc(PACK_DOCUMENTS, sizeof *p->lengths);
    return p->waiting && p->lengths ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory to pack documents");
}

yx_status prepare_pack_push(prepare_pack *p, const encode_job *doc) {
    yx_status status = reserve(p);
    if (status != YX_OK) return status;
    uint32_t *ids = malloc(doc->count * sizeof *ids + 1);
    if (!ids) return yx_fail(YX_ERR_NO_MEMORY, "no memory for a document of %zu tokens", doc->count);
    if (doc->count > 0) memcpy(ids, doc->ids, doc->count * sizeof *ids);
    p->waiting[p->count] = *doc;
    p->waiting[p->count].ids = ids;
    p->waiting[p->count].text = NULL;
    p->lengths[p->count] = (int64_t)doc->count + 1;
    p->tokens += p->lengths[p->count++];
    p->bytes += (int64_t)doc->size;
    return YX_OK;
}

bool prepare_pack_is_full(const prepare_pack *p) { return p->count == PACK_DOCUMENTS || p->tokens > PACK_TOKENS; }

// Of equal ones the first: so the order does not depend on anything but the documents.
static int best_fit(const prepare_pack *p, int64_t room) {
    int fitting = -1, longest = 0;
    for (int i = 0; i < p->count; i++) {
        if (p->lengths[i] <= room && (fitting < 0 || p->lengths[i] > p->lengths[fitting])) fitting = i;
        if (p->lengths[i] > p->lengths[longest]) longest = i;
    }
    return fitting >= 0 ? fitting : longest;
}

encode_job prepare_pack_pop(prepare_pack *p, int64_t offset, int64_t window) {
    int i = best_fit(p, window - offset % window);
    encode_job doc = p->waiting[i];
    p->tokens -= p->lengths[i];
    p->bytes -= (int64_t)doc.size;
    p->count--;
    memmove(&p->waiting[i], &p->waiting[i + 1], (size_t)(p->count - i) * sizeof *p->waiting);
    memmove(&p->lengths[i], &p->lengths[i + 1], (size_t)(p->count - i) * sizeof *p->lengths);
    return doc;
}

void prepare_pack_free(prepare_pack *p) {
    for (int i = 0; i < p->count; i++) free(p->waiting[i].ids);
    free(p->waiting);
    free(p->lengths);
    memset(p, 0, sizeof *p);
}
