"""What the prompts are about: closed lists, one word or phrase each.

A tenth of every list is kept for held-out prompts, so that those are about things that no prompt for training
names.
"""

from __future__ import annotations

HELD_OUT_EVERY = 10


def part(words: tuple[str, ...], *, held_out: bool) -> tuple[str, ...]:
    """The words of a list for held-out prompts, or all others."""
    return tuple(word for at, word in enumerate(words) if (at % HELD_OUT_EVERY == 4) == held_out)


def _split(text: str) -> tuple[str, ...]:
    """Entries that are separated by semicolons."""
    return tuple(" ".join(entry.split()) for entry in text.split(";"))


THINGS = _split("""
    photosynthesis; gravity; inflation; the water cycle; machine learning; a black hole; the immune
    system; DNA; renewable energy; electricity; a rainbow; the tides; earthquakes; volcanoes; evolution;
    vaccines; the stock market; compound interest; democracy; the internet; a search engine; encryption; a
    database; cloud computing; Wi-Fi; GPS; a microwave oven; a refrigerator; a battery; solar panels; wind
    turbines; a nuclear power plant; a jet engine; the heart; the lungs; the brain; sleep; memory; dreams;
    digestion; blood pressure; allergies; vitamins; cholesterol; fermentation; yeast; baking soda;
    caffeine; chocolate; coffee; tea; olive oil; cheese; bread; pasta; honey; salt; climate change; the
    greenhouse effect; acid rain; recycling; composting; deforestation; coral reefs; glaciers; monsoons;
    deserts; hurricanes; tornadoes; lightning; fog; snow; the seasons; eclipses; comets; the Moon; Mars;
    Jupiter; galaxies; the Big Bang; light; sound; heat; magnetism; friction; pressure; buoyancy; atoms;
    chemical bonds; acids; metals; plastic; glass; concrete; paper; cotton; silk; steel; gold; diamonds;
    oil; natural gas; hydrogen; oxygen; the Roman Empire; the Renaissance; the Industrial Revolution; the
    French Revolution; the Silk Road; the printing press; World War I; the Cold War; ancient Egypt; the
    Middle Ages; the Olympic Games; the United Nations; human rights; supply and demand; a mortgage;
    insurance; taxes; a budget; credit cards; a pension; unemployment; globalization; marketing; a brand;
    a startup; project management; remote work; time management; leadership; teamwork; negotiation; jazz;
    opera; ballet; painting; photography; architecture; poetry; the novel; theater; cinema; chess;
    football; basketball; tennis; cricket; swimming; yoga; meditation; bees; dolphins; elephants; wolves;
    penguins; octopuses; spiders; butterflies; whales; bats; owls; dinosaurs; trees; mushrooms; cacti;
    roses; algae; bacteria; viruses; artificial intelligence; a neural network; an operating system; a
    compiler; a programming language; open source; a blockchain; virtual reality; 3D printing; robots;
    drones; electric cars; bicycles; trains; ships; bridges; tunnels
""")

PLACES = _split("""
    France; Germany; Italy; Spain; Portugal; Greece; Norway; Sweden; Finland; Poland; Hungary; Turkey;
    Egypt; Morocco; Kenya; Nigeria; Ghana; Ethiopia; South Africa; India; China; Japan; Vietnam; Thailand;
    Indonesia; Australia; New Zealand; Canada; Mexico; Brazil; Argentina; Chile; Peru; Colombia; Cuba;
    Iceland; Ireland; Scotland; Austria; Switzerland; Belgium; Denmark; Croatia; Romania; Ukraine; Israel;
    Jordan; Nepal; Mongolia; South Korea; Malaysia; London; Paris; Rome; Berlin; Madrid; Lisbon; Vienna;
    Prague; Athens; Istanbul; Cairo; Nairobi; Mumbai; Tokyo; Seoul; Bangkok; Sydney; New York; Chicago;
    San Francisco; Toronto; Mexico City; Lima; Buenos Aires; Amsterdam; Dublin
""")

NAMES = _split("""
    Anna; Ben; Clara; David; Emma; Frank; Grace; Henry; Isabel; Jack; Karen; Liam; Maria; Noah; Olivia;
    Peter; Quinn; Rachel; Sam; Tina; Victor; Wendy; Yusuf; Zoe; Ahmed; Priya; Kenji; Lucia; Omar; Sofia;
    Tom; Julia; Mark; Nina; Paul; Rosa; Simon; Teresa; Leo; Hannah
""")

