// Talking to the server: the token, uploads with progress, waiting when it is busy, and a queue that bounds it all.

const MOST_TRIES = 30;
const LONGEST_WAIT = 120;
let token = null; // in memory only

export const setToken = (text) => { token = text; };
export const heldToken = () => token;
const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

/** An answer other than the one asked for: what is wrong, what to do, and the seconds after which to try again. */
export class Refused extends Error {
  constructor({ kind, message, remedy }, status = 0, after = null) {
    super(message);
    Object.assign(this, { kind, remedy, status, after });
  }
}

const lost = () => new Refused({ kind: "connection", message: "The connection to the server broke off",
  remedy: "See whether the server still runs, then try again" });

/** Read the server's error object, or make one where something between page and server answered in its place. */
function refusal(status, text, after) {
  let error;
  try {
    ({ error } = JSON.parse(text));
  } catch {
    error = null;
  }
  error ??= { kind: "http", message: `The server answered with status ${status}`, remedy: "Try again later" };
  const busy = status === 429 || status === 503;
  const seconds = /^\d+$/.test(after ?? "") ? Number(after) : 5;
  return new Refused(error, status, busy ? Math.min(Math.max(seconds, 1), LONGEST_WAIT) : null);
}

/** GET a JSON document. */
export async function getJson(path) {
  let response;
  try {
    response = await fetch(path, { headers: authorization() });
  } catch {
    throw lost();
  }
  const text = await response.text();
  if (!response.ok) throw refusal(response.status, text, response.headers.get("Retry-After"));
  return JSON.parse(text);
}

/** POST a file once; `sent(bytes)` and `stage(line)` are told how far it is.  Gives the result. */
function postOnce(path, file, { signal, sent, stage }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let read = 0;
    let last = null;
    const readLines = () => {
      const text = request.responseText;
      for (let end = text.indexOf("\n", read); end >= 0; end = text.indexOf("\n", read)) {
        const line = text.slice(read, end).trim();
        read = end + 1;
        if (!line) continue;
        last = JSON.parse(line);
        if (last.stage) stage(last);
      }
    };
    request.open("POST", path);
    request.setRequestHeader("Accept", "application/x-ndjson");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => sent(event.loaded);
    request.onprogress = () => { if (request.status === 200) readLines(); };
    request.onerror = () => reject(lost());
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onload = () => {
      if (request.status !== 200) {
        reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      readLines();
      if (last && "result" in last) resolve(last.result);
      else reject(last?.error ? new Refused(last.error, 200) : lost());
    };
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    }, { once: true });
  });
}

/** POST a file, again as often as the server is busy and says when to come back; `busy(seconds)` counts down. */
export async function post(path, file, told) {
  for (let tries = 1; ; tries += 1) {
    told.signal.throwIfAborted();
    try {
      return await postOnce(path, file, told);
    } catch (error) {
      if (!error.after || tries === MOST_TRIES) throw error;
      for (let left = error.after; left > 0; left -= 1) {
        told.busy(left);
        await pause(1000, told.signal);
      }
    }
  }
}

/** A few jobs at a time, the others in order; a job that somebody just clicked for goes first. */
export class Queue {
  #running = 0;
  #waiting = [];

  constructor(limit) {
    this.limit = limit;
  }

  /** Run `job()` in its turn; an abort before that takes it out of the line. */
  add(job, signal, first) {
    return new Promise((resolve, reject) => {
      const entry = () => job().then(resolve, reject);
      if (first) this.#waiting.unshift(entry);
      else this.#waiting.push(entry);
      signal.addEventListener("abort", () => {
        this.#waiting = this.#waiting.filter((other) => other !== entry);
        reject(new DOMException("cancelled", "AbortError"));
      }, { once: true });
      this.#next();
    });
  }

  #next() {
    while (this.#running < this.limit && this.#waiting.length) {
      this.#running += 1;
      const entry = this.#waiting.shift();
      entry().finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }
}
