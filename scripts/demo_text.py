"""Text for the demo models: short stories and office work, from a seeded grammar.

Two kinds, so that two models trained on them differ: `story` tells tales; `clerk` answers, counts, lists and writes
short programs. Every document is invented; computed results in it (sums, sorted lists, return values) are correct."""

import json
import random

NAMES = """Ada Bruno Clara Dario Elin Farid Greta Hana Ivo Jonas Kira Leo Mina Nils Olga Pavel Rosa Sami
Tilda Uri Vera Wanda Yusuf Zoe""".split()
FEMALE = set("Ada Clara Elin Greta Hana Kira Mina Olga Rosa Tilda Vera Wanda Zoe".split())
ANIMALS = "fox heron otter owl hedgehog cat dog goat donkey hare toad crow swan mouse".split()
TRAITS = "small old clever shy brave tired curious stubborn cheerful patient hungry quiet".split()
PLACES = """the mill|the harbour|the old bridge|the market|the lighthouse|the edge of the wood|the castle
|the water wheel|the garden behind the school|the top of the hill|the long stone aqueduct|the well""".replace("\n", "").split("|")
THINGS = "key lantern letter bell map loaf basket ladder compass coat drum boat book clock".split()
COLOURS = "red green blue yellow white black silver brown".split()
WEATHER = """It was raining|The sun was just coming up|Snow lay on the roofs|A warm wind blew from the sea
|Fog had filled the valley|The moon was full|It had been dry for weeks""".replace("\n", "").split("|")
FOODS = "apples pears carrots onions potatoes lemons plums eggs beans walnuts".split()
LANGUAGES = {
    "water": ("Wasser", "eau", "agua", "acqua"), "bread": ("Brot", "pain", "pan", "pane"),
    "house": ("Haus", "maison", "casa", "casa"), "bridge": ("Brücke", "pont", "puente", "ponte"),
    "night": ("Nacht", "nuit", "noche", "notte"), "stone": ("Stein", "pierre", "piedra", "pietra"),
    "bird": ("Vogel", "oiseau", "pájaro", "uccello"), "river": ("Fluss", "rivière", "río", "fiume"),
}


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def story(rng: random.Random) -> str:
    """A tale of five to nine sentences about one hero, one friend and one thing."""
    pick = rng.choice
    hero = pick(NAMES)
    she, her, her_obj = ("she", "her", "her") if hero in FEMALE else ("he", "his", "him")
    animal, trait, place, thing = pick(ANIMALS), pick(TRAITS), pick(PLACES), pick(THINGS)
    colour, other = pick(COLOURS), pick([p for p in PLACES if p != place])
    opening = pick([
        f"Once upon a time there lived {article(trait)} child called {hero} near {place}.",
        f"{hero} had never been to {place} before.",
        f"{pick(WEATHER)} when {hero} came to {place}.",
        f"Every morning {hero} walked from {place} to {other}.",
        f"Nobody in the village believed {hero}, who had seen {article(animal)} at {place}.",
    ])
    find = pick([
        f"There {she} found {article(colour)} {thing} that belonged to nobody.",
        f"Under a stone lay {article(thing)}, and it was {colour}.",
        f"One day {her} grandmother gave {her_obj} {article(colour)} {thing}.",
        f"In {her} pocket {she} carried {article(thing)}, and {she} did not know what it was for.",
    ])
    meet = pick([
        f"Then {article(trait)} {animal} came by and sat down beside {her_obj}.",
        f"On the way {she} met {article(animal)} who looked very {pick(TRAITS)}.",
        f"Behind {other} waited {article(animal)}, as if it had been told to.",
    ])
    ask = pick(["Where are you going?", "Is that yours?", "What do you mean to do with it?",
                f"May I see the {thing}?", "Why are you so late?", "Do you know the way?"])
    answer = pick([f"I am looking for {other}", f"I only want to bring the {thing} home", "I do not know yet",
                   f"I will tell you when we are at {other}", "I was waiting for you", "That is a long story"])
    talk = f'"{ask}" asked the {animal}. "{answer}," said {hero}.'
    trouble = pick([
        "But the path was gone, and the water was rising.",
        "They walked until it was dark, and still they saw no light.",
        f"At {other} the door was shut, and no one answered.",
        f"Suddenly the {thing} began to sing, very softly.",
        f"The {animal} shook its head and would not go on.",
    ])
    turn = pick([
        f"So {hero} held up the {thing}, and everything was quiet.",
        f"{hero} thought for a while and then gave the {thing} to the {animal}.",
        f"Together they carried the {thing} to {other} and put it down.",
        f'"Let us wait," said the {animal}, and they waited until morning.',
        f"Then {she} remembered what {her} grandmother had said, and {she} laughed.",
    ])
    ending = pick([
        f"From that day on the {animal} came to {place} every evening.",
        f"And if you go to {place} today, you can still see the {colour} {thing}.",
        f"{hero} went home, and {she} was not {pick(TRAITS)} any more.",
        f"Nobody ever asked {her_obj} about it, and {she} never told.",
        f"The next morning the {thing} was gone, but there was a feather on the step.",
    ])
    parts = [opening, find, meet, talk, trouble, turn, ending]
    if rng.random() < 0.3:
        parts.insert(4, f"{pick(WEATHER)}, and {pick(PLACES)} was far away.")
    if rng.random() < 0.5:
        return f"The {animal} and the {thing}\n\n" + " ".join(parts[:4]) + "\n\n" + " ".join(parts[4:]) + "\n"
    return " ".join(parts) + "\n"


