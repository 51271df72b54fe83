"""The systemd units of deploy/systemd: well formed, tight, and not too tight for the daemon."""

import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request

import pytest
from harness import MIB, ROOT, SMALL, Daemon, Mapping, binary, get, ok, put
from plain_client import PlainClient

UNITS = ROOT / "deploy/systemd"
EXPOSURE_MAX = 2.0  # of 10, as systemd-analyze security rates it


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="td-") as path:
        yield pathlib.Path(path)


@pytest.fixture
def analyze():
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("systemd-analyze is not here (Debian package systemd)")

    def run(*arguments):
        done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True,
                              timeout=60)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_units_are_well_formed(folder, analyze):
    for unit in UNITS.glob("tensord*.s*"):
        text = unit.read_text().replace("ExecStart=tensord ", f"ExecStart={binary()} ")
        (folder / unit.name).write_text(text)
    units = sorted(folder.glob("tensord*"))
    assert len(units) == 4
    code, said = analyze("verify", "--man=no", *units)
    assert code == 0 and not said.strip(), said


def test_the_service_is_exposed_little(analyze):
    code, said = analyze("security", "--offline=true", UNITS / "tensord.service")
    found = re.search(r"Overall exposure level for tensord.service: ([0-9.]+)", said)
    assert found, said
    print(f"systemd-analyze security: {found.group(1)}")
    assert float(found.group(1)) <= EXPOSURE_MAX, said


# ---- the system call filter ----------------------------------------------------------------------

# <linux/filter.h>, <linux/seccomp.h>, <linux/prctl.h>, <linux/audit.h>
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO, EPERM = 0x7FFF0000, 0x00050000, 1
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38


def numbers_of_calls():
    """Name -> number, of this machine's system calls."""
    command = ["gcc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {name: int(number)
            for name, number in re.findall(r"#define __NR_(\w+) (\d+)$", asked.stdout, re.M)}


def calls_of(analyze, group):
    """The system calls of one of systemd's groups, with the groups in it."""
    code, said = analyze("syscall-filter", "--no-pager", group)
    assert code == 0, said
    found = set()
    for word in re.findall(r"^    ([@\w-]+)$", said, re.M):
        found |= calls_of(analyze, word) if word.startswith("@") else {word}
    return found


def allowed_calls(analyze):
    """As SystemCallFilter= lines add and, with ~, take away. systemd allows @default always."""
    allowed = calls_of(analyze, "@default")
    unit = (UNITS / "tensord.service").read_text()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
        calls = set().union(*(calls_of(analyze, word) for word in line.lstrip("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def filter_program(numbers):
    """Everything but these fails, as with SystemCallErrorNumber=EPERM."""
    steps = [struct.pack("HBBI", LOAD, 0, 0, 0)]
    for number in sorted(numbers):
        steps.append(struct.pack("HBBI", JUMP_IF_EQUAL, 0, 1, number))
        steps.append(struct.pack("HBBI", RETURN, 0, 0, ALLOW))
    steps.append(struct.pack("HBBI", RETURN, 0, 0, ERRNO | EPERM))
    return b"".join(steps)


# Becomes the daemon without capabilities, and with the filter that the file holds.
CONFINE = """#!{python}
import ctypes, os, struct, sys
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
program = open("{program}", "rb").read()
steps = ctypes.create_string_buffer(program)
fprog = ctypes.create_string_buffer(
    struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps)))
for capability in range(41):
    prctl({drop}, capability, 0, 0, 0)
prctl({no_new}, 1, 0, 0, 0)
if prctl({seccomp}, 2, ctypes.addressof(fprog), 0, 0) != 0:
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execv("{daemon}", ["{daemon}", *sys.argv[1:]])
"""


def test_the_daemon_works_with_the_filter(folder, analyze, monkeypatch):
    numbers = numbers_of_calls()
    allowed = allowed_calls(analyze)
    assert {"memfd_create", "sendmsg", "fallocate"} <= allowed
    assert not {"ptrace", "mount", "setrlimit", "chown", "bpf"} & allowed
    program = filter_program(numbers[name] for name in allowed if name in numbers)
    (folder / "program").write_bytes(program)
    confined = folder / "tensord"
    confined.write_text(CONFINE.format(
        python=sys.executable, program=folder / "program", daemon=binary(),
        drop=PR_CAPBSET_DROP, no_new=PR_SET_NO_NEW_PRIVS, seccomp=PR_SET_SECCOMP))  # fmt: skip
    confined.chmod(0o700)
    monkeypatch.setenv("TENSORD_BIN", str(confined))
    # The leak check of the sanitizers' builds looks into its own process with ptrace.
    with Daemon(*SMALL, env={"ASAN_OPTIONS": "detect_leaks=0"}) as daemon:
        with open(f"/proc/{daemon.pid}/status") as file:
            status = file.read()
        assert re.search(r"^Seccomp:\t2$", status, re.M)
        assert re.search(r"^CapEff:\t0+$", status, re.M)
        for url in (daemon.url, daemon.tcp_url):
            with PlainClient(url) as client:
                put(client, "x", bytes(8 * MIB), mutable=True)
                assert get(client, "x") == bytes(8 * MIB)
                ok(client.request("randn", {"output": "r", "shape": [MIB], "seed": 1}))
                ok(client.request("to", {"input": "r", "output": "h", "dtype": "float16"}))
        with PlainClient(daemon.url) as client:
            mapped = Mapping(client, "x", write=True)
            mapped.view[0] = 7
            assert get(client, "x")[0] == 7
            mapped.close()
        with urllib.request.urlopen(f"{daemon.http_url}/v1/tensors/h?format=npy",
                                    timeout=30) as answer:  # fmt: skip
            assert len(answer.read()) > 2 * MIB
