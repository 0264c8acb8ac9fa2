// What the windows of a browser share: it has six connections to the service, and each answer that is read takes one.
const ALL = 4;  // answers that are read at the same time, so that requests have connections too

const channel = new BroadcastChannel("imprint.windows");
const own = `${Date.now()}-${Math.random()}`;
const others = new Set();  // windows that read answers
let isReading = false;
/** @type {() => void} */
let changed = () => {};

/** How many answers this window may read at the same time. */
export function share() { return Math.max(1, Math.floor(ALL / (others.size + 1))); }

/**
 * Call a function when another window begins to read answers, or ends it.
 * @param {() => void} listener
 */
export function onShare(listener) { changed = listener; }

/**
 * Tell the other windows whether this one reads answers.
 * @param {boolean} reads
 */
export function tellReading(reads) {
  if (reads === isReading) return;
  isReading = reads;
  channel.postMessage({ from: own, reads, asks: reads });
}

channel.addEventListener("message", ({ data }) => {
  if (data.reads) others.add(data.from);
  else others.delete(data.from);
  if (data.asks && isReading) channel.postMessage({ from: own, reads: true, asks: false });
  changed();
});
addEventListener("pagehide", () => tellReading(false));
