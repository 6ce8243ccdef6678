"""Writes a tale in the published format: an analysis and a grounded story, true to the frames by construction."""

import random

from storyreason.format.analysis import Analysis, Section
from storyreason.format.kinds import sort_key
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import PHASES, Character, Object, Phase, Setting
from storyreason.sample.drawing import PlacedEntity
from storyreason.sample.plot import Shot, Tale
from storyreason.sample.staging import in_reading_order
from storyreason.sample.world import Landmark, Look, Region, Thing

_POSES = {"stand": ("Standing", ("stood", "waited", "paused")), "wave": ("Waving", ("waved", "beckoned")),
          "walk": ("Walking", ("walked", "strolled", "wandered"))}  # fmt: skip
_EMOTIONS = {
    "Introduction": ("Calm", "Curious"),
    "Development": ("Happy", "Curious"),
    "Conflict": ("Worried", "Sad"),
    "Turning Point": ("Surprised", "Hopeful"),
    "Conclusion": ("Happy", "Relieved"),
}
_PURPOSES = {
    "ball": "Toy", "kite": "Toy", "umbrella": "Shelter", "suitcase": "Luggage", "lantern": "Lamp", "dog": "Companion",
    "bicycle": "Vehicle", "drum": "Instrument",
}  # fmt: skip
_MOODS = {"Morning": "Fresh", "Noon": "Bright", "Evening": "Warm", "Night": "Quiet"}
_LIGHTINGS = {"Morning": "Soft light", "Noon": "Clear light", "Evening": "Golden light", "Night": "Moonlight"}
_THING_VERBS = {"kite": ("flew", "danced"), "dog": ("sat", "barked"), "lantern": ("glowed", "stood")}
_REGION_VERBS = {"sea": "shone", "forest": "rustled"}

# An image's number decides these, so that no sentence stands twice in a story and a small model can learn how.
_OPENINGS = ("Soon", "Then", "Later", "After that", "A little later", "At last")
"""How the second and further images begin; the first begins with the time of day."""
_NEAR = ("near", "beside", "close to", "not far from", "next to", "by", "at the side of")
_ABOVE = ("above", "over", "high above", "high over", "in the air above", "in the sky above", "up above")
_FAR = ("in the distance", "far away", "in the background", "behind it all", "on the horizon", "at the back", "far off")

_EVENTS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    # (plot, phase): (what the phase does, its key event); {hero}, {friend}, {thing}, {at} are filled in
    ("lost", "Introduction"): (("{hero} sets out {at}", "{hero} brings {thing}"),),
    ("lost", "Development"): (("The day goes on", "Time passes {at}"),),
    ("lost", "Conflict"): (("{thing} is gone", "{hero} searches"),),
    ("lost", "Turning Point"): (("{thing} is found", "{thing} turns up"),),
    ("lost", "Conclusion"): (("All is well again", "{hero} has {thing} back"),),
    ("late", "Introduction"): (("{hero} arrives {at}", "{hero} looks around"),),
    ("late", "Development"): (("{hero} passes the time", "{hero} waits for {friend}"),),
    ("late", "Conflict"): (("{hero} feels alone", "Nobody comes"),),
    ("late", "Turning Point"): (("{friend} comes at last", "{friend} arrives"),),
    ("late", "Conclusion"): (("They are together", "{hero} meets {friend}"),),
    ("quarrel", "Introduction"): (("{hero} comes {at}", "{hero} looks around"),),
    ("quarrel", "Development"): (("{friend} comes along", "{friend} finds {thing}"),),
    ("quarrel", "Conflict"): (("Both want {thing}", "{hero} and {friend} quarrel"),),
    ("quarrel", "Turning Point"): (("{friend} thinks again", "{friend} gives in"),),
    ("quarrel", "Conclusion"): (("They share {thing}", "{hero} and {friend} make peace"),),
}

