"""The rows of the tables and the claims about them: slides L08, L15, L17, T05, T14 to T18; He et al. 2017, table 2.

"C4" is the map of stride 8 of the fine stem: to an animal of 16 to 60 pixels it is what stride 16 is to COCO's objects.
The rows named "coarse" have the stride of the paper, 16, on scenes of twice the size.
"""

from dataclasses import dataclass, field

from minimask.presets import merge
from minimask.roi_align import roi_align
from minimask.run.settings import check_name

ANCHORS = {"rpn": {"first_level": 0, "anchor_sizes": [[14, 20, 28, 40, 56, 80]]}}  # of a single level
RPN = {"rpn": {"samples": 128, "pre_nms": [300, 300], "post_nms": [100, 100]}}
ROI = {"roi": {"samples": 16}}
HEADS = {"heads": {"box_width": 128, "mask_channels": [32, 32], "mask_width": 32}}


def together(*parts):
    """Groups of settings, each changed by the next."""
    result = {}
    for part in parts:
        result = merge(result, part)
    return result


SYSTEM = together(RPN, ROI)  # for systems with heads of their own
FPN = together(SYSTEM, HEADS)
C4 = together(FPN, ANCHORS, {"backbone": {"neck": "c4"}})
C5 = together(FPN, ANCHORS, {"backbone": {"neck": "c5"}})
COARSE = together(C4, {"backbone": {"stem": "small"}, "rpn": {"anchor_sizes": [[28, 40, 56, 80, 112, 160]]}})
COARSE = together(COARSE, {"transform": {"min_size": 256, "max_size": 256}})
POOL, WARP = {"roi": {"pooling": "roi_pool"}}, {"roi": {"pooling": "roi_warp"}}
BOXES_ALONE = {"heads": {"mask": None}}
REGIONS = together(ROI, {"system": {"regions": 100}})  # as many as there are proposals
BOTH, QUICK, FULL = ("quick", "full"), ("quick",), ("full",)


def roi_align_max(*args, **settings):
    """RoIAlign with the maximum of a bin's samples (slide L17)."""
    return roi_align(*args, pooling="max", **settings)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    name: short; part of the names of its files. title: for people.
    build: a preset or a system (see mask_rcnn.build). groups: the settings that are changed.
    ways: "quick" (heads on a frozen trunk), "full" (end to end from random weights), or both.
    rate_of: name of the row whose learning rate this one shares, as ablations do; by default it has its own.
    trained_as: name of the row whose trained model this row measures in another way, with `test`, the arguments of
        systems.test_time.Augmented. size: side of the scenes in pixels.
    theirs: what the deck or the paper reports for the system on COCO, by the name of the number, in percent. (Bodies
        differ: slides T14 and T16 to T18 are of ResNet-101, the ablations of table 2 of ResNet-50.)
    """

    name: str
    title: str
    build: str = "toy"
    groups: dict = field(default_factory=dict)
    ways: tuple = BOTH
    rate_of: str = ""
    trained_as: str = ""
    test: dict = field(default_factory=dict)
    size: int = 128
    theirs: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One comparison of the decks: the row `better` has the higher number.

    source: the slide that says it, or a table or section of the paper.
    number: "box AP", "mask AP75", "mask IoU", ...; see measure.measure.
    theirs: the deck's or the paper's numbers of the two, (worse, better), in percent; None where it gives none.
    ways: those that can show it. Masks cannot help boxes where features are frozen.
    """

    source: str
    worse: str
    better: str
    number: str
    theirs: tuple | None = None
    ways: tuple = BOTH


