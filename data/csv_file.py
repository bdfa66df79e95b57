"""Tasks from a CSV file that lists images by path, with the label and optionally the split of each."""

import csv
import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from ntk_select.data.columns import IMAGE, LABEL, SPLIT, by_class, classes_of, column, example, listed, options_of, roles
from ntk_select.data.image_files import HEAD, is_image, reject_placeholder
from ntk_select.data.image_folder import FileSource
from ntk_select.data.layout import TEST, TRAIN, layout_of, refuse_foreign
from ntk_select.errors import DataError, few
from ntk_select.tasks.task import Task

OPTIONS = ("image", "label", "split")
DELIMITERS = ",;\t"
MAX_BYTES, MAX_COLUMNS, MAX_CHARACTERS = 2**30, 10_000, 4096
"""Largest size of a file, number of columns, and length of a name, path, label or split. The longest path of Linux has 4,096 bytes."""
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""OS errors of paths that lead to no folder, so that there is no image either."""
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
DRIVE = re.compile(r"[a-zA-Z]:[/\\]|\\\\")
"""Beginnings of absolute paths of Windows."""


class Row(NamedTuple):
    """One image of the table."""

    line: int
    path: str
    label: str
    split: str


def load_csv(argument: str) -> Task:
    """The task in a CSV file with a header and one image per row: columns path, label and optionally split.

    Columns are found by usual names (`columns.IMAGE`, `LABEL`, `SPLIT`) in any case, or named by the URI:
    `csv:photos.csv?image=photo&label=species&split=part`. Values are separated by comma, semicolon or tab; the text is UTF-8.
    Splits are train, test or validation, by the names that folders may have; without such a column all images are for training.
    Images are decoded on access.

    Args:
      argument: FILE[@ROOT][?OPTION=COLUMN&...]. All images must be in ROOT, by default the folder of FILE. Paths are relative to ROOT; if any
        contains "..", to the folder of FILE. Names without a suffix are completed if one image has this name.

    Raises:
      DataError: the file cannot be read or is not such a table; an image does not exist, is outside ROOT, or is in several rows that differ.
      TaskError: the argument is malformed, or there are fewer than two classes.
    """
    rest, options = options_of("csv", argument, OPTIONS)
    where, root = _file_and_root(rest)
    rows = read_rows(where, rest, options)
    base, rows = _inside(where, root, rows)
    rows, warnings = _distinct(where, rows)
    names, key = classes_of(where, [row.label for row in rows], example("csv", rest, ["label"]))
    splits, more = _splits(where, [row._replace(label=name) for row, name in zip(rows, names, strict=True)])
    train, test = (None if split is None else by_class([row.label for row in split], [row.path for row in split]) for split in splits)
    return layout_of(train, test, warnings + more, key).task(Path(where).stem, FileSource(base))


def _file_and_root(rest: str) -> tuple[str, str | None]:
    where, root = os.path.expanduser(rest), None
    if not os.path.isfile(where) and "@" in rest:
        where, _, root = map(os.path.expanduser, rest.rpartition("@"))
    if not os.path.isfile(where):
        raise DataError(f"There is no file {rest!r}. Try: csv:FILE, for example csv:photos.csv, with the columns path and label")
    if root is not None and not os.path.isdir(root):
        raise DataError(f"There is no folder {root!r}. Try: csv:FILE@ROOT, where ROOT is the folder that has the images of FILE")
    return where, root


def read_rows(where: str, rest: str, options: dict[str, str]) -> list[Row]:
    """The rows of the table, all with a path and a label, and with a split if there is such a column. No image is looked up.

    Args:
      where: path of the file.
      rest: the argument of the URI without options, for error messages.
      options: names of columns by `OPTIONS`.

    Raises:
      DataError: the file cannot be read, is not such a table, or a value is missing.
    """
    hint = partial(_hint, rest)
    table = _table(where, _text(where))
    _, header = next(table, (0, []))
    if not header:
        raise DataError(f"{where}: is empty. Try: a header and one row for each image, as in: path,label")
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{where}: has {len(header):,} columns; allowed are {MAX_COLUMNS:,}. Try: only the columns path, label and split")
    _check_lengths(where, 1, header)
    image, label, split = (
        column(where, what, header, options.get(what), names, hint) for what, names in zip(OPTIONS, (IMAGE, LABEL, SPLIT), strict=True)
    )
    if image is None or label is None:
        if any(map(is_image, header)):
            raise DataError(f"{where}: the first line names no columns, but an image. Try: put a line above it, as in: path,label")
        what = "image" if image is None else "label"
        raise DataError(f"{where}: no column has a usual name of the {what}. Columns: {listed(header)}. Try: {hint(what)}")
    found, incomplete = [], defaultdict(list)
    for line, cells in table:
        row = Row(line, cells[image], cells[label], "" if split is None else cells[split])
        _check_lengths(where, line, row[1:])
        for what, text in (("path", row.path), ("label", row.label), ("split", row.split if split is not None else "-")):
            if not text:
                incomplete[what].append(line)
        found.append(row)
    if incomplete:
        shown = "; ".join(f"no {what} in {_lines(lines)}" for what, lines in incomplete.items())
        raise DataError(f"{where}: {shown}. Try: delete these rows, or complete them")
    if not found:
        raise DataError(f"{where}: there are no rows below the header. Try: one row for each image, as in: cats/1.jpg,cat")
    return found


def _hint(rest: str, what: str) -> str:
    return example("csv", rest, [what])


def _check_lengths(where: str, line: int, values: Iterable[str]) -> None:
    longest = max(values, key=len)
    if len(longest) > MAX_CHARACTERS:
        raise DataError(
            f"{where}, line {line:,}: the value {longest[:40]!r}... has {len(longest):,} characters; allowed are {MAX_CHARACTERS:,}. "
            "Try: close quotes in this line, or shorten the value"
        )


def _text(where: str) -> str:
    try:
        with open(where, "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise DataError(f"{where}: has {size:,} bytes; allowed are {MAX_BYTES:,}. Try: a file with the columns path, label and split alone")
            content = file.read()
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror}).") from error
    reject_placeholder(where, content[:HEAD])
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{where}: the text is UTF-16; allowed is UTF-8. Try: iconv -f UTF-16 -t UTF-8 FILE > NEW")
    if content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")) or b"\0" in content:
        raise DataError(f"{where}: is not text, but perhaps a spreadsheet or an archive. Try: save the table as CSV in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}: byte {content[error.start]:#04x} in line {line:,} is not UTF-8, so the text is probably Windows-1252. "
            "Try: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
        ) from error


def _table(where: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each row that is not empty, the header first. The values have no white space around them."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        return
    plain = re.sub(r'"[^"]*"', "", first)
    delimiter = max(DELIMITERS, key=plain.count)
    if delimiter not in plain:
        raise DataError(f"{where}: the first line has one column, {first[:80]!r}; allowed separators are comma, semicolon and tab. Try: path,label")
    reader, width = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True), 0
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            width = width or len(cells)
            if len(cells) < width or any(cells[width:]):
                raise DataError(
                    f"{where}, line {reader.line_num:,}: has {len(cells)} values, the header {width}. Try: quote values that contain {delimiter!r}"
                )
            yield reader.line_num, cells[:width]
    except csv.Error as error:
        raise DataError(f'{where}, line {reader.line_num:,}: cannot be read as CSV ({error}). Try: close the quotes, as in "a, b"') from error


def _inside(where: str, root: str | None, rows: list[Row]) -> tuple[str, list[Row]]:
    """The folder to which paths are relative, and the rows with the paths of files that exist in ROOT, relative to it or absolute."""
    urls = [row for row in rows if URL.match(row.path)]
    if urls:
        raise DataError(f"{where}: {_shown(urls)}: images must be files. Try: download them, and write their paths")
    paths = [row.path for row in rows]
    if any("\\" in path and not DRIVE.match(path) for path in paths):  # written on Windows
        paths = [path.replace("\\", "/") for path in paths]
    folder = os.path.dirname(os.path.abspath(where))
    root = folder if root is None else os.path.abspath(root)
    base = folder if any(".." in path.split("/") for path in paths) else root
    fences = {os.path.join(place, "") for place in (root, os.path.realpath(root))}
    full = [os.path.normpath(os.path.join(base, path)) for path in paths]
    outside = [
        row for row, path, file in zip(rows, paths, full, strict=True) if DRIVE.match(path) or not any(file.startswith(fence) for fence in fences)
    ]
    if outside:
        raise DataError(
            f"{where}: {len(outside):,} of {len(rows):,} images are outside the folder {root}: {_shown(outside)}. "
            "Try: csv:FILE@ROOT, where ROOT is the folder that has all images"
        )
    found, start = _existing(full), os.path.join(base, "")
    missing = [row for row, file in zip(rows, full, strict=True) if file not in found]
    if missing:
        raise DataError(
            f"{where}: {len(missing):,} of {len(rows):,} images do not exist in {base}: {_shown(missing)}. "
            "Try: csv:FILE@ROOT, where ROOT is the folder to which paths are relative"
        )
    files = [found[file] for file in full]
    refuse_foreign(where, files)
    return base, [row._replace(path=file.removeprefix(start)) for row, file in zip(rows, files, strict=True)]


def _existing(paths: list[str]) -> dict[str, str]:
    """Those paths that exist, with the path of the file of each: a name without a suffix is completed if one image has it.

    Lists every folder once, since a request per file is slow on network storage.
    """
    folders, found = defaultdict(set), {}
    for path in paths:
        folders[os.path.dirname(path)].add(path)
    for folder, wanted in folders.items():
        files, stems, bare = set(), defaultdict(list), not all(map(is_image, wanted))
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file():
                        files.add(entry.name)
                        if bare and is_image(entry.name):
                            stems[os.path.splitext(entry.name)[0]].append(entry.name)
        except OSError as error:
            if error.errno in NO_FOLDER:
                continue
            raise DataError(f"{folder}: the folder cannot be read ({error.strerror}). Try: give yourself the right to list it") from error
        for path in wanted:
            name = os.path.basename(path)
            if name in files or os.path.isfile(path):  # the latter where case does not matter
                found[path] = path
            elif len(stems[name]) == 1:
                found[path] = os.path.join(folder, stems[name][0])
    return found


def _distinct(where: str, rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The rows without repetitions, and a warning on those that are left out."""
    first: dict[str, Row] = {}
    repeated = []
    for row in rows:
        before = first.setdefault(row.path, row)
        if before is row:
            continue
        if (before.label, before.split) != (row.label, row.split):
            what = "label" if before.label != row.label else "split"
            values = (before.label, row.label) if what == "label" else (before.split, row.split)
            raise DataError(
                f"{where}: {row.path!r} is in line {before.line:,} with the {what} {values[0]!r} and in line {row.line:,} with {values[1]!r}. "
                f"A task has one class and one split per image. Try: delete one of the rows"
            )
        repeated.append(row)
    warning = f"Left out, because they repeat an earlier row: {_lines([row.line for row in repeated])}."
    return list(first.values()), [warning] if repeated else []


