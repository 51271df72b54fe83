"""What a holder of a memfd can try, to change bytes that it may only read.

Everything that a process can do with a descriptor for reading, with a mapping for reading, and with
what it can open anew through /proc. Without NumPy, and all is imported at once: the process that
does this has given up its right to read files.
"""

import ctypes
import errno
import fcntl
import mmap
import os

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long)  # fmt: skip
LIBC.mprotect.argtypes = LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
LIBC.mremap.restype = ctypes.c_void_p
LIBC.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
LIBC.process_vm_writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p,
                                   ctypes.c_ulong, ctypes.c_ulong)  # fmt: skip
FAILED = ctypes.c_void_p(-1).value
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
MADV_REMOVE, MREMAP_MAYMOVE = 9, 1
PAGE = mmap.PAGESIZE
EVIL = b"\xee" * PAGE


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def call(function, *arguments):
    """Of libc's functions that return -1 or MAP_FAILED; OSError then."""
    result = function(*arguments)
    if result in (-1, FAILED):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def map_shared(fd, size, protection):
    return call(LIBC.mmap, None, size, protection, mmap.MAP_SHARED, fd, 0)


def write_mapped(fd, size):
    ctypes.memmove(map_shared(fd, size, READ | WRITE), EVIL, PAGE)


def protect(fd, size):
    address = map_shared(fd, size, READ)
    call(LIBC.mprotect, address, size, READ | WRITE)
    ctypes.memmove(address, EVIL, PAGE)


def remap(fd, size):
    """Another mapping of the same pages, made of one for reading."""
    address = call(LIBC.mremap, map_shared(fd, size, READ), 0, size, MREMAP_MAYMOVE)
    call(LIBC.mprotect, address, size, READ | WRITE)
    ctypes.memmove(address, EVIL, PAGE)


def map_files(fd, size):
    """The kernel's other way to open what is mapped."""
    address = map_shared(fd, size, READ)
    end = address + (size + PAGE - 1) // PAGE * PAGE
    again = os.open(f"/proc/self/map_files/{address:x}-{end:x}", os.O_RDWR)
    os.pwrite(again, EVIL, 0)


def proc_mem(fd, size):
    """As a debugger writes: also where the page is read-only, if it may be copied."""
    address = map_shared(fd, size, READ)
    memory = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(memory, EVIL, address)


def vm_writev(fd, size):
    address = map_shared(fd, size, READ)
    evil = ctypes.create_string_buffer(EVIL)
    local, remote = Iovec(ctypes.addressof(evil), PAGE), Iovec(address, PAGE)
    call(LIBC.process_vm_writev, os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def remove_mapped(fd, size, protection=READ):
    call(LIBC.madvise, map_shared(fd, size, protection), PAGE, MADV_REMOVE)


def source_of(data):
    source = os.memfd_create("evil")
    os.write(source, data)
    os.lseek(source, 0, os.SEEK_SET)
    return source


def splice(fd):
    reading, writing = os.pipe()
    os.write(writing, EVIL)
    os.splice(reading, fd, PAGE, offset_dst=0)


def dig(fd, mode, offset, size):
    call(LIBC.fallocate, fd, mode, offset, size)


def with_descriptor(fd, size):
    """By name: what can be tried with one descriptor."""
    return {
        "pwrite": lambda: os.pwrite(fd, EVIL, 0),
        "write": lambda: os.write(fd, EVIL),
        "pwritev": lambda: os.pwritev(fd, [EVIL], 0),
        "append": lambda: os.pwrite(fd, EVIL, size),
        "truncate": lambda: os.ftruncate(fd, 0),
        "grow": lambda: os.ftruncate(fd, 2 * size + PAGE),
        "punch": lambda: dig(fd, PUNCH_HOLE | KEEP_SIZE, 0, PAGE),
        "collapse": lambda: dig(fd, COLLAPSE, 0, PAGE),
        "zero": lambda: dig(fd, ZERO, 0, PAGE),
        "insert": lambda: dig(fd, INSERT, 0, PAGE),
        "sendfile": lambda: os.sendfile(fd, source_of(EVIL), 0, PAGE),
        "copy_file_range": lambda: os.copy_file_range(source_of(EVIL), fd, PAGE, 0, 0),
        "splice": lambda: splice(fd),
        "map": lambda: write_mapped(fd, size),
        "mprotect": lambda: protect(fd, size),
        "mremap": lambda: remap(fd, size),
        "map_files": lambda: map_files(fd, size),
        "/proc/self/mem": lambda: proc_mem(fd, size),
        "process_vm_writev": lambda: vm_writev(fd, size),
        "remove": lambda: remove_mapped(fd, size),
        "remove, writable": lambda: remove_mapped(fd, size, READ | WRITE),
        "seal writing": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        "seal growing": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW),
    }


def result_of(action):
    try:
        action()
        return "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def reopened(path):
    """Descriptors of what is at the path, by how it was opened."""
    flags = {"rw": os.O_RDWR, "w": os.O_WRONLY, "trunc": os.O_RDWR | os.O_TRUNC,
             "append": os.O_WRONLY | os.O_APPEND}  # fmt: skip
    found = {}
    for name, how in flags.items():
        try:
            found[name] = os.open(path, how)
        except OSError:
            pass
    return found


def attack(fd, size):
    """Tries everything; returns (what was tried, what the kernel let pass)."""
    tries = {f"given, {name}": action for name, action in with_descriptor(fd, size).items()}
    try:
        tries_of = {"duplicate": os.dup(fd), **reopened(f"/proc/self/fd/{fd}")}
        for how, again in tries_of.items():
            for name, action in with_descriptor(again, size).items():
                tries[f"{how}, {name}"] = action
        results = {name: result_of(action) for name, action in tries.items()}
    except ValueError as error:  # a bug of this file
        raise AssertionError(error) from error
    return sorted(tries), sorted(name for name, result in results.items() if result == "done")
