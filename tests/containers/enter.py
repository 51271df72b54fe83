"""Runs a command in a container made of system calls alone: what a container engine does, in short.

    enter.py --root FOLDER --base UID [--read PATH ...] [--share OUTSIDE:INSIDE ...] -- COMMAND...

It has a pid, ipc, mount, network, user, uts and cgroup namespace of its own, in which its root is
the outside's UID; a root file system with nothing in it but the system's programs and what --read
names, both read-only, and what --share mounts; a /tmp; and a /dev/shm of 64 MB, as engines give.
FOLDER is an empty one, which stays empty outside. Needs root. SIGTERM goes to the command, whose
exit code this has; it ends with this, and this with who started it.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SHM_BYTES = 64 << 20
IDS = 65536

# <linux/sched.h>, <sys/mount.h>, <sys/prctl.h>, <linux/sockios.h>
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
PR_SET_PDEATHSIG = 1
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    given = [os.fsencode(a) if isinstance(a, str) else a for a in arguments]
    if getattr(libc, name)(*given) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")


def mount(source, target, kind=None, flags=0, data=None):
    call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def bind(source, target, writable):
    """What `source` is outside, at `target`, with all that is mounted in it."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    mount(source, target, None, MS_BIND | MS_REC)
    if not writable:
        mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def make_root(root, read, shares):
    """The file system, made as the outside's root, who may look into all folders."""
    call("unshare", NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("root", root, "tmpfs", MS_NOSUID, "mode=755")
    for folder in ("/tmp", "/dev/shm"):
        os.makedirs(root + folder)
    mount("tmp", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")
    for path in (*SYSTEM, *read, *DEVICES):
        if os.path.islink(path) and path in SYSTEM:
            os.symlink(os.readlink(path), root + path)
        elif os.path.exists(path):
            bind(path, root + path, path in DEVICES or path == "/proc")
    for outside, inside in shares:
        bind(outside, root + inside, True)
    os.chdir(root)
    call("pivot_root", ".", ".")
    call("umount2", ".", MNT_DETACH)
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)


def leave(base):
    """Into namespaces of their own. Only who stays outside can say what ids mean in there."""
    pid, (inside, outside) = os.getpid(), os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(outside)
        os.read(inside, 1)
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file:
                file.write(f"0 {base} {IDS}")
        os._exit(0)
    call("unshare", NEWUSER | NEWNS | NEWPID | NEWIPC | NEWNET | NEWUTS | NEWCGROUP)
    os.write(outside, b"x")
    os.close(outside)
    os.close(inside)
    if os.waitpid(helper, 0)[1] != 0:
        sys.exit("enter.py: the ids of the container could not be mapped")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack_from("h", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def end_with_parent():
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def become(command):
    """The first process of the pid namespace."""
    end_with_parent()
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
          f"mode=1777,size={SHM_BYTES}")  # fmt: skip
    socket.sethostname("container")
    raise_loopback()
    os.execvp(command[0], command)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--base", type=int, required=True)
    parser.add_argument("--read", action="append", default=[])
    parser.add_argument("--share", action="append", default=[])
    parser.add_argument("command", nargs="+")
    told = parser.parse_args()
    make_root(told.root, told.read, [share.split(":") for share in told.share])
    leave(told.base)
    end_with_parent()
    first = os.fork()
    if first == 0:
        try:
            become(told.command)
        except OSError as error:
            print(f"enter.py: {error}", file=sys.stderr, flush=True)
        os._exit(126)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda given, _frame: os.kill(first, given))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))


if __name__ == "__main__":
    main()
