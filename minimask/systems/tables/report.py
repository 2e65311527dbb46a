"""The tables as text or markdown: each system with its numbers, and each claim with a plain verdict."""

from minimask.systems.tables.rows import BY_NAME, CLAIMS, ROWS
from minimask.systems.tables.verdicts import judge, mean_and_error

NUMBERS = ("box AP", "mask AP", "mask AP50", "mask AP75", "mask IoU", "pixel IoU")


def by_group(records):
    """{(way, trunk): {row: {seed: numbers}}} of records; trunk is None unless the way is "quick"."""
    groups = {}
    for record in records:
        plan = record["plan"]
        group = groups.setdefault((plan["way"], plan["trunk"] if plan["way"] == "quick" else None), {})
        for name, numbers in {record["row"]: record["numbers"], **record.get("other", {})}.items():
            group.setdefault(name, {})[record["seed"]] = numbers
    return groups


def series(runs, name):
    """{seed: number in percent} of one number, from {seed: numbers}."""
    return {seed: 100 * numbers[name] for seed, numbers in runs.items() if name in numbers}


def system_rows(group):
    """The lines of the table of systems, from {row: {seed: numbers}}: a list of lists of text."""
    lines = [["system", "seeds", *NUMBERS, "the decks"]]
    for row in ROWS:
        if row.name in group:
            runs = group[row.name]
            cells = [spread(series(runs, name)) for name in NUMBERS]
            theirs = ", ".join(f"{name} {value}" for name, value in row.theirs.items())
            lines.append([row.title, str(len(runs)), *cells, theirs])
    return lines


def spread(values):
    """Mean and standard error over seeds, "31.4 ± 1.2"; "" of none."""
    if not values:
        return ""
    mean, error = mean_and_error(list(values.values()))
    return f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"


def judged(group, way):
    """The claims of one way of which both rows have runs, with their verdicts: a list of (Claim, Verdict)."""
    found = []
    for claim in CLAIMS:
        if way in claim.ways and claim.worse in group and claim.better in group:
            sides = (series(group[name], claim.number) for name in (claim.worse, claim.better))
            found.append((claim, judge(*sides)))
    return found


def claim_rows(group, way):
    """The lines of the table of claims: a list of lists of text."""
    lines = [["source", "claim", "number", "ours", "± 2 s.e.", "relative", "theirs", "verdict"]]
    for claim, verdict in judged(group, way):
        theirs = "" if claim.theirs is None else f"{claim.theirs[1] - claim.theirs[0]:+.1f}"
        lines.append(
            [
                claim.source,
                f"{BY_NAME[claim.worse].title} < {BY_NAME[claim.better].title}",
                claim.number,
                f"{verdict.difference:+.1f}",
                "" if verdict.error is None else f"{2 * verdict.error:.1f}",
                "" if verdict.relative is None else f"{verdict.relative:+.0%}",
                theirs,
                str(verdict),
            ]
        )
    return lines


def cost_rows(costs):
    """The lines of the table of costs per image, from the result of `cost.costs`."""
    lines = [["system", "forward passes", "million multiplications", "milliseconds"]]
    for title, found in costs.items():
        million, ms = found["multiplications"] / 1e6, 1000 * found["seconds"]
        lines.append([title, f"{found['forward passes']:.0f}", f"{million:.0f}", f"{ms:.1f}"])
    return lines


def titled(records, costs=None):
    """All tables of some records: a list of (title, lines)."""
    tables = []
    for (way, trunk), group in by_group(records).items():
        what = "end to end" if way == "full" else f"heads on a frozen trunk that was trained on {trunk}"
        plan = next(r["plan"] for r in records if r["plan"]["way"] == way)
        size = f"{plan['train']} scenes, {plan['steps']} steps of {plan['batch_size']}; AP in percent, ± standard error"
        tables += [(f"Systems, {what} ({size})", system_rows(group))]
        if len(claims := claim_rows(group, way)) > 1:
            tables += [(f"Claims, {what}", claims)]
    if costs:
        tables += [("Cost of one image at test time (slide T09)", cost_rows(costs))]
    return tables


def as_text(tables):
    """The tables in columns."""
    parts = []
    for title, lines in tables:
        widths = [max(len(cell) for cell in column) for column in zip(*lines)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        parts.append("\n".join([title, "", rows[0], "-" * sum(widths, 2 * (len(widths) - 1)), *rows[1:]]))
    return "\n\n\n".join(parts)


def as_markdown(tables):
    """The tables for a page."""
    parts = []
    for title, (head, *lines) in tables:
        rows = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
        parts.append(f"## {title}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"
