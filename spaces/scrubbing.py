"""Texts without paths: a folder names its owner, a file may name a patient; the one place that does this."""

import re

_ROOT = r"(?:file:)?(?:/+|~/|[A-Za-z]:[\\/]|\\\\)(?=[^\s/])"
_PART = r"""(?:[^\s'",;()\[\]<>:]|:(?=\S))"""
_PATH = re.compile(
    rf"""(?P<quote>["'])(?P<quoted>{_ROOT}[^"']*)(?P=quote)
    |(?<![\w.~/\\<-])(?<!http:)(?<!https:)(?P<bare>{_ROOT}(?:(?:{_PART}|\ (?![-/~\\]))*[/\\])?{_PART}*)""",
    re.VERBOSE,
)
_ENDING = r"\.(?:nii\.gz|nii|dcm|mha|mhd|nrrd|np[yz]|png|jpe?g|tiff?|bmp|jp2|svs|h5|hdf5)"
_IMAGE = re.compile(
    rf"""(?P<quote>["'])[^"']*{_ENDING}(?P=quote)|[^\s'",;:()<>]+{_ENDING}(?![\w.])""", re.IGNORECASE
)


def without_paths(text: str) -> str:
    """The text with every absolute path cut to its last component; addresses on the web stay.

    For what a user wrote and wants to find again, as a command line. A path holding blanks keeps its whole
    last component only between quotes.
    """
    return _PATH.sub(_last_component, text)


def without_files(text: str) -> str:
    """The text with every absolute path, and every name of an image or array file, as `<path>`.

    For what libraries say, as error messages: there a file's name may be a patient's.
    """
    return _IMAGE.sub(_hidden, _PATH.sub(_hidden, text))


def _last_component(match: re.Match[str]) -> str:
    path, quote = match["quoted"] or match["bare"], match["quote"] or ""
    return quote + re.split(r"[/\\]+", path.rstrip("/\\"))[-1] + quote


def _hidden(match: re.Match[str]) -> str:
    return "{0}<path>{0}".format(match["quote"] or "")
