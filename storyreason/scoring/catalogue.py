"""The catalogue of scores: the name, title, formula, meaning, direction and source of each, declared once.

The modules beside this one count columns for each story (`grounding.count` returns `grounding/matched`, …); a score is a
formula over those columns. Scorecards, the gate, charts, reports, model cards and the page all read this list. To add a
score, add an entry here (those of coherence are in its module), and to the module that counts it the columns it needs.
Importing this module does not import numpy, because every configuration is validated against it.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from storyreason.format import kinds
from storyreason.format.rules import RULES
from storyreason.format.words import FIRST_FORMS
from storyreason.scoring import coherence
from storyreason.scoring.metrics import Score, bleu, f1, harmonic, mean, meteor, precision_recall_f1, rate, share

PAPER = "StoryReasoning (arXiv 2505.10292)"

VALID = "strict/validity/valid"
BOX_F1 = "strict/grounding/f1"
IDF1 = "strict/identity/idf1"

KINDS: Mapping[str, str] = {name: kind.plural for name, kind in kinds.KINDS.items()}
"""The kinds of entities, and what titles and charts call them."""

HALLUCINATIONS = {
    "unknown": "An ID that appears nowhere in the analysis.",
    "absent": "An ID that is in the analysis, but not in the tables of this image.",
    "phantom": "An ID whose box in this image matches no reference box.",
    "no_actor": "A `<gda>` that names neither a person nor a thing.",
}
"""Ways a mention can refer to something that is not there. An ID of a mention counts as at most one of the first three."""
FAULTS = {
    **HALLUCINATIONS,
    "wrong_tag": "A `<gdo>` around a landmark or background, or a `<gdl>` around a person or thing.",
    "untagged_pronoun": "A personal pronoun outside any tag.",
    "untagged_name": "A character's name outside any tag.",
}
"""All faults that are counted in a story's references."""


def _validity() -> Iterator[Score]:
    """Counted by `validity.count`."""
    yield Score(
        VALID, "valid answers", rate("validity/valid", "stories"),
        "Share of answers that break no rule of severity *error*.", level="headline", guard="validity_tolerance",
    )  # fmt: skip
    yield Score(
        "strict/validity/missing", "missing answers", rate("validity/missing", "stories"),
        "Share of stories without an answer; a missing answer is scored as an empty one.", better="lower",
    )  # fmt: skip
    yield Score(
        "strict/validity/readable", "readable answers", rate("validity/readable", "stories"),
        "Share of answers in which an analysis can be found.", level="main",
    )  # fmt: skip
    for rule, (severity, sentence) in RULES.items():
        yield Score(
            f"strict/validity/rule_pass_rate/{rule}", f"answers that keep {rule}", rate(f"validity/rules/{rule}", "stories"),
            f"Share of answers that keep the rule ({severity}): {sentence}", bar=("rules", rule),
        )  # fmt: skip


def _grounding() -> Iterator[Score]:
    """Counted by `grounding.count`, for all boxes and for each kind of entity."""
    voc = "ours; IoU criterion of Everingham et al. 2010, section 4.2"
    coco = "ours; thresholds of COCO (Lin et al. 2014)"
    meanings = {
        "f1": "Harmonic mean of box precision and box recall",
        "precision": "Share of the answer's boxes that match a reference box",
        "recall": "Share of the reference boxes that a box of the answer matches",
    }
    for kind, of in (("", ""), *((kind, f", {name}") for kind, name in KINDS.items())):
        at = f"grounding/{kind}" if kind else "grounding"
        predicted, reference = f"{at}/predicted", f"{at}/reference"
        for part, formula in precision_recall_f1(f"{at}/matched", predicted, reference).items():
            yield Score(
                f"strict/{at}/{part}", f"box {_short(part)}{of}", formula,
                f"{meanings[part]} at IoU 0.5, in the same image and of the same kind{of}.", voc,
                level="headline" if not kind else "main" if part == "f1" else "detail",
                bar=("grounding_by_kind", KINDS.get(kind, "all")) if part == "f1" else None,
            )  # fmt: skip
        for part, formula in precision_recall_f1(f"{at}/matched_50_95", predicted, reference).items():
            yield Score(
                f"strict/{at}/{part}_50_95", f"box {_short(part)} over IoU 0.5 to 0.95{of}", formula,
                f"{meanings[part]}, averaged over the IoU thresholds 0.50, 0.55, … 0.95{of}.", coco,
                level="main" if part == "f1" and not kind else "detail",
            )  # fmt: skip
        yield Score(
            f"strict/{at}/mean_iou", f"mean IoU{of}", rate(f"{at}/iou", f"{at}/matched"),
            f"Mean IoU of the boxes that match at IoU 0.5{of}.", level="detail" if kind else "main",
        )  # fmt: skip
        yield Score(
            f"strict/{at}/entities_per_frame", f"entities per frame{of}", rate(predicted, "grounding/frames"),
            f"Boxes in the answer, per frame{of}.",
            better=None, decimals=2, level="detail" if kind else "main",
        )  # fmt: skip
        yield Score(
            f"strict/{at}/reference_entities_per_frame", f"reference entities per frame{of}",
            rate(reference, "grounding/frames"), f"Boxes in the reference, per frame{of}.",
            better=None, decimals=2,
        )  # fmt: skip


