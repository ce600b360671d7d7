"""A face for voice agents: `pipecat` and `livekit` need the extras of these names."""
