// --set KEY=VALUE: changes to the tree before it is read.
#pragma once
#include "io/config_node.h"

// Applies one "a.b.c=value". A list's elements are named by index from 0, all of them by "*". Later errors about the
// value name the option. A group that does not exist is made; names are checked when the tree is read.
yx_status config_set(config_tree *tree, config_node *root, const char *assignment);
