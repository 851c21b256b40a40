/* The twin of vmnet.framework: the same symbols and calling convention, over a wire of Linux.
 *
 * One thread an interface (the pump) moves frames from the wire into a ring and hands the event
 * callback to the client's queue. At most one callback is in flight. Level-triggered: while frames
 * wait, it fires again when it has returned. Edge-triggered: it fires for what arrived since it last
 * fired. A stop completes when the callback in flight has returned. docs/vmnet.md lists which of this
 * is Apple's word and which is a guess.
 *
 * Knobs, all from the environment:
 *   TWIN_WIRE      "tap" (default, root) or "unix:/path" (frames to and from whoever sends there)
 *   TWIN_BRIDGE    the bridge that a TAP joins, default bridge100
 *   TWIN_ANYUID    start without root
 *   TWIN_START     "null" (NULL, no handler), "null+handler", "handler" (not NULL, status 1001),
 *                  "bare" (succeeds, but with no parameters)
 *   TWIN_EVENTS    "edge" instead of level-triggered events
 *   TWIN_SILENT    calls that are accepted and never answered: "start", "stop", "rule"
 *   TWIN_NFT       port forwarding by real DNAT rules
 *   TWIN_LOG       a file that gets a line for each call
 * Built with -DTWIN_OLD it is macOS 14: no batch keys, 200 packets a call. */
#define _GNU_SOURCE
#include "internal.h"
#include <Block.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The text differs from Apple's, so that a client with hard-coded keys fails. */
#define KEY(name) EXPORT const char *name = "twin:" #name
KEY(vmnet_operation_mode_key);
KEY(vmnet_enable_isolation_key);
KEY(vmnet_mac_address_key);
KEY(vmnet_mtu_key);
KEY(vmnet_max_packet_size_key);
KEY(vmnet_start_address_key);
KEY(vmnet_end_address_key);
KEY(vmnet_subnet_mask_key);
KEY(vmnet_estimated_packets_available_key);
#ifndef TWIN_OLD
KEY(vmnet_read_max_packets_key);
KEY(vmnet_write_max_packets_key);
#endif

bool knob(const char *name) { return *(getenv(name) ?: ""); }
bool silent(const char *call) { return strstr(getenv("TWIN_SILENT") ?: "", call) != NULL; }

/* Opened at each start, so that it outlives a drop of privileges. */
static int log_file = -1;

void note(const char *format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  line[length++] = '\n';
  if (log_file >= 0 && write(log_file, line, length) < 0) {}
}

static void wake(interface_ref i) {
  uint64_t one = 1;
  if (write(i->wake, &one, sizeof one) < 0) {}
}

/* ---- frames and events ---- */

static bool due(interface_ref i) {
  return i->callback && !i->in_flight && !i->stopping && (i->edge_triggered ? i->fresh : i->head != i->tail);
}

/* With the lock held; returns without it. */
static void fire(interface_ref i) {
  vmnet_interface_event_callback_t callback = Block_copy(i->callback);
  uint64_t waiting = i->tail - i->head;
  interface_event_t mask = i->mask;
  dispatch_queue_t queue = i->callback_queue;
  i->in_flight = true;
  i->fresh = false;
  i->fired++;
  pthread_mutex_unlock(&i->lock);
  dispatch_async(queue, ^{
    xpc_object_t event = xpc_dictionary_create(NULL, NULL, 0);
    xpc_dictionary_set_uint64(event, vmnet_estimated_packets_available_key, waiting);
    callback(mask, event);
    xpc_release(event);
    Block_release(callback);
    pthread_mutex_lock(&i->lock);
    i->in_flight = false;
    pthread_mutex_unlock(&i->lock);
    wake(i);
  });
}

static void fill(interface_ref i) {
  for (;;) {
    pthread_mutex_lock(&i->lock);
    bool room = i->tail - i->head < RING;
    struct frame *slot = &i->ring[i->tail % RING];
    pthread_mutex_unlock(&i->lock);
    if (!room) return;
    ssize_t length = wire_receive(&i->wire, slot->bytes, i->longest_frame);
    if (length <= 0) return;
    slot->length = length;
    pthread_mutex_lock(&i->lock);
    i->tail++;
    i->fresh = true;
    pthread_mutex_unlock(&i->lock);
  }
}

static void sleep_until_something(interface_ref i, bool full) {
  struct pollfd fds[2] = {{i->wake, POLLIN, 0}, {i->wire.fd, full ? 0 : POLLIN, 0}};
  uint64_t count;
  poll(fds, 2, -1);
  if (fds[0].revents && read(i->wake, &count, sizeof count) < 0) {}
  if (fds[1].revents & POLLIN) fill(i);
}

