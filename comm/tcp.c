// What a group over TCP exchanges. Bodies go out only to a rank that has come to the same exchange: so nothing stays in
// a connection's buffers while a rank computes, and one that falls silent is a failure.
#include "comm/tcp.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATIENCE = 5 }; // seconds

typedef struct head { // before each part
    uint64_t bytes;
    uint32_t exchange;
    char what[4];
} head;

typedef struct progress { // with one other rank
    head out, in;
    size_t sent, received; // of head and body
} progress;

static tcp_mesh world;

static yx_status lost(tcp_mesh *m, int r, const char *what, int error) {
    const tcp_peer *p = &m->peers[r];
    m->has_lost = true;
    const char *at = p->address[0] ? p->address : "this host";
    if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH)
        return yx_fail(YX_ERR_COMM,
                       "rank %d (%s, %s) has been silent for %.0f s during %s: its host or the link to it is down", r,
                       p->node, at, m->link_timeout, what);
    return yx_fail(YX_ERR_COMM, "rank %d (%s, %s) has ended during %s%s%s", r, p->node, at, what, error ? ": " : "",
                   error ? strerror(error) : "");
}

// Moves what can be moved without waiting; false with errno (0: the other side has closed).
static bool move(int fd, char *data, size_t bytes, size_t *done, bool out) {
    while (*done < bytes) {
        ssize_t n =
            out ? send(fd, data + *done, bytes - *done, MSG_NOSIGNAL) : recv(fd, data + *done, bytes - *done, 0);
        if (n > 0) *done += (size_t)n;
        else if (n == 0) return errno = 0, false;
        else if (errno == EAGAIN || errno == EINTR) return true;
        else return false;
    }
    return true;
}

// Head, then body: `*done` counts both.
static bool move_part(int fd, head *h, char *body, size_t *done, bool out) {
    if (*done < sizeof *h && !move(fd, (char *)h, sizeof *h, done, out)) return false;
    if (*done < sizeof *h) return true;
    size_t of_body = *done - sizeof *h;
    bool good = h->bytes == 0 || move(fd, body, h->bytes, &of_body, out);
    *done = of_body + sizeof *h;
    return good;
}

static bool has_head(const progress *p) { return p->received >= sizeof p->in; }
static bool is_done(const progress *p) {
    return has_head(p) && p->sent == sizeof p->out + p->out.bytes && p->received == sizeof p->in + p->in.bytes;
}

static yx_status advance(tcp_mesh *m, int r, const char *what, const tcp_part *part, progress *p) {
    int fd = m->peers[r].fd;
    if (!has_head(p)) {
        if (!move(fd, (char *)&p->in, sizeof p->in, &p->received, false)) return lost(m, r, what, errno);
        if (has_head(p) && (p->in.exchange != p->out.exchange ||
                            memcmp(p->in.what, p->out.what, sizeof p->in.what) != 0 || p->in.bytes != part->in_bytes))
            return yx_fail(
                YX_ERR_COMM,
                "rank %d (%s) is in another exchange (%.4s, number %u, %llu bytes) than this rank (%s, number %u, "
                "%zu bytes): do all ranks run the same program?",
                r, m->peers[r].node, p->in.what, p->in.exchange, (unsigned long long)p->in.bytes, what, p->out.exchange,
                part->in_bytes);
    }
    if (has_head(p) && !move_part(fd, &p->in, part->in, &p->received, false)) return lost(m, r, what, errno);
    if (!has_head(p)) { // only the head may go out
        if (p->sent < sizeof p->out && !move(fd, (char *)&p->out, sizeof p->out, &p->sent, true))
            return lost(m, r, what, errno);
    } else if (!move_part(fd, &p->out, (char *)part->out, &p->sent, true)) return lost(m, r, what, errno);
    return YX_OK;
}

// Waits until something can move; `*idle` is when it last did.
static yx_status wait_for_some(tcp_mesh *m, const char *what, const progress *all, struct pollfd *polls, double since) {
    int waiting = -1;
    for (int r = 0; r < m->size; r++) {
        const progress *p = &all[r];
        polls[r] = (struct pollfd){.fd = r == m->rank || is_done(p) ? -1 : m->peers[r].fd, .events = POLLIN};
        if (polls[r].fd >= 0 && waiting < 0) waiting = r;
        size_t may_go = sizeof p->out + (has_head(p) ? p->out.bytes : 0);
        if (polls[r].fd >= 0 && p->sent < may_go) polls[r].events |= POLLOUT;
    }
    if (waiting < 0) return YX_OK;
    poll(polls, (nfds_t)m->size, 1000);
    if (tcp_now() - since < m->timeout) return YX_OK;
    m->has_lost = true;
    return yx_fail(YX_ERR_COMM, "rank %d (%s) did not come to %s within %.0f s (YX_COMM_TIMEOUT)", waiting,
                   m->peers[waiting].node, what, m->timeout);
}

