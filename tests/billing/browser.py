"""Pages as a browser lays them out: rendered by Django, opened in frames of a phone's width by Chromium, and measured."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
PHONE = 390
# What lies beyond an edge of the screen, or is cut off by a box that scrolls; and how far the page itself goes.
MEASURE = """
const off = (frame) => {
  const doc = frame.contentDocument, width = frame.clientWidth, found = [];
  // Of a page of the admin, what is ours; the forms below it are Django's.
  const ours = doc.querySelector(".glance");
  if (!ours && doc.documentElement.scrollWidth > width) found.push(`the page is ${doc.documentElement.scrollWidth} px wide`);
  const walker = doc.createTreeWalker(ours ?? doc.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const words = node.data.trim();
    if (!/\\d/.test(words) || node.parentElement.closest("option, script, style, .hidden, .skip, thead")) continue;
    const range = doc.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      const out = box.left < 0 || box.right > width + 0.5;
      const clip = node.parentElement.closest(".scroll")?.getBoundingClientRect();
      if (out || (clip && box.right > clip.right + 0.5)) { found.push(words); break; }
    }
  }
  return found;
};
addEventListener("load", () => {
  const told = {};
  for (const frame of document.querySelectorAll("iframe")) told[frame.title] = off(frame);
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = "MEASURED" + JSON.stringify(told) + "MEASURED";
});
"""


def off_screen(
    pages: Mapping[str, str], folder: Path, *, width: int = PHONE
) -> dict[str, list[str]]:
    """By page: the texts with a figure in them that lie off the screen at this width."""
    frames = "".join(
        f'<iframe title="{html.escape(name)}" style="width:{width}px;height:800px;border:0"'
        f' srcdoc="{html.escape(_whole(page))}"></iframe>'
        for name, page in pages.items()
    )
    document = folder / "phones.html"
    document.write_text(f"<!doctype html><meta charset=utf-8>{frames}<script>{MEASURE}</script>")
    assert CHROMIUM is not None, "the test is skipped without it"
    said = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", document.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(html.unescape(said.stdout.split("MEASURED")[1]))
    assert told.keys() == pages.keys()
    return {name: found for name, found in told.items() if found}


def _whole(page: str) -> str:
    """A page that needs nothing from a server: its style sheets in it, and no scripts."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    return re.sub(r'<link rel="stylesheet"[^>]*href="/static/([^"]+)"[^>]*>', _style, page)


def _style(link: re.Match[str]) -> str:
    found = finders.find(link[1])
    assert isinstance(found, str), f"there is no {link[1]}"
    return f"<style>{Path(found).read_text()}</style>"
