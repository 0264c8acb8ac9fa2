// Requests to the service, and the events of an answer.
import { duration, halves, joined, saying } from "./words.js";

const ENDINGS = ["invalid_session", "missing_credentials", "password_change_required"];
const WHO = "/api/session";  // who is signed in, whoever that is
const SAYS_WHEN = /\b(try|send it) again\b|\bwait until\b/i;

/** Why a request failed; `said` is a sentence in either language. */
export class Failure extends Error {
  /**
   * @param {number} status of HTTP; 0 where there was no answer
   * @param {string} code
   * @param {import("./words.js").Saying} said
   * @param {?number} retryAfter seconds
   */
  constructor(status, code, said, retryAfter = null) {
    const later = retryAfter !== null && retryAfter > 1 && !SAYS_WHEN.test(typeof said === "object" && "en" in said ? said.en : "");
    super(code);
    this.status = status;
    this.code = code;
    this.endsSession = ENDINGS.includes(code);
    this.said = later ? () => joined(saying(said), saying(["retryIn", { time: () => duration(retryAfter) }])) : said;
  }
}

/** @type {((failure: Failure) => void)[]} */
const listeners = [];

/**
 * Call a function for each failure that ends the session or asks for a new password.
 * @param {(failure: Failure) => void} listener
 */
export function onSessionFailure(listener) { listeners.push(listener); }

let visit = {};  // of the person who is signed in

/** Somebody else is here now: what the one before asked for is answered to nobody. */
export function beginVisit() { visit = {}; }

/**
 * The answer to a request, in the visit in which it was asked for; after that none ever, so that nothing is done with it.
 * @template T
 * @param {string} path
 * @param {Promise<T>} answer
 * @returns {Promise<T>}
 */
async function answered(path, answer) {
  const asked = visit;
  const { value, failure } = await answer.then((value) => ({ value, failure: null }), (failure) => ({ value: null, failure }));
  if (asked !== visit && path !== WHO) return new Promise(() => {});
  if (failure === null) return value;
  if (failure.endsSession) for (const listener of listeners) listener(failure);
  throw failure;
}

/** @param {Response} response */
async function failureOf(response) {
  /** @type {{ message?: string, code?: string }} */
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* no JSON: the sentence below */ }
  const said = error.message ? halves(error.message) : "noAnswer";
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new Failure(response.status, error.code ?? "", said, Number.isNaN(wait) ? null : wait);
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{ body?: unknown, headers?: Object<string, string>, signal?: AbortSignal }} rest
 */
async function request(method, path, { body, headers = {}, signal } = {}) {
  /** @type {Object<string, string>} */
  const sent = { "X-Requested-With": "imprint", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(0, "unreachable", "unreachable");
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

/** @param {Promise<Response>} sent */
async function read(sent) {
  const response = await sent;
  try { return await response.json(); } catch { throw new Failure(response.status, "unreadable", "noAnswer"); }
}

/**
 * Send a request, and the JSON of its answer. Throws `Failure`.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export async function call(method, path, body) { return answered(path, read(request(method, path, { body }))); }

/**
 * The events of a generation, after as many characters as are there already. Throws `Failure`, also where the stream breaks.
 * @param {string} generation
 * @param {number} after
 * @param {AbortSignal} signal
 */
export async function* follow(generation, after, signal) {
  const headers = after > 0 ? { "Last-Event-ID": String(after) } : {};
  const path = `/api/generations/${encodeURIComponent(generation)}/events`;
  const response = await answered(path, request("GET", path, { headers, signal }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event !== null) yield event;
      }
    }
  } catch (error) {
    if (signal?.aborted) throw error;
    throw error instanceof Failure ? error : new Failure(0, "unreachable", "unreachable");
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const event = { name: "message", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (colon > 0) {
      if (line.startsWith("event:")) event.name = value;
      if (line.startsWith("data:")) event.data += value;
    }
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}
