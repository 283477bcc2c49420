"""Lists of words that the tasks share."""

NAMES = ("Mia", "Ben", "Zoe", "Tom", "Ada", "Leo", "Eva", "Max", "Ivy", "Sam",
         "Lin", "Raj", "Noa", "Kai", "Ana", "Jon", "Uma", "Gus", "Pia", "Omar")  # fmt: skip
CITIES = ("Oslo", "Rome", "Paris", "Lima", "Cairo", "Delhi", "Tokyo", "Berlin",
          "Quito", "Dublin", "Prague", "Seoul", "Boston", "Nairobi")  # fmt: skip
ITEMS = ("apples", "books", "shells", "coins", "stamps", "cards", "pencils", "marbles", "cookies",
         "stickers", "plums", "beads", "candles", "buttons")  # fmt: skip
