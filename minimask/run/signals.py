"""Ctrl-C and a polite kill (SIGTERM) during training: finish the step, save, then stop."""

import signal
import threading


class StopRequest:
    """Inside its `with` block, the first signal sets `requested`; a second one raises KeyboardInterrupt at once.

    In a thread other than the main one, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self):
        self.requested = False
        self.before = {}

    def _handle(self, number, frame):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
