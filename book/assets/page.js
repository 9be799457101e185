// What no style sheet can do: a wide formula or table scrolls in its own box, so the keyboard must reach it.
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const boxes = document.querySelectorAll(
    "article :is(mjx-container[display='true'], .table-scroll, .pst-scrollable-table-container)");
  const reach = () => boxes.forEach((box) => {
    const table = box.querySelector("table");
    if (box.scrollWidth <= box.clientWidth) return ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
    const heads = [...box.querySelectorAll("thead th")].map((head) => head.textContent.trim()).join(", ");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", table ? table.caption?.textContent ?? `Table: ${heads}` : "Formula");
  });
  reach();
  window.addEventListener("resize", reach);
});