def _identity() -> Iterator[Score]:
    """Counted by `identity.count`, over boxes that match at IoU 0.5 whatever their kind."""
    at, predicted, reference = "strict/identity", "identity/predicted", "identity/reference"
    ristani = "Ristani et al. 2016, section 3"
    yield Score(
        IDF1, "identity IDF1", f1("identity/idtp", predicted, reference),
        "Harmonic mean of identity precision and recall.", ristani, level="headline", guard="idf1_tolerance",
    )  # fmt: skip
    yield Score(
        f"{at}/idp", "identity precision", share("identity/idtp", predicted, reference),
        "Share of the answer's boxes that have the right ID under the best one-to-one mapping of IDs.", ristani,
    )  # fmt: skip
    yield Score(
        f"{at}/idr", "identity recall", share("identity/idtp", reference, predicted),
        "Share of the reference boxes that are found with the right ID under the best one-to-one mapping of IDs.", ristani,
    )  # fmt: skip
    bagga = "B-cubed, Bagga and Baldwin 1998"
    right, found = "identity/bcubed_precision", "identity/bcubed_recall"
    yield Score(
        f"{at}/bcubed/f1", "B-cubed F1", harmonic(right, predicted, found, reference),
        "Harmonic mean of B-cubed precision and recall.", bagga, level="main",
    )  # fmt: skip
    yield Score(
        f"{at}/bcubed/precision", "B-cubed precision", share(right, predicted, reference),
        "Mean over the answer's boxes of the share of boxes with the same ID that belong to the same entity.", bagga,
    )  # fmt: skip
    yield Score(
        f"{at}/bcubed/recall", "B-cubed recall", share(found, reference, predicted),
        "Mean over the reference boxes of the share of the entity's boxes that have the same ID in the answer.", bagga,
    )  # fmt: skip
    links = precision_recall_f1("identity/links/right", "identity/links/predicted", "identity/links/reference")
    for part, formula in links.items():
        yield Score(
            f"{at}/links/{part}", f"identity links {_short(part)}", formula,
            f"{_short(part).capitalize()} of pairs of boxes in different images that have the same ID.",
            level="main" if part == "f1" else "detail",
        )  # fmt: skip
    yield Score(
        f"{at}/switches_per_story", "identity switches per story", rate("identity/switches", "stories"),
        "How often an entity reappears under a different ID than before.",
        "CLEAR MOT, Bernardin and Stiefelhagen 2008", better="lower", decimals=2,
    )  # fmt: skip


def _references() -> Iterator[Score]:
    """Counted by `mentions.count`."""
    hallucinations = {"hallucinations": f"The sum of {', '.join(HALLUCINATIONS)}."}
    for fault, meaning in (hallucinations | FAULTS).items():
        title = fault.replace("_", " ")
        yield Score(
            f"strict/references/{fault}_per_story", f"{title} per story", rate(f"references/{fault}", "stories"),
            meaning, better="lower", decimals=2,
        )  # fmt: skip
        counted = fault in hallucinations
        yield Score(
            f"strict/references/{fault}_per_100_mentions", f"{title} per 100 mentions",
            rate(f"references/{fault}", "references/mentions", 100), meaning, better="lower", decimals=2,
            level="main" if counted else "detail", guard="hallucinations_tolerance" if counted else None,
        )  # fmt: skip
    yield Score(
        "strict/references/mentions_per_story", "mentions per story", rate("references/mentions", "stories"),
        "Tagged mentions of entities.", better=None, decimals=2,
    )  # fmt: skip
    for pronoun in ("", *FIRST_FORMS):
        at = f"references/pronouns/{pronoun}" if pronoun else "references/pronouns"
        yield Score(
            f"strict/references/pronouns_grounded{f'/{pronoun}' if pronoun else ''}",
            f"pronouns grounded{f', {pronoun}' if pronoun else ''}", rate(f"{at}/grounded", at),
            f"Share of personal pronouns{f' ({pronoun} in all its forms)' if pronoun else ''} that are inside a tag.",
            PAPER, level="detail" if pronoun else "main", bar=("pronouns_grounded", pronoun or "all"),
        )  # fmt: skip


