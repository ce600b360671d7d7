"""What a frame costs composite, and what an avatar and a request cost."""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_client import Client, Control
from lipsync_composite.assets import write_assets
from lipsync_composite.avatar import PackedAvatar
from lipsync_server import home
from lipsync_server.benchmark.memory import server_memory_mb
from lipsync_server.benchmark.packed import DEMO, copied
from lipsync_server.repository.source import AvatarSource, face_crop
from lipsync_server.serving import TritonServer

LARGE = (3840, 2160)  # pixels
COPIED = "medium"  # the preset of the avatar whose copies are counted


def composite_ms(rounds: int) -> dict[str, list[float]]:
    """Milliseconds a frame, a value for each round: the demo's frames as they are, and inside frames of 3840x2160 with
    the mouth as large as before. In turn, on one core.
    """
    source, count = AvatarSource.read(DEMO), 25
    frames = [frame for frame, _ in zip(source.frames(), range(count), strict=False)]
    boxes = source.read_boxes()[:count]
    height, width, _ = frames[0].shape
    left, top = (LARGE[0] - width) // 2, (LARGE[1] - height) // 2
    border = np.random.default_rng(0).integers(0, 256, (LARGE[1] // 8, LARGE[0] // 8, 3), np.uint8)
    canvas = border.repeat(8, axis=0).repeat(8, axis=1)

    def inside_canvas() -> Any:
        for frame in frames:
            large = canvas.copy()
            large[top : top + height, left : left + width] = frame
            yield large

    mouths = [face_crop(frame, box) for frame, box in zip(frames, boxes, strict=True)]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        avatars = {}
        for size, pictures, places in (
            ((width, height), iter(frames), boxes),
            (LARGE, inside_canvas(), [(x + left, y + top, side) for x, y, side in boxes]),
        ):
            folder = Path(name) / f"{size[0]}x{size[1]}"
            settings: dict[str, Any] = {"loop": source.loop, "blend": source.blend, "mask": source.mask}
            write_assets(folder, pictures, places, avatar_id="cost", quality=source.jpeg_quality, **settings)
            avatars[folder.name] = PackedAvatar.open(folder)
        for _ in range(rounds + 1):
            for size_name, avatar in avatars.items():
                begin = time.perf_counter()
                for position in range(count):
                    avatar.render(position, mouths[position])
                found.setdefault(size_name, []).append((time.perf_counter() - begin) * 1000 / count)
    return {size_name: values[1:] for size_name, values in found.items()}


def avatar_costs(server: TritonServer, repository: Path, counts: tuple[int, ...]) -> dict[str, Any]:
    """Memory in MB by avatars loaded, and the seconds that each load took: copies of the demo in the preset COPIED,
    each asked once.
    """
    memory, seconds = {}, []
    speech = home.read_sample()[: 640 * 4]
    with Control(server.grpc_url, key=server.control_key) as control, Client(server.grpc_url, timeout=60) as client:
        loaded = 0
        for count in counts:
            while loaded < count:
                loaded += 1
                avatar = copied(repository, f"demo-{COPIED}", loaded)
                begin = time.perf_counter()
                control.load(avatar)
                seconds.append(time.perf_counter() - begin)
                list(client.render(speech, avatar=avatar))
            memory[str(count)] = server_memory_mb(server.pid)
    return {"memory": memory, "load_s": seconds}


def request_bytes(url: str, avatar: str, frames: int = 24) -> int:
    """Bytes that cross the network for a request in the middle of a speech, all framing included; counted on a socket
    between client and server, as the difference that a second request makes.
    """
    counter = _Counter(url)
    with Client(counter.url) as client:
        start, audio = client.timeline().slice(home.read_sample(), 60, frames)
        totals = []
        for _ in range(3):
            client.infer(audio, avatar=avatar, audio_start=start, audio_end=False, first_frame=60, frame_count=frames)
            totals.append(counter.sent)
    counter.listening.close()
    return int(statistics.median(np.diff(totals)))


class _Counter:
    """An address that leads to a server, and counts what is sent there."""

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition(":")
        self._server, self.sent = (host, int(port)), 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.create_connection(self._server)
            threading.Thread(target=self._copy, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near, False), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with source, target:
            try:
                while data := source.recv(1 << 16):
                    self.sent += len(data) if counted else 0
                    target.sendall(data)
            except OSError:
                return
