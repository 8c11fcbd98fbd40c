// What happens on the page: one state, and functions that change it. Texts of models and files are set as text, never as markup.
import * as server from "./server.js";
import { item, outcome } from "./answer.js";
import { saveExported, saveJson, saveMask, saveOverlay } from "./saving.js";
import { Stage, layerOf } from "./stage.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("canvas"), { correct });
const second = new Stage($("second-canvas"), { layers: stage.layers });
const view = new View({ shown, failed: (error) => report(error.message, true) });
const state = { answer: null, place: {}, history: [], busy: false, abort: null, models: null };
const MOST_FILES = 1000;

function report(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
  if (bad) $("status").scrollIntoView({ block: "nearest" });
}

async function working(text, work) {
  if (state.busy) return;
  state.busy = true;
  update();
  report(text);
  try {
    await work();
  } catch (error) {
    if (error instanceof server.Cancelled) report("Cancelled.");
    else if (error instanceof server.Refused) report(error.message, true);
    else throw error;
  } finally {
    state.busy = false;
    state.abort = null;
    update();
  }
}

function update() {
  $("ground").disabled = state.busy || !stage.image;
  $("cancel").disabled = !state.abort;
  $("correct").disabled = !stage.image;
  $("undo").disabled = state.busy || !state.history.length;
  document.body.classList.toggle("busy", state.busy);
}

function open(name, files) {
  return working("Uploading …", async () => {
    forget();
    view.clear();
    for (const one of [stage, second]) one.setImage(null);
    $("empty").hidden = false;
    $("name").textContent = "";
    await view.open(await server.upload(await files()));
    $("name").textContent = name;
    report(["Ask about the image.", ...view.facts.notes || []].join(" "));
  });
}

function shown(picture) {
  $("empty").hidden = true;
  for (const one of [stage, second]) one.setImage(picture);
  if ($("status").classList.contains("bad")) report("");
  render();
  update();
}

function forget() {
  Object.assign(state, { answer: null, place: {}, history: [] });
  reason("");
  render();
}

function ask(event) {
  event.preventDefault();
  return working("Asking …", async () => {
    forget();
    await view.show();
    const asked = view.seen, abort = (state.abort = new AbortController());
    update();
    let text = "";
    for await (const [event, value] of server.ground(view.image, $("question").value, asked, abort.signal)) {
      if (event === "queue" && value.ahead) report(`${value.ahead} ahead of you …`);
      if (event === "stage") report({ reasoning: "Reasoning …", segmenting: "Drawing the mask …" }[value.stage] || "Working …");
      if (event === "text") reason((text += value.text));
      if (event === "answer") await take(value, asked);
    }
    report("Done.");
    if (innerWidth < 900) $("picture").scrollIntoView({ block: "nearest" });
  });
}

function reason(text) {
  $("thinking").hidden = !text;
  $("reasoning").textContent = text || "";
}

async function take(answer, { plane, slice }) {
  await Promise.all(answer.regions.map(async (region, index) => { region.layer = region.mask?.png ? await layerOf(region.mask.png, index) : null; }));
  stage.chosen = 0;
  Object.assign(state, { answer, place: { plane, slice } });
  await compare();
  render();
}

// A correction goes to the chosen region, or makes the first one: the segmenter alone draws it again.
function correct({ box, point, label }) {
  return working("Drawing the mask …", async () => {
    const place = view.seen, base = view.same(state.place) ? state.answer : null;
    const regions = base?.regions || [], before = regions[stage.chosen] || { box: null, points: [], labels: [] };
    const prompt = box ? { box, points: [], labels: [] } : {
      box: before.box && label === 1 && !contains(before.box, point) ? null : before.box,
      points: [...before.points, point],
      labels: [...(before.labels || before.points.map(() => 1)), label],
    };
    const result = await server.segment({ image: view.image, ...place, ...prompt });
    if (result.fault) throw new server.Refused({ error: `The segmenter gave no mask (${result.fault})`, hint: result.cause }, 200);
    const [region] = result.regions;
    region.layer = await layerOf(region.mask.png, regions.length ? stage.chosen : 0);
    Object.assign(region, { labels: prompt.labels, label: before.label || "", confidence: null, corrected: true });
    state.history.push([state.answer, state.place]);
    const changed = regions.length ? regions.map((one, index) => (index === stage.chosen ? region : one)) : [region];
    Object.assign(state, { answer: { ...(base || result), regions: changed, fault: null, cause: "" }, place });
    if (!base) stage.chosen = 0;
    await compare();
    render();
    report("Corrected.");
  });
}

