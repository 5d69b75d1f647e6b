"""Every experiment on the embedded world, run and put on one page: `docs/evidence.md`.

python tools/evidence.py [--root runs] [--page] [NAME ...]

Runs the experiments one after another (a run that is finished takes seconds, one that was stopped goes on), keeps of
each report what the page shows in `docs/evidence/NAME.json`, and writes the page from what is kept. With `--page` it
runs nothing and keeps nothing. What a person has to say about an experiment stands in `docs/evidence/NAME.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from evidence_pictures import draw

from earwitness.config import RunConfig
from earwitness.models import weights_digest
from earwitness.report.causes import section as causes_section
from earwitness.report.gap import section as gaps_section
from earwitness.report.hearing import section as checker_section
from earwitness.report.losses import section as losses_section
from earwitness.report.pools import left_section
from earwitness.report.pools import section as pools_section
from earwitness.report.tables import claimed
from earwitness.report.wording import escaped, is_control, markdown_table, percent, points
from earwitness.run import Digests

HOUSE = Path(__file__).resolve().parent.parent
CONFIGS, KEPT, PAGE = HOUSE / "src/earwitness/configs", HOUSE / "docs/evidence", HOUSE / "docs/evidence.md"
EXPERIMENTS = (
    "world-ladder",
    "world-easy",
    "world-ablation",
    "world-grpo",
    "world-scaling",
    "world-checker",
    "world-onehop",
    "world-layers",
    "world-describers",
    "world-compose",
)
LAST_OF_METHOD_ONE = "world-onehop"
NOTHING = "\u2013"
BY_KIND = ("world-ablation", "world-onehop")  # told by kind of question: what is left of it, and where training hurts
PAPERS = ("AVQA", "MMAU", "MUSIC-AVQA")
BESIDE = (("world-ablation", "world"), ("world-ablation", "world-ood"), ("world-onehop", "world-onehop"))
INTRODUCTION = """# Evidence

What each step of both methods is worth on the embedded world. `make evidence` runs all of it again (hours, on two
cores; what is finished is not done again) and writes this page; the command above each experiment runs it alone.

Accuracies are means over training seeds, ± half the 95 % t interval over them. A difference marked with * is claimed:
p < 0.01 over all seeds (a permutation test clustered by clip, which takes the trained models as given), and the same
sign on every seed; nothing is corrected for the number of tests. The world was designed to show the first method: how
much a step pays here says nothing about how much it pays on real data.

"""
Report = Mapping[str, Any]
Cell = Mapping[str, Any]


def main() -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"experiments, default all: {', '.join(EXPERIMENTS)}",
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    parser.add_argument("--page", action="store_true", help="only write the page from what is kept")
    asked = parser.parse_args()
    names = asked.names or EXPERIMENTS
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"there is no experiment {unknown.pop()!r}")
    for number, name in enumerate(() if asked.page else names, 1):
        started = time.monotonic()
        command = [sys.executable, "-m", "earwitness", "run", str(CONFIGS / f"{name}.toml"), "--root", str(asked.root)]
        ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if ran.returncode:
            sys.exit(f"{name}: {ran.stderr.strip().splitlines()[-1]}")
        keep(name, json.loads((asked.root / name / "report.json").read_text(encoding="utf-8")))
        print(f"{number} of {len(names)}: {name}, {(time.monotonic() - started) / 60:.0f} min", flush=True)
    write_page(KEPT, PAGE)


def keep(name: str, report: Report) -> None:
    """Keep what the page shows of a report. Raises ValueError for one of other weights than those that ship."""
    if report["weights_sha256"] != shipped_weights(name):
        raise ValueError(f"the report of {name} was made with other weights than those of this version: run it again")
    if report["config_sha256"] != RunConfig.load(CONFIGS / f"{name}.toml").measured():
        raise ValueError(f"the report of {name} was made with other settings than {name}.toml has now: run it again")
    whole = ("run", "version", "config_sha256", "weights_sha256", "traces", "checker", "causes", "gaps", "judged")
    shown = [c for c in report["summary"] if c["category"] == "all" or c["category"].startswith("tag:")]
    steps = [c for c in report["comparisons"] if c["category"] == "all" and c["seed"] == "pooled"]
    small = {
        **{key: report[key] for key in (*whole, "controls", "left")},
        "losses": [c for c in report["losses"] if c["category"].startswith("tag:") and c["variant"] == "default"],
        "summary": shown,
        "comparisons": steps,
        "absent": _absent(report["rows"]),
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(small, sort_keys=True, separators=(",", ":")).replace("},{", "},\n{")
    (KEPT / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def shipped_weights(name: str) -> str:
    """Return the digest of the weights that a configuration names, as a report of it would hold."""
    config = RunConfig.load(CONFIGS / f"{name}.toml")
    return weights_digest(
        [config.variant(variant) for variant in ("default", *config.variants)], Digests(None).of_folder
    )


def _absent(rows: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the share of replies that claim an absent sound, over seeds."""
    shares: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["category"] == "all" and row["hallucinated"] is not None:
            key = (row["exam"], row["variant"], row["arm"], row["mode"])
            shares.setdefault(key, []).append(row["hallucinated"])
    names = ("exam", "variant", "arm", "mode")
    return [{**dict(zip(names, key, strict=True)), "share": round(mean(found), 6)} for key, found in shares.items()]


