"""Short stories with a known floor: "how good can a model get?" has an exact answer here.

A story is a series of choices: which plot, which name, which noise in the night. Each can be read
back from the text (smol/grammar.py proves it), so the probability of a story is the product of
its choices' probabilities, and the mean of -ln p over all stories is the entropy. No model can
have a lower expected loss: that is the floor.

`python -m smol.stories` writes data/stories.txt and its card, the same bytes on every machine.
The notation of GRAMMAR and POOLS is explained in smol/grammar.py.
"""

import argparse
import hashlib
import math
import random
import re
import statistics
import sys
from functools import cache
from pathlib import Path

from smol.grammar import Choice, Grammar

DATA = Path(__file__).resolve().parents[1] / "data"
SEED, COUNT = 2026, 2400
HELD_OUT = 10  # one story in ten, the last ones of the file, is for validation

GRAMMAR = r"""
story
| <lost>
| <door>
| <list>
| <swap>
| <birthday>
| <thief>
| <noise>
| <letter>
| <race>
| <bet>
| <glutton>

# -- eleven plots ---------------------------------------------------------------------------------

lost
| The Missing <thing:object.Title>/<home> <treasure> <morning> <aside> <gone> "<cry>!" cried
  {hero}. <search> <found> <aside> <ending>
treasure
| {hero.His} greatest treasure was {thing.one}, <origin>.
| What {hero.he} loved best in the world was {thing.one}, <origin>.
| On the shelf, where all could see it, stood {thing.one}, <origin>.
| {hero.He} owned little, but {hero.he} did own {thing.one}, <origin>.
origin
| won at a fair
| found on a beach after a storm
| left to {hero.him} by a great-uncle who had never said a word
| bought with {hero.his} first wages
| made by a carpenter with one eye
| mended so often that nobody knew its first colour
| older than the town itself
| once kicked by a king
gone
| The {thing} was gone. There was only <trace> where it had been.
| {hero} reached for the {thing} and touched <trace>.
| Where the {thing} belonged there was <trace>, and nothing else.
trace
| dust
| three grey feathers
| a cold patch of table
| a ring of crumbs
| an empty nail
| a note that said SORRY
| half a biscuit
| a very small footprint
| a smell of fish
search
| {hero.He} looked <s1:spot>, then <s2:spot>, then <s3:spot>, and found <j1:object.one>,
  <j2:object.one> and <j3:object.one>, but no {thing}.
| <s1:spot.Text> there was nothing but <j1:object.one>. <s2:spot.Text> there was <j2:object.one>.
  <s3:spot.Text> there was <j3:object.one>, which did not help.
found
| Then <friend:name> came by, <busy>. "Where did you put it last?" asked {friend}, as people do.
  {hero} turned red. The {thing} was <s4:spot>, where {hero.he} had hidden it so as not to lose it.
  <reward>
| {hero.He} ran to <friend:name>, who knew about such things. "Look again where you have looked
  already," said {friend}. And there it was, <again>. <reward>
| "Are you looking for something?" asked <friend:name> over the fence, <busy>, and {friend.he} was
  holding the {thing}. "I borrowed it on <day:weekday>. I did leave a note." The note was
  <s4:spot>.
| It was the {pet} that gave itself away. It {pet.noise} <s4:spot>. There it sat on the {thing}, as
  if the {thing} were an egg.
again
| {s1}, right behind the {j1}
| {s2}, right behind the {j2}
| {s3}, right behind the {j3}
reward
| {friend} got the {j1} for {friend.his} trouble.
| {friend} got the {j2} for {friend.his} trouble.
| {friend} got the {j3} for {friend.his} trouble.
| {friend} wanted no reward, and got none.

door
| The Door Behind the <place:place.Title>/<home> Behind the {place} there was <look:adjective.one>
  door that nobody could open. <morning> <aside> <secret> <wash> <aside> <tries> <inside> <ending>
secret
| <old:job.One> stopped {hero} in the street. "The word is <word:word>," whispered the {old}. "Say
  it <n:number> times, and do not laugh."
| In a library book {hero} found a line in pencil. Say <word:word> <n:number> times, it said, and
  wipe your feet.
| The {pet} talked in its sleep. It said <word:word>, clearly, <n:number> times.
wash
| {hero} wrote it on {hero.his} hand and ran, but <smudge>, and at the door the hand was empty.
| {hero.He} said it over and over on the way, until <friend:name>, <busy>, asked {hero.him} the
  time, and then it was gone.
smudge
| the ink ran
| the {pet} licked it off
| there was jam on it
| {hero.he} waved to everyone
tries
| "<w1:word.Title>?" tried {hero}. The door did not move. "<w2:word.Title>?" The door seemed to
  yawn. <recall>
| "<w1:word.Title>?" {hero.he} said. Nothing happened. <recall>
recall
| Then {hero.he} shut {hero.his} eyes and thought hard. "{Word}," said {hero}, {n} times, without
  laughing.
| Then a <bird> sang, and it all came back. {hero} said {word}, and said it {n} times.
bird
| blackbird
| robin
| cuckoo
| kettle
inside
| The door opened. Behind it sat <clerk:job.one> at a desk. "You are <late:number> years late,"
  said the {clerk}, "but come in."
| The door opened. Behind it was another door, <look2:adjective.one> one, and on it a sign: KNOCK.
| The door opened. There lay every sock that was ever lost, <late:number> rooms full.
| The door opened on a garden where it was always <day:weekday>. {hero} picked <prize:object.one>
  from a tree and went home.

list
| <a:grocery.Title>, <b:grocery.Title> and <c:grocery.Title>/<home> <morning> {hero.His}
  <kin:relative> wanted to make <dish:dish.one>. "Bring me {a}, {b} and {c}," said the {kin}, "and
  above all do not forget the <stress>." <song> <aside> <basket> <ending>
stress
| {a}
| {b}
| {c}
song
| All the way to the market {hero} sang: "{A}, {b} and {c}!" At the bridge stood <friend:name>,
  <busy>, who talked for <n:number> minutes about <topic>.
| "{A}, {b}, {c}," said {hero} at every step. Then {hero.he} met <friend:name>, <busy>, who could
  talk for <n:number> minutes about <topic>, and did.
topic
| {friend.his} left knee
| the price of coal
| a dream with a whale in it
| {friend.his} <cousin:job> of a cousin
| the right way to peel an onion
| a hat
basket
|2 But the song was stronger than {friend}. {hero} came home with {a}, {b} and {c}, and nothing was
  missing. <verdict>
| After that the song went: "{A}, {b} and <d:grocery>!" At home the {kin} looked into the basket.
  "And the {c}?" There was a silence. So the {dish} was made with {d}. <verdict>
| After that the song went: "{A}, <d:grocery> and {c}!" At home the {kin} looked into the basket.
  "And the {b}?" There was a silence. So the {dish} was made with {d}. <verdict>
| After that the song went: "<d:grocery.Title>, {b} and {c}!" At home the {kin} looked into the
  basket. "And the {a}?" There was a silence. So the {dish} was made with {d}. <verdict>
verdict
| It was the best {dish} of the year.
| Not even the {pet} would touch the {dish}.
| The {dish} went off with a bang, but the crumbs were good.
| All the neighbours asked how {dish.one} like that was made.
| Nobody ever spoke of that {dish} again.
| The {dish} glowed a little in the dark.

swap
| From <t1:object.Title> to <t4:object.Title>/<home> {hero.He} had {t1.one} that <useless>.
  <morning> <first> <aside> <second> <third> <account> <ending>
useless
| nobody needed
| had never worked
| made {hero.him} sneeze
| was one too many
| frightened visitors
first
| {hero} took the {t1} under {hero.his} arm and met <k1:job.one>, who gave {hero.him}
  <t2:object.one> for it.
| The first to come by was <k1:job.one>. "All my life I have looked for {t1.one}," said the
  {k1}, and gave {hero.him} <t2:object.one>.
second
| <p:place.At> <k2:job.one> fell in love with the {t2} and offered <t3:object.one>.
| Then <k2:job.one> wanted the {t2}, <why>, and paid with <t3:object.one>.
why
| to impress a lady
| for the museum
| on account of its smell
| and would not say what for
third
| Before dark <k3:job.one> had the {t3} and {hero} had {t4.one}.
| For the {t3} {hero.he} got {t4.one} from <k3:job.one> who was in a hurry.
account
| "Where is your {t1}?" asked <friend:name>, <busy>. "I gave the {t1} to the {k1} for the {t2},"
  said {hero}, "and the {t2} to the {k2} for the {t3}, and the {t3} to the {k3} for this {t4}."
  "And the {t4}?" "That I shall swap tomorrow."
| So the {k1} had the {t1}, the {k2} had the {t2}, the {k3} had the {t3}, and {hero} had the {t4},
  and each of them thought the others were fools.
| That night the {k1} came to the door. "I want to give back the {t1}," said the {k1}. "It bites."
  But the {t2} was with the {k2} by then, and the {t3} with the {k3}.

birthday
| <n:number.Title> Candles/<home> <morning> It was the birthday of the {pet}, and it was {n}.
  {hero} had made <dish:dish.one> with {n} candles on it. <aside> <guests> <flame> <thanks>
  <ending>
guests
| <g1:name> brought <t1:object.one>, <g2:name> brought <t2:object.one>, and <g3:name> brought an
  appetite.
| First came <g1:name> with <t1:object.one>. Then came <g2:name> with <t2:object.one>. <g3:name>
  came last and said, "Am I late?"
flame
| The {pet} ate one of the candles, so that only {n.less} burned. "How time flies," said {g3}.
| The {pet} blew. All {n} candles went out, and so did the lamp.
| "Next year it will be {n.more}," said {g1}, who was good at sums.
thanks
| "We thank you for the {t1}, {g1}," said {hero}. "We thank you for the {t2}, {g2}. {g3}, put down
  that {dish}."
| The {pet} slept on the {t1} and chewed the {t2}, so both {g1} and {g2} were content.
| When all had gone, the {t2} was still there, and so was the {t1}, and so was {g3}, under the
  table.

thief
| Who Ate the <dish:dish.Title>?/<home> <morning> {hero} made {dish.one} and put it on the window
  sill. An hour later there was only the plate. <aside> <suspects> <proof> <aside> <ending>
suspects
| Three had been seen near the house. "I was <p1:place.at>," said <q1:name>. "I was <p2:place.at>,"
  said <q2:name>. "And I was <p3:place.at> all day," said <q3:name>.
| {hero} called <q1:name>, <q2:name> and <q3:name> into the kitchen. {q1} said, "I was
  <p1:place.at>." {q2} said, "I was <p2:place.at>." {q3} said, "I was <p3:place.at>."
proof
|2 On the plate {hero} found {p1.clue}. "That comes from the {p1}," said {hero.he}. "So it was
  {q1}." {q1} <shame>.
|2 On the plate {hero} found {p2.clue}. "That comes from the {p2}," said {hero.he}. "So it was
  {q2}." {q2} <shame>.
|2 On the plate {hero} found {p3.clue}. "That comes from the {p3}," said {hero.he}. "So it was
  {q3}." {q3} <shame>.
| The plate had been licked. Neither {q1} nor {q2} nor {q3} licked plates. The {pet} {pet.noise}
  and looked the other way.
shame
| had to bake a new one, with {hero} watching
| asked whether there was any more
| wept a little and had the crumbs for comfort
| blamed {hero.his} cooking, which made it worse

noise
| The Noise in the Night/<home> <friend:name>, <busy>, had come to stay for <n:number> nights.
  <sky:weather.now>. At midnight something went <noise:noise>. <guess> <creep> <light> <aside>
  <ending>
guess
| "A <ghost>," whispered {friend}.
| "That is a <ghost>," said {hero}, "or worse."
| "Did you hear that <ghost>?" asked {friend}, pulling up the blanket.
ghost
| ghost
| burglar
| bear
| giant
| tax collector
| pirate
creep
| {hero} took <t1:object.one>, {friend} took <t2:object.one>, and down they crept. {Noise}, it went
  again.
| They took <t1:object.one>, since it was the only weapon in the house, and went down the stairs.
  {Noise}. It was <near>.
near
| in the kitchen
| right behind the door
| nearer now
| coming from the cellar
light
| {hero} lifted the {t1}. {friend} lit a match. It was {noise.cause}.
| {hero} threw the {t1} at it. There was a crash, and then silence. They had hit {noise.cause}.
| "Come out!" shouted {friend}. Nobody came out, because it was only {noise.cause}.

letter
| A Letter from <far:town>/<home> <morning> There was a letter in the box. "Dear {hero}," it said,
  "<news>. Bring me <look:adjective.one> <thing:object>, and be here by <day:weekday>. Your
  <kin:relative>." {hero} packed the {look} {thing} and left <ride>. <road> <aside> <arrive>
  <given> <ending>
news
| I have broken my leg on a pudding
| the roof is full of owls
| I am getting married again
| all the clocks have stopped
| I have dug up something strange
| the goose has gone into politics
ride
| on foot
| in <cart:vehicle.one>
| by the slow train
| on the back of a lorry full of cabbages
road
| At the <p:place> {hero.he} had to wait <n:number> hours for a ferry.
| The road was long, and <companion:animal.one> walked behind {hero.him} for <n:number> miles.
| {hero.He} slept <s:spot> at an inn, because all the beds were taken by <n:number> violinists.
arrive
| {hero} came to {far} on {day.before}, a day early, and nobody was at home yet.
| {hero} came to {far} on {day}, exactly in time.
| {hero} came to {far} on {day.after}, a day late, and the {kin} had already gone to bed.
given
| "{Look.One} {thing}!" said the {kin}. "Just as I asked." And the {kin} used it <use>.
| The {kin} looked at the {look} {thing} for a long time. "I am sure I wrote <look2:adjective>,"
  said the {kin}, and used it <use>.
| "How kind," said the {kin}, and put the {look} {thing} next to <n2:number> others.
use
| to keep the door open
| to stir the soup
| to frighten the hens
| to hold down the tablecloth
| as a pillow
| against the moles

race
| The Great <cart:vehicle.Title> Race/<home> <morning> It was the day of the race from the
  <p1:place> to the <p2:place>, and everyone had to sit in {cart.one}. At the start stood {hero},
  <r2:name> and <r3:name>. <prize> <aside> <course> <aside> <ending>
prize
| First prize was <gold:object.one>, and second prize was <silver:object.one>.
| The winner was to get <gold:object.one>, the next one <silver:object.one>.
course
| {hero} was in front until <mishap>. {r2} stopped to laugh. So {r3} was first and got the {gold},
  {r2} got the {silver}, and {hero} came in third.
| {hero} was slow, but {hero.he} did not stop. {r3} did, for <n:number> sausages, and so did {r2},
  for <m:number>. So {hero} got the {gold}, {r2} got the {silver}, and {r3} was not hungry any
  more.
| Halfway there {r2} took a short cut through somebody's kitchen. {r2} got the {gold}, {hero} got
  the {silver}, and {r3} got the bill.
| They all arrived together. So they sawed the {gold} in three, and {r3} got the {silver} as well,
  for bringing the saw.
mishap
| the {pet} jumped in with {hero.him}
| a nail went where no nail should go
| the hill began to go up
| {hero.he} waved to {hero.his} <kin:relative>
| something fell off that was needed

bet
| <w:forecast.Title> Tomorrow/<home> <sky:weather.now>. "It will {w} tomorrow," said {hero}. "It
  will not," said <friend:name>, <busy>. "If it does, you can have my <t1:object>. If it does not,
  I get your <t2:object>." They shook hands on it. <wait> <aside> <outcome> <aside> <ending>
wait
| {hero} did not sleep a wink.
| All night long {hero} looked out of the window.
| {hero} dreamed of {t1.one} the size of a house.
| {friend} was seen <dusting>.
dusting
| praying
| wrapping up the {t1}, just in case
| making room for the {t2}
outcome
|2 In the morning it {w.ed}. {friend} said nothing, and {hero} carried the {t1} home.
|2 In the morning it did not {w}. It <other:forecast.ed>. {friend} carried the {t2} home,
  whistling.
| In the morning it {w.ed}, but only on {friend}. They argued until supper and then swapped, so
  that {hero} had the {t1} and {friend} had the {t2}, and both were sorry.

glutton
| The <pet:animal.Title> That Ate Everything/<hero:name> of <town:town> had {pet.one} that <habit>.
  <sky:weather.now>. On <day:weekday> the {pet} ate <t1:object.one>. On {day.after} it ate
  <t2:object.one>, <manner>. On {day.third} it ate <t3:object.one>, <manner>. Then it sat in a
  corner, <gloom>. {hero} sent for <doctor:name>, the <job:job>. <cure> <bill> <aside> <ending>
manner
| with mustard
| in one bite
| without chewing
| and asked for more
| though it was not even hungry
| string and all
cure
| {doctor} tickled it with a feather. Out came the {t3}, then the {t2}, then the {t1}.
| {doctor} told it a joke. It laughed, and out came the {t3} and the {t2}, but the {t1} stayed in.
| {doctor} looked down its throat. "I can see the {t3}," said {doctor.he}, "and behind it the {t2},
  and far away, in the dark, the {t1}."
| {doctor} shook {doctor.his} head. "Let it eat <t4:object.one> as well," said {doctor.he}. "After
  {t1}, {t2} and {t3} it can do no harm."
bill
| That cost <n:number> pennies.
| {doctor} took <n:number> pennies and would not sit down.
| As for the bill, the {pet} ate it.

# -- what they share ------------------------------------------------------------------------------

home
| In <town:town> there lived <hero:name>, who had <pet:animal.one> and <trait>.
| <hero:name> lived <dwelling>, and with {hero.him} <pet:animal.one> that <habit>.
| Nobody in <town:town> was as <virtue> as <hero:name>, except perhaps {hero.his} <pet:animal>.
| There was once <job:job.one> called <hero:name>, whose best friend was <pet:animal.one>.
| This happened to <hero:name>, and the <pet:animal> can swear to it.
aside
| <:adjective.One> <:object> stood by the road, and nobody knew why.
| In the street <:job.one> was shouting at <:animal.one>.
| From somewhere came a smell of <:grocery>.
| <:animal.One> looked on and said nothing.
| The church clock struck <:number>, then thought better of it.
| Somebody said that on <:weekday> there would be <:food>.
| On a bench sat <:job.one>, eating <:food>.
| Somebody had left <:object.one> <:spot>, as one does.
| A boy ran past with <:adjective.one> <:object>.
| Far away <:vehicle.one> fell into the sea.
| Someone's <:relative> was singing a song about <:grocery>.
| Somebody had written "<:word>" on the wall, <:number> times.
| The newspaper said that <:town> had beaten <:town> at football by <:number> goals.
| A balloon with the word "<:word>" on it sailed over the roofs.
| <:job.One> from <:town> asked the way to the <:place>, and went the other way.
| The whole street smelled of <:food>.
busy
| <:job.one> by trade
| back from <:town>
| in <:adjective.one> hat
| eating <:food>
| smelling of <:grocery>
| with <:object.one> on a string
| on the way to the <:place>
| wet to the knees
| out of breath
trait
| a great many spoons
| no patience
| one good coat
| a hat for every day of the week
| a fear of buttons
| eleven cousins
| very large feet
| a roof with a hole in it
| an opinion about everything
| a wooden leg, though not {hero.his} own
| four pennies
| the loudest hiccups in the county
dwelling
| above the bakery
| under the railway bridge
| in a boat that had never seen water
| in half a house
| in a windmill without sails
| at the top of two hundred stairs
| between two bigger houses
| where the tram turns round
| beside a bog
habit
| never slept
| snored in two voices
| was afraid of butterflies
| could almost count to five
| walked backwards on Sundays
| believed it was the mayor
| had once bitten a postman
| slept in the sink
| smelled faintly of cheese
| understood French
| cheated at cards
| owed money all over town
virtue
| stubborn
| polite
| curious
| careful
| forgetful
| cheerful
| punctual
| hungry
| sleepy
| suspicious
| generous
morning
| <when> {hero} woke up early. <sky:weather.now>.
| <when> {hero} opened the window. <sky:weather.now>.
| <when> {hero} burnt the toast, which is always a sign. <sky:weather.now>.
| <when> the {pet} {pet.noise} and {hero} fell out of bed. <sky:weather.now>.
| <when> {hero} felt <joy>. <sky:weather.now>.
| <when> {hero} felt <gloom>. <sky:weather.now>.
when
| One morning
| One Sunday
| One cold day
| One fine day
| On the first day of spring
| On the last day of autumn
| On the morning after the fair
| In the middle of winter
| Some time ago
| Just before the holidays
cry
| Good grief
| Bother
| Thunder and jam
| Crumbs
| Impossible
| Not again
| Heavens
| Fiddlesticks
| Help
joy
| as happy as a dog in a butcher's shop
| as proud as a new bicycle
| as pleased as a cat on a stove
| as light as a pancake
| as merry as a bell
| as grand as an admiral
gloom
| as sad as a wet sock
| as cross as two sticks
| as gloomy as cold porridge
| as lost as a single glove
| as pale as a candle
| as flat as a stamp
ending
| {sky.after}. {hero} slept well that night, and so did the {pet}.
| {sky.after}. The {pet} {pet.noise} twice and closed its eyes.
| {sky.after}. "Well," said {hero} to the {pet}, "<lesson>." The {pet} {pet.noise}.
| {hero} laughed until {hero.his} <part> hurt. {sky.after}.
| Supper was <food:food>, and the {pet} had <helpings:number> helpings. {sky.after}.
| {hero} went to bed <joy>, and the {pet} <gloom>. {sky.after}.
| The {pet} still tells this story to the other animals, but in its story it is taller.
lesson
| that was that
| one never knows
| tomorrow is another day
| we shall say no more about it
| it could have been worse
| I blame the weather
part
| ears
| ribs
| hat
| teeth
"""