OHEM = together(SYSTEM, {"system": {"hardest": 48}})
MORE = {"flip": True, "scales": (1.0, 1.5)}  # "+++" at test time
ROWS = [
    Row("mnc", "MNC", "mnc", together(SYSTEM, {"system": {"gradient_through_boxes": 0}}), theirs={"mask AP": 24.6}),
    Row("fcis", "FCIS", "fcis", SYSTEM),
    Row("fcis_ohem", "FCIS with OHEM", "fcis", OHEM, theirs={"mask AP": 29.2}),
    Row("fcis_more", "FCIS+++ with OHEM", "fcis", OHEM, FULL, rate_of="fcis_ohem", trained_as="fcis_ohem", test=MORE,
        theirs={"mask AP": 33.6}),
    Row("c4", "Mask R-CNN C4", groups=C4, theirs={"mask AP": 33.1}),
    Row("fpn", "Mask R-CNN FPN", groups=FPN, theirs={"mask AP": 35.7, "box AP": 38.2}),
    Row("bottleneck_fpn", "Mask R-CNN FPN, bottlenecks", "toy_bottleneck", FPN, FULL,
        theirs={"mask AP": 35.7, "box AP": 38.2}),
    Row("resnext_fpn", "Mask R-CNN FPN, ResNeXt", "toy_resnext", FPN, FULL,
        theirs={"mask AP": 37.1, "box AP": 39.8}),
    # Boxes
    Row("faster_c4", "Faster R-CNN C4", groups=together(C4, BOXES_ALONE)),
    Row("faster_c4_more", "Faster R-CNN+++", groups=together(C4, BOXES_ALONE), ways=FULL, trained_as="faster_c4",
        test={**MORE, "refine": 1}, theirs={"box AP": 34.9}, rate_of="faster_c4"),
    Row("faster_fpn_roi_pool", "Faster R-CNN FPN, RoIPool", groups=together(FPN, POOL, BOXES_ALONE),
        rate_of="faster_fpn", theirs={"box AP": 36.2}),
    Row("faster_fpn", "Faster R-CNN FPN, RoIAlign", groups=together(FPN, BOXES_ALONE), theirs={"box AP": 37.3}),
    Row("g_rmi", "G-RMI", "g_rmi", SYSTEM, FULL, theirs={"box AP": 34.7}),
    Row("tdm", "TDM", "tdm", together(FPN, BOXES_ALONE), FULL, theirs={"box AP": 36.8}),
    # RoIAlign
    Row("c4_roi_pool", "C4, RoIPool", groups=together(C4, POOL), theirs={"mask AP": 26.9}, rate_of="c4"),
    Row("c4_roi_warp", "C4, RoIWarp", groups=together(C4, WARP), theirs={"mask AP": 27.2}, rate_of="c4"),
    Row("c5", "dilated C5, RoIAlign", groups=C5, theirs={"mask AP": 30.9}),
    Row("c5_roi_pool", "dilated C5, RoIPool", groups=together(C5, POOL), theirs={"mask AP": 23.6}, rate_of="c5"),
    Row("fpn_roi_pool", "FPN, RoIPool", groups=together(FPN, POOL), rate_of="fpn"),
    Row("coarse", "C4 of stride 16, RoIAlign", groups=COARSE, ways=FULL, size=256),
    Row("coarse_roi_pool", "C4 of stride 16, RoIPool", groups=together(COARSE, POOL), ways=FULL, size=256,
        rate_of="coarse"),
    Row("c4_max", "C4, RoIAlign with max", groups=together(C4, {"roi": {"pooling": roi_align_max}}), rate_of="c4"),
    Row("c4_one_sample", "C4, 1 x 1 sample per bin", groups=together(C4, {"roi": {"sampling_ratio": 1}}), rate_of="c4"),
    Row("c4_four_samples", "C4, 4 x 4 samples per bin", groups=together(C4, {"roi": {"sampling_ratio": 4}}),
        rate_of="c4"),
    # Masks
    Row("c4_softmax", "C4, masks by softmax", groups=together(C4, {"heads": {"mask_loss": "softmax"}}), rate_of="c4",
        theirs={"mask AP": 24.8}),
    Row("fpn_mlp", "FPN, masks by an MLP", groups=together(FPN, {"heads": {"mask": "mlp", "mask_width": 256}}),
        rate_of="fpn", theirs={"mask AP": 31.5}),
    Row("fpn_agnostic", "FPN, one mask for all classes",
        groups=together(FPN, {"heads": {"class_agnostic_masks": True}}), theirs={"mask AP": 29.7}, rate_of="fpn"),
    # Before Mask R-CNN
    Row("slow_rcnn", "R-CNN", "slow_rcnn", together(REGIONS, {"system": {"svm_images": 50, "crop": 32}}), QUICK),
    Row("fast_rcnn", "Fast R-CNN", "fast_rcnn", REGIONS, QUICK),
    Row("sds", "SDS", "sds", REGIONS, QUICK),
    Row("cfm", "CFM", "cfm", REGIONS, QUICK),
    Row("hypercolumns", "Hypercolumns", "hypercolumns", together(SYSTEM, {"heads": {"box_width": 128}})),
    Row("crf", "Arnab & Torr", "crf"),
    Row("fcn", "FCN and connected regions", "fcn"),
    Row("pfn", "PFN", "pfn"),
    Row("instance_cut", "InstanceCut", "instance_cut"),
    Row("deep_watershed", "Deep watershed", "deep_watershed"),
]  # fmt: skip

