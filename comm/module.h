// Modules of this program: shared libraries beside it, or where the loader looks. Private to comm/.
#pragma once

void *module_open_library(const char *file); // NULL: module_load_error says why
const char *module_load_error(void);
void *module_symbol(void *library, const char *name); // NULL: it has no such symbol
