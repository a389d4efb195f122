// The table of all keys. Reading, --set, writing, the reference and the identity go through it, so a key exists
// everywhere or nowhere.
#pragma once
#include "io/config.h"

// The groups of keys, in the order they are written.
typedef enum config_section {
    SECTION_ROOT,
    SECTION_MODEL,
    SECTION_DATA,
    SECTION_TRAINING,
    SECTION_STAGE, // an element of training.curriculum_stages
    SECTION_EVALUATION,
    SECTION_CHECKPOINT,
    SECTION_LOGGING,
    SECTION_COUNT
} config_section;

typedef struct config_section_info {
    const char *name; // as it stands in its parent
    const char *path; // from the root, "" for the root
    const char *meaning;
} config_section_info;

typedef enum config_type { TYPE_INT, TYPE_REAL, TYPE_BOOL, TYPE_NAME, TYPE_TEXT } config_type;

typedef struct config_key {
    config_section section;
    const char *name;
    config_type type;
    size_t offset;        // in yx_config, or in config_stage
    const char *fallback; // default as it would be written; NULL: required, or optional
    bool optional;        // without a default: `absent` is stored, or an empty text
    double absent;
    double min, max;                          // of numbers
    bool above_min;                           // min itself is not allowed
    int64_t multiple;                         // numbers are multiples of this; 0: any
    const char *const *names;                 // of TYPE_NAME, by value, ending in NULL
    bool identity;                            // a resumed run may not change it
    bool (*applies)(const yx_config *config); // NULL: always
    const char *only_with;                    // what `applies` asks for, in words
    const char *meaning;                      // one line
} config_key;

extern const config_key config_keys[];
extern const int config_num_keys;
extern const config_section_info config_sections[SECTION_COUNT];

// The key `name` of a section, or NULL.
const config_key *config_key_find(config_section section, const char *name);
// The group that stands under `name` in `parent`, or SECTION_COUNT.
config_section config_section_find(config_section parent, const char *name);
// What somebody who wrote `name` in `section` may have meant: the path of a key or group; NULL when nothing is near.
const char *config_key_nearest(config_section section, const char *name, char *out, size_t size);
// " seq_len batch_size …": all keys and groups of a section.
void config_known_names(config_section section, char *out, size_t size);
// "training.curriculum_stages.3.seq_len"; `index` counts for SECTION_STAGE.
void config_key_path(const config_key *key, int64_t index, char *out, size_t size);
// Where the key's value is: `base` is a yx_config, or the config_stage for SECTION_STAGE.
void *config_key_at(const config_key *key, void *base);
// The shortest decimal that reads back as the same number.
void config_format_real(double value, char *out, size_t size);
// The value as it is written in YAML; false when it is absent. `out` holds two CONFIG_MAX_TEXT.
bool config_key_format(const config_key *key, const void *base, char *out, size_t size);
