"""What a run comes to, in sentences: the first screen of the report, which terminal and notifications repeat.

Every number in them is a fact of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.analysis.release_diff import ConfigChange
from retrieval_core.evaluate.analysis.run_history import n_held_in_a_row
from retrieval_core.evaluate.gate.catalog_losses import what_was_lost
from retrieval_core.evaluate.gate.decide import CauseKind
from retrieval_core.evaluate.gate.paired_comparison import MetricChange
from retrieval_core.evaluate.report.fix_list import Action, count_actions
from retrieval_core.evaluate.report.formatting import counted, listed, number, percent, short_moment
from retrieval_core.evaluate.report.schema import ReportFacts
from retrieval_core.evaluate.run_outputs import CatalogFacts
from retrieval_core.evaluate.thumbnails import Thumbnail
from retrieval_core.metrics.registry import METRICS, find_metric

SUMMARY_FILE = "summary.json"  # the first screen, beside the page
PICTURE_FILES = ("picture-1.jpg", "picture-2.jpg")  # two pictures of what it speaks of

Tone = Literal["good", "warning", "held"]
Section = Literal["verdict", "fixes", "changed", "unreadable", "quality", "comparison", "losses"]

PUBLISH_ANYWAY = "publish nevertheless: `vitrine promote RELEASE --anyway --why '…'`"
# Which kind of cause explains the others: a search that lost its items is also worse.
LIKELIEST_FIRST: tuple[CauseKind, ...] = (
    "rows", "catalogue", "pictures", "search", "drift", "masks", "index", "queries",
)  # fmt: skip
IN_SHORT: dict[CauseKind, str] = {
    "rows": "the items do not add up",
    "catalogue": "the catalogue lost too much",
    "pictures": "too many unreadable pictures",
    "search": "search got worse",
    "drift": "search got worse over several runs",
    "masks": "too many backgrounds could not be removed",
    "index": "the index is out of its bounds",
    "queries": "too little can be compared",
}
SHARES = {  # metrics that are a share of searches
    "recall@1": "the same product came first in",
    "golden/hit@1": "an expected item came first in",
    "synthetic/recall@1": "a picture changed on purpose found its item in",
}
FITTED_ALWAYS = ("heads", "reducer")  # models that are fitted anew whenever their pictures change
MOVED = "address"  # worth a word only where nothing else changed
READABLE = "state"
FIX_WORDS: dict[Action, tuple[str, str]] = {  # with the noun that is counted
    "relabel": ("the category or label of {}", "item"),
    "replace": ("{} that cannot be read", "picture"),
    "merge": ("{} to join with another under one product", "item"),
    "check": ("{} unlike all others", "item"),
}
N_VALUES = 4  # kinds of change that a sentence lists


class Answer(Value):
    """A question that a reader has, and its answer; `about` is the section of the page that shows more of it."""

    question: str
    text: str
    about: Section


class FirstScreen(Value):
    """The first screen: a verdict as `title` with its `tone`, and the answers to a reader's questions in order."""

    tone: Tone
    title: str
    answers: tuple[Answer, ...] = ()

    def as_lines(self) -> list[str]:
        """Return the title, then a line for each answer, as a terminal and a message show them."""
        width = max((len(answer.question) for answer in self.answers), default=0) + 2
        answers = [f"{answer.question:<{width}}{answer.text.replace('`', '')}" for answer in self.answers]
        return [self.title, *answers]


def first_screen(facts: ReportFacts) -> FirstScreen:
    """Return the first screen of a report; equal facts give equal sentences."""
    answers = [Answer(question="Was it published?", text=_published(facts), about="verdict")]
    kind = likeliest_cause(facts)
    if kind:
        cause, remedy, about = _CAUSES[kind](facts, kind)
        answers.append(Answer(question="Likeliest cause", text=cause, about=about))
        answers.append(Answer(question="What to do", text=remedy, about="verdict"))
    answers.append(Answer(question="Is search as good?", text=_quality(facts), about="quality"))
    answers.append(Answer(question="What changed?", text=_changes(facts), about="changed"))
    if facts.quarantine:
        answers.append(Answer(question="Unreadable pictures", text=_unreadable(facts), about="unreadable"))
    answers.append(Answer(question="What to fix first?", text=_fixes(facts), about="fixes"))
    tone = tone_of(facts)
    return FirstScreen(tone=tone, title=_title(facts, tone, kind), answers=tuple(answers))


