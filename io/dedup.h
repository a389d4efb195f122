// Near-duplicate documents: MinHash over word 5-grams (Broder 1997) with locality-sensitive hashing in bands (Indyk and
// Motwani 1998), 14 bands of 8 as FineWeb uses. Two documents whose sets of 5-grams have the Jaccard similarity s share
// a band with probability 1 - (1 - s^8)^14: 5 % at 0.5, 56 % at 0.7, 92 % at 0.8, over 99.9 % at 0.9.
#pragma once
#include "common/status.h"
#include <stdint.h>

enum { DEDUP_BANDS = 14, DEDUP_ROWS = 8, DEDUP_WORDS = 5 };

// A hash of each band. Words are runs of ASCII letters (case is folded), digits and non-ASCII characters. False: the
// text has no word. Depends on nothing but the text.
bool dedup_sign(const char *text, size_t size, uint64_t bands[DEDUP_BANDS]);

// The bands of the documents that are kept, also in a file, so that a later process can go on: one thread at a time.
typedef struct dedup_index dedup_index;

// Takes the first `documents` entries of the file and drops what is behind them; 0 starts a new file. A file with fewer
// is YX_ERR_DATA.
yx_status dedup_index_open(const char *path, int64_t documents, dedup_index **out);
void dedup_index_close(dedup_index *d);
// A band of this document is one of an earlier document.
bool dedup_index_has(const dedup_index *d, const uint64_t bands[DEDUP_BANDS]);
yx_status dedup_index_add(dedup_index *d, const uint64_t bands[DEDUP_BANDS]);
// Everything added is on disk; `*documents`: how many that are.
yx_status dedup_index_sync(dedup_index *d, int64_t *documents);
