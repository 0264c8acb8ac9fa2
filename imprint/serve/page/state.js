// What the page knows: who is signed in, which models may be used, what is left of the day, and the choices for the next answer.
import { call } from "./api.js";
import { store, stored } from "./words.js";

export const DEFAULTS = { temperature: 0.95, topP: 0.7, length: null };

/** @typedef {{ name: string, role: "guest" | "user" | "admin", must_change_password: boolean, tokens_a_day: number, concurrency: number }} Me */
/** @typedef {{ id: string, root: string, parent: ?string, max_model_len: number, licence: ?string, note: ?string }} Model */
/** @typedef {{ limit: number, used: number, left: number, resets_at: number }} Usage */

/** @type {{ me: ?Me, guests: boolean, version: string, models: Model[], usage: ?Usage }} */
export const session = { me: null, guests: false, version: "", models: [], usage: null };

/** @type {{ model: ?string, compare: boolean, mode: "single" | "multi", temperature: number, topP: number, length: ?number }} */
export const choices = { model: null, compare: false, mode: "multi", ...DEFAULTS, ...keptChoices() };

function keptChoices() {
  try {
    const kept = JSON.parse(stored("imprint.choices") ?? "{}");
    const number = (value, low, high) => (typeof value === "number" && value >= low && value <= high ? value : undefined);
    const checked = {
      model: typeof kept.model === "string" ? kept.model : undefined,
      compare: kept.compare === true,
      mode: kept.mode === "single" ? "single" : undefined,
      temperature: number(kept.temperature, 0, 2),
      topP: number(kept.topP, 0.05, 1),
      length: number(kept.length, 1, 2 ** 31),
    };
    return Object.fromEntries(Object.entries(checked).filter(([, value]) => value !== undefined));
  } catch {
    return {};
  }
}

/** Change some choices, for now and for the next visit. */
export function choose(changes) {
  Object.assign(choices, changes);
  store("imprint.choices", JSON.stringify({ ...keptChoices(), ...changes }));  // what another window chose stays
}

/** The model that answers, of those that may be used: the chosen one, else the last run, else the base. */
export function chosenModel() {
  return session.models.find((model) => model.id === choices.model) ?? session.models.at(-1) ?? null;
}

/** The base, where it may be used. */
export function baseModel() { return session.models.find((model) => model.parent === null) ?? null; }

/** Whether the chosen model can stand beside the base. */
export function canCompare() { return baseModel() !== null && chosenModel() !== null && chosenModel().parent !== null; }

/** Ids of the models that answer the next question, the base first. */
export function answering() {
  const chosen = chosenModel();
  if (chosen === null) return [];
  return choices.compare && canCompare() ? [baseModel().id, chosen.id] : [chosen.id];
}

/** The fields of a request that say how its answers are sampled. */
export function sampling() {
  const fields = { models: answering(), temperature: choices.temperature, top_p: choices.topP };
  return choices.length === null ? fields : { ...fields, max_tokens: choices.length };
}

/** @type {() => void} */
let watcher = () => {};

/**
 * Call a function each time the day's tokens are known anew, and what was to be called before no longer.
 * @param {() => void} next
 */
export function onUsage(next) { watcher = next; }

/** Ask how many tokens are left. */
export async function refreshUsage() {
  session.usage = await call("GET", "/api/me/usage");
  watcher();
}

/** Ask which models may be used. */
export async function refreshModels() {
  session.models = (await call("GET", "/api/models")).models;
}
