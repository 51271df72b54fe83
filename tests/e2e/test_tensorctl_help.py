"""What tensorctl says of itself: its help, the command line, the man page, completion in shells."""

import os
import re
import shutil
import subprocess

import numpy as np
from test_tensorctl import PATIENCE_S, ROOT, binary, ctl, environment  # noqa: F401
from test_tensorctl_terminal import Terminal

MAN_PAGE = ROOT / "client/cli/tensorctl.1"


def commands(ctl):
    """Of the overview: name and summary."""
    listed = ctl.text("--help").split("\ncommands\n")[1].split("\n\n")[0]
    return dict(line.strip().split(None, 1) for line in listed.splitlines())


def options(page):
    """The long options that a help page lists, each with what stands before and behind it."""
    return re.findall(r"^  (?:-(\w), |    )--([\w-]+)(?: ([A-Z]+))?  +\S", page, re.MULTILINE)


def test_help(ctl):
    assert ctl.text("help") == ctl.text("--help") == ctl.text("-h")
    assert set(commands(ctl)) == {
        "ls", "info", "show", "put", "get", "load", "save", "rm", "mv", "seal", "op", "stats",
        "leases", "principals", "watch", "wait", "queue", "ping", "completion", "help",
    }  # fmt: skip
    for name, summary in commands(ctl).items():
        page = ctl.text("help", name)
        assert page == ctl.text(name, "--help")
        assert page.startswith(f"tensorctl {name}: {summary}\n\nusage  tensorctl {name}")
        assert all(len(line) <= 100 for line in page.splitlines()), page
    assert ctl.text("--version") == "tensorctl 0.1.0\n"
    assert "replaced (or its tensor touched)" in ctl.text("help", "watch")


def test_the_command_line(ctl, client):
    client["-x"] = np.arange(2)
    assert ctl.text("show", "--", "-x") == ctl.text("--", "show", "-x") == "tensor([0, 1])\n"
    assert ctl.text("--no-color", "ls", "--names") == ctl.text("ls", "-q1") == "-x\n"
    for words, said in (
        ([], "no command was given"),
        (["sl"], "did you mean 'ls'"),
        (["list"], "did you mean 'ls'?"),
        (["delete", "x"], "did you mean 'rm'?"),
        (["queues"], "did you mean 'queue ls'?"),
        (["expire", "x"], "did you mean 'op expire'?"),
        (["--josn", "ls"], "did you mean '--json'"),
        (["ls", "--falt"], "did you mean '--flat'"),
        (["ls", "a", "b"], "'b' is one argument too many"),
        (["ls", "--flat=yes"], "--flat takes no value"),
        (["ls", "--dtype"], "--dtype needs a value"),
        (["ls", "--dtype", "flaot32"], "did you mean 'float32'"),
        (["ls", "--min-size", "1KX"], "takes a size"),
        (["ls", "--kind", "view"], "tensor or variable"),
        (["ls", "--device", "gpu"], "--device is cpu, cuda or cuda:N, not 'gpu'"),
        (["put", "x"], "put NAME FILE|-"),
        (["ping", "-c", "-1"], "a number from 1"),
        (["watch", "-i", "1ms"], "-i"),
        (["wait"], "NAME"),
        (["seal"], "NAME"),
        (["seal", "x", "--wait", "soon"], "soon"),
        (["leases", "x"], "one argument too many"),
        (["wait", "x", "-g", "0"], "a number from 1"),
        (["help", "lss"], "did you mean 'ls'"),
        (["completion", "fish"], "bash or zsh"),
    ):
        assert said in ctl.refuses(*words, code=2)


def test_the_man_page_is_complete(ctl):
    """Every command, option and exit code stands in it, with the same words around."""
    page = MAN_PAGE.read_text().replace("\\-", "-")
    for name in commands(ctl):
        section = re.split(rf"\n\.TP\n\.(?:B|BR) {name}\b", page)
        assert len(section) == 2, name
        body = re.split(r"\n\.RE\n|\n\.SH ", section[1])[0]
        for letter, option, argument in options(ctl.text("help", name)):
            assert f"--{option}" in body, (name, option)
            assert not letter or f"-{letter}" in body, (name, option)
            assert argument in body
    general = page.split("\n.SH OPTIONS\n")[1].split("\n.SH ")[0]
    listed = options(ctl.text("--help"))
    assert listed and all(f"--{option}" in general for _, option, _ in listed)
    codes = ctl.text("--help").split("exit codes\n")[1].split("\n\n")[0]
    told = page.split("\n.SH EXIT STATUS\n")[1].split("\n.SH ")[0]
    in_help = [line.split()[0] for line in codes.splitlines()]
    assert re.findall(r"^\.B (\d+)$", told, re.MULTILINE) == in_help


