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
    inside,
    line,
    lines,
    lit,
    noise,
    oklch,
    over,
    ramp,
    shadow,
    slope,
    smooth,
    stripes,
)

TAU = 2 * math.pi


def planet(canvas: Canvas, draws: Draws) -> Tensor:
    """A banded planet in a dark sky, mostly with a ring."""
    x, y = canvas.x, canvas.y
    hue, dusk = draws.pick((25, 45, 350, 195, 225)), draws.between(255, 300)
    sky = ramp(0.5 + 0.35 * (x * 0.6 - y), [oklch(0.13, 0.04, dusk), oklch(0.24, 0.09, dusk + 20)])
    cloud = smooth(-0.6, 2.4, noise(x * 0.9, y * 0.9, draws.place(), 4))
    sky = sky + oklch(0.5, 0.14, dusk + 40) * (0.35 * cloud)
    for waves, least, light in ((10.0, 3.0, 1.0), (20.0, 2.7, 0.8), (38.0, 2.7, 0.6)):
        star = noise(x * waves, y * waves, draws.place(), 1) - least + 0.3 * cloud
        sky = sky + light * star.clamp(0, 1) ** 2

    ringed = draws.between(0, 1) < 0.75
    radius = draws.between(0.40, 0.45) if ringed else draws.between(0.54, 0.62)
    lean, nod = draws.between(-0.4, 0.4), draws.between(0.3, 0.45)
    u, v = canvas.turned(draws.between(-0.08, 0.08), draws.between(-0.08, 0.08), lean, radius)
    reach = torch.hypot(u, v)
    depth = (1 - reach**2).clamp_min(0).sqrt()
    # The light as a unit vector along (u, v, towards us), and the axis of the planet, (0, cos nod, sin nod).
    sun = draws.between(2.0, 2.6) - lean
    light_u, light_v, light_z = 0.62 * math.cos(sun), 0.62 * math.sin(sun), 0.78
    rise = light_v * math.cos(nod) + light_z * math.sin(nod)
    north, near = v * math.cos(nod) + depth * math.sin(nod), depth * math.cos(nod) - v * math.sin(nod)
    east = torch.atan2(u, near.clamp_min(1e-3)) * (1 - north**2).clamp_min(0).sqrt()

    swirl = noise(east * 1.4, north * 3.5, draws.place(), 6)
    band = noise(east * 0.12 + 0.04 * swirl, north * 2.4 + 0.1 * swirl, draws.place(), 6, gain=0.6)
    stops = ((0.42, 0.10, -15), (0.60, 0.13, 0), (0.76, 0.11, 12), (0.92, 0.05, 25))
    body = ramp((0.5 + 0.24 * band + 0.03 * swirl).clamp(0, 1), [oklch(li, ch, hue + turn) for li, ch, turn in stops])
    day = (light_u * u + light_v * v + light_z * depth).clamp_min(0)
    air = oklch(0.85, 0.09, 230)
    body = body * (0.05 + 1.08 * day) + air * (0.5 * (1 - depth) ** 3 * day)
    halo = torch.exp(-7 * (reach - 1).clamp_min(0)) * smooth(-1, 1, (light_u * u + light_v * v) / 0.62)
    picture, disc = sky + air * (0.25 * halo), inside(reach - 1)
    if not ringed:
        return over(picture, body, disc)

    def band_of(distance: Tensor) -> Tensor:
        return smooth(1.28, 1.36, distance) * smooth(2.14, 2.08, distance)

    # From a point of the body towards the sun, to the plane of the ring: is the ring in the way?
    away = -north / rise
    crossing = torch.sqrt((1 + 2 * away * day + away**2).clamp_min(0))
    body = body * (1 - 0.6 * band_of(crossing) * (away > 0))
    # A point of the ring lies in the plane north = 0; the planet's shadow is a cylinder behind it.
    plane = -v / math.tan(nod)
    orbit = torch.sqrt(u**2 + v**2 + plane**2)
    along = light_u * u + light_v * v + light_z * plane
    night = smooth(1.08, 0.92, orbit**2 - along**2) * (along < 0)
    grooves = noise(orbit * 9, torch.zeros_like(u), draws.place(), 3)
    gap = draws.between(1.75, 1.95)
    share = (
        inside((orbit - 1.71).abs() - 0.43) * (0.86 + 0.1 * grooves).clamp(0, 1) * (1 - 0.9 * line(orbit - gap, 0.04))
    )
    dust = 1 + 0.03 * noise(u * 40, v * 80, draws.place(), 1)
    ring = oklch(0.87, 0.09, 88) * (0.9 + 0.08 * grooves) * dust * (1 - 0.88 * night)
    return over(over(over(picture, ring, share), body, disc), ring, share * disc * (v < 0))


