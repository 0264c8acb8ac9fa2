// Before the chat: come as a guest, sign in, ask for an account, choose one's own password.
import { call } from "./api.js";
import { field, h, icon, notice, problemLine, seal, submitting } from "./dom.js";
import { languageButton, themeButton } from "./sidebar.js";
import { session } from "./state.js";

const input = (name, attributes) => h("input", { name, required: true, ...attributes });

function card(...children) {
  return h("main", { class: "entrance" },
    h("div", { class: "corner" }, themeButton(), languageButton()),
    h("div", { class: "card" }, ...children));
}

/** A sentence above a form: that a session has ended; nothing where none has. */
const endedLine = (ended) => ended && h("p", { class: "problem", role: "alert", said: ended });

/** The first page: `onin(me, password)` goes on with whoever has come in; `ended`: why nobody is in any more. */
export function welcome(onin, ended = null) {
  const problem = problemLine();
  const asGuest = submitting(
    h("form", {}, h("button", { type: "submit", class: "primary large", said: "guestTry" }), h("p", { class: "small", said: "guestNote" })),
    problem, async () => onin((await call("POST", "/api/session/guest")).me));
  return card(
    seal(), h("h1", {}, "Imprint"), h("p", { class: "tagline", said: "tagline" }), endedLine(ended),
    session.guests ? asGuest : h("p", { class: "small", said: "guestOff" }), problem,
    h("div", { class: "or" }, h("a", { class: "button", href: "#/signin" }, icon("enter"), h("span", { said: "signIn" })),
      h("a", { class: "button", href: "#/ask" }, icon("people"), h("span", { said: "askAccount" }))));
}

/** Sign in by name and password; `known`: the name of whom a session has ended. */
export function signIn(onin, ended = null, known = null) {
  const problem = problemLine();
  const name = input("name", { value: known ?? "", autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: "200" });
  const password = input("password", { type: "password", autocomplete: "current-password", maxlength: "4096" });
  const form = h("form", {}, field("name", name), field("password", password), problem,
    h("button", { type: "submit", class: "primary large", said: "signIn" }));
  submitting(form, problem, async () => onin((await call("POST", "/api/session", { name: name.value, password: password.value })).me, password.value));
  return focused(card(h("h1", { said: "signIn" }), endedLine(ended), form, h("div", { class: "or" },
    h("a", { href: "#/", said: "back" }), h("a", { href: "#/ask", said: "askAccount" }))), known === null ? name : password);
}

/** Ask for an account. */
export function askForAccount() {
  const problem = problemLine();
  const name = input("name", { autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: "48" });
  const contact = input("contact", { autocomplete: "email", hint: "contactHint", maxlength: "200" });
  const reason = h("textarea", { name: "reason", rows: "3", hint: "reasonHint", maxlength: "2000" });
  const form = h("form", {}, field("name", name), field("contact", contact), field("reason", reason), problem,
    h("button", { type: "submit", class: "primary large", said: "askSend" }));
  submitting(form, problem, async () => {
    await call("POST", "/api/requests", { name: name.value, contact: contact.value, reason: reason.value });
    form.replaceWith(h("p", { class: "done", role: "status", said: "asked" }));
  });
  return focused(card(h("h1", { said: "askAccount" }), h("p", { class: "tagline", said: "askIntro" }), form,
    h("div", { class: "or" }, h("a", { href: "#/", said: "back" }), h("a", { href: "#/signin", said: "signIn" }))), name);
}

/** Choose one's own password; `known`: the one-time password that was just typed, which then need not be typed again. */
export function changePassword({ known, onchanged, onleave }) {
  const isForced = session.me.must_change_password;
  const problem = problemLine();
  const old = input("old", { type: "password", autocomplete: "current-password", maxlength: "4096", value: known ?? "" });
  const fresh = input("new", { type: "password", autocomplete: "new-password", hint: "newPasswordHint", minlength: "10", maxlength: "256" });
  const again = input("again", { type: "password", autocomplete: "new-password", maxlength: "256" });
  const form = h("form", {},
    h("input", { class: "hidden", name: "username", autocomplete: "username", value: session.me.name, tabindex: "-1", "aria-hidden": "true", readonly: true }),
    !known && field(isForced ? "oneTimePassword" : "oldPassword", old), field("newPassword", fresh), field("repeatPassword", again), problem,
    h("button", { type: "submit", class: "primary large", said: "changePassword" }));
  submitting(form, problem, async () => {
    if (fresh.value !== again.value) throw { said: "notSame" };
    const { me } = await call("POST", "/api/me/password", { old: old.value, new: fresh.value });
    notice("changed");
    onchanged(me);
  });
  const leave = isForced
    ? h("button", { type: "button", class: "link", said: "signOut", onclick: onleave })
    : h("a", { href: "#/", said: "back" });
  return focused(card(h("h1", { said: "changeTitle" }), isForced && h("p", { class: "tagline", said: "changeForced" }), form, h("div", { class: "or" }, leave)),
    known ? fresh : old);
}

function focused(element, control) {
  queueMicrotask(() => control.focus());
  return element;
}
