/* The twin driven by a compiler's blocks: proves the twin, not the binding.
 *
 * usage: client DIRECTORY - with TWIN_WIRE=unix:DIRECTORY/wire and TWIN_ANYUID set */
#include "twin.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { FRAMES = 5, LENGTH = 60 };

static int peer(const char *directory) {
  struct sockaddr_un own = {.sun_family = AF_UNIX}, wire = {.sun_family = AF_UNIX};
  snprintf(own.sun_path, sizeof own.sun_path, "%s/peer", directory);
  snprintf(wire.sun_path, sizeof wire.sun_path, "%s/wire", directory);
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  assert(!bind(fd, (void *)&own, sizeof own) && !connect(fd, (void *)&wire, sizeof wire));
  return fd;
}

int main(int argc, char **argv) {
  assert(argc == 2);
  dispatch_queue_t queue = dispatch_queue_create("client", NULL);
  dispatch_semaphore_t answered = dispatch_semaphore_create(0);
  xpc_object_t wanted = xpc_dictionary_create(NULL, NULL, 0);
  xpc_dictionary_set_uint64(wanted, vmnet_operation_mode_key, VMNET_SHARED_MODE);
  xpc_dictionary_set_bool(wanted, vmnet_enable_isolation_key, true);
  __block vmnet_return_t status = 0;
  __block uint64_t longest = 0;
  interface_ref i = vmnet_start_interface(wanted, queue, ^(vmnet_return_t answer, xpc_object_t parameters) {
    status = answer;
    if (parameters) longest = xpc_dictionary_get_uint64(parameters, vmnet_max_packet_size_key);
    dispatch_semaphore_signal(answered);
  });
  dispatch_semaphore_wait(answered, DISPATCH_TIME_FOREVER);
  assert(i && status == VMNET_SUCCESS && longest == 1514);

  __block int got = 0;
  status = vmnet_interface_set_event_callback(
      i, VMNET_INTERFACE_PACKETS_AVAILABLE, queue, ^(interface_event_t mask, xpc_object_t event) {
        char bytes[1514];
        struct iovec iov = {bytes, sizeof bytes};
        struct vmpktdesc packet = {sizeof bytes, &iov, 1, 0};
        int count = 1;
        while (vmnet_read(i, &packet, &count) == VMNET_SUCCESS && count) {
          got++;
          iov.iov_len = packet.vm_pkt_size = sizeof bytes;
        }
        dispatch_semaphore_signal(answered);
      });
  assert(status == VMNET_SUCCESS);
  int fd = peer(argv[1]);
  char frame[LENGTH] = {0};
  for (int n = 0; n < FRAMES; n++) assert(send(fd, frame, sizeof frame, 0) == sizeof frame);
  while (got < FRAMES) dispatch_semaphore_wait(answered, DISPATCH_TIME_FOREVER);

  struct iovec iov = {frame, sizeof frame};
  struct vmpktdesc packet = {sizeof frame, &iov, 1, 0};
  int count = 1;
  assert(vmnet_write(i, &packet, &count) == VMNET_SUCCESS && count == 1);
  assert(recv(fd, frame, sizeof frame, 0) == LENGTH);

  status = vmnet_interface_set_event_callback(i, VMNET_INTERFACE_PACKETS_AVAILABLE, NULL, NULL);
  assert(status == VMNET_SUCCESS);
  dispatch_semaphore_t ended = dispatch_semaphore_create(0);
  status = vmnet_stop_interface(i, queue, ^(vmnet_return_t answer) {
    status = answer;
    dispatch_semaphore_signal(ended);
  });
  assert(status == VMNET_SUCCESS);
  dispatch_semaphore_wait(ended, DISPATCH_TIME_FOREVER);
  xpc_release(wanted);
  printf("read %d, live xpc objects %ld\n", got, twin_xpc_live());
  return 0;
}
