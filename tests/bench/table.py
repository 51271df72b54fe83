"""The lines of the benchmarks' table: what is wanted of a figure, and how it is printed."""

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. at_most is of times (tensord / the other side), at_least of speeds."""

    metric: str
    title: str
    at_most: float | None = None
    at_least: float | None = None
    against: str = "limit"  # the other side
    speed: bool = False  # the ratio is one of speeds, as with at_least


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def summary(values):
    if not values:
        return None
    return {
        "p10": quantile(values, 0.1),
        "median": statistics.median(values),
        "p90": quantile(values, 0.9),
        "count": len(values),
    }


def ratio_of(row, ours, limit, which):
    """Of times; of speeds, where more is better, the other way round."""
    ratio = ours[which] / limit[which]
    return 1 / ratio if row.at_least or row.speed else ratio


def judge(row, mib, samples):
    """samples: {side: [nanoseconds]}."""
    ours, limit = summary(samples["tensord"]), summary(samples[row.against])
    result = {"title": row.title.format(mib=mib), "against": row.against, "ratio": None, "ok": None}
    result |= {"tensord": ours, "limit": limit}
    if limit:
        result["ratio"] = ratio_of(row, ours, limit, "median")
        result["quiet_ratio"] = ratio_of(row, ours, limit, "p10")
        if row.at_most:
            result["wanted"] = f"<= {row.at_most:g}"
            result["ok"] = result["ratio"] <= row.at_most
        elif row.at_least:
            result["wanted"] = f">= {row.at_least:g}"
            result["ok"] = result["ratio"] >= row.at_least
    return result


def duration(nanoseconds):
    if nanoseconds is None:
        return ""
    if nanoseconds >= 1e6:
        return f"{nanoseconds / 1e6:.2f} ms"
    if nanoseconds >= 1e4:
        return f"{nanoseconds / 1e3:.1f} us"
    return f"{nanoseconds / 1e3:.2f} us"


def print_header(other):
    print(f"{'':44} {'tensord':^21} {other:^21}  ratio")
    print(f"{'':44} {'median':>10} {'p90':>10} {'median':>10} {'p90':>10} {'median':>7} {'p10':>6}"
          "  wanted")


def print_result(result, smoke):
    ours, limit = result["tensord"], result["limit"] or {}
    times = [ours["median"], ours["p90"], limit.get("median"), limit.get("p90")]
    line = f"{result['title']:44} " + " ".join(f"{duration(t):>10}" for t in times)
    if result["ratio"]:
        line += f" {result['ratio']:7.2f} {result['quiet_ratio']:6.2f}"
    if result["ok"] is not None and not smoke:
        line += f"  {result['wanted']:8} {'ok' if result['ok'] else 'MISSED'}"
    print(line.rstrip(), flush=True)