# What the first person of an image does or feels in a phase: `{she}` and the action are tagged. Images with even numbers
# take the first, those with odd ones the second: a phase has two images at most.
_FEELINGS: dict[tuple[str, str], tuple[tuple[str, str, str], ...]] = {
    ("lost", "Introduction"): (("", "hoped", "for a good day"), ("", "smiled", "at the day ahead")),
    ("lost", "Development"): (("Time passed, and ", "hummed", "a song"), ("For a while ", "forgot", "the world")),
    ("lost", "Conflict"): (("Something was missing, and ", "searched", "everywhere"), ("All at once ", "missed", "it")),
    ("lost", "Turning Point"): (("There it was, and ", "laughed", "out loud"), ("At last ", "found", "it again")),
    ("lost", "Conclusion"): (("Now ", "smiled", "again"), ("In the end ", "went", "home content")),
    ("late", "Introduction"): (("", "looked", "around for a friend"), ("", "hoped", "for company")),
    ("late", "Development"): (("To pass the time ", "played", "a little"), ("Minute by minute ", "waited", "on")),
    ("late", "Conflict"): (("Nobody came, and ", "felt", "alone"), ("All at once ", "doubted", "it all")),
    ("late", "Turning Point"): (("Late but glad, ", "called", "out"), ("At last ", "arrived", "out of breath")),
    ("late", "Conclusion"): (("Now ", "laughed", "with joy"), ("In the end ", "was", "not alone")),
    ("quarrel", "Introduction"): (("", "enjoyed", "the view"), ("", "dreamed", "of a treasure")),
    ("quarrel", "Development"): (("Full of joy, ", "looked", "closer"), ("For a while ", "played", "alone")),
    ("quarrel", "Conflict"): (("", "wanted", "it alone"), ("With an angry face ", "said", "no")),
    ("quarrel", "Turning Point"): (("Slowly ", "thought", "again"), ("At last ", "gave", "in")),
    ("quarrel", "Conclusion"): (("Now ", "shared", "everything"), ("In the end ", "made", "peace")),
}


def tell(tale: Tale) -> tuple[Analysis, Story]:
    """The analysis and story of a tale. The wording depends on the story's ID only, so it is the same each time."""
    luck = random.Random(f"wording/{tale.story_id}")
    sections = tuple(_section(tale, number, shot, luck) for number, shot in enumerate(tale.shots, 1))
    phases = tuple(_phase(tale, name) for name in PHASES)
    told: set[str] = set()
    passages = tuple(
        Passage(number, tuple(_passage(tale, number, shot, told, luck))) for number, shot in enumerate(tale.shots, 1)
    )
    return Analysis(sections, phases), Story(passages)


def _section(tale: Tale, number: int, shot: Shot, luck: random.Random) -> Section:
    rows = in_reading_order(shot.frame.placed)
    # Grammars require ascending IDs: char1, char2; obj1, obj2, lm1, bg1.
    by_id = sorted(rows, key=lambda row: sort_key(tale.ids[row.entity]))
    people = tuple(_character(tale, placed, shot, luck) for placed in by_id if isinstance(placed.entity, Look))
    objects = tuple(_object(tale, placed, rows) for placed in by_id if not isinstance(placed.entity, Look))
    film = tale.film
    mood, time = _MOODS[film.light.name], film.light.name
    settings = [Setting("Location", f"The {film.place.name}", mood, time, "Sets the scene")]
    if number == 1:
        settings.append(Setting("Lighting", _LIGHTINGS[film.light.name], mood, time, "Sets the mood"))
    return Section(number, people, objects, tuple(settings))


def _character(tale: Tale, placed: PlacedEntity, shot: Shot, luck: random.Random) -> Character:
    look = placed.entity
    assert isinstance(look, Look), look
    function = "Protagonist" if look == tale.film.people[0] else "Friend"
    emotion = luck.choice(_EMOTIONS[shot.phase])
    action = _POSES[placed.pose][0]
    return Character(tale.ids[look], tale.name_of(look), _capital(str(look)), emotion, action, function, placed.box)


def _object(tale: Tale, placed: PlacedEntity, rows: list[PlacedEntity]) -> Object:
    entity = placed.entity
    text = _capital(str(entity))
    if isinstance(entity, Thing):
        main = entity == tale.film.things[0]
        nearest = f"Near {_nearest(tale, placed, rows)[0]}"
        function = "Key item" if main else "Detail"
        return Object(tale.ids[entity], text, _PURPOSES[entity.shape], nearest, function, placed.box)
    purpose = "Landmark" if isinstance(entity, Landmark) else "Background"
    return Object(tale.ids[entity], text, purpose, "Far away", "Scenery", placed.box)


