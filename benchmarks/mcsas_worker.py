"""One repetition of McSAS3 at a time, for `benchmarks.size_distribution`.

Runs under an interpreter of its own that has ``mcsas3``, and imports nothing of this repository.
Reads lines of JSON from standard input: first the settings and curves, then the number of a curve
for each repetition. Answers each with the seconds that it took and the radii that it ended with.
"""

import contextlib
import io
import json
import sys
import time

import pandas
from mcsas3.mc_core import McCore
from mcsas3.mc_data_1d import McData1D
from mcsas3.mc_model import McModel
from mcsas3.mc_opt import McOpt


def repeat(data: dict, model: McModel) -> tuple[float, float, McOpt]:
    """What ``McHat.runOnce`` does, without a file: seconds by clock and of CPU, and outcome."""
    opt = McOpt()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    model.resetParameterSet()
    McCore(data, model=model, opt=opt).optimize()
    return time.perf_counter() - begin, time.process_time() - begin_cpu, opt


def main() -> None:
    """Answer until the input ends."""
    answers = sys.stdout
    setup = json.loads(sys.stdin.readline())
    with contextlib.redirect_stdout(io.StringIO()):
        curves = [
            McData1D(df=pandas.DataFrame(dict(zip(("Q", "I", "ISigma"), curve, strict=True))))
            for curve in setup["curves"]
        ]
        # Units of length cancel: radii in nm go with q in 1/nm. All else is McSAS3's default.
        model = McModel(
            modelName="sphere",
            fitParameterLimits={"radius": setup["radius_range_nm"]},
            staticParameters={"background": 0, "scale": 1},
        )
        # The first evaluation compiles the sphere.
        McCore(curves[0].measData, model=model, opt=McOpt())
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(io.StringIO()):
            seconds, cpu_s, opt = repeat(curves[json.loads(line)].measData, model)
        answer = {
            "seconds": seconds,
            "cpu_s": cpu_s,
            "radii_nm": model.parameterSet["radius"].astype(float).tolist(),
            "reduced_chi2": float(opt.gof),
            "steps": int(opt.step),
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
