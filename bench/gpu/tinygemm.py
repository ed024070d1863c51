"""torch._weight_int4pack_mm (tinygemm), timed as packed.mjs times our products.

Reads commands as JSON, one a line, and answers each with one line:
  {"command": "make", rows, cols, tokens, groupSize, coldBytes, leastRepeats}  ->  {"error", "bytes"}
  {"command": "turn"}  ->  {"seconds"} of one product of the last that was made
What fails is answered by {"failure"}. The first line is {"description"}.
"""

import json
import sys

SAMPLED_ROWS = 64
INNER_K_TILES = 8


def answer(**fields):
    print(json.dumps(fields), flush=True)


class Product:
    """y = x · Wᵀ, w = (q - 8) · scale + zero, in bfloat16."""

    def __init__(self, torch, rows, cols, tokens, groupSize, coldBytes, leastRepeats):
        self.torch = torch
        device = torch.device("cuda")
        groups = cols // groupSize
        codes = torch.randint(0, 16, (rows, cols), dtype=torch.int32, device=device)
        scales = (torch.rand(groups, rows, device=device) * 0.01 + 0.01).bfloat16()
        zeros = (torch.randn(groups, rows, device=device) * 0.01).bfloat16()
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
        packed = torch._convert_weight_to_int4pack(pairs, INNER_K_TILES)
        scales_and_zeros = torch.stack([scales, zeros], dim=2).contiguous()
        self.bytes = sum(t.numel() * t.element_size() for t in (packed, scales_and_zeros))
        copies = max(2, -(-coldBytes // self.bytes))
        self.repeats = copies * -(-leastRepeats // copies)
        weights = [(packed.clone(), scales_and_zeros.clone()) for _ in range(copies)]
        x = torch.randn(tokens, cols, device=device).bfloat16()

        def product(i):
            weight, scale = weights[i % copies]
            return torch._weight_int4pack_mm(x, weight, groupSize, scale)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(copies):
                product(i)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for i in range(self.repeats):
                y = product(i)
        self.graph.replay()
        self.kept = (weights, x, y)
        self.error = self.relative_error(codes, scales, zeros, x, y, groupSize)

    def relative_error(self, codes, scales, zeros, x, y, groupSize):
        rows = self.torch.randperm(codes.shape[0], device=codes.device)[:SAMPLED_ROWS]
        spread = lambda t: t.double().t()[rows].repeat_interleave(groupSize, dim=1)
        exact = x.double() @ ((codes[rows].double() - 8) * spread(scales) + spread(zeros)).t()
        return float((y[:, rows].double() - exact).norm() / exact.norm())

    def turn(self):
        before, after = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        self.graph.replay()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / self.repeats


def main():
    try:
        import torch
    except ImportError as error:
        return answer(failure=f"{sys.executable}: {error}")
    if not torch.cuda.is_available():
        return answer(failure=f"torch {torch.__version__} of {sys.executable} finds no GPU")
    answer(description=f"tinygemm of torch {torch.__version__}, {torch.cuda.get_device_name(0)}")
    product = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command.pop("command") == "make":
                product = None  # its memory goes first
                product = Product(torch, **command)
                answer(error=product.error, bytes=product.bytes)
            else:
                answer(seconds=product.turn())
        except Exception as error:
            answer(failure=f"{type(error).__name__}: {error}")


main()
