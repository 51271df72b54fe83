"""The daemon as a program: settings, sockets, tokens, log lines, and how it ends."""

import json
import os
import re
import resource
import signal
import socket
import stat
import tempfile
import threading
import time

import plain_client as plain
import pytest
from harness import MIB, SMALL, Daemon, get, ok, put, refused, run_tensord
from plain_client import PlainClient

TOKEN = "0123456789abcdef0123456789abcdef"


def option_rows(**how):
    """The flags of --help: name -> (argument, meaning, default)."""
    rows = {}
    for line in run_tensord("--help", **how).stdout.splitlines():
        found = re.match(r"  --(\S+)\s+(?:([A-Z:]+)\s+)?(.*?)(?: \[(.*)\])?$", line)
        if found:
            rows[found.group(1)] = found.groups()[1:]
    return rows


def limits_of_the_protocol():
    with open(plain.PROTOCOL_MD, encoding="utf-8") as file:
        return set(re.findall(r"`--([a-z-]+)`", file.read()))


@pytest.fixture
def folder():
    """Short enough for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="td-") as path:
        yield path


def fails(*arguments, code=None, env=None):
    """Runs a daemon that must refuse to start: what it says."""
    with tempfile.TemporaryDirectory(prefix="td-") as runtime:  # should one start all the same
        safe = {"XDG_RUNTIME_DIR": runtime, "TENSORD_TCP": "127.0.0.1:0",
                "TENSORD_HTTP": "127.0.0.1:0", "TENSORD_MEMORY_LIMIT": "64MiB"}  # fmt: skip
        done = run_tensord(*arguments, env={**safe, **(env or {})}, timeout=10)
    assert done.returncode != 0 and (code is None or done.returncode == code), done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


# ---- help and settings ---------------------------------------------------------------------------


def test_help_lists_every_limit_with_its_default():
    rows = option_rows()
    limits = limits_of_the_protocol() | {
        "memory-limit", "pool-limit", "max-body", "max-connections", "max-objects", "max-leases",
        "max-inflight", "max-queued", "max-names", "max-descriptors", "io-threads", "threads",
        "hello-timeout-ms", "io-timeout-ms", "drain-timeout-ms"}  # fmt: skip
    assert len(limits_of_the_protocol()) >= 10
    for limit in limits:
        argument, meaning, default = rows[limit]
        assert meaning and (default is None or default), limit
        if limit not in ("token-file", "load-dir", "save-dir"):
            assert re.fullmatch(r"\d+", default), (limit, default)
    for setting in ("config", "socket", "socket-mode", "tcp", "token-file", "log-format",
                    "load-dir", "save-dir"):
        assert rows[setting][2], setting
    assert {"help", "version"} <= set(rows)


def test_the_default_that_help_tells_is_used():
    with Daemon(*SMALL) as daemon, daemon.connect() as client:
        limits = dict(pair.split("=") for pair in client.welcome["limits"].split(" "))
        assert limits["max_inflight"] == option_rows()["max-inflight"][2]


@pytest.mark.parametrize("open_files", [1024, 4096, 8192, 20000])
def test_the_defaults_leave_descriptors_for_everybody(open_files):
    """All connections that there may be, and all memory: none keeps the others out."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < open_files:
        pytest.skip(f"this process may have {hard} files open")
    limits = (1024, open_files)
    rows = option_rows(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
    memory, sockets, http = (int(rows[name][2]) for name in (
        "max-descriptors", "max-connections", "http-connections"))  # fmt: skip
    assert memory >= 256 and http >= 64
    if open_files >= 4096:
        assert 2 * memory + 2 * sockets + http + 100 <= open_files


def test_version():
    done = run_tensord("--version")
    assert re.fullmatch(r"tensord \d+\.\d+\.\d+\n", done.stdout) and done.returncode == 0


@pytest.mark.parametrize("arguments, says", [
    (["--nonsense"], "--nonsense"), (["--memory"], "--memory"), (["-h"], "-h"),
    (["start"], "start"),
    (["--memory-limit"], "needs a value"), (["--memory-limit="], "memory-limit"),
    (["--memory-limit", "lots"], "lots"), (["--memory-limit", "-1"], "-1"),
    (["--memory-limit", "1XB"], "1XB"), (["--memory-limit", "99999999999999999999"], "9999"),
    (["--memory-limit", "99999999999TiB"], "TiB"), (["--memory-limit", "1.5GiB"], "1.5GiB"),
    (["--max-names", "0"], "max-names"), (["--max-names", "1k"], "1k"),
    (["--max-names", "4294967296"], "4294967296"), (["--io-timeout-ms", "-5"], "-5"),
    (["--io-timeout-ms", "soon"], "soon"), (["--io-threads", "0"], "io-threads"),
    (["--threads", "0"], "1 to 1024"), (["--threads", "1025"], "1 to 1024"),
    (["--socket-mode", "0999"], "0999"), (["--socket-mode", "7777"], "7777"),
    (["--socket-mode", "rw"], "rw"), (["--log-format", "xml"], "xml"),
    (["--no-socket", "--no-tcp", "--no-http"], "neither"),
    (["--socket", "", "--tcp", "", "--http", ""], "neither"),
])  # fmt: skip
def test_flags_that_are_wrong(arguments, says):
    message = fails(*arguments, code=2)
    assert says in message and message.startswith("tensord: ")


@pytest.mark.parametrize("address, says", [
    ("nonsense", "HOST:PORT"), ("127.0.0.1", "HOST:PORT"), (":7071", "HOST:PORT"),
    ("127.0.0.1:", "HOST:PORT"), ("127.0.0.1:http", "http"), ("127.0.0.1:99999", "99999"),
    ("x" * 400 + ":1", "HOST:PORT"), ("no.such.host.invalid:1", "no.such.host.invalid"),
])  # fmt: skip
def test_tcp_addresses_that_are_none(address, says):
    assert says in fails("--no-socket", "--tcp", address)


def memory_limit(*arguments, env=None):
    """The limit, in MiB, that a daemon started like this says it has."""
    with Daemon("--pool-limit", "0", *arguments, env=env) as daemon:
        return daemon.stats()["memory_limit_bytes"] / MIB


def test_flag_before_environment_before_file_before_default(folder):
    config = f"{folder}/config"
    with open(config, "w") as file:
        file.write("# a comment\n; another\nmemory-limit = 30MiB\nmax_names = 7\n")
    flag, env = ("--memory-limit", "10MiB"), {"TENSORD_MEMORY_LIMIT": "20MiB"}
    use = ("--config", config)
    assert memory_limit(*use, *flag, env=env) == 10
    assert memory_limit(*use, "--memory-limit=11MiB", env=env) == 11
    assert memory_limit(*use, env=env) == 20
    assert memory_limit(*use) == 30
    assert memory_limit(env={"TENSORD_CONFIG": config}) == 30
    with Daemon("--config", config) as daemon, daemon.connect() as client:
        for i in range(7):
            put(client, f"n{i}", b"x")
        reply = client.request("put", {"output": "n8", "dtype": "uint8", "shape": [1]}, b"x")
        refused(reply, "out_of_memory", text="max-names")


@pytest.mark.parametrize("text", ["64MiB", "64Mi", "67108864", "67108864B", "65536KiB", "65536kiB"])
def test_sizes(text):
    assert memory_limit("--memory-limit", text) == 64


def test_sizes_of_powers_of_ten():
    assert memory_limit("--memory-limit", "64MB") == 64e6 / MIB


def test_a_config_that_cannot_be_read(folder):
    missing = f"{folder}/missing"
    message = fails("--config", missing, code=2)
    assert missing in message and "No such file" in message
    message = fails("--config", folder, code=2)
    assert folder in message


@pytest.mark.parametrize("text, line, says", [
    ("memory-limit = 64MiB\nsome-thing = 3\n", 2, "some-thing"),
    ("memory-limit = 64MiB\n\n# fine\nmemory-limit\n", 4, None),
    ("\nmax-names = none\n", 2, "none"), ("help = yes\n", 1, "help"),
    ("memory-limit = 64MiB\n[broken\n", 2, None),
    ("bad-one = 1\nmemory-limit = 64MiB\nbad-two = 2\n", 1, "bad-one"),
])  # fmt: skip
def test_a_config_with_errors_names_the_line(folder, text, line, says):
    config = f"{folder}/config"
    with open(config, "w") as file:
        file.write(text)
    message = fails("--config", config, code=2)
    assert config in message and (says is None or says in message)
    assert re.search(rf"line {line}\b|:{line}\b", message), message


def test_a_config_line_that_is_too_long_is_not_cut(folder):
    config = f"{folder}/config"
    for value in ("t" * 300, "t" * 150 + " " * 100 + "t"):
        with open(config, "w") as file:
            file.write(f"token-file = {folder}/{value}\n")
        assert config in fails("--config", config, code=2)


def test_an_environment_that_is_wrong():
    message = fails(code=2, env={"TENSORD_MEMORY_LIMIT": "much"})
    assert "TENSORD_MEMORY_LIMIT" in message and "much" in message


# ---- the sockets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["0600", "0660", "0666"])
def test_path_and_mode_of_the_socket(folder, mode):
    path = f"{folder}/own.sock"
    before = os.umask(0o077)  # which must not matter
    try:
        options = ("--socket", path, "--socket-mode", mode, "--no-tcp")
        with Daemon(*SMALL, *options, bare=True) as daemon:
            info = os.stat(path)
            assert stat.S_ISSOCK(info.st_mode) and stat.S_IMODE(info.st_mode) == int(mode, 8)
            daemon.control = PlainClient(path)
            assert daemon.stats()["connections"] == 1
            assert f"unix://{path}" in daemon.log() and "tcp://" not in daemon.log()
    finally:
        os.umask(before)
    assert not os.path.exists(path)


def test_the_default_socket_is_in_the_runtime_folder(folder):
    with Daemon(*SMALL, "--no-tcp", env={"XDG_RUNTIME_DIR": folder}, bare=True) as daemon:
        assert f"unix://{folder}/tensord.sock" in daemon.log()
        PlainClient(f"{folder}/tensord.sock").close()


def test_a_stale_socket_is_replaced(folder):
    path = f"{folder}/s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    with Daemon(*SMALL, "--socket", path, "--no-tcp", bare=True):
        PlainClient(path).close()


def test_after_a_crash_the_daemon_starts_again(folder):
    path = f"{folder}/s"
    crashed = Daemon(*SMALL, "--socket", path, "--no-tcp", bare=True)
    crashed.kill()
    assert os.path.exists(path)
    with Daemon(*SMALL, "--socket", path, "--no-tcp", bare=True):
        PlainClient(path).close()


def test_a_socket_that_is_in_use(folder):
    with Daemon(*SMALL) as daemon:
        message = fails("--socket", daemon.socket, "--no-tcp", code=1)
        assert str(daemon.socket) in message and "another daemon" in message
        with daemon.connect() as client:  # and it is left alone
            assert client.request("ping", {}, b"x")[2] == b"x"


def test_a_path_that_is_no_socket(folder):
    path = f"{folder}/precious"
    with open(path, "w") as file:
        file.write("precious")
    assert path in fails("--socket", path, "--no-tcp", code=1)
    with open(path) as file:
        assert file.read() == "precious"
    assert folder in fails("--socket", folder, "--no-tcp", code=1)
    assert "missing" in fails("--socket", f"{folder}/missing/s", "--no-tcp", code=1)
    assert "107" in fails("--socket", f"{folder}/{'x' * 200}", "--no-tcp", code=1)


def test_a_port_that_is_in_use(folder):
    with Daemon(*SMALL) as daemon:
        address = daemon.tcp_url[len("tcp://") :]
        message = fails("--socket", f"{folder}/s", "--tcp", address, code=1)
        assert address in message and "in use" in message
        assert not os.path.exists(f"{folder}/s")


def test_tcp_alone(folder):
    with Daemon(*SMALL, "--no-socket", "--tcp", "127.0.0.1:0", bare=True) as daemon:
        assert "unix://" not in daemon.log()
        PlainClient(daemon.tcp_url).close()


def test_ip6(folder):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return  # a machine without IPv6
    with Daemon(*SMALL, "--no-socket", "--tcp", "[::1]:0", bare=True) as daemon:
        assert re.search(r"tcp://\[::1\]:\d+", daemon.log())
        PlainClient(daemon.tcp_url).close()


# ---- tokens --------------------------------------------------------------------------------------


def token_file(folder, text=TOKEN + "\n", mode=0o600):
    path = f"{folder}/token"
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


@pytest.mark.parametrize("text, mode, says", [
    ("short\n", 0o600, "16"), ("", 0o600, "16"), ("\n" + TOKEN, 0o600, "16"),
    ("x" * 5000, 0o600, "4095"), (TOKEN, 0o644, "chmod 600"), (TOKEN, 0o660, "chmod 600"),
    (TOKEN, 0o604, "chmod 600"),
])  # fmt: skip
def test_token_files_that_are_wrong(folder, text, mode, says):
    path = token_file(folder, text, mode)
    message = fails("--socket", f"{folder}/s", "--no-tcp", "--token-file", path)
    assert says in message and path in message
    assert TOKEN not in message


def test_a_token_file_that_is_none(folder):
    for path in (f"{folder}/missing", folder):
        assert path in fails("--socket", f"{folder}/s", "--no-tcp", "--token-file", path)


@pytest.mark.parametrize("text", [TOKEN, TOKEN + "\n", TOKEN + "\nmore\n"])
def test_the_right_token_opens(folder, text):
    with Daemon(*SMALL, "--token-file", token_file(folder, text)) as daemon:
        for url in (daemon.url, daemon.tcp_url):
            with PlainClient(url, token=TOKEN) as client:
                assert client.request("ping", {}, b"x")[2] == b"x"
            wrong = ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN[:-1] + "0", TOKEN * 2, TOKEN.upper()]
            for token in wrong:
                with pytest.raises(plain.Refused, match="unauthorized: th.*token"):
                    PlainClient(url, token=token)
            with PlainClient(url, hello=False) as client:
                refused(client.request("hello", {"protocol": 1}), "unauthorized", text="token")
                assert client.is_closed()
        with PlainClient(daemon.url, token=TOKEN) as client:
            key = client.welcome["session_key"]
            with pytest.raises(plain.Refused, match="unauthorized"):  # a key is no token
                PlainClient(daemon.url, session_key=key)
        assert TOKEN not in daemon.log()
        daemon.control = PlainClient(daemon.url, token=TOKEN)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_a_listener_beyond_loopback_needs_a_token(folder, address):
    message = fails("--no-socket", "--tcp", address, code=1)
    assert address in message and "--token-file" in message
    options = ("--no-socket", "--tcp", address, "--token-file", token_file(folder))
    with Daemon(*SMALL, *options, bare=True) as daemon:
        port = re.search(r"tcp://\S+:(\d+)", daemon.log()).group(1)
        PlainClient(f"tcp://127.0.0.1:{port}", token=TOKEN).close()


