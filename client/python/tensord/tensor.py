"""Handles: tensors that live in the daemon, with PyTorch's words for them."""

import copy
from typing import TYPE_CHECKING, Any

from tensord._session import Info, Reply, ttl_argument, wait_argument
from tensord.arithmetic import Arithmetic
from tensord.casts import Casts
from tensord.errors import Error, NotFound, Precondition
from tensord.export import Exports
from tensord.handle import NOT_HELD
from tensord.views import Views


class Tensor(Views, Casts, Arithmetic, Exports):
    """A handle on a tensor in the daemon.

    It holds the tensor there: replacing or deleting the name it came from does not disturb it. The
    handle gives its reference back when it is garbage-collected, in whatever thread that happens.
    It may be used from any number of threads.

    What never changes (shape, dtype, device, strides, ids) is kept in the handle; what can change
    (requires_grad, grad_fn, version, mode) is asked of the daemon each time.

    Shapes, strides and offsets are in elements, sizes in bytes. Handles compare by identity.
    """

    __slots__ = ()

    # NumPy's scalars leave 2 * x to the handle, as they do for PyTorch's tensors.
    __array_priority__ = 1000

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Tensor":
        raise TypeError("handles come from a client: c['x'], c.tensor(data), tensord.tensor(data)")

    if not TYPE_CHECKING:  # to which every name would be one of Any

        def __getattr__(self, name: str) -> Any:
            """Says where the methods are that a handle has not."""
            if name.startswith("_"):
                return object.__getattribute__(self, name)  # raises, also what a property raised
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}; arrays over its "
                "memory, with all that theirs have, are x.numpy() and x.torch()"
            )

    # ---- grad ----

    @property
    def requires_grad(self) -> bool:
        return self._now().requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Sets requires_grad, of any dtype; RuntimeError for what an operation made."""
        self._run("requires_grad_", requires_grad=requires_grad)
        if requires_grad:
            self.__class__ = Variable
        return self

    @property
    def grad(self) -> "Tensor | None":
        """The gradient that was set, a tensor of the same shape, or None."""
        try:
            return self._make("grad")
        except NotFound:
            return None

    @grad.setter
    def grad(self, value: Any) -> None:
        # The handle has to be there until the daemon has answered.
        operand = None if value is None else self._operand(value)
        self._run("set_grad", other=None if operand is None else operand.ref)

    # ---- names ----

    def save(
        self, name: str, create_only: bool = False, ttl: "float | None" = None
    ) -> "Tensor":
        """Publishes this tensor under a name, without copying; returns this handle. Whoever gets
        the name shares the memory. Exists if create_only is set and the name is taken. With ttl the
        name is removed after so many seconds."""
        published = self._run(
            "as_tensor", output=name, create_only=create_only or None, ttl_ms=ttl_argument(ttl)
        ).info()
        self._info = published._replace(id=self._info.id)
        self._name = name
        return self

    def rename(self, name: str, create_only: bool = False) -> "Tensor":
        """Gives the name this handle has to another name; an anonymous tensor is saved under it.

        Precondition if the handle's name belongs to another tensor by now: that one keeps it.
        (Who publishes between that question and the renaming is renamed all the same.)
        """
        if self._name is None:
            return self.save(name, create_only)
        if self._client.info(self._name).id != self.id:
            raise Precondition(
                f"{self._name!r} is the name of another tensor by now; x.save() gives this one a "
                "name"
            )
        self._client.rename(self._name, name, create_only)
        self._name = name
        return self

    def seal(self, wait: "float | None" = None) -> "Tensor":
        """Freezes the tensor: nobody can change it any more, the kernel sees to that.

        Returns this handle if its memory could be frozen, because nobody outside the daemon has
        seen it. Else those who may write to it are waited for, `wait` seconds at most (1 unless
        given), and then the elements are copied: the result is another handle, whose `memory` is
        "copied" and whose `reason` is "mode". The name of this handle then leads to the copy,
        if it still led here.
        """
        named = self._named_here()
        reply = self._run("seal", wait_ms=wait_argument(wait), **named)
        info = reply.info()
        if info.id == self.id:
            made = self
            self._info = self._info._replace(mode=info.mode)
            if not named:  # it was handed out once more
                self._session.release(info.id, self._session.count_of(reply))
        elif named:
            made = self._client[named["output"]]
        else:
            made = self._client.handle(reply)
        made._memory, made._reason = info.memory, info.reason
        return made

    def _named_here(self) -> dict:
        """The fields that publish a result under this handle's name, if it still leads here."""
        try:
            found = None if self._name is None else self._client.info(self._name)
        except NotFound:
            found = None
        if found is None or found.id != self.id:
            return {}
        return {"output": self._name, "if_generation": found.generation}

    # ---- text ----

    def __str__(self) -> str:
        return self._run("print").text("text") or ""

    def __repr__(self) -> str:
        """As PyTorch prints it. Where the daemon cannot be asked any more it says why instead:
        debuggers and tracebacks show handles, too."""
        try:
            return str(self)
        except Error as error:
            shown = "" if self._name is None else f" {self._name!r}"
            kind = f"{self.dtype.name}{list(self.shape)}"
            return f"<tensord.{type(self).__name__}{shown} {kind}: {error}>"

    def __format__(self, spec: str) -> str:
        return object.__format__(self, spec) if self.shape else format(self.item(), spec)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """By its name, and its client: whoever loads it gets the same tensor, or an error."""
        if self._name is None:
            raise TypeError(
                "a tensor without a name belongs to its connection and cannot be pickled; give it "
                "one with x.save(name)"
            )
        return restore, (self._client, self._name, tuple(self._info))

    def __copy__(self) -> "Tensor":
        """Another handle on the same tensor."""
        return self._client.handle(self._run("as_tensor"), self._name)

    def __deepcopy__(self, memo: dict) -> "Tensor":
        """A copy in memory of its own, a leaf as this one is, with a copy of its grad."""
        now = self._now()
        if not now.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol at the moment; use x.detach().clone()"
            )
        made = self.detach().clone()
        if isinstance(self, Variable) or now.is_variable:
            made = made._make("variable", requires_grad=now.requires_grad)
        grad = self.grad
        if grad is not None:
            made.grad = copy.deepcopy(grad, memo)
        return made


