#!/bin/sh
# Runs a command as root in a copy of this machine that is gone when the command ends: an overlay in
# memory over /, in a mount, pid and host name space of its own. Users, sudoers, packages and files
# that the command adds never reach the machine. The network is the machine's own unless the caller
# says otherwise.
#
#   throwaway.sh COMMAND [ARGUMENT...]        SOFTNET_BASE=FOLDER: a copy of that system instead
set -eu
if [ "${SOFTNET_THROWAWAY:-}" != inside ]; then
  SOFTNET_THROWAWAY=inside exec unshare --mount --uts --pid --fork --kill-child "$0" "$@"
fi
unset SOFTNET_THROWAWAY
base=${SOFTNET_BASE:-/}
unset SOFTNET_BASE
# Mounted over /mnt in this mount namespace only, so that nothing has to be removed afterwards.
mount -t tmpfs -o mode=755 softnet-throwaway /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=$base,upperdir=/mnt/upper,workdir=/mnt/work softnet-throwaway /mnt/root
mount --rbind /dev /mnt/root/dev
mount -t proc proc /mnt/root/proc
mount -t sysfs -o ro sysfs /mnt/root/sys 2>/dev/null || true
exec chroot /mnt/root "$@"