def flower(canvas: Canvas, draws: Draws) -> Tensor:
    """A flower seen from above over a blurred meadow: two crowns of petals and a domed heart."""
    x, y = canvas.x, canvas.y
    hue, green = draws.pick((350, 5, 325, 305, 20)), draws.between(130, 150)
    blur = noise(x * 0.9, y * 0.9, draws.place(), 2)
    meadow = [oklch(0.55, 0.13, green + 8), oklch(0.82, 0.13, green - 15)]
    picture = ramp((0.5 + 0.3 * y + 0.12 * blur).clamp(0, 1), meadow)
    size, turn0 = draws.between(0.72, 0.84), draws.between(0, TAU)
    u, v = canvas.turned(draws.between(-0.1, 0.1), draws.between(-0.1, 0.1), turn0, size)
    radius, turn = torch.hypot(u, v).clamp_min(1e-4), torch.atan2(v, u) / TAU
    petals, plump, notch = draws.pick((5, 6, 8)), draws.between(1.8, 2.6), draws.between(0.02, 0.09)
    weave = noise(u * 2, v * 2, draws.place(), 5)
    fleck = noise(u * 45, v * 45, draws.place(), 2)
    for start, length, deeper in ((0.5, 1.0, 0.09), (0.0, 0.92, 0.0)):
        phase = turn * petals + start
        across = 2 * (phase - phase.round())
        tip = length * (0.34 + 0.66 * (1 - across.abs() ** plump).clamp_min(0).sqrt())
        field = radius - tip * (1 - notch * torch.exp(-((across / 0.18) ** 2)))
        along = (radius / tip).clamp(0, 1)
        stops = ((0.48, 0.20, -8), (0.66, 0.19, 0), (0.82, 0.11, 6), (0.93, 0.05, 12))
        petal = ramp(along, [oklch(li - deeper, ch + 0.4 * deeper, hue + more) for li, ch, more in stops])
        fade = along * (1 - along) * 4
        fibres = stripes(across * 7 + 0.25 * weave) + 0.6 * stripes(across * 41 + 0.8 * weave)
        light = 1 - 0.15 * across**2 + 0.06 * across + 0.04 * fade * fibres + 0.02 * weave + 0.012 * fleck
        picture = picture * (1 - 0.35 * shadow(field, 0.1))
        picture = over(picture, lit(petal, light), inside(field))
    heart = draws.between(0.2, 0.26)
    field = radius - heart
    # Florets sit where 21 spirals cross 34, turning 4.2 and 6.8 times while the radius grows e-fold.
    closer = canvas.pixel / size / radius
    seeds = stripes(turn * 21 + 4.2 * radius.log(), closer * math.hypot(21 / TAU, 4.2))
    seeds = seeds * stripes(turn * 34 - 6.8 * radius.log(), closer * math.hypot(34 / TAU, 6.8))
    dome = (1 - (radius / heart) ** 2).clamp_min(0).sqrt()
    pollen = smooth(1.0, 2.2, noise(u * 60, v * 60, draws.place(), 2))
    gold = [oklch(0.5, 0.13, 55), oklch(0.75, 0.16, 75), oklch(0.92, 0.16, 98)]
    picture = picture * (1 - 0.5 * shadow(field, 0.07))
    return over(picture, ramp((0.22 + 0.6 * dome + 0.2 * seeds).clamp(0, 1), gold) + 0.2 * pollen, inside(field))


