#include "coordinator/stop.h"
#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t requested;

static void on_signal(int signal_number) {
    requested = 1;
    if (signal_number == SIGINT) signal(SIGINT, SIG_DFL);
}

void stop_install(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN); // who read the messages has gone: the run goes on
    struct sigaction before;  // a terminal that is closed stops the run, unless nohup said that it does not matter
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL);
}

bool stop_requested(void) { return requested != 0; }
