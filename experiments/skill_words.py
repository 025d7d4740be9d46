"""What the bundled skill items ask: facts, sums and words, written by hand."""

FACTS = (
    ("Which is larger", "a whale", "a mouse"),
    ("Which is cold", "ice", "soup"),
    ("Which is faster", "a plane", "a bicycle"),
    ("Which is heavier", "a truck", "a feather"),
    ("Which is taller", "a tower", "a chair"),
    ("Which is softer", "a pillow", "a stone"),
    ("Which is deeper", "the ocean", "a puddle"),
    ("Which can fly", "a bird", "a pig"),
    ("Which lives in water", "a shark", "a horse"),
    ("Which is a fruit", "a banana", "a shirt"),
    ("Which is a vegetable", "a carrot", "a window"),
    ("Which makes music", "a piano", "a carpet"),
    ("Which is a colour", "green", "seven"),
    ("Which is an animal", "a tiger", "a table"),
    ("Which is a country", "Spain", "Paris"),
    ("Which is a city", "Rome", "Africa"),
    ("Which is a planet", "Mars", "London"),
    ("Which is a metal", "iron", "cotton"),
    ("Which gives milk", "a cow", "a snake"),
    ("Which has wheels", "a car", "a boat"),
    ("Which do you wear on your head", "a hat", "a shoe"),
    ("Which do you read", "a book", "a fork"),
    ("Which do you drink", "tea", "bread"),
    ("Which comes after Monday", "Tuesday", "Friday"),
    ("Which comes before dinner", "breakfast", "midnight"),
    ("Which is the opposite of hot", "cold", "warm"),
    ("Which is the opposite of up", "down", "left"),
    ("Which is the opposite of early", "late", "soon"),
    ("Which month is in winter in Europe", "January", "July"),
    ("Which shines at night", "the moon", "the grass"),
    ("Which is colder", "snow", "steam"),
    ("Which is longer", "a river", "a finger"),
    ("Which is shorter", "a minute", "an hour"),
    ("Which has wings", "a bird", "a fish"),
    ("Which has more legs", "a spider", "a cat"),
    ("Which makes honey", "a bee", "a fly"),
    ("Which do you use to cut", "a knife", "a cup"),
    ("Which do you use to write", "a pencil", "a plate"),
    ("Which works in a hospital", "a nurse", "a farmer"),
    ("Which works in a school", "a teacher", "a pilot"),
    ("Which is made of wood", "a tree", "a lake"),
    ("Which is liquid", "milk", "sand"),
    ("Which is the capital of France", "Paris", "Berlin"),
    ("Which is the capital of Italy", "Rome", "Madrid"),
    ("Which is a number", "nine", "blue"),
    ("Which is part of the face", "the nose", "the knee"),
    ("Which is part of the leg", "the knee", "the ear"),
    ("Which is an even number", "eight", "five"),
)
"""A question, the right option and the wrong one."""

GAINS = (
    ("Tom has 3 apples and gets 1 more. How many apples does he have now?", 4),
    ("Tom has 4 apples and gets 2 more. How many apples does he have now?", 6),
    ("Anna has 5 pens and buys 5 more. How many pens does she have now?", 10),
    ("Ben has 2 books and gets 5 more. How many books does he have now?", 7),
    ("Mia has 6 stamps and finds 1 more. How many stamps does she have now?", 7),
    ("There are 6 birds on a wall and 3 more come. How many birds are there now?", 9),
    ("A shelf has 4 cups and you add 4 more. How many cups are there now?", 8),
    ("Sam has 2 coins and gets 2 more. How many coins does he have now?", 4),
    ("Lea has 7 balls and gets 2 more. How many balls does she have now?", 9),
    ("A bus has 5 people in it and 3 more get on. How many people are in it now?", 8),
    ("Nora picks 1 flower and then 4 more. How many flowers does she have now?", 5),
    ("A box holds 8 eggs and you put in 2 more. How many eggs are in it now?", 10),
)
"""Something is added; the sum in words, and its value."""

