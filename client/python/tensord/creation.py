"""The methods of a client that make tensors: from nothing, and from arrays.

Sizes are given as in PyTorch, rand(2, 3) or rand((2, 3)). What these make is mutable: NumPy arrays
and PyTorch tensors over it write to it. dtype is float32 unless said otherwise. `name` publishes
the result; without it the result is anonymous and lives as long as its handles.
"""

import warnings
from typing import Any

from tensord import _shapes, convert
from tensord._session import Reply, Session
from tensord._tensord import ffi, lib
from tensord.casts import device_name
from tensord.dtypes import dtype as find_dtype
from tensord.errors import Unsupported
from tensord.tensor import Tensor, wrap

_READ_ONLY_WARNING = (
    "The given NumPy array is not writable, and tensors over it are: writing to this tensor writes "
    "to the array all the same. Copy the array first, or use tensor() instead."
)


class Creation:
    """Creation methods of Client."""

    session: Session

    def handle(self, reply: Reply, name: "str | None" = None) -> Tensor:
        """A handle on the tensor that a reply hands out."""
        return wrap(self, reply, name)

    # The keywords that every method below takes beside its own.
    def _create(
        self,
        op: str,
        name: "str | None",
        *,
        dtype: Any = None,
        device: Any = None,
        body: Any = None,
        **fields: Any,
    ) -> Tensor:
        element = None if dtype is None else find_dtype(dtype)
        place = None if device is None else device_name(device)
        made = self.handle(self.session.op(op, body, dtype=element, device=place, **fields))
        return made.save(name) if name is not None else made

    def empty(self, *size: Any, name: "str | None" = None, **options: Any) -> Tensor:
        """A tensor to be filled. options: dtype, device, requires_grad, mutable."""
        return self._create("empty", name, shape=_shapes.sizes(size), **options)

    def zeros(self, *size: Any, name: "str | None" = None, **options: Any) -> Tensor:
        """Zeros. options: dtype, device, requires_grad, mutable."""
        return self._create("zeros", name, shape=_shapes.sizes(size), **options)

    def ones(self, *size: Any, name: "str | None" = None, **options: Any) -> Tensor:
        """Ones. options: dtype, device, requires_grad, mutable."""
        return self._create("ones", name, shape=_shapes.sizes(size), **options)

    def full(
        self, size: Any, fill_value: Any, *, name: "str | None" = None, **options: Any
    ) -> Tensor:
        """One value everywhere; the dtype is the value's unless given: bool, int64, float32.
        options: dtype, device, requires_grad, mutable."""
        shape = _shapes.sizes((size,))
        return self._create("full", name, shape=shape, value=fill_value, **options)

    def eye(
        self, n: int, m: "int | None" = None, *, name: "str | None" = None, **options: Any
    ) -> Tensor:
        """Ones on the diagonal of an n x m (or n x n) matrix, zeros elsewhere.
        options: dtype, device, requires_grad, mutable."""
        shape = (n,) if m is None else (n, m)
        return self._create("eye", name, shape=shape, **options)

    def arange(
        self,
        start: Any = None,
        end: Any = None,
        step: Any = None,
        *,
        name: "str | None" = None,
        **options: Any,
    ) -> Tensor:
        """start, start + step, ... before end; arange(end) starts at 0. Integers give int64,
        others float32. options: dtype, device, requires_grad, mutable."""
        if end is None:
            start, end = None, start
        if end is None:
            raise TypeError('arange() missing 1 required positional arguments: "end"')
        return self._create("arange", name, start=start, end=end, step=step, **options)

    def rand(self, *size: Any, name: "str | None" = None, **options: Any) -> Tensor:
        """Uniform in [0, 1), from Philox-4x32-10: not PyTorch's stream, but the same for the same
        seed on every device. options: seed, counter (which of the seed's streams, 0 unless given),
        dtype, device, requires_grad, mutable."""
        return self._create("rand", name, shape=_shapes.sizes(size), **options)

    def randn(self, *size: Any, name: "str | None" = None, **options: Any) -> Tensor:
        """Standard normal. options as of rand."""
        return self._create("randn", name, shape=_shapes.sizes(size), **options)

    def randint(
        self,
        low: Any = None,
        high: Any = None,
        size: Any = None,
        *,
        name: "str | None" = None,
        **options: Any,
    ) -> Tensor:
        """Integers in [low, high), int64; randint(high, size) starts at 0. options as of rand."""
        if size is None:
            low, high, size = None, low, high
        if high is None:
            low, high = None, low
        if high is None or size is None:
            raise TypeError('randint() missing required arguments: "high" and "size"')
        low = 0 if low is None else low
        shape = _shapes.sizes((size,))
        return self._create("randint", name, shape=shape, low=low, high=high, **options)

    # ---- from arrays ----

    def tensor(
        self,
        data: Any,
        *,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        name: "str | None" = None,
    ) -> Tensor:
        """A new tensor of an array, a nested list or a number. Never shares memory; mutable.

        Without dtype, arrays keep theirs, and Python's numbers become bool, int64, float32 or
        complex64.
        """
        want = None if dtype is None else find_dtype(dtype)
        if isinstance(data, Tensor) and data._client is self:
            made = data.detach().clone()
        else:
            made = self._upload(data, want)
        return self._finish(made, want, device, requires_grad, name)

    def operand(self, value: Any) -> Tensor:
        """A handle of this client on a value: itself if it is one, else an anonymous copy.

        TypeError for texts: c["a"] is the tensor of that name, and "a" is no tensor.
        """
        if isinstance(value, Tensor) and value._client is self:
            value._check_session()
            return value
        if isinstance(value, str):
            raise TypeError("a tensor, an array or a number was expected, not str")
        return self._upload(value)

    def _source(self, value: Any, want: Any = None, contiguous: bool = True) -> convert.Source:
        return convert.source(value, want, contiguous, self.session.memory_limit)

    def _upload(self, data: Any, want: Any = None) -> Tensor:
        """An anonymous, mutable copy of a value's elements."""
        source = self._source(data.detach() if isinstance(data, Tensor) else data, want)
        element, shape = source.dtype, source.shape
        return self._create("tensor", None, dtype=element, shape=shape, body=source.body)

    def _finish(
        self,
        made: Tensor,
        dtype: Any,
        device: Any,
        requires_grad: bool,
        name: "str | None",
    ) -> Tensor:
        """What is left after the elements are there: cast, move, requires_grad, name."""
        if (dtype is not None and made.dtype != dtype) or device is not None:
            memory, reason, upload = made.memory, made.reason, made
            made = made.to(dtype=dtype, device=device)
            if made is upload:  # nothing to do: what counts is how the elements came here
                made._memory, made._reason = memory, reason
        if requires_grad:
            made.requires_grad_()
        return made.save(name) if name is not None else made

    def as_tensor(
        self,
        data: Any,
        dtype: Any = None,
        device: Any = None,
        *,
        name: "str | None" = None,
    ) -> Tensor:
        """A tensor that shares memory with `data` if it can, else a copy; `memory` and `reason` of
        the result say which and why.

        A handle, or the name of a tensor here, gives that very tensor if dtype and device fit. An
        array is shared if its memory is in a descriptor: see from_numpy. PyTorch's requires_grad
        is kept.
        """
        want = None if dtype is None else find_dtype(dtype)
        place = None if device is None else device_name(device)
        if isinstance(data, str) or (isinstance(data, Tensor) and data._client is self):
            fields = {"dtype": want, "device": place}
            reply = (
                self.session.op("as_tensor", input=data, **fields)
                if isinstance(data, str)
                else data._run("as_tensor", **fields)
            )
            made = self.handle(reply)
            return made.save(name) if name is not None else made
        source = self._source(data, want, contiguous=False)
        return self._finish(self._over(data, source), want, place, source.requires_grad, name)

    def from_numpy(
        self,
        *arguments: Any,
        require_shared: bool = False,
        name: "str | None" = None,
    ) -> Tensor:
        """from_numpy(array) or from_numpy(name, array): a tensor over an array's own memory.

        Writes on either side then show on the other, in every process that maps the tensor. The
        memory must be in a descriptor: arrays of tensord.empty, arrays made inside
        `with tensord.allocator():`, and arrays over mutable tensors. Any other array is copied,
        with reason "heap" (over TCP: "transport"; of shareable memory with negative strides or in
        another byte order: "layout"); require_shared=True raises Unsupported instead.

        TypeError for anything but a NumPy array (as_tensor takes the rest).
        """
        if len(arguments) == 2:
            name, array = arguments
        else:
            (array,) = arguments
        if not type(array).__module__.startswith("numpy") or not hasattr(array, "flags"):
            raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
        source = self._source(array, contiguous=False)
        return self._finish(self._over(array, source, require_shared), None, None, False, name)

    def _over(self, data: Any, source: convert.Source, require_shared: bool = False) -> Tensor:
        """An anonymous tensor over a source's memory, or a copy where that cannot be shared."""
        if source.gathered and require_shared:
            raise Unsupported(
                "the array's layout cannot be shared (negative strides, or another byte order); "
                "give a copy of it"
            )
        shareable = not source.gathered and _is_shareable(source.address)
        if shareable and not getattr(getattr(data, "flags", None), "writeable", True):
            warnings.warn(_READ_ONLY_WARNING, UserWarning, stacklevel=3)
        own = not source.gathered and (source.is_contiguous() or shareable or require_shared)
        if own:  # from_memory says why not if require_shared asks for what cannot be
            return self.handle(self.session.from_memory(source, require_shared))
        return self._over_copy(data, source)

    def _over_copy(self, data: Any, source: convert.Source) -> Tensor:
        """The same of elements that have to be gathered first. They are sent: the copy may lie in
        memory that can be shared, but its only owner is this call."""
        if not source.is_contiguous():
            source = self._source(data)
        made = self._create(
            "from_numpy", None, dtype=source.dtype, shape=source.shape, body=source.body
        )
        if made.reason == "heap" and _is_shareable(source.origin):
            made._reason = "layout"
        return made


def _is_shareable(address: int) -> bool:
    return bool(lib.td_shared_owns(ffi.cast("void *", address)))
