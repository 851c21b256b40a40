/* The twin's port forwarding: a table per interface, and with TWIN_NFT real DNAT in a table of its own.
 *
 * Rules are installed by a privileged shell that is started with the interface, as on macOS a daemon
 * does it: so they go on working after the client has dropped root, and they go with the client. */
#define _GNU_SOURCE
#include "internal.h"
#include <Block.h>
#include <arpa/inet.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DARWIN_AF_INET = 2, DARWIN_AF_INET6 = 30 };

static int helper = -1;

/* The shell runs one command a line, answers each with a line, and cleans up at end of file. */
void rules_open(void) {
  int pair[2];
  if (helper >= 0 || !knob("TWIN_NFT") || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) return;
  char script[160];
  snprintf(script, sizeof script,
           "while read -r l; do eval \"$l\" >/dev/null 2>&1; echo .; done; nft delete table ip twin%d 2>/dev/null",
           getpid());
  char *command[] = {"sh", "-c", script, NULL};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pair[1], 0);
  posix_spawn_file_actions_adddup2(&actions, pair[1], 1);
  pid_t child;
  if (!posix_spawn(&child, "/bin/sh", &actions, NULL, command, environ)) helper = pair[0];
  posix_spawn_file_actions_destroy(&actions);
  close(pair[1]);
}

static void run(const char *command) {
  char byte;
  if (helper < 0 || dprintf(helper, "%s\n", command) < 0) return;
  while (read(helper, &byte, 1) == 1 && byte != '\n') {}
}

static void forward(const struct rule *rule, const char *chain) {
  char address[16], command[256];
  inet_ntop(AF_INET, rule->address, address, sizeof address);
  snprintf(command, sizeof command, "nft add rule ip twin%d %s fib daddr type local %s dport %u dnat to %s:%u",
           getpid(), chain, rule->protocol == IPPROTO_TCP ? "tcp" : "udp", rule->external, address, rule->internal);
  run(command);
}

static void install(const struct rule rules[RULES]) {
  char command[320];
  int table = getpid();
  if (helper < 0) return;
  snprintf(command, sizeof command,
           "nft delete table ip twin%d; nft add table ip twin%d; "
           "nft 'add chain ip twin%d pre { type nat hook prerouting priority -100 ; }'; "
           "nft 'add chain ip twin%d out { type nat hook output priority -100 ; }'", table, table, table, table);
  run(command);
  for (int n = 0; n < RULES; n++)
    if (rules[n].used && rules[n].family == DARWIN_AF_INET) forward(&rules[n], "pre"), forward(&rules[n], "out");
}

void rules_clear(struct rule rules[RULES]) {
  char command[64];
  for (int n = 0; n < RULES; n++) rules[n].used = false;
  snprintf(command, sizeof command, "nft delete table ip twin%d", getpid());
  run(command);
}

static struct rule *find(struct rule rules[RULES], bool used, uint8_t protocol, uint16_t external, uint8_t family) {
  for (int n = 0; n < RULES; n++)
    if (rules[n].used == used && (!used || (rules[n].protocol == protocol && rules[n].external == external &&
                                            rules[n].family == family)))
      return &rules[n];
  return NULL;
}

static vmnet_return_t answer(interface_ref i, vmnet_return_t status, vmnet_interface_completion_handler_t handler) {
  if (!handler || silent("rule")) return VMNET_SUCCESS;
  handler = Block_copy(handler);
  dispatch_async(i->own_queue, ^{
    handler(status);
    Block_release(handler);
  });
  return VMNET_SUCCESS;
}

EXPORT vmnet_return_t vmnet_interface_add_ip_port_forwarding_rule(interface_ref i, uint8_t protocol, uint16_t external,
                                                                  uint8_t family, const void *address,
                                                                  uint16_t internal,
                                                                  vmnet_interface_completion_handler_t handler) {
  bool known = (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) &&
               (family == DARWIN_AF_INET || family == DARWIN_AF_INET6);
  note("add_rule protocol=%u external=%u family=%u internal=%u", protocol, external, family, internal);
  if (!i || !address || !external || !internal || !known) return VMNET_INVALID_ARGUMENT;
  struct rule *rule = find(i->rules, false, 0, 0, 0);
  if (!rule || find(i->rules, true, protocol, external, family)) return answer(i, VMNET_FAILURE, handler);
  *rule = (struct rule){true, protocol, family, external, internal, {0}};
  memcpy(rule->address, address, family == DARWIN_AF_INET ? 4 : 16);
  install(i->rules);
  return answer(i, VMNET_SUCCESS, handler);
}

EXPORT vmnet_return_t vmnet_interface_remove_ip_port_forwarding_rule(interface_ref i, uint8_t protocol,
                                                                     uint16_t external, uint8_t family,
                                                                     vmnet_interface_completion_handler_t handler) {
  note("remove_rule protocol=%u external=%u family=%u", protocol, external, family);
  if (!i) return VMNET_INVALID_ARGUMENT;
  struct rule *rule = find(i->rules, true, protocol, external, family);
  if (!rule) return answer(i, VMNET_FAILURE, handler);
  rule->used = false;
  install(i->rules);
  return answer(i, VMNET_SUCCESS, handler);
}

static xpc_object_t listed(struct rule rules[RULES], uint8_t family) {
  xpc_object_t array = NULL;
  for (int n = 0; n < RULES; n++) {
    if (!rules[n].used || rules[n].family != family) continue;
    xpc_object_t entry = xpc_dictionary_create(NULL, NULL, 0);
    xpc_dictionary_set_data(entry, "rule", &rules[n], sizeof rules[n]);
    if (!array) array = xpc_array_create(NULL, 0);
    xpc_array_append_value(array, entry);
    xpc_release(entry);
  }
  return array;
}

EXPORT vmnet_return_t vmnet_interface_get_ip_port_forwarding_rules(
    interface_ref i, uint8_t family, vmnet_interface_get_ip_port_forwarding_rules_handler_t handler) {
  if (!i || !handler) return VMNET_INVALID_ARGUMENT;
  xpc_object_t array = listed(i->rules, family); /* NULL: no rules */
  handler = Block_copy(handler);
  dispatch_async(i->own_queue, ^{
    handler(array);
    if (array) xpc_release(array);
    Block_release(handler);
  });
  return VMNET_SUCCESS;
}

EXPORT vmnet_return_t vmnet_ip_port_forwarding_rule_get_details(xpc_object_t entry, uint8_t *protocol,
                                                                uint16_t *external, uint8_t family, void *address,
                                                                uint16_t *internal) {
  size_t size = 0;
  const struct rule *rule = xpc_dictionary_get_data(entry, "rule", &size);
  if (!rule || size != sizeof *rule || rule->family != family) return VMNET_INVALID_ARGUMENT;
  *protocol = rule->protocol;
  *external = rule->external;
  *internal = rule->internal;
  memcpy(address, rule->address, family == DARWIN_AF_INET ? 4 : 16);
  return VMNET_SUCCESS;
}
