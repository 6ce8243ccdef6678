"""What authoring will cost, before anything is asked."""

from collections.abc import Iterable, Sequence

from storyreason.authoring import prompting
from storyreason.authoring.calls import LETTERS, Budget, Spent, estimate
from storyreason.authoring.config import AuthoringConfig
from storyreason.authoring.given import Given
from storyreason.authoring.landmarks import Candidate
from storyreason.authoring.windows import Window

FILLED = 40
"""Characters in a cell that is filled, about."""
PASSAGE = 120
"""Tokens of a story for each image, about."""
NAME = 20
"""Tokens of a landmark's name in a reply, about."""


def expected(config: AuthoringConfig, windows: Iterable[Window]) -> Spent:
    """What the stories of these windows cost when every first reply is right."""
    total, budget = Spent(), Budget(config)
    for window in windows:
        given = Given(window, {})
        images = [shot.frame.image for shot in window.shots]
        asked = estimate(prompting.for_analysis(config, given, images))
        skeleton = given.skeleton()
        thought = round((len(skeleton) + FILLED * skeleton.count("…")) / LETTERS)
        total.calls += 2
        total.prompt_tokens += 2 * asked + thought
        total.tokens += thought + PASSAGE * len(images)
    total.cost = budget.price(total.prompt_tokens, total.tokens)
    return total


def landmarks(config: AuthoringConfig, asked: Iterable[tuple[bytes, Sequence[Candidate]]]) -> Spent:
    """What naming the landmarks costs among boxes in pictures, when every first reply is right and every box is one."""
    total = Spent()
    for image, boxes in asked:
        if not boxes:
            continue
        total.calls += 1
        total.prompt_tokens += estimate(prompting.for_landmarks(image, [(one.label, one.box) for one in boxes], ()))
        total.tokens += NAME * len(boxes)
    total.cost = Budget(config).price(total.prompt_tokens, total.tokens)
    return total


def sentence(spent: Spent) -> str:
    """`8 requests, 12,000 tokens in and 4,000 out, 0.08`; without prices, no cost."""
    cost = f", {spent.cost:,.2f}" if spent.cost else ""
    return f"{spent.calls} requests, {spent.prompt_tokens:,} tokens in and {spent.tokens:,} out{cost}"
