"""What `main` tells of a command line that means nothing."""


class UsageError(Exception):
    """A command line that means nothing; the message says why, in plain words."""
