"""Writes the C source of tensord._tensord, the cffi module under the Python package.

    python build_ffi.py OUTPUT.c

What Python may call is read from the headers themselves (client/tensord.h, core/status.h,
core/dtype.h, client/dlpack.h), so that the binding cannot fall behind them; the C compiler then
checks every declaration, size and number against the same headers. The declarations of our own
glue (GLUE) stand below.
"""

import pathlib
import re
import sys

import cffi

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Glue that has to be C: NumPy calls the allocator, Python the destructor of a capsule, libtensord
# what asks for signals.
GLUE = ("numpy_memory.c", "capsule.c", "interrupt.c")
GLUE_DECLARATIONS = """
uintptr_t tdpy_numpy_handler(void);
uintptr_t tdpy_capsule_destructor(void);
uintptr_t tdpy_capsule_name(bool versioned);
bool tdpy_interrupted(void *nothing);
"""


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def declarations(path):
    """The C declarations of a header: no comments, no preprocessor, its plain numbers put in."""
    text = without_comments(path.read_text(encoding="utf-8")).replace("\\\n", " ")
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    numbers = re.findall(r"^#define[ \t]+(\w+)[ \t]+(\d+)[ \t]*$", text, flags=re.MULTILINE)
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.MULTILINE)
    for name, number in numbers:
        text = re.sub(rf"\b{name}\b", number, text)
    return text.replace("TD_API", "")


def rows(path, table, column):
    """One column of an X-macro table: rows(core/status.h, "TD_STATUSES", 0) is OK, INVALID, ..."""
    text = without_comments(path.read_text(encoding="utf-8"))
    macro = re.search(rf"#define {table}\(X\)((?:.*\\\n)*.*\n)", text)
    if not macro:
        raise SystemExit(f"{path} has no table {table}")
    return [row.split(",")[column].strip() for row in re.findall(r"\bX\(([^)]*)", macro.group(1))]


def enum(name, members):
    """An enum whose numbers the C compiler fills in."""
    return f"enum {name} {{ {', '.join(member + '=...' for member in members)} }};\n"


def replace_enum(text, name, members):
    """The enum written out by an X-macro, which is gone with the preprocessor, as a list."""
    text, count = re.subn(rf"enum {name} \{{.*?\}};", enum(name, members), text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"expected one enum {name}")
    return text


def cdef():
    status, dtype = ROOT / "core/status.h", ROOT / "core/dtype.h"
    statuses = ["TD_" + name for name in rows(status, "TD_STATUSES", 0)]
    dtypes = ["TD_" + name for name in rows(dtype, "TD_DTYPES", 1)]
    return "\n".join(
        (
            replace_enum(declarations(status), "td_status", statuses),
            replace_enum(declarations(dtype), "td_dtype", ["TD_DTYPE_NONE", *dtypes]),
            declarations(ROOT / "client/dlpack.h"),
            declarations(ROOT / "client/tensord.h"),
            GLUE_DECLARATIONS,
        )
    )


def source():
    glue = "\n".join((HERE / name).read_text(encoding="utf-8") for name in GLUE)
    return '#include "client/dlpack.h"\n#include "client/tensord.h"\n' + glue


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    ffi = cffi.FFI()
    ffi.cdef(cdef())
    ffi.set_source("tensord._tensord", source())
    ffi.emit_c_code(sys.argv[1])


if __name__ == "__main__":
    main()
