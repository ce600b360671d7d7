"""What a server publishes of an avatar: the `parameters` of its network's config. Written, allowed and read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from lipsync_client.errors import ServerError

__all__ = ["FACT_NAMES", "AvatarFacts", "memory_in"]


@dataclass(frozen=True)
class AvatarFacts:
    """Facts of a packed avatar; the names are those of the parameters.

    Attributes:
        preset: quality and speed: low, medium, high or exact.
        avatar_id: its name.
        avatar_key: hash of its packed content: another one means that the avatar was replaced.
        audio_encoder: hash of the shared audio encoder that it was packed for, or "own".
        frame_width, frame_height: size of its pictures, in pixels.
        footage_frames: length of its footage.
        loop: how the footage repeats: "forward" or "pingpong".
        memory_mb: what a stage with its network holds for itself on a CPU, in MiB, as measured when it was packed; None
            where that is not stated.
        trial_cpu: hash of the kind of CPU on which its network's engine was chosen by a trial; None where none was.
    """

    preset: str
    avatar_id: str
    avatar_key: int
    audio_encoder: str
    frame_width: int
    frame_height: int
    footage_frames: int
    loop: str
    memory_mb: int | None = None
    trial_cpu: str | None = None

    def to_parameters(self) -> dict[str, str]:
        """As strings, which is all that a model config holds."""
        return {name: str(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> AvatarFacts:
        """Raises ServerError if a fact is missing or no number; others than the facts are passed over."""
        try:
            return cls(
                preset=parameters.get("preset", ""),
                avatar_id=parameters["avatar_id"],
                avatar_key=int(parameters["avatar_key"]),
                audio_encoder=parameters.get("audio_encoder", ""),
                frame_width=int(parameters["frame_width"]),
                frame_height=int(parameters["frame_height"]),
                footage_frames=int(parameters["footage_frames"]),
                loop=parameters["loop"],
                memory_mb=memory_in(parameters),
                trial_cpu=parameters.get("trial_cpu"),
            )
        except (KeyError, ValueError) as error:
            raise ServerError(f"the server publishes incomplete facts about this avatar: {error}") from None


def memory_in(parameters: Mapping[str, str]) -> int | None:
    """The stated `memory_mb`; None if it is not stated."""
    stated = parameters.get("memory_mb", "")
    return int(stated) if stated.isdigit() else None


FACT_NAMES = tuple(field.name for field in fields(AvatarFacts))
