"""What searches for configurations asked and were answered, what they found, and which sets runs have listed: the third
part of the store."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kernels.moe.vllm_config_files import Config
from tasks.records import Status
from tasks.storage.database import Database, Row
from tasks.storage.rows import to_utc
from tasks.tuning.listed import ListedSet
from tasks.tuning.plan import Outcome
from tasks.tuning.sets import Provenance, SetKey, SetState
from tasks.tuning.trials import Answer, Kept, Question, Trial

MOST_SEEDS = 4
"""Configurations of other searches for one batch size."""
SHAPE = ("num_experts", "intermediate_size", "hidden_size", "top_k")
SAME_KERNEL = "s.kernel = ? AND s.provider = ? AND s.scheme = ? AND s.device_name = ?"


@dataclass(frozen=True, slots=True)
class Search:
    """One search, as it is known before it has begun."""

    search_id: str
    """Digest of all that decides what it asks: the same search is answered the same, and measures nothing twice."""
    key: SetKey
    layer_key: str
    batch_sizes: tuple[int, ...]
    provenance: Provenance
    """What it tunes with."""
    seed: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """What the newest search for a set found."""

    provenance: Provenance
    configs: dict[int, Config] = field(hash=False)
    """By batch size."""


class Notebook:
    """Every method may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, search: Search) -> Kept:
        """Add a search if it is new; gives the answers that it had when it was killed, or all of them."""
        row = {**search_to_row(search), "started_at": to_utc(datetime.now(UTC))}
        with self._database.transaction():
            self._database.insert("searches", [row], on_conflict="ON CONFLICT DO NOTHING")
        query = "SELECT * FROM tuning_trials WHERE search_id = ? ORDER BY number, place"
        answers: dict[int, list[Row]] = {}
        for found in self._database.rows(query, [search.search_id]):
            answers.setdefault(found["number"], []).append(found)
        return [rows_to_answer(rows) for rows in answers.values()]

    def keep(self, search: Search, number: int, question: Question, answer: Answer) -> None:
        """Commit one answer."""
        with self._database.transaction():
            self._database.insert("tuning_trials", answer_to_rows(search.search_id, number, question, answer))

    def finish(self, search: Search, outcomes: Sequence[Outcome]) -> None:
        """Commit what the search found; what it found before, if it had ended, is replaced."""
        with self._database.transaction():
            self._database.execute("DELETE FROM tuned_configs WHERE search_id = ?", [search.search_id])
            self._database.insert("tuned_configs", [outcome_to_row(search.search_id, each) for each in outcomes])
            self._database.execute(
                "UPDATE searches SET finished_at = coalesce(finished_at, ?) WHERE search_id = ?",
                [to_utc(datetime.now(UTC)), search.search_id],
            )

    def find_tuned(self, key: SetKey) -> Tuned | None:
        """What the newest search for a set found; None if none has ended."""
        same = " AND ".join(f"s.{name} = ?" for name in SHAPE)
        query = f"""
            SELECT s.search_id, source_sha256, triton_version, space_sha256, batch_size, config
            FROM searches s JOIN tuned_configs t USING (search_id)
            WHERE {SAME_KERNEL} AND {same} AND s.finished_at IS NOT NULL
            QUALIFY rank() OVER (ORDER BY s.finished_at DESC, s.search_id) = 1 ORDER BY batch_size
        """
        found = self._database.rows(query, [*kernel_of(key), *(getattr(key, name) for name in SHAPE)])
        if not found:
            return None
        first = found[0]
        provenance = Provenance(first["source_sha256"], first["triton_version"], first["space_sha256"])
        return Tuned(provenance, {row["batch_size"]: json.loads(row["config"]) for row in found})

    def keep_sets(self, run_id: str, sets: Sequence[ListedSet]) -> None:
        """Commit the sets that a run has listed, what costs most first; a run that is resumed lists them anew."""
        with self._database.transaction():
            self._database.execute("DELETE FROM tuned_sets WHERE run_id = ?", [run_id])
            lines = [listed_to_row(run_id, place, listed) for place, listed in enumerate(sets)]
            self._database.insert("tuned_sets", lines)

    def listed_sets(self, run_id: str) -> list[ListedSet]:
        """The sets that a run has listed, what costs most first."""
        found = self._database.rows("SELECT * FROM tuned_sets WHERE run_id = ? ORDER BY place", [run_id])
        return list(map(row_to_listed, found))

    def list_seeds(self, key: SetKey, provenance: Provenance, batch_size: int) -> list[Config]:
        """What other searches found for a batch size: of the shape with other code, then of other shapes.

        A search that ended does not count for the same one once more, which would else be another.
        """
        same = " AND ".join(f"s.{name} = ?" for name in SHAPE)
        tuned_with = "s.source_sha256 = ? AND s.triton_version = ? AND s.space_sha256 = ?"
        query = f"""
            SELECT config FROM searches s JOIN tuned_configs t USING (search_id)
            WHERE {SAME_KERNEL} AND t.batch_size = ? AND s.finished_at IS NOT NULL AND NOT ({same} AND {tuned_with})
            ORDER BY ({same}) DESC, s.finished_at DESC, s.search_id LIMIT ?
        """
        shape = [getattr(key, name) for name in SHAPE]
        with_what = [provenance.source_sha256, provenance.triton_version, provenance.space_sha256]
        values = [*kernel_of(key), batch_size, *shape, *with_what, *shape, MOST_SEEDS]
        return [json.loads(row["config"]) for row in self._database.rows(query, values)]


