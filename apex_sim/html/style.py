"""How reports look and what their few lines of script do: sorting, filtering, copying. No network."""

from __future__ import annotations

STYLE = """
:root {
  --bg: #fff; --fg: #1b232b; --soft: #5d6975; --line: #dce2e8; --card: #f5f7f9; --band1: #c9d6e2; --band2: #e6ecf2;
  --good: #00734f; --bad: #b4430a;
  --s0: #0072b2; --s1: #c24e00; --s2: #00805c; --s3: #b0568a; --s4: #a87400; --s5: #2e8fc4; --s6: #4d4d4d; --s7: #7a5f00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #12171c; --fg: #e4e9ee; --soft: #9aa7b3; --line: #2c353e; --card: #1a2128; --band1: #2c3a48; --band2: #202a34;
    --good: #3fc796; --bad: #ff9860;
    --s0: #5aaee6; --s1: #ff8a45; --s2: #35c494; --s3: #e59cc6; --s4: #f0b43c; --s5: #8fd0f5; --s6: #c4c4c4;
    --s7: #d9c06a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1180px; padding: 1.2rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.4rem; margin: .2rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; max-width: 75ch; }
.soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border-radius: 8px; padding: .6rem .9rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.wrap { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
.tall { max-height: 75vh; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--card); padding: 0; }
th button {
  all: unset; box-sizing: border-box; width: 100%; cursor: pointer; padding: .4rem .6rem; display: block; font-weight: 600;
}
th button:focus-visible { outline: 2px solid var(--s0); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.n { text-align: right; }
td.good { color: var(--good); font-weight: 600; }
td.bad { color: var(--bad); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; background: var(--card); border-radius: 8px; }
svg:not(.apex) text { fill: var(--soft); font-size: 10.5px; }
svg:not(.apex) .t { fill: var(--fg); font-size: 12px; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border-radius: 8px; padding: .7rem; min-width: 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; max-width: 44rem; margin: auto; }
img.figure { display: block; width: 100%; max-width: 44rem; height: auto; margin: auto; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: .4rem; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; margin: .4rem 0;
  overflow: auto; max-height: 28rem; font: .82rem/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
}
.copy {
  font: inherit; font-size: .82rem; padding: .2rem .7rem; border: 1px solid var(--line); border-radius: 6px; cursor: pointer;
  background: var(--card); color: var(--fg);
}
.copy:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--s0); }
.warn { border-left: 4px solid var(--bad); background: var(--card); border-radius: 4px; padding: .5rem .9rem; margin: .5rem 0; }
.warn p { max-width: none; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
td.wide, td.id { white-space: normal; overflow-wrap: anywhere; min-width: min(20rem, 55vw); }
tbody th { background: none; position: static; padding: .32rem .6rem; font-weight: 600; white-space: nowrap; }
.facts th { white-space: normal; width: 11rem; overflow-wrap: anywhere; }
.facts td.wide { min-width: 0; }
a { color: var(--s0); overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; font-size: .9rem; }
h2:target { outline: 2px solid var(--s0); outline-offset: 3px; border-radius: 2px; }
@media (max-width: 30rem) {
  body { padding: .8rem; }
  .facts tr, .facts th, .facts td { display: block; width: auto; border: 0; }
  .facts tr { padding: .3rem 0; border-bottom: 1px solid var(--line); }
  .facts tr:last-child { border-bottom: 0; }
  .facts th, .facts td { padding: .1rem .6rem; }
  .tile { flex: 1 1 8rem; min-width: 0; }
  .tile b { font-size: 1.15rem; }
}
@media print {
  :root {
    --bg: #fff; --fg: #000; --soft: #444; --line: #bbb; --card: #f5f5f5; color-scheme: light;
    --apex-ink: #1c2733; --apex-muted: #667380; --apex-grid: #dbe1e6; --apex-paper: #fefefe;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wrap, .tall, pre, figure { overflow: visible; max-height: none; }
  th { position: static; }
  td, th { white-space: normal; }
  .copy, input, label, nav { display: none; }
  tr, figure, .tile, .warn { break-inside: avoid; }
}
input {
  font: inherit; padding: .35rem .6rem; margin: .2rem 0 .6rem; width: min(26rem, 100%);
  border: 1px solid var(--line); border-radius: 6px; background: var(--bg); color: var(--fg);
}
"""

SCRIPT = """
for (const table of document.querySelectorAll('table')) {
  table.querySelectorAll('thead th').forEach((th, i) => th.firstElementChild.addEventListener('click', () => {
    const body = table.tBodies[0];
    const words = [...body.rows].every(row => row.cells[i].dataset.v === undefined);
    const before = th.getAttribute('aria-sort');
    const down = before ? before === 'ascending' : !words;
    table.querySelectorAll('thead th').forEach(other => other.removeAttribute('aria-sort'));
    th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const key = row => {
      const cell = row.cells[i];
      return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
    };
    const compare = (x, y) => {
      if (typeof x !== typeof y) return typeof x === 'string' ? -1 : 1;
      if (typeof x === 'string') return x.localeCompare(y, 'en', {numeric: true});
      return x < y ? -1 : x > y ? 1 : 0;
    };
    [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b))).forEach(row => body.append(row));
  }));
}
for (const button of document.querySelectorAll('.copy')) button.addEventListener('click', () => {
  const text = document.getElementById(button.dataset.of).textContent;
  const done = () => { button.textContent = 'copied'; };
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById(button.dataset.of));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (document.execCommand('copy')) done();
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, select); else select();
});
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(part => { part.open = true; }));
const box = document.querySelector('#find');
if (box) box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\\s+/);
  for (const row of document.querySelectorAll('#runs tbody tr')) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
});
"""
