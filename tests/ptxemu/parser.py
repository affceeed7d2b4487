"""PTX text to a Module."""

import functools
import re
from typing import Any

from .errors import PtxSyntaxError
from .operands import Imm, Inst, Mem, Pair, Paren, Reg, Sink, Special, Sym, Vec
from .program import (
    DECIMAL,
    FLOAT_BITS,
    NUMBER,
    Function,
    Module,
    Scope,
    parse_int,
    parse_variable,
    split_commas,
)
from .types import BITS

COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', re.S)
SPACE = re.compile(r"\s*")
BRACE = re.compile(r"[{}]")
LABEL = re.compile(r"([A-Za-z_$%][\w$%]*)\s*:(?!:)")
TARGETS = re.compile(r"\s*\.(branchtargets|calltargets|callprototype)\b([^;]*);")
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)")
FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?', re.M)
STATEMENT = re.compile(r"^(?:@\s*(!?)\s*([\w$%]+)\s+)?([\w.:]+)\s*(.*)$", re.S)
IGNORED_LINES = (".version", ".target", ".address_size", ".file", ".loc", "@@DWARF")


@functools.lru_cache(64)
def parse_ptx(text: str) -> Module:
    return Parser(text).parse()


def blank_comment(match: re.Match[str]) -> str:
    text = match[0]
    return text if text[0] == '"' else re.sub(r"[^\n]", " ", text)


class Parser:
    def __init__(self, text: str) -> None:
        self.text = COMMENT_OR_STRING.sub(blank_comment, text)
        self.files = {int(m[1]): (m[3] or m[2]).rsplit("/", 1)[-1] for m in FILE.finditer(text)}
        self.module = Module()
        self.counted = (0, 1)  # a position and its line

    def line_of(self, position: int) -> int:
        """Counted from the last position asked for, since most come in order."""
        start, line = self.counted if position >= self.counted[0] else (0, 1)
        line += self.text.count("\n", start, position)
        self.counted = (position, line)
        return line

    def find(self, what: str, start: int, end: int | None = None) -> int:
        """The end where there is none."""
        end = len(self.text) if end is None else end
        found = self.text.find(what, start, end)
        return end if found < 0 else found

    def skip_space(self, position: int) -> int:
        match = SPACE.match(self.text, position)
        assert match is not None
        return match.end()

    def closing_brace(self, opening: int) -> int:
        depth = 0
        for match in BRACE.finditer(self.text, opening):
            depth += 1 if match[0] == "{" else -1
            if depth == 0:
                return match.start()
        raise PtxSyntaxError("unbalanced braces")

    # The module

    def parse(self) -> Module:
        text, end = self.text, len(self.text)
        position = self.skip_space(0)
        while position < end:
            position = self.skip_space(self.top_level(text, position))
        return self.module

    def top_level(self, text: str, position: int) -> int:
        """One directive, function or variable; gives where it ends."""
        if text.startswith(IGNORED_LINES, position):
            line_end = self.find("\n", position)
            if text.startswith(".target", position):
                self.module.target = text[position:line_end].split(None, 1)[1].split(",")[0].strip()
            return line_end
        if text.startswith(".section", position):
            return self.closing_brace(self.find("{", position)) + 1
        semicolon, brace = self.find(";", position), self.find("{", position)
        head = text[position : min(semicolon, brace)]
        if brace < semicolon and "=" not in head:
            end = self.closing_brace(brace)
            self.function(head, position, brace + 1, end)
            return end + 1
        if semicolon == len(text):
            raise PtxSyntaxError(f"line {self.line_of(position)}: unexpected {text[position : position + 60]!r}")
        statement = text[position:semicolon].strip()
        before_params = statement.split("(")[0]
        if ".func" in before_params or ".entry" in before_params:
            self.function(statement, position)
        elif statement and not statement.startswith((".pragma", ".alias", ".noreturn")):
            variable = parse_variable(statement)
            known = self.module.variables.get(variable.name)
            if known is None or known.initial is None:
                self.module.variables[variable.name] = variable
        return semicolon + 1

    def function(self, head: str, position: int, start: int | None = None, end: int = 0) -> None:
        """With its body from start to end, or only declared."""
        match = re.match(
            r"^(?:\.\w+ )*?\.(?P<kind>entry|func) ?(?:\.noreturn ?)?(?:\((?P<returns>[^)]*)\))? ?"
            r"(?P<name>[\w$%]+) ?(?:\((?P<params>[^)]*)\))?(?P<directives>.*)$",
            " ".join(head.split()),
        )
        if not match:
            raise PtxSyntaxError(f"line {self.line_of(position)}: cannot parse function header {head[:100]!r}")
        function = Function(match["name"], match["kind"] == "entry", self.line_of(position), start is not None)
        function.params = [parse_variable(x) for x in split_commas(match["params"] or "") if x]
        function.returns = [parse_variable(x) for x in split_commas(match["returns"] or "") if x]
        for directive in re.finditer(r"\.(\w+)\s*([\d, ]*)", match["directives"]):
            function.directives[directive[1]] = [int(x) for x in re.findall(r"\d+", directive[2])]
        if start is None:
            self.module.functions.setdefault(function.name, function)
        else:
            self.module.functions[function.name] = function
            Body(self, function).parse(start, end)


