"""Seed 002 by curl: "PyTorch tensor to NumPy array and back", over HTTP alone."""

import json

import numpy as np
from curl import curl  # noqa: F401

EYE_FLOAT64 = """\
tensor([[1., 0., 0.],
        [0., 1., 0.],
        [0., 0., 1.]], dtype=torch.float64)"""
EYE_FLOAT32 = EYE_FLOAT64.replace(", dtype=torch.float64", "")
EYE_CUDA = EYE_FLOAT64.replace(", dtype", ", device='cuda:0', dtype")
EYE_ARRAY = repr(np.eye(3, dtype="f4"))


def has_gpu(curl):  # noqa: F811
    """torch.cuda.is_available()"""
    devices = json.loads(curl(path="/v1/devices"))["entries"]
    return any(device["name"].startswith("cuda") for device in devices)


def test_numpy_to_pytorch(curl):  # noqa: F811
    # "x = np.eye(3) / torch.from_numpy(x)"
    put = curl.put("x", np.eye(3))
    assert curl.text("x") == EYE_FLOAT64
    assert (put["memory"], put["reason"]) == ("copied", "transport")

    # "torch.from_numpy(x).type(torch.float32)"
    typed = curl.op("type", input="x", dtype="float32", output="typed")
    assert (typed["memory"], typed["reason"]) == ("copied", "dtype")
    assert curl.text("typed") == EYE_FLOAT32

    # 'torch.from_numpy(x).to("cuda")'
    moved = curl.op("to", input="x", device="cuda", output="moved")
    if has_gpu(curl):
        assert curl.text("moved") == EYE_CUDA
    else:
        assert moved["code"] == "no_device" and "cuda" in moved["detail"].lower()


def test_pytorch_to_numpy(curl):  # noqa: F811
    # "x = torch.eye(3) / x.numpy()"
    curl.op("eye", shape=[3], output="eye")
    assert repr(curl.numpy("eye")) == EYE_ARRAY

    # "x.requires_grad = True / x.detach().numpy()"
    curl.op("requires_grad_", input="eye")
    assert "requires grad" in curl.numpy("eye")
    detached = curl.op("detach", input="eye")
    assert detached["memory"] == "shared"
    assert repr(curl.numpy(detached["name"])) == EYE_ARRAY
    assert repr(curl.numpy("eye", "&force=true")) == EYE_ARRAY

    # 'x = x.to("cuda") / x.to("cpu").numpy()'
    if has_gpu(curl):
        moved = curl.op("to", input=detached["name"], device="cuda")
        assert "can't convert cuda:0 device type tensor to numpy" in curl.numpy(moved["name"])
        back = curl.op("to", input=moved["name"], device="cpu")
        assert repr(curl.numpy(back["name"])) == EYE_ARRAY

    # "Both the .detach() method and the .to("cpu") method are idempotent"
    again = curl.op("to", input=detached["name"], device="cpu")
    again = curl.op("detach", input=again["name"])
    assert again["storage"] == detached["storage"] and again["memory"] == "shared"
    assert repr(curl.numpy(again["name"])) == EYE_ARRAY
