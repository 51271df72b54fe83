#!/usr/bin/env bash
# Starts systemd as the first process of a container made of namespaces, for test_systemd.py.
#
#   boot.sh FOLDER NAME   FOLDER has bin (becomes /usr/local/bin), etc (becomes /etc, and is written
#                         to) and root (empty, and stays so outside). NAME is a cgroup to be made.
#
# The programs are this machine's, read-only; everything else is empty, and no unit is known but
# those in etc/systemd/system. Runs as the real root, because systemd changes users and namespaces;
# the kernel's settings are read-only. Exits 77 where systemd could have no cgroups. Ends with who
# started it.

set -e
folder=$1 name=$2
cgroups=/sys/fs/cgroup

# Cgroups of its own, below those that this process has.
enter_cgroup() {
  mkdir -p "$1/$name" && echo $$ >"$1/$name/cgroup.procs"
}

prepare() {
  local root=$folder/root device
  mount --make-rprivate /
  mount -t tmpfs -o mode=755 root "$root"
  mkdir -p "$root"/{dev,etc,old,proc,root,run,sys,tmp,usr,var}
  for link in bin sbin lib lib64; do
    [ ! -L /$link ] || ln -s "usr/$link" "$root/$link"
  done
  mount --bind /usr "$root/usr" && mount -o remount,bind,ro "$root/usr"
  mount --bind "$folder/bin" "$root/usr/local/bin"
  mount --bind "$folder/etc" "$root/etc"
  mount -t proc proc "$root/proc"
  mount --bind "$root/proc/sys" "$root/proc/sys" && mount -o remount,bind,ro "$root/proc/sys"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t tmpfs run "$root/run"
  for device in null zero full random urandom; do
    touch "$root/dev/$device" && mount --bind /dev/$device "$root/dev/$device"
  done
  mkdir "$root/dev/shm" && mount -t tmpfs -o size=64m shm "$root/dev/shm"
  if [ "$(stat -f -c %T $cgroups)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup "$root$cgroups"
  else
    mount -t tmpfs cgroup "$root$cgroups" && mkdir "$root$cgroups"/{systemd,unified}
    mount -t cgroup -o none,name=systemd cgroup "$root$cgroups/systemd"
    mount -t cgroup2 cgroup "$root$cgroups/unified"
  fi
  ip link set lo up
  cd "$root" && pivot_root . old && umount -l /old
  mount --make-rshared / # as systemd does where it is in no container
}

if [ "${3:-}" != inside ]; then
  if [ "$(stat -f -c %T $cgroups)" = cgroup2fs ]; then
    enter_cgroup $cgroups || exit 77
  else
    { enter_cgroup $cgroups/systemd && enter_cgroup $cgroups/unified; } || exit 77
  fi
  exec setpriv --pdeathsig KILL \
    unshare --fork --kill-child --pid --mount --net --ipc --uts --cgroup \
    bash "$0" "$folder" "$name" inside
fi
prepare
exec env -i container=other PATH=/usr/sbin:/usr/bin SYSTEMD_UNIT_PATH=/etc/systemd/system \
  /lib/systemd/systemd --unit=basic.target
