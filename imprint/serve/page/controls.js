// What the next answer is asked of, and how: the model, the base beside it, one turn or several, and sampling.
import { dialog, field, h, iconButton } from "./dom.js";
import { baseModel, canCompare, choices, choose, chosenModel, DEFAULTS, session } from "./state.js";
import { halves, say, saying, t } from "./words.js";

export class Controls {
  /** `onchange()`: another choice; `onmode()`: single-turn in place of multi-turn, or back. */
  constructor({ onchange, onmode }) {
    this.onchange = onchange;
    this.onmode = onmode;
    this.menu = h("select", { id: "model", label: "model", onchange: () => this.chose({ model: this.menu.value }) });
    this.compare = h("input", { type: "checkbox", role: "switch", onchange: () => this.chose({ compare: this.compare.checked }) });
    this.compareLabel = h("label", { class: "switch", tip: "compareTip" }, this.compare, h("span", { said: "compare" }));
    this.element = h("div", { class: "controls" },
      this.menu, this.compareLabel, h("span", { class: "space" }), this.modes(), iconButton("sliders", "settings", () => openSampling()));
    this.refresh();
  }

  modes() {
    const mode = (name) => h("label", {},
      h("input", { type: "radio", name: "mode", value: name, checked: choices.mode === name, onchange: () => { choose({ mode: name }); this.onmode(); } }),
      h("span", { said: name }));
    this.modeRadios = h("div", { class: "segments", role: "radiogroup", label: "mode" }, mode("single"), mode("multi"));
    return this.modeRadios;
  }

  chose(changes) {
    choose(changes);
    this.refresh();
    this.onchange();
  }

  /** Show the choices as they are. */
  refresh() {
    const chosen = chosenModel();
    this.menu.replaceChildren(...session.models.map((model) => h("option", {
      value: model.id, selected: model === chosen, said: () => `${model.id} · ${model.parent === null ? t("baseOf", { root: model.root }) : t("tuned")}`,
    })));
    this.menu.disabled = session.models.length === 0;
    this.compareLabel.hidden = !canCompare();
    this.compare.checked = choices.compare;
    for (const radio of this.modeRadios.querySelectorAll("input")) radio.checked = radio.value === choices.mode;
  }
}

function openSampling() {
  return dialog("settings", () => {
    const longest = chosenModel()?.max_model_len ?? 2048;
    const temperature = slider(choices.temperature, 0, 2, 0.05, (value) => choose({ temperature: value }));
    const topP = slider(choices.topP, 0.05, 1, 0.05, (value) => choose({ topP: value }));
    const length = h("input", {
      type: "number", min: "1", max: String(longest), step: "1", inputmode: "numeric", hint: "lengthHint", value: choices.length ?? "",
      oninput: () => choose({ length: length.value && length.validity.valid ? Number(length.value) : null }),
    });
    const reset = () => {
      choose(DEFAULTS);
      temperature.put(DEFAULTS.temperature);
      topP.put(DEFAULTS.topP);
      length.value = "";
    };
    return [
      field("temperature", temperature.element, "temperatureNote"), field("topP", topP.element, "topPNote"), field("length", length),
      h("footer", {}, h("button", { type: "button", said: "resetSampling", onclick: reset })),
    ];
  });
}

function slider(start, min, max, step, onchange) {
  const shown = h("output", {}, start.toFixed(2));
  const range = h("input", { type: "range", min, max, step, oninput: () => { put(Number(range.value)); onchange(Number(range.value)); } });
  const put = (value) => { range.value = value; shown.value = value.toFixed(2); };
  put(start);
  return { element: h("span", { class: "slider" }, range, shown), put };
}

/** The line that says on which base answers are made, under which licence, and what to know about it. */
export function aboutLine() {
  const line = h("p", { class: "about" });
  const refresh = () => {
    const base = baseModel() ?? chosenModel();
    const parts = () => {
      if (base === null) return t("noModels");
      const licence = base.licence ? t("licence", { licence: base.licence }) : t("licenceUnknown");
      return [t("aboutModel", { base: base.root }), licence, base.note ? saying(halves(base.note)) : ""].filter(Boolean).join(" · ");
    };
    say(line, "text", parts);
  };
  refresh();
  return { element: line, refresh };
}

