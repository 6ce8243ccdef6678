"""Synthetic films: the embeddings of detections whose entities are known. They say nothing about real embeddings.

A film is a row of scenes, each with a light, a part of the cast in one of its costumes, extras, and things. A face's
embedding is its person's vector, moved by pose, light and what a small face loses; a look's is a costume and a body, moved by
light, pose and crop. Some people resemble one another (doubles), some share a costume, some things are alike. `noise`
multiplies everything that moves an embedding.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from storyreason.perception.detections import NUMBERS
from storyreason.perception.film import Film

if TYPE_CHECKING:
    import pyarrow as pa

FACE, LOOK = 48, 32
"""Dimensions in which entities differ; embeddings have more."""
NOISES = (1.0, 1.4, 1.8)
THINGS = ("car", "chair", "dog", "suitcase", "cup", "lamp", "horse", "background: wall")


@dataclass(frozen=True)
class Model:
    """An invented embedding model: where it puts the dimensions that count, and what all its embeddings share."""

    face: np.ndarray
    look: np.ndarray
    face_mean: np.ndarray
    look_mean: np.ndarray

    @classmethod
    def of(cls, luck: np.random.Generator, face: int = 128, look: int = 192) -> "Model":
        """One with embeddings of these lengths. Its mean is 0.2 to 1 times as long as what tells entities apart."""

        def spread(inner: int, outer: int) -> np.ndarray:
            return np.linalg.qr(luck.normal(size=(outer, inner)))[0].T.astype(np.float32)

        def mean(outer: int) -> np.ndarray:
            return (unit(luck, outer) * luck.uniform(0.2, 1.0)).astype(np.float32)

        return cls(spread(FACE, face), spread(LOOK, look), mean(face), mean(look))


def unit(luck: np.random.Generator, size: int, count: int | None = None) -> np.ndarray:
    """Random directions."""
    found = luck.normal(size=(size,) if count is None else (count, size))
    scaled: np.ndarray = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return scaled


def near(luck: np.random.Generator, vector: np.ndarray, cosine: float) -> np.ndarray:
    """A direction that resembles another one."""
    mixed = cosine * vector + np.sqrt(1 - cosine**2) * unit(luck, len(vector))
    scaled: np.ndarray = mixed / np.linalg.norm(mixed)
    return scaled


class Cast:
    """The people of a film: faces, bodies, and what they wear."""

    def __init__(self, luck: np.random.Generator, principals: int, extras: int) -> None:
        count = principals + extras
        self.principals, self.extras = principals, extras
        self.faces, self.bodies = unit(luck, FACE, count), unit(luck, LOOK, count)
        uniforms = unit(luck, LOOK, 3)
        self.costumes = [
            [
                uniforms[luck.integers(3)] if luck.random() < 0.3 else unit(luck, LOOK)
                for _ in range(luck.integers(1, 4) if person < principals else 1)
            ]
            for person in range(count)
        ]
        for person in range(1, count):
            if luck.random() < 0.1:  # a double: a brother, or someone made up like another
                other = luck.integers(person)
                self.faces[person] = near(luck, self.faces[other], 0.6)
                self.bodies[person] = near(luck, self.bodies[other], 0.6)
        self.worn = [int(luck.integers(len(costumes))) for costumes in self.costumes]

    def enter(self, luck: np.random.Generator) -> list[int]:
        """Who is in the next scene; some have changed."""
        shares = 1 / np.arange(1, self.principals + 1)
        wanted = int(luck.integers(1, min(5, self.principals) + 1))
        present = luck.choice(self.principals, wanted, replace=False, p=shares / shares.sum()).tolist()
        if self.extras and luck.random() < 0.4:
            first = self.principals + int(luck.integers(self.extras))
            present += [
                self.principals + (first - self.principals + more) % self.extras for more in range(luck.integers(1, 5))
            ]
        present = list(dict.fromkeys(present))
        for person in present:
            if luck.random() < 0.4:
                self.worn[person] = int(luck.integers(len(self.costumes[person])))
        return present


def film(
    seed: int, noise: float, detections: int = 1000, name: str = "film", model: Model | None = None
) -> tuple[Film, np.ndarray]:
    """A film of about that many detections, and the number of the entity that each shows. The same seed gives the same."""
    luck = np.random.default_rng(seed)
    model = model or Model.of(luck)
    principals = max(4, int(detections**0.5 / 2.6))
    cast = Cast(luck, principals, int(principals * 2))
    props = _Props(luck, principals)
    rows: list[_Row] = []
    scene = frame = 0
    while len(rows) < detections:
        present, things = cast.enter(luck), props.enter(luck)
        face_light, look_light = unit(luck, FACE), unit(luck, LOOK)
        for _ in range(luck.integers(2, 9)):
            seen = [person for person in present if luck.random() < 0.7]
            rows += [_person(luck, cast, person, scene, frame, noise, face_light, look_light) for person in seen]
            shown = [thing for thing in things if luck.random() < 0.6]
            rows += [props.row(luck, thing, scene, frame, noise, look_light) for thing in shown]
            frame += 1
        scene += 1
    return _film(luck, name, rows[:detections], model)


@dataclass(frozen=True)
class _Row:
    entity: int
    label: str
    scene: int
    frame: int
    face: np.ndarray | None
    height: float
    look: np.ndarray


def _person(
    luck: np.random.Generator,
    cast: Cast,
    person: int,
    scene: int,
    frame: int,
    noise: float,
    face_light: np.ndarray,
    look_light: np.ndarray,
) -> _Row:
    pose = luck.choice(["front", "side", "back"], p=[0.45, 0.3, 0.25])
    height = float(np.clip(np.exp(luck.normal(np.log(70), 0.55)), 12, 400))
    face = None
    if pose != "back" and luck.random() < (0.95 if pose == "front" else 0.7):
        turned = 0.3 if pose == "front" else 0.6
        lost = 0.35 + 20 / height
        moved = turned * unit(luck, FACE) + 0.25 * face_light + lost * unit(luck, FACE)
        face = cast.faces[person] + noise * moved
    moved = 0.35 * look_light + 0.3 * unit(luck, LOOK) + 0.35 * unit(luck, LOOK)
    worn = cast.costumes[person][cast.worn[person]]
    look = 0.9 * worn + 0.5 * cast.bodies[person] + noise * moved
    return _Row(person, "person", scene, frame, face, height, look)


class _Props:
    """The things of a film: several of each label, some of them alike."""

    def __init__(self, luck: np.random.Generator, principals: int) -> None:
        self.each = max(3, principals // 3)
        self.labels = [label for label in THINGS for _ in range(self.each)]
        self.looks: list[np.ndarray] = []
        for _ in THINGS:
            kind, own = unit(luck, LOOK), unit(luck, LOOK, self.each)
            for number in range(1, self.each):
                if luck.random() < 0.15:
                    own[number] = near(luck, own[number - 1], 0.6)
            self.looks += list(0.9 * kind + 0.8 * own)

    def enter(self, luck: np.random.Generator) -> list[int]:
        """What is in the next scene: up to three of a few labels."""
        shown: list[int] = []
        for label in luck.choice(len(THINGS), luck.integers(1, 4), replace=False):
            chosen = luck.choice(self.each, luck.integers(1, 4), replace=False)
            shown += (label * self.each + chosen).tolist()
        return shown

    def row(
        self, luck: np.random.Generator, thing: int, scene: int, frame: int, noise: float, light: np.ndarray
    ) -> _Row:
        moved = 0.3 * light + 0.3 * unit(luck, LOOK) + 0.3 * unit(luck, LOOK)
        return _Row(1_000_000 + thing, self.labels[thing], scene, frame, None, 0.0, self.looks[thing] + noise * moved)


def _film(luck: np.random.Generator, name: str, rows: list[_Row], model: Model) -> tuple[Film, np.ndarray]:
    count = len(rows)
    faces = np.zeros((count, model.face.shape[1]), np.float32)
    seen = np.array([row.face is not None for row in rows])
    if seen.any():
        inner = np.array([row.face for row in rows if row.face is not None], np.float32)
        faces[seen] = inner @ model.face + model.face_mean
    looks = np.array([row.look for row in rows], np.float32) @ model.look + model.look_mean
    for vectors in (faces, looks):
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    corners = luck.uniform(0, 500, (count, 2)).round()
    made = Film(
        name,
        list(range(count)),
        [row.label for row in rows],
        [row.scene for row in rows],
        [row.frame for row in rows],
        np.array([row.scene for row in rows]),
        np.unique([row.frame for row in rows], return_inverse=True)[1].reshape(-1),
        np.concatenate([corners, corners + luck.uniform(20, 200, (count, 2)).round()], axis=1),
        faces,
        np.where(seen, [row.height for row in rows], 0).astype(np.float32),
        looks,
    )
    return made, np.unique([row.entity for row in rows], return_inverse=True)[1].reshape(-1)


def table(film: Film) -> "pa.Table":
    """The film in the columns of `storyreason.perception.detections`."""
    import pyarrow as pa

    def lists(vectors: np.ndarray, has: np.ndarray) -> pa.Array:
        ends = np.concatenate([[0], np.cumsum(np.where(has, vectors.shape[1], 0))])
        starts = pa.array(ends, pa.int32(), mask=np.append(~has, False))
        return pa.ListArray.from_arrays(starts, pa.array(vectors[has].reshape(-1), pa.float32()))

    has_face, has_look = np.asarray(film.face_heights > 0), np.any(film.looks, axis=1)
    columns = {
        "film": pa.array([film.name] * len(film)),
        "scene": pa.array(film.scene_names),
        "frame": pa.array(film.frame_names),
        "detection": pa.array(film.ids),
        "label": pa.array(film.labels),
        **{name: pa.array(film.boxes[:, at]) for at, name in enumerate(NUMBERS[:4])},
        "score": pa.array(np.full(len(film), 0.9)),
        "face": lists(film.faces, has_face),
        "face_height": pa.array(film.face_heights, mask=~has_face),
        "look": lists(film.looks, has_look),
    }
    return pa.table(columns)


def part(film: Film, rows: np.ndarray) -> Film:
    """Some detections of a film; the numbers of its scenes and frames stay."""
    return replace(
        film,
        ids=[film.ids[at] for at in rows],
        labels=[film.labels[at] for at in rows],
        scene_names=[film.scene_names[at] for at in rows],
        frame_names=[film.frame_names[at] for at in rows],
        scenes=film.scenes[rows],
        frames=film.frames[rows],
        boxes=film.boxes[rows],
        faces=film.faces[rows],
        face_heights=film.face_heights[rows],
        looks=film.looks[rows],
    )
