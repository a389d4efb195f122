#include "io/bpe_train_text.h"
#include "io/tokenizer_unicode.h"
#include <stdlib.h>

yx_status train_reader_open(train_reader *r, bpe_documents documents) {
    *r = (train_reader){.documents = documents};
    return yx_digest_begin(&r->digest);
}

static yx_status repair(train_reader *r, const uint8_t **text, size_t *size) {
    if (unicode_valid_prefix(*text, *size) == *size) return YX_OK;
    if (*size * 3 > r->repaired_capacity) {
        free(r->repaired);
        r->repaired_capacity = *size * 3;
        r->repaired = malloc(r->repaired_capacity);
        if (!r->repaired) r->repaired_capacity = 0;
        if (!r->repaired) return yx_fail(YX_ERR_NO_MEMORY, "no memory for %zu bytes of text", *size * 3);
    }
    *size = unicode_repair(*text, *size, r->repaired);
    *text = r->repaired;
    return YX_OK;
}

yx_status train_reader_next(train_reader *r, const uint8_t **text, size_t *size) {
    yx_status status = YX_OK;
    const char *document = NULL;
    *text = NULL;
    *size = 0;
    YX_CHECK(r->documents.next(r->documents.context, &document, size));
    if (!document) return yx_digest_end(&r->digest, r->seen.sha256);
    *text = (const uint8_t *)document;
    YX_CHECK(repair(r, text, size));
    YX_CHECK(yx_digest_add(&r->digest, *text, *size));
    YX_CHECK(yx_digest_add(&r->digest, "\xff", 1)); // in no text: the documents' ends count
    r->seen.documents++;
    r->seen.bytes += (int64_t)*size;
fail:
    return status;
}

void train_reader_close(train_reader *r) {
    yx_digest_free(&r->digest);
    free(r->repaired);
    *r = (train_reader){0};
}
