// Sets the formulas of a built site, so that pages come with them and need no script: node typeset.js MATHJAX VENDOR SITE.
// MATHJAX is the npm package, VENDOR the folder in the site that holds its fonts and gets the style sheet of the letters used.
const fs = require("fs"), path = require("path");
const [mathjax, vendor, site] = process.argv.slice(2);
const FORMULA = /(<(span|div) class="[^"]*\bmath\b[^"]*"[^>]*>)([^]*?)(<\/\2>)/g;
const TEX = /\\\(([^]*?)\\\)|\\\[([^]*?)\\\]|(\\begin\{[^]*\})/;
const CHARACTERS = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&amp;": "&" };

const pages = fs.readdirSync(site, { recursive: true }).filter((name) => name.endsWith(".html") && !/^_(static|sources)/.test(name));

async function set(MathJax, name) {
  const page = path.join(site, name), html = fs.readFileSync(page, "utf8"), made = [];
  for (const [, open, , inside, close] of html.matchAll(FORMULA)) {
    const found = inside.match(TEX);
    if (!found) throw new Error(`${name}: no TeX in ${inside}`);
    const tex = found.slice(1).find((part) => part !== undefined).replace(/&[#\w]+;/g, (code) => CHARACTERS[code] ?? code);
    const node = await MathJax.tex2chtmlPromise(tex, { display: found[1] === undefined });
    const formula = MathJax.startup.adaptor.outerHTML(node);
    if (formula.includes("data-mjx-error")) throw new Error(`${name}: MathJax cannot set ${tex}`);
    made.push(open + inside.replace(TEX, () => formula) + close);
  }
  if (!made.length) return;
  const sheet = path.relative(path.dirname(page), path.join(vendor, "chtml.css")).split(path.sep).join("/");
  const set = html.replace(FORMULA, () => made.shift()).replace("</head>", () => `<link rel="stylesheet" href="${sheet}"/>\n</head>`);
  fs.writeFileSync(page, set);
}

require(mathjax).init({
  loader: { load: ["input/tex", "output/chtml", "a11y/assistive-mml"] },
  tex: { packages: { "[-]": ["noundefined", "noerrors"] } },  // an unknown command ends the build
  chtml: { fontURL: "output/chtml/fonts/woff-v2" },
}).then(async (MathJax) => {
  for (const name of pages) await set(MathJax, name);
  fs.writeFileSync(path.join(vendor, "chtml.css"), MathJax.startup.adaptor.textContent(MathJax.chtmlStylesheet()));
}).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
