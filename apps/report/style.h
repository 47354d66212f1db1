// What the page's parts look like and do. No external resource: fonts are the reader's own.
#pragma once

namespace nibble::report {

// Okabe and Ito's palette (readable with every form of colour blindness), lighter in the dark.
inline constexpr const char* kStyle = R"css(
:root{--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#8a6d00;--c5:#4477cc;--c6:#7a3e9d;--c7:#555;
--bg:#fff;--fg:#1c1e21;--soft:#5b6067;--line:#e3e5e8;--mark:#fff3d6;--bad:#b3261e;--good:#12703a}
@media(prefers-color-scheme:dark){:root{--c0:#56b4e9;--c1:#ff9248;--c2:#2fd0a0;--c3:#e69fc8;--c4:#e5c54b;--c5:#8fb4ff;
--c6:#c79bea;--c7:#b5b5b5;--bg:#14161a;--fg:#e7e9ec;--soft:#a2a8b0;--line:#2c3138;--mark:#3b3320;--bad:#ff8a80;--good:#7ee2a8}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1360px;padding:1.2rem;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
small,.note,.tick,.axis{color:var(--soft)}.note{margin:.2rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
.scroll{overflow-x:auto;max-width:100%}.differs{background:var(--mark)}.bad{color:var(--bad);font-weight:600}
.good{color:var(--good);font-weight:600}.pair{white-space:nowrap;margin-right:.6em}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin-right:.45em}
td:first-child{white-space:nowrap}.heat td{padding:.1rem .35rem;border:0;font-size:.78rem}
.axes{display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:.6rem 0}.axes label{cursor:pointer}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.4rem 0;padding:0;list-style:none}
.legend button{all:unset;cursor:pointer}.legend button[aria-pressed=false]{opacity:.4;text-decoration:line-through}
.legend button:focus-visible,summary:focus-visible,input:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1rem 1.5rem}
figure{margin:0}figcaption{font-weight:600}
.chart{width:100%;height:auto;display:block;touch-action:pan-y}.chart .line{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke}
.chart .grid{stroke:var(--line)}.chart .tick,.chart .axis,.chart .none,.chart .readout{font-size:12px;fill:var(--soft)}
.chart .none{text-anchor:middle}.chart .readout{fill:var(--fg)}.chart .cursor{stroke:var(--soft);stroke-dasharray:3 3}
.by-tokens,.by-time{display:none}
#axis-tokens:checked~main .by-tokens,#axis-time:checked~main .by-time{display:block}
#axis-tokens:checked~main .by-step,#axis-time:checked~main .by-step{display:none}
.axis-input{position:absolute;opacity:0}
#axis-step:checked~.axes [for=axis-step],#axis-tokens:checked~.axes [for=axis-tokens],#axis-time:checked~.axes [for=axis-time]
{font-weight:700;text-decoration:underline;text-underline-offset:.25em}
.axis-input:focus-visible~.axes{outline:2px solid var(--c0);outline-offset:2px}
@media(max-width:560px){body{padding:.8rem}.chart .tick,.chart .axis,.chart .none,.chart .readout{font-size:19px}}
summary{cursor:pointer;padding:.2rem 0}
.sample{margin:.3rem 0 .8rem;padding:.4rem .8rem;border-left:3px solid var(--line);max-width:75ch;white-space:pre-wrap;overflow-wrap:anywhere}
@media print{body{max-width:none;font-size:11px;padding:0}.axes{display:none}figure,tr{break-inside:avoid}
.scroll{overflow:visible}.charts{grid-template-columns:1fr 1fr}}
)css";

// Reads values off the lines, and hides runs. Everything else works without it.
inline constexpr const char* kScript = R"js(
(() => {
  const NS = 'http://www.w3.org/2000/svg', W = 640, H = 300, L = 62, R = 12, T = 12, B = 40;
  const short = v => !isFinite(v) ? '–' : Math.abs(v) >= 1e6 ? (v / 1e6).toPrecision(4) + 'M'
    : Math.abs(v) >= 1e4 ? (v / 1e3).toPrecision(4) + 'k' : String(+v.toPrecision(5));
  for (const svg of document.querySelectorAll('.chart')) {
    const read = svg.querySelector('.read');
    if (!read) continue;
    const [x0, x1] = read.dataset.x.split(' ').map(Number), [y0, y1] = read.dataset.y.split(' ').map(Number);
    const back = (px, py) => {
      const y = y0 + (H - B - py) / (H - T - B) * (y1 - y0);
      return [x0 + (px - L) / (W - L - R) * (x1 - x0), read.dataset.log === '1' ? 10 ** y : y];
    };
    const clear = () => read.replaceChildren();
    svg.addEventListener('pointerleave', clear);
    svg.addEventListener('pointermove', event => {
      const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * W;
      clear();
      const cursor = document.createElementNS(NS, 'line');
      cursor.setAttribute('class', 'cursor');
      for (const [k, v] of [['x1', at], ['x2', at], ['y1', T], ['y2', H - B]]) cursor.setAttribute(k, v);
      read.append(cursor);
      let line = 0;
      for (const series of svg.querySelectorAll('.series')) {
        if (series.style.display === 'none') continue;
        let best = null;
        for (const p of series.querySelectorAll('polyline'))
          for (const pair of p.getAttribute('points').trim().split(' ')) {
            const [px, py] = pair.split(',').map(Number);
            if (!best || Math.abs(px - at) < Math.abs(best[0] - at)) best = [px, py];
          }
        if (!best) continue;
        const [x, y] = back(best[0], best[1]), text = document.createElementNS(NS, 'text');
        text.setAttribute('class', 'readout');
        text.setAttribute('x', at > W / 2 ? L + 6 : W - R - 6);
        text.setAttribute('text-anchor', at > W / 2 ? 'start' : 'end');
        text.setAttribute('y', T + 12 + 15 * line++);
        text.style.fill = `var(--c${series.dataset.run})`;
        text.textContent = `${series.querySelector('title').textContent}: ${short(y)} at ${short(x)}`;
        read.append(text);
      }
    });
  }
  for (const button of document.querySelectorAll('.legend button'))
    button.addEventListener('click', () => {
      const on = button.getAttribute('aria-pressed') !== 'true';
      button.setAttribute('aria-pressed', on);
      for (const s of document.querySelectorAll(`.series[data-index="${button.dataset.index}"]`))
        s.style.display = on ? '' : 'none';
    });
  const axis = document.getElementById('axis-' + location.hash.slice(1));
  if (axis) axis.checked = true;
})();
)js";

}  // namespace nibble::report
