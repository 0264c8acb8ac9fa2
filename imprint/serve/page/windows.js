// What the windows of a browser share: it has six connections to the service, and each answer that is read takes one.
const ALL = 4;  // answers that are read at the same time, so that requests have connections too
const TURN_MS = 2000;  // for which an answer is read while others wait for its connection

const channel = opened();
const own = `${Date.now()}-${Math.random()}`;
const others = new Set();  // windows that read answers, or wait for their turn
let isReading = false;
/** @type {() => void} */
let changed = () => {};

function opened() {
  try { return new BroadcastChannel("imprint.windows"); } catch { return null; }  // a browser that keeps nothing tells its windows nothing
}

/** How many answers this window may read now: of more windows than may read at the same time, each has its turns. */
export function share() {
  const count = others.size + 1;
  if (count <= ALL) return Math.floor(ALL / count);
  const place = [...others].filter((one) => one < own).length;
  return (place + Math.floor(Date.now() / TURN_MS)) % count < ALL ? 1 : 0;
}

/** Milliseconds until the next turn, which begins at the same time in all windows. */
export function untilTurn() { return TURN_MS - (Date.now() % TURN_MS); }

/**
 * Call a function when another window has answers to read, or no more.
 * @param {() => void} listener
 */
export function onShare(listener) { changed = listener; }

/**
 * Tell the other windows whether this one has answers to read.
 * @param {boolean} reads
 */
export function tellReading(reads) {
  if (reads === isReading) return;
  isReading = reads;
  channel?.postMessage({ from: own, reads, asks: reads });
}

channel?.addEventListener("message", ({ data }) => {
  if (data.reads) others.add(data.from);
  else others.delete(data.from);
  if (data.asks && isReading) channel.postMessage({ from: own, reads: true, asks: false });
  changed();
});
addEventListener("pagehide", () => tellReading(false));
