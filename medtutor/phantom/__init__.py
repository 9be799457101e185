"""The digital patient: procedural cohorts whose anatomy, findings and masks are known exactly.

`body` is the engine, `texture` the randomness and the detectors; each modality has `cohort(n, size, seed, ...)`;
`language` and `questions` put into words what a cohort knows.
Submodules load on first use, so that importing this package costs nothing.
"""

from importlib import import_module

_SUBMODULES = ("abdomen", "body", "brain", "cache", "corruptions", "facts", "gallery", "growth", "language",
               "language_read", "mri", "questions", "shape", "skin", "texture", "thorax", "warp", "wound")


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"medtutor.phantom has no {name!r}; it has {', '.join(_SUBMODULES)}")


def __dir__():
    return [*globals(), *_SUBMODULES]
