"""The one error of a reduction's inputs."""


class InputError(ValueError):
    """A file or a start message that cannot be used. Says expected, got, and which."""
