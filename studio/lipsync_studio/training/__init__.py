"""Training of the audio encoder and of avatars' U-Nets."""
