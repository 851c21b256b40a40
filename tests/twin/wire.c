/* The twin's wire: a TAP device on a bridge in the caller's network namespace, or a unix datagram socket. */
#define _GNU_SOURCE
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int shell(const char *format, ...) {
  char command[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(command, sizeof command, format, arguments);
  va_end(arguments);
  return system(command);
}

/* bridge100 with the gateway's address is made by whoever comes first, as InternetSharing does;
 * isolation is Linux's bridge port isolation, whose rule is vmnet's: isolated ports never talk to
 * each other, and a port that is not isolated talks to all. */
static bool open_tap(struct wire *wire, bool isolated, const char *gateway, unsigned mtu) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  const char *bridge = getenv("TWIN_BRIDGE") ?: "bridge100";
  strcpy(request.ifr_name, "vmenet%d");
  wire->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (wire->fd < 0 || ioctl(wire->fd, TUNSETIFF, &request)) return false;
  snprintf(wire->name, sizeof wire->name, "%s", request.ifr_name);
  shell("ip link show %s >/dev/null 2>&1 || { ip link add %s type bridge && ip addr add %s/24 dev %s && "
        "ip link set %s up; }", bridge, bridge, gateway, bridge, bridge);
  return !shell("ip link set %s mtu %u master %s up", wire->name, mtu, bridge) &&
         (!isolated || !shell("bridge link set dev %s isolated on", wire->name));
}

static bool open_unix(struct wire *wire, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  unlink(path);
  int small = 32 << 10; /* so that a peer that does not read is soon a full queue, whatever the host's settings */
  strcpy(wire->name, "unix");
  wire->is_unix = true;
  wire->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  setsockopt(wire->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  return wire->fd >= 0 && !bind(wire->fd, (void *)&address, sizeof address);
}

bool wire_open(struct wire *wire, bool isolated, const char *gateway, unsigned mtu) {
  const char *kind = getenv("TWIN_WIRE") ?: "tap";
  bool opened = strncmp(kind, "unix:", 5) ? open_tap(wire, isolated, gateway, mtu) : open_unix(wire, kind + 5);
  if (!opened && wire->fd >= 0) close(wire->fd);
  return opened;
}

ssize_t wire_receive(struct wire *wire, void *bytes, size_t size) {
  if (!wire->is_unix) return read(wire->fd, bytes, size);
  struct sockaddr_un from;
  socklen_t length = sizeof from;
  ssize_t received = recvfrom(wire->fd, bytes, size, MSG_DONTWAIT, (void *)&from, &length);
  if (received > 0) wire->peer = from, wire->peer_length = length;
  return received;
}

/* A full queue is the one refusal that the caller hears of; with nobody there, frames vanish. */
ssize_t wire_send(struct wire *wire, const void *bytes, size_t size) {
  if (!wire->is_unix) return write(wire->fd, bytes, size);
  if (wire->peer_length <= sizeof(sa_family_t)) return size;
  return sendto(wire->fd, bytes, size, MSG_DONTWAIT, (void *)&wire->peer, wire->peer_length);
}
