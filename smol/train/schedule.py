"""How fast to learn: the part of the full rate, 0 to 1, for the update after `step` others.

A new schedule: a function of a step and the settings, and its name in SCHEDULES.
"""

import math
from typing import Protocol


class ScheduleSettings(Protocol):
    """The settings that a schedule looks at: those of `TrainConfig`."""

    steps: int
    warmup: float
    decay: float


def wsd(step: int, config: ScheduleSettings) -> float:
    """Warm-up, stable, decay to 0 in a straight line: the schedule of SmolLM2.

    (Hu et al. 2024, MiniCPM; Allal et al. 2025.) It can be broken off and cooled down anywhere on
    the plateau.
    """
    up, down = warmup_and_decay(config)
    return min(1.0, (step + 1) / up, (config.steps - step) / down)


def cosine(step: int, config: ScheduleSettings) -> float:
    """Warm up, then half a wave of the cosine down to 0 (Loshchilov & Hutter 2017, eq. 5)."""
    up, _ = warmup_and_decay(config)
    if step < up:
        return (step + 1) / up
    return 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, config.steps - up)))


def warmup_and_decay(config: ScheduleSettings) -> tuple[int, int]:
    """How many steps the warm-up has, and how many the decay: 1 at least, so that both divide."""
    return tuple(max(1, round(config.steps * part)) for part in (config.warmup, config.decay))


SCHEDULES = {"wsd": wsd, "cosine": cosine}
