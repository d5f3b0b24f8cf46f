"""The kernel's configfs how-to as a script: ``echo VALUE > ./attribute``, read and written.

Reading follows configfs: numbers in any base, values cut to the attribute's width, an error for what
the kernel refuses, the old value kept.  What configfs has no attribute for stands in comments that
begin with ``# ntbnet:``.

Source: Linux pci-epf-vntb.c (EPF_NTB_* and EPF_NTB_MW_* attributes), pci-ep-cfs.c,
Documentation/PCI/endpoint/pci-vntb-howto.rst.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ntbnet.app.layout_shell import COMMANDS, NotUnderstood, commands, is_echo_write, writes
from ntbnet.config import Config
from ntbnet.schema import Integer, Rule, keys, shown
from ntbnet.sections import MAX_MWS, Bridge, Ntb

MAX_LINES = 10_000
DEFAULT_PROFILE = "r-car-s4"
SETTINGS = ("profile", "ctrl_layout", "inbound", "mw2_target")
"""What configfs has no attribute for."""

_SETTING = re.compile(r"#\s*ntbnet:\s*(?P<name>\w+)\s*=\s*(?P<value>.*)")
_HEADER = {"vendorid": "vendor_id", "deviceid": "device_id"}
_IGNORED = frozenset({
    "revid", "progif_code", "subclass_code", "baseclass_code", "cache_line_size", "subsys_vendor_id",
    "subsys_id", "interrupt_pin", "msi_interrupts", "msix_interrupts", "start",
})  # fmt: skip
_WIDTH = {"num_mws": 32, "db_count": 32, "spad_count": 32, "vbus_number": 32, "vntb_vid": 32, "vntb_pid": 32}
_CUT_TO_16 = frozenset({"vntb_vid", "vntb_pid"})
_MW = re.compile(r"mw([1-4])(_offset|_bar)?")
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9A-Fa-f]+|[0-9]+)")


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that configfs, or the shell, would not take.

    Attributes:
        line: its number, from 1; 0 for the script as a whole.
        attribute: what it writes; the whole command when that cannot be told.
        error: the kernel's error name and the reason.
    """

    line: int
    attribute: str
    value: str
    error: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        what = f"{self.attribute} = {self.value}: " if self.value else f"{self.attribute}: "
        return f"{where}{what if self.attribute else ''}{self.error}"


class Configfs:
    """The attributes of one pci_epf_vntb function.

    Attributes:
        values: attribute -> value; what was never written has configfs's default.
        written: attributes that were.
    """

    def __init__(self) -> None:
        self.values: dict[str, int] = {"num_mws": 0, "db_count": 0, "spad_count": 0, "vbus_number": 0xFF}
        self.values |= {"vntb_vid": 0, "vntb_pid": 0, "vendor_id": 0xFFFF, "device_id": 0xFFFF}
        self.values |= {"ctrl_bar": -1, "db_bar": -1}
        for number in range(1, MAX_MWS + 1):
            self.values |= {f"mw{number}": 0, f"mw{number}_offset": 0, f"mw{number}_bar": -1}
        self.written: set[str] = set()

    def store(self, attribute: str, text: str) -> str | None:
        """Write an attribute; None when it was taken, else the error name and the reason."""
        window = _MW.fullmatch(attribute)
        key = _HEADER.get(attribute, attribute)
        if attribute in _IGNORED:
            return None
        if attribute not in _WIDTH and attribute not in _HEADER and not window and not _is_bar(attribute):
            return "-ENOENT: no such attribute"
        if _NUMBER.fullmatch(text) is None:
            return "-EINVAL: not a number"
        value = _parse(text)
        if value is None:
            return "-EINVAL: not a number in its base"
        bits = 16 if attribute in _HEADER else 32 if attribute in _WIDTH else 64
        if _is_bar(attribute):
            if not -1 <= value <= 5:
                return "-EINVAL: must be -1..5"
        elif value < 0:
            return "-EINVAL: must not be negative"
        elif value >> bits:
            return f"-ERANGE: more than {bits} bits"
        if attribute == "num_mws" and value > MAX_MWS:
            return f"-EINVAL: num_mws is at most {MAX_MWS}"
        if window and window[2] != "_bar" and int(window[1]) > self.values["num_mws"]:
            return f"-EINVAL: num_mws is {self.values['num_mws']}; write num_mws first"
        self.values[key] = value & 0xFFFF if attribute in _CUT_TO_16 else value
        self.written.add(key)
        return None

    def to_toml(self, settings: Mapping[str, str]) -> str:
        """The state as a configuration: what decides the layout is all there, as configfs has it.

        ``settings`` are values of SETTINGS; what is not among them, and ids and the number of the virtual
        bus unless they were written, is left to the profile.
        """
        values = self.values
        names = ["num_mws"]
        for number in range(1, values["num_mws"] + 1):
            names += [f"mw{number}", f"mw{number}_offset"]
        names += [f"mw{number}_bar" for number in range(1, values["num_mws"] + 1)]
        names += ["ctrl_bar", "db_bar", "spad_count", "db_count"]
        optional = ("vbus_number", "vendor_id", "device_id", "vntb_vid", "vntb_pid")
        names += [name for name in optional if name in self.written]
        rules = {key.name: key.rule for key in keys(Ntb)}
        profile = settings.get("profile", DEFAULT_PROFILE)
        lines = ["[bridge]", f"profile = {json.dumps(profile, ensure_ascii=False)}", "", "[ntb]"]
        lines += [f'{name} = "{settings[name]}"' for name in SETTINGS[1:] if name in settings]
        for name in names:
            rule = rules[name]
            assert isinstance(rule, Integer)
            lines.append(f"{name} = {rule.written(values[name])}")
        return "\n".join(lines) + "\n"