def pictures_of(facts: ReportFacts) -> list[Thumbnail]:
    """Return up to two pictures of what the first screen speaks of: items that are gone, to fix, or found wrongly."""
    gone = [change.item_id for change in (facts.since.named if facts.since else ()) if change.what == "removed"]
    suspected = [(fix.item_id, *fix.beside[:1]) for fix in (facts.hygiene.examples if facts.hygiene else ())]
    item_ids = gone if likeliest_cause(facts) == "catalogue" else [item for pair in suspected for item in pair]
    candidates = [facts.album[item_id] for item_id in item_ids if item_id in facts.album]
    candidates += [picture for pair in facts.duplicates.pairs for picture in pair.pictures]
    candidates += [picture for grid in facts.worst for picture in (grid.query, *grid.hits[:1])]
    return [picture for picture in candidates if picture.jpeg][: len(PICTURE_FILES)]


def unchanged_screen(screen: FirstScreen, catalog: CatalogFacts) -> FirstScreen:
    """Return the first screen of a run whose release is searched as production, the one of production's report."""
    refreshed = f"{counted(catalog.refreshed, 'item')} with other fields, such as a price"
    texts = {
        "Was it published?": "Yes. It is searched as the release before.",
        "Is search as good?": "Yes, it is the same search.",
        "What changed?": f"{refreshed if catalog.refreshed else 'Nothing that a search depends on'}.",
    }
    answers = [answer.model_copy(update={"text": texts.get(answer.question, answer.text)}) for answer in screen.answers]
    kept = [answer for answer in answers if answer.question not in ("Likeliest cause", "What to do")]
    return FirstScreen(tone="good", title="Published: search is the same", answers=tuple(kept))


def overruled_screen(screen: FirstScreen, gate: str, reason: str) -> FirstScreen:
    """Return the first screen of a release about which a person decided, for the `reason` given."""
    is_published = gate == "published"
    first = screen.answers[0].model_copy(update={"text": f"{'Yes' if is_published else 'No'}. {reason}"})
    return FirstScreen(
        tone="good" if is_published else "held",
        title="Published by a person" if is_published else "Held back by a person",
        answers=(first, *screen.answers[1:]),
    )


def tone_of(facts: ReportFacts) -> Tone:
    """Return whether a release is published without a word, with a warning, or held."""
    if facts.gate != "published":
        return "held"
    return "warning" if facts.causes else "good"


def likeliest_cause(facts: ReportFacts) -> CauseKind | None:
    """Return the kind of cause that explains most of the others; None if nothing speaks against publishing."""
    return next((kind for kind in LIKELIEST_FIRST if kind in facts.kinds), None)


def _title(facts: ReportFacts, tone: Tone, kind: CauseKind | None) -> str:
    if tone != "good":
        start = "Held back" if tone == "held" else "Published with a warning"
        return f"{start}: {_lost_items(facts) if kind == 'catalogue' else IN_SHORT[kind]}" if kind else "Waits for you"
    if not facts.production:
        return "Published: the first release"
    tested = _tested(facts.changes)
    if not tested:
        return "Published, but not compared"
    return "Published: search got better" if _better(tested) else "Published: search is as good as before"


def _published(facts: ReportFacts) -> str:
    production = f"the release of {short_moment(facts.production_since)}" if facts.production_since else "another one"
    if facts.gate == "published":
        return f"Yes. It replaces {production}." if facts.production else "Yes. Nothing was published before."
    if not facts.production:
        return "No, and nothing was published before."
    n_held = n_held_in_a_row(facts.nights)
    return f"No. Shoppers still search {production}." + (f" Held {n_held + 1} runs in a row." if n_held else "")


def _tested(changes: Sequence[MetricChange]) -> list[MetricChange]:
    return [row for row in changes if row.p_holm is not None or row.blocks]


def _better(tested: Sequence[MetricChange]) -> list[MetricChange]:
    return [row for row in tested if row.low is not None and row.low > 0 and row.largest_loss is not None]


