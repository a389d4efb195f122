// How the ranks of a group over TCP find each other.
#include "common/file.h"
#include "comm/tcp.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC "yxmeet1"
enum { MOST_ADDRESSES = 16, ATTEMPT_SECONDS = 5 };

typedef struct hello { // from every rank to rank 0, and to the others it then connects to
    char magic[8], token[96];
    int32_t rank, size, port; // where it listens
    char node[256];
} hello;

typedef struct place { // of each rank: from rank 0 to all
    char address[64];  // empty: the machine of rank 0
    int32_t port;
    char node[256];
} place;

typedef struct answer {
    char refusal[256]; // empty: the places follow
} answer;

typedef struct meeting {
    const launch_info *launch;
    tcp_mesh *mesh;
    double begun, patience, deadline;
    int listener, port;
    place *places; // [size]
} meeting;

static bool in_file(const meeting *m) { return strncmp(m->launch->rendezvous, "file:", 5) == 0; }
static const char *file_of(const meeting *m) { return m->launch->rendezvous + 5; }

// HOST:PORT or [IPv6]:PORT
static yx_status split_rendezvous(const char *text, char *host, size_t bytes, int *port) {
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    long value = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == text || *end || value < 1 || value > 65535)
        return yx_fail(YX_ERR_USAGE, "the rendezvous '%s' is neither HOST:PORT nor file:PATH", text);
    const char *from = *text == '[' ? text + 1 : text;
    size_t n = (size_t)(colon - from) - (*text == '[' && colon[-1] == ']');
    snprintf(host, bytes, "%.*s", (int)n, from);
    *port = (int)value;
    return YX_OK;
}