def _is_bar(attribute: str) -> bool:
    return attribute in {"ctrl_bar", "db_bar"} or re.fullmatch(r"mw[1-4]_bar", attribute) is not None


def _parse(text: str) -> int | None:
    """A number as the kernel's kstrto functions read it: 0x is hexadecimal, a leading 0 octal."""
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") and len(digits) > 1 else 10
    try:
        return sign * int(digits, base)
    except ValueError:
        return None


@dataclass(slots=True)
class Script:
    """What a script does.

    Attributes:
        state: the attributes when it has run.
        settings: the profile, and keys of [ntb] that configfs has no attribute for, by name.
        refused: what would not be taken; nothing but this counts when it is not empty.
        warnings: one line each.
    """

    state: Configfs = field(default_factory=Configfs)
    settings: dict[str, str] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_toml(self) -> str:
        """The whole as a configuration."""
        return self.state.to_toml(self.settings)


def read_script(text: str) -> Script:
    """Run a script's writes, in order.

    A line may begin with a prompt (``# `` or ``$ ``), as in the how-to; in a script with writes that
    have none, ``#`` begins a comment.
    """
    script = Script()
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > MAX_LINES:
        script.refused.append(Refused(MAX_LINES + 1, "", "", f"a script has at most {MAX_LINES} lines"))
        return script
    has_prompts = not any(is_echo_write(line) for line in lines if not line.startswith(("#", "$")))
    for number, line in enumerate(lines, 1):
        setting = _SETTING.fullmatch(line)
        if setting is not None:
            _set(script, number, setting["name"], setting["value"])
            continue
        found, comment = commands(_without_prompt(line, has_prompts))
        if is_echo_write(comment):
            script.warnings.append(f"line {number} is a comment: {comment[:60]}")
        for command in found:
            _run(script, number, command)
    if not script.refused and not script.state.written:
        script.refused.append(Refused(0, "", "", "no attribute is written"))
    return script


def _without_prompt(line: str, has_prompts: bool) -> str:
    if line.startswith("$ "):
        return line[2:].strip()
    # prose behind a "#" is a comment in either kind of script
    if has_prompts and line.startswith("# ") and line[1:].split(maxsplit=1)[0] in COMMANDS:
        return line[1:].strip()
    return line


def _run(script: Script, number: int, command: str) -> None:
    try:
        found = writes(command)
    except NotUnderstood as reason:
        script.refused.append(Refused(number, command[:60], "", str(reason)))
        return
    for write in found:
        attribute = write.path.rpartition("/")[2]
        error = script.state.store(attribute, write.value)
        if error is not None:
            script.refused.append(Refused(number, attribute[:60], write.value[:60], error))


def _set(script: Script, number: int, name: str, text: str) -> None:
    """Take a comment that stands for a key; the value is written as in TOML."""
    rules: dict[str, Rule] = {
        key.name: key.rule for key in (*keys(Bridge), *keys(Ntb)) if key.name in SETTINGS
    }
    rule, allowed = rules.get(name), f"one of {', '.join(SETTINGS)}"
    if rule is None:
        script.refused.append(Refused(number, name[:60], text[:60], f"no such setting: must be {allowed}"))
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = None
    if not rule.accepts(value):
        script.refused.append(Refused(number, name, text[:60] or shown(text), f"must be {rule.allowed()}"))
        return
    script.settings[name] = str(value)


def write_script(config: Config) -> str:
    """The configuration's layout as ``echo`` lines, to be run in the function's pci_epf_vntb.N folder.

    What configfs has no attribute for stands in comments that read_script knows.
    """
    ntb = config.ntb
    lines = [
        "# in /sys/kernel/config/pci_ep/functions/pci_epf_vntb/func1/pci_epf_vntb.0",
        f"echo {ntb.vendor_id:#06x} > ../vendorid",
        f"echo {ntb.device_id:#06x} > ../deviceid",
        f"echo {ntb.db_count} > ./db_count",
        f"echo {ntb.spad_count} > ./spad_count",
        f"echo {ntb.num_mws} > ./num_mws",
    ]
    numbers = range(1, ntb.num_mws + 1)
    lines += [f"echo {getattr(ntb, f'mw{n}'):#X} > ./mw{n}".replace("0X", "0x") for n in numbers]
    offsets = {n: getattr(ntb, f"mw{n}_offset") for n in numbers}
    lines += [
        f"echo {offset:#X} > ./mw{n}_offset".replace("0X", "0x") for n, offset in offsets.items() if offset
    ]
    bars = {name: getattr(ntb, name) for name in (*(f"mw{n}_bar" for n in numbers), "ctrl_bar", "db_bar")}
    lines += [f"echo {bar} > ./{name}" for name, bar in bars.items() if bar >= 0]
    lines += [
        f"echo {ntb.vbus_number:#x} > ./vbus_number",
        f"echo {ntb.vntb_vid:#06x} > ./vntb_vid",
        f"echo {ntb.vntb_pid:#06x} > ./vntb_pid",
    ]
    settings = {"profile": config.bridge.profile} | {name: getattr(ntb, name) for name in SETTINGS[1:]}
    lines += [
        f"# ntbnet: {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()
    ]
    return "\n".join(lines) + "\n"
