"""The modality gap: how far hearing lies behind reading, and what share of that each arm closes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from earwitness.report.tables import Cell
from earwitness.report.wording import escaped, markdown_table, percent, shown

LEAST = 0.01  # a gap below one point is none: shares of it would be noise


def gaps(summary: Sequence[Cell], readers: Collection[str], helped: Collection[str] = ()) -> list[Cell]:
    """Return one entry for every exam, reader and trained arm that thinks: from the untouched student to the reader.

    `readers` are the arms that read text in place of clips, `helped` others that are not the untouched
    student's own hearing. `share` is what part of the way from the
    untrained arm that is named first to the reader an arm has gone (1: it hears as well as the reader reads), null
    where the reader is not ahead.
    """
    found = []
    cells = [c for c in summary if c["category"] == "all"]
    for exam, variant in dict.fromkeys((c["exam"], c["variant"]) for c in cells):
        here = [c for c in cells if (c["exam"], c["variant"]) == (exam, variant)]
        start = next((c for c in here if c["seeds"] == 0 and c["arm"] not in (*readers, *helped)), None)
        for reader in (c for c in here if c["arm"] in readers and start is not None):
            assert start is not None
            way = reader["mean"] - start["mean"]
            place = {"exam": exam, "variant": variant, "reader": reader["arm"], "reads": reader["mean"]}
            found += [
                {
                    **place,
                    "arm": cell["arm"],
                    "mode": cell["mode"],
                    "mean": cell["mean"],
                    "share": (cell["mean"] - start["mean"]) / way if way >= LEAST else None,
                }
                for cell in here
                if cell["arm"] not in readers and cell["seeds"] and cell["mode"] == "think" == reader["mode"]
            ]
    return found


def section(cells: Sequence[Cell]) -> list[str]:
    """Return the entries as a section of the page, a table for every exam; nothing where there are none."""
    if not cells:
        return []
    lines = [
        "## Between hearing and reading",
        "",
        "What share of the way each arm has come: from the untouched student's hearing to what is made of text about "
        "the same clips, by a teacher that reads or by the student itself.",
        "",
    ]
    for exam, variant in dict.fromkeys((c["exam"], c["variant"]) for c in cells):
        here = [c for c in cells if (c["exam"], c["variant"]) == (exam, variant)]
        readers = {c["reader"]: c["reads"] for c in here}
        head = ["arm", "it hears", *(f"to {escaped(name)} ({percent(reads)})" for name, reads in readers.items())]
        table = [
            [escaped(arm), *_row([c for c in here if c["arm"] == arm], list(readers))]
            for arm in dict.fromkeys(c["arm"] for c in here)
        ]
        name = escaped(shown(exam)) + ("" if variant == "default" else f" ({escaped(variant)})")
        lines += [f"### {name}", "", *markdown_table(head, table), ""]
    return lines


def _row(cells: Sequence[Cell], readers: Sequence[str]) -> list[str]:
    shares = {cell["reader"]: cell["share"] for cell in cells}
    return [percent(cells[0]["mean"]), *(percent(shares.get(reader)) for reader in readers)]
