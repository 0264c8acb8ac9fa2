// One's own API keys: make one, see it once, revoke it.
import { call } from "./api.js";
import { field, h, problemLine, showOnce, submitting, sure, tell } from "./dom.js";
import { modelPicker } from "./rights.js";
import { chosenModel } from "./state.js";
import { fromNow, moment, t } from "./words.js";

const DAYS = [null, 30, 90, 365];

/** The view of keys. */
export function keysView() {
  const rows = h("tbody");
  const load = async () => {
    const { keys } = await call("GET", "/api/me/keys");
    rows.replaceChildren(...keys.map((key) => row(key, load)));
    if (keys.length === 0) rows.append(h("tr", {}, h("td", { colspan: "6", class: "nothing", said: "noKeys" })));
  };
  load().catch((failure) => tell(failure));
  const head = ["keyName", "keyBegins", "rights", "lastUsed", "expires", "state"].map((word) => h("th", { scope: "col", said: word }));
  return h("main", { id: "main", class: "view", tabindex: "-1" },
    h("h1", { said: "keys" }), h("p", { class: "tagline", said: "keysIntro" }), maker(load),
    h("div", { class: "table" }, h("table", {}, h("thead", {}, h("tr", {}, ...head, h("td"))), rows)));
}

function maker(load) {
  const problem = problemLine();
  const name = h("input", { maxlength: "64", autocomplete: "off" });
  const days = h("select", {}, ...DAYS.map((count) => h("option", { value: count ?? "", said: count === null ? "never" : ["inDays", { days: count }] })));
  const models = modelPicker(null);
  const form = h("form", { class: "card flat" },
    h("div", { class: "columns" }, field("keyName", name), field("expires", days), models.element), problem,
    h("button", { type: "submit", class: "primary", said: "newKey" }));
  return submitting(form, problem, async () => {
    const body = { name: name.value, models: models.value() };
    const made = await call("POST", "/api/me/keys", days.value ? { ...body, expires_in_days: Number(days.value) } : body);
    name.value = "";
    await load();
    await showOnce("keyMade", "keyOnce", made.key, h("p", { class: "small", said: "keyUse" }), h("pre", { tabindex: "0", role: "group", label: "keyUse" }, example(made)));
  });
}

function example({ key, models }) {
  const model = models?.[0] ?? chosenModel()?.id ?? "base";
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "你好" }] });
  return `curl ${location.origin}/v1/chat/completions \\\n  -H "Authorization: Bearer ${key}" \\\n  -H "Content-Type: application/json" \\\n  -d '${body.replaceAll("'", "'\\''")}'`;
}

function stateOf(key) {
  if (key.revoked_at !== null) return "revoked";
  return key.expires_at !== null && key.expires_at * 1000 < Date.now() ? "expired" : "valid";
}

function row(key, load) {
  const state = stateOf(key);
  const revoke = async () => {
    if (!await sure("revoke", ["revokeSure", { name: key.name || key.prefix }], "revoke")) return;
    try {
      await call("DELETE", `/api/me/keys/${encodeURIComponent(key.id)}`);
      await load();
    } catch (failure) {
      tell(failure);
    }
  };
  return h("tr", { class: state === "valid" ? "" : "ended" },
    h("th", { scope: "row" }, key.name || "–"),
    h("td", { head: "keyBegins" }, h("code", {}, `${key.prefix}…`)),
    h("td", { head: "rights", said: () => (key.models === null ? t("allModels") : key.models.join(", ") || t("none")) }),
    h("td", { head: "lastUsed", said: () => (key.used_at === null ? t("unused") : fromNow(key.used_at)) }),
    h("td", { head: "expires", said: () => (key.expires_at === null ? t("never") : moment(key.expires_at)) }),
    h("td", { head: "state" }, h("span", { class: `badge ${state}`, said: state })),
    h("td", { class: "actions" }, state === "valid" && h("button", { type: "button", said: "revoke", onclick: revoke })));
}
