"""The look of the pages: one style sheet, and what a page forbids its browser.

Belongs here: text for the head of a page. Does not belong here: what stands on it (`dashboard`).
"""

from __future__ import annotations

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy: nothing is fetched from anywhere, whatever a name or caption might hold."""

STYLE = """
:root { --ink: #1d2430; --quiet: #626b79; --rule: #e4e7ec; --ground: #f7f8fa; --mark: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 24px 48px; }
header { margin-bottom: 18px; }
.kind { margin: 0; color: var(--quiet); font-size: 13px; letter-spacing: .02em; }
h1 { margin: 0 0 10px; font-size: 30px; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 0 0 4px; font-size: 18px; }
h3 { margin: 0 0 6px; font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
.headline { margin: 0 0 10px; font-size: 19px; line-height: 1.4; max-width: 76ch; }
.details { margin: 0; padding-left: 18px; color: #414a58; max-width: 112ch; }
.details li { margin: 2px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 18px 0; }
.tile { background: #fff; border: 1px solid var(--rule); border-radius: 8px; padding: 12px 16px; display: grid; }
.tile b { font-size: 28px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--ink); }
.tile small { color: var(--quiet); }
section { background: #fff; border: 1px solid var(--rule); border-radius: 8px; padding: 16px 18px; margin: 14px 0; }
section > p { margin: 0 0 8px; color: var(--quiet); max-width: 92ch; }
section.quiet { background: none; border: 0; color: var(--quiet); font-size: 13px; }
.plot { min-width: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 7px; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; font-size: 13px; color: var(--quiet); vertical-align: bottom; }
td small { display: block; color: var(--quiet); font-size: 12px; white-space: nowrap; }
td small.inline { display: inline; }
tr td:nth-child(2) { white-space: nowrap; }
td.number { white-space: nowrap; }
.number { text-align: right; }
tr.control td { color: #5b6472; }
.status { color: var(--quiet); font-size: 13px; max-width: 44ch; overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 0; }
details { margin-top: 8px; }
summary { cursor: pointer; color: var(--mark); }
details .wide { max-height: 460px; overflow: auto; margin-top: 8px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 14px 22px;
  margin-top: 10px; }
.card { min-width: 0; }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; height: 78px; object-fit: contain; background: #fff; border: 1px solid var(--rule);
  border-radius: 4px; }
figcaption { font-size: 11px; line-height: 1.3; color: var(--quiet); overflow: hidden; display: -webkit-box;
  -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow-wrap: anywhere; }
code { font-size: 12px; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
