"""The training corpus: speech with phoneme times, its augmentation, and the mouth curves of phonemes."""