class Variable(Tensor):
    """A tensor that may require grad: what PyTorch 0.2 called torch.autograd.Variable.

    Variable(data, requires_grad=False) wraps a handle, or an array that is stored first with the
    default client. Any dtype may require grad, integers too; only PyTorch itself refuses those.
    """

    __slots__ = ()

    def __new__(cls, data: Any, requires_grad: bool = False) -> "Variable":
        from tensord.defaults import default_client

        client = data._client if isinstance(data, Tensor) else default_client()
        made = client.variable(data, requires_grad=requires_grad)
        assert isinstance(made, Variable)
        return made


def wrap(client: Any, reply: Reply, name: "str | None" = None) -> Tensor:
    """A handle on the object of a reply, of which the session holds one reference for it."""
    info = reply.info()
    return _handle(client, info, name or info.name or None, client.session.count_of(reply))


def restore(client: Any, name: str, info: tuple) -> Tensor:
    """A handle that was pickled. It holds the tensor from its first use on; see Handle.ref."""
    return _handle(client, Info(*info), name, NOT_HELD)


def _handle(client: Any, info: Info, name: "str | None", count: int) -> Tensor:
    kind = Variable if info.is_variable or info.requires_grad else Tensor
    handle: Tensor = object.__new__(kind)
    handle._client = client
    handle._count = count
    handle._exported = None
    handle._info = info
    handle._memory = info.memory
    handle._name = name
    handle._reason = info.reason
    handle._session = client.session
    return handle


def is_tensor(value: Any) -> bool:
    """True for handles of tensord, and for nothing else."""
    return isinstance(value, Tensor)
