"use strict";
// Names and captions come from outside: they are only ever set as text.
const element = (id) => document.getElementById(id);
const keys = { k: "keep", x: "reject", p: "pin", m: "move" };
let state = null, busy = false;

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

function show(next) {
  const moved = state === null || state.pair !== next.pair;
  state = next;
  const done = state.pair === null;
  element("asking").hidden = done;
  element("done").hidden = !done;
  const { reject, move, pin } = state.verdicts;
  element("progress").textContent = `${state.decided} of ${state.total} pairs decided; ${reject} rejected, ${move} moved, ${pin} pinned`;
  fill(element("class"), state.shown.map((one) => [one.name, `${one.name}: ${one.open} of ${one.total} open`]), state.label);
  document.body.dataset.pair = done ? "" : state.pair;
  if (done || !moved) return;
  fill(element("to"), state.classes.filter((name) => name !== state.label).map((name) => [name, name]), "");
  element("move").disabled = state.classes.length < 2;
  element("picture").src = `picture/${state.pair}`;
  element("label").textContent = state.label;
  element("caption").textContent = state.caption;
}

async function ask(url, options) {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(url, options);
    if (!answer.ok) throw new Error((await answer.text()).replace(/<[^>]*>/g, " "));
    element("message").textContent = "";
    show(await answer.json());
  } catch (error) {
    element("message").textContent = `Not saved: ${error.message}`;
  } finally {
    busy = false;
  }
}

function decide(verdict) {
  if (state === null || (verdict !== null && state.pair === null)) return;
  const body = { image: state.image, verdict, to: verdict === "move" ? element("to").value : "" };
  ask("decide", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

const open = (label) => ask(`state?class=${encodeURIComponent(label)}`);

function nextClass() {
  const names = state.shown.map((one) => one.name);
  open(names[(names.indexOf(state.label) + 1) % names.length]);
}

Object.values(keys).forEach((verdict) => {
  element(verdict).addEventListener("click", (event) => { event.currentTarget.blur(); decide(verdict); });
});
element("undo").addEventListener("click", (event) => { event.currentTarget.blur(); decide(null); });
element("next").addEventListener("click", (event) => { event.currentTarget.blur(); nextClass(); });
element("class").addEventListener("change", (event) => { open(event.target.value); event.target.blur(); });
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  if (event.key === "z") decide(null);
  else if (event.key === "c" && state !== null) nextClass();
  else if (event.key in keys) decide(keys[event.key]);
});
ask("state");
