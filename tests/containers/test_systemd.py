"""The units of deploy/systemd under a real systemd, in a container of this machine's programs."""

import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest
from containers import ROOT, START_S, STOP_S, binary, need_namespaces, temporary_folder

BOOT = pathlib.Path(__file__).with_name("boot.sh")
UNITS = ROOT / "deploy/systemd"
SYSTEMD = "/lib/systemd/systemd"
RUN_S = 60
ENVIRONMENT = ("PATH=/usr/local/bin:/usr/sbin:/usr/bin", "SYSTEMD_UNIT_PATH=/etc/systemd/system")


class Machine:
    """What boot.sh starts. run(command) runs a shell's command in it."""

    def __init__(self, folder):
        self.folder = folder
        self.name = f"tensord-test-{os.getpid()}"
        self.process = subprocess.Popen(["bash", BOOT, folder, self.name])
        try:
            self.pid = self._wait_for(self._first_process, "systemd has not started")
            self._wait_for(lambda: self.run("systemctl is-active basic.target", check=False) ==
                           "active", "systemd has not reached its target")  # fmt: skip
        except BaseException:
            self.close()
            raise

    def _wait_for(self, condition, otherwise):
        deadline = time.monotonic() + START_S
        while not (found := condition()):
            if self.process.poll() == 77:
                pytest.skip("systemd can have no cgroups here")
            assert self.process.poll() is None and time.monotonic() < deadline, otherwise
            time.sleep(0.05)
        return found

    def _first_process(self):
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        for pid in pathlib.Path(children).read_text().split():
            if os.readlink(f"/proc/{pid}/exe") == os.path.realpath(SYSTEMD):
                return pid
        return None

    def run(self, command, check=True):
        enter = ["nsenter", "-t", self.pid, "-m", "-p", "-n", "-i", "-u", "-C", "--"]
        done = subprocess.run([*enter, "env", "-i", *ENVIRONMENT, "sh", "-c", command],
                              capture_output=True, text=True, timeout=RUN_S)  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def drop_in(self, unit, *lines):
        """Settings that are read after the unit's own, at the next daemon-reload."""
        path = self.folder / "etc/systemd/system" / f"{unit}.d/more.conf"
        path.parent.mkdir()
        path.write_text("\n".join(lines) + "\n")

    def close(self):
        self.process.kill()  # and all processes in there with it
        self.process.wait()
        deadline = time.monotonic() + STOP_S
        for top in ("", "systemd", "unified"):
            own = pathlib.Path("/sys/fs/cgroup") / top / self.name
            while own.is_dir():
                for folder, _, _ in os.walk(own, topdown=False):
                    try:
                        os.rmdir(folder)
                    except OSError:  # its processes are still ending
                        assert time.monotonic() < deadline, f"{folder} is in use"
                        time.sleep(0.05)


