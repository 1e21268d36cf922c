// Recent verdicts, in this browser's storage only. What is kept of an image is the small one the model saw.

const STORE = "cifake-history";
const MOST = 24;

export function recent() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

export function remember(name, answer) {
  const entry = {
    name,
    label: answer.label,
    probability: answer.probability_real,
    version: answer.model.version,
    seen: answer.seen,
    when: new Date().toISOString(),
  };
  const others = recent().filter((each) => each.seen !== entry.seen || each.version !== entry.version);
  keep([entry, ...others].slice(0, MOST));
}

export function forget() {
  keep([]);
}

function keep(entries) {
  try {
    localStorage.setItem(STORE, JSON.stringify(entries));
  } catch {
    // A browser that keeps nothing is no reason to fail.
  }
}

/** The bytes of a data: URL. */
export function bytesOf(url) {
  const text = atob(url.slice(url.indexOf(",") + 1));
  return new Blob([Uint8Array.from(text, (each) => each.charCodeAt(0))], { type: "image/jpeg" });
}
