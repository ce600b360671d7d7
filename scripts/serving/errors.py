"""What can go wrong before or while the server runs, each told in one sentence."""


class ServerError(RuntimeError):
    """The server cannot start or has ended; the message says what to do next."""


class ConfigError(ServerError):
    """`server.yaml` holds something that is not allowed."""
