"""The one rule for line ends and byte order marks: a text is read as if it had been written on Linux."""

MARK = "\ufeff"
"""The byte order mark, which editors on Windows write before a text."""


def plain(text: str) -> str:
    r"""The text without a byte order mark, and with `\n` for every line end (`\r\n`, and `\r` alone).

    >>> plain("\ufeffOne.\r\nTwo.")
    'One.\nTwo.'
    """
    return text.removeprefix(MARK).replace("\r\n", "\n").replace("\r", "\n")
