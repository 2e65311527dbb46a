"""Every system that the decks name: whose it is, on which slide, of which family, and how to build it here.

    for system in SYSTEMS_OF_THE_TALK:
        model = system.model()

`table` writes the list as a table for the guide, and `draw_taxonomy` draws slide T07 from it.
"""

import json
from dataclasses import dataclass, field

from minimask import mask_rcnn
from minimask.draw.colors import COLORS, unit
from minimask.draw.curves import TEXT, new_figure, render
from minimask.systems import SYSTEMS
from minimask.systems.test_time import Augmented

BOXES, INSTANCES, PIXELS, SEMANTIC = "boxes alone", "instances first", "segmentation first", "semantic"
FAMILIES = {  # what the talk calls them, and in a few words
    BOXES: "find boxes",
    INSTANCES: "R-CNN driven:\nfind regions,\nthen their pixels",
    PIXELS: "FCN driven:\nclassify pixels,\nthen sort them into objects",
    SEMANTIC: "classify pixels",
}
ROI_POOL, NO_MASKS = {"roi": {"pooling": "roi_pool"}}, {"heads": {"mask": None}}
LOOK_TWICE = {"scales": (1.0, 1.5), "flip": True}


@dataclass(frozen=True)
class TalkSystem:
    """One system of the decks.

    title: its name there.  paper: authors and year.  slides: where it is named.  family: a key of FAMILIES.
    build: the preset or system that it is here, None if it is not run.
    groups: the settings that are changed.  at_test_time: arguments of Augmented, if it looks at an image several times.
    why_not: what stands against running it.
    """

    title: str
    paper: str
    slides: tuple[str, ...]
    family: str
    build: str | None
    groups: dict = field(default_factory=dict)
    at_test_time: dict = field(default_factory=dict)
    why_not: str = ""

    @property
    def year(self):
        return int(self.paper[-4:])

    @property
    def file(self):
        """The file in minimask/ that says what it is."""
        return f"systems/{SYSTEMS[self.build].split('.')[0]}.py" if self.build in SYSTEMS else "presets.py"

    @property
    def command(self):
        """How to train it on drawn scenes."""
        option = "--system" if self.build in SYSTEMS else "--preset"
        changes = [
            f" --set {group}.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for group, values in self.groups.items()
            for name, value in values.items()
        ]
        return f"train {option} {self.build}{''.join(changes)}"

    def model(self, **options):
        """The system with random weights. options: other arguments of `mask_rcnn.build`."""
        model = mask_rcnn.build(self.build, **{**options, **self.groups})
        return Augmented(model, **self.at_test_time) if self.at_test_time else model


