"""The key to notebook 3's planted bugs, seed by seed: `python -m smol.lesson`."""

from smol.lesson.checks.parity import answer_key

if __name__ == "__main__":
    print("seed  place                     bug                        story")
    for seed in range(32):
        print(answer_key(seed))
