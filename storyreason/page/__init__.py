"""HTML pages that show stories: frames with boxes, tables, tagged text and broken rules."""

from storyreason.page.html import card, index, render
from storyreason.page.view import so_far, view

__all__ = ["card", "index", "render", "so_far", "view"]
