"""Types of gRPC for Python that are generic in its stubs only, so that they can be derived from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

if TYPE_CHECKING:
    UnaryUnary: TypeAlias = grpc.UnaryUnaryMultiCallable[Any, Any]
    UnaryStream: TypeAlias = grpc.UnaryStreamMultiCallable[Any, Any]
    StreamUnary: TypeAlias = grpc.StreamUnaryMultiCallable[Any, Any]
    StreamStream: TypeAlias = grpc.StreamStreamMultiCallable[Any, Any]
    Future: TypeAlias = grpc.Future[Any]
else:
    UnaryUnary = grpc.UnaryUnaryMultiCallable
    UnaryStream = grpc.UnaryStreamMultiCallable
    StreamUnary = grpc.StreamUnaryMultiCallable
    StreamStream = grpc.StreamStreamMultiCallable
    Future = grpc.Future
