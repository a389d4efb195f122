// Reading a text for training: documents as valid UTF-8, and what tells the text from another one.
#pragma once
#include "io/bpe_train_record.h"

typedef struct train_reader {
    bpe_documents documents;
    yx_digest digest;
    text_identity seen;
    uint8_t *repaired;
    size_t repaired_capacity;
} train_reader;

yx_status train_reader_open(train_reader *r, bpe_documents documents);
// The next document, valid until the next call; *text == NULL behind the last one, when `seen` is complete.
yx_status train_reader_next(train_reader *r, const uint8_t **text, size_t *size);
void train_reader_close(train_reader *r);
