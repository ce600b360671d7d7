"""Speech synthesis with eSpeak NG's library, which reports the time of each phoneme (its command line does not).

Needs Debian's `libespeak-ng1`.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from lipsync_mel.timeline import SAMPLE_RATE

# Language+variant, as in `espeak-ng -v`: accents of English, male and female voices.
VOICES = (
    *("en-us+m3", "en+f2", "en-gb-scotland+m7", "en-us+f4", "en-gb-x-rp+m1", "en-us+klatt4"),
    *("en-us+f5", "en-029+m2", "en+Michael", "en-gb-scotland+linda", "en-us-nyc+belinda", "en-gb-x-gbclan+m8"),
)
RETRIEVAL, PHONEMES_IN_IPA, UTF8, RATE = 1, 3, 1, 1  # speak_lib.h's names for an output, options, a text, a parameter
END_OF_LIST, PHONEME = 0, 7  # kinds of events


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng/speak_lib.h."""

    _fields_ = [
        ("kind", ctypes.c_int),
        ("number", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("mark", ctypes.c_char * 8),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library, with one voice at a time.

    Raises:
        OSError: the library or its data is not installed.
    """

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.library.espeak_Initialize(RETRIEVAL, 0, None, PHONEMES_IN_IPA)
        if self.rate <= 0:
            raise OSError("libespeak-ng finds no data: install Debian's espeak-ng-data")
        self._audio: list[NDArray[np.int16]] = []
        self._marks: list[tuple[str, float]] = []
        self._callback = _CALLBACK(self._receive)
        self.library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        """Called by the library with each piece of sound and the events in it."""
        if samples and count:
            self._audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        while events.contents.kind != END_OF_LIST:
            event = events.contents
            if event.kind == PHONEME:
                mark = ctypes.string_at(ctypes.addressof(event) + _Event.mark.offset, 8).split(b"\0")[0]
                self._marks.append((mark.decode(errors="ignore"), event.milliseconds / 1000))
            events = ctypes.cast(ctypes.addressof(event) + ctypes.sizeof(_Event), ctypes.POINTER(_Event))
        return 0

    def speak(self, voice: str, rate: int, text: str) -> tuple[NDArray[np.int16], list[tuple[str, float]]]:
        """Speak a text.

        Args:
            voice: one of `VOICES`, or another one of eSpeak's.
            rate: words a minute.

        Returns:
            INT16 samples at 16 kHz, and single IPA characters with their durations in seconds; a space for a pause.

        Raises:
            ValueError: no such voice.
        """
        self._audio, self._marks = [], []
        if self.library.espeak_SetVoiceByName(voice.encode()) or self.library.espeak_SetParameter(RATE, rate, 0):
            raise ValueError(f"espeak-ng has no voice {voice}")
        encoded = text.encode() + b"\0"
        self.library.espeak_Synth(encoded, len(encoded), 0, 0, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        audio = np.concatenate(self._audio)
        begins = [at for _, at in self._marks] + [len(audio) / self.rate]
        sounds = [(mark or " ", end - at) for (mark, at), end in zip(self._marks, begins[1:], strict=True)]
        marks = [(one, duration / len(sound)) for sound, duration in sounds for one in sound]  # "ai" is two of them
        resampled = resample_poly(audio.astype(float), SAMPLE_RATE, self.rate)
        return resampled.clip(-32768, 32767).astype("<i2"), marks
