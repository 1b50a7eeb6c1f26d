"use strict";
// Captions, keys and addresses come from outside: they are only ever set as text or as the source of a picture.
const element = (id) => document.getElementById(id);
const { index, rows } = element("form").dataset;
const BATCH = 60, HITS = 600;
let query = null, place = {}, hits = [], shown = 0, turn = 0;

const side = () => document.querySelector("[name=side]:checked").value;

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", body: JSON.stringify({ indice_name: index, ...body }) });
  if (answer.ok) return answer.json();
  const text = await answer.text();
  let reason = text;
  try { reason = JSON.parse(text).message; } catch { /* a page of the server */ }
  throw new Error(reason);
}

const describe = async (ids) =>
  (await post("metadata", { ids })).map(({ id, metadata }) => ({ id, ...metadata }));

const pictureOf = (hit) => (hit.image ? { image: hit.image } : { row: hit.id, url: hit.url });

const source = (hit) => (hit.image ? `data:image/jpeg;base64,${hit.image}` : hit.url || "");

// `asked`: {text}, {image} in base64, or {row} of a pair whose picture is at {url}. `named`: the part of the
// page's address that finds it again. `back`: whether the browser is at that address already.
async function search(asked, named, chosen, back = false) {
  [query, place] = [asked, named];
  const kind = asked.text === undefined ? "image" : "text", mine = (turn += 1);
  if (!["text", "image"].includes(chosen)) chosen = null; // the address may say anything
  // As `react-pipeline search`: a text is compared with captions and a picture with images, unless a person says so.
  document.querySelector(`[name=side][value=${chosen || kind}]`).checked = true;
  element("text").value = asked.text || "";
  element("query").hidden = kind === "text";
  element("query").src = asked.image ? `data:image/jpeg;base64,${asked.image}` : asked.url || "data:,";
  const address = new URLSearchParams({ ...named, ...(side() === kind ? {} : { side: side() }) }).toString();
  if (!back) history.pushState(null, "", address ? `?${address}` : location.pathname);
  element("found").textContent = "Searching …";
  try {
    const options = { modality: side(), deduplicate: element("unique").checked };
    const answer = await post("knn-service", { ...asked, ...options, num_images: BATCH, num_result_ids: HITS });
    if (mine === turn) show(answer, `the nearest ${answer.length.toLocaleString()}, most similar first`);
  } catch (error) {
    if (mine === turn) fail(error);
  }
}

function fail(error) {
  element("found").textContent = "";
  element("message").textContent = error.message;
}

function show(found, text) {
  [hits, shown] = [found, 0];
  element("message").textContent = "";
  element("found").textContent = text;
  element("save").hidden = query === null;
  element("hits").replaceChildren();
  return more();
}

async function more() {
  const mine = turn, batch = hits.slice(shown, shown + BATCH);
  shown += batch.length;
  element("more").hidden = shown >= hits.length;
  const bare = batch.filter((hit) => hit.caption === undefined).map((hit) => hit.id);
  try {
    for (const pair of bare.length ? await describe(bare) : [])
      Object.assign(batch.find((hit) => hit.id === pair.id), pair);
    if (mine === turn) element("hits").append(...batch.map(card));
  } catch (error) {
    fail(error);
  }
}

function node(name, text, properties) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(text);
  return made;
}

function card(hit) {
  const figure = document.createElement("figure"), actions = node("div", "Similar ", { className: "row quiet" });
  const none = node("div", "no picture", { className: "none" });
  if (source(hit)) {
    const picture = node("img", "", { src: source(hit), alt: "", loading: "lazy", className: "pic" });
    picture.addEventListener("error", () => picture.replaceWith(none));
    figure.append(picture);
    actions.append(node("button", "picture", { onclick: () => searchBy(hit, "image") }));
  } else figure.append(none);
  if (hit.caption) actions.append(node("button", "caption", { onclick: () => searchBy(hit, "text") }));
  const caption = node("figcaption", "", { title: hit.key ? `${hit.caption}\n${hit.key}` : hit.caption });
  if (hit.similarity !== undefined) caption.append(node("small", `${hit.similarity.toFixed(3)} `));
  caption.append(hit.caption);
  figure.append(caption, actions);
  return figure;
}

function searchBy(hit, kind) {
  window.scrollTo(0, 0);
  return kind === "text" ? search({ text: hit.caption }, { text: hit.caption }) : search(pictureOf(hit), { row: hit.id });
}

// The address names a text or a pair, so that a search can be kept, shared and gone back to.
async function open() {
  const asked = new URLSearchParams(location.search), mine = (turn += 1);
  try {
    const [text, row, chosen] = ["text", "row", "side"].map((name) => asked.get(name));
    if (text) return search({ text }, { text }, chosen, true);
    if (row) {
      const [pair] = await describe([Number(row)]);
      return search(pictureOf(pair), { row }, chosen, true);
    }
    // Without a question a look at the whole: pairs at even distances.
    query = null;
    element("text").value = "";
    element("query").hidden = true;
    const count = Math.min(BATCH, rows), ids = Array.from({ length: count }, (_, n) => Math.floor((n * rows) / count));
    const pairs = await describe(ids);
    if (mine === turn) show(pairs, "some of the corpus, at even distances");
  } catch (error) {
    fail(error);
  }
}

function again() {
  if (query !== null) search(query, place, side());
}

function upload(file) {
  const reader = new FileReader();
  reader.addEventListener("load", () => search({ image: reader.result.split(",")[1] }, {}));
  reader.readAsDataURL(file);
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (text) search({ text }, { text }, query && query.text !== undefined ? side() : undefined);
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
document.querySelectorAll("[name=side], #unique").forEach((control) => control.addEventListener("change", again));
element("more").addEventListener("click", more);
element("save").addEventListener("click", () => {
  const kept = hits.map(({ image, ...hit }) => hit);
  element("save").href = URL.createObjectURL(new Blob([JSON.stringify(kept, null, 1)], { type: "application/json" }));
});
window.addEventListener("popstate", open);
open();
