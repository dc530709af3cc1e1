"""How names of files and classes are printed and written: always as text that UTF-8 can hold.

A file name is bytes. Those that are not UTF-8 reach Python as lone surrogates, which no terminal
and no file takes: they are shown as \\xNN, the way a shell quotes them.
"""

import re


def utf8(text: object) -> str:
    """Text without surrogates: bytes that are not UTF-8 become \\xNN.

    >>> utf8("caf\\udce9.jpg")
    'caf\\\\xe9.jpg'
    """

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return re.sub("[\ud800-\udfff]", escaped, str(text))


def one_line(name: object) -> str:
    """A name in a line of a terminal: line breaks and control characters are escaped too.

    >>> one_line("a\\nb\\x1b[2J")
    'a\\\\nb\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in utf8(name))


def csv_cell(text: object) -> str:
    """A cell that a spreadsheet does not take for a formula: ' stands before = + - @.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("cat")
    ("'=1+1", '-0.5', 'cat')
    """
    cell = utf8(text)
    if not re.match(r"[=+\-@\t\r]", cell) or re.fullmatch(r"[+-]?\d+(\.\d+)?", cell):
        return cell
    return f"'{cell}"


def csv_path(path: object) -> str:
    """A path likewise; a relative one stays the path of that file.

    >>> csv_path("=a.jpg"), csv_path("b/-c.jpg")
    ('./=a.jpg', 'b/-c.jpg')
    """
    cell = utf8(path)
    return f"./{cell}" if cell != csv_cell(cell) else cell
