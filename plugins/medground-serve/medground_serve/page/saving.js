// Downloads: the mask and the picture as they are drawn, the answer as JSON, and what the server writes in the geometry of the image.
import * as server from "./server.js";
import { element } from "./answer.js";

async function save(name, blob) {
  const url = URL.createObjectURL(await blob);
  element("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

export const saveOverlay = (canvas) => save("overlay.png", new Promise((resolve) => canvas.toBlob(resolve)));

export function saveJson(answer) {
  const text = JSON.stringify(answer, (key, value) => (key === "layer" ? undefined : value), 2);
  return save("answer.json", new Blob([text], { type: "application/json" }));
}

export function saveMask({ width, height }, regions) {
  const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d");
  pen.fillRect(0, 0, width, height);
  for (const { layer } of regions) if (layer) pen.drawImage(layer, 0, 0);
  const pixels = pen.getImageData(0, 0, width, height), data = pixels.data;
  for (let k = 0; k < data.length; k += 4) data[k] = data[k + 1] = data[k + 2] = data[k] || data[k + 1] || data[k + 2] ? 255 : 0;
  pen.putImageData(pixels, 0, 0);
  return save("mask.png", canvas.convertToBlob());
}

const NAMES = { nifti: "mask.nii.gz", seg: "mask.seg.dcm" };

export async function saveExported(format, image, { plane, slice }, regions) {
  const masks = regions.filter(({ mask }) => mask?.png).map(({ mask, label }) => ({ png: mask.png, label: label.slice(0, 200) }));
  await save(NAMES[format], server.exported({ image, plane, slice, format, masks }));
}