// The other side's address; empty for this machine's loopback.
static void address_of(int fd, char *out, size_t bytes) {
    struct sockaddr_storage at;
    socklen_t length = sizeof at;
    char text[64] = "";
    if (getpeername(fd, (struct sockaddr *)&at, &length) == 0)
        getnameinfo((struct sockaddr *)&at, length, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    const char *plain = strncmp(text, "::ffff:", 7) == 0 ? text + 7 : text;
    bool loopback = strncmp(plain, "127.", 4) == 0 || strcmp(plain, "::1") == 0;
    snprintf(out, bytes, "%s", loopback ? "" : plain);
}

static void fill_hello(const meeting *m, hello *h) {
    memset(h, 0, sizeof *h);
    memcpy(h->magic, MAGIC, sizeof MAGIC);
    snprintf(h->token, sizeof h->token, "%s", m->launch->token);
    snprintf(h->node, sizeof h->node, "%s", m->launch->node);
    h->rank = m->mesh->rank, h->size = m->mesh->size, h->port = m->port;
}

// Somebody of this start.
static bool is_ours(const meeting *m, const hello *h) {
    return memcmp(h->magic, MAGIC, sizeof MAGIC) == 0 && strncmp(h->token, m->launch->token, sizeof h->token) == 0;
}

// --- Rank 0
static void list_missing(const meeting *m, char *out, size_t bytes) {
    size_t used = 0;
    int missing = 0;
    for (int r = 1; r < m->mesh->size; r++) {
        if (m->mesh->peers[r].fd >= 0) continue;
        if (missing++ < 8 && used < bytes)
            used += (size_t)snprintf(out + used, bytes - used, "%s%d", missing > 1 ? ", " : "", r);
    }
    if (missing > 8 && used < bytes) snprintf(out + used, bytes - used, " and %d more", missing - 8);
}

// Why a rank cannot take part; empty: it can.
static void judge(const meeting *m, const hello *h, char *refusal, size_t bytes) {
    *refusal = 0;
    if (h->size != m->mesh->size)
        snprintf(refusal, bytes, "rank %d was started as one of %d, rank 0 as one of %d", h->rank, h->size,
                 m->mesh->size);
    else if (h->rank < 1 || h->rank >= m->mesh->size || m->mesh->peers[h->rank].fd >= 0)
        snprintf(refusal, bytes, "two processes say that they are rank %d", h->rank);
}

static yx_status receive_one(meeting *m, int fd) {
    yx_status status = YX_OK;
    hello h;
    answer reply = {""};
    double patience = tcp_now() + ATTEMPT_SECONDS;
    if (tcp_read_all(fd, &h, sizeof h, patience) != YX_OK || !is_ours(m, &h)) { // a stranger: not ours to judge
        close(fd);
        return YX_OK;
    }
    h.node[sizeof h.node - 1] = 0;
    judge(m, &h, reply.refusal, sizeof reply.refusal);
    if (reply.refusal[0]) {
        tcp_write_all(fd, &reply, sizeof reply, patience);
        close(fd);
        return yx_fail(YX_ERR_COMM, "%s", reply.refusal);
    }
    m->mesh->peers[h.rank].fd = fd;
    place *p = &m->places[h.rank];
    p->port = h.port;
    memcpy(p->node, h.node, sizeof p->node);
    address_of(fd, p->address, sizeof p->address);
    return status;
}

static yx_status receive_all(meeting *m) {
    yx_status status = YX_OK;
    char missing[128];
    for (int arrived = 1; arrived < m->mesh->size;) {
        int fd;
        if (tcp_accept(m->listener, m->deadline, &fd) != YX_OK) {
            list_missing(m, missing, sizeof missing);
            YX_FAIL(YX_ERR_COMM, "rank %s of %d did not come to %s within %.0f s (YX_RENDEZVOUS_TIMEOUT)", missing,
                    m->mesh->size, m->launch->rendezvous, m->patience);
        }
        YX_CHECK(receive_one(m, fd));
        arrived = 1;
        for (int r = 1; r < m->mesh->size; r++) arrived += m->mesh->peers[r].fd >= 0;
    }
fail:
    return status;
}

// The addresses of this machine, the port and the token, for ranks that see the file.
static yx_status write_file(const meeting *m) {
    char text[MOST_ADDRESSES * 64 + 64], address[64];
    struct ifaddrs *all, *at;
    size_t used = (size_t)snprintf(text, sizeof text, "%d\n", m->port);
    if (getifaddrs(&all) != 0) return yx_fail_errno("cannot list this machine's addresses");
    for (int loopback = 0; loopback < 2; loopback++)
        for (at = all; at; at = at->ifa_next) {
            if (!at->ifa_addr || !(at->ifa_flags & IFF_UP) || !!(at->ifa_flags & IFF_LOOPBACK) != loopback) continue;
            int family = at->ifa_addr->sa_family;
            socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
            if ((family != AF_INET && family != AF_INET6) || used > sizeof text - 80) continue;
            if (getnameinfo(at->ifa_addr, length, address, sizeof address, NULL, 0, NI_NUMERICHOST) == 0)
                used += (size_t)snprintf(text + used, sizeof text - used, "%s\n", address);
        }
    freeifaddrs(all);
    return yx_write_file_atomic(file_of(m), text, used);
}

static yx_status lead(meeting *m) {
    yx_status status = YX_OK;
    char host[256];
    answer reply = {""};
    size_t bytes = (size_t)m->mesh->size * sizeof *m->places;
    int port = 0;
    if (!in_file(m)) YX_CHECK(split_rendezvous(m->launch->rendezvous, host, sizeof host, &port));
    YX_CHECK(tcp_listen(port, &m->listener, &m->port));
    if (in_file(m)) YX_CHECK(write_file(m));
    status = receive_all(m);
    if (in_file(m)) unlink(file_of(m));
    if (status != YX_OK) goto fail;
    snprintf(m->places[0].node, sizeof m->places[0].node, "%s", m->launch->node);
    for (int r = 1; r < m->mesh->size; r++) {
        YX_CHECK(tcp_write_all(m->mesh->peers[r].fd, &reply, sizeof reply, m->deadline));
        YX_CHECK(tcp_write_all(m->mesh->peers[r].fd, m->places, bytes, m->deadline));
    }
fail:
    return status;
}

// --- The others

// One attempt at one address of rank 0: YX_OK with `*refused` false and no connection: not there (yet).
static yx_status knock(meeting *m, const char *host, int port, bool *met) {
    yx_status status = YX_OK;
    hello h;
    answer reply;
    int fd = -1;
    double attempt = tcp_now() + ATTEMPT_SECONDS;
    *met = false;
    if (tcp_connect(host, port, attempt < m->deadline ? attempt : m->deadline, &fd) != YX_OK) return YX_OK;
    fill_hello(m, &h);
    if (tcp_write_all(fd, &h, sizeof h, m->deadline) != YX_OK ||
        tcp_read_all(fd, &reply, sizeof reply, m->deadline) != YX_OK) {
        close(fd); // another program's port, or one that has ended
        return YX_OK;
    }
    reply.refusal[sizeof reply.refusal - 1] = 0;
    if (reply.refusal[0]) YX_FAIL(YX_ERR_COMM, "%s", reply.refusal);
    YX_CHECK(tcp_read_all(fd, m->places, (size_t)m->mesh->size * sizeof *m->places, m->deadline));
    m->mesh->peers[0].fd = fd;
    *met = true;
    return YX_OK;
fail:
    close(fd);
    return status;
}

static yx_status knock_by_file(meeting *m, bool *met) {
    yx_status status = YX_OK;
    char *text = NULL, *next;
    size_t bytes;
    *met = false;
    if (access(file_of(m), R_OK) != 0 || yx_read_file(file_of(m), 4096, &text, &bytes) != YX_OK) return YX_OK;
    int port = (int)strtol(text, &next, 10);
    for (char *line = strtok_r(next, "\n", &next); line && !*met && status == YX_OK; line = strtok_r(NULL, "\n", &next))
        if (port > 0) status = knock(m, line, port, met);
    free(text);
    return status;
}

static yx_status follow(meeting *m) {
    yx_status status = YX_OK;
    char host[256];
    int port = 0;
    bool met = false;
    if (!in_file(m)) YX_CHECK(split_rendezvous(m->launch->rendezvous, host, sizeof host, &port));
    YX_CHECK(tcp_listen(0, &m->listener, &m->port));
    while (!met) {
        YX_CHECK(in_file(m) ? knock_by_file(m, &met) : knock(m, host, port, &met));
        if (met) break;
        if (tcp_now() >= m->deadline)
            YX_FAIL(YX_ERR_COMM, "rank %d of %d did not meet rank 0 at %s within %.0f s (YX_RENDEZVOUS_TIMEOUT): %s",
                    m->mesh->rank, m->mesh->size, m->launch->rendezvous, m->patience,
                    in_file(m) && access(file_of(m), R_OK) != 0 ? "the file never came" : yx_message());
        usleep(100000);
    }
fail:
    return status;
}

// --- All
static yx_status connect_lower(meeting *m) {
    yx_status status = YX_OK;
    char leader[64];
    hello h;
    fill_hello(m, &h);
    if (m->mesh->rank > 0) address_of(m->mesh->peers[0].fd, leader, sizeof leader);
    for (int r = 1; r < m->mesh->rank; r++) {
        const place *p = &m->places[r];
        const char *host = p->address[0] ? p->address : leader[0] ? leader : "localhost";
        YX_CHECK(tcp_connect(host, p->port, m->deadline, &m->mesh->peers[r].fd));
        YX_CHECK(tcp_write_all(m->mesh->peers[r].fd, &h, sizeof h, m->deadline));
    }
fail:
    return status;
}

static yx_status accept_higher(meeting *m) {
    yx_status status = YX_OK;
    for (int waiting = m->mesh->rank == 0 ? 0 : m->mesh->size - 1 - m->mesh->rank; waiting > 0;) {
        int fd;
        hello h;
        YX_CHECK(tcp_accept(m->listener, m->deadline, &fd));
        if (tcp_read_all(fd, &h, sizeof h, m->deadline) != YX_OK || !is_ours(m, &h) || h.rank <= m->mesh->rank ||
            h.rank >= m->mesh->size || m->mesh->peers[h.rank].fd >= 0) {
            close(fd);
            continue;
        }
        m->mesh->peers[h.rank].fd = fd;
        waiting--;
    }
fail:
    return status;
}

static yx_status settle(meeting *m) {
    yx_status status = YX_OK;
    for (int r = 0; r < m->mesh->size; r++) {
        tcp_peer *p = &m->mesh->peers[r];
        m->places[r].node[sizeof p->node - 1] = 0;
        memcpy(p->node, m->places[r].node, sizeof p->node);
        if (p->fd < 0) continue;
        address_of(p->fd, p->address, sizeof p->address);
        YX_CHECK(tcp_prepare(p->fd, m->mesh->link_timeout));
    }
fail:
    return status;
}

yx_status tcp_meet(const launch_info *launch, tcp_mesh *mesh) {
    yx_status status = YX_OK;
    meeting m = {.launch = launch, .mesh = mesh, .begun = tcp_now(), .listener = -1};
    *mesh = (tcp_mesh){.rank = launch->rank, .size = launch->size};
    YX_CHECK(launch_seconds("YX_LINK_TIMEOUT", 30, &mesh->link_timeout));
    mesh->timeout = launch->patience;
    YX_CHECK(launch_seconds("YX_RENDEZVOUS_TIMEOUT", 300, &m.patience));
    m.deadline = m.begun + m.patience;
    mesh->peers = calloc((size_t)launch->size, sizeof *mesh->peers);
    m.places = calloc((size_t)launch->size, sizeof *m.places);
    if (!mesh->peers || !m.places) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for %d ranks", launch->size);
    for (int r = 0; r < launch->size; r++) mesh->peers[r].fd = -1;
    YX_CHECK(launch->rank == 0 ? lead(&m) : follow(&m));
    YX_CHECK(connect_lower(&m));
    YX_CHECK(accept_higher(&m));
    YX_CHECK(settle(&m));
fail:
    if (m.listener >= 0) close(m.listener);
    free(m.places);
    if (status != YX_OK) tcp_leave(mesh);
    return status;
}

void tcp_leave(tcp_mesh *mesh) {
    for (int r = 0; mesh->peers && r < mesh->size; r++)
        if (mesh->peers[r].fd >= 0) close(mesh->peers[r].fd);
    free(mesh->peers);
    mesh->peers = NULL;
}
