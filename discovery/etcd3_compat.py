"""The package `etcd3` 0.12.0, importable and usable beside a protobuf and a tenacity of today.

    from discovery.etcd3_compat import etcd3

or `import discovery.etcd3_compat` anywhere before the program's first `import etcd3`. For
programs that hold an `etcd3` client already; Tallystick itself does not need it.

The last release (2020) fails in two ways. Its stubs create their descriptors one by one,
which protobuf 4 and later refuse ("Descriptors cannot be created directly"), although each
still carries its whole file in serialized form. So a finder takes that form out of the
installed source, without running it, and has protobuf build the messages from that. And its
lock waits through a callback of the form that tenacity had before 7.0: to wait for a lock
that somebody else held raised TypeError. The rest of the package runs unchanged.

The files get a descriptor pool of their own: their names are as common as `kv.proto`, and
in the default pool they would collide with those of any other copy of etcd's protos. So
these messages do not mix with ones of the same name that other stubs define.

A version with newer stubs is left alone: only stubs of the old form are replaced.

Importing this module raises ModuleNotFoundError, which names the extra, where `etcd3` is
not installed: here, where the program says it wants it, rather than at a later import.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import PurePosixPath
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import tenacity
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.reflection import GeneratedProtocolMessageType

__all__ = ["etcd3"]

_RPC_PACKAGE: Final = "etcd3.etcdrpc"
_STUBS: Final = frozenset(f"{_RPC_PACKAGE}.{name}_pb2" for name in ("auth", "kv", "rpc"))
_POOL: Final = DescriptorPool()


class _StubFinder(MetaPathFinder):
    """Finds the package's stubs, where they are of the old form, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _STUBS:
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None or not isinstance(found.loader, InspectLoader):
            return None
        serialized = _serialized_file(found.loader.get_source(fullname) or "")
        if serialized is None:
            return None
        return ModuleSpec(fullname, _StubLoader(serialized), origin=found.origin)


class _StubLoader(Loader):
    """Builds a stub module from the serialized form of its file."""

    def __init__(self, serialized: bytes) -> None:
        self._serialized = serialized

    def exec_module(self, module: ModuleType) -> None:
        file = FileDescriptorProto.FromString(self._serialized)
        for dependency in file.dependency:
            importlib.import_module(f"{_RPC_PACKAGE}.{PurePosixPath(dependency).stem}_pb2")
        _POOL.AddSerializedFile(self._serialized)
        _fill(module, _POOL.FindFileByName(file.name))


def _fill(module: ModuleType, file: FileDescriptor) -> None:
    """Gives `module` the public names of a stub of `file`."""
    # protobuf's own builder of stubs registers what it builds with the default pool too, in
    # its pure Python form, and whoever loads another `kv.proto` there is then given this one.
    names = vars(module)
    names["DESCRIPTOR"] = file
    for name, enum in file.enum_types_by_name.items():
        names[name] = EnumTypeWrapper(enum)
        names.update((value.name, value.number) for value in enum.values)
    for name, message in file.message_types_by_name.items():
        body = {"DESCRIPTOR": message, "__module__": module.__name__}
        names[name] = GeneratedProtocolMessageType(name, (Message,), body)


def _serialized_file(source: str) -> bytes | None:
    """The argument `serialized_pb` in the source of an old stub; None in any other source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            return _bytes_of(node.value)
    return None


def _bytes_of(value: ast.expr) -> bytes | None:
    """`_b('...')`, as protoc wrote while Python 2 lived, or the plain literal after it."""
    if isinstance(value, ast.Call) and len(value.args) == 1:
        value = value.args[0]
    match value:
        case ast.Constant(value=str(text)):
            return text.encode("latin-1")
        case ast.Constant(value=bytes(data)):
            return data
    return None


def _install() -> None:
    """Puts the finder before those that would find the old stubs."""
    # By name: this module may have been loaded before, and its class was another one then.
    if _StubFinder.__name__ not in (type(each).__name__ for each in sys.meta_path):
        sys.meta_path.insert(0, _StubFinder())


def _load() -> ModuleType:
    """Imports the package and mends its lock. Raises ModuleNotFoundError, naming the extra."""
    if sys.modules.get("etcd3") is None and importlib.util.find_spec("etcd3") is None:
        raise ModuleNotFoundError(
            "etcd3 is not installed: pip install 'tallystick[etcd3]'", name="etcd3"
        )
    _install()
    package = importlib.import_module("etcd3")
    locks = vars(sys.modules.get("etcd3.locks", package))
    if locks.get("tenacity") is tenacity:
        locks["tenacity"] = SimpleNamespace(**{**vars(tenacity), "retry": _retry})
    return package


def _retry(*, wait: Callable[..., float], **options: Any) -> Any:
    """`tenacity.retry`, whose `wait` may also be of the two arguments it had before 7.0."""
    if len(inspect.signature(wait).parameters) == 1:
        return tenacity.retry(wait=wait, **options)

    def wait_now(state: tenacity.RetryCallState) -> float:
        return wait(state.attempt_number, state.seconds_since_start)

    return tenacity.retry(wait=wait_now, **options)


etcd3: Final[ModuleType] = _load()
