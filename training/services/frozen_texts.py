"""A frozen set of plain general texts, to see whether a version has forgotten how to read.

Written for this purpose, so that no corpus that a model may have been trained on holds them. Never change
one: perplexities would no longer compare. A new set gets a new name.
"""

NAME = "general-1"
TEXTS = {
    "bread": (
        "Bread dough rises because yeast eats the sugars that enzymes free from the flour and breathes "
        "out carbon dioxide. The gas would simply escape from a batter, but gluten, a net of two wheat "
        "proteins that forms when the dough is wetted and kneaded, holds it in thousands of small "
        "bubbles."
    ),
    "bridge": (
        "When engineers inspect an old steel bridge they listen as much as they look. A sound rivet rings "
        "when it is struck with a hammer; a loose one answers with a dull knock, and rust between two "
        "plates can pry them apart with more force than any truck that crosses above."
    ),
    "letter": (
        "Dear Mr. Halloran, thank you for your letter of the third. I am sorry to hear that the parcel "
        "was damp when it reached you. We have sent another copy of the book today, by courier, and you "
        "need not return the first one. Please let me know if anything else is missing."
    ),
    "tides": (
        "The moon pulls on the near side of the Earth a little more than on its centre, and on its centre "
        "a little more than on the far side. The difference stretches the oceans in both directions, "
        "which is why most coasts see two high tides a day and not one."
    ),
    "court": (
        "The tenant argued that the notice was void because it did not state the date on which the lease "
        "was to end. The court disagreed. A reader in the tenant's position, it held, could have worked "
        "out the date from the lease itself, and nobody had been misled."
    ),
    "garden": (
        "Plant garlic in autumn, a few weeks before the ground freezes, with the pointed end up and about "
        "as deep as two of its own lengths. It will grow roots before winter, rest under the snow, and be "
        "ready to lift when the lower third of its leaves has turned yellow in July."
    ),
    "code": (
        "A stack is a list that is only touched at one end. Whatever was put on last is the first to be "
        "taken off. That is all it takes to undo typing in an editor, to return from a function to the "
        "line that called it, and to check that every opening bracket has a closing one."
    ),
    "train": (
        "The 7:14 was late again. On the platform people looked at the board, at their watches, and at "
        "each other, in that order. A man with a cello case took up the space of two. When the train came "
        "in at last, nobody complained, because there were seats."
    ),
    "numbers": (
        "To add two fractions, first write them over the same denominator. A half and a third become "
        "three sixths and two sixths, which together are five sixths. Multiplying is easier: the tops are "
        "multiplied with each other and so are the bottoms, and nothing need be made alike."
    ),
    "doctor": (
        "Washing hands between patients seems obvious now. In 1847 a physician in Vienna had to count "
        "deaths in two wards, month after month, to show it; and even then most of his colleagues felt "
        "insulted rather than persuaded. It took another generation before anybody could show them the "
        "bacteria."
    ),
    "river": (
        "A river seldom runs straight for long. Where it bends, water on the outside moves faster and "
        "eats into the bank, while on the inside it slows and drops its sand. The bend grows until a "
        "flood cuts through its neck and leaves the old loop behind as a lake."
    ),
    "market": (
        "When the price of coffee beans doubles, the price of a cup in a café hardly moves. Most of what "
        "the guest pays is rent, wages and milk. The beans are a small part, so even a large change in "
        "their price is a small change in the whole."
    ),
    "music": (
        "A string that is stopped at half its length sounds an octave higher, and at two thirds a fifth. "
        "The ratios are simple, but they do not fit together: twelve pure fifths overshoot seven octaves "
        "by a little, and every tuning is a way of hiding that remainder."
    ),
    "dialogue": (
        "'Did you lock the back door?' 'I thought you had.' 'I was carrying the boxes.' She sighed, "
        "turned the car around at the next gate, and drove back up the hill. The door was locked. The "
        "kitchen window, on the other hand, stood wide open."
    ),
    "history": (
        "Before there were railways, each town kept its own time, set by its own noon. A traveller going "
        "west gained a few minutes at every stop and hardly noticed. Timetables made that impossible, and "
        "so the clocks of a whole country were set to agree, against some protest."
    ),
    "weather": (
        "Fog forms when air is cooled until it can no longer hold the water in it. On a clear night the "
        "ground loses its heat to the sky, cools the air that lies on it, and by morning the valleys are "
        "full while the hills above them stand in sunshine."
    ),
}
