"""A pretended GPU, for tests on a machine without one.

Within `pretended_gpu()`, `device: cuda` works. Tensors on it report `cuda:0`, compute in the memory
of the host with real values, and raise where they meet tensors of the CPU. A function mode sees
what makes or moves tensors; `__torch_dispatch__` sees every other operation. Not covered: CUDA's
own autocast lists (those of the CPU apply), streams, kernels, NCCL, FAISS.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")

INDEXING = ("index", "index_put", "index_put_impl", "unsafe_index", "unsafe_index_put")
"""CUDA takes indices of the CPU here; all other arguments must be on one device."""


_operations: Counter[str] = Counter()


class GpuTensor(torch.Tensor):
    """A tensor on the pretended GPU, around the real one in the memory of the host.

    PyTorch itself takes it for a tensor of the CPU, so autograd needs no CUDA.
    """

    host: torch.Tensor
    place: torch.device
    device = property(lambda self: self.place)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.place == GPU)  # type: ignore[assignment]
    is_cpu = property(lambda self: self.place == CPU)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> GpuTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device="cpu",
        )
        made.host, made.place = host, GPU
        return made

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.host!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.host.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> GpuTensor:
        copied = GpuTensor(self.host.detach().clone()).requires_grad_(self.requires_grad)
        copied.__dict__.update({**self.__dict__, "host": copied.host})
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, spec = tree_flatten((args, kwargs or {}))
        on_gpu = {id(leaf.host): leaf for leaf in leaves if _is_on_gpu(leaf)}
        if on_gpu:
            _operations[func.overloadpacket.__name__] += 1
            _require_one_device(func, args, leaves)
        hosts = [leaf.host if isinstance(leaf, GpuTensor) else leaf for leaf in leaves]
        host_args, host_kwargs = tree_unflatten(hosts, spec)
        result = func(*host_args, **host_kwargs)
        if not on_gpu or (func is aten.copy_.default and not _is_on_gpu(args[0])):
            return result

        def on_its_device(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, GpuTensor):
                return value
            return on_gpu[id(value)] if id(value) in on_gpu else GpuTensor(value)

        return tree_map(on_its_device, result)


def _is_on_gpu(value: Any) -> bool:
    return isinstance(value, GpuTensor) and value.place == GPU


def _require_one_device(func: Any, args: Any, leaves: list[Any]) -> None:
    """Raise as CUDA does; only `copy_` is between devices, and only scalars may be anywhere."""
    if func is aten.copy_.default:
        return
    if func.overloadpacket.__name__.strip("_") in INDEXING and _is_on_gpu(args[0]):
        leaves = [args[0], *args[2:]]
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and not _is_on_gpu(leaf) and leaf.dim():
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found at least two "
                f"devices, cuda:0 and cpu (shape {tuple(leaf.shape)})"
            )


class _Move(torch.autograd.Function):
    """Copies to a device; the gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        ctx.device = tensor.device
        return _copied(tensor, device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _copied(gradient, ctx.device), None


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    host = tensor.host if isinstance(tensor, GpuTensor) else tensor
    copied = host.detach().clone()
    return GpuTensor(copied) if device == GPU else copied


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.device == device and isinstance(tensor, GpuTensor) == (device == GPU):
        return tensor
    if tensor.requires_grad and torch.is_grad_enabled():
        return _Move.apply(tensor, device)
    with torch._C.DisableTorchFunction():
        return _copied(tensor, device)


def _device_named_by(value: Any) -> torch.device | None:
    """The device that an argument of `Tensor.to` names, or has as a tensor."""
    if isinstance(value, torch.Tensor):
        value = value.device
    kind = str(value).partition(":")[0] if isinstance(value, (str, torch.device)) else ""
    return {"cuda": GPU, "cpu": CPU}.get(kind)


class _Placement(TorchFunctionMode):
    """Makes tensors on the device that is asked for, and moves them there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(func, torch._ops.OpOverload):  # as a dispatch mode calls it
            return func(*args, **kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            return _moved(args[0], CPU if func is torch.Tensor.cpu else GPU)
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.Tensor.new_tensor:
            return _moved(func(*args, **kwargs), args[0].device)
        if func == torch.Tensor.data.__set__ and isinstance(args[0], GpuTensor):  # type: ignore[attr-defined]
            tensor, data = args
            tensor.host = data.host if isinstance(data, GpuTensor) else data
            tensor.place = data.device
            return None
        if func is torch._C._nn._parse_to:  # type: ignore[attr-defined]
            # `Module.to`: PyTorch itself takes the device of a wrapper for the CPU.
            device, *rest = func(*args, **kwargs)
            return args[0].device if args and _is_on_gpu(args[0]) else device, *rest
        device = _device_named_by(kwargs.get("device"))
        if device is None or func is torch.device:
            return func(*args, **kwargs)
        result = func(*args, **{**kwargs, "device": CPU})
        return _moved(result, device) if isinstance(result, torch.Tensor) else result

    @staticmethod
    def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs.pop("non_blocking", None)
        like = (*args, kwargs.pop("device", None), kwargs.pop("other", None))
        named = next((value for value in like if _device_named_by(value)), None)
        if named is None:
            return torch.Tensor.to(tensor, *args, **kwargs)
        if isinstance(named, torch.Tensor):
            kwargs["dtype"] = named.dtype
        rest = [value for value in args if isinstance(value, torch.dtype)]
        device = _device_named_by(named)
        assert device is not None
        tensor = _moved(tensor, device)
        return torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor


def _cuda() -> dict[str, Any]:
    """The functions of `torch.cuda` that this project and PyTorch ask, with their answers."""
    about = SimpleNamespace(
        name="pretended GPU",
        total_memory=1 << 34,
        multi_processor_count=1,
        major=9,
        minor=0,
    )
    nothing = ("_lazy_init", "set_device", "synchronize", "empty_cache", "set_rng_state")
    return {
        **dict.fromkeys((*nothing, "reset_peak_memory_stats")),
        **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), True),
        "device_count": 1,
        "current_device": 0,
        "max_memory_allocated": 1 << 20,
        "mem_get_info": (1 << 34, 1 << 34),
        "get_rng_state": torch.empty(0),
        "get_device_capability": (9, 0),
        "get_device_name": about.name,
        "get_device_properties": about,
        **dict.fromkeys(("Stream", "current_stream", "stream"), mock.MagicMock()),
        "Event": mock.Mock(**{"elapsed_time.return_value": 1.0}),
    }


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Pretend a GPU of compute capability 9.0; gives the operations that it computed, by name."""
    autocast, run_backward = torch.autocast.__init__, torch.autograd._engine_run_backward

    def begin_autocast(self: Any, device_type: str, *args: Any, **options: Any) -> None:
        if ":" in device_type:
            raise RuntimeError(
                f"User specified an unsupported autocast device_type '{device_type}'"
            )
        autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **options)

    # Views of a wrapper have no version counter in inference mode.
    def enter_inference(self: Any) -> None:
        self._before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(self._before and not self.mode)

    def leave_inference(self: Any, *_: Any) -> None:
        torch._C._set_grad_enabled(self._before)

    def backward(*args: Any, **kwargs: Any) -> Any:
        # A mode is off in the calls that it sees, and recomputed blocks make tensors.
        with _Placement():
            return run_backward(*args, **kwargs)

    answers = _cuda().items()
    changes: list[tuple[Any, str, Any]] = [
        *((torch.cuda, name, mock.Mock(return_value=answer)) for name, answer in answers),
        (torch.autocast, "__init__", begin_autocast),
        (torch.autograd, "_engine_run_backward", backward),
        (torch.inference_mode, "__enter__", enter_inference),
        (torch.inference_mode, "__exit__", leave_inference),
        (torch.Tensor, "record_stream", lambda *_: None),
        (torch.Tensor, "pin_memory", lambda tensor, *_: tensor),
    ]
    # `Module.to` then replaces parameters: the data of one cannot become a wrapper's.
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    _operations.clear()
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(_Placement())
        yield _operations
