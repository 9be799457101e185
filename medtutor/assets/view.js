// The viewer of medtutor/viewer.py. KEY and DATA are put in by Python. The sprite holds the picture in its red, the
// probability in its green and the class in its blue channel, one tile for each slice.
(function () {
  var data = DATA, ROW = "display:flex;gap:.6em;align-items:center;min-height:2.4em;flex-wrap:wrap";

  function element(name, attributes, parent) {
    var made = document.createElement(name);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    return parent.appendChild(made);
  }

  function start(root) {
    var figure = root.querySelector("figure"), picture = root.querySelector("img"), caption = root.querySelector("figcaption");
    var canvas = element("canvas", { width: data.width, height: data.height, tabindex: 0, role: "application",
      "aria-roledescription": "picture whose values are read with the arrow keys", style: picture.getAttribute("style") +
      ";width:" + picture.width + "px;touch-action:pan-y;cursor:crosshair" }, figure);
    figure.replaceChild(canvas, picture);
    var context = canvas.getContext("2d"), frame = context.createImageData(data.width, data.height);
    var readout = element("p", { "aria-live": "polite", style: "margin:0;min-height:1.6em;font-variant-numeric:tabular-nums" }, root);
    var place = null, inputs = {}, pixels;

    function control(name, low, high, step, value, format) {
      var label = element("label", { style: ROW }, root);
      element("span", { style: "min-width:7em" }, label).textContent = name;
      var input = element("input", { type: "range", min: low, max: high, step: step, autocomplete: "off",
        style: "flex:1 1 9em;max-width:24em;min-height:1.8em" }, label);
      input.value = value;
      var shown = element("span", { "aria-hidden": "true", style: "min-width:4em" }, label);
      inputs[name] = function () {
        shown.textContent = format(+input.value);
        input.setAttribute("aria-valuetext", shown.textContent);
        return +input.value;
      };
      input.addEventListener("input", draw);
    }

    function at(x, y) {  // the offset of a pixel of the slice that is shown
      var n = inputs[data.axis] ? inputs[data.axis]() : 0;
      return (((Math.floor(n / data.columns) * data.height + y) * data.columns + n % data.columns) * data.width + x) * 4;
    }

    function number(value) { return value.toFixed(data.digits) + data.unit; }
    function value(byte) { return data.low + (data.high - data.low) * byte / 255; }

    function colour(x, y, cut) {  // which class colour lies on a pixel, or null
      var i = at(x, y), truth = pixels[i + 2];
      if (cut !== null) {
        var found = pixels[i + 1] / 255 >= cut;
        return found ? (truth ? 0 : 1) : (truth ? 2 : null);
      }
      if (!truth) return null;
      var edge = x === 0 || y === 0 || x === data.width - 1 || y === data.height - 1 ||
        [at(x - 1, y), at(x + 1, y), at(x, y - 1), at(x, y + 1)].some(function (j) { return pixels[j + 2] !== truth; });
      return edge ? truth - 1 : null;
    }

    function draw() {
      var level = inputs.level(), width = inputs.width(), cut = data.threshold ? inputs.threshold() : null;
      var overlay = !root.querySelector("[type=checkbox]") || root.querySelector("[type=checkbox]").checked;
      var counts = [0, 0, 0];
      for (var y = 0; y < data.height; y++) for (var x = 0; x < data.width; x++) {
        var grey = (value(pixels[at(x, y)]) - level) / width * 255 + 127.5, over = colour(x, y, cut), to = (y * data.width + x) * 4;
        if (over !== null && cut !== null) counts[over]++;
        for (var c = 0; c < 3; c++) {
          var ink = over !== null && overlay ? data.colours[over % data.colours.length][c] : grey;
          frame.data[to + c] = over !== null && overlay && cut !== null ? (ink + grey) / 2 : ink;
        }
        frame.data[to + 3] = 255;
      }
      context.putImageData(frame, 0, 0);
      var text = (data.slices > 1 ? data.axis + " " + data.labels[inputs[data.axis]()] + ". " : "") +
        "Window: " + number(level - width / 2) + " to " + number(level + width / 2) + ".";
      if (cut !== null) {
        var both = 2 * counts[0] + counts[1] + counts[2];
        text += " At threshold " + cut.toFixed(2) + ": " + (both ? "Dice " + (2 * counts[0] / both).toFixed(3) : "nothing to find, nothing found") + ".";
      }
      if (caption.textContent !== text) caption.textContent = text;
      canvas.setAttribute("aria-label", data.alt + " " + text);
      read();
    }

    function read() {
      if (!place) { readout.textContent = "Point at the picture, or use the arrow keys on it, to read a value."; return; }
      var i = at(place[0], place[1]), parts = ["row " + place[1] + ", column " + place[0] + ": " + number(value(pixels[i]))];
      if (data.names.length) parts.push(pixels[i + 2] ? data.names[pixels[i + 2] - 1] : "background");
      if (data.threshold) parts.push("probability " + (pixels[i + 1] / 255).toFixed(2));
      readout.textContent = parts.join(", ");
    }

    function point(event) {
      var box = canvas.getBoundingClientRect();
      var inside = function (v, n) { return Math.max(0, Math.min(n - 1, Math.floor(v * n))); };
      place = [inside((event.clientX - box.left) / box.width, data.width), inside((event.clientY - box.top) / box.height, data.height)];
      read();
    }
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("keydown", function (event) {
      var step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      place = place || [data.width >> 1, data.height >> 1];
      place = [Math.max(0, Math.min(data.width - 1, place[0] + step[0])), Math.max(0, Math.min(data.height - 1, place[1] + step[1]))];
      read();
    });

    if (data.slices > 1) control(data.axis, 0, data.slices - 1, 1, data.first, function (n) { return data.labels[n]; });
    if (data.threshold) control("threshold", 0.02, 0.98, 0.02, data.threshold, function (v) { return v.toFixed(2); });
    var span = data.high - data.low;
    control("level", data.low, data.high, span / 200, (data.window[0] + data.window[1]) / 2, number);
    control("width", span / 100, span, span / 200, data.window[1] - data.window[0], number);
    if (data.names.length) {
      var label = element("label", { style: ROW }, root);
      element("input", { type: "checkbox", checked: "", autocomplete: "off", style: "width:1.5em;height:1.5em" }, label).addEventListener("input", draw);
      element("span", {}, label).textContent = "overlay";
    }

    var sprite = new Image();
    sprite.onload = function () {
      var sheet = document.createElement("canvas");
      sheet.width = sprite.width; sheet.height = sprite.height;
      var paper = sheet.getContext("2d", { willReadFrequently: true });
      paper.drawImage(sprite, 0, 0);
      pixels = paper.getImageData(0, 0, sprite.width, sprite.height).data;
      draw();
      root.dataset.ready = "drawn";
    };
    sprite.src = data.sprite;
  }

  document.querySelectorAll('[data-medtutor="' + KEY + '"]').forEach(function (root) {
    if (root.dataset.ready) return;
    root.dataset.ready = "waiting";
    // JupyterLab would take the arrow keys for itself.
    root.addEventListener("keydown", function (event) { event.stopPropagation(); });
    new IntersectionObserver(function (entries, observer) {  // a figure far down the page costs nothing yet
      if (!entries.some(function (entry) { return entry.isIntersecting; })) return;
      observer.disconnect();
      start(root);
    }, { rootMargin: "400px" }).observe(root);
  });
})();
