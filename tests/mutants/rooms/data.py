"""The mutants of cascade/data."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/data/degradation.py", "data/test_shrink.py",
        ("u = 127.5(x + 1)", "+ 1) * 127.5", "+ 1) * 128"),
        ("rounded, not cut", ".clamp(0, 255).round()", ".clamp(0, 255)"),
        ("clamped before it is 8 bits", ".clamp(0, 255)", ".clamp(-255, 510)"),
        ("x = u/127.5 − 1", "/ 127.5 - 1", "/ 128 - 1"),
        ("antialiased", "antialias=True", "antialias=False"),
        ("bicubic", 'mode="bicubic", antialias', 'mode="bilinear", antialias'),
        ("low-res pictures have 8 bits", "from_uint8(to_uint8(small))", "small"),
        ("reach of the filter", "_REACH = 4", "_REACH = 1"),
    ),
    *mutants("cascade/data/views.py", "data/test_views.py",
        ("half of the pictures are flipped", "draws[2] < 0.5", "draws[2] < 0.25"),
        ("low-res crop under the crop", "top // factor, left // factor", "left // factor, top // factor"),
        ("every corner is drawn", "// self.align + 1", "// self.align"),
    ),
    *mutants("cascade/data/order.py", "data/test_order.py",
        ("index = m·W·b + r·b + j", "(micro * self.processes + self.rank)", "(self.rank * self.accumulate + micro)"),
        ("position sG + i", "step * self.global_batch + index", "step * self.batch + index"),
    ),
]
