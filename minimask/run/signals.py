"""Ctrl-C and polite kills (SIGTERM, SIGHUP, SIGUSR1) during training: finish the step, save, then stop."""

import signal
import threading

# A closed terminal sends SIGHUP; clusters send SIGTERM or SIGUSR1 before they take a machine away.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows knows only the first two


class StopRequest:
    """Inside its `with` block, a signal sets `requested`; a second Ctrl-C raises KeyboardInterrupt at once.

    SIGHUP stays ignored under nohup. In a thread other than the main one, where Python
    allows no signal handlers, this does nothing.
    """

    def __init__(self):
        self.requested = False
        self.before = {}

    def _handle(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
