"""Names of files and classes as text that can always be encoded in UTF-8.

A file name is a sequence of bytes. Python turns bytes that are not UTF-8 into lone surrogates,
which cannot be printed or written to a file. They are shown as \\xNN, as a shell quotes them.
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
    """A name on one line of a terminal: line breaks and control characters are escaped too.

    >>> one_line("a\\nb\\x1b[2J")
    'a\\\\nb\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in utf8(name))


def csv_cell(text: object) -> str:
    """A CSV cell that no spreadsheet reads as a formula: ' is put before = + - @.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("cat")
    ("'=1+1", '-0.5', 'cat')
    """
    cell = utf8(text)
    if not re.match(r"[=+\-@\t\r]", cell) or re.fullmatch(r"[+-]?\d+(\.\d+)?", cell):
        return cell
    return f"'{cell}"


def csv_path(path: object) -> str:
    """A path as such a cell; a relative path remains valid: "./" is put before it.

    >>> csv_path("=a.jpg"), csv_path("b/-c.jpg")
    ('./=a.jpg', 'b/-c.jpg')
    """
    cell = utf8(path)
    return f"./{cell}" if cell != csv_cell(cell) else cell
