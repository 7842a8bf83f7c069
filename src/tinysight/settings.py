"""Settings that a person changes, as `section.field=value`: parsed, compared, checked."""

from __future__ import annotations

import ast
import math
import typing
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from tinysight.config import Config, OptionValue
from tinysight.files import suggest

_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    tuple[float, float]: "two numbers, as 0.9,1.08",
    tuple[tuple[float, float], ...]: "pairs of shares, as ((0,0.625),(0.7,0.875))",
    dict[str, OptionValue]: "options, as {'n': 2}",
}

# setting, or section: the setting that decides, and the values of it that use the first
USED_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "optimizer.momentum": ("optimizer.name", ("sgd", "muon", "rmsprop")),
    "optimizer.nesterov": ("optimizer.name", ("sgd", "muon")),
    "optimizer.sgd_ratio": ("optimizer.name", ("muon",)),
    "optimizer.decay": ("optimizer.name", ("rmsprop",)),
    "optimizer.betas": ("optimizer.name", ("adam",)),
    "optimizer.epsilon": ("optimizer.name", ("adam", "rmsprop")),
    "schedule.factor": ("schedule.name", ("plateau", "exponential")),
    "schedule.patience": ("schedule.name", ("plateau",)),
    "schedule.cycles": ("schedule.name", ("cyclic",)),
    "train.class_balance": ("localizer.box_classes", (False,)),
    "train.label_smoothing": ("localizer.box_classes", (False,)),
    "localizer": ("localizer.head", ("mlp", "lstm", "centernet")),
    "localizer.width": ("localizer.head", ("mlp", "lstm")),
    "localizer.overlap": ("localizer.head", ("lstm",)),
    "localizer.cell_scale": ("localizer.head", ("lstm",)),
    "localizer.decoding": ("localizer.head", ("lstm",)),
    "localizer.num_steps": ("localizer.head", ("lstm",)),
    "localizer.feedback": ("localizer.head", ("lstm",)),
    "localizer.shared": ("localizer.head", ("lstm",)),
}
# setting: those of which one must be on, neither 0 nor empty, for the first to have an effect
USED_WITH_ANY: dict[str, tuple[str, ...]] = {
    "train.class_balance": ("localizer.class_loss_weight",),
    "train.label_smoothing": ("localizer.class_loss_weight",),
    "augment.mix_probability": ("augment.mixup", "augment.cutmix"),
    "augment.mix_until": ("augment.mixup", "augment.cutmix", "augment.mosaic"),
    "train.snapshot_every": ("train.snapshots",),
    "train.record_every": ("train.record",),
}

# settings of earlier versions: the value with which each did nothing, and why it is gone
RETIRED: dict[str, tuple[Any, str]] = {
    "augment.erase": (0, "random erasing helped at no length tried")
}


def change(config: Config, changes: dict[str, Any]) -> Config:
    """Return `override(config, changes)`; raise ValueError where a change would have no effect."""
    changed = override(config, changes)
    for name in changes:
        if reason := _reason_unused(changed, name):
            raise ValueError(f"{name} has no effect with {reason}, or leave {name} out")
    return changed


def is_used(config: Config, name: str) -> bool:
    """Whether the setting `section.field` has an effect in `config`."""
    return not _reason_unused(config, name)


def _reason_unused(config: Config, name: str) -> str:
    """Return which setting keeps another from having an effect, and what to set it to; or ""."""
    for key in (name.partition(".")[0], name):
        deciding, values = USED_WITH.get(key, ("", ()))
        if not deciding or name == deciding:
            continue
        if (value := _value(config, deciding)) not in values:
            return f"{deciding}={value}; set {deciding} to {' or '.join(map(str, values))}"
    needed = USED_WITH_ANY.get(name, ())
    if needed and not any(_value(config, each) for each in needed):
        without = " and ".join(f"{each}={_value(config, each)}" for each in needed)
        return f"{without}; set {' or '.join(needed)}"
    return ""


def _value(config: Config, name: str) -> Any:
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)


def from_dict(values: dict[str, Any]) -> Config:
    """Rebuild a config from nested dicts or their JSON; raise ValueError for a wrong field.

    Retired settings are left out; see `retired`.
    """
    flat: dict[str, Any] = {}
    for section, content in values.items():
        if section != "recipe":
            _check_name(section, [f.name for f in fields(Config)], "section")
            flat |= {f"{section}.{name}": value for name, value in content.items()}
    kept = {path: value for path, value in flat.items() if path not in RETIRED}
    return override(Config(recipe=str(values.get("recipe", ""))), kept)


