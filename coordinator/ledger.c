#include "coordinator/ledger.h"
#include "common/hash.h"
#include <stdio.h>
#include <string.h>

yx_status ledger_create(ledger *out) {
    *out = (ledger){.entries = json_array()};
    return out->entries ? YX_OK : yx_fail(YX_ERR_NO_MEMORY, "no memory for the ledger");
}

void ledger_free(ledger *l) {
    json_decref(l->entries);
    l->entries = NULL;
}

static uint64_t chain(uint64_t hash, int64_t step, const char *event, const char *detail) {
    char text[512];
    int n = snprintf(text, sizeof text, "%lld|%s|%s", (long long)step, event, detail);
    return yx_hash64(text, n < (int)sizeof text ? (size_t)n : sizeof text - 1, hash);
}

yx_status ledger_append(ledger *l, int64_t step, const char *event, const char *detail) {
    char hex[17];
    l->hash = chain(l->hash, step, event, detail);
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)l->hash);
    json_t *entry =
        json_pack("{s:I, s:s, s:s, s:s}", "step", (json_int_t)step, "event", event, "detail", detail, "hash", hex);
    if (!entry || json_array_append_new(l->entries, entry) != 0)
        return yx_fail(YX_ERR_NO_MEMORY, "no memory for a ledger entry");
    return YX_OK;
}

yx_status ledger_load(ledger *l, const json_t *entries) {
    yx_status status = YX_OK;
    size_t i;
    json_t *entry;
    ledger loaded = {0};
    YX_CHECK(ledger_create(&loaded));
    if (!json_is_array(entries)) YX_FAIL(YX_ERR_DATA, "the checkpoint's ledger is not a list");
    json_array_foreach((json_t *)entries, i, entry) {
        const char *event, *detail, *hash;
        json_int_t step;
        if (json_unpack(entry, "{s:I, s:s, s:s, s:s}", "step", &step, "event", &event, "detail", &detail, "hash",
                        &hash))
            YX_FAIL(YX_ERR_DATA, "entry %zu of the checkpoint's ledger is malformed", i);
        YX_CHECK(ledger_append(&loaded, step, event, detail));
        if (strcmp(json_string_value(json_object_get(json_array_get(loaded.entries, i), "hash")), hash) != 0)
            YX_FAIL(YX_ERR_DATA, "entry %zu of the checkpoint's ledger does not continue the ones before it", i);
    }
    ledger_free(l);
    *l = loaded;
    return YX_OK;
fail:
    ledger_free(&loaded);
    return status;
}

void ledger_each(const ledger *l, const char *event, void (*take)(void *context, const char *detail), void *context) {
    size_t i;
    json_t *entry;
    json_array_foreach(l->entries, i, entry) {
        if (strcmp(json_string_value(json_object_get(entry, "event")), event) == 0)
            take(context, json_string_value(json_object_get(entry, "detail")));
    }
}

int64_t ledger_in_a_row(const ledger *l, const char *event, int64_t step) {
    int64_t count = 0;
    for (size_t i = json_array_size(l->entries); i > 0; i--) {
        const json_t *entry = json_array_get(l->entries, i - 1);
        int64_t at = json_integer_value(json_object_get(entry, "step"));
        if (at < step - count) break;
        if (at == step - count && strcmp(json_string_value(json_object_get(entry, "event")), event) == 0) count++;
    }
    return count;
}
