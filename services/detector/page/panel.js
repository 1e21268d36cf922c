// One result: an image, its verdict, its heatmap, and the switches that ask for another heatmap.

import { describe, draw } from "./heat.js";
import { commands, explain } from "./service.js";

const template = document.getElementById("panel");

/**
 * Put a result before the others and ask for its verdict.
 *
 * `options` are the first heatmap's; `card` is the model card; `onAnswer` gets each first answer; `onProblem` each
 * problem; `onTwin` is asked for a second panel of the same image.
 */
export function open(results, name, image, { card, options = {}, onAnswer, onProblem, onTwin }) {
  const root = template.content.cloneNode(true).querySelector("article");
  const part = (name) => root.querySelector(`.${name}`);
  const sent = URL.createObjectURL(image);
  let asked = 0;
  let told = false;

  part("name").textContent = name;
  root.setAttribute("aria-label", name);
  part("sent").src = sent;
  part("sent").addEventListener("load", ({ target }) => target.classList.toggle("tiny", target.naturalWidth <= 64));
  fill(part("method"), card.methods, options.method);
  fill(part("block"), ["", "all", ...card.blocks.map((block) => block.name)], options.block, {
    "": `${card.blocks.at(-1).name} (the last)`,
    all: "all, averaged",
  });
  if (options.target) part("target").value = options.target;
  part("guided").checked = Boolean(options.guided);

  function chosen() {
    const picked = { method: part("method").value, target: part("target").value };
    if (part("block").value) picked.block = part("block").value;
    if (part("guided").checked) picked.guided = "true";
    return picked;
  }

  async function ask() {
    const turn = ++asked;
    root.setAttribute("aria-busy", "true");
    part("problem").hidden = part("again").hidden = true;
    try {
      const answer = await explain(image, chosen());
      if (turn !== asked) return; // a later choice is on its way
      show(part, name, answer, chosen());
      if (!told) onAnswer(answer);
      told = true;
    } catch (problem) {
      if (turn !== asked) return;
      part("problem").textContent = problem.message;
      part("problem").hidden = false;
      part("again").hidden = ![0, 401, 408, 429, 503].includes(problem.status);
      onProblem(problem);
    }
    root.setAttribute("aria-busy", "false");
  }

  for (const each of ["method", "block", "target", "guided"]) part(each).addEventListener("change", ask);
  part("opacity").addEventListener("input", () => cover(part));
  part("again").addEventListener("click", ask);
  part("twin").addEventListener("click", () => onTwin(name, image, chosen()));
  part("close").addEventListener("click", () => close(root));
  part("copy").addEventListener("click", () => copy(part));
  root.addEventListener("closed", () => URL.revokeObjectURL(sent));
  cover(part);
  results.prepend(root);
  ask();
  return root;
}

export function close(root) {
  const next = root.nextElementSibling ?? root.previousElementSibling ?? document.getElementById("file");
  root.dispatchEvent(new Event("closed"));
  root.remove();
  next.focus({ preventScroll: true });
}

function fill(select, values, chosen, names = {}) {
  for (const value of values) select.add(new Option(names[value] ?? value, value, false, value === chosen));
}

function cover(part) {
  const percent = part("opacity").value;
  part("heat").style.opacity = percent / 100;
  part("percent").textContent = `${percent} %`;
}

function show(part, name, answer, options) {
  const probability = answer.probability_real.toFixed(3);
  part("answer").hidden = false;
  part("label").textContent = answer.label;
  part("label").className = `label ${answer.label}`;
  part("probability").textContent = `Probability that it is real: ${probability}`;
  part("mark").style.left = `${answer.probability_real * 100}%`;
  part("threshold").style.left = `${answer.threshold * 100}%`;
  part("warnings").replaceChildren(...answer.warnings.map((text) => element("li", text)));
  part("seen").src = answer.seen;
  draw(part("heat"), answer.heatmap);
  const where = describe(answer.heatmap);
  part("heat").setAttribute("aria-label", `Evidence for ${answer.target} by ${answer.method}: ${where}`);
  const { image, model } = answer;
  const done = image.resized ? "cropped and resized" : image.reencoded ? "encoded anew" : "taken as it is";
  const facts = {
    "Evidence for": `${answer.target}, ${where}`,
    Faithfulness: `${answer.faithfulness?.toFixed(2) ?? "–"} (−1 … 1; near 0, the heatmap tells little)`,
    Image: `${image.format}, ${image.width}×${image.height}, ${done}`,
    Model: `${model.name} version ${model.version}, ${model.topology}, trained on dataset ${model.dataset_version}`,
    Took: `${answer.latency_ms.toFixed(1)} ms`,
    "Request id": answer.request_id,
  };
  part("facts").replaceChildren(...Object.entries(facts).flatMap(([k, v]) => [element("dt", k), element("dd", v)]));
  part("copy").textContent = "Copy";
  part("answer").querySelector("code").textContent = commands(name, options);
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

async function copy(part) {
  const code = part("answer").querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    part("copy").textContent = "Copied";
  } catch {
    // Not allowed here: mark the text, so that the copy key takes it.
    getSelection().selectAllChildren(code);
    part("copy").textContent = "Marked: press Ctrl+C";
  }
}
