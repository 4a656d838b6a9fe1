"""Commands that run in this process share what they load."""

from shared_sessions import sessions  # noqa: F401
