"""Flows of 2, 8 and 32 layers towards four densities that are known but for 1/Z: Rezende & Mohamed 2015, figure 3.

Training maximises a lower bound on log Z; the gap is what it lacks. The weights of 100000 draws estimate log Z itself,
to be trusted where k-hat is below 0.7. (U2 to U4 have a soft wall at |z_i| = 4, without which Z would be infinite.)
"""

import pathlib
import time

import numpy as np

import lvm

LAYERS = (2, 8, 32)


def main(out="lvm-demo"):
    models = {}
    print("    layers   bound   log Z      gap  log Z by weights          ESS  k-hat  seconds")
    for name in ("U1", "U2", "U3", "U4"):
        target = getattr(lvm.targets, name)
        for K in LAYERS:
            flow = lvm.PlanarFlow(K, random_state=0)
            start = time.perf_counter()
            flow.fit_target(target, dtype=np.float32)
            seconds, found = time.perf_counter() - start, flow.evidence(target)
            print(
                f"{name}  {K:6}  {found.elbo:6.4f}  {target.log_z:6.4f}  {target.log_z - found.elbo:6.4f}  "
                f"{found.log_z:6.4f} ± {found.log_z_error:6.4f}  {found.ess / found.n_samples:9.1%}  {found.k_hat:5.2f}"
                f"  {seconds:7.1f}"
            )
            models[name, K] = flow
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(11, 11), layout="constrained")
    places = figure.add_gridspec(4, 4)
    for row, name in enumerate(("U1", "U2", "U3", "U4")):
        for column, K in enumerate(LAYERS):
            last = column == len(LAYERS) - 1  # the target is beside it
            ax = figure.add_subplot(places[row, column : column + 1 + last])
            target = getattr(lvm.targets, name) if last else None
            lvm.plotting.plot_flow(models[name, K], target, limits=[(-4, 4)] * 2, ax=ax)
            ax.set_title(f"{name}, {K} layers", fontsize="medium")
    for ax in figure.axes:
        ax.set(xlabel=None, ylabel=None)
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-flow-energy.png"))
    print(f"A picture is in {out}/example-flow-energy.png")


if __name__ == "__main__":
    main()
