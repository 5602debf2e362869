/*
 * Keeps the page of a running close up to date. Without it the page reloads itself.
 *
 * Fetches the page again, and takes over what has changed: words, numbers and attributes in place, so that
 * nothing jumps and what has the focus keeps it; a part is exchanged only when its shape has changed.
 */
"use strict";

const EVERY_MS = 3000;
// A screen reader that is told every number hears nothing else.
const SAY_EVERY_MS = 30000;

function take(mine, fresh) {
  if (mine.isEqualNode(fresh)) return;
  if (mine.nodeName !== fresh.nodeName || mine.childNodes.length !== fresh.childNodes.length) {
    mine.replaceWith(fresh.cloneNode(true));
    return;
  }
  if (mine.nodeType === Node.TEXT_NODE) {
    mine.data = fresh.data;
    return;
  }
  for (const name of mine.getAttributeNames()) {
    if (!fresh.hasAttribute(name)) mine.removeAttribute(name);
  }
  for (const name of fresh.getAttributeNames()) {
    const value = fresh.getAttribute(name);
    if (mine.getAttribute(name) !== value) mine.setAttribute(name, value);
  }
  const pairs = [...mine.childNodes].map((child, place) => [child, fresh.childNodes[place]]);
  for (const [child, freshChild] of pairs) take(child, freshChild);
}

let saidAt = Date.now();

function say(run, atOnce) {
  if (!atOnce && Date.now() - saidAt < SAY_EVERY_MS) return;
  saidAt = Date.now();
  document.getElementById("said").textContent = run.dataset.said;
}

async function update() {
  const response = await fetch(location.href);
  if (response.redirected) return location.reload(); // signed out meanwhile
  if (!response.ok) return false;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.getElementById("run");
  if (fresh === null) return false;
  const run = document.getElementById("run");
  const chosen = document.getSelection();
  // Who is copying something is left in peace.
  if (chosen && !chosen.isCollapsed && run.contains(chosen.anchorNode)) return false;
  const focused = document.activeElement?.getAttribute("href");
  take(run, fresh);
  if (focused && document.activeElement === document.body) {
    document.querySelector(`#run a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
  const now = document.getElementById("run");
  const finished = "finished" in now.dataset;
  say(now, finished);
  return finished;
}

async function keepUpToDate() {
  let finished = false;
  try {
    finished = document.hidden ? false : await update();
  } catch {
    // The network or the server is away for a moment: the next round tries again.
  }
  if (!finished) setTimeout(keepUpToDate, EVERY_MS);
}

setTimeout(keepUpToDate, EVERY_MS);
