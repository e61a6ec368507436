/* The two ends of the data path's benchmark.
 *
 *   wire serve PORT                   echo one message on each connection, until killed
 *   wire sink PORT                    read and throw away, one connection after another, until killed
 *   wire connect HOST PORT SECONDS    open, use and close connections one after another; prints connections/s
 *   wire stream HOST PORT SECONDS     send on one connection; prints bytes/s
 *
 * One thread. The client ends a connection with a reset, so that no port waits in TIME_WAIT for the next one.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, CHUNK = 1 << 17, BACKLOG = 1024 };

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

int main(int argc, char **argv) {
    struct addrinfo *to;
    if (argc == 3 && (!strcmp(argv[1], "serve") || !strcmp(argv[1], "sink"))) serve(atoi(argv[2]), argv[1][1] == 'e');
    if (argc != 5 || getaddrinfo(argv[2], argv[3], NULL, &to)) {
        fprintf(stderr, "usage: wire serve|sink PORT, wire connect|stream HOST PORT SECONDS\n");
        return 2;
    }
    if (!strcmp(argv[1], "connect")) connections(to, atof(argv[4]));
    else stream(to, atof(argv[4]));
    return 0;
}
