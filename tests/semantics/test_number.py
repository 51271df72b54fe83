"""proto/format/number against Python, NumPy, ml_dtypes and exact fractions.

TENSORD_NUMBER_LIB names a shared library of number_shim.c and what it needs.
"""

import ctypes
import json
import os
import random
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

LIBRARY = os.environ.get("TENSORD_NUMBER_LIB")
if not LIBRARY:
    pytest.skip("TENSORD_NUMBER_LIB (path of the number library) is not set",
                allow_module_level=True)
FULL = bool(os.environ.get("TENSORD_TESTS_FULL"))

# ml_dtypes calls its own NaNs invalid.
pytestmark = pytest.mark.filterwarnings("ignore")

shim = ctypes.CDLL(LIBRARY)
shim.number_shim_detail.restype = ctypes.c_char_p
shim.number_shim_write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
shim.number_shim_write.restype = ctypes.c_size_t
shim.number_shim_read.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p,
                                  ctypes.c_void_p]
shim.number_shim_read.restype = ctypes.c_size_t
shim.number_shim_scalar.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p,
                                    ctypes.c_void_p]
shim.number_shim_round_trip.argtypes = [ctypes.c_int] + 3 * [ctypes.c_uint64]
shim.number_shim_round_trip.restype = ctypes.c_uint64

NUMBERS = {"bool": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "uint32": 6, "int32": 7,
           "uint64": 8, "int64": 9, "float16": 10, "bfloat16": 11, "float32": 12, "float64": 13,
           "float8_e4m3fn": 16, "float8_e5m2": 17}
INTEGERS = [name for name in NUMBERS if "int" in name]
OK, INVALID, BAD_DTYPE = 0, 1, 15
TEXT_MAX = 64

several = settings(deadline=None, database=None, derandomize=True, max_examples=300,
                   suppress_health_check=list(HealthCheck))


class Format:
    """A float as exact fractions. A magnitude is the bits without the sign."""

    def __init__(self, name, bits, fraction_bits, least_unit, largest, infinity, nan):
        self.name, self.bits, self.fraction_bits = name, bits, fraction_bits
        self.least_unit, self.largest, self.infinity, self.nan = least_unit, largest, infinity, nan
        self.sign = 1 << (bits - 1)
        self.array = np.dtype(f"u{bits // 8}")

    def __repr__(self):
        return self.name

    def significand(self, magnitude):
        """(c, q): the magnitude's value is c * 2^q."""
        exponent = magnitude >> self.fraction_bits
        fraction = magnitude & ((1 << self.fraction_bits) - 1)
        if exponent == 0:
            return fraction, self.least_unit
        return fraction + (1 << self.fraction_bits), self.least_unit + exponent - 1

    def value(self, magnitude):
        c, q = self.significand(magnitude)
        return c * Fraction(2) ** q

    def nearest(self, number):
        """The magnitude nearest to a fraction >= 0, ties to even; None out of range."""
        if number == 0:
            return 0
        top = number.numerator.bit_length() - number.denominator.bit_length()
        if Fraction(2) ** top > number:
            top -= 1
        unit = max(top - self.fraction_bits, self.least_unit)
        significand = round(number / Fraction(2) ** unit)  # Fraction rounds ties to even
        magnitude = ((unit - self.least_unit) << self.fraction_bits) + significand
        return magnitude if magnitude <= self.largest else None


FORMATS = {f.name: f for f in [
    Format("float16", 16, 10, -24, 0x7BFF, 0x7C00, 0x7E00),
    Format("bfloat16", 16, 7, -133, 0x7F7F, 0x7F80, 0x7FC0),
    Format("float32", 32, 23, -149, 0x7F7FFFFF, 0x7F800000, 0x7FC00000),
    Format("float64", 64, 52, -1074, 0x7FEF << 48 | 0xFFFFFFFFFFFF, 0x7FF0 << 48, 0x7FF8 << 48),
    Format("float8_e4m3fn", 8, 3, -9, 0x7E, None, 0x7F),
    Format("float8_e5m2", 8, 2, -16, 0x7B, 0x7C, 0x7F),
]}
NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=str)
narrow_formats = pytest.mark.parametrize("form", [FORMATS[name] for name in NARROW], ids=str)


