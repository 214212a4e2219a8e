"""Products of a linear layer on the CPU in float32 and bfloat16, and what a new number of rows costs.

Usage: python benchmarks/products.py [--rows 4000]

Printed for inputs x outputs of some layers: billions of operations per second of x wᵀ in both types, medians, with
shapes that were seen before; and milliseconds of a product in bfloat16 whose number of rows is new, or was seen before:
oneDNN compiles a kernel for each shape. ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 shows a CPU without AMX.
"""

import argparse
import statistics
import time

import torch

LAYERS = ((256, 256), (256, 512), (256, 8264))


def milliseconds(multiply, numbers) -> float:
    """Median over the calls of multiply(number)."""
    times = []
    for number in numbers:
        start = time.perf_counter()
        multiply(number)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4000)
    rows = parser.parse_args().rows
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, {rows} rows")
    for inputs, outputs in LAYERS:
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            x, w = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
            multiply = lambda count, x=x, w=w: x[:count] @ w.t()  # noqa: E731
            milliseconds(multiply, [rows] * 3)
            found.append(2e-6 * rows * inputs * outputs / milliseconds(multiply, [rows] * 15))
        new, seen = (milliseconds(multiply, range(rows - 40, rows - 10)) for _ in range(2))
        print(
            f"{inputs} x {outputs}: float32 {found[0]:.0f}, bfloat16 {found[1]:.0f} billion operations per second; "
            f"new rows {new:.1f} ms, seen {seen:.1f} ms"
        )


if __name__ == "__main__":
    main()