# ---- log lines -----------------------------------------------------------------------------------


def test_the_start_up_message_has_the_addresses():
    with Daemon(*SMALL) as daemon:
        log = daemon.log()
        assert f"unix://{daemon.socket}" in log and re.search(r"tcp://127\.0\.0\.1:[1-9]\d*", log)
        assert "256 MiB" in log and "no token" in log


def test_json_log_lines_parse(folder):
    odd = f'{folder}/a"b\\c\td'  # what JSON must escape
    daemon = Daemon(*SMALL, "--log-format", "json", "--socket", odd, "--no-tcp", bare=True)
    PlainClient(odd).close()
    lines = daemon.stop().splitlines()
    assert len(lines) >= 3
    entries = [json.loads(line) for line in lines]
    assert odd in entries[0]["message"] and entries[-1]["message"] == "stopped"
    for entry in entries:
        assert set(entry) >= {"time", "level", "message"} and entry["level"] == "info"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])


def test_errors_are_json_too_when_asked(folder):
    message = fails("--no-socket", "--tcp", "0.0.0.0:0", "--log-format", "json")
    assert json.loads(message)["level"] == "error"


# ---- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_daemon(number):
    daemon = Daemon(*SMALL)
    path = daemon.socket
    idle = [daemon.connect(), PlainClient(daemon.tcp_url), daemon.connect(hello=False)]
    put(idle[0], "kept", bytes(MIB))
    begun = time.monotonic()
    daemon.signal(number)
    assert all(client.is_closed() for client in idle)
    log = daemon.wait()
    assert time.monotonic() - begun < 5
    assert not os.path.exists(path)
    assert signal.Signals(number).name in log and "stopped" in log.splitlines()[-1]
    for client in idle:
        client.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_put_in_flight_is_answered(kind):
    daemon = Daemon(*SMALL)
    path = daemon.socket
    client = PlainClient(daemon.url if kind == "unix" else daemon.tcp_url)
    fields = {"output": "late", "dtype": "uint8", "shape": [8 * MIB]}
    frame = plain.build_frame("put", 1, fields, bytes(8 * MIB))
    client.send_raw(frame[: 3 * MIB])
    time.sleep(0.1)
    daemon.signal()
    for start in range(3 * MIB, len(frame), MIB):
        time.sleep(0.1)
        client.send_raw(frame[start : start + MIB])
    assert ok(client.wait(1))["nbytes"] == 8 * MIB
    assert client.is_closed()
    daemon.wait()
    assert not os.path.exists(path)
    client.close()


