"""From recognized frames of films to a data set: stories are windows of a film, written by a model, checked, and kept."""

from storyreason.authoring.windows import Shot, Sighting, Window, Windows, recognized, windows

__all__ = ["Shot", "Sighting", "Window", "Windows", "recognized", "windows"]
