"""How well a tiny base sees, keeps pictures apart, and looks back into its own text, on people and backgrounds it never saw."""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from storyreason.format import boxes
from storyreason.model import fast_products
from storyreason.sample.base import BACK, batch_of, token_offsets
from storyreason.sample.drawing import draw
from storyreason.sample.lessons import HEAD, ROUND, Lesson, Turn, a_lesson, a_size, locate, read_boxes
from storyreason.sample.recall import marking, placed, recalling
from storyreason.sample.staging import resized
from storyreason.sample.world import Part
from storyreason.scoring.paper import greedy

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor


def copies(model: Any, processor: "Qwen2_5_VLProcessor", texts: int) -> tuple[float, ...]:
    """Copy accuracy at each distance of `BACK`."""
    return tuple(copy_accuracy(model, processor, back, texts) for back in BACK)


def figures(model: Any, processor: "Qwen2_5_VLProcessor", frames: int, copied: Sequence[float]) -> dict[str, float]:
    """All by name, on about so many frames, and with `copied` on as many texts."""
    read = {}
    if copied:
        read = {
            **{f"copy_accuracy_{back}": accuracy for back, accuracy in zip(BACK, copied, strict=True)},
            **{f"lookup_accuracy_{back}": copy_accuracy(model, processor, back, frames, True) for back in BACK},
            "place_accuracy": place_accuracy(model, processor, frames),
        }
    return {
        "box_f1": box_f1(model, processor, frames),
        "box_f1_third_of_five": box_f1(model, processor, frames // 2, together=5),
        "box_f1_in_turn": box_f1_in_turn(model, processor, max(8, frames // 8)),
        "box_f1_other_sizes": box_f1(model, processor, frames // 2, other_sizes=True),
        **read,
    }


def box_f1(
    model: "Qwen2_5_VLForConditionalGeneration",
    processor: "Qwen2_5_VLProcessor",
    frames: int = 64,
    part: Part = "test",
    together: int = 1,
    other_sizes: bool = False,
) -> float:
    """F1 over all boxes at IoU 0.5, matched greedily by IoU, on frames with people and backgrounds of `part`.

    `together` frames stand in each prompt and the question is about the middle one. `other_sizes` gives each frame a size
    of its own, else all have that of the films' frames.
    """
    import torch

    luck = random.Random(f"evaluation/{part}/{together}")
    model.eval()
    matched = found = wanted = 0
    asked = 16 if model.device.type == "cpu" else 128  # prompts at a time: a GPU takes as long for many as for few
    for start in range(0, frames, asked):
        lessons, truths = [], []
        for _ in range(min(asked, frames - start)):
            lesson = a_lesson(together, luck, part)
            shown = tuple(resized(frame, a_size(luck)) for frame in lesson.frames) if other_sizes else lesson.frames
            middle = shown[together // 2]
            where = "the image" if together == 1 else f"image {together // 2 + 1}"
            lessons.append(Lesson(shown, (locate(middle, where),)))
            truths.append([placed.box for placed in middle.placed])
        for answer, truth in zip(answers(model, processor, lessons), truths, strict=True):
            candidates = [box for box, _ in read_boxes(answer)]
            matched += len(greedy(boxes.iou_matrix(candidates, truth)))
            found, wanted = found + len(candidates), wanted + len(truth)
    torch.manual_seed(0)
    return 2 * matched / (found + wanted)


def box_f1_in_turn(
    model: "Qwen2_5_VLForConditionalGeneration", processor: "Qwen2_5_VLProcessor", lessons: int = 32, together: int = 5
) -> float:
    """F1 over all boxes at IoU 0.5 on frames as in `box_f1`, `together` of which are told in one answer.

    A box counts only for the frame under whose number it stands.
    """
    luck = random.Random("evaluation/turn")
    matched = found = wanted = 0
    for start in range(0, lessons, 8):
        shown = [a_lesson(together, luck, "test").frames for _ in range(min(8, lessons - start))]
        asked = [Lesson(frames, (Turn(ROUND[0], ""),)) for frames in shown]
        for answer, frames in zip(answers(model, processor, asked, 200 * together), shown, strict=True):
            heads = [*HEAD.finditer(answer)]
            ends = [head.start() for head in heads[1:]] + [len(answer)] * bool(heads)
            told = {int(head[1]): answer[head.end() : end] for head, end in zip(heads, ends, strict=True)}
            for number, frame in enumerate(frames, 1):
                candidates = [box for box, _ in read_boxes(told.get(number, ""))]
                truth = [placed.box for placed in frame.placed]
                matched += len(greedy(boxes.iou_matrix(candidates, truth)))
                found, wanted = found + len(candidates), wanted + len(truth)
    return 2 * matched / (found + wanted)


def copy_accuracy(
    model: Any, processor: "Qwen2_5_VLProcessor", back: int, texts: int = 64, marked: bool = False
) -> float:
    """The share of tokens that the model predicts when it repeats nonsense from about `back` tokens before; if `marked`, a
    name whose token is another one there: ` Leo` in a row is `>Leo` after a mark."""
    luck, a_turn = random.Random(f"evaluation/recall/{back}"), marking if marked else recalling
    tokenizer = processor.tokenizer
    drawn = [a_turn(back, lambda text: len(tokenizer(text)["input_ids"]), luck) for _ in range(texts)]
    right = asked = 0
    for (turn, wanted), told in zip(drawn, _guessed(model, processor, [turn for turn, _ in drawn]), strict=True):
        begin = turn.answer.index(wanted)
        there = [told[offset] for offset in told if begin - 1 <= offset < begin + len(wanted)]
        right += sum(guess == token for guess, token in there)
        asked += len(there)
    return right / asked


def place_accuracy(model: Any, processor: "Qwen2_5_VLProcessor", texts: int = 64) -> float:
    """The share of marked keys, in texts of about 600 tokens, of which the model's guess stands at the place told of. A guess
    that knows all eight keys, but not where they stand, is right in about a third."""
    luck, tokenizer = random.Random("evaluation/places"), processor.tokenizer
    drawn = [placed(1400, luck, [f"{luck.choice('BDFK')}{number}" for number in range(1, 9)]) for _ in range(texts)]
    right = asked = 0
    for (_, marked), told in zip(drawn, _guessed(model, processor, [turn for (turn,), _ in drawn]), strict=True):
        for offset, here in marked:
            right += tokenizer.decode([told[offset + 1][0]]) in {key[1] for key in here}
        asked += len(marked)
    return right / asked


def _guessed(model: Any, processor: "Qwen2_5_VLProcessor", turns: list[Turn]) -> Iterator[dict[int, tuple[int, int]]]:
    """For each turn, by the offset of each token in its answer: the token that the model guesses, and the right one."""
    import torch

    model.eval()
    for at in range(0, len(turns), 8):
        batch = batch_of([Lesson((), (turn,)) for turn in turns[at : at + 8]], processor)
        labels = batch.pop("labels")
        del batch["about"]
        with torch.inference_mode(), fast_products(model.device.type):
            told = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits.argmax(2).cpu()
        for guesses, right in zip(told, labels, strict=True):
            (places,) = (right != -100).nonzero(as_tuple=True)
            wanted = right[places].tolist()
            pairs = zip(guesses[places - 1].tolist(), wanted, strict=True)
            yield dict(zip(token_offsets(processor.tokenizer, wanted), pairs, strict=True))


def answers(model: Any, processor: "Qwen2_5_VLProcessor", lessons: list[Lesson], tokens: int = 320) -> list[str]:
    """The model's greedy answers to the first question of each lesson, of up to so many tokens."""
    import torch

    pictures = [draw(frame) for lesson in lessons for frame in lesson.frames]
    texts = []
    for lesson in lessons:
        content = [*({"type": "image"} for _ in lesson.frames), {"type": "text", "text": lesson.turns[0].question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        texts.append(processor.apply_chat_template(messages, add_generation_prompt=True))
    batch = processor(images=pictures, text=texts, padding=True, padding_side="left", return_tensors="pt")
    device = model.device
    with torch.inference_mode(), fast_products(device.type):
        written = model.generate(**batch.to(device), max_new_tokens=tokens)
    told = written[:, batch["input_ids"].shape[1] :]
    return list(processor.batch_decode(told, skip_special_tokens=True))
