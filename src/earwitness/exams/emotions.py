"""Emotions of MELD and IEMOCAP: the names of labels, and the accuracies and F1 scores that papers report.

Papers differ in which number they call theirs, and whether IEMOCAP's "excited" counts as "happy": both are named here,
so that a report can say which it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MELD = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
IEMOCAP = ("angry", "happy", "neutral", "sad")

# Labels in the files and what models write instead of them. `excited` is not among them: see MERGED.
_MELD_NAMES = {"angry": "anger", "disgusted": "disgust", "fearful": "fear", "happy": "joy", "happiness": "joy"}
_MELD_NAMES |= {"joyful": "joy", "sad": "sadness", "surprised": "surprise"}
_IEMOCAP_NAMES = {"ang": "angry", "anger": "angry", "hap": "happy", "happiness": "happy", "joy": "happy"}
_IEMOCAP_NAMES |= {"neu": "neutral", "sadness": "sad"}
NAMES: Mapping[str, Mapping[str, str]] = {"meld": _MELD_NAMES, "iemocap": _IEMOCAP_NAMES}

MERGED: Mapping[str, str] = {"exc": "happy", "excited": "happy", "excitement": "happy"}  # IEMOCAP's usual four classes


@dataclass(frozen=True)
class EmotionScores:
    """Fractions in [0, 1]. Classes are those that occur in the gold labels; what was not read is wrong in all of them.

    `accuracy` is what speech papers call weighted accuracy (WA); `unweighted_accuracy` (UA) is the mean recall of
    classes; `weighted_f1` weighs each class by its gold count, `macro_f1` does not. `merge` names the labels that were
    made one.
    """

    n: int
    accuracy: float
    unweighted_accuracy: float
    weighted_f1: float
    macro_f1: float
    merge: str


def label(text: str, names: Mapping[str, str], merge: Mapping[str, str] | None = None) -> str:
    """Return the label that a name stands for: casefolded, synonyms made one, then those of `merge`."""
    plain = text.strip().casefold()
    named = names.get(plain, plain)
    return (merge or {}).get(named, named)


def emotion_scores(gold: Sequence[str], predicted: Sequence[str | None], merge: str = "none") -> EmotionScores:
    """Score labels against gold labels of the same order (None: nothing was read). Raise ValueError on no rows."""
    pairs = list(zip(gold, predicted, strict=True))
    if not pairs:
        raise ValueError("emotion_scores: there are no labels to score")
    recalls, f1s, weights = [], [], []
    for emotion in sorted(set(gold)):
        right = sum(g == p == emotion for g, p in pairs)
        true = sum(g == emotion for g in gold)
        said = sum(p == emotion for p in predicted)
        recalls.append(right / true)
        f1s.append(2 * right / (true + said))
        weights.append(true / len(pairs))
    return EmotionScores(
        n=len(pairs),
        accuracy=sum(g == p for g, p in pairs) / len(pairs),
        unweighted_accuracy=sum(recalls) / len(recalls),
        weighted_f1=sum(f1 * weight for f1, weight in zip(f1s, weights, strict=True)),
        macro_f1=sum(f1s) / len(f1s),
        merge=merge,
    )