LOSSES = (
    ("Tom has 5 apples and gives away 1. How many apples does he have now?", 4),
    ("Anna has 6 pens and loses 2. How many pens does she have now?", 4),
    ("Ben has 7 books and sells 1. How many books does he have now?", 6),
    ("Mia has 8 sweets and eats 5. How many sweets does she have now?", 3),
    ("There are 9 birds on a wall and 3 fly off. How many birds are there now?", 6),
    ("A bus has 7 people in it and 2 get off. How many people are in it now?", 5),
    ("You have 11 cups and break 1 cup. How many cups do you have now?", 10),
    ("Eva has 4 coins and spends 3. How many coins does she have now?", 1),
)
"""Something is taken away."""

IN_WORDS = (
    ("What is two plus two?", 4),
    ("What is ten minus one?", 9),
    ("What is five plus five?", 10),
    ("What is six minus four?", 2),
    ("What is three times two?", 6),
    ("What is nine minus three?", 6),
    ("What is half of ten?", 5),
    ("What is double six?", 12),
)
"""Without a story."""

IN_DIGITS = (
    ("5 + 5", 10),
    ("3 + 3", 6),
    ("4 + 2", 6),
    ("2 + 6", 8),
    ("1 + 8", 9),
    ("10 + 10", 20),
    ("7 + 3", 10),
    ("6 + 3", 9),
    ("9 + 1", 10),
    ("4 + 4", 8),
    ("8 + 1", 9),
    ("8 - 1", 7),
    ("9 - 2", 7),
    ("5 - 2", 3),
    ("2 x 2", 4),
    ("10 x 3", 30),
)
"""In digits."""

TWO_STEPS = (
    ("Mia has 1 cat, 3 dogs and 2 birds. How many animals does she have?", 6),
    ("Ben has 1 red, 2 blue and 1 green pen. How many pens does he have?", 4),
    ("Eva buys 4 pens, 4 books and 2 bags. How many things does she buy?", 10),
    ("Kim has 3 coins and gets 2 coins and loses 1 coin. How many coins does she have?", 4),
)
"""Two steps."""

ONE_WORD = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of England?", "London"),
    ("What colour is grass?", "green"),
    ("What is the opposite of yes?", "no"),
    ("Which month comes after May?", "June"),
    ("Which animal barks?", "dog", "a dog", "dogs"),
    ("What is the opposite of big?", "small", "little", "tiny"),
    ("What is the opposite of night?", "day", "daytime"),
    ("Which day comes after Sunday?", "Monday"),
    ("What is the opposite of day?", "night"),
)
"""A question and the words that answer it."""

SENTENCE = (
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the opposite of big?", "small"),
    ("What is the opposite of black?", "white"),
    ("How many days are in a week?", "7", "seven"),
    ("How many months are in a year?", "12", "twelve"),
    ("How many legs does a dog have?", "4", "four"),
    ("Which animal says meow?", "cat"),
    ("Which planet do we live on?", "Earth"),
    ("What colour is the sky on a clear day?", "blue"),
)
"""A question and what must be in a sentence that answers it."""

NUMBERED = (
    ("cat", "dog", "fish"),
    ("red", "green", "blue"),
    ("sun", "moon", "star"),
    ("tea", "milk", "juice"),
    ("bread", "milk", "cheese"),
    ("hat", "coat", "shoe"),
    ("bus", "car", "train"),
    ("spring", "summer", "winter"),
    ("cup", "fork", "plate"),
    ("rose", "tulip", "lily"),
)
"""Words for a numbered list."""

YES_NO = (
    ("Is ice cold?", "yes"),
    ("Is fire cold?", "no"),
    ("Can fish swim?", "yes"),
    ("Is snow black?", "no"),
    ("Is the sun hot?", "yes"),
    ("Is a banana an animal?", "no"),
    ("Is Paris in France?", "yes"),
    ("Is London in China?", "no"),
    ("Do birds have wings?", "yes"),
    ("Do cats have ten legs?", "no"),
)
"""A question and its answer; as many yes as no."""

THREE_WORDS = (
    ("Name the first three months of the year.", "January, February, March"),
    ("Name the first three days of the week, from Monday on.", "Monday, Tuesday, Wednesday"),
    ("Write the numbers one to three as words.", "one, two, three"),
    ("Repeat these words: red, green, blue.", "red, green, blue"),
    ("Repeat these words: cat, dog, fish.", "cat, dog, fish"),
    ("Repeat these words: sun, moon, star.", "sun, moon, star"),
    ("Put commas between these words: table chair lamp.", "table, chair, lamp"),
    ("Put commas between these words: rain snow wind.", "rain, snow, wind"),
)
"""What to name, and the three words as they must be written."""