static void *pump(void *argument) {
  interface_ref i = argument;
  for (;;) {
    pthread_mutex_lock(&i->lock);
    if (i->stopping && !i->in_flight) break;
    if (due(i)) {
      fire(i);
      continue;
    }
    bool full = i->tail - i->head >= RING || i->stopping;
    pthread_mutex_unlock(&i->lock);
    sleep_until_something(i, full);
  }
  vmnet_interface_completion_handler_t stopped = i->stopped;
  dispatch_queue_t queue = i->stopped_queue;
  pthread_mutex_unlock(&i->lock);
  close(i->wire.fd);
  free(i->ring);
  note("stopped fired=%lu", i->fired);
  if (silent("stop")) return NULL;
  dispatch_async(queue, ^{
    stopped(VMNET_SUCCESS);
    Block_release(stopped);
  });
  return NULL;
}

EXPORT vmnet_return_t vmnet_interface_set_event_callback(interface_ref i, interface_event_t mask,
                                                         dispatch_queue_t queue,
                                                         vmnet_interface_event_callback_t callback) {
  note("set_event_callback mask=%u callback=%d", mask, callback != NULL);
  /* macOS refuses a mask of 0 even to switch events off. */
  if (!i || !queue != !callback || mask != VMNET_INTERFACE_PACKETS_AVAILABLE) return VMNET_INVALID_ARGUMENT;
  pthread_mutex_lock(&i->lock);
  vmnet_interface_event_callback_t old = i->callback;
  i->callback = callback ? Block_copy(callback) : NULL;
  i->callback_queue = queue;
  i->mask = mask;
  pthread_mutex_unlock(&i->lock);
  if (old) Block_release(old);
  wake(i);
  return VMNET_SUCCESS;
}

static bool fits(const struct vmpktdesc *packet, size_t length) {
  return packet->vm_pkt_iovcnt == 1 && packet->vm_pkt_iov && packet->vm_pkt_iov->iov_len >= length &&
         packet->vm_pkt_size >= length && !packet->vm_flags;
}

static vmnet_return_t take(interface_ref i, struct vmpktdesc *packets, int *count) {
  int wanted = *count;
  for (*count = 0; *count < wanted && i->head != i->tail; ++*count, ++i->head) {
    struct frame *frame = &i->ring[i->head % RING];
    struct vmpktdesc *packet = &packets[*count];
    if (!fits(packet, i->longest_frame)) return VMNET_INVALID_ARGUMENT;
    memcpy(packet->vm_pkt_iov->iov_base, frame->bytes, frame->length);
    packet->vm_pkt_size = frame->length;
    packet->vm_pkt_iov->iov_len = frame->length; /* a client has to put this back before it reads again */
    packet->vm_flags = 0;
  }
  return VMNET_SUCCESS;
}

EXPORT vmnet_return_t vmnet_read(interface_ref i, struct vmpktdesc *packets, int *count) {
  if (!i || !packets || !count || *count < 0) return VMNET_INVALID_ARGUMENT;
  if (*count > (int)i->longest_batch) return VMNET_TOO_MANY_PACKETS;
  pthread_mutex_lock(&i->lock);
  bool full = i->tail - i->head >= RING;
  vmnet_return_t status = i->stopping ? VMNET_FAILURE : take(i, packets, count);
  pthread_mutex_unlock(&i->lock);
  if (full) wake(i);
  return status;
}

static vmnet_return_t check(interface_ref i, const struct vmpktdesc *packet) {
  if (packet->vm_pkt_size > i->longest_frame) return VMNET_PACKET_TOO_BIG;
  bool whole = packet->vm_pkt_iovcnt == 1 && packet->vm_pkt_iov->iov_len == packet->vm_pkt_size &&
               packet->vm_pkt_size >= 14 && !packet->vm_flags;
  return whole ? VMNET_SUCCESS : VMNET_INVALID_ARGUMENT;
}

EXPORT vmnet_return_t vmnet_write(interface_ref i, struct vmpktdesc *packets, int *count) {
  if (!i || !packets || !count || *count < 0) return VMNET_INVALID_ARGUMENT;
  if (*count > (int)i->longest_batch) return VMNET_TOO_MANY_PACKETS;
  if (i->stopping) return VMNET_FAILURE;
  for (int n = 0; n < *count; n++) {
    vmnet_return_t status = check(i, &packets[n]);
    if (status != VMNET_SUCCESS) return status;
  }
  int wanted = *count;
  for (*count = 0; *count < wanted; ++*count) {
    struct vmpktdesc *packet = &packets[*count];
    ssize_t sent = wire_send(&i->wire, packet->vm_pkt_iov->iov_base, packet->vm_pkt_size);
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) return VMNET_BUFFER_EXHAUSTED;
  }
  return VMNET_SUCCESS;
}

/* ---- start and stop ---- */

