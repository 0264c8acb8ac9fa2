// The chats at the side, and below them who is signed in.
import { call } from "./api.js";
import { dialog, field, h, icon, iconButton, problemLine, seal, submitting, sure, tell } from "./dom.js";
import { importButton, saveLink } from "./files.js";
import { onUsage, session } from "./state.js";
import { fromNow, languageNow, say, setLanguage, store, stored, t } from "./words.js";

const SEARCH_MS = 250;
const PAGE = 40;

export class Sidebar {
  /** `onnew()` begins a chat; `ongone(id)`: a chat was deleted; `onopen(id)`: one is to be opened; `onleave()` signs out. */
  constructor({ onnew, ongone, onopen, onleave }) {
    this.ongone = ongone;
    this.onopen = onopen;
    this.onleave = onleave;
    this.current = null;
    this.cursor = null;
    this.asked = 0;
    this.list = h("ul", { class: "chats" });
    this.nothing = h("p", { class: "nothing", hidden: true });
    this.more = h("button", { type: "button", class: "quiet worded", said: "moreChats", hidden: true, onclick: () => this.load(true) });
    this.search = h("input", { type: "search", label: "searchChats", hint: "searchChats", autocomplete: "off", maxlength: "200" });
    this.search.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.load(), SEARCH_MS);
    });
    this.begin = h("button", { type: "button", class: "new", onclick: onnew }, icon("plus"), h("span", { said: "newChat" }));
    this.account = h("div", { class: "account" });
    this.element = h("aside", { id: "side", label: "chats" },
      h("div", { class: "brand" }, seal(), h("strong", {}, "Imprint"), h("span", { class: "space" }), themeButton(), languageButton()),
      this.begin,
      h("div", { class: "search" }, icon("search"), this.search),
      h("nav", { label: "chats" }, this.list, this.nothing, this.more),
      this.account);
    onUsage(() => this.showUsage());
    this.showAccount();
  }

  showAccount() {
    const { me } = session;
    const isMember = me.role !== "guest";
    const link = (name, word, place) => h("a", { href: `#/${place}` }, icon(name), h("span", { said: word }));
    this.usage = h("meter", { min: "0", max: "1", low: "0.15", optimum: "1", label: "tokensADay" });
    this.usageLine = h("p", { class: "usage" });
    this.account.replaceChildren(
      h("div", { class: "links" },
        isMember && saveLink("/api/export", "chats.jsonl", "exportAll"),
        ...(isMember ? importButton((chats) => this.imported(chats)) : []),
        isMember && link("key", "keys", "keys"),
        me.role === "admin" && link("people", "admin", "admin"),
        isMember && link("lock", "changePassword", "password"),
        !isMember && link("people", "askAccount", "ask")),
      this.usage, this.usageLine,
      h("div", { class: "person" },
        h("span", { class: "named" }, h("b", {}, isMember ? me.name : ""), h("small", { said: { guest: "roleGuest", user: "roleUser", admin: "roleAdmin" }[me.role] })),
        !isMember && h("a", { class: "button", href: "#/signin", said: "signIn" }),
        iconButton("leave", "signOut", () => this.onleave())));
    this.showUsage();
  }

  async imported(chats) {
    this.search.value = "";
    await this.load();
    if (chats.length === 1) this.onopen(chats[0].id);
  }

  showUsage() {
    const { usage } = session;
    this.usage.hidden = this.usageLine.hidden = usage === null;
    if (usage === null) return;
    this.usage.value = usage.limit > 0 ? usage.left / usage.limit : 0;
    say(this.usageLine, "text", usage.left > 0
      ? ["quota", { left: usage.left, limit: usage.limit }]
      : ["quotaUsedUp", { when: () => fromNow(usage.resets_at) }]);
  }

  /** Ask for the chats: those with the words of the search, or more of them. */
  async load(isMore = false) {
    const words = this.search.value.trim();
    const number = ++this.asked;
    const query = new URLSearchParams({ limit: String(PAGE), ...(words && { q: words }), ...(isMore && this.cursor && { cursor: this.cursor }) });
    try {
      const { chats, next_cursor: cursor } = await call("GET", `/api/chats?${query}`);
      if (number !== this.asked) return;
      this.cursor = cursor;
      if (!isMore) this.list.replaceChildren();
      for (const chat of chats) this.insert(chat);
      this.more.hidden = cursor === null;
      this.nothing.hidden = this.list.childElementCount > 0;
      say(this.nothing, "text", words ? "noneFound" : "noChats");
      this.mark(this.current);
    } catch (failure) {
      tell(failure);
    }
  }

  /** Show a chat at its place; one that has changed since it was shown comes again. */
  insert(chat) {
    this.list.querySelector(`[data-chat="${CSS.escape(chat.id)}"]`)?.remove();
    const next = [...this.list.children].find((item) => Number(item.dataset.changed) < chat.updated_at);
    this.list.insertBefore(this.entry(chat), next ?? null);
  }

  entry(chat) {
    const link = h("a", { href: `#/chat/${chat.id}` });
    if (chat.title) link.textContent = chat.title;
    else say(link, "text", "untitled");
    link.title = chat.title;
    const more = iconButton("more", "chatActions", () => this.actions(chat));
    return h("li", { "data-chat": chat.id, "data-changed": String(chat.updated_at) }, link, more);
  }

  /** Show which chat is open. */
  mark(id) {
    this.current = id;
    for (const item of this.list.children) {
      if (item.dataset.chat === id) item.firstChild.setAttribute("aria-current", "page");
      else item.firstChild.removeAttribute("aria-current");
    }
  }

  async actions(chat) {
    const path = `/api/chats/${encodeURIComponent(chat.id)}`;
    const file = (format, word) => saveLink(`${path}/export?format=${format}`, `chat.${format}`, word, "button");
    const name = h("input", { value: chat.title, maxlength: "200", autocomplete: "off" });
    const problem = problemLine();
    const chosen = await dialog("chatActions", (close) => [
      submitting(h("form", { class: "inline" }, field("title", name), h("button", { type: "submit", said: "save" })), problem, async () => {
        if (name.value !== chat.title) await call("PATCH", path, { title: name.value });
        close("renamed");
      }),
      problem,
      session.me.role !== "guest" && h("div", { class: "row" }, file("md", "exportMarkdown"), file("json", "exportJson")),
      h("footer", {}, h("button", { type: "button", class: "danger", onclick: () => close("delete") }, icon("trash"), h("span", { said: "deleteChat" }))),
    ].filter(Boolean));
    if (chosen === "delete") await this.remove(chat, path);
    if (chosen === "renamed") await this.load();
    if (document.activeElement === document.body) (this.list.querySelector(`[data-chat="${CSS.escape(chat.id)}"] a`) ?? this.begin).focus();
  }

  async remove(chat, path) {
    if (!await sure("deleteChat", ["deleteChatSure", { title: chat.title || (() => t("untitled")) }], "deleteIt")) return;
    try {
      await call("DELETE", path);
      this.ongone(chat.id);
      await this.load();
    } catch (failure) {
      tell(failure);
    }
  }
}

/** A button that changes the language. */
export function languageButton() {
  return h("button", {
    type: "button", class: "quiet worded language", label: "languageLabel", said: "language", onclick: () => setLanguage(languageNow() === "zh" ? "en" : "zh"),
  });
}

/** A button that changes between light and dark. */
export function themeButton() {
  const toggle = () => {
    const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = isDark ? "light" : "dark";
    store("imprint.theme", document.documentElement.dataset.theme);
  };
  return iconButton("theme", "themeLabel", toggle);
}

/** Show the page as the visitor last chose. */
export function restoreTheme() {
  const theme = stored("imprint.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
