// What a browser adds to pages that work without it: a running sum, the keyboard, the time left, and news as it comes.
"use strict";
const page = document.body.dataset;
const asks = () => [...document.querySelectorAll("article.ask[data-id]")];
const box = (ask) => ask.querySelector("input[name=id]");

// The time left

function span(seconds) {
  if (seconds <= 0) return "expired";
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = units.findIndex(([length]) => seconds >= length || length === 1);
  const [length, name] = units[first];
  const text = `${Math.floor(seconds / length)} ${name}`;
  const next = units[first + 1];
  const rest = next && name !== "min" ? Math.floor((seconds % length) / next[0]) : 0;
  return `${text}${rest ? ` ${rest} ${next[1]}` : ""} left`;
}

function tick() {
  for (const each of document.querySelectorAll("time[data-until]")) {
    const left = Number(each.dataset.until) - Date.now() / 1000;
    each.textContent = span(left);
    each.classList.toggle("soon", left < 600);
  }
}
tick();
setInterval(tick, 1000);

// Several at once

const output = document.getElementById("sum");
const all = document.getElementById("all");

function amount(minor, places) {
  const digits = String(minor).padStart(places + 1, "0");
  const whole = digits.slice(0, digits.length - places).replace(/\B(?=(\d{3})+$)/g, ",");
  return places ? `${whole}.${digits.slice(-places)}` : whole;
}

function sum() {
  if (!output) return;
  const sums = new Map();
  let number = 0;
  for (const ask of asks()) {
    const isPicked = box(ask)?.checked;
    ask.classList.toggle("picked", Boolean(isPicked));
    if (!isPicked) continue;
    number += 1;
    const minor = BigInt(ask.dataset.amount);
    if (!minor) continue;
    const name = `${minor < 0n ? "credit" : "debit"} ${ask.dataset.currency} ${ask.dataset.places}`;
    sums.set(name, (sums.get(name) ?? 0n) + (minor < 0n ? -minor : minor));
  }
  const said = [...sums].map(([name, minor]) => {
    const [verb, currency, places] = name.split(" ");
    return `${verb} ${amount(minor, Number(places))} ${currency}`;
  });
  output.textContent = number ? `${number} selected${said.length ? `: ${said.join(", ")}` : ""}` : "Select several to decide on them at once.";
  output.classList.toggle("some", number > 0);
  all.checked = number > 0 && number === asks().length;
  all.indeterminate = number > 0 && !all.checked;
}

if (all) {
  all.closest("label").hidden = false;
  all.addEventListener("change", () => {
    for (const ask of asks()) box(ask).checked = all.checked;
    sum();
  });
  document.addEventListener("change", sum);
  sum();
}

// The keyboard

function move(step) {
  const list = asks();
  const at = list.indexOf(document.activeElement?.closest?.("article.ask"));
  const next = list[at < 0 ? (step > 0 ? 0 : list.length - 1) : at + step];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  a: (ask) => ask?.querySelector("button.yes")?.focus(),
  d: (ask) => ask?.querySelector("input[name=reason]")?.focus(),
  x: (ask) => ask && box(ask)?.click(),
  Enter: (ask) => ask?.querySelector("h2 a")?.click(),
  "?": () => document.getElementById("keys")?.showModal(),
};

if (page.page === "inbox") {
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    if (target.matches("input:not([type=checkbox]), select, textarea") || target.closest("dialog")) return;
    if (event.key === "Enter" && !target.matches("article")) return;
    event.preventDefault();
    KEYS[event.key](target.closest("article.ask"));
  });
}

// News

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "manual" });
  if (!answer.ok) return; // signed out, say: the next click shows it
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const list = document.querySelector("[data-part=list]");
  const coming = [...fresh.querySelectorAll("article.ask[data-id]")];
  const ids = new Set(coming.map((each) => each.dataset.id));
  let gone = 0, come = 0;
  for (const ask of asks()) {
    if (ids.has(ask.dataset.id)) continue;
    gone += 1;
    if (ask.contains(document.activeElement) || ask.querySelector("input[name=reason]")?.value) {
      // Somebody is at it: it stays to be read, and cannot be decided on any more.
      ask.classList.add("gone");
      ask.querySelectorAll("button, input").forEach((each) => { each.disabled = true; });
      delete ask.dataset.id;
      const note = document.createElement("p");
      note.className = "notice warn";
      note.textContent = "This was decided, or its time is over.";
      ask.append(note);
    } else ask.remove();
  }
  for (const each of coming) {
    const old = document.getElementById(each.dataset.id);
    if (!old) {
      list.append(each);
      come += 1;
    } else if (old.dataset.shown !== each.dataset.shown && !old.contains(document.activeElement)) old.replaceWith(each);
  }
  for (const part of ["count", "empty"]) {
    const [old, now] = [document, fresh].map((each) => each.querySelector(`[data-part=${part}]`));
    if (old && now) old.textContent = now.textContent;
    else if (old) old.remove();
    else if (now) list.after(now);
  }
  document.title = fresh.title;
  const said = [come && `${come} new`, gone && `${gone} decided or over`].filter(Boolean).join(", ");
  if (said) document.querySelector(".live").textContent = said;
  tick();
  sum();
}

if (page.live) {
  const source = new EventSource(page.live);
  let isBusy = false, isWanted = false;
  source.addEventListener("news", async () => {
    isWanted = true;
    while (isWanted && !isBusy) {
      isBusy = true;
      isWanted = false;
      try { await refresh(); } catch { /* the server is away, and EventSource comes back by itself */ }
      isBusy = false;
    }
  });
  addEventListener("pagehide", () => source.close());
}
