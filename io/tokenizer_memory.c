#include "io/tokenizer_memory.h"
#include <stdlib.h>
#include <sys/mman.h>

enum { LARGE_PAGE = 2 << 20 };

void *table_alloc(size_t size) {
    if (size < LARGE_PAGE / 2) return malloc(size ? size : 1);
    size_t rounded = (size + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void *table = aligned_alloc(LARGE_PAGE, rounded);
    if (table) madvise(table, rounded, MADV_HUGEPAGE); // a wish: without large pages everything works as well
    return table;
}
