"""What stories are about: things, how somebody comes by them, what may happen to them, and what holds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What a story is about.

    Attributes:
        things: in the plural.
        kinds: adjectives that tell two sorts apart.
        verb: how somebody comes by them, "picked": {a} picked 12 apples.
        places: where.
        gains, losses: what may happen; {n} is the number, {a} who, {b} another.
        holder: what they are put into, and its plural.
        pays: what one of them brings, or "" where nothing does; {v} is the number.
        owned: whether one can buy them, hand them over and put them together with another's.
    """

    things: str
    kinds: tuple[str, str, str]
    verb: str
    places: tuple[str, str, str]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    holder: tuple[str, str]
    pays: str = ""
    owned: bool = True


WORLDS = (
    World(
        "apples",
        ("red", "green", "yellow"),
        "picked",
        ("from the first tree", "in the orchard", "behind the house"),
        ("{a} picked {n} more", "{b} gave {a} another {n}"),
        ("{n} of them were rotten", "{a} ate {n} of them", "{a} used {n} for a cake"),
        ("basket", "baskets"),
        "{a} sells each of them for ${v}",
    ),
    World(
        "photos",
        ("black and white", "colour", "blurred"),
        "took",
        ("at the lake", "in the old town", "on the ferry"),
        ("{a} took {n} more", "{b} sent {a} {n} others"),
        ("{a} deleted {n} of them", "{n} of them turned out too dark"),
        ("album", "albums"),
        owned=False,
    ),
    World(
        "cookies",
        ("oatmeal", "chocolate", "ginger"),
        "baked",
        ("in the morning", "after lunch", "at night"),
        ("{a} baked another {n}", "{b} brought {n} more"),
        ("{n} got burnt", "{b} ate {n} of them", "{a} took {n} to school"),
        ("tin", "tins"),
        "{a} gets ${v} for each of them",
    ),
    World(
        "seedlings",
        ("tomato", "bean", "pepper"),
        "planted",
        ("by the fence", "on the balcony", "in the front yard"),
        ("{a} planted {n} more",),
        ("{n} of them dried out", "snails ate {n} of them", "{a} gave {n} to {b}"),
        ("row", "rows"),
        owned=False,
    ),
    World(
        "songs",
        ("slow", "loud", "old"),
        "saved",
        ("on the phone", "on the tablet", "on the laptop"),
        ("{a} added {n} new ones",),
        ("{a} removed {n} of them", "{n} of them would not play"),
        ("playlist", "playlists"),
        owned=False,
    ),
    World(
        "tickets",
        ("blue", "paper", "golden"),
        "won",
        ("at the ring toss", "at the duck pond", "at the shooting stand"),
        ("{a} won {n} more", "{b} handed {a} {n} extra"),
        ("{a} spent {n} on a ride", "{a} lost {n} on the way", "{a} traded {n} for a toy"),
        ("envelope", "envelopes"),
    ),
    World(
        "chairs",
        ("wooden", "plastic", "folding"),
        "set up",
        ("in the hall", "on the lawn", "in the gym"),
        ("helpers brought {n} more",),
        ("{n} of them were broken", "{a} took {n} away"),
        ("row", "rows"),
        owned=False,
    ),
    World(
        "fish",
        ("striped", "small", "silver"),
        "caught",
        ("at the bridge", "in the bay", "off the pier"),
        ("{b} caught {n} and gave them to {a}",),
        ("{a} threw {n} back", "a cat stole {n} of them"),
        ("bucket", "buckets"),
        "{a} sells each for ${v}",
    ),
    World(
        "bracelets",
        ("beaded", "woven", "silver"),
        "made",
        ("on Friday", "on Saturday", "on Sunday"),
        ("{a} made {n} more", "{b} made another {n} for {a}"),
        ("{a} gave {n} away", "{n} of them came apart"),
        ("box", "boxes"),
        "each brings {a} ${v}",
    ),
    World(
        "bottles",
        ("glass", "plastic", "brown"),
        "collected",
        ("at the beach", "in the park", "along the road"),
        ("{a} found {n} more",),
        ("{n} of them cracked", "{a} could not return {n} of them"),
        ("crate", "crates"),
        "the shop pays ${v} for each",
    ),
    World(
        "shirts",
        ("short-sleeved", "long-sleeved", "white"),
        "washed",
        ("in the first load", "at home", "at the laundry"),
        ("{b} put in {n} more",),
        ("{n} of them had stains left", "{a} handed {n} down to {b}"),
        ("drawer", "drawers"),
    ),
    World(
        "cupcakes",
        ("lemon", "vanilla", "banana"),
        "iced",
        ("for the class", "for the fair", "for a birthday"),
        ("{a} iced {n} more", "{b} brought {n}"),
        ("{n} fell on the floor", "guests ate {n} of them"),
        ("plate", "plates"),
        "{a} charges ${v} for each",
    ),
    World(
        "tools",
        ("old", "electric", "garden"),
        "bought",
        ("at a yard sale", "online", "in the shop"),
        ("{b} lent {a} {n} more",),
        ("{a} threw {n} of them away", "{a} sold {n} of them"),
        ("shelf", "shelves"),
    ),
    World(
        "invitations",
        ("green", "folded", "printed"),
        "wrote",
        ("on Monday", "on Tuesday", "on Wednesday"),
        ("{a} wrote {n} more",),
        ("{a} spoiled {n} of them", "{a} threw {n} away"),
        ("pack", "packs"),
    ),
    World(
        "eggs",
        ("brown", "white", "large"),
        "gathered",
        ("in the barn", "in the coop", "under the hedge"),
        ("the hens laid {n} more",),
        ("{n} of them broke", "{a} fried {n} of them"),
        ("carton", "cartons"),
        "{a} asks ${v} for an egg",
    ),
    World(
        "messages",
        ("short", "long", "funny"),
        "got",
        ("at noon", "in the evening", "from the club"),
        ("{n} more came in",),
        ("{a} answered {n} of them", "{a} erased {n} of them"),
        ("folder", "folders"),
        owned=False,
    ),
    World(
        "shells",
        ("round", "pink", "spiral"),
        "found",
        ("near the rocks", "on the sand", "under the pier"),
        ("{a} dug up {n} more", "{b} gave {a} {n}"),
        ("{n} of them were chipped", "{a} gave {n} to {b}"),
        ("jar", "jars"),
        "{a} sells every one for ${v}",
    ),
    World(
        "toys",
        ("wooden", "soft", "tin"),
        "unpacked",
        ("in the attic", "at the shop", "for the fair"),
        ("{b} donated {n}",),
        ("{n} of them were sold", "{a} gave {n} to a nursery"),
        ("bin", "bins"),
        "each costs ${v}",
    ),
    World(
        "balloons",
        ("round", "long", "silver"),
        "blew up",
        ("for the party", "in the kitchen", "with a pump"),
        ("{b} blew up {n} more",),
        ("{n} of them popped", "{n} of them flew away"),
        ("bunch", "bunches"),
    ),
    World(
        "books",
        ("thin", "used", "picture"),
        "shelved",
        ("in the hallway", "on the first floor", "upstairs"),
        ("{n} more were returned",),
        ("{n} of them were borrowed", "{a} lent {n} to {b}"),
        ("shelf", "shelves"),
        "{a} sells a book for ${v}",
    ),
    World(
        "pencils",
        ("red", "short", "soft"),
        "sharpened",
        ("before class", "at the desk", "for the twins"),
        ("{a} sharpened {n} more", "{b} gave {a} another {n}"),
        ("{n} of them broke", "{a} lent {n} to {b}", "{a} lost {n} of them"),
        ("cup", "cups"),
    ),
    World(
        "mugs",
        ("blue", "striped", "tall"),
        "painted",
        ("on Thursday", "in the workshop", "for the market"),
        ("{a} painted {n} more", "{b} painted {n} for {a}"),
        ("{n} of them cracked in the oven", "{a} kept {n} for the family"),
        ("carton", "cartons"),
        "{a} sells a mug for ${v}",
    ),
    World(
        "stickers",
        ("shiny", "round", "animal"),
        "collected",
        ("at school", "in the holidays", "from cereal boxes"),
        ("{a} bought {n} more", "{b} gave {a} {n}"),
        ("{a} gave {n} to {b}", "{n} of them tore", "{a} used {n} on a letter"),
        ("sheet", "sheets"),
    ),
    World(
        "tulips",
        ("red", "white", "orange"),
        "cut",
        ("by the gate", "along the wall", "behind the shed"),
        ("{a} cut {n} more",),
        ("{n} of them wilted", "{a} gave {n} to {b}"),
        ("vase", "vases"),
        "{a} sells each for ${v}",
    ),
)