REPEATED = (
    "The train leaves at noon.",
    "Blue birds fly high.",
    "My sister has two cats.",
    "We met at the old bridge.",
    "The soup is too hot.",
    "A long road home",
    "The key is under the mat.",
    "He forgot his umbrella.",
    "Good morning, dear friends!",
    "A fox ran past the barn.",
    "Where is the red lamp?",
    "Please close the window.",
)
"""Texts to repeat exactly."""

SAID_AGAIN = (
    "I like warm bread.",
    "Snow is white.",
    "Come back soon!",
    "The dog sleeps by the fire.",
    "She paints small boats.",
    "Rain falls on the roof.",
    "Winter came early this year.",
    "The bakery opens at six.",
    "Open the door slowly.",
    "Nine white horses",
    "Stars above the quiet sea",
    "Do you hear the bells?",
)
"""Texts to say again, word for word."""

CONTINUED = (
    ("1, 2, 3, 4", "5"),
    ("2, 4, 6, 8", "10"),
    ("5, 10, 15, 20", "25"),
    ("10, 20, 30, 40", "50"),
    ("1, 3, 5, 7", "9"),
    ("3, 6, 9, 12", "15"),
    ("20, 30, 40, 50", "60"),
    ("3, 4, 5, 6", "7"),
    ("6, 8, 10, 12", "14"),
    ("100, 200, 300, 400", "500"),
    ("9, 8, 7, 6", "5"),
    ("50, 40, 30, 20", "10"),
    ("red, blue, red, blue, red", "blue"),
    ("cat, dog, cat, dog, cat", "dog"),
    ("up, down, up, down, up", "down"),
    ("sun, moon, sun, moon", "sun"),
    ("tea, milk, tea, milk", "tea"),
    ("hot, cold, hot, cold", "hot"),
    ("A, B, C, D", "E"),
    ("one, two, three, four", "five"),
    ("Monday, Tuesday, Wednesday", "Thursday"),
    ("January, February, March", "April"),
    ("first, second, third", "fourth"),
    ("spring, summer, autumn", "winter"),
)
"""Lists, and what comes next in each."""

FIRST = (
    ("ant", "zebra"),
    ("apple", "tree"),
    ("bread", "water"),
    ("cat", "dog"),
    ("boat", "moon"),
    ("door", "river"),
    ("egg", "stone"),
    ("cup", "spoon"),
    ("arm", "leg"),
    ("gold", "silver"),
)
"""Two words in alphabetical order."""

LARGER = ((8, 3), (6, 4), (9, 2), (50, 15), (70, 20), (11, 1), (30, 13), (100, 90))
"""A larger and a smaller number."""

EXTREMES = ((9, 2, 4), (1, 5, 3), (50, 10, 20), (2, 5, 9), (12, 8, 3), (2, 8, 4))
"""The largest or the smallest number, then the others."""

PICKED = (
    ("a fruit", "lemon", "river", "coat"),
    ("an animal", "tiger", "cup", "shoe"),
    ("a colour", "red", "dog", "seven"),
    ("a drink", "milk", "shoe", "stone"),
    ("a city", "Rome", "banana", "knife"),
    ("a number", "nine", "tree", "milk"),
    ("a tool", "hammer", "cloud", "soup"),
    ("a vegetable", "carrot", "train", "king"),
)
"""What to pick, the right word and two others."""

UNSORTED = (
    ("words", "bed", "lamp", "room"),
    ("letters", "A", "B", "C"),
    ("words", "bird", "fish", "snake"),
    ("letters", "B", "D", "F"),
    ("words", "ball", "game", "team"),
    ("letters", "C", "D", "E"),
)
"""Three words or letters in alphabetical order."""

COUNTED = (
    ("cup", "spoon", "plate"),
    ("red", "blue"),
    ("dog", "cat", "cow", "pig"),
    ("bus", "car", "train", "boat", "plane"),
    ("sun", "moon", "star"),
    ("ink", "pen", "desk", "lamp"),
    ("tea", "milk"),
    ("king", "queen"),
    ("hill", "lake", "wood"),
    ("rain", "snow"),
)
"""Things to count."""
