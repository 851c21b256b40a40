/* Frames in at one descriptor, out at another: how many, how long each took.
 *
 *     load frames SEND RECEIVE SECONDS WINDOW FRAME AT LOW HIGH
 *         keeps WINDOW frames in flight with sendmmsg and recvmmsg; the 4 bytes of each frame at AT count
 *         through random numbers of LOW to HIGH (LOW = HIGH: the frame stays as it is). A frame is lost when
 *         nothing has arrived for 200 ms.
 *     load latency SEND RECEIVE COUNT MICROSECONDS FRAME [FLOOD_SEND FLOOD_RECEIVE FLOOD_FRAME]
 *         COUNT frames, one each MICROSECONDS; meanwhile as many flood frames the other way as are taken.
 *
 * Both ends belong to one thread, so that sender and receiver never compete for a core with each other,
 * and the subject has the other core to itself. Prints one line of JSON. FRAME is hexadecimal. */

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { BURST = 32, LONGEST = 65536 };

static unsigned char out[BURST][LONGEST], in[BURST][LONGEST];
static struct mmsghdr sending[BURST], receiving[BURST];
static struct iovec out_parts[BURST], in_parts[BURST];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static size_t from_hex(const char *text, unsigned char *to)
{
    size_t size = strlen(text) / 2;
    for (size_t i = 0; i < size && i < LONGEST; i++) {
        unsigned int byte;
        sscanf(text + 2 * i, "%2x", &byte);
        to[i] = (unsigned char)byte;
    }
    return size;
}

static void prepare(const char *hex)
{
    for (int i = 0; i < BURST; i++) {
        out_parts[i].iov_base = out[i];
        out_parts[i].iov_len = from_hex(hex, out[i]);
        in_parts[i].iov_base = in[i];
        in_parts[i].iov_len = LONGEST;
        sending[i].msg_hdr.msg_iov = &out_parts[i];
        receiving[i].msg_hdr.msg_iov = &in_parts[i];
        sending[i].msg_hdr.msg_iovlen = receiving[i].msg_hdr.msg_iovlen = 1;
    }
}

static uint32_t random_next(void)
{
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void vary(unsigned int count, size_t at, uint32_t low, uint32_t high)
{
    for (unsigned int i = 0; i < count && high > low; i++) {
        uint32_t value = low + random_next() % (high - low);
        out[i][at] = (unsigned char)(value >> 24);
        out[i][at + 1] = (unsigned char)(value >> 16);
        out[i][at + 2] = (unsigned char)(value >> 8);
        out[i][at + 3] = (unsigned char)value;
    }
}

static unsigned int drain(int fd)
{
    int got = recvmmsg(fd, receiving, BURST, MSG_DONTWAIT, NULL);
    return got > 0 ? (unsigned int)got : 0;
}

static unsigned int push(int fd, unsigned int count)
{
    int put = count ? sendmmsg(fd, sending, count < BURST ? count : BURST, MSG_DONTWAIT) : 0;
    return put > 0 ? (unsigned int)put : 0;
}

static int frames(char **words)
{
    int send_fd = atoi(words[0]), receive_fd = atoi(words[1]);
    double seconds = atof(words[2]);
    unsigned int window = (unsigned int)atoi(words[3]), flying = 0;
    size_t at = (size_t)atoi(words[5]);
    uint32_t low = (uint32_t)strtoul(words[6], NULL, 0), high = (uint32_t)strtoul(words[7], NULL, 0);
    unsigned long long sent = 0, received = 0, lost = 0;
    prepare(words[4]);
    double start = now(), last = start, time = start;
    while (time < start + seconds || flying > 0) {
        unsigned int room = time < start + seconds ? window - flying : 0;
        vary(room < BURST ? room : BURST, at, low, high);
        unsigned int put = push(send_fd, room), got = drain(receive_fd);
        sent += put;
        received += got;
        flying = flying + put > got ? flying + put - got : 0;
        time = now();
        if (got)
            last = time;
        else if (flying > 0 && time > last + 0.2) {
            lost += flying;
            flying = 0;
            last = time;
        }
    }
    printf("{\"sent\": %llu, \"received\": %llu, \"lost\": %llu, \"seconds\": %.6f}\n", sent, received, lost, seconds);
    return 0;
}

static int by_size(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static int latency(char **words, int flooding)
{
    int send_fd = atoi(words[0]), receive_fd = atoi(words[1]);
    unsigned int count = (unsigned int)atoi(words[2]), done = 0, lost = 0;
    double pause = atof(words[3]) * 1e-6;
    double *took = calloc(count, sizeof *took);
    unsigned char probe[LONGEST];
    size_t size = from_hex(words[4], probe);
    unsigned long long flood = 0;
    if (took == NULL || size < 60)
        return 2;
    if (flooding)
        prepare(words[7]);
    double start = now();
    for (unsigned int number = 1; number <= count; number++) {
        double due = start + number * pause, sent_at, time;
        while ((time = now()) < due) {
            if (flooding) {
                flood += push(atoi(words[5]), BURST);
                drain(atoi(words[6]));
            } else {
                struct timespec rest = {0, (long)((due - time) * 1e9)};
                nanosleep(&rest, NULL);
            }
        }
        memcpy(probe + size - 4, &number, 4);
        sent_at = now();
        if (send(send_fd, probe, size, MSG_DONTWAIT) < 0) {
            lost++;
            continue;
        }
        for (;;) {
            if (flooding) {
                flood += push(atoi(words[5]), BURST);
                drain(atoi(words[6]));
            } else {
                struct pollfd ready = {.fd = receive_fd, .events = POLLIN};
                poll(&ready, 1, 100);
            }
            ssize_t got = recv(receive_fd, in[0], LONGEST, MSG_DONTWAIT);
            time = now();
            if (got == (ssize_t)size && memcmp(in[0] + size - 4, &number, 4) == 0) {
                took[done++] = time - sent_at;
                break;
            }
            if (time > sent_at + 0.5) {
                lost++;
                break;
            }
        }
    }
    double elapsed = now() - start;
    if (done == 0)
        return 1;
    qsort(took, done, sizeof *took, by_size);
    printf("{\"count\": %u, \"lost\": %u, \"flood\": %.0f", done, lost, (double)flood / elapsed);
    const double marks[] = {50, 90, 99, 99.9, 100};
    for (int i = 0; i < 5; i++) {
        unsigned int index = (unsigned int)(marks[i] / 100 * done);
        printf(", \"p%g\": %.1f", marks[i], took[index < done ? index : done - 1] * 1e6);
    }
    printf("}\n");
    return 0;
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing of a benchmark outlives it */
    if (argc == 10 && strcmp(argv[1], "frames") == 0)
        return frames(argv + 2);
    if ((argc == 7 || argc == 10) && strcmp(argv[1], "latency") == 0)
        return latency(argv + 2, argc == 10);
    fprintf(stderr, "usage: see the comment at the top of load.c\n");
    return 2;
}