def test_the_man_page_is_well_formed():
    if not shutil.which("man"):
        pages = MAN_PAGE.read_text().splitlines()
        assert pages[0].startswith(".TH TENSORCTL 1") and ".SH NAME" in pages
        return
    done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", str(MAN_PAGE)],
                          capture_output=True, text=True, timeout=PATIENCE_S,
                          env={**os.environ, "MANPAGER": "cat", "LC_ALL": "C.UTF-8"})  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "tensorctl - the tensors of a tensord daemon" in done.stdout


COMPLETE = r"""
source <("$CTL" completion bash)
while IFS= read -r LINE; do
    COMP_LINE=$LINE COMP_POINT=${#LINE}
    _tensorctl
    printf '%s\n' "${COMPREPLY[@]}" "--"
done
"""


def complete(ctl, *lines, **more):
    """What bash offers behind each line that begins with tensorctl."""
    typed = "".join(line.replace("tensorctl", binary(), 1) + "\n" for line in lines)
    done = subprocess.run(["bash", "--norc", "-c", COMPLETE], input=typed, capture_output=True,
                          text=True, env=environment(ctl.url, CTL=binary(), **more),
                          timeout=PATIENCE_S)  # fmt: skip
    assert done.stderr == ""
    answers = done.stdout.split("--\n")
    assert answers.pop() == "" and len(answers) == len(lines)
    return [[word for word in answer.splitlines() if word] for answer in answers]


OFFERS = {
    "tensorctl s": ["show", "save", "seal", "stats"],
    "tensorctl show mo": ["model/a", "model/b"],
    "tensorctl -q ls m": ["model/a", "model/b"],
    "tensorctl info weights:": ["0"],
    "tensorctl info tw": ["two\\ words"],
    "tensorctl info two\\ w": ["two\\ words"],
    "tensorctl info 'tw": ["two words"],
    "tensorctl ls --mi": ["--min-size"],
    "tensorctl ls --dtype com": ["complex64", "complex128"],
    "tensorctl ls --dtype=com": ["complex64", "complex128"],
    "tensorctl op transp": ["transpose"],
    "tensorctl op full va": ["value="],
    "tensorctl op to input=model/a dtype=float8": ["float8_e4m3fn", "float8_e5m2"],
    "tensorctl op to x other=model/": ["model/a", "model/b"],
    "tensorctl op to x copy=": ["true", "false"],
    "tensorctl get x --format s": ["safetensors"],
    "tensorctl load x --prefix mo": ["model/a", "model/b"],
    "tensorctl load x --b": ["--by-daemon"],
    "tensorctl save x mo": ["model/a", "model/b"],
    "tensorctl save x key=mo": ["model/a", "model/b"],
    "tensorctl save x --format ": ["npy", "npz", "safetensors"],
    "tensorctl put x y --format r": ["raw"],
    "tensorctl completion ": ["bash", "zsh"],
    "tensorctl nonsense x": [],
}


def test_bash_completion(ctl, client):
    for name in ("model/a", "model/b", "weights:0", "two words"):
        client[name] = np.zeros(1)
    assert dict(zip(OFFERS, complete(ctl, *OFFERS))) == OFFERS
    elsewhere = {"TENSORD_URL": "unix:///none"}
    lines = ("tensorctl show mo", f"tensorctl --url {ctl.url} show mo")
    assert complete(ctl, *lines, **elsewhere) == [[], ["model/a", "model/b"]]


def test_bash_completes_files(ctl, tmp_path):
    (tmp_path / "data.npy").touch()
    (tmp_path / "data.txt").touch()
    expected = [f"{tmp_path}/data.npy", f"{tmp_path}/data.txt"]
    lines = ("put x", "get x -o", "load", "save")
    offered = complete(ctl, *(f"tensorctl {line} {tmp_path}/da" for line in lines))
    assert [sorted(files) for files in offered] == 4 * [expected]


def test_a_bash_at_work_completes(ctl, client):
    client["model/weight"] = np.arange(3)
    env = environment(ctl.url, INPUTRC="/dev/null", PATH=f"{os.path.dirname(binary())}:"
                      f"{os.environ['PATH']}")  # fmt: skip
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], env)
    shell.type(f"source <({binary()} completion bash); PS1='rea''dy '\n")
    shell.read_until(b"ready ")
    shell.type("tensorctl sh\tmod\t\n")
    shell.read_until(rb"tensor\(\[0, 1, 2\]\)")
    shell.type("exit\n")
    shell.finish()


def test_scripts_are_well_formed(ctl):
    shells = [shell for shell in ("bash", "zsh") if shutil.which(shell)]
    assert "bash" in shells
    for shell in shells:
        script = ctl.text("completion", shell)
        subprocess.run([shell, "-n"], input=script.encode(), check=True, timeout=PATIENCE_S)