@pytest.fixture(scope="module")
def machine():
    need_namespaces()
    if not os.access(SYSTEMD, os.X_OK):
        pytest.skip("systemd is not here (Debian package systemd)")
    with temporary_folder() as folder:
        for name in ("bin", "etc/systemd/system", "etc/sysusers.d", "root"):
            (folder / name).mkdir(parents=True)
        daemon = pathlib.Path(binary())
        for program in (daemon, daemon.parent / "client/cli/tensorctl"):
            shutil.copy(program, folder / "bin")
        for unit in UNITS.glob("tensord*.s*"):
            shutil.copy(unit, folder / "etc/systemd/system")
        shutil.copy(UNITS / "sysusers.conf", folder / "etc/sysusers.d/tensord.conf")
        shutil.copy("/etc/ld.so.cache", folder / "etc")
        (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (folder / "etc/group").write_text("root:x:0:\n")
        (folder / "etc/machine-id").write_text("0" * 31 + "1\n")  # without one it is a first boot
        # What the units name; those of this machine would bring all its services.
        for target in ("basic", "sysinit", "sockets", "multi-user", "shutdown"):
            (folder / f"etc/systemd/system/{target}.target").write_text(
                f"[Unit]\nDescription={target}\nDefaultDependencies=no\n")  # fmt: skip
        (folder / "etc/default").mkdir()
        (folder / "etc/default/tensord").write_text("TENSORD_MEMORY_LIMIT=64MiB\n")
        booted = Machine(folder)
        try:
            yield booted
        finally:
            booted.close()


def test_a_client_starts_the_service(machine):
    machine.run("systemd-sysusers && systemctl daemon-reload")
    machine.run("systemctl enable --now tensord.socket tensord-tcp.socket tensord-http.socket")
    assert machine.run("systemctl is-active tensord.service", check=False) == "inactive"
    assert machine.run("stat -c '%a %U %G' /run/tensord/tensord.sock") == "660 tensord tensord"
    machine.run("echo '[1, 2, 3]' | tensorctl put x --format json -")
    assert machine.run("systemctl is-active tensord.service") == "active"
    for url in ("unix:///run/tensord/tensord.sock", "tcp://127.0.0.1:7071"):
        assert "tensor([1, 2, 3])" in machine.run(f"tensorctl --url {url} show x")
    assert machine.run("systemctl show -p StatusText tensord") == (
        "StatusText=Serving unix:///run/tensord/tensord.sock, tcp://127.0.0.1:7071, "
        "http://127.0.0.1:7070")  # fmt: skip


def test_the_service_is_confined(machine):
    machine.run("tensorctl ping --count 1")
    main = machine.run("systemctl show -p MainPID --value tensord")
    status = machine.run(f"cat /proc/{main}/status")
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1",
                 "Seccomp:\t2"):  # fmt: skip
        assert line in status
    assert machine.run(f"stat -c %U /proc/{main}") == "tensord"
    for kind in ("net", "mnt", "ipc"):
        assert machine.run(f"readlink /proc/{main}/ns/{kind}") != machine.run(
            f"readlink /proc/1/ns/{kind}")  # fmt: skip


def test_a_restart_turns_nobody_away(machine):
    machine.run("tensorctl ping --count 1")
    first = machine.run("systemctl show -p MainPID --value tensord")
    machine.run("systemctl restart tensord && tensorctl ping --count 1")
    second = machine.run("systemctl show -p MainPID --value tensord")
    machine.run("systemctl stop tensord.service && tensorctl ping --count 1")
    third = machine.run("systemctl show -p MainPID --value tensord")
    assert len({first, second, third, "0"}) == 4
    assert machine.run("systemctl show -p Result --value tensord") == "success"


def test_beyond_loopback_it_refuses_without_a_token(machine):
    units = "tensord.socket tensord-tcp.socket tensord-http.socket"
    machine.drop_in("tensord-tcp.socket", "[Socket]", "ListenStream=", "ListenStream=7071")
    machine.run("systemctl stop tensord.service tensord-tcp.socket")
    machine.run("systemctl daemon-reload && systemctl start tensord-tcp.socket")
    machine.run("tensorctl --timeout 2s ping --count 1", check=False)  # which would start it
    machine.run(f"timeout {START_S} sh -c 'until systemctl is-failed tensord; do sleep 0.05; done'")
    assert machine.run("systemctl show -p ExecMainStatus --value tensord") == "1"
    # With the secret as the unit's comment says, it starts.
    machine.run("mkdir /etc/tensord && umask 077 && "
                "echo 0123456789abcdef0123456789abcdef >/etc/tensord/token")  # fmt: skip
    said = re.findall("^#(LoadCredential.*|Environment.*)$",
                      (UNITS / "tensord.service").read_text(), re.M)  # fmt: skip
    assert len(said) == 2
    machine.drop_in("tensord.service", "[Service]", *said)
    machine.run(f"systemctl daemon-reload && systemctl reset-failed tensord.service {units}")
    machine.run(f"systemctl restart {units}")
    given = "tensorctl --url tcp://127.0.0.1:7071 --token-file /etc/tensord/token"
    machine.run(f"{given} ping --count 1")
    refused = machine.run("tensorctl ping --count 1 2>&1", check=False)
    assert "token" in refused
