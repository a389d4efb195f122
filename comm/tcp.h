// A group over plain TCP: for starts without MPI. Private to comm/.
//
// Every rank has a connection to every other. They meet at rank 0 (HOST:PORT that it listens on, or a file in which it
// leaves its address), which tells all where the others listen. A rank that ends is noticed at once, a host or link
// that falls silent after YX_LINK_TIMEOUT seconds (30), a rank that does not come to an exchange after
// YX_COMM_TIMEOUT seconds (1800); the message names it.
#pragma once
#include "comm/group_module.h"
#include "comm/launch.h"
#include <netinet/in.h>

typedef struct tcp_peer {
    int fd;         // -1: this rank itself, or not connected
    char node[256]; // launch_info.node
    char address[64];
} tcp_peer;

typedef struct tcp_mesh {
    int rank, size;
    tcp_peer *peers; // [size]
    uint32_t exchanges;
    double link_timeout, timeout; // seconds
    bool has_lost;                // a rank has ended, fallen silent or not come
} tcp_mesh;

// Meets the others; all or nothing.
yx_status tcp_meet(const launch_info *launch, tcp_mesh *mesh);
void tcp_leave(tcp_mesh *mesh);

// For every other rank: sends out[r] and fills in[r] (NULL or 0 bytes: nothing that way). `what` names the exchange.
typedef struct tcp_part {
    const char *out;
    char *in;
    size_t out_bytes, in_bytes;
} tcp_part;
yx_status tcp_exchange(tcp_mesh *mesh, const char *what, const tcp_part *parts);

// Sockets (tcp_socket.c).
yx_status tcp_listen(int port, int *fd, int *bound_port); // port 0: any; not blocking
yx_status tcp_connect(const char *host, int port, double deadline, int *fd);
// The next connection; blocking reads and writes below.
yx_status tcp_accept(int listener, double deadline, int *fd);
yx_status tcp_write_all(int fd, const void *data, size_t bytes, double deadline);
yx_status tcp_read_all(int fd, void *data, size_t bytes, double deadline);
// Notices a silent other side after `seconds`; no delay for small messages; not blocking.
yx_status tcp_prepare(int fd, double seconds);
double tcp_now(void);

const group_module *tcp_module(void);
