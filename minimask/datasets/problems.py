"""One report of everything that is wrong with a dataset: kinds of problems, how many there are, and where to look."""

from minimask.errors import InputError

SHOWN = 5  # places named per kind


class Problems:
    """Collects problems by kind. A problem is one place (an annotation, a line, a file) that cannot be used.

    Notes are things that could be read nevertheless, and how they were read. They stop nothing.
    """

    def __init__(self, source):
        self.source = source
        self.kinds, self.notes = {}, {}

    def add(self, kind, where):
        """Record a place with this kind of problem, such as add("polygon of two points", "annotation 7")."""
        self.kinds.setdefault(kind, []).append(str(where))

    def note(self, kind, where):
        """Record a place that was read in a way worth knowing."""
        self.notes.setdefault(kind, []).append(str(where))

    def __len__(self):
        return sum(len(places) for places in self.kinds.values())

    def __str__(self):
        lines = []
        if self.kinds:
            lines.append(f"{self.source}: {_count(len(self), 'problem')}")
            lines += _lines(self.kinds)
        if self.notes:
            lines.append(f"{self.source}: read nevertheless")
            lines += _lines(self.notes)
        return "\n".join(lines)

    def refuse(self, advice):
        """Raise InputError with the whole report and some advice, if there is any problem."""
        if self.kinds:
            raise InputError(f"{self}\n{advice}")


def _lines(kinds):
    lines = []
    for kind, places in sorted(kinds.items(), key=lambda item: -len(item[1])):
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        lines.append(f"  {len(places):5} x {kind}: {', '.join(places[:SHOWN])}{more}")
    return lines


def _count(number, name):
    return f"{number} {name}{'s' * (number != 1)}"
