"""How many files, which connections are too, a process may have open."""

from __future__ import annotations

import resource

from lipsync_server.gateway.settings import GatewaySettings

__all__ = ["limit", "raise_limit", "too_few"]

MOST = 1 << 20  # more is of no use, and some programs do something for each file that they might have
OWN = 128  # files of the process itself: libraries, logs, sockets


def limit() -> int:
    """How many this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> int:
    """Raise this process's limit, and that of programs that it will start, to the hard limit. Returns the new one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if most == resource.RLIM_INFINITY else min(MOST, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))
    return limit()


def too_few(settings: GatewaySettings) -> str | None:
    """What to do if a gateway's settings may need more files than this process may open; None: they do not."""
    needed = settings.max_connections + settings.max_open_requests + 2 * len(settings.upstreams) + OWN
    if (allowed := limit()) >= needed:
        return None
    return (
        f"This process may have {allowed} files open, and the gateway may need {needed}, for max_connections"
        f" {settings.max_connections} and max_open_requests {settings.max_open_requests}. Raise the hard limit"
        " (`ulimit -Hn`; systemd: LimitNOFILE=, Docker: --ulimit nofile=), or lower these settings."
    )