def _quality(facts: ReportFacts) -> str:
    if not facts.n_queries:
        return "Not known: no picture was held out to search with."
    if not facts.n_gallery:
        return "Not known: every picture is searched with and none is left to be found."
    if not facts.production:
        return f"There is nothing to compare with. {_measured(facts)}"
    tested = _tested(facts.changes)
    blocking = [row for row in (*tested, *facts.category_changes, *_since_anchor(facts)) if row.blocks]
    if blocking:
        return f"No. {_compared(_worst(blocking))}"
    if not tested:
        return "Not known: nothing could be compared with the release before."
    if "queries" in facts.kinds:
        return f"Hard to tell: too few test searches can be compared. {_compared(_plainest(tested))}"
    better = _better(tested)
    if better:
        return f"It is better. {_compared(_plainest(better))}"
    return f"Yes, no loss beyond chance. {_compared(_plainest(tested))}"


def _since_anchor(facts: ReportFacts) -> tuple[MetricChange, ...]:
    return facts.anchor.changes if facts.anchor else ()


def _plainest(rows: Sequence[MetricChange]) -> MetricChange:
    """Return the metric that is easiest to understand."""
    return next((row for name in SHARES for row in rows if row.name == name), rows[0])


def _worst(blocking: Sequence[MetricChange]) -> MetricChange:
    overall = [row for row in blocking if not row.category]
    return _plainest(overall) if overall else min(blocking, key=lambda row: row.difference)


def _measured(facts: ReportFacts) -> str:
    """Say how good a search is by the metric that is easiest to understand."""
    fact_of = {fact.name: fact for fact in (*facts.quality.metrics, *facts.quality.unlabelled)}
    names = (*SHARES, *(metric.name for metric in METRICS if metric.headline))
    fact = next((fact_of[name] for name in names if name in fact_of), None)
    if fact is None:
        return "The catalogue says nothing of its items by which an answer could be judged."
    return _upper(f"{_subject(fact.name)} {_value(fact.name, fact.value)} of {_searches(fact.n_queries)}.")


def _compared(row: MetricChange) -> str:
    """Say what a metric is and was, on the searches that both releases answered."""
    before, now = _value(row.name, row.production), _value(row.name, row.candidate)
    where = f" in category {row.category}" if row.category else ""
    among = f"In {_searches(row.n_queries)}{where} that both releases answered, {_subject(row.name)} {now}"
    return f"{among}, as before." if before == now else f"{among}; before, in {before}." if row.name in SHARES else (
        f"{among}; before, {before}."
    )  # fmt: skip


def _searches(n: int) -> str:
    return counted(n, "test search", "test searches")


def _subject(name: str) -> str:
    known = find_metric(name)
    words = known.metric.words if known else ""
    return SHARES.get(name) or (f"{name} ({words}) is" if words else f"{name} is")


def _value(name: str, value: float) -> str:
    return percent(value) if name in SHARES else number(value)


