// Memory for tables of megabytes that are read at random: on large pages where the system has them, which spares most
// of the address translations.
#pragma once
#include <stddef.h>

// Uninitialised; NULL when there is none. To free().
void *table_alloc(size_t size);
