"""report.html: the tables, the curves and the worst mistakes of an evaluation, in one file that needs no network."""

import base64
import html

from minimask.draw import picture_bytes
from minimask.run.report_classes import number_text, with_objects, without_objects
from minimask.run.report_mistakes import IOU, KINDS, SCORE, draw_mistake

SHOWN = 6  # mistakes of each kind

INTRODUCTION = (
    f"Detections with a score of at least {SCORE} count. One finds an object of its class if the IoU of their boxes is "
    f"at least {IOU}. Left: what is there. Right: what was found, with scores. The red corners mark the mistake; "
    "objects that do not touch it are left out."
)

STYLE = """
body { font: 17px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; color: #1a1a1a }
table { border-collapse: collapse; margin: 1em 0 }
.curves { max-width: 1240px }
th, td { padding: .25em .9em; border-bottom: 1px solid #ccc; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { font-size: 16px; overflow-x: auto }
img { max-width: 100%; height: auto; vertical-align: top }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(560px, 1fr)); gap: 1.5em }
figure { margin: 0 }
figure div { display: flex; gap: 6px }
figure div img { width: calc(50% - 3px); object-fit: contain; object-position: top; background: #eee }
figcaption { font-size: 17px; overflow-wrap: anywhere }
"""


def report_page(title, note, table, rows, curves, mistakes, pictures):
    """The page as text.

    title: a line for its head. note: a line below it; may be empty.
    table: COCO's table as text. rows: see `report_classes.per_class`.
    curves: the picture of precision against recall, (H, W, 3) uint8, or None.
    mistakes: see `report_mistakes.find_mistakes`. pictures: see `mistake_pictures`.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>" + (f"<p>{html.escape(note)}</p>" if note else ""),
        f"<h2>Average precision</h2><pre>{html.escape(table)}</pre>",
        f"<h2>Per class</h2>{_class_table(rows)}",
    ]
    if curves is not None:
        parts.append(
            f"<h2>Precision and recall</h2><div class=curves>{_image(curves, 'precision against recall', 'png')}</div>"
        )
    parts.append(f"<h2>The worst mistakes</h2><p>{INTRODUCTION}</p>")
    for kind, shown in pictures.items():
        count = len(mistakes[kind])
        if count:
            first = f", the worst {len(shown)} of them" if len(shown) < count else ""
            parts.append(f"<h3>{kind[0].upper() + kind[1:]}: {count}{first}</h3><p>{KINDS[kind]}</p>")
            parts.append(f'<div class="mistakes">{"".join(shown)}</div>')
    none = [kind for kind in pictures if not mistakes[kind]]
    if none:
        parts.append(f"<h3>None of these</h3><p>{html.escape(', '.join(none))}</p>")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def mistake_pictures(mistakes, dataset, image_ids, scoring, category_ids, class_names):
    """Dict from kind of mistake to its first pictures, each as HTML.

    image_ids: the image of dataset[0], dataset[1], ...
    """
    places, pictures = {image_id: i for i, image_id in enumerate(image_ids)}, {}
    for kind, found in mistakes.items():
        pictures[kind] = []
        for mistake in found[:SHOWN]:
            sample = dataset[places[mistake.image_id]]
            there, seen = draw_mistake(mistake, sample, scoring, category_ids, class_names)
            caption = f"{mistake.text} ({sample.name})"
            images = _image(there, "what is there", "jpg") + _image(seen, "what was found", "jpg")
            pictures[kind].append(
                f"<figure><div>{images}</div><figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    return pictures


def _image(picture, text, kind):
    data = base64.b64encode(picture_bytes(picture, f"picture.{kind}")).decode()
    media = {"png": "png", "jpg": "jpeg"}[kind]
    return f'<img alt="{text}" src="data:image/{media};base64,{data}">'


def _class_table(rows):
    columns = list(rows[0])[2:]
    head = "".join(f"<th>{name}</th>" for name in ["class", "objects", *(c.replace("_", " ") for c in columns)])
    lines = [
        f"<tr><td>{html.escape(row['class'])}</td><td>{row['objects']}</td>"
        + "".join(f"<td>{number_text(row[name])}</td>" for name in columns)
        + "</tr>"
        for row in with_objects(rows)
    ]
    rest = without_objects(rows)
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>" + (f"<p>{html.escape(rest)}</p>" if rest else "")
