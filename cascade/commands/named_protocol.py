"""`protocol=` of the commands that evaluate: what it says of the settings, before anything is computed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from cascade.commands.evaluated_sides import Pictures
    from cascade.protocol import Protocol


def protocol_of(plain: Mapping[str, Any]) -> "Protocol":
    """The protocol that is asked for."""
    from cascade.registry import build

    return build("protocol", plain["protocol"])


def under_protocol(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what the protocol decides filled in.

    Raises CascadeError where they contradict it, or ask for ranges of seeds where there are none.
    """
    protocol = protocol_of(plain)
    ranges = plain["seed_ranges"]
    if ranges < 1:
        raise CascadeError(f"seed_ranges={ranges} must be at least 1")
    if ranges > 1 and plain["cascade"] is None:
        raise CascadeError(f"seed_ranges={ranges} asks a cascade for pictures of other seeds, and images= are there")
    if ranges > 1 and list(plain["metrics"]) != ["distances"]:
        raise CascadeError(f"seed_ranges={ranges} is for metrics=[distances] alone")
    features = {**plain["features"], "resize": protocol.check_rule(plain["features"].get("resize"))}
    number = protocol.num_images if plain["num_images"] is None else plain["num_images"]
    many = ranges > 1 and plain["num_reference"] is None and not protocol.whole_reference
    compared = number if many else plain["num_reference"]
    return {**plain, "features": features, "num_images": number * ranges, "num_reference": compared}


def ranges_of(pictures: "Pictures", ranges: int) -> "list[Pictures]":
    """The pictures of each range of seeds, in parts of one length."""
    count = pictures.count // ranges
    return [pictures] if ranges == 1 else [_part(pictures, count * number, count) for number in range(ranges)]


def _part(pictures: "Pictures", first: int, count: int) -> "Pictures":
    here = lambda places: range(first + places.start, first + places.stop)  # noqa: E731
    return replace(
        pictures,
        read=lambda places: pictures.read(here(places)),
        there=lambda places: pictures.there(here(places)),
        count=count,
        identity={**pictures.identity, "first_seed": pictures.identity["first_seed"] + first},
        classes=pictures.classes[first : first + count],
    )