TASKS = _split("""
    learn to cook; save money; sleep better; run a marathon; learn a new language; study for an exam; find
    a job; write a resume; prepare for a job interview; start a garden; train a puppy; clean the kitchen;
    organize a birthday party; plan a trip; pack a suitcase; move to a new city; make new friends; reduce
    stress; lose weight; eat healthier; drink more water; stop procrastinating; read more books; write a
    novel; start a blog; start a small business; build a website; learn to program; improve my
    handwriting; speak in public; negotiate a raise; manage a team; give feedback; say no politely;
    apologize to a friend; comfort a sad friend; talk to my neighbor about noise; fix a flat tire; change
    a light bulb; remove a coffee stain; wash a wool sweater; iron a shirt; bake bread; boil an egg; make
    pancakes; brew good coffee; grow tomatoes; take care of a cactus; keep fish; adopt a cat; paint a
    room; hang a picture; choose a laptop; protect my passwords; back up my files; take better photos;
    play the guitar; draw a portrait; meditate; do push-ups; stretch after running; prevent back pain;
    treat a cold; treat a sunburn; stay warm in winter; stay cool in summer; save electricity; reduce
    plastic waste; compost at home; ride a bike safely; drive in snow; save for retirement; pay off debt;
    make a monthly budget; buy a used car; rent an apartment; write a thank-you note; plan a wedding;
    raise bilingual children; help my son with homework; get my daughter to read; choose a university;
    write an essay; take good notes; remember names; learn vocabulary; prepare a presentation; run a
    meeting; work from home; stay focused; wake up early; deal with a difficult coworker
""")

EVENTS = _split("""
    the meeting on Monday; the project deadline; my vacation next month; the team lunch; the new office
    hours; a broken printer; a late delivery; a wrong invoice; my sick leave; the job opening; the
    interview; the monthly report; the budget review; the training course; the parking spaces; a refund; a
    damaged package; my apartment lease; the rent increase; a noisy neighbor; the school trip; a
    parent-teacher meeting; the birthday party; the wedding; a dinner invitation; a lost wallet; my gym
    membership; a phone contract; an internet outage; a hotel reservation; a flight cancellation; a
    doctor's appointment; a letter of recommendation; my research proposal; the exam date; a book that is
    overdue; the charity run; the football practice; the piano lessons; the garden project; a product
    demo; the website redesign; the security update; the new software; the price list; a sales offer; a
    job promotion; my resignation; a welcome for a new colleague; the farewell party; the holiday
    schedule; a change of address
""")

LISTS = _split("""
    healthy snacks; quick dinners; vegetarian meals; breakfast ideas; party games; birthday gifts for a
    friend; gifts for parents; books for teenagers; classic novels; movies for a rainy day; hobbies to try
    at home; outdoor activities; team building activities; icebreaker questions; interview questions;
    questions to ask on a first date; names for a cat; names for a dog; names for a bakery; names for a
    coffee shop; titles for a blog about travel; slogans for a bike shop; ideas for a science project;
    topics for an essay; topics for a podcast; ways to say thank you; synonyms for happy; synonyms for
    important; words that rhyme with light; common English idioms; countries in Europe; capital cities;
    animals that live in the sea; birds; fruits; vegetables; herbs and spices; musical instruments;
    sports; planets; metals; colors; things to pack for a beach trip; things to pack for a hike; tools
    every home needs; kitchen tools; cleaning supplies; apps for learning; skills for a resume; good
    habits; morning routines; ways to save water; ways to save money on food; exercises without equipment;
    stretches; tips for a good night's sleep; tips for new parents; tips for first-time travelers; indoor
    plants; flowers for spring; causes of headaches; benefits of walking; benefits of reading; benefits of
    meditation; advantages of public transport; disadvantages of social media; renewable energy sources;
    famous scientists; inventions that changed the world; programming languages; data structures; Linux
    commands; sorting algorithms; file formats; parts of a computer
""")

CODE = _split("""
    reverses a string; checks whether a number is prime; computes the factorial of a number; returns the
    nth Fibonacci number; finds the largest number in a list; sorts a list of numbers; removes duplicates
    from a list; counts the words in a text; counts the vowels in a string; checks whether a string is a
    palindrome; converts Celsius to Fahrenheit; computes the average of a list; merges two sorted lists;
    finds the longest word in a sentence; checks whether two words are anagrams; converts a number to
    binary; computes the greatest common divisor; sums the digits of a number; reads a file and prints its
    lines; writes a list to a CSV file; downloads a web page; parses JSON; generates a random password;
    validates an e-mail address; finds all even numbers in a list; flattens a nested list; counts how
    often each letter occurs; computes compound interest; rolls two dice; plays rock, paper, scissors;
    implements a stack; implements a queue; implements binary search; implements bubble sort; implements
    quicksort; computes the area of a circle; computes the distance between two points; transposes a
    matrix; multiplies two matrices; prints a multiplication table; checks whether a year is a leap year;
    formats a date; measures the time a function takes; groups words by their first letter; finds the
    second largest number; rotates a list by k places; checks for balanced parentheses; converts Roman
    numerals; capitalizes every word; replaces spaces with dashes
""")

