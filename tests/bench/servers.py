"""What is measured: the daemon, the bare programs (peers), and the servers that others use for the
same (rivals). Each is a process of this one's, started when it is first needed and ended by its id.
"""

import getpass
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

START_S = 30  # also to stop


def pin(pid, cpu):
    """All threads of a process. Where the scheduler puts them decides more than anything else."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {cpu})


def wait_until(ready, process, what):
    until = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"bench: {what} does not start")
        time.sleep(0.02)


class Daemon:
    def __init__(self, binary, folder, *options):
        self.socket = folder / "tensord.sock"
        self.log_file = folder / "tensord.log"
        plain = {key: value for key, value in os.environ.items() if not key.startswith("TENSORD_")}
        command = [binary, "--socket", self.socket, "--tcp", "127.0.0.1:0"]
        command += ["--http", "127.0.0.1:0", "--memory-limit", "1GiB", *options]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=plain)
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.unix_url = f"unix://{self.socket}"

    def _wait(self):
        def ready():
            found = re.search(r"ready:.*", self.log_file.read_text(errors="replace"))
            if found:
                self.tcp_url = re.search(r"tcp://127\.0\.0\.1:\d+", found.group()).group()
                self.http_url = re.search(r"http://127\.0\.0\.1:\d+", found.group()).group()
            return found

        wait_until(ready, self.process, f"the daemon ({self.log_file.read_text()})")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code != 0:
            sys.exit(f"bench: the daemon ended badly:\n{self.log_file.read_text()}")


class Peers:
    """The bare programs; each is started when it is first needed."""

    def __init__(self, folder):
        self.folder = folder
        self.started = {}

    def get(self, kind):
        """The process, the Unix socket and the TCP port of that peer."""
        if kind not in self.started:
            path = self.folder / f"{kind}.sock"
            process = subprocess.Popen([self.folder / "peer", kind, path], stdout=subprocess.PIPE)
            port = process.stdout.readline().decode().strip()
            if not port:
                sys.exit(f"bench: the peer {kind} does not start")
            self.started[kind] = process, path, port
        return self.started[kind]

    def stop(self):
        for process, _, _ in self.started.values():
            process.kill()
            process.wait()
        self.started.clear()


# ---- rivals -------------------------------------------------------------------------------------


def accepts(address):
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as probe:
        return probe.connect_ex(address if family == socket.AF_INET else str(address)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Rival:
    def clean(self):
        """After its process has ended."""


class Redis(Rival):
    program = "redis-server"

    def __init__(self, folder):
        self.address = folder / "redis.sock"
        self.command = [self.program, "--port", "0", "--unixsocket", self.address, "--save", "",
                        "--appendonly", "no", "--daemonize", "no", "--dir", folder]


class Memcached(Rival):
    program = "memcached"

    def __init__(self, folder):
        self.address = folder / "memcached.sock"
        self.command = [self.program, "-s", self.address, "-m", "512", "-I", "128m", "-t", "1",
                        "-u", getpass.getuser()]


NGINX_CONF = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Nginx(Rival):
    """Serves files of N bytes, as /N, from a tmpfs."""

    program = "nginx"

    def __init__(self, folder):
        self.address = ("127.0.0.1", free_port())
        self.root = pathlib.Path("/dev/shm") / folder.name
        self.root.mkdir()
        conf = folder / "nginx.conf"
        conf.write_text(NGINX_CONF.format(folder=folder, port=self.address[1], root=self.root))
        self.command = [shutil.which(self.program), "-p", folder, "-e", "stderr", "-c", conf]

    def provide(self, size):
        file = self.root / str(size)
        if not file.exists():
            file.write_bytes(os.urandom(size))

    def clean(self):
        shutil.rmtree(self.root, ignore_errors=True)


KINDS = {"redis": Redis, "memcached": Memcached, "nginx": Nginx}


class Rivals:
    """What is installed of them; each is started when it is first needed."""

    def __init__(self, folder):
        self.folder = folder
        self.started = {}
        self.missing = set()

    def get(self, name):
        """Started, with `process` and `address`; None if it is not installed."""
        if name in self.started:
            return self.started[name]
        kind = KINDS[name]
        if not self.installed(kind.program):
            return None
        rival = kind(self.folder)
        with open(self.folder / f"{name}.log", "wb") as log:
            rival.process = subprocess.Popen(rival.command, stdout=log, stderr=log)
        self.started[name] = rival
        wait_until(lambda: accepts(rival.address), rival.process, name)
        return rival

    def installed(self, program):
        if shutil.which(program):
            return True
        if program not in self.missing:
            print(f"{program} is not installed, left out (run.py --peers installs it)")
            self.missing.add(program)
        return False

    def stop(self):
        for rival in self.started.values():
            rival.process.kill()
            rival.process.wait()
            rival.clean()
        self.started.clear()


def http_put(url, data):
    """Stores a tensor of bytes over HTTP."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=START_S)
    headers = {"Content-Type": "application/octet-stream"}
    connection.request("PUT", "/" + path, data, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    if answer.status not in (200, 201, 204):
        sys.exit(f"bench: PUT {url} is answered with {answer.status}: {text}")
