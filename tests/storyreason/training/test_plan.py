from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from storyreason.training import plan

LENGTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=60)
SIZES = st.integers(1, 4)


@given(LENGTHS, st.sampled_from([0.001, 0.5, 1.0, 2.0, 3.5]), SIZES, SIZES, SIZES, st.integers(0, 9))
def test_every_process_gets_full_passes_and_stories_come_in_turn(
    lengths: list[int], epochs: float, batch_size: int, accumulation: int, processes: int, seed: int
) -> None:
    made = plan.make(
        lengths,
        epochs=epochs,
        max_steps=None,
        batch_size=batch_size,
        accumulation=accumulation,
        processes=processes,
        seed=seed,
    )
    per_step = batch_size * accumulation * processes
    assert all(len(items) == batch_size for part in made.parts for one_pass in part for items in one_pass)
    assert all(len(part) == accumulation for part in made.parts)
    assert made.steps * per_step >= max(1, round(epochs * len(lengths))) > (made.steps - 1) * per_step
    # No story is seen twice before another was seen once.
    seen = Counter(index for step in range(made.steps) for _, index in made.step(step))
    counts = [seen[index] for index in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == made.steps * per_step


@given(LENGTHS, SIZES)
def test_the_steps_do_not_depend_on_the_number_of_processes(lengths: list[int], processes: int) -> None:
    # Given the same stories in a step, on one process or on several
    alone = plan.make(lengths, epochs=2, max_steps=None, batch_size=2 * processes, accumulation=2, processes=1, seed=3)
    shared = plan.make(lengths, epochs=2, max_steps=None, batch_size=2, accumulation=2, processes=processes, seed=3)
    assert [sorted(alone.step(n)) for n in range(alone.steps)] == [sorted(shared.step(n)) for n in range(shared.steps)]


def test_a_pass_gathers_stories_of_about_one_length() -> None:
    lengths = [100, 2000] * 64
    made = plan.make(lengths, epochs=1, max_steps=None, batch_size=4, accumulation=1, processes=2, seed=0)
    padded = sum(max(lengths[i] for _, i in items) * len(items) for part in made.parts for one in part for items in one)
    assert padded < 1.1 * sum(lengths)


def test_an_epoch_ends_where_its_last_story_was_seen() -> None:
    made = plan.make([5] * 10, epochs=3, max_steps=None, batch_size=4, accumulation=1, processes=1, seed=0)
    assert [step for step in range(1, made.steps + 1) if made.ends_epoch(step)] == [3, 5, 8]
    assert made.steps == 8


def test_max_steps_wins_over_epochs_and_another_seed_is_another_order() -> None:
    def made(seed: int) -> plan.Plan:
        return plan.make([5] * 10, epochs=3, max_steps=20, batch_size=1, accumulation=2, processes=1, seed=seed)

    assert made(0).steps == 20
    assert made(0) == made(0)
    assert made(0) != made(1)


def test_the_sampler_gives_the_passes_of_each_step() -> None:
    made = plan.make([5] * 8, epochs=1, max_steps=None, batch_size=2, accumulation=1, processes=2, seed=0)
    parts = list(plan.Passes(made))
    assert len(parts) == len(plan.Passes(made)) == made.steps == 2
    taken = [item for part in parts for one_pass in part for items in one_pass for item in items]
    assert sorted(taken) == [(0, i) for i in range(8)]


@given(LENGTHS, SIZES, SIZES, SIZES, st.integers(1, 12_000))
def test_packing_changes_the_rows_and_not_the_stories_of_a_step(
    lengths: list[int], batch_size: int, accumulation: int, processes: int, budget: int
) -> None:
    def made(pack_tokens: int | None) -> plan.Plan:
        return plan.make(
            lengths,
            epochs=2,
            max_steps=None,
            batch_size=batch_size,
            accumulation=accumulation,
            processes=processes,
            seed=1,
            pack_tokens=pack_tokens,
        )

    loose, packed = made(None), made(budget)
    assert [sorted(packed.step(n)) for n in range(packed.steps)] == [sorted(loose.step(n)) for n in range(loose.steps)]
    for part in packed.parts:
        rows = [items for one_pass in part for items in one_pass]
        assert len(rows) % processes == 0
        assert all(rows)
        assert all(len(items) == 1 or sum(lengths[i] for _, i in items) <= budget for items in rows)


def test_the_rows_of_a_pass_are_balanced_over_the_processes() -> None:
    lengths = [300 + 37 * (n % 60) for n in range(240)]
    made = plan.make(
        lengths, epochs=1, max_steps=None, batch_size=1, accumulation=16, processes=4, seed=0, pack_tokens=8000
    )
    loads = [[sum(lengths[i] for _, i in items) for items in one] for part in made.parts for one in part]
    waited = sum(max(load) * len(load) - sum(load) for load in loads)
    assert waited < 0.02 * sum(map(sum, loads))
    assert len(loads) < 0.3 * len(lengths) / 4
