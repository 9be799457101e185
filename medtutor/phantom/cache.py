"""Cohorts kept on disk: `cached(thorax.cohort, 500, seed=1)` makes the cohort once on this machine, then loads it."""

import contextlib
import inspect
import os
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from medtutor.cohort import Cohort
from medtutor.data.store import _cache

LIMIT = 2 * 10**9  # bytes in the folder; what was not used for longest goes first


def cached(make: Callable[..., Cohort], *arguments, **options) -> Cohort:
    """make(*arguments, **options), from disk where the same code has answered the same call before.

    `make` is a function of `medtutor.phantom`. What makes a cohort names its file: the function, all its arguments
    (tensors by content), the source of the phantom, the versions of torch and numba. The folder is `cohorts` in the
    user's cache folder, or $MEDTUTOR_CACHE. A damaged file is made again; a folder that cannot be written keeps
    nothing. Raises TypeError for an argument without content to compare, such as a function.
    """
    if not make.__module__.startswith("medtutor.phantom."):
        raise ValueError(f"only cohorts of medtutor.phantom are kept, but {make.__qualname__} is of {make.__module__}")
    bound = inspect.signature(make).bind(*arguments, **options)
    bound.apply_defaults()
    key = sha256(repr((make.__module__, make.__qualname__, _content(bound.arguments), _code())).encode()).hexdigest()
    folder = Path(os.environ.get("MEDTUTOR_CACHE") or _cache() / "cohorts").expanduser()
    path = folder / f"{make.__module__.rsplit('.')[-1]}-{key[:40]}.npz"
    with contextlib.suppress(Exception):  # not there, or damaged in whatever way
        cohort = Cohort.load(path)
        os.utime(path)
        return cohort
    cohort = make(*arguments, **options)
    with contextlib.suppress(OSError):
        _keep(cohort, path)
    return cohort


def _keep(cohort: Cohort, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(".part.npz", dir=path.parent)
    os.close(handle)
    try:
        cohort.save(part)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
    total = 0
    for file in sorted(path.parent.glob("*.npz"), key=lambda f: f.stat().st_mtime, reverse=True):
        total += file.stat().st_size
        if total > LIMIT:
            file.unlink(missing_ok=True)


@cache
def _code() -> tuple[str, ...]:
    here = Path(__file__).parent
    files = (here.parent / "cohort.py", *sorted((here.parent / "render").glob("*.py")),
             *sorted(f for f in here.iterdir() if f.is_file()))
    source = b"".join(f.read_bytes() for f in files)
    return (sha256(source).hexdigest(), version("torch"), version("numba"))


def _content(value):
    """Something whose repr tells values apart."""
    if isinstance(value, (Tensor, np.ndarray)):
        array = np.ascontiguousarray(value)
        return str(array.dtype), array.shape, sha256(array.tobytes()).hexdigest()
    if isinstance(value, dict):
        return sorted((repr(k), _content(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return [_content(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return value
    raise TypeError(f"the phantom cache cannot compare a {type(value).__name__}; call the function itself instead")
