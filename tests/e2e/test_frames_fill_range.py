"""fill_ refuses the numbers that PyTorch's fill_ refuses, in the same words."""

import math

import plain_client as plain
import pytest
from harness import client, daemon  # noqa: F401

torch = pytest.importorskip("torch")

DTYPES = [name for name in plain.DTYPES.values() if name != "none"]
WHOLE = [n + d for e in (7, 8, 15, 16, 31, 32, 63) for n in (2**e, -(2**e)) for d in (-1, 0, 1)]
NUMBERS = [n for n in WHOLE if -(2**63) <= n < 2**63] + [0, 2**62, 2**63 - 1]
FRACTIONS = [255.7, 256.0, -255.7, 127.5, -128.5, -129.0, 2.9, 1e10, 1e39, -1e39, 1e300, 65519.0,
             2147483647.5, math.inf, -math.inf, math.nan]  # fmt: skip
COMPLEX = [1j, 2 + 0j, complex(300, 0), complex(0, 1e39), complex(1e39, 1)]


@pytest.mark.parametrize("name", DTYPES)
def test_fill_takes_what_torch_takes(client, name):
    client.request("zeros", {"shape": [1], "dtype": name, "output": "fill"})
    for number in NUMBERS + FRACTIONS + COMPLEX:
        want = "ok"
        try:
            torch.zeros(1, dtype=getattr(torch, name)).fill_(number)
        except RuntimeError as error:
            want = str(error)
        status, fields, _, _ = client.request("fill_", {"input": "fill", "value": number})
        got = "ok" if status == "ok" else fields["message"]
        assert got == want, (name, number)
