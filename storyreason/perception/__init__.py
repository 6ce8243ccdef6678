"""A data set from films: so far, which detections show the same person or thing."""

from storyreason.perception.corrections import Correction, Linked, linked
from storyreason.perception.corrections import load as load_corrections
from storyreason.perception.detections import Detections, write
from storyreason.perception.film import Film
from storyreason.perception.identity import Entities, identify

__all__ = [
    "Correction",
    "Detections",
    "Entities",
    "Film",
    "Linked",
    "identify",
    "linked",
    "load_corrections",
    "write",
]
