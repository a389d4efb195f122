// SIGTERM, SIGINT, SIGUSR1 and SIGHUP (unless it was ignored) ask the run to stop at the next step boundary; a second
// SIGINT ends the process at once.
#pragma once
#include <stdbool.h>

void stop_install(void);
bool stop_requested(void);