static interface_ref make(xpc_object_t wanted, bool isolated, const char *gateway) {
  interface_ref i = calloc(1, sizeof *i);
  unsigned mtu = xpc_dictionary_get_uint64(wanted, vmnet_mtu_key) ?: 1500;
  if (mtu + 14 > MAX_FRAME || !wire_open(&i->wire, isolated, gateway, mtu)) {
    free(i);
    return NULL;
  }
  pthread_mutex_init(&i->lock, NULL);
  i->ring = calloc(RING, sizeof *i->ring);
  i->wake = eventfd(0, EFD_CLOEXEC);
  i->own_queue = dispatch_queue_create("twin.vmnet", NULL);
  i->longest_frame = mtu + 14;
  i->edge_triggered = !strcmp(getenv("TWIN_EVENTS") ?: "", "edge");
#ifdef TWIN_OLD
  i->longest_batch = OLD_BATCH;
#else
  i->longest_batch = LONGEST_BATCH;
#endif
  return i;
}

static xpc_object_t describe(interface_ref i, const char *gateway, const char *end) {
  xpc_object_t parameters = xpc_dictionary_create(NULL, NULL, 0);
  if (!strcmp(getenv("TWIN_START") ?: "", "bare")) return parameters;
  xpc_dictionary_set_uint64(parameters, vmnet_mtu_key, i->longest_frame - 14);
  xpc_dictionary_set_uint64(parameters, vmnet_max_packet_size_key, i->longest_frame);
#ifndef TWIN_OLD
  xpc_dictionary_set_uint64(parameters, vmnet_read_max_packets_key, i->longest_batch);
  xpc_dictionary_set_uint64(parameters, vmnet_write_max_packets_key, i->longest_batch);
#endif
  xpc_dictionary_set_string(parameters, vmnet_mac_address_key, "02:00:00:74:77:69");
  xpc_dictionary_set_string(parameters, vmnet_start_address_key, gateway);
  xpc_dictionary_set_string(parameters, vmnet_end_address_key, end);
  xpc_dictionary_set_string(parameters, vmnet_subnet_mask_key, "255.255.255.0");
  return parameters;
}

static void answer(dispatch_queue_t queue, vmnet_start_interface_completion_handler_t handler, vmnet_return_t status,
                   xpc_object_t parameters) {
  if (silent("start")) return;
  handler = Block_copy(handler);
  dispatch_async(queue, ^{
    handler(status, parameters);
    if (parameters) xpc_release(parameters);
    Block_release(handler);
  });
}

static void open_log(void) {
  if (log_file >= 0) close(log_file);
  log_file = knob("TWIN_LOG") ? open(getenv("TWIN_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
}

EXPORT interface_ref vmnet_start_interface(xpc_object_t wanted, dispatch_queue_t queue,
                                           vmnet_start_interface_completion_handler_t handler) {
  const char *how = getenv("TWIN_START") ?: "";
  uint64_t mode = xpc_dictionary_get_uint64(wanted, vmnet_operation_mode_key);
  bool isolated = xpc_dictionary_get_bool(wanted, vmnet_enable_isolation_key);
  bool host = mode == VMNET_HOST_MODE;
  const char *gateway = host ? "192.168.128.1" : "192.168.64.1";
  open_log();
  note("start mode=%lu isolation=%d", (unsigned long)mode, isolated);
  if (!strcmp(how, "null")) return NULL;
  if (!strcmp(how, "handler")) {
    answer(queue, handler, VMNET_FAILURE, NULL);
    return calloc(1, sizeof(struct vmnet_interface));
  }
  bool allowed = (geteuid() == 0 || knob("TWIN_ANYUID")) && (host || mode == VMNET_SHARED_MODE);
  interface_ref i = allowed && strcmp(how, "null+handler") ? make(wanted, isolated, gateway) : NULL;
  if (!i) {
    answer(queue, handler, VMNET_FAILURE, NULL);
    return NULL;
  }
  rules_open();
  note("wire %s", i->wire.name);
  pthread_t thread;
  pthread_create(&thread, NULL, pump, i);
  pthread_detach(thread);
  answer(queue, handler, VMNET_SUCCESS, describe(i, gateway, host ? "192.168.128.254" : "192.168.64.254"));
  return i;
}

EXPORT vmnet_return_t vmnet_stop_interface(interface_ref i, dispatch_queue_t queue,
                                           vmnet_interface_completion_handler_t handler) {
  if (!i || !queue || !handler) return VMNET_INVALID_ARGUMENT;
  pthread_mutex_lock(&i->lock);
  bool again = i->stopping;
  note("stop callback=%d in_flight=%d", i->callback != NULL, i->in_flight);
  if (!again) {
    i->stopped = Block_copy(handler);
    i->stopped_queue = queue;
    i->stopping = true;
  }
  pthread_mutex_unlock(&i->lock);
  if (again) return VMNET_FAILURE;
  rules_clear(i->rules);
  wake(i);
  return VMNET_SUCCESS;
}