def _upper(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _changes(facts: ReportFacts) -> str:
    since = facts.since
    if not facts.production:
        return f"Everything is new: {counted(facts.catalog.rows, 'item')}."
    if since is None:
        return "Not known: the catalogue of the release before was removed from the store."
    counts, values = since.counts, {what: n for what, n in since.values.items() if what != MOVED} or since.values
    told = {"new": counts["added"], "gone": counts["removed"]}
    told |= {_other(what): n for what, n in list(values.items())[:N_VALUES]}
    happened = [(n, words) for words, n in told.items() if n]
    parts = [f"{f'{n:,}' if place else counted(n, 'item')} {words}" for place, (n, words) in enumerate(happened)]
    more = len(values) - N_VALUES
    items = listed(parts) + (f", and {counted(more, 'more thing')} changed" if more > 0 else "")
    return " ".join([f"{items}." if parts else "No item came, went or changed.", *_new_models(facts)])


def _other(what: str) -> str:
    return "that became readable or unreadable" if what == READABLE else f"with another {what}"


def _new_models(facts: ReportFacts) -> Iterator[str]:
    """Name models and settings that changed, unless they are blamed for a loss and so named before."""
    since = facts.since
    if since is None or likeliest_cause(facts) in ("search", "drift"):
        return
    models = [model.role for model in since.models if model.role not in FITTED_ALWAYS]
    if models:
        yield f"New: {listed([f'the {role}' for role in models])}."
    if since.config:
        shown = listed([_setting(value) for value in since.config[:2]])
        yield f"{counted(len(since.config), 'setting')} changed: {shown}."


def _setting(value: ConfigChange) -> str:
    return f"{value.key} from {value.before or 'nothing'} to {value.now or 'nothing'}"


def _unreadable(facts: ReportFacts) -> str:
    n, since = len(facts.quarantine), facts.since
    n_new = min(since.n_newly_unreadable, n) if since else 0
    new = (
        ""
        if not since
        else ", all of them new"
        if n_new == n
        else f", {n_new:,} of them new"
        if n_new
        else ", none new"
    )
    return f"{counted(n, 'picture')} cannot be read{new}. Nobody finds {'its item' if n == 1 else 'their items'}."


def _fixes(facts: ReportFacts) -> str:
    counts = count_actions(facts)
    parts = [
        words.format(counted(counts[action], noun)) for action, (words, noun) in FIX_WORDS.items() if counts[action]
    ]
    if not parts:
        return "Nothing was found that a person should look at."
    first, *others = parts
    then = f"; then {listed(others)}" if others else ""
    return f"{counted(sum(counts.values()), 'thing')} to look at. First {first}{then}."


Cause = tuple[str, str, Section]  # what it is, what to do, and where the page shows more


def _lost_items(facts: ReportFacts) -> str:
    return what_was_lost(_first_of(facts, "catalogue"))


def _first_of(facts: ReportFacts, kind: CauseKind) -> str:
    return next(cause for cause, of_kind in zip(facts.causes, facts.kinds, strict=True) if of_kind == kind)


def _catalogue_cause(facts: ReportFacts, kind: CauseKind) -> Cause:
    gone = [
        f"{group.category or 'items without a category'} ({group.n_gone:,} of {group.n_before:,})"
        for group in (facts.since.gone if facts.since else ())
    ]
    cause = f"The shop's list is incomplete. Most of what is gone: {listed(gone)}." if gone else (
        f"The shop's list changed: {_lost_items(facts)}."
    )  # fmt: skip
    return cause, f"Repair the list and run again. If it is right, {PUBLISH_ANYWAY}", "changed"


def _picture_cause(facts: ReportFacts, kind: CauseKind) -> Cause:
    c = facts.catalog
    reasons = dict.fromkeys(reject.reason for reject in facts.quarantine)
    why = f" Most often: {max(reasons, key=[r.reason for r in facts.quarantine].count)}." if reasons else ""
    cause = f"{c.quarantined:,} of {counted(c.rows, 'picture')} cannot be read.{why}"
    return cause, f"Send these pictures again and run again. If they are no loss, {PUBLISH_ANYWAY}", "unreadable"


def _search_cause(facts: ReportFacts, kind: CauseKind) -> Cause:
    """Blame what changed: a setting, a model, the step that lost most, or the catalogue."""
    since, losses = facts.since, facts.losses
    remedy = f"Undo that and run again. If the loss is wanted, {PUBLISH_ANYWAY}"
    searched = [value for value in (since.config if since else ()) if not value.key.startswith(("gate.", "evaluate."))]
    if searched:
        return f"Somebody changed {listed([_setting(value) for value in searched[:3]])}.", remedy, "changed"
    if losses and losses.lost_most:
        lost = f"The step {losses.lost_most} loses {number(losses.lost)} of {losses.lost_metric}"
        return f"{lost}, most of all steps.", f"Look at that step and run again, or {PUBLISH_ANYWAY}", "losses"
    if since and since.models:
        names = listed([model.role for model in since.models])
        return f"Trained or loaded anew: {names}.", remedy, "changed"
    cause = "No model and no setting changed, so it is what changed in the catalogue."
    return cause, f"Look at what changed, repair the list and run again, or {PUBLISH_ANYWAY}", "changed"


def _other_cause(facts: ReportFacts, kind: CauseKind) -> Cause:
    cause, _, advice = _first_of(facts, kind).partition(": ")
    remedy = _sentence(advice) if advice else f"Run again, or {PUBLISH_ANYWAY}"
    return _sentence(cause), remedy, "comparison"


def _sentence(text: str) -> str:
    return f"{_upper(text)}."


_CAUSES: dict[CauseKind, Callable[[ReportFacts, CauseKind], Cause]] = {
    "rows": _other_cause,
    "catalogue": _catalogue_cause,
    "pictures": _picture_cause,
    "search": _search_cause,
    "drift": _search_cause,
    "masks": _other_cause,
    "index": _other_cause,
    "queries": _other_cause,
}
