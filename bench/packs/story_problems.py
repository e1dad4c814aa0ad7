"""Stories of two to four steps: how a quantity begins, what happens to it, what is asked of it, each in the words of one of many worlds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from marks import UnfitError, decimal
from problem_parts import Solution, amount, people, whole
from story_worlds import WORLDS, World

Told = tuple[str, Fraction]


MORE = "Add what comes in to what there is."
LESS = "Subtract what goes away from what there is."
PARTS = "Add the parts to find the total."
GROUPS = "Multiply the number of groups by the size of each group."
SIZE = "Divide the total by the number of groups to find the size of each group."
COUNT = "Divide the total by the size of a group to find the number of groups."
PRICE = "Multiply the number of items by what one item brings."


@dataclass(frozen=True)
class _Story:
    """The draw, the world, and who is in it."""

    draw: random.Random
    solution: Solution
    world: World
    a: str
    b: str

    @classmethod
    def begun(cls, draw: random.Random, solution: Solution, *, owned: bool = False) -> _Story:
        a, b, _ = people(draw)
        return cls(draw, solution, draw.choice([world for world in WORLDS if world.owned or not owned]), a, b)

    def pick(self, texts: Sequence[str], **values: object) -> str:
        return self.draw.choice(texts).format(a=self.a, b=self.b, w=self.world.things, verb=self.world.verb, **values)

    def then(self, before: str, happenings: Sequence[str], n: int) -> str:
        """What was told, and something that happened, in a sentence of its own."""
        happening = self.draw.choice(happenings)
        text = happening.format(a=self.a, b=self.b, n=n)
        begins_with_a_name = happening.startswith(("{a}", "{b}"))
        later = text if begins_with_a_name else text[0].lower() + text[1:]
        return f"{before}. {self.draw.choice((text[0].upper() + text[1:], f'Then {later}'))}"

    def place(self) -> str:
        return self.pick(self.world.places)


def _counted(s: _Story) -> Told:
    x = amount(s.draw)
    return s.pick(("{a} had {x} {w}", "{a} {verb} {x} {w}", "{a} {verb} {x} {w} {p}"), x=x, p=s.place()), Fraction(x)


def _two_places(s: _Story) -> Told:
    x, y = amount(s.draw), amount(s.draw)
    p, q = (place.format(a=s.a, b=s.b) for place in s.draw.sample(s.world.places, 2))
    text = s.pick(
        (
            "{a} {verb} {x} {w} {p} and {y} {q}",
            "{a} {verb} {x} {w} {p} and {y} more {q}",
            "{p1}, {a} {verb} {x} {w}, and {q} another {y}",
        ),
        **{"x": x, "y": y, "p": p, "q": q, "p1": p[0].upper() + p[1:]},
    )
    return text, s.solution.step(f"In all there were {{}} {s.world.things}.", x, "+", y, PARTS)


def _two_kinds(s: _Story) -> Told:
    x, y, (k, j) = amount(s.draw), amount(s.draw), s.draw.sample(s.world.kinds, 2)
    text = s.pick(
        (
            "{a} {verb} {x} {k} {w} and {y} {j} {w}",
            "{a} had {x} {k} {w} and {y} {j} ones",
            "There were {x} {k} and {y} {j} {w}",
        ),
        **{"x": x, "y": y, "k": k, "j": j},
    )
    return text, s.solution.step(f"Together there were {{}} {s.world.things}.", x, "+", y, PARTS)


def _two_people(s: _Story) -> Told:
    if not s.world.owned:
        raise UnfitError
    x, y = amount(s.draw), amount(s.draw)
    text = s.pick(
        (
            "{a} {verb} {x} {w} and {b} {verb} {y}. They put them together",
            "{a} and {b} combined their {w}: {a} had {x} and {b} had {y}",
        ),
        x=x,
        y=y,
    )
    return text, s.solution.step(f"Together they had {{}} {s.world.things}.", x, "+", y, PARTS)


def _in_groups(s: _Story) -> Told:
    n, m, (one, many) = s.draw.randint(2, 12), s.draw.randint(2, 15), s.world.holder
    text = s.pick(
        (
            "{a} had {n} {many} with {m} {w} each",
            "{a} had {n} {many} of {w}, with {m} in each {one}",
            "There were {n} {many}. Each {one} had {m} {w} in it",
        ),
        **{"n": n, "m": m, "one": one, "many": many},
    )
    return text, s.solution.step(f"The {many} had {{}} {s.world.things}.", n, "*", m, GROUPS)


def _gained(s: _Story, text: str, total: Fraction) -> Told:
    n = amount(s.draw)
    return s.then(text, s.world.gains, n), s.solution.step(
        f"Then there were {{}} {s.world.things}.", total, "+", n, MORE
    )


def _lost(s: _Story, text: str, total: Fraction) -> Told:
    if total < 5:
        raise UnfitError
    n = s.draw.randint(2, int(total) - 2)
    return s.then(text, s.world.losses, n), s.solution.step(
        f"After that {{}} {s.world.things} were left.", total, "-", n, LESS
    )


def _ask_count(s: _Story, text: str, total: Fraction) -> Told:
    ask = s.pick(
        (
            "How many {w} are there now?",
            "How many {w} does that make?",
            "How many {w} is that in the end?",
            "What is the number of {w} now?",
        )
    )
    return f"{text}. {ask}", total


def _ask_left(s: _Story, text: str, total: Fraction) -> Told:
    told, left = _lost(s, text, total)
    ask = s.pick(("How many {w} are left?", "How many {w} remain?", "How many {w} were still there?"))
    return f"{told}. {ask}", left


def _divisor(s: _Story, total: Fraction) -> int:
    fitting = [n for n in range(2, 13) if total % n == 0 and total // n > 1]
    if not fitting:
        raise UnfitError
    return s.draw.choice(fitting)


def _ask_groups(s: _Story, text: str, total: Fraction) -> Told:
    asks = (
        "All {w} are put into {many} with {n} in each {one}. How many {many} are there?",
        "If {n} {w} go into a {one}, how many {many} are needed?",
        "How many {many} of {n} does that make?",
    )
    return _divided(s, text, total, asks, "That makes {{}} {many}.", COUNT)


def _ask_size(s: _Story, text: str, total: Fraction) -> Told:
    asks = (
        "They were split into {n} equal {many}. How many {w} are in each {one}?",
        "If all are put into {n} {many} evenly, how many {w} does each {one} get?",
        "With the same number in each of {n} {many}, how many {w} are in one {one}?",
    )
    return _divided(s, text, total, asks, "Each {one} has {{}} {w}.", SIZE)


def _divided(s: _Story, text: str, total: Fraction, asks: Sequence[str], step: str, rule: str) -> Told:
    one, many = s.world.holder
    values = {"n": _divisor(s, total), "one": one, "many": many}
    ask = s.pick(asks, **values)
    return f"{text}. {ask}", s.solution.step(s.pick((step,), **values), total, "/", values["n"], rule)


def _ask_money(s: _Story, text: str, total: Fraction) -> Told:
    if not s.world.pays:
        raise UnfitError
    v = s.draw.randint(2, 12)
    said = s.pick((s.world.pays,), v=v)
    ask = s.pick(("How much money is that?", "How much money does {a} get in all?", "What do they bring altogether?"))
    text = f"{text}. {said[0].upper()}{said[1:]}. {ask}"
    return text, s.solution.step("They bring ${}.", total, "*", v, PRICE)


BEGINNINGS = (_counted, _two_places, _two_kinds, _two_people, _in_groups)
QUESTIONS = (_ask_left, _ask_groups, _ask_size, _ask_money)


def _story(draw: random.Random, solution: Solution) -> Told:
    """A beginning, perhaps something that happens, and a question."""
    s = _Story.begun(draw, solution)
    beginning = draw.choice(BEGINNINGS)
    text, total = beginning(s)
    happens = draw.random()
    if beginning is _counted or happens < 0.25:
        text, total = draw.choice((_gained, _lost))(s, text, total)
        if draw.random() < 0.3:
            return _ask_count(s, text, whole(total))
    return draw.choice(QUESTIONS)(s, text, whole(total))


def _some_groups_gone(draw: random.Random, solution: Solution) -> Told:
    """n groups of m, of which some are gone."""
    s = _Story.begun(draw, solution, owned=True)
    n, m, (one, many) = draw.randint(4, 14), draw.randint(2, 12), s.world.holder
    k = draw.randint(2, n - 2)
    left = solution.step(f"{{}} {many} are left.", n, "-", k, "Subtract to find how many groups are left.")
    total = solution.step(f"They have {{}} {s.world.things}.", left, "*", m, GROUPS)
    text = s.pick(
        (
            "{a} had {n} {many} with {m} {w} in each, but {k} {many} went missing. How many {w} are left?",
            "A {one} holds {m} {w}. {a} had {n} {many} and gave {k} of them to {b}. How many {w} does {a} still have?",
        ),
        **{"n": n, "m": m, "k": k, "one": one, "many": many},
    )
    return text, total


def _two_products(draw: random.Random, solution: Solution) -> Told:
    """n groups of one size and k of another."""
    s = _Story.begun(draw, solution, owned=True)
    _one, many = s.world.holder
    n, m, k, j = (draw.randint(2, 11) for _ in range(4))
    x, y = draw.sample(s.world.kinds, 2)
    first = solution.step(f"There are {{}} {x} {s.world.things}.", n, "*", m, GROUPS)
    second = solution.step(f"There are {{}} {y} {s.world.things}.", k, "*", j, GROUPS)
    text = s.pick(
        ("{a} has {n} {many} of {m} {x} {w} and {k} {many} of {j} {y} {w}.",),
        **{"n": n, "m": m, "k": k, "j": j, "x": x, "y": y, "many": many},
    )
    if draw.random() < 0.6:
        end = solution.step(f"Altogether there are {{}} {s.world.things}.", first, "+", second, PARTS)
        return f"{text} How many {s.world.things} does {s.a} have?", end
    more = "Subtract the smaller quantity from the larger one to find the difference."
    end = whole(solution.step(f"There are {{}} more {x} ones.", first, "-", second, more))
    return f"{text} How many more {x} than {y} {s.world.things} are there?", end


def _still_needed(draw: random.Random, solution: Solution) -> Told:
    """A goal, what there is, and how many rounds the rest takes."""
    s = _Story.begun(draw, solution, owned=True)
    have, size, rounds = amount(draw), draw.randint(2, 12), draw.randint(2, 12)
    goal, (one, many) = have + size * rounds, s.world.holder
    missing = solution.step(f"{{}} {s.world.things} are missing.", goal, "-", have, "Subtract what there is already.")
    if draw.random() < 0.5:
        text = s.pick(
            (
                "{a} needs {goal} {w} and has {have}. The rest comes in {many} of {size}. How many {many} must {a} get?",
                "{a} wants {goal} {w}. {a} has {have} already and gets {size} more a day. How many days does it take?",
            ),
            **{"goal": goal, "have": have, "size": size, "many": many},
        )
        return text, solution.step("That takes {}.", missing, "/", size, COUNT)
    text = s.pick(
        (
            "{a} had {have} {w}. After getting {rounds} {many} of {w} there were {goal}. How many {w} were in each {one}?",
            "{a} wants {goal} {w}, has {have}, and asks {rounds} friends for the rest. How many {w} must each friend give?",
        ),
        **{"goal": goal, "have": have, "rounds": rounds, "one": one, "many": many},
    )
    return text, solution.step("Each gives {}.", missing, "/", rounds, SIZE)


def _money_left(draw: random.Random, solution: Solution) -> Told:
    """Money that buys some of one thing, in the three ways to ask of it."""
    s = _Story.begun(draw, solution, owned=True)
    n, price, rest, w = draw.randint(2, 12), draw.randint(2, 20), amount(draw), s.world.things
    money = n * price + rest
    way = draw.randrange(3)
    if way == 0:
        cost = solution.step(f"The {w} cost ${{}}.", n, "*", price, "Multiply the number bought by the price of one.")
        end = solution.step("Of the money ${} are left.", money, "-", cost, "Subtract the cost from the money.")
        return f"{s.a} had ${money} and bought {n} {w} for ${price} each. How much money did {s.a} have left?", end
    spent = solution.step(f"The {w} cost ${{}}.", money, "-", rest, "Subtract what is left to find what was spent.")
    if way == 1:
        end = solution.step("One costs ${}.", spent, "/", n, "Divide the cost by the number bought.")
        return (
            f"{s.a} had ${money}. After buying {n} {w} that cost the same, ${rest} were left. How much was each?",
            end,
        )
    end = solution.step(f"{s.a} bought {{}} {w}.", spent, "/", price, "Divide the cost by the price of one.")
    return f"{s.a} spent some of ${money} on {w} at ${price} each and has ${rest} left. How many did {s.a} buy?", end


def _two_shares(draw: random.Random, solution: Solution) -> Told:
    """Who has more or fewer, and both together."""
    s = _Story.begun(draw, solution, owned=True)
    x, y, w = amount(draw), amount(draw), s.world.things
    if draw.random() < 0.5:
        other = solution.step(f"{s.b} has {{}} {w}.", x, "+", y, "Add the difference where there is more.")
        text = f"{s.a} has {x} {w}, {y} fewer than {s.b}."
        text = draw.choice((text, f"{s.a} has {x} {w}. {s.b} has {y} more than {s.a}."))
    else:
        other = whole(solution.step(f"{s.b} has {{}} {w}.", x, "-", y, "Subtract the difference where there is less."))
        text = draw.choice((f"{s.a} has {x} {w}, {y} more than {s.b}.", f"{s.a} has {x} {w}. {s.b} has {y} fewer."))
    if draw.random() < 0.35:
        return f"{text} How many {w} does {s.b} have?", other
    return f"{text} How many {w} do they have together?", solution.step(f"Both have {{}} {w}.", x, "+", other, PARTS)


MEASURES = (
    ("miles", "{a} walked {x} miles on one day and {y} miles on the next", "How many miles did {a} walk in all?"),
    ("pounds", "A bag holds {x} pounds of rice and another one {y} pounds", "How many pounds is that together?"),
    ("liters", "{a} poured {x} liters of water into a tank that held {y} liters", "How many liters are in it now?"),
    ("dollars", "{a} paid ${x} for lunch and ${y} for the bus", "How many dollars did {a} spend?"),
    ("inches", "In March {x} inches of rain fell, and in April {y} inches", "How many inches fell in both months?"),
    ("meters", "{a} sewed a band of {x} meters to one of {y} meters", "How many meters long is it?"),
)
DIFFERENCES = (
    ("miles", "{a} ran {x} miles and {b} ran {y} miles", "How many miles farther did {a} run?"),
    ("pounds", "A dog weighs {x} pounds and a cat {y} pounds", "How many pounds heavier is the dog?"),
    ("liters", "Of {x} liters of paint {a} used {y} liters", "How many liters are left?"),
    ("dollars", "{a} had ${x} and paid ${y} for a meal", "How many dollars does {a} have left?"),
    ("inches", "A plant was {y} inches tall in May and {x} inches in July", "How many inches did it grow?"),
    ("meters", "{a} cut {y} meters off a rope of {x} meters", "How many meters of rope are left?"),
)


def _measures(draw: random.Random, solution: Solution) -> Told:
    """A sum or a difference of numbers with decimals."""
    a, b, _ = people(draw)
    places = draw.choice((1, 10, 10, 100))
    x, y = sorted((Fraction(draw.randint(2, 60 * places), places) for _ in range(2)), reverse=True)
    if x == y:
        raise UnfitError
    is_sum = draw.random() < 0.5
    unit, text, ask = draw.choice(MEASURES if is_sum else DIFFERENCES)
    if unit == "dollars" and places == 10:
        raise UnfitError  # money has two decimals, or none
    sign, rule = ("+", PARTS) if is_sum else ("-", "Subtract the smaller quantity from the larger one.")
    if is_sum and draw.random() < 0.5:
        x, y = y, x
    end = solution.step(f"That is {{}} {unit}.", x, sign, y, rule)
    said = {"a": a, "b": b, "x": decimal(x), "y": decimal(y)}
    return f"{text.format(**said)}. {ask.format(**said)}", end


STORIES: Sequence[Callable[[random.Random, Solution], Told]] = (
    *(_story,) * 12,
    *(_some_groups_gone, _two_products, _still_needed, _money_left, _two_shares, _measures),
)
