// Calls to the service this page came from.

const KEY = "cifake-api-key";

export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepApiKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function ask(path, options = {}) {
  const headers = apiKey() ? { "X-API-Key": apiKey() } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch {
    throw new Problem(0, "unreachable", "The service did not answer. It may be down, or the image too large for it.");
  }
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, problem.code ?? "", problem.detail ?? `The service answered ${answer.status}.`);
}

export function modelCard() {
  return ask("model");
}

/** The verdict on an image, and the heatmap of it as rows of numbers 0…1. */
export function explain(image, options) {
  const headers = { "Content-Type": "application/octet-stream" };
  return ask(`explain_map?${new URLSearchParams(options)}`, { method: "POST", body: image, headers });
}

/** Shell commands that ask the same. */
export function commands(name, options) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = apiKey() ? ` -H "X-API-Key: $CIFAKE_API_KEY"` : "";
  const curl = `curl${key} -F ${quote(`image=@"${name.replaceAll('"', '\\"')}"`)}`;
  const base = new URL(".", location.href).href;
  return `${curl} ${quote(`${base}classify`)}\n${curl} ${quote(`${base}explain?${new URLSearchParams(options)}`)} -o why.png`;
}
