"""References: do the story's tags refer to what exists in that image, and is everyone who is named tagged?"""

from collections import Counter
from collections.abc import Collection, Sequence

from storyreason.format.analysis import Analysis
from storyreason.format.kinds import KINDS, kind_of
from storyreason.format.story import Mention, Story
from storyreason.format.words import FIRST_FORMS, PRONOUNS, Names, untagged, words
from storyreason.scoring.catalogue import FAULTS, HALLUCINATIONS
from storyreason.scoring.matching import EntityBox, Pair


def count(predicted: Analysis, story: Story, rows: Sequence[EntityBox], matched: Sequence[Pair]) -> dict[str, float]:
    """One story's counts. `rows` are the boxes of the `predicted` analysis, `matched` the pairs with reference boxes.

    `catalogue.FAULTS` says what each fault is; those of `catalogue.HALLUCINATIONS` are the referential hallucinations.
    """
    known = {row.id for row in rows}
    present = {(row.image, row.id) for row in rows}
    seen = {(rows[pair.predicted].image, rows[pair.predicted].id) for pair in matched}
    names = Names(row.name for section in predicted.sections for row in section.characters)
    faults: Counter[str] = Counter()
    tagged: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    mentions = 0
    for passage in story.passages:
        for part in passage.parts:
            if isinstance(part, Mention):
                mentions += 1
                faults.update(_faults(part, passage.image, known, present, seen))
                if part.kind == "gdo":
                    tagged.update(PRONOUNS[word] for word in words(part.text) if word in PRONOUNS)
        for word in untagged(passage, names):
            bare[word.pronoun or "name"] += 1
    faults["untagged_name"] = bare["name"]
    faults["untagged_pronoun"] = sum(bare[pronoun] for pronoun in FIRST_FORMS)
    return {
        "references/mentions": mentions,
        **{f"references/{fault}": faults[fault] for fault in FAULTS},
        "references/hallucinations": sum(faults[fault] for fault in HALLUCINATIONS),
        "references/pronouns": sum(tagged.values()) + faults["untagged_pronoun"],
        "references/pronouns/grounded": sum(tagged.values()),
        **{f"references/pronouns/{pronoun}": tagged[pronoun] + bare[pronoun] for pronoun in FIRST_FORMS},
        **{f"references/pronouns/{pronoun}/grounded": tagged[pronoun] for pronoun in FIRST_FORMS},
    }


def _faults(
    mention: Mention,
    image: int,
    known: Collection[str],
    present: Collection[tuple[int, str]],
    seen: Collection[tuple[int, str]],
) -> list[str]:
    faults = []
    tags = {KINDS[kind_of(id) or "obj"].tag for id in mention.ids}
    for id in mention.ids:
        if id not in known:
            faults.append("unknown")
        elif (image, id) not in present:
            faults.append("absent")
        elif (image, id) not in seen:
            faults.append("phantom")
    if mention.kind == "gda" and "gdo" not in tags:
        faults.append("no_actor")
    if mention.kind != "gda" and tags - {mention.kind}:
        faults.append("wrong_tag")
    return faults
