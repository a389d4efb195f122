// The relations between values that are each fine by themselves.
#pragma once
#include "io/config_node.h"
#include "io/config.h"

// `root` is where messages look up the places.
yx_status config_check(const config_node *root, const yx_config *config);
