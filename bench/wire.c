/* The two ends of the benchmarks of the data path, and of how soon a change is in force.
 *
 *   wire serve PORT                   echo one message on each connection, until killed
 *   wire sink PORT                    read and throw away, one connection after another, until killed
 *   wire connect HOST PORT SECONDS    open, use and close connections one after another; prints connections/s
 *   wire stream HOST PORT SECONDS     send on one connection; prints bytes/s
 *   wire echo PORT                    echo datagrams, until killed
 *   wire probe HOST PORT PERIOD_US    a datagram from a new port every period, until its input ends; prints a line for each: when it was
 *                                     sent (CLOCK_MONOTONIC, ns), and 1 if it was answered within a fifth of a second, else 0
 *
 * One thread. New ports, because what is established passes by design. The client ends a connection with a reset, so that no port waits in TIME_WAIT for the next one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, CHUNK = 1 << 17, BACKLOG = 1024, FIRST_PORT = 1024, LAST_PORT = 65000, EVENTS = 64 };
static const long long SECOND = 1000000000, ANSWER_LIMIT = 200000000;

static void fail(const char *what) {
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int listen_on(int port) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port), .sin6_addr = in6addr_any};
    int one = 1, zero = 0, fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, (struct sockaddr *)&any, sizeof any) || listen(fd, BACKLOG)) fail("listen");
    printf("ready\n");
    fflush(stdout);
    return fd;
}

static void serve(int port, int echo) {
    static char buffer[CHUNK];
    int listener = listen_on(port);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        ssize_t got;
        while ((got = read(fd, buffer, echo ? MESSAGE : CHUNK)) > 0)
            if (echo && write(fd, buffer, (size_t)got) != got) break;
        close(fd);
    }
}

static int open_to(const struct addrinfo *to) {
    int one = 1, fd = socket(to->ai_family, SOCK_STREAM, 0);
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct timeval limit = {.tv_sec = 5};
    if (fd < 0) fail("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, to->ai_addr, to->ai_addrlen)) fail("connect");
    return fd;
}

static void connections(const struct addrinfo *to, double seconds) {
    char message[MESSAGE] = {0};
    long count = 0;
    double start = now();
    while (now() - start < seconds) {
        int fd = open_to(to);
        if (write(fd, message, sizeof message) != MESSAGE) fail("write");
        if (recv(fd, message, sizeof message, MSG_WAITALL) != MESSAGE) fail("read");
        close(fd);
        count++;
    }
    printf("%.1f\n", (double)count / (now() - start));
}

static void stream(const struct addrinfo *to, double seconds) {
    static char chunk[CHUNK];
    double start = now(), sent = 0;
    int fd = open_to(to);
    while (now() - start < seconds) {
        ssize_t put = write(fd, chunk, sizeof chunk);
        if (put < 0) fail("write");
        sent += (double)put;
    }
    printf("%.1f\n", sent / (now() - start));
}

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void echo_datagrams(int port) {
    static char buffer[CHUNK];
    struct sockaddr_in6 from, any = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port), .sin6_addr = in6addr_any};
    int zero = 0, fd = socket(AF_INET6, SOCK_DGRAM, 0);
    if (fd < 0) fail("socket");
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, (struct sockaddr *)&any, sizeof any)) fail("bind");
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
        if (got >= 0) sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from, size);
    }
}

/* A socket at the next free port, connected to the other end. */
static int from_new_port(const struct addrinfo *to) {
    static int port = FIRST_PORT;
    int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0) fail("socket");
    for (;;) {
        struct sockaddr_in6 own = {.sin6_family = (sa_family_t)to->ai_family, .sin6_port = htons((unsigned short)port)};
        port = port == LAST_PORT ? FIRST_PORT : port + 1;
        /* In both families the port is at the same place, and zeros are any address. */
        if (!bind(fd, (struct sockaddr *)&own, to->ai_addrlen)) break;
        if (errno != EADDRINUSE) fail("bind");
    }
    if (connect(fd, to->ai_addr, to->ai_addrlen)) fail("connect");
    return fd;
}

struct sent {
    long long at;
    int fd, answered;
};

static void note_answers(int poller, struct sent *sent) {
    struct epoll_event events[EVENTS];
    char message[MESSAGE];
    int count = epoll_wait(poller, events, EVENTS, 0);
    for (int i = 0; i < count; i++) {
        struct sent *one = &sent[events[i].data.u32];
        one->answered = recv(one->fd, message, sizeof message, 0) == MESSAGE;
        close(one->fd);
        one->fd = -1;
    }
}

static void probe(const struct addrinfo *to, long period_us) {
    long long period = period_us * 1000LL, next = now_ns(), end = 0, now;
    long room = 0, count = 0, oldest = 0;
    struct sent *sent = NULL;
    struct pollfd waits[] = {{.fd = epoll_create1(0), .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    struct rlimit files;
    char message[MESSAGE] = {0};
    if (waits[0].fd < 0) fail("epoll");
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    while ((now = now_ns()) < end || !end) {
        if (now >= next && !end) {
            if (count == room && !(sent = realloc(sent, (size_t)(room += 1 << 16) * sizeof *sent))) fail("memory");
            struct sent *one = &sent[count];
            struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)count++};
            *one = (struct sent){.fd = from_new_port(to)};
            epoll_ctl(waits[0].fd, EPOLL_CTL_ADD, one->fd, &event);
            one->at = now_ns();
            /* A refusal by the other end itself shows up here or as an error to receive: not answered. */
            (void)!send(one->fd, message, sizeof message, 0);
            next = next + period < now ? now : next + period;
        }
        for (; oldest < count && sent[oldest].at + ANSWER_LIMIT < now; oldest++)
            if (sent[oldest].fd >= 0) close(sent[oldest].fd);
        long long wait = end ? end - now : next > now ? next - now : 0;
        struct timespec limit = {.tv_sec = wait / SECOND, .tv_nsec = wait % SECOND};
        if (ppoll(waits, end ? 1 : 2, &limit, NULL) <= 0) continue;
        if (waits[0].revents) note_answers(waits[0].fd, sent);
        if (!end && waits[1].revents && read(STDIN_FILENO, message, sizeof message) <= 0) end = now + ANSWER_LIMIT;
    }
    for (long i = 0; i < count; i++) printf("%lld %d\n", sent[i].at, sent[i].answered);
}

int main(int argc, char **argv) {
    struct addrinfo *to;
    if (argc == 3 && !strcmp(argv[1], "echo")) echo_datagrams(atoi(argv[2]));
    if (argc == 3 && (!strcmp(argv[1], "serve") || !strcmp(argv[1], "sink"))) serve(atoi(argv[2]), argv[1][1] == 'e');
    if (argc != 5 || getaddrinfo(argv[2], argv[3], NULL, &to)) {
        fprintf(stderr, "usage: wire serve|sink|echo PORT, wire connect|stream HOST PORT SECONDS, wire probe HOST PORT PERIOD_US\n");
        return 2;
    }
    if (!strcmp(argv[1], "probe")) probe(to, atol(argv[4]));
    else if (!strcmp(argv[1], "connect")) connections(to, atof(argv[4]));
    else stream(to, atof(argv[4]));
    return 0;
}