def test_a_get_in_flight_is_sent_whole():
    daemon = Daemon(*SMALL)
    client = daemon.connect()
    body = os.urandom(MIB) * 16
    put(client, "large", body)
    ids = [client.send("get", {"input": "large"}) for _ in range(3)]
    time.sleep(0.1)
    daemon.signal()
    time.sleep(0.3)
    for request in ids:
        assert client.wait(request)[2] == body
    assert client.is_closed()
    daemon.wait()
    client.close()


def test_jobs_in_flight_are_answered():
    daemon = Daemon(*SMALL)
    client = daemon.connect(timeout=30)
    ids = [client.send("randn", {"shape": [2 * MIB], "seed": i}) for i in range(8)]
    client.request("ping")  # so that they have been read
    daemon.signal()
    statuses = {client.wait(request)[0] for request in ids}
    assert statuses == {"ok"}
    assert client.is_closed()
    daemon.wait()
    client.close()


def test_a_put_that_never_ends_is_given_up():
    daemon = Daemon(*SMALL, "--drain-timeout-ms", "500")
    client = daemon.connect()
    client.send("put", {"output": "x", "dtype": "uint8", "shape": [MIB]}, b"", body_length=MIB)
    time.sleep(0.1)
    begun = time.monotonic()
    daemon.signal()
    assert client.is_closed()
    daemon.wait()
    assert 0.4 < time.monotonic() - begun < 5
    client.close()