def _nearest(tale: Tale, placed: PlacedEntity, rows: list[PlacedEntity]) -> tuple[str, str, str]:
    """Name, ID and `her` or `him` of the person whose box is nearest in x."""
    middle = placed.box.x1 + placed.box.x2
    people = [row for row in rows if isinstance(row.entity, Look)]
    closest = min(people, key=lambda row: abs(row.box.x1 + row.box.x2 - middle))
    look = closest.entity
    assert isinstance(look, Look), look
    return tale.name_of(look), tale.ids[look], "her" if look.sex == "woman" else "him"


def _phase(tale: Tale, name: str) -> Phase:
    hero, friend = tale.film.names[0], tale.film.names[min(1, len(tale.film.names) - 1)]
    words = {"hero": hero, "friend": friend, "thing": _the(str(tale.film.things[0])), "at": tale.film.place.phrase}
    description, events = _EVENTS[tale.plot, name][0]
    images = tuple(number for number, shot in enumerate(tale.shots, 1) if shot.phase == name)
    return Phase(name, _capital(description.format(**words)), _capital(events.format(**words)), images)


def _passage(tale: Tale, number: int, shot: Shot, told: set[str], luck: random.Random) -> list[str | Mention]:
    """Two to four sentences that mention everyone and everything in the image, and no one else."""
    rows = in_reading_order(shot.frame.placed)
    people = [row for row in rows if isinstance(row.entity, Look)]
    where = tale.film.place.phrase if shot.phase in ("Introduction", "Conclusion") else ""
    parts: list[str | Mention] = []
    parts.append(f"{_capital(tale.film.light.phrase)}, " if number == 1 else f"{_OPENINGS[number - 2]} ")
    for position, row in enumerate(people):
        if position:
            parts.append(", " if position < len(people) - 1 else " and ")
        identity = tale.ids[row.entity]
        parts += [_person(tale, row, told), " ", Mention("gda", (identity,), luck.choice(_POSES[row.pose][1]))]
        told.add(identity)
    parts.append(f" {where}. " if where else ". ")
    for row in rows:
        if not isinstance(row.entity, Look):
            parts += _surrounding(tale, number, row, rows, luck)
    return [*parts, *_feeling(tale, number, shot, people)]


def _person(tale: Tale, row: PlacedEntity, told: set[str]) -> Mention:
    """`Mara, a woman in a red coat` the first time, then `Mara`."""
    look = row.entity
    assert isinstance(look, Look), look
    identity, name = tale.ids[look], tale.name_of(look)
    introduction = f"{name}, {str(look).partition(' with ')[0]},"
    return Mention("gdo", (identity,), name if identity in told else introduction)


def _surrounding(
    tale: Tale, number: int, row: PlacedEntity, rows: list[PlacedEntity], luck: random.Random
) -> list[str | Mention]:
    entity, identity = row.entity, tale.ids[row.entity]
    name = _capital(_the(str(entity)))
    if isinstance(entity, Thing):
        _, near, them = _nearest(tale, row, rows)
        verb = luck.choice(_THING_VERBS.get(entity.shape, ("lay", "stood")))
        place = (_ABOVE if entity.shape == "kite" else _NEAR)[number - 1]
        return [Mention("gdo", (identity,), name), f" {verb} {place} ", Mention("gdo", (near,), them), ". "]
    verb = _REGION_VERBS.get(entity.name, "lay") if isinstance(entity, Region) else "rose"
    return [Mention("gdl", (identity,), name), f" {verb} {_FAR[number - 1]}. "]


def _feeling(tale: Tale, number: int, shot: Shot, people: list[PlacedEntity]) -> list[str | Mention]:
    """The closing sentence: `Something was missing, and she searched everywhere.`"""
    before, action, after = _FEELINGS[tale.plot, shot.phase][number % 2]
    if len(people) > 1 and shot.phase == "Conclusion":
        who, pronoun = tuple(tale.ids[row.entity] for row in people), "they"
    else:
        look = people[0].entity
        assert isinstance(look, Look), look
        who, pronoun = (tale.ids[look],), "she" if look.sex == "woman" else "he"
    if action == "was" and pronoun == "they":
        action = "were"
    subject = Mention("gdo", who, pronoun if before else _capital(pronoun))
    return [before, subject, " ", Mention("gda", who, action), f" {after}."]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _the(text: str) -> str:
    """`a red kite` becomes `the red kite`."""
    article, _, rest = text.partition(" ")
    return f"the {rest}" if article in ("a", "an") else text
