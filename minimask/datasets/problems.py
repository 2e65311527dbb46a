"""One report of everything that is wrong with a data set: kinds, counts, and where to look."""

from minimask.errors import InputError

SHOWN = 10  # places named per kind
LEAVE_OUT = "--skip-bad (in Python: skip_bad=True) goes on without them"


class Defect(InputError):
    """What is wrong with one entry of a file.

    kind: what such defects have in common, under which the report counts them.
    text: the whole message for this one.
    """

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


class Problems:
    """Collects problems by kind; a problem is one place (an annotation, a line, a file) that cannot be used.

    Doubts are places that can be used and are probably wrong. Notes are things that were read in a way worth knowing.
    Neither stops anything.

    source: the file or folder, which is named in messages.
    left_out: how many entries were left out because of problems.
    """

    def __init__(self, source):
        self.source = source
        self.kinds, self.doubts, self.notes = {}, {}, {}
        self.left_out = 0
        self._messages = []  # the whole message of each problem that has one
        self._final = False

    def add(self, kind, where, message=None, final=False):
        """Record a place with this kind of problem, such as add("polygon of two points", "annotation 7").

        message: the problem in a sentence, used if it is the only one.
        final: whether nothing can be read because of it.
        """
        self.kinds.setdefault(kind, []).append(str(where))
        self._messages.append(message)
        self._final |= final

    def doubt(self, kind, where):
        """Record a place that can be used and is probably wrong."""
        self.doubts.setdefault(kind, []).append(str(where))

    def note(self, kind, where):
        """Record a place that was read in a way worth knowing."""
        self.notes.setdefault(kind, []).append(str(where))

    def __len__(self):
        return sum(len(places) for places in self.kinds.values())

    def __str__(self):
        return self.report()

    def report(self, shown=SHOWN):
        """The whole report, with at most `shown` places of each kind; empty if there is nothing to report."""
        lines = []
        for heading, kinds in (
            (_count(len(self), "problem"), self.kinds),
            ("probably wrong, used nevertheless", self.doubts),
            ("read nevertheless", self.notes),
        ):
            if kinds:
                lines += [f"{self.source}: {heading}", *_lines(kinds, shown)]
        if self.left_out:
            lines.append(f"{self.source}: {self.left_out} left out")
        return "\n".join(lines)

    def refuse(self, advice=None):
        """Raise InputError with the whole report and what to do, if there is a problem.

        If there is only one problem and it has a message, the report is that sentence.
        """
        if not self.kinds:
            return
        advice = None if self._final and advice == LEAVE_OUT else advice
        if len(self) == 1 and self._messages[0]:
            raise InputError(f"{self.source}: {self._messages[0]}" + (f"; {advice}" if advice else ""))
        raise InputError(f"{self}\n{advice}" if advice else str(self))

    def leave_out(self, skip_bad, advice=LEAVE_OUT):
        """Go on without what has problems, if `skip_bad` says so and it can be done; otherwise `refuse`."""
        if self._final or not skip_bad:
            self.refuse(advice)
        self.left_out = len(self)


def _lines(kinds, shown):
    lines = []
    for kind, places in sorted(kinds.items(), key=lambda item: -len(item[1])):
        more = f" and {len(places) - shown} more" if len(places) > shown else ""
        lines.append(f"  {len(places):5} x {kind}: {', '.join(places[:shown])}{more}")
    return lines


def _count(number, name):
    return f"{number} {name}{'s' * (number != 1)}"
