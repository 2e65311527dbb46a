"""Read a pickle without running it.

A pickle is a program for a small stack machine: push a number, push a name, call the named function with the tuple on
top. `pickle.load` calls whatever is named, so that a file of weights could run any command. The machine here cannot
call anything. A name is pushed as a `Symbol`, which is only text. Where a pickle asks to call a function or to fill an
object, the builder in `torch_objects.py` provides a value; it knows the few that weights need. The instructions are
described in Python's `pickletools`, whose parser for single instructions is used here.
"""

import pickletools

from minimask.errors import InputError

MAX_STEPS = 1_000_000  # a Mask R-CNN with 300 tensors takes 15,000; this limits time and memory
MAX_LINE = 300  # bytes of a name, or of a number written as text
MAX_INT_BITS = 64

# Instructions that push the value that follows them in the file.
_LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}


class Symbol:
    """The name of a class or function in a pickle, "module name". It is only text."""

    def __init__(self, name):
        self.name = name


class Bytes:
    """A part of a file, read from front to back. Reading past its end raises InputError."""

    def __init__(self, data, start, end):
        self.data, self.position, self.end = data, start, end

    def tell(self):
        return self.position

    def skip(self, count):
        if count > self.end - self.position:
            raise InputError(f"incomplete: there should be {count} more bytes at byte {self.position}")
        self.position += count

    def read(self, count):
        start = self.position
        self.skip(count)
        return self.data[start : self.position]

    def readline(self):
        line_end = self.data.find(b"\n", self.position, min(self.end, self.position + MAX_LINE))
        if line_end < 0:
            raise InputError(f"a name or number in the pickle at byte {self.position} has no end")
        return self.read(line_end + 1 - self.position)


def show(value):
    """A value from a file, or its type, short enough for a message."""
    if isinstance(value, Symbol):
        return value.name[:80].replace(" ", ".") + "..." * (len(value.name) > 80)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (str, bytes)):
        return repr(value[:80]) + "..." * (len(value) > 80)
    return f"a {type(value).__name__}"


def read_pickle(file, builder):
    """Read the pickle at the current position of a file, and move the position past it.

    file: Bytes.
    builder: has the methods
        symbol(name)            raises InputError if the name "module name" is not allowed
        persistent(identifier)  returns the value of something that is stored outside the pickle
        call(name, args)        returns the value of an allowed name applied to a tuple
        fill(value, state)      puts the state into a value that `call` returned
    Returns the value that the pickle describes. Raises InputError if it is damaged or asks for more than that.
    """
    try:
        return _run(file, builder)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        what = "stack or memo lacks a value" if isinstance(error, (IndexError, KeyError)) else str(error)[:200]
        raise InputError(f"the pickle is damaged near byte {file.tell()} ({what or type(error).__name__})") from error


def _run(file, builder):
    machine = _Machine(builder)
    for step, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        if step == MAX_STEPS:
            raise InputError(f"the pickle has more than {MAX_STEPS:,} instructions: too many for a file of weights")
        if opcode.name == "STOP":
            value = machine.stack.pop()
            if machine.stack or machine.outer:
                raise InputError(f"the pickle is damaged: values are left over at its end, byte {position}")
            return value
        if opcode.name in _LITERALS:
            machine.push_literal(argument)
        elif not (machine.change_containers(opcode.name, argument) or machine.ask_builder(opcode.name, argument)):
            raise InputError(f"the pickle's instruction {opcode.name} at byte {position} is not one that weights need")


class _Machine:
    """The stack machine. The methods for instructions return False if they do not know the instruction."""

    def __init__(self, builder):
        self.builder = builder
        self.stack, self.outer, self.memo = [], [], {}  # outer: the stacks below the marks

    def push_literal(self, value):
        if type(value) is int and value.bit_length() > MAX_INT_BITS:
            raise InputError(f"an integer of {value.bit_length()} bits; at most {MAX_INT_BITS} can be read")
        self.stack.append(value)

    def pop_mark(self):
        """The values above the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def change_containers(self, name, argument):
        """Constants, tuples, lists and dicts; values that are stored and taken out again; marks."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.pop_mark()
                self.stack.append(tuple(items))
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-i] for i in range(count, 0, -1))]
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(name == "NEWTRUE")
            case "BYTEARRAY8":
                self.stack.append(bytes(argument))
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                set_item(self.stack[-1], key, value)
            case "SETITEMS":
                items = self.pop_mark()
                for i in range(0, len(items), 2):
                    set_item(self.stack[-1], items[i], items[i + 1])
            case "APPEND":
                value = self.stack.pop()
                _extend(self.stack[-1], [value])
            case "APPENDS":
                items = self.pop_mark()
                _extend(self.stack[-1], items)
            case _:
                return False
        return True

    def ask_builder(self, name, argument):
        """Names, calls, objects to be filled, and values stored elsewhere: what only the builder may provide."""
        stack, builder = self.stack, self.builder
        match name:
            case "GLOBAL":
                builder.symbol(argument)
                stack.append(Symbol(argument))
            case "STACK_GLOBAL":
                last, module = stack.pop(), stack.pop()
                if not (isinstance(module, str) and isinstance(last, str)):
                    raise InputError(f"a name made of {show(module)} and {show(last)}; both must be text")
                builder.symbol(f"{module} {last}")
                stack.append(Symbol(f"{module} {last}"))
            case "REDUCE" | "NEWOBJ":
                args, symbol = stack.pop(), stack.pop()
                if not (isinstance(symbol, Symbol) and isinstance(args, tuple)):
                    raise InputError(f"a call of {show(symbol)} with {show(args)}; it needs a name and a tuple")
                stack.append(builder.call(symbol.name, args))
            case "BUILD":
                state = stack.pop()
                builder.fill(stack[-1], state)
            case "BINPERSID":
                stack.append(builder.persistent(stack.pop()))
            case _:
                return False
        return True


def set_item(target, key, value):
    """Do target[key] = value for a dict and a plain key. (Hashing a deeply nested tuple could overflow the stack.)"""
    if not isinstance(target, dict):
        raise InputError(f"a key {show(key)} is set in {show(target)}, which is not a dict")
    if not (key is None or isinstance(key, (str, int, float, bool, bytes))):
        raise InputError(f"the key of a dict is {show(key)}; it must be text or a number")
    target[key] = value


def _extend(target, values):
    if type(target) is not list:
        raise InputError(f"a value is appended to {show(target)}, which is not a list")
    target.extend(values)