def test_signals_again_and_again_while_draining():
    daemon = Daemon(*SMALL, "--drain-timeout-ms", "1000")
    client = daemon.connect()
    client.send("put", {"output": "x", "dtype": "uint8", "shape": [MIB]}, b"", body_length=MIB)
    time.sleep(0.1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        daemon.signal(number)
        time.sleep(0.05)
    daemon.wait()
    client.close()


def test_who_comes_while_it_stops_is_turned_away_at_once():
    """Else such a client waits, for what others have in flight, and gets no answer in the end."""
    daemon = Daemon(*SMALL, "--drain-timeout-ms", "5000")
    port = int(daemon.http_url.rsplit(":", 1)[1])
    client = daemon.connect()
    client.send("put", {"output": "x", "dtype": "uint8", "shape": [MIB]}, b"", body_length=MIB)
    time.sleep(0.1)
    daemon.signal()
    time.sleep(0.3)
    for come in (daemon.connect, lambda: PlainClient(daemon.tcp_url),
                 lambda: socket.create_connection(("127.0.0.1", port), 10)):  # fmt: skip
        with pytest.raises(ConnectionRefusedError):
            come()
    with Daemon(*SMALL, "--socket", daemon.socket, "--no-tcp", bare=True):  # takes its place
        PlainClient(f"unix://{daemon.socket}").close()
        client.send_raw(bytes(MIB))
        assert client.receive().header.status == 0
        client.close()
        assert daemon.process.wait(10) == 0
        PlainClient(f"unix://{daemon.socket}").close()
    daemon.wait()


def test_a_daemon_that_is_told_to_stop_at_once():
    for _ in range(3):
        Daemon(*SMALL).stop()


def test_hangups_and_pipes_do_not_end_it():
    with Daemon(*SMALL) as daemon:
        for number in (signal.SIGHUP, signal.SIGPIPE):
            daemon.signal(number)
        with daemon.connect() as client:
            assert client.request("ping", {}, b"x")[2] == b"x"


def test_a_second_start_on_the_same_addresses(folder):
    """Also the TCP port, although connections of the first one have just been closed by it."""
    path, boots, address = f"{folder}/s", set(), "127.0.0.1:0"
    for _ in range(3):
        with Daemon(*SMALL, "--socket", path, "--tcp", address, bare=True) as daemon:
            address = daemon.tcp_url[len("tcp://") :]
            client = PlainClient(daemon.tcp_url)
            boots.add(client.welcome["boot"])
            refused(client.request("info", {"input": "kept"}), "not_found")
            put(client, "kept", b"x")
        client.close()
    assert len(boots) == 3


def test_a_client_that_never_stops_asking_does_not_hold_it_up():
    """Requests that come after the signal need not be begun: the daemon ends before its limit."""
    daemon = Daemon(*SMALL, "--drain-timeout-ms", "8000")
    begun = None
    with daemon.connect() as client:
        waiting = [client.send("ping", {}, bytes(4000)) for _ in range(20)]
        try:
            for i in range(1000000):
                client.wait(waiting.pop(0))
                waiting.append(client.send("ping", {}, bytes(4000)))
                if i == 200:
                    begun = time.monotonic()
                    daemon.signal()
        except (plain.Disconnected, ConnectionError):
            pass
    daemon.wait()
    assert time.monotonic() - begun < 6


@pytest.mark.threads
def test_stopping_under_load():
    """Clients that work until the very end: each answer is whole, then the connection closes."""
    daemon = Daemon(*SMALL)
    failures = []

    def work(number):
        try:
            with PlainClient(daemon.url if number % 2 else daemon.tcp_url) as client:
                for i in range(100000):
                    body = bytes([number]) * (200000 + i % 7)
                    put(client, f"load/{number}", body)
                    assert get(client, f"load/{number}") == body
        except (plain.Disconnected, ConnectionError):
            return
        except BaseException as error:  # seen by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    daemon.signal()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    daemon.wait()
    assert not failures, failures


def test_the_path_of_casts_is_said_and_can_be_forced():
    for path, said in [("plain", "plain"), ("nonsense", "(plain|avx2)")]:
        with Daemon(*SMALL, env={"TENSORD_CAST_PATH": path}) as daemon:
            assert re.search(f"is ready: .*; {said} casts\n", daemon.log()), daemon.log()