def _sum(rng):
    a, b = rng.randrange(2, 30), rng.randrange(2, 30)
    sign, value = rng.choice([("+", a + b), ("-", a - b), ("*", a * b)])
    return f"Q: What is {a} {sign} {b}?\nA: {a} {sign} {b} = {value}.\n"


def _word(rng):
    word = rng.choice(list(LANGUAGES))
    at = rng.randrange(4)
    language = ("German", "French", "Spanish", "Italian")[at]
    return f'Q: What is the word for "{word}" in {language}?\nA: In {language}, "{word}" is "{LANGUAGES[word][at]}".\n'


def _shopping(rng):
    foods = rng.sample(FOODS, rng.randrange(3, 6))
    counts = [rng.randrange(1, 10) for _ in foods]
    lines = "".join(f"- {n} {food}\n" for n, food in zip(counts, foods))
    return f"Shopping list for {rng.choice(NAMES)}:\n{lines}Total: {sum(counts)} pieces\n"


def _sorting(rng):
    names = rng.sample(NAMES, 4)
    lines = "".join(f"{i}. {name}\n" for i, name in enumerate(sorted(names), 1))
    return f"User: Please sort these names: {', '.join(names)}.\nAssistant: Here is the sorted list:\n{lines}"


def _steps(rng):
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    verbs = rng.sample(["Clean", "Check", "Open", "Measure", "Weigh", "Paint", "Mark", "Close"], 4)
    lines = "".join(f"{i}. {verb} the {thing}.\n" for i, verb in enumerate(verbs, 1))
    return f"How to bring the {thing} to {place}:\n{lines}5. Carry it to {place}.\n"


def _function(rng):
    name = rng.choice(["f", "g", "h", "combine", "step", "rule", "calc", "fit"])
    a, b, n = *rng.sample("abxynm", 2), rng.randrange(2, 10)
    body, x, y, value = rng.choice([
        (f"{a} + {b}", 3, n, 3 + n), (f"{a} * {b}", 4, n, 4 * n), (f"{a} - {b}", n, 1, n - 1),
        (f"max({a}, {b})", n, 5, max(n, 5)), (f"{a} * {n} + {b}", 2, 1, 2 * n + 1),
    ])
    return f"def {name}({a}, {b}):\n    return {body}\n\n>>> {name}({x}, {y})\n{value}\n"


def _loop(rng):
    n, food = rng.randrange(2, 6), rng.choice(FOODS)
    return f'for i in range({n}):\n    print("{food}", i)\n' + "".join(f"# {food} {i}\n" for i in range(n))


def _record(rng):
    value = {"name": rng.choice(NAMES), "age": rng.randrange(6, 90), "place": rng.choice(PLACES)[4:],
             "tags": rng.sample(COLOURS, 2), "active": rng.random() < 0.5}
    return json.dumps(value, indent=rng.choice([None, 2])) + "\n"


def _table(rng):
    rows = "".join(f"| {food} | {rng.randrange(1, 20)} | {rng.randrange(10, 99) / 10} |\n"
                   for food in rng.sample(FOODS, 3))
    return "| item | count | price |\n|---|---|---|\n" + rows


CLERK = [_sum, _word, _shopping, _sorting, _steps, _function, _loop, _record, _table]


def clerk(rng: random.Random) -> str:
    """One to three small pieces of office work."""
    return "\n".join(rng.choice(CLERK)(rng) for _ in range(rng.randrange(1, 4)))


FLAVOURS = {"story": story, "clerk": clerk}


def documents(flavour: str, seed: int, size: int, exclude: frozenset[str] = frozenset()) -> list[str]:
    """Documents of `flavour` until they hold `size` characters, none of them in `exclude`."""
    rng = random.Random(f"{flavour}-{seed}")
    out, total = [], 0
    while total < size:
        text = FLAVOURS[flavour](rng)
        if text not in exclude:
            out.append(text)
            total += len(text)
    return out
