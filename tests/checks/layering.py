#!/usr/bin/env python3
"""Who may include what (ARCHITECTURE.md, "Rooms"), and the measures of the house style.

    layering.py               checks the tree; one line "file:line: what" a violation, exit 1 if any
    layering.py --self-test   feeds every check a file that it must refuse, and one it must not

Needs nothing but Python. Looks at what git tracks or would track; without git, at every file.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE_LINES, LINE_COLUMNS, FUNCTION_LINES = 600, 100, 90

VOCABULARY = {
    "cleanup", "dtype", "dtype_info", "fail", "fields", "layout", "layout_view", "op_table",
    "status",
}  # fmt: skip
# The type is vocabulary; reading and writing elements needs the casts.
VOCABULARY_HEADERS = {"scalar.h", "utf8.h"}

STANDARD_C = """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp
    signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath
    threads time uchar wchar wctype""".split()
POSIX = """byteswap cpuid dirent dlfcn endian execinfo fcntl features fnmatch getopt
    glob grp immintrin libgen malloc poll pthread pwd regex sched semaphore spawn
    strings sysexits syslog termios unistd""".split()
LIBC = {name + ".h" for name in STANDARD_C + POSIX}
SOCKETS = re.compile(r"sys/(socket|un)\.h|netinet/.*|arpa/.*|netdb\.h|net/.*|ifaddrs\.h")
KERNEL = re.compile(r"(sys|linux|asm|bits)/.*")
CUDA_HEADER = re.compile(r"cu(da|blas|rand|fft|pti).*|nvrtc.*|nvml.*")
CUDA_NAME = re.compile(r"\b(cu[A-Z][a-z]\w*|cuda[A-Z]\w*|CU[a-z]\w*|CU_\w+|CUDA_\w+|nvrtc\w+)\b")

CONTAINERS = r"uthash\.h|utlist\.h|utarray\.h|bsd/sys/tree\.h"
# room: (rooms it may include besides itself, headers from outside of libc, sockets)
ROOMS = {
    "vocabulary": (set(), None, False),
    "wire": ({"vocabulary"}, None, False),
    "format": ({"vocabulary"}, r"cjson/cJSON\.h|archive(_entry)?\.h", False),
    "core": ({"vocabulary"}, CONTAINERS, False),
    "cuda": ({"vocabulary", "core"}, CONTAINERS + "|" + CUDA_HEADER.pattern, False),
    "server": ({"vocabulary", "core", "cuda", "wire", "format", "frame", "http"},
               CONTAINERS + r"|uv\.h|ini\.h|cjson/cJSON\.h|systemd/.*", True),
    "frame": ({"vocabulary", "core", "wire", "format", "server"},
              CONTAINERS + r"|uv\.h", True),
    "http": ({"vocabulary", "core", "wire", "format", "server"},
             CONTAINERS + r"|uv\.h|microhttpd\.h|cjson/cJSON\.h", True),
    "api": ({"vocabulary"}, None, False),
    "client": ({"vocabulary", "wire", "api"}, None, True),
    "cli": ({"vocabulary", "format", "api"}, r"cjson/cJSON\.h", False),
    "example": (set(), r"tensord\.h", False),
}  # fmt: skip
WHAT = {
    "vocabulary": "libc only",
    "wire": "libc and the vocabulary",
    "format": "libc, the vocabulary, cJSON and libarchive",
    "core": "libc, the vocabulary, core, uthash and bsd/sys/tree.h; no sockets, no CUDA",
    "cuda": "what core may, and CUDA",
    "server": "anything below it, but libmicrohttpd only in server/http*",
    "frame": "operations and proto, never http",
    "http": "operations and proto, never frame",
    "api": "libc and the vocabulary",
    "client": "libc, the vocabulary and proto/wire",
    "cli": "libc, the vocabulary, proto/format, cJSON and client/tensord.h",
    "example": "libc and the installed <tensord.h>, as any program outside of the tree",
}


def room_of(path):
    """The room a source file lives in; None for tests and what is not C."""
    folder, name = os.path.split(path)
    stem = name.rsplit(".", 1)[0]
    if folder == "core" and (stem in VOCABULARY or name in VOCABULARY_HEADERS):
        return "vocabulary"
    if path.startswith("core/cuda/"):
        return "cuda"
    if path.startswith("proto/wire/"):
        return "wire"
    if path.startswith("proto/format/"):
        return "format"
    if path == "client/tensord.h":
        return "api"
    for room in ("example", "cli"):
        if path.startswith(f"client/{room}/"):
            return room
    if path.startswith("server/"):
        for door in ("frame", "http"):
            if path[len("server/") :].startswith(door):
                return door
        return "server"
    top = path.split("/", 1)[0]
    return top if top in ("core", "client") else None


def check_system_include(room, header):
    """What is wrong with `#include <header>`, or None."""
    _, outside, sockets = ROOMS[room]
    if outside and re.fullmatch(outside, header):
        return None
    if SOCKETS.fullmatch(header):
        return None if sockets else "sockets belong in server/ and client/"
    if header in LIBC or (KERNEL.fullmatch(header) and "sys/tree" not in header):
        return None
    if CUDA_HEADER.fullmatch(header):
        return "CUDA belongs in core/cuda"
    return f"{room} may include {WHAT[room]}"


def check_own_include(root, path, room, header):
    """What is wrong with `#include "header"`, or None."""
    beside = os.path.normpath(os.path.join(os.path.dirname(path), header))
    target = next((p for p in (header, beside) if os.path.isfile(os.path.join(root, p))), None)
    if target is None:
        return "no such file in the tree"
    there = room_of(target)
    if there == room or there in ROOMS[room][0]:
        return None
    return f"{room} may include {WHAT[room]}; this is {there or 'no room of the product'}"


INCLUDE = re.compile(r'\s*#\s*include\s*(?:<([^>]+)>|"([^"]+)")')


def check_includes(root, path, text):
    room = room_of(path)
    if room is None:
        return
    for number, line in enumerate(text.split("\n"), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        system, own = match.groups()
        problem = (
            check_system_include(room, system)
            if system
            else check_own_include(root, path, room, own)
        )
        if problem:
            yield number, f"includes {system or own}: {problem}"


TOKENS = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""", re.DOTALL | re.VERBOSE
)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.MULTILINE | re.DOTALL)


