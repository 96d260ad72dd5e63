"""What the templates show of a run, by the names they use. Formatting only; the numbers are the run's."""

from __future__ import annotations

from typing import Any

from gradlens.report import analyses, answers, data_sets, explorer, gallery, gaps, made, model_page, models, wording
from gradlens.report.cells import MOST_ROWS
from gradlens.report.kept import read_kept
from gradlens.report.model_files import read_model_files
from gradlens.report.run_files import Run


def page_title(run: Run) -> str:
    """``14 models on vehicles-test and 9 probe sets``, after what ``run.json`` says it is about."""
    about = f"{run.about['title']}: " if run.about.get("title") else ""
    return (
        about
        + f"{len(run.models)} {'model' if len(run.models) == 1 else 'models'} on {run.in_dist}"
        + (f" and {len(run.probes)} probe {'set' if len(run.probes) == 1 else 'sets'}" if run.probes else "")
    )


def view(run: Run) -> dict[str, Any]:
    """Everything the templates show of a run, by the names they use."""
    files, names = read_model_files(run), wording.short_names(run)
    answer = answers.answer(run, {model: cost.flops for model, cost in files.costs.items()})
    return {
        "run": run,
        "asked": wording.asked(run, names),
        "sentences": answer.sentences,
        "picks": answer.picks,
        "models": answers.short_models(run.models),
        "sets": answers.short_sets(run.datasets),
        "model_table": models.model_table(run, files),
        "gap_tables": gaps.gap_tables(run),
        "mix": gaps.mix_table(run),
        "model_pages": model_page.pages(run, files),
        "pair_tables": gaps.pair_tables(run),
        "analyses": [
            (one, wording.words(one, names), analyses.raw_tables(one)) for one in run.analyses if not one.not_done
        ],
        "questions": [(row, wording.reply(row.get("answer", ""), run.datasets, names)) for row in run.questions],
        "left_undone": [one for one in run.analyses if one.not_done],
        "strips": gaps.strips(run),
        "most_rows": MOST_ROWS,
        "remarks": made.remarks(run.about),
        "intervals": made.intervals(run),
        "facts": made.facts(run.about),
        "inputs": made.inputs(run),
        "weights": made.weights(run),
    }


def pictured(run: Run) -> dict[str, Any]:
    """What the templates show of a run's images, by the names they use."""
    kept = read_kept(run.folder)
    names: dict[str, Any] = {"explored": None, "failed": None, "set_table": None, "data_sets": [], "unreadable": []}
    if kept is None:
        return names
    models, sets = answers.short_models(run.models), answers.short_sets(run.datasets)
    table, told = data_sets.data_sets(run, kept, sets)
    return names | {
        "explored": explorer.explorer(kept, models, sets) if kept.samples else None,
        "failed": gallery.gallery(run, kept, models, sets),
        "set_table": table,
        "data_sets": told,
        "unreadable": kept.unreadable,
    }