# Pools: an item a line or a comma; further columns are its other forms, named in the first line.
POOLS = {
    "name": """
text | he | him | his
Ada, Bella, Clara, Dora, Edith, Flora, Greta, Hazel, Ida, Juno, Kitty, Lotte, Mabel, Nora,
  Olive, Pearl, Queenie, Rosa, Sonia, Tilda, Una, Vera, Wanda, Yara, Zelda, Martha, Ivy, Penny,
  Ruth, Elsie | she | her | her
Albert, Boris, Casper, Dennis, Edgar, Felix, Gus, Hugo, Ivan, Jasper, Karl, Leo, Milo, Ned,
  Oscar, Pablo, Quentin, Rufus, Stanley, Theo, Ulf, Victor, Walter, Xavier, Yusuf, Zeno, Arthur,
  Bruno, Otto, Simon | he | him | his
""",
    "animal": """
text | noise
goose, gander | honked
donkey, mule | brayed
parrot, peacock | screeched
hen | clucked
pig, boar | grunted
goat, lamb | bleated
owl | hooted
frog, toad | croaked
crow, rook | cawed
duck | quacked
dog, fox | barked
pony, zebra | snorted
cat | purred
mouse, hamster | squeaked
hedgehog, badger | snuffled
rabbit | thumped
squirrel | chattered
dove | cooed
snail, tortoise | sighed
bear | growled
snake | hissed
camel, llama | spat
""",
    "object": """
text
kettle, umbrella, teapot, drum, lantern, compass, whistle, ladder, bucket, basket, alarm clock,
  mirror, trumpet, violin, bowler hat, blanket, candlestick, hammer, globe, accordion,
  egg timer, jam jar, telescope, doorbell, rolling pin, flute, fishing rod, suitcase, cushion,
  wig, garden gnome, pair of scissors, toothbrush, tuba, magnet, typewriter, feather duster,
  frying pan, golden fork, ice skate, hot-water bottle, oil painting, cuckoo clock, mousetrap,
  diving helmet, music box, nutcracker, paper boat, rocking chair, sewing machine, spinning top,
  stuffed pike, thimble, urn, walking stick, wooden spoon, yo-yo, xylophone, anchor, bell,
  corkscrew, dictionary, envelope, footstool, hourglass, inkwell, key, map of Portugal,
  necklace, oar, parasol, quilt, ruler, saddle, tambourine, vase, watering can
""",
    "adjective": """
text
red, blue, yellow, green, silver, brass, striped, spotted, tiny, enormous, crooked, dented,
  squeaky, dusty, shiny, second-hand, borrowed, lucky, velvet, orange, purple, pink, golden,
  invisible, folding, royal, rusty, sticky, speckled, ticklish, waterproof, upside-down, heavy,
  hollow, narrow, round, square, pointed, polished, leaking, embroidered, inflatable, expensive,
  ugly, unusual, musical, nameless, faded, frozen, half-eaten
""",
    "place": """
text | at | clue
mill | at the mill | flour
harbour | at the harbour | fish scales
smithy | at the smithy | a trace of soot
stable | in the stable | a wisp of straw
sawmill | at the sawmill | sawdust
forest | in the forest | pine needles
beach | on the beach | grains of sand
dairy | in the dairy | a drop of milk
library | in the library | a torn page
post office | at the post office | a stamp
barber shop | in the barber shop | three curls of hair
swimming pool | in the swimming pool | a puddle
theatre | at the theatre | red velvet thread
chapel | in the chapel | candle wax
beehive | at the beehive | something sticky
henhouse | in the henhouse | eggshell
coal shed | in the coal shed | black fingerprints
vineyard | in the vineyard | two grapes
school | at the school | chalk
tailor's | at the tailor's | a pin
museum | in the museum | a very old bone
marsh | in the marsh | mud
circus | at the circus | confetti
quarry | in the quarry | gravel
""",
    "spot": """
text
under the bed, behind the piano, inside the oven, on top of the wardrobe, in the bathtub,
  in the biscuit tin, up the chimney, beneath the doormat, inside the grandfather clock,
  in the potato sack, in a left boot, between two mattresses, behind the curtains,
  at the bottom of the well, under the stairs, in the cradle, among the umbrellas,
  in the letter box, on the roof, below the sink, in the flower pot, inside the tuba case,
  under the rug, in the bread bin, behind the mayor's portrait
""",
    "grocery": """
text
flour, eggs, honey, butter, onions, pepper, cherries, raisins, milk, salt, lemons, rice,
  carrots, turnips, beans, sugar, almonds, cinnamon, mushrooms, radishes, vinegar, cheese,
  walnuts, ginger, peas, plums, spinach, leeks, parsley, yeast, cream, herrings, garlic,
  pickles, oats, figs, dill, mustard, beetroot, vanilla
""",
    "dish": """
text
soup, cake, pie, stew, pudding, omelette, salad, trifle, casserole, pancake, tart, dumpling,
  quiche, lasagne, crumble
""",
    "food": """
text
pancakes, plum jam on toast, pea soup, fried cheese, walnut bread, honey cake, gingerbread,
  onion pie, rice pudding, lemon tart, porridge, cherries, dumplings, noodles, roast chestnuts,
  cold potatoes, fish fingers, beans on toast, apple sauce, melted cheese, leftovers
""",
    "weather": """
now | after
Rain was drumming on every roof | The rain had stopped, and the puddles shone
Snow was falling thick and slow | Under the moon the snow looked blue
The wind was pulling at the chimneys | The wind had gone to bed at last
Fog lay on the street like a wet cat | The fog had lifted,
  and the hills were where they had always been
It was so hot that the butter ran away | It was cool at last, and the butter came home
Thunder was moving its furniture about upstairs | The thunder had put all its furniture back
Frost had drawn ferns on the windows | On the windows the ferns had melted
Hail was bouncing in the yard like dried peas | Of the hail not a pea was left
A warm breeze smelled of hay | The breeze still smelled of hay
Leaves were racing each other down the street | All the leaves had come in second
The sky was the colour of an old spoon | A single star came out, then all the others
There was not a cloud anywhere | One small cloud had come after all
""",
    "noise": """
text | cause
drip drip drip | the kitchen tap
tick tock tick | the clock, which had stopped in March
creak creak | the third stair, which remembered people
flap flap | a shirt on the line
scratch scratch | a mouse writing its diary
thump | an apple that had let go of its tree
rattle rattle | the window, which was cold
munch munch | a moth in the flour
clang | a bucket that was tired of standing
ping | a button giving up
hic hic hic | the boiler
splash | a frog in the rain barrel
whoo whoo | the wind in a bottle
plonk | the piano, playing in its sleep
buzz | one bee, late for everything
""",
    "job": """
text
baker, sailor, clockmaker, postman, gardener, judge, acrobat, dentist, plumber, fisherman,
  librarian, magician, shepherd, undertaker, violinist, admiral, barber, chimney sweep,
  detective, engineer, fortune teller, grocer, hatter, innkeeper, juggler, knife grinder,
  locksmith, night watchman, optician, poet, queen, referee, spy, tailor, umpire, vet, weaver,
  zookeeper
""",
    "town": """
text
Mudbury, Thistledown, Crumbley, Nettlewick, Saltmarsh, Fogley, Wobbleton, Upper Biscuit,
  Lower Biscuit, Dripping Hill, Pickleford, Snoring Bay, Oatcaster, Grumbleby, Lantern Cross,
  Quackenham, Kettlewell, Bramblegate, Inkpool, Yawning, Humblethorpe, Eggleston, Vinegar Point,
  Ramshackle, Marrowmouth
""",
    "word": """
text
marmalade, rhubarb, pumpernickel, turnip, bamboo, hullabaloo, pyjamas, cucumber, walrus, zigzag,
  artichoke, elbow, hippopotamus, mushroom, nightingale, octopus, avalanche, bumblebee,
  chandelier, doughnut, flamingo, gooseberry, igloo, jellyfish, kangaroo, lollipop, moonlight,
  noodle, orchestra, porcupine, quicksilver, rigmarole, snowdrop, tangerine, ukulele, volcano,
  whirlpool, yesterday, spaghetti, trousers
""",
    "number": """
text | less | more
two | one | three
three | two | four
four | three | five
five | four | six
six | five | seven
seven | six | eight
eight | seven | nine
nine | eight | ten
ten | nine | eleven
eleven | ten | twelve
twelve | eleven | thirteen
thirteen | twelve | fourteen
forty | thirty-nine | forty-one
a hundred | ninety-nine | a hundred and one
""",
    "weekday": """
text | before | after | third
Monday | Sunday | Tuesday | Wednesday
Tuesday | Monday | Wednesday | Thursday
Wednesday | Tuesday | Thursday | Friday
Thursday | Wednesday | Friday | Saturday
Friday | Thursday | Saturday | Sunday
Saturday | Friday | Sunday | Monday
Sunday | Saturday | Monday | Tuesday
""",
    "vehicle": """
text
bathtub, wheelbarrow, pram, donkey cart, barrel, sledge, tricycle, laundry basket, canoe,
  piano on wheels, hay wagon, rowing boat, milk float, dog kennel, tea trolley
""",
    "relative": """
text
aunt, uncle, grandmother, grandfather, godmother, elder sister, brother, cousin, stepfather,
  mother-in-law
""",
    "forecast": """
text | ed
rain | rained
snow | snowed
hail | hailed
freeze | froze
drizzle | drizzled
thunder | thundered
""",
}