SYSTEMS_OF_THE_TALK = (
    TalkSystem("R-CNN", "Girshick et al. 2014", ("T09",), BOXES, "slow_rcnn"),
    TalkSystem("Fast R-CNN", "Girshick 2015", ("T04", "T09"), BOXES, "fast_rcnn"),
    TalkSystem("Faster R-CNN", "Ren et al. 2015", ("T04", "T09", "L05", "L06"), BOXES, "toy_faster_rcnn_c4"),
    TalkSystem("FCN", "Long et al. 2015", ("T05",), SEMANTIC, "fcn"),
    TalkSystem("SDS", "Hariharan et al. 2014", ("T07",), INSTANCES, "sds"),
    TalkSystem("Hypercolumns", "Hariharan et al. 2015", ("T07",), INSTANCES, "hypercolumns"),
    TalkSystem("CFM", "Dai et al. 2015", ("T07",), INSTANCES, "cfm"),
    TalkSystem("MNC", "Dai et al. 2016", ("T07", "T14"), INSTANCES, "mnc"),
    TalkSystem("FCIS", "Li et al. 2017", ("T07",), INSTANCES, "fcis"),
    TalkSystem("Arnab & Torr", "Arnab & Torr 2017", ("T07",), INSTANCES, "crf"),
    TalkSystem("PFN", "Liang et al. 2015", ("T07",), PIXELS, "pfn"),
    TalkSystem("InstanceCut", "Kirillov et al. 2017", ("T07",), PIXELS, "instance_cut"),
    TalkSystem("Deep watershed", "Bai & Urtasun 2017", ("T07",), PIXELS, "deep_watershed"),
    TalkSystem("Mask R-CNN", "He et al. 2017", ("T08", "T09", "T14", "T17"), INSTANCES, "toy"),
    TalkSystem("FCIS + OHEM", "Li et al. 2017", ("T14",), INSTANCES, "fcis", {"system": {"hardest": 48}}),
    TalkSystem("FCIS+++", "Li et al. 2017", ("T14",), INSTANCES, "fcis", {"system": {"hardest": 48}}, LOOK_TWICE),
    TalkSystem("Mask R-CNN, C4", "He et al. 2017", ("T14",), INSTANCES, "toy_c4"),
    TalkSystem("Mask R-CNN, dilated C5", "He et al. 2017", ("L08",), INSTANCES, "toy_c5"),
    TalkSystem("Mask R-CNN, ResNeXt", "He et al. 2017", ("T15", "T18"), INSTANCES, "toy_resnext"),
    TalkSystem(
        "Faster R-CNN+++", "He et al. 2016", ("T16",), BOXES, "toy_faster_rcnn_c4", {}, {**LOOK_TWICE, "refine": 1}
    ),
    TalkSystem("Faster R-CNN, FPN", "Lin et al. 2017", ("T16",), BOXES, "toy_faster_rcnn", ROI_POOL),
    TalkSystem("G-RMI", "Huang et al. 2017", ("T16",), BOXES, "g_rmi"),
    TalkSystem("TDM", "Shrivastava et al. 2016", ("T16",), BOXES, "tdm", NO_MASKS),
    TalkSystem("Faster R-CNN, RoIAlign", "He et al. 2017", ("T16",), BOXES, "toy_faster_rcnn"),
    TalkSystem(
        "COCO 2017, single model", "He et al. 2017", ("T19",), INSTANCES, None,
        why_not="a ladder of larger bodies, longer training and more data, whose effects drawn scenes do not show",
    ),
)  # fmt: skip


def table():
    """The list as a table in Markdown, one row per system."""
    lines = ["| system | paper | slides | family | file | command |", "|---|---|---|---|---|---|"]
    for system in SYSTEMS_OF_THE_TALK:
        where, how = f"`{system.file}`", f"`{system.command}`"
        if system.at_test_time:
            settings = ", ".join(f"{name}={value}" for name, value in system.at_test_time.items())
            how += f", then `Augmented(model, {settings})`"
        if system.build is None:
            where, how = "", f"not run: {system.why_not}"
        cells = system.title, system.paper, ", ".join(system.slides), system.family, where, how
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_taxonomy():
    """Slide T07: the systems by year and family, each with the name under which it is built here; Mask R-CNN in orange.

    Returns (H, W, 3) uint8.
    """
    shown = [system for system in SYSTEMS_OF_THE_TALK if {"T05", "T07", "T08", "T09"} & set(system.slides)]
    years = sorted({system.year for system in shown})
    figure, axes = new_figure(14, 8.4)
    colors = dict(zip(FAMILIES, (unit(COLORS[i]) for i in (5, 1, 3, 6))))

    top = 0.0
    for family, text in FAMILIES.items():
        cells = {year: [s for s in shown if (s.family, s.year) == (family, year)] for year in years}
        height = max(len(cell) for cell in cells.values())
        axes.axhspan(top, top + height, color=colors[family], alpha=0.25)
        axes.axhline(top, color="white", linewidth=6)
        axes.text(-1.32, top + height / 2, text, ha="left", va="center", fontsize=TEXT + 2)
        for column, cell in enumerate(cells.values()):
            for row, system in enumerate(cell):
                _name(axes, column, top + (height - len(cell)) / 2 + row + 0.5, system)
        top += height

    axes.set(xlim=(-1.35, len(years) - 0.5), ylim=(top, 0))
    axes.set_xticks(range(len(years)), years, fontsize=TEXT + 3)
    axes.set_yticks([])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return render(figure)


def _name(axes, x, y, system):
    """Write a system's name, and below it how it is called here."""
    ours = system.build == "toy"
    style = dict(boxstyle="round,pad=0.3", facecolor=unit(COLORS[0]), edgecolor="none") if ours else None
    axes.text(x, y - 0.16, system.title, ha="center", va="center", fontsize=TEXT + 4, weight="bold", bbox=style)
    axes.text(x, y + 0.26, system.build, ha="center", va="center", fontsize=TEXT - 1, family="monospace")
