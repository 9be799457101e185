"""The digital patient: procedural cohorts whose anatomy, findings and masks are known exactly.

`texture` has the randomness and the detectors; each modality has `cohort(n, size, seed, ...)`. `medtutor.render` draws
solid bodies. Submodules load on first use, so that importing this package costs nothing.
"""

from importlib import import_module
from pkgutil import iter_modules

_SUBMODULES = tuple(sorted(module.name for module in iter_modules(__path__)))


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"medtutor.phantom has no {name!r}; it has {', '.join(_SUBMODULES)}")


def __dir__():
    return [*globals(), *_SUBMODULES]