# --- the page ---------------------------------------------------------------------------------------------------------


def write_page(kept: Path, page: Path) -> None:
    """Write the page and its pictures from what is kept."""
    reports = {name: json.loads((kept / f"{name}.json").read_text(encoding="utf-8")) for name in there(kept)}
    lines = INTRODUCTION.splitlines()
    if owed := [f"`{name}`" for name in EXPERIMENTS if name not in reports]:
        lines += [f"Configured, and not run yet with the weights that ship: {', '.join(owed)}.", ""]
    for name, report in reports.items():
        lines += experiment(kept, name, report)
        if name == LAST_OF_METHOD_ONE:
            lines += beside_the_paper(kept, reports)
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    for name, report in reports.items():
        draw(kept / f"{name}.svg", report, lambda line, report=report: _name(line, report))


def there(kept: Path) -> list[str]:
    """Return the experiments of which something is kept, in order."""
    return [name for name in EXPERIMENTS if (kept / f"{name}.json").is_file()]


def experiment(kept: Path, name: str, report: Report) -> list[str]:
    """Return an experiment's part of the page."""
    prose = kept / f"{name}.md"
    told = prose.read_text(encoding="utf-8").strip().splitlines() if prose.is_file() else []
    lines = [f"## {name}", "", *about(name), "", f"`earwitness run configs/{name}.toml`", ""]
    lines += [*told, ""] if told else []
    lines += [
        f"![accuracy of every arm]({kept.name}/{name}.svg)",
        "",
        *accuracies(report),
        *tags(report),
        *steps(report),
    ]
    kinds = [losses_section(report), left_section(report["left"])] if name in BY_KIND else []
    parts = (pools_section(report["traces"]), *kinds, _checker(report), causes_section(report["causes"]))
    for part in (*parts, gaps_section(report["gaps"])):
        lines += [f"##{line}" if line.startswith("##") else line for line in part]
    return lines


def beside_the_paper(kept: Path, reports: Mapping[str, Report]) -> list[str]:
    """Return a table of our arms beside the paper's rows (`paper.json`), with what there is to say about it."""
    columns = [(name, exam) for name, exam in BESIDE if name in reports]
    ours = [(_mean_of(reports[name], exam), exam) for name, exam in columns]
    rows = json.loads((kept / "paper.json").read_text(encoding="utf-8"))
    table = []
    for row in rows:
        theirs = [NOTHING if row[key] is None else f"{row[key]:.1f}" for key in PAPERS]
        mine = [NOTHING if row["arm"] not in of else f"{100 * of[row['arm']]:.1f}" for of, _ in ours]
        table.append([row["row"], f"`{row['arm']}`", *theirs, *mine])
    head = ["", "our arm", *(f"paper, {key}" for key in PAPERS), *(f"ours, {escaped(exam)}" for _, exam in ours)]
    told = (kept / "paper.md").read_text(encoding="utf-8").strip().splitlines()
    return ["## Beside the paper", "", *told, "", *markdown_table(head, table), ""]


def _mean_of(report: Report, exam: str) -> dict[str, float]:
    """Return every arm's accuracy in an exam; arms of a variant are called `ARM (VARIANT)`."""
    cells = [c for c in report["summary"] if (c["exam"], c["category"]) == (exam, "all")]
    return {c["arm"] + ("" if c["variant"] == "default" else f" ({c['variant']})"): c["mean"] for c in cells}


def about(name: str) -> list[str]:
    """Return the comment that a configuration begins with."""
    lines = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("# ") for line in lines[:count]]


def _checker(report: Report) -> list[str]:
    return checker_section(report["checker"], report["judged"]) if report["judged"] else []


