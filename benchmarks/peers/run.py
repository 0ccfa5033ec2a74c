"""This library beside others: the same data, the same start, the same steps, one process, taking turns.

    python benchmarks/peers/run.py mixture [--quick] [--sizes "1000x2 K=3" ...] [--repeat 5]
    python benchmarks/peers/run.py ppca [--quick] [--sizes "a fit, exact, 500x20000 d=20" ...] [--repeat 5]
    python benchmarks/peers/run.py relevance [--quick] [--sizes "a fit, banana N=400 gamma=1" ...] [--repeat 5]
    python benchmarks/peers/run.py flow [--quick] [--sizes "a step, D=2 K=8 B=1000" ...] [--repeat 5]
    python benchmarks/peers/run.py vae [--quick] [--sizes "a step, 784-400-20, B=100" ...] [--repeat 5]
    python benchmarks/peers/run.py network [--quick] [--sizes "a step, 784-300-10, B=100" ...] [--repeat 5]
    python benchmarks/peers/run.py gradients [--quick] [--sizes "1e7 samples, 10-d, diag, path" ...] [--repeat 5]

A family's file in this folder gives

    SIZES      name -> size, in the order of the table; QUICK, the names that --quick runs
    PEERS      name -> build(problem) -> run(steps) -> result, or None where a peer has not what is asked for. It
               imports its library itself: an ImportError leaves it out. This library comes first; ratios are to it.
    problem(size), quality(problem, result) -> float, QUALITY (what that is); or both a tuple
    steps(size) -> (n1, n2), or that by peer where their steps differ much; None: run(None) is timed as a whole
    TIME       what is timed, if not all are steps
    memory(name of size, peer) -> most memory in times of the data, or None: where it is there, it is called in a
               process of its own

A step takes (t(n2) - t(n1)) / (n2 - n1), the median over repeats. Building and one run of each come before the clock
starts, so that compilers are done. The quality after n2 steps, or of the whole, shows whether all computed the same.
"""

import argparse
import importlib
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]  # the checkout's lvm, and benchmarks.problems

OVERRULES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")


def clock(run, steps):
    """Seconds that run(steps) takes, begun when the threads of the run before have stopped spinning."""
    time.sleep(0.2)
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


def timed(run, steps):
    """Seconds of a step, from n1 to n2 = steps, or of the whole run where that is None."""
    if steps is None:
        return clock(run, None)
    n1, n2 = steps
    return (clock(run, n2) - clock(run, n1)) / (n2 - n1)


def compare(family, size, repeat, missing):
    """Rows (peer, seconds, quality) for one size."""
    problem, steps, runs = family.problem(size), family.steps(size), {}
    for name, build in family.PEERS.items():
        if name in missing:
            continue
        try:
            run = build(problem)
        except ImportError as e:
            missing[name] = str(e)
        else:
            runs |= {name: run} if run else {}
    steps = steps if isinstance(steps, dict) else dict.fromkeys(runs, steps)
    quality = {name: family.quality(problem, run(steps[name] and steps[name][1])) for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():  # taking turns, so that a busy moment hits all alike
            seconds[name].append(timed(run, steps[name]))
    return [(name, statistics.median(seconds[name]), quality[name]) for name in runs]


def memory(family, size, peer):
    """family.memory, where it is there, in a process of its own."""
    if not hasattr(family, "memory"):
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(family.memory, (size, peer))


def table(rows):
    """Lines with the columns aligned: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in rows]


def main():
    """Parse the command line, measure, print."""
    here = Path(__file__).parent
    families = sorted(p.stem for p in here.glob("*.py") if "\nSIZES = " in p.read_text())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", choices=families)
    parser.add_argument("--quick", action="store_true", help="small sizes, two repeats")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="only these, by the names that the table has")
    parser.add_argument("--repeat", type=int, default=5, help="repeats, of which the median counts (default: 5)")
    options = parser.parse_args()
    family = importlib.import_module(options.family)
    sizes = options.sizes or (family.QUICK if options.quick else list(family.SIZES))
    for name in sizes:
        if name not in family.SIZES:
            parser.error(f"unknown size {name!r}; there are {', '.join(map(repr, family.SIZES))}")
    warnings.simplefilter("ignore")  # nothing converges here, on purpose

    import lvm

    lvm.show_versions()
    overruled = [v for v in OVERRULES if v in os.environ]
    print(
        "BLAS kernels  ",
        f"OVERRULED by {', '.join(overruled)}: users do not have that" if overruled else "its own choice",
    )

    several = lambda x: x if isinstance(x, tuple) else (x,)
    head = "size", "library", getattr(family, "TIME", "ms a step"), "relative to lvm", *several(family.QUALITY)
    missing, rows, most = {}, [head], []
    for name in sizes:
        print(f"... {name}", file=sys.stderr, flush=True)
        results = compare(family, family.SIZES[name], 2 if options.quick else options.repeat, missing)
        ours = results[0][1]
        for peer, seconds, quality in results:
            told = (str(q) if isinstance(q, int) else f"{q:.6f}" for q in several(quality))
            rows.append((name, peer, f"{1e3 * seconds:.3f}", f"{seconds / ours:.1f}", *told))
            held = memory(family, name, peer)
            most += [] if held is None else [(name, peer, f"{held:.2f}")]
    print()
    print("\n".join(table(rows)))
    if most:
        print()
        print("\n".join(table([("size", "library", "most memory, data and all, in times of the data"), *most])))
    if missing:
        print(f"\nnot here: {'; '.join(f'{name} ({why})' for name, why in missing.items())}")


if __name__ == "__main__":
    main()
