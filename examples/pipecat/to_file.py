"""A Pipecat pipeline without keys, accounts or browser: a recording speaks through the avatar into a video file.

python examples/pipecat/to_file.py samples/speech.wav -o talk.mp4
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

try:
    import av
    import numpy as np
    from pipecat.frames.frames import (
        EndFrame,
        Frame,
        OutputAudioRawFrame,
        OutputImageRawFrame,
        TTSAudioRawFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.workers.runner import WorkerRunner

    from lipsync_client import AsyncClient, LipsyncError, VideoError, read_audio
    from lipsync_client.agents.pipecat import LipsyncVideoService
except ImportError as error:
    sys.exit(f"{error}. Install what this example needs: pip install 'lipsync-triton[pipecat]'")

RATE = 24_000
SILENCE = np.zeros(RATE // 25, np.int16)  # a picture's time


class Recorder(FrameProcessor):
    """Stands where a transport stands, and writes what it would play into an MP4 file. Sound is the only clock."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._file = av.open(f"file:{os.fspath(path)}", "w", format="mp4")
        self._video, self._audio = None, self._file.add_stream("aac", rate=RATE, layout="mono")
        self._samples = 0  # of sound so far
        self._quiet = False  # the last picture has no sound yet

    @property
    def has_picture(self) -> bool:
        return self._video is not None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputImageRawFrame):
            if self._quiet:
                self._write_sound(SILENCE)
            self._write_picture(frame)
            self._quiet = True
        elif isinstance(frame, OutputAudioRawFrame):
            self._write_sound(np.frombuffer(frame.audio, np.int16))
            self._quiet = False
        await self.push_frame(frame, direction)

    async def cleanup(self) -> None:
        await super().cleanup()
        for stream in (self._video, self._audio):
            if stream:
                self._file.mux(stream.encode(None))
        self._file.close()

    def _write_picture(self, frame: OutputImageRawFrame) -> None:
        width, height = frame.size
        if self._video is None:
            self._video = self._file.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            self._video.width, self._video.height, self._video.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.frombuffer(frame.image, np.uint8).reshape(height, width, 3))
        picture.pts = round(self._samples * 25 / RATE)
        self._file.mux(self._video.encode(picture))

    def _write_sound(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, self._samples
        self._samples += len(samples)
        self._file.mux(self._audio.encode(frame))


async def run(speech: str, output: str, server: str, avatar: str) -> None:
    """Speak the file once, and end. Raises LipsyncError."""
    async with AsyncClient(server) as client:
        await client.avatar(avatar)  # without a server, the pipeline would speak with no face
    sound = np.clip(np.rint(read_audio(speech, rate=RATE) * 32768), -32768, 32767).astype(np.int16)
    pieces = [sound[start : start + RATE // 10].tobytes() for start in range(0, len(sound), RATE // 10)]
    recorder = Recorder(output)
    pipeline = Pipeline([LipsyncVideoService(server, avatar=avatar), recorder])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_out_sample_rate=RATE), enable_rtvi=False)
    await worker.queue_frames(
        [TTSStartedFrame(), *(TTSAudioRawFrame(piece, RATE, 1) for piece in pieces), TTSStoppedFrame(), EndFrame()]
    )
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    if not recorder.has_picture:
        raise VideoError(f"{output} has no picture: see the errors above")
    print(f"wrote {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", help="any audio file")
    parser.add_argument("-o", "--output", default="talk.mp4")
    parser.add_argument("--server", default="127.0.0.1:8001", help="host:port of Triton's gRPC endpoint")
    parser.add_argument("--avatar", default="demo")
    options = parser.parse_args()
    try:
        asyncio.run(run(options.speech, options.output, options.server, options.avatar))
    except LipsyncError as error:
        sys.exit(str(error))
