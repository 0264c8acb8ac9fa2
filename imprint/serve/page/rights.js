// Fields about the models that an account or a key may use.
import { h } from "./dom.js";
import { session } from "./state.js";

/** All models, or only those that are ticked; `value()` is null for all, else sorted. `known`: the models there are. */
export function modelPicker(chosen, known = session.models) {
  const names = [...new Set([...known.map((model) => model.id), ...(chosen ?? [])])];
  const boxes = names.map((name) => h("input", { type: "checkbox", value: name, checked: chosen?.includes(name) ?? false }));
  const some = h("div", { class: "boxes", hidden: chosen === null }, ...boxes.map((box) => h("label", { class: "check" }, box, h("span", {}, box.value))));
  const isAll = h("select", { label: "rights", onchange: () => { some.hidden = isAll.value === "all"; } },
    h("option", { value: "all", said: "allModels", selected: chosen === null }), h("option", { value: "some", said: "onlyThese", selected: chosen !== null }));
  return {
    element: h("fieldset", { class: "field" }, h("legend", { said: "rights" }), isAll, some),
    value: () => (isAll.value === "all" ? null : boxes.filter((box) => box.checked).map((box) => box.value).sort()),
  };
}