def code_only(text):
    """C without comments, the contents of literals and directives; lines stay where they are."""

    def blank(match):
        token = match.group()
        if token[0] in "\"'":
            return token[0] * 2
        return " " + "\n" * token.count("\n")

    return DIRECTIVE.sub(lambda m: "\n" * m.group().count("\n"), TOKENS.sub(blank, text))


def check_cuda_names(path, text):
    if room_of(path) in (None, "cuda"):
        return
    for number, line in enumerate(code_only(text).split("\n"), 1):
        match = CUDA_NAME.search(line)
        if match:
            yield number, f"{match.group()}: CUDA names belong in core/cuda"


def c_functions(text):
    """(name, first line, last line) of every function body, by counting braces."""
    code = code_only(text)
    depth, start, name = 0, 0, None
    for match in re.finditer(r"[{};]", code):
        at, brace = match.start(), match.group()
        if brace == "{":
            head = code[start:at].strip()
            if depth == 0 and head.endswith('extern ""'):
                start = at + 1
                continue
            if depth == 0 and head.endswith(")"):
                name = re.search(r"(\w+)\s*\(", head)
                first = start + len(code[start:at]) - len(code[start:at].lstrip())
            depth += 1
        elif brace == "}":
            depth = max(depth - 1, 0)
            if depth == 0 and name:
                yield name.group(1), code.count("\n", 0, first) + 1, code.count("\n", 0, at) + 1
                name = None
        if depth == 0:
            start = at + 1


