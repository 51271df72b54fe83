#!/usr/bin/env python3
"""Puts the product's tables into PROTOCOL.md, between its markers.

    update_tables.py TABLES            rewrites the sections in place
    update_tables.py --check TABLES    exits 1, and says which, if a section is stale

TABLES is the program of tests/tools/tables.c. A section is

    <!-- generated: fields -->
    ...what `TABLES markdown fields` prints...
    <!-- end -->
"""

import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SECTION = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def update(text, tables):
    """The text with fresh sections, and the names of those that were stale."""
    stale = []

    def section(match):
        begin, name, old, end = match.groups()
        command = [tables, "markdown", name]
        fresh = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        if old != fresh:
            stale.append(name)
        return begin + fresh + end

    return SECTION.sub(section, text), stale


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", help="the program of tests/tools/tables.c")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    parser.add_argument("--file", default=os.path.join(HERE, "PROTOCOL.md"))
    arguments = parser.parse_args()
    with open(arguments.file, encoding="utf-8") as file:
        text = file.read()
    begun, whole = text.count("<!-- generated: "), len(SECTION.findall(text))
    if begun == 0 or begun != whole:
        sys.exit(f"{arguments.file}: {begun} generated sections begin, {whole} are whole")
    try:
        fresh, stale = update(text, arguments.tables)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{arguments.tables}: {error}")
    if arguments.check and stale:
        sys.exit(
            f"{arguments.file} is stale: the sections {', '.join(stale)} differ from the sources; "
            f"run proto/update_tables.py {arguments.tables}"
        )
    if stale:
        with open(arguments.file, "w", encoding="utf-8") as file:
            file.write(fresh)


if __name__ == "__main__":
    main()
