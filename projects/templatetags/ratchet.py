"""Template tags that every page uses."""

from __future__ import annotations

import json
from typing import Literal

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext

register = template.Library()
DASH = "\u2013"
# What a template hands on for a name that it cannot find is the empty string.
Missing = Literal[""] | None


@register.simple_tag
def icon(name: str) -> SafeString:
    """A decorative icon of the sprite; the text beside it, or an aria-label, says what it means."""
    return format_html(
        '<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        static("projects/icons.svg"),
        name,
    )


@register.filter
def milliseconds(value: float | Missing) -> str:
    """834 -> `834 ms`, 2310 -> `2.3 s`, nothing -> a dash."""
    if value is None or isinstance(value, str):
        return DASH
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms"


@register.filter
def percent(share: float | Missing) -> str:
    """0.734 -> `73 %`, nothing -> a dash."""
    return DASH if share is None or isinstance(share, str) else f"{share * 100:.0f} %"


@register.filter
def seconds(value: float | Missing) -> str:
    """75 -> `1:15`, 4000 -> `1:06:40`, nothing -> a dash."""
    if value is None or isinstance(value, str):
        return DASH
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@register.filter
def version_number(label: str | None) -> str:
    """`kitchen@v7` -> `v7`: inside a project its name says nothing."""
    return (label or DASH).rpartition("@")[2]


