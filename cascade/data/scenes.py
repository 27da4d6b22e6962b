"""The six scenes: each paints one class on a canvas, from the choices that its draws give.

Every scene is laid out alike: a soft background, a shadow or a glow, then one large thing near the middle. What a
64 px picture can hold is form, colour and light; ribs, veins, bands and facets need 256 px, grain and glints 1024 px.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cascade.data.painting import (
    Canvas,
    Draws,
    footprint,
    inside,
    line,
    lines,
    noise,
    oklch,
    over,
    ramp,
    slope,
    smooth,
    stripes,
)

TAU = 2 * math.pi


def planet(canvas: Canvas, draws: Draws) -> Tensor:
    """A banded planet in a dark sky, mostly with a ring."""
    x, y = canvas.x, canvas.y
    hue, dusk = draws.pick((25, 50, 75, 350, 200)), draws.between(255, 300)
    sky = ramp(0.5 + 0.35 * (x * 0.6 - y), [oklch(0.13, 0.04, dusk), oklch(0.24, 0.09, dusk + 20)])
    cloud = smooth(-0.6, 2.2, noise(x * 0.9, y * 0.9, draws.place(), 5))
    sky = sky + oklch(0.5, 0.14, dusk + 40) * (0.35 * cloud)
    for waves, least, light in ((7.0, 2.6, 0.8), (22.0, 2.5, 0.9), (70.0, 2.7, 0.8)):
        sky = sky + light * smooth(least, least + 1.2, noise(x * waves, y * waves, draws.place(), 1))

    ringed = draws.between(0, 1) < 0.75
    radius = draws.between(0.38, 0.44) if ringed else draws.between(0.52, 0.62)
    lean, nod = draws.between(-0.5, 0.5), draws.between(0.2, 0.4)
    u, v = canvas.turned(draws.between(-0.1, 0.1), draws.between(-0.1, 0.1), lean, radius)
    square = u * u + v * v
    depth = (1 - square).clamp_min(0).sqrt()
    north, near = v * math.cos(nod) + depth * math.sin(nod), depth * math.cos(nod) - v * math.sin(nod)
    east = torch.atan2(u, near.clamp_min(1e-3))
    swirl = noise(east * 1.2, north * 3, draws.place(), 6)
    band = noise(east * 0.15 + 0.05 * swirl, north * 2.6 + 0.16 * swirl, draws.place(), 5, gain=0.62)
    body = ramp(
        (0.5 + 0.26 * band).clamp(0, 1),
        [
            oklch(0.42, 0.10, hue - 15),
            oklch(0.62, 0.14, hue),
            oklch(0.78, 0.11, hue + 15),
            oklch(0.93, 0.04, hue + 30),
        ],
    )
    sun = draws.between(2.0, 2.6) - lean
    day = (0.62 * (math.cos(sun) * u + math.sin(sun) * v) + 0.78 * depth).clamp_min(0)
    air = oklch(0.85, 0.09, hue + 180 if hue != 200 else 200)
    body = body * (0.05 + 1.05 * day) + air * (0.55 * (1 - depth) ** 3 * day)
    halo = torch.exp(-6 * (square.sqrt() - 1).clamp_min(0)) * smooth(-1, 1, math.cos(sun) * u + math.sin(sun) * v)
    picture = sky + air * (0.22 * halo)
    disc = inside(square.sqrt() - 1)
    if not ringed:
        return over(picture, body, disc)
    reach = torch.sqrt(u * u + (v / math.sin(nod)) ** 2)
    grooves = noise(reach * 5, torch.zeros_like(u), draws.place(), 7, gain=0.8)
    share = inside((reach - 1.72).abs() - 0.42) * (0.62 + 0.2 * grooves).clamp(0, 1)
    share = share * (1 - 0.85 * line(reach - draws.between(1.75, 1.95), 0.035))
    night = smooth(0.1, -0.1, math.cos(sun) * u + math.sin(sun) * v) * smooth(
        1.15, 0.9, (math.cos(sun) * v - math.sin(sun) * u).abs()
    )
    ring = oklch(0.88, 0.05, hue + 25) * (0.95 + 0.08 * grooves) * (1 - 0.9 * night)
    picture = over(picture, ring, share)
    shade = 1 - 0.55 * smooth(0.5, 0.2, (torch.sqrt(u * u + ((v + 0.16) / math.sin(nod)) ** 2) - 1.6).abs()) * (
        v > -0.2
    )
    picture = over(picture, body * shade, disc)
    return over(picture, ring, share * disc * (v < 0))


def flower(canvas: Canvas, draws: Draws) -> Tensor:
    """A flower seen from above over a blurred meadow: two crowns of petals and a domed heart."""
    x, y = canvas.x, canvas.y
    hue, green = draws.pick((350, 5, 330, 310, 20)), draws.between(130, 150)
    blur = noise(x * 0.9, y * 0.9, draws.place(), 2)
    meadow = ramp(
        (0.5 + 0.3 * y + 0.12 * blur).clamp(0, 1), [oklch(0.55, 0.13, green + 8), oklch(0.82, 0.13, green - 15)]
    )
    u, v = canvas.turned(
        draws.between(-0.1, 0.1), draws.between(-0.1, 0.1), draws.between(0, TAU), draws.between(0.72, 0.84)
    )
    radius, turn = torch.hypot(u, v).clamp_min(1e-4), torch.atan2(v, u) / TAU
    petals, round_ = draws.pick((5, 6, 8)), draws.between(1.8, 2.6)
    picture = meadow
    weave = noise(u * 2, v * 2, draws.place(), 5)
    for crown, (start, size, dim) in enumerate(((0.5, 1.0, 0.86), (0.0, 0.92, 1.0))):
        phase = turn * petals + start
        across = 2 * (phase - phase.round())
        tip = size * (0.34 + 0.66 * (1 - across.abs() ** round_).clamp_min(0) ** 0.5)
        field = radius - tip * (1 - 0.08 * torch.exp(-((across / 0.18) ** 2)))
        along = (radius / tip).clamp(0, 1)
        petal = ramp(
            along,
            [
                oklch(0.48, 0.2, hue - 8),
                oklch(0.66, 0.19, hue),
                oklch(0.83, 0.10, hue + 6),
                oklch(0.93, 0.05, hue + 12),
            ],
        )
        fade = along * (1 - along) * 4
        fibres = stripes(across * 7 + 0.25 * weave) + 0.6 * stripes(across * 41 + 0.8 * weave)
        light = 1 - 0.22 * across**2 + 0.07 * across + 0.035 * fade * fibres + 0.02 * weave
        picture = picture * (1 - (0.3 if crown == 0 else 0.35) * smooth(0.10, -0.06, field))
        picture = over(picture, petal * light * dim, inside(field, footprint(field)))
    heart = draws.between(0.2, 0.26)
    field = radius - heart
    seeds = stripes(turn * 21 + 4.2 * radius.log()) * stripes(turn * 34 - 6.8 * radius.log())
    dome = (1 - (radius / heart) ** 2).clamp_min(0).sqrt()
    pollen = smooth(1.0, 2.2, noise(u * 60, v * 60, draws.place(), 2))
    gold = ramp(
        (0.25 + 0.6 * dome + 0.2 * seeds).clamp(0, 1),
        [oklch(0.5, 0.13, 55), oklch(0.75, 0.16, 75), oklch(0.92, 0.16, 98)],
    )
    picture = picture * (1 - 0.45 * smooth(0.09, -0.03, field))
    return over(picture, gold + 0.25 * pollen, inside(field))


def shell(canvas: Canvas, draws: Draws) -> Tensor:
    """A scallop lying in shallow water over which the light plays."""
    x, y = canvas.x, canvas.y
    hue, sea = draws.pick((35, 50, 65, 15)), draws.between(188, 205)
    ripple = noise(x * 1.3, y * 1.3, draws.place(), 2)
    caustic = torch.exp(-9 * noise(x * 1.4 + 0.3 * ripple, y * 1.4 + 0.3 * ripple, draws.place(), 1).abs())
    water = ramp((0.5 + 0.35 * y + 0.1 * ripple).clamp(0, 1), [oklch(0.6, 0.1, sea + 10), oklch(0.8, 0.09, sea - 10)])
    water = water + 0.12 * caustic
    u, v = canvas.turned(
        draws.between(-0.08, 0.08), draws.between(-0.62, -0.52), draws.between(-0.3, 0.3), draws.between(1.18, 1.32)
    )
    radius, angle = torch.hypot(u, v).clamp_min(1e-4), torch.atan2(u, v)
    wide, ribs = draws.between(0.98, 1.12), draws.pick((11, 13, 15))
    fan = angle / wide
    phase = fan * (ribs / 2)
    field = radius - (1 - 0.2 * fan**2 - 0.08 * fan**4) * (1 + 0.018 * torch.cos(TAU * phase))
    field = torch.maximum(field, (fan.abs() - 1) * radius * wide)
    ear = torch.maximum((v - 0.11).abs() - 0.09 + 0.25 * u.abs(), u.abs() - 0.24)
    weave = noise(u * 2, v * 2, draws.place(), 6)
    growth = noise(radius * 4 + 0.12 * weave, torch.zeros_like(u), draws.place(), 6, gain=0.75)
    cloth = ramp(
        (radius * 0.9 + 0.16 * growth - 0.02).clamp(0, 1),
        [oklch(0.95, 0.03, hue + 40), oklch(0.82, 0.09, hue + 10), oklch(0.9, 0.05, hue + 25), oklch(0.7, 0.13, hue)],
    )
    rib = stripes(phase)
    light = 0.86 + 0.16 * rib - 0.12 * torch.sin(fan * 1.4) - 0.16 * fan**2 + 0.05 * growth * radius + 0.02 * weave
    light = light + 0.03 * stripes(radius * 62 + 0.8 * weave) + 0.07 * smooth(0.5, 1.0, radius)
    shadow_u, shadow_v = u - 0.03, v + 0.05
    both = torch.minimum(field, ear)
    picture = water * (1 - 0.5 * smooth(0.12, -0.08, both + 0.0 * shadow_u * shadow_v))
    picture = over(picture, oklch(0.84, 0.07, hue + 15) * (0.9 + 0.1 * stripes(u * 40) - 0.4 * u), inside(ear))
    picture = picture * (1 - 0.25 * smooth(0.06, -0.02, field))
    return over(picture, cloth * light, inside(field))


def leaf(canvas: Canvas, draws: Draws) -> Tensor:
    """A leaf on paper, its veins in the light."""
    x, y = canvas.x, canvas.y
    hue, warm = draws.pick((135, 120, 70, 45, 30)), draws.between(75, 95)
    fibre = noise(x * 30, y * 30, draws.place(), 4)
    paper = ramp((0.5 + 0.25 * (y - x)).clamp(0, 1), [oklch(0.88, 0.035, warm), oklch(0.965, 0.02, warm)]) * (
        1 + 0.008 * fibre
    )
    u, v = canvas.turned(
        draws.between(-0.06, 0.06), draws.between(-0.06, 0.06), draws.between(0.5, 1.2), draws.between(0.8, 0.9)
    )
    v = v + draws.between(-0.16, 0.16) * (1 - u * u)
    along = ((u + 1) / 2).clamp(0, 1)
    count, broad = draws.pick((7, 8, 9)), draws.between(0.44, 0.56)
    half = broad * torch.sin(math.pi * along**0.72).clamp_min(0) ** 0.9
    side = v.abs()
    rise = count * (along - 0.33 * side - 0.25 * side**2)
    tooth = rise * 3 - (rise * 3).floor()
    field = side - half * (0.97 + 0.05 * tooth) + 2 * (u.abs() - 1).clamp_min(0)
    stalk = line(v + 0.06 * (u + 1) ** 2, 0.018) * inside((u + 1.12).abs() - 0.14)
    weave = noise(u * 2, v * 2, draws.place(), 6)
    patch = (0.55 - 0.45 * side / broad + 0.16 * weave + 0.1 * (1 - along)).clamp(0, 1)
    blade = ramp(
        patch,
        [oklch(0.72, 0.15, hue - 25 if hue < 100 else hue - 30), oklch(0.6, 0.16, hue), oklch(0.46, 0.12, hue + 8)],
    )
    veins = lines(rise + 0.03 * weave, 0.045)
    across = noise(rise * 2.2, side * 14, draws.place(), 2)
    mesh = torch.exp(-6 * noise(u * 26, v * 26, draws.place(), 2).abs())
    nets = lines(side * 26 + 4 * rise + 0.5 * across, 0.06)
    pillow = 0.06 * stripes(rise + 0.5) + 0.03 * across
    light = 0.98 + pillow + 0.10 * torch.tanh(v * 12) - 0.05 * mesh
    blade = blade * light
    pale = oklch(0.86, 0.09, hue - 10)
    blade = over(blade, pale, (0.55 * veins + 0.22 * nets * (1 - veins)).clamp(0, 1))
    blade = over(blade, pale, 0.85 * line(v, 0.016 * (1.3 - along)))
    picture = paper * (1 - 0.35 * smooth(0.12, -0.05, field))
    picture = over(picture, oklch(0.5, 0.1, hue - 20), stalk)
    return over(picture, blade, inside(field))


def gem(canvas: Canvas, draws: Draws) -> Tensor:
    """A cut stone: a convex polyhedron whose far facets are seen through the near ones."""
    x, y = canvas.x, canvas.y
    hue, mauve = draws.pick((20, 160, 265, 310, 230)), draws.between(290, 310)
    glow = torch.exp(-1.6 * (x * x + y * y))
    picture = ramp((0.75 * glow + 0.2 + 0.1 * y).clamp(0, 1), [oklch(0.45, 0.1, mauve), oklch(0.85, 0.07, mauve)])
    turn, nod = draws.between(0, TAU / 8), draws.between(0.35, 0.6)
    u, v = canvas.turned(
        draws.between(-0.06, 0.06), draws.between(-0.02, 0.1), draws.between(-0.15, 0.15), draws.between(0.68, 0.78)
    )
    cut = [(0.0, 1.0, 0.0, 0.36)]
    for k in range(8):
        angle = turn + k * TAU / 8
        for slant, dist in ((0.72, 0.84), (-0.86, 0.70)):
            cut.append((math.cos(angle) * math.cos(slant), math.sin(slant), math.sin(angle) * math.cos(slant), dist))
    front, second, back = torch.full_like(u, 9.0), torch.full_like(u, 9.0), torch.full_like(u, -9.0)
    near, far = torch.zeros_like(u), torch.zeros_like(u)
    for nx, ny, nz, dist in cut:
        ny, nz = ny * math.cos(nod) - nz * math.sin(nod), ny * math.sin(nod) + nz * math.cos(nod)
        depth = (dist - nx * u - ny * v) / nz
        tone = draws.between(-0.12, 0.12) + 0.5 * (0.6 * ny - 0.5 * nx + 0.3 * nz)
        if nz > 0:
            nearer = depth < front
            second = torch.where(nearer, front, torch.minimum(second, depth))
            near = torch.where(nearer, tone, near)
            front = torch.minimum(front, depth)
        else:
            farther = depth > back
            far = torch.where(farther, tone + 0.25 * math.sin(37 * nx), far)
            back = torch.maximum(back, depth)
    field = (back - front) * 0.4
    ray = noise(u * 3, v * 3, draws.place(), 6)
    tone = 0.5 + 0.55 * near + 0.35 * far + 0.25 * v + 0.03 * ray
    stone = ramp(
        tone.clamp(0, 1),
        [oklch(0.26, 0.12, hue), oklch(0.5, 0.19, hue), oklch(0.72, 0.15, hue), oklch(0.94, 0.05, hue)],
    )
    edge = line(second - front, 0.03)
    stone = stone + 0.4 * edge
    picture = over(picture, oklch(0.3, 0.1, mauve), 0.5 * torch.exp(-((x / 0.5) ** 2) - ((y + 0.8) / 0.12) ** 2))
    return over(picture, stone, inside(field))


def mountain(canvas: Canvas, draws: Draws) -> Tensor:
    """A snowy peak under a morning sky, ridges of forest before it."""
    x, y = canvas.x, canvas.y
    sky = ramp(
        (0.42 + 0.5 * y).clamp(0, 1),
        [oklch(0.9, 0.07, 65), oklch(0.86, 0.05, 40), oklch(0.72, 0.1, 245), oklch(0.55, 0.13, 255)],
    )
    wisp = smooth(0.2, 2.2, noise(x * 0.8, y * 3, draws.place(), 6))
    sky = over(sky, oklch(0.97, 0.02, 60), 0.5 * wisp)
    peak, top, steep = draws.between(-0.25, 0.25), draws.between(0.5, 0.72), draws.between(1.0, 1.3)
    zero = torch.zeros_like(x)
    away = noise(x * 1.1, zero, draws.place(), 8) * 0.1 - 0.1
    picture = over(sky, oklch(0.74, 0.07, 255), inside(y - away))
    crag = noise(x * 2, y * 1.4, draws.place(), 8, gain=0.55)
    outline = noise(x * 1.8, zero, draws.place(), 9, gain=0.5)
    height = top - steep * ((x - peak).abs() ** 1.05) + 0.05 * outline * smooth(0.0, 0.25, (x - peak).abs())
    ridge = x - peak - 0.06 * noise(y * 2.2, zero, draws.place(), 6) - 0.1 * (top - y)
    relief = slope(crag, 2.6)
    lit = smooth(0.12, -0.12, ridge + 0.03 * crag) * 0.5 + 0.035 * relief
    rock = ramp((0.35 + lit).clamp(0, 1), [oklch(0.36, 0.05, 270), oklch(0.5, 0.05, 265), oklch(0.68, 0.05, 50)])
    snow = ramp((0.3 + 1.2 * lit).clamp(0, 1), [oklch(0.7, 0.07, 258), oklch(0.88, 0.03, 255), oklch(0.99, 0.015, 80)])
    cover = smooth(-0.05, 0.05, y - (top - 0.42) + 0.1 * crag - 0.015 * relief)
    haze = smooth(0.1, -0.7, y)
    mass = over(over(rock, snow, cover), oklch(0.8, 0.05, 250), 0.55 * haze)
    picture = over(picture, mass, inside(y - height))
    for level, lightness, teeth in ((-0.38, 0.5, 0.02), (-0.62, 0.34, 0.03)):
        hill = level + 0.1 * noise(x * 1.0, zero, draws.place(), 3)
        trees = hill + teeth * (1.2 * noise(x * 22, zero, draws.place(), 5, gain=0.7)).abs()
        wood = (
            oklch(lightness, 0.06, 190)
            * (1 + 0.10 * noise(x * 14, y * 7, draws.place(), 5, gain=0.7))
            * (1 - 0.35 * smooth(0.0, -0.4, y - hill))
        )
        picture = over(picture, wood, inside(y - trees))
    return picture


SCENES: dict[str, Callable[[Canvas, Draws], Tensor]] = {
    "planet": planet,
    "flower": flower,
    "shell": shell,
    "leaf": leaf,
    "gem": gem,
    "mountain": mountain,
}
