// The answer in words: what came out, and a list of its regions. Texts of models are set as text, never as markup.
export const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

export function outcome(answer) {
  if (!answer) return "No answer yet.";
  if (answer.fault) return `The answer could not be used (${answer.fault})${answer.cause ? `: ${answer.cause}` : ""}`;
  if (!answer.regions.length) return "Nothing in the image fits the question.";
  return answer.regions.length === 1 ? "One region" : `${answer.regions.length} regions`;
}

export function item(region, index, chosen, choose) {
  const button = element("button", { type: "button" },
    element("span", { className: `swatch colour-${index % 4}` }),
    element("span", { className: "title", textContent: `Region ${index + 1}${region.label ? `: ${region.label}` : ""}` }),
    ...confidence(region),
    ...[box(region), mask(region), dice(region)].filter(Boolean).map((textContent) => element("small", { textContent })),
  );
  button.setAttribute("aria-pressed", String(chosen));
  button.addEventListener("click", choose);
  return element("li", {}, button);
}

function confidence(region) {
  if (region.corrected) return [element("small", { textContent: "corrected by you" })];
  if (region.confidence === null) return [element("small", { textContent: "no confidence stated" })];
  const meter = element("meter", { min: 0, max: 1, value: region.confidence });
  meter.setAttribute("aria-hidden", "true");  // the text beside it says the same
  return [element("small", { className: "confidence" }, `confidence ${region.confidence.toFixed(2)} `, meter)];
}

const box = ({ box }) => (box ? `box ${box.map((value) => value.toFixed(0)).join(", ")} px` : "no box");

function mask({ mask }) {
  if (!mask) return "no mask";
  if (mask.absent) return "not in the image";
  const area = mask.measures?.area_mm2 === undefined ? "" : ` (${mask.measures.area_mm2.toFixed(1)} mm²)`;
  return `mask ${mask.area} px${area}, own score ${mask.score.toFixed(2)}`;
}

function dice({ compared }) {
  if (!compared) return "";
  return compared.dice === null ? `${compared.segmenter}: no mask` : `Dice with ${compared.segmenter} ${compared.dice.toFixed(2)}`;
}
