"""One HTML page that shows stories: frames with boxes, tables, tagged text, and what breaks a rule."""

from storyreason.page.html import card, index, render
from storyreason.page.view import so_far, view

__all__ = ["card", "index", "render", "so_far", "view"]
