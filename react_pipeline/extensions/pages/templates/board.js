"use strict";
// Names, captions and addresses come from outside: they are only ever set as text or as the source of a picture.
const element = (id) => document.getElementById(id);
const images = new Map(); // kept, so that a click does not load every picture again
const drawn = new Set(); // of this view
let asked = {}, buttons = [], turn = 0, answering = false;

function node(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function load(next, answer) {
  const mine = (turn += 1);
  element("status").textContent = "…";
  try {
    const body = JSON.stringify({ asked: next, ...(answer && { answer }) });
    const response = await fetch("view", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const view = await response.json();
    if (mine !== turn) return;
    if (!response.ok) throw Object.assign(new Error(view.message), { status: response.status });
    element("message").textContent = "";
    asked = next;
    show(view);
  } catch (error) {
    if (error.status === 409) await load(asked);
    else element("status").textContent = "";
    element("message").textContent = answer && error.status !== 409 ? `Not saved: ${error.message}` : error.message;
  }
}

// The address names what is asked, so that it can be kept, shared and gone back to; an uploaded picture does not fit.
function ask(next) {
  const { image, ...named } = next;
  history.pushState(null, "", `?${new URLSearchParams(named)}`);
  window.scrollTo(0, 0);
  return load(next);
}

async function give(answer) {
  if (answering) return;
  answering = true;
  await load(asked, answer);
  answering = false;
}

const press = ({ ask: next, answer }) => (next ? ask("page" in next ? { ...asked, ...next } : next) : give(answer));

function button(one) {
  const made = node("button", { onclick: () => { made.blur(); press(one); } }, one.text);
  if (one.key) made.append(" ", node("kbd", {}, one.key));
  return made;
}

function picture(source) {
  if (!source) return node("span", { className: "none" }, "no picture");
  if (drawn.has(source)) return loaded(source); // one node has one place
  drawn.add(source);
  if (!images.has(source)) images.set(source, loaded(source));
  return images.get(source);
}

function loaded(source) {
  const image = node("img", { src: source, alt: "", loading: "lazy" });
  image.addEventListener("error", () => {
    const none = picture("");
    if (images.get(source) === image) images.set(source, none);
    image.replaceWith(none);
  });
  return image;
}

function figure(item) {
  const shown = picture(item.picture);
  const caption = node("figcaption", { title: item.caption }, node("b", {}, item.note), ` ${item.caption}`);
  const made = node("figure", { className: item.answer ? item.note.split(" ")[0] : "" }, shown);
  if (item.answer) made.replaceChildren(node("button", { className: "pick", onclick: () => give(item.answer) }, shown));
  made.append(caption, node("div", { className: "row" }, ...item.buttons.map(button)));
  return made;
}

function menu(one) {
  const options = one.options.map(([value, text]) => new Option(text, value, false, value === one.value));
  const change = (event) => { const { page, ...rest } = asked; ask({ ...rest, [one.name]: event.target.value }); };
  return node("label", {}, `${one.label} `, node("select", { onchange: change }, ...options));
}

function show(view) {
  buttons = view.buttons;
  element("status").textContent = view.status;
  element("notice").hidden = !view.notice;
  element("notice").textContent = view.notice;
  element("menus").replaceChildren(...view.menus.map(menu));
  drawn.clear();
  element("items").replaceChildren(...view.items.map(figure));
  element("buttons").replaceChildren(...buttons.map(button));
  if (element("text")) element("text").value = asked.text || "";
}

function open() {
  return load(Object.fromEntries(new URLSearchParams(location.search)));
}

function upload(file) {
  const reader = new FileReader();
  reader.addEventListener("load", () => ask({ image: reader.result.split(",")[1] }));
  reader.readAsDataURL(file);
}

if (element("form")) {
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = element("text").value.trim();
    ask(text ? { text, ...(asked.text && asked.side && { side: asked.side }) } : {});
  });
  element("choose").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", (event) => {
    if (event.target.files.length) upload(event.target.files[0]);
    event.target.value = "";
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT/.test(event.target.tagName)) return;
  const pressed = buttons.find((one) => one.key === event.key);
  if (pressed) press(pressed);
});
window.addEventListener("popstate", open);
open();
