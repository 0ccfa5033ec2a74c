"""MNIST by a variational autoencoder as Burda, Grosse & Salakhutdinov (2016) have it: 784-200-200-50 tanh units.

    python vae_mnist.py FOLDER EPOCHS [--layers K]

FOLDER has the files of MNIST, train-images-idx3-ubyte and t10k-images-idx3-ubyte, gzipped or not. Pixels are black or
white, drawn afresh in each step with their grey as the probability; the paper's NLL, 86.76, is that of 3280 epochs, by
5000 samples for each digit. --layers gives the posterior K planar layers (Rezende & Mohamed 2015).
"""

import argparse
import gzip
import pathlib

import numpy as np

import lvm


def pixels(folder, name):
    """The images (N,784) of an idx file, from 0 to 1."""
    for path in folder / name, folder / f"{name}.gz":
        if path.exists():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            n = int.from_bytes(raw[4:8], "big")  # behind a number that says what follows; then height and width
            return np.frombuffer(raw, np.uint8, offset=16).reshape(n, -1).astype(np.float32) / 255
    raise SystemExit(f"There is no {name} in {folder}, nor {name}.gz.")


def main(out="lvm-demo"):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("epochs", type=int)
    parser.add_argument("--layers", type=int, default=0)
    asked = parser.parse_args()
    X, test = (pixels(asked.folder, f"{name}-images-idx3-ubyte") for name in ("train", "t10k"))
    vae = lvm.VAE(
        50,
        hidden_layer_sizes=(200, 200),
        activation="tanh",
        likelihood="bernoulli",
        binarize="dynamic",
        n_flow_layers=asked.layers,
        batch_size=100,
        max_epochs=asked.epochs,
        random_state=0,
        verbose=1,
    )
    vae.fit(X)
    print(f"{len(test)} digits that it has not seen:")
    print(vae.evaluate(test, n_importance=100))
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(13, 8), layout="constrained")
    (rows, drawn), (bound, active) = figure.subplots(2, 2, height_ratios=(2, 3))
    lvm.plotting.plot_reconstructions(vae, test, ax=rows)
    lvm.plotting.plot_decoded(vae, ax=drawn)
    lvm.plotting.plot_bound(vae, ax=bound)
    lvm.plotting.plot_active(vae, test, ax=active)
    rows.set_title("digits not seen", fontsize="medium")
    drawn.set_title("made up", fontsize="medium")
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-vae-mnist.png"))
    print(f"A picture is in {out}/example-vae-mnist.png")


if __name__ == "__main__":
    main()