def kernel_of(key: SetKey) -> list[str]:
    """The values of SAME_KERNEL."""
    return [key.kernel, key.provider, key.scheme, key.device_name]


def search_to_row(search: Search) -> Row:
    provenance = search.provenance
    return {
        "search_id": search.search_id,
        **key_to_row(search.key),
        "layer_key": search.layer_key,
        "batch_sizes": list(search.batch_sizes),
        "source_sha256": provenance.source_sha256 or "",
        "triton_version": provenance.triton_version or "",
        "space_sha256": provenance.space_sha256 or "",
        "seed": search.seed,
    }


def answer_to_rows(search_id: str, number: int, question: Question, answer: Answer) -> list[Row]:
    return [
        {
            "search_id": search_id,
            "number": number,
            "place": place,
            "batch_size": question.batch_size,
            "num_trials": question.num_trials,
            "is_checked": question.is_checked,
            "config": json.dumps(trial.config),
            "status": str(trial.status),
            "reason": trial.reason,
            "samples_us": list(trial.samples_us),
            "seconds": answer.seconds,
        }
        for place, trial in enumerate(answer.trials)
    ]


def rows_to_answer(rows: Sequence[Row]) -> tuple[Question, Answer]:
    """One answer and its question, from its rows in order."""
    first = rows[0]
    trials = tuple(
        Trial(
            batch_size=row["batch_size"],
            config=json.loads(row["config"]),
            samples_us=tuple(row["samples_us"]),
            status=Status(row["status"]),
            reason=row["reason"],
        )
        for row in rows
    )
    configs = tuple(trial.config for trial in trials)
    question = Question(first["batch_size"], configs, first["num_trials"], first["is_checked"])
    return question, Answer(trials, first["seconds"])


def outcome_to_row(search_id: str, outcome: Outcome) -> Row:
    return {
        "search_id": search_id,
        "batch_size": outcome.batch_size,
        "config": json.dumps(outcome.winner),
        "is_replaced": outcome.is_replaced,
        "reason": outcome.verdict.reason,
        "used_us": outcome.verdict.incumbent_us,
        "median_us": outcome.verdict.winner_us,
    }


def key_to_row(key: SetKey) -> Row:
    return {
        "kernel": key.kernel,
        "provider": key.provider,
        "num_experts": key.num_experts,
        "intermediate_size": key.intermediate_size,
        "hidden_size": key.hidden_size,
        "top_k": key.top_k,
        "scheme": key.scheme,
        "block_n": key.block_shape[0],
        "block_k": key.block_shape[1],
        "device_name": key.device_name,
    }


def listed_to_row(run_id: str, place: int, listed: ListedSet) -> Row:
    return {
        "run_id": run_id,
        "place": place,
        **key_to_row(listed.key),
        "state": listed.state,
        "reasons": list(listed.reasons),
        "lost_us": listed.lost_us,
    }


def row_to_listed(row: Row) -> ListedSet:
    key = SetKey(
        kernel=row["kernel"],
        provider=row["provider"],
        num_experts=row["num_experts"],
        intermediate_size=row["intermediate_size"],
        hidden_size=row["hidden_size"],
        top_k=row["top_k"],
        scheme=row["scheme"],
        block_shape=(row["block_n"], row["block_k"]),
        device_name=row["device_name"],
    )
    return ListedSet(key, SetState(row["state"]), tuple(row["reasons"]), row["lost_us"])
