"""What the strict scores see of planted faults: the sample's own answers with 0, 1, 2 and 4 faults (`storyreason.judging`).

    python benchmarks/planted.py

It is what a judge has to be measured against: a table of scores by the number of faults, and Spearman's rank correlation of
each story's score with its number of faults.
"""

from scipy.stats import spearmanr

from storyreason import judging, sample, scoring
from storyreason.format import answer
from storyreason.scoring.catalogue import SCORES, VALID

SHOWN = ("strict/references/hallucinations_per_100_mentions", VALID)


def main() -> None:
    examples = [one for one in sample.examples("test") if judging.plant(one.story, max(judging.COUNTS), 0) is not None]
    references = [scoring.Reference.of(one) for one in examples]
    rows: dict[str, list[tuple[int, float]]] = {name: [] for name in SHOWN}
    means: dict[int, dict[str, float]] = {}
    for count in judging.COUNTS:
        told = {
            one.story_id: answer.join(one.chain_of_thought, judging.plant(one.story, count, 0) or "")
            for one in examples
        }
        card = scoring.score(references, told, meteor=False)
        means[count] = card.metrics()
        for row in card.table():
            for name in SHOWN:
                rows[name].append((count, float(row[name])))
    print(f"{len(examples)} stories, faults: {', '.join(map(str, judging.COUNTS))}, and the rank correlation")  # noqa: T201
    for name in SHOWN:
        cells = [SCORES[name].text(means[count][name]) for count in judging.COUNTS]
        correlation = spearmanr(*zip(*rows[name], strict=True)).statistic
        print(f"{SCORES[name].title}: {', '.join(cells)}; {correlation:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
