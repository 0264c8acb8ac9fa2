// Administration: requests for accounts, accounts, the service, the audit log.
import { call } from "./api.js";
import { dialog, field, h, notice, problemLine, showOnce, submitting, sure, tell } from "./dom.js";
import { modelPicker } from "./rights.js";
import { session } from "./state.js";
import { count, fromNow, halves, moment, t } from "./words.js";

const TABS = { requests: requestsTab, users: usersTab, service: serviceTab, audit: auditTab };

/** The view of admins; `tab` is one of its parts. */
export function adminView(tab) {
  const chosen = Object.hasOwn(TABS, tab) ? tab : "requests";
  const body = h("div", { class: "tab" }, h("p", { class: "nothing", said: "loading" }));
  const links = Object.keys(TABS).map((name) => h("a", { href: `#/admin/${name}`, said: name, "aria-current": name === chosen ? "page" : null }));
  const load = async () => {
    try { body.replaceChildren(...[await TABS[chosen](load)].flat()); } catch (failure) { tell(failure); }
  };
  load();
  return h("main", { id: "main", class: "view", tabindex: "-1" }, h("h1", { said: "admin" }), h("nav", { class: "tabs", label: "admin" }, ...links), body);
}

/** Do something from a button, once at a time, and tell a failure. */
function doing(action, load) {
  let isDoing = false;
  return async () => {
    if (isDoing) return;
    isDoing = true;
    try {
      if (await action() !== false) await load();
    } catch (failure) {
      tell(failure);
    } finally {
      isDoing = false;
    }
  };
}

const button = (word, onclick, kind = "") => h("button", { type: "button", class: kind, said: word, onclick });
const showPassword = (name, password) => showOnce(["passwordMade", { name }], "passwordOnce", password);

async function requestsTab(load) {
  const [{ requests }, { models }] = await Promise.all([call("GET", "/api/admin/requests"), call("GET", "/api/admin/models")]);
  if (requests.length === 0) return h("p", { class: "nothing", said: "noRequests" });
  return h("ul", { class: "requests" }, ...requests.map((one) => request(one, models, load)));
}

function request(one, models, load) {
  const path = `/api/admin/requests/${encodeURIComponent(one.id)}`;
  const decline = async () => {
    if (!await sure("decline", ["declineSure", { name: one.name }], "decline")) return false;
    await call("POST", `${path}/decline`);
    notice("declined");
    return true;
  };
  const approve = () => openUser({ title: ["approveTitle", { name: one.name }], action: "approve", account: { name: one.name }, models }, async (fields) => {
    const { user, password } = await call("POST", `${path}/approve`, fields);
    return () => showPassword(user.name, password);
  });
  return h("li", { class: "card flat" },
    h("div", {}, h("h2", {}, one.name), h("p", {}, one.contact), one.reason && h("blockquote", {}, one.reason),
      h("p", { class: "small", said: () => `${fromNow(one.asked_at)} · ${t("fromAddress", { address: one.address })}` })),
    h("div", { class: "row" }, button("decline", doing(decline, load)), button("approve", doing(approve, load), "primary")));
}

/** The accounts as they are now, and the models there are. */
async function accounts() {
  const [{ users }, { models }] = await Promise.all([call("GET", "/api/admin/users"), call("GET", "/api/admin/models")]);
  return { users, models };
}

async function usersTab(load) {
  const { users, models } = await accounts();
  const create = () => openUser({ title: "newUser", action: "create", account: {}, models, isNew: true }, async (fields) => {
    const { user, password } = await call("POST", "/api/admin/users", fields);
    return () => showPassword(user.name, password);
  });
  const head = ["name", "role", "rights", "usedToday", "state"].map((word) => h("th", { scope: "col", said: word }));
  return [
    h("div", { class: "row end" }, button("newUser", doing(create, load), "primary")),
    h("div", { class: "table" }, h("table", {}, h("thead", {}, h("tr", {}, ...head, h("td"))), h("tbody", {}, ...users.map((user) => userRow(user, load))))),
  ];
}

