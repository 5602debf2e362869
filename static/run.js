/*
 * Keeps the page of a running close up to date. Without it the page reloads itself.
 *
 * Numbers are written into the page as they come. When more than numbers has changed (a new
 * currency, another reason to be stuck, the end), those parts are taken from the page itself.
 */
"use strict";

const run = document.getElementById("run");
const EVERY_MS = 2000;

function grouped(amount) {
  const [whole, decimals] = String(amount).split(".");
  const withCommas = whole.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return decimals === undefined ? withCommas : `${withCommas}.${decimals}`;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showNumbers(now) {
  for (const element of run.querySelectorAll("[data-live]")) {
    const value = now[element.dataset.live];
    write(element, typeof value === "number" ? grouped(value) : value);
  }
  for (const element of run.querySelectorAll("[data-count]")) {
    const [kind, state] = element.dataset.count.split(".");
    const count = now.steps[kind]?.[state] ?? 0;
    write(element, grouped(count));
    element.classList.toggle("none", count === 0);
  }
  const byCurrency = new Map(now.answer.currencies.map((row) => [row.currency, row]));
  for (const element of run.querySelectorAll("[data-money]")) {
    const [currency, name] = element.dataset.money.split(".");
    write(element, grouped(byCurrency.get(currency)?.[name] ?? ""));
  }
  for (const element of run.querySelectorAll("[data-share]")) {
    const share = now.share_collected[element.dataset.share];
    if (element instanceof HTMLProgressElement) element.value = share ?? 0;
    else write(element, `${share ?? 0} %`);
  }
  const bar = run.querySelector("[data-bar]");
  bar.max = now.steps_all;
  bar.value = now.steps_ended;
  run.querySelector("[data-left]").hidden = !now.left_in_words;
}

function shape(now) {
  const shares = Object.values(now.share_collected).map((share) => share === null);
  const currencies = now.answer.currencies.map((row) => row.currency);
  return JSON.stringify([now.state, currencies, shares, now.stuck, now.world_changed]);
}

async function showParts() {
  const response = await fetch(location.href);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of run.querySelectorAll("[data-part]")) {
    const fresh = page.querySelector(`[data-part="${part.dataset.part}"]`);
    if (fresh && fresh.innerHTML !== part.innerHTML) part.innerHTML = fresh.innerHTML;
  }
}

let lastShape = null;

async function update() {
  const response = await fetch(run.dataset.api, { headers: { Accept: "application/json" } });
  if (response.status === 403) return location.reload(); // signed out meanwhile
  if (!response.ok) return false;
  const now = await response.json();
  const nowShape = shape(now);
  if (lastShape !== null && lastShape !== nowShape) await showParts();
  lastShape = nowShape;
  showNumbers(now);
  return now.state === "FINISHED";
}

async function keepUpToDate() {
  let finished = false;
  try {
    finished = document.hidden ? false : await update();
  } catch {
    // The network or the server is away for a moment: the next round tries again.
  }
  if (finished) await showParts();
  else setTimeout(keepUpToDate, EVERY_MS);
}

keepUpToDate();
