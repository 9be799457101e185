"""What may pass between judge and student, and what may not."""

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medtutor.grading.channel import LIMIT, NoData, decode, encode, receive, send

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DATA = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) |
                    st.dictionaries(st.text(), inner))


def passed(value):
    """`value` after its way through a stream."""
    stream = io.BytesIO()
    send(stream, encode(value))
    stream.seek(0)
    return decode(receive(stream))


def types(value):
    if isinstance(value, dict):
        return {key: types(item) for key, item in value.items()}
    return [type(value), *map(types, value)] if isinstance(value, (list, tuple)) else type(value)


@given(DATA)
def test_plain_data_arrives_as_it_was_with_its_exact_types(value):
    assert passed(value) == value
    assert types(passed(value)) == types(value)


@pytest.mark.parametrize("value", [
    np.arange(6, dtype=np.int16).reshape(2, 3).T, np.array([True, False]), np.zeros((0, 3)), np.array(2.5),
    np.float32(0.1),
    np.array([1 + 2j]), np.array([np.nan, np.inf]), torch.eye(3, dtype=torch.float64),
    torch.ones(2, requires_grad=True), torch.tensor(True), torch.zeros(2, 0, dtype=torch.int64)],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}-{tuple(value.shape)}")
def test_arrays_and_tensors_keep_type_dtype_and_shape(value):
    got = passed([value])[0]
    assert type(got) is type(value)
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    np.testing.assert_array_equal(got, value.detach() if isinstance(value, torch.Tensor) else value)


class Always(float):
    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize("value", [
    Always(), object(), {1: 2}, {1, 2}, b"bytes", len, torch.nn.Parameter(torch.ones(1)), np.array([object()]),
    np.ma.array([1.0]), np.array(["text"]), np.array(["2020-01-01"], "datetime64[D]"), np.zeros(2, [("a", int)]),
    type("Own", (list,), {})()], ids=lambda value: type(value).__name__)
def test_any_other_type_is_refused_also_inside(value):
    for outer in (value, [value], {"a": (value,)}):
        with pytest.raises(NoData, match="no data that can be graded"):
            encode(outer)


def array(dtype, shape, content):
    return {"ndarray": [dtype, shape, base64.b64encode(content).decode()]}


@pytest.mark.parametrize("data", [
    {}, {"list": [], "tuple": []}, {"object": [1]}, {"list": 1}, {"dict": [1]}, array("object", [1], bytes(8)),
    array("float64", [2], bytes(8)), array("S8", [1], bytes(8)),
    {"ndarray": ["float64", [1], "%"]}, {"Tensor": ["float64", [[1]], ""]}], ids=repr)
def test_forged_data_raise_instead_of_becoming_something(data):
    with pytest.raises((ValueError, TypeError, AttributeError)):
        decode(data)


def test_a_forged_bool_is_true_or_false_and_nothing_between():
    forged = decode(array("bool", [3], b"\x00\x02\xff"))
    assert forged.tobytes() == b"\x00\x01\x01"


def test_a_message_that_is_too_long_is_neither_sent_nor_read():
    stream = io.BytesIO()
    with pytest.raises(ValueError, match="more than 16 MB"):
        send(stream, "x" * LIMIT)
    assert stream.getvalue() == b""
    with pytest.raises(EOFError):
        receive(io.BytesIO((LIMIT + 1).to_bytes(8, "big") + b"x" * (LIMIT + 1)))


@pytest.mark.parametrize("content", [b"", b"\x00", bytes(8), (5).to_bytes(8, "big") + b"1234"])
def test_a_stream_that_ends_early_is_an_end(content):
    with pytest.raises(EOFError):
        receive(io.BytesIO(content))