yx_status tcp_exchange(tcp_mesh *m, const char *what, const tcp_part *parts) {
    yx_status status = YX_OK;
    progress *all = calloc((size_t)m->size, sizeof *all);
    struct pollfd *polls = calloc((size_t)m->size, sizeof *polls);
    double since = tcp_now();
    size_t moved = 0;
    m->exchanges++;
    if (!all || !polls) YX_FAIL(YX_ERR_NO_MEMORY, "no memory for an exchange");
    for (int r = 0; r < m->size; r++) {
        all[r].out = (head){.bytes = parts[r].out_bytes, .exchange = m->exchanges};
        memcpy(all[r].out.what, what, sizeof all[r].out.what);
    }
    for (;;) {
        size_t before = moved;
        int left = 0;
        moved = 0;
        for (int r = 0; r < m->size; r++) {
            if (r == m->rank) continue;
            if (!is_done(&all[r])) YX_CHECK(advance(m, r, what, &parts[r], &all[r]));
            left += !is_done(&all[r]);
            moved += all[r].sent + all[r].received;
        }
        if (left == 0) break;
        if (moved != before) since = tcp_now();
        YX_CHECK(wait_for_some(m, what, all, polls, since));
    }
fail:
    free(all);
    free(polls);
    return status;
}

// --- The module
static tcp_part *new_parts(void) {
    tcp_part *parts = calloc((size_t)world.size, sizeof *parts);
    if (!parts) yx_fail(YX_ERR_NO_MEMORY, "no memory for an exchange");
    return parts;
}

static yx_status module_open(const launch_info *launch, int *rank, int *size, int *local_rank, int *local_size) {
    yx_status status = tcp_meet(launch, &world);
    if (status != YX_OK) return status;
    *rank = world.rank, *size = world.size, *local_rank = *local_size = 0;
    for (int r = 0; r < world.size; r++) {
        bool here = strcmp(world.peers[r].node, world.peers[world.rank].node) == 0;
        *local_size += here;
        *local_rank += here && r < world.rank;
    }
    return YX_OK;
}

static yx_status module_broadcast(void *data, size_t bytes, int root) {
    tcp_part *parts = new_parts();
    if (!parts) return YX_ERR_NO_MEMORY;
    for (int r = 0; r < world.size; r++)
        if (world.rank == root) parts[r] = (tcp_part){.out = data, .out_bytes = bytes};
    if (world.rank != root) parts[root] = (tcp_part){.in = data, .in_bytes = bytes};
    yx_status status = tcp_exchange(&world, "broadcast", parts);
    free(parts);
    return status;
}

static yx_status module_all_to_all(const void *in, void *out, size_t bytes) {
    tcp_part *parts = new_parts();
    if (!parts) return YX_ERR_NO_MEMORY;
    for (int r = 0; r < world.size; r++)
        parts[r] = (tcp_part){(const char *)in + (size_t)r * bytes, (char *)out + (size_t)r * bytes, bytes, bytes};
    size_t own = (size_t)world.rank * bytes;
    memcpy((char *)out + own, (const char *)in + own, bytes);
    yx_status status = tcp_exchange(&world, "all-to-all", parts);
    free(parts);
    return status;
}

static yx_status module_all_gather(void *data, size_t bytes_each) {
    tcp_part *parts = new_parts();
    if (!parts) return YX_ERR_NO_MEMORY;
    const char *own = (char *)data + (size_t)world.rank * bytes_each;
    for (int r = 0; r < world.size; r++)
        parts[r] = (tcp_part){own, (char *)data + (size_t)r * bytes_each, bytes_each, bytes_each};
    yx_status status = tcp_exchange(&world, "gathering", parts);
    free(parts);
    return status;
}

static yx_status module_barrier(void) {
    tcp_part *parts = new_parts();
    if (!parts) return YX_ERR_NO_MEMORY;
    yx_status status = tcp_exchange(&world, "waiting for all", parts);
    free(parts);
    return status;
}

static void module_close(void) {
    module_barrier(); // so that none sees another end early
    tcp_leave(&world);
}

// False if the other side has closed the connection (*error 0) or it broke (*error says why).
static bool is_open(int fd, int *error) {
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    bool nothing_yet = n < 0 && (errno == EAGAIN || errno == EINTR);
    *error = n < 0 && !nothing_yet ? errno : 0;
    return n > 0 || nothing_yet;
}

// A rank that has lost another gives the others some seconds to lose the same one: they may still compute, and would
// take the end of this one for the cause.
static void await_others(void) {
    double end = tcp_now() + (world.link_timeout < PATIENCE ? world.link_timeout : PATIENCE);
    int error;
    for (bool any = true; any && tcp_now() < end; usleep(20000)) {
        any = false;
        for (int r = 0; r < world.size; r++) any = any || (r != world.rank && is_open(world.peers[r].fd, &error));
    }
}

// The others see the connections close.
static void module_abort(int exit_code) {
    fflush(NULL);
    if (world.has_lost) await_others();
    _exit(exit_code);
}

static yx_status module_check(void) {
    int error;
    for (int r = 0; r < world.size; r++)
        if (r != world.rank && !is_open(world.peers[r].fd, &error)) return lost(&world, r, "a step", error);
    return YX_OK;
}

const group_module *tcp_module(void) {
    static const group_module table = {.version = GROUP_MODULE_VERSION,
                                       .name = "tcp",
                                       .open = module_open,
                                       .close = module_close,
                                       .abort = module_abort,
                                       .broadcast = module_broadcast,
                                       .all_to_all = module_all_to_all,
                                       .all_gather = module_all_gather,
                                       .barrier = module_barrier,
                                       .check = module_check};
    return &table;
}
