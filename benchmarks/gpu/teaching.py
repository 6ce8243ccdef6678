"""How many steps a second the tiny base model is taught on this device, with lessons drawn by other processes."""

from benchmarks.gpu.common import DEVICE, DRY, WORK, peak_gb, report
from storyreason.sample import teaching

STEPS = 4 if DRY else 120


def measure() -> None:
    """The vision tower's steps, then those of frames, then those of texts and frames, without measuring in between."""
    course = teaching.train(
        WORK / "made",
        STEPS,
        text_tokens=512 if DRY else 4096,
        report_every=STEPS // 2,
        tower_steps=STEPS,
        evaluated=16,
        reading_steps=0,
        both_steps=STEPS,
        last_steps=0,
        device=DEVICE,
    )
    lines = list(course)
    spent = lines[-2].seconds - lines[-3].seconds
    report(
        tower_s=lines[0].seconds,
        tower_accuracy=lines[0].tower,
        steps_per_s=STEPS // 2 / spent,
        minutes_for_1800_steps=1800 * spent / (STEPS // 2) / 60,
        copied=lines[-1].copied,
        box_f1=lines[-1].f1,
        peak_gb=peak_gb(),
    )
