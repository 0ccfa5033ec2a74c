"""python tests/check_wheel.py lvm-*.whl: does the wheel ship what git has of lvm/ and kernels/, and nothing else?

Not a test: it needs a wheel, which .ci/run builds.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {"kernels/_lvm_kernels_here"}  # it marks a checkout


def in_git():
    """{name in the wheel: file} of everything that git has."""
    listed = subprocess.run(["git", "ls-files", "-z", "lvm", "kernels"], cwd=ROOT, capture_output=True, check=True)
    files = set(listed.stdout.decode().split("\0")) - NOT_SHIPPED - {""}
    return {f"lvm/{f}" if f.startswith("kernels/") else f: ROOT / f for f in files}


def main(wheel):
    """Print what differs; the exit status."""
    wanted = in_git()
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        other = {name for name in shipped & set(wanted) if archive.read(name) != wanted[name].read_bytes()}
    wrong = {"missing": set(wanted) - shipped, "not in git": shipped - set(wanted), "other contents": other}
    for what, names in wrong.items():
        for name in sorted(names):
            print(f"{Path(wheel).name}: {what}: {name}")
    if not any(wrong.values()):
        print(f"{Path(wheel).name}: {len(shipped)} files, as in git")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