LEFT_OVER = re.compile(r"\b(" + "TO" + "DO|FIX" + r"ME)\b")


def check_style(path, text):
    lines = text.split("\n")
    if len(lines) - 1 > FILE_LINES:
        yield FILE_LINES + 1, f"file of {len(lines) - 1} lines, more than {FILE_LINES}"
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_COLUMNS:
            yield number, f"line of {len(line)} columns, more than {LINE_COLUMNS}"
        match = LEFT_OVER.search(line)
        if match:
            yield number, f"{match.group()} left in the source"
    if path.endswith((".c", ".h", ".cu", ".cuh")):
        for name, first, last in c_functions(text):
            if last - first + 1 > FUNCTION_LINES:
                length = last - first + 1
                yield first, f"function {name} of {length} lines, more than {FUNCTION_LINES}"


TEST_PROGRAM = re.compile(r"tests/(unit/test_|fuzz/fuzz_|semantics/\w+_shim)\w*\.c")


def check_is_built(root, path):
    """Every C source of the product and every C test is named in its folder's meson.build."""
    if not path.endswith(".c") or not (room_of(path) or TEST_PROGRAM.match(path)):
        return
    folder, name = os.path.split(path)
    for build, spelling in ((folder, name), (folder, name[:-2]), ("", path)):
        try:
            with open(os.path.join(root, build, "meson.build"), encoding="utf-8") as file:
                if f"'{spelling}'" in file.read():
                    return
        except FileNotFoundError:
            pass
    yield 1, f"not built: {folder}/meson.build does not name it"


