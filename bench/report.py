"""Results as JSON, as Markdown tables and as pictures."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.statistics import Summary, verdict

Rows = list[dict[str, Any]]


def machine() -> dict[str, str]:
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "kernel": f"Linux {platform.release()}",
        "cpu": f"{os.cpu_count()} x {model}",
        "python": f"Python {platform.python_version()}",
        "commit": commit.stdout.strip(),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def cell(name: str, value: object) -> str:
    if isinstance(value, Summary):
        text = f"{number(value.median)} ({number(value.low)} - {number(value.high)})"
        return f"{text} {verdict(value)}" if name.endswith("ratio") else text
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(key, inner)}" for key, inner in value.items())
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.3g} M" if value < 1e9 else f"{value / 1e9:.3g} G"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Rows) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [" | ".join(name.replace("_", " ") for name in columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(name, row.get(name, "")) for name in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def write(results: dict[str, tuple[str, Rows]], skipped: Sequence[str], folder: Path) -> str:
    """Writes results.json and results.md, pictures too; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    plain = {name: rows for name, (_title, rows) in results.items()}
    text = json.dumps({"machine": about, "skipped": list(skipped), "results": plain}, indent=1)
    (folder / "results.json").write_text(text + "\n")
    lines = [", ".join(about.values()) + "."]
    lines += ["Medians, and in brackets what half of all rounds lie between. `the same`: 1 lies within that."]
    lines += [f"Not measured: {reason}." for reason in skipped]
    for title, rows in results.values():
        lines += [f"### {title}", table(rows)]
    markdown = "\n\n".join(lines) + "\n"
    (folder / "results.md").write_text(markdown)
    plot(plain, folder)
    return markdown


def plot(results: dict[str, Rows], folder: Path) -> None:
    pictures = (
        ("frames", "ns_per_frame", "CPU a frame in ns: {subject}, {size} bytes, {direction}"),
        ("tcp", "bits_per_second", "TCP in bit/s: {subject}, {direction}"),
        ("tcp", "ns_per_byte", "CPU a byte in ns: {subject}, {direction}"),
    )
    for part, field, caption in pictures:
        if part in results:
            bars = [(caption.split(": ")[1].format(**row), row[field]) for row in results[part]]
            text = bar_chart(caption.split(":")[0], bars)
            (folder / f"{part}-{field.replace('_', '-')}.svg").write_text(text)


def bar_chart(title: str, bars: Sequence[tuple[str, Summary]]) -> str:
    """An SVG: a bar for each median, a line for its spread."""
    left, width, step = 320, 560, 22
    scale = width / max(value.high for _name, value in bars)
    parts = [f'<text x="8" y="18" font-weight="bold">{title}</text>']
    for number_of, (name, value) in enumerate(bars):
        top = 30 + number_of * step
        middle = f'y1="{top + step // 2 - 2}" y2="{top + step // 2 - 2}"'
        low, high = left + value.low * scale, left + value.high * scale
        bar = f'width="{value.median * scale:.1f}" height="{step - 4}"'
        parts += [
            f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{top}" {bar} fill="#7aa6c2"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" {middle} stroke="#222" stroke-width="2"/>',
            f'<text x="{left + 6}" y="{top + 14}">{number(value.median)}</text>',
        ]
    size = f'width="{left + width + 20}" height="{40 + len(bars) * step}"'
    style = 'font-family="sans-serif" font-size="12"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', *parts, "</svg>\n"])
