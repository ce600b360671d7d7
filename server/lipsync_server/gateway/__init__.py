"""The gateway: the public ports before one or several Tritons, which it keeps bad requests and strangers from."""
