"""What a served stack withstands: malformed requests, killed processes, idle connections, an hour of all of it."""

PARTS = ("attacks", "kills", "speed", "soak")