function userRow(user, load) {
  const path = `/api/admin/users/${user.id}`;
  const isGuest = user.role === "guest";
  const isMe = user.name === session.me.name;
  const state = user.disabled_at !== null ? "disabled" : user.must_change_password ? "mustChange" : "active";
  const edit = async () => {
    const { users, models } = await accounts();
    const account = users.find((one) => one.id === user.id) ?? user;
    return openUser({ title: ["editUser", { name: user.name }], action: "save", account, models }, async (fields) => {
      await call("PATCH", path, changedFields(fields, account));
      return () => notice("saved");
    });
  };
  const reset = async () => {
    if (!await sure("reset", ["resetSure", { name: user.name }], "reset")) return false;
    const { password } = await call("POST", `${path}/reset-password`);
    await showPassword(user.name, password);
    return true;
  };
  const toggle = async () => {
    const isOn = user.disabled_at === null;
    if (isOn && !await sure("disable", ["disableSure", { name: user.name }], "disable")) return false;
    await call("PATCH", path, { disabled: isOn });
    return true;
  };
  const role = { guest: "roleGuest", user: "roleUser", admin: "roleAdmin" }[user.role];
  return h("tr", { class: state === "disabled" ? "ended" : "" },
    h("th", { scope: "row" }, user.name, isMe && h("small", { said: () => ` (${t("yourself")})` }), user.contact && h("small", { class: "block" }, user.contact)),
    h("td", { class: "short", head: "role", said: role }),
    h("td", { head: "rights", said: () => (user.models === null ? t("allModels") : user.models.join(", ") || t("none")) }),
    h("td", { class: "number", head: "usedToday", said: () => `${count(user.used_today)} / ${count(user.tokens_a_day)}` }),
    h("td", { head: "state" }, h("span", { class: `badge ${state}`, said: state })),
    h("td", { class: "actions" },
      button("edit", doing(edit, load)), !isGuest && button("reset", doing(reset, load)),
      !isMe && button(user.disabled_at === null ? "disable" : "enable", doing(toggle, load))));
}

/** The fields that differ from those of the account: what another admin has changed since stays. */
function changedFields(fields, account) {
  return Object.fromEntries(Object.entries(fields).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(account[name])));
}

/** A dialog about an account; `act(fields)` sends it, and what it returns is shown after. Resolves to whether it was sent. */
async function openUser({ title, action, account, models, isNew = false }, act) {
  const isOld = account.id !== undefined;
  const isGuest = account.role === "guest";
  const problem = problemLine();
  const name = h("input", { value: account.name ?? "", required: true, maxlength: "48", autocomplete: "off", spellcheck: "false" });
  const contact = h("input", { maxlength: "200", autocomplete: "off", hint: "contactHint" });
  const role = h("select", {}, ...["user", "admin"].map((value) =>
    h("option", { value, selected: account.role === value, said: value === "user" ? "roleUser" : "roleAdmin" })));
  const number = (value, low) => h("input", { type: "number", min: low, step: "1", inputmode: "numeric", value: value ?? "", required: isOld, hint: "tokensDefault" });
  const tokens = number(account.tokens_a_day, "0");
  const concurrency = number(account.concurrency, "1");
  const rights = modelPicker(account.models ?? null, models);
  const fields = () => ({
    ...(isOld ? {} : { name: name.value }),
    ...((isOld && !isGuest) || isNew ? { role: role.value } : {}),
    ...(isNew ? { contact: contact.value } : {}),
    models: rights.value(),
    ...(tokens.value ? { tokens_a_day: Number(tokens.value) } : {}),
    ...(concurrency.value ? { concurrency: Number(concurrency.value) } : {}),
  });
  const after = await dialog(title, (close) => {
    const form = h("form", {},
      !isOld && field("name", name), isNew && field("contact", contact), ((isOld && !isGuest) || isNew) && field("role", role), rights.element,
      h("div", { class: "columns" }, field("tokensADay", tokens), field("concurrency", concurrency)), problem,
      h("footer", {}, button("cancel", () => close()), h("button", { type: "submit", class: "primary", said: action })));
    return submitting(form, problem, async () => close(await act(fields())));
  });
  if (!after) return false;
  await after();
  return true;
}

