/* What a vmnet client sees of macOS: the twin's public declarations.
 *
 * Prototypes, values and struct layouts follow Apple's documented interfaces (vmnet, xpc, dispatch),
 * written from the documentation. tests/unit/test_vmnet_abi.py holds the Python binding against Apple's
 * own headers; client.c holds this header against a compiler's blocks. */
#pragma once
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define EXPORT __attribute__((visibility("default")))

/* xpc: borrowed and owned objects as Apple has them; misuse aborts with a line that names it. */
typedef void *xpc_object_t;
struct _xpc_type_s { const char *name; };
typedef const struct _xpc_type_s *xpc_type_t;
typedef bool (^xpc_dictionary_applier_t)(const char *key, xpc_object_t value);

xpc_object_t xpc_dictionary_create(const char *const *keys, const xpc_object_t *values, size_t count);
void xpc_dictionary_set_uint64(xpc_object_t, const char *, uint64_t);
void xpc_dictionary_set_bool(xpc_object_t, const char *, bool);
void xpc_dictionary_set_string(xpc_object_t, const char *, const char *);
void xpc_dictionary_set_data(xpc_object_t, const char *, const void *, size_t);
xpc_object_t xpc_dictionary_get_value(xpc_object_t, const char *);
uint64_t xpc_dictionary_get_uint64(xpc_object_t, const char *);
bool xpc_dictionary_get_bool(xpc_object_t, const char *);
const char *xpc_dictionary_get_string(xpc_object_t, const char *);
const void *xpc_dictionary_get_data(xpc_object_t, const char *, size_t *);
bool xpc_dictionary_apply(xpc_object_t, xpc_dictionary_applier_t);
xpc_object_t xpc_array_create(const xpc_object_t *objects, size_t count);
void xpc_array_append_value(xpc_object_t, xpc_object_t);
size_t xpc_array_get_count(xpc_object_t);
xpc_object_t xpc_array_get_value(xpc_object_t, size_t);
xpc_object_t xpc_retain(xpc_object_t);
void xpc_release(xpc_object_t);
xpc_type_t xpc_get_type(xpc_object_t);

/* dispatch: serial queues of one thread each. */
typedef struct dispatch_queue_s *dispatch_queue_t;
typedef struct dispatch_semaphore_s *dispatch_semaphore_t;
typedef void (^dispatch_block_t)(void);
typedef uint64_t dispatch_time_t;
#define DISPATCH_TIME_FOREVER (~0ull)

dispatch_queue_t dispatch_queue_create(const char *label, void *attr);
void dispatch_async(dispatch_queue_t queue, dispatch_block_t block);
void dispatch_release(void *object);
dispatch_semaphore_t dispatch_semaphore_create(intptr_t value);
intptr_t dispatch_semaphore_wait(dispatch_semaphore_t, dispatch_time_t);
intptr_t dispatch_semaphore_signal(dispatch_semaphore_t);

/* vmnet */
typedef uint32_t vmnet_return_t, interface_event_t;
enum {
  VMNET_SUCCESS = 1000, VMNET_FAILURE, VMNET_MEM_FAILURE, VMNET_INVALID_ARGUMENT, VMNET_SETUP_INCOMPLETE,
  VMNET_INVALID_ACCESS, VMNET_PACKET_TOO_BIG, VMNET_BUFFER_EXHAUSTED, VMNET_TOO_MANY_PACKETS,
  VMNET_SHARING_SERVICE_BUSY, VMNET_NOT_AUTHORIZED
};
enum { VMNET_HOST_MODE = 1000, VMNET_SHARED_MODE, VMNET_BRIDGED_MODE };
enum { VMNET_INTERFACE_PACKETS_AVAILABLE = 1 << 0 };

struct vmpktdesc {
  size_t vm_pkt_size;
  struct iovec *vm_pkt_iov;
  uint32_t vm_pkt_iovcnt, vm_flags;
};
typedef struct vmnet_interface *interface_ref;
typedef void (^vmnet_start_interface_completion_handler_t)(vmnet_return_t, xpc_object_t);
typedef void (^vmnet_interface_event_callback_t)(interface_event_t, xpc_object_t);
typedef void (^vmnet_interface_completion_handler_t)(vmnet_return_t);
typedef void (^vmnet_interface_get_ip_port_forwarding_rules_handler_t)(xpc_object_t);

interface_ref vmnet_start_interface(xpc_object_t, dispatch_queue_t, vmnet_start_interface_completion_handler_t);
vmnet_return_t vmnet_interface_set_event_callback(interface_ref, interface_event_t, dispatch_queue_t,
                                                  vmnet_interface_event_callback_t);
vmnet_return_t vmnet_read(interface_ref, struct vmpktdesc *, int *);
vmnet_return_t vmnet_write(interface_ref, struct vmpktdesc *, int *);
vmnet_return_t vmnet_stop_interface(interface_ref, dispatch_queue_t, vmnet_interface_completion_handler_t);
vmnet_return_t vmnet_interface_add_ip_port_forwarding_rule(interface_ref, uint8_t, uint16_t, uint8_t, const void *,
                                                           uint16_t, vmnet_interface_completion_handler_t);
vmnet_return_t vmnet_interface_remove_ip_port_forwarding_rule(interface_ref, uint8_t, uint16_t, uint8_t,
                                                              vmnet_interface_completion_handler_t);
vmnet_return_t vmnet_interface_get_ip_port_forwarding_rules(
    interface_ref, uint8_t, vmnet_interface_get_ip_port_forwarding_rules_handler_t);
vmnet_return_t vmnet_ip_port_forwarding_rule_get_details(xpc_object_t, uint8_t *, uint16_t *, uint8_t, void *,
                                                         uint16_t *);
extern const char *vmnet_operation_mode_key, *vmnet_mac_address_key, *vmnet_mtu_key, *vmnet_max_packet_size_key,
    *vmnet_start_address_key, *vmnet_end_address_key, *vmnet_subnet_mask_key,
    *vmnet_estimated_packets_available_key, *vmnet_enable_isolation_key, *vmnet_read_max_packets_key,
    *vmnet_write_max_packets_key;

/* Not Apple's: how many xpc objects are alive, for leak checks. */
long twin_xpc_live(void);
