"use strict";
// Names come from outside: they are only ever set as text.
const element = (id) => document.getElementById(id);
const keys = { 1: 0, 2: 1, n: "neither", u: "unsure" };
let state = null, busy = false;

function show(next) {
  const moved = state === null || state.picture !== next.picture;
  state = next;
  const done = state.picture >= state.total;
  element("asking").hidden = done;
  element("undo").disabled = state.picture === 0;
  element("progress").textContent = `${state.picture} of ${state.total} judged${state.left && "; "}${state.left}`;
  element("clear").hidden = !state.clear;
  element("clear").textContent = state.clear ? `The answer is clear, you can stop. ${state.result}` : "";
  document.body.dataset.picture = state.picture;
  if (done || !moved) return;
  element("picture").src = `picture/${state.picture}`;
  ["first", "second"].forEach((id, place) => {
    const key = document.createElement("kbd");
    key.textContent = place + 1;
    element(id).replaceChildren(`${state.choices[place]} `, key);
  });
}

async function ask(url, options) {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(url, options);
    if (!answer.ok && answer.status !== 409) throw new Error((await answer.text()).replace(/<[^>]*>/g, " "));
    element("message").textContent = answer.status === 409 ? "Another tab was faster: this is the next picture." : "";
    show(await answer.json());
  } catch (error) {
    element("message").textContent = `Not saved: ${error.message}`;
  } finally {
    busy = false;
  }
}

function choose(choice) {
  if (state === null || (choice === null ? state.picture === 0 : state.picture >= state.total)) return;
  const picture = choice === null ? state.picture - 1 : state.picture;
  ask("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ picture, choice }) });
}

Object.entries({ first: 0, second: 1, neither: "neither", unsure: "unsure", undo: null }).forEach(([id, choice]) => {
  element(id).addEventListener("click", (event) => { event.currentTarget.blur(); choose(choice); });
});
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "z") choose(null);
  else if (event.key in keys) choose(keys[event.key]);
});
// What another tab did; a key that is pressed meanwhile is not lost.
window.addEventListener("focus", async () => {
  const answer = await fetch("state");
  if (!busy && answer.ok) show(await answer.json());
});
ask("state");
