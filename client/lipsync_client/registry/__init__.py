"""Which avatars a server has loaded: on demand, within limits."""
