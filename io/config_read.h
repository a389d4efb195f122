// From the tree to the structure, by the table of keys: names, types, ranges, defaults.
#pragma once
#include "io/config_keys.h"
#include "io/config_node.h"

// Fills all of `out`. A group or key that is unknown, missing, of the wrong type or out of range is YX_ERR_CONFIG with
// its place. A key that is set but has no effect beside the others gets a warning and its default.
yx_status config_read(const config_node *root, yx_config *out);