def check_file(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        text = file.read()
    if path.endswith((".c", ".h", ".cu", ".cuh")):
        yield from check_includes(root, path, text)
        yield from check_cuda_names(path, text)
        yield from check_is_built(root, path)
    yield from check_style(path, text)


CHECKED = (".c", ".h", ".cu", ".cuh", ".py", ".sh", "meson.build")


def tree_files(root):
    try:
        command = ["git", "-C", root, "ls-files", "-z", "-co", "--exclude-standard"]
        listed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
        paths = listed.rstrip("\0").split("\0")
    except (OSError, subprocess.CalledProcessError):
        paths = []
        for folder, folders, names in os.walk(root):
            folders[:] = [f for f in folders if f != "build" and not f.startswith(".")]
            paths += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(p for p in set(paths) if os.path.isfile(os.path.join(root, p)))


def check_tree(root):
    """[(path, line, what)] of every violation."""
    found = []
    for path in tree_files(root):
        if path.endswith(CHECKED):
            found += [(path, line, what) for line, what in check_file(root, path)]
    return found


LONG_BODY = "    x++;\n" * FUNCTION_LINES
# (file, text, what the complaint says or None where there must be none)
SELF_TESTS = [
    ("core/dtype.c", "#include <string.h>\n", None),
    ("core/dtype.c", '#include "core/store.h"\n', "this is core"),
    ("core/layout.h", "#include <uthash.h>\n", "vocabulary may include"),
    ("core/fields.h", "#include <sys/socket.h>\n", "sockets belong"),
    ("proto/wire/frame.c", '#include "core/dtype.h"\n', None),
    ("proto/wire/frame.c", '#include "core/store.h"\n', "this is core"),
    ("core/store.c", '#include <uthash.h>\n#include <bsd/sys/tree.h>\n', None),
    ("core/store.c", "#include <uv.h>\n", "core may include"),
    ("core/store.c", "#include <microhttpd.h>\n", "core may include"),
    ("core/store.c", "#include <cjson/cJSON.h>\n", "core may include"),
    ("core/store.c", "#include <sys/un.h>\n", "sockets belong"),
    ("core/store.c", '#include "proto/wire/wire.h"\n', "this is wire"),
    ("core/store.c", '#include "core/nowhere.h"\n', "no such file"),
    ("core/store.c", "#include <cuda.h>\n", "CUDA belongs"),
    ("core/store.c", "int f(void)\n{\n    return cuInit(0);\n}\n", "CUDA names"),
    ("core/cuda/driver.c", "#include <cuda.h>\nint x = CU_X;\n", None),
    ("server/loop.c", "#include <uv.h>\n#include <sys/socket.h>\n", None),
    ("server/frame.c", '#include "server/http.h"\n', "this is http"),
    ("server/http_put.c", '#include "server/frame.h"\n', "this is frame"),
    ("server/loop.c", "#include <microhttpd.h>\n", "server may include"),
    ("client/map.c", '#include <sys/socket.h>\n#include "proto/wire/wire.h"\n', None),
    ("client/map.c", '#include "core/store.h"\n', "this is core"),
    ("client/map.c", '#include "server/http.h"\n', "this is http"),
    ("client/map.c", "#include <uv.h>\n", "client may include"),
    ("client/map.c", '#include "client/tensord.h"\n', None),
    ("client/cli/x.c", '#include "client/tensord.h"\n#include <cjson/cJSON.h>\n', None),
    ("client/cli/x.c", '#include "proto/format/npy.h"\n#include "core/fail.h"\n', None),
    ("client/cli/x.c", '#include "client/internal.h"\n', "this is client"),
    ("client/cli/x.c", '#include "proto/wire/wire.h"\n', "this is wire"),
    ("client/cli/x.c", "#include <sys/socket.h>\n", "sockets belong"),
    ("client/cli/x.c", "#include <archive.h>\n", "cli may include"),
    ("client/example/x.c", "#include <tensord.h>\n", None),
    ("client/example/x.c", '#include "core/dtype.h"\n', "this is vocabulary"),
    ("client/stray.c", "", "not built"),
    ("tests/unit/test_stray.c", "", "not built"),
    ("tests/semantics/stray_shim.c", "", "not built"),
    ("tests/bench/stray.c", "", None),
    ("core/store.c", "/* " + "x" * LINE_COLUMNS + " */\n", "columns, more than"),
    ("core/store.c", "\n" * (FILE_LINES + 1), "lines, more than"),
    ("core/store.c", f"int f(int x)\n{{\n{LONG_BODY}}}\n", "function f of"),
    ("core/store.c", f'extern "C" {{\nint f(int x)\n{{\n{LONG_BODY}}}\n}}\n', "function f of"),
    ("tests/x.py", "x" * LINE_COLUMNS + "y\n", "columns, more than"),
    ("core/store.c", "/* TO" + "DO: more */\n", "left in the source"),
    ("core/store.c", 'const char *text = "cuInit {"; /* cuInit { */\n', None),
]  # fmt: skip


def self_test():
    failures = 0
    for path, text, expected in SELF_TESTS:
        with tempfile.TemporaryDirectory() as root:
            for header in (
                "core/dtype.h", "core/fail.h", "core/store.h", "proto/wire/wire.h",
                "proto/format/npy.h", "server/http.h", "server/frame.h", "client/tensord.h",
                "client/internal.h",
            ):  # fmt: skip
                write(root, header, "")
            if "stray" not in path:
                write(root, "meson.build", f"files('{path}')\n")
            write(root, path, text)
            found = check_tree(root)
        right = len(found) == 1 and expected in found[0][2] if expected else not found
        if not right:
            failures += 1
            print(f"self-test: {path}: {text[:60]!r}: expected {expected!r}, found {found}")
    print(f"self-test: {len(SELF_TESTS) - failures} of {len(SELF_TESTS)} as expected")
    return 1 if failures else 0


def write(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--self-test", action="store_true", help="prove that each check can fail")
    if parser.parse_args().self_test:
        return self_test()
    found = check_tree(ROOT)
    for path, line, what in found:
        print(f"{path}:{line}: {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
