/* What the files of the twin's vmnet share. */
#pragma once
#include "twin.h"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { MAX_FRAME = 9014, LONGEST_BATCH = 256, OLD_BATCH = 200, RING = 2048, RULES = 64 };

/* wire.c: where frames come from and go to. */
struct wire {
  int fd;
  bool is_unix;
  struct sockaddr_un peer; /* of a unix wire: whoever sent last */
  socklen_t peer_length;
  char name[16];
};
bool wire_open(struct wire *, bool isolated, const char *gateway, unsigned mtu);
ssize_t wire_receive(struct wire *, void *, size_t);
ssize_t wire_send(struct wire *, const void *, size_t);

/* rules.c: port forwarding. */
struct rule {
  bool used;
  uint8_t protocol, family;
  uint16_t external, internal;
  uint8_t address[16];
};
void rules_open(void);
void rules_clear(struct rule rules[RULES]);

/* vmnet.c: an interface, its ring of received frames, and the one callback in flight. */
struct frame { uint16_t length; uint8_t bytes[MAX_FRAME]; };
struct vmnet_interface {
  pthread_mutex_t lock;
  struct wire wire;
  int wake; /* eventfd that ends the pump's poll */
  bool stopping, in_flight, edge_triggered, fresh;
  unsigned longest_frame, longest_batch;
  struct frame *ring;
  unsigned head, tail;
  unsigned long fired;
  vmnet_interface_event_callback_t callback;
  dispatch_queue_t callback_queue;
  interface_event_t mask;
  vmnet_interface_completion_handler_t stopped;
  dispatch_queue_t stopped_queue, own_queue; /* own: where rule handlers run */
  struct rule rules[RULES];
};
bool knob(const char *name);             /* the environment variable is set and not empty */
bool silent(const char *call);           /* TWIN_SILENT names this call: it never answers */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