/** Whether guests come in; shown as the service has it, also where a change was refused. */
function guestsCard(kept) {
  const problem = problemLine();
  const save = async () => {
    const chosen = guests.value;
    if (chosen === kept) return;
    problem.hidden = true;
    try {
      await call("PUT", "/api/admin/settings", { guests: chosen });
      kept = chosen;
      notice("saved");
    } catch (failure) {
      guests.value = kept;
      tell(failure, problem);
    }
  };
  let saving = Promise.resolve();
  const guests = h("select", { onchange: () => { saving = saving.then(save); } },
    ...[["loopback", "guestsLoopback"], ["everywhere", "guestsEverywhere"], ["off", "guestsOff"]].map(([value, said]) =>
      h("option", { value, said, selected: kept === value })));
  return h("div", { class: "card flat" }, field("guestsSetting", guests), problem);
}

async function serviceTab() {
  const [settings, queue, { models }] = await Promise.all([
    call("GET", "/api/admin/settings"), call("GET", "/api/admin/queue"), call("GET", "/api/admin/models")]);
  const figures = { waiting: queue.waiting, running: queue.running, slots: queue.slots, newTokens: queue.new_tokens, failed: queue.failed, restarts: queue.restarts };
  const figure = (word, said) => h("div", {}, h("dt", { said: word }), h("dd", { said }));
  const backup = async () => {
    const { file } = await call("POST", "/api/admin/backup");
    notice(["backupDone", { file }]);
  };
  return [
    guestsCard(settings.guests),
    h("dl", { class: "figures" },
      figure("engine", queue.ready ? "ready" : "notReady"),
      ...Object.entries(figures).map(([word, value]) => figure(word, () => count(value))),
      ...(queue.max_kv_tokens ? [figure("kvTokens", () => `${count(queue.kv_tokens)} / ${count(queue.max_kv_tokens)}`)] : []),
      ...(queue.servers ? [figure("servers", () => count(queue.servers))] : [])),
    ...(queue.hint === null ? [] : [h("p", { class: "problem", said: halves(queue.hint) })]),
    h("ul", { class: "models" }, ...models.map((model) => h("li", {}, h("span", { class: model.parent === null ? "who" : "who tuned" }, model.id),
      h("small", { said: () => [model.root, model.licence, t("tokens", { count: model.max_model_len })].filter(Boolean).join(" · ") })))),
    h("div", { class: "row" }, button("backup", doing(backup, () => {}))),
  ];
}

async function auditTab() {
  const rows = h("tbody");
  const more = button("moreChats", () => next().catch((failure) => tell(failure)));
  let before = null;
  const next = async () => {
    const { entries } = await call("GET", `/api/admin/audit?limit=50${before === null ? "" : `&before=${before}`}`);
    before = entries.at(-1)?.id ?? before;
    more.hidden = entries.length < 50;
    rows.append(...entries.map((one) => h("tr", {},
      h("td", { said: () => moment(one.at) }), h("td", {}, one.actor, one.address && h("small", { class: "block" }, one.address)),
      h("td", {}, h("code", {}, one.action)), h("td", {}, one.subject ?? ""), h("td", { class: "detail" }, one.detail ?? ""))));
  };
  await next();
  const head = ["time", "actor", "event", "subject", "detail"].map((word) => h("th", { scope: "col", said: word }));
  return [h("div", { class: "table" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), rows)), more];
}
