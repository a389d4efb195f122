#include "comm/module.h"
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char reason[512];

static void *open_one(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL); // global: MPI's own modules look for its symbols
    if (!library) snprintf(reason, sizeof reason, "%s", dlerror());
    return library;
}

void *module_open_library(const char *file) {
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - NAME_MAX - 2);
    if (length > 0) {
        path[length] = 0;
        char *folder = dirname(path);
        memmove(path, folder, strlen(folder) + 1);
        strcat(path, "/");
        strcat(path, file);
        void *library = open_one(path);
        if (library || access(path, F_OK) == 0) return library;
    }
    return open_one(file);
}

const char *module_load_error(void) { return reason; }
void *module_symbol(void *library, const char *name) { return dlsym(library, name); }