def write(name, elements):
    """The texts of an array's elements."""
    elements = np.ascontiguousarray(elements)
    out = ctypes.create_string_buffer((TEXT_MAX + 1) * max(elements.size, 1))
    length = shim.number_shim_write(NUMBERS[name], elements.ctypes.data, elements.size, out)
    return out.raw[:length].decode().split("\n")[:-1]


def read_bits(name, tokens):
    """The elements of tokens that must all be good, as unsigned integers."""
    lines = "".join(token + "\n" for token in tokens).encode()
    bits = FORMATS[name].array if name in FORMATS else np.dtype(f"u{np.dtype(name).itemsize}")
    out = np.zeros(len(tokens), bits)
    status = ctypes.c_int()
    count = shim.number_shim_read(NUMBERS[name], lines, len(lines), out.ctypes.data,
                                  ctypes.byref(status))
    assert count == len(tokens), (tokens[count], status.value, shim.number_shim_detail())
    return out


def read(name, token):
    """(status, bits) of one token."""
    out = (ctypes.c_uint8 * 8)()
    status = ctypes.c_int()
    lines = token.encode() + b"\n"
    shim.number_shim_read(NUMBERS[name], lines, len(lines), out, ctypes.byref(status))
    return status.value, int.from_bytes(bytes(out), "little")


def assert_read(form, token):
    """The token is read as exact fractions say."""
    negative = token.startswith("-")
    magnitude = form.nearest(abs(Fraction(token)))
    status, bits = read(form.name, token)
    if magnitude is None:
        assert status == BAD_DTYPE, token
    else:
        assert (status, bits) == (OK, magnitude | (form.sign if negative else 0)), token