CLAIMS = [
    Claim("T14", "mnc", "c4", "mask AP", (24.6, 33.1)),
    Claim("T14", "fcis", "c4", "mask AP"),
    Claim("T14", "fcis_ohem", "c4", "mask AP", (29.2, 33.1)),
    Claim("T14", "mnc", "fcis", "mask AP"),
    Claim("T14", "mnc", "fcis_ohem", "mask AP", (24.6, 29.2)),
    Claim("T14", "fcis", "fcis_ohem", "mask AP"),
    Claim("T14", "fcis_ohem", "fcis_more", "mask AP", (29.2, 33.6)),
    Claim("T14", "c4", "fpn", "mask AP", (33.1, 35.7)),
    Claim("T15", "bottleneck_fpn", "resnext_fpn", "mask AP", (35.7, 37.1)),
    Claim("T16", "faster_c4", "faster_c4_more", "box AP"),
    Claim("T16", "faster_c4", "faster_fpn_roi_pool", "box AP", (34.9, 36.2)),
    Claim("T16", "g_rmi", "faster_fpn_roi_pool", "box AP", (34.7, 36.2)),
    Claim("T16", "faster_fpn_roi_pool", "tdm", "box AP", (36.2, 36.8)),
    Claim("T16", "faster_fpn_roi_pool", "faster_fpn", "box AP", (36.2, 37.3)),
    Claim("T17", "faster_fpn", "fpn", "box AP", (37.3, 38.2), FULL),
    Claim("T18", "bottleneck_fpn", "resnext_fpn", "box AP", (38.2, 39.8)),
    Claim("L08", "c4_roi_pool", "c4", "mask IoU"),  # the lecture: 10 to 50 % more
    Claim("L08", "c4_roi_pool", "c4", "mask AP50"),
    Claim("L08", "c4_roi_pool", "c4", "box AP"),
    Claim("L08", "fpn_roi_pool", "fpn", "mask AP"),
    Claim("table 2c", "c4_roi_pool", "c4_roi_warp", "mask AP", (26.9, 27.2)),
    Claim("table 2c", "c4_roi_warp", "c4", "mask AP", (27.2, 30.2)),
    Claim("table 2c", "c4_roi_pool", "c4", "mask AP", (26.9, 30.2)),
    Claim("table 2c", "coarse_roi_pool", "coarse", "mask AP", (26.9, 30.2)),
    Claim("table 2d", "c5_roi_pool", "c5", "mask AP", (23.6, 30.9)),
    Claim("table 2d", "c5_roi_pool", "c5", "box AP", (28.2, 34.0)),
    Claim("L17", "c4_max", "c4", "mask AP", (30.2, 30.3)),
    Claim("L15", "c4_one_sample", "c4", "mask AP"),
    Claim("L15", "c4", "c4_four_samples", "mask AP"),
    Claim("table 2b", "c4_softmax", "c4", "mask AP", (24.8, 30.3)),
    Claim("table 2e", "fpn_mlp", "fpn", "mask AP", (31.5, 33.6)),
    Claim("table 2e", "fpn_mlp", "fpn", "mask AP75", (32.8, 35.3)),
    Claim("section 4.2", "fpn_agnostic", "fpn", "mask AP", (29.7, 30.3)),
    Claim("Girshick 2015", "slow_rcnn", "fast_rcnn", "box AP"),
    Claim("T05", "fcn", "fpn", "mask AP"),
]

BY_NAME = {row.name: row for row in ROWS}


def chosen(names, way):
    """(rows, claims) of one way: those whose name or source is among `names`, or all if it is empty.

    A row is taken with the claims that it is part of, a claim with both of its rows.
    Raises InputError for a name that is neither, or a row that the way does not run.
    """
    there = {row.name for row in ROWS if way in row.ways}
    claims = [claim for claim in CLAIMS if way in claim.ways and {claim.worse, claim.better} <= there]
    for name in names:
        check_name("row", name, [*sorted(there), *sorted({claim.source for claim in claims})])
    if names:
        claims = [claim for claim in claims if {claim.source, claim.worse, claim.better} & set(names)]
    wanted = {name for claim in claims for name in (claim.worse, claim.better)} | (set(names) & there)
    return [row for row in ROWS if row.name in (wanted if names else there)], claims
