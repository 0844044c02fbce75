"""matplotlib's SVG made fit for a page with others."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from nastool.analysis.figures import style

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NAMES = {
    style.TEXT: "--text",
    style.MUTED: "--muted",
    style.GRID: "--grid",
    style.BACK: "--back",
    **{color.lower(): f"--c{i}" for i, color in enumerate(style.COLORS)},
}
_COLOR = re.compile("|".join(_NAMES), re.IGNORECASE)
_FONT = re.compile(r"'DejaVu Sans'(, [^;]+)?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def adapt(text: str, prefix: str, title: str, page: str = "") -> str:
    """An <svg> element: colours as CSS variables (--text, --muted, --grid, --back, --c0 to --c6), ids with the prefix.

    Its size is its container's. title: for those who cannot see it. page: prefix of the ids of trials, to which marks
    with a URL like #trial-7 lead.
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):  # its style would be the whole page's
                parent.remove(child)
    wanted = _references(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        found = ((name.replace(_XLINK, ""), value) for name, value in element.attrib.items())
        attributes = {name: value for name, value in found if name != "target"}  # links stay in the page
        identifier = attributes.pop("id", None)
        if identifier in wanted:
            attributes["id"] = prefix + identifier
        for name, value in attributes.items():
            if name == "href" and value.startswith("#trial-"):
                attributes[name] = f"#{page}{value[1:]}"
                ElementTree.SubElement(element, "title").text = value[1:].replace("-", " ")
            elif name == "href" and value.startswith("#"):
                attributes[name] = f"#{prefix}{value[1:]}"
            elif name == "style":
                attributes[name] = _FONT.sub(
                    "var(--font)",
                    _COLOR.sub(_variable, _REFERENCE.sub(lambda found: f"url(#{prefix}{found[1]})", value)),
                )
            elif "url(#" in value:
                attributes[name] = _REFERENCE.sub(lambda found: f"url(#{prefix}{found[1]})", value)
        element.attrib.clear()
        element.attrib.update(attributes)
    box = root.get("viewBox") or "0 0 100 100"
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "class": "figure", "role": "img", "aria-label": style.clean(title, 200)})
    return ElementTree.tostring(root, encoding="unicode")


def _variable(found: re.Match[str]) -> str:
    return f"var({_NAMES[found[0].lower()]})"


def _references(root: ElementTree.Element) -> set[str]:
    """The ids that something in the picture refers to."""
    found = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href") and value.startswith("#"):
                found.add(value[1:])
            found.update(_REFERENCE.findall(value))
    return found
