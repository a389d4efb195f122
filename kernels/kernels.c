#include "kernels/kernels.h"
#include "kernels/module.h"
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

// Backends that need a vendor's library are modules beside the program, so that it starts without them. The module
// yxanul_NAME.so exports kernels_NAME, which returns its table. It stays loaded.
static yx_status load_module(const char *name, const yx_ops **out) {
    char program[PATH_MAX], path[PATH_MAX + 64], symbol[64];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return yx_fail_errno("kernels: /proc/self/exe");
    program[length] = '\0';
    snprintf(path, sizeof path, "%s/yxanul_%s.so", dirname(program), name);
    snprintf(symbol, sizeof symbol, "kernels_%s", name);
    if (access(path, R_OK) != 0)
        return yx_fail(YX_ERR_UNAVAILABLE, "this build has no %s backend (%s is not there)", name, path);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) return yx_fail(YX_ERR_UNAVAILABLE, "the %s backend does not load: %s", name, dlerror());
    const yx_ops *(*table)(kernels_fail);
    *(void **)&table = dlsym(module, symbol);
    if (!table) return yx_fail(YX_ERR_UNAVAILABLE, "%s is not a backend: it has no %s", path, symbol);
    *out = table(yx_fail_at);
    return YX_OK;
}

yx_status kernels_find(const char *name, const yx_ops **out) {
    if (strcmp(name, "cpu") == 0) {
        *out = kernels_cpu();
        return YX_OK;
    }
    if (strcmp(name, "cuda") == 0) return load_module(name, out);
    return yx_fail(YX_ERR_UNAVAILABLE, "there is no backend \"%s\"; there are cpu and cuda", name);
}