def _names() -> Iterator[Score]:
    """Counted by `names.count`; `storyreason.format.naming` says what a name is."""
    yield Score(
        "strict/names/one", "people with one name", rate("names/one", "names/entities"),
        "Share of the people with a name in two images or more who have the same one in all of them.",
    )  # fmt: skip
    for kind, of in (("", ""), *((f"/{kind}", f", {name}") for kind, name in KINDS.items())):
        yield Score(
            f"strict/names/agree{kind}", f"names that agree{of}", rate(f"names{kind}/agree", f"names{kind}/mentions"),
            f"Share of the mentions with a name that use one of their entity's own, in the tables{of}.",
            level="detail" if kind else "main",
        )  # fmt: skip
    yield Score(
        "strict/names/pronouns", "pronouns that fit", rate("names/pronouns/agree", "names/pronouns"),
        "Share of the mentions that are *he* or *she*, in any form, of a person whose description states a gender, that "
        "fit it.",
    )  # fmt: skip


def _persistence() -> Iterator[Score]:
    """Counted by `persistence.count`."""
    sides = {
        "analysis": "the answer's analysis", "story": "the answer's story",
        "reference_analysis": "the reference's analysis", "reference_story": "the reference's story",
    }  # fmt: skip
    drawn = {"story": "story", "reference_story": "reference's story"}
    for side, where in sides.items():
        for kind, of in (("", ""), *((f"/{kind}", f", {name}") for kind, name in KINDS.items())):
            at = f"persistence/{side}{kind}"
            yield Score(
                f"strict/{at}", f"lasting entities in {where}{of}", rate(f"{at}/lasting", f"{at}/entities"),
                f"Share of the entities in {where} that appear in five images or more{of}.", PAPER, better=None,
                bar=("persistence", f"{of[2:] or 'all'}, {drawn[side]}") if side in drawn else None,
            )  # fmt: skip


def _language() -> Iterator[Score]:
    """Counted by `length.count`: properties of the text alone, not compared with the reference."""
    yield Score(
        "strict/language/words", "words per story", rate("length/words", "stories"),
        "Words in the answer's story, without tags.", better=None, decimals=2, level="main",
    )  # fmt: skip
    yield Score(
        "strict/language/reference_words", "reference words per story", rate("length/reference_words", "stories"),
        "Words in the reference story, without tags.", better=None, decimals=2,
    )  # fmt: skip
    for n, of, unit in ((1, "words", "length/words"), (2, "bigrams", "length/bigrams")):
        yield Score(
            f"strict/language/distinct_{n}", f"distinct {of}", rate(f"length/distinct_{n}", unit),
            f"Distinct {of} as a share of all {of}, counted within each story.", "distinct-n, Li et al. 2016",
        )  # fmt: skip


def _paper() -> Iterator[Score]:
    """Counted by `paper.count` (boxes) and `language.Counting` (text)."""
    meanings = {
        "Precision": "Share of the answer's boxes that match a reference box at IoU 0.5 in any image; 1 without boxes.",
        "Recall": "Share of the reference boxes that are matched at IoU 0.5 in any image.",
        "F1": "F1 of box precision and recall, computed per story.",
    }
    for label, of in (("", "all boxes"), ("Char. ", "characters"), ("Obj. ", "objects")):
        for part, meaning in meanings.items():
            name = f"paper/{label}{part}"
            yield Score(
                name, f"paper's {label}{part}", mean(name), f"{meaning} Over {of}.", PAPER,
                level="main" if name == "paper/F1" else "detail",
            )  # fmt: skip
    yield Score(
        "paper/mAP", "paper's mAP", mean("paper/mAP"),
        "11-point interpolated average precision at IoU 0.5, boxes in table order.",
        f"{PAPER}; Everingham et al. 2010, section 4.2", level="main",
    )  # fmt: skip
    for n in range(1, 5):
        yield Score(
            f"paper/BLEU-{n}", f"BLEU-{n}", bleu(n), f"Precision of n-grams of up to {n} words, with a brevity penalty.",
            "Papineni et al. 2002", level="main" if n == 4 else "detail",
        )  # fmt: skip
    yield Score(
        "paper/ROUGE-L", "ROUGE-L", mean("paper/ROUGE-L"),
        "F-measure (beta 1.2) of the longest common subsequence of words.", "Lin 2004", level="main",
    )  # fmt: skip
    yield Score(
        "paper/METEOR", "METEOR", meteor(), "Alignment by exact words, stems, synonyms and paraphrases (METEOR 1.5).",
        "Denkowski and Lavie 2014", level="main",
    )  # fmt: skip
    yield Score(
        "paper/CIDEr", "CIDEr-D", mean("paper/CIDEr"),
        "Similarity of n-grams weighted by rarity, times ten; only for up to 5,000 stories.",
        "Vedantam et al. 2015",
    )  # fmt: skip


