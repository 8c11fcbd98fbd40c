// Requests to the server. The token is in the address's fragment, which browsers do not send; it is traded for a cookie, which they do.
const token = location.hash.slice(1);
const signedIn = token && fetch("/cookie", { method: "POST", headers: { Authorization: `Bearer ${token}` } }).catch(() => {});

export class Refused extends Error {
  constructor(value, status) {
    super([value.error || `The server answered ${status}.`, value.hint].filter(Boolean).join(": "));
    this.status = status;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    await signedIn;
    response = await fetch(path, options);
  } catch {
    throw new Refused({ error: "The server does not answer" }, 0);
  }
  if (!response.ok) throw new Refused(await response.json().catch(() => ({})), response.status);
  return response;
}

export const info = async () => (await request("/info")).json();

export async function upload(file, name) {
  const form = new FormData();
  form.append("file", file, name);
  return (await (await request("/images", { method: "POST", body: form })).json()).image;
}

export async function show(image, view) {
  return (await request(`/images/${image}?${new URLSearchParams(view)}`)).json();
}

export async function segment(body) {
  const options = { method: "POST", body: JSON.stringify({ ...body, masks: "png" }), headers: { "Content-Type": "application/json" } };
  return (await request("/segment", options)).json();
}

// Yields [event, value]; EventSource can only GET, so the stream of the POST is read here.
export async function* ground(image, question, view) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ image, question, ...view, masks: "png" })) form.append(name, value);
  const response = await request("/ground", { method: "POST", body: form, headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = "";
  for (;;) {
    const { done, value } = await reader.read();
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
