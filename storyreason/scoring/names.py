"""Names: does a person keep one name, do mentions use their entity's name, and do pronouns fit what descriptions state?"""

from collections import Counter

from storyreason.format.analysis import Analysis
from storyreason.format.kinds import KINDS, OTHER, kind_of
from storyreason.format.naming import Naming, mentions
from storyreason.format.story import Mention, Story
from storyreason.format.words import PRONOUNS, words


def count(predicted: Analysis, story: Story) -> dict[str, float]:
    """One story's counts. `storyreason.format.naming` says what a name is and when a mention agrees with the tables."""
    naming = Naming(predicted.sections)
    found: Counter[str] = Counter()
    for passage in story.passages:
        for mention, before in mentions(passage):
            if called := naming.called(mention, before):
                kind = (kind_of(mention.ids[0]) if mention.ids else None) or OTHER
                agrees = not naming.foreign(mention, called)
                found.update({"names/mentions": 1, f"names/{kind}/mentions": 1})
                found.update({"names/agree": agrees, f"names/{kind}/agree": agrees})
            if pronoun := _pronoun(mention, naming):
                found.update({"names/pronouns": 1, "names/pronouns/agree": pronoun == naming.gender[mention.ids[0]]})
    several = [id for id, images in naming.images.items() if len(images) > 1]
    return {
        "names/entities": len(several),
        "names/one": sum(len(naming.names[id]) == 1 for id in several),
        **{f"names/{part}": found[f"names/{part}"] for part in ("mentions", "agree", "pronouns", "pronouns/agree")},
        **{f"names/{kind}/{part}": found[f"names/{kind}/{part}"] for kind in KINDS for part in ("mentions", "agree")},
    }


def _pronoun(mention: Mention, naming: Naming) -> str | None:
    """`he` or `she` if the mention is such a pronoun alone, of one person whose descriptions state a gender."""
    if mention.kind != "gdo" or len(mention.ids) != 1 or not naming.gender.get(mention.ids[0]):
        return None
    said = words(mention.text)
    base = PRONOUNS.get(said[0]) if len(said) == 1 else None
    return base if base in ("he", "she") else None