@register.filter
def unlocalized(value: float) -> str:
    """A number as SVG and HTML attributes need it, with a point in every language."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


_TONES = {
    "finished": "is-good",
    "promote": "is-good",
    "available": "is-good",
    "failed": "is-bad",
    "reject": "is-bad",
    "damaged": "is-bad",
    "erased": "is-bad",
    "insufficient": "is-warn",
    "running": "is-live",
    "queued": "is-live",
    "judging": "is-live",
    "answering": "is-live",
    "stepping": "is-live",
    "watching": "is-live",
    "paused": "is-warn",
    "rolled_back": "is-bad",
    "holds": "is-good",
    "broken": "is-bad",
    "better": "is-good",
    "worse": "is-bad",
    "pass": "is-good",
    "warn": "is-warn",
    "fail": "is-bad",
}


@register.filter
def tone(state: str) -> str:
    """The class that colours a state; the word beside it says the same."""
    return _TONES.get(state, "")


@register.filter
def state_label(state: str) -> str:
    """The words for a state of a run, an evaluation, a version or a deployment."""
    labels = {
        "queued": pgettext("state", "waiting"),
        "running": pgettext("state", "running"),
        "finished": pgettext("state", "finished"),
        "failed": pgettext("state", "failed"),
        "cancelled": pgettext("state", "cancelled"),
        "answering": pgettext("state", "answering"),
        "judging": pgettext("state", "being judged"),
        "decided": pgettext("state", "decided"),
        "promote": pgettext("state", "promote"),
        "reject": pgettext("state", "reject"),
        "insufficient": pgettext("state", "not enough evidence"),
        "available": pgettext("state", "available"),
        "damaged": pgettext("state", "damaged"),
        "erased": pgettext("state", "erased"),
        "first": pgettext("state", "first"),
        "canary": pgettext("state", "canary"),
        "rollback": pgettext("state", "rollback"),
        "ready": pgettext("state", "ready"),
        "stepping": pgettext("state", "stepping up"),
        "paused": pgettext("state", "paused"),
        "watching": pgettext("state", "watched"),
        "done": pgettext("state", "done"),
        "rolled_back": pgettext("state", "rolled back"),
        "ended": pgettext("state", "taken over"),
        "holds": pgettext("state", "holds"),
        "broken": pgettext("state", "broken"),
        "open": pgettext("state", "open"),
        "better": pgettext("state", "better"),
        "worse": pgettext("state", "worse"),
        "pass": pgettext("state", "pass"),
        "warn": pgettext("state", "look at it"),
        "fail": pgettext("state", "fails"),
        "none": pgettext("state", "not measured"),
    }
    return labels.get(state, state)


@register.filter
def method_label(name: str) -> str:
    """A method or a pipeline, as people choose it."""
    labels = {
        "sft": pgettext("method", "SFT: imitate good answers"),
        "dpo": pgettext("method", "DPO: learn from pairs"),
        "kto": pgettext("method", "KTO: learn from thumbs"),
        "reward": pgettext("method", "Reward model"),
        "rloo": pgettext("method", "RLOO against the newest reward model"),
        "ppo": pgettext("method", "PPO against the newest reward model"),
        "pretrain": pgettext("method", "Continued pretraining on plain text"),
        "sft-dpo": pgettext("method", "Pipeline: SFT, then DPO"),
        "sft-kto": pgettext("method", "Pipeline: SFT, then KTO"),
        "kto-dpo": pgettext("method", "Pipeline: KTO, then DPO"),
        "pretrain-sft": pgettext("method", "Pipeline: pretraining, then SFT"),
        "pretrain-dpo": pgettext("method", "Pipeline: pretraining, then DPO"),
        "pretrain-sft-dpo": pgettext("method", "Pipeline: pretraining, SFT, then DPO"),
        "sft-reward-rloo": pgettext("method", "Pipeline: SFT, a reward model, then RLOO"),
        "sft-reward-ppo": pgettext("method", "Pipeline: SFT, a reward model, then PPO"),
        "reward-rloo": pgettext("method", "Pipeline: reward model, then RLOO"),
        "reward-ppo": pgettext("method", "Pipeline: reward model, then PPO"),
    }
    return labels.get(name, name)


@register.filter
def changes(detail: dict[str, dict[str, object]]) -> list[tuple[str, object, object]]:
    """(name, before or None, after) of each value that an audit event says was changed."""
    before, after = detail.get("before", {}), detail.get("after", {})
    return [(name, before.get(name), value) for name, value in after.items()]


@register.filter
def policy_label(name: str) -> str:
    """A field of a policy as its page calls it."""
    labels = {
        "is_enabled": gettext("Runs start by themselves"),
        "cron": gettext("At times (cron)"),
        "min_new_judgements": gettext("After so many new judgements"),
        "method": gettext("Method or pipeline"),
        "per_rater_cap": gettext("Most judgements of one rater"),
        "per_prompt_cap": gettext("Most rows of one prompt"),
        "config": pgettext("policy", "Settings"),
        "day_hours": gettext("Device hours a day"),
        "week_hours": gettext("Device hours in seven days"),
        "asks_raters": gettext("Raters are asked to compare its answers blind"),
        "margin": gettext("Margin"),
        "min_battles": gettext("Least judged gate prompts"),
        "approval": gettext("Who lets it serve"),
        "promotion": gettext("Promotion"),
        "canary_minutes": gettext("Minutes at each share"),
        "canary_answers": gettext("Answers at each share"),
        "canary_judgements": gettext("Judgements at each share"),
        "watch_hours": gettext("Hours of watch"),
    }
    return labels.get(name, words(name))


@register.filter
def plainly(value: object) -> str:
    """A value of a setting: yes and no, a dash for nothing, JSON as it is written, numbers without .0."""
    if isinstance(value, bool):
        return gettext("yes") if value else gettext("no")
    if isinstance(value, dict | list) and value:
        return json.dumps(value, ensure_ascii=False)
    return DASH if value in (None, "", {}, []) else compact(value)


@register.filter
def cause_label(cause: str) -> str:
    """Why a run failed, in a word or two."""
    labels = {
        "oom": pgettext("cause", "out of memory"),
        "diverged": pgettext("cause", "it diverged"),
        "data": pgettext("cause", "its data"),
        "lost": pgettext("cause", "nobody heard of it any more"),
        "timeout": pgettext("cause", "time ran out"),
        "disk": pgettext("cause", "the disk is full"),
        "internal": pgettext("cause", "an error of ours"),
    }
    return labels.get(cause, cause)


@register.filter
def evidence_label(name: str) -> str:
    """A line of a verdict, or a fault of an answer, in words."""
    labels = {
        "votes": pgettext("evidence", "Votes of people"),
        "length": pgettext("evidence", "At equal lengths"),
        "judge": pgettext("evidence", "Second judge"),
        "perplexity": pgettext("evidence", "Frozen texts"),
        "empty": pgettext("evidence", "Empty"),
        "looping": pgettext("evidence", "Repeats itself"),
        "truncated": pgettext("evidence", "Cut short"),
        "refusal": pgettext("evidence", "Refusal"),
        "language": pgettext("evidence", "Other language"),
        "latency": pgettext("evidence", "Latency"),
        "heldout": pgettext("evidence", "Held-out pairs"),
        "hacking": pgettext("evidence", "Pleases its score"),
        "audit": pgettext("evidence", "Audit prompts"),
    }
    return labels.get(name, name)


@register.filter
def filter_label(name: str) -> str:
    """Which examples of an evaluation are shown."""
    labels = {
        "": pgettext("examples", "All"),
        "candidate": pgettext("examples", "Won"),
        "champion": pgettext("examples", "Lost"),
        "tie": pgettext("examples", "Ties"),
        "degenerate": pgettext("examples", "Degenerate"),
        "disagree": pgettext("examples", "Judges disagree"),
        "open": pgettext("examples", "Not judged"),
        "audit": pgettext("examples", "Audit"),
    }
    return labels.get(name, name)


@register.filter
def of_name(counts: dict[str, int], name: str) -> int | str:
    return counts.get(name or "all", "")


@register.filter
def guard_label(name: str) -> str:
    """What a guard looks at, in words."""
    labels = {
        "errors": pgettext("guard", "Failed answers"),
        "slow": pgettext("guard", "Slow answers"),
        "complaints": pgettext("guard", "Thumbs down and flags"),
        "degenerate": pgettext("guard", "Empty or repeating"),
    }
    return labels.get(name, name)


@register.filter
def outcome_label(name: str) -> str:
    """A line of what came of a run; a setting keeps the name by which it is set."""
    labels = {
        "status": pgettext("outcome", "State"),
        "made": pgettext("outcome", "Made"),
        "loss": pgettext("outcome", "Loss"),
        "heldout_loss": pgettext("outcome", "Held-out loss"),
        "heldout_accuracy": pgettext("outcome", "Held-out accuracy"),
        "seconds": pgettext("outcome", "Took"),
        "peak_memory_bytes": pgettext("outcome", "Most memory"),
        "pf_days": pgettext("outcome", "Petaflop/s-days"),
        "flops": pgettext("outcome", "FLOPs"),
        "device_seconds": pgettext("outcome", "Device time"),
        "mfu": pgettext("outcome", "Share of the device's peak"),
    }
    return labels.get(name, words(name))


@register.filter
def is_one_of(name: str | None, names: str) -> bool:
    """Whether it is one of the names, which have spaces between them."""
    return name in names.split()


@register.filter
def item(table: object, key: object) -> object:
    """`table[key]`, or nothing."""
    return table.get(key) if isinstance(table, dict) else None


@register.filter
def words(key: str) -> str:
    """`both_bad` -> `both bad`."""
    return str(key).replace("_", " ")


@register.filter
def words_list(text: str) -> list[str]:
    return text.split()


@register.filter
def is_list(value: object) -> bool:
    return isinstance(value, list)


@register.filter
def short_digest(digest: str) -> str:
    """The first twelve characters of a digest, enough to tell two apart by eye."""
    return digest.rpartition(":")[2][:12]


@register.filter
def compact(value: object) -> str:
    """Numbers that people compare at a glance: 1,234,567; 0.0123; 1.2e-09. Anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DASH if value is None else str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}"
