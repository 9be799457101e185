// The ledger and the paper index: rows are found by words and chosen by menus, and a click on a column head sorts them.
// Without this script the tables are whole and in reading order.
(() => {
  const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "");

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], first = [...body.rows];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort ?? "none"];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next !== "none") head.setAttribute("aria-sort", next);
        const text = (row) => row.cells[column].textContent.trim();
        const order = (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
        const rows = next === "none" ? first : [...first].sort(order);
        body.append(...(next === "descending" ? rows.reverse() : rows));
      });
    });
  }

  function filter(tools) {
    const tables = [...document.querySelectorAll(`table[data-tools="${tools.dataset.for}"]`)];
    const rows = tables.flatMap((table) => [...table.tBodies[0].rows]);
    const words = new Map(rows.map((row) => [row, plain(`${row.textContent} ${row.dataset.words ?? ""}`)]));
    const find = tools.querySelector("input"), menus = [...tools.querySelectorAll("select")];
    const count = tools.querySelector("[role=status]");

    function show() {
      const wanted = plain(find.value).split(/\s+/).filter(Boolean);
      const chosen = menus.filter((menu) => menu.value);
      rows.forEach((row) => {
        row.hidden = !(wanted.every((word) => words.get(row).includes(word)) &&
          chosen.every((menu) => row.dataset[menu.name] === menu.value));
      });
      const some = (box) => [...box.querySelectorAll("tbody tr")].some((row) => !row.hidden);
      tables.forEach((table) => { table.closest(".table-scroll").hidden = !some(table); });
      const sections = new Set(tables.map((table) => table.closest("section")).filter((s) => !s.contains(tools)));
      sections.forEach((section) => { section.hidden = !some(section); });
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} ${tools.dataset.noun}`;
    }

    // A link such as claims.html?verdict=reversed opens the table with that choice.
    const asked = new URLSearchParams(location.search);
    menus.forEach((menu) => { menu.value = asked.get(menu.name) ?? ""; if (menu.selectedIndex < 0) menu.value = ""; });
    find.value = asked.get("find") ?? "";
    [find, ...menus].forEach((input) => input.addEventListener("input", show));
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("table[data-tools]").forEach(sortable);
    document.querySelectorAll(".table-tools").forEach(filter);
  });
})();
