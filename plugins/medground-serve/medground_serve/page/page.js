// What happens on the page: one state, and functions that change it. Texts of models and files are set as text, never as markup.
import * as server from "./server.js";
import { Stage, bitmapOf, layerOf } from "./stage.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("canvas"), { correct });
const state = { image: null, answer: null, history: [], busy: false };

function report(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function working(text, work) {
  if (state.busy) return;
  state.busy = true;
  update();
  report(text);
  try {
    await work();
  } catch (error) {
    if (!(error instanceof server.Refused)) throw error;
    report(error.message, true);
  } finally {
    state.busy = false;
    update();
  }
}

function update() {
  $("ground").disabled = state.busy || !stage.image;
  $("correct").disabled = !stage.image;
  $("undo").disabled = state.busy || !state.history.length;
}

const view = () => Object.fromEntries(["plane", "slice", "window"].map((name) => [name, $(name).value.trim()]).filter(([, value]) => value));

function open(file, name = file.name) {
  return working("Uploading …", async () => {
    clear();
    stage.setImage(null);
    $("empty").hidden = false;
    state.image = null;
    state.image = await server.upload(file, name);
    const plain = /\.(png|jpe?g|tiff?|bmp|webp|gif|ppm)$/i.test(name);
    $("view").hidden = plain;
    if (plain) for (const field of ["plane", "slice", "window"]) $(field).value = "";
    await show();
  });
}

async function show() {
  clear();
  const picture = await server.show(state.image, view());
  stage.setImage(await bitmapOf(picture.png));
  $("empty").hidden = true;
  report("Ask about the image.");
}

function clear() {
  Object.assign(state, { answer: null, history: [] });
  stage.regions = [];
  stage.draw();
  render();
}

function ask(event) {
  event.preventDefault();
  return working("Asking …", async () => {
    clear();
    for await (const [event, value] of server.ground(state.image, $("question").value, view())) {
      if (event === "queue" && value.ahead) report(`${value.ahead} ahead of you …`);
      if (event === "stage") report({ reasoning: "Reasoning …", segmenting: "Drawing the mask …" }[value.stage] || "Working …");
      if (event === "text") reason(value.text);
      if (event === "answer") await take(value);
    }
    report("Done.");
    $("picture").scrollIntoView({ block: "nearest" });
  });
}

function reason(text) {
  $("thinking").hidden = !text;
  $("reasoning").textContent = text || "";
}

async function take(answer) {
  state.answer = answer;
  await Promise.all(answer.regions.map(async (region, index) => { region.layer = region.mask?.png ? await layerOf(region.mask.png, index) : null; }));
  stage.chosen = 0;
  render();
}

// A correction goes to the chosen region, or makes the first one: the segmenter alone draws it again.
function correct({ box, point, label }) {
  return working("Drawing the mask …", async () => {
    const regions = state.answer?.regions || [], before = regions[stage.chosen] || { box: null, points: [], labels: [] };
    const prompt = box ? { box, points: [], labels: [] } : {
      box: before.box && label === 1 && !contains(before.box, point) ? null : before.box,
      points: [...before.points, point],
      labels: [...(before.labels || before.points.map(() => 1)), label],
    };
    const result = await server.segment({ image: state.image, ...view(), ...prompt });
    if (result.fault) throw new server.Refused({ error: `The segmenter gave no mask (${result.fault})`, hint: result.cause }, 200);
    const [region] = result.regions;
    region.layer = await layerOf(region.mask.png, stage.chosen);
    Object.assign(region, { labels: prompt.labels, label: before.label || "", confidence: null, corrected: true });
    state.history.push(state.answer);
    const changed = regions.length ? regions.map((one, index) => (index === stage.chosen ? region : one)) : [region];
    state.answer = { ...(state.answer || result), regions: changed, fault: null, cause: "" };
    render();
    report("Corrected.");
  });
}

const contains = ([x1, y1, x2, y2], [x, y]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;

function undo() {
  state.answer = state.history.pop();
  render();
  update();
  report("Undone.");
}

function render() {
  const answer = state.answer, regions = answer?.regions || [];
  stage.regions = regions;
  stage.draw();
  $("outcome").textContent = outcome(answer);
  $("regions").replaceChildren(...regions.map(item));
  reason(answer?.think || (answer?.fault ? answer.text : ""));
  $("downloads").hidden = !answer;
}

function outcome(answer) {
  if (!answer) return "No answer yet.";
  if (answer.fault) return `The answer could not be used (${answer.fault})${answer.cause ? `: ${answer.cause}` : ""}`;
  if (!answer.regions.length) return "Nothing in the image fits the question.";
  return answer.regions.length === 1 ? "One region" : `${answer.regions.length} regions`;
}

function item(region, index) {
  const button = element("button", { type: "button" });
  button.setAttribute("aria-pressed", String(index === stage.chosen));
  const confidence = region.corrected ? "corrected by you" : region.confidence === null ? "no confidence stated" : `confidence ${region.confidence.toFixed(2)}`;
  const box = region.box ? `box ${region.box.map((value) => value.toFixed(0)).join(", ")} px` : "no box";
  const area = region.mask ? (region.mask.absent ? "not in the image" : `mask ${region.mask.area} px, own score ${region.mask.score.toFixed(2)}`) : "no mask";
  button.append(
    element("span", { className: `swatch colour-${index % 4}` }),
    element("span", { textContent: `Region ${index + 1}${region.label ? `: ${region.label}` : ""}` }),
    element("small", { textContent: confidence }), element("small", { textContent: box }), element("small", { textContent: area }),
  );
  button.addEventListener("click", () => { stage.chosen = index; render(); });
  const entry = element("li", {});
  entry.append(button);
  return entry;
}

const element = (name, properties) => Object.assign(document.createElement(name), properties);

async function save(name, makeBlob) {
  const url = URL.createObjectURL(await makeBlob());
  element("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

async function maskBlob() {
  const canvas = new OffscreenCanvas(stage.image.width, stage.image.height), pen = canvas.getContext("2d");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (const { layer } of stage.regions) if (layer) pen.drawImage(layer, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height), data = pixels.data;
  for (let k = 0; k < data.length; k += 4) data[k] = data[k + 1] = data[k + 2] = data[k] || data[k + 1] || data[k + 2] ? 255 : 0;
  pen.putImageData(pixels, 0, 0);
  return canvas.convertToBlob();
}

const overlayBlob = () => new Promise((resolve) => $("canvas").toBlob(resolve));

async function jsonBlob() {
  const regions = state.answer.regions.map(({ layer, ...region }) => region);
  return new Blob([JSON.stringify({ ...state.answer, regions }, null, 2)], { type: "application/json" });
}

// An example that needs no file: an oval body with two organs and one bright spot.
async function example() {
  const canvas = new OffscreenCanvas(320, 256), pen = canvas.getContext("2d");
  const oval = (x, y, rx, ry, grey) => { pen.fillStyle = `rgb(${grey},${grey},${grey})`; pen.beginPath(); pen.ellipse(x, y, rx, ry, 0, 0, 7); pen.fill(); };
  pen.fillRect(0, 0, 320, 256);
  oval(160, 128, 140, 105, 95); oval(100, 120, 48, 66, 55); oval(220, 120, 48, 66, 55); oval(160, 205, 17, 17, 150); oval(98, 100, 15, 13, 215);
  $("question").value = "Which bright spot on the left is new?";
  await open(await canvas.convertToBlob(), "example.png");
}

$("ask").addEventListener("submit", ask);
$("file").addEventListener("change", () => $("file").files[0] && open($("file").files[0]));
$("example").addEventListener("click", example);
$("show").addEventListener("click", () => working("Reading …", show));
$("undo").addEventListener("click", undo);
$("save-mask").addEventListener("click", () => save("mask.png", maskBlob));
$("save-overlay").addEventListener("click", () => save("overlay.png", overlayBlob));
$("save-json").addEventListener("click", () => save("answer.json", jsonBlob));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
for (const box of document.querySelectorAll("[data-layer]")) box.addEventListener("change", () => { stage.layers[box.dataset.layer] = box.checked; stage.draw(); });
$("opacity").addEventListener("input", () => { stage.layers.opacity = Number($("opacity").value); stage.draw(); });
for (const radio of document.querySelectorAll("[name=tool]")) radio.addEventListener("change", () => stage.setTool(radio.value));

async function introduce() {
  try {
    const facts = await server.info();
    $("models").textContent = facts.reasoner ? `${facts.recipe}: ${facts.reasoner}, ${facts.segmenter}` : "The models are being loaded …";
    if (!facts.reasoner) setTimeout(introduce, 1000);
  } catch (error) {
    report(error.message, true);
  }
}

update();
introduce();
