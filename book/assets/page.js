// What no style sheet can do: a wide formula or table scrolls in its own box, so the keyboard must reach it.
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const reach = () => document.querySelectorAll("article :is(mjx-container[display='true'], .table-scroll)").forEach((box) => {
    if (box.scrollWidth <= box.clientWidth) return;
    box.tabIndex = 0;
    const caption = box.querySelector("caption");
    if (caption) box.setAttribute("role", "region");
    if (caption) box.setAttribute("aria-label", caption.textContent);
  });
  reach();
  window.addEventListener("resize", reach);
});
