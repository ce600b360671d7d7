"""Training sentences: everyday words combined by a small grammar, so that all phonemes meet each other."""

from __future__ import annotations

import random

WORDS = """
name: Anna Ben Chloe David Emma Frank Grace Hugo Ivy Jack Kate Liam Maya Noah Olive Paul Ruth Sam Tom Zoe
noun: apple bath beach bird boat book bottle bridge brother bus cabbage cage camera chair cheese child church city
  cloud coat coffee cow cup dog door dream earth engine eye face farm father feather field film finger fire fish
  flower fox friend garage garden girl glove goat ground hammer hat heart hill horse house island job judge juice
  kitchen knife lamp leaf leather letter lion map measure milk mirror moon mother mountain mouse mouth music name
  night noise north number ocean onion oven page paper path peach picture pillow pocket potato puzzle queen rain
  ring river road roof room rose sheep ship shoe shop sister snow song soup spoon star stone storm street sugar
  summer sun table teacher thing thumb toy train treasure tree valley van vision voice wall watch water wave wheel
  window winter wolf woman wood yard zoo
adjective: amazing beautiful big black blue brave bright brown busy calm cheap cold cool deep dry early easy empty
  fair famous fast few fine fresh full funny good great green happy hard heavy huge jolly large lazy little long
  loud lucky mild narrow new nice noisy odd old open pale perfect plain poor proud pure quiet rare red rich rough
  round sad safe sharp short shy silver simple slow small smooth soft spare strange strong sweet tall thick thin
  tiny usual vague warm weird white whole wide wild wise wooden young yellow
verb: admires asks believes bites borrows brings builds buys calls carries catches changes chooses covers cuts draws
  drops enjoys enters feeds fetches finds fixes follows forgets gathers gives grows hears hides holds imagines joins
  keeps knows leaves likes loves makes measures mentions moves needs notices opens paints passes picks pulls pushes
  puts reaches reads remembers saves sees sells shows shuts smells teaches throws touches turns uses visits wants
  washes watches wipes
adverb: again already always away badly carefully early easily finally gently happily just lately mainly maybe
  nearly never often only probably quickly quietly rarely really slowly softly sometimes soon suddenly today
  tomorrow usually very well yesterday
number: one two three four five six seven eight nine ten eleven twelve thirteen twenty fifty-five sixty
place: above the bridge, across the field, after the storm, along the river, around the house, at the beach, before
  five o'clock, behind the church, below the window, beside the fire, by the yellow wall, during the winter, for a
  while, from my father's garden, in the other room, in the north of the valley, near the old farm, on the kitchen
  table, over there, through the woods, under a thick cloud, with both hands, without a word, while we were away
"""
QUESTIONS = (
    "Do you think that {name} {verb} the {adjective} {noun}?",
    "Why would {name} put a {noun} {place}?",
    "How many {adjective} pictures of a {noun} have you got?",
    "What was the {noun} doing {place}?",
    "Could you please move the {noun}, and then show {name} the {noun2}?",
)
STATEMENTS = (
    "The {adjective} {noun} {verb} a {noun2} {place}.",
    "{name} {adverb} {verb} the {adjective} {noun}.",
    "I am sure that {name} {verb} every {noun}, {adverb}.",
    "Oh, my {adjective} {noun}! {name} {verb} it {place}.",
    "We have {number} of them: a {noun}, a {adjective} {noun2}, and {number2} more.",
    "If the {noun} is {adjective}, {name} {verb} me {adverb}.",
    "She said, both of us were {place}, but nobody {verb} the {noun}.",
    "It was a {adjective} and {adjective2} {noun}, {name} thought.",
    "Please bring {number} {adjective} things {place}, thank you very much.",
    "Hello, my name is {name}, and this is my {adjective} {noun}.",
    "{place}, {name} {adverb} {verb} {number} hours of {noun} music.",
    "Yes. No. Well, the {noun} and the {noun2} are both {adjective}.",
)


def _words() -> dict[str, list[str]]:
    """The word lists: separated by spaces, places by commas."""
    lists: dict[str, list[str]] = {}
    for part in WORDS.replace("\n  ", " ").strip().splitlines():
        kind, words = part.split(": ", 1)
        lists[kind] = words.split(", ") if kind == "place" else words.split()
    lists |= {f"{kind}2": lists[kind] for kind in ("noun", "adjective", "number")}
    return lists


def sentences(count: int, seed: int) -> list[str]:
    """`count` different sentences of about 3 seconds each, the same ones for the same seed."""
    rng = random.Random(seed)
    words = _words()
    found: dict[str, None] = {}
    while len(found) < count:
        text = rng.choice(STATEMENTS * 3 + QUESTIONS).format(
            **{kind: rng.choice(list_) for kind, list_ in words.items()}
        )
        found[text[0].upper() + text[1:]] = None
    return list(found)
