"""Templates of word problems of one to four steps: one idea each, in a few wordings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction

from problem_parts import THINGS, Solution, amount, people, whole

BOXES = ["boxes", "bags", "baskets", "crates", "jars", "shelves", "packs", "trays"]
GOODS = [
    "notebook",
    "scarf",
    "lamp",
    "mug",
    "kite",
    "puzzle",
    "cushion",
    "backpack",
    "teapot",
    "umbrella",
    "ball",
    "poster",
    "hat",
    "plant",
]
WORK = ("washing cars", "walking dogs", "painting fences", "tutoring", "raking leaves", "delivering papers", "baking")
PLACES = ["school", "library", "market", "museum", "farm", "harbour", "theatre", "station", "bakery", "garden"]
MACHINES = ("printer prints {} pages", "press makes {} bottles", "robot packs {} parcels", "mill grinds {} sacks")
SHARES = (
    (1, 2, "half"),
    (1, 3, "a third"),
    (1, 4, "a quarter"),
    (2, 3, "two thirds"),
    (3, 4, "three quarters"),
    (1, 5, "a fifth"),
)


def _join(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, _), x, y, thing = people(draw), amount(draw), amount(draw), draw.choice(THINGS)
    ask = draw.choice(
        (
            f"{a} has {x} {thing} and {b} has {y} {thing}. How many {thing} do they have together?",
            f"{a} found {x} {thing} in the morning and {y} more in the afternoon. How many {thing} did {a} find in all?",
            f"There are {x} {thing} on a table. {b} puts {y} more {thing} there. How many {thing} are on the table now?",
        )
    )
    return ask, s.step(
        f"Altogether there are {{}} {thing}.", x, "+", y, "Add the parts to find how many there are in all."
    )


def _leave(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, _), x, y, thing = people(draw), amount(draw), amount(draw), draw.choice(THINGS)
    x += y
    ask = draw.choice(
        (
            f"{a} had {x} {thing} and gave {y} of them to {b}. How many {thing} does {a} have left?",
            f"Of {x} {thing} in a shop, {y} were sold. How many {thing} remain?",
            f"{a} wants {x} {thing} and has {y} so far. How many more {thing} does {a} need?",
            f"{a} has {x} {thing}. {b} has {y} {thing}. How many more {thing} does {a} have than {b}?",
        )
    )
    return ask, s.step(
        f"The difference is {{}} {thing}.", x, "-", y, "Subtract the smaller quantity to find what is left over."
    )


def _groups(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), x, y = people(draw), draw.randint(2, 30), draw.randint(2, 40)
    thing, box = draw.choice(THINGS), draw.choice(BOXES)
    ask = draw.choice(
        (
            f"{a} fills {x} {box} with {y} {thing} each. How many {thing} are in the {box}?",
            f"Each of {x} {box} holds {y} {thing}. How many {thing} are there in all?",
        )
    )
    rule = "Multiply the number of groups by the size of a group to find the total."
    return ask, s.step(f"The {box} hold {{}} {thing}.", x, "*", y, rule)


def _share_out(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), x, y = people(draw), draw.randint(2, 20), draw.randint(2, 40)
    thing, box = draw.choice(THINGS), draw.choice(BOXES)
    ask, text = draw.choice(
        (
            (
                f"{a} shares {x * y} {thing} equally among {x} friends. How many {thing} does each friend get?",
                "Each gets {}.",
            ),
            (f"{x * y} {thing} are put into {x} {box} evenly. How many {thing} are in each of them?", "Each holds {}."),
        )
    )
    return ask, s.step(text, x * y, "/", x, "Divide the total by the number of equal parts to find the size of a part.")


def _give_and_get(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, c), x, y, z, thing = people(draw), amount(draw), amount(draw), amount(draw), draw.choice(THINGS)
    x += y
    order = draw.random() < 0.5
    gave, got = f"gave {y} {thing} to {b}", f"got {z} {thing} from {c}"
    first, second = (gave, got) if order else (got, gave)
    lose, gain = "Subtract what is given away.", "Add what is received."
    if order:
        left = s.step(f"After giving, {a} had {{}} {thing}.", x, "-", y, lose)
        end = s.step(f"After getting more, {a} had {{}} {thing}.", left, "+", z, gain)
    else:
        more = s.step(f"After getting more, {a} had {{}} {thing}.", x, "+", z, gain)
        end = s.step(f"After giving, {a} had {{}} {thing}.", more, "-", y, lose)
    return f"{a} had {x} {thing}. {a} {first} and then {second}. How many {thing} does {a} have now?", end


def _shopping(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), (one, two) = people(draw), draw.sample(GOODS, 2)
    n, m, price, other = draw.randint(2, 12), draw.randint(2, 9), draw.randint(2, 40), draw.randint(2, 40)
    rule = "Multiply the price of an item by how many are bought."
    first = s.step(f"The {one}s cost ${{}}.", n, "*", price, rule)
    second = s.step(f"The {two}s cost ${{}}.", m, "*", other, rule)
    total = s.step("Together that is ${}.", first, "+", second, "Add the costs to find the total.")
    said = f"{a} buys {n} {one}s at ${price} each and {m} {two}s at ${other} each."
    if draw.random() < 0.5:
        return f"{said} How much does {a} pay in all?", total
    paid = int(total) + draw.randint(1, 60)
    change = s.step(
        f"{a} gets back ${{}}.", paid, "-", total, "Subtract the total cost from the money paid to find the change."
    )
    return f"{said} {a} pays with ${paid}. How much change does {a} get?", change


def _wages(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), work = people(draw), draw.choice(WORK)
    rate, hours, days = draw.randint(6, 35), draw.randint(2, 9), draw.randint(2, 14)
    daily = s.step(
        f"A day brings {a} ${{}}.",
        rate,
        "*",
        hours,
        "Multiply the hourly rate by the hours of a day to find a day's pay.",
    )
    total = s.step("All days bring ${}.", daily, "*", days, "Multiply a day's pay by the number of days.")
    said = f"{a} earns ${rate} an hour {work} and works {hours} hours a day for {days} days."
    if draw.random() < 0.5:
        return f"{said} How much does {a} earn?", total
    spent = draw.randint(5, max(5, int(total) // 2))
    left = s.step("After spending, ${} are left.", total, "-", spent, "Subtract what is spent from what is earned.")
    return f"{said} Then {a} spends ${spent}. How much of this money is left?", left


def _part_of(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, _), thing, (top, bottom, words) = people(draw), draw.choice(THINGS), draw.choice(SHARES)
    total = bottom * draw.randint(2, 40)
    part = s.step(
        f"One part of {bottom} is {{}} {thing}.",
        total,
        "/",
        bottom,
        "Divide the whole by the fraction's bottom number.",
    )
    if top > 1:
        part = s.step(
            f"{words.capitalize()} are {{}} {thing}.", part, "*", top, "Multiply one part by the fraction's top number."
        )
    said = f"{a} has {total} {thing} and gives {words} of them to {b}."
    if draw.random() < 0.4:
        return f"{said} How many {thing} does {b} get?", part
    left = s.step(
        f"{a} keeps {{}} {thing}.", total, "-", part, "Subtract the part from the whole to find what is left."
    )
    return f"{said} How many {thing} does {a} keep?", left


def _percent(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), good = people(draw), draw.choice(GOODS)
    share, price = draw.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75)), draw.randint(1, 30) * draw.choice((4, 10, 20))
    hundredth = s.step("One percent of the price is ${}.", price, "/", 100, "Divide by 100 to find one percent.")
    part = s.step(
        f"{share} percent are ${{}}.", hundredth, "*", share, "Multiply one percent by the number of percent."
    )
    if draw.random() < 0.6:
        end = s.step("The new price is ${}.", price, "-", part, "Subtract a discount from the price.")
        return f"A {good} costs ${price}. In a sale it is {share}% cheaper. What does {a} pay for it in the sale?", end
    end = s.step("The new price is ${}.", price, "+", part, "Add an increase to the price.")
    return f"A {good} costs ${price}. Its price rises by {share}%. What does {a} pay for it then?", end


def _travel(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), place = people(draw), draw.choice(PLACES)
    speed, hours, more, longer = draw.randint(3, 90), draw.randint(2, 9), draw.randint(3, 90), draw.randint(2, 6)
    rule = "Multiply speed by time to find the distance."
    if draw.random() < 0.4:
        time = s.step("It takes {} hours.", speed * hours, "/", speed, "Divide distance by speed to find the time.")
        return (
            f"{a} travels {speed * hours} miles to the {place} at {speed} miles an hour. How many hours does it take?",
            time,
        )
    first = s.step("The first part is {} miles.", speed, "*", hours, rule)
    second = s.step("The second part is {} miles.", more, "*", longer, rule)
    total = s.step("The whole way is {} miles.", first, "+", second, "Add the distances of the parts.")
    said = f"On the way to the {place}, {a} travels {hours} hours at {speed} miles an hour, then {longer} hours at {more} miles an hour."
    return f"{said} How many miles is that in all?", total


def _machine(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    machine, made, minutes = draw.choice(MACHINES), draw.randint(2, 30), draw.randint(2, 12)
    hours = draw.randint(2, 8)
    said = f"A {machine.format(made * minutes)} in {minutes} minutes."
    rate = s.step(
        "A minute gives {}.", made * minutes, "/", minutes, "Divide the amount by the time to find the rate per minute."
    )
    time = s.step("That is {} minutes.", hours, "*", 60, "Multiply hours by 60 to find minutes.")
    end = s.step("In this time there are {}.", rate, "*", time, "Multiply the rate by the time to find the amount.")
    return f"{said} At this rate, how many does it manage in {hours} hours?", end


def _compare(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, c), thing, x, times, more = (
        people(draw),
        draw.choice(THINGS),
        draw.randint(2, 60),
        draw.randint(2, 6),
        amount(draw),
    )
    word = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 6: "six times"}[times]
    second = s.step(
        f"{b} has {{}} {thing}.", x, "*", times, "Multiply by the number of times to find the larger quantity."
    )
    if draw.random() < 0.5:
        third = s.step(f"{c} has {{}} {thing}.", second, "+", more, "Add the difference where there is more.")
        how = "more"
    else:
        third = whole(
            s.step(f"{c} has {{}} {thing}.", second, "-", more, "Subtract the difference where there are fewer.")
        )
        how = "fewer"
    said = f"{a} has {x} {thing}. {b} has {word} as many as {a}, and {c} has {more} {how} than {b}."
    if draw.random() < 0.4:
        return f"{said} How many {thing} does {c} have?", third
    pair = s.step(f"{a} and {b} have {{}} {thing}.", x, "+", second, "Add all quantities to find the total.")
    total = s.step(f"All three have {{}} {thing}.", pair, "+", third, "Add all quantities to find the total.")
    return f"{said} How many {thing} do the three have in all?", total


def _pack_up(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, _), thing, box = people(draw), draw.choice(THINGS), draw.choice(BOXES)
    size, count = draw.randint(2, 12), draw.randint(2, 25)
    x = draw.randint(1, size * count - 1)
    y = size * count - x
    total = s.step(f"Together they have {{}} {thing}.", x, "+", y, "Add the quantities that are put together.")
    end = s.step(
        f"They need {{}} {box}.",
        total,
        "/",
        size,
        "Divide the total by the size of a group to find how many groups there are.",
    )
    return f"{a} has {x} {thing} and {b} has {y}. They put all into {box} of {size}. How many {box} do they need?", end


def _saving(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), good, weekly, weeks = people(draw), draw.choice(GOODS), draw.randint(2, 30), draw.randint(2, 20)
    have = draw.randint(1, 80)
    price = have + weekly * weeks
    missing = s.step(
        f"{a} still needs ${{}}.", price, "-", have, "Subtract what is saved from the price to find what is missing."
    )
    end = s.step("That takes {} weeks.", missing, "/", weekly, "Divide what is missing by what is saved each week.")
    return (
        f"{a} wants a {good} for ${price} and has ${have}. {a} saves ${weekly} a week. After how many weeks can {a} buy it?",
        end,
    )


def _change_back(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, b, _), x, y, thing = people(draw), amount(draw), amount(draw), draw.choice(THINGS)
    if draw.random() < 0.5:
        end = s.step(
            f"At first there were {{}} {thing}.",
            x,
            "+",
            y,
            "Add what was taken away to what is left to find the beginning.",
        )
        return f"{a} gave {y} {thing} to {b} and has {x} left. How many {thing} did {a} have at first?", end
    end = s.step(
        f"{b} gave {{}} {thing}.", x + y, "-", x, "Subtract the beginning from the end to find what was added."
    )
    return f"{a} had {x} {thing}. {b} gave {a} some more, and now {a} has {x + y}. How many {thing} did {b} give?", end


def _average(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), thing = people(draw), draw.choice(THINGS)
    days = [draw.randint(1, 60) for _ in range(3)]
    rule = "Add all values to find their sum."
    two = s.step("The first two days give {}.", days[0], "+", days[1], rule)
    total = s.step("All three days give {}.", two, "+", days[2], rule)
    mean = whole(
        s.step("The average is {}.", total, "/", 3, "Divide the sum by how many values there are to find the average.")
    )
    said = f"{a} collects {days[0]} {thing} on Monday, {days[1]} on Tuesday and {days[2]} on Wednesday."
    return f"{said} What is the average number of {thing} a day?", mean


def _rest_shared(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    (a, _, _), thing, box = people(draw), draw.choice(THINGS), draw.choice(BOXES)
    count, size, friends = draw.randint(2, 12), draw.randint(3, 24), draw.randint(2, 9)
    total = s.step(
        f"In all there are {{}} {thing}.", count, "*", size, "Multiply the number of groups by the size of a group."
    )
    kept = draw.randint(1, count * size - friends) if count * size > friends else 0
    left = whole(s.step(f"{{}} {thing} are shared.", total, "-", kept, "Subtract what is kept from the total."))
    each = whole(s.step("Each friend gets {}.", left, "/", friends, "Divide what is shared by the number of people."))
    said = f"{a} has {count} {box} of {size} {thing}, keeps {kept} of the {thing} and shares the rest equally among {friends} friends."
    return f"{said} How many {thing} does each friend get?", each


def _bare(draw: random.Random, s: Solution) -> tuple[str, Fraction]:
    """Numbers and nothing else."""
    sign = draw.choice("+-*/")
    if sign in "+-":
        x, y = sorted((draw.randint(2, draw.choice((99, 999, 9999))) for _ in range(2)), reverse=True)
    else:
        x, y = draw.randint(2, draw.choice((12, 99, 999))), draw.randint(2, draw.choice((9, 9, 12, 99)))
        if sign == "/":
            x *= y
    words = {"+": "sum", "-": "difference", "*": "product", "/": "quotient"}[sign]
    ask = draw.choice((f"What is {x} {sign} {y}?", f"Calculate {x} {sign} {y}.", f"Find the {words} of {x} and {y}."))
    rule = {"+": "Add", "-": "Subtract", "*": "Multiply", "/": "Divide"}[sign]
    return ask, s.step("{}", x, sign, y, f"{rule} the numbers place by place.")


TEMPLATES: Sequence[Callable[[random.Random, Solution], tuple[str, Fraction]]] = (
    *(_join, _leave, _groups, _share_out, _give_and_get, _shopping, _wages, _part_of, _percent),
    *(_travel, _machine, _compare, _pack_up, _saving, _change_back, _average, _rest_shared, _bare, _bare),
)
