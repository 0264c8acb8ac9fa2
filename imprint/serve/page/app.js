// The page: which view is shown, and what ties its parts together.
import { beginVisit, call, Failure, onSessionFailure } from "./api.js";
import { adminView } from "./admin.js";
import { Composer } from "./composer.js";
import { aboutLine, Controls } from "./controls.js";
import { canAsk, Conversation, forgetSingle } from "./conversation.js";
import { askForAccount, changePassword, signIn, welcome } from "./sign_in.js";
import { h, iconButton, tell } from "./dom.js";
import { keysView } from "./keys.js";
import { Sidebar, restoreTheme } from "./sidebar.js";
import { choices, chosenModel, refreshModels, refreshUsage, session } from "./state.js";
import { languageNow, say, setLanguage, store } from "./words.js";

const PRESENT = "imprint.present";  // changes when a window of this browser signs in or out

const app = document.getElementById("app");
let known = null;  // the one-time password that was just typed
let parts = null;  // the chat's parts, while somebody is signed in
let lost = null;  // of a session that ended by itself: whose it was, where, and what to say
let keepsCookies = false;  // whether the browser has shown that it keeps the cookie of a session
let draft = null;  // while the chat is not shown: whose it is, and the composer with the question that was not sent

/** Where the address says that we are: the words behind #/. */
function place() { return location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decode); }

function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

function go(where) {
  if (location.hash === `#/${where}`) show();
  else location.hash = `#/${where}`;
}

/** Show what the address names. */
function show() {
  const [view, detail] = place();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  const isGuest = session.me?.role === "guest";
  if (session.me === null || view === "signin" || (isGuest && view === "ask")) return showEntrance(view);
  if (session.me.must_change_password || (view === "password" && !isGuest)) return showPassword();
  if (parts === null) return enter();
  closeMenu();
  if (view === "keys" && !isGuest) return showView(keysView());
  if (view === "admin" && session.me.role === "admin") return showView(adminView(detail));
  return showChat(view === "chat" ? detail : null);
}

function showEntrance(view) {
  forgetParts();
  const ended = lost && lost.said;
  const pages = { signin: () => signIn(cameIn, ended, lost?.name), ask: askForAccount };
  app.className = "";
  app.replaceChildren((Object.hasOwn(pages, view) ? pages[view] : () => welcome(cameIn, ended))());
}

/** The chat is shown no longer; answers go on, and are read again when it is. */
function forgetParts() {
  parts?.conversation.leave();
  if (parts !== null) draft = { owner: parts.owner, composer: parts.composer };
  parts = null;
  document.title = "Imprint";
}

function showPassword() {
  forgetParts();
  app.className = "";
  app.replaceChildren(changePassword({ known, onchanged: (me) => { known = null; cameIn(me); }, onleave: leave }));
}

function cameIn(me, password = null) {
  session.me = me;
  known = me.must_change_password ? password : null;
  forgetSingle();  // another person may have used this window before
  forgetParts();
  if (draft?.owner !== me.name) beginVisit();
  if (lost?.name !== me.name) lost = null;
  if (["signin", "ask", "password"].includes(place()[0])) history.replaceState(null, "", lost?.place || "#/");
  store(PRESENT, String(Date.now()));
  show();
}

async function leave() {
  try {
    await call("DELETE", "/api/session");
  } catch (failure) {
    if (failure.status !== 401) { tell(failure); return; }
  }
  beginVisit();
  forgetSingle();
  forgetParts();
  known = lost = draft = session.me = null;
  store(PRESENT, String(Date.now()));
  history.replaceState(null, "", "#/");
  await start();
}

/** Build the chat's parts for whoever has come in. */
async function enter() {
  try {
    await Promise.all([refreshModels(), refreshUsage()]);
  } catch (failure) {
    if (session.me === null) return;
    showTrouble(failure, show);
    return;
  }
  keepsCookies = true;
  const sidebar = new Sidebar({
    onnew: fresh, ongone: (id) => { if (parts.conversation.chat?.id === id) go(""); }, onopen: (id) => go(`chat/${id}`), onleave: leave,
  });
  const conversation = new Conversation(changed, () => rightsChanged().catch(tell));
  const about = aboutLine();
  const owner = session.me.name;
  const composer = draft?.owner === owner ? draft.composer : newComposer();
  const controls = new Controls({ onchange: refreshed, onmode: fresh });
  const note = h("p", { class: "note", said: "singleNote" });
  const chat = h("main", { id: "main", class: "chat" }, h("header", { class: "top" }, menuButton(), controls.element), conversation.element,
    h("div", { class: "bottom" }, note, composer.element, about.element));
  const stage = h("div", { class: "stage" }, chat);
  parts = { owner, sidebar, conversation, about, composer, controls, note, chat, stage };
  app.className = "inside";
  app.replaceChildren(
    h("a", { class: "skip", href: "#main", said: "skip", onclick: skip }),
    sidebar.element, h("div", { class: "scrim", onclick: closeMenu }), stage);
  refreshed();
  if (lost !== null) composer.forgive();
  lost = draft = null;
  await sidebar.load();
  if (parts?.sidebar !== sidebar) return;
  if (choices.mode === "single") conversation.resume();
  show();
}

function newComposer() {
  return new Composer({ onsend: send, onstop: () => parts.conversation.stop(), onproblem: () => parts?.conversation.toEnd(true) });
}

/** Past the chats at the side: to where a question is written, or to the view in its place. */
function skip(event) {
  event.preventDefault();
  (document.getElementById("question") ?? document.getElementById("main")).focus();
}

