"""Template tags that every page uses."""

from __future__ import annotations

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.simple_tag
def icon(name: str) -> SafeString:
    """A decorative icon of the sprite; the text beside it, or an aria-label, says what it means."""
    return format_html(
        '<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        static("projects/icons.svg"),
        name,
    )


@register.filter
def milliseconds(value: float | None) -> str:
    """834 -> `834 ms`, 2310 -> `2.3 s`, nothing -> a dash."""
    if value is None:
        return "–"
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms"


@register.filter
def percent(share: float | None) -> str:
    """0.734 -> `73 %`, nothing -> a dash."""
    return "–" if share is None else f"{share * 100:.0f} %"


@register.filter
def seconds(value: float | None) -> str:
    """75 -> `1:15`, 4000 -> `1:06:40`, nothing -> a dash."""
    if value is None:
        return "–"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@register.filter
def at(mapping: dict[str, object] | None, key: str) -> object:
    """The value at a key that the template computes."""
    return (mapping or {}).get(key)