def shell(canvas: Canvas, draws: Draws) -> Tensor:
    """A scallop lying in shallow water over which the light plays."""
    x, y = canvas.x, canvas.y
    hue, sea = draws.pick((35, 50, 65, 15)), draws.between(188, 205)
    ripple = noise(x * 1.1, y * 1.1, draws.place(), 2)
    caustic = torch.exp(-8 * noise(x * 1.2 + 0.3 * ripple, y * 1.8 + 0.3 * ripple, draws.place(), 1) ** 2)
    sand = noise(x * 50, y * 50, draws.place(), 3)
    water = [oklch(0.6, 0.1, sea + 10), oklch(0.82, 0.09, sea - 12)]
    water = ramp((0.4 + 0.35 * y + 0.1 * ripple + 0.2 * caustic).clamp(0, 1), water) * (1 + 0.012 * sand)

    size, lean = draws.between(1.1, 1.22), draws.between(-0.25, 0.25)
    u, v = canvas.turned(draws.between(-0.06, 0.06) + 0.6 * math.sin(lean), draws.between(-0.62, -0.54), lean, size)
    wide, ribs = draws.between(0.95, 1.1), draws.pick((11, 13, 15))

    def form(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distance from the hinge and place across the fan; the fields of the fan and of the ears."""
        radius, fan = torch.hypot(u, v).clamp_min(1e-4), torch.atan2(u, v) / wide
        edge = (1 - 0.2 * fan**2 - 0.08 * fan**4) * (1 + 0.018 * torch.cos(math.pi * ribs * fan))
        ear = torch.maximum((v - 0.1).abs() - 0.09 + 0.2 * u.abs(), u.abs() - 0.24 + 0.5 * (v - 0.1) ** 2)
        return radius, fan, torch.maximum(radius - edge, (fan.abs() - 1) * radius * wide), ear

    radius, fan, field, ear = form(u, v)
    phase = fan * (ribs / 2)
    weave = noise(u * 2, v * 2, draws.place(), 6)
    growth = noise(radius * 4 + 0.05 * weave, torch.zeros_like(u), draws.place(), 7, gain=0.7)
    cloth = [
        oklch(0.95, 0.03, hue + 40),
        oklch(0.84, 0.08, hue + 10),
        oklch(0.91, 0.05, hue + 25),
        oklch(0.7, 0.13, hue),
    ]
    cloth = ramp((radius * 0.9 + 0.15 * growth + 0.02 * weave - 0.02).clamp(0, 1), cloth)
    light = 0.94 + 0.13 * stripes(phase) - 0.10 * torch.sin(fan * 1.4) - 0.12 * fan**2 + 0.05 * smooth(0.5, 1.0, radius)
    scales = stripes(radius * 58 + 0.5 * weave + 0.15 * torch.cos(TAU * phase))
    light = light + radius * (0.04 * scales + 0.02 * weave) + 0.012 * sand
    _, _, cast, cast_ear = form(u - 0.035, v + 0.05)
    picture = water * (1 - 0.5 * smooth(0.1, -0.08, torch.minimum(cast, cast_ear)))
    ear_light = 0.9 + 0.07 * stripes(fan * 7) + 0.05 * stripes(v * 45 + 0.4 * weave) - 0.3 * u
    picture = over(picture, lit(oklch(0.84, 0.07, hue + 15), ear_light), inside(ear))
    picture = picture * (1 - 0.3 * smooth(0.05, -0.02, field))
    return over(picture, lit(cloth, light), inside(field))


def leaf(canvas: Canvas, draws: Draws) -> Tensor:
    """A leaf on paper, its veins in the light."""
    x, y = canvas.x, canvas.y
    hue, young = draws.pick(((138, -22), (125, -22), (95, 14), (55, 22), (32, 22)))
    warm = draws.between(75, 95)
    fibre = noise(x * 24, y * 40, draws.place(), 4)
    paper = [oklch(0.88, 0.035, warm), oklch(0.965, 0.02, warm)]
    paper = ramp((0.5 + 0.25 * (y - x)).clamp(0, 1), paper) * (1 + 0.006 * fibre)
    size, lean = draws.between(0.8, 0.88), draws.between(0.5, 1.3)
    cx, cy, bend = draws.between(-0.02, 0.1), draws.between(-0.02, 0.1), draws.between(-0.16, 0.16)
    count, broad = draws.pick((8, 9, 10, 11)), draws.between(0.46, 0.58)

    def form(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distance across the midrib, place along it in [0, 1], half width there, and the field of the outline."""
        v, along = v + bend * (1 - u * u), ((u + 1) / 2).clamp(0, 1)
        half = broad * torch.sin(math.pi * along**0.72).clamp_min(0) ** 0.9
        return v, along, half, v.abs() - half + 2 * (u.abs() - 1).clamp_min(0)

    u, v = canvas.turned(cx, cy, lean, size)
    v, along, half, outline = form(u, v)
    side = v.abs()
    rise = count * (along - 0.36 * side - 0.2 * side**2)
    tooth = rise * 3 - (rise * 3).floor()
    field = outline + 0.04 * half * (1 - tooth)
    weave = noise(u * 2, v * 2, draws.place(), 6)
    patch = (0.45 - 0.45 * side / broad + 0.09 * weave + 0.25 * (1 - along)).clamp(0, 1)
    blade = ramp(patch, [oklch(0.76, 0.15, hue + young), oklch(0.62, 0.15, hue), oklch(0.47, 0.11, hue - young / 3)])
    cells = noise(u * 30, v * 30, draws.place(), 3, gain=0.7)
    taper = (1 - side / (half + 0.05)).clamp(0, 1)
    veins = lines(rise + 0.02 * weave, 0.02 + 0.04 * taper)
    nets = lines(side * 22 + 3 * rise + 0.3 * weave, 0.08)
    pillow = stripes(rise + 0.5 + 0.02 * weave)
    light = 1.0 - 0.06 * pillow + 0.11 * torch.tanh(v * 10) + 0.035 * cells
    pale = oklch(0.87, 0.09, hue + young)
    blade = lit(blade, light)
    blade = over(blade, pale, (0.6 * veins + 0.2 * nets * (1 - veins)).clamp(0, 1))
    blade = over(blade, pale, 0.9 * line(v, 0.015 * (1.35 - along)))
    stalk = line(v + 0.06 * (u + 1) ** 2, 0.016) * inside((u + 1.1).abs() - 0.12)
    cast = form(*canvas.turned(cx + 0.03, cy - 0.04, lean, size))[-1]
    picture = paper * (1 - 0.42 * smooth(0.1, -0.08, cast))
    picture = over(picture, oklch(0.55, 0.1, hue + young), stalk)
    return over(picture, blade, inside(field))


def gem(canvas: Canvas, draws: Draws) -> Tensor:
    """A cut stone: a convex polyhedron whose far facets are seen, refracted, through the near ones."""
    x, y = canvas.x, canvas.y
    hue, ground = draws.pick((20, 60, 150, 190, 255)), draws.between(320, 340)
    glow = torch.exp(-1.6 * (x * x + y * y))
    picture = ramp((0.75 * glow + 0.2 + 0.1 * y).clamp(0, 1), [oklch(0.45, 0.1, ground), oklch(0.87, 0.06, ground)])
    picture = over(picture, oklch(0.3, 0.1, ground), 0.5 * torch.exp(-((x / 0.5) ** 2) - ((y + 0.78) / 0.12) ** 2))
    turn, nod = draws.between(0, TAU / 8), draws.between(0.16, 0.34)
    size, lean = draws.between(0.62, 0.7), draws.between(-0.15, 0.15)
    u, v = canvas.turned(draws.between(-0.06, 0.06), draws.between(-0.02, 0.1), lean, size)
    near, far = [], []
    for start, slant, distance in CUT:
        for k in range(8 if slant < 1.5 else 1):
            angle = turn + (k + start) * TAU / 8
            nx, up, nz = math.cos(angle) * math.cos(slant), math.sin(slant), math.sin(angle) * math.cos(slant)
            ny, nz = up * math.cos(nod) - nz * math.sin(nod), up * math.sin(nod) + nz * math.cos(nod)
            (near if nz > 0 else far).append((nx, ny, nz, distance, draws.between(-1, 1)))
    pixel = canvas.pixel / size
    front, gap, normal, own = _envelope(u, v, near, 1.0, pixel)
    back, *_ = _envelope(u, v, far, -1.0, pixel)
    nx, ny, nz = normal
    fire = torch.zeros_like(u)
    for zoom, bend, share in ((0.9, 0.5, 0.6), (2.4, 1.6, 0.4)):
        # Seen after some reflections between the walls, the far side is smaller and folded over.
        deep_u, deep_v = (((zoom * at - bend * n + 1) % 4 - 2).abs() - 1 for at, n in ((u, nx), (v, ny)))
        _, _, (far_x, far_y, _), spark = _envelope(deep_u, deep_v, far, -1.0, pixel * zoom)
        fire = fire + share * (spark + 0.9 * (far_x * deep_u + far_y * deep_v))
    gloss = 0.55 * ny - 0.45 * nx + 0.3 * nz
    polish = stripes((u * ny - v * nx) * 55)
    tone = 0.4 + 0.3 * gloss + 0.26 * fire + 0.08 * own + 0.12 * v + 0.012 * polish
    stops = ((0.24, 0.12), (0.46, 0.19), (0.68, 0.16), (0.96, 0.04))
    stone = ramp(tone.clamp(0, 1), [oklch(li, ch, hue) for li, ch in stops])
    stone = stone + 0.22 * inside(gap - 0.004, pixel) * inside(back - front + 0.04)
    thick = (back - front) * 0.5  # negative inside, as every field
    # Towards the outline light passes through the wedge and is lost: a dark rim that even a small picture shows.
    picture = over(picture, lit(stone, 0.5 + 0.5 * smooth(0.0, -0.14, thick)), inside(thick))
    for _ in range(3):
        across, up = (u - draws.between(-0.7, 0.7)).abs().sqrt(), (v - draws.between(0.0, 0.5)).abs().sqrt()
        picture = picture + draws.between(0.3, 0.8) * torch.exp(-14 * (across + up) ** 2)
    return picture


# The table of a brilliant, then its rings of eight facets: (turn in eighths, slant of the normal, distance).
CUT = (
    (0, math.pi / 2, 0.38),
    (0, 0.72, 0.84),
    (0.5, 1.05, 0.69),
    (0.5, 0.58, 0.863),
    (0, -0.9, 0.695),
    (0.5, -0.75, 0.755),
)


def _envelope(
    u: Tensor, v: Tensor, facets: list[tuple[float, ...]], sign: float, pixel: float
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """The least of sign·(facet planes) at (u, v): its depth, how far its edge is, its unit normal and its own tone."""
    first, gap, own = torch.full_like(u, 9.0), torch.full_like(u, 9.0), torch.zeros_like(u)
    slope_u, slope_v = torch.zeros_like(u), torch.zeros_like(u)
    for nx, ny, nz, distance, tone in facets:
        to_u, to_v = -sign * nx / nz, -sign * ny / nz
        depth = to_u * u + to_v * v + sign * distance / nz
        # Signed distance to the line where the two planes meet.
        ahead = (first - depth) / torch.hypot(slope_u - to_u, slope_v - to_v).clamp_min_(0.05)
        wins = inside(-ahead, pixel)
        gap = torch.minimum(ahead.abs(), gap + 1e3 * ahead.clamp_min(0))  # a new winner forgets the old one's edges
        first = torch.minimum(first, depth)
        slope_u = slope_u + (to_u - slope_u) * wins
        slope_v = slope_v + (to_v - slope_v) * wins
        own = own + (tone - own) * wins
    length = torch.sqrt(slope_u**2 + slope_v**2 + 1)
    return first * sign, gap, (-slope_u / length, -slope_v / length, sign / length), own


def mountain(canvas: Canvas, draws: Draws) -> Tensor:
    """A snowy peak under a morning sky, ridges of forest before it."""
    x, y = canvas.x, canvas.y
    row, zero = x[:1], torch.zeros_like(x[:1])
    dawn = draws.between(35, 75)
    sky = [oklch(0.92, 0.07, dawn + 10), oklch(0.87, 0.06, dawn - 15), oklch(0.74, 0.09, 245), oklch(0.56, 0.13, 255)]
    sky = ramp((0.42 + 0.5 * y).clamp(0, 1), sky)
    wisp = smooth(0.3, 2.6, noise(x * 0.8, y * 3, draws.place(), 5))
    picture = over(sky, oklch(0.98, 0.02, dawn), 0.7 * wisp)
    away = noise(row * 1.1, zero, draws.place(), 9) * 0.1 - 0.12
    picture = over(picture, oklch(0.76, 0.07, 252), inside(y - away))

    peak, top, steep = draws.between(-0.22, 0.22), draws.between(0.52, 0.72), draws.between(0.95, 1.25)
    off, down = x - peak, top - y
    outline = noise(row * 1.8, zero, draws.place(), 9)
    height = top - steep * (row - peak).abs() + 0.06 * outline * smooth(0.0, 0.3, (row - peak).abs())
    # Gullies fall away from the summit: noise in the angle about it, stretched downhill.
    crag = noise(off / (down + 0.5) * 3, down * 1.1, draws.place(), 6)
    relief = slope(crag, 2.4)
    crest = off - 0.07 * noise(y[:, :1] * 2.2, torch.zeros_like(y[:, :1]), draws.place(), 6) - 0.12 * down
    light = 0.5 - 0.34 * torch.tanh((crest + 0.05 * crag) * 9) + 0.012 * relief
    rock = ramp(light.clamp(0, 1), [oklch(0.34, 0.06, 275), oklch(0.5, 0.05, 290), oklch(0.72, 0.06, dawn)])
    snow = ramp(light.clamp(0, 1), [oklch(0.62, 0.09, 260), oklch(0.86, 0.04, 255), oklch(0.99, 0.02, dawn + 20)])
    cover = smooth(0.46, 0.32, down + (0.16 * crag + 0.004 * relief) * smooth(-0.05, 0.3, down))
    mass = over(over(rock, snow, cover), oklch(0.8, 0.05, 250), 0.6 * smooth(0.1, -0.6, y))
    picture = over(picture, mass, inside(y - height))
    for level, lightness, teeth in ((-0.36, 0.52, 0.02), (-0.52, 0.41, 0.03), (-0.70, 0.28, 0.045)):
        hill = level + 0.08 * noise(row, zero, draws.place(), 3)
        trees = hill + teeth * noise(row * 20, zero, draws.place(), 4).abs()
        mist = smooth(0.0, -0.4, y - hill)
        grain = noise(x * 22, y * 8, draws.place(), 3, gain=0.7)
        wood = oklch(lightness, 0.06, 165) * (1 + 0.06 * grain)
        picture = over(picture, over(wood, oklch(lightness + 0.16, 0.05, 200), 0.6 * mist), inside(y - trees))
    return picture


SCENES: dict[str, Callable[[Canvas, Draws], Tensor]] = {
    "planet": planet,
    "flower": flower,
    "shell": shell,
    "leaf": leaf,
    "gem": gem,
    "mountain": mountain,
}
