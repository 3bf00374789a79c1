"""Learning-rate schedules, as factors of the rate that was asked for."""

from math import cos, pi

__all__ = ["SCHEDULES", "learning_rate_factor"]

SCHEDULES = {"cosine", "onecycle"}
_RISE = 0.3  # share of the steps in which "onecycle" rises
_START = 0.04  # what it starts from


def learning_rate_factor(schedule, progress):
    """Give the factor of the learning rate at a share `progress` in [0, 1) of the steps.

    ``"cosine"`` falls from 1 to 0 (Loshchilov & Hutter 2017). ``"onecycle"`` first rises
    to 1 over three tenths of the steps (Smith & Topin 2018).
    """
    if schedule == "cosine":
        return _half_wave(1.0, 0.0, progress)
    if progress < _RISE:
        return _half_wave(_START, 1.0, progress / _RISE)
    return _half_wave(1.0, 0.0, (progress - _RISE) / (1 - _RISE))


def _half_wave(start, end, progress):
    return end + (start - end) * (1 + cos(pi * progress)) / 2