function menuButton() {
  return iconButton("menu", "menu", () => { app.classList.toggle("open"); narrowMenu(); }, { class: "quiet menu", "aria-controls": "side", "aria-expanded": "false" });
}

function closeMenu() {
  const hadFocus = parts?.sidebar.element.contains(document.activeElement);
  app.classList.remove("open");
  narrowMenu();
  if (hadFocus && parts.sidebar.element.inert) parts.stage.querySelector(".menu")?.focus();
}

/** On a narrow page the chats at the side take no focus while they are away. */
function narrowMenu() {
  if (parts === null) return;
  const isNarrow = matchMedia("(max-width: 820px)").matches;
  const isOpen = app.classList.contains("open");
  parts.sidebar.element.inert = isNarrow && !isOpen;
  for (const button of document.querySelectorAll(".menu")) button.setAttribute("aria-expanded", String(isOpen));
}

/** Begin a new chat. */
function fresh() {
  forgetSingle();
  parts.conversation.clear();
  parts.composer.forgive();
  refreshed();
  go("");
}

function refreshed() {
  if (parts === null) return;
  const { composer, about, note } = parts;
  const model = chosenModel();
  say(composer.area, "placeholder", model ? ["askHint", { model: model.id }] : "noModels");
  composer.area.disabled = !canAsk();
  note.hidden = choices.mode !== "single";
  about.refresh();
}

function showView(element) {
  const { chat } = parts.conversation;
  const back = chat === null ? "#/" : `#/chat/${chat.id}`;
  parts.sidebar.mark(null);
  parts.stage.replaceChildren(h("div", { class: "page" }, h("header", { class: "top" }, menuButton(), h("a", { class: "button", href: back, said: "back" })), element));
  document.scrollingElement.scrollTop = 0;
}

async function showChat(id) {
  const { conversation, stage, chat, sidebar, composer, controls } = parts;
  if (chat.parentNode !== stage) stage.replaceChildren(chat);
  composer.fit();
  sidebar.mark(id);
  try {
    if (id !== null) {
      if (conversation.chat?.id !== id) {
        composer.forgive();
        if (choices.mode === "single") { choices.mode = "multi"; controls.refresh(); refreshed(); }
        await conversation.open(id);
      }
    } else if (conversation.chat !== null) {
      conversation.clear();
    }
  } catch (failure) {
    tell(failure);
    if (failure.endsSession) return;
    history.replaceState(null, "", "#/");
    conversation.clear();
    sidebar.mark(null);
  }
  changed(conversation);
  if (!matchMedia("(max-width: 820px)").matches && document.activeElement === document.body) composer.area.focus();
}

async function send(text) {
  const { conversation, sidebar } = parts;
  const isNew = conversation.chat === null;
  try {
    await conversation.ask(text);
  } catch (failure) {
    if (failure.code === "model_not_found") await rightsChanged();
    if (failure.code === "not_found") await call("GET", "/api/me");  // the session has ended, and its chats with it
    throw failure;
  }
  if (isNew && conversation.chat !== null) {
    history.replaceState(null, "", `#/chat/${conversation.chat.id}`);
    sidebar.current = conversation.chat.id;
  }
  if (conversation.chat !== null) await sidebar.load();
}

/** Show the models that may be used now. */
async function rightsChanged() {
  await refreshModels();
  parts?.controls.refresh();
  refreshed();
}

/** Answers began or ended, or another chat is shown. */
function changed(conversation) {
  if (parts?.conversation !== conversation) return;
  parts.composer.busy(conversation.live.length > 0);
  document.title = conversation.title ? `${conversation.title} · Imprint` : "Imprint";
}

onSessionFailure((failure) => {
  if (failure.code === "password_change_required") {
    if (session.me !== null) session.me.must_change_password = true;
  } else {
    if (session.me === null) return;
    const name = session.me.role === "guest" ? null : session.me.name;
    const said = !keepsCookies && failure.code === "missing_credentials" ? "noCookie" : name === null ? "guestEnded" : "sessionEnded";
    lost = { name, place: location.hash, said };
    session.me = null;
    history.replaceState(null, "", name === null ? "#/" : "#/signin");
  }
  queueMicrotask(show);
});

/** Another window has signed in or out: the cookie of this one is that of the other now. */
async function changedElsewhere() {
  const before = session.me;
  try {
    Object.assign(session, await call("GET", "/api/session"));
  } catch (failure) {
    tell(failure);
    return;
  }
  if (before?.name === session.me?.name && before?.role !== "guest" && before?.must_change_password === session.me?.must_change_password) return;
  beginVisit();
  forgetSingle();
  forgetParts();
  lost = known = draft = null;
  history.replaceState(null, "", "#/");
  show();
}

/** A page for what the service did not even say: the sentence, and another try. */
function showTrouble(failure, again) {
  if (!(failure instanceof Failure)) throw failure;
  app.className = "";
  app.replaceChildren(h("main", { class: "entrance" }, h("div", { class: "card" }, h("p", { role: "alert", said: failure.said }),
    h("div", { class: "or" }, h("button", { type: "button", class: "primary large", said: "tryAgain", onclick: again })))));
}

async function start() {
  setLanguage(languageNow());
  try {
    Object.assign(session, await call("GET", "/api/session"));
    show();
  } catch (failure) {
    showTrouble(failure, start);
  }
}

window.addEventListener("hashchange", show);
window.addEventListener("storage", (event) => { if (event.key === PRESENT) changedElsewhere(); });
matchMedia("(max-width: 820px)").addEventListener("change", narrowMenu);
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && app.classList.contains("open")) closeMenu(); });
restoreTheme();
start();
