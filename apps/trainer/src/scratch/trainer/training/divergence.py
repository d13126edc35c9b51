"""Divergence: the loss goes up and stays there, without ever becoming infinite."""

import math


class DivergedError(ArithmeticError):
    """A training whose loss has gone up for good."""


class DivergenceDetector:
    """Watches the smoothed loss: an exponential mean over the last twenty updates or so.

    Bias-corrected as Adam's moments are (Kingma and Ba, 2015, section 3), so that it is a mean
    from the first update on. A single spike moves it little; a training that is lost moves it to
    wherever the loss now is. The first twenty updates are not judged: many a training finds its
    way back from there.
    """

    _KEPT = 0.95
    _NOT_JUDGED = 20

    def __init__(self, margin_nats: float) -> None:
        """Tell when the smoothed loss is more than `margin_nats` above its lowest; 0 never does."""
        self._margin_nats = margin_nats
        self._sum = self._weight = 0.0
        self._seen = 0
        self._lowest, self._lowest_step = math.inf, 0

    def add(self, step: int, loss: float) -> None:
        """Take in the loss of an update, in nats.

        Raises:
            DivergedError: if the training is lost, with the figures that say so.
        """
        self._sum = self._KEPT * self._sum + (1 - self._KEPT) * loss
        self._weight = self._KEPT * self._weight + (1 - self._KEPT)
        smoothed = self._sum / self._weight
        if smoothed < self._lowest:
            self._lowest, self._lowest_step = smoothed, step
        self._seen += 1
        is_lost = self._margin_nats and smoothed > self._lowest + self._margin_nats
        if is_lost and self._seen > self._NOT_JUDGED:
            raise DivergedError(
                f"step {step}: the training diverges; the smoothed loss is {smoothed:.3f}, "
                f"it was {self._lowest:.3f} at step {self._lowest_step}"
            )
