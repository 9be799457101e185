"""What passes between the judge and a student's process: length-limited JSON, in both directions.

Arrays travel as dtype, shape and base64. There are no pickles and there is no code. Exact types are kept; a value of
any other type, a subclass among them, is refused.
"""

from __future__ import annotations

import base64
import json
import sys

import numpy as np

#: The most bytes of one message.
LIMIT = 16 * 2**20
DTYPES = {"bool", *(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)),
          "float16", "float32", "float64", "complex64", "complex128"}


class NoData(TypeError):
    """A value that is none of the types that may pass."""


def encode(value):
    """`value` as JSON data. Raises NoData where it, or something in it, may not pass."""
    kind, torch = type(value), sys.modules.get("torch")
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        return {kind.__name__: [encode(item) for item in value]}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: encode(item) for key, item in value.items()}}
    if torch and kind is torch.Tensor:
        array = value.detach().cpu().resolve_conj().resolve_neg().numpy()
    elif kind is np.ndarray or isinstance(value, np.generic):
        array = np.asarray(value)
    else:
        raise NoData(f"a {kind.__name__} is no data that can be graded")
    dtype = array.dtype.name
    if dtype not in DTYPES:
        raise NoData(f"an array of dtype {dtype} is no data that can be graded")
    return {kind.__name__: [dtype, array.shape, base64.b64encode(array.astype(dtype).tobytes()).decode()]}


def decode(data):
    """The value of which `data` is the JSON form. Raises some exception where it is the form of nothing."""
    if type(data) is not dict:
        return data
    ((kind, body),) = data.items()
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](map(decode, body))
    if kind == "dict":
        return {key: decode(item) for key, item in body.items()}
    dtype, shape, content = body
    if dtype not in DTYPES:
        raise ValueError(f"no array of {dtype} may pass")
    # A forged bool could be a byte that is neither 0 nor 1, which numpy takes for equal to nothing or to both.
    array = np.frombuffer(base64.b64decode(content), "uint8" if dtype == "bool" else dtype).reshape(shape).astype(dtype)
    if kind == "Tensor":
        import torch

        return torch.from_numpy(array)
    return array if kind == "ndarray" else array[()]


def send(stream, message) -> None:
    """Write one message to a binary stream. Raises ValueError where it is longer than LIMIT."""
    content = json.dumps(message).encode()
    if len(content) > LIMIT:
        raise ValueError(f"an answer of more than {LIMIT // 2**20} MB cannot be graded")
    stream.write(len(content).to_bytes(8, "big") + content)
    stream.flush()


def receive(stream):
    """Read one message. Raises EOFError where the stream ends or announces more than LIMIT."""
    size = int.from_bytes(stream.read(8), "big")
    content = stream.read(size) if size <= LIMIT else b""
    if not content or len(content) < size:
        raise EOFError("the channel was closed")
    return json.loads(content)