const contains = ([x1, y1, x2, y2], [x, y]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;

// The second segmenter is given what prompted the first one for each region.
async function compare() {
  if (!$("compare").checked) return;
  for (const [index, region] of (state.answer?.regions || []).entries()) {
    const kinds = region.prompt_kinds;
    if (region.compared || !kinds.length || kinds.includes("exemplars")) continue;
    report("Comparing …");
    const { compared } = await server.segment({
      image: view.image, ...view.seen, ...state.place, compare: true, text: kinds.includes("text") ? region.text : "",
      box: kinds.includes("box") ? region.box : null, ...(kinds.includes("points") && { points: region.points, labels: region.labels || [] }),
    });
    const [{ mask, dice }] = compared.regions;
    region.compared = { ...compared, regions: undefined, mask, dice, layer: mask?.png ? await layerOf(mask.png, index) : null };
  }
}

function undo() {
  [state.answer, state.place] = state.history.pop();
  working("Undone.", compare).then(render);
}

function render() {
  const answer = state.answer, here = view.same(state.place), regions = answer?.regions || [];
  const comparing = $("compare").checked && Boolean(stage.image);
  stage.regions = here ? regions : [];
  second.regions = stage.regions.map((region) => ({ ...region, layer: region.compared?.layer }));
  second.chosen = stage.chosen;
  $("second").hidden = $("first-caption").hidden = !comparing;
  $("stage").classList.toggle("two", comparing);
  if (comparing) {
    const compared = stage.regions[stage.chosen]?.compared;
    const dice = compared ? (compared.fault ? `: ${compared.cause || compared.fault}` : compared.dice === null ? ": no mask" : `, Dice ${compared.dice.toFixed(2)}`) : "";
    $("first-caption").textContent = state.models.segmenter;
    $("second-caption").textContent = state.models.compare + dice;
  }
  stage.draw();
  second.draw();
  $("elsewhere").hidden = !answer || here;
  $("outcome").textContent = outcome(answer);
  $("outcome").classList.toggle("bad", Boolean(answer?.fault));
  $("regions").replaceChildren(...regions.map((region, index) => item(region, index, index === stage.chosen, () => { stage.chosen = index; render(); })));
  if (answer) reason(answer.think || (answer.fault ? answer.text : ""));
  $("downloads").hidden = !answer;
  for (const [format, name] of [["nifti", "NIfTI"], ["seg", "DICOM SEG"]]) {
    const why = regions.some(({ mask }) => mask?.area) ? view.facts?.formats?.[format] : "there is no mask";
    $(`save-${format}`).disabled = Boolean(why);
    $(`why-${format}`).hidden = !why;
    $(`why-${format}`).textContent = `No ${name}: ${why}.`;
  }
}

// All files that are dropped, those of folders included.
async function dropped(transfer) {
  const entries = [...transfer.items].map((one) => one.webkitGetAsEntry?.()).filter(Boolean), files = [];
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  while (entries.length && files.length < MOST_FILES) {
    const entry = entries.pop();
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else for (const reader = entry.createReader();;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) break;
      entries.push(...some);
    }
  }
  return files;
}

const openAll = (files) => files.length && open(files.length > 1 ? `${files.length} files` : files[0].name, () => files);

function example({ dataset: { file, question } }) {
  $("question").value = question;
  return open(file, async () => [new File([await server.shipped(file)], file)]);
}

$("ask").addEventListener("submit", ask);
$("cancel").addEventListener("click", () => state.abort?.abort());
$("file").addEventListener("change", () => openAll([...$("file").files]));
for (const button of document.querySelectorAll("#examples button")) button.addEventListener("click", () => example(button));
$("undo").addEventListener("click", undo);
$("return").addEventListener("click", () => view.go(state.place));
$("compare").addEventListener("change", () => working("", async () => {
  render();
  await compare();
  render();
  report("");
}));
$("save-mask").addEventListener("click", () => saveMask(stage.image, state.answer.regions));
$("save-overlay").addEventListener("click", () => saveOverlay($("canvas")));
$("save-json").addEventListener("click", () => saveJson(state.answer));
for (const format of ["nifti", "seg"]) {
  $(`save-${format}`).addEventListener("click", () => working("Writing the file …", async () => {
    await saveExported(format, view.image, state.place, state.answer.regions);
    report("Done.");
  }));
}
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openAll(await dropped(event.dataTransfer));
});
for (const box of document.querySelectorAll("[data-layer]")) box.addEventListener("change", () => { stage.layers[box.dataset.layer] = box.checked; render(); });
$("opacity").addEventListener("input", () => { stage.layers.opacity = Number($("opacity").value); render(); });
for (const radio of document.querySelectorAll("[name=tool]")) radio.addEventListener("change", () => {
  stage.setTool(radio.value);
  $("keys").hidden = radio.value === "none";
});

async function introduce() {
  try {
    const facts = (state.models = await server.info());
    $("models").textContent = facts.reasoner ? `${facts.recipe}: ${facts.reasoner}, ${facts.segmenter}` : "The models are being loaded …";
    if (!facts.reasoner) setTimeout(introduce, 1000);
    if (!facts.compare) return;
    $("comparing").disabled = false;
    $("compare-name").textContent = `With ${facts.compare}`;
    $("compare-hint").hidden = true;
  } catch (error) {
    report(error.message, true);
  }
}

update();
introduce();