def retired(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings in nested dicts that had an effect and are in no config any more."""
    found = {}
    for path, (off, _) in RETIRED.items():
        section, _, name = path.partition(".")
        if (value := values.get(section, {}).get(name, off)) != off:
            found[path] = value
    return found


def override(config: Config, changes: dict[str, Any]) -> Config:
    """Return `config` with `{"section.field": value}` changed; the field's type parses strings.

    Raises:
        ValueError: a field is unknown (the nearest name is given), or a value is not allowed.
    """
    changed: dict[str, dict[str, Any]] = {}
    sections = [f.name for f in fields(Config) if is_dataclass(getattr(config, f.name))]
    for path, value in changes.items():
        section, _, rest = path.partition(".")
        if not rest:
            names = [f"{s}.{f.name}" for s in sections for f in fields(getattr(config, s))]
            _check_name(path, names, "field")
        _check_name(section, sections, "section")
        current = getattr(config, section)
        name, _, option = rest.partition(".")
        names = [f"{section}.{f.name}" for f in fields(current)]
        _check_name(f"{section}.{name}", names, "field")
        values = changed.setdefault(section, {})
        if not option:
            annotation = typing.get_type_hints(type(current))[name]
            values[name] = _convert(value, annotation, path)
        elif name == "options":
            values[name] = {**values.get(name, current.options), option: _literal(value)}
        else:
            raise ValueError(f"{path} is a level too deep; {section}.{name} is a plain value")
    return replace(config, **{s: replace(getattr(config, s), **v) for s, v in changed.items()})


def difference(config: Config, base: Config, *, ignore: Iterable[str] = ()) -> list[str]:
    """Return the assignments that turn `base` into `config`, as the command line takes them.

    `override(base, parse_assignments(difference(config, base)))` equals `config` except for
    `recipe`, which is not a setting, and the fields in `ignore`; lists become tuples.
    """
    settings = []
    for section, name in ((s, f) for s, v in asdict(config).items() if s != "recipe" for f in v):
        path = f"{section}.{name}"
        value, before = (getattr(getattr(item, section), name) for item in (config, base))
        if path in ignore:
            continue
        if name == "options" and before.keys() <= value.keys():
            options = {k: v for k, v in value.items() if _differs(v, before.get(k))}
            settings += [f"{path}.{option}={item!r}" for option, item in options.items()]
        elif _differs(value, before):
            settings.append(f"{path}={value if isinstance(value, str) else repr(value)}")
    return settings


def _differs(value: Any, before: Any) -> bool:
    return bool(value != before) or isinstance(value, bool) != isinstance(before, bool)  # True == 1


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split `["train.epochs=8", ...]` into a dict; raise ValueError unless section.field=value."""
    changes: dict[str, str] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            expected = "section.field=value, such as train.epochs=8"
            raise ValueError(f"{assignment!r} is not a setting; expected {expected}")
        if path in changes:
            raise ValueError(f"{path} is set twice; set it once")
        changes[path] = value
    return changes


def _check_name(name: str, known: list[str], kind: str) -> None:
    if name not in known:
        for path, (_, why) in RETIRED.items():
            if name in (path, path.partition(".")[2]):
                raise ValueError(f"{path} is gone: {why}; leave it out")
        # "epochs" is nearer to "train.epochs" than difflib finds it
        ending = [k for k in known if k.endswith(f".{name}")][:1]
        hint = f"did you mean {ending[0]}?" if ending else suggest(name, known, cutoff=0.5)
        raise ValueError(f"no {kind} is named {name}; {hint}")


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return _tuples(value)
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return _tuples(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _convert(value: Any, annotation: Any, path: str) -> Any:
    """Convert a command line's string or a JSON value to the type that a field declares."""
    literal = value if annotation is str else _literal(value)
    if annotation == tuple[str, ...] and isinstance(literal, str):
        literal = tuple(part.strip() for part in literal.split(",") if part.strip())
    try:
        return _coerce(literal, annotation)
    except (TypeError, ValueError, OverflowError):
        expected = _EXPECTED.get(annotation, "a list of names")
        raise ValueError(f"{path} is {value!r}; expected {expected}") from None


def _coerce(value: Any, annotation: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and isinstance(value, tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_coerce(item, kind) for item, kind in zip(value, kinds, strict=True))
    if origin is dict and isinstance(value, dict):
        return {str(key): _tuples(item) for key, item in value.items()}
    if isinstance(value, bool) == (annotation is bool):
        if annotation is float and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        if annotation in (int, bool, str) and isinstance(value, annotation):
            return value
    raise TypeError
