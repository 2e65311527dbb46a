"""How far a training run has come: its clock and its progress bar."""

import collections
import contextlib
import sys
import time


class Clock:
    """Measures a run by its steps or, if the settings give minutes, by the time that has passed.

    settings: TrainSettings.
    seconds: how long the run had trained before it was resumed.
    """

    def __init__(self, settings, seconds=0.0):
        self.steps = settings.steps
        self.limit = None if settings.minutes is None else 60 * settings.minutes
        self.begin = time.monotonic() - seconds

    def seconds(self):
        """Seconds of training so far."""
        return time.monotonic() - self.begin

    def progress(self, step):
        """The fraction of the run, from 0 to 1, that is behind us after `step` steps."""
        return step / self.steps if self.limit is None else min(1.0, self.seconds() / self.limit)

    def done(self, step):
        """Whether the run is over after `step` steps."""
        return step >= self.steps if self.limit is None else self.seconds() >= self.limit


class Bar:
    """The progress bar: live in a terminal or a notebook, an occasional line if the output goes to a file.

    settings: TrainSettings.
    clock: the run's Clock.
    start: the step at which the run starts or resumes.
    show: False hides the bar; it still measures images per second.

    `unread` becomes True if the reader of the output has gone (`2>&1 | head -1`).
    """

    def __init__(self, settings, clock, start, show):
        from tqdm.auto import tqdm

        self.clock = clock
        self.minutes = settings.minutes is not None
        self.times = collections.deque(maxlen=30)  # (time, images) of the latest steps
        self.times.append((time.monotonic(), 0))
        self.images_per_second = 0.0
        self.unread = False

        live = sys.stderr.isatty() or "ipykernel" in sys.modules
        # The bar counts steps; in a run by minutes it counts seconds instead.
        self.bar = tqdm(
            total=round(60 * settings.minutes) if self.minutes else settings.steps,
            initial=round(clock.seconds()) if self.minutes else start,
            disable=not show,
            mininterval=0.2 if live else 10,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}[{elapsed} < {remaining}]{postfix}",
        )

    def update(self, step, losses, images):
        """Show step `step` (counted from 1), its losses (name -> value) and the speed, given its number of images."""
        self.times.append((time.monotonic(), images))
        passed = self.times[-1][0] - self.times[0][0]
        self.images_per_second = sum(n for _, n in list(self.times)[1:]) / max(passed, 1e-9)

        parts = " ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in losses.items())
        self.bar.set_description_str(f"step {step}", refresh=False)
        total = f"{self.images_per_second:.1f} images/s, loss {sum(losses.values()):.3f}"
        self.bar.set_postfix_str(f"{total}: {parts}", refresh=False)
        done = min(self.clock.seconds(), self.bar.total or 0) - self.bar.n if self.minutes else 1
        try:
            self.bar.update(done)
        except BrokenPipeError:
            self.bar.disable = self.unread = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.bar.close()