def accuracies(report: Report) -> list[str]:
    """Return a table of every arm's accuracy in every exam, and how often its replies claim an absent sound."""
    cells = _news([c for c in report["summary"] if c["category"] == "all"], ("arm", "mode"), "mean")
    exams = list(dict.fromkeys(c["exam"] for c in cells))
    of = {(c["exam"], *_line(c)): c for c in cells}
    absent = {(c["exam"], *_line(c)): c["share"] for c in report["absent"]}
    table = []
    for line in dict.fromkeys(_line(c) for c in cells):
        shares = [_accuracy(of.get((exam, *line))) for exam in exams]
        table.append([_name(line, report), *shares, percent(absent.get((exams[0], *line)))])
    head = ["arm", *(escaped(exam) for exam in exams), f"claims an absent sound ({escaped(exams[0])})"]
    return [*markdown_table(head, table), ""]


def tags(report: Report) -> list[str]:
    """Return a table of accuracies by what a question is about, in the first exam that has any."""
    cells = [c for c in report["summary"] if c["category"] in ("tag:visible", "tag:off-screen", "tag:audible-only")]
    if not cells:
        return []
    exam = cells[0]["exam"]
    cells = _news([c for c in cells if c["exam"] == exam], ("arm", "mode"), "mean")
    kinds = list(dict.fromkeys(c["category"] for c in cells))
    of = {(c["category"], *_line(c)): c["mean"] for c in cells}
    table = [
        [_name(line, report), *(percent(of.get((kind, *line))) for kind in kinds)]
        for line in dict.fromkeys(_line(c) for c in cells)
    ]
    head = [f"in {escaped(exam)}", *(escaped(kind.removeprefix("tag:")) for kind in kinds)]
    return [*markdown_table(head, table), ""]


def steps(report: Report) -> list[str]:
    """Return a table of the differences between arms, those that are claimed with a star."""
    compared = [c for c in report["comparisons"] if _of_students(c, report)]
    cells = _news(compared, ("mode", "arm_a", "arm_b"), "difference")
    if not cells:
        return []
    exams = list(dict.fromkeys(c["exam"] for c in cells))
    of = {(c["exam"], *_step(c)): c for c in cells}
    table = []
    for step in dict.fromkeys(_step(c) for c in cells):
        variant, mode, a, b = step
        said = f"{escaped(a)} → {escaped(b)}" + ("" if variant == "default" else f" ({escaped(variant)})")
        modes = f", {escaped(mode)}" if _both_ways(report) else ""
        table.append([said + modes, *(_points(of.get((exam, *step))) for exam in exams)])
    return [*markdown_table(["step, in points", *map(escaped, exams)], table), ""]


def _news(cells: Sequence[Cell], key: tuple[str, ...], value: str) -> list[Cell]:
    """Leave out what a variant has in common with the run itself: the same arms, made once."""
    found: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}
    for cell in cells:
        places = found.setdefault((cell["variant"], *(cell[k] for k in key)), {})
        places[cell["exam"], cell["category"]] = cell[value]
    return [c for c in cells if c["variant"] == "default" or _differs(c, key, found)]


def _differs(cell: Cell, key: tuple[str, ...], found: Mapping[tuple[str, ...], object]) -> bool:
    same = tuple(cell[k] for k in key)
    return found[(cell["variant"], *same)] != found.get(("default", *same))


def _of_students(cell: Cell, report: Report) -> bool:
    """Whether a comparison is between trained students, or begins with the untouched one."""
    trained = {c["arm"] for c in report["summary"] if c["seeds"]}
    return cell["arm_b"] in trained and (cell["arm_a"] in trained or cell["arm_a"] == report["summary"][0]["arm"])


def _line(cell: Cell) -> tuple[str, str, str]:
    return cell["variant"], cell["arm"], cell["mode"]


def _step(cell: Cell) -> tuple[str, str, str, str]:
    return cell["variant"], cell["mode"], cell["arm_a"], cell["arm_b"]


def _both_ways(report: Report) -> bool:
    modes: dict[tuple[str, str, str], set[str]] = {}
    for cell in report["summary"]:
        modes.setdefault((cell["exam"], cell["variant"], cell["arm"]), set()).add(cell["mode"])
    return any(len(found) > 1 for found in modes.values())


def _name(line: tuple[str, str, str], report: Report) -> str:
    variant, arm, mode = line
    extra = [] if variant == "default" else [variant]
    extra += [mode] if _both_ways(report) else []
    extra += ["control"] if is_control(arm, report["controls"]) else []
    return escaped(arm) + (f" ({escaped(', '.join(extra))})" if extra else "")


def _accuracy(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    half = "" if cell["seed_low"] is None else f" ± {50 * (cell['seed_high'] - cell['seed_low']):.1f}"
    return percent(cell["mean"]) + half


def _points(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    return points(cell["difference"]) + ("*" if claimed(cell) else "")


if __name__ == "__main__":
    main()