@cache
def grammar() -> Grammar:
    """The grammar of the stories, proved to be unambiguous by the tests."""
    return Grammar(GRAMMAR, POOLS)


def write(count: int, seed: int) -> list[str]:
    """`count` stories, each with its title on a line of its own; the same for the same seed."""
    rng = random.Random(seed)
    return [grammar().write(rng) for _ in range(count)]


def read(story: str) -> list[Choice]:
    """The choices that made a story, in order; ValueError for a text that is no story."""
    found = grammar().read(story.strip("\n"))
    if len(found) != 1:
        raise ValueError(f"the grammar cannot have written this: {story[:60]!r}")
    return found[0]


def log_prob(story: str) -> float:
    """ln p of a story, in nats: exact. ValueError for a text that is no story."""
    return sum(math.log(choice.probability) for choice in read(story))


def entropy() -> float:
    """The mean of -ln p over all stories, in nats: exact. The floor of every loss on them."""
    return grammar().entropy()


def corpus() -> str:
    """What data/stories.txt holds: the stories with a blank line between them."""
    return "\n\n".join(write(COUNT, SEED)) + "\n"


def card(text: str) -> str:
    """The data card of `corpus()`, every number in it computed from the text and the grammar."""
    stories = text.strip("\n").split("\n\n")
    nats = [-log_prob(story) for story in stories]
    error = statistics.stdev(nats) / math.sqrt(len(nats))
    sizes = [len(story.encode()) for story in stories]
    held_out = len(stories) // HELD_OUT
    words = re.findall(r"[\w'-]+", text)
    different = len({word.lower() for word in words})
    floor = entropy()
    mean = statistics.mean(nats)
    validation = statistics.mean(nats[-held_out:])
    per_byte = floor / statistics.mean(sizes)
    return f"""# Data card: stories.txt

**What.** {len(stories):,} short stories in plain English, written by the probabilistic grammar in
`smol/stories.py`. People and things are named once and met again later, so that what comes next
often depends on a word far back; effects follow from causes a few sentences earlier.

**Made by** `python -m smol.stories` (seed {SEED}), the same bytes on every machine.
sha256 `{hashlib.sha256(text.encode()).hexdigest()}`.

| | |
|---|---|
| size | {len(text.encode()):,} bytes, ASCII |
| stories | {len(stories):,}, a blank line between them, all different |
| bytes per story | {statistics.mean(sizes):.1f} on average, {min(sizes)} to {max(sizes)} |
| words | {len(words):,}, of them {different:,} different |
| split | {len(stories) - held_out:,} for training, the last {held_out} held out |
| entropy, exact | {floor:.3f} nats per story |
| the same, estimated here | {mean:.3f} ± {error:.3f} nats per story (mean, standard error) |
| the held-out stories' own -ln p | {validation:.3f} nats per story |
| a byte | {per_byte:.4f} nats, {per_byte / math.log(2):.4f} bits (exact entropy / mean bytes) |

**The floor.** Each story's probability is exact, since its choices can be read back from it. No
model can have an expected loss below the entropy; on the held-out stories a model that knew the
grammar perfectly would have their own -ln p, above.

**Limits.** A grammar is not a language: eleven plots, {different:,} words, and far less surprise
a byte than in what people write. A model that has learned it knows nothing else.

**Licence.** MIT, as the rest of this repository; every sentence in it is original.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes data/stories.txt and data/stories.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare the files")
    args = parser.parse_args()
    grammar().prove()
    text = corpus()
    files = {DATA / "stories.txt": text, DATA / "stories.md": card(text)}
    for file, content in files.items():
        if args.check:
            if not file.is_file() or file.read_bytes() != content.encode():
                print(f"{file} is not what this command writes: run `python -m smol.stories`")
                return 1
        else:
            file.write_bytes(content.encode())
    print(f"{COUNT:,} stories, {len(text):,} bytes, {entropy():.3f} nats per story")
    return 0


if __name__ == "__main__":
    sys.exit(main())
