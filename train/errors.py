"""The two errors that the command line prints as a message, without a traceback."""


class ConfigError(ValueError):
    """Bad input or configuration: the command line prints the message and exits with 2."""


class RunError(RuntimeError):
    """A run that cannot continue: the command line prints the message and exits with 1."""
