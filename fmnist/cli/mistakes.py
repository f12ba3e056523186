"""What jsonargparse says of a mistake, in the words of the command line."""

import re
from collections.abc import Sequence

EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list such as [a,b]",
    "Sequence": "a list such as [256,128]",
    "tuple": "a list such as [0.9,0.999]",
    "dict": "names with values such as {a: b}",
}
NAMED = {"list", "bool", "NoneType", "Iterable"}  # what may be given instead of a class


def explain(message: str) -> str:
    """Turns a message, of many lines and Python's names of types, into one line that says what to type.

    Args:
        message: What jsonargparse says.
    """
    keys = re.findall(r'Parser key "([^"]+)"', message) or re.findall(r"^--([\w.]+)\.help:", message)
    key = ".".join(dict.fromkeys([keys[0], keys[-1]])) if keys else ""
    types = {name.rpartition(".")[2] for name in re.findall(r"Expected an? <class '([^']+)'>", message)}
    if unknown := re.search(r"Option '([^']+)' is not accepted(?:; near: (\w+))?", message):
        hint = f"did you mean '--{key}.{unknown[2]}'?" if unknown[2] else f"--{key}.help CLASS shows those of a class"
        return f"there is no option '--{key}.{unknown[1]}': {hint}"
    if needed := re.search(r"the following arguments are required: (\w+)", message):
        return f"{key}: {_value(message)} needs more: add --{key}.{needed[1]} VALUE"
    if types <= NAMED and (reason := _why_no_class(message)):
        known = "" if key == "model.network" else f"--{key}.help lists the classes, and "
        return f"{key}: {reason}; {known}one of your own is named by its path: module.Class"
    if choice := re.search(r"Expected a typing\.Literal\[(.*?)\]", message):
        choices = choice[1].replace("'", "").split(", ")
        return f"{key} is {_value(message)}: it must be {_either(choices)}"
    types -= {"int"} if "float" in types else {"bool"} if "int" in types else {*()}
    if wanted := [text for name, text in EXPECTED.items() if name in types]:
        return f"{key} is {_value(message)}: it must be {_either(wanted)}"
    if missing := re.search(r'Unable to load config [\'"]([^\'"]*)', message):
        return f"--{key} {missing[1]}: this is no configuration file; single settings are typed as --{key}.NAME VALUE"
    return _plain(message)


def _value(message: str) -> str:
    """Returns what was given; of a class, its name."""
    typed = re.search(r"NestedArg\(key='[^']*', val='?(.*?)'?\)", message)
    found = typed or re.search(r"(?:Given|Got) value: (.*?)(?:\. Got value: |$)", message, re.MULTILINE)
    value = found[1] if found else ""
    if class_path := re.search(r"class_path='(?:\w+\.)*(\w+)'", value):
        return class_path[1]
    return value if len(value) <= 60 else f"{value[:60]}..."


def _why_no_class(message: str) -> str:
    """Says why something is not a class that can be used here; empty if that is not the mistake."""
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"there is no class {unknown[1]}"
    if wrong := re.search(r"Expected '([^']+)' to be .*? (?:of|returns) (?:<class ')?(\w+)", message):
        return f"{wrong[1]} is no {wrong[2]}"
    if wrong := re.search(
        r"Import path (\S+) does not (?:implement protocol|correspond to a subclass of) (\w+)", message
    ):
        return f"{wrong[1]} is no {wrong[2]}"
    missing = re.search(
        r"No module named '[^']+'|module '[^']+' has no attribute '[^']+'|cannot import name.*", message
    )
    return missing[0] if missing else ""


def _either(texts: Sequence[str]) -> str:
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _plain(message: str) -> str:
    """Leaves out what only Python's programmers can read."""
    text = re.sub(r'Parser key "([^"]+)"', r"\1", message)
    text = re.sub(r"NestedArg\(key='[^']*', val='?(.*?)'?\)", r"\1", text)
    text = re.sub(r"(Given value type: \S+( '\S+)?|Subtypes: \[.*?\]\n)", "", text)
    text = re.sub(r"<class '(?:[\w]+\.)*(\w+)'>", r"\1", text)
    return re.sub(r"(Namespace\(|\{).{80,}", "...", text)[:400]