class Body:
    """Of one function."""

    def __init__(self, parser: Parser, function: Function) -> None:
        self.parser = parser
        self.function = function
        self.scope = Scope(None)
        self.source: tuple[str, int] | None = None

    def error(self, line: int, what: str) -> PtxSyntaxError:
        return PtxSyntaxError(f"{self.function.name}: line {line}: {what}")

    def parse(self, position: int, end: int) -> None:
        parser, text = self.parser, self.parser.text
        while (position := parser.skip_space(position)) < end:
            char = text[position]
            if char == "{":
                self.scope = Scope(self.scope)
                position += 1
            elif char == "}":
                assert self.scope.parent is not None
                self.scope = self.scope.parent
                position += 1
            elif char == ";":
                position += 1
            elif text.startswith((".loc ", ".loc\t", ".file"), position):
                line_end = parser.find("\n", position, end)
                if location := LOCATION.match(text, position, line_end):
                    self.source = (parser.files.get(int(location[1]), "?"), int(location[2]))
                position = line_end
            elif char not in ".@" and (label := LABEL.match(text, position, end)):
                self.function.labels[self.scope.number, label[1]] = len(self.function.insts)
                position = label.end()
                if targets := TARGETS.match(text, position, end):
                    if targets[1] == "branchtargets":
                        self.function.tables[self.scope.number, label[1]] = split_commas(targets[2])
                    position = targets.end()
            else:
                semicolon = text.find(";", position, end)
                line = parser.line_of(position)
                if semicolon < 0:
                    raise self.error(line, f'missing ";": {text[position : position + 60]!r}')
                self.statement(text[position:semicolon].strip(), line)
                position = semicolon + 1

    def statement(self, text: str, line: int) -> None:
        if text[0] == ".":
            self.directive(text, line)
            return
        match = STATEMENT.match(text)
        if not match:
            raise self.error(line, f"cannot parse {text[:80]!r}")
        guard = None
        if match[2] is not None:
            guard = self.register(match[2])
            if guard is None:
                raise self.error(line, f"unknown predicate {match[2]}")
            guard = Reg(guard.index, guard.bits, guard.name, match[1] == "!")
        args = [self.operand(x, line) for x in split_commas("".join(match[4].split()))]
        inst = Inst(match[3], args, guard, line, " ".join(text.split()), self.scope, self.function, self.source)
        self.function.insts.append(inst)

    def directive(self, text: str, line: int) -> None:
        match = re.match(r"^\.(\w+)", text)
        name = match[1] if match else ""
        if name == "reg":
            self.declare_registers(text)
        elif name in ("local", "shared", "param"):
            variable = parse_variable(text)
            block = "" if name == "shared" and self.scope.parent is None else f"{self.scope.number}$"
            unique = f"{self.function.name}${block}{variable.name}"
            self.scope.variables[variable.name] = unique
            variable.name = unique
            if name != "param":
                getattr(self.function, name).append(variable)
            self.function.variables[unique] = variable
        elif name in ("global", "const"):
            variable = parse_variable(text)
            self.parser.module.variables[variable.name] = variable
        elif name not in ("pragma", "maxnreg", "callprototype", "branchtargets", "calltargets"):
            raise self.error(line, f"unknown directive {text[:60]!r}")

    def declare_registers(self, text: str) -> None:
        match = re.match(r"^\.reg\s*\.(\w+)\s+(.*)$", text, re.S)
        assert match is not None, text
        bits = BITS[match[1]]
        for name in split_commas(match[2]):
            if family := re.match(r"^([\w$%]+)<(\d+)>$", name.replace(" ", "")):
                self.scope.families[family[1]] = (bits, int(family[2]))
            else:
                self.new_register(self.scope, name, bits)

    def new_register(self, scope: Scope, name: str, bits: int) -> Reg:
        scope.registers[name] = Reg(len(self.function.registers), bits, name)
        self.function.registers.append(bits)
        return scope.registers[name]

    def register(self, name: str) -> Reg | None:
        tail = re.match(r"^(.*?)(\d+)$", name)
        for scope in self.scope.outwards:
            if name in scope.registers:
                return scope.registers[name]
            bits, count = scope.families.get(tail[1], (0, 0)) if tail else (0, 0)
            if tail and int(tail[2]) < count:
                return self.new_register(scope, name, bits)
        return None

    def symbol(self, name: str) -> str:
        return next((s.variables[name] for s in self.scope.outwards if name in s.variables), name)

    # Operands

    def operand(self, text: str, line: int) -> Any:
        known = self.scope.registers.get(text)
        if known is not None:
            return known
        first = text[0]
        if text == "_":
            return Sink()
        if first == "{":
            return Vec([self.operand(x, line) for x in split_commas(text[1:-1])])
        if first == "(":
            return Paren([self.operand(x, line) for x in split_commas(text[1:-1]) if x])
        if first == "[":
            return self.memory(text[1:-1], line)
        if "|" in text:
            one, other = text.split("|")
            return Pair(self.operand(one, line), self.operand(other, line))
        if first in "+-.0123456789":
            return self.literal(text, line)
        register = self.register(text.lstrip("!"))
        if register is not None:
            return Reg(register.index, register.bits, register.name, True) if first == "!" else register
        if first == "%":
            return Special(text)
        if text == "WARP_SZ":
            return Imm(32)
        match = re.match(r"^(?:generic\(([\w$%]+)\)|([\w$%]+))(\+?[+-]?\d+)?$", text)
        if match:
            return Sym(self.symbol(match[1] or match[2]), int((match[3] or "0").replace("+-", "-")))
        raise self.error(line, f"cannot parse operand {text!r}")

    def literal(self, text: str, line: int) -> Imm:
        if NUMBER.match(text):
            return Imm(parse_int(text))
        if bits := FLOAT_BITS.match(text):
            size, kind = (32, "f32") if bits[2] else (64, "f64")
            sign = 1 << (size - 1) if bits[1] == "-" else 0
            return Imm(int(bits[2] or bits[3], 16) ^ sign, kind)
        if DECIMAL.match(text):
            return Imm(float(text), "decimal")
        raise self.error(line, f"cannot parse {text!r}")

    def memory(self, text: str, line: int) -> Mem:
        if text.endswith("}") and "," in text:
            base, coordinates = text.split(",", 1)
            place = self.memory(base, line)
            return Mem(place.base, place.offset, self.operand(coordinates, line).items)
        match = re.match(r"^([\w$%]+)(?:(\+?[+-]?(?:0[xX][0-9a-fA-F]+|\d+)))?$", text)
        if not match:
            raise self.error(line, f"unsupported address [{text}]")
        offset = parse_int((match[2] or "0").replace("+-", "-"))
        if NUMBER.match(match[1]):
            return Mem(Imm(parse_int(match[1])), offset)
        register = self.register(match[1])
        return Mem(Sym(self.symbol(match[1])) if register is None else register, offset)
