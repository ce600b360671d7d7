"""Speech with phoneme times, and the mouth curves that it asks for: what the audio encoder learns from."""
