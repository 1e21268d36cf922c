// The page: ways to bring an image in, results, recent history.

import { bytesOf, forget, recent, remember } from "./history.js";
import { close, open } from "./panel.js";
import { apiKey, keepApiKey, modelCard } from "./service.js";

const byId = (id) => document.getElementById(id);
const results = byId("results");
const MOST_PANELS = 8;
let card = null;

async function loadModel() {
  try {
    card = await modelCard();
    const { name, version, topology, dataset_version } = card.model;
    byId("model").textContent = `${name} version ${version} · ${topology} · dataset ${dataset_version}`;
    byId("notice").textContent = "";
  } catch (problem) {
    byId("model").textContent = "No model";
    complain(problem);
  }
  return card !== null;
}

function complain(problem) {
  byId("notice").textContent = problem.message;
  if (problem.code === "unauthorized") {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
}

async function look(files) {
  if (!files.length) {
    byId("notice").textContent = "There was no image file in that.";
    return;
  }
  if (!card && !(await loadModel())) return;
  const more = files.length > MOST_PANELS;
  byId("notice").textContent = more ? `Only the first ${MOST_PANELS} of ${files.length} images are shown.` : "";
  files = files.slice(0, MOST_PANELS); // each is a request
  if (!byId("compare").checked) [...results.children].forEach(close);
  for (const file of files.toReversed()) show(file.name || "pasted image", file);
  results.firstElementChild.focus();
}

function show(name, image, options) {
  while (results.children.length >= MOST_PANELS) close(results.lastElementChild);
  return open(results, name, image, {
    card,
    options,
    onAnswer(answer) {
      if (answer.model.version !== card.model.version) loadModel();
      remember(name, answer);
      showHistory();
    },
    onProblem(problem) {
      if (problem.code === "unauthorized") complain(problem);
    },
    onTwin: (...same) => show(...same).focus(),
  });
}

function showHistory() {
  const entries = recent();
  byId("history").hidden = !entries.length;
  byId("recent").replaceChildren(
    ...entries.map((entry) => {
      const button = document.createElement("button");
      const thumbnail = new Image(40, 40);
      thumbnail.src = entry.seen;
      thumbnail.alt = "";
      const text = document.createElement("span");
      text.textContent = `${entry.label} ${entry.probability.toFixed(3)}`;
      const more = document.createElement("span");
      more.className = "small";
      more.textContent = `${entry.name}, version ${entry.version}, ${new Date(entry.when).toLocaleTimeString()}`;
      const lines = document.createElement("span");
      lines.append(text, document.createElement("br"), more);
      button.type = "button";
      button.title = more.textContent;
      button.append(thumbnail, lines);
      button.addEventListener("click", () => look([named(bytesOf(entry.seen), entry.name)]));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

function named(blob, name) {
  return new File([blob], name, { type: blob.type });
}

byId("file").addEventListener("change", ({ target }) => {
  look([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") look([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => {
  if (!event.target.matches("input")) look([...event.clipboardData.files]);
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    const path = button.dataset.sample;
    const answer = await fetch(path);
    look([named(await answer.blob(), path.split("/").at(-1))]);
  });
}
byId("key").value = apiKey();
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepApiKey(byId("key").value.trim());
  loadModel();
});
byId("forget").addEventListener("click", () => {
  forget();
  showHistory();
  byId("file").focus();
});
// A verdict in another tab belongs to the same history.
addEventListener("storage", showHistory);

showHistory();
loadModel();
