// Requests to the server. The token is in the address's fragment, which browsers do not send; it is traded for a cookie, which they do.
const token = location.hash.slice(1);
const signedIn = token && fetch("/cookie", { method: "POST", headers: { Authorization: `Bearer ${token}` } }).catch(() => {});

export class Refused extends Error {
  constructor(value, status) {
    super([value.error || `The server answered ${status}.`, value.hint].filter(Boolean).join(": "));
    this.status = status;
  }
}

export class Cancelled extends Error {}

async function request(path, options = {}) {
  let response;
  try {
    await signedIn;
    response = await fetch(path, options);
  } catch {
    if (options.signal?.aborted) throw new Cancelled();
    throw new Refused({ error: "The server does not answer" }, 0);
  }
  if (!response.ok) throw new Refused(await response.json().catch(() => ({})), response.status);
  return response;
}

const json = (value) => ({ method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });

export const info = async () => (await request("/info")).json();

// Of a file's name the server needs its suffix alone, so it is sent no more.
export async function upload(files) {
  const form = new FormData();
  for (const file of files) form.append("file", file, `image${file.name.match(/\.(nii\.gz|nii|dcm)$/i)?.[0] || ""}`);
  return (await (await request("/images", { method: "POST", body: form })).json()).image;
}

export async function show(image, view) {
  return (await request(`/images/${image}?${new URLSearchParams(view)}`)).json();
}

export async function segment(body) {
  return (await request("/segment", json({ ...body, masks: "png" }))).json();
}

export async function shipped(name) {
  return (await request(`/page/${name}`)).blob();
}

export async function exported(body) {
  return (await request("/export", json(body))).blob();
}

// Yields [event, value]; EventSource can only GET, so the stream of the POST is read here.
export async function* ground(image, question, view, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ image, question, ...view, masks: "png" })) form.append(name, value);
  const response = await request("/ground", { method: "POST", body: form, headers: { Accept: "text/event-stream" }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = "";
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw signal.aborted ? new Cancelled() : new Refused({ error: "The connection ended before the answer" }, 0);
    });
    if (done) break;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [, event, data] = block.match(/^event: (.*)\ndata: (.*)$/) || [];
      if (!event) continue;
      last = event;
      if (event === "error") throw new Refused(JSON.parse(data), JSON.parse(data).status);
      yield [event, JSON.parse(data)];
    }
  }
  if (last !== "answer") throw new Refused({ error: "The connection ended before the answer" }, 0);
}