def _short(part: str) -> str:
    return part.replace("f1", "F1")


GROUPS: Mapping[str, tuple[str, tuple[Score, ...]]] = {
    "Validity": ("Does an answer keep the rules of the format?", tuple(_validity())),
    "Grounding": ("Are the boxes where the entities are, in the right image, as the right kind?", tuple(_grounding())),
    "Identity": ("Does an ID stay on one entity from image to image?", tuple(_identity())),
    "References": (
        "Do the story's tags refer to what exists, and is everyone who is named tagged?",
        tuple(_references()),
    ),
    "Names": ("Does a person keep one name, and does the story use it?", tuple(_names())),
    "Persistence": ("Which entities appear in five images or more?", tuple(_persistence())),
    "Coherence": (
        "Does the story stay with its entities, in order and without repeating itself?",
        tuple(coherence.scores()),
    ),
    "Language": ("How long and how varied is the text?", tuple(_language())),
    "The paper's protocol": (
        "The published protocol, for comparison with published figures. Boxes of all images are pooled.",
        tuple(_paper()),
    ),
}
"""All scores in report order, grouped by the question they answer."""

SCORES: Mapping[str, Score] = MappingProxyType({s.name: s for _, group in GROUPS.values() for s in group})
"""Every score by its name, in report order."""
HEADLINES = tuple(score for score in SCORES.values() if score.level == "headline")
"""The scores to look at first."""
MAIN = tuple(score for score in SCORES.values() if score.level != "detail")
"""The scores shown in the gate's report and in the terminal, headlines included."""
GUARDED = tuple(score for score in SCORES.values() if score.guard)
"""The scores that must not get worse by more than the gate's tolerance."""


_COMPARED = re.compile(
    r"grounding/(\w+/)?(matched|matched_50_95|iou)|identity/(idtp|bcubed_\w+|links/right|switches)|"
    r"references/(phantom|hallucinations)|paper/(Char\. |Obj\. )?(Precision|Recall|F1)|paper/mAP"
)
"""The columns that count what the boxes of answer and reference have in common."""


def compares_boxes(name: str) -> bool:
    """Whether a score depends on what boxes of the answer and of the reference have in common. Every other score is
    *text-only* by construction: an answer gets it without a look at the pictures."""
    return any(_COMPARED.fullmatch(column) for column in SCORES[name].formula.columns)


def titled(name: str) -> str:
    """The name of a score with its decoding in words, which also break into lines.

    >>> titled("free/strict/validity/valid")
    'valid answers, free'
    """
    decoding, _, score = name.partition("/")
    return f"{SCORES[score].title}, {decoding}" if score in SCORES else name


def nearest(name: str) -> str | None:
    """The name of the score most similar to `name`, or None."""
    ends = [one for one in SCORES if one.endswith(f"/{name}")]
    near = difflib.get_close_matches(name, SCORES, n=1, cutoff=0.6)
    return ends[0] if ends else near[0] if near else None


def markdown() -> str:
    """All scores as Markdown, with a section and a table for each group."""
    return "\n\n".join(
        f"### {title}\n\n{question}\n\n" + "\n".join(_rows(scores)) for title, (question, scores) in GROUPS.items()
    )


def _rows(scores: Iterable[Score]) -> Iterator[str]:
    yield "| Score | Title | Better | Meaning | Computed as | Source |"
    yield "|---|---|---|---|---|---|"
    for score in scores:
        cells = (f"`{score.name}`", score.title, score.better or "-", score.meaning, score.formula.text, score.source)
        yield f"| {' | '.join(cells)} |"
