"""ONE reading of an answer, shared by vote, reward and grade.

A ladder of rules is tried in order and the first that applies decides: it reads one choice, or none. Nothing is ever
guessed, because a guess scores points that nobody earned; text that says two things says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from earwitness import mentions
from earwitness.forms import in_other_form, key, normalise, same, sentences, unmark, unstruck

__all__ = ["Reading", "normalise", "read", "same", "well_formed"]

MOST_STATED = 8  # of the statements "the answer is ..." in one text, the last ones


@dataclass(frozen=True)
class Reading:
    """What a reply says. `answer` is one of the given choices, level-two text for an open question, or None.

    `rule` names what decided, outermost first (`tag/exact`, `tag/stated/letter`, `mention`, `tag/conflict`, `none`).
    """

    think: str | None
    answer: str | None
    rule: str


def read(raw: str, choices: Sequence[str] | None) -> Reading:
    """Read a reply to a question with these choices (None: an open question). Never raises, never guesses."""
    think, rest = _split_think(_END_OF_TEXT.sub("", raw))
    if rest is None:  # cut off while thinking: a sound it weighed is not a sound it chose
        return Reading(think, None, "unclosed-think")
    tags = [_Tag(part, closed) for part, closed in _answer_tags(rest) if part.strip()]
    if not tags and not rest.strip():
        return Reading(think, None, "empty")
    read_part = _open if choices is None else lambda part: _choose(part, choices)
    if not tags:
        return Reading(think, *read_part(rest))
    readings = [read_part(tag.text) if tag.closed else _cut_off(tag.text, choices) for tag in tags]
    return Reading(think, *_agreed("tag", readings))


def well_formed(raw: str) -> bool:
    """Return whether a reply is `<think>...</think><answer>...</answer>`, both non-empty, and nothing else."""
    match = re.fullmatch(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", raw, re.DOTALL)
    return match is not None and all(
        part.strip() and not re.search(r"</?(?:think|answer)>", part) for part in match.groups()
    )


def _agreed(name: str, readings: Sequence[tuple[str | None, str]]) -> tuple[str | None, str]:
    """Return the last of several (answer, rule), its rule below `name`; several answers that differ are no answer."""
    answer, rule = readings[-1]
    if any((a is None) != (answer is None) or (a and answer and not same(a, answer)) for a, _ in readings):
        return None, f"{name}/conflict"
    return answer, f"{name}/{rule}"


# --- parts of a reply -------------------------------------------------------------------------------------------------


# What tokenizers leave behind when special tokens are not skipped.
_END_OF_TEXT = re.compile(r"(?:\s*(?:<\|[a-z0-9_]{1,30}\|>|</s>|<eos>|<end_of_turn>))+\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class _Tag:
    text: str
    closed: bool


def _split_think(raw: str) -> tuple[str | None, str | None]:
    """Return (thinking or None, the rest, or None where a thought was never closed)."""
    inside: list[str] = []
    outside: list[str] = []
    thinking = False
    for piece in re.split(r"(</?think(?:ing)?>)", raw, flags=re.IGNORECASE):
        if re.fullmatch(r"<think(?:ing)?>", piece, re.IGNORECASE):
            thinking = True
        elif re.fullmatch(r"</think(?:ing)?>", piece, re.IGNORECASE):
            if not thinking:  # the prompt's template had already said the opening tag
                inside, outside = inside + outside, []
            thinking = False
        else:
            (inside if thinking else outside).append(piece)
    return "\n".join(inside).strip() or None, None if thinking else "\n".join(outside)


def _answer_tags(text: str) -> list[tuple[str, bool]]:
    """Return (content, whether the tag was closed) of every answer tag; `response` is some models' name for it."""
    pieces = re.split(r"<(?:answer|response)>", text, flags=re.IGNORECASE)[1:]
    split = [re.split(r"</(?:answer|response)>", piece, maxsplit=1, flags=re.IGNORECASE) for piece in pieces]
    return [(parts[0], len(parts) > 1) for parts in split]


def _open(part: str) -> tuple[str | None, str]:
    answer = normalise(part, 2) or None
    return answer, "open" if answer else "empty"


def _cut_off(part: str, choices: Sequence[str] | None) -> tuple[str | None, str]:
    """Read a tag that was never closed: exact text only, and only where no longer choice begins with it."""
    if choices is None:
        return _open(part)
    answer = _one(_exact(part, choices) or [])
    start = normalise(part, 3)
    longer = [c for c in choices if answer is not None and not same(c, answer) and normalise(c, 3).startswith(start)]
    return (None, "cut-off") if answer is None or longer else (answer, "exact")


# --- the ladder -------------------------------------------------------------------------------------------------------

