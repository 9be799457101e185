"""medtutor: the helper package of a book that teaches medical-imaging deep learning by running it."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # torch takes a second to load; `import medtutor` alone does not pay it.
    if name == "Lab":
        from medtutor.lab import Lab

        return Lab
    raise AttributeError(f"module 'medtutor' has no attribute {name!r}")