def _splits(where: str, rows: list[Row]) -> tuple[tuple[list[Row], list[Row] | None], list[str]]:
    """Training rows, and test rows or None, and warnings."""
    values = list(dict.fromkeys(row.split for row in rows))
    if values == [""]:
        return (rows, None), []
    unknown = [value for value in values if value.lower() not in (*TRAIN, *TEST)]
    if unknown:
        raise DataError(
            f"{where}: the split {unknown[0]!r} in {_lines([row.line for row in rows if row.split == unknown[0]])} is unknown. "
            f"Allowed: {', '.join((*TRAIN, *TEST))}. Try: train or test"
        )
    train, test = roles(where, sorted({value.lower() for value in values}))
    if not train:
        raise DataError(f"{where}: no row has the split train; found: {listed(values)}. Try: train for the training images")
    other = [row for row in rows if row.split.lower() not in (*train, test)]
    found = [row for row in rows if row.split.lower() in train], None if test is None else [row for row in rows if row.split.lower() == test]
    return found, [
        f"Ignored, because there is a split {test!r}: {len(other):,} image{'s' * (len(other) > 1)} of {listed(dict.fromkeys(row.split for row in other))}."
    ] if other else []


def _shown(rows: list[Row]) -> str:
    return few([f"{row.path!r} (line {row.line:,})" for row in rows], 3)


def _lines(lines: list[int]) -> str:
    return f"line {lines[0]:,}" if len(lines) == 1 else f"lines {few([f'{line:,}' for line in lines], 3)}"
