"""User errors: each names the thing, what was expected, what was found, and the fix."""


class OptogramError(Exception):
    """Base of every error that a user can cause. The console shows its text without a traceback."""


class ParamError(OptogramError):
    """A key or value in params.yaml, or a keyword argument, that cannot be used."""


class DataError(OptogramError):
    """Images or texts that cannot be read, or too few of them."""


class ModelError(OptogramError):
    """A model that is unknown, unsupported, unreachable, or whose checkpoint does not fit."""


class ShapeError(OptogramError):
    """An array whose shape does not fit the others it came with."""


class ArtifactError(OptogramError):
    """An artifact that is missing, damaged, busy, too large for the disk, or of another protocol version."""


class CheckoutError(ArtifactError):
    """What belongs to a checkout, asked for outside of any."""


class FlowError(OptogramError):
    """A run that cannot start or go on: an unknown target, a checkout in use, a server or worker that is not there."""


class ExtraError(OptogramError):
    """A package that only an extra of optogram brings, asked for where it is not installed."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f'{what} needs {package}, which is not installed here: `pip install "optogram[pipeline]"`.')


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A ' Did you mean …?' clause with the known names closest to `name`, or '' when none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
