#include "comm/tcp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double tcp_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int milliseconds_until(double deadline) {
    double left = (deadline - tcp_now()) * 1000;
    return left <= 0 ? 0 : left > 1000 ? 1000 : (int)left + 1;
}

static yx_status set_flags(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return yx_fail_errno("cannot prepare a socket");
    return YX_OK;
}

yx_status tcp_listen(int port, int *fd, int *bound_port) {
    yx_status status = YX_OK;
    struct sockaddr_in6 address = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = in6addr_any};
    socklen_t length = sizeof address;
    int on = 1, off = 0;
    *fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (*fd >= 0) setsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    bool old = *fd < 0; // a machine without IPv6
    if (old) *fd = socket(AF_INET, SOCK_STREAM, 0);
    if (*fd < 0) return yx_fail_errno("cannot make a socket");
    setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const struct sockaddr *at = old ? (struct sockaddr *)&v4 : (struct sockaddr *)&address;
    if (bind(*fd, at, old ? sizeof v4 : sizeof address) != 0 || listen(*fd, 1024) != 0) {
        status = yx_fail(YX_ERR_COMM, "cannot listen on port %d: %s", port, strerror(errno));
        goto fail;
    }
    YX_CHECK(set_flags(*fd));
    if (getsockname(*fd, (struct sockaddr *)&address, &length) != 0) YX_FAIL(YX_ERR_COMM, "a socket without a name");
    *bound_port = ntohs(address.sin6_port); // where IPv4's lies, too
    return YX_OK;
fail:
    close(*fd);
    *fd = -1;
    return status;
}

// One attempt; false: not now.
static bool connect_once(const struct addrinfo *at, double deadline, int *fd) {
    int error = 0;
    socklen_t length = sizeof error;
    *fd = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
    if (*fd < 0) return false;
    if (set_flags(*fd) == YX_OK) {
        struct pollfd p = {.fd = *fd, .events = POLLOUT};
        if (connect(*fd, at->ai_addr, at->ai_addrlen) == 0) return true;
        while (errno == EINPROGRESS || errno == EINTR) {
            int n = poll(&p, 1, milliseconds_until(deadline));
            if (n > 0) {
                if (getsockopt(*fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0) return true;
                errno = error;
                break;
            }
            if (n == 0 && tcp_now() >= deadline) {
                errno = ETIMEDOUT;
                break;
            }
            errno = EINPROGRESS;
        }
    }
    error = errno;
    close(*fd);
    *fd = -1;
    errno = error;
    return false;
}

yx_status tcp_connect(const char *host, int port, double deadline, int *fd) {
    char service[16], why[160] = "";
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    snprintf(service, sizeof service, "%d", port);
    for (;;) { // the other side may not be up yet
        int code = getaddrinfo(host, service, &hints, &found);
        if (code != 0) snprintf(why, sizeof why, "%s", gai_strerror(code));
        for (struct addrinfo *at = code == 0 ? found : NULL; at; at = at->ai_next) {
            double patience = tcp_now() + 5;
            if (connect_once(at, patience < deadline ? patience : deadline, fd)) {
                freeaddrinfo(found);
                return YX_OK;
            }
            snprintf(why, sizeof why, "%s", strerror(errno));
        }
        if (code == 0) freeaddrinfo(found);
        if (tcp_now() >= deadline) break;
        usleep(100000);
    }
    return yx_fail(YX_ERR_COMM, "cannot reach %s, port %d: %s", host, port, why);
}

yx_status tcp_accept(int listener, double deadline, int *fd) {
    struct pollfd p = {.fd = listener, .events = POLLIN};
    for (;;) {
        *fd = accept(listener, NULL, NULL);
        if (*fd >= 0) return set_flags(*fd);
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            return yx_fail(YX_ERR_COMM, "accept failed: %s", strerror(errno));
        if (poll(&p, 1, milliseconds_until(deadline)) <= 0 && tcp_now() >= deadline)
            return yx_fail(YX_ERR_COMM, "nobody came");
    }
}

static yx_status transfer(int fd, char *data, size_t bytes, double deadline, bool write) {
    struct pollfd p = {.fd = fd, .events = write ? POLLOUT : POLLIN};
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write ? send(fd, data + done, bytes - done, MSG_NOSIGNAL) : recv(fd, data + done, bytes - done, 0);
        if (n > 0) done += (size_t)n;
        else if (n == 0 && !write) return yx_fail(YX_ERR_COMM, "the other side has ended");
        else if (errno != EAGAIN && errno != EINTR) return yx_fail(YX_ERR_COMM, "%s", strerror(errno));
        else if (poll(&p, 1, milliseconds_until(deadline)) <= 0 && tcp_now() >= deadline)
            return yx_fail(YX_ERR_COMM, "no answer in time");
    }
    return YX_OK;
}
yx_status tcp_write_all(int fd, const void *data, size_t bytes, double deadline) {
    return transfer(fd, (char *)data, bytes, deadline, true);
}
yx_status tcp_read_all(int fd, void *data, size_t bytes, double deadline) {
    return transfer(fd, data, bytes, deadline, false);
}

yx_status tcp_prepare(int fd, double seconds) {
    int on = 1, idle = (int)(seconds / 3) + 1, interval = (int)(seconds / 6) + 1, count = 3;
    unsigned patience = (unsigned)(seconds * 1000);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience) != 0)
        return yx_fail(YX_ERR_COMM, "cannot set up a connection: %s", strerror(errno));
    return YX_OK;
}
