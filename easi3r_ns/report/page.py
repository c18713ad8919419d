"""The page around the report card: one HTML file without script, without anything from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for this page: nothing but what is in it."""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def section(name: str, title: str, intro: str, parts: Iterable[str]) -> str:
    """A titled part of the page; ``name`` is its id; ``intro`` and ``parts`` are HTML."""
    lead = f'<p class="lead">{intro}</p>' if intro else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{lead}{"".join(parts)}</section>'


def chart(title: str, drawing: str, note: str = "", style: str = "") -> str:
    """A chart with its title above and a sentence below (``note`` is HTML); ``style`` 'tall' takes two rows."""
    below = f"<p>{note}</p>" if note else ""
    return (
        f'<figure class="{f"chart {style}".strip()}"><figcaption>{escape(title)}</figcaption>{drawing}{below}</figure>'
    )


def charts(figures: Sequence[str]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def picture(uri: str, alt: str, caption: str = "", style: str = "") -> str:
    """An image with a caption; ``style`` is a class."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{f"picture {style}".strip()}"><img src="{uri}" alt="{escape(alt)}">{below}</figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """A table; cells of ``rows`` are HTML. It scrolls sideways where the screen is too narrow."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table class="{style}">{header}<tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values (plain text) as a definition list."""
    return f"<dl>{''.join(f'<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>' for n, v in pairs)}</dl>"


def tiles(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Key figures: (name, value, remark), plain text."""
    cells = (
        f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong><small>{escape(remark)}</small>'
        "</div>"
        for name, value, remark in pairs
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def folded(title: str, content: str) -> str:
    """Something that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def code(text: str) -> str:
    """Text as it is, to copy."""
    return f"<pre><code>{escape(text)}</code></pre>"


_CSS = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1b2330;--soft:#596475;--line:#e2e6ec;--faint:#eef0f4;
--s1:#2766d2;--s2:#d9730d;--s3:#2c8f6f;--good:#1c7f48;--care:#a86200;--stop:#bd3227;--goodbg:#e8f5ed;--carebg:#fdf3e0;
--stopbg:#fcebe9}
@media(prefers-color-scheme:dark){:root{--page:#11141a;--card:#191e26;--ink:#e5e9ef;--soft:#9ca7b6;--line:#2b323d;
--faint:#222832;--s1:#6ea2f7;--s2:#f0a04b;--s3:#5cc4a0;--good:#63c58d;--care:#e9b04a;--stop:#f08379;--goodbg:#16291f;
--carebg:#2d2414;--stopbg:#331c1a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
header p{margin:2px 0 0;color:var(--soft)}
h1{font-size:1.55rem;line-height:1.25;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 4px;letter-spacing:-.005em}
h3{font-size:.95rem;margin:18px 0 6px}
p{margin:0 0 10px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;margin:18px 0}
.lead{color:var(--soft);max-width:76ch}
#verdict{border-left:6px solid var(--tone);background:var(--tonebg)}
#verdict h2{font-size:1.5rem;color:var(--tone)}
#verdict ul{list-style:none;margin:12px 0 0;padding:0}
#verdict li{padding:10px 0;border-top:1px solid var(--line);max-width:90ch}
#verdict li p{margin:0}
#verdict li .remedy{color:var(--soft)}
.good{--tone:var(--good);--tonebg:var(--goodbg)}.care{--tone:var(--care);--tonebg:var(--carebg)}
.stop{--tone:var(--stop);--tonebg:var(--stopbg)}
.badge{display:inline-block;min-width:3.6em;text-align:center;font-size:.75rem;font-weight:600;color:var(--tone);
border:1px solid var(--tone);border-radius:99px;padding:0 8px;margin-right:8px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 14px;display:flex;
flex-direction:column}
.tile span{font-size:.8rem;color:var(--soft)}.tile strong{font-size:1.3rem;font-weight:650;line-height:1.3}
.tile small{font-size:.78rem;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:16px 20px;margin-top:12px}
figure{margin:0}
.chart{max-width:420px}
.tall{grid-row:span 2}
.bars td:last-child{width:40%}
.chart figcaption{font-weight:600;font-size:.9rem}
.chart p{font-size:.82rem;color:var(--soft);margin:2px 0 0}
.chart svg{display:block;width:100%;height:auto;margin-top:2px}
.sheet{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin-top:12px}
.sheet.narrow{grid-template-columns:repeat(6,1fr)}
.rows{display:grid;gap:10px 18px;margin-top:12px}
.rows.pair{grid-template-columns:repeat(2,1fr)}
.rows .row{display:grid;gap:6px}
.three{grid-template-columns:repeat(3,1fr)}.six{grid-template-columns:repeat(6,1fr)}.seven{grid-template-columns:repeat(7,1fr)}
.picture img{display:block;width:100%;height:auto;border-radius:6px;background:var(--faint)}
.picture figcaption{font-size:.78rem;color:var(--soft);margin-top:2px}
.pixels img{image-rendering:pixelated}
.ramp{display:flex;align-items:center;gap:8px;font-size:.8rem;color:var(--soft);margin:10px 0 0;flex-wrap:wrap}
.ramp img{width:160px;height:10px;border-radius:3px}
.bar{display:inline-block;height:9px;border-radius:2px;background:var(--s1);vertical-align:middle;min-width:1px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem;margin-top:8px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.78rem}
th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
.numbers td:nth-child(n+2):nth-child(-n+4),.numbers th:nth-child(n+2):nth-child(-n+4){text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}
.numbers td:nth-child(5){width:34%}
.numbers tr:last-child td{font-weight:600}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:4px 24px;margin:10px 0 0;
font-size:.9rem}
dl div{display:flex;justify-content:space-between;gap:16px;border-bottom:1px solid var(--line);padding:4px 0}
dt{color:var(--soft)}dd{margin:0;text-align:right;overflow-wrap:anywhere}
pre{background:var(--faint);border-radius:8px;padding:10px 12px;overflow-x:auto;font-size:.82rem;margin:8px 0 0;
white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
p code,td code,li code{background:var(--faint);border-radius:4px;padding:1px 4px;font-size:.88em}
details{margin-top:12px}
summary{cursor:pointer;color:var(--soft);font-size:.9rem}
.warnings li{margin:4px 0;max-width:90ch}
footer{color:var(--soft);font-size:.82rem;padding-bottom:32px}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--soft)}
svg .key{fill:var(--ink)}
svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--soft);stroke-width:1}
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
svg .s1{stroke:var(--s1)}svg .s2{stroke:var(--s2)}svg .s3{stroke:var(--s3)}
svg .area{stroke:none;opacity:.16}
svg .area.s1,svg .dot.s1{fill:var(--s1)}svg .area.s2,svg .dot.s2{fill:var(--s2)}svg .area.s3,svg .dot.s3{fill:var(--s3)}
svg .dot{stroke:none}
svg .limit{stroke:var(--stop);stroke-width:1;stroke-dasharray:4 3}
svg .mark{fill:var(--stop)}
svg .camera{fill:var(--s1);fill-opacity:.14;stroke:var(--s1);stroke-width:.8}
svg .start{fill:var(--card);stroke:var(--s1);stroke-width:2}svg .end{fill:var(--s1)}
svg .scalebar{stroke:var(--ink);stroke-width:1.2;fill:none}
svg .hit{fill:transparent}svg .hit:hover{fill:var(--s1);fill-opacity:.12}
@media(max-width:640px){
main,header,footer{padding:0 12px}header{padding-top:18px}
section{padding:16px 14px;margin:12px 0}
.tiles{grid-template-columns:repeat(2,1fr)}
.sheet{grid-template-columns:repeat(2,1fr);gap:8px}.sheet.narrow{grid-template-columns:repeat(3,1fr)}
.six,.seven{grid-template-columns:repeat(3,1fr)}.rows.pair{grid-template-columns:1fr}.rows{gap:14px}
.numbers td:nth-child(5),.numbers th:nth-child(5){display:none}
}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
