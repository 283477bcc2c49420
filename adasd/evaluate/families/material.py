"""The words that prompts are made of."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in text.split(";"))


NAMES = _words("""
    Abel; Bianca; Cedric; Dora; Elias; Fiona; Gregor; Helga; Igor; Jasmin; Kurt; Lena; Milo; Nadia; Otto; Paula;
    Ramon; Sybil; Tariq; Ursula; Vera; Willem; Xenia; Yara; Zeno; Amira; Boris; Celine; Dario; Edith
""")
CITIES = _words("""
    Bergen; Bologna; Bordeaux; Cordoba; Cracow; Dresden; Ghent; Graz; Izmir; Kyoto; Lagos; Leeds; Malmo; Nantes;
    Oporto; Osaka; Quito; Riga; Salzburg; Tampere; Turin; Utrecht; Valencia; Zagreb
""")
JOBS = _words("""
    baker; carpenter; dentist; driver; farmer; gardener; nurse; painter; pilot; plumber; sailor; tailor;
    teacher; translator; waiter; welder; judge; chemist
""")
THINGS = _words("""
    apples; books; bottles; boxes; buttons; candles; cards; chairs; coins; cups; eggs; flowers; keys; lamps;
    marbles; oranges; pencils; plates; postcards; ropes; shells; spoons; stamps; tickets; towels; umbrellas;
    wheels; candies
""")
ANIMALS = _words("""
    badger; beaver; camel; crow; donkey; eagle; ferret; fox; goat; goose; hedgehog; heron; lynx; mole; otter;
    owl; pony; rabbit; raven; seal; sparrow; swan; tiger; toad; turtle; wolf
""")
PLACES = _words("""
    attic; barn; bridge; cave; cellar; chapel; desert; garden; harbor; hill; island; kitchen; library;
    lighthouse; market; mill; museum; orchard; station; tower; valley; village; well; workshop
""")
OBJECTS = _words("""
    anchor; basket; bell; blanket; compass; crown; drum; feather; flute; hammer; kite; ladder; lantern; letter;
    map; mirror; needle; pearl; ring; rope; saddle; shovel; sword; telescope; trumpet; violin; whistle
""")
FOODS = _words("""
    bread; butter; carrots; cheese; cherries; cucumbers; fish; flour; garlic; grapes; ham; honey; lemons;
    lentils; milk; mushrooms; mustard; nuts; olives; onions; pasta; peppers; plums; potatoes; radishes; rice;
    salt; spinach; sugar; tea
""")
PRODUCTS = _words("""
    backpack; bicycle; blender; camera; coat; desk lamp; hair dryer; headset; jacket; kettle; keyboard;
    mattress; microphone; monitor; mug; notebook; pan; phone case; pillow; printer; shoes; speaker; suitcase;
    tent; toaster; umbrella; vacuum cleaner; watch
""")
SENTENCES = _words("""
    The old clock in the hall stopped at midnight; My brother sold his boat to a neighbor last spring; The
    children painted the fence before the rain came; Our train leaves from the second platform at noon; She
    keeps her garden tools behind the wooden door; The museum is closed on the first Monday of the month; Nobody
    remembered to water the plants in the office; He wrote a long letter to his aunt in the mountains; The
    bakery on the corner opens before sunrise; We carried the heavy table up the narrow stairs; A small dog
    waited in front of the school gate; The farmer repaired his tractor during the winter; They found an empty
    bottle on the beach; The library lends maps and records as well as books; The teacher asked everyone to
    bring a ruler; Her cousin plays the violin in a small orchestra; The bridge was painted green many years
    ago; I left my umbrella in the waiting room; The new shop sells candles and soap; A storm broke two branches
    of the apple tree; The driver checked the tires before the long trip; The recipe needs three eggs and a
    little butter; They watched the ships from the top of the hill; The nurse wrote the time on a yellow card
""")
PRAISE = _words("""
    I use it every day and love it; It works perfectly and looks great; Best purchase I made this year; It
    arrived early and the quality is excellent; My whole family is happy with it; It is sturdy, quiet and easy
    to clean; I would gladly buy it again; It made my life so much easier; A wonderful product at a fair price
""")
BLAME = _words("""
    It broke after two days and I want my money back; It never worked and the service was rude; Worst purchase I
    made this year; It arrived late and badly damaged; My whole family is disappointed with it; It is flimsy,
    loud and impossible to clean; I would never buy it again; It was a waste of time and money; A terrible
    product at a shameless price
""")
MONTHS = _words("""
    January; February; March; April; May; June; July; August; September; October; November; December
""")
