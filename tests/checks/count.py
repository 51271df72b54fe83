#!/usr/bin/env python3
"""Counts tests: count.py FILE... prints "PASSED FAILED SKIPPED" of all of them together.

FILE is meson's testlog.json (cmocka's cases are counted one by one, by what cmocka prints; a test
that ended badly without naming a case counts as one failure) or a JUnit .xml as pytest writes it.
"""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree

CASE = re.compile(r"^\[\s*(OK|FAILED|ERROR|SKIPPED)\s*\] \S", re.MULTILINE)


def count_meson(path):
    passed = failed = skipped = 0
    with open(path, encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            # Only what stands before the summary, which names failed and skipped cases again.
            cases = CASE.findall(test.get("stdout") or "")
            bad = len([case for case in cases if case in ("FAILED", "ERROR")])
            ok, left_out = cases.count("OK"), cases.count("SKIPPED")
            if test["result"] == "SKIP" and not cases:
                left_out = 1
            elif test["result"] not in ("OK", "SKIP") and not bad:
                bad = 1
            elif not cases:
                ok = 1
            passed, failed, skipped = passed + ok, failed + bad, skipped + left_out
    return passed, failed, skipped


def count_junit(path):
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main(paths):
    counts = [count_junit(p) if p.endswith(".xml") else count_meson(p) for p in paths]
    print(*[sum(column) for column in zip(*counts)] or [0, 0, 0])


if __name__ == "__main__":
    main(sys.argv[1:])
