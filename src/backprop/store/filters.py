"""Which runs are wanted, as a SELECT over the index. Values are only ever bound, never part of a statement."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec

from backprop.errors import UsageError
from backprop.records import Decision, Goal, Record, Status
from backprop.store.usage import figures
from backprop.store.usage.quantities import Unit

_CONDITION = re.compile(r"(?P<name>[^\s=!<>~]+)(?P<operator>!=|<=|>=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_SIGNS = frozenset("=<>~")
_ITEM = re.compile(r"""\s+|(?P<quoted>(?:[^\s"']|"[^"]*"|'[^']*')+)|(?P<stray>.)""", re.DOTALL)

# column, and whether it sorts in descending order by default
_SORT_COLUMNS = {
    "created": ("created_at", True),
    "name": ("runs.name", False),
    "status": ("status", False),
    "elapsed": ("elapsed_s", True),
    "step": ("coalesce(runs.last_step, counted_step, printed_step)", True),
}
SORT_KEYS = tuple(_SORT_COLUMNS)

_TEXTS = {
    "id": "lower(id)",
    "name": "casefold(coalesce(runs.name, ''))",
    "status": "status",
    "command": "words",
    "group": "casefold(coalesce(group_name, ''))",
    "decision": "coalesce(decision, '')",
}
_BEGINNINGS = {"parent": "lower(coalesce(parent, ''))", "commit": "coalesce(commit_id, '')"}  # = is of how it begins
_TAG, _ARCHIVED, _PARENT = "tag", "archived", "parent"
_PARENT_NAME = "casefold(coalesce((SELECT one.name FROM runs AS one WHERE one.id = runs.parent), ''))"
_ARCHIVED_TERMS = {"true": "is_archived", "false": "NOT is_archived", "any": "1"}
_NUMBERS = {
    "step": "coalesce(runs.last_step, counted_step, printed_step)",
    "elapsed": "elapsed_s",
    "age": "? - created_at",
}
KEYS = (*_TEXTS, *_BEGINNINGS, _TAG, _ARCHIVED, *_NUMBERS)  # of a filter; what else it names is a parameter or a metric
_SQL_OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_ORDERING = frozenset({"<", "<=", ">", ">="})
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_NAME_LENGTH = 100
_SIZES = {"": 1.0, "B": 1.0, **{f"{prefix}B": 1000.0**n for n, prefix in enumerate("kMGT", 1)}}
_SIZES |= {f"{prefix}iB": 1024.0**n for n, prefix in enumerate("KMGT", 1)}
_SIZE = re.compile(r"([0-9.eE+-]+?)\s*([A-Za-z]*)")
_DURATION = re.compile(r"([0-9.eE+-]+?)\s*(s|min|h|d)?")
_LOSS = "loss"
# by metric_names.loss_rank, an SQL function there
_ITS_LOSS = (
    f"coalesce((SELECT name FROM metrics WHERE run_id = runs.id AND name = '{_LOSS}'),"  # noqa: S608  our own words
    " (SELECT name FROM metrics WHERE run_id = runs.id AND loss_rank(name) IS NOT NULL"
    " ORDER BY loss_rank(name), name LIMIT 1))"
)

_GOING_ON = ", ".join(f"'{status.value}'" for status in Status if not status.is_final)

# of an item of a list in JSON
_ITEM_NUMBER = "CASE WHEN type IN ('integer', 'real') THEN atom END"
_ITEM_TEXT = "casefold(CASE type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE coalesce(atom, '') || '' END)"

IsGreaterBetter = Callable[[str], bool]
Statement = tuple[str, list[Any]]


class Condition(Record, frozen=True):
    """One condition on a run. `name`: a key of the tables above, else a parameter, else a metric's last value.

    `param.NAME`, `metric.NAME` and `best.NAME` say which of them is meant. `loss` and `best.loss` are of each run's
    loss, whatever it calls it; `metric.loss` is the metric of that very name.
    """

    name: str
    operator: str  # = != < <= > >= and ~ (contains)
    value: str


class Wanted(Record, frozen=True):
    """Which runs, and in which order."""

    statuses: tuple[str, ...] = ()  # none: all
    conditions: tuple[Condition, ...] = ()  # all must hold
    hides_archived: bool = False  # those that have ended, unless a condition is about that
    search: str = ""  # words that must all be in the id, the name or the command
    sort: str = "created"  # one of SORT_KEYS, else a metric (best first) or a parameter
    is_descending: bool | None = None  # None: as the key is usually wanted
    is_reversed: bool = False  # the other way round than that
    goals: Mapping[str, Goal] = {}  # of metrics; they prevail over what the runs were given
    limit: int | None = None
    offset: int = 0


def near_name(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names may have been meant."""
    import difflib

    short = [other for other in known if len(other) <= _NAME_LENGTH]  # the time it takes grows with the square
    return next(iter(difflib.get_close_matches(name[:_NAME_LENGTH], short, n=1)), None)


def check_status(word: str, source: str) -> None:
    """Raise UsageError unless it is the name of a status. source: where it was found, for the message."""
    known = [status.value for status in Status]
    if word not in known:
        near = near_name(word, known)
        hint = f"; did you mean {near}?" if near else "."
        raise UsageError(f"{source}: no such status{hint} Expected one of: {', '.join(known)}.")


def check(condition: Condition) -> None:
    """Raise UsageError for a condition that makes no sense, whatever the runs are."""
    name, operator, value = condition.name, condition.operator, condition.value
    if name == "status" and operator in {"=", "!="}:
        check_status(value, f"cannot parse filter status{operator}{value}")
    if name == "decision" and operator in {"=", "!="} and value not in (known := [one.value for one in Decision]):
        raise UsageError(f"cannot parse filter {name}{operator}{value}: expected one of {', '.join(known)}.")
    if name == _ARCHIVED and (operator != "=" or value not in _ARCHIVED_TERMS):
        raise UsageError(f"cannot parse filter {name}{operator}{value}: expected archived=true, =false or =any.")
    if (name in _BEGINNINGS or name == _TAG) and operator in _ORDERING:
        raise UsageError(f"cannot parse filter {name}{operator}{value}: {name} takes =, != and ~ (contains).")
    if name in _TEXTS and (operator in _ORDERING or (name == "command" and operator != "~")):
        allowed = "~ (contains)" if name == "command" else "=, != and ~ (contains)"
        raise UsageError(f"cannot parse filter {name}{operator}{value}: {name} takes {allowed}.")
    if name.startswith(figures.PREFIX):
        _check_figure(condition)
    elif name in _NUMBERS:
        if operator == "~":
            raise UsageError(f"cannot parse filter {name}~{value}: {name} is a number.")
        _seconds_or_number(condition)
    elif operator in _ORDERING and _number(value) is None:
        raise UsageError(f"cannot parse filter {name}{operator}{value}: {value!r} is not a number.")


def _check_figure(condition: Condition) -> None:
    """Raise UsageError unless it compares what runs used with a number."""
    name, operator, value = condition.name, condition.operator, condition.value
    if (mistake := unknown_figure(name)) is not None:
        raise UsageError(f"cannot parse filter {name}{operator}{value}: {mistake}")
    if operator == "~":
        raise UsageError(f"cannot parse filter {name}~{value}: {name} is a number.")
    if _figure_value(condition) is None:
        wanted = "a size such as 800MB or 8GB" if _is_size(name) else "a number"
        raise UsageError(f"cannot parse filter {name}{operator}{value}: expected {wanted}.")


def unknown_figure(key: str) -> str | None:
    """What is wrong with a key that begins like those of what runs used; None for any other key."""
    if not key.startswith(figures.PREFIX) or figures.name_of(key) is not None:
        return None
    known = [f"{figures.PREFIX}{name}" for name in figures.NAMES]
    near = near_name(key, known)
    return f"no figure {key!r}; " + (f"did you mean {near}?" if near else f"there are {', '.join(known)}.")


def _is_size(key: str) -> bool:
    name = figures.name_of(key)
    return name is not None and figures.unit(name) in {Unit.BYTES, Unit.BYTES_PER_S}


def _figure_value(condition: Condition) -> float | None:
    """The number that a figure is compared with, in the figure's unit; None for anything else."""
    if not _is_size(condition.name):
        return _number(condition.value)
    found = _SIZE.fullmatch(condition.value)
    number = None if found is None else _number(found[1])
    return None if found is None or number is None or found[2] not in _SIZES else number * _SIZES[found[2]]


def ids_statement(wanted: Wanted, is_greater_better: IsGreaterBetter) -> Statement:
    """A SELECT of the ids, in order."""
    where, values = _where(wanted, is_greater_better)
    join, order, order_values = _order(wanted, is_greater_better)
    limit = -1 if wanted.limit is None else wanted.limit
    return (
        f"SELECT runs.id FROM runs{join}{where} ORDER BY {order}created_at DESC, id LIMIT ? OFFSET ?",  # noqa: S608
        [*order_values, *values, limit, wanted.offset],
    )


def values_statement(wanted: Wanted, keys: Sequence[str], is_greater_better: IsGreaterBetter) -> Statement:
    """A SELECT of id, name and the value of each sort key (no SORT_KEYS) of the newest matching runs."""
    where, values = _where(wanted, is_greater_better)
    columns = [_columns(key, f"of{place}", is_greater_better) for place, key in enumerate(keys)]
    joins = "".join(column.join for column in columns)
    shown = "".join(f", {column.value}" for column in columns)
    return (
        f"SELECT runs.id, runs.name{shown} FROM runs{joins}{where} ORDER BY created_at DESC LIMIT ?",  # noqa: S608
        [*(value for column in columns for value in column.bound), *values, wanted.limit],
    )


def groups_statement(wanted: Wanted, by: str, is_greater_better: IsGreaterBetter) -> Statement:
    """A SELECT of (group, status, how many runs, when the newest was made, its id).

    by: `group`, or `param.NAME` for runs with the same value of a parameter.
    """
    # the id is that of the row with the maximum: https://sqlite.org/lang_select.html#bareagg
    shown = "status, count(*), max(created_at), runs.id"
    return _grouped(wanted, by, _Column("", [], []), shown, "1, 2", is_greater_better)


def bests_statement(wanted: Wanted, by: str, metric: str, is_greater_better: IsGreaterBetter) -> Statement:
    """A SELECT of (group, best value of a metric, id and name of its run, number of values, sum, sum of squares)."""
    best = _columns(f"best.{metric}", "of_best", is_greater_better)
    # id and name are those of the row with the extreme: https://sqlite.org/lang_select.html#bareagg
    extreme = f"{'max' if is_greater_better(metric) else 'min'}({best.value})"
    rest = f"count({best.value}), total({best.value}), total({best.value} * {best.value})"
    return _grouped(wanted, by, best, f"{extreme}, runs.id, runs.name, {rest}", "1", is_greater_better)


def _grouped(
    wanted: Wanted, by: str, joined: "_Column", shown: str, order: str, is_greater_better: IsGreaterBetter
) -> Statement:
    where, values = _where(wanted, is_greater_better)
    group = _Column("", ["group_name"], []) if by == "group" else _columns(by, "by_param", is_greater_better)
    where = f"{where or ' WHERE 1'} AND {group.value} IS NOT NULL"
    tables = f"runs{group.join}{joined.join}"
    statement = f"SELECT {group.value}, {shown} FROM {tables}{where} GROUP BY {order}"  # noqa: S608  values are bound
    return statement, [*group.bound, *joined.bound, *values]


def count_statement(wanted: Wanted, is_greater_better: IsGreaterBetter) -> Statement:
    """A SELECT of how many there are."""
    where, values = _where(wanted, is_greater_better)
    return f"SELECT count(*) FROM runs{where}", values  # noqa: S608


def usually_descends(sort: str, is_greater_better: IsGreaterBetter) -> bool:
    """Whether a key sorts in descending order by default."""
    if sort in _SORT_COLUMNS:
        return _SORT_COLUMNS[sort][1]
    if figures.name_of(sort) is not None:
        return True
    kind, name = kind_and_name(sort)
    return kind != "param" and is_greater_better(name)


def _order(wanted: Wanted, is_greater_better: IsGreaterBetter) -> tuple[str, str, list[Any]]:
    is_descending = wanted.is_descending
    if is_descending is None:
        is_descending = usually_descends(wanted.sort, is_greater_better) != wanted.is_reversed
    way = "DESC" if is_descending else "ASC"
    if wanted.sort in _SORT_COLUMNS:
        return "", f"{_SORT_COLUMNS[wanted.sort][0]} {way} NULLS LAST, ", []
    found = _columns(wanted.sort, "sorted", is_greater_better)
    return found.join, "".join(f"{column} {way} NULLS LAST, " for column in found.columns), found.bound


class _Column(NamedTuple):
    """What a sort key of a parameter, a metric or a figure means, as parts of a statement over runs."""

    join: str
    columns: list[str]  # the first that is not NULL counts
    bound: list[Any]  # values in `join`

    @property
    def value(self) -> str:
        return self.columns[0] if len(self.columns) == 1 else f"coalesce({', '.join(self.columns)})"


def _columns(key: str, alias: str, is_greater_better: IsGreaterBetter) -> _Column:
    """alias: a name for the joined tables that no other join of the statement has."""
    if (figure := figures.name_of(key)) is not None:
        row, column = figures.column(figure)
        join = f" LEFT JOIN usage AS {alias} ON {alias}.run_id = runs.id AND {alias}.name = ?"
        return _Column(join, [column.replace("usage.", f"{alias}.")], [row])
    kind, name = kind_and_name(storable(key))
    metric, bound = _meant_metric(kind, name)
    joins, columns = "", []
    if kind != "param":  # before a parameter of the same name: the metric is what changes
        joins = f" LEFT JOIN metrics AS {alias} ON {alias}.run_id = runs.id AND {alias}.name = {metric}"
        columns = [f"{alias}.{_extreme(name, is_greater_better) if kind == 'best' else 'last'}"]
    if kind in {"", "param"}:
        joins += f" LEFT JOIN params AS {alias}_param ON {alias}_param.run_id = runs.id AND {alias}_param.name = ?"
        columns += [f"{alias}_param.number", f"{alias}_param.text"]
        bound = [*bound, name]
    return _Column(joins, columns, bound)


def _where(wanted: Wanted, is_greater_better: IsGreaterBetter) -> Statement:
    terms: list[str] = []
    values: list[Any] = []
    if wanted.statuses:
        terms.append(f"status IN ({', '.join('?' * len(wanted.statuses))})")
        values += wanted.statuses
    if wanted.hides_archived and not any(condition.name == _ARCHIVED for condition in wanted.conditions):
        terms.append(f"NOT (is_archived AND status NOT IN ({_GOING_ON}))")
    for word in wanted.search.casefold().split():
        terms.append("instr(words, ?)")
        values.append(storable(word))
    for condition in wanted.conditions:
        term, bound = _term(condition, is_greater_better)
        terms.append(f"({term})")
        values += bound
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), values


def _key_term(condition: Condition) -> Statement | None:
    """The term for a key of the tables above or a figure of what was used; None for a parameter or metric."""
    if condition.name in _TEXTS:
        return _text_term(_TEXTS[condition.name], condition)
    if condition.name == _PARENT and condition.operator != "~":
        return _parent_term(condition)
    if condition.name in _BEGINNINGS:
        return _beginning_term(_BEGINNINGS[condition.name], condition)
    if condition.name == _TAG:
        return _tag_term(condition)
    if condition.name == _ARCHIVED:
        return _ARCHIVED_TERMS[condition.value], []
    if condition.name in _NUMBERS:
        column = _NUMBERS[condition.name]
        now = [datetime.now(timezone.utc).timestamp()] if "?" in column else []
        return f"{column} {_SQL_OPERATORS[condition.operator]} ?", [*now, _seconds_or_number(condition)]
    if (figure := figures.name_of(condition.name)) is not None:
        row, column = figures.column(figure)
        one = f"SELECT {column} FROM usage WHERE run_id = runs.id AND usage.name = ?"  # noqa: S608  our own words
        return f"({one}) {_SQL_OPERATORS[condition.operator]} ?", [row, _figure_value(condition)]
    return None


def _term(condition: Condition, is_greater_better: IsGreaterBetter) -> Statement:
    if (of_key := _key_term(condition)) is not None:
        return of_key
    kind, name = kind_and_name(condition.name)
    name = storable(name)
    param, param_values = _param_term(condition)
    metric, metric_values = _metric_term(condition, _extreme(name, is_greater_better) if kind == "best" else "last")
    has_param = "EXISTS (SELECT 1 FROM params WHERE run_id = runs.id AND params.name = ?"
    meant, meant_values = _meant_metric(kind, name)
    has_metric = f"EXISTS (SELECT 1 FROM metrics WHERE run_id = runs.id AND metrics.name = {meant}"  # noqa: S608
    if kind == "param":
        return f"{has_param} AND {param})", [name, *param_values]
    if kind in {"metric", "best"}:
        return f"{has_metric} AND {metric})", [*meant_values, *metric_values]
    # what the run was given comes before what it measured
    return (
        f"CASE WHEN {has_param}) THEN {has_param} AND {param}) ELSE {has_metric} AND {metric}) END",
        [name, name, *param_values, *meant_values, *metric_values],
    )


def is_its_loss(word: str) -> bool:
    """Whether a filter or --sort means each run's loss, whatever that calls it."""
    kind, name = kind_and_name(word)
    return name == _LOSS and kind in {"", "best"}


def _meant_metric(kind: str, name: str) -> Statement:
    """The name of the metric that is meant, as an expression in a statement over runs."""
    if kind == "param":
        return "NULL", []
    return (_ITS_LOSS, []) if name == _LOSS and kind != "metric" else ("?", [name])


def names(kind: str) -> Statement:
    """A SELECT of the names that any run has: of its parameters ("param"), metrics ("metric", "best"), or both ("")."""
    tables = {"param": ["params"], "metric": ["metrics"], "best": ["metrics"]}.get(kind, ["params", "metrics"])
    return " UNION ".join(f"SELECT name FROM {table}" for table in tables), []  # noqa: S608


def kind_and_name(name: str) -> tuple[str, str]:
    """What a filter or --sort names, in two: ("param", "lr") for param.lr, and ("", "lr") for lr."""
    kind, dot, rest = name.partition(".")
    return (kind, rest) if dot and rest and kind in {"param", "metric", "best"} else ("", name)


def _extreme(name: str, is_greater_better: IsGreaterBetter) -> str:
    return "greatest" if is_greater_better(name) else "least"


def _text_term(column: str, condition: Condition) -> Statement:
    value = storable(condition.value.casefold())
    if condition.operator == "~":
        return f"instr({column}, ?)", [value]
    return f"{column} {_SQL_OPERATORS[condition.operator]} ?", [value]


def _beginning_term(column: str, condition: Condition) -> Statement:
    """The term for an id, of which the beginning is enough."""
    if condition.operator == "~":
        return _text_term(column, condition)
    value = storable(condition.value.casefold())
    return f"substr({column}, 1, length(?)) {_SQL_OPERATORS[condition.operator]} ?", [value, value]


def _parent_term(condition: Condition) -> Statement:
    """The term for the parent by the beginning of its id, or by its name; != for no such parent."""
    is_equal = msgspec.structs.replace(condition, operator="=")
    by_id, id_values = _beginning_term(_BEGINNINGS[_PARENT], is_equal)
    by_name, name_values = _text_term(_PARENT_NAME, is_equal)
    return f"{'' if condition.operator == '=' else 'NOT '}({by_id} OR {by_name})", [*id_values, *name_values]


def _tag_term(condition: Condition) -> Statement:
    """The term for one of the tags; != for none of them."""
    value = storable(condition.value.casefold())
    if condition.operator == "~":
        return "instr(tags, ?)", [value]
    return f"{'' if condition.operator == '=' else 'NOT '}instr(tags, ?)", [f"\n{value}\n"]


def _param_term(condition: Condition) -> Statement:
    """The term for a parameter. A list is what one of its items is: a sweep over lr=0.1,0.2 has lr=0.1 and lr>0.1."""
    if condition.operator == "!=":
        is_equal, values = _param_term(msgspec.structs.replace(condition, operator="="))
        return f"NOT coalesce({is_equal}, 0)", values
    # a text that looks like a number, such as --tag 007, equals only itself
    number = "number" if condition.operator in _ORDERING else "CASE WHEN text IS NULL THEN number END"
    own, values = _value_term(condition, number, "coalesce(text, CAST(value AS TEXT))")
    item, of_item = _value_term(condition, _ITEM_NUMBER, _ITEM_TEXT)
    items = f"SELECT 1 FROM json_each(CAST(params.value AS TEXT)) WHERE {item}"  # noqa: S608  our own words
    return f"(coalesce({own}, 0) OR (coalesce(number, text) IS NULL AND EXISTS ({items})))", [*values, *of_item]


def _value_term(condition: Condition, number: str, text: str) -> Statement:
    """The term for a value. number, text: expressions for it; number is NULL for one that is no number."""
    wanted = _number(condition.value)
    value = storable(condition.value.casefold())
    if condition.operator == "~":
        return f"instr({text}, ?)", [value]
    if wanted is None:
        return f"{text} = ?", [value]
    if condition.operator in _ORDERING:
        return f"{number} {condition.operator} ?", [wanted]
    return f"coalesce({number} = ?, {text} = ?)", [wanted, value]


def _metric_term(condition: Condition, column: str) -> Statement:
    number = _number(condition.value)
    if number is None or condition.operator == "~":
        return "0", []
    if number != number:  # noqa: PLR0124  NaN is NULL in the index
        return f"{column} IS {'' if condition.operator == '=' else 'NOT '}NULL", []
    return f"{column} {_SQL_OPERATORS[condition.operator]} ?", [number]


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _seconds_or_number(condition: Condition) -> float:
    """The value of `step`, `elapsed` and `age`. Raises UsageError."""
    found = _DURATION.fullmatch(condition.value)
    number = _number(found[1]) if found else None
    if number is None or (found and found[2] and condition.name == "step"):
        wanted = "a number" if condition.name == "step" else "seconds, or a time such as 90s, 10min, 2h, 3d"
        raise UsageError(
            f"cannot parse filter {condition.name}{condition.operator}{condition.value}: expected {wanted}."
        )
    return number * _SECONDS[(found and found[2]) or "s"]


def storable(text: str) -> str:
    """What was typed, which may be any bytes, as UTF-8; what is not is in no record, and finds nothing."""
    return text.encode(errors="backslashreplace").decode()


def parse_filter(text: str) -> tuple[Condition, ...]:
    """The conditions in a filter such as `status=completed lr>1e-4 name~digits`; all of them must hold.

    A value with spaces stands in quotes. Raises UsageError.
    """
    conditions = []
    for item in _ITEM.finditer(text):
        if item["quoted"] is None and item["stray"] is None:
            continue
        found = _CONDITION.fullmatch(item[0])
        if found is None or not found["value"]:
            raise UsageError(
                f"cannot parse filter {item[0]!r}: expected NAME=VALUE, with one of = != < <= > >= ~ (contains),"
                ' and quotes around spaces: name="my run".'
            )
        condition = Condition(name=found["name"], operator=found["operator"], value=_unquoted(found["value"]))
        check(condition)
        conditions.append(condition)
    return tuple(conditions)


def parse_search(text: str) -> Wanted:
    """Words to look for, and among them conditions as in a filter: `digits status=failed`. Raises UsageError."""
    items = [item[0] for item in _ITEM.finditer(text)]
    conditions = [item for item in items if _SIGNS.intersection(item)]
    words = "".join(" " if item in conditions else item for item in items)
    return Wanted(search=" ".join(words.split()), conditions=parse_filter(" ".join(conditions)))


def quoted(value: str) -> str:
    """A value as it stands in a filter, whatever characters it has."""
    return '"' + value.replace('"', """"'"'\"""") + '"'


def _unquoted(value: str) -> str:
    return re.sub(r""""([^"]*)"|'([^']*)'""", lambda found: found[1] if found[1] is not None else found[2], value)
