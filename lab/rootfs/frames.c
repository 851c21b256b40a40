/* Ethernet frames from inside a guest, as given and with nothing added: what an attacker's own stack would not send.
 *
 *   frames send IF COUNT [+OFFSET]... HEX...   each frame COUNT times; round i adds i to the 16 bits at each OFFSET
 *   frames flood IF SECONDS HEX                one frame as fast as the kernel takes it
 *   frames watch IF HEX                        prints every frame received that contains these bytes, until killed
 *
 * Frames shorter than 60 bytes are padded with zeros, as hardware does. Static: the guest has no C library.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MAX_FRAME 9014
#define MAX_FRAMES 64
#define FLOOD_BATCH 64

struct frame {
    unsigned char data[MAX_FRAME];
    size_t length;
};

static struct frame frames[MAX_FRAMES];

static int packet_socket(const char *interface)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    address.sll_ifindex = if_nametoindex(interface);
    if (fd < 0 || address.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "%s", interface);
    return fd;
}

static size_t parse_hex(const char *text, unsigned char *out)
{
    size_t length = 0;
    unsigned byte;

    for (; text[0] && text[1]; text += 2) {
        if (length == MAX_FRAME || sscanf(text, "%2x", &byte) != 1)
            errx(2, "not a frame in hexadecimal: %s", text);
        out[length++] = byte;
    }
    return length;
}

static void parse_frame(const char *text, struct frame *frame)
{
    frame->length = parse_hex(text, frame->data);
    if (frame->length < ETH_ZLEN)
        frame->length = ETH_ZLEN;
}

static int send_frames(int fd, int count, char **words)
{
    size_t offsets[MAX_FRAMES], varied = 0, given = 0;
    unsigned long sent = 0, failed = 0;

    for (; *words && **words == '+' && varied < MAX_FRAMES; words++)
        offsets[varied++] = strtoul(*words + 1, NULL, 10);
    for (; *words && given < MAX_FRAMES; words++)
        parse_frame(*words, &frames[given++]);
    for (int round = 0; round < count; round++) {
        for (size_t i = 0; i < given; i++)
            (send(fd, frames[i].data, frames[i].length, 0) < 0) ? failed++ : sent++;
        for (size_t i = 0; i < given; i++)
            for (size_t j = 0; j < varied; j++)
                if (offsets[j] + 1 < frames[i].length && ++frames[i].data[offsets[j] + 1] == 0)
                    frames[i].data[offsets[j]]++;
    }
    printf("sent %lu failed %lu\n", sent, failed);
    return failed != 0;
}

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start->tv_sec) + (now.tv_nsec - start->tv_nsec) * 1e-9;
}

static int flood(int fd, double seconds, const char *text)
{
    struct mmsghdr batch[FLOOD_BATCH] = {0};
    struct iovec frame = {frames[0].data, 0};
    struct timespec start;
    unsigned long sent = 0, refused = 0;

    parse_frame(text, &frames[0]);
    frame.iov_len = frames[0].length;
    for (int i = 0; i < FLOOD_BATCH; i++)
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &frame, .msg_iovlen = 1};
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        int taken = sendmmsg(fd, batch, FLOOD_BATCH, 0);
        (taken > 0) ? (sent += taken) : refused++;
    } while (seconds_since(&start) < seconds);
    printf("sent %lu refused %lu\n", sent, refused);
    return 0;
}

static int watch(int fd, const char *text)
{
    unsigned char pattern[MAX_FRAME], frame[MAX_FRAME];
    size_t wanted = parse_hex(text, pattern);
    ssize_t length;

    while ((length = recv(fd, frame, sizeof frame, 0)) >= 0) {
        if (!memmem(frame, length, pattern, wanted))
            continue;
        for (ssize_t i = 0; i < length; i++)
            printf("%02x", frame[i]);
        puts("");
        fflush(stdout);
    }
    return 1;
}

int main(int argc, char **argv)
{
    if (argc >= 5 && !strcmp(argv[1], "send"))
        return send_frames(packet_socket(argv[2]), atoi(argv[3]), argv + 4);
    if (argc == 5 && !strcmp(argv[1], "flood"))
        return flood(packet_socket(argv[2]), atof(argv[3]), argv[4]);
    if (argc == 4 && !strcmp(argv[1], "watch"))
        return watch(packet_socket(argv[2]), argv[3]);
    errx(2, "usage: frames send IF COUNT [+OFFSET]... HEX... | flood IF SECONDS HEX | watch IF HEX");
}
