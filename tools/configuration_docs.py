"""Write docs/configuration.md from the schema itself; a test checks that it is fresh."""

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from earwitness.config import SECTIONS, Budget, Columns, Exams, Model, Questions, Section, Train, Wire

HEAD = """\
# Configuration

One flat TOML file is one run. Unknown keys are refused with the nearest known one. Every setting can be overridden on
the command line as `section.key=value`. A key marked *where* says where or how much and is no part of the identity of
what is made: changing it never makes finished work again. This page is written by `tools/configuration_docs.py`.

At the top: `name` (the run's folder under `--root`) and `seed` (everything random that is not training).
`pool = "ray"` cuts the data stages into `shards` parts, which a Ray cluster makes ([cluster.md](cluster.md)); both say
where, and change nothing that is made. With `pool = "local"` leave `shards` at 0: worker processes share each stage.

`[arms]` maps an arm's name to its steps in order, for example
`sightsound = [{ stage = "sft", lessons = "verified" }, { stage = "grpo", prompts = "agreed" }]`. A step may set any key
of its stage's section. Equal steps are made once and shared. `[]` is the untrained student.

`[variants.NAME]` is the same run with these overrides (`"vote.traces" = 2`); what is equal is made once, and rows carry
the variant's name.

Sources are named `world:train`, `world-easy:train`, `world-speech:train`, `world-reasoned:train` and
`world-given:train` (sounds, and sounds and speech, every question with its reasoning), `folder:PATH` (reads its
`questions.jsonl`),
`jsonl:PATH`, `table:PATH`, `hf:NAME`, `avqa:train`, `music_avqa:train`, `avrt:PATH`, `audiomcq:PATH`, `cota:PATH`, and
with `-choose` behind each of these the part of it that is set apart for choosing checkpoints (docs/data.md); exams
`world`, `world-easy`, `world-onehop`, `world-ood`, `world-speech`, `world-speech-ood`, `world-mood`, or any source,
`avqa:val` among them.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD, _section("questions", Questions), _section("questions.columns", Columns), _section("exams", Exams)]
    parts += [_section("models.ROLE", Model)]
    parts += [_section("models.ROLE.wire", Wire), _section("budget", Budget)]
    parts += [_section(name, section) for name, section in SECTIONS.items()]
    return "\n".join([*parts, _section("train", Train)])


def _section(name: str, section: type[Section]) -> str:
    told = [part.__doc__ for part in (section, *section.__bases__) if part is not Section and part.__doc__]
    text = "\n\n".join(" ".join(doc.split()) for doc in told)
    rows = ["| key | values | default | |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        extra = field.json_schema_extra
        place = "*where*" if isinstance(extra, dict) and extra.get("identity") is False else ""
        default = "required" if field.is_required() else f"`{_default(field)}`"
        rows.append(f"| `{key}` | {_type(field.annotation)} | {default} | {place} |")
    return f"## `[{name}]`\n\n{text}\n\n" + "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"{type(value).__name__}()" if isinstance(value, Section) else repr(value)


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type(part) for part in get_args(annotation))
    return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "none").replace("|", "or")


def main() -> int:
    """Write the page, or with --check say whether it is fresh."""
    file = Path(__file__).parent.parent / "docs" / "configuration.md"
    if "--check" in sys.argv:
        return 0 if file.read_text(encoding="utf-8") == page() else 1
    file.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
