"""The first stage: speech to the audio encoder's mel windows."""
