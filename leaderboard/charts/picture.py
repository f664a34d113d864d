"""One picture for light and dark pages, small, and with nothing in it that could run.

Vega draws the same chart once in the colours of a light page and once in those of a dark one. Both are read, and
written as one SVG: the light one, with a style sheet that says what each colour is on a dark screen; paper is light. Of
what Vega writes, most says nothing to whoever looks at a picture, and is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from xml.etree import ElementTree

from fedbench.errors import FedBenchError

Element = ElementTree.Element

_DRAWN = frozenset(("svg", "g", "path", "line", "rect", "text", "tspan", "defs", "clipPath", "linearGradient", "stop"))
_COLOURS = ("fill", "stroke", "stop-color")
_GEOMETRY = frozenset(("d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height"))
_SILENT = frozenset(("class", "role", "pointer-events", "version"))
_DEFAULTS = {
    "opacity": "1", "fill-opacity": "1", "stroke-opacity": "1", "stroke-width": "1", "font-weight": "normal",
    "transform": "translate(0,0)",
}  # fmt: skip
# What a group may say for all that stand in it. Opacity is not among them: a group's is that of the whole.
_INHERITED = (
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "fill-opacity",
    "stroke-opacity", "font-family", "font-size", "font-style", "font-weight", "text-anchor",
)  # fmt: skip
_CLEAR = frozenset(("opacity", "fill-opacity", "stroke-opacity"))

_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_ONE = r"(-?[\d.]+)"
_PLACE = re.compile(rf"translate\({_ONE},{_ONE}\)")
_CIRCLE = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0")
_BOX = re.compile(rf"M{_ONE},{_ONE}h{_ONE}v{_ONE}h{_ONE}Z")
_RGB = re.compile(r"rgb\((\d+), (\d+), (\d+)\)")


def picture(light: str, dark: str, label: str, name: str) -> str:
    """Return one SVG that follows the colours of the page it stands in.

    Parameters
    ----------
    light, dark : str
        The same chart as Vega draws it for either page.
    label : str
        The description.
    name : str
        Begins every identifier in the picture, so that several may stand in one page.

    Raises
    ------
    FedBenchError
        The two differ in more than colours, or hold what is no part of a drawing.
    """
    root, night = (ElementTree.fromstring(drawn) for drawn in (light, dark))  # noqa: S314  Vega wrote it, just now
    for element in (*root.iter(), *night.iter()):
        element.tag = str(element.tag).rpartition("}")[2]
        if element.tag not in _DRAWN:
            raise FedBenchError(f"<{element.tag}> stands in the picture {name}, and is no part of a drawing.")
    colours = _at_night(root, night, name)
    _leave_out(root)
    for element in root.iter():
        _shorten(element)
    _one_font(root)
    _gather(root)
    _flatten(root)
    for n, element in enumerate(element for element in root.iter() if "id" in element.attrib):
        _rename(root, element.attrib["id"], f"{name}-{n}")
    style = Element("style")
    style.text = f"@media (prefers-color-scheme:dark){{{_sheet(root, colours)}}}"
    root.insert(0, style)
    root.attrib = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-label": label, **root.attrib}
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>") + "\n"


def _at_night(root: Element, night: Element, name: str) -> dict[str, str]:
    """Return what each colour of one picture is in the other."""
    pairs = list(zip(root.iter(), night.iter(), strict=False))
    same = len(pairs) == len(list(root.iter())) == len(list(night.iter()))
    if not same or any((one.tag, one.text) != (other.tag, other.text) for one, other in pairs):
        raise FedBenchError(f"the light and the dark picture {name} differ in more than colours.")
    colours: dict[str, str] = {}
    for one, other in pairs:
        for attribute in _COLOURS:
            if attribute in one.attrib and not one.attrib[attribute].startswith("url("):
                one.attrib[attribute] = day = _colour(one.attrib[attribute])
                # Two shades between others may be one by day and two by night: then the first has to do for both.
                colours.setdefault(day, _colour(other.attrib[attribute]))
    return colours


def _sheet(root: Element, colours: Mapping[str, str]) -> str:
    """Return the rules that turn the colours of a picture into those of the night."""
    found = {(name, element.get(name, "")) for element in root.iter() for name in _COLOURS}
    changed = sorted((name, day) for name, day in found if colours.get(day, day) != day)
    return "".join(f'[{name}="{day}"]{{{name}:{colours[day]}}}' for name, day in changed)


def _colour(value: str) -> str:
    parts = _RGB.fullmatch(value)
    return "#" + "".join(f"{int(part):02x}" for part in parts.groups()) if parts else value


def _leave_out(parent: Element) -> None:
    """Take out what is not seen."""
    for element in list(parent):
        _leave_out(element)
        colourless = not {"fill", "stroke"} & set(element.attrib)
        if element.get("display") == "none" or (element.get("class") == "background" and colourless):
            parent.remove(element)


def _shorten(element: Element) -> None:
    """Leave out attributes that say nothing and digits that nobody sees, and use the shortest element there is."""
    kept = {
        name: _NUMBER.sub(_tenth, value) if name in _GEOMETRY else value
        for name, value in element.attrib.items()
        if name not in _SILENT and not name.startswith("aria-") and _DEFAULTS.get(name) != value
    }
    place = _PLACE.fullmatch(kept.get("transform", "translate(0,0)"))
    round_ = _CIRCLE.fullmatch(kept.get("d", ""))
    if place and element.tag == "line":
        x, y = float(place[1]), float(place[2])
        element.tag, kept["d"] = "path", f"M{_plain(x)},{_plain(y)}l{kept.pop('x2', '0')},{kept.pop('y2', '0')}"
        kept.pop("transform", None)
    elif place and round_:
        element.tag = "circle"
        del kept["d"]
        kept |= {"cx": place[1], "cy": place[2], "r": round_[1]}
        kept.pop("transform", None)
    elif place and element.tag == "text" and not len(element) and kept.pop("transform", None):
        kept |= {"x": place[1], "y": place[2]}
    elif "stroke" not in kept and not _CLEAR & set(kept) and (box := _BOX.fullmatch(kept.get("d", ""))):
        # A box is a thick line. Its end is where the next box begins, to the same digit.
        x, y, width, height, _ = map(float, box.groups())
        kept |= {"stroke": kept.pop("fill", "none"), "stroke-width": _plain(height)}
        kept["d"] = f"M{_plain(x)},{_plain(y + height / 2)}H{_plain(x + width)}"
    if element.tag in ("path", "circle", "text"):
        if "stroke" not in kept:
            kept.pop("stroke-width", None)
        inks = {"fill", "stroke"} & set(kept)
        if len(inks) == 1 and "opacity" in kept:  # said of its one ink, it may be said for all in a group
            kept[f"{inks.pop()}-opacity"] = kept.pop("opacity")
    element.attrib = kept


def _tenth(number: re.Match[str]) -> str:
    return _plain(float(number[0]))


def _plain(value: float) -> str:
    shown = f"{value:.1f}".removesuffix(".0")
    return "0" if shown == "-0" else shown


def _one_font(root: Element) -> None:
    """Name the font that most texts have once, for the whole picture."""
    texts = [element for element in root.iter() if element.tag in ("text", "tspan")]
    for name in ("font-family", "font-size"):
        often = Counter(value for element in texts if (value := element.get(name))).most_common(1)
        for value, _ in often:
            root.set(name, value)
            for element in texts:
                if element.get(name) == value:
                    del element.attrib[name]


def _gather(group: Element) -> None:
    """Say once for a group what holds for all in it, and draw in one go what looks the same."""
    for element in group:
        _gather(element)
    if group.tag != "g" or not len(group):
        return
    for name in _INHERITED:
        values = {element.get(name) for element in group}
        if len(values) == 1 and None not in values and name not in group.attrib:
            group.set(name, values.pop() or "")
            for element in group:
                del element.attrib[name]
    looks: dict[tuple[tuple[str, str], ...], Element] = {}
    if all(map(_of_lines, group)) and not {"fill", *_CLEAR} & set(group.attrib):
        for element in list(group):
            look = tuple(sorted((name, value) for name, value in element.attrib.items() if name != "d"))
            if look in looks:
                looks[look].attrib["d"] += element.attrib["d"]
                group.remove(element)
            else:
                looks[look] = element


def _of_lines(element: Element) -> bool:
    """Return whether an element is straight lines and no surface, so that others may be drawn with it."""
    simple = element.tag == "path" and not {"fill", *_CLEAR} & set(element.attrib)
    return simple and not set(element.attrib["d"]) & set("ACZ")


def _flatten(parent: Element) -> None:
    """Put what stands in a group that says nothing where the group stood."""
    for element in list(parent):
        _flatten(element)
    parts: list[Element] = []
    for element in parent:
        if element.tag == "g" and (not element.attrib or not len(element)):
            parts += element
        else:
            parts.append(element)
    parent[:] = parts


def _rename(root: Element, old: str, new: str) -> None:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id" and value == old:
                element.set(name, new)
            elif value == f"url(#{old})":
                element.set(name, f"url(#{new})")