def random_magnitudes(form, count, seed):
    """Finite ones: half of them random bits, half near a power of two."""
    source = random.Random(seed)
    edges = [e << form.fraction_bits for e in range((form.largest >> form.fraction_bits) + 1)]
    found = [source.randint(1, form.largest) for _ in range(count // 2)]
    found += [source.choice(edges) + source.randint(-2, 2) for _ in range(count - count // 2)]
    return [m for m in found if 0 < m <= form.largest]


# ---- writing ------------------------------------------------------------------------------------


def shortest(form, magnitude):
    """(digits, exponent) of the shortest decimal that reads back, the closest of them, by trial of
    one more digit at a time."""
    c, q = form.significand(magnitude)
    value = c * Fraction(2) ** q
    closer = c == 1 << form.fraction_bits and q > form.least_unit
    low = value - Fraction(2) ** (q - (2 if closer else 1))
    high = value + Fraction(2) ** (q - 1)
    exponent = len(str(value.numerator)) - len(str(value.denominator))
    exponent -= value < Fraction(10) ** exponent  # of the first digit
    while True:
        step = Fraction(10) ** exponent
        below = value // step
        found = [d for d in (below, below + 1)
                 if low < d * step < high or (c % 2 == 0 and d * step in (low, high))]
        if found:
            return min(found, key=lambda d: (abs(d * step - value), d % 2)), exponent
        exponent -= 1


def assert_shortest(form, magnitudes):
    texts = write(form.name, np.array(magnitudes, form.array))
    for magnitude, text in zip(magnitudes, texts):
        digits, exponent = shortest(form, magnitude)
        # repr of the float64 nearest to so short a decimal gives its digits back.
        assert text == repr(float(f"{digits}e{exponent}")), (magnitude, digits, exponent)


@narrow_formats
def test_every_narrow_float_is_shortest_and_closest(form):
    assert_shortest(form, range(1, form.largest + 1))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_wide_floats_are_shortest_and_closest(name):
    assert_shortest(FORMATS[name], random_magnitudes(FORMATS[name], 2000, name))


@every_format
def test_signs_and_what_is_no_number(form):
    special = [form.nan, form.nan | form.sign, 0, form.sign]
    want = ['"NaN"', '"NaN"', "0.0", "-0.0"]
    if form.infinity:
        special += [form.infinity, form.infinity | form.sign, form.infinity + 1]
        want += ['"Infinity"', '"-Infinity"', '"NaN"']
    assert write(form.name, np.array(special, form.array)) == want
    for bits, text in zip(special, want):
        got = read(form.name, text)
        assert got == (OK, form.nan if "NaN" in text else bits)
    magnitudes = random_magnitudes(form, 200, "signs")
    plain = write(form.name, np.array(magnitudes, form.array))
    signed = write(form.name, np.array([m | form.sign for m in magnitudes], form.array))
    assert signed == ["-" + text for text in plain]


def test_float64_as_repr():
    source = np.random.default_rng(1)
    powers = np.arange(0, 0x7FF, dtype=np.uint64) << np.uint64(52)
    tens = [float(f"{digits}e{e}") for e in range(-330, 309) for digits in (1, 3, 9, 12345, 1.7)]
    values = np.concatenate([
        source.integers(0, 1 << 64, 100000, np.uint64).view(np.float64),
        (powers[:, None] + np.array([0, 1, 2], np.uint64)).ravel().view(np.float64),
        (powers[1:] - np.uint64(1)).view(np.float64),
        np.uint64(1) << np.arange(0, 52, dtype=np.uint64).view(np.uint64),
        source.random(50000),
        source.integers(-(10**6), 10**6, 20000) / 1000,
        source.integers(-(1 << 62), 1 << 62, 20000).astype(np.float64),
        source.integers(-(1 << 54), 1 << 54, 20000) / 16,
        np.array(tens),
    ], dtype=np.float64)
    values = values[np.isfinite(values)]
    assert write("float64", values) == list(map(repr, values.tolist()))


@several
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float64_as_repr(value):
    assert write("float64", np.array([value])) == [repr(value)]


def numpy_text(value):
    return repr(float(np.format_float_scientific(value, unique=True)))


def test_float32_and_float16_as_numpy():
    source = np.random.default_rng(2)
    powers = np.arange(0, 0xFF, dtype=np.uint32) << np.uint32(23)
    wide = np.concatenate([
        source.integers(0, 1 << 32, 60000, np.uint32),
        (powers[:, None] + np.array([0, 1, 2], np.uint32)).ravel(),
        powers[1:] - np.uint32(1),
    ]).view(np.float32)
    for values in (wide, np.arange(1 << 16, dtype=np.uint16).view(np.float16)):
        values = values[np.isfinite(values)]
        assert write(values.dtype.name, values) == list(map(numpy_text, values))


@narrow_formats
def test_every_narrow_float_through_its_library(form):
    """What NumPy or ml_dtypes makes of the text is the same value."""
    elements = np.arange(1 << form.bits, dtype=np.uint32).astype(form.array)
    values = elements.view(getattr(ml_dtypes, form.name, form.name))
    finite = np.isfinite(values)
    texts = write(form.name, elements)
    for text, known in zip(texts, finite):
        assert text.startswith('"') != known
    numbers = np.array([float(t) for t, known in zip(texts, finite) if known])
    assert np.array_equal(numbers.astype(values.dtype).view(form.array), elements[finite])
    assert np.array_equal(read_bits(form.name, [t for t, k in zip(texts, finite) if k]),
                          elements[finite])


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_both_ways(name):
    limits = np.iinfo(name)
    source = random.Random(name)
    values = {limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1}
    for digits in range(1, 21):  # of every length
        for number in (10**digits, 10**digits - 1, source.randint(1, 10**digits)):
            values |= {number, -number}
    values = sorted(v for v in values if limits.min <= v <= limits.max)
    texts = write(name, np.array(values, name))
    assert texts == list(map(str, values))
    assert read_bits(name, texts).view(name).tolist() == values


@pytest.mark.parametrize("part", range(16))
def test_float32_round_trip(part):
    """All of them in a full run, which takes minutes; else one in a thousand."""
    step = 1 if FULL else 1021
    first, count = part << 28, (1 << 28) // step
    assert shim.number_shim_round_trip(NUMBERS["float32"], first, step, count) == 0


def test_float64_round_trip():
    step, count = 0x9E3779B97F4A7C15, (1 << 28 if FULL else 1 << 21)  # wraps around, evenly
    assert shim.number_shim_round_trip(NUMBERS["float64"], 0, step, count) == 0


def least_and_greatest_rest(factor, modulus, count):
    """The least rest that is not 0, and the greatest, of x * factor modulo modulus for x from 1 to
    count, where no x makes it 0: both come down to where the next smaller one has a larger x than
    count, as in Euclid's algorithm."""
    low_x, low = 1, factor % modulus
    high_x, high = 1, modulus - low
    while True:
        if low >= high:
            times = min((low - 1) // high, (count - low_x) // high_x)
            low_x, low = low_x + times * high_x, low - times * high
        else:
            times = min((high - 1) // low, (count - high_x) // low_x)
            high_x, high = high_x + times * low_x, high - times * low
        if times == 0:
            return low, modulus - high


def test_rests_by_trial():
    source = random.Random(1)
    for _ in range(500):
        modulus, factor = source.randint(2, 500), source.randint(1, 1000)
        if np.gcd(modulus, factor) == 1:
            count = source.randint(1, modulus - 1)
            rests = [x * factor % modulus for x in range(1, count + 1)]
            assert least_and_greatest_rest(factor, modulus, count) == (min(rests), max(rests))


def test_products_keep_clear_of_integers():
    """What product_to_odd relies on, for every unit 2^q of a float64, and so of all: x * 2^q *
    10^-k with x to 4 * 2^53 + 2 is an integer, or no closer to one than 2^-66; k, from the same
    formula, is floor(log10) of 2^q, or of 3/4 2^q; and the shift is 1 to 4."""
    count = 2**55 + 2
    for q in range(-1074, 972):
        for closer in (False, True):
            k = (q * 1262611 - (524031 if closer else 0)) >> 22
            width = Fraction(2) ** q * (Fraction(3, 4) if closer else 1)
            assert Fraction(10) ** k <= width < Fraction(10) ** (k + 1)
            power_log2 = -k * 1741647 >> 19
            assert Fraction(2) ** power_log2 <= Fraction(10) ** -k < Fraction(2) ** (power_log2 + 1)
            assert 1 <= q + power_log2 + 1 <= 4
            scale = Fraction(2) ** q / Fraction(10) ** k
            modulus = scale.denominator
            if modulus <= 2**66:
                continue
            low, high = least_and_greatest_rest(scale.numerator, modulus, count)
            assert low << 66 > modulus and (modulus - high) << 66 > modulus, (q, closer)


# ---- reading ------------------------------------------------------------------------------------


def decimal_of(number):
    """A fraction with a power of two below, as (digits, exponent) of a decimal, exactly."""
    places = number.denominator.bit_length() - 1
    return number.numerator * 5**places, -places


def spellings(digits, exponent, source):
    """The same number as tokens."""
    text = str(digits)
    point = source.randint(1, len(text))
    fraction = text[point:] or "0"
    zeros = source.randint(0, 400)
    yield f"{text}e{exponent}"
    yield f"{text[:point]}.{fraction}E{exponent + len(text) - point:+d}"
    yield f"{text}{'0' * zeros}.{'0' * (zeros + 1)}e{exponent - zeros}"
    yield f"0.{'0' * zeros}{text}e{exponent + len(text) + zeros}"
    if -1200 < exponent <= 0:
        padded = text.rjust(1 - exponent, "0")
        yield padded[:len(padded) + exponent] + "." + (padded[len(padded) + exponent:] or "0")


def test_spellings_are_the_same_number():
    source = random.Random(1)
    for digits, exponent in ((1, 0), (12345, -3), (12345, -9), (7, 30), (10**30 + 1, -500)):
        for token in spellings(digits, exponent, source):
            assert Fraction(token) == digits * Fraction(10) ** exponent


@every_format
def test_ties_and_their_surroundings(form):
    """Half way between neighbours, to the last digit, and a little beside."""
    source = random.Random(form.name)
    count = 60 if form.bits == 64 else 300
    magnitudes = random_magnitudes(form, count, "ties") + [0, 1, form.largest - 1, form.largest]
    for magnitude in magnitudes:
        c, q = form.significand(magnitude)
        digits, exponent = decimal_of((2 * c + 1) * Fraction(2) ** (q - 1))
        for token in spellings(digits, exponent, source):
            assert_read(form, token)
        far = source.choice([1, 5, 20, 100, 700])
        for beside in (digits * 10**far + 1, digits * 10**far - 1):
            for token in spellings(beside, exponent - far, source):
                assert_read(form, source.choice(["", "-"]) + token)


@every_format
def test_every_length_and_exponent(form):
    source = random.Random(form.name)
    least = len(str(2**-form.least_unit)) + 20
    for _ in range(2500):
        digits = source.randint(1, 10 ** source.randint(1, 40))
        assert_read(form, f"{digits}e{source.randint(-least, least)}")


def test_float64_as_python():
    source = random.Random(3)
    tokens = [f"{source.randint(1, 10 ** source.randint(1, 19))}e{exponent}"
              for exponent in range(-345, 290) for _ in range(60)]
    want = np.array(list(map(float, tokens)))
    assert np.array_equal(read_bits("float64", tokens), want.view(np.uint64))


digits = st.text("0123456789", min_size=1, max_size=30)
numbers = st.builds("{}{}{}{}".format, st.sampled_from(["", "-"]),
                    st.integers(0, 10**25).map(str),
                    st.one_of(st.just(""), digits.map(".{}".format)),
                    st.one_of(st.just(""), st.integers(-400, 400).map("e{}".format),
                              st.integers(0, 400).map("E+{}".format)))


@every_format
@several
@given(token=numbers)
def test_any_number(form, token):
    assert_read(form, token)


@several
@given(token=numbers, name=st.sampled_from([*INTEGERS, "bool"]))
@example("18446744073709551615", "uint64")
@example("1844674407370955161500000e-5", "uint64")
@example("18446744073709551616", "uint64")
def test_any_number_as_integer(token, name):
    value = Fraction(token)
    low, high = (0, 1) if name == "bool" else (np.iinfo(name).min, np.iinfo(name).max)
    status, bits = read(name, token)
    if value.denominator != 1 or not low <= value <= high:
        assert status == BAD_DTYPE
        detail = shim.number_shim_detail().decode()
        assert token[:40] in detail and name in detail
    else:
        assert (status, bits) == (OK, int(value) % (1 << 8 * np.dtype(name).itemsize))


@several
@given(st.text("0019.eE+-", max_size=9))
def test_numbers_as_json_has_them(token):
    try:
        want = json.loads(token)
    except ValueError:
        assert read("float64", token)[0] == INVALID
        assert read("int64", token)[0] == INVALID
        return
    status, bits = read("float64", token)
    if abs(want) == float("inf"):
        assert status == BAD_DTYPE
    else:
        number = float(want) if isinstance(want, float) or want else float(token)
        assert (status, bits) == (OK, int(np.float64(number).view(np.uint64)))


KINDS = {0: bool, 1: int, 2: int, 3: float}  # enum scalar_kind


@several
@given(st.one_of(numbers, st.integers(-(2**65), 2**65).map(str),
                 st.sampled_from(["true", "false", "-0", "0", "-0.0", "1e400", "-1E400"])))
def test_scalars_as_python_has_them(token):
    kind, value = ctypes.c_int(), (ctypes.c_uint8 * 8)()
    status = shim.number_shim_scalar(token.encode(), len(token), ctypes.byref(kind), value)
    want = json.loads(token)
    if want in (float("inf"), float("-inf")) or not (
            isinstance(want, float) or -(2**63) <= want < 2**64):
        assert status == BAD_DTYPE
        return
    assert status == OK
    assert KINDS[kind.value] is type(want)
    raw = bytes(value)
    if isinstance(want, float):
        assert raw == np.float64(want).tobytes()
    elif isinstance(want, bool):
        assert raw[0] == want
    else:
        assert (kind.value == 2) == (want >= 2**63)
        assert int.from_bytes(raw, "little", signed=kind.value == 1) == want
