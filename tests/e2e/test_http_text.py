"""HTTP, format=text: as PyTorch prints it, of a slice and of a cast, too."""

import numpy as np
import pytest
import torch
from test_http_tensors import DTYPES, http, numbers  # noqa: F401


def test_text_is_what_pytorch_prints(http):
    tensor = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    http.put("t", tensor.numpy())
    assert http.tensor("t", format="text").body.decode() == f"{tensor!r}\n"
    printed = http.tensor("t", format="text", index="1:3, ::2").body.decode()
    assert printed == f"{tensor[1:3, ::2]!r}\n"
    printed = http.tensor("t", format="text", index="::-2, ::-1").body.decode()
    assert printed == f"{tensor.flip(0, 1)[::2]!r}\n"


@pytest.mark.parametrize("dtype", DTYPES)
def test_text_of_every_dtype(http, dtype):
    for count in (1, 24, 1200):
        array = numbers(dtype, count, seed=count)
        shape = (count // 4, 2, 2) if count > 1 else (count,)
        http.put("t", array.tobytes(), dtype=dtype, shape=",".join(map(str, shape)))
        raw = torch.from_numpy(array.view(np.uint8).copy())
        tensor = raw.view(getattr(torch, dtype)).reshape(shape)
        assert http.tensor("t", format="text").body.decode() == f"{tensor!r}\n"


@pytest.mark.parametrize("dtype", DTYPES)
def test_text_of_a_slice_cast_on_the_way(http, client, dtype):
    """dtype=, index= and format= in one GET; frames have it as the operation print."""
    tensor = (torch.arange(2400) % 7).reshape(600, 4).to(getattr(torch, dtype))
    http.put("c", tensor.view(torch.uint8).numpy().tobytes(), dtype=dtype, shape="600,4")
    for wanted in DTYPES:
        cast = tensor.to(getattr(torch, wanted))
        for index, expected in (("5:8, 1:", cast[5:8, 1:]), ("::2", cast[::2])):
            printed = http.tensor("c", format="text", index=index, dtype=wanted).body.decode()
            assert printed == f"{expected!r}\n"
        assert client.op("print", input="c", dtype=wanted).text("text") == repr(cast)


def test_text_of_a_cast_tells_where_it_comes_from(http, client):
    variable = torch.ones(3, requires_grad=True)
    client.variable("v", np.ones(3, "f4"), requires_grad=True)
    for dtype in (torch.float32, torch.float64, torch.int32):
        printed = http.tensor("v", format="text", dtype=str(dtype).removeprefix("torch."))
        assert printed.body.decode() == f"{variable.to(dtype)!r}\n"
    refused = http.tensor("v", format="text", dtype="int32", casting="safe")
    assert refused.status == 422 and "according to the rule 'safe'" in refused.json["detail"]
    big = np.array([1e9], "f4")
    http.put("b", big)
    printed = http.tensor("b", format="text", dtype="float8_e5m2", saturate="true").body.decode()
    assert printed.startswith("tensor([57344.]")
