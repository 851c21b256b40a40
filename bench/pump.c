/* The baseline: moves frames between two descriptors and looks at none of them, one frame a call.
 *
 *     pump KIND:FD KIND:FD      KIND is d (datagram socket), s (stream socket, 4-byte lengths) or t (TAP)
 *
 * It waits for whoever is readable, moves what is there (at most 64 frames a turn, so that neither side
 * starves), and when the other side is full it asks again after 50 us, 10 times, then drops the
 * frame: what Softnet does too. No option makes it faster or safer. Ends when a side is gone. */

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { TURN = 64, RETRIES = 10, PAUSE = 50 };

struct side { char kind; int fd; };

static unsigned char frame[1 << 17];

/* A stream gives and takes all of it, or the other side is gone. */
static int whole(int fd, unsigned char *at, size_t size, int reading)
{
    while (size > 0) {
        ssize_t moved = reading ? recv(fd, at, size, 0) : send(fd, at, size, MSG_NOSIGNAL);
        if (moved <= 0)
            return -1;
        at += moved;
        size -= (size_t)moved;
    }
    return 0;
}

static ssize_t take(struct side *from)
{
    uint32_t length;
    if (from->kind == 't')
        return read(from->fd, frame, sizeof frame);
    if (from->kind == 'd')
        return recv(from->fd, frame, sizeof frame, MSG_DONTWAIT);
    ssize_t here = recv(from->fd, &length, 4, MSG_DONTWAIT | MSG_PEEK);
    if (here == 0)
        exit(0);
    if (here < 4)
        return -1;
    if (whole(from->fd, (unsigned char *)&length, 4, 1) || ntohl(length) > sizeof frame
        || whole(from->fd, frame, ntohl(length), 1))
        exit(0);
    return (ssize_t)ntohl(length);
}

static int put_once(struct side *to, size_t size)
{
    if (to->kind == 't')
        return write(to->fd, frame, size) < 0 ? -1 : 0;
    if (to->kind == 'd')
        return send(to->fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
    uint32_t length = htonl((uint32_t)size);
    struct iovec parts[2] = {{&length, 4}, {frame, size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t sent = sendmsg(to->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return -1;
    if (sent < 4)
        exit(1);
    if ((size_t)sent < size + 4 && whole(to->fd, frame + sent - 4, size + 4 - (size_t)sent, 0))
        exit(0);
    return 0;
}

static void put(struct side *to, size_t size)
{
    for (int again = 0; put_once(to, size) != 0; again++) {
        if (errno == ECONNREFUSED || errno == ECONNRESET || errno == EPIPE || errno == EBADFD)
            exit(0);
        if (errno != EAGAIN && errno != ENOBUFS)
            return;
        if (again == RETRIES)
            return;
        usleep(PAUSE);
    }
}

static void move(struct side *from, struct side *to)
{
    for (int moved = 0; moved < TURN; moved++) {
        ssize_t size = take(from);
        if (size < 0)
            return;
        put(to, (size_t)size);
    }
}

static struct side side_of(const char *text)
{
    struct side side = {text[0], atoi(text + 2)};
    return side;
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing of a benchmark outlives it */
    if (argc != 3) {
        fprintf(stderr, "usage: pump d|s|t:FD d|s|t:FD\n");
        return 2;
    }
    struct side sides[2] = {side_of(argv[1]), side_of(argv[2])};
    struct pollfd ready[2] = {{.fd = sides[0].fd, .events = POLLIN}, {.fd = sides[1].fd, .events = POLLIN}};
    for (;;) {
        if (poll(ready, 2, -1) < 0)
            return 1;
        for (int i = 0; i < 2; i++) {
            if (ready[i].revents & POLLIN)
                move(&sides[i], &sides[!i]);
            else if (ready[i].revents)
                return 0;
        }
    }
}
