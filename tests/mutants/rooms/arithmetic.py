"""The mutants of the choice of an arithmetic, and of a plan's estimate."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/arithmetic.py", "test_precision_by_measurement.py",
        ("1.2 times", "FASTER = 1.2", "FASTER = 1.19"),
        ("calls times the median", "calls * median(times)", "median(times)"),
        ("compiling is paid for once", "+ compiling.get(a, 0.0)", "+ calls * compiling.get(a, 0.0)"),
        ("the best float32", "FASTER * jobs[bf16] <= jobs[fp32]", "FASTER * jobs[bf16] <= jobs[PLAIN]"),
        ("beyond the noise", "(1 - noise) * jobs[PLAIN]", "jobs[PLAIN]"),
        ("half the quartiles' distance", "(high - low) / 2 / middle", "(high - low) / 20 / middle"),
        ("hopeless", "first > 1.5 * min", "first > 2.5 * min"),
    ),
    *mutants("cascade/calibration.py", "test_precision_by_measurement.py",
        ("each is timed by itself", "stage_denoiser(calls.stage, calls.device, arithmetic), calls.example()",
         "stage_denoiser(calls.stage, calls.device, PLAIN), calls.example()"),
    ),
    *mutants("cascade/commands/swept_points.py", "commands/test_steps.py",
        ("between chunks others have their time", "step % self.chunk_steps == 0", "step % self.chunk_steps == 1"),
        ("every call of a step", "self.seconds += moment - last[0]",
         "self.seconds += (step > last[1]) * (moment - last[0])"),
    ),
    *mutants("cascade/commands/plan_measure.py", "commands/test_plan.py",
        ("three forward passes are a step", '["accumulate"] * 3 *', '["accumulate"] * 2 *'),
        ("bytes of all pictures of a call", "OF_A_PARAMETER * parameters + kept * micro",
         "OF_A_PARAMETER * parameters + kept"),
        ("each piece of memory once", "kept[storage.data_ptr()] = storage.nbytes()",
         "kept[len(kept)] = storage.nbytes()"),
    ),
]
