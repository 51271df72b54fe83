#!/usr/bin/env python3
"""A file as a C array: embed.py FILE OUT.c NAME gives `const char NAME[]` and `NAME_length`."""

import sys


def main():
    source, target, name = sys.argv[1:]
    with open(source, "rb") as file:
        data = file.read()
    with open(target, "w", encoding="ascii") as out:
        out.write("#include <stddef.h>\n")
        out.write(f"extern const char {name}[];\nextern const size_t {name}_length;\n")
        out.write(f"const char {name}[] = {{\n")
        for at in range(0, len(data), 24):
            out.write(",".join(str(byte if byte < 128 else byte - 256)
                               for byte in data[at : at + 24]) + ",\n")  # fmt: skip
        out.write(f"0}};\nconst size_t {name}_length = {len(data)};\n")


main()
