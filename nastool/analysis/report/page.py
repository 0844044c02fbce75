"""The page around the sections: one HTML document without references to anything outside of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from nastool import __version__
from nastool.analysis.report import data, sections
from nastool.analysis.report.checklist import items
from nastool.analysis.report.markup import Html, printable, tag
from nastool.analysis.report.sections import Section
from nastool.engine.study import Study


@cache
def _asset(name: str) -> str:
    return files("nastool.analysis.report").joinpath(name).read_text(encoding="utf-8")


def policy(live: bool = False) -> str:
    """The content security policy: nothing is loaded, and no script but the page's own is run.

    live: it may ask its own server for news.
    """
    digest = base64.b64encode(hashlib.sha256(_asset("page.js").encode()).digest()).decode()
    connect = "; connect-src 'self'" if live else ""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:{connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def render(studies: Sequence[Study], version: str | None = None) -> str:
    """The document. version: of the runs, for a page that is to ask for newer ones."""
    names = ", ".join(study.name for study in studies[:3]) + (", …" if len(studies) > 3 else "")
    several = len(studies) > 1
    runs = [_run(study, f"run{number}" if several else "") for number, study in enumerate(studies, 1)]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(version is not None)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"nastool {__version__}"),
        tag("title", f"{names} - nastool report"),
        Html(f"<style>{_asset('page.css')}</style>"),
    ]
    main = [sections.overview(studies) if several else None, _tabs(studies) if several else None, *runs]
    body = [
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag(
            "header",
            tag("h1", "Neural architecture search"),
            tag("p", "refreshed while the search runs", class_="live", role="status") if version is not None else None,
            class_="top",
        ),
        tag("main", *main, sections.checklist(items(studies)), id="content"),
        tag("footer", tag("p", f"Written by nastool {__version__}. This file needs no network.")),
        Html(f"<script>{_asset('page.js')}</script>"),
    ]
    document = tag("html", tag("head", *head), tag("body", *body, data_version=version), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _tabs(studies: Sequence[Study]) -> Html:
    links = [tag("a", study.name, href=f"#run{number}") for number, study in enumerate(studies, 1)]
    return tag("nav", *links, aria_label="Runs", class_="tabs")


def _run(study: Study, identifier: str) -> Html:
    prefix = f"{identifier}-" if identifier else ""
    best = data.best_drawn(study)
    found = [
        sections.progress(study, prefix),
        sections.best_architectures(study, best, prefix),
        sections.scratch(study, prefix),
        sections.operations(study, prefix),
        sections.beliefs(study, prefix),
        sections.lineage(study, prefix),
        sections.failures(study, prefix),
        sections.trials(study, best, prefix),
        sections.setup(study, prefix),
    ]
    parts = [part for part in found if part is not None]
    return tag(
        "div",
        sections.header(study),
        _contents(parts, study.strategy != data.LISTED),
        *(part.html for part in parts),
        id=identifier or "run",
        class_="run",
        aria_label=printable(study.name),
        role="group",
    )


def _contents(parts: Sequence[Section], checked: bool) -> Html:
    """Links to the sections."""
    links = [tag("a", part.title, href=f"#{part.identifier}") for part in parts]
    if checked:
        links.append(tag("a", "Best practices", href="#checklist"))
    return tag("nav", *links, aria_label="Sections", class_="contents")