_Rule = Callable[[str, Sequence[str]], "list[str] | None"]  # None where it does not apply, else the choices it reads


def _choose(part: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """Return (choice or None, rule): exact text, else what is said to be the answer, else what the sentences say."""
    part = unstruck(part)
    if (found := _exact(part, choices)) is not None:
        return _decided("exact", found)
    for name, wrapper in _WRAPPERS:
        if readings := wrapper(part, choices):
            return _agreed(name, [*(r for r in readings[:-1] if r[0] is not None), readings[-1]])
    for name, rule in _LADDER:
        if (found := rule(part, choices)) is not None:
            return _decided(name, found)
    return None, "none"


def _decided(rule: str, found: Sequence[str]) -> tuple[str | None, str]:
    answer = _one(found)
    return answer, rule if answer is not None else f"{rule}/{'conflict' if found else 'none'}"


def _one(found: Sequence[str]) -> str | None:
    """Return the one choice found; doubled options with the same text are one choice."""
    return found[0] if len({key(c) for c in found}) == 1 else None


def _exact(part: str, choices: Sequence[str]) -> list[str] | None:
    """The text of a choice and nothing else; text comes before letters because a choice may be the letter D."""
    for level in (1, 2, 3):
        if level == 3 and len({normalise(c, 3) for c in choices} | {""}) <= len({key(c) for c in choices}):
            return None  # what level three drops is what tells these choices apart
        if level == 3 and (label := _label(_bare(part), mentions.labels(choices))) and label[1]:
            return None  # "(A) Woman": level three would take the label for an article
        text = normalise(part, level)
        found = [c for c in choices if text and normalise(c, level) == text]
        if found:
            return found
    return None


# --- what is said to be the answer, read in turn; each returns the readings of one text, the last one last ------------


def _boxed(part: str, choices: Sequence[str]) -> list[tuple[str | None, str]]:
    r"""`\boxed{...}`: the last word of models trained on mathematics; unreadable inside means unreadable."""
    boxes = re.findall(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", part[-mentions.LONGEST :])[-MOST_STATED:]
    return [_choose(re.sub(r"\\[a-z]+\{([^{}]*)\}", r"\1", box), choices) for box in boxes]


_KEYED = re.compile(
    r"""(["'])(?:final[_ ]?)?(?:answer|choice|option|prediction)\1\s*:\s*("(?:[^"\\]|\\.)*"|'[^'\n]*'|[^\s"',}\]]+)""",
    re.IGNORECASE,
)


def _keyed(part: str, choices: Sequence[str]) -> list[tuple[str | None, str]]:
    """`{"answer": "B"}`: the value of a key that says it is the answer, whatever stands around it."""
    readings = []
    for match in list(_KEYED.finditer(part[-mentions.LONGEST :]))[-MOST_STATED:]:
        value = match[2].strip("'") if match[2][0] != '"' else _unescaped(match[2])
        readings.append(_choose(value, choices))
    return readings


def _unescaped(quoted: str) -> str:
    try:
        return str(json.loads(quoted, strict=False))
    except ValueError:  # an escape that JSON does not know: LaTeX in an answer
        return quoted.strip('"')


_STATED = re.compile(
    r"(?:\b(?:answer|choice|option|r[ée]ponse|respuesta|risposta|resposta|antwort)\b(?:\s+correct[aeo]?\b)?"
    r"\s*(?:(?:is|was|would be|should be|must be|est|es|è|é|ist|lautet)\b\s*:?|[:=]|\s[-\u2013\u2014](?=\s))"
    r"|答案\s*(?:应该|應該)?(?:是|为|為)?\s*[:=]?|答え\s*(?:は|:)\s*:?)\s*",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"(?:(?:^|[.!?;,:\n]\s*|\b(?:so|then|thus|therefore|hence)\s+)"
    r"(?:I(?:'d| would| will|'ll)?\s+(?:have to\s+)?(?:guess|say|choose|pick|select|go with|opt for)"
    r"|my (?:best |educated )?guess (?:is|would be))\b(?:\s+that\b)?(?:\s+(?:it|this)(?:'s|\s+is|\s+was)\b)?:?"
    r"|选择|選擇|选|選)\s*",
    re.IGNORECASE,
)


def _stated(part: str, choices: Sequence[str]) -> list[tuple[str | None, str]]:
    """`The answer is X`, `Answer: X`: what is stated outranks what is only mentioned, readable or not."""
    return _said_after(_STATED, part, choices)


def _chosen(part: str, choices: Sequence[str]) -> list[tuple[str | None, str]]:
    """`I would say X`: a guess of the model's own is its answer where it states no other."""
    return _said_after(_CHOSEN, part, choices)


_CLAUSE = re.compile(r"([^.!?;,:\n]+)(?:[.!;,\n]|$)")
_CALLED_RIGHT = re.compile(
    r"(?:(?:so|then|thus|therefore|hence|but|and|or) )?(.+?) (?:is|was|must be|would be) "
    r"(?:(?:the )?(?:correct|right|best)(?: (?:answer|option|choice|one))?|the answer)",
    re.IGNORECASE,
)


def _called_right(part: str, choices: Sequence[str]) -> list[tuple[str | None, str]]:
    """`B is the correct answer`: what is called so, where it is a label or the text of a choice and nothing else."""
    text = unmark(part[-mentions.LONGEST :])
    clauses = [" ".join(clause.split()) for clause in _CLAUSE.findall(text[mentions.withdrawn(text) :])]
    subjects = [match[1] for clause in clauses if (match := _CALLED_RIGHT.fullmatch(clause))][-MOST_STATED:]
    rules = (("exact", _exact), *_LABELLED)
    return [_decided(name, found) for s in subjects for name, rule in rules if (found := rule(s, choices)) is not None]


def _said_after(opening: re.Pattern[str], part: str, choices: Sequence[str]) -> list[tuple[str | None, str]]:
    text = unmark(part[-mentions.LONGEST :])
    openings = list(opening.finditer(text))
    cut = mentions.withdrawn(text)
    kept = [match for match in openings if match.start() >= cut][-MOST_STATED:]
    if openings and not kept:
        return [(None, "withdrawn")]
    return [
        _statement(text[match.end() :], choices)
        for match in kept
        if not mentions.negated_before(text[cut : match.start()])
    ]


def _statement(text: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """Read what follows `the answer is`: all of it, its line, then its first sentence."""
    line = text.strip().split("\n", 1)[0]
    sentence = sentences(line)[0] if line else ""
    of_line: list[tuple[str, _Rule, str]] = [("exact", _exact, text), ("exact", _exact, line)]
    of_line += [(name, rule, line) for name, rule in _LABELLED]
    for name, rule, part in [*of_line, ("exact", _exact, sentence), *((n, r, sentence) for n, r in _SENTENCES)]:
        if (found := rule(part, choices)) is not None:
            return _decided(name, found)
    return None, "none"


# --- labels -----------------------------------------------------------------------------------------------------------

_LABEL = re.compile(
    r"(?:(?:option|choice)\s+)?(?:[(\[]([a-z])[)\]]|([a-z])(?=$|[):\]]|[.,](?:\s|$)|\s+[-\u2013\u2014:]\s))"
    r"[\s.,):\]\u2013\u2014-]*(.*)",
    re.IGNORECASE | re.DOTALL,
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LABEL_BEHIND = re.compile(r"(.*\S)\s*[(\[]([a-z])[)\]]\W*", re.IGNORECASE | re.DOTALL)


def _bare(part: str) -> str:
    return unmark(part).strip(" \t\r\n\"'\u201c\u201d\u2018\u2019\u3002")


def _label(text: str, labels: str) -> tuple[int, str] | None:
    """Return (index of the labelled option, the text after the label), or None without a label of these options."""
    match = _LABEL.fullmatch(text)
    letter = (match[1] or match[2]).casefold() if match else ""
    return (labels.index(letter), match[3]) if match and letter and letter in labels else None


def _label_and_text(part: str, choices: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return (labelled option, options with exactly the text beside the label) of `(B) dog` and `dog (B)`."""
    if len(part) > mentions.LONGEST:
        return None
    text, labels = _bare(part), mentions.labels(choices)
    behind = _LABEL_BEHIND.fullmatch(text)
    if behind and behind[2].casefold() in labels and (found := _exact(behind[1], choices)):
        return choices[labels.index(behind[2].casefold())], found
    label = _label(text, labels or _LETTERS[: len(choices)])
    found = _exact(label[1], choices) if label else None
    if label is None or not found or (not labels and (text[1:2] == "," or not same(choices[label[0]], found[0]))):
        return None  # where choices are letters a label says nothing, unless it names the text that it stands before
    return choices[label[0]], found


def _text_over_letter(part: str, choices: Sequence[str]) -> list[str] | None:
    """`(A) Woman` where A is the man: the text wins, and the rule says that they were at odds."""
    both = _label_and_text(part, choices)
    return both[1] if both and not any(same(both[0], c) for c in both[1]) else None


def _letter(part: str, choices: Sequence[str]) -> list[str] | None:
    """`B`, `(b)`, `B. dog`, `dog (B)`: a label of the actual options, and nothing beside it that speaks against it."""
    if (both := _label_and_text(part, choices)) is not None:
        return both[1]
    labels = mentions.labels(choices)
    label = _label(_bare(part), labels) if len(part) <= mentions.LONGEST else None
    if label is None:
        return None
    labelled, rest = choices[label[0]], label[1]
    affirmed, denied = mentions.find(rest, choices)
    if any(same(labelled, c) for c in denied) or mentions.takes_back(rest) or mentions.withdrawn(rest):
        return []  # "B. Not the dog.", "B - no"
    others = [second[0] for line in (rest, *rest.splitlines()[1:]) if (second := _label(line.strip(), labels))]
    return [labelled, *(choices[i] for i in others), *affirmed]


# --- sentences --------------------------------------------------------------------------------------------------------

_TICKED = re.compile(
    r"(?:option )?[(\[]?(.+?)[)\].:]* ?[ :=\u2013\u2014-] ?"
    r"(?:(yes|true|correct|right|[\u2705\u2713\u2714\u2611]\ufe0f?)"
    r"|(?:no|not|false|incorrect|wrong|[\u274c\u2717\u2718\u2716]\ufe0f?))[ .!]*",
    re.IGNORECASE,
)
_LONGEST_VERDICT = 200  # characters of a line that says yes or no to one option


def _ticked(part: str, choices: Sequence[str]) -> list[str] | None:
    """A list of verdicts, one option a line (`A - no`, `| B | \u2705 |`): the only one that is ticked."""
    if len(part) > mentions.LONGEST:
        return None
    labels, verdicts = mentions.labels(choices), []
    for line in (" ".join(line.replace("|", " ").split()) for line in unmark(part).splitlines()):
        match = _TICKED.fullmatch(line) if len(line) <= _LONGEST_VERDICT else None
        subject = match[1].strip() if match else ""
        at = labels.find(subject.casefold()) if len(subject) == 1 else -1
        found = [choices[at]] if at >= 0 else _exact(subject, choices)
        if match and found:
            verdicts.append((found, match[2] is not None))
        elif any(mentions.find(line, choices)):
            return None  # more is said than verdicts
    ticked = [c for found, yes in verdicts if yes for c in found]
    return ticked if len({key(c) for found, _ in verdicts for c in found}) > 1 else None


def _withdrawn(part: str, choices: Sequence[str]) -> list[str] | None:
    """`A dog. Wait, no.`: what is taken back says nothing, and what sentences say after it is not told from it."""
    return [] if mentions.withdrawn(unmark(part)[-mentions.LONGEST :]) else None


_POLAR = {"yes", "no"}


def _head(part: str, choices: Sequence[str]) -> list[str] | None:
    """`Yes, there is a dog.`: a choice, then a comma or full stop, then words that affirm no other choice.

    Whoever begins with yes or no, and may, has answered so: what else is named is what was asked about.
    """
    text = unmark(part).strip()
    match = re.match(r"([^,.;:!?\n]+)(?:[,.;:!](?=\s|$)|\n)(.*)", text, re.DOTALL)
    found = _exact(match[1], choices) if match else None
    if match is None or found is None or len(normalise(match[1], 2)) == 1:  # "B. ..." may be a label or an initial
        return None
    affirmed, denied = mentions.find(match[2], choices)
    taken_back = any(same(c, found[0]) for c in denied) or mentions.takes_back(match[2])
    if key(found[0]) in _POLAR and {key(c) for c in choices} >= _POLAR:
        affirmed = [c for c in affirmed if key(c) in _POLAR]
    return [] if taken_back else [*found, *affirmed]


def _mention(part: str, choices: Sequence[str]) -> list[str] | None:
    """The only choice that the text affirms as a whole word and nowhere denies."""
    text = unmark(part)
    if mentions.refuses(text):
        return None
    affirmed, denied = mentions.find(text, choices)
    common = any(mentions.too_common(c, text) and not mentions.concludes(c, text) for c in affirmed)
    return [] if common or any(same(a, d) for a in affirmed for d in denied) else affirmed or None


def _other_form(part: str, choices: Sequence[str]) -> list[str] | None:
    """`dog` for `dogs`, `happy` for `happiness`, `13` for `13 times` where all choices end in `times`; nothing else."""
    return in_other_form(part, choices) or None if len(part) <= mentions.LONGEST else None


_WRAPPERS = (("boxed", _boxed), ("keyed", _keyed), ("stated", _stated), ("right", _called_right), ("chosen", _chosen))
_LABELLED: tuple[tuple[str, _Rule], ...] = (("text-over-letter", _text_over_letter), ("letter", _letter))
_SENTENCES: tuple[tuple[str, _Rule], ...] = (("form", _other_form), ("head", _head), ("mention", _mention))
_LADDER = (("ticked", _ticked), *_LABELLED, ("withdrawn", _withdrawn), *_SENTENCES)