SETTINGS = _split("""
    a small village by the sea; a busy train station; a lighthouse; an old library; a space station; a
    snowy mountain; a night market; a school on the first day; a haunted house; a desert island; a bakery
    at dawn; a forest in autumn; a city without cars; a hospital at night; a circus; a farm in spring; a
    castle; a submarine; a museum after closing time; a rooftop garden; a café in the rain; a football
    stadium; a workshop full of clocks; a river boat; a kitchen during a power cut; an airport in a storm;
    a toy shop; a mine; a theater; a camp by a lake
""")

HEROES = _split("""
    a lost dog; a curious girl; an old fisherman; a shy robot; a brave mouse; two brothers; a young
    inventor; a tired nurse; a clever fox; a retired teacher; a dragon who is afraid of fire; a boy who
    cannot sleep; a baker; a painter; a detective; a bus driver; a talking cat; a lonely astronaut; a
    gardener; three friends; a musician; a young queen; a postman; a ghost; a squirrel; a grandmother; a
    sailor; a student; a clockmaker; a little star
""")

MOODS = _split("""
    friendly; formal; cheerful; polite; simple; short; persuasive; calm; funny; professional; warm;
    confident
""")

LANGUAGES = _split("""
    Python; JavaScript; Java; C; C++; Go; Rust; Bash; SQL; Ruby
""")

COMPARED = _split("""
    cats and dogs; tea and coffee; books and movies; city life and country life; trains and planes; summer
    and winter; electric cars and petrol cars; renting and buying a home; laptops and desktops; Python and
    JavaScript; lists and tuples; a virus and a bacterium; weather and climate; mitosis and meiosis;
    plants and animals; stocks and bonds; a debit card and a credit card; fruit and vegetables; butter and
    margarine; running and swimming; jazz and blues; a novel and a short story; democracy and monarchy;
    speed and velocity; mass and weight; an asteroid and a comet; RAM and a hard disk; HTTP and HTTPS; a
    process and a thread; TCP and UDP; SQL and NoSQL databases; working at home and in an office; private
    and public schools; online courses and classrooms; solar and wind power; frogs and toads; crocodiles
    and alligators; the Earth and Mars; yoga and pilates; a manager and a leader
""")

SENTENCES = _split("""
    The train was late and I missed my appointment.; She don't like going to the beach.; Me and him went
    to the store yesterday.; Their going to visit us next week.; The report was written by the new intern
    in two days.; I am very happy that you came to my party.; Please send me the documents as soon as
    possible.; We can not accept your offer at this time.; The food was cold and the waiter was rude.; He
    have three sisters and one brother.; It is raining, we should to stay at home.; The meeting has been
    moved from Tuesday to Thursday.; The movie was good but it was too long.; I want a refund because the
    shoes are too small.; You must finish the work before Friday.; The results of the experiment was
    surprising.; Our company is the best in the market.; I has been working here since five years.; Can
    you help me with this problem?; The children was playing in the garden.; This phone is more better
    than my old one.; The cake tasted really nice and everyone ate it.; We regret to inform you that the
    event is canceled.; I didn't went to school because I was sick.; The weather is nice today so we will
    go for a walk.; The car needs to be repaired before the trip.; Nobody told me about the change of
    plans.; Your order will be delivered between nine and twelve.; I think that the plan is not good
    enough.; The dog barked all night and we could not sleep.
""")

CHATTER = _split("""
    Hello!; Hi there, how are you?; Good morning!; Who are you?; What can you do?; Tell me something
    interesting.; Tell me a joke.; I am bored.; I had a bad day today.; Thank you for your help!; What is
    your name?; Can you help me?; I feel tired all the time.; What should I cook tonight?; Give me a
    riddle.; Do you have feelings?; I got the job!; It is my birthday today.; I cannot decide what to do
    this weekend.; Let's play a game.; Say something nice.; What do you think about the weather?; I am
    nervous about my exam.; How old are you?; Are you a human?; What is the meaning of life?; I miss my
    family.; My cat is ill.; I want to learn something new.; Good night!; What is your favorite color?;
    Motivate me.; I forgot my password.; My computer is slow.; How do I get started?; Can you speak
    French?; Recommend me a book.; Recommend me a movie.; What day is it today?; Teach me a new word.
""")
