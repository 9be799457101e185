// The figure of medtutor/widgets.py without a kernel. KEY and DATA are put in by Python. The sheet holds every frame once,
// `columns` tiles a row; `index` says for each combination of values, in the order of the controls, which tile it shows.
(function () {
  var data = DATA, ROW = "display:flex;gap:.6em;align-items:center;min-height:2.4em;flex-wrap:wrap";
  var STILL = matchMedia("(prefers-reduced-motion: reduce)");

  function element(name, attributes, parent, text) {
    var made = document.createElement(name);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    made.textContent = text || "";
    return parent.appendChild(made);
  }

  function start(root) {
    var figure = root.querySelector("figure"), picture = root.querySelector("img"), caption = root.querySelector("figcaption");
    var canvas = element("canvas", { width: data.width, height: data.height, role: "img",
      style: picture.getAttribute("style") + ";width:" + picture.getAttribute("width") + "px" }, figure);
    var box = element("div", { class: "medtutor-controls" }, root);
    // JupyterLab would take the arrow keys for itself.
    box.addEventListener("keydown", function (event) { event.stopPropagation(); });
    var inputs = data.controls.map(control), wanted, sheet;
    canvas.remove();

    function control(given) {
      var row = element("div", { style: ROW }, box), label = element("label", { style: ROW + ";flex:1 1 12em;max-width:36em" }, row);
      element("span", { style: "min-width:7em" }, label, given.name);
      if (!given.slider) {
        var menu = element("select", { autocomplete: "off", style: "font:inherit;min-height:1.8em;max-width:100%" }, label);
        given.labels.forEach(function (text, i) { element("option", { value: i }, menu, text); });
        menu.value = given.first;
        menu.addEventListener("input", show);
        return menu;
      }
      var slider = element("input", { type: "range", min: 0, max: given.labels.length - 1, step: 1, autocomplete: "off",
        style: "flex:1 1 9em;min-height:1.8em" }, label);
      slider.value = given.first;
      element("span", { "aria-hidden": "true", style: "min-width:3em" }, label, given.labels[given.first]);
      slider.addEventListener("input", show);
      if (given.labels.length > 2) player(slider, row, given);
      return slider;
    }

    // Plays the values once, from where the slider stands to its end, then again from its start. A reader who asked for
    // less motion moves on by one value with each press.
    function player(slider, row, given) {
      var button = element("button", { type: "button", style: "font:inherit;min-height:2em;min-width:5em;padding:0 .8em;" +
        "color:inherit;background:none;border:1px solid currentColor;border-radius:.3em;cursor:pointer;touch-action:manipulation" }, row);
      var pause = Math.max(150, Math.min(700, 8000 / given.labels.length)), timer = null;

      function step() {
        slider.value = slider.value === slider.max ? 0 : +slider.value + 1;
        show();
      }
      function name() {
        var word = timer !== null ? "Pause" : STILL.matches ? "Next" : "Play";
        button.textContent = word;
        button.setAttribute("aria-label", word + " " + given.name);
        caption.setAttribute("aria-live", timer !== null ? "off" : "polite");  // a film is not read out
      }
      function stop() { clearInterval(timer); timer = null; name(); }

      button.addEventListener("click", function () {
        if (timer !== null) return stop();
        step();
        if (STILL.matches || slider.value === slider.max) return;
        timer = setInterval(function () {
          step();
          if (slider.value === slider.max || STILL.matches) stop();
        }, pause);
        name();
      });
      slider.addEventListener("pointerdown", stop);
      slider.addEventListener("keydown", stop);
      if (STILL.addEventListener) STILL.addEventListener("change", stop);
      name();
    }

    function draw() {
      canvas.getContext("2d").drawImage(sheet, wanted % data.columns * data.width,
        Math.floor(wanted / data.columns) * data.height, data.width, data.height, 0, 0, data.width, data.height);
      canvas.dataset.tile = wanted;
      if (picture.isConnected) figure.replaceChild(canvas, picture);
    }

    function show() {
      var at = 0;
      inputs.forEach(function (input, i) {
        var labels = data.controls[i].labels;
        at = at * labels.length + +input.value;
        if (input.type !== "range") return;
        input.setAttribute("aria-valuetext", labels[input.value]);
        input.nextElementSibling.textContent = labels[input.value];
      });
      wanted = data.index[at];
      if (caption.textContent !== data.captions[at]) caption.textContent = data.captions[at];
      canvas.setAttribute("aria-label", data.alt + " " + data.captions[at]);
      if (!sheet) {
        sheet = new Image();
        sheet.src = data.sheet;
      }
      if (sheet.complete && sheet.naturalWidth) return draw();
      sheet.decode().then(draw, function () { caption.textContent = "The pictures of this figure could not be loaded."; });
    }

    // The still stands until the sheet is there; it is asked for when the figure is near, and not before.
    new IntersectionObserver(function (entries, observer) {
      if (!entries.some(function (entry) { return entry.isIntersecting; })) return;
      observer.disconnect();
      if (!sheet) show();
    }, { rootMargin: "400px" }).observe(root);
  }

  // Found by attribute, not by document.currentScript or an id: JupyterLab re-creates script elements, and the same figure
  // may be twice on a page.
  document.querySelectorAll('[data-medtutor="' + KEY + '"]').forEach(function (root) {
    if (root.dataset.ready) return;
    root.dataset.ready = "1";
    start(root);
  });
})();
